//! The trace context that a request carries, whatever format it is written in.
//!
//! In: the kept fields of a request's head. Out: which span of which trace sent it, or nothing. Each
//! format is one reader in `READERS`; the first that finds a valid context wins, and a reader that
//! finds none changes nothing. Today: W3C Trace Context (level 2), and the binary format of gRPC and OpenCensus.
//!
//! It must never repair what is broken (a context that breaks a rule is no context: a new trace is
//! honest, a guessed one is not); allocate more than the fields it was given hold; or write a header.

mod grpc_bin;
mod w3c;

#[doc(hidden)]
pub mod fuzz;
#[cfg(test)]
mod tests;

use super::span::{SpanId, TraceId};
use crate::protocol::Fields;

/// Bit 0 of the trace flags: whoever called recorded its span (W3C Trace Context §3.2.2.5.1).
pub const SAMPLED: u8 = 0x01;

/// Bit 1 of the trace flags: the right-most 7 bytes of the trace id are random (level 2, §3.2.2.5.2).
pub const RANDOM: u8 = 0x02;

/// Who sent a request, as the request itself says.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Context {
    /// The trace that the request belongs to.
    pub trace: TraceId,
    /// The span that sent it.
    pub span: SpanId,
    /// [`SAMPLED`] and [`RANDOM`] as they came; every other bit is 0, as on output (§3.2.2.5).
    pub flags: u8,
    /// The list of `tracestate`, verbatim, several fields joined by `,`; none if there was none, or if
    /// it broke a rule (which says nothing against the rest).
    pub trace_state: Option<String>,
}

impl Context {
    /// The sender recorded its span.
    pub fn sampled(&self) -> bool {
        self.flags & SAMPLED != 0
    }

    /// The trace id is random where samplers look.
    pub fn random(&self) -> bool {
        self.flags & RANDOM != 0
    }
}

/// One format: the context that these fields carry in it, if they carry a valid one.
type Reader = fn(&Fields) -> Option<Context>;

/// The formats, in order of precedence. A new format is a module of its own and a line here; the
/// fields that it reads are added to [`crate::protocol::FieldName`].
const READERS: &[Reader] = &[w3c::read, grpc_bin::read];

/// The context that a request's fields carry.
pub fn from_fields(fields: &Fields) -> Option<Context> {
    READERS.iter().find_map(|read| read(fields))
}
