//! Inside a process: on whose behalf is a call made? The rules `forwarded`, `header` for what an SDK made,
//! and `thread`.
//!
//! `thread` is a proof only if all of this holds: the thread that read the request also answers it, and
//! between the two it held no other unanswered request, earlier ones included; and the program is known to
//! serve one request per thread at a time, or the request was read from a blocking socket in no epoll set (in Java,
//! whose selectors take no blocking sockets, a socket that is blocking may still be in one). On
//! sockets alone two more things are asked, since a loop over blocking sockets would look the same: no two calls
//! of the thread in flight at once, and no record lost in that time. A process in which a thread once
//! held two unanswered requests loses the rule for life. That is certain once the earlier one is answered: if
//! its answer was merely lost, nothing was held.
//!
//! It must never choose among candidates.

use std::hash::{DefaultHasher, Hash, Hasher};

use super::graph::{Choice, allowed};
use super::ledger::Orphan;
use super::node::{NodeId, Phase, Process, Proof, State, Wait};
use super::span::{LinkMethod, SpanId, TraceId};
use super::stitcher::Stitcher;
use super::{Output, Serving};
use crate::identity::{Moment, Monotonic, ProcessKey, ThreadId};

/// What the context of an outbound request says.
enum Owner {
    /// It has none.
    Silent,
    /// It was passed on from this request.
    Request(NodeId),
    /// It was made in this process: the call's parent is a span of an SDK.
    Sdk,
    /// It is of no use.
    Unusable(Orphan),
}

impl Stitcher {
    /// A request was read: its thread holds it.
    pub(super) fn hold(
        &mut self,
        node: NodeId,
        began: &Moment,
        at: &Moment,
        serving: Serving,
        out: &mut Vec<Output>,
    ) {
        let watched = |moment: &Moment| moment.in_epoll && serving != Serving::OneIfBlocking;
        let blocking = |moment: &Moment| !moment.nonblocking && !watched(moment);
        let proof = match serving {
            _ if began.thread != at.thread || began.process != at.process => Proof::None,
            Serving::ManyPerThread => Proof::None,
            Serving::OneRequestPerThread => Proof::Program,
            Serving::Unknown | Serving::OneIfBlocking if blocking(began) && blocking(at) => Proof::Blocking,
            Serving::Unknown | Serving::OneIfBlocking => Proof::None,
        };
        let process = self.processes.entry(at.process).or_default();
        process.unanswered += 1;
        let held = process.threads.entry(at.thread).or_default();
        let others = held.clone();
        held.push(node);
        let Some(server) = self.nodes.get_mut(&node) else { return };
        server.held.proof = proof;
        server.held.overlapped = !others.is_empty();
        if let Some(key) = server.context_key() {
            process.contexts.entry(key).or_default().push(node);
            self.ledger.forgotten.contexts += self.inbound.insert(inbound_hash(at.process, key), ());
        }
        for other in others {
            if let Some(other) = self.nodes.get_mut(&other) {
                other.held.overlapped = true;
                other.held.followed = true;
            }
            self.refuse_calls(other, Orphan::TwoRequests, out);
        }
        self.pool_reads(at.process, at.thread, out);
    }

    /// Decides a call's parent, or says what it waits for.
    pub(super) fn open_client(
        &mut self,
        node: NodeId,
        began: &Moment,
        serving: Serving,
        suppressed: bool,
        out: &mut Vec<Output>,
    ) {
        if suppressed {
            return self.decide(node, Choice::Suppressed, out);
        }
        let weakest = self.settings.weakest_link;
        let cause = match self.owner(node) {
            Owner::Request(owner) if allowed(LinkMethod::Forwarded, weakest) => {
                return self.decide(node, Choice::Follow(owner, LinkMethod::Forwarded), out);
            }
            Owner::Sdk if allowed(LinkMethod::Header, weakest) => {
                return self.decide(node, Choice::Context, out);
            }
            Owner::Request(_) | Owner::Sdk => Some(Orphan::WeakestLink),
            Owner::Unusable(cause) => Some(cause),
            Owner::Silent => None,
        };
        if cause.is_none() && self.claim(node, began, serving) {
            return;
        }
        match self.holder(node, began, serving) {
            Ok(holder) => {
                if let Some(server) = self.nodes.get_mut(&holder) {
                    server.held.calls.push(node);
                }
                let deadline = self.after(self.settings.limits.pending_age);
                self.wait(node, Wait::Answer(holder), deadline);
            }
            Err(refused) if self.pool_calls(node, began, serving, refused, out) => {}
            Err(refused) => {
                let choice = cause.or(refused).map_or(Choice::Root, Choice::Orphan);
                self.decide(node, choice, out);
            }
        }
    }

    /// Whose context an outbound request carries.
    fn owner(&self, node: NodeId) -> Owner {
        let Some(client) = self.nodes.get(&node) else { return Owner::Silent };
        let Some(key) = client.context_key() else { return Owner::Silent };
        let own = self.own_server(node);
        let live = self.processes.get(&client.process).and_then(|process| process.contexts.get(&key));
        let mut live = live.into_iter().flatten().copied().filter(|&server| Some(server) != own);
        match (live.next(), live.next()) {
            (Some(only), None) => Owner::Request(only),
            (Some(_), Some(_)) => Owner::Unusable(Orphan::ContextAmbiguous),
            (None, _) if self.inbound.find(&inbound_hash(client.process, key)).is_some() => {
                Owner::Unusable(Orphan::ContextNotLive)
            }
            (None, _) => Owner::Sdk,
        }
    }

    /// As [`Self::holder_of`], for a call.
    fn holder(&self, node: NodeId, began: &Moment, serving: Serving) -> Result<NodeId, Option<Orphan>> {
        let Some(client) = self.nodes.get(&node) else { return Err(None) };
        let found = self.holder_of(client.process, client.thread, began.time, serving);
        // Two threads wrote the request.
        if began.thread != client.thread { found.and(Err(Some(Orphan::OtherThreadHolds))) } else { found }
    }

    /// The one request that the calling thread holds and may hold at a time, or why there is none: no
    /// cause if the process serves nothing.
    pub(super) fn holder_of(
        &self,
        process: ProcessKey,
        thread: ThreadId,
        time: Monotonic,
        serving: Serving,
    ) -> Result<NodeId, Option<Orphan>> {
        let Some(held) = self.processes.get(&process).filter(|p| p.unanswered > 0) else {
            return Err(None);
        };
        if !allowed(LinkMethod::Thread, self.settings.weakest_link) {
            return Err(Some(Orphan::WeakestLink));
        }
        if serving == Serving::ManyPerThread {
            return Err(Some(Orphan::ManyPerThread));
        }
        if self.rule_is_lost(process) {
            return Err(Some(Orphan::RuleLost));
        }
        let holder = match held.threads.get(&thread).map(Vec::as_slice) {
            None | Some([]) => return Err(Some(Orphan::OtherThreadHolds)),
            Some([only]) => *only,
            Some(_) => return Err(Some(Orphan::TwoRequests)),
        };
        match self.nodes.get(&holder) {
            Some(server) if server.held.overlapped => Err(Some(Orphan::TwoRequests)),
            Some(server) if server.held.proof == Proof::None => Err(Some(Orphan::NotBlocking)),
            Some(server) if server.at <= time => Ok(holder),
            _ => Err(Some(Orphan::OtherThreadHolds)),
        }
    }

    /// A server's response began: the rule is final for the calls of its thread.
    pub(super) fn answered(&mut self, node: NodeId, at: &Moment, out: &mut Vec<Output>) {
        self.release_thread(node);
        self.pool_answers(node, at, out);
        let Some(server) = self.nodes.get(&node) else { return };
        let process = server.process;
        let overlapped = server.held.overlapped;
        if server.held.followed {
            self.lose_rule(process, |lost| &mut lost.two_requests);
        }
        let Some(server) = self.nodes.get(&node) else { return };
        if overlapped {
            return self.refuse_calls(node, Orphan::TwoRequests, out);
        }
        if at.thread != server.thread || at.process != process {
            return self.refuse_calls(node, Orphan::OtherThreadAnswered, out);
        }
        if server.held.calls.is_empty() && server.held.connects.is_none() {
            return;
        }
        if let Some(server) = self.nodes.get_mut(&node) {
            server.held.ready = true;
        }
        self.ready.push(node);
    }

    /// A server's exchange ended without a response. `complete` says that none was merely missed.
    pub(super) fn never_answered(&mut self, node: NodeId, complete: bool, out: &mut Vec<Output>) {
        self.release_thread(node);
        let Some(server) = self.nodes.get(&node) else { return };
        if server.held.followed && complete {
            self.lose_rule(server.process, |lost| &mut lost.two_requests);
        }
        self.refuse_calls(node, Orphan::NeverAnswered, out);
    }

    /// Links the calls of the servers that were answered. Done at a poll, when losses up to now are known.
    pub(super) fn link_ready(&mut self, out: &mut Vec<Output>) {
        for node in std::mem::take(&mut self.ready) {
            let Some(server) = self.nodes.get_mut(&node) else { continue };
            server.held.ready = false;
            let calls = std::mem::take(&mut server.held.calls);
            let verdict = self.verdict(node, &calls);
            if self.nodes.get(&node).is_some_and(|server| server.held.connects.is_some()) {
                let called = self.intervals(&calls).into_iter().map(|(began, ended, _)| (began, ended));
                let called = called.collect();
                if let Some(connects) =
                    self.nodes.get_mut(&node).and_then(|server| server.held.connects.as_mut())
                {
                    connects.called = called;
                }
                self.decide_connects(node, verdict.is_ok());
            }
            for call in calls {
                if self.nodes.get(&call).and_then(|n| n.wait()) == Some(Wait::Answer(node)) {
                    let choice = match verdict {
                        Ok(()) => Choice::Follow(node, LinkMethod::Thread),
                        Err(cause) => Choice::Orphan(cause),
                    };
                    self.decide(call, choice, out);
                }
            }
            self.release(node);
        }
    }

    /// Whether nothing speaks against linking these calls to the request.
    fn verdict(&mut self, node: NodeId, calls: &[NodeId]) -> Result<(), Orphan> {
        let Some(server) = self.nodes.get(&node) else { return Ok(()) };
        let (process, at, answered) = (server.process, server.at, server.answered.unwrap_or(server.at));
        let proof = server.held.proof;
        if self.rule_is_lost(process) {
            return Err(Orphan::RuleLost);
        }
        if proof == Proof::Program {
            return Ok(());
        }
        if self.losses.iter().any(|&(since, until)| since <= answered && at <= until) {
            return Err(Orphan::RecordsLost);
        }
        match self.calls_overlap(calls) {
            Overlap::None => Ok(()),
            Overlap::Possible => Err(Orphan::TwoCalls),
            Overlap::Certain => {
                self.lose_rule(process, |lost| &mut lost.two_calls);
                Err(Orphan::TwoCalls)
            }
        }
    }

    /// Whether a call began before the response to an earlier one did.
    fn calls_overlap(&self, calls: &[NodeId]) -> Overlap {
        let mut spans = self.intervals(calls);
        spans.sort_unstable_by_key(|&(began, ..)| began);
        let mut overlap = Overlap::None;
        for (earlier, later) in spans.iter().zip(spans.iter().skip(1)) {
            match *earlier {
                (_, Some(end), certain) if end > later.0 => {
                    overlap = if certain { Overlap::Certain } else { overlap.max(Overlap::Possible) };
                }
                (_, None, _) => overlap = overlap.max(Overlap::Possible),
                _ => {}
            }
        }
        overlap
    }

    /// From when until when calls were under way, and whether their responses were seen.
    fn intervals(&self, calls: &[NodeId]) -> Vec<(Monotonic, Option<Monotonic>, bool)> {
        calls
            .iter()
            .filter_map(|call| self.nodes.get(call))
            .map(|call| match (&call.phase, &call.state) {
                _ if call.answered.is_some() => (call.began, call.answered, true),
                (Phase::Closed(exchange), _) => (call.began, Some(exchange.ended), false),
                (Phase::Sealed, State::Bound(_)) => (call.began, Some(call.began), false),
                _ => (call.began, None, false),
            })
            .collect()
    }

    /// The calls that wait for a server's answer get no parent by it.
    pub(super) fn refuse_calls(&mut self, node: NodeId, cause: Orphan, out: &mut Vec<Output>) {
        let Some(server) = self.nodes.get_mut(&node) else { return };
        let calls = std::mem::take(&mut server.held.calls);
        if server.held.connects.is_some() {
            self.decide_connects(node, false);
        }
        for call in calls {
            if self.nodes.get(&call).and_then(|n| n.wait()) == Some(Wait::Answer(node)) {
                self.decide(call, Choice::Orphan(cause), out);
            }
        }
        self.release(node);
    }

    /// A server's thread does not hold it any more.
    pub(super) fn release_thread(&mut self, node: NodeId) {
        let Some(server) = self.nodes.get(&node) else { return };
        let Some(process) = self.processes.get_mut(&server.process) else { return };
        let Some(held) = process.threads.get_mut(&server.thread) else { return };
        let before = held.len();
        held.retain(|&n| n != node);
        process.unanswered = process.unanswered.saturating_sub(before - held.len());
        if held.is_empty() {
            process.threads.remove(&server.thread);
        }
        tidy(&mut self.processes, server.process);
    }

    /// A server's context is not live any more.
    pub(super) fn no_longer_live(&mut self, node: NodeId) {
        let Some(server) = self.nodes.get(&node) else { return };
        let (Some(key), Some(process)) = (server.context_key(), self.processes.get_mut(&server.process))
        else {
            return;
        };
        if let Some(live) = process.contexts.get_mut(&key) {
            live.retain(|&n| n != node);
            if live.is_empty() {
                process.contexts.remove(&key);
            }
        }
        tidy(&mut self.processes, server.process);
    }

    pub(super) fn process_exited(&mut self, process: ProcessKey, out: &mut Vec<Output>) {
        self.processes.remove(&process);
        self.forget_pool(process, out);
        self.forget_tasks(process);
        self.lost.remove(&process);
    }

    pub(super) fn records_lost(&mut self, since: Monotonic, until: Monotonic) {
        let (since, until) = (since.min(until), since.max(until));
        if let Some(last) = self.losses.back_mut()
            && since <= last.1
        {
            *last = (last.0.min(since), last.1.max(until));
            return;
        }
        self.losses.push_back((since, until));
        if self.losses.len() > MAX_LOSSES
            && let (Some(first), Some(second)) = (self.losses.pop_front(), self.losses.front_mut())
        {
            second.0 = second.0.min(first.0);
        }
    }

    pub(super) fn lose_rule(
        &mut self,
        process: ProcessKey,
        counter: impl Fn(&mut super::ledger::ThreadRuleLost) -> &mut u64,
    ) {
        if !self.rule_is_lost(process) {
            self.lost.insert(process);
            *counter(&mut self.ledger.thread_rule_lost) += 1;
        }
    }

    fn rule_is_lost(&self, process: ProcessKey) -> bool {
        self.lost.len() >= self.settings.limits.lost_processes || self.lost.contains(&process)
    }
}

/// Whether two calls of a thread were in flight at once.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
enum Overlap {
    None,
    /// The earlier one's response was not seen.
    Possible,
    Certain,
}

/// A process of which nothing need be known is forgotten.
fn tidy(processes: &mut foldhash::HashMap<ProcessKey, Process>, key: ProcessKey) {
    if processes.get(&key).is_some_and(|p| p.unanswered == 0 && p.threads.is_empty() && p.contexts.is_empty())
    {
        processes.remove(&key);
    }
}

fn inbound_hash(process: ProcessKey, key: (TraceId, SpanId)) -> u64 {
    let mut hasher = DefaultHasher::new();
    (process, key).hash(&mut hasher);
    hasher.finish()
}

/// Losses remembered apart. More are taken together with the time between the oldest two.
const MAX_LOSSES: usize = 64;
