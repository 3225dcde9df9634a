//! FastCGI, as a web server asks PHP-FPM with it: the records of one direction of one connection in, what they say of
//! requests and responses out. (The FastCGI Specification 1.0, §3 for records, §5 and §6 for what is in them.)
//!
//! ```text
//!            8 bytes              content, padding
//!   Header ──────────▶ Content ────────────────────▶ Header
//!     │ a gap, a version or a type that does not exist
//!     └──▶ Lost: nothing more is read; the next BEGIN_REQUEST begins a connection's conversation anew
//! ```
//! A connection carries one request after the other: nobody multiplexes (PHP-FPM, and Apache and nginx as clients, cannot), and one
//! that does is lost at its second request. It must never keep more than [`MAX_PARAMS`] bytes, reserve by a length that the
//! peer announced, or let out a parameter but the request line's and those of [`FieldName`](super::FieldName).

pub mod fuzz;
mod head;
mod ledger;
mod parser;
#[cfg(test)]
mod tests;

pub use ledger::Ledger;
pub use parser::{Event, Parser};

/// How many bytes of parameters are kept of one request; those behind are not known. As long as a head of HTTP/1 may be.
pub const MAX_PARAMS: usize = 64 * 1024;

/// Bytes of a record's header (§3.3).
pub const HEADER: usize = 8;

/// Bytes of BEGIN_REQUEST's content (§5.1).
const BEGIN: usize = 8;

/// What follows a header (§8).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Kind {
    Begin,
    Abort,
    End,
    Params,
    Stdin,
    Stdout,
    /// STDERR, DATA and what is about the connection (GET_VALUES, …): nothing of it is of interest.
    Other,
}

/// A record's header.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct Header {
    kind: Kind,
    request: u16,
    content: u16,
    padding: u8,
}

impl Header {
    /// None if these bytes are no header.
    fn parse([version, kind, id1, id0, length1, length0, padding, reserved]: [u8; HEADER]) -> Option<Self> {
        let kind = match kind {
            1 => Kind::Begin,
            2 => Kind::Abort,
            3 => Kind::End,
            4 => Kind::Params,
            5 => Kind::Stdin,
            6 => Kind::Stdout,
            7..=11 => Kind::Other,
            _ => return None,
        };
        let content = u16::from_be_bytes([length1, length0]);
        let exact = !matches!(kind, Kind::Begin | Kind::End) || usize::from(content) == BEGIN;
        (version == 1 && reserved == 0 && exact).then_some(Self {
            kind,
            request: u16::from_be_bytes([id1, id0]),
            content,
            padding,
        })
    }
}

/// Whether these are the first bytes of a client: BEGIN_REQUEST, for a role and with flags that exist (§5.1). None if more of them must
/// be seen.
pub fn begins_request(bytes: &[u8]) -> Option<bool> {
    let (header, content) = bytes.split_at(bytes.len().min(HEADER));
    let begun = [1, 1].into_iter().zip(header).all(|(expected, &byte)| byte == expected) && !bytes.is_empty();
    let Ok(header) = <[u8; HEADER]>::try_from(header) else {
        return if begun { None } else { Some(false) };
    };
    let Some(Header { kind: Kind::Begin, request: 1.., .. }) = Header::parse(header) else {
        return Some(false);
    };
    let [role1, role0, flags, reserved @ ..] = content.first_chunk::<BEGIN>()?;
    Some(matches!((role1, role0, flags), (0, 1..=3, 0 | 1)) && reserved.iter().all(|&byte| byte == 0))
}
