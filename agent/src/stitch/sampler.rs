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
    /// could not be followed. Empty means unset; so does what is not understood.
    pub fn from_settings(name: Option<&str>, argument: Option<&str>) -> (Self, Vec<String>) {
        let mut warnings = Vec::new();
        let name = name.map(str::trim).filter(|name| !name.is_empty());
        let argument = argument.map(str::trim).filter(|argument| !argument.is_empty());
        let (parent_based, kind) = match name {
            None => return (Self::default(), warnings),
            Some(name) => match name.strip_prefix("parentbased_") {
                Some(kind) => (true, kind),
                None => (false, name),
            },
        };
        let root = match kind {
            "always_on" => Root::AlwaysOn,
            "always_off" => Root::AlwaysOff,
            "traceidratio" => Root::Ratio { bound: bound(ratio(argument, &mut warnings)) },
            _ => {
                warnings.push(format!(
                    "OTEL_TRACES_SAMPLER: {:?} is not known here, parentbased_always_on is used; would be \
                     right: always_on, always_off, traceidratio, each also with parentbased_ before it",
                    name.unwrap_or_default()
                ));
                return (Self::default(), warnings);
            }
        };
        (Self { parent_based, root }, warnings)
    }

    /// Whether a span of this trace is kept.
    pub fn decide(&self, parent: Option<ParentState>, trace: TraceId) -> Decision {
        let sampled = match (parent, self.root) {
            (Some(parent), _) if self.parent_based => parent.flags & SAMPLED != 0,
            (_, Root::AlwaysOn) => true,
            (_, Root::AlwaysOff) => false,
            (_, Root::Ratio { bound }) => number(trace) < bound,
        };
        let random = parent.map_or(RANDOM, |parent| parent.flags & RANDOM);
        Decision { sampled, flags: random | if sampled { SAMPLED } else { 0 } }
    }
}

/// The argument of `traceidratio`: 0 to 1, and 1 if there is none or none that can be used.
fn ratio(argument: Option<&str>, warnings: &mut Vec<String>) -> f64 {
    let Some(text) = argument else { return 1.0 };
    match text.parse::<f64>() {
        Ok(ratio) if (0.0..=1.0).contains(&ratio) => ratio,
        _ => {
            warnings.push(format!(
                "OTEL_TRACES_SAMPLER_ARG: {text:?} is not a ratio, 1.0 is used; would be right: a number \
                 from 0 to 1"
            ));
            1.0
        }
    }
}

/// The specification leaves the algorithm open. This is what the SDKs for Go and Rust do, so that a
/// trace which they and this agent decide on apart is kept or dropped whole: the right-most 8 bytes of
/// the trace id, big-endian, without their lowest bit, against `ratio * 2^63`.
fn number(trace: TraceId) -> u64 {
    let [_, _, _, _, _, _, _, _, low @ ..] = trace.0;
    u64::from_be_bytes(low) >> 1
}

/// The number below which a trace is kept: `ratio * 2^63`.
fn bound(ratio: f64) -> u64 {
    (ratio * (1_u64 << 63) as f64) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRACE: TraceId = TraceId(0x4bf92f3577b34da6a3ce929d0e0e4736_u128.to_be_bytes());

    fn sampler(name: &str, argument: &str) -> Sampler {
        let (sampler, warnings) = Sampler::from_settings(Some(name), Some(argument));
        assert_eq!(warnings, Vec::<String>::new(), "{name} {argument}");
        sampler
    }

    /// The flags that a span gets without a parent, and below parents with each of the flags.
    fn flags(sampler: Sampler) -> [u8; 5] {
        let under = |flags: Option<u8>| {
            let decision = sampler.decide(flags.map(|flags| ParentState { flags }), TRACE);
            assert_eq!(decision.sampled, decision.flags & SAMPLED != 0);
            decision.flags
        };
        [under(None), under(Some(0)), under(Some(1)), under(Some(2)), under(Some(3))]
    }

    #[test]
    fn each_sampler_decides_and_leaves_the_random_flag_of_a_parent_alone() {
        assert_eq!(flags(Sampler::default()), [3, 0, 1, 2, 3]);
        assert_eq!(flags(sampler("parentbased_always_on", "")), [3, 0, 1, 2, 3]);
        assert_eq!(flags(sampler("parentbased_always_off", "")), [2, 0, 1, 2, 3]);
        assert_eq!(flags(sampler("always_on", "")), [3, 1, 1, 3, 3]);
        assert_eq!(flags(sampler("always_off", "")), [2, 0, 0, 2, 2]);
        assert_eq!(flags(sampler("traceidratio", "0")), [2, 0, 0, 2, 2]);
        assert_eq!(flags(sampler("traceidratio", "1")), [3, 1, 1, 3, 3]);
        assert_eq!(flags(sampler("traceidratio", "")), [3, 1, 1, 3, 3]);
        assert_eq!(flags(sampler("parentbased_traceidratio", "0.0")), [2, 0, 1, 2, 3]);
        assert_eq!(flags(sampler("parentbased_traceidratio", " 1.0 ")), [3, 0, 1, 2, 3]);
    }

    #[test]
    fn flags_that_are_not_defined_do_not_come_out() {
        let decision = Sampler::default().decide(Some(ParentState { flags: 0xff }), TRACE);
        assert_eq!(decision, Decision { sampled: true, flags: 3 });
    }

    #[test]
    fn a_ratio_keeps_the_traces_whose_number_is_below_it() {
        // 0xa3ce929d0e0e4736 / 2^64 is 0.63987…
        for (ratio, kept) in [("0.639", false), ("0.64", true), ("1", true), ("1e-9", false)] {
            assert_eq!(sampler("traceidratio", ratio).decide(None, TRACE).sampled, kept, "{ratio}");
        }
        let highest = TraceId([0xff; 16]);
        assert!(sampler("traceidratio", "1").decide(None, highest).sampled);
        assert!(!sampler("traceidratio", "0").decide(None, TraceId([0; 16])).sampled);
    }

    #[test]
    fn a_ratio_keeps_its_share_of_many_traces() {
        let sampler = sampler("traceidratio", "0.25");
        let kept = (0..100_000_u128)
            .map(|n| TraceId(n.wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835).to_be_bytes()))
            .filter(|&trace| sampler.decide(None, trace).sampled)
            .count();
        assert!((24_000..=26_000).contains(&kept), "{kept}");
    }

    #[test]
    fn unset_and_empty_are_the_default_without_a_word() {
        for name in [None, Some(""), Some("  ")] {
            assert_eq!(Sampler::from_settings(name, Some("0.1")), (Sampler::default(), Vec::new()));
        }
    }

    #[test]
    fn a_bad_ratio_is_said_and_behaves_as_unset() {
        for bad in ["x", "-0.1", "1.1", "nan", "inf", "50%", "0,5"] {
            let (got, warnings) = Sampler::from_settings(Some("traceidratio"), Some(bad));
            assert_eq!(got, sampler("traceidratio", ""), "{bad}");
            assert!(matches!(&warnings[..], [text] if text.contains(bad)), "{warnings:?}");
        }
    }

    #[test]
    fn an_unknown_sampler_is_said_and_behaves_as_unset() {
        for bad in ["jaeger_remote", "parentbased_jaeger_remote", "xray", "ALWAYS_ON", "parentbased_", "on\n"]
        {
            let (got, warnings) = Sampler::from_settings(Some(bad), None);
            assert_eq!(got, Sampler::default(), "{bad}");
            assert!(matches!(&warnings[..], [text] if !text.contains('\n')), "{warnings:?}");
        }
    }
}
