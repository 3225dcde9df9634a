//! Pools of threads with a queue, written in C: one thread reads, others work and answer.
//!
//! What is claimed is what the answers of workers prove (rule C), and with habits allowed what these add (rule D).

use super::Claim::OrphansNeverWrong;
use super::Program::{Pool, Threaded};
use super::{Row, row};

const ORPHANS: super::Claim = OrphansNeverWrong { service: 1 };

const INFERRED: &[(&str, &str)] = &[("SPANDREL_WEAKEST_LINK", "inferred")];

/// All rows.
pub(super) const ROWS: &[Row] = &[
    Row { timer: 1, ..row("pool", &[Pool(&[]), Threaded], ORPHANS) },
    row("pool-audit", &[Pool(&["audit=1"]), Threaded], ORPHANS),
    row("pool-own-reads", &[Pool(&["own=1"]), Threaded], ORPHANS),
    row("pool-large", &[Pool(&["workers=64", "audit=1"]), Threaded], ORPHANS),
    Row { timer: 1, ..row("pool-shared", &[Pool(&["shared=1"]), Threaded], ORPHANS) },
    Row { environment: INFERRED, ..row("pool-habits", &[Pool(&["workers=64"]), Threaded], ORPHANS) },
];
