//! Which protocol is this, and which end is it? Decided by the first bytes of calls, in either direction.
//!
//! A connection may be joined in the middle of a body, so one call that begins no message proves nothing:
//! only when several calls of *both* directions showed none, the connection is something else. A start
//! line needs the whole line to be one, and may come byte by byte; what may still become one waits in
//! [`Held`]. Nothing here may keep bytes itself, or decide by ports or by time.

use super::held::{Held, length};
use crate::identity::{Direction, Role};
use crate::protocol::fastcgi::begins_request;
use crate::protocol::http1::{Likeness, Side, looks_like};
use crate::protocol::http2::PREFACE;
use crate::protocol::http2::frame::{DEFAULT_MAX_FRAME, HEADER, Header, Type};
use crate::stream::{Content, Piece};

/// What a piece of a connection that is not classified yet shows.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Verdict {
    /// With this piece a message is certain: HTTP/1, and the process plays this part.
    Http1(Role),
    /// The client's preface: HTTP/2 begins here, and the process plays this part.
    Http2(Role),
    /// The beginning of a request: FastCGI, and the process plays this part.
    FastCgi(Role),
    /// It may be the beginning of a start line or a preface, or what a server of HTTP/2 sends before it has read one.
    Wait,
    /// It begins no message.
    Skip,
}

/// What this piece shows, together with those of its direction that wait.
pub(super) fn verdict(direction: Direction, piece: &Piece<'_>, held: &Held) -> Verdict {
    let Content::Bytes(bytes) = piece.content else { return Verdict::Skip };
    if held.holds(direction) {
        let joined = held.joined_with(direction, bytes);
        let verdict = likeness(direction, &joined);
        if verdict != Verdict::Skip {
            return verdict;
        }
    }
    match (piece.starts_call, likeness(direction, bytes)) {
        // It would wait behind what it does not go on with.
        (true, Verdict::Wait) if held.holds(direction) => Verdict::Skip,
        (true, alone) => alone,
        (false, _) => Verdict::Skip,
    }
}

fn likeness(direction: Direction, bytes: &[u8]) -> Verdict {
    let begun = bytes.len().min(PREFACE.len());
    if begun > 0 && bytes.get(..begun) == PREFACE.get(..begun) {
        return match (begun == PREFACE.len(), direction) {
            (false, _) => Verdict::Wait,
            (true, Direction::Receive) => Verdict::Http2(Role::Server),
            (true, Direction::Send) => Verdict::Http2(Role::Client),
        };
    }
    match (begins_request(bytes), direction) {
        (Some(true), Direction::Receive) => return Verdict::FastCgi(Role::Server),
        (Some(true), Direction::Send) => return Verdict::FastCgi(Role::Client),
        (None, _) => return Verdict::Wait,
        (Some(false), _) => {}
    }
    if begins_with_settings(bytes) {
        return Verdict::Wait;
    }
    let (requests, responses) = (looks_like(Side::Requests, bytes), looks_like(Side::Responses, bytes));
    match (requests, responses, direction) {
        (Likeness::Yes, _, Direction::Receive) | (_, Likeness::Yes, Direction::Send) => {
            Verdict::Http1(Role::Server)
        }
        (Likeness::Yes, _, Direction::Send) | (_, Likeness::Yes, Direction::Receive) => {
            Verdict::Http1(Role::Client)
        }
        (Likeness::Maybe, _, _) | (_, Likeness::Maybe, _) => Verdict::Wait,
        (Likeness::No, Likeness::No, _) => Verdict::Skip,
    }
}

/// A call that begins with what could be a frame's header: by chance one in 60,000 does.
pub(super) fn begins_with_frame(piece: &Piece<'_>) -> bool {
    let Content::Bytes(bytes) = piece.content else { return false };
    let header = bytes.first_chunk::<HEADER>().filter(|_| piece.starts_call).map(Header::parse);
    header.is_some_and(|header| header.is_plausible(DEFAULT_MAX_FRAME))
}

/// RFC 9113 §3.4: what a server sends first, and it may do so before it has read anything.
fn begins_with_settings(bytes: &[u8]) -> bool {
    let Some(header) = bytes.first_chunk::<HEADER>().map(Header::parse) else { return false };
    header.kind == Type::Settings && header.flags == 0 && header.is_plausible(MAX_SETTINGS)
}

/// As long as the first SETTINGS may be: six bytes for each of more settings than exist.
const MAX_SETTINGS: u32 = 6 * 64;

/// What was moved in both directions since a message was seen last.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Skipped {
    receive: Amount,
    send: Amount,
}

#[derive(Clone, Copy, Debug, Default)]
struct Amount {
    calls: u32,
    bytes: u64,
    gaps: bool,
}

impl Skipped {
    /// Counts a piece in which no message began.
    pub fn add(&mut self, direction: Direction, piece: &Piece<'_>) {
        let amount = match direction {
            Direction::Receive => &mut self.receive,
            Direction::Send => &mut self.send,
        };
        amount.calls = amount.calls.saturating_add(u32::from(piece.starts_call));
        amount.bytes = amount.bytes.saturating_add(length(piece));
        amount.gaps |= matches!(piece.content, Content::Gap { .. });
    }

    /// True if messages of this direction may be missing.
    pub fn has_gaps(&self, direction: Direction) -> bool {
        match direction {
            Direction::Receive => self.receive.gaps,
            Direction::Send => self.send.gaps,
        }
    }

    /// True if something of this direction was skipped.
    pub fn any(&self, direction: Direction) -> bool {
        let amount = match direction {
            Direction::Receive => self.receive,
            Direction::Send => self.send,
        };
        amount.calls > 0 || amount.bytes > 0
    }

    /// True if both directions showed enough to say that this is not HTTP/1.
    pub fn is_enough(&self, proven: Proven) -> bool {
        let calls = match proven {
            Proven::No => MANY_CALLS,
            Proven::Yes => MANY_CALLS_OF_HTTP1,
        };
        [self.receive, self.send]
            .into_iter()
            .all(|amount| amount.calls >= calls || amount.bytes >= u64::from(calls) * BYTES_FOR_A_CALL)
    }
}

/// Whether the connection has already shown a message.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Proven {
    Yes,
    No,
}

/// How many calls in each direction may begin no message before the connection is taken for something
/// else. (Two would do where it was seen from birth, but for proxies that send a PROXY header first.)
const MANY_CALLS: u32 = 8;

/// The same for a connection that has already carried HTTP/1 and lost its place, perhaps because the
/// response that switched it to another protocol was not seen.
const MANY_CALLS_OF_HTTP1: u32 = 64;

/// So many bytes are as good as a call: a sender of few huge calls must not keep us waiting.
const BYTES_FOR_A_CALL: u64 = 8 * 1024;
