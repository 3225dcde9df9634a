//! What it costs the traced program to follow HTTP/2 frames in the kernel, beside the flat copy of a call's first 4 KiB: the kernel's own
//! figures of its programs (`bpf_stats`), both policies in turns, in one run and under one agent.
//!
//! ```text
//!   a connection of HTTP/2                                      policy *frames*
//!   an answer of HTTP/1.0, whose body goes on until its close   policy *first block*; its bytes are the same
//! ```
//! It must never count another program's run for one of these: they are known by what runs once a write, and once a read.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::agent::{Agent, Options};
use crate::grpc::wire::{DATA, END_HEADERS, HEADERS, PING, PREFACE, SETTINGS, connected, frame, literal};
use crate::load::only;
use crate::process::Scratch;

/// One line of the table: ns a call.
#[derive(Clone, Debug)]
pub struct Cost {
    /// What one call carries.
    pub carries: &'static str,
    /// Bytes of it.
    pub bytes: usize,
    /// Of a write: followed, and flat.
    pub write: [f64; 2],
    /// Of a read, likewise.
    pub read: [f64; 2],
}

/// Measures all shapes; of each the smallest of so many rounds, since noise only ever adds.
pub fn compare(rounds: usize, backend: &str, scratch: &Scratch) -> Result<Vec<Cost>> {
    let _stats = Stats::on()?;
    let mut arguments = only(&["spandrel-bench"]);
    arguments.extend(["--export".into(), "none".into()]);
    let agent = Agent::start(&Options::new(scratch).backend(backend).no_file().arguments(arguments))?;
    let mut pipes = [Pipe::followed()?, Pipe::flat()?];
    // Until the agent has said what it wants of both.
    for _ in 0..20 {
        for pipe in &mut pipes {
            pipe.write(&frame(DATA, 0, 1, &[0; 20]))?;
            pipe.read(29)?;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    let programs = Programs::find(agent.pid(), &mut pipes[0])?;
    let mut costs = Vec::new();
    for (carries, bytes) in shapes() {
        let mut cost =
            Cost { carries, bytes: bytes.len(), write: [f64::INFINITY; 2], read: [f64::INFINITY; 2] };
        for round in 0..rounds {
            for turn in 0..2 {
                let which = (round + turn) % 2;
                let Some(pipe) = pipes.get_mut(which) else { continue };
                let before = runs(agent.pid())?;
                for _ in 0..CALLS {
                    pipe.write(&bytes)?;
                    pipe.read(bytes.len())?;
                }
                let after = runs(agent.pid())?;
                for (ids, figures) in [(&programs.write, &mut cost.write), (&programs.read, &mut cost.read)] {
                    if let Some(figure) = figures.get_mut(which) {
                        *figure = figure.min(mean(ids, &before, &after));
                    }
                }
            }
        }
        costs.push(cost);
    }
    agent.stop()?;
    Ok(costs)
}

/// Calls a measurement.
const CALLS: usize = 300;

/// What calls carry.
fn shapes() -> Vec<(&'static str, Vec<u8>)> {
    let data = |length: usize| frame(DATA, 0, 1, &vec![b'x'; length]);
    let head = frame(HEADERS, END_HEADERS, 1, &literal("x-some", &"y".repeat(30)));
    vec![
        ("1 frame", data(100)),
        ("2 frames (HEADERS, DATA)", [head, data(70)].concat()),
        ("17 frames", data(40).repeat(17)),
        ("32 frames", data(14).repeat(32)),
        ("64 PINGs", frame(PING, 0, 0, &[7; 8]).repeat(64)),
        ("300 PINGs", frame(PING, 0, 0, &[7; 8]).repeat(300)),
        ("a message of 64 KiB, 5 frames", [data(5), data(16_384).repeat(3), data(16_379)].concat()),
        ("4 DATA of 16 KiB", data(16_384).repeat(4)),
    ]
}

/// A connection of this process with itself; what is measured goes from the server to the client.
struct Pipe {
    client: TcpStream,
    server: TcpStream,
    buffer: Vec<u8>,
}

impl Pipe {
    fn new() -> Result<Self> {
        let (client, server) = connected()?;
        Ok(Self { client, server, buffer: vec![0; 128 * 1024] })
    }

    fn followed() -> Result<Self> {
        let mut pipe = Self::new()?;
        let fields = [(":method", "POST"), (":scheme", "http"), (":path", "/follow")];
        let block: Vec<u8> = fields.iter().flat_map(|(name, value)| literal(name, value)).collect();
        pipe.ask(&[PREFACE, &frame(SETTINGS, 0, 0, &[]), &frame(HEADERS, END_HEADERS, 1, &block)].concat())?;
        let answer =
            [frame(SETTINGS, 0, 0, &[]), frame(HEADERS, END_HEADERS, 1, &literal(":status", "200"))].concat();
        pipe.write(&answer)?;
        pipe.read(answer.len())?;
        Ok(pipe)
    }

    fn flat() -> Result<Self> {
        let mut pipe = Self::new()?;
        pipe.ask(b"GET /flat HTTP/1.0\r\n\r\n")?;
        let answer = b"HTTP/1.0 200 OK\r\n\r\n";
        pipe.write(answer)?;
        pipe.read(answer.len())?;
        Ok(pipe)
    }

    fn ask(&mut self, bytes: &[u8]) -> Result<()> {
        self.client.write_all(bytes).context("writing")?;
        let room = self.buffer.get_mut(..bytes.len()).context("a buffer too small")?;
        self.server.read_exact(room).context("reading")
    }

    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.server.write_all(bytes).context("writing")
    }

    fn read(&mut self, length: usize) -> Result<()> {
        let room = self.buffer.get_mut(..length).context("a buffer too small")?;
        self.client.read_exact(room).context("reading")
    }
}

/// Nanoseconds and runs of each program that a process holds, by its id.
type Runs = HashMap<u64, (u64, u64)>;

/// `/proc/PID/fdinfo` of programs (kernel/bpf/syscall.c, `bpf_prog_show_fdinfo`).
fn runs(pid: u32) -> Result<Runs> {
    let folder = Path::new("/proc").join(pid.to_string()).join("fdinfo");
    let mut all = Runs::new();
    for entry in
        std::fs::read_dir(&folder).with_context(|| format!("listing {}", folder.display()))?.flatten()
    {
        let text = std::fs::read_to_string(entry.path()).unwrap_or_default();
        let field = |key: &str| -> Option<u64> {
            text.lines().find_map(|line| line.strip_prefix(key)?.trim_start_matches(':').trim().parse().ok())
        };
        if let (Some(id), Some(time), Some(count)) =
            (field("prog_id"), field("run_time_ns"), field("run_cnt"))
        {
            all.insert(id, (time, count));
        }
    }
    Ok(all)
}

/// ns a run of these programs, between two looks.
fn mean(ids: &[u64], before: &Runs, after: &Runs) -> f64 {
    let (mut time, mut count) = (0, 0);
    for id in ids {
        let ((t0, c0), (t1, c1)) =
            (before.get(id).copied().unwrap_or_default(), after.get(id).copied().unwrap_or_default());
        (time, count) = (time + t1.saturating_sub(t0), count + c1.saturating_sub(c0));
    }
    time as f64 / count.max(1) as f64
}

/// The programs that run once a write, and once a read.
struct Programs {
    write: Vec<u64>,
    read: Vec<u64>,
}

impl Programs {
    fn find(pid: u32, pipe: &mut Pipe) -> Result<Self> {
        const TIMES: usize = 500;
        let message = frame(DATA, 0, 1, &[0; 20]);
        let first = runs(pid)?;
        for _ in 0..TIMES {
            pipe.write(&message)?;
        }
        let second = runs(pid)?;
        for _ in 0..TIMES {
            pipe.read(message.len())?;
        }
        let third = runs(pid)?;
        let ran = |before: &Runs, after: &Runs| -> Vec<u64> {
            let count = |all: &Runs, id: &u64| all.get(id).map_or(0, |(_, count)| *count);
            after.keys().filter(|id| count(after, id) - count(before, id) >= TIMES as u64).copied().collect()
        };
        let (write, read) = (ran(&first, &second), ran(&second, &third));
        ensure!(
            !write.is_empty() && !read.is_empty() && write.iter().all(|id| !read.contains(id)),
            "the agent's programs cannot be told apart: {write:?} run at writes, {read:?} at reads"
        );
        Ok(Self { write, read })
    }
}

/// The kernel keeps its programs' run times as long as this lives.
struct Stats(String);

const STATS: &str = "/proc/sys/kernel/bpf_stats_enabled";

impl Stats {
    fn on() -> Result<Self> {
        let before = std::fs::read_to_string(STATS).with_context(|| format!("reading {STATS}"))?;
        std::fs::write(STATS, "1").with_context(|| format!("writing {STATS}, which takes root"))?;
        Ok(Self(before))
    }
}

impl Drop for Stats {
    fn drop(&mut self) {
        let _ = std::fs::write(STATS, &self.0);
    }
}
