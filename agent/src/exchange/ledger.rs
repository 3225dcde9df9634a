//! The books of the exchange station: where every byte, request, response and exchange went.
//!
//! Plain numbers, kept per connection and added up by the pipeline (a connection's books are added to a
//! total when it is dropped). It must never say less than what came in: [`Ledger::balances`] is asserted
//! by every test and by the fuzz body.

use super::{Exchange, FailureKind};
use crate::sum::sums;

/// Where everything went. Each sum that must hold stands beside its first field.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Ledger {
    /// Bytes that were moved, seen or not (gaps included). `bytes = bytes_parsed + bytes_unrecognised +
    /// bytes_other + bytes_late + bytes_held`.
    pub bytes: u64,
    /// Of these, those that a parser got; its own books say more.
    pub bytes_parsed: u64,
    /// Those that were moved before the protocol was known, in calls that began no message.
    pub bytes_unrecognised: u64,
    /// Those that came after the connection had been classified as [`super::Other`].
    pub bytes_other: u64,
    /// Those that came after the connection's end.
    pub bytes_late: u64,
    /// Those that wait now, for a request that they may answer or for the rest of a start line.
    pub bytes_held: u64,

    /// Request heads. `requests = opened + requests_refused + requests_unproven`.
    pub requests: u64,
    /// Requests that would have been more unanswered ones than the bounds allow
    /// ([`super::MAX_UNANSWERED`], [`super::MAX_UNANSWERED_BYTES`]). A connection in HTTP/1 was given up at each.
    pub requests_refused: u64,
    /// Requests of HTTP/2 that came before it was proven where frames begin: what looks like them may lie inside a payload.
    pub requests_unproven: u64,

    /// Exchanges. `opened = complete + incomplete + connection_reset + timed_out + connection_closed +
    /// cancelled + process_exited + socket_error + stream_reset + refused + open`.
    pub opened: u64,
    /// Closed when request and response had ended.
    pub complete: u64,
    /// Closed because what was missing made their end or their response uncertain.
    pub incomplete: u64,
    /// Closed by [`FailureKind::ConnectionReset`].
    pub connection_reset: u64,
    /// Closed by [`FailureKind::TimedOut`].
    pub timed_out: u64,
    /// Closed by [`FailureKind::ConnectionClosed`].
    pub connection_closed: u64,
    /// Closed by [`FailureKind::Cancelled`].
    pub cancelled: u64,
    /// Closed by [`FailureKind::ProcessExited`].
    pub process_exited: u64,
    /// Closed by [`FailureKind::Socket`].
    pub socket_error: u64,
    /// Closed by [`FailureKind::Reset`].
    pub stream_reset: u64,
    /// Closed by [`FailureKind::Refused`].
    pub refused: u64,
    /// Not closed yet.
    pub open: u64,

    /// Heads of final responses. `responses = responses_paired + responses_without_request`.
    pub responses: u64,
    /// Those that answer a request that was seen.
    pub responses_paired: u64,
    /// Those whose request was not seen, or not with certainty.
    pub responses_without_request: u64,

    /// HPACK tables that were read in a process's memory and are a direction's, without doubt.
    pub tables_restored: u64,
    /// Directions for which several different ones could be it.
    pub tables_ambiguous: u64,
    /// Directions for which none could.
    pub tables_unfound: u64,
    /// Exchanges of which such a table said what a late join had hidden, once for each direction. In no sum.
    pub exchanges_recalled: u64,

    /// Ends that were moved to the exchange's beginning because the records of two threads said that it
    /// ended before. Part of the closed ones, in no sum.
    pub ends_clamped: u64,
}

sums!(Ledger {
    bytes,
    bytes_parsed,
    bytes_unrecognised,
    bytes_other,
    bytes_late,
    bytes_held,
    requests,
    requests_refused,
    requests_unproven,
    opened,
    complete,
    incomplete,
    connection_reset,
    timed_out,
    connection_closed,
    cancelled,
    process_exited,
    socket_error,
    stream_reset,
    refused,
    open,
    responses,
    responses_paired,
    responses_without_request,
    tables_restored,
    tables_ambiguous,
    tables_unfound,
    exchanges_recalled,
    ends_clamped
});

impl Ledger {
    /// Counts an exchange that is over.
    pub(super) fn close(&mut self, exchange: &Exchange) {
        let counter = match exchange.failure.map(|failure| failure.kind) {
            None if exchange.incomplete => &mut self.incomplete,
            None => &mut self.complete,
            Some(FailureKind::ConnectionReset) => &mut self.connection_reset,
            Some(FailureKind::TimedOut) => &mut self.timed_out,
            Some(FailureKind::ConnectionClosed) => &mut self.connection_closed,
            Some(FailureKind::Cancelled) => &mut self.cancelled,
            Some(FailureKind::ProcessExited) => &mut self.process_exited,
            Some(FailureKind::Socket(_)) => &mut self.socket_error,
            Some(FailureKind::Reset(_)) => &mut self.stream_reset,
            Some(FailureKind::Refused) => &mut self.refused,
        };
        *counter += 1;
    }

    /// True if everything that came in is accounted for.
    pub fn balances(&self) -> bool {
        let bytes = self.bytes_parsed
            + self.bytes_unrecognised
            + self.bytes_other
            + self.bytes_late
            + self.bytes_held;
        let failed = self.connection_reset
            + self.timed_out
            + self.connection_closed
            + self.cancelled
            + self.process_exited
            + self.socket_error
            + self.stream_reset
            + self.refused;
        self.bytes == bytes
            && self.requests == self.opened + self.requests_refused + self.requests_unproven
            && self.opened == self.complete + self.incomplete + failed + self.open
            && self.responses == self.responses_paired + self.responses_without_request
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sum::Sum as _;

    #[test]
    fn books_that_balance_still_balance_when_they_are_added_up() {
        let mut total = Ledger { bytes: 3, bytes_parsed: 2, bytes_held: 1, ..Ledger::default() };
        total.add(&Ledger { requests: 2, requests_refused: 1, opened: 1, timed_out: 1, ..Ledger::default() });
        assert!(total.balances(), "{total:?}");
        assert_eq!((total.bytes, total.timed_out), (3, 1));
    }

    #[test]
    fn what_nobody_counted_unbalances_the_books() {
        assert!(!Ledger { bytes: 3, bytes_parsed: 2, ..Ledger::default() }.balances());
        assert!(!Ledger { requests: 1, opened: 1, ..Ledger::default() }.balances());
        assert!(!Ledger { responses: 1, ..Ledger::default() }.balances());
    }
}
