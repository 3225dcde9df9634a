//! Pools of threads with a queue, written in C: one thread reads, others work and answer.
//!
//! The worker that calls holds no request that it read, and nothing in memory says whose its job is: orphans, never wrong.

use super::Claim::OrphansNeverWrong;
use super::Program::{Pool, Threaded};
use super::{Row, row};

const ORPHANS: super::Claim = OrphansNeverWrong { service: 1 };

/// All rows.
pub(super) const ROWS: &[Row] = &[
    Row { timer: 1, ..row("pool", &[Pool(&[]), Threaded], ORPHANS) },
    row("pool-audit", &[Pool(&["audit=1"]), Threaded], ORPHANS),
    row("pool-own-reads", &[Pool(&["own=1"]), Threaded], ORPHANS),
    row("pool-large", &[Pool(&["workers=64", "audit=1"]), Threaded], ORPHANS),
    Row { timer: 1, ..row("pool-shared", &[Pool(&["shared=1"]), Threaded], ORPHANS) },
];
