//! The books: what is not there was counted, to the byte, also when everything is lost that can be.

use anyhow::{Result, ensure};
use spandrel_tests::agent::{END_WITHIN, Outcome};
use spandrel_tests::checks::{machine, scaled};
use spandrel_tests::rows::{self, Run};

/// Counters of what was lost; what was left out on purpose is not among them.
fn losses(outcome: &Outcome) -> Vec<(String, u64)> {
    ["lost", "dropped", "overflow", "expired"]
        .iter()
        .flat_map(|word| {
            outcome
                .counters
                .matching(std::slice::from_ref(word))
                .map(|(n, v)| (n.to_owned(), v))
                .collect::<Vec<_>>()
        })
        .filter(|(_, value)| *value > 0)
        .collect()
}

#[test]
fn with_all_loss_counters_at_zero_nothing_is_missing() -> Result<()> {
    let _machine = machine();
    let row = rows::named("threaded")?;
    let report = rows::run(row, &Run { requests: scaled(2_000, 20_000), ..Run::default() })?;
    let outcome = report.outcome.as_ref().ok_or_else(|| anyhow::anyhow!("no agent ran"))?;
    ensure!(
        !outcome.counters.all().is_empty(),
        "the agent printed no counters: {}",
        outcome.stderr.join("\n")
    );
    let losses = losses(outcome);
    println!("losses {losses:?}; {}", report.total);
    if losses.iter().all(|(name, _)| !name.contains("bytes") && !name.contains("record")) {
        ensure!(report.total.missing == 0, "{}", report.total);
    }
    ensure!(report.total.unexplained == 0, "{}", report.total);
    Ok(())
}

#[test]
fn with_a_ring_of_64_kib_under_full_load_every_missing_request_meets_a_gap() -> Result<()> {
    let _machine = machine();
    for backend in ["socket", "syscall"] {
        let how = Run {
            requests: scaled(20_000, 200_000),
            concurrency: vec![50],
            delay_ms: 0..=0,
            backend: backend.into(),
            arguments: vec!["--ring-bytes".into(), "65536".into()],
            ..Run::default()
        };
        let report = rows::run(rows::named("clock")?, &how)?;
        let outcome = report.outcome.as_ref().ok_or_else(|| anyhow::anyhow!("no agent ran"))?;
        println!("{backend}: {}\nlosses {:?}", report.total, losses(outcome));
        ensure!(report.total.wrong == 0, "{backend}: {}", report.total);
        ensure!(report.total.unexplained == 0, "{backend}: {}", report.total);
        ensure!(
            report.total.missing == 0 || !losses(outcome).is_empty(),
            "{backend}: {} missing and no loss counted",
            report.total.missing
        );
    }
    Ok(())
}

/// Counters `…_in_…` of a station and all other counters of the same station and unit must be equal. The agent checks the
/// same at its end and says so; here it is read from the outside.
#[test]
fn the_agent_says_that_its_books_balance() -> Result<()> {
    let _machine = machine();
    for arguments in [vec![], vec!["--ring-bytes".to_owned(), "65536".to_owned()]] {
        let how = Run {
            requests: scaled(1_500, 10_000),
            concurrency: vec![50],
            delay_ms: 0..=0,
            arguments,
            ..Run::default()
        };
        let report = rows::run(rows::named("clock")?, &how)?;
        let outcome = report.outcome.as_ref().ok_or_else(|| anyhow::anyhow!("no agent ran"))?;
        let unbalanced: Vec<_> =
            outcome.stderr.iter().filter(|line| line.contains("do not balance")).collect();
        ensure!(unbalanced.is_empty(), "{unbalanced:?}");
        ensure!(outcome.took < END_WITHIN, "the end took {:?}", outcome.took);
    }
    Ok(())
}
