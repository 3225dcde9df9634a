//! Whether a call's position is its own: two counts of the same bytes, kept in step.
//!
//! The hook runs after the socket's lock was released, so the position that it sees may already contain the
//! bytes of another thread's call. But the hook also counts: `moved` is the sum of all calls whose hook has
//! run, and the call's end is the sum of all bytes that the socket has moved. Their difference, the skew, is
//! constant while no call is between its bytes and its hook, and greater while one is. If it has its usual
//! value at the end of two calls, and `moved` grew by just the second, then no other call was under way in
//! between: the second is *proven* to be where it claims.
//!
//! It must never prove a call on weaker evidence; what it cannot tell is said in [`Certainty`].

use crate::identity::Monotonic;

/// So long the skew must stay away from its usual value before its lowest value becomes the usual one,
/// nanoseconds: then bytes are moved for good that no hook counts (`splice` out of a socket). A thread that
/// is preempted between its bytes and its hook comes back sooner.
const STEP_AGE: u64 = 10_000_000_000;

/// How certain it is that a call moved the bytes at its position.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Certainty {
    /// No other call was under way since the one before it ended.
    Proven,
    /// None was under way when it ended; but calls before it ended of which no record was seen, and if they
    /// overlapped with it, the position is theirs.
    Likely,
    /// Another call was under way: the position may be the other's.
    No,
}

/// The counts of one direction.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Step {
    /// The usual skew.
    usual: Option<u64>,
    /// `moved` at the end of the last call with the usual skew, if none with another came since.
    last: Option<u64>,
    /// Since when the skew is unusual, and the lowest in this time.
    unusual: Option<(Monotonic, u64)>,
    /// Calls were caught overlapping. From then on [`Certainty::Likely`] is not enough, for life.
    overlapped: bool,
    /// The call that was judged last, by its `moved`, since a call can be several records.
    judged: Option<(u64, Certainty)>,
}

impl Step {
    /// Counts that begin with the stream: nothing moved, no skew.
    pub fn from_birth() -> Self {
        Self { usual: Some(0), last: Some(0), ..Self::default() }
    }

    /// Judges a call of `total` bytes that ends at offset `end`, at which `moved` bytes were counted.
    pub fn judge(&mut self, end: u64, moved: u64, total: u64, time: Monotonic, first: First) -> Certainty {
        if let Some((at, certainty)) = self.judged
            && first == First::No
            && at == moved
        {
            return certainty;
        }
        let certainty = match self.compare(end.wrapping_sub(moved), moved, total, time) {
            Certainty::Likely if self.overlapped => Certainty::No,
            other => other,
        };
        self.judged = Some((moved, certainty));
        certainty
    }

    /// Whether calls were caught overlapping.
    pub fn overlapped(&self) -> bool {
        self.overlapped
    }

    /// Two calls claimed the same bytes.
    pub fn caught(&mut self) {
        self.overlapped = true;
    }

    fn compare(&mut self, skew: u64, moved: u64, total: u64, time: Monotonic) -> Certainty {
        let Some(usual) = self.usual else {
            (self.usual, self.last) = (Some(skew), Some(moved));
            return Certainty::Likely;
        };
        // Modulo 2⁶⁴: after a late attach the count may be behind or ahead of the position.
        let above = skew.wrapping_sub(usual).cast_signed();
        if above == 0 {
            self.unusual = None;
            let before = self.last;
            // A record that comes late must not turn the mark back.
            self.last = before.max(Some(moved));
            return if before == Some(moved.wrapping_sub(total)) {
                Certainty::Proven
            } else {
                Certainty::Likely
            };
        }
        self.overlapped = true;
        if above < 0 {
            // What was taken for usual was seen while a call was under way.
            (self.usual, self.last, self.unusual) = (Some(skew), Some(moved), None);
            return Certainty::No;
        }
        self.last = None;
        let (since, lowest) = self.unusual.unwrap_or((time, skew));
        let lowest = if skew.wrapping_sub(lowest).cast_signed() < 0 { skew } else { lowest };
        self.unusual = Some((since, lowest));
        if time.since(since) > STEP_AGE {
            (self.usual, self.unusual) = (Some(lowest), None);
        }
        Certainty::No
    }
}

/// Whether a record is the first of its call.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum First {
    /// It is.
    Yes,
    /// It is not.
    No,
}
