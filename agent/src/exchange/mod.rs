//! Requests and responses of one connection in, timed exchanges out.
//!
//! (contract; see the helper task)

use crate::identity::{ConnectionId, Direction, Moment, Monotonic, Role};
use crate::protocol::{RequestHead, ResponseHead};

/// One exchange, unique in the life of the agent.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct ExchangeId {
    /// The end that saw it.
    pub connection: ConnectionId,
    /// The stream offset of the request's first byte. Both ends of a connection agree on it up to a
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
        }
    }
}
