//! Which request a Java object was allocated for, by its address; pure.
//!
//! ```text
//!   thread T reads a request:  top = a ──▶ T's next call: top = b     [a, b) was allocated for that request
//!   a worker sends:  the task on its stack lies in [a, b) ──▶ it works for that request, however long the task waited
//! ```
//! A Java thread allocates from a buffer of its own by moving its top. A collection moves objects, so each one makes all
//! addresses void, but for those of tasks that can be read from what it left behind (see `moved`). A worker's own allocations count only between a call and its answer: from one task
//! to the next it need not make a call. It must never answer for an address that two requests can have allocated, or
//! for a request that was answered.

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;

use crate::identity::ThreadId;

/// A request: the connection that delivered it, and when it was read.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Owner {
    /// The connection.
    pub connection: u64,
    /// The end of the call that read, nanoseconds.
    pub at: u64,
}

/// A thread's state at a call.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Buffer {
    /// The address of the thread's `JavaThread`.
    pub thread: u64,
    /// The Java thread that is mounted.
    pub java: u64,
    /// That is a virtual one: after the call, another may run, and allocate from the same buffer.
    pub carries: bool,
    /// The allocation buffer's start.
    pub start: u64,
    /// Where the next object goes.
    pub top: u64,
    /// The buffer's end.
    pub end: u64,
    /// Collections so far.
    pub epoch: u64,
}

/// What a call does.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Act {
    /// Reads on a connection that serves.
    ReadsRequest,
    /// Reads on a connection on which this process is the client.
    ReadsAnswer,
    /// Writes an answer, while the outermost task on the stack lies at this address.
    Answers(Option<u64>),
    /// Writes a request, while the outermost task on the stack lies at this address, or none does.
    Asks(Option<u64>),
    /// Writes a request for another thread, which allocated the object at this address for it; or it is not known for whom.
    Passes(Option<u64>),
    /// Anything else.
    Other,
}

/// What can be seen of the process at this moment.
pub trait Now {
    /// Start, top and end of the buffer that a thread, with its `JavaThread` there, has, if this address lies in it.
    fn buffer(&mut self, thread: ThreadId, java_thread: u64, address: u64) -> Option<[u64; 3]>;

    /// The last collection is the one that the process has been known to have had, and it is over.
    fn is_collected(&mut self) -> bool {
        false
    }

    /// The new addresses of tasks that lay in this range before that collection.
    fn moved(&mut self, _range: &Range<u64>) -> Vec<u64> {
        Vec::new()
    }
}

/// All that is known of a process's heap.
#[derive(Debug, Default)]
pub struct Provenance {
    epoch: Option<u64>,
    /// By first address: the end, and for whom.
    allocated: BTreeMap<u64, (u64, Owner)>,
    /// What was allocated before the last collection, of which it is not yet known where it is now.
    collected: Vec<(Range<u64>, Owner)>,
    /// Tasks that the last collection moved, by their new addresses; nobody's if two requests claim one.
    moved: HashMap<u64, Option<Owner>>,
    threads: HashMap<ThreadId, Last>,
    connections: HashMap<u64, Connection>,
    /// Intervals that were forgotten to make room.
    pub forgotten: u64,
    /// A task that one request allocated answered another.
    doubted: bool,
}

#[derive(Clone, Debug)]
struct Last {
    buffer: Buffer,
    works: Works,
    /// Buffers that it was seen to have since: when that was, start and top.
    looks: Vec<(u64, [u64; 2])>,
    /// Buffers that it took since, in order.
    refills: Vec<Range<u64>>,
}

/// For whom a thread works until its next call.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Works {
    Unknown,
    /// It read this request.
    Serves(Owner),
    /// It waits for an answer on this connection.
    Waits(Owner, u64),
}

#[derive(Clone, Copy, Debug, Default)]
struct Connection {
    asked_for: Option<Owner>,
    answered: u64,
}

impl Provenance {
    /// Takes a call. For one that asks: the request whose task it runs, if that is known. `now` tells start, top and end
    /// of the buffer that a thread has at this moment, if there was no collection since this call.
    pub fn call(
        &mut self,
        thread: ThreadId,
        buffer: Buffer,
        connection: u64,
        act: Act,
        time: u64,
        now: &mut dyn Now,
    ) -> Option<Owner> {
        let act = match act {
            // A task's address is from before the last collection.
            Act::Asks(_) if self.is_past(buffer.epoch) => Act::Asks(None),
            Act::Passes(_) if self.is_past(buffer.epoch) => Act::Passes(None),
            Act::Answers(_) if self.is_past(buffer.epoch) => Act::Answers(None),
            act => act,
        };
        let buffer = self.at_epoch(buffer);
        let by_task = match act {
            Act::Asks(Some(task)) | Act::Passes(Some(task)) => {
                self.follow(now);
                self.owner(task).or_else(|| self.served_now(task, (thread, buffer), now))
            }
            Act::Answers(Some(task)) => {
                self.doubted |= self.owner(task).is_some_and(|owner| owner.connection != connection);
                None
            }
            _ => None,
        };
        let last = self.threads.remove(&thread);
        let before = last.as_ref().map_or(Works::Unknown, |last| last.works);
        let counts = match (before, act) {
            (_, Act::Passes(_)) => false,
            (Works::Serves(owner), Act::Asks(_)) => by_task.is_none_or(|other| other == owner),
            (Works::Serves(_), _) => true,
            (Works::Waits(_, on), Act::ReadsAnswer) => on == connection,
            _ => false,
        };
        if let (true, Works::Serves(owner) | Works::Waits(owner, _), Some(last)) = (counts, before, last) {
            self.allocate(last.buffer, &last.refills, buffer, owner);
            // What was looked at before this call ended is what it had between the two.
            let met = [last.buffer.start, buffer.start];
            for (_, [start, top]) in last.looks.into_iter().filter(|(at, _)| *at < time) {
                if !met.contains(&start) && last.buffer.java == buffer.java {
                    self.note(start, top, owner);
                }
            }
        }
        let works = self.next(before, act, by_task, connection, time);
        if self.threads.len() >= MAX_THREADS && !self.threads.contains_key(&thread) {
            self.threads.clear();
        }
        self.threads.insert(thread, Last { buffer, works, looks: Vec::new(), refills: Vec::new() });
        // A thread that runs a task of the request that it read itself is for the thread's rule.
        by_task.filter(|owner| before != Works::Serves(*owner))
    }

    /// A thread, with its `JavaThread` there, takes another buffer.
    pub fn refilled(&mut self, thread: ThreadId, java_thread: u64, buffer: Range<u64>, epoch: u64) {
        if self.is_past(epoch) {
            return;
        }
        self.begin(epoch);
        let Some(last) = self.threads.get_mut(&thread) else { return };
        if matches!(last.works, Works::Unknown) {
            return;
        }
        if last.buffer.thread != java_thread || last.buffer.carries || last.refills.len() >= MAX_REFILLS {
            // Not everything that it allocates from here on would be known.
            self.threads.remove(&thread);
            return;
        }
        last.refills.push(buffer);
    }

    /// Something may not have been seen: nothing follows from what was.
    pub fn forget(&mut self) {
        self.allocated.clear();
        self.collected.clear();
        self.moved.clear();
        self.threads.clear();
    }

    /// A record from before a collection may come after the first from behind it.
    fn is_past(&self, epoch: u64) -> bool {
        self.epoch.is_some_and(|known| epoch < known)
    }

    /// A buffer that can be compared with what is known.
    fn at_epoch(&mut self, buffer: Buffer) -> Buffer {
        if self.is_past(buffer.epoch) {
            return Buffer { start: 0, top: 0, end: 0, epoch: self.epoch.unwrap_or_default(), ..buffer };
        }
        self.begin(buffer.epoch);
        buffer
    }

    /// So many collections were seen. After another one no address means what it did; whom threads work for, it
    /// does not change, and no thread has a buffer.
    fn begin(&mut self, epoch: u64) {
        if self.epoch == Some(epoch) {
            return;
        }
        let next = self.epoch.is_some_and(|known| known.checked_add(1) == Some(epoch));
        self.epoch = Some(epoch);
        let mut before = Vec::new();
        let allocated = std::mem::take(&mut self.allocated).into_iter();
        before.extend(allocated.map(|(start, (end, owner))| (start..end, owner)));
        let moved = std::mem::take(&mut self.moved).into_iter();
        before.extend(moved.filter_map(|(at, owner)| Some((at..at.saturating_add(ONE), owner?))));
        for last in self.threads.values_mut() {
            if let Works::Serves(owner) = last.works
                && !last.buffer.carries
            {
                before.push((last.buffer.top..last.buffer.end, owner));
                before.extend(last.refills.drain(..).map(|refill| (refill, owner)));
            }
            last.refills.clear();
            last.looks.clear();
            last.buffer = Buffer { start: 0, top: 0, end: 0, epoch, ..last.buffer };
        }
        before.retain(|(range, owner)| !range.is_empty() && self.is_open(*owner));
        self.collected = if next { before } else { Vec::new() };
    }

    /// Looks where the tasks are now that the last collection moved, once it is over.
    fn follow(&mut self, now: &mut dyn Now) {
        if self.collected.is_empty() || !now.is_collected() {
            return;
        }
        let mut room = MAX_FOLLOWED;
        for (range, owner) in std::mem::take(&mut self.collected) {
            let length = range.end - range.start;
            if !self.is_open(owner) || length > room {
                continue;
            }
            room -= length;
            for address in now.moved(&range) {
                let known = self.moved.entry(address).or_insert(Some(owner));
                *known = known.filter(|known| *known == owner);
            }
        }
        // Another one may have begun meanwhile.
        if !now.is_collected() {
            self.moved.clear();
        }
    }

    /// Whether a task that one request allocated was seen to answer another: then such tasks work for anybody.
    pub fn is_doubted(&self) -> bool {
        self.doubted
    }

    /// The owner of the object at this address, if its request is not answered yet.
    pub fn owner(&self, address: u64) -> Option<Owner> {
        let closed = self.allocated.range(..=address).next_back().filter(|(_, (end, _))| address < *end);
        let owner = match closed {
            Some((_, &(_, owner))) => owner,
            None => match self.moved.get(&address) {
                Some(moved) => (*moved)?,
                None => self.serving_now(address)?,
            },
        };
        self.is_open(owner).then_some(owner)
    }

    /// A thread was seen at this time to have this buffer, start and top. True as long as it may take further ones for the
    /// request that it read at `since`.
    pub fn looked(&mut self, thread: ThreadId, since: u64, at: u64, look: Option<[u64; 3]>) -> bool {
        let Some(last) = self.threads.get_mut(&thread) else { return false };
        let serves = matches!(last.works, Works::Serves(owner) if owner.at == since) && !last.buffer.carries;
        if let (true, Some([start, top, end])) = (serves, look)
            && start != last.buffer.start
            && (start..=end).contains(&top)
            && last.looks.len() < MAX_LOOKS
        {
            // Of one buffer the later look is the longer one.
            last.looks.retain(|(_, [known, _])| *known != start);
            last.looks.push((at, [start, top]));
        }
        serves
    }

    /// Whether a request is not answered yet.
    fn is_open(&self, owner: Owner) -> bool {
        self.connections.get(&owner.connection).map_or(0, |known| known.answered) < owner.at
    }

    /// As [`Self::owner`], of an object in a buffer that its thread took after its last call: the buffer that it has at this
    /// moment. The object is older than the call of `asker`, and the thread has worked for its request from its last call
    /// until then at least, so it does not matter what it has been doing since. What seems to be a buffer must not
    /// overlap anything known: between two buffers a thread shows the start of one and the top of the other.
    fn served_now(&self, address: u64, asker: (ThreadId, Buffer), now: &mut dyn Now) -> Option<Owner> {
        let nowhere =
            self.allocated.range(..=address).next_back().is_none_or(|(_, (end, _))| *end <= address);
        if address == 0 || !nowhere {
            return None;
        }
        let serving = self.threads.iter().filter_map(|(&thread, last)| match last.works {
            Works::Serves(owner) if thread != asker.0 && !last.buffer.carries && self.is_open(owner) => {
                Some((thread, last.buffer, owner))
            }
            _ => None,
        });
        let mut found = None;
        let serving: Vec<_> = serving.take(MAX_SERVING).collect();
        for (thread, buffer, owner) in serving {
            let looked = self.threads.get(&thread).and_then(|last| {
                last.looks
                    .iter()
                    .map(|(_, look)| *look)
                    .find(|[start, top]| (*start..*top).contains(&address))
            });
            let looked = looked.map(|[start, top]| [start, top, top]);
            let Some([start, top, end]) = looked.or_else(|| now.buffer(thread, buffer.thread, address))
            else {
                continue;
            };
            if !(start..top).contains(&address) || top > end || end - start > MAX_BUFFER {
                continue;
            }
            let known = self.allocated.range(..end).next_back().is_some_and(|(_, (to, _))| *to > start);
            let mut buffers = self.threads.values().map(|last| &last.buffer).chain([&asker.1]);
            let others = buffers.any(|buffer| buffer.start < end && buffer.end > start);
            if known || others || found.replace(owner).is_some() {
                return None;
            }
        }
        found
    }

    /// The request of the thread in whose buffer, behind what it held at its last call, this address lies: it
    /// allocated the object since then, and has been working for that request since then.
    fn serving_now(&self, address: u64) -> Option<Owner> {
        let mut found = None;
        for Last { buffer, works, looks: _, refills } in self.threads.values() {
            if let Works::Serves(owner) = *works
                && !buffer.carries
                && ((buffer.top..buffer.end).contains(&address)
                    || refills.iter().any(|refill| refill.contains(&address)))
                && found.replace(owner).is_some()
            {
                return None;
            }
        }
        found
    }

    fn next(&mut self, before: Works, act: Act, by_task: Option<Owner>, on: u64, time: u64) -> Works {
        if self.connections.len() >= MAX_CONNECTIONS && !self.connections.contains_key(&on) {
            // What was answered is forgotten with them, so what was allocated must be too.
            self.connections.clear();
            self.forget();
        }
        let known = self.connections.entry(on).or_default();
        match act {
            Act::ReadsRequest => Works::Serves(Owner { connection: on, at: time }),
            Act::Answers(_) => {
                known.answered = time;
                Works::Unknown
            }
            // It goes on with something else, and somebody else gets the answer.
            Act::Passes(_) => {
                known.asked_for = None;
                Works::Unknown
            }
            Act::Asks(_) => {
                let owner = match (by_task, before) {
                    (Some(owner), Works::Serves(own)) if owner == own => return before,
                    (Some(owner), _) => owner,
                    (None, Works::Serves(own)) => {
                        known.asked_for = Some(own);
                        return before;
                    }
                    (None, _) => {
                        known.asked_for = None;
                        return Works::Unknown;
                    }
                };
                known.asked_for = Some(owner);
                Works::Waits(owner, on)
            }
            Act::ReadsAnswer => match before {
                Works::Serves(owner) if known.asked_for == Some(owner) => before,
                _ => Works::Unknown,
            },
            Act::Other => match before {
                Works::Serves(_) => before,
                _ => Works::Unknown,
            },
        }
    }

    fn allocate(&mut self, before: Buffer, refills: &[Range<u64>], now: Buffer, owner: Owner) {
        // Other virtual threads may have run in between, without a call.
        if before.java != now.java || before.carries || now.carries {
            return;
        }
        if before.start == now.start && refills.is_empty() {
            self.note(before.top, now.top, owner);
            return;
        }
        self.note(before.top, before.end, owner);
        for refill in refills.iter().filter(|refill| refill.start != now.start) {
            self.note(refill.start, refill.end, owner);
        }
        self.note(now.start, now.top, owner);
    }

    fn note(&mut self, from: u64, to: u64, owner: Owner) {
        if from == 0 || from >= to || to - from > MAX_BUFFER {
            return;
        }
        // Addresses are given out once between two collections; what overlaps was torn, and is nobody's.
        let overlaps: Vec<u64> = self
            .allocated
            .range(..to)
            .rev()
            .take_while(|(_, (end, _))| *end > from)
            .map(|(&start, _)| start)
            .collect();
        if !overlaps.is_empty() {
            for start in overlaps {
                self.allocated.remove(&start);
            }
            return;
        }
        if self.allocated.len() >= MAX_ALLOCATED {
            self.allocated.clear();
            self.forgotten += 1;
        }
        self.allocated.insert(from, (to, owner));
    }
}

/// Threads remembered; beyond, all are forgotten.
const MAX_THREADS: usize = 65_536;
/// Threads whose buffers are looked at for one task; beyond, what they took last is not known.
const MAX_SERVING: usize = 256;
/// Buffers that one thread is seen to have between two of its calls; later ones are not known.
const MAX_LOOKS: usize = 8;
/// Buffers that a thread may take between two of its calls; beyond, what it allocates is nobody's.
const MAX_REFILLS: usize = 256;
/// Connections remembered; beyond, all are forgotten.
const MAX_CONNECTIONS: usize = 65_536;
/// Bytes of memory looked at for moved tasks after one collection; beyond, tasks are orphans.
const MAX_FOLLOWED: u64 = 32 << 20;
/// As much of an object as is needed to tell where it went.
const ONE: u64 = 16;
/// Intervals remembered, about 4 MiB; a collection clears them. Beyond, all are forgotten.
const MAX_ALLOCATED: usize = 65_536;
/// The largest piece that a thread is believed to have allocated between two calls.
const MAX_BUFFER: u64 = 64 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    fn buffer(top: u64) -> Buffer {
        Buffer { thread: 0x77, java: 1, carries: false, start: 0x1000, top, end: 0x9000, epoch: 1 }
    }

    const SERVER: ThreadId = ThreadId(1);
    const WORKER: ThreadId = ThreadId(2);
    /// Nothing of the process can be seen.
    struct Unknown;

    impl Now for Unknown {
        fn buffer(&mut self, _: ThreadId, _: u64, _: u64) -> Option<[u64; 3]> {
            None
        }
    }

    /// The server reads a request on connection 7 at time 10, allocates up to 0x2000, and reads another on 8.
    fn handed_over() -> Provenance {
        let mut heap = Provenance::default();
        heap.call(SERVER, buffer(0x1100), 7, Act::ReadsRequest, 10, &mut Unknown);
        heap.call(SERVER, buffer(0x2000), 8, Act::ReadsRequest, 20, &mut Unknown);
        heap
    }

    #[test]
    fn a_task_belongs_to_the_request_whose_thread_allocated_it() {
        let mut heap = handed_over();
        let found = heap.call(WORKER, buffer(0x5000), 50, Act::Asks(Some(0x1800)), 30, &mut Unknown);
        assert_eq!(found, Some(Owner { connection: 7, at: 10 }));
        assert_eq!(heap.owner(0x10f0), None);
        assert_eq!(heap.owner(0x2000), Some(Owner { connection: 8, at: 20 }));
    }

    #[test]
    fn a_task_that_runs_before_its_maker_calls_again_is_found_too() {
        let mut heap = Provenance::default();
        heap.call(SERVER, buffer(0x1100), 7, Act::ReadsRequest, 10, &mut Unknown);
        let worker = Buffer { start: 0x10_000, end: 0x20_000, ..buffer(0x11_000) };
        let found = heap.call(WORKER, worker, 50, Act::Asks(Some(0x1800)), 30, &mut Unknown);
        assert_eq!(found, Some(Owner { connection: 7, at: 10 }));
        assert_eq!(heap.owner(0x10f0), None);
    }

    #[test]
    fn a_collection_makes_all_addresses_void() {
        let mut heap = handed_over();
        let later = Buffer { epoch: 2, ..buffer(0x5000) };
        assert_eq!(heap.call(WORKER, later, 50, Act::Asks(Some(0x1800)), 30, &mut Unknown), None);
    }

    #[test]
    fn what_was_answered_owns_nothing() {
        let mut heap = handed_over();
        heap.call(WORKER, buffer(0x5000), 7, Act::Answers(None), 25, &mut Unknown);
        assert_eq!(heap.owner(0x1800), None);
    }

    #[test]
    fn a_task_that_answers_another_request_than_the_one_that_allocated_it_is_doubted() {
        let mut heap = handed_over();
        heap.call(WORKER, buffer(0x5000), 7, Act::Answers(Some(0x1800)), 25, &mut Unknown);
        assert!(!heap.is_doubted());
        let mut heap = handed_over();
        heap.call(WORKER, buffer(0x5000), 8, Act::Answers(Some(0x1800)), 25, &mut Unknown);
        assert!(heap.is_doubted());
    }

    #[test]
    fn a_worker_allocates_for_a_request_only_while_it_waits_for_an_answer() {
        let mut heap = handed_over();
        let worker = |top| Buffer { start: 0x10_000, end: 0x20_000, ..buffer(top) };
        heap.call(WORKER, worker(0x11_000), 50, Act::Asks(Some(0x1800)), 30, &mut Unknown);
        heap.call(WORKER, worker(0x12_000), 50, Act::ReadsAnswer, 31, &mut Unknown);
        heap.call(WORKER, worker(0x13_000), 51, Act::Asks(None), 32, &mut Unknown);
        assert_eq!(heap.owner(0x11_800), Some(Owner { connection: 7, at: 10 }));
        assert_eq!(heap.owner(0x12_800), None);
    }

    #[test]
    fn what_a_client_writes_is_whose_thread_made_the_exchange_and_the_client_allocates_for_nobody() {
        let owner = Some(Owner { connection: 7, at: 10 });
        let mut heap = handed_over();
        let client = |top| Buffer { start: 0x10_000, end: 0x20_000, ..buffer(top) };
        let passes = Act::Passes(Some(0x1800));
        assert_eq!(heap.call(WORKER, client(0x11_000), 50, passes, 30, &mut Unknown), owner);
        heap.call(WORKER, client(0x12_000), 50, Act::ReadsAnswer, 31, &mut Unknown);
        assert_eq!(heap.owner(0x11_800), None);
        assert_eq!(heap.call(WORKER, client(0x13_000), 50, Act::Passes(None), 32, &mut Unknown), None);
    }

    #[test]
    fn another_java_thread_on_the_same_carrier_ends_an_interval() {
        let mut heap = Provenance::default();
        heap.call(SERVER, buffer(0x1100), 7, Act::ReadsRequest, 10, &mut Unknown);
        heap.call(SERVER, Buffer { java: 2, ..buffer(0x2000) }, 8, Act::ReadsRequest, 20, &mut Unknown);
        assert_eq!(heap.owner(0x1800), None);
    }

    /// The server has this buffer.
    struct Has([u64; 3]);

    impl Now for Has {
        fn buffer(&mut self, thread: ThreadId, java_thread: u64, _: u64) -> Option<[u64; 3]> {
            (thread == SERVER && java_thread == 0x77).then_some(self.0)
        }
    }

    /// The server reads a request and takes another buffer, of which nothing is known but what it is now; a worker asks with
    /// a task at `task`.
    fn asked_behind(now: [u64; 3], task: u64) -> Option<Owner> {
        let mut heap = Provenance::default();
        heap.call(SERVER, buffer(0x1100), 7, Act::ReadsRequest, 10, &mut Unknown);
        let worker = Buffer { start: 0x10_000, end: 0x20_000, ..buffer(0x11_000) };
        heap.call(WORKER, worker, 50, Act::Asks(Some(task)), 30, &mut Has(now))
    }

    #[test]
    fn a_task_in_a_buffer_that_its_maker_took_meanwhile_is_found_by_a_look_at_it() {
        let owner = Some(Owner { connection: 7, at: 10 });
        assert_eq!(asked_behind([0x30_000, 0x31_000, 0x40_000], 0x30_800), owner);
        assert_eq!(asked_behind([0x30_000, 0x31_000, 0x40_000], 0x31_000), None, "not allocated yet");
    }

    #[test]
    fn what_is_the_start_of_one_buffer_and_the_top_of_another_is_no_buffer() {
        assert_eq!(asked_behind([0x0800, 0x31_000, 0x40_000], 0x30_800), None, "over its own last one");
        assert_eq!(asked_behind([0xf000, 0x31_000, 0x40_000], 0x30_800), None, "over the worker's");
        assert_eq!(asked_behind([0x30_000, 0x31_000, 0x30_100], 0x30_800), None, "beyond its end");
    }

    #[test]
    fn a_buffer_that_was_seen_between_two_calls_belongs_to_the_first() {
        let (first, owner) = (buffer(0x1100), Some(Owner { connection: 7, at: 10 }));
        let asked = |seen_at: u64| {
            let mut heap = Provenance::default();
            heap.call(SERVER, first, 7, Act::ReadsRequest, 10, &mut Unknown);
            assert!(heap.looked(SERVER, 10, seen_at, Some([0x30_000, 0x31_000, 0x40_000])));
            let worker = Buffer { start: 0x10_000, end: 0x20_000, ..buffer(0x11_000) };
            let before = heap.call(WORKER, worker, 50, Act::Asks(Some(0x30_800)), 12, &mut Unknown);
            let later = Buffer { start: 0x50_000, end: 0x60_000, ..buffer(0x51_000) };
            heap.call(SERVER, later, 8, Act::ReadsRequest, 20, &mut Unknown);
            (before, heap.call(WORKER, worker, 51, Act::Asks(Some(0x30_800)), 22, &mut Unknown))
        };
        assert_eq!(asked(15), (owner, owner));
        // It may have been taken for the next request; what asked before that was there is older.
        assert_eq!(asked(25), (owner, None));
        let mut heap = Provenance::default();
        heap.call(SERVER, first, 7, Act::ReadsRequest, 10, &mut Unknown);
        heap.call(SERVER, first, 8, Act::ReadsRequest, 20, &mut Unknown);
        assert!(!heap.looked(SERVER, 10, 25, Some([0x30_000, 0x31_000, 0x40_000])), "of another request");
    }

    #[test]
    fn what_a_carrier_allocates_after_its_last_call_is_anybodys() {
        let mut heap = Provenance::default();
        let carrier = Buffer { carries: true, ..buffer(0x1100) };
        heap.call(SERVER, carrier, 7, Act::ReadsRequest, 10, &mut Unknown);
        assert_eq!(heap.owner(0x1800), None);
    }

    #[test]
    fn buffers_that_a_thread_takes_between_two_calls_belong_to_the_first() {
        let owner = Some(Owner { connection: 7, at: 10 });
        let mut heap = Provenance::default();
        heap.call(SERVER, buffer(0x1100), 7, Act::ReadsRequest, 10, &mut Unknown);
        heap.refilled(SERVER, 0x77, 0x20_000..0x30_000, 1);
        heap.refilled(SERVER, 0x77, 0x40_000..0x50_000, 1);
        assert_eq!([0x8000, 0x20_000, 0x4f_ff8].map(|at| heap.owner(at)), [owner; 3]);
        assert_eq!([0x10f0, 0x30_000].map(|at| heap.owner(at)), [None; 2]);
        let later = Buffer { start: 0x40_000, top: 0x41_000, end: 0x50_000, ..buffer(0) };
        heap.call(SERVER, later, 8, Act::ReadsRequest, 20, &mut Unknown);
        assert_eq!([0x8000, 0x2f_ff8, 0x40_800].map(|at| heap.owner(at)), [owner; 3]);
        assert_eq!(heap.owner(0x41_000), Some(Owner { connection: 8, at: 20 }));
    }

    #[test]
    fn what_a_thread_takes_for_nobody_or_as_another_thread_is_nobodys() {
        let mut heap = Provenance::default();
        heap.refilled(SERVER, 0x77, 0x20_000..0x30_000, 1);
        heap.call(SERVER, buffer(0x1100), 7, Act::ReadsRequest, 10, &mut Unknown);
        assert_eq!(heap.owner(0x20_000), None);
        heap.refilled(SERVER, 0x78, 0x20_000..0x30_000, 1);
        assert_eq!([0x20_000, 0x8000].map(|at| heap.owner(at)), [None; 2]);
    }

    #[test]
    fn two_calls_of_a_virtual_thread_say_nothing_of_what_ran_between_them() {
        let mut heap = Provenance::default();
        let carrier = |top| Buffer { carries: true, ..buffer(top) };
        heap.call(SERVER, carrier(0x1100), 7, Act::ReadsRequest, 10, &mut Unknown);
        heap.call(SERVER, carrier(0x2000), 7, Act::Other, 20, &mut Unknown);
        assert_eq!(heap.owner(0x1800), None);
    }

    #[test]
    fn after_a_loss_nothing_is_known() {
        let mut heap = handed_over();
        heap.forget();
        assert_eq!([0x1800, 0x2800].map(|at| heap.owner(at)), [None; 2]);
    }

    /// A collection moved the tasks of these ranges there.
    struct Collected(Vec<(Range<u64>, u64)>, bool);

    impl Now for Collected {
        fn buffer(&mut self, _: ThreadId, _: u64, _: u64) -> Option<[u64; 3]> {
            None
        }
        fn is_collected(&mut self) -> bool {
            self.1
        }
        fn moved(&mut self, range: &Range<u64>) -> Vec<u64> {
            let moved = self.0.iter().filter(|(from, _)| range.start <= from.start && from.end <= range.end);
            moved.map(|(_, to)| *to).collect()
        }
    }

    /// Asks with a task at this address after one more collection.
    fn asked_after(heap: &mut Provenance, task: u64, now: &mut dyn Now) -> Option<Owner> {
        let later = Buffer { start: 0x10_000, end: 0x20_000, epoch: 2, ..buffer(0x11_000) };
        heap.call(WORKER, later, 50, Act::Asks(Some(task)), 30, now)
    }

    #[test]
    fn a_task_that_a_collection_moved_is_where_it_says() {
        let mut now = Collected(vec![(0x1800..0x1810, 0x70_000), (0x2100..0x2110, 0x71_000)], true);
        let mut heap = handed_over();
        assert_eq!(asked_after(&mut heap, 0x70_000, &mut now), Some(Owner { connection: 7, at: 10 }));
        assert_eq!(heap.owner(0x71_000), Some(Owner { connection: 8, at: 20 }), "of an unfinished buffer");
        assert_eq!(heap.owner(0x1800), None);
        // A second collection moves one of them again.
        let third = Buffer { start: 0x30_000, end: 0x40_000, epoch: 3, ..buffer(0x31_000) };
        let mut now = Collected(vec![(0x70_000..0x70_010, 0x80_000)], true);
        let found = heap.call(WORKER, third, 51, Act::Asks(Some(0x80_000)), 40, &mut now);
        assert_eq!(found, Some(Owner { connection: 7, at: 10 }));
        assert_eq!(heap.owner(0x71_000), None);
    }

    #[test]
    fn what_a_collection_is_moving_yet_is_looked_for_later() {
        let mut now = Collected(vec![(0x1800..0x1810, 0x70_000)], false);
        let mut heap = handed_over();
        assert_eq!(asked_after(&mut heap, 0x70_000, &mut now), None);
        now.1 = true;
        assert_eq!(asked_after(&mut heap, 0x70_000, &mut now), Some(Owner { connection: 7, at: 10 }));
    }

    #[test]
    fn what_two_requests_claim_to_have_become_is_nobodys() {
        let mut now = Collected(vec![(0x1800..0x1810, 0x70_000), (0x2100..0x2110, 0x70_000)], true);
        assert_eq!(asked_after(&mut handed_over(), 0x70_000, &mut now), None);
    }

    #[test]
    fn whom_a_thread_serves_outlasts_a_collection_and_what_it_allocates_then_too() {
        let mut heap = handed_over();
        heap.refilled(SERVER, 0x77, 0x40_000..0x50_000, 2);
        assert_eq!(heap.owner(0x40_800), Some(Owner { connection: 8, at: 20 }));
    }

    #[test]
    fn a_record_from_before_a_collection_that_comes_late_is_no_collection() {
        let mut heap = handed_over();
        heap.refilled(SERVER, 0x77, 0x40_000..0x50_000, 2);
        let earlier = Buffer { start: 0x10_000, end: 0x20_000, ..buffer(0x11_000) };
        assert_eq!(heap.call(WORKER, earlier, 50, Act::Asks(Some(0x1800)), 30, &mut Unknown), None);
        assert_eq!(heap.owner(0x40_800), Some(Owner { connection: 8, at: 20 }));
    }
}
