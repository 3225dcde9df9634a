//! What `stitch` did with every exchange, in plain counters.
//!
//! Two sums hold at any time ([`Ledger::balance`]): what came in is what went out, was refused by cause,
//! or is held; and what was decided is a link, a root or an orphan. It must never be reset.

use super::span::LinkMethod;

/// The counters of this station. All of them only grow, but `held`.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Ledger {
    /// Exchanges that were opened.
    pub exchanges: u64,
    /// Spans that went out.
    pub spans: u64,
    /// Exchanges that carried telemetry or were made to serve one that did, and ended.
    pub suppressed: u64,
    /// Exchanges that the sampler, or the parent's decision, left out, and that ended.
    pub not_sampled: u64,
    /// Exchanges that gave no span otherwise.
    pub dropped: Dropped,
    /// What is inside now.
    pub held: Held,
    /// Parents that were found, by method.
    pub links: Links,
    /// Spans that have no parent, as far as is known rightly.
    pub roots: Roots,
    /// Spans that may have a parent which could not be proven, by cause.
    pub orphans: Orphans,
    /// Times that were moved so that a call encloses the serving of it.
    pub clamps: Clamps,
    /// Processes that lost the thread rule for life.
    pub thread_rule_lost: ThreadRuleLost,
    /// Inputs that fit nothing.
    pub stray: Stray,
    /// What was forgotten before its time to stay within a bound.
    pub forgotten: Forgotten,
    /// Connections that were asked for.
    pub connects: Connects,
    /// Attribute values that were cut at the limit.
    pub values_cut: u64,
}

/// Exchanges that gave no span, by cause.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Dropped {
    /// It was opened while an exchange of the same identity was open.
    pub duplicate: u64,
    /// It was the oldest of too many under way.
    pub open_limit: u64,
    /// It was given up to stay within the bound on memory.
    pub byte_limit: u64,
    /// Its connection or process ended and its own end never came.
    pub never_closed: u64,
    /// It was under way at shutdown.
    pub shutdown: u64,
}

/// What is inside now.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Held {
    /// Exchanges under way.
    pub open: u64,
    /// Exchanges that are over, whose trace is not known.
    pub pending: u64,
    /// Of both, those whose parent is not decided.
    pub undecided: u64,
    /// Connections that were asked for and are not there, or failed and are not decided.
    pub connects: u64,
}

/// What became of connections that were asked for.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Connects {
    /// All of them.
    pub asked: u64,
    /// They came about.
    pub established: u64,
    /// They failed, and are an event of a span.
    pub told: u64,
    /// They failed, and the span that they belong to has too many such events.
    pub crowded: u64,
    /// They failed, and the span that they belong to was out.
    pub late: u64,
    /// They failed, and belong to no request that is known.
    pub alone: u64,
    /// What became of them was not seen in time.
    pub forgotten: u64,
}

/// Parents that were found, by [`LinkMethod`].
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
#[allow(missing_docs)]
pub struct Links {
    pub stream: u64,
    pub forwarded: u64,
    pub header: u64,
    pub waiter: u64,
    pub task: u64,
    pub thread: u64,
    pub inferred: u64,
}

/// Spans that have no parent, as far as is known rightly.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Roots {
    /// A request that came from outside of what is traced, without context.
    pub server: u64,
    /// A call by a process that was serving nothing.
    pub client: u64,
    /// An exchange that carries telemetry; it starts no trace.
    pub suppressed: u64,
}

/// Why a span that may have a parent goes out without one.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Orphan {
    /// The process serves many requests on one thread.
    ManyPerThread,
    /// The request was read from a non-blocking socket or one in an epoll set, or by two threads.
    NotBlocking,
    /// The process lost the thread rule before.
    RuleLost,
    /// The calling thread holds no request, while others of its process do.
    OtherThreadHolds,
    /// The thread held two unanswered requests.
    TwoRequests,
    /// On sockets alone, the thread had two calls in flight at once: it may be a loop.
    TwoCalls,
    /// Another thread answered the request.
    OtherThreadAnswered,
    /// The request was never answered.
    NeverAnswered,
    /// Records were lost while the request was served.
    RecordsLost,
    /// The context is that of several requests which are live in the process.
    ContextAmbiguous,
    /// The context is that of a request which is over.
    ContextNotLive,
    /// The task that made the call is that of no request that is known.
    NoOwner,
    /// The task that made the call is that of two requests at once.
    KeyShared,
    /// A request's task made the task that made the call, and that works on for others.
    WorksOn,
    /// Only a method weaker than the setting allows was left.
    WeakestLink,
    /// The client is on this host and its request was not seen.
    ClientUnseen,
    /// Nothing was final within the age that a span may wait.
    Expired,
    /// Too many spans were waiting, or they took too much memory.
    Limit,
    /// Spandrel was stopped first.
    Shutdown,
    /// The link would have made a span its own ancestor.
    Cycle,
}

/// Orphans by cause; see [`Orphan`].
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
#[allow(missing_docs)]
pub struct Orphans {
    pub many_per_thread: u64,
    pub not_blocking: u64,
    pub rule_lost: u64,
    pub other_thread_holds: u64,
    pub two_requests: u64,
    pub two_calls: u64,
    pub other_thread_answered: u64,
    pub never_answered: u64,
    pub records_lost: u64,
    pub context_ambiguous: u64,
    pub context_not_live: u64,
    pub no_owner: u64,
    pub key_shared: u64,
    /// A request's task made the caller, which works on for others.
    pub works_on: u64,
    pub weakest_link: u64,
    pub client_unseen: u64,
    pub expired: u64,
    pub limit: u64,
    pub shutdown: u64,
    pub cycle: u64,
}

/// Times that were moved. A record is made at the end of its call, so a receiver's can be earlier.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Clamps {
    /// A client's start, to its server's first read.
    pub client_start: u64,
    /// A server's start, to that of its client, which was out already.
    pub server_start: u64,
    /// A server's end, to its client's last read.
    pub server_end: u64,
    /// A client's end, to that of its server, which was out already.
    pub client_end: u64,
}

/// Why processes lost the thread rule.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct ThreadRuleLost {
    /// A thread held two unanswered requests.
    pub two_requests: u64,
    /// On sockets alone: a thread had two calls in flight while it held a request.
    pub two_calls: u64,
    /// A request that a thread held was given up, so what the thread holds is not known.
    pub request_given_up: u64,
}

/// Inputs that fit nothing.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Stray {
    /// A response or an end of an exchange that is not open.
    pub events: u64,
    /// A second statement about the other end of a connection that contradicts the first.
    pub joins: u64,
}

/// What was forgotten to stay within a bound.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Forgotten {
    /// Client spans that are out; their servers, if they come, will not find them.
    pub clients: u64,
    /// Connections, with what was known of their other ends.
    pub connections: u64,
    /// Inbound contexts.
    pub contexts: u64,
    /// Requests that are over, with what their tasks are: calls of such a task will be orphans.
    pub owners: u64,
    /// Requests of a key that too many had, one after the other: claims as old as they find none.
    pub lives: u64,
    /// Who made which task.
    pub births: u64,
}

impl Ledger {
    /// What is missing in the two sums of exchanges; `(0, 0)` unless there is a bug.
    pub fn balance(&self) -> (i128, i128) {
        let Dropped { duplicate, open_limit, byte_limit, never_closed, shutdown } = self.dropped;
        let dropped = duplicate + open_limit + byte_limit + never_closed + shutdown;
        let Held { open, pending, undecided, connects: _ } = self.held;
        let out = self.spans + self.suppressed + self.not_sampled + dropped + open + pending;
        let Roots { server, client, suppressed } = self.roots;
        let decided =
            self.links.total() + server + client + suppressed + self.orphans.total() + duplicate + undecided;
        let missing = |sum: u64| i128::from(self.exchanges) - i128::from(sum);
        (missing(out), missing(decided))
    }
}

impl Connects {
    /// What is missing in the sum of connections, if so many are held; 0 unless there is a bug.
    pub fn balance(&self, held: u64) -> i128 {
        let Self { asked, established, told, crowded, late, alone, forgotten } = *self;
        i128::from(asked) - i128::from(established + told + crowded + late + alone + forgotten + held)
    }
}

impl Links {
    /// All of them.
    pub fn total(&self) -> u64 {
        let Self { stream, forwarded, header, waiter, task, thread, inferred } = *self;
        stream + forwarded + header + waiter + task + thread + inferred
    }

    pub(super) fn count(&mut self, method: LinkMethod) {
        *match method {
            LinkMethod::Stream => &mut self.stream,
            LinkMethod::Forwarded => &mut self.forwarded,
            LinkMethod::Header => &mut self.header,
            LinkMethod::Waiter => &mut self.waiter,
            LinkMethod::Task => &mut self.task,
            LinkMethod::Thread => &mut self.thread,
            LinkMethod::Inferred => &mut self.inferred,
        } += 1;
    }
}

impl Orphans {
    /// All of them.
    pub fn total(&self) -> u64 {
        let Self {
            many_per_thread,
            not_blocking,
            rule_lost,
            other_thread_holds,
            two_requests,
            two_calls,
            other_thread_answered,
            never_answered,
            records_lost,
            context_ambiguous,
            context_not_live,
            no_owner,
            key_shared,
            works_on,
            weakest_link,
            client_unseen,
            expired,
            limit,
            shutdown,
            cycle,
        } = *self;
        many_per_thread
            + not_blocking
            + rule_lost
            + other_thread_holds
            + two_requests
            + two_calls
            + other_thread_answered
            + never_answered
            + records_lost
            + context_ambiguous
            + context_not_live
            + no_owner
            + key_shared
            + works_on
            + weakest_link
            + client_unseen
            + expired
            + limit
            + shutdown
            + cycle
    }

    pub(super) fn count(&mut self, cause: Orphan) {
        *match cause {
            Orphan::ManyPerThread => &mut self.many_per_thread,
            Orphan::NotBlocking => &mut self.not_blocking,
            Orphan::RuleLost => &mut self.rule_lost,
            Orphan::OtherThreadHolds => &mut self.other_thread_holds,
            Orphan::TwoRequests => &mut self.two_requests,
            Orphan::TwoCalls => &mut self.two_calls,
            Orphan::OtherThreadAnswered => &mut self.other_thread_answered,
            Orphan::NeverAnswered => &mut self.never_answered,
            Orphan::RecordsLost => &mut self.records_lost,
            Orphan::ContextAmbiguous => &mut self.context_ambiguous,
            Orphan::ContextNotLive => &mut self.context_not_live,
            Orphan::NoOwner => &mut self.no_owner,
            Orphan::KeyShared => &mut self.key_shared,
            Orphan::WorksOn => &mut self.works_on,
            Orphan::WeakestLink => &mut self.weakest_link,
            Orphan::ClientUnseen => &mut self.client_unseen,
            Orphan::Expired => &mut self.expired,
            Orphan::Limit => &mut self.limit,
            Orphan::Shutdown => &mut self.shutdown,
            Orphan::Cycle => &mut self.cycle,
        } += 1;
    }
}
