//! Random services of every kind, with the truth known: a wrong parent is never made, and nothing is missed
//! where a proof exists.
//!
//! A simulation of processes and threads. A record is made at the end of its call, so a receiver may be
//! reported before its sender; within a thread the order is kept. Every request has a number of its own that
//! only the judge sees.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::sync::Arc;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::super::span::{Kind, LinkMethod, Span};
use super::super::{Endpoints, Input, Serving, Settings};
use super::{MS, exchange, moment, request, resource, stitcher, tell};
use crate::exchange::{Carried, ExchangeId};
use crate::identity::{ConnectionId, Moment, Monotonic, Role};
use crate::protocol::FieldName;

/// How the service in the middle works.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Model {
    /// A thread for each connection.
    ThreadPerConnection,
    /// A free thread for each request, whatever the connection.
    ThreadPool,
    /// One thread that never blocks and also makes calls of its own; it passes no context on.
    EventLoop,
    /// The same, known for what it is, and it passes contexts on.
    ForwardingLoop,
    /// One thread that waits with `poll` on blocking sockets in no epoll set.
    PollLoop,
    /// One thread reads, others call and answer.
    HandOver,
    /// One thread reads and answers, others call.
    HandOverAndBack,
}

const DRIVERS: u32 = 1;
const MIDDLE: u32 = 2;
const BACKEND: u32 = 3;
const TIMER: u32 = 99;

struct Request {
    process: u32,
    number: u64,
    connection: u64,
    offset: u64,
    /// Who made it: a thread, and the request that it serves.
    caller: (u32, u32, Option<usize>),
    reader: u32,
    worker: u32,
    writer: u32,
    calls_left: u32,
    context: bool,
    client_began: Moment,
    server_began: Option<Moment>,
}

#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
enum Act {
    Drive(u32),
    Timer,
    Arrive(usize),
    Work(usize),
    Got(usize),
}

struct Simulation {
    model: Model,
    random: StdRng,
    queue: BinaryHeap<Reverse<(u64, u64, Act)>>,
    sequence: u64,
    records: Vec<(u64, u64, Input)>,
    requests: Vec<Request>,
    thread_free: HashMap<(u32, u32), u64>,
    idle_threads: Vec<u32>,
    threads: u32,
    connections: u64,
    idle_connections: HashMap<(u32, u32), Vec<(u64, u64)>>,
    left: u32,
    /// The number of each call, and of the request that it was made for.
    truth: HashMap<u64, Option<u64>>,
}

impl Simulation {
    fn run(model: Model, seed: u64, concurrency: u32, requests: u32) -> Self {
        let mut simulation = Self {
            model,
            random: StdRng::seed_from_u64(seed),
            queue: BinaryHeap::new(),
            sequence: 0,
            records: Vec::new(),
            requests: Vec::new(),
            thread_free: HashMap::new(),
            idle_threads: Vec::new(),
            threads: 10,
            connections: 0,
            idle_connections: HashMap::new(),
            left: requests,
            truth: HashMap::new(),
        };
        for driver in 0..concurrency {
            let at = 1_000 * MS + simulation.random.random_range(0..20 * MS);
            simulation.schedule(at, Act::Drive(driver));
        }
        // A poll loop with a timer of its own is what no rule can tell from one request per thread, as long
        // as it serves one request at a time; see `inside`.
        if model != Model::PollLoop {
            simulation.schedule(1_000 * MS, Act::Timer);
        }
        while let Some(Reverse((time, _, act))) = simulation.queue.pop() {
            match act {
                Act::Drive(driver) if simulation.left > 0 => {
                    simulation.left -= 1;
                    simulation.call(time, (DRIVERS, driver, None), MIDDLE);
                }
                Act::Drive(_) => {}
                Act::Timer => simulation.timer(time),
                Act::Arrive(request) => simulation.arrive(time, request),
                Act::Work(request) => simulation.work(time, request),
                Act::Got(request) => simulation.got(time, request),
            }
        }
        simulation.records.sort_by_key(|&(time, sequence, _)| (time, sequence));
        simulation
    }

    fn schedule(&mut self, at: u64, act: Act) {
        self.sequence += 1;
        self.queue.push(Reverse((at, self.sequence, act)));
    }

    fn record(&mut self, at: u64, input: Input) {
        self.sequence += 1;
        self.records.push((at, self.sequence, input));
    }

    /// A call of a thread that takes effect at about `time`: when it does, and when it ends.
    fn act(&mut self, time: u64, process: u32, thread: u32) -> (u64, u64) {
        let free = self.thread_free.entry((process, thread)).or_default();
        let effect = time.max(*free + 1_000);
        let end = effect + self.random.random_range(0..MS / 3);
        *free = end;
        (effect, end)
    }

    fn moment(&self, time: u64, process: u32, thread: u32) -> Moment {
        let mut moment = moment(time, process, thread);
        let looping = matches!(self.model, Model::EventLoop | Model::ForwardingLoop) && process == MIDDLE;
        (moment.nonblocking, moment.in_epoll) = (looping, looping);
        moment
    }

    fn serving(&self, process: u32) -> Serving {
        match self.model {
            Model::ForwardingLoop if process == MIDDLE => Serving::ManyPerThread,
            _ => Serving::Unknown,
        }
    }

    fn call(&mut self, time: u64, caller: (u32, u32, Option<usize>), to: u32) -> usize {
        let (process, thread, owner) = caller;
        let index = self.requests.len();
        let number = index as u64;
        let pool = self.idle_connections.entry((process, to)).or_default();
        let (connection, offset) = match pool.pop() {
            Some(idle) => idle,
            None => {
                self.connections += 2;
                let (a, b) = (ConnectionId(self.connections), ConnectionId(self.connections + 1));
                let known = time + self.random.random_range(0..50 * MS);
                self.record(known, Input::Joined { a, b, a_to_b: 70, b_to_a: -5 });
                (self.connections, 0)
            }
        };
        let passed_on = owner.is_some_and(|owner| self.requests[owner].context);
        let context = match self.model {
            Model::ForwardingLoop => process == DRIVERS || passed_on,
            _ => false,
        };
        let (effect, end) = self.act(time, process, thread);
        let began = self.moment(end, process, thread);
        let id = ExchangeId { connection: ConnectionId(connection), offset };
        self.truth.insert(number, owner.map(|owner| self.requests[owner].number));
        self.requests.push(Request {
            process: to,
            number,
            connection,
            offset,
            caller,
            reader: 0,
            worker: 0,
            writer: 0,
            calls_left: 0,
            context,
            client_began: began,
            server_began: None,
        });
        let head = self.head(index);
        self.record(
            end,
            Input::Opened {
                carried: Carried::Alone,
                id,
                role: Role::Client,
                began,
                at: began,
                head,
                ends: Endpoints::default(),
                resource: resource(&number.to_string()),
                serving: self.serving(process),
            },
        );
        let arrives = effect + self.random.random_range(0..MS / 5);
        self.schedule(arrives, Act::Arrive(index));
        index
    }

    /// The head of a request: a context, passed on from where the chain began.
    fn head(&self, index: usize) -> Box<crate::protocol::RequestHead> {
        let mut first = index;
        while let Some(owner) = self.requests[first].caller.2 {
            first = owner;
        }
        let value = format!("00-{:032x}-{:016x}-01", first + 1, first + 1);
        let fields = if self.requests[index].context {
            vec![(FieldName::Traceparent, value.into_bytes().into_boxed_slice())]
        } else {
            vec![]
        };
        request("GET", "/", fields)
    }

    fn arrive(&mut self, time: u64, index: usize) {
        let request = &self.requests[index];
        let (process, connection, offset, number) =
            (request.process, request.connection, request.offset, request.number);
        let own = 1_000 + connection as u32;
        let mut free_thread = || match self.idle_threads.pop() {
            Some(thread) => thread,
            None => {
                self.threads += 1;
                self.threads
            }
        };
        let (reader, worker, writer) = match self.model {
            _ if process == BACKEND => (own, own, own),
            Model::ThreadPerConnection => (own, own, own),
            Model::ThreadPool => {
                let thread = free_thread();
                (thread, thread, thread)
            }
            Model::EventLoop | Model::ForwardingLoop | Model::PollLoop => (1, 1, 1),
            Model::HandOver => {
                let thread = free_thread();
                (1, thread, thread)
            }
            Model::HandOverAndBack => (1, free_thread(), 1),
        };
        let (_, end) = self.act(time, process, reader);
        let began = self.moment(end, process, reader);
        let calls_left = if process == MIDDLE { self.random.random_range(0..4) } else { 0 };
        let head = self.head(index);
        let request = &mut self.requests[index];
        (request.reader, request.worker, request.writer) = (reader, worker, writer);
        (request.calls_left, request.server_began) = (calls_left, Some(began));
        let serving = self.serving(process);
        self.record(
            end,
            Input::Opened {
                carried: Carried::Alone,
                id: ExchangeId { connection: ConnectionId(connection + 1), offset: offset + 70 },
                role: Role::Server,
                began,
                at: began,
                head,
                ends: Endpoints::default(),
                resource: resource(&number.to_string()),
                serving,
            },
        );
        let think = self.random.random_range(0..10 * MS);
        self.schedule(end + think, Act::Work(index));
    }

    fn work(&mut self, time: u64, index: usize) {
        let request = &mut self.requests[index];
        let (process, worker, writer) = (request.process, request.worker, request.writer);
        if request.calls_left > 0 {
            request.calls_left -= 1;
            self.call(time, (process, worker, Some(index)), BACKEND);
            return;
        }
        let (effect, end) = self.act(time, process, writer);
        let at = self.moment(end, process, writer);
        let request = &self.requests[index];
        let id = ExchangeId { connection: ConnectionId(request.connection + 1), offset: request.offset + 70 };
        let began = request.server_began.unwrap();
        let closed = exchange(id, Role::Server, began, self.head(index), at);
        self.record(end, Input::Responding { id, at });
        self.record(end, Input::Closed(Box::new(closed)));
        if process == MIDDLE && worker < 1_000 && worker > 10 {
            self.idle_threads.push(worker);
        }
        let arrives = effect + self.random.random_range(0..MS / 5);
        self.schedule(arrives, Act::Got(index));
    }

    fn got(&mut self, time: u64, index: usize) {
        let (process, thread, owner) = self.requests[index].caller;
        let (_, end) = self.act(time, process, thread);
        let at = self.moment(end, process, thread);
        let request = &self.requests[index];
        let id = ExchangeId { connection: ConnectionId(request.connection), offset: request.offset };
        let to = request.process;
        let closed = exchange(id, Role::Client, request.client_began, self.head(index), at);
        self.record(end, Input::Responding { id, at });
        self.record(end, Input::Closed(Box::new(closed)));
        self.idle_connections.entry((process, to)).or_default().push((id.connection.0, id.offset + 100));
        let think = self.random.random_range(0..5 * MS);
        match owner {
            Some(owner) => self.schedule(end + think, Act::Work(owner)),
            None if process == DRIVERS => self.schedule(end + think, Act::Drive(thread)),
            None => {}
        }
    }

    /// A call that belongs to no request.
    fn timer(&mut self, time: u64) {
        if self.left == 0 {
            return;
        }
        let thread = if matches!(self.model, Model::EventLoop | Model::ForwardingLoop) { 1 } else { TIMER };
        self.call(time, (MIDDLE, thread, None), BACKEND);
        let next = time + self.random.random_range(MS..20 * MS);
        self.schedule(next, Act::Timer);
    }

    fn stitch(&self, settings: Settings) -> super::Told {
        let mut stitcher = stitcher(settings);
        let mut out = Vec::new();
        let mut next_poll = 0;
        for (time, _, input) in &self.records {
            if *time >= next_poll {
                stitcher.poll(Monotonic(*time), &mut out);
                next_poll = time + 100 * MS;
                assert_eq!(stitcher.ledger().balance(), (0, 0));
            }
            stitcher.handle(input.clone(), &mut out);
        }
        let end = stitcher.clock.0 + 61_000 * MS;
        stitcher.poll(Monotonic(end), &mut out);
        assert_eq!(stitcher.ledger().held, super::super::ledger::Held::default());
        assert_eq!(stitcher.nodes.len(), 0, "something is remembered for ever");
        assert_eq!(stitcher.bytes(), 0);
        assert!(stitcher.processes.is_empty());
        tell(out, stitcher.ledger())
    }
}

/// What a judge who knows the truth says of spans.
#[derive(Debug, Default, Eq, PartialEq)]
struct Verdict {
    /// With their true parent, or rightly without.
    right: usize,
    /// Without a parent that they have.
    orphan: usize,
    /// With a parent that is not theirs.
    wrong: usize,
    missing: usize,
}

fn judge(spans: &[Arc<Span>], truth: &HashMap<u64, Option<u64>>) -> Verdict {
    let number = |span: &Span| span.resource.service.parse::<u64>().unwrap();
    let by_id: HashMap<_, _> = spans.iter().map(|span| (span.id, (span.kind, number(span)))).collect();
    let mut verdict = Verdict { missing: truth.len() * 2 - spans.len(), ..Verdict::default() };
    for span in spans {
        let want = match span.kind {
            Kind::Server => Some((Kind::Client, number(span))),
            Kind::Client => truth[&number(span)].map(|owner| (Kind::Server, owner)),
        };
        // A parent that is not ours is a context's: the span that the driver's SDK would have made.
        let got = span.parent.and_then(|parent| by_id.get(&parent.span).copied());
        *match (got, want) {
            (got, want) if got == want => &mut verdict.right,
            (None, _) => &mut verdict.orphan,
            _ => &mut verdict.wrong,
        } += 1;
    }
    verdict
}

#[track_caller]
fn verdicts(model: Model, check: impl Fn(&Verdict, &super::Told)) {
    verdicts_with(Settings::default, model, check);
}

fn verdicts_with(settings: fn() -> Settings, model: Model, mut check: impl FnMut(&Verdict, &super::Told)) {
    for seed in 0..8 {
        for concurrency in [1, 3, 50] {
            let simulation = Simulation::run(model, seed, concurrency, 150);
            let told = simulation.stitch(settings());
            let verdict = judge(&told.spans, &simulation.truth);
            let context = format!("{model:?} {seed} {concurrency}: {verdict:?} {:#?}", told.ledger);
            assert_eq!((verdict.wrong, verdict.missing), (0, 0), "{context}");
            assert!(verdict.right > 300, "{context}");
            check(&verdict, &told);
        }
    }
}

#[test]
fn one_thread_per_connection_is_complete() {
    verdicts(Model::ThreadPerConnection, |verdict, told| {
        // A timer's call is an orphan by cause, and rightly has no parent.
        assert_eq!(verdict.orphan, 0, "{:#?}", told.ledger);
    });
}

#[test]
fn one_thread_per_request_is_complete() {
    verdicts(Model::ThreadPool, |verdict, told| assert_eq!(verdict.orphan, 0, "{:#?}", told.ledger));
}

#[test]
fn an_event_loops_calls_stay_orphans() {
    verdicts(Model::EventLoop, |_, told| assert_eq!(told.ledger.links.thread, 0));
}

#[test]
fn a_proxy_that_passes_contexts_on_is_complete() {
    verdicts(Model::ForwardingLoop, |verdict, told| {
        assert_eq!((verdict.orphan, told.ledger.links.thread), (0, 0), "{:#?}", told.ledger);
        assert!(told.ledger.links.forwarded > 100);
    });
}

#[test]
fn a_poll_loop_over_blocking_sockets_is_never_wrong() {
    verdicts(Model::PollLoop, |_, _| {});
}

#[test]
fn a_pool_that_hands_requests_over_is_never_wrong() {
    verdicts(Model::HandOver, |_, told| assert_eq!(told.ledger.links.thread, 0));
    verdicts(Model::HandOverAndBack, |_, told| assert_eq!(told.ledger.links.thread, 0));
}

#[test]
fn the_habits_of_a_pool_are_never_wrong_where_workers_answer_and_are_not_seen_where_they_do_not() {
    let inferring = || Settings { weakest_link: LinkMethod::Inferred, ..Settings::default() };
    let mut links = 0;
    verdicts_with(inferring, Model::HandOver, |_, told| links += told.ledger.links.inferred);
    assert!(links > 1_000, "{links}");
    verdicts_with(inferring, Model::HandOverAndBack, |_, told| assert_eq!(told.ledger.links.inferred, 0));
    verdicts_with(inferring, Model::PollLoop, |_, told| assert_eq!(told.ledger.links.inferred, 0));
}

#[test]
fn the_judge_calls_two_exchanged_parents_wrong_and_a_lost_span_missing() {
    let simulation = Simulation::run(Model::ThreadPool, 1, 3, 50);
    let mut spans = simulation.stitch(Settings::default()).spans;
    assert_eq!(judge(&spans, &simulation.truth).wrong, 0);
    let mut linked = (0..spans.len()).filter(|&i| spans[i].parent.is_some());
    let (a, b) = (linked.next().unwrap(), linked.next_back().unwrap());
    assert_ne!(spans[a].parent, spans[b].parent);
    let (first, second) = (spans[a].parent, spans[b].parent);
    Arc::make_mut(&mut spans[a]).parent = second;
    Arc::make_mut(&mut spans[b]).parent = first;
    assert_eq!(judge(&spans, &simulation.truth).wrong, 2);
    spans.pop();
    assert_eq!(judge(&spans, &simulation.truth).missing, 1);
}
