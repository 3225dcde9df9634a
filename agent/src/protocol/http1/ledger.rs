//! The books of the parser: where every byte went that came in.
//!
//! Plain numbers, kept by the parser and added up by the pipeline. It must never say less than what came
//! in: [`Ledger::balances`] is asserted by every test and by the fuzz body.

use super::Malformed;
use crate::sum::sums;

/// Where the bytes went. `bytes = head + body + framing + switched + held + each of unparsed`, and
/// `gap = gap_body + gap_lost`.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Ledger {
    /// Bytes that came in.
    pub bytes: u64,
    /// Bytes of heads that were understood.
    pub head: u64,
    /// Bytes of bodies, without chunk framing.
    pub body: u64,
    /// Bytes of chunk framing and trailers, and of empty lines between messages.
    pub framing: u64,
    /// Bytes after the connection was switched to another protocol.
    pub switched: u64,
    /// Bytes kept now because they may be the beginning of a head.
    pub held: u64,
    /// Bytes that were not understood, by the cause that lost the place: what is skipped while looking for
    /// the next start counts under the cause that made looking necessary. In the order of
    /// [`Malformed::ALL`].
    pub unparsed: [u64; Malformed::ALL.len()],
    /// Bytes that were announced as missing.
    pub gap: u64,
    /// Of these, those that a body contains or another protocol has moved: no harm done.
    pub gap_body: u64,
    /// Of these, those that may have contained messages.
    pub gap_lost: u64,
    /// Kept field values that were cut at [`super::MAX_VALUE`].
    pub fields_cut: u64,
    /// Fields that would have been kept, but were too many ([`super::MAX_FIELDS`]).
    pub fields_dropped: u64,
}

sums!(Ledger {
    bytes,
    head,
    body,
    framing,
    switched,
    held,
    unparsed,
    gap,
    gap_body,
    gap_lost,
    fields_cut,
    fields_dropped
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
        self.bytes == self.head + self.body + self.framing + self.switched + self.held + unparsed
            && self.gap == self.gap_body + self.gap_lost
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sum::Sum as _;

    #[test]
    fn books_that_balance_still_balance_when_they_are_added_up() {
        let mut total = Ledger { bytes: 3, head: 1, body: 2, ..Ledger::default() };
        let mut other = Ledger { bytes: 9, framing: 2, held: 3, switched: 1, gap: 2, ..Ledger::default() };
        (other.gap_body, other.gap_lost) = (1, 1);
        other.add_unparsed(Malformed::Gap, 3);
        total.add(&other);
        assert!(total.balances(), "{total:?}");
        assert_eq!((total.bytes, total.unparsed(Malformed::Gap)), (12, 3));
    }

    #[test]
    fn a_byte_that_nobody_counted_unbalances_the_books() {
        assert!(!Ledger { bytes: 3, head: 2, ..Ledger::default() }.balances());
        assert!(!Ledger { gap: 3, gap_body: 2, ..Ledger::default() }.balances());
    }
}
