//! Node's reader: records and hits of the main thread into the state machine, owners out as claims.
//!
//! Promises are watched only once a call was made whose owner only they can tell, so a program of callbacks never
//! pays for them. The one input beside records is the program's memory, read at the end of a collection.

use super::super::starts::Starts;
use super::super::{Hit, ProbeSet, Reader, Seen, Wish};
use super::binary::Mark;
use super::machine::{By, Event, Found, Machine, Watched, Words};
use crate::discover::memory::{ProcessMemory, ReadMemory};
use crate::identity::{Birth, Claim, Direction, Facts, Key, LinkMethod, Monotonic, ThreadId};

/// One process's.
pub struct NodeReader {
    machine: Machine,
    main: ThreadId,
    memory: Box<dyn ReadMemory + Send>,
    clock: fn() -> Monotonic,
    turns: Turns,
    promises: Promises,
    /// It was said that nothing may be inferred.
    doubted: bool,
    /// When the following of moved objects was last done.
    followed: Monotonic,
}

/// How far the watching of the event loop is.
enum Turns {
    /// Nothing was read yet.
    Possible(ProbeSet),
    /// It was asked for, or it failed or came off: nobody knows who runs.
    Asked,
    /// All probes have been there since then; what came before may be in part.
    Attached(Monotonic),
    /// It is done.
    Watched,
}

/// How far the watching of promises is.
enum Promises {
    /// It cannot be done.
    Impossible,
    /// Nothing needed it yet.
    Possible(ProbeSet),
    /// It was asked for.
    Asked,
    /// All probes have been there since then; what came before may be in part.
    Attached(Monotonic),
    /// It is done.
    Watched,
}

/// What a request is known by: the connection that delivered it.
const CONNECTION: u8 = 1;

impl NodeReader {
    /// A reader for a process whose main thread is `main`.
    pub fn new(
        main: ThreadId,
        memory: ProcessMemory,
        clock: fn() -> Monotonic,
        turns: ProbeSet,
        promises: Option<ProbeSet>,
    ) -> Self {
        Self {
            machine: Machine::new(),
            main,
            memory: Box::new(memory),
            clock,
            turns: Turns::Possible(turns),
            doubted: false,
            followed: Monotonic(0),
            promises: promises.map_or(Promises::Impossible, Promises::Possible),
        }
    }

    fn words(words: &[u64]) -> Option<Words> {
        Words::of([*words.first()?, *words.get(1)?, *words.get(2)?])
    }

    fn event(&mut self, event: &Event, words: Words) -> Option<Found> {
        let memory = &self.memory;
        self.machine.event(event, words, &|address| memory.word(address))
    }

    /// Whether the event loop is followed at this time.
    fn follows(&mut self, time: Monotonic) -> bool {
        match self.turns {
            Turns::Watched => true,
            Turns::Attached(since) if time > since => {
                self.machine.begin();
                self.turns = Turns::Watched;
                true
            }
            _ => false,
        }
    }

    /// Whether hits of promises may be believed at this time.
    fn watched(&mut self, time: Monotonic) -> bool {
        match self.promises {
            Promises::Watched => true,
            Promises::Attached(since) if time > since => {
                self.machine.watch_promises(Watched::Yes);
                self.promises = Promises::Watched;
                true
            }
            _ => false,
        }
    }
}

impl Reader for NodeReader {
    fn read(&mut self, seen: &Seen<'_>, wishes: &mut Vec<Wish>) -> Facts {
        if seen.thread != self.main {
            return Facts::default();
        }
        match std::mem::replace(&mut self.turns, Turns::Asked) {
            Turns::Possible(turns) => wishes.push(Wish::Observe(turns)),
            other => self.turns = other,
        }
        let Some(words) = Self::words(seen.words) else {
            self.machine.blind();
            return Facts::default();
        };
        let connection = seen.connection.0;
        let follows = self.follows(seen.time);
        let starts = Starts::of(seen.bytes);
        let mut facts = Facts::default();
        match seen.direction {
            Direction::Receive => {
                self.event(&Event::Read { connection, at: seen.time.0, starts }, words);
                facts.owns.push(Key { space: CONNECTION, value: connection });
            }
            Direction::Send => {
                let found = self.event(&Event::Write { connection, starts }, words);
                if follows && self.machine.is_doubted() && !std::mem::replace(&mut self.doubted, true) {
                    wishes.push(Wish::Doubt);
                }
                if let Some(Found { owner, by }) = found.filter(|_| follows) {
                    facts.claims.push(Claim {
                        key: Key { space: CONNECTION, value: owner.connection },
                        at: Some(Monotonic(owner.at)),
                        born: None,
                        method: match by {
                            By::Turn => LinkMethod::Task,
                            By::Descent => LinkMethod::Inferred,
                        },
                    });
                }
                let may_be_of_promise = follows && self.machine.sees_microtasks();
                if starts == Starts::Request && found.is_none() && may_be_of_promise {
                    match std::mem::replace(&mut self.promises, Promises::Asked) {
                        Promises::Possible(set) => wishes.push(Wish::Observe(set)),
                        other => self.promises = other,
                    }
                }
            }
        }
        facts
    }

    fn observed(&mut self, hit: &Hit<'_>, _: &mut Vec<Wish>) -> Vec<Birth> {
        if hit.thread != self.main {
            return Vec::new();
        }
        let (Some(mark), Some(words)) = (Mark::of(hit.tag), Self::words(hit.words)) else {
            self.lost();
            return Vec::new();
        };
        let word = |n: usize| hit.words.get(n).copied().unwrap_or(0);
        let event = match mark {
            Mark::Call => return Vec::new(),
            Mark::Made => Event::Made,
            Mark::Microtasks => Event::Microtasks,
            Mark::Boundary => Event::Boundary,
            Mark::Immediates => Event::Immediates,
            Mark::Register => Event::Register([word(3), word(4), word(5)]),
            Mark::Derived => Event::Derived(word(3)),
            Mark::Job => Event::Job(word(3), word(4)),
            Mark::JobOfNobody => Event::JobOfNobody,
            Mark::Callable => Event::Callable(word(3)),
            Mark::Calls => Event::Calls(word(3)),
            Mark::Collects => {
                // What moved is told by words in space that this collection uses: it must not have begun before all
                // that the last one moved was followed.
                if hit.time <= self.followed {
                    self.machine.lose_promises();
                }
                return Vec::new();
            }
            Mark::Moved => Event::Moved,
        };
        if !self.follows(hit.time) {
            return Vec::new();
        }
        let of_promises =
            !matches!(mark, Mark::Call | Mark::Made | Mark::Boundary | Mark::Immediates | Mark::Microtasks);
        if of_promises && !self.watched(hit.time) {
            return Vec::new();
        }
        self.event(&event, words);
        if event == Event::Moved {
            self.followed = (self.clock)();
        }
        Vec::new()
    }

    fn lost(&mut self) {
        self.machine.blind();
        self.machine.lose_promises();
    }

    fn attached(&mut self, set: &str, at: Monotonic) {
        match set {
            PROMISES => self.promises = Promises::Attached(at),
            _ => self.turns = Turns::Attached(at),
        }
    }

    fn unobserved(&mut self, set: &str) {
        if set == PROMISES {
            self.machine.watch_promises(Watched::No);
            self.promises = Promises::Impossible;
        } else {
            self.turns = Turns::Asked;
        }
    }
}

/// The name of the probes of promises.
pub const PROMISES: &str = "node promises";
/// The name of the probes of the event loop.
pub const TURNS: &str = "node event loop";
