//! `spandrel-tls`: the tables of TLS against the real agent. Exit status 1 if a row misses its claim, 2 for a bad argument.
//! It prints and compares; what is right and what is wrong stands in `spandrel_tests::tls`.

use std::process::ExitCode;

use anyhow::{Result, bail};
use clap::Parser;
use spandrel_tests::tls::tables::{self, Bulk, Cost, First, Late, Many};
use spandrel_tests::tls::{self, Client, Server, Verdict, postgres};

/// Runs the tables of TLS against the real agent (`SPANDREL_BIN`, or target/release/spandrel).
#[derive(Parser, Debug)]
struct Arguments {
    /// Tables: programs, probes (some of them with `--tls probes`), first (the first session of a new program, 200 times), late
    /// (sessions that are older than the agent), cost (a busy nginx, without an agent, with one that reads no TLS, with one that does,
    /// by keys and by probes), many (200 programs with one library), bulk (a file of 1 GiB), postgres (queries, which are no HTTP).
    /// All if none is named.
    table: Vec<String>,
    /// 10,000 requests a row.
    #[arg(long)]
    full: bool,
    /// Requests a row.
    #[arg(long, default_value_t = 1_000)]
    requests: usize,
    /// How long the file of `bulk` is, in MiB.
    #[arg(long, default_value_t = 1_024)]
    mebibytes: u64,
    /// How often `first` starts each program.
    #[arg(long, default_value_t = 200)]
    times: usize,
    /// Rounds of `cost`.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Only rows whose name contains this; repeatable.
    #[arg(long)]
    row: Vec<String>,
    /// Print the agent's counters that are not 0 after each row.
    #[arg(long)]
    counters: bool,
    /// More arguments for the agent.
    #[arg(last = true)]
    agent: Vec<String>,
}

/// Server, client, version of TLS, and how many of 1,000 requests must be joined: keys of sessions that are over before a search
/// are not found.
const PROGRAMS: [(&str, Server, Client, &str, usize); 22] = [
    ("threads", Server::Threads, Client::Threads, "1.3", 999),
    ("threads-1.2", Server::Threads, Client::Threads, "1.2", 999),
    ("asyncio", Server::Asyncio, Client::Asyncio, "1.3", 999),
    ("uvicorn-uvloop", Server::Uvicorn, Client::Asyncio, "1.3", 999),
    ("uvloop", Server::Uvicorn, Client::Uvloop, "1.3", 999),
    ("gunicorn", Server::Gunicorn, Client::Threads, "1.3", 999),
    ("gunicorn-threads", Server::GunicornThreads, Client::Threads, "1.3", 999),
    ("node", Server::Node, Client::Node, "1.3", 999),
    ("node-1.2", Server::Node, Client::Node, "1.2", 999),
    ("nginx-curl", Server::Nginx, Client::Curl, "1.3", 999),
    ("nginx-curl-1.2", Server::Nginx, Client::Curl, "1.2", 999),
    ("nginx-wget", Server::Nginx, Client::Wget, "1.3", 999),
    ("rustls", Server::Rustls, Client::Rustls, "1.3", 990),
    ("rustls-1.2", Server::Rustls, Client::Rustls, "1.2", 990),
    ("nginx-rustls", Server::Nginx, Client::Rustls, "1.3", 999),
    ("apache", Server::Apache, Client::Threads, "1.3", 999),
    ("go", Server::Go, Client::Go, "1.3", 999),
    ("go-1.2", Server::Go, Client::Go, "1.2", 990),
    ("java", Server::Java, Client::Java, "1.3", 500),
    ("java-1.2", Server::Java, Client::Java, "1.2", 500),
    ("java-url", Server::Java, Client::JavaUrl, "1.3", 500),
    ("nginx-java", Server::Nginx, Client::Java, "1.3", 999),
];

/// With `--tls probes`: what OpenSSL, GnuTLS and Go read and write. The only session of wget begins before its probes are there,
/// so its end joins nothing.
const PROBES: [(&str, Server, Client, &str, usize); 12] = [
    ("threads", Server::Threads, Client::Threads, "1.3", 999),
    ("threads-1.2", Server::Threads, Client::Threads, "1.2", 999),
    ("asyncio", Server::Asyncio, Client::Asyncio, "1.3", 999),
    ("gunicorn", Server::Gunicorn, Client::Threads, "1.3", 999),
    ("node", Server::Node, Client::Node, "1.3", 999),
    ("nginx-curl", Server::Nginx, Client::Curl, "1.3", 999),
    ("nginx-curl-1.2", Server::Nginx, Client::Curl, "1.2", 999),
    ("nginx-wget", Server::Nginx, Client::Wget, "1.3", 0),
    ("apache", Server::Apache, Client::Threads, "1.3", 999),
    ("go", Server::Go, Client::Go, "1.3", 999),
    ("go-1.2", Server::Go, Client::Go, "1.2", 999),
    ("calls", Server::Calls, Client::Calls, "1.3", 999),
];

/// What hits of probes are divided by.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Per {
    /// Ends of sessions.
    Session,
    /// Ends of requests.
    Request,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match run(&arguments) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::from(2)
        }
    }
}

fn run(arguments: &Arguments) -> Result<bool> {
    let tables: Vec<&str> = match arguments.table.as_slice() {
        [] => vec!["programs", "probes", "first", "late", "cost", "many", "bulk", "postgres"],
        named => named.iter().map(String::as_str).collect(),
    };
    let mut good = true;
    for table in tables {
        good &= match table {
            "programs" => programs(arguments, &PROGRAMS, &[], ("hits/sess", Per::Session)),
            "probes" => programs(arguments, &PROBES, &["--tls", "probes"], ("hits/req", Per::Request)),
            "bulk" => bulk(arguments),
            "first" => first(arguments),
            "late" => late(arguments),
            "cost" => cost(arguments)?,
            "many" => many(arguments)?,
            "postgres" => queries(arguments)?,
            other => bail!(
                "no table is called {other:?}: programs, probes, first, late, cost, many, bulk, postgres"
            ),
        };
    }
    Ok(good)
}

fn queries(arguments: &Arguments) -> Result<bool> {
    let count = if arguments.full { 10_000 } else { arguments.requests };
    let postgres::Postgres { sent, right, version, opened, spans } = postgres::run(count, &arguments.agent)?;
    println!(
        "psql to PostgreSQL over {version}: {right} of {sent} queries answered right, {spans} spans, {opened} ends of sessions opened"
    );
    Ok(right == sent && spans == 0)
}

fn bulk(arguments: &Arguments) -> bool {
    println!("a file of {} MiB from nginx:", arguments.mebibytes);
    println!(
        "{:<14}{:>8}{:>7}{:>11}{:>8}{:>10}{:>16}{:>12}",
        "client", "joined", "wrong", "agent CPU", "wall", "records", "copied", "bytes lost"
    );
    let mut good = true;
    let rows = [
        ("curl", Client::Curl, "1.3"),
        ("curl-1.2", Client::Curl, "1.2"),
        ("go", Client::Go, "1.3"),
        ("threads", Client::Threads, "1.3"),
    ];
    for (name, client, version) in rows {
        if !arguments.wants(name) {
            continue;
        }
        match tables::bulk(client, version, arguments.mebibytes << 20, &arguments.agent) {
            Err(error) => {
                println!("{name:<14} failed: {error:#}");
                good = false;
            }
            Ok(Bulk { verdict, cpu, elapsed, outcome }) => {
                let sum = |names: &[&str]| outcome.counters.sum(names);
                println!(
                    "{name:<14}{:>8}{:>7}{:>10.2}s{:>7.1}s{:>10}{:>16}{:>12}",
                    verdict.joined,
                    verdict.wrong.len(),
                    cpu.as_secs_f64(),
                    elapsed.as_secs_f64(),
                    sum(&["spandrel_kernel_records_total"]),
                    sum(&["kernel_captured_bytes"]),
                    sum(&["ring_full"]) + sum(&["frames_lost"]),
                );
                for text in verdict.wrong.iter().take(3) {
                    println!("    {text}");
                }
                if arguments.counters {
                    for (name, value) in outcome.counters.all().iter().filter(|(_, value)| **value > 0) {
                        println!("    {name} {value}");
                    }
                }
                good &= verdict.wrong.is_empty() && verdict.joined == 1;
            }
        }
    }
    good
}

impl Arguments {
    fn wants(&self, name: &str) -> bool {
        self.row.is_empty() || self.row.iter().any(|row| name.contains(row.as_str()))
    }
}

fn first(arguments: &Arguments) -> bool {
    println!("one request of a new process, {} times, its server not traced:", arguments.times);
    println!("{:<12}{:>8}{:>8}{:>9}", "program", "sent", "seen", "keyless");
    let mut good = true;
    let rows = [
        ("threads", Client::Threads),
        ("asyncio", Client::Asyncio),
        ("node", Client::Node),
        ("curl", Client::Curl),
        ("wget", Client::Wget),
        ("go", Client::Go),
        ("rustls", Client::Rustls),
    ];
    for (name, client) in rows.into_iter().filter(|(name, _)| arguments.wants(name)) {
        match tables::first(client, arguments.times, &arguments.agent) {
            Ok(First { sent, seen, keyless }) => {
                println!("{name:<12}{sent:>8}{seen:>8}{keyless:>9}");
                good &= seen as u64 + keyless >= sent as u64;
            }
            Err(error) => {
                println!("{name:<12} failed: {error:#}");
                good = false;
            }
        }
    }
    good
}

fn late(arguments: &Arguments) -> bool {
    println!(
        "ten sessions of 0 to 50 requests with a client in Python, then the agent; requests after it was ready, and their spans at the server:"
    );
    println!("{:<12}{:<8}{:>8}{:>8}{:>8}", "server", "traced", "sent", "seen", "wrong");
    let mut good = true;
    let rows = [
        ("threads", Server::Threads),
        ("asyncio", Server::Asyncio),
        ("nginx", Server::Nginx),
        ("apache", Server::Apache),
        ("node", Server::Node),
        ("go", Server::Go),
        ("rustls", Server::Rustls),
    ];
    for (name, server) in rows.into_iter().filter(|(name, _)| arguments.wants(name)) {
        for (traced, both) in [("server", false), ("both", true)] {
            match tables::late(server, both, &arguments.agent) {
                Ok(Late { sent, seen, wrong }) => {
                    println!("{name:<12}{traced:<8}{sent:>8}{seen:>8}{wrong:>8}");
                    good &= wrong == 0;
                }
                Err(error) => {
                    println!("{name:<12} failed: {error:#}");
                    good = false;
                }
            }
        }
    }
    good
}

fn cost(arguments: &Arguments) -> Result<bool> {
    println!(
        "nginx, TLS 1.3, 50 connections that stay, 4 s a measurement; processor time a request, microseconds:"
    );
    println!("{:<7}{:>10}{:>12}{:>10}{:>10}", "round", "mode", "requests", "nginx", "agent");
    let off = ["--tls".to_owned(), "off".to_owned()];
    let probes = ["--tls".to_owned(), "probes".to_owned()];
    let modes: [(&str, Option<&[String]>); 4] =
        [("none", None), ("off", Some(&off)), ("keys", Some(&arguments.agent)), ("probes", Some(&probes))];
    let mut ratios: [Vec<f64>; 3] = Default::default();
    for round in 0..arguments.rounds {
        let mut servers = [0.0; 4];
        for step in 0..modes.len() {
            let mode = (round + step) % modes.len();
            let (Some((name, options)), Some(server)) = (modes.get(mode), servers.get_mut(mode)) else {
                continue;
            };
            let cost: Cost = tables::cost(*options, 4)?;
            *server = cost.server;
            println!("{round:<7}{name:>10}{:>12}{:>10.2}{:>10.2}", cost.requests, cost.server, cost.agent);
        }
        let [none, off, keys, probes] = servers;
        for (ratios, ratio) in ratios.iter_mut().zip([keys / none, keys / off, probes / off]) {
            ratios.push(ratio);
        }
    }
    let names = ["keys over no agent", "keys over --tls off", "probes over --tls off"];
    for (ratios, name) in ratios.iter_mut().zip(names) {
        ratios.sort_by(f64::total_cmp);
        let median = ratios.get(ratios.len() / 2).copied().unwrap_or_default();
        println!("{name}: {median:.2} (median of {})", ratios.len());
    }
    Ok(true)
}

fn many(arguments: &Arguments) -> Result<bool> {
    const PROGRAMS: usize = 200;
    let Many { start_up, descriptors, probes, left, alive } = tables::many(PROGRAMS, &arguments.agent)?;
    println!(
        "{PROGRAMS} Pythons with one libssl: ready after {:.2} s, {descriptors} descriptors, {probes} files with probes; the agent stopped: \
         {left} links left, {alive} programs run",
        start_up.as_secs_f64()
    );
    Ok(left == 0 && alive == PROGRAMS)
}

fn programs(
    arguments: &Arguments,
    rows: &[(&str, Server, Client, &str, usize)],
    mode: &[&str],
    (hits, per): (&str, Per),
) -> bool {
    let count = if arguments.full { 10_000 } else { arguments.requests };
    println!("{count} requests a row, 50 at once:");
    println!(
        "{:<18}{:>8}{:>8}{:>8}{:>9}{:>7}{:>10}{:>9}{:>10}",
        "program", "client", "server", "joined", "%", "wrong", "sessions", "keyless", hits
    );
    let mut good = true;
    let options: Vec<String> =
        mode.iter().map(|part| (*part).to_owned()).chain(arguments.agent.clone()).collect();
    for &(name, server, client, version, claim) in rows {
        if !arguments.wants(name) {
            continue;
        }
        let (verdict, outcome) = match tls::run((server, client), version, count, &options) {
            Ok(ran) => ran,
            Err(error) => {
                println!("{name:<18} failed: {error:#}");
                good = false;
                continue;
            }
        };
        let Verdict { sent, clients, servers, joined, wrong, failed } = &verdict;
        let sum = |names: &[&str]| outcome.counters.sum(names);
        let sessions = sum(&["spandrel_tls_sessions_total"]) / 2;
        println!(
            "{name:<18}{clients:>8}{servers:>8}{joined:>8}{:>9.2}{:>7}{sessions:>10}{:>9}{:>10.2}",
            100.0 * *joined as f64 / *sent as f64,
            wrong.len(),
            sum(&["spandrel_tls_unused_sessions_total", "keyless"]),
            match per {
                Per::Session => {
                    sum(&["spandrel_kernel_tls_sessions_total"]) as f64 / sessions.max(1) as f64 / 2.0
                }
                Per::Request => sum(&["spandrel_kernel_tls_probe_hits_total"]) as f64 / (2 * sent) as f64,
            },
        );
        if *failed > 0 {
            println!("    {failed} spans failed");
        }
        for text in wrong.iter().take(3) {
            println!("    {text}");
        }
        if arguments.counters {
            for (name, value) in outcome.counters.all().iter().filter(|(_, value)| **value > 0) {
                println!("    {name} {value}");
            }
        }
        good &= wrong.is_empty() && joined * 1_000 >= sent * claim;
    }
    good
}
