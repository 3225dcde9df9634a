//! On whose behalf does Node's one thread run right now? Events of that thread in, owners out; pure.
//!
//! ```text
//!   read of a connection ──▶ turn of its request ──▶ ids given out, promises registered: its own
//!   timers, immediates, thread pool, anything else of a stream ──▶ no turn: the ids say who made what runs now
//!   microtasks ──▶ from here to the end of the turn ids are anybody's
//!   promise job ──▶ its own owner, whatever the turn
//! ```
//! Each event brings three of the four words that Node keeps of its current resource: the id of what runs, the id
//! that ran when that was made (its trigger), and the last id given out. *Nobody* is the answer wherever a rule
//! does not prove more: a parent that is guessed would be wrong under load. It must never use time to link.

use super::super::starts::Starts;
use super::ids::{During, Ids, Interval, Turn};
use super::promises::Promises;
use std::collections::HashMap;

/// The request that a server connection delivered: which connection, and when it was read.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct Owner {
    /// The connection.
    pub connection: u64,
    /// The end of the call that read, nanoseconds.
    pub at: u64,
}

/// Whose a call is, and what says so.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Found {
    /// Whose.
    pub owner: Owner,
    /// How.
    pub by: By,
}

/// What says whose a call is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum By {
    /// It was made before the callback of the read that delivered the request was over.
    Turn,
    /// Something made it that descends from the request: a timer, the callback of another call. That may work for
    /// others too: a timer that calls for whoever came meanwhile, an answer that frees a place in a queue.
    Descent,
}

/// Node's words at an event.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Words {
    /// The id of the resource whose callback runs; 0 in a promise job.
    pub id: u64,
    /// The id that ran when that resource was made.
    pub trigger: u64,
    /// The last id that was given out.
    pub counter: u64,
}

impl Words {
    /// From the words in memory, which are doubles; none if they cannot be ids.
    pub fn of(words: [u64; 3]) -> Option<Self> {
        let [id, trigger, counter] = words.map(|word| integer(f64::from_bits(word)));
        let words = Self { id: id?, trigger: trigger?, counter: counter? };
        (words.id <= words.counter && words.trigger <= words.counter).then_some(words)
    }
}

fn integer(number: f64) -> Option<u64> {
    let whole = number.fract() == 0.0 && (0.0..9.0e15).contains(&number);
    whole.then_some(number as u64)
}

/// What happened on the thread.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Event {
    /// A connection was read.
    Read {
        /// Which.
        connection: u64,
        /// The end of the call, nanoseconds.
        at: u64,
        /// What its bytes say.
        starts: Starts,
    },
    /// A connection was written to.
    Write {
        /// Which.
        connection: u64,
        /// What its bytes say.
        starts: Starts,
    },
    /// A native resource gets its id now: the next one.
    Made,
    /// What follows is no callback of a read: timers, the thread pool, an accepted or finished connection.
    Boundary,
    /// The same, and the loop's phase of immediates begins.
    Immediates,
    /// Microtasks run from here on: jobs of promises, anybody's.
    Microtasks,
    /// Handlers of a promise are registered: what their result goes to, and the two.
    Register([u64; 3]),
    /// `then` returned this promise.
    Derived(u64),
    /// A promise job begins, with this promise and handler.
    Job(u64, u64),
    /// A job that belongs to nobody begins.
    JobOfNobody,
    /// A function is put among the microtasks.
    Callable(u64),
    /// A function that was put there is called.
    Calls(u64),
    /// A collector moved objects.
    Moved,
}

/// One thread's state.
#[derive(Debug)]
pub struct Machine {
    ids: Ids,
    promises: Promises,
    connections: HashMap<u64, Connection>,
    turn: Option<Turn>,
    /// A job was met since the last boundary or read: what runs between events may be another's.
    jobs_ran: bool,
    job: Job,
    immediates: bool,
    iteration: u64,
    turns: u64,
    /// The last event's counter, and whether it was in a job; none before the first.
    last: Option<(u64, bool)>,
    /// Ids up to this one were given out before the agent looked.
    before: u64,
    /// A native resource was seen being made.
    sees_made: bool,
    /// Promise jobs are observed.
    watches_promises: bool,
    /// There was a microtask.
    sees_microtasks: bool,
    /// Resources re-keyed under an id in this iteration.
    reset_under: HashMap<u64, u64>,
    /// What descends from one request answered another.
    doubted: bool,
}

/// The promise job that runs, if one does.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Job {
    None,
    Running(Option<Owner>),
}

#[derive(Clone, Copy, Debug, Default)]
struct Connection {
    role: Option<Role>,
    /// For whom the last request on it was written.
    last: Option<Owner>,
    /// A request was written on it before.
    used: bool,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Role {
    Server,
    Client,
}

impl Machine {
    /// Before anything was seen.
    pub fn new() -> Self {
        Self {
            ids: Ids::default(),
            promises: Promises::default(),
            connections: HashMap::new(),
            turn: None,
            jobs_ran: false,
            job: Job::None,
            immediates: false,
            iteration: 0,
            turns: 0,
            last: None,
            before: 0,
            sees_made: false,
            watches_promises: false,
            sees_microtasks: false,
            reset_under: HashMap::new(),
            doubted: false,
        }
    }

    /// The event loop is observed from now on: what was concluded before is void, since turns may have been missed.
    pub fn begin(&mut self) {
        let mut connections = std::mem::take(&mut self.connections);
        for connection in connections.values_mut() {
            (connection.last, connection.used) = (None, true);
        }
        *self = Self { connections, ..Self::new() };
    }

    /// Promise jobs are observed from now on, or not any more: what is known of them is void.
    pub fn watch_promises(&mut self, watched: Watched) {
        self.watches_promises = watched == Watched::Yes;
        self.promises.clear();
        self.job = Job::None;
        self.turn = None;
        self.jobs_ran = true;
    }

    /// Whether this program has microtasks.
    pub fn sees_microtasks(&self) -> bool {
        self.sees_microtasks
    }

    /// Whether something that descends from one request was seen to answer another: then it works for both, and what it
    /// calls may be for either.
    pub fn is_doubted(&self) -> bool {
        self.doubted
    }

    /// A collection was heard of too late: where objects are is not known.
    pub fn lose_promises(&mut self) {
        self.promises.clear();
    }

    /// An event whose words could not be read: whoever runs now is not known.
    pub fn blind(&mut self) {
        self.turn = None;
        self.job = Job::None;
        self.jobs_ran = true;
        self.last = None;
    }

    /// Takes an event. For a write that begins a request: on whose behalf.
    pub fn event(&mut self, event: &Event, words: Words, read: &dyn Fn(u64) -> Option<u64>) -> Option<Found> {
        // Until the first native resource is seen being made, those that were made before are not known as such.
        if !self.sees_made {
            self.before = words.counter;
            self.sees_made = *event == Event::Made;
        }
        self.give_out(event, words);
        let mut answer = None;
        match *event {
            Event::Read { connection, at, starts } => self.read(connection, at, starts, words),
            Event::Write { connection, starts } => answer = self.write(connection, starts, words),
            Event::Made => {
                let owner = self.owner(words);
                self.ids.made(words.counter + 1, owner);
                for id in [words.id, words.trigger] {
                    self.reset_under.insert(id, self.iteration);
                }
            }
            Event::Boundary => self.leave_turn(),
            Event::Immediates => {
                self.leave_turn();
                self.immediates = true;
                self.iteration += 1;
                self.reset_under.clear();
            }
            Event::Microtasks => {
                self.jobs_ran = true;
                self.sees_microtasks = true;
                if self.watches_promises {
                    self.job = Job::Running(None);
                }
            }
            Event::Callable(function) => {
                let owner = self.owner(words);
                self.promises.function(function, owner);
            }
            Event::Calls(function) => {
                self.job = Job::Running(self.promises.call(function));
                self.jobs_ran = true;
            }
            Event::Register(objects) => {
                let owner = self.owner(words);
                self.promises.register(objects, owner);
            }
            Event::Derived(promise) => {
                let owner = self.owner(words);
                self.promises.derived(promise, owner);
            }
            Event::Job(promise, handler) => {
                self.job = Job::Running(self.promises.begin(promise, handler));
                self.jobs_ran = true;
            }
            Event::JobOfNobody => {
                self.job = Job::Running(None);
                self.jobs_ran = true;
            }
            Event::Moved => self.promises.moved(read),
        }
        // A native resource takes its id right after the event; it is not one of the interval's.
        let counter = if *event == Event::Made { words.counter + 1 } else { words.counter };
        self.last = Some((counter, matches!(self.job, Job::Running(_)) && words.id == 0));
        answer
    }

    /// The ids given out since the last event.
    fn give_out(&mut self, event: &Event, words: Words) {
        let Some((before, was_in_job)) = self.last else { return };
        if words.counter <= before {
            return;
        }
        let is_job = matches!(event, Event::Job(..) | Event::JobOfNobody | Event::Calls(_));
        let during = match (self.job, self.turn) {
            (Job::Running(owner), _) => {
                let certain = was_in_job && words.id == 0 && !is_job && !is_boundary(event);
                During::Job { owner, certain }
            }
            (Job::None, Some(turn)) if !self.jobs_ran => During::Turn(turn),
            _ => During::Unknown,
        };
        self.ids.given(Interval { from: before + 1, to: words.counter, during, iteration: self.iteration });
    }

    fn leave_turn(&mut self) {
        self.turn = None;
        self.job = Job::None;
        self.jobs_ran = false;
        self.immediates = false;
    }

    fn read(&mut self, connection: u64, at: u64, starts: Starts, words: Words) {
        self.leave_turn();
        let known = self.connection(connection);
        match starts {
            Starts::Request => known.role = Some(Role::Server),
            Starts::Response => known.role = Some(Role::Client),
            Starts::Other => {}
        }
        let (owner, client) = match known.role {
            Some(Role::Server) => (Some(Owner { connection, at }), false),
            Some(Role::Client) => (known.last, true),
            None => (None, false),
        };
        self.turns += 1;
        self.turn = Some(Turn { owner, connection, client, counter: words.counter, serial: self.turns });
    }

    fn write(&mut self, connection: u64, starts: Starts, words: Words) -> Option<Found> {
        let role = match starts {
            Starts::Request => Some(Role::Client),
            Starts::Response => Some(Role::Server),
            Starts::Other => None,
        };
        if let Some(role) = role {
            self.connection(connection).role = Some(role);
        }
        if starts == Starts::Response {
            self.doubted |= self.owner(words).is_some_and(|owner| owner.connection != connection);
        }
        if starts != Starts::Request {
            return None;
        }
        let used = self.connection(connection).used;
        let owner = if used && self.may_be_queued(connection, words) { None } else { self.owner(words) };
        let known = self.connection(connection);
        known.last = owner;
        known.used = true;
        let owner = owner?;
        let in_turn = self.turn.is_some_and(|turn| !turn.client && turn.owner == Some(owner));
        let by = if in_turn && words.id != 0 && !self.jobs_ran { By::Turn } else { By::Descent };
        Some(Found { owner, by })
    }

    fn connection(&mut self, connection: u64) -> &mut Connection {
        if self.connections.len() >= MAX_CONNECTIONS && !self.connections.contains_key(&connection) {
            self.connections.clear();
        }
        self.connections.entry(connection).or_default()
    }

    /// Whether a request written on a connection that was used before may be one that waited for it: then who runs
    /// now is whose response freed the connection. An http.Agent enters a resource of the waiting request and
    /// re-keys the socket; undici does neither.
    fn may_be_queued(&self, connection: u64, words: Words) -> bool {
        let in_job = words.id == 0 && matches!(self.job, Job::Running(_));
        if in_job || [words.id, words.trigger].iter().any(|id| self.reset_under.contains_key(id)) {
            return false;
        }
        let of_response = |id: u64, same_connection: bool| match self.ids.interval(id) {
            Some(Interval { during: During::Turn(turn), iteration, .. }) if turn.client => {
                if same_connection {
                    turn.connection == connection && *iteration == self.iteration
                } else {
                    true
                }
            }
            _ => false,
        };
        let ids = [words.id, words.trigger];
        if ids.iter().any(|&id| of_response(id, true)) {
            return true;
        }
        if self.immediates && ids.iter().any(|&id| of_response(id, false)) {
            return true;
        }
        self.turn.is_some_and(|turn| turn.connection == connection && words.id <= turn.counter)
    }

    /// On whose behalf the thread runs.
    fn owner(&mut self, words: Words) -> Option<Owner> {
        let Words { id, trigger, .. } = words;
        if id == 0 {
            return match self.job {
                Job::Running(owner) => owner,
                Job::None => None,
            };
        }
        if let Some(turn) = self.turn
            && id <= turn.counter
        {
            return self.owner_of_resource(id, &turn);
        }
        let found = self.owner_of_new(id, trigger);
        self.ids.found(id, found);
        found
    }

    /// Something older than the turn runs in it: the connection's own handle or parser, or a resource that is entered.
    fn owner_of_resource(&mut self, id: u64, turn: &Turn) -> Option<Owner> {
        let own = self.owner_of_trigger(id);
        if self.is_of(id, turn) {
            return match own {
                None => turn.owner,
                Some(own) if Some(own) == turn.owner => turn.owner,
                Some(_) => None,
            };
        }
        own
    }

    /// Whether an id is a native resource, or one that is old and the connection's own.
    fn is_of(&mut self, id: u64, turn: &Turn) -> bool {
        if id <= self.before { self.ids.is_of_connection(id, turn) } else { self.ids.is_native(id) }
    }

    /// A resource that does not run inside of an older one's turn.
    fn owner_of_new(&mut self, id: u64, trigger: u64) -> Option<Owner> {
        match self.ids.interval(id).copied().map(|interval| interval.during) {
            Some(During::Turn(turn)) => {
                if trigger == 0 {
                    return None;
                }
                if trigger <= turn.counter {
                    // What was entered there is whose it was when it was made: a request that waited for a socket.
                    return if self.is_of(trigger, &turn) {
                        turn.owner
                    } else {
                        self.owner_of_trigger(trigger)
                    };
                }
                // Made by something that was made in the same turn, before any microtask ran.
                self.ids.noted(trigger).unwrap_or(turn.owner)
            }
            Some(During::Job { owner, certain }) if trigger == 0 || certain => owner,
            _ if self.ids.is_native(id) => self.ids.owner(id),
            _ if trigger != 0 => self.owner_of_trigger(trigger),
            _ => None,
        }
    }

    /// The owner of an id of which no more is known: what was noted, else by when it was given out.
    fn owner_of_trigger(&self, id: u64) -> Option<Owner> {
        self.ids.noted(id).unwrap_or_else(|| self.owner_by_interval(id))
    }

    /// The owner of an id whose trigger is not known, by when it was given out.
    fn owner_by_interval(&self, id: u64) -> Option<Owner> {
        match self.ids.interval(id)?.during {
            During::Job { owner, certain: true } => owner,
            During::Turn(turn) => turn.owner,
            _ => None,
        }
    }
}

/// Whether what ran before an event is over.
fn is_boundary(event: &Event) -> bool {
    matches!(event, Event::Read { .. } | Event::Boundary | Event::Immediates)
}

impl Default for Machine {
    fn default() -> Self {
        Self::new()
    }
}

/// Whether promise jobs are observed.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[allow(missing_docs)]
pub enum Watched {
    Yes,
    No,
}

/// Connections remembered; beyond, all are forgotten, which makes orphans.
const MAX_CONNECTIONS: usize = 16_384;
