//! Pieces that wait: for the request that they may answer, or for the rest of a start line.
//!
//! A queue in order of arrival that never holds more than [`MAX_HELD_BYTES`] and [`MAX_HELD_PIECES`]. It
//! must never drop a piece by itself: what does not fit is refused, and the caller decides.

use std::collections::VecDeque;

use crate::identity::{Direction, Moment};
use crate::stream::{Content, GapCause, Piece};

/// How many bytes may wait on one connection. What waits is the beginning of a response whose request is
/// a record that comes some microseconds later: 64 KiB is the most that one call sends here. More: the
/// request is taken for unseen (`responses_without_request`).
pub const MAX_HELD_BYTES: usize = 64 * 1024;

/// How many pieces may wait on one connection: a head that is read byte by byte fits. More: as for
/// [`MAX_HELD_BYTES`].
pub const MAX_HELD_PIECES: usize = 1024;

/// A piece that owns its bytes.
#[derive(Debug)]
pub(super) struct HeldPiece {
    pub direction: Direction,
    offset: u64,
    content: HeldContent,
    starts_call: bool,
    ends_call: bool,
    pub moment: Moment,
}

#[derive(Debug)]
enum HeldContent {
    Bytes(Box<[u8]>),
    Gap { length: u64, cause: GapCause },
}

impl HeldPiece {
    pub fn as_piece(&self) -> Piece<'_> {
        let content = match &self.content {
            HeldContent::Bytes(bytes) => Content::Bytes(bytes),
            &HeldContent::Gap { length, cause } => Content::Gap { length, cause },
        };
        let Self { direction: _, offset, content: _, starts_call, ends_call, moment } = self;
        Piece { offset: *offset, content, starts_call: *starts_call, ends_call: *ends_call, moment }
    }
}

/// The pieces that wait.
#[derive(Debug, Default)]
pub(super) struct Held {
    pieces: VecDeque<HeldPiece>,
    bytes: usize,
    /// Bytes and gaps together.
    moved: u64,
}

impl Held {
    /// Keeps a copy of the piece; false if there is no room for it.
    #[must_use]
    pub fn push(&mut self, direction: Direction, piece: &Piece<'_>) -> bool {
        let content = match piece.content {
            Content::Bytes(bytes) if self.bytes.saturating_add(bytes.len()) > MAX_HELD_BYTES => return false,
            _ if self.pieces.len() >= MAX_HELD_PIECES => return false,
            Content::Bytes(bytes) => {
                self.bytes += bytes.len();
                HeldContent::Bytes(bytes.into())
            }
            Content::Gap { length, cause } => HeldContent::Gap { length, cause },
        };
        self.moved = self.moved.saturating_add(length(piece));
        let Piece { offset, content: _, starts_call, ends_call, moment } = *piece;
        let moment = *moment;
        self.pieces.push_back(HeldPiece { direction, offset, content, starts_call, ends_call, moment });
        true
    }

    pub fn first(&self) -> Option<&HeldPiece> {
        self.pieces.front()
    }

    pub fn pop(&mut self) -> Option<HeldPiece> {
        let piece = self.pieces.pop_front()?;
        if let HeldContent::Bytes(bytes) = &piece.content {
            self.bytes -= bytes.len();
        }
        self.moved = self.moved.saturating_sub(length(&piece.as_piece()));
        Some(piece)
    }

    /// Drops what waits of one direction; returns how many bytes had been moved.
    pub fn drop_direction(&mut self, direction: Direction) -> u64 {
        let mut dropped = 0u64;
        for _ in 0..self.pieces.len() {
            let Some(piece) = self.pop() else { break };
            if piece.direction == direction {
                dropped = dropped.saturating_add(length(&piece.as_piece()));
            } else {
                self.bytes += match &piece.content {
                    HeldContent::Bytes(bytes) => bytes.len(),
                    HeldContent::Gap { .. } => 0,
                };
                self.moved = self.moved.saturating_add(length(&piece.as_piece()));
                self.pieces.push_back(piece);
            }
        }
        dropped
    }

    /// The bytes of one direction that wait, and these, in order.
    pub fn joined_with(&self, direction: Direction, bytes: &[u8]) -> Vec<u8> {
        let mut joined = Vec::new();
        for piece in self.pieces.iter().filter(|piece| piece.direction == direction) {
            if let HeldContent::Bytes(bytes) = &piece.content {
                joined.extend_from_slice(bytes);
            }
        }
        joined.extend_from_slice(bytes);
        joined
    }

    pub fn holds(&self, direction: Direction) -> bool {
        self.pieces.iter().any(|piece| piece.direction == direction)
    }

    pub fn is_empty(&self) -> bool {
        self.pieces.is_empty()
    }

    /// Memory for bytes.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Bytes that were moved, gaps included.
    pub fn moved(&self) -> u64 {
        self.moved
    }
}

/// How many bytes a piece stands for.
pub(super) fn length(piece: &Piece<'_>) -> u64 {
    match piece.content {
        Content::Bytes(bytes) => bytes.len() as u64,
        Content::Gap { length, cause: _ } => length,
    }
}
