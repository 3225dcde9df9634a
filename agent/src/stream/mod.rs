//! Records of single calls in, byte streams with positions and known gaps out.
//!
//! ```text
//!   Data ─▶ Streams ─▶ Track (one direction) ─▶ Event::Piece: bytes and gaps, in order, without holes
//!   Opened, late snapshots ─▶ Names ─▶ Event::Joined: two ends are one connection
//!   State, unix ends, exits ─▶ Event::Closed
//! ```
//! Invariants: pieces of a direction never overlap and never go back; every byte that the kernel says was
//! moved is in exactly one piece; a byte is never placed by the order in which records arrived. What is
//! held is bounded ([`Limits`]). It does no I/O and reads no clock.
//!
//! Where to read: [`Streams`] (what records do), `track` (order and gaps of one direction), `step` (which
//! positions are proven), `joining` and `names` (which two ends are one connection), `closing` (how ends end).
//!
//! What it cannot know: two threads that write into one *unix* stream at once, and whose records come in the
//! wrong order, are placed in that order, since nothing but the count of calls places them. On TCP the same
//! needs a lost or silenced record in the very first overlap of the connection, or an overlap that was under way
//! when the agent came.

mod closing;
mod end;
mod joining;
mod names;
mod step;
mod streams;
mod track;

#[doc(hidden)]
pub mod fuzz;
#[cfg(test)]
mod simulated;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;

use crate::identity::{Address, ConnectionId, Direction, Moment};

pub(crate) use streams::process;
pub use streams::{Ledger, Limits, Streams};

/// What the streams tell the stations behind them.
#[derive(Debug)]
pub enum Event<'a> {
    /// An end of a connection that was not known. It comes before any other event about it, and once more
    /// if its addresses were not known by then.
    Opened(&'a Opened),
    /// The next bytes or the next gap of a direction.
    Piece {
        /// Which end.
        connection: ConnectionId,
        /// Which way.
        direction: Direction,
        /// The piece.
        piece: Piece<'a>,
    },
    /// Two ends of this host are one connection: what `a` sends at offset `o`, `b` receives at
    /// `o + a_to_b`, and the other way round.
    Joined {
        /// One end.
        a: ConnectionId,
        /// The other.
        b: ConnectionId,
        /// Added to an offset of what `a` sends.
        a_to_b: i64,
        /// Added to an offset of what `b` sends.
        b_to_a: i64,
    },
    /// A task asked for a connection, which is not there yet.
    Connecting {
        /// Which.
        connection: ConnectionId,
        /// When, and who.
        at: &'a Moment,
        /// Where to.
        peer: Address,
    },
    /// A connection that was asked for came about.
    Connected {
        /// Which.
        connection: ConnectionId,
    },
    /// A connection that was asked for failed: it never was.
    ConnectFailed {
        /// Which.
        connection: ConnectionId,
        /// When.
        time: crate::identity::Monotonic,
        /// The socket's error: an errno, or 0 if the program closed the socket itself.
        errno: i32,
    },
    /// No more bytes will be read at this end, though it may still write.
    Finished {
        /// Which end.
        connection: ConnectionId,
        /// When.
        time: crate::identity::Monotonic,
    },
    /// An end is over; nothing about it follows.
    Closed {
        /// Which end.
        connection: ConnectionId,
        /// How.
        closed: &'a Closed,
    },
    /// An end is given up while it may go on: it was silent too long, or there are too many. If it does go
    /// on, it is opened again.
    Abandoned {
        /// Which end.
        connection: ConnectionId,
        /// When.
        time: crate::identity::Monotonic,
    },
    /// Bytes that were moved and will never be seen, for whoever asks where something went.
    Gap(&'a Gap),
}

/// An end of a connection.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Opened {
    /// Which.
    pub connection: ConnectionId,
    /// Its own address.
    pub local: Address,
    /// The other end's.
    pub peer: Address,
    /// It was seen from its first byte.
    pub born_here: bool,
    /// When it was opened, or met.
    pub time: crate::identity::Monotonic,
}

/// Bytes that were moved and are not here, with all that tells them apart from other bytes.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Gap {
    /// Which end.
    pub connection: ConnectionId,
    /// Its own address, if that is known.
    pub local: Option<Address>,
    /// The other end's, if that is known.
    pub peer: Option<Address>,
    /// Which way; none if the ring lost even that.
    pub direction: Direction,
    /// The TCP sequence number of the first byte, or the lower half of its offset.
    pub position: u32,
    /// How many.
    pub length: u64,
    /// Why.
    pub cause: GapCause,
}

/// One step of one direction of one connection, in order of position: pieces never overlap, never go
/// back, and leave no hole between them (a hole is a piece too: [`Content::Gap`]).
#[derive(Clone, Copy, Debug)]
pub struct Piece<'a> {
    /// The stream offset of the piece's first byte. Offsets of one direction only grow; the first is
    /// not 0 if the agent joined late.
    pub offset: u64,
    /// The bytes, or how many of them are missing.
    pub content: Content<'a>,
    /// True if the piece's first byte was the first byte that its call moved.
    pub starts_call: bool,
    /// True if the piece's last byte is known to be the last byte that its call moved.
    pub ends_call: bool,
    /// The call that moved the piece's last byte.
    pub moment: &'a Moment,
}

/// What a [`Piece`] holds.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Content<'a> {
    /// The bytes as they were moved.
    Bytes(&'a [u8]),
    /// So many bytes were moved and are not here.
    Gap {
        /// How many.
        length: u64,
        /// Why.
        cause: GapCause,
    },
}

/// Why bytes that were moved are not here. Each is a value of the label `cause`.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum GapCause {
    /// A policy of ours said that they are not needed (the middle of a body).
    Silent,
    /// The call was longer than what the policy takes of one call.
    Limit,
    /// The call has no buffer of the program's (`sendfile`, `splice`), or one whose place is not known
    /// (`io_uring`, a compat call).
    Unseen,
    /// A record was lost on the way: the ring was full, a page could not be read.
    Lost,
    /// Bytes that came, but whose place is not certain: two threads wrote into one socket at once.
    Uncertain,
    /// How many bytes are missing is not known, only how many on the wire they lay in: what is framed by a
    /// length must be found anew. Not of sockets, but of what was encrypted on them.
    Torn,
    /// Nothing is missing: so many bytes on the wire frame what was encrypted. Not of sockets, but of what was
    /// encrypted on them.
    Framing,
}

impl GapCause {
    /// All that the bytes of sockets have.
    pub const ALL: [Self; 5] = [Self::Silent, Self::Limit, Self::Unseen, Self::Lost, Self::Uncertain];

    /// Its name as a label.
    pub fn name(self) -> &'static str {
        match self {
            Self::Silent => "silent",
            Self::Limit => "limit",
            Self::Unseen => "unseen",
            Self::Lost => "lost",
            Self::Uncertain => "uncertain",
            Self::Torn => "torn",
            Self::Framing => "framing",
        }
    }
}

/// How a connection ended, seen from one end.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Closed {
    /// When.
    pub time: crate::identity::Monotonic,
    /// The socket's error, as an errno; 0 for an orderly end.
    pub errno: i32,
    /// The peer said that no more bytes come (a FIN was received) before the end.
    pub peer_finished: bool,
    /// This end finished first (it went to FIN_WAIT1 before the peer's FIN came).
    pub local_finished_first: bool,
    /// The process that owned the socket died: the kernel closed it.
    pub process_exited: bool,
}
