//! The walks of a tokio program: which task makes this call, and which task waits for its reply.
//!
//! ```text
//!   thread pointer ─▶ id of the current task            fd ─▶ epoll word ─▶ ScheduledIo ─▶ the reader's waker ─▶ header
//!                            └───────────── must be equal ─────────────────────────────────────▶ its id
//!   header ─▶ (boxed future) ─▶ shared part of the oneshot ─▶ the receiver's waker (─▶ its queue's waker) ─▶ header ─▶ id
//! ```
//! The reader's waker is *taken* when the descriptor becomes readable, and then only its vtable is cleared: what is left
//! of it is believed because the id there is that of the current task, and a task that runs is not freed. Every guard of
//! the search is asked again at each call: a oneshot's memory is used again at once, and its waker may be the last
//! request's; a failed guard gives no waiter, never another one.

use spandrel_proto::walk::{MAX_STEPS, Step};

use super::super::{Walk, Walks};
use super::known::Known;
use super::reply::{Hop, Path, STATE_MASK, STATE_WAITING, STRONG, WEAK};

/// The walk that looks for the place of the current task's id. Words: id, header, vtable, then the places.
pub const LEARN: u16 = 1;
/// The walk of a program of which that is known. Words: see [`Found`].
pub const READY: u16 = 2;

/// The words of a [`READY`] walk, as far as it got.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Found {
    /// The task that makes the call.
    pub task: u64,
    /// Its header and vtable, if the descriptor led to them.
    pub header: Option<(u64, u64)>,
    /// The waker of who waits for its reply: vtable and data.
    pub receiver: Option<(u64, u64)>,
    /// The task that waits for its reply.
    pub waiter: Option<u64>,
    /// The task that waits for that task's end.
    pub joiner: Option<u64>,
}

impl Found {
    /// From words.
    pub fn of(words: &[u64]) -> Option<Self> {
        let at = |index: usize| words.get(index).copied();
        let pair = |index: usize| Some((at(index)?, at(index + 1)?));
        Some(Self { task: at(0)?, header: pair(1), receiver: pair(3), waiter: at(5), joiner: at(6) })
    }
}

/// The walks for what is known; none if not even where a descriptor's task is.
pub fn walks(known: &Known, bias: u64, thread_locals: u64) -> Option<Walks> {
    let (reader, waker_vtable) = known.readers()?;
    let waker_vtable = waker_vtable.wrapping_add(bias);
    let Some(current) = known.current_task() else {
        let walk = Walk { tag: LEARN, steps: learn(reader, thread_locals) };
        return Some(Walks { send: Some(walk), receive: None, parameters: [0; 4] });
    };
    let absolute = |vtable: u64| vtable.wrapping_add(bias);
    let paths: Vec<_> = known.paths().into_iter().map(|(vtable, path)| (absolute(vtable), path)).collect();
    let hops: Vec<_> =
        known.hops().into_iter().map(|hop| Hop { vtable: absolute(hop.vtable), ..hop }).collect();
    let walk = Walk { tag: READY, steps: ready(current, reader, waker_vtable, &paths, &hops) };
    Some(Walks { send: Some(walk.clone()), receive: Some(walk), parameters: [0; 4] })
}

const CURRENT: u8 = 4;
const OBJECT: u8 = 5;
const HEADER: u8 = 6;
const VTABLE: u8 = 7;
const ID: u8 = 8;
const BASE: u8 = 9;
const SHARED: u8 = 10;
const WORD: u8 = 11;
const WAKER: u8 = 12;
const DATA: u8 = 13;
const SPARE: u8 = 14;

/// Steps from a header to its task's id; `fail` is where a failure leads from the first of them.
fn id_of(header: u8, vtable: u8, id: u8) -> [Step; 5] {
    [
        Step::read8(vtable, header, 16),
        Step::read8(id, vtable, 72),
        Step::below(id, MAX_OFFSET),
        Step::add_register(id, header, id),
        Step::read8(id, id, 0),
    ]
}

/// `steps`, each of which ends the walk with what it has if it fails.
fn or_end(mut steps: Vec<Step>) -> Vec<Step> {
    let count = steps.len();
    for (index, step) in steps.iter_mut().enumerate() {
        if is_fallible(step) && step.or == 0 {
            // Onto the `end` that `chain` puts behind them all.
            *step = step.or(u8::try_from(count - index - 1).unwrap_or(u8::MAX));
        }
    }
    steps.push(Step::end());
    steps
}

fn is_fallible(step: &Step) -> bool {
    use spandrel_proto::walk::op;
    !matches!(step.op, op::ADD | op::ADD_REGISTER | op::KEEP | op::JUMP | op::SET | op::END | op::FIELD)
}

fn learn(reader: u32, thread_locals: u64) -> Vec<Step> {
    let bytes = thread_locals.clamp(8, MAX_THREAD_LOCALS) / 8 * 8;
    let mut steps = vec![Step::epoll_word(OBJECT), Step::read8(HEADER, OBJECT, u64::from(reader) + 8)];
    steps.extend(id_of(HEADER, VTABLE, ID));
    steps.extend([
        Step::not_zero(ID),
        Step::keep(ID),
        Step::keep(HEADER),
        Step::keep(VTABLE),
        Step::thread_pointer(BASE),
        Step::block(BASE, bytes.wrapping_neg(), bytes as u32),
        Step::set(WAKER, 0),
        Step::set(SPARE, bytes / 8),
        // The loop: five steps a word.
        Step::field_at(WORD, WAKER),
        Step::equal_register(WORD, ID).or(1),
        Step::keep(WAKER),
        Step::add(WAKER, WAKER, 8),
        Step::repeat(SPARE, 4),
        Step::end(),
    ]);
    steps
}

/// How far below the thread pointer the block of a [`LEARN`] walk begins.
pub fn learnt_from(thread_locals: u64) -> i64 {
    -((thread_locals.clamp(8, MAX_THREAD_LOCALS) / 8 * 8) as i64)
}

fn ready(current: i64, reader: u32, waker_vtable: u64, paths: &[(u64, Path)], hops: &[Hop]) -> Vec<Step> {
    let mut steps = vec![
        Step::thread_pointer(CURRENT),
        Step::read8(CURRENT, CURRENT, current as u64),
        Step::not_zero(CURRENT),
    ];
    // Up to here a failure ends it without a word. From here on it ends with what was kept.
    let mut then = vec![
        Step::keep(CURRENT),
        Step::epoll_word(OBJECT),
        Step::read8(HEADER, OBJECT, u64::from(reader) + 8),
    ];
    then.extend(id_of(HEADER, VTABLE, ID));
    then.extend([Step::equal_register(ID, CURRENT), Step::keep(HEADER), Step::keep(VTABLE)]);
    let tail = tail(waker_vtable, hops);
    // An alternative for each type of connection task, as many as there is room for.
    let room = MAX_STEPS.saturating_sub(steps.len() + then.len() + tail.len() + 2) / (LONGEST_PATH + 1);
    let alternatives: Vec<_> =
        paths.iter().take(room).map(|&(vtable, path)| (vtable, to_shared(path))).collect();
    for (index, (vtable, path)) in alternatives.iter().enumerate() {
        let behind: usize = alternatives.iter().skip(index + 1).map(|(_, path)| path.len() + 2).sum();
        // Onto the next alternative; behind the last one, onto a guard that fails.
        then.push(Step::equal(VTABLE, *vtable).or(u8::try_from(path.len() + 1).unwrap_or(u8::MAX)));
        then.extend(path);
        then.push(Step::jump(u8::try_from(behind + 1).unwrap_or(u8::MAX)));
    }
    then.push(Step::fail());
    then.extend([
        Step::block(SHARED, 0, 56),
        Step::field8(WORD, 0),
        Step::equal(WORD, STRONG),
        Step::field8(WORD, 8),
        Step::equal(WORD, WEAK),
        Step::field8(WORD, 16),
        Step::equal(WORD, waker_vtable),
        Step::field8(WORD, 24),
        Step::equal_register(WORD, HEADER),
        Step::field8(WORD, 48),
        Step::bits(WORD, STATE_MASK, STATE_WAITING as u32),
        Step::field8(WAKER, 32),
        Step::field8(DATA, 40),
    ]);
    then.extend(tail);
    steps.extend(or_end(then));
    steps
}

fn to_shared(path: Path) -> Vec<Step> {
    let offset = u64::from(path.shared);
    match path.boxed {
        Some(boxed) => vec![Step::read8(BASE, HEADER, u64::from(boxed)), Step::read8(SHARED, BASE, offset)],
        None => vec![Step::read8(SHARED, HEADER, offset)],
    }
}

/// From the receiver's waker to the id of the task that waits, and to who waits for that.
fn tail(waker_vtable: u64, hops: &[Hop]) -> Vec<Step> {
    let mut steps = vec![Step::keep(WAKER), Step::keep(DATA)];
    let hops = hops.get(..hops.len().min(MAX_HOPS)).unwrap_or_default();
    // The task's own waker: past the hops and the guard that ends them.
    let each = 6;
    steps.push(Step::equal(WAKER, waker_vtable).or(1));
    steps.push(Step::jump(u8::try_from(hops.len() * each + 1).unwrap_or(u8::MAX)));
    for (index, hop) in hops.iter().enumerate() {
        let behind = (hops.len() - index - 1) * each;
        steps.extend([
            Step::equal(WAKER, hop.vtable).or(u8::try_from(each - 1).unwrap_or(u8::MAX)),
            Step::read8(BASE, DATA, u64::from(hop.queue)),
            Step::read8(WAKER, BASE, u64::from(hop.waker)),
            Step::equal(WAKER, waker_vtable),
            Step::read8(DATA, BASE, u64::from(hop.waker) + 8),
            Step::jump(u8::try_from(behind + 1).unwrap_or(u8::MAX)),
        ]);
    }
    steps.push(Step::fail());
    steps.extend(id_of(DATA, SPARE, WORD));
    steps.extend([
        Step::not_zero(WORD),
        // Whoever waits may have left while its id was read: then the oneshot says so.
        Step::read8(BASE, SHARED, 48),
        Step::bits(BASE, STATE_MASK, STATE_WAITING as u32),
        Step::keep(WORD),
        // Who awaits the `JoinHandle` of the task that waits: state, trailer, waker.
        Step::read8(BASE, DATA, 0),
        Step::bits(BASE, JOIN_WAKER, JOIN_WAKER as u32),
        Step::read8(BASE, SPARE, 56),
        Step::below(BASE, MAX_OFFSET),
        Step::add_register(BASE, DATA, BASE),
        Step::read8(WAKER, BASE, TRAILER_WAKER),
        Step::equal(WAKER, waker_vtable),
        Step::read8(DATA, BASE, TRAILER_WAKER + 8),
    ]);
    steps.extend(id_of(DATA, SPARE, WORD));
    steps.extend([Step::not_zero(WORD), Step::keep(WORD)]);
    steps
}

/// The longest way from a header to a oneshot, its guard and its jump, less one.
const LONGEST_PATH: usize = 3;
/// Kinds of wakers in one walk.
const MAX_HOPS: usize = 3;
/// The largest offset in a task that is believed.
const MAX_OFFSET: u64 = 1 << 20;
/// Bytes of thread locals that are searched: five steps a word, and a walk executes a thousand.
const MAX_THREAD_LOCALS: u64 = 1480;
/// `JOIN_WAKER` (tokio, `runtime/task/state.rs`): the trailer's waker is set.
const JOIN_WAKER: u64 = 0b1_0000;
/// The trailer begins with the two pointers of a list (`runtime/task/core.rs`).
const TRAILER_WAKER: u64 = 16;

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use spandrel_proto::walk::{self, BLOCK_ROOM, State, World};

    use super::super::testing::Memory;
    use super::*;
    use crate::discover::memory::ReadMemory;

    const FS: u64 = 0x7000_1000;
    const OBJECT_AT: u64 = 0x4f00_0000;
    const SENDER: u64 = 0x5000_0000;
    const WAITER: u64 = 0x5100_0000;
    const JOINER: u64 = 0x5180_0000;
    const FUTURE: u64 = 0x5200_0000;
    const SHARED_AT: u64 = 0x5300_0000;

    impl World for &Memory {
        fn read(&self, address: u64, bytes: u32) -> Option<u64> {
            let word = self.word(address)?;
            Some(if bytes == 8 { word } else { word & ((1 << (8 * bytes)) - 1) })
        }
        fn block(&self, address: u64, bytes: u32, to: &mut [u64; BLOCK_ROOM]) -> bool {
            (0..u64::from(bytes) / 8).all(|n| {
                let word = self.word(address.wrapping_add(8 * n));
                to[n as usize] = word.unwrap_or(0);
                word.is_some()
            })
        }
        fn thread_pointer(&self) -> Option<u64> {
            Some(FS)
        }
        fn epoll_word(&self) -> Option<u64> {
            Some(OBJECT_AT)
        }
        fn socket(&self) -> Option<u64> {
            None
        }
        fn way(&self) -> u64 {
            1
        }
        fn time(&self) -> u64 {
            0
        }
        fn thread(&self) -> u64 {
            0
        }
        fn expected(&self, _: u64) -> bool {
            false
        }
    }

    /// Task 7 owns a connection, is the current one and owes a reply to task 8.
    fn memory() -> Memory {
        let mut memory = Memory::default();
        memory.task(SENDER, 7);
        memory.task(WAITER, 8);
        memory.boxed(SENDER, 0x38, FUTURE, 0x400);
        memory.put(FUTURE + 0x258, SHARED_AT);
        let vtable = memory.waker_vtable();
        memory.oneshot(SHARED_AT, SENDER, (vtable, WAITER));
        memory.fill(OBJECT_AT, 128);
        // Taken: the vtable is cleared.
        memory.put(OBJECT_AT + 0x38, SENDER);
        memory.fill(FS - 0x200, 0x200);
        memory.put(FS - 0x148, 7);
        memory
    }

    fn known(memory: &mut Memory) -> Known {
        let mut known = Known::default();
        known.reader(0x30, memory.waker_vtable());
        for _ in 0..3 {
            known.reply(memory.task_vtable(), [Path { boxed: Some(0x38), shared: 0x258 }]);
        }
        known
    }

    fn settled(memory: &mut Memory) -> Known {
        let mut known = known(memory);
        for n in 0..9 {
            known.thread_local(n + 1, &BTreeSet::from([-0x148]));
        }
        known
    }

    fn words(walk: &Walk, memory: &Memory) -> Option<Vec<u64>> {
        assert!(walk.steps.len() <= MAX_STEPS, "{} steps", walk.steps.len());
        let mut state = State::new([0; 4], [0; 32]);
        let found = walk::run(&mut state, &walk.steps, &memory);
        found.then(|| state.words[..state.kept as usize].to_vec())
    }

    fn found(memory: &Memory, known: &Known) -> Option<Found> {
        let walks = walks(known, 0, 0x200).unwrap();
        Found::of(&words(walks.send.as_ref().unwrap(), memory)?)
    }

    #[test]
    fn who_waits_for_the_reply_is_found() {
        let mut memory = memory();
        let known = settled(&mut memory);
        let found = found(&memory, &known).unwrap();
        assert_eq!((found.task, found.waiter, found.joiner), (7, Some(8), None));
    }

    #[test]
    fn nothing_waits_where_any_guard_fails() {
        for (at, word) in [
            (SHARED_AT, 1),
            (SHARED_AT + 8, 2),
            (SHARED_AT + 16, 0),
            (SHARED_AT + 24, WAITER),
            (SHARED_AT + 32, 0),
            (SHARED_AT + 48, 0),
            (SHARED_AT + 48, 3),
            (SHARED_AT + 48, 5),
            (SENDER + 0x28, 9),
            (FUTURE + 0x258, 0),
            (OBJECT_AT + 0x38, WAITER),
            (WAITER + 0x28, 0),
        ] {
            let mut memory = memory();
            let known = settled(&mut memory);
            memory.put(at, word);
            let found = found(&memory, &known).unwrap();
            assert_eq!((found.task, found.waiter), (7, None), "{at:#x} = {word:#x}");
        }
    }

    #[test]
    fn outside_of_a_task_there_are_no_words() {
        let mut memory = memory();
        let known = settled(&mut memory);
        memory.put(FS - 0x148, 0);
        assert_eq!(found(&memory, &known), None);
    }

    #[test]
    fn who_awaits_the_waiting_task_is_found_if_its_state_says_so() {
        let mut memory = memory();
        let known = settled(&mut memory);
        memory.task(JOINER, 9);
        let vtable = memory.waker_vtable();
        memory.put(WAITER + 0x90 + 16, vtable);
        memory.put(WAITER + 0x90 + 24, JOINER);
        assert_eq!(found(&memory, &known).unwrap().joiner, None);
        memory.put(WAITER, 0b1_1000);
        assert_eq!(found(&memory, &known).unwrap().joiner, Some(9));
    }

    #[test]
    fn a_waker_of_another_kind_leads_on_once_its_hop_is_known() {
        let (entry, queue) = (0x5400_0000, 0x5500_0000);
        let mut memory = memory();
        let (task, other) = (memory.waker_vtable(), memory.other_waker_vtable());
        memory.oneshot(SHARED_AT, SENDER, (other, entry));
        memory.fill(entry, 0x80);
        memory.fill(queue, 0x80);
        memory.put(entry, queue);
        memory.put(queue + 0x18, task);
        memory.put(queue + 0x20, WAITER);
        let mut known = settled(&mut memory);
        let before = found(&memory, &known).unwrap();
        assert_eq!((before.receiver, before.waiter), (Some((other, entry)), None));
        for _ in 0..6 {
            known.hop(0x1, [Hop { vtable: 0x1, queue: 8, waker: 8 }]);
            known.hop(other, [Hop { vtable: other, queue: 0, waker: 0x18 }]);
        }
        assert_eq!(found(&memory, &known).unwrap().waiter, Some(8));
    }

    #[test]
    fn each_type_of_task_has_its_own_path_and_the_last_has_one_too() {
        for mine in 0..4 {
            let mut memory = memory();
            let mut known = settled(&mut memory);
            known = {
                let mut others = Known::default();
                others.reader(0x30, memory.waker_vtable());
                for n in 0..9 {
                    others.thread_local(n + 1, &BTreeSet::from([-0x148]));
                }
                for other in 0..4 {
                    let vtable = if other == mine { memory.task_vtable() } else { 0x100 + other };
                    let boxed = (other % 2 == 0 || other == mine).then_some(0x38);
                    for _ in 0..3 {
                        others.reply(vtable, [Path { boxed, shared: 0x258 }]);
                    }
                }
                assert_eq!(known.paths().len(), 1);
                others
            };
            assert_eq!(found(&memory, &known).unwrap().waiter, Some(8), "number {mine}");
        }
    }

    #[test]
    fn the_place_of_the_current_task_is_searched() {
        let mut memory = memory();
        let known = known(&mut memory);
        memory.put(FS - 8, 7);
        let walks = walks(&known, 0, 0x200).unwrap();
        let words = words(walks.send.as_ref().unwrap(), &memory).unwrap();
        assert_eq!(words[..3], [7, SENDER, memory.task_vtable()]);
        let places: Vec<i64> = words[3..].iter().map(|&place| learnt_from(0x200) + place as i64).collect();
        assert_eq!(places, [-0x148, -8]);
    }

    #[test]
    fn the_longest_search_ends_in_time() {
        let mut memory = memory();
        let known = known(&mut memory);
        memory.fill(FS - 0x1000, 0x1000);
        let walks = walks(&known, 0, 0x1000).unwrap();
        assert!(words(walks.send.as_ref().unwrap(), &memory).is_some());
    }
}
