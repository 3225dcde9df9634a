//! Probed instructions: attaching them to one process, counting how often they are reached, taking them off.
//!
//! Part of the boundary to the kernel. A set of probes goes on whole or not at all, never where other bytes stand than
//! were meant, and comes off when its hits exceed its budget, since each costs the program microseconds. Links die with
//! the agent. Only entries and single instructions: a return probe would change the program's stack.

use std::collections::HashMap;
use std::fs::File;
use std::num::NonZeroU32;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::mpsc::{Sender, channel};

use anyhow::{Context as _, anyhow, ensure};
use aya::Ebpf;
use aya::programs::uprobe::{UProbeLink, UProbeLinkId, UProbeScope};
use aya::programs::{Program, UProbe};

use super::WalkMaps;
use crate::discover::runtimes::{ProbePoint, ProbeSet};
use crate::identity::{Monotonic, ProcessKey};
use crate::probe::load::load;

/// All sets that are on.
#[derive(Default)]
pub struct Uprobes {
    sets: HashMap<(ProcessKey, &'static str), Attached>,
    off: Off,
    ledger: Ledger,
}

/// The books of sets: attached = on + each way off.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Ledger {
    /// Sets that went on.
    pub attached: u64,
    /// Sets that could not be attached.
    pub failed: u64,
    /// Sets that came off because they were hit too often.
    pub over_budget: u64,
    /// Sets that came off because nobody wanted them any more.
    pub unwanted: u64,
    /// Sets whose process ended.
    pub ended: u64,
}

/// Where links end: on a thread of its own, begun with the first. The kernel waits at each until no processor can be in its
/// handler any more, some 70 ms, and holds a lock meanwhile (`perf_uprobe_destroy`: `event_mutex`), so that more threads would not end
/// them sooner; a process may have two dozen. What waits is no more than was attached.
#[derive(Default)]
struct Off(Option<Sender<UProbeLink>>);

impl Off {
    fn take(&mut self, link: UProbeLink) {
        let begin = || {
            let (send, links) = channel::<UProbeLink>();
            let thread = std::thread::Builder::new().name("spandrel-detach".to_owned());
            thread.spawn(move || links.into_iter().for_each(drop)).ok().map(|_| send)
        };
        if self.0.is_none() {
            self.0 = begin();
        }
        match &self.0 {
            // Without the thread it ends here.
            Some(thread) => drop(thread.send(link)),
            None => drop(link),
        }
    }
}

struct Attached {
    points: Vec<Point>,
    budget: u64,
    /// The hits so far, and when they were counted.
    counted: Option<(u64, Monotonic)>,
}

/// A probed instruction: where it is in the process, and what keeps the probe there. The kernel puts one probe into each
/// mapping of the instruction.
type Point = (Vec<u64>, UProbeLinkId);

impl Uprobes {
    /// Watches these instructions of a process.
    pub fn observe(
        &mut self,
        ebpf: &mut Ebpf,
        walks: &mut WalkMaps,
        process: ProcessKey,
        set: &ProbeSet,
    ) -> anyhow::Result<()> {
        let name = set.name;
        if self.sets.contains_key(&(process, name)) {
            return Ok(());
        }
        let result = attach(ebpf, walks, &mut self.off, process, set);
        match result {
            Ok(points) => {
                self.ledger.attached += 1;
                let attached = Attached { points, budget: set.budget, counted: None };
                self.sets.insert((process, name), attached);
                Ok(())
            }
            Err(error) => {
                self.ledger.failed += 1;
                Err(error)
            }
        }
    }

    /// Watches a set of a process no more.
    pub fn unobserve(
        &mut self,
        ebpf: &mut Ebpf,
        walks: &mut WalkMaps,
        process: ProcessKey,
        name: &'static str,
    ) {
        if let Some(set) = self.sets.remove(&(process, name)) {
            self.ledger.unwanted += 1;
            detach(ebpf, walks, &mut self.off, process, set.points);
        }
    }

    /// A process is gone.
    pub fn ended(&mut self, ebpf: &mut Ebpf, walks: &mut WalkMaps, process: ProcessKey) {
        let names: Vec<_> = self.sets.keys().filter(|(key, _)| *key == process).map(|(_, n)| *n).collect();
        for name in names {
            if let Some(set) = self.sets.remove(&(process, name)) {
                self.ledger.ended += 1;
                detach(ebpf, walks, &mut self.off, process, set.points);
            }
        }
    }

    /// Takes off the sets that were hit more often than they may be, and says which. Each is counted over a second at
    /// least.
    pub fn enforce(
        &mut self,
        ebpf: &mut Ebpf,
        walks: &mut WalkMaps,
        now: Monotonic,
    ) -> Vec<(ProcessKey, &'static str, u64)> {
        let mut over = Vec::new();
        for (&(process, name), set) in &mut self.sets {
            let Some((before, since)) = set.counted else {
                set.counted = Some((hits(walks, process, set), now));
                continue;
            };
            let passed = now.since(since);
            if passed < SECOND {
                continue;
            }
            let hits = hits(walks, process, set);
            let rate = u128::from(hits.saturating_sub(before)) * u128::from(SECOND) / u128::from(passed);
            set.counted = Some((hits, now));
            if set.budget > 0 && rate > u128::from(set.budget) {
                over.push((process, name, u64::try_from(rate).unwrap_or(u64::MAX)));
            }
        }
        for &(process, name, _) in &over {
            if let Some(set) = self.sets.remove(&(process, name)) {
                self.ledger.over_budget += 1;
                detach(ebpf, walks, &mut self.off, process, set.points);
            }
        }
        over
    }

    /// At the agent's end: the links of all sets.
    pub fn take_all(&mut self, ebpf: &mut Ebpf) -> Vec<UProbeLink> {
        let Ok(program) = program(ebpf) else { return Vec::new() };
        let points = self.sets.drain().flat_map(|(_, set)| set.points);
        points.filter_map(|(_, link)| program.take_link(link).ok()).collect()
    }

    /// The books.
    pub fn ledger(&self) -> Ledger {
        self.ledger
    }
}

fn hits(walks: &WalkMaps, process: ProcessKey, set: &Attached) -> u64 {
    set.points.iter().flat_map(|(addresses, _)| addresses).map(|&at| walks.hits(process, at)).sum()
}

fn program(ebpf: &mut Ebpf) -> anyhow::Result<&mut UProbe> {
    match ebpf.program_mut("observed") {
        Some(Program::UProbe(program)) => Ok(program),
        _ => Err(anyhow!("the kernel object has no program `observed` for instructions")),
    }
}

fn attach(
    ebpf: &mut Ebpf,
    walks: &mut WalkMaps,
    off: &mut Off,
    process: ProcessKey,
    set: &ProbeSet,
) -> anyhow::Result<Vec<Point>> {
    let scope = NonZeroU32::new(process.pid).context("process 0 is nobody's")?;
    let mut points = Vec::new();
    let result = (|| {
        for point in &set.points {
            let path = verified(process, point)?;
            let known = point.addresses.iter().all(|&at| walks.probe(process, at, &point.walk));
            let program = program(ebpf)?;
            if program.fd().is_err() {
                load(|| program.load()).context("loading the program for probed instructions")?;
            }
            let link = match known {
                true => {
                    program.attach(point.file_offset, &path, UProbeScope::OneProcess(scope)).with_context(
                        || format!("probing offset {:#x} of {}", point.file_offset, path.display()),
                    )
                }
                false => Err(anyhow!("there is no room for another walk")),
            };
            match link {
                Ok(link) => points.push((point.addresses.clone(), link)),
                Err(error) => {
                    point.addresses.iter().for_each(|&at| walks.unprobe(process, at));
                    return Err(error);
                }
            }
        }
        Ok(())
    })();
    match result {
        Ok(()) => Ok(points),
        Err(error) => {
            detach(ebpf, walks, off, process, points);
            Err(error)
        }
    }
}

/// The file of a point, as the process has it mapped, if the bytes meant stand there.
fn verified(process: ProcessKey, point: &ProbePoint) -> anyhow::Result<PathBuf> {
    let mapping = &point.file;
    let path =
        PathBuf::from(format!("/proc/{}/map_files/{:x}-{:x}", process.pid, mapping.start, mapping.end));
    let file = File::open(&path).with_context(|| format!("opening {}", path.display()))?;
    let mut bytes = vec![0; point.bytes.len()];
    file.read_exact_at(&mut bytes, point.file_offset)
        .with_context(|| format!("reading {}", path.display()))?;
    ensure!(bytes == point.bytes, "other code stands at offset {:#x} than was found", point.file_offset);
    Ok(path)
}

fn detach(ebpf: &mut Ebpf, walks: &mut WalkMaps, off: &mut Off, process: ProcessKey, points: Vec<Point>) {
    for (addresses, link) in points {
        // Until it is off, a hit finds no walk, and makes no record.
        addresses.iter().for_each(|&at| walks.unprobe(process, at));
        if let Ok(link) = program(ebpf).and_then(|program| Ok(program.take_link(link)?)) {
            off.take(link);
        }
    }
}

const SECOND: u64 = 1_000_000_000;
