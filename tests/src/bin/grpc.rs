//! `spandrel-grpc`: the table of HTTP/2 and gRPC against the real agent. Exit status 1 if a row misses its claim, 2 for a bad
//! argument. It prints and compares; what is right and what is wrong stands in `grpc::judge`.

use std::process::ExitCode;

use anyhow::{Result, bail};
use clap::Parser;
use spandrel_tests::grpc::calls::{Call, Kind};
use spandrel_tests::grpc::ends;
use spandrel_tests::grpc::hostile;
use spandrel_tests::grpc::judge::Verdict;
use spandrel_tests::grpc::late::{self, Late};
use spandrel_tests::grpc::others;
use spandrel_tests::grpc::peers::{PEERS, Peer};
use spandrel_tests::grpc::record;
use spandrel_tests::grpc::rows::{self, How, Report, Row};

/// Runs the table of HTTP/2 and gRPC against the real agent (`SPANDREL_BIN`, or target/release/spandrel).
#[derive(Parser, Debug)]
struct Arguments {
    /// Tables: kinds (every kind of call), load (many calls over one connection), late (joined a warm connection), others
    /// (curl, nghttp, h2load, nginx), h2c (HTTP/1 that goes over), ends (what ends a call), hostile (tunnels, bombs, floods, losses), bulk (1 GiB of DATA), long (a stream of 30 seconds), record (no table: writes down connections for the agent's unit tests). All but
    /// h2c, bulk and long if none is named.
    table: Vec<String>,
    /// 10,000 calls a pair in `load`, and all pairs everywhere.
    #[arg(long)]
    full: bool,
    /// All 25 pairs of peers in every table, with as many calls as otherwise.
    #[arg(long)]
    all_pairs: bool,
    /// Calls a pair in `load` and `late`.
    #[arg(long, default_value_t = 1_000)]
    calls: usize,
    /// Only this client; repeatable.
    #[arg(long)]
    client: Vec<String>,
    /// Only this server; repeatable.
    #[arg(long)]
    server: Vec<String>,
    /// `late`: only so many methods; repeatable.
    #[arg(long)]
    methods: Vec<usize>,
    /// `late`: connections of each client process.
    #[arg(long, default_value_t = 1)]
    connections: usize,
    /// `late`: client processes, each with an order of methods of its own.
    #[arg(long, default_value_t = 1)]
    clients: usize,
    /// Add a random x-request-id to each call.
    #[arg(long)]
    random: bool,
    /// The agent's backend.
    #[arg(long, default_value = "auto")]
    backend: String,
    /// `kinds`, `load`, `bulk`, `long`: over TLS (all but java).
    #[arg(long)]
    tls: bool,
    /// Start no agent.
    #[arg(long)]
    dry: bool,
    /// Print the agent's counters that are not 0 after each row.
    #[arg(long)]
    counters: bool,
    /// More arguments for the agent.
    #[arg(last = true)]
    agent: Vec<String>,
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
    let how = How {
        backend: arguments.backend.clone(),
        arguments: arguments.agent.clone(),
        dry: arguments.dry,
        tls: arguments.tls,
        ..How::default()
    };
    let tables: Vec<&str> = match arguments.table.as_slice() {
        [] => vec!["kinds", "load", "late", "others", "ends"],
        named => named.iter().map(String::as_str).collect(),
    };
    let mut good = true;
    for table in tables {
        good &= match table {
            "kinds" => kinds(arguments, &how)?,
            "load" => load(arguments, &how)?,
            "late" => late(arguments, &how)?,
            "others" => other_programs(&how, |how| {
                let mut lines = others::plain(how)?;
                lines.push(others::nginx(how)?);
                Ok(lines)
            }),
            "h2c" => other_programs(&how, others::upgraded),
            "ends" => ends(arguments, &how)?,
            "hostile" => hostile(&how)?,
            "record" => {
                for peer in PEERS {
                    println!("{}: {} bytes", peer.name(), record::record(peer)?);
                }
                true
            }
            "bulk" => bulk(arguments, &how)?,
            "long" => long(arguments, &how)?,
            other => bail!(
                "no table is called {other:?}: kinds, load, late, others, h2c, ends, hostile, bulk, long"
            ),
        };
    }
    Ok(good)
}

/// The pairs that were asked for: all, or each peer as client and as server once.
fn pairs(arguments: &Arguments) -> Result<Vec<(Peer, Peer)>> {
    let named = |names: &[String]| names.iter().map(|name| Peer::named(name)).collect::<Result<Vec<_>>>();
    let (clients, servers) = (named(&arguments.client)?, named(&arguments.server)?);
    let mut all = Vec::new();
    for (at, client) in PEERS.into_iter().enumerate() {
        for server in PEERS {
            let next = PEERS.get((at + 1) % PEERS.len()) == Some(&server);
            let all_of_them = arguments.full || arguments.all_pairs;
            let chosen = all_of_them || !clients.is_empty() || !servers.is_empty() || next;
            let fits = |peers: &[Peer], peer| peers.is_empty() || peers.contains(&peer);
            if chosen && fits(&clients, client) && fits(&servers, server) {
                all.push((client, server));
            }
        }
    }
    Ok(all)
}

fn kinds(arguments: &Arguments, how: &How) -> Result<bool> {
    println!("every kind of call, 3 at once over one connection, agent first; of 100 ends of calls:");
    header();
    let mut good = true;
    for (client, server) in pairs(arguments)? {
        let calls = rows::every_kind(3);
        let row = Row { client, server, calls, concurrency: 3, connections: 1 };
        good &= print(arguments, &row, rows::run(&row, how), |v| {
            v.wrong() == 0
                && v.seen == v.ends
                && v.named == v.ends
                && v.status == v.ends
                && v.duration == v.ends
        });
    }
    Ok(good)
}

fn load(arguments: &Arguments, how: &How) -> Result<bool> {
    let count = if arguments.full { 10_000 } else { arguments.calls };
    println!("{count} unary calls, 50 at once over one connection; of 100 ends of calls:");
    header();
    let mut good = true;
    for (client, server) in pairs(arguments)? {
        let calls = rows::unary(count, arguments.random);
        let row = Row { client, server, calls, concurrency: 50, connections: 1 };
        good &=
            print(arguments, &row, rows::run(&row, how), |v| v.wrong() == 0 && v.joined_percent() >= 99.99);
    }
    Ok(good)
}

/// Joined at call 1,000 of warm connections: each peer with itself unless some are named, without and with the tables that the
/// peers have in memory.
fn late(arguments: &Arguments, how: &How) -> Result<bool> {
    let all_methods = if arguments.methods.is_empty() { vec![5, 50, 200] } else { arguments.methods.clone() };
    let named = !arguments.client.is_empty() || !arguments.server.is_empty();
    let pairs = match named || arguments.all_pairs {
        true => pairs(arguments)?,
        false => PEERS.map(|peer| (peer, peer)).to_vec(),
    };
    let Arguments { clients, connections, calls, random, .. } = *arguments;
    println!(
        "joined at call 1,000 of {} warm connection(s) of {clients} client process(es), then {calls} calls of each; of 100 ends of calls",
        clients * connections
    );
    println!("{:24}{:^37}{:^37}", "", "--late-names wire", "--late-names memory");
    let half = format!("{:>8}{:>8}{:>8}{:>7}{:>6}", "seen", "named", "status", "wrong", "CPU");
    println!("{:<8}{:<8}{:>8}{half}{half}", "client", "server", "methods");
    let mut good = true;
    for (client, server) in pairs {
        for methods in &all_methods {
            print!("{:<8}{:<8}{methods:>8}", client.name(), server.name());
            let late = Late {
                client,
                server,
                methods: *methods,
                before: 1_000,
                calls,
                clients,
                connections,
                random,
            };
            let mut more = String::new();
            for names in ["wire", "memory"] {
                let mut how = how.clone();
                how.arguments.extend(["--late-names".to_owned(), names.to_owned()]);
                let report = match late::run(&late, &how) {
                    Ok(report) => report,
                    Err(error) => {
                        good = false;
                        print!(" failed: {error:#}");
                        continue;
                    }
                };
                let v = &report.verdict;
                print!(
                    "{:>8.2}{:>8.2}{:>8.2}{:>7}{:>5.1}s",
                    v.percent(v.seen),
                    v.percent(v.named),
                    v.percent(v.status),
                    v.wrong(),
                    report.cpu.as_secs_f64()
                );
                if v.wrong() > 0 {
                    good = false;
                    more += &v
                        .examples
                        .iter()
                        .map(|example| format!("            {names}: {example}\n"))
                        .collect::<String>();
                }
                if let (true, Some(outcome)) = (arguments.counters, &report.outcome) {
                    let counters = outcome.counters.all();
                    for (name, value) in counters.iter().filter(|(_, value)| **value > 0) {
                        more += &format!("            {names}: {name} {value}\n");
                    }
                }
            }
            println!();
            print!("{more}");
        }
    }
    Ok(good)
}

/// What ends a call, between libraries and by hand.
fn ends(arguments: &Arguments, how: &How) -> Result<bool> {
    println!("what ends a call; ends of attempts:");
    println!(
        "{:<16}{:<8}{:<9}{:>6}{:>6}{:>8}{:>10}{:>8}{:>7}",
        "ended by", "client", "server", "ends", "seen", "status", "duration", "joined", "wrong"
    );
    let pairs = pairs(arguments)?;
    let mut clients: Vec<Peer> = Vec::new();
    for (client, _) in &pairs {
        if !clients.contains(client) {
            clients.push(*client);
        }
    }
    let (lines, outcome) = ends::run(&pairs, &clients, how)?;
    let mut good = true;
    for line in &lines {
        println!(
            "{:<16}{:<8}{:<9}{:>6}{:>6}{:>8}{:>10}{:>8}{:>7}",
            line.case,
            line.client,
            line.server,
            line.ends,
            line.seen,
            line.status,
            line.duration,
            line.joined,
            line.wrong.len()
        );
        for text in line.wrong.iter().chain(&line.examples) {
            println!("            {text}");
        }
        for note in &line.notes {
            println!("        note: {note}");
        }
        good &= how.dry || line.is_right();
    }
    if let (true, Some(outcome)) = (arguments.counters, &outcome) {
        for (name, value) in outcome.counters.all().iter().filter(|(_, value)| **value > 0) {
            println!("            {name} {value}");
        }
    }
    Ok(good)
}

/// What wants to make the agent wrong, slow or large.
fn hostile(how: &How) -> Result<bool> {
    println!("connections by hand; ends of calls, the agent's memory and CPU, and what it counted as lost:");
    println!(
        "{:<20}{:>7}{:>7}{:>7}{:>9}{:>8}{:>7}{:>10}{:>9}",
        "case", "ends", "seen", "right", "unknown", "joined", "wrong", "MiB more", "agent"
    );
    let mut good = true;
    for line in hostile::run(how)? {
        println!(
            "{:<20}{:>7}{:>7}{:>7}{:>9}{:>8}{:>7}{:>10.1}{:>7}ms",
            line.case,
            line.ends,
            line.seen,
            line.right,
            line.unknown,
            line.joined,
            line.wrong.len(),
            line.grown,
            line.cpu.as_millis()
        );
        for text in line.wrong.iter().take(5).chain(&line.books) {
            println!("        {text}");
        }
        for (name, value) in &line.losses {
            println!("        {name} {value}");
        }
        good &= line.is_right();
    }
    Ok(good)
}

/// A stream of 1 GiB in messages of 64 KiB: what is copied of it, and what the agent needs.
fn bulk(arguments: &Arguments, how: &How) -> Result<bool> {
    const MESSAGES: u64 = 16_384;
    println!("one server stream of 1 GiB:");
    header();
    let mut good = true;
    for (client, server) in pairs(arguments)? {
        let body = format!("n={MESSAGES} z=65536");
        let calls = vec![Call::streaming("ServerBulk", Kind::Server, &body, "")];
        let row = Row { client, server, calls, concurrency: 1, connections: 1 };
        let report = rows::run(&row, how);
        let figures = report.as_ref().ok().and_then(|report| {
            let counters = &report.outcome.as_ref()?.counters;
            let sum = |names: &[&str]| counters.sum(names);
            // No frame is longer than 16,384 bytes, but C core allows its peers 4 MiB, and uses that itself.
            let most = if (client, server) == (Peer::Python, Peer::Python) { 65_541 } else { 16_384 };
            let frames = 2 * (MESSAGES * 65_541).div_ceil(most);
            Some(format!(
                "        copied {} bytes of {} moved, {:.1} per DATA frame at most; {} records; agent CPU {:?}; wall {:.1?}; lost {}",
                sum(&["kernel_captured_bytes"]),
                sum(&["kernel_moved_bytes"]),
                sum(&["kernel_captured_bytes"]) as f64 / frames as f64,
                sum(&["kernel_records_total"]),
                report.cpu,
                report.elapsed,
                sum(&["frames_lost"]),
            ))
        });
        good &= print(arguments, &row, report, |v| v.wrong() == 0 && v.named == v.ends);
        println!("{}", figures.unwrap_or_default());
    }
    Ok(good)
}

/// A server stream of 30 seconds: one span of it.
fn long(arguments: &Arguments, how: &How) -> Result<bool> {
    println!("one server stream of 30 seconds, 60 messages:");
    header();
    let mut good = true;
    for (client, server) in pairs(arguments)? {
        let calls = vec![Call::streaming("ServerLong", Kind::Server, "n=60 i=500", "")];
        let row = Row { client, server, calls, concurrency: 1, connections: 1 };
        good &= print(arguments, &row, rows::run(&row, how), |v| {
            v.wrong() == 0 && v.named == v.ends && v.duration == v.ends
        });
    }
    Ok(good)
}

fn other_programs(how: &How, lines: impl FnOnce(&How) -> Result<Vec<others::Line>>) -> bool {
    println!(
        "{:<18}{:>7}{:>7}{:>7}{:>7}{:>8}{:>7}",
        "program", "sent", "ends", "seen", "right", "joined", "wrong"
    );
    let mut good = true;
    let lines = lines(how);
    match lines {
        Err(error) => {
            println!("failed: {error:#}");
            good = false;
        }
        Ok(lines) => {
            for line in lines {
                println!(
                    "{:<18}{:>7}{:>7}{:>7}{:>7}{:>8}{:>7}",
                    line.program,
                    line.sent,
                    line.ends,
                    line.seen,
                    line.right,
                    line.joined,
                    line.wrong.len()
                );
                for text in line.wrong.iter().take(5) {
                    println!("    {text}");
                }
                good &= line.wrong.is_empty() && line.right == line.ends;
            }
        }
    }
    good
}

fn header() {
    println!(
        "{:<8}{:<8}{:>7}{:>9}{:>8}{:>8}{:>9}{:>9}{:>9}{:>9}{:>8}{:>8}",
        "client",
        "server",
        "calls",
        "seen",
        "named",
        "status",
        "duration",
        "joined",
        "messages",
        "at least",
        "wrong",
        "agent"
    );
}

/// Prints a row; whether it meets its claim.
fn print(arguments: &Arguments, row: &Row, report: Result<Report>, claim: impl Fn(&Verdict) -> bool) -> bool {
    let head = format!("{:<8}{:<8}", row.client.name(), row.server.name());
    let report = match report {
        Ok(report) => report,
        Err(error) => {
            println!("{head}failed: {error:#}");
            return false;
        }
    };
    let Some(outcome) = &report.outcome else {
        println!("{head}{:>7} all answered, {:.1?}", row.calls.len(), report.elapsed);
        return true;
    };
    let v = &report.verdict;
    println!(
        "{head}{:>7}{:>9.3}{:>8.2}{:>8.2}{:>9.2}{:>9.3}{:>9}{:>9}{:>8}{:>7}ms",
        v.calls(),
        v.percent(v.seen),
        v.percent(v.named),
        v.percent(v.status),
        v.percent(v.duration),
        v.joined_percent(),
        v.messages,
        v.at_least,
        v.wrong(),
        report.cpu.as_millis()
    );
    let good = claim(v);
    if !good {
        println!("        MISSES ITS CLAIM");
        for example in &v.examples {
            println!("            {example}");
        }
    }
    if arguments.counters {
        for (name, value) in outcome.counters.all().iter().filter(|(_, value)| **value > 0) {
            println!("            {name} {value}");
        }
    }
    good
}
