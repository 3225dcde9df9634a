//! The JVM (HotSpot of any vendor, 11 and later): virtual threads, and tasks handed over to pools.
//!
//! ```text
//!   structs, layout, classes   what HotSpot says of itself, read from the process
//!   here                       the walk: thread pointer ─▶ JavaThread ─▶ mounted thread, allocation buffer, task
//!   reader                     words ─▶ claims           (tlab: whose allocation an object is; pure)
//! ```
//! Nothing is probed. A virtual thread's claim is a `task`; that an object was allocated by a request's thread is
//! `inferred`, made only where `--weakest-link inferred` allows it, and only with collectors that move nothing between
//! two counted collections (G1, Serial). What serves a request on its own platform thread is left to the thread rule.

mod classes;
pub mod fuzz;
mod layout;
mod reader;
mod structs;
mod tlab;

use std::time::Duration;

use spandrel_proto::walk::{Step, saved};

use super::{Outcome, Process, Proved, Runtime, Walk, Walks};
use crate::clock;
use crate::discover::elf::{Elf, load_bias};
use crate::discover::maps;
use layout::Layout;
use reader::JvmReader;

/// The runtime.
pub struct Jvm;

impl Runtime for Jvm {
    fn name(&self) -> &'static str {
        "jvm"
    }

    fn prove(&self, process: &Process<'_>) -> Outcome {
        let library = process.maps.programs().find(|(_, mapping)| mapping.path.ends_with(b"/libjvm.so"));
        let Some((file, mapping)) = library else {
            // The launcher loads it a little later.
            let launcher = process.maps.programs().any(|(_, mapping)| mapping.path.ends_with(b"/bin/java"));
            return if launcher {
                Outcome::Later(RETRY, "libjvm.so is not loaded yet".into())
            } else {
                Outcome::Not
            };
        };
        let elf = match maps::open(process.key.pid, mapping).map(Elf::open) {
            Ok(Ok(elf)) => elf,
            Ok(Err(error)) => return Outcome::Refused(format!("libjvm.so cannot be read: {error}")),
            Err(error) => return Outcome::Refused(format!("libjvm.so cannot be opened: {error}")),
        };
        let name = elf.build_id().unwrap_or_else(|| super::file_name(file));
        let symbols = process.cache.get::<Symbols>(&name, || Symbols::of(&elf));
        let Some(bias) = load_bias(&elf, process.maps, file) else {
            return Outcome::Refused("libjvm.so is mapped in an unusual way".into());
        };
        let Some(current) = symbols.0.get(CURRENT).copied() else {
            return Outcome::Refused("libjvm.so is stripped: it lacks Thread::_thr_current".into());
        };
        let symbol = |name: &str| Some(symbols.0.get(name)?.wrapping_add(bias));
        let layout = match Layout::prove(&process.memory, &symbol, current) {
            Ok(layout) => layout,
            Err(why) => return Outcome::Later(RETRY, why.into()),
        };
        let all = process.maps.of_file(file);
        let code = all.fold((u64::MAX, 0), |(start, end), map| (start.min(map.start), end.max(map.end)));
        let mut report = vec![format!("collector {}", layout.collector)];
        report.push(match (layout.mounted, layout.id, layout.moves_ids()) {
            (Some(_), Some(_), false) => "virtual threads by their id".into(),
            (None, ..) => "no virtual threads in this version".into(),
            (_, None, _) => "virtual threads are not told apart before 24".into(),
            (.., true) => format!("virtual threads are not told apart with {}", layout.collector),
        });
        report.push(if layout.stands_still() && layout.classes.is_some() {
            "tasks of pools by where they were allocated, if --weakest-link is inferred".into()
        } else {
            format!("tasks of pools are not followed with {}", layout.collector)
        });
        let walks = walks(&layout, code, &[]);
        let reader = JvmReader::new(layout, code, process.memory, clock::monotonic, process.how);
        Outcome::Proved(Box::new(Proved { report, walks, reader: Box::new(reader) }))
    }
}

/// The symbols of a libjvm that are used.
struct Symbols(std::collections::HashMap<String, u64>);

impl Symbols {
    fn of(elf: &Elf) -> Self {
        let mut found = std::collections::HashMap::new();
        elf.symbols(&mut |name, symbol| {
            if name.starts_with(b"gHotSpotVM") || name == CURRENT.as_bytes() {
                found.insert(String::from_utf8_lossy(name).into_owned(), symbol.address);
            }
            true
        });
        Self(found)
    }
}

/// Words of tasks that a walk reads: places on stacks, for different kinds of pools.
pub const SLOTS: usize = 5;

/// The walks. Kept are: the JavaThread; the id of the Java thread that it runs; whether that is a virtual one (1, or 2
/// if its id is not one); the address of its object; start, top and end of the allocation buffer; collections; the stack pointer; and, of calls
/// that send, for each depth the object there and its class.
pub fn walks(layout: &Layout, code: (u64, u64), depths: &[u64]) -> Walks {
    let mut steps = vec![Step::thread_pointer(4), Step::read8(5, 4, 8)];
    // glibc: the thread's vector of blocks is at 8, a module's block at 16 times its number. libjvm's is mostly 2.
    // What is met must be an object whose virtual table lies in libjvm.
    let size = u32::try_from(code.1.saturating_sub(code.0)).unwrap_or(u32::MAX);
    for (number, module) in [2u64, 1, 3].into_iter().enumerate() {
        let found = (2 - number as u8) * 5;
        steps.extend([
            Step::read8(6, 5, 16 * module).or(4),
            Step::read8(7, 6, layout.current).or(3),
            Step::read8(8, 7, 0).or(2),
            Step::in_range(8, code.0, size).or(1),
            Step::jump(found + 1),
        ]);
    }
    steps.push(Step::fail());
    steps.push(Step::keep(7));
    match (layout.mounted, layout.id) {
        (Some(mounted), Some(id)) if !layout.moves_ids() => steps.extend([
            Step::read8(9, 7, id),
            Step::keep(9),
            Step::read8(10, 7, layout.thread),
            Step::read8(10, 10, 0),
            Step::read8(11, 7, mounted),
            Step::read8(11, 11, 0),
            Step::equal_register(10, 11).or(2),
            Step::keep_value(0),
            Step::jump(1),
            Step::keep_value(1),
            Step::keep(11),
        ]),
        // Which Java thread a carrier runs is told by its object, until a collection moves it: enough to tell that
        // another one runs.
        (Some(mounted), None) if !layout.moves_ids() => steps.extend([
            Step::read8(9, 7, mounted),
            Step::read8(9, 9, 0),
            Step::keep(9),
            Step::read8(10, 7, layout.thread),
            Step::read8(10, 10, 0),
            Step::equal_register(10, 9).or(2),
            Step::keep_value(0),
            Step::jump(1),
            Step::keep_value(2),
            Step::keep_value(0),
        ]),
        _ => steps.extend([Step::thread(9), Step::keep(9), Step::keep_value(0), Step::keep_value(0)]),
    }
    let [tlab, start, top, end] = layout.tlab;
    steps.push(Step::block(7, tlab, 64));
    for member in [start, top, end] {
        steps.extend([Step::field8(12, member), Step::keep(12)]);
    }
    steps.extend([
        Step::set(13, layout.collections),
        Step::read4(13, 13, 0),
        Step::keep(13),
        Step::register(13, saved::SP),
        Step::keep(13),
    ]);
    let mut sending = steps.clone();
    if !depths.is_empty() {
        sending.push(Step::read8(14, 7, layout.stack_base));
    }
    for &depth in depths.iter().take(SLOTS) {
        sending.extend([
            Step::read8(15, 14, depth.wrapping_neg()).or(6),
            Step::at_least(15, layout.heap.0).or(5),
            Step::below(15, layout.heap.1).or(4),
            Step::read4(13, 15, 8).or(3),
            Step::keep(15),
            Step::keep(13),
            Step::jump(2),
            Step::keep_value(0),
            Step::keep_value(0),
        ]);
    }
    steps.push(Step::end());
    sending.push(Step::end());
    Walks {
        send: Some(Walk { tag: 1, steps: sending }),
        receive: Some(Walk { tag: 1, steps }),
        parameters: [0; 4],
    }
}

const CURRENT: &str = "_ZN6Thread12_thr_currentE";
/// How soon to look again.
const RETRY: Duration = Duration::from_millis(500);
