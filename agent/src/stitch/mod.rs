//! Exchanges in, spans out: who is whose parent.
//!
//! In comes what happened to each exchange ([`Input`]), out come spans with their parents ([`Output`]).
//! [`Stitcher`] is the one place where connections meet. Links are proofs, strongest first
//! ([`span::LinkMethod`]); each rule says at which event it is final, and until then the span waits:
//!
//! | rule | whose parent | the proof | final at |
//! |---|---|---|---|
//! | `stream` | server | the client span wrote the very bytes that it read | the client's request, or the end of that connection |
//! | `forwarded` | client | its context is that of exactly one live request of this process | its own request |
//! | `header` | both | its context names a span that others (or an SDK in the process) made | when `stream`, `forwarded` are out |
//! | `waiter`, `task` | client | the task that waits for its answer, or made it, or its ancestor, is that of one request | every request under way at the call has said what its tasks are |
//! | `thread` | client | its thread read one request, held no other, and answered it | the answer's first bytes |
//! | `inferred` | client | none: habits of its process (`owner`, `jobs`, `pool`), where they are allowed | by habit |
//!
//! Nothing proven means no parent, never a likely one. It must never read a clock (time comes with the
//! events and [`Stitcher::poll`]), do I/O, make an id other than by the generator it was given, rewrite a
//! span that went out, or depend on the order in which the two ends of a connection are reported.
//!
//! Ledger ([`Ledger`]): exchanges in = spans + suppressed + not sampled + dropped by cause + held; and each
//! exchange that is decided is exactly one of a link, a root or an orphan.
//!
//! A connection that failed has no span: it is an event of the server span that the rules name (`connects`).

pub mod context;
pub mod http;
pub mod intake;
pub mod ledger;
pub mod sampler;
pub mod span;

mod across;
mod bounds;
mod connects;
mod graph;
mod inside;
mod jobs;
mod node;
mod owner;
mod pool;
mod recent;
mod stitcher;

#[doc(hidden)]
pub mod fuzz;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use crate::discover::Resource;
use crate::exchange::{Carried, Exchange, ExchangeId};
use crate::identity::{Address, Birth, ConnectionId, Moment, Monotonic, ProcessKey, Role};
use crate::protocol::RequestHead;

use graph::LINK_METHOD;
pub use ledger::Ledger;
pub use stitcher::Stitcher;

/// What happened. Of one connection, and of one thread, inputs come in the order in which things
/// happened; across them any order must give the same tree.
#[derive(Clone, Debug)]
pub enum Input {
    /// A request's head is complete.
    Opened {
        /// Which exchange.
        id: ExchangeId,
        /// Whether this process read or wrote it.
        role: Role,
        /// The call that moved the request's first byte.
        began: Moment,
        /// The call that completed the head.
        at: Moment,
        /// What it says.
        head: Box<RequestHead>,
        /// Whether the call that completed the head carried other requests as well.
        carried: Carried,
        /// Where it came from and goes to.
        ends: Endpoints,
        /// The service that the process is.
        resource: Arc<Resource>,
        /// How the process serves.
        serving: Serving,
    },
    /// The first byte of the final response was moved.
    Responding {
        /// Which exchange.
        id: ExchangeId,
        /// The call that moved it.
        at: Moment,
    },
    /// An exchange is over.
    Closed(Box<Exchange>),
    /// Two connections of this host are the two ends of one: what `a` sent at offset o is what `b`
    /// received at `o + a_to_b`, what `b` sent at o is what `a` received at `o + b_to_a`.
    Joined {
        /// One end.
        a: ConnectionId,
        /// The other.
        b: ConnectionId,
        /// Added to an offset of what `a` sent.
        a_to_b: i64,
        /// Added to an offset of what `b` sent.
        b_to_a: i64,
    },
    /// A connection ended; nothing more of it will come.
    ConnectionClosed {
        /// Which.
        connection: ConnectionId,
        /// When.
        time: Monotonic,
    },
    /// A process ended, or became another program by `exec`.
    ProcessExited {
        /// Which.
        process: ProcessKey,
        /// When.
        time: Monotonic,
    },
    /// A task of a process was made by another.
    Born {
        /// The process.
        process: ProcessKey,
        /// Whose child it is.
        birth: Birth,
    },
    /// Births of tasks of a process are not watched any more: those that are known may be of earlier lives.
    Unobserved {
        /// The process.
        process: ProcessKey,
    },
    /// What was likely of a process was seen to be wrong once: nothing is inferred of it from now on.
    Doubted {
        /// The process.
        process: ProcessKey,
    },
    /// A task asked for a connection.
    Connecting {
        /// Which.
        connection: ConnectionId,
        /// When, and who.
        at: Moment,
        /// Where to.
        peer: Address,
        /// How the process serves.
        serving: Serving,
    },
    /// A connection that was asked for came about.
    Connected {
        /// Which.
        connection: ConnectionId,
    },
    /// A connection that was asked for failed.
    ConnectFailed {
        /// Which.
        connection: ConnectionId,
        /// When.
        time: Monotonic,
        /// The socket's error: an errno, or 0 if the program closed the socket itself.
        errno: i32,
    },
    /// Records of some connections were lost in this time, so what a thread did then is not known to
    /// be all that it did. To be given before the [`Stitcher::poll`] that follows the loss.
    RecordsLost {
        /// No record was lost before this since the last such input.
        since: Monotonic,
        /// When the loss was noticed.
        until: Monotonic,
    },
}

/// The two addresses of a connection, as far as they are known.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Endpoints {
    /// This end.
    pub local: Option<Address>,
    /// The other end.
    pub peer: Option<Address>,
    /// The connection was seen from its first byte: if its other end were a traced one of this host,
    /// [`Input::Joined`] would have come already.
    pub born_here: bool,
    /// What was agreed on, if what lies between them is TLS.
    pub tls: Option<crate::tls::Agreed>,
}

/// How a program serves requests, as far as it is known from what it is.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
pub enum Serving {
    /// Not known: the sockets of each request have to tell.
    #[default]
    Unknown,
    /// One request per thread at a time (Apache's prefork and worker, Puma, ...).
    OneRequestPerThread,
    /// One per thread if it was read from a blocking socket, whatever epoll sets that is in (Java).
    OneIfBlocking,
    /// A thread serves many at once (Node, Go, nginx, asyncio): the thread rule is never used.
    ManyPerThread,
}

/// What came of it. Of a span that is kept there is exactly one `Bound`, and after it exactly one
/// `Ended` or `Abandoned`. Exchanges that are suppressed or not sampled are counted only.
#[derive(Clone, Debug)]
pub enum Output {
    /// A span's trace became known; the span may still be open.
    Bound {
        /// The trace.
        trace: span::TraceId,
        /// The span.
        span: span::SpanId,
    },
    /// A span is complete and final.
    Ended(Arc<span::Span>),
    /// A span whose trace was announced will not come: its exchange was given up (counted by cause).
    Abandoned {
        /// The trace.
        trace: span::TraceId,
        /// The span.
        span: span::SpanId,
    },
}

/// What a user may choose.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The bounds.
    pub limits: Limits,
    /// A link by a method weaker than this is not made.
    pub weakest_link: span::LinkMethod,
    /// Which traces are kept.
    pub sampler: sampler::Sampler,
    /// What becomes of exchanges that carry telemetry.
    pub intake: intake::Intake,
    /// How exchanges are described.
    pub http: http::Settings,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            limits: Limits::default(),
            weakest_link: span::LinkMethod::Thread,
            sampler: sampler::Sampler::default(),
            intake: intake::Intake::default(),
            http: http::Settings::default(),
        }
    }
}

/// How much may wait, how long, and how much is remembered. What goes beyond is counted in [`Ledger`].
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Limits {
    /// Exchanges that are under way. Beyond it the oldest is given up. Default 65,536: several times the
    /// 10,000 busy connections that a host is expected to have.
    pub open_exchanges: usize,
    /// Spans whose trace is not known yet. Beyond it the longest waiting goes out without a parent.
    /// Default 16,384: at 10,000 requests a second, more than the half second that the slowest rule
    /// takes with services that answer in time.
    pub pending_spans: usize,
    /// Memory of all spans held, estimated, in bytes. Default 24 MiB, less than half of what the agent
    /// may take in all.
    pub pending_bytes: usize,
    /// How long a span waits for its parent, in nanoseconds. Default 60 s: a request that takes longer
    /// is a stream or a mistake, and its calls should be seen before it ends.
    pub pending_age: u64,
    /// How long a server span waits, once it answers, for news that its other end is here; in
    /// nanoseconds. Default 250 ms: only connections older than the agent need it, and two records
    /// tell; a tenth of a second may lie between a record and its reading.
    pub stream_grace: u64,
    /// How long a server span waits, once it answers, for the first sign of a client at the other end of its
    /// connection, if that end was opened here and has told of none; in nanoseconds. Default 1 s: the call that sent the
    /// request ended before it was answered, or its thread was preempted within it; on this host but not traced is a client
    /// that is not selected.
    pub client_grace: u64,
    /// Client spans that went out and whose server may still be reported. Default 16,384: their servers
    /// come within milliseconds or never (when they are not traced).
    pub remembered_clients: usize,
    /// Requests that are over and whose tasks may still call out. Default 16,384.
    pub remembered_owners: usize,
    /// Connections whose other end is known. Default 65,536, as for open exchanges.
    pub connections: usize,
    /// Connections that are asked for and not there, and those that failed and are not decided. Default 16,384; one
    /// that is never answered fails after two minutes, and programs give up far earlier.
    pub connects: usize,
    /// Inbound span ids remembered, to tell a context that was passed on from one that an SDK made.
    /// Default 262,144, about 9 MiB: half a minute of 10,000 requests a second, each with a context.
    pub inbound_contexts: usize,
    /// Processes that lost the thread rule. Default 65,536. If there are more, the rule is used nowhere
    /// else until one of them exits: forgetting one could make a wrong parent.
    pub lost_processes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            open_exchanges: 65_536,
            pending_spans: 16_384,
            pending_bytes: 24 << 20,
            pending_age: 60_000_000_000,
            stream_grace: 250_000_000,
            client_grace: 1_000_000_000,
            remembered_clients: 16_384,
            remembered_owners: 16_384,
            connections: 65_536,
            connects: 16_384,
            inbound_contexts: 262_144,
            lost_processes: 65_536,
        }
    }
}
