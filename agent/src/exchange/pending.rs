//! One open exchange: what has come of it, and how it is closed.
//!
//! Closing is the only way out: it counts the exchange and hands it over. Nothing here may decide which
//! response belongs to which request.

use super::step::Mark;
use super::{Event, Exchange, FailureKind, Ledger, Role};
use crate::identity::{Direction, Monotonic};
use crate::protocol::http1::Answers;
use crate::protocol::{FieldName, RequestHead};
use crate::stream::Closed;

/// Where events and counts go.
pub(super) struct Sink<'a> {
    pub events: &'a mut Vec<Event>,
    pub ledger: &'a mut Ledger,
}

impl Sink<'_> {
    /// Counts an exchange that is over and hands it over. None ends before it began, whatever its records' order was.
    pub fn close(&mut self, mut exchange: Box<Exchange>) {
        if exchange.ended < exchange.began.time {
            exchange.ended = exchange.began.time;
            self.ledger.ends_clamped += 1;
        }
        self.ledger.close(&exchange);
        self.events.push(Event::Closed(exchange));
    }
}

/// An exchange that is not over.
#[derive(Debug)]
pub(super) struct Pending {
    pub exchange: Box<Exchange>,
    pub answers: Answers,
    pub mark: Mark,
    pub request: Progress,
    pub response: Progress,
    /// When a byte of it was moved last.
    pub moved: Monotonic,
    /// Memory for its head.
    pub bytes: usize,
}

/// How far a message has come.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Progress {
    /// Its head is not complete.
    Waiting,
    /// Its body is not.
    UnderWay,
    /// It is complete.
    Ended,
    /// Its end was not seen and will not be.
    Lost,
}

impl Pending {
    pub fn offset(&self) -> u64 {
        self.exchange.id.offset
    }

    /// True if nothing more will come of it.
    pub fn is_over(&self) -> bool {
        self.response == Progress::Ended && matches!(self.request, Progress::Ended | Progress::Lost)
    }

    /// Which direction it is waiting for, if it has no complete response.
    pub fn during(&self) -> Direction {
        let requests = request_direction(self.exchange.role);
        match (self.request, self.response) {
            (Progress::UnderWay, Progress::Waiting) => requests,
            _ => requests.opposite(),
        }
    }

    /// Hands it over as it is.
    pub fn close(self, sink: &mut Sink<'_>) {
        sink.close(self.exchange);
    }

    /// Hands it over with what was seen of it.
    pub fn close_incomplete(mut self, sink: &mut Sink<'_>) {
        self.exchange.incomplete = true;
        if self.response != Progress::Ended {
            self.exchange.ended = self.moved;
        }
        self.close(sink);
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

/// Memory that an open exchange with this head takes, about.
pub(super) fn size(head: &RequestHead) -> usize {
    let fields: usize = head.fields.0.iter().map(|(_, value)| value.len() + FIELD).sum();
    size_of::<Pending>() + size_of::<Exchange>() + head.method.len() + head.target.len() + fields
}

/// What a kept field takes besides its value.
const FIELD: usize = size_of::<(FieldName, Box<[u8]>)>();
