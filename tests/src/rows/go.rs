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

/// The request made the goroutine that calls, and waits for what that one holds. The walk that tells by number what a request
/// made is there once an orphan has shown that it is needed.
const fn fan(row: Row) -> Row {
    Row { warm_up: 100, attached: "go of process|more is read", ..read(row) }
}

/// As `fan`, with the weakest links allowed.
const fn inferred(row: Row) -> Row {
    Row { environment: &[("SPANDREL_LOG", "info"), ("SPANDREL_WEAKEST_LINK", "inferred")], ..fan(row) }
}

/// All rows.
pub(super) const ROWS: &[Row] = &[
    read(row("go", &[Go, Threaded], WAITED)),
    Row { timer: 1, ..read(row("go-timer", &[Go, Threaded], WAITED)) },
    Row { timer: 1, ..fan(row("go-fan", &[GoStyle("fan", "plain"), Threaded], WAITED)) },
    // Between two results the handler is awake, and whoever is looked at then is nobody's.
    fan(row("go-collect", &[GoStyle("collect", "plain"), Threaded], ORPHANS)),
    read(row("go-late", &[GoStyle("late", "plain"), Threaded], ORPHANS)),
    // With habits believed: who waits for the answer of a job, and who made a goroutine that nobody waits for.
    Row { timer: 1, ..inferred(row("go-pool-inferred", &[GoStyle("pool", "plain"), Threaded], WAITED)) },
    inferred(row("go-lazy-inferred", &[GoStyle("lazy", "plain"), Threaded], WAITED)),
    Row { long: true, ..inferred(row("go-drain-inferred", &[GoStyle("drain", "plain"), Threaded], WAITED)) },
    Row { long: true, ..inferred(row("go-late-inferred", &[GoStyle("late", "plain"), Threaded], WAITED)) },
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
    // Requests that wait for what goroutines of others hold as well.
    read(row("go-flush", &[GoStyle("flush", "plain"), Threaded], ORPHANS)),
    read(row("go-tokens", &[GoStyle("tokens", "plain"), Threaded], ORPHANS)),
    Row { timer: 1, ..inferred(row("go-tokens-inferred", &[GoStyle("tokens", "plain"), Threaded], ORPHANS)) },
    Row { timer: 1, ..read(row("go-pool", &[GoStyle("pool", "plain"), Threaded], ORPHANS)) },
    Row { long: true, ..fan(row("go-stripped", &[GoStyle("fan", "stripped"), Threaded], WAITED)) },
    // Programs that lie about themselves: nothing is proved by what they say.
    row("go-lying-version", &[GoStyle("fan", "version"), Threaded], ORPHANS),
    row("go-lying-names", &[GoStyle("inline", "names"), Threaded], ORPHANS),
    Row { long: true, ..row("go-corrupt-info", &[GoStyle("inline", "info"), Threaded], ORPHANS) },
    Row { long: true, ..row("go-corrupt-table", &[GoStyle("inline", "table"), Threaded], ORPHANS) },
    fan(row("go-pie", &[GoStyle("fan", "pie"), Threaded], WAITED)),
    Row { long: true, ..fan(row("go-external", &[GoStyle("fan", "external"), Threaded], WAITED)) },
    Row { long: true, ..fan(row("go-pie-external", &[GoStyle("fan", "pie-external"), Threaded], WAITED)) },
];
