//! Node.js: the request on whose behalf its one thread runs, by its async ids and promises.
//!
//! ```text
//!   binary    symbols ─▶ instructions to watch          (cached by build)
//!   here      where this process keeps its async ids, walks, probes
//!   reader    records and hits ─▶ machine ─▶ claims      (machine, ids, promises: pure)
//! ```
//! The words are four doubles outside of V8's heap: current id, its trigger, the last id given out, and a default.
//! They are found by what they look like, in the heap of the C library: a default of -1 behind three whole numbers
//! of which the last is the largest, which goes on counting. Only the main thread is followed: what a worker thread sends is an orphan.
//!
//! What a handler calls before it returns to the event loop is a `task`'s. What a timer or the callback of another call
//! goes on to call is `inferred`: a timer that one request set may call for all that came meanwhile.
//!
//! What an `await` goes on to call is `inferred` too: the job of a promise is its whose code awaited it, but a loop that one
//! request started may await what others put into its queue. So promises are watched only where such links are allowed.

mod binary;
mod ids;
mod machine;
mod promises;
mod reader;
#[cfg(test)]
mod tests;

use std::time::Duration;

use spandrel_proto::walk::{Step, saved};

use super::{Outcome, ProbePoint, ProbeSet, Process, Proved, Runtime, Walk, Walks};
use crate::clock;
use crate::discover::elf::{Elf, load_bias};
use crate::discover::maps::{self, Maps};
use crate::discover::memory::{MAX_READ, ReadMemory};
use crate::identity::ThreadId;
use binary::{Mark, Place, Places};
use reader::NodeReader;

/// The runtime.
pub struct Node;

/// For the fuzz bodies: a file, whatever is in it.
pub(super) fn read_file(elf: &Elf) {
    let Some(places) = binary::places(elf) else { return };
    for place in places.turns.iter().chain(&places.promises) {
        assert_eq!(elf.bytes_at(place.address, place.bytes.len()).as_ref(), Some(&place.bytes));
    }
}

/// For the fuzz bodies: the symbols that are looked for.
pub(super) fn symbols() -> impl Iterator<Item = &'static str> {
    binary::symbols()
}

impl Runtime for Node {
    fn name(&self) -> &'static str {
        "node"
    }

    fn prove(&self, process: &Process<'_>) -> Outcome {
        let program = process.maps.programs().find(|(_, mapping)| is_node(&mapping.path));
        let Some((file, mapping)) = program else { return Outcome::Not };
        let elf = match maps::open(process.key.pid, mapping).map(Elf::open) {
            Ok(Ok(elf)) => elf,
            Ok(Err(error)) => return Outcome::Refused(format!("its program cannot be read: {error}")),
            Err(error) => return Outcome::Refused(format!("its program cannot be opened: {error}")),
        };
        let places =
            process.cache.get::<Option<Places>>(self.name(), elf.identity(), || binary::places(&elf));
        let Some(places) = places.as_ref() else { return Outcome::Not };
        if places.missing.iter().any(|missing| !binary::is_of_promises(missing)) {
            return Outcome::Refused(format!("its program lacks symbols: {}", places.missing.join(", ")));
        }
        let Some(bias) = load_bias(&elf, process.maps, file) else {
            return Outcome::Refused("its program is mapped in an unusual way".into());
        };
        let mut found = async_ids(process.maps, &process.memory);
        if found.len() > 1 {
            // Copies are left over elsewhere at times, but stand still.
            std::thread::sleep(AGAIN);
            found.retain(|words| counts_on(words, &process.memory));
        }
        let ids = match found[..] {
            [(address, _)] => address,
            [] => return Outcome::Later(RETRY, "no place looks like its async ids".into()),
            _ => return Outcome::Later(RETRY, "more than one place looks like its async ids".into()),
        };
        let point = |place: &Place| {
            let file_offset = elf.file_offset(place.address)?;
            // V8 maps its builtins once more, beside the code that it makes, and mostly calls them there.
            let mut addresses: Vec<_> = process.maps.code_at(file, file_offset).collect();
            if !addresses.contains(&place.address.wrapping_add(bias)) {
                addresses.push(place.address.wrapping_add(bias));
            }
            Some(ProbePoint {
                file: mapping.clone(),
                file_offset,
                addresses,
                bytes: place.bytes.clone(),
                walk: walk(place.mark, ids, process.key.pid),
            })
        };
        let set = |name, places: &[Place], budget| ProbeSet {
            name,
            points: places.iter().filter_map(point).collect(),
            budget,
        };
        let turns = set(reader::TURNS, &places.turns, TURNS_BUDGET);
        let promises = (process.how.infers() && !places.promises.is_empty())
            .then(|| set(reader::PROMISES, &places.promises, PROMISES_BUDGET));
        let mut report = vec![
            format!("async ids at {ids:#x}"),
            format!("event loop: {} probes, always", turns.points.len()),
        ];
        report.push(match &promises {
            Some(set) => format!(
                "promises: {} probes, from the first call that needs them, up to {} hits a second",
                set.points.len(),
                set.budget
            ),
            None if places.promises.is_empty() => {
                format!("promises: not watched, its program lacks {}", places.missing.join(", "))
            }
            None => "promises: not watched, since --weakest-link is not inferred".into(),
        });
        let main = ThreadId(process.key.pid);
        let reader = NodeReader::new(main, process.memory, clock::monotonic, turns, promises);
        let calls = walk(Mark::Call, ids, process.key.pid);
        Outcome::Proved(Box::new(Proved {
            report,
            walks: Walks { send: Some(calls.clone()), receive: Some(calls), parameters: [0; 4] },
            reader: Box::new(reader),
        }))
    }
}

/// `node`, `nodejs`, or a program that has Node as a library.
fn is_node(path: &[u8]) -> bool {
    let name = path.rsplit(|&byte| byte == b'/').next().unwrap_or(path);
    let name = name.strip_suffix(b" (deleted)").unwrap_or(name);
    name == b"node" || name == b"nodejs" || name.starts_with(b"libnode.so")
}

/// What is read at a mark: the three words of the main thread, and the registers that it means. Builtins take their
/// parameters in rax, rbx, rcx, rdx (V8's stub calls, x64).
fn walk(mark: Mark, ids: u64, main: u32) -> Walk {
    let mut steps = vec![
        Step::thread(4),
        Step::equal(4, main.into()),
        Step::set(4, ids),
        Step::block(4, 0, 24),
        Step::field8(5, 0),
        Step::keep(5),
        Step::field8(5, 8),
        Step::keep(5),
        Step::field8(5, 16),
        Step::keep(5),
    ];
    let registers: &[u32] = match mark {
        Mark::Register => &[saved::DX, saved::BX, saved::CX],
        Mark::Derived => &[saved::AX],
        Mark::Job => &[saved::CX, saved::BX],
        Mark::Calls => &[saved::DI],
        _ => &[],
    };
    for &register in registers {
        steps.extend([Step::register(6, register), Step::keep(6)]);
    }
    if mark == Mark::Callable {
        // `EnqueueMicrotask(this, isolate, function)`: a handle, which is the address of the object's.
        steps.extend([Step::register(6, saved::DX), Step::read8(6, 6, 0), Step::keep(6)]);
    }
    steps.push(Step::end());
    Walk { tag: mark as u16, steps }
}

/// Where the words may be: the places in the C library's heap that look like them, with the last id given out.
fn async_ids(maps: &Maps, memory: &dyn ReadMemory) -> Vec<(u64, u64)> {
    let mut found = Vec::new();
    let heap = maps.iter().filter(|mapping| mapping.path == b"[heap]" && mapping.write);
    for mapping in heap {
        let mut at = mapping.start;
        let end = mapping.end.min(mapping.start.saturating_add(MAX_HEAP));
        while at < end && found.len() < MAX_COPIES {
            let length = usize::try_from(end - at).unwrap_or(0).min(MAX_READ);
            let Some(bytes) = memory.bytes(at, length) else { break };
            for (place, words) in bytes.windows(32).enumerate().step_by(8) {
                found.extend(last_id(words).map(|last| (at + place as u64, last)));
            }
            if length < MAX_READ {
                break;
            }
            at += (length - 32) as u64 + 8;
        }
    }
    found
}

/// Whether ids were given out at this place since it was read.
fn counts_on(&(address, before): &(u64, u64), memory: &dyn ReadMemory) -> bool {
    memory.bytes(address, 32).and_then(|words| last_id(&words)).is_some_and(|now| now > before)
}

/// The last id given out, if these look like the words.
fn last_id(words: &[u8]) -> Option<u64> {
    let [id, trigger, counter, default] = words.as_chunks().0 else { return None };
    let words = machine::Words::of([id, trigger, counter].map(|word| u64::from_le_bytes(*word)))?;
    let ids = LEAST_IDS..MOST_IDS;
    (u64::from_le_bytes(*default) == (-1.0f64).to_bits() && ids.contains(&words.counter))
        .then_some(words.counter)
}

/// Ids that Node has given out by the time it runs a program.
const LEAST_IDS: u64 = 3;
/// More than Node gives out: three times in nanoseconds look the same but for this.
const MOST_IDS: u64 = 1 << 32;
/// How much of the heap is looked through.
const MAX_HEAP: u64 = 256 << 20;
/// Places that may be looked at once more.
const MAX_COPIES: usize = 16;
/// How long after: a process that serves gives ids out meanwhile.
const AGAIN: Duration = Duration::from_millis(50);
/// How soon to look again.
const RETRY: Duration = Duration::from_millis(500);
/// Hits a second of the event loop's probes: some six a request.
const TURNS_BUDGET: u64 = 100_000;
/// Hits a second of promises' probes: 2 % of a processor at 3 µs each.
const PROMISES_BUDGET: u64 = 6_667;
