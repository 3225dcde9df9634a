//! HotSpot's own table of where its structures' members are: `gHotSpotVMStructs`, which every build exports for the
//! serviceability agent, and which says it for itself. No offset is known here from anywhere else.
//!
//! The table is read from the process's memory: hostile, so every length is bounded and nothing is believed that is
//! not there. It must never guess a member.

use std::collections::HashMap;

use crate::discover::memory::ReadMemory;

/// A member.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Member {
    /// At this offset of its structure.
    At(u64),
    /// One for all, at this address.
    Static(u64),
}

/// The members and the sizes of structures.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Structs {
    members: HashMap<(Vec<u8>, Vec<u8>), Member>,
    sizes: HashMap<Vec<u8>, u64>,
}

impl Structs {
    /// Reads the table. `symbol` gives the address of a symbol of libjvm in the process.
    pub fn read(memory: &dyn ReadMemory, symbol: &dyn Fn(&str) -> Option<u64>) -> Option<Self> {
        let number = |name: &str| memory.word(symbol(name)?);
        let mut all = Self::default();
        let [type_name, field_name, is_static, offset, address, stride] = [
            "gHotSpotVMStructEntryTypeNameOffset",
            "gHotSpotVMStructEntryFieldNameOffset",
            "gHotSpotVMStructEntryIsStaticOffset",
            "gHotSpotVMStructEntryOffsetOffset",
            "gHotSpotVMStructEntryAddressOffset",
            "gHotSpotVMStructEntryArrayStride",
        ]
        .map(number);
        let table = Table { base: number("gHotSpotVMStructs")?, stride: stride? };
        let (type_name, field_name, is_static) = (type_name?, field_name?, is_static?);
        let (offset, address) = (offset?, address?);
        let mut texts = Texts { memory, known: HashMap::new() };
        table.each(memory, type_name, &mut |entry| {
            let (Some(structure), Some(member)) =
                (texts.at(entry.word(type_name)), texts.at(entry.word(field_name)))
            else {
                return;
            };
            let place = if entry.word(is_static) & 0xffff_ffff == 0 {
                Member::At(entry.word(offset))
            } else {
                Member::Static(entry.word(address))
            };
            all.members.insert((structure, member), place);
        })?;
        let (name, size, stride) = (
            number("gHotSpotVMTypeEntryTypeNameOffset")?,
            number("gHotSpotVMTypeEntrySizeOffset")?,
            number("gHotSpotVMTypeEntryArrayStride")?,
        );
        Table { base: number("gHotSpotVMTypes")?, stride }.each(memory, name, &mut |entry| {
            if let Some(structure) = texts.at(entry.word(name)) {
                all.sizes.insert(structure, entry.word(size));
            }
        })?;
        Some(all)
    }

    /// Where a member is in the first of these structures that has it.
    pub fn offset(&self, structures: &[&str], member: &str) -> Option<u64> {
        structures.iter().find_map(|structure| match self.member(structure, member)? {
            Member::At(offset) if offset < MAX_OFFSET => Some(offset),
            _ => None,
        })
    }

    /// Where a member is that there is once.
    pub fn address(&self, structure: &str, member: &str) -> Option<u64> {
        match self.member(structure, member)? {
            Member::Static(address) => Some(address),
            Member::At(_) => None,
        }
    }

    /// The size of a structure.
    pub fn size(&self, structure: &str) -> Option<u64> {
        self.sizes.get(structure.as_bytes()).copied()
    }

    fn member(&self, structure: &str, member: &str) -> Option<Member> {
        self.members.get(&(structure.as_bytes().to_vec(), member.as_bytes().to_vec())).copied()
    }
}

/// An array of entries that ends with one whose name is a null pointer.
struct Table {
    base: u64,
    stride: u64,
}

impl Table {
    fn each(&self, memory: &dyn ReadMemory, name: u64, visit: &mut dyn FnMut(&Entry)) -> Option<()> {
        let stride = usize::try_from(self.stride).ok().filter(|stride| (16..=256).contains(stride))?;
        for number in 0..MAX_ENTRIES {
            let entry = Entry(memory.bytes(self.base.checked_add(number * self.stride)?, stride)?);
            if entry.word(name) == 0 {
                return Some(());
            }
            visit(&entry);
        }
        None
    }
}

struct Entry(Vec<u8>);

impl Entry {
    /// The word at this offset; 0 beyond the end.
    fn word(&self, offset: u64) -> u64 {
        let at = usize::try_from(offset).unwrap_or(usize::MAX);
        let bytes = at.checked_add(8).and_then(|end| self.0.get(at..end));
        bytes.and_then(|bytes| bytes.try_into().ok()).map_or(0, u64::from_le_bytes)
    }
}

/// Names, each read once: the table repeats a structure's for each member.
struct Texts<'a> {
    memory: &'a dyn ReadMemory,
    known: HashMap<u64, Vec<u8>>,
}

impl Texts<'_> {
    fn at(&mut self, address: u64) -> Option<Vec<u8>> {
        if let Some(text) = self.known.get(&address) {
            return Some(text.clone());
        }
        let text = self.memory.text(address, MAX_NAME)?;
        self.known.insert(address, text.clone());
        Some(text)
    }
}

/// Entries of a table; the largest has some three thousand.
const MAX_ENTRIES: u64 = 16_384;
/// The longest name of a type or a member; some are templates.
const MAX_NAME: usize = 128;
/// No structure that is read here is larger.
const MAX_OFFSET: u64 = 16_384;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::discover::memory::Image;

    /// A table with one member of each kind, as in JDK 25.
    fn image() -> (Image, impl Fn(&str) -> Option<u64>) {
        let mut image = Image::default();
        let numbers = [
            ("gHotSpotVMStructEntryTypeNameOffset", 0),
            ("gHotSpotVMStructEntryFieldNameOffset", 8),
            ("gHotSpotVMStructEntryIsStaticOffset", 24),
            ("gHotSpotVMStructEntryOffsetOffset", 32),
            ("gHotSpotVMStructEntryAddressOffset", 40),
            ("gHotSpotVMStructEntryArrayStride", 48),
            ("gHotSpotVMTypeEntryTypeNameOffset", 0),
            ("gHotSpotVMTypeEntrySizeOffset", 8),
            ("gHotSpotVMTypeEntryArrayStride", 16),
            ("gHotSpotVMStructs", 0x10_000),
            ("gHotSpotVMTypes", 0x20_000),
        ];
        for (place, (_, value)) in numbers.iter().enumerate() {
            image.put_words(0x1000 + place as u64 * 8, &[*value]);
        }
        image.put_words(
            0x10_000,
            &[0x3000, 0x3100, 0, 0, 448, 0, 0x3200, 0x3300, 0, 1, 0, 0x7000, 0, 0, 0, 0, 0, 0],
        );
        image.put_words(0x20_000, &[0x3000, 1400, 0, 0]);
        for (at, text) in
            [(0x3000, "Thread"), (0x3100, "_tlab"), (0x3200, "Universe"), (0x3300, "_collectedHeap")]
        {
            let mut bytes = text.as_bytes().to_vec();
            bytes.resize(0x100, 0);
            image.put(at, bytes);
        }
        let symbol = move |name: &str| {
            numbers.iter().position(|(known, _)| *known == name).map(|place| 0x1000 + place as u64 * 8)
        };
        (image, symbol)
    }

    #[test]
    fn members_are_where_the_table_says() {
        let (image, symbol) = image();
        let structs = Structs::read(&image, &symbol).unwrap();
        assert_eq!(structs.offset(&["JavaThread", "Thread"], "_tlab"), Some(448));
        assert_eq!(structs.address("Universe", "_collectedHeap"), Some(0x7000));
        assert_eq!(structs.offset(&["Universe"], "_collectedHeap"), None);
        assert_eq!(structs.size("Thread"), Some(1400));
    }

    #[test]
    fn a_table_that_cannot_be_read_is_none() {
        let (mut image, symbol) = image();
        image.put_words(0x10_000, &[0x3000, 0x3100, 0, 0, 448, 0]);
        assert_eq!(Structs::read(&image, &symbol), None);
        assert_eq!(Structs::read(&image, &|_| None), None);
    }
}
