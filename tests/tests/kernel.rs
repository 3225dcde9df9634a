//! The kernel side against every kind of socket call, with both backends: each exchange is one client span and one
//! server span, joined by their bytes. What cannot be seen (MPTCP, splice) may be missing, never wrong.
//!
//! The calls are made by `apps/sockets.py`; a case there and a line here belong together.

use std::collections::HashSet;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use spandrel_tests::agent::{Agent, Options, Outcome};
use spandrel_tests::apps::{self, Wiring};
use spandrel_tests::checks::{by_path, joined, machine, nothing_wrong, one, scaled};
use spandrel_tests::driver::{self, Load, Progress};
use spandrel_tests::otlp::{Kind, SeenSpan};
use spandrel_tests::plan::{Plan, Shape};
use spandrel_tests::process::{Endpoint, PATIENCE, Scratch, Service, needed, output, until};

/// What a case must show.
#[derive(Clone, Copy, PartialEq)]
enum Want {
    /// Every exchange is joined.
    Joined,
    /// Nothing is wrong; a hook does not show all of it.
    NotWrong,
    /// The client span fails with this `error.type`.
    Fails(&'static str),
}
use Want::{Fails, Joined, NotWrong};

const CASES: &[(&str, Want)] = &[
    ("plain", Joined),
    ("eagain", Joined),
    ("short_writes", Joined),
    ("threads_one_socket", Joined),
    ("duplicated", Joined),
    ("forked", Joined),
    ("passed", Joined),
    ("peeked", Joined),
    ("vectored", Joined),
    ("received_by_message", Joined),
    ("single_bytes", Joined),
    ("long_head", Joined),
    ("long_bodies", Joined),
    ("file_bodies", Joined),
    ("spliced", NotWrong),
    ("unix", Joined),
    ("unix_pair", Joined),
    ("mapped", Joined),
    ("ipv6", Joined),
    ("pipelined", Joined),
    ("chunked", Joined),
    ("continued", Joined),
    ("bodiless", Joined),
    ("until_closed", Joined),
    ("half_closed", Joined),
    ("read_when_closed", Joined),
    ("reset_unread", Joined),
    ("reads_no_more", Joined),
    ("wait_all", Joined),
    ("mptcp", NotWrong),
    ("garbage", Joined),
    ("reset", Fails("connection_reset")),
    ("died", Fails("connection_closed")),
];

fn sockets(case: &str, prefix: &str, more: &[String]) -> Result<Command> {
    let mut command = Command::new(apps::python()?);
    command.arg(apps::source("sockets.py")).args([case, prefix]).args(more);
    Ok(command)
}

/// The lines `PATH REQUEST-BODY RESPONSE-BODY` of a case.
fn paths(text: &str) -> Vec<(String, u64, u64)> {
    text.lines()
        .filter_map(|line| {
            let mut word = line.split(' ');
            let path = word.next().filter(|path| path.starts_with('/'))?.to_owned();
            Some((path, word.next()?.parse().ok()?, word.next()?.parse().ok()?))
        })
        .collect()
}

fn every_kind_of_call(backend: &str) -> Result<()> {
    let _machine = machine();
    let scratch = Scratch::new("kernel")?;
    let agent = Agent::start(&Options::new(&scratch).backend(backend))?;
    let mut ran = Vec::new();
    for (case, want) in CASES {
        let text = output(&mut sockets(case, &format!("{case}-{backend}"), &[])?)
            .with_context(|| case.to_string())?;
        ran.push((case, want, paths(&text), text));
    }
    let joinable = |spans: &[SeenSpan]| {
        let mut joinable = ran.iter().filter(|(_, want, ..)| **want == Joined);
        joinable.all(|(_, _, paths, _)| paths.iter().all(|(path, ..)| joined(spans, path).is_ok()))
    };
    agent.settle(joinable)?;
    let outcome = agent.stop()?;
    let mut failures = Vec::new();
    for (case, want, paths, text) in ran {
        if text.contains("skip:") {
            continue;
        }
        ensure!(!paths.is_empty(), "case {case} did nothing: {text}");
        for (path, ..) in &paths {
            let result = match want {
                Joined => joined(&outcome.spans, path).map(drop),
                NotWrong => nothing_wrong(&outcome.spans, path),
                Fails(error) => failed(&outcome.spans, path, error),
            };
            if let Err(error) = result {
                failures.push(format!("{case}: {error:#}"));
            }
        }
        if let Err(error) = special(case, &paths, &outcome.spans) {
            failures.push(format!("{case}: {error:#}"));
        }
    }
    explain(&failures, &outcome)
}

fn explain(failures: &[String], outcome: &Outcome) -> Result<()> {
    if failures.is_empty() {
        return Ok(());
    }
    let counters: Vec<_> = outcome
        .counters
        .all()
        .iter()
        .filter(|(_, v)| **v > 0)
        .map(|(name, v)| format!("{name} {v}"))
        .collect();
    let first = failures.get(..20).unwrap_or(failures);
    bail!(
        "{} failures, first of all:\n{}\ncounters:\n{}",
        failures.len(),
        first.join("\n"),
        counters.join("\n")
    )
}

fn failed(spans: &[SeenSpan], path: &str, error: &str) -> Result<()> {
    let client = one(spans, path, Kind::Client)?;
    ensure!(client.status == 2, "the client span of {path} is no error: {client:?}");
    ensure!(client.attribute("error.type") == error, "error.type is {:?}", client.attribute("error.type"));
    Ok(())
}

/// What a case must show beyond its links.
fn special(case: &str, paths: &[(String, u64, u64)], spans: &[SeenSpan]) -> Result<()> {
    for (path, ..) in paths {
        match case {
            "long_head" => {
                let server = one(spans, path, Kind::Server)?;
                let agent = server.attribute("user_agent.original");
                ensure!(agent == "at-the-end", "the last field of a 60 KiB head is {agent:?}");
            }
            "half_closed" | "read_when_closed" | "reset_unread" | "reads_no_more" => {
                let client = one(spans, path, Kind::Client)?;
                let status = client.attribute("http.response.status_code");
                ensure!(status == "200", "a response that was read late has status {status:?}: {client:?}");
            }
            "mapped" => {
                let server = one(spans, path, Kind::Server)?;
                let peer = server.attribute("network.peer.address");
                ensure!(peer == "127.0.0.1", "a v4-mapped peer is {peer:?}");
            }
            "ipv6" => {
                let peer = one(spans, path, Kind::Server)?.attribute("network.peer.address");
                ensure!(peer == "::1", "an IPv6 peer is {peer:?}");
            }
            _ => {}
        }
    }
    Ok(())
}

#[test]
fn every_kind_of_socket_call_is_traced_with_the_socket_backend() -> Result<()> {
    every_kind_of_call("socket")
}

#[test]
fn every_kind_of_socket_call_is_traced_with_the_syscall_backend() -> Result<()> {
    every_kind_of_call("syscall")
}

/// `idle` connections that served a request before, one in the middle of a head, one in the middle of a body.
fn attached_late(backend: &str, idle: usize) -> Result<()> {
    let _machine = machine();
    let scratch = Scratch::new("late")?;
    let go = scratch.join("go");
    let prefix = format!("late-{backend}");
    let options = [format!("idle={idle}"), format!("go={}", go.display())];
    let mut program = Service::start("sockets", &mut sockets("attach_late", &prefix, &options)?, &scratch)?;
    until("all connections open", PATIENCE, || Ok(program.output().contains("open")))?;
    let agent = Agent::start(&Options::new(&scratch).backend(backend))?;
    std::fs::write(&go, "")?;
    ensure!(program.wait(PATIENCE)?.success(), "{}", program.output());
    agent.settle_for(2 * (idle + 2), &format!("/{prefix}-"))?;
    let outcome = agent.stop()?;
    let mut failures = Vec::new();
    for number in 0..idle + 2 {
        if let Err(error) = joined(&outcome.spans, &format!("/{prefix}-{number}")) {
            let which = match number {
                n if n < idle => "idle",
                n if n == idle => "was in the middle of a head",
                _ => "was in the middle of a body",
            };
            failures.push(format!("connection {number} ({which}): {error:#}"));
        }
    }
    explain(&failures, &outcome)
}

#[test]
fn fifty_open_connections_are_traced_from_the_next_request_with_the_socket_backend() -> Result<()> {
    attached_late("socket", 50)
}

#[test]
fn fifty_open_connections_are_traced_from_the_next_request_with_the_syscall_backend() -> Result<()> {
    attached_late("syscall", 50)
}

/// Fifty connections with requests under way all the time; the agent comes in the middle. What began after it was
/// ready is complete.
#[test]
fn fifty_busy_connections_are_traced_from_the_next_request() -> Result<()> {
    let _machine = machine();
    for backend in ["socket", "syscall"] {
        let scratch = Scratch::new("busy")?;
        let at = Endpoint::free()?;
        let shape = Shape { delay_ms: 0..=20, ..Shape::default() };
        // Far more than are sent: it is the requests after the start that count, however long that takes.
        let plan = Plan::new(&shape, 200_000, 11);
        let routes = scratch.join("routes.tsv");
        plan.write_routes(&routes)?;
        let wiring = Wiring { routes: Some(routes), ..Wiring::default() };
        let _server = apps::python_service("threaded.py", &at, &wiring, &scratch)?;
        let load = Load { to: at.address()?, concurrency: 50, pause: Duration::ZERO, seed: 1 };
        let progress = Progress::default();
        let (sent, agent, ready) = std::thread::scope(|scope| {
            let driver = scope.spawn(|| driver::drive_until(&load, &plan, &plan.roots, &progress));
            let sent_until = |count: usize| {
                until("more requests", PATIENCE * 2, || Ok(driver.is_finished() || progress.begun() >= count))
            };
            sent_until(500)?;
            let agent =
                Agent::start(&Options::new(&scratch).backend(backend)).inspect_err(|_| progress.enough())?;
            let ready = Instant::now();
            let so_far = progress.begun();
            let waited = sent_until(so_far + scaled(2_000, 15_000));
            progress.enough();
            waited?;
            let sent = driver.join().unwrap_or_else(|_| bail!("the driver panicked"))?;
            Ok::<_, anyhow::Error>((sent, agent, ready))
        })?;
        let after: Vec<_> =
            sent.began.iter().filter(|(_, began)| **began > ready).map(|(path, _)| path.as_str()).collect();
        agent.settle(|spans| {
            let servers: HashSet<_> =
                spans.iter().filter(|s| s.kind == Kind::Server).map(SeenSpan::path).collect();
            after.iter().all(|path| servers.contains(path))
        })?;
        let outcome = agent.stop()?;
        ensure!(after.len() > 1_000, "only {} requests began after the agent was ready", after.len());
        let spans = by_path(&outcome.spans);
        let failures: Vec<_> = after
            .iter()
            .filter_map(|path| {
                joined(spans.get(path).map_or(&[], Vec::as_slice), path)
                    .err()
                    .map(|error| format!("{backend}: {error:#}"))
            })
            .collect();
        println!(
            "{backend}: {} of {} requests after a late start",
            after.len() - failures.len(),
            after.len()
        );
        explain(&failures, &outcome)?;
    }
    Ok(())
}

/// Eight threads write whole requests to one socket, without a lock.
fn racing_writers(backend: &str) -> Result<()> {
    let _machine = machine();
    let scratch = Scratch::new("writers")?;
    let at = Endpoint::free()?;
    let _server = apps::python_service("threaded.py", &at, &Wiring::default(), &scratch)?;
    let count = scaled(2_000, 40_000);
    let list = scratch.join("paths.txt");
    let text: String = (0..count).map(|n| format!("/writers-{backend}-{n}\n")).collect();
    std::fs::write(&list, text)?;
    let agent = Agent::start(&Options::new(&scratch).backend(backend))?;
    output(Command::new(apps::c_program("writers", &[])?).arg(at.port()?.to_string()).arg(&list))?;
    let servers = |spans: &[SeenSpan]| {
        spans.iter().filter(|s| s.kind == Kind::Server && s.path().starts_with("/writers-")).count()
    };
    agent.settle(|spans| servers(spans) >= count)?;
    let outcome = agent.stop()?;
    nothing_wrong(&outcome.spans, &format!("/writers-{backend}-"))?;
    let servers = servers(&outcome.spans);
    let spans = by_path(&outcome.spans);
    let whole = (0..count).map(|n| format!("/writers-{backend}-{n}"));
    let whole =
        whole.filter(|path| spans.get(path.as_str()).is_some_and(|spans| joined(spans, path).is_ok()));
    let whole = whole.count();
    println!("{backend}: {whole} of {count} joined, {servers} server spans");
    ensure!(
        servers == count,
        "{servers} server spans of {count} requests: the reading side was never in doubt"
    );
    // How many are joined is chance: once the writers raced past what can be proven, requests that never pause cannot be
    // counted again. That none is joined wrongly, and that the reading side is whole, is not.
    Ok(())
}

#[test]
fn eight_threads_that_write_one_socket_are_never_joined_wrongly_with_the_socket_backend() -> Result<()> {
    racing_writers("socket")
}

#[test]
fn eight_threads_that_write_one_socket_are_never_joined_wrongly_with_the_syscall_backend() -> Result<()> {
    racing_writers("syscall")
}

/// Bodies of more than 5 GiB on one connection: sequence numbers wrap more than once.
#[test]
fn a_request_behind_a_body_of_gigabytes_is_traced() -> Result<()> {
    let _machine = machine();
    for backend in ["socket", "syscall"] {
        let scratch = Scratch::new("bodies")?;
        let agent = Agent::start(&Options::new(&scratch).backend(backend))?;
        let size: u64 = 5_500_000_000;
        let prefix = format!("giant-{backend}");
        let mut text = output(&mut sockets("file_bodies", &prefix, &[format!("size={size}")])?)?;
        if scaled(0, 1) == 1 {
            // By `send` it takes a minute: the sender copies as well.
            let long = [format!("size={size}")];
            text += &output(&mut sockets("long_bodies", &format!("giant-send-{backend}"), &long)?)?;
        }
        let paths = paths(&text);
        agent.settle(|spans| paths.iter().all(|(path, ..)| joined(spans, path).is_ok()))?;
        let outcome = agent.stop()?;
        ensure!(paths.len() >= 3 && paths.iter().all(|(.., response)| *response == size), "{text}");
        let failures: Vec<_> = paths
            .iter()
            .filter_map(|(path, ..)| {
                joined(&outcome.spans, path).err().map(|error| format!("{backend}: {error:#}"))
            })
            .collect();
        explain(&failures, &outcome)?;
    }
    Ok(())
}

/// A network namespace, removed at the end.
struct Namespace(String);

impl Namespace {
    fn new(name: &str) -> Result<Self> {
        let name = format!("spandrel-{name}-{}", std::process::id());
        ip(&["netns", "add", &name])?;
        let namespace = Self(name);
        ip(&["-n", &namespace.0, "link", "set", "lo", "up"])?;
        Ok(namespace)
    }

    fn inside(&self, command: &Command) -> Result<Command> {
        let mut wrapped = Command::new(needed("ip")?);
        wrapped.args(["netns", "exec", &self.0]).arg(command.get_program()).args(command.get_args());
        Ok(wrapped)
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _ = ip(&["netns", "del", &self.0]);
    }
}

fn ip(arguments: &[&str]) -> Result<()> {
    output(Command::new(needed("ip")?).args(arguments)).map(drop)
}

/// Client and server in network namespaces of their own, a router between them that gives the server another address
/// and the client another one too: as a published container port does.
fn translated(backend: &str, masquerade: bool) -> Result<()> {
    let _machine = machine();
    let scratch = Scratch::new("nat")?;
    let (client, router, server) = (Namespace::new("c")?, Namespace::new("r")?, Namespace::new("s")?);
    for (end, here, there, address, gateway) in [
        (&client, "spc0", "spc1", "10.77.1.2/24", "10.77.1.1"),
        (&server, "sps0", "sps1", "10.77.2.2/24", "10.77.2.1"),
    ] {
        ip(&["-n", &router.0, "link", "add", there, "type", "veth", "peer", "name", here, "netns", &end.0])?;
        ip(&["-n", &end.0, "addr", "add", address, "dev", here])?;
        ip(&["-n", &end.0, "link", "set", here, "up"])?;
        ip(&["-n", &router.0, "addr", "add", &format!("{gateway}/24"), "dev", there])?;
        ip(&["-n", &router.0, "link", "set", there, "up"])?;
        ip(&["-n", &end.0, "route", "add", "default", "via", gateway])?;
    }
    let mut forward = Command::new("sh");
    forward.args(["-c", "echo 1 > /proc/sys/net/ipv4/ip_forward"]);
    output(&mut router.inside(&forward)?)?;
    let source = if masquerade {
        "add chain ip nat post { type nat hook postrouting priority 100; }\nadd rule ip nat post oifname sps1 masquerade random\n"
    } else {
        ""
    };
    let rules = scratch.join("rules.nft");
    std::fs::write(
        &rules,
        format!(
            "add table ip nat\nadd chain ip nat pre {{ type nat hook prerouting priority -100; }}\n\
             add rule ip nat pre ip daddr 10.77.1.1 tcp dport 80 dnat to 10.77.2.2:8080\n{source}"
        ),
    )?;
    let mut nft = Command::new(needed("nft")?);
    nft.arg("-f").arg(&rules);
    output(&mut router.inside(&nft)?).context("network address translation (nftables, conntrack)")?;

    let agent = Agent::start(&Options::new(&scratch).backend(backend))?;
    let prefix = format!("nat-{backend}-{masquerade}");
    let serve = sockets("serve", &prefix, &["at=10.77.2.2:8080".into(), "count=10".into()])?;
    let mut served = Service::start("serve", &mut server.inside(&serve)?, &scratch)?;
    until("the server listens", PATIENCE, || Ok(served.output().contains("listening")))?;
    let call = sockets("call", &prefix, &["to=10.77.1.1:80".into(), "count=10".into()])?;
    let text = output(&mut client.inside(&call)?)?;
    served.wait(PATIENCE)?;
    let paths = paths(&text);
    agent.settle(|spans| paths.iter().all(|(path, ..)| joined(spans, path).is_ok()))?;
    let outcome = agent.stop()?;
    ensure!(paths.len() == 20, "the client says {text}");
    let failures: Vec<_> = paths
        .iter()
        .filter_map(|(path, ..)| joined(&outcome.spans, path).err().map(|error| format!("{error:#}")))
        .collect();
    explain(&failures, &outcome)
}

#[test]
fn both_ends_join_behind_dnat_with_the_socket_backend() -> Result<()> {
    translated("socket", false)
}

#[test]
fn both_ends_join_behind_dnat_and_masquerade_with_the_socket_backend() -> Result<()> {
    translated("socket", true)
}

#[test]
fn both_ends_join_behind_dnat_and_masquerade_with_the_syscall_backend() -> Result<()> {
    translated("syscall", true)
}
