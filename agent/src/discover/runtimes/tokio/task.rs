//! Recognising tokio's tasks and wakers in a program's memory, without symbols and without a table of versions.
//!
//! A task is a heap cell that begins with a header: `state` +0, `queue_next` +8, `vtable` +16, `owner_id` +24 (`repr(C)`
//! in tokio's `runtime/task/core.rs`). Its vtable is a constant: seven functions, then the offsets of the trailer, of the
//! scheduler and of the task's id (`runtime/task/raw.rs`), so that a task says itself where its id is. A waker is a pair
//! of a vtable of four functions and a pointer; a task's waker points to the header.
//!
//! It must never believe a pointer because it is where one was expected: what is read here was proved by what it points
//! to, in the very read, and is at most a candidate until samples agree. Nothing is written or stopped.

use crate::discover::memory::ReadMemory;

/// What is known of the places of a program: which addresses hold code, which hold constants.
#[derive(Clone, Debug, Default)]
pub struct Places {
    code: Vec<(u64, u64)>,
    constants: Vec<(u64, u64)>,
}

impl Places {
    /// From the ranges of the executable and its libraries: those that can be executed, and those that come from a
    /// file and cannot.
    pub fn new(
        code: impl IntoIterator<Item = (u64, u64)>,
        constants: impl IntoIterator<Item = (u64, u64)>,
    ) -> Self {
        let sorted = |ranges: Vec<(u64, u64)>| {
            let mut ranges = ranges;
            ranges.sort_unstable();
            ranges
        };
        Self { code: sorted(code.into_iter().collect()), constants: sorted(constants.into_iter().collect()) }
    }

    fn is_code(&self, address: u64) -> bool {
        holds(&self.code, address)
    }

    fn is_constant(&self, address: u64) -> bool {
        address.is_multiple_of(8) && holds(&self.constants, address)
    }
}

fn holds(ranges: &[(u64, u64)], address: u64) -> bool {
    let after = ranges.partition_point(|&(start, _)| start <= address);
    after.checked_sub(1).and_then(|before| ranges.get(before)).is_some_and(|&(_, end)| address < end)
}

/// A program's memory, and what is where in it.
#[derive(Clone, Copy)]
pub struct Program<'a> {
    /// The memory.
    pub memory: &'a dyn ReadMemory,
    /// The places.
    pub places: &'a Places,
}

/// A task, as its header and its vtable describe it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Task {
    /// Where its header is.
    pub header: u64,
    /// Its vtable: one for each type of future.
    pub vtable: u64,
    /// Its id, unique in the process.
    pub id: u64,
    /// Where the id is in it.
    pub id_offset: u64,
    /// Where its trailer is in it: what lies before is the future, or a pointer to it.
    pub trailer_offset: u64,
}

/// A waker: who is to be woken.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Waker {
    /// Its vtable.
    pub vtable: u64,
    /// What its functions are given: for a task's waker the task's header.
    pub data: u64,
}

impl Program<'_> {
    /// The task whose header is at this address.
    pub fn task(&self, header: u64) -> Option<Task> {
        if header == 0 || !header.is_multiple_of(8) {
            return None;
        }
        let vtable = self.memory.word(header.checked_add(VTABLE)?)?;
        if !self.places.is_constant(vtable) {
            return None;
        }
        let words = self.words::<10>(vtable)?;
        let [functions @ .., trailer_offset, scheduler_offset, id_offset] = words;
        let proved = functions.iter().all(|&function| self.places.is_code(function))
            && (0x18..0x80).contains(&scheduler_offset)
            && scheduler_offset < id_offset
            && id_offset < trailer_offset
            && trailer_offset < MAX_CELL;
        if !proved {
            return None;
        }
        let id = self.memory.word(header.checked_add(id_offset)?)?;
        (id != 0).then_some(Task { header, vtable, id, id_offset, trailer_offset })
    }

    /// Whether this could be the vtable of a waker.
    pub fn is_waker_vtable(&self, vtable: u64) -> bool {
        self.places.is_constant(vtable)
            && self
                .words::<4>(vtable)
                .is_some_and(|functions| functions.iter().all(|&function| self.places.is_code(function)))
    }

    /// The task that this waker wakes, if it is a task's.
    pub fn woken(&self, waker: Waker) -> Option<Task> {
        if self.is_waker_vtable(waker.vtable) { self.task(waker.data) } else { None }
    }

    /// So many words from an address on.
    pub fn words<const N: usize>(&self, address: u64) -> Option<[u64; N]> {
        let bytes = self.memory.bytes(address, N * 8)?;
        let mut words = [0; N];
        for (word, bytes) in words.iter_mut().zip(words_of(&bytes)) {
            *word = bytes;
        }
        Some(words)
    }

    /// The concrete type's size behind a `dyn` vtable: `drop`, size, alignment, then functions.
    pub fn dyn_size(&self, vtable: u64) -> Option<u64> {
        if !self.places.is_constant(vtable) {
            return None;
        }
        let [drop, size, align] = self.words(vtable)?;
        let fits = (drop == 0 || self.places.is_code(drop)) && align.is_power_of_two() && align <= 4096;
        (fits && size > 0 && size.is_multiple_of(align) && size <= MAX_FUTURE).then_some(size)
    }
}

/// The words of a piece of memory, in order; what is left over at the end is no word.
pub fn words_of(bytes: &[u8]) -> impl Iterator<Item = u64> {
    bytes.chunks_exact(8).map(|word| word.iter().rev().fold(0, |sum, &byte| sum << 8 | u64::from(byte)))
}

/// Where a task's header names its vtable.
pub const VTABLE: u64 = 16;

/// The largest cell that is believed: futures of a mebibyte are built by mistake.
const MAX_CELL: u64 = 1 << 20;

/// The largest boxed future that is searched, in bytes: hyper's connections take some 2 KiB, with TLS 10.
pub const MAX_FUTURE: u64 = 32 << 10;

#[cfg(test)]
mod tests {
    use super::super::testing::Memory;
    use super::*;

    #[test]
    fn a_task_says_where_its_id_is() {
        let mut memory = Memory::default();
        let task = memory.task(0x5000_0000, 4711);
        assert_eq!(memory.check(|program| program.task(task)).map(|task| task.id), Some(4711));
    }

    #[test]
    fn no_task_without_each_part_of_the_proof() {
        for spoil in 0..13 {
            let mut memory = Memory::default();
            let header = memory.task(0x5000_0000, 4711);
            match spoil {
                0 => memory.put(header + VTABLE, 0x7000_0000),
                1..=7 => memory.put(memory.task_vtable() + 8 * (spoil - 1), 0x5000_0000),
                8 => memory.put(memory.task_vtable() + 56, 0x20),
                9 => memory.put(memory.task_vtable() + 64, 0x8),
                10 => memory.put(memory.task_vtable() + 72, 0x18),
                11 => memory.put(memory.task_vtable() + 56, 1 << 30),
                _ => memory.put(header + 0x28, 0),
            }
            assert_eq!(memory.check(|program| program.task(header)), None, "spoilt: {spoil}");
        }
    }

    #[test]
    fn a_waker_of_another_kind_wakes_no_task() {
        let mut memory = Memory::default();
        let header = memory.task(0x5000_0000, 4711);
        let vtable = memory.waker_vtable();
        let wakes = |vtable, data| memory.check(|program| program.woken(Waker { vtable, data })).is_some();
        assert!(wakes(vtable, header));
        assert!(!wakes(vtable, header + 8));
        assert!(!wakes(header, header));
    }
}
