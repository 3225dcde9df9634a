//! TLS sessions of traced processes: which of their libraries make them, and where their secrets are.
//!
//! ```text
//!   process ─ maps ─▶ libraries ─ Library::of (once a file) ─▶ plan for the kernel side
//!                                                          └▶ a probe where sessions begin (once a file)
//! ```
//! A library is read once, whoever maps it, and probed once: a probe covers the file, in all processes. It is taken off
//! half a minute after the last process that was seen with it has ended. Where a search has found what no library is known
//! for, the way to it is learned (`discover::paths`), once a program. Nothing here reads a secret.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::os::fd::AsRawFd as _;
use std::time::{Duration, Instant};

use aya::programs::uprobe::UProbeLink;
use spandrel_proto::tls::{
    KIND_BLOCKS, KIND_CLEAR, KIND_PLACES, KIND_SLICES, NOWHERE, OF_GO, PATHS, Path, Plan, SLOTS,
};

use crate::discover::elf::Elf;
use crate::discover::go_tls::Go;
use crate::discover::maps::{self, FileKey, Maps};
use crate::discover::memory::ProcessMemory;
use crate::discover::openssl::Library;
use crate::discover::paths::Lesson;
use crate::discover::plaintext::Functions;
use crate::discover::proc::is_meant;
use crate::discover::tls_modes::Mode;
use crate::identity::{ConnectionId, Monotonic, ProcessKey};
use crate::intake::Kernel;
use crate::tls::Version;
use crate::{clock, log};

/// Files that are remembered. Beyond, no further library is looked into, which is counted.
const MAX_FILES: usize = 4096;

/// How long a process is not looked at again in which nothing was found, unless it may have loaded something.
const PAUSE: Duration = Duration::from_millis(100);

/// How often a file's probes may be refused before it is left alone.
const MAX_REFUSED: usize = 8;

/// Processes of which something is learned at once.
const MAX_LESSONS: usize = 16;
/// How often something is learned of a program: as a server, as a client, and once more.
const LESSONS: usize = 4;

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
    /// Times that a program's ways from the stack to secrets were learned.
    pub learned: u64,
}

/// What is known of files and processes.
#[derive(Debug, Default)]
pub struct Sessions {
    files: HashMap<Used, File>,
    /// Processes with a plan, the files that it is for, and since when it is complete for each, probes included.
    processes: HashMap<u32, Vec<(Used, Monotonic)>>,
    /// Processes whose stacks are looked at.
    lessons: HashMap<u32, (ProcessKey, Lesson)>,
    /// When those without one were looked at last.
    without: HashMap<u32, Instant>,
    ledger: Ledger,
}

/// A file, and how the sessions are read that its code makes.
type Used = (FileKey, Mode);

/// What makes sessions.
#[derive(Debug)]
enum Maker {
    OpenSsl(Library),
    Go(Go),
    Clear(Functions),
    /// A program of which a search has found, and stacks have told, where the secrets lie.
    Blocks(Vec<Path>),
}

impl Maker {
    fn name(&self) -> &'static str {
        match self {
            Self::OpenSsl(library) => library.kind,
            Self::Go(_) => "Go's crypto/tls",
            Self::Clear(functions) => functions.kind,
            Self::Blocks(_) => "what keeps secrets as rustls does",
        }
    }

    /// Whether it is known where it keeps the secrets of this version.
    fn reads(&self, version: Option<Version>) -> bool {
        match (self, version) {
            (Self::Go(_), version) => version != Some(Version::Tls12),
            // What was learned of a server does not hold for the same program as a client: nothing may wait for it.
            (Self::Blocks(_), _) => false,
            (Self::OpenSsl(library), Some(Version::Tls13)) => library.traffic != [NOWHERE; 2],
            (Self::OpenSsl(library), Some(Version::Tls12)) => library.master != NOWHERE,
            (Self::OpenSsl(_), None) | (Self::Clear(_), _) => true,
        }
    }

    /// What is probed, in this order: kernel programs and offsets in the file.
    fn probes(&self) -> Vec<(&'static str, u64)> {
        match self {
            Self::OpenSsl(library) => library.begins.iter().map(|at| ("session_begun", *at)).collect(),
            Self::Go(_) | Self::Blocks(_) => Vec::new(),
            Self::Clear(functions) => functions.probes.clone(),
        }
    }

    /// What is set in the key of a plan for it.
    fn library(&self) -> u32 {
        match self {
            Self::OpenSsl(_) | Self::Go(_) | Self::Blocks(_) => 0,
            Self::Clear(functions) => functions.library,
        }
    }

    /// Whether some of the probes are of no use without the others.
    fn needs_all(&self) -> bool {
        matches!(self, Self::Clear(_))
    }
}

#[derive(Debug, Default)]
struct File {
    library: Option<Maker>,
    /// To probe it by: a process and its mappings may be gone by then.
    opened: Option<std::fs::File>,
    users: usize,
    /// When the last of them ended.
    left: Option<Instant>,
    probes: Vec<UProbeLink>,
    /// How often they were refused.
    refused: usize,
    /// How often something was learned of it.
    lessons: usize,
}

impl Sessions {
    /// Looks at a process whose sessions are to be read in this way, unless it has a plan. True if it has one now.
    pub fn look(&mut self, pid: u32, mode: Mode, kernel: &mut Kernel) -> bool {
        if mode == Mode::Off {
            return false;
        }
        if self.processes.contains_key(&pid) {
            return true;
        }
        // It begins sessions all the time, perhaps, and what it has loaded takes a moment to find out.
        if self.without.get(&pid).is_some_and(|looked| looked.elapsed() < PAUSE) {
            return false;
        }
        self.look_anew(pid, mode, kernel)
    }

    fn look_anew(&mut self, pid: u32, mode: Mode, kernel: &mut Kernel) -> bool {
        self.ledger.looked += 1;
        let found = self.look_for_more(pid, mode, kernel);
        if found {
            self.without.remove(&pid);
        } else {
            if self.without.len() >= MAX_FILES {
                self.without.clear();
            }
            self.without.insert(pid, Instant::now());
        }
        found
    }

    /// Looks at a process that may have loaded a library since the last look.
    pub fn look_again(&mut self, pid: u32, mode: Mode, kernel: &mut Kernel) {
        match self.processes.contains_key(&pid) {
            true if mode == Mode::Probes => _ = self.look_for_more(pid, mode, kernel),
            false if mode != Mode::Off => _ = self.look_anew(pid, mode, kernel),
            _ => {}
        }
    }

    /// Has the kernel side look into the sessions of libraries that a process has and no plan yet. True if it has one now.
    fn look_for_more(&mut self, pid: u32, mode: Mode, kernel: &mut Kernel) -> bool {
        let known = self.processes.get(&pid).cloned().unwrap_or_default();
        let Ok(maps) = Maps::of(pid) else { return false };
        let mut chosen: Vec<(Used, &maps::Mapping)> = Vec::new();
        let mut files: Vec<_> =
            maps.programs().filter(|(_, mapping)| may_be_library(&maps, mapping)).collect();
        // Of keys a process has one plan. What has both OpenSSL and GnuTLS (curl, whose librtmp brings it) speaks by the former.
        files.sort_by_key(|(_, mapping)| memchr::memmem::find(&mapping.path, b"gnutls").is_some());
        for (file, mapping) in files {
            let key = (file, mode);
            if let Entry::Vacant(entry) = self.files.entry(key) {
                let (library, opened) = read(pid, mapping, mode).unzip();
                if let Some(library) = &library {
                    log::debug(format_args!(
                        "TLS: {} of process {pid} is {}",
                        String::from_utf8_lossy(&mapping.path),
                        library.name()
                    ));
                }
                let probed = library.as_ref().is_some_and(|library| !library.probes().is_empty());
                entry.insert(File { library, opened: opened.filter(|_| probed), ..File::default() });
            }
            let made = |key: &Used| self.files.get(key).and_then(|file| file.library.as_ref());
            // Of each library one: a plan is for one build of it.
            if let Some(library) = made(&key)
                && !known.iter().any(|(other, _)| made(other).map(Maker::library) == Some(library.library()))
                && !chosen.iter().any(|(other, _)| made(other).map(Maker::library) == Some(library.library()))
            {
                chosen.push((key, mapping));
            }
        }
        if chosen.is_empty() && !known.is_empty() {
            return true;
        }
        if chosen.is_empty() {
            self.ledger.without += 1;
            if self.files.len() > MAX_FILES {
                self.files.retain(|_, file| file.users > 0);
            }
            return false;
        }
        // What is probed already takes no time; each other probe takes the kernel some ten milliseconds.
        chosen.sort_by_key(|(key, _)| self.files.get(key).is_some_and(|file| file.probes.is_empty()));
        let mut served = Vec::new();
        for (key, mapping) in chosen {
            if self.serve(pid, &maps, (key, mapping), kernel) {
                served.push((key, clock::monotonic()));
            }
        }
        if served.is_empty() {
            return !known.is_empty();
        }
        self.ledger.planned += u64::from(known.is_empty());
        served.extend(known);
        self.processes.insert(pid, served);
        true
    }

    /// Has the kernel side look into the sessions that this library makes in this process.
    fn serve(
        &mut self,
        pid: u32,
        maps: &Maps,
        (key, mapping): (Used, &maps::Mapping),
        kernel: &mut Kernel,
    ) -> bool {
        let Some(file) = self.files.get_mut(&key) else { return false };
        let Some(library) = &file.library else { return false };
        let (start, end) = maps
            .of_file(key.0)
            .fold((u64::MAX, 0), |(start, end), mapping| (start.min(mapping.start), end.max(mapping.end)));
        if !kernel.plan_sessions(pid | library.library(), &plan(library, start..end)) {
            self.ledger.failed += 1;
            return false;
        }
        if let (true, Some(opened)) = (file.probes.is_empty(), &file.opened) {
            let path = format!("/proc/self/fd/{}", opened.as_raw_fd());
            for (program, offset) in library.probes() {
                match kernel.probe_library(program, &path, offset) {
                    Ok(link) => file.probes.push(link),
                    Err(error) => {
                        self.ledger.failed += 1;
                        log::warn(format_args!(
                            "TLS sessions of {} will be seen less often: a probe at {offset:#x} was refused: {error:#}",
                            String::from_utf8_lossy(&mapping.path)
                        ));
                        if library.needs_all() {
                            unprobe(std::mem::take(&mut file.probes));
                            file.refused += 1;
                            if file.refused >= MAX_REFUSED {
                                file.library = None;
                            }
                            return false;
                        }
                    }
                }
            }
            self.ledger.probed += u64::from(!file.probes.is_empty());
        }
        file.users += 1;
        file.left = None;
        true
    }

    /// A search has found secrets of a process's connection at these places, and they have opened it: the stacks of its calls may
    /// tell where those of others lie.
    pub fn found(
        &mut self,
        process: ProcessKey,
        connection: ConnectionId,
        places: &[u64],
        kernel: &mut Kernel,
    ) {
        let pid = process.pid;
        if !self.lessons.contains_key(&pid) {
            if self.lessons.len() >= MAX_LESSONS {
                return;
            }
            let Some(file) = program(pid).and_then(|key| self.files.get_mut(&key)) else { return };
            let paths = match &file.library {
                None => [Path::default(); PATHS],
                Some(Maker::Blocks(known)) => paths(known),
                Some(_) => return,
            };
            let plan = Plan { kind: KIND_BLOCKS, paths, sampled: 1, ..NOTHING };
            if file.lessons >= LESSONS || !kernel.plan_sessions(pid, &plan) {
                return;
            }
            file.lessons += 1;
            self.lessons.insert(pid, (process, Lesson::default()));
        }
        if let Some((_, lesson)) = self.lessons.get_mut(&pid) {
            lesson.found(connection, places);
        }
    }

    /// Looks at stacks of processes of which something may be learned.
    pub fn learn(&mut self, kernel: &mut Kernel) {
        if self.lessons.is_empty() {
            return;
        }
        let lessons = &mut self.lessons;
        kernel.take_stacks(&mut |stack| {
            if let Some((process, lesson)) = lessons.get_mut(&stack.pid)
                && let Some(memory) = ProcessMemory::of(stack.pid).filter(|_| is_meant(*process))
            {
                lesson.stack(stack, &memory);
            }
        });
        let learned = lessons.iter().filter_map(|(pid, (_, lesson))| Some((*pid, lesson.learned()?)));
        for (pid, paths) in learned.collect::<Vec<_>>() {
            self.lessons.remove(&pid);
            self.learned(pid, paths, kernel);
        }
    }

    /// From now on these paths lead to the secrets of this process's sessions, and of others of the same program.
    fn learned(&mut self, pid: u32, learned: Vec<Path>, kernel: &mut Kernel) {
        log::debug(format_args!("TLS: of process {pid} was learned: {learned:?}"));
        let key = program(pid);
        let Some((key, file)) = key.and_then(|key| Some((key, self.files.get_mut(&key)?))) else { return };
        self.ledger.learned += u64::from(!learned.is_empty());
        let mut all = match file.library.take() {
            Some(Maker::Blocks(known)) => known,
            _ => Vec::new(),
        };
        all.extend(learned.into_iter().filter(|path| !all.contains(path)).collect::<Vec<_>>());
        if all.is_empty() {
            return kernel.forget_sessions(pid);
        }
        let library = Maker::Blocks(all);
        if kernel.plan_sessions(pid, &plan(&library, 0..0))
            && let Entry::Vacant(entry) = self.processes.entry(pid)
        {
            entry.insert(vec![(key, clock::monotonic())]);
            (file.users, file.left) = (file.users + 1, None);
        }
        file.library = Some(library);
    }

    /// Since when a process's sessions of this library are looked into, with all that is needed for it.
    pub fn since(&self, pid: u32, library: u32) -> Option<Monotonic> {
        let of_library = |key: &Used| {
            let made = self.files.get(key).and_then(|file| file.library.as_ref());
            made.is_some_and(|maker| maker.library() == library)
        };
        self.processes.get(&pid)?.iter().find(|(key, _)| of_library(key)).map(|(_, since)| *since)
    }

    /// A process has ended.
    pub fn exited(&mut self, pid: u32, kernel: &mut Kernel) {
        kernel.forget_sessions(pid);
        self.lessons.remove(&pid);
        self.without.remove(&pid);
        let Some(keys) = self.processes.remove(&pid) else { return };
        if keys.iter().any(|((_, mode), _)| *mode == Mode::Probes) {
            kernel.forget_clear_process(pid);
        }
        for (key, _) in keys {
            let Some(file) = self.files.get_mut(&key) else { continue };
            file.users = file.users.saturating_sub(1);
            if file.users == 0 {
                file.left = Some(Instant::now());
            }
        }
    }

    /// Takes probes off that nobody has used for some time: of programs that come and go, each would be too late for its first
    /// session.
    pub fn sweep(&mut self) {
        let ledger = &mut self.ledger;
        self.files.retain(|_, file| {
            if file.probes.is_empty() || file.left.is_none_or(|left| left.elapsed() < KEPT) {
                return true;
            }
            ledger.probed = ledger.probed.saturating_sub(1);
            unprobe(std::mem::take(&mut file.probes));
            // It is read again for whoever uses it next; until then nothing keeps it open.
            false
        });
    }

    /// Whether a process's sessions of this version are looked into at their calls.
    pub fn has_plan(&self, pid: u32, version: Option<Version>) -> bool {
        let files = self.processes.get(&pid).into_iter().flatten().filter_map(|(key, _)| self.files.get(key));
        files.filter_map(|file| file.library.as_ref()).any(|maker| maker.reads(version))
    }

    /// Whether there is a process whose sessions' keys are looked for: without one, none is found.
    pub fn takes_keys(&self) -> bool {
        let planned = self.processes.values().flatten().any(|((_, mode), _)| *mode == Mode::Keys);
        planned || !self.lessons.is_empty()
    }

    /// The books.
    pub fn ledger(&self) -> Ledger {
        self.ledger
    }
}

/// Takes probes off, for which the kernel takes a tenth of a second each; without a thread, it is done here.
fn unprobe(probes: Vec<UProbeLink>) {
    if !probes.is_empty() {
        let _ = std::thread::Builder::new().name("spandrel-unprobe".to_owned()).spawn(move || drop(probes));
    }
}

/// What `check` says of a process's TLS.
pub fn describe(pid: u32, mode: Mode) -> &'static str {
    if mode == Mode::Off {
        return "not read (--tls, --tls-for)";
    }
    let Ok(maps) = Maps::of(pid) else { return "not known: its memory map cannot be read" };
    let readable = maps.programs().filter(|(_, mapping)| may_be_library(&maps, mapping));
    if let Some(maker) =
        readable.filter_map(|(_, mapping)| read(pid, mapping, mode)).map(|(maker, _)| maker).next()
    {
        return match maker {
            Maker::Clear(functions) if functions.library == 0 => "of OpenSSL, read by probes at its calls",
            Maker::Clear(functions) if functions.library == OF_GO => {
                "of Go, read by probes at the calls of crypto/tls.Conn"
            }
            Maker::Clear(_) => "of GnuTLS, read by probes at its calls",
            Maker::OpenSsl(library) if library.is_gnutls() => {
                "of GnuTLS, read by the keys of its sessions: 1.2 by a search for the key of AES (--tls-search)"
            }
            Maker::OpenSsl(library) if library.traffic[0] == NOWHERE => {
                "1.2 only, by the keys of its sessions: this build of OpenSSL is not known"
            }
            Maker::OpenSsl(_) => "of OpenSSL, read by the keys of its sessions",
            Maker::Blocks(_) => "read by the keys of its sessions",
            Maker::Go(_) => {
                "of Go, read by the keys of its sessions: 1.2 by a search for the key of AES (--tls-search)"
            }
        };
    }
    if mode == Mode::Probes {
        return "none that probes read: they read OpenSSL and GnuTLS, as libraries or with their symbols, and Go";
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
    named(b"ssl") || named(b"gnutls") || named(b"node") || (first.is_some() && mapping.file() == first)
}

fn read(pid: u32, mapping: &maps::Mapping, mode: Mode) -> Option<(Maker, std::fs::File)> {
    let opened = maps::open(pid, mapping).ok()?;
    let again = opened.try_clone().ok()?;
    maker(&Elf::open(opened).ok()?, mode).map(|maker| (maker, again))
}

fn maker(elf: &Elf, mode: Mode) -> Option<Maker> {
    if mode == Mode::Probes {
        return Functions::of(elf).map(Maker::Clear);
    }
    Go::of(elf).map(Maker::Go).or_else(|| Library::of(elf).map(Maker::OpenSsl))
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
            ..NOTHING
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
            ..NOTHING
        },
        Maker::Blocks(known) => Plan { kind: KIND_BLOCKS, paths: paths(known), ..NOTHING },
        Maker::Clear(functions) => Plan {
            guard: functions.polled,
            random_base: functions.random_base,
            random: functions.random,
            kind: KIND_CLEAR,
            party: functions.party,
            parties: functions.parties,
            ..NOTHING
        },
    }
}

/// A plan by which nothing is found.
const NOTHING: Plan = Plan {
    guarded: [0; 2],
    guard: NOWHERE,
    random_base: NOWHERE,
    random: NOWHERE,
    traffic: [NOWHERE; 2],
    master_base: NOWHERE,
    master: NOWHERE,
    slots: [0; SLOTS],
    kind: KIND_PLACES,
    party: NOWHERE,
    parties: [0; 2],
    torn: 0,
    sampled: 0,
    paths: [Path { slot: 0, step: 0, secrets: 0 }; PATHS],
    reserved: 0,
};

/// The file that a process runs, whose sessions are read by their keys.
fn program(pid: u32) -> Option<Used> {
    Some((Maps::of(pid).ok()?.iter().find_map(maps::Mapping::file)?, Mode::Keys))
}

fn paths(known: &[Path]) -> [Path; PATHS] {
    let mut paths = [Path::default(); PATHS];
    for (to, from) in paths.iter_mut().zip(known) {
        *to = *from;
    }
    paths
}

/// Distances measured between the stack pointer at a socket call and the session, in programs with one thread and
/// with several (glibc's cancellable calls take 40 bytes more).
fn slots(library: &Library) -> [u32; SLOTS] {
    match (library.random_base, library.random) {
        (NOWHERE, 0x160) => [200, 192, 240, 232, 0, 0],
        _ => [0; SLOTS],
    }
}
