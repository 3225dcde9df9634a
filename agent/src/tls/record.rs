//! The record layer of one direction: pieces of ciphertext in, records out.
//!
//! ```text
//!              5 bytes                 as many as they say
//!   Header ─────────────▶ Body ──────────────────────────────▶ Header
//!     ▲                    │ a gap beyond its end
//!     └─ a header at the beginning of a call ── Lost ◀┘
//! ```
//! A record comes out when its last byte was moved, with as much of its body as came without a hole. It must
//! never keep more than [`MAX_BODY`] bytes, reserve by a length that the peer announced, or know a key: that
//! a header found in `Lost` is one is for its caller to prove.

use crate::identity::Moment;
use crate::stream::{Content, GapCause, Piece};

/// Bytes of a record's header: type, version, length (RFC 8446 §5.1).
pub const HEADER: usize = 5;
/// The longest body: RFC 5246 §6.2.3. TLS 1.3 allows 2¹⁴ + 256.
pub const MAX_BODY: usize = (1 << 14) + 2048;

/// Content types, RFC 8446 §5.1.
pub(super) const CHANGE_CIPHER_SPEC: u8 = 20;
pub(super) const HANDSHAKE: u8 = 22;
pub(super) const APPLICATION_DATA: u8 = 23;

/// A record, as far as it came.
#[derive(Debug)]
pub(super) struct Record {
    /// The stream offset of its header.
    pub offset: u64,
    pub header: [u8; HEADER],
    /// The body up to the first hole.
    pub body: Vec<u8>,
    /// The call that moved its last byte.
    pub moment: Moment,
    /// Why the body is not whole.
    pub missing: Option<GapCause>,
    /// Its header was looked for, not reached: nothing shows that it is one.
    pub found: bool,
}

impl Record {
    /// The content type that the header says.
    pub fn kind(&self) -> u8 {
        self.header[0]
    }

    /// How long the body is.
    pub fn length(&self) -> usize {
        usize::from(u16::from_be_bytes([self.header[3], self.header[4]]))
    }

    /// Header and body, in bytes of the stream.
    pub fn moved(&self) -> u64 {
        (HEADER + self.length()) as u64
    }
}

/// What the record layer says.
#[derive(Debug)]
pub(super) enum Framed {
    /// A record ended.
    Record(Record),
    /// So many bytes are in no record: gaps, and what came while no header was found.
    Lost { offset: u64, length: u64, moment: Moment },
}

/// Whether these may be the first bytes of a header.
pub(super) fn may_be_header(bytes: &[u8]) -> bool {
    let kind = bytes.first().is_none_or(|kind| (CHANGE_CIPHER_SPEC..=APPLICATION_DATA).contains(kind));
    let major = bytes.get(1).is_none_or(|&major| major == 3);
    let minor = bytes.get(2).is_none_or(|&minor| minor <= 4);
    let length = match (bytes.get(3), bytes.get(4)) {
        (Some(&high), Some(&low)) => {
            let length = usize::from(u16::from_be_bytes([high, low]));
            // RFC 8446 §5.1: no empty fragments but of application data.
            length <= MAX_BODY && (length > 0 || bytes.first() == Some(&APPLICATION_DATA))
        }
        (Some(&high), None) => usize::from(high) << 8 <= MAX_BODY,
        (None, _) => true,
    };
    kind && major && minor && length
}

/// The record layer of one direction.
#[derive(Debug)]
pub(super) struct Framer {
    state: State,
    /// Bytes that came and are in no record that has come out yet.
    held: u64,
}

#[derive(Debug)]
enum State {
    Header {
        offset: u64,
        header: [u8; HEADER],
        have: usize,
        found: bool,
    },
    Body {
        offset: u64,
        header: [u8; HEADER],
        body: Vec<u8>,
        left: usize,
        missing: Option<GapCause>,
        found: bool,
    },
    Lost,
}

impl Default for Framer {
    fn default() -> Self {
        Self { state: State::Lost, held: 0 }
    }
}

impl Framer {
    /// One whose next byte, at this offset, is the first of a header.
    pub fn aligned(offset: u64) -> Self {
        Self { state: header_at(offset, false), held: 0 }
    }

    /// Bytes that came and are in no record that has come out yet, gaps in bodies included.
    pub fn held(&self) -> u64 {
        self.held
    }

    /// True if nobody knows where the next record begins.
    pub fn is_lost(&self) -> bool {
        matches!(self.state, State::Lost)
    }

    /// The end: how many bytes will be in no record.
    pub fn close(&mut self) -> u64 {
        self.state = State::Lost;
        std::mem::take(&mut self.held)
    }

    /// Takes the next piece.
    pub fn piece(&mut self, piece: &Piece<'_>, emit: &mut dyn FnMut(Framed)) {
        match piece.content {
            Content::Bytes(bytes) => self.bytes(piece.offset, bytes, piece.starts_call, piece.moment, emit),
            Content::Gap { length, cause } => self.gap(piece.offset, length, cause, piece.moment, emit),
        }
    }

    fn bytes(
        &mut self,
        mut offset: u64,
        mut bytes: &[u8],
        starts_call: bool,
        moment: &Moment,
        emit: &mut dyn FnMut(Framed),
    ) {
        if matches!(self.state, State::Lost) && starts_call && bytes.len() >= HEADER && may_be_header(bytes) {
            self.state = header_at(offset, true);
        }
        while !bytes.is_empty() {
            match &mut self.state {
                State::Lost => {
                    emit(Framed::Lost { offset, length: bytes.len() as u64, moment: *moment });
                    return;
                }
                State::Header { header, have, .. } => {
                    let take = bytes.len().min(HEADER - *have);
                    let (taken, rest) = bytes.split_at(take);
                    for (to, from) in header.iter_mut().skip(*have).zip(taken) {
                        *to = *from;
                    }
                    *have += take;
                    self.held += take as u64;
                    offset += take as u64;
                    bytes = rest;
                    self.header_grew(moment, emit);
                }
                State::Body { body, left, missing, .. } => {
                    let take = bytes.len().min(*left);
                    let (taken, rest) = bytes.split_at(take);
                    if missing.is_none() {
                        body.extend_from_slice(taken);
                    }
                    *left -= take;
                    self.held += take as u64;
                    offset += take as u64;
                    bytes = rest;
                    self.body_grew(moment, emit);
                }
            }
        }
    }

    fn gap(
        &mut self,
        offset: u64,
        length: u64,
        cause: GapCause,
        moment: &Moment,
        emit: &mut dyn FnMut(Framed),
    ) {
        let mut lost = length;
        match &mut self.state {
            State::Body { left, missing, .. } => {
                let inside = length.min(*left as u64);
                *left -= inside as usize;
                if inside > 0 {
                    missing.get_or_insert(cause);
                }
                self.held += inside;
                lost -= inside;
                self.body_grew(moment, emit);
            }
            State::Header { .. } | State::Lost => {}
        }
        if lost > 0 {
            let before = self.held;
            self.held = 0;
            self.state = State::Lost;
            let offset = offset.saturating_add(length).saturating_sub(lost).saturating_sub(before);
            emit(Framed::Lost { offset, length: lost.saturating_add(before), moment: *moment });
        }
    }

    fn header_grew(&mut self, moment: &Moment, emit: &mut dyn FnMut(Framed)) {
        let State::Header { offset, header, have, found } = self.state else { return };
        if !header.get(..have).is_some_and(may_be_header) {
            self.state = State::Lost;
            let length = std::mem::take(&mut self.held);
            emit(Framed::Lost { offset, length, moment: *moment });
        } else if have == HEADER {
            let left = usize::from(u16::from_be_bytes([header[3], header[4]]));
            self.state = State::Body { offset, header, body: Vec::new(), left, missing: None, found };
            self.body_grew(moment, emit);
        }
    }

    fn body_grew(&mut self, moment: &Moment, emit: &mut dyn FnMut(Framed)) {
        if !matches!(self.state, State::Body { left: 0, .. }) {
            return;
        }
        if let State::Body { offset, header, body, missing, found, left: _ } =
            std::mem::replace(&mut self.state, State::Lost)
        {
            let record = Record { offset, header, body, moment: *moment, missing, found };
            self.held = self.held.saturating_sub(record.moved());
            self.state = header_at(offset.saturating_add(record.moved()), false);
            emit(Framed::Record(record));
        }
    }
}

fn header_at(offset: u64, found: bool) -> State {
    State::Header { offset, header: [0; HEADER], have: 0, found }
}

#[cfg(test)]
mod tests {
    use super::super::testing::moment;
    use super::*;

    /// What a stream of bytes and gaps (a number in angle brackets) is made of.
    fn framed(pieces: &[(&[u8], u64)]) -> Vec<String> {
        let (mut framer, mut said, mut offset) = (Framer::aligned(0), Vec::new(), 0);
        let mut emit = |framed: Framed| {
            said.push(match framed {
                Framed::Record(record) => format!(
                    "{} type {} length {} has {}{}",
                    record.offset,
                    record.kind(),
                    record.length(),
                    record.body.len(),
                    if record.found { " found" } else { "" }
                ),
                Framed::Lost { offset, length, .. } => format!("{offset} lost {length}"),
            });
        };
        for &(bytes, gap) in pieces {
            let moment = moment(1);
            let content = match gap {
                0 => Content::Bytes(bytes),
                length => Content::Gap { length, cause: GapCause::Limit },
            };
            framer.piece(&super::super::testing::piece(offset, content, &moment), &mut emit);
            offset += bytes.len() as u64 + gap;
        }
        said
    }

    #[test]
    fn records_do_not_depend_on_where_calls_cut_the_stream() {
        let stream = b"\x16\x03\x01\x00\x02ab\x17\x03\x03\x00\x00\x17\x03\x03\x00\x03xyz";
        let want = ["0 type 22 length 2 has 2", "7 type 23 length 0 has 0", "12 type 23 length 3 has 3"];
        for cut in 0..=stream.len() {
            let (one, two) = stream.split_at(cut);
            assert_eq!(framed(&[(one, 0), (two, 0)]), want, "cut at {cut}");
        }
    }

    #[test]
    fn a_gap_inside_a_body_costs_the_rest_of_that_record_only() {
        let want = ["0 type 23 length 4 has 1", "9 type 23 length 1 has 1"];
        assert_eq!(framed(&[(b"\x17\x03\x03\x00\x04a", 0), (b"", 3), (b"\x17\x03\x03\x00\x01b", 0)]), want);
    }

    #[test]
    fn after_a_gap_over_a_header_one_is_looked_for_at_the_beginning_of_a_call() {
        let want = ["0 type 23 length 4 has 1", "9 lost 4", "13 lost 3", "16 type 23 length 1 has 1 found"];
        let pieces: &[(&[u8], u64)] =
            &[(b"\x17\x03\x03\x00\x04a", 0), (b"", 7), (b"abc", 0), (b"\x17\x03\x03\x00\x01b", 0)];
        assert_eq!(framed(pieces), want);
    }

    #[test]
    fn an_absurd_length_is_no_header() {
        assert_eq!(framed(&[(b"\x17\x03\x03\xff\xffabc", 0)]), ["0 lost 5", "5 lost 3"]);
        assert_eq!(framed(&[(b"\x16\x03\x01\x00\x00", 0)]), ["0 lost 5"]);
    }
}
