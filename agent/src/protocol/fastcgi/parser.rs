//! The records of one direction, cut anywhere.

use super::head::{self, Output};
use super::{BEGIN, HEADER, Header, Kind, Ledger, MAX_PARAMS};
use crate::protocol::http1::{Awaits, Side};
use crate::protocol::{RequestHead, ResponseHead};

/// What a direction says.
#[derive(Debug)]
pub enum Event {
    /// The first byte of a BEGIN_REQUEST, at this offset.
    Began {
        /// The stream offset of its record's header.
        offset: u64,
    },
    /// The parameters are complete.
    Request {
        /// What they say.
        head: Box<RequestHead>,
    },
    /// So many bytes of the request's body.
    RequestBody(u64),
    /// The request's body is complete.
    RequestEnded,
    /// The client takes its request back.
    Aborted,
    /// The first byte of output.
    Responding,
    /// The head of the output is complete.
    Response {
        /// What it says.
        head: Box<ResponseHead>,
    },
    /// So many bytes of output behind the head.
    ResponseBody(u64),
    /// END_REQUEST: the response is over.
    Ended,
    /// Where records begin is not known any more.
    Lost,
}

/// A direction's parser.
#[derive(Debug)]
pub struct Parser {
    side: Side,
    ledger: Ledger,
    at: At,
    /// Which request is under way.
    request: u16,
    params: Vec<u8>,
    output: Output,
    responding: bool,
}

#[derive(Debug)]
enum At {
    /// So many bytes of the next header have come.
    Header([u8; HEADER], usize),
    /// So much content and padding is left.
    Content {
        kind: Kind,
        left: u32,
        padding: u32,
    },
    Lost,
}

impl Default for At {
    fn default() -> Self {
        Self::Header([0; HEADER], 0)
    }
}

impl Parser {
    /// One that waits for a record of this side.
    pub fn new(side: Side) -> Self {
        Self {
            side,
            ledger: Ledger::default(),
            at: At::default(),
            request: 0,
            params: Vec::new(),
            output: Output::default(),
            responding: false,
        }
    }

    /// The books.
    pub fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    /// Memory for bytes of the traffic.
    pub fn held_bytes(&self) -> usize {
        self.params.len()
    }

    /// What is worth capturing: all but what is left of a record in which only the length matters.
    pub fn awaits(&self) -> Awaits {
        match self.at {
            At::Content { kind: Kind::Stdin | Kind::Other, left, padding } => {
                Awaits::Body(u64::from(left) + u64::from(padding))
            }
            At::Content { kind: Kind::Stdout, left, padding } if self.output.is_over() => {
                Awaits::Body(u64::from(left) + u64::from(padding))
            }
            At::Lost => Awaits::Resync,
            At::Header(..) | At::Content { .. } => Awaits::Head,
        }
    }

    /// Takes the next bytes, which begin at this stream offset.
    pub fn bytes(&mut self, offset: u64, bytes: &[u8], emit: &mut dyn FnMut(Event)) {
        self.ledger.bytes += bytes.len() as u64;
        let mut rest = bytes;
        while !rest.is_empty() {
            let position = offset.saturating_add((bytes.len() - rest.len()) as u64);
            match &mut self.at {
                At::Header(header, have) => {
                    let taken = rest.len().min(HEADER - *have);
                    let (new, after) = rest.split_at(taken);
                    for (to, &byte) in header.iter_mut().skip(*have).zip(new) {
                        *to = byte;
                    }
                    *have += taken;
                    rest = after;
                    self.ledger.framing += taken as u64;
                    if *have == HEADER {
                        let begins = position.saturating_add(taken as u64).saturating_sub(HEADER as u64);
                        match Header::parse(*header) {
                            Some(header) => self.begin(header, begins, emit),
                            None => self.lose(emit),
                        }
                    }
                }
                At::Content { kind, left, .. } if *left > 0 => {
                    let (kind, taken) = (*kind, rest.len().min(*left as usize));
                    *left -= taken as u32;
                    let (new, after) = rest.split_at(taken);
                    rest = after;
                    self.content(kind, new, emit);
                    self.end_of_content(emit);
                }
                At::Content { padding, .. } => {
                    let taken = rest.len().min(*padding as usize);
                    *padding -= taken as u32;
                    rest = rest.get(taken..).unwrap_or_default();
                    self.ledger.framing += taken as u64;
                    self.end_of_content(emit);
                }
                At::Lost => {
                    self.ledger.unparsed += rest.len() as u64;
                    return;
                }
            }
        }
    }

    /// So many bytes are missing.
    pub fn gap(&mut self, length: u64, emit: &mut dyn FnMut(Event)) {
        self.ledger.gap = self.ledger.gap.saturating_add(length);
        let mut rest = length;
        if let At::Content { kind, left, padding } = &mut self.at {
            let inside = rest.min(u64::from(*left));
            let behind = (rest - inside).min(u64::from(*padding));
            // Neither is longer than a u32 was.
            (*left, *padding) = (*left - inside as u32, *padding - behind as u32);
            rest -= inside + behind;
            let harmless = match kind {
                Kind::Stdin | Kind::Stdout | Kind::Other => true,
                Kind::Begin | Kind::Abort | Kind::End | Kind::Params => inside == 0,
            };
            let kind = *kind;
            if !harmless {
                self.ledger.gap_lost = self.ledger.gap_lost.saturating_add(length);
                return self.lose(emit);
            }
            self.ledger.gap_body += inside + behind;
            if inside > 0 {
                self.missing(kind, inside, emit);
            }
            self.end_of_content(emit);
        }
        if rest > 0 {
            self.ledger.gap_lost = self.ledger.gap_lost.saturating_add(rest);
            self.lose(emit);
        }
    }

    fn lose(&mut self, emit: &mut dyn FnMut(Event)) {
        self.params = Vec::new();
        if !matches!(self.at, At::Lost) {
            self.at = At::Lost;
            self.ledger.lost += 1;
            emit(Event::Lost);
        }
    }

    fn begin(&mut self, header: Header, offset: u64, emit: &mut dyn FnMut(Event)) {
        let Header { kind, request, content, padding } = header;
        self.at = At::Content { kind, left: content.into(), padding: padding.into() };
        let side = match kind {
            Kind::Begin | Kind::Abort | Kind::Params | Kind::Stdin => Some(Side::Requests),
            Kind::Stdout | Kind::End => Some(Side::Responses),
            Kind::Other => None,
        };
        if side.is_some_and(|side| side != self.side) {
            return self.lose(emit);
        }
        match kind {
            // Another one while one is under way could not be told from it by what follows.
            Kind::Begin if self.request != 0 => return self.lose(emit),
            Kind::Begin if request == 0 => return self.lose(emit),
            Kind::Begin => {
                self.request = request;
                emit(Event::Began { offset });
            }
            Kind::Stdout | Kind::End => {
                if self.request == 0 {
                    self.request = request;
                    (self.output, self.responding) = (Output::default(), false);
                } else if self.request != request {
                    return self.lose(emit);
                }
            }
            // The body may be complete when the request is taken back.
            Kind::Abort if request == self.request || self.request == 0 => emit(Event::Aborted),
            Kind::Params | Kind::Stdin | Kind::Abort if self.request != request => return self.lose(emit),
            // A stream ends with an empty record (§3.3).
            Kind::Params if content == 0 => {
                let params = std::mem::take(&mut self.params);
                let head = head::request(&params, &mut self.ledger);
                emit(Event::Request { head: Box::new(head) });
            }
            Kind::Stdin if content == 0 => {
                self.request = 0;
                emit(Event::RequestEnded);
            }
            Kind::Params | Kind::Stdin | Kind::Abort | Kind::Other => {}
        }
        self.end_of_content(emit);
    }

    fn content(&mut self, kind: Kind, bytes: &[u8], emit: &mut dyn FnMut(Event)) {
        let length = bytes.len() as u64;
        match kind {
            Kind::Params => {
                self.ledger.head += length;
                let room = MAX_PARAMS.saturating_sub(self.params.len());
                let kept = bytes.get(..room).unwrap_or(bytes);
                self.params.extend_from_slice(kept);
                self.ledger.params_cut += (bytes.len() - kept.len()) as u64;
            }
            Kind::Stdin => {
                self.ledger.body += length;
                emit(Event::RequestBody(length));
            }
            Kind::Stdout => {
                if !std::mem::replace(&mut self.responding, true) {
                    emit(Event::Responding);
                }
                let (head, found) = self.output.bytes(bytes);
                let body = length.saturating_sub(head as u64);
                self.ledger.head += length - body;
                self.ledger.body += body;
                if let Some(head) = found {
                    emit(Event::Response { head: Box::new(head) });
                }
                if body > 0 {
                    emit(Event::ResponseBody(body));
                }
            }
            Kind::Begin | Kind::Abort | Kind::End | Kind::Other => self.ledger.framing += length,
        }
    }

    /// Content of which only the length is known.
    fn missing(&mut self, kind: Kind, length: u64, emit: &mut dyn FnMut(Event)) {
        match kind {
            Kind::Stdin => emit(Event::RequestBody(length)),
            Kind::Stdout => {
                if !std::mem::replace(&mut self.responding, true) {
                    emit(Event::Responding);
                }
                if let Some(head) = self.output.gap() {
                    emit(Event::Response { head: Box::new(head) });
                }
                emit(Event::ResponseBody(length));
            }
            Kind::Begin | Kind::Abort | Kind::End | Kind::Params | Kind::Other => {}
        }
    }

    fn end_of_content(&mut self, emit: &mut dyn FnMut(Event)) {
        if let At::Content { kind, left: 0, padding: 0 } = self.at {
            self.at = At::default();
            if kind == Kind::End {
                self.request = 0;
                if self.responding
                    && let Some(head) = self.output.gap()
                {
                    emit(Event::Response { head: Box::new(head) });
                }
                emit(Event::Ended);
            }
        }
    }
}

const _: () = assert!(BEGIN == HEADER);
