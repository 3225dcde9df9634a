//! The two variables of a target's environment that Spandrel honours, and nothing else of it.
//!
//! Input is `/proc/PID/environ`: `NAME=value` strings, each ended by NUL (environ(7)), as they were at
//! `execve`. An environment holds secrets: this must never keep, log or return a variable other than
//! `OTEL_SERVICE_NAME` and `OTEL_RESOURCE_ATTRIBUTES`.

use super::text::harmless;

/// What a target says of itself.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Declared {
    /// `OTEL_SERVICE_NAME`; not empty.
    pub service_name: Option<String>,
    /// `OTEL_RESOURCE_ATTRIBUTES`, decoded; each key once, the last value wins.
    pub attributes: Vec<(String, String)>,
}

impl Declared {
    /// `service.name` among the attributes.
    pub fn service_attribute(&self) -> Option<&str> {
        self.attributes.iter().find(|(key, _)| key == "service.name").map(|(_, value)| value.as_str())
    }
}

/// Finds both variables in a whole environment.
pub fn declared(environ: &[u8]) -> Declared {
    let mut scanner = Scanner::default();
    scanner.piece(environ);
    scanner.finish()
}

/// Reads an environment piece by piece, and keeps no more of it than the two variables.
#[derive(Default)]
pub struct Scanner {
    /// The start of the string that the last piece ended in; bounded by [`MAX_VARIABLE`].
    partial: Vec<u8>,
    found: Declared,
}

impl Scanner {
    /// The next bytes.
    pub fn piece(&mut self, bytes: &[u8]) {
        let mut rest = bytes;
        while let Some(end) = memchr::memchr(0, rest) {
            let (string, after) = rest.split_at(end);
            if self.partial.is_empty() {
                variable(string, &mut self.found);
            } else {
                self.keep(string);
                variable(&self.partial, &mut self.found);
                self.partial.clear();
            }
            rest = after.get(1..).unwrap_or(&[]);
        }
        self.keep(rest);
    }

    /// No more bytes come.
    pub fn finish(mut self) -> Declared {
        variable(&self.partial, &mut self.found);
        self.found
    }

    fn keep(&mut self, bytes: &[u8]) {
        let room = MAX_VARIABLE.saturating_sub(self.partial.len());
        self.partial.extend_from_slice(bytes.get(..room).unwrap_or(bytes));
    }
}

/// The first of two definitions wins, as it does for getenv(3).
fn variable(string: &[u8], found: &mut Declared) {
    if let Some(value) = string.strip_prefix(b"OTEL_SERVICE_NAME=") {
        let name = harmless(value, super::naming::MAX_SERVICE_NAME);
        if found.service_name.is_none() && !name.is_empty() {
            found.service_name = Some(name);
        }
    } else if let Some(value) = string.strip_prefix(b"OTEL_RESOURCE_ATTRIBUTES=")
        && found.attributes.is_empty()
    {
        found.attributes = attributes(value).unwrap_or_default();
    }
}

/// `key=value,key=value`, both percent-encoded (OpenTelemetry specification, Resource SDK, "Specifying
/// resource information via an environment variable"). Anything that cannot be decoded drops the whole
/// value, as the specification asks.
fn attributes(value: &[u8]) -> Option<Vec<(String, String)>> {
    let mut found: Vec<(String, String)> = Vec::new();
    for pair in value.split(|byte| *byte == b',') {
        let pair = pair.trim_ascii();
        if pair.is_empty() {
            continue;
        }
        let equals = pair.iter().position(|byte| *byte == b'=')?;
        let (key, value) = pair.split_at(equals);
        let key = harmless(&decoded(key.trim_ascii())?, MAX_VALUE);
        let value = harmless(&decoded(value.get(1..)?.trim_ascii())?, MAX_VALUE);
        if key.is_empty() {
            return None;
        }
        if let Some(known) = found.iter_mut().find(|(known, _)| *known == key) {
            known.1 = value;
        } else if found.len() < MAX_ATTRIBUTES {
            found.push((key, value));
        }
    }
    Some(found)
}

/// Percent-decoding (RFC 3986 §2.1) to valid UTF-8.
fn decoded(text: &[u8]) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.iter();
    while let Some(byte) = rest.next() {
        if *byte == b'%' {
            let high = char::from(*rest.next()?).to_digit(16)?;
            let low = char::from(*rest.next()?).to_digit(16)?;
            bytes.push(u8::try_from(high * 16 + low).ok()?);
        } else {
            bytes.push(*byte);
        }
    }
    std::str::from_utf8(&bytes).ok()?;
    Some(bytes)
}

/// The longest variable that is looked at, in bytes. A longer one is cut; its decoding then fails or ends early.
const MAX_VARIABLE: usize = 16 << 10;
/// How many attributes one target may add (OTEL_ATTRIBUTE_COUNT_LIMIT's default).
const MAX_ATTRIBUTES: usize = 128;
/// The longest key or value, in bytes.
const MAX_VALUE: usize = 2 << 10;

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(environ: &str, name: Option<&str>, attributes: &[(&str, &str)]) {
        let whole = declared(environ.as_bytes());
        assert_eq!(whole.service_name.as_deref(), name);
        let got: Vec<(&str, &str)> = whole.attributes.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
        assert_eq!(got, attributes);
        for cut in 0..=environ.len() {
            let mut scanner = Scanner::default();
            let (first, second) = environ.as_bytes().split_at(cut);
            scanner.piece(first);
            scanner.piece(second);
            assert_eq!(scanner.finish(), whole, "cut at {cut}");
        }
    }

    #[test]
    fn the_two_variables_are_found_wherever_the_text_is_cut() {
        check("PATH=/bin\0OTEL_SERVICE_NAME=shop\0SECRET=x\0", Some("shop"), &[]);
        check("OTEL_SERVICE_NAME=shop", Some("shop"), &[]);
        check(
            "OTEL_RESOURCE_ATTRIBUTES=a=1,service.name=shop , b = x%20y%2C\0",
            None,
            &[("a", "1"), ("service.name", "shop"), ("b", "x y,")],
        );
        check("XOTEL_SERVICE_NAME=no\0OTEL_SERVICE_NAMES=no\0", None, &[]);
        check("OTEL_SERVICE_NAME=\0", None, &[]);
        check("", None, &[]);
    }

    #[test]
    fn the_last_value_of_a_key_and_the_first_variable_win() {
        check(
            "OTEL_RESOURCE_ATTRIBUTES=a=1,a=2\0OTEL_SERVICE_NAME=x\0OTEL_SERVICE_NAME=y\0",
            Some("x"),
            &[("a", "2")],
        );
    }

    #[test]
    fn one_bad_pair_drops_all_attributes() {
        for bad in ["a=1,b", "a=1,b=%zz", "a=1,b=%f", "a=1,b=%ff", "=1"] {
            check(&format!("OTEL_RESOURCE_ATTRIBUTES={bad}\0"), None, &[]);
        }
        check("OTEL_RESOURCE_ATTRIBUTES=a=,b=c=d\0", None, &[("a", ""), ("b", "c=d")]);
    }

    #[test]
    fn a_huge_environment_keeps_nothing_but_a_bounded_variable() {
        let mut scanner = Scanner::default();
        for _ in 0..1000 {
            scanner.piece(&[b'x'; 4096]);
        }
        assert!(scanner.partial.len() <= MAX_VARIABLE);
        scanner.piece(b"\0OTEL_SERVICE_NAME=shop\0");
        assert_eq!(scanner.finish().service_name.as_deref(), Some("shop"));
    }

    #[test]
    fn control_characters_are_made_harmless() {
        assert_eq!(declared(b"OTEL_SERVICE_NAME=a\x1bb\0").service_name.as_deref(), Some("a\u{FFFD}b"));
    }
}
