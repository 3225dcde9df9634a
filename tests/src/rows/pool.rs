//! Pools of threads with a queue, written in C: one thread reads, others work and answer.
//!
//! The worker that calls holds no request that it read, and nothing in memory says whose its job is: orphans, never wrong. Where
//! habits are believed its calls are for the request that it answers next, once the process has shown that often.

use super::Claim::OrphansNeverWrong;
use super::Program::{Pool, Threaded};
use super::{INFERRED, Row, long, row};

const ORPHANS: super::Claim = OrphansNeverWrong { service: 1 };

/// Few requests at once in the warm-up, so that its workers are seen to be idle.
const fn inferred(name: &'static str, programs: &'static [super::Program], claim: super::Claim) -> Row {
    Row { warm_up: 400, environment: INFERRED, ..row(name, programs, claim) }
}

/// All rows.
pub(super) const ROWS: &[Row] = &[
    Row { timer: 1, ..row("pool", &[Pool(&[]), Threaded], ORPHANS) },
    row("pool-audit", &[Pool(&["audit=1"]), Threaded], ORPHANS),
    row("pool-own-reads", &[Pool(&["own=1"]), Threaded], ORPHANS),
    row("pool-large", &[Pool(&["workers=64", "audit=1"]), Threaded], ORPHANS),
    Row { timer: 1, ..row("pool-shared", &[Pool(&["shared=1"]), Threaded], ORPHANS) },
    Row { timer: 1, ..inferred("pool-inferred", &[Pool(&[]), Threaded], super::PROVED) },
    inferred("pool-audit-inferred", &[Pool(&["audit=1"]), Threaded], ORPHANS),
    long(inferred("pool-own-reads-inferred", &[Pool(&["own=1"]), Threaded], ORPHANS)),
    long(inferred("pool-large-inferred", &[Pool(&["workers=64"]), Threaded], super::PROVED)),
    Row { timer: 1, ..inferred("pool-shared-inferred", &[Pool(&["shared=1"]), Threaded], ORPHANS) },
];
