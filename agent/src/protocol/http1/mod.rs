//! HTTP/1.0 and HTTP/1.1: the bytes of one direction of one connection in, messages out.
//!
//! (contract; see the helper task)

use super::{RequestHead, ResponseHead};

/// Which kind of messages a direction carries.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Side {
    /// Requests.
    Requests,
    /// Responses.
    Responses,
}

/// What must be known of the request to frame its response (RFC 9112 §6.3).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Answers {
    /// A request with any other method.
    Ordinary,
    /// `HEAD`: the response has no body whatever its fields say.
    Head,
    /// `CONNECT`: a 2xx response makes the connection a tunnel.
    Connect,
    /// The request asked for an upgrade; only then does 101 end HTTP/1.
    Upgrade,
    /// The request was not seen.
    Unknown,
}

/// What a parser found. Offsets are stream offsets.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Event {
    /// The first byte of what may be a message came. If it turns out to be none, [`Event::Lost`] follows.
    Began {
        /// Its offset.
        offset: u64,
    },
    /// A request's head is complete.
    Request {
        /// The offset of the request's first byte.
        start: u64,
        /// The offset of the first byte after the head.
        end: u64,
        /// What it says.
        head: Box<RequestHead>,
        /// How its response will have to be framed.
        answers: Answers,
    },
    /// A response's head is complete. Interim responses (1xx other than 101) have no [`Event::Ended`].
    Response {
        /// The offset of the response's first byte.
        start: u64,
        /// The offset of the first byte after the head.
        end: u64,
        /// What it says.
        head: Box<ResponseHead>,
    },
    /// The message that began last is complete, or will not be.
    Ended {
        /// The offset of the first byte after the message.
        offset: u64,
        /// How it ended.
        ending: Ending,
        /// Bytes of its body on the wire, without chunk framing where that is known.
        body: u64,
    },
    /// From here on the bytes of this direction are not HTTP/1 (101, CONNECT).
    Switched {
        /// The first such byte.
        offset: u64,
    },
    /// From here on the parser does not know where a message begins; it will resynchronise.
    Lost {
        /// The first byte that is not understood.
        offset: u64,
        /// The broken rule, or that bytes were missing.
        why: Malformed,
    },
}

/// How a message ended.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Ending {
    /// As its framing said.
    Complete,
    /// The direction was closed before the framing said so.
    Truncated,
}

/// How much of a body is still to come, as far as its framing says.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Awaits {
    /// A head, or the rest of one.
    Head,
    /// So many bytes of a body of known length.
    Body(u64),
    /// So many bytes of a chunk, after which more framing comes.
    Chunk(u64),
    /// A line of chunk framing or a trailer.
    ChunkFraming,
    /// Everything until the connection ends.
    Close,
    /// Nothing that it understands: the connection was switched to something else.
    Nothing,
    /// The start of a message, wherever that may be.
    Resync,
}

/// Why bytes were not HTTP/1: one variant per rule, each a value of the label `cause` of
/// `spandrel_protocol_unparsed_bytes_total`. None carries bytes of the traffic.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq, thiserror::Error)]
pub enum Malformed {
    /// Bytes were missing where a start line, a header or chunk framing had to be.
    #[error("bytes were missing where framing had to be")]
    Gap,
}
