//! What is bounded, and what happens at the bound.
//!
//! A span that waits too long goes out without what it waited for; an exchange that takes too long, or of
//! which there are too many, is given up. Each has its counter. Nothing here may loop without removing
//! something.

use super::Output;
use super::graph::Choice;
use super::ledger::{Dropped, Orphan};
use super::node::{Fate, NodeId, Phase, State, Wait};
use super::stitcher::Stitcher;
use crate::identity::{Monotonic, Role};

impl Stitcher {
    /// Everything whose time has come.
    pub(super) fn expire(&mut self, out: &mut Vec<Output>) {
        self.expire_past();
        while let Some(&(at, node)) = self.deadlines.first()
            && at <= self.clock
        {
            self.force(node, Orphan::Expired, out);
        }
        while let Some(&(at, node)) = self.doomed.first()
            && at <= self.clock
        {
            self.doomed.remove(&(at, node));
            self.give_up(node, |dropped| &mut dropped.never_closed, out);
        }
        while let Some(&(at, node)) = self.remembered.first()
            && at <= self.clock
        {
            self.forget_client(node);
            self.remembered.remove(&(at, node));
        }
        while let Some(&(at, connection)) = self.closing.first()
            && at <= self.clock
        {
            self.forget_connection(connection);
            self.closing.remove(&(at, connection));
        }
    }

    /// When something will be due.
    pub(super) fn next_deadline(&self) -> Option<Monotonic> {
        let first = [self.deadlines.first(), self.doomed.first(), self.remembered.first()];
        let ready = (!self.ready.is_empty()).then_some(self.clock);
        first
            .into_iter()
            .flatten()
            .map(|&(at, _)| at)
            .chain(self.closing.first().map(|&(at, _)| at))
            .chain(ready)
            .chain(self.detained_until())
            .min()
    }

    /// Keeps what is held within the limits.
    pub(super) fn enforce_bounds(&mut self, out: &mut Vec<Output>) {
        while self.unbound > self.settings.limits.pending_spans
            && let Some(&(_, node)) = self.deadlines.first()
        {
            self.force(node, Orphan::Limit, out);
        }
        while self.open.len() > self.settings.limits.open_exchanges
            && let Some(&node) = self.open.first()
        {
            self.give_up(node, |dropped| &mut dropped.open_limit, out);
        }
        while self.remembered.len() > self.settings.limits.remembered_clients
            && let Some(&(at, node)) = self.remembered.first()
        {
            self.ledger.forgotten.clients += 1;
            self.forget_client(node);
            self.remembered.remove(&(at, node));
        }
        while self.connections.len() > self.settings.limits.connections
            && let Some((_, connection)) = self.connections_by_age.pop_first()
        {
            self.ledger.forgotten.connections += 1;
            self.forget_connection(connection);
        }
        while self.bytes > self.settings.limits.pending_bytes && self.shrink(out) {}
    }

    /// Frees some memory; false if there is nothing left to free.
    fn shrink(&mut self, out: &mut Vec<Output>) -> bool {
        if let Some(&(at, node)) = self.remembered.first() {
            self.ledger.forgotten.clients += 1;
            self.forget_client(node);
            self.remembered.remove(&(at, node));
        } else if let Some(&(_, node)) = self.deadlines.first() {
            self.force(node, Orphan::Limit, out);
        } else if let Some(&node) = self.open.first() {
            self.give_up(node, |dropped| &mut dropped.byte_limit, out);
        } else if self.free_a_detained(out) {
        } else if !self.ready.is_empty() {
            self.link_ready(out);
        } else {
            return false;
        }
        true
    }

    /// Decides a node that cannot wait any longer.
    pub(super) fn force(&mut self, node: NodeId, cause: Orphan, out: &mut Vec<Output>) {
        let Some(waiting) = self.nodes.get(&node) else { return };
        match waiting.wait() {
            Some(Wait::Client) => {
                let known = self.connections.get(&waiting.exchange.connection);
                let known = known.is_some_and(|c| c.peer != super::node::Peer::Unknown);
                // Where nobody said that the other end is here, a server without context is a root.
                let cause = match cause {
                    Orphan::Expired if !known => None,
                    Orphan::Expired if self.has_silent_client(waiting) => Some(Orphan::ClientUnseen),
                    cause => Some(cause),
                };
                self.without_client(node, cause, out);
            }
            Some(Wait::Rules | Wait::Answer(_) | Wait::Owner | Wait::Worker) | None => {
                self.decide(node, Choice::Orphan(cause), out)
            }
        }
    }

    /// Gives an exchange up that is under way.
    fn give_up(&mut self, id: NodeId, counter: impl Fn(&mut Dropped) -> &mut u64, out: &mut Vec<Output>) {
        if !self.nodes.get(&id).is_some_and(|node| node.is_open()) {
            return;
        }
        // Decided first, so that what is below it has a trace.
        self.force(id, Orphan::Limit, out);
        self.refuse_calls(id, Orphan::NeverAnswered, out);
        let Some(node) = self.nodes.get(&id) else { return };
        let process = node.process;
        if node.role == Role::Server {
            if node.answered.is_none() && self.processes.contains_key(&process) {
                self.lose_rule(process, |lost| &mut lost.request_given_up);
            }
            self.release_thread(id);
            self.no_longer_live(id);
        }
        // It may follow one that is not decided: then that is decided, too.
        let mut at = id;
        while let Some(&State::Follows(parent)) = self.nodes.get(&at).map(|node| &node.state) {
            at = parent;
        }
        self.force(at, Orphan::Limit, out);
        let Some(node) = self.nodes.get(&id) else { return };
        if let State::Bound(bound) = &node.state
            && bound.fate == Fate::Kept
        {
            out.push(Output::Abandoned { trace: bound.trace, span: node.span });
        }
        *counter(&mut self.ledger.dropped) += 1;
        self.remove(id);
    }

    /// The end of everything.
    pub(super) fn give_up_everything(&mut self, out: &mut Vec<Output>) {
        while let Some(&(_, node)) = self.deadlines.first() {
            self.force(node, Orphan::Shutdown, out);
        }
        while let Some(&node) = self.open.first() {
            self.give_up(node, |dropped| &mut dropped.shutdown, out);
        }
        debug_assert!(self.nodes.values().all(|node| matches!(node.phase, Phase::Sealed)));
    }
}
