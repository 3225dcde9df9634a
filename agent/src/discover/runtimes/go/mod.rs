//! Go: goroutines, who waits for an answer, and who made whom.
//!
//! ```text
//!   client   the connection's writer goroutine keeps the channel of the answer at a fixed distance from the base of
//!            its stack; who waits on that channel made the call (`waiter`), or its maker did (`parentGoid`)
//!   context  the request that it is given names a context, and that those that it was derived from; one of them is the
//!            context of the request that is served, if the program passes that on (`task`)
//!   server   the goroutine of the connection is the owner, from the read of the request on; when it writes the answer,
//!            the connection names the request and so its context
//!   birth    a goroutine's number says whether it was made after a request was read (`Gate`): that one made it. By itself
//!            that is `inferred`; it is a proof (`task`) if that request waits for something that the goroutine holds (`held`)
//! ```
//! No probe is needed for any of it. Facts: layouts by version (`layout`), functions by name from the table that every
//! Go program carries (`table`), the rest is found and proved on the live process. It must never link by a number that
//! a check in the walk did not confirm.

mod held;
mod layout;
pub mod table;
mod walks;

use std::time::Duration;

use spandrel_proto::walk::MAX_STEPS;

use super::{Outcome, Process, Proved, Reader, Runtime, Seen, Walks, Wish};
use crate::discover::elf::{self, Elf};
use crate::discover::maps;
use crate::discover::memory::ReadMemory;
use crate::discover::runtime::go_version;
use crate::identity::{Claim, Direction, Facts, Gate, Held, Key, LinkMethod};
use layout::Layout;
use table::Function;
use walks::{KIND_ANSWER, KIND_CALLER, KIND_CLIENT, KIND_SERVER, KIND_UNANSWERED, Places};

/// The runtime.
pub struct Go;

/// What a program's file says.
#[derive(Clone, Debug)]
enum Binary {
    /// It is no Go program.
    NotGo,
    /// It is one that cannot be read, and why.
    Unknown(String),
    /// It is one.
    Known(Box<Known>),
}

#[derive(Clone, Debug)]
struct Known {
    version: String,
    layout: Layout,
    writer: Option<u64>,
    reader: Option<u64>,
    server: Option<u64>,
    background: Option<u64>,
    /// What `runtime.newproc1` adds to: one of them is the count of goroutine numbers.
    counters: Vec<u64>,
    /// `runtime.semtable`: the only data without a value of its own whose address `runtime.semacquire1` takes.
    semaphores: Option<u64>,
}

impl Runtime for Go {
    fn name(&self) -> &'static str {
        "go"
    }

    fn prove(&self, process: &Process<'_>) -> Outcome {
        let Some(mapping) = process.executable else { return Outcome::Not };
        let Some(file) = mapping.file() else { return Outcome::Not };
        let Ok(Ok(elf)) = maps::open(process.key.pid, mapping).map(Elf::open) else { return Outcome::Not };
        let binary = process.cache.get(self.name(), elf.identity(), || look(&elf));
        let known = match &*binary {
            Binary::NotGo => return Outcome::Not,
            Binary::Unknown(why) => return Outcome::Refused(why.clone()),
            Binary::Known(known) => known,
        };
        let Some(bias) = elf::load_bias(&elf, process.maps, file) else {
            return Outcome::Refused("where the program was loaded is not known".to_owned());
        };
        let mut report = vec![format!("Go {}", known.version)];
        let gate = match gate(process, known, bias, file) {
            Ok(gate) => {
                report.push(format!("goroutines are told by number, {} processors", gate.processors));
                Some(gate)
            }
            Err(Missing::Yet) => {
                return Outcome::Later(Duration::from_millis(200), "the scheduler has not begun".to_owned());
            }
            Err(Missing::Because(why)) => {
                report.push(format!("goroutines made for a request are not linked: {why}"));
                None
            }
        };
        let place = |address: Option<u64>| address.map(|address| address.wrapping_add(bias));
        let places = Places {
            writer: place(known.writer),
            reader: place(known.reader),
            server: place(known.server),
            background: place(known.background),
            semaphores: place(known.semaphores),
            gate,
        };
        if places.semaphores.is_none() {
            report.push("who waits for a WaitGroup is not found: runtime.semtable is not".to_owned());
        }
        for (what, place) in [
            ("client connections", places.writer),
            ("answers to them", places.reader),
            ("server connections", places.server),
        ] {
            if place.is_none() {
                report.push(format!("net/http's goroutine for {what} is not in this program"));
            }
        }
        let gated = places.gate.is_some().then(|| walks::walks(&known.layout, &places));
        let walks = walks::walks(&known.layout, &Places { gate: None, ..places });
        let longest = |walks: &Walks| {
            [&walks.send, &walks.receive].map(|walk| walk.as_ref().map_or(0, |walk| walk.steps.len()))
        };
        if gated.iter().chain([&walks]).any(|walks| longest(walks).iter().any(|steps| *steps > MAX_STEPS)) {
            return Outcome::Refused("its walk is too long".to_owned());
        }
        Outcome::Proved(Box::new(Proved { report, walks, reader: Box::new(GoReader { gated }) }))
    }
}

/// The longest function whose code is looked through, in bytes.
const MAX_CODE: usize = 16 << 10;

fn look(elf: &Elf) -> Binary {
    let Some(info) = elf.section_bytes(".go.buildinfo", 1 << 20) else { return Binary::NotGo };
    let Some(version) = go_version(&info) else {
        return Binary::Unknown("it does not say its version (before 1.18, or damaged)".to_owned());
    };
    let Some(layout) = layout::minor(&version).and_then(layout::of_minor) else {
        return Binary::Unknown(format!("no layout is known for Go {version}"));
    };
    let names = layout.names;
    let wanted = [
        names.writer,
        names.reader,
        names.server,
        names.background,
        "runtime.newproc1",
        "runtime.semacquire1",
    ];
    let Some(functions) = table::of(elf, &wanted) else {
        return Binary::Unknown(
            "its table of functions is not there, too large, or of another kind".to_owned(),
        );
    };
    let at = |index: usize| -> Option<Function> {
        functions.found.get(index).copied().flatten().filter(|function| elf.is_code(function.address))
    };
    let taken = |index| {
        let function = at(index)?;
        let size = usize::try_from(function.size).unwrap_or(0).min(MAX_CODE);
        Some(table::counters(&elf.bytes_at(function.address, size)?, function.address))
    };
    let counters = taken(4).unwrap_or_default();
    let mut data = taken(5).unwrap_or_default();
    data.retain(|address| elf.is_zeroed(*address));
    let semaphores = match data.as_slice() {
        [one] => Some(*one),
        _ => None,
    };
    let address = |index| at(index).map(|function| function.address);
    Binary::Known(Box::new(Known {
        version,
        layout,
        writer: address(0),
        reader: address(1),
        server: address(2),
        background: address(3),
        counters,
        semaphores,
    }))
}

/// For the fuzz bodies: a file, whatever is in it.
pub(super) fn read_file(elf: &Elf) {
    if let Binary::Known(known) = look(elf) {
        for address in [known.writer, known.reader, known.server, known.background].into_iter().flatten() {
            assert!(elf.is_code(address), "{address:#x}");
        }
        assert!(known.semaphores.is_none_or(|address| elf.is_zeroed(address)));
    }
}

/// For the fuzz bodies: memory, whatever is in it.
pub(super) fn read_memory(data: &[u8]) {
    let mut image = crate::discover::memory::Image::default();
    image.put(0x10_0000, data);
    for minor in 19..28 {
        let Some(layout) = layout::of_minor(minor) else { continue };
        for length in [1, 2, MAX_PROCESSORS, u64::MAX] {
            for list in [0x10_0000, 0x10_0008, 1, u64::MAX - 7] {
                assert!(latest_batch(&image, &layout, list, length).is_none_or(|end| end > BATCH));
            }
        }
    }
}

enum Missing {
    Yet,
    Because(String),
}

/// The most processors whose batches of numbers are read at each request: two words each, as many as a walk may keep.
const MAX_PROCESSORS: u64 = 18;
/// The most that is searched for the list of processors, in bytes.
const MAX_DATA: u64 = 8 << 20;

/// Finds, on the live process, the count of goroutine numbers and every processor's batch. The list of processors has
/// no name in a stripped program; it proves itself: its elements are numbered, and their batches lie below the count.
fn gate(
    process: &Process<'_>,
    known: &Known,
    bias: u64,
    file: maps::FileKey,
) -> Result<walks::GatePlaces, Missing> {
    if known.layout.parent.is_none() {
        return Err(Missing::Because("this version does not keep a goroutine's maker".to_owned()));
    }
    let memory = &process.memory;
    let plausible = |count: u64| count != 0 && count < 1 << 40;
    let counters = || known.counters.iter().map(|counter| counter.wrapping_add(bias));
    if !counters().any(|counter| memory.word(counter).is_some_and(plausible)) {
        return Err(if known.counters.is_empty() {
            Missing::Because("the count of goroutine numbers was not found".to_owned())
        } else {
            Missing::Yet
        });
    }
    let mut lists: Vec<(u64, u64, u64, u64)> = Vec::new();
    let mut left = MAX_DATA;
    let mut before = 0;
    for mapping in process.maps.iter().filter(|mapping| mapping.read && mapping.write) {
        let of_program = mapping.file() == Some(file) || (mapping.inode == 0 && mapping.start == before);
        if !of_program {
            continue;
        }
        before = mapping.end;
        let mut at = mapping.start;
        while at < mapping.end && left > 0 {
            let length = (mapping.end - at).min(64 << 10).min(left);
            left -= length;
            if let Some(bytes) = memory.bytes(at, length as usize) {
                let words: Vec<u64> =
                    bytes.chunks_exact(8).filter_map(|w| w.try_into().ok().map(u64::from_le_bytes)).collect();
                for (index, window) in words.windows(3).enumerate() {
                    let &[list, length, capacity] = window else { continue };
                    if length == 0 || length > 4096 || capacity < length || capacity > 8192 || list % 8 != 0 {
                        continue;
                    }
                    let Some(end) = latest_batch(memory, &known.layout, list, length) else { continue };
                    // The last batch that was given out is some processor's. Threads of C draw single numbers after it.
                    let last = |counter: &u64| {
                        let count = memory.word(*counter).filter(|count| plausible(*count));
                        count.is_some_and(|count| count + 1 >= end && count + 1 - end <= MAX_SINGLE)
                    };
                    let mut fitting = counters().filter(last);
                    if let (Some(count), None) = (fitting.next(), fitting.next()) {
                        lists.push((at + index as u64 * 8, list, count, length));
                    }
                }
            }
            at += length;
        }
    }
    let mut distinct: Vec<_> =
        lists.iter().map(|(_, list, count, processors)| (list, count, processors)).collect();
    distinct.sort_unstable();
    distinct.dedup();
    match (lists.first(), distinct.len()) {
        (None, _) => Err(Missing::Because("the list of processors was not found".to_owned())),
        (Some((header, list, count, processors)), 1) => {
            Ok(walks::GatePlaces { count: *count, header: *header, list: *list, processors: *processors })
        }
        _ => Err(Missing::Because("the list of processors is not certain".to_owned())),
    }
}

/// Goroutine numbers are handed to processors in batches of so many (`_GoidCacheBatch`, runtime/proc.go).
const BATCH: u64 = 16;
/// Numbers drawn one by one since the last batch (`oneNewExtraM`, runtime/proc.go).
const MAX_SINGLE: u64 = 64;

/// The end of the latest batch of the processors of a list, if it is one.
fn latest_batch(memory: &impl ReadMemory, layout: &Layout, list: u64, length: u64) -> Option<u64> {
    if length > MAX_PROCESSORS {
        return None;
    }
    let mut latest = 0;
    for number in 0..length {
        let processor = memory.word(list.checked_add(number * 8)?)?;
        if processor % 8 != 0 || u64::from(memory.u32(processor)?) != number {
            return None;
        }
        // `p.status`: idle, running, in a call, stopped, dead.
        if memory.u32(processor.checked_add(4)?)? > 4 {
            return None;
        }
        let next = memory.word(processor.checked_add(layout.goidcache.0)?)?;
        let end = memory.word(processor.checked_add(layout.goidcache.1)?)?;
        if next > end || end - next > BATCH {
            return None;
        }
        latest = latest.max(end);
    }
    // One of them has had a batch. Other lists of numbered things have zeros there, which any small count would fit.
    (latest > BATCH).then_some(latest)
}

/// Makes facts of words.
struct GoReader {
    /// The walks that also read what goroutines a request found; taken once a call went without a parent that one of those
    /// made. Until then no request pays for it.
    gated: Option<Walks>,
}

/// Goroutines, by number.
const GOROUTINE: u8 = 0;
/// Contexts (`context.Context`), by address.
const CONTEXT: u8 = 1;

fn goroutine(number: u64) -> Key {
    Key { space: GOROUTINE, value: number }
}

fn context(address: u64) -> Key {
    Key { space: CONTEXT, value: address }
}

/// A call is that request's from whose context its own is derived.
fn derived(contexts: &[u64]) -> impl Iterator<Item = Claim> + '_ {
    contexts.iter().map(|&at| Claim { key: context(at), at: None, born: None, method: LinkMethod::Task })
}

impl GoReader {
    /// Whose a call is that this goroutine waits for: its own, or that of the one that made it.
    fn claims(&self, number: u64, parent: u64, method: LinkMethod) -> Vec<Claim> {
        let mut claims = vec![Claim { key: goroutine(number), at: None, born: None, method }];
        if parent != 0 {
            let method = LinkMethod::Inferred;
            claims.push(Claim { key: goroutine(parent), at: None, born: Some(number), method });
        }
        claims
    }
}

/// Contexts, and what the caller holds, each followed by who waits for it.
fn parts(words: &[u64]) -> (&[u64], &[u64]) {
    let mut parts = words.splitn(2, |word| *word == 0);
    (parts.next().unwrap_or_default(), parts.next().unwrap_or_default())
}

impl Reader for GoReader {
    fn read(&mut self, seen: &Seen<'_>, _: &mut Vec<Wish>) -> Facts {
        match *seen.words {
            // The goroutine of a server's connection, or its reader of one byte: then its maker's number.
            [KIND_SERVER, number, ref gate @ ..] => Facts {
                owns: vec![goroutine(number)],
                gate: match gate {
                    [last, batches @ ..] => Some(Gate {
                        last: *last,
                        batches: batches
                            .chunks_exact(2)
                            .filter_map(|pair| Some((*pair.first()?, *pair.last()?)))
                            .collect(),
                    }),
                    _ => None,
                },
                // Its context is made after it was read.
                more: true,
                ..Facts::default()
            },
            [KIND_CLIENT, number, parent, ref rest @ ..] => {
                let (contexts, held) = parts(rest);
                let mut claims = self.claims(number, parent, LinkMethod::Waiter);
                claims.extend(derived(contexts));
                let held = held.as_chunks().0.iter().filter(|[_, waiter]| *waiter != number);
                let held = held.map(|&[thing, waiter]| Held { thing, waiter: goroutine(waiter) });
                // Whoever will wait for what it holds may not wait yet.
                let later = seen.direction == Direction::Send;
                Facts { claims, held: held.collect(), later, ..Facts::default() }
            }
            // Nobody waits yet: the answer's read will tell.
            [KIND_UNANSWERED, ref rest @ ..] => Facts {
                claims: derived(parts(rest).0).collect(),
                later: seen.direction == Direction::Send,
                ..Facts::default()
            },
            // The goroutine of a server's connection, with the context of the request that it serves.
            [KIND_ANSWER, number, parent, ref contexts @ ..] => Facts {
                owns: std::iter::once(goroutine(number))
                    .chain(contexts.iter().copied().map(context))
                    .collect(),
                claims: self.claims(number, parent, LinkMethod::Task),
                ..Facts::default()
            },
            // Whoever calls by himself.
            [KIND_CALLER, number, parent] => Facts {
                owns: vec![goroutine(number)],
                claims: self.claims(number, parent, LinkMethod::Task),
                ..Facts::default()
            },
            _ => Facts::default(),
        }
    }

    fn orphaned(&mut self, claims: &[Claim], wishes: &mut Vec<Wish>) {
        if claims.iter().any(|claim| claim.born.is_some())
            && let Some(walks) = self.gated.take()
        {
            wishes.push(Wish::Walks(walks));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::discover::memory::Image;

    fn processors(image: &mut Image, at: u64, batches: &[(u64, u64)]) {
        let layout = layout::of_minor(24).unwrap();
        let mut list = Vec::new();
        for (number, (next, end)) in (0..).zip(batches) {
            let processor = at + 0x1000 * (number + 1);
            list.push(processor);
            let mut words = vec![0; 64];
            words[0] = number | 1 << 32;
            words[layout.goidcache.0 as usize / 8] = *next;
            words[layout.goidcache.1 as usize / 8] = *end;
            image.put_words(processor, &words);
        }
        image.put_words(at, &list);
    }

    #[test]
    fn a_list_of_processors_has_batches_of_numbers() {
        let layout = layout::of_minor(24).unwrap();
        let mut image = Image::default();
        processors(&mut image, 0x10_0000, &[(20, 33), (1, 17)]);
        assert_eq!(latest_batch(&image, &layout, 0x10_0000, 2), Some(33));
        // Beyond its end; longer than a batch; begun behind its end.
        assert_eq!(latest_batch(&image, &layout, 0x10_0000, 3), None);
        for batch in [(20, 40), (34, 33)] {
            processors(&mut image, 0x20_0000, &[batch]);
            assert_eq!(latest_batch(&image, &layout, 0x20_0000, 1), None);
        }
    }

    #[test]
    fn numbered_things_of_which_none_has_a_batch_are_no_processors() {
        let layout = layout::of_minor(24).unwrap();
        let mut image = Image::default();
        processors(&mut image, 0x10_0000, &[(0, 0), (0, 0)]);
        assert_eq!(latest_batch(&image, &layout, 0x10_0000, 2), None);
    }

    #[test]
    fn the_walk_that_every_request_pays_for_waits_for_an_orphan_that_it_would_have_helped() {
        let mut reader = GoReader { gated: Some(Walks::default()) };
        let mut wishes = Vec::new();
        let claim = Claim { key: goroutine(7), at: None, born: None, method: LinkMethod::Waiter };
        reader.orphaned(&[claim], &mut wishes);
        assert!(wishes.is_empty());
        reader.orphaned(&[claim, Claim { born: Some(9), ..claim }], &mut wishes);
        reader.orphaned(&[claim, Claim { born: Some(9), ..claim }], &mut wishes);
        assert!(matches!(wishes.as_slice(), [Wish::Walks(_)]));
    }
}
