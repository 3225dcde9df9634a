//! The readers of all processes, as the pipeline holds them: records in, facts out, and what has to be done to the
//! kernel side as a list of [`Order`]s.
//!
//! It must never wait for the worker, keep a reader longer than its process, or make a reader answer for another
//! program of the same pid.

use std::collections::HashMap;
use std::time::Duration;

use super::worker::{Finding, Job, Worker};
use super::{Hit, How, ProbeSet, Proved, Reader, Seen, Walks, Wish};
use crate::identity::{Birth, Claim, Facts, Monotonic, ProcessKey};
use crate::log;

/// What is to be done to the kernel side.
#[derive(Debug)]
pub enum Order {
    /// Walk the calls of a process like this from now on.
    Walk(ProcessKey, Walks),
    /// Do not walk them any more.
    Stop(ProcessKey),
    /// Watch instructions of a process.
    Observe(ProcessKey, ProbeSet),
    /// Do not watch them any more.
    Unobserve(ProcessKey, &'static str),
    /// Infer nothing of the process any more.
    Doubt(ProcessKey),
}

/// The station's books.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Ledger {
    /// Processes that a runtime knows and that are read.
    pub proved: u64,
    /// Processes that a runtime knows and of which nothing could be proved.
    pub refused: u64,
    /// Looks that were not made: too many were waiting.
    pub unasked: u64,
    /// Processes that ended, or became another program, before or while they were looked at.
    pub gone: u64,
    /// Looks at a process of a runtime that was not far enough for a proof.
    pub early: u64,
    /// Walks for which the kernel side had no room.
    pub walks_refused: u64,
    /// Sets of probes: attached, failed, and come off again, by cause.
    pub probes: crate::intake::UprobeLedger,
}

/// All readers.
pub struct Readers {
    worker: Option<Worker>,
    known: HashMap<ProcessKey, Known>,
    wishes: Vec<Wish>,
    orders: Vec<Order>,
    ledger: Ledger,
}

enum Known {
    /// It has begun and will be looked at.
    Begun,
    /// It is being looked at, or was of no runtime.
    Asked,
    /// It is read.
    Read { name: &'static str, reader: Box<dyn Reader> },
}

/// Processes known at once; beyond, none is looked at. As many as the process table knows.
const MAX_KNOWN: usize = 65_536;
/// How long a program gets to set itself up before it is looked at for the first time.
const SETTLING: Duration = Duration::from_millis(200);
/// How soon a process is looked at again that a reader asked for.
const AGAIN: Duration = Duration::from_millis(20);

impl Readers {
    /// Readers of nothing yet. `how` processes are looked at.
    pub fn start(how: How) -> std::io::Result<Self> {
        Ok(Self {
            worker: Some(Worker::start(how)?),
            known: HashMap::new(),
            wishes: Vec::new(),
            orders: Vec::new(),
            ledger: Ledger::default(),
        })
    }

    /// A program has begun: it will be looked at once it had time to set itself up.
    pub fn began(&mut self, process: ProcessKey) {
        let asked = |worker: &Worker| worker.ask_of_begun(process, SETTLING);
        self.ask(process, Known::Begun, asked);
    }

    fn ask(&mut self, process: ProcessKey, known: Known, ask: impl FnOnce(&Worker) -> bool) {
        if self.known.len() < MAX_KNOWN && self.worker.as_ref().is_some_and(ask) {
            self.known.entry(process).or_insert(known);
        } else {
            self.ledger.unasked += 1;
        }
    }

    /// Whether the calls of a process are read; one that is met for the first time is looked at.
    pub fn knows(&mut self, process: ProcessKey) -> bool {
        match self.known.get_mut(&process) {
            Some(Known::Read { .. }) => true,
            Some(Known::Asked) => false,
            Some(known @ Known::Begun) => {
                *known = Known::Asked;
                if let Some(worker) = &self.worker {
                    worker.promote(process);
                }
                false
            }
            None => {
                let asked = |worker: &Worker| worker.ask(Job::Look(process, 0), Duration::ZERO);
                self.ask(process, Known::Asked, asked);
                false
            }
        }
    }

    /// What a call says of whose it is.
    pub fn read(&mut self, process: ProcessKey, seen: &Seen<'_>) -> Facts {
        let Some(Known::Read { reader, .. }) = self.known.get_mut(&process) else { return Facts::default() };
        let facts = reader.read(seen, &mut self.wishes);
        self.carry_out(process);
        facts
    }

    /// What a hit says of who made whom.
    pub fn observed(&mut self, process: ProcessKey, hit: &Hit<'_>) -> Vec<Birth> {
        let Some(Known::Read { reader, .. }) = self.known.get_mut(&process) else { return Vec::new() };
        let births = reader.observed(hit, &mut self.wishes);
        self.carry_out(process);
        births
    }

    /// All probes of a set of a process have been there since this time.
    pub fn attached(&mut self, process: ProcessKey, set: &str, at: Monotonic) {
        if let Some(Known::Read { reader, .. }) = self.known.get_mut(&process) {
            reader.attached(set, at);
        }
    }

    /// A set of probes of a process came off.
    pub fn unobserved(&mut self, process: ProcessKey, set: &str) {
        if let Some(Known::Read { reader, .. }) = self.known.get_mut(&process) {
            reader.unobserved(set);
        }
    }

    /// Records were lost; nobody knows whose.
    pub fn lost(&mut self) {
        for known in self.known.values_mut() {
            if let Known::Read { reader, .. } = known {
                reader.lost();
            }
        }
    }

    /// A call went out without a parent.
    pub fn orphaned(&mut self, process: ProcessKey, claims: &[Claim]) {
        if let Some(Known::Read { reader, .. }) = self.known.get_mut(&process) {
            reader.orphaned(claims, &mut self.wishes);
            self.carry_out(process);
        }
    }

    /// A process is gone, or became another program.
    pub fn ended(&mut self, process: ProcessKey) {
        match self.known.remove(&process) {
            Some(Known::Read { .. }) => self.orders.push(Order::Stop(process)),
            // The pid alone would not tell a program from the one that it became.
            Some(Known::Asked | Known::Begun) => self.forget(process),
            None => {}
        }
    }

    fn forget(&mut self, process: ProcessKey) {
        let waited = self.worker.as_ref().is_some_and(|worker| worker.forget(process));
        self.ledger.gone += u64::from(waited);
    }

    /// Takes what the worker found.
    pub fn collect(&mut self) {
        while let Some(finding) = self.worker.as_ref().and_then(|worker| worker.findings.try_recv().ok()) {
            match finding {
                Finding::None(process) => {
                    log::trace(format_args!("process {} is of no runtime that is read", process.pid));
                }
                Finding::Gone(process) => {
                    self.ledger.gone += 1;
                    log::trace(format_args!("process {} was gone when it was looked at", process.pid));
                }
                Finding::Later(process) => {
                    self.ledger.early += 1;
                    if !self.known.contains_key(&process) {
                        self.forget(process);
                    }
                }
                Finding::Refused(process, name, why) => {
                    self.ledger.refused += 1;
                    log::info(format_args!("{name} of process {}: not read: {why}", process.pid));
                }
                Finding::Proved(process, name, proved) => self.begin(process, name, *proved),
                Finding::Read { process, token, bytes } => {
                    if let Some(Known::Read { reader, .. }) = self.known.get_mut(&process) {
                        reader.answer(token, bytes.as_deref(), &mut self.wishes);
                        self.carry_out(process);
                    }
                }
            }
        }
    }

    fn begin(&mut self, process: ProcessKey, name: &'static str, proved: Proved) {
        let Proved { report, walks, reader } = proved;
        // It may have ended meanwhile, or what was looked at may be another program already.
        let Some(known) = self.known.get_mut(&process) else {
            self.ledger.gone += 1;
            return;
        };
        for line in report {
            log::info(format_args!("{name} of process {}: {line}", process.pid));
        }
        if let Known::Asked | Known::Begun = known {
            self.ledger.proved += 1;
        }
        *known = Known::Read { name, reader };
        self.orders.push(Order::Walk(process, walks));
    }

    fn carry_out(&mut self, process: ProcessKey) {
        for wish in self.wishes.drain(..) {
            match wish {
                Wish::Walks(walks) => {
                    log::info(format_args!("process {}: more is read at its calls from now on", process.pid));
                    self.orders.push(Order::Walk(process, walks));
                }
                Wish::Observe(set) => self.orders.push(Order::Observe(process, set)),
                Wish::Unobserve(name) => self.orders.push(Order::Unobserve(process, name)),
                Wish::Doubt => self.orders.push(Order::Doubt(process)),
                Wish::Prove => {
                    if let Some(worker) = &self.worker
                        && !worker.ask(Job::Look(process, 0), AGAIN)
                    {
                        self.ledger.unasked += 1;
                    }
                }
                Wish::ReadMemory { token, address, bytes } => {
                    let job = Job::Read { process, token, address, bytes };
                    if let Some(worker) = &self.worker
                        && !worker.ask(job, Duration::ZERO)
                    {
                        self.ledger.unasked += 1;
                    }
                }
            }
        }
    }

    /// What is to be done now.
    pub fn orders(&mut self) -> std::vec::Drain<'_, Order> {
        self.orders.drain(..)
    }

    /// The runtime of a process that is read.
    pub fn runtime(&self, process: ProcessKey) -> Option<&'static str> {
        match self.known.get(&process)? {
            Known::Read { name, .. } => Some(name),
            Known::Asked | Known::Begun => None,
        }
    }

    /// The books.
    pub fn ledger(&self) -> Ledger {
        self.ledger
    }
}
