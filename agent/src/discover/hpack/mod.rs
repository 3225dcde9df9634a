//! HPACK tables in the memory of one end of a connection: what a decoder that joined late cannot know otherwise.
//!
//! Every implementation keeps a table's size beside its entries, so a shape found by search is *proved* or dropped: the size
//! that is stored must be the sum of 32 + name + value over all entries (RFC 7541, section 4.1), within a stored limit. A
//! text that merely looks like a header proves nothing. This reads another program's memory on a large scale: it is done only
//! where a setting allows it, for connections that were warm when they were met, and it writes nothing and stops nobody.
//!
//! Known shapes: `golang.org/x/net/http2/hpack` (grpc-go, net/http), nghttp2 (Node, curl) and gRPC's C core (Python and others),
//! of which only the tables of what it receives.

mod c_core;

use std::ops::Range;
use std::sync::Arc;

use super::maps::{Mapping, Maps};
use super::memory::{MAX_READ, ReadMemory};

/// Bytes of memory that are searched of one process.
const MAX_SEARCHED: u64 = 512 << 20;
/// Pages of memory that a process may have mapped, touched or not: 16 GiB.
const MAX_PAGES: u64 = 4 << 20;
/// Tables that are returned of one process; two for each connection.
const MAX_TABLES: usize = 1024;
/// Entries of a table: 64 KiB of the smallest.
const MAX_ENTRIES: u64 = 2048;
/// The largest table that is believed.
const MAX_TABLE: u64 = 65_536;
/// How often a table is read that changes meanwhile.
const MAX_LOOKS: usize = 8;
/// What RFC 7541 adds to each entry's size.
const OVERHEAD: u64 = 32;

/// Whose table it is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Library {
    /// `golang.org/x/net/http2/hpack`.
    XNet,
    /// nghttp2.
    Nghttp2,
    /// gRPC's C core. Its encoder's table is of another shape, which holds sizes and no texts.
    CCore,
}

/// An entry of a table.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Entry {
    /// Its name.
    pub name: Vec<u8>,
    /// Its value; none if the library keeps it in a form of its own.
    pub value: Option<Vec<u8>>,
    /// What it counts for (RFC 7541, section 4.1).
    pub size: u64,
}

/// A proved table.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Table {
    /// Whose.
    pub library: Library,
    /// Where it is.
    pub address: u64,
    /// How many entries were ever inserted: it changes with each.
    pub inserted: u64,
    /// The size that it may have.
    pub limit: u64,
    /// The newest first.
    pub entries: Arc<[Entry]>,
}

/// What a search came to.
#[derive(Clone, Debug, Default)]
pub struct Found {
    /// The proved tables.
    pub tables: Vec<Table>,
    /// Places that had the shape.
    pub candidates: u64,
    /// Bytes that were searched.
    pub searched: u64,
    /// Ranges that could not be: if they are still mapped, not all tables may be here.
    pub missed: Vec<Range<u64>>,
    /// Tables that add up and have an entry that could not be read: they are not here.
    pub unread: u64,
}

/// All tables of a library in the writable anonymous memory of a process.
pub fn find(memory: &dyn ReadMemory, maps: &Maps, library: Library) -> Found {
    let (mut found, mut pages) = (Found::default(), MAX_PAGES);
    for mapping in maps.iter() {
        if !may_hold(mapping) {
            continue;
        }
        // Stacks and arenas are mostly pages that nobody has touched; to read them would make the kernel map them.
        pages = pages.saturating_sub(mapping.size() / PAGE);
        match memory.touched(mapping.start..mapping.end) {
            _ if pages == 0 => found.miss(mapping.start, mapping.size()),
            None => search_range(memory, mapping.start..mapping.end, library, &mut found),
            Some(touched) => {
                touched.into_iter().for_each(|range| search_range(memory, range, library, &mut found));
            }
        }
    }
    found.tables.dedup_by_key(|table| table.address);
    found
}

fn search_range(memory: &dyn ReadMemory, range: Range<u64>, library: Library, found: &mut Found) {
    let mut at = range.start;
    while at < range.end {
        let length = usize::try_from(range.end - at).unwrap_or(MAX_READ).min(MAX_READ);
        let room = found.searched < MAX_SEARCHED && found.tables.len() < MAX_TABLES;
        match room {
            true => search(memory, at, &readable(memory, at, length, found), library, found),
            false => found.miss(at, length as u64),
        }
        // Shapes that lie across two pieces are seen from the second.
        if length <= SHAPE {
            break;
        }
        at += (length - SHAPE) as u64;
    }
}

/// Memory as far as it is there: programs give pages back all the time. What is missing is zero.
fn readable(memory: &dyn ReadMemory, at: u64, length: usize, found: &mut Found) -> Vec<u8> {
    found.searched += length as u64;
    if let Some(bytes) = memory.bytes(at, length) {
        return bytes;
    }
    let mut bytes = vec![0; length];
    let mut page = at;
    while let Some(rest) = usize::try_from(page - at).ok().and_then(|done| bytes.get_mut(done..))
        && !rest.is_empty()
    {
        // To the end of the page.
        let length = usize::try_from(PAGE - page % PAGE).unwrap_or(rest.len()).min(rest.len());
        let Some(part) = rest.get_mut(..length) else { break };
        if !memory.read(page, part) {
            part.fill(0);
            found.miss(page, length as u64);
        }
        page += length as u64;
    }
    bytes
}

impl Found {
    fn miss(&mut self, at: u64, length: u64) {
        let end = at + length;
        match self.missed.last_mut() {
            Some(last) if last.end >= at => last.end = last.end.max(end),
            _ => self.missed.push(at..end),
        }
    }

    /// Whether something that could not be read is still there.
    pub fn is_incomplete(&self, now: &Maps) -> bool {
        let missed = |mapping: &Mapping| {
            self.missed.iter().any(|range| range.start < mapping.end && mapping.start < range.end)
        };
        self.unread > 0 || now.iter().filter(|mapping| may_hold(mapping)).any(missed)
    }
}

/// Whether tables may lie there. Go gives its heap a name since 5.17 (`[anon: Go: heap]`); a file's pages hold no heap.
fn may_hold(mapping: &Mapping) -> bool {
    mapping.read && mapping.write && mapping.file().is_none()
}

/// The smallest page of the machine.
const PAGE: u64 = 4096;

/// Bytes of the longest shape.
const SHAPE: usize = 80;

/// The words of a shape.
type Words = [u64; SHAPE / 8];

/// What came of a place that has the shape.
enum Proved {
    /// It is no table.
    No,
    /// It is one, but not all of it can be read.
    Unread,
    /// It is this one.
    Yes(Table),
}

impl From<Option<Table>> for Proved {
    fn from(table: Option<Table>) -> Self {
        table.map_or(Self::No, Self::Yes)
    }
}

fn search(memory: &dyn ReadMemory, base: u64, bytes: &[u8], library: Library, found: &mut Found) {
    let words = bytes.chunks_exact(8).map(|word| word.try_into().map_or(0, u64::from_le_bytes));
    // One may lie at the very end: it is shorter than the longest shape.
    let all: Vec<u64> = words.chain([0; SHAPE / 8 - 1]).collect();
    for (at, words) in all.windows(SHAPE / 8).enumerate() {
        let Some(words) = words.first_chunk() else { continue };
        if !looks(words, library) {
            continue;
        }
        found.candidates += 1;
        let address = base + at as u64 * 8;
        if found.tables.iter().any(|known| known.address == address) {
            continue;
        }
        match prove_steady(memory, address, *words, library) {
            Proved::Yes(table) if found.tables.len() < MAX_TABLES => found.tables.push(table),
            Proved::Yes(_) | Proved::Unread => found.unread += 1,
            Proved::No => {}
        }
    }
}

/// The proof of a table that its program may change meanwhile: its words are the same before its entries are read and after, and
/// every insertion changes them.
fn prove_steady(memory: &dyn ReadMemory, address: u64, mut words: Words, library: Library) -> Proved {
    for _ in 0..MAX_LOOKS {
        let proved = prove(memory, address, &words, library);
        let now = words_at(memory, address);
        if now == words {
            return proved;
        }
        words = now;
        if !looks(&words, library) {
            return Proved::No;
        }
    }
    Proved::Unread
}

/// The words there; what lies beyond the end of memory is zero.
fn words_at(memory: &dyn ReadMemory, address: u64) -> Words {
    let mut words = [0u64; SHAPE / 8];
    let whole = memory.bytes(address, SHAPE).unwrap_or_default();
    for (at, word) in words.iter_mut().enumerate() {
        let bytes = whole.get(at * 8..).and_then(|bytes| bytes.first_chunk());
        let single = || memory.word(address.saturating_add(at as u64 * 8)).unwrap_or_default();
        *word = bytes.map_or_else(single, |bytes| u64::from_le_bytes(*bytes));
    }
    words
}

fn prove(memory: &dyn ReadMemory, address: u64, words: &Words, library: Library) -> Proved {
    match library {
        Library::XNet => x_net(memory, address, words).into(),
        Library::Nghttp2 => nghttp2(memory, address, words).into(),
        Library::CCore => c_core::prove(memory, address, words),
    }
}

/// A pointer into a program's own memory, aligned as an allocator gives them.
fn pointer(word: u64) -> bool {
    word.is_multiple_of(8) && (0x1_0000..1 << 47).contains(&word)
}

/// Whether the words have the shape of this library's table, by what costs nothing to check.
fn looks(words: &Words, library: Library) -> bool {
    match library {
        Library::XNet => is_like_x_net(words),
        Library::Nghttp2 => is_like_nghttp2(words),
        Library::CCore => c_core::looks(words),
    }
}

fn is_like_x_net(words: &Words) -> bool {
    let [first, second, third, _, fifth, sixth, seventh, ..] = *words;
    // headerFieldTable{ents []HeaderField, evictCount, byName, byNameValue}, then size and maxSize, both uint32
    // (x/net http2/hpack/tables.go and encode.go; 40 bytes an entry).
    let (size, most) = (seventh & 0xffff_ffff, seventh >> 32);
    // Only an encoder looks entries up by name; a decoder's table has no maps in newer releases (2026).
    let maps = (pointer(fifth) && pointer(sixth)) || (fifth, sixth) == (0, 0);
    pointer(first)
        && (1..=MAX_ENTRIES).contains(&second)
        && (second..=2 * MAX_ENTRIES).contains(&third)
        && maps
        && fits(second, size, most)
}

fn is_like_nghttp2(words: &Words) -> bool {
    let [first, second, _, fourth, fifth, sixth, seventh, ..] = *words;
    // nghttp2_hd_context: ring {buffer, mask, first, len}, mem, hd_table_bufsize, hd_table_bufsize_max (lib/nghttp2_hd.h).
    pointer(first)
        && (1..2 * MAX_ENTRIES).contains(&second)
        && (second + 1).is_power_of_two()
        && (1..=second + 1).contains(&fourth)
        && pointer(fifth)
        && fits(fourth, sixth, seventh)
}

/// Whether so many entries can have this size under this limit. While an entry is inserted the size may be above it.
fn fits(entries: u64, size: u64, most: u64) -> bool {
    most <= MAX_TABLE && size <= 2 * most && entries * OVERHEAD <= size && entries <= MAX_ENTRIES
}

/// The proof: reads entries, the newest first, and compares their sum with the size.
struct Sum<'a> {
    memory: &'a dyn ReadMemory,
    size: u64,
    sum: u64,
    entries: Vec<Entry>,
}

impl<'a> Sum<'a> {
    fn of(memory: &'a dyn ReadMemory, size: u64) -> Self {
        Self { memory, size, sum: 0, entries: Vec::new() }
    }

    fn add(&mut self, name: (u64, u64), value: (u64, u64)) -> Option<()> {
        let size = OVERHEAD.checked_add(name.1)?.checked_add(value.1)?;
        self.sum = self.sum.checked_add(size)?;
        if self.sum > self.size {
            return None;
        }
        let text = |(at, length): (u64, u64)| {
            if length == 0 {
                return Some(Vec::new());
            }
            self.memory.bytes(at, usize::try_from(length).ok()?)
        };
        let (name, value) = (text(name)?, text(value)?);
        is_name(&name).then(|| self.entries.push(Entry { name, value: Some(value), size }))
    }

    fn proved(self, library: Library, address: u64, inserted: u64, limit: u64) -> Option<Table> {
        let Self { size, sum, entries, memory: _ } = self;
        let entries = Arc::from(entries);
        (sum == size && size <= limit && inserted > 0).then_some(Table {
            library,
            address,
            inserted,
            limit,
            entries,
        })
    }
}

/// RFC 9113, section 8.2.1: no upper case, no spaces; what is else in a table is not one of HTTP/2.
fn is_name(name: &[u8]) -> bool {
    !name.is_empty() && name.iter().all(|byte| byte.is_ascii_graphic() && !byte.is_ascii_uppercase())
}

fn x_net(memory: &dyn ReadMemory, address: u64, words: &Words) -> Option<Table> {
    const ENTRY: u64 = 40;
    let [entries, count, _, evicted, _, _, sizes, ..] = *words;
    let mut sum = Sum::of(memory, sizes & 0xffff_ffff);
    // The oldest stands first.
    for index in (0..count).rev() {
        let at = entries.checked_add(index * ENTRY)?;
        let word = |offset: u64| memory.word(at.checked_add(offset)?);
        sum.add((word(0)?, word(8)?), (word(16)?, word(24)?))?;
    }
    sum.proved(Library::XNet, address, evicted.checked_add(count)?, sizes >> 32)
}

fn nghttp2(memory: &dyn ReadMemory, address: u64, words: &Words) -> Option<Table> {
    let [ring, mask, first, count, _, size, limit, next, ..] = *words;
    let mut sum = Sum::of(memory, size);
    for index in 0..count {
        let slot = first.wrapping_add(index) & mask;
        let entry = memory.word(ring.checked_add(slot * 8)?)?;
        let buffer = |at: u64| {
            // nghttp2_rcbuf: mem_user_data, free, base, len.
            let rcbuf = memory.word(at).filter(|&rcbuf| pointer(rcbuf))?;
            Some((memory.word(rcbuf + 16)?, memory.word(rcbuf + 24)?))
        };
        if !pointer(entry) {
            return None;
        }
        sum.add(buffer(entry)?, buffer(entry + 8)?)?;
    }
    sum.proved(Library::Nghttp2, address, next & 0xffff_ffff, limit)
}

/// Fuzz body: whatever memory holds, the search ends, and a proved table adds up.
pub fn fuzz_tables(data: &[u8]) {
    const AT: u64 = 0x7000_0000_0000;
    let mut image = super::memory::Image::default();
    image.put(AT, data);
    let line = format!(
        "{AT:x}-{:x} rw-p 00000000 00:00 0 \n",
        AT + (data.len() as u64).next_multiple_of(4096).max(4096)
    );
    image.put(AT, [data, &vec![0; data.len().next_multiple_of(4096).max(4096) - data.len()]].concat());
    for library in [Library::XNet, Library::Nghttp2, Library::CCore] {
        let found = find(&image, &Maps::parse(line.as_bytes()), library);
        assert!(found.tables.len() <= MAX_TABLES);
        for table in &found.tables {
            let sum: u64 = table.entries.iter().map(|entry| entry.size).sum();
            assert!(sum <= MAX_TABLE, "a table of {sum} bytes");
            for Entry { name, value, size } in table.entries.iter() {
                let length = value.as_ref().map(|value| OVERHEAD + (name.len() + value.len()) as u64);
                assert!(
                    is_name(name) && length.is_none_or(|length| length == *size),
                    "{name:?} {value:?} {size}"
                );
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::memory::Image;
    use super::*;

    pub(super) const HEAP: u64 = 0x7000_0000_0000;

    pub(super) fn said(table: &Table) -> Vec<String> {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let value = |entry: &Entry| entry.value.as_deref().map_or("?".to_owned(), text);
        table.entries.iter().map(|entry| format!("{}: {}", text(&entry.name), value(entry))).collect()
    }

    /// A heap of 64 KiB with these words at places, and texts.
    pub(super) fn heap(words: &[(u64, u64)], texts: &[(u64, &str)]) -> (Image, Maps) {
        let mut bytes = vec![0u8; 65_536];
        for &(at, word) in words {
            let at = at as usize;
            bytes[at..at + 8].copy_from_slice(&word.to_le_bytes());
        }
        for &(at, text) in texts {
            bytes[at as usize..at as usize + text.len()].copy_from_slice(text.as_bytes());
        }
        let mut image = Image::default();
        image.put(HEAP, bytes);
        (image, Maps::parse(format!("{HEAP:x}-{:x} rw-p 00000000 00:00 0 \n", HEAP + 65_536).as_bytes()))
    }

    fn go(size: u64) -> Found {
        go_with(size, [HEAP + 0x2000, HEAP + 0x2100])
    }

    fn go_with(size: u64, maps: [u64; 2]) -> Found {
        let words = [
            (0x100, HEAP + 0x1000),
            (0x108, 2),
            (0x110, 4),
            (0x118, 7),
            (0x120, maps[0]),
            (0x128, maps[1]),
            (0x130, size | 4096 << 32),
            (0x1000, HEAP + 0x3000),
            (0x1008, 5),
            (0x1010, HEAP + 0x3010),
            (0x1018, 4),
            (0x1028, HEAP + 0x3020),
            (0x1030, 11),
            (0x1038, HEAP + 0x3030),
            (0x1040, 1),
        ];
        let texts = [(0x3000, ":path"), (0x3010, "/a/B"), (0x3020, "grpc-status"), (0x3030, "0")];
        let (image, maps) = heap(&words, &texts);
        let found = find(&image, &maps, Library::XNet);
        assert!(find(&image, &maps, Library::Nghttp2).tables.is_empty());
        found
    }

    #[test]
    fn a_go_table_is_found_and_its_newest_entry_stands_first() {
        let found = go(32 + 9 + 32 + 12);
        let [table] = &found.tables[..] else { panic!("{found:?}") };
        assert_eq!((table.library, table.inserted), (Library::XNet, 9));
        assert_eq!(said(table), ["grpc-status: 0", ":path: /a/B"]);
    }

    #[test]
    fn a_decoder_s_table_has_no_maps_and_is_one_all_the_same() {
        assert_eq!(go_with(85, [0, 0]).tables.len(), 1);
        assert!(go_with(85, [0, HEAP]).tables.is_empty());
    }

    #[test]
    fn a_table_whose_size_is_not_the_sum_of_its_entries_is_none() {
        for size in [84, 86, 100] {
            assert!(go(size).tables.is_empty(), "{size}");
        }
    }

    #[test]
    fn a_table_of_nghttp2_is_read_around_its_ring() {
        let words = [
            (0x200, HEAP + 0x1000),
            (0x208, 3),
            (0x210, 3),
            (0x218, 2),
            (0x220, HEAP + 0x2000),
            (0x228, 32 + 9 + 32 + 12),
            (0x230, 4096),
            (0x238, 42),
            // Slots 3 and 0.
            (0x1018, HEAP + 0x1100),
            (0x1000, HEAP + 0x1200),
            (0x1100, HEAP + 0x1300),
            (0x1108, HEAP + 0x1340),
            (0x1200, HEAP + 0x1380),
            (0x1208, HEAP + 0x13c0),
            (0x1310, HEAP + 0x3000),
            (0x1318, 5),
            (0x1350, HEAP + 0x3010),
            (0x1358, 4),
            (0x1390, HEAP + 0x3020),
            (0x1398, 11),
            (0x13d0, HEAP + 0x3030),
            (0x13d8, 1),
        ];
        let texts = [(0x3000, ":path"), (0x3010, "/a/B"), (0x3020, "grpc-status"), (0x3030, "0")];
        let (image, maps) = heap(&words, &texts);
        let found = find(&image, &maps, Library::Nghttp2);
        let [table] = &found.tables[..] else { panic!("{found:?}") };
        assert_eq!((table.library, table.inserted), (Library::Nghttp2, 42));
        assert_eq!(said(table), [":path: /a/B", "grpc-status: 0"]);
    }

    #[test]
    fn a_table_at_the_very_end_of_what_is_there_is_found() {
        let words = [
            (0xffc8, HEAP + 0x1000),
            (0xffd0, 1),
            (0xffd8, 4),
            (0xfff8, 41 | 4096 << 32),
            (0x1000, HEAP + 0x3000),
            (0x1008, 5),
            (0x1010, HEAP + 0x3010),
            (0x1018, 4),
        ];
        let (image, maps) = heap(&words, &[(0x3000, ":path"), (0x3010, "/a/B")]);
        assert_eq!(find(&image, &maps, Library::XNet).tables.len(), 1);
    }

    #[test]
    fn a_page_that_was_given_back_is_missed_only_while_it_is_mapped() {
        let (image, maps) = heap(&[], &[]);
        let longer = format!("{HEAP:x}-{:x} rw-p 00000000 00:00 0 \n", HEAP + 65_536 + 8192);
        let longer = Maps::parse(longer.as_bytes());
        let found = find(&image, &longer, Library::XNet);
        let [missed] = &found.missed[..] else { panic!("{found:?}") };
        assert_eq!((missed.start, missed.end), (HEAP + 65_536, HEAP + 65_536 + 8192));
        assert!(found.is_incomplete(&longer) && !found.is_incomplete(&maps));
    }

    #[test]
    fn whatever_memory_holds_the_search_ends() {
        fuzz_tables(&[]);
        fuzz_tables(&[0xff; 300]);
        fuzz_tables(&(0..9000u32).flat_map(u32::to_le_bytes).collect::<Vec<_>>());
    }
}
