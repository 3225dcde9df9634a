//! What was read and is not proven: kept until it is, or withdrawn.
//!
//! While it is not proven that frames really begin where they are taken to begin, events and counts go here instead of
//! to whoever comes next. It must never hold more than [`MAX_EVENTS`] events, and never leave an exchange that was
//! told to begin without an end.

use super::calls::Calls;
use crate::exchange::pending::Sink;
use crate::exchange::{Event, Exchange, ExchangeId, Ledger};

/// How many events may wait. The proof comes after 16 KiB of each direction: some 250 calls of the smallest kind, with three
/// events each. More: all are withdrawn (`requests_withdrawn`).
const MAX_EVENTS: usize = 2048;

/// What waits for a proof.
#[derive(Debug, Default)]
pub(super) struct Provisional {
    events: Vec<Event>,
    /// Where the last piece's events begin.
    latest: usize,
    ledger: Ledger,
    /// Exchanges that were told to begin and not to end.
    told: usize,
}

impl Provisional {
    /// Where events and counts go while nothing is proven.
    pub fn sink(&mut self) -> Sink<'_> {
        self.latest = self.events.len();
        Sink { events: &mut self.events, ledger: &mut self.ledger }
    }

    /// The events of the last piece.
    pub fn latest(&mut self) -> Option<&mut [Event]> {
        self.events.get_mut(self.latest..)
    }

    pub fn is_empty(&self) -> bool {
        self.events.is_empty()
    }

    pub fn is_full(&self) -> bool {
        self.events.len() > MAX_EVENTS
    }

    /// Exchanges that were told to begin and not to end.
    pub fn told(&self) -> usize {
        self.told
    }

    /// These events were handed over.
    pub fn count(&mut self, events: &[Event]) {
        for event in events {
            match event {
                Event::Opened { .. } => self.told += 1,
                Event::Responding { .. } => {}
                Event::Closed(_) => self.told = self.told.saturating_sub(1),
            }
        }
    }

    /// It is proven: hands over what waited.
    pub fn release(&mut self, sink: &mut Sink<'_>) {
        let events = std::mem::take(&mut self.events);
        self.count(&events);
        sink.ledger.add(&std::mem::take(&mut self.ledger));
        sink.events.extend(events);
    }

    /// It was wrong, or will not be proven: forgets what waited, and ends what was told before.
    pub fn withdraw(&mut self, calls: &mut Calls, sink: &mut Sink<'_>) {
        if self.events.is_empty() && self.ledger == Ledger::default() {
            return;
        }
        let ledger = std::mem::take(&mut self.ledger);
        sink.ledger.requests += ledger.requests;
        sink.ledger.requests_withdrawn += ledger.opened;
        sink.ledger.requests_refused += ledger.requests_refused;
        let events = std::mem::take(&mut self.events);
        let opened: Vec<ExchangeId> = events.iter().filter_map(opened).collect();
        let told = |id: &ExchangeId| !opened.contains(id);
        let mut responded: Vec<ExchangeId> = Vec::new();
        for event in events {
            match event {
                Event::Opened { .. } => {}
                Event::Responding { id, .. } if told(&id) => responded.push(id),
                Event::Closed(exchange) if told(&exchange.id) => {
                    let had_response = exchange.response.is_some() && !responded.contains(&exchange.id);
                    self.end(exchange, had_response, sink);
                }
                Event::Responding { .. } | Event::Closed(_) => {}
            }
        }
        for (exchange, moved) in calls.withdraw(&opened, &responded) {
            let had_response = exchange.response.is_some();
            let mut exchange = exchange;
            exchange.ended = moved.max(exchange.began.time);
            self.end(exchange, had_response, sink);
        }
    }

    /// Ends an exchange that was told to begin, without what was only provisional.
    fn end(&mut self, mut exchange: Box<Exchange>, had_response: bool, sink: &mut Sink<'_>) {
        if !had_response {
            (exchange.response, exchange.responded) = (None, None);
        }
        (exchange.failure, exchange.incomplete) = (None, true);
        if let Some(stream) = &mut exchange.stream {
            stream.trailers = None;
            stream.reset = None;
            stream.response_unknown = true;
        }
        sink.ledger.close(&exchange);
        self.told = self.told.saturating_sub(1);
        sink.events.push(Event::Closed(exchange));
    }
}

fn opened(event: &Event) -> Option<ExchangeId> {
    match event {
        Event::Opened { id, .. } => Some(*id),
        Event::Responding { .. } | Event::Closed(_) => None,
    }
}
