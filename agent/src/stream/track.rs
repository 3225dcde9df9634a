//! One direction of one connection end: pieces of calls in any order in, an unbroken stream out.
//!
//! ```text
//!             the next byte                    a byte beyond the next
//!   in order ────────────────▶ passed on    ──────────────────────────▶ held ──┬─ the hole fills: passed on
//!                                                                              ├─ the hole is explained: a gap,
//!                                                                              │  then passed on
//!                                                                              └─ it is not: all of it a gap
//! ```
//! An unexplained hole means that threads wrote at once without a lock, so that positions are those of
//! somebody else's bytes: what was held behind it is given up too, rather than believed. It must never
//! pass on the same offset twice.

use std::collections::BTreeMap;

use super::{Content, GapCause, Piece};
use crate::identity::{Moment, Monotonic};

/// How long a hole may wait for the record that fills it. A record is made at the end of its call, so
/// another thread's can overtake it; a thread can be preempted in between for a few scheduler ticks.
const HOLE_AGE: u64 = 50_000_000;

/// Bytes that one direction may hold behind a hole: what one call may capture, twice.
const HELD_BYTES: usize = 128 * 1024;

/// A piece of a call, placed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Placed<'a> {
    /// Its stream offset.
    pub offset: u64,
    /// What it holds.
    pub content: Content<'a>,
    /// It begins its call.
    pub starts_call: bool,
    /// Its call.
    pub moment: Moment,
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
    /// A policy of ours silenced the bytes before the offset of this piece.
    Silent,
    /// The kernel says that records were lost before this one.
    Lost,
}

#[derive(Debug)]
struct Held {
    bytes: Option<Box<[u8]>>,
    length: u64,
    cause: GapCause,
    starts_call: bool,
    moment: Moment,
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

    /// Bytes that came and were not passed on, because their place was not certain.
    pub fn discarded(&self) -> u64 {
        self.discarded
    }

    /// Takes a piece. `begins` is where the stream begins if nothing of it was seen before.
    pub fn place(
        &mut self,
        placed: Placed<'_>,
        explained: Explained,
        begins: u64,
        pass: &mut dyn FnMut(Piece<'_>),
    ) {
        let next = *self.next.get_or_insert(begins);
        let end = placed.offset + placed.length();
        if placed.offset == next && self.held.is_empty() {
            return self.pass(&placed, pass);
        }
        if placed.offset < next {
            // Two calls claim the same bytes. What was passed on stays; what is new has no certain place.
            self.discard(&placed.content);
            if end > next {
                self.gap(end - next, GapCause::Uncertain, &placed.moment, pass);
                self.release(pass);
            }
            return;
        }
        if placed.offset == next {
            self.pass(&placed, pass);
            return self.release(pass);
        }
        match explained {
            Explained::Silent | Explained::Lost => {
                let cause = if explained == Explained::Silent { GapCause::Silent } else { GapCause::Lost };
                self.release(pass);
                let hole = placed.offset.saturating_sub(self.next.unwrap_or(next));
                if hole > 0 {
                    self.give_up_before(placed.offset, cause, &placed.moment, pass);
                }
                self.place(placed, Explained::No, begins, pass);
            }
            Explained::No => self.hold(placed, pass),
        }
    }

    fn hold(&mut self, placed: Placed<'_>, pass: &mut dyn FnMut(Piece<'_>)) {
        let (length, bytes, cause) = match placed.content {
            Content::Bytes(bytes) => (bytes.len() as u64, Some(bytes.into()), GapCause::Uncertain),
            Content::Gap { length, cause } => (length, None, cause),
        };
        let size = if bytes.is_some() { length as usize } else { 0 };
        if self.held.is_empty() {
            self.held_since = placed.moment.time;
        }
        let held = Held { bytes, length, cause, starts_call: placed.starts_call, moment: placed.moment };
        match self.held.entry(placed.offset) {
            std::collections::btree_map::Entry::Vacant(entry) => {
                entry.insert(held);
                self.held_bytes += size;
            }
            // Two calls claim the same place: neither is believed.
            std::collections::btree_map::Entry::Occupied(mut entry) => {
                let old = entry.get_mut();
                let before = old.bytes.take().map_or(0, |bytes| bytes.len());
                self.held_bytes -= before;
                self.discarded += (before + size) as u64;
                old.length = old.length.max(length);
                old.cause = GapCause::Uncertain;
            }
        }
        if self.held_bytes > HELD_BYTES {
            self.give_up(pass);
        }
    }

    /// Gives up a hole that nothing filled in time.
    pub fn expire(&mut self, now: Monotonic, pass: &mut dyn FnMut(Piece<'_>)) {
        if self.holds() && now.since(self.held_since) > HOLE_AGE {
            self.give_up(pass);
        }
    }

    /// Says that bytes up to `offset` were moved and will not come.
    pub fn skip_to(
        &mut self,
        offset: u64,
        cause: GapCause,
        moment: &Moment,
        pass: &mut dyn FnMut(Piece<'_>),
    ) {
        if self.holds() {
            self.give_up(pass);
        }
        if let Some(next) = self.next
            && offset > next
        {
            self.gap(offset - next, cause, moment, pass);
        }
    }

    /// Passes on as gaps everything that is held, and the holes.
    fn give_up(&mut self, pass: &mut dyn FnMut(Piece<'_>)) {
        while let Some((offset, held)) = self.held.pop_first() {
            self.unhold(&held);
            self.discarded += held.bytes.as_ref().map_or(0, |bytes| bytes.len() as u64);
            let Some(next) = self.next else { continue };
            let end = offset + held.length;
            if end > next {
                self.gap(end - next, GapCause::Uncertain, &held.moment, pass);
            }
        }
    }

    fn unhold(&mut self, held: &Held) {
        self.held_bytes -= held.bytes.as_ref().map_or(0, |bytes| bytes.len());
    }

    fn discard(&mut self, content: &Content<'_>) {
        if let Content::Bytes(bytes) = content {
            self.discarded += bytes.len() as u64;
        }
    }

    /// Fills the hole before `offset` with a gap, and gives up what is held in it.
    fn give_up_before(
        &mut self,
        offset: u64,
        cause: GapCause,
        moment: &Moment,
        pass: &mut dyn FnMut(Piece<'_>),
    ) {
        let after = self.held.split_off(&offset);
        for held in std::mem::replace(&mut self.held, after).into_values() {
            self.unhold(&held);
            self.discarded += held.bytes.as_ref().map_or(0, |bytes| bytes.len() as u64);
        }
        if let Some(next) = self.next
            && offset > next
        {
            self.gap(offset - next, cause, moment, pass);
        }
    }

    /// Passes on what is held, as far as there is no hole.
    fn release(&mut self, pass: &mut dyn FnMut(Piece<'_>)) {
        while let (Some(next), Some(entry)) = (self.next, self.held.first_entry()) {
            let offset = *entry.key();
            if offset > next {
                return;
            }
            let held = entry.remove();
            self.unhold(&held);
            let end = offset + held.length;
            if offset < next {
                self.discarded += held.bytes.as_ref().map_or(0, |bytes| bytes.len() as u64);
                if end > next {
                    self.gap(end - next, GapCause::Uncertain, &held.moment, pass);
                }
                continue;
            }
            let content = match &held.bytes {
                Some(bytes) => Content::Bytes(bytes),
                None => Content::Gap { length: held.length, cause: held.cause },
            };
            let placed = Placed { offset, content, starts_call: held.starts_call, moment: held.moment };
            self.pass(&placed, pass);
        }
    }

    fn gap(&mut self, length: u64, cause: GapCause, moment: &Moment, pass: &mut dyn FnMut(Piece<'_>)) {
        let offset = self.next.unwrap_or_default();
        let content = Content::Gap { length, cause };
        self.pass(&Placed { offset, content, starts_call: false, moment: *moment }, pass);
    }

    fn pass(&mut self, placed: &Placed<'_>, pass: &mut dyn FnMut(Piece<'_>)) {
        self.next = Some(placed.offset + placed.length());
        let Placed { offset, content, starts_call, moment } = placed;
        pass(Piece { offset: *offset, content: *content, starts_call: *starts_call, moment });
    }
}
