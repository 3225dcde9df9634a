//! Fuzz body: any bytes as the head of an exchange.
//!
//! The first byte chooses the role and the setting, the rest is lines: method, target, then fields, each
//! led by a byte that chooses its name.

use super::{Endpoints, QueryValues, Settings, Subject, describe, is_harmful};
use crate::exchange::{Failure, FailureKind};
use crate::identity::{Address, Direction, Monotonic, Role};
use crate::protocol::{FieldName, Fields, RequestHead, ResponseHead, Version};
use crate::stitch::span::Value;

/// Describes an exchange of any bytes.
pub fn fuzz_describe(data: &[u8]) {
    let (&choice, data) = data.split_first().unwrap_or((&0, data));
    let mut lines = data.split(|&byte| byte == b'\n');
    let method = lines.next().unwrap_or_default().into();
    let target = lines.next().unwrap_or_default().into();
    let fields = lines.filter_map(|line| line.split_first()).map(|(&kind, value)| {
        let name = match kind % 6 {
            0 => FieldName::Host,
            1 => FieldName::Forwarded,
            2 => FieldName::XForwardedFor,
            3 => FieldName::XForwardedHost,
            4 => FieldName::XForwardedProto,
            _ => FieldName::UserAgent,
        };
        (name, value.into())
    });
    let request = RequestHead { method, target, version: Version::Http11, fields: Fields(fields.collect()) };
    let status = 100 + u16::from(choice) * 3;
    let response = ResponseHead { status, version: Version::Http10, fields: Fields::default() };
    let peer = Address::Ip(([127, 0, 0, 1], 8080).into());
    let local = Address::Unix(String::from_utf8_lossy(data).into_owned());
    let bit = |bit: u8| choice & 1 << bit != 0;
    let subject = Subject {
        role: if bit(0) { Role::Server } else { Role::Client },
        request: &request,
        response: bit(1).then_some(&response),
        endpoints: Endpoints { local: bit(2).then_some(&local), peer: bit(3).then_some(&peer), tls: None },
        failure: bit(4).then_some(Failure {
            kind: if bit(5) { FailureKind::Cancelled } else { FailureKind::Socket(5) },
            at: Monotonic(7),
            during: Direction::Receive,
        }),
        stream: None,
        began: Monotonic(0),
        incomplete: false,
    };
    let settings = Settings {
        query_values: if bit(6) { QueryValues::Keep } else { QueryValues::Redact },
        value_limit: if bit(7) { 16 } else { 2048 },
        ..Settings::default()
    };
    let described = describe(&subject, &settings);

    let mut keys = std::collections::BTreeSet::new();
    for (key, value) in &described.attributes {
        assert!(keys.insert(*key), "{key} twice");
        match value {
            Value::Text(text) => {
                assert!(text.len() <= settings.value_limit, "{key} is too long");
                assert!(!text.chars().any(is_harmful), "{key}: {text:?}");
                if key.starts_with("url.") {
                    assert!(text.bytes().all(|byte| byte.is_ascii_graphic()), "{key}: {text:?}");
                }
                if *key == "url.query" && settings.query_values == QueryValues::Redact {
                    let redacted = |item: &str| match item.split_once('=') {
                        Some((_, value)) => "REDACTED".starts_with(value),
                        None => true,
                    };
                    assert!(text.split('&').all(redacted), "{text:?}");
                }
            }
            Value::Integer(number) => assert!((0..=65_535).contains(number), "{key}: {number}"),
            Value::Boolean(_) => {}
        }
    }
    assert!(keys.contains("http.request.method") && !described.name.is_empty());
    let wanted: &[&str] =
        if subject.role == Role::Server { &["url.path", "url.scheme"] } else { &["url.full"] };
    assert!(wanted.iter().all(|key| keys.contains(key)), "{keys:?}");
    assert_eq!(keys.contains("error.type"), described.error.is_some());
    assert_eq!(described.events.len(), usize::from(subject.failure.is_some()));
    assert!(described.name == "HTTP" || settings.known_methods.iter().any(|known| *known == described.name));
}
