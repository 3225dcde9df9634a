//! All connection ends: what each kind of record does to them.
//!
//! Start with [`Streams::data`]. It must never place a byte by arrival, or join two ends by anything but
//! what `names` proves.

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use spandrel_proto::position::{End, Name, RCV_SHUTDOWN, Tcp, extend};
use spandrel_proto::record::{
    self, Addresses, Data, FLAG_ACTIVE, FLAG_FIRST, FLAG_IN_EPOLL, FLAG_LAST, FLAG_LATE, FLAG_NONBLOCKING,
    FLAG_SEND, Header, Loss, Place, REST_NOTHING, REST_UNSEEN, Unix, tcp_state,
};

use super::names::Names;
use super::track::{Explained, Placed, Track};
use super::{Closed, Content, Event, Gap, GapCause, Opened, Piece};
use crate::exchange::Policy;
use crate::identity::{Address, ConnectionId, Direction, Moment, Monotonic, ProcessKey, ThreadId};

/// Bounds of this station.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Connection ends known at once. Beyond, the one that was silent longest is given up, counted: an
    /// end whose close record was lost would stay for ever.
    pub ends: usize,
    /// How long an end that was reset may still be read from, nanoseconds.
    pub unread_age: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self { ends: 65_536, unread_age: 1_000_000_000 }
    }
}

/// The station's books, in bytes: captured = passed + discarded + held.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Ledger {
    /// Bytes that came in records.
    pub captured: u64,
    /// Bytes that were passed on.
    pub passed: u64,
    /// Bytes that came and whose place was not certain.
    pub discarded: u64,
    /// Bytes that wait for a hole to fill.
    pub held: u64,
    /// Bytes that are not here, by [`GapCause`], in the order of [`GapCause::ALL`].
    pub gaps: [u64; GapCause::ALL.len()],
    /// Bytes that the peer sent and this end never read.
    pub unread: u64,
    /// Ends that were met.
    pub opened: u64,
    /// Ends that closed.
    pub closed: u64,
    /// Ends given up because there were too many.
    pub evicted: u64,
    /// Pairs of ends that are one connection.
    pub joined: u64,
}

/// All connection ends.
pub struct Streams {
    limits: Limits,
    ends: HashMap<ConnectionId, ConnectionEnd>,
    names: Names,
    /// Unix sockets that were there before us: their counters do not begin with their first byte.
    old_sockets: HashSet<u64>,
    exited: HashMap<ProcessKey, Monotonic>,
    /// Ends with pieces behind a hole, or a close that waits.
    waiting: HashSet<ConnectionId>,
    ledger: Ledger,
}

#[derive(Default)]
struct Way {
    track: Track,
    /// Bytes moved since first met, by the last record.
    moved: u64,
    /// The kernel is asked to make no records of calls before this offset.
    silent_until: Option<u64>,
    /// A record of this socket was lost, and no hole has explained where.
    lost: bool,
}

struct ConnectionEnd {
    opened: Opened,
    known_addresses: bool,
    transport: u32,
    role: Option<End>,
    /// The sequence numbers that count as offset 0: (sent, received).
    base: (u32, u32),
    send: Way,
    receive: Way,
    joined: bool,
    unix: Unix,
    /// A shift of what this end sends into what the other receives, seen once with so many bytes sent.
    candidate: Option<(i64, u64)>,
    shift: Option<i64>,
    last: Moment,
    finished_first: bool,
    closing: Option<(Closed, Tcp)>,
}

impl ConnectionEnd {
    fn way(&mut self, direction: Direction) -> &mut Way {
        match direction {
            Direction::Send => &mut self.send,
            Direction::Receive => &mut self.receive,
        }
    }

    fn base(&self, direction: Direction) -> u32 {
        match direction {
            Direction::Send => self.base.0,
            Direction::Receive => self.base.1,
        }
    }

    fn held(&self) -> usize {
        self.send.track.held_bytes() + self.receive.track.held_bytes()
    }
}

/// Passes pieces on: to the stations behind, and to the books.
struct Passing<'a> {
    opened: &'a Opened,
    direction: Direction,
    base: u32,
    ledger: &'a mut Ledger,
    out: &'a mut dyn FnMut(Event<'_>),
}

impl Passing<'_> {
    fn pass(&mut self, piece: Piece<'_>) {
        let connection = self.opened.connection;
        match piece.content {
            Content::Bytes(bytes) => self.ledger.passed += bytes.len() as u64,
            Content::Gap { length, cause } => {
                self.ledger.gaps[cause as usize] += length;
                if matches!(cause, GapCause::Lost | GapCause::Uncertain) {
                    let gap = Gap {
                        connection,
                        local: Some(self.opened.local.clone()),
                        peer: Some(self.opened.peer.clone()),
                        direction: self.direction,
                        position: self.base.wrapping_add(piece.offset as u32),
                        length,
                        cause,
                    };
                    (self.out)(Event::Gap(&gap));
                }
            }
        }
        (self.out)(Event::Piece { connection, direction: self.direction, piece });
    }
}

impl Streams {
    /// `old_sockets`: the inode numbers of unix sockets that existed when the last program was attached.
    pub fn new(limits: Limits, old_sockets: HashSet<u64>) -> Self {
        Self {
            limits,
            ends: HashMap::new(),
            names: Names::default(),
            old_sockets,
            exited: HashMap::new(),
            waiting: HashSet::new(),
            ledger: Ledger::default(),
        }
    }

    /// The books.
    pub fn ledger(&self) -> Ledger {
        let held = self.waiting.iter().filter_map(|id| self.ends.get(id)).map(|end| end.held() as u64).sum();
        let open: u64 =
            self.ends.values().map(|end| end.send.track.discarded() + end.receive.track.discarded()).sum();
        Ledger { held, discarded: self.ledger.discarded + open, ..self.ledger }
    }

    /// Ends and names held now.
    pub fn size(&self) -> (usize, usize) {
        (self.ends.len(), self.names.len())
    }

    /// A connection was established, or met late.
    pub fn opened(&mut self, record: &record::Opened, path: &[u8], out: &mut dyn FnMut(Event<'_>)) {
        let connection = ConnectionId(record.socket.connection);
        let late = record.header.flags & FLAG_LATE != 0;
        let (local, peer) = addresses(&record.addresses, path);
        let moment = moment(&record.header);
        if let Some(end) = self.ends.get_mut(&connection) {
            if !end.known_addresses {
                end.opened.local = local;
                end.opened.peer = peer;
                end.known_addresses = true;
                out(Event::Opened(&end.opened));
            }
            return;
        }
        let (role, born_here) = match record.socket.place() {
            Place::Tcp(_) if !late => {
                let active = record.header.flags & FLAG_ACTIVE != 0;
                (Some(if active { End::Active } else { End::Passive }), true)
            }
            Place::Unix(unix) => (None, self.born_here(&unix)),
            _ => (None, false),
        };
        let opened = Opened { connection, local, peer, born_here };
        self.create(&record.socket, opened, role, moment, true, out);
    }

    fn born_here(&self, unix: &Unix) -> bool {
        unix.inode != 0 && !self.old_sockets.contains(&unix.inode)
    }

    fn create(
        &mut self,
        socket: &record::Socket,
        opened: Opened,
        role: Option<End>,
        last: Moment,
        known_addresses: bool,
        out: &mut dyn FnMut(Event<'_>),
    ) {
        let connection = opened.connection;
        if self.ends.len() >= self.limits.ends {
            self.evict(out);
        }
        let (base, unix) = match socket.place() {
            Place::Tcp(tcp) => {
                let active = u32::from(role == Some(End::Active));
                ((tcp.first_sent_if_passive().wrapping_add(active), tcp.first_received()), Unix::default())
            }
            Place::Unix(unix) => ((0, 0), unix),
            Place::Foreign => ((0, 0), Unix::default()),
        };
        out(Event::Opened(&opened));
        self.ledger.opened += 1;
        self.ends.insert(
            connection,
            ConnectionEnd {
                opened,
                known_addresses,
                transport: socket.transport,
                role,
                base,
                send: Way::default(),
                receive: Way::default(),
                joined: false,
                unix,
                candidate: None,
                shift: None,
                last,
                finished_first: false,
                closing: None,
            },
        );
        match socket.place() {
            Place::Tcp(tcp) => self.join_tcp(connection, &tcp, out),
            Place::Unix(unix) => self.join_unix(connection, &unix, out),
            Place::Foreign => {}
        }
    }

    /// A call moved bytes.
    pub fn data(&mut self, data: &Data, bytes: &[u8], out: &mut dyn FnMut(Event<'_>)) {
        let connection = ConnectionId(data.socket.connection);
        let direction = if data.header.flags & FLAG_SEND != 0 { Direction::Send } else { Direction::Receive };
        let moment = moment(&data.header);
        if !self.ends.contains_key(&connection) {
            // Its *opened* record was lost; it is met late, at addresses that are not known yet.
            let nowhere = Address::Ip(SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)));
            let opened = Opened { connection, local: nowhere.clone(), peer: nowhere, born_here: false };
            self.create(&data.socket, opened, None, moment, false, out);
        }
        let place = data.socket.place();
        let Some(end) = self.ends.get_mut(&connection) else { return };
        end.last = moment;
        if data.header.lost > 0 {
            end.send.lost = true;
            end.receive.lost = true;
        }
        self.ledger.captured += bytes.len() as u64;
        let (born_here, base) = (end.opened.born_here, end.base(direction));
        let way = end.way(direction);
        way.moved = data.socket.moved;
        let offset = match &place {
            Place::Tcp(tcp) => {
                let (position, near) = match direction {
                    Direction::Send => (
                        tcp.sent_at(data.total),
                        tcp.bytes_acked.wrapping_add(u64::from(tcp.write_seq.wrapping_sub(tcp.snd_una))),
                    ),
                    Direction::Receive => (
                        tcp.received_at(data.total, data.socket.shutdown as u8),
                        tcp.bytes_received.wrapping_sub(u64::from(tcp.rcv_nxt.wrapping_sub(tcp.copied_seq))),
                    ),
                };
                let near = way.track.next().unwrap_or(near.wrapping_sub(u64::from(data.total)));
                extend(position.wrapping_sub(base), near)
            }
            Place::Unix(_) | Place::Foreign => data.socket.moved.wrapping_sub(u64::from(data.total)),
        };
        let begins = if born_here || !matches!(place, Place::Tcp(_)) { 0 } else { offset };
        let explained = if way.silent_until.is_some_and(|until| offset <= until) {
            Explained::Silent
        } else if way.lost {
            Explained::Lost
        } else {
            Explained::No
        };
        if way.track.next().is_none_or(|next| next == offset) || explained == Explained::Lost {
            way.lost = false;
        }
        let mut passing =
            Passing { opened: &end.opened, direction, base, ledger: &mut self.ledger, out: &mut *out };
        let way = match direction {
            Direction::Send => &mut end.send,
            Direction::Receive => &mut end.receive,
        };
        let first = data.header.flags & FLAG_FIRST != 0;
        let skip = u64::from(data.skip);
        let mut put = |offset: u64, content: Content<'_>, starts_call: bool| {
            let placed = Placed { offset, content, starts_call, moment };
            way.track.place(placed, explained, begins, &mut |piece| passing.pass(piece));
        };
        if first && skip > 0 {
            put(offset, Content::Gap { length: skip, cause: GapCause::Silent }, true);
        }
        if !bytes.is_empty() {
            put(offset + skip, Content::Bytes(bytes), first && skip == 0);
        }
        let rest = u64::from(data.total) - skip - bytes.len() as u64;
        if data.header.flags & FLAG_LAST != 0 && rest > 0 {
            let cause = match data.rest {
                REST_NOTHING => GapCause::Limit,
                REST_UNSEEN => GapCause::Unseen,
                _ => GapCause::Lost,
            };
            let starts_call = first && skip == 0 && bytes.is_empty();
            put(offset + skip + bytes.len() as u64, Content::Gap { length: rest, cause }, starts_call);
        }
        if way.track.holds() {
            self.waiting.insert(connection);
        }
        if data.total == 0 && direction == Direction::Receive {
            out(Event::Finished { connection, time: moment.time });
        }
        match place {
            Place::Tcp(tcp) => self.join_tcp(connection, &tcp, out),
            Place::Unix(unix) => self.join_unix(connection, &unix, out),
            Place::Foreign => {}
        }
        self.close_if_read(connection, out);
    }

    fn join_tcp(&mut self, connection: ConnectionId, tcp: &Tcp, out: &mut dyn FnMut(Event<'_>)) {
        let Some(end) = self.ends.get(&connection).filter(|end| !end.joined) else { return };
        let roles: &[End] = match end.role {
            Some(End::Active) => &[End::Active],
            Some(End::Passive) => &[End::Passive],
            None => &[End::Active, End::Passive],
        };
        let (base, known) = (end.base, end.role.is_some());
        for &role in roles {
            // With a known role the name is that of the beginning, taken under the socket's lock.
            let name = match role {
                End::Active if known => Name { active: base.0, passive: base.1 },
                End::Passive if known => Name { active: base.1, passive: base.0 },
                role => Name::of(tcp, role),
            };
            if let Some(other) = self.names.register(connection, name, role) {
                let Some(peer) = self.ends.get(&other).filter(|peer| !peer.joined) else { continue };
                let a_to_b = i64::from(base.0.wrapping_sub(peer.base.1) as i32);
                let b_to_a = i64::from(peer.base.0.wrapping_sub(base.1) as i32);
                return self.joined(connection, other, a_to_b, b_to_a, out);
            }
        }
    }

    fn join_unix(&mut self, connection: ConnectionId, unix: &Unix, out: &mut dyn FnMut(Event<'_>)) {
        let Some(end) = self.ends.get_mut(&connection) else { return };
        end.unix = *unix;
        if end.joined {
            return;
        }
        let (born, sent) = (end.opened.born_here, end.send.moved);
        let Some(other) = self.names.register_sock(connection, unix.sock, unix.peer) else { return };
        let Some(peer) = self.ends.get(&other).filter(|peer| !peer.joined && peer.unix.peer == unix.sock)
        else {
            return;
        };
        if born && peer.opened.born_here {
            return self.joined(connection, other, 0, 0, out);
        }
        // Everything that this end sent has been read: then what the other received so far ends where what
        // this end sent ends. A record may still be on its way, so it takes two that agree.
        if unix.drained {
            let shift = peer.receive.moved as i64 - sent as i64;
            let theirs = peer.shift;
            let Some(end) = self.ends.get_mut(&connection) else { return };
            match end.candidate {
                Some((seen, at)) if seen == shift && at != sent => end.shift = Some(shift),
                _ => end.candidate = Some((shift, sent)),
            }
            if let (Some(a_to_b), Some(b_to_a)) = (end.shift, theirs) {
                self.joined(connection, other, a_to_b, b_to_a, out);
            }
        }
    }

    fn joined(
        &mut self,
        a: ConnectionId,
        b: ConnectionId,
        a_to_b: i64,
        b_to_a: i64,
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

    /// A TCP connection went to another state.
    pub fn state(&mut self, record: &record::State, out: &mut dyn FnMut(Event<'_>)) {
        let connection = ConnectionId(record.socket.connection);
        let Place::Tcp(tcp) = record.socket.place() else { return };
        let Some(end) = self.ends.get_mut(&connection) else { return };
        let time = Monotonic(record.header.time);
        if record.header.lost > 0 {
            end.send.lost = true;
            end.receive.lost = true;
        }
        if record.to == tcp_state::FIN_WAIT1 && record.from != tcp_state::CLOSE_WAIT {
            end.finished_first = true;
        }
        let last = Moment { time, ..end.last };
        // The tracepoint fires before the FIN takes its number; after that `write_seq` is one too high.
        let before_fin = matches!(record.to, tcp_state::FIN_WAIT1 | tcp_state::LAST_ACK)
            || matches!(record.from, tcp_state::ESTABLISHED | tcp_state::CLOSE_WAIT);
        if before_fin {
            Self::skip(end, Direction::Send, tcp.write_seq, &last, &mut self.ledger, out);
        }
        if record.to != tcp_state::CLOSE {
            return;
        }
        let peer_finished = record.socket.shutdown as u8 & RCV_SHUTDOWN != 0;
        let closed = Closed {
            time,
            errno: record.error as i32,
            peer_finished,
            local_finished_first: end.finished_first,
            process_exited: self.exited.contains_key(&end.last.process),
        };
        end.closing = Some((closed, tcp));
        self.waiting.insert(connection);
        self.close_if_read(connection, out);
    }

    /// Says that a direction went on to a position.
    fn skip(
        end: &mut ConnectionEnd,
        direction: Direction,
        position: u32,
        moment: &Moment,
        ledger: &mut Ledger,
        out: &mut dyn FnMut(Event<'_>),
    ) {
        let base = end.base(direction);
        let mut passing = Passing { opened: &end.opened, direction, base, ledger, out };
        let way = match direction {
            Direction::Send => &mut end.send,
            Direction::Receive => &mut end.receive,
        };
        let Some(next) = way.track.next().or(end.opened.born_here.then_some(0)) else { return };
        let until = extend(position.wrapping_sub(base), next);
        if until <= next || until - next > u64::from(u32::MAX / 2) {
            return;
        }
        let silent = way.silent_until.is_some_and(|silent| until <= silent);
        let cause = if silent { GapCause::Silent } else { GapCause::Lost };
        if way.track.next().is_none() {
            let content = Content::Gap { length: until, cause };
            let placed = Placed { offset: 0, content, starts_call: false, moment: *moment };
            way.track.place(placed, Explained::No, 0, &mut |piece| passing.pass(piece));
        } else {
            way.track.skip_to(until, cause, moment, &mut |piece| passing.pass(piece));
        }
    }

    /// Closes an end whose socket is closed, once everything that it had received was read.
    fn close_if_read(&mut self, connection: ConnectionId, out: &mut dyn FnMut(Event<'_>)) {
        let Some(end) = self.ends.get(&connection) else { return };
        let Some((closed, tcp)) = &end.closing else { return };
        let fin = u32::from(closed.peer_finished);
        let all = extend(
            tcp.rcv_nxt.wrapping_sub(fin).wrapping_sub(end.base.1),
            end.receive.track.next().unwrap_or(0),
        );
        // A reset connection can still be read; one that the process closed cannot.
        let readable = closed.errno != 0 && !closed.process_exited;
        if !readable || end.receive.track.next().is_none_or(|next| next >= all) {
            self.close(connection, out);
        }
    }

    fn close(&mut self, connection: ConnectionId, out: &mut dyn FnMut(Event<'_>)) {
        let Some(mut end) = self.ends.remove(&connection) else { return };
        self.waiting.remove(&connection);
        let closed = if let Some((closed, tcp)) = end.closing.take() {
            let moment = Moment { time: closed.time, ..end.last };
            let read = tcp.received_end(if closed.peer_finished { RCV_SHUTDOWN } else { 0 });
            Self::skip(&mut end, Direction::Receive, read, &moment, &mut self.ledger, out);
            let fin = u32::from(closed.peer_finished);
            let unread = tcp.rcv_nxt.wrapping_sub(fin).wrapping_sub(read);
            if unread < u32::MAX / 2 {
                self.ledger.unread += u64::from(unread);
            }
            closed
        } else {
            Closed {
                time: end.last.time,
                errno: 0,
                peer_finished: true,
                local_finished_first: false,
                process_exited: self.exited.contains_key(&end.last.process),
            }
        };
        for direction in [Direction::Send, Direction::Receive] {
            let base = end.base(direction);
            let ConnectionEnd { opened, send, receive, .. } = &mut end;
            let way = if direction == Direction::Send { send } else { receive };
            let mut passing = Passing { opened, direction, base, ledger: &mut self.ledger, out: &mut *out };
            way.track.expire(Monotonic(u64::MAX), &mut |piece| passing.pass(piece));
            self.ledger.discarded += way.track.discarded();
        }
        self.names.forget(connection, end.unix.sock);
        self.ledger.closed += 1;
        out(Event::Closed { connection, closed: &closed });
    }

    /// A process is gone: so are its unix connections, which have no other end.
    pub fn process_exited(&mut self, process: ProcessKey, time: Monotonic, out: &mut dyn FnMut(Event<'_>)) {
        self.exited.retain(|_, at| time.since(*at) < EXITED_AGE);
        self.exited.insert(process, time);
        let of_process =
            |end: &&ConnectionEnd| end.transport == record::TRANSPORT_UNIX && end.last.process == process;
        let gone: Vec<_> = self.ends.values().filter(of_process).map(|end| end.opened.connection).collect();
        for connection in gone {
            self.close(connection, out);
        }
    }

    /// What the ring was too full for. Every loss is told, also of ends of which nothing else is known.
    pub fn lost(&mut self, connection: ConnectionId, loss: &Loss, out: &mut dyn FnMut(Event<'_>)) {
        let (local, peer) = addresses(&loss.addresses, &[]);
        for (direction, length, span) in [
            (Direction::Send, loss.sent, loss.sent_span),
            (Direction::Receive, loss.received, loss.received_span),
        ] {
            if length > 0 {
                let gap = Gap {
                    connection,
                    local: Some(local.clone()),
                    peer: Some(peer.clone()),
                    direction,
                    position: span[0],
                    length: u64::from(span[1].wrapping_sub(span[0])),
                    cause: GapCause::Lost,
                };
                out(Event::Gap(&gap));
            }
        }
    }

    /// Time passes: holes that nobody fills are given up, and closes that waited are made.
    pub fn poll(&mut self, now: Monotonic, out: &mut dyn FnMut(Event<'_>)) {
        let waiting: Vec<_> = self.waiting.iter().copied().collect();
        for connection in waiting {
            let Some(end) = self.ends.get_mut(&connection) else {
                self.waiting.remove(&connection);
                continue;
            };
            for direction in [Direction::Send, Direction::Receive] {
                let base = end.base(direction);
                let ConnectionEnd { opened, send, receive, .. } = &mut *end;
                let way = if direction == Direction::Send { send } else { receive };
                let mut passing =
                    Passing { opened, direction, base, ledger: &mut self.ledger, out: &mut *out };
                way.track.expire(now, &mut |piece| passing.pass(piece));
            }
            let overdue =
                end.closing.as_ref().map(|(closed, _)| now.since(closed.time) > self.limits.unread_age);
            match overdue {
                Some(true) => self.close(connection, out),
                None if !end.send.track.holds() && !end.receive.track.holds() => {
                    self.waiting.remove(&connection);
                }
                _ => {}
            }
        }
    }

    fn evict(&mut self, out: &mut dyn FnMut(Event<'_>)) {
        let oldest = self.ends.values().min_by_key(|end| end.last.time).map(|end| end.opened.connection);
        if let Some(connection) = oldest {
            self.ledger.evicted += 1;
            self.close(connection, out);
        }
    }

    /// The kernel's word for a wish, and what to remember of it.
    pub fn policy(
        &mut self,
        connection: ConnectionId,
        direction: Direction,
        policy: Policy,
    ) -> Option<spandrel_proto::policy::Policy> {
        use spandrel_proto::policy::{MAX_SILENCE, Policy as Word};
        let end = self.ends.get_mut(&connection)?;
        let base = end.base(direction);
        let way = end.way(direction);
        way.silent_until = None;
        Some(match policy {
            Policy::Heads => Word::Heads,
            Policy::FirstBlock => Word::FirstBlock,
            Policy::Everything => Word::Everything,
            Policy::Nothing => {
                way.silent_until = Some(u64::MAX);
                Word::Nothing
            }
            Policy::From { offset } => {
                let next = way.track.next().unwrap_or(0);
                let offset = offset.min(next.saturating_add(u64::from(MAX_SILENCE)));
                way.silent_until = Some(offset);
                Word::From(base.wrapping_add(offset as u32))
            }
        })
    }
}

/// How long an exit is remembered, nanoseconds: sockets are closed right after it.
const EXITED_AGE: u64 = 10_000_000_000;

/// The identity in a record's header.
pub(crate) fn process(header: &Header) -> ProcessKey {
    ProcessKey { pid: header.pid, exec: header.exec, started: header.started }
}

fn moment(header: &Header) -> Moment {
    Moment {
        time: Monotonic(header.time),
        process: process(header),
        thread: ThreadId(header.thread),
        nonblocking: header.flags & FLAG_NONBLOCKING != 0,
        in_epoll: header.flags & FLAG_IN_EPOLL != 0,
    }
}

/// `AF_UNIX`, `AF_INET` (include/linux/socket.h); anything else is IPv6.
const AF_UNIX: u32 = 1;
const AF_INET: u32 = 2;

fn addresses(addresses: &Addresses, path: &[u8]) -> (Address, Address) {
    if addresses.family == AF_UNIX {
        let path = path.split(|&byte| byte == 0).find(|part| !part.is_empty()).unwrap_or_default();
        let path = String::from_utf8_lossy(path).into_owned();
        return (Address::Unix(path.clone()), Address::Unix(path));
    }
    let ip = |bytes: [u8; 16]| {
        if addresses.family == AF_INET {
            IpAddr::V4(Ipv4Addr::new(bytes[0], bytes[1], bytes[2], bytes[3]))
        } else {
            IpAddr::V6(Ipv6Addr::from(bytes)).to_canonical()
        }
    };
    let end = |bytes, port: u32| Address::Ip(SocketAddr::new(ip(bytes), port as u16));
    (end(addresses.local, addresses.local_port), end(addresses.peer, addresses.peer_port))
}
