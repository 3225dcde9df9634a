//! What a remote procedure call that rides on HTTP is called, and what is said about it: gRPC, gRPC-Web, Connect.
//!
//! One call is one span, not this and one for HTTP. What it is follows from the content type, or, where a late join hides
//! that, from `grpc-status` or from exact message framing. Its status is what the server said; if it said nothing, what
//! ended the stream; and if that is not known, nothing is said (`spandrel.rpc.unknown`).
//!
//! It must never guess a method or a status.

use compact_str::ToCompactString as _;

use super::{Described, Endpoints, Settings, Subject, authority, text, url};
use crate::exchange::{FailureKind, StreamFacts};
use crate::identity::{Address, Role};
use crate::protocol::grpc::Messages;
use crate::protocol::{FieldName, Fields, Version};
use crate::stitch::http::url::Target;
use crate::stitch::span::{Text, Value};

/// Which kind of remote procedure call an exchange is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum System {
    Grpc,
    Connect,
}

impl System {
    /// The value of `rpc.system.name`.
    fn name(self) -> &'static str {
        match self {
            Self::Grpc => "grpc",
            Self::Connect => "connectrpc",
        }
    }
}

/// The kind of call that this is, if it is one.
pub(super) fn system(subject: &Subject<'_>) -> Option<System> {
    let request = &subject.request.fields;
    let response = subject.response.map(|response| &response.fields);
    let asked = request.first(FieldName::ContentType);
    let answered = response.and_then(|fields| fields.first(FieldName::ContentType));
    match asked.or(answered) {
        Some(kind) if is_grpc(kind) => return Some(System::Grpc),
        Some(kind) if kind.starts_with(b"application/connect+") => return Some(System::Connect),
        Some(_) if request.first(FieldName::ConnectProtocolVersion).is_some() => {
            return Some(System::Connect);
        }
        Some(_) => return None,
        None => {}
    }
    // The request's content type is not known, or it has none.
    let stream = subject.stream?;
    let says_so = status_field(subject).is_some() || request.first(FieldName::GrpcTimeout).is_some();
    (says_so || stream.grpc).then_some(System::Grpc)
}

/// `application/grpc`, `application/grpc+proto`, `application/grpc-web-text`, ... ("gRPC over HTTP2", "Requests").
fn is_grpc(kind: &[u8]) -> bool {
    let rest = kind.strip_prefix(b"application/grpc");
    rest.is_some_and(|rest| matches!(rest.first(), None | Some(b'+' | b';' | b'-' | b' ')))
}

/// Says what the conventions for RPC say about this call.
pub(super) fn describe(system: System, subject: &Subject<'_>, settings: &Settings, to: &mut Described) {
    let (status, derived) = status(system, subject);
    to.text("rpc.system.name", system.name(), settings);
    let method = method(&subject.request.target);
    let recognised = !matches!(status, Some(Status { code: UNIMPLEMENTED, .. }));
    to.name = match &method {
        Some(method) if recognised => method.clone(),
        _ => system.name().into(),
    };
    match (method, recognised) {
        (Some(method), true) => to.text("rpc.method", method, settings),
        (Some(method), false) => {
            // The server knows no such method, so neither does anybody's list of names.
            to.text("rpc.method", super::OTHER, settings);
            to.text("rpc.method_original", method, settings);
        }
        (None, _) => {}
    }
    if let Some(status) = status {
        to.text("rpc.response.status_code", status.text(), settings);
    }
    address(subject, settings, to);
    super::network(subject, settings, to);
    if let Some(stream) = subject.stream {
        messages(stream, to);
        unknown(stream, subject, status, settings, to);
    }
    if let Some(timeout) = subject.request.fields.first(FieldName::GrpcTimeout)
        && nanoseconds(timeout).is_some()
    {
        to.text("spandrel.rpc.timeout", text::harmless(timeout), settings);
    }
    if derived == Derived::FromDeadline {
        to.attributes.push(("spandrel.rpc.status_derived", Value::Text("deadline".into())));
    }
    outcome(subject, status, to);
}

/// `Service/Method`, without the leading slash; none if it is not known or no such path.
fn method(path: &[u8]) -> Option<Text> {
    let path = path.strip_prefix(b"/")?;
    let end = path.iter().position(|&byte| byte == b'?').unwrap_or(path.len());
    let path = path.get(..end)?;
    let slash = path.iter().rposition(|&byte| byte == b'/')?;
    let whole = slash > 0 && slash + 1 < path.len();
    whole.then(|| text::harmless(path))
}

/// The channel's target as far as the wire shows it: the authority, not the peer of the socket.
fn address(subject: &Subject<'_>, settings: &Settings, to: &mut Described) {
    let Endpoints { local, peer, tls: _ } = subject.endpoints;
    let target = Target::parse(&subject.request.method, &subject.request.target);
    let other = match subject.role {
        Role::Client => peer,
        Role::Server => local,
    };
    match (authority(subject, &target), other) {
        (Some(authority), _) => {
            to.text("server.address", authority.host, settings);
            let scheme = super::own_scheme(subject, &target);
            let default = scheme.and_then(|scheme| url::default_port(&scheme));
            if let Some(port) = authority.port.or(default) {
                to.integer("server.port", port);
            }
        }
        (None, Some(Address::Ip(_) | Address::Unix(_))) => {
            if let Some(other) = other {
                super::address(["server.address", "server.port"], other, settings, to);
            }
        }
        (None, None) => {}
    }
}

/// How many messages went each way, and how long they were on the wire. "At least" if not all were seen.
fn messages(stream: &StreamFacts, to: &mut Described) {
    let sides = [
        (stream.request_messages, REQUEST_MESSAGES, REQUEST_BYTES, REQUEST_AT_LEAST),
        (stream.response_messages, RESPONSE_MESSAGES, RESPONSE_BYTES, RESPONSE_AT_LEAST),
    ];
    for (messages, count_key, bytes_key, at_least_key) in sides {
        let Messages { count, bytes, compressed: _, at_least } = messages;
        to.attributes.push((count_key, Value::Integer(count.try_into().unwrap_or(i64::MAX))));
        to.attributes.push((bytes_key, Value::Integer(bytes.try_into().unwrap_or(i64::MAX))));
        if at_least {
            to.attributes.push((at_least_key, Value::Boolean(true)));
        }
    }
}

/// Says why a name or a status is missing, or where it is from.
fn unknown(
    stream: &StreamFacts,
    subject: &Subject<'_>,
    status: Option<Status>,
    settings: &Settings,
    to: &mut Described,
) {
    if stream.recalled {
        to.attributes.push(("spandrel.hpack.recalled", Value::Boolean(true)));
    }
    let method = subject.request.target.is_empty() && stream.request_unknown;
    let status = status.is_none() && stream.response_unknown;
    let what = match (method, status) {
        (true, true) => "method,status",
        (true, false) => "method",
        (false, true) => "status",
        (false, false) => return,
    };
    to.text("spandrel.rpc.unknown", what, settings);
    if let (true, Some(entry)) = (method, stream.path_entry) {
        to.attributes.push(("spandrel.hpack.entry", Value::Integer(entry)));
    }
}

/// A status of gRPC.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct Status {
    code: u16,
}

/// Whether a status is what the server said.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Derived {
    No,
    /// The stream was cancelled when the announced deadline was over. A program that cancels by itself in that same
    /// moment looks the same.
    FromDeadline,
}

impl Status {
    const fn new(code: u16) -> Self {
        Self { code }
    }

    fn name(self) -> Option<&'static str> {
        NAMES.get(usize::from(self.code)).copied()
    }

    fn text(self) -> Text {
        self.name().map_or_else(|| self.code.to_compact_string(), Text::from)
    }

    /// Whether the conventions call it an error at this end.
    fn is_error(self, role: Role) -> bool {
        match role {
            Role::Client => self.code != OK,
            Role::Server => {
                const ERRORS: [u16; 6] =
                    [UNKNOWN, DEADLINE_EXCEEDED, UNIMPLEMENTED, INTERNAL, UNAVAILABLE, DATA_LOSS];
                ERRORS.contains(&self.code) || self.name().is_none()
            }
        }
    }
}

/// What `grpc-status` says: in the trailers, or in the head if the response is nothing but trailers.
fn status_field(subject: &Subject<'_>) -> Option<Status> {
    let trailers = subject.stream.and_then(|stream| stream.trailers.as_ref());
    let head = subject.response.map(|response| &response.fields);
    let said = |fields: &Fields| -> Option<Status> {
        let value = fields.first(FieldName::GrpcStatus)?;
        let code = str::from_utf8(value).ok()?.trim_ascii().parse().ok()?;
        Some(Status::new(code))
    };
    trailers.and_then(said).or_else(|| head.and_then(said))
}

/// How the call ended; none if that is not known.
fn status(system: System, subject: &Subject<'_>) -> (Option<Status>, Derived) {
    if let Some(status) = status_field(subject) {
        return (Some(status), Derived::No);
    }
    if let Some(failure) = subject.failure {
        return failed(subject, failure.kind, failure.at.since(subject.began));
    }
    let Some(response) = subject.response.filter(|_| !subject.incomplete) else {
        return (None, Derived::No);
    };
    let hidden = subject.stream.is_some_and(|stream| stream.response_unknown);
    let web = subject.request.version != Version::Http2;
    let status = match (system, response.status) {
        (_, 0) => None,
        (System::Connect, 200) if !is_streaming_connect(subject) => Some(OK),
        // In bodies, which are not kept: the end of a stream and the code of an error in Connect, the trailers of gRPC-Web.
        (System::Connect, _) => None,
        (System::Grpc, 200) if web || hidden => None,
        (System::Grpc, 200) => Some(UNKNOWN),
        (_, status) => Some(of_http(status)),
    };
    (status.map(Status::new), Derived::No)
}

fn is_streaming_connect(subject: &Subject<'_>) -> bool {
    let kind = subject.request.fields.first(FieldName::ContentType);
    kind.is_some_and(|kind| kind.starts_with(b"application/connect+"))
}

/// What ended a call that has no status ("gRPC over HTTP2", "HTTP2 Transport Mapping", and what grpc-go does where that says
/// nothing).
fn failed(subject: &Subject<'_>, kind: FailureKind, after: u64) -> (Option<Status>, Derived) {
    let timeout = subject.request.fields.first(FieldName::GrpcTimeout).and_then(nanoseconds);
    let over = timeout.is_some_and(|timeout| after.saturating_add(CLOCKS) >= timeout);
    let code = match kind {
        FailureKind::Reset(8) if over => {
            return (Some(Status::new(DEADLINE_EXCEEDED)), Derived::FromDeadline);
        }
        // Its bytes are missing.
        FailureKind::Reset(u32::MAX) => return (None, Derived::No),
        FailureKind::Reset(8) => CANCELLED,
        FailureKind::Reset(7) | FailureKind::Refused => UNAVAILABLE,
        FailureKind::Reset(11) => RESOURCE_EXHAUSTED,
        FailureKind::Reset(12) => PERMISSION_DENIED,
        FailureKind::Reset(0..=6 | 9 | 10 | 13) => INTERNAL,
        FailureKind::Reset(_) => UNKNOWN,
        FailureKind::Cancelled if subject.role == Role::Client => CANCELLED,
        FailureKind::Cancelled
        | FailureKind::ConnectionReset
        | FailureKind::TimedOut
        | FailureKind::ConnectionClosed
        | FailureKind::ProcessExited
        | FailureKind::Socket(_) => UNAVAILABLE,
    };
    (Some(Status::new(code)), Derived::No)
}

/// What a response of HTTP without `grpc-status` means ("gRPC over HTTP2", `http-grpc-status-mapping.md`).
fn of_http(status: u16) -> u16 {
    match status {
        400 => INTERNAL,
        401 => UNAUTHENTICATED,
        403 => PERMISSION_DENIED,
        404 => UNIMPLEMENTED,
        429 | 502 | 503 | 504 => UNAVAILABLE,
        _ => UNKNOWN,
    }
}

/// `grpc-timeout`: one to eight digits and a unit ("gRPC over HTTP2", "Timeout").
fn nanoseconds(timeout: &[u8]) -> Option<u64> {
    let (unit, digits) = timeout.split_last()?;
    let unit: u64 = match unit {
        b'H' => 3_600_000_000_000,
        b'M' => 60_000_000_000,
        b'S' => 1_000_000_000,
        b'm' => 1_000_000,
        b'u' => 1_000,
        b'n' => 1,
        _ => return None,
    };
    if digits.is_empty() || digits.len() > 8 || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let count: u64 = str::from_utf8(digits).ok()?.parse().ok()?;
    count.checked_mul(unit)
}

/// Whether it went wrong, and what happened to the stream.
fn outcome(subject: &Subject<'_>, status: Option<Status>, to: &mut Described) {
    // Of a lost connection the socket's error says more than the status that follows from it.
    let transport = subject.failure.map(|failure| failure.kind).filter(|kind| {
        !matches!(kind, FailureKind::Reset(_) | FailureKind::Refused | FailureKind::Cancelled)
    });
    to.error = match (status, transport) {
        (Some(status), Some(kind)) if status.is_error(subject.role) && status_field(subject).is_none() => {
            Some(kind.error_type().into())
        }
        (Some(status), _) if status.is_error(subject.role) => Some(status.text()),
        (None, _) => {
            let bad = if subject.role == Role::Client { 400 } else { 500 };
            let answer = subject.response.filter(|response| (bad..600).contains(&response.status));
            answer.map(|response| response.status.to_compact_string())
        }
        _ => None,
    };
    if let Some(error) = &to.error {
        to.attributes.push(("error.type", Value::Text(error.clone())));
    }
    if let Some(failure) = subject.failure {
        let cancelled = matches!(status, Some(Status { code: CANCELLED }));
        to.events.push(super::event(&failure, cancelled));
    }
}

/// How much earlier than announced a deadline may seem to be over, in nanoseconds: the two ends begin to count at
/// different moments, and what is announced is rounded.
const CLOCKS: u64 = 5_000_000;

const REQUEST_MESSAGES: &str = "spandrel.rpc.request.messages";
const REQUEST_BYTES: &str = "spandrel.rpc.request.message_bytes";
const REQUEST_AT_LEAST: &str = "spandrel.rpc.request.messages_at_least";
const RESPONSE_MESSAGES: &str = "spandrel.rpc.response.messages";
const RESPONSE_BYTES: &str = "spandrel.rpc.response.message_bytes";
const RESPONSE_AT_LEAST: &str = "spandrel.rpc.response.messages_at_least";

const OK: u16 = 0;
const CANCELLED: u16 = 1;
const UNKNOWN: u16 = 2;
const DEADLINE_EXCEEDED: u16 = 4;
const PERMISSION_DENIED: u16 = 7;
const RESOURCE_EXHAUSTED: u16 = 8;
const UNIMPLEMENTED: u16 = 12;
const INTERNAL: u16 = 13;
const UNAVAILABLE: u16 = 14;
const DATA_LOSS: u16 = 15;
const UNAUTHENTICATED: u16 = 16;

/// The names of the statuses, by number ("Status codes and their use in gRPC").
const NAMES: [&str; 17] = [
    "OK",
    "CANCELLED",
    "UNKNOWN",
    "INVALID_ARGUMENT",
    "DEADLINE_EXCEEDED",
    "NOT_FOUND",
    "ALREADY_EXISTS",
    "PERMISSION_DENIED",
    "RESOURCE_EXHAUSTED",
    "FAILED_PRECONDITION",
    "ABORTED",
    "OUT_OF_RANGE",
    "UNIMPLEMENTED",
    "INTERNAL",
    "UNAVAILABLE",
    "DATA_LOSS",
    "UNAUTHENTICATED",
];
