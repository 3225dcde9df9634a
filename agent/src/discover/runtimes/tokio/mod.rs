//! tokio: which task waits for the reply that a connection task owes.
//!
//! - `task` recognises tasks and wakers in memory, each by a proof of its own;
//! - `reply` finds who waits for a connection task's reply, by a search of its future while a call is in flight;
//! - `known` is what samples of one executable have settled, `walks` the walks made of it;
//! - `reader` turns the walks' words into facts, and asks for searches of what they could not follow;
//! - `spawn` finds where tasks are spawned: descent proves nothing, so it is probed only where `inferred` links are made.
//!
//! No offset here comes from a table of versions, and no symbol is needed: a stripped executable with link-time
//! optimisation tells as much as any other. What is learnt from samples the kernel side checks again at each read.
//!
//! It must never link by who opened a connection, by the thread, or by what woke whom: all three are wrong under load.
//! Only the executable itself is looked at: a tokio inside a shared library has its thread locals elsewhere.

mod known;
mod reader;
mod reply;
mod spawn;
mod task;
#[cfg(test)]
mod testing;
mod walks;

use std::sync::{Arc, Mutex, PoisonError};

use spandrel_proto::walk::{Step, saved};

use self::known::Known;
use self::reader::{Idle, Shared, Tasks};
use self::task::{Places, Program, Task, Waker, words_of};
use super::epoll::watched;
use super::{Outcome, ProbePoint, ProbeSet, Process, Proved, Runtime, Walk, Walks};
use crate::discover::elf::{self, Elf};
use crate::discover::maps::{self, Mapping, Maps};

pub use self::reply::fuzz_memory;
pub use self::spawn::fuzz_code;

/// See the module.
#[derive(Debug)]
pub struct Tokio;

/// What is kept of one executable.
struct Executable {
    elf: Elf,
    known: Shared,
    spawns: Mutex<Option<Arc<Spawns>>>,
}

/// Where tasks are spawned, in the file's terms.
enum Spawns {
    /// The entries of `bind_inner`, with their first bytes.
    Functions(Vec<(u64, Vec<u8>)>),
    /// The loops that draw an id, by counter.
    Loops(spawn::Sites),
}

impl Runtime for Tokio {
    fn name(&self) -> &'static str {
        "tokio"
    }

    fn prove(&self, process: &Process<'_>) -> Outcome {
        let Some(mapping) = process.executable else { return Outcome::Not };
        let Some(file) = mapping.file() else { return Outcome::Not };
        let Ok(Ok(elf)) = maps::open(process.key.pid, mapping).map(Elf::open) else { return Outcome::Not };
        let identity = elf.identity().to_vec();
        let executable = process.cache.get(self.name(), &identity, || {
            mentions_tokio(&elf).then(|| Executable {
                elf,
                known: Shared::default(),
                spawns: Mutex::default(),
            })
        });
        let Some(executable) = &*executable else { return Outcome::Not };
        let Some(bias) = elf::load_bias(&executable.elf, process.maps, file) else {
            return Outcome::Refused("where it is loaded cannot be told".into());
        };
        let places = places(process.maps);
        let program = Program { memory: &process.memory, places: &places };
        let tasks = tasks(program, process.key.pid, |offset, vtable| {
            lock(&executable.known).reader(offset, vtable.wrapping_sub(bias));
        });
        let thread_locals = executable.elf.tls().and_then(|tls| tls.below_thread_pointer()).unwrap_or(0);
        let known = lock(&executable.known);
        let Some(walks) = walks::walks(&known, bias, thread_locals) else {
            let report =
                vec!["no task waits for a descriptor yet; it is looked at again at its traffic".into()];
            return Outcome::Proved(Box::new(Proved {
                report,
                walks: Walks::default(),
                reader: Box::new(Idle::default()),
            }));
        };
        let summary = known.summary();
        drop(known);
        let (probes, how) = if process.how.infers() {
            probes(&spawns(executable), program, &tasks, executable, mapping, bias)
        } else {
            (None, "watched only if --weakest-link is inferred".into())
        };
        Outcome::Proved(Box::new(Proved {
            report: vec![format!("{} tasks wait for descriptors; {summary}; spawns: {how}", tasks.len())],
            walks,
            reader: Box::new(Tasks {
                known: Arc::clone(&executable.known),
                memory: Box::new(process.memory),
                places,
                bias,
                thread_locals,
                spawns: probes,
            }),
        }))
    }
}

fn lock(known: &Shared) -> std::sync::MutexGuard<'_, Known> {
    known.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The paths of tokio's sources stand in the texts of panics, stripped or not.
fn mentions_tokio(elf: &Elf) -> bool {
    elf.section_holds(".rodata", b"/tokio-")
}

fn places(maps: &Maps) -> Places {
    let range = |mapping: &Mapping| (mapping.start, mapping.end);
    Places::new(
        maps.iter().filter(|mapping| mapping.execute).map(range),
        maps.iter().filter(|mapping| !mapping.execute && mapping.file().is_some()).map(range),
    )
}

/// The tasks that wait for descriptors. `found` is told where in the watched object the waker was, and its vtable.
fn tasks(program: Program<'_>, pid: u32, found: impl Fn(u32, u64)) -> Vec<Task> {
    let mut tasks = Vec::new();
    for watched in watched(pid).into_iter().filter(|watched| watched.word.is_multiple_of(SCHEDULED_IO)) {
        let Some(object) = program.memory.bytes(watched.word, SCHEDULED_IO as usize) else { continue };
        let words: Vec<u64> = words_of(&object).collect();
        for (index, pair) in words.windows(2).enumerate() {
            if let &[vtable, data] = pair
                && let Some(task) = program.woken(Waker { vtable, data })
                && tasks.len() < MAX_TASKS
            {
                found((index * 8) as u32, vtable);
                tasks.push(task);
            }
        }
    }
    tasks
}

/// Size and alignment of tokio's `ScheduledIo` (`runtime/io/scheduled_io.rs`: a cache line, two of them on x86-64).
const SCHEDULED_IO: u64 = 128;
/// Tasks looked at for a proof.
const MAX_TASKS: usize = 256;

fn spawns(executable: &Executable) -> Arc<Spawns> {
    let mut kept = executable.spawns.lock().unwrap_or_else(PoisonError::into_inner);
    Arc::clone(kept.get_or_insert_with(|| Arc::new(find_spawns(&executable.elf))))
}

fn find_spawns(elf: &Elf) -> Spawns {
    let mut functions = Vec::new();
    elf.symbols(&mut |name, symbol| {
        let is_it = symbol.is_function
            && memchr::memmem::find(name, b"bind_inner").is_some()
            && memchr::memmem::find(name, b"OwnedTasks").is_some();
        if is_it && let Some(bytes) = elf.bytes_at(symbol.address, ENTRY_BYTES) {
            functions.push((symbol.address, bytes));
        }
        functions.len() < MAX_FUNCTIONS
    });
    if !functions.is_empty() {
        return Spawns::Functions(functions);
    }
    let mut sites = spawn::Sites::new();
    for segment in elf.segments().iter().filter(|segment| segment.execute) {
        let length = segment.file_size.min(elf::MAX_BYTES as u64) as usize;
        if let Some(code) = elf.bytes_at(segment.address, length) {
            sites.append(&mut spawn::search(&code, segment.address));
        }
    }
    Spawns::Loops(sites)
}

/// For the fuzz bodies: a file, whatever is in it.
pub(super) fn read_file(elf: &Elf) {
    mentions_tokio(elf);
    match find_spawns(elf) {
        Spawns::Functions(functions) => {
            assert!(functions.iter().all(|(_, bytes)| bytes.len() == ENTRY_BYTES));
        }
        Spawns::Loops(sites) => {
            assert!(sites.values().flatten().all(|site| usize::from(site.register) < SAVED.len()));
        }
    }
}

/// What is compared before a probe is set on a function.
const ENTRY_BYTES: usize = 8;
/// One for each scheduler, and for each unit of code that has its own.
const MAX_FUNCTIONS: usize = 64;

/// What to probe to see who spawns whom, and in words why.
fn probes(
    spawns: &Spawns,
    program: Program<'_>,
    tasks: &[Task],
    executable: &Executable,
    mapping: &Mapping,
    bias: u64,
) -> (Option<ProbeSet>, String) {
    let Some(current) = lock(&executable.known).current_task() else {
        return (None, "later, with the place of the current task".into());
    };
    let point = |address: u64, bytes: Vec<u8>, child: Vec<Step>| {
        Some(ProbePoint {
            file: mapping.clone(),
            file_offset: executable.elf.file_offset(address)?,
            addresses: vec![address.wrapping_add(bias)],
            bytes,
            walk: Walk { tag: SPAWNED, steps: spawned(current, child) },
        })
    };
    let (points, how): (Vec<_>, _) = match spawns {
        Spawns::Functions(functions) => {
            let points =
                functions.iter().filter_map(|(address, bytes)| point(*address, bytes.clone(), by_header()));
            (points.collect(), "the entries of bind_inner")
        }
        Spawns::Loops(sites) => {
            let largest = tasks.iter().map(|task| task.id).max().unwrap_or(0);
            let value = |counter: u64| program.memory.word(counter.wrapping_add(bias));
            let Some(sites) = spawn::of_tasks(sites, largest, value) else {
                return (
                    None,
                    format!("not found: {} counters are drawn from, none or several fit", sites.len()),
                );
            };
            let points = sites.iter().filter_map(|site| {
                let register = *SAVED.get(usize::from(site.register))?;
                point(site.address, site.bytes.to_vec(), vec![Step::register(CHILD, register)])
            });
            (points.collect(), "the loops that draw a task's id")
        }
    };
    if points.is_empty() {
        return (None, "not found".into());
    }
    let how = format!("{} at {how}", points.len());
    (Some(ProbeSet { name: "tokio-spawn", points, budget: SPAWNS_A_SECOND }), how)
}

/// Parent and child.
fn spawned(current: i64, child: Vec<Step>) -> Vec<Step> {
    let mut steps = vec![
        Step::thread_pointer(PARENT),
        Step::read8(PARENT, PARENT, current as u64),
        // Outside of any task: nobody's child.
        Step::not_zero(PARENT),
    ];
    steps.extend(child);
    steps.extend([Step::not_zero(CHILD), Step::keep(PARENT), Step::keep(CHILD), Step::end()]);
    steps
}

/// `bind_inner(&self, task, notified)`: the task is a pointer to its header, in `%rsi`.
fn by_header() -> Vec<Step> {
    vec![
        Step::register(6, saved::SI),
        Step::read8(7, 6, task::VTABLE),
        Step::read8(CHILD, 7, 72),
        Step::below(CHILD, 1 << 20),
        Step::add_register(CHILD, 6, CHILD),
        Step::read8(CHILD, CHILD, 0),
    ]
}

const PARENT: u8 = 4;
const CHILD: u8 = 5;
/// The tag of a spawn's words.
const SPAWNED: u16 = 3;
/// Spawns a second above which the probes are taken off: at some microseconds each, a few per cent of a processor.
const SPAWNS_A_SECOND: u64 = 20_000;
/// Registers as instructions number them.
const SAVED: [u32; 16] = [
    saved::AX,
    saved::CX,
    saved::DX,
    saved::BX,
    saved::SP,
    saved::BP,
    saved::SI,
    saved::DI,
    saved::R8,
    saved::R9,
    saved::R10,
    saved::R11,
    saved::R12,
    saved::R13,
    saved::R14,
    saved::R15,
];
