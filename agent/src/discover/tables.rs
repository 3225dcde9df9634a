//! The search for HPACK tables, on a thread of its own: processes in, what `hpack` finds in their memory out.
//!
//! Questions that come at about the same time are answered together: each process is searched once for all of them. It must
//! never hold up the pipeline, read a process that is not the one meant, one whose HTTP/2 is of a library that `hpack` does not
//! know, or tell of a search that missed something: who gets the answer excludes tables one by one, and the right one must be
//! among them.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;
use std::time::Duration;

use super::answering::Answering;
use super::hpack::{self, Entry, Found, Library, Table};
use super::maps::Maps;
use super::memory::ProcessMemory;
use super::proc::is_meant;
use super::runtime::{Content, look};
use crate::identity::{ConnectionId, Monotonic, ProcessKey};
use crate::{clock, log};

/// Questions that wait; far more than connections that a program has when the agent is started. Beyond: [`Ledger::unasked`].
const MAX_ASKS: usize = 1024;

/// A question.
#[derive(Clone, Debug)]
pub struct Ask {
    /// Whose tables are wanted.
    pub connection: ConnectionId,
    /// The process at this end, and the one at the other, as far as they are known and may be looked into.
    pub processes: [Option<ProcessKey>; 2],
    /// The search must not begin before.
    pub not_before: Monotonic,
}

/// What was found for some questions.
#[derive(Clone, Debug)]
pub struct Answer {
    /// The questions.
    pub asks: Vec<Ask>,
    /// When the first search began.
    pub began: Monotonic,
    /// When the last ended.
    pub ended: Monotonic,
    /// What was found in the processes; those that are not here were not searched, or not completely.
    pub processes: Vec<Process>,
    /// A search was not complete: another may be.
    pub incomplete: bool,
}

/// All tables of a process.
#[derive(Clone, Debug)]
pub struct Process {
    /// Which process.
    pub process: ProcessKey,
    /// Only what it receives has tables that can be read.
    pub receives_only: bool,
    /// All its connections are of gRPC, as far as they are of this library.
    pub grpc_only: bool,
    /// Its tables, equal ones once: the entries, the newest first, and the size that they may have.
    pub tables: Vec<(Arc<[Entry]>, u64)>,
}

/// The station's books.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Ledger {
    /// Questions.
    pub asked: u64,
    /// Of these, those for which there was no room.
    pub unasked: u64,
    /// Searches of a process's memory.
    pub searches: u64,
    /// Of these, those that could not read everything.
    pub incomplete: u64,
    /// Bytes that were read.
    pub searched_bytes: u64,
    /// Tables that were proved.
    pub tables: u64,
}

/// The thread, as the pipeline holds it; it ends with this.
#[derive(Debug)]
pub struct Searcher {
    thread: Answering<Ask, (Answer, Ledger)>,
    ledger: Ledger,
}

impl Searcher {
    /// Starts the thread.
    pub fn start() -> std::io::Result<Self> {
        let thread =
            Answering::<Ask, (Answer, Ledger)>::start("spandrel-tables", MAX_ASKS, |asked, answer| {
                while let Ok(ask) = asked.recv() {
                    let mut asks = vec![ask];
                    // Connections that were met together ask within a moment.
                    wait(&asks);
                    asks.extend(asked.try_iter());
                    wait(&asks);
                    if answer.send(answer_to(asks)).is_err() {
                        return;
                    }
                }
            })?;
        Ok(Self { thread, ledger: Ledger::default() })
    }

    /// Asks; the answer comes by [`Searcher::answer`].
    pub fn ask(&mut self, ask: Ask) {
        self.ledger.asked += 1;
        self.ledger.unasked += u64::from(!self.thread.ask(ask));
    }

    /// The next answer that is there.
    pub fn answer(&mut self) -> Option<Answer> {
        let (answer, books) = self.thread.answer()?;
        let Ledger { asked: _, unasked: _, searches, incomplete, searched_bytes, tables } = books;
        self.ledger.searches += searches;
        self.ledger.incomplete += incomplete;
        self.ledger.searched_bytes += searched_bytes;
        self.ledger.tables += tables;
        Some(answer)
    }

    /// The books.
    pub fn ledger(&self) -> Ledger {
        self.ledger
    }
}

/// Sleeps until all may be searched for.
fn wait(asks: &[Ask]) {
    let latest = asks.iter().map(|ask| ask.not_before).max().unwrap_or_default();
    std::thread::sleep(Duration::from_nanos(latest.since(clock::monotonic())));
}

fn answer_to(asks: Vec<Ask>) -> (Answer, Ledger) {
    let mut books = Ledger::default();
    let mut processes: Vec<ProcessKey> = Vec::new();
    for process in asks.iter().flat_map(|ask| ask.processes).flatten() {
        if !processes.contains(&process) {
            processes.push(process);
        }
    }
    let began = clock::monotonic();
    let (mut found, mut incomplete) = (Vec::new(), false);
    for process in processes {
        match search(process, &mut books) {
            Some(Ok(searched)) => found.push(searched),
            Some(Err(Incomplete)) => incomplete = true,
            None => {}
        }
    }
    (Answer { asks, began, ended: clock::monotonic(), processes: found, incomplete }, books)
}

/// Not everything could be read.
struct Incomplete;

/// Searches a process; none if it is not to be searched.
fn search(process: ProcessKey, books: &mut Ledger) -> Option<Result<Process, Incomplete>> {
    let memory = ProcessMemory::of(process.pid).filter(|_| is_meant(process))?;
    let maps = Maps::of(process.pid).ok()?;
    let library = library(process.pid, &maps)?;
    let began = clock::monotonic();
    let found = hpack::find(&memory, &maps, library);
    let incomplete = Maps::of(process.pid).map_or(true, |now| found.is_incomplete(&now));
    let Found { tables, candidates: _, searched, missed, unread } = found;
    let missed: u64 = missed.into_iter().map(|range| range.end - range.start).sum();
    log::debug(format_args!(
        "process {}: {} header tables of {library:?} in {searched} bytes, {missed} not read, {unread} not understood, {} ms",
        process.pid,
        tables.len(),
        clock::monotonic().since(began) / 1_000_000
    ));
    books.searches += 1;
    books.searched_bytes += searched;
    if incomplete || !is_meant(process) {
        books.incomplete += 1;
        return Some(Err(Incomplete));
    }
    books.tables += tables.len() as u64;
    let mut apart: Vec<(Arc<[Entry]>, u64)> = Vec::new();
    for Table { library: _, address: _, inserted: _, limit, entries } in tables {
        if !apart.iter().any(|known| (&known.0, known.1) == (&entries, limit)) {
            apart.push((entries, limit));
        }
    }
    let of_grpc = library == Library::CCore;
    Some(Ok(Process { process, receives_only: of_grpc, grpc_only: of_grpc, tables: apart }))
}

/// Whose HPACK a process's HTTP/2 is, if it is of one library without doubt: a Go program's is x/net's, that of Node and of what
/// loads nghttp2 is nghttp2's, and that of what loads gRPC's C core (Python's, Ruby's, PHP's module, or the library) is its; of
/// what loads both, nobody knows. What is linked into a program without a name of its own is not seen.
fn library(pid: u32, maps: &Maps) -> Option<Library> {
    let executable = std::path::PathBuf::from(format!("/proc/{pid}/exe"));
    let file = File::open(&executable).ok()?;
    let content = look(|offset, length| {
        let mut bytes = vec![0; length];
        let read = file.read_at(&mut bytes, offset).unwrap_or(0);
        bytes.truncate(read);
        bytes
    });
    if let Content::Go(_) = content {
        return Some(Library::XNet);
    }
    let name = std::fs::read_link(&executable).ok()?;
    // The files' names, not their folders'.
    let files = || maps.iter().filter_map(|mapping| mapping.path.rsplit(|&byte| byte == b'/').next());
    let node = name.file_name().is_some_and(|name| name == "node")
        || files().any(|file| file.starts_with(b"libnode.") || file.starts_with(b"libnghttp2."));
    match (node, files().any(is_c_core)) {
        (true, false) => Some(Library::Nghttp2),
        (false, true) => Some(Library::CCore),
        (false, false) | (true, true) => None,
    }
}

/// Whether a file is gRPC's C core, by its name: Python's module, Ruby's, PHP's, and the library.
fn is_c_core(file: &[u8]) -> bool {
    let begins = [&b"cygrpc."[..], b"grpc_c.", b"grpc.so", b"libgrpc.", b"libgrpc_unsecure."];
    begins.iter().any(|name| file.starts_with(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn c_core_is_known_by_its_files_and_not_by_those_of_others() {
        for file in ["cygrpc.cpython-311-x86_64-linux-gnu.so", "grpc_c.so", "libgrpc.so.46"] {
            assert!(is_c_core(file.as_bytes()), "{file}");
        }
        // What grpc-java unpacks.
        for file in ["libio_grpc_netty_shaded_netty_transport_native_epoll_x86_64.so", "grpc-core-1.80.jar"] {
            assert!(!is_c_core(file.as_bytes()), "{file}");
        }
    }

    #[test]
    fn a_process_of_no_known_library_has_no_tables_and_is_not_searched() {
        let mut searcher = Searcher::start().unwrap();
        let me = ProcessKey { pid: std::process::id(), exec: 0, started: 0 };
        let ask = Ask { connection: ConnectionId(7), processes: [Some(me), None], not_before: Monotonic(0) };
        searcher.ask(ask);
        let answer = loop {
            if let Some(answer) = searcher.answer() {
                break answer;
            }
            std::thread::yield_now();
        };
        assert_eq!((answer.asks[0].connection, answer.processes.len()), (ConnectionId(7), 0));
        assert_eq!((searcher.ledger().asked, searcher.ledger().searches), (1, 0));
    }
}
