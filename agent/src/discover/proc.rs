//! The edge to `/proc`: what the kernel says of one process now, and whether it is still the process meant.
//!
//! Every file is read up to a bound, and a process may be gone or be another one between any two reads:
//! [`ProcFs::snapshot`] reads the start time first and last and gives nothing unless both agree. It must
//! never write, attach to or stop a process; the parsers at the end are pure.

use crate::identity::ProcessKey;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use super::cgroup::{self, Membership};
use super::environment::{Declared, Scanner};
use super::runtime::{self, Content};

/// A mounted procfs.
#[derive(Clone, Debug)]
pub struct ProcFs {
    root: PathBuf,
}

/// One process at one moment.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Snapshot {
    /// What `/proc/PID/stat` says.
    pub stat: Stat,
    /// The arguments as they stand in memory now, each ended by NUL; a process can rewrite them.
    pub cmdline: Vec<u8>,
    /// The executable's path in the process's own mount namespace; empty if not readable.
    pub executable: Vec<u8>,
    /// The working directory; empty if not readable.
    pub directory: Vec<u8>,
    /// Its cgroups.
    pub membership: Membership,
    /// What it says of itself in its environment; nothing if not readable.
    pub declared: Declared,
    /// Some of it could not be read for want of permission.
    pub denied: bool,
}

/// The fields of `/proc/PID/stat` (proc_pid_stat(5)) that are used.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Stat {
    /// Field 2 without its parentheses: the name, at most 15 bytes.
    pub comm: Vec<u8>,
    /// Field 4.
    pub parent: u32,
    /// Field 9 has `PF_KTHREAD`: a thread of the kernel's, which runs no program.
    pub kernel_thread: bool,
    /// Field 22: start time since boot, suspend included (`CLOCK_BOOTTIME`), in units of 1/[`USER_HZ`] s.
    pub start_ticks: u64,
}

/// Why there is no snapshot.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq, thiserror::Error)]
pub enum ReadError {
    /// There is no such process (any more).
    #[error("the process is gone")]
    Gone,
    /// The pid belongs to another process now.
    #[error("the pid belongs to another process now")]
    Changed,
    /// The kernel does not let us look.
    #[error("no permission to read /proc/PID")]
    Denied,
}

/// Identity of an executable file: two processes with the same one run the same bytes.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct FileIdentity {
    device: u64,
    inode: u64,
    size: u64,
    modified: i64,
}

impl Default for ProcFs {
    fn default() -> Self {
        Self::at("/proc")
    }
}

impl ProcFs {
    /// The procfs at this path.
    pub fn at(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// The pids that there are now, at most `max`.
    pub fn pids(&self, max: usize) -> io::Result<Vec<u32>> {
        let entries = std::fs::read_dir(&self.root)?;
        let pids = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
        Ok(pids.take(max).collect())
    }

    /// Reads a process. `is_meant` is asked once its start time is known, before anything else is read.
    pub fn snapshot(&self, pid: u32, is_meant: impl FnOnce(&Stat) -> bool) -> Result<Snapshot, ReadError> {
        let stat = self.stat(pid)?;
        if !is_meant(&stat) {
            return Err(ReadError::Changed);
        }
        let folder = self.folder(pid);
        let mut snapshot = Snapshot { stat, ..Snapshot::default() };
        if !snapshot.stat.kernel_thread {
            let mut denied = false;
            let mut note = |error: io::Error| denied |= error.kind() == io::ErrorKind::PermissionDenied;
            match read_bounded(&folder.join("cmdline"), MAX_CMDLINE) {
                Ok(bytes) => snapshot.cmdline = bytes,
                Err(error) => note(error),
            }
            match std::fs::read_link(folder.join("exe")) {
                Ok(path) => snapshot.executable = without_deleted(path.into_os_string().into_vec()),
                Err(error) => note(error),
            }
            match std::fs::read_link(folder.join("cwd")) {
                Ok(path) => snapshot.directory = without_deleted(path.into_os_string().into_vec()),
                Err(error) => note(error),
            }
            match read_bounded(&folder.join("cgroup"), cgroup::MAX_TEXT) {
                Ok(text) => snapshot.membership = cgroup::membership(&text),
                Err(error) => note(error),
            }
            match read_declared(&folder.join("environ")) {
                Ok(declared) => snapshot.declared = declared,
                Err(error) => note(error),
            }
            snapshot.denied = denied;
        }
        if self.stat(pid)?.start_ticks != snapshot.stat.start_ticks {
            return Err(ReadError::Changed);
        }
        Ok(snapshot)
    }

    /// Reads `/proc/PID/stat`.
    pub fn stat(&self, pid: u32) -> Result<Stat, ReadError> {
        let text =
            read_bounded(&self.folder(pid).join("stat"), MAX_STAT).map_err(|error| match error.kind() {
                io::ErrorKind::PermissionDenied => ReadError::Denied,
                _ => ReadError::Gone,
            })?;
        parse_stat(&text).ok_or(ReadError::Gone)
    }

    /// Which file the process executes.
    pub fn executable_identity(&self, pid: u32) -> Option<FileIdentity> {
        let meta = std::fs::metadata(self.folder(pid).join("exe")).ok()?;
        meta.is_file().then(|| FileIdentity {
            device: meta.dev(),
            inode: meta.ino(),
            size: meta.size(),
            modified: meta.mtime_nsec().wrapping_add(meta.mtime().wrapping_mul(1_000_000_000)),
        })
    }

    /// Looks into the file that the process executes, wherever it is mounted and even if it was deleted.
    pub fn executable_content(&self, pid: u32) -> Content {
        let Ok(file) = File::open(self.folder(pid).join("exe")) else {
            return Content::Unknown;
        };
        runtime::look(|offset, length| {
            let mut bytes = vec![0; length];
            let mut read = 0;
            while let Some(rest) = bytes.get_mut(read..).filter(|rest| !rest.is_empty()) {
                match file.read_at(rest, offset.saturating_add(read as u64)) {
                    Ok(count) if count > 0 => read += count,
                    _ => break,
                }
            }
            bytes.truncate(read);
            bytes
        })
    }

    fn folder(&self, pid: u32) -> PathBuf {
        self.root.join(pid.to_string())
    }
}

/// Whether a process that the kernel's record says started at `started` (`CLOCK_MONOTONIC` ns) is the one
/// whose `/proc/PID/stat` says `start_ticks`.
///
/// The two clocks differ by the time that the machine had been suspended when the process started: between
/// nothing and `suspended`, what it is now. So without suspend the match is exact to two ticks, and with it
/// any start within that span is believed.
pub fn same_start(started: u64, start_ticks: u64, suspended: u64) -> bool {
    let boot = u128::from(start_ticks) * u128::from(TICK);
    let earliest = u128::from(started).saturating_sub(u128::from(2 * TICK));
    let latest = u128::from(started) + u128::from(suspended) + u128::from(2 * TICK);
    (earliest..=latest).contains(&boot)
}

/// For how long this machine was suspended since boot, in nanoseconds.
pub fn suspended_now() -> u64 {
    use nix::time::{ClockId, clock_gettime};
    let read = |clock| {
        clock_gettime(clock).map_or(0, |time| {
            let seconds = u64::try_from(time.tv_sec()).unwrap_or(0);
            seconds.saturating_mul(1_000_000_000).saturating_add(u64::try_from(time.tv_nsec()).unwrap_or(0))
        })
    };
    let monotonic = read(ClockId::CLOCK_MONOTONIC);
    // Read second, it is larger by the time between both calls: far below the tolerance of a match.
    read(ClockId::CLOCK_BOOTTIME).saturating_sub(monotonic)
}

/// Parses `/proc/PID/stat`. The name may hold blanks and parentheses: it ends at the last one.
pub fn parse_stat(text: &[u8]) -> Option<Stat> {
    let open = text.iter().position(|byte| *byte == b'(')?;
    let close = text.iter().rposition(|byte| *byte == b')')?;
    let comm = text.get(open + 1..close)?.to_vec();
    let rest = std::str::from_utf8(text.get(close + 1..)?).ok()?;
    let mut fields = rest.split_ascii_whitespace();
    // What follows the name is field 3; `nth` counts from the one after the last taken.
    let parent = fields.nth(1)?.parse().ok()?;
    let flags: u64 = fields.nth(4)?.parse().ok()?;
    let start_ticks = fields.nth(12)?.parse().ok()?;
    Some(Stat { comm, parent, kernel_thread: flags & PF_KTHREAD != 0, start_ticks })
}

/// Splits arguments at their NULs. The last one ends with a NUL too, unless `truncated` cut it; a piece that
/// was cut is left out.
pub fn split_arguments(bytes: &[u8], truncated: bool) -> Vec<Vec<u8>> {
    let ended = bytes.last() == Some(&0);
    let body = bytes.strip_suffix(&[0]).unwrap_or(bytes);
    if body.is_empty() {
        return Vec::new();
    }
    let mut arguments: Vec<Vec<u8>> =
        body.split(|byte| *byte == 0).take(MAX_ARGUMENTS).map(<[u8]>::to_vec).collect();
    if truncated && !ended {
        arguments.pop();
    }
    // A title written over the arguments leaves the NULs of the space that it does not need.
    while arguments.last().is_some_and(Vec::is_empty) {
        arguments.pop();
    }
    arguments
}

/// Whether a `cmdline` of this length may have been cut by our own bound.
pub fn is_cut(cmdline: &[u8]) -> bool {
    cmdline.len() >= MAX_CMDLINE
}

/// The kernel appends this to the link of a file without a name.
fn without_deleted(mut path: Vec<u8>) -> Vec<u8> {
    if let Some(length) = path.strip_suffix(b" (deleted)").map(<[u8]>::len) {
        path.truncate(length);
    }
    path
}

fn read_bounded(path: &Path, max: usize) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(max as u64).read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn read_declared(path: &Path) -> io::Result<Declared> {
    let mut file = File::open(path)?.take(MAX_ENVIRON as u64);
    let mut scanner = Scanner::default();
    let mut piece = [0; 4096];
    loop {
        let count = file.read(&mut piece)?;
        if count == 0 {
            return Ok(scanner.finish());
        }
        scanner.piece(piece.get(..count).unwrap_or(&[]));
    }
}

/// What `/proc` counts time in: 100 on every architecture that Spandrel runs on (`USER_HZ`,
/// include/asm-generic/param.h), whatever the kernel's own tick is.
pub const USER_HZ: u64 = 100;
/// One tick, in nanoseconds.
const TICK: u64 = 1_000_000_000 / USER_HZ;
/// include/linux/sched.h.
const PF_KTHREAD: u64 = 0x0020_0000;
const MAX_STAT: usize = 4 << 10;
/// Java class paths are long; more than this is not needed to find a main class.
const MAX_CMDLINE: usize = 128 << 10;
const MAX_ARGUMENTS: usize = 4096;
/// An environment is at most a quarter of the stack limit (execve(2)), 2 MiB by default.
const MAX_ENVIRON: usize = 2 << 20;

/// Whether a pid still is that of the process meant.
pub fn is_meant(key: ProcessKey) -> bool {
    let stat = ProcFs::default().stat(key.pid);
    stat.is_ok_and(|stat| same_start(key.started, stat.start_ticks, suspended_now()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stat_is_read_although_a_name_may_hold_anything() {
        let stat =
            parse_stat(b"42 (a) b (c) S 7 42 42 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 123456 9 9\n").unwrap();
        assert_eq!(
            stat,
            Stat { comm: b"a) b (c".to_vec(), parent: 7, kernel_thread: false, start_ticks: 123_456 }
        );
        assert!(
            parse_stat(b"2 (kthreadd) S 0 0 0 0 -1 2129984 0 0 0 0 0 0 0 0 20 0 1 0 3 0\n")
                .unwrap()
                .kernel_thread
        );
        for bad in ["", "1", "1 (", "1 )(", "1 (x) S 1", "1 (x) S x 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1"] {
            assert_eq!(parse_stat(bad.as_bytes()), None, "{bad:?}");
        }
    }

    #[test]
    fn arguments_are_split_and_a_cut_one_is_left_out() {
        let split = |bytes: &[u8], truncated| {
            split_arguments(bytes, truncated)
                .into_iter()
                .map(|a| String::from_utf8(a).unwrap())
                .collect::<Vec<_>>()
        };
        assert_eq!(split(b"a\0b\0", false), ["a", "b"]);
        assert_eq!(split(b"a\0\0b\0", false), ["a", "", "b"]);
        assert_eq!(split(b"a\0b", true), ["a"]);
        assert_eq!(split(b"a\0b\0", true), ["a", "b"]);
        assert_eq!(split(b"nginx: worker process\0\0\0\0", false), ["nginx: worker process"]);
        assert_eq!(split(b"", true), [""; 0]);
        assert_eq!(split(b"\0", false), [""; 0]);
    }

    #[test]
    fn starts_match_to_the_tick_and_across_a_suspend() {
        assert!(same_start(5_004_999_999, 500, 0));
        assert!(same_start(5_000_000_000, 500, 0));
        assert!(!same_start(5_000_000_000, 510, 0));
        assert!(!same_start(5_000_000_000, 490, 0));
        assert!(same_start(5_000_000_000, 510, 100_000_000));
        assert!(!same_start(5_000_000_000, 490, 100_000_000));
        assert!(!same_start(u64::MAX, 0, u64::MAX));
    }

    #[test]
    fn a_process_of_ours_is_read_whole() {
        let mut child = std::process::Command::new("/bin/sleep")
            .arg("60")
            .env_clear()
            .env("OTEL_SERVICE_NAME", "shop")
            .env("SECRET", "x")
            .current_dir("/usr")
            .spawn()
            .unwrap();
        // `spawn` may return in the middle of execve: the new program's memory is there, its arguments or its
        // environment are not yet.
        let patience = std::time::Instant::now() + std::time::Duration::from_secs(30);
        let snapshot = loop {
            match ProcFs::default().snapshot(child.id(), |_| true) {
                Ok(snapshot)
                    if (snapshot.cmdline.is_empty() || snapshot.declared.service_name.is_none())
                        && std::time::Instant::now() < patience =>
                {
                    std::thread::yield_now();
                }
                other => break other,
            }
        };
        let content = ProcFs::default().executable_content(child.id());
        let identity = ProcFs::default().executable_identity(child.id());
        child.kill().unwrap();
        child.wait().unwrap();
        let snapshot = snapshot.unwrap();
        assert_eq!(snapshot.cmdline, b"/bin/sleep\x0060\0");
        assert!(!snapshot.executable.is_empty());
        assert_eq!(snapshot.directory, b"/usr");
        assert_eq!(snapshot.declared.service_name.as_deref(), Some("shop"));
        assert_eq!(snapshot.stat.parent, std::process::id());
        assert!(!snapshot.denied);
        assert_eq!(content, Content::Native);
        assert!(identity.is_some());
        assert_eq!(ProcFs::default().snapshot(child.id(), |_| true), Err(ReadError::Gone));
    }

    #[test]
    fn a_process_that_is_not_the_one_meant_is_not_read() {
        assert_eq!(ProcFs::default().snapshot(std::process::id(), |_| false), Err(ReadError::Changed));
    }

    #[test]
    fn the_link_of_a_deleted_file_loses_what_the_kernel_added() {
        assert_eq!(without_deleted(b"/srv/shop (deleted)".to_vec()), b"/srv/shop");
        assert_eq!(without_deleted(b"/srv/shop".to_vec()), b"/srv/shop");
    }
}
