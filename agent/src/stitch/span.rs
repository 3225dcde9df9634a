//! A span as it leaves `stitch`: everything decided, nothing encoded.
//!
//! It is a value. It must never hold a byte of traffic that the conventions do not ask for.

use std::sync::Arc;

use crate::discover::Resource;
pub use crate::identity::LinkMethod;
use crate::identity::{Monotonic, ProcessKey};

/// 16 random bytes, not all 0.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct TraceId(pub [u8; 16]);

/// 8 random bytes, not all 0.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct SpanId(pub [u8; 8]);

/// A span's parent.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Parent {
    /// Its span id.
    pub span: SpanId,
    /// How it was found.
    pub method: LinkMethod,
    /// It lives in another process (OTLP's `is_remote` flag).
    pub remote: bool,
}

/// Which part the service plays.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Kind {
    /// It answered a request.
    Server,
    /// It sent one.
    Client,
}

/// A finished span.
#[derive(Clone, Debug)]
pub struct Span {
    /// The trace.
    pub trace: TraceId,
    /// The span.
    pub id: SpanId,
    /// Its parent; none for a root.
    pub parent: Option<Parent>,
    /// The W3C trace flags (bit 0 sampled, bit 1 random trace id).
    pub flags: u8,
    /// The W3C tracestate that came with the parent, verbatim.
    pub trace_state: Option<String>,
    /// Server or client.
    pub kind: Kind,
    /// The name, by the conventions.
    pub name: Text,
    /// First byte, `CLOCK_MONOTONIC`.
    pub start: Monotonic,
    /// Last byte, `CLOCK_MONOTONIC`.
    pub end: Monotonic,
    /// What to add to a `CLOCK_MONOTONIC` time for nanoseconds since 1970; one value for a whole trace.
    pub wall_offset: u64,
    /// Attributes, by the conventions; each key once.
    pub attributes: Vec<(&'static str, Value)>,
    /// Events, in order of time.
    pub events: Vec<SpanEvent>,
    /// `Some` if the span's status is ERROR: the value of `error.type`.
    pub error: Option<Text>,
    /// The program.
    pub process: ProcessKey,
    /// The service that the program is.
    pub resource: Arc<Resource>,
}

/// A text of a span. Most are short, and stand in place: a span has a dozen, made by one thread and dropped by another.
pub type Text = compact_str::CompactString;

/// An attribute's value.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs)]
pub enum Value {
    Text(Text),
    Integer(i64),
    Boolean(bool),
}

/// Something that happened at a moment of a span.
#[derive(Clone, Debug, PartialEq)]
pub struct SpanEvent {
    /// When.
    pub time: Monotonic,
    /// What.
    pub name: &'static str,
    /// More about it.
    pub attributes: Vec<(&'static str, Value)>,
}
