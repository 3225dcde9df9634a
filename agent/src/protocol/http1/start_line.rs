//! The first line of a message, byte by byte: the part of a head that proves that it is one.
//!
//! The check says no at the first byte that cannot be, so that bytes of another protocol are not kept
//! waiting for an empty line, and so that the verdict is the same wherever the stream was cut. It keeps
//! positions, never bytes, and must never look at a byte twice.

use super::{MAX_METHOD, Malformed, Side};
use crate::protocol::Version;

/// Whether bytes look like HTTP/1.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Likeness {
    /// They start with a complete start line of a message.
    Yes,
    /// They are too short to tell.
    Maybe,
    /// No message starts like that.
    No,
}

/// Whether the first bytes of a direction look like HTTP/1 messages of this kind.
pub fn looks_like(side: Side, first_bytes: &[u8]) -> Likeness {
    likeness(side, first_bytes.get(leading_line_ends(first_bytes)..).unwrap_or_default())
}

/// Whether a message of this kind begins at the very first of these bytes.
pub(super) fn likeness(side: Side, bytes: &[u8]) -> Likeness {
    let mut line = StartLine::new(side);
    match line.feed(bytes) {
        Ok(Some(_)) => Likeness::Yes,
        Ok(None) if line.at == At::Reason => Likeness::Yes,
        Ok(None) => Likeness::Maybe,
        Err(_) => Likeness::No,
    }
}

/// How many line ends stand before the first other byte (RFC 9112 §2.2).
pub(super) fn leading_line_ends(bytes: &[u8]) -> usize {
    bytes.iter().position(|byte| !matches!(byte, b'\r' | b'\n')).unwrap_or(bytes.len())
}

/// A byte of a token (RFC 9110 §5.6.2).
pub(super) fn is_token(byte: u8) -> bool {
    const TOKEN: [bool; 256] = {
        let (mut table, others, mut byte) = ([false; 256], b"!#$%&'*+-.^_`|~", 0);
        while byte < 256 {
            table[byte] = (byte as u8).is_ascii_alphanumeric();
            byte += 1;
        }
        let mut other = 0;
        while other < others.len() {
            table[others[other] as usize] = true;
            other += 1;
        }
        table
    };
    TOKEN[usize::from(byte)]
}

/// True if the two parts together are the beginning of a registered method.
pub(super) fn begins_registered_method(first: &[u8], second: &[u8]) -> bool {
    REGISTERED
        .iter()
        .any(|method| method.as_bytes().strip_prefix(first).is_some_and(|rest| rest.starts_with(second)))
}

/// True if the two parts together are a registered method.
pub(super) fn is_registered_method(first: &[u8], second: &[u8]) -> bool {
    REGISTERED.iter().any(|method| method.as_bytes().strip_prefix(first) == Some(second))
}

/// IANA's HTTP Method Registry (2024), and three that are common without being registered there: `PURGE`
/// of caches, `NOTIFY` and `SUBSCRIBE` of UPnP.
const REGISTERED: [&str; 42] = [
    "ACL",
    "BASELINE-CONTROL",
    "BIND",
    "CHECKIN",
    "CHECKOUT",
    "CONNECT",
    "COPY",
    "DELETE",
    "GET",
    "HEAD",
    "LABEL",
    "LINK",
    "LOCK",
    "MERGE",
    "MKACTIVITY",
    "MKCALENDAR",
    "MKCOL",
    "MKREDIRECTREF",
    "MKWORKSPACE",
    "MOVE",
    "OPTIONS",
    "ORDERPATCH",
    "PATCH",
    "POST",
    "PROPFIND",
    "PROPPATCH",
    "PURGE",
    "PUT",
    "QUERY",
    "REBIND",
    "REPORT",
    "SEARCH",
    "TRACE",
    "UNBIND",
    "UNCHECKOUT",
    "UNLINK",
    "UNLOCK",
    "UPDATE",
    "UPDATEREDIRECTREF",
    "VERSION-CONTROL",
    "NOTIFY",
    "SUBSCRIBE",
];

/// What every version of HTTP/1 starts with; a digit follows.
const NAME: &[u8] = b"HTTP/1.";
/// The method of HTTP/2's preface (RFC 9113 §3.4).
const PREFACE: &[u8] = b"PRI";

/// The start line as far as it came.
#[derive(Clone, Copy, Debug)]
pub(super) struct StartLine {
    at: At,
    /// Bytes of the line so far.
    length: usize,
    /// Where the method ends.
    pub method: usize,
    /// Where the target ends; it begins one byte after the method.
    pub target: usize,
    /// Position in [`NAME`].
    name: usize,
    /// How much of [`PREFACE`] the method is.
    preface: usize,
    /// The version, once it is known.
    pub version: Version,
    /// The status code as far as it is known.
    pub status: u16,
}

/// The place in the line where the next byte belongs.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum At {
    Method,
    Target,
    /// `HTTP/1.` of a request.
    RequestName,
    RequestMinor,
    /// `HTTP/1.` of a response.
    ResponseName,
    ResponseMinor,
    BeforeStatus,
    Status,
    /// Behind the status code: a space or the line's end.
    Reason,
    /// In the reason phrase.
    Phrase,
    /// Behind a request's version.
    LineEnd,
    /// Behind CR.
    LineFeed,
    Done,
}

impl StartLine {
    pub fn new(side: Side) -> Self {
        Self {
            at: match side {
                Side::Requests => At::Method,
                Side::Responses => At::ResponseName,
            },
            length: 0,
            method: 0,
            target: 0,
            name: 0,
            preface: 0,
            version: Version::Http11,
            status: 0,
        }
    }

    /// True until the space behind the method came.
    pub fn in_method(&self) -> bool {
        self.at == At::Method
    }

    /// Bytes of the line so far.
    pub fn length(&self) -> usize {
        self.length
    }

    /// True if the line's end came.
    pub fn is_complete(&self) -> bool {
        self.at == At::Done
    }

    /// Takes bytes up to the line's end: how many, if that came.
    pub fn feed(&mut self, bytes: &[u8]) -> Result<Option<usize>, Malformed> {
        for (position, &byte) in bytes.iter().enumerate() {
            self.at = self.next(byte)?;
            self.length += 1;
            if self.at == At::Done {
                return Ok(Some(position + 1));
            }
        }
        Ok(None)
    }

    fn next(&mut self, byte: u8) -> Result<At, Malformed> {
        match self.at {
            At::Method => match byte {
                b' ' if self.length > 0 => {
                    self.method = self.length;
                    Ok(At::Target)
                }
                _ if is_token(byte) && self.length < MAX_METHOD => {
                    if PREFACE.get(self.length) == Some(&byte) && self.preface == self.length {
                        self.preface += 1;
                    }
                    Ok(At::Method)
                }
                _ => Err(Malformed::Method),
            },
            At::Target => match byte {
                b' ' if self.length > self.method + 1 => {
                    self.target = self.length;
                    Ok(At::RequestName)
                }
                b'\r' | b'\n' if self.length > self.method + 1 => Err(Malformed::Version),
                // RFC 9112 §3.2 allows no control character at all, but servers answer requests that have
                // some: they are told like any other, made harmless where they are shown.
                0 | b' ' | b'\r' | b'\n' => Err(Malformed::Target),
                _ => Ok(At::Target),
            },
            At::RequestName => {
                let preface = self.method == PREFACE.len() && self.preface == PREFACE.len();
                match self.name_continues(byte) {
                    Some(true) => Ok(At::RequestMinor),
                    Some(false) => Ok(At::RequestName),
                    None if byte == b'2' && self.name == 5 && preface => Err(Malformed::Http2Preface),
                    None => Err(Malformed::Version),
                }
            }
            At::RequestMinor => self.minor(byte).map(|()| At::LineEnd).ok_or(Malformed::Version),
            At::LineEnd => match byte {
                b'\r' => Ok(At::LineFeed),
                b'\n' => Ok(At::Done),
                _ => Err(Malformed::Version),
            },
            At::LineFeed if byte == b'\n' => Ok(At::Done),
            At::LineFeed if self.status == 0 => Err(Malformed::Version),
            At::LineFeed => Err(Malformed::StatusLine),
            At::ResponseName => match self.name_continues(byte) {
                Some(true) => Ok(At::ResponseMinor),
                Some(false) => Ok(At::ResponseName),
                None => Err(Malformed::StatusLine),
            },
            At::ResponseMinor => self.minor(byte).map(|()| At::BeforeStatus).ok_or(Malformed::StatusLine),
            At::BeforeStatus if byte == b' ' => Ok(At::Status),
            At::BeforeStatus => Err(Malformed::StatusLine),
            At::Status => {
                if !byte.is_ascii_digit() || (self.status == 0 && byte == b'0') {
                    return Err(Malformed::StatusLine);
                }
                self.status = self.status * 10 + u16::from(byte - b'0');
                Ok(if self.status >= 100 { At::Reason } else { At::Status })
            }
            At::Reason if !matches!(byte, b' ' | b'\r' | b'\n') => Err(Malformed::StatusLine),
            At::Reason | At::Phrase => match byte {
                b'\r' => Ok(At::LineFeed),
                b'\n' => Ok(At::Done),
                b'\t' | b' '..=0x7e | 0x80.. => Ok(At::Phrase),
                _ => Err(Malformed::StatusLine),
            },
            At::Done => Ok(At::Done),
        }
    }

    /// Whether the byte is the next one of [`NAME`], and the last.
    fn name_continues(&mut self, byte: u8) -> Option<bool> {
        if NAME.get(self.name) != Some(&byte) {
            return None;
        }
        self.name += 1;
        Some(self.name == NAME.len())
    }

    /// Minor versions above 1 are understood as 1 (RFC 9110 §2.5).
    fn minor(&mut self, byte: u8) -> Option<()> {
        self.version = match byte {
            b'0' => Version::Http10,
            b'1'..=b'9' => Version::Http11,
            _ => return None,
        };
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn likeness(side: Side, bytes: &str, want: Likeness) {
        assert_eq!(looks_like(side, bytes.as_bytes()), want, "{bytes:?}");
    }

    #[test]
    fn a_request_line_looks_like_requests_only() {
        likeness(Side::Requests, "GET / HTTP/1.1\r\nHost: a", Likeness::Yes);
        likeness(Side::Requests, "\r\nM-SEARCH * HTTP/1.0\n", Likeness::Yes);
        likeness(Side::Responses, "GET / HTTP/1.1\r\n", Likeness::No);
    }

    #[test]
    fn a_status_line_looks_like_responses_only() {
        likeness(Side::Responses, "HTTP/1.1 200 OK\r\n", Likeness::Yes);
        likeness(Side::Responses, "HTTP/1.1 200", Likeness::Yes);
        likeness(Side::Requests, "HTTP/1.1 200 OK\r\n", Likeness::No);
    }

    #[test]
    fn every_prefix_of_a_request_line_may_be_one() {
        let line = "GET /a?b HTTP/1.1\r";
        for end in 0..line.len() {
            likeness(Side::Requests, &line[..end], Likeness::Maybe);
        }
        let line = "HTTP/1.1 20";
        for end in 0..line.len() {
            likeness(Side::Responses, &line[..end], Likeness::Maybe);
        }
    }

    #[test]
    fn other_protocols_look_like_themselves() {
        for other in [
            "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
            "\x16\x03\x01\x02\0",
            "*3\r\n$3\r\nSET\r\n",
            "OPTIONS rtsp://h/ RTSP/1.0\r\n",
            "GET /\r\n",
            "SSH-2.0-OpenSSH\r\n",
            "\0\0\0\x08\x04\x52\x16\x2f",
        ] {
            likeness(Side::Requests, other, Likeness::No);
            likeness(Side::Responses, other, Likeness::No);
        }
    }

    #[test]
    fn the_preface_of_http_2_is_told_from_other_versions() {
        assert_eq!(
            StartLine::new(Side::Requests).feed(b"PRI * HTTP/2.0").unwrap_err(),
            Malformed::Http2Preface
        );
        assert_eq!(StartLine::new(Side::Requests).feed(b"PRX * HTTP/2.0").unwrap_err(), Malformed::Version);
        assert_eq!(StartLine::new(Side::Requests).feed(b"PRIX * HTTP/2.0").unwrap_err(), Malformed::Version);
        assert_eq!(StartLine::new(Side::Requests).feed(b"PRI * HTTP/3.0").unwrap_err(), Malformed::Version);
    }

    #[test]
    fn a_method_longer_than_the_bound_is_none() {
        let fits = "M".repeat(MAX_METHOD) + " / HTTP/1.1\r\n";
        likeness(Side::Requests, &fits, Likeness::Yes);
        likeness(Side::Requests, &("M".to_owned() + &fits), Likeness::No);
    }
}
