//! HPACK (RFC 7541) for a reader that may have joined late: header blocks in, fields out.
//!
//! The table is the list of entries that were inserted since the join, newest first. An index counts from the newest
//! entry, so what it names is exact without knowing the table's size, limit or evictions: evictions remove the
//! oldest, and a correct encoder never names what was removed. An index beyond the list is an *old* entry: unknown,
//! but the same number means the same entry as long as the direction is not lost ([`Text::Old`]).
//!
//! What it must never do: guess; model evictions; keep the value of a field that may not be kept
//! ([`FieldName::kept`]), or more than [`MAX_TABLE`] bytes; go on with a table after a block was lost
//! ([`Decoder::forget`]): that is an unknown number of insertions, a new late join.

mod fixed;
mod huffman;
#[cfg(test)]
pub(in crate::protocol::http2) use {fixed::STATIC, huffman::codes};

use std::collections::VecDeque;
use std::hash::BuildHasher as _;
use std::sync::LazyLock;

#[cfg(not(test))]
use self::fixed::STATIC;
use super::Malformed;
use crate::protocol::FieldName;

/// The table that every encoder begins with, in bytes as RFC 7541 §4.1 counts them (RFC 9113 §6.5.2).
pub const DEFAULT_TABLE: usize = 4096;

/// The most that is kept of a table, in the same bytes, whatever limit was announced. Entries beyond it count as
/// old: [`super::Ledger::fields_unknown`].
pub const MAX_TABLE: usize = 64 * 1024;

/// What an entry counts for besides its name and value (RFC 7541 §4.1).
const ENTRY: usize = 32;

/// No integer is longer (RFC 7541 §5.1 leaves the limit to us): larger than any length that is accepted.
const MAX_INTEGER: u32 = 1 << 28;

/// An entry that was read elsewhere.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct TableEntry {
    /// Its name.
    pub name: Vec<u8>,
    /// Its value, if that is known.
    pub value: Option<Vec<u8>>,
    /// What it counts for (RFC 7541 §4.1).
    pub size: usize,
}

/// Which field a line is, as far as it matters.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Field {
    /// `:method`.
    Method,
    /// `:scheme`.
    Scheme,
    /// `:authority`.
    Authority,
    /// `:path`.
    Path,
    /// `:status`.
    Status,
    /// One whose value may be kept.
    Kept(FieldName),
    /// Any other.
    Other,
    /// The name is that of this old entry.
    Old(i64),
}

impl Field {
    /// The field with this name.
    pub fn of(name: &[u8]) -> Self {
        match name {
            b":method" => Self::Method,
            b":scheme" => Self::Scheme,
            b":authority" => Self::Authority,
            b":path" => Self::Path,
            b":status" => Self::Status,
            name => FieldName::kept(name).map_or(Self::Other, Self::Kept),
        }
    }

    /// True if a value of it may be kept, or must be to find that out.
    fn is_kept(self) -> bool {
        !matches!(self, Self::Other | Self::Old(_))
    }
}

/// A name or a value.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Text<'a> {
    /// It is this.
    Known(&'a [u8]),
    /// It was known once, and may not be kept.
    Unkept,
    /// It is that of an entry which is not known: one that was inserted before the join (negative), or one that
    /// was too old to be kept. The same number means the same entry.
    Old(i64),
}

/// One line of a header block.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Line<'a> {
    /// Which field.
    pub field: Field,
    /// Its name.
    pub name: Text<'a>,
    /// Its value.
    pub value: Text<'a>,
}

/// What was seen of a direction's header blocks.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Joined {
    /// All of them.
    AtBirth,
    /// Not the first ones.
    Late,
}

/// The reader of one direction's blocks.
#[derive(Debug)]
pub struct Decoder {
    /// Newest first.
    entries: VecDeque<Entry>,
    /// The size of those.
    bytes: usize,
    /// How much of the table is kept.
    keep: usize,
    /// How many were inserted since the join.
    inserted: u64,
    joined: Joined,
    /// A line was inserted that is in the table already.
    repeats: bool,
    /// How often the place was lost: what is old keeps different numbers.
    losses: u32,
    name: Vec<u8>,
    value: Vec<u8>,
}

#[derive(Debug)]
struct Entry {
    field: Field,
    name: Name,
    value: Option<Box<[u8]>>,
    /// What tells its value from another, also if that may not be kept; none if it was read elsewhere and could not be.
    digest: Option<u64>,
    size: usize,
}

#[derive(Debug)]
enum Name {
    Static(&'static str),
    Bytes(Box<[u8]>),
    Old(i64),
}

impl Entry {
    fn name(&self) -> Text<'_> {
        match &self.name {
            Name::Static(name) => Text::Known(name.as_bytes()),
            Name::Bytes(name) => Text::Known(name),
            Name::Old(entry) => Text::Old(*entry),
        }
    }

    fn value(&self) -> Text<'_> {
        self.value.as_deref().map_or(Text::Unkept, Text::Known)
    }
}

/// What an index names.
enum Found {
    Static(usize),
    Dynamic(usize),
    Old(i64),
}

impl Decoder {
    /// A reader that knows no entry.
    pub fn new(joined: Joined) -> Self {
        Self {
            entries: VecDeque::new(),
            bytes: 0,
            keep: DEFAULT_TABLE,
            inserted: 0,
            joined,
            repeats: false,
            losses: 0,
            name: Vec::new(),
            value: Vec::new(),
        }
    }

    /// A block was lost: nothing is known of the table.
    pub fn forget(&mut self) {
        self.entries.clear();
        (self.bytes, self.inserted, self.joined) = (0, 0, Joined::Late);
        self.losses = self.losses.saturating_add(1);
    }

    /// How many entries were inserted since the join.
    pub fn inserted(&self) -> u64 {
        self.inserted
    }

    /// How often the place was lost.
    pub fn losses(&self) -> u32 {
        self.losses
    }

    /// Where an old entry stood in the encoder's table when so many had been inserted since the join, counted from the newest; none if
    /// its number is of before a loss.
    pub fn place(&self, old: i64, inserted: u64) -> Option<usize> {
        let entry = old.checked_add(i64::from(self.losses) << 32)?;
        let at = i64::try_from(inserted).ok()?.checked_sub(entry)?.checked_sub(1)?;
        usize::try_from(at).ok().filter(|_| entry < 0)
    }

    /// Whether a table, the newest entry first, may be what this one was when so many had been inserted since the join: these stand
    /// at its newest end, and nothing that is known is different there.
    pub fn agrees(&self, table: &[TableEntry], inserted: u64) -> Agreement {
        let later = self.inserted.checked_sub(inserted).and_then(|later| usize::try_from(later).ok());
        let Some(later) = later.filter(|later| *later <= self.entries.len()) else { return Agreement::No };
        let (mut compared, mut known) = (0u64, !self.repeats);
        for (mine, TableEntry { name, value, size }) in self.entries.iter().skip(later).zip(table) {
            let (same, named) = match mine.name() {
                Text::Known(known) => (known == name.as_slice() && mine.size == *size, true),
                Text::Unkept | Text::Old(_) => (true, false),
            };
            let valued = mine.digest.zip(value.as_ref().map(|value| digest(value)));
            if !same || valued.is_some_and(|(mine, other)| mine != other) {
                return Agreement::No;
            }
            compared += 1;
            known &= named && valued.is_some();
        }
        match compared > 0 && known {
            true => Agreement::Known,
            false => Agreement::Possible,
        }
    }

    /// Takes a table that is known to be what this one was when so many had been inserted since the join, the newest entry first;
    /// `limit` is its size at most. It must agree.
    pub fn restore(&mut self, table: &[TableEntry], inserted: u64, limit: usize) {
        let later = self.inserted.checked_sub(inserted).and_then(|later| usize::try_from(later).ok());
        let Some(later) = later.filter(|later| *later <= self.entries.len()) else { return };
        self.keep = self.keep.max(limit.min(MAX_TABLE));
        self.entries.truncate(later);
        let losses = i64::from(self.losses) << 32;
        for entry in &mut self.entries {
            let Name::Old(old) = entry.name else { continue };
            let at = inserted as i64 - (old + losses) - 1;
            let found = usize::try_from(at).ok().and_then(|at| table.get(at));
            if let Some(TableEntry { name, .. }) = found {
                entry.size += name.len();
                (entry.field, entry.name) = (Field::of(name), Name::Bytes(name.as_slice().into()));
            }
        }
        self.bytes = self.entries.iter().map(|entry| entry.size).sum();
        for TableEntry { name, value, size } in table {
            if self.bytes + size > self.keep {
                break;
            }
            self.bytes += size;
            let field = Field::of(name);
            let digest = value.as_ref().map(|value| digest(value));
            let value = value.as_deref().filter(|_| field.is_kept()).map(Into::into);
            let name = Name::Bytes(name.as_slice().into());
            self.entries.push_back(Entry { field, name, value, digest, size: *size });
        }
    }

    /// The size of the entries that are kept, at most [`MAX_TABLE`].
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Reads a whole block. After an error the table is not what the encoder's is, and
    /// [`Decoder::forget`] has been called.
    pub fn decode(&mut self, block: &[u8], each: &mut dyn FnMut(Line<'_>)) -> Result<(), Malformed> {
        let read = self.read(block, each);
        if read.is_err() {
            self.forget();
        }
        read
    }

    fn read(&mut self, mut rest: &[u8], each: &mut dyn FnMut(Line<'_>)) -> Result<(), Malformed> {
        let mut begun = false;
        while let Some(&first) = rest.first() {
            match first {
                // §6.1: an indexed field.
                0x80.. => {
                    let index = integer(&mut rest, 7)?;
                    match self.find(index)? {
                        Found::Static(at) => {
                            let (name, value) = STATIC.get(at).copied().unwrap_or_default();
                            let (name, value) = (Text::Known(name.as_bytes()), Text::Known(value.as_bytes()));
                            each(Line { field: static_field(at), name, value });
                        }
                        Found::Dynamic(at) => {
                            let entry = self.entries.get(at).ok_or(Malformed::Index)?;
                            each(Line { field: entry.field, name: entry.name(), value: entry.value() });
                        }
                        Found::Old(entry) => {
                            let (name, value) = (Text::Old(entry), Text::Old(entry));
                            each(Line { field: Field::Old(entry), name, value });
                        }
                    }
                }
                // §6.2.1: a literal that is inserted.
                0x40..0x80 => {
                    let index = integer(&mut rest, 6)?;
                    self.literal(index, &mut rest, Insert::Yes, each)?;
                }
                // §6.3: a change of the table's size, before the first field.
                0x20..0x40 => {
                    let size = usize::try_from(integer(&mut rest, 5)?).unwrap_or(MAX_TABLE);
                    if begun {
                        return Err(Malformed::SizeUpdate);
                    }
                    self.keep = self.keep.max(size.min(MAX_TABLE));
                    continue;
                }
                // §6.2.2 and §6.2.3: a literal that is not inserted, or must never be.
                _ => {
                    let index = integer(&mut rest, 4)?;
                    self.literal(index, &mut rest, Insert::No, each)?;
                }
            }
            begun = true;
        }
        Ok(())
    }

    fn literal(
        &mut self,
        index: u32,
        rest: &mut &[u8],
        insert: Insert,
        each: &mut dyn FnMut(Line<'_>),
    ) -> Result<(), Malformed> {
        let (mut name_scratch, mut value_scratch) =
            (std::mem::take(&mut self.name), std::mem::take(&mut self.value));
        let done = self.literal_in(index, rest, insert, each, &mut name_scratch, &mut value_scratch);
        // One long string must not keep its room for the life of the connection.
        for scratch in [&mut name_scratch, &mut value_scratch] {
            if scratch.capacity() > DEFAULT_TABLE {
                *scratch = Vec::new();
            }
        }
        (self.name, self.value) = (name_scratch, value_scratch);
        done
    }

    fn literal_in(
        &mut self,
        index: u32,
        rest: &mut &[u8],
        insert: Insert,
        each: &mut dyn FnMut(Line<'_>),
        name_scratch: &mut Vec<u8>,
        value_scratch: &mut Vec<u8>,
    ) -> Result<(), Malformed> {
        let mut literal = None;
        let (field, found) = match index {
            0 => {
                let name = string(rest, name_scratch)?;
                literal = Some(name);
                (Field::of(name), None)
            }
            index => match self.find(index)? {
                Found::Static(at) => (static_field(at), Some(Found::Static(at))),
                Found::Dynamic(at) => {
                    let field = self.entries.get(at).ok_or(Malformed::Index)?.field;
                    (field, Some(Found::Dynamic(at)))
                }
                Found::Old(entry) => (Field::Old(entry), Some(Found::Old(entry))),
            },
        };
        let value = string(rest, value_scratch)?;
        let name = match &found {
            None => Text::Known(literal.unwrap_or_default()),
            Some(Found::Static(at)) => {
                Text::Known(STATIC.get(*at).map_or(&[][..], |(name, _)| name.as_bytes()))
            }
            Some(Found::Dynamic(at)) => self.entries.get(*at).ok_or(Malformed::Index)?.name(),
            Some(Found::Old(entry)) => Text::Old(*entry),
        };
        each(Line { field, name, value: Text::Known(value) });
        if insert == Insert::No {
            return Ok(());
        }
        let length = match name {
            Text::Known(name) => name.len(),
            Text::Unkept | Text::Old(_) => 0,
        };
        let name = match found {
            Some(Found::Static(at)) => Name::Static(STATIC.get(at).map_or("", |(name, _)| name)),
            Some(Found::Old(entry)) => Name::Old(entry),
            None | Some(Found::Dynamic(_)) => match name {
                Text::Known(name) => Name::Bytes(name.into()),
                Text::Unkept => Name::Static(""),
                Text::Old(entry) => Name::Old(entry),
            },
        };
        let size = ENTRY + length + value.len();
        let digest = Some(digest(value));
        // A number under an old name may be a status.
        let kept = field.is_kept() || (matches!(field, Field::Old(_)) && is_short_number(value));
        let value = kept.then(|| value.into());
        self.insert(Entry { field, name, value, digest, size });
        Ok(())
    }

    fn insert(&mut self, entry: Entry) {
        self.inserted += 1;
        self.repeats |= self.joined == Joined::Late
            && self.entries.iter().any(|other| other.digest == entry.digest && other.name() == entry.name());
        self.bytes += entry.size;
        self.entries.push_front(entry);
        while self.bytes > self.keep
            && let Some(oldest) = self.entries.pop_back()
        {
            self.bytes -= oldest.size;
        }
    }

    fn find(&mut self, index: u32) -> Result<Found, Malformed> {
        let index = usize::try_from(index).map_err(|_| Malformed::Index)?;
        let Some(at) = index.checked_sub(1) else { return Err(Malformed::Index) };
        let Some(at) = at.checked_sub(STATIC.len()) else { return Ok(Found::Static(at)) };
        if at < self.entries.len() {
            return Ok(Found::Dynamic(at));
        }
        let entry = self.inserted as i64 - at as i64 - 1;
        if entry >= 0 {
            // It was thrown away too early: the table is larger than we took it for.
            self.keep = self.keep.saturating_mul(2).min(MAX_TABLE);
        } else if self.joined == Joined::AtBirth {
            return Err(Malformed::Index);
        }
        Ok(Found::Old(entry - (i64::from(self.losses) << 32)))
    }
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Insert {
    Yes,
    No,
}

/// What a table read elsewhere and this one's entries say of each other.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Agreement {
    /// It cannot be this one.
    No,
    /// Nothing speaks against it.
    Possible,
    /// Entries that were inserted since the join stand there, name and value, and this encoder never inserts what it holds: it is of
    /// no earlier time.
    Known,
}

/// Whether a value is a number as `grpc-status` has it.
pub(in crate::protocol::http2) fn is_short_number(value: &[u8]) -> bool {
    matches!(value, [b'0'..=b'9'] | [b'0'..=b'9', b'0'..=b'9'])
}

/// What tells values apart, and nothing else: the seed is this run's.
fn digest(value: &[u8]) -> u64 {
    static SEED: LazyLock<foldhash::fast::RandomState> = LazyLock::new(foldhash::fast::RandomState::default);
    SEED.hash_one(value)
}

fn static_field(at: usize) -> Field {
    static FIELDS: LazyLock<[Field; 61]> =
        LazyLock::new(|| STATIC.map(|(name, _)| Field::of(name.as_bytes())));
    FIELDS.get(at).copied().unwrap_or(Field::Other)
}

/// An integer with a prefix of so many bits (§5.1).
fn integer(rest: &mut &[u8], prefix: u8) -> Result<u32, Malformed> {
    let (&first, mut bytes) = rest.split_first().ok_or(Malformed::BlockCut)?;
    let most = (1u32 << prefix) - 1;
    let mut value = u32::from(first) & most;
    if value == most {
        let mut shift = 0;
        loop {
            let (&byte, after) = bytes.split_first().ok_or(Malformed::BlockCut)?;
            bytes = after;
            // Four bytes at the most reach the limit; more of them could only be zeros.
            if shift > 28 {
                return Err(Malformed::Integer);
            }
            value = u64::from(value)
                .checked_add(u64::from(byte & 0x7f) << shift)
                .and_then(|value| u32::try_from(value).ok())
                .filter(|value| *value <= MAX_INTEGER)
                .ok_or(Malformed::Integer)?;
            shift += 7;
            if byte & 0x80 == 0 {
                break;
            }
        }
    }
    *rest = bytes;
    Ok(value)
}

/// A string (§5.2), decoded into the scratch space if it is coded.
fn string<'a, 'b: 'a>(rest: &mut &'b [u8], scratch: &'a mut Vec<u8>) -> Result<&'a [u8], Malformed> {
    let coded = rest.first().is_some_and(|first| first & 0x80 != 0);
    let length = usize::try_from(integer(rest, 7)?).map_err(|_| Malformed::Integer)?;
    let (raw, after) = rest.split_at_checked(length).ok_or(Malformed::BlockCut)?;
    *rest = after;
    if !coded {
        return Ok(raw);
    }
    scratch.clear();
    huffman::decode(raw, scratch)?;
    Ok(scratch)
}
