//! What waits for one destination, and the books of it.
//!
//! Bounded in bytes (and in spans, if the user says so); what does not fit is dropped, the newest first,
//! and counted. [`Queue::offer`] is called from the tracing thread: it must never wait for I/O, await or
//! encode. Queue and ledger change under one short lock, so the books balance in every snapshot.
//! Bytes stay booked until the spans that they stand for are settled, so the bound covers what is on its
//! way as well.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use super::metrics::{Counter, Report};
use crate::stitch::span::{Span, Text, Value};
use crate::sum::sums;

/// What became of the spans that were offered to a destination: `offered` is the sum of all others but
/// `calls` and `failed_calls`.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Ledger {
    /// Spans that came in.
    pub offered: u64,
    /// Spans that the destination took.
    pub exported: u64,
    /// Dropped: the queue was full.
    pub queue_full: u64,
    /// Dropped by the destination, which said so in a partial success.
    pub rejected: u64,
    /// Dropped: the destination refused the batch in a way that no retry would change.
    pub refused: u64,
    /// Dropped: the destination did not take them before they were too old.
    pub gave_up: u64,
    /// Dropped: not delivered when the time for shutting down was over. A backend may have taken those of
    /// the last call without the agent learning of it.
    pub shutdown: u64,
    /// Dropped: too large for one message.
    pub encoding: u64,
    /// Spans that wait or are on their way.
    pub waiting: u64,
    /// Calls of the destination (requests, writes).
    pub calls: u64,
    /// Those of them that failed and were tried again, or not.
    pub failed_calls: u64,
}

sums!(Ledger {
    offered,
    exported,
    queue_full,
    rejected,
    refused,
    gave_up,
    shutdown,
    encoding,
    waiting,
    calls,
    failed_calls
});

impl Ledger {
    /// True if what came in is what went out, was dropped, or is still here.
    pub fn balances(&self) -> bool {
        self.offered == self.exported + self.dropped() + self.waiting
    }

    /// Spans dropped, for whatever cause.
    pub fn dropped(&self) -> u64 {
        self.queue_full + self.rejected + self.refused + self.gave_up + self.shutdown + self.encoding
    }
}

impl Report for Ledger {
    fn counters(&self, out: &mut Vec<Counter>) {
        let Self {
            offered,
            exported,
            queue_full,
            rejected,
            refused,
            gave_up,
            shutdown,
            encoding,
            waiting,
            calls,
            failed_calls,
        } = *self;
        out.push(Counter::new("spandrel_export_offered_spans_total", offered));
        out.push(Counter::new("spandrel_export_exported_spans_total", exported));
        for (cause, value) in [
            ("queue_full", queue_full),
            ("rejected", rejected),
            ("refused", refused),
            ("gave_up", gave_up),
            ("shutdown", shutdown),
            ("encoding", encoding),
        ] {
            out.push(Counter::by("spandrel_export_dropped_spans_total", cause, value));
        }
        out.push(Counter::new("spandrel_export_waiting_spans", waiting));
        out.push(Counter::new("spandrel_export_calls_total", calls));
        out.push(Counter::new("spandrel_export_failed_calls_total", failed_calls));
    }
}

/// The bounds of a queue.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// At most so many bytes, as [`estimate`] counts them.
    pub bytes: usize,
    /// At most so many spans.
    pub spans: Option<usize>,
    /// At most so many spans in a batch; the worker is woken when so many wait.
    pub batch: usize,
}

/// See the module.
#[derive(Debug)]
pub struct Queue {
    bounds: Bounds,
    state: Mutex<State>,
    /// Told when the first span comes, and when a batch is full.
    wake: Notify,
}

#[derive(Debug, Default)]
struct State {
    entries: VecDeque<Entry>,
    /// Bytes of what waits and of what is on its way.
    bytes: usize,
    ledger: Ledger,
}

#[derive(Debug)]
struct Entry {
    span: Arc<Span>,
    bytes: usize,
    offered: Instant,
}

/// Spans that were taken from the queue together. Each must be settled.
#[derive(Debug)]
pub struct Batch {
    /// The spans.
    pub spans: Vec<Arc<Span>>,
    /// What [`estimate`] said of each.
    pub bytes: Vec<usize>,
    /// When the youngest of them came.
    pub youngest: Instant,
}

/// What became of some spans of a batch: how many each.
#[derive(Clone, Copy, Debug, Default)]
pub struct Settled {
    /// See [`Ledger`].
    pub exported: u64,
    /// See [`Ledger`].
    pub rejected: u64,
    /// See [`Ledger`].
    pub refused: u64,
    /// See [`Ledger`].
    pub gave_up: u64,
    /// See [`Ledger`].
    pub shutdown: u64,
    /// See [`Ledger`].
    pub encoding: u64,
}

impl Queue {
    /// An empty queue.
    pub fn new(bounds: Bounds) -> Self {
        Self { bounds, state: Mutex::default(), wake: Notify::new() }
    }

    /// Takes a span, or drops it if there is no room. Does not block.
    pub fn offer(&self, span: Arc<Span>) {
        let bytes = estimate(&span);
        let offered = Instant::now();
        let mut state = self.lock();
        state.ledger.offered += 1;
        let room = state.bytes.saturating_add(bytes) <= self.bounds.bytes
            && self.bounds.spans.is_none_or(|spans| state.ledger.waiting < spans as u64);
        if !room {
            state.ledger.queue_full += 1;
            drop(state); // and only then the span, outside the lock
            return;
        }
        state.ledger.waiting += 1;
        state.bytes += bytes;
        state.entries.push_back(Entry { span, bytes, offered });
        let length = state.entries.len();
        drop(state);
        if length == 1 || length == self.bounds.batch {
            self.wake.notify_one();
        }
    }

    /// How many spans wait to be taken.
    pub fn length(&self) -> usize {
        self.lock().entries.len()
    }

    /// True if a batch is full.
    pub fn has_batch(&self) -> bool {
        self.length() >= self.bounds.batch
    }

    /// Returns when something may have changed: the first span came, or a batch is full.
    pub async fn changed(&self) {
        self.wake.notified().await;
    }

    /// Takes the oldest spans, at most a batch of them; none if nothing waits.
    pub fn take(&self) -> Option<Batch> {
        let mut state = self.lock();
        let length = state.entries.len().min(self.bounds.batch);
        let youngest = state.entries.get(length.checked_sub(1)?)?.offered;
        let mut batch =
            Batch { spans: Vec::with_capacity(length), bytes: Vec::with_capacity(length), youngest };
        for entry in state.entries.drain(..length) {
            batch.spans.push(entry.span);
            batch.bytes.push(entry.bytes);
        }
        Some(batch)
    }

    /// Books what became of spans that were taken.
    pub fn settle(&self, bytes: usize, settled: Settled) {
        let Settled { exported, rejected, refused, gave_up, shutdown, encoding } = settled;
        let mut state = self.lock();
        state.bytes = state.bytes.saturating_sub(bytes);
        let ledger = &mut state.ledger;
        ledger.exported += exported;
        ledger.rejected += rejected;
        ledger.refused += refused;
        ledger.gave_up += gave_up;
        ledger.shutdown += shutdown;
        ledger.encoding += encoding;
        ledger.waiting -= exported + rejected + refused + gave_up + shutdown + encoding;
    }

    /// Books a call of the destination.
    pub fn called(&self, failed: Failed) {
        let mut state = self.lock();
        state.ledger.calls += 1;
        state.ledger.failed_calls += u64::from(failed == Failed::Yes);
    }

    /// Gives up what has waited longer than `age`, and says how many spans those were.
    pub fn expire(&self, age: Duration) -> u64 {
        let now = Instant::now();
        let mut expired = Vec::new();
        let mut state = self.lock();
        while state.entries.front().is_some_and(|entry| now.duration_since(entry.offered) > age) {
            expired.extend(state.entries.pop_front());
        }
        state.bytes = state.bytes.saturating_sub(expired.iter().map(|entry| entry.bytes).sum());
        state.ledger.gave_up += expired.len() as u64;
        state.ledger.waiting -= expired.len() as u64;
        drop(state);
        expired.len() as u64
    }

    /// Drops whatever waits, at the end.
    pub fn abandon(&self) {
        let mut state = self.lock();
        let left = std::mem::take(&mut state.entries);
        state.bytes = state.bytes.saturating_sub(left.iter().map(|entry| entry.bytes).sum());
        state.ledger.shutdown += left.len() as u64;
        state.ledger.waiting -= left.len() as u64;
        drop(state); // and only then the spans, outside the lock
    }

    /// Drops whatever waits *and* whatever is on its way, when nobody is left to settle it.
    pub fn close(&self) -> Ledger {
        self.abandon();
        let mut state = self.lock();
        let rest = std::mem::take(&mut state.ledger.waiting);
        state.ledger.shutdown += rest;
        state.bytes = 0;
        state.ledger
    }

    /// The books as they are.
    pub fn ledger(&self) -> Ledger {
        self.lock().ledger
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing under the lock can panic half-way, so a poisoned lock holds books that still balance.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether a call failed.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Failed {
    /// It did.
    Yes,
    /// It did not.
    No,
}

/// What a span costs in memory: its own size, its texts, and its lists by capacity. Its resource is not
/// counted, because the spans of a program share one. A typical HTTP span is about 1 KiB.
pub fn estimate(span: &Span) -> usize {
    let beside = |text: &Text| if text.is_heap_allocated() { text.capacity() } else { 0 };
    let pairs = |attributes: &Vec<(&'static str, Value)>| {
        let texts: usize = attributes
            .iter()
            .map(|(_, value)| match value {
                Value::Text(text) => beside(text),
                Value::Integer(_) | Value::Boolean(_) => 0,
            })
            .sum();
        attributes.capacity() * size_of::<(&'static str, Value)>() + texts
    };
    size_of::<Span>()
        + ARC_COUNTERS
        + size_of::<Entry>()
        + beside(&span.name)
        + span.trace_state.as_ref().map_or(0, String::capacity)
        + span.error.as_ref().map_or(0, beside)
        + pairs(&span.attributes)
        + span.events.capacity() * size_of::<crate::stitch::span::SpanEvent>()
        + span.events.iter().map(|event| pairs(&event.attributes)).sum::<usize>()
}

/// The two counters in front of a value behind an `Arc`.
const ARC_COUNTERS: usize = 2 * size_of::<usize>();

#[cfg(test)]
mod tests {
    use super::*;
    use crate::export::testing::Sample;
    use crate::sum::Sum as _;

    fn queue(bytes: usize, spans: Option<usize>, batch: usize) -> Queue {
        Queue::new(Bounds { bytes, spans, batch })
    }

    fn one(number: u64) -> Arc<Span> {
        Arc::new(Sample::server(number))
    }

    #[test]
    fn what_does_not_fit_is_dropped_newest_first_and_counted() {
        let size = estimate(&one(1));
        let queue = queue(3 * size, None, 2);
        (1..=5).for_each(|n| queue.offer(one(n)));
        let ledger = queue.ledger();
        assert_eq!((ledger.offered, ledger.waiting, ledger.queue_full), (5, 3, 2));
        assert!(ledger.balances());
        let batch = queue.take().unwrap();
        assert_eq!(batch.spans.iter().map(|s| s.id.0[7]).collect::<Vec<_>>(), [1, 2], "the oldest go first");
    }

    #[test]
    fn spans_on_their_way_still_count_against_the_bound() {
        let size = estimate(&one(1));
        let queue = queue(2 * size, None, 8);
        (1..=2).for_each(|n| queue.offer(one(n)));
        let batch = queue.take().unwrap();
        queue.offer(one(3));
        assert_eq!(queue.ledger().queue_full, 1);
        queue.settle(batch.bytes.iter().sum(), Settled { exported: 2, ..Settled::default() });
        queue.offer(one(4));
        let ledger = queue.ledger();
        assert_eq!((ledger.waiting, ledger.exported, ledger.queue_full), (1, 2, 1));
        assert!(ledger.balances());
    }

    #[test]
    fn a_bound_in_spans_holds_besides_the_one_in_bytes() {
        let queue = queue(usize::MAX, Some(2), 8);
        (1..=3).for_each(|n| queue.offer(one(n)));
        assert_eq!((queue.ledger().waiting, queue.ledger().queue_full), (2, 1));
    }

    #[test]
    fn what_is_too_old_is_given_up_and_what_is_left_at_the_end_is_counted() {
        let queue = queue(usize::MAX, None, 8);
        (1..=3).for_each(|n| queue.offer(one(n)));
        std::thread::sleep(Duration::from_millis(3));
        assert_eq!(queue.expire(Duration::from_millis(1)), 3);
        (4..=6).for_each(|n| queue.offer(one(n)));
        assert_eq!(queue.expire(Duration::from_secs(60)), 0);
        queue.abandon();
        let ledger = queue.ledger();
        assert_eq!((ledger.gave_up, ledger.shutdown, ledger.waiting), (3, 3, 0));
        assert!(ledger.balances());
        assert_eq!(queue.lock().bytes, 0, "bytes are given back");
    }

    #[test]
    fn closing_counts_what_was_on_its_way() {
        let queue = queue(usize::MAX, None, 2);
        (1..=5).for_each(|n| queue.offer(one(n)));
        let _on_its_way = queue.take();
        let ledger = queue.close();
        assert_eq!((ledger.shutdown, ledger.waiting), (5, 0));
        assert!(ledger.balances());
    }

    #[test]
    fn many_threads_offering_lose_nothing_uncounted() {
        let queue = Arc::new(queue(200 * estimate(&one(1)), None, 64));
        let threads: Vec<_> = (0..4)
            .map(|_| {
                let queue = Arc::clone(&queue);
                std::thread::spawn(move || (0..1_000).for_each(|n| queue.offer(one(n))))
            })
            .collect();
        let mut taken = 0;
        while threads.iter().any(|thread| !thread.is_finished()) {
            assert!(queue.ledger().balances());
            if let Some(batch) = queue.take() {
                taken += batch.spans.len() as u64;
                let settled = Settled { exported: batch.spans.len() as u64, ..Settled::default() };
                queue.settle(batch.bytes.iter().sum(), settled);
            }
        }
        let ledger = queue.close();
        assert_eq!((ledger.offered, ledger.exported), (4_000, taken));
        assert!(ledger.balances());
    }

    #[test]
    fn an_estimate_grows_with_what_a_span_holds() {
        let small = estimate(&one(1));
        let mut span = Sample::server(1);
        span.attributes.push(("url.query", Value::Text("x".repeat(2_000).into())));
        assert!(estimate(&span) >= small + 2_000);
    }

    #[test]
    fn every_field_of_the_ledger_is_reported() {
        let ledger = Ledger {
            offered: 9,
            exported: 1,
            queue_full: 1,
            rejected: 1,
            refused: 1,
            gave_up: 1,
            shutdown: 1,
            encoding: 1,
            waiting: 2,
            calls: 3,
            failed_calls: 1,
        };
        assert!(ledger.balances());
        let mut sum = ledger;
        sum.add(&ledger);
        assert!(sum.balances());
        let mut counters = Vec::new();
        sum.counters(&mut counters);
        assert_eq!(counters.iter().map(|c| c.value).sum::<u64>(), 2 * (9 + 7 + 2 + 3 + 1));
    }
}
