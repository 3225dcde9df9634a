//! The conventions, attribute by attribute, and heads that nobody should send.

use super::*;
use crate::identity::Monotonic;
use crate::protocol::Fields;

/// A request as it would be written: `GET /a?b=c`, then header lines.
struct Case {
    role: Role,
    request: RequestHead,
    response: Option<ResponseHead>,
    local: Option<Address>,
    peer: Option<Address>,
    failure: Option<Failure>,
    settings: Settings,
}

fn case(role: Role, line: &[u8], fields: &[&str]) -> Case {
    let space = line.iter().position(|&byte| byte == b' ').unwrap();
    let fields = fields.iter().map(|field| {
        let (name, value) = field.split_once(": ").unwrap();
        (FieldName::kept(name.as_bytes()).unwrap(), value.as_bytes().into())
    });
    Case {
        role,
        request: RequestHead {
            method: line[..space].into(),
            target: line[space + 1..].into(),
            version: Version::Http11,
            fields: Fields(fields.collect()),
        },
        response: None,
        local: Some(ip("10.0.0.1:8080")),
        peer: Some(ip("10.0.0.2:45678")),
        failure: None,
        settings: Settings::default(),
    }
    .status(200)
}

fn server(line: &str, fields: &[&str]) -> Case {
    case(Role::Server, line.as_bytes(), fields)
}

fn client(line: &str, fields: &[&str]) -> Case {
    case(Role::Client, line.as_bytes(), fields)
}

fn ip(text: &str) -> Address {
    Address::Ip(text.parse().unwrap())
}

impl Case {
    fn status(mut self, status: u16) -> Self {
        self.response = Some(ResponseHead { status, version: Version::Http11, fields: Fields::default() });
        self
    }

    fn no_response(mut self) -> Self {
        self.response = None;
        self
    }

    fn failure(mut self, kind: FailureKind) -> Self {
        self.failure = Some(Failure { kind, at: Monotonic(42), during: Direction::Receive });
        self
    }

    fn keep_values(mut self) -> Self {
        self.settings.query_values = QueryValues::Keep;
        self
    }

    fn unix(mut self, local: &str, peer: &str) -> Self {
        (self.local, self.peer) = (Some(Address::Unix(local.into())), Some(Address::Unix(peer.into())));
        self
    }

    fn describe(&self) -> Described {
        let subject = Subject {
            role: self.role,
            request: &self.request,
            response: self.response.as_ref(),
            endpoints: Endpoints { local: self.local.as_ref(), peer: self.peer.as_ref(), tls: None },
            failure: self.failure,
            stream: None,
            began: Monotonic(0),
            incomplete: false,
        };
        describe(&subject, &self.settings)
    }

    /// One attribute as text; `-` if it is absent.
    fn get(&self, key: &str) -> String {
        let described = self.describe();
        let mut found = described.attributes.iter().filter(|(name, _)| *name == key);
        let value = found.next().map_or("-".to_owned(), |(_, value)| show(value));
        assert_eq!(found.next(), None, "{key} twice");
        value
    }

    /// `server.address` and `server.port`.
    fn address(&self) -> String {
        format!("{} {}", self.get("server.address"), self.get("server.port"))
    }
}

fn show(value: &Value) -> String {
    match value {
        Value::Text(text) => text.to_string(),
        Value::Integer(number) => number.to_string(),
        Value::Boolean(yes) => yes.to_string(),
    }
}

#[track_caller]
fn check(case: &Case, name: &str, want: &[&str]) {
    let described = case.describe();
    let got: Vec<_> =
        described.attributes.iter().map(|(key, value)| format!("{key}={}", show(value))).collect();
    assert_eq!(got, want);
    assert_eq!(described.name, name);
}

#[test]
fn a_server_span_has_these_attributes_and_no_others() {
    check(
        &server("GET /items/7?page=2", &["Host: shop.example:8080", "User-Agent: curl/8.5.0"]),
        "GET",
        &[
            "http.request.method=GET",
            "url.path=/items/7",
            "url.query=page=REDACTED",
            "server.address=shop.example",
            "server.port=8080",
            "url.scheme=http",
            "client.address=10.0.0.2",
            "user_agent.original=curl/8.5.0",
            "network.peer.address=10.0.0.2",
            "network.peer.port=45678",
            "network.protocol.version=1.1",
            "http.response.status_code=200",
        ],
    );
}

#[test]
fn a_client_span_has_these_attributes_and_no_others() {
    check(
        &client("POST /pay?sum=3", &["Host: bank.example", "User-Agent: x", "Content-Type: text/plain"])
            .status(404),
        "POST",
        &[
            "http.request.method=POST",
            "url.full=http://bank.example/pay?sum=REDACTED",
            "server.address=bank.example",
            "server.port=80",
            "network.peer.address=10.0.0.2",
            "network.peer.port=45678",
            "network.protocol.version=1.1",
            "http.response.status_code=404",
            "error.type=404",
        ],
    );
}

#[test]
fn each_key_is_there_once_and_nothing_else_of_the_head_is() {
    let secret = "Content-Type: secret/secret";
    let described = server("GET /", &[secret, "Host: a", "Host: b"]).describe();
    let text = format!("{described:?}");
    assert!(!text.contains("secret"), "{text}");
    assert_eq!(server("GET /", &[secret, "Host: a", "Host: b"]).address(), "a 80");
}

#[test]
fn a_method_that_is_not_known_is_other_and_names_the_span_http() {
    for (line, name, method, original) in [
        ("GET /", "GET", "GET", "-"),
        ("QUERY /", "QUERY", "QUERY", "-"),
        ("get /", "HTTP", "_OTHER", "get"),
        ("PROPFIND /", "HTTP", "_OTHER", "PROPFIND"),
        ("_OTHER /", "HTTP", "_OTHER", "-"),
        ("\u{1b}[2J /", "HTTP", "_OTHER", "\u{fffd}[2J"),
    ] {
        for case in [server(line, &[]), client(line, &[])] {
            assert_eq!(case.describe().name, name);
            assert_eq!(case.get("http.request.method"), method);
            assert_eq!(case.get("http.request.method_original"), original);
        }
    }
}

#[test]
fn the_list_of_known_methods_is_replaced_not_extended() {
    let mut case = server("PROPFIND /", &[]);
    case.settings = Settings::default().with_known_methods(Some(" PROPFIND ,,GET,"));
    assert_eq!(case.describe().name, "PROPFIND");
    assert_eq!(case.settings.known_methods, ["PROPFIND", "GET"]);
    for unset in [None, Some(""), Some(" , ")] {
        assert_eq!(Settings::default().with_known_methods(unset), Settings::default());
    }
}

#[test]
fn the_status_says_who_went_wrong() {
    use FailureKind::*;
    let plain = |role, status, error: Option<&str>| {
        let described = case(role, b"GET /", &[]).status(status).describe();
        assert_eq!(described.error.as_deref(), error, "{role:?} {status}");
        assert!(described.events.is_empty());
    };
    for status in [101, 200, 204, 302, 304, 399] {
        plain(Role::Server, status, None);
        plain(Role::Client, status, None);
    }
    for status in [400, 404, 499] {
        plain(Role::Server, status, None);
        plain(Role::Client, status, Some(&status.to_string()));
    }
    for status in [500, 503, 599] {
        plain(Role::Server, status, Some(&status.to_string()));
        plain(Role::Client, status, Some(&status.to_string()));
    }
    plain(Role::Server, 777, None);
    plain(Role::Client, 777, Some("777"));

    for role in [Role::Server, Role::Client] {
        for (kind, error) in [
            (ConnectionReset, "connection_reset"),
            (TimedOut, "timeout"),
            (ConnectionClosed, "connection_closed"),
            (Cancelled, "cancelled"),
            (ProcessExited, "process_exited"),
            (Socket(113), "socket_error"),
        ] {
            let failed = case(role, b"GET /", &[]).no_response().failure(kind);
            assert_eq!(failed.describe().error.as_deref(), Some(error));
            assert_eq!(failed.get("error.type"), error);
            assert_eq!(failed.get("http.response.status_code"), "-");
        }
        // The status code is what the conventions ask for where there is one that says error.
        let both = case(role, b"GET /", &[]).status(503).failure(ConnectionReset);
        assert_eq!(both.get("error.type"), "503");
        let only = case(role, b"GET /", &[]).status(200).failure(ConnectionReset);
        assert_eq!(only.get("error.type"), "connection_reset");
    }
}

#[test]
fn a_failure_is_an_event_at_its_moment() {
    let events = server("GET /", &[]).failure(FailureKind::Socket(113)).describe().events;
    let [event] = &events[..] else { panic!("{events:?}") };
    assert_eq!((event.time, event.name), (Monotonic(42), "exchange.failed"));
    let got: Vec<_> = event.attributes.iter().map(|(key, value)| format!("{key}={}", show(value))).collect();
    assert_eq!(got, ["error.type=socket_error", "network.io.direction=receive", "spandrel.errno=113"]);
}

#[test]
fn a_client_that_closes_after_the_response_head_did_not_fail() {
    let described = client("GET /", &[]).failure(FailureKind::Cancelled).describe();
    assert_eq!(described.error, None);
    assert_eq!(described.events.first().map(|event| event.name), Some("exchange.cancelled"));
    assert_eq!(client("GET /", &[]).failure(FailureKind::Cancelled).get("error.type"), "-");
    assert_eq!(server("GET /", &[]).failure(FailureKind::Cancelled).get("error.type"), "cancelled");
}

#[test]
fn a_query_keeps_its_keys_and_no_values() {
    for (query, redacted, kept) in [
        ("a=1&b=2", "a=REDACTED&b=REDACTED", "a=1&b=2"),
        ("a=1;b=2", "a=REDACTED", "a=1;b=2"),
        ("a=b=c", "a=REDACTED", "a=b=c"),
        ("a", "a", "a"),
        ("a=", "a=REDACTED", "a="),
        ("=a", "=REDACTED", "=a"),
        ("&&a=1&", "&&a=REDACTED&", "&&a=1&"),
        ("q=a?b=c", "q=REDACTED", "q=a?b=c"),
        (
            "sig=x&Sig=y&X-Amz-Signature=z",
            "sig=REDACTED&Sig=REDACTED&X-Amz-Signature=REDACTED",
            "sig=REDACTED&Sig=y&X-Amz-Signature=REDACTED",
        ),
        ("a=\u{e9}", "a=REDACTED", "a=%C3%A9"),
        ("", "-", "-"),
        ("#a=1", "-", "-"),
        ("a=1#token=2", "a=REDACTED", "a=1"),
    ] {
        let line = format!("GET /p?{query}");
        assert_eq!(server(&line, &[]).get("url.query"), redacted, "{query}");
        assert_eq!(server(&line, &[]).keep_values().get("url.query"), kept, "{query}");
        let full = |text: &str| {
            if text == "-" { "http://h/p".to_owned() } else { format!("http://h/p?{text}") }
        };
        assert_eq!(client(&line, &["Host: h"]).get("url.full"), full(redacted), "{query}");
        assert_eq!(client(&line, &["Host: h"]).keep_values().get("url.full"), full(kept), "{query}");
    }
    assert_eq!(server("GET /p", &[]).get("url.query"), "-");
}

#[test]
fn each_form_of_target_gives_a_path_and_an_absolute_url() {
    for (line, path, full, address) in [
        ("GET /a/b", "/a/b", "http://h:81/a/b", "h 81"),
        ("GET /", "/", "http://h:81/", "h 81"),
        ("GET //x", "//x", "http://h:81//x", "h 81"),
        ("GET /a#b", "/a", "http://h:81/a", "h 81"),
        ("GET http://o.example/a", "/a", "http://o.example/a", "o.example 80"),
        ("GET HTTPS://o.example", "/", "https://o.example/", "o.example 443"),
        ("GET http://u:p@o.example:99/a@b", "/a@b", "http://o.example:99/a@b", "o.example 99"),
        ("GET http://u@p@[::1]:99/", "/", "http://[::1]:99/", "::1 99"),
        ("GET ws://o/chat", "/chat", "ws://o/chat", "o 80"),
        ("GET http:///a", "/a", "http://h:81/a", "h 81"),
        ("OPTIONS *", "*", "http://h:81", "h 81"),
        ("CONNECT o.example:443", "", "http://o.example:443", "o.example 443"),
        ("CONNECT [::1]:443", "", "http://[::1]:443", "::1 443"),
        ("GET a", "a", "http://h:81/a", "h 81"),
        ("GET ", "", "http://h:81", "h 81"),
        ("GET localhost:80", "localhost:80", "http://h:81/localhost:80", "h 81"),
    ] {
        let host = ["Host: h:81"];
        assert_eq!(server(line, &host).get("url.path"), path, "{line}");
        assert_eq!(server(line, &host).address(), address, "{line}");
        assert_eq!(client(line, &host).get("url.full"), full, "{line}");
        assert_eq!(client(line, &host).address(), address, "{line}");
    }
}

#[test]
fn a_password_in_a_url_is_nowhere() {
    for line in ["GET http://user:hunter2@h/p", "GET http://hunter2@h:1/p?a=hunter2", "CONNECT u:hunter2@h:1"]
    {
        for case in [server(line, &["Host: user:hunter2@h"]), client(line, &["Host: u:hunter2@h:80"])] {
            let text = format!("{:?}", case.describe());
            assert!(!text.contains("hunter2"), "{text}");
        }
    }
}

#[test]
fn the_host_field_is_taken_apart_or_not_believed() {
    let own = "10.0.0.1 8080";
    for (host, address) in [
        ("h", "h 80"),
        ("h:", "h 80"),
        ("h:8080", "h 8080"),
        ("127.0.0.1:8000", "127.0.0.1 8000"),
        ("[::1]", "::1 80"),
        ("[::1]:8000", "::1 8000"),
        ("[fe80::1%25eth0]:80", "fe80::1 80"),
        ("::1", "::1 80"),
        ("a_b.c-d", "a_b.c-d 80"),
        ("b\u{fc}cher.example", "b\u{fc}cher.example 80"),
        (" h ", "h 80"),
        ("", own),
        (":80", own),
        ("h:x", own),
        ("h:+1", own),
        ("h:65536", own),
        ("h:1:2", own),
        ("[h]", own),
        ("[::1", own),
        ("[::1]x", own),
        ("a b", own),
        ("a/b", own),
        ("a@b", own),
        ("a\u{1b}[2J", own),
        ("a\u{202e}b", own),
        ("<script>", own),
    ] {
        assert_eq!(server("GET /", &[&format!("Host: {host}")]).address(), address, "{host:?}");
    }
    let mut bytes = server("GET /", &[]);
    bytes.request.fields.0.push((FieldName::Host, b"a\xffb".as_slice().into()));
    assert_eq!(bytes.address(), own);
    assert_eq!(server("GET /", &[]).address(), own);
}

#[test]
fn without_a_host_a_client_span_names_the_peer() {
    let peer = |address: &str, line: &str| {
        let mut case = client(line, &[]);
        case.peer = Some(ip(address));
        (case.get("url.full"), case.address())
    };
    assert_eq!(peer("10.0.0.2:8080", "GET /a"), ("http://10.0.0.2:8080/a".into(), "10.0.0.2 8080".into()));
    assert_eq!(peer("10.0.0.2:80", "GET /a"), ("http://10.0.0.2/a".into(), "10.0.0.2 80".into()));
    assert_eq!(peer("[::1]:80", "GET /a"), ("http://[::1]/a".into(), "::1 80".into()));
    assert_eq!(peer("[::1]:81", "GET /a"), ("http://[::1]:81/a".into(), "::1 81".into()));
    let mut nowhere = client("GET /a", &[]);
    (nowhere.local, nowhere.peer) = (None, None);
    assert_eq!((nowhere.get("url.full"), nowhere.address()), ("http:///a".into(), "- -".into()));
}

#[test]
fn proxies_name_the_client_the_host_and_the_scheme() {
    let seen = |fields: &[&str]| {
        let mut all = vec!["Host: inner:8080"];
        all.extend(fields);
        let case = server("GET /", &all);
        format!("{} {} {}", case.get("client.address"), case.address(), case.get("url.scheme"))
    };
    let plain = "10.0.0.2 inner 8080 http";
    assert_eq!(seen(&[]), plain);
    for (fields, want) in [
        (&["Forwarded: for=192.0.2.60;proto=https;host=example.com"][..], "192.0.2.60 example.com 443 https"),
        (&["Forwarded: For=\"[2001:db8:cafe::17]:4711\""], "2001:db8:cafe::17 inner 8080 http"),
        (&["Forwarded: for=192.0.2.43, for=198.51.100.17"], "192.0.2.43 inner 8080 http"),
        (&["Forwarded: for=192.0.2.43", "Forwarded: for=198.51.100.17;host=e"], "192.0.2.43 e 80 http"),
        (&["Forwarded: by=1.1.1.1;host=\"e:81\", for=192.0.2.43"], "192.0.2.43 e 81 http"),
        (&["Forwarded: for=\"192.0.2.43:47011\""], "192.0.2.43 inner 8080 http"),
        (&["Forwarded: for=\"192.0.2.43:_x\""], "192.0.2.43 inner 8080 http"),
        (&["Forwarded: for=\"[2001:db8::1]:_x\""], "2001:db8::1 inner 8080 http"),
        (&["Forwarded: for=\"\\1\\92.0.2.43\" ; proto=HTTPS"], "192.0.2.43 inner 8080 https"),
        (&["Forwarded: ;;,, for=192.0.2.43"], "192.0.2.43 inner 8080 http"),
        (&["Forwarded: for=_hidden, for=192.0.2.43"], "- inner 8080 http"),
        (&["Forwarded: for=unknown"], "- inner 8080 http"),
        (&["Forwarded: for=unknown", "X-Forwarded-For: 192.0.2.1"], "192.0.2.1 inner 8080 http"),
        (&["X-Forwarded-For: 192.0.2.1, 198.51.100.17"], "192.0.2.1 inner 8080 http"),
        (&["X-Forwarded-For: 192.0.2.1:99"], "192.0.2.1 inner 8080 http"),
        (&["X-Forwarded-For: 2001:db8::1"], "2001:db8::1 inner 8080 http"),
        (&["X-Forwarded-For: [2001:db8::1]:99"], "2001:db8::1 inner 8080 http"),
        (&["X-Forwarded-For: crawler.example"], "crawler.example inner 8080 http"),
        (&["X-Forwarded-For: ' OR 1=1 --"], "- inner 8080 http"),
        (
            &["X-Forwarded-Host: e.example, f", "X-Forwarded-Proto: https,http"],
            "10.0.0.2 e.example 443 https",
        ),
        (&["X-Forwarded-Host: e.example:81"], "10.0.0.2 e.example 81 http"),
        (&["Forwarded: host=e", "X-Forwarded-Host: f", "X-Forwarded-Proto: https"], "10.0.0.2 e 443 https"),
        (&["X-Forwarded-Proto: ht tp", "X-Forwarded-Host: a b", "X-Forwarded-For: "], plain),
        (&["Forwarded: nonsense"], plain),
        (&["Forwarded: for"], plain),
        (&["Forwarded: for="], plain),
        (&["Forwarded: for=\"192.0.2.43"], plain),
        (&["Forwarded: proto=https for=1.2.3.4"], plain),
    ] {
        assert_eq!(seen(fields), want, "{fields:?}");
    }
}

#[test]
fn a_client_span_does_not_look_at_what_proxies_say() {
    let fields = ["Host: h", "X-Forwarded-Host: f", "X-Forwarded-Proto: https", "Forwarded: host=g"];
    assert_eq!(client("GET /", &fields).get("url.full"), "http://h/");
    assert_eq!(client("GET /", &fields).address(), "h 80");
}

#[test]
fn a_unix_socket_is_named_by_host_or_by_its_path() {
    let path = "/run/app.sock";
    let with = |role, fields: &[&str], local: &str, peer: &str| {
        let case = case(role, b"GET /a", fields).unix(local, peer);
        format!("{} | {}", case.address(), case.get("network.peer.address"))
    };
    assert_eq!(with(Role::Client, &["Host: localhost"], "", path), "localhost 80 | /run/app.sock");
    assert_eq!(with(Role::Client, &[], "", path), "/run/app.sock - | /run/app.sock");
    assert_eq!(with(Role::Server, &["Host: app"], path, ""), "app 80 | -");
    assert_eq!(with(Role::Server, &[], path, ""), "/run/app.sock - | -");
    assert_eq!(case(Role::Server, b"GET /", &[]).unix(path, "").get("client.address"), "-");
    assert_eq!(client("GET /a", &[]).unix("", path).get("url.full"), "http://%2Frun%2Fapp.sock/a");
    assert_eq!(client("GET /", &[]).unix("", "a\u{1b}\u{9b}").get("server.address"), "a\u{fffd}\u{fffd}");
}

#[test]
fn the_version_is_the_lower_one_of_both_ends() {
    let version = |request, response: Option<Version>| {
        let mut case = server("GET /", &[]).no_response();
        case.request.version = request;
        case.response =
            response.map(|version| ResponseHead { status: 200, version, fields: Fields::default() });
        case.get("network.protocol.version")
    };
    assert_eq!(version(Version::Http11, None), "1.1");
    assert_eq!(version(Version::Http11, Some(Version::Http11)), "1.1");
    assert_eq!(version(Version::Http11, Some(Version::Http10)), "1.0");
    assert_eq!(version(Version::Http10, Some(Version::Http11)), "1.0");
    assert_eq!(version(Version::Http10, None), "1.0");
}

#[test]
fn bytes_that_are_no_text_are_encoded_in_a_url_and_replaced_elsewhere() {
    let line = b"GET /a\xff\x1b[2J\x00\x7f\xe2\x80\xae\"<>%41?k\x9b=v\xff";
    let odd = case(Role::Server, line, &["User-Agent: \u{1b}]0;x\u{7}\t\u{202e}\u{9b}\u{2028}e\u{301}"]);
    assert_eq!(odd.get("url.path"), "/a%FF%1B[2J%00%7F%E2%80%AE\"<>%41");
    assert_eq!(odd.get("url.query"), "k%9B=REDACTED");
    assert_eq!(odd.get("user_agent.original"), "\u{fffd}]0;x\u{fffd} \u{fffd}\u{fffd}\u{fffd}e\u{301}");
    let mut bytes = server("GET /", &[]);
    bytes.request.fields.0.push((FieldName::UserAgent, b"a\xff\xfeb".as_slice().into()));
    assert_eq!(bytes.get("user_agent.original"), "a\u{fffd}\u{fffd}b");
}

#[test]
fn a_long_value_is_cut_where_a_character_ends_and_counted() {
    let long = "x".repeat(70_000);
    let case = server(&format!("GET /{long}?{long}=1"), &[&format!("User-Agent: {long}"), "Host: h"]);
    let described = case.describe();
    assert_eq!(described.cut, 3);
    for key in ["url.path", "url.query", "user_agent.original"] {
        assert_eq!(case.get(key).len(), DEFAULT_VALUE_LIMIT, "{key}");
    }
    for limit in 0..20 {
        let mut case = server("GET /\u{e9}\u{e9}\u{e9}", &["User-Agent: \u{20ac}\u{1f980}\u{20ac}"]);
        case.settings.value_limit = limit;
        let path = case.get("url.path");
        assert!(path.len() <= limit && "/%C3%A9%C3%A9%C3%A9".starts_with(&path), "{path}");
        assert!(path.is_empty() || (path.len() - 1).is_multiple_of(3), "{path}");
        let agent = case.get("user_agent.original");
        assert!("\u{20ac}\u{1f980}\u{20ac}".starts_with(&agent), "{agent}");
    }
    assert_eq!(server("GET /", &[]).describe().cut, 0);
}

#[test]
fn the_fuzz_body_holds_on_seeds() {
    let head =
        "GET\n/a/b?c=d&e#f\n\u{1}for=\"[::1]:1\";proto=https, host=x\n\u{0}h:80\n\u{2}1.2.3.4\n\u{5}agent";
    let absolute = "PUT\nhttp://u:p@[::1]:80/a?b=\u{0}[::1]:80\n\u{3}[::1]";
    for seed in [head, absolute, "", "CONNECT\n[::1]:443\n\u{0}:", "\n\n\u{1}for=\"\\"] {
        for choice in 0..=255 {
            let mut data = vec![choice];
            data.extend_from_slice(seed.as_bytes());
            fuzz::fuzz_describe(&data);
        }
        for at in 0..seed.len() {
            for byte in [0, b' ', b':', b'=', b'"', b'\\', b'[', b'@', b'#', 0x1b, 0xff] {
                let mut data = vec![at as u8 ^ byte];
                data.extend_from_slice(seed.as_bytes());
                data[at + 1] = byte;
                fuzz::fuzz_describe(&data);
            }
        }
    }
}
