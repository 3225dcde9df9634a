//! Request targets and authorities taken apart (RFC 9112 §3.2, RFC 3986 §3).
//!
//! It must never keep user information (`user:password@`) or a fragment, and never call something a host
//! that could not be one: such a value is treated as absent.

use super::super::span::Text;
use std::net::Ipv6Addr;

use super::QueryValues;
use super::text::{is_harmful, push_url};

/// A request target, by its form.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Target<'a> {
    /// The scheme of the absolute form, as it came.
    pub scheme: Option<&'a str>,
    /// The authority of the absolute form or of `CONNECT`, if it is one.
    pub authority: Option<Authority<'a>>,
    /// The path; `*` for the asterisk form, empty for `CONNECT`.
    pub path: &'a [u8],
    /// What follows the `?`; none if that is nothing.
    pub query: Option<&'a [u8]>,
}

impl<'a> Target<'a> {
    /// Takes a target apart. Nothing is refused: what has no known form is a path.
    pub fn parse(method: &[u8], target: &'a [u8]) -> Self {
        if method == b"CONNECT" {
            return Self { scheme: None, authority: Authority::parse(target), path: b"", query: None };
        }
        let target = before(target, b'#').0;
        let (hierarchy, query) = before(target, b'?');
        let query = query.filter(|query| !query.is_empty());
        let Some((scheme, rest)) = absolute(hierarchy) else {
            return Self { scheme: None, authority: None, path: hierarchy, query };
        };
        let slash = rest.iter().position(|&byte| byte == b'/').unwrap_or(rest.len());
        let (authority, path) = rest.split_at(slash);
        let host = authority.rsplit(|&byte| byte == b'@').next().unwrap_or_default();
        // RFC 9110 §4.2.3: an empty path is `/`.
        let path = if path.is_empty() { b"/" } else { path };
        Self { scheme: Some(scheme), authority: Authority::parse(host), path, query }
    }
}

/// What is before the first such byte, and what is after it.
fn before(text: &[u8], byte: u8) -> (&[u8], Option<&[u8]>) {
    match text.iter().position(|&b| b == byte) {
        Some(at) => (text.get(..at).unwrap_or_default(), text.get(at + 1..)),
        None => (text, None),
    }
}

/// `scheme "://" rest`.
fn absolute(target: &[u8]) -> Option<(&str, &[u8])> {
    let colon = target.iter().position(|&byte| byte == b':')?;
    let rest = target.get(colon + 1..)?.strip_prefix(b"//")?;
    Some((scheme(target.get(..colon)?)?, rest))
}

/// A scheme by RFC 3986 §3.1, with any case.
pub fn scheme(text: &[u8]) -> Option<&str> {
    let inside = |byte: &u8| byte.is_ascii_alphanumeric() || b"+-.".contains(byte);
    let good = text.first()?.is_ascii_alphabetic() && text.len() <= 32 && text.iter().all(inside);
    std::str::from_utf8(text).ok().filter(|_| good)
}

/// The port that a scheme means when none is said (RFC 9110 §4.2, RFC 6455 §3).
pub fn default_port(scheme: &str) -> Option<u16> {
    const PORTS: [(&str, u16); 4] = [("http", 80), ("https", 443), ("ws", 80), ("wss", 443)];
    PORTS.iter().find(|(name, _)| scheme.eq_ignore_ascii_case(name)).map(|&(_, port)| port)
}

/// `host [ ":" port ]` (RFC 9110 §7.2).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Authority<'a> {
    /// A name or an address; an IPv6 address without its brackets.
    pub host: &'a str,
    /// Its port, if one was said.
    pub port: Option<u16>,
}

impl<'a> Authority<'a> {
    /// Takes an authority apart; none if it is not one, among them those with user information.
    pub fn parse(text: &'a [u8]) -> Option<Self> {
        let text = std::str::from_utf8(text).ok()?.trim_matches([' ', '\t']);
        let (host, port) = match text.strip_prefix('[') {
            Some(inside) => {
                let (host, rest) = inside.split_once(']')?;
                // RFC 6874: a zone may follow; it names an interface of the sender's and says nothing here.
                let address = host.split_once('%').map_or(host, |(address, _)| address);
                address.parse::<Ipv6Addr>().ok()?;
                match rest {
                    "" => (address, None),
                    _ => (address, Some(rest.strip_prefix(':')?)),
                }
            }
            // Not by the grammar, but there is no other way to mean it.
            None if text.parse::<Ipv6Addr>().is_ok() => (text, None),
            None => match text.split_once(':') {
                Some((host, port)) => (host, Some(port)),
                None => (text, None),
            },
        };
        let port = match port {
            None | Some("") => None,
            Some(port) if port.bytes().all(|byte| byte.is_ascii_digit()) => Some(port.parse().ok()?),
            Some(_) => return None,
        };
        (!host.is_empty() && host.chars().all(in_host)).then_some(Self { host, port })
    }

    /// Appends it as it stands in a URL.
    pub fn push(&self, to: &mut Text) {
        if self.host.contains(':') {
            to.push('[');
            to.push_str(self.host);
            to.push(']');
        } else {
            push_url(to, self.host.as_bytes());
        }
        if let Some(port) = self.port {
            to.push(':');
            to.push_str(&port.to_string());
        }
    }
}

/// What may stand in a host: RFC 3986's `reg-name` and the colon of IPv6; beyond ASCII whatever is not
/// `is_harmful`, since such names are sent although they should be encoded.
fn in_host(character: char) -> bool {
    match character {
        '\0'..='\x7f' => character.is_ascii_alphanumeric() || "-._~%!$&'()*+,;=:".contains(character),
        _ => !is_harmful(character) && !character.is_whitespace(),
    }
}

/// Appends a query. Keys stay; values are replaced, or only those that the conventions name.
pub fn push_query(to: &mut Text, query: &[u8], values: QueryValues) {
    for (index, item) in query.split(|&byte| byte == b'&').enumerate() {
        if index > 0 {
            to.push('&');
        }
        let (key, value) = before(item, b'=');
        push_url(to, key);
        let Some(value) = value else { continue };
        to.push('=');
        match values {
            QueryValues::Keep if !SENSITIVE.contains(&key) => push_url(to, value),
            QueryValues::Keep | QueryValues::Redact => to.push_str(REDACTED),
        }
    }
}

/// What stands for a value that is not shown.
const REDACTED: &str = "REDACTED";

/// The keys whose values the conventions (schema 1.44.0) never show, compared with regard to case.
const SENSITIVE: [&[u8]; 5] =
    [b"X-Amz-Signature", b"X-Amz-Credential", b"X-Amz-Security-Token", b"sig", b"X-Goog-Signature"];
