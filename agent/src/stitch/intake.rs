//! Which exchanges are telemetry on its way: spans, metrics and logs being sent to a collector.
//!
//! They get no span at either end by default, so that what Spandrel exports does not come back as new
//! traffic to trace. It must look at the request alone, so that both ends decide alike, and must not
//! take a service's own `/api/v1/logs` for intake.

use crate::protocol::{FieldName, RequestHead};

/// What becomes of exchanges that carry telemetry.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
pub enum Intake {
    /// They and the calls made to serve them get no span; counted.
    #[default]
    Suppress,
    /// They are traced like any other.
    Trace,
}

/// Whether a request hands over telemetry in OTLP (the OTLP specification, "OTLP/HTTP Request" and
/// "OTLP/gRPC"), or to Zipkin's or Jaeger's collector.
pub fn is_intake(head: &RequestHead) -> bool {
    if &*head.method != b"POST" {
        return false;
    }
    let path = path(&head.target);
    let json = content_type(head, &[b"application/json"]);
    let protobuf = content_type(head, &[b"application/x-protobuf", b"application/protobuf"]);
    path.starts_with(b"/opentelemetry.proto.collector.")
        || json
            && (OTLP.contains(&path) || path.strip_prefix(b"/otlp").is_some_and(|rest| OTLP.contains(&rest)))
        || protobuf && OTLP.iter().any(|end| path.ends_with(end))
        || ZIPKIN.contains(&path)
        || path == JAEGER
            && content_type(head, &[b"application/x-thrift", b"application/vnd.apache.thrift.binary"])
}

/// The path of a target in origin-form or absolute-form (RFC 9112 §3.2), without query.
fn path(target: &[u8]) -> &[u8] {
    let end = target.iter().position(|&b| b == b'?' || b == b'#').unwrap_or(target.len());
    let target = target.get(..end).unwrap_or_default();
    if target.starts_with(b"/") {
        return target;
    }
    let Some(scheme) = target.windows(3).position(|w| w == b"://") else { return b"" };
    let rest = target.get(scheme + 3..).unwrap_or_default();
    rest.iter().position(|&b| b == b'/').and_then(|slash| rest.get(slash..)).unwrap_or_default()
}

/// Whether the media type, without its parameters, is one of these.
fn content_type(head: &RequestHead, types: &[&[u8]]) -> bool {
    let value = head.fields.first(FieldName::ContentType).unwrap_or_default();
    let media = value.split(|&b| b == b';').next().unwrap_or_default().trim_ascii();
    types.iter().any(|t| media.eq_ignore_ascii_case(t))
}

/// The default paths of OTLP/HTTP. With Protobuf, also below a prefix: nothing else looks like that.
const OTLP: [&[u8]; 4] = [b"/v1/traces", b"/v1/metrics", b"/v1/logs", b"/v1development/profiles"];
/// Zipkin's API, v2 and v1.
const ZIPKIN: [&[u8]; 2] = [b"/api/v2/spans", b"/api/v1/spans"];
/// The HTTP endpoint of Jaeger's collector, which takes Thrift.
const JAEGER: &[u8] = b"/api/traces";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::{Fields, Version};

    #[track_caller]
    fn check(request: &str, want: bool) {
        let mut words = request.split(' ');
        let method = words.next().unwrap().as_bytes().into();
        let target = words.next().unwrap().as_bytes().into();
        let rest = words.collect::<Vec<_>>().join(" ");
        let fields = Fields(if rest.is_empty() {
            Vec::new()
        } else {
            vec![(FieldName::ContentType, rest.as_bytes().into())]
        });
        let head = RequestHead { method, target, version: Version::Http11, fields };
        assert_eq!(is_intake(&head), want, "{request}");
    }

    #[test]
    fn telemetry_is_known_by_method_path_and_media_type() {
        check("POST /v1/traces application/x-protobuf", true);
        check("POST /v1/metrics application/json; charset=utf-8", true);
        check("POST /v1/logs Application/JSON", true);
        check("POST http://collector:4318/v1/traces?x=1 application/json", true);
        check("POST /otlp/v1/traces application/json", true);
        check("POST /some/tenant/v1/traces application/x-protobuf", true);
        check("POST /opentelemetry.proto.collector.trace.v1.TraceService/Export application/grpc", true);
        check("POST /api/v2/spans application/json", true);
        check("POST /api/traces application/x-thrift", true);
    }

    #[test]
    fn what_only_resembles_telemetry_is_traced() {
        check("GET /v1/traces application/json", false);
        check("POST /v1/traces", false);
        check("POST /v1/traces text/plain", false);
        check("POST /api/v1/logs application/json", false);
        check("POST /api/traces application/json", false);
        check("POST /v1/traces/7 application/x-protobuf", false);
        check("POST collector:4318 application/json", false);
        check("POST * application/json", false);
    }
}
