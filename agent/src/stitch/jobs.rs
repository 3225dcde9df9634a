//! Whether what a worker holds at a call says whose job it works at: a habit of a process, and never a proof.
//!
//! A worker that takes jobs from a queue holds, with each job, what the one who asked for it waits for: another channel with
//! each job. A worker that shares tokens with others, or reports to all, holds the same one at each call, and whoever
//! waits for it waits for anybody. So what tells the two apart is the worker's *next* call:
//!
//! ```text
//!   another thing, for which somebody waits     a job of its own     ─▶ another
//!   the same thing, and another one waits       everybody's          ─▶ same
//! ```
//! It must never be believed of a process that has not shown it several times, or of a worker that shows the opposite more
//! than rarely (an address is used again after a collection, which looks like the same thing).

use std::collections::VecDeque;

use foldhash::HashMap;

use crate::identity::{Held, Key};

/// What the workers of one process held.
#[derive(Debug, Default)]
pub(super) struct Jobs {
    workers: HashMap<Key, Worker>,
    /// Those in the order in which they came, to forget the oldest.
    by_age: VecDeque<Key>,
    /// Of all workers.
    seen: Seen,
}

#[derive(Debug)]
struct Worker {
    last: Held,
    seen: Seen,
}

/// How often a worker's next call was with another thing, and how often with the same one and another who waits.
#[derive(Clone, Copy, Debug, Default)]
struct Seen {
    another: u32,
    same: u32,
}

impl Seen {
    fn count(&mut self, held: Held, last: Held) {
        if held.thing != last.thing {
            self.another = self.another.saturating_add(1);
        } else if held.waiter != last.waiter {
            self.same = self.same.saturating_add(1);
        }
    }

    fn mostly_another(self) -> bool {
        self.same.saturating_mul(RARELY) <= self.another
    }
}

impl Jobs {
    pub fn is_empty(&self) -> bool {
        self.workers.is_empty()
    }

    /// A worker calls, or is answered, and holds this.
    pub fn hold(&mut self, worker: Key, held: Held) {
        if let Some(worker) = self.workers.get_mut(&worker) {
            self.seen.count(held, worker.last);
            worker.seen.count(held, worker.last);
            worker.last = held;
            return;
        }
        self.workers.insert(worker, Worker { last: held, seen: Seen::default() });
        self.by_age.push_back(worker);
        if self.by_age.len() > MAX_WORKERS
            && let Some(oldest) = self.by_age.pop_front()
        {
            self.workers.remove(&oldest);
        }
    }

    /// Whether whoever waits for what this worker holds asked for what it does.
    pub fn are_believed(&self, worker: Key) -> bool {
        let own = self.workers.get(&worker).is_some_and(|worker| worker.seen.mostly_another());
        own && self.seen.another >= SHOWN && self.seen.mostly_another()
    }
}

/// Workers of one process that are remembered.
const MAX_WORKERS: usize = 4096;
/// How often a process must have shown the habit.
const SHOWN: u32 = 4;
/// One exception in so many calls may be the allocator's. Of things that all share even four side by side are more often the same.
const RARELY: u32 = 4;

#[cfg(test)]
mod tests {
    use super::*;

    fn key(value: u64) -> Key {
        Key { space: 0, value }
    }

    /// Words `worker:thing:waiter`; then whether each of the workers is believed.
    #[track_caller]
    fn check(script: &str, believed: &[(u64, bool)]) {
        let mut jobs = Jobs::default();
        for word in script.split_whitespace() {
            let mut numbers = word.split(':').map(|number| number.parse().unwrap());
            let [worker, thing, waiter] = std::array::from_fn(|_| numbers.next().unwrap());
            jobs.hold(key(worker), Held { thing, waiter: key(waiter) });
        }
        for &(worker, want) in believed {
            assert_eq!(jobs.are_believed(key(worker)), want, "worker {worker} of {script}");
        }
    }

    #[test]
    fn workers_that_hold_another_thing_with_each_job_are_believed_once_they_have_shown_it() {
        check("1:10:5 1:11:6 1:12:5 2:20:7", &[(1, false), (2, false)]);
        check("1:10:5 1:11:6 1:12:5 2:20:7 2:21:5 1:13:7", &[(1, true), (2, true), (3, false)]);
        // One that is new, in a process that has shown it.
        check("1:10:5 1:11:6 1:12:5 1:13:7 1:14:5 2:20:7", &[(2, true)]);
        // Several calls of one job.
        check("1:10:5 1:10:5 1:11:6 1:11:6 1:12:5 1:13:7 1:14:5", &[(1, true)]);
    }

    #[test]
    fn workers_that_hold_what_is_everybodys_are_not() {
        check("1:10:5 1:10:6 1:10:7 1:10:8 1:10:9 1:10:5", &[(1, false)]);
        // Nor is a worker that does so among others that do not, nor where two things are everybody's.
        check("1:10:5 1:11:6 1:12:5 1:13:7 1:14:5 2:20:7 2:20:8", &[(1, true), (2, false)]);
        check("1:10:5 1:11:6 1:10:7 1:11:8 1:10:9 1:10:5 1:10:7", &[(1, false)]);
    }

    #[test]
    fn one_address_that_is_used_again_is_forgiven_in_many_calls() {
        let calls = |number: u64| (0..number).map(|n| format!("1:{n}:{n} ")).collect::<String>();
        check(&format!("{}1:39:5 2:7:7", calls(40)), &[(1, true), (2, true)]);
        check(&format!("{}1:9:5 1:9:6 1:9:7 2:7:7", calls(10)), &[(1, false), (2, false)]);
    }

    #[test]
    fn no_more_workers_are_remembered_than_fit() {
        let mut jobs = Jobs::default();
        for worker in 0..2 * MAX_WORKERS as u64 {
            jobs.hold(key(worker), Held { thing: worker, waiter: key(1) });
        }
        assert_eq!((jobs.workers.len(), jobs.by_age.len()), (MAX_WORKERS, MAX_WORKERS));
    }
}
