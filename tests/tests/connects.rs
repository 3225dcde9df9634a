//! Connections that nobody accepts: an event of the request that asked, or counted; never of another.

use std::process::Command;

use anyhow::{Context, Result, ensure};
use spandrel_tests::agent::{Agent, Options, Outcome};
use spandrel_tests::apps;
use spandrel_tests::checks::{machine, one};
use spandrel_tests::otlp::{Kind, SeenSpan};
use spandrel_tests::process::{Endpoint, PATIENCE, Scratch, Service, needed, output, until};

const COUNT: usize = 300;

fn python(arguments: &[&str]) -> Result<Command> {
    let mut command = Command::new(apps::python()?);
    command.arg(apps::source("refused.py")).args(arguments).env("PYTHONDONTWRITEBYTECODE", "1");
    Ok(command)
}

/// The connections that failed, by a span's events.
fn failed(span: &SeenSpan) -> Vec<(&str, &str, &str)> {
    let connects = span.events.iter().filter(|event| event.name.starts_with("connect."));
    connects
        .map(|event| {
            assert!(event.attributes.contains_key("spandrel.link.method"), "{event:?}");
            assert!(span.start <= event.time && event.time <= span.end, "{event:?} is outside of {span:?}");
            let text = |key: &str| event.attributes.get(key).map_or("", String::as_str);
            (event.name.as_str(), text("error.type"), text("network.peer.address"))
        })
        .collect()
}

/// How many requests that asked have their event; an error if any has another's, or one that it did not ask for.
fn right(outcome: &Outcome) -> Result<usize> {
    let mut right = 0;
    for number in 0..COUNT {
        if number % 3 == 1 {
            let span = one(&outcome.spans, &format!("/none-{number}"), Kind::Server)?;
            ensure!(failed(span).is_empty(), "asked for nothing: {span:?}");
            continue;
        }
        let span = one(&outcome.spans, &format!("/{number}"), Kind::Server)?;
        let address = format!("127.1.{}.{}", number >> 8, number & 255);
        let events = failed(span);
        if !events.is_empty() {
            ensure!(events == [("connect.failed", "connection_refused", address.as_str())], "{span:?}");
            right += 1;
        }
    }
    let others = outcome.spans.iter().filter(|span| span.kind == Kind::Client);
    for span in others {
        ensure!(failed(span).is_empty(), "a client has an event: {span:?}");
    }
    Ok(right)
}

/// 300 requests at 50 connections, 200 of which ask in vain; what the spans say must be all that the counters say.
fn run(backend: &str, service: &mut Command, at: &Endpoint, scratch: &Scratch) -> Result<(usize, Outcome)> {
    let _service = Service::listening("service", service, scratch, at)?;
    let agent = Agent::start(&Options::new(scratch).backend(backend))?;
    output(&mut python(&["client", &at.port()?.to_string(), &COUNT.to_string(), "50"])?)?;
    agent.settle_for(2 * COUNT, "/")?;
    let outcome = agent.stop()?;
    let right = right(&outcome)?;
    let counted = |cause: &str| outcome.counters.sum(&["spandrel_stitch_failed_connects_total", cause]);
    let (told, alone, late) = (counted("told"), counted("alone"), counted("late"));
    ensure!(told == right as u64, "{told} told, {right} seen");
    ensure!(
        told + alone + late >= 200,
        "{told} told, {alone} of nobody, {late} late: {:?}",
        outcome.counters
    );
    Ok((right, outcome))
}

fn threads(backend: &str) -> Result<()> {
    let _machine = machine();
    let scratch = Scratch::new("refused")?;
    let at = Endpoint::free()?;
    let (right, outcome) = run(backend, &mut python(&["threads", &at.port()?.to_string()])?, &at, &scratch)?;
    ensure!(right == 200, "{right} of 200 have their event: {:?}", outcome.counters);
    Ok(())
}

#[test]
fn a_thread_that_asks_in_vain_has_it_in_its_request() -> Result<()> {
    threads("auto")
}

#[test]
fn and_so_it_has_with_the_exits_of_system_calls() -> Result<()> {
    threads("syscall")
}

#[test]
fn a_task_of_an_event_loop_has_its_own_or_none() -> Result<()> {
    let _machine = machine();
    let scratch = Scratch::new("refused-asyncio")?;
    let at = Endpoint::free()?;
    let (right, outcome) = run("auto", &mut python(&["asyncio", &at.port()?.to_string()])?, &at, &scratch)?;
    ensure!(right * 100 >= 200 * 95, "{right} of 200 have their event: {:?}", outcome.counters);
    Ok(())
}

#[test]
fn a_callback_of_node_has_its_own_or_none() -> Result<()> {
    let _machine = machine();
    let scratch = Scratch::new("refused-node")?;
    let at = Endpoint::free()?;
    let mut service = Command::new(needed("node")?);
    service.arg(apps::source("refused.js")).arg(at.port()?.to_string());
    run("auto", &mut service, &at, &scratch).map(drop)
}

#[test]
fn who_gave_up_is_told_the_program_or_the_kernel() -> Result<()> {
    let _machine = machine();
    let scratch = Scratch::new("refused-full")?;
    let at = Endpoint::free()?;
    let _service =
        Service::listening("service", &mut python(&["threads", &at.port()?.to_string()])?, &scratch, &at)?;
    let full = Service::start("full", &mut python(&["full"])?, &scratch)?;
    until("a port where nobody accepts", PATIENCE, || Ok(full.output().ends_with('\n')))?;
    let port = full.output().trim().to_owned();
    let agent = Agent::start(&Options::new(&scratch))?;
    for path in ["full", "gone"] {
        let url = format!("http://{}/{path}-{port}", at.target());
        output(Command::new(needed("curl")?).args(["-s", "--max-time", "30", &url]))?;
    }
    agent.settle_for(4, "/")?;
    let outcome = agent.stop()?;
    let server = |path: &str| {
        one(&outcome.spans, &format!("/{path}-{port}"), Kind::Server).context("the service's span")
    };
    let events = failed(server("full")?);
    ensure!(events == [("connect.cancelled", "", "127.0.0.1")], "{events:?}");
    let events = failed(server("gone")?);
    ensure!(events == [("connect.failed", "timeout", "127.0.0.1")], "{events:?}");
    Ok(())
}
