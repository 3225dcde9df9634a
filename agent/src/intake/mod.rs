//! From the ring to typed records, and from wishes to the maps: the agent's side of the kernel boundary.
//!
//! ```text
//!   ring ──▶ Kernel::drain ──▶ Record          Policies ◀── words by connection
//!   counters, losses, calls without buffer ──▶ read when asked
//! ```
//! It must never keep a record's bytes (they stay in the ring until the handler returns), and never cast
//! them: `spandrel_proto::record::decode` reads them. What cannot be decoded is counted.

mod policies;
pub mod sockets;
mod uprobes;
mod walks;

use std::thread::JoinHandle;

use anyhow::{Context as _, anyhow};
use aya::maps::{HashMap, MapData, PerCpuArray, RingBuf};
use aya::programs::UProbe;
use aya::programs::uprobe::{UProbeAttachLocation, UProbeLink, UProbeScope};
use aya::{Ebpf, Pod};
use spandrel_proto::counter::{CALL_NUMBERS, Counter};
use spandrel_proto::policy::Policy;
use spandrel_proto::record::{Loss, Record, decode};
use spandrel_proto::tls::{ClearSession, Found, FoundKey, LIBRARIES, Plan, SESSIONS, STACKS, Stack};
use zeroize::Zeroize as _;

use crate::discover::runtimes::ProbeSet;
use crate::identity::{ConnectionId, Direction, Monotonic, ProcessKey};
use crate::probe::attach::Attached;
use crate::probe::load::load;
use crate::probe::pod::{
    PodClearCall, PodClearCount, PodClearFrame, PodClearSession, PodFound, PodLoss, PodPending, PodPlan,
    PodStack,
};
use policies::Policies;
pub use uprobes::Ledger as UprobeLedger;
use uprobes::Uprobes;
pub use walks::WalkMaps;

/// The station's books: records = those handed on + early + undecodable.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Ledger {
    /// Records taken out of the ring.
    pub records: u64,
    /// Records of calls that ended before the last program was attached.
    pub early: u64,
    /// Their bytes.
    pub early_bytes: u64,
    /// Records that were none; only a fault of ours can make one.
    pub undecodable: u64,
    /// Their bytes.
    pub undecodable_bytes: u64,
}

/// The kernel side at work.
pub struct Kernel {
    ring: RingBuf<MapData>,
    counters: PerCpuArray<MapData, u64>,
    unseen_calls: PerCpuArray<MapData, u64>,
    losses: HashMap<MapData, u64, PodLoss>,
    /// The notes that were told, and when they last grew; as many as the kernel side keeps.
    known_losses: std::collections::HashMap<u64, (Loss, Monotonic)>,
    ignored: HashMap<MapData, u32, u64>,
    policies: Policies,
    walks: WalkMaps,
    uprobes: Uprobes,
    sessions: TlsMaps,
    complete: Monotonic,
    ledger: Ledger,
    /// Keeps the programs attached.
    attached: Option<Ebpf>,
}

impl Kernel {
    /// Takes over what was attached.
    pub fn new(attached: Attached) -> anyhow::Result<Self> {
        let mut ebpf = attached.ebpf;
        Ok(Self {
            ring: RingBuf::try_from(take(&mut ebpf, "RECORDS")?).context("opening the ring")?,
            counters: per_cpu(&mut ebpf, "COUNTERS")?,
            unseen_calls: per_cpu(&mut ebpf, "UNSEEN_CALLS")?,
            losses: HashMap::try_from(take(&mut ebpf, "LOSSES")?).context("opening the map LOSSES")?,
            known_losses: std::collections::HashMap::new(),
            ignored: HashMap::try_from(take(&mut ebpf, "IGNORED")?).context("opening the map IGNORED")?,
            policies: Policies::map(take(&mut ebpf, "POLICIES")?)?,
            walks: WalkMaps::new(&mut ebpf).context("opening the maps of walks")?,
            uprobes: Uprobes::default(),
            sessions: TlsMaps {
                plans: hash(&mut ebpf, "TLS_PLANS")?,
                pending: hash(&mut ebpf, "TLS_PENDING")?,
                secrets: hash(&mut ebpf, "TLS_SECRETS")?,
                stacks: hash(&mut ebpf, "TLS_STACKS")?,
                clear_calls: hash(&mut ebpf, "CLEAR_CALLS")?,
                clear_counts: hash(&mut ebpf, "CLEAR_COUNTS")?,
            },
            complete: attached.complete,
            ledger: Ledger::default(),
            attached: Some(ebpf),
        })
    }

    /// Hands on at most `most` records; how many there were.
    pub fn drain(&mut self, most: usize, handle: &mut dyn FnMut(Record<'_>)) -> usize {
        let mut taken = 0;
        while taken < most {
            let Some(item) = self.ring.next() else { break };
            taken += 1;
            self.ledger.records += 1;
            match decode(&item) {
                // The programs begin one after the other: until the last has, an answer may be seen
                // without its question. A call's record is as old as its end.
                Ok(Record::Data { data, bytes, .. }) if Monotonic(data.header.time) < self.complete => {
                    self.ledger.early += 1;
                    self.ledger.early_bytes += bytes.len() as u64;
                }
                Ok(record) => handle(record),
                Err(_) => {
                    self.ledger.undecodable += 1;
                    self.ledger.undecodable_bytes += item.len() as u64;
                }
            }
        }
        taken
    }

    /// The ring's file descriptor: readable while there is a record.
    pub fn ring(&self) -> &impl std::os::fd::AsFd {
        &self.ring
    }

    /// Sets what is sent of one direction of a connection. False if the connection lost its place to
    /// another one, which is then served first.
    pub fn set_policy(&mut self, connection: ConnectionId, direction: Direction, policy: Policy) -> bool {
        self.policies.set(connection, direction, policy)
    }

    /// The maps of walks.
    pub fn walks(&mut self) -> &mut WalkMaps {
        &mut self.walks
    }

    /// Watches instructions of a process.
    pub fn observe(&mut self, process: ProcessKey, set: &ProbeSet) -> anyhow::Result<()> {
        let ebpf = self.attached.as_mut().context("everything is detached")?;
        self.uprobes.observe(ebpf, &mut self.walks, process, set)
    }

    /// Watches a set of a process no more.
    pub fn unobserve(&mut self, process: ProcessKey, name: &'static str) {
        if let Some(ebpf) = &mut self.attached {
            self.uprobes.unobserve(ebpf, &mut self.walks, process, name);
        }
    }

    /// Walks nothing and watches nothing of a process that is gone.
    pub fn forget(&mut self, process: ProcessKey) {
        self.walks.stop(process.pid);
        if let Some(ebpf) = &mut self.attached {
            self.uprobes.ended(ebpf, &mut self.walks, process);
        }
    }

    /// Takes off what is hit more often than it may be: the process, the set, hits a second.
    pub fn enforce_budgets(&mut self, now: Monotonic) -> Vec<(ProcessKey, &'static str, u64)> {
        match &mut self.attached {
            Some(ebpf) => self.uprobes.enforce(ebpf, &mut self.walks, now),
            None => Vec::new(),
        }
    }

    /// The books of watched instructions.
    pub fn uprobes(&self) -> UprobeLedger {
        self.uprobes.ledger()
    }

    /// Walks for which there was no room.
    pub fn refused_walks(&self) -> u64 {
        self.walks.refused()
    }

    /// Stops or resumes recording a process.
    pub fn set_ignored(&mut self, pid: u32, started: Option<u64>) {
        // A full map means that more is recorded than is wanted, which the pipeline then drops.
        let _ = match started {
            Some(started) => self.ignored.insert(pid, started, 0),
            None => self.ignored.remove(&pid),
        };
    }

    /// The value of one counter, summed over the CPUs.
    pub fn counter(&self, counter: Counter) -> u64 {
        sum(&self.counters, counter as u32)
    }

    /// All counters, in the order of [`Counter::ALL`].
    pub fn counters(&self) -> Vec<u64> {
        Counter::ALL.iter().map(|&(counter, ..)| self.counter(counter)).collect()
    }

    /// Bytes of calls that have no readable buffer, by call number; only those that occurred.
    pub fn unseen_calls(&self) -> Vec<(u32, u64)> {
        (0..CALL_NUMBERS)
            .map(|call| (call, sum(&self.unseen_calls, call)))
            .filter(|(_, bytes)| *bytes > 0)
            .collect()
    }

    /// What was noted of lost records since this was last asked, by connection: positions from the last loss
    /// that was known to the last that is.
    ///
    /// A note is not taken out while it may still grow, or what the kernel side adds between reading and
    /// removing it would be lost without a trace.
    pub fn new_losses(&mut self, now: Monotonic) -> Vec<(ConnectionId, Loss)> {
        let keys: Vec<u64> = self.losses.keys().filter_map(Result::ok).collect();
        let mut new = Vec::new();
        for key in keys {
            let Ok(PodLoss(loss)) = self.losses.get(&key, 0) else { continue };
            let known = self.known_losses.get(&key);
            match known {
                Some((known, since)) if known.records == loss.records => {
                    if now.since(*since) > SETTLED {
                        let _ = self.losses.remove(&key);
                        self.known_losses.remove(&key);
                    }
                }
                _ => {
                    new.push((ConnectionId(key), since_known(&loss, known.map(|(known, _)| known))));
                    self.known_losses.insert(key, (loss, now));
                }
            }
        }
        new
    }

    /// Says where the secrets of a process's TLS sessions are, or their names: the process, and in its number which library's.
    /// False if there is no room.
    pub fn plan_sessions(&mut self, key: u32, plan: &Plan) -> bool {
        self.sessions.plans.insert(key, PodPlan(*plan), 0).is_ok()
    }

    /// Nothing more is to be taken of this process's sessions.
    pub fn forget_sessions(&mut self, pid: u32) {
        // None need be there.
        for library in LIBRARIES {
            let _ = self.sessions.plans.remove(&(pid | library));
        }
        let _ = self.sessions.pending.remove(&pid);
    }

    /// Puts a probe for this program at this offset of the file behind this path, in all processes.
    pub fn probe_library(&mut self, name: &str, path: &str, offset: u64) -> anyhow::Result<UProbeLink> {
        let ebpf = self.attached.as_mut().ok_or_else(|| anyhow!("the programs are detached"))?;
        let program = ebpf.program_mut(name).ok_or_else(|| anyhow!("there is no program {name}"))?;
        let program: &mut UProbe = program.try_into()?;
        if program.fd().is_err() {
            load(|| program.load()).with_context(|| format!("loading {name}"))?;
        }
        let link =
            program.attach(UProbeAttachLocation::AbsoluteOffset(offset), path, UProbeScope::AllProcesses);
        Ok(program.take_link(link?)?)
    }

    /// Counts the bytes of a session at this process, which is this party, no more.
    pub fn forget_clear(&mut self, random: &[u8; 32], pid: u32, party: u32) {
        let (words, _) = random.as_chunks();
        let mut session = ClearSession { pid, party, ..ClearSession::default() };
        for (to, word) in session.random.iter_mut().zip(words) {
            *to = u64::from_ne_bytes(*word);
        }
        // It need not be there.
        let _ = self.sessions.clear_counts.remove(&PodClearSession(session));
    }

    /// A process whose plaintext was read is gone, with its calls and sessions.
    pub fn forget_clear_process(&mut self, pid: u32) {
        let TlsMaps { clear_calls, clear_counts, .. } = &mut self.sessions;
        let calls: Vec<_> = clear_calls.keys().flatten().filter(|call| call.0.pid == pid).collect();
        let sessions: Vec<_> = clear_counts.keys().flatten().filter(|session| session.0.pid == pid).collect();
        for call in calls {
            let _ = clear_calls.remove(&call);
        }
        for session in sessions {
            let _ = clear_counts.remove(&session);
        }
    }

    /// Takes out what the kernel side has found of sessions: it is deleted there, and overwritten here once it
    /// was handed on.
    pub fn take_secrets(&mut self, handle: &mut dyn FnMut(&Found)) {
        for _ in 0..SESSIONS {
            let Some(Ok(key)) = self.sessions.secrets.keys().next() else { break };
            if let Ok(mut found) = self.sessions.secrets.get(&key, 0) {
                handle(&found.0);
                found.0.traffic.zeroize();
                found.0.master.zeroize();
                found.0.beside.zeroize();
            }
            if self.sessions.secrets.remove(&key).is_err() {
                break;
            }
        }
    }

    /// Takes what stacks point to out of their map.
    pub fn take_stacks(&mut self, handle: &mut dyn FnMut(&Stack)) {
        for _ in 0..STACKS {
            let Some(Ok(key)) = self.sessions.stacks.keys().next() else { break };
            if let Ok(stack) = self.sessions.stacks.get(&key, 0) {
                handle(&stack.0);
            }
            if self.sessions.stacks.remove(&key).is_err() {
                break;
            }
        }
    }

    /// Begins to detach the programs, which takes the kernel tens of milliseconds each. Once the thread has
    /// ended, nothing new is counted or written into the ring. `None` if that was done before.
    pub fn detach(&mut self) -> Option<JoinHandle<()>> {
        let mut attached = self.attached.take()?;
        let links = self.uprobes.take_all(&mut attached);
        let detach = move || {
            drop(links);
            drop(attached);
        };
        // Where there is no thread to be had, the closure is dropped, and with it the programs.
        std::thread::Builder::new().name("spandrel-detach".to_owned()).spawn(detach).ok()
    }

    /// The books.
    pub fn ledger(&self) -> Ledger {
        self.ledger
    }
}

/// What the kernel side needs to know of TLS sessions, and what it finds.
struct TlsMaps {
    plans: HashMap<MapData, u32, PodPlan>,
    pending: HashMap<MapData, u32, PodPending>,
    secrets: HashMap<MapData, FoundKey, PodFound>,
    stacks: HashMap<MapData, u64, PodStack>,
    clear_calls: HashMap<MapData, PodClearFrame, PodClearCall>,
    clear_counts: HashMap<MapData, PodClearSession, PodClearCount>,
}

fn hash<K: Pod, V: Pod>(ebpf: &mut Ebpf, name: &str) -> anyhow::Result<HashMap<MapData, K, V>> {
    HashMap::try_from(take(ebpf, name)?).with_context(|| format!("opening the map {name}"))
}

fn take(ebpf: &mut Ebpf, name: &str) -> anyhow::Result<aya::maps::Map> {
    ebpf.take_map(name).ok_or_else(|| anyhow!("the kernel object has no map {name}"))
}

fn per_cpu<T: Pod>(ebpf: &mut Ebpf, name: &str) -> anyhow::Result<PerCpuArray<MapData, T>> {
    PerCpuArray::try_from(take(ebpf, name)?).with_context(|| format!("opening the map {name}"))
}

/// A note that has not grown for so long is taken out, nanoseconds.
const SETTLED: u64 = 5_000_000_000;

/// What a note says beyond what it said before.
fn since_known(loss: &Loss, known: Option<&Loss>) -> Loss {
    let Some(known) = known else { return *loss };
    let from = |told: u64, before: [u32; 2], now: [u32; 2]| if told > 0 { [before[1], now[1]] } else { now };
    Loss {
        records: loss.records.wrapping_sub(known.records),
        sent: loss.sent.saturating_sub(known.sent),
        received: loss.received.saturating_sub(known.received),
        sent_span: from(known.sent, known.sent_span, loss.sent_span),
        received_span: from(known.received, known.received_span, loss.received_span),
        ..*loss
    }
}

fn sum(map: &PerCpuArray<MapData, u64>, index: u32) -> u64 {
    map.get(&index, 0).map_or(0, |values| values.iter().sum())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_note_that_grew_tells_what_lies_between() {
        let before = Loss { records: 1, sent: 10, sent_span: [100, 110], ..Loss::default() };
        let now = Loss {
            records: 3,
            sent: 30,
            sent_span: [100, 150],
            received: 5,
            received_span: [7, 12],
            ..before
        };
        let new = since_known(&now, Some(&before));
        assert_eq!((new.records, new.sent, new.sent_span), (2, 20, [110, 150]));
        assert_eq!((new.received, new.received_span), (5, [7, 12]));
        assert_eq!(since_known(&now, None), now);
    }
}
