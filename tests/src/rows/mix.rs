//! A long mix under one agent: rows of several runtimes in turns, two at a time, each with processes of its own that begin, grow
//! their pools, are connected to anew, collect garbage and end.
//!
//! Each turn is judged as the row is by itself. The agent sees all turns, so what it keeps of processes that are gone would grow,
//! and what it mistakes for them would be wrong. It must never forgive a span that is wrong or missing; only what a process is
//! asked before the agent knows it may be an orphan. Nor go on with one list when the other has failed.

use std::fs::File;
use std::io::{BufRead, BufReader, Seek, SeekFrom};
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::{Row, Run, Stage, named};
use crate::agent::{Agent, Options};
use crate::apps::Runtimes;
use crate::driver::{self, Load};
use crate::gaps::GapIndex;
use crate::judge::{self, Verdict};
use crate::load::Usage;
use crate::otlp::{self, SeenSpan};
use crate::process::Scratch;

/// Rows that take turns; those of one list are never at work together.
const LANES: [&[&str]; 2] = [
    &["chain", "chain-reverse", "go-fan", "jvm-thread", "nginx"],
    &["py-uvicorn-uvloop", "go-context-pool", "tokio-inline", "py-aiohttp", "threaded", "node"],
];
/// Requests of a turn behind the warm-up.
const REQUESTS: usize = 400;
/// How many are sent at once, on connections that are opened for it: pools grow, stand idle, and grow again.
const WAVES: [usize; 6] = [2, 30, 3, 40, 1, 20];
/// The longest wait before a request.
const PAUSE: Duration = Duration::from_millis(60);
/// Without a new span for so long, none will come.
const SETTLED: Duration = Duration::from_secs(4);

/// What came of it.
#[derive(Debug, Default)]
pub struct Mix {
    /// By row: how often it had its turn, and all its requests behind the warm-up.
    pub rows: Vec<(&'static str, usize, Verdict)>,
    /// Those of warm-ups: only *wrong* counts.
    pub warm_up: Verdict,
    /// Services that were started.
    pub processes: u64,
    /// The agent's memory in bytes, the median of each minute.
    pub memory: Vec<f64>,
}

/// Goes on for so many minutes. These rows take turns, or those of [`LANES`]; `weakest` link is what the agent is told, if anything.
pub fn run(minutes: u64, backend: &str, rows: &[String], weakest: Option<&str>) -> Result<Mix> {
    let lanes = lanes(rows)?;
    let scratch = Scratch::new("mix")?;
    let file = scratch.join("mix.jsonl");
    let mut options = Options::new(&scratch).backend(backend).no_file();
    if let Some(weakest) = weakest {
        options = options.arguments(["--weakest-link", weakest]);
    }
    let export = format!("file:{}", file.display());
    let agent = Agent::start(&options.arguments(["--export", &export]))?;
    let over = Instant::now() + Duration::from_secs(minutes * 60);
    let (stop, failed, processes) = (AtomicBool::new(false), AtomicBool::new(false), AtomicU64::new(0));
    let arrived: [Mutex<Vec<SeenSpan>>; 2] = Default::default();
    let turns: Mutex<Vec<(&'static Row, Verdict, Verdict)>> = Mutex::default();
    let mut mix = Mix::default();
    std::thread::scope(|scope| -> Result<()> {
        let reader = scope.spawn(|| read(file, &arrived, &stop));
        let lanes: Vec<_> = lanes
            .iter()
            .zip(&arrived)
            .zip(0u64..)
            .map(|((rows, arrived), lane)| {
                let (turns, failed, processes) = (&turns, &failed, &processes);
                scope.spawn(move || -> Result<()> {
                    for (turn, row) in (1u64..).zip(rows.iter().copied().cycle()) {
                        if Instant::now() >= over || failed.load(Ordering::Relaxed) {
                            return Ok(());
                        }
                        let (warm, verdict) = take_turn(row, lane << 32 | turn, arrived)
                            .inspect_err(|_| failed.store(true, Ordering::Relaxed))
                            .with_context(|| format!("row {}, turn {turn}", row.name))?;
                        processes.fetch_add(row.programs.len() as u64, Ordering::Relaxed);
                        if let Ok(mut turns) = turns.lock() {
                            turns.push((row, warm, verdict));
                        }
                    }
                    Ok(())
                })
            })
            .collect();
        let mut minute = Vec::new();
        while !lanes.iter().all(std::thread::ScopedJoinHandle::is_finished) {
            std::thread::sleep(Duration::from_secs(1));
            minute.extend(Usage::of(agent.pid()).map(|usage| usage.anonymous + usage.maps));
            if minute.len() == 60 {
                minute.sort_by(f64::total_cmp);
                mix.memory.push(minute[30]);
                minute.clear();
            }
        }
        stop.store(true, Ordering::Relaxed);
        for lane in lanes {
            lane.join().unwrap_or_else(|_| bail!("a thread of the mix panicked"))?;
        }
        reader.join().unwrap_or_else(|_| bail!("the thread that reads spans panicked"))
    })?;
    agent.stop()?;
    mix.processes = processes.into_inner();
    for (row, warm, verdict) in turns.into_inner().unwrap_or_default() {
        mix.warm_up.add(&warm);
        match mix.rows.iter_mut().find(|(name, ..)| *name == row.name) {
            Some((_, turns, all)) => {
                *turns += 1;
                all.add(&verdict);
            }
            None => mix.rows.push((row.name, 1, verdict)),
        }
    }
    Ok(mix)
}

/// The rows of each lane.
fn lanes(rows: &[String]) -> Result<[Vec<&'static Row>; 2]> {
    let mut lanes: [Vec<&'static Row>; 2] = Default::default();
    let [one, other] = &mut lanes;
    if rows.is_empty() {
        for (lane, names) in [one, other].into_iter().zip(LANES) {
            *lane = names.iter().map(|name| named(name)).collect::<Result<_>>()?;
        }
    } else {
        for (number, name) in rows.iter().enumerate() {
            (if number % 2 == 0 { &mut *one } else { &mut *other }).push(named(name)?);
        }
    }
    Ok(lanes)
}

/// One row, from the start of its services to their end: the warm-up's verdict, and the others'.
fn take_turn(row: &Row, seed: u64, arrived: &Mutex<Vec<SeenSpan>>) -> Result<(Verdict, Verdict)> {
    let scratch = Scratch::new("turn")?;
    // A heap that small is collected all the time.
    let java_options = ["-Xmx48m", "-Xmn8m"].map(String::from).to_vec();
    let how = Run {
        requests: REQUESTS,
        seed,
        runtimes: Runtimes { java_options, ..Runtimes::default() },
        ..Run::default()
    };
    let warm_up = row.warm_up.max(60);
    if let Ok(mut spans) = arrived.lock() {
        spans.clear();
    }
    let stage = Stage::set(row, &how, warm_up, &scratch)?;
    let (warm, roots) = stage.plan.roots.split_at(warm_up.min(stage.plan.roots.len()));
    let to = stage.front.address()?;
    driver::drive(&Load { to, concurrency: 8, pause: PAUSE, seed }, &stage.plan, warm)?;
    // What a proof needs beyond traffic: nginx is looked at every two seconds.
    std::thread::sleep(Duration::from_secs(2));
    let each = roots.len().div_ceil(WAVES.len()).max(1);
    for (wave, (concurrency, roots)) in (0u64..).zip(WAVES.iter().copied().zip(roots.chunks(each))) {
        driver::drive(&Load { to, concurrency, pause: PAUSE, seed: seed ^ wave << 16 }, &stage.plan, roots)?;
    }
    let (mut count, mut last) = (0, Instant::now());
    loop {
        std::thread::sleep(Duration::from_millis(200));
        let Ok(spans) = arrived.lock() else { bail!("the thread that reads spans panicked") };
        if judge::all_there(&stage.plan, &spans) || (spans.len() == count && last.elapsed() > SETTLED) {
            break;
        }
        if spans.len() != count {
            (count, last) = (spans.len(), Instant::now());
        }
    }
    let spans = arrived.lock().map(|mut spans| std::mem::take(&mut *spans)).unwrap_or_default();
    let (places, gaps) = (Default::default(), GapIndex::default());
    let verdict = |roots| judge::judge(&stage.plan, roots, row.provable(), &spans, &places, &gaps);
    Ok((verdict(warm), verdict(roots)))
}

/// Hands each span of a file that grows to all who wait.
fn read(path: PathBuf, arrived: &[Mutex<Vec<SeenSpan>>], stop: &AtomicBool) -> Result<()> {
    let mut at = 0;
    let mut line = String::new();
    while !stop.load(Ordering::Relaxed) {
        std::thread::sleep(Duration::from_millis(50));
        let Ok(mut file) = File::open(&path) else { continue };
        file.seek(SeekFrom::Start(at)).context("seeking in the file of spans")?;
        let mut reader = BufReader::new(file);
        loop {
            line.clear();
            let got = reader.read_line(&mut line).context("reading the file of spans")?;
            if !line.ends_with('\n') {
                break;
            }
            at += got as u64;
            let spans = otlp::parse(line.trim_end())?;
            for waits in arrived {
                if let Ok(mut all) = waits.lock() {
                    all.extend(spans.iter().cloned());
                }
            }
        }
    }
    Ok(())
}
