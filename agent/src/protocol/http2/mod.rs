//! HTTP/2 (RFC 9113): the bytes of one direction of one connection in, header sections and what else matters out.
//!
//! ```text
//!   Preface ──▶ Header ──▶ Payload ──▶ Header …        a header block lasts over its CONTINUATIONs
//!                 ▲           │ bytes missing where a frame had to begin, or a broken rule
//!                 └─ a chain ─ Lost ◀── a late join begins here
//! ```
//!
//! In: pieces and gaps in order of position. Out: [`Event`]s. What it says does not depend on where the calls cut
//! the stream. A gap inside DATA costs nothing; one inside a header block costs what the block said, and is a new
//! late join for [`hpack`]; one that covers a frame's header costs alignment, which [`alignment`] proves anew. Its
//! [`Ledger`] accounts for every byte that came in.
//!
//! It must never panic, whatever the bytes; reserve memory by a length the peer announced; read a clock or a setting;
//! or guess. It keeps at most one header block ([`MAX_BLOCK`]) and one table ([`hpack::MAX_TABLE`]); DATA is passed
//! on, not kept. Which sections are one exchange is decided in `exchange`; what they mean for the trace, in `stitch`.

pub mod alignment;
pub mod frame;
pub mod fuzz;
pub mod hpack;
mod ledger;
mod malformed;
mod parser;
mod section;
#[cfg(test)]
pub(crate) mod tests;

pub use ledger::Ledger;
pub use malformed::Malformed;
pub use parser::Parser;
pub use section::{Kind, Section, Unknown};

/// What every client sends first (RFC 9113 §3.4).
pub const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// The longest header block that is read, in bytes: as for a head of HTTP/1. Longer: [`Malformed::BlockTooLong`].
pub const MAX_BLOCK: usize = 64 * 1024;

/// The most bytes of kept values that leave the parser for one block, and
pub const MAX_LIST: usize = 64 * 1024;

/// the most kept fields; the others are counted ([`Ledger::fields_dropped`]). A block of references can stand for
/// three thousand times its length.
pub const MAX_FIELDS: usize = 64;

/// How many bytes of a kept value leave the parser; the rest is cut and the cut counted ([`Ledger::fields_cut`]).
pub const MAX_VALUE: usize = 8 * 1024;

/// What is known of a direction when its parser is made.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Start {
    /// It begins here, with the client's preface.
    Preface,
    /// It begins here, with a frame.
    Frame,
    /// It began before.
    Late,
}

/// What a parser found. Offsets are stream offsets.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Event<'a> {
    /// A header block is complete.
    Section {
        /// The stream.
        stream: u32,
        /// The offset of the first byte of its HEADERS frame.
        start: u64,
        /// What it says.
        section: Box<Section>,
        /// Whether the stream's direction ends with it.
        ends: Ends,
    },
    /// A header block is over, but bytes of it were missing, or it was too long.
    Unread {
        /// The stream.
        stream: u32,
        /// The offset of the first byte of its HEADERS frame.
        start: u64,
        /// Whether the stream's direction ends with it.
        ends: Ends,
    },
    /// A DATA frame begins.
    DataBegan {
        /// The stream.
        stream: u32,
    },
    /// The next bytes of it, without padding.
    Data {
        /// The stream.
        stream: u32,
        /// The bytes.
        bytes: &'a [u8],
    },
    /// The next bytes of it are not here.
    DataGap {
        /// The stream.
        stream: u32,
        /// How many; too high by the padding if the padding's length is not here either.
        length: u32,
    },
    /// A DATA frame is over, and the stream's direction ends with it.
    Ended {
        /// The stream.
        stream: u32,
    },
    /// `RST_STREAM`.
    Reset {
        /// The stream.
        stream: u32,
        /// Why (RFC 9113 §7), if that was seen.
        code: Option<u32>,
    },
    /// `GOAWAY`: streams of the receiver above `last` were not and will not be processed.
    GoAway {
        /// The last one that may be, if that was seen.
        last: Option<u32>,
        /// Why, if that was seen.
        code: Option<u32>,
    },
    /// `SETTINGS_MAX_FRAME_SIZE`: how long the *other* direction's frames may be.
    MaxFrame(u32),
    /// From here on the parser does not know where a frame begins; it looks for a chain. Frames may be missing.
    Lost {
        /// The first byte that is not understood.
        offset: u64,
        /// The broken rule, or that bytes were missing.
        why: Malformed,
    },
    /// A chain was found; frames are read from its end on. They may still lie inside a payload.
    Aligned {
        /// Where the next frame begins.
        offset: u64,
    },
    /// They do not: the chain has become longer than any frame.
    Proven,
}

/// Whether a stream's direction ends with a block.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Ends {
    /// It does.
    Yes,
    /// It goes on.
    No,
}
