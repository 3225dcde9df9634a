//! A small memory with a task, its wakers and a oneshot, for the tests of the files beside this one.

use std::collections::BTreeMap;

use super::task::{Places, Program, VTABLE};
use crate::discover::memory::ReadMemory;

/// Words by address; what was not put cannot be read.
#[derive(Clone, Debug, Default)]
pub struct Memory(BTreeMap<u64, u64>);

const CODE: u64 = 0x40_0000;
const TASK_VTABLE: u64 = 0x60_0000;
const WAKER_VTABLE: u64 = 0x60_1000;
const OTHER_WAKER_VTABLE: u64 = 0x60_1800;
const FUTURE_VTABLE: u64 = 0x60_2000;

impl ReadMemory for Memory {
    fn read(&self, address: u64, out: &mut [u8]) -> bool {
        out.iter_mut().zip(address..).all(|(byte, at)| {
            let word = self.0.get(&(at & !7));
            if let Some(word) = word {
                *byte = word.to_le_bytes()[(at & 7) as usize];
            }
            word.is_some()
        })
    }
}

impl Memory {
    pub fn put(&mut self, address: u64, word: u64) {
        self.0.insert(address, word);
    }

    pub fn fill(&mut self, address: u64, bytes: u64) {
        for at in (address..address + bytes).step_by(8) {
            self.0.entry(at).or_default();
        }
    }

    pub fn check<T>(&self, ask: impl FnOnce(Program<'_>) -> T) -> T {
        let places = Places::new([(CODE, CODE + 0x1000)], [(TASK_VTABLE, TASK_VTABLE + 0x10000)]);
        ask(Program { memory: self, places: &places })
    }

    pub fn task_vtable(&self) -> u64 {
        TASK_VTABLE
    }

    pub fn waker_vtable(&mut self) -> u64 {
        self.functions(WAKER_VTABLE, 4)
    }

    pub fn other_waker_vtable(&mut self) -> u64 {
        self.functions(OTHER_WAKER_VTABLE, 4)
    }

    fn functions(&mut self, at: u64, count: u64) -> u64 {
        for index in 0..count {
            self.put(at + 8 * index, CODE + 16 * index);
        }
        at
    }

    /// A task with its id at +0x28 and its trailer at +0x90; the future in it is all zeros.
    pub fn task(&mut self, header: u64, id: u64) -> u64 {
        if !self.0.contains_key(&TASK_VTABLE) {
            self.functions(TASK_VTABLE, 7);
            self.put(TASK_VTABLE + 56, 0x90);
            self.put(TASK_VTABLE + 64, 0x20);
            self.put(TASK_VTABLE + 72, 0x28);
        }
        self.fill(header, 0xc0);
        self.put(header + VTABLE, TASK_VTABLE);
        self.put(header + 0x28, id);
        header
    }

    /// Gives the task a boxed future of so many bytes.
    pub fn boxed(&mut self, header: u64, at: u64, future: u64, bytes: u64) {
        self.put(FUTURE_VTABLE, CODE);
        self.put(FUTURE_VTABLE + 8, bytes);
        self.put(FUTURE_VTABLE + 16, 8);
        self.put(header + at, future);
        self.put(header + at + 8, FUTURE_VTABLE);
        self.fill(future, bytes);
    }

    /// A oneshot's shared part whose sender is one task and whose receiver has this waker.
    pub fn oneshot(&mut self, at: u64, sender: u64, receiver: (u64, u64)) {
        let vtable = self.waker_vtable();
        for (index, word) in [2, 1, vtable, sender, receiver.0, receiver.1, 1].into_iter().enumerate() {
            self.put(at + 8 * index as u64, word);
        }
    }
}
