//! TLS sessions of traced processes: which of their libraries make them, and where their secrets are.
//!
//! ```text
//!   process ─ maps ─▶ libraries ─ Library::of (once a file) ─▶ plan for the kernel side
//!                                                          └▶ a probe where sessions begin (once a file)
//! ```
//! A library is read once, whoever maps it, and probed once: a probe covers the file, in all processes. It is taken off
//! half a minute after the last process that was seen with it has ended. Nothing here reads a secret.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::time::{Duration, Instant};

use aya::programs::uprobe::UProbeLink;
use spandrel_proto::tls::{KIND_PLACES, KIND_SLICES, NOWHERE, Plan, SLOTS};

use crate::discover::elf::Elf;
use crate::discover::go_tls::Go;
use crate::discover::maps::{self, FileKey, Maps};
use crate::discover::openssl::Library;
use crate::intake::Kernel;
use crate::log;
use crate::tls::Version;

/// Files that are remembered. Beyond, no further library is looked into, which is counted.
const MAX_FILES: usize = 4096;

/// How long a file's probe stays when the last process that was seen with it has ended.
const KEPT: Duration = Duration::from_secs(30);

/// The books.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Ledger {
    /// Looks at processes.
    pub looked: u64,
    /// Of these, those that found a library whose secrets can be read.
    pub planned: u64,
    /// Of these, those that found none.
    pub without: u64,
    /// Probes at work, in files.
    pub probed: u64,
    /// Libraries that could not be read or probed.
    pub failed: u64,
}

/// What is known of files and processes.
#[derive(Debug, Default)]
pub struct Sessions {
    files: HashMap<FileKey, File>,
    /// Processes with a plan, and the file that it is for.
    processes: HashMap<u32, FileKey>,
    ledger: Ledger,
}

/// What makes sessions.
#[derive(Debug)]
enum Maker {
    OpenSsl(Library),
    Go(Go),
}

impl Maker {
    fn name(&self) -> &'static str {
        match self {
            Self::OpenSsl(library) => library.kind,
            Self::Go(_) => "Go's crypto/tls",
        }
    }

    /// Whether it is known where it keeps the secrets of this version.
    fn reads(&self, version: Option<Version>) -> bool {
        match (self, version) {
            (Self::Go(_), version) => version != Some(Version::Tls12),
            (Self::OpenSsl(library), Some(Version::Tls13)) => library.traffic != [NOWHERE; 2],
            (Self::OpenSsl(library), Some(Version::Tls12)) => library.master != NOWHERE,
            (Self::OpenSsl(_), None) => true,
        }
    }

    fn begins(&self) -> &[u64] {
        match self {
            Self::OpenSsl(library) => &library.begins,
            Self::Go(_) => &[],
        }
    }
}

#[derive(Debug, Default)]
struct File {
    library: Option<Maker>,
    users: usize,
    /// When the last of them ended.
    left: Option<Instant>,
    probes: Vec<UProbeLink>,
}

impl Sessions {
    /// Looks at a process, unless it has a plan. True if it has one now.
    pub fn look(&mut self, pid: u32, kernel: &mut Kernel) -> bool {
        if self.processes.contains_key(&pid) {
            return true;
        }
        self.ledger.looked += 1;
        let Ok(maps) = Maps::of(pid) else { return false };
        let Some((key, mapping)) =
            maps.programs().filter(|(_, mapping)| may_be_library(&maps, mapping)).find(|(key, mapping)| {
                if let Entry::Vacant(entry) = self.files.entry(*key) {
                    let library = read(pid, mapping);
                    if let Some(library) = &library {
                        log::debug(format_args!(
                            "TLS: {} of process {pid} is {}",
                            String::from_utf8_lossy(&mapping.path),
                            library.name()
                        ));
                    }
                    entry.insert(File { library, ..File::default() });
                }
                self.files.get(key).is_some_and(|file| file.library.is_some())
            })
        else {
            self.ledger.without += 1;
            if self.files.len() > MAX_FILES {
                self.files.retain(|_, file| file.users > 0);
            }
            return false;
        };
        let Some(file) = self.files.get_mut(&key) else { return false };
        let Some(library) = &file.library else { return false };
        let (start, end) = maps
            .of_file(key)
            .fold((u64::MAX, 0), |(start, end), mapping| (start.min(mapping.start), end.max(mapping.end)));
        if !kernel.plan_sessions(pid, &plan(library, start..end)) {
            self.ledger.failed += 1;
            return false;
        }
        file.users += 1;
        file.left = None;
        self.processes.insert(pid, key);
        self.ledger.planned += 1;
        if file.probes.is_empty() {
            let path = format!("/proc/{pid}/map_files/{:x}-{:x}", mapping.start, mapping.end);
            for &offset in library.begins() {
                match kernel.probe_sessions(&path, offset) {
                    Ok(link) => file.probes.push(link),
                    Err(error) => {
                        self.ledger.failed += 1;
                        log::warn(format_args!(
                            "TLS sessions of {} will be seen less often: a probe at {offset:#x} was refused: {error:#}",
                            String::from_utf8_lossy(&mapping.path)
                        ));
                    }
                }
            }
            self.ledger.probed += u64::from(!file.probes.is_empty());
        }
        true
    }

    /// A process has ended.
    pub fn exited(&mut self, pid: u32, kernel: &mut Kernel) {
        kernel.forget_sessions(pid);
        let Some(key) = self.processes.remove(&pid) else { return };
        let Some(file) = self.files.get_mut(&key) else { return };
        file.users = file.users.saturating_sub(1);
        if file.users == 0 {
            file.left = Some(Instant::now());
        }
    }

    /// Takes probes off that nobody has used for some time: of programs that come and go, each would be too late for its first
    /// session.
    pub fn sweep(&mut self) {
        for file in self.files.values_mut() {
            if file.probes.is_empty() || file.left.is_none_or(|left| left.elapsed() < KEPT) {
                continue;
            }
            let probes = std::mem::take(&mut file.probes);
            self.ledger.probed = self.ledger.probed.saturating_sub(1);
            // The kernel takes a tenth of a second for each; without a thread, it is done here.
            let _ =
                std::thread::Builder::new().name("spandrel-unprobe".to_owned()).spawn(move || drop(probes));
        }
    }

    /// Whether a process's sessions of this version are looked into at their calls.
    pub fn has_plan(&self, pid: u32, version: Option<Version>) -> bool {
        let file = self.processes.get(&pid).and_then(|key| self.files.get(key));
        file.and_then(|file| file.library.as_ref()).is_some_and(|maker| maker.reads(version))
    }

    /// Whether there is a process whose sessions are looked into: without one, no secret is found.
    pub fn has_plans(&self) -> bool {
        !self.processes.is_empty()
    }

    /// The books.
    pub fn ledger(&self) -> Ledger {
        self.ledger
    }
}

/// What `check` says of a process's TLS.
pub fn describe(pid: u32) -> &'static str {
    let Ok(maps) = Maps::of(pid) else { return "not known: its memory map cannot be read" };
    let readable = maps.programs().filter(|(_, mapping)| may_be_library(&maps, mapping));
    if let Some(maker) = readable.filter_map(|(_, mapping)| read(pid, mapping)).next() {
        return match maker {
            Maker::OpenSsl(library) if library.traffic[0] == NOWHERE => {
                "1.2 only, by the keys of its sessions: this build of OpenSSL is not known"
            }
            Maker::OpenSsl(_) => "of OpenSSL, read by the keys of its sessions",
            Maker::Go(_) => {
                "of Go, read by the keys of its sessions: 1.2 by a search for the key of AES (--tls-search)"
            }
        };
    }
    let has = |part: &str| {
        maps.iter().any(|mapping| mapping.path.windows(part.len()).any(|window| window == part.as_bytes()))
    };
    match () {
        () if has("libgnutls") => {
            "of GnuTLS: by a search for the keys of each session, 1.2 with AES-GCM only (--tls-search)"
        }
        () if has("libnss3") => "of NSS: not read",
        () if has("libjvm") => {
            "of Java, if it has any: by a search for the keys of each session, with AES-GCM (--tls-search)"
        }
        () => {
            "none that is known; what is linked in without symbols (rustls, BoringSSL): by a search for the keys of each session, 1.2 with AES-GCM only (--tls-search)"
        }
    }
}

/// Whether a file is worth reading: a library by its name, or the program itself, which may hold one.
fn may_be_library(maps: &Maps, mapping: &maps::Mapping) -> bool {
    let name = mapping.path.rsplit(|&byte| byte == b'/').next().unwrap_or_default();
    let named = |part: &[u8]| name.windows(part.len()).any(|window| window == part);
    let first = maps.iter().find_map(maps::Mapping::file);
    named(b"ssl") || named(b"node") || (first.is_some() && mapping.file() == first)
}

fn read(pid: u32, mapping: &maps::Mapping) -> Option<Maker> {
    let elf = Elf::open(maps::open(pid, mapping).ok()?).ok()?;
    Go::of(&elf).map(Maker::Go).or_else(|| Library::of(&elf).map(Maker::OpenSsl))
}

fn plan(maker: &Maker, code: std::ops::Range<u64>) -> Plan {
    match maker {
        Maker::OpenSsl(library) => Plan {
            guarded: [code.start, code.end],
            guard: 8,
            random_base: library.random_base,
            random: library.random,
            traffic: library.traffic,
            master_base: library.master_base,
            master: library.master,
            slots: slots(library),
            kind: KIND_PLACES,
        },
        Maker::Go(go) => Plan {
            guarded: [0; 2],
            guard: NOWHERE,
            random_base: NOWHERE,
            random: NOWHERE,
            traffic: go.traffic,
            master_base: NOWHERE,
            master: NOWHERE,
            // The kernel side looks for them, once a program.
            slots: [0; SLOTS],
            kind: KIND_SLICES,
        },
    }
}

/// Distances measured between the stack pointer at a socket call and the session, in programs with one thread and
/// with several (glibc's cancellable calls take 40 bytes more).
fn slots(library: &Library) -> [u32; SLOTS] {
    match (library.random_base, library.random) {
        (NOWHERE, 0x160) => [200, 192, 240, 232, 0, 0],
        _ => [0; SLOTS],
    }
}
