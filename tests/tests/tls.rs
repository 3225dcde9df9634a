//! Plaintext of TLS programs without a probe per request: each request of real clients and servers has its two spans,
//! joined by their connection; and no secret of theirs is in anything that the agent says. It must never take a span for
//! seen that is of another request.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Result, ensure};
use spandrel_tests::agent::{Agent, Options, Outcome};
use spandrel_tests::apps;
use spandrel_tests::checks::{joined, machine, nothing_wrong, scaled};
use spandrel_tests::load::anonymous;
use spandrel_tests::process::{Endpoint, Scratch, Service, output, until};
use spandrel_tests::tls::{self, Client, Server, Verdict, postgres, python};

/// Runs a client against a server that is there already, the agent started between the two: so many percent of the requests are
/// seen at both ends and joined, and every other one is of a session that is counted as having no key.
fn row(programs: (Server, Client), version: &str, count: usize, percent: usize) -> Result<()> {
    let _machine = machine();
    let (verdict, outcome) = tls::run(programs, version, count, &[])?;
    judge(&verdict, &outcome, percent)
}

fn judge(verdict: &Verdict, outcome: &Outcome, percent: usize) -> Result<()> {
    let keyless = outcome.counters.sum(&["spandrel_tls_unused_sessions_total", "keyless"]);
    let Verdict { sent, joined, wrong, .. } = verdict;
    ensure!(
        wrong.is_empty() && *joined >= sent * percent / 100 && (joined == sent || keyless > 0),
        "{verdict:?}\n{}",
        outcome.stderr.join("\n")
    );
    Ok(())
}

#[test]
fn threads_on_sockets_with_tls_1_3() -> Result<()> {
    row((Server::Threads, Client::Threads), "1.3", scaled(400, 10_000), 100)
}

#[test]
fn threads_on_sockets_with_tls_1_2() -> Result<()> {
    row((Server::Threads, Client::Threads), "1.2", scaled(400, 10_000), 100)
}

#[test]
fn an_event_loop_on_memory() -> Result<()> {
    row((Server::Asyncio, Client::Asyncio), "1.3", scaled(400, 10_000), 100)
}

#[test]
fn node_with_openssl_linked_in() -> Result<()> {
    row((Server::Node, Client::Node), "1.3", scaled(400, 10_000), 100)
}

#[test]
fn nginx_and_curl_over_50_connections() -> Result<()> {
    row((Server::Nginx, Client::Curl), "1.3", scaled(400, 10_000), 95)
}

#[test]
fn a_client_of_gnutls_is_read_with_its_server_s_keys() -> Result<()> {
    row((Server::Nginx, Client::Wget), "1.3", scaled(200, 10_000), 100)
}

#[test]
fn go_with_its_own_tls() -> Result<()> {
    row((Server::Go, Client::Go), "1.3", scaled(400, 10_000), 95)
}

/// Programs in which nothing tells where the keys are, so that they are searched for, over four connections that last: those are
/// found, and so many percent of the requests at the least.
fn searched(
    (server, client): (Server, Client),
    version: &str,
    count: usize,
    percent: usize,
) -> Result<Outcome> {
    let scratch = Scratch::new("tls-searched")?;
    let at = Endpoint::free()?;
    let _server = server.start(version, &at, &scratch)?;
    let agent = Agent::start(&Options::new(&scratch))?;
    output(&mut client.over(&at, "/searched", count, 4, count)?)?;
    agent.settle_for(2 * count, "/searched")?;
    let outcome = agent.stop()?;
    judge(&Verdict::of(&outcome.spans, "/searched", count, version), &outcome, percent)?;
    Ok(outcome)
}

#[test]
fn rustls_without_a_symbol() -> Result<()> {
    let _machine = machine();
    searched((Server::Rustls, Client::Rustls), "1.3", scaled(2_000, 10_000), 50).map(drop)
}

/// Neither a secret nor random bytes are known of these: the expanded keys of AES are found.
#[test]
fn go_with_tls_1_2() -> Result<()> {
    let _machine = machine();
    let outcome = searched((Server::Go, Client::Go), "1.2", scaled(200, 2_000), 50)?;
    ensure!(outcome.counters.sum(&["spandrel_tls_searched_keys_total"]) >= 4, "{:?}", outcome.counters);
    Ok(())
}

/// How many of Java's sessions are found in time depends on the machine; that none is found wrong does not.
#[test]
fn java_with_its_own_tls() -> Result<()> {
    let _machine = machine();
    let scratch = Scratch::new("tls-java")?;
    let at = Endpoint::free()?;
    let _server = Server::Java.start("1.3", &at, &scratch)?;
    let agent = Agent::start(&Options::new(&scratch))?;
    let count = scaled(200, 2_000);
    output(&mut Client::Java.over(&at, "/java", count, 4, count)?)?;
    std::thread::sleep(Duration::from_secs(2));
    let outcome = agent.stop()?;
    let verdict = Verdict::of(&outcome.spans, "/java", count, "1.3");
    ensure!(verdict.wrong.is_empty(), "{verdict:?}");
    ensure!(outcome.counters.sum(&["spandrel_tls_searched_sessions_total"]) > 0, "{:?}", outcome.counters);
    Ok(())
}

#[test]
fn queries_of_postgresql_go_on_right_and_are_no_requests() -> Result<()> {
    let _machine = machine();
    let found = postgres::run(scaled(300, 10_000), &[])?;
    ensure!(found.right == found.sent && found.spans == 0, "{found:?}");
    Ok(())
}

#[test]
fn sessions_that_are_older_than_the_agent() -> Result<()> {
    let _machine = machine();
    let scratch = Scratch::new("tls-late")?;
    let at = Endpoint::free()?;
    let _server = Server::Threads.start("1.3", &at, &scratch)?;
    let (count, port) = (scaled(1_500, 6_000), at.port()?.to_string());
    // Ten connections that last as long as the client, which sends a request every few milliseconds.
    let mut command = python(&["slow-client", &port, "/late", &count.to_string(), "10", "1000000"])?;
    let mut client = Service::start("client", &mut command, &scratch)?;
    std::thread::sleep(std::time::Duration::from_secs(1));
    let agent = Agent::start(&Options::new(&scratch))?;
    let status = client.wait(std::time::Duration::from_secs(60))?;
    ensure!(status.success(), "{}", client.output());
    // How many had been sent by the time the agent was ready nobody knows; the last are certain.
    agent.settle(|spans| joined(spans, &format!("/late-{}", count - 1)).is_ok())?;
    let outcome = agent.stop()?;
    nothing_wrong(&outcome.spans, "/late")?;
    let late =
        (count * 3 / 4..count).filter(|number| joined(&outcome.spans, &format!("/late-{number}")).is_err());
    let missing = late.count();
    ensure!(missing == 0, "{missing} of the last {} are not seen\n{}", count / 4, outcome.stderr.join("\n"));
    Ok(())
}

#[test]
fn switched_off_nothing_of_tls_is_read() -> Result<()> {
    let _machine = machine();
    let scratch = Scratch::new("tls-off")?;
    let at = Endpoint::free()?;
    let _server = Server::Threads.start("1.3", &at, &scratch)?;
    let agent = Agent::start(&Options::new(&scratch).arguments(["--tls", "off"]))?;
    output(&mut python(&["client", &at.port()?.to_string(), "/off", "20", "2", "5"])?)?;
    let outcome = agent.stop()?;
    ensure!(!outcome.spans.iter().any(|span| span.path().starts_with("/off")), "{:?}", outcome.spans);
    ensure!(outcome.counters.sum(&["spandrel_tls_found_secrets"]) == 0, "{:?}", outcome.counters);
    Ok(())
}

#[test]
fn libraries_that_are_none_and_records_that_are_absurd_cost_a_counter() -> Result<()> {
    let _machine = machine();
    let scratch = Scratch::new("tls-hostile")?;
    let at = Endpoint::free()?;
    let _server = Server::Threads.start("1.3", &at, &scratch)?;
    let agent = Agent::start(&Options::new(&scratch))?;
    let folder = scratch.join("libraries");
    std::fs::create_dir_all(&folder)?;
    let mut command = Command::new(apps::python()?);
    let hostile = Service::start(
        "hostile",
        command.arg(apps::source("tls_hostile.py")).arg(&folder).env("PYTHONDONTWRITEBYTECODE", "1"),
        &scratch,
    )?;
    until("it has done its worst", Duration::from_secs(60), || Ok(hostile.output().contains("ready")))?;
    let count = scaled(200, 2_000);
    output(&mut Client::Threads.command(&at, "/fine", count)?)?;
    agent.settle_for(2 * count, "/fine")?;
    let memory = anonymous(agent.pid())?;
    ensure!(memory < 256 << 20, "the agent has {memory} bytes");
    let outcome = agent.stop()?;
    let verdict = Verdict::of(&outcome.spans, "/fine", count, "1.3");
    ensure!(
        verdict.wrong.is_empty() && verdict.joined == count,
        "{verdict:?}\n{}",
        outcome.stderr.join("\n")
    );
    let sum = |names: &[&str]| outcome.counters.sum(names);
    ensure!(sum(&["spandrel_tls_unused_sessions_total", "replayed"]) > 0, "{:?}", outcome.counters);
    ensure!(sum(&["spandrel_tls_sealed_bytes_total"]) > 0, "{:?}", outcome.counters);
    let said = outcome.stderr.join("\n");
    ensure!(!said.contains("panicked") && !said.contains("do not add up"), "{said}");
    Ok(())
}

#[test]
fn of_a_program_that_is_left_out_nothing_is_read_with_the_other_end_s_keys() -> Result<()> {
    let _machine = machine();
    let scratch = Scratch::new("tls-one")?;
    let at = Endpoint::free()?;
    let _server = Server::Nginx.start("1.3", &at, &scratch)?;
    let agent = Agent::start(&Options::new(&scratch).arguments(["--tls-exclude-exe", "nginx"]))?;
    output(&mut Client::Threads.over(&at, "/one", 50, 5, 10)?)?;
    agent.settle_for(50, "/one")?;
    let outcome = agent.stop()?;
    let verdict = Verdict::of(&outcome.spans, "/one", 50, "1.3");
    ensure!(verdict.servers == 0 && verdict.clients == 50 && verdict.wrong.is_empty(), "{verdict:?}");
    Ok(())
}

/// The secrets of a run, as the programs' own key log tells them.
fn key_log(path: &Path) -> Result<Vec<Vec<u8>>> {
    let text = std::fs::read_to_string(path)?;
    let digits = text.lines().filter(|line| !line.starts_with('#')).filter_map(|line| line.split(' ').nth(2));
    let secrets = digits.map(|digits| {
        let pairs = digits.as_bytes().chunks(2);
        pairs.map(|pair| Ok(u8::from_str_radix(std::str::from_utf8(pair)?, 16)?)).collect::<Result<Vec<u8>>>()
    });
    secrets.collect()
}

#[test]
fn no_secret_is_in_anything_that_the_agent_says_or_leaves() -> Result<()> {
    let _machine = machine();
    let scratch = Scratch::new("tls-secrets")?;
    let at = Endpoint::free()?;
    let _server = Server::Threads.start("1.3", &at, &scratch)?;
    let log = scratch.join("keys");
    let arguments = ["--log", "trace", "--export", "terminal"];
    let agent = Agent::start(&Options::new(&scratch).arguments(arguments))?;
    let mut client = python(&["client", &at.port()?.to_string(), "/secret", "50", "5", "5"])?;
    output(client.env("SSLKEYLOGFILE", &log))?;
    agent.settle_for(100, "/secret")?;
    let limits = std::fs::read_to_string(format!("/proc/{}/limits", agent.pid()))?;
    let core = limits.lines().find(|line| line.starts_with("Max core file size")).unwrap_or_default();
    ensure!(core.split_whitespace().nth(4) == Some("0"), "a core could be written: {core:?}");
    let filter = std::fs::read_to_string(format!("/proc/{}/coredump_filter", agent.pid()))?;
    ensure!(filter.trim().chars().all(|digit| digit == '0'), "its memory would be in a core: {filter}");
    let outcome = agent.stop()?;
    judge(&Verdict::of(&outcome.spans, "/secret", 50, "1.3"), &outcome, 100)?;
    let secrets = key_log(&log)?;
    ensure!(secrets.len() >= 40, "only {} secrets in the key log", secrets.len());
    let mut said = outcome.stderr.join("\n").into_bytes();
    said.extend(outcome.stdout.bytes());
    for entry in std::fs::read_dir(scratch.path())? {
        let path = entry?.path();
        if path != log && path.is_file() {
            said.extend(std::fs::read(path)?);
        }
    }
    for secret in &secrets {
        let hex: String = secret.iter().map(|byte| format!("{byte:02x}")).collect();
        let text = String::from_utf8_lossy(&said).to_lowercase();
        ensure!(!text.contains(&hex[..32]), "a secret is in what the agent said");
        ensure!(!said.windows(16).any(|bytes| bytes == &secret[..16]), "a secret is in a file");
    }
    Ok(())
}
