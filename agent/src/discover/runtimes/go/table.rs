//! The table of functions of a Go program, `.gopclntab` (Go's `debug/gosym` and `runtime/symtab.go`): names and
//! addresses, also where symbols were stripped.
//!
//! The bytes are hostile: every offset is checked, and nothing is allocated by a number in them.

use crate::discover::elf::Elf;

/// The functions that were looked for, and where they begin.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Functions {
    /// The addresses, in the order in which the names were given.
    pub found: Vec<Option<Function>>,
}

/// A function.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Function {
    /// Its address in the file.
    pub address: u64,
    /// Bytes to the function after it.
    pub size: u64,
}

/// The magic of Go 1.18 and 1.20 and later, and what follows it on amd64.
const MAGICS: [u32; 2] = [0xffff_fff0, 0xffff_fff1];
/// Functions of one program: beyond, the table is not believed.
const MAX_FUNCTIONS: u64 = 4_000_000;
/// The longest name looked at.
const MAX_NAME: usize = 256;

/// The most of a table of functions that is read, in bytes: of a program of a hundred thousand functions, some ten
/// million.
const MAX_TABLE: usize = 64 << 20;

/// Finds functions of a program by name; none if it has no such table, or none that is known.
pub fn of(elf: &Elf, names: &[&str]) -> Option<Functions> {
    let sections = [".gopclntab", ".data.rel.ro.gopclntab"];
    let table = sections.iter().find_map(|name| elf.section_bytes(name, MAX_TABLE))?;
    let text = elf.section(".text").map(|section| text_start(elf).unwrap_or(section.address));
    find(&table, text, names)
}

/// Where Go's own code begins, as its module data say (1.26 and later, whose table of functions does not): a linker of C's puts
/// other code before it in the same section. `pcHeader` is the first word of `runtime.moduledata`, `minpc` the 21st, `text` the 23rd.
fn text_start(elf: &Elf) -> Option<u64> {
    let table = elf.section(".gopclntab")?;
    let words = elf.bytes_at(elf.section(".go.module")?.address, 24 * 8)?;
    let word = |index: usize| {
        let bytes = words.get(index * 8..index * 8 + 8)?;
        bytes.try_into().ok().map(u64::from_le_bytes)
    };
    let start = word(22).filter(|start| word(0) == Some(table.address) && word(20) == Some(*start))?;
    elf.is_code(start).then_some(start)
}

/// Finds functions by name. `text`: where the text begins, for versions that do not say.
fn find(table: &[u8], text: Option<u64>, names: &[&str]) -> Option<Functions> {
    let magic = u32_at(table, 0)?;
    if !MAGICS.contains(&magic) || table.get(4..8)? != [0, 0, 1, 8] {
        return None;
    }
    let word = |index: usize| word_at(table, 8 + index * 8);
    let count = word(0)?;
    // The header's word is 0 since 1.26, and relocated in position-independent files.
    let start = match word(2)? {
        0 => text?,
        start => start,
    };
    let names_at = usize::try_from(word(3)?).ok()?;
    let functions_at = usize::try_from(word(7)?).ok()?;
    if count > MAX_FUNCTIONS {
        return None;
    }
    let entries = table.get(functions_at..)?;
    let mut found = Functions { found: vec![None; names.len()] };
    for index in 0..usize::try_from(count).ok()? {
        let (Some(entry), Some(at)) = (u32_at(entries, index * 8), u32_at(entries, index * 8 + 4)) else {
            break;
        };
        let Some(name) = u32_at(entries, (at as usize).saturating_add(4)) else { continue };
        let Some(name) = table.get(names_at.saturating_add(name as usize)..) else { continue };
        let name = name.get(..MAX_NAME).unwrap_or(name);
        let Some(name) = memchr::memchr(0, name).and_then(|end| name.get(..end)) else { continue };
        for (place, wanted) in found.found.iter_mut().zip(names) {
            if place.is_none() && wanted.as_bytes() == name {
                let next = u32_at(entries, index * 8 + 8).unwrap_or(entry);
                let address = start.checked_add(u64::from(entry));
                *place =
                    address.map(|address| Function { address, size: u64::from(next.saturating_sub(entry)) });
            }
        }
    }
    Some(found)
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..at.checked_add(4)?)?.try_into().ok().map(u32::from_le_bytes)
}

fn word_at(bytes: &[u8], at: usize) -> Option<u64> {
    bytes.get(at..at.checked_add(8)?)?.try_into().ok().map(u64::from_le_bytes)
}

/// The addresses that may be those of counters that a function adds to: of `lock xadd` relative to the next instruction
/// (`f0 48 0f c1 /r`), and of what is loaded the same way (`lea`, `48 8d /r`) for one through a register. A pattern and
/// no decoding: each must prove itself.
pub(super) fn counters(code: &[u8], address: u64) -> Vec<u64> {
    let mut all = Vec::new();
    for (at, window) in code.windows(9).enumerate() {
        let (length, distance) = match *window {
            [0xf0, rex, 0x0f, 0xc1, how, a, b, c, d] if rex & 0xf8 == 0x48 && how & 0xc7 == 0x05 => {
                (9, [a, b, c, d])
            }
            [rex, 0x8d, how, a, b, c, d, ..] if rex & 0xfb == 0x48 && how & 0xc7 == 0x05 => (7, [a, b, c, d]),
            _ => continue,
        };
        let distance = i64::from(i32::from_le_bytes(distance));
        let target = address.wrapping_add(at as u64 + length).wrapping_add_signed(distance);
        if !all.contains(&target) && all.len() < MAX_COUNTERS {
            all.push(target);
        }
    }
    all
}

/// Addresses that are tried.
const MAX_COUNTERS: usize = 64;

/// Fuzz body: no bytes make the reader panic or find a function that has no name in them.
#[doc(hidden)]
pub fn fuzz_functions(data: &[u8]) {
    let names = ["runtime.newproc1", "a"];
    if let Some(functions) = find(data, Some(0x1000), &names) {
        assert_eq!(functions.found.len(), names.len());
    }
    for target in counters(data, 0x1000) {
        assert!(data.len() >= 9, "{target}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(names: &[&str], start: u64) -> Vec<u8> {
        let mut strings = Vec::new();
        let offsets: Vec<u32> = names
            .iter()
            .map(|name| {
                let at = strings.len() as u32;
                strings.extend(name.as_bytes());
                strings.push(0);
                at
            })
            .collect();
        let names_at = 8 + 8 * 8;
        let functions_at = names_at + strings.len();
        let mut bytes = 0xffff_fff1u32.to_le_bytes().to_vec();
        bytes.extend([0, 0, 1, 8]);
        for word in [names.len() as u64, 0, start, names_at as u64, 0, 0, 0, functions_at as u64] {
            bytes.extend(word.to_le_bytes());
        }
        bytes.extend(strings);
        let records = names.len() * 8 + 4;
        for index in 0..names.len() {
            bytes.extend((index as u32 * 0x40).to_le_bytes());
            bytes.extend((records as u32 + index as u32 * 8).to_le_bytes());
        }
        bytes.extend((names.len() as u32 * 0x40).to_le_bytes());
        for offset in offsets {
            bytes.extend(0u32.to_le_bytes());
            bytes.extend(offset.to_le_bytes());
        }
        bytes
    }

    #[test]
    fn functions_are_found_by_name() {
        let bytes = table(&["main.main", "runtime.newproc1", "x"], 0x40_1000);
        let found = find(&bytes, None, &["runtime.newproc1", "nobody"]).unwrap().found;
        assert_eq!(found, [Some(Function { address: 0x40_1040, size: 0x40 }), None]);
        let bytes = table(&["x"], 0);
        assert_eq!(find(&bytes, None, &["x"]), None);
        assert_eq!(find(&bytes, Some(0x1000), &["x"]).unwrap().found[0].unwrap().address, 0x1000);
    }

    #[test]
    fn a_cut_or_lying_table_does_not_panic() {
        let bytes = table(&["main.main", "runtime.newproc1"], 0x40_1000);
        for cut in 0..bytes.len() {
            fuzz_functions(&bytes[..cut]);
            for value in [0xff, 0x80, 0] {
                let mut lying = bytes.clone();
                lying[cut] = value;
                fuzz_functions(&lying);
            }
        }
    }

    #[test]
    fn the_counter_that_a_function_adds_to_is_found() {
        let code = [0x90, 0xf0, 0x48, 0x0f, 0xc1, 0x05, 0x10, 0, 0, 0, 0xc3];
        assert_eq!(counters(&code, 0x1000), [0x1000 + 10 + 0x10]);
        let loaded = [0x48, 0x8d, 0x15, 0x20, 0, 0, 0, 0xf0, 0x4c, 0x0f, 0xc1, 0x12];
        assert_eq!(counters(&loaded, 0x1000), [0x1000 + 7 + 0x20]);
    }
}
