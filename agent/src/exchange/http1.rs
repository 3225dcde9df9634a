//! A conversation in HTTP/1: two parsers and the pairing between them.
//!
//! The records of the two directions may come in an order that never was (a record is made at the end of
//! its call, and two threads may use the socket): a response that has no request yet is held until the
//! request comes, or until it is certain that it will not. It must never hold without a bound, and never
//! let what was held go lost.

use std::cell::Cell;

use super::classify::{Proven, Skipped};
use super::conversation::State;
use super::held::{Held, length};
use super::pairing::Pairing;
use super::pending::{Sink, failure_kind, request_direction};
use super::step::Joined;
use super::wishes::{Capture, Wishes, policy};
use super::{Exchange, FailureKind, Policy};
use crate::identity::{ConnectionId, Direction, Monotonic, Role};
use crate::protocol::http1::{self, Awaits, Ending, Parser, Side};
use crate::stream::{Closed, Content, GapCause, Piece};
use crate::sum::Sum as _;

/// Both directions of a connection that speaks HTTP/1.
#[derive(Debug)]
pub(super) struct Http1 {
    role: Role,
    requests: Way,
    responses: Way,
    pairing: Pairing,
    /// Responses whose request may still come.
    held: Held,
    skipped: Skipped,
    proven: Proven,
    /// A parser lost its place before any head was complete.
    doubted: bool,
    /// What came behind 101 in the same piece, if the connection goes over to HTTP/2.
    tail: Held,
}

/// A connection that goes over to HTTP/2 (RFC 7540 §3.2): the request whose response comes on stream 1, and what was moved of the
/// responses' direction since.
#[derive(Debug)]
pub(super) struct Upgrade {
    pub role: Role,
    pub exchange: Box<Exchange>,
    pub moved: [Held; 2],
}

/// One direction.
#[derive(Debug)]
struct Way {
    parser: Parser,
    /// The offset of the next byte.
    next: u64,
    capture: Capture,
}

impl Http1 {
    pub fn new(id: ConnectionId, role: Role, joined: Joined) -> Self {
        let way = |side| Way { parser: Parser::new(side), next: 0, capture: Capture::Heads };
        Self {
            role,
            requests: way(Side::Requests),
            responses: way(Side::Responses),
            pairing: Pairing::new(id, role, joined),
            held: Held::default(),
            skipped: Skipped::default(),
            proven: Proven::No,
            doubted: false,
            tail: Held::default(),
        }
    }

    /// What goes over to HTTP/2, if 101 has just said so. This conversation is over then.
    pub fn take_upgrade(&mut self) -> Option<Upgrade> {
        self.pairing.upgraded_at()?;
        let exchange = self.pairing.take_upgraded()?;
        self.requests.parser.switch(&mut |_| {});
        let moved = [std::mem::take(&mut self.tail), std::mem::take(&mut self.held)];
        Some(Upgrade { role: self.role, exchange, moved })
    }

    /// Nothing is missing from here to there of a direction.
    pub fn pass(&mut self, direction: Direction, from: u64, to: u64) {
        if direction != request_direction(self.role) && self.held.is_empty() {
            self.pairing.pass(from, to);
        }
    }

    /// Takes the next piece of either direction.
    pub fn piece(&mut self, direction: Direction, piece: &Piece<'_>, sink: &mut Sink<'_>) {
        if direction == request_direction(self.role) {
            let outdated =
                self.held.first().is_some_and(|held| !self.pairing.may_answer(&held.moment, piece.moment));
            if outdated {
                self.release_unpaired(sink);
            }
            self.take_requests(piece, sink);
            self.release(sink);
        } else if self.held.is_empty() && !self.pairing.awaits_request() {
            self.take_responses(piece, sink);
        } else if !self.held.push(direction, piece) {
            self.release_unpaired(sink);
            self.take_responses(piece, sink);
        }
    }

    /// The connection ended.
    pub fn closed(&mut self, closed: &Closed, sink: &mut Sink<'_>) {
        self.pairing.forbid_upgrade();
        self.release_unpaired(sink);
        // What lasts as long as the connection is complete if its sender ended it, and in order.
        let whole = match self.role {
            Role::Client => closed.errno == 0 && closed.peer_finished,
            Role::Server => closed.errno == 0,
        };
        self.end_parsers(
            |pairing, body, sink| match whole {
                true => pairing.end_response_by_close(body, sink),
                false => pairing.truncate_response(body),
            },
            sink,
        );
        self.pairing.fail(failure_kind(closed), closed.time, sink);
    }

    /// The only process that used the connection died. A server's response that lasts as long as the
    /// connection is complete by that; whether a client had read all of one cannot be told.
    pub fn process_exited(&mut self, time: Monotonic, sink: &mut Sink<'_>) {
        self.pairing.forbid_upgrade();
        self.release_unpaired(sink);
        let role = self.role;
        self.end_parsers(
            |pairing, body, sink| match role {
                Role::Server => pairing.end_response_by_close(body, sink),
                Role::Client => pairing.abandon_response(body, sink),
            },
            sink,
        );
        self.pairing.fail(FailureKind::ProcessExited, time, sink);
    }

    /// Nothing more will be known of the connection.
    pub fn abandoned(&mut self, sink: &mut Sink<'_>) {
        self.pairing.forbid_upgrade();
        self.release_unpaired(sink);
        self.end_parsers(|pairing, body, sink| pairing.abandon_response(body, sink), sink);
        self.pairing.abandon(sink);
    }

    /// The part that the process plays, if a complete head has shown it.
    pub fn proven_role(&self) -> Option<Role> {
        (self.proven == Proven::Yes).then_some(self.role)
    }

    /// What has become of it.
    pub fn state(&self) -> State {
        if let Some(stopped) = self.pairing.stopped() {
            State::Stopped(stopped)
        } else if self.doubted && !self.pairing.is_in_head() {
            State::Doubtful
        } else if self.skipped.is_enough(self.proven) {
            State::Unrecognised
        } else {
            State::Going
        }
    }

    /// What the kernel side should send of a direction.
    pub fn policy(&self, direction: Direction, wishes: &Wishes) -> Policy {
        let way = match direction == request_direction(self.role) {
            true => &self.requests,
            false => &self.responses,
        };
        policy(way.parser.awaits(), way.next, wishes.last(direction), way.capture)
    }

    /// Ends both parsers because the connection is another protocol's now.
    pub fn switch(&mut self) {
        self.requests.parser.switch(&mut |_| {});
        self.responses.parser.switch(&mut |_| {});
    }

    /// What both parsers say of their bytes.
    pub fn parsers(&self) -> http1::Ledger {
        let mut ledger = self.requests.parser.ledger().clone();
        ledger.add(self.responses.parser.ledger());
        ledger
    }

    pub fn held(&self) -> &Held {
        &self.held
    }

    pub fn open_exchanges(&self) -> usize {
        self.pairing.open_exchanges()
    }

    /// Memory for bytes of the traffic.
    pub fn held_bytes(&self) -> usize {
        let heads = self.requests.parser.ledger().held + self.responses.parser.ledger().held;
        self.held.bytes() + self.pairing.bytes() + usize::try_from(heads).unwrap_or(usize::MAX)
    }

    fn take_requests(&mut self, piece: &Piece<'_>, sink: &mut Sink<'_>) {
        let Self { requests, pairing, proven, doubted, skipped, .. } = self;
        let at = piece.moment;
        if is_dated(piece) {
            pairing.touch_request(at);
        }
        let mut lost = false;
        sink.ledger.bytes_parsed += length(piece);
        let mut emit = |event: http1::Event| {
            match &event {
                http1::Event::Request { .. } => (*proven, *doubted, *skipped) = found(),
                http1::Event::Lost { .. } => lost = true,
                _ => {}
            }
            pairing.handle_request(event, at, sink);
        };
        match piece.content {
            Content::Bytes(bytes) => {
                let mut answers = || http1::Answers::Unknown;
                requests.parser.bytes(piece.offset, bytes, piece.starts_call, &mut answers, &mut emit)
            }
            Content::Gap { length, cause: GapCause::Torn } => {
                requests.parser.torn(piece.offset, length, &mut emit);
            }
            Content::Gap { length, cause: _ } => requests.parser.gap(piece.offset, length, &mut emit),
        }
        pairing.note_request(at);
        self.after(request_direction(self.role), piece, lost);
    }

    fn take_responses(&mut self, piece: &Piece<'_>, sink: &mut Sink<'_>) {
        let Self { responses, pairing, proven, doubted, skipped, .. } = self;
        let at = piece.moment;
        if is_dated(piece) {
            pairing.touch_response(at);
        }
        let mut lost = false;
        sink.ledger.bytes_parsed += length(piece);
        // Both closures need the pairing; the parser asks after it has told that the response began.
        let answers = Cell::new(pairing.answers());
        let mut emit = |event: http1::Event| {
            match &event {
                http1::Event::Response { .. } => (*proven, *doubted, *skipped) = found(),
                http1::Event::Lost { .. } => lost = true,
                _ => {}
            }
            pairing.handle_response(event, at, sink);
            answers.set(pairing.answers());
        };
        match piece.content {
            Content::Bytes(bytes) => {
                let mut answers = || answers.get();
                responses.parser.bytes(piece.offset, bytes, piece.starts_call, &mut answers, &mut emit)
            }
            Content::Gap { length, cause: GapCause::Torn } => {
                responses.parser.torn(piece.offset, length, &mut emit);
            }
            Content::Gap { length, cause: _ } => responses.parser.gap(piece.offset, length, &mut emit),
        }
        if let (Some(offset), Content::Bytes(bytes)) = (pairing.upgraded_at(), piece.content) {
            let at = offset.checked_sub(piece.offset).and_then(|at| usize::try_from(at).ok());
            let rest = at.and_then(|at| bytes.get(at..)).unwrap_or_default();
            let rest = Piece { offset, content: Content::Bytes(rest), starts_call: false, ..*piece };
            let moved = length(&rest);
            // A piece is not longer than what may be held.
            if moved > 0 && self.tail.push(request_direction(self.role).opposite(), &rest) {
                responses.parser.give_back(moved);
                sink.ledger.bytes_parsed -= moved;
            }
        }
        if is_dated(piece) {
            pairing.touch_response(at);
        }
        pairing.note_response(at, piece.offset.saturating_add(length(piece)));
        self.after(request_direction(self.role).opposite(), piece, lost);
    }

    /// What a piece means besides its messages.
    fn after(&mut self, direction: Direction, piece: &Piece<'_>, lost: bool) {
        let way = match direction == request_direction(self.role) {
            true => &mut self.requests,
            false => &mut self.responses,
        };
        way.next = piece.offset.saturating_add(length(piece));
        if lost && matches!(piece.content, Content::Gap { cause: GapCause::Limit, .. }) {
            way.capture = Capture::Everything;
        }
        if lost && self.proven == Proven::No {
            self.doubted = true;
        }
        if way.parser.awaits() == Awaits::Resync {
            self.skipped.add(direction, piece);
        }
    }

    /// Takes what was held as far as there are requests for it now.
    fn release(&mut self, sink: &mut Sink<'_>) {
        while !self.pairing.awaits_request()
            && self.pairing.upgraded_at().is_none()
            && let Some(held) = self.held.pop()
        {
            self.take_responses(&held.as_piece(), sink);
        }
    }

    /// Takes what was held: its requests will not come.
    fn release_unpaired(&mut self, sink: &mut Sink<'_>) {
        if !self.held.is_empty() {
            self.pairing.lose_step();
            self.release(sink);
        }
    }

    /// Ends both parsers. `whole`: what to do with a response of so many bytes that lasts as long as the
    /// connection.
    fn end_parsers(&mut self, mut whole: impl FnMut(&mut Pairing, u64, &mut Sink<'_>), sink: &mut Sink<'_>) {
        let Self { requests, responses, pairing, .. } = self;
        responses.parser.close(&mut |event| {
            if let http1::Event::Ended { offset: _, ending, body } = event {
                match ending {
                    Ending::Complete => whole(pairing, body, sink),
                    Ending::Truncated => pairing.truncate_response(body),
                }
            }
        });
        requests.parser.close(&mut |event| {
            if let http1::Event::Ended { offset: _, ending: _, body } = event {
                pairing.truncate_request(body);
            }
        });
    }
}

/// A head is complete: this is HTTP/1, and nothing was skipped since.
fn found() -> (Proven, bool, Skipped) {
    (Proven::Yes, false, Skipped::default())
}

/// True if the piece's moment is that of its last byte's call. (For a lost record it is only known that it
/// was made before the next one.)
fn is_dated(piece: &Piece<'_>) -> bool {
    !matches!(piece.content, Content::Gap { length: _, cause: GapCause::Lost })
}
