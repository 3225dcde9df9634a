//! Connections that were asked for and never came about: which request had asked.
//!
//! ```text
//!   asked for ──▶ in flight ──established──▶ forgotten
//!   (task, thread,     └──failed──▶ the request that the rules name gets the event `connect.failed`
//!    holder: now)                   none, or it is out already: counted, by destination
//! ```
//! A connection that failed has no span of its own. Often nobody's call fails: the kernel gives up in its own time, and
//! a program that does not block learns of it later. So what can be known of who asked is kept from the moment at which
//! it was asked for, and the rules `waiter`, `task` and `thread` are those of `owner` and `inside`, final when they are.
//!
//! It must never name a request by what its thread or task does when the failure comes, hold a span back longer than
//! [`DETAINED`], or change anything of the links that calls get.

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound::{Included, Unbounded};

use foldhash::{HashMap, HashMapExt as _};

use super::graph::Choice;
use super::node::{Node, NodeId, Phase, Proof};
use super::owner::{Claimed, Line};
use super::span::{LinkMethod, SpanEvent, Value};
use super::stitcher::Stitcher;
use super::{LINK_METHOD, Output, Serving};
use crate::identity::{Address, ConnectionId, Moment, Monotonic, ProcessKey, Role};

/// A connection that is in flight, or failed and is not decided.
#[derive(Debug)]
struct Connect {
    connection: ConnectionId,
    process: ProcessKey,
    asked: Monotonic,
    peer: Address,
    rule: Rule,
    /// When it failed, and the socket's error.
    failed: Option<(Monotonic, i32)>,
    /// When requests that are told late will have been told.
    patience: Monotonic,
}

/// What says whose it is.
#[derive(Debug)]
enum Rule {
    /// Nothing.
    None,
    /// The thread that asked held this request; final when it is answered.
    Holder(NodeId),
    /// The tasks that asked; final when all requests under way then have said what they own.
    Claims(Vec<Line>),
    /// This request.
    Owner(NodeId, LinkMethod),
}

/// Everything that is kept of connections that do not exist.
#[derive(Debug)]
pub(super) struct Connects {
    next: u64,
    /// By number: the oldest first.
    known: BTreeMap<u64, Connect>,
    /// Those in flight.
    in_flight: HashMap<ConnectionId, u64>,
    /// Those that failed and are for the owners of tasks to decide, by when they were asked for.
    undecided: HashMap<ProcessKey, BTreeSet<(Monotonic, u64)>>,
    /// Servers that are over and may yet get an event, and until when.
    detained: BTreeSet<(Monotonic, NodeId)>,
    /// Failures that no request was found for, by destination.
    alone: BTreeMap<&'static str, u64>,
}

impl Default for Connects {
    fn default() -> Self {
        Self {
            next: 0,
            known: BTreeMap::new(),
            in_flight: HashMap::new(),
            undecided: HashMap::new(),
            detained: BTreeSet::new(),
            alone: BTreeMap::new(),
        }
    }
}

impl Stitcher {
    /// Failures of connections that belong to no span, by destination and reason; [`MAX_DESTINATIONS`] of them, and
    /// `other`.
    pub fn failed_connects(&self) -> impl Iterator<Item = (&'static str, u64)> {
        self.connects.alone.iter().map(|(destination, count)| (*destination, *count))
    }

    /// Connections that are in flight or not decided.
    pub(super) fn connects_held(&self) -> u64 {
        self.connects.known.len() as u64
    }

    /// A task asked for a connection.
    pub(super) fn connecting(
        &mut self,
        connection: ConnectionId,
        at: &Moment,
        peer: Address,
        serving: Serving,
    ) {
        self.advance(at.time);
        self.ledger.connects.asked += 1;
        if let Some(number) = self.connects.in_flight.remove(&connection) {
            self.connect_alone(number);
        }
        while self.connects.known.len() >= self.settings.limits.connects
            && let Some((&oldest, _)) = self.connects.known.first_key_value()
        {
            self.connect_alone(oldest);
        }
        self.connects.next += 1;
        let number = self.connects.next;
        let rule = match self.claims_of(at, serving) {
            Some(claims) => Rule::Claims(claims),
            None => match self.holder_of(at.process, at.thread, at.time, serving) {
                Ok(holder) => {
                    if let Some(server) = self.nodes.get_mut(&holder) {
                        server.held.connects.get_or_insert_default().asked.push(number);
                    }
                    Rule::Holder(holder)
                }
                Err(_) => Rule::None,
            },
        };
        let patience = self.after(super::owner::PATIENCE);
        let connect =
            Connect { connection, process: at.process, asked: at.time, peer, rule, failed: None, patience };
        self.connects.known.insert(number, connect);
        self.connects.in_flight.insert(connection, number);
    }

    /// It came about.
    pub(super) fn connected(&mut self, connection: ConnectionId) {
        if let Some(number) = self.connects.in_flight.remove(&connection)
            && self.take_connect(number).is_some()
        {
            self.ledger.connects.established += 1;
        }
    }

    /// It did not.
    pub(super) fn connect_failed(&mut self, connection: ConnectionId, time: Monotonic, errno: i32) {
        self.advance(time);
        let Some(number) = self.connects.in_flight.remove(&connection) else { return };
        let Some(connect) = self.connects.known.get_mut(&number) else { return };
        connect.failed = Some((time, errno));
        if let Rule::Claims(_) = connect.rule {
            let undecided = self.connects.undecided.entry(connect.process).or_default();
            undecided.insert((connect.asked, number));
        }
        self.settle_connect(number);
    }

    /// The thread rule is final for what a request's thread asked for: it is this request's, or nobody's.
    pub(super) fn decide_connects(&mut self, holder: NodeId, proven: bool) {
        let Some(server) = self.nodes.get_mut(&holder) else { return };
        let Some(connects) = &mut server.held.connects else { return };
        let numbers = std::mem::take(&mut connects.asked);
        // On sockets alone, anything else that was under way at the same time may have been another request's.
        let alone = server.held.proof != Proof::Program;
        for &number in &numbers {
            let Some(connect) = self.connects.known.get(&number) else { continue };
            let overlaps = alone && self.overlaps(connect, number, &numbers, holder);
            if let Some(connect) = self.connects.known.get_mut(&number) {
                connect.rule = match proven && !overlaps {
                    true => Rule::Owner(holder, LinkMethod::Thread),
                    false => Rule::None,
                };
            }
        }
        for number in numbers {
            self.settle_connect(number);
        }
    }

    /// Whether another connection that the request's thread asked for, or a call that it made, was under way at the same
    /// time.
    fn overlaps(&self, connect: &Connect, number: u64, numbers: &[u64], holder: NodeId) -> bool {
        let Some((failed, _)) = connect.failed else { return true };
        let others = numbers.iter().filter(|&&other| other != number);
        let mut others = others.filter_map(|other| self.connects.known.get(other));
        let connects = self.nodes.get(&holder).and_then(|server| server.held.connects.as_ref());
        let mut calls = connects.into_iter().flat_map(|connects| &connects.called);
        others
            .any(|other| other.asked < failed && other.failed.is_none_or(|(until, _)| until > connect.asked))
            || calls.any(|&(began, ended)| began < failed && ended.is_none_or(|ended| ended > connect.asked))
    }

    /// Gives what is over and whose owner is known to its owner.
    fn settle_connect(&mut self, number: u64) {
        let Some(connect) = self.connects.known.get(&number) else { return };
        let Some((time, errno)) = connect.failed else { return };
        match connect.rule {
            Rule::Holder(holder) if self.nodes.contains_key(&holder) => {}
            Rule::Claims(_) => {}
            Rule::Owner(owner, method) => {
                let Some(connect) = self.take_connect(number) else { return };
                let is_over = |owner: &Node| match &owner.phase {
                    Phase::Open => false,
                    Phase::Closed(exchange) => exchange.ended < time,
                    Phase::Sealed => true,
                };
                let Some(owner) = self.nodes.get_mut(&owner).filter(|owner| !is_over(owner)) else {
                    self.ledger.connects.late += 1;
                    return;
                };
                let failed = &mut owner.held.connects.get_or_insert_default().failed;
                if failed.len() >= MAX_EVENTS {
                    self.ledger.connects.crowded += 1;
                    return;
                }
                failed.push(event(&connect.peer, time, errno, method));
                owner.bytes += EVENT_BYTES;
                self.bytes += EVENT_BYTES;
                self.ledger.connects.told += 1;
            }
            Rule::Holder(_) | Rule::None => self.connect_alone(number),
        }
    }

    fn connect_alone(&mut self, number: u64) {
        let Some(connect) = self.take_connect(number) else { return };
        let Some((_, errno)) = connect.failed else {
            self.ledger.connects.forgotten += 1;
            return;
        };
        self.ledger.connects.alone += 1;
        let destination = format!("{}/{}", connect.peer, reason(errno));
        let alone = &mut self.connects.alone;
        if let Some(count) = alone.get_mut(destination.as_str()) {
            *count += 1;
        } else if alone.len() < MAX_DESTINATIONS {
            // Labels live as long as the agent; there are no more of them than this.
            alone.insert(destination.leak(), 1);
        } else {
            *alone.entry("other").or_default() += 1;
        }
    }

    /// Decides what tasks asked for. Done at a poll, as for calls.
    pub(super) fn link_connects(&mut self, out: &mut Vec<Output>) {
        let waiting: Vec<u64> =
            self.connects.undecided.values().flatten().map(|&(_, number)| number).collect();
        for number in waiting {
            let Some(connect) = self.connects.known.get(&number) else { continue };
            let Rule::Claims(claims) = &connect.rule else { continue };
            let claimed = Claimed {
                process: connect.process,
                called: connect.asked,
                claims,
                held: &[],
                own: None,
                hopeful: false,
                patient: connect.patience > self.clock,
                likely: &Cell::default(),
            };
            let rule = match self.judge(&claimed) {
                None if connect
                    .failed
                    .is_some_and(|(time, _)| self.clock.since(time) > self.settings.limits.pending_age) =>
                {
                    Rule::None
                }
                None => continue,
                Some(Choice::Follow(owner, method) | Choice::Past(owner, method)) => {
                    Rule::Owner(owner, method)
                }
                Some(Choice::Root | Choice::Suppressed | Choice::Orphan(_) | Choice::Context) => Rule::None,
            };
            let (process, asked) = (connect.process, connect.asked);
            self.no_longer_undecided(process, asked, number);
            if let Some(connect) = self.connects.known.get_mut(&number) {
                connect.rule = rule;
            }
            self.settle_connect(number);
        }
        let detained: Vec<(Monotonic, NodeId)> = self.connects.detained.iter().copied().collect();
        for (until, node) in detained {
            if until <= self.clock || !self.awaits_connects(node) {
                self.free_detained(until, node, out);
            }
        }
    }

    /// The end of everything.
    pub(super) fn give_up_connects(&mut self, out: &mut Vec<Output>) {
        self.link_connects(out);
        while let Some((&number, _)) = self.connects.known.first_key_value() {
            self.connect_alone(number);
        }
        while let Some(&(until, node)) = self.connects.detained.first() {
            self.free_detained(until, node, out);
        }
    }

    /// Whether a server that is over is held back a little, since a connection that failed may be its own.
    pub(super) fn detain(&mut self, node: NodeId) -> bool {
        if !self.awaits_connects(node) || self.connects.detained.len() >= MAX_DETAINED {
            return false;
        }
        let until = self.after(DETAINED);
        let Some(server) = self.nodes.get_mut(&node) else { return false };
        let connects = server.held.connects.get_or_insert_default();
        if connects.detained.is_none() {
            connects.detained = Some(until);
            self.connects.detained.insert((until, node));
        }
        true
    }

    /// When the first of those that are held back goes.
    pub(super) fn detained_until(&self) -> Option<Monotonic> {
        self.connects.detained.first().map(|&(until, _)| until)
    }

    /// Lets one go before its time; false if none is held back.
    pub(super) fn free_a_detained(&mut self, out: &mut Vec<Output>) -> bool {
        let Some(&(until, node)) = self.connects.detained.first() else { return false };
        self.free_detained(until, node, out);
        true
    }

    fn free_detained(&mut self, until: Monotonic, node: NodeId, out: &mut Vec<Output>) {
        self.connects.detained.remove(&(until, node));
        if let Some(server) = self.nodes.get_mut(&node) {
            server.held.connects.get_or_insert_default().freed = true;
        }
        self.seal(node, out);
    }

    fn awaits_connects(&self, node: NodeId) -> bool {
        let Some(server) = self.nodes.get(&node) else { return false };
        let Phase::Closed(exchange) = &server.phase else { return false };
        let connects = server.held.connects.as_deref();
        if server.role != Role::Server || connects.is_some_and(|connects| connects.freed) {
            return false;
        }
        let failed = |number: &u64| self.connects.known.get(number).is_some_and(|c| c.failed.is_some());
        if connects.is_some_and(|connects| connects.asked.iter().any(failed)) {
            return true;
        }
        let Some(undecided) = self.connects.undecided.get(&server.process) else { return false };
        let from = Included((server.began, 0));
        undecided.range((from, Unbounded)).next().is_some_and(|(asked, _)| *asked <= exchange.ended)
    }

    /// Removes one from everything that knows it.
    fn take_connect(&mut self, number: u64) -> Option<Connect> {
        let connect = self.connects.known.remove(&number)?;
        if self.connects.in_flight.get(&connect.connection) == Some(&number) {
            self.connects.in_flight.remove(&connect.connection);
        }
        if let Rule::Holder(holder) = connect.rule
            && let Some(server) = self.nodes.get_mut(&holder)
            && let Some(connects) = &mut server.held.connects
        {
            connects.asked.retain(|&other| other != number);
        }
        self.no_longer_undecided(connect.process, connect.asked, number);
        Some(connect)
    }

    fn no_longer_undecided(&mut self, process: ProcessKey, asked: Monotonic, number: u64) {
        if let Some(undecided) = self.connects.undecided.get_mut(&process) {
            undecided.remove(&(asked, number));
            if undecided.is_empty() {
                self.connects.undecided.remove(&process);
            }
        }
    }
}

/// A failure as an event at its moment.
fn event(peer: &Address, time: Monotonic, errno: i32, method: LinkMethod) -> SpanEvent {
    let text = |text: &str| Value::Text(text.into());
    let mut attributes = Vec::new();
    if errno != 0 {
        attributes.push(("error.type", text(reason(errno))));
    }
    match peer {
        Address::Ip(ip) => {
            attributes.push(("network.peer.address", Value::Text(ip.ip().to_string().into())));
            attributes.push(("network.peer.port", Value::Integer(i64::from(ip.port()))));
        }
        Address::Unix(path) => attributes.push(("network.peer.address", text(path))),
    }
    if errno != 0 && reason(errno) == SOCKET_ERROR {
        attributes.push(("spandrel.errno", Value::Integer(i64::from(errno))));
    }
    attributes.push((LINK_METHOD, text(method.name())));
    SpanEvent { time, name: if errno == 0 { "connect.cancelled" } else { "connect.failed" }, attributes }
}

/// The value of `error.type` (include/uapi/asm-generic/errno.h); without an error the program closed the socket itself,
/// as it does when it has waited long enough.
fn reason(errno: i32) -> &'static str {
    match errno {
        0 => "cancelled",
        101 => "network_unreachable",
        104 => "connection_reset",
        110 => "timeout",
        111 => "connection_refused",
        112 => "host_down",
        113 => "host_unreachable",
        _ => SOCKET_ERROR,
    }
}

const SOCKET_ERROR: &str = "socket_error";

/// Events of this kind on one span: a loop that tries again for a minute says no more with its thousandth.
const MAX_EVENTS: usize = 32;
/// About what one takes.
const EVENT_BYTES: usize = 256;
/// Destinations that are counted apart.
pub const MAX_DESTINATIONS: usize = 64;
/// How long a server's span is held back for a connection that failed and may be its own, nanoseconds: twenty polls.
const DETAINED: u64 = 1_000_000_000;
/// Servers that are held back at once.
const MAX_DETAINED: usize = 4_096;
