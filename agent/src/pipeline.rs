//! The one file that wires the stations: records in, spans out, wishes carried out.
//!
//! ```text
//!   Kernel ─▶ Streams ─▶ Connection ─▶ Stitcher ─▶ Exporter, terminal
//!      ▲         │            │ wishes
//!      └─────────┴────────────┘ policies
//! ```
//! One thread does all of this; exporting has its own. Nothing here may wait for anything but the next
//! record: a slow backend or terminal must never hold up the ring.

use std::collections::HashSet;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use foldhash::{HashMap, HashMapExt as _};
use spandrel_proto::counter::Counter as KernelCounter;
use spandrel_proto::record::{self, Data, FLAG_FIRST, FLAG_SEND, Record};

use spandrel_proto::tls::OF_GNUTLS;

use crate::books::{self, Books};
use crate::discover::hpack;
use crate::discover::runtimes::readers::{self, Order, Readers};
use crate::discover::runtimes::{Hit, Seen};
use crate::discover::secrets::Schedules;
use crate::discover::select::{Selection, Verdict};
use crate::discover::table::{ExecFacts, ProcessTable, candidate};
use crate::discover::tables::{self, Answer, Ask, Searcher};
use crate::discover::{self, searching};
use crate::exchange::{self, Connection, Want};
use crate::export::Exporter;
use crate::gaps::GapReport;
use crate::identity::{Address, ConnectionId, Direction, Moment, Monotonic, ProcessKey, Role, ThreadId};
use crate::intake::Kernel;
use crate::probe::sessions::{How, Sessions};
use crate::screen::Screen;
use crate::stitch::{Endpoints, Input, Output, Serving, Stitcher};
use crate::stream::{self, Event, Streams};
use crate::{clock, log, tls};

/// Records handled before the other work gets its turn: after so many there may be more.
pub const BATCH: usize = 4096;

/// Records handled between two looks for the secrets of TLS sessions.
const STEP: usize = 256;

/// Between two looks at spans that wait, and at the loss counters.
const POLL: u64 = 50_000_000;

/// A process's end is told to `stitch` so much later, so that what the kernel closes on its behalf comes
/// before.
const EXIT_DELAY: u64 = 1_000_000_000;

/// How long to wait for the next record at the end; far longer than a kernel program runs.
const PAUSE: Duration = Duration::from_millis(2);

/// Programs that are looked at as soon as they begin, a second: each look reads `/proc` for a tenth of a
/// millisecond. Any beyond is looked at when its first traffic is read.
const LOOKS: usize = 100;

/// Programs noted between two turns: a shell script begins some hundred a second.
const FRESH: usize = 64;

/// When to look for the libraries of a program that has begun, nanoseconds after it did: its linker takes
/// milliseconds, an interpreter's imports longer.
const LOADED: [u64; 4] = [20_000_000, 60_000_000, 120_000_000, 300_000_000];
/// With probes, what comes before they are there is not seen.
const LOADED_SOONER: [u64; 2] = [2_000_000, 8_000_000];

/// Connections whose secrets may come before the first record of them, which is milliseconds late at most. More are found
/// again at their next calls, or counted as sessions without a key.
const MAX_EARLY: usize = 4_096;
/// How long such secrets are kept, nanoseconds.
const EARLY_AGE: u64 = 10_000_000_000;

/// When the secrets of a session are searched for, nanoseconds after they were first missing, and after the search before.
const SEARCHES: [u64; 4] = [3_000_000, 100_000_000, 1_000_000_000, 5_000_000_000];
/// When they are in a program whose sessions are looked into at their calls: a handshake among many may take long.
const PLANNED: u64 = 150_000_000;
/// How long a connection that is over is kept at the most, nanoseconds, for a last search at each end: what a program has allocated
/// is not overwritten at once.
const AFTERLIFE: u64 = 6_000_000_000;
/// Connections whose secrets are searched for at once. Beyond, they wait as without a search.
const MAX_KEYLESS: usize = 1_024;

/// Processes whose verdict is remembered; as many as the process table knows. Beyond, all are asked again.
const MAX_VERDICTS: usize = 65_536;

/// Where finished spans go.
pub struct Sinks {
    /// To OTLP endpoints and files.
    pub exporter: Option<Exporter>,
    /// To the terminal.
    pub screen: Option<Screen>,
    /// Gaps to a file.
    pub gaps: Option<GapReport>,
}

/// What is known of processes.
pub struct Processes {
    /// Who they are.
    pub table: ProcessTable,
    /// What they are from inside.
    pub readers: Readers,
    /// Which are traced.
    pub selection: Selection,
    /// Hits a second above which a set of probes comes off, instead of the set's own bound; 0 for none.
    pub probe_hits: Option<u64>,
}

/// Everything between the ring and the sinks.
pub struct Pipeline {
    kernel: Kernel,
    readers: Readers,
    probe_hits: Option<u64>,
    words: Vec<u64>,
    /// Libraries that make TLS sessions; none if TLS is not to be read.
    sessions: Option<Sessions>,
    /// Processes that have just begun, and when to look for such libraries: once they are loaded.
    loading: std::collections::VecDeque<(Monotonic, ProcessKey)>,
    /// Searches for secrets of sessions; none if that is not allowed.
    secrets: Option<searching::Searcher>,
    /// Searches for what a late join hides; none if that is not allowed.
    searcher: Option<Searcher>,
    streams: Streams,
    behind: Behind,
    stitcher: Stitcher,
    sinks: Sinks,
    outputs: Vec<Output>,
    /// When losses were last looked for, and how many records were lost by then.
    looked: (Monotonic, u64),
    /// Records were lost before that.
    losing: bool,
    exits: std::collections::VecDeque<(Monotonic, ProcessKey)>,
    /// A test's hook: one data record in so many, at random, is dropped without being counted, so that a test can show
    /// that the books would tell.
    drop_one_in: Option<NonZeroU32>,
}

/// What stands behind the streams: they hand their pieces to it while they are at work themselves.
struct Behind {
    table: ProcessTable,
    selection: Selection,
    /// The verdict on each process that was asked about; empty without a selection.
    verdicts: HashMap<ProcessKey, Verdict>,
    connections: HashMap<ConnectionId, End>,
    inputs: Vec<Input>,
    wishes: Vec<(ConnectionId, Want)>,
    /// Connections may ask for tables; those that do now; those that wait for them.
    recall: bool,
    recalls: Vec<ConnectionId>,
    awaiting: Vec<ConnectionId>,
    gaps: Vec<stream::Gap>,
    ignore: Vec<ProcessKey>,
    /// Programs that have just begun.
    fresh: Vec<ProcessKey>,
    /// How many of them may still be looked at in this second.
    looks: usize,
    scratch: exchange::Output,
    /// Where sockets and TLS sessions meet.
    keys: tls::keys::Keys,
    /// Secrets of connections that no record has told of yet.
    early: HashMap<ConnectionId, Early>,
    /// TLS is looked for.
    tls: tls::May,
    /// Of which of the selected processes.
    tls_selection: Selection,
    /// Secrets may be searched for.
    searches: bool,
    /// Connections whose secrets are waited for.
    keyless: Vec<Keyless>,
    /// Plaintext comes from probes.
    probed: bool,
    /// What of it waits for a hello.
    waiting: tls::clear::Waiting,
    clear: tls::clear::Ledger,
    /// Sessions whose bytes need not be counted any more: of which process, and which party.
    over: Vec<(tls::Random, u32, tls::clear::Party)>,
    /// Processes that begin TLS sessions, and may not be known for it.
    encrypting: Vec<ProcessKey>,
    /// The books of connections that are gone.
    closed: (exchange::Ledger, exchange::Parsers, tls::Ledger),
    ledger: Ledger,
}

/// Secrets that came before the first record of their connection.
struct Early {
    since: Monotonic,
    secrets: tls::Secrets,
    /// They are of this connection only if it is older than we are.
    if_older: bool,
}

/// A connection whose secrets are waited for.
struct Keyless {
    connection: ConnectionId,
    /// When they were first missing, or last searched for.
    since: Monotonic,
    /// How often that was done.
    searched: usize,
    /// A search is under way, and has not been answered.
    asked: bool,
    /// That was the last: the connection is over.
    last: bool,
    /// It is over.
    closed: Option<stream::Closed>,
}

struct End {
    exchanges: Connection,
    ends: Endpoints,
    /// The process that used it last.
    process: Option<ProcessKey>,
    layer: tls::Layer,
    /// Its ClientHello is known to `keys`.
    hello: Option<tls::Random>,
    /// What was asked for last, once it is TLS: of what is received, of what is sent.
    asked: [Option<exchange::Policy>; 2],
    /// Secrets that were found before a hello was read.
    early: Option<tls::Secrets>,
    /// When it was opened.
    opened: Monotonic,
    /// Its plaintext, if probes read it.
    clear: Option<(tls::clear::Ways, ProcessKey)>,
    /// The last calls on its socket while probes read its plaintext: that received, that sent.
    calls: [Option<Moment>; 2],
    /// It is among those whose secrets are waited for.
    keyless: bool,
    /// The other end, if it is here.
    peer: Option<ConnectionId>,
}

impl End {
    /// The two ends and what lies between them.
    fn ends_of(&self) -> Endpoints {
        Endpoints { tls: self.layer.agreed(), ..self.ends.clone() }
    }
}

/// Records that no station gets: what the pipeline itself leaves out.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Ledger {
    /// Records of calls by processes that are not selected, made before the kernel side knew.
    pub not_selected_records: u64,
    /// The bytes captured in those.
    pub not_selected_bytes: u64,
}

impl Pipeline {
    /// Puts the stations together.
    pub fn new(
        kernel: Kernel,
        processes: Processes,
        streams: Streams,
        stitcher: Stitcher,
        sinks: Sinks,
        drop_one_in: Option<NonZeroU32>,
    ) -> Self {
        let Processes { table, readers, selection, probe_hits } = processes;
        Self {
            looked: (clock::monotonic(), kernel.counter(KernelCounter::RecordsRingFull)),
            losing: false,
            kernel,
            readers,
            probe_hits,
            words: Vec::new(),
            sessions: None,
            loading: Default::default(),
            secrets: None,
            searcher: None,
            streams,
            stitcher,
            sinks,
            behind: Behind {
                table,
                selection,
                verdicts: HashMap::new(),
                connections: HashMap::new(),
                inputs: Vec::new(),
                wishes: Vec::new(),
                recall: false,
                recalls: Vec::new(),
                awaiting: Vec::new(),
                gaps: Vec::new(),
                ignore: Vec::new(),
                fresh: Vec::new(),
                looks: LOOKS,
                scratch: exchange::Output::default(),
                keys: tls::keys::Keys::default(),
                early: HashMap::new(),
                tls: tls::May::NotBegin,
                tls_selection: Selection::default(),
                searches: false,
                keyless: Vec::new(),
                probed: false,
                waiting: Default::default(),
                clear: Default::default(),
                over: Vec::new(),
                encrypting: Vec::new(),
                closed: Default::default(),
                ledger: Ledger::default(),
            },
            outputs: Vec::new(),
            exits: Default::default(),
            drop_one_in,
        }
    }

    /// From now on TLS is read, in this way, of these among the selected processes. Looks at all processes that are there.
    pub fn read_tls(&mut self, how: How, of: Selection) {
        self.behind.tls = tls::May::Begin;
        self.behind.probed = how == How::Probes;
        self.behind.tls_selection = of;
        let Behind { table, selection, tls_selection, .. } = &self.behind;
        let mut sessions = Sessions::new(how);
        for (pid, description) in table.scanned() {
            let wanted = |selection: &Selection| {
                selection.is_everything()
                    || selection.verdict(&candidate(pid, description)) == Verdict::Selected
            };
            if pid != std::process::id() && wanted(selection) && wanted(tls_selection) {
                sessions.look(pid, &mut self.kernel);
            }
        }
        self.sessions = Some(sessions);
    }

    /// From now on, secrets of sessions that are not found otherwise are searched for in the memory of processes.
    pub fn search_secrets(&mut self) -> std::io::Result<()> {
        self.secrets = Some(searching::Searcher::start()?);
        self.behind.searches = true;
        Ok(())
    }

    /// Searches for secrets, and tries what was found.
    fn search(&mut self, now: Monotonic) {
        let Some(searcher) = &mut self.secrets else { return };
        self.behind.search(searcher, self.sessions.as_ref(), now);
        while let Some(answer) = searcher.answer() {
            self.behind.try_guesses(&answer, searcher, now);
        }
    }

    /// From now on, names that a late join hides are searched for in the memory of processes.
    pub fn recall_names(&mut self) -> std::io::Result<()> {
        self.searcher = Some(Searcher::start()?);
        self.behind.recall = true;
        Ok(())
    }

    /// Searches for tables, and hands over those that were found.
    fn recall(&mut self) {
        let Some(searcher) = &mut self.searcher else { return };
        let behind = &mut self.behind;
        for connection in std::mem::take(&mut behind.recalls) {
            let processes = behind
                .processes(connection)
                .map(|process| process.filter(|process| behind.may_look_into(*process)));
            let not_before = Monotonic(clock::monotonic().0 + exchange::QUIET);
            searcher.ask(Ask { connection, processes, not_before });
            if !behind.awaiting.contains(&connection) {
                behind.awaiting.push(connection);
            }
        }
        while let Some(answer) = searcher.answer() {
            let Answer { asks, began, ended, processes, incomplete } = answer;
            let found: Vec<_> = processes.iter().map(|found| (found, tables_of(found))).collect();
            for Ask { connection, processes, not_before: _ } in asks {
                let Some(end) = behind.connections.get_mut(&connection) else { continue };
                let mut searched = Vec::new();
                for (process, receives) in processes.into_iter().zip([Direction::Receive, Direction::Send]) {
                    let of_process = found.iter().filter(|(found, _)| Some(found.process) == process);
                    searched.extend(of_process.map(|(found, tables)| exchange::Searched {
                        of: found.receives_only.then_some(receives),
                        grpc_only: found.grpc_only,
                        tables: tables.clone(),
                    }));
                }
                let tables = exchange::Tables { began, ended, processes: searched, incomplete };
                end.exchanges.tables(&Arc::new(tables));
            }
        }
    }

    /// What there is to do for TLS: secrets that were found, processes to look into.
    fn meet(&mut self, now: Monotonic) {
        let Some(sessions) = &mut self.sessions else { return };
        for process in self.behind.encrypting.drain(..) {
            sessions.look(process.pid, &mut self.kernel);
        }
        while self.loading.front().is_some_and(|(due, _)| *due <= now) {
            if let Some((_, process)) = self.loading.pop_front()
                && self.behind.may_look_into(process)
                && self.behind.reads_tls(process)
            {
                sessions.look_again(process.pid, &mut self.kernel);
            }
        }
        let has_plans = sessions.has_plans() && sessions.how() == How::Keys;
        if has_plans {
            let behind = &mut self.behind;
            self.kernel.take_secrets(&mut |found| behind.secrets(found, now));
        }
        self.search(now);
        if has_plans {
            self.carry_out();
        }
    }

    /// The descriptor to wait for: readable while there is a record.
    pub fn ring(&self) -> &impl std::os::fd::AsFd {
        self.kernel.ring()
    }

    /// Takes at most so many records; how many there were.
    fn drain(&mut self, most: usize) -> usize {
        let Self { kernel, readers, words, stitcher, streams, behind, exits, drop_one_in, sessions, .. } =
            self;
        kernel.drain(most, &mut |record| match record {
            Record::Data { data, words: found, bytes } => {
                let dropped = drop_one_in.is_some_and(|every| rand::random_ratio(1, every.get()));
                match behind.admits(&data) {
                    _ if dropped => {}
                    Verdict::Selected => {
                        let process = stream::process(&data.header);
                        let first = data.header.flags & FLAG_FIRST != 0;
                        let evidence = if first && readers.knows(process) {
                            words.clear();
                            words.extend(record::words(found));
                            let facts = readers.read(process, &seen(&data, words, bytes));
                            stitcher.note(facts)
                        } else {
                            None
                        };
                        streams.data(&data, evidence, bytes, &mut |event| behind.event(event));
                    }
                    Verdict::IfItServes => {}
                    Verdict::No => {
                        let (connection, time) = (data.socket.connection, data.header.time);
                        streams.leave_out(ConnectionId(connection), Monotonic(time), &mut |event| {
                            behind.event(event);
                        });
                    }
                }
            }
            Record::Opened { opened, path } => {
                streams.opened(&opened, path, &mut |event| behind.event(event))
            }
            Record::Connecting { connecting, words: found } => {
                let process = stream::process(&connecting.header);
                if behind.admits_process(process) != Verdict::Selected {
                    return;
                }
                let evidence = readers.knows(process).then(|| {
                    words.clear();
                    words.extend(record::words(found));
                    let seen = Seen {
                        tag: connecting.walk,
                        words,
                        time: Monotonic(connecting.header.time),
                        thread: ThreadId(connecting.header.thread),
                        connection: ConnectionId(connecting.socket.connection),
                        direction: Direction::Send,
                        bytes: &[],
                    };
                    readers.read(process, &seen)
                });
                let evidence = evidence.and_then(|facts| stitcher.note(facts));
                streams.connecting(&connecting, evidence, &mut |event| behind.event(event));
            }
            Record::State(state) => streams.state(&state, &mut |event| behind.event(event)),
            Record::Exec { header, cgroup, filename, arguments } => {
                let key = stream::process(&header);
                behind.verdicts.remove(&key);
                readers.began(key);
                if let Some(exec) = key.exec.checked_sub(1) {
                    readers.ended(ProcessKey { exec, ..key });
                }
                if behind.fresh.len() < FRESH {
                    behind.fresh.push(key);
                }
                behind.table.exec(ExecFacts {
                    key,
                    filename: filename.to_vec(),
                    argv: arguments.to_vec(),
                    cgroup_id: cgroup,
                    time: Monotonic(header.time),
                });
            }
            Record::Fork(fork) => {
                let child = ProcessKey { pid: fork.pid, exec: fork.exec, started: fork.started };
                behind.table.fork(stream::process(&fork.header), child, Monotonic(fork.header.time));
            }
            Record::Observed { observed, words: found } => {
                let process = stream::process(&observed.header);
                words.clear();
                words.extend(record::words(found));
                let hit = Hit {
                    address: observed.address,
                    tag: observed.walk,
                    words,
                    time: Monotonic(observed.header.time),
                    thread: ThreadId(observed.header.thread),
                };
                for birth in readers.observed(process, &hit) {
                    behind.inputs.push(Input::Born { process, birth });
                }
            }
            Record::Plain { plain, bytes } => {
                let process = stream::process(&plain.header);
                if behind.admits_process(process) == Verdict::Selected {
                    let since = sessions
                        .as_ref()
                        .and_then(|sessions| sessions.since(process.pid, plain.party & OF_GNUTLS));
                    behind.plain(clear(&plain, bytes, since));
                }
            }
            Record::Exit(header) => {
                let (process, time) = (stream::process(&header), Monotonic(header.time));
                streams.process_exited(process, time, &mut |event| behind.event(event));
                behind.table.exit(process, time);
                readers.ended(process);
                behind.verdicts.remove(&process);
                exits.push_back((time, process));
            }
        })
    }

    /// Does what there is to do now; how many records there were.
    pub fn turn(&mut self) -> usize {
        let mut taken = 0;
        let step = if self.sessions.is_some() { STEP } else { BATCH };
        let read = loop {
            let now = clock::monotonic();
            // Secrets are found before what they open is moved, so they must be taken before it is read: a
            // session may begin and end within one turn.
            self.meet(now);
            let some = self.drain(step);
            taken += some;
            if some < step || taken >= BATCH {
                break now;
            }
        };
        let Self { kernel, behind, .. } = self;
        // A program's environment is in no record, and short programs are gone before their traffic is read.
        for process in behind.fresh.drain(..) {
            if let Some(sessions) = &mut self.sessions
                && self.loading.len() < FRESH * FRESH
            {
                // What was known of it was another program's.
                sessions.exited(process.pid, kernel);
                let sooner = LOADED_SOONER.into_iter().filter(|_| sessions.how() == How::Probes);
                for delay in sooner.chain(LOADED) {
                    let due = Monotonic(clock::monotonic().0 + delay);
                    let place = self.loading.partition_point(|(other, _)| *other <= due);
                    self.loading.insert(place, (due, process));
                }
            }
            if behind.looks > 0 {
                behind.looks -= 1;
                behind.table.resource(process);
            }
        }
        self.carry_out();
        self.meet(clock::monotonic());
        // Only when the ring is empty is what was lost behind what was read. All that the kernel told of until the ring was
        // last read has been seen; what this thread was kept waiting since then is nobody's silence.
        if taken < BATCH && read.since(self.looked.0) >= POLL {
            self.poll(read);
        }
        self.stitch();
        taken
    }

    /// What time alone brings about.
    fn poll(&mut self, now: Monotonic) {
        let lost = self.kernel.counter(KernelCounter::RecordsRingFull);
        let behind = &mut self.behind;
        self.streams.poll(now, &mut |event| behind.event(event));
        // A note may be written a little after the counter, so it is also looked for once after the last.
        if lost != self.looked.1 || self.losing {
            for (connection, loss) in self.kernel.new_losses(now) {
                self.streams.lost(connection, &loss, &mut |event| behind.event(event));
            }
            behind.inputs.push(Input::RecordsLost { since: self.looked.0, until: now });
            self.readers.lost();
        }
        self.losing = lost != self.looked.1;
        self.looked = (now, lost);
        while self.exits.front().is_some_and(|(time, _)| now.since(*time) > EXIT_DELAY) {
            if let Some((time, process)) = self.exits.pop_front() {
                self.kernel.set_ignored(process.pid, None);
                if let Some(sessions) = &mut self.sessions {
                    sessions.exited(process.pid, &mut self.kernel);
                }
                self.behind.inputs.push(Input::ProcessExited { process, time });
            }
        }
        for (process, name, hits) in self.kernel.enforce_budgets(now) {
            log::warn(format_args!(
                "process {}: {name} is not watched any more: {hits} hits a second; --probe-hits says how many may be",
                process.pid
            ));
            self.readers.unobserved(process, name);
        }
        self.behind.table.expire(now);
        self.behind.keys.expire(now);
        self.behind.waiting.expire(now, &mut self.behind.clear);
        if let Some(sessions) = &mut self.sessions {
            sessions.sweep();
        }
        self.behind.let_go(now);
        self.behind.early.retain(|_, early| now.since(early.since) < EARLY_AGE);
        self.carry_out();
        for input in self.behind.inputs.drain(..) {
            self.stitcher.handle(input, &mut self.outputs);
        }
        self.stitcher.poll(now, &mut self.outputs);
    }

    /// Carries out wishes and reports gaps.
    fn carry_out(&mut self) {
        for (process, _, claims) in self.stitcher.take_unowned() {
            self.readers.orphaned(process, &claims);
        }
        self.readers.collect();
        let (mut attached, mut failed) = (Vec::new(), Vec::new());
        for order in self.readers.orders() {
            match order {
                Order::Walk(process, walks) => self.kernel.walks().walk(process, &walks),
                Order::Stop(process) => self.kernel.forget(process),
                Order::Observe(process, mut set) => {
                    if let Some(budget) = self.probe_hits {
                        set.budget = budget;
                    }
                    match self.kernel.observe(process, &set) {
                        Ok(()) => {
                            attached.push((process, set.name, clock::monotonic()));
                            log::info(format_args!(
                                "process {}: {} is watched, {} probes attached",
                                process.pid,
                                set.name,
                                set.points.len()
                            ));
                        }
                        Err(error) => {
                            log::warn(format_args!(
                                "process {}: {} cannot be watched: {error:#}",
                                process.pid, set.name
                            ));
                            failed.push((process, set.name));
                        }
                    }
                }
                Order::Unobserve(process, name) => self.kernel.unobserve(process, name),
                Order::Doubt(process) => {
                    log::info(format_args!(
                        "process {}: what one request set going answered another: no link is inferred any more",
                        process.pid
                    ));
                    self.behind.inputs.push(Input::Doubted { process });
                }
            }
        }
        for (process, name, at) in attached {
            self.readers.attached(process, name, at);
        }
        for (process, name) in failed {
            self.readers.unobserved(process, name);
        }
        for (connection, Want { direction, policy }) in self.behind.wishes.drain(..) {
            if let Some(policy) = self.streams.policy(connection, direction, policy) {
                self.kernel.set_policy(connection, direction, policy);
            }
        }
        self.recall();
        for (random, pid, party) in self.behind.over.drain(..) {
            let party = match party {
                tls::clear::Party::Client => record::PARTY_CLIENT,
                tls::clear::Party::Server => record::PARTY_SERVER,
            };
            self.kernel.forget_clear(&random, pid, party);
        }
        for process in self.behind.ignore.drain(..) {
            self.kernel.set_ignored(process.pid, Some(process.started));
        }
        for gap in self.behind.gaps.drain(..) {
            if let Some(report) = &mut self.sinks.gaps {
                report.write(&gap);
            }
        }
    }

    fn stitch(&mut self) {
        for input in self.behind.inputs.drain(..) {
            self.stitcher.handle(input, &mut self.outputs);
        }
        for output in self.outputs.drain(..) {
            if let (Output::Ended(span), Some(exporter)) = (&output, &self.sinks.exporter) {
                exporter.offer(Arc::clone(span));
            }
            if let Some(screen) = &self.sinks.screen {
                screen.show(output);
            }
        }
    }

    /// Once a second: the clock's offset, and the counters that the exporter may send.
    pub fn refresh(&mut self) {
        self.behind.looks = LOOKS;
        self.stitcher.set_wall_offset(clock::wall_offset());
        let books = self.books();
        if let Some(exporter) = &self.sinks.exporter {
            exporter.publish(books::counters(&books));
        }
    }

    /// All books, now.
    pub fn books(&self) -> Books {
        let (mut exchange, mut parsers, mut tls) = self.behind.closed.clone();
        for end in self.behind.connections.values() {
            tls.add(&end.layer.ledger());
            exchange.add(&end.exchanges.ledger());
            parsers.add(&end.exchanges.parser_ledger());
        }
        Books {
            kernel: Some(books::Kernel {
                counters: self.kernel.counters(),
                unseen_calls: self.kernel.unseen_calls(),
            }),
            intake: self.kernel.ledger(),
            pipeline: self.behind.ledger,
            stream: self.streams.ledger(),
            tls,
            keys: self.behind.keys.ledger(),
            clear: self.behind.clear,
            parsers,
            exchange,
            stitch: self.stitcher.ledger(),
            failed_connects: self.stitcher.failed_connects().collect(),
            discover: self.behind.table.ledger(),
            sessions: self.sessions.as_ref().map(Sessions::ledger).unwrap_or_default(),
            secrets: self.secrets.as_ref().map(searching::Searcher::ledger).unwrap_or_default(),
            tables: self.searcher.as_ref().map(Searcher::ledger).unwrap_or_default(),
            runtimes: readers::Ledger {
                walks_refused: self.kernel.refused_walks(),
                probes: self.kernel.uprobes(),
                ..self.readers.ledger()
            },
            terminal: self.sinks.screen.as_ref().map(Screen::ledger),
            export: None,
        }
    }

    /// The end: takes what the ring still holds, closes what is open, and hands over the sinks.
    pub fn finish(mut self) -> (Books, Sinks) {
        // The ring must not fill up while the programs are detached. Afterwards the kernel's counters stand
        // still, so that the books can be compared to the byte, and what is in the ring is all there will be.
        let detaching = self.kernel.detach();
        while detaching.as_ref().is_some_and(|thread| !thread.is_finished()) {
            if self.turn() == 0 {
                std::thread::sleep(PAUSE);
            }
        }
        // A program that was running on another CPU may have been in the middle of a record.
        std::thread::sleep(PAUSE);
        while self.turn() > 0 {}
        let now = clock::monotonic();
        self.poll(now);
        for keyless in std::mem::take(&mut self.behind.keyless) {
            if let Some(closed) = keyless.closed {
                self.behind.close(keyless.connection, &closed);
            }
        }
        for end in self.behind.connections.values_mut() {
            end.layer.close();
            end.exchanges.abandoned(&mut self.behind.scratch);
        }
        let events = std::mem::take(&mut self.behind.scratch.events);
        for event in events {
            if let exchange::Event::Closed(exchange) = event {
                self.behind.inputs.push(Input::Closed(exchange));
            }
        }
        self.stitch();
        self.stitcher.finish(now, &mut self.outputs);
        self.stitch();
        let books = self.books();
        (books, self.sinks)
    }
}

/// A process's tables as `exchange` takes them.
fn tables_of(found: &tables::Process) -> Vec<exchange::Table> {
    let entry = |entry: &hpack::Entry| {
        let hpack::Entry { name, value, size } = entry;
        exchange::TableEntry { name: name.clone(), value: value.clone(), size: *size as usize }
    };
    let table = |(entries, limit): &(Arc<[hpack::Entry]>, u64)| exchange::Table {
        entries: entries.iter().map(entry).collect(),
        limit: *limit as usize,
    };
    found.tables.iter().map(table).collect()
}

/// How many exchanges wait for header tables, over all connections, but for a few of each: far less than `stitch` has room for.
const MAX_RECALLING: usize = 8192;

/// The exchanges of a connection of which nothing is known yet.
fn conversation(recall: bool, connection: ConnectionId, born_here: bool) -> Connection {
    let fresh = Connection::new(connection, born_here);
    if recall { fresh.recalling() } else { fresh }
}

/// How a process serves, as `stitch` says it.
fn serving(table: &mut ProcessTable, process: ProcessKey) -> Serving {
    match table.serving(process) {
        discover::Serving::Unknown => Serving::Unknown,
        discover::Serving::OneRequestPerThread => Serving::OneRequestPerThread,
        discover::Serving::OneIfBlocking => Serving::OneIfBlocking,
        discover::Serving::ManyPerThread => Serving::ManyPerThread,
    }
}

/// A piece of plaintext, as `tls` sees it.
fn clear(plain: &record::Plain, bytes: &[u8], since: Option<Monotonic>) -> tls::clear::Clear {
    let flag = |flag: u16| plain.header.flags & flag != 0;
    let behind = u64::from(plain.total.saturating_sub(plain.skip).saturating_sub(plain.captured));
    tls::clear::Clear {
        random: plain.random,
        party: match plain.party & !OF_GNUTLS {
            record::PARTY_CLIENT => Some(tls::clear::Party::Client),
            record::PARTY_SERVER => Some(tls::clear::Party::Server),
            _ => None,
        },
        direction: if flag(FLAG_SEND) { Direction::Send } else { Direction::Receive },
        place: plain.place.saturating_add(u64::from(plain.skip)),
        rest: if flag(record::FLAG_LAST) { behind } else { 0 },
        first: flag(FLAG_FIRST),
        last: flag(record::FLAG_LAST),
        counted: !flag(record::FLAG_LATE),
        since,
        began: Monotonic(plain.began),
        moment: Moment {
            time: Monotonic(plain.header.time),
            process: stream::process(&plain.header),
            thread: ThreadId(plain.header.thread),
            // How the socket is set, its own calls tell.
            nonblocking: true,
            in_epoll: true,
            evidence: None,
        },
        bytes: bytes.to_vec(),
    }
}

/// A call, as the readers of runtimes see it.
fn seen<'a>(data: &Data, words: &'a [u64], bytes: &'a [u8]) -> Seen<'a> {
    Seen {
        tag: data.walk,
        words,
        time: Monotonic(data.header.time),
        thread: ThreadId(data.header.thread),
        connection: ConnectionId(data.socket.connection),
        direction: if data.header.flags & FLAG_SEND != 0 { Direction::Send } else { Direction::Receive },
        bytes,
    }
}

impl Behind {
    /// Whether a call's bytes are wanted: the kernel side records everything until it is told otherwise.
    fn admits(&mut self, data: &Data) -> Verdict {
        if self.selection.is_everything() {
            return Verdict::Selected;
        }
        let process = stream::process(&data.header);
        let verdict = self.admits_process(process);
        if verdict == Verdict::IfItServes {
            let connection = ConnectionId(data.socket.connection);
            let local = self.connections.get(&connection).and_then(|end| end.ends.local.as_ref());
            if matches!(local, Some(Address::Ip(ip)) if self.selection.serves(ip.port())) {
                self.verdicts.insert(process, Verdict::Selected);
                // It was not looked into when the agent started, and may have sessions that are older.
                if self.encrypting.len() < FRESH && self.reads_tls(process) {
                    self.encrypting.push(process);
                }
                return Verdict::Selected;
            }
        }
        if verdict != Verdict::Selected {
            self.ledger.not_selected_records += 1;
            self.ledger.not_selected_bytes += u64::from(data.captured);
        }
        verdict
    }

    /// Whether a process is traced.
    fn admits_process(&mut self, process: ProcessKey) -> Verdict {
        if self.selection.is_everything() {
            return Verdict::Selected;
        }
        if let Some(verdict) = self.verdicts.get(&process) {
            return *verdict;
        }
        let verdict = self.table.verdict(process, &self.selection);
        if verdict == Verdict::No {
            self.ignore.push(process);
        }
        // Entries go with their process; this is for those whose exit record was lost.
        if self.verdicts.len() >= MAX_VERDICTS {
            self.verdicts.clear();
        }
        self.verdicts.insert(process, verdict);
        verdict
    }

    fn event(&mut self, event: Event<'_>) {
        match event {
            Event::Connecting { connection, at, peer } => {
                let serving = serving(&mut self.table, at.process);
                self.inputs.push(Input::Connecting { connection, at: *at, peer, serving });
            }
            Event::Connected { connection } => self.inputs.push(Input::Connected { connection }),
            Event::ConnectFailed { connection, time, errno } => {
                self.inputs.push(Input::ConnectFailed { connection, time, errno });
            }
            Event::Opened(opened) => {
                let known = |address: &Address| match address {
                    Address::Ip(ip) if ip.port() == 0 => None,
                    known => Some(known.clone()),
                };
                let ends = Endpoints {
                    local: known(&opened.local),
                    peer: known(&opened.peer),
                    // Two TCP ends are joined when they are opened, unix ends at their first records, which
                    // can come in any order.
                    born_here: opened.born_here && matches!(opened.local, Address::Ip(_)),
                    tls: None,
                };
                let fresh = conversation(self.recall, opened.connection, opened.born_here);
                let layer = if self.probed { tls::Layer::probed() } else { tls::Layer::default() };
                self.connections
                    .entry(opened.connection)
                    .and_modify(|end| end.ends = ends.clone())
                    .or_insert_with(|| End {
                        exchanges: fresh,
                        ends,
                        process: None,
                        layer,
                        opened: opened.time,
                        clear: None,
                        calls: [None; 2],
                        hello: None,
                        asked: [None; 2],
                        early: None,
                        keyless: false,
                        peer: None,
                    });
                if let Some(Early { secrets, if_older, .. }) = self.early.remove(&opened.connection)
                    && !(if_older && opened.born_here)
                {
                    self.early(opened.connection, &secrets);
                }
            }
            Event::Piece { connection, direction, piece } => {
                let recall = self.recall;
                let reads_tls = self.reads_tls(piece.moment.process);
                let Some(end) = self.connections.get_mut(&connection) else { return };
                end.process = Some(piece.moment.process);
                if log::is_on(log::Level::Trace) {
                    let (what, length) = match piece.content {
                        stream::Content::Bytes(bytes) => ("bytes", bytes.len() as u64),
                        stream::Content::Gap { length, cause } => (cause.name(), length),
                    };
                    log::trace(format_args!(
                        "{connection:?} {direction:?} {}: {length} {what}",
                        piece.offset
                    ));
                }
                let End { exchanges, layer, .. } = end;
                let scratch = &mut self.scratch;
                let may = match exchanges.protocol() {
                    exchange::Classified::Unknown | exchange::Classified::Other(_) if reads_tls => self.tls,
                    _ => tls::May::NotBegin,
                };
                if layer.begins(&piece, may) && matches!(exchanges.protocol(), exchange::Classified::Other(_))
                {
                    // What is spoken inside is not what was seen outside.
                    let fresh = conversation(recall, connection, false);
                    let mut outside = std::mem::replace(exchanges, fresh);
                    outside.abandoned(scratch);
                    self.closed.0.add(&outside.ledger());
                    self.closed.1.add(&outside.parser_ledger());
                }
                layer.piece(direction, &piece, may, &mut |direction, piece| {
                    exchanges.piece(direction, &piece, scratch);
                });
                if layer.state() != tls::State::Plain {
                    end.calls[usize::from(direction == Direction::Send)] = Some(*piece.moment);
                    self.encrypted(connection, piece.moment);
                }
                self.pass_on(connection);
            }
            Event::Joined { a, b, a_to_b, b_to_a } => {
                for (one, other) in [(a, b), (b, a)] {
                    if let Some(end) = self.connections.get_mut(&one) {
                        end.peer = Some(other);
                    }
                    let secrets = self.connections.get(&one).and_then(|end| end.early.clone());
                    if let Some(secrets) = secrets {
                        self.late(other, &secrets);
                    }
                }
                self.inputs.push(Input::Joined { a, b, a_to_b, b_to_a });
            }
            // A half-closed connection can still be written to: its exchange goes on until it is closed.
            Event::Finished { .. } => {}
            Event::Closed { connection, closed } => {
                let waits = |end: &End| end.keyless && end.layer.state() == tls::State::Waiting;
                if self.connections.get(&connection).is_some_and(waits)
                    && let Some(keyless) =
                        self.keyless.iter_mut().find(|other| other.connection == connection)
                {
                    // What it said may be read yet.
                    keyless.closed = Some(closed.clone());
                    return;
                }
                self.close(connection, closed);
            }
            Event::Abandoned { connection, time } => {
                if let Some(mut end) = self.connections.remove(&connection) {
                    self.end_layer(connection, &mut end);
                    end.exchanges.abandoned(&mut self.scratch);
                    let ends = end.ends_of();
                    self.closed.0.add(&end.exchanges.ledger());
                    self.closed.1.add(&end.exchanges.parser_ledger());
                    self.closed.2.add(&end.layer.ledger());
                    self.pass_on_of(connection, &ends);
                }
                self.inputs.push(Input::ConnectionClosed { connection, time });
            }
            Event::Gap(gap) => self.gaps.push(gap.clone()),
        }
    }

    /// A connection is over.
    fn close(&mut self, connection: ConnectionId, closed: &stream::Closed) {
        if let Some(mut end) = self.connections.remove(&connection) {
            self.end_layer(connection, &mut end);
            end.exchanges.closed(closed, &mut self.scratch);
            let ends = end.ends_of();
            self.closed.0.add(&end.exchanges.ledger());
            self.closed.1.add(&end.exchanges.parser_ledger());
            self.closed.2.add(&end.layer.ledger());
            self.pass_on_of(connection, &ends);
        }
        self.inputs.push(Input::ConnectionClosed { connection, time: closed.time });
    }

    /// The processes at this end and at the other, as far as they are known.
    fn processes(&self, connection: ConnectionId) -> [Option<ProcessKey>; 2] {
        let end = self.connections.get(&connection);
        let other = end.and_then(|end| end.peer).and_then(|peer| self.connections.get(&peer));
        [end, other].map(|end| end.and_then(|end| end.process))
    }

    /// Lets go of exchanges that have waited for tables for long enough.
    fn let_go(&mut self, now: Monotonic) {
        let awaiting = std::mem::take(&mut self.awaiting);
        let room = MAX_RECALLING / awaiting.len().max(1);
        for connection in awaiting {
            let Some(end) = self.connections.get_mut(&connection) else { continue };
            end.exchanges.poll(now, &mut self.scratch);
            end.exchanges.set_tables_room(room);
            if end.exchanges.awaits_tables() {
                self.awaiting.push(connection);
            }
            self.pass_on(connection);
        }
    }

    /// Whether a process's sessions may be looked into: never before it is known to be selected.
    fn may_look_into(&mut self, process: ProcessKey) -> bool {
        self.selection.is_everything() || self.table.verdict(process, &self.selection) == Verdict::Selected
    }

    /// Whether a selected process's TLS may be read.
    fn reads_tls(&mut self, process: ProcessKey) -> bool {
        self.tls_selection.is_everything()
            || self.table.verdict(process, &self.tls_selection) == Verdict::Selected
    }

    /// A piece of TLS came: says what is needed to read it.
    fn encrypted(&mut self, connection: ConnectionId, moment: &Moment) {
        let Some(end) = self.connections.get_mut(&connection) else { return };
        let random = end.layer.random();
        if random != end.hello {
            if let Some(before) = end.hello.take() {
                self.keys.closed(&before, connection);
            }
            end.hello = random;
            if self.encrypting.len() < FRESH {
                self.encrypting.push(moment.process);
            }
            if let Some(secrets) = random.and_then(|random| self.keys.hello(random, connection, moment.time))
            {
                let End { exchanges, layer, .. } = end;
                let scratch = &mut self.scratch;
                layer.secrets(&secrets, &mut |direction, piece| exchanges.piece(direction, &piece, scratch));
            }
            let early = self.connections.get_mut(&connection).and_then(|end| end.early.take());
            if let (Some(random), Some(secrets)) = (random, early) {
                self.found(random, &secrets, moment.time);
            }
            if let Some(random) = random.filter(|_| self.probed) {
                for clear in self.waiting.take(&random, &mut self.clear) {
                    self.place(clear);
                }
            }
        }
        if let Some(end) = self.connections.get_mut(&connection)
            && self.searches
            && !end.keyless
            && end.layer.state() == tls::State::Waiting
            && self.keyless.len() < MAX_KEYLESS
        {
            end.keyless = true;
            self.keyless.push(Keyless {
                connection,
                since: moment.time,
                searched: 0,
                asked: false,
                last: false,
                closed: None,
            });
        }
        self.ask(connection);
    }

    /// Asks for searches for the secrets of connections that have waited for long enough, and lets go of those that are over and
    /// have waited for long enough for that.
    fn search(&mut self, searcher: &mut searching::Searcher, sessions: Option<&Sessions>, now: Monotonic) {
        // Of a session's two ends one is searched at a time: what is found at one serves both.
        let under_way = self.keyless.iter().filter(|keyless| keyless.asked);
        let under_way = under_way.filter_map(|keyless| self.connections.get(&keyless.connection)?.hello);
        let mut under_way: HashSet<tls::Random> = under_way.collect();
        // And no end is let go of while the other may still be searched.
        let hopeful = self.keyless.iter().filter(|keyless| !keyless.last);
        let hopeful = hopeful.filter_map(|keyless| self.connections.get(&keyless.connection)?.hello);
        let hopeful: HashSet<tls::Random> = hopeful.collect();
        for mut keyless in std::mem::take(&mut self.keyless) {
            let processes = self.processes(keyless.connection);
            let Some(end) = self.connections.get_mut(&keyless.connection) else { continue };
            let (state, random) = (end.layer.state(), end.hello);
            let searched_now = random.is_some_and(|random| under_way.contains(&random));
            let waits = state == tls::State::Waiting;
            let version = end.layer.version();
            let schedules = match end.layer.wants_key() {
                true => Schedules::Wanted,
                false => Schedules::Unwanted,
            };
            if let Some(closed) = &keyless.closed
                && (!waits
                    || now.since(closed.time) > AFTERLIFE
                    || !searched_now && random.is_none_or(|random| !hopeful.contains(&random)))
            {
                self.close(keyless.connection, closed);
                continue;
            }
            if !waits || keyless.searched >= SEARCHES.len() && keyless.closed.is_none() {
                end.keyless = waits;
                continue;
            }
            let has_plan =
                |process: &ProcessKey| sessions.is_some_and(|all| all.has_plan(process.pid, version));
            let planned = processes.iter().flatten().any(has_plan);
            let delay = SEARCHES.get(keyless.searched).copied().unwrap_or(u64::MAX);
            let delay = if planned { delay.max(PLANNED) } else { delay };
            let last = keyless.closed.is_some();
            if !searched_now
                && !keyless.last
                && (last || now.since(keyless.since) >= delay)
                && let ([Some(process), _], Some(random)) = (processes, random)
                && self.may_look_into(process)
            {
                let connection = keyless.connection;
                let since = self.keys.since(&random).unwrap_or_default();
                keyless.asked =
                    searcher.ask(searching::Ask { connection, process, random, since, schedules });
                if keyless.asked {
                    under_way.insert(random);
                }
                keyless.searched += 1;
                (keyless.since, keyless.last) = (now, last);
            } else if last && !searched_now {
                // There is nobody to ask.
                keyless.last = true;
            }
            self.keyless.push(keyless);
        }
    }

    /// Tries what a search has found on the connections that it was made for.
    fn try_guesses(
        &mut self,
        answer: &searching::Answer,
        searcher: &mut searching::Searcher,
        now: Monotonic,
    ) {
        let mut trial = tls::Trial::default();
        for guess in &answer.guesses {
            let traffic = guess.traffic.iter().map(|secret| tls::Secret::new(secret.as_slice())).collect();
            trial.add(guess.session, tls::Secrets { traffic, ..tls::Secrets::default() });
        }
        answer.keys.iter().for_each(|key| trial.add_key(key));
        let answered: HashSet<ConnectionId> = answer.asks.iter().map(|ask| ask.connection).collect();
        for keyless in self.keyless.iter_mut().filter(|keyless| answered.contains(&keyless.connection)) {
            (keyless.asked, keyless.since) = (false, now);
        }
        for (number, ask) in answer.asks.iter().enumerate() {
            let Some(end) = self.connections.get(&ask.connection) else { continue };
            if end.layer.state() == tls::State::Waiting
                && end.hello == Some(ask.random)
                && let Some(secrets) = end.layer.fits(&mut trial, number)
            {
                searcher.opened();
                self.found(ask.random, &secrets, now);
            }
        }
    }

    /// A probe has read plaintext.
    fn plain(&mut self, clear: tls::clear::Clear) {
        self.clear.moved += clear.bytes.len() as u64 + clear.rest;
        self.place(clear);
    }

    /// Puts plaintext where it belongs, or keeps it until that is known.
    fn place(&mut self, mut clear: tls::clear::Clear) {
        use tls::clear::{Candidate, Choice, Ways, choose};
        let candidates = self.keys.connections(&clear.random).iter().filter_map(|&connection| {
            let end = self.connections.get(&connection)?;
            Some(Candidate { connection, process: end.process?, party: end.layer.party() })
        });
        let connection = match choose(candidates, clear.moment.process, clear.party) {
            Choice::One(connection) => connection,
            Choice::None => return self.waiting.keep(clear, &mut self.clear),
            Choice::Several => {
                self.clear.ambiguous += clear.bytes.len() as u64 + clear.rest;
                return;
            }
        };
        let Some(end) = self.connections.get_mut(&connection) else { return };
        let Some(party) = end.layer.party() else { return };
        let fresh = end.clear.is_none();
        // A call that was under way when the probes came is not seen at its end: a connection must be younger than they are.
        let from_birth = clear.party.is_some()
            && end.ends.born_here
            && clear.since.is_some_and(|since| end.opened > since);
        let process = clear.moment.process;
        let (mut ways, first) = end.clear.unwrap_or_else(|| (Ways::new(from_birth, party), process));
        // Each process that has a session, or both parties where they are not told apart, are counted by themselves.
        clear.counted &= first == process && clear.party.is_some();
        if fresh {
            self.keys.read(&clear.random);
            *if from_birth { &mut self.clear.counted } else { &mut self.clear.uncounted } += 1;
            if !from_birth {
                // Calls that were under way may have moved what was not seen.
                let fresh = conversation(self.recall, connection, false);
                let mut unseen = std::mem::replace(&mut end.exchanges, fresh);
                unseen.abandoned(&mut self.scratch);
                self.closed.0.add(&unseen.ledger());
                self.closed.1.add(&unseen.parser_ledger());
            }
        }
        let call = end.calls[usize::from(clear.direction == Direction::Send)];
        let moment = match call {
            // What a call of the library does inside, it does on the same behalf.
            Some(call) => Moment {
                nonblocking: call.nonblocking,
                in_epoll: call.in_epoll,
                evidence: call.evidence.filter(|_| {
                    let inside = clear.began <= call.time && call.time <= clear.moment.time;
                    inside && call.thread == clear.moment.thread
                }),
                ..clear.moment
            },
            None => clear.moment,
        };
        let End { exchanges, layer, .. } = end;
        let scratch = &mut self.scratch;
        let (plaintext, missing) = ways.piece(&clear, &moment, &mut self.clear, &mut |direction, piece| {
            exchanges.piece(direction, &piece, scratch);
        });
        layer.told(plaintext, missing);
        end.clear = Some((ways, first));
        // What is wanted of the plaintext says nothing of the socket.
        scratch.wishes.clear();
        self.pass_on(connection);
    }

    /// Secrets were found beside these random bytes.
    fn secrets(&mut self, found: &spandrel_proto::tls::Found, now: Monotonic) {
        let secrets = tls::Secrets {
            traffic: found.traffic.iter().map(|secret| tls::Secret::new(secret)).collect(),
            master: vec![tls::Secret::new(&found.master)],
            keys: Vec::new(),
        };
        let older = ConnectionId(found.connection);
        // Without random bytes, the connection itself says whose they are; with its hello, both ends have them.
        // The byte behind says that only the shape of what was found was right.
        let nameless = found.random.iter().skip(9).all(|&byte| byte == 0);
        let random = match nameless {
            true => self.connections.get(&older).and_then(|end| end.hello),
            false => Some(found.random),
        };
        match random {
            Some(random) => self.found(random, &secrets, now),
            None if self.connections.contains_key(&older) => self.early(older, &secrets),
            None => self.keep_early(older, &secrets, false, now),
        }
        // A process's sessions are looked for at each of its calls: what has a name is another connection's as often as not,
        // unless this one can have no hello any more.
        if !nameless && self.keys.is_unasked(&found.random) {
            match self.connections.get(&older).map(|end| end.ends.born_here) {
                Some(true) => {}
                Some(false) => self.early(older, &secrets),
                None => self.keep_early(older, &secrets, true, now),
            }
        }
    }

    /// Keeps secrets for the first record of their connection.
    fn keep_early(
        &mut self,
        connection: ConnectionId,
        secrets: &tls::Secrets,
        if_older: bool,
        now: Monotonic,
    ) {
        if self.early.len() >= MAX_EARLY {
            return;
        }
        let fresh = || Early { since: now, secrets: tls::Secrets::default(), if_older };
        let early = self.early.entry(connection).or_insert_with(fresh);
        early.if_older &= if_older;
        early.secrets.add(secrets);
    }

    /// Secrets of the session with these random bytes go to the connections that have read them.
    fn found(&mut self, random: tls::Random, secrets: &tls::Secrets, now: Monotonic) {
        for connection in self.keys.found(random, secrets, now).to_vec() {
            if let Some(End { exchanges, layer, .. }) = self.connections.get_mut(&connection) {
                let scratch = &mut self.scratch;
                layer.secrets(secrets, &mut |direction, piece| exchanges.piece(direction, &piece, scratch));
                self.ask(connection);
                self.pass_on(connection);
            }
        }
    }

    /// Secrets of a connection whose hello was not read: it comes, or the session is older than we are. The other end,
    /// if it is here, has the same.
    fn early(&mut self, connection: ConnectionId, secrets: &tls::Secrets) {
        let Some(end) = self.connections.get_mut(&connection) else { return };
        end.early.get_or_insert_default().add(secrets);
        let peer = end.peer;
        for connection in [Some(connection), peer].into_iter().flatten() {
            self.late(connection, secrets);
        }
    }

    /// Secrets that open what a connection carries, if that is a session that is older than we are.
    fn late(&mut self, connection: ConnectionId, secrets: &tls::Secrets) {
        let Some(end) = self.connections.get_mut(&connection) else { return };
        let unknown = matches!(
            end.exchanges.protocol(),
            exchange::Classified::Unknown | exchange::Classified::Other(_)
        );
        // Of a connection that began here the hello comes.
        if end.ends.born_here || !unknown {
            return;
        }
        let End { exchanges, layer, asked, .. } = end;
        let scratch = &mut self.scratch;
        if !layer.late(secrets, &mut |direction, piece| exchanges.piece(direction, &piece, scratch)) {
            return;
        }
        let everything = Some(exchange::Policy::Everything);
        for (asked, direction) in asked.iter_mut().zip([Direction::Receive, Direction::Send]) {
            if std::mem::replace(asked, everything) != everything {
                self.wishes.push((connection, Want { direction, policy: exchange::Policy::Everything }));
            }
        }
        self.pass_on(connection);
    }

    /// What the kernel side should send of a TLS connection: the exchanges' wishes are about plaintext, and their
    /// offsets are not known on the wire before they are reached.
    fn ask(&mut self, connection: ConnectionId) {
        use exchange::Policy;
        let Some(end) = self.connections.get_mut(&connection) else { return };
        let mut wanted = end.asked.map(|asked| asked.unwrap_or(Policy::Everything));
        for want in self.scratch.wishes.drain(..) {
            let wanted = &mut wanted[usize::from(want.direction == Direction::Send)];
            *wanted = match want.policy {
                Policy::Nothing => Policy::Nothing,
                // Of a body the records' headers. It is longer on the wire than inside, never shorter.
                Policy::From { offset } if end.layer.is_measured(want.direction) => {
                    Policy::Records { offset }
                }
                Policy::From { .. } => Policy::FirstBlock,
                _ => Policy::Everything,
            };
        }
        match end.layer.state() {
            tls::State::Hopeless => wanted = [Policy::Nothing; 2],
            // Its calls say how the socket is set and on whose behalf they are, its bytes nothing.
            tls::State::Probed => wanted = [Policy::FirstBlock; 2],
            _ => {}
        }
        for (index, direction) in [Direction::Receive, Direction::Send].into_iter().enumerate() {
            if end.asked[index] != Some(wanted[index]) {
                end.asked[index] = Some(wanted[index]);
                self.scratch.wishes.push(Want { direction, policy: wanted[index] });
            }
        }
    }

    /// A connection is over: so are its session's secrets here.
    fn end_layer(&mut self, connection: ConnectionId, end: &mut End) {
        end.layer.close();
        if let (Some(random), Some((_, process)), Some(party)) = (end.hello, end.clear, end.layer.party()) {
            self.over.push((random, process.pid, party));
        }
        if let Some(random) = end.hello.take() {
            self.keys.closed(&random, connection);
        }
    }

    fn pass_on(&mut self, connection: ConnectionId) {
        if self.scratch.events.is_empty() && self.scratch.wishes.is_empty() && !self.scratch.tables {
            return;
        }
        let ends = self.connections.get(&connection).map(End::ends_of).unwrap_or_default();
        self.pass_on_of(connection, &ends);
    }

    fn pass_on_of(&mut self, connection: ConnectionId, ends: &Endpoints) {
        let mut scratch = std::mem::take(&mut self.scratch);
        self.wishes.extend(scratch.wishes.drain(..).map(|want| (connection, want)));
        if std::mem::take(&mut scratch.tables) {
            self.recalls.push(connection);
        }
        for event in scratch.events.drain(..) {
            self.inputs.push(match event {
                exchange::Event::Opened { id, role, began, at, head, carried } => {
                    let process = began.process;
                    let serving = serving(&mut self.table, process);
                    let resource = self.table.resource(process);
                    log::trace(format_args!(
                        "{} of {} opened by thread {} on {:?}",
                        if role == Role::Server { "server exchange" } else { "client exchange" },
                        resource.service,
                        began.thread.0,
                        id
                    ));
                    Input::Opened {
                        id,
                        role,
                        began,
                        at,
                        head,
                        carried,
                        ends: ends.clone(),
                        resource,
                        serving,
                    }
                }
                exchange::Event::Responding { id, at } => Input::Responding { id, at },
                exchange::Event::Closed(exchange) => Input::Closed(exchange),
            });
        }
        self.scratch = scratch;
    }
}
