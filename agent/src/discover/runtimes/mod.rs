//! Language runtimes from inside: whose request a call is made for.
//!
//! ```text
//!   first traffic of a process ─▶ worker: Runtime::prove ─▶ Proved { walks, reader }
//!                                  (its own thread: reads files and memory)
//!   records of its calls, with a walk's words ─▶ Reader::read ─▶ Facts for `stitch`
//! ```
//! Each runtime is one file or folder here and one line in [`RUNTIMES`]; none knows another. A runtime *proves* on the
//! live process where things lie in it; what it cannot prove it does not use, and says so. A [`Reader`] is pure: it
//! makes [`Facts`] of words, and wishes. It must never guess: no facts are always right.
//!
//! Start reading at [`Runtime`] and [`Reader`]; `worker` is the thread, `readers` what the pipeline holds.

mod epoll;
#[doc(hidden)]
pub mod fuzz;
pub mod go;
pub mod jvm;
mod nginx;
mod node;
pub mod python;
pub mod readers;
mod starts;
pub mod tokio;
mod worker;

use std::any::Any;
use std::collections::{HashMap, HashSet};
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use spandrel_proto::walk::{PARAMETERS, Step};

use super::maps::{Mapping, Maps};
use super::memory::ProcessMemory;
use crate::identity::{
    Birth, Claim, ConnectionId, Direction, Facts, LinkMethod, Monotonic, ProcessKey, ThreadId,
};

/// All runtimes, in the order in which they are asked. The first that knows a process keeps it.
pub static RUNTIMES: &[&dyn Runtime] =
    &[&nginx::Nginx, &python::Python, &node::Node, &jvm::Jvm, &tokio::Tokio, &go::Go];

/// A runtime: how to recognise it, and how to prove where things lie in one of its processes.
pub trait Runtime: Sync {
    /// Its name, for the log, `spandrel check` and the setting that switches it off.
    fn name(&self) -> &'static str;

    /// Looks at a process. Runs on the worker thread, may read files and memory within bounds, and must not wait.
    fn prove(&self, process: &Process<'_>) -> Outcome;
}

/// A process that is looked at.
pub struct Process<'a> {
    /// Which.
    pub key: ProcessKey,
    /// Its mappings, as they were a moment ago.
    pub maps: &'a Maps,
    /// The first mapping of the program itself.
    pub executable: Option<&'a Mapping>,
    /// Its memory.
    pub memory: ProcessMemory,
    /// What is known of binaries.
    pub cache: &'a Cache,
    /// What the user allows.
    pub how: &'a How,
}

/// How processes are looked at.
#[derive(Clone, Debug)]
pub struct How {
    /// Names of runtimes that are not asked.
    pub off: HashSet<&'static str>,
    /// The weakest link that is made: what serves a weaker one need not be found or probed.
    pub weakest: LinkMethod,
}

impl How {
    /// Whether links by lineage are made.
    pub fn infers(&self) -> bool {
        self.weakest >= LinkMethod::Inferred
    }
}

/// What came of looking at a process.
pub enum Outcome {
    /// It is none of this runtime.
    Not,
    /// It is not far enough yet: look again after this time. Why.
    Later(Duration, String),
    /// It is of this runtime, and nothing could be proved. Why.
    Refused(String),
    /// It is, and this is how it is read.
    Proved(Box<Proved>),
}

/// How a process is read.
pub struct Proved {
    /// What was proved, and what was not and why: lines for people.
    pub report: Vec<String>,
    /// Its walks.
    pub walks: Walks,
    /// What makes facts of their words.
    pub reader: Box<dyn Reader>,
}

/// One walk.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Walk {
    /// Which kind of words it keeps, for the reader; not 0.
    pub tag: u16,
    /// Its steps.
    pub steps: Vec<Step>,
}

impl fmt::Display for Walk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, step) in self.steps.iter().enumerate() {
            writeln!(f, "{number:3}  {step}")?;
        }
        Ok(())
    }
}

/// The walks of a process's calls.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Walks {
    /// Of calls that send.
    pub send: Option<Walk>,
    /// Of calls that receive.
    pub receive: Option<Walk>,
    /// What the first registers begin with.
    pub parameters: [u64; PARAMETERS],
}

/// A call of a process that has a reader.
#[derive(Clone, Copy, Debug)]
pub struct Seen<'a> {
    /// The walk's tag; 0 if it found nothing.
    pub tag: u16,
    /// What it kept.
    pub words: &'a [u64],
    /// The end of the call.
    pub time: Monotonic,
    /// Who called.
    pub thread: ThreadId,
    /// The socket.
    pub connection: ConnectionId,
    /// Which way bytes went.
    pub direction: Direction,
    /// The first of them, as far as they were captured.
    pub bytes: &'a [u8],
}

/// A probed instruction was reached.
#[derive(Clone, Copy, Debug)]
pub struct Hit<'a> {
    /// Its address in the process.
    pub address: u64,
    /// The tag of its walk.
    pub tag: u16,
    /// What the walk kept.
    pub words: &'a [u64],
    /// When.
    pub time: Monotonic,
    /// By whom.
    pub thread: ThreadId,
}

/// Makes facts of words. One for each process; calls and hits come in the order of the ring, so those of one thread in
/// the order in which they happened.
pub trait Reader: Send {
    /// A call's first bytes were moved.
    fn read(&mut self, seen: &Seen<'_>, wishes: &mut Vec<Wish>) -> Facts;

    /// A probed instruction was reached.
    fn observed(&mut self, _hit: &Hit<'_>, _wishes: &mut Vec<Wish>) -> Vec<Birth> {
        Vec::new()
    }

    /// All probes of a set have been there since this time.
    fn attached(&mut self, _set: &str, _at: Monotonic) {}

    /// A set of probes came off: it was hit too often, or could not be attached.
    fn unobserved(&mut self, _set: &str) {}

    /// Records were lost, perhaps of this process: what seems to follow one another may not.
    fn lost(&mut self) {}

    /// A call went out without a parent although something was claimed for it (what, is given).
    fn orphaned(&mut self, _claims: &[Claim], _wishes: &mut Vec<Wish>) {}

    /// The answer to [`Wish::ReadMemory`].
    fn answer(&mut self, _token: u64, _bytes: Option<&[u8]>, _wishes: &mut Vec<Wish>) {}
}

/// What a reader wants from the world.
#[derive(Debug)]
pub enum Wish {
    /// Other walks from now on.
    Walks(Walks),
    /// Look at the process again: what is proved then replaces walks and reader.
    Prove,
    /// Watch these instructions.
    Observe(ProbeSet),
    /// Do not watch them any more.
    Unobserve(&'static str),
    /// Infer nothing of the process any more: what was likely was seen to be wrong once.
    Doubt,
    /// Read memory of the process, once; the answer comes with the token.
    ReadMemory {
        /// The reader's own.
        token: u64,
        /// Where.
        address: u64,
        /// How much, at most [`super::memory::MAX_READ`].
        bytes: u32,
    },
}

/// Instructions that are watched together.
#[derive(Clone, Debug)]
pub struct ProbeSet {
    /// Its name, for the log.
    pub name: &'static str,
    /// The instructions.
    pub points: Vec<ProbePoint>,
    /// Hits a second above which the set is taken off again, since each costs the program microseconds.
    pub budget: u64,
}

/// One instruction.
#[derive(Clone, Debug)]
pub struct ProbePoint {
    /// A mapping of the file that holds it.
    pub file: Mapping,
    /// Where it is in that file.
    pub file_offset: u64,
    /// Where it is in the process: more than one place if that part of the file is mapped more than once.
    pub addresses: Vec<u64>,
    /// The bytes that must be there, or nothing is attached.
    pub bytes: Vec<u8>,
    /// What is read when it is reached.
    pub walk: Walk,
}

/// What is known of binaries, each under its runtime's name and [`Elf::identity`](super::elf::Elf::identity): a build id is what a
/// file says of itself, and one that lies would speak for an honest one.
#[derive(Default)]
pub struct Cache(Mutex<HashMap<Vec<u8>, Arc<dyn Any + Send + Sync>>>);

/// Binaries of which something is remembered. Beyond, all are looked at anew.
const MAX_CACHED: usize = 1024;

impl Cache {
    /// What this runtime knows of this file; `make` finds it out the first time.
    pub fn get<T: Any + Send + Sync>(
        &self,
        runtime: &str,
        identity: &[u8],
        make: impl FnOnce() -> T,
    ) -> Arc<T> {
        let name = [runtime.as_bytes(), b" ", identity].concat();
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner).get(&name).cloned();
        if let Some(known) = known.and_then(|known| known.downcast::<T>().ok()) {
            return known;
        }
        let made = Arc::new(make());
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if all.len() >= MAX_CACHED {
            all.clear();
        }
        all.insert(name, Arc::<T>::clone(&made));
        made
    }
}

/// What one look at the process that has this pid now tells, as lines for people: of which runtime it is, what was
/// proved, what not and why.
pub fn describe(pid: u32, how: &How) -> Vec<String> {
    let key = ProcessKey { pid, exec: 0, started: 0 };
    match worker::look_at(key, &Cache::default(), how) {
        worker::Look::Proved(name, proved) => {
            proved.report.into_iter().map(|line| format!("{name}: {line}")).collect()
        }
        worker::Look::Refused(name, why) => vec![format!("{name}: not read: {why}")],
        worker::Look::Again(_, name, why) => vec![format!("{name}: not yet: {why}")],
        worker::Look::Gone => vec!["it has ended".to_owned()],
        worker::Look::None if how.off.is_empty() => vec!["of no runtime that is read".to_owned()],
        worker::Look::None => vec!["of no runtime that is read and not switched off".to_owned()],
    }
}
