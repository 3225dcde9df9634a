//! What an HTTP exchange is called and what is said about it: name, attributes, status, events. If it carries a
//! remote procedure call, that is said instead (`rpc`).
//!
//! In: an exchange and the addresses of its connection. Out: the parts of a span that the semantic
//! conventions for HTTP and RPC fix (schema 1.44.0), as values.
//!
//! It must never let out a header value that is not an attribute of the conventions, a password in a
//! URL, a query's values (unless asked for), text that is not UTF-8 or a value longer than the limit;
//! put a raw path into a span's name; or panic, whatever the bytes.

mod forwarded;
mod rpc;
mod text;
mod url;

#[doc(hidden)]
pub mod fuzz;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod tests_rpc;

use compact_str::{ToCompactString as _, format_compact};

use self::forwarded::Client;
use self::url::{Authority, Target};
use super::span::{SpanEvent, Text, Value};
use crate::exchange::{Exchange, Failure, FailureKind, StreamFacts};
use crate::identity::{Address, Direction, Monotonic, Role};
use crate::protocol::{FieldName, RequestHead, ResponseHead, Version};

pub use self::text::is_harmful;

/// The schema that names and attributes follow.
pub const SCHEMA_URL: &str = "https://opentelemetry.io/schemas/1.44.0";

/// How long an attribute's value may be by default, in bytes.
pub const DEFAULT_VALUE_LIMIT: usize = 2048;

/// What becomes of the values in a query string.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum QueryValues {
    /// Every value is replaced by `REDACTED`; keys stay.
    #[default]
    Redact,
    /// They are kept as they came.
    Keep,
}

/// What a user may choose about descriptions.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Settings {
    /// The values in query strings.
    pub query_values: QueryValues,
    /// An attribute's value is cut at this many bytes (at a character's boundary), and counted.
    pub value_limit: usize,
    /// The methods that are told apart; any other is `_OTHER`. Compared with regard to case.
    pub known_methods: Vec<String>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            query_values: QueryValues::default(),
            value_limit: DEFAULT_VALUE_LIMIT,
            known_methods: KNOWN_METHODS.iter().map(|&method| method.to_owned()).collect(),
        }
    }
}

impl Settings {
    /// Takes the value of `OTEL_INSTRUMENTATION_HTTP_KNOWN_METHODS`: a comma-separated list that replaces
    /// the known methods. Empty means unset.
    pub fn with_known_methods(mut self, list: Option<&str>) -> Self {
        let methods: Vec<String> = list
            .unwrap_or_default()
            .split(',')
            .map(str::trim)
            .filter(|method| !method.is_empty())
            .map(str::to_owned)
            .collect();
        if !methods.is_empty() {
            self.known_methods = methods;
        }
        self
    }
}

/// The addresses of a connection, as far as they are known.
#[derive(Clone, Copy, Debug, Default)]
pub struct Endpoints<'a> {
    /// This end.
    pub local: Option<&'a Address>,
    /// The other end.
    pub peer: Option<&'a Address>,
    /// What lies between them, if that is TLS.
    pub tls: Option<&'a crate::tls::Agreed>,
}

/// What is described.
#[derive(Clone, Copy, Debug)]
pub struct Subject<'a> {
    /// Whether the process read or wrote the request.
    pub role: Role,
    /// What the request says.
    pub request: &'a RequestHead,
    /// What the final response says, if there was one.
    pub response: Option<&'a ResponseHead>,
    /// Where it went from and to.
    pub endpoints: Endpoints<'a>,
    /// What went wrong, if anything did.
    pub failure: Option<Failure>,
    /// What is known of it because it is a stream of HTTP/2.
    pub stream: Option<&'a StreamFacts>,
    /// The call that moved the request's first byte.
    pub began: Monotonic,
    /// Some of it was not seen.
    pub incomplete: bool,
}

impl<'a> Subject<'a> {
    /// An exchange that is over.
    pub fn new(exchange: &'a Exchange, endpoints: Endpoints<'a>) -> Self {
        Self {
            role: exchange.role,
            request: &exchange.request,
            response: exchange.response.as_deref(),
            endpoints,
            failure: exchange.failure,
            stream: exchange.stream.as_deref(),
            began: exchange.began.time,
            incomplete: exchange.incomplete,
        }
    }
}

/// The parts of a span that the conventions fix.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Described {
    /// The span's name: the method, or `HTTP` if it is not a known one.
    pub name: Text,
    /// Each key once, in a fixed order.
    pub attributes: Vec<(&'static str, Value)>,
    /// `Some` if the span's status is ERROR: the value of `error.type`, which is among the attributes too.
    pub error: Option<Text>,
    /// What happened on the way.
    pub events: Vec<SpanEvent>,
    /// How many values were cut at the limit.
    pub cut: u32,
}

/// Says what the conventions say about this exchange.
pub fn describe(subject: &Subject<'_>, settings: &Settings) -> Described {
    let mut to = Described { attributes: Vec::with_capacity(16), ..Described::default() };
    if let Some(system) = rpc::system(subject) {
        rpc::describe(system, subject, settings, &mut to);
        if let Some(agreed) = subject.endpoints.tls {
            tls(agreed, settings, &mut to);
        }
        return to;
    }
    let target = Target::parse(&subject.request.method, &subject.request.target);
    method(subject, settings, &mut to);
    match subject.role {
        Role::Server => server(subject, &target, settings, &mut to),
        Role::Client => client(subject, &target, settings, &mut to),
    }
    network(subject, settings, &mut to);
    if let Some(agreed) = subject.endpoints.tls {
        tls(agreed, settings, &mut to);
    }
    outcome(subject, &mut to);
    to
}

impl Described {
    fn text(&mut self, key: &'static str, value: impl Into<Text>, settings: &Settings) {
        let mut value = value.into();
        self.cut += u32::from(text::cut(&mut value, settings.value_limit));
        self.attributes.push((key, Value::Text(value)));
    }

    fn integer(&mut self, key: &'static str, value: u16) {
        self.attributes.push((key, Value::Integer(i64::from(value))));
    }
}

/// The method and, of it, the name. There is no route on the wire, and a raw path is no name: it has no
/// bound on how many there are.
fn method(subject: &Subject<'_>, settings: &Settings, to: &mut Described) {
    let original = &*subject.request.method;
    let known = settings.known_methods.iter().find(|known| known.as_bytes() == original);
    // A connection of HTTP/2 that was joined late: what is not known is not said.
    if original.is_empty() && subject.request.version == Version::Http2 {
        to.name = "HTTP".into();
        return to.text("http.request.method", OTHER, settings);
    }
    let method = known.map_or(OTHER, String::as_str);
    to.name = known.map_or("HTTP", String::as_str).into();
    to.text("http.request.method", method, settings);
    if original != method.as_bytes() {
        to.text("http.request.method_original", text::harmless(original), settings);
    }
}

/// What a method that is not known is called.
const OTHER: &str = "_OTHER";

/// The scheme of this hop, if nothing says otherwise.
fn hop_scheme(subject: &Subject<'_>) -> &'static str {
    if subject.endpoints.tls.is_some() { "https" } else { "http" }
}

/// `tls.*`: what the two ends have agreed on.
fn tls(agreed: &crate::tls::Agreed, settings: &Settings, to: &mut Described) {
    let crate::tls::Agreed { version, cipher, protocol } = agreed;
    to.text("tls.protocol.name", "tls", settings);
    if let Some(version) = version {
        to.text("tls.protocol.version", version.name(), settings);
    }
    if let Some(cipher) = cipher {
        to.text("tls.cipher", *cipher, settings);
    }
    if let Some(protocol) = protocol {
        to.text("tls.next_protocol", protocol.to_compact_string(), settings);
    }
}

/// The scheme that the request itself names: in its target, or as `:scheme`.
fn own_scheme(subject: &Subject<'_>, target: &Target<'_>) -> Option<Text> {
    let field =
        || subject.request.fields.first(FieldName::Scheme).and_then(|scheme| str::from_utf8(scheme).ok());
    let plausible =
        |scheme: &&str| scheme.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte));
    target.scheme.or_else(field).filter(plausible).map(|scheme| scheme.to_ascii_lowercase().into())
}

/// `url.*`, `server.*`, `client.*` and `user_agent.*` of a server span: what the client asked for, as far as
/// proxies passed it on.
fn server(subject: &Subject<'_>, target: &Target<'_>, settings: &Settings, to: &mut Described) {
    let fields = &subject.request.fields;
    // HTTP/2 that was joined late may not know it.
    if !subject.request.target.is_empty() || subject.request.version != Version::Http2 {
        let mut path = Text::default();
        text::push_url(&mut path, target.path);
        to.text("url.path", path, settings);
    }
    if let Some(query) = target.query {
        let mut text = Text::default();
        url::push_query(&mut text, query, settings.query_values);
        to.text("url.query", text, settings);
    }
    let scheme = forwarded::proto(fields)
        .or_else(|| own_scheme(subject, target))
        .unwrap_or_else(|| hop_scheme(subject).into());
    let own = || authority(subject, target).map(|authority| (Text::from(authority.host), authority.port));
    match (forwarded::host(fields).or_else(own), subject.endpoints.local) {
        (Some((host, port)), _) => {
            to.text("server.address", host, settings);
            if let Some(port) = port.or_else(|| url::default_port(&scheme)) {
                to.integer("server.port", port);
            }
        }
        (None, Some(local)) => address(["server.address", "server.port"], local, settings, to),
        (None, None) => {}
    }
    to.text("url.scheme", scheme, settings);
    match (forwarded::client(fields), subject.endpoints.peer) {
        (Client::At(address), _) => to.text("client.address", address, settings),
        (Client::Peer, Some(Address::Ip(peer))) => {
            to.text("client.address", peer.ip().to_compact_string(), settings);
        }
        (Client::Peer, Some(Address::Unix(path))) if !path.is_empty() => {
            to.text("client.address", text::harmless(path.as_bytes()), settings);
        }
        (Client::Peer, Some(Address::Unix(_)) | None) | (Client::Hidden, _) => {}
    }
    if let Some(agent) = fields.first(FieldName::UserAgent) {
        to.text("user_agent.original", text::harmless(agent), settings);
    }
}

/// `url.full` and `server.*` of a client span: what it asked for, not where its packets went.
fn client(subject: &Subject<'_>, target: &Target<'_>, settings: &Settings, to: &mut Described) {
    let scheme = own_scheme(subject, target).unwrap_or_else(|| hop_scheme(subject).into());
    let authority = authority(subject, target);
    let mut full = format_compact!("{scheme}://");
    match (authority, subject.endpoints.peer) {
        (Some(authority), _) => authority.push(&mut full),
        (None, Some(Address::Ip(peer))) if Some(peer.port()) != url::default_port(&scheme) => {
            full.push_str(&peer.to_compact_string());
        }
        (None, Some(Address::Ip(peer))) => match peer.ip() {
            std::net::IpAddr::V4(ip) => full.push_str(&ip.to_compact_string()),
            std::net::IpAddr::V6(ip) => full.push_str(&format_compact!("[{ip}]")),
        },
        // A socket's path as a host, as tools that take such URLs write it: `http://%2Frun%2Fapi.sock/`.
        (None, Some(Address::Unix(path))) => {
            let mut host = Text::default();
            text::push_url(&mut host, path.as_bytes());
            full.push_str(&host.replace('/', "%2F"));
        }
        (None, None) => {}
    }
    // RFC 9112 §3.3: the asterisk stands for an empty path.
    match target.path {
        b"" | b"*" => {}
        path => {
            if !path.starts_with(b"/") {
                full.push('/');
            }
            text::push_url(&mut full, path);
        }
    }
    if let Some(query) = target.query {
        full.push('?');
        url::push_query(&mut full, query, settings.query_values);
    }
    to.text("url.full", full, settings);
    match (authority, subject.endpoints.peer) {
        (Some(authority), _) => {
            to.text("server.address", authority.host, settings);
            if let Some(port) = authority.port.or_else(|| url::default_port(&scheme)) {
                to.integer("server.port", port);
            }
        }
        (None, Some(peer)) => address(["server.address", "server.port"], peer, settings, to),
        (None, None) => {}
    }
}

/// Whom a request is for: RFC 9112 §3.2.2 lets the target win over `Host`.
fn authority<'a>(subject: &Subject<'a>, target: &Target<'a>) -> Option<Authority<'a>> {
    target.authority.or_else(|| subject.request.fields.first(FieldName::Host).and_then(Authority::parse))
}

/// An address of a socket as two attributes; nothing for a unix socket without a name.
fn address(keys: [&'static str; 2], address: &Address, settings: &Settings, to: &mut Described) {
    let [key, port] = keys;
    match address {
        Address::Ip(ip) => {
            to.text(key, ip.ip().to_compact_string(), settings);
            to.integer(port, ip.port());
        }
        Address::Unix(path) if path.is_empty() => {}
        Address::Unix(path) => to.text(key, text::harmless(path.as_bytes()), settings),
    }
}

/// Where the bytes went, and in what they were written.
fn network(subject: &Subject<'_>, settings: &Settings, to: &mut Described) {
    if let Some(peer) = subject.endpoints.peer {
        address(["network.peer.address", "network.peer.port"], peer, settings, to);
    }
    // The version that was negotiated is the lower one: what both ends speak (RFC 9110 §2.5).
    let version = match (subject.request.version, subject.response.map(|response| response.version)) {
        (Version::FastCgi, _) | (_, Some(Version::FastCgi)) => {
            to.text("network.protocol.name", "fastcgi", settings);
            "1.0"
        }
        (Version::Http2, _) | (_, Some(Version::Http2)) => "2",
        (Version::Http11, Some(Version::Http11) | None) => "1.1",
        (Version::Http10, _) | (_, Some(Version::Http10)) => "1.0",
    };
    to.text("network.protocol.version", version, settings);
}

/// The status code, whether it went wrong, and what happened to the connection.
fn outcome(subject: &Subject<'_>, to: &mut Described) {
    let status = subject.response.map(|response| response.status).filter(|status| *status != 0);
    if let Some(status) = status {
        to.integer("http.response.status_code", status);
    }
    let first_bad = match subject.role {
        Role::Server => 500,
        Role::Client => 400,
    };
    let bad = status.filter(|&status| match subject.role {
        Role::Server => (first_bad..600).contains(&status),
        // A client cannot interpret a code that has no class either.
        Role::Client => !(100..first_bad).contains(&status),
    });
    let failure = subject.failure.filter(|failure| !is_choice(subject, failure.kind));
    to.error = match (bad, failure) {
        (Some(status), _) => Some(status.to_compact_string()),
        (None, Some(failure)) => Some(failure.kind.error_type().into()),
        (None, None) => None,
    };
    if let Some(error) = &to.error {
        to.attributes.push(("error.type", Value::Text(error.clone())));
    }
    if let Some(failure) = subject.failure {
        to.events.push(event(&failure, is_choice(subject, failure.kind)));
    }
}

/// A client that closes once it has the response's head got what it wanted: many read no more than the
/// status. Without a head it gave up waiting, and nobody but its program knows whether it meant to.
fn is_choice(subject: &Subject<'_>, kind: FailureKind) -> bool {
    let own = match kind {
        FailureKind::Cancelled => true,
        FailureKind::Reset(CANCEL) => {
            let reset = subject.stream.and_then(|stream| stream.reset);
            reset.is_some_and(|reset| reset.by == Direction::Send)
        }
        _ => false,
    };
    subject.role == Role::Client && own && subject.response.is_some()
}

/// `CANCEL` (RFC 9113 §7).
const CANCEL: u32 = 8;

/// A failure as an event at its moment.
fn event(failure: &Failure, choice: bool) -> SpanEvent {
    let text = |text: &str| Value::Text(text.into());
    let direction = match failure.during {
        Direction::Send => "transmit",
        Direction::Receive => "receive",
    };
    let mut attributes = vec![("network.io.direction", text(direction))];
    if !choice {
        attributes.insert(0, ("error.type", text(failure.kind.error_type())));
    }
    if let FailureKind::Socket(errno) = failure.kind {
        attributes.push(("spandrel.errno", Value::Integer(i64::from(errno))));
    }
    SpanEvent {
        time: failure.at,
        name: if choice { "exchange.cancelled" } else { "exchange.failed" },
        attributes,
    }
}

/// RFC 9110 §9, RFC 5789 (`PATCH`) and `QUERY`, as the conventions list them.
const KNOWN_METHODS: [&str; 10] =
    ["CONNECT", "DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT", "QUERY", "TRACE"];
