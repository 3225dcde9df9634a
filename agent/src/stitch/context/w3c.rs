//! W3C Trace Context, level 2: `traceparent` (§3.2) and `tracestate` (§3.3).
//!
//! Both ways of being wrong differ: a bad `traceparent` is no context at all, and takes `tracestate`
//! with it; a bad `tracestate` is dropped whole and says nothing against `traceparent`.
//!
//! It must never accept upper-case hex, an all-zero id or version `ff`; and never keep a member list
//! that it would not be allowed to send.

use super::{Context, RANDOM, SAMPLED};
use crate::protocol::{FieldName, Fields};
use crate::stitch::span::{SpanId, TraceId};

/// The context in `traceparent`, with what `tracestate` adds to it. More than one `traceparent` is
/// none: which of them is true cannot be known.
pub fn read(fields: &Fields) -> Option<Context> {
    let mut parents = fields.all(FieldName::Traceparent);
    let (first, second) = (parents.next()?, parents.next());
    if second.is_some() {
        return None;
    }
    let (trace, span, flags) = trace_parent(trim(first))?;
    Some(Context { trace, span, flags, trace_state: trace_state(fields) })
}

/// §3.2.2 for version 00; §4.3 for the versions to come: the first four fields are read as version 00
/// has them, and what follows must be set off by a `-`.
fn trace_parent(value: &[u8]) -> Option<(TraceId, SpanId, u8)> {
    let (fields, rest) = value.split_at_checked(LENGTH)?;
    let version = hex::<1>(fields.get(..2)?)?;
    match (version, rest.first()) {
        ([0xff], _) | ([0], Some(_)) => return None,
        (_, None | Some(b'-')) => {}
        (_, Some(_)) => return None,
    }
    if [2, 35, 52].iter().any(|&dash| fields.get(dash) != Some(&b'-')) {
        return None;
    }
    let trace = hex::<16>(fields.get(3..35)?)?;
    let span = hex::<8>(fields.get(36..52)?)?;
    let [flags] = hex::<1>(fields.get(53..55)?)?;
    if trace == [0; 16] || span == [0; 8] {
        return None;
    }
    Some((TraceId(trace), SpanId(span), flags & (SAMPLED | RANDOM)))
}

/// The length of a `traceparent` of version 00, in bytes: `00-{32}-{16}-{2}`.
const LENGTH: usize = 55;

/// `2 * N` lower-case hexadecimal digits (`HEXDIGLC`).
fn hex<const N: usize>(digits: &[u8]) -> Option<[u8; N]> {
    fn nibble(digit: u8) -> Option<u8> {
        match digit {
            b'0'..=b'9' => Some(digit - b'0'),
            b'a'..=b'f' => Some(digit - b'a' + 10),
            _ => None,
        }
    }
    if digits.len() != 2 * N {
        return None;
    }
    let mut bytes = [0; N];
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        let [high, low] = pair else { return None };
        *byte = nibble(*high)? << 4 | nibble(*low)?;
    }
    Some(bytes)
}

/// The member list of all `tracestate` fields, joined by `,` (§3.3.1), as it came. None if it is empty
/// or if any member breaks the grammar.
fn trace_state(fields: &Fields) -> Option<String> {
    let parts: Vec<&[u8]> =
        fields.all(FieldName::Tracestate).map(trim).filter(|part| !part.is_empty()).collect();
    let list = parts.join(&b',');
    let members: Vec<&[u8]> =
        list.split(|&byte| byte == b',').map(trim).filter(|member| !member.is_empty()).collect();
    if members.is_empty() || members.len() > MAX_MEMBERS || !members.iter().all(|member| is_member(member)) {
        return None;
    }
    // Only white space and empty members can make a list longer than this, and neither means anything.
    let list = if list.len() > MAX_LIST { members.join(&b',') } else { list };
    String::from_utf8(list).ok()
}

/// How many members a list may have (§3.3.1.1).
const MAX_MEMBERS: usize = 32;
/// How long a key, and a value, may be (§3.3.1.3.1 and .2).
const MAX_PART: usize = 256;
/// How long a list of the largest members is, without white space; so it bounds what is kept.
const MAX_LIST: usize = MAX_MEMBERS * (MAX_PART + 1 + MAX_PART) + (MAX_MEMBERS - 1);

/// `key "=" value` (§3.3.1.3), in the grammar of level 2, which allows any number of `@` in a key.
fn is_member(member: &[u8]) -> bool {
    let Some(equals) = member.iter().position(|&byte| byte == b'=') else { return false };
    let (Some(key), Some(value)) = (member.get(..equals), member.get(equals + 1..)) else { return false };
    let key_starts = |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let in_key = |byte: &u8| key_starts(byte) || b"_-*/@".contains(byte);
    let in_value = |byte: &u8| matches!(byte, 0x20..=0x7e) && !b",=".contains(byte);
    key.first().is_some_and(key_starts)
        && key.len() <= MAX_PART
        && key.iter().all(in_key)
        && value.last().is_some_and(|&last| last != b' ')
        && value.len() <= MAX_PART
        && value.iter().all(in_value)
}

/// Without optional white space (`OWS`, RFC 9110 §5.6.3) at both ends.
fn trim(mut value: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] | [rest @ .., b' ' | b'\t'] = value {
        value = rest;
    }
    value
}
