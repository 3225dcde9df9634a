//! An agent that starts beside many processes of mixed runtimes, all of which have requests under way: how long until the first
//! span, until every runtime's processes are proved, and whether requests wait meanwhile.
//!
//! The requests come at an even rate, to one service after the other, so that no figure is one of saturation. It must never
//! leave out a request, or count a service as proved that the agent has not named.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use nix::unistd::Pid;

use crate::agent::{Agent, Options};
use crate::apps::{self, Proxy, Wiring, tokio};
use crate::driver::Connection;
use crate::load::Nginx;
use crate::process::{Endpoint, Scratch, Service};

/// What was measured.
#[derive(Clone, Debug, Default)]
pub struct Start {
    /// Services by runtime.
    pub services: Vec<(&'static str, usize)>,
    /// Until the agent said `ready`.
    pub ready: Duration,
    /// Until the first span was in the file.
    pub first_span: Duration,
    /// By runtime, until the last of its services was proved; none if it never was.
    pub proved: Vec<(&'static str, Option<Duration>)>,
    /// Services of a runtime that were not proved.
    pub unproved: usize,
    /// From SIGINT to the agent's end.
    pub end: Duration,
    /// Latencies before the agent, until all was proved, and after.
    pub latencies: [Latency; 3],
}

/// Milliseconds.
#[derive(Clone, Copy, Debug, Default)]
pub struct Latency {
    /// How many requests.
    pub requests: usize,
    /// The median.
    pub p50: f64,
    /// The 99th of a hundred.
    pub p99: f64,
    /// The longest.
    pub longest: f64,
}

/// Of a hundred services so many run on each. The agent's name of a runtime.
const MIX: [(&str, usize); 6] =
    [("go", 30), ("python", 25), ("tokio", 20), ("nginx", 12), ("node", 10), ("jvm", 3)];
/// Requests a second, over all services.
const RATE: u64 = 300;
/// What each request waits for in the service.
const DELAY_MS: u64 = 10;
/// Threads that send.
const SENDERS: usize = 16;
/// Before the agent starts, and after all is proved.
const QUIET: Duration = Duration::from_secs(5);
/// How long is waited for a proof of all.
const PATIENCE: Duration = Duration::from_secs(40);

/// Starts so many services, and an agent once they have requests under way.
pub fn start(count: usize, scratch: &Scratch) -> Result<Start> {
    let behind = Nginx::start(scratch)?;
    let stage = Stage::new(&behind.at, scratch)?;
    let mut kinds: Vec<&'static str> = Vec::new();
    for (kind, share) in MIX {
        kinds.extend(std::iter::repeat_n(kind, (count * share).div_ceil(100)));
    }
    kinds.truncate(count);
    let services = begin(&kinds, &stage, scratch)?;
    let mut result = Start::default();
    for (kind, _) in MIX {
        result.services.push((kind, kinds.iter().filter(|its| **its == kind).count()));
    }
    let addresses: Vec<SocketAddr> = services.iter().map(|(_, at, _)| at.address()).collect::<Result<_>>()?;
    let stop = AtomicBool::new(false);
    let shares = addresses.chunks(addresses.len().div_ceil(SENDERS).max(1));
    let answered = Mutex::new(Vec::new());
    let times = std::thread::scope(|scope| {
        let senders: Vec<_> = shares.map(|share| scope.spawn(|| send(share, &stop, &answered))).collect();
        let times = agent(&services, scratch, &mut result);
        stop.store(true, Ordering::Relaxed);
        for sender in senders {
            sender.join().unwrap_or_else(|_| bail!("a thread that sends panicked"))?;
        }
        times
    });
    let [began, over] = times?;
    let answered = answered.into_inner().unwrap_or_default();
    let within = |from: Option<Instant>, to: Option<Instant>| {
        let is_in = |at: Instant| from.is_none_or(|from| at >= from) && to.is_none_or(|to| at < to);
        // A request counts where it was answered, so that one that waited over a border is in the worse part.
        let taken = answered.iter().filter(|(began, took)| is_in(*began + *took));
        Latency::of(taken.map(|(_, took)| took.as_secs_f64() * 1e3).collect())
    };
    result.latencies = [within(None, Some(began)), within(Some(began), Some(over)), within(Some(over), None)];
    Ok(result)
}

/// Starts the agent, waits for what is measured, and says when it began and when all was proved.
fn agent(
    services: &[(&'static str, Endpoint, Service)],
    scratch: &Scratch,
    result: &mut Start,
) -> Result<[Instant; 2]> {
    std::thread::sleep(QUIET);
    let began = Instant::now();
    let (stop, first) = (AtomicBool::new(false), Mutex::new(None));
    let agent = std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) && began.elapsed() < PATIENCE {
                if wrote(scratch.path()) {
                    *first.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = Some(began.elapsed());
                    return;
                }
                std::thread::sleep(Duration::from_millis(2));
            }
        });
        let agent = Agent::start(&Options::new(scratch).variable("SPANDREL_LOG", "info"));
        if agent.is_err() {
            stop.store(true, Ordering::Relaxed);
        }
        agent
    })?;
    result.ready = agent.start_up;
    let first = first.into_inner().unwrap_or_default();
    result.first_span = first.with_context(|| format!("no span within {PATIENCE:?}"))?;
    let mut proved = HashSet::new();
    let mut last: Vec<(&'static str, Option<Duration>)> = MIX.iter().map(|(kind, _)| (*kind, None)).collect();
    let mut seen = 0;
    while proved.len() < services.len() && began.elapsed() < PATIENCE {
        let lines = agent.stderr();
        for line in lines.get(seen..).unwrap_or_default() {
            let Some((kind, pid)) = named(line) else { continue };
            // Workers are in the group of who started them.
            let group = nix::unistd::getpgid(Some(Pid::from_raw(pid))).map_or(pid, Pid::as_raw);
            let is_its = |service: &Service| service.pid() as i32 == group;
            if let Some(index) = services.iter().position(|(its, _, service)| *its == kind && is_its(service))
                && proved.insert(index)
                && let Some((_, at)) = last.iter_mut().find(|(its, _)| *its == kind)
            {
                *at = Some(began.elapsed());
            }
        }
        seen = lines.len();
        std::thread::sleep(Duration::from_millis(5));
    }
    result.unproved = services.len() - proved.len();
    result.proved = last;
    let over = Instant::now();
    std::thread::sleep(QUIET);
    result.end = agent.stop()?.took;
    Ok([began, over])
}

/// `go of process 7: Go 1.26.8`, behind the log's own words.
fn named(line: &str) -> Option<(&'static str, i32)> {
    let (before, rest) = line.split_once(" of process ")?;
    let (kind, _) = MIX.iter().find(|(kind, _)| before.ends_with(kind))?;
    let (pid, said) = rest.split_once(':')?;
    // A process without traffic yet, and one that is refused, is not proved.
    let not = ["no task waits", "not read"].iter().any(|text| said.contains(text));
    (!not).then_some(())?;
    Some((kind, pid.parse().ok()?))
}

/// Whether an agent has written a span.
fn wrote(folder: &Path) -> bool {
    let Ok(entries) = std::fs::read_dir(folder) else { return false };
    entries.flatten().any(|entry| {
        entry.file_name().to_string_lossy().starts_with("spans-")
            && entry.metadata().is_ok_and(|meta| meta.len() > 0)
    })
}

/// Sends to one service after the other. Each sender has its own, so that no connection stands idle for as long as servers allow.
fn send(to: &[SocketAddr], stop: &AtomicBool, answered: &Mutex<Vec<(Instant, Duration)>>) -> Result<()> {
    let mut open: Vec<Option<Connection>> = to.iter().map(|_| None).collect();
    let mut next = Instant::now();
    let mut turn = (0..to.len()).cycle();
    while !stop.load(Ordering::Relaxed) {
        std::thread::sleep(next.saturating_duration_since(Instant::now()));
        next += Duration::from_secs(SENDERS as u64) / RATE as u32;
        let Some(index) = turn.next() else { return Ok(()) };
        let (Some(slot), Some(&address)) = (open.get_mut(index), to.get(index)) else { continue };
        let began = Instant::now();
        let mut connection = match slot.take() {
            Some(connection) => connection,
            None => Connection::open(address)?,
        };
        let (_, closes) = connection.exchange(PATH, "").with_context(|| format!("asking {address}"))?;
        if let Ok(mut all) = answered.lock() {
            all.push((began, began.elapsed()));
        }
        *slot = (!closes).then_some(connection);
    }
    Ok(())
}

const PATH: &str = "/ok/many";

/// What all services are told.
struct Stage {
    wiring: Wiring,
    map: PathBuf,
}

impl Stage {
    fn new(next: &Endpoint, scratch: &Scratch) -> Result<Self> {
        let routes = scratch.join("routes.tsv");
        std::fs::write(&routes, format!("{PATH}\t{DELAY_MS}\t64\t/ok/behind\n")).context("writing routes")?;
        let map = scratch.join("map.txt");
        std::fs::write(&map, format!("{PATH} /ok/behind;\n")).context("writing the map")?;
        let wiring = Wiring { routes: Some(routes), next: Some(next.clone()), ..Wiring::default() };
        Ok(Self { wiring, map })
    }

    fn start(&self, kind: &str, scratch: &Scratch) -> Result<(Endpoint, Service)> {
        let (at, wiring) = (Endpoint::free()?, &self.wiring);
        let service = match kind {
            "go" => apps::go_style("inline", "plain", &at, wiring, scratch)?,
            "python" => apps::python_style(
                "async_service.py",
                &["server=streams", "style=inline"],
                &at,
                wiring,
                scratch,
            )?,
            "tokio" => {
                let build = tokio::Build::Stripped;
                tokio::start(
                    tokio::Service { style: "inline", build, one_thread: false },
                    &at,
                    wiring,
                    scratch,
                )?
            }
            "nginx" => {
                let next = wiring.next.clone().context("nobody behind")?;
                let proxy = Proxy { map: self.map.clone(), next };
                apps::nginx::start("keepalive", &at, &proxy, &self.map, wiring, scratch)?
            }
            "node" => apps::node("callback", &at, wiring, scratch)?,
            _ => {
                let small = ["-Xmx32m", "-XX:TieredStopAtLevel=1"].map(String::from).to_vec();
                let runtimes = apps::Runtimes { java_options: small, ..apps::Runtimes::default() };
                apps::jvm("thread", &at, &Wiring { runtimes, ..wiring.clone() }, scratch)?
            }
        };
        Ok((at, service))
    }
}

/// Starts them, some at a time, mixed.
fn begin(
    kinds: &[&'static str],
    stage: &Stage,
    scratch: &Scratch,
) -> Result<Vec<(&'static str, Endpoint, Service)>> {
    let (turn, all) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    // One after the other by kind would prove them in that order too.
    let order: Vec<_> = (0..7).flat_map(|first| kinds.iter().copied().skip(first).step_by(7)).collect();
    std::thread::scope(|scope| {
        let starters: Vec<_> = (0..4)
            .map(|_| {
                scope.spawn(|| -> Result<()> {
                    while let Some(&kind) = order.get(turn.fetch_add(1, Ordering::Relaxed)) {
                        let (at, service) = stage.start(kind, scratch)?;
                        if let Ok(mut all) = all.lock() {
                            all.push((kind, at, service));
                        }
                    }
                    Ok(())
                })
            })
            .collect();
        starters.into_iter().try_for_each(|starter| {
            starter.join().unwrap_or_else(|_| bail!("a thread that starts services panicked"))
        })
    })?;
    let all = all.into_inner().unwrap_or_default();
    ensure!(all.len() == kinds.len(), "{} of {} services started", all.len(), kinds.len());
    Ok(all)
}

impl Latency {
    fn of(mut milliseconds: Vec<f64>) -> Self {
        milliseconds.sort_by(f64::total_cmp);
        let at = |part: usize| {
            let index = milliseconds.len().saturating_sub(1) * part / 100;
            milliseconds.get(index).copied().unwrap_or(f64::NAN)
        };
        Self { requests: milliseconds.len(), p50: at(50), p99: at(99), longest: at(100) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_proved_when_the_agent_names_it() {
        assert_eq!(named("spandrel: info: go of process 7: Go 1.26.8"), Some(("go", 7)));
        assert_eq!(named("spandrel: info: tokio of process 7: no task waits for a descriptor yet"), None);
        assert_eq!(named("spandrel: info: python of process 8: not read: its file"), None);
        assert_eq!(named("ready"), None);
    }

    #[test]
    fn a_latency_has_a_median_and_a_longest() {
        let latency = Latency::of((1..=100).map(f64::from).collect());
        assert_eq!((latency.requests, latency.p50, latency.p99, latency.longest), (100, 50.0, 99.0, 100.0));
    }
}
