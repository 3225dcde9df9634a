//! Fuzz body: HotSpot's tables and a class, in memory that anybody made up. It must never need a process.

use super::classes::{ClassLayout, Classes};
use super::layout::Layout;
use super::structs::Structs;
use crate::discover::elf::Elf;
use crate::discover::memory::Image;

/// No memory makes the reading of tables and classes panic or go on without end; what is found are offsets within a
/// structure. The first words are the values of HotSpot's symbols, the rest is memory.
pub fn fuzz_structs(data: &[u8]) {
    let mut image = Image::default();
    for (piece, at) in data.chunks(PIECE).zip(0u64..) {
        image.put(BASE + at * PIECE as u64, piece.to_vec());
    }
    let symbol = |name: &str| {
        let place = SYMBOLS.iter().position(|known| *known == name)?;
        Some(BASE + place as u64 * 8)
    };
    if let Some(structs) = Structs::read(&image, &symbol) {
        let offset = structs.offset(&["JavaThread", "Thread"], "_tlab");
        assert!(offset.is_none_or(|offset| offset < PIECE as u64 * 4), "{offset:?}");
        if let Some(layout) = ClassLayout::of(&structs, &image) {
            let mut classes = Classes::default();
            for number in 0..8 {
                let kind = classes.kind(number, 1, &layout, &image);
                assert_eq!(kind, classes.kind(number, 1, &layout, &image), "remembered");
            }
        }
    }
    let _ = Layout::prove(&image, &symbol, BASE);
}

/// A file, whatever is in it.
pub(in super::super) fn read_file(elf: &Elf) {
    assert!(super::Symbols::of(elf).0.len() <= super::MAX_KEPT);
}

/// Symbols by which it is looked for in a file.
pub(in super::super) const BY_NAME: &[&str] = SYMBOLS;

const BASE: u64 = 0x10_0000;
/// Longer than any structure that is read, so that reads within one are not cut by the image.
const PIECE: usize = 4096;
const SYMBOLS: &[&str] = &[
    "gHotSpotVMStructs",
    "gHotSpotVMTypes",
    "gHotSpotVMStructEntryTypeNameOffset",
    "gHotSpotVMStructEntryFieldNameOffset",
    "gHotSpotVMStructEntryIsStaticOffset",
    "gHotSpotVMStructEntryOffsetOffset",
    "gHotSpotVMStructEntryAddressOffset",
    "gHotSpotVMStructEntryArrayStride",
    "gHotSpotVMTypeEntryTypeNameOffset",
    "gHotSpotVMTypeEntrySizeOffset",
    "gHotSpotVMTypeEntryArrayStride",
    super::THREAD_ID,
];

#[cfg(test)]
mod tests {
    use super::*;

    /// A table of some members, and a class: the seed of `fuzz/corpus/discover_jvm`.
    fn seed() -> Vec<u8> {
        let mut memory = vec![0u8; 2 * PIECE];
        let mut put = |at: u64, bytes: &[u8]| {
            let at = (at - BASE) as usize;
            memory[at..at + bytes.len()].copy_from_slice(bytes);
        };
        for (place, value) in [BASE + 0x100, BASE + 0x800, 0, 8, 24, 32, 40, 48, 0, 8, 16].iter().enumerate()
        {
            put(BASE + place as u64 * 8, &u64::to_le_bytes(*value));
        }
        let statics = [("CompressedKlassPointers", "_base"), ("CompressedKlassPointers", "_shift")];
        let members = [
            ("Thread", "_tlab", 448),
            ("Klass", "_name", 24),
            ("Klass", "_super", 32),
            ("Klass", "_secondary_supers", 40),
            ("Symbol", "_length", 0),
            ("Symbol", "_body", 6),
            ("Array<int>", "_length", 0),
        ];
        let (mut entry, mut text) = (BASE + 0x100, BASE + 0x900);
        let mut write = |bytes: &str| {
            put(text, bytes.as_bytes());
            text += bytes.len() as u64 + 1;
            text - bytes.len() as u64 - 1
        };
        let mut entries = Vec::new();
        for (structure, member, offset) in members {
            entries.push([write(structure), write(member), 0, 0, offset, 0]);
        }
        for (number, (structure, member)) in statics.into_iter().enumerate() {
            entries.push([write(structure), write(member), 0, 1, 0, BASE + 0x60 + 8 * number as u64]);
        }
        for words in entries {
            for word in words {
                put(entry, &word.to_le_bytes());
                entry += 8;
            }
        }
        // Classes begin here; the one with number 0 has a name, no ancestor, and no interface.
        put(BASE + 0x60, &(BASE + 0x1000).to_le_bytes());
        put(BASE + 0x1018, &(BASE + 0x1100).to_le_bytes());
        put(BASE + 0x1100, &16u16.to_le_bytes());
        put(BASE + 0x1106, b"java/lang/Thread");
        memory
    }

    #[test]
    fn made_up_memory_is_no_danger() {
        let memory = seed();
        if std::env::var_os("UPDATE_SEEDS").is_some() {
            let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../fuzz/corpus/discover_jvm");
            std::fs::create_dir_all(folder).unwrap();
            std::fs::write(format!("{folder}/some_members"), &memory).unwrap();
        }
        fuzz_structs(&memory);
        for at in (0..memory.len()).step_by(7) {
            let mut broken = memory.clone();
            broken[at] ^= 0xff;
            fuzz_structs(&broken);
            fuzz_structs(&memory[..at]);
        }
    }
}
