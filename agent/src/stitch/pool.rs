//! Thread pools with a queue: whose request a call is for, from the answers of the thread that made it.
//!
//! One thread reads requests, others take jobs from a queue, call out and write the answers themselves. Nothing says
//! at the call which job it is for; the answer does. What a thread does is cut into segments at *idle waits*: waits on a
//! futex word on which at least two threads of the process were seen waiting, which is the queue's.
//!
//! ```text
//!   idle ──▶ call ──▶ call ──▶ answer F1 ──▶ call ──▶ call ──▶ answer F2 ──▶ call ──▶ idle
//!            └─── F1 (b) ────┘               └ F1 (d) or ambiguous ┘        └─ F2 (c) ─┘
//! ```
//! Rule C: (a, b) what precedes the first answer of a segment belongs to it, if its request was read before; (c) what
//! follows the last one belongs to that; (d) what stands between two belongs to the first if the second one's request
//! was read only after the call, and to the second if this very thread read its request before the call. Else it is
//! ambiguous. Rule D, a habit and no proof ([`LinkMethod::Inferred`]), gives ambiguous calls to the second answer once
//! [`HABIT`] segments ended with an answer and none with a call.
//!
//! What makes C a proof is that the thread is serial, and that is checked: a call that is not answered, on its own
//! thread, before the thread's next step breaks the segment (an event loop, coroutines); so does one on a socket in an
//! epoll set, a second request read while one is unanswered, and a lost record. A segment with calls and no answer, of
//! a thread that answers otherwise, shows that other jobs share the pool (or that a job waits on such a word): the
//! process loses the rule for life. Until [`TRIAL`] segments have ended well, links are held back.
//!
//! It is a pure rule: events of one process in, verdicts out. It must never decide by who woke whom: a wake-up says
//! that there is work, not which.

use std::collections::{BTreeMap, HashMap};

use super::node::NodeId;
use super::span::LinkMethod;
use crate::identity::{Monotonic, ThreadId};

/// Segments that must have ended with an answer or what belongs to it before a link is made: with fewer, jobs of
/// another kind that share the pool may not have shown themselves.
pub(super) const TRIAL: u64 = 20;
/// Segments that ended with an answer, none with a call, before rule D believes in it.
pub(super) const HABIT: u64 = 50;
/// Links that are held back during the trial; more go out as orphans.
const MAX_HELD: usize = 1_024;
/// Threads of one process that are followed: pools are of tens or hundreds. A further one's calls are orphans.
const MAX_THREADS: usize = 4_096;
/// Futex words of one process that are told apart. Queues are few, but the words of other waits come, too: when
/// there are more, those on which one thread waited are forgotten.
const MAX_WORDS: usize = 4_096;
/// Steps of one thread that are not settled yet, and calls since its last answer. With more it is not a worker.
const MAX_STEPS: usize = 1_024;

/// What a thread did.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Step {
    /// It began to wait on this futex word.
    Idle(u64),
    /// It read a request.
    Read(NodeId),
    /// It wrote a request. `watched`: to a socket in an epoll set.
    Called { call: NodeId, watched: bool },
    /// It read the answer's first bytes, or the call ended without one.
    Got(NodeId),
    /// Another thread did.
    GotElsewhere(NodeId),
    /// It wrote the first bytes of the answer to a request that was read at `read`.
    Answered { server: NodeId, read: Monotonic },
}

/// Why a call gets no parent here.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Doubt {
    /// The thread is not known to be one of a pool.
    NoPool,
    /// It may be for the job before or the one after.
    Ambiguous,
    /// The thread did something that a serial worker does not, or a record was lost.
    NotSerial,
    /// The pool also does jobs that no request waits for.
    Shared,
}

/// What came of a call.
pub(super) type Verdict = Result<(NodeId, LinkMethod), Doubt>;

/// What is to be done.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Act {
    /// A call is decided.
    Decide(NodeId, Verdict),
    /// A server may be named in a later verdict: it must be kept ...
    Keep(NodeId),
    /// ... until it is let go, as often as it was kept.
    LetGo(NodeId),
}

/// The threads of one process.
#[derive(Debug, Default)]
pub(super) struct Pool {
    workers: HashMap<ThreadId, Worker>,
    words: HashMap<u64, Waiters>,
    /// Segments that ended with an answer, and with a call after one.
    clean: u64,
    dirty: u64,
    lost: bool,
    held: Vec<(NodeId, NodeId, LinkMethod)>,
    /// Nothing before this counts: records were lost until then.
    blind_until: Monotonic,
    sequence: u64,
}

/// Who was seen waiting on a word.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Waiters {
    One(ThreadId),
    Several,
}

#[derive(Debug, Default)]
struct Worker {
    /// Steps that are not settled, in order of time.
    steps: BTreeMap<(Monotonic, u64), Step>,
    /// It has answered requests.
    answers: bool,
    segment: Option<Segment>,
}

/// Since the last idle wait.
#[derive(Debug, Default)]
struct Segment {
    last: Option<NodeId>,
    calls: Vec<(NodeId, Monotonic)>,
    in_flight: Option<NodeId>,
    /// A request that this thread read and did not answer yet, and when.
    reading: Option<(NodeId, Monotonic)>,
}

impl Pool {
    /// Notes a step. It is settled once the clock is some time past it, so that the order in which threads are
    /// reported does not matter.
    pub(super) fn step(&mut self, thread: ThreadId, time: Monotonic, step: Step, acts: &mut Vec<Act>) {
        if let Step::Idle(word) = step {
            self.waits(thread, word);
        }
        if self.workers.len() >= MAX_THREADS && !self.workers.contains_key(&thread) {
            refuse(step, Doubt::NoPool, acts);
            return;
        }
        self.sequence += 1;
        let key = (time, self.sequence);
        let worker = self.workers.entry(thread).or_default();
        if worker.steps.len() >= MAX_STEPS {
            worker.give_up(Doubt::NotSerial, acts);
            refuse(step, Doubt::NotSerial, acts);
            return;
        }
        if let Step::Answered { server, .. } = step {
            acts.push(Act::Keep(server));
        }
        worker.steps.insert(key, step);
    }

    /// Settles everything up to `until`.
    pub(super) fn settle(&mut self, until: Monotonic, inferred: Habits, acts: &mut Vec<Act>) {
        let mut workers = std::mem::take(&mut self.workers);
        for worker in workers.values_mut() {
            while let Some(first) = worker.steps.first_entry()
                && first.key().0 <= until
            {
                let ((time, _), step) = first.remove_entry();
                self.take(worker, time, step, inferred, acts);
            }
        }
        workers.retain(|_, worker| worker.answers || worker.segment.is_some() || !worker.steps.is_empty());
        self.workers = workers;
        if self.clean + self.dirty >= TRIAL || self.lost {
            for (call, server, method) in self.held.drain(..) {
                acts.push(Act::Decide(
                    call,
                    if self.lost { Err(Doubt::Shared) } else { Ok((server, method)) },
                ));
                acts.push(Act::LetGo(server));
            }
        }
    }

    /// Records were lost: what threads did until then is not known.
    pub(super) fn blind(&mut self, until: Monotonic, acts: &mut Vec<Act>) {
        self.blind_until = self.blind_until.max(until);
        for worker in self.workers.values_mut() {
            worker.end_badly(Doubt::NotSerial, acts);
        }
    }

    /// The process ended.
    pub(super) fn end(mut self, acts: &mut Vec<Act>) {
        for worker in self.workers.values_mut() {
            worker.give_up(Doubt::NotSerial, acts);
        }
        for (call, server, _) in self.held.drain(..) {
            acts.push(Act::Decide(call, Err(Doubt::NoPool)));
            acts.push(Act::LetGo(server));
        }
    }

    /// Whether the process lost the rule.
    #[cfg(test)]
    fn is_lost(&self) -> bool {
        self.lost
    }

    fn waits(&mut self, thread: ThreadId, word: u64) {
        if self.words.len() >= MAX_WORDS && !self.words.contains_key(&word) {
            self.words.retain(|_, waiters| *waiters == Waiters::Several);
            if self.words.len() >= MAX_WORDS {
                return;
            }
        }
        let waiters = self.words.entry(word).or_insert(Waiters::One(thread));
        if *waiters != Waiters::One(thread) {
            *waiters = Waiters::Several;
        }
    }

    fn take(
        &mut self,
        worker: &mut Worker,
        time: Monotonic,
        step: Step,
        inferred: Habits,
        acts: &mut Vec<Act>,
    ) {
        if time <= self.blind_until {
            worker.end_badly(Doubt::NotSerial, acts);
            refuse(step, Doubt::NotSerial, acts);
            if let Step::Answered { server, .. } = step {
                acts.push(Act::LetGo(server));
            }
            return;
        }
        match step {
            Step::Idle(word) if self.words.get(&word) == Some(&Waiters::Several) => {
                self.idle(worker, acts);
            }
            Step::Idle(_) => {}
            Step::Read(server) => {
                if let Some(segment) = &mut worker.segment
                    && (segment.reading.replace((server, time)).is_some() || segment.in_flight.is_some())
                {
                    worker.end_badly(Doubt::NotSerial, acts);
                }
            }
            Step::Called { call, watched } => {
                let Some(segment) = &mut worker.segment else {
                    acts.push(Act::Decide(call, Err(Doubt::NoPool)));
                    return;
                };
                segment.calls.push((call, time));
                if watched || segment.in_flight.replace(call).is_some() || segment.calls.len() > MAX_STEPS {
                    worker.end_badly(Doubt::NotSerial, acts);
                }
            }
            Step::Got(call) => {
                if let Some(segment) = &mut worker.segment
                    && segment.in_flight == Some(call)
                {
                    segment.in_flight = None;
                }
            }
            Step::GotElsewhere(call) => {
                if worker.segment.as_ref().is_some_and(|segment| segment.in_flight == Some(call)) {
                    worker.end_badly(Doubt::NotSerial, acts);
                }
            }
            Step::Answered { server, read } => self.answered(worker, server, read, inferred, acts),
        }
    }

    /// The thread waits for the next job: what came since its last answer belongs to that.
    fn idle(&mut self, worker: &mut Worker, acts: &mut Vec<Act>) {
        let Some(segment) = worker.segment.replace(Segment::default()) else { return };
        let Segment { last, calls, in_flight, reading } = segment;
        let serial = in_flight.is_none() && reading.is_none();
        match last {
            _ if !serial => refuse_all(&calls, Doubt::NotSerial, acts),
            Some(server) => {
                *(if calls.is_empty() { &mut self.clean } else { &mut self.dirty }) += 1;
                for (call, _) in calls {
                    self.link(call, server, LinkMethod::Thread, acts);
                }
            }
            None if calls.is_empty() => {}
            None => {
                // Of a thread that never answers nothing follows: another one may write what it worked out.
                self.lost |= worker.answers;
                refuse_all(&calls, Doubt::Shared, acts);
            }
        }
        if let Some(server) = last {
            acts.push(Act::LetGo(server));
        }
    }

    fn answered(
        &mut self,
        worker: &mut Worker,
        server: NodeId,
        read: Monotonic,
        inferred: Habits,
        acts: &mut Vec<Act>,
    ) {
        worker.answers = true;
        let Some(segment) = &mut worker.segment else {
            acts.push(Act::LetGo(server));
            return;
        };
        let own = segment.reading.take();
        if own.is_some_and(|(reading, _)| reading != server) || segment.in_flight.is_some() {
            worker.end_badly(Doubt::NotSerial, acts);
            acts.push(Act::LetGo(server));
            return;
        }
        let (before, calls) = (segment.last.replace(server), std::mem::take(&mut segment.calls));
        for (call, at) in calls {
            match before {
                // It read the request itself: the job began there.
                _ if own.is_some_and(|(_, read)| read <= at) => {
                    self.link(call, server, LinkMethod::Thread, acts);
                }
                None if read <= at => self.link(call, server, LinkMethod::Thread, acts),
                None => acts.push(Act::Decide(call, Err(Doubt::Ambiguous))),
                Some(before) if read > at => self.link(call, before, LinkMethod::Thread, acts),
                Some(_) if inferred == Habits::Believed && self.clean >= HABIT && self.dirty == 0 => {
                    self.link(call, server, LinkMethod::Inferred, acts);
                }
                Some(_) => acts.push(Act::Decide(call, Err(Doubt::Ambiguous))),
            }
        }
        if let Some(before) = before {
            acts.push(Act::LetGo(before));
        }
    }

    fn link(&mut self, call: NodeId, server: NodeId, method: LinkMethod, acts: &mut Vec<Act>) {
        if self.lost {
            acts.push(Act::Decide(call, Err(Doubt::Shared)));
        } else if self.clean + self.dirty >= TRIAL {
            acts.push(Act::Decide(call, Ok((server, method))));
        } else if self.held.len() < MAX_HELD {
            acts.push(Act::Keep(server));
            self.held.push((call, server, method));
        } else {
            acts.push(Act::Decide(call, Err(Doubt::NoPool)));
        }
    }
}

/// Whether rule D may be used.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Habits {
    Believed,
    Ignored,
}

impl Worker {
    /// Nothing of this segment is proved, nor what comes until the next idle wait.
    fn end_badly(&mut self, doubt: Doubt, acts: &mut Vec<Act>) {
        if let Some(segment) = self.segment.take() {
            refuse_all(&segment.calls, doubt, acts);
            if let Some(server) = segment.last {
                acts.push(Act::LetGo(server));
            }
        }
    }

    /// Nothing of it will be settled.
    fn give_up(&mut self, doubt: Doubt, acts: &mut Vec<Act>) {
        self.end_badly(doubt, acts);
        for step in std::mem::take(&mut self.steps).into_values() {
            refuse(step, doubt, acts);
            if let Step::Answered { server, .. } = step {
                acts.push(Act::LetGo(server));
            }
        }
    }
}

fn refuse(step: Step, doubt: Doubt, acts: &mut Vec<Act>) {
    if let Step::Called { call, .. } = step {
        acts.push(Act::Decide(call, Err(doubt)));
    }
}

fn refuse_all(calls: &[(NodeId, Monotonic)], doubt: Doubt, acts: &mut Vec<Act>) {
    acts.extend(calls.iter().map(|&(call, _)| Act::Decide(call, Err(doubt))));
}

#[cfg(test)]
#[path = "pool_tests.rs"]
mod tests;
