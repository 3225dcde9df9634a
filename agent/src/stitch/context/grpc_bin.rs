//! `grpc-trace-bin`: the binary format of OpenCensus in gRPC's metadata, base64 (gRPC's own tracing still sends it).
//!
//! Version 0, then fields: 0 and 16 bytes of trace id, 1 and 8 bytes of span id, 2 and one byte of options (OpenCensus
//! "BinaryEncoding"). It must never accept an all-zero id or another version.

use super::{Context, SAMPLED};
use crate::protocol::{FieldName, Fields};
use crate::stitch::span::{SpanId, TraceId};

/// The context in `grpc-trace-bin`. More than one field is none: which of them is true cannot be known.
pub fn read(fields: &Fields) -> Option<Context> {
    let mut values = fields.all(FieldName::GrpcTraceBin);
    let (first, second) = (values.next()?, values.next());
    if second.is_some() {
        return None;
    }
    let bytes = base64(first.trim_ascii())?;
    let [0, 0, rest @ ..] = &bytes[..] else { return None };
    let (trace, rest) = rest.split_first_chunk::<16>()?;
    let [1, rest @ ..] = rest else { return None };
    let (span, rest) = rest.split_first_chunk::<8>()?;
    let flags = match rest {
        [2, options, ..] => options & SAMPLED,
        _ => 0,
    };
    if *trace == [0; 16] || *span == [0; 8] {
        return None;
    }
    Some(Context { trace: TraceId(*trace), span: SpanId(*span), flags, trace_state: None })
}

/// Base64 with or without padding ("gRPC over HTTP2", "Custom-Metadata"); at most as long as the format is.
fn base64(text: &[u8]) -> Option<Vec<u8>> {
    let text = text.strip_suffix(b"==").or_else(|| text.strip_suffix(b"=")).unwrap_or(text);
    if text.len() > MAX_LENGTH || text.len() % 4 == 1 {
        return None;
    }
    let (mut out, mut bits, mut held) = (Vec::with_capacity(text.len()), 0u32, 0u32);
    for byte in text {
        let digit = match byte {
            b'A'..=b'Z' => byte - b'A',
            b'a'..=b'z' => byte - b'a' + 26,
            b'0'..=b'9' => byte - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => return None,
        };
        bits = bits << 6 | u32::from(digit);
        held += 6;
        if held >= 8 {
            held -= 8;
            out.push((bits >> held) as u8);
        }
    }
    Some(out)
}

/// Twice the 29 bytes that the format has, in base64: room for fields to come.
const MAX_LENGTH: usize = 80;

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(value: &str, want: Option<(u8, u8, u8)>) {
        let fields = Fields(vec![(FieldName::GrpcTraceBin, value.as_bytes().into())]);
        let got = read(&fields).map(|context| (context.trace.0[15], context.span.0[7], context.flags));
        assert_eq!(got, want, "{value}");
    }

    #[test]
    fn the_binary_context_is_read() {
        check("AAABAgMEBQYHCAkKCwwNDg8QARECExQVFhcYAgE=", Some((16, 24, 1)));
        check("AAABAgMEBQYHCAkKCwwNDg8QARECExQVFhcYAgA=", Some((16, 24, 0)));
        check("AAABAgMEBQYHCAkKCwwNDg8QARECExQVFhcY", Some((16, 24, 0)));
        check("AAABAgMEBQYHCAkKCwwNDg8QARECExQVFhcYAg==", Some((16, 24, 0)));
        check("AAABAgMEBQYHCAkKCwwNDg8QARECExQVFhcYAg", Some((16, 24, 0)));
    }

    #[test]
    fn what_breaks_a_rule_is_no_context() {
        check("", None);
        check("AQABAgMEBQYHCAkKCwwNDg8QARECExQVFhcYAgE=", None);
        check("AAAAAAAAAAAAAAAAAAAAAAAAARECExQVFhcYAgE=", None);
        check("AAABAgMEBQYHCAkKCwwNDg8QAQAAAAAAAAAAAgE=", None);
        check("AAABAgMEBQYHCAkKCwwNDg8QARECEw==", None);
        check("not base64!", None);
    }
}
