//! What a late join hides, recalled from tables that were read in a process's memory.
//!
//! ```text
//!   an exchange with hidden lines is over ──▶ asked ──▶ an answer ──▶ the next piece of the direction ──▶ restored
//!                 it waits, at most MAX_AGE                            only if nothing was inserted meanwhile
//! ```
//! An answer is all tables of the processes at both ends, of one or of each; which of them is this direction's is proved by
//! elimination: those that contradict what was inserted since the join, or that would make a section illegal, are not it, nor those
//! that only one of two processes has. Only if all that are left agree in what is from before the join is one taken.
//!
//! Memory runs ahead of the wire at the sender and behind it at the receiver, so of what time a table is, is known up to [`QUIET`]
//! before the search and after it. What was inserted between the two may be in it or not: its newest entries say that, if
//! the encoder is one that never inserts what it holds ([`Agreement::Known`]); else it counts as several tables.
//!
//! It must never take one of several, keep an exchange for longer than [`MAX_AGE`] or more than it was allowed to (what waits here
//! waits in `stitch` too, and goes to the exporters at once), nor change what was known.

use std::collections::VecDeque;
use std::sync::Arc;

use super::Way;
use super::call::{Hidden, Part, says_grpc};
use crate::exchange::pending::{Sink, request_direction};
use crate::exchange::{Event, Exchange, QUIET, Table, Tables};
use crate::identity::{Direction, Monotonic, Role};
use crate::protocol::http2::Parser;
use crate::protocol::http2::hpack::{Agreement, Decoder, Field, TableEntry};
use crate::protocol::{FieldName, Fields};

/// How many exchanges of a connection wait for an answer: what a busy one does in a second or two. Beyond, they go without.
const MAX_WAITING: usize = 2048;

/// How many a connection may keep before it was told a number: enough to tell tables from each other.
const FEW: usize = 32;

/// How long one waits, in nanoseconds: a search takes a second at the most, and is asked for again if the table changed.
const MAX_AGE: u64 = 10_000_000_000;

/// How often a connection asks: a table that changes all the time is known from the wire soon.
const MAX_ASKS: u8 = 4;

/// How many of the exchanges that wait are laid against each table.
const MAX_CHECKED: usize = 64;

/// How many tables of a process that all fit are laid against those of the other.
const MAX_CANDIDATES: usize = 64;

/// How late a record may be where nothing is moved any more, in nanoseconds: what was moved before is here by then.
const MAX_LAG: u64 = 2_000_000_000;

/// How many insertions are remembered with their times: more come only where names are soon known from the wire.
const MAX_MARKS: usize = 64;

/// When entries were inserted into the table of a direction's header blocks.
#[derive(Debug, Default)]
pub(super) struct Inserted {
    /// Since when all blocks are read.
    since: Monotonic,
    losses: u32,
    entries: u64,
    /// How many there were from this time on.
    marks: VecDeque<(Monotonic, u64)>,
}

impl Inserted {
    /// A piece was read.
    pub fn note(&mut self, at: Monotonic, parser: &Parser) {
        let (entries, losses) = (parser.hpack().inserted(), parser.hpack().losses());
        // Before alignment blocks go by unread.
        if self.since == Monotonic(0) || !parser.is_aligned() || losses != self.losses {
            *self = Self { since: at, losses, entries, marks: VecDeque::new() };
        }
        if entries != self.entries {
            self.entries = entries;
            self.marks.push_back((at, entries));
            if self.marks.len() > MAX_MARKS {
                self.marks.pop_front();
            }
        }
    }

    /// How many there were at this time, at least.
    fn at(&self, time: Monotonic) -> u64 {
        self.marks.iter().take_while(|(at, _)| *at <= time).last().map_or(0, |(_, entries)| *entries)
    }
}

/// One connection's.
#[derive(Debug, Default)]
pub(super) struct Recall {
    may: bool,
    /// How many may wait.
    room: usize,
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
    /// What was taken of each direction: calls that were open then are filled when they are over.
    restored: Vec<(Direction, Candidate)>,
}

impl Recall {
    /// One that may ask.
    pub fn allowed() -> Self {
        Self { may: true, room: FEW, ..Self::default() }
    }

    /// True once if the tables of both ends are to be searched for.
    pub fn take_wish(&mut self) -> bool {
        std::mem::take(&mut self.wanted)
    }

    /// So many may wait, if that is not too few or too many.
    pub fn set_room(&mut self, room: usize) {
        self.room = room.clamp(FEW, MAX_WAITING);
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

    /// Says in these events what is known by now of calls that were open when a table was restored.
    pub fn fill(&self, from: usize, role: Option<Role>, ways: [(Direction, &Way); 2], sink: &mut Sink<'_>) {
        let Some(role) = role.filter(|_| !self.restored.is_empty()) else { return };
        for event in sink.events.iter_mut().skip(from) {
            let Event::Closed(exchange) = event else { continue };
            for (direction, Candidate { entries, inserted, limit: _ }) in &self.restored {
                let requests = *direction == request_direction(role);
                let way = ways.iter().find(|(of, _)| of == direction);
                let Some(parser) = way.and_then(|(_, way)| way.parser.as_ref()) else { continue };
                let at = At { hpack: parser.hpack(), table: entries, inserted: *inserted, requests };
                sink.ledger.exchanges_recalled += u64::from(at.tell(exchange));
            }
        }
    }

    /// Takes out of these events the exchanges of which lines are hidden.
    pub fn hold(&mut self, from: usize, now: Monotonic, sink: &mut Sink<'_>) {
        if !self.may || (self.asks >= MAX_ASKS && !self.asked && self.answer.is_none()) {
            return;
        }
        let held = |event: &Event| match event {
            Event::Closed(exchange) => hides(exchange, true) || hides(exchange, false),
            Event::Opened { .. } | Event::Responding { .. } => false,
        };
        if !sink.events.get(from..).is_some_and(|events| events.iter().any(held)) {
            return;
        }
        for event in sink.events.split_off(from) {
            let waits = self.waiting.len() < self.room && held(&event);
            match event {
                Event::Closed(exchange) if waits => self.waiting.push(exchange),
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

    /// Believes an answer if that is proven by now: by what came since, and, if a time is given, by nothing having been moved up to
    /// then.
    pub fn settle(
        &mut self,
        role: Option<Role>,
        ways: [(Direction, &mut Way); 2],
        until: Option<Monotonic>,
        sink: &mut Sink<'_>,
    ) {
        let (Some(answer), Some(role)) = (self.answer.clone(), role) else { return };
        let (mut later, mut again) = (false, false);
        for (direction, way) in ways {
            match self.believe(&answer, direction, direction == request_direction(role), way, until, sink) {
                Belief::Later => later = true,
                Belief::Again => again = true,
                Belief::Settled => {}
            }
        }
        if !later {
            self.answer = None;
            if again {
                self.ask();
            }
            if !self.asked {
                self.flush(sink);
            }
        }
    }

    /// Time has passed: where nothing moves, that is as good as a piece.
    pub fn poll(
        &mut self,
        role: Option<Role>,
        ways: [(Direction, &mut Way); 2],
        now: Monotonic,
        sink: &mut Sink<'_>,
    ) {
        self.settle(role, ways, Some(Monotonic(now.0.saturating_sub(MAX_LAG))), sink);
        self.let_go(now, sink);
    }

    /// Lets go of what has waited for long enough.
    pub fn let_go(&mut self, now: Monotonic, sink: &mut Sink<'_>) {
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

    fn believe(
        &mut self,
        answer: &Tables,
        direction: Direction,
        requests: bool,
        way: &mut Way,
        until: Option<Monotonic>,
        sink: &mut Sink<'_>,
    ) -> Belief {
        let Some(parser) = way.parser.as_mut().filter(|parser| parser.is_proven()) else {
            return Belief::Settled;
        };
        if !self.waiting.iter().any(|exchange| hides(exchange, requests)) {
            return Belief::Settled;
        }
        if way.inserted.since.0.saturating_add(QUIET) > answer.began.0 {
            return Belief::Again;
        }
        if way.moved.max(until.unwrap_or_default()).0 < answer.ended.0.saturating_add(QUIET) {
            return Belief::Later;
        }
        let earliest = way.inserted.at(Monotonic(answer.began.0 - QUIET));
        let is_grpc = self.waiting.iter().any(|exchange| is_grpc(exchange));
        let hpack = parser.hpack();
        let mut left: Option<Vec<Candidate>> = None;
        for process in &answer.processes {
            if process.of.is_some_and(|of| of != direction) || (process.grpc_only && !is_grpc) {
                continue;
            }
            let mut mine = Vec::new();
            for table in &process.tables {
                for inserted in states(hpack, table, earliest) {
                    let at = At { hpack, table: &table.entries, inserted, requests };
                    let mut checked =
                        self.waiting.iter().filter(|exchange| hides(exchange, requests)).take(MAX_CHECKED);
                    if checked.all(|exchange| at.is_legal(exchange)) {
                        mine.push(Candidate::new(table, inserted));
                    }
                }
            }
            left = Some(match left {
                None => mine,
                Some(before) => both(before, mine),
            });
        }
        match agreed(left.unwrap_or_default()) {
            Found::Nothing if answer.incomplete => Belief::Again,
            Found::Nothing => {
                sink.ledger.tables_unfound += 1;
                Belief::Settled
            }
            Found::Several => {
                sink.ledger.tables_ambiguous += 1;
                Belief::Settled
            }
            Found::One(Candidate { entries, inserted, limit }) => {
                sink.ledger.tables_restored += 1;
                let at = At { hpack, table: &entries, inserted, requests };
                for exchange in &mut self.waiting {
                    sink.ledger.exchanges_recalled += u64::from(at.tell(exchange));
                }
                parser.restore(&entries, inserted, limit);
                self.restored.retain(|(of, _)| *of != direction);
                self.restored.push((direction, Candidate { entries, inserted, limit }));
                Belief::Settled
            }
        }
    }
}

/// The lines of an exchange that are not known, of one direction.
fn lines(exchange: &Exchange, requests: bool) -> impl Iterator<Item = &Hidden> {
    let lines = exchange.stream.iter().flat_map(|stream| stream.hidden.iter());
    lines.filter(move |line| (line.part == Part::Request) == requests)
}

/// Whether a table could tell some of them.
fn hides(exchange: &Exchange, requests: bool) -> bool {
    lines(exchange, requests).any(|line| line.entry.is_some())
}

fn is_grpc(exchange: &Exchange) -> bool {
    exchange.stream.as_ref().is_some_and(|stream| stream.grpc) || says_grpc(exchange)
}

/// How many entries may have been inserted since the join when a table was read, the most first.
fn states(hpack: &Decoder, table: &Table, earliest: u64) -> Vec<u64> {
    let mut states = Vec::new();
    for inserted in (earliest..=hpack.inserted()).rev().take(MAX_MARKS + 1) {
        match hpack.agrees(&table.entries, inserted) {
            Agreement::No => {}
            Agreement::Possible => states.push(inserted),
            Agreement::Known => {
                states.push(inserted);
                break;
            }
        }
    }
    states
}

/// A table that may be it, if so many entries had been inserted since the join when it was read.
#[derive(Clone, Debug)]
struct Candidate {
    entries: Vec<TableEntry>,
    inserted: u64,
    limit: usize,
}

impl Candidate {
    fn new(table: &Table, inserted: u64) -> Self {
        Self { entries: table.entries.to_vec(), inserted, limit: table.limit }
    }

    /// Where the entries begin that are older than the join.
    fn old(&self) -> usize {
        usize::try_from(self.inserted).unwrap_or(usize::MAX).min(self.entries.len())
    }

    /// What both say, if they do not contradict each other.
    fn and(&self, other: &Self) -> Option<Self> {
        let (mut both, rest) = (self.clone(), other.entries.get(other.old()..).unwrap_or_default());
        let old = both.old();
        // The oldest may have left one of them meanwhile.
        both.entries.truncate(old.saturating_add(rest.len()));
        both.limit = both.limit.min(other.limit);
        for (mine, other) in both.entries.iter_mut().skip(old).zip(rest) {
            match (&mine.value, &other.value) {
                (Some(one), Some(another)) if one != another => return None,
                (None, Some(_)) => mine.value.clone_from(&other.value),
                _ => {}
            }
            if (&mine.name, mine.size) != (&other.name, other.size) {
                return None;
            }
        }
        Some(both)
    }
}

/// Those of one process that another has too. If there are too many, all of them, which then hardly agree.
fn both(one: Vec<Candidate>, another: Vec<Candidate>) -> Vec<Candidate> {
    if one.len().max(another.len()) > MAX_CANDIDATES {
        return [one, another].concat();
    }
    one.iter().flat_map(|one| another.iter().filter_map(|other| one.and(other))).collect()
}

/// What is left.
enum Found {
    Nothing,
    One(Candidate),
    Several,
}

/// What all of these say.
fn agreed(candidates: Vec<Candidate>) -> Found {
    let mut all = candidates.into_iter();
    let Some(mut one) = all.next() else { return Found::Nothing };
    for other in all {
        match one.and(&other) {
            Some(both) => one = both,
            None => return Found::Several,
        }
    }
    Found::One(one)
}

/// What came of an answer for one direction.
enum Belief {
    /// It cannot be believed before more is seen.
    Later,
    /// Another search may tell.
    Again,
    /// It is restored, needs not be, or cannot be.
    Settled,
}

/// A direction, if this was its table when so many entries had been inserted since the join.
struct At<'a> {
    hpack: &'a Decoder,
    table: &'a [TableEntry],
    inserted: u64,
    requests: bool,
}

/// A line that is hidden no more.
struct Line<'a> {
    part: Part,
    field: Field,
    /// None if the table does not say it.
    value: Option<&'a [u8]>,
}

impl At<'_> {
    /// What hidden lines say; none for one whose entry is not in the table.
    fn named<'b>(&'b self, exchange: &'b Exchange) -> impl Iterator<Item = Option<Line<'b>>> {
        lines(exchange, self.requests).filter_map(move |line| {
            let at = self.hpack.place(line.entry?, self.inserted);
            let entry = at.and_then(|at| self.table.get(at));
            Some(entry.map(|TableEntry { name, value, size: _ }| Line {
                part: line.part,
                field: Field::of(name),
                value: line.number.as_deref().or(value.as_deref()),
            }))
        })
    }

    /// Whether an exchange's sections are legal if this is the table: the pseudo-fields that are still missing once each and no
    /// others (RFC 9113 §8.3); in a gRPC call its content type, and in its end one status (gRPC over HTTP/2, Requests and Responses).
    fn is_legal(&self, exchange: &Exchange) -> bool {
        let request = &exchange.request;
        let has = |name| request.fields.first(name).is_some();
        let (mut method, mut path) = (!request.method.is_empty(), !request.target.is_empty());
        let (mut scheme, mut authority) = (has(FieldName::Scheme), has(FieldName::Host));
        let mut status = exchange.response.as_ref().is_some_and(|response| response.status != 0);
        let response = exchange.response.as_ref().map(|response| &response.fields);
        let trailers = exchange.stream.as_ref().and_then(|stream| stream.trailers.as_ref());
        let told =
            [response, trailers].into_iter().flatten().find_map(|fields| fields.first(FieldName::GrpcStatus));
        let mut ended = told.is_some();
        let (mut whole, grpc) = (true, is_grpc(exchange));
        for line in self.named(exchange) {
            let Some(Line { part, field, value }) = line else {
                // What was inserted since may have driven it out.
                if self.inserted == 0 {
                    return false;
                }
                whole = false;
                continue;
            };
            let once = match (part, field) {
                (Part::Request, Field::Method) => &mut method,
                (Part::Request, Field::Path) if value.is_some_and(|path| path.starts_with(b"/")) => &mut path,
                (Part::Request, Field::Scheme) => &mut scheme,
                (Part::Request, Field::Authority) => &mut authority,
                (Part::Response, Field::Status) => &mut status,
                // A number under an old name was taken for the status by grammar alone.
                (Part::Response | Part::Trailers, Field::Kept(FieldName::GrpcStatus))
                    if told.is_some() && told == value =>
                {
                    continue;
                }
                (Part::Response | Part::Trailers, Field::Kept(FieldName::GrpcStatus)) => &mut ended,
                (Part::Request, Field::Kept(FieldName::GrpcStatus)) => return false,
                (Part::Request | Part::Response, Field::Kept(FieldName::ContentType)) => {
                    let said = value.is_none_or(|kind| kind.starts_with(b"application/grpc"));
                    if grpc && !said {
                        return false;
                    }
                    continue;
                }
                (_, Field::Kept(_) | Field::Other) => continue,
                _ => return false,
            };
            if std::mem::replace(once, true) {
                return false;
            }
        }
        whole &= lines(exchange, self.requests).all(|line| line.entry.is_some());
        let complete = match self.requests {
            true => method && path,
            false => ended || !grpc || trailers.is_none(),
        };
        complete || !whole
    }

    /// Says what the hidden lines of an exchange are, if it has some and is legal then; whether it did.
    fn tell(&self, exchange: &mut Exchange) -> bool {
        let tells = hides(exchange, self.requests) && self.is_legal(exchange);
        if tells {
            self.fill(exchange);
        }
        tells
    }

    /// Says what the hidden lines of this direction are.
    fn fill(&self, exchange: &mut Exchange) {
        let any = self.named(exchange).flatten().next().is_some();
        let told = |line: Line<'_>| Some((line.part, line.field, Box::from(line.value?)));
        let said: Vec<(Part, Field, Box<[u8]>)> = self.named(exchange).flatten().filter_map(told).collect();
        let Some(stream) = exchange.stream.as_mut().filter(|_| any) else { return };
        let known = |line: &Hidden| {
            let at = line.entry.and_then(|entry| self.hpack.place(entry, self.inserted));
            at.is_some_and(|at| at < self.table.len())
        };
        for (part, field, value) in said {
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
        stream.hidden.retain(|line| (line.part == Part::Request) != self.requests || !known(line));
        let hides =
            |requests: bool| stream.hidden.iter().any(|line| (line.part == Part::Request) == requests);
        match self.requests {
            true => stream.request_unknown = hides(true),
            false => stream.response_unknown = hides(false),
        }
    }
}
