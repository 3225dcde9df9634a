//! Node: one thread for all requests. What a handler calls before it returns is proved by its turn of the event loop; what
//! timers, callbacks of calls and promises go on to call descends from a request, which is a habit that has to be allowed.
//!
//! Rows are judged once the probes that they need are attached, without a bound on hits. (What was under way when the
//! probes came is not proved.) The row `node` says what is shown by default.
//!
//! No row may claim links by descent without allowing them.

use super::Claim::{Complete, OrphansNeverWrong};
use super::Program::{Node, NodeFramework, NodeStyle, Threaded};
use super::{Claim, Program, Row, UNBOUNDED, UNBOUNDED_INFERRED, long, row};

/// All rows.
pub(super) const ROWS: &[Row] = &[
    row("node", &[Node, Threaded], ORPHANS),
    callbacks("node-callback", &[NodeStyle("callback"), Threaded]),
    long(callbacks("node-fresh", &[NodeStyle("fresh"), Threaded])),
    long(callbacks("node-phases", &[NodeStyle("phases"), Threaded])),
    long(callbacks("node-files", &[NodeStyle("files"), Threaded])),
    // A timer that one request sets calls for whoever came meanwhile: with the links that are made by default.
    Row {
        warm_up: WARM_UP,
        attached: TURNS,
        environment: UNBOUNDED,
        ..row("node-batch", &[NodeStyle("batch"), Threaded], ORPHANS)
    },
    promises("node-await", &[Node, Threaded]),
    Row { timer: 1, ..promises("node-timer", &[Node, Threaded]) },
    promises("node-fetch", &[NodeStyle("fetch"), Threaded]),
    long(promises("node-all", &[NodeStyle("all"), Threaded])),
    long(promises("node-then", &[NodeStyle("then"), Threaded])),
    long(promises("node-limited", &[NodeStyle("limited"), Threaded])),
    // Threads of their own ask, and processes of one program share a port; the second with each of them replaced all the time.
    long(promises("node-workers", &[NodeStyle("workers"), Threaded])),
    Row { warm_up: 300, ..long(promises("node-cluster", &[NodeStyle("cluster"), Threaded])) },
    Row { warm_up: 300, ..long(promises("node-restarts", &[NodeStyle("restarts"), Threaded])) },
    // Collections, functions that are optimised and not any more, threads that come and go: for minutes, with `--minutes`.
    long(promises("node-churn", &[NodeStyle("churn"), Threaded])),
    // Frameworks, each with the client that its users mostly take.
    long(promises("node-express", &[NodeFramework("express"), Threaded])),
    long(promises("node-fastify", &[NodeFramework("fastify"), Threaded])),
    long(promises("node-nest", &[NodeFramework("nest"), Threaded])),
];

const ORPHANS: Claim = OrphansNeverWrong { service: 1 };
const TURNS: &str = "node event loop is watched";
const PROMISES: &str = "node event loop is watched|node promises is watched";
/// Requests until everything is attached.
const WARM_UP: usize = 100;

/// A row without promises.
const fn callbacks(name: &'static str, programs: &'static [Program]) -> Row {
    let row = row(name, programs, Complete(95.0));
    Row { warm_up: WARM_UP, attached: TURNS, environment: UNBOUNDED_INFERRED, ..row }
}

/// A row with promises.
const fn promises(name: &'static str, programs: &'static [Program]) -> Row {
    let row = row(name, programs, ORPHANS);
    Row { warm_up: WARM_UP, attached: PROMISES, environment: UNBOUNDED_INFERRED, ..row }
}
