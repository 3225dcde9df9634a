//! Sans-I/O parsers: the bytes of one direction of one connection in, messages out.
//!
//! What the protocols have in common stands here: the heads of requests and responses with those
//! fields that may be kept. No other header value leaves a parser.

pub mod fastcgi;
pub mod grpc;
pub mod http1;
pub mod http2;

/// The header fields whose values may be kept, because the conventions turn them into attributes,
/// because they carry trace context, or because framing and classification need them. Names are
/// compared without regard to case. A value that is not in this list never leaves the parser.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
#[allow(missing_docs)]
pub enum FieldName {
    Host,
    UserAgent,
    Forwarded,
    XForwardedFor,
    XForwardedHost,
    XForwardedProto,
    Traceparent,
    Tracestate,
    ContentType,
    GrpcStatus,
    GrpcTimeout,
    GrpcTraceBin,
    ConnectProtocolVersion,
    /// `:scheme`, which is no field of HTTP/1.
    Scheme,
    /// What a server of HTTP/1 goes over to; kept of responses only.
    Upgrade,
}

impl FieldName {
    /// The field with this name, if it is one that may be kept.
    pub fn kept(name: &[u8]) -> Option<Self> {
        const NAMES: [(&str, FieldName); 13] = [
            ("host", FieldName::Host),
            ("user-agent", FieldName::UserAgent),
            ("forwarded", FieldName::Forwarded),
            ("x-forwarded-for", FieldName::XForwardedFor),
            ("x-forwarded-host", FieldName::XForwardedHost),
            ("x-forwarded-proto", FieldName::XForwardedProto),
            ("traceparent", FieldName::Traceparent),
            ("tracestate", FieldName::Tracestate),
            ("content-type", FieldName::ContentType),
            ("grpc-status", FieldName::GrpcStatus),
            ("grpc-timeout", FieldName::GrpcTimeout),
            ("grpc-trace-bin", FieldName::GrpcTraceBin),
            ("connect-protocol-version", FieldName::ConnectProtocolVersion),
        ];
        NAMES.iter().find(|(text, _)| name.eq_ignore_ascii_case(text.as_bytes())).map(|&(_, name)| name)
    }
}

/// The kept fields of a head, in the order they came. A field that came twice is there twice.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Fields(pub Vec<(FieldName, Box<[u8]>)>);

impl Fields {
    /// The first value of a field.
    pub fn first(&self, name: FieldName) -> Option<&[u8]> {
        self.all(name).next()
    }

    /// All values of a field, in order.
    pub fn all(&self, name: FieldName) -> impl Iterator<Item = &[u8]> {
        self.0.iter().filter(move |(n, _)| *n == name).map(|(_, value)| &**value)
    }
}

/// The version of HTTP that a message was written in.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
#[allow(missing_docs)]
pub enum Version {
    Http10,
    Http11,
    Http2,
    /// None: what was asked for goes on from a web server to an application in parameters.
    FastCgi,
}

/// What a request said of itself before its body.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct RequestHead {
    /// A token of RFC 9110 §9.1, as it was sent. Empty if it is not known (HTTP/2, joined late).
    pub method: Box<[u8]>,
    /// The target as it was sent: origin-, absolute-, authority- or asterisk-form (RFC 9112 §3.2), or `:path`.
    /// Empty if it is not known (HTTP/2, joined late).
    pub target: Box<[u8]>,
    /// Its version.
    pub version: Version,
    /// Its kept fields.
    pub fields: Fields,
}

/// What a response said of itself before its body.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ResponseHead {
    /// 100 to 999; 0 if it is not known (HTTP/2, joined late).
    pub status: u16,
    /// Its version.
    pub version: Version,
    /// Its kept fields.
    pub fields: Fields,
}
