//! With the reader of one runtime switched off (`--no-runtime`), exactly the calls of that runtime's service become orphans,
//! and nothing becomes wrong.

use anyhow::{Result, ensure};
use spandrel_tests::checks::machine;
use spandrel_tests::otlp::Kind;
use spandrel_tests::rows::{self, Claim, Row, Run};

/// Runs a row with a runtime switched off whose service answers this edge.
fn without(runtime: &str, name: &str, service: u8) -> Result<()> {
    let row = rows::named(name)?;
    // Of the others a call may be an orphan that is answered before anybody waits.
    let claim = Claim::CompleteBelow { service, percent: 98.0 };
    // What the row waits for may be what is switched off.
    let row = Row { claim, attached: "", ..*row };
    let environment = vec![("SPANDREL_NO_RUNTIME".to_owned(), runtime.to_owned())];
    let report = rows::run(&row, &Run { requests: 150, environment, ..Run::default() })?;
    ensure!(
        report.misses.is_empty(),
        "{name} without {runtime}: {}: {}",
        report.misses.join("; "),
        report.total
    );
    let spans = report.outcome.map(|outcome| outcome.spans).unwrap_or_default();
    let of_service = format!("/{}/", service + 1);
    let calls: Vec<_> = spans
        .iter()
        .filter(|span| span.kind == Kind::Client && span.path().starts_with(&of_service))
        .collect();
    let linked = calls.iter().filter(|span| span.parent.is_some()).count();
    ensure!(
        !calls.is_empty() && linked == 0,
        "{name} without {runtime}: {linked} of {} calls have a parent",
        calls.len()
    );
    Ok(())
}

#[test]
fn each_runtime_that_is_switched_off_leaves_its_own_calls_without_parents() -> Result<()> {
    let _machine = machine();
    for (runtime, service) in [("nginx", 1), ("go", 2), ("python", 3), ("tokio", 4)] {
        without(runtime, "chain", service)?;
    }
    without("node", "node-callback", 1)?;
    // A handler that waits for its pool: of a pool that answers itself, its habits tell too.
    without("jvm", "jvm-get", 1)
}
