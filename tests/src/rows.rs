//! The truth table: one topology of real programs and one claim a row.
//!
//! A row starts its services from the last to the first, then the agent, sends its requests in three batches (1, 3 and
//! 50 at once), ends the agent and judges what came out. What a row claims stands in [`ROWS`] and nowhere else. No row
//! may claim less than *wrong 0*.

use std::collections::HashMap;
use std::ops::RangeInclusive;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::agent::{Agent, Options, Outcome};
use crate::apps::{self, Proxy, Runtimes, Wiring};
use crate::driver::{self, Load};
use crate::gaps::{self, GapIndex, Place};
use crate::judge::{self, Provable, Verdict};
use crate::load::Usage;
use crate::otlp::{Kind, SeenSpan};
use crate::plan::{Body, Plan, Shape};
use crate::process::{Endpoint, PATIENCE, Scratch, Service, until};

mod go;
mod jvm;
pub mod mix;
mod node;
mod pool;
mod proxied;
mod python;

/// What a row must show. In every row nothing is wrong, nothing is missing while every loss counter is 0, and the links
/// between the two ends of a connection are all there.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Claim {
    /// So many of a hundred requests are complete, with every parent.
    Complete(f64),
    /// The calls of the service on this edge may be orphans; all else as with 100 % complete requests.
    OrphansNeverWrong {
        /// The edge that this service answers.
        service: u8,
    },
    /// Nothing is asked for but that nothing is wrong, and that the two ends of each connection are linked.
    NeverWrong,
    /// As `OrphansNeverWrong`, and of a hundred requests so many are complete but for that.
    CompleteBelow {
        /// The edge that this service answers.
        service: u8,
        /// Of a hundred requests.
        percent: f64,
    },
    /// The requests carry the flag *not sampled*: no span, and a counter that equals the number of spans left out.
    NoSpans,
    /// As `Complete(99.99)`, and start and end of the spans are within 1 ms at the 99th percentile of the clock
    /// readings of the service.
    Timed,
}

/// Which programs stand behind the driver, from the first to the last.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[allow(missing_docs)]
pub enum Program {
    Threaded,
    ThreadedOverUnix,
    Asyncio,
    Poll,
    Gunicorn,
    GunicornOverUnix,
    ApachePrefork,
    ApacheWorker,
    Nginx,
    Node,
    NodeStyle(&'static str),
    Jvm(&'static str),
    /// The service in this framework of Node's.
    NodeFramework(&'static str),
    /// The service in Spring Boot, in one of its ways.
    Spring(&'static str),
    Micronaut,
    Go,
    /// The Go service: its style, and how it is built.
    GoStyle(&'static str, &'static str),
    Clock,
    /// A Python service of `tests/apps` with arguments of its own, in the virtual environment.
    Python {
        script: &'static str,
        arguments: &'static [&'static str],
    },
    /// Gunicorn with this class of worker.
    GunicornOf(&'static str),
    Puma,
    PhpFpm,
    /// nginx in one of its ways of forwarding.
    NginxAs(&'static str),
    Tokio(apps::tokio::Service),
    /// The C service with a queue and workers.
    Pool(&'static [&'static str]),
}

impl Program {
    /// How many calls it makes for a request: a service up to two, a proxy as many as it is set to.
    fn calls(self) -> RangeInclusive<u32> {
        match self {
            Self::NginxAs("auth" | "mirror" | "subrequest") => 2..=2,
            Self::ApachePrefork | Self::ApacheWorker | Self::Nginx | Self::NginxAs(_) => 1..=1,
            _ => 1..=2,
        }
    }
}

/// One row.
#[derive(Clone, Copy, Debug)]
pub struct Row {
    /// Its name.
    pub name: &'static str,
    /// The programs, first hop first.
    pub programs: &'static [Program],
    /// What it must show.
    pub claim: Claim,
    /// The flags of the trace context that each request carries, if any.
    pub carried: Option<u8>,
    /// The edge whose service copies the context by hand; 0 for none.
    pub copies: u8,
    /// The edge whose service has a timer that calls out; 0 for none.
    pub timer: u8,
    /// Environment of the agent.
    pub environment: &'static [(&'static str, &'static str)],
    /// Requests before the batches, of which only *wrong* counts: what needs probes attaches them when it sees orphans.
    pub warm_up: usize,
    /// What the agent logs once the probes that the row needs are attached; empty: nothing is waited for. Of two texts with a
    /// `|` between, the first is waited for after half of the warm-up, since what follows needs traffic.
    pub attached: &'static str,
    /// The driver's requests have bodies.
    pub posts: bool,
    /// The first of two calls of a service may be given up.
    pub gives_up: bool,
    /// Each service is in a mount and a pid namespace of its own.
    pub apart: bool,
    /// Only `spandrel-truth` runs it, not `cargo xtask test`: its like is in another row.
    pub long: bool,
}

const fn row(name: &'static str, programs: &'static [Program], claim: Claim) -> Row {
    Row {
        name,
        programs,
        claim,
        carried: None,
        copies: 0,
        timer: 0,
        environment: &[],
        warm_up: 0,
        attached: "",
        posts: false,
        gives_up: false,
        apart: false,
        long: false,
    }
}

/// A row that `cargo xtask test` leaves out.
const fn long(row: Row) -> Row {
    Row { long: true, ..row }
}

use Claim::{Complete, CompleteBelow, NoSpans, OrphansNeverWrong, Timed};
use Program::{
    ApachePrefork, ApacheWorker, Asyncio, Clock, Go, GoStyle, Gunicorn, GunicornOf, GunicornOverUnix, Jvm,
    Micronaut, Nginx, NginxAs, Node, NodeFramework, NodeStyle, PhpFpm, Poll, Pool, Puma, Python, Spring,
    Threaded, ThreadedOverUnix, Tokio,
};

/// All rows: these, and those of each runtime.
pub fn all() -> impl Iterator<Item = &'static Row> {
    let services = [ROWS, python::ROWS, proxied::ROWS, go::ROWS, node::ROWS, jvm::ROWS, pool::ROWS];
    services.into_iter().flatten()
}

/// Issue 3's figure for what threads or forwarded headers can prove.
const PROVED: Claim = Complete(99.99);

/// Rows of what threads, headers and sockets prove, and of what nothing does.
const ROWS: &[Row] = &[
    row("threaded", &[Threaded, Threaded], PROVED),
    Row { timer: 1, ..row("threaded-timer", &[Threaded, Threaded], PROVED) },
    row(
        "threaded-tls",
        &[
            Python { script: "threaded.py", arguments: &["call=tls"] },
            Python { script: "threaded.py", arguments: &["serve=tls", "call=tls"] },
            Python { script: "threaded.py", arguments: &["serve=tls"] },
        ],
        PROVED,
    ),
    row("gunicorn", &[Gunicorn, Threaded], PROVED),
    // With more requests at once than threads Puma's reactor reads them, and then the thread that calls is not the one that read.
    row("puma", &[Puma, Threaded], OrphansNeverWrong { service: 1 }),
    long(Row {
        warm_up: 200,
        environment: INFERRED,
        ..row("puma-inferred", &[Puma, Threaded], OrphansNeverWrong { service: 1 })
    }),
    // nginx asks by FastCGI; a process takes one request at a time.
    Row { warm_up: 200, ..row("php-fpm", &[NginxAs("fastcgi"), PhpFpm, Threaded], Complete(99.5)) },
    long(Row {
        warm_up: 200,
        ..row("php-fpm-keep", &[NginxAs("fastcgi_keep"), PhpFpm, Threaded], Complete(99.5))
    }),
    row("apache-prefork", &[ApachePrefork, Threaded], PROVED),
    row("apache-worker", &[ApacheWorker, Threaded], PROVED),
    row("nginx-unix", &[Nginx, ThreadedOverUnix, Threaded], CompleteBelow { service: 1, percent: 99.99 }),
    row(
        "nginx-unix-gunicorn",
        &[Nginx, GunicornOverUnix, Threaded],
        CompleteBelow { service: 1, percent: 99.99 },
    ),
    Row { carried: Some(1), ..row("nginx-traceparent", &[Nginx, Threaded, Threaded], PROVED) },
    Row { carried: Some(1), ..row("nginx-traceparent-unix", &[Nginx, ThreadedOverUnix, Threaded], PROVED) },
    Row { carried: Some(1), copies: 1, ..row("copied-asyncio", &[Asyncio, Threaded], PROVED) },
    Row { carried: Some(1), copies: 1, ..row("copied-node", &[Node, Threaded], PROVED) },
    Row { carried: Some(1), copies: 1, ..row("copied-threaded", &[Threaded, Threaded], PROVED) },
    Row { carried: Some(0), ..row("unsampled", &[Nginx, Threaded], NoSpans) },
    Row {
        carried: Some(0),
        environment: &[("OTEL_TRACES_SAMPLER", "always_on")],
        ..row("unsampled-always-on", &[Nginx, Threaded], PROVED)
    },
    row("asyncio", &[Asyncio, Threaded], OrphansNeverWrong { service: 1 }),
    Row { timer: 1, ..row("asyncio-timer", &[Asyncio, Threaded], OrphansNeverWrong { service: 1 }) },
    row("poll", &[Poll, Threaded], OrphansNeverWrong { service: 1 }),
    Row { timer: 1, ..row("poll-timer", &[Poll, Threaded], OrphansNeverWrong { service: 1 }) },
    Row { warm_up: 200, ..row("nginx", &[Nginx, Threaded], Complete(99.5)) },
    row("clock", &[Clock, Clock], Timed),
];

/// No bound on the hits of probes: a row that is judged by what its probes see.
const UNBOUNDED: &[(&str, &str)] = &[(PROBE_HITS, "0")];
const PROBE_HITS: &str = "SPANDREL_PROBE_HITS";
/// And links that only a habit shows.
const UNBOUNDED_INFERRED: &[(&str, &str)] = &[(PROBE_HITS, "0"), ("SPANDREL_WEAKEST_LINK", "inferred")];
const INFERRED: &[(&str, &str)] = &[("SPANDREL_WEAKEST_LINK", "inferred")];

/// The row with this name.
pub fn named(name: &str) -> Result<&'static Row> {
    all().find(|row| row.name == name).with_context(|| {
        let names: Vec<_> = all().map(|row| row.name).collect();
        format!("no row is called {name:?}; there are {}", names.join(", "))
    })
}

/// How to run a row.
#[derive(Clone, Debug)]
pub struct Run {
    /// Requests of the driver, over all three batches.
    pub requests: usize,
    /// Of plan and pauses.
    pub seed: u64,
    /// Without an agent: only whether programs and driver work.
    pub dry: bool,
    /// The agent's backend.
    pub backend: String,
    /// More arguments for the agent.
    pub arguments: Vec<String>,
    /// More environment for the agent.
    pub environment: Vec<(String, String)>,
    /// The batches: how many requests at once.
    pub concurrency: Vec<usize>,
    /// Note the first sequence number of each connection, without which no gap can be placed.
    pub sniff: bool,
    /// Delay of the services in milliseconds.
    pub delay_ms: RangeInclusive<u32>,
    /// What services run on.
    pub runtimes: Runtimes,
    /// When the agent starts.
    pub attach: Attach,
    /// So many minutes of a load that is the same all the time, instead of requests as fast as they go; the agent's memory
    /// must stay flat.
    pub minutes: u64,
    /// With the default bound on the hits of probes, also where a row lifts it: orphans then, and never wrong.
    pub default_budget: bool,
}

/// When the agent starts.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, clap::ValueEnum)]
pub enum Attach {
    /// Once the services listen, before there is a request.
    #[default]
    Listening,
    /// Before the services.
    First,
    /// While requests are under way on connections that are open.
    Loaded,
}

impl Default for Run {
    fn default() -> Self {
        Self {
            requests: 1_000,
            seed: 1,
            dry: false,
            backend: "auto".into(),
            arguments: Vec::new(),
            environment: Vec::new(),
            concurrency: vec![1, 3, 50],
            sniff: true,
            delay_ms: 0..=6,
            runtimes: Runtimes::default(),
            attach: Attach::default(),
            minutes: 0,
            default_budget: false,
        }
    }
}

/// What came of a row.
#[derive(Debug, Default)]
pub struct Report {
    /// By batch: how many at once, and the verdict.
    pub batches: Vec<(usize, Verdict)>,
    /// All batches.
    pub total: Verdict,
    /// The calls that belong to no request.
    pub background: Verdict,
    /// The requests before the batches.
    pub warm_up: Verdict,
    /// By how much the spans' times differ from the service's, 99th percentile.
    pub off_p99: Option<Duration>,
    /// What was planned.
    pub plan: Plan,
    /// The agent's end; none in a dry run.
    pub outcome: Option<Outcome>,
    /// What the row misses of its claim.
    pub misses: Vec<String>,
    /// From the first request to the last response.
    pub elapsed: Duration,
    /// The agent's memory in bytes, the median of each minute.
    pub memory: Vec<f64>,
}

/// Runs a row.
pub fn run(row: &Row, how: &Run) -> Result<Report> {
    let scratch = Scratch::new("truth")?;
    let warm_up = match how.attach {
        Attach::Loaded => row.warm_up.max(LOADED),
        Attach::Listening | Attach::First => row.warm_up,
    };
    let start_agent = || {
        let mut options = Options::new(&scratch).backend(&how.backend).arguments(how.arguments.clone());
        let lifted = |key: &str| how.default_budget && key == PROBE_HITS;
        for (key, value) in row.environment.iter().filter(|(key, _)| !lifted(key)) {
            options = options.variable(key, value);
        }
        options.environment.extend(how.environment.iter().cloned());
        Agent::start(&options)
    };
    let early = (how.attach == Attach::First && !how.dry).then(start_agent).transpose()?;
    let stage = Stage::set(row, how, warm_up, &scratch)
        .with_context(|| format!("setting the stage of row {}", row.name))?;
    let first = scratch.join("first-bytes.txt");
    let sniffer = if how.sniff {
        let mut command = std::process::Command::new(apps::python()?);
        let sniffer = Service::start("sniff", command.arg(apps::source("sniff.py")).arg(&first), &scratch)?;
        until("the sniffer listens", PATIENCE, || Ok(sniffer.output().contains("sniffing")))?;
        Some(sniffer)
    } else {
        None
    };
    let mut report = Report::default();
    let mut places = HashMap::new();
    let mut batches = Vec::new();
    let (warm, roots) = stage.plan.roots.split_at(warm_up.min(stage.plan.roots.len()));
    let pause = Duration::from_millis(u64::from(*how.delay_ms.end())) / 2;
    let (before, after) = warm.split_at(if how.attach == Attach::Loaded { warm.len() / 2 } else { 0 });
    let agent = match early {
        _ if how.dry => None,
        Some(agent) => Some(agent),
        None if before.is_empty() => Some(start_agent()?),
        None => {
            let load = Load { to: stage.front.address()?, concurrency: 30, pause: PACE, seed: how.seed };
            let (sent, agent) = std::thread::scope(|scope| {
                let driver = scope.spawn(|| driver::drive(&load, &stage.plan, before));
                let agent = start_agent();
                (driver.join().unwrap_or_else(|_| bail!("the driver panicked")), agent)
            });
            places.extend(sent.context("loading the row before the agent")?.places);
            Some(agent?)
        }
    };
    if !after.is_empty() {
        // First what few connections show, then so many that each worker of a service has seen traffic.
        let (few, many) = after.split_at(after.len() / 2);
        for (concurrency, roots) in [(3, few), (30, many)] {
            let load = Load { to: stage.front.address()?, concurrency, pause, seed: how.seed };
            let sent = driver::drive(&load, &stage.plan, roots)
                .with_context(|| format!("warming row {} up", row.name))?;
            places.extend(sent.places);
            let text = match row.attached.split_once('|') {
                Some((first, _)) if concurrency == 3 => first,
                Some((_, last)) => last,
                None if concurrency == 3 => "",
                None => row.attached,
            };
            if let (Some(agent), false) = (&agent, text.is_empty()) {
                // A row whose probes are never attached is judged as it is.
                let _ = until("its probes are attached", Duration::from_secs(10), || {
                    Ok(agent.stderr().iter().any(|line| line.contains(text)))
                });
            }
        }
    }
    for (number, &concurrency) in how.concurrency.iter().enumerate() {
        let to = stage.front.address()?;
        let pause = if how.minutes > 0 { pace(concurrency) } else { pause };
        let load = Load { to, concurrency, pause, seed: how.seed + number as u64 };
        let roots = share(roots, number, how.concurrency.len());
        let driven = watched(agent.as_ref(), how.minutes, &mut report.memory, || {
            driver::drive(&load, &stage.plan, roots)
        });
        let sent = driven.with_context(|| format!("driving row {} with {concurrency} at once", row.name))?;
        report.elapsed += sent.elapsed;
        places.extend(sent.places);
        batches.push((concurrency, roots));
    }
    let Some(agent) = agent else { return Ok(report) };
    // A span is bound at the latest when its request ends; the timer's last call is under way.
    let none = row.claim == NoSpans;
    agent.settle(|spans| !none && judge::all_there(&stage.plan, spans))?;
    let outcome = agent.stop()?;
    places.extend(logged(&scratch)?);
    let first = if sniffer.is_some() { gaps::first_bytes(&first)? } else { HashMap::new() };
    let gaps = GapIndex::new(&outcome.gaps, &first);
    for (concurrency, roots) in batches {
        let verdict = judge::judge(&stage.plan, roots, row.provable(), &outcome.spans, &places, &gaps);
        report.total.add(&verdict);
        report.batches.push((concurrency, verdict));
    }
    report.background = judge::judge_background(&stage.plan, &outcome.spans);
    report.warm_up = judge::judge(&stage.plan, warm, row.provable(), &outcome.spans, &places, &gaps);
    if row.claim == Timed {
        report.off_p99 = Some(timing(&scratch, &outcome.spans)?);
    }
    report.misses = row.misses(&report, &outcome);
    report.outcome = Some(outcome);
    report.plan = stage.plan;
    Ok(report)
}

/// Requests that are under way while the agent starts, and as many after.
const LOADED: usize = 400;
/// Their pause, so that they last as long as the agent takes to start.
const PACE: Duration = Duration::from_millis(400);
/// Requests a second of a load that goes on for minutes.
pub const A_SECOND: usize = 25;

/// The pause at which so many connections send [`A_SECOND`]: half of it on average.
fn pace(concurrency: usize) -> Duration {
    Duration::from_secs(2 * concurrency as u64) / A_SECOND as u32
}

/// Does something; if it takes minutes, the agent's memory is noted meanwhile, each second, as the median of each minute.
fn watched<T: Send>(
    agent: Option<&Agent>,
    minutes: u64,
    memory: &mut Vec<f64>,
    work: impl FnOnce() -> T + Send,
) -> T {
    let Some(agent) = agent.filter(|_| minutes > 0) else { return work() };
    std::thread::scope(|scope| {
        let working = scope.spawn(work);
        let mut minute = Vec::new();
        while !working.is_finished() {
            std::thread::sleep(Duration::from_secs(1));
            minute.extend(Usage::of(agent.pid()).map(|usage| usage.anonymous + usage.maps));
            if minute.len() == 60 {
                minute.sort_by(f64::total_cmp);
                memory.push(minute[30]);
                minute.clear();
            }
        }
        working.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

fn share(roots: &[usize], number: usize, of: usize) -> &[usize] {
    let each = roots.len().div_ceil(of.max(1));
    roots.chunks(each.max(1)).nth(number).unwrap_or_default()
}

impl Row {
    /// Whether a service of this row runs on Node, on a JVM.
    pub fn runs_on(&self) -> (bool, bool) {
        let any = |is: fn(&Program) -> bool| self.programs.iter().any(is);
        (
            any(|program| matches!(program, Node | NodeStyle(_) | NodeFramework(_))),
            any(|program| matches!(program, Jvm(_) | Spring(_) | Micronaut)),
        )
    }

    fn provable(&self) -> Provable {
        match self.claim {
            OrphansNeverWrong { service } | CompleteBelow { service, .. } => Provable::but(service),
            Claim::NeverWrong => Provable::NONE,
            _ => Provable::ALL,
        }
    }

    fn misses(&self, report: &Report, outcome: &Outcome) -> Vec<String> {
        let mut misses = Vec::new();
        let total = &report.total;
        let mut miss = |fails: bool, text: String| {
            if fails {
                misses.push(text);
            }
        };
        let wrong = total.wrong + report.background.wrong + report.warm_up.wrong;
        miss(wrong > 0, format!("wrong {wrong}"));
        miss(total.acausal > 0, format!("acausal {}", total.acausal));
        if self.claim == NoSpans {
            let left_out = outcome.counters.sum(&["sampled"]);
            miss(
                total.missing != total.spans,
                format!("{} spans of unsampled requests", total.spans - total.missing),
            );
            miss(
                left_out != total.spans as u64,
                format!("the counters for unsampled spans say {left_out}, {} were left out", total.spans),
            );
            return misses;
        }
        miss(total.unexplained > 0, format!("{} missing without a reported gap", total.unexplained));
        miss(
            total.unplaced > 0,
            format!("{} missing of which nobody noted where they were; losses were reported", total.unplaced),
        );
        let percent = match self.claim {
            Complete(percent) | CompleteBelow { percent, .. } => percent,
            Timed => 99.99,
            OrphansNeverWrong { .. } | Claim::NeverWrong | NoSpans => 100.0,
        };
        let is = total.complete_percent();
        miss(is < percent, format!("{is:.3} % complete, not {percent}"));
        let grown = grown(&report.memory);
        miss(grown > FLAT, format!("memory grew by {:.1} %", grown * 100.0));
        if let Some(off) = report.off_p99 {
            miss(off > Duration::from_millis(1), format!("{OFF} by {off:?} at p99"));
        }
        misses
    }
}

/// How much memory may grow after the second minute.
const FLAT: f64 = 0.05;

/// By how much a later minute has more than the second.
pub fn grown(memory: &[f64]) -> f64 {
    let Some((second, later)) = memory.get(1..).and_then(<[f64]>::split_first) else { return 0.0 };
    later.iter().map(|minute| minute / second - 1.0).fold(0.0, f64::max)
}

/// How a miss begins that is about time alone.
pub const OFF: &str = "times are off";

/// The services of a row, up and listening, and the plan they know.
struct Stage {
    plan: Plan,
    front: Endpoint,
    _services: Vec<Service>,
}

impl Stage {
    fn set(row: &Row, how: &Run, warm_up: usize, scratch: &Scratch) -> Result<Self> {
        let hops = row.programs.len();
        let fan_out = row.programs[..hops - 1].iter().map(|program| program.calls()).collect();
        let shape = Shape {
            fan_out,
            delay_ms: how.delay_ms.clone(),
            carried_flags: row.carried,
            background: if row.timer > 0 { how.requests } else { 0 },
            gives_up: row.gives_up,
            body: if row.posts { Body::InPieces } else { Body::None },
        };
        let plan = Plan::new(&shape, warm_up + how.requests, how.seed);
        let routes = scratch.join("routes.tsv");
        plan.write_routes(&routes)?;
        let background = scratch.join("background.txt");
        plan.write_background(&background)?;
        let mut services = Vec::new();
        let mut next: Option<Endpoint> = None;
        for (index, &program) in row.programs.iter().enumerate().rev() {
            let edge = u8::try_from(index + 1).context("a row has few hops")?;
            let at = match program {
                ThreadedOverUnix | GunicornOverUnix => Endpoint::Unix(scratch.join("service.sock")),
                _ => Endpoint::free()?,
            };
            let wiring = Wiring {
                routes: Some(routes.clone()),
                next: next.clone(),
                log: (!matches!(
                    program,
                    Node | NodeStyle(_)
                        | NodeFramework(_)
                        | Jvm(_)
                        | Spring(_)
                        | Micronaut
                        | Go
                        | Asyncio
                        | Poll
                        | Pool(_)
                        | Python { .. }
                        | PhpFpm
                        | Tokio(_)
                ))
                .then(|| scratch.join(&format!("calls-{edge}.log"))),
                copy: row.copies == edge,
                background: (row.timer == edge).then(|| background.clone()),
                runtimes: how.runtimes.clone(),
                apart: row.apart,
            };
            services.push(start(program, edge, &at, &wiring, &plan, scratch)?);
            next = Some(at);
        }
        let front = next.context("a row has at least one program")?;
        Ok(Self { plan, front, _services: services })
    }
}

fn start(
    program: Program,
    edge: u8,
    at: &Endpoint,
    wiring: &Wiring,
    plan: &Plan,
    scratch: &Scratch,
) -> Result<Service> {
    let map = |nth: usize, end: &str| {
        let map = scratch.join(&format!("map-{edge}-{nth}.txt"));
        plan.write_map(edge, nth, end, &map).map(|()| map)
    };
    let proxy = |end: &str| -> Result<Proxy> {
        let map = map(0, end)?;
        Ok(Proxy { map, next: wiring.next.clone().context("a proxy needs an upstream")? })
    };
    match program {
        Threaded | ThreadedOverUnix => apps::python_service("threaded.py", at, wiring, scratch),
        Asyncio => apps::python_service("asyncio_service.py", at, wiring, scratch),
        Poll => apps::python_service("poll_service.py", at, wiring, scratch),
        Gunicorn | GunicornOverUnix => apps::gunicorn(at, wiring, scratch),
        ApachePrefork => apps::apache("prefork", at, &proxy("")?, scratch),
        ApacheWorker => apps::apache("worker", at, &proxy("")?, scratch),
        Nginx => apps::nginx::start("keepalive", at, &proxy(";")?, &map(1, ";")?, wiring, scratch),
        Node => apps::node("await", at, wiring, scratch),
        NodeStyle(style) => apps::node(style, at, wiring, scratch),
        Jvm(style) => apps::jvm(style, at, wiring, scratch),
        NodeFramework(name) => apps::frameworks::node(name, at, wiring, scratch),
        Spring(way) => apps::frameworks::spring(way, at, wiring, scratch),
        Micronaut => apps::frameworks::micronaut(at, wiring, scratch),
        Go => apps::go(at, wiring, scratch),
        GoStyle(style, build) => apps::go_style(style, build, at, wiring, scratch),
        Clock => apps::clock(at, wiring, scratch),
        Python { script, arguments } => apps::python_style(script, arguments, at, wiring, scratch),
        Pool(arguments) => apps::pool(arguments, at, wiring, scratch),
        GunicornOf(class) => apps::gunicorn_of(class, at, wiring, scratch),
        Puma => apps::puma(at, wiring, scratch),
        PhpFpm => apps::fpm::start(at, wiring, scratch),
        // The second call is the one that goes on; the first is made on the way.
        NginxAs(mode @ ("auth" | "mirror" | "subrequest")) => {
            let proxy = Proxy { map: map(1, ";")?, ..proxy(";")? };
            apps::nginx::start(mode, at, &proxy, &map(0, ";")?, wiring, scratch)
        }
        NginxAs(mode) => apps::nginx::start(mode, at, &proxy(";")?, &map(1, ";")?, wiring, scratch),
        Tokio(service) => apps::tokio::start(service, at, wiring, scratch),
    }
}

/// What the services logged about where their calls were.
fn logged(scratch: &Scratch) -> Result<HashMap<String, Place>> {
    let mut places = HashMap::new();
    for text in logs(scratch.path(), "calls-")? {
        places.extend(text.lines().filter_map(Place::parse));
    }
    Ok(places)
}

fn logs(folder: &Path, prefix: &str) -> Result<Vec<String>> {
    let mut texts = Vec::new();
    for entry in std::fs::read_dir(folder).with_context(|| format!("listing {}", folder.display()))? {
        let path = entry?.path();
        if path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(prefix)) {
            texts
                .push(std::fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?);
        }
    }
    Ok(texts)
}

/// By how much spans and the service's own clock readings differ at the 99th percentile, start or end, whichever is worse.
fn timing(scratch: &Scratch, spans: &[SeenSpan]) -> Result<Duration> {
    let by_key: HashMap<_, _> = spans.iter().map(|span| ((span.path(), span.kind), span)).collect();
    let mut off = Vec::new();
    for text in logs(scratch.path(), "calls-")? {
        for line in text.lines() {
            let [role, path, first, last] = line.split(' ').collect::<Vec<_>>()[..] else { continue };
            let kind = if role == "server" { Kind::Server } else { Kind::Client };
            if let Some(span) = by_key.get(&(path, kind)) {
                off.push(span.start.abs_diff(first.parse()?).max(span.end.abs_diff(last.parse()?)));
            }
        }
    }
    if off.is_empty() {
        bail!("no span of the service that reads the clock");
    }
    off.sort_unstable();
    Ok(Duration::from_nanos(off[(off.len() - 1) * 99 / 100]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn every_row_has_a_name_of_its_own_and_edges_that_exist() {
        let mut names = HashSet::new();
        for row in all() {
            assert!(names.insert(row.name), "{} is there twice", row.name);
            let hops = row.programs.len() as u8;
            assert!(row.copies < hops && row.timer < hops, "{}: the last service calls nobody", row.name);
        }
    }

    #[test]
    fn memory_grows_by_the_worst_minute_behind_the_second() {
        assert_eq!(grown(&[1.0, 100.0, 90.0, 110.0, 100.0]), 110.0 / 100.0 - 1.0);
        assert_eq!(grown(&[1.0, 100.0, 90.0]), 0.0);
        assert_eq!(grown(&[1.0]), 0.0);
    }

    #[test]
    fn batches_share_all_requests() {
        let roots: Vec<usize> = (0..1000).collect();
        let parts: Vec<usize> = (0..3).flat_map(|n| share(&roots, n, 3).to_vec()).collect();
        assert_eq!(parts, roots);
    }
}
