//! The search for secrets of TLS sessions, on a thread of its own: processes in, guesses of `secrets` out.
//!
//! Sessions that begin at about the same time are looked for together: a process is searched once for all of them. It must
//! never hold up the pipeline, read a process that is not the one meant, or search for more than a tenth of the time.

use std::time::{Duration, Instant};

use super::answering::Answering;
use super::maps::Maps;
use super::memory::ProcessMemory;
use super::proc::is_meant;
use super::schedules::Key;
use super::secrets::{Found, Guess, Schedules, Shapes, find};
use crate::identity::{ConnectionId, ProcessKey};
use crate::log;

/// Questions that wait. Beyond: [`Ledger::unasked`].
const MAX_ASKS: usize = 1024;
/// Sessions looked for in one search.
const MAX_NEEDLES: usize = 256;
/// How long questions are gathered before a search.
const GATHER: Duration = Duration::from_millis(5);
/// So many times as long as a search took is none made: a tenth of a processor at the most.
const REST: u32 = 9;
/// The longest such time.
const LONGEST_REST: Duration = Duration::from_secs(5);

/// A question.
#[derive(Clone, Copy, Debug)]
pub struct Ask {
    /// Whose session is looked for.
    pub connection: ConnectionId,
    /// The process at this end.
    pub process: ProcessKey,
    /// The random bytes of its ClientHello.
    pub random: [u8; 32],
    /// Whether a key of AES could open it.
    pub schedules: Schedules,
}

/// What was found in one process.
pub struct Answer {
    /// The questions; a guess of one session has the number of its question.
    pub asks: Vec<Ask>,
    /// The guesses.
    pub guesses: Vec<Guess>,
    /// Keys of AES, of any session or of none.
    pub keys: Vec<Key>,
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
    /// Bytes that were read.
    pub searched_bytes: u64,
    /// What may have been secrets.
    pub guesses: u64,
    /// Keys of AES.
    pub keys: u64,
    /// Sessions that a guess has opened.
    pub opened: u64,
}

/// The thread, as the pipeline holds it; it ends with this.
#[derive(Debug)]
pub struct Searcher {
    thread: Answering<Ask, (Answer, u64)>,
    ledger: Ledger,
}

impl Searcher {
    /// Starts the thread.
    pub fn start() -> std::io::Result<Self> {
        let thread =
            Answering::<Ask, (Answer, u64)>::start("spandrel-secrets", MAX_ASKS, |asked, answer| {
                while let Ok(ask) = asked.recv() {
                    std::thread::sleep(GATHER);
                    let mut asks = vec![ask];
                    asks.extend(asked.try_iter().take(MAX_ASKS));
                    while let Some(process) = asks.first().map(|ask| ask.process) {
                        let (mut here, elsewhere): (Vec<_>, Vec<_>) =
                            asks.into_iter().partition(|ask| ask.process == process);
                        asks = elsewhere;
                        asks.extend(here.split_off(here.len().min(MAX_NEEDLES)));
                        let began = Instant::now();
                        if let Some(answered) = search(process, here)
                            && answer.send(answered).is_err()
                        {
                            return;
                        }
                        std::thread::sleep((began.elapsed() * REST).min(LONGEST_REST));
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
        let (answer, searched) = self.thread.answer()?;
        self.ledger.searches += 1;
        self.ledger.searched_bytes += searched;
        self.ledger.guesses += answer.guesses.len() as u64;
        self.ledger.keys += answer.keys.len() as u64;
        Some(answer)
    }

    /// A session was opened by a guess.
    pub fn opened(&mut self) {
        self.ledger.opened += 1;
    }

    /// The books.
    pub fn ledger(&self) -> Ledger {
        self.ledger
    }
}

fn search(process: ProcessKey, asks: Vec<Ask>) -> Option<(Answer, u64)> {
    let memory = ProcessMemory::of(process.pid).filter(|_| is_meant(process))?;
    let maps = Maps::of(process.pid).ok()?;
    let has = |name: &[u8]| maps.iter().any(|mapping| memchr::memmem::find(&mapping.path, name).is_some());
    let shapes = match () {
        () if has(b"/libjvm.so") => Shapes::Arrays,
        // What keeps random bytes is found by them.
        () if has(b"libssl") || has(b"libgnutls") || has(b"cygrpc") => Shapes::None,
        () => Shapes::Blocks,
    };
    let randoms: Vec<[u8; 32]> = asks.iter().map(|ask| ask.random).collect();
    let began = Instant::now();
    let wanted = asks.iter().any(|ask| ask.schedules == Schedules::Wanted);
    let schedules = if wanted { Schedules::Wanted } else { Schedules::Unwanted };
    let Found { guesses, keys, searched } = find(&memory, &maps, &randoms, shapes, schedules);
    log::debug(format_args!(
        "process {}: {} guesses and {} keys for {} TLS sessions in {searched} bytes, {} ms",
        process.pid,
        guesses.len(),
        keys.len(),
        asks.len(),
        began.elapsed().as_millis()
    ));
    // What was read of another process that got its pid is nothing.
    is_meant(process).then_some((Answer { asks, guesses, keys }, searched))
}
