//! What a late join hides, recalled from tables that were read in a process's memory.
//!
//! ```text
//!   an exchange with hidden lines is over ──▶ asked ──▶ an answer ──▶ the next piece of the direction ──▶ restored
//!                 it waits, at most MAX_AGE                            only if nothing was inserted meanwhile
//! ```
//! An answer is all tables that were found in the processes of both ends; which of them is this direction's is proved by
//! elimination: those that contradict what was inserted since the join, or that would make a section illegal, are not it. Only if
//! all that are left are equal is one taken. Memory runs ahead of the wire at the sender and behind it at the receiver, so
//! a direction takes part only if it was quiet: nothing inserted from [`QUIET`] before the search until a piece after it.
//!
//! It must never take one of several, keep an exchange for longer than [`MAX_AGE`] or more than [`MAX_WAITING`], nor change what was known.

use std::sync::Arc;

use super::Way;
use super::call::{Hidden, Part};
use crate::exchange::pending::{Sink, request_direction};
use crate::exchange::{Event, Exchange, QUIET, Tables};
use crate::identity::{Direction, Monotonic, Role};
use crate::protocol::http2::hpack::{Decoder, Field, TableEntry};
use crate::protocol::{FieldName, Fields};

/// How many exchanges wait for an answer: what a busy connection does in a second or two. Beyond, they go without.
const MAX_WAITING: usize = 2048;

/// How long one waits, in nanoseconds: a search takes a second at the most, and is asked for again if the table changed.
const MAX_AGE: u64 = 10_000_000_000;

/// How often a connection asks: a table that changes all the time is known from the wire soon.
const MAX_ASKS: u8 = 4;

/// How many of the exchanges that wait are laid against each table.
const MAX_CHECKED: usize = 64;

/// One connection's.
#[derive(Debug, Default)]
pub(super) struct Recall {
    may: bool,
    asks: u8,
    /// The pipeline is to be asked.
    wanted: bool,
    /// It was asked, and has not answered.
    asked: bool,
    /// Since when exchanges wait; none if they do not.
    since: Option<Monotonic>,
    #[expect(clippy::vec_box, reason = "they come boxed and go boxed")]
    waiting: Vec<Box<Exchange>>,
    answer: Option<Arc<Tables>>,
}

impl Recall {
    /// One that may ask.
    pub fn allowed() -> Self {
        Self { may: true, ..Self::default() }
    }

    /// True once if the tables of both ends are to be searched for.
    pub fn take_wish(&mut self) -> bool {
        std::mem::take(&mut self.wanted)
    }

    /// True if exchanges wait.
    pub fn is_waiting(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// An answer came. It is believed, if at all, with the next piece.
    pub fn answer(&mut self, tables: &Arc<Tables>) {
        self.asked = false;
        self.answer = Some(Arc::clone(tables));
    }

    /// Takes out of these events the exchanges of which lines are hidden.
    pub fn hold(&mut self, from: usize, now: Monotonic, sink: &mut Sink<'_>) {
        if !self.may || (self.asks >= MAX_ASKS && !self.asked && self.answer.is_none()) {
            return;
        }
        let hides = |event: &Event| match event {
            Event::Closed(exchange) => exchange
                .stream
                .as_ref()
                .is_some_and(|stream| stream.hidden.iter().any(|line| line.entry.is_some())),
            Event::Opened { .. } | Event::Responding { .. } => false,
        };
        if !sink.events.get(from..).is_some_and(|events| events.iter().any(hides)) {
            return;
        }
        for event in sink.events.split_off(from) {
            match event {
                Event::Closed(exchange)
                    if self.waiting.len() < MAX_WAITING && hides(&Event::Closed(exchange.clone())) =>
                {
                    self.waiting.push(exchange);
                }
                event => sink.events.push(event),
            }
        }
        if self.is_waiting() && self.since.is_none() {
            self.since = Some(now);
            self.ask();
        }
    }

    fn ask(&mut self) {
        if self.asks < MAX_ASKS && !self.asked {
            self.asks += 1;
            (self.asked, self.wanted) = (true, true);
        }
    }

    /// A piece was taken: believes an answer if that is proven, and lets go of what has waited for long enough.
    pub fn settle(
        &mut self,
        role: Option<Role>,
        ways: [(Direction, &mut Way); 2],
        now: Monotonic,
        sink: &mut Sink<'_>,
    ) {
        if let (Some(answer), Some(role)) = (self.answer.clone(), role) {
            let (mut later, mut changed) = (false, false);
            for (direction, way) in ways {
                let requests = direction == request_direction(role);
                match self.believe(&answer, requests, way, sink) {
                    Belief::Later => later = true,
                    Belief::Changed => changed = true,
                    Belief::Settled => {}
                }
            }
            if !later {
                self.answer = None;
                if changed {
                    self.ask();
                }
                if !self.asked {
                    self.flush(sink);
                }
            }
        }
        self.poll(now, sink);
    }

    /// Lets go of what has waited for long enough.
    pub fn poll(&mut self, now: Monotonic, sink: &mut Sink<'_>) {
        if self.since.is_some_and(|since| now.since(since) > MAX_AGE) {
            // No answer in all that time: there will be none.
            self.may &= self.answer.is_some();
            self.flush(sink);
        }
    }

    /// Lets go of everything.
    pub fn flush(&mut self, sink: &mut Sink<'_>) {
        self.since = None;
        sink.events.extend(self.waiting.drain(..).map(Event::Closed));
    }

    fn believe(&mut self, answer: &Tables, requests: bool, way: &mut Way, sink: &mut Sink<'_>) -> Belief {
        let of_way = |line: &&Hidden| (line.part == Part::Request) == requests && line.entry.is_some();
        let lines = |exchange: &Exchange| {
            exchange.stream.iter().flat_map(|stream| stream.hidden.iter()).filter(of_way).count()
        };
        let Some(parser) = way.parser.as_mut().filter(|parser| parser.is_proven()) else {
            return Belief::Settled;
        };
        if !self.waiting.iter().any(|exchange| lines(exchange) > 0) {
            return Belief::Settled;
        }
        if way.inserted.since.0.saturating_add(QUIET) > answer.began.0 {
            return Belief::Changed;
        }
        if way.moved <= answer.ended {
            return Belief::Later;
        }
        let hpack = parser.hpack();
        let mut fitting = answer.tables.iter().filter(|table| {
            hpack.agrees(&table.entries)
                && self
                    .waiting
                    .iter()
                    .filter(|exchange| lines(exchange) > 0)
                    .take(MAX_CHECKED)
                    .all(|exchange| is_legal(exchange, requests, hpack, &table.entries))
        });
        let Some(table) = fitting.next() else {
            sink.ledger.tables_unfound += 1;
            return Belief::Settled;
        };
        if fitting.any(|other| other.entries != table.entries) {
            sink.ledger.tables_ambiguous += 1;
            return Belief::Settled;
        }
        sink.ledger.tables_restored += 1;
        for exchange in &mut self.waiting {
            if lines(exchange) > 0 && is_legal(exchange, requests, hpack, &table.entries) {
                fill(exchange, requests, hpack, &table.entries);
                sink.ledger.exchanges_recalled += 1;
            }
        }
        parser.restore(&table.entries, table.limit);
        Belief::Settled
    }
}

/// What came of an answer for one direction.
enum Belief {
    /// It cannot be believed before more is seen.
    Later,
    /// The table changed while it was searched for.
    Changed,
    /// It is restored, needs not be, or cannot be.
    Settled,
}

/// The entries that hidden lines of this direction name, with their values.
fn named<'a>(
    exchange: &'a Exchange,
    requests: bool,
    hpack: &'a Decoder,
    table: &'a [TableEntry],
) -> impl Iterator<Item = Option<(Part, Field, &'a [u8])>> {
    let lines = exchange.stream.iter().flat_map(|stream| stream.hidden.iter());
    lines.filter(move |line| (line.part == Part::Request) == requests).filter_map(move |line| {
        let at = hpack.place(line.entry?);
        Some(
            at.and_then(|at| table.get(at))
                .map(|(name, value)| (line.part, Field::of(name), line.number.as_deref().unwrap_or(value))),
        )
    })
}

/// Whether an exchange's sections are legal (RFC 9113 §8.3) if this is the table: the pseudo-fields that are still missing once
/// each, no others, and in the trailers of a gRPC call one status.
fn is_legal(exchange: &Exchange, requests: bool, hpack: &Decoder, table: &[TableEntry]) -> bool {
    let request = &exchange.request;
    let has = |name| request.fields.first(name).is_some();
    let (mut method, mut path) = (!request.method.is_empty(), !request.target.is_empty());
    let (mut scheme, mut authority) = (has(FieldName::Scheme), has(FieldName::Host));
    let mut status = exchange.response.as_ref().is_some_and(|response| response.status != 0);
    for line in named(exchange, requests, hpack, table) {
        let Some((part, field, value)) = line else { return false };
        let once = match (part, field) {
            (Part::Request, Field::Method) => &mut method,
            (Part::Request, Field::Path) if value.starts_with(b"/") => &mut path,
            (Part::Request, Field::Scheme) => &mut scheme,
            (Part::Request, Field::Authority) => &mut authority,
            (Part::Response, Field::Status) => &mut status,
            (_, Field::Kept(FieldName::GrpcStatus)) if part == Part::Request => return false,
            (_, Field::Kept(_) | Field::Other) => continue,
            _ => return false,
        };
        if std::mem::replace(once, true) {
            return false;
        }
    }
    !requests || (method && path)
}

/// Says what the hidden lines of this direction are.
fn fill(exchange: &mut Exchange, requests: bool, hpack: &Decoder, table: &[TableEntry]) {
    let found: Vec<(Part, Field, Box<[u8]>)> = named(exchange, requests, hpack, table)
        .flatten()
        .map(|(part, field, value)| (part, field, value.into()))
        .collect();
    let Some(stream) = &mut exchange.stream else { return };
    for (part, field, value) in found {
        let fields: Option<&mut Fields> = match part {
            Part::Request => Some(&mut exchange.request.fields),
            Part::Response => exchange.response.as_mut().map(|response| &mut response.fields),
            Part::Trailers => stream.trailers.as_mut(),
        };
        let name = match field {
            Field::Method => {
                exchange.request.method = value;
                continue;
            }
            Field::Path => {
                exchange.request.target = value;
                continue;
            }
            Field::Status => {
                let status = str::from_utf8(&value).ok().and_then(|text| text.parse().ok());
                if let (Some(response), Some(status)) = (&mut exchange.response, status) {
                    response.status = status;
                }
                continue;
            }
            Field::Authority => FieldName::Host,
            Field::Scheme => FieldName::Scheme,
            Field::Kept(name) => name,
            Field::Other | Field::Old(_) => continue,
        };
        if let Some(fields) =
            fields.filter(|fields| name != FieldName::GrpcStatus || fields.first(name).is_none())
        {
            fields.0.push((name, value));
        }
    }
    stream.recalled = true;
    stream.hidden.retain(|line| (line.part == Part::Request) != requests || line.entry.is_none());
    let hides = |requests: bool| stream.hidden.iter().any(|line| (line.part == Part::Request) == requests);
    match requests {
        true => stream.request_unknown = hides(true),
        false => stream.response_unknown = hides(false),
    }
}
