//! The stitcher: what is held, and what each input does to it.
//!
//! The rules are in `across` (connections) and `inside` (processes), what a decision does in `graph`,
//! and what bounds it all in `bounds`. An input must never leave a node undecided that has no deadline.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use foldhash::{HashMap, HashMapExt as _, HashSet, HashSetExt as _};
use rand::RngCore;

use super::connects::Connects;
use super::intake::{Intake, is_intake};
use super::ledger::{Held as HeldCount, Ledger};
use super::node::{
    Connection, Held, Node, NodeId, Other, Phase, Process, State, Wait, exchange_bytes, node_bytes,
};
use super::owner::{Ownership, Told};
use super::pool::Pool;
use super::recent::Recent;
use super::span::{SpanId, TraceId};
use super::{Endpoints, Input, Output, Serving, Settings, context};
use crate::discover::Resource;
use crate::exchange::{Exchange, ExchangeId};
use crate::identity::{ConnectionId, Moment, Monotonic, ProcessKey, Role};
use crate::protocol::{RequestHead, Version};

/// Exchanges in, spans out.
///
/// Give it everything that was read ([`Stitcher::handle`]), then say what time it is
/// ([`Stitcher::poll`], about ten times a second), and at the end [`Stitcher::finish`]. How long a span
/// waits is measured from when it was handed over, by these times: poll only when all that had been
/// recorded by then was handed over, or what is merely late will be taken for missing.
pub struct Stitcher {
    pub(super) settings: Settings,
    pub(super) ids: Box<dyn RngCore + Send>,
    pub(super) clock: Monotonic,
    pub(super) wall_offset: u64,
    pub(super) next: u64,
    /// Each by itself: a table of them would grow by megabytes at a peak, and keep them.
    pub(super) nodes: HashMap<NodeId, Box<Node>>,
    pub(super) by_exchange: HashMap<ExchangeId, NodeId>,
    pub(super) connections: HashMap<ConnectionId, Connection>,
    pub(super) connections_by_age: BTreeMap<u64, ConnectionId>,
    pub(super) processes: HashMap<ProcessKey, Process>,
    /// Processes that lost the thread rule.
    pub(super) lost: HashSet<ProcessKey>,
    /// What the workers of processes do, where habits are believed.
    pub(super) pools: HashMap<ProcessKey, Pool>,
    /// What the tasks of processes are.
    pub(super) owned: Ownership,
    /// Connections that were asked for and are not there.
    pub(super) connects: Connects,
    /// Contexts that requests brought to a process, as hashes.
    pub(super) inbound: Recent<u64, ()>,
    /// The wall offsets of traces that others began.
    pub(super) offsets: Recent<TraceId, u64>,
    /// Undecided nodes, each once.
    pub(super) deadlines: BTreeSet<(Monotonic, NodeId)>,
    /// Servers whose calls are linked at the next poll.
    pub(super) ready: Vec<NodeId>,
    /// Open nodes in order of age.
    pub(super) open: BTreeSet<NodeId>,
    /// Open nodes whose connection or process is gone, and when to give them up.
    pub(super) doomed: BTreeSet<(Monotonic, NodeId)>,
    /// Sealed clients whose server may still come, and until when.
    pub(super) remembered: BTreeSet<(Monotonic, NodeId)>,
    /// Closed connections, and when to forget them.
    pub(super) closing: BTreeSet<(Monotonic, ConnectionId)>,
    /// When records were lost.
    pub(super) losses: VecDeque<(Monotonic, Monotonic)>,
    /// Nodes that are not bound.
    pub(super) unbound: usize,
    /// Nodes that are over and not bound.
    pub(super) pending: u64,
    pub(super) bytes: usize,
    pub(super) ledger: Ledger,
}

impl Stitcher {
    /// A stitcher that holds nothing. All ids come from `ids`.
    pub fn new(settings: Settings, ids: Box<dyn RngCore + Send>) -> Self {
        let limits = &settings.limits;
        Self {
            inbound: Recent::new(limits.inbound_contexts),
            offsets: Recent::new(limits.open_exchanges),
            settings,
            ids,
            clock: Monotonic(0),
            wall_offset: 0,
            next: 0,
            nodes: HashMap::new(),
            by_exchange: HashMap::new(),
            connections: HashMap::new(),
            connections_by_age: BTreeMap::new(),
            processes: HashMap::new(),
            lost: HashSet::new(),
            pools: HashMap::new(),
            owned: Ownership::default(),
            connects: Connects::default(),
            deadlines: BTreeSet::new(),
            ready: Vec::new(),
            open: BTreeSet::new(),
            doomed: BTreeSet::new(),
            remembered: BTreeSet::new(),
            closing: BTreeSet::new(),
            losses: VecDeque::new(),
            unbound: 0,
            pending: 0,
            bytes: 0,
            ledger: Ledger::default(),
        }
    }

    /// What to add to a `CLOCK_MONOTONIC` time for nanoseconds since 1970, for traces that begin from
    /// now on.
    pub fn set_wall_offset(&mut self, nanoseconds: u64) {
        self.wall_offset = nanoseconds;
    }

    /// Takes one input; what is final through it is added to `out`.
    pub fn handle(&mut self, input: Input, out: &mut Vec<Output>) {
        match input {
            // Evidence of a call that several requests share is for none of them; no rule uses evidence yet.
            Input::Opened { id, role, began, at, head, carried: _, ends, resource, serving } => {
                self.opened(Opening { id, role, began, at, ends, resource, serving }, &head, out);
            }
            Input::Responding { id, at } => self.responding(id, at, out),
            Input::Closed(exchange) => self.closed(exchange, out),
            Input::Joined { a, b, a_to_b, b_to_a } => self.joined(a, b, a_to_b, b_to_a, out),
            Input::ConnectionClosed { connection, time } => {
                self.advance(time);
                self.connection_closed(connection, out);
            }
            Input::ProcessExited { process, time } => {
                self.advance(time);
                self.process_exited(process, out);
            }
            Input::Born { process, birth } => {
                self.advance(birth.time);
                self.born(process, birth);
            }
            Input::Connecting { connection, at, peer, serving } => {
                self.connecting(connection, &at, peer, serving);
            }
            Input::Connected { connection } => self.connected(connection),
            Input::ConnectFailed { connection, time, errno } => {
                self.connect_failed(connection, time, errno);
            }
            Input::Unobserved { process } => self.forget_births(Some(process)),
            Input::Doubted { process } => self.doubt(process),
            Input::RecordsLost { since, until } => {
                self.forget_births(None);
                self.records_lost(since, until);
            }
        }
        self.enforce_bounds(out);
    }

    /// Says that it is `now`: links that became final are made, and what waited too long goes out.
    /// Returns when there will be something to do even if no input comes.
    pub fn poll(&mut self, now: Monotonic, out: &mut Vec<Output>) -> Option<Monotonic> {
        self.advance(now);
        self.link_ready(out);
        self.link_owned(out);
        self.link_connects(out);
        self.expire(out);
        self.enforce_bounds(out);
        self.next_deadline()
    }

    /// Ends: everything that is over goes out, with a parent or without; what is under way is given up
    /// and counted.
    pub fn finish(&mut self, now: Monotonic, out: &mut Vec<Output>) {
        self.advance(now);
        self.link_ready(out);
        self.link_owned(out);
        self.give_up_connects(out);
        self.give_up_everything(out);
    }

    /// The counters, and what is held now.
    pub fn ledger(&self) -> Ledger {
        let open = self.open.len() as u64;
        let pending = self.pending;
        let undecided = self.deadlines.len() as u64;
        let connects = self.connects_held();
        Ledger { held: HeldCount { open, pending, undecided, connects }, ..self.ledger }
    }

    /// Estimated memory of the spans held, in bytes.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    pub(super) fn advance(&mut self, time: Monotonic) {
        self.clock = self.clock.max(time);
    }

    /// The time that is so many nanoseconds from now.
    pub(super) fn after(&self, nanoseconds: u64) -> Monotonic {
        Monotonic(self.clock.0.saturating_add(nanoseconds))
    }

    fn opened(&mut self, opening: Opening, head: &RequestHead, out: &mut Vec<Output>) {
        let Opening { id, role, began, at, ends, resource, serving } = opening;
        self.advance(at.time);
        // One connection of HTTP/2 carries many requests at once: whoever reads or writes its frames is not by that the one
        // who serves or sends them.
        let serving = if head.version == Version::Http2 { Serving::ManyPerThread } else { serving };
        self.ledger.exchanges += 1;
        if self.by_exchange.contains_key(&id) {
            self.ledger.dropped.duplicate += 1;
            return;
        }
        let suppressed = self.settings.intake == Intake::Suppress && is_intake(head);
        let context = context::from_fields(&head.fields).map(Box::new);
        let node = self.next_node();
        let bytes = node_bytes(context.as_deref());
        self.bytes += bytes;
        self.unbound += 1;
        self.open.insert(node);
        self.by_exchange.insert(id, node);
        let span = self.span_id();
        let deadline = self.after(self.settings.limits.pending_age);
        self.deadlines.insert((deadline, node));
        self.connection(id.connection).open.push(node);
        self.nodes.insert(
            node,
            Box::new(Node {
                exchange: id,
                role,
                process: at.process,
                thread: at.thread,
                began: began.time,
                at: at.time,
                start: began.time,
                span,
                ends,
                resource,
                context,
                phase: Phase::Open,
                state: State::Undecided(Wait::Rules),
                parent: None,
                deadline: Some(deadline),
                doomed: None,
                followers: Vec::new(),
                answered: None,
                held: Held::default(),
                told: Told::default(),
                other: Other::default(),
                bytes,
            }),
        );
        match role {
            Role::Server => {
                self.own(node, &began);
                self.hold(node, &began, &at, serving, out);
                self.open_server(node, suppressed, out);
            }
            Role::Client => {
                self.register_client(node);
                self.open_client(node, &began, serving, suppressed, out);
                self.serve_waiting(node, out);
            }
        }
    }

    fn responding(&mut self, id: ExchangeId, at: Moment, out: &mut Vec<Output>) {
        self.advance(at.time);
        let Some(node) = self.open_node(id) else {
            self.ledger.stray.events += 1;
            return;
        };
        let Some(held) = self.nodes.get_mut(&node) else { return };
        if held.answered.is_some() {
            self.ledger.stray.events += 1;
            return;
        }
        held.answered = Some(at.time);
        match held.role {
            Role::Server => {
                self.own_by_answer(node, &at);
                self.answered(node, &at, out);
                self.hurry(node);
            }
            Role::Client => {
                self.claim_by_answer(node, &at);
            }
        }
    }

    fn closed(&mut self, exchange: Box<Exchange>, out: &mut Vec<Output>) {
        self.advance(exchange.ended);
        let Some(node) = self.open_node(exchange.id) else {
            self.ledger.stray.events += 1;
            return;
        };
        let Some(held) = self.nodes.get_mut(&node) else { return };
        let bytes = exchange_bytes(&exchange);
        let unanswered = held.answered.is_none();
        let complete = !exchange.incomplete;
        let ended = exchange.ended;
        held.bytes += bytes;
        self.bytes += bytes;
        held.phase = Phase::Closed(exchange);
        self.pending += 1;
        let doomed = held.doomed.take();
        if let Some(at) = doomed {
            self.doomed.remove(&(at, node));
        }
        self.open.remove(&node);
        self.leave_connection(node);
        if held_role(&self.nodes, node) == Some(Role::Server) {
            self.disown(node, ended);
            if unanswered {
                self.never_answered(node, complete, out);
            }
            self.no_longer_live(node);
            self.hurry(node);
        }
        self.seal(node, out);
    }

    /// The node of an exchange that is under way.
    fn open_node(&self, id: ExchangeId) -> Option<NodeId> {
        let node = *self.by_exchange.get(&id)?;
        self.nodes.get(&node)?.is_open().then_some(node)
    }

    fn next_node(&mut self) -> NodeId {
        self.next += 1;
        NodeId(self.next)
    }

    pub(super) fn span_id(&mut self) -> SpanId {
        let mut id = [0; 8];
        while id == [0; 8] {
            self.ids.fill_bytes(&mut id);
        }
        SpanId(id)
    }

    pub(super) fn trace_id(&mut self) -> TraceId {
        let mut id = [0; 16];
        while id == [0; 16] {
            self.ids.fill_bytes(&mut id);
        }
        TraceId(id)
    }
}

/// [`Input::Opened`] without its head.
struct Opening {
    id: ExchangeId,
    role: Role,
    began: Moment,
    at: Moment,
    ends: Endpoints,
    resource: Arc<Resource>,
    serving: Serving,
}

fn held_role(nodes: &HashMap<NodeId, Box<Node>>, node: NodeId) -> Option<Role> {
    nodes.get(&node).map(|node| node.role)
}
