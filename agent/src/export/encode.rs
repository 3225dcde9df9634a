//! Spans in, OTLP messages out; the same message is then written as protobuf or as OTLP/JSON.
//!
//! A pure function of its input: it reads no clock and no setting, and decides nothing about a span
//! that `stitch` has not decided, except for two attributes that follow from the span's own fields
//! (`error.type`, `spandrel.link.method`), which it adds where they are not there yet.
//! It must never shorten a value or leave a span out: limits are kept elsewhere, by the queue and by
//! [`bodies`], which reports what does not fit.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::ops::Range;
use std::sync::Arc;

use super::wire;
use crate::discover::{Resource, ResourceValue};
use crate::identity::Monotonic;
use crate::stitch::span::{Kind, Span, Value};
use bytes::Bytes;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::{AnyValue, InstrumentationScope, KeyValue, any_value};
use opentelemetry_proto::tonic::resource::v1::Resource as OtlpResource;
use opentelemetry_proto::tonic::trace::v1::span::{Event as OtlpEvent, SpanKind};
use opentelemetry_proto::tonic::trace::v1::status::StatusCode;
use opentelemetry_proto::tonic::trace::v1::{
    ResourceSpans, ScopeSpans, Span as OtlpSpan, SpanFlags, Status, TracesData,
};

/// The name of the instrumentation scope of everything that the agent sends.
pub const SCOPE_NAME: &str = "spandrel";

/// The version of the instrumentation scope: the agent's.
pub const SCOPE_VERSION: &str = env!("CARGO_PKG_VERSION");

/// The version of the semantic conventions that names and values follow.
pub const SCHEMA_URL: &str = "https://opentelemetry.io/schemas/1.44.0";

/// How a message is written.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Encoding {
    /// Protobuf: OTLP over gRPC and `application/x-protobuf`.
    Protobuf,
    /// OTLP/JSON: lowerCamelCase keys, hexadecimal ids, enumerations as integers, 64-bit integers as strings.
    Json,
}

/// A message ready to be sent, and which of the spans given are in it.
#[derive(Clone, Debug)]
pub struct Body {
    /// The message, not compressed.
    pub bytes: Bytes,
    /// Which spans of the batch it holds.
    pub spans: Range<usize>,
}

/// The result of [`bodies`]: each span of the batch is in one body or in `too_large`.
#[derive(Debug, Default)]
pub struct Bodies {
    /// In order.
    pub bodies: Vec<Body>,
    /// Spans that are larger than the limit on their own, or that cannot be written at all.
    pub unsent: Vec<usize>,
}

/// Writes a batch as messages of at most `limit` bytes each: one if it fits, else halves of it, and so on.
pub fn bodies(spans: &[Arc<Span>], encoding: Encoding, limit: usize) -> Bodies {
    let mut result = Bodies::default();
    // An explicit stack rather than recursion: the depth is the logarithm of the batch's length.
    let mut todo = Vec::new();
    if !spans.is_empty() {
        todo.push(0..spans.len());
    }
    while let Some(range) = todo.pop() {
        let part = spans.get(range.clone()).unwrap_or_default();
        let bytes = match encoding {
            Encoding::Protobuf => Some(wire::request(&groups(part))),
            Encoding::Json => serde_json::to_vec(&request(part)).ok(),
        };
        let bytes = bytes.filter(|bytes| bytes.len() <= limit);
        match bytes {
            Some(bytes) => result.bodies.push(Body { bytes: bytes.into(), spans: range }),
            None if range.len() <= 1 => result.unsent.extend(range),
            None => {
                let middle = range.start + range.len() / 2;
                todo.push(middle..range.end);
                todo.push(range.start..middle);
            }
        }
    }
    result
}

/// The spans as what a trace service is sent: one `ResourceSpans` per service resource.
pub fn request(spans: &[Arc<Span>]) -> ExportTraceServiceRequest {
    ExportTraceServiceRequest { resource_spans: resource_spans(spans) }
}

/// The spans as what is kept in a file.
pub fn traces_data(spans: &[Arc<Span>]) -> TracesData {
    TracesData { resource_spans: resource_spans(spans) }
}

/// The instrumentation scope of everything that the agent sends.
pub fn scope() -> InstrumentationScope {
    InstrumentationScope {
        name: SCOPE_NAME.to_owned(),
        version: SCOPE_VERSION.to_owned(),
        attributes: Vec::new(),
        dropped_attributes_count: 0,
    }
}

/// A resource as OTLP has it.
pub fn resource(resource: &Resource) -> OtlpResource {
    let attributes = resource
        .attributes
        .iter()
        .map(|(key, value)| match value {
            ResourceValue::Text(text) => key_value(key, any_value::Value::StringValue(text.clone())),
            ResourceValue::Integer(number) => key_value(key, any_value::Value::IntValue(*number)),
        })
        .collect();
    OtlpResource { attributes, dropped_attributes_count: 0, entity_refs: Vec::new() }
}

/// An attribute whose value is a text.
pub fn text(key: &str, value: &str) -> KeyValue {
    key_value(key, any_value::Value::StringValue(value.to_owned()))
}

fn resource_spans(spans: &[Arc<Span>]) -> Vec<ResourceSpans> {
    groups(spans)
        .into_iter()
        .map(|(service, spans)| ResourceSpans {
            resource: Some(resource(service)),
            scope_spans: vec![ScopeSpans {
                scope: Some(scope()),
                spans: spans.into_iter().map(otlp_span).collect(),
                schema_url: SCHEMA_URL.to_owned(),
            }],
            schema_url: SCHEMA_URL.to_owned(),
        })
        .collect()
}

/// The spans by their service, services in the order in which they come first.
fn groups(spans: &[Arc<Span>]) -> Vec<(&Resource, Vec<&Span>)> {
    let mut groups: Vec<(&Resource, Vec<&Span>)> = Vec::new();
    // Resources are shared, so nearly always the address finds the group; equal ones at two addresses
    // (a program that was looked up twice) are found by their content.
    let mut by_address: HashMap<*const Resource, usize> = HashMap::new();
    let mut by_content: HashMap<u64, Vec<usize>> = HashMap::new();
    for span in spans {
        let address = Arc::as_ptr(&span.resource);
        let index = match by_address.get(&address) {
            Some(&index) => index,
            None => {
                let alike = by_content.entry(content_hash(&span.resource)).or_default();
                let same =
                    |index: &&usize| groups.get(**index).is_some_and(|(other, _)| **other == *span.resource);
                let index = alike.iter().find(same).copied().unwrap_or_else(|| {
                    groups.push((&span.resource, Vec::new()));
                    alike.push(groups.len() - 1);
                    groups.len() - 1
                });
                by_address.insert(address, index);
                index
            }
        };
        if let Some((_, group)) = groups.get_mut(index) {
            group.push(span);
        }
    }
    groups
}

fn content_hash(resource: &Resource) -> u64 {
    let mut hasher = DefaultHasher::new();
    for (key, value) in &resource.attributes {
        key.hash(&mut hasher);
        match value {
            ResourceValue::Text(text) => text.hash(&mut hasher),
            ResourceValue::Integer(number) => number.hash(&mut hasher),
        }
    }
    hasher.finish()
}

fn otlp_span(span: &Span) -> OtlpSpan {
    let (start_time_unix_nano, end_time_unix_nano) = times(span);
    OtlpSpan {
        trace_id: span.trace.0.to_vec(),
        span_id: span.id.0.to_vec(),
        trace_state: span.trace_state.clone().unwrap_or_default(),
        parent_span_id: span.parent.map(|parent| parent.span.0.to_vec()).unwrap_or_default(),
        flags: flags(span),
        name: span.name.to_string(),
        kind: kind(span) as i32,
        start_time_unix_nano,
        end_time_unix_nano,
        attributes: span
            .attributes
            .iter()
            .map(|(key, value)| attribute(key, value))
            .chain(implied(span).into_iter().flatten().map(|(key, value)| text(key, value)))
            .collect(),
        dropped_attributes_count: 0,
        events: span
            .events
            .iter()
            .map(|event| OtlpEvent {
                time_unix_nano: wall(event.time, span.wall_offset),
                name: event.name.to_owned(),
                attributes: event.attributes.iter().map(|(key, value)| attribute(key, value)).collect(),
                dropped_attributes_count: 0,
            })
            .collect(),
        dropped_events_count: 0,
        links: Vec::new(),
        dropped_links_count: 0,
        // No description: it would only repeat `error.type` and the status code, which the conventions
        // ask not to do. UNSET is written out, because OTLP/JSON would otherwise say `null`.
        status: Some(Status { message: String::new(), code: status(span) as i32 }),
    }
}

/// Attributes that follow from the span's own fields, where it does not have them yet.
pub(super) fn implied(span: &Span) -> [Option<(&'static str, &str)>; 2] {
    let missing = |key: &str| !span.attributes.iter().any(|(present, _)| *present == key);
    [
        span.error.as_deref().filter(|_| missing("error.type")).map(|error| ("error.type", error)),
        span.parent
            .filter(|_| missing("spandrel.link.method"))
            .map(|parent| ("spandrel.link.method", parent.method.name())),
    ]
}

/// Start and end, in nanoseconds since 1970. An end never precedes its start: backends refuse or misdraw
/// such a span.
pub(super) fn times(span: &Span) -> (u64, u64) {
    let start = wall(span.start, span.wall_offset);
    (start, wall(span.end, span.wall_offset).max(start))
}

/// OTLP's `Span.flags`: the W3C trace flags in bits 0–7, bit 8 "it is known whether the parent is remote",
/// bit 9 "it is"; all others 0. A root has no remote parent, and says so, as the SDKs do.
pub(super) fn flags(span: &Span) -> u32 {
    let remote = span.parent.is_some_and(|parent| parent.remote);
    u32::from(span.flags)
        | SpanFlags::ContextHasIsRemoteMask as u32
        | if remote { SpanFlags::ContextIsRemoteMask as u32 } else { 0 }
}

pub(super) fn kind(span: &Span) -> SpanKind {
    match span.kind {
        Kind::Server => SpanKind::Server,
        Kind::Client => SpanKind::Client,
    }
}

pub(super) fn status(span: &Span) -> StatusCode {
    if span.error.is_some() { StatusCode::Error } else { StatusCode::Unset }
}

pub(super) fn wall(time: Monotonic, offset: u64) -> u64 {
    time.0.saturating_add(offset)
}

fn attribute(key: &str, value: &Value) -> KeyValue {
    key_value(
        key,
        match value {
            Value::Text(text) => any_value::Value::StringValue(text.to_string()),
            Value::Integer(number) => any_value::Value::IntValue(*number),
            Value::Boolean(truth) => any_value::Value::BoolValue(*truth),
        },
    )
}

fn key_value(key: &str, value: any_value::Value) -> KeyValue {
    KeyValue { key: key.to_owned(), value: Some(AnyValue { value: Some(value) }), key_strindex: 0 }
}

#[cfg(test)]
mod tests {
    use prost::Message as _;
    use serde_json::{Value as Json, json};

    use super::*;
    use crate::export::testing::{Sample, service};
    use crate::stitch::span::{LinkMethod, Parent, SpanEvent, SpanId};

    fn only(span: Span) -> OtlpSpan {
        let mut request = request(&[Arc::new(span)]);
        request.resource_spans.remove(0).scope_spans.remove(0).spans.remove(0)
    }

    #[test]
    fn flags_say_whether_the_parent_is_remote_and_keep_the_w3c_bits() {
        let parent = |remote| Some(Parent { span: SpanId([9; 8]), method: LinkMethod::Header, remote });
        for (flags, parent, want) in
            [(3, None, 0x103), (1, parent(false), 0x101), (1, parent(true), 0x301), (0, parent(true), 0x300)]
        {
            let mut span = Sample::server(1);
            (span.flags, span.parent) = (flags, parent);
            assert_eq!(only(span).flags, want);
        }
    }

    #[test]
    fn an_error_sets_the_status_without_a_description_and_its_type_once() {
        let mut span = Sample::server(1);
        span.error = Some("503".into());
        let encoded = only(span.clone());
        assert_eq!(encoded.status, Some(Status { message: String::new(), code: 2 }));
        assert_eq!(encoded.attributes.iter().filter(|a| a.key == "error.type").count(), 1);
        span.attributes.push(("error.type", Value::Text("503".into())));
        assert_eq!(only(span).attributes.iter().filter(|a| a.key == "error.type").count(), 1);
        assert_eq!(only(Sample::server(1)).status, Some(Status { message: String::new(), code: 0 }));
    }

    #[test]
    fn a_span_with_a_parent_says_how_it_was_found() {
        let mut span = Sample::server(1);
        span.parent = Some(Parent { span: SpanId([7; 8]), method: LinkMethod::Stream, remote: true });
        let encoded = only(span);
        assert_eq!(encoded.parent_span_id, vec![7; 8]);
        assert!(encoded.attributes.contains(&text("spandrel.link.method", "stream")));
        let root = only(Sample::server(1));
        assert!(root.parent_span_id.is_empty());
        assert!(root.attributes.iter().all(|a| a.key != "spandrel.link.method"));
    }

    #[test]
    fn times_are_wall_times_and_an_end_never_precedes_its_start() {
        let mut span = Sample::server(1);
        (span.start, span.end, span.wall_offset) = (Monotonic(50), Monotonic(40), 1_000);
        span.events = vec![SpanEvent { time: Monotonic(45), name: "reset", attributes: Vec::new() }];
        let encoded = only(span);
        assert_eq!((encoded.start_time_unix_nano, encoded.end_time_unix_nano), (1_050, 1_050));
        assert_eq!(encoded.events.first().map(|e| e.time_unix_nano), Some(1_045));
    }

    #[test]
    fn spans_of_one_service_share_one_resource_even_when_it_was_looked_up_twice() {
        let (shop, shop_again, cart) = (service("shop", 10), service("shop", 10), service("cart", 11));
        let spans: Vec<_> = [&shop, &cart, &shop_again, &shop]
            .into_iter()
            .enumerate()
            .map(|(i, r)| {
                let mut span = Sample::server(i as u64 + 1);
                span.resource = Arc::clone(r);
                Arc::new(span)
            })
            .collect();
        let request = request(&spans);
        let shape: Vec<usize> = request.resource_spans.iter().map(|r| r.scope_spans[0].spans.len()).collect();
        assert_eq!(shape, [3, 1]);
        for group in &request.resource_spans {
            assert_eq!((&*group.schema_url, &*group.scope_spans[0].schema_url), (SCHEMA_URL, SCHEMA_URL));
            assert_eq!(group.scope_spans[0].scope.as_ref().map(|s| &*s.name), Some("spandrel"));
        }
    }

    #[test]
    fn json_is_written_as_otlp_asks() {
        let mut span = Sample::client(0x1122);
        span.error = Some("timeout".into());
        span.events = vec![SpanEvent {
            time: Monotonic(2_000_000_000),
            name: "connection_reset",
            attributes: vec![("during", Value::Text("receive".into()))],
        }];
        span.attributes.push(("yes", Value::Boolean(true)));
        let json: Json = serde_json::to_value(traces_data(&[Arc::new(span)])).unwrap();
        let span = &json["resourceSpans"][0]["scopeSpans"][0]["spans"][0];
        assert_eq!(span["traceId"], "00000000000000000000000000001122");
        assert_eq!(span["spanId"], "0000000000001122");
        assert_eq!(span["kind"], 3);
        assert_eq!(span["status"], json!({"message": "", "code": 2}));
        assert_eq!(span["startTimeUnixNano"], json!("1700000001000000000"));
        assert_eq!(span["flags"], 0x103);
        assert_eq!(span["events"][0]["timeUnixNano"], json!("1700000002000000000"));
        let attributes = span["attributes"].as_array().unwrap();
        assert!(
            attributes.contains(&json!({"key": "http.response.status_code", "value": {"intValue": "200"}}))
        );
        assert!(attributes.contains(&json!({"key": "yes", "value": {"boolValue": true}})));
        let text = json.to_string();
        assert!(!text.contains("null"), "a reader may not know what null means: {text}");
        assert!(!text.contains('_') || !text.contains("\"start_time"), "{text}");
    }

    #[test]
    fn protobuf_and_json_hold_the_same_message() {
        let spans: Vec<_> = (1..40).map(|n| Arc::new(Sample::server(n))).collect();
        let want = request(&spans);
        let proto = bodies(&spans, Encoding::Protobuf, usize::MAX).bodies.remove(0).bytes;
        let json = bodies(&spans, Encoding::Json, usize::MAX).bodies.remove(0).bytes;
        assert_eq!(ExportTraceServiceRequest::decode(proto).unwrap(), want);
        assert_eq!(serde_json::from_slice::<ExportTraceServiceRequest>(&json).unwrap(), want);
    }

    #[test]
    fn a_batch_above_the_limit_is_split_and_each_span_is_sent_once_or_reported() {
        let mut spans: Vec<_> = (1..=100).map(|n| Arc::new(Sample::server(n))).collect();
        let mut giant = Sample::server(1_000);
        giant.name = "x".repeat(20_000).into();
        spans.insert(37, Arc::new(giant));
        for encoding in [Encoding::Protobuf, Encoding::Json] {
            for limit in [3_000, 10_000, 19_000] {
                let split = bodies(&spans, encoding, limit);
                assert_eq!(split.unsent, [37], "{encoding:?} {limit}");
                let mut sent: Vec<usize> = split.bodies.iter().flat_map(|b| b.spans.clone()).collect();
                sent.extend(&split.unsent);
                sent.sort_unstable();
                assert_eq!(sent, (0..101).collect::<Vec<_>>());
                assert!(split.bodies.iter().all(|b| b.bytes.len() <= limit));
            }
        }
        assert!(bodies(&[], Encoding::Json, 10).bodies.is_empty(), "an empty envelope is never sent");
    }
}
