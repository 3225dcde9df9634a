//! What language runtime a process is: by its executable's file name, and where names say nothing by the
//! content of the file.
//!
//! A Go program has any name, but its linker leaves a section `.go.buildinfo`. Only ELF headers, section
//! names and that section's head are read, each up to a bound, through a function that reads so many
//! bytes at such an offset; the file is never mapped, executed or read as a whole. It must never allocate by
//! a length that the file announces without a bound of its own.

use object::elf;
use object::read::elf::{FileHeader, SectionHeader};

use super::command::Interpreter;

/// A language runtime.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Runtime {
    /// `process.runtime.name`.
    pub name: &'static str,
    /// `process.runtime.version`, where it is known without running anything.
    pub version: Option<String>,
    /// `telemetry.sdk.language`: the language of what is observed.
    pub language: &'static str,
}

impl Runtime {
    /// The runtime that an interpreter is; none for shells and what the conventions have no name for.
    pub fn of_interpreter(interpreter: Interpreter) -> Option<Self> {
        let (name, language) = match interpreter {
            Interpreter::Python => ("cpython", "python"),
            Interpreter::Pypy => ("pypy", "python"),
            Interpreter::Node => ("nodejs", "nodejs"),
            Interpreter::Deno => ("deno", "nodejs"),
            Interpreter::Bun => ("bun", "nodejs"),
            Interpreter::Ruby => ("ruby", "ruby"),
            Interpreter::Perl => ("perl", "perl"),
            Interpreter::Php => ("php", "php"),
            Interpreter::Java => ("OpenJDK Runtime Environment", "java"),
            Interpreter::Dotnet => (".NET", "dotnet"),
            Interpreter::Lua => ("lua", "lua"),
            Interpreter::Shell => return None,
        };
        Some(Self { name, version: None, language })
    }

    /// The runtime that an executable's file name tells although it is no interpreter.
    pub fn of_executable(name: &[u8]) -> Option<Self> {
        let (name, language) = match name {
            _ if name.starts_with(b"php-fpm") || name.starts_with(b"php-cgi") => ("php", "php"),
            b"beam.smp" | b"beam" => ("BEAM", "erlang"),
            _ => return None,
        };
        Some(Self { name, version: None, language })
    }

    /// Go, of this version.
    pub fn go(version: Option<String>) -> Self {
        Self { name: "go", version, language: "go" }
    }
}

/// What the content of an executable says.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Content {
    /// A Go program; the version where the linker wrote it inline (Go 1.18 and later).
    Go(Option<String>),
    /// An ELF file that shows no runtime.
    Native,
    /// Not an ELF file, or not one that this reads.
    Unknown,
}

/// Looks at an executable. `read(offset, length)` gives up to `length` bytes at `offset`; fewer at the
/// file's end, none on error.
pub fn look(mut read: impl FnMut(u64, usize) -> Vec<u8>) -> Content {
    let head = read(0, 64);
    match head.get(4).copied().map(elf::FileClass) {
        Some(elf::ELFCLASS64) => look_class::<elf::FileHeader64<object::Endianness>>(&head, &mut read),
        Some(elf::ELFCLASS32) => look_class::<elf::FileHeader32<object::Endianness>>(&head, &mut read),
        _ => Content::Unknown,
    }
}

fn look_class<Elf: FileHeader<Endian = object::Endianness>>(
    head: &[u8],
    read: &mut impl FnMut(u64, usize) -> Vec<u8>,
) -> Content {
    let Ok(header) = Elf::parse(head) else {
        return Content::Unknown;
    };
    let Ok(endian) = header.endian() else {
        return Content::Unknown;
    };
    let count = usize::from(header.e_shnum(endian));
    let size = std::mem::size_of::<Elf::SectionHeader>();
    if count == 0 || count > MAX_SECTIONS || usize::from(header.e_shentsize(endian)) != size {
        return Content::Native;
    }
    let table = read(header.e_shoff(endian).into(), count * size);
    let Ok((sections, _)) = object::pod::slice_from_bytes::<Elf::SectionHeader>(&table, count) else {
        return Content::Native;
    };
    let names = header.e_shstrndx(endian).index().and_then(|index| sections.get(usize::from(index)));
    let Some(names) = names else {
        return Content::Native;
    };
    let names_size: u64 = names.sh_size(endian).into();
    let names =
        read(names.sh_offset(endian).into(), usize::try_from(names_size).unwrap_or(MAX_NAMES).min(MAX_NAMES));
    for section in sections {
        let at = usize::try_from(section.sh_name(endian)).unwrap_or(usize::MAX);
        if names.get(at..).is_some_and(|name| name.starts_with(b".go.buildinfo\0")) {
            return Content::Go(go_version(&read(section.sh_offset(endian).into(), MAX_BUILD_INFO)));
        }
    }
    Content::Native
}

/// The Go version in the head of a `.go.buildinfo` section: 14 bytes of magic, pointer size, flags (bit 1:
/// strings are inline), padded to 32 bytes; then a varint length and the version, `go1.22.1` (Go's
/// `debug/buildinfo` package).
pub fn go_version(section: &[u8]) -> Option<String> {
    let rest = section.strip_prefix(b"\xff Go buildinf:")?;
    if rest.get(1)? & 2 == 0 {
        return None;
    }
    let mut length = 0usize;
    let mut at = 32;
    for shift in [0, 7] {
        let byte = *section.get(at)?;
        at += 1;
        length |= usize::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            break;
        }
    }
    let version = section.get(at..at.checked_add(length)?)?;
    let version = super::text::harmless(version.strip_prefix(b"go")?, 64);
    (!version.is_empty()).then_some(version)
}

/// More sections than any linker makes of one program; 64 bytes each are read at once.
const MAX_SECTIONS: usize = 4096;
/// The most that is read of the sections' names, in bytes.
const MAX_NAMES: usize = 256 << 10;
/// The most that is read of `.go.buildinfo`, in bytes; the version is at its start.
const MAX_BUILD_INFO: usize = 256;

#[cfg(test)]
mod tests {
    use super::*;

    /// A file in memory.
    fn file(bytes: &[u8]) -> impl FnMut(u64, usize) -> Vec<u8> + '_ {
        |offset, length| {
            let from = usize::try_from(offset).unwrap_or(usize::MAX).min(bytes.len());
            bytes[from..from.saturating_add(length).min(bytes.len())].to_vec()
        }
    }

    /// A little-endian ELF64 with a section table of `names`, each section holding `content`.
    pub(crate) fn elf64(names: &[&str], content: &[u8]) -> Vec<u8> {
        let mut strings = vec![0];
        let mut offsets = Vec::new();
        for name in names.iter().chain(&[".shstrtab"]) {
            offsets.push(strings.len());
            strings.extend_from_slice(name.as_bytes());
            strings.push(0);
        }
        let strings_at = 64 + content.len();
        let table_at = strings_at + strings.len();
        let count = offsets.len();
        let mut bytes = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0\x02\0\x3e\0\x01\0\0\0".to_vec();
        bytes.extend_from_slice(&[0; 16]);
        bytes.extend_from_slice(&(table_at as u64).to_le_bytes());
        bytes.extend_from_slice(&[0; 4]);
        for word in [64u16, 56, 0, 64, count as u16, count as u16 - 1] {
            bytes.extend_from_slice(&word.to_le_bytes());
        }
        assert_eq!(bytes.len(), 64);
        bytes.extend_from_slice(content);
        bytes.extend_from_slice(&strings);
        for (number, name) in offsets.iter().enumerate() {
            let (at, size) =
                if number + 1 == count { (strings_at, strings.len()) } else { (64, content.len()) };
            bytes.extend_from_slice(&(*name as u32).to_le_bytes());
            bytes.extend_from_slice(&[0; 20]);
            bytes.extend_from_slice(&(at as u64).to_le_bytes());
            bytes.extend_from_slice(&(size as u64).to_le_bytes());
            bytes.extend_from_slice(&[0; 24]);
        }
        bytes
    }

    fn build_info(version: &str) -> Vec<u8> {
        let mut section = b"\xff Go buildinf:\x08\x02".to_vec();
        section.resize(32, 0);
        section.push(version.len() as u8);
        section.extend_from_slice(version.as_bytes());
        section
    }

    #[test]
    fn a_go_program_is_known_by_its_section_and_version() {
        let go = elf64(&[".text", ".go.buildinfo"], &build_info("go1.22.1"));
        assert_eq!(look(file(&go)), Content::Go(Some("1.22.1".to_owned())));
        let old = elf64(&[".go.buildinfo"], b"\xff Go buildinf:\x08\x00");
        assert_eq!(look(file(&old)), Content::Go(None));
        assert_eq!(look(file(&elf64(&[".text"], b"x"))), Content::Native);
        assert_eq!(look(file(b"#!/bin/sh\n")), Content::Unknown);
        assert_eq!(look(file(b"")), Content::Unknown);
    }

    #[test]
    fn this_test_program_is_native_and_no_go() {
        let bytes = std::fs::read("/proc/self/exe").unwrap();
        assert_eq!(look(file(&bytes)), Content::Native);
    }

    #[test]
    fn a_cut_or_lying_file_reads_little_and_does_not_panic() {
        let go = elf64(&[".text", ".go.buildinfo"], &build_info("go1.22.1"));
        for cut in 0..go.len() {
            look(file(&go[..cut]));
            let mut lying = go.clone();
            lying[cut] = 0xff;
            let mut asked = 0;
            let mut read = file(&lying);
            look(|offset, length| {
                asked += length;
                read(offset, length)
            });
            assert!(asked <= 64 + MAX_SECTIONS * 64 + MAX_NAMES + MAX_BUILD_INFO);
        }
    }
}
