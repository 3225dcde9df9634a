//! One exchange as `stitch` holds it, from its first byte until nothing can refer to it any more.
//! ```text
//!   phase:   Open ──Closed input──▶ Closed ──the trace is known──▶ Sealed (out, or counted)
//!   state:   Undecided ──a rule is final──▶ Follows (its parent's trace is not known yet)
//!                │                             │ its parent is bound
//!                └── root, orphan, context ────┴──────▶ Bound
//! ```
//! It must never keep a head longer than it takes to read its context: heads come again with the end.

use std::collections::HashMap;
use std::sync::Arc;

use super::Endpoints;
use super::context::Context;
use super::owner::Told;
use super::span::{Parent, SpanEvent, SpanId, TraceId};
use crate::discover::Resource;
use crate::exchange::{Exchange, ExchangeId};
use crate::identity::{ConnectionId, Monotonic, ProcessKey, Role, ThreadId};
use crate::protocol::Fields;

/// A node, unique in the life of the stitcher; a later one is larger.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub(super) struct NodeId(pub u64);

/// See the module.
#[derive(Debug)]
pub(super) struct Node {
    pub exchange: ExchangeId,
    pub role: Role,
    pub process: ProcessKey,
    /// The thread that completed the request's head.
    pub thread: ThreadId,
    /// When the request's first byte was moved, as it was reported.
    pub began: Monotonic,
    /// When its head was complete.
    pub at: Monotonic,
    /// The span's start: `began`, clamped.
    pub start: Monotonic,
    pub span: SpanId,
    pub ends: Endpoints,
    pub resource: Arc<Resource>,
    pub context: Option<Box<Context>>,
    pub phase: Phase,
    pub state: State,
    pub parent: Option<Parent>,
    /// When the state will be decided by force; only while it is undecided.
    pub deadline: Option<Monotonic>,
    /// When it will be given up; once its connection is closed and it is not.
    pub doomed: Option<Monotonic>,
    /// Nodes whose state waits for this one's trace.
    pub followers: Vec<NodeId>,
    /// When the response's first byte was moved.
    pub answered: Option<Monotonic>,
    /// What the thread rule knows; for servers.
    pub held: Held,
    /// What its tasks are.
    pub told: Told,
    /// The span at the other end of the connection.
    pub other: Other,
    /// Estimated memory, in bytes.
    pub bytes: usize,
}

/// How far an exchange is.
#[derive(Debug)]
pub(super) enum Phase {
    Open,
    Closed(Box<Exchange>),
    Sealed,
}

/// What is known of the trace.
#[derive(Debug)]
pub(super) enum State {
    Undecided(Wait),
    /// A parent was found (this one); its trace is not known.
    Follows(NodeId),
    Bound(Bound),
}

/// What an undecided node waits for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Wait {
    /// Its rules were not asked yet.
    Rules,
    /// The exchange at the other end.
    Client,
    /// What the requests own that were under way when it was sent.
    Owner,
    /// The answer to the request that its thread holds.
    Answer(NodeId),
    /// The next answer that its thread gives.
    Worker,
}

/// A trace, as one of its spans knows it.
#[derive(Clone, Debug)]
pub(super) struct Bound {
    pub trace: TraceId,
    pub flags: u8,
    pub fate: Fate,
    pub trace_state: Option<Arc<str>>,
    pub wall_offset: u64,
}

/// What becomes of a span.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Fate {
    Kept,
    NotSampled,
    Suppressed,
}

/// A server's side of the thread rule.
#[derive(Debug, Default)]
pub(super) struct Held {
    /// Why its thread may hold one request at a time only.
    pub proof: Proof,
    /// Its thread held another unanswered request while it held this one.
    pub overlapped: bool,
    /// ... which it read later: if this one is answered after all, the thread did hold two.
    pub followed: bool,
    /// Calls by its thread that wait for the answer.
    pub calls: Vec<NodeId>,
    /// What is known of connections that failed.
    pub connects: Option<Box<Connecting>>,
    /// The answer came from the same thread; the calls are linked at the next poll.
    pub ready: bool,
}

/// What a server knows of connections that were asked for and are not there.
#[derive(Debug, Default)]
pub(super) struct Connecting {
    /// Connections that its thread asked for and that the answer decides, by number.
    pub asked: Vec<u64>,
    /// Calls that were linked to it by its thread: from when until when.
    pub called: Vec<(Monotonic, Option<Monotonic>)>,
    /// Connections that failed.
    pub failed: Vec<SpanEvent>,
    /// It is over and held back until then, since a connection that failed may be its own.
    pub detained: Option<Monotonic>,
    /// It was held back long enough.
    pub freed: bool,
}

/// Why a thread is believed to serve one request at a time.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(super) enum Proof {
    /// It is not.
    #[default]
    None,
    /// The request was read from a blocking socket in no epoll set.
    Blocking,
    /// The program is known for it.
    Program,
}

/// What is known of the span at the other end of the connection.
#[derive(Debug, Default)]
pub(super) struct Other {
    pub node: Option<NodeId>,
    /// It is out, with this end. Not there if it failed or was incomplete: then it says nothing.
    pub end: Option<Monotonic>,
}

/// What is known of one end of a connection.
#[derive(Debug, Default)]
pub(super) struct Connection {
    /// When it was first heard of, in order.
    pub seq: u64,
    pub peer: Peer,
    /// Client exchanges by offset: under way, or remembered.
    pub clients: std::collections::BTreeMap<u64, NodeId>,
    /// The largest offset at which a client exchange was opened.
    pub last_client: Option<u64>,
    /// Servers by offset that wait for their client.
    pub waiting: std::collections::BTreeMap<u64, NodeId>,
    /// Exchanges under way.
    pub open: Vec<NodeId>,
    pub closed: bool,
    /// When it will be forgotten; once it is closed.
    pub forget_at: Option<Monotonic>,
}

/// The other end of a connection.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(super) enum Peer {
    #[default]
    Unknown,
    /// What this end received at offset o was sent at `o - shift`; what it sent at o is received at
    /// `o + out`.
    Known { id: ConnectionId, shift: i64, out: i64 },
    /// It was known and is over.
    Gone,
}

/// What is known of a process that has requests under way.
#[derive(Debug, Default)]
pub(super) struct Process {
    /// Requests that were read by a thread and not answered.
    pub threads: HashMap<ThreadId, Vec<NodeId>>,
    pub unanswered: usize,
    /// Requests under way by their context.
    pub contexts: HashMap<(TraceId, SpanId), Vec<NodeId>>,
}

impl Node {
    pub fn is_open(&self) -> bool {
        matches!(self.phase, Phase::Open)
    }

    pub fn is_sealed(&self) -> bool {
        matches!(self.phase, Phase::Sealed)
    }

    pub fn wait(&self) -> Option<Wait> {
        match self.state {
            State::Undecided(wait) => Some(wait),
            State::Follows(_) | State::Bound(_) => None,
        }
    }

    /// The key of its context, if it has one.
    pub fn context_key(&self) -> Option<(TraceId, SpanId)> {
        self.context.as_ref().map(|context| (context.trace, context.span))
    }
}

/// About what an open node takes, with its places in the indexes.
pub(super) fn node_bytes(context: Option<&Context>) -> usize {
    let text = context.and_then(|c| c.trace_state.as_ref()).map_or(0, String::len);
    size_of::<Node>() + 256 + text
}

/// About what an exchange takes that is over.
pub(super) fn exchange_bytes(exchange: &Exchange) -> usize {
    let fields = |fields: &Fields| fields.0.iter().map(|(_, value)| value.len() + 32).sum::<usize>();
    let request = &exchange.request;
    let response = exchange.response.as_ref().map_or(0, |r| 64 + fields(&r.fields));
    size_of::<Exchange>()
        + 96
        + request.method.len()
        + request.target.len()
        + fields(&request.fields)
        + response
}
