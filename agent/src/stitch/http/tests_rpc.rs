//! What is said of remote procedure calls: names, statuses, and what is not known.

use super::*;
use crate::exchange::Reset;
use crate::protocol::Fields;
use crate::protocol::grpc::Messages;

/// A call: request fields, then how it went.
struct Call {
    role: Role,
    path: &'static str,
    fields: Vec<(FieldName, &'static str)>,
    /// The response's status and fields.
    response: Option<(u16, Vec<(FieldName, &'static str)>)>,
    trailers: Option<Vec<(FieldName, &'static str)>>,
    failure: Option<FailureKind>,
    /// When it failed, in milliseconds.
    after: u64,
    facts: StreamFacts,
    version: Version,
}

const GRPC: (FieldName, &str) = (FieldName::ContentType, "application/grpc");

fn fields(list: &[(FieldName, &'static str)]) -> Fields {
    Fields(list.iter().map(|(name, value)| (*name, value.as_bytes().into())).collect())
}

impl Call {
    fn new(role: Role) -> Self {
        Self {
            role,
            path: "/shop.Cart/Add",
            fields: vec![GRPC, (FieldName::Host, "cart:50051"), (FieldName::Scheme, "http")],
            response: Some((200, vec![GRPC])),
            trailers: Some(vec![(FieldName::GrpcStatus, "0")]),
            failure: None,
            after: 0,
            facts: StreamFacts::default(),
            version: Version::Http2,
        }
    }

    fn failed(role: Role, kind: FailureKind, after: u64) -> Self {
        Self { response: None, trailers: None, failure: Some(kind), after, ..Self::new(role) }
    }

    fn describe(mut self) -> Described {
        self.facts.trailers = self.trailers.as_deref().map(fields);
        let request = RequestHead {
            method: b"POST".as_slice().into(),
            target: self.path.as_bytes().into(),
            version: self.version,
            fields: fields(&self.fields),
        };
        let response = self.response.as_ref().map(|(status, list)| ResponseHead {
            status: *status,
            version: self.version,
            fields: fields(list),
        });
        let at = Monotonic(1_000_000_000 + self.after * 1_000_000);
        let subject = Subject {
            role: self.role,
            request: &request,
            response: response.as_ref(),
            endpoints: Endpoints::default(),
            failure: self.failure.map(|kind| Failure { kind, at, during: Direction::Receive }),
            stream: (self.version == Version::Http2).then_some(&self.facts),
            began: Monotonic(1_000_000_000),
            incomplete: false,
        };
        describe(&subject, &Settings::default())
    }
}

/// `name status error`, `-` for what is not there.
#[track_caller]
fn check(call: Call, want: &str) -> Described {
    let described = call.describe();
    let status = described.attributes.iter().find(|(key, _)| *key == "rpc.response.status_code");
    let status = match status {
        Some((_, Value::Text(status))) => status.as_str(),
        _ => "-",
    };
    let error = described.error.as_deref().unwrap_or("-");
    assert_eq!(format!("{} {status} {error}", described.name), want, "{described:#?}");
    described
}

fn attribute<'a>(described: &'a Described, key: &str) -> Option<&'a Value> {
    described.attributes.iter().find(|(name, _)| *name == key).map(|(_, value)| value)
}

#[test]
fn the_status_is_that_of_the_trailers_or_of_a_head_that_is_all() {
    check(Call::new(Role::Client), "shop.Cart/Add OK -");
    let status = |status| Some(vec![(FieldName::GrpcStatus, status)]);
    check(Call { trailers: status("5"), ..Call::new(Role::Client) }, "shop.Cart/Add NOT_FOUND NOT_FOUND");
    check(Call { trailers: status("5"), ..Call::new(Role::Server) }, "shop.Cart/Add NOT_FOUND -");
    check(Call { trailers: status("13"), ..Call::new(Role::Server) }, "shop.Cart/Add INTERNAL INTERNAL");
    let only = Some((200, vec![GRPC, (FieldName::GrpcStatus, "14")]));
    check(
        Call { response: only, trailers: None, ..Call::new(Role::Client) },
        "shop.Cart/Add UNAVAILABLE UNAVAILABLE",
    );
}

#[test]
fn a_method_that_the_server_does_not_know_names_nothing() {
    let trailers = Some(vec![(FieldName::GrpcStatus, "12")]);
    let described = check(Call { trailers, ..Call::new(Role::Server) }, "grpc UNIMPLEMENTED UNIMPLEMENTED");
    assert_eq!(attribute(&described, "rpc.method"), Some(&Value::Text("_OTHER".into())));
    assert_eq!(attribute(&described, "rpc.method_original"), Some(&Value::Text("shop.Cart/Add".into())));
}

#[test]
fn what_ends_a_stream_is_its_status_if_the_server_said_none() {
    use FailureKind::*;
    for (kind, client, server) in [
        (Reset(8), "CANCELLED CANCELLED", "CANCELLED -"),
        (Reset(7), "UNAVAILABLE UNAVAILABLE", "UNAVAILABLE UNAVAILABLE"),
        (Reset(11), "RESOURCE_EXHAUSTED RESOURCE_EXHAUSTED", "RESOURCE_EXHAUSTED -"),
        (Reset(2), "INTERNAL INTERNAL", "INTERNAL INTERNAL"),
        // The frame was seen, and its code is missing.
        (Reset(u32::MAX), "- -", "- -"),
        (Refused, "UNAVAILABLE UNAVAILABLE", "UNAVAILABLE UNAVAILABLE"),
        (ConnectionReset, "UNAVAILABLE connection_reset", "UNAVAILABLE connection_reset"),
        (Cancelled, "CANCELLED CANCELLED", "UNAVAILABLE UNAVAILABLE"),
    ] {
        check(Call::failed(Role::Client, kind, 10), &format!("shop.Cart/Add {client}"));
        check(Call::failed(Role::Server, kind, 10), &format!("shop.Cart/Add {server}"));
    }
}

#[test]
fn a_stream_that_is_cancelled_when_its_deadline_is_over_has_exceeded_it() {
    let timed = |after| {
        let mut call = Call::failed(Role::Client, FailureKind::Reset(8), after);
        call.fields.push((FieldName::GrpcTimeout, "200m"));
        call
    };
    let described = check(timed(202), "shop.Cart/Add DEADLINE_EXCEEDED DEADLINE_EXCEEDED");
    assert_eq!(attribute(&described, "spandrel.rpc.status_derived"), Some(&Value::Text("deadline".into())));
    check(timed(150), "shop.Cart/Add CANCELLED CANCELLED");
}

#[test]
fn a_reset_after_the_trailers_changes_nothing() {
    let mut call = Call::new(Role::Client);
    call.facts.reset = Some(Reset { code: Some(8), by: Direction::Send, at: Monotonic(5) });
    check(call, "shop.Cart/Add OK -");
}

#[test]
fn what_a_late_join_hides_is_said_to_be_unknown() {
    let mut call = Call::new(Role::Client);
    (call.path, call.trailers) = ("", Some(Vec::new()));
    (call.facts.request_unknown, call.facts.response_unknown) = (true, true);
    let described = check(call, "grpc - -");
    assert_eq!(attribute(&described, "spandrel.rpc.unknown"), Some(&Value::Text("method,status".into())));
    // Nothing but exact framing says that it is gRPC.
    let mut call = Call::new(Role::Client);
    (call.path, call.trailers, call.fields) = ("", Some(Vec::new()), Vec::new());
    call.response = Some((200, Vec::new()));
    (call.facts.request_unknown, call.facts.response_unknown, call.facts.grpc) = (true, true, true);
    check(call, "grpc - -");
}

#[test]
fn what_is_not_said_to_be_grpc_is_http() {
    let mut call = Call::new(Role::Client);
    (call.path, call.trailers, call.fields) = ("/a", None, vec![(FieldName::Host, "h")]);
    call.response = Some((200, Vec::new()));
    let described = call.describe();
    assert_eq!(described.name, "POST");
    assert_eq!(attribute(&described, "network.protocol.version"), Some(&Value::Text("2".into())));
}

#[test]
fn an_answer_without_grpc_status_is_mapped_from_http() {
    let mut call = Call::new(Role::Client);
    (call.response, call.trailers) = (Some((503, Vec::new())), None);
    check(call, "shop.Cart/Add UNAVAILABLE UNAVAILABLE");
    let mut call = Call::new(Role::Client);
    (call.response, call.trailers) = (Some((200, vec![GRPC])), None);
    check(call, "shop.Cart/Add UNKNOWN UNKNOWN");
}

#[test]
fn calls_over_http1_are_calls_too() {
    let web = vec![(FieldName::ContentType, "application/grpc-web+proto")];
    let response = Some((200, vec![(FieldName::GrpcStatus, "3")]));
    let call = Call { version: Version::Http11, fields: web.clone(), response, ..Call::new(Role::Client) };
    check(call, "shop.Cart/Add INVALID_ARGUMENT INVALID_ARGUMENT");
    // The trailers are in the body, which is not kept.
    let call = Call {
        version: Version::Http11,
        fields: web,
        response: Some((200, Vec::new())),
        ..Call::new(Role::Client)
    };
    check(call, "shop.Cart/Add - -");
    let connect =
        vec![(FieldName::ContentType, "application/json"), (FieldName::ConnectProtocolVersion, "1")];
    let call = Call { version: Version::Http11, fields: connect, ..Call::new(Role::Client) };
    check(call, "shop.Cart/Add OK -");
    // Which error it was stands in the body.
    let connect = vec![(FieldName::ContentType, "application/connect+proto")];
    let response = Some((400, Vec::new()));
    let call = Call { version: Version::Http11, fields: connect, response, ..Call::new(Role::Client) };
    check(call, "shop.Cart/Add - 400");
}

#[test]
fn messages_are_counted_and_said_to_be_a_lower_bound_where_they_are() {
    let mut call = Call::new(Role::Client);
    call.facts.request_messages = Messages { count: 3, bytes: 70, compressed: 0, at_least: false };
    call.facts.response_messages = Messages { count: 1, bytes: 7, compressed: 1, at_least: true };
    let described = call.describe();
    assert_eq!(attribute(&described, "spandrel.rpc.request.messages"), Some(&Value::Integer(3)));
    assert_eq!(attribute(&described, "spandrel.rpc.request.message_bytes"), Some(&Value::Integer(70)));
    assert_eq!(attribute(&described, "spandrel.rpc.request.messages_at_least"), None);
    assert_eq!(attribute(&described, "spandrel.rpc.response.messages_at_least"), Some(&Value::Boolean(true)));
}
