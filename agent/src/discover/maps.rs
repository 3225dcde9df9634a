//! What a process has mapped: the ranges of `/proc/PID/maps`, and the files behind them.
//!
//! A file is opened through `/proc/PID/map_files`, which names the very inode that is mapped, also when the file
//! was deleted, replaced, or lies in a container. It must never open a path on trust: where `map_files` is not
//! allowed, the file found by its path counts only if device and inode agree. Reads are bounded.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::PathBuf;

use super::text::harmless;

/// How many bytes of a process's maps are looked at: some 40,000 mappings, more than
/// `vm.max_map_count` allows for most.
pub const MAX_TEXT: usize = 4 << 20;

/// One range.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Mapping {
    /// Its first address.
    pub start: u64,
    /// The first address after it.
    pub end: u64,
    /// May be read.
    pub read: bool,
    /// May be written.
    pub write: bool,
    /// May be executed.
    pub execute: bool,
    /// Where in the file it begins, in bytes.
    pub offset: u64,
    /// The file's device (major, minor); 0 and 0 for memory without a file.
    pub device: (u32, u32),
    /// The file's inode number; 0 for memory without a file.
    pub inode: u64,
    /// What the kernel calls it: a path, `[heap]`, `[stack]`, or nothing. A path may end with ` (deleted)`.
    pub path: Vec<u8>,
}

impl Mapping {
    /// Whether this address lies in it.
    pub fn holds(&self, address: u64) -> bool {
        (self.start..self.end).contains(&address)
    }

    /// How long it is.
    pub fn size(&self) -> u64 {
        self.end.saturating_sub(self.start)
    }

    /// Which file it is of, if it is of one.
    pub fn file(&self) -> Option<FileKey> {
        (self.inode != 0).then_some(FileKey { device: self.device, inode: self.inode })
    }
}

/// Which file: the same for all processes that map it.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct FileKey {
    /// Major and minor number of the device.
    pub device: (u32, u32),
    /// Inode number.
    pub inode: u64,
}

/// All ranges of a process, by address.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Maps(Vec<Mapping>);

impl Maps {
    /// Of the process that has this pid now.
    pub fn of(pid: u32) -> io::Result<Self> {
        let mut text = Vec::new();
        File::open(format!("/proc/{pid}/maps"))?.take(MAX_TEXT as u64).read_to_end(&mut text)?;
        Ok(Self::parse(&text))
    }

    /// Reads the text of `/proc/PID/maps` (proc_pid_maps(5)). A line that is none is left out.
    pub fn parse(text: &[u8]) -> Self {
        let mut all: Vec<_> = text.split(|&byte| byte == b'\n').filter_map(mapping).collect();
        all.sort_by_key(|mapping| mapping.start);
        Self(all)
    }

    /// All of them.
    pub fn iter(&self) -> std::slice::Iter<'_, Mapping> {
        self.0.iter()
    }

    /// The one that holds this address.
    pub fn at(&self, address: u64) -> Option<&Mapping> {
        let after = self.0.partition_point(|mapping| mapping.start <= address);
        self.0.get(after.checked_sub(1)?).filter(|mapping| mapping.holds(address))
    }

    /// Whether this address may be executed.
    pub fn is_code(&self, address: u64) -> bool {
        self.at(address).is_some_and(|mapping| mapping.execute)
    }

    /// Files that are mapped to be executed, each once, with the first of their mappings (of any kind).
    pub fn programs(&self) -> impl Iterator<Item = (FileKey, &Mapping)> {
        let mut seen = std::collections::HashSet::new();
        let files = self.0.iter().filter(|mapping| mapping.execute).filter_map(Mapping::file);
        let fresh: Vec<_> = files.filter(|file| seen.insert(*file)).collect();
        fresh.into_iter().filter_map(|file| Some((file, self.of_file(file).next()?)))
    }

    /// The mappings of one file, by address.
    pub fn of_file(&self, file: FileKey) -> impl Iterator<Item = &Mapping> {
        self.0.iter().filter(move |mapping| mapping.file() == Some(file))
    }

    /// Where a byte of a file is, if it may be executed: a file can be mapped more than once.
    pub fn code_at(&self, file: FileKey, offset: u64) -> impl Iterator<Item = u64> {
        self.of_file(file).filter(|mapping| mapping.execute).filter_map(move |mapping| {
            let into = offset.checked_sub(mapping.offset)?;
            (into < mapping.size()).then(|| mapping.start.wrapping_add(into))
        })
    }
}

fn mapping(line: &[u8]) -> Option<Mapping> {
    // `start-end rwxp offset major:minor inode        path`, the path with spaces of its own.
    let mut fields = line.splitn(6, |&byte| byte == b' ');
    let mut field = || std::str::from_utf8(fields.next()?).ok();
    let (start, end) = field()?.split_once('-')?;
    let mode = field()?.as_bytes();
    let offset = field()?;
    let (major, minor) = field()?.split_once(':')?;
    let inode = field()?;
    let hex = |digits: &str| u64::from_str_radix(digits, 16).ok();
    let number = |digits: &str| u32::from_str_radix(digits, 16).ok();
    let path = fields.next().unwrap_or_default();
    let begins = path.iter().position(|&byte| byte != b' ').unwrap_or(path.len());
    let mapping = Mapping {
        start: hex(start)?,
        end: hex(end)?,
        read: mode.first() == Some(&b'r'),
        write: mode.get(1) == Some(&b'w'),
        execute: mode.get(2) == Some(&b'x'),
        offset: hex(offset)?,
        device: (number(major)?, number(minor)?),
        inode: inode.parse().ok()?,
        path: path.get(begins..)?.to_vec(),
    };
    (mapping.start < mapping.end).then_some(mapping)
}

/// Opens the file behind a mapping, to be read.
pub fn open(pid: u32, mapping: &Mapping) -> io::Result<File> {
    let link = format!("/proc/{pid}/map_files/{:x}-{:x}", mapping.start, mapping.end);
    // A path may lead to a pipe or a terminal: opened without waiting, and believed only as a plain file.
    let open = |path: &std::path::Path| {
        let file = File::options().read(true).custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY).open(path)?;
        let meta = file.metadata()?;
        match meta.is_file() {
            true => Ok((file, meta)),
            false => Err(io::Error::other("what is mapped is no plain file")),
        }
    };
    match open(std::path::Path::new(&link)) {
        Ok((file, _)) => return Ok(file),
        // Needs CAP_SYS_ADMIN or CAP_CHECKPOINT_RESTORE.
        Err(error) if error.kind() != io::ErrorKind::PermissionDenied => return Err(error),
        Err(_) => {}
    }
    let mut path = PathBuf::from(format!("/proc/{pid}/root"));
    path.push(std::ffi::OsStr::from_bytes(mapping.path.strip_prefix(b"/").unwrap_or(&mapping.path)));
    let (file, meta) = open(&path)?;
    let device = (libc::major(meta.dev()), libc::minor(meta.dev()));
    match (meta.ino(), device) == (mapping.inode, mapping.device) {
        true => Ok(file),
        false => Err(io::Error::other(format!(
            "{} is another file than the mapped one",
            harmless(&mapping.path, 256)
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &[u8] = b"\
555555554000-555555556000 r--p 00000000 fe:00 131 /usr/bin/with space (deleted)
555555556000-555555558000 r-xp 00002000 fe:00 131 /usr/bin/with space (deleted)
7ffff7a00000-7ffff7a01000 rw-p 00000000 00:00 0
7ffff7b00000-7ffff7b01000 r-xp 00001000 103:5 77                 /lib/x.so
7ffffffde000-7ffffffff000 rw-p 00000000 00:00 0                  [stack]
";

    #[test]
    fn each_line_is_a_range_with_its_file() {
        let maps = Maps::parse(TEXT);
        assert_eq!(maps.iter().count(), 5);
        let code = maps.at(0x5555_5555_6fff).unwrap();
        assert_eq!((code.read, code.write, code.execute, code.offset), (true, false, true, 0x2000));
        assert_eq!(code.path, b"/usr/bin/with space (deleted)");
        assert_eq!(code.file(), Some(FileKey { device: (0xfe, 0), inode: 131 }));
        assert_eq!(maps.at(0x7fff_f7a0_0000).unwrap().file(), None);
        assert_eq!(maps.at(0x7fff_f7b0_0000).unwrap().device, (0x103, 5));
        assert!(maps.is_code(0x7fff_f7b0_0000) && !maps.is_code(0x7fff_f7a0_0000));
        assert_eq!((maps.at(0x5555_5555_8000), maps.at(0), maps.at(u64::MAX)), (None, None, None));
    }

    #[test]
    fn a_program_begins_with_its_first_mapping_of_any_kind() {
        let maps = Maps::parse(TEXT);
        let starts: Vec<_> = maps.programs().map(|(_, first)| first.start).collect();
        assert_eq!(starts, [0x5555_5555_4000, 0x7fff_f7b0_0000]);
    }

    #[test]
    fn a_byte_of_a_file_is_wherever_the_file_is_mapped_to_be_executed() {
        let text = b"\
1000-3000 r-xp 00002000 fe:00 131 /usr/bin/node
3000-5000 r--p 00002000 fe:00 131 /usr/bin/node
7000-8000 r-xp 00003000 fe:00 131 /usr/bin/node
9000-b000 r-xp 00002000 fe:00 132 /usr/bin/other
";
        let maps = Maps::parse(text);
        let file = FileKey { device: (0xfe, 0), inode: 131 };
        let at = |offset| maps.code_at(file, offset).collect::<Vec<_>>();
        assert_eq!(at(0x3010), [0x2010, 0x7010]);
        assert_eq!(at(0x2fff), [0x1fff]);
        assert_eq!((at(0x1fff), at(0x4000)), (vec![], vec![]));
    }

    #[test]
    fn what_is_no_line_of_maps_is_left_out() {
        for text in ["", "x", "1-0 r--p 0 0:0 0", "1-2 r--p 0 0 0", "g-2 r--p 0 0:0 0 x", "1-2"] {
            assert_eq!(Maps::parse(text.as_bytes()).iter().count(), 0, "{text}");
        }
    }

    #[test]
    fn the_file_behind_a_mapping_of_ours_is_our_program() {
        let maps = Maps::of(std::process::id()).unwrap();
        let address = Maps::parse as *const () as u64;
        let mapping = maps.at(address).unwrap();
        let file = open(std::process::id(), mapping).unwrap();
        let own = std::fs::metadata("/proc/self/exe").unwrap();
        assert_eq!(file.metadata().unwrap().ino(), own.ino());
    }
}
