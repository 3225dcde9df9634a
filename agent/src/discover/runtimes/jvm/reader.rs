//! The JVM's reader: what virtual thread calls, and which task a worker runs.
//!
//! A virtual thread that reads a request is that request's. For the threads of pools: the task is looked for on the
//! stack, from its base inwards, by class, in the process's memory; once, since the frames of a pool's loop never
//! return, so the walk reads that word from then on (see `tlab`). The word's class is checked at each call.

use std::collections::{HashMap, VecDeque};
use std::ops::Range;

use super::super::{Hit, How, ProbeSet, Reader, Seen, Wish};
use super::classes::{Classes, Kind};
use super::depths::Depths;
use super::forks::{self, Met};
use super::layout::Layout;
use super::moved;
use super::tlab::{Act, Buffer, Now, Owner, Provenance};
use super::{FILLED, Paths, client, mounted, tail, tomcat, walks};
use crate::discover::memory::{ProcessMemory, ReadMemory};
use crate::identity::{Birth, Claim, Direction, Facts, Key, LinkMethod, Monotonic, ThreadId};

/// One process's.
pub struct JvmReader {
    layout: Layout,
    /// libjvm's addresses, for the walks.
    code: (u64, u64),
    memory: Box<dyn ReadMemory + Send>,
    heap: Provenance,
    classes: Classes,
    roles: HashMap<u64, Role>,
    depths: Depths,
    threads: HashMap<ThreadId, Slot>,
    clock: fn() -> Monotonic,
    /// Links by where a task was allocated are made.
    infers: bool,
    /// Threads that read a request, whose buffers are looked at a little later.
    watched: VecDeque<Watched>,
    /// It was said that nothing may be inferred.
    doubted: bool,
    refills: Refills,
    tomcat: tomcat::Finder,
    client: client::Finder,
    /// Which connection a request was last read from, by its descriptor.
    descriptors: HashMap<u64, u64>,
    /// The descriptor from which a thread last read a request.
    readers: HashMap<ThreadId, u64>,
}

/// The probe of where threads take other allocation buffers.
enum Refills {
    /// It cannot be had, or came off.
    Unwatched,
    /// It can.
    Possible(ProbeSet),
    /// It was asked for.
    Asked,
    /// It is there: buffers need not be looked at.
    Watched,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Role {
    Server,
    Client,
}

/// A thread that read a request: small buffers are taken faster than it makes calls.
#[derive(Clone, Copy, Debug)]
struct Watched {
    thread: ThreadId,
    /// Its `JavaThread`.
    at: u64,
    /// When the read ended.
    since: u64,
    /// When to look next.
    due: u64,
    /// How often it was looked at.
    looks: u32,
}

/// Where on a thread's stack its task is.
#[derive(Clone, Copy, Debug, Default)]
struct Slot {
    depth: Option<u64>,
    looks: u32,
    /// It is a ForkJoinPool's.
    forks: bool,
}

/// Kinds of keys: the connection that delivered a request, and the Java thread that read it.
const CONNECTION: u8 = 1;
const JAVA_THREAD: u8 = 2;

/// The words of a walk, see [`walks`].
struct Words {
    thread: u64,
    java: u64,
    is_virtual: bool,
    object: u64,
    buffer: Buffer,
    stack: u64,
    descriptor: u64,
    slots: Vec<(u64, u64)>,
    /// Of the depths at which those were met.
    generation: u8,
    /// The time of the call.
    at: Monotonic,
    /// The descriptor that a worker of Tomcat serves.
    serves: Option<u64>,
    /// The reference to the subscription for which a client's thread writes.
    subscription: Option<u64>,
}

impl Words {
    fn of(words: &[u64], tag: u16, at: Monotonic) -> Option<Self> {
        // The tails, from the last to the first.
        let (mut words, mut tails) = (words, [None; 2]);
        for (found, which) in tails.iter_mut().zip([tail::CLIENT, tail::TOMCAT]) {
            if tag & which != 0 {
                let (&last, before) = words.split_last()?;
                (*found, words) = (Some(last).filter(|&word| word != 0), before);
            }
        }
        let [subscription, serves] = tails;
        let [thread, java, mounted, object, rest @ ..] = words else { return None };
        let [start, top, end, epoch, collecting, stack, descriptor, slots @ ..] = rest else {
            return None;
        };
        // While a collection is under way, what seems to be a buffer is from before it.
        let [start, top, end] = if *collecting == 0 { [start, top, end] } else { [&0; 3] };
        // Without a buffer its object may have been on its way to another place when its id was read.
        let known = *mounted == mounted::VIRTUAL || *mounted == mounted::VIRTUAL_BY_OBJECT && *start != 0;
        Some(Self {
            thread: *thread,
            java: *java,
            is_virtual: known,
            object: *object,
            buffer: Buffer {
                thread: *thread,
                java: *java,
                carries: *mounted != mounted::NONE,
                start: *start,
                top: *top,
                end: *end,
                epoch: *epoch,
            },
            stack: *stack,
            descriptor: *descriptor,
            generation: tail::generation_of(tag),
            at,
            serves,
            subscription,
            slots: slots.chunks_exact(2).filter_map(|pair| Some((*pair.first()?, *pair.get(1)?))).collect(),
        })
    }
}

impl JvmReader {
    /// A reader for a process whose libjvm has its code there.
    pub fn new(
        layout: Layout,
        code: (u64, u64),
        memory: ProcessMemory,
        clock: fn() -> Monotonic,
        how: &How,
        refills: Option<ProbeSet>,
    ) -> Self {
        Self {
            layout,
            code,
            memory: Box::new(memory),
            heap: Provenance::default(),
            classes: Classes::default(),
            roles: HashMap::new(),
            depths: Depths::default(),
            threads: HashMap::new(),
            clock,
            infers: how.infers(),
            watched: VecDeque::new(),
            doubted: false,
            tomcat: tomcat::Finder::default(),
            client: client::Finder::default(),
            descriptors: HashMap::new(),
            readers: HashMap::new(),
            refills: refills.map_or(Refills::Unwatched, Refills::Possible),
        }
    }

    fn role(&mut self, connection: u64, role: Option<Role>) -> Option<Role> {
        if let Some(role) = role {
            if self.roles.len() >= MAX_CONNECTIONS {
                self.roles.clear();
            }
            self.roles.insert(connection, role);
        }
        self.roles.get(&connection).copied()
    }

    /// The address of the task that this thread runs, by the word at the depth where it was found before.
    fn task(&mut self, thread: ThreadId, words: &Words, wishes: &mut Vec<Wish>) -> Option<u64> {
        if let Some(object) = self.task_at_its_depth(thread, words) {
            return Some(object);
        }
        let layout = self.layout.classes.clone()?;
        let slot = self.threads.get(&thread).copied().unwrap_or_default();
        if slot.looks >= MAX_LOOKS {
            return None;
        }
        if self.threads.len() >= MAX_THREADS {
            self.threads.clear();
        }
        let stack = self.stack(words, &layout);
        // On these threads nothing is what it seems at one place.
        let forks = outermost(&stack).is_some_and(|(_, kind)| kind == Kind::ForkJoin);
        // Where nothing is inferred, only Tomcat's workers are of use, and reading costs the program.
        let inferred = self.infers && self.layout.stands_still();
        let depth = outermost(&stack).filter(|(_, kind)| !forks && (inferred || *kind == Kind::Worker));
        let depth = depth.map(|(depth, _)| depth);
        self.threads.insert(thread, Slot { depth, looks: slot.looks + 1, forks });
        let pair = if forks && inferred { forks::pair(&stack) } else { None };
        if pair.is_some_and(|pair| self.depths.found_forks(pair, words.at))
            || depth.is_some_and(|depth| self.depths.found(depth, words.at))
        {
            self.walk(wishes);
        }
        // Other threads of its kind had it at the same depth, where the walk has read already.
        self.task_at_its_depth(thread, words)
    }

    /// What was met where this thread's task was found is no open request's. Perhaps it is left over, since the loop of its pool
    /// runs otherwise compiled: the next time it is looked for.
    fn look_again(&mut self, thread: ThreadId) {
        if let Some(slot) = self.threads.get_mut(&thread)
            && slot.looks < MAX_LOOKS
        {
            slot.depth = None;
        }
    }

    fn walk(&self, wishes: &mut Vec<Wish>) {
        let (tomcat, client) = (self.tomcat.path(), self.client.path());
        let paths = Paths { tomcat: tomcat.as_ref(), client: client.as_ref() };
        wishes.push(Wish::Walks(walks(&self.layout, self.code, &self.depths, paths)));
    }

    /// The connection that this thread serves, if it is a worker of Tomcat that runs this object.
    fn served(
        &mut self,
        thread: ThreadId,
        object: u64,
        words: &Words,
        wishes: &mut Vec<Wish>,
    ) -> Option<u64> {
        let (layout, narrow) = (self.layout.classes.as_ref()?, self.layout.narrow?);
        let class = words.slots.iter().find(|(known, _)| *known == object)?.1;
        let class = u32::try_from(class).ok()?;
        let kind = self.classes.kind(class, words.buffer.epoch, layout, self.memory.as_ref());
        // Without a buffer a collection may be moving what was read.
        if kind != Kind::Worker || words.buffer.start == 0 {
            return None;
        }
        let Some(path) = self.tomcat.path() else {
            let descriptors = &self.descriptors;
            let serves = |number| descriptors.contains_key(&number);
            if self.tomcat.look(object, class, (layout, narrow), self.memory.as_ref(), &serves) {
                self.walk(wishes);
            }
            return None;
        };
        // The walk went on from the last object of this class; what others are is not known.
        let only = words.slots.iter().all(|&(other, of)| of != u64::from(path.class) || other == object);
        let serves = words.serves.filter(|_| only && path.class == class)?;
        if self.readers.get(&thread) != Some(&serves) {
            return None;
        }
        self.descriptors.get(&serves).copied()
    }

    /// For which exchange this thread writes, if it is a client's: the object that whoever wants it allocated. None: it is not a
    /// client's; and nothing in it: it is not known.
    fn exchange(
        &mut self,
        thread: ThreadId,
        task: Option<u64>,
        words: &Words,
        wishes: &mut Vec<Wish>,
    ) -> Option<Option<u64>> {
        let epoch = words.buffer.epoch;
        if let (Some(path), Some(reference)) = (self.client.path(), words.subscription) {
            let found = path.exchange(reference, words.descriptor, self.memory.as_ref());
            // What was read afterwards is what it was at the call if nothing was moved since.
            let stays = words.buffer.start != 0 && self.layout.is_after(self.memory.as_ref(), epoch);
            return Some(found.filter(|_| stays));
        }
        let (layout, object) = (self.layout.classes.as_ref()?, task?);
        let class = words.slots.iter().find(|(known, _)| *known == object)?.1;
        let class = u32::try_from(class).ok()?;
        if self.classes.kind(class, epoch, layout, self.memory.as_ref()) != Kind::Client {
            return None;
        }
        let depth = self.threads.get(&thread).and_then(|slot| slot.depth);
        if let (Some(depth), Some(narrow)) = (depth, self.layout.narrow) {
            let ran = client::Ran { depth, object, class, descriptor: words.descriptor };
            if self.client.look(ran, (layout, narrow), self.memory.as_ref()) {
                self.walk(wishes);
            }
        }
        Some(None)
    }

    /// Looks at the buffers of some threads that are due.
    fn watch(&mut self, epoch: u64) {
        for _ in 0..LOOKS_AT_ONCE {
            let now = (self.clock)().0;
            let Some(mut watched) = self.watched.pop_front_if(|watched| watched.due <= now) else { return };
            let look = self.layout.buffer_now(self.memory.as_ref(), watched.at, watched.thread, epoch, None);
            let after = (self.clock)().0;
            let goes_on = self.heap.looked(watched.thread, watched.since, after, look);
            watched.looks += 1;
            if goes_on && watched.looks < LOOKS {
                watched.due = after + LOOK_AGAIN;
                self.watched.push_back(watched);
            }
        }
    }

    /// The task at the depth where this thread's was found.
    fn task_at_its_depth(&mut self, thread: ThreadId, words: &Words) -> Option<u64> {
        let slot = *self.threads.get(&thread)?;
        if slot.forks {
            return self.forked(words);
        }
        let depth = slot.depth?;
        let (object, kind) = self.at(depth, words)?;
        if !matches!(kind, Kind::Task | Kind::Worker | Kind::Client) {
            return None;
        }
        self.depths.met(depth, words.at);
        Some(object)
    }

    /// The task that this thread of a ForkJoinPool runs.
    fn forked(&mut self, words: &Words) -> Option<u64> {
        let (outer, inner) = self.depths.forks()?;
        let (object, kind) = self.at(outer, words)?;
        let (again, _) = self.at(inner, words)?;
        if object != again || kind != Kind::Task {
            return None;
        }
        let owner = self.heap.owner(object)?;
        // It may help with other tasks while it waits for one.
        let layout = self.layout.classes.clone()?;
        let alone = self.stack(words, &layout).iter().all(|&(_, other, kind)| {
            kind != Kind::Task || other == object || self.heap.owner(other).is_none_or(|other| other == owner)
        });
        alone.then_some(object)
    }

    /// The object that the walk met at this depth, and what it is.
    fn at(&mut self, depth: u64, words: &Words) -> Option<(u64, Kind)> {
        let layout = self.layout.classes.as_ref()?;
        let place = self.depths.place(depth, words.generation)?;
        let &(object, class) = words.slots.get(place).filter(|(object, _)| *object != 0)?;
        let class = u32::try_from(class).ok()?;
        Some((object, self.classes.kind(class, words.buffer.epoch, layout, self.memory.as_ref())))
    }

    /// What tasks and parts of pools are on a stack as it is now, from its base inwards.
    fn stack(&mut self, words: &Words, layout: &super::classes::ClassLayout) -> Vec<Met> {
        let base = words.thread.checked_add(self.layout.stack_base).and_then(|at| self.memory.word(at));
        let bytes = base.and_then(|base| {
            let from = base.checked_sub(MAX_STACK)?.max(words.stack) & !7;
            let length = usize::try_from(base.checked_sub(from)?).ok()?;
            self.memory.bytes(from, length)
        });
        let bytes = bytes.unwrap_or_default();
        let (start, end) = self.layout.heap;
        let mut met = Vec::new();
        for (depth, word) in (1..).zip(bytes.rchunks_exact(8)) {
            let object = u64::from_le_bytes(word.try_into().unwrap_or_default());
            if object & 7 != 0 || object < start || object >= end {
                continue;
            }
            let Some(class) = self.memory.u32(object + 8) else { continue };
            match self.classes.kind(class, words.buffer.epoch, layout, self.memory.as_ref()) {
                Kind::Other => {}
                kind => met.push((depth * 8, object, kind)),
            }
        }
        met
    }
}

/// The outermost of what is on a stack, and how far below the base.
fn outermost(stack: &[Met]) -> Option<(u64, Kind)> {
    stack.first().map(|&(depth, _, kind)| (depth, kind))
}

impl Reader for JvmReader {
    fn read(&mut self, seen: &Seen<'_>, wishes: &mut Vec<Wish>) -> Facts {
        let mut facts = Facts::default();
        let Some(words) = Words::of(seen.words, seen.tag, seen.time) else { return facts };
        let connection = seen.connection.0;
        let starts = Starts::of(seen.bytes);
        let said = match (seen.direction, starts) {
            (Direction::Receive, Starts::Request) | (Direction::Send, Starts::Response) => Some(Role::Server),
            (Direction::Receive, Starts::Response) | (Direction::Send, Starts::Request) => Some(Role::Client),
            _ => None,
        };
        let role = self.role(connection, said);
        if seen.direction == Direction::Receive {
            facts.owns.push(Key { space: CONNECTION, value: connection });
            if words.is_virtual {
                facts.owns.push(Key { space: JAVA_THREAD, value: words.java });
            }
        }
        let asks = seen.direction == Direction::Send && starts == Starts::Request;
        if asks && words.is_virtual {
            facts.claims.push(Claim {
                key: Key { space: JAVA_THREAD, value: words.java },
                at: None,
                born: None,
                method: LinkMethod::Task,
            });
        }
        if seen.direction == Direction::Receive && role == Some(Role::Server) {
            if self.descriptors.len() >= MAX_CONNECTIONS || self.readers.len() >= MAX_THREADS {
                self.descriptors.clear();
                self.readers.clear();
            }
            self.readers.insert(seen.thread, words.descriptor);
            self.descriptors.insert(words.descriptor, connection);
        }
        // Addresses of what moves at any time mean nothing.
        let looks = asks && !words.is_virtual && !words.buffer.carries && !self.layout.moves_ids();
        // What a client's thread runs is none of its own.
        let passes = self.client.path().is_some() && words.subscription.is_some();
        let task = if looks && !passes { self.task(seen.thread, &words, wishes) } else { None };
        if let Some(connection) = task.and_then(|task| self.served(seen.thread, task, &words, wishes)) {
            facts.claims.push(Claim {
                key: Key { space: CONNECTION, value: connection },
                at: None,
                born: None,
                method: LinkMethod::Task,
            });
        }
        if !self.infers || !self.layout.stands_still() {
            return facts;
        }
        let exchange = if looks { self.exchange(seen.thread, task, &words, wishes) } else { None };
        if let Refills::Possible(_) = self.refills
            && let Refills::Possible(set) = std::mem::replace(&mut self.refills, Refills::Asked)
        {
            wishes.push(Wish::Observe(set));
        }
        let act = match (seen.direction, role) {
            (Direction::Receive, Some(Role::Server)) => Act::ReadsRequest,
            (Direction::Receive, Some(Role::Client)) => Act::ReadsAnswer,
            (Direction::Send, Some(Role::Server)) => {
                Act::Answers(self.task_at_its_depth(seen.thread, &words))
            }
            // A collection takes all buffers before it moves objects: what is on the stack may be where objects were.
            _ if asks && words.buffer.start == 0 => Act::Asks(None),
            _ if asks && words.is_virtual => Act::Asks(Some(words.object)),
            _ if asks => exchange.map_or(Act::Asks(task), Act::Passes),
            // Perhaps another request, of which the beginning was not seen.
            (Direction::Receive, None) => Act::ReadsAnswer,
            _ => Act::Other,
        };
        let epoch = words.buffer.epoch;
        let mut now =
            Process { layout: &self.layout, memory: self.memory.as_ref(), classes: &mut self.classes, epoch };
        let owner = self.heap.call(seen.thread, words.buffer, connection, act, seen.time.0, &mut now);
        if let (Act::Asks(Some(_)), None) = (act, owner) {
            self.look_again(seen.thread);
        }
        if self.heap.is_doubted() && !std::mem::replace(&mut self.doubted, true) {
            wishes.push(Wish::Doubt);
        }
        facts.claims.extend(owner.map(inferred));
        if act == Act::ReadsRequest
            && !words.buffer.carries
            && !matches!(self.refills, Refills::Watched)
            && self.watched.len() < MAX_WATCHED
        {
            let (thread, at, since) = (seen.thread, words.thread, seen.time.0);
            self.watched.push_back(Watched { thread, at, since, due: 0, looks: 0 });
        }
        self.watch(epoch);
        facts
    }

    fn observed(&mut self, hit: &Hit<'_>, _: &mut Vec<Wish>) -> Vec<Birth> {
        if let (FILLED, &[tlab, start, words, epoch]) = (hit.tag, hit.words) {
            let end = start.saturating_add(words.saturating_mul(8));
            let [place, ..] = self.layout.tlab;
            self.heap.refilled(hit.thread, tlab.wrapping_sub(place), start..end, epoch);
        }
        Vec::new()
    }

    fn attached(&mut self, _set: &str, _at: Monotonic) {
        self.refills = Refills::Watched;
        self.watched.clear();
    }

    fn unobserved(&mut self, _set: &str) {
        self.refills = Refills::Unwatched;
    }

    fn lost(&mut self) {
        self.heap.forget();
        self.descriptors.clear();
        self.readers.clear();
    }
}

/// The process after so many collections.
struct Process<'a> {
    layout: &'a Layout,
    memory: &'a dyn ReadMemory,
    classes: &'a mut Classes,
    epoch: u64,
}

impl Now for Process<'_> {
    fn buffer(&mut self, thread: ThreadId, java_thread: u64, address: u64) -> Option<[u64; 3]> {
        self.layout.buffer_now(self.memory, java_thread, thread, self.epoch, Some(address))
    }

    fn is_collected(&mut self) -> bool {
        self.layout.is_after(self.memory, self.epoch)
    }

    fn moved(&mut self, range: &Range<u64>) -> Vec<u64> {
        let Some(classes) = &self.layout.classes else { return Vec::new() };
        moved::tasks(range, self.epoch, self.layout.heap, self.classes, classes, self.memory)
    }
}

fn inferred(owner: Owner) -> Claim {
    Claim {
        key: Key { space: CONNECTION, value: owner.connection },
        at: Some(Monotonic(owner.at)),
        born: None,
        method: LinkMethod::Inferred,
    }
}

use super::super::starts::Starts;

/// Connections whose role is remembered; beyond, all are forgotten.
const MAX_CONNECTIONS: usize = 65_536;
/// Threads that are looked at.
const MAX_THREADS: usize = 16_384;
/// Threads whose buffers wait to be looked at; beyond, they are not.
const MAX_WATCHED: usize = 1024;
/// Looks at buffers for one record, so that no burst of them holds the records up.
const LOOKS_AT_ONCE: u32 = 4;
/// Looks at the buffers of one thread for one request.
const LOOKS: u32 = 2;
/// How soon the next one, nanoseconds: a handler hands over soon, or waits.
const LOOK_AGAIN: u64 = 1_000_000;
/// How often a thread's stack is looked through in its life.
const MAX_LOOKS: u32 = 32;
/// How much of a stack is looked through, from its base: the loop of a pool lies within.
const MAX_STACK: u64 = 8192;

#[cfg(test)]
mod tests {
    use super::super::CALLS;
    use super::*;

    fn is_virtual_while(collecting: u64, mounted: u64, start: u64) -> bool {
        let words = [0x77, 9, mounted, 0x1000, start, start, start, 1, collecting, 0x5000, 7];
        Words::of(&words, CALLS, Monotonic(0)).is_some_and(|words| words.is_virtual)
    }

    fn is_virtual(mounted: u64, start: u64) -> bool {
        is_virtual_while(0, mounted, start)
    }

    #[test]
    fn what_the_tag_says_stands_behind_the_slots() {
        let all = [0x77, 9, 0, 0x1000, 8, 8, 8, 1, 0, 0x5000, 7, 0x100, 1, 0x200, 2, 33, 44];
        let of = |length: usize, tag| Words::of(&all[..length], tag, Monotonic(0)).unwrap();
        let check = |words: Words, serves, subscription| {
            assert_eq!(words.slots, [(0x100, 1), (0x200, 2)]);
            assert_eq!((words.serves, words.subscription), (serves, subscription));
        };
        check(of(15, CALLS), None, None);
        check(of(16, CALLS | tail::TOMCAT), Some(33), None);
        check(of(16, CALLS | tail::CLIENT), None, Some(33));
        check(of(17, CALLS | tail::TOMCAT | tail::CLIENT), Some(33), Some(44));
    }

    #[test]
    fn what_is_read_during_a_collection_is_no_buffer() {
        assert!(!is_virtual_while(1, mounted::VIRTUAL_BY_OBJECT, 0x9000));
        assert!(is_virtual_while(1, mounted::VIRTUAL, 0x9000));
    }

    #[test]
    fn an_id_that_was_read_while_objects_may_have_moved_is_none() {
        assert!(is_virtual(mounted::VIRTUAL_BY_OBJECT, 0x9000));
        assert!(!is_virtual(mounted::VIRTUAL_BY_OBJECT, 0));
        assert!(is_virtual(mounted::VIRTUAL, 0));
        assert!(![mounted::NONE, mounted::UNKNOWN].into_iter().any(|mounted| is_virtual(mounted, 0x9000)));
    }
}
