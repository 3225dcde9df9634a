//! The virtual machine's file system: real programs of this machine and the libraries they load, as one
//! cpio archive that the kernel unpacks into memory.
//!
//! The archive is written here, byte by byte, so that no root and no device node is needed on the host.
//! Every file lies where it lies on the host, since programs find their libraries by path. Not
//! compressed: unpacking would cost the emulated machine more than reading does.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{BufWriter, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::command::{self, Cmd};

const INIT: &str = include_str!("init.sh");

/// Writes the archive with this agent in it.
pub fn write(archive: &Path, agent: &Path) -> Result<()> {
    let mut tree = Tree::default();
    let busybox = command::find("busybox").context("there is no busybox on PATH")?;
    tree.file("/bin/busybox", &busybox)?;
    for applet in Cmd::new(&busybox).arg("--list").read()?.split_whitespace() {
        tree.link(&format!("/bin/{applet}"), "/bin/busybox");
    }
    // The programs under trace last: a busybox applet of the same name yields to them.
    tree.program("/usr/local/bin/spandrel", agent)?;
    tree.program("/usr/bin/curl", &command::find("curl").context("there is no curl on PATH")?)?;
    tree.python()?;
    tree.text("/init", INIT, 0o755);
    tree.text("/srv/hello", "hello\n", 0o644);
    tree.text("/etc/hosts", "127.0.0.1 localhost\n", 0o644);
    tree.text("/etc/passwd", "root:x:0:0::/:/bin/sh\n", 0o644);
    tree.text("/etc/nsswitch.conf", "passwd: files\nhosts: files\n", 0o644);
    tree.directory("/sys");
    tree.directory("/proc");
    tree.entry("/dev/console", Entry::Character { major: 5, minor: 1 });

    let folder = archive.parent().context("the archive's path has no folder")?;
    fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
    let file = fs::File::create(archive).with_context(|| format!("cannot create {}", archive.display()))?;
    let mut writer = BufWriter::new(file);
    tree.write(&mut writer).with_context(|| format!("cannot write {}", archive.display()))?;
    writer.flush().with_context(|| format!("cannot write {}", archive.display()))
}

/// What one path is.
enum Entry {
    Directory,
    File { content: Vec<u8>, mode: u32, modified: i64 },
    Link { to: String },
    Character { major: u32, minor: u32 },
}

/// Paths in their order, so that a folder comes before what it holds.
#[derive(Default)]
struct Tree {
    entries: BTreeMap<String, Entry>,
}

impl Tree {
    fn entry(&mut self, path: &str, entry: Entry) {
        if let Some((parent, _)) = path.rsplit_once('/')
            && !parent.is_empty()
        {
            self.directory(parent);
        }
        self.entries.insert(path.to_owned(), entry);
    }

    fn directory(&mut self, path: &str) {
        if !self.entries.contains_key(path) {
            self.entry(path, Entry::Directory);
        }
    }

    fn link(&mut self, path: &str, to: &str) {
        if !self.entries.contains_key(path) {
            self.entry(path, Entry::Link { to: to.to_owned() });
        }
    }

    fn text(&mut self, path: &str, text: &str, mode: u32) {
        self.entry(path, Entry::File { content: text.into(), mode, modified: 0 });
    }

    /// A file of the host, links followed, with its time: Python's caches are valid for one time only.
    fn file(&mut self, path: &str, host: &Path) -> Result<()> {
        let content = fs::read(host).with_context(|| format!("cannot read {}", host.display()))?;
        let metadata = fs::metadata(host).with_context(|| format!("cannot stat {}", host.display()))?;
        let mode = metadata.permissions().mode() & 0o777;
        self.entry(path, Entry::File { content, mode, modified: metadata.mtime() });
        Ok(())
    }

    /// A program or library of the host and every library it loads, each at its own path.
    fn program(&mut self, path: &str, host: &Path) -> Result<()> {
        self.file(path, host)?;
        for library in libraries(host) {
            let library = library.display().to_string();
            if !self.entries.contains_key(&library) {
                self.file(&library, Path::new(&library))?;
            }
        }
        Ok(())
    }

    /// The distribution's Python with just the modules that a web server takes; it is asked which.
    fn python(&mut self) -> Result<()> {
        let python = Path::new("/usr/bin/python3");
        self.program("/usr/bin/python3", python)?;
        let script = "import runpy, http.server, encodings.idna, argparse, gettext, locale, sys, importlib.util\n\
            for module in list(sys.modules.values()):\n\
            \x20   path = getattr(module, '__file__', None)\n\
            \x20   if path and path.startswith(sys.prefix):\n\
            \x20       print(path)\n\
            \x20       print(importlib.util.cache_from_source(path) if path.endswith('.py') else path)\n";
        let listed = Cmd::new(python).args(["-I", "-S", "-c", script]).read()?;
        let paths: BTreeSet<&str> = listed.lines().filter(|path| Path::new(path).exists()).collect();
        for path in paths {
            match path.ends_with(".so") {
                true => self.program(path, Path::new(path))?,
                false => self.file(path, Path::new(path))?,
            }
        }
        Ok(())
    }

    /// The format "newc" (Linux, Documentation/driver-api/early-userspace/buffer-format.rst).
    fn write(&self, writer: &mut impl Write) -> std::io::Result<()> {
        for (number, (path, entry)) in self.entries.iter().enumerate() {
            let number = number as u32 + 1;
            let name = path.trim_start_matches('/');
            match entry {
                Entry::Directory => {
                    header(writer, name, Header { number, mode: 0o040_755, ..Header::default() })?
                }
                Entry::Link { to } => {
                    let size = to.len() as u32;
                    header(writer, name, Header { number, mode: 0o120_777, size, ..Header::default() })?;
                    padded(writer, to.as_bytes())?;
                }
                Entry::File { content, mode, modified } => {
                    let size = content.len() as u32;
                    let (mode, modified) = (0o100_000 | mode, *modified as u32);
                    header(writer, name, Header { number, mode, size, modified, ..Header::default() })?;
                    padded(writer, content)?;
                }
                Entry::Character { major, minor } => {
                    let (major, minor) = (*major, *minor);
                    header(
                        writer,
                        name,
                        Header { number, mode: 0o020_600, major, minor, ..Header::default() },
                    )?;
                }
            }
        }
        header(writer, "TRAILER!!!", Header::default())
    }
}

#[derive(Default)]
struct Header {
    number: u32,
    mode: u32,
    size: u32,
    modified: u32,
    major: u32,
    minor: u32,
}

fn header(writer: &mut impl Write, name: &str, header: Header) -> std::io::Result<()> {
    let Header { number, mode, size, modified, major, minor } = header;
    let name_size = name.len() as u32 + 1;
    // inode, mode, uid, gid, links, mtime, size, device (2), special device (2), name's size, checksum
    let fields = [number, mode, 0, 0, 1, modified, size, 0, 0, major, minor, name_size, 0];
    let mut bytes = b"070701".to_vec();
    for field in fields {
        write!(bytes, "{field:08x}")?;
    }
    bytes.extend_from_slice(name.as_bytes());
    bytes.push(0);
    padded(writer, &bytes)
}

/// Names and contents end at multiples of four bytes.
fn padded(writer: &mut impl Write, bytes: &[u8]) -> std::io::Result<()> {
    writer.write_all(bytes)?;
    let padding = bytes.len().next_multiple_of(4) - bytes.len();
    writer.write_all(&vec![0; padding])
}

/// What `ldd` says that a program loads; nothing for a static program or a script.
fn libraries(program: &Path) -> Vec<PathBuf> {
    let listed = Cmd::new("ldd").arg(program).read().unwrap_or_default();
    listed
        .lines()
        .filter_map(|line| line.split_whitespace().find(|word| word.starts_with('/')))
        .map(PathBuf::from)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_record_of_the_archive_begins_at_a_multiple_of_four_and_folders_come_first() {
        let mut tree = Tree::default();
        tree.text("/a/b/file", "12345", 0o644);
        let mut bytes = Vec::new();
        tree.write(&mut bytes).unwrap();
        let (mut at, mut names) = (0, Vec::new());
        while at < bytes.len() {
            assert_eq!(&bytes[at..at + 6], b"070701");
            let field = |n: usize| {
                let text = std::str::from_utf8(&bytes[at + 6 + 8 * n..at + 14 + 8 * n]).unwrap();
                usize::from_str_radix(text, 16).unwrap()
            };
            let (size, name_size) = (field(6), field(11));
            names.push(String::from_utf8(bytes[at + 110..at + 109 + name_size].to_vec()).unwrap());
            at += (110 + name_size).next_multiple_of(4) + size.next_multiple_of(4);
        }
        assert_eq!(names, ["a", "a/b", "a/b/file", "TRAILER!!!"]);
    }
}
