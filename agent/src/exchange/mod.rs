//! Requests and responses of one connection in, timed exchanges out.
//!
//! In: the pieces of both directions of one connection end as `stream` yields them, and its end. Out: an
//! [`Event`] when a request's head is complete, when its response begins, and when both are over or have
//! failed; and wishes ([`Want`]): which of the bytes to come are worth sending.
//!
//! ```text
//!   piece ─▶ classify ─▶ conversation: http1: two parsers ─▶ pairing, in order ───▶ events
//!                                      http2: two parsers ─▶ calls, by stream ────▶ events
//!                                    fastcgi: two parsers ─▶ one request at a time ▶ events
//!                                      what they await ───────────────────────────▶ wishes
//! ```
//!
//! What holds: every `Opened` has exactly one `Closed`; the ids of a connection grow; a response belongs to
//! the request that it is given to, or to none (`pairing` and `step` say when that is proven); the [`Ledger`]
//! balances after every step; memory is bounded by [`MAX_HELD_BYTES`], [`MAX_UNANSWERED`] and
//! [`MAX_UNANSWERED_BYTES`]. It must never read a clock, link one connection with another, or invent a
//! response.

mod classify;
mod connection;
mod conversation;
mod fastcgi;
pub mod fuzz;
mod held;
mod http1;
mod http2;
mod ledger;
mod pairing;
mod pending;
mod step;
#[cfg(test)]
mod tests;
mod wishes;

pub use connection::Connection;
pub use conversation::Parsers;
pub use held::{MAX_HELD_BYTES, MAX_HELD_PIECES};
pub use http2::{Hidden, Part, Reset, StreamFacts};
pub use ledger::Ledger;

use std::sync::Arc;

use crate::identity::{ConnectionId, Direction, Moment, Monotonic, Role};
pub use crate::protocol::http2::hpack::TableEntry;
use crate::protocol::{RequestHead, ResponseHead};

/// How many requests may be unanswered on one connection. Pipelining clients send tens; a connection with
/// more than this is given up ([`Other::GivenUp`], [`Ledger::requests_refused`]).
pub const MAX_UNANSWERED: usize = 1000;

/// How many bytes the heads of unanswered requests may take on one connection: sixteen of the longest.
/// More: as for [`MAX_UNANSWERED`].
pub const MAX_UNANSWERED_BYTES: usize = 16 * crate::protocol::http1::MAX_HEAD;

/// What a [`Connection`] has to say.
#[derive(Debug, Default)]
pub struct Output {
    /// For `stitch`, in order.
    pub events: Vec<Event>,
    /// For the kernel side.
    pub wishes: Vec<Want>,
    /// The HPACK tables of both ends' processes are to be searched for, and all that were found told to the connection
    /// ([`Connection::tables`]).
    pub tables: bool,
}

/// The HPACK tables that were found in the processes of both ends.
#[derive(Clone, Debug, Default)]
pub struct Tables {
    /// When the search began, [`QUIET`] after it was asked for or later.
    pub began: Monotonic,
    /// When it ended.
    pub ended: Monotonic,
    /// Those of which all tables were found.
    pub processes: Vec<Searched>,
    /// A search did not read all it should have: another may.
    pub incomplete: bool,
}

/// All tables of a process at an end of the connection.
#[derive(Clone, Debug)]
pub struct Searched {
    /// The direction whose table it must have; both if none is said.
    pub of: Option<Direction>,
    /// It can only be a connection of gRPC's.
    pub grpc_only: bool,
    /// The tables.
    pub tables: Vec<Table>,
}

/// A table.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Table {
    /// Its entries, the newest first.
    pub entries: Arc<[TableEntry]>,
    /// How large it may be.
    pub limit: usize,
}

/// How long nothing may have been inserted before a table is read, in nanoseconds: what a program has encoded is written, and what
/// it has read is decoded, far sooner.
pub const QUIET: u64 = 500_000_000;

/// From now on, this policy is right for this direction of the connection. It is an optimisation: nothing
/// goes wrong if it takes effect late, or not at all.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Want {
    /// The direction.
    pub direction: Direction,
    /// What to send of it.
    pub policy: Policy,
}

/// What the kernel side sends of one direction of a connection.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Policy {
    /// Of each call the blocks of 4 KiB up to and including the one with the first empty line, at most
    /// 64 KiB. What every connection starts with.
    Heads,
    /// The first 4 KiB of each call.
    FirstBlock,
    /// Up to 64 KiB of each call.
    Everything,
    /// Calls that end before this stream offset make no record. One whose end reaches it makes one, with the
    /// bytes from there on, as for `Heads`; so do all later ones.
    From {
        /// The offset.
        offset: u64,
    },
    /// Nothing, for good.
    Nothing,
    /// HTTP/2: all of a frame but the payload of DATA, of which the first 16 bytes. A frame header begins at this stream
    /// offset; one that is behind says nothing new. Where the kernel side does not know where a frame begins, as
    /// [`Policy::Everything`].
    Frames {
        /// The offset.
        offset: u64,
    },
    /// TLS: headers of records, and whole records but for long ones of application data that end before this stream offset.
    /// Where the kernel side does not know where a record begins, as [`Policy::Everything`].
    Records {
        /// The offset.
        offset: u64,
    },
}

/// What a connection speaks.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Classified {
    /// Not known yet.
    Unknown,
    /// HTTP/1.0 or HTTP/1.1.
    Http1,
    /// HTTP/2.
    Http2,
    /// FastCGI.
    FastCgi,
    /// Nothing that we follow: no more is asked for.
    Other(Other),
}

/// Why a connection is not followed.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Other {
    /// Neither direction looks like a protocol that we know.
    Unrecognised,
    /// It was HTTP/1 and became something else (WebSocket, a tunnel).
    Switched,
    /// More requests were unanswered than a bound allows.
    GivenUp,
}

/// One exchange, unique in the life of the agent.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct ExchangeId {
    /// The end that saw it.
    pub connection: ConnectionId,
    /// The stream offset of the request's first byte; in HTTP/2 that of its HEADERS frame. Both ends of a connection agree on it up to a
    /// constant that `stream` knows.
    pub offset: u64,
}

/// What `stitch` learns of an exchange, in this order: `Opened`, `Responding` (unless there is no
/// response), `Closed`.
#[derive(Clone, Debug)]
pub enum Event {
    /// A request's head is complete.
    Opened {
        /// Which.
        id: ExchangeId,
        /// Whether this process read or wrote it.
        role: Role,
        /// The call that moved the request's first byte: when, which process and thread.
        began: Moment,
        /// The call that completed the head.
        at: Moment,
        /// What it says.
        head: Box<RequestHead>,
        /// Whether the call that completed the head carried other requests as well.
        carried: Carried,
    },
    /// The first byte of the final response was moved.
    Responding {
        /// Which.
        id: ExchangeId,
        /// The call that moved it.
        at: Moment,
    },
    /// It is over.
    Closed(Box<Exchange>),
}

/// Whether a call was about one request alone. What is known of the task that made a call may be used for at most
/// one request.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Carried {
    /// All of the call was seen, and it carried the request's head and no other's. (HTTP/1: it always counts as this.)
    Alone,
    /// It carried several heads, or that is not known.
    Shared,
}

/// An exchange that is over.
#[derive(Clone, Debug)]
pub struct Exchange {
    /// Which.
    pub id: ExchangeId,
    /// Whether this process read or wrote the request.
    pub role: Role,
    /// The call that moved the request's first byte.
    pub began: Moment,
    /// The call that moved the request's last byte, if that was seen.
    pub request_ended: Option<Moment>,
    /// The call that moved the final response's first byte.
    pub responded: Option<Moment>,
    /// The call that moved the response's last byte, or when the exchange failed.
    pub ended: Monotonic,
    /// What the request says.
    pub request: Box<RequestHead>,
    /// What the final response says.
    pub response: Option<Box<ResponseHead>>,
    /// Bytes of the request's body.
    pub request_body: u64,
    /// Bytes of the response's body.
    pub response_body: u64,
    /// What went wrong, if anything did.
    pub failure: Option<Failure>,
    /// The exchange became something else (WebSocket, CONNECT) when the response's head was complete;
    /// that is where it ends.
    pub switched: bool,
    /// Some bytes of it were missing, so its end may be that of the last byte seen.
    pub incomplete: bool,
    /// What is known of it because it is a stream of HTTP/2.
    pub stream: Option<Box<StreamFacts>>,
}

impl Exchange {
    /// One of which the request's head is known and nothing else: `at` is the call that completed it.
    fn opened(id: ExchangeId, role: Role, began: Moment, at: &Moment, request: Box<RequestHead>) -> Self {
        Self {
            id,
            role,
            began,
            request_ended: None,
            responded: None,
            ended: at.time,
            request,
            response: None,
            request_body: 0,
            response_body: 0,
            failure: None,
            switched: false,
            incomplete: false,
            stream: None,
        }
    }
}

/// What went wrong with an exchange, where, and when.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Failure {
    /// What.
    pub kind: FailureKind,
    /// When it was noticed.
    pub at: Monotonic,
    /// While which direction was under way (from this end).
    pub during: Direction,
}

/// Each is a value of `error.type`.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum FailureKind {
    /// `ECONNRESET`, `EPIPE`: the peer reset the connection.
    ConnectionReset,
    /// `ETIMEDOUT`: the kernel gave up.
    TimedOut,
    /// The connection was closed in order, but before the response was complete.
    ConnectionClosed,
    /// This end closed the connection before the response was complete.
    Cancelled,
    /// The process died.
    ProcessExited,
    /// Any other error of the socket: an errno.
    Socket(i32),
    /// `RST_STREAM` with this code (RFC 9113 §7); one beyond those if it was not seen.
    Reset(u32),
    /// `GOAWAY` said that the request was not processed.
    Refused,
}

impl FailureKind {
    /// The value of `error.type`.
    pub fn error_type(self) -> &'static str {
        match self {
            Self::ConnectionReset => "connection_reset",
            Self::TimedOut => "timeout",
            Self::ConnectionClosed => "connection_closed",
            Self::Cancelled => "cancelled",
            Self::ProcessExited => "process_exited",
            Self::Socket(_) => "socket_error",
            // The codes' names in RFC 9113 §7.
            Self::Reset(code) => match code {
                0 => "NO_ERROR",
                1 => "PROTOCOL_ERROR",
                2 => "INTERNAL_ERROR",
                3 => "FLOW_CONTROL_ERROR",
                4 => "SETTINGS_TIMEOUT",
                5 => "STREAM_CLOSED",
                6 => "FRAME_SIZE_ERROR",
                7 => "REFUSED_STREAM",
                8 => "CANCEL",
                9 => "COMPRESSION_ERROR",
                10 => "CONNECT_ERROR",
                11 => "ENHANCE_YOUR_CALM",
                12 => "INADEQUATE_SECURITY",
                13 => "HTTP_1_1_REQUIRED",
                _ => "stream_reset",
            },
            Self::Refused => "goaway",
        }
    }
}
