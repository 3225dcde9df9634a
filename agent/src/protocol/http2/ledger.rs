//! The books of the parser: where every byte went that came in.
//!
//! Plain numbers, kept by the parser and added up by the pipeline. It must never say less than what came
//! in: [`Ledger::balances`] is asserted by every test and by the fuzz body.

use super::Malformed;
use crate::sum::sums;

/// Where the bytes went. `bytes = framing + head + body + each of unparsed`, and `gap = gap_body + gap_lost`.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Ledger {
    /// Bytes that came in.
    pub bytes: u64,
    /// Bytes of the preface, of frame headers, of control frames, of padding, and of frames of unknown types.
    pub framing: u64,
    /// Bytes of header blocks.
    pub head: u64,
    /// Bytes of DATA.
    pub body: u64,
    /// Bytes that were not understood, by the cause that lost the place: what is skipped while looking for
    /// the next frame counts under the cause that made looking necessary. In the order of [`Malformed::ALL`].
    pub unparsed: [u64; Malformed::ALL.len()],
    /// Bytes that were announced as missing.
    pub gap: u64,
    /// Of these, those inside DATA, padding or frames that are ignored: no harm done.
    pub gap_body: u64,
    /// Of these, those that may have contained frames or were part of a header block.
    pub gap_lost: u64,
    /// Frames.
    pub frames: u64,
    /// Header blocks that were complete.
    pub blocks: u64,
    /// Of these, those of which bytes were missing or that were too long. Each is a new late join.
    pub blocks_unread: u64,
    /// Lines of header blocks of which not everything is known: their table entry was inserted before we came.
    pub fields_unknown: u64,
    /// Kept field values that were cut at [`super::MAX_VALUE`].
    pub fields_cut: u64,
    /// Fields that would have been kept, but were too many ([`super::MAX_FIELDS`], [`super::MAX_LIST`]).
    pub fields_dropped: u64,
    /// How often the place in a stream was found by a chain of frames.
    pub aligned: u64,
    /// How often the place was lost.
    pub lost: u64,
}

sums!(Ledger {
    bytes,
    framing,
    head,
    body,
    unparsed,
    gap,
    gap_body,
    gap_lost,
    frames,
    blocks,
    blocks_unread,
    fields_unknown,
    fields_cut,
    fields_dropped,
    aligned,
    lost
});

impl Ledger {
    /// Bytes that were not understood for this reason.
    pub fn unparsed(&self, why: Malformed) -> u64 {
        self.unparsed.get(why as usize).copied().unwrap_or_default()
    }

    /// Counts bytes that were not understood.
    pub(super) fn add_unparsed(&mut self, why: Malformed, bytes: u64) {
        if let Some(count) = self.unparsed.get_mut(why as usize) {
            *count += bytes;
        }
    }

    /// True if every byte that came in is accounted for.
    pub fn balances(&self) -> bool {
        let unparsed: u64 = self.unparsed.iter().sum();
        self.bytes == self.framing + self.head + self.body + unparsed
            && self.gap == self.gap_body.saturating_add(self.gap_lost)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sum::Sum as _;

    #[test]
    fn books_that_balance_still_balance_when_they_are_added_up() {
        let mut total = Ledger { bytes: 3, head: 1, body: 2, ..Ledger::default() };
        let mut other = Ledger { bytes: 5, framing: 2, gap: 2, ..Ledger::default() };
        (other.gap_body, other.gap_lost) = (1, 1);
        other.add_unparsed(Malformed::Gap, 3);
        total.add(&other);
        assert!(total.balances(), "{total:?}");
        assert_eq!((total.bytes, total.unparsed(Malformed::Gap)), (8, 3));
    }

    #[test]
    fn a_byte_that_nobody_counted_unbalances_the_books() {
        assert!(!Ledger { bytes: 3, head: 2, ..Ledger::default() }.balances());
        assert!(!Ledger { gap: 3, gap_body: 2, ..Ledger::default() }.balances());
    }
}
