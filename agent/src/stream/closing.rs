//! How ends end: by the kernel's word, by their reader's, with their process, by age, or because there are
//! too many.
//!
//! Whatever way an end goes, what it holds is passed on or given up first, so that the books balance. It must
//! never leave an end behind of which nothing will come.

use std::collections::{HashSet, VecDeque};

use spandrel_proto::position::{RCV_SHUTDOWN, Tcp, extend};
use spandrel_proto::record::{self, Place, TRANSPORT_UNIX, tcp_state};

use super::end::ConnectionEnd;
use super::streams::{Streams, moved_near};
use super::{Closed, Event};
use crate::identity::{ConnectionId, Direction, Moment, Monotonic, ProcessKey};

/// How long an exit is remembered, nanoseconds: sockets are closed right after it.
const EXITED_AGE: u64 = 10_000_000_000;

/// Exits that are remembered at most: a machine that starts 3,000 processes a second.
const MAX_EXITS: usize = 32_768;

/// Ends that are remembered after they closed: those of some tens of milliseconds at 100,000 connections a
/// second, since a record can be as late as its thread was preempted.
const MAX_GONE: usize = 4096;

/// A close can overtake the record of the call before it by so much, nanoseconds: the hook runs after the
/// socket's lock was released.
const OVERTAKEN: u64 = 20_000_000;

/// Between two looks at unix streams that may be too old, nanoseconds.
const SWEEP: u64 = 10_000_000_000;

/// When there are too many ends, one in so many is given up at once, so that looking for them is rare.
const EVICTED_SHARE: usize = 16;

/// Processes that exited a moment ago.
#[derive(Debug, Default)]
pub(super) struct Exits {
    processes: HashSet<ProcessKey>,
    order: VecDeque<(Monotonic, ProcessKey)>,
}

impl Exits {
    fn insert(&mut self, process: ProcessKey, time: Monotonic) {
        while let Some(&(at, oldest)) = self.order.front()
            && (time.since(at) > EXITED_AGE || self.order.len() >= MAX_EXITS)
        {
            self.order.pop_front();
            self.processes.remove(&oldest);
        }
        if self.processes.insert(process) {
            self.order.push_back((time, process));
        }
    }

    fn contains(&self, process: &ProcessKey) -> bool {
        self.processes.contains(process)
    }
}

/// Ends that closed a moment ago.
#[derive(Debug, Default)]
pub(super) struct Gone {
    ends: HashSet<ConnectionId>,
    order: VecDeque<ConnectionId>,
}

impl Gone {
    fn insert(&mut self, connection: ConnectionId) {
        if self.order.len() >= MAX_GONE
            && let Some(oldest) = self.order.pop_front()
        {
            self.ends.remove(&oldest);
        }
        if self.ends.insert(connection) {
            self.order.push_back(connection);
        }
    }

    pub fn contains(&self, connection: ConnectionId) -> bool {
        self.ends.contains(&connection)
    }
}

impl Streams {
    /// A TCP connection went to another state.
    pub fn state(&mut self, record: &record::State, out: &mut dyn FnMut(Event<'_>)) {
        let connection = ConnectionId(record.socket.connection);
        if record.from == tcp_state::SYN_SENT && record.to == tcp_state::CLOSE {
            let (time, errno) = (Monotonic(record.header.time), record.error.cast_signed());
            out(Event::ConnectFailed { connection, time, errno });
        }
        let Place::Tcp(tcp) = record.socket.place() else { return };
        let Some(end) = self.ends.get_mut(&connection) else { return };
        let time = Monotonic(record.header.time);
        if record.header.lost > 0 {
            (end.send.lost, end.receive.lost) = (true, true);
        }
        match record.to {
            // A `close` after a `shutdown` enters the state once more, when the FIN has taken its number.
            tcp_state::FIN_WAIT1 | tcp_state::LAST_ACK if record.from != record.to => {
                end.finished_first |= record.to == tcp_state::FIN_WAIT1;
                end.finished_by_exit.get_or_insert(self.exits.contains(&end.last.process));
                // The tracepoint fires before the FIN takes its number.
                let moment = Moment { time, ..end.last };
                if let Some(sent) = sent_until(end, &tcp, tcp.write_seq) {
                    end.skip(Direction::Send, sent, &moment, &mut self.ledger, out);
                }
            }
            tcp_state::CLOSE => {
                let process_exited =
                    end.finished_by_exit.unwrap_or_else(|| self.exits.contains(&end.last.process));
                let closed = Closed {
                    time,
                    errno: record.error.cast_signed(),
                    peer_finished: record.socket.shutdown as u8 & RCV_SHUTDOWN != 0,
                    local_finished_first: end.finished_first,
                    process_exited,
                };
                // A connection that was reset, or half-closed by this end before the peer finished, can still be
                // read; and the close may have overtaken the record of a call.
                let (read, all) = received_until(end, &tcp, closed.peer_finished);
                let seen = end.receive.track.next();
                let unread = all.zip(read.or(seen)).is_some_and(|(all, read)| read < all);
                let overtaken = read.is_some_and(|read| seen.unwrap_or_default() < read);
                let readable = closed.errno != 0 || (end.finished_first && (unread || overtaken));
                let at_once = process_exited || !readable;
                end.closing = Some((closed, tcp, record.from));
                if at_once {
                    self.close(connection, out);
                } else {
                    self.waiting.insert(connection);
                }
            }
            _ => {}
        }
    }

    /// Closes an end whose socket is closed.
    fn close(&mut self, connection: ConnectionId, out: &mut dyn FnMut(Event<'_>)) {
        let Some(end) = self.ends.get_mut(&connection) else { return };
        let Some((closed, tcp, from)) = end.closing.take() else { return };
        let moment = Moment { time: closed.time, ..end.last };
        // Past its own FIN, `write_seq` has counted it.
        let fin = u32::from(!matches!(from, tcp_state::ESTABLISHED | tcp_state::CLOSE_WAIT));
        if let Some(sent) = sent_until(end, &tcp, tcp.write_seq.wrapping_sub(fin)) {
            end.skip(Direction::Send, sent, &moment, &mut self.ledger, out);
        }
        let (read, all) = received_until(end, &tcp, closed.peer_finished);
        if let Some(read) = read {
            end.skip(Direction::Receive, read, &moment, &mut self.ledger, out);
            let read = end.receive.track.next().unwrap_or(read).max(read);
            let unread = all.map_or(0, |all| all.saturating_sub(read));
            self.ledger.unread = self.ledger.unread.saturating_add(unread);
        }
        self.gone.insert(connection);
        self.closed(connection, &closed, out);
    }

    /// Closes both ends of a unix stream whose reader has met its end, the other end being closed.
    pub(super) fn close_unix_pair(
        &mut self,
        connection: ConnectionId,
        time: Monotonic,
        out: &mut dyn FnMut(Event<'_>),
    ) {
        let Some(unix) = self.ends.get(&connection).map(|end| end.unix) else { return };
        let other = self.names.sock(unix.peer).filter(|other| {
            *other != connection && self.ends.get(other).is_some_and(|end| end.unix.peer == unix.sock)
        });
        for (id, finished_first) in [(Some(connection), false), (other, true)] {
            let Some(id) = id else { continue };
            let process_exited = self.ends.get(&id).is_some_and(|end| self.exits.contains(&end.last.process));
            let closed = Closed {
                time,
                errno: 0,
                peer_finished: !finished_first,
                local_finished_first: finished_first,
                process_exited,
            };
            self.gone.insert(id);
            self.closed(id, &closed, out);
        }
    }

    /// A process is gone: so are its unix connections, which have no other end.
    pub fn process_exited(&mut self, process: ProcessKey, time: Monotonic, out: &mut dyn FnMut(Event<'_>)) {
        self.exits.insert(process, time);
        for connection in self.unix_of.remove(&process).unwrap_or_default() {
            let peer_finished = self.ends.get(&connection).is_some_and(|end| end.finished);
            let closed =
                Closed { time, errno: 0, peer_finished, local_finished_first: false, process_exited: true };
            self.closed(connection, &closed, out);
        }
    }

    fn closed(&mut self, connection: ConnectionId, closed: &Closed, out: &mut dyn FnMut(Event<'_>)) {
        if self.remove(connection, out) {
            self.ledger.closed += 1;
            out(Event::Closed { connection, closed });
        }
    }

    /// Gives up an end that may go on, but of which no more is to be expected.
    pub(super) fn abandon(
        &mut self,
        connection: ConnectionId,
        time: Monotonic,
        out: &mut dyn FnMut(Event<'_>),
    ) {
        if self.remove(connection, out) {
            out(Event::Abandoned { connection, time });
        }
    }

    /// Forgets an end because the process that uses it is not to be traced: what it moves is no loss.
    pub fn leave_out(&mut self, connection: ConnectionId, time: Monotonic, out: &mut dyn FnMut(Event<'_>)) {
        if self.remove(connection, out) {
            self.ledger.left_out += 1;
            out(Event::Abandoned { connection, time });
        }
    }

    /// Forgets an end, once everything that it holds is passed on or given up.
    fn remove(&mut self, connection: ConnectionId, out: &mut dyn FnMut(Event<'_>)) -> bool {
        let Some(mut end) = self.ends.remove(&connection) else { return false };
        for direction in [Direction::Send, Direction::Receive] {
            let (way, mut passing) = end.passing(direction, &mut self.ledger, out);
            way.track.finish(&mut |piece| passing.pass(piece));
            passing.ledger.discarded += way.track.take_discarded();
        }
        self.waiting.remove(&connection);
        self.names.forget(connection, end.unix.sock);
        if end.transport == TRANSPORT_UNIX {
            self.no_longer_of(end.last.process, connection);
        }
        true
    }

    /// A unix end is not the process's any more.
    pub(super) fn no_longer_of(&mut self, process: ProcessKey, connection: ConnectionId) {
        if let Some(of) = self.unix_of.get_mut(&process) {
            of.remove(&connection);
            if of.is_empty() {
                self.unix_of.remove(&process);
            }
        }
    }

    /// Time passes: holes that nobody fills are given up, and closes that waited are made.
    pub fn poll(&mut self, now: Monotonic, out: &mut dyn FnMut(Event<'_>)) {
        if !self.waiting.is_empty() {
            let waiting: Vec<_> = self.waiting.iter().copied().collect();
            for connection in waiting {
                self.poll_end(connection, now, out);
            }
        }
        if now.since(self.swept) > SWEEP {
            self.swept = now;
            let age = self.limits.unix_age;
            let unix = self.unix_of.values().flatten().copied();
            let old = |id: &ConnectionId| self.ends.get(id).is_some_and(|end| now.since(end.last.time) > age);
            let old: Vec<_> = unix.filter(old).collect();
            for connection in old {
                self.abandon(connection, now, out);
                self.ledger.aged += 1;
            }
        }
    }

    fn poll_end(&mut self, connection: ConnectionId, now: Monotonic, out: &mut dyn FnMut(Event<'_>)) {
        let Some(end) = self.ends.get_mut(&connection) else {
            self.waiting.remove(&connection);
            return;
        };
        for direction in [Direction::Send, Direction::Receive] {
            let (way, mut passing) = end.passing(direction, &mut self.ledger, out);
            way.track.expire(now, &mut |piece| passing.pass(piece));
            passing.ledger.discarded += way.track.take_discarded();
        }
        if let Some((closed, tcp, _)) = &end.closing {
            let age = now.since(closed.time);
            let (read, all) = received_until(end, tcp, closed.peer_finished);
            let read = read.max(end.receive.track.next());
            let grace = if read < all { self.limits.unread_age } else { OVERTAKEN };
            if age > grace {
                self.close(connection, out);
            }
        } else if !end.holds() {
            self.waiting.remove(&connection);
        }
    }

    /// Makes room: gives up the ends that were silent longest.
    pub(super) fn evict(&mut self, time: Monotonic, out: &mut dyn FnMut(Event<'_>)) {
        let mut ends: Vec<_> = self.ends.values().map(|end| (end.last.time, end.opened.connection)).collect();
        let oldest = ends.len() / EVICTED_SHARE;
        if oldest < ends.len() {
            ends.select_nth_unstable(oldest);
        }
        for (_, connection) in ends.into_iter().take(oldest + 1) {
            self.abandon(connection, time, out);
            self.ledger.evicted += 1;
        }
    }
}

/// The offset after the last byte that was written, `position` being its sequence number.
fn sent_until(end: &ConnectionEnd, tcp: &Tcp, position: u32) -> Option<u64> {
    extend(position.wrapping_sub(end.base.0), moved_near(tcp, Direction::Send))
}

/// The offsets after the last byte that was read, and after the last that came.
fn received_until(end: &ConnectionEnd, tcp: &Tcp, peer_finished: bool) -> (Option<u64>, Option<u64>) {
    let near = moved_near(tcp, Direction::Receive);
    let shutdown = if peer_finished { RCV_SHUTDOWN } else { 0 };
    let all = tcp.rcv_nxt.wrapping_sub(u32::from(peer_finished));
    let offset = |position: u32| extend(position.wrapping_sub(end.base.1), near);
    (offset(tcp.received_end(shutdown)), offset(all))
}
