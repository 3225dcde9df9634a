//! What proxies say of the request that they pass on: `Forwarded` (RFC 7239) and the `X-Forwarded-*` before
//! it.
//!
//! The left-most value is the one nearest to the client; it is what the conventions ask for, and it is no
//! more true than whoever wrote it. `Forwarded` wins over the others, parameter by parameter.
//!
//! It must never take for an address what is none: `unknown`, an obfuscated name, arbitrary text.

use compact_str::ToCompactString as _;

use super::super::span::Text;
use std::borrow::Cow;
use std::net::{IpAddr, SocketAddr};

use super::url::{Authority, scheme};
use crate::protocol::{FieldName, Fields};

/// Who the client is.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Client {
    /// No proxy said anything: it is the peer.
    Peer,
    /// A proxy said who.
    At(Text),
    /// A proxy is between, and does not say who.
    Hidden,
}

/// The client's address, if a proxy gave one.
pub fn client(fields: &Fields) -> Client {
    let forwarded = parameter(fields, "for");
    let listed = first_listed(fields, FieldName::XForwardedFor);
    if forwarded.is_none() && listed.is_none() {
        return Client::Peer;
    }
    let address = forwarded.as_deref().and_then(node).or_else(|| listed.and_then(node));
    address.map_or(Client::Hidden, Client::At)
}

/// The scheme of the client's own request, in lower case.
pub fn proto(fields: &Fields) -> Option<Text> {
    let forwarded = parameter(fields, "proto");
    let named = |text: &[u8]| scheme(text).map(|scheme| Text::from(scheme.to_ascii_lowercase()));
    forwarded
        .as_deref()
        .and_then(named)
        .or_else(|| first_listed(fields, FieldName::XForwardedProto).and_then(named))
}

/// The authority of the client's own request: host and port.
pub fn host(fields: &Fields) -> Option<(Text, Option<u16>)> {
    let forwarded = parameter(fields, "host");
    let listed = || first_listed(fields, FieldName::XForwardedHost).and_then(Authority::parse);
    let owned = |authority: Authority<'_>| (Text::from(authority.host), authority.port);
    forwarded.as_deref().and_then(Authority::parse).map(owned).or_else(|| listed().map(owned))
}

/// A node identifier (RFC 7239 §6) or an entry of `X-Forwarded-For`: an address, or a name, without its
/// port.
fn node(text: &[u8]) -> Option<Text> {
    let text = std::str::from_utf8(text).ok()?;
    if let Ok(address) = text.parse::<IpAddr>() {
        return Some(address.to_compact_string());
    }
    if let Ok(address) = text.parse::<SocketAddr>() {
        return Some(address.ip().to_compact_string());
    }
    // RFC 7239 §6.3: an obfuscated identifier or port begins with `_`.
    let (name, port) = text.split_once(':').unwrap_or((text, "_"));
    if port.starts_with('_')
        && let Ok(address) = name.parse::<IpAddr>()
    {
        return Some(address.to_compact_string());
    }
    if let Some((inside, rest)) = text.strip_prefix('[').and_then(|text| text.split_once(']'))
        && (rest.is_empty() || rest.starts_with(":_"))
    {
        return inside.parse::<std::net::Ipv6Addr>().ok().map(|address| address.to_compact_string());
    }
    let authority = Authority::parse(text.as_bytes())?;
    let named = authority.host.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-.".contains(&byte));
    (named && !authority.host.eq_ignore_ascii_case("unknown")).then(|| authority.host.into())
}

/// The first entry of a comma-separated list; none if it is empty.
fn first_listed(fields: &Fields, name: FieldName) -> Option<&[u8]> {
    let first = fields.first(name)?.split(|&byte| byte == b',').next()?.trim_ascii();
    (!first.is_empty()).then_some(first)
}

/// The first value of a parameter in any element of any `Forwarded` field. What follows a syntax error in
/// a field is not read.
fn parameter<'a>(fields: &'a Fields, name: &str) -> Option<Cow<'a, [u8]>> {
    fields.all(FieldName::Forwarded).find_map(|field| {
        let mut rest = field;
        while let Some(Pair { key, value, after }) = pair(rest) {
            if key.eq_ignore_ascii_case(name.as_bytes()) && !value.is_empty() {
                return Some(value);
            }
            rest = after;
        }
        None
    })
}

/// One `token "=" ( token / quoted-string )`.
struct Pair<'a> {
    key: &'a [u8],
    value: Cow<'a, [u8]>,
    /// The rest of the field.
    after: &'a [u8],
}

/// The first pair; empty pairs and elements before it are skipped. None at the end and at the first error.
fn pair(field: &[u8]) -> Option<Pair<'_>> {
    let start = field.iter().position(|byte| !b" \t,;".contains(byte))?;
    let field = field.get(start..)?;
    let equals = field.iter().position(|byte| b"=,;".contains(byte))?;
    let (key, rest) = (field.get(..equals)?, field.get(equals..)?.strip_prefix(b"=")?);
    let (value, after) = match rest.strip_prefix(b"\"") {
        Some(quoted) => unquote(quoted)?,
        None => {
            let end = rest.iter().position(|byte| b",;".contains(byte)).unwrap_or(rest.len());
            (Cow::Borrowed(rest.get(..end)?.trim_ascii()), rest.get(end..)?)
        }
    };
    Some(Pair { key: key.trim_ascii(), value, after })
}

/// The rest of a quoted string (RFC 9110 §5.6.4), without its escapes, and what comes after it.
fn unquote(text: &[u8]) -> Option<(Cow<'_, [u8]>, &[u8])> {
    let end = text.iter().position(|byte| b"\"\\".contains(byte))?;
    if text.get(end) == Some(&b'"') {
        return Some((Cow::Borrowed(text.get(..end)?), text.get(end + 1..)?));
    }
    let mut value = Vec::new();
    let mut bytes = text.iter();
    loop {
        match *bytes.next()? {
            b'"' => return Some((Cow::Owned(value), bytes.as_slice())),
            b'\\' => value.push(*bytes.next()?),
            byte => value.push(byte),
        }
    }
}
