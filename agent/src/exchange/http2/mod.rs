//! A conversation in HTTP/2: two parsers, and one exchange for each stream.
//!
//! An exchange's id is the offset of its request's HEADERS frame, which both ends of the connection agree on; its
//! response is found by the stream's number. The records of the two directions may come in an order that never was:
//! a response whose request is not known yet waits in its call (see `calls`).
//!
//! A connection that is joined late has no role and no place at first: both parsers look for a chain of frames, and the
//! first header section that is read shows which direction carries requests. What a chain shows could still lie inside a
//! payload (a tunnel). So nothing of it is used but for the proof that it does not: that it is longer than one maximum frame, or
//! `turns`. From the proof on it is read as if the connection were joined there.
//!
//! It must never pair by anything but the stream's number, and never say of an exchange what a lost place in either
//! direction makes uncertain.

mod call;
mod calls;
mod recall;
#[cfg(test)]
mod tests;
mod turns;

pub use call::{Hidden, Part, Reset, StreamFacts};

use self::calls::Calls;
use self::recall::{Inserted, Recall};
use self::turns::Turns;
use super::conversation::State;
use super::pending::{Sink, failure_kind, request_direction};
use super::{Carried, Event as Told, Exchange, FailureKind, Policy, Tables};
use crate::identity::{ConnectionId, Direction, Moment, Monotonic, Role};
use crate::protocol::http2::{self, Event, Kind, Parser, Start};
use crate::stream::{Closed, Content, GapCause, Piece};
use crate::sum::Sum as _;

/// Both directions of a connection that speaks HTTP/2.
#[derive(Debug)]
pub(super) struct Http2 {
    send: Way,
    receive: Way,
    calls: Calls,
    /// While a direction is not proven.
    turns: Turns,
    recall: Recall,
}

/// One direction.
#[derive(Debug)]
struct Way {
    /// Made with the first piece.
    parser: Option<Parser>,
    start: Start,
    /// The frame that is under way, and the call that moved its first byte.
    began: Option<(u64, Moment)>,
    /// The offset of the next byte.
    next: Option<u64>,
    /// Bytes since frames were found last.
    astray: u64,
    /// Pieces since the last that the kernel side did not leave out on purpose and did not send.
    pieces: u32,
    /// When a byte of it was moved last.
    moved: Monotonic,
    inserted: Inserted,
}

/// How many bytes of both directions may come in which no frame is found, before this is taken for something else: as many as
/// the largest frame that was ever seen.
const MAX_ASTRAY: u64 = 4 << 20;

/// Says of the requests that a piece has completed whether their call carried only one.
fn mark_carried(piece: &Piece<'_>, parser: &Parser, events: Option<&mut [Told]>) {
    let mut carried: Vec<&mut Carried> = events
        .into_iter()
        .flatten()
        .filter_map(|event| match event {
            Told::Opened { carried, .. } => Some(carried),
            Told::Responding { .. } | Told::Closed(_) => None,
        })
        .collect();
    let whole = piece.starts_call && piece.ends_call && !parser.is_in_block();
    if let ([only], true) = (&mut carried[..], whole) {
        **only = Carried::Alone;
    }
}

/// So many pieces the kernel side is told where a frame begins after each, which costs a word in shared memory: it compares
/// with where it assumed one meanwhile (`ebpf/src/frames.rs`).
const TELL: u32 = 1024;
/// After so many it is told again, in case it lost its place.
const TELL_AGAIN: u32 = 16 * 1024;

impl Way {
    fn new(start: Start) -> Self {
        Self {
            parser: None,
            start,
            began: None,
            next: None,
            astray: 0,
            pieces: 0,
            moved: Monotonic(0),
            inserted: Inserted::default(),
        }
    }

    /// Notes when a piece was moved, and whether entries were inserted by it.
    fn note(&mut self, at: Monotonic) {
        self.moved = self.moved.max(at);
        let Some(parser) = &self.parser else { return };
        self.inserted.note(at, parser);
    }

    /// True if what is read of it is certain to be frames.
    fn is_proven(&self) -> bool {
        self.parser.as_ref().map_or(self.start != Start::Late, Parser::is_proven)
    }

    fn is_aligned(&self) -> bool {
        self.parser.as_ref().is_some_and(Parser::is_aligned)
    }
}

impl Http2 {
    /// A conversation that begins with the client's preface.
    pub fn from_preface(id: ConnectionId, role: Role) -> Self {
        let (send, receive) = match role {
            Role::Client => (Start::Preface, Start::Frame),
            Role::Server => (Start::Frame, Start::Preface),
        };
        Self::new(id, Some(role), send, receive)
    }

    /// A conversation that goes over from HTTP/1 (RFC 7540 §3.2): the response to this request comes on stream 1.
    pub fn upgraded(id: ConnectionId, role: Role, exchange: Box<Exchange>) -> Self {
        let mut http2 = Self::from_preface(id, role);
        http2.calls.adopt(exchange);
        http2
    }

    /// A conversation that may be under way: nothing is known of it.
    pub fn late(id: ConnectionId) -> Self {
        Self::new(id, None, Start::Late, Start::Late)
    }

    fn new(id: ConnectionId, role: Option<Role>, send: Start, receive: Start) -> Self {
        let calls = Calls::new(id, role);
        Self {
            send: Way::new(send),
            receive: Way::new(receive),
            calls,
            turns: Turns::new(role.map(request_direction)),
            recall: Recall::default(),
        }
    }

    /// What a late join hides may be asked for.
    pub fn allow_recall(&mut self) {
        self.recall = Recall::allowed();
    }

    /// True once if the HPACK tables of both ends' processes are to be searched for.
    pub fn wants_tables(&mut self) -> bool {
        self.recall.take_wish()
    }

    /// True if exchanges wait for such tables.
    pub fn awaits_tables(&self) -> bool {
        self.recall.is_waiting()
    }

    /// So many exchanges may wait for them.
    pub fn set_tables_room(&mut self, room: usize) {
        self.recall.set_room(room);
    }

    /// The tables that were found.
    pub fn tables(&mut self, tables: &std::sync::Arc<Tables>) {
        self.recall.answer(tables);
    }

    /// Lets go of what has waited for tables for long enough.
    pub fn poll(&mut self, now: Monotonic, sink: &mut Sink<'_>) {
        let Self { send, receive, calls, recall, turns: _ } = self;
        recall.poll(calls.role(), [(Direction::Send, send), (Direction::Receive, receive)], now, sink);
    }

    /// Nothing is missing up to this offset of a direction.
    pub fn pass(&mut self, direction: Direction, to: u64) {
        let way = match direction {
            Direction::Send => &mut self.send,
            Direction::Receive => &mut self.receive,
        };
        way.next = way.next.map(|next| next.max(to));
    }

    /// Takes the next piece of either direction.
    pub fn piece(&mut self, direction: Direction, piece: &Piece<'_>, sink: &mut Sink<'_>) {
        let from = sink.events.len();
        self.parse(direction, piece, sink);
        let Self { send, receive, calls, recall, turns: _ } = self;
        let now = piece.moment.time;
        match direction {
            Direction::Send => send.note(now),
            Direction::Receive => receive.note(now),
        }
        recall.fill(from, calls.role(), [(Direction::Send, send), (Direction::Receive, receive)], sink);
        recall.hold(from, now, sink);
        recall.settle(calls.role(), [(Direction::Send, send), (Direction::Receive, receive)], None, sink);
        recall.let_go(now, sink);
    }

    fn parse(&mut self, direction: Direction, piece: &Piece<'_>, sink: &mut Sink<'_>) {
        let Self { send, receive, calls, turns, recall: _ } = self;
        let (way, other) = match direction {
            Direction::Send => (send, receive),
            Direction::Receive => (receive, send),
        };
        sink.ledger.bytes_parsed = sink.ledger.bytes_parsed.saturating_add(super::held::length(piece));
        let parser = way.parser.get_or_insert_with(|| Parser::new(way.start, piece.offset));
        // While the protocol was not known, some pieces waited and were dropped.
        let unseen = way.next.map_or(0, |next| piece.offset.saturating_sub(next));
        way.next = Some(piece.offset.saturating_add(super::held::length(piece)));
        let partial = way.began;
        let at = piece.moment;
        let began = |start: u64| match partial {
            Some((offset, moment)) if offset == start && start < piece.offset => moment,
            _ => *at,
        };
        let mut max_frame = None;
        let silent =
            matches!(piece.content, Content::Bytes(_) | Content::Gap { cause: GapCause::Silent, .. });
        way.pieces = if silent { way.pieces.wrapping_add(1) } else { 0 };
        let mut proven = parser.is_proven();
        let proving = !proven || !other.is_proven();
        let from = sink.events.len();
        {
            calls.begin_piece(at, sink);
            let mut emit = |event: Event<'_>| {
                match &event {
                    Event::MaxFrame(length) => max_frame = Some(*length),
                    Event::Lost { .. } => *turns = Turns::new(calls.role().map(request_direction)),
                    Event::Section { stream, start, section, ends: _ } if proving => {
                        turns.section(direction, *stream, section, &began(*start), at);
                        if !proven && section.kind == Kind::Request {
                            sink.ledger.requests += 1;
                            sink.ledger.requests_unproven += 1;
                        }
                    }
                    _ => {}
                }
                let lost = matches!(event, Event::Lost { .. });
                if proven || matches!(event, Event::Proven) {
                    calls.handle(direction, event, at, &began, sink);
                    proven = !lost;
                }
            };
            if unseen > 0 {
                parser.gap(piece.offset - unseen, unseen, &mut emit);
            }
            match piece.content {
                Content::Bytes(bytes) => parser.bytes(piece.offset, bytes, &mut emit),
                Content::Gap { length, cause: GapCause::Torn } => {
                    parser.torn(piece.offset, length, &mut emit)
                }
                Content::Gap { length, cause: _ } => parser.gap(piece.offset, length, &mut emit),
            }
        }
        mark_carried(piece, parser, sink.events.get_mut(from..));
        way.astray = match parser.is_aligned() {
            true => 0,
            false => way.astray.saturating_add(super::held::length(piece)),
        };
        way.began = parser.frame_start().map(|start| (start, began(start)));
        if let (Some(length), Some(other)) = (max_frame, &mut other.parser) {
            other.set_max_frame(length);
        }
        if proving {
            turns.moved(at);
            self.prove(at, sink);
        }
    }

    /// Believes in both directions' frames if turns prove them.
    fn prove(&mut self, at: &Moment, sink: &mut Sink<'_>) {
        if !self.turns.are_proof() {
            return;
        }
        for (direction, way) in [(Direction::Send, &mut self.send), (Direction::Receive, &mut self.receive)] {
            let Some(parser) = way.parser.as_mut().filter(|parser| parser.is_aligned()) else { continue };
            if parser.prove() {
                self.calls.handle(direction, Event::Proven, at, &|_| *at, sink);
            }
        }
        self.turns = Turns::new(self.calls.role().map(request_direction));
    }

    /// The connection ended.
    pub fn closed(&mut self, closed: &Closed, sink: &mut Sink<'_>) {
        self.tell(Some(closed.time), sink, |calls, sink| calls.fail(failure_kind(closed), closed.time, sink));
    }

    /// The only process that used the connection died.
    pub fn process_exited(&mut self, time: Monotonic, sink: &mut Sink<'_>) {
        self.tell(None, sink, |calls, sink| calls.fail(FailureKind::ProcessExited, time, sink));
    }

    /// Nothing more will be known of the connection.
    pub fn abandoned(&mut self, sink: &mut Sink<'_>) {
        self.tell(None, sink, Calls::abandon);
    }

    /// Hands over what is final. With a time, nothing was moved up to then that was not seen.
    fn tell(
        &mut self,
        until: Option<Monotonic>,
        sink: &mut Sink<'_>,
        tell: impl FnOnce(&mut Calls, &mut Sink<'_>),
    ) {
        let from = sink.events.len();
        let Self { send, receive, calls, recall, turns: _ } = self;
        tell(calls, sink);
        recall.fill(from, calls.role(), [(Direction::Send, send), (Direction::Receive, receive)], sink);
        if let Some(until) = until {
            recall.hold(from, until, sink);
            let ways = [(Direction::Send, send), (Direction::Receive, receive)];
            recall.settle(calls.role(), ways, Some(until), sink);
        }
        recall.flush(sink);
        self.end();
    }

    fn end(&mut self) {
        for way in [&mut self.send, &mut self.receive] {
            way.began = None;
            if let Some(parser) = &mut way.parser {
                parser.close();
            }
        }
    }

    /// The part that the process plays.
    pub fn role(&self) -> Option<Role> {
        self.calls.role()
    }

    /// The part that the process seems to play: of a connection joined late, by what is not proven yet.
    pub fn apparent_role(&self) -> Option<Role> {
        let client = |requests| if requests == Direction::Send { Role::Client } else { Role::Server };
        self.role().or_else(|| self.turns.requests().map(client))
    }

    /// True if frames were found in a direction.
    pub fn is_aligned(&self) -> bool {
        self.send.is_aligned() || self.receive.is_aligned()
    }

    /// Begins the parsers' books anew: the bytes before were counted elsewhere.
    pub fn reset_ledgers(&mut self) {
        for parser in [&mut self.send.parser, &mut self.receive.parser].into_iter().flatten() {
            parser.reset_ledger();
        }
    }

    /// What has become of it.
    pub fn state(&self) -> State {
        match self.send.astray > MAX_ASTRAY && self.receive.astray > MAX_ASTRAY {
            true => State::Unrecognised,
            false => State::Going,
        }
    }

    /// What the kernel side should send of a direction.
    pub fn policy(&self, direction: Direction, last: Policy) -> Policy {
        let way = match direction {
            Direction::Send => &self.send,
            Direction::Receive => &self.receive,
        };
        let Some(parser) = &way.parser else { return last };
        let Some(offset) = parser.boundary().filter(|_| parser.is_proven()) else {
            // In the middle of a header; or lost, and a frame is searched for in all that comes.
            return match last {
                Policy::Frames { .. } if parser.is_proven() => last,
                _ => Policy::Everything,
            };
        };
        match last {
            // The kernel side is told again until it has had time to find its place, and then so that an old offset is
            // never taken for one ahead (positions compare modulo 2³²).
            Policy::Frames { offset: told }
                if way.pieces % TELL_AGAIN >= TELL && offset.saturating_sub(told) < 1 << 30 =>
            {
                last
            }
            _ => Policy::Frames { offset },
        }
    }

    /// What both parsers say of their bytes.
    pub fn parsers(&self) -> http2::Ledger {
        let mut ledger = http2::Ledger::default();
        for parser in [&self.send.parser, &self.receive.parser].into_iter().flatten() {
            ledger.add(parser.ledger());
        }
        ledger
    }

    pub fn open_exchanges(&self) -> usize {
        self.calls.open_exchanges()
    }

    /// Memory for bytes of the traffic.
    pub fn held_bytes(&self) -> usize {
        let parsers = [&self.send.parser, &self.receive.parser];
        self.calls.bytes() + parsers.into_iter().flatten().map(Parser::held_bytes).sum::<usize>()
    }
}
