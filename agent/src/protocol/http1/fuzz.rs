//! What must hold for any bytes, cut and interrupted anyhow: the bodies of the fuzz targets.
//!
//! They assert invariants, not just that nothing panics: offsets never go back, events follow each other as
//! [`Event`] says, memory is bounded, the books balance after every step, and cuts inside a call change
//! nothing. They must never depend on anything but their argument, so that a crash is a seed.

use super::{Answers, Awaits, Ending, Event, MAX_HEAD, Parser, Side};

/// Drives a parser by an arbitrary sequence of operations: the first byte chooses the side, then each
/// operation is one byte that says what to do (and how much), followed by the bytes of its piece.
#[doc(hidden)]
pub fn fuzz_parser(data: &[u8]) {
    let Some((&first, mut rest)) = data.split_first() else { return };
    let side = if first & 1 == 0 { Side::Requests } else { Side::Responses };
    let mut parser = Parser::new(side);
    let mut order = Order::new(side);
    let start = u64::from(first) << 20;
    let (mut offset, mut asked) = (start, u32::from(first));
    while let Some((&operation, after)) = rest.split_first() {
        rest = after;
        let length = usize::from(operation >> 3);
        match operation & 7 {
            0..=4 => {
                // Small, middle and whatever is left.
                let length = match operation & 7 {
                    0 | 1 => length,
                    2 | 3 => length * 16,
                    _ => rest.len(),
                };
                let (piece, after) = rest.split_at(length.min(rest.len()));
                rest = after;
                let mut answers = || {
                    asked = asked.wrapping_mul(1_103_515_245).wrapping_add(12_345);
                    ANSWERS.get((asked >> 16) as usize % ANSWERS.len()).copied().unwrap_or(Answers::Unknown)
                };
                let starts_call = operation & 1 == 0;
                parser.bytes(offset, piece, starts_call, &mut answers, &mut |event| order.check(&event));
                offset += piece.len() as u64;
            }
            5 => {
                let length = 1u64 << (length * 2 % 50);
                parser.gap(offset, length, &mut |event| order.check(&event));
                offset += length;
            }
            6 => {
                let length = length as u64;
                parser.gap(offset, length, &mut |event| order.check(&event));
                offset += length;
            }
            _ => match length {
                0 => parser.switch(&mut |event| order.check(&event)),
                1 => parser.close(&mut |event| order.check(&event)),
                _ => {}
            },
        }
        check_books(&parser, offset - start);
        order.check_awaits(parser.awaits());
    }
    parser.close(&mut |event| order.check(&event));
    check_books(&parser, offset - start);
    assert_eq!(parser.ledger().held, 0, "nothing is held after the end");
}

/// What a parser says of one call does not depend on how many pieces the call came in.
#[doc(hidden)]
pub fn fuzz_cuts(data: &[u8]) {
    let Some((&first, stream)) = data.split_first() else { return };
    let side = if first & 1 == 0 { Side::Requests } else { Side::Responses };
    let answers = ANSWERS.get(usize::from(first >> 1) % ANSWERS.len()).copied().unwrap_or(Answers::Unknown);
    let whole = run(side, answers, [stream]);
    let cut = usize::from(first).wrapping_mul(31) % (stream.len() + 1);
    let (one, two) = stream.split_at(cut);
    assert_eq!(run(side, answers, [one, two]), whole, "cut at byte {cut}");
    assert_eq!(run(side, answers, stream.chunks(1)), whole, "cut into single bytes");
}

/// The events of one call that came in these pieces.
pub(super) fn run<'a>(
    side: Side,
    answers: Answers,
    pieces: impl IntoIterator<Item = &'a [u8]>,
) -> (Vec<Event>, super::Ledger) {
    let (mut parser, mut order, mut events) = (Parser::new(side), Order::new(side), Vec::new());
    let mut offset = 0;
    let mut emit = |event| {
        order.check(&event);
        events.push(event);
    };
    for piece in pieces {
        parser.bytes(offset, piece, offset == 0, &mut || answers, &mut emit);
        offset += piece.len() as u64;
        check_books(&parser, offset);
    }
    parser.close(&mut emit);
    check_books(&parser, offset);
    (events, parser.ledger().clone())
}

fn check_books(parser: &Parser, came: u64) {
    let ledger = parser.ledger();
    assert_eq!(ledger.bytes + ledger.gap, came, "what came in is not what was given: {ledger:?}");
    assert!(ledger.balances(), "the books do not balance: {ledger:?}");
    assert!(ledger.held <= MAX_HEAD as u64, "more is held than a head: {ledger:?}");
}

const ANSWERS: [Answers; 5] =
    [Answers::Ordinary, Answers::Unknown, Answers::Head, Answers::Connect, Answers::Upgrade];

/// The grammar of events.
#[derive(Debug)]
pub(super) struct Order {
    side: Side,
    at: At,
    /// Where the present message began.
    began: u64,
    /// No event may be before this.
    offset: u64,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum At {
    /// Between messages.
    Between,
    /// After `Began`.
    Begun,
    /// After the head of a message that has an end.
    Headed,
    /// After `Switched`.
    Switched,
}

impl Order {
    pub fn new(side: Side) -> Self {
        Self { side, at: At::Between, began: 0, offset: 0 }
    }

    /// Panics if this event cannot follow those before it.
    pub fn check(&mut self, event: &Event) {
        let (at, offset) = match (event, self.at) {
            (Event::Began { offset }, At::Between) => {
                self.began = *offset;
                (At::Begun, *offset)
            }
            (Event::Request { start, end, .. }, At::Begun) => {
                assert_eq!((self.side, *start), (Side::Requests, self.began));
                (At::Headed, *end)
            }
            (Event::Response { start, end, head }, At::Begun) => {
                assert_eq!((self.side, *start), (Side::Responses, self.began));
                assert!((100..=999).contains(&head.status));
                (if matches!(head.status, 100 | 102..=199) { At::Between } else { At::Headed }, *end)
            }
            (Event::Ended { offset, .. }, At::Headed) => (At::Between, *offset),
            (Event::Ended { offset, ending, body }, At::Begun) => {
                assert_eq!((*ending, *body), (Ending::Truncated, 0));
                (At::Between, *offset)
            }
            (Event::Lost { offset, .. }, At::Between | At::Begun | At::Headed) => (At::Between, *offset),
            (Event::Switched { offset }, At::Between | At::Begun) => (At::Switched, *offset),
            (event, at) => panic!("{event:?} cannot follow in the state {at:?}"),
        };
        assert!(offset >= self.offset, "{event:?} goes back behind {}", self.offset);
        (self.at, self.offset) = (at, offset);
    }

    /// Panics if the parser waits for something that its events do not explain.
    pub fn check_awaits(&self, awaits: Awaits) {
        let explained = match awaits {
            Awaits::Body(left) | Awaits::Chunk(left) => self.at == At::Headed && left > 0,
            Awaits::ChunkFraming | Awaits::Close => self.at == At::Headed,
            Awaits::Head => self.at != At::Switched,
            Awaits::Resync => matches!(self.at, At::Between | At::Begun),
            Awaits::Nothing => self.at != At::Headed,
        };
        assert!(explained, "{awaits:?} in the state {:?}", self.at);
    }
}
