//! What a destination's answer means: taken, taken in part, try again (when?), or never.
//!
//! Pure: the rules of OTLP ("Failures", OTLP specification 1.11) for gRPC status codes and HTTP statuses, the
//! reading of what an answer carries, and how long to wait. An answer is input from outside: nothing here
//! panics on it, and no wait is longer than [`MAX_SERVER_WAIT`].

use std::error::Error;
use std::io;
use std::time::{Duration, SystemTime};

use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceResponse;
use prost::Message;
use tonic::Code;

/// What became of one attempt.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Answer {
    /// The destination took the message, except for `rejected` items of it.
    Accepted {
        /// Items that it dropped; never to be sent again.
        rejected: u64,
        /// What it says about it; may be a warning although nothing was rejected.
        message: String,
    },
    /// Worth another attempt.
    Retry {
        /// Why, in a few words.
        reason: String,
        /// How long to wait, if the destination says so.
        after: Option<Duration>,
        /// Whether anybody answered.
        reached: Reached,
    },
    /// No other attempt would go better.
    Refused {
        /// Why, in a few words.
        reason: String,
    },
}

/// Whether an attempt got an answer.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Reached {
    /// There was an answer.
    Yes,
    /// There was none: no connection, or it broke, or the time was over.
    No,
}

impl Answer {
    /// Nobody answered.
    pub fn unreached(reason: impl Into<String>) -> Self {
        Self::Retry { reason: reason.into(), after: None, reached: Reached::No }
    }

    /// From the reply to a successful call. A reply that cannot be read changes nothing: the call succeeded.
    pub fn accepted(reply: Reply) -> Self {
        Self::Accepted { rejected: reply.rejected, message: reply.message }
    }
}

/// What a reply to a successful call says; the same for traces and metrics.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Reply {
    /// Rejected spans or data points.
    pub rejected: u64,
    /// The destination's message, made harmless.
    pub message: String,
}

impl Reply {
    /// From the message: `ExportMetricsServiceResponse` has the same fields with the same numbers.
    pub fn from_message(message: ExportTraceServiceResponse) -> Self {
        let partial = message.partial_success.unwrap_or_default();
        Self {
            rejected: u64::try_from(partial.rejected_spans).unwrap_or_default(),
            message: harmless(&partial.error_message),
        }
    }

    /// From an HTTP body.
    pub fn from_body(body: &[u8], json: IsJson) -> Self {
        match json {
            IsJson::No => {
                ExportTraceServiceResponse::decode(body).map(Self::from_message).unwrap_or_default()
            }
            IsJson::Yes => {
                let json: serde_json::Value = serde_json::from_slice(body).unwrap_or_default();
                let partial = json.get("partialSuccess");
                let field = |name| partial.and_then(|partial| partial.get(name));
                let number = field("rejectedSpans").or_else(|| field("rejectedDataPoints"));
                Self {
                    // OTLP/JSON writes 64-bit integers as strings; readers must take numbers as well.
                    rejected: number
                        .and_then(|n| n.as_u64().or_else(|| n.as_str().and_then(|text| text.parse().ok())))
                        .unwrap_or_default(),
                    message: harmless(
                        field("errorMessage").and_then(|text| text.as_str()).unwrap_or_default(),
                    ),
                }
            }
        }
    }
}

/// Whether an HTTP body is JSON.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum IsJson {
    /// `application/json`.
    Yes,
    /// Anything else.
    No,
}

/// An HTTP answer that is no success: 429, 502, 503 and 504 are worth another attempt, nothing else is.
pub fn http_failure(
    status: u16,
    phrase: &str,
    retry_after: Option<&str>,
    body: &[u8],
    json: IsJson,
    now: SystemTime,
) -> Answer {
    let said = match json {
        IsJson::Yes => serde_json::from_slice::<serde_json::Value>(body)
            .ok()
            .and_then(|json| json.get("message").and_then(|text| text.as_str().map(harmless)))
            .unwrap_or_default(),
        IsJson::No => RpcStatus::decode(body).map(|status| harmless(&status.message)).unwrap_or_default(),
    };
    let mut reason = format!("{status} {phrase}").trim_end().to_owned();
    if !said.is_empty() {
        reason = format!("{reason}: {said}");
    }
    match status {
        429 | 502 | 503 | 504 => Answer::Retry {
            reason,
            after: retry_after.and_then(|value| parse_retry_after(value, now)),
            reached: Reached::Yes,
        },
        _ => Answer::Refused { reason },
    }
}

/// A gRPC status that is no success and came from the server.
pub fn grpc_failure(code: Code, message: &str, details: &[u8]) -> Answer {
    let said = harmless(message);
    let name = code_name(code);
    let reason = if said.is_empty() { name.to_owned() } else { format!("{name}: {said}") };
    let after = retry_info(details);
    let retry = match code {
        Code::Cancelled
        | Code::DeadlineExceeded
        | Code::Aborted
        | Code::OutOfRange
        | Code::Unavailable
        | Code::DataLoss => true,
        // Only a server that says when means "later"; else it means "too much, for good".
        Code::ResourceExhausted => after.is_some(),
        Code::Ok
        | Code::Unknown
        | Code::InvalidArgument
        | Code::NotFound
        | Code::AlreadyExists
        | Code::PermissionDenied
        | Code::FailedPrecondition
        | Code::Unimplemented
        | Code::Internal
        | Code::Unauthenticated => false,
    };
    if retry { Answer::Retry { reason, after, reached: Reached::Yes } } else { Answer::Refused { reason } }
}

/// `Retry-After` (RFC 9110 §10.2.3): seconds, or a date.
pub fn parse_retry_after(value: &str, now: SystemTime) -> Option<Duration> {
    let value = value.trim();
    let wait = match value.parse::<u64>() {
        Ok(seconds) => Duration::from_secs(seconds),
        Err(_) => httpdate::parse_http_date(value).ok()?.duration_since(now).unwrap_or_default(),
    };
    Some(wait.min(MAX_SERVER_WAIT))
}

/// `google.rpc.RetryInfo.retry_delay` in the details of a gRPC status.
pub fn retry_info(details: &[u8]) -> Option<Duration> {
    let status = RpcStatus::decode(details).ok()?;
    let any = status.details.iter().find(|any| any.type_url.ends_with("/google.rpc.RetryInfo"))?;
    let delay = RetryInfo::decode(&*any.value).ok()?.retry_delay?;
    let seconds = u64::try_from(delay.seconds).unwrap_or_default();
    let nanos = u32::try_from(delay.nanos).unwrap_or_default().min(999_999_999);
    Some(Duration::new(seconds, nanos).min(MAX_SERVER_WAIT))
}

/// How long to wait when the destination does not say: grows by half each time, with jitter of ±50 %,
/// so that many agents do not come back at the same moment.
#[derive(Clone, Copy, Debug)]
pub struct BackOff {
    /// The first wait, before jitter.
    pub first: Duration,
    /// The longest wait, before jitter.
    pub longest: Duration,
}

impl Default for BackOff {
    fn default() -> Self {
        // One connection attempt in 10 s is no load, and spans are seen soon after a backend is back.
        Self { first: Duration::from_secs(1), longest: Duration::from_secs(10) }
    }
}

impl BackOff {
    /// The wait after `failures` failures in a row (at least 1); `random` is from 0 to 1.
    pub fn wait(&self, failures: u32, random: f64) -> Duration {
        let exponent = i32::try_from(failures.saturating_sub(1)).unwrap_or(i32::MAX).min(64);
        let plain = (self.first.as_secs_f64() * 1.5_f64.powi(exponent)).min(self.longest.as_secs_f64());
        Duration::try_from_secs_f64(plain * (0.5 + random.clamp(0.0, 1.0))).unwrap_or(self.longest)
    }
}

/// The innermost reason of an error, without the layers that carried it: `connection refused`.
pub fn root_cause(error: &(dyn Error + 'static)) -> String {
    let mut error = error;
    loop {
        let io = error.downcast_ref::<io::Error>();
        if let Some(io) = io
            && io.raw_os_error().is_some()
        {
            return io.kind().to_string();
        }
        // An `io::Error` around another error names the source of that error as its own, not the error.
        let wrapped = io.and_then(|io| io.get_ref()).map(|inner| inner as &(dyn Error + 'static));
        match wrapped.or_else(|| error.source()) {
            Some(deeper) => error = deeper,
            None => return harmless(&error.to_string()),
        }
    }
}

/// A text from outside, fit for one line of a log: no control characters, at most 300 characters.
pub fn harmless(text: &str) -> String {
    let mut clean: String = text
        .chars()
        .take(MAX_MESSAGE)
        .map(|character| if is_harmful(character) { ' ' } else { character })
        .collect();
    if text.chars().nth(MAX_MESSAGE).is_some() {
        clean.push('…');
    }
    clean.trim().to_owned()
}

/// Control characters, and those that change the direction of the text around them.
fn is_harmful(character: char) -> bool {
    character.is_control()
        || matches!(character, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

fn code_name(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "CANCELLED",
        Code::Unknown => "UNKNOWN",
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::NotFound => "NOT_FOUND",
        Code::AlreadyExists => "ALREADY_EXISTS",
        Code::PermissionDenied => "PERMISSION_DENIED",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Code::FailedPrecondition => "FAILED_PRECONDITION",
        Code::Aborted => "ABORTED",
        Code::OutOfRange => "OUT_OF_RANGE",
        Code::Unimplemented => "UNIMPLEMENTED",
        Code::Internal => "INTERNAL",
        Code::Unavailable => "UNAVAILABLE",
        Code::DataLoss => "DATA_LOSS",
        Code::Unauthenticated => "UNAUTHENTICATED",
    }
}

/// `google.rpc.Status` (googleapis, `google/rpc/status.proto`).
#[derive(Clone, PartialEq, Message)]
pub struct RpcStatus {
    /// A gRPC status code.
    #[prost(int32, tag = "1")]
    pub code: i32,
    /// For developers.
    #[prost(string, tag = "2")]
    pub message: String,
    /// Messages of any type.
    #[prost(message, repeated, tag = "3")]
    pub details: Vec<RpcAny>,
}

/// `google.protobuf.Any`.
#[derive(Clone, PartialEq, Message)]
pub struct RpcAny {
    /// What `value` is.
    #[prost(string, tag = "1")]
    pub type_url: String,
    /// A message.
    #[prost(bytes = "vec", tag = "2")]
    pub value: Vec<u8>,
}

/// `google.rpc.RetryInfo` (googleapis, `google/rpc/error_details.proto`).
#[derive(Clone, PartialEq, Message)]
pub struct RetryInfo {
    /// How long to wait at least.
    #[prost(message, optional, tag = "1")]
    pub retry_delay: Option<RpcDuration>,
}

/// `google.protobuf.Duration`.
#[derive(Clone, Copy, PartialEq, Message)]
pub struct RpcDuration {
    /// Whole seconds.
    #[prost(int64, tag = "1")]
    pub seconds: i64,
    /// And so many nanoseconds.
    #[prost(int32, tag = "2")]
    pub nanos: i32,
}

/// The longest wait that a destination may ask for: one wrong date must not silence the agent for good.
pub const MAX_SERVER_WAIT: Duration = Duration::from_secs(300);

/// How much of a destination's message is repeated in the log.
const MAX_MESSAGE: usize = 300;

#[cfg(test)]
mod tests {
    use opentelemetry_proto::tonic::collector::trace::v1::ExportTracePartialSuccess;

    use super::*;

    fn with_retry_info(seconds: i64, nanos: i32) -> Vec<u8> {
        let info = RetryInfo { retry_delay: Some(RpcDuration { seconds, nanos }) };
        RpcStatus {
            code: 8,
            message: String::new(),
            details: vec![RpcAny {
                type_url: "type.googleapis.com/google.rpc.RetryInfo".into(),
                value: info.encode_to_vec(),
            }],
        }
        .encode_to_vec()
    }

    #[test]
    fn exactly_the_retryable_grpc_codes_are_retried() {
        let retried: Vec<_> = (0..=16)
            .filter(|&code| {
                matches!(
                    grpc_failure(Code::from_i32(code), "", &[]),
                    Answer::Retry { reached: Reached::Yes, .. }
                )
            })
            .collect();
        assert_eq!(retried, [1, 4, 10, 11, 14, 15]);
        let exhausted = grpc_failure(Code::ResourceExhausted, "later", &with_retry_info(2, 500_000_000));
        assert_eq!(
            exhausted,
            Answer::Retry {
                reason: "RESOURCE_EXHAUSTED: later".into(),
                after: Some(Duration::from_millis(2500)),
                reached: Reached::Yes
            }
        );
    }

    #[test]
    fn exactly_the_retryable_http_statuses_are_retried() {
        let answer = |status| http_failure(status, "", None, &[], IsJson::No, SystemTime::UNIX_EPOCH);
        let retried: Vec<u16> = (100..=599).filter(|&s| matches!(answer(s), Answer::Retry { .. })).collect();
        assert_eq!(retried, [429, 502, 503, 504]);
    }

    #[test]
    fn retry_after_is_seconds_or_a_date_and_never_longer_than_the_bound() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(784_111_777); // Sun, 06 Nov 1994 08:49:37 GMT
        for (value, want) in [
            ("7", Some(7)),
            (" 0 ", Some(0)),
            ("Sun, 06 Nov 1994 08:49:40 GMT", Some(3)),
            ("Sun, 06 Nov 1994 08:00:00 GMT", Some(0)),
            ("99999999", Some(300)),
            ("Fri, 31 Dec 9999 23:59:59 GMT", Some(300)),
            ("-1", None),
            ("soon", None),
            ("", None),
        ] {
            assert_eq!(parse_retry_after(value, now), want.map(Duration::from_secs), "{value:?}");
        }
    }

    #[test]
    fn a_body_explains_a_failure_in_either_encoding() {
        let status = RpcStatus { code: 3, message: "no\u{1b}[2J way".into(), details: Vec::new() };
        let now = SystemTime::UNIX_EPOCH;
        assert_eq!(
            http_failure(400, "Bad Request", None, &status.encode_to_vec(), IsJson::No, now),
            Answer::Refused { reason: "400 Bad Request: no [2J way".into() }
        );
        assert_eq!(
            http_failure(503, "", Some("2"), br#"{"code":14,"message":"busy"}"#, IsJson::Yes, now),
            Answer::Retry {
                reason: "503: busy".into(),
                after: Some(Duration::from_secs(2)),
                reached: Reached::Yes
            }
        );
        assert_eq!(
            http_failure(404, "Not Found", None, b"<html>", IsJson::No, now),
            Answer::Refused { reason: "404 Not Found".into() }
        );
    }

    #[test]
    fn a_partial_success_is_read_from_protobuf_and_from_json() {
        let message = ExportTraceServiceResponse {
            partial_success: Some(ExportTracePartialSuccess {
                rejected_spans: 3,
                error_message: "old".into(),
            }),
        };
        let want = Reply { rejected: 3, message: "old".into() };
        assert_eq!(Reply::from_body(&message.encode_to_vec(), IsJson::No), want);
        for json in [
            r#"{"partialSuccess":{"rejectedSpans":"3","errorMessage":"old"}}"#,
            r#"{"partialSuccess":{"rejectedDataPoints":3,"errorMessage":"old"}}"#,
        ] {
            assert_eq!(Reply::from_body(json.as_bytes(), IsJson::Yes), want);
        }
        for (body, json) in
            [(&b"{}"[..], IsJson::Yes), (b"", IsJson::No), (b"<html>", IsJson::Yes), (b"\xff", IsJson::No)]
        {
            assert_eq!(Reply::from_body(body, json), Reply::default());
        }
    }

    #[test]
    fn waits_grow_to_their_bound_and_are_spread() {
        let back_off = BackOff { first: Duration::from_secs(1), longest: Duration::from_secs(10) };
        let middle: Vec<u64> = (1..9).map(|n| back_off.wait(n, 0.5).as_millis() as u64).collect();
        assert_eq!(middle, [1_000, 1_500, 2_250, 3_375, 5_062, 7_593, 10_000, 10_000]);
        assert_eq!(back_off.wait(1, 0.0), Duration::from_millis(500));
        assert_eq!(back_off.wait(u32::MAX, 1.0), Duration::from_secs(15));
        assert_eq!(back_off.wait(0, f64::NAN.max(0.0)), Duration::from_millis(500));
    }

    #[test]
    fn the_innermost_reason_is_said_without_its_wrapping() {
        let refused = io::Error::from_raw_os_error(111);
        assert_eq!(root_cause(&io::Error::other(refused)), "connection refused");
        assert_eq!(root_cause(&io::Error::other("name\nunknown")), "name unknown");
    }
}
