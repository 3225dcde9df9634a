//! The maps of walks: which processes are walked how, and what is read at probed instructions.
//!
//! Part of the boundary to the kernel. A walk's slot never changes while somebody refers to it, and processes with the
//! same walk share one. What finds no room is counted: then there is no evidence, never a wrong one.

use std::collections::{HashMap as Table, VecDeque};

use aya::Ebpf;
use aya::maps::{Array, HashMap, MapData};
use spandrel_proto::walk::{MAX_STEPS, Probed, ProbedAt, Step, WALKS, Walked};

use super::take;
use crate::discover::runtimes::{Walk, Walks};
use crate::identity::ProcessKey;
use crate::probe::pod::{PodProbed, PodProbedAt, PodSteps, PodWalked};

/// The maps, and who uses what.
pub struct WalkMaps {
    walks: Array<MapData, PodSteps>,
    walked: HashMap<MapData, u32, PodWalked>,
    probed: HashMap<MapData, PodProbedAt, PodProbed>,
    expected: HashMap<MapData, u64, [u64; 4]>,
    slots: Table<Vec<Step>, (u32, usize)>,
    /// Slots that nobody uses; the one that was left longest ago is used first.
    free: VecDeque<u32>,
    users: Table<u32, Vec<Vec<Step>>>,
    probes: Table<ProbedAt, Vec<Step>>,
    /// Walks for which there was no room, or that are too long.
    refused: u64,
}

impl WalkMaps {
    pub(super) fn new(ebpf: &mut Ebpf) -> anyhow::Result<Self> {
        Ok(Self {
            walks: Array::try_from(take(ebpf, "WALKS")?)?,
            walked: HashMap::try_from(take(ebpf, "WALKED")?)?,
            probed: HashMap::try_from(take(ebpf, "PROBED")?)?,
            expected: HashMap::try_from(take(ebpf, "EXPECTED")?)?,
            slots: Table::new(),
            free: (0..WALKS).collect(),
            users: Table::new(),
            probes: Table::new(),
            refused: 0,
        })
    }

    /// Walks the calls of a process like this from now on.
    pub fn walk(&mut self, process: ProcessKey, walks: &Walks) {
        let before = self.users.remove(&process.pid).unwrap_or_default();
        let mut used = Vec::new();
        let mut slot = |walk: &Option<Walk>| {
            let Some(walk) = walk else { return (0, 0) };
            match self.slot(&walk.steps) {
                Some(slot) => {
                    used.push(walk.steps.clone());
                    (slot + 1, u32::from(walk.tag))
                }
                None => (0, 0),
            }
        };
        let (send, send_tag) = slot(&walks.send);
        let (receive, receive_tag) = slot(&walks.receive);
        let walked = Walked {
            started: process.started,
            parameters: walks.parameters,
            exec: process.exec,
            send,
            receive,
            tags: send_tag | receive_tag << 16,
        };
        if self.walked.insert(process.pid, PodWalked(walked), 0).is_err() {
            self.refused += 1;
        }
        self.users.insert(process.pid, used);
        for steps in before {
            self.leave(&steps);
        }
    }

    /// Walks a process's calls no more.
    pub fn stop(&mut self, pid: u32) {
        let _ = self.walked.remove(&pid);
        for steps in self.users.remove(&pid).unwrap_or_default() {
            self.leave(&steps);
        }
    }

    /// Reads this whenever the instruction is reached; false if there is no room.
    pub fn probe(&mut self, process: ProcessKey, address: u64, walk: &Walk) -> bool {
        let at = ProbedAt { pid: process.pid, reserved: 0, address };
        self.unprobe(process, address);
        let Some(slot) = self.slot(&walk.steps) else { return false };
        let probed =
            Probed { started: process.started, walk: slot + 1, tag: walk.tag.into(), ..Probed::default() };
        if self.probed.insert(PodProbedAt(at), PodProbed(probed), 0).is_err() {
            self.refused += 1;
            self.leave(&walk.steps.clone());
            return false;
        }
        self.probes.insert(at, walk.steps.clone());
        true
    }

    /// Reads nothing there any more.
    pub fn unprobe(&mut self, process: ProcessKey, address: u64) {
        let at = ProbedAt { pid: process.pid, reserved: 0, address };
        if let Some(steps) = self.probes.remove(&at) {
            let _ = self.probed.remove(&PodProbedAt(at));
            self.leave(&steps);
        }
    }

    /// How often an instruction was reached.
    pub fn hits(&self, process: ProcessKey, address: u64) -> u64 {
        let at = ProbedAt { pid: process.pid, reserved: 0, address };
        self.probed.get(&PodProbedAt(at), 0).map_or(0, |probed| probed.0.hits)
    }

    /// The 32 bytes that walks compare with for a connection.
    pub fn expect(&mut self, connection: u64, bytes: Option<[u64; 4]>) {
        // Where there is no room, the guard fails.
        let _ = match bytes {
            Some(bytes) => self.expected.insert(connection, bytes, 0),
            None => self.expected.remove(&connection),
        };
    }

    /// Walks for which there was no room, or that are too long.
    pub fn refused(&self) -> u64 {
        self.refused
    }

    fn slot(&mut self, steps: &[Step]) -> Option<u32> {
        if let Some((slot, users)) = self.slots.get_mut(steps) {
            *users += 1;
            return Some(*slot);
        }
        if steps.len() > MAX_STEPS {
            self.refused += 1;
            return None;
        }
        let Some(slot) = self.free.pop_front() else {
            self.refused += 1;
            return None;
        };
        // What is not set is a step that fails: a walk ends only where it says so.
        let mut padded = [Step::fail(); MAX_STEPS];
        for (place, step) in padded.iter_mut().zip(steps) {
            *place = *step;
        }
        if self.walks.set(slot, PodSteps(padded), 0).is_err() {
            self.free.push_back(slot);
            self.refused += 1;
            return None;
        }
        self.slots.insert(steps.to_vec(), (slot, 1));
        Some(slot)
    }

    fn leave(&mut self, steps: &[Step]) {
        let Some((slot, users)) = self.slots.get_mut(steps) else { return };
        *users -= 1;
        if *users == 0 {
            self.free.push_back(*slot);
            self.slots.remove(steps);
        }
    }
}
