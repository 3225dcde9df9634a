//! One stream: what has come of its two directions, and what is said of it when it is over.
//!
//! The two directions are taken as they come, in any order; which of them is the request's follows from who sent it. It must
//! never take the end of one direction for that of the other.

use crate::exchange::pending::{Progress, size};
use crate::exchange::{Exchange, ExchangeId, FailureKind};
use crate::identity::{Direction, Moment, Monotonic, Role};
use crate::protocol::grpc::{Framing, Messages};
use crate::protocol::http2::{Ends, Section, Unknown};
use crate::protocol::{FieldName, Fields, RequestHead, ResponseHead, Version};

/// What is known of an exchange because it is a stream of HTTP/2.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct StreamFacts {
    /// The stream's number.
    pub stream: u32,
    /// The kept fields of the response's trailers, if there were any.
    pub trailers: Option<Fields>,
    /// Messages that the client sent, if it is a gRPC call.
    pub request_messages: Messages,
    /// Messages that the server sent, if it is a gRPC call.
    pub response_messages: Messages,
    /// It was reset.
    pub reset: Option<Reset>,
    /// It is a gRPC call although it does not say so: its content type is hidden by a late join, and something else
    /// proves it (see `calls`).
    pub grpc: bool,
    /// Some of the request's header block is not known: its table entries were inserted before we came.
    pub request_unknown: bool,
    /// Some of the response's header block or trailers is not known.
    pub response_unknown: bool,
    /// The table entry that holds the path, if that is certain: the same number is the same path on this connection.
    pub path_entry: Option<i64>,
    /// The lines that are not known, in case a table is read that holds them.
    pub hidden: Vec<Hidden>,
    /// Some of it is known from a table that was read in a process's memory.
    pub recalled: bool,
}

/// A line of which something is not known.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Hidden {
    /// Where it stands.
    pub part: Part,
    /// The table entry that holds the line, or only its name; none if that is not known either.
    pub entry: Option<i64>,
    /// Its value, if only the name is not known.
    pub number: Option<Box<[u8]>>,
}

/// A header section of a stream.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Part {
    /// The request's head.
    Request,
    /// The response's head.
    Response,
    /// The response's trailers.
    Trailers,
}

/// The lines of a section that are not known.
fn hidden(part: Part, unknown: &Unknown) -> impl Iterator<Item = Hidden> {
    let lines = unknown.entries.iter().map(move |entry| Hidden { part, entry: Some(*entry), number: None });
    let numbers = unknown.numbers.iter().map(move |(entry, number)| Hidden {
        part,
        entry: Some(*entry),
        number: Some(number.clone()),
    });
    let listed = unknown.entries.len() + unknown.numbers.len();
    let all = usize::from(unknown.lines) + usize::from(unknown.names) + usize::from(unknown.dropped);
    let rest = (listed < all).then_some(Hidden { part, entry: None, number: None });
    lines.chain(numbers).chain(rest)
}

/// `RST_STREAM`.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Reset {
    /// Why (RFC 9113 §7), if that was seen.
    pub code: Option<u32>,
    /// Which way it went.
    pub by: Direction,
    /// When.
    pub at: Monotonic,
}

/// A stream that is not over.
#[derive(Debug)]
pub(super) struct Call {
    pub stream: u32,
    /// None as long as its request has not been seen.
    pub exchange: Option<Box<Exchange>>,
    pub request: Half,
    pub response: Half,
    /// The final response's head, and the call that moved its first byte, before the request is there.
    pub early: Option<(Box<ResponseHead>, Moment)>,
    pub facts: StreamFacts,
    /// A number in the trailers that is `grpc-status` if this is a gRPC call.
    number: Option<Box<[u8]>>,
    /// If the request's content type is not known: the table entries of which one must be it, in order.
    pub hidden: Vec<i64>,
    /// Frames of the requests' direction were lost when its request was over: a reset may be among them.
    pub reset_unseen: bool,
    /// When a byte of it was moved last.
    pub moved: Monotonic,
    /// Memory for its heads.
    pub bytes: usize,
}

/// One direction of a stream.
#[derive(Clone, Copy, Debug)]
pub(super) struct Half {
    pub progress: Progress,
    pub framing: Framing,
    /// Bytes of DATA.
    pub body: u64,
    /// The call that moved its last byte.
    pub ended: Option<Moment>,
    /// Frames of it may be missing.
    pub doubtful: bool,
}

impl Default for Half {
    fn default() -> Self {
        Self {
            progress: Progress::Waiting,
            framing: Framing::default(),
            body: 0,
            ended: None,
            doubtful: false,
        }
    }
}

impl Half {
    /// The direction ended in this call.
    pub fn end(&mut self, ends: Ends, at: &Moment) {
        if ends == Ends::Yes && self.progress != Progress::Ended {
            (self.progress, self.ended) = (Progress::Ended, Some(*at));
        }
    }
}

impl Call {
    pub fn new(stream: u32, at: &Moment) -> Self {
        Self {
            stream,
            exchange: None,
            request: Half::default(),
            response: Half::default(),
            early: None,
            facts: StreamFacts { stream, ..StreamFacts::default() },
            number: None,
            hidden: Vec::new(),
            reset_unseen: false,
            moved: at.time,
            bytes: size_of::<Self>(),
        }
    }

    /// Its request came in HTTP/1.
    pub fn adopt(&mut self, mut exchange: Box<Exchange>) {
        exchange.request.version = Version::Http2;
        self.request.progress = Progress::Ended;
        self.request.ended = exchange.request_ended;
        self.request.body = exchange.request_body;
        self.bytes += size(&exchange.request);
        self.exchange = Some(exchange);
    }

    /// The request's head is complete.
    pub fn open(
        &mut self,
        id: ExchangeId,
        role: Role,
        began: Moment,
        at: &Moment,
        section: Section,
    ) -> &RequestHead {
        let Section { method, path, status: _, fields, kind: _, unknown } = section;
        self.facts.request_unknown = !unknown.is_nothing();
        self.facts.hidden.extend(hidden(Part::Request, &unknown));
        if path.is_none() {
            self.facts.path_entry = match unknown.entries[..] {
                [only] if unknown.lines == 1 => Some(only),
                _ => None,
            };
        }
        if unknown.names == 0 && fields.first(FieldName::ContentType).is_none() {
            self.hidden = unknown.entries;
            self.hidden.sort_unstable();
        }
        let request = Box::new(RequestHead {
            method: method.unwrap_or_default(),
            target: path.unwrap_or_default(),
            version: Version::Http2,
            fields,
        });
        self.request.progress = Progress::UnderWay;
        self.moved = self.moved.max(at.time);
        self.bytes += size(&request);
        let exchange = self.exchange.insert(Box::new(Exchange::opened(id, role, began, at, request)));
        &exchange.request
    }

    /// Something of the response's head is not known.
    pub fn hide_response(&mut self, unknown: &Unknown) {
        self.facts.response_unknown |= !unknown.is_nothing();
        self.facts.hidden.extend(hidden(Part::Response, unknown));
    }

    /// A section of the response's direction that is not the final head.
    pub fn trailers(&mut self, section: Section) {
        let Section { method: _, path: _, status: _, fields, kind: _, unknown } = section;
        self.facts.response_unknown |= !unknown.is_nothing();
        self.facts.hidden.retain(|line| line.part != Part::Trailers);
        self.facts.hidden.extend(hidden(Part::Trailers, &unknown));
        // If only one name is unknown, it may be `grpc-status`: in a gRPC call it must be.
        self.number = unknown.number.filter(|_| {
            (unknown.names, unknown.lines) == (1, 0) && fields.first(FieldName::GrpcStatus).is_none()
        });
        self.bytes += fields.0.iter().map(|(_, value)| value.len()).sum::<usize>();
        self.facts.trailers = Some(fields);
    }

    /// True if nothing more will come of it.
    pub fn is_over(&self) -> bool {
        self.response.progress == Progress::Ended
            && matches!(self.request.progress, Progress::Ended | Progress::Lost)
    }

    /// The exchange with all that is known of it; none if its request was not seen.
    pub fn into_exchange(self) -> Option<Box<Exchange>> {
        let Self {
            stream: _,
            exchange,
            request,
            response,
            early: _,
            mut facts,
            number,
            hidden: _,
            reset_unseen,
            moved,
            bytes: _,
        } = self;
        let mut exchange = exchange?;
        if let (Some(number), Some(trailers)) = (number, &mut facts.trailers)
            && (facts.grpc || says_grpc(&exchange))
        {
            trailers.0.push((FieldName::GrpcStatus, number));
        }
        facts.request_messages = messages(&request);
        facts.response_messages = messages(&response);
        exchange.request_ended = request.ended;
        (exchange.request_body, exchange.response_body) = (request.body, response.body);
        exchange.ended = match (&exchange.failure, response.ended) {
            (Some(failure), _) => failure.at,
            (None, Some(ended)) => ended.time,
            (None, None) => moved,
        };
        // A response without a head was not read, or is none.
        exchange.incomplete |= exchange.failure.is_none()
            && (request.doubtful || response.doubtful || exchange.response.is_none());
        exchange.incomplete |=
            reset_unseen && exchange.failure.is_none() && response.progress != Progress::Ended;
        exchange.stream = Some(Box::new(facts));
        Some(exchange)
    }

    /// Which direction it is waiting for (from this end), if it has no complete response.
    pub fn during(&self, requests: Direction) -> Direction {
        match (self.request.progress, self.response.progress) {
            (Progress::UnderWay, Progress::Waiting) => requests,
            _ => requests.opposite(),
        }
    }
}

/// What a reset with this code says of an exchange that was not over.
pub(super) fn reset_kind(code: Option<u32>) -> FailureKind {
    FailureKind::Reset(code.unwrap_or(u32::MAX))
}

/// Whether the content type of the request or the response says that this is gRPC.
pub(super) fn says_grpc(exchange: &Exchange) -> bool {
    let response = exchange.response.as_ref().map(|head| &head.fields);
    let fields = [Some(&exchange.request.fields), response];
    let mut kinds = fields.into_iter().flatten().filter_map(|fields| fields.first(FieldName::ContentType));
    kinds.next().is_some_and(|kind| kind.starts_with(b"application/grpc"))
}

fn messages(half: &Half) -> Messages {
    let mut messages = half.framing.messages();
    messages.at_least |= half.doubtful;
    messages
}
