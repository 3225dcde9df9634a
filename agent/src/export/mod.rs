//! Spans out of the agent: OTLP over gRPC and HTTP, a file, the terminal; and the agent's own metrics.
//!
//! In: `Arc<Span>` by [`Exporter::offer`], finished and immutable. Out: the same content at each destination.
//! ```text
//!   offer ─▶ queue (bytes) ─▶ worker ─▶ encode ─▶ gRPC | HTTP | file      one queue and worker each
//!   publish ─▶ the latest counters ─▶ metrics, once a minute and at the end
//! ```
//! Invariants:
//! - Nothing here runs in the tracing thread but [`Exporter::offer`] and [`Exporter::publish`], which neither
//!   wait for I/O nor await. Everything else lives in one thread with a runtime of its own.
//! - Several destinations share a span by `Arc`; a dead one takes nothing from the others.
//! - The books ([`Ledger`]) balance in every snapshot: offered = exported + each cause of loss + waiting.
//! - At the end, what was not delivered within the time given is counted, not waited for.
//!
//! Where to read: `settings` (what the variables mean), `encode` (what a span becomes), `queue` (what
//! waits), `worker` (when it is sent), `answer` (what the reply means), `metrics` (what is counted).

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

pub mod answer;
pub mod encode;
pub mod file;
#[doc(hidden)]
pub mod fuzz;
mod grpc;
mod http;
pub mod metrics;
mod notice;
pub mod queue;
mod sender;
pub mod settings;
pub mod terminal;
mod wire;
mod worker;

#[cfg(test)]
mod fake;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;

pub use metrics::{Counter, Report};
pub use queue::Ledger;
pub use settings::{OtlpSettings, SettingError};

use crate::discover::Resource;
use crate::stitch::span::Span;
use crate::sum::Sum as _;
use answer::BackOff;
use file::FileSink;
use grpc::GrpcTransport;
use http::HttpTransport;
use notice::Notices;
use queue::{Bounds, Queue};
use sender::MetricsSender;
use settings::{BatchSettings, Protocol};
use worker::{Transport, Worker};

/// Where sentences for the log go. Called from the exporter's thread; must not block.
pub type Say = Arc<dyn Fn(&str) + Send + Sync>;

/// Where spans go.
#[derive(Clone, Debug)]
pub enum Destination {
    /// A backend that speaks OTLP.
    Otlp(Box<OtlpSettings>),
    /// A file of OTLP/JSON lines.
    File(PathBuf),
}

/// Where the agent's own metrics go.
#[derive(Clone, Debug)]
pub struct MetricsDestination {
    /// How.
    pub settings: OtlpSettings,
    /// The agent as a service; see [`metrics::agent_resource`].
    pub agent: Resource,
}

/// Bounds and times that are the agent's, not the specification's.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// How many bytes of spans may wait for one destination, what is on its way included.
    pub queue_bytes: usize,
    /// How long to wait between attempts when the destination does not say.
    pub back_off: BackOff,
    /// How long a span waits before it is written to a file, so that a reader sees it within a second.
    pub file_delay: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self { queue_bytes: 16 << 20, back_off: BackOff::default(), file_delay: Duration::from_millis(250) }
    }
}

/// The exporter could not be started.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// An output file.
    #[error("cannot create {}: {source}", file::shown(path))]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A certificate or key.
    #[error("cannot read {}: {source}", file::shown(path))]
    Pem {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A certificate or key that is none.
    #[error("{} holds no usable {what} in PEM form{reason}", file::shown(path))]
    NotPem {
        /// Which.
        path: PathBuf,
        /// What was looked for.
        what: &'static str,
        /// More, or nothing.
        reason: String,
    },
    /// The settings of an endpoint cannot be used together.
    #[error("cannot prepare to send to {endpoint}: {reason}")]
    Unusable {
        /// Which.
        endpoint: String,
        /// Why.
        reason: String,
    },
    /// The exporter's thread.
    #[error("cannot start the exporter's thread: {0}")]
    Thread(#[source] io::Error),
}

impl StartError {
    fn no_pem(path: &Path, what: &'static str) -> Self {
        Self::NotPem { path: path.to_owned(), what, reason: String::new() }
    }

    fn not_pem(path: &Path, what: &'static str, error: &(dyn std::error::Error + 'static)) -> Self {
        Self::NotPem { path: path.to_owned(), what, reason: format!(": {}", answer::root_cause(error)) }
    }
}

/// See the module.
pub struct Exporter {
    queues: Vec<Arc<Queue>>,
    counters: Arc<Mutex<Vec<Counter>>>,
    stop: watch::Sender<Option<Instant>>,
    thread: Option<JoinHandle<()>>,
}

impl Exporter {
    /// Opens the files, reads the certificates, and starts the thread. Connects to nothing yet: a backend
    /// that is away is no error here, it is retried and said in the log.
    pub fn start(
        destinations: &[Destination],
        metrics: Option<MetricsDestination>,
        limits: Limits,
        say: Say,
    ) -> Result<Self, StartError> {
        let (stop, stopped) = watch::channel(None);
        let mut workers = Vec::with_capacity(destinations.len());
        for destination in destinations {
            workers.push(prepare(destination, limits, &stopped, &say)?);
        }
        let queues: Vec<_> = workers.iter().map(|worker| Arc::clone(&worker.queue)).collect();
        let counters = Arc::new(Mutex::new(Vec::new()));
        let sender = match metrics {
            Some(MetricsDestination { settings, agent }) => Some(MetricsSender {
                transport: transport(&settings)?,
                endpoint: settings.shown_endpoint(),
                interval: settings.interval,
                agent,
                counters: Arc::clone(&counters),
                queues: queues.clone(),
                stop: stopped,
                say,
            }),
            None => None,
        };
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(StartError::Thread)?;
        let run = move || {
            runtime.block_on(async {
                let workers: Vec<_> = workers.into_iter().map(|worker| tokio::spawn(worker.run())).collect();
                let all_settled = async {
                    for worker in workers {
                        // A worker that panicked is a bug of ours; `close` still books what it held.
                        let _ = worker.await;
                    }
                };
                match sender {
                    Some(sender) => sender.run(all_settled).await,
                    None => all_settled.await,
                }
            });
            // A name lookup or a write to a pipe may still block a helper thread: not waited for.
            runtime.shutdown_background();
        };
        let thread = std::thread::Builder::new()
            .name("spandrel-export".to_owned())
            .spawn(run)
            .map_err(StartError::Thread)?;
        Ok(Self { queues, counters, stop, thread: Some(thread) })
    }

    /// Gives a span to every destination. Never blocks: what a queue has no room for is dropped and counted.
    pub fn offer(&self, span: Arc<Span>) {
        if let Some((last, others)) = self.queues.split_last() {
            for queue in others {
                queue.offer(Arc::clone(&span));
            }
            last.offer(span);
        }
    }

    /// Replaces what the next metrics will say of the other stations. The exporter's own counters are
    /// added to it.
    pub fn publish(&self, counters: Vec<Counter>) {
        *self.counters.lock().unwrap_or_else(PoisonError::into_inner) = counters;
    }

    /// How many destinations there are; each is offered every span.
    pub fn destinations(&self) -> usize {
        self.queues.len()
    }

    /// The books of all destinations together.
    pub fn ledger(&self) -> Ledger {
        sum(&self.queues)
    }

    /// Sends what waits, for at most so long, then ends the thread. What is left is counted as `shutdown`.
    pub fn flush_and_stop(mut self, within: Duration) -> Ledger {
        self.stop.send_replace(Some(Instant::now() + within));
        if let Some(thread) = self.thread.take() {
            // Its panic has been printed; the books below count what it left.
            let _ = thread.join();
        }
        for queue in &self.queues {
            queue.close();
        }
        sum(&self.queues)
    }
}

impl Report for Exporter {
    fn counters(&self, out: &mut Vec<Counter>) {
        self.ledger().counters(out);
    }
}

fn sum(queues: &[Arc<Queue>]) -> Ledger {
    let mut ledger = Ledger::default();
    for queue in queues {
        ledger.add(&queue.ledger());
    }
    ledger
}

fn prepare(
    destination: &Destination,
    limits: Limits,
    stop: &worker::Stop,
    say: &Say,
) -> Result<Worker, StartError> {
    let (transport, batch, name) = match destination {
        Destination::Otlp(settings) => (transport(settings)?, settings.batch, settings.shown_endpoint()),
        Destination::File(path) => (
            Transport::File(Box::new(FileSink::open(path)?)),
            BatchSettings { schedule_delay: limits.file_delay, ..BatchSettings::default() },
            file::shown(path),
        ),
    };
    let bounds = Bounds { bytes: limits.queue_bytes, spans: batch.max_queue, batch: batch.max_batch.max(1) };
    Ok(Worker {
        queue: Arc::new(Queue::new(bounds)),
        transport,
        schedule_delay: batch.schedule_delay,
        give_up_after: batch.give_up_after,
        back_off: limits.back_off,
        stop: stop.clone(),
        say: Arc::clone(say),
        notices: Notices::new(name),
        failures: 0,
        not_before: None,
    })
}

fn transport(settings: &OtlpSettings) -> Result<Transport, StartError> {
    Ok(match settings.protocol {
        Protocol::Grpc => Transport::Grpc(Box::new(GrpcTransport::new(settings)?)),
        Protocol::HttpProtobuf | Protocol::HttpJson => {
            Transport::Http(Box::new(HttpTransport::new(settings)?))
        }
    })
}

fn read_pem(path: &Path) -> Result<Vec<u8>, StartError> {
    std::fs::read(path).map_err(|source| StartError::Pem { path: path.to_owned(), source })
}

/// What the agent calls itself: its own name, then the product that the OTLP specification asks for.
const USER_AGENT: &str =
    concat!("spandrel/", env!("CARGO_PKG_VERSION"), " OTel-OTLP-Exporter-Rust/", env!("CARGO_PKG_VERSION"));
