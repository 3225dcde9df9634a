//! The books of the parser: where every byte went that came in.
//!
//! Plain numbers, kept by the parser and added up by the pipeline. It must never say less than what came
//! in: [`Ledger::balances`] is asserted by every test and by the fuzz body.

use crate::sum::sums;

/// Where the bytes went. `bytes = framing + head + body + unparsed`, and `gap = gap_body + gap_lost`.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Ledger {
    /// Bytes that came in.
    pub bytes: u64,
    /// Bytes of record headers and padding, and of records that are about neither a request's head nor a body.
    pub framing: u64,
    /// Bytes of parameters, and of the heads of responses.
    pub head: u64,
    /// Bytes of bodies.
    pub body: u64,
    /// Bytes that came after the place was lost.
    pub unparsed: u64,
    /// Bytes that were announced as missing.
    pub gap: u64,
    /// Of these, those inside bodies, padding or records that are ignored: no harm done.
    pub gap_body: u64,
    /// Of these, those that may have contained records, or were part of a head.
    pub gap_lost: u64,
    /// How often the place was lost.
    pub lost: u64,
    /// Bytes of parameters that were not kept ([`super::MAX_PARAMS`]). Part of `head`.
    pub params_cut: u64,
    /// Kept values that were cut.
    pub fields_cut: u64,
}

sums!(Ledger { bytes, framing, head, body, unparsed, gap, gap_body, gap_lost, lost, params_cut, fields_cut });

impl Ledger {
    /// True if every byte that came in is accounted for.
    pub fn balances(&self) -> bool {
        self.bytes == self.framing + self.head + self.body + self.unparsed
            && self.gap == self.gap_body + self.gap_lost
    }
}
