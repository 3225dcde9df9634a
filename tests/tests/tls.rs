//! Plaintext of TLS programs without a probe per request: each request of real clients and servers has its two spans,
//! joined by their connection; and no secret of theirs is in anything that the agent says. It must never take a span for
//! seen that is of another request.

use std::collections::{HashMap, HashSet};
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use spandrel_tests::agent::{Agent, Options, Outcome};
use spandrel_tests::apps;
use spandrel_tests::checks::{joined, machine, nothing_wrong, scaled};
use spandrel_tests::load::anonymous;
use spandrel_tests::otlp::Kind;
use spandrel_tests::process::{Endpoint, Scratch, Service, needed, output, until};
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

/// The same, by probes alone: every byte is counted once, or the two ends would not meet.
/// A session that began before its program's calls were seen joins nothing, and is counted; a client whose library nobody had
/// used before may be over by the time at which that has its probes.
fn probed(
    programs: (Server, Client),
    version: &str,
    load: (usize, usize, usize),
) -> Result<(Verdict, Outcome)> {
    let (verdict, outcome) = tls::run_over(programs, version, load, &["--tls".into(), "probes".into()])?;
    let sum = |names: &[&str]| outcome.counters.sum(names);
    let late = sum(&["spandrel_tls_clear_sessions_total", "uncounted"]) + sum(&["dropped_bytes", "unknown"]);
    let Verdict { sent, joined, clients, servers, wrong, .. } = &verdict;
    ensure!(
        wrong.is_empty() && servers == sent && (joined == clients || late > 0),
        "{verdict:?}\n{}",
        outcome.stderr.join("\n")
    );
    ensure!(sum(&["spandrel_tls_found_secrets"]) == 0, "a key was taken: {:?}", outcome.counters);
    ensure!(sum(&["tls_clear_lost_bytes"]) == 0, "{:?}", outcome.counters);
    Ok((verdict, outcome))
}

#[test]
fn by_probes_threads_on_sockets() -> Result<()> {
    let _machine = machine();
    // Both are the same Python, so the library's probes are on before the client begins.
    let (verdict, _) = probed((Server::Threads, Client::Threads), "1.3", (scaled(400, 10_000), 50, 40))?;
    ensure!(verdict.clients == verdict.sent, "{verdict:?}");
    Ok(())
}

#[test]
fn by_probes_go_as_a_server_and_on_both_sides() -> Result<()> {
    let _machine = machine();
    probed((Server::Go, Client::Threads), "1.3", (scaled(400, 10_000), 50, 40))?;
    let (verdict, _) = probed((Server::Go, Client::Go), "1.2", (scaled(1_000, 10_000), 5, 5))?;
    // Its first sessions begin some milliseconds after itself.
    ensure!(verdict.joined > verdict.sent / 2, "{verdict:?}");
    Ok(())
}

#[test]
fn by_probes_looks_ahead_refused_writes_and_calls_within_calls_are_counted_once() -> Result<()> {
    let _machine = machine();
    let (verdict, outcome) = probed((Server::Calls, Client::Calls), "1.3", (scaled(200, 2_000), 1, 1))?;
    ensure!(verdict.joined == verdict.sent, "{verdict:?}\n{}", outcome.stderr.join("\n"));
    Ok(())
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

/// What it says of its own session is its own affair; nobody else's must be touched by it.
#[test]
fn by_probes_a_program_that_lies_of_its_calls_and_sessions_harms_nobody_else() -> Result<()> {
    let _machine = machine();
    let scratch = Scratch::new("tls-liar")?;
    let (at, count) = (Endpoint::free()?, 600);
    let _server = Server::Threads.start("1.3", &at, &scratch)?;
    let (log, stolen) = (scratch.join("keys"), scratch.join("randoms"));
    let agent = Agent::start(&Options::new(&scratch).arguments(["--tls", "probes"]))?;
    let arguments = ["slow-client", &at.port()?.to_string(), "/honest", &count.to_string(), "10", "1000000"];
    let mut client = Service::start("client", python(&arguments)?.env("SSLKEYLOGFILE", &log), &scratch)?;
    agent.settle_for(100, "/honest")?;
    let text = std::fs::read_to_string(&log)?;
    let randoms: HashSet<&str> = text.lines().filter_map(|line| line.split(' ').nth(1)).collect();
    ensure!(randoms.len() >= 10, "only {} sessions in the key log", randoms.len());
    std::fs::write(&stolen, randoms.into_iter().collect::<Vec<_>>().join("\n"))?;
    let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
    let mut command = Command::new(apps::c_program("tls_liar", &["-rdynamic"])?);
    command.arg(listener.local_addr()?.port().to_string()).arg(&stolen);
    let liar = Service::start("liar", &mut command, &scratch)?;
    until("it has lied", Duration::from_secs(60), || Ok(liar.output().contains("ready")))?;
    ensure!(client.wait(Duration::from_secs(60))?.success(), "{}", client.output());
    agent.settle_for(2 * count, "/honest")?;
    let memory = anonymous(agent.pid())?;
    ensure!(memory < 256 << 20, "the agent has {memory} bytes");
    let outcome = agent.stop()?;
    let (honest, lies): (Vec<_>, Vec<_>) =
        outcome.spans.iter().cloned().partition(|span| span.path().starts_with("/honest"));
    let said = outcome.stderr.join("\n");
    let verdict = Verdict::of(&honest, "/honest", count, "1.3");
    ensure!(verdict.wrong.is_empty() && verdict.joined == count, "{verdict:?}\n{said}");
    ensure!(!lies.iter().any(|span| span.kind == Kind::Server && span.path() == "/lie"), "{lies:?}");
    let sum = |names: &[&str]| outcome.counters.sum(names);
    ensure!(sum(&["tls_clear_dropped_bytes_total", "unknown"]) > 0, "no lie was refused\n{said}");
    ensure!(sum(&["tls_clear_calls_lost_total", "unreadable"]) > 0, "no lie was counted\n{said}");
    ensure!(!said.contains("panicked") && !said.contains("do not add up"), "{said}");
    Ok(())
}

#[test]
fn by_probes_libraries_that_are_none_and_records_that_are_absurd_cost_a_counter() -> Result<()> {
    hostile(&["--tls", "probes"]).map(drop)
}

#[test]
fn libraries_that_are_none_and_records_that_are_absurd_cost_a_counter() -> Result<()> {
    let outcome = hostile(&[])?;
    ensure!(
        outcome.counters.sum(&["spandrel_tls_unused_sessions_total", "replayed"]) > 0,
        "{:?}",
        outcome.counters
    );
    Ok(())
}

/// A program that would harm, beside one that means no harm and is read as if it were alone.
fn hostile(options: &[&str]) -> Result<Outcome> {
    let _machine = machine();
    let scratch = Scratch::new("tls-hostile")?;
    let at = Endpoint::free()?;
    let _server = Server::Threads.start("1.3", &at, &scratch)?;
    let agent = Agent::start(&Options::new(&scratch).arguments(options.to_vec()))?;
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
    ensure!(sum(&["spandrel_tls_sealed_bytes_total"]) > 0, "{:?}", outcome.counters);
    let said = outcome.stderr.join("\n");
    ensure!(!said.contains("panicked") && !said.contains("do not add up"), "{said}");
    Ok(outcome)
}

/// Three programs with one agent: a client whose keys are taken, a server by its calls, and one that is left alone, also with
/// the keys of its client.
#[test]
fn each_program_is_read_in_the_way_that_was_said_of_it() -> Result<()> {
    let _machine = machine();
    let scratch = Scratch::new("tls-modes")?;
    let (alone, probed) = (Endpoint::free()?, Endpoint::free()?);
    let _alone = Server::Nginx.start("1.3", &alone, &scratch)?;
    let folder = Scratch::new("tls-modes-node")?;
    let _probed = Server::Node.start("1.3", &probed, &folder)?;
    let rules = ["--tls-for", "exe:nginx=off", "--tls-for", "exe:node*=probes", "--tls-for", "exe:*=keys"];
    let agent = Agent::start(&Options::new(&scratch).arguments(["--tls", "off"]).arguments(rules))?;
    output(&mut Client::Threads.over(&alone, "/alone", 50, 5, 10)?)?;
    output(&mut Client::Threads.over(&probed, "/probed", 50, 5, 10)?)?;
    agent.settle_for(100, "/probed")?;
    let outcome = agent.stop()?;
    let said = || outcome.stderr.join("\n");
    // The offsets of keys and those of probes are of two kinds, which never meet.
    for (prefix, servers) in [("/alone", 0), ("/probed", 50)] {
        let spans: Vec<_> =
            outcome.spans.iter().filter(|span| span.path().starts_with(prefix)).cloned().collect();
        let verdict = Verdict::of(&spans, prefix, 50, "1.3");
        ensure!((verdict.servers, verdict.clients) == (servers, 50), "{verdict:?}\n{}", said());
        ensure!(verdict.joined == 0 && verdict.wrong.is_empty(), "{verdict:?}");
    }
    let moved = outcome.counters.sum(&["spandrel_tls_clear_passed_bytes_total"]);
    ensure!(moved > 50 * 200, "Node was not read by probes: {moved} bytes\n{}", said());
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

/// Which of these secrets are in some memory. Half of one is enough; it begins at a word of four bytes, as what is allocated does.
fn known_in(secrets: &[Vec<u8>], memory: &[u8]) -> HashSet<usize> {
    let mut first = vec![false; 1 << 16];
    let begins = |bytes: &[u8]| usize::from(bytes[0]) << 8 | usize::from(bytes[1]);
    secrets.iter().for_each(|secret| first[begins(secret)] = true);
    // Most of it was never written to.
    let pages = (0..memory.len()).step_by(4096).filter(|&at| !memory[at..].starts_with(&[0; 4096]));
    let words =
        pages.flat_map(|page| (page..page + 4096).step_by(4)).filter_map(|at| memory.get(at..at + 16));
    let likely = words.filter(|word| first[begins(word)]);
    likely.filter_map(|word| secrets.iter().position(|secret| secret.starts_with(word))).collect()
}

/// Which of them are in what a process could write, and in which of its mappings.
fn known_in_process(secrets: &[Vec<u8>], pid: u32) -> Result<HashMap<usize, String>> {
    let maps = std::fs::read_to_string(format!("/proc/{pid}/maps"))?;
    let memory = std::fs::File::open(format!("/proc/{pid}/mem"))?;
    let mut known = HashMap::new();
    for line in maps.lines().filter(|line| line.split(' ').nth(1).is_some_and(|may| may.starts_with("rw"))) {
        let (range, _) = line.split_once(' ').context("a line of maps")?;
        let (start, end) = range.split_once('-').context("a range of maps")?;
        let (start, end) = (u64::from_str_radix(start, 16)?, u64::from_str_radix(end, 16)?);
        let mut bytes = vec![0; usize::try_from(end - start)?];
        // What is mapped of a device cannot be read.
        if memory.read_exact_at(&mut bytes, start).is_ok() {
            known.extend(known_in(secrets, &bytes).into_iter().map(|secret| (secret, line.to_owned())));
        }
    }
    Ok(known)
}

/// A core of a process, as gcore(1) makes it, which follows the same rules as the kernel (core(5)).
fn core_of(pid: u32, scratch: &Scratch, name: &str) -> Result<Vec<u8>> {
    let prefix = scratch.join(name);
    output(Command::new(needed("gcore")?).arg("-o").arg(&prefix).arg(pid.to_string()))?;
    let path = prefix.with_extension(pid.to_string());
    let bytes = std::fs::read(&path).with_context(|| format!("reading {}", path.display()))?;
    std::fs::remove_file(&path)?;
    Ok(bytes)
}

#[test]
fn no_secret_is_in_a_core_of_the_agent_nor_in_its_memory_once_its_session_is_over() -> Result<()> {
    let _machine = machine();
    let scratch = Scratch::new("tls-core")?;
    let at = Endpoint::free()?;
    let _server = Server::Threads.start("1.3", &at, &scratch)?;
    let log = scratch.join("keys");
    let agent = Agent::start(&Options::new(&scratch))?;
    // Ten sessions that last until the client ends.
    let mut command = python(&["slow-client", &at.port()?.to_string(), "/core", "1200", "10", "1000000"])?;
    let mut client = Service::start("client", command.env("SSLKEYLOGFILE", &log), &scratch)?;
    agent.settle_for(200, "/core")?;
    let secrets = key_log(&log)?;
    ensure!(secrets.len() >= 40, "only {} secrets in the key log", secrets.len());
    let held = known_in_process(&secrets, agent.pid())?.len();
    ensure!(
        held >= 20,
        "of {} secrets {held} are found where they must be: the search is at fault",
        secrets.len()
    );
    let core = core_of(agent.pid(), &scratch, "core")?;
    ensure!(core.starts_with(b"\x7fELF") && known_in(&secrets, &core).is_empty(), "a secret is in a core");
    // And this is what keeps it out.
    std::fs::write(format!("/proc/{}/coredump_filter", agent.pid()), "0x33")?;
    let whole = core_of(agent.pid(), &scratch, "whole")?;
    ensure!(!known_in(&secrets, &whole).is_empty(), "a core of all memory has none: the search is at fault");
    ensure!(client.wait(Duration::from_secs(60))?.success(), "{}", client.output());
    agent.settle(|spans| joined(spans, "/core-1199").is_ok())?;
    std::thread::sleep(Duration::from_secs(2));
    let left = known_in_process(&secrets, agent.pid())?;
    ensure!(left.is_empty(), "of {} secrets {left:?} are left when all sessions are over", secrets.len());
    agent.stop().map(drop)
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
