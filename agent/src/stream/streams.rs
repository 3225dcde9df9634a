//! All connection ends: what each kind of record does to them.
//!
//! Start with [`Streams::data`]. It must never place a byte by arrival, or join two ends by anything but
//! what `names` proves.

use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use foldhash::{HashMap, HashMapExt as _};
use spandrel_proto::position::{End, RCV_SHUTDOWN, SEND_SHUTDOWN, Tcp, extend};
use spandrel_proto::record::{
    self, Addresses, Data, FLAG_ACTIVE, FLAG_FIRST, FLAG_IN_EPOLL, FLAG_LAST, FLAG_LATE, FLAG_NONBLOCKING,
    FLAG_SEND, Header, Loss, Place, REST_FRAMES, REST_NOTHING, REST_SILENT, REST_UNSEEN, TRANSPORT_UNIX,
    Unix,
};

use super::closing::{Exits, Gone};
use super::end::{ConnectionEnd, Hole, Way};
use super::names::Names;
use super::step::{Certainty, First, Step};
use super::track::{Claim, Placed};
use super::{Content, Event, Gap, GapCause, Opened};
use crate::exchange::Policy;
use crate::identity::{
    Address, ConnectionId, Direction, EvidenceId, Moment, Monotonic, ProcessKey, ThreadId,
};

/// Bounds of this station.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Connection ends known at once. Beyond, those that were silent longest are given up, counted: an
    /// end whose close record was lost would stay for ever.
    pub ends: usize,
    /// How long an end that was reset may still be read from, nanoseconds.
    pub unread_age: u64,
    /// How long a unix stream may be silent, nanoseconds: the kernel does not tell when it ends, if nobody
    /// reads until its end. One that goes on after that is met anew.
    pub unix_age: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self { ends: 65_536, unread_age: 1_000_000_000, unix_age: 600_000_000_000 }
    }
}

/// The station's books, in bytes: captured = passed + discarded + held.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Ledger {
    /// Bytes that came in records.
    pub captured: u64,
    /// Bytes that were passed on.
    pub passed: u64,
    /// Bytes that came and whose place was not certain, or whose end was closed already.
    pub discarded: u64,
    /// Bytes that wait for a hole to fill.
    pub held: u64,
    /// Bytes that are not here, by [`GapCause`], in the order of [`GapCause::ALL`].
    pub gaps: [u64; GapCause::ALL.len()],
    /// Bytes that the peer sent and this end never read.
    pub unread: u64,
    /// Ends that were met: these, less closed, evicted, aged and left out, are known now.
    pub opened: u64,
    /// Ends that closed.
    pub closed: u64,
    /// Ends given up because there were too many.
    pub evicted: u64,
    /// Unix ends given up because they were silent too long, or their socket's address is another's now.
    pub aged: u64,
    /// Ends of processes that are not selected.
    pub left_out: u64,
    /// Pairs of ends that are one connection.
    pub joined: u64,
}

/// All connection ends.
pub struct Streams {
    pub(super) limits: Limits,
    pub(super) ends: HashMap<ConnectionId, ConnectionEnd>,
    pub(super) names: Names,
    /// Unix sockets that were there before us: their counters do not begin with their first byte.
    old_sockets: HashSet<u64>,
    pub(super) exits: Exits,
    /// Ends that closed a moment ago.
    pub(super) gone: Gone,
    /// Ends with pieces behind a hole, or a close that waits.
    pub(super) waiting: foldhash::HashSet<ConnectionId>,
    /// Unix ends, by the process that used them last.
    pub(super) unix_of: HashMap<ProcessKey, HashSet<ConnectionId>>,
    pub(super) swept: Monotonic,
    pub(super) ledger: Ledger,
}

impl Streams {
    /// `old_sockets`: the inode numbers of unix sockets that existed when the last program was attached.
    pub fn new(limits: Limits, old_sockets: HashSet<u64>) -> Self {
        Self {
            limits,
            ends: HashMap::new(),
            names: Names::default(),
            old_sockets,
            exits: Exits::default(),
            gone: Gone::default(),
            waiting: foldhash::HashSet::default(),
            unix_of: HashMap::new(),
            swept: Monotonic::default(),
            ledger: Ledger::default(),
        }
    }

    /// The books.
    pub fn ledger(&self) -> Ledger {
        let held = self.waiting.iter().filter_map(|id| self.ends.get(id)).map(|end| end.held() as u64).sum();
        Ledger { held, ..self.ledger }
    }

    /// Ends and names held now.
    pub fn size(&self) -> (usize, usize) {
        (self.ends.len(), self.names.len())
    }

    /// A task asked for a connection; on whose behalf, if that is known.
    pub fn connecting(
        &mut self,
        record: &record::Connecting,
        evidence: Option<EvidenceId>,
        out: &mut dyn FnMut(Event<'_>),
    ) {
        let (_, peer) = addresses(&record.addresses, &[]);
        let connection = ConnectionId(record.socket.connection);
        out(Event::Connecting { connection, at: &Moment { evidence, ..moment(&record.header) }, peer });
    }

    /// A connection was established, or met late.
    pub fn opened(&mut self, record: &record::Opened, path: &[u8], out: &mut dyn FnMut(Event<'_>)) {
        let connection = ConnectionId(record.socket.connection);
        let late = record.header.flags & FLAG_LATE != 0;
        let (local, peer) = addresses(&record.addresses, path);
        let moment = moment(&record.header);
        if record.header.flags & FLAG_ACTIVE != 0 && !late {
            out(Event::Connected { connection });
        }
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
        let opened = Opened { connection, local, peer, born_here, time: moment.time };
        let met = Met { role, moment, known_addresses: true, from_birth: born_here };
        self.create(&record.socket, opened, met, out);
    }

    fn born_here(&self, unix: &Unix) -> bool {
        unix.inode != 0 && !self.old_sockets.contains(&unix.inode)
    }

    fn create(&mut self, socket: &record::Socket, opened: Opened, met: Met, out: &mut dyn FnMut(Event<'_>)) {
        let connection = opened.connection;
        if self.ends.len() >= self.limits.ends {
            self.evict(met.moment.time, out);
        }
        let Met { role, moment, known_addresses, from_birth } = met;
        let place = socket.place();
        let base = match place {
            Place::Tcp(tcp) => {
                let active = u32::from(role == Some(End::Active));
                (tcp.first_sent_if_passive().wrapping_add(active), tcp.first_received())
            }
            Place::Unix(_) | Place::Foreign => (0, 0),
        };
        out(Event::Opened(&opened));
        self.ledger.opened += 1;
        let way =
            || Way { step: if from_birth { Step::from_birth() } else { Step::default() }, ..Way::default() };
        let end = ConnectionEnd {
            opened,
            known_addresses,
            transport: socket.transport,
            role,
            base,
            from_birth,
            send: way(),
            receive: way(),
            joined: false,
            named: None,
            unix: Unix::default(),
            candidate: None,
            shift: None,
            direction: None,
            met: moment.time,
            last: moment,
            finished: false,
            finished_first: false,
            finished_by_exit: None,
            closing: None,
        };
        self.ends.insert(connection, end);
        if socket.transport == TRANSPORT_UNIX {
            self.unix_of.entry(moment.process).or_default().insert(connection);
        }
        self.join(connection, &place, None, out);
    }

    fn join(
        &mut self,
        connection: ConnectionId,
        place: &Place,
        direction: Option<Direction>,
        out: &mut dyn FnMut(Event<'_>),
    ) {
        match place {
            Place::Tcp(tcp) => self.join_tcp(connection, tcp, out),
            Place::Unix(unix) => self.join_unix(connection, unix, direction, out),
            Place::Foreign => {}
        }
    }

    /// A call moved bytes; on whose behalf, if that is known.
    pub fn data(
        &mut self,
        data: &Data,
        evidence: Option<EvidenceId>,
        bytes: &[u8],
        out: &mut dyn FnMut(Event<'_>),
    ) {
        let connection = ConnectionId(data.socket.connection);
        let direction = if data.header.flags & FLAG_SEND != 0 { Direction::Send } else { Direction::Receive };
        let moment = Moment { evidence, ..moment(&data.header) };
        let place = data.socket.place();
        self.ledger.captured += bytes.len() as u64;
        if !self.ends.contains_key(&connection) {
            if self.gone.contains(connection) {
                // A record that its end's close has overtaken.
                self.ledger.discarded += bytes.len() as u64;
                return;
            }
            // Its *opened* record was lost; it is met late, at addresses that are not known yet.
            let nowhere = Address::Ip(SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)));
            let born_here = matches!(&place, Place::Unix(unix) if self.born_here(unix));
            let time = moment.time;
            let opened = Opened { connection, local: nowhere.clone(), peer: nowhere, born_here, time };
            let met = Met { role: None, moment, known_addresses: false, from_birth: false };
            self.create(&data.socket, opened, met, out);
        }
        let Some(end) = self.ends.get_mut(&connection) else { return };
        let before = std::mem::replace(&mut end.last, moment).process;
        end.direction = Some(direction);
        let joined = end.joined;
        if data.header.lost > 0 {
            (end.send.lost, end.receive.lost) = (true, true);
        }
        let way = end.way(direction);
        way.moved = data.socket.moved;
        way.thread = Some(moment.thread);
        if end.transport == TRANSPORT_UNIX && before != moment.process {
            self.no_longer_of(before, connection);
            self.unix_of.entry(moment.process).or_default().insert(connection);
        }
        if data.total > 0 {
            self.place(connection, direction, data, bytes, &place, moment, out);
        } else if direction == Direction::Receive {
            self.read_end(connection, data, out);
        }
        if !joined {
            self.join(connection, &place, Some(direction), out);
        }
    }

    #[expect(clippy::too_many_arguments, reason = "the parts of one record, taken apart once")]
    fn place(
        &mut self,
        connection: ConnectionId,
        direction: Direction,
        data: &Data,
        bytes: &[u8],
        place: &Place,
        moment: Moment,
        out: &mut dyn FnMut(Event<'_>),
    ) {
        let Some(end) = self.ends.get_mut(&connection) else { return };
        let total = u64::from(data.total);
        let offset = match place {
            Place::Tcp(tcp) => {
                let end_at = match direction {
                    Direction::Send => tcp.write_seq,
                    Direction::Receive => tcp.received_end(data.socket.shutdown as u8),
                };
                let end_at = end_at.wrapping_sub(end.base(direction));
                extend(end_at, moved_near(tcp, direction)).and_then(|end| end.checked_sub(total))
            }
            Place::Unix(_) | Place::Foreign => data.socket.moved.checked_sub(total),
        };
        let Some(offset) = offset.filter(|offset| *offset <= MAX_OFFSET) else {
            // Before the stream's first byte, or beyond what any stream reaches: a torn snapshot.
            self.ledger.discarded += bytes.len() as u64;
            end.way(direction).step.caught();
            return;
        };
        let begins = if end.from_birth { 0 } else { offset };
        let (way, mut passing) = end.passing(direction, &mut self.ledger, out);
        let first = if data.header.flags & FLAG_FIRST != 0 { First::Yes } else { First::No };
        let certainty = way.step.judge(offset + total, data.socket.moved, total, moment.time, first);
        let explained = way.explained();
        let skip = u64::from(data.skip).min(total);
        let hole = way.track.next().unwrap_or(begins) < offset + if first == First::Yes { 0 } else { skip };
        way.reached(offset, if hole { Hole::Yes } else { Hole::No });
        way.lost = false;

        let mut put = |offset: u64, content: Content<'_>, starts_call: bool, ends_call: bool| {
            let content = match (certainty, content) {
                (Certainty::No, Content::Bytes(bytes)) => {
                    passing.ledger.discarded += bytes.len() as u64;
                    Content::Gap { length: bytes.len() as u64, cause: GapCause::Uncertain }
                }
                (Certainty::No, Content::Gap { length, .. }) => {
                    Content::Gap { length, cause: GapCause::Uncertain }
                }
                (_, content) => content,
            };
            let proven = certainty == Certainty::Proven;
            let placed = Placed { offset, content, starts_call, ends_call, proven, moment };
            if way.track.place(&placed, explained, begins, &mut |piece| passing.pass(piece)) == Claim::Clash {
                way.step.caught();
            }
        };
        let starts = first == First::Yes;
        let ends = data.header.flags & FLAG_LAST != 0;
        let rest = total.saturating_sub(skip + bytes.len() as u64);
        let (reason, before) = data.rest();
        let before = u64::from(before).min(offset + skip);
        if before > 0 {
            // Payload that the policy left out, of this call and of calls before it that were nothing else.
            let gap = Content::Gap { length: before, cause: GapCause::Silent };
            put(offset + skip - before, gap, starts && skip > 0, false);
        } else if starts && skip > 0 {
            put(offset, Content::Gap { length: skip, cause: GapCause::Silent }, true, false);
        }
        if !bytes.is_empty() {
            put(offset + skip, Content::Bytes(bytes), starts && skip == 0, ends && rest == 0);
        }
        if ends && rest > 0 {
            let cause = match reason {
                REST_NOTHING | REST_FRAMES => GapCause::Limit,
                REST_UNSEEN => GapCause::Unseen,
                REST_SILENT => GapCause::Silent,
                _ => GapCause::Lost,
            };
            let starts_call = starts && skip == 0 && bytes.is_empty();
            put(offset + skip + bytes.len() as u64, Content::Gap { length: rest, cause }, starts_call, true);
        }
        passing.ledger.discarded += way.track.take_discarded();
        if way.track.holds() {
            self.waiting.insert(connection);
        }
    }

    /// A unix stream was read to its end.
    fn read_end(&mut self, connection: ConnectionId, data: &Data, out: &mut dyn FnMut(Event<'_>)) {
        const BOTH: u8 = RCV_SHUTDOWN | SEND_SHUTDOWN;
        let Some(end) = self.ends.get_mut(&connection) else { return };
        let moment = end.last;
        end.skip(Direction::Receive, data.socket.moved, &moment, &mut self.ledger, out);
        if end.transport == TRANSPORT_UNIX && data.socket.shutdown as u8 & BOTH == BOTH {
            // `unix_release_sock`: the other end is closed.
            return self.close_unix_pair(connection, moment.time, out);
        }
        if !std::mem::replace(&mut end.finished, true) {
            out(Event::Finished { connection, time: moment.time });
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
        let (until, word) = match policy {
            Policy::Heads => (0, Word::Heads),
            Policy::FirstBlock => (0, Word::FirstBlock),
            Policy::Everything => (0, Word::Everything),
            Policy::Nothing => (u64::MAX, Word::Nothing),
            Policy::From { offset } => {
                let next = way.track.next().unwrap_or(0);
                let offset = offset.min(next.saturating_add(u64::from(MAX_SILENCE)));
                (offset, Word::From(base.wrapping_add(offset as u32)))
            }
            Policy::Frames { offset } => (0, Word::Frames(base.wrapping_add(offset as u32))),
            Policy::Records { offset } => (0, Word::Records(base.wrapping_add(offset as u32))),
        };
        way.followed |= matches!(policy, Policy::Frames { .. } | Policy::Records { .. });
        way.silence(until);
        Some(word)
    }
}

/// How an end was met.
struct Met {
    role: Option<End>,
    moment: Moment,
    known_addresses: bool,
    from_birth: bool,
}

/// No stream is this long; it keeps sums of offsets and lengths far from their limit.
pub(super) const MAX_OFFSET: u64 = 1 << 60;

/// About how many bytes a TCP connection has moved in a direction: its 64-bit counters, which are not taken
/// in one instant with its positions.
pub(super) fn moved_near(tcp: &Tcp, direction: Direction) -> u64 {
    let (count, ahead) = match direction {
        Direction::Send => (tcp.bytes_acked, tcp.write_seq.wrapping_sub(tcp.snd_una).cast_signed()),
        Direction::Receive => (tcp.bytes_received, tcp.copied_seq.wrapping_sub(tcp.rcv_nxt).cast_signed()),
    };
    count.saturating_add_signed(i64::from(ahead))
}

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
        evidence: None,
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
