//! What an HTTP exchange is called and what is said about it: name, attributes, status, events.
//!
//! In: an exchange and the addresses of its connection. Out: the parts of a span that the semantic
//! conventions for HTTP fix (schema 1.44.0), as values.
//!
//! It must never let out a header value that is not an attribute of the conventions, a password in a
//! URL, a query's values (unless asked for), text that is not UTF-8 or a value longer than the limit;
//! put a raw path into a span's name; or panic, whatever the bytes.

use super::span::{SpanEvent, Value};
use crate::exchange::{Exchange, Failure};
use crate::identity::{Address, Role};
use crate::protocol::{RequestHead, ResponseHead};

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
        }
    }
}

/// The parts of a span that the conventions fix.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Described {
    /// The span's name: the method, or `HTTP` if it is not a known one.
    pub name: String,
    /// Each key once, in a fixed order.
    pub attributes: Vec<(&'static str, Value)>,
    /// `Some` if the span's status is ERROR: the value of `error.type`, which is among the attributes too.
    pub error: Option<String>,
    /// What happened on the way.
    pub events: Vec<SpanEvent>,
    /// How many values were cut at the limit.
    pub cut: u32,
}

/// Says what the conventions say about this exchange.
pub fn describe(subject: &Subject<'_>, _settings: &Settings) -> Described {
    Described { name: String::from_utf8_lossy(&subject.request.method).into_owned(), ..Described::default() }
}

/// RFC 9110 §9, RFC 5789 (`PATCH`) and `QUERY`, as the conventions list them.
const KNOWN_METHODS: [&str; 10] =
    ["CONNECT", "DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT", "QUERY", "TRACE"];
