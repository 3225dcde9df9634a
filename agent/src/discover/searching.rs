//! The search for secrets of TLS sessions, on a thread of its own: processes in, guesses of `secrets` out.
//!
//! Sessions that begin at about the same time are looked for together: a process is searched once for all of them. It must
//! never hold up the pipeline, read a process that is not the one meant, or search for more than a tenth of the time.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::hash::{BuildHasher as _, RandomState};
use std::sync::mpsc::RecvTimeoutError;
use std::time::{Duration, Instant};

use super::answering::Answering;
use super::maps::Maps;
use super::memory::ProcessMemory;
use super::proc::is_meant;
use super::schedules::Key;
use super::secrets::{Found, Guess, MAX_KEYS, Schedules, Shapes, find};
use crate::identity::{ConnectionId, Monotonic, ProcessKey};
use crate::tls::overwrite_stack;
use crate::{clock, log};

/// Questions that wait. Beyond: [`Ledger::unasked`].
const MAX_ASKS: usize = 1024;
/// Keys of a process that are known for older ones, and how many processes': a process has some for each session.
const MAX_SEEN: usize = 65_536;
const MAX_SEEN_PROCESSES: usize = 256;
/// For how long a key is kept that a search has seen and no session has asked for yet, nanoseconds.
const YOUNG: u64 = 500_000_000;
/// Sessions looked for in one search.
const MAX_NEEDLES: usize = 256;
/// How long questions are gathered before a search.
const GATHER: Duration = Duration::from_millis(5);
/// A tenth of a processor is spent on searches at the most.
const SHARE: u32 = 10;
/// What was not spent for some time may be spent at once, as processor time: sessions often begin together, and not all last.
const CREDIT: Duration = Duration::from_secs(1);
/// No session is made to wait for longer, however long a search has taken.
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
    /// When that was read: its keys are no older.
    pub since: Monotonic,
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
                let mut seen = Seen::default();
                let mut credit = Credit::full(Instant::now());
                loop {
                    let ask = match asked.recv_timeout(Duration::from_nanos(YOUNG)) {
                        Ok(ask) => ask,
                        Err(RecvTimeoutError::Timeout) => {
                            seen.expire();
                            continue;
                        }
                        Err(RecvTimeoutError::Disconnected) => return,
                    };
                    std::thread::sleep(GATHER);
                    let mut asks = vec![ask];
                    asks.extend(asked.try_iter().take(MAX_ASKS));
                    while let Some(process) = asks.first().map(|ask| ask.process) {
                        let (mut here, elsewhere): (Vec<_>, Vec<_>) =
                            asks.into_iter().partition(|ask| ask.process == process);
                        asks = elsewhere;
                        asks.extend(here.split_off(here.len().min(MAX_NEEDLES)));
                        let began = Instant::now();
                        let answered = answer.send(search(process, here, &mut seen));
                        overwrite_stack();
                        if answered.is_err() {
                            return;
                        }
                        std::thread::sleep(credit.spend(began, Instant::now()));
                    }
                }
            })?;
        Ok(Self { thread, ledger: Ledger::default() })
    }

    /// Asks; the answer comes by [`Searcher::answer`], found or not. False if there is no room.
    pub fn ask(&mut self, ask: Ask) -> bool {
        self.ledger.asked += 1;
        let asked = self.thread.ask(ask);
        self.ledger.unasked += u64::from(!asked);
        asked
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

/// When keys were seen first, by process; as numbers that say nothing of them. And those that are young: a session may be over, and its
/// memory another's, before its records are read where there is much to do, and any search of its process has seen its keys.
#[derive(Default)]
struct Seen {
    hasher: RandomState,
    keys: HashMap<ProcessKey, HashMap<u64, Monotonic>>,
    young: HashMap<ProcessKey, Vec<(Monotonic, Key)>>,
}

impl Seen {
    /// Adds those that were seen a moment ago, and drops those that were there before the oldest of the sessions looked for had begun: the
    /// process keeps those of all its sessions, and some of those that are over.
    fn complete(&mut self, process: ProcessKey, keys: &mut Vec<Key>, oldest: Monotonic) {
        self.expire();
        if self.keys.len() >= MAX_SEEN_PROCESSES && !self.keys.contains_key(&process) {
            self.keys.clear();
            self.young.clear();
        }
        let seen = self.keys.entry(process).or_default();
        // What is forgotten is tried once more.
        if seen.len() >= MAX_SEEN {
            seen.clear();
        }
        let now = clock::monotonic();
        let (young, mut kept) = (self.young.entry(process).or_default(), Vec::new());
        for key in keys.drain(..) {
            match seen.entry(self.hasher.hash_one(key.as_slice())) {
                Entry::Vacant(new) => {
                    new.insert(now);
                    if young.len() < MAX_KEYS {
                        young.push((now, key));
                    }
                }
                Entry::Occupied(first) if now.since(*first.get()) >= YOUNG && *first.get() >= oldest => {
                    kept.push(key);
                }
                Entry::Occupied(_) => {}
            }
        }
        kept.extend(young.iter().filter(|(first, _)| *first >= oldest).map(|(_, key)| key.clone()));
        *keys = kept;
    }

    /// Drops those that are young no more.
    fn expire(&mut self) {
        let now = clock::monotonic();
        self.young.retain(|_, keys| {
            keys.retain(|(first, _)| now.since(*first) < YOUNG);
            !keys.is_empty()
        });
    }
}

/// What may be spent on searches.
struct Credit {
    left: Duration,
    at: Instant,
}

impl Credit {
    fn full(now: Instant) -> Self {
        Self { left: CREDIT, at: now }
    }

    /// From then to now was a search: for how long none may follow.
    fn spend(&mut self, began: Instant, now: Instant) -> Duration {
        let earned = began.saturating_duration_since(self.at) / SHARE;
        let (left, spent) = ((self.left + earned).min(CREDIT), now.saturating_duration_since(began));
        (self.left, self.at) = (left.saturating_sub(spent), now);
        let rest = (spent.saturating_sub(left) * SHARE).min(LONGEST_REST);
        // What is earned while it rests is spent already.
        self.at += rest;
        rest
    }
}

/// Searches a process; finds nothing if it is not there any more. Its frame is its own, to be overwritten.
#[inline(never)]
fn search(process: ProcessKey, asks: Vec<Ask>, seen: &mut Seen) -> (Answer, u64) {
    let nothing = |asks| (Answer { asks, guesses: Vec::new(), keys: Vec::new() }, 0);
    let Some(memory) = ProcessMemory::of(process.pid).filter(|_| is_meant(process)) else {
        return nothing(asks);
    };
    let Ok(maps) = Maps::of(process.pid) else { return nothing(asks) };
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
    let Found { guesses, mut keys, searched } = find(&memory, &maps, &randoms, shapes, schedules);
    log::debug(format_args!(
        "process {}: {} guesses and {} keys for {} TLS sessions in {searched} bytes, {} ms",
        process.pid,
        guesses.len(),
        keys.len(),
        asks.len(),
        began.elapsed().as_millis()
    ));
    if let Some(oldest) = asks.iter().map(|ask| ask.since).min() {
        seen.complete(process, &mut keys, oldest);
    }
    // What was read of another process that got its pid is nothing.
    if !is_meant(process) {
        return nothing(asks);
    }
    (Answer { asks, guesses, keys }, searched)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn searches_take_a_tenth_of_the_time_but_for_what_was_saved() {
        let start = Instant::now();
        let mut credit = Credit::full(start);
        let (mut now, mut spent, mut longest) = (start, Duration::ZERO, Duration::ZERO);
        for number in 0..1_000u32 {
            let took = Duration::from_millis(u64::from(number % 7) * 40);
            let rest = credit.spend(now, now + took);
            spent += took;
            longest = longest.max(rest);
            now += took + rest;
            assert!(spent <= CREDIT + took + now.duration_since(start) / SHARE, "{number}");
        }
        assert!(longest > Duration::from_secs(1));
        let quiet = now + Duration::from_secs(100);
        assert_eq!(credit.spend(quiet, quiet + CREDIT), Duration::ZERO);
        let rest = credit.spend(quiet + CREDIT, quiet + CREDIT + CREDIT / 4);
        assert_eq!(rest, CREDIT / 4 * SHARE);
    }

    #[test]
    fn a_key_that_was_there_before_a_session_is_not_its_own() {
        let process = ProcessKey { pid: 1, exec: 1, started: 1 };
        let key = |byte| Key::new(vec![byte; 16]);
        let mut seen = Seen::default();
        let left = |seen: &mut Seen, process, bytes: &[u8], oldest| {
            let mut keys: Vec<Key> = bytes.iter().map(|&byte| key(byte)).collect();
            seen.complete(process, &mut keys, oldest);
            keys.iter().map(|key| key[0]).collect::<Vec<u8>>()
        };
        let before = clock::monotonic();
        assert_eq!(left(&mut seen, process, &[1, 2], before), [1, 2]);
        assert_eq!(left(&mut seen, process, &[1, 2, 3], before), [1, 2, 3], "the session is as old");
        assert_eq!(left(&mut seen, process, &[], before), [1, 2, 3], "they are overwritten, and young");
        let later = Monotonic(clock::monotonic().0 + 1);
        assert_eq!(left(&mut seen, process, &[1, 2, 3], later), [0; 0]);
        let other = ProcessKey { pid: 2, ..process };
        assert_eq!(left(&mut seen, other, &[1], before), [1]);
        for pid in 0..2 * MAX_SEEN_PROCESSES as u32 {
            left(&mut seen, ProcessKey { pid, ..process }, &[1], before);
        }
        assert!(seen.keys.len() <= MAX_SEEN_PROCESSES && seen.young.len() <= MAX_SEEN_PROCESSES);
        std::thread::sleep(Duration::from_nanos(YOUNG));
        seen.expire();
        assert!(seen.young.is_empty(), "no key outlives its session by more");
    }
}
