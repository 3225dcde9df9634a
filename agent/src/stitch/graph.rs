//! What a decision does: parents, traces, and spans going out.
//!
//! A trace's id is fixed when its root is decided, and everything below the root waits for that. It must
//! never change a span that went out, recurse (a chain may be as long as its maker likes), or make a span its
//! own ancestor.

use std::sync::Arc;

use super::Output;
use super::http::{self, Subject};
use super::ledger::Orphan;
use super::node::{Bound, Fate, NodeId, Peer, Phase, State, Wait};
use super::sampler::ParentState;
use super::span::{Kind, LinkMethod, Parent, Span, Value};
use super::stitcher::Stitcher;
use crate::exchange::Exchange;
use crate::identity::{Monotonic, Role};

/// A node's parent, decided.
#[derive(Clone, Copy, Debug)]
pub(super) enum Choice {
    /// It has none.
    Root,
    /// It gets no span.
    Suppressed,
    /// None could be proven.
    Orphan(Orphan),
    /// The span that its context names.
    Context,
    /// Another node.
    Follow(NodeId, LinkMethod),
    /// One that is out and remembered for its tasks.
    Past(NodeId, LinkMethod),
}

/// Whether the setting allows links of this method.
pub(super) fn allowed(method: LinkMethod, weakest: LinkMethod) -> bool {
    method <= weakest
}

impl Stitcher {
    /// Says what an undecided node waits for and until when.
    pub(super) fn wait(&mut self, node: NodeId, wait: Wait, until: Monotonic) {
        let Some(waiting) = self.nodes.get_mut(&node) else { return };
        let State::Undecided(current) = &mut waiting.state else { return };
        *current = wait;
        if let Some(before) = waiting.deadline.replace(until) {
            self.deadlines.remove(&(before, node));
        }
        self.deadlines.insert((until, node));
    }

    /// Decides an undecided node, for good.
    pub(super) fn decide(&mut self, node: NodeId, choice: Choice, out: &mut Vec<Output>) {
        let Some(deciding) = self.nodes.get_mut(&node) else { return };
        if deciding.wait().is_none() {
            return;
        }
        if let Some(deadline) = deciding.deadline.take() {
            self.deadlines.remove(&(deadline, node));
        }
        let exchange = deciding.exchange;
        if deciding.role == Role::Server
            && let Some(end) = self.connections.get_mut(&exchange.connection)
            && end.waiting.get(&exchange.offset) == Some(&node)
        {
            end.waiting.remove(&exchange.offset);
        }
        match choice {
            Choice::Root => {
                let roots = &mut self.ledger.roots;
                *(if deciding.role == Role::Server { &mut roots.server } else { &mut roots.client }) += 1;
                self.bind_root(node, Fate::Kept, out);
            }
            Choice::Suppressed => {
                self.ledger.roots.suppressed += 1;
                self.bind_root(node, Fate::Suppressed, out);
            }
            Choice::Orphan(cause) => {
                self.ledger.orphans.count(cause);
                self.bind_root(node, Fate::Kept, out);
            }
            Choice::Context => self.follow_context(node, out),
            Choice::Follow(parent, method) => self.follow(node, parent, method, out),
            Choice::Past(parent, method) => self.follow_past(node, parent, method, out),
        }
    }

    fn bind_root(&mut self, node: NodeId, fate: Fate, out: &mut Vec<Output>) {
        let trace = self.trace_id();
        let decision = self.settings.sampler.decide(None, trace);
        let bound = Bound {
            trace,
            flags: decision.flags,
            fate: kept_if(fate, decision.sampled),
            trace_state: None,
            wall_offset: self.wall_offset,
        };
        self.bind(node, bound, out);
    }

    fn follow_context(&mut self, node: NodeId, out: &mut Vec<Output>) {
        let Some(following) = self.nodes.get_mut(&node) else { return };
        let Some(context) = following.context.as_deref() else { return };
        let trace = context.trace;
        let decision = self.settings.sampler.decide(Some(ParentState { flags: context.flags }), trace);
        let trace_state = context.trace_state.as_deref().map(Arc::from);
        let remote = following.role == Role::Server;
        following.parent = Some(Parent { span: context.span, method: LinkMethod::Header, remote });
        self.ledger.links.count(LinkMethod::Header);
        let wall_offset = self.offsets.find(&trace).unwrap_or(self.wall_offset);
        self.offsets.insert(trace, wall_offset);
        let fate = kept_if(Fate::Kept, decision.sampled);
        self.bind(node, Bound { trace, flags: decision.flags, fate, trace_state, wall_offset }, out);
    }

    fn follow(&mut self, node: NodeId, parent: NodeId, method: LinkMethod, out: &mut Vec<Output>) {
        if self.descends(parent, node) {
            self.ledger.orphans.count(Orphan::Cycle);
            return self.bind_root(node, Fate::Kept, out);
        }
        let (Some(above), Some(below)) = (self.nodes.get(&parent), self.nodes.get(&node)) else {
            self.ledger.orphans.count(Orphan::Limit);
            return self.bind_root(node, Fate::Kept, out);
        };
        let remote = above.process != below.process;
        let link = Parent { span: above.span, method, remote };
        let bound = match &above.state {
            State::Bound(bound) => Some(bound.clone()),
            State::Undecided(_) | State::Follows(_) => None,
        };
        self.ledger.links.count(method);
        if let Some(below) = self.nodes.get_mut(&node) {
            below.parent = Some(link);
            below.state = State::Follows(parent);
        }
        if method == LinkMethod::Stream {
            self.pair(parent, node);
        }
        match bound {
            Some(bound) => {
                let bound = self.inherit(&bound);
                self.bind(node, bound, out);
            }
            None => {
                if let Some(above) = self.nodes.get_mut(&parent) {
                    above.followers.push(node);
                }
            }
        }
        if method == LinkMethod::Stream {
            // Its server came: it need not be remembered.
            self.forget_client(parent);
        }
    }

    /// Hangs a node under a request that is out.
    fn follow_past(&mut self, node: NodeId, parent: NodeId, method: LinkMethod, out: &mut Vec<Output>) {
        let Some(past) = self.past(parent) else {
            self.ledger.orphans.count(Orphan::Limit);
            return self.bind_root(node, Fate::Kept, out);
        };
        let link = Parent { span: past.span, method, remote: false };
        let bound = self.inherit(&past.bound);
        self.ledger.links.count(method);
        if let Some(below) = self.nodes.get_mut(&node) {
            below.parent = Some(link);
        }
        self.bind(node, bound, out);
    }

    /// Whether a node is below another, or too far down to tell.
    fn descends(&self, node: NodeId, from: NodeId) -> bool {
        let mut at = node;
        for _ in 0..MAX_DEPTH {
            if at == from {
                return true;
            }
            match self.nodes.get(&at).map(|node| &node.state) {
                Some(&State::Follows(parent)) => at = parent,
                _ => return false,
            }
        }
        true
    }

    fn inherit(&self, parent: &Bound) -> Bound {
        if parent.fate == Fate::Suppressed {
            return parent.clone();
        }
        let decision = self.settings.sampler.decide(Some(ParentState { flags: parent.flags }), parent.trace);
        Bound { flags: decision.flags, fate: kept_if(Fate::Kept, decision.sampled), ..parent.clone() }
    }

    /// Fixes the trace of a node and of everything that waits below it.
    fn bind(&mut self, node: NodeId, bound: Bound, out: &mut Vec<Output>) {
        let mut work = vec![(node, bound)];
        while let Some((id, bound)) = work.pop() {
            let Some(node) = self.nodes.get_mut(&id) else { continue };
            self.unbound = self.unbound.saturating_sub(1);
            if bound.fate == Fate::Kept {
                out.push(Output::Bound { trace: bound.trace, span: node.span });
            }
            let followers = std::mem::take(&mut node.followers);
            node.state = State::Bound(bound.clone());
            for follower in followers.into_iter().rev() {
                work.push((follower, self.inherit(&bound)));
            }
            self.seal(id, out);
        }
    }

    /// A client and its server found each other: no call starts later than it is read.
    fn pair(&mut self, client_id: NodeId, server_id: NodeId) {
        let (Some(client), Some(server)) = (self.nodes.get(&client_id), self.nodes.get(&server_id)) else {
            return;
        };
        let (written, read, out_already) = (client.start, server.start, client.is_sealed());
        if let Some(server) = self.nodes.get_mut(&server_id) {
            server.other.node = Some(client_id);
            if out_already && read < written {
                server.start = written;
                self.ledger.clamps.server_start += 1;
            }
        }
        let mut end = None;
        if let Some(client) = self.nodes.get_mut(&client_id) {
            client.other.node = Some(server_id);
            if out_already {
                // Kept at its sealing for this moment.
                end = client.other.end;
            } else if read < written {
                client.start = read;
                self.ledger.clamps.client_start += 1;
            }
        }
        if let Some(server) = self.nodes.get_mut(&server_id) {
            server.other.end = end;
        }
    }

    /// The end of a span, so that a call encloses the serving of it, and what the other end is told.
    fn settle_end(&mut self, id: NodeId, exchange: &Exchange) -> Monotonic {
        let clean = |e: &Exchange| e.failure.is_none() && !e.incomplete && e.response.is_some();
        let Some(node) = self.nodes.get(&id) else { return exchange.ended };
        let (role, start, other) = (node.role, node.start, node.other.node);
        let mut end = exchange.ended.max(start);
        if clean(exchange) {
            let theirs = match (node.other.end, other.and_then(|other| self.nodes.get(&other))) {
                (Some(end), _) => Some(end),
                (None, Some(other)) if role == Role::Server => match &other.phase {
                    Phase::Closed(call) if clean(call) => Some(call.ended),
                    _ => None,
                },
                _ => None,
            };
            match (role, theirs) {
                (Role::Server, Some(theirs)) if end > theirs => {
                    end = theirs.max(start);
                    self.ledger.clamps.server_end += 1;
                }
                (Role::Client, Some(theirs)) if end < theirs => {
                    end = theirs;
                    self.ledger.clamps.client_end += 1;
                }
                _ => {}
            }
            if let Some(other) = other.and_then(|other| self.nodes.get_mut(&other)) {
                other.other.end = Some(end);
            } else if role == Role::Client
                && let Some(node) = self.nodes.get_mut(&id)
            {
                node.other.end = Some(end);
            }
        }
        end
    }

    /// Sends a node out that is over and bound, or counts it; keeps it if others may still refer to it.
    pub(super) fn seal(&mut self, id: NodeId, out: &mut Vec<Output>) {
        let Some(node) = self.nodes.get_mut(&id) else { return };
        let State::Bound(bound) = &node.state else { return };
        let bound = bound.clone();
        if self.detain(id) {
            return;
        }
        let Some(node) = self.nodes.get_mut(&id) else { return };
        let exchange = match std::mem::replace(&mut node.phase, Phase::Sealed) {
            Phase::Closed(exchange) => exchange,
            other => {
                node.phase = other;
                return;
            }
        };
        self.pending = self.pending.saturating_sub(1);
        let kept = super::node::node_bytes(None).min(node.bytes);
        self.bytes = self.bytes.saturating_sub(node.bytes - kept);
        node.bytes = kept;
        let end = self.settle_end(id, &exchange);
        match bound.fate {
            Fate::Suppressed => self.ledger.suppressed += 1,
            Fate::NotSampled => self.ledger.not_sampled += 1,
            Fate::Kept => {
                if let Some(span) = self.span(id, &exchange, &bound, end) {
                    self.ledger.spans += 1;
                    out.push(Output::Ended(Arc::new(span)));
                }
            }
        }
        if let Some(node) = self.nodes.get_mut(&id) {
            node.context = None;
            node.ends.local = None;
            node.ends.peer = None;
        }
        self.remember_client(id, &bound);
        self.release(id);
    }

    fn span(&mut self, id: NodeId, exchange: &Exchange, bound: &Bound, end: Monotonic) -> Option<Span> {
        let node = self.nodes.get(&id)?;
        let (local, peer) = (node.ends.local.as_ref(), node.ends.peer.as_ref());
        let endpoints = http::Endpoints { local, peer, tls: node.ends.tls.as_ref() };
        let described = http::describe(&Subject::new(exchange, endpoints), &self.settings.http);
        self.ledger.values_cut += u64::from(described.cut);
        let (mut attributes, mut events) = (described.attributes, described.events);
        if let Some(connects) = &node.held.connects {
            events.extend(connects.failed.iter().cloned());
            events.sort_by_key(|event| event.time);
        }
        if let Some(parent) = node.parent {
            attributes.push((LINK_METHOD, Value::Text(parent.method.name().into())));
        }
        Some(Span {
            trace: bound.trace,
            id: node.span,
            parent: node.parent,
            flags: bound.flags,
            trace_state: bound.trace_state.as_deref().map(str::to_owned),
            kind: match node.role {
                Role::Server => Kind::Server,
                Role::Client => Kind::Client,
            },
            name: described.name,
            start: node.start,
            end,
            wall_offset: bound.wall_offset,
            attributes,
            events,
            error: described.error,
            process: node.process,
            resource: Arc::clone(&node.resource),
        })
    }

    /// Keeps a client that is out, if its server may still come.
    fn remember_client(&mut self, id: NodeId, bound: &Bound) {
        let until = self.after(self.settings.limits.pending_age);
        let Some(node) = self.nodes.get(&id) else { return };
        // A server of telemetry knows itself what it is.
        let telemetry = bound.fate == Fate::Suppressed && node.parent.is_none();
        if node.role != Role::Client || node.other.node.is_some() || telemetry {
            return;
        }
        let peer = self.connections.get(&node.exchange.connection).map_or(Peer::Unknown, |c| c.peer);
        let may_come = match peer {
            Peer::Known { .. } => true,
            Peer::Unknown => !node.ends.born_here,
            Peer::Gone => false,
        };
        if may_come {
            self.remembered.insert((until, id));
            if let Some(node) = self.nodes.get_mut(&id) {
                node.deadline = Some(until);
            }
        }
    }

    /// Forgets a client that is out.
    pub(super) fn forget_client(&mut self, id: NodeId) {
        let Some(node) = self.nodes.get_mut(&id) else { return };
        if node.is_sealed()
            && let Some(until) = node.deadline.take()
        {
            self.remembered.remove(&(until, id));
            self.release(id);
        }
    }

    /// Removes a node that is out and that nothing refers to.
    pub(super) fn release(&mut self, id: NodeId) {
        let Some(node) = self.nodes.get(&id) else { return };
        if node.is_sealed() && node.deadline.is_none() && !node.held.ready && node.held.calls.is_empty() {
            self.remove(id);
        }
    }

    /// Removes a node from everything but the process that it was held in.
    pub(super) fn remove(&mut self, id: NodeId) {
        let Some(node) = self.nodes.remove(&id) else { return };
        self.bury(&node, id);
        self.bytes = self.bytes.saturating_sub(node.bytes);
        if self.by_exchange.get(&node.exchange) == Some(&id) {
            self.by_exchange.remove(&node.exchange);
        }
        self.open.remove(&id);
        if let Some(at) = node.doomed {
            self.doomed.remove(&(at, id));
        }
        if let Some(end) = self.connections.get_mut(&node.exchange.connection) {
            end.open.retain(|&n| n != id);
            if end.clients.get(&node.exchange.offset) == Some(&id) {
                end.clients.remove(&node.exchange.offset);
            }
            if end.waiting.get(&node.exchange.offset) == Some(&id) {
                end.waiting.remove(&node.exchange.offset);
            }
        }
        self.tidy_connection(node.exchange.connection);
    }
}

fn kept_if(fate: Fate, sampled: bool) -> Fate {
    match fate {
        Fate::Kept if !sampled => Fate::NotSampled,
        fate => fate,
    }
}

/// The attribute of every span that has a parent: how it was found ([`LinkMethod::name`]).
pub const LINK_METHOD: &str = "spandrel.link.method";

/// How many undecided ancestors a span may have. A chain of services is a few dozen deep at most.
const MAX_DEPTH: usize = 1_000;
