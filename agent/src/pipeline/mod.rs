//! Wires the stations: records in, spans out, wishes carried out.
//!
//! ```text
//!   Kernel ─▶ Streams ─▶ Connection ─▶ Stitcher ─▶ Exporter, terminal
//!      ▲         │            │ wishes
//!      └─────────┴────────────┘ policies
//! ```
//! One thread does all of this; exporting has its own. Nothing here may wait for anything but the next
//! record: a slow backend or terminal must never hold up the ring.
//!
//! Start with [`Pipeline::turn`]. [`records`] takes each record to its station, [`behind`] what the streams make of
//! it to the exchanges and on to `stitch`, [`wishes`] carries out what the stations ask for. What TLS needs stands in
//! [`encrypted`] (sessions and their keys), [`keyless`] (sessions whose keys must be searched for) and [`plaintext`]
//! (what probes have read).

use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use spandrel_proto::counter::Counter as KernelCounter;

use crate::books::{self, Books};
use crate::discover::runtimes::readers::{self, Readers};
use crate::discover::searching;
use crate::discover::select::Selection;
use crate::discover::table::ProcessTable;
use crate::discover::tables::Searcher;
use crate::discover::tls_modes::Mode;
use crate::exchange;
use crate::export::Exporter;
use crate::gaps::GapReport;
use crate::identity::{Monotonic, ProcessKey};
use crate::intake::Kernel;
use crate::probe::sessions::Sessions;
use crate::screen::Screen;
use crate::stitch::{Input, Output, Stitcher};
use crate::stream::Streams;
use crate::sum::Sum as _;
use crate::{clock, log, tls};

use behind::{Behind, Gone};

mod behind;
mod encrypted;
mod keyless;
mod plaintext;
mod records;
mod wishes;

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
const LOADED_SOONER: [u64; 3] = [0, 2_000_000, 8_000_000];

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
            behind: Behind::new(table, selection),
            outputs: Vec::new(),
            exits: Default::default(),
            drop_one_in,
        }
    }

    /// From now on, names that a late join hides are searched for in the memory of processes.
    pub fn recall_names(&mut self) -> std::io::Result<()> {
        self.searcher = Some(Searcher::start()?);
        self.behind.recall = true;
        Ok(())
    }

    /// The descriptor to wait for: readable while there is a record.
    pub fn ring(&self) -> &impl std::os::fd::AsFd {
        self.kernel.ring()
    }

    /// Does what there is to do now; how many records there were.
    pub fn turn(&mut self) -> usize {
        let taken = self.take();
        if self.sessions.is_some() {
            tls::overwrite_stack();
        }
        taken
    }

    /// What a turn does; no part of its caller, so that all that it leaves on the stack lies below that.
    #[inline(never)]
    fn take(&mut self) -> usize {
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
        for process in std::mem::take(&mut behind.fresh) {
            if let Some(sessions) = &mut self.sessions
                && self.loading.len() < FRESH * FRESH
            {
                // What was known of it was another program's.
                sessions.exited(process.pid, kernel);
                let probed = behind.tls_mode(process) == Mode::Probes;
                let sooner = LOADED_SOONER.into_iter().filter(|_| probed);
                for delay in sooner.chain(LOADED) {
                    let due = Monotonic(clock::monotonic().0 + delay);
                    let place = self.loading.partition_point(|(other, _)| *other <= due);
                    self.loading.insert(place, (due, process));
                }
            }
            if behind.looks > 0 {
                behind.looks -= 1;
                behind.table.prepare(process);
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
        self.behind.tls.expire(now);
        if let Some(sessions) = &mut self.sessions {
            sessions.sweep();
        }
        self.behind.let_go(now);
        self.carry_out();
        for input in self.behind.inputs.drain(..) {
            self.stitcher.handle(input, &mut self.outputs);
        }
        self.stitcher.poll(now, &mut self.outputs);
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
        let mut all = self.behind.gone.clone();
        for end in self.behind.connections.values() {
            all.exchanges(&end.exchanges);
            all.tls.add(&end.layer.ledger());
        }
        let Gone { exchange, parsers, tls } = all;
        Books {
            kernel: Some(books::Kernel {
                counters: self.kernel.counters(),
                unseen_calls: self.kernel.unseen_calls(),
            }),
            intake: self.kernel.ledger(),
            pipeline: self.behind.ledger,
            stream: self.streams.ledger(),
            tls,
            keys: self.behind.tls.keys.ledger(),
            clear: self.behind.tls.clear,
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
        for keyless in std::mem::take(&mut self.behind.tls.keyless) {
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
