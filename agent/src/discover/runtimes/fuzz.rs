//! Fuzz bodies: one file for every reader of binaries, and the memory and texts of a process that the others have no body
//! for. They must never need a process.

use std::fs::File;
use std::io::Write;

use super::{epoll, go, jvm, nginx, node, python, tokio};
use crate::discover::elf::{Elf, load_bias};
use crate::discover::maps::{FileKey, Maps};
use crate::discover::openssl::Library;
use crate::discover::plaintext::Functions;
use crate::discover::{go_tls, maps};

/// No file makes a reader of binaries panic, read without a bound, or find what is not in the file. The first bytes say where
/// sections and symbols are that the readers ask for, the rest is what lies there.
#[doc(hidden)]
pub fn fuzz_binaries(data: &[u8]) {
    let Some(elf) = file(data).and_then(|bytes| opened(&bytes)) else { return };
    go::read_file(&elf);
    jvm::fuzz::read_file(&elf);
    node::read_file(&elf);
    python::fuzz::read_file(&elf);
    tokio::read_file(&elf);
    if let Some(library) = Library::of(&elf) {
        assert!(library.begins.len() <= 2, "{library:?}");
    }
    go_tls::Go::of(&elf);
    if let Some(functions) = Functions::of(&elf) {
        assert!((2..=64).contains(&functions.probes.len()), "{functions:?}");
    }
    // What is mapped contradicts the file, or itself.
    let maps = Maps::parse(data);
    let file = maps.iter().find_map(maps::Mapping::file);
    load_bias(&elf, &maps, file.unwrap_or(FileKey { device: (1, 1), inode: 1 }));
}

/// No text of `/proc/PID/maps` or of an epoll set's `fdinfo` makes its reader panic; ranges end behind their beginning.
#[doc(hidden)]
pub fn fuzz_maps(data: &[u8]) {
    let maps = Maps::parse(data);
    for mapping in maps.iter() {
        assert!(mapping.start < mapping.end);
        assert!(maps.at(mapping.start).is_some_and(|at| at.holds(mapping.start)), "{mapping:?}");
        if let Some(file) = mapping.file() {
            assert!(maps.code_at(file, mapping.offset).all(|address| address != u64::MAX || data.len() > 8));
        }
    }
    assert!(epoll::parse(data).count() <= data.len());
}

/// No memory makes the look for Go's processors or nginx's connections panic or go on without end.
#[doc(hidden)]
pub fn fuzz_proofs(data: &[u8]) {
    go::read_memory(data);
    nginx::read_memory(data);
}

fn opened(bytes: &[u8]) -> Option<Elf> {
    let memory = nix::sys::memfd::memfd_create("binary", nix::sys::memfd::MFdFlags::empty()).ok()?;
    let mut file = File::from(memory);
    file.write_all(bytes).ok()?;
    Elf::open(file).ok()
}

/// Sections that readers ask for.
const SECTIONS: [&str; 4] = [".text", ".rodata", ".go.buildinfo", ".gopclntab"];
/// Where the file is loaded.
const BASE: u64 = 0x40_0000;
/// Bytes of a header of a section, of a segment, of a symbol.
const SECTION: usize = 64;
const SEGMENT: usize = 56;
const SYMBOL: usize = 24;

/// An ELF file around these bytes, with the sections and symbols that are looked for.
fn file(data: &[u8]) -> Option<Vec<u8>> {
    let symbols: Vec<&str> = [python::fuzz::SYMBOLS, jvm::fuzz::BY_NAME, SSL]
        .concat()
        .into_iter()
        .chain(node::symbols())
        .collect();
    let control = 4 * (SECTIONS.len() + symbols.len());
    let (numbers, content) = data.split_at_checked(control)?;
    let mut numbers =
        numbers.chunks_exact(2).filter_map(|two| Some(u16::from_le_bytes(two.try_into().ok()?)));
    let mut place = || -> Option<(u64, u64)> {
        let (at, size) = (numbers.next()?, numbers.next()?);
        // Mostly within the content; odd sizes are as they are.
        let at = u64::from(at) % (content.len() as u64 + 64);
        Some((at, if size % 2 == 0 { u64::from(size) } else { u64::from(size) << 40 }))
    };
    let content_at = 64 + 2 * SEGMENT;
    let mut names = vec![0u8];
    let mut named = |name: &str| {
        let at = names.len() as u32;
        names.extend(name.bytes().chain([0]));
        at
    };
    let mut headers = vec![[0u8; SECTION]];
    for name in SECTIONS {
        let (at, size) = place()?;
        headers.push(section(named(name), 1, BASE + at, content_at as u64 + at, size, 0));
    }
    let mut table = vec![0u8; SYMBOL];
    for name in symbols {
        let (at, size) = place()?;
        // A function of section 1.
        table.extend(named(name).to_le_bytes().into_iter().chain([0x12, 0, 1, 0]));
        table.extend((BASE + at).to_le_bytes().into_iter().chain(size.to_le_bytes()));
    }
    let (dynsym, strtab) = (named(".dynsym"), named(".strtab"));
    let table_at = content_at + content.len();
    let names_at = table_at + table.len();
    let strings = SECTIONS.len() as u32 + 2;
    headers.push(section(dynsym, 11, 0, table_at as u64, table.len() as u64, strings));
    headers.push(section(strtab, 3, 0, names_at as u64, names.len() as u64, 0));
    let headers_at = names_at + names.len();

    let mut bytes = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0\x03\0\x3e\0\x01\0\0\0".to_vec();
    bytes.extend([0; 8].into_iter().chain(64u64.to_le_bytes()).chain((headers_at as u64).to_le_bytes()));
    bytes.extend([0; 4]);
    for word in [64, SEGMENT, 2, SECTION, headers.len(), headers.len() - 1] {
        bytes.extend((word as u16).to_le_bytes());
    }
    for flags in [5u32, 6] {
        // Code, and data that has no bytes in the file.
        let (offset, size) = if flags == 5 { (content_at, content.len()) } else { (0, 0) };
        let address = if flags == 5 { BASE } else { BASE << 1 };
        bytes.extend(1u32.to_le_bytes().into_iter().chain(flags.to_le_bytes()));
        for word in [offset as u64, address, address, size as u64, size.max(4096) as u64, 4096] {
            bytes.extend(word.to_le_bytes());
        }
    }
    for part in [content, &table, &names] {
        bytes.extend(part);
    }
    bytes.extend(headers.concat());
    Some(bytes)
}

fn section(name: u32, kind: u32, address: u64, offset: u64, size: u64, link: u32) -> [u8; SECTION] {
    let mut header = [0; SECTION];
    let words = [u64::from(name) | u64::from(kind) << 32, 2, address, offset, size, u64::from(link), 1, 24];
    for (place, word) in header.chunks_exact_mut(8).zip(words) {
        place.copy_from_slice(&word.to_le_bytes());
    }
    header
}

/// What is asked of a library like OpenSSL, or GnuTLS.
const SSL: &[&str] = &[
    "SSL_get_client_random",
    "SSL_get_session",
    "SSL_SESSION_get_master_key",
    "SSL_set_connect_state",
    "SSL_set_accept_state",
    "SSL_stateless",
    "SSL_is_server",
    "SSL_read",
    "SSL_write",
    "gnutls_session_get_random",
    "gnutls_record_recv",
    "gnutls_record_send2",
];

#[cfg(test)]
mod tests {
    use super::*;

    /// The seed in `fuzz/corpus/discover_binaries`: build information, code that takes addresses, and calls.
    fn seed() -> Vec<u8> {
        let mut content = b"\xff Go buildinf:\x08\x02".to_vec();
        content.resize(32, 0);
        content.extend(b"\x08go1.24.3/tokio-1.49\0");
        let code_at = content.len();
        content.extend([0x48, 0x8d, 0xb7, 0x60, 0x01, 0, 0, 0x48, 0x8b, 0x87, 0x18, 9, 0, 0, 0xc3]);
        content.extend([
            0xb8, 1, 0, 0, 0, 0xe8, 0, 0, 0, 0, 0x41, 0x52, 0xc3, 0x7f, 3, 0xc2, 8, 0, 0x41, 0x5a, 0xc3,
        ]);
        content.extend([0xf0, 0x48, 0x0f, 0xc1, 0x05, 0x10, 0, 0, 0, 0xc3]);
        let table_at = content.len();
        content.extend(0xffff_fff1u32.to_le_bytes().into_iter().chain([0, 0, 1, 8]));
        for word in [1u64, 0, 0x40_0000, 72, 0, 0, 0, 90] {
            content.extend(word.to_le_bytes());
        }
        content.extend(b"runtime.newproc1\0\0");
        content.extend([0u32, 12, 64, 0, 0].iter().flat_map(|word| word.to_le_bytes()));
        let table_ends = content.len();
        // A function is read by pieces longer than this one is.
        content.resize(table_ends + 256, 0x90);
        let mut control = Vec::new();
        let mut put = |at: usize, size: usize| {
            control.extend((at as u16).to_le_bytes().into_iter().chain((size as u16).to_le_bytes()));
        };
        put(code_at, 64);
        put(32, 32);
        put(0, 64);
        put(table_at, (table_ends - table_at).next_multiple_of(2));
        let symbols =
            python::fuzz::SYMBOLS.len() + jvm::fuzz::BY_NAME.len() + SSL.len() + node::symbols().count();
        for number in 0..symbols {
            // By turns the first instruction and the second.
            put(code_at + (number + 1) % 2 * 7, 32);
        }
        control.into_iter().chain(content).collect()
    }

    #[test]
    fn the_readers_find_in_the_file_what_was_put_there() {
        let elf = opened(&file(&seed()).unwrap()).unwrap();
        assert!(elf.section_holds(".rodata", b"/tokio-"));
        assert!(go_tls::Go::of(&elf).is_some_and(|go| go.minor == 24));
        assert!(elf.symbol("_PyRuntime").is_some() && elf.symbol("SSL_get_session").is_some());
        assert_eq!(elf.bytes_at(BASE, 4).unwrap(), b"\xff Go");
        assert!(Library::of(&elf).is_some());
    }

    #[test]
    fn the_invariants_hold_for_a_file_its_prefixes_and_single_changes() {
        let seed = seed();
        if std::env::var_os("UPDATE_SEEDS").is_some() {
            let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../fuzz/corpus/discover_binaries");
            std::fs::create_dir_all(folder).unwrap();
            std::fs::write(format!("{folder}/seed-0"), &seed).unwrap();
        }
        fuzz_binaries(&seed);
        for cut in (0..seed.len()).step_by(7) {
            fuzz_binaries(&seed[..cut]);
            for value in [0, 0x7f, 0xff] {
                let mut changed = seed.clone();
                changed[cut] = value;
                fuzz_binaries(&changed);
            }
        }
    }

    #[test]
    fn the_invariants_hold_for_texts_and_memory_cut_anywhere() {
        let text = b"1000-2000 r-xp 00000000 fe:00 131 /a\ntfd: 13 events: 80002019 data: 7f56f4003880  pos:0\n2000-1000 r";
        let words: Vec<u8> = (0..256u64).flat_map(|n| (0x10_0000 + n * 8).to_le_bytes()).collect();
        for cut in 0..text.len() {
            fuzz_maps(&text[..cut]);
        }
        for cut in (0..words.len()).step_by(13) {
            fuzz_proofs(&words[..cut]);
        }
    }
}
