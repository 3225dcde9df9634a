//! Fuzz body: any bytes as trace context fields.
//!
//! The first byte of each line chooses the field, the rest is its value. What is read must be what the
//! grammar allows to be sent again.

use super::{RANDOM, SAMPLED, from_fields};
use crate::protocol::{FieldName, Fields};

/// Reads a context from any bytes.
pub fn fuzz_context(data: &[u8]) {
    let fields = Fields(
        data.split(|&byte| byte == b'\n')
            .filter_map(|line| line.split_first())
            .map(|(&kind, value)| {
                let name = if kind == b'p' { FieldName::Traceparent } else { FieldName::Tracestate };
                (name, value.into())
            })
            .collect(),
    );
    let Some(context) = from_fields(&fields) else { return };
    assert_ne!(context.trace.0, [0; 16]);
    assert_ne!(context.span.0, [0; 8]);
    assert_eq!(context.flags & !(SAMPLED | RANDOM), 0);
    if let Some(state) = &context.trace_state {
        assert!(state.len() <= 32 * 513 + 31, "{} bytes", state.len());
        assert!(state.bytes().all(|byte| matches!(byte, b'\t' | 0x20..=0x7e)), "{state:?}");
        assert!(state.split(',').filter(|member| !member.trim().is_empty()).count() <= 32);
        // What was read reads back as itself.
        let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        let parent = format!("00-{}-{}-{:02x}", hex(&context.trace.0), hex(&context.span.0), context.flags);
        let again = Fields(vec![
            (FieldName::Traceparent, parent.into_bytes().into()),
            (FieldName::Tracestate, state.clone().into_bytes().into()),
        ]);
        assert_eq!(from_fields(&again), Some(context));
    }
}
