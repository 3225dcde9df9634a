//! The search for HPACK tables, on a thread of its own: processes in, what `hpack` finds in their memory out.
//!
//! A process is searched some time after it was asked for, and each table looked at again before it is told: one that changed
//! meanwhile is left out, and the answer with it if that makes it incomplete. Several connections of a process that ask at
//! the same time share a search. It must never hold up the pipeline, read a process that is not the one meant, one whose
//! HTTP/2 is of a library that `hpack` does not know, or tell of a search that missed something: who gets the answer
//! excludes tables one by one, and the right one must be among them.

use std::collections::HashMap;
use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::Duration;

use super::hpack::{self, Found, Library, Table};
use super::maps::Maps;
use super::memory::ProcessMemory;
use super::proc::is_meant;
use super::runtime::{Content, look};
use crate::identity::{ConnectionId, Monotonic, ProcessKey};
use crate::{clock, log};

/// Questions that wait; far more than connections that a program has when the agent is started. Beyond: [`Ledger::unasked`].
const MAX_ASKS: usize = 1024;

/// How long tables must stay as they are, to be told.
const UNCHANGED: Duration = Duration::from_millis(300);

/// How long an answer may be given again, in nanoseconds.
const FRESH: u64 = 3_000_000_000;

/// A question.
#[derive(Clone, Debug)]
pub struct Ask {
    /// Whose tables are wanted.
    pub connection: ConnectionId,
    /// The processes at its ends.
    pub processes: Vec<ProcessKey>,
    /// The search must not begin before.
    pub not_before: Monotonic,
}

/// All tables of the processes.
#[derive(Clone, Debug)]
pub struct Answer {
    /// Whose tables were wanted.
    pub connection: ConnectionId,
    /// When the first search began.
    pub began: Monotonic,
    /// When the last table was looked at again.
    pub ended: Monotonic,
    /// The tables.
    pub tables: Vec<Table>,
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
    /// Of these, those that could not read everything, or whose tables changed meanwhile.
    pub incomplete: u64,
    /// Bytes that were read.
    pub searched_bytes: u64,
    /// Tables that were proved.
    pub tables: u64,
}

/// The thread, as the pipeline holds it; it ends with this.
#[derive(Debug)]
pub struct Searcher {
    asks: SyncSender<Ask>,
    answers: Receiver<(Answer, Ledger)>,
    ledger: Ledger,
}

impl Searcher {
    /// Starts the thread.
    pub fn start() -> std::io::Result<Self> {
        let (asks, asked) = sync_channel::<Ask>(MAX_ASKS);
        let (answer, answers) = sync_channel(MAX_ASKS);
        std::thread::Builder::new().name("spandrel-tables".to_owned()).spawn(move || {
            let mut known = HashMap::new();
            while let Ok(ask) = asked.recv() {
                if answer.send(answer_to(&ask, &mut known)).is_err() {
                    return;
                }
            }
        })?;
        Ok(Self { asks, answers, ledger: Ledger::default() })
    }

    /// Asks; the answer comes by [`Searcher::answers`].
    pub fn ask(&mut self, ask: Ask) {
        self.ledger.asked += 1;
        self.ledger.unasked += u64::from(self.asks.try_send(ask).is_err());
    }

    /// The next answer that is there.
    pub fn answer(&mut self) -> Option<Answer> {
        let (answer, books) = self.answers.try_recv().ok()?;
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

/// What a search of a process came to.
#[derive(Clone, Debug)]
struct Searched {
    began: Monotonic,
    ended: Monotonic,
    tables: Vec<Table>,
}

fn answer_to(ask: &Ask, known: &mut HashMap<ProcessKey, Searched>) -> (Answer, Ledger) {
    let mut books = Ledger::default();
    let now = clock::monotonic();
    known.retain(|_, searched| now.since(searched.ended) < FRESH);
    let mut all: Option<Searched> = None;
    for &process in &ask.processes {
        let searched = match known.get(&process).filter(|searched| searched.began >= ask.not_before) {
            Some(searched) => Some(searched.clone()),
            None => {
                std::thread::sleep(Duration::from_nanos(ask.not_before.since(clock::monotonic())));
                let searched = search(process, &mut books);
                known.extend(searched.clone().map(|searched| (process, searched)));
                searched
            }
        };
        let Some(searched) = searched else { continue };
        all = Some(match all {
            None => searched,
            Some(Searched { began, ended, mut tables }) => {
                tables.extend(searched.tables);
                Searched { began: began.min(searched.began), ended: ended.max(searched.ended), tables }
            }
        });
    }
    let now = clock::monotonic();
    let Searched { began, ended, tables } =
        all.unwrap_or(Searched { began: now, ended: now, tables: Vec::new() });
    (Answer { connection: ask.connection, began, ended, tables }, books)
}

fn search(process: ProcessKey, books: &mut Ledger) -> Option<Searched> {
    let memory = ProcessMemory::of(process.pid).filter(|_| is_meant(process))?;
    let maps = Maps::of(process.pid).ok()?;
    let library = library(process.pid, &maps)?;
    let began = clock::monotonic();
    let Found { tables, candidates: _, searched, missed } = hpack::find(&memory, &maps, library);
    log::debug(format_args!(
        "process {}: {} header tables of {library:?} in {searched} bytes, {missed} not read, {} ms",
        process.pid,
        tables.len(),
        clock::monotonic().since(began) / 1_000_000
    ));
    books.searches += 1;
    books.searched_bytes += searched;
    std::thread::sleep(UNCHANGED);
    let unchanged = tables.iter().all(|table| hpack::is_unchanged(&memory, table));
    let ended = clock::monotonic();
    if missed > 0 || !unchanged || !is_meant(process) {
        books.incomplete += 1;
        return None;
    }
    books.tables += tables.len() as u64;
    Some(Searched { began, ended, tables })
}

/// Whose HPACK a process's HTTP/2 is, if it is of one library without doubt: a Go program's is x/net's, and that of Node and of
/// what loads nghttp2 is nghttp2's, unless it also loads gRPC's C core, which has its own.
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
    // The file's name, not its folder's.
    let loads = |what: &[u8]| {
        let mut files = maps.iter().filter_map(|mapping| mapping.path.rsplit(|&byte| byte == b'/').next());
        files.any(|file| memchr::memmem::find(file, what).is_some())
    };
    let node = name.file_name().is_some_and(|name| name == "node") || loads(b"libnode");
    ((node || loads(b"libnghttp2")) && !loads(b"grpc")).then_some(Library::Nghttp2)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_of_no_known_library_has_no_tables_and_is_not_searched() {
        let mut searcher = Searcher::start().unwrap();
        let me = ProcessKey { pid: std::process::id(), exec: 0, started: 0 };
        let ask = Ask { connection: ConnectionId(7), processes: vec![me], not_before: Monotonic(0) };
        searcher.ask(ask);
        let answer = loop {
            if let Some(answer) = searcher.answer() {
                break answer;
            }
            std::thread::yield_now();
        };
        assert_eq!((answer.connection, answer.tables.len()), (ConnectionId(7), 0));
        assert_eq!((searcher.ledger().asked, searcher.ledger().searches), (1, 0));
    }
}
