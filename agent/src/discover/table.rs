//! The process table: kernel records in, a resource per process out.
//! ```text
//!            exec, fork                        another exec behind the same pid, exit
//!   ─────▶ live ──────────────────────────▶ ended ──▶ forgotten: after MAX_AGE (UNASKED_AGE if nobody asked), beyond MAX_ENDED
//!            │ resource(), on first use
//!            ▼
//!   described by: its image (a fork's parent) · the start-up scan · /proc, if it still is this process
//!                 · its exec record · nothing
//! ```
//! A process met through a data record only (it started before the agent) is resolved when it is asked for. It
//! must never take what `/proc` says of a pid for what a key means without comparing start times and programs,
//! nor hold more than [`MAX_PROCESSES`] processes.
//!
//! Times: a key's start is `CLOCK_MONOTONIC`, `/proc`'s is `CLOCK_BOOTTIME` in ticks; see
//! [`proc::same_start`]. The exec count of a key is in no file of `/proc`, so a program that replaced another
//! within one process is told by the records' order and by its arguments.

use std::collections::{HashSet, VecDeque};
use std::sync::{Arc, OnceLock};

use foldhash::{HashMap, HashMapExt as _};

use super::Resource;
use super::cgroup::Membership;
use super::command;
use super::containers::{CgroupTree, Containers};
use super::environment::Declared;
use super::naming::{self, MAX_SERVICE_NAME, ProcessFacts};
use super::proc::{self, FileIdentity, ProcFs, ReadError, Snapshot, Stat};
use super::resource::{self, Description, Host};
use super::runtime::{Content, Runtime};
use super::select::{Candidate, Selection, Verdict};
use super::serving::Serving;
use super::text::{base_name, harmless};
use super::tls_modes::{Mode, Modes};
use crate::identity::{Monotonic, ProcessKey};

/// What the kernel's record of an `execve` says.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ExecFacts {
    /// The process, its exec count that of the new program.
    pub key: ProcessKey,
    /// What was executed: for a script, the script.
    pub filename: Vec<u8>,
    /// The first [`RECORDED_ARGV`] bytes of the arguments, each ended by NUL.
    pub argv: Vec<u8>,
    /// The id of its cgroup in the unified hierarchy; 0 if not known.
    pub cgroup_id: u64,
    /// When.
    pub time: Monotonic,
}

/// All processes that may appear in a trace.
#[derive(Debug)]
pub struct ProcessTable {
    proc: ProcFs,
    host: Host,
    containers: Containers,
    cgroups: CgroupTree,
    /// A name for the one process that was selected (the agent's own `OTEL_SERVICE_NAME`).
    name: Option<String>,
    entries: HashMap<ProcessKey, Entry>,
    /// The key that a live pid has now.
    current: HashMap<u32, ProcessKey>,
    /// Entries that ended a moment ago, in the order in which they ended.
    ended: VecDeque<(Monotonic, ProcessKey)>,
    /// Those that ended [`UNASKED_AGE`] ago and that somebody had asked for by then, likewise.
    asked: VecDeque<(Monotonic, ProcessKey)>,
    /// What the start-up scan found and no record has spoken of yet.
    scanned: HashMap<u32, (Stat, Arc<Description>)>,
    contents: HashMap<FileIdentity, Content>,
    /// The last time anything was said to happen.
    now: Monotonic,
    swept: Monotonic,
    ledger: Ledger,
}

/// What became of processes and of questions about them.
///
/// `met = held + ended_by_age + ended_by_count + vanished + displaced`, and
/// `resolved = by_image + by_scan + by_proc + by_record + unnamed`.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Ledger {
    /// Keys entered into the table.
    pub met: u64,
    /// Keys in it now.
    pub held: u64,
    /// Forgotten [`MAX_AGE`] after their end, or [`UNASKED_AGE`] if nobody had asked for them.
    pub ended_by_age: u64,
    /// Forgotten earlier, because more than [`MAX_ENDED`] had ended.
    pub ended_by_count: u64,
    /// Live in the table but not in `/proc`: their exit record was lost.
    pub vanished: u64,
    /// Live and forgotten for want of room; read from `/proc` again when asked for.
    pub displaced: u64,
    /// Processes that were given a resource.
    pub resolved: u64,
    /// From another process of the same image.
    pub by_image: u64,
    /// From the start-up scan.
    pub by_scan: u64,
    /// From `/proc`.
    pub by_proc: u64,
    /// From the exec record alone: gone, or another program by now.
    pub by_record: u64,
    /// From nothing: `unknown_service`.
    pub unnamed: u64,
    /// Looks at `/proc` that found no process.
    pub proc_gone: u64,
    /// Looks at `/proc` that found another process or program.
    pub proc_changed: u64,
    /// Looks at `/proc` that were refused, wholly or in part.
    pub proc_denied: u64,
    /// Processes found by the start-up scan.
    pub scanned: u64,
}

#[derive(Debug)]
struct Entry {
    image: Arc<Image>,
    ended: bool,
    /// Somebody wanted to know what it is, for what it did.
    asked: bool,
    resolved: Option<(Arc<Description>, Arc<Resource>)>,
}

/// A program as it was executed, shared by a process and those that it forked.
#[derive(Debug, Default)]
struct Image {
    record: Option<Record>,
    /// Filled by the first of them that could be looked up while it lived.
    described: OnceLock<Arc<Description>>,
}

#[derive(Debug)]
struct Record {
    filename: Box<[u8]>,
    argv: Box<[u8]>,
    cgroup_id: u64,
}

impl ProcessTable {
    /// A table for this machine.
    pub fn new() -> Self {
        Self::with(ProcFs::default(), Host::read(), Containers::below("/"), CgroupTree::of_host())
    }

    /// A table over other edges.
    pub fn with(proc: ProcFs, host: Host, containers: Containers, cgroups: CgroupTree) -> Self {
        Self {
            proc,
            host,
            containers,
            cgroups,
            name: None,
            entries: HashMap::new(),
            current: HashMap::new(),
            ended: VecDeque::new(),
            asked: VecDeque::new(),
            scanned: HashMap::new(),
            contents: HashMap::new(),
            now: Monotonic(0),
            swept: Monotonic(0),
            ledger: Ledger::default(),
        }
    }

    /// Calls every service by this name: for when one process was selected and the agent has
    /// `OTEL_SERVICE_NAME`.
    pub fn set_service_name(&mut self, name: &str) {
        self.name = Some(harmless(name.as_bytes(), MAX_SERVICE_NAME)).filter(|name| !name.is_empty());
    }

    /// Reads every process that runs now. Call it once, after the probes are attached, so that whatever starts
    /// or ends meanwhile has a record.
    pub fn scan(&mut self) -> std::io::Result<usize> {
        let mut continued = Vec::new();
        for pid in self.proc.pids(MAX_PROCESSES)? {
            // Most of what /proc lists on an idle machine are threads of the kernel's.
            if self.proc.stat(pid).is_ok_and(|stat| stat.kernel_thread) {
                continue;
            }
            let Ok(snapshot) = self.look(pid, |_| true) else { continue };
            if command::continues_parent(&proc::split_arguments(&snapshot.cmdline, false)) {
                continued.push((pid, snapshot.stat.parent));
            }
            let description = self.describe(pid, Some(&snapshot), None);
            self.scanned.insert(pid, (snapshot.stat, description));
        }
        // Pids mostly grow from parent to child; where they do not, a child of a child keeps its own name.
        continued.sort_unstable();
        for (pid, parent) in continued {
            let of_parent = self.scanned.get(&parent).map(|(_, description)| Arc::clone(description));
            if let (Some(description), Some(entry)) = (of_parent, self.scanned.get_mut(&pid)) {
                entry.1 = description;
            }
        }
        self.ledger.scanned = self.ledger.scanned.saturating_add(self.scanned.len() as u64);
        Ok(self.scanned.len())
    }

    /// A process executed another program.
    pub fn exec(&mut self, facts: ExecFacts) {
        let ExecFacts { key, filename, mut argv, cgroup_id, time } = facts;
        self.time(time);
        argv.truncate(RECORDED_ARGV);
        // A fork gave it its parent's image; a Python worker keeps that although it is executed anew.
        let before = self.current.get(&key.pid).filter(|before| before.started == key.started);
        let inherited =
            before.and_then(|before| self.entries.get(before)).map(|entry| Arc::clone(&entry.image));
        let continues = command::continues_parent(&proc::split_arguments(&argv, true));
        self.end_others(key, time);
        self.scanned.remove(&key.pid);
        if let Some(image) = inherited.filter(|_| continues) {
            return self.insert(key, image);
        }
        let record = Record { filename: filename.into(), argv: argv.into(), cgroup_id };
        self.insert(key, Arc::new(Image { record: Some(record), described: OnceLock::new() }));
    }

    /// A process made another one, which runs the same program.
    pub fn fork(&mut self, parent: ProcessKey, child: ProcessKey, time: Monotonic) {
        self.time(time);
        self.end_others(child, time);
        self.scanned.remove(&child.pid);
        let image = match self.entries.get(&parent) {
            Some(entry) => Arc::clone(&entry.image),
            None => self.adopt(parent),
        };
        self.insert(child, image);
    }

    /// A process ended. What it was stays known for a while.
    pub fn exit(&mut self, key: ProcessKey, time: Monotonic) {
        self.time(time);
        // Anything that was only scanned may still be asked for by records that are on their way.
        if !self.entries.contains_key(&key) && self.is_scanned(key) {
            self.adopt(key);
        }
        self.end(key, time);
        self.expire(time);
    }

    /// Forgets what ended too long ago. `exec`, `fork` and `exit` need no such call; time that passes without any does.
    pub fn expire(&mut self, now: Monotonic) {
        self.time(now);
        while let Some((ended, key)) = self.ended.front().copied()
            && self.now.since(ended) >= UNASKED_AGE
        {
            self.ended.pop_front();
            if self.entries.get(&key).is_some_and(|entry| entry.asked) {
                self.asked.push_back((ended, key));
            } else {
                self.forget(key, |ledger| &mut ledger.ended_by_age);
            }
        }
        while let Some((ended, key)) = self.asked.front().copied()
            && self.now.since(ended) >= MAX_AGE
        {
            self.asked.pop_front();
            self.forget(key, |ledger| &mut ledger.ended_by_age);
        }
        while self.ended.len() + self.asked.len() > MAX_ENDED
            && let Some(key) = self.first_ended()
        {
            self.forget(key, |ledger| &mut ledger.ended_by_count);
        }
    }

    /// Takes the one that ended first.
    fn first_ended(&mut self) -> Option<ProcessKey> {
        self.asked.pop_front().or_else(|| self.ended.pop_front()).map(|(_, key)| key)
    }

    fn forget(&mut self, key: ProcessKey, cause: impl Fn(&mut Ledger) -> &mut u64) {
        if self.entries.remove(&key).is_some() {
            let cause = cause(&mut self.ledger);
            *cause = cause.saturating_add(1);
        }
    }

    /// Looks at a process before it is asked for, while it is there.
    pub fn prepare(&mut self, key: ProcessKey) {
        self.resolve(key);
    }

    /// What this process says of itself. Reads `/proc` the first time, if nothing else knows.
    pub fn resource(&mut self, key: ProcessKey) -> Arc<Resource> {
        self.ask(key).1
    }

    /// How its threads serve.
    pub fn serving(&mut self, key: ProcessKey) -> Serving {
        self.ask(key).0.serving
    }

    /// Everything known of its program.
    pub fn description(&mut self, key: ProcessKey) -> Arc<Description> {
        self.ask(key).0
    }

    fn ask(&mut self, key: ProcessKey) -> (Arc<Description>, Arc<Resource>) {
        let resolved = self.resolve(key);
        if let Some(entry) = self.entries.get_mut(&key) {
            entry.asked = true;
        }
        resolved
    }

    /// What a selection says of it.
    pub fn verdict(&mut self, key: ProcessKey, selection: &Selection) -> Verdict {
        if selection.is_everything() {
            return Verdict::Selected;
        }
        selection.verdict(&candidate(key.pid, &self.resolve(key).0))
    }

    /// How its TLS is read.
    pub fn tls_mode(&mut self, key: ProcessKey, modes: &Modes) -> Mode {
        if modes.rules.is_empty() {
            return modes.usual;
        }
        modes.of(&candidate(key.pid, &self.resolve(key).0))
    }

    /// Every process that the start-up scan found and that is still only known by it, for `check` and for
    /// filling the kernel's filter: pid, description.
    pub fn scanned(&self) -> impl Iterator<Item = (u32, &Description)> {
        self.scanned.iter().map(|(pid, (_, description))| (*pid, description.as_ref()))
    }

    /// Reads one process by its pid, as `check --pid` does; it is not entered into the table.
    pub fn describe_pid(&mut self, pid: u32) -> Result<Arc<Description>, ReadError> {
        let snapshot = self.look(pid, |_| true)?;
        Ok(self.describe(pid, Some(&snapshot), None))
    }

    /// The books.
    pub fn ledger(&self) -> Ledger {
        Ledger { held: self.entries.len() as u64, ..self.ledger }
    }

    fn time(&mut self, time: Monotonic) {
        self.now = self.now.max(time);
    }

    /// Whatever else was behind this pid has ended: replaced by an exec, or its exit record was lost.
    fn end_others(&mut self, key: ProcessKey, time: Monotonic) {
        if let Some(other) = self.current.get(&key.pid).copied().filter(|other| *other != key) {
            self.end(other, time);
        }
    }

    fn end(&mut self, key: ProcessKey, time: Monotonic) {
        if self.current.get(&key.pid) == Some(&key) {
            self.current.remove(&key.pid);
        }
        if let Some(entry) = self.entries.get_mut(&key).filter(|entry| !entry.ended) {
            entry.ended = true;
            self.ended.push_back((time, key));
        }
    }

    fn is_scanned(&self, key: ProcessKey) -> bool {
        let suspended = proc::suspended_now();
        self.scanned
            .get(&key.pid)
            .is_some_and(|(stat, _)| proc::same_start(key.started, stat.start_ticks, suspended))
    }

    /// Enters a process that no record announced.
    fn adopt(&mut self, key: ProcessKey) -> Arc<Image> {
        let image = Arc::new(Image::default());
        if self.is_scanned(key)
            && let Some((_, description)) = self.scanned.remove(&key.pid)
        {
            let _ = image.described.set(description);
        }
        self.insert(key, Arc::clone(&image));
        // A key that is older than what the pid has now was ended by it.
        let newer = self
            .current
            .get(&key.pid)
            .copied()
            .filter(|other| (other.started, other.exec) > (key.started, key.exec));
        if newer.is_some() {
            self.end(key, self.now);
        } else {
            self.end_others(key, self.now);
            self.current.insert(key.pid, key);
        }
        image
    }

    fn insert(&mut self, key: ProcessKey, image: Arc<Image>) {
        if !self.entries.contains_key(&key) {
            self.make_room();
            self.ledger.met = self.ledger.met.saturating_add(1);
        }
        self.entries.insert(key, Entry { image, ended: false, asked: false, resolved: None });
        self.current.entry(key.pid).or_insert(key);
    }

    fn make_room(&mut self) {
        if self.entries.len() < MAX_PROCESSES {
            return;
        }
        self.sweep();
        if self.entries.len() < MAX_PROCESSES {
            return;
        }
        if let Some(key) = self.first_ended() {
            self.forget(key, |ledger| &mut ledger.ended_by_count);
        } else if let Some(key) = self.current.values().next().copied() {
            self.current.remove(&key.pid);
            self.forget(key, |ledger| &mut ledger.displaced);
        }
    }

    /// Forgets live entries whose process is gone although no record said so. Costs one listing of `/proc`, at
    /// most once in [`SWEEP_EVERY`].
    fn sweep(&mut self) {
        if self.now.since(self.swept) < SWEEP_EVERY {
            return;
        }
        self.swept = self.now;
        let Ok(pids) = self.proc.pids(usize::MAX) else { return };
        let alive: HashSet<u32> = pids.into_iter().collect();
        let before = self.entries.len();
        self.entries.retain(|key, entry| entry.ended || alive.contains(&key.pid));
        self.current.retain(|pid, _| alive.contains(pid));
        self.ledger.vanished = self.ledger.vanished.saturating_add((before - self.entries.len()) as u64);
    }

    fn resolve(&mut self, key: ProcessKey) -> (Arc<Description>, Arc<Resource>) {
        if let Some(resolved) = self.entries.get(&key).and_then(|entry| entry.resolved.clone()) {
            return resolved;
        }
        let scanned = !self.entries.contains_key(&key) && self.is_scanned(key);
        let image = match self.entries.get(&key) {
            Some(entry) => Arc::clone(&entry.image),
            None => self.adopt(key),
        };
        let (description, cause) = match image.described.get() {
            Some(description) if scanned => (Arc::clone(description), &mut self.ledger.by_scan),
            Some(description) => (Arc::clone(description), &mut self.ledger.by_image),
            None => self.look_up(key, &image),
        };
        *cause = cause.saturating_add(1);
        self.ledger.resolved = self.ledger.resolved.saturating_add(1);
        let resource = resource::resource(&description, key, &self.host, self.name.as_deref());
        let resolved = (description, resource);
        if let Some(entry) = self.entries.get_mut(&key) {
            entry.resolved = Some(resolved.clone());
        }
        resolved
    }

    /// Describes a process by `/proc` and its exec record, or by one of them.
    fn look_up(&mut self, key: ProcessKey, image: &Image) -> (Arc<Description>, &mut u64) {
        let live = self.entries.get(&key).is_some_and(|entry| !entry.ended);
        let suspended = if live { proc::suspended_now() } else { 0 };
        let snapshot = live
            .then(|| {
                self.look(key.pid, |stat| proc::same_start(key.started, stat.start_ticks, suspended)).ok()
            })
            .flatten();
        let same =
            |snapshot: &Snapshot| image.record.as_ref().is_none_or(|record| same_program(record, snapshot));
        match snapshot {
            Some(snapshot) if same(&snapshot) => {
                let description = self.describe(key.pid, Some(&snapshot), image.record.as_ref());
                let _ = image.described.set(Arc::clone(&description));
                (description, &mut self.ledger.by_proc)
            }
            other => {
                if other.is_some() {
                    self.ledger.proc_changed = self.ledger.proc_changed.saturating_add(1);
                }
                let description = self.describe(key.pid, None, image.record.as_ref());
                let cause = match image.record {
                    Some(_) => &mut self.ledger.by_record,
                    None => &mut self.ledger.unnamed,
                };
                (description, cause)
            }
        }
    }

    /// One look at `/proc`, counted.
    fn look(&mut self, pid: u32, is_meant: impl FnOnce(&Stat) -> bool) -> Result<Snapshot, ReadError> {
        let snapshot = self.proc.snapshot(pid, is_meant);
        let cause = match &snapshot {
            Ok(snapshot) if snapshot.denied => &mut self.ledger.proc_denied,
            Ok(_) => return snapshot,
            Err(ReadError::Gone) => &mut self.ledger.proc_gone,
            Err(ReadError::Changed) => &mut self.ledger.proc_changed,
            Err(ReadError::Denied) => &mut self.ledger.proc_denied,
        };
        *cause = cause.saturating_add(1);
        snapshot
    }

    fn describe(
        &mut self,
        pid: u32,
        snapshot: Option<&Snapshot>,
        record: Option<&Record>,
    ) -> Arc<Description> {
        let none = (Membership::default(), Declared::default());
        let (membership, declared) = match snapshot {
            Some(snapshot) => (snapshot.membership.clone(), &snapshot.declared),
            None => {
                let id = record.map_or(0, |record| record.cgroup_id);
                (self.cgroups.membership(id).unwrap_or(none.0), &none.1)
            }
        };
        let container = membership
            .container_name
            .clone()
            .or_else(|| membership.container.as_deref().and_then(|id| self.containers.name(id)));
        let facts = ProcessFacts {
            executable: snapshot.map(|snapshot| snapshot.executable.clone()).unwrap_or_default(),
            filename: record.map(|record| record.filename.to_vec()).unwrap_or_default(),
            argv: arguments(snapshot, record),
            directory: snapshot.map(|snapshot| snapshot.directory.clone()).unwrap_or_default(),
            comm: snapshot.map(|snapshot| snapshot.stat.comm.clone()).unwrap_or_default(),
            declared_name: declared.service_name.clone(),
            declared_attribute: declared.service_attribute().map(str::to_owned),
            container,
            unit: membership.unit.clone(),
        };
        let go = snapshot.and_then(|_| match self.content(pid) {
            Content::Go(version) => Some(Runtime::go(version)),
            Content::Native | Content::Unknown => None,
        });
        Arc::new(resource::describe(&facts, &membership, declared, go))
    }

    /// The content of a live process's executable, looked at once per file.
    fn content(&mut self, pid: u32) -> Content {
        let Some(identity) = self.proc.executable_identity(pid) else {
            return Content::Unknown;
        };
        if let Some(content) = self.contents.get(&identity) {
            return content.clone();
        }
        let content = self.proc.executable_content(pid);
        if self.contents.len() >= MAX_FILES {
            self.contents.clear();
        }
        self.contents.insert(identity, content.clone());
        content
    }
}

impl Default for ProcessTable {
    fn default() -> Self {
        Self::new()
    }
}

/// A process as `select` sees it.
pub fn candidate(pid: u32, description: &Description) -> Candidate<'_> {
    Candidate {
        pid,
        executable: &description.executable,
        name: &description.name,
        cgroup: &description.cgroup,
    }
}

/// The arguments: those of the record, which no process can have rewritten, unless it was cut and `/proc` goes on
/// where it ends.
fn arguments(snapshot: Option<&Snapshot>, record: Option<&Record>) -> Vec<Vec<u8>> {
    let now = snapshot.map(|snapshot| snapshot.cmdline.as_slice()).unwrap_or(&[]);
    match record.map(|record| &record.argv).filter(|argv| !argv.is_empty()) {
        Some(argv) => {
            let cut = argv.len() >= RECORDED_ARGV;
            if cut && now.len() > argv.len() && now.starts_with(argv) {
                proc::split_arguments(now, proc::is_cut(now))
            } else {
                proc::split_arguments(argv, cut)
            }
        }
        None => proc::split_arguments(now, proc::is_cut(now)),
    }
}

/// Whether what `/proc` shows is what was executed, and not a program that replaced it: the same arguments, or
/// (after a title was written over them) an executable of the recorded name.
fn same_program(record: &Record, snapshot: &Snapshot) -> bool {
    let length = record.argv.len().min(snapshot.cmdline.len());
    if length > 0 && record.argv.get(..length) == snapshot.cmdline.get(..length) {
        return true;
    }
    let executable = base_name(&snapshot.executable);
    let interpreter = record.argv.split(|byte| *byte == 0).next().map(base_name).unwrap_or(&[]);
    executable.is_empty()
        || [base_name(&record.filename), interpreter].iter().any(|name| naming::is_form_of(name, executable))
}

/// How much of the arguments a record holds, in bytes.
pub const RECORDED_ARGV: usize = 512;
/// The most processes that are known at once, live and ended. A live one beyond that is read from `/proc` anew.
pub const MAX_PROCESSES: usize = 65_536;
/// The most ended processes that are remembered.
pub const MAX_ENDED: usize = 16_384;
/// For how long an ended process is remembered, in nanoseconds: longer than anything pending in `stitch`.
pub const MAX_AGE: u64 = 120_000_000_000;
/// The same for one that nobody asked about since: what it moved through sockets, if anything, was told by then. A compiler's processes
/// are thousands in two minutes, and no one ever asks for them.
pub const UNASKED_AGE: u64 = 20_000_000_000;
/// How often lost exit records may be looked for, in nanoseconds.
const SWEEP_EVERY: u64 = 10_000_000_000;
/// Executables whose content is remembered.
const MAX_FILES: usize = 4096;

#[cfg(test)]
mod tests;
