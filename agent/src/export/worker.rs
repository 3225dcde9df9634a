//! The loop of one destination: gather a batch, send it, settle it in the books.
//!
//! ```text
//!   wait ──first span, then schedule delay or a full batch──▶ send ──taken, refused, too old──▶ wait
//!                                                            ▲  │ retryable
//!                                                            └──┘ after back-off, or when the server said
//! ```
//! Calls never overlap. A batch is encoded once, however often it is sent. It must never hold up the
//! tracing thread, or lose a span without booking it: every path out of [`Worker::deliver`] settles.
//! While a destination takes nothing, what waits longer than the bound is given up from the old end, so
//! that after a long outage it is the last minutes that arrive, not the first.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::watch;
use tokio::time::Instant;

use super::Say;
use super::answer::{Answer, BackOff, Reached};
use super::encode::{self, Bodies, Body, Encoding};
use super::file::FileSink;
use super::grpc::GrpcTransport;
use super::http::HttpTransport;
use super::notice::Notices;
use super::queue::{Batch, Failed, Queue, Settled};

/// Where messages go.
#[derive(Debug)]
pub enum Transport {
    /// OTLP over gRPC.
    Grpc(Box<GrpcTransport>),
    /// OTLP over HTTP.
    Http(Box<HttpTransport>),
    /// OTLP/JSON lines.
    File(Box<FileSink>),
}

impl Transport {
    /// How messages must be written.
    pub fn encoding(&self) -> Encoding {
        match self {
            Self::Grpc(_) => Encoding::Protobuf,
            Self::Http(http) => http.encoding(),
            Self::File(_) => Encoding::Json,
        }
    }

    /// What goes out for a message; the same for each attempt.
    pub fn prepare(&self, message: Bytes) -> Bytes {
        match self {
            Self::Http(http) => http.prepare(message),
            Self::Grpc(_) | Self::File(_) => message,
        }
    }

    /// One attempt.
    pub async fn send(&mut self, body: Bytes) -> Answer {
        match self {
            Self::Grpc(grpc) => grpc.send(body).await,
            Self::Http(http) => http.send(body).await,
            Self::File(file) => file.send(body).await,
        }
    }
}

/// When to stop: nothing yet, or the moment by which everything must be over.
pub type Stop = watch::Receiver<Option<Instant>>;

/// See the module.
pub struct Worker {
    /// Where spans come from.
    pub queue: Arc<Queue>,
    /// Where they go.
    pub transport: Transport,
    /// How long the first span of a batch waits for others.
    pub schedule_delay: Duration,
    /// How old a span may become.
    pub give_up_after: Duration,
    /// How long to wait between attempts.
    pub back_off: BackOff,
    /// When to stop.
    pub stop: Stop,
    /// Where sentences go.
    pub say: Say,
    /// Which sentences.
    pub notices: Notices,
    /// Failures in a row, over batches.
    pub failures: u32,
    /// No attempt before this moment.
    pub not_before: Option<NotBefore>,
}

/// Why an attempt has to wait.
#[derive(Clone, Copy, Debug)]
pub enum NotBefore {
    /// The destination asked for it: holds while shutting down too.
    Asked(Instant),
    /// Our own back-off: cut short when shutting down.
    BackOff(Instant),
}

impl Worker {
    /// Runs until it is told to stop and everything is settled.
    pub async fn run(mut self) {
        while self.gather().await {
            let Some(batch) = self.queue.take() else { continue };
            self.deliver(batch).await;
            self.tell_losses();
        }
        self.queue.abandon();
        self.tell_losses();
    }

    /// Waits until there is something to send. False if it is time to end.
    async fn gather(&mut self) -> bool {
        while self.queue.length() == 0 {
            tokio::select! {
                () = self.queue.changed() => {}
                () = stopping(&mut self.stop) => return self.queue.length() > 0 && !self.is_over(),
            }
        }
        let delay = tokio::time::sleep(self.schedule_delay);
        let mut delay = pin!(delay);
        while !self.queue.has_batch() {
            tokio::select! {
                () = self.queue.changed() => {}
                () = &mut delay => break,
                () = stopping(&mut self.stop) => break,
            }
        }
        !self.is_over()
    }

    async fn deliver(&mut self, batch: Batch) {
        let Batch { spans, bytes, youngest } = batch;
        let Bodies { bodies, unsent } = encode::bodies(&spans, self.transport.encoding(), MAX_MESSAGE);
        // From here on the encoded form stands for the spans.
        drop(spans);
        for index in unsent {
            let size = bytes.get(index).copied().unwrap_or_default();
            self.queue.settle(size, Settled { encoding: 1, ..Settled::default() });
        }
        for Body { bytes: message, spans } in bodies {
            let count = spans.len() as u64;
            let size = bytes.get(spans).map(|sizes| sizes.iter().sum()).unwrap_or_default();
            let body = self.transport.prepare(message);
            let settled = self.attempt_until_settled(&body, count, youngest.into()).await;
            self.queue.settle(size, settled);
        }
    }

    async fn attempt_until_settled(&mut self, body: &Bytes, count: u64, youngest: Instant) -> Settled {
        let shutdown = Settled { shutdown: count, ..Settled::default() };
        loop {
            if !self.wait_for_turn().await {
                return shutdown;
            }
            let mut stop = self.stop.clone();
            let answer = tokio::select! {
                answer = self.transport.send(body.clone()) => answer,
                () = over(&mut stop) => {
                    self.queue.called(Failed::Yes);
                    return shutdown;
                }
            };
            let now = Instant::now();
            match answer {
                Answer::Accepted { rejected, message } => {
                    self.queue.called(Failed::No);
                    self.reached(now);
                    let rejected = rejected.min(count);
                    let line = self.notices.partial(now.into_std(), rejected, &message);
                    self.tell(line);
                    return Settled { exported: count - rejected, rejected, ..Settled::default() };
                }
                Answer::Refused { reason } => {
                    self.queue.called(Failed::Yes);
                    self.reached(now);
                    let line = self.notices.refused(now.into_std(), &reason, count);
                    self.tell(line);
                    return Settled { refused: count, ..Settled::default() };
                }
                Answer::Retry { reason, after, reached } => {
                    self.queue.called(Failed::Yes);
                    self.failed(now, after, reached, &reason);
                    // What still waits behind this batch grows old as well.
                    self.queue.expire(self.give_up_after);
                    self.tell_losses();
                    if now.duration_since(youngest) >= self.give_up_after {
                        return Settled { gave_up: count, ..Settled::default() };
                    }
                }
            }
        }
    }

    /// Waits until an attempt may be made. False if there is no time left for one.
    async fn wait_for_turn(&mut self) -> bool {
        match self.not_before {
            None => {}
            Some(NotBefore::Asked(until)) => tokio::select! {
                () = tokio::time::sleep_until(until) => {}
                () = over(&mut self.stop) => return false,
            },
            Some(NotBefore::BackOff(until)) => {
                // One attempt at once when told to stop; after that the back-off holds again.
                let was_stopping = self.stop.borrow().is_some();
                let mut stop = self.stop.clone();
                tokio::select! {
                    () = tokio::time::sleep_until(until) => {}
                    () = stopping(&mut self.stop), if !was_stopping => {}
                    () = over(&mut stop) => return false,
                }
            }
        }
        !self.is_over()
    }

    fn reached(&mut self, now: Instant) {
        self.failures = 0;
        self.not_before = None;
        let line = self.notices.taken(now.into_std(), &self.queue.ledger());
        self.tell(line);
    }

    fn failed(&mut self, now: Instant, after: Option<Duration>, reached: Reached, reason: &str) {
        self.failures = self.failures.saturating_add(1);
        self.not_before = Some(match after {
            Some(wait) => NotBefore::Asked(now + wait),
            None => NotBefore::BackOff(now + self.back_off.wait(self.failures, rand::random::<f64>())),
        });
        let line = self.notices.retrying(now.into_std(), reached, reason, &self.queue.ledger());
        self.tell(line);
    }

    fn tell_losses(&mut self) {
        let line = self.notices.losses(Instant::now().into_std(), &self.queue.ledger());
        self.tell(line);
    }

    fn tell(&self, line: Option<String>) {
        if let Some(line) = line {
            (self.say)(&line);
        }
    }

    /// The time for shutting down is over.
    fn is_over(&self) -> bool {
        match *self.stop.borrow() {
            Some(deadline) => Instant::now() >= deadline,
            // The exporter is gone without a word.
            None => self.stop.has_changed().is_err(),
        }
    }
}

/// Returns when the worker was told to stop.
pub async fn stopping(stop: &mut Stop) {
    // An error means that the exporter is gone, which is the same.
    let _ = stop.wait_for(Option::is_some).await;
}

/// Returns when the time for shutting down is over.
pub async fn over(stop: &mut Stop) {
    let deadline = match stop.wait_for(Option::is_some).await {
        Ok(deadline) => *deadline,
        Err(_) => None,
    };
    if let Some(deadline) = deadline {
        tokio::time::sleep_until(deadline).await;
    }
}

/// Most servers take 4 MiB, before compression; this leaves room for their arithmetic.
pub const MAX_MESSAGE: usize = 4_000_000;
