//! `spandrel-bench`: what Spandrel costs the traced program. A saturated nginx (1 KiB, keep-alive) and bare system
//! calls, without an agent and with it by each backend, interleaved in one run.
//!
//! Ratios within a run are the result; the figures themselves are of the machine at hand. Each round measures every
//! mode once, in an order that turns from round to round, and a mode's ratio is the median over the rounds of it
//! against `off` of the same round. It must never compare two runs, and never leave out a round that it does not like.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use clap::Parser;
use spandrel_tests::agent::{Agent, Options};
use spandrel_tests::follow;
use spandrel_tests::load::{Load, Nginx, Sink, Usage, only, saturate};
use spandrel_tests::many;
use spandrel_tests::process::{Scratch, output};
use spandrel_tests::sdk;

/// Measures what the agent (`SPANDREL_BIN`, or target/release/spandrel) costs the traced program.
#[derive(Debug, Parser)]
struct Arguments {
    /// How long each measurement of nginx takes.
    #[arg(long, default_value_t = 5)]
    seconds: u64,
    /// How often each mode is measured.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Open connections to nginx.
    #[arg(long, default_value_t = 32)]
    connections: usize,
    /// Only this backend; repeatable.
    #[arg(long, default_values = ["socket", "syscall"])]
    backend: Vec<String>,
    /// Only the bare system calls.
    #[arg(long)]
    calls_only: bool,
    /// Export nothing: what the kernel side and the agent's own work cost without a backend on the same machine.
    #[arg(long)]
    no_export: bool,
    /// Instead: services under Spandrel beside the same services under an SDK's auto-instrumentation, which is installed
    /// under target/ first.
    #[arg(long)]
    sdk: bool,
    /// Instead: following HTTP/2 frames in the kernel beside the flat copy of a call's first 4 KiB.
    #[arg(long)]
    frames: bool,
    /// Instead: how long an agent takes that starts beside so many processes of mixed runtimes with requests under way.
    #[arg(long, value_name = "PROCESSES")]
    many: Option<usize>,
    /// With --sdk: only services whose name contains this; repeatable.
    #[arg(long)]
    subject: Vec<String>,
}

fn main() -> ExitCode {
    match bench(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn bench(arguments: &Arguments) -> Result<()> {
    let modes: Vec<Mode> =
        std::iter::once(None).chain(arguments.backend.iter().map(|backend| Some(backend.clone()))).collect();
    let scratch = Scratch::new("bench")?;
    println!("{}", machine()?);
    if let Some(count) = arguments.many {
        return beside_many(count, &scratch);
    }
    if arguments.sdk {
        return beside_sdks(arguments, &scratch);
    }
    if arguments.frames {
        return follower(arguments, &scratch);
    }

    println!(
        "\nbare system calls, ns (the smallest of {CALL_REPEATS} × {CALLS}, median of {} rounds)",
        arguments.rounds
    );
    println!("{:<10} {:>12} {:>12}", "mode", "socket call", "file read");
    let mut calls = Samples::new(&modes);
    for round in 0..arguments.rounds {
        for mode in turned(modes.len(), round) {
            let _agent =
                modes.get(mode).and_then(Option::as_deref).map(|b| start(&scratch, b, None)).transpose()?;
            calls.add(mode, [socket_call()?, file_read()?]);
        }
    }
    for (mode, name) in modes.iter().enumerate() {
        let [socket, file] = calls.medians(mode);
        println!("{:<10} {socket:>12.0} {file:>12.0}", named(name));
    }
    for (mode, name) in modes.iter().enumerate().skip(1) {
        let [socket, file] = calls.median_differences(mode);
        println!(
            "{:<10} {:>12} {:>12}   over off",
            named(name),
            format!("{socket:+.0}"),
            format!("{file:+.0}")
        );
    }
    if arguments.calls_only {
        return Ok(());
    }

    let sink = Sink::start()?;
    let port = (!arguments.no_export).then_some(sink.port);
    let nginx = Nginx::start(&scratch)?;
    let mut web = Samples::new(&modes);
    let mut costs: Vec<Vec<Cost>> = modes.iter().map(|_| Vec::new()).collect();
    println!(
        "\nnginx, 1 KiB, keep-alive, {} connections, {} s a measurement",
        arguments.connections, arguments.seconds
    );
    println!("{:<5} {:<10} {:>12} {:>10} {:>10}", "round", "mode", "requests/s", "p50 µs", "p99 µs");
    for round in 0..arguments.rounds {
        for mode in turned(modes.len(), round) {
            let Some(name) = modes.get(mode) else { continue };
            let agent = name.as_deref().map(|backend| start(&scratch, backend, port)).transpose()?;
            let before = agent.as_ref().map(|agent| Usage::of(agent.pid())).transpose()?;
            let load = saturate(&nginx.at, "/file", nginx.threads, arguments.connections, arguments.seconds)?;
            println!(
                "{:<5} {:<10} {:>12.0} {:>10.0} {:>10.0}",
                round + 1,
                named(name),
                load.rate,
                load.p50,
                load.p99
            );
            web.add(mode, [load.rate, load.p50, load.p99]);
            if let (Some(agent), Some(before), Some(costs)) = (agent, before, costs.get_mut(mode)) {
                costs.push(Cost::measure(agent, &before, &load)?);
            }
        }
    }
    println!(
        "\nagainst off of the same round, median of {} rounds (budgets: ARCHITECTURE.md)",
        arguments.rounds
    );
    for (mode, name) in modes.iter().enumerate().skip(1) {
        let [rate, p50, p99] = web.median_ratios(mode);
        println!("{}:", named(name));
        println!(
            "  throughput lost            {:>8.1} %   budget: 4 % on metal, 8 % in a VM of two cores",
            (1.0 - rate) * 100.0
        );
        println!("  p50                        {:>+8.1} %", (p50 - 1.0) * 100.0);
        println!("  p99                        {:>+8.1} %", (p99 - 1.0) * 100.0);
        let of = |value: fn(&Cost) -> f64| median(costs.get(mode).into_iter().flatten().map(value).collect());
        println!(
            "  agent CPU a request        {:>8.2} µs  budget: 5 µs (client and server traced)",
            of(|c| c.cpu)
        );
        println!(
            "  agent memory, anonymous    {:>8.1} MiB budget: 64 MiB with the kernel's maps",
            of(|c| c.anonymous)
        );
        println!("  kernel maps but the ring   {:>8.1} MiB", of(|c| c.maps));
        println!("  ring                       {:>8.1} MiB", of(|c| c.ring));
        let fewest =
            costs.get(mode).into_iter().flatten().map(|cost| cost.complete).fold(f64::INFINITY, f64::min);
        println!(
            "  spans of requests × 2      {:>8.3} %   in the worst round {:.3} %",
            of(|c| c.complete) * 100.0,
            fewest * 100.0
        );
        println!("  OTLP received              {:>8.1} MiB over all modes", sink.received() / MIB);
        for line in costs.get(mode).into_iter().flatten().flat_map(|cost| &cost.losses) {
            println!("  lost: {line}");
        }
    }
    Ok(())
}

/// The kernel side's time a call, by what the call carries.
fn follower(arguments: &Arguments, scratch: &Scratch) -> Result<()> {
    for backend in &arguments.backend {
        println!(
            "\n{backend}: ns a call of the kernel side (bpf_stats; the smallest of {} rounds in turns): frames followed, first 4 KiB copied",
            arguments.rounds
        );
        println!(
            "{:<32} {:>7} {:>9} {:>9} {:>9} {:>9}",
            "a call carries", "bytes", "write: fr", "4 KiB", "read: fr", "4 KiB"
        );
        for cost in follow::compare(arguments.rounds, backend, scratch)? {
            let ([w0, w1], [r0, r1]) = (cost.write, cost.read);
            println!("{:<32} {:>7} {w0:>9.0} {w1:>9.0} {r0:>9.0} {r1:>9.0}", cost.carries, cost.bytes);
        }
    }
    Ok(())
}

/// How an agent starts beside many processes.
fn beside_many(count: usize, scratch: &Scratch) -> Result<()> {
    let start = many::start(count, scratch)?;
    let services: Vec<_> = start.services.iter().map(|(kind, count)| format!("{count} {kind}")).collect();
    println!("\n{count} services: {}", services.join(", "));
    println!("ready after                {:>8.2} s", start.ready.as_secs_f64());
    println!("the first span after       {:>8.2} s   budget: 2 s", start.first_span.as_secs_f64());
    for (kind, at) in &start.proved {
        match at {
            Some(at) => println!("the last {kind:<8} proved after {:>5.2} s", at.as_secs_f64()),
            None => println!("the last {kind:<8} never proved"),
        }
    }
    println!("not proved                 {:>8}", start.unproved);
    println!("end after SIGINT           {:>8.2} s", start.end.as_secs_f64());
    println!("{:<26} {:>8} {:>8} {:>8} {:>8}", "latency, ms", "requests", "p50", "p99", "longest");
    for (when, latency) in ["before", "until all is proved", "after"].iter().zip(start.latencies) {
        println!(
            "{when:<26} {:>8} {:>8.1} {:>8.1} {:>8.1}",
            latency.requests, latency.p50, latency.p99, latency.longest
        );
    }
    Ok(())
}

/// What the same service loses to Spandrel and to its SDK.
fn beside_sdks(arguments: &Arguments, scratch: &Scratch) -> Result<()> {
    println!("\n1 KiB, keep-alive, {} s a measurement, the service's side traced", arguments.seconds);
    let chosen = |name: &str| {
        arguments.subject.is_empty() || arguments.subject.iter().any(|part| name.contains(part.as_str()))
    };
    for subject in sdk::SUBJECTS.iter().filter(|subject| chosen(subject.name)) {
        let lost = sdk::compare(subject, arguments.rounds, arguments.seconds, scratch)?;
        // Go has no SDK that installs by itself.
        let said = |figure: f64| if figure.is_nan() { "–".to_owned() } else { format!("{figure:.0}") };
        let (spandrel, sdk) = (median(lost.spandrel), median(lost.sdk));
        println!(
            "{}: throughput lost to Spandrel {spandrel:.1} %, to the SDK {} %, median of {} rounds",
            subject.name,
            said(sdk),
            arguments.rounds
        );
        let [alone, traced, instrumented] = lost.p99.map(median);
        println!(
            "    p99: alone {alone:.0} µs, with Spandrel {traced:.0}, with the SDK {}",
            said(instrumented)
        );
        let [alone, traced, instrumented] = lost.cpu.map(median);
        println!(
            "    CPU of the service a request: alone {alone:.0} µs, with Spandrel {traced:.0}, with the SDK {}; \
             {:.1} hits of probes a request",
            said(instrumented),
            median(lost.hits)
        );
    }
    println!("budget: a twentieth of the SDK's");
    Ok(())
}

/// `None` is off; else the agent's backend.
type Mode = Option<String>;

fn named(mode: &Mode) -> &str {
    mode.as_deref().unwrap_or("off")
}

/// The modes' order in this round: each is first, in the middle and last equally often.
fn turned(modes: usize, round: usize) -> impl Iterator<Item = usize> {
    (0..modes).map(move |mode| (mode + round) % modes)
}

/// An agent as a user starts it, with spans to this port or nowhere.
fn start(scratch: &Scratch, backend: &str, port: Option<u16>) -> Result<Agent> {
    let mut arguments = only(&["nginx", "wrk", "spandrel-bench"]);
    arguments.extend(match port {
        Some(port) => {
            vec![
                "--export".into(),
                "otlp".into(),
                "--otlp-endpoint".into(),
                format!("http://127.0.0.1:{port}"),
            ]
        }
        None => vec!["--export".into(), "none".into()],
    });
    Agent::start(&Options::new(scratch).backend(backend).no_file().arguments(arguments))
}

/// What was measured, by mode and round: `N` figures at a time.
struct Samples<const N: usize>(Vec<Vec<[f64; N]>>);

impl<const N: usize> Samples<N> {
    fn new(modes: &[Mode]) -> Self {
        Self(modes.iter().map(|_| Vec::new()).collect())
    }

    fn add(&mut self, mode: usize, sample: [f64; N]) {
        if let Some(samples) = self.0.get_mut(mode) {
            samples.push(sample);
        }
    }

    fn of(&self, mode: usize) -> &[[f64; N]] {
        self.0.get(mode).map_or(&[], Vec::as_slice)
    }

    fn medians(&self, mode: usize) -> [f64; N] {
        column_medians(self.of(mode).to_vec())
    }

    /// Against `off` of the same round.
    fn paired(&self, mode: usize, figure: impl Fn(f64, f64) -> f64) -> [f64; N] {
        let rounds = self.of(mode).iter().zip(self.of(0));
        column_medians(
            rounds.map(|(on, off)| std::array::from_fn(|n| figure(at(on, n), at(off, n)))).collect(),
        )
    }

    fn median_ratios(&self, mode: usize) -> [f64; N] {
        self.paired(mode, |on, off| on / off)
    }

    fn median_differences(&self, mode: usize) -> [f64; N] {
        self.paired(mode, |on, off| on - off)
    }
}

fn at<const N: usize>(figures: &[f64; N], n: usize) -> f64 {
    figures.get(n).copied().unwrap_or(f64::NAN)
}

fn column_medians<const N: usize>(rows: Vec<[f64; N]>) -> [f64; N] {
    std::array::from_fn(|n| median(rows.iter().map(|row| at(row, n)).collect()))
}

fn median(mut figures: Vec<f64>) -> f64 {
    figures.sort_by(f64::total_cmp);
    match figures.len() {
        0 => f64::NAN,
        n if n % 2 == 1 => figures.get(n / 2).copied().unwrap_or(f64::NAN),
        n => figures.get(n / 2 - 1..=n / 2).map_or(f64::NAN, |middle| middle.iter().sum::<f64>() / 2.0),
    }
}

/// How often the smallest is looked for, of so many calls each: noise only ever adds.
const CALL_REPEATS: usize = 20;
const CALLS: u32 = 2_000;

/// ns of one call on a connection that carries HTTP requests and responses of 256 bytes: two writes and two reads an
/// exchange, by one thread, so that no wake-up is in it.
fn socket_call() -> Result<f64> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("listening")?;
    let mut client =
        TcpStream::connect(listener.local_addr().context("asking for the port")?).context("connecting")?;
    let (mut server, _) = listener.accept().context("accepting")?;
    client.set_nodelay(true).context("switching Nagle off")?;
    server.set_nodelay(true).context("switching Nagle off")?;
    let request = padded("GET /bench HTTP/1.1\r\nHost: bench\r\nX-Padding: ", "\r\n\r\n");
    let response = padded("HTTP/1.1 200 OK\r\nContent-Length: 0\r\nX-Padding: ", "\r\n\r\n");
    let mut buffer = [0; MESSAGE];
    let mut exchange = || -> std::io::Result<()> {
        client.write_all(&request)?;
        server.read_exact(&mut buffer)?;
        server.write_all(&response)?;
        client.read_exact(&mut buffer)
    };
    smallest(4, || exchange().context("exchanging a message"))
}

/// ns of a read of 256 bytes that is on no socket.
fn file_read() -> Result<f64> {
    let mut file = std::fs::File::open("/dev/zero").context("opening /dev/zero")?;
    let mut buffer = [0; MESSAGE];
    smallest(1, || file.read_exact(&mut buffer).context("reading /dev/zero"))
}

const MESSAGE: usize = 256;

fn padded(start: &str, end: &str) -> Vec<u8> {
    let padding = MESSAGE - start.len() - end.len();
    [start.as_bytes(), &vec![b'x'; padding], end.as_bytes()].concat()
}

fn smallest(calls: u32, mut run: impl FnMut() -> Result<()>) -> Result<f64> {
    let mut smallest = f64::INFINITY;
    for _ in 0..CALL_REPEATS {
        let began = Instant::now();
        for _ in 0..CALLS {
            run()?;
        }
        smallest = smallest.min(began.elapsed().as_nanos() as f64 / f64::from(CALLS * calls));
    }
    Ok(smallest)
}

/// What the agent took for one load.
struct Cost {
    /// Microseconds of CPU a request.
    cpu: f64,
    /// MiB.
    anonymous: f64,
    maps: f64,
    ring: f64,
    /// Spans of two a request.
    complete: f64,
    /// Counters of losses that are not 0.
    losses: Vec<String>,
}

impl Cost {
    /// Measures while the agent still runs, then stops it and reads its counters.
    fn measure(agent: Agent, before: &Usage, load: &Load) -> Result<Self> {
        // What is still in the ring and in the queues belongs to the load.
        std::thread::sleep(Duration::from_secs(1));
        let after = Usage::of(agent.pid())?;
        let counters = agent.stop()?.counters;
        let requests = load.requests.max(1) as f64;
        let losses = counters.matching(&[]).filter(|(name, value)| *value > 0 && is_loss(name));
        Ok(Self {
            cpu: (after.cpu - before.cpu).as_secs_f64() * 1e6 / requests,
            anonymous: after.anonymous / MIB,
            maps: after.maps / MIB,
            ring: after.ring / MIB,
            complete: counters.sum(&["spandrel_export_exported_spans_total"]) as f64 / (2.0 * requests),
            losses: losses.map(|(name, value)| format!("{name} {value}")).collect(),
        })
    }
}

fn is_loss(name: &str) -> bool {
    ["lost", "dropped", "unparsed", "refused", "overflow"].iter().any(|word| name.contains(word))
}

const MIB: f64 = 1024.0 * 1024.0;

fn machine() -> Result<String> {
    let kernel = output(Command::new("uname").arg("-r"))?;
    let processors = std::fs::read_to_string("/proc/cpuinfo").context("reading /proc/cpuinfo")?;
    let model = processors.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or(": ?");
    let cores = std::thread::available_parallelism().map_or(0, std::num::NonZero::get);
    Ok(format!("Linux {}, {cores} cores{}", kernel.trim(), model.trim_start()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_mode_is_measured_once_a_round_and_first_in_turn() {
        let orders: Vec<Vec<usize>> = (0..3).map(|round| turned(3, round).collect()).collect();
        assert_eq!(orders, [[0, 1, 2], [1, 2, 0], [2, 0, 1]]);
    }

    #[test]
    fn ratios_are_of_the_same_round() {
        let mut samples = Samples::<1>::new(&[None, Some("socket".into())]);
        for (off, on) in [(100.0, 90.0), (50.0, 45.0), (10.0, 9.0)] {
            samples.add(0, [off]);
            samples.add(1, [on]);
        }
        assert!((samples.median_ratios(1)[0] - 0.9).abs() < 1e-9);
        assert!((median(vec![4.0, 1.0, 2.0, 3.0]) - 2.5).abs() < 1e-9);
    }
}
