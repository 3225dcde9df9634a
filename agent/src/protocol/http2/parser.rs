//! The parser of one direction: see the module above for what it does and must not do.

use super::alignment::Search;
use super::frame::{ACK, DEFAULT_MAX_FRAME, END_HEADERS, END_STREAM, HEADER, Header, PADDED, Type};
use super::hpack::{Decoder, Joined, TableEntry};
use super::section::Builder;
use super::{Ends, Event, Ledger, MAX_BLOCK, Malformed, PREFACE, Start};

/// `SETTINGS_MAX_FRAME_SIZE` (RFC 9113 §6.5.2).
const MAX_FRAME_SIZE: u16 = 5;

/// The parser of one direction of an HTTP/2 connection.
#[derive(Debug)]
pub struct Parser {
    state: State,
    /// The offset of the next byte.
    next: u64,
    proof: Proof,
    /// No frame is longer, as far as that matters for proofs.
    max_frame: u32,
    hpack: Decoder,
    /// The header block that is not complete.
    block: Option<Block>,
    ledger: Ledger,
}

#[derive(Debug)]
enum State {
    /// So many bytes of the preface came.
    Preface(usize),
    /// So many bytes of the header that begins at `start` came.
    Header {
        start: u64,
        bytes: [u8; HEADER],
        have: usize,
    },
    Payload(Payload),
    Lost {
        why: Malformed,
        search: Box<Search>,
    },
    Ended,
}

#[derive(Debug)]
struct Payload {
    header: Header,
    start: u64,
    /// How much of it came.
    at: u32,
    padding: u32,
    /// Its first bytes, of frames of which they matter.
    small: [u8; 8],
    /// Some of them are missing.
    blurred: bool,
}

/// Whether frames really begin where we take them to begin.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Proof {
    Given,
    /// The chain is long enough to believe in its end, but it could lie inside a payload.
    Chain {
        start: u64,
    },
}

/// A header block.
#[derive(Debug)]
struct Block {
    stream: u32,
    start: u64,
    ends: Ends,
    promised: bool,
    bytes: Vec<u8>,
    /// Why it will not be read.
    unread: bool,
}

type Emit<'e> = dyn FnMut(Event<'_>) + 'e;

impl Parser {
    /// A parser of a direction of which nothing was seen; its next byte is at `offset`.
    pub fn new(start: Start, offset: u64) -> Self {
        let header = State::Header { start: offset, bytes: [0; HEADER], have: 0 };
        let (state, joined) = match start {
            Start::Preface => (State::Preface(0), Joined::AtBirth),
            Start::Frame => (header, Joined::AtBirth),
            Start::Late => (State::Lost { why: Malformed::Joined, search: Box::default() }, Joined::Late),
        };
        Self {
            state,
            next: offset,
            proof: Proof::Given,
            max_frame: DEFAULT_MAX_FRAME,
            hpack: Decoder::new(joined),
            block: None,
            ledger: Ledger::default(),
        }
    }

    /// The next bytes.
    pub fn bytes(&mut self, offset: u64, mut bytes: &[u8], emit: &mut Emit<'_>) {
        self.ledger.bytes += bytes.len() as u64;
        self.next = offset;
        while !bytes.is_empty() {
            let taken = match &mut self.state {
                State::Preface(_) => self.preface(bytes, emit),
                State::Header { .. } => self.header(bytes, emit),
                State::Payload(_) => self.payload(bytes, emit),
                State::Lost { .. } => self.look(bytes, emit),
                State::Ended => {
                    self.ledger.add_unparsed(Malformed::AfterEnd, bytes.len() as u64);
                    self.next += bytes.len() as u64;
                    return;
                }
            };
            let (_, rest) = bytes.split_at_checked(taken).unwrap_or_default();
            bytes = rest;
        }
    }

    /// So many bytes were moved and are not here.
    pub fn gap(&mut self, offset: u64, mut length: u64, emit: &mut Emit<'_>) {
        self.ledger.gap = self.ledger.gap.saturating_add(length);
        self.next = offset;
        while length > 0 {
            let (taken, harmless) = match &mut self.state {
                State::Payload(_) => self.payload_gap(length, emit),
                State::Lost { why: _, search } => {
                    search.gap(self.next, length);
                    self.next = self.next.saturating_add(length);
                    (length, false)
                }
                State::Preface(_) | State::Header { .. } => {
                    let offset = self.next;
                    self.lose(offset, Malformed::Gap, emit);
                    (0, false)
                }
                State::Ended => {
                    self.next = self.next.saturating_add(length);
                    (length, false)
                }
            };
            let count = if harmless { &mut self.ledger.gap_body } else { &mut self.ledger.gap_lost };
            *count = count.saturating_add(taken);
            length = length.saturating_sub(taken);
        }
    }

    /// Some bytes, at most `length`, are missing at `offset`: where the next frame begins is not known any more.
    pub fn torn(&mut self, offset: u64, length: u64, emit: &mut Emit<'_>) {
        if matches!(self.state, State::Payload(_)) {
            self.lose(offset, Malformed::Gap, emit);
        }
        self.gap(offset, length, emit);
    }

    /// The direction has ended.
    pub fn close(&mut self) {
        self.state = State::Ended;
        self.block = None;
    }

    /// How long this direction's frames may be, as the other said.
    pub fn set_max_frame(&mut self, length: u32) {
        self.max_frame = self.max_frame.max(length);
    }

    /// True if frames are read.
    pub fn is_aligned(&self) -> bool {
        !matches!(self.state, State::Lost { .. } | State::Ended)
    }

    /// True if frames are read, and it is proven that they are not inside a payload.
    pub fn is_proven(&self) -> bool {
        self.is_aligned() && self.proof == Proof::Given
    }

    /// Frames are read, and they are true from here on: it is read as if it were joined here, since what came before
    /// may have been inside a payload. False if that was known.
    pub fn prove(&mut self) -> bool {
        if self.proof == Proof::Given {
            return false;
        }
        self.proof = Proof::Given;
        self.hpack.forget();
        if let Some(block) = &mut self.block {
            block.spoil();
        }
        true
    }

    /// The reader of its header blocks.
    pub fn hpack(&self) -> &Decoder {
        &self.hpack
    }

    /// Its header blocks' table is this one (see [`Decoder::restore`]).
    pub fn restore(&mut self, table: &[TableEntry], inserted: u64, limit: usize) {
        self.hpack.restore(table, inserted, limit);
    }

    /// True if a header block has begun and is not complete.
    pub fn is_in_block(&self) -> bool {
        self.block.is_some()
    }

    /// Where a frame begins next, if that is known: here or ahead.
    pub fn boundary(&self) -> Option<u64> {
        match &self.state {
            State::Header { start, have: 0, .. } => Some(*start),
            State::Payload(payload) => Some(payload.start + HEADER as u64 + u64::from(payload.header.length)),
            State::Preface(_) | State::Header { .. } | State::Lost { .. } | State::Ended => None,
        }
    }

    /// Where the frame began that is under way, if one is.
    pub fn frame_start(&self) -> Option<u64> {
        let frame = match &self.state {
            State::Header { start, have, .. } if *have > 0 => Some(*start),
            State::Payload(payload) => Some(payload.start),
            State::Preface(_) | State::Header { .. } | State::Lost { .. } | State::Ended => None,
        };
        self.block.as_ref().map(|block| block.start).or(frame)
    }

    /// Memory for bytes of the traffic.
    pub fn held_bytes(&self) -> usize {
        self.hpack.bytes() + self.block.as_ref().map_or(0, |block| block.bytes.len())
    }

    /// The books, as they are now.
    pub fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    /// Begins the books anew: what came before is accounted for elsewhere.
    pub fn reset_ledger(&mut self) {
        self.ledger = Ledger::default();
    }

    fn preface(&mut self, bytes: &[u8], emit: &mut Emit<'_>) -> usize {
        let State::Preface(matched) = &mut self.state else { return 0 };
        let wanted = PREFACE.get(*matched..).unwrap_or_default();
        let taken = wanted.len().min(bytes.len());
        if bytes.get(..taken) != wanted.get(..taken) {
            let offset = self.next;
            self.lose(offset, Malformed::Preface, emit);
            return 0;
        }
        *matched += taken;
        let complete = *matched == PREFACE.len();
        self.next += taken as u64;
        self.ledger.framing += taken as u64;
        if complete {
            self.state = self.at_boundary();
        }
        taken
    }

    fn at_boundary(&self) -> State {
        State::Header { start: self.next, bytes: [0; HEADER], have: 0 }
    }

    fn header(&mut self, bytes: &[u8], emit: &mut Emit<'_>) -> usize {
        let State::Header { start, bytes: header, have } = &mut self.state else { return 0 };
        let mut taken = 0;
        for (to, from) in header.iter_mut().skip(*have).zip(bytes) {
            *to = *from;
            taken += 1;
        }
        *have += taken;
        let (start, whole, header) = (*start, *have == HEADER, *header);
        self.next += taken as u64;
        self.ledger.framing += taken as u64;
        if whole {
            match self.judge(&Header::parse(&header)) {
                Ok(()) => {
                    if self.is_too_long(start) && self.prove() {
                        emit(Event::Proven);
                    }
                    self.begin(Header::parse(&header), start, emit);
                }
                Err(why) => {
                    // Its first bytes may have been counted in the books before these.
                    let counted = self.ledger.framing.min(HEADER as u64);
                    self.ledger.framing -= counted;
                    self.ledger.add_unparsed(why, counted);
                    self.lose(start, why, emit);
                    if let State::Lost { why: _, search } = &mut self.state {
                        search.bytes(start, &header, self.max_frame);
                    }
                }
            }
        }
        taken
    }

    /// Whether this may be the next frame.
    fn judge(&mut self, header: &Header) -> Result<(), Malformed> {
        header.check()?;
        let continued = self.block.as_ref().map(|block| block.stream);
        let continues = (header.kind == Type::Continuation).then_some(header.stream);
        if continued != continues {
            return Err(Malformed::Continuation);
        }
        match self.proof {
            Proof::Chain { .. } if !header.is_plausible(self.max_frame) => Err(Malformed::Unlikely),
            Proof::Chain { .. } | Proof::Given => Ok(()),
        }
    }

    /// Whether the chain up to this header is longer than the frame in which it could lie.
    fn is_too_long(&self, header: u64) -> bool {
        match self.proof {
            Proof::Chain { start } => {
                header.saturating_sub(start) > u64::from(self.max_frame) + HEADER as u64
            }
            Proof::Given => false,
        }
    }

    fn begin(&mut self, header: Header, start: u64, emit: &mut Emit<'_>) {
        self.ledger.frames += 1;
        match header.kind {
            Type::Headers | Type::PushPromise => {
                let ends = ends(&header);
                let promised = header.kind == Type::PushPromise;
                self.block = Some(Block {
                    stream: header.stream,
                    start,
                    ends,
                    promised,
                    bytes: Vec::new(),
                    unread: false,
                });
            }
            Type::Data => emit(Event::DataBegan { stream: header.stream }),
            _ => {}
        }
        self.state =
            State::Payload(Payload { header, start, at: 0, padding: 0, small: [0; 8], blurred: false });
        if header.length == 0 {
            self.finish(emit);
        }
    }

    fn payload(&mut self, bytes: &[u8], emit: &mut Emit<'_>) -> usize {
        let State::Payload(payload) = &mut self.state else { return 0 };
        let header = payload.header;
        let taken = bytes.len().min(usize::try_from(header.length - payload.at).unwrap_or(usize::MAX));
        let chunk = bytes.get(..taken).unwrap_or_default();
        let prefix = header.prefix();
        if header.has(PADDED) && payload.at == 0 {
            payload.padding = chunk.first().copied().map_or(0, u32::from);
            if prefix + payload.padding > header.length {
                let offset = payload.start;
                self.lose(offset, Malformed::Padding, emit);
                return 0;
            }
        }
        let from = payload.at;
        let to = from + taken as u32;
        let content = (from.max(prefix), to.min(header.length - payload.padding));
        payload.at = to;
        let inside = match content {
            (first, last) if first < last => {
                chunk.get((first - from) as usize..(last - from) as usize).unwrap_or_default()
            }
            _ => &[],
        };
        let whole = to == header.length;
        self.next += taken as u64;
        let count = inside.len() as u64;
        match header.kind {
            Type::Data => {
                self.ledger.body += count;
                self.ledger.framing += taken as u64 - count;
                if !inside.is_empty() {
                    emit(Event::Data { stream: header.stream, bytes: inside });
                }
            }
            Type::Headers | Type::PushPromise | Type::Continuation => {
                self.ledger.head += count;
                self.ledger.framing += taken as u64 - count;
                if let Some(block) = &mut self.block {
                    block.push(inside);
                }
            }
            Type::Settings => {
                self.ledger.framing += taken as u64;
                self.settings(from, inside, emit);
            }
            Type::Reset | Type::GoAway => {
                self.ledger.framing += taken as u64;
                for (to, from) in payload.small.iter_mut().skip(from as usize).zip(inside) {
                    *to = *from;
                }
            }
            Type::Priority | Type::Ping | Type::WindowUpdate | Type::Unknown => {
                self.ledger.framing += taken as u64;
            }
        }
        if whole {
            self.finish(emit);
        }
        taken
    }

    /// How much of a gap lies in the payload, and whether that does no harm.
    fn payload_gap(&mut self, length: u64, emit: &mut Emit<'_>) -> (u64, bool) {
        let State::Payload(payload) = &mut self.state else { return (length, false) };
        let header = payload.header;
        let taken = u32::try_from(length).unwrap_or(u32::MAX).min(header.length - payload.at);
        let from = payload.at;
        let to = from + taken;
        payload.at = to;
        payload.blurred = true;
        let content = (from.max(header.prefix()), to.min(header.length - payload.padding));
        self.next = self.next.saturating_add(u64::from(taken));
        let harmless = match header.kind {
            Type::Data => {
                if content.0 < content.1 {
                    emit(Event::DataGap { stream: header.stream, length: content.1 - content.0 });
                }
                true
            }
            Type::Headers | Type::PushPromise | Type::Continuation => {
                if let Some(block) = &mut self.block {
                    block.spoil();
                }
                false
            }
            Type::Unknown | Type::Priority | Type::Ping | Type::WindowUpdate => true,
            Type::Settings | Type::Reset | Type::GoAway => false,
        };
        if to == header.length {
            self.finish(emit);
        }
        (u64::from(taken), harmless)
    }

    /// A frame is complete.
    fn finish(&mut self, emit: &mut Emit<'_>) {
        let boundary = self.at_boundary();
        let State::Payload(payload) = std::mem::replace(&mut self.state, boundary) else { return };
        let Payload { header, start: _, at: _, padding: _, small, blurred } = payload;
        let [a, b, c, d, code @ ..] = small;
        let (first, code) = (u32::from_be_bytes([a, b, c, d]), u32::from_be_bytes(code));
        match header.kind {
            Type::Data if header.has(END_STREAM) => emit(Event::Ended { stream: header.stream }),
            Type::Headers | Type::PushPromise | Type::Continuation if header.has(END_HEADERS) => {
                self.end_block(emit);
            }
            Type::Reset => {
                emit(Event::Reset { stream: header.stream, code: (!blurred).then_some(first) });
            }
            Type::GoAway => {
                let last = (!blurred).then_some(first & 0x7fff_ffff);
                emit(Event::GoAway { last, code: (!blurred).then_some(code) });
            }
            _ => {}
        }
    }

    fn end_block(&mut self, emit: &mut Emit<'_>) {
        let Some(Block { stream, start, ends, promised, bytes, unread }) = self.block.take() else { return };
        self.ledger.blocks += 1;
        if unread {
            self.ledger.blocks_unread += 1;
            self.hpack.forget();
            if !promised {
                emit(Event::Unread { stream, start, ends });
            }
            return;
        }
        let mut builder = Builder::default();
        match self.hpack.decode(&bytes, &mut |line| builder.line(line)) {
            Ok(()) if promised => {}
            Ok(()) => {
                let section = Box::new(builder.finish(&mut self.ledger));
                emit(Event::Section { stream, start, section, ends });
            }
            Err(why) => {
                self.ledger.blocks_unread += 1;
                let offset = self.next;
                self.lose(offset, why, emit);
            }
        }
    }

    /// Takes bytes of SETTINGS, which is a list of six bytes each.
    fn settings(&mut self, from: u32, bytes: &[u8], emit: &mut Emit<'_>) {
        let State::Payload(payload) = &mut self.state else { return };
        if payload.header.has(ACK) {
            return;
        }
        for (at, byte) in (from..).zip(bytes) {
            if let Some(to) = payload.small.get_mut((at % 6) as usize) {
                *to = *byte;
            }
            let [a, b, c, d, e, f, ..] = payload.small;
            if at % 6 == 5 && u16::from_be_bytes([a, b]) == MAX_FRAME_SIZE && !payload.blurred {
                emit(Event::MaxFrame(u32::from_be_bytes([c, d, e, f])));
            }
        }
    }

    fn look(&mut self, bytes: &[u8], emit: &mut Emit<'_>) -> usize {
        let State::Lost { why, search } = &mut self.state else { return 0 };
        let Some(found) = search.bytes(self.next, bytes, self.max_frame) else {
            self.ledger.add_unparsed(*why, bytes.len() as u64);
            self.next += bytes.len() as u64;
            return bytes.len();
        };
        // The header may have begun in an earlier piece.
        let header_end = found.at + HEADER as u64;
        let taken = usize::try_from(header_end.saturating_sub(self.next)).unwrap_or(0).min(bytes.len());
        self.ledger.add_unparsed(*why, taken as u64);
        self.ledger.aligned += 1;
        self.next = header_end;
        self.proof = Proof::Chain { start: found.start };
        // A block of which the beginning was not seen.
        let goes_on =
            matches!(found.header.kind, Type::Headers | Type::Continuation) && !found.header.has(END_HEADERS);
        self.block = goes_on.then(|| Block {
            stream: found.header.stream,
            start: found.at,
            ends: ends(&found.header),
            promised: true,
            bytes: Vec::new(),
            unread: true,
        });
        let offset = header_end + u64::from(found.header.length);
        // What the last frame of the chain holds is not believed, only that it ends.
        let header = Header::ignored(found.header.length);
        self.state = State::Payload(Payload {
            header,
            start: found.at,
            at: 0,
            padding: 0,
            small: [0; 8],
            blurred: false,
        });
        emit(Event::Aligned { offset });
        if found.header.length == 0 {
            self.finish(emit);
        }
        taken
    }

    fn lose(&mut self, offset: u64, why: Malformed, emit: &mut Emit<'_>) {
        self.ledger.lost += 1;
        self.hpack.forget();
        self.block = None;
        self.proof = Proof::Given;
        self.state = State::Lost { why, search: Box::default() };
        emit(Event::Lost { offset, why });
    }
}

impl Block {
    fn push(&mut self, bytes: &[u8]) {
        if self.unread {
            return;
        }
        match self.bytes.len() + bytes.len() <= MAX_BLOCK {
            true => self.bytes.extend_from_slice(bytes),
            false => self.spoil(),
        }
    }

    fn spoil(&mut self) {
        self.unread = true;
        self.bytes = Vec::new();
    }
}

fn ends(header: &Header) -> Ends {
    match header.has(END_STREAM) {
        true => Ends::Yes,
        false => Ends::No,
    }
}
