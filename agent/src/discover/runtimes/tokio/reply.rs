//! Who waits for the reply to a request that a connection task sends? Learnt for each type of connection task.
//!
//! A pooled client (hyper, reqwest) hands its request to the task that owns the connection, and leaves the receiving end
//! of a oneshot behind. Its shared part (tokio's `sync/oneshot.rs`, behind an `Arc`) names both ends:
//!
//! ```text
//!   header of the connection task ─▶ (its boxed future) ─▶ strong 2 │ weak 1 │ tx_task {vtable, header} │ rx_task │ state
//!                  ▲                                                            back to the start          │
//!                  └──────────────────────────────────────────────────────────────┘      the waiting task ◀┘
//! ```
//! No offset of this is in a table: they differ by type and compiler. The pattern is found by a search of the future
//! while a call is in flight; it is unmistakable because `tx_task` points back. What samples agree on is given to the
//! kernel side, which checks all of it again at each read.
//!
//! It must never learn from what only looks alike: a state other than *a receiver waits, nothing sent, not closed* may
//! have the waker of an earlier request beside it, since the memory of a oneshot is used again at once.

use super::task::{MAX_FUTURE, Places, Program, Task, Waker, words_of};
use crate::discover::memory::ReadMemory;

/// How the shared part of the oneshot is reached from a task's header.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Path {
    /// Where the cell has the pointer to its boxed future, if it is boxed.
    pub boxed: Option<u32>,
    /// Where the future, or else the cell, has the pointer to the shared part.
    pub shared: u32,
}

/// From a waker that is not a task's own to the one of the task behind it: `FuturesUnordered` and its kin hand out wakers
/// of theirs.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Hop {
    /// The vtable of the waker.
    pub vtable: u64,
    /// Where what it points to has the pointer to its queue.
    pub queue: u32,
    /// Where the queue has the waker of the task.
    pub waker: u32,
}

/// One reply that is waited for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Reply {
    /// How it was found.
    pub path: Path,
    /// Where its shared part is.
    pub shared: u64,
    /// Who waits.
    pub receiver: Waker,
    /// The vtable of the sender's waker: a task's.
    pub waker_vtable: u64,
}

/// All replies that this connection task owes, by a search of its future.
pub fn search(program: Program<'_>, task: Task) -> Vec<Reply> {
    let mut found = Vec::new();
    let Some(cell) = program.memory.bytes(task.header, task.trailer_offset.min(MAX_FUTURE) as usize) else {
        return found;
    };
    let cell: Vec<u64> = words_of(&cell).collect();
    look(program, task, None, &cell, &mut found);
    for (index, pair) in cell.windows(2).enumerate().skip(FIRST_WORD) {
        let &[data, vtable] = pair else { continue };
        let Some(size) = program.dyn_size(vtable).filter(|_| data != 0) else { continue };
        let Some(future) = program.memory.bytes(data, size as usize) else { continue };
        let future: Vec<u64> = words_of(&future).collect();
        look(program, task, u32::try_from(index * 8).ok(), &future, &mut found);
    }
    found
}

fn look(program: Program<'_>, task: Task, boxed: Option<u32>, words: &[u64], found: &mut Vec<Reply>) {
    for (index, &shared) in words.iter().enumerate() {
        if found.len() < MAX_FOUND
            && let Ok(offset) = u32::try_from(index * 8)
            && let Some((receiver, waker_vtable)) = waited_for(program, task, shared)
        {
            found.push(Reply { path: Path { boxed, shared: offset }, shared, receiver, waker_vtable });
        }
    }
}

/// Who waits at this oneshot of the task's.
fn waited_for(program: Program<'_>, task: Task, shared: u64) -> Option<(Waker, u64)> {
    if shared < 4096 || !shared.is_multiple_of(8) {
        return None;
    }
    let [strong, weak, tx_vtable, tx_data, rx_vtable, rx_data, state] = program.words(shared)?;
    let proved = strong == STRONG
        && weak == WEAK
        && tx_data == task.header
        && state & STATE_MASK == STATE_WAITING
        && program.is_waker_vtable(tx_vtable)
        && program.is_waker_vtable(rx_vtable);
    proved.then_some((Waker { vtable: rx_vtable, data: rx_data }, tx_vtable))
}

/// How a task is found behind a waker that is not its own.
pub fn search_hops(program: Program<'_>, waker_vtable: u64, waker: Waker) -> Vec<Hop> {
    let mut found = Vec::new();
    let Some(entry) = program.words::<HOP_WORDS>(waker.data) else { return found };
    for (index, &queue) in entry.iter().enumerate() {
        if queue < 4096 || !queue.is_multiple_of(8) {
            continue;
        }
        let Some(words) = program.words::<HOP_WORDS>(queue) else { continue };
        for (place, pair) in words.windows(2).enumerate() {
            if let &[vtable, data] = pair
                && vtable == waker_vtable
                && program.task(data).is_some()
                && let (Ok(queue), Ok(waker_at)) = (u32::try_from(index * 8), u32::try_from(place * 8))
            {
                found.push(Hop { vtable: waker.vtable, queue, waker: waker_at });
            }
        }
    }
    found
}

/// The first word of a cell that can belong to a future: the header is before it.
const FIRST_WORD: usize = 4;

/// One sender and one receiver.
pub const STRONG: u64 = 2;
/// No weak pointer but the one that the strong ones have together.
pub const WEAK: u64 = 1;
/// `RX_TASK_SET`, `VALUE_SENT` and `CLOSED` (tokio, `sync/oneshot.rs`).
pub const STATE_MASK: u64 = 0b111;
/// The receiver waits; nothing was sent, nobody has left.
pub const STATE_WAITING: u64 = 0b001;

/// Replies that one search notes: a connection owes one, an HTTP/2 connection some hundred.
const MAX_FOUND: usize = 256;

/// How far a waker's target and its queue are searched: those of `FuturesUnordered` need four.
const HOP_WORDS: usize = 16;

/// Fuzz body: whatever a program's memory holds, searches end, note no more than they may, and note only what points
/// back. The memory is the data, over and over again; every address in it can be read.
pub fn fuzz_memory(data: &[u8]) {
    struct Everywhere<'a>(&'a [u8]);
    impl ReadMemory for Everywhere<'_> {
        fn read(&self, address: u64, out: &mut [u8]) -> bool {
            let bytes = self.0.iter().cycle().skip((address % self.0.len() as u64) as usize);
            out.iter_mut().zip(bytes).for_each(|(to, from)| *to = *from);
            true
        }
    }
    let data = data.get(..data.len().min(4096)).unwrap_or_default();
    if data.is_empty() {
        return;
    }
    let memory = Everywhere(data);
    let places = Places::new([(0, u64::MAX)], [(0, u64::MAX)]);
    let program = Program { memory: &memory, places: &places };
    for header in words_of(data).take(16) {
        let Some(task) = program.task(header) else { continue };
        assert!(task.id != 0 && task.id_offset < task.trailer_offset, "{task:?}");
        // One that was searched at length tells as much as many.
        let found = search(program, Task { trailer_offset: task.trailer_offset.min(1024), ..task });
        assert!(found.len() <= MAX_FOUND);
        for reply in found.iter().take(4) {
            assert_eq!(memory.word(reply.shared + 24), Some(header), "{reply:?} does not point back");
            search_hops(program, reply.waker_vtable, reply.receiver);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::Memory;
    use super::*;

    const SENDER: u64 = 0x5000_0000;
    const RECEIVER: u64 = 0x5100_0000;
    const FUTURE: u64 = 0x5200_0000;
    const SHARED: u64 = 0x5300_0000;

    /// A connection task whose boxed future owes a reply to another task.
    fn memory() -> Memory {
        let mut memory = Memory::default();
        memory.task(SENDER, 7);
        memory.task(RECEIVER, 8);
        memory.boxed(SENDER, 0x38, FUTURE, 0x400);
        memory.put(FUTURE + 0x258, SHARED);
        let vtable = memory.waker_vtable();
        memory.oneshot(SHARED, SENDER, (vtable, RECEIVER));
        memory
    }

    fn found(memory: &Memory) -> Vec<Reply> {
        memory.check(|program| search(program, program.task(SENDER).unwrap()))
    }

    #[test]
    fn the_waiting_task_is_found_behind_the_boxed_future() {
        let found = found(&memory());
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].path, Path { boxed: Some(0x38), shared: 0x258 });
        assert_eq!(found[0].receiver.data, RECEIVER);
    }

    #[test]
    fn a_future_in_the_cell_itself_is_searched_too() {
        let mut memory = memory();
        memory.put(FUTURE + 0x258, 0);
        memory.put(SENDER + 0x60, SHARED);
        assert_eq!(found(&memory)[0].path, Path { boxed: None, shared: 0x60 });
    }

    #[test]
    fn what_only_looks_like_a_waited_for_reply_is_none() {
        for (word, value) in
            [(0, 1), (0, 3), (8, 2), (24, RECEIVER), (16, 0), (32, 0), (48, 0), (48, 3), (48, 5)]
        {
            let mut memory = memory();
            memory.put(SHARED + word, value);
            assert_eq!(found(&memory), [], "+{word} = {value}");
        }
    }

    #[test]
    fn no_memory_makes_a_search_run_on() {
        fuzz_memory(&[]);
        fuzz_memory(&[8; 100]);
        let mut state = 1u64;
        for length in 1..200 {
            let data: Vec<u8> = (0..length * 8)
                .map(|n| {
                    state =
                        state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                    if n % 8 == 0 { (state >> 60) as u8 * 8 } else { 0 }
                })
                .collect();
            fuzz_memory(&data);
        }
    }

    #[test]
    fn the_task_behind_another_kind_of_waker_is_found_by_the_wakers_of_its_queue() {
        let (entry, queue) = (0x5400_0000, 0x5500_0000);
        let mut memory = memory();
        let (task, other) = (memory.waker_vtable(), memory.other_waker_vtable());
        memory.fill(entry, 0x80);
        memory.fill(queue, 0x80);
        memory.put(entry, queue);
        memory.put(queue + 0x18, task);
        memory.put(queue + 0x20, RECEIVER);
        let hops = memory.check(|program| search_hops(program, task, Waker { vtable: other, data: entry }));
        assert_eq!(hops, [Hop { vtable: other, queue: 0, waker: 0x18 }]);
    }
}
