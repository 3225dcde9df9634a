//! On whose behalf a call was made, in words in which no runtime appears.
//!
//! A runtime's reader (`discover::runtimes`) makes [`Facts`] of what a walk found; `stitch` compares them. Two
//! keys are compared only within one process. Nothing here knows what a key stands for.

use std::collections::VecDeque;
use std::num::NonZeroU32;
use std::sync::Arc;

use super::Monotonic;

/// How a span's parent was found, strongest first. The name is the value of `spandrel.link.method`
/// and of the setting `--weakest-link`.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum LinkMethod {
    /// The parent wrote the very bytes that this server read: same connection, direction, offset.
    Stream,
    /// The program passed the context of its inbound request on, unchanged.
    Forwarded,
    /// The request carried a trace context.
    Header,
    /// Who waits for the response to this request.
    Waiter,
    /// The task that made the call, or the one that it descends from.
    Task,
    /// The thread that made the call served exactly one request, from read to response.
    Thread,
    /// A habit of the process, observed without exception.
    Inferred,
}

impl LinkMethod {
    /// All, strongest first.
    pub const ALL: [Self; 7] =
        [Self::Stream, Self::Forwarded, Self::Header, Self::Waiter, Self::Task, Self::Thread, Self::Inferred];

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Stream => "stream",
            Self::Forwarded => "forwarded",
            Self::Header => "header",
            Self::Waiter => "waiter",
            Self::Task => "task",
            Self::Thread => "thread",
            Self::Inferred => "inferred",
        }
    }
}

/// Something that requests are told apart by within a process: a task, a context, an object.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Key {
    /// What kind of thing it is; each runtime numbers its own.
    pub space: u8,
    /// Which.
    pub value: u64,
}

/// What one call says of whose it is. Which part of it counts depends on what the call turns out to be.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Facts {
    /// If it reads a request, or writes the answer to one: the keys that this request belongs to.
    pub owns: Vec<Key>,
    /// If it sends a request, or reads the answer to one: whose that is, strongest first.
    pub claims: Vec<Claim>,
    /// If it sends a request, or reads the answer to one: what the caller holds and somebody waits for at this time.
    pub held: Vec<Held>,
    /// If it reads a request: what the process had not made by then.
    pub gate: Option<Gate>,
    /// Nothing could be claimed now; the call that reads the answer may know.
    pub later: bool,
    /// If it reads a request: the call that writes the answer tells more keys.
    pub more: bool,
}

impl Facts {
    /// Whether they say nothing at all.
    pub fn is_empty(&self) -> bool {
        let Self { owns, claims, held, gate, later, more } = self;
        owns.is_empty() && claims.is_empty() && held.is_empty() && gate.is_none() && !later && !more
    }
}

/// Something that a caller holds, and who alone waits for it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Held {
    /// What it is, by its address: soon something else's.
    pub thing: u64,
    /// Who waits.
    pub waiter: Key,
}

/// A call belongs to the request that owned this key at this time.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Claim {
    /// The key.
    pub key: Key,
    /// When; the call's own time if there is none.
    pub at: Option<Monotonic>,
    /// The number of the task that the key's owner made, where no time is known: the owner is the latest request of
    /// this key whose [`Gate`] had not let it pass.
    pub born: Option<u64>,
    /// What a link by it is.
    pub method: LinkMethod,
}

/// Which tasks of a process were made after a moment, where tasks have numbers that are given out in order, in
/// batches for each processor.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Gate {
    /// The last number of the batches given out by then.
    pub last: u64,
    /// What was left of each batch: from, and after the last.
    pub batches: Vec<(u64, u64)>,
}

impl Gate {
    /// Whether the task with this number was made after the moment.
    pub fn is_before(&self, task: u64) -> bool {
        task > self.last || self.batches.iter().any(|&(from, end)| from <= task && task < end)
    }
}

/// A task was made by another.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Birth {
    /// The new one. What was known of its key is void.
    pub child: Key,
    /// Its maker.
    pub parent: Key,
    /// When.
    pub time: Monotonic,
}

/// Facts by number, so that a [`super::Moment`] stays small.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct EvidenceId(NonZeroU32);

/// The facts of the last calls.
///
/// A call's bytes are looked at soon after its record; what waits longer than [`MAX_FACTS`] other calls
/// with facts loses its own.
#[derive(Debug, Default)]
pub struct Evidence {
    /// The number of the first that is kept.
    first: u32,
    facts: VecDeque<Arc<Facts>>,
}

/// Facts that are kept: several times the records that are handled at once.
pub const MAX_FACTS: usize = 16_384;

impl Evidence {
    /// Keeps facts.
    pub fn put(&mut self, facts: Facts) -> Option<EvidenceId> {
        if facts.is_empty() {
            return None;
        }
        if self.facts.len() >= MAX_FACTS {
            self.facts.pop_front();
            self.first = self.first.wrapping_add(1);
        }
        let number = self.first.wrapping_add(self.facts.len() as u32);
        self.facts.push_back(Arc::new(facts));
        // Number 0 is nobody's: once in four billion calls one loses its facts.
        NonZeroU32::new(number).map(EvidenceId)
    }

    /// The facts with this number, if they are still kept.
    pub fn get(&self, id: EvidenceId) -> Option<Arc<Facts>> {
        let at = id.0.get().wrapping_sub(self.first) as usize;
        self.facts.get(at).map(Arc::clone)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts(value: u64) -> Facts {
        Facts { owns: vec![Key { space: 1, value }], ..Facts::default() }
    }

    #[test]
    fn facts_are_found_by_their_number_until_they_are_too_old() {
        let mut evidence = Evidence::default();
        assert_eq!(evidence.put(Facts::default()), None);
        evidence.put(facts(0)); // number 0, which is nobody's
        let first = evidence.put(facts(1)).unwrap();
        assert_eq!(*evidence.get(first).unwrap(), facts(1));
        for n in 0..MAX_FACTS as u64 {
            let id = evidence.put(facts(n)).unwrap();
            assert_eq!(*evidence.get(id).unwrap(), facts(n));
        }
        assert_eq!(evidence.get(first), None);
    }

    #[test]
    fn a_gate_lets_tasks_pass_that_were_made_before_it() {
        let gate = Gate { last: 48, batches: vec![(35, 48), (20, 20)] };
        assert!(gate.is_before(49) && gate.is_before(35) && gate.is_before(47));
        assert!(!gate.is_before(34) && !gate.is_before(48) && !gate.is_before(20));
    }
}
