//! The table of what a connection of gRPC's C core receives (`src/core/ext/transport/chttp2/transport/hpack_parser_table.h`).
//!
//! ```text
//! HPackTable  +0 used u32, +4 limit u32, +8 limit in use u32, +16 first u32, +20 count u32, +24 capacity u32,
//!             then, at +40 or behind two pointers more, the vector of entries: begin, end
//! entry, 56   +0 what kind of field, +8 its value (32 bytes), +40 what it counts for u32, +48 whether it could be parsed
//! kind        +40 its name (length, pointer); empty for a field that gRPC has no kind for: its value points at two slices
//! slice, 32   +0 who counts references; 0: +8 length u8, +9 up to 23 bytes; else: +8 length, +16 pointer
//! ```
//! Entries keep what they count for, so the proof is the sum of these. Values are parsed: what is text here is text that has the
//! very length which the entry counts for; of the rest only what stands for one text is told, and all else is there without a value.
//! It must never take a number for a text, nor leave out a table of which it cannot read a name: that one is told as unread.

use std::sync::Arc;

use super::{Entry, Library, MAX_ENTRIES, MAX_TABLE, OVERHEAD, Proved, Table, Words, is_name, pointer};
use crate::discover::memory::ReadMemory;

/// Bytes of an entry.
const ENTRY: u64 = 56;

/// Bytes of a slice.
const SLICE: usize = 32;

/// The bytes that a slice holds itself.
const INLINE: usize = 23;

fn low(word: u64) -> u64 {
    word & 0xffff_ffff
}

/// What the words say, if they can be a table.
struct Shape {
    used: u64,
    limit: u64,
    first: u64,
    count: u64,
    capacity: u64,
    entries: u64,
    /// How many entries the vector has: it grows up to the capacity.
    slots: u64,
}

impl Shape {
    fn of(words: &Words) -> Option<Self> {
        let [sizes, in_use, ring, more, _, sixth, seventh, eighth, ninth, _] = *words;
        let (used, limit, in_use) = (low(sizes), sizes >> 32, low(in_use));
        let (first, count, capacity) = (low(ring), ring >> 32, low(more));
        let fits = used <= in_use
            && in_use <= MAX_TABLE
            && limit <= MAX_TABLE
            && count > 0
            && count * OVERHEAD <= used
            && count <= capacity
            && in_use <= capacity * OVERHEAD
            && capacity <= MAX_ENTRIES;
        if !fits {
            return None;
        }
        // Newer ones have two pointers before the vector (the statistics that they count into).
        [(seventh, eighth), (sixth, seventh), (eighth, ninth)].into_iter().find_map(|(entries, end)| {
            let bytes =
                end.checked_sub(entries).filter(|bytes| pointer(entries) && bytes.is_multiple_of(ENTRY))?;
            let slots = bytes / ENTRY;
            let shape = Self { used, limit: in_use.max(limit), first, count, capacity, entries, slots };
            (count..=capacity).contains(&slots).then_some(shape)
        })
    }
}

/// Whether the words can be a table.
pub(super) fn looks(words: &Words) -> bool {
    Shape::of(words).is_some()
}

/// The proof.
pub(super) fn prove(memory: &dyn ReadMemory, address: u64, words: &Words) -> Proved {
    let Some(shape) = Shape::of(words) else { return Proved::No };
    let Some(raw) =
        (0..shape.count).rev().map(|index| raw(memory, &shape, index)).collect::<Option<Vec<_>>>()
    else {
        return Proved::No;
    };
    if raw.iter().map(|raw| raw.size).sum::<u64>() != shape.used {
        return Proved::No;
    }
    let Some(entries) = raw.iter().map(|raw| entry(memory, raw)).collect::<Option<Vec<_>>>() else {
        return Proved::Unread;
    };
    Proved::Yes(Table {
        library: Library::CCore,
        address,
        inserted: shape.first + shape.count,
        limit: shape.limit,
        entries: Arc::from(entries),
    })
}

/// An entry as it lies there.
struct Raw {
    kind: u64,
    value: [u8; SLICE],
    size: u64,
}

fn raw(memory: &dyn ReadMemory, shape: &Shape, index: u64) -> Option<Raw> {
    let slot = (shape.first + index) % shape.capacity;
    if slot >= shape.slots {
        return None;
    }
    let bytes = memory.bytes(shape.entries.checked_add(slot * ENTRY)?, ENTRY as usize)?;
    let kind = u64::from_le_bytes(*bytes.first_chunk()?);
    let size = u64::from(u32::from_le_bytes(*bytes.get(40..)?.first_chunk()?));
    let raw = Raw { kind, value: *bytes.get(8..)?.first_chunk()?, size };
    (pointer(kind) && (OVERHEAD + 1..=MAX_TABLE).contains(&size)).then_some(raw)
}

/// What an entry says; none if its name cannot be told.
fn entry(memory: &dyn ReadMemory, raw: &Raw) -> Option<Entry> {
    let Raw { kind, value, size } = raw;
    let room = size - OVERHEAD;
    let (length, at) = (memory.word(kind.checked_add(40)?)?, memory.word(kind.checked_add(48)?)?);
    if length == 0 {
        // The name and the value, a slice each.
        let both = memory.bytes(u64::from_le_bytes(*value.first_chunk()?), 2 * SLICE)?;
        let (name, value) = (slice(memory, both.first_chunk()?)?, slice(memory, both.last_chunk()?));
        let left = room.checked_sub(name.len() as u64)?;
        let value = value.filter(|value| value.len() as u64 == left);
        return is_name(&name).then_some(Entry { name, value, size: *size });
    }
    let left = room.checked_sub(length)?;
    let name = memory.bytes(at, usize::try_from(length).ok()?).filter(|name| is_name(name))?;
    let value = text(memory, &name, value).filter(|value| value.len() as u64 == left);
    Some(Entry { name, value, size: *size })
}

/// The text of a value, if what is kept of it stands for one text.
fn text(memory: &dyn ReadMemory, name: &[u8], value: &[u8; SLICE]) -> Option<Vec<u8>> {
    let number = || value.first_chunk().map(|bytes| u32::from_le_bytes(*bytes));
    match name {
        b":path" | b":authority" | b"host" | b"user-agent" => slice(memory, value),
        b"grpc-status" => {
            number().filter(|status| *status <= 16).map(|status| status.to_string().into_bytes())
        }
        b":status" => number()
            .filter(|status| (100..1000).contains(status))
            .map(|status| status.to_string().into_bytes()),
        // An enumeration that begins with it; `application/grpc+proto` is the same value, and longer.
        b"content-type" => (value.first() == Some(&0)).then(|| b"application/grpc".to_vec()),
        _ => None,
    }
}

fn slice(memory: &dyn ReadMemory, slice: &[u8; SLICE]) -> Option<Vec<u8>> {
    let word = |at: usize| slice.get(at..)?.first_chunk().map(|bytes| u64::from_le_bytes(*bytes));
    if word(0)? == 0 {
        let length = usize::from(*slice.get(8)?);
        return slice.get(9..9 + length).filter(|_| length <= INLINE).map(<[u8]>::to_vec);
    }
    let (length, at) = (word(8)?, word(16)?);
    if length > MAX_TABLE {
        return None;
    }
    memory.bytes(at, usize::try_from(length).ok()?)
}

#[cfg(test)]
mod tests {
    use super::super::tests::{HEAP, heap, said};
    use rand::rngs::StdRng;
    use rand::{Rng, SeedableRng};

    use super::super::{Found, find};
    use super::*;

    /// What an entry of a test is.
    #[derive(Clone, Copy)]
    enum Value {
        Text(&'static str),
        Number(u32),
        Pair(&'static str, &'static str),
    }
    use Value::{Number, Pair, Text};

    /// A table of these entries, the oldest first: name, value, what the value counts for.
    struct Made {
        words: Vec<(u64, u64)>,
        texts: Vec<(u64, &'static str)>,
        next: u64,
    }

    impl Made {
        fn place(&mut self, text: &'static str) -> u64 {
            self.texts.push((self.next, text));
            self.next += (text.len() as u64).next_multiple_of(8).max(8);
            HEAP + self.next - (text.len() as u64).next_multiple_of(8).max(8)
        }

        fn slice(&mut self, at: u64, text: &'static str) {
            if text.len() <= INLINE {
                let mut bytes = [0u8; 24];
                bytes[0] = text.len() as u8;
                bytes[1..1 + text.len()].copy_from_slice(text.as_bytes());
                for (word, bytes) in bytes.chunks(8).enumerate() {
                    self.words
                        .push((at + 8 + 8 * word as u64, u64::from_le_bytes(bytes.try_into().unwrap())));
                }
            } else {
                let place = self.place(text);
                self.words.extend([(at, HEAP + 0x9000), (at + 8, text.len() as u64), (at + 16, place)]);
            }
        }
    }

    /// Entries from slot `first` on, in a vector of so many, at most; the shape has the vector at `vector`.
    fn table(
        entries: &[(&'static str, Value, u64)],
        first: u64,
        slots: u64,
        vector: u64,
        size: Option<u64>,
    ) -> Found {
        let mut made = Made { words: Vec::new(), texts: Vec::new(), next: 0x6000 };
        let (mut used, mut kinds) = (0, 0x4000);
        for (index, &(name, value, length)) in entries.iter().enumerate() {
            let slot = 0x1000 + (first + index as u64) % slots * ENTRY;
            let kind = kinds;
            kinds += 64;
            match value {
                Text(text) => made.slice(slot + 8, text),
                Number(number) => made.words.push((slot + 8, u64::from(number))),
                Pair(name, value) => {
                    let pair = 0x8000 + 64 * index as u64;
                    made.words.push((slot + 8, HEAP + pair));
                    made.slice(pair, name);
                    made.slice(pair + 32, value);
                }
            }
            let place = made.place(name);
            let named = if matches!(value, Pair(..)) { 0 } else { name.len() as u64 };
            made.words.extend([(slot, HEAP + kind), (kind + 40, named), (kind + 48, place)]);
            let bytes = OVERHEAD + name.len() as u64 + length;
            made.words.push((slot + 40, bytes));
            used += bytes;
        }
        let count = entries.len() as u64;
        made.words.extend([
            (0x100, size.unwrap_or(used) | 4096 << 32),
            (0x108, 4096),
            (0x110, first | count << 32),
            (0x118, 128 | 0xffff_ffff << 32),
            (0x100 + vector, HEAP + 0x1000),
            (0x108 + vector, HEAP + 0x1000 + slots * ENTRY),
        ]);
        let (image, maps) = heap(&made.words, &made.texts);
        find(&image, &maps, Library::CCore)
    }

    fn requests() -> Vec<(&'static str, Value, u64)> {
        vec![
            (":path", Text("/bench.Echo/Method0"), 19),
            (":authority", Text("localhost:50051"), 15),
            ("content-type", Number(0), 16),
            ("te", Number(0), 8),
            ("grpc-accept-encoding", Number(7), 23),
            ("user-agent", Text("grpc-python/1.85.1 grpc-c/58.0.0 (linux; chttp2)"), 48),
            ("x-request-id", Pair("x-request-id", "0123456789abcdef0123456789abcdef"), 32),
        ]
    }

    #[test]
    fn a_table_of_what_c_core_received_is_read_and_what_is_no_text_has_no_value() {
        for vector in [40, 48, 56] {
            let found = table(&requests(), 0, 7, vector, None);
            let [table] = &found.tables[..] else { panic!("{vector}: {found:?}") };
            assert_eq!((table.library, table.inserted, table.limit), (Library::CCore, 7, 4096));
            assert_eq!(
                said(table),
                [
                    "x-request-id: 0123456789abcdef0123456789abcdef",
                    "user-agent: grpc-python/1.85.1 grpc-c/58.0.0 (linux; chttp2)",
                    "grpc-accept-encoding: ?",
                    "te: ?",
                    "content-type: application/grpc",
                    ":authority: localhost:50051",
                    ":path: /bench.Echo/Method0",
                ]
            );
        }
    }

    #[test]
    fn a_status_is_a_number_that_has_one_text() {
        let entries =
            [("grpc-status", Number(0), 1), ("grpc-status", Number(13), 2), (":status", Number(404), 3)];
        let found = table(&entries, 0, 3, 56, None);
        assert_eq!(said(&found.tables[0]), [":status: 404", "grpc-status: 13", "grpc-status: 0"]);
        // Not as long as what it counts for: it was another text.
        let found = table(&[("grpc-status", Number(0), 2), ("content-type", Number(0), 22)], 0, 2, 56, None);
        assert_eq!(said(&found.tables[0]), ["content-type: ?", "grpc-status: ?"]);
    }

    #[test]
    fn a_ring_that_has_gone_round_begins_at_its_oldest_entry() {
        // All slots of a full vector: the capacity is 128.
        let found = table(&requests(), 125, 128, 56, None);
        let [table] = &found.tables[..] else { panic!("{found:?}") };
        assert_eq!((table.inserted, said(table)[6].as_str()), (132, ":path: /bench.Echo/Method0"));
    }

    #[test]
    fn a_table_whose_entries_do_not_add_up_to_its_size_is_none() {
        assert!(table(&requests(), 0, 7, 56, Some(400)).tables.is_empty());
    }

    #[test]
    fn a_table_with_a_name_that_cannot_be_read_is_told_as_unread() {
        let mut entries = requests();
        entries.push(("Upper", Text("value"), 5));
        let found = table(&entries, 0, 8, 56, None);
        assert_eq!((found.tables.len(), found.unread), (0, 1));
    }

    #[test]
    fn whatever_stands_in_a_table_comes_back_as_it_was() {
        let mut random = StdRng::seed_from_u64(8);
        let text = |random: &mut StdRng, length: usize| -> &'static str {
            (0..length).map(|_| char::from(random.random_range(b'a'..=b'z'))).collect::<String>().leak()
        };
        for _ in 0..200 {
            let count = random.random_range(1..20);
            let (mut entries, mut expected) = (Vec::new(), Vec::new());
            for _ in 0..count {
                let length = random.random_range(0..50);
                let value = text(&mut random, length);
                let (entry, said) = match random.random_range(0..4) {
                    0 => ((":path", Text(value), length as u64), format!(":path: {value}")),
                    1 => {
                        let status = random.random_range(0..=16);
                        let said = format!("grpc-status: {status}");
                        (("grpc-status", Number(status), said.len() as u64 - 13), said)
                    }
                    2 => {
                        let length = random.random_range(1..30);
                        let name = text(&mut random, length);
                        ((name, Pair(name, value), value.len() as u64), format!("{name}: {value}"))
                    }
                    _ => (("grpc-timeout", Number(7), length as u64), "grpc-timeout: ?".to_owned()),
                };
                entries.push(entry);
                expected.insert(0, said);
            }
            let slots = if random.random() { 128 } else { count };
            let first = if slots == 128 { random.random_range(0..1_000) } else { 0 };
            let found = table(&entries, first, slots, 56, None);
            let [table] = &found.tables[..] else { panic!("{found:?} {expected:?}") };
            assert_eq!((said(table), table.inserted), (expected, first + count));
        }
    }
}
