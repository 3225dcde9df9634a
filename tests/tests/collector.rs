//! A real OpenTelemetry Collector at the other end: the same spans over gRPC, over HTTP and in the file; a Collector
//! that is away for a while; and no trace of the agent's own traffic.

use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use spandrel_tests::agent::{Agent, END_WITHIN, Options};
use spandrel_tests::apps::{self, Wiring};
use spandrel_tests::checks::{joined, machine, scaled};
use spandrel_tests::collector::{self, Collector};
use spandrel_tests::otlp::SeenSpan;
use spandrel_tests::process::{Endpoint, PATIENCE, Scratch, needed, output, until};

fn curl(at: &Endpoint, path: &str) -> Result<()> {
    let url = format!("http://{}{path}", at.target());
    output(Command::new(needed("curl")?).args(["--silent", "--fail", "--output", "/dev/null", &url]))
        .map(drop)
}

/// Spans of these paths, in one order.
fn of(spans: &[SeenSpan], prefix: &str) -> Vec<SeenSpan> {
    let mut some: Vec<_> = spans.iter().filter(|span| span.path().starts_with(prefix)).cloned().collect();
    some.sort();
    some
}

/// The variables that send to this Collector. Batches leave often, so that a test need not wait.
fn sending(collector: &Collector, grpc: bool, compression: &str) -> Vec<(String, String)> {
    let (protocol, endpoint) =
        if grpc { ("grpc", &collector.grpc) } else { ("http/protobuf", &collector.http) };
    [
        ("OTEL_EXPORTER_OTLP_PROTOCOL", protocol.to_owned()),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", format!("http://{}", endpoint.target())),
        ("OTEL_EXPORTER_OTLP_COMPRESSION", compression.to_owned()),
        ("OTEL_BSP_SCHEDULE_DELAY", "200".to_owned()),
    ]
    .map(|(key, value)| (key.to_owned(), value))
    .into()
}

fn same_as_in_the_file(grpc: bool, compression: &str) -> Result<()> {
    collector::binary()?;
    let _machine = machine();
    let scratch = Scratch::new("collector")?;
    let at = Endpoint::free()?;
    let _server = apps::python_service("threaded.py", &at, &Wiring::default(), &scratch)?;
    let collector = Collector::start(&scratch)?;
    let mut options = Options::new(&scratch).arguments(["--export", "otlp"]);
    options.environment = sending(&collector, grpc, compression);
    let agent = Agent::start(&options)?;
    let count = 50;
    for number in 0..count {
        curl(&at, &format!("/same-{number}?secret=yes"))?;
    }
    agent.settle_for(2 * count, "/same-")?;
    let outcome = agent.stop()?;
    until("all spans at the Collector", PATIENCE, || {
        Ok(of(&collector.spans()?, "/same-").len() >= 2 * count)
    })?;
    let (here, there) = (of(&outcome.spans, "/same-"), of(&collector.spans()?, "/same-"));
    ensure!(here.len() == 2 * count, "{} spans in the file", here.len());
    for (here, there) in here.iter().zip(&there) {
        ensure!(here == there, "in the file:\n{here:#?}\nat the Collector:\n{there:#?}");
    }
    ensure!(here.len() == there.len(), "{} in the file, {} at the Collector", here.len(), there.len());
    Ok(())
}

#[test]
fn the_collector_gets_over_grpc_what_the_file_gets() -> Result<()> {
    same_as_in_the_file(true, "none")
}

#[test]
fn the_collector_gets_over_grpc_with_gzip_what_the_file_gets() -> Result<()> {
    same_as_in_the_file(true, "gzip")
}

#[test]
fn the_collector_gets_over_http_what_the_file_gets() -> Result<()> {
    same_as_in_the_file(false, "none")
}

#[test]
fn the_collector_gets_over_http_with_gzip_what_the_file_gets() -> Result<()> {
    same_as_in_the_file(false, "gzip")
}

/// A program that waits for its tracer's backend waits for as long as that is away: 15 s here. One that does not may still
/// be slow on a busy machine.
const BLOCKED: Duration = Duration::from_secs(10);

#[test]
fn a_collector_that_is_away_blocks_nothing_and_every_lost_span_is_counted() -> Result<()> {
    collector::binary()?;
    let _machine = machine();
    let scratch = Scratch::new("away")?;
    let at = Endpoint::free()?;
    let _server = apps::python_service("threaded.py", &at, &Wiring::default(), &scratch)?;
    let collector = Collector::start(&scratch)?;
    let (grpc, http) = (collector.grpc.clone(), collector.http.clone());
    let mut options = Options::new(&scratch).arguments(["--export", "otlp"]);
    options.environment = sending(&collector, false, "gzip");
    let agent = Agent::start(&options)?;
    curl(&at, "/away-before")?;
    until("a first span", PATIENCE, || Ok(!of(&collector.spans()?, "/away-").is_empty()))?;
    let before = of(&collector.spans()?, "/away-");
    drop(collector);
    let away = Duration::from_secs(scaled(15, 60) as u64);
    let began = Instant::now();
    let mut number = 0;
    let mut slowest = Duration::ZERO;
    while began.elapsed() < away {
        let each = Instant::now();
        curl(&at, &format!("/away-{number}"))?;
        slowest = slowest.max(each.elapsed());
        number += 1;
        std::thread::sleep(Duration::from_millis(20));
    }
    ensure!(slowest < BLOCKED, "a traced program waited {slowest:?} while the Collector was away");
    let collector = Collector::start_at(&scratch, grpc, http)?;
    for after in 0..20 {
        curl(&at, &format!("/away-after-{after}"))?;
        std::thread::sleep(Duration::from_millis(50));
    }
    until("spans of after the break", PATIENCE * 2, || {
        Ok(of(&collector.spans()?, "/away-after-19").len() >= 2)
    })?;
    let outcome = agent.stop()?;
    ensure!(outcome.took < END_WITHIN, "shutdown took {:?}", outcome.took);
    // What the agent had been told is taken is in the Collector's file; that one may still be on its way there.
    let mut last = 0;
    until("the Collector's file to rest", PATIENCE, || {
        let before = std::mem::replace(&mut last, of(&collector.spans()?, "/away-").len());
        std::thread::sleep(Duration::from_millis(500));
        Ok(before == last)
    })?;
    let mut there = of(&collector.spans()?, "/away-");
    there.extend(before);
    there.sort();
    there.dedup();
    let here = of(&outcome.spans, "/away-");
    for number in 0..number {
        joined(&outcome.spans, &format!("/away-{number}"))?;
    }
    let lost = here.len() - there.len();
    let counted: u64 = outcome
        .counters
        .matching(&["spandrel_export_", "span"])
        .filter(|(name, _)| name.contains("drop") || name.contains("lost") || name.contains("failed"))
        .map(|(_, value)| value)
        .sum();
    println!("{number} requests in {away:?}; {lost} spans lost, {counted} counted");
    // Other programs of the machine are traced too, so there may be more.
    ensure!(counted >= lost as u64, "{lost} spans are lost, the counters say {counted}");
    ensure!(lost == 0 || counted > 0);
    Ok(())
}

#[test]
fn agent_and_collector_alone_make_no_span_of_their_own_traffic() -> Result<()> {
    collector::binary()?;
    let _machine = machine();
    let scratch = Scratch::new("alone")?;
    let at = Endpoint::free()?;
    let _server = apps::python_service("threaded.py", &at, &Wiring::default(), &scratch)?;
    for grpc in [true, false] {
        let collector = Collector::start(&scratch)?;
        let mut options = Options::new(&scratch).arguments(["--export", "otlp"]);
        options.environment = sending(&collector, grpc, "gzip");
        options = options.variable("OTEL_METRIC_EXPORT_INTERVAL", "500");
        let agent = Agent::start(&options)?;
        curl(&at, "/alone")?;
        std::thread::sleep(Duration::from_secs(scaled(10, 300) as u64));
        let (agent_pid, collector_pid) = (agent.pid().to_string(), collector.service.pid().to_string());
        let outcome = agent.stop()?;
        joined(&outcome.spans, "/alone")?;
        let ports = [collector.grpc.port()?.to_string(), collector.http.port()?.to_string()];
        for span in outcome.spans.iter().chain(&collector.spans()?) {
            let pid = span.resource.get("process.pid").map_or("", String::as_str);
            ensure!(pid != agent_pid && pid != collector_pid, "a span of telemetry itself: {span:?}");
            ensure!(
                !ports.iter().any(|port| span.attribute("server.port") == port),
                "a span of telemetry: {span:?}"
            );
        }
    }
    Ok(())
}
