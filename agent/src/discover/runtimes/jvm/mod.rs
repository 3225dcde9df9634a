//! The JVM (HotSpot of any vendor, 11 and later): virtual threads, and tasks handed over to pools.
//!
//! ```text
//!   structs, layout, classes   what HotSpot says of itself, read from the process
//!   here                       the walk: thread pointer ─▶ JavaThread ─▶ mounted thread, allocation buffer, task
//!   reader                     words ─▶ claims           (tlab: whose allocation an object is; pure)
//!   tomcat                     which connection a worker of Tomcat serves
//!   client                     for which exchange a thread of java.net.http.HttpClient writes
//!   depths                     at which depths of stacks tasks lie
//!   forks                      which task a thread of a ForkJoinPool runs
//!   moved                      where a collection put the tasks that it moved
//! ```
//! A virtual thread's claim is a `task`; that an object was allocated by a request's thread is `inferred`, made only
//! where `--weakest-link inferred` allows it, and only with collectors that move nothing between two counted collections
//! (G1, Serial). There one place is probed, where a thread takes another allocation buffer, and nothing else anywhere.
//! What serves a request on its own platform thread is left to the thread rule.

mod classes;
mod client;
mod depths;
mod forks;
pub mod fuzz;
mod layout;
mod moved;
mod reader;
mod structs;
mod tlab;
mod tomcat;

use std::time::Duration;

use spandrel_proto::walk::{Step, saved};

use super::{Outcome, ProbePoint, ProbeSet, Process, Proved, Runtime, Walk, Walks};
use crate::clock;
use crate::discover::elf::{Elf, load_bias};
use crate::discover::maps::{self, Mapping};
use depths::Depths;
use layout::{Id, Layout};
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
        let symbols = process.cache.get::<Symbols>(self.name(), elf.identity(), || Symbols::of(&elf));
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
            (Some(_), Id::OfThread(_) | Id::InObject(_), false) => "virtual threads by their id".into(),
            (None, ..) => "no virtual threads in this version".into(),
            (_, Id::Unknown, _) => "virtual threads are not told apart: their ids were not found".into(),
            (.., true) => format!("virtual threads are not told apart with {}", layout.collector),
        });
        report.push(if layout.stands_still() && layout.classes.is_some() {
            "tasks of pools by where they were allocated, if --weakest-link is inferred".into()
        } else {
            format!("tasks of pools are not followed with {}", layout.collector)
        });
        let follows = process.how.infers() && layout.stands_still() && layout.classes.is_some();
        let refills = follows.then(|| refills(&layout, &elf, &symbols, mapping, bias)).flatten();
        if follows {
            report.push(match &refills {
                Some(set) => format!("allocation buffers: one probe, up to {} hits a second", set.budget),
                None => format!("allocation buffers: not watched, libjvm.so lacks {FILL}"),
            });
        }
        let walks = walks(&layout, code, &Depths::default(), Paths::default());
        let reader = JvmReader::new(layout, code, process.memory, clock::monotonic, process.how, refills);
        Outcome::Proved(Box::new(Proved { report, walks, reader: Box::new(reader) }))
    }
}

/// Symbols that are kept of a libjvm: it has some forty, and a file that lies may have a million.
const MAX_KEPT: usize = 256;

/// The symbols of a libjvm that are used.
struct Symbols(std::collections::HashMap<String, u64>);

impl Symbols {
    fn of(elf: &Elf) -> Self {
        let mut found = std::collections::HashMap::new();
        elf.symbols(&mut |name, symbol| {
            if name.starts_with(b"gHotSpotVM") || SYMBOLS.iter().any(|known| name == known.as_bytes()) {
                found.insert(String::from_utf8_lossy(name).into_owned(), symbol.address);
            }
            found.len() < MAX_KEPT
        });
        Self(found)
    }
}

/// The probe of where a thread gets another allocation buffer: `ThreadLocalAllocBuffer::fill(start, top, words)`.
fn refills(layout: &Layout, elf: &Elf, symbols: &Symbols, mapping: &Mapping, bias: u64) -> Option<ProbeSet> {
    let address = *symbols.0.get(FILL)?;
    let mut steps = Vec::new();
    for register in [saved::DI, saved::SI, saved::CX] {
        steps.extend([Step::register(6, register), Step::keep(6)]);
    }
    steps.extend([Step::set(6, layout.collections), Step::read4(6, 6, 0), Step::keep(6), Step::end()]);
    let point = ProbePoint {
        file: mapping.clone(),
        file_offset: elf.file_offset(address)?,
        addresses: vec![address.wrapping_add(bias)],
        bytes: elf.bytes_at(address, ENTRY_BYTES)?,
        walk: Walk { tag: FILLED, steps },
    };
    Some(ProbeSet { name: "jvm buffers", points: vec![point], budget: FILLS_A_SECOND })
}

/// Words of tasks that a walk reads: places on stacks, for different kinds of pools.
pub const SLOTS: usize = 5;

/// The walks. Kept are: the JavaThread; the id of the Java thread that it runs; whether that is a virtual one, see
/// [`mounted`]; the address of its object; start, top and end of the allocation buffer; collections; whether
/// one is under way; the stack pointer; the call's descriptor; and, of calls that send, for each depth the object there and its class, and then, as
/// the tag says, the descriptor that a worker of Tomcat serves, and the reference to the subscription for which a client's thread writes; 0 of
/// other threads.
pub fn walks(layout: &Layout, code: (u64, u64), depths: &Depths, paths: Paths<'_>) -> Walks {
    let (generation, depths) = (depths.generation(), depths.all());
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
        (Some(vthread), Id::OfThread(id)) if !layout.moves_ids() => {
            steps.extend([Step::read8(9, 7, id), Step::keep(9)]);
            steps.extend(object(layout, vthread));
            steps.extend(virtual_or_not(mounted::VIRTUAL));
            steps.push(Step::keep(11));
        }
        // A collection may be moving the object: whoever reads the words looks at the buffer, which is taken away before.
        (Some(vthread), Id::InObject(id)) if !layout.moves_ids() => {
            steps.extend(object(layout, vthread));
            steps.extend([Step::read8(9, 11, id), Step::keep(9)]);
            steps.extend(virtual_or_not(mounted::VIRTUAL_BY_OBJECT));
            steps.push(Step::keep(11));
        }
        // Which Java thread a carrier runs is told by its object, until a collection moves it: enough to tell that
        // another one runs.
        (Some(vthread), Id::Unknown) if !layout.moves_ids() => {
            steps.extend(object(layout, vthread));
            steps.push(Step::keep(11));
            steps.extend(virtual_or_not(mounted::UNKNOWN));
            steps.push(Step::keep_value(0));
        }
        _ => steps.extend([Step::thread(9), Step::keep(9), Step::keep_value(0), Step::keep_value(0)]),
    }
    let [tlab, start, top, end] = layout.tlab;
    steps.push(Step::block(7, tlab, 64));
    for member in [start, top, end] {
        steps.extend([Step::field8(12, member), Step::keep(12)]);
    }
    steps.extend([Step::set(13, layout.collections), Step::read4(13, 13, 0), Step::keep(13)]);
    // Read last: a collection counts itself some time before it takes the buffers away.
    match layout.collecting {
        Some(collecting) => {
            steps.extend([Step::set(13, collecting), Step::read1(13, 13, 0), Step::keep(13)]);
        }
        None => steps.push(Step::keep_value(0)),
    }
    steps.extend([Step::register(13, saved::SP), Step::keep(13), Step::descriptor(13), Step::keep(13)]);
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
        if let Some(path) = paths.tomcat {
            sending.extend([Step::equal(13, path.class.into()).or(1), Step::add(3, 15, 0)]);
        }
    }
    let mut tag = CALLS | tail::generation(generation);
    if let Some(path) = paths.tomcat {
        tag |= tail::TOMCAT;
        sending.extend(served(path));
    }
    if let Some(path) = paths.client.filter(|_| !depths.is_empty()) {
        tag |= tail::CLIENT;
        sending.extend(subscription(path));
    }
    steps.push(Step::end());
    sending.push(Step::end());
    Walks {
        send: Some(Walk { tag, steps: sending }),
        receive: Some(Walk { tag: CALLS, steps }),
        parameters: [0; 4],
    }
}

/// Where walks go on from what is on a stack, as far as it is known.
#[derive(Clone, Copy, Debug, Default)]
pub struct Paths<'a> {
    /// From what Tomcat's workers run.
    pub tomcat: Option<&'a tomcat::Path>,
    /// From what the threads of a `java.net.http.HttpClient` run.
    pub client: Option<&'a client::Path>,
}

/// Keeps the descriptor that the object in register 3 leads to, or 0.
fn served(path: &tomcat::Path) -> Vec<Step> {
    let tomcat::Path { class: _, offsets: [wrapper, channel, socket, descriptor], narrow } = *path;
    let mut steps = Vec::new();
    for (number, offset) in [wrapper, channel, socket].into_iter().enumerate() {
        steps.extend([
            Step::read4(3, 3, offset).or(11 - 3 * number as u8),
            Step::multiply(3, 3, 1 << narrow.shift),
            Step::add(3, 3, narrow.base),
        ]);
    }
    steps.extend([Step::read4(3, 3, descriptor).or(2), Step::keep(3), Step::jump(1), Step::keep_value(0)]);
    steps
}

/// Keeps the reference to the subscription of the connection that this thread writes to for a client, or 0. The stack's base
/// is in register 14.
fn subscription(path: &client::Path) -> [Step; 10] {
    let [subscriber, subscription] = path.first;
    [
        Step::read8(2, 14, path.depth.wrapping_neg()).or(8),
        Step::read4(13, 2, 8).or(7),
        Step::equal(13, path.class.into()).or(6),
        Step::read4(2, 2, subscriber).or(5),
        Step::multiply(2, 2, 1 << path.narrow.shift),
        Step::add(2, 2, path.narrow.base),
        Step::read4(2, 2, subscription).or(2),
        Step::keep(2),
        Step::jump(1),
        Step::keep_value(0),
    ]
}

/// What the tag of a call's walk says beside [`CALLS`].
pub mod tail {
    /// The descriptor that a worker of Tomcat serves was looked for.
    pub const TOMCAT: u16 = 4;
    /// The subscription for which a client's thread writes was looked for.
    pub const CLIENT: u16 = 8;

    /// At which depths objects were looked for, see `depths`.
    pub fn generation(generation: u8) -> u16 {
        u16::from(generation) << 8
    }

    /// The generation that a tag says.
    pub fn generation_of(tag: u16) -> u8 {
        (tag >> 8) as u8
    }
}

/// The object of the Java thread that runs, in register 11, and that of the thread of the system, in 10.
fn object(layout: &Layout, vthread: u64) -> [Step; 4] {
    [
        Step::read8(10, 7, layout.thread),
        Step::read8(10, 10, 0),
        Step::read8(11, 7, vthread),
        Step::read8(11, 11, 0),
    ]
}

/// Keeps this of a carrier of a virtual thread, else 0.
fn virtual_or_not(value: u64) -> [Step; 4] {
    [
        Step::equal_register(10, 11).or(2),
        Step::keep_value(mounted::NONE),
        Step::jump(1),
        Step::keep_value(value),
    ]
}

/// What a walk says of a virtual thread.
pub mod mounted {
    /// None is mounted.
    pub const NONE: u64 = 0;
    /// One is, and its id is its own.
    pub const VIRTUAL: u64 = 1;
    /// One is, and its id is not known.
    pub const UNKNOWN: u64 = 2;
    /// One is, and its id was read from its object: no id if the thread has no allocation buffer, since a collection takes
    /// the buffers before it moves objects.
    pub const VIRTUAL_BY_OBJECT: u64 = 3;
}

const CURRENT: &str = "_ZN6Thread12_thr_currentE";
/// Where a thread's id is in its object, as HotSpot looked it up in the class.
const THREAD_ID: &str = "_ZN16java_lang_Thread11_tid_offsetE";
const FILL: &str = "_ZN22ThreadLocalAllocBuffer4fillEPP12HeapWordImplS2_m";
const SYMBOLS: &[&str] = &[CURRENT, THREAD_ID, FILL];
/// The tag of a call's walk.
pub const CALLS: u16 = 1;
/// The tag of what the probe of `fill` tells.
pub const FILLED: u16 = 2;
/// Bytes of the function that must be there.
const ENTRY_BYTES: usize = 16;
/// Hits a second: 2 % of a processor at 10 µs each, which is what they cost in a virtual machine.
const FILLS_A_SECOND: u64 = 2000;
/// How soon to look again.
const RETRY: Duration = Duration::from_millis(500);

#[cfg(test)]
mod tests {
    use spandrel_proto::walk::{MAX_STEPS, MAX_WORDS, op};

    use super::*;

    #[test]
    fn the_longest_walk_fits_and_goes_on_behind_what_cannot_be_read() {
        let layout = Layout {
            collector: "G1",
            current: 0,
            tlab: [448, 0, 8, 24],
            stack_base: 1048,
            thread: 1120,
            system: None,
            mounted: Some(1128),
            id: Id::OfThread(1312),
            collections: 0x1000,
            collecting: Some(0x1008),
            heap: (0x10_0000, 0x20_0000),
            classes: None,
            narrow: None,
        };
        let narrow = tomcat::Narrow { base: 0, shift: 3 };
        let tomcat = tomcat::Path { class: 7, offsets: [12, 44, 16, 64], narrow };
        let client = client::Path::for_tests(narrow);
        let paths = Paths { tomcat: Some(&tomcat), client: Some(&client) };
        let Walks { send: Some(walk), .. } = walks(&layout, (0x1000, 0x2000), &Depths::full(), paths) else {
            panic!("no walk")
        };
        assert!(walk.steps.len() <= MAX_STEPS, "{}", walk.steps.len());
        let keeps = |step: &&Step| matches!(step.op, op::KEEP | op::KEEP_VALUE);
        assert!(walk.steps.iter().filter(keeps).count() <= MAX_WORDS);
        // Of the two tails, whatever cannot be read makes a 0.
        let zeros = walk.steps.iter().enumerate().filter(|(_, step)| step.op == op::KEEP_VALUE);
        let zeros: Vec<_> = zeros.map(|(at, _)| at).collect();
        let [.., served, subscription] = zeros[..] else { panic!("{walk}") };
        let leads = |from: u8, to: usize| {
            let steps = walk.steps.iter().enumerate().skip(to - 14);
            let fallible = steps.take(14).filter(|(_, step)| step.from == from && step.or != 0);
            assert!(fallible.clone().count() > 1);
            for (at, step) in fallible {
                assert_eq!(at + 1 + usize::from(step.or), to, "{walk}");
            }
        };
        leads(3, served);
        leads(2, subscription);
    }
}
