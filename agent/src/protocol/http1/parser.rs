//! The states of one direction, and how pieces, gaps and ends move it from one to the next.
//!
//! What bytes mean is decided in `start_line`, `head`, `framing` and `chunked`; here it is only said where
//! in the stream they are, what is told of it, and which line of the [`Ledger`] they belong to. It must
//! never hold a byte that is not part of a head that may still become complete, never look at a byte
//! twice but to read a head that is complete, and never yield a message that the bytes do not prove.

use std::borrow::Cow;

use super::chunked::{Chunked, Outcome};
use super::framing::{Framing, Told};
use super::head::{Scan, fields};
use super::start_line::{
    Likeness, StartLine, begins_registered_method, is_registered_method, leading_line_ends, likeness,
};
use super::{Answers, Awaits, Ending, Event, Ledger, Malformed, Side};
use crate::protocol::{RequestHead, ResponseHead};

/// Parses one direction of one connection.
///
/// # Where messages begin
/// A new parser, and one that is lost, knows no place where a message begins. It takes the first byte of a
/// call for one and believes it when a complete, valid head has followed, in this call or in later ones.
/// If the bytes turn out to be none, the next call is tried: the very call that showed it, if the attempt
/// began in an earlier one. Programs begin a message with a call of their own nearly always, and bodies
/// that look like a head at the start of a call nearly never; a method that was cut by a call's end (Go
/// reads one byte ahead) is believed only if it is a registered one, so that the end of a body does not
/// become the beginning of a method; and a call that begins with a start line ends an attempt that has no
/// empty line yet.
///
/// # Responses to unknown requests
/// After a late attach the request is not known, and it may have been `HEAD`. As long as nothing of the
/// body has come ([`Awaits::Head`]), a call that starts with a status line shows that there was none.
#[derive(Debug)]
pub struct Parser {
    side: Side,
    state: State,
    place: Place,
    /// The response of an unknown request may have a body, and nothing of it was seen.
    doubt: bool,
    /// The offset of the present message's first byte.
    start: u64,
    /// Bytes of its body so far.
    body: u64,
    /// The beginning of a head that is not complete; in doubt, that of what may be a status line.
    held: Vec<u8>,
    /// The offset of the next byte to come.
    next: u64,
    ledger: Ledger,
}

/// Whether it is known where the present message begins, or the next one.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Place {
    /// The end of the message before, or a complete head, proves it.
    Known,
    /// Nothing was seen yet.
    New,
    /// [`Event::Lost`] was told; what is skipped counts under this cause.
    Lost(Malformed),
}

#[derive(Clone, Copy, Debug)]
enum State {
    /// Skips bytes until a call begins.
    Resync,
    /// The next byte that is no line end begins a message, or may if the place is not known.
    Start,
    /// In a head.
    Head(Scan),
    /// So many bytes are still to come; never 0.
    Body(u64),
    Chunked(Chunked),
    Close,
    Switched,
    Ended,
}

/// A rule was broken after `taken` bytes of what was looked at.
struct Broken {
    taken: usize,
    /// Where the part begins that is not understood.
    offset: u64,
    why: Malformed,
}

/// A head that is complete.
enum Message {
    Request(Box<RequestHead>),
    Response(Box<ResponseHead>),
}

impl Parser {
    /// A parser that has seen nothing yet: it expects a message at the first call that begins.
    pub fn new(side: Side) -> Self {
        Self {
            side,
            state: State::Resync,
            place: Place::New,
            doubt: false,
            start: 0,
            body: 0,
            held: Vec::new(),
            next: 0,
            ledger: Ledger::default(),
        }
    }

    /// The bytes at `offset`, which is where the last ones, or the last gap, ended. `starts_call`: the
    /// first of them was the first that a call moved. `answers` is asked exactly once for each final
    /// response (101 is one): what request does this answer?
    pub fn bytes(
        &mut self,
        offset: u64,
        bytes: &[u8],
        starts_call: bool,
        answers: &mut dyn FnMut() -> Answers,
        emit: &mut dyn FnMut(Event),
    ) {
        if bytes.is_empty() {
            return;
        }
        self.ledger.bytes += bytes.len() as u64;
        self.next = offset.saturating_add(bytes.len() as u64);
        if let Some(why) = self.overtaken(bytes, starts_call) {
            self.lose(self.start, why, emit);
        }
        if !self.doubt || self.settle_doubt(offset, bytes, starts_call, answers, emit) {
            self.advance(offset, bytes, starts_call, answers, emit);
        }
        self.ledger.held = self.held.len() as u64;
    }

    /// `length` bytes at `offset` were moved and are not here. Inside a body of known length, inside a
    /// chunk, and where everything belongs to a body, that is no loss.
    pub fn gap(&mut self, offset: u64, length: u64, emit: &mut dyn FnMut(Event)) {
        if length == 0 {
            return;
        }
        self.ledger.gap = self.ledger.gap.saturating_add(length);
        self.end_doubt(emit);
        self.next = offset.saturating_add(length);
        let harmless = match &mut self.state {
            State::Body(left) if length < *left => {
                *left -= length;
                length
            }
            State::Body(left) => {
                let left = *left;
                self.body = self.body.saturating_add(left);
                self.end(offset.saturating_add(left), Ending::Complete, emit);
                left
            }
            State::Chunked(chunked) => chunked.gap(length).map_or_else(|data| data, |()| length),
            State::Close | State::Switched | State::Ended => length,
            State::Resync | State::Start | State::Head(_) => 0,
        };
        match self.state {
            State::Body(_) | State::Chunked(_) | State::Close => {
                self.body = self.body.saturating_add(harmless)
            }
            State::Resync | State::Start | State::Head(_) | State::Switched | State::Ended => {}
        }
        self.ledger.gap_body = self.ledger.gap_body.saturating_add(harmless);
        self.ledger.gap_lost = self.ledger.gap_lost.saturating_add(length - harmless);
        if harmless < length {
            match self.state {
                State::Resync | State::Start if matches!(self.place, Place::Lost(_)) => {
                    self.state = State::Resync
                }
                State::Head(_) => self.lose(self.start, Malformed::Gap, emit),
                _ => self.lose(offset.saturating_add(harmless), Malformed::Gap, emit),
            }
        }
        self.ledger.held = self.held.len() as u64;
    }

    /// Some bytes, at most `length`, are missing at `offset`: so even inside a body the place is lost, unless
    /// everything belongs to the body.
    pub fn torn(&mut self, offset: u64, length: u64, emit: &mut dyn FnMut(Event)) {
        if length == 0 || matches!(self.state, State::Close | State::Switched | State::Ended) {
            return self.gap(offset, length, emit);
        }
        self.ledger.gap = self.ledger.gap.saturating_add(length);
        self.ledger.gap_lost = self.ledger.gap_lost.saturating_add(length);
        self.end_doubt(emit);
        self.next = offset.saturating_add(length);
        let at = if matches!(self.state, State::Head(_)) { self.start } else { offset };
        match self.state {
            State::Resync => {}
            State::Start if matches!(self.place, Place::Lost(_)) => self.state = State::Resync,
            _ => self.lose(at, Malformed::Gap, emit),
        }
        self.ledger.held = self.held.len() as u64;
    }

    /// The direction ended: a body that lasts as long as the connection is complete, anything else that
    /// has begun is truncated.
    pub fn close(&mut self, emit: &mut dyn FnMut(Event)) {
        self.end_doubt(emit);
        let ending = match self.state {
            State::Close => Some(Ending::Complete),
            State::Head(_) | State::Body(_) | State::Chunked(_) => Some(Ending::Truncated),
            State::Resync | State::Start | State::Switched | State::Ended => None,
        };
        if let Some(ending) = ending {
            self.ledger.add_unparsed(self.cause(Malformed::HeadCut), self.held.len() as u64);
            self.end(self.next, ending, emit);
        }
        self.become_silent(State::Ended);
    }

    /// The *other* direction went over to another protocol ([`Event::Switched`]), so this one has, too:
    /// whatever comes now, or is held as the beginning of a head, is not HTTP/1.
    pub fn switch(&mut self, emit: &mut dyn FnMut(Event)) {
        self.end_doubt(emit);
        let offset = match self.state {
            State::Switched | State::Ended => return,
            State::Head(_) => self.start,
            State::Body(_) | State::Chunked(_) | State::Close => {
                self.end(self.next, Ending::Truncated, emit);
                self.next
            }
            State::Resync | State::Start => self.next,
        };
        self.ledger.switched += self.held.len() as u64;
        self.become_silent(State::Switched);
        emit(Event::Switched { offset });
    }

    /// So many of the last bytes behind [`Event::Switched`] are accounted for by whoever understands them.
    pub fn give_back(&mut self, length: u64) {
        let given = length.min(self.ledger.switched);
        self.ledger.switched -= given;
        self.ledger.bytes -= given;
    }

    /// What the next bytes will be.
    pub fn awaits(&self) -> Awaits {
        match self.state {
            State::Resync => Awaits::Resync,
            State::Start | State::Head(_) if self.place != Place::Known => Awaits::Resync,
            State::Start | State::Head(_) => Awaits::Head,
            State::Body(_) | State::Chunked(_) | State::Close if self.doubt => Awaits::Head,
            State::Body(left) => Awaits::Body(left),
            State::Chunked(chunked) => chunked.data_left().map_or(Awaits::ChunkFraming, Awaits::Chunk),
            State::Close => Awaits::Close,
            State::Switched | State::Ended => Awaits::Nothing,
        }
    }

    /// Where every byte went so far.
    pub fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    /// Takes all bytes, one state after the other.
    fn advance(
        &mut self,
        offset: u64,
        bytes: &[u8],
        starts_call: bool,
        answers: &mut dyn FnMut() -> Answers,
        emit: &mut dyn FnMut(Event),
    ) {
        let (mut rest, mut at, mut try_call) = (bytes, offset, starts_call);
        while !rest.is_empty() {
            if matches!(self.state, State::Resync) && std::mem::take(&mut try_call) && at == offset {
                self.state = State::Start;
            }
            self.doubt = false;
            let taken = match self.step(at, rest, answers, emit) {
                Ok(taken) => taken,
                Err(broken) => {
                    // What showed that an earlier attempt was none may itself be a message.
                    try_call = try_call && self.start < offset;
                    self.lose(broken.offset, broken.why, emit);
                    broken.taken
                }
            };
            rest = rest.get(taken..).unwrap_or_default();
            at = at.saturating_add(taken as u64);
        }
    }

    /// Takes bytes as far as the present state reaches.
    fn step(
        &mut self,
        at: u64,
        bytes: &[u8],
        answers: &mut dyn FnMut() -> Answers,
        emit: &mut dyn FnMut(Event),
    ) -> Result<usize, Broken> {
        match &mut self.state {
            State::Resync => {
                if self.place == Place::New {
                    self.lose(at, Malformed::Joined, emit);
                }
                self.ledger.add_unparsed(self.cause(Malformed::Joined), bytes.len() as u64);
                Ok(bytes.len())
            }
            State::Start => self.begin(at, bytes, emit),
            State::Head(scan) => match scan.feed(bytes) {
                Ok(None) => {
                    self.held.extend_from_slice(bytes);
                    Ok(bytes.len())
                }
                Ok(Some(end)) => {
                    let scan = *scan;
                    self.head(at, bytes.get(..end).unwrap_or(bytes), scan, answers, emit)?;
                    Ok(end)
                }
                Err(why) => Err(Broken { taken: 0, offset: self.start, why }),
            },
            State::Body(left) => {
                let taken = usize::try_from(*left).unwrap_or(usize::MAX).min(bytes.len());
                *left -= taken as u64;
                let complete = *left == 0;
                self.add_body(taken);
                if complete {
                    self.end(at.saturating_add(taken as u64), Ending::Complete, emit);
                }
                Ok(taken)
            }
            State::Chunked(chunked) => {
                let step = chunked.feed(bytes);
                let taken = step.framing + step.data;
                let end = at.saturating_add(taken as u64);
                self.ledger.framing += step.framing as u64;
                self.add_body(step.data);
                match step.outcome {
                    Outcome::More => Ok(taken),
                    Outcome::Complete => {
                        self.end(end, Ending::Complete, emit);
                        Ok(taken)
                    }
                    Outcome::Broken(why) => Err(Broken { taken, offset: end, why }),
                }
            }
            State::Close => {
                self.add_body(bytes.len());
                Ok(bytes.len())
            }
            State::Switched => {
                self.ledger.switched += bytes.len() as u64;
                Ok(bytes.len())
            }
            State::Ended => {
                self.ledger.add_unparsed(Malformed::AfterEnd, bytes.len() as u64);
                Ok(bytes.len())
            }
        }
    }

    /// Skips empty lines (RFC 9112 §2.2) and lets a message begin at the first other byte.
    fn begin(&mut self, at: u64, bytes: &[u8], emit: &mut dyn FnMut(Event)) -> Result<usize, Broken> {
        let skipped = leading_line_ends(bytes);
        match self.place {
            Place::Lost(cause) => self.ledger.add_unparsed(cause, skipped as u64),
            Place::Known | Place::New => self.ledger.framing += skipped as u64,
        }
        let Some(first) = bytes.get(skipped..=skipped) else { return Ok(skipped) };
        let offset = at.saturating_add(skipped as u64);
        // A byte that begins no message at all is not worth an event while it is known that we are lost.
        let mut scan = Scan::new(self.side);
        match scan.feed(first) {
            Err(_) if matches!(self.place, Place::Lost(_)) => {
                self.state = State::Resync;
                Ok(skipped)
            }
            Err(why) => Err(Broken { taken: skipped, offset, why }),
            Ok(_) => {
                (self.start, self.body) = (offset, 0);
                self.state = State::Head(Scan::new(self.side));
                emit(Event::Began { offset });
                Ok(skipped)
            }
        }
    }

    /// The head ends with these bytes; those before it are held, if there are any.
    fn head(
        &mut self,
        at: u64,
        last: &[u8],
        scan: Scan,
        answers: &mut dyn FnMut() -> Answers,
        emit: &mut dyn FnMut(Event),
    ) -> Result<(), Broken> {
        let end = at.saturating_add(last.len() as u64);
        let held = self.held.len();
        let whole = match held {
            0 => Cow::Borrowed(last),
            _ => {
                self.held.extend_from_slice(last);
                Cow::Owned(std::mem::take(&mut self.held))
            }
        };
        let read = read(self.side, &whole, scan.line, &mut self.ledger).and_then(|(message, told)| {
            // To find a place again takes a head in which nothing is wrong.
            let doubtful = match (&message, self.place) {
                (_, Place::Known) => None,
                (Message::Request(_), _) => told.request().err(),
                (Message::Response(head), _) => told.response(head.status, Answers::Unknown).err(),
            };
            doubtful.map_or(Ok((message, told)), Err)
        });
        let (message, told) = match read {
            Ok(read) => read,
            Err(why) => {
                if let Cow::Owned(mut whole) = whole {
                    whole.truncate(held);
                    self.held = whole;
                }
                return Err(Broken { taken: 0, offset: self.start, why });
            }
        };
        self.ledger.head += whole.len() as u64;
        self.place = Place::Known;
        let start = self.start;
        let framing = match message {
            Message::Request(head) => {
                let answers = told.answers(&head.method);
                emit(Event::Request { start, end, head, answers });
                told.request()
            }
            Message::Response(head) if matches!(head.status, 100 | 102..=199) => {
                self.state = State::Start;
                emit(Event::Response { start, end, head });
                return Ok(());
            }
            Message::Response(head) => {
                let (status, answers) = (head.status, answers());
                self.doubt = answers == Answers::Unknown;
                emit(Event::Response { start, end, head });
                told.response(status, answers)
            }
        };
        match framing.map_err(|why| Broken { taken: last.len(), offset: end, why })? {
            Framing::Length(0) => self.end(end, Ending::Complete, emit),
            Framing::Length(length) => self.state = State::Body(length),
            Framing::Chunked => self.state = State::Chunked(Chunked::new()),
            Framing::Close => self.state = State::Close,
            Framing::Switch => {
                self.end(end, Ending::Complete, emit);
                self.state = State::Switched;
                emit(Event::Switched { offset: end });
            }
        }
        Ok(())
    }

    /// In doubt: decides by the first bytes of the next call whether the response has a body. True if
    /// these bytes still have to be taken, false if they are held because they are too few to tell.
    fn settle_doubt(
        &mut self,
        offset: u64,
        bytes: &[u8],
        starts_call: bool,
        answers: &mut dyn FnMut() -> Answers,
        emit: &mut dyn FnMut(Event),
    ) -> bool {
        let before = self.held.len();
        let end_of_head = offset.saturating_sub(before as u64);
        let likeness = if before == 0 && !starts_call {
            Likeness::No
        } else {
            let room = STATUS_LINE.saturating_sub(before);
            self.held.extend_from_slice(bytes.get(..room).unwrap_or(bytes));
            likeness(Side::Responses, &self.held)
        };
        if likeness == Likeness::Maybe {
            return false;
        }
        self.held.truncate(before);
        if likeness == Likeness::Yes {
            self.end(end_of_head, Ending::Complete, emit);
        }
        let held = std::mem::take(&mut self.held);
        self.advance(end_of_head, &held, false, answers, emit);
        true
    }

    /// In doubt, when no more bytes can settle it: what is held is body, as the framing says.
    fn end_doubt(&mut self, emit: &mut dyn FnMut(Event)) {
        if std::mem::take(&mut self.doubt) {
            let held = std::mem::take(&mut self.held);
            let offset = self.next.saturating_sub(held.len() as u64);
            // Fewer bytes than a status line has complete no head, so nobody is asked what it answers.
            self.advance(offset, &held, false, &mut || Answers::Unknown, emit);
        }
    }

    /// While the place is not known: why the message that may have begun is none, now that a call begins
    /// with these bytes. It has a piece of a method that is not continued to a registered one, or the call
    /// begins with a start line where a field would have to go on.
    fn overtaken(&self, bytes: &[u8], starts_call: bool) -> Option<Malformed> {
        let State::Head(scan) = self.state else { return None };
        if !starts_call || self.place == Place::Known {
            return None;
        }
        let word = memchr::memchr(b' ', bytes).and_then(|end| bytes.get(..end));
        let is_method = match (self.side, word) {
            (Side::Responses, _) => true,
            (Side::Requests, Some(method)) if scan.line.in_method() => {
                is_registered_method(&self.held, method)
            }
            (Side::Requests, None) if scan.line.in_method() => begins_registered_method(&self.held, bytes),
            (Side::Requests, method) => is_registered_method(b"", method.unwrap_or_default()),
        };
        if scan.line.in_method() {
            return (!is_method).then_some(Malformed::Method);
        }
        let restarts = scan.line.is_complete() && is_method && likeness(self.side, bytes) == Likeness::Yes;
        restarts.then_some(Malformed::HeadCut)
    }

    fn add_body(&mut self, bytes: usize) {
        self.body = self.body.saturating_add(bytes as u64);
        self.ledger.body += bytes as u64;
    }

    /// The present message is over.
    fn end(&mut self, offset: u64, ending: Ending, emit: &mut dyn FnMut(Event)) {
        self.state = State::Start;
        self.doubt = false;
        emit(Event::Ended { offset, ending, body: self.body });
    }

    /// The place is not known any more. What is held is not understood.
    fn lose(&mut self, offset: u64, why: Malformed, emit: &mut dyn FnMut(Event)) {
        let cause = self.cause(why);
        self.ledger.add_unparsed(cause, self.held.len() as u64);
        (self.state, self.place, self.doubt, self.held) =
            (State::Resync, Place::Lost(cause), false, Vec::new());
        emit(Event::Lost { offset, why });
    }

    /// What bytes count under that are not understood for this reason: the first one since the place was
    /// known.
    fn cause(&self, why: Malformed) -> Malformed {
        match self.place {
            Place::Known | Place::New | Place::Lost(Malformed::Joined) => why,
            Place::Lost(first) => first,
        }
    }

    /// Nothing is parsed any more.
    fn become_silent(&mut self, state: State) {
        (self.state, self.doubt, self.held) = (state, false, Vec::new());
        self.ledger.held = 0;
    }
}

/// Reads a complete head.
fn read(side: Side, head: &[u8], line: StartLine, ledger: &mut Ledger) -> Result<(Message, Told), Malformed> {
    let (fields, told) = fields(side, head.get(line.length()..).unwrap_or_default(), ledger)?;
    let version = line.version;
    let message = match side {
        Side::Requests => {
            let method = head.get(..line.method).ok_or(Malformed::Method)?.into();
            let target = head.get(line.method + 1..line.target).ok_or(Malformed::Target)?.into();
            Message::Request(Box::new(RequestHead { method, target, version, fields }))
        }
        Side::Responses => Message::Response(Box::new(ResponseHead { status: line.status, version, fields })),
    };
    Ok((message, told))
}

/// As much of a status line as proves that it is one: `HTTP/1.1 200`.
const STATUS_LINE: usize = 12;
