//! Node's async ids: which of them are native resources, whose they are, and who ran while they were given out.
//!
//! Ids are handed out in order by one counter, so all ids between two observed moments belong to whoever ran in
//! between ([`Interval`]). Bounded: the oldest are forgotten first and counted; an id of which nothing is known
//! has no owner. It must never answer for an id that was given out before it looked.

use std::collections::{BTreeMap, VecDeque};

use super::machine::Owner;

/// What an id was given out in.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Interval {
    /// The first id.
    pub from: u64,
    /// The last.
    pub to: u64,
    /// Who ran.
    pub during: During,
    /// The iteration of the event loop.
    pub iteration: u64,
}

/// Who ran while ids were given out.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum During {
    /// The callback of a read, and no promise job.
    Turn(Turn),
    /// A promise job. Not `certain` if something else may have run too: then only ids with no trigger are its own.
    Job {
        /// Whose job.
        owner: Option<Owner>,
        /// Nothing else ran.
        certain: bool,
    },
    /// Nobody knows.
    Unknown,
}

/// The callback of a read.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Turn {
    /// On whose behalf.
    pub owner: Option<Owner>,
    /// The connection that was read.
    pub connection: u64,
    /// It is one on which this process is the client.
    pub client: bool,
    /// The counter when it began.
    pub counter: u64,
    /// Which turn this is.
    pub serial: u64,
}

/// All that is known of ids.
#[derive(Debug, Default)]
pub struct Ids {
    intervals: VecDeque<Interval>,
    /// Native resources, with the owner they were made or re-keyed for.
    native: BTreeMap<u64, Option<Owner>>,
    /// Owners found for other ids.
    found: BTreeMap<u64, Option<Owner>>,
    /// Ids older than the agent's look, by the connection and turn in which they were met.
    old: BTreeMap<u64, Old>,
    /// What was forgotten to make room.
    pub forgotten: u64,
}

/// What is known of an id that was given out before the agent looked.
#[derive(Clone, Copy, Debug)]
struct Old {
    connection: u64,
    turn: u64,
    trusted: bool,
}

impl Ids {
    /// Notes that the ids from `from` to `to` were given out.
    pub fn given(&mut self, interval: Interval) {
        if interval.from > interval.to || interval.during == During::Unknown {
            return;
        }
        if self.intervals.len() >= MAX_IDS {
            self.intervals.pop_front();
            self.forgotten += 1;
        }
        self.intervals.push_back(interval);
    }

    /// In what an id was given out.
    pub fn interval(&self, id: u64) -> Option<&Interval> {
        let after = self.intervals.partition_point(|interval| interval.to < id);
        self.intervals.get(after).filter(|interval| interval.from <= id)
    }

    /// A native resource got this id.
    pub fn made(&mut self, id: u64, owner: Option<Owner>) {
        self.forgotten += insert(&mut self.native, id, owner);
    }

    /// Whether a native resource has this id.
    pub fn is_native(&self, id: u64) -> bool {
        self.native.contains_key(&id)
    }

    /// An id's owner was found.
    pub fn found(&mut self, id: u64, owner: Option<Owner>) {
        self.forgotten += insert(&mut self.found, id, owner);
    }

    /// What was noted of an id: that it is somebody's, or nobody's.
    pub fn noted(&self, id: u64) -> Option<Option<Owner>> {
        self.native.get(&id).or_else(|| self.found.get(&id)).copied()
    }

    /// The owner that was noted for an id.
    pub fn owner(&self, id: u64) -> Option<Owner> {
        self.noted(id).flatten()
    }

    /// An id from before the agent looked was met in this turn. It is believed to be the connection's own, a handle
    /// or parser, once it was met in two turns of one connection: what waits in a queue is entered once.
    pub fn is_of_connection(&mut self, id: u64, turn: &Turn) -> bool {
        let old = self.old.get(&id).copied();
        match old {
            Some(old) if old.connection != turn.connection => false,
            Some(old) if old.trusted || old.turn != turn.serial => {
                self.old.insert(id, Old { trusted: true, ..old });
                true
            }
            Some(_) => false,
            None => {
                let old = Old { connection: turn.connection, turn: turn.serial, trusted: false };
                self.forgotten += insert(&mut self.old, id, old);
                false
            }
        }
    }
}

fn insert<T>(map: &mut BTreeMap<u64, T>, id: u64, value: T) -> u64 {
    map.insert(id, value);
    if map.len() > MAX_IDS {
        map.pop_first();
        return 1;
    }
    0
}

/// Ids remembered of each kind. A request takes some ten, so this is several thousand requests back.
const MAX_IDS: usize = 65_536;
