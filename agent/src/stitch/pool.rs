//! Inside a process: on whose behalf does a worker of a pool call, that is handed its requests by another thread? A habit of the
//! process, so a link is `inferred`.
//!
//! ```text
//!   reader   reads F ──▶ queue
//!   worker                ──▶ calls c ─▶ is answered ─▶ answers F        c is for the next request that its thread answers
//! ```
//! A worker that answers a request has worked for it; whether its calls before were for it, too, its habits tell. One
//! exception refutes them for the life of the process: a call that began before the request was read which its thread
//! answered next (work after an answer, or for nobody), or one that was under way then. The habit is believed once workers
//! were often seen to call nothing between an answer and the moment at which the next of their requests was read, so that work
//! after an answer would have shown. Where there is always a backlog nothing shows, and nothing is believed.
//!
//! It concerns calls that block their thread while that holds no request of its own; an event loop's do not. It must never
//! link by a habit that was refuted, or anything that is allowed to prove itself otherwise.

use std::collections::VecDeque;

use foldhash::HashMap;

use super::graph::{Choice, allowed};
use super::ledger::Orphan;
use super::node::{NodeId, Process, Wait};
use super::span::LinkMethod;
use super::stitcher::Stitcher;
use super::{Output, Serving};
use crate::identity::{Moment, Monotonic, ProcessKey, ThreadId};

/// What the workers of one process do.
#[derive(Debug, Default)]
pub(super) struct Pool {
    /// Threads that answered a request which another read.
    workers: HashMap<ThreadId, Worker>,
    /// Those in the order in which they came, to forget the oldest.
    by_age: VecDeque<ThreadId>,
    /// How often a worker was idle between two requests and called nothing.
    idle: u32,
    refuted: bool,
}

/// What a thread did lately.
#[derive(Debug)]
struct Worker {
    /// When it last answered a request.
    answered: Monotonic,
    /// What it called since: when, and the call if it waits for this rule.
    calls: Calls,
}

type Calls = Vec<(Monotonic, Option<NodeId>)>;

impl Stitcher {
    /// A thread read a request: what it called since its last answer was for no other.
    pub(super) fn pool_reads(&mut self, process: ProcessKey, thread: ThreadId, out: &mut Vec<Output>) {
        if !allowed(LinkMethod::Inferred, self.settings.weakest_link) {
            return;
        }
        if !self.pools.contains_key(&process) && self.pools.len() >= MAX_POOLS {
            return;
        }
        let worker = self.pools.entry(process).or_default().workers.get(&thread);
        if worker.is_some_and(|worker| !worker.calls.is_empty()) {
            self.refute(process, out);
        }
    }

    /// A call that no proof links, and why none does (no cause if its process serves nothing). Whether that is for this rule
    /// to decide: then it waits for it.
    pub(super) fn pool_calls(
        &mut self,
        node: NodeId,
        began: &Moment,
        serving: Serving,
        refused: Option<Orphan>,
        out: &mut Vec<Output>,
    ) -> bool {
        let holds = |process: &Process| process.threads.contains_key(&began.thread);
        if self.processes.get(&began.process).is_some_and(holds) {
            return false;
        }
        let Some(pool) = self.pools.get_mut(&began.process) else { return false };
        let believed = pool.idle >= SHOWN;
        let Some(worker) = pool.workers.get_mut(&began.thread) else { return false };
        if worker.calls.len() >= MAX_CALLS {
            self.refute(began.process, out);
            return false;
        }
        let blocks = match serving {
            Serving::ManyPerThread => false,
            Serving::OneRequestPerThread => true,
            Serving::Unknown | Serving::OneIfBlocking => !began.nonblocking && !began.in_epoll,
        };
        let waits = believed && blocks && refused.is_some();
        worker.calls.push((began.time, waits.then_some(node)));
        if waits {
            let deadline = self.after(self.settings.limits.pending_age);
            self.wait(node, Wait::Worker, deadline);
        }
        waits
    }

    /// A thread began to answer a request.
    pub(super) fn pool_answers(&mut self, node: NodeId, at: &Moment, out: &mut Vec<Output>) {
        let Some(server) = self.nodes.get(&node) else { return };
        let (read, handed) = (server.at, server.thread != at.thread);
        let Some(pool) = self.pools.get_mut(&at.process).filter(|pool| !pool.refuted) else { return };
        let Some(worker) = pool.workers.get_mut(&at.thread) else {
            if handed {
                let forgotten = pool.add(at);
                self.refuse_workers(&forgotten, Orphan::NeverAnswered, out);
            }
            return;
        };
        let before = std::mem::replace(&mut worker.answered, at.time);
        let not_for_this = |&(began, call): &(Monotonic, Option<NodeId>)| {
            began < read
                || call
                    .and_then(|call| self.nodes.get(&call))
                    .is_some_and(|call| call.is_open() && call.answered.is_none())
        };
        if worker.calls.iter().any(not_for_this) {
            return self.refute(at.process, out);
        }
        if handed && before.0.saturating_add(IDLE) <= read.0 {
            pool.idle = pool.idle.saturating_add(1);
        }
        let calls = std::mem::take(&mut worker.calls);
        if self.lost_between(read, at.time) {
            return self.refuse_workers(&calls, Orphan::RecordsLost, out);
        }
        self.decide_workers(&calls, Choice::Follow(node, LinkMethod::Inferred), out);
    }

    /// A process is over: nobody will answer for its workers.
    pub(super) fn forget_pool(&mut self, process: ProcessKey, out: &mut Vec<Output>) {
        let Some(pool) = self.pools.remove(&process) else { return };
        for worker in pool.workers.into_values() {
            self.refuse_workers(&worker.calls, Orphan::NeverAnswered, out);
        }
    }

    /// The habit does not hold: from now on nothing is concluded of this process's workers, nor of what waits.
    fn refute(&mut self, process: ProcessKey, out: &mut Vec<Output>) {
        let refuted = Pool { refuted: true, ..Pool::default() };
        let Some(pool) = self.pools.insert(process, refuted) else { return };
        for worker in pool.workers.into_values() {
            self.refuse_workers(&worker.calls, Orphan::WorksOn, out);
        }
    }

    fn refuse_workers(&mut self, calls: &Calls, cause: Orphan, out: &mut Vec<Output>) {
        self.decide_workers(calls, Choice::Orphan(cause), out);
    }

    fn decide_workers(&mut self, calls: &Calls, choice: Choice, out: &mut Vec<Output>) {
        for call in calls.iter().filter_map(|&(_, call)| call) {
            if self.nodes.get(&call).and_then(|call| call.wait()) == Some(Wait::Worker) {
                self.decide(call, choice, out);
            }
        }
    }
}

impl Pool {
    /// Adds a worker, and forgets the oldest of too many: what that one called.
    fn add(&mut self, at: &Moment) -> Calls {
        self.workers.insert(at.thread, Worker { answered: at.time, calls: Vec::new() });
        self.by_age.push_back(at.thread);
        if self.by_age.len() <= MAX_WORKERS {
            return Vec::new();
        }
        let oldest = self.by_age.pop_front().and_then(|oldest| self.workers.remove(&oldest));
        oldest.map_or_else(Vec::new, |worker| worker.calls)
    }
}

/// Processes whose workers are watched; those beyond get no links by this.
const MAX_POOLS: usize = 4096;
/// Threads of one process that are watched.
const MAX_WORKERS: usize = 1024;
/// Calls of a worker between two answers; a thread with more is none.
const MAX_CALLS: usize = 256;
/// How often workers must have been idle.
const SHOWN: u32 = 50;
/// How long a worker has had nothing to do if work after an answer would have shown, nanoseconds.
const IDLE: u64 = 2_000_000;
