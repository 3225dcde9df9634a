//! One direction of one connection end: pieces of calls in any order in, an unbroken stream out.
//!
//! ```text
//!   the next byte       ─────▶ passed on
//!   a byte before it    ─────▶ discarded; whoever claims bytes that another call had is not believed
//!   a byte beyond it    ─────▶ held ──┬─ the hole fills: passed on
//!                                     ├─ the hole is explained: a gap, then passed on
//!                                     └─ it is not, for too long: a gap, then what is proven (see `step`) is
//!                                        passed on, and what is not is a gap too
//! ```
//! Positions can only be too high: a call that is seen late claims the bytes of a later one. So whatever is
//! misplaced leaves a hole before it, which nobody fills; that is why an unexplained hole is not just
//! skipped. It must never pass on the same offset twice.

use std::collections::BTreeMap;

use super::{Content, GapCause, Piece};
use crate::identity::{Moment, Monotonic};

/// How long a hole may wait for the record that fills it. A record is made at the end of its call, so
/// another thread's can overtake it; a thread can be preempted in between for a few scheduler ticks.
const HOLE_AGE: u64 = 50_000_000;

/// Bytes that one direction may hold behind a hole: what one call may capture, twice.
pub(super) const HELD_BYTES: usize = 128 * 1024;

/// Pieces that one direction may hold behind a hole: several times the threads that write at once.
pub(super) const HELD_PIECES: usize = 128;

/// A piece of a call, placed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Placed<'a> {
    /// Its stream offset.
    pub offset: u64,
    /// What it holds.
    pub content: Content<'a>,
    /// It begins its call.
    pub starts_call: bool,
    /// It ends its call.
    pub ends_call: bool,
    /// No other call was under way, so it is believed even if nobody fills a hole before it.
    pub proven: bool,
    /// Its call.
    pub moment: Moment,
}

/// What became of a piece.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Claim {
    /// It had its place to itself.
    Free,
    /// Another call had claimed some of its bytes.
    Clash,
}

impl Placed<'_> {
    fn length(&self) -> u64 {
        match self.content {
            Content::Bytes(bytes) => bytes.len() as u64,
            Content::Gap { length, .. } => length,
        }
    }
}

/// Why a hole may be there.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Explained {
    /// Nothing says that records are missing: they may still come.
    No,
    /// For this cause no record of them comes.
    As(GapCause),
}

#[derive(Debug)]
struct Held {
    bytes: Option<Box<[u8]>>,
    length: u64,
    cause: GapCause,
    starts_call: bool,
    ends_call: bool,
    proven: bool,
    moment: Moment,
}

impl Held {
    /// Bytes that came.
    fn size(&self) -> u64 {
        self.bytes.as_ref().map_or(0, |bytes| bytes.len() as u64)
    }
}

/// One direction.
#[derive(Debug, Default)]
pub(super) struct Track {
    next: Option<u64>,
    held: BTreeMap<u64, Held>,
    held_bytes: usize,
    /// When the first piece behind the hole was held.
    held_since: Monotonic,
    /// Bytes that came and were not passed on.
    discarded: u64,
}

impl Track {
    /// The offset of the next byte, if any was seen.
    pub fn next(&self) -> Option<u64> {
        self.next
    }

    /// Whether pieces wait behind a hole.
    pub fn holds(&self) -> bool {
        !self.held.is_empty()
    }

    /// Bytes held.
    pub fn held_bytes(&self) -> usize {
        self.held_bytes
    }

    /// Bytes that came and were not passed on, because their place was not certain; counted from now on
    /// anew.
    pub fn take_discarded(&mut self) -> u64 {
        std::mem::take(&mut self.discarded)
    }

    /// Takes a piece. `begins` is where the stream begins if nothing of it was seen before.
    pub fn place(
        &mut self,
        placed: &Placed<'_>,
        explained: Explained,
        begins: u64,
        pass: &mut dyn FnMut(Piece<'_>),
    ) -> Claim {
        let next = *self.next.get_or_insert(begins);
        if placed.offset == next && self.held.is_empty() {
            self.pass(placed, pass);
            return Claim::Free;
        }
        if placed.offset < next {
            // What was passed on stays; what is new has no certain place.
            self.discard(&placed.content);
            let end = placed.offset + placed.length();
            if end > next {
                self.gap(end - next, GapCause::Uncertain, &placed.moment, pass);
                self.release(pass);
            }
            return Claim::Clash;
        }
        if placed.offset > next {
            let Explained::As(cause) = explained else { return self.hold(placed, pass) };
            self.give_up(placed.offset, cause, pass);
            let next = self.next.unwrap_or(begins);
            if placed.offset > next {
                self.gap(placed.offset - next, cause, &placed.moment, pass);
            } else if placed.offset < next {
                return self.place(placed, Explained::No, begins, pass);
            }
        }
        self.pass(placed, pass);
        self.release(pass)
    }

    fn hold(&mut self, placed: &Placed<'_>, pass: &mut dyn FnMut(Piece<'_>)) -> Claim {
        let (length, bytes, cause) = match placed.content {
            Content::Bytes(bytes) => (bytes.len() as u64, Some(bytes), GapCause::Uncertain),
            Content::Gap { length, cause } => (length, None, cause),
        };
        if self.held.is_empty() {
            self.held_since = placed.moment.time;
        }
        let mut claim = Claim::Free;
        match self.held.entry(placed.offset) {
            std::collections::btree_map::Entry::Vacant(entry) => {
                let Placed { starts_call, ends_call, proven, moment, .. } = *placed;
                self.held_bytes += bytes.map_or(0, <[u8]>::len);
                entry.insert(Held {
                    bytes: bytes.map(Into::into),
                    length,
                    cause,
                    starts_call,
                    ends_call,
                    proven,
                    moment,
                });
            }
            // Neither is believed.
            std::collections::btree_map::Entry::Occupied(mut entry) => {
                let old = entry.get_mut();
                let before = old.bytes.take().map_or(0, |bytes| bytes.len());
                self.held_bytes -= before;
                self.discarded += (before + bytes.map_or(0, <[u8]>::len)) as u64;
                old.length = old.length.max(length);
                old.cause = GapCause::Uncertain;
                old.proven = false;
                claim = Claim::Clash;
            }
        }
        if self.held_bytes > HELD_BYTES || self.held.len() > HELD_PIECES {
            self.give_up(u64::MAX, GapCause::Uncertain, pass);
        }
        claim
    }

    /// Gives up a hole that nothing filled in time.
    pub fn expire(&mut self, now: Monotonic, pass: &mut dyn FnMut(Piece<'_>)) {
        if self.holds() && now.since(self.held_since) > HOLE_AGE {
            self.give_up(u64::MAX, GapCause::Uncertain, pass);
        }
    }

    /// Gives up every hole: nothing more will come.
    pub fn finish(&mut self, pass: &mut dyn FnMut(Piece<'_>)) {
        self.give_up(u64::MAX, GapCause::Uncertain, pass);
    }

    /// Says that bytes up to `offset` were moved and will not come.
    pub fn skip_to(
        &mut self,
        offset: u64,
        cause: GapCause,
        moment: &Moment,
        pass: &mut dyn FnMut(Piece<'_>),
    ) {
        self.give_up(u64::MAX, cause, pass);
        let next = *self.next.get_or_insert(0);
        if offset > next {
            self.gap(offset - next, cause, moment, pass);
        }
    }

    /// Gives up the holes before an offset, for a cause: they are gaps, and so is what is held behind them
    /// and not proven.
    fn give_up(&mut self, before: u64, cause: GapCause, pass: &mut dyn FnMut(Piece<'_>)) {
        while let Some(entry) = self.held.first_entry()
            && *entry.key() < before
        {
            let (offset, held) = entry.remove_entry();
            self.unhold(&held);
            let next = self.next.unwrap_or_default();
            if held.proven && offset >= next {
                if offset > next {
                    self.gap(offset - next, cause, &held.moment, pass);
                }
                self.pass_held(offset, &held, pass);
                continue;
            }
            self.discarded += held.size();
            let end = offset + held.length;
            if end > next {
                self.gap(end - next, GapCause::Uncertain, &held.moment, pass);
            }
        }
    }

    fn unhold(&mut self, held: &Held) {
        self.held_bytes -= held.bytes.as_ref().map_or(0, |bytes| bytes.len());
    }

    fn pass_held(&mut self, offset: u64, held: &Held, pass: &mut dyn FnMut(Piece<'_>)) {
        let content = match &held.bytes {
            Some(bytes) => Content::Bytes(bytes),
            None => Content::Gap { length: held.length, cause: held.cause },
        };
        let Held { starts_call, ends_call, proven, moment, .. } = *held;
        self.pass(&Placed { offset, content, starts_call, ends_call, proven, moment }, pass);
    }

    fn discard(&mut self, content: &Content<'_>) {
        if let Content::Bytes(bytes) = content {
            self.discarded += bytes.len() as u64;
        }
    }

    /// Passes on what is held, as far as there is no hole.
    fn release(&mut self, pass: &mut dyn FnMut(Piece<'_>)) -> Claim {
        let mut claim = Claim::Free;
        while let (Some(next), Some(entry)) = (self.next, self.held.first_entry()) {
            let offset = *entry.key();
            if offset > next {
                break;
            }
            let held = entry.remove();
            self.unhold(&held);
            if offset == next {
                self.pass_held(offset, &held, pass);
                continue;
            }
            claim = Claim::Clash;
            self.discarded += held.size();
            let end = offset + held.length;
            if end > next {
                self.gap(end - next, GapCause::Uncertain, &held.moment, pass);
            }
        }
        claim
    }

    fn gap(&mut self, length: u64, cause: GapCause, moment: &Moment, pass: &mut dyn FnMut(Piece<'_>)) {
        let offset = self.next.unwrap_or_default();
        let content = Content::Gap { length, cause };
        let (starts_call, ends_call, proven) = (false, false, false);
        self.pass(&Placed { offset, content, starts_call, ends_call, proven, moment: *moment }, pass);
    }

    fn pass(&mut self, placed: &Placed<'_>, pass: &mut dyn FnMut(Piece<'_>)) {
        self.next = Some(placed.offset + placed.length());
        let Placed { offset, content, starts_call, ends_call, proven: _, moment } = placed;
        let (starts_call, ends_call) = (*starts_call, *ends_call);
        pass(Piece { offset: *offset, content: *content, starts_call, ends_call, moment });
    }
}
