//! Processes that are hard luck, or worse, for whoever looks into them: that become another program meanwhile, whose memory
//! comes and goes, whose files say what is not so. Nothing is told of them that was not proved, what came of them is counted,
//! and whoever is traced beside them loses nothing and does not wait.

use std::process::Command;

use anyhow::{Context, Result, ensure};
use spandrel_tests::apps;
use spandrel_tests::checks::machine;
use spandrel_tests::otlp::Kind;
use spandrel_tests::process::{Endpoint, Scratch, Service};
use spandrel_tests::rows::{self, Run};

/// Programs of 100,000 functions: four that are themselves again and again, and one that calls itself nginx and gives up, and
/// gets back, what its connections point at. They call one another under `/unlucky/`.
fn crowd(scratch: &Scratch) -> Result<Vec<Service>> {
    let program = apps::unlucky()?;
    let nginx = scratch.join("nginx");
    std::fs::copy(&program, &nginx).context("copying the program")?;
    let (answers, serves) = (Endpoint::free()?, Endpoint::free()?);
    let mut services = Vec::new();
    let mut command = Command::new(&program);
    command.arg("answer").arg(format!("port={}", answers.port()?));
    services.push(Service::listening("answer", &mut command, scratch, &answers)?);
    let mut command = Command::new(&nginx);
    command.args(["serve".into(), format!("port={}", serves.port()?), format!("next={}", answers.port()?)]);
    services.push(Service::listening("serve", &mut command, scratch, &serves)?);
    for _ in 0..4 {
        let mut command = Command::new(&program);
        command.args(["exec".into(), format!("next={}", serves.port()?)]);
        services.push(Service::start("exec", &mut command, scratch)?);
    }
    Ok(services)
}

#[test]
fn who_is_traced_beside_programs_that_change_while_they_are_looked_at_loses_nothing() -> Result<()> {
    let _machine = machine();
    let scratch = Scratch::new("unlucky")?;
    let mut crowd = crowd(&scratch)?;
    for name in ["go", "py-streams"] {
        let report = rows::run(rows::named(name)?, &Run { requests: 300, ..Run::default() })?;
        // A goroutine that is kept from waiting until its answer is there is never seen to wait, which the crowd makes likelier.
        let total = &report.total;
        ensure!((total.missing, total.wrong) == (0, 0), "{name}: {total}");
        ensure!(total.complete_percent() >= 98.0, "{name}: {total}");
        let outcome = report.outcome.context("no agent")?;
        let count = |texts: &[&str]| outcome.counters.sum(texts);
        let gone = count(&["runtime_processes_total", "gone"]);
        let early = count(&["runtime_early_looks_total"]);
        ensure!(gone > 0 && early > 0, "{name}: {gone} were gone, {early} looks too early: {crowd:?}");
        let calls: Vec<_> = outcome
            .spans
            .iter()
            .filter(|span| span.kind == Kind::Client && span.path().starts_with("/unlucky/"))
            .collect();
        ensure!(calls.iter().any(|call| call.path().starts_with("/unlucky/call/")), "no call: {crowd:?}");
        let linked = calls.iter().filter(|call| call.parent.is_some()).count();
        ensure!(linked == 0, "{linked} of {} calls have a parent that nothing proves", calls.len());
        println!("{name}: {gone} gone, {early} early, {} unlucky calls; {}", calls.len(), report.total);
    }
    for service in &mut crowd {
        ensure!(service.exited()?.is_none(), "it ended: {service:?}: {}", service.output());
    }
    Ok(())
}

#[test]
fn a_go_program_whose_file_is_corrupt_has_calls_without_parents_and_is_counted() -> Result<()> {
    let _machine = machine();
    for name in ["go-corrupt-info", "go-corrupt-table"] {
        let report = rows::run(rows::named(name)?, &Run { requests: 100, ..Run::default() })?;
        ensure!(report.misses.is_empty(), "{name}: {}: {}", report.misses.join("; "), report.total);
        let outcome = report.outcome.context("no agent")?;
        let calls = outcome.spans.iter().filter(|s| s.kind == Kind::Client && s.path().starts_with("/2/"));
        let linked = calls.filter(|call| call.parent.is_some()).count();
        ensure!(linked == 0, "{name}: {linked} calls have a parent");
        let known = outcome.counters.sum(&["runtime_processes_total", "refused"])
            + outcome.counters.sum(&["runtime_processes_total", "proved"]);
        ensure!(known > 0, "{name}: what came of it is not counted");
    }
    Ok(())
}
