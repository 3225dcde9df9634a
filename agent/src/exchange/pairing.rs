//! Which response answers which request: what both parsers found in, exchanges out.
//!
//! Responses come in the order of their requests (RFC 9112 §9.3.2), so pairing is counting, and counting is
//! exact as long as it is *in step*: since a moment at which nothing was outstanding, every request and
//! every response was seen. A connection seen from birth starts in step. A loss on the side of the requests
//! leaves those that were seen before it countable, and puts later ones out of step; a loss on the side of
//! the responses closes all that are unanswered (incomplete, with no response) and puts us out of step.
//!
//! Out of step a response is believed to answer a request only if the request
//! - is the only one unanswered, and was completely moved before the response began;
//! - and the response begins at the very offset that the responses' direction had reached when the
//!   request's head was complete (interim responses apart), so that nothing unseen lies between them;
//! - and the connection does not pipeline; if it did, the request must have come after a silence.
//!
//! With it we are in step again. A response that fails this closes what is unanswered. What this assumes,
//! because no byte can show it: a connection that has never been seen to pipeline had no unseen request
//! outstanding when the first seen one was sent.
//!
//! It must never pair by time alone. Time can veto: at a server no response was written before its request
//! was read.

use std::collections::VecDeque;

use super::ledger::Ledger;
use super::{Event, Exchange, ExchangeId, Failure, FailureKind, MAX_UNANSWERED, MAX_UNANSWERED_BYTES, Role};
use crate::identity::{ConnectionId, Direction, Moment, Monotonic};
use crate::protocol::http1::{self, Answers, Ending};
use crate::protocol::{RequestHead, ResponseHead};
use crate::stream::Closed;

/// Where events and counts go.
pub(super) struct Sink<'a> {
    pub events: &'a mut Vec<Event>,
    pub ledger: &'a mut Ledger,
}

/// The open exchanges of one connection, oldest first.
#[derive(Debug)]
pub(super) struct Pairing {
    connection: ConnectionId,
    role: Role,
    /// Every request and response since nothing was outstanding was seen.
    in_step: bool,
    pending: VecDeque<Pending>,
    /// Bytes of the pending requests' heads.
    bytes: usize,
    /// A request whose head is not complete.
    beginning: Option<Beginning>,
    /// The request whose body is not complete: that of the last pending exchange.
    unfinished: Option<u64>,
    /// The response that has begun.
    response: Option<Response>,
    /// The offset of the next byte of the responses' direction.
    reached: Option<u64>,
    /// When something was moved last, in any direction.
    moved: Option<Monotonic>,
    requests: u64,
    /// Requests that began while another one was unanswered.
    overlaps: u64,
    stopped: Option<Stopped>,
}

/// Why no more exchanges come.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Stopped {
    /// The connection is another protocol's now.
    Switched,
    /// Too many requests are unanswered.
    Full,
}

#[derive(Debug)]
struct Beginning {
    offset: u64,
    at: Moment,
    after_silence: bool,
}

#[derive(Debug)]
struct Response {
    at: Moment,
    /// The offset of the request that it answers, unless it is interim.
    answers: Option<u64>,
    /// Its final head came, and it does answer that request.
    bound: bool,
}

#[derive(Debug)]
struct Pending {
    exchange: Box<Exchange>,
    answers: Answers,
    /// In step when it was opened.
    counted: bool,
    /// What [`Pairing::reached`] was when its head was complete, or the end of its last interim response.
    reached: Option<u64>,
    after_silence: bool,
    request: Progress,
    response: Progress,
    /// When a byte of it was moved last.
    moved: Monotonic,
    bytes: usize,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Progress {
    Waiting,
    UnderWay,
    Ended,
    /// Its end was not seen and will not be.
    Lost,
}

impl Pairing {
    pub fn new(connection: ConnectionId, role: Role, in_step: bool) -> Self {
        Self {
            connection,
            role,
            in_step,
            pending: VecDeque::new(),
            bytes: 0,
            beginning: None,
            unfinished: None,
            response: None,
            reached: None,
            moved: None,
            requests: 0,
            overlaps: 0,
            stopped: None,
        }
    }

    /// The parser of requests found this in a piece that was moved at this moment.
    pub fn handle_request(&mut self, event: http1::Event, at: &Moment, sink: &mut Sink<'_>) {
        if self.stopped.is_some() {
            return;
        }
        match event {
            http1::Event::Began { offset } => {
                let after_silence = self.moved.is_some_and(|moved| at.time.since(moved) >= SETTLED);
                self.beginning = Some(Beginning { offset, at: *at, after_silence });
            }
            http1::Event::Request { start, end: _, head, answers } => {
                self.open(start, head, answers, at, sink)
            }
            http1::Event::Ended { offset: _, ending, body } => {
                self.beginning = None;
                let Some(pending) = self.take_unfinished() else { return };
                pending.exchange.request_body = body;
                if ending == Ending::Complete {
                    pending.exchange.request_ended = Some(*at);
                    pending.request = Progress::Ended;
                    self.close_if_over(sink);
                }
            }
            http1::Event::Lost { .. } => {
                (self.beginning, self.in_step) = (None, false);
                if let Some(pending) = self.take_unfinished() {
                    pending.exchange.incomplete = true;
                    pending.request = Progress::Lost;
                    self.close_if_over(sink);
                }
            }
            // A parser of requests finds no responses, and switches only when it is told to.
            http1::Event::Response { .. } | http1::Event::Switched { .. } => {}
        }
    }

    /// The parser of responses found this in a piece that was moved at this moment.
    pub fn handle_response(&mut self, event: http1::Event, at: &Moment, sink: &mut Sink<'_>) {
        if self.stopped.is_some() {
            return;
        }
        match event {
            http1::Event::Began { offset } => {
                let answers = self.answered_by(offset, at).map(|pending| pending.exchange.id.offset);
                self.response = Some(Response { at: *at, answers, bound: false });
            }
            http1::Event::Response { start, end, head } => self.respond(start, end, head, at, sink),
            http1::Event::Ended { offset: _, ending: Ending::Complete, body } => {
                self.end_response(at.time, body, sink)
            }
            http1::Event::Ended { offset: _, ending: Ending::Truncated, body } => {
                self.truncate_response(body)
            }
            http1::Event::Switched { .. } => self.stop(Stopped::Switched, sink),
            http1::Event::Lost { .. } => self.lose_responses(sink),
            http1::Event::Request { .. } => {}
        }
    }

    /// What the response that has begun answers, for its framing.
    pub fn answers(&self) -> Answers {
        let offset = self.response.as_ref().and_then(|response| response.answers);
        offset.and_then(|offset| self.find(offset)).map_or(Answers::Unknown, |pending| pending.answers)
    }

    /// True if a response that would begin now has no request that it could answer, though we are in step:
    /// the request's record is late.
    pub fn awaits_request(&self) -> bool {
        self.in_step
            && self.stopped.is_none()
            && self.response.is_none()
            && self.unanswered().next().is_none()
    }

    /// False if these two moments prove that the response was not to that request.
    pub fn may_answer(&self, response: &Moment, request: &Moment) -> bool {
        match self.role {
            Role::Server => response.time >= request.time,
            Role::Client => request.time.since(response.time) <= HELD_FOR,
        }
    }

    /// Something unseen happened: a request or a response may be missing.
    pub fn lose_step(&mut self) {
        self.in_step = false;
    }

    /// Bytes of the request whose body is under way were moved.
    pub fn touch_request(&mut self, at: &Moment) {
        if let Some(pending) = self.unfinished.and_then(|offset| self.find_mut(offset)) {
            pending.moved = at.time;
        }
    }

    /// Bytes of the response whose body is under way were moved.
    pub fn touch_response(&mut self, at: &Moment) {
        if let Some(pending) = self.bound() {
            pending.moved = at.time;
        }
    }

    /// A piece of the connection was moved; `reached`: the end of what came of the responses' direction.
    pub fn note_moved(&mut self, at: &Moment, reached: Option<u64>) {
        self.moved = self.moved.max(Some(at.time));
        self.reached = reached.or(self.reached);
    }

    /// The response that lasts as long as the connection is complete.
    pub fn end_response_by_close(&mut self, body: u64, sink: &mut Sink<'_>) {
        let Some(moved) = self.bound().map(|pending| pending.moved) else { return };
        self.end_response(moved, body, sink);
    }

    /// So much of the response's body came, and no more will.
    pub fn truncate_response(&mut self, body: u64) {
        if let Some(pending) = self.bound() {
            pending.exchange.response_body = body;
        }
        self.response = None;
    }

    /// So much of the request's body came, and no more will.
    pub fn truncate_request(&mut self, body: u64) {
        if let Some(pending) = self.take_unfinished() {
            pending.exchange.request_body = body;
        }
    }

    /// The connection ended: what has no complete response has failed.
    pub fn fail(&mut self, kind: FailureKind, at: Monotonic, sink: &mut Sink<'_>) {
        for mut pending in self.take_all() {
            if pending.response != Progress::Ended {
                pending.exchange.failure = Some(Failure { kind, at, during: self.direction(&pending) });
                pending.exchange.ended = at;
            }
            close(pending, sink);
        }
    }

    /// Nothing more will be known of what is open.
    pub fn abandon(&mut self, sink: &mut Sink<'_>) {
        for pending in self.take_all() {
            close_incomplete(pending, sink);
        }
    }

    /// The response under way is incomplete as far as we know, and nothing says that it failed.
    pub fn abandon_response(&mut self, body: u64, sink: &mut Sink<'_>) {
        self.truncate_response(body);
        if let Some(index) = self.pending.iter().position(|pending| pending.response == Progress::UnderWay)
            && let Some(pending) = self.remove(index)
        {
            close_incomplete(pending, sink);
        }
    }

    pub fn stopped(&self) -> Option<Stopped> {
        self.stopped
    }

    /// True if a message has begun whose head is not complete.
    pub fn is_in_head(&self) -> bool {
        self.beginning.is_some() || self.response.is_some()
    }

    pub fn open_exchanges(&self) -> usize {
        self.pending.len()
    }

    /// Memory for heads.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    fn open(
        &mut self,
        start: u64,
        head: Box<RequestHead>,
        answers: Answers,
        at: &Moment,
        sink: &mut Sink<'_>,
    ) {
        sink.ledger.requests += 1;
        let bytes = size(&head);
        if self.pending.len() >= MAX_UNANSWERED || self.bytes.saturating_add(bytes) > MAX_UNANSWERED_BYTES {
            sink.ledger.requests_refused += 1;
            return self.stop(Stopped::Full, sink);
        }
        let beginning = self.beginning.take().filter(|beginning| beginning.offset == start);
        let (began, after_silence) =
            beginning.map_or((*at, false), |beginning| (beginning.at, beginning.after_silence));
        self.requests += 1;
        let overlaps = self.unanswered().next().is_some();
        self.overlaps += u64::from(overlaps);
        let id = ExchangeId { connection: self.connection, offset: start };
        sink.ledger.opened += 1;
        sink.events.push(Event::Opened { id, role: self.role, began, at: *at, head: head.clone() });
        let exchange = Box::new(Exchange {
            id,
            role: self.role,
            began,
            request_ended: None,
            responded: None,
            ended: at.time,
            request: head,
            response: None,
            request_body: 0,
            response_body: 0,
            failure: None,
            switched: false,
            incomplete: false,
        });
        self.unfinished = Some(start);
        self.bytes += bytes;
        self.pending.push_back(Pending {
            exchange,
            answers,
            counted: self.in_step,
            reached: self.reached,
            after_silence,
            request: Progress::UnderWay,
            response: Progress::Waiting,
            moved: at.time,
            bytes,
        });
    }

    /// The request that a response answers which begins here and now.
    fn answered_by(&self, start: u64, at: &Moment) -> Option<&Pending> {
        let mut unanswered = self.unanswered();
        let first = unanswered.next()?;
        if self.role == Role::Server && at.time < first.exchange.began.time {
            return None;
        }
        let is_proven = first.request == Progress::Ended
            && first.reached.is_none_or(|reached| reached == start)
            && (first.after_silence || !self.pipelines())
            && unanswered.next().is_none();
        (first.counted || is_proven).then_some(first)
    }

    /// A response's head is complete.
    fn respond(&mut self, start: u64, end: u64, head: Box<ResponseHead>, at: &Moment, sink: &mut Sink<'_>) {
        let Some(mut response) = self.response.take() else { return };
        let asked = response.answers.and_then(|offset| self.find(offset)).map(|pending| pending.answers);
        let interim = match head.status {
            // Without having been asked for it means nothing (RFC 9110 §15.2.2).
            101 => asked.is_some_and(|asked| asked != Answers::Upgrade),
            status => status < 200,
        };
        if interim {
            self.pending
                .iter_mut()
                .filter(|pending| pending.reached == Some(start))
                .for_each(|pending| pending.reached = Some(end));
            return;
        }
        sink.ledger.responses += 1;
        let pending = response.answers.and_then(|offset| self.find_mut(offset));
        let Some(pending) = pending else {
            sink.ledger.responses_without_request += 1;
            self.count_candidates(start);
            self.close_unanswered(sink);
            self.in_step = false;
            return;
        };
        sink.ledger.responses_paired += 1;
        pending.exchange.switched = match asked {
            Some(Answers::Upgrade) => head.status == 101,
            Some(Answers::Connect) => (200..300).contains(&head.status),
            _ => false,
        };
        pending.exchange.responded = Some(response.at);
        pending.exchange.response = Some(head);
        pending.response = Progress::UnderWay;
        pending.moved = at.time;
        sink.events.push(Event::Responding { id: pending.exchange.id, at: response.at });
        let proven = !std::mem::replace(&mut pending.counted, true);
        self.in_step |= proven;
        response.bound = true;
        self.response = Some(response);
    }

    fn end_response(&mut self, ended: Monotonic, body: u64, sink: &mut Sink<'_>) {
        if let Some(pending) = self.bound() {
            pending.exchange.response_body = body;
            pending.exchange.ended = ended;
            pending.response = Progress::Ended;
        }
        self.response = None;
        self.close_if_over(sink);
    }

    /// Where the responses' direction is, is not known: a response may be missing.
    fn lose_responses(&mut self, sink: &mut Sink<'_>) {
        (self.response, self.in_step) = (None, false);
        if let Some(index) = self.pending.iter().position(|pending| pending.response == Progress::UnderWay)
            && let Some(pending) = self.remove(index)
        {
            close_incomplete(pending, sink);
        }
        // That they overlapped says only that a response is missing.
        let unanswered = self.unanswered().count() as u64;
        self.overlaps = self.overlaps.saturating_sub(unanswered.saturating_sub(1));
        self.close_unanswered(sink);
    }

    /// A response came that any of several requests may have been for: the connection pipelines.
    fn count_candidates(&mut self, start: u64) {
        let candidates = self.unanswered().filter(|pending| pending.reached.is_none_or(|at| at == start));
        self.overlaps += u64::from(candidates.count() > 1);
    }

    /// True if requests are sent before the last one was answered. Two threads that move requests and
    /// responses of one connection look like that too, once in a long while.
    fn pipelines(&self) -> bool {
        self.overlaps.saturating_mul(RARE) > self.requests
    }

    fn close_unanswered(&mut self, sink: &mut Sink<'_>) {
        let mut index = 0;
        while let Some(pending) = self.pending.get(index) {
            if pending.response != Progress::Waiting {
                index += 1;
            } else if let Some(pending) = self.remove(index) {
                close_incomplete(pending, sink);
            }
        }
    }

    /// Closes the exchange that is over, if there is one.
    fn close_if_over(&mut self, sink: &mut Sink<'_>) {
        let over = self.pending.iter().position(|pending| {
            pending.response == Progress::Ended && matches!(pending.request, Progress::Ended | Progress::Lost)
        });
        if let Some(pending) = over.and_then(|index| self.remove(index)) {
            close(pending, sink);
        }
    }

    fn stop(&mut self, why: Stopped, sink: &mut Sink<'_>) {
        self.stopped = Some(why);
        for pending in self.take_all() {
            match pending.response {
                Progress::Ended => close(pending, sink),
                Progress::Waiting | Progress::UnderWay | Progress::Lost => close_incomplete(pending, sink),
            }
        }
    }

    fn take_all(&mut self) -> VecDeque<Pending> {
        (self.unfinished, self.response, self.beginning, self.in_step) = (None, None, None, false);
        self.bytes = 0;
        std::mem::take(&mut self.pending)
    }

    fn remove(&mut self, index: usize) -> Option<Pending> {
        let pending = self.pending.remove(index)?;
        self.bytes = self.bytes.saturating_sub(pending.bytes);
        if self.unfinished == Some(pending.exchange.id.offset) {
            self.unfinished = None;
        }
        Some(pending)
    }

    fn unanswered(&self) -> impl Iterator<Item = &Pending> {
        self.pending.iter().filter(|pending| pending.response == Progress::Waiting)
    }

    fn find(&self, offset: u64) -> Option<&Pending> {
        self.pending.iter().find(|pending| pending.exchange.id.offset == offset)
    }

    fn find_mut(&mut self, offset: u64) -> Option<&mut Pending> {
        self.pending.iter_mut().find(|pending| pending.exchange.id.offset == offset)
    }

    /// The exchange whose final response is under way.
    fn bound(&mut self) -> Option<&mut Pending> {
        let response = self.response.as_ref().filter(|response| response.bound)?;
        let offset = response.answers?;
        self.find_mut(offset)
    }

    fn take_unfinished(&mut self) -> Option<&mut Pending> {
        let offset = self.unfinished.take()?;
        self.find_mut(offset)
    }

    /// Which direction an exchange that has no complete response was waiting for.
    fn direction(&self, pending: &Pending) -> Direction {
        let requests = request_direction(self.role);
        match (pending.request, pending.response) {
            (Progress::UnderWay, Progress::Waiting) => requests,
            _ => requests.opposite(),
        }
    }
}

/// The direction that carries requests.
pub(super) fn request_direction(role: Role) -> Direction {
    match role {
        Role::Server => Direction::Receive,
        Role::Client => Direction::Send,
    }
}

/// What a connection's end means for an exchange that has no complete response.
pub(super) fn failure_kind(closed: &Closed) -> FailureKind {
    match closed.errno {
        libc::ECONNRESET | libc::EPIPE => FailureKind::ConnectionReset,
        libc::ETIMEDOUT => FailureKind::TimedOut,
        0 if closed.process_exited => FailureKind::ProcessExited,
        0 if closed.local_finished_first || !closed.peer_finished => FailureKind::Cancelled,
        0 => FailureKind::ConnectionClosed,
        errno => FailureKind::Socket(errno),
    }
}

fn close_incomplete(mut pending: Pending, sink: &mut Sink<'_>) {
    pending.exchange.incomplete = true;
    if pending.response != Progress::Ended {
        pending.exchange.ended = pending.moved;
    }
    close(pending, sink);
}

fn close(pending: Pending, sink: &mut Sink<'_>) {
    let mut exchange = pending.exchange;
    if exchange.ended < exchange.began.time {
        exchange.ended = exchange.began.time;
        sink.ledger.ends_clamped += 1;
    }
    sink.ledger.close(&exchange);
    sink.events.push(Event::Closed(exchange));
}

/// Memory that a head takes, about.
fn size(head: &RequestHead) -> usize {
    let fields: usize = head.fields.0.iter().map(|(_, value)| value.len() + FIELD).sum();
    size_of::<RequestHead>() + size_of::<Exchange>() + head.method.len() + head.target.len() + fields
}

/// What a kept field takes besides its value.
const FIELD: usize = size_of::<(crate::protocol::FieldName, Box<[u8]>)>();

/// How long after a response was read by a client its request's record may still come: two threads use
/// the socket, and the one that wrote the request was preempted before its record was made. Longer than
/// any preemption that leaves a machine usable.
const HELD_FOR: u64 = 1_000_000_000;

/// A silence that ends what was outstanding on a connection that pipelines, in nanoseconds.
const SETTLED: u64 = 1_000_000_000;

/// A connection pipelines if more than one in so many requests overlapped.
const RARE: u64 = 64;
