//! Spans as OTLP protobuf, written directly.
//!
//! The generated messages of `encode` own a copy of each key and each value: some forty allocations a
//! span, thrown away at once, in the path that every span takes. This writes the same bytes from the span
//! itself; a test holds it to the generated code, byte for byte. It must never decide anything: which
//! attributes there are, times and flags come from `encode`.

use prost::Message;
use prost::encoding::{WireType, encode_key, encode_varint, encoded_len_varint};

use super::encode::{self, SCHEMA_URL};
use crate::discover::Resource;
use crate::stitch::span::{Span, Value};

/// An `ExportTraceServiceRequest` with one `ResourceSpans` per group.
pub fn request(groups: &[(&Resource, Vec<&Span>)]) -> Vec<u8> {
    let count: usize = groups.iter().map(|(_, spans)| spans.len()).sum();
    let mut out = Vec::with_capacity(count * TYPICAL_SPAN);
    for (resource, spans) in groups {
        nested(&mut out, 1, |out| {
            message(out, 1, &encode::resource(resource));
            nested(out, 2, |out| {
                message(out, 1, &encode::scope());
                for span in spans {
                    nested(out, 2, |out| write_span(out, span));
                }
                bytes(out, 3, SCHEMA_URL.as_bytes());
            });
            bytes(out, 3, SCHEMA_URL.as_bytes());
        });
    }
    out
}

fn write_span(out: &mut Vec<u8>, span: &Span) {
    let (start, end) = encode::times(span);
    bytes(out, 1, &span.trace.0);
    bytes(out, 2, &span.id.0);
    bytes(out, 3, span.trace_state.as_deref().unwrap_or_default().as_bytes());
    if let Some(parent) = &span.parent {
        bytes(out, 4, &parent.span.0);
    }
    bytes(out, 5, span.name.as_bytes());
    encode_key(6, WireType::Varint, out);
    encode_varint(encode::kind(span) as u64, out);
    fixed64(out, 7, start);
    fixed64(out, 8, end);
    for (key, value) in &span.attributes {
        attribute(out, 9, key, value);
    }
    for (key, value) in encode::implied(span).into_iter().flatten() {
        text(out, 9, key, value);
    }
    for event in &span.events {
        nested(out, 11, |out| {
            fixed64(out, 1, encode::wall(event.time, span.wall_offset));
            bytes(out, 2, event.name.as_bytes());
            for (key, value) in &event.attributes {
                attribute(out, 3, key, value);
            }
        });
    }
    nested(out, 15, |out| match encode::status(span) as u64 {
        0 => {}
        code => {
            encode_key(3, WireType::Varint, out);
            encode_varint(code, out);
        }
    });
    let flags = encode::flags(span);
    encode_key(16, WireType::ThirtyTwoBit, out);
    out.extend_from_slice(&flags.to_le_bytes());
}

fn attribute(out: &mut Vec<u8>, tag: u32, key: &str, value: &Value) {
    match value {
        Value::Text(value) => text(out, tag, key, value),
        Value::Integer(number) => number_value(out, tag, key, 3, number.cast_unsigned()),
        Value::Boolean(truth) => number_value(out, tag, key, 2, u64::from(*truth)),
    }
}

/// A `KeyValue` whose `AnyValue` is a `string_value` (1); a variant is written even if it is empty.
fn text(out: &mut Vec<u8>, tag: u32, key: &str, value: &str) {
    key_value(out, tag, key, delimited_length(value.len()), |out| {
        encode_key(1, WireType::LengthDelimited, out);
        encode_varint(value.len() as u64, out);
        out.extend_from_slice(value.as_bytes());
    });
}

/// A `KeyValue` whose `AnyValue` is an `int_value` (3) or a `bool_value` (2).
fn number_value(out: &mut Vec<u8>, tag: u32, key: &str, variant: u32, number: u64) {
    key_value(out, tag, key, KEY + encoded_len_varint(number), |out| {
        encode_key(variant, WireType::Varint, out);
        encode_varint(number, out);
    });
}

fn key_value(out: &mut Vec<u8>, tag: u32, key: &str, value_length: usize, value: impl FnOnce(&mut Vec<u8>)) {
    let key_length = if key.is_empty() { 0 } else { delimited_length(key.len()) };
    encode_key(tag, WireType::LengthDelimited, out);
    encode_varint((key_length + delimited_length(value_length)) as u64, out);
    bytes(out, 1, key.as_bytes());
    encode_key(2, WireType::LengthDelimited, out);
    encode_varint(value_length as u64, out);
    value(out);
}

/// What a field of so many bytes takes with its key (of a tag below 16) and its length.
fn delimited_length(length: usize) -> usize {
    KEY + encoded_len_varint(length as u64) + length
}

/// A string or bytes; left out if empty, as proto3 does.
fn bytes(out: &mut Vec<u8>, tag: u32, value: &[u8]) {
    if !value.is_empty() {
        encode_key(tag, WireType::LengthDelimited, out);
        encode_varint(value.len() as u64, out);
        out.extend_from_slice(value);
    }
}

/// Left out if 0, as proto3 does.
fn fixed64(out: &mut Vec<u8>, tag: u32, value: u64) {
    if value != 0 {
        encode_key(tag, WireType::SixtyFourBit, out);
        out.extend_from_slice(&value.to_le_bytes());
    }
}

fn message(out: &mut Vec<u8>, tag: u32, message: &impl Message) {
    prost::encoding::message::encode(tag, message, out);
}

/// A message whose length is known only once it is written: the length is moved in front of it.
fn nested(out: &mut Vec<u8>, tag: u32, body: impl FnOnce(&mut Vec<u8>)) {
    encode_key(tag, WireType::LengthDelimited, out);
    let start = out.len();
    body(out);
    let length = out.len() - start;
    encode_varint(length as u64, out);
    let prefix = out.len() - start - length;
    if let Some(written) = out.get_mut(start..) {
        written.rotate_right(prefix);
    }
}

/// The key of a field with a tag below 16.
const KEY: usize = 1;

/// What to reserve for a span.
const TYPICAL_SPAN: usize = 800;

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use rand::rngs::StdRng;
    use rand::{Rng as _, SeedableRng as _};

    use super::*;
    use crate::export::encode::{Encoding, bodies};
    use crate::export::testing::{Sample, service};
    use crate::identity::Monotonic;
    use crate::stitch::span::{Kind, LinkMethod, Parent, SpanEvent, SpanId};

    fn some_text(random: &mut StdRng) -> String {
        let length = *[0, 1, 5, 127, 128, 300, 20_000].get(random.random_range(0..7)).unwrap();
        "ü".repeat(length)
    }

    fn some_attributes(random: &mut StdRng) -> Vec<(&'static str, Value)> {
        (0..random.random_range(0..6))
            .map(|_| {
                let value = match random.random_range(0..3) {
                    0 => Value::Text(some_text(random).into()),
                    1 => Value::Integer(
                        *[0, 1, -1, 127, 128, i64::MAX, i64::MIN].get(random.random_range(0..7)).unwrap(),
                    ),
                    _ => Value::Boolean(random.random()),
                };
                (
                    *["", "k", "error.type", "http.request.method"].get(random.random_range(0..4)).unwrap(),
                    value,
                )
            })
            .collect()
    }

    #[test]
    fn the_bytes_are_those_of_the_generated_code() {
        for seed in 0..200 {
            let mut random = StdRng::seed_from_u64(seed);
            let spans: Vec<_> = (0..random.random_range(1..20))
                .map(|number| {
                    let mut span = Sample::server(number);
                    if random.random() {
                        span.kind = Kind::Client;
                    }
                    span.resource = service("shop", random.random_range(0..3));
                    span.trace_state = random.random::<bool>().then(|| some_text(&mut random));
                    span.name = some_text(&mut random).into();
                    span.flags = random.random();
                    span.start = Monotonic(*[0, 1, u64::MAX].get(random.random_range(0..3)).unwrap());
                    span.wall_offset = random.random_range(0..2);
                    span.attributes = some_attributes(&mut random);
                    span.error = random.random::<bool>().then(|| some_text(&mut random).into());
                    span.parent = random.random::<bool>().then(|| Parent {
                        span: SpanId(random.random()),
                        method: LinkMethod::Header,
                        remote: random.random(),
                    });
                    span.events = (0..random.random_range(0..3))
                        .map(|_| SpanEvent {
                            time: Monotonic(random.random_range(0..2)),
                            name: "connection_reset",
                            attributes: some_attributes(&mut random),
                        })
                        .collect();
                    Arc::new(span)
                })
                .collect();
            let direct = bodies(&spans, Encoding::Protobuf, usize::MAX).bodies.remove(0).bytes;
            let generated = encode::request(&spans).encode_to_vec();
            assert!(direct == generated, "seed {seed}");
        }
    }
}
