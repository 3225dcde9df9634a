//! Which response answers which request: what both parsers found in, exchanges out.
//!
//! Responses come in the order of their requests (RFC 9112 §9.3.2), so pairing is counting, and counting is
//! exact as long as it is *in step*: since a moment at which nothing was outstanding, every request and
//! every response was seen. A connection seen from birth starts in step. A loss on the side of the requests
//! leaves those that were seen before it countable, and puts later ones out of step; a loss on the side of
//! the responses closes all that are unanswered (incomplete, with no response) and puts us out of step.
//!
//! Out of step, [`Step`] says whether a response is proven to answer the request. One that is not closes
//! what is unanswered, incomplete. It must never pair by time alone; but time can veto: at a server no
//! response was written before its request was read.

use std::collections::VecDeque;

use super::pending::{Pending, Progress, Sink, size};
use super::step::{Joined, Proof, Step};
use super::{
    Carried, Event, Exchange, ExchangeId, Failure, FailureKind, MAX_UNANSWERED, MAX_UNANSWERED_BYTES, Role,
};
use crate::identity::{ConnectionId, Moment, Monotonic};
use crate::protocol::http1::{self, Answers, Ending};
use crate::protocol::{FieldName, Fields, RequestHead, ResponseHead};

/// The open exchanges of one connection, oldest first.
#[derive(Debug)]
pub(super) struct Pairing {
    connection: ConnectionId,
    role: Role,
    step: Step,
    pending: VecDeque<Pending>,
    /// Memory for the pending requests' heads.
    bytes: usize,
    /// A request whose head is not complete.
    beginning: Option<Beginning>,
    /// The request whose body is not complete: that of the last pending exchange.
    unfinished: Option<u64>,
    /// The response that has begun.
    response: Option<Response>,
    stopped: Option<Stopped>,
    /// The request that is answered in HTTP/2, since 101 said so, and where the responses' direction goes over to that.
    upgraded: Option<(u64, Option<u64>)>,
    upgrades: Upgrades,
}

/// Whether the connection may go over to HTTP/2.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Upgrades {
    Yes,
    /// It has ended.
    No,
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
    claim: Claim,
    /// Its final head came, and it does answer that request.
    bound: bool,
}

/// Which request a response answers that has begun, unless it is interim.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Claim {
    /// That at this offset.
    Answers(u64),
    /// None that we know, or it is not certain.
    Nothing(Proof),
}

impl Pairing {
    pub fn new(connection: ConnectionId, role: Role, joined: Joined) -> Self {
        Self {
            connection,
            role,
            step: Step::new(role, joined),
            pending: VecDeque::new(),
            bytes: 0,
            beginning: None,
            unfinished: None,
            response: None,
            stopped: None,
            upgraded: None,
            upgrades: Upgrades::Yes,
        }
    }

    /// The parser of requests found this in a piece that was moved at this moment.
    pub fn handle_request(&mut self, event: http1::Event, at: &Moment, sink: &mut Sink<'_>) {
        if self.stopped.is_some() {
            return;
        }
        match event {
            http1::Event::Began { offset } => {
                let after_silence = self.step.is_silent(at);
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
            http1::Event::Lost { .. } => self.lose_requests(sink),
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
                let claim = self.claim(offset, at);
                self.response = Some(Response { at: *at, claim, bound: false });
            }
            http1::Event::Response { start, end, head } => self.respond(start, end, head, at, sink),
            http1::Event::Ended { offset, ending: Ending::Complete, body } => {
                if self.bound().is_some() {
                    self.step.note_answered(offset);
                }
                self.end_response(at.time, body, sink)
            }
            http1::Event::Ended { offset: _, ending: Ending::Truncated, body } => {
                self.truncate_response(body)
            }
            http1::Event::Switched { offset } => {
                if let Some((_, from)) = &mut self.upgraded {
                    *from = Some(offset);
                }
                self.stop(Stopped::Switched, sink);
            }
            http1::Event::Lost { .. } => self.lose_responses(sink),
            http1::Event::Request { .. } => {}
        }
    }

    /// What the response that has begun answers, for its framing.
    pub fn answers(&self) -> Answers {
        let claim = self.response.as_ref().map(|response| response.claim);
        claim.and_then(|claim| self.find(claim)).map_or(Answers::Unknown, |pending| pending.answers)
    }

    /// True if a response that would begin now has no request that it could answer, though we are in step:
    /// the request's record is late.
    pub fn awaits_request(&self) -> bool {
        self.step.is_in_step()
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
        self.step.lose();
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

    /// A piece of a request was moved.
    pub fn note_request(&mut self, at: &Moment) {
        self.step.note_request(at);
    }

    /// A piece of a response was moved, and now its direction has reached this offset.
    pub fn note_response(&mut self, at: &Moment, reached: u64) {
        self.step.note_response(at, reached);
    }

    /// Nothing lies between these offsets of the responses' direction.
    pub fn pass(&mut self, from: u64, to: u64) {
        self.step.pass(from, to);
        self.pending.iter_mut().for_each(|pending| pending.mark.pass_interim(from, to));
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
                pending.exchange.failure = Some(Failure { kind, at, during: pending.during() });
                pending.exchange.ended = at;
            }
            pending.close(sink);
        }
    }

    /// Nothing more will be known of what is open.
    pub fn abandon(&mut self, sink: &mut Sink<'_>) {
        self.take_all().into_iter().for_each(|pending| pending.close_incomplete(sink));
    }

    /// The response under way is incomplete as far as we know, and nothing says that it failed.
    pub fn abandon_response(&mut self, body: u64, sink: &mut Sink<'_>) {
        self.truncate_response(body);
        self.close_under_way(sink);
    }

    /// The connection has ended: what is left of it is not another protocol's.
    pub fn forbid_upgrade(&mut self) {
        self.upgrades = Upgrades::No;
    }

    /// Where the responses' direction went over to HTTP/2, if it did.
    pub fn upgraded_at(&self) -> Option<u64> {
        self.upgraded.and_then(|(_, from)| from)
    }

    /// Takes out the exchange whose response comes in HTTP/2.
    pub fn take_upgraded(&mut self) -> Option<Box<Exchange>> {
        let (offset, _) = self.upgraded.take()?;
        let index = self.pending.iter().position(|pending| pending.offset() == offset)?;
        self.remove(index).map(|pending| pending.exchange)
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

    /// A request's head is complete.
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
        if self.unanswered().next().is_none() {
            self.step.note_turn();
        } else if !self.step.note_overlap() {
            self.pending.iter_mut().for_each(|pending| pending.mark.counted = false);
        }
        let mark = self.step.mark(&began, after_silence);
        let id = ExchangeId { connection: self.connection, offset: start };
        sink.ledger.opened += 1;
        sink.events.push(Event::Opened {
            id,
            role: self.role,
            began,
            at: *at,
            head: head.clone(),
            carried: Carried::Alone,
        });
        let exchange = Box::new(Exchange::opened(id, self.role, began, at, head));
        self.unfinished = Some(start);
        self.bytes += bytes;
        let (request, response) = (Progress::UnderWay, Progress::Waiting);
        self.pending.push_back(Pending { exchange, answers, mark, request, response, moved: at.time, bytes });
    }

    /// Which request a response answers that begins here and now.
    fn claim(&self, start: u64, at: &Moment) -> Claim {
        let mut unanswered = self.unanswered();
        let Some(first) = unanswered.next() else { return Claim::Nothing(Proof::Missing) };
        if self.role == Role::Server && at.time < first.exchange.began.time {
            return Claim::Nothing(Proof::Missing);
        }
        let alone = unanswered.next().is_none();
        let proof = match first.exchange.request_ended {
            _ if first.mark.counted => Proof::Given,
            Some(ended) if alone => self.step.proof(&first.mark, &ended, start, at),
            _ => Proof::Missing,
        };
        match proof {
            Proof::Given => Claim::Answers(first.offset()),
            Proof::Turn | Proof::Missing => Claim::Nothing(proof),
        }
    }

    /// A response's head is complete.
    fn respond(&mut self, start: u64, end: u64, head: Box<ResponseHead>, at: &Moment, sink: &mut Sink<'_>) {
        let Some(mut response) = self.response.take() else { return };
        let asked = self.find(response.claim).map(|pending| pending.answers);
        let interim = match head.status {
            // Without having been asked for it means nothing (RFC 9110 §15.2.2).
            101 => asked.is_some_and(|asked| asked != Answers::Upgrade),
            status => status < 200,
        };
        let goes_over = asked == Some(Answers::Upgrade) && head.status == 101 && says_h2c(&head.fields);
        if let (true, Claim::Answers(offset)) = (goes_over, response.claim)
            && self.may_go_over(offset)
        {
            // Its response comes on stream 1 (RFC 7540 §3.2); this was none.
            self.upgraded = Some((offset, None));
            return;
        }
        if interim {
            return self.pending.iter_mut().for_each(|pending| pending.mark.pass_interim(start, end));
        }
        sink.ledger.responses += 1;
        let pending = match response.claim {
            Claim::Answers(offset) => self.find_mut(offset),
            Claim::Nothing(proof) => return self.leave_unpaired(start, proof, sink),
        };
        let Some(pending) = pending else { return self.leave_unpaired(start, Proof::Missing, sink) };
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
        if !std::mem::replace(&mut pending.mark.counted, true) {
            self.step.note_proven();
        }
        response.bound = true;
        self.response = Some(response);
    }

    /// True if nothing but the response to this request is outstanding, and nothing was moved behind it.
    fn may_go_over(&self, offset: u64) -> bool {
        let [only] = self.pending.as_slices().0 else { return false };
        self.upgrades == Upgrades::Yes
            && only.offset() == offset
            && only.request == Progress::Ended
            && self.beginning.is_none()
    }

    /// A final response begins at `start` that is given to no request: none that is unanswered can be given
    /// a later one with certainty.
    fn leave_unpaired(&mut self, start: u64, proof: Proof, sink: &mut Sink<'_>) {
        sink.ledger.responses_without_request += 1;
        let candidates = self.unanswered().filter(|pending| pending.mark.may_be_answered_at(start)).count();
        let unseen = self.unanswered().next().is_some_and(|first| self.step.shows_unanswered(&first.mark));
        self.step.note_unpaired(proof, candidates > 1 || unseen);
        self.close_unanswered(sink);
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

    /// Where the requests' direction is, is not known: those that were seen are still answered in order.
    fn lose_requests(&mut self, sink: &mut Sink<'_>) {
        self.beginning = None;
        let Some(pending) = self.take_unfinished() else { return self.step.lose_requests() };
        // Most likely it is the rest of this very request that is missing.
        pending.exchange.incomplete = true;
        pending.request = Progress::Lost;
        self.step.lose();
        self.close_if_over(sink);
    }

    /// Where the responses' direction is, is not known: a response may be missing.
    fn lose_responses(&mut self, sink: &mut Sink<'_>) {
        self.response = None;
        self.close_under_way(sink);
        self.step.lose_responses(self.unanswered().count() as u64);
        self.close_unanswered(sink);
    }

    fn close_unanswered(&mut self, sink: &mut Sink<'_>) {
        let mut index = 0;
        while let Some(pending) = self.pending.get(index) {
            if pending.response != Progress::Waiting {
                index += 1;
            } else if let Some(pending) = self.remove(index) {
                pending.close_incomplete(sink);
            }
        }
    }

    /// Closes the exchange whose response has begun and will not end.
    fn close_under_way(&mut self, sink: &mut Sink<'_>) {
        let under_way = self.pending.iter().position(|pending| pending.response == Progress::UnderWay);
        if let Some(pending) = under_way.and_then(|index| self.remove(index)) {
            pending.close_incomplete(sink);
        }
    }

    /// Closes the exchange that is over, if there is one.
    fn close_if_over(&mut self, sink: &mut Sink<'_>) {
        let over = self.pending.iter().position(Pending::is_over);
        if let Some(pending) = over.and_then(|index| self.remove(index)) {
            pending.close(sink);
        }
    }

    fn stop(&mut self, why: Stopped, sink: &mut Sink<'_>) {
        self.stopped = Some(why);
        if self.upgraded.is_some() {
            return;
        }
        for pending in self.take_all() {
            match pending.response {
                Progress::Ended => pending.close(sink),
                Progress::Waiting | Progress::UnderWay | Progress::Lost => pending.close_incomplete(sink),
            }
        }
    }

    fn take_all(&mut self) -> VecDeque<Pending> {
        (self.unfinished, self.response, self.beginning, self.bytes) = (None, None, None, 0);
        self.step.lose();
        std::mem::take(&mut self.pending)
    }

    fn remove(&mut self, index: usize) -> Option<Pending> {
        let pending = self.pending.remove(index)?;
        self.bytes = self.bytes.saturating_sub(pending.bytes);
        if self.unfinished == Some(pending.offset()) {
            self.unfinished = None;
        }
        Some(pending)
    }

    fn unanswered(&self) -> impl Iterator<Item = &Pending> {
        self.pending.iter().filter(|pending| pending.response == Progress::Waiting)
    }

    /// The exchange that a response belongs to.
    fn find(&self, claim: Claim) -> Option<&Pending> {
        match claim {
            Claim::Answers(offset) => self.pending.iter().find(|pending| pending.offset() == offset),
            Claim::Nothing(_) => None,
        }
    }

    fn find_mut(&mut self, offset: u64) -> Option<&mut Pending> {
        self.pending.iter_mut().find(|pending| pending.offset() == offset)
    }

    /// The exchange whose final response is under way.
    fn bound(&mut self) -> Option<&mut Pending> {
        match self.response {
            Some(Response { at: _, claim: Claim::Answers(offset), bound: true }) => self.find_mut(offset),
            _ => None,
        }
    }

    fn take_unfinished(&mut self) -> Option<&mut Pending> {
        let offset = self.unfinished.take()?;
        self.find_mut(offset)
    }
}

/// Whether a server goes over to HTTP/2 without TLS (RFC 7540 §3.2).
fn says_h2c(fields: &Fields) -> bool {
    fields.all(FieldName::Upgrade).any(|value| value.eq_ignore_ascii_case(b"h2c"))
}

/// How long after a response was read by a client its request's record may still come: two threads use
/// the socket, and the one that wrote the request was preempted before its record was made. Longer than
/// any preemption that leaves a machine usable.
const HELD_FOR: u64 = 1_000_000_000;
