//! A kernel for tests: sockets that move bytes, and the records that hooks make of it.
//!
//! Moving bytes and running the hook are two steps ([`Socket::moves`], [`Kernel::hook`]), so that a test can
//! put anything in between; most use both at once ([`Kernel::call`]). It must never know what the streams
//! make of its records.

use spandrel_proto::position::{RCV_SHUTDOWN, Tcp};
use spandrel_proto::record::{
    Addresses, Data, FLAG_ACTIVE, FLAG_FIRST, FLAG_LAST, FLAG_LATE, FLAG_SEND, Header, Opened, REST_NOTHING,
    Socket as SocketRecord, State, TRANSPORT_TCP, TRANSPORT_UNIX, Unix,
};

use super::{Content, Event, Limits, Streams};
use crate::identity::{ConnectionId, Direction, Monotonic, ProcessKey};

pub use Direction::{Receive, Send};

/// Milliseconds, in nanoseconds.
pub const MS: u64 = 1_000_000;

/// A record, as the ring would hold it.
#[derive(Clone, Debug)]
pub enum Record {
    Data(Data, Vec<u8>),
    Opened(Opened),
    State(State),
}

/// A socket, with everything that a hook would read from it.
#[derive(Clone, Debug)]
pub struct Socket {
    pub id: u64,
    pub transport: u32,
    pub active: bool,
    /// Sequence numbers of the first byte sent and received.
    pub first: (u32, u32),
    /// Bytes moved in all: written, read, and come from the peer.
    pub written: u64,
    pub read: u64,
    pub came: u64,
    pub fin_sent: bool,
    pub fin_came: bool,
    pub fin_read: bool,
    pub shutdown: u8,
    /// What the hook counted.
    pub counted: (u64, u64),
    pub lost: u32,
    pub unix: Unix,
    pub process: ProcessKey,
    pub thread: u32,
}

impl Socket {
    /// Moves bytes, without the hook.
    pub fn moves(&mut self, direction: Direction, bytes: u64) {
        match direction {
            Send => self.written += bytes,
            Receive => {
                self.came = self.came.max(self.read + bytes);
                self.read += bytes;
                self.fin_read = self.fin_came && self.read == self.came;
            }
        }
    }

    pub fn tcp(&self) -> Tcp {
        let (sent, received) = self.first;
        let write_seq = sent.wrapping_add(self.written as u32).wrapping_add(self.fin_sent.into());
        Tcp {
            write_seq,
            snd_una: write_seq,
            copied_seq: received.wrapping_add(self.read as u32).wrapping_add(self.fin_read.into()),
            rcv_nxt: received.wrapping_add(self.came as u32).wrapping_add(self.fin_came.into()),
            bytes_acked: self.written + u64::from(self.active) + u64::from(self.fin_sent),
            bytes_received: self.came,
        }
    }

    fn record(&self, moved: u64) -> SocketRecord {
        let mut record = SocketRecord {
            connection: self.id,
            transport: self.transport,
            shutdown: self.shutdown.into(),
            moved,
            place: [0; 4],
        };
        match self.transport {
            TRANSPORT_TCP => record.set_tcp(&self.tcp()),
            _ => record.set_unix(&self.unix),
        }
        record
    }
}

/// What the hook makes of calls.
#[derive(Clone, Debug)]
pub struct Kernel {
    pub time: u64,
}

/// Which part of a call a record has: from, to; the rest is cut.
pub type Part = (u32, u32);

impl Kernel {
    pub fn header(&self, socket: &Socket, flags: u16) -> Header {
        Header {
            time: self.time,
            pid: socket.process.pid,
            started: socket.process.started,
            thread: socket.thread,
            flags,
            ..Header::default()
        }
    }

    /// Runs the hook of a call that moved `bytes`, of which one record has `part`.
    pub fn hook(&mut self, socket: &mut Socket, direction: Direction, bytes: &[u8], part: Part) -> Record {
        self.time += 1000;
        let total = bytes.len() as u32;
        let moved = match direction {
            Send => &mut socket.counted.0,
            Receive => &mut socket.counted.1,
        };
        *moved += u64::from(total);
        let moved = *moved;
        let flags = FLAG_FIRST | FLAG_LAST | if direction == Send { FLAG_SEND } else { 0 };
        let mut header = self.header(socket, flags);
        header.lost = std::mem::take(&mut socket.lost);
        let data = Data {
            header,
            socket: socket.record(moved),
            total,
            skip: part.0,
            captured: part.1 - part.0,
            rest: REST_NOTHING,
            ..Data::default()
        };
        Record::Data(data, bytes[part.0 as usize..part.1 as usize].to_vec())
    }

    /// A whole call, all of it captured.
    pub fn call(&mut self, socket: &mut Socket, direction: Direction, bytes: &[u8]) -> Record {
        socket.moves(direction, bytes.len() as u64);
        self.hook(socket, direction, bytes, (0, bytes.len() as u32))
    }

    pub fn opened(&mut self, socket: &Socket, late: bool) -> Record {
        self.time += 1000;
        let active = if socket.active && !late { FLAG_ACTIVE } else { 0 };
        let (local, peer) = if socket.active { (40_000, 80) } else { (80, 40_000) };
        let family = if socket.transport == TRANSPORT_UNIX { 1 } else { 2 };
        let loopback = [127, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        let addresses =
            Addresses { family, local_port: local, peer_port: peer, local: loopback, peer: loopback, net: 0 };
        Record::Opened(Opened {
            header: self.header(socket, if late { FLAG_LATE } else { active }),
            socket: socket.record(0),
            addresses,
            ..Opened::default()
        })
    }

    pub fn state(&mut self, socket: &Socket, from: u32, to: u32, error: u32) -> Record {
        self.time += 1000;
        let mut header = self.header(socket, 0);
        header.lost = socket.lost;
        Record::State(State { header, socket: socket.record(0), from, to, error, reserved: 0 })
    }
}

/// Two ends of a connection on one host: 1 connected, 2 accepted.
pub fn pair(first: (u32, u32)) -> (Socket, Socket) {
    let client = Socket {
        id: 1,
        transport: TRANSPORT_TCP,
        active: true,
        first,
        written: 0,
        read: 0,
        came: 0,
        fin_sent: false,
        fin_came: false,
        fin_read: false,
        shutdown: 0,
        counted: (0, 0),
        lost: 0,
        unix: Unix::default(),
        process: ProcessKey { pid: 100, exec: 0, started: 5 },
        thread: 100,
    };
    let process = ProcessKey { pid: 200, exec: 0, started: 6 };
    let server =
        Socket { id: 2, active: false, first: (first.1, first.0), process, thread: 200, ..client.clone() };
    (client, server)
}

/// As [`pair`], of unix sockets.
pub fn unix_pair() -> (Socket, Socket) {
    let (mut client, mut server) = pair((0, 0));
    (client.transport, server.transport) = (TRANSPORT_UNIX, TRANSPORT_UNIX);
    client.unix = Unix { sock: 0xc0, peer: 0x50, inode: 7001, drained: false };
    server.unix = Unix { sock: 0x50, peer: 0xc0, inode: 7002, drained: false };
    (client, server)
}

/// The peer's FIN comes.
pub fn finish(socket: &mut Socket) {
    socket.fin_came = true;
    socket.shutdown |= RCV_SHUTDOWN;
}

/// The streams under test, and what they said.
pub struct Bench {
    pub streams: Streams,
    pub said: Vec<String>,
    pub pieces: Vec<Told>,
    pub joined: Vec<(u64, u64, i64, i64)>,
}

/// A piece that was passed on.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Told {
    pub connection: u64,
    pub direction: Direction,
    pub offset: u64,
    pub length: u64,
    /// None: a gap.
    pub bytes: Option<Vec<u8>>,
}

impl Default for Bench {
    fn default() -> Self {
        Self::new(Limits::default(), &[])
    }
}

impl Bench {
    pub fn new(limits: Limits, old: &[u64]) -> Self {
        let streams = Streams::new(limits, old.iter().copied().collect());
        Self { streams, said: Vec::new(), pieces: Vec::new(), joined: Vec::new() }
    }

    /// Gives records to the streams.
    pub fn give(&mut self, records: impl IntoIterator<Item = Record>) -> &mut Self {
        for record in records {
            self.with(|streams, out| match &record {
                Record::Data(data, bytes) => streams.data(data, None, bytes, out),
                Record::Opened(opened) => streams.opened(opened, &[], out),
                Record::State(state) => streams.state(state, out),
            });
        }
        self
    }

    pub fn poll(&mut self, now: u64) -> &mut Self {
        self.with(|streams, out| streams.poll(Monotonic(now), out));
        self
    }

    pub fn with(&mut self, action: impl FnOnce(&mut Streams, &mut dyn FnMut(Event<'_>))) {
        let Self { streams, said, pieces, joined } = self;
        action(streams, &mut |event| {
            said.push(text(&event));
            match event {
                Event::Piece { connection, direction, piece } => {
                    let (length, bytes) = match piece.content {
                        Content::Bytes(bytes) => (bytes.len() as u64, Some(bytes.to_vec())),
                        Content::Gap { length, .. } => (length, None),
                    };
                    let offset = piece.offset;
                    pieces.push(Told { connection: connection.0, direction, offset, length, bytes });
                }
                Event::Joined { a, b, a_to_b, b_to_a } => joined.push((a.0, b.0, a_to_b, b_to_a)),
                _ => {}
            }
        });
        let books = streams.ledger();
        assert_eq!(books.captured, books.passed + books.discarded + books.held, "{books:?}");
        assert_eq!(
            books.opened,
            books.closed + books.evicted + books.aged + books.left_out + streams.size().0 as u64,
            "{books:?}"
        );
    }

    /// What was said since this was last asked.
    pub fn take(&mut self) -> Vec<String> {
        std::mem::take(&mut self.said)
    }

    #[track_caller]
    pub fn says(&mut self, want: &[&str]) {
        assert_eq!(self.take(), want);
    }
}

fn text(event: &Event<'_>) -> String {
    let name = |id: &ConnectionId| match id.0 {
        1 => "client".to_owned(),
        2 => "server".to_owned(),
        other => other.to_string(),
    };
    match event {
        Event::Opened(opened) => {
            let born = if opened.born_here { " born here" } else { "" };
            format!("{} opened {} to {}{born}", name(&opened.connection), opened.local, opened.peer)
        }
        Event::Piece { connection, direction, piece } => {
            let verb = if *direction == Send { "sent" } else { "got" };
            let starts = if piece.starts_call { "|" } else { "" };
            let what = match piece.content {
                Content::Bytes(bytes) => format!("{starts}{}", String::from_utf8_lossy(bytes)),
                Content::Gap { length, cause } => format!("{starts}{length} {}", cause.name()),
            };
            format!("{} {verb} {}: {what}", name(connection), piece.offset)
        }
        Event::Joined { a, b, a_to_b, b_to_a } => format!("{} = {} {a_to_b:+} {b_to_a:+}", name(a), name(b)),
        Event::Finished { connection, .. } => format!("{} read all", name(connection)),
        Event::Closed { connection, closed } => {
            let mut text = format!("{} closed", name(connection));
            for (is, word) in [
                (closed.peer_finished, " peer-finished"),
                (closed.local_finished_first, " finished-first"),
                (closed.process_exited, " process-exited"),
            ] {
                text += if is { word } else { "" };
            }
            if closed.errno != 0 {
                text += &format!(" errno {}", closed.errno);
            }
            text
        }
        Event::Abandoned { connection, .. } => format!("{} abandoned", name(connection)),
        Event::Connecting { connection, peer, .. } => format!("{} asked for {peer}", name(connection)),
        Event::Connected { connection } => format!("{} came about", name(connection)),
        Event::ConnectFailed { connection, errno, .. } => format!("{} failed: {errno}", name(connection)),
        Event::Gap(gap) => {
            let verb = if gap.direction == Send { "sending" } else { "getting" };
            format!("{} misses {} {verb} at {}", name(&gap.connection), gap.length, gap.position)
        }
    }
}

/// Numbers that look random and are the same each time (xorshift64*, Vigna 2016).
pub struct Random(pub u64);

impl Random {
    pub fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % limit
    }
}
