//! The books of this station: where every byte of the sockets' streams went.
//!
//! Plain numbers. [`Ledger::balances`] is asserted by tests and by the fuzz body after every step.

use crate::sum::sums;
use std::fmt;

/// Why ciphertext did not become plaintext. Each is a value of the label `cause`.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Sealed {
    /// The session's secrets were not found, or not in time.
    NoKey,
    /// No secret, and no number, fits: the tag refuses it.
    Refused,
    /// A version or a cipher suite that is not read.
    Unsupported,
    /// It lies in a gap, or was moved while no record's beginning was known.
    Lost,
    /// Only its beginning is here, and nothing proves its number.
    Unproven,
    /// Its plaintext is read by probes.
    Probed,
}

impl Sealed {
    /// All.
    pub const ALL: [Self; 6] =
        [Self::NoKey, Self::Refused, Self::Unsupported, Self::Lost, Self::Unproven, Self::Probed];

    /// Its name as a label.
    pub fn name(self) -> &'static str {
        match self {
            Self::NoKey => "no_key",
            Self::Refused => "refused",
            Self::Unsupported => "unsupported",
            Self::Lost => "lost",
            Self::Unproven => "unproven",
            Self::Probed => "probed",
        }
    }
}

impl fmt::Display for Sealed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// In bytes of the streams: `moved = passed + opened + handshake + held + each of sealed`. What goes on to
/// the next station: `passed + plaintext + missing`.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Ledger {
    /// Bytes and gaps that came in.
    pub moved: u64,
    /// Of streams that are not TLS, or not yet: passed on as they are.
    pub passed: u64,
    /// Of records that were opened, headers and tags included.
    pub opened: u64,
    /// Of the handshake, of tickets and alerts.
    pub handshake: u64,
    /// Of records that were not opened, in the order of [`Sealed::ALL`].
    pub sealed: [u64; Sealed::ALL.len()],
    /// Kept now: records that are not complete, and those that wait for a key.
    pub held: u64,
    /// Bytes of plaintext that were passed on.
    pub plaintext: u64,
    /// Bytes of plaintext that were passed on as gaps, or, where a gap's length is not known, its length on
    /// the wire.
    pub missing: u64,
    /// Bytes of plaintext that were opened on trust, without their tag.
    pub on_trust: u64,
    /// TLS connections met.
    pub sessions: u64,
    /// Of these, those of which both directions were opened.
    pub sessions_opened: u64,
    /// Directions that found their place again after a gap.
    pub resynchronised: u64,
    /// KeyUpdates followed.
    pub key_updates: u64,
    /// Records that would not fit where they wait for a key, and lost their bodies.
    pub waiting_cut: u64,
    /// Beginnings that looked like TLS and were not.
    pub mistaken: u64,
}

sums!(Ledger {
    moved,
    passed,
    opened,
    handshake,
    sealed,
    held,
    plaintext,
    missing,
    on_trust,
    sessions,
    sessions_opened,
    resynchronised,
    key_updates,
    waiting_cut,
    mistaken
});

impl Ledger {
    pub(super) fn seal(&mut self, why: Sealed, bytes: u64) {
        if let Some(count) = self.sealed.get_mut(why as usize) {
            *count = count.saturating_add(bytes);
        }
    }

    /// Bytes that were not opened for this reason.
    pub fn sealed(&self, why: Sealed) -> u64 {
        self.sealed.get(why as usize).copied().unwrap_or_default()
    }

    /// True if every byte that came in is accounted for.
    pub fn balances(&self) -> bool {
        let sealed = self.sealed.iter().fold(0u64, |sum, bytes| sum.saturating_add(*bytes));
        let parts = [self.passed, self.opened, self.handshake, sealed, self.held];
        self.moved == parts.iter().fold(0u64, |sum, bytes| sum.saturating_add(*bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_byte_that_nobody_counted_unbalances_the_books() {
        let mut ledger = Ledger { moved: 5, passed: 1, opened: 1, held: 1, ..Ledger::default() };
        ledger.seal(Sealed::Refused, 2);
        assert!(ledger.balances());
        ledger.moved += 1;
        assert!(!ledger.balances());
    }
}
