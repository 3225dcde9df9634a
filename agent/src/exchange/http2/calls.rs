//! The streams of one connection: what both parsers found in, exchanges out.
//!
//! A call is opened by its request's header block and is over when both its directions have ended, when it was reset,
//! refused, or when the connection ended. A response that comes before its request waits as an *early* call: the two
//! records may come in either order, but a client's stream numbers only grow, so a later request shows that an
//! earlier one was missed. Frames that were lost make the calls that were open *doubtful*: they stay open, since
//! their streams go on, and are incomplete when they end; those of which nothing comes any more are given up.
//!
//! It must never hold more than [`MAX_STREAMS`] calls, nor answer a request with another stream's response.

use std::collections::BTreeMap;

use super::call::{Call, Half, Reset, reset_kind};
use crate::exchange::pending::{Progress, Sink, request_direction};
use crate::exchange::{Carried, Event, Exchange, ExchangeId, Failure, FailureKind, MAX_UNANSWERED_BYTES};
use crate::identity::{ConnectionId, Direction, Moment, Monotonic, Role};
use crate::protocol::http2::{self, Ends, Kind, Section};
use crate::protocol::{FieldName, Fields, ResponseHead, Version};

/// How many calls may be under way on one connection. Servers allow 100 to 250, some set no limit; beyond it a call is
/// not followed (`requests_refused`).
pub const MAX_STREAMS: usize = 1024;

/// How many responses may wait for their requests: several times the threads that read and write one socket at once.
const MAX_EARLY: usize = 64;

/// How long after a loss a call of which nothing more comes is given up, in nanoseconds: frames of it may be among
/// those that were lost, even its last.
const DOUBT: u64 = 5_000_000_000;

/// Calls in which the framing of gRPC was exact before that alone makes a call one of gRPC.
const FRAMED: u8 = 2;

/// How many sets of table entries are kept that prove gRPC: a program has a handful of kinds of calls.
const MAX_PROOFS: usize = 64;

/// The calls of one connection.
#[derive(Debug)]
pub(super) struct Calls {
    connection: ConnectionId,
    /// Not known until a header section shows it.
    role: Option<Role>,
    calls: BTreeMap<u32, Call>,
    /// The largest stream that a request was seen on.
    last: u32,
    /// Streams above this one will not be processed.
    refused_above: Option<u32>,
    bytes: usize,
    early: usize,
    /// Frames of these directions may be missing: they have no place now.
    lost: Vec<Direction>,
    /// When frames were lost last.
    doubt: Option<Monotonic>,
    /// Calls that were exactly framed as gRPC's.
    framed: u8,
    /// Sets of table entries of which one is gRPC's content type.
    grpc: Vec<Vec<i64>>,
}

impl Calls {
    /// Calls of which nothing was seen. Without a role the connection was joined late, and both directions are lost.
    pub fn new(connection: ConnectionId, role: Option<Role>) -> Self {
        let lost = match role {
            Some(_) => Vec::new(),
            None => vec![Direction::Send, Direction::Receive],
        };
        Self {
            connection,
            role,
            calls: BTreeMap::new(),
            last: 0,
            refused_above: None,
            bytes: 0,
            early: 0,
            lost,
            doubt: None,
            framed: 0,
            grpc: Vec::new(),
        }
    }

    pub fn role(&self) -> Option<Role> {
        self.role
    }

    /// Exchanges that have begun and are not over.
    pub fn open_exchanges(&self) -> usize {
        self.calls.len() - self.early
    }

    /// Takes a request that came in HTTP/1, completely, and is answered on stream 1.
    pub fn adopt(&mut self, exchange: Box<Exchange>) {
        let mut call = Call::new(1, &exchange.began);
        call.adopt(exchange);
        self.last = call.stream;
        self.put(call);
    }

    /// Memory for heads.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// A piece was moved: gives up calls of which nothing has come since frames were lost.
    pub fn begin_piece(&mut self, at: &Moment, sink: &mut Sink<'_>) {
        let Some(doubt) = self.doubt.filter(|doubt| at.time.since(*doubt) > DOUBT) else { return };
        self.doubt = None;
        let silent: Vec<u32> = self
            .calls
            .iter()
            .filter(|(_, call)| (call.request.doubtful || call.response.doubtful) && call.moved <= doubt)
            .map(|(stream, _)| *stream)
            .collect();
        for stream in silent {
            self.give_up(stream, sink);
        }
    }

    /// A parser found this in a piece that was moved at this moment; `began` says when an offset was moved.
    pub fn handle(
        &mut self,
        direction: Direction,
        event: http2::Event<'_>,
        at: &Moment,
        began: &dyn Fn(u64) -> Moment,
        sink: &mut Sink<'_>,
    ) {
        if let (None, http2::Event::Section { section, .. }) = (self.role, &event) {
            self.role = match (section.kind, direction) {
                (Kind::Request, Direction::Send) | (Kind::Response, Direction::Receive) => Some(Role::Client),
                (Kind::Request, Direction::Receive) | (Kind::Response, Direction::Send) => Some(Role::Server),
                (Kind::Bare, _) => None,
            };
        }
        if let http2::Event::Lost { .. } = event {
            self.lose(direction, at);
        }
        if let http2::Event::Proven = event {
            self.lost.retain(|lost| *lost != direction);
            // What was moved until now was not read.
            self.doubt = (!self.calls.is_empty()).then_some(at.time).or(self.doubt);
        }
        let Some(role) = self.role else { return };
        let requests = direction == request_direction(role);
        match event {
            http2::Event::Section { stream, start, section, ends } => match requests {
                true => self.request(role, stream, start, *section, ends, at, began(start), sink),
                false => self.response(stream, *section, ends, at, began(start), sink),
            },
            http2::Event::Unread { stream, start: _, ends } => self.unread(stream, requests, ends, at, sink),
            http2::Event::DataBegan { stream } => {
                if let Some(call) = self.calls.get_mut(&stream) {
                    call.moved = call.moved.max(at.time);
                }
            }
            http2::Event::Data { stream, bytes } => {
                if let Some(half) = self.half(stream, requests, at) {
                    half.body += bytes.len() as u64;
                    half.framing.bytes(bytes);
                }
            }
            http2::Event::DataGap { stream, length } => {
                if let Some(half) = self.half(stream, requests, at) {
                    half.body += u64::from(length);
                    half.framing.gap(u64::from(length));
                }
            }
            http2::Event::Ended { stream } => {
                if let Some(half) = self.half(stream, requests, at) {
                    half.end(Ends::Yes, at);
                    self.close_if_over(stream, sink);
                }
            }
            http2::Event::Reset { stream, code } => {
                self.reset(stream, Reset { code, by: direction, at: at.time }, sink);
            }
            // Only what a server says is about requests: it pushes nothing that we follow.
            http2::Event::GoAway { last, code: _ } if !requests => self.refuse(last, at, sink),
            http2::Event::GoAway { .. }
            | http2::Event::MaxFrame(_)
            | http2::Event::Lost { .. }
            | http2::Event::Aligned { .. }
            | http2::Event::Proven => {}
        }
    }

    /// The connection ended: what has no complete response has failed.
    pub fn fail(&mut self, kind: FailureKind, at: Monotonic, sink: &mut Sink<'_>) {
        let requests = self.requests();
        for (_, mut call) in self.take_all() {
            // Where frames are missing, the end of the response may be among them, or a reset by the client.
            let doubtful = call.response.doubtful || call.request.doubtful || call.reset_unseen;
            if call.response.progress != Progress::Ended && !doubtful {
                let failure = Failure { kind, at, during: call.during(requests) };
                if let Some(exchange) = &mut call.exchange {
                    exchange.failure = Some(failure);
                }
            }
            self.close(call, sink);
        }
    }

    /// Nothing more will be known of what is open.
    pub fn abandon(&mut self, sink: &mut Sink<'_>) {
        for (_, mut call) in self.take_all() {
            if let Some(exchange) = &mut call.exchange {
                exchange.incomplete |= call.response.progress != Progress::Ended;
            }
            self.close(call, sink);
        }
    }

    #[expect(clippy::too_many_arguments, reason = "the parts of one event, and where and when it was")]
    fn request(
        &mut self,
        role: Role,
        stream: u32,
        start: u64,
        section: Section,
        ends: Ends,
        at: &Moment,
        began: Moment,
        sink: &mut Sink<'_>,
    ) {
        if let Some(call) = self.calls.get_mut(&stream)
            && call.exchange.is_some()
        {
            // Trailers of a request say nothing that is kept.
            call.moved = call.moved.max(at.time);
            call.request.end(ends, at);
            return self.close_if_over(stream, sink);
        }
        // Streams that a client opens are odd, and their numbers grow (RFC 9113 §5.1.1). Anything else is the end of a
        // stream that is not followed.
        if section.kind != Kind::Request || stream.is_multiple_of(2) || stream <= self.last {
            return;
        }
        self.last = stream;
        self.miss_requests_before(stream, sink);
        sink.ledger.requests += 1;
        if self.open_exchanges() >= MAX_STREAMS || self.bytes >= MAX_UNANSWERED_BYTES {
            sink.ledger.requests_refused += 1;
            if let Some(early) = self.take(stream) {
                self.close(early, sink);
            }
            return;
        }
        let id = ExchangeId { connection: self.connection, offset: start };
        let early = self.take(stream);
        let mut call = early.unwrap_or_else(|| Call::new(stream, at));
        call.response.doubtful |= self.lost.contains(&request_direction(role).opposite());
        let head = Box::new(call.open(id, role, began, at, section).clone());
        sink.ledger.opened += 1;
        sink.events.push(Event::Opened { id, role, began, at: *at, head, carried: Carried::Shared });
        if let Some((head, responded)) = call.early.take()
            && let Some(exchange) = &mut call.exchange
        {
            respond(exchange, head, responded, sink);
        }
        call.request.end(ends, at);
        let refused = self.refused_above.is_some_and(|last| stream > last);
        self.put(call);
        match refused {
            true => self.fail_one(stream, FailureKind::Refused, at.time, sink),
            false => self.close_if_over(stream, sink),
        }
    }

    fn response(
        &mut self,
        stream: u32,
        section: Section,
        ends: Ends,
        at: &Moment,
        began: Moment,
        sink: &mut Sink<'_>,
    ) {
        let interim = section.status.is_some_and(|status| status < 200);
        if !self.calls.contains_key(&stream) {
            if interim || section.kind != Kind::Response || stream.is_multiple_of(2) {
                return;
            }
            // A server writes no response before it has read the request, but its two records can change places.
            if stream <= self.last || self.early >= MAX_EARLY {
                sink.ledger.responses += 1;
                sink.ledger.responses_without_request += 1;
                return;
            }
            let call = Call::new(stream, at);
            self.put(call);
        }
        let Some(call) = self.calls.get_mut(&stream) else { return };
        call.moved = call.moved.max(at.time);
        if interim {
            return;
        }
        let bytes = call.bytes;
        // If frames are missing, a section without status may be trailers whose head was missed.
        let trailers = call.response.progress != Progress::Waiting
            || (section.kind != Kind::Response && call.response.doubtful);
        if trailers {
            call.trailers(section);
        } else {
            call.response.progress = Progress::UnderWay;
            call.hide_response(&section.unknown);
            let status = section.status.unwrap_or_default();
            let head = Box::new(ResponseHead { status, version: Version::Http2, fields: section.fields });
            call.bytes += head.fields.0.iter().map(|(_, value)| value.len()).sum::<usize>();
            match &mut call.exchange {
                Some(exchange) => respond(exchange, head, began, sink),
                None => call.early = Some((head, began)),
            }
        }
        call.response.end(ends, at);
        self.bytes += call.bytes - bytes;
        self.close_if_over(stream, sink);
    }

    /// A header block that could not be read.
    fn unread(&mut self, stream: u32, requests: bool, ends: Ends, at: &Moment, sink: &mut Sink<'_>) {
        if requests && !self.calls.contains_key(&stream) && stream > self.last {
            // A request of which nothing is known: its response will find none.
            self.last = stream;
            self.miss_requests_before(stream, sink);
        }
        if let Some(half) = self.half(stream, requests, at) {
            half.doubtful = true;
            half.end(ends, at);
            self.close_if_over(stream, sink);
        }
    }

    fn reset(&mut self, stream: u32, reset: Reset, sink: &mut Sink<'_>) {
        let requests = self.requests();
        let Some(call) = self.calls.get_mut(&stream) else { return };
        call.moved = call.moved.max(reset.at);
        call.facts.reset = Some(reset);
        if call.response.progress != Progress::Ended {
            let failure =
                Failure { kind: reset_kind(reset.code), at: reset.at, during: call.during(requests) };
            if let Some(exchange) = &mut call.exchange {
                exchange.failure = Some(failure);
            }
        }
        // An early call's request may still come; what happened to it stays with it.
        if call.exchange.is_none() {
            return;
        }
        if let Some(call) = self.take(stream) {
            self.close(call, sink);
        }
    }

    /// Streams above `last` are not processed.
    fn refuse(&mut self, last: Option<u32>, at: &Moment, sink: &mut Sink<'_>) {
        let Some(last) = last else { return };
        let last = self.refused_above.map_or(last, |before| before.min(last));
        self.refused_above = Some(last);
        let refused: Vec<u32> =
            self.calls.range(last.saturating_add(1)..).map(|(stream, _)| *stream).collect();
        for stream in refused {
            self.fail_one(stream, FailureKind::Refused, at.time, sink);
        }
    }

    fn fail_one(&mut self, stream: u32, kind: FailureKind, at: Monotonic, sink: &mut Sink<'_>) {
        let requests = self.requests();
        let Some(mut call) = self.take(stream) else { return };
        let failure = Failure { kind, at, during: call.during(requests) };
        if let Some(exchange) = &mut call.exchange
            && call.response.progress != Progress::Ended
        {
            exchange.failure = Some(failure);
        }
        self.close(call, sink);
    }

    /// Frames of this direction may be missing.
    fn lose(&mut self, direction: Direction, at: &Moment) {
        if !self.lost.contains(&direction) {
            self.lost.push(direction);
        }
        let requests = direction == self.requests();
        self.doubt = Some(at.time);
        for call in self.calls.values_mut() {
            call.reset_unseen |= requests;
            let half = if requests { &mut call.request } else { &mut call.response };
            if half.progress != Progress::Ended {
                half.doubtful = true;
                half.framing.lose();
            }
        }
    }

    /// A later request was seen, so those before it will not be.
    fn miss_requests_before(&mut self, stream: u32, sink: &mut Sink<'_>) {
        if self.early == 0 {
            return;
        }
        let missed: Vec<u32> = self
            .calls
            .range(..stream)
            .filter(|(_, call)| call.exchange.is_none())
            .map(|(stream, _)| *stream)
            .collect();
        for stream in missed {
            if let Some(call) = self.take(stream) {
                self.close(call, sink);
            }
        }
    }

    /// The direction that carries requests.
    fn requests(&self) -> Direction {
        request_direction(self.role.unwrap_or(Role::Client))
    }

    fn half(&mut self, stream: u32, requests: bool, at: &Moment) -> Option<&mut Half> {
        let call = self.calls.get_mut(&stream)?;
        call.moved = call.moved.max(at.time);
        Some(if requests { &mut call.request } else { &mut call.response })
    }

    fn give_up(&mut self, stream: u32, sink: &mut Sink<'_>) {
        if let Some(mut call) = self.take(stream) {
            if let Some(exchange) = &mut call.exchange {
                exchange.incomplete = true;
            }
            self.close(call, sink);
        }
    }

    fn close_if_over(&mut self, stream: u32, sink: &mut Sink<'_>) {
        let over = self.calls.get(&stream).is_some_and(|call| call.exchange.is_some() && call.is_over());
        if over && let Some(call) = self.take(stream) {
            self.close(call, sink);
        }
    }

    /// Hands a call over.
    fn close(&mut self, mut call: Call, sink: &mut Sink<'_>) {
        if call.early.is_some() {
            sink.ledger.responses += 1;
            sink.ledger.responses_without_request += 1;
        }
        let exact = call.request.framing.is_exact() && call.response.framing.is_exact();
        if exact && call.request.ended.is_some() && call.response.ended.is_some() {
            self.framed = self.framed.saturating_add(1);
        }
        if !call.hidden.is_empty() {
            call.facts.grpc = self.prove_grpc(&call, exact && self.framed >= FRAMED);
        }
        if let Some(exchange) = call.into_exchange() {
            sink.close(exchange);
        }
    }

    /// Whether a call whose content type is hidden is one of gRPC. Its own framing may show it, or a field that only gRPC has.
    /// Then its content type, which it must have, is among its unknown table entries; and so is that of any
    /// other call that names all of these.
    fn prove_grpc(&mut self, call: &Call, framed: bool) -> bool {
        let said = |fields: &Fields, name| fields.first(name).is_some();
        let shown = call.exchange.as_ref().is_some_and(|exchange| {
            said(&exchange.request.fields, FieldName::GrpcTimeout)
                || exchange.response.as_ref().is_some_and(|head| said(&head.fields, FieldName::GrpcStatus))
        });
        let status = call.facts.trailers.as_ref().is_some_and(|fields| said(fields, FieldName::GrpcStatus));
        if framed || shown || status {
            if self.grpc.len() < MAX_PROOFS && !self.grpc.contains(&call.hidden) {
                self.grpc.push(call.hidden.clone());
            }
            return true;
        }
        let names = |entries: &Vec<i64>| entries.iter().all(|entry| call.hidden.binary_search(entry).is_ok());
        self.grpc.iter().any(names)
    }

    fn put(&mut self, call: Call) {
        self.bytes += call.bytes;
        self.early += usize::from(call.exchange.is_none());
        self.calls.insert(call.stream, call);
    }

    fn take(&mut self, stream: u32) -> Option<Call> {
        let call = self.calls.remove(&stream)?;
        self.bytes = self.bytes.saturating_sub(call.bytes);
        self.early -= usize::from(call.exchange.is_none());
        Some(call)
    }

    fn take_all(&mut self) -> BTreeMap<u32, Call> {
        (self.bytes, self.early) = (0, 0);
        std::mem::take(&mut self.calls)
    }
}

/// The final response's head is there, and so is the request.
fn respond(exchange: &mut Exchange, head: Box<ResponseHead>, responded: Moment, sink: &mut Sink<'_>) {
    sink.ledger.responses += 1;
    sink.ledger.responses_paired += 1;
    sink.events.push(Event::Responding { id: exchange.id, at: responded });
    exchange.responded = Some(responded);
    exchange.response = Some(head);
}
