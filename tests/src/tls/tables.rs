//! What TLS costs and where it begins: a long download, the first session of a new program, sessions that are older than the
//! agent, a busy server's processor, many programs with one library.
//!
//! Each function runs one row and hands out its figures; none of them judges.

use std::collections::HashSet;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use nix::time::{ClockId, clock_gettime};

use super::{Client, Server, Verdict};
use crate::agent::{Agent, Options, Outcome};
use crate::apps;
use crate::grpc::rows::cpu;
use crate::otlp::{Kind, SeenSpan};
use crate::process::{Endpoint, Scratch, Service, needed, output, until};

/// What a long download cost.
#[derive(Debug)]
pub struct Bulk {
    /// The one request.
    pub verdict: Verdict,
    /// CPU of the agent.
    pub cpu: Duration,
    /// From its start to its end.
    pub elapsed: Duration,
    /// The agent's end.
    pub outcome: Outcome,
}

/// One file of so many bytes from nginx.
pub fn bulk(client: Client, version: &str, bytes: u64, options: &[String]) -> Result<Bulk> {
    let scratch = Scratch::new("tls-bulk")?;
    let at = Endpoint::free()?;
    let folder = scratch.join("www/file");
    std::fs::create_dir_all(&folder).context("creating nginx's folder")?;
    let file = std::fs::File::create(folder.join("long-0")).context("creating the file")?;
    file.set_len(bytes).context("making the file long")?;
    let _server = Server::Nginx.start(version, &at, &scratch)?;
    let agent = Agent::start(&Options::new(&scratch).arguments(options.to_vec()))?;
    let (before, began) = (cpu(agent.pid())?, Instant::now());
    output(&mut client.command(&at, "/file/long", 1)?)?;
    let elapsed = began.elapsed();
    agent.settle_for(2, "/file/long")?;
    let cpu = cpu(agent.pid())?.saturating_sub(before);
    let outcome = agent.stop()?;
    let verdict = Verdict::of(&outcome.spans, "/file/long", 1, version);
    Ok(Bulk { verdict, cpu, elapsed, outcome })
}

/// Of how many new processes the first request of the first session was seen at their end, their server's not being traced.
#[derive(Debug)]
pub struct First {
    /// Processes.
    pub sent: usize,
    /// Client spans.
    pub seen: usize,
    /// Sessions that are counted as having no key.
    pub keyless: u64,
}

/// Starts a client for one request, so many times.
pub fn first(client: Client, times: usize, options: &[String]) -> Result<First> {
    let scratch = Scratch::new("tls-first")?;
    let at = Endpoint::free()?;
    let _server = Server::Nginx.start("1.3", &at, &scratch)?;
    let mut all = options.to_vec();
    all.extend(["--exclude-exe".to_owned(), "nginx".to_owned()]);
    let agent = Agent::start(&Options::new(&scratch).arguments(all))?;
    for number in 0..times {
        output(&mut client.command(&at, &format!("/first-{number}"), 1)?)?;
    }
    agent.settle_for(times, "/first-")?;
    let outcome = agent.stop()?;
    let known: HashSet<String> = (0..times).map(|number| format!("/first-{number}-0")).collect();
    let clients = outcome.spans.iter().filter(|span| span.kind == Kind::Client);
    let seen: HashSet<&str> = clients.map(|span| span.path()).filter(|path| known.contains(*path)).collect();
    let keyless = outcome.counters.sum(&["spandrel_tls_unused_sessions_total", "keyless"]);
    Ok(First { sent: times, seen: seen.len(), keyless })
}

/// What was seen at a server of sessions of all ages, when the agent came.
#[derive(Debug)]
pub struct Late {
    /// Requests that were made after the agent was ready.
    pub sent: usize,
    /// Those with a server span.
    pub seen: usize,
    /// Spans that are of none of the requests.
    pub wrong: usize,
}

/// Ten connections with a request each 50 ms, of ages from nothing to two and a half seconds. The client is another program
/// to the agent than a server in Python, and is traced only if both ends are asked for.
pub fn late(server: Server, both: bool, options: &[String]) -> Result<Late> {
    const REQUESTS: usize = 800;
    let scratch = Scratch::new("tls-late")?;
    let at = Endpoint::free()?;
    let _server = server.start("1.3", &at, &scratch)?;
    let port = at.port()?.to_string();
    // A copy, since the agent knows a program by its file; where its library lies must be said then.
    let (program, python) =
        (scratch.join("late-client"), apps::python()?.canonicalize().context("finding Python")?);
    std::fs::copy(&python, &program).context("copying Python")?;
    let home = python.ancestors().nth(2).context("the folder of Python")?;
    let log = scratch.join("times");
    let mut command = Command::new(program);
    command.arg(apps::source("tls_service.py")).env("TIMES", &log).env("PYTHONHOME", home);
    command.args(["slow-client", &port, "/late", &REQUESTS.to_string(), "10", "1000000"]);
    let mut client = Service::start("client", &mut command, &scratch)?;
    std::thread::sleep(Duration::from_millis(2_500));
    let mut all = options.to_vec();
    if !both {
        all.extend(["--exclude-exe".to_owned(), "late-client".to_owned()]);
    }
    let agent = Agent::start(&Options::new(&scratch).arguments(all))?;
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC).context("reading the clock")?;
    let ready = now.tv_sec() as u64 * 1_000_000_000 + now.tv_nsec() as u64;
    let status = client.wait(Duration::from_secs(60))?;
    ensure!(status.success(), "{}", client.output());
    agent.settle(|spans| spans.iter().any(|span| span.path() == format!("/late-{}", REQUESTS - 1)))?;
    std::thread::sleep(Duration::from_millis(300));
    let outcome = agent.stop()?;
    let text = std::fs::read_to_string(&log).context("reading the client's times")?;
    let times = text.lines().filter_map(|line| line.split_once(' '));
    let after: HashSet<String> = times
        .filter(|(_, time)| time.parse::<u64>().is_ok_and(|time| time > ready))
        .map(|(number, _)| format!("/late-{number}"))
        .collect();
    let at_port = |span: &&SeenSpan| span.kind == Kind::Server && span.path().starts_with("/late");
    let seen: HashSet<&str> = outcome.spans.iter().filter(at_port).map(|span| span.path()).collect();
    let known: HashSet<String> = (0..REQUESTS).map(|number| format!("/late-{number}")).collect();
    let wrong = seen.iter().filter(|path| !known.contains(**path)).count();
    Ok(Late {
        sent: after.len(),
        seen: after.iter().filter(|path| seen.contains(path.as_str())).count(),
        wrong,
    })
}

/// What a request costs.
#[derive(Clone, Copy, Debug)]
pub struct Cost {
    /// Requests.
    pub requests: u64,
    /// Processor time of nginx for each, in microseconds.
    pub server: f64,
    /// The agent's.
    pub agent: f64,
}

/// nginx with one worker, 50 connections that stay, as many requests as it answers in so many seconds; without an agent, or with
/// one that has these options.
pub fn cost(options: Option<&[String]>, seconds: u64) -> Result<Cost> {
    let scratch = Scratch::new("tls-cost")?;
    let at = Endpoint::free()?;
    let nginx = Server::Nginx.start("1.3", &at, &scratch)?;
    let agent = match options {
        Some(options) => {
            let mut all = options.to_vec();
            all.extend(["--exe".to_owned(), "nginx".to_owned()]);
            Some(Agent::start(
                &Options::new(&scratch).no_file().arguments(["--export", "none"]).arguments(all),
            )?)
        }
        None => None,
    };
    let all = |agent: &Option<Agent>| -> Result<(Duration, Duration)> {
        let mut server = Duration::ZERO;
        for worker in children(nginx.pid())? {
            server += cpu(worker)?;
        }
        Ok((server, agent.as_ref().map(|agent| cpu(agent.pid())).transpose()?.unwrap_or_default()))
    };
    let before = all(&agent)?;
    let mut wrk = Command::new(needed("wrk")?);
    wrk.args(["-t1", "-c50", &format!("-d{seconds}s")]).arg(format!("https://{}/cost", at.target()));
    let text = output(&mut wrk)?;
    std::thread::sleep(Duration::from_millis(500));
    let after = all(&agent)?;
    let line = text.lines().find(|line| line.contains(" requests in ")).context("wrk says no count")?;
    let requests: u64 = line.split_whitespace().next().unwrap_or_default().parse().context("wrk's count")?;
    let each = |after: Duration, before: Duration| {
        after.saturating_sub(before).as_secs_f64() * 1e6 / requests.max(1) as f64
    };
    Ok(Cost { requests, server: each(after.0, before.0), agent: each(after.1, before.1) })
}

/// The processes that a process has started.
fn children(pid: u32) -> Result<Vec<u32>> {
    let path = format!("/proc/{pid}/task/{pid}/children");
    let text = std::fs::read_to_string(&path).with_context(|| format!("reading {path}"))?;
    Ok(text.split_whitespace().filter_map(|pid| pid.parse().ok()).collect())
}

/// What many programs with one library cost.
#[derive(Debug)]
pub struct Many {
    /// From the agent's start to its line `ready`.
    pub start_up: Duration,
    /// Its file descriptors then.
    pub descriptors: usize,
    /// Files with probes.
    pub probes: u64,
    /// Links of kernel programs that are left once it has ended.
    pub left: usize,
    /// Programs that still run then.
    pub alive: usize,
}

/// So many Pythons with `ssl`, then the agent.
pub fn many(programs: usize, options: &[String]) -> Result<Many> {
    let scratch = Scratch::new("tls-many")?;
    let links = |_: ()| -> Result<usize> {
        let text = output(Command::new(needed("bpftool")?).args(["-j", "link", "show"]))?;
        Ok(text.matches("\"id\":").count())
    };
    let before = links(())?;
    let mut all = Vec::new();
    for number in 0..programs {
        let mark = scratch.join(&format!("up-{number}"));
        let mut command = Command::new(apps::python()?);
        let code = "import ssl, sys, time; open(sys.argv[1], 'w').close(); time.sleep(600)";
        command.args(["-c", code]).arg(&mark);
        all.push((Service::start(&format!("idle-{number}"), &mut command, &scratch)?, mark));
    }
    until("all are up", Duration::from_secs(120), || Ok(all.iter().all(|(_, mark)| mark.exists())))?;
    let agent = Agent::start(&Options::new(&scratch).arguments(options.to_vec()))?;
    let start_up = agent.start_up;
    let descriptors =
        std::fs::read_dir(format!("/proc/{}/fd", agent.pid())).context("its descriptors")?.count();
    let outcome = agent.stop()?;
    let alive =
        all.iter_mut().filter_map(|(program, _)| program.exited().ok()).filter(Option::is_none).count();
    let mut left = 0;
    let _ = until("no link is left", Duration::from_secs(10), || {
        left = links(())?.saturating_sub(before);
        Ok(left == 0)
    });
    let probes = outcome.counters.sum(&["spandrel_tls_held_probes"]);
    Ok(Many { start_up, descriptors, probes, left, alive })
}
