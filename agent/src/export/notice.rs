//! What a destination's log says of it: one sentence when it stops taking spans, one when it takes them
//! again, and at most one a minute of each kind of loss.
//!
//! Pure: the time is an argument, and a sentence is what it returns. A log line is never the only trace of
//! a loss: the ledger has counted it before.

use std::time::{Duration, Instant};

use super::answer::Reached;
use super::queue::Ledger;

/// See the module.
#[derive(Debug)]
pub struct Notices {
    /// The endpoint or path, as it may be shown.
    destination: String,
    /// It takes nothing now.
    away: Option<Away>,
    /// When that was said last.
    said_away: Option<Instant>,
    refused: Limited,
    partial: Limited,
    lost: Limited,
    /// What was dropped when the last sentence about losses was said.
    said_full: u64,
    said_gave_up: u64,
}

impl Notices {
    /// Nothing happened yet.
    pub fn new(destination: String) -> Self {
        Self {
            destination,
            away: None,
            said_away: None,
            refused: Limited::default(),
            partial: Limited::default(),
            lost: Limited::default(),
            said_full: 0,
            said_gave_up: 0,
        }
    }

    /// An attempt failed and will be repeated. A destination that comes and goes is not told of each time:
    /// one outage a minute is, and one that lasts is in any case.
    pub fn retrying(
        &mut self,
        now: Instant,
        reached: Reached,
        reason: &str,
        ledger: &Ledger,
    ) -> Option<String> {
        let away = self.away.get_or_insert(Away { since: now, dropped: ledger.dropped(), said: Said::No });
        if away.said == Said::Yes || within_quiet(self.said_away, now) {
            return None;
        }
        away.said = Said::Yes;
        self.said_away = Some(now);
        let destination = &self.destination;
        let what = match reached {
            Reached::No => format!("cannot reach {destination}: {reason}"),
            Reached::Yes => format!("{destination} does not take spans now: {reason}"),
        };
        Some(format!("{what}; retrying, {} waiting", spans(ledger.waiting)))
    }

    /// The destination answered.
    pub fn taken(&mut self, now: Instant, ledger: &Ledger) -> Option<String> {
        let Away { since, dropped, said: Said::Yes } = self.away.take()? else { return None };
        let seconds = now.saturating_duration_since(since).as_secs_f64();
        Some(format!(
            "{} takes spans again after {seconds:.1} s; {} waiting, {} lost meanwhile",
            self.destination,
            spans(ledger.waiting),
            spans(ledger.dropped().saturating_sub(dropped)),
        ))
    }

    /// The destination refused a batch for good.
    pub fn refused(&mut self, now: Instant, reason: &str, lost: u64) -> Option<String> {
        let (count, times) = self.refused.add(now, lost)?;
        Some(format!("{} refused {}{}: {reason}", self.destination, spans(count), in_batches(times)))
    }

    /// The destination took a batch only in part, or with a warning.
    pub fn partial(&mut self, now: Instant, rejected: u64, message: &str) -> Option<String> {
        if rejected == 0 && message.is_empty() {
            return None;
        }
        let (count, times) = self.partial.add(now, rejected)?;
        let message = if message.is_empty() { "no reason given" } else { message };
        Some(match count {
            0 => format!("{} warns: {message}", self.destination),
            _ => format!("{} rejected {}{}: {message}", self.destination, spans(count), in_batches(times)),
        })
    }

    /// Looks whether spans were lost for want of room or of time since it last said so.
    pub fn losses(&mut self, now: Instant, ledger: &Ledger) -> Option<String> {
        let full = ledger.queue_full.saturating_sub(self.said_full);
        let gave_up = ledger.gave_up.saturating_sub(self.said_gave_up);
        if full + gave_up == 0 {
            return None;
        }
        self.lost.add(now, 0)?;
        (self.said_full, self.said_gave_up) = (ledger.queue_full, ledger.gave_up);
        let mut what = Vec::new();
        if full > 0 {
            what.push(format!("{} dropped because the queue is full", spans(full)));
        }
        if gave_up > 0 {
            what.push(format!("{} given up as too old", spans(gave_up)));
        }
        Some(format!("{}: {}", self.destination, what.join(", ")))
    }
}

/// A time in which the destination takes nothing.
#[derive(Debug)]
struct Away {
    since: Instant,
    /// What had been dropped by then.
    dropped: u64,
    said: Said,
}

/// Whether the log knows.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Said {
    Yes,
    No,
}

/// Says something at most once in [`QUIET`], and adds up what it kept to itself.
#[derive(Debug, Default)]
struct Limited {
    last: Option<Instant>,
    count: u64,
    times: u64,
}

impl Limited {
    fn add(&mut self, now: Instant, count: u64) -> Option<(u64, u64)> {
        self.count += count;
        self.times += 1;
        if within_quiet(self.last, now) {
            return None;
        }
        self.last = Some(now);
        Some((std::mem::take(&mut self.count), std::mem::take(&mut self.times)))
    }
}

fn within_quiet(last: Option<Instant>, now: Instant) -> bool {
    last.is_some_and(|last| now.saturating_duration_since(last) < QUIET)
}

fn spans(count: u64) -> String {
    if count == 1 { "1 span".to_owned() } else { format!("{count} spans") }
}

fn in_batches(times: u64) -> String {
    if times == 1 { String::new() } else { format!(" in {times} batches") }
}

/// How long a kind of sentence is not repeated.
const QUIET: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_outage_is_two_sentences_however_long_it_is() {
        let mut notices = Notices::new("http://c:4317".into());
        let start = Instant::now();
        let mut ledger = Ledger { waiting: 7, ..Ledger::default() };
        assert_eq!(
            notices.retrying(start, Reached::No, "connection refused", &ledger).unwrap(),
            "cannot reach http://c:4317: connection refused; retrying, 7 spans waiting"
        );
        assert_eq!(notices.retrying(start, Reached::Yes, "503", &ledger), None);
        (ledger.queue_full, ledger.waiting) = (4, 1);
        assert_eq!(
            notices.taken(start + Duration::from_secs(61), &ledger).unwrap(),
            "http://c:4317 takes spans again after 61.0 s; 1 span waiting, 4 spans lost meanwhile"
        );
        assert_eq!(notices.taken(start, &ledger), None);
    }

    #[test]
    fn a_destination_that_comes_and_goes_is_told_of_once_a_minute_and_one_that_stays_away_at_last() {
        let mut notices = Notices::new("c".into());
        let start = Instant::now();
        let ledger = Ledger::default();
        let mut said = 0;
        for second in 0..110 {
            let now = start + Duration::from_secs(second);
            said += usize::from(notices.retrying(now, Reached::Yes, "503", &ledger).is_some());
            said += usize::from(notices.taken(now, &ledger).is_some());
        }
        assert_eq!(said, 4);
        let late = start + Duration::from_secs(111);
        assert_eq!(notices.retrying(late, Reached::No, "refused", &ledger), None);
        assert!(notices.retrying(late + QUIET, Reached::No, "refused", &ledger).is_some());
        assert!(notices.taken(late + QUIET, &ledger).unwrap().contains("after 60.0 s"));
    }

    #[test]
    fn a_kind_of_loss_is_said_once_a_minute_with_what_was_kept_back() {
        let mut notices = Notices::new("c".into());
        let start = Instant::now();
        assert_eq!(notices.refused(start, "400", 5).unwrap(), "c refused 5 spans: 400");
        assert_eq!(notices.refused(start, "400", 5), None);
        assert_eq!(notices.refused(start + QUIET, "400", 1).unwrap(), "c refused 6 spans in 2 batches: 400");
        assert_eq!(notices.partial(start, 0, ""), None);
        assert_eq!(notices.partial(start, 0, "slow down").unwrap(), "c warns: slow down");
        let ledger = Ledger { queue_full: 3, gave_up: 1, ..Ledger::default() };
        assert_eq!(
            notices.losses(start, &ledger).unwrap(),
            "c: 3 spans dropped because the queue is full, 1 span given up as too old"
        );
        assert_eq!(notices.losses(start + QUIET, &ledger), None, "nothing new was lost");
    }
}
