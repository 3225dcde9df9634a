//! It only reads: traffic, socket options, FIONREAD and tracer of the traced programs are the same with and without it,
//! nobody's memory is opened for writing, and its sudden death leaves nothing behind.

use std::collections::BTreeSet;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use spandrel_tests::agent::{Agent, Options};
use spandrel_tests::apps::{self, Wiring};
use spandrel_tests::checks::machine;
use spandrel_tests::driver::{self, Load, Progress};
use spandrel_tests::plan::{Plan, Shape};
use spandrel_tests::process::{Endpoint, PATIENCE, Scratch, Service, needed, output, until};

fn sockets(case: &str) -> Result<String> {
    output(
        Command::new(apps::python()?)
            .arg(apps::source("sockets.py"))
            .args([case, &format!("passive-{case}")]),
    )
}

#[test]
fn a_program_sees_the_same_sockets_with_and_without_the_agent() -> Result<()> {
    let _machine = machine();
    let scratch = Scratch::new("options")?;
    let without = sockets("options")?;
    for backend in ["socket", "syscall"] {
        let agent = Agent::start(&Options::new(&scratch).backend(backend))?;
        let with = sockets("options")?;
        agent.stop()?;
        ensure!(with == without, "with the {backend} backend: {with}without: {without}");
    }
    ensure!(without.contains("tracer 0"), "{without}");
    Ok(())
}

/// The bytes of a conversation, as the two ends saw them, are in the exit status of the program that checks them.
#[test]
fn the_bytes_of_the_traffic_are_the_same() -> Result<()> {
    let _machine = machine();
    let scratch = Scratch::new("bytes")?;
    let script = scratch.join("bytes.py");
    std::fs::write(&script, CONVERSATION)?;
    let run = || output(Command::new(apps::python()?).arg(&script));
    let without = run()?;
    for backend in ["socket", "syscall"] {
        let agent = Agent::start(&Options::new(&scratch).backend(backend))?;
        let with = run()?;
        let seen = agent.stop()?.spans.iter().filter(|span| span.path().starts_with("/bytes-")).count();
        ensure!(seen >= 3_996, "only {seen} of 4,000 spans: an agent that sees nothing disturbs nothing");
        ensure!(with == without, "with the {backend} backend the digest is {with}, without {without}");
    }
    Ok(())
}

/// 2,000 requests of fixed content between two threads; prints a digest of all bytes that either end read.
const CONVERSATION: &str = r#"
import hashlib, socket, threading
listener = socket.create_server(("127.0.0.1", 0))
digests = [hashlib.sha256(), hashlib.sha256()]
REQUEST = b"GET /bytes-%06d HTTP/1.1\r\nHost: t\r\n\r\n"
RESPONSE = b"HTTP/1.1 200 OK\r\nContent-Length: 20\r\n\r\n%020d"
def read(sock, digest, size):
    while size:
        data = sock.recv(size)
        digest.update(data)
        size -= len(data)
def server():
    conn = listener.accept()[0]
    for n in range(2000):
        read(conn, digests[0], len(REQUEST % n))
        conn.sendall(RESPONSE % n)
thread = threading.Thread(target=server)
thread.start()
sock = socket.create_connection(listener.getsockname())
for n in range(2000):
    sock.sendall(REQUEST % n)
    read(sock, digests[1], len(RESPONSE % n))
thread.join()
print(*(d.hexdigest() for d in digests))
"#;

#[test]
fn no_target_is_ptraced_and_no_memory_is_opened_for_writing() -> Result<()> {
    let _machine = machine();
    let scratch = Scratch::new("strace")?;
    let at = Endpoint::free()?;
    let server = apps::python_service("threaded.py", &at, &Wiring::default(), &scratch)?;
    let agent = Agent::start(&Options::new(&scratch))?;
    let log = scratch.join("strace.txt");
    let mut strace = Command::new(needed("strace")?);
    strace.args([
        "-f",
        "-e",
        "trace=ptrace,openat,open,process_vm_writev,pwrite64",
        "-p",
        &agent.pid().to_string(),
        "-o",
    ]);
    let mut watcher = Service::start("strace", strace.arg(&log), &scratch)?;
    until("strace to be attached", PATIENCE, || {
        ensure!(watcher.exited()?.is_none(), "strace ended: {}", watcher.output());
        Ok(watcher.output().contains("attached"))
    })?;
    let plan = Plan::new(&Shape { delay_ms: 0..=0, ..Shape::default() }, 200, 1);
    let load = Load { to: at.address()?, concurrency: 4, pause: Duration::ZERO, seed: 1 };
    driver::drive(&load, &plan, &plan.roots)?;
    sockets("plain")?;
    let status = std::fs::read_to_string(format!("/proc/{}/status", server.pid()))?;
    ensure!(status.contains("TracerPid:\t0"), "{status}");
    drop(watcher);
    agent.stop()?;
    let calls = std::fs::read_to_string(&log).context("reading what strace saw")?;
    for line in calls.lines() {
        let writes = line.contains("O_RDWR") || line.contains("O_WRONLY");
        ensure!(!(line.contains("/mem\"") && writes), "a memory was opened for writing: {line}");
        ensure!(!line.contains("ptrace(") && !line.contains("process_vm_writev("), "{line}");
        ensure!(!line.contains("pwrite64(") || !line.contains("/mem"), "{line}");
    }
    Ok(())
}

/// Ids of the kernel programs that are loaded now.
fn programs() -> Result<BTreeSet<u64>> {
    let text = output(Command::new(needed("bpftool")?).args(["--json", "prog", "list"]))?;
    let list: Vec<serde_json::Value> = serde_json::from_str(&text).context("bpftool's output")?;
    Ok(list.iter().filter_map(|program| program["id"].as_u64()).collect())
}

#[test]
fn an_agent_killed_under_load_leaves_no_program_and_the_targets_run_on() -> Result<()> {
    let _machine = machine();
    for backend in ["socket", "syscall"] {
        let scratch = Scratch::new("kill")?;
        let at = Endpoint::free()?;
        let mut server = apps::python_service("threaded.py", &at, &Wiring::default(), &scratch)?;
        let before = programs()?;
        let agent = Agent::start(&Options::new(&scratch).backend(backend))?;
        let mine: BTreeSet<u64> = programs()?.difference(&before).copied().collect();
        ensure!(!mine.is_empty(), "the agent has no kernel program with the {backend} backend");
        let plan = Plan::new(&Shape { delay_ms: 0..=2, ..Shape::default() }, 200_000, 1);
        let load = Load { to: at.address()?, concurrency: 8, pause: Duration::from_millis(1), seed: 1 };
        let progress = Progress::default();
        std::thread::scope(|scope| {
            let driver = scope.spawn(|| driver::drive_until(&load, &plan, &plan.roots, &progress));
            let sent_until = |count: usize| {
                until("more requests", PATIENCE, || Ok(driver.is_finished() || progress.begun() >= count))
            };
            let left = sent_until(500).and_then(|_| agent.kill()).and_then(|()| {
                until("no kernel program of the killed agent", PATIENCE, || {
                    Ok(programs()?.is_disjoint(&mine))
                })?;
                // They run on.
                sent_until(progress.begun() + 500)
            });
            progress.enough();
            left?;
            driver.join().unwrap_or_else(|_| anyhow::bail!("the driver panicked")).map(drop)
        })?;
        ensure!(server.exited()?.is_none(), "the server died with the agent: {}", server.output());
    }
    Ok(())
}

#[test]
fn a_websocket_that_calls_out_for_long_holds_no_span_back() -> Result<()> {
    let _machine = machine();
    let scratch = Scratch::new("ws")?;
    let (back, front) = (Endpoint::free()?, Endpoint::free()?);
    let _back = apps::python_service("threaded.py", &back, &Wiring::default(), &scratch)?;
    let calls = scratch.join("calls.txt");
    std::fs::write(&calls, (0..500).map(|n| format!("/ws-call-{n}\n")).collect::<String>())?;
    let mut command = Command::new(apps::python()?);
    command.arg(apps::source("websocket.py")).args([
        format!("port={}", front.port()?),
        format!("next={}", back.target()),
        format!("calls={}", calls.display()),
        "every=20".into(),
    ]);
    let _front = Service::listening("websocket.py", &mut command, &scratch, &front)?;
    let agent = Agent::start(&Options::new(&scratch))?;
    let mut client = Command::new(needed("curl")?);
    client.args(["--silent", "--no-buffer", "--max-time", "120", "--http1.1", "-o", "/dev/null"]);
    client.args(["-H", "Connection: Upgrade", "-H", "Upgrade: websocket", "-H", "Sec-WebSocket-Version: 13"]);
    client.args([
        "-H",
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
        &format!("http://{}/ws", front.target()),
    ]);
    let mut client = Service::start("curl", &mut client, &scratch)?;
    // While it is still open, which is ten seconds and more on a slow machine: calls leave as they end, they do not wait
    // for the socket.
    let calls_seen = |spans: &[spandrel_tests::otlp::SeenSpan]| {
        spans.iter().filter(|span| span.path().starts_with("/ws-call-")).count() >= 100
    };
    agent.spans_until("spans of calls of the WebSocket", PATIENCE, calls_seen)?;
    ensure!(client.exited()?.is_none(), "no span of a call before the WebSocket was closed");
    client.wait(PATIENCE * 2)?;
    agent.settle_for(1_000, "/ws-call-")?;
    let outcome = agent.stop()?;
    for number in 0..500 {
        let (call, _) = spandrel_tests::checks::joined(&outcome.spans, &format!("/ws-call-{number}"))?;
        ensure!(call.parent.is_none(), "a call of the open WebSocket has parent {:?}", call.parent);
    }
    let (_, upgrade) = spandrel_tests::checks::joined(&outcome.spans, "/ws")?;
    ensure!(upgrade.attribute("http.response.status_code") == "101", "{upgrade:?}");
    Ok(())
}
