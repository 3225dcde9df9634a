//! A complete head in, what it says out: a pure function of at most [`super::MAX_HEAD`] bytes.
//!
//! ```text
//! Scan     finds where a head ends, and looks at every byte once, however many pieces it comes in
//! fields   reads the lines between the start line and the empty line
//! ```
//!
//! Fields that nobody needs are skipped unread, and a name that is no token is no reason to lose a message
//! (servers ignore such lines, too). It must never let a value out that [`FieldName`] does not name.

use std::borrow::Cow;

use super::framing::Told;
use super::start_line::{StartLine, is_token};
use super::{Ledger, MAX_FIELDS, MAX_HEAD, MAX_VALUE, Malformed, Side};
use crate::protocol::{FieldName, Fields};

/// The search for a head's end.
#[derive(Clone, Copy, Debug)]
pub(super) struct Scan {
    /// The start line, checked as it comes.
    pub line: StartLine,
    at: At,
    /// Bytes so far.
    length: usize,
}

/// The place in the lines behind the start line.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum At {
    LineStart,
    /// Behind a CR at the beginning of a line.
    LineFeed,
    Text,
}

impl Scan {
    pub fn new(side: Side) -> Self {
        Self { line: StartLine::new(side), at: At::LineStart, length: 0 }
    }

    /// Takes bytes up to the end of the head: how many, if it is there. If it is not, all were taken.
    pub fn feed(&mut self, bytes: &[u8]) -> Result<Option<usize>, Malformed> {
        let bytes = bytes.get(..MAX_HEAD.saturating_sub(self.length)).unwrap_or(bytes);
        let mut taken = 0;
        if !self.line.is_complete() {
            taken = self.line.feed(bytes)?.unwrap_or(bytes.len());
        }
        while let Some((&byte, _)) = bytes.get(taken..).and_then(<[u8]>::split_first) {
            match (self.at, byte) {
                (At::LineStart | At::LineFeed, b'\n') => {
                    self.length += taken + 1;
                    return Ok(Some(taken + 1));
                }
                (At::LineStart, b'\r') => {
                    self.at = At::LineFeed;
                    taken += 1;
                }
                (At::LineStart | At::LineFeed | At::Text, _) => {
                    match memchr::memchr(b'\n', bytes.get(taken..).unwrap_or_default()) {
                        Some(end) => {
                            self.at = At::LineStart;
                            taken += end + 1;
                        }
                        None => {
                            self.at = At::Text;
                            taken = bytes.len();
                        }
                    }
                }
            }
        }
        self.length += taken;
        if self.length >= MAX_HEAD { Err(Malformed::HeadTooLong) } else { Ok(None) }
    }
}

/// Reads the lines of a head behind its start line; the empty line is the last.
pub(super) fn fields(side: Side, lines: &[u8], ledger: &mut Ledger) -> Result<(Fields, Told), Malformed> {
    let (mut kept, mut told, mut rest) = (Fields::default(), Told::default(), lines);
    // White space before the first field: such lines are consumed without further processing (RFC 9112 §2.2).
    while let Some(b' ' | b'\t') = rest.first() {
        rest = rest.get(line_end(rest)..).unwrap_or_default();
    }
    while let Some((field, after)) = split_field(rest) {
        rest = after;
        if matches!(field, [] | b"\r") {
            break;
        }
        let colon = memchr::memchr(b':', field).filter(|&colon| colon > 0).ok_or(Malformed::FieldLine)?;
        let (name, value) = field.split_at_checked(colon).ok_or(Malformed::FieldLine)?;
        let value = value.get(1..).unwrap_or_default();
        let name = match name.last() {
            Some(b' ' | b'\t') if side == Side::Responses => name.trim_ascii_end(),
            Some(b' ' | b'\t') => return Err(Malformed::FieldLine),
            _ => name,
        };
        if !name.iter().copied().all(is_token) {
            // A field that no recipient knows by name; but a line end in the name means that a line
            // without a colon was folded.
            if name.iter().any(u8::is_ascii_control) {
                return Err(Malformed::FieldLine);
            }
            continue;
        }
        let Some(known) = Known::named(name) else {
            check_value(value)?;
            continue;
        };
        let value = unfold(value)?;
        match known {
            Known::ContentLength => told.add_content_length(&value),
            Known::TransferEncoding => told.add_transfer_encoding(&value),
            Known::Upgrade if side == Side::Requests => told.upgrade = true,
            Known::Upgrade | Known::Kept(_) if kept.0.len() >= MAX_FIELDS => ledger.fields_dropped += 1,
            Known::Upgrade => {
                kept.0.push((FieldName::Upgrade, value.get(..MAX_PROTOCOL).unwrap_or(&value).into()))
            }
            Known::Kept(name) => {
                let value = value.trim_ascii();
                if value.len() > MAX_VALUE {
                    ledger.fields_cut += 1;
                }
                kept.0.push((name, value.get(..MAX_VALUE).unwrap_or(value).into()));
            }
        }
    }
    Ok((kept, told))
}

/// How much is kept of what a server goes over to: names are shorter.
const MAX_PROTOCOL: usize = 32;

/// A field whose value is read.
enum Known {
    ContentLength,
    TransferEncoding,
    Upgrade,
    Kept(FieldName),
}

impl Known {
    fn named(name: &[u8]) -> Option<Self> {
        if name.eq_ignore_ascii_case(b"content-length") {
            Some(Self::ContentLength)
        } else if name.eq_ignore_ascii_case(b"transfer-encoding") {
            Some(Self::TransferEncoding)
        } else if name.eq_ignore_ascii_case(b"upgrade") {
            Some(Self::Upgrade)
        } else {
            FieldName::kept(name).map(Self::Kept)
        }
    }
}

/// The first field with the lines that continue it (RFC 9112 §5.2), without its last LF, and what follows.
fn split_field(lines: &[u8]) -> Option<(&[u8], &[u8])> {
    if lines.is_empty() {
        return None;
    }
    let mut end = line_end(lines);
    while let Some(b' ' | b'\t') = lines.get(end) {
        end += line_end(lines.get(end..).unwrap_or_default());
    }
    let (field, after) = lines.split_at_checked(end)?;
    Some((field.strip_suffix(b"\n").unwrap_or(field), after))
}

/// Where the next line begins.
fn line_end(lines: &[u8]) -> usize {
    memchr::memchr(b'\n', lines).map_or(lines.len(), |end| end + 1)
}

/// Refuses what RFC 9110 §5.5 calls dangerous: NUL, and CR that is not part of a line end.
fn check_value(value: &[u8]) -> Result<(), Malformed> {
    match memchr::memchr2_iter(0, b'\r', value)
        .any(|at| value.get(at) == Some(&0) || !matches!(value.get(at + 1), None | Some(b'\n')))
    {
        true => Err(Malformed::FieldValue),
        false => Ok(()),
    }
}

/// A value as if it had come in one line, without white space around it.
fn unfold(value: &[u8]) -> Result<Cow<'_, [u8]>, Malformed> {
    check_value(value)?;
    if memchr::memchr(b'\n', value).is_none() {
        return Ok(Cow::Borrowed(value.trim_ascii()));
    }
    let mut unfolded = Vec::with_capacity(value.len());
    for line in value.split(|&byte| byte == b'\n').map(<[u8]>::trim_ascii).filter(|line| !line.is_empty()) {
        if !unfolded.is_empty() {
            unfolded.push(b' ');
        }
        unfolded.extend_from_slice(line);
    }
    Ok(Cow::Owned(unfolded))
}
