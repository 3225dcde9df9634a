//! When two ends are joined, and by which shift of their offsets.
//!
//! TCP ends join by name. Unix ends join by their sockets' addresses, and need a shift unless both were
//! seen from their first byte. It must never join two ends that a reused address makes look like a pair.

use spandrel_proto::position::{End, Name, Tcp};
use spandrel_proto::record::Unix;

use super::Event;
use super::streams::Streams;
use crate::identity::{ConnectionId, Direction, Monotonic};

/// An address of a unix socket is used again soon after it is freed. Another end at our peer's address that
/// was quiet for longer than this, nanoseconds, is our peer only if another record comes from it.
const FRESH: u64 = 1_000_000_000;

impl Streams {
    /// Looks for the other end of a TCP connection.
    pub(super) fn join_tcp(&mut self, connection: ConnectionId, tcp: &Tcp, out: &mut dyn FnMut(Event<'_>)) {
        let Some(end) = self.ends.get_mut(&connection).filter(|end| !end.joined) else { return };
        // Whoever comes second finds the other, so a name needs to be registered only once. With a known role
        // it is that of the beginning, taken under the socket's lock; else it is that of each snapshot,
        // since one may be torn.
        let (base, role) = (end.base, end.role);
        let halves = match role {
            Some(_) => base,
            None => (tcp.first_sent_if_passive(), tcp.first_received()),
        };
        if end.named.replace(halves) == Some(halves) {
            return;
        }
        let (sent, received) = halves;
        let names: &[(End, Name)] = match role {
            Some(End::Active) => &[(End::Active, Name { active: sent, passive: received })],
            Some(End::Passive) => &[(End::Passive, Name { active: received, passive: sent })],
            None => &[(End::Active, Name::of(tcp, End::Active)), (End::Passive, Name::of(tcp, End::Passive))],
        };
        for &(role, name) in names {
            if let Some(other) = self.names.register(connection, name, role)
                && let Some(peer) = self.ends.get(&other).filter(|peer| !peer.joined)
            {
                let a_to_b = i64::from(base.0.wrapping_sub(peer.base.1).cast_signed());
                let b_to_a = i64::from(peer.base.0.wrapping_sub(base.1).cast_signed());
                return self.joined((connection, other), (a_to_b, b_to_a), out);
            }
        }
    }

    /// Looks for the other end of a unix stream; a record of `direction` has just come from this one.
    pub(super) fn join_unix(
        &mut self,
        connection: ConnectionId,
        unix: &Unix,
        direction: Option<Direction>,
        out: &mut dyn FnMut(Event<'_>),
    ) {
        let Some(end) = self.ends.get_mut(&connection).filter(|end| !end.joined) else { return };
        if end.unix.sock != unix.sock || unix.sock == 0 {
            if end.unix.sock != 0 {
                return;
            }
            end.unix = *unix;
            let time = end.last.time;
            if let Some(stale) = self.names.register_sock(connection, unix.sock) {
                self.forget_sockets(stale, connection, time, out);
            }
        }
        let Some(end) = self.ends.get(&connection) else { return };
        let Some(other) = self.names.sock(end.unix.peer).filter(|other| *other != connection) else { return };
        let Some(peer) = self.ends.get(&other) else { return };
        if peer.joined || peer.unix.peer != end.unix.sock {
            return;
        }
        if end.opened.born_here && peer.opened.born_here {
            // Both lived at one moment if the other's last record is fresh, or came after our first.
            if end.last.time.since(peer.last.time) <= FRESH || peer.last.time > end.met {
                self.joined((connection, other), (0, 0), out);
            }
            return;
        }
        // All that this end sent has been read: then what the other received so far ends where what this end
        // sent ends. That the other's record of reading has come is certain if it has sent since, by the same
        // thread; that ours of sending has, if we are the thread that sent. It takes two that agree, since
        // requests that are sent before the last is answered could still deceive.
        let sent = end.send.moved;
        let settled = unix.drained
            && direction == Some(Direction::Receive)
            && end.send.thread == Some(end.last.thread)
            && peer.direction == Some(Direction::Send)
            && peer.receive.thread == Some(peer.last.thread)
            && !end.send.is_silent()
            && !peer.receive.is_silent();
        if !settled {
            return;
        }
        let shift = peer.receive.moved.wrapping_sub(sent).cast_signed();
        let theirs = peer.shift;
        let Some(end) = self.ends.get_mut(&connection) else { return };
        match end.candidate {
            Some((seen, at)) if seen == shift && at != sent => end.shift = Some(shift),
            Some((seen, _)) if seen == shift => {}
            _ => (end.candidate, end.shift) = (Some((shift, sent)), None),
        }
        if let (Some(a_to_b), Some(b_to_a)) = (end.shift, theirs) {
            self.joined((connection, other), (a_to_b, b_to_a), out);
        }
    }

    /// A new socket has the address of a known one: that is gone, and so is its peer, which would have kept
    /// it from being freed (`unix_peer` holds a reference, net/unix/af_unix.c).
    fn forget_sockets(
        &mut self,
        stale: ConnectionId,
        fresh: ConnectionId,
        time: Monotonic,
        out: &mut dyn FnMut(Event<'_>),
    ) {
        let Some(unix) = self.ends.get(&stale).map(|end| end.unix) else { return };
        let peer = self.names.sock(unix.peer).filter(|id| *id != fresh);
        let peer = peer.filter(|id| self.ends.get(id).is_some_and(|end| end.unix.peer == unix.sock));
        for gone in [Some(stale), peer].into_iter().flatten() {
            self.abandon(gone, time, out);
            self.ledger.aged += 1;
        }
    }

    fn joined(
        &mut self,
        (a, b): (ConnectionId, ConnectionId),
        (a_to_b, b_to_a): (i64, i64),
        out: &mut dyn FnMut(Event<'_>),
    ) {
        for id in [a, b] {
            if let Some(end) = self.ends.get_mut(&id) {
                end.joined = true;
            }
        }
        self.ledger.joined += 1;
        out(Event::Joined { a, b, a_to_b, b_to_a });
    }
}
