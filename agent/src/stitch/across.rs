//! Across processes: whose request is a server answering? The rules `stream` and `header`.
//!
//! A server span's parent is the client span that wrote the same bytes. Either end may be reported first:
//! a server on a connection whose other end is known waits for the client's request, until a later
//! request of that connection, its end, or the age limit proves that it was not seen. On a connection whose
//! other end is not known it waits only if that may still turn out (the agent came later than the
//! connection). Only then does the context in the request count.
//!
//! It must never match two ends by anything but their joined offsets.

use super::Output;
use super::graph::{Choice, allowed};
use super::ledger::Orphan;
use super::node::{Connection, Node, NodeId, Peer, Wait};
use super::span::LinkMethod;
use super::stitcher::Stitcher;
use crate::exchange::ExchangeId;
use crate::identity::{ConnectionId, Role};

impl Stitcher {
    /// Decides a server's parent, or says what it waits for.
    pub(super) fn open_server(&mut self, node: NodeId, suppressed: bool, out: &mut Vec<Output>) {
        let Some(server) = self.nodes.get(&node) else { return };
        let ExchangeId { connection, offset } = server.exchange;
        let born_here = server.ends.born_here;
        if suppressed {
            return self.decide(node, Choice::Suppressed, out);
        }
        let peer = self.connections.get(&connection).map_or(Peer::Unknown, |c| c.peer);
        match peer {
            Peer::Unknown if born_here => self.without_client(node, None, out),
            Peer::Gone => self.without_client(node, None, out),
            Peer::Unknown => self.wait_for_client(node),
            Peer::Known { id, shift, .. } => {
                self.forget_answered_clients(id, offset.checked_sub_signed(shift));
                self.wait_for_client(node);
                self.find_client(node, out);
            }
        }
    }

    fn wait_for_client(&mut self, node: NodeId) {
        let deadline = self.after(self.settings.limits.pending_age);
        let Some(server) = self.nodes.get(&node) else { return };
        let ExchangeId { connection, offset } = server.exchange;
        self.connection(connection).waiting.insert(offset, node);
        self.wait(node, Wait::Client, deadline);
    }

    /// Looks for the client of a waiting server on a joined connection.
    fn find_client(&mut self, node: NodeId, out: &mut Vec<Output>) {
        let Some(server) = self.nodes.get(&node) else { return };
        if server.wait() != Some(Wait::Client) {
            return;
        }
        let ExchangeId { connection, offset } = server.exchange;
        let Some(Peer::Known { id, shift, .. }) = self.connections.get(&connection).map(|c| c.peer) else {
            return;
        };
        let at = offset.checked_sub_signed(shift);
        let client_end = self.connections.get(&id);
        let client = at.and_then(|at| client_end?.clients.get(&at).copied());
        let over = match (at, client_end) {
            (Some(at), Some(end)) => end.closed || end.last_client.is_some_and(|last| last > at),
            _ => true,
        };
        match client {
            Some(client) => self.decide(node, Choice::Follow(client, LinkMethod::Stream), out),
            None if over => self.without_client(node, Some(Orphan::ClientUnseen), out),
            None => {}
        }
    }

    /// The server's client is not here, for this reason if it should be: its context decides.
    pub(super) fn without_client(&mut self, node: NodeId, cause: Option<Orphan>, out: &mut Vec<Output>) {
        let context = self.nodes.get(&node).is_some_and(|server| server.context.is_some());
        let choice = match cause {
            _ if context && allowed(LinkMethod::Header, self.settings.weakest_link) => Choice::Context,
            _ if context => Choice::Orphan(Orphan::WeakestLink),
            Some(cause) => Choice::Orphan(cause),
            None => Choice::Root,
        };
        self.decide(node, choice, out);
    }

    /// Puts a client where its server will look for it.
    pub(super) fn register_client(&mut self, node: NodeId) {
        let Some(client) = self.nodes.get(&node) else { return };
        let ExchangeId { connection, offset } = client.exchange;
        let end = self.connection(connection);
        end.clients.insert(offset, node);
        end.last_client = end.last_client.max(Some(offset));
    }

    /// A client came: decides the servers that waited for it, or for one that is now known to be missing.
    pub(super) fn serve_waiting(&mut self, node: NodeId, out: &mut Vec<Output>) {
        let Some(client) = self.nodes.get(&node) else { return };
        let ExchangeId { connection, offset } = client.exchange;
        let Some(Peer::Known { id, out: shift, .. }) = self.connections.get(&connection).map(|c| c.peer)
        else {
            return;
        };
        let Some(at) = offset.checked_add_signed(shift) else { return };
        let waiting: Vec<NodeId> = self
            .connections
            .get(&id)
            .map(|c| c.waiting.range(..=at).map(|(_, &n)| n).collect())
            .unwrap_or_default();
        for server in waiting {
            self.find_client(server, out);
        }
    }

    /// The server that reads what this client writes, if it was reported first.
    pub(super) fn own_server(&self, client: NodeId) -> Option<NodeId> {
        let ExchangeId { connection, offset } = self.nodes.get(&client)?.exchange;
        let Peer::Known { id, out, .. } = self.connections.get(&connection)?.peer else { return None };
        let at = ExchangeId { connection: id, offset: offset.checked_add_signed(out)? };
        let server = *self.by_exchange.get(&at)?;
        (self.nodes.get(&server)?.role == Role::Server).then_some(server)
    }

    pub(super) fn joined(
        &mut self,
        a: ConnectionId,
        b: ConnectionId,
        a_to_b: i64,
        b_to_a: i64,
        out: &mut Vec<Output>,
    ) {
        let a_is = Peer::Known { id: b, shift: b_to_a, out: a_to_b };
        let b_is = Peer::Known { id: a, shift: a_to_b, out: b_to_a };
        let (known_a, known_b) = (self.connection(a).peer, self.connection(b).peer);
        if a == b || known_a != Peer::Unknown || known_b != Peer::Unknown {
            if (known_a, known_b) != (a_is, b_is) {
                self.ledger.stray.joins += 1;
            }
            self.tidy_connection(a);
            self.tidy_connection(b);
            return;
        }
        for (end, peer) in [(a, a_is), (b, b_is)] {
            self.connection(end).peer = peer;
        }
        let pending_age = self.settings.limits.pending_age;
        for end in [a, b] {
            let waiting: Vec<NodeId> = self.connection(end).waiting.values().copied().collect();
            for server in waiting {
                self.wait(server, Wait::Client, self.after(pending_age));
                if self.nodes.get(&server).is_some_and(|server| server.answered.is_some()) {
                    self.hurry(server);
                }
                self.find_client(server, out);
            }
        }
    }

    pub(super) fn connection_closed(&mut self, connection: ConnectionId, out: &mut Vec<Output>) {
        let forget = self.after(self.settings.limits.pending_age);
        let Some(end) = self.connections.get_mut(&connection) else { return };
        if end.closed {
            return;
        }
        end.closed = true;
        end.forget_at = Some(forget);
        let doomed = end.open.clone();
        let peer = end.peer;
        self.closing.insert((forget, connection));
        for node in doomed {
            if let Some(open) = self.nodes.get_mut(&node) {
                open.doomed = Some(forget);
                self.doomed.insert((forget, node));
            }
        }
        if let Peer::Known { id, .. } = peer
            && let Some(other) = self.connections.get(&id)
        {
            let waiting: Vec<NodeId> = other.waiting.values().copied().collect();
            let unserved: Vec<NodeId> = other.clients.values().copied().collect();
            for server in waiting {
                self.find_client(server, out);
            }
            for client in unserved {
                self.forget_client(client);
            }
        }
        self.tidy_connection(connection);
    }

    /// A server that answers waits only for so long more, if the other end of its connection is not known, or has told
    /// of no request since it was opened: then it is a program that is not traced.
    pub(super) fn hurry(&mut self, node: NodeId) {
        let Some(server) = self.nodes.get(&node) else { return };
        let (Some(Wait::Client), Some(deadline)) = (server.wait(), server.deadline) else { return };
        let grace = match self.connections.get(&server.exchange.connection).map_or(Peer::Unknown, |c| c.peer)
        {
            Peer::Known { .. } if self.has_silent_client(server) => self.settings.limits.client_grace,
            Peer::Known { .. } => return,
            Peer::Unknown | Peer::Gone => self.settings.limits.stream_grace,
        };
        self.wait(node, Wait::Client, deadline.min(self.after(grace)));
    }

    /// Whether the other end of this server's connection, opened while we looked, has told of no request ever. An end that
    /// was met late may only be understood later than this one.
    pub(super) fn has_silent_client(&self, server: &Node) -> bool {
        let peer = self.connections.get(&server.exchange.connection).map_or(Peer::Unknown, |c| c.peer);
        let Peer::Known { id, .. } = peer else { return false };
        server.ends.born_here && self.connections.get(&id).is_none_or(|end| end.last_client.is_none())
    }

    /// The node is not under way any more.
    pub(super) fn leave_connection(&mut self, node: NodeId) {
        let Some(held) = self.nodes.get(&node) else { return };
        let id = held.exchange.connection;
        if let Some(end) = self.connections.get_mut(&id) {
            end.open.retain(|&n| n != node);
        }
        self.tidy_connection(id);
    }

    /// Clients before this offset that are out will not be asked for: servers come in order.
    fn forget_answered_clients(&mut self, connection: ConnectionId, before: Option<u64>) {
        let (Some(end), Some(before)) = (self.connections.get(&connection), before) else { return };
        let past: Vec<NodeId> = end.clients.range(..before).map(|(_, &node)| node).collect();
        for node in past {
            self.forget_client(node);
        }
    }

    /// A connection by its id, made if it is new.
    pub(super) fn connection(&mut self, id: ConnectionId) -> &mut Connection {
        let next = &mut self.next;
        let by_age = &mut self.connections_by_age;
        self.connections.entry(id).or_insert_with(|| {
            *next += 1;
            by_age.insert(*next, id);
            Connection { seq: *next, ..Connection::default() }
        })
    }

    /// Forgets a connection of which nothing need be known.
    pub(super) fn tidy_connection(&mut self, id: ConnectionId) {
        let Some(end) = self.connections.get(&id) else { return };
        let idle = end.open.is_empty() && end.clients.is_empty() && end.waiting.is_empty();
        let over = match end.peer {
            Peer::Unknown => true,
            Peer::Gone => end.closed,
            Peer::Known { id: other, .. } => {
                end.closed
                    && self
                        .connections
                        .get(&other)
                        .is_none_or(|c| c.closed && c.clients.is_empty() && c.waiting.is_empty())
            }
        };
        if idle && over {
            self.forget_connection(id);
        }
    }

    /// Forgets a connection; its other end, if it is still there, knows that nothing will come of it.
    pub(super) fn forget_connection(&mut self, id: ConnectionId) {
        let Some(end) = self.connections.remove(&id) else { return };
        self.connections_by_age.remove(&end.seq);
        if let Some(at) = end.forget_at {
            self.closing.remove(&(at, id));
        }
        if let Peer::Known { id: other, .. } = end.peer
            && let Some(other_end) = self.connections.get_mut(&other)
        {
            other_end.peer = Peer::Gone;
            self.tidy_connection(other);
        }
    }
}
