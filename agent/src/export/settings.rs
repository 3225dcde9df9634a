//! Where spans and metrics go, and how: the `OTEL_*` variables of the OpenTelemetry specification
//! ("OpenTelemetry Protocol Exporter", "Environment Variable Specification") and the agent's own flag.
//!
//! Pure: the environment is an argument, no file is read, nothing is connected. What a flag or an endpoint
//! says wrongly is a [`SettingError`]; other variables that make no sense are ignored with a sentence
//! in `warnings`, because the specification says so. It must never print the value of a header: such
//! values are passwords.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use reqwest::Url;
use reqwest::header::{HeaderName, HeaderValue};

/// Looks a variable of the environment up.
pub type Environment<'a> = &'a dyn Fn(&str) -> Option<String>;

/// The flag that names the endpoint, as error sentences call it.
pub const ENDPOINT_FLAG: &str = "--otlp-endpoint";

/// What is sent.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Signal {
    /// Spans.
    Traces,
    /// The agent's own metrics.
    Metrics,
}

impl Signal {
    /// As variables name it.
    fn variable(self) -> &'static str {
        match self {
            Self::Traces => "TRACES",
            Self::Metrics => "METRICS",
        }
    }

    /// What OTLP over HTTP appends to a base URL.
    fn path(self) -> &'static str {
        match self {
            Self::Traces => "v1/traces",
            Self::Metrics => "v1/metrics",
        }
    }
}

/// How OTLP is spoken.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Protocol {
    /// `grpc`.
    Grpc,
    /// `http/protobuf`.
    HttpProtobuf,
    /// `http/json`.
    HttpJson,
}

impl Protocol {
    /// As `OTEL_EXPORTER_OTLP_PROTOCOL` names it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Grpc => "grpc",
            Self::HttpProtobuf => "http/protobuf",
            Self::HttpJson => "http/json",
        }
    }

    fn named(name: &str) -> Option<Self> {
        [Self::Grpc, Self::HttpProtobuf, Self::HttpJson].into_iter().find(|protocol| protocol.name() == name)
    }
}

/// How a message is compressed.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Compression {
    /// Not at all.
    None,
    /// gzip.
    Gzip,
}

/// Header fields that go with every request. Their values are never printed.
#[derive(Clone, Default, Eq, PartialEq)]
pub struct Headers(pub Vec<(String, String)>);

impl fmt::Debug for Headers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.0.iter().map(|(name, _)| (name, "…"))).finish()
    }
}

/// Where to send one signal, and how.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct OtlpSettings {
    /// What is sent.
    pub signal: Signal,
    /// The complete URL: for HTTP with the signal's path, for gRPC without any.
    pub endpoint: Url,
    /// Someone named the endpoint; else it is the specification's default on localhost.
    pub endpoint_given: bool,
    /// How.
    pub protocol: Protocol,
    /// Compression of requests.
    pub compression: Compression,
    /// Header fields that go with every request.
    pub headers: Headers,
    /// How long one attempt may take.
    pub timeout: Duration,
    /// PEM file of the certificates to trust; none: the system's.
    pub certificate: Option<PathBuf>,
    /// PEM file of the client's certificate chain.
    pub client_certificate: Option<PathBuf>,
    /// PEM file of the client's private key.
    pub client_key: Option<PathBuf>,
    /// The variable that says not to send this signal at all.
    pub off: Option<&'static str>,
    /// How spans are gathered into batches (traces).
    pub batch: BatchSettings,
    /// How often metrics are sent (metrics).
    pub interval: Duration,
    /// Sentences about variables that were ignored.
    pub warnings: Vec<String>,
}

/// How spans are gathered: the `OTEL_BSP_*` variables.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct BatchSettings {
    /// How long a span waits for others.
    pub schedule_delay: Duration,
    /// At most so many spans wait, besides the bound in bytes; none: the bound in bytes alone, which is
    /// the default because a count says nothing about memory.
    pub max_queue: Option<usize>,
    /// At most so many spans are sent at once.
    pub max_batch: usize,
    /// How old a span may become before it is given up, if the destination does not take it.
    /// `OTEL_BSP_EXPORT_TIMEOUT`, if it is set; else 5 minutes (the specification's 30 s would lose
    /// what the queue has room for).
    pub give_up_after: Duration,
}

impl Default for BatchSettings {
    fn default() -> Self {
        Self {
            schedule_delay: Duration::from_secs(5),
            max_queue: None,
            max_batch: 512,
            give_up_after: Duration::from_secs(300),
        }
    }
}

/// A setting that cannot be used: which, what it says, and what would be right.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("{key} is {value:?}; it must be {would_be_right}")]
pub struct SettingError {
    /// The flag or variable.
    pub key: String,
    /// What it says, without a password.
    pub value: String,
    /// What would be right.
    pub would_be_right: String,
}

impl OtlpSettings {
    /// The settings for spans. `flag_endpoint` wins over the environment; it is a base URL as
    /// `OTEL_EXPORTER_OTLP_ENDPOINT` is.
    pub fn from(flag_endpoint: Option<&str>, env: Environment<'_>) -> Result<Self, SettingError> {
        Self::for_signal(Signal::Traces, flag_endpoint, env)
    }

    /// The settings for a signal.
    pub fn for_signal(
        signal: Signal,
        flag_endpoint: Option<&str>,
        env: Environment<'_>,
    ) -> Result<Self, SettingError> {
        let mut read = Reader { env, signal, warnings: Vec::new() };

        let named_protocol = read.otlp("PROTOCOL").and_then(|(key, value)| {
            let protocol = Protocol::named(&value);
            if protocol.is_none() {
                read.ignore(&key, &value, "one of grpc, http/protobuf, http/json");
            }
            protocol
        });
        let insecure = read.otlp("INSECURE").is_some_and(|(_, value)| value.eq_ignore_ascii_case("true"));
        let given = Given::find(signal, flag_endpoint, &read);
        let (endpoint, protocol) = match &given {
            Some(given) => given.resolve(signal, named_protocol, insecure)?,
            None => {
                let protocol = named_protocol.unwrap_or(Protocol::HttpProtobuf);
                let url = if protocol == Protocol::Grpc { DEFAULT_GRPC } else { DEFAULT_HTTP };
                let default = Given { key: String::new(), value: url.to_owned(), scope: Scope::Base };
                default.resolve(signal, Some(protocol), insecure)?
            }
        };

        let compression = match read.otlp("COMPRESSION") {
            Some((_, value)) if value == "gzip" => Compression::Gzip,
            Some((key, value)) if value != "none" => {
                read.ignore(&key, &value, "none or gzip");
                Compression::None
            }
            _ => Compression::None,
        };
        let headers = match read.otlp("HEADERS") {
            Some((key, value)) => read.headers(&key, &value),
            None => Headers::default(),
        };
        let timeout = read.otlp("TIMEOUT").and_then(|(key, value)| read.milliseconds(&key, &value));
        let path = |read: &Reader<'_>, name| read.otlp(name).map(|(_, value)| PathBuf::from(value));
        let certificate = path(&read, "CERTIFICATE");
        let mut client_certificate = path(&read, "CLIENT_CERTIFICATE");
        let mut client_key = path(&read, "CLIENT_KEY");
        if client_certificate.is_some() != client_key.is_some() {
            read.warnings.push(
                "OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE and OTEL_EXPORTER_OTLP_CLIENT_KEY need each other; \
                 the one that is set is ignored"
                    .to_owned(),
            );
            (client_certificate, client_key) = (None, None);
        }
        let off = read.off();
        let batch = match signal {
            Signal::Traces => read.batch(),
            Signal::Metrics => BatchSettings::default(),
        };
        let interval = match signal {
            Signal::Metrics => {
                read.check_temporality();
                read.named_milliseconds("OTEL_METRIC_EXPORT_INTERVAL")
            }
            Signal::Traces => None,
        };
        Ok(Self {
            signal,
            endpoint,
            endpoint_given: given.is_some(),
            protocol,
            compression,
            headers,
            timeout: timeout.unwrap_or(DEFAULT_TIMEOUT),
            certificate,
            client_certificate,
            client_key,
            off,
            batch,
            interval: interval.unwrap_or(DEFAULT_METRIC_INTERVAL),
            warnings: read.warnings,
        })
    }

    /// The endpoint as it may be shown: without user and password.
    pub fn shown_endpoint(&self) -> String {
        shown(&self.endpoint)
    }
}

/// Whether an endpoint is a base URL or one signal's own.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Scope {
    Base,
    OneSignal,
}

/// An endpoint as someone wrote it.
struct Given {
    key: String,
    value: String,
    scope: Scope,
}

impl Given {
    fn find(signal: Signal, flag: Option<&str>, read: &Reader<'_>) -> Option<Self> {
        if let Some(value) = flag {
            return Some(Self { key: ENDPOINT_FLAG.to_owned(), value: value.to_owned(), scope: Scope::Base });
        }
        let own = format!("OTEL_EXPORTER_OTLP_{}_ENDPOINT", signal.variable());
        if let Some(value) = read.variable(&own) {
            return Some(Self { key: own, value, scope: Scope::OneSignal });
        }
        let key = "OTEL_EXPORTER_OTLP_ENDPOINT".to_owned();
        read.variable(&key).map(|value| Self { key, value, scope: Scope::Base })
    }

    /// The URL to send to, and how. Without a protocol, port 4317 means gRPC: it is gRPC's registered
    /// port, and a server that listens there answers nothing that OTLP over HTTP could understand.
    fn resolve(
        &self,
        signal: Signal,
        protocol: Option<Protocol>,
        insecure: bool,
    ) -> Result<(Url, Protocol), SettingError> {
        let written = self.value.trim();
        let mut url = match Url::parse(written) {
            Ok(url) if has_http_scheme(&url) => url,
            // The specification lets an endpoint for gRPC leave the scheme out.
            _ if protocol == Some(Protocol::Grpc) && !written.contains("://") => {
                let scheme = if insecure { "http" } else { "https" };
                Url::parse(&format!("{scheme}://{written}")).map_err(|_| self.error())?
            }
            _ => return Err(self.error()),
        };
        if !url.has_host() {
            return Err(self.error());
        }
        let protocol = protocol.unwrap_or(match url.port() {
            Some(GRPC_PORT) => Protocol::Grpc,
            _ => Protocol::HttpProtobuf,
        });
        url.set_fragment(None);
        match (protocol, self.scope) {
            (Protocol::Grpc, _) => {
                url.set_path("");
                url.set_query(None);
            }
            (_, Scope::OneSignal) => {}
            (_, Scope::Base) => {
                let mut base = url.path().trim_end_matches('/');
                // A flag has no variant per signal, so people write the whole URL.
                if self.key == ENDPOINT_FLAG {
                    for known in [Signal::Traces.path(), Signal::Metrics.path()] {
                        base = base.strip_suffix(known).map_or(base, |base| base.trim_end_matches('/'));
                    }
                }
                let path = format!("{base}/{}", signal.path());
                url.set_path(&path);
            }
        }
        Ok((url, protocol))
    }

    fn error(&self) -> SettingError {
        let value = self.value.trim();
        let value = Url::parse(value).map_or_else(
            |_| value.to_owned(),
            |url| match url.password() {
                Some(_) => shown(&url),
                None => value.to_owned(),
            },
        );
        SettingError {
            key: self.key.clone(),
            value,
            would_be_right: "a URL that begins with http:// or https://, such as http://localhost:4318"
                .to_owned(),
        }
    }
}

fn has_http_scheme(url: &Url) -> bool {
    matches!(url.scheme(), "http" | "https")
}

/// A URL without user and password.
fn shown(url: &Url) -> String {
    let mut url = url.clone();
    // Neither can fail for a URL that has a host, and one without has neither user nor password.
    let _ = url.set_username("");
    let _ = url.set_password(None);
    let text = url.to_string();
    match (url.path(), url.query()) {
        ("/", None) => text.trim_end_matches('/').to_owned(),
        _ => text,
    }
}

struct Reader<'a> {
    env: Environment<'a>,
    signal: Signal,
    warnings: Vec<String>,
}

impl Reader<'_> {
    /// A variable; an empty one counts as unset.
    fn variable(&self, key: &str) -> Option<String> {
        (self.env)(key).map(|value| value.trim().to_owned()).filter(|value| !value.is_empty())
    }

    /// A variable of the exporter, the signal's own before the general one; with the key that was found.
    fn otlp(&self, name: &str) -> Option<(String, String)> {
        [
            format!("OTEL_EXPORTER_OTLP_{}_{name}", self.signal.variable()),
            format!("OTEL_EXPORTER_OTLP_{name}"),
        ]
        .into_iter()
        .find_map(|key| self.variable(&key).map(|value| (key, value)))
    }

    fn ignore(&mut self, key: &str, value: &str, would_be_right: &str) {
        self.warnings.push(format!("{key} is {value:?}; it must be {would_be_right}; ignored"));
    }

    fn milliseconds(&mut self, key: &str, value: &str) -> Option<Duration> {
        match value.parse::<u64>() {
            Ok(number) if (1..=MAX_MILLISECONDS).contains(&number) => Some(Duration::from_millis(number)),
            _ => {
                let range = format!("a number of milliseconds from 1 to {MAX_MILLISECONDS}");
                self.ignore(key, value, &range);
                None
            }
        }
    }

    fn named_milliseconds(&mut self, key: &str) -> Option<Duration> {
        let value = self.variable(key)?;
        self.milliseconds(key, &value)
    }

    fn count(&mut self, key: &str) -> Option<usize> {
        let value = self.variable(key)?;
        match value.parse::<usize>() {
            Ok(number) if number > 0 => Some(number),
            _ => {
                self.ignore(key, &value, "a number above 0");
                None
            }
        }
    }

    /// `name=value,name=value`: percent-encoded as W3C baggage is, without properties.
    fn headers(&mut self, key: &str, value: &str) -> Headers {
        let mut headers = Vec::new();
        for pair in value.split(',').map(str::trim).filter(|pair| !pair.is_empty()) {
            let header = pair.split_once('=').and_then(|(name, value)| {
                let name = decode(name.trim()).to_ascii_lowercase();
                let value = decode(value.trim());
                HeaderName::from_bytes(name.as_bytes()).ok()?;
                HeaderValue::from_str(&value).ok()?;
                Some((name, value))
            });
            match header {
                Some((name, _)) if FORBIDDEN_HEADERS.contains(&&*name) => {
                    self.warnings.push(format!("{key}: the header {name:?} is set by the protocol; ignored"));
                }
                Some(header) => headers.push(header),
                // The pair itself is not shown: it may hold a password.
                None => self.warnings.push(format!(
                    "{key}: entry {} of the list is not name=value; ignored",
                    value.split(',').position(|p| p.trim() == pair).unwrap_or_default() + 1
                )),
            }
        }
        Headers(headers)
    }

    /// The ledgers are cumulative; differences of them would hide what a lost message held.
    fn check_temporality(&mut self) {
        let key = "OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE";
        if let Some(value) = self.variable(key).filter(|value| !value.eq_ignore_ascii_case("cumulative")) {
            self.ignore(key, &value, "cumulative");
        }
    }

    /// Which variable switches this signal off.
    fn off(&mut self) -> Option<&'static str> {
        if self.variable("OTEL_SDK_DISABLED").is_some_and(|value| value.eq_ignore_ascii_case("true")) {
            return Some("OTEL_SDK_DISABLED");
        }
        let key = match self.signal {
            Signal::Traces => "OTEL_TRACES_EXPORTER",
            Signal::Metrics => "OTEL_METRICS_EXPORTER",
        };
        let value = self.variable(key)?;
        let names = || value.split(',').map(str::trim);
        if names().any(|name| name == "otlp") {
            return None;
        }
        if names().all(|name| name == "none") {
            return Some(key);
        }
        self.ignore(key, &value, "otlp or none");
        None
    }

    fn batch(&mut self) -> BatchSettings {
        let default = BatchSettings::default();
        let max_queue = self.count("OTEL_BSP_MAX_QUEUE_SIZE");
        let mut max_batch = self.count("OTEL_BSP_MAX_EXPORT_BATCH_SIZE").unwrap_or(default.max_batch);
        if let Some(queue) = max_queue {
            max_batch = max_batch.min(queue);
        }
        BatchSettings {
            schedule_delay: self
                .named_milliseconds("OTEL_BSP_SCHEDULE_DELAY")
                .unwrap_or(default.schedule_delay),
            max_queue,
            max_batch: max_batch.min(MAX_BATCH),
            give_up_after: self
                .named_milliseconds("OTEL_BSP_EXPORT_TIMEOUT")
                .unwrap_or(default.give_up_after),
        }
    }
}

/// Percent-decodes; a text with an escape that is none, or that would not be UTF-8, stays as it is written.
fn decode(text: &str) -> String {
    percent_decoded(text).and_then(|bytes| String::from_utf8(bytes).ok()).unwrap_or_else(|| text.to_owned())
}

/// Percent-decodes (RFC 3986 §2.1); none if a `%` begins no valid escape.
pub(super) fn percent_decoded(text: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        rest = after;
        if first != b'%' {
            bytes.push(first);
            continue;
        }
        let [high, low, after @ ..] = after else { return None };
        bytes.push(hex(*high)? << 4 | hex(*low)?);
        rest = after;
    }
    Some(bytes)
}

fn hex(digit: u8) -> Option<u8> {
    char::from(digit).to_digit(16).and_then(|digit| u8::try_from(digit).ok())
}

/// gRPC's port, as registered for OTLP.
const GRPC_PORT: u16 = 4317;
const DEFAULT_GRPC: &str = "http://localhost:4317";
const DEFAULT_HTTP: &str = "http://localhost:4318";
/// The specification's default of `OTEL_EXPORTER_OTLP_TIMEOUT`.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(10);
/// The specification's default of `OTEL_METRIC_EXPORT_INTERVAL`.
const DEFAULT_METRIC_INTERVAL: Duration = Duration::from_secs(60);
/// A day: longer times are mistakes, and would overflow sums.
const MAX_MILLISECONDS: u64 = 86_400_000;
/// No batch is larger, whatever the setting: it is one message of at most a few MiB.
const MAX_BATCH: usize = 8192;
/// Headers that belong to the transport; a user's value would break it.
const FORBIDDEN_HEADERS: [&str; 7] =
    ["content-type", "content-encoding", "content-length", "transfer-encoding", "te", "host", "connection"];

#[cfg(test)]
mod tests {
    use super::*;

    fn env(text: &'static str) -> impl Fn(&str) -> Option<String> {
        move |key| {
            text.lines()
                .filter_map(|line| line.trim().split_once('='))
                .find_map(|(name, value)| (name == key).then(|| value.to_owned()))
        }
    }

    /// `endpoint protocol`, or the error's sentence.
    fn resolved(signal: Signal, flag: Option<&str>, variables: &'static str) -> String {
        match OtlpSettings::for_signal(signal, flag, &env(variables)) {
            Ok(settings) => format!("{} {}", settings.endpoint, settings.protocol.name()),
            Err(error) => error.to_string(),
        }
    }

    #[track_caller]
    fn check(flag: Option<&str>, variables: &'static str, traces: &str, metrics: &str) {
        assert_eq!(resolved(Signal::Traces, flag, variables), traces);
        assert_eq!(resolved(Signal::Metrics, flag, variables), metrics);
    }

    #[test]
    fn without_any_setting_the_defaults_of_the_specification_hold() {
        let settings = OtlpSettings::from(None, &env("")).unwrap();
        assert_eq!(settings.endpoint.as_str(), "http://localhost:4318/v1/traces");
        assert!(!settings.endpoint_given);
        assert_eq!((settings.timeout, settings.compression), (Duration::from_secs(10), Compression::None));
        assert_eq!(settings.batch, BatchSettings::default());
        assert_eq!((settings.off, settings.warnings), (None, Vec::new()));
    }

    #[test]
    fn port_4317_means_grpc_unless_the_protocol_is_set() {
        check(Some("http://c:4317"), "", "http://c:4317/ grpc", "http://c:4317/ grpc");
        check(
            Some("http://c:4317"),
            "OTEL_EXPORTER_OTLP_PROTOCOL=http/protobuf",
            "http://c:4317/v1/traces http/protobuf",
            "http://c:4317/v1/metrics http/protobuf",
        );
        check(
            Some("http://c:4318"),
            "OTEL_EXPORTER_OTLP_PROTOCOL=grpc",
            "http://c:4318/ grpc",
            "http://c:4318/ grpc",
        );
        check(
            None,
            "OTEL_EXPORTER_OTLP_PROTOCOL=grpc",
            "http://localhost:4317/ grpc",
            "http://localhost:4317/ grpc",
        );
        check(
            Some("https://c"),
            "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL=http/json",
            "https://c/v1/traces http/json",
            "https://c/v1/metrics http/protobuf",
        );
    }

    #[test]
    fn a_base_url_gets_the_signals_path_with_exactly_one_slash() {
        for base in ["http://c:4318/otlp", "http://c:4318/otlp/"] {
            check(
                Some(base),
                "",
                "http://c:4318/otlp/v1/traces http/protobuf",
                "http://c:4318/otlp/v1/metrics http/protobuf",
            );
        }
        check(
            None,
            "OTEL_EXPORTER_OTLP_ENDPOINT=http://c:4318/",
            "http://c:4318/v1/traces http/protobuf",
            "http://c:4318/v1/metrics http/protobuf",
        );
    }

    #[test]
    fn a_signals_own_url_is_used_as_it_is() {
        check(
            None,
            "OTEL_EXPORTER_OTLP_ENDPOINT=http://c:4318\nOTEL_EXPORTER_OTLP_TRACES_ENDPOINT=http://t:80",
            "http://t/ http/protobuf",
            "http://c:4318/v1/metrics http/protobuf",
        );
        check(
            None,
            "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT=https://t/in?key=1",
            "https://t/in?key=1 http/protobuf",
            "http://localhost:4318/v1/metrics http/protobuf",
        );
    }

    #[test]
    fn the_flag_wins_over_the_environment_and_may_be_a_whole_url() {
        check(
            Some("http://flag:4318/v1/traces"),
            "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT=http://env:4318/x",
            "http://flag:4318/v1/traces http/protobuf",
            "http://flag:4318/v1/metrics http/protobuf",
        );
    }

    #[test]
    fn an_endpoint_that_is_no_url_is_told_by_key_and_value() {
        for wrong in
            ["nonsense", "localhost:4317", "ftp://x", "http://", "http://a b", "http://:80", "://", "unix:/x"]
        {
            let error = OtlpSettings::from(Some(wrong), &env("")).unwrap_err();
            assert_eq!((&*error.key, &*error.value), ("--otlp-endpoint", wrong));
            assert!(error.to_string().contains("must be a URL that begins with http://"), "{error}");
        }
        let error = OtlpSettings::from(None, &env("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT=foo")).unwrap_err();
        assert_eq!(error.key, "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT");
        let error = OtlpSettings::from(Some("ftp://me:secret@x"), &env("")).unwrap_err();
        assert!(!error.to_string().contains("secret"), "{error}");
    }

    #[test]
    fn grpc_may_leave_the_scheme_out_and_insecure_decides_it() {
        let grpc = "OTEL_EXPORTER_OTLP_PROTOCOL=grpc";
        check(Some("c:4317"), grpc, "https://c:4317/ grpc", "https://c:4317/ grpc");
        let insecure = "OTEL_EXPORTER_OTLP_PROTOCOL=grpc\nOTEL_EXPORTER_OTLP_INSECURE=True";
        check(Some("c:4317"), insecure, "http://c:4317/ grpc", "http://c:4317/ grpc");
        check(Some("https://c:4317"), insecure, "https://c:4317/ grpc", "https://c:4317/ grpc");
    }

    #[test]
    fn headers_are_percent_decoded_and_never_printed() {
        let settings = OtlpSettings::from(
            None,
            &env(
                "OTEL_EXPORTER_OTLP_HEADERS=Authorization=Bearer%20s%3Dcret==, x-tenant = a%zz ,,broken,te=x",
            ),
        )
        .unwrap();
        assert_eq!(
            settings.headers.0,
            [("authorization".into(), "Bearer s=cret==".into()), ("x-tenant".into(), "a%zz".into())]
        );
        assert!(!format!("{settings:?}").contains("cret"));
        assert_eq!(settings.warnings.len(), 2, "{:?}", settings.warnings);
        assert!(settings.warnings[0].contains("entry 4"), "{:?}", settings.warnings);
    }

    #[test]
    fn a_signals_own_variable_replaces_the_general_one() {
        let settings = OtlpSettings::from(
            None,
            &env("OTEL_EXPORTER_OTLP_HEADERS=a=1\nOTEL_EXPORTER_OTLP_TRACES_HEADERS=b=2\n\
                  OTEL_EXPORTER_OTLP_COMPRESSION=none\nOTEL_EXPORTER_OTLP_TRACES_COMPRESSION=gzip\n\
                  OTEL_EXPORTER_OTLP_TIMEOUT=1\nOTEL_EXPORTER_OTLP_TRACES_TIMEOUT=2500\n\
                  OTEL_EXPORTER_OTLP_CERTIFICATE=/a\nOTEL_EXPORTER_OTLP_TRACES_CERTIFICATE=/b\n\
                  OTEL_EXPORTER_OTLP_CLIENT_KEY=/k\nOTEL_EXPORTER_OTLP_TRACES_CLIENT_CERTIFICATE=/c"),
        )
        .unwrap();
        assert_eq!(settings.headers.0, [("b".into(), "2".into())]);
        assert_eq!(
            (settings.compression, settings.timeout),
            (Compression::Gzip, Duration::from_millis(2500))
        );
        assert_eq!(settings.certificate, Some("/b".into()));
        assert_eq!(
            (settings.client_key, settings.client_certificate),
            (Some("/k".into()), Some("/c".into()))
        );
    }

    #[test]
    fn an_empty_variable_counts_as_unset_and_a_senseless_one_is_ignored_with_a_sentence() {
        let settings = OtlpSettings::from(
            None,
            &env("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT=\nOTEL_EXPORTER_OTLP_PROTOCOL=thrift\n\
                  OTEL_EXPORTER_OTLP_TIMEOUT=soon\nOTEL_EXPORTER_OTLP_COMPRESSION=zstd\n\
                  OTEL_BSP_SCHEDULE_DELAY=-1\nOTEL_BSP_MAX_QUEUE_SIZE=0\nOTEL_TRACES_EXPORTER=zipkin"),
        )
        .unwrap();
        assert_eq!(settings.endpoint.as_str(), "http://localhost:4318/v1/traces");
        assert_eq!(settings.timeout, Duration::from_secs(10));
        assert_eq!(settings.batch, BatchSettings::default());
        assert_eq!(settings.warnings.len(), 6, "{:#?}", settings.warnings);
        assert!(
            settings.warnings[0].contains("OTEL_EXPORTER_OTLP_PROTOCOL is \"thrift\"; it must be one of")
        );
    }

    #[test]
    fn the_batch_variables_are_honoured_and_a_batch_is_no_larger_than_the_queue() {
        let settings = OtlpSettings::from(
            None,
            &env("OTEL_BSP_SCHEDULE_DELAY=200\nOTEL_BSP_MAX_QUEUE_SIZE=100\n\
                  OTEL_BSP_MAX_EXPORT_BATCH_SIZE=1000\nOTEL_BSP_EXPORT_TIMEOUT=30000"),
        )
        .unwrap();
        assert_eq!(
            settings.batch,
            BatchSettings {
                schedule_delay: Duration::from_millis(200),
                max_queue: Some(100),
                max_batch: 100,
                give_up_after: Duration::from_secs(30),
            }
        );
    }

    #[test]
    fn what_switches_a_signal_off_is_named() {
        let off = |signal, text| OtlpSettings::for_signal(signal, None, &env(text)).unwrap().off;
        assert_eq!(off(Signal::Traces, "OTEL_SDK_DISABLED=TRUE"), Some("OTEL_SDK_DISABLED"));
        assert_eq!(off(Signal::Traces, "OTEL_SDK_DISABLED=1"), None, "only true is true");
        assert_eq!(off(Signal::Traces, "OTEL_TRACES_EXPORTER=none"), Some("OTEL_TRACES_EXPORTER"));
        assert_eq!(off(Signal::Traces, "OTEL_METRICS_EXPORTER=none"), None);
        assert_eq!(off(Signal::Metrics, "OTEL_METRICS_EXPORTER=none"), Some("OTEL_METRICS_EXPORTER"));
        assert_eq!(off(Signal::Traces, "OTEL_TRACES_EXPORTER=console,otlp"), None);
    }

    #[test]
    fn the_metric_interval_is_honoured() {
        let metrics = |text| OtlpSettings::for_signal(Signal::Metrics, None, &env(text)).unwrap().interval;
        assert_eq!(metrics(""), Duration::from_secs(60));
        assert_eq!(metrics("OTEL_METRIC_EXPORT_INTERVAL=1500"), Duration::from_millis(1500));
    }

    #[test]
    fn an_endpoint_is_shown_without_its_password() {
        let settings = OtlpSettings::from(Some("http://me:pw@c:4317"), &env("")).unwrap();
        assert_eq!(settings.shown_endpoint(), "http://c:4317");
    }
}
