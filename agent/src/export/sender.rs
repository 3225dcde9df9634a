//! Sends the agent's own metrics: every interval, and once at the end.
//!
//! One attempt each time, never a retry: values are cumulative, so the next message says everything again.
//! A backend that does not take metrics at all is told so once in the log, and then left alone.
//! It must never touch a span or hold up one.

use std::future::Future;
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use prost::Message as _;
use tokio::time::{Instant, MissedTickBehavior, interval_at};

use super::answer::Answer;
use super::encode::Encoding;
use super::metrics::{self, Counter, Report as _};
use super::queue::Queue;
use super::worker::{Stop, Transport, over};
use super::{Say, sum};
use crate::discover::Resource;

/// See the module.
pub struct MetricsSender {
    /// Where metrics go.
    pub transport: Transport,
    /// That, as the log shows it.
    pub endpoint: String,
    /// How often.
    pub interval: Duration,
    /// The agent as a service.
    pub agent: Resource,
    /// What the other stations published last.
    pub counters: Arc<Mutex<Vec<Counter>>>,
    /// The exporter's own books.
    pub queues: Vec<Arc<Queue>>,
    /// When to stop.
    pub stop: Stop,
    /// Where sentences go.
    pub say: Say,
}

impl MetricsSender {
    /// Runs until `all_settled` is over, then sends once more: the last message holds the final figures.
    pub async fn run(mut self, all_settled: impl Future<Output = ()>) {
        let started = wall_clock();
        let mut ticks = interval_at(Instant::now() + self.interval, self.interval);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut all_settled = pin!(all_settled);
        let mut mood = Mood::default();
        loop {
            tokio::select! {
                () = &mut all_settled => break,
                _ = ticks.tick() => {}
            }
            // Raced against the end, so that a backend that hangs does not take time from the last message.
            tokio::select! {
                () = &mut all_settled => break,
                () = self.send(started, &mut mood) => {}
            }
        }
        let mut stop = self.stop.clone();
        tokio::select! {
            () = self.send(started, &mut mood) => {}
            () = over(&mut stop) => {}
        }
    }

    async fn send(&mut self, started: u64, mood: &mut Mood) {
        if *mood == Mood::Unwanted {
            return;
        }
        let mut counters = self.counters.lock().unwrap_or_else(PoisonError::into_inner).clone();
        sum(&self.queues).counters(&mut counters);
        let request = metrics::request(&self.agent, &counters, started, wall_clock());
        let message = match self.transport.encoding() {
            Encoding::Protobuf => Bytes::from(request.encode_to_vec()),
            Encoding::Json => serde_json::to_vec(&request).unwrap_or_default().into(),
        };
        let body = self.transport.prepare(message);
        let endpoint = &self.endpoint;
        match self.transport.send(body).await {
            Answer::Accepted { rejected: 0, message } if message.is_empty() => *mood = Mood::Content,
            Answer::Accepted { rejected, message } => {
                if *mood != Mood::Told {
                    (self.say)(&format!(
                        "{endpoint} rejected {rejected} of the agent's own metrics: {message}"
                    ));
                }
                *mood = Mood::Told;
            }
            Answer::Retry { reason, .. } => {
                if *mood != Mood::Told {
                    (self.say)(&format!("cannot send the agent's own metrics to {endpoint}: {reason}"));
                }
                *mood = Mood::Told;
            }
            Answer::Refused { reason } => {
                (self.say)(&format!(
                    "{endpoint} does not take the agent's own metrics: {reason}; not trying again \
                     (OTEL_METRICS_EXPORTER=none avoids this)"
                ));
                *mood = Mood::Unwanted;
            }
        }
    }
}

/// What the log knows.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
enum Mood {
    /// Nothing to say.
    #[default]
    Content,
    /// The failure was said.
    Told,
    /// The backend refuses metrics.
    Unwanted,
}

fn wall_clock() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| u64::try_from(since.as_nanos()).unwrap_or(u64::MAX))
}
