//! Inside a process: on whose behalf is a call made? The rules `waiter` and `task`, from what walks found.
//!
//! ```text
//!   server:  request read ─── owns keys from its first byte ─────────▶ answer's last byte
//!                             (some are known at the read, some only at the answer)
//!   client:  claims (key, time) ──▶ who owned this key at this time?  exactly one ──▶ parent
//!                  └── lineage: (parent of the key's task, time of its birth) ──▶ …
//! ```
//! A claim is compared only once every request that was under way at its time has said what it owns: that is when
//! the rule is final. Requests that are over are remembered for a while, since a task outlives its request. A key
//! that two requests owned at once links nothing, and a pointer that was used again is told by the times.
//!
//! Lineage is no proof: a worker that one request starts and that works for all descends from that request, and nothing that
//! can be read tells it from a task that works for its maker. So such a link is `inferred`, made only where that is allowed,
//! and even then only some time after the maker's request is over, if the task, with all that it made, made no call since;
//! one that has made a single call in its life may have made it then. Two things together are a proof: the request made the
//! task, and it is the one that waits for something that the task *holds*; then the link is `task`, under the same conditions.
//! If another request waits for what the task holds, lineage says nothing, and that one is `inferred` where workers hold another
//! thing with each job ([`Jobs`]). A process in which what descends from one request was
//! seen to answer another is *doubted*: nothing is inferred of it from then on, nor what waited until then.
//!
//! It must never choose among candidates, or compare keys of two processes.

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use foldhash::HashMap;

use super::graph::{Choice, allowed};
use super::jobs::Jobs;
use super::ledger::Orphan;
use super::node::{Bound, NodeId, Phase, Wait};
use super::span::{LinkMethod, SpanId};
use super::stitcher::Stitcher;
use super::{Output, Serving};
use crate::identity::{
    Birth, Claim, EvidenceId, Facts, Gate, Held, Key, Moment, Monotonic, ProcessKey, Role,
};

/// What is known of the tasks of one process.
#[derive(Debug, Default)]
pub(super) struct Tasks {
    /// Who owns or owned a key.
    owners: HashMap<Key, Owners>,
    /// Requests under way that have not said what they own, by when they began.
    undetermined: BTreeSet<(Monotonic, NodeId)>,
    /// Requests under way that have said what they own and will say more.
    unfinished: BTreeSet<(Monotonic, NodeId)>,
    /// Who made a task, and when; the latest last.
    births: HashMap<Key, VecDeque<(Monotonic, Key)>>,
    /// Their keys in the order in which they came, to forget the oldest.
    births_by_age: VecDeque<Key>,
    /// What tasks that others made have called, themselves or through those that they made.
    calls: HashMap<Life, Calls>,
    /// Those in the order in which they came, to forget the oldest.
    calls_by_age: VecDeque<Life>,
    /// What workers hold at their calls.
    jobs: Jobs,
    /// What was likely was seen to be wrong once: nothing is inferred any more.
    doubted: bool,
}

/// A task that another made. Its key may be an address, which is used again as soon as it is over.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub(super) struct Life {
    key: Key,
    /// When it was made; 0 where keys are never used again.
    born: Monotonic,
}

/// The calls of a task that another made.
#[derive(Clone, Copy, Debug)]
struct Calls {
    count: u64,
    last: Monotonic,
}

/// The requests that own or owned one key, in the order in which this became known.
#[derive(Debug, Default)]
struct Owners {
    known: VecDeque<Owner>,
    /// Until when there may have been others, which are no longer known: of these times nothing can be said.
    unknown_until: Option<Monotonic>,
}

impl Owners {
    /// Adds one; forgets the oldest if there are too many, and returns whether that was so.
    fn add(&mut self, mut owner: Owner) -> bool {
        for other in &mut self.known {
            if other.until.is_none_or(|until| until > owner.from) {
                (owner.shared, other.shared) = (true, true);
            }
        }
        self.known.push_back(owner);
        if self.known.len() <= MAX_OWNERS {
            return false;
        }
        if let Some(oldest) = self.known.pop_front() {
            // One that is not over makes the key useless from now on.
            self.unknown_until = self.unknown_until.max(Some(oldest.until.unwrap_or(Monotonic(u64::MAX))));
        }
        true
    }

    /// It is over; most often the one that came last.
    fn end(&mut self, node: NodeId, ended: Monotonic) {
        for owner in self.known.iter_mut().rev().filter(|owner| owner.node == node).take(1) {
            owner.until = Some(ended);
        }
    }

    /// Forgets one, most often the one that came first; returns whether none is left.
    fn forget(&mut self, node: NodeId) -> bool {
        if let Some(at) = self.known.iter().position(|owner| owner.node == node) {
            self.known.remove(at);
        }
        self.known.is_empty()
    }
}

impl Tasks {
    fn is_empty(&self) -> bool {
        !self.doubted
            && self.calls.is_empty()
            && self.jobs.is_empty()
            && self.owners.is_empty()
            && self.undetermined.is_empty()
            && self.unfinished.is_empty()
            && self.births.is_empty()
    }

    /// A task, or one that it made, made a call.
    fn called(&mut self, task: Life, at: Monotonic) {
        if let Some(calls) = self.calls.get_mut(&task) {
            calls.count += 1;
            calls.last = calls.last.max(at);
            return;
        }
        self.calls.insert(task, Calls { count: 1, last: at });
        self.calls_by_age.push_back(task);
        if self.calls_by_age.len() > MAX_CALLS
            && let Some(oldest) = self.calls_by_age.pop_front()
        {
            self.calls.remove(&oldest);
        }
    }

    /// Whether a task worked for a request that was over then, and for no other, as far as its calls tell.
    fn worked_for(&self, task: Life, over: Monotonic) -> bool {
        self.calls.get(&task).is_some_and(|calls| calls.count == 1 || calls.last <= over)
    }

    /// A request has said all that it owns.
    fn said_all(&mut self, began: Monotonic, node: NodeId) {
        self.undetermined.remove(&(began, node));
        self.unfinished.remove(&(began, node));
    }
}

/// A request that owns a key.
#[derive(Clone, Debug)]
struct Owner {
    node: NodeId,
    from: Monotonic,
    until: Option<Monotonic>,
    gate: Option<Arc<Facts>>,
    /// Another request owned the key at the same time.
    shared: bool,
}

impl Owner {
    /// What the process had not made when this request was read, if that was asked.
    fn gate(&self) -> Option<&Gate> {
        self.gate.as_ref()?.gate.as_ref()
    }
}

/// A request that is over and whose keys are remembered.
#[derive(Debug)]
pub(super) struct Past {
    pub process: ProcessKey,
    pub span: SpanId,
    pub bound: Bound,
    keys: Vec<Key>,
    forget: Monotonic,
}

/// What a node has of tasks.
#[derive(Debug, Default)]
pub(super) struct Told {
    /// A server's keys.
    keys: Vec<Key>,
    /// A client's claims, lineage included, strongest first.
    claims: Vec<Line>,
    /// Who waits for what the caller of a client holds, if anybody does.
    #[expect(clippy::box_collection, reason = "eight bytes in each node, most of which have none")]
    held: Option<Box<Vec<Held>>>,
    /// What it will be linked to by lineage if its task calls nothing more.
    likely: Option<Likely>,
    /// The answer's read may bring more.
    later: bool,
    /// When the call may be given up as an orphan.
    patience: Monotonic,
}

/// A claim, and how one comes to it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Line {
    /// Who owned the key then?
    pub at: Monotonic,
    /// The claim.
    pub claim: Claim,
    /// The tasks between: who asked, who made that one, and so on. None if the claim is that of who asked.
    pub below: Vec<Life>,
}

/// A link by lineage that waits for what the task does after the request.
#[derive(Clone, Debug)]
pub(super) struct Likely {
    owner: NodeId,
    method: LinkMethod,
    /// When the request was over.
    over: Monotonic,
    below: Vec<Life>,
}

/// Everything that this rule keeps.
#[derive(Debug, Default)]
pub(super) struct Ownership {
    evidence: crate::identity::evidence::Evidence,
    tasks: HashMap<ProcessKey, Tasks>,
    past: BTreeMap<NodeId, Past>,
    /// Calls that wait for this rule.
    waiting: BTreeSet<NodeId>,
    /// Calls that had facts and went out without a parent.
    unowned: Vec<(ProcessKey, Orphan, Vec<Claim>)>,
}

impl Ownership {
    /// Requests that are remembered, and calls that wait.
    pub fn sizes(&self) -> (usize, usize) {
        (self.past.len(), self.waiting.len())
    }
}

/// What is claimed of who asked for something.
pub(super) struct Claimed<'a> {
    pub process: ProcessKey,
    /// When it was asked for.
    pub called: Monotonic,
    /// Who owned this key then? Strongest first.
    pub claims: &'a [Line],
    /// Who waited for what the caller holds?
    pub held: &'a [Held],
    /// The request that it carries, which did not ask for it.
    pub own: Option<NodeId>,
    /// More may be claimed.
    pub hopeful: bool,
    /// Requests may be told late.
    pub patient: bool,
    /// Where a link that is only likely yet is noted: the request is remembered no longer than its keys.
    pub likely: &'a Cell<Option<Likely>>,
}

/// The requests that wait for what a caller holds.
#[derive(Clone, Copy)]
enum Waiting {
    None,
    One(NodeId),
    Several,
}

enum Found {
    /// It, since when, and until when if it is over.
    One(NodeId, Monotonic, Option<Monotonic>),
    None,
    Shared,
}

impl Stitcher {
    /// Keeps what a walk found of a call that is about to be handed over, under the number that its
    /// [`Moment`] is to carry.
    pub fn note(&mut self, facts: Facts) -> Option<EvidenceId> {
        self.owned.evidence.put(facts)
    }

    /// Calls whose evidence led nowhere since this was last asked: the process, why, and what was claimed.
    pub fn take_unowned(&mut self) -> Vec<(ProcessKey, Orphan, Vec<Claim>)> {
        std::mem::take(&mut self.owned.unowned)
    }

    fn facts(&self, moment: &Moment) -> Option<Arc<Facts>> {
        self.owned.evidence.get(moment.evidence?)
    }

    /// A task was made by another.
    pub(super) fn born(&mut self, process: ProcessKey, birth: Birth) {
        let tasks = self.owned.tasks.entry(process).or_default();
        let births = tasks.births.entry(birth.child).or_default();
        if births.len() >= MAX_LIVES {
            births.pop_front();
        } else {
            tasks.births_by_age.push_back(birth.child);
        }
        births.push_back((birth.time, birth.parent));
        while tasks.births_by_age.len() > MAX_BIRTHS
            && let Some(oldest) = tasks.births_by_age.pop_front()
        {
            self.ledger.forgotten.births += 1;
            if let Some(lives) = tasks.births.get_mut(&oldest) {
                lives.pop_front();
                if lives.is_empty() {
                    tasks.births.remove(&oldest);
                }
            }
        }
    }

    /// A request was read.
    pub(super) fn own(&mut self, node: NodeId, began: &Moment) {
        let facts = self.facts(began);
        let Some(server) = self.nodes.get(&node) else { return };
        let process = server.process;
        match facts.filter(|facts| !facts.owns.is_empty()) {
            Some(facts) => {
                if facts.more {
                    let tasks = self.owned.tasks.entry(process).or_default();
                    tasks.unfinished.insert((began.time, node));
                }
                self.add_keys(node, began.time, &facts);
            }
            None => {
                self.owned.tasks.entry(process).or_default().undetermined.insert((began.time, node));
            }
        }
    }

    fn add_keys(&mut self, node: NodeId, from: Monotonic, facts: &Arc<Facts>) {
        let Some(server) = self.nodes.get_mut(&node) else { return };
        let tasks = self.owned.tasks.entry(server.process).or_default();
        for &key in facts.owns.iter().take(MAX_KEYS) {
            if server.told.keys.contains(&key) {
                continue;
            }
            server.told.keys.push(key);
            let gate = facts.gate.is_some().then(|| Arc::clone(facts));
            let owner = Owner { node, from, until: None, gate, shared: false };
            if tasks.owners.entry(key).or_default().add(owner) {
                self.ledger.forgotten.lives += 1;
            }
        }
    }

    /// A request's answer began: now it is known what it owns.
    pub(super) fn own_by_answer(&mut self, node: NodeId, at: &Moment) {
        let facts = self.facts(at);
        let Some(server) = self.nodes.get(&node) else { return };
        let (process, began, read) = (server.process, server.began, server.at);
        // A process that passes the socket on answers in another's name: its keys mean nothing here.
        if let Some(facts) = facts.filter(|_| at.process == process) {
            // What serves it was made, or given to it, once its head was there.
            self.add_keys(node, read, &facts);
        }
        self.determined(node, process, began);
    }

    fn determined(&mut self, node: NodeId, process: ProcessKey, began: Monotonic) {
        if let Some(tasks) = self.owned.tasks.get_mut(&process) {
            tasks.said_all(began, node);
        }
        self.tidy_tasks(process);
    }

    /// A request is over: from now on it owns nothing more.
    pub(super) fn disown(&mut self, node: NodeId, ended: Monotonic) {
        let Some(server) = self.nodes.get(&node) else { return };
        let (process, began) = (server.process, server.began);
        if let Some(tasks) = self.owned.tasks.get_mut(&process) {
            for key in &server.told.keys {
                if let Some(owners) = tasks.owners.get_mut(key) {
                    owners.end(node, ended);
                }
            }
        }
        self.determined(node, process, began);
    }

    /// A server leaves the graph: what it owned is remembered if it is known whose that is.
    pub(super) fn bury(&mut self, node: &super::node::Node, id: NodeId) {
        self.owned.waiting.remove(&id);
        if node.role == Role::Client {
            return;
        }
        if let Some(tasks) = self.owned.tasks.get_mut(&node.process) {
            tasks.said_all(node.began, id);
        }
        if node.told.keys.is_empty() {
            return self.tidy_tasks(node.process);
        }
        let super::node::State::Bound(bound) = &node.state else {
            return self.forget_keys(node.process, id, &node.told.keys);
        };
        let forget = self.after(self.settings.limits.pending_age);
        let (span, keys) = (node.span, node.told.keys.clone());
        let past = Past { process: node.process, span, bound: bound.clone(), keys, forget };
        self.owned.past.insert(id, past);
        while self.owned.past.len() > self.settings.limits.remembered_owners
            && let Some((oldest, past)) = self.owned.past.pop_first()
        {
            self.ledger.forgotten.owners += 1;
            self.forget_keys(past.process, oldest, &past.keys);
        }
    }

    fn forget_keys(&mut self, process: ProcessKey, node: NodeId, keys: &[Key]) {
        if let Some(tasks) = self.owned.tasks.get_mut(&process) {
            for key in keys {
                if tasks.owners.get_mut(key).is_some_and(|owners| owners.forget(node)) {
                    tasks.owners.remove(key);
                }
            }
        }
        self.tidy_tasks(process);
    }

    fn tidy_tasks(&mut self, process: ProcessKey) {
        if self.owned.tasks.get(&process).is_some_and(Tasks::is_empty) {
            self.owned.tasks.remove(&process);
        }
    }

    /// Births may have been missed: what is known of them may be of earlier lives.
    pub(super) fn forget_births(&mut self, process: Option<ProcessKey>) {
        for (of, tasks) in &mut self.owned.tasks {
            if process.is_none_or(|process| process == *of) {
                tasks.births.clear();
                tasks.births_by_age.clear();
                tasks.calls.clear();
                tasks.calls_by_age.clear();
            }
        }
        self.owned.tasks.retain(|_, tasks| !tasks.is_empty());
    }

    pub(super) fn doubt(&mut self, process: ProcessKey) {
        self.owned.tasks.entry(process).or_default().doubted = true;
    }

    pub(super) fn forget_tasks(&mut self, process: ProcessKey) {
        self.owned.tasks.remove(&process);
    }

    /// Whether a call is for this rule to decide; then it waits for it.
    pub(super) fn claim(&mut self, node: NodeId, began: &Moment, serving: Serving) -> bool {
        let Some(facts) = self.facts(began) else { return false };
        // A call by a thread that has no task is for the thread's rule.
        if facts.claims.is_empty() && (!facts.later || serving == Serving::OneRequestPerThread) {
            return false;
        }
        self.add_claims(node, began.time, &facts);
        let patience = self.after(PATIENCE);
        if let Some(client) = self.nodes.get_mut(&node) {
            client.told.patience = patience;
            client.told.later = facts.later;
        }
        let deadline = self.after(self.settings.limits.pending_age);
        self.wait(node, Wait::Owner, deadline);
        self.owned.waiting.insert(node);
        true
    }

    /// The call that reads an answer says whose the request was.
    pub(super) fn claim_by_answer(&mut self, node: NodeId, at: &Moment) {
        let facts = self.facts(at);
        let Some(client) = self.nodes.get_mut(&node) else { return };
        if client.wait() != Some(Wait::Owner) {
            return;
        }
        client.told.later = false;
        client.told.likely = None;
        let began = client.began;
        if let Some(facts) = facts.filter(|_| at.process == client.process) {
            // Whoever waits for the answer waited when the request was sent.
            self.add_claims(node, began, &facts);
        }
    }

    /// Puts claims to a call, each followed by those of its lineage.
    fn add_claims(&mut self, node: NodeId, time: Monotonic, facts: &Facts) {
        let Some(client) = self.nodes.get_mut(&node) else { return };
        let claims = &mut client.told.claims;
        let (before, mut tasks) = (claims.len(), self.owned.tasks.get_mut(&client.process));
        follow(claims, tasks.as_deref(), time, facts);
        for line in claims.iter().skip(before) {
            if let (Some(tasks), Some(&maker)) = (tasks.as_mut(), line.below.last()) {
                tasks.called(maker, time);
            }
        }
        // What proves more is asked first.
        claims.sort_by_key(|line| !line.below.is_empty());
        for &thing in facts.held.iter().take(MAX_CLAIMS) {
            let held = client.told.held.get_or_insert_default();
            if !held.contains(&thing) {
                held.push(thing);
            }
        }
        // Who serves no request waits for a job himself.
        if let (Some(tasks), Some(worker)) = (tasks, facts.claims.first().map(|claim| claim.key)) {
            for &held in facts.held.iter().take(MAX_CLAIMS) {
                if tasks.owners.contains_key(&held.waiter) {
                    tasks.jobs.hold(worker, held);
                }
            }
        }
    }

    /// What the tasks claim that asked for a connection, if that is for this rule to decide.
    pub(super) fn claims_of(&self, at: &Moment, serving: Serving) -> Option<Vec<Line>> {
        let facts = self.facts(at)?;
        if facts.claims.is_empty() && (!facts.later || serving == Serving::OneRequestPerThread) {
            return None;
        }
        let mut claims = Vec::new();
        follow(&mut claims, self.owned.tasks.get(&at.process), at.time, &facts);
        Some(claims)
    }

    /// Decides the calls for which this rule is final. Done at a poll, when what had happened by then is known.
    pub(super) fn link_owned(&mut self, out: &mut Vec<Output>) {
        if self.owned.waiting.is_empty() {
            return;
        }
        let waiting: Vec<NodeId> = self.owned.waiting.iter().copied().collect();
        for node in waiting {
            let likely = Cell::default();
            let verdict = self.verdict_of(node, &likely);
            if let (Some(likely), Some(client)) = (likely.take(), self.nodes.get_mut(&node)) {
                client.told.likely = Some(likely);
            }
            if let Some(choice) = verdict {
                self.owned.waiting.remove(&node);
                if let Choice::Orphan(cause) = choice {
                    self.tell_unowned(node, cause);
                }
                self.decide(node, choice, out);
            }
        }
    }

    fn verdict_of(&self, node: NodeId, likely: &Cell<Option<Likely>>) -> Option<Choice> {
        let Some(client) = self.nodes.get(&node) else { return Some(Choice::Root) };
        if client.wait() != Some(Wait::Owner) {
            return Some(Choice::Root); // decided otherwise: deciding again does nothing
        }
        if let Some(likely) = &client.told.likely {
            match self.certain(client.process, client.began, likely) {
                // Not by lineage; who waits for what the task holds may still tell.
                Some(Choice::Orphan(_)) => {}
                choice => return choice,
            }
        }
        self.judge(&Claimed {
            process: client.process,
            called: client.began,
            claims: &client.told.claims,
            held: client.told.held.as_deref().map_or(&[], Vec::as_slice),
            own: self.own_server(node),
            hopeful: client.told.later && matches!(client.phase, Phase::Open),
            patient: !self.patience_is_over(node),
            likely,
        })
    }

    /// Whether a link by lineage holds; none while its task may still call.
    fn certain(&self, process: ProcessKey, called: Monotonic, likely: &Likely) -> Option<Choice> {
        let Likely { owner, method, over, ref below } = *likely;
        let tasks = self.owned.tasks.get(&process);
        let alone = |tasks: &Tasks| below.iter().all(|task| tasks.worked_for(*task, over));
        if !tasks.is_some_and(|tasks| !tasks.doubted && alone(tasks)) {
            return Some(Choice::Orphan(Orphan::WorksOn));
        }
        let wait = Monotonic(over.max(called).0.saturating_add(WORKS_ON));
        (wait <= self.clock).then(|| self.link_to(owner, method))
    }

    fn link_to(&self, owner: NodeId, method: LinkMethod) -> Choice {
        if self.nodes.contains_key(&owner) {
            Choice::Follow(owner, method)
        } else {
            Choice::Past(owner, method)
        }
    }

    /// Whose something is that was asked for; none while this is not final.
    pub(super) fn judge(&self, claimed: &Claimed<'_>) -> Option<Choice> {
        let tasks = self.owned.tasks.get(&claimed.process);
        let first = tasks.and_then(|tasks| tasks.undetermined.first()).map(|&(from, _)| from);
        if first.is_some_and(|first| !claimed.held.is_empty() && first <= claimed.called) {
            return None;
        }
        let waiting = tasks.map_or(Waiting::None, |tasks| self.waiting_for_held(tasks, claimed));
        let mut cause = Orphan::NoOwner;
        for Line { at, claim, below } in claimed.claims {
            // A request that began later cannot have owned anything then.
            if first.is_some_and(|first| first <= *at) {
                return None;
            }
            match tasks.map_or(Found::None, |tasks| find(tasks, claimed, *at, claim)) {
                Found::One(_, from, _) if self.lost_between(from, claimed.called) => {
                    cause = Orphan::RecordsLost;
                }
                Found::One(owner, _, over) => {
                    let method = match waiting {
                        Waiting::One(waiting) if claim.born.is_some() && waiting == owner => LinkMethod::Task,
                        Waiting::One(..) | Waiting::Several if !below.is_empty() => {
                            cause = Orphan::WorksOn;
                            continue;
                        }
                        _ => claim.method,
                    };
                    if !allowed(method, self.settings.weakest_link) {
                        cause = Orphan::WeakestLink;
                        continue;
                    }
                    let proved = below.is_empty() && claim.method != LinkMethod::Inferred;
                    if let (Some(tasks), false) = (tasks, proved) {
                        if tasks.doubted {
                            cause = Orphan::WorksOn;
                            continue;
                        }
                        // It is known only afterwards whether its task worked on, or for others too.
                        let over = over?;
                        if !below.iter().all(|task| tasks.worked_for(*task, over)) {
                            cause = Orphan::WorksOn;
                            continue;
                        }
                        let likely = Likely { owner, method, over, below: below.clone() };
                        let choice = self.certain(claimed.process, claimed.called, &likely);
                        claimed.likely.set(Some(likely));
                        return choice;
                    }
                    return Some(self.link_to(owner, method));
                }
                Found::Shared => return (!claimed.patient).then_some(Choice::Orphan(Orphan::KeyShared)),
                Found::None => {}
            }
        }
        if claimed.hopeful || claimed.patient {
            return None;
        }
        let inferred = allowed(LinkMethod::Inferred, self.settings.weakest_link);
        if let (Waiting::One(owner), Some(worker), true) = (waiting, claimed.claims.first(), inferred) {
            if tasks.is_some_and(|tasks| !tasks.doubted && tasks.jobs.are_believed(worker.claim.key)) {
                return Some(self.link_to(owner, LinkMethod::Inferred));
            }
            cause = Orphan::WorksOn;
        }
        let unfinished = tasks.and_then(|tasks| tasks.unfinished.first());
        if claimed.claims.iter().any(|line| unfinished.is_some_and(|(from, _)| *from <= line.at)) {
            return None;
        }
        let serves = tasks.is_some_and(|tasks| !tasks.owners.is_empty());
        Some(if serves || cause != Orphan::NoOwner { Choice::Orphan(cause) } else { Choice::Root })
    }

    /// Whose request it is that waited for what the caller holds.
    fn waiting_for_held(&self, tasks: &Tasks, claimed: &Claimed<'_>) -> Waiting {
        let mut waiting = Waiting::None;
        for &Held { waiter: key, .. } in claimed.held {
            let claim = Claim { key, at: None, born: None, method: LinkMethod::Inferred };
            waiting = match (find(tasks, claimed, claimed.called, &claim), waiting) {
                (Found::None, same) => same,
                // A request may have ended, and another begun, unseen.
                (Found::One(_, from, _), _) if self.lost_between(from, claimed.called) => Waiting::Several,
                (Found::One(node, ..), Waiting::None) => Waiting::One(node),
                (Found::One(node, ..), Waiting::One(known)) if node == known => Waiting::One(known),
                (Found::One(..) | Found::Shared, _) => Waiting::Several,
            };
        }
        waiting
    }

    /// Whether records were lost in this time: then a request may have ended, and another begun, unseen.
    pub(super) fn lost_between(&self, from: Monotonic, to: Monotonic) -> bool {
        self.losses.iter().any(|&(since, until)| since <= to && from <= until)
    }

    fn patience_is_over(&self, node: NodeId) -> bool {
        self.nodes.get(&node).is_none_or(|client| client.told.patience <= self.clock)
    }

    fn tell_unowned(&mut self, node: NodeId, cause: Orphan) {
        let Some(client) = self.nodes.get(&node) else { return };
        if self.owned.unowned.len() < MAX_UNOWNED {
            let claims = client.told.claims.iter().map(|line| line.claim).collect();
            self.owned.unowned.push((client.process, cause, claims));
        }
    }

    /// Forgets what was owned long ago.
    pub(super) fn expire_past(&mut self) {
        while let Some((&id, past)) = self.owned.past.first_key_value()
            && past.forget <= self.clock
        {
            if let Some(past) = self.owned.past.remove(&id) {
                self.forget_keys(past.process, id, &past.keys);
            }
        }
    }

    /// A request that is over.
    pub(super) fn past(&self, id: NodeId) -> Option<&Past> {
        self.owned.past.get(&id)
    }
}

/// The one request that owned a key at a time.
fn find(tasks: &Tasks, claimed: &Claimed<'_>, at: Monotonic, claim: &Claim) -> Found {
    let Some(owners) = tasks.owners.get(&claim.key) else { return Found::None };
    // A request that is no longer known may have owned it as well.
    if owners.unknown_until.is_some_and(|until| at <= until) {
        return Found::None;
    }
    let owners = owners.known.iter().filter(|owner| Some(owner.node) != claimed.own);
    if let Some(task) = claim.born {
        let made = |owner: &&Owner| {
            owner.from <= claimed.called && owner.gate().is_none_or(|gate| gate.is_before(task))
        };
        return match owners.filter(made).max_by_key(|owner| (owner.from, owner.node)) {
            // It may have been made in this one's time, or in an earlier one's.
            Some(owner) if owner.gate().is_none() => Found::None,
            Some(owner) if owner.shared => Found::Shared,
            Some(owner) => Found::One(owner.node, owner.from, owner.until),
            None => Found::None,
        };
    }
    let mut then = owners.filter(|o| o.from <= at && o.until.is_none_or(|until| at <= until));
    match (then.next(), then.next()) {
        (Some(_), Some(_)) => Found::Shared,
        (Some(owner), None) => Found::One(owner.node, owner.from, owner.until),
        (None, _) => Found::None,
    }
}

/// Adds claims, each followed by those of its lineage.
fn follow(to: &mut Vec<Line>, tasks: Option<&Tasks>, time: Monotonic, facts: &Facts) {
    for &claim in facts.claims.iter().take(MAX_CLAIMS) {
        let at = claim.at.unwrap_or(time);
        let made = |task| Life { key: Key { value: task, ..claim.key }, born: Monotonic(0) };
        let below = claim.born.map(made).into_iter().collect();
        let mut line = Line { at, claim, below };
        for _ in 0..=MAX_LINEAGE {
            if to.len() >= MAX_CLAIMS * 2 {
                return;
            }
            if !to.contains(&line) {
                to.push(line.clone());
            }
            let births = tasks.and_then(|tasks| tasks.births.get(&line.claim.key));
            let birth = births.and_then(|lives| lives.iter().rev().find(|(time, _)| *time <= line.at));
            let Some(&(born, parent)) = birth else { break };
            line.below.push(Life { key: line.claim.key, born });
            line.at = born;
            line.claim = Claim { key: parent, born: None, method: LinkMethod::Inferred, ..line.claim };
        }
    }
}

/// Keys that one request may own.
const MAX_KEYS: usize = 8;
/// Claims of one call, and as many again by lineage.
const MAX_CLAIMS: usize = 24;
/// Requests remembered of one key. A key is used again as soon as its request is over, thousands of times a second
/// for an object of a pool, and all that is done with one looks at each of them.
const MAX_OWNERS: usize = 64;
/// How far a lineage is followed: tasks nest a few deep.
const MAX_LINEAGE: usize = 12;
/// Lives of one key that are remembered: an address is used again, and a call may be told late.
const MAX_LIVES: usize = 4;
/// How long after a request a task that it made is watched for further calls, nanoseconds, before it is believed to have
/// worked for that request alone.
const WORKS_ON: u64 = 300_000_000;
/// Births remembered of one process: some seconds of a busy one.
const MAX_BIRTHS: usize = 65_536;
/// Tasks of one process whose calls are remembered; of one that is forgotten nothing is believed.
const MAX_CALLS: usize = 16_384;
/// Calls told of between two looks.
const MAX_UNOWNED: usize = 256;
/// How long a call waits for requests that are told late, nanoseconds: pieces behind a hole are held for 50 ms.
pub(super) const PATIENCE: u64 = 150_000_000;
