//! A conversation in FastCGI: two parsers, and one request at a time.
//!
//! A request's exchange is opened when its parameters are complete, and closed by END_REQUEST, which may come before all of the
//! request's body was read. Its id is the offset of its BEGIN_REQUEST. A place that is lost in either direction ends the
//! conversation: the next BEGIN_REQUEST begins another. It must never answer a request with what came before it.

use super::conversation::State;
use super::held::length;
use super::pending::{Sink, failure_kind, request_direction};
use super::wishes::{Capture, policy};
use super::{Carried, Event as Told, Exchange, ExchangeId, Failure, FailureKind, Policy};
use crate::identity::{ConnectionId, Direction, Moment, Monotonic, Role};
use crate::protocol::RequestHead;
use crate::protocol::fastcgi::{self, Event, Parser};
use crate::protocol::http1::Side;
use crate::stream::{Closed, Content, Piece};
use crate::sum::Sum as _;

/// Both directions of a connection that speaks FastCGI.
#[derive(Debug)]
pub(super) struct FastCgi {
    id: ConnectionId,
    role: Role,
    requests: Way,
    responses: Way,
    call: Call,
    lost: bool,
}

/// One direction.
#[derive(Debug)]
struct Way {
    parser: Parser,
    /// The offset of the next byte.
    next: u64,
    /// The call that moved the last piece.
    moment: Option<Moment>,
}

/// What is under way.
#[derive(Debug)]
enum Call {
    None,
    /// Its parameters are not complete.
    Begun {
        offset: u64,
        began: Moment,
    },
    Open(Open),
}

#[derive(Debug)]
struct Open {
    exchange: Box<Exchange>,
    /// The call that moved the first byte of output.
    responding: Option<Moment>,
    /// When a byte of it was moved last.
    moved: Monotonic,
}

impl FastCgi {
    pub fn new(id: ConnectionId, role: Role) -> Self {
        let way = |side| Way { parser: Parser::new(side), next: 0, moment: None };
        Self {
            id,
            role,
            requests: way(Side::Requests),
            responses: way(Side::Responses),
            call: Call::None,
            lost: false,
        }
    }

    pub fn role(&self) -> Role {
        self.role
    }

    /// Takes the next piece of either direction.
    pub fn piece(&mut self, direction: Direction, piece: &Piece<'_>, sink: &mut Sink<'_>) {
        sink.ledger.bytes_parsed += length(piece);
        let way = match direction == request_direction(self.role) {
            true => &mut self.requests,
            false => &mut self.responses,
        };
        way.next = piece.offset.saturating_add(length(piece));
        let before = way.moment.replace(*piece.moment).unwrap_or(*piece.moment);
        let mut events = Vec::new();
        match piece.content {
            Content::Bytes(bytes) => way.parser.bytes(piece.offset, bytes, &mut |event| events.push(event)),
            Content::Gap { length, cause: _ } => way.parser.gap(length, &mut |event| events.push(event)),
        }
        for event in events {
            match event {
                // What waited in the other direction means nothing any more.
                _ if self.lost => {}
                Event::Began { offset } => {
                    self.give_up(sink);
                    let began = if offset < piece.offset { before } else { *piece.moment };
                    self.call = Call::Begun { offset, began };
                }
                Event::Lost => {
                    self.give_up(sink);
                    self.lost = true;
                }
                event => self.take(event, piece.moment, sink),
            }
        }
    }

    fn take(&mut self, event: Event, at: &Moment, sink: &mut Sink<'_>) {
        if let Event::Request { head } = event {
            return self.open(head, at, sink);
        }
        let is_response = matches!(event, Event::Response { .. });
        sink.ledger.responses += u64::from(is_response);
        let Call::Open(open) = &mut self.call else {
            sink.ledger.responses_without_request += u64::from(is_response);
            return;
        };
        open.moved = open.moved.max(at.time);
        let exchange = &mut open.exchange;
        match event {
            Event::RequestBody(bytes) => exchange.request_body += bytes,
            Event::RequestEnded => exchange.request_ended = Some(*at),
            Event::Responding => open.responding = Some(*at),
            Event::Response { head } => match open.responding {
                Some(at) => {
                    sink.ledger.responses_paired += 1;
                    sink.events.push(Told::Responding { id: exchange.id, at });
                    exchange.incomplete |= head.status == 0;
                    (exchange.responded, exchange.response) = (Some(at), Some(head));
                }
                // It began before the request.
                None => sink.ledger.responses_without_request += 1,
            },
            Event::ResponseBody(bytes) => exchange.response_body += bytes,
            // END_REQUEST without output: nothing was answered.
            Event::Ended => {
                exchange.incomplete |= exchange.response.is_none();
                exchange.ended = at.time;
                self.close(sink);
            }
            Event::Aborted => self.fail(FailureKind::Cancelled, at.time, sink),
            Event::Began { .. } | Event::Request { .. } | Event::Lost => {}
        }
    }

    fn open(&mut self, head: Box<RequestHead>, at: &Moment, sink: &mut Sink<'_>) {
        let Call::Begun { offset, began } = self.call else { return };
        let id = ExchangeId { connection: self.id, offset };
        let role = self.role;
        sink.ledger.requests += 1;
        sink.ledger.opened += 1;
        let carried = Carried::Alone;
        sink.events.push(Told::Opened { id, role, began, at: *at, head: head.clone(), carried });
        let exchange = Box::new(Exchange::opened(id, role, began, at, head));
        self.call = Call::Open(Open { exchange, responding: None, moved: at.time });
    }

    fn close(&mut self, sink: &mut Sink<'_>) {
        if let Call::Open(open) = std::mem::replace(&mut self.call, Call::None) {
            sink.close(open.exchange);
        }
    }

    /// What is open has no end that will be seen.
    fn give_up(&mut self, sink: &mut Sink<'_>) {
        if let Call::Open(open) = &mut self.call {
            open.exchange.incomplete = true;
            open.exchange.ended = open.moved;
        }
        self.close(sink);
    }

    fn fail(&mut self, kind: FailureKind, at: Monotonic, sink: &mut Sink<'_>) {
        let requests = request_direction(self.role);
        if let Call::Open(open) = &mut self.call {
            let is_asked = open.exchange.request_ended.is_some() || open.responding.is_some();
            let during = if is_asked { requests.opposite() } else { requests };
            open.exchange.failure = Some(Failure { kind, at, during });
            open.exchange.ended = at;
        }
        self.close(sink);
    }

    /// The connection ended.
    pub fn closed(&mut self, closed: &Closed, sink: &mut Sink<'_>) {
        self.fail(failure_kind(closed), closed.time, sink);
    }

    /// The only process that used the connection died.
    pub fn process_exited(&mut self, time: Monotonic, sink: &mut Sink<'_>) {
        self.fail(FailureKind::ProcessExited, time, sink);
    }

    /// Nothing more will be known of the connection.
    pub fn abandoned(&mut self, sink: &mut Sink<'_>) {
        self.give_up(sink);
    }

    /// What has become of it.
    pub fn state(&self) -> State {
        if self.lost { State::Doubtful } else { State::Going }
    }

    /// What the kernel side should send of a direction. A record's end may lie anywhere in a call.
    pub fn policy(&self, direction: Direction, last: Policy) -> Policy {
        let way = match direction == request_direction(self.role) {
            true => &self.requests,
            false => &self.responses,
        };
        policy(way.parser.awaits(), way.next, last, Capture::Everything)
    }

    /// What both parsers say of their bytes.
    pub fn parsers(&self) -> fastcgi::Ledger {
        let mut ledger = self.requests.parser.ledger().clone();
        ledger.add(self.responses.parser.ledger());
        ledger
    }

    pub fn open_exchanges(&self) -> usize {
        usize::from(matches!(self.call, Call::Open(_)))
    }

    /// Memory for bytes of the traffic.
    pub fn held_bytes(&self) -> usize {
        self.requests.parser.held_bytes() + self.responses.parser.held_bytes()
    }
}
