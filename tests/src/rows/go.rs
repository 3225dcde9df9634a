//! Go: calls by the handler, by goroutines below it, by a pool, and after the answer.

use super::Claim::{Complete, OrphansNeverWrong};
use super::Program::{Go, GoStyle, Threaded};
use super::{Claim, Row, row};

/// What the goroutine that waits for the answer proves, by itself or by the context that it waits with. One that the kernel or
/// the collector keeps from waiting until the answer is there is never seen to wait: of 9,000 calls beside compilers on two
/// cores 156 had nobody waiting when they were sent, and one or two still nobody when they were answered. So a thousand
/// requests may well have one such orphan; two are allowed for.
const WAITED: Claim = Complete(99.8);
/// Nothing that is read without a probe says whose these are.
const ORPHANS: Claim = OrphansNeverWrong { service: 1 };

/// The agent says so once it reads the process.
const fn read(row: Row) -> Row {
    Row { warm_up: 50, attached: "go of process", environment: &[("SPANDREL_LOG", "info")], ..row }
}

/// All rows.
pub(super) const ROWS: &[Row] = &[
    read(row("go", &[Go, Threaded], WAITED)),
    Row { timer: 1, ..read(row("go-timer", &[Go, Threaded], WAITED)) },
    Row { timer: 1, ..read(row("go-fan", &[GoStyle("fan", "plain"), Threaded], ORPHANS)) },
    read(row("go-late", &[GoStyle("late", "plain"), Threaded], ORPHANS)),
    Row { long: true, ..read(row("go-nested", &[GoStyle("nested", "plain"), Threaded], ORPHANS)) },
    // With the request's context, as programs pass it, whoever calls can be told whose the call is.
    Row { timer: 1, ..read(row("go-context-fan", &[GoStyle("fan+context", "plain"), Threaded], WAITED)) },
    Row { timer: 1, ..read(row("go-context-pool", &[GoStyle("pool+context", "plain"), Threaded], WAITED)) },
    Row {
        long: true,
        ..read(row("go-context-nested", &[GoStyle("nested+context", "pie"), Threaded], WAITED))
    },
    // Workers that a request started and that work for all; goroutines that work until a queue is empty.
    read(row("go-lazy", &[GoStyle("lazy", "plain"), Threaded], ORPHANS)),
    read(row("go-drain", &[GoStyle("drain", "plain"), Threaded], ORPHANS)),
    Row { timer: 1, ..read(row("go-pool", &[GoStyle("pool", "plain"), Threaded], ORPHANS)) },
    Row { long: true, ..read(row("go-stripped", &[GoStyle("fan", "stripped"), Threaded], ORPHANS)) },
    Row { long: true, ..read(row("go-pie", &[GoStyle("fan", "pie"), Threaded], ORPHANS)) },
];
