//! Tests of the parser: streams as literals in, events as text out.
//!
//! [`check`] is the only code here that knows how a parser is driven. Every stream is also cut at every
//! byte and into single bytes, because the calls' boundaries must not matter.

mod chunks;
mod gaps;
mod generated;
mod heads;
mod requests;
mod responses;
mod resync;

use super::fuzz::{Order, fuzz_cuts, fuzz_parser};
use super::{Answers, Ending, Event, Parser, Side};
use crate::protocol::{Fields, Version};

/// What a stream of requests must say.
#[track_caller]
fn requests(stream: &str, want: &[&str]) {
    check(Side::Requests, &[], stream.as_bytes(), want);
}

/// What a stream of responses must say, where each final one answers the next of `answers`.
#[track_caller]
fn responses(answers: &[Answers], stream: &str, want: &[&str]) {
    check(Side::Responses, answers, stream.as_bytes(), want);
}

/// What a stream must say, whole, in two pieces cut at any byte, and in single bytes. The pieces are of
/// one call; at the end the direction is closed if the stream ends with `CLOSE`.
#[track_caller]
fn check(side: Side, answers: &[Answers], stream: &[u8], want: &[&str]) {
    let (stream, close) = match stream.strip_suffix(CLOSE.as_bytes()) {
        Some(stream) => (stream, true),
        None => (stream, false),
    };
    // Long streams are cut only where something can happen: near their ends.
    let cuts =
        (0..=stream.len()).filter(|&cut| stream.len() < 4_000 || !(300..stream.len() - 300).contains(&cut));
    for cut in cuts {
        let (first, second) = stream.split_at(cut);
        let got = drive(side, answers, [first, second], close);
        assert_eq!(got, want, "cut at byte {cut} of {:?}", String::from_utf8_lossy(stream));
    }
    let got = drive(side, answers, stream.chunks(1), close);
    assert_eq!(got, want, "byte by byte: {:?}", String::from_utf8_lossy(stream));
}

/// Ends a stream whose direction ends with it.
const CLOSE: &str = "<close>";

fn drive<'a>(
    side: Side,
    answers: &[Answers],
    pieces: impl IntoIterator<Item = &'a [u8]>,
    close: bool,
) -> Vec<String> {
    let mut driver = Driver::new(side, answers);
    let mut starts_call = true;
    for piece in pieces {
        driver.piece(piece, starts_call);
        starts_call &= piece.is_empty();
    }
    if close {
        driver.close();
    }
    assert!(driver.answers.is_empty(), "not every answer was asked for: {:?}", driver.answers);
    driver.told
}

/// A parser, where it is in its stream, and what it said.
struct Driver {
    parser: Parser,
    order: Order,
    offset: u64,
    answers: std::collections::VecDeque<Answers>,
    told: Vec<String>,
}

impl Driver {
    fn new(side: Side, answers: &[Answers]) -> Self {
        Self {
            parser: Parser::new(side),
            order: Order::new(side),
            offset: 0,
            answers: answers.iter().copied().collect(),
            told: Vec::new(),
        }
    }

    /// A call of its own.
    fn call(&mut self, bytes: &str) -> &mut Self {
        self.piece(bytes.as_bytes(), true)
    }

    /// More of the call before.
    fn more(&mut self, bytes: &str) -> &mut Self {
        self.piece(bytes.as_bytes(), false)
    }

    fn piece(&mut self, bytes: &[u8], starts_call: bool) -> &mut Self {
        let Self { parser, order, offset, answers, told } = self;
        let mut answers = || answers.pop_front().expect("nobody may ask what this response answers");
        parser.bytes(*offset, bytes, starts_call, &mut answers, &mut |event| {
            order.check(&event);
            told.push(text(&event));
        });
        *offset += bytes.len() as u64;
        self.check_books()
    }

    fn gap(&mut self, length: u64) -> &mut Self {
        let Self { parser, order, offset, told, .. } = self;
        parser.gap(*offset, length, &mut |event| {
            order.check(&event);
            told.push(text(&event));
        });
        *offset += length;
        self.check_books()
    }

    fn close(&mut self) -> &mut Self {
        let Self { parser, order, told, .. } = self;
        parser.close(&mut |event| {
            order.check(&event);
            told.push(text(&event));
        });
        self.check_books()
    }

    fn switch(&mut self) -> &mut Self {
        let Self { parser, order, told, .. } = self;
        parser.switch(&mut |event| {
            order.check(&event);
            told.push(text(&event));
        });
        self.check_books()
    }

    fn check_books(&mut self) -> &mut Self {
        let ledger = self.parser.ledger();
        assert!(ledger.balances(), "{ledger:?}");
        assert_eq!(ledger.bytes + ledger.gap, self.offset, "{ledger:?}");
        self.order.check_awaits(self.parser.awaits());
        self
    }

    /// What it said since this was asked last.
    #[track_caller]
    fn told(&mut self, want: &[&str]) -> &mut Self {
        assert_eq!(std::mem::take(&mut self.told), want);
        self
    }
}

/// An event as one line: `start..end request GET /path`, `offset ended complete body`.
fn text(event: &Event) -> String {
    let lossy = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    match event {
        Event::Began { offset } => format!("{offset} began"),
        Event::Request { start, end, head, answers } => {
            let answers = match answers {
                Answers::Ordinary => String::new(),
                answers => format!(" ({answers:?})"),
            };
            let (method, target) = (lossy(&head.method), lossy(&head.target));
            format!(
                "{start}..{end} {method} {target}{}{}{answers}",
                version(head.version),
                kept(&head.fields)
            )
        }
        Event::Response { start, end, head } => {
            format!("{start}..{end} {}{}{}", head.status, version(head.version), kept(&head.fields))
        }
        Event::Ended { offset, ending: Ending::Complete, body } => format!("{offset} ended, body {body}"),
        Event::Ended { offset, ending: Ending::Truncated, body } => {
            format!("{offset} truncated, body {body}")
        }
        Event::Switched { offset } => format!("{offset} switched"),
        Event::Lost { offset, why } => format!("{offset} lost: {}", why.name()),
    }
}

fn version(version: Version) -> &'static str {
    match version {
        Version::Http10 => " HTTP/1.0",
        Version::Http11 => "",
        Version::Http2 => " of HTTP/2",
        Version::FastCgi => " of FastCGI",
    }
}

fn kept(fields: &Fields) -> String {
    let value = |value: &[u8]| String::from_utf8_lossy(value).into_owned();
    fields.0.iter().map(|(name, bytes)| format!(" {name:?}={}", value(bytes))).collect()
}

/// Streams that once meant trouble, or that reach far into the machine.
const SEEDS: &[&[u8]] = &[
    b"",
    b"\0",
    b"\0\x04GET / HTTP/1.1\r\nHost: a\r\n\r\nGET /b HTTP/1.1\r\n\r\n",
    b"\0\x08GPET / HTTP/1.1\r\n\r\n",
    b"\0\x04POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n5;a=b\r\nhello\r\n0\r\nT: x\r\n\r\n",
    b"\0\x04POST / HTTP/1.1\r\nContent-Length: 18446744073709551615\r\n\r\n",
    b"\0\x04PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    b"\0\x04GET / HTTP/1.1\r\nA: b\r\n c\r\n\td\r\nContent-Length: 1,\r\n 1\r\n\r\nx",
    b"\x01\x04HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
    b"\x03\x04HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\nHTTP/1.1 404 No\r\n\r\n",
    b"\x01\x04HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 101 S\r\n\r\n\x81\x05hello",
    b"\x01\x04HTTP/1.0 200 OK\n\nuntil\r\nthe end",
    b"\x01\x04HTTP/1.1 204 No Content\r\nTransfer-Encoding: chunked\r\n\r\nHTTP/1.1 304\r\n\r\n",
    b"\x01\x04HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n00000000000000000a\r\n",
    b"\0\x08GE\x06\x20POST / HTTP/1.1\r\n\r\n",
    b"\0\x04\r\n\r\n\0",
];

#[test]
fn no_seed_breaks_an_invariant() {
    for seed in SEEDS {
        fuzz_parser(seed);
        fuzz_cuts(seed);
    }
}

#[test]
fn no_damage_to_a_seed_breaks_an_invariant() {
    let mut random = generated::Random(7);
    for round in 0..4_000 {
        let mut data = SEEDS[random.below(SEEDS.len())].to_vec();
        for _ in 0..random.below(6) {
            let other = SEEDS[random.below(SEEDS.len())];
            match random.below(5) {
                0 if !data.is_empty() => {
                    let at = random.below(data.len());
                    data[at] = random.below(256) as u8;
                }
                1 => data.insert(random.below(data.len() + 1), random.below(256) as u8),
                2 if !data.is_empty() => {
                    data.remove(random.below(data.len()));
                }
                3 => data.truncate(random.below(data.len() + 1)),
                _ => data.extend_from_slice(&other[random.below(other.len() + 1)..]),
            }
        }
        if std::panic::catch_unwind(|| (fuzz_parser(&data), fuzz_cuts(&data))).is_err() {
            panic!("round {round}: {:?}", data.escape_ascii().to_string());
        }
    }
}
