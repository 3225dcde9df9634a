//! What must hold for any sequence of pieces, gaps and ends: the body of the fuzz target.
//!
//! It plays plausible and broken messages in both directions in any order, and asserts after every step that
//! events follow each other as [`super::Event`] says, that memory is bounded and that the books balance. It
//! must never depend on anything but its argument, so that a crash is a seed.

use std::collections::BTreeMap;

use super::{
    Classified, Connection, Event, ExchangeId, MAX_HELD_BYTES, MAX_UNANSWERED_BYTES, Other, Output, Policy,
};
use crate::identity::{ConnectionId, Direction, Moment, Monotonic, ProcessKey, ThreadId};
use crate::protocol::http1::MAX_HEAD;
use crate::protocol::http2;
use crate::stream::{Closed, Content, GapCause, Piece};

/// Plays the bytes as a sequence of operations: the first says whether the connection was seen from birth;
/// then each operation is one byte (what to do, in which direction) and one that says how much.
#[doc(hidden)]
pub fn fuzz_connection(data: &[u8]) {
    play(data, &TEMPLATES);
}

/// The same with what HTTP/2 is made of.
#[doc(hidden)]
pub fn fuzz_http2(data: &[u8]) {
    play(data, &HTTP2);
}

/// The same with what FastCGI is made of.
#[doc(hidden)]
pub fn fuzz_fastcgi(data: &[u8]) {
    play(data, &FASTCGI);
}

fn play(data: &[u8], templates: &[&[u8]]) {
    let Some((&first, mut rest)) = data.split_first() else { return };
    let id = ConnectionId(u64::from(first));
    let mut connection = Connection::new(id, first & 1 == 0);
    let mut order = Order::new(id);
    let (mut received, mut sent) = (u64::from(first) << 8, u64::from(first) << 12);
    let mut time = 1_000_000u64;
    while let [operation, amount, after @ ..] = rest {
        rest = after;
        // Mostly forwards; sometimes a record comes late.
        time = match amount & 15 {
            0 => time.saturating_sub(50_000),
            1 => time + 2_000_000_000,
            _ => time + 1_000,
        };
        let moment = Moment {
            time: Monotonic(time),
            process: process(amount >> 6),
            thread: ThreadId(u32::from(amount >> 4)),
            nonblocking: false,
            in_epoll: false,
            evidence: None,
        };
        let (direction, next) = match operation & 1 {
            0 => (Direction::Receive, &mut received),
            _ => (Direction::Send, &mut sent),
        };
        let mut out = Output::default();
        let content = match (operation >> 1) & 15 {
            0..=9 => {
                let template = usize::from((operation >> 1) ^ (amount >> 2)) % templates.len();
                Some(Content::Bytes(templates.get(template).copied().unwrap_or_default()))
            }
            10 | 11 => {
                let (bytes, after) = rest.split_at(usize::from(*amount).min(rest.len()));
                rest = after;
                Some(Content::Bytes(bytes))
            }
            12 => {
                let cause = match amount & 3 {
                    0 => GapCause::Silent,
                    1 => GapCause::Limit,
                    2 => GapCause::Unseen,
                    _ => GapCause::Lost,
                };
                Some(Content::Gap { length: 1 + (u64::from(*amount) << (amount >> 3)), cause })
            }
            13 => {
                connection.process_exited(process(amount & 3), moment.time, &mut out);
                None
            }
            14 if amount & 0x70 == 0 => {
                let closed = Closed {
                    time: moment.time,
                    errno: [0, 0, 104, 32, 110, 113][usize::from(amount & 7) % 6],
                    peer_finished: amount & 8 != 0,
                    local_finished_first: amount & 1 != 0,
                    process_exited: amount & 4 != 0,
                };
                connection.closed(&closed, &mut out);
                order.ended = true;
                None
            }
            15 => {
                // One template, torn in two at any place; the rest of it is the next call or the same one.
                let template =
                    templates.get(usize::from(*amount) % templates.len()).copied().unwrap_or_default();
                let (one, two) = template.split_at(usize::from(operation >> 5) * template.len() / 8);
                for (bytes, starts_call) in [(one, true), (two, amount & 1 == 0)] {
                    let piece = Piece {
                        offset: *next,
                        content: Content::Bytes(bytes),
                        starts_call,
                        ends_call: false,
                        moment: &moment,
                    };
                    connection.piece(direction, &piece, &mut out);
                    *next += bytes.len() as u64;
                }
                None
            }
            _ => None,
        };
        if let Some(content) = content {
            let piece = Piece {
                offset: *next,
                content,
                starts_call: operation & 0x20 == 0,
                ends_call: false,
                moment: &moment,
            };
            connection.piece(direction, &piece, &mut out);
            *next = next.saturating_add(super::held::length(&piece));
        }
        order.check(&out);
        check_books(&connection);
    }
    let mut out = Output::default();
    connection.abandoned(&mut out);
    order.ended = true;
    order.check(&out);
    check_books(&connection);
    let ledger = connection.ledger();
    assert!(order.open.is_empty(), "open after the end: {:?}", order.open);
    assert_eq!((ledger.open, ledger.bytes_held), (0, 0), "{ledger:?}");
    assert_eq!(ledger.opened, order.opened);
    assert_eq!(ledger.responses_paired, order.responded);
}

fn process(number: u8) -> ProcessKey {
    ProcessKey { pid: u32::from(number & 1), exec: u32::from(number >> 1), started: 1 }
}

fn check_books(connection: &Connection) {
    let (ledger, parsers) = (connection.ledger(), connection.parser_ledger());
    assert!(ledger.balances(), "the books do not balance: {ledger:?}");
    assert!(parsers.balances(), "the parsers' books do not balance: {parsers:?}");
    assert_eq!(ledger.bytes_parsed, parsers.bytes());
    let held = connection.held_bytes();
    let http2 = 2 * (http2::MAX_BLOCK + http2::hpack::MAX_TABLE);
    let most = MAX_HELD_BYTES + MAX_UNANSWERED_BYTES + (2 * MAX_HEAD).max(http2);
    assert!(held <= most, "{held} bytes are held");
    if connection.protocol() == Classified::Other(Other::Switched) {
        assert_eq!((ledger.open, held), (0, 0));
    }
}

/// The grammar of events.
struct Order {
    connection: ConnectionId,
    /// Open exchanges and whether their response began.
    open: BTreeMap<ExchangeId, bool>,
    last: Option<ExchangeId>,
    opened: u64,
    responded: u64,
    receive: Policy,
    send: Policy,
    ended: bool,
}

impl Order {
    fn new(connection: ConnectionId) -> Self {
        Self {
            connection,
            open: BTreeMap::new(),
            last: None,
            opened: 0,
            responded: 0,
            receive: Policy::Heads,
            send: Policy::Heads,
            ended: false,
        }
    }

    fn check(&mut self, out: &Output) {
        for event in &out.events {
            match event {
                Event::Opened { id, .. } => {
                    assert!(!self.ended, "{id:?} opened after the end");
                    assert_eq!(id.connection, self.connection);
                    assert!(self.last < Some(*id), "{id:?} after {:?}", self.last);
                    self.last = Some(*id);
                    self.open.insert(*id, false);
                    self.opened += 1;
                }
                Event::Responding { id, .. } => {
                    let before = self.open.insert(*id, true);
                    assert_eq!(before, Some(false), "{id:?} responds twice, or is not open");
                    self.responded += 1;
                }
                Event::Closed(exchange) => {
                    let responded = self.open.remove(&exchange.id);
                    assert_eq!(responded, Some(exchange.response.is_some()), "{exchange:?}");
                    assert_eq!(exchange.responded.is_some(), exchange.response.is_some());
                    assert!(exchange.ended >= exchange.began.time, "{exchange:?}");
                    assert!(exchange.failure.is_none_or(
                        |failure| failure.at == exchange.ended || exchange.ended == exchange.began.time
                    ));
                    let whole = exchange.response.is_some() && exchange.failure.is_none();
                    assert!(whole || exchange.incomplete || exchange.failure.is_some(), "{exchange:?}");
                }
            }
        }
        for want in &out.wishes {
            let last = match want.direction {
                Direction::Receive => &mut self.receive,
                Direction::Send => &mut self.send,
            };
            assert_ne!(*last, want.policy, "asked for twice");
            assert_ne!(*last, Policy::Nothing, "asked for after it was given up for good");
            *last = want.policy;
        }
    }
}

const TEMPLATES: [&[u8]; 20] = [
    b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
    b"HTTP/1.1 204 No Content\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
    b"POST /p HTTP/1.1\r\nContent-Length: 5\r\n\r\nhello",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
    b"HEAD /h HTTP/1.1\r\n\r\n",
    b"HTTP/1.1 100 Continue\r\n\r\n",
    b"GET /1 HTTP/1.1\r\n\r\nGET /2 HTTP/1.1\r\n\r\n",
    b"HTTP/1.1 204 N\r\n\r\nHTTP/1.1 304 N\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n",
    b"GET /ws HTTP/1.1\r\nUpgrade: websocket\r\n\r\n",
    b"HTTP/1.1 101 Switching Protocols\r\n\r\n",
    b"CONNECT h:1 HTTP/1.1\r\n\r\n",
    b"HTTP/1.0 200 OK\r\n\r\nuntil the end",
    b"POST /c HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nfff\r\n",
    b"\x01\x02 not http",
    b"GE",
    b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhel",
    b"lo",
    b"\r\n",
];

/// Frames of both directions; HEADERS with literals, so that any order of them is legal.
/// Begin, parameters, bodies, output, ends; a second request's begin; what no client sends.
const FASTCGI: [&[u8]; 12] = [
    b"\x01\x01\x00\x01\x00\x08\x00\x00\x00\x01\x01\x00\x00\x00\x00\x00",
    b"\x01\x04\x00\x01\x00\x0f\x01\x00\x0b\x02REQUEST_URI/a\x00\x01\x04\x00\x01\x00\x00\x00\x00",
    b"\x01\x04\x00\x01\x00\x00\x00\x00",
    b"\x01\x05\x00\x01\x00\x03\x05\x00abc\x00\x00\x00\x00\x00",
    b"\x01\x05\x00\x01\x00\x00\x00\x00",
    b"\x01\x06\x00\x01\x00\x15\x03\x00Status: 404 N\r\nA: b\r\n\x00\x00\x00",
    b"\x01\x06\x00\x01\x00\x05\x00\x00\r\nabc",
    b"\x01\x06\x00\x01\xff\xff\x00\x00\r\nabc",
    b"\x01\x03\x00\x01\x00\x08\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00",
    b"\x01\x01\x00\x02\x00\x08\x00\x00\x00\x01\x00\x00\x00\x00\x00\x00",
    b"\x01\x02\x00\x01\x00\x00\x00\x00",
    b"\x01\x0c\x00\x01\x00\x00\x00\x00",
];

const HTTP2: [&[u8]; 20] = [
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0",
    b"\0\0\x06\x04\0\0\0\0\0\0\x05\0\x40\0\0",
    b"\0\0\x05\x01\x04\0\0\0\x01\x83\x86\x04\x01/",
    b"\0\0\x05\x01\x05\0\0\0\x03\x83\x86\x44\x01/",
    b"\0\0\x03\x01\x05\0\0\0\x05\x83\x86\xbe",
    b"\0\0\x01\x01\x04\0\0\0\x01\x88",
    b"\0\0\x01\x01\x05\0\0\0\x03\x88",
    b"\0\0\x0f\x01\x05\0\0\0\x01\0\x0bgrpc-status\x010",
    b"\0\0\x02\x01\x05\0\0\0\x01\xbf\xbe",
    b"\0\0\x07\0\x01\0\0\0\x01\0\0\0\0\x02hi",
    b"\0\0\x07\0\0\0\0\0\x01\0\0\0\0\x02hi",
    b"\0\0\x04\0\x09\0\0\0\x03\x01hi\0",
    b"\0\0\x04\x03\0\0\0\0\x01\0\0\0\x08",
    b"\0\0\x08\x07\0\0\0\0\0\0\0\0\x01\0\0\0\0",
    b"\0\0\x08\x06\0\0\0\0\0pingpong",
    b"\0\0\x04\x08\0\0\0\0\0\0\0\x10\0",
    b"\0\0\x03\x01\0\0\0\0\x07\x83\x86\x84\0\0\x00\x09\x04\0\0\0\x07",
    b"\0\x40\0\0\0\0\0\0\x01",
    b"\0\0\x03\xbe\x55\0\0\0\x01abc",
    b"\0\0\x01\x01\x05\0\0\0\x05\x88\0\0\x05\x01\x05\0\0\0\x09\x83\x86\x84\x41\0",
];

#[cfg(test)]
mod tests {
    use super::{fuzz_connection, fuzz_fastcgi, fuzz_http2};

    /// A generator that needs no state beyond one word (Marsaglia's xorshift).
    fn bytes(mut seed: u64, length: usize) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(length);
        for _ in 0..length {
            seed ^= seed << 13;
            seed ^= seed >> 7;
            seed ^= seed << 17;
            bytes.push((seed >> 32) as u8);
        }
        bytes
    }

    #[test]
    fn any_sequence_of_pieces_gaps_and_ends_keeps_the_invariants() {
        for seed in 1..=4_000u64 {
            let length = 8 + (seed as usize * 37) % 400;
            fuzz_connection(&bytes(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15), length));
            fuzz_fastcgi(&bytes(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15), length));
            if seed % 8 == 0 {
                fuzz_http2(&bytes(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15), length));
            }
        }
    }

    /// Only exchanges as they should be, in an order that may be wrong: far more of them get far.
    #[test]
    fn any_order_of_whole_messages_keeps_the_invariants() {
        for seed in 1..=4_000u64 {
            let noise = bytes(seed.wrapping_mul(0xD129_0D3A_93C5_1F0B), 200);
            let mut data = vec![noise[0]];
            for pair in noise[1..].chunks_exact(2) {
                data.extend([pair[0] % 20, 0x42 | (pair[1] & 0x0f)]);
            }
            fuzz_connection(&data);
            fuzz_fastcgi(&data);
            if seed % 8 == 0 {
                fuzz_http2(&data);
                // Seen from its preface.
                fuzz_http2(&[&[0, 1, 0x42, 0x02, 0x46][..], &data[1..]].concat());
            }
        }
    }
}
