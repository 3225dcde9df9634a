//! Traces as trees on the terminal.
//!
//! In: which spans have been bound to which trace ([`Terminal::bound`]) and will not come after all
//! ([`Terminal::abandoned`]), and spans that have ended ([`Terminal::ended`]). Out: text. A trace is printed when no exchange of it is open and nothing came for
//! a second; then also its root has ended, or is somewhere else. What belongs to a printed trace and comes
//! later is a line of its own, marked `late`.
//! ```text
//!   bound, ended        quiet for 1 s, or held for 60 s           forgotten after 60 s
//!     ──▶ held ─────────────────────────────────────▶ printed ──────────────────────▶
//!          │ over a bound                                 │ a span comes
//!          └──────────▶ a late line ◀─────────────────────┘
//! ```
//! It must never hold more than its [`Limits`], read a clock (times are arguments), or lose a span without
//! counting it: [`Ledger`]. It writes as fast as its writer takes text: who calls it must be able to wait.

mod style;
mod tree;

#[doc(hidden)]
pub mod fuzz;
#[cfg(test)]
mod tests;

use std::collections::{HashMap, HashSet, VecDeque};
use std::io::{self, Write};
use std::sync::Arc;

pub use self::style::{Color, Style, stdout_width};
use crate::identity::Monotonic;
use crate::stitch::span::{Span, SpanEvent, SpanId, TraceId, Value};

/// How long a trace must be quiet before it is printed, in nanoseconds.
pub const QUIET: u64 = 1_000_000_000;

/// How long a trace is held at most, and for how long it is remembered after it was printed, in
/// nanoseconds. As long as `stitch` may hold a span back.
pub const AGE: u64 = 60_000_000_000;

/// What may be held at once. Over it, a span is printed at once as a late line, and an open exchange is
/// not waited for; both are counted.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Limits {
    /// Traces held: each is looked at in each [`Terminal::poll`].
    pub traces: usize,
    /// Open exchanges and ended spans held.
    pub spans: usize,
    /// Bytes of ended spans held, as estimated.
    pub bytes: usize,
    /// Names of spans remembered after they were printed.
    pub names: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { traces: 4_096, spans: 16_384, bytes: 8 << 20, names: 16_384 }
    }
}

/// What became of each ended span: `ended = in_tree + late + over_bound + unwritten + held`.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Ledger {
    /// Spans that came in.
    pub ended: u64,
    /// Spans printed in a tree.
    pub in_tree: u64,
    /// Spans printed as a line of their own because their trace had been printed.
    pub late: u64,
    /// Spans printed as a line of their own because a bound of [`Limits`] was reached.
    pub over_bound: u64,
    /// Spans that could not be written: the output was closed, or full.
    pub unwritten: u64,
    /// Spans held now.
    pub held: u64,
    /// Trees printed. Not part of the sum, like those that follow.
    pub trees: u64,
    /// Trees printed before they were complete because they were older than [`AGE`].
    pub trees_by_age: u64,
    /// Open exchanges that are not waited for because a bound of [`Limits`] was reached.
    pub open_over_bound: u64,
    /// Open exchanges whose end did not come within [`AGE`].
    pub open_by_age: u64,
    /// Printed traces forgotten before their [`AGE`] because [`Limits::names`] was reached.
    pub forgotten: u64,
}

/// Traces on their way to the terminal.
#[derive(Debug)]
pub struct Terminal {
    style: Style,
    limits: Limits,
    traces: HashMap<TraceId, Trace>,
    /// Open exchanges and ended spans in all traces; bytes of the ended ones.
    spans: usize,
    bytes: usize,
    printed: HashMap<TraceId, Printed>,
    /// In the order in which they were printed.
    order: VecDeque<(Monotonic, TraceId)>,
    names: usize,
    ledger: Ledger,
}

/// A trace that is held.
#[derive(Debug)]
struct Trace {
    first: Monotonic,
    last: Monotonic,
    open: HashSet<SpanId>,
    ended: Vec<Arc<Span>>,
}

/// What is remembered of a trace that was printed.
#[derive(Debug, Default)]
struct Printed {
    names: HashMap<SpanId, Box<str>>,
}

impl Terminal {
    /// Nothing held.
    pub fn new(style: Style, limits: Limits) -> Self {
        Self {
            style,
            limits,
            traces: HashMap::new(),
            spans: 0,
            bytes: 0,
            printed: HashMap::new(),
            order: VecDeque::new(),
            names: 0,
            ledger: Ledger::default(),
        }
    }

    /// The output is so wide now; see [`stdout_width`].
    pub fn set_width(&mut self, width: Option<usize>) {
        self.style.width = width;
    }

    /// The books.
    pub fn ledger(&self) -> Ledger {
        self.ledger
    }

    /// An exchange has been bound to a trace as this span, which will end.
    pub fn bound(&mut self, trace: TraceId, span: SpanId, now: Monotonic) {
        if self.printed.contains_key(&trace) {
            return;
        }
        if self.is_full(trace) {
            self.ledger.open_over_bound += 1;
            return;
        }
        let held = self.traces.entry(trace).or_insert_with(|| Trace::new(now));
        held.last = held.last.max(now);
        self.spans += usize::from(held.open.insert(span));
    }

    /// A span that was bound will not come: nothing waits for it any more.
    pub fn abandoned(&mut self, trace: TraceId, span: SpanId, now: Monotonic) {
        let Some(held) = self.traces.get_mut(&trace) else { return };
        if held.open.remove(&span) {
            held.last = held.last.max(now);
            self.spans -= 1;
        }
    }

    /// A span has ended.
    ///
    /// # Errors
    /// Those of the writer; the span is counted as unwritten then.
    pub fn ended(&mut self, span: Arc<Span>, now: Monotonic, out: &mut impl Write) -> io::Result<()> {
        self.ledger.ended += 1;
        if let Some(printed) = self.printed.get_mut(&span.trace) {
            let parent = span.parent.and_then(|parent| printed.names.get(&parent.span));
            let line = tree::late(&span, parent.map(|name| &**name), self.style);
            if self.names < self.limits.names && printed.names.insert(span.id, tree::name(&span)).is_none() {
                self.names += 1;
            }
            return self.write(&line, 1, out, |ledger| &mut ledger.late);
        }
        let was_open = self.traces.get_mut(&span.trace).is_some_and(|held| held.open.remove(&span.id));
        self.spans -= usize::from(was_open);
        let size = size(&span);
        if self.is_full(span.trace) || self.bytes + size > self.limits.bytes {
            let held = self.traces.get_mut(&span.trace);
            let parent =
                held.as_ref().and_then(|held| held.parent_of(&span)).map(|parent| tree::name(parent));
            if let Some(held) = held {
                held.last = held.last.max(now);
            }
            let line = tree::late(&span, parent.as_deref(), self.style);
            return self.write(&line, 1, out, |ledger| &mut ledger.over_bound);
        }
        let held = self.traces.entry(span.trace).or_insert_with(|| Trace::new(now));
        held.last = held.last.max(now);
        held.ended.push(span);
        self.spans += 1;
        self.bytes += size;
        self.ledger.held += 1;
        Ok(())
    }

    /// Prints what is finished by now. To be called several times a second.
    ///
    /// # Errors
    /// Those of the writer; the spans that it did not take are counted as unwritten.
    pub fn poll(&mut self, now: Monotonic, out: &mut impl Write) -> io::Result<()> {
        self.forget(now);
        let due = |held: &Trace| {
            (held.open.is_empty() && now.since(held.last) >= QUIET) || now.since(held.first) >= AGE
        };
        let due: Vec<TraceId> =
            self.traces.iter().filter(|(_, held)| due(held)).map(|(&trace, _)| trace).collect();
        self.print(due, now, out)
    }

    /// Prints all that is held, finished or not: the agent ends.
    ///
    /// # Errors
    /// Those of the writer; the spans that it did not take are counted as unwritten.
    pub fn finish(&mut self, now: Monotonic, out: &mut impl Write) -> io::Result<()> {
        let all = self.traces.keys().copied().collect();
        self.print(all, now, out)
    }

    /// Prints these traces, the one that began first first.
    fn print(&mut self, due: Vec<TraceId>, now: Monotonic, out: &mut impl Write) -> io::Result<()> {
        let mut due: Vec<(TraceId, Trace)> = due
            .into_iter()
            .filter_map(|trace| self.traces.remove(&trace).map(|held| (trace, held)))
            .collect();
        due.sort_by_key(|(trace, held)| (held.ended.iter().map(|span| span.start).min(), *trace));
        let mut result = Ok(());
        for (trace, held) in due {
            let Trace { first, last, open, ended } = held;
            self.spans -= open.len() + ended.len();
            self.bytes -= ended.iter().map(|span| size(span)).sum::<usize>();
            self.ledger.held -= ended.len() as u64;
            let complete = open.is_empty() && now.since(last) >= QUIET;
            if now.since(first) >= AGE && !complete {
                self.ledger.open_by_age += open.len() as u64;
                self.ledger.trees_by_age += u64::from(!ended.is_empty());
            }
            if ended.is_empty() {
                continue;
            }
            self.ledger.trees += 1;
            let text = tree::draw(&ended, open.len(), self.style);
            let written = self.write(&text, ended.len(), out, |ledger| &mut ledger.in_tree);
            result = result.and(written);
            self.remember(trace, &ended, now);
        }
        result
    }

    /// No more may be held for this trace.
    fn is_full(&self, trace: TraceId) -> bool {
        self.spans >= self.limits.spans
            || (self.traces.len() >= self.limits.traces && !self.traces.contains_key(&trace))
    }

    /// Writes text, and counts its spans by whether that went well.
    fn write(
        &mut self,
        text: &str,
        spans: usize,
        out: &mut impl Write,
        written: fn(&mut Ledger) -> &mut u64,
    ) -> io::Result<()> {
        let result = out.write_all(text.as_bytes()).and_then(|()| out.flush());
        let count = match result {
            Ok(()) => written(&mut self.ledger),
            Err(_) => &mut self.ledger.unwritten,
        };
        *count += spans as u64;
        result
    }

    /// Remembers the names of spans that were printed, for those that come late.
    fn remember(&mut self, trace: TraceId, spans: &[Arc<Span>], now: Monotonic) {
        let names: HashMap<SpanId, Box<str>> =
            spans.iter().take(self.limits.names).map(|span| (span.id, tree::name(span))).collect();
        while self.names + names.len() > self.limits.names || self.order.len() >= self.limits.traces {
            let Some((_, oldest)) = self.order.pop_front() else { break };
            self.ledger.forgotten += 1;
            self.drop_names(oldest);
        }
        self.names += names.len();
        self.order.push_back((now, trace));
        self.printed.insert(trace, Printed { names });
    }

    /// Forgets the traces that were printed long ago.
    fn forget(&mut self, now: Monotonic) {
        while let Some(&(at, trace)) = self.order.front() {
            if now.since(at) < AGE {
                break;
            }
            self.order.pop_front();
            self.drop_names(trace);
        }
    }

    fn drop_names(&mut self, trace: TraceId) {
        if let Some(printed) = self.printed.remove(&trace) {
            self.names -= printed.names.len();
        }
    }
}

impl Trace {
    fn new(now: Monotonic) -> Self {
        Self { first: now, last: now, open: HashSet::new(), ended: Vec::new() }
    }

    fn parent_of(&self, span: &Span) -> Option<&Arc<Span>> {
        let parent = span.parent?;
        self.ended.iter().rev().take(LOOK_BACK).find(|other| other.id == parent.span)
    }
}

/// Among how many spans of a held trace the parent of one that is over a bound is looked for: this
/// happens under overload, where it must cost little.
const LOOK_BACK: usize = 256;

/// About how much memory a span takes.
fn size(span: &Span) -> usize {
    let attributes = |list: &[(&'static str, Value)]| {
        let texts = list.iter().map(|(_, value)| match value {
            Value::Text(text) => text.len(),
            Value::Integer(_) | Value::Boolean(_) => 0,
        });
        texts.sum::<usize>() + size_of_val(list)
    };
    let event = |event: &SpanEvent| size_of::<SpanEvent>() + attributes(&event.attributes);
    size_of::<Span>()
        + span.name.len()
        + span.trace_state.as_ref().map_or(0, String::len)
        + span.error.as_ref().map_or(0, |error| error.len())
        + attributes(&span.attributes)
        + span.events.iter().map(event).sum::<usize>()
}
