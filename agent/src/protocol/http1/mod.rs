//! HTTP/1.0 and HTTP/1.1: the bytes of one direction of one connection in, messages out.
//!
//! ```text
//!            start line + fields                body as RFC 9112 §6.3 frames it
//!   Start ───────────────────────▶ Body ────────────────────────────────────────▶ Start
//!     ▲                             │ bytes missing where framing had to be, or a broken rule
//!     └──── a provable start ─ Resync ◀┘            101, 2xx to CONNECT ─▶ Switched
//! ```
//!
//! In: pieces and gaps in order of position, and, for each final response, what kind of request it
//! answers. Out: [`Event`]s whose offsets never go back. What it says does not depend on where the
//! calls cut the stream; only *which* calls begin where is used, to find a place again (see
//! [`Parser`]). Its [`Ledger`] accounts for every byte that came in.
//!
//! It must never panic, whatever the bytes; reserve memory by a length the peer announced; read a clock
//! or a setting; or guess: while it is lost it yields nothing, and counts what it skips. It keeps at
//! most [`MAX_HEAD`] bytes; bodies are measured, not kept. Which response answers which request is
//! decided in `exchange`; what a header means for the trace, in `stitch`.

mod chunked;
mod framing;
pub mod fuzz;
mod head;
mod ledger;
mod malformed;
mod parser;
mod start_line;
#[cfg(test)]
mod tests;

pub use ledger::Ledger;
pub use malformed::Malformed;
pub use parser::Parser;
pub use start_line::{Likeness, looks_like};

use super::{RequestHead, ResponseHead};

/// The longest head that is understood, from the start line to the empty line, in bytes. It is what the
/// kernel side sends at most of one call, and eight times what servers accept by default. Longer:
/// [`Malformed::HeadTooLong`].
pub const MAX_HEAD: usize = 64 * 1024;

/// The longest method that is understood, in bytes: more than three times the longest registered one
/// (`UPDATEREDIRECTREF`). It ends the search in text that is no request early. Longer:
/// [`Malformed::Method`].
pub const MAX_METHOD: usize = 64;

/// The longest line with a chunk's size and extensions, in bytes, as Go's `net/http` limits it. Nothing
/// of it is kept. Longer: [`Malformed::ChunkLineTooLong`].
pub const MAX_CHUNK_LINE: usize = 4 * 1024;

/// The longest trailer section, in bytes: a head's length. Nothing of it is kept. Longer:
/// [`Malformed::TrailersTooLong`].
pub const MAX_TRAILERS: usize = MAX_HEAD;

/// How many bytes of a kept field's value leave the parser; the rest is cut and the cut counted
/// ([`Ledger::fields_cut`]). A `tracestate` has at most 32 members of 512 bytes, those seen are far shorter.
pub const MAX_VALUE: usize = 8 * 1024;

/// How many kept fields of one head leave the parser; the others are counted
/// ([`Ledger::fields_dropped`]). There are 9 names; only the forwarding ones come more than once.
pub const MAX_FIELDS: usize = 64;

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
    /// The request was not seen. The response is framed by its own fields, and 101 ends HTTP/1 (a server
    /// sends it only when asked). It may have been a response to `HEAD`, so as long as nothing of its
    /// body was seen, a call that starts with a status line shows that there is none.
    Unknown,
}

/// What a parser found. Offsets are stream offsets.
///
/// A message is [`Event::Began`], then its head, then [`Event::Ended`]; an interim response has no end of
/// its own. [`Event::Lost`] and [`Event::Switched`] can stand in the place of what is still to come.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Event {
    /// The first byte of what may be a message came. If it turns out to be none, [`Event::Lost`] or
    /// [`Event::Switched`] follows; if the direction ends before the head does, [`Event::Ended`].
    Began {
        /// Its offset. Empty lines before a message are not part of it.
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
        /// Bytes of its body on the wire, without chunk framing where that is known. Bytes that were
        /// moved but not seen count, too.
        body: u64,
    },
    /// From here on the bytes of this direction are not HTTP/1 (101, CONNECT).
    Switched {
        /// The first such byte.
        offset: u64,
    },
    /// From here on the parser does not know where a message begins; it will resynchronise. A message
    /// that began and has not ended is over, and its end is not known.
    Lost {
        /// The first byte that is not understood: that of the message if its head is broken.
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
    /// The direction ended, or went over to another protocol, before the framing said so.
    Truncated,
}

/// How much of a body is still to come, as far as its framing says.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Awaits {
    /// A head, or the rest of one; or what shows whether a response of [`Answers::Unknown`] has a body.
    Head,
    /// So many bytes of a body of known length.
    Body(u64),
    /// So many bytes of a chunk, after which more framing comes.
    Chunk(u64),
    /// A line of chunk framing or a trailer.
    ChunkFraming,
    /// Everything until the connection ends.
    Close,
    /// Nothing that it understands: the connection was switched to something else, or has ended.
    Nothing,
    /// The start of a message, wherever that may be.
    Resync,
}
