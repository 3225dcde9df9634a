//! A conversation in HTTP/2: two parsers, and one exchange for each stream.
//!
//! An exchange's id is the offset of its request's HEADERS frame, which both ends of the connection agree on; its
//! response is found by the stream's number. The records of the two directions may come in an order that never was:
//! a response whose request is not known yet waits in its call (see `calls`).
//!
//! It must never pair by anything but the stream's number, and never say of an exchange what a lost place in either
//! direction makes uncertain.

mod call;
mod calls;
#[cfg(test)]
mod tests;

pub use call::{Reset, StreamFacts};

use self::calls::Calls;
use super::conversation::State;
use super::pending::{Sink, failure_kind};
use super::{FailureKind, Policy};
use crate::identity::{ConnectionId, Direction, Moment, Monotonic, Role};
use crate::protocol::http2::{self, Event, Parser, Start};
use crate::stream::{Closed, Content, Piece};

/// Both directions of a connection that speaks HTTP/2.
#[derive(Debug)]
pub(super) struct Http2 {
    send: Way,
    receive: Way,
    calls: Calls,
}

/// One direction.
#[derive(Debug)]
struct Way {
    /// Made with the first piece.
    parser: Option<Parser>,
    start: Start,
    /// The frame that is under way, and the call that moved its first byte.
    began: Option<(u64, Moment)>,
}

impl Way {
    fn new(start: Start) -> Self {
        Self { parser: None, start, began: None }
    }
}

impl Http2 {
    /// A conversation that begins with the client's preface.
    pub fn from_preface(id: ConnectionId, role: Role) -> Self {
        let (send, receive) = match role {
            Role::Client => (Start::Preface, Start::Frame),
            Role::Server => (Start::Frame, Start::Preface),
        };
        Self { send: Way::new(send), receive: Way::new(receive), calls: Calls::new(id, role) }
    }

    /// Takes the next piece of either direction.
    pub fn piece(&mut self, direction: Direction, piece: &Piece<'_>, sink: &mut Sink<'_>) {
        let Self { send, receive, calls } = self;
        let (way, other) = match direction {
            Direction::Send => (send, receive),
            Direction::Receive => (receive, send),
        };
        sink.ledger.bytes_parsed = sink.ledger.bytes_parsed.saturating_add(super::held::length(piece));
        let parser = way.parser.get_or_insert_with(|| Parser::new(way.start, piece.offset));
        let partial = way.began;
        let at = piece.moment;
        let began = |start: u64| match partial {
            Some((offset, moment)) if offset == start && start < piece.offset => moment,
            _ => *at,
        };
        let mut max_frame = None;
        calls.begin_piece(at, sink);
        let mut emit = |event: Event<'_>| match event {
            Event::MaxFrame(length) => max_frame = Some(length),
            event => calls.handle(direction, event, at, &began, sink),
        };
        match piece.content {
            Content::Bytes(bytes) => parser.bytes(piece.offset, bytes, &mut emit),
            Content::Gap { length, cause: _ } => parser.gap(piece.offset, length, &mut emit),
        }
        way.began = parser.frame_start().map(|start| (start, began(start)));
        if let (Some(length), Some(other)) = (max_frame, &mut other.parser) {
            other.set_max_frame(length);
        }
    }

    /// The connection ended.
    pub fn closed(&mut self, closed: &Closed, sink: &mut Sink<'_>) {
        self.end_parsers();
        self.calls.fail(failure_kind(closed), closed.time, sink);
    }

    /// The only process that used the connection died.
    pub fn process_exited(&mut self, time: Monotonic, sink: &mut Sink<'_>) {
        self.end_parsers();
        self.calls.fail(FailureKind::ProcessExited, time, sink);
    }

    /// Nothing more will be known of the connection.
    pub fn abandoned(&mut self, sink: &mut Sink<'_>) {
        self.end_parsers();
        self.calls.abandon(sink);
    }

    fn end_parsers(&mut self) {
        for way in [&mut self.send, &mut self.receive] {
            way.began = None;
            if let Some(parser) = &mut way.parser {
                parser.close();
            }
        }
    }

    /// The part that the process plays.
    pub fn role(&self) -> Option<Role> {
        Some(self.calls.role())
    }

    /// What has become of it.
    pub fn state(&self) -> State {
        State::Going
    }

    /// What the kernel side should send of a direction.
    pub fn policy(&self, _direction: Direction) -> Policy {
        Policy::Everything
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
