//! ELF files that belong to others: headers, sections, symbols and bytes, read with bounds.
//!
//! ```text
//!   file ─pread─▶ header ─▶ segments, sections ─▶ symbols | bytes at an address
//! ```
//! The file is hostile and may change or shrink while it is read, so it is never mapped, every sum is checked,
//! and nothing is reserved by a number that the file says without a bound. Addresses are the file's own
//! ("virtual addresses"); [`load_bias`] says what to add for a process. 64 bits and little-endian only, which
//! is what this agent traces.

use std::fs::File;
use std::os::unix::fs::{FileExt, MetadataExt as _};

use object::LittleEndian as LE;
use object::elf;
use object::pod::{from_bytes, slice_from_bytes};

use super::maps::{FileKey, Mapping, Maps};

/// Segments that are looked at. Programs have about a dozen.
pub const MAX_SEGMENTS: usize = 128;
/// Sections that are looked at. Programs have about 40; those built a section a function are not linked so.
pub const MAX_SECTIONS: usize = 1024;
/// Symbols of one table that are looked at. Node, one of the largest, has some 300,000.
pub const MAX_SYMBOLS: usize = 1 << 20;
/// Bytes of symbol names that are read: Node's are 20 MiB.
pub const MAX_NAMES: u64 = 64 << 20;
/// The longest name: a million symbols that share one of megabytes would take minutes.
const MAX_NAME: usize = 16 << 10;
/// Bytes that [`Elf::section_bytes`] and [`Elf::bytes_at`] read at once.
pub const MAX_BYTES: usize = 64 << 20;
/// Bytes of the names of sections that are read.
const MAX_SECTION_NAMES: usize = 256 << 10;

/// Why a file is of no use.
#[derive(Debug, thiserror::Error)]
pub enum ElfError {
    /// It cannot be read, or is shorter than it says.
    #[error("it cannot be read: {0}")]
    Read(#[from] std::io::Error),
    /// It is no ELF file.
    #[error("it is no ELF file")]
    NotElf,
    /// It is one of another machine or word size.
    #[error("it is not for x86-64")]
    OtherMachine,
    /// A header contradicts itself or a bound.
    #[error("its {0} make no sense")]
    Broken(&'static str),
}

/// A part of the file that is loaded.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Segment {
    /// Its first address.
    pub address: u64,
    /// Where it begins in the file.
    pub offset: u64,
    /// Bytes of it that are in the file.
    pub file_size: u64,
    /// Bytes of it in memory.
    pub memory_size: u64,
    /// May be written.
    pub write: bool,
    /// May be executed.
    pub execute: bool,
}

/// A part of the file that has a name.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Section {
    /// Its name.
    pub name: Vec<u8>,
    /// Its address; 0 if it is not loaded.
    pub address: u64,
    /// Where it begins in the file.
    pub offset: u64,
    /// How long it is.
    pub size: u64,
    /// It takes no room in the file (`.bss`).
    pub no_bits: bool,
    kind: elf::SectionType,
    link: u32,
}

/// A symbol.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Symbol {
    /// Its address; for one of thread-local storage, its place in the TLS block.
    pub address: u64,
    /// How long it is; 0 if that is not said.
    pub size: u64,
    /// It is a function (`STT_FUNC`, `STT_GNU_IFUNC`).
    pub is_function: bool,
    /// It is thread-local (`STT_TLS`).
    pub is_tls: bool,
}

/// The template of thread-local storage (`PT_TLS`).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Tls {
    /// Bytes that each thread gets.
    pub memory_size: u64,
    /// Their alignment.
    pub align: u64,
}

impl Tls {
    /// How far below the thread pointer the block of the *executable* begins (the x86-64 ABI's variant II).
    pub fn below_thread_pointer(&self) -> Option<u64> {
        let align = self.align.max(1);
        self.memory_size.checked_add(align - 1).map(|size| size / align * align)
    }
}

/// An open ELF file.
#[derive(Debug)]
pub struct Elf {
    file: File,
    identity: Vec<u8>,
    position_independent: bool,
    segments: Vec<Segment>,
    sections: Vec<Section>,
    tls: Option<Tls>,
}

impl Elf {
    /// Reads the headers.
    pub fn open(file: File) -> Result<Self, ElfError> {
        let meta = file.metadata()?;
        let length = meta.len();
        let bytes = pread(&file, 0, size_of::<elf::FileHeader64<LE>>())?;
        let (header, _) = from_bytes::<elf::FileHeader64<LE>>(&bytes).map_err(|()| ElfError::NotElf)?;
        if header.e_ident.magic != elf::ELFMAG {
            return Err(ElfError::NotElf);
        }
        let machine = header.e_machine.get(LE);
        if header.e_ident.class != elf::ELFCLASS64 || header.e_ident.data != elf::ELFDATA2LSB {
            return Err(ElfError::OtherMachine);
        }
        if machine != elf::EM_X86_64 {
            return Err(ElfError::OtherMachine);
        }
        let mut this = Self {
            position_independent: header.e_type.get(LE) == elf::ET_DYN,
            identity: identity(&meta),
            file,
            segments: Vec::new(),
            sections: Vec::new(),
            tls: None,
        };
        this.read_segments(header)?;
        // What is stripped to the bone has no section headers, and serves all the same.
        if header.e_shnum.get(LE) != 0 {
            this.read_sections(header, length)?;
        }
        Ok(this)
    }

    fn read_segments(&mut self, header: &elf::FileHeader64<LE>) -> Result<(), ElfError> {
        type Program = elf::ProgramHeader64<LE>;
        let count = usize::from(header.e_phnum.get(LE));
        if count > MAX_SEGMENTS || usize::from(header.e_phentsize.get(LE)) != size_of::<Program>() {
            return Err(ElfError::Broken("program headers"));
        }
        let bytes = pread(&self.file, header.e_phoff.get(LE), count * size_of::<Program>())?;
        let (programs, _) =
            slice_from_bytes::<Program>(&bytes, count).map_err(|()| ElfError::Broken("program headers"))?;
        for program in programs {
            let (offset, size) = (program.p_offset.get(LE), program.p_filesz.get(LE));
            match program.p_type.get(LE) {
                elf::PT_LOAD => self.segments.push(Segment {
                    address: program.p_vaddr.get(LE),
                    offset,
                    file_size: size,
                    memory_size: program.p_memsz.get(LE),
                    write: program.p_flags.get(LE).0 & elf::PF_W.0 != 0,
                    execute: program.p_flags.get(LE).0 & elf::PF_X.0 != 0,
                }),
                elf::PT_TLS => {
                    self.tls =
                        Some(Tls { memory_size: program.p_memsz.get(LE), align: program.p_align.get(LE) });
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn read_sections(&mut self, header: &elf::FileHeader64<LE>, length: u64) -> Result<(), ElfError> {
        type Header = elf::SectionHeader64<LE>;
        let broken = || ElfError::Broken("section headers");
        let count = usize::from(header.e_shnum.get(LE));
        if count > MAX_SECTIONS || usize::from(header.e_shentsize.get(LE)) != size_of::<Header>() {
            return Err(broken());
        }
        let at = header.e_shoff.get(LE);
        // A file that was cut keeps the number of its headers and has none.
        if at >= length {
            return Ok(());
        }
        let bytes = pread(&self.file, at, count * size_of::<Header>())?;
        let (headers, _) = slice_from_bytes::<Header>(&bytes, count).map_err(|()| broken())?;
        let names = match headers.get(usize::from(header.e_shstrndx.get(LE).0)) {
            Some(names) => {
                let size = usize::try_from(names.sh_size.get(LE)).unwrap_or(usize::MAX);
                pread(&self.file, names.sh_offset.get(LE), size.min(MAX_SECTION_NAMES))?
            }
            None => Vec::new(),
        };
        for header in headers {
            self.sections.push(Section {
                name: name_at(&names, header.sh_name.get(LE)).unwrap_or_default().to_vec(),
                address: header.sh_addr.get(LE),
                offset: header.sh_offset.get(LE),
                size: header.sh_size.get(LE),
                no_bits: header.sh_type.get(LE) == elf::SHT_NOBITS,
                kind: header.sh_type.get(LE),
                link: header.sh_link.get(LE),
            });
        }
        Ok(())
    }

    /// It can be loaded anywhere: a shared library or a position-independent program.
    pub fn is_position_independent(&self) -> bool {
        self.position_independent
    }

    /// What is loaded of it.
    pub fn segments(&self) -> &[Segment] {
        &self.segments
    }

    /// Its sections; none if their headers were stripped.
    pub fn sections(&self) -> &[Section] {
        &self.sections
    }

    /// The template of thread-local storage.
    pub fn tls(&self) -> Option<Tls> {
        self.tls
    }

    /// The section of this name.
    pub fn section(&self, name: &str) -> Option<&Section> {
        self.sections.iter().find(|section| section.name == name.as_bytes())
    }

    /// The bytes of a section, if there are at most `max` (and [`MAX_BYTES`]).
    pub fn section_bytes(&self, name: &str, max: usize) -> Option<Vec<u8>> {
        let section = self.section(name).filter(|section| !section.no_bits)?;
        let size = usize::try_from(section.size).ok().filter(|&size| size <= max.min(MAX_BYTES))?;
        pread(&self.file, section.offset, size).ok()
    }

    /// Whether these bytes stand in the first [`MAX_BYTES`] of a section: read in pieces, for read-only data of large
    /// programs take tens of MiB.
    pub fn section_holds(&self, name: &str, wanted: &[u8]) -> bool {
        let Some(section) = self.section(name).filter(|section| !section.no_bits) else { return false };
        let end = section.size.min(MAX_BYTES as u64);
        let mut at = 0;
        while at < end {
            // Each piece begins with what may be the beginning of the wanted bytes at the end of the one before.
            let length = (end - at).min((PIECE + wanted.len()) as u64);
            let bytes =
                section.offset.checked_add(at).and_then(|from| pread(&self.file, from, length as usize).ok());
            match bytes {
                Some(bytes) if memchr::memmem::find(&bytes, wanted).is_some() => return true,
                Some(_) => at += PIECE as u64,
                None => return false,
            }
        }
        false
    }

    /// Bytes at an address, as the file has them: all of them, from one segment, or nothing.
    pub fn bytes_at(&self, address: u64, length: usize) -> Option<Vec<u8>> {
        let end = address.checked_add(length as u64)?;
        let segment = self.segments.iter().find(|segment| {
            let ends = segment.address.checked_add(segment.file_size);
            address >= segment.address && ends.is_some_and(|ends| end <= ends)
        })?;
        let offset = segment.offset.checked_add(address - segment.address)?;
        (length <= MAX_BYTES).then(|| pread(&self.file, offset, length).ok())?
    }

    /// Where in the file the byte of an address is: what a uprobe is attached to.
    pub fn file_offset(&self, address: u64) -> Option<u64> {
        let segment = self.segments.iter().find(|segment| {
            segment.address.checked_add(segment.file_size).is_some_and(|end| address < end)
                && address >= segment.address
        })?;
        segment.offset.checked_add(address - segment.address)
    }

    /// Whether an address lies in what may be executed.
    pub fn is_code(&self, address: u64) -> bool {
        self.segments.iter().any(|segment| {
            let end = segment.address.checked_add(segment.memory_size);
            segment.execute && address >= segment.address && end.is_some_and(|end| address < end)
        })
    }

    /// Whether an address lies in data that the file has no bytes of: what begins as zeros.
    pub fn is_zeroed(&self, address: u64) -> bool {
        self.segments.iter().any(|segment| {
            let start = segment.address.checked_add(segment.file_size);
            let end = segment.address.checked_add(segment.memory_size);
            segment.write
                && start.is_some_and(|start| address >= start)
                && end.is_some_and(|end| address < end)
        })
    }

    /// What tells this file, as it was when it was opened, from any other, also from one that is given its inode number
    /// later. Unlike a build id it is nothing that the file says of itself.
    pub fn identity(&self) -> &[u8] {
        &self.identity
    }

    /// The symbol of exactly this name, dynamic symbols first. One that is not defined here is none.
    pub fn symbol(&self, name: &str) -> Option<Symbol> {
        self.symbol_within(name, u64::MAX)
    }

    /// As [`Elf::symbol`], but of the symbols that are there for debuggers only if their names take no more bytes than
    /// these: those of a large program take tens of MiB.
    pub fn symbol_within(&self, name: &str, most: u64) -> Option<Symbol> {
        let mut found = None;
        self.symbols_within(most, &mut |names, symbol| {
            // Its end is not looked for: it may be far away.
            if names.strip_prefix(name.as_bytes()).is_some_and(|rest| rest.first() == Some(&0)) {
                found = Some(*symbol);
            }
            found.is_none()
        });
        found
    }

    /// Shows each defined symbol with its name, the dynamic ones first, until `visit` says false. Returns whether
    /// all were shown: not so beyond [`MAX_SYMBOLS`] or [`MAX_NAMES`], or where a table cannot be read.
    pub fn symbols(&self, visit: &mut dyn FnMut(&[u8], &Symbol) -> bool) -> bool {
        self.symbols_within(u64::MAX, &mut |names, symbol| match first_name(names) {
            Some(name) if !name.is_empty() => visit(name, symbol),
            _ => true,
        })
    }

    /// The same; `visit` gets the names from the symbol's own on.
    fn symbols_within(&self, most: u64, visit: &mut dyn FnMut(&[u8], &Symbol) -> bool) -> bool {
        let names =
            |table: &Section| usize::try_from(table.link).ok().and_then(|names| self.sections.get(names));
        let dynamic = self.sections.iter().filter(|section| section.kind == elf::SHT_DYNSYM);
        let others = self.sections.iter().filter(|section| section.kind == elf::SHT_SYMTAB);
        let others = others.filter(|table| names(table).is_none_or(|names| names.size <= most));
        let mut all = true;
        for table in dynamic.chain(others) {
            match self.table(table, visit) {
                Some(Shown::All) => {}
                Some(Shown::Enough) => return true,
                Some(Shown::Some) | None => all = false,
            }
        }
        all
    }

    fn table(&self, table: &Section, visit: &mut dyn FnMut(&[u8], &Symbol) -> bool) -> Option<Shown> {
        type Sym = elf::Sym64<LE>;
        let names = self.sections.get(usize::try_from(table.link).ok()?)?;
        let whole = names.size <= MAX_NAMES;
        let names = pread(&self.file, names.offset, usize::try_from(names.size.min(MAX_NAMES)).ok()?).ok()?;
        let count = usize::try_from(table.size).ok()? / size_of::<Sym>();
        let whole = whole && count <= MAX_SYMBOLS;
        let (mut left, mut offset) = (count.min(MAX_SYMBOLS), table.offset);
        while left > 0 {
            let some = left.min(CHUNK);
            let bytes = pread(&self.file, offset, some * size_of::<Sym>()).ok()?;
            let (symbols, _) = slice_from_bytes::<Sym>(&bytes, some).ok()?;
            for raw in symbols {
                if raw.st_shndx.get(LE) == elf::SHN_UNDEF {
                    continue;
                }
                let kind = raw.st_info.st_type();
                let symbol = Symbol {
                    address: raw.st_value.get(LE),
                    size: raw.st_size.get(LE),
                    is_function: kind == elf::STT_FUNC || kind == elf::STT_GNU_IFUNC,
                    is_tls: kind == elf::STT_TLS,
                };
                let name = usize::try_from(raw.st_name.get(LE)).ok().and_then(|at| names.get(at..));
                if name.is_some_and(|name| !visit(name, &symbol)) {
                    return Some(Shown::Enough);
                }
            }
            left -= some;
            offset = offset.checked_add((some * size_of::<Sym>()) as u64)?;
        }
        Some(if whole { Shown::All } else { Shown::Some })
    }
}

enum Shown {
    All,
    Some,
    Enough,
}

/// Symbols read at once.
const CHUNK: usize = 4096;

/// Bytes of a section searched at once.
const PIECE: usize = 64 << 10;

/// What to add to an address of this file to get the one in a process that has it mapped.
pub fn load_bias(elf: &Elf, maps: &Maps, file: FileKey) -> Option<u64> {
    // The kernel maps whole pages, so a mapping may begin before its segment. A hole between segments that lie apart is a mapping
    // of the file that nobody may read, at whatever place in the file (Temurin's libjvm.so of 21).
    // Programs map their own file once more to read it (a Rust program that prints a backtrace), but seldom its code: that decides.
    let code = bias_by(elf, maps.of_file(file).filter(|mapping| mapping.execute));
    match code.as_slice() {
        [bias] => return Some(*bias),
        [] => {}
        _ => return None,
    }
    let data = bias_by(elf, maps.of_file(file).filter(|mapping| mapping.read));
    match data.as_slice() {
        [bias] => Some(*bias),
        _ => None,
    }
}

/// The different answers that these mappings give.
fn bias_by<'a>(elf: &Elf, mapped: impl Iterator<Item = &'a Mapping>) -> Vec<u64> {
    let biases = mapped.filter_map(|mapping| {
        let segment = elf.segments.iter().find(|segment| {
            let page = segment.offset / PAGE * PAGE;
            page == mapping.offset && segment.execute == mapping.execute
        })?;
        let address = segment.address.checked_sub(segment.offset - mapping.offset)?;
        Some(mapping.start.wrapping_sub(address))
    });
    let mut biases = biases.collect::<Vec<_>>();
    biases.dedup();
    biases
}

const PAGE: u64 = 4096;

fn identity(meta: &std::fs::Metadata) -> Vec<u8> {
    let numbers = [meta.dev(), meta.ino(), meta.len()];
    let times = [meta.mtime(), meta.mtime_nsec(), meta.ctime(), meta.ctime_nsec()];
    let numbers = numbers.into_iter().flat_map(u64::to_le_bytes);
    numbers.chain(times.into_iter().flat_map(i64::to_le_bytes)).collect()
}

fn pread(file: &File, offset: u64, length: usize) -> std::io::Result<Vec<u8>> {
    if length > MAX_BYTES {
        return Err(std::io::Error::other("more is asked for than is read at once"));
    }
    // The file may be shorter than it says: only what is there is reserved.
    let there = file.metadata()?.len().saturating_sub(offset);
    if there < length as u64 {
        return Err(std::io::ErrorKind::UnexpectedEof.into());
    }
    let mut bytes = vec![0; length];
    file.read_exact_at(&mut bytes, offset)?;
    Ok(bytes)
}

fn name_at(names: &[u8], offset: u32) -> Option<&[u8]> {
    first_name(names.get(usize::try_from(offset).ok()?..)?)
}

/// Up to its 0; none if it is too long for a name.
fn first_name(names: &[u8]) -> Option<&[u8]> {
    let names = names.get(..MAX_NAME).unwrap_or(names);
    names.get(..memchr::memchr(0, names)?)
}

/// Fuzz body: no file makes the reader panic, read without a bound, or return what is not in the file.
#[doc(hidden)]
pub fn fuzz_file(data: &[u8]) {
    use std::io::Write;
    let Ok(memory) = nix::sys::memfd::memfd_create("elf", nix::sys::memfd::MFdFlags::empty()) else { return };
    let mut file = File::from(memory);
    if file.write_all(data).is_err() {
        return;
    }
    let Ok(elf) = Elf::open(file) else { return };
    let mut shown = 0;
    elf.symbols(&mut |name, _| {
        assert!(name.len() <= data.len());
        shown += 1;
        shown < 10_000
    });
    for section in elf.sections() {
        assert!(section.name.len() <= data.len());
        if let Some(bytes) = elf.bytes_at(section.address, 16) {
            assert_eq!(bytes.len(), 16);
        }
        elf.file_offset(section.address);
    }
    elf.symbol("main");
    elf.section_bytes(".text", 1 << 16);
    elf.section_holds(".rodata", b"fuzz");
}

#[cfg(test)]
mod tests {
    use super::*;

    fn own() -> Elf {
        Elf::open(File::open("/proc/self/exe").unwrap()).unwrap()
    }

    #[test]
    fn a_hole_between_segments_says_nothing_of_where_a_file_is() {
        let elf = own();
        let whole = Maps::of(std::process::id()).unwrap();
        let code = whole.at(fuzz_file as *const () as u64).unwrap();
        let bias = load_bias(&elf, &whole, code.file().unwrap());
        let data = elf.segments.iter().find(|segment| !segment.execute && segment.offset > PAGE).unwrap();
        let mut text = std::fs::read("/proc/self/maps").unwrap();
        let (major, minor) = code.device;
        let hole = format!(
            "1000-2000 ---p {:08x} {major:02x}:{minor:02x} {} /hole\n",
            data.offset / PAGE * PAGE,
            code.inode
        );
        text.extend_from_slice(hole.as_bytes());
        assert_eq!(load_bias(&elf, &Maps::parse(&text), code.file().unwrap()), bias);
        assert!(bias.is_some());
    }

    #[test]
    fn a_file_that_is_also_mapped_to_be_read_is_where_its_code_is() {
        let elf = own();
        let whole = Maps::of(std::process::id()).unwrap();
        let code = whole.at(fuzz_file as *const () as u64).unwrap();
        let bias = load_bias(&elf, &whole, code.file().unwrap());
        let with = |mode: &str| {
            let mut text = std::fs::read("/proc/self/maps").unwrap();
            let (major, minor) = code.device;
            let offset = if mode.contains('x') { code.offset } else { 0 };
            let line = format!("1000-2000 {mode} {offset:08x} {major:02x}:{minor:02x} {} /x\n", code.inode);
            text.extend_from_slice(line.as_bytes());
            load_bias(&elf, &Maps::parse(&text), code.file().unwrap())
        };
        assert_eq!(with("r--p"), bias);
        assert!(bias.is_some());
        // Code that is there twice may run at either place.
        assert_eq!(with("r-xp"), None);
    }

    #[test]
    fn symbols_sections_and_bytes_of_this_program_are_where_they_are_in_memory() {
        let elf = own();
        let maps = Maps::of(std::process::id()).unwrap();
        let here = fuzz_file as *const () as u64;
        let file = maps.at(here).unwrap().file().unwrap();
        let bias = load_bias(&elf, &maps, file).unwrap();
        let address = here.wrapping_sub(bias);
        assert!(elf.is_code(address) && !elf.is_code(1 << 60));
        let mut found = false;
        let all = elf.symbols(&mut |name, symbol| {
            found |= symbol.address == address && String::from_utf8_lossy(name).contains("fuzz_file");
            true
        });
        assert!(all && found);
        let memory = super::super::memory::ProcessMemory::of(std::process::id()).unwrap();
        let live = super::super::memory::ReadMemory::bytes(&memory, here, 32).unwrap();
        assert_eq!(elf.bytes_at(address, 32).unwrap(), live);
        let offset = elf.file_offset(address).unwrap();
        assert_eq!(pread(&elf.file, offset, 32).unwrap(), live);
        let text = elf.section(".text").unwrap();
        assert!((text.address..text.address + text.size).contains(&address));
        assert!(elf.tls().is_some());
        assert_eq!(elf.symbol("no such symbol"), None);
        // Also across the end of a piece.
        let code = elf.section_bytes(".text", MAX_BYTES).unwrap();
        let across = code.get(PIECE - 20..PIECE + 20).unwrap();
        assert!(elf.section_holds(".text", across));
        assert!(!elf.section_holds(".text", b"\x01no such bytes\xfe") && !elf.section_holds(".none", b"x"));
    }

    #[test]
    fn a_file_that_was_rewritten_in_its_place_is_another_one() {
        let path = std::env::temp_dir().join(format!("spandrel-rewritten-{}", std::process::id()));
        std::fs::copy("/bin/true", &path).unwrap();
        let open = || Elf::open(File::open(&path).unwrap()).unwrap();
        let (before, again) = (open(), open());
        assert_eq!(before.identity(), again.identity());
        let mut bytes = std::fs::read(&path).unwrap();
        bytes.push(0);
        std::fs::write(&path, bytes).unwrap();
        assert_ne!(before.identity(), open().identity());
        std::fs::remove_file(&path).unwrap();
    }

    #[test]
    fn a_file_that_is_cut_anywhere_is_refused_or_read_in_part() {
        let whole = std::fs::read("/bin/true").unwrap();
        for cut in (0..whole.len().min(8192)).step_by(61).chain([whole.len() - 1]) {
            fuzz_file(&whole[..cut]);
        }
        fuzz_file(&whole);
    }

    #[test]
    fn absurd_headers_are_refused() {
        let whole = std::fs::read("/bin/true").unwrap();
        // e_phoff, e_shoff, e_phnum, e_shnum, e_shstrndx: see elf(5).
        for (at, length) in [(0x20, 8), (0x28, 8), (0x38, 2), (0x3c, 2), (0x3e, 2)] {
            let mut damaged = whole.clone();
            damaged[at..at + length].fill(0xff);
            fuzz_file(&damaged);
        }
        let mut other = whole.clone();
        other[4] = 1;
        let path = std::env::temp_dir().join(format!("spandrel-elf-{}", std::process::id()));
        std::fs::write(&path, other).unwrap();
        assert!(matches!(Elf::open(File::open(&path).unwrap()), Err(ElfError::OtherMachine)));
        std::fs::write(
            &path,
            b"#!/bin/sh\nexec something that is longer than an ELF header is, at 64 bytes\n",
        )
        .unwrap();
        assert!(matches!(Elf::open(File::open(&path).unwrap()), Err(ElfError::NotElf)));
        std::fs::remove_file(&path).unwrap();
    }
}
