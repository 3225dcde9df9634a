//! Records of single calls in, byte streams with positions and known gaps out.
//!
//! (contract; the station's page comes with its implementation)

use crate::identity::Moment;

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
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
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
