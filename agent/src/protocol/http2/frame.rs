//! One frame's nine-byte header (RFC 9113 §4.1): reading it, and what is legal in it.
//!
//! Two judgements. [`Header::check`] is what the RFC demands of a frame whose place is known; unknown types and
//! flags are legal there. [`Header::is_plausible`] is what a header must be to count in a chain while the place is
//! *not* known: only what real programs send. Nothing here may keep bytes.

use super::Malformed;

/// How long a frame's header is.
pub const HEADER: usize = 9;

/// The largest frame that may be sent unless a larger one was allowed (RFC 9113 §4.2).
pub const DEFAULT_MAX_FRAME: u32 = 16_384;

/// Client-initiated streams are odd (RFC 9113 §5.1.1); no connection has been seen with ids from here on: at 1,000 requests
/// a second it would be nine hours old.
const UNLIKELY_STREAM: u32 = 1 << 26;

/// A frame's type. One that is not known is legal and ignored (RFC 9113 §4.1).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[allow(missing_docs)]
pub enum Type {
    Data,
    Headers,
    Priority,
    Reset,
    Settings,
    PushPromise,
    Ping,
    GoAway,
    WindowUpdate,
    Continuation,
    Unknown,
}

/// `END_STREAM` of DATA and HEADERS.
pub const END_STREAM: u8 = 0x01;
/// `ACK` of SETTINGS and PING.
pub const ACK: u8 = 0x01;
/// `END_HEADERS` of HEADERS, PUSH_PROMISE and CONTINUATION.
pub const END_HEADERS: u8 = 0x04;
/// `PADDED` of DATA, HEADERS and PUSH_PROMISE.
pub const PADDED: u8 = 0x08;
/// `PRIORITY` of HEADERS.
pub const PRIORITY: u8 = 0x20;

/// A frame's header.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Header {
    /// How long its payload is.
    pub length: u32,
    /// What it is.
    pub kind: Type,
    /// Its flags, as they came.
    pub flags: u8,
    /// Its stream, without the reserved bit.
    pub stream: u32,
    reserved: bool,
}

impl Header {
    /// The nine bytes.
    pub fn parse(bytes: &[u8; HEADER]) -> Self {
        let [a, b, c, kind, flags, stream @ ..] = *bytes;
        let stream = u32::from_be_bytes(stream);
        Self {
            length: u32::from_be_bytes([0, a, b, c]),
            kind: Type::of(kind),
            flags,
            stream: stream & 0x7fff_ffff,
            reserved: stream >> 31 != 0,
        }
    }

    /// Whether a flag is set that this type has.
    pub fn has(&self, flag: u8) -> bool {
        self.flags & flag & self.kind.flags() != 0
    }

    /// A frame of which nothing matters but its length.
    pub fn ignored(length: u32) -> Self {
        Self { length, kind: Type::Unknown, flags: 0, stream: 0, reserved: false }
    }

    /// What the RFC demands of lengths and streams (§6). A limit on the length is not checked here: who may send how much
    /// is for the peers to judge.
    pub fn check(&self) -> Result<(), Malformed> {
        let length = match self.kind {
            Type::Priority => self.length == 5,
            Type::Reset | Type::WindowUpdate => self.length == 4,
            Type::Ping => self.length == 8,
            Type::Settings if self.has(ACK) => self.length == 0,
            Type::Settings => self.length.is_multiple_of(6),
            Type::GoAway => self.length >= 8,
            Type::Data | Type::Headers | Type::PushPromise | Type::Continuation | Type::Unknown => true,
        };
        let stream = match self.kind {
            Type::Settings | Type::Ping | Type::GoAway => self.stream == 0,
            Type::WindowUpdate | Type::Unknown => true,
            Type::Data
            | Type::Headers
            | Type::Priority
            | Type::Reset
            | Type::PushPromise
            | Type::Continuation => self.stream != 0,
        };
        match (length, stream) {
            (false, _) => Err(Malformed::FrameLength),
            (true, false) => Err(Malformed::StreamId),
            (true, true) if self.prefix() > self.length => Err(Malformed::Padding),
            (true, true) => Ok(()),
        }
    }

    /// Whether this may be the header of a frame that a real program sends, none longer than `max`.
    pub fn is_plausible(&self, max: u32) -> bool {
        self.length <= max
            && self.kind != Type::Unknown
            && self.kind != Type::PushPromise
            && !self.reserved
            && self.flags & !self.kind.flags() == 0
            && self.check().is_ok()
            && (self.stream == 0 || (self.stream % 2 == 1 && self.stream < UNLIKELY_STREAM))
    }

    /// The bytes of the payload before its content: padding's length, priority, promised stream.
    pub fn prefix(&self) -> u32 {
        let priority = if self.kind == Type::Headers && self.has(PRIORITY) { 5 } else { 0 };
        let promised = if self.kind == Type::PushPromise { 4 } else { 0 };
        u32::from(self.has(PADDED)) + priority + promised
    }
}

impl Type {
    fn of(byte: u8) -> Self {
        match byte {
            0 => Self::Data,
            1 => Self::Headers,
            2 => Self::Priority,
            3 => Self::Reset,
            4 => Self::Settings,
            5 => Self::PushPromise,
            6 => Self::Ping,
            7 => Self::GoAway,
            8 => Self::WindowUpdate,
            9 => Self::Continuation,
            _ => Self::Unknown,
        }
    }

    /// The flags that it has; others are ignored (RFC 9113 §4.1).
    fn flags(self) -> u8 {
        match self {
            Self::Data => END_STREAM | PADDED,
            Self::Headers => END_STREAM | END_HEADERS | PADDED | PRIORITY,
            Self::PushPromise => END_HEADERS | PADDED,
            Self::Settings | Self::Ping => ACK,
            Self::Continuation => END_HEADERS,
            Self::Priority | Self::Reset | Self::GoAway | Self::WindowUpdate | Self::Unknown => 0,
        }
    }
}
