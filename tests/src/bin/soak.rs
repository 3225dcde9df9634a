//! `spandrel-soak`: whether the agent's memory stays flat, and nothing is held back, over minutes of what tempts it to
//! keep things: connections that come and go, a WebSocket that stays open while its handler calls out, and processes of
//! several runtimes that begin, grow and end, each call of which is judged.
//!
//! Memory is anonymous memory and the kernel's maps without the ring, sampled each second; a minute counts by its
//! median, and no minute after the first may differ from the second by more than [`FLAT`]; of the mix no minute after the
//! [`SETTLED`]th may exceed that one so. It must never leave a minute out, or pass when the load itself fell short.

use std::io::{BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use clap::{Parser, ValueEnum};
use spandrel_tests::agent::{Agent, Options};
use spandrel_tests::apps;
use spandrel_tests::load::{Nginx, Sink, Usage, only};
use spandrel_tests::process::{Endpoint, Scratch, Service, needed};
use spandrel_tests::rows::{self, mix};

/// Watches the agent's memory (`SPANDREL_BIN`, or target/release/spandrel) over minutes.
#[derive(Debug, Parser)]
struct Arguments {
    /// How long each part takes; the first minute is for warming up, so at least 3; of the mix the first five.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(3..))]
    minutes: u64,
    /// New connections a second.
    #[arg(long, default_value_t = 1_000)]
    connections: u64,
    /// Calls a second of the WebSocket's handler.
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u64).range(1..=1000))]
    calls: u64,
    /// Only this part.
    #[arg(long)]
    only: Option<Part>,
    /// Of the mix: this row takes turns, instead of the usual ones; repeatable.
    #[arg(long)]
    row: Vec<String>,
    /// Of the mix: what the agent is told.
    #[arg(long, value_name = "KIND")]
    weakest_link: Option<String>,
    /// The agent's backend.
    #[arg(long, default_value = "auto")]
    backend: String,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
enum Part {
    Connections,
    Websocket,
    Mix,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let wanted = |part| arguments.only.is_none_or(|only| only == part);
    let mut failed = false;
    for (part, run) in [
        (Part::Connections, connections as fn(&Arguments) -> Result<()>),
        (Part::Websocket, websocket),
        (Part::Mix, mixed),
    ] {
        if wanted(part)
            && let Err(error) = run(&arguments)
        {
            eprintln!("error: {part:?}: {error:#}");
            failed = true;
        }
    }
    if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

/// How much a minute may differ from the second one.
const FLAT: f64 = 0.05;

/// The minute of the mix with which later ones are compared: by then each row has had two turns, so that every
/// kind of process was met together with others, and processes that ended two minutes ago are being forgotten.
const SETTLED: usize = 5;

/// Threads that open connections: each is blocked most of its time.
const OPENERS: u64 = 8;

/// One request on each of so many new connections a second; spans go to an OTLP backend.
fn connections(arguments: &Arguments) -> Result<()> {
    println!(
        "{} new connections a second, one request each, {} minutes",
        arguments.connections, arguments.minutes
    );
    let scratch = Scratch::new("soak")?;
    let nginx = Nginx::start(&scratch)?;
    let to = nginx.at.address()?;
    let sink = Sink::start()?;
    let endpoint = format!("http://127.0.0.1:{}", sink.port);
    let options = Options::new(&scratch).backend(&arguments.backend).no_file();
    let options = options.arguments(only(&["nginx", "spandrel-soak"]));
    let agent = Agent::start(&options.arguments(["--export", "otlp", "--otlp-endpoint", &endpoint]))?;

    let (stop, opened) = (AtomicBool::new(false), AtomicU64::new(0));
    let minutes = std::thread::scope(|scope| {
        let openers: Vec<_> = (0..OPENERS)
            .map(|_| {
                scope.spawn(|| {
                    open(to, Duration::from_secs(OPENERS) / arguments.connections as u32, &stop, &opened)
                })
            })
            .collect();
        let minutes = watch(arguments.minutes, || Usage::of(agent.pid()), |_| Ok(()));
        stop.store(true, Ordering::Relaxed);
        for opener in openers {
            opener.join().unwrap_or_else(|_| bail!("a thread that opens connections panicked"))?;
        }
        minutes
    })?;

    let opened = opened.load(Ordering::Relaxed);
    let wanted = arguments.connections * arguments.minutes * 60;
    // What is still in the ring and in the queues.
    std::thread::sleep(Duration::from_secs(2));
    let counters = agent.stop()?.counters;
    let exported = counters.sum(&["spandrel_export_exported_spans_total"]);
    println!(
        "{opened} connections of {wanted} wanted; {exported} spans exported, {:.3} % of two each",
        percent(exported, 2 * opened)
    );
    ensure!(opened * 100 >= wanted * 95, "the load fell short: {opened} connections of {wanted}");
    flat(&minutes)
}

/// Opens a connection every so often until told to stop. The server closes, so that no port of ours is kept waiting.
fn open(to: SocketAddr, every: Duration, stop: &AtomicBool, opened: &AtomicU64) -> Result<()> {
    let mut next = Instant::now();
    let mut answer = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        std::thread::sleep(next.saturating_duration_since(Instant::now()));
        next += every;
        let mut stream = TcpStream::connect(to).context("connecting")?;
        stream
            .write_all(b"GET /file HTTP/1.1\r\nHost: soak\r\nConnection: close\r\n\r\n")
            .context("sending")?;
        answer.clear();
        stream.read_to_end(&mut answer).context("receiving")?;
        ensure!(answer.starts_with(b"HTTP/1.1 200 "), "no answer: {}", String::from_utf8_lossy(&answer));
        opened.fetch_add(1, Ordering::Relaxed);
    }
    Ok(())
}

/// A span may take so long from its end to the file.
const OUT_WITHIN: Duration = Duration::from_secs(60);

/// One WebSocket for the whole time, whose handler makes so many calls a second; spans go to a file.
fn websocket(arguments: &Arguments) -> Result<()> {
    println!(
        "a WebSocket whose handler makes {} calls a second, {} minutes",
        arguments.calls, arguments.minutes
    );
    let scratch = Scratch::new("soak")?;
    let nginx = Nginx::start(&scratch)?;
    let calls = scratch.join("calls.txt");
    let number = arguments.calls * arguments.minutes * 60;
    let paths: String = (0..number).map(|n| format!("/ok/call-{n}\n")).collect();
    std::fs::write(&calls, paths).context("writing the list of calls")?;
    let front = Endpoint::free()?;
    let mut command = Command::new(apps::python()?);
    command.arg(apps::source("websocket.py")).args([
        format!("port={}", front.port()?),
        format!("next={}", nginx.at.target()),
        format!("calls={}", calls.display()),
        format!("every={}", 1_000 / arguments.calls),
    ]);
    let _front = Service::listening("websocket.py", &mut command, &scratch, &front)?;
    let file = scratch.join("soak.jsonl");
    let export = format!("file:{}", file.display());
    let options = Options::new(&scratch).backend(&arguments.backend).no_file();
    let options = options.arguments(only(&["nginx", "python3*", "curl"]));
    let agent = Agent::start(&options.arguments(["--export", &export]))?;

    let mut client = Command::new(needed("curl")?);
    client.args(["--silent", "--no-buffer", "--http1.1", "--output", "/dev/null"]);
    client.args(["-H", "Connection: Upgrade", "-H", "Upgrade: websocket", "-H", "Sec-WebSocket-Version: 13"]);
    client.args([
        "-H",
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
        &format!("http://{}/ws", front.target()),
    ]);
    let mut client = Service::start("curl", &mut client, &scratch)?;

    let mut tail = Tail::new(&file);
    let mut made: Vec<(Instant, u64)> = Vec::new();
    let began = Instant::now();
    let minutes = watch(
        arguments.minutes,
        || Usage::of(agent.pid()),
        |_| {
            // The handler keeps its rate or falls behind it; it is never ahead.
            let spans = tail.count("/ok/call-")?;
            made.push((Instant::now(), spans));
            let due = Instant::now().checked_sub(OUT_WITHIN).filter(|due| *due > began);
            let due = due.map_or(0, |due| (due - began).as_secs() * arguments.calls * 9 / 10);
            ensure!(
                spans >= due,
                "{spans} spans are out after {:?}, {due} were due: calls are held back",
                began.elapsed()
            );
            Ok(())
        },
    )?;
    ensure!(
        client.exited()?.is_none() || began.elapsed() >= Duration::from_secs(arguments.minutes * 60 - 5),
        "the WebSocket ended early"
    );
    client.wait(Duration::from_secs(120))?;
    std::thread::sleep(Duration::from_secs(2));
    agent.stop()?;
    let spans = tail.count("/ok/call-")?;
    println!(
        "{number} calls; {spans} spans of them are out, {:.3} % of two each",
        percent(spans, 2 * number)
    );
    flat(&minutes)
}

/// Rows of the truth table in turns under one agent.
fn mixed(arguments: &Arguments) -> Result<()> {
    println!("services of several runtimes in turns, {} minutes", arguments.minutes);
    let weakest = arguments.weakest_link.as_deref();
    let mix = mix::run(arguments.minutes, &arguments.backend, &arguments.row, weakest)?;
    let (mut wrong, mut missing) = (mix.warm_up.wrong, 0);
    println!(
        "{:<20} {:>6} {:>9} {:>10} {:>8} {:>8} {:>8} {:>6}",
        "row", "turns", "requests", "complete", "right", "orphan", "missing", "wrong"
    );
    for (name, turns, verdict) in &mix.rows {
        println!(
            "{name:<20} {turns:>6} {:>9} {:>9.2}% {:>8} {:>8} {:>8} {:>6}",
            verdict.requests,
            verdict.complete_percent(),
            verdict.right,
            verdict.orphan,
            verdict.missing,
            verdict.wrong
        );
        wrong += verdict.wrong;
        missing += verdict.missing;
        if verdict.wrong + verdict.missing > 0 {
            verdict.examples.iter().for_each(|example| println!("    {example}"));
        }
    }
    println!("{} services were started; in warm-ups {} orphans", mix.processes, mix.warm_up.orphan);
    let megabytes: Vec<_> = mix.memory.iter().map(|bytes| format!("{:.1}", bytes / MIB)).collect();
    println!("memory by minute, MiB: {}", megabytes.join(" "));
    ensure!(wrong == 0 && missing == 0, "{wrong} wrong, {missing} missing");
    // `grown` compares with the second of what it is given.
    let settled = mix.memory.get(SETTLED - 2..).filter(|minutes| minutes.len() > 2);
    let grown = rows::grown(settled.context("too few minutes to say anything of memory")?);
    println!("memory after minute {SETTLED}: {:+.1} % at most", grown * 100.0);
    ensure!(grown <= FLAT, "memory grew by {:.1} % of minute {SETTLED}'s", grown * 100.0);
    Ok(())
}

fn percent(part: u64, whole: u64) -> f64 {
    part as f64 * 100.0 / whole.max(1) as f64
}

/// Counts texts in a file that grows, without reading any of it twice.
struct Tail {
    path: PathBuf,
    at: u64,
    count: u64,
}

impl Tail {
    fn new(path: &Path) -> Self {
        Self { path: path.to_path_buf(), at: 0, count: 0 }
    }

    /// How many spans there are so far whose URL or path holds `text`. Each names it once.
    fn count(&mut self, text: &str) -> Result<u64> {
        let Ok(mut file) = std::fs::File::open(&self.path) else { return Ok(self.count) };
        file.seek(SeekFrom::Start(self.at)).with_context(|| format!("seeking in {}", self.path.display()))?;
        let mut reader = BufReader::new(file);
        let mut line = Vec::new();
        while reader
            .read_until(b'\n', &mut line)
            .with_context(|| format!("reading {}", self.path.display()))?
            > 0
        {
            if line.last() != Some(&b'\n') {
                break;
            }
            self.at += line.len() as u64;
            self.count += String::from_utf8_lossy(&line).matches(text).count() as u64;
            line.clear();
        }
        Ok(self.count)
    }
}

/// Samples each second for so many minutes and calls `check` every ten; gives the median of each minute's memory, in bytes.
fn watch(
    minutes: u64,
    sample: impl Fn() -> Result<Usage>,
    mut check: impl FnMut(Duration) -> Result<()>,
) -> Result<Vec<f64>> {
    println!("{:>6} {:>16} {:>12} {:>10} {:>8}", "minute", "anonymous MiB", "maps MiB", "ring MiB", "CPU %");
    let began = Instant::now();
    let (mut medians, mut last) = (Vec::new(), sample()?);
    for minute in 0..minutes {
        let mut samples = Vec::new();
        for second in 1..=60 {
            let due = Duration::from_secs(minute * 60 + second);
            std::thread::sleep(due.saturating_sub(began.elapsed()));
            samples.push(sample()?);
            if second % 10 == 0 {
                check(began.elapsed())?;
            }
        }
        let median = |figure: fn(&Usage) -> f64| {
            let mut figures: Vec<f64> = samples.iter().map(figure).collect();
            figures.sort_by(f64::total_cmp);
            figures.get(figures.len() / 2).copied().unwrap_or(f64::NAN)
        };
        let now = samples.last().copied().unwrap_or(last);
        println!(
            "{:>6} {:>16.1} {:>12.1} {:>10.1} {:>8.1}",
            minute + 1,
            median(|usage| usage.anonymous) / MIB,
            median(|usage| usage.maps) / MIB,
            median(|usage| usage.ring) / MIB,
            (now.cpu - last.cpu).as_secs_f64() / 0.6
        );
        last = now;
        medians.push(median(|usage| usage.anonymous + usage.maps));
    }
    Ok(medians)
}

const MIB: f64 = 1024.0 * 1024.0;

/// From the second minute on.
fn flat(minutes: &[f64]) -> Result<()> {
    let Some((reference, rest)) = minutes.get(1..).and_then(<[f64]>::split_first) else {
        bail!("too few minutes to say anything");
    };
    let worst = rest.iter().map(|minute| minute / reference - 1.0).max_by(|a, b| a.abs().total_cmp(&b.abs()));
    let worst = worst.unwrap_or(0.0);
    println!("memory after the second minute: {:+.1} % at most", worst * 100.0);
    ensure!(worst.abs() <= FLAT, "memory is not flat: {:+.1} % of the second minute's", worst * 100.0);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_leak_of_six_percent_is_not_flat_and_the_first_minute_does_not_count() {
        assert!(flat(&[10.0, 100.0, 104.0, 96.0]).is_ok());
        assert!(flat(&[100.0, 100.0, 103.0, 106.0]).is_err());
        assert!(flat(&[100.0, 100.0, 94.0]).is_err());
        assert!(flat(&[100.0]).is_err());
    }

    #[test]
    fn a_line_that_is_still_being_written_is_counted_once_it_is_whole() {
        let path = std::env::temp_dir().join(format!("spandrel-tail-{}", std::process::id()));
        std::fs::write(&path, "/a /a\n/a").unwrap();
        let mut tail = Tail::new(&path);
        assert_eq!(tail.count("/a").unwrap(), 2);
        std::fs::write(&path, "/a /a\n/a /a\n").unwrap();
        assert_eq!(tail.count("/a").unwrap(), 4);
        std::fs::remove_file(&path).unwrap();
    }
}
