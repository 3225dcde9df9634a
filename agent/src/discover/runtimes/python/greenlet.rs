//! gevent's greenlets: which of them runs on a thread.
//!
//! ```text
//!   fs base ─▶ dtv ─▶ the module's thread-local block ─▶ ThreadState { main, current }
//! ```
//! The extension `_greenlet` (greenlet 2 and 3, `TThreadState.hpp`) keeps a pointer to its thread's state in dynamic
//! thread-local storage. It is found by looking through the blocks of all modules for one whose main greenlet has the
//! type `PyGreenlet_Type`, and checked again at every call.

use spandrel_proto::walk::Step;

use super::super::Process;
use super::layout::Layout;
use crate::discover::elf::{Elf, load_bias};
use crate::discover::maps;
use crate::discover::memory::ReadMemory;

/// Where the current greenlet is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Greenlets {
    /// The module's number among those with thread-local storage.
    module: u64,
    /// In its block: the pointer to the thread's state.
    offset: u64,
    /// The type that the main greenlet must have.
    main_type: u64,
}

impl Greenlets {
    /// The current greenlet of `thread` into `to`; a thread without one ends the walk.
    pub fn steps(&self, thread: u8, at: u8, scratch: u8, to: u8) -> Vec<Step> {
        vec![
            Step::read8(at, thread, DTV),
            // The number of entries stands before them.
            Step::read8(scratch, at, 0u64.wrapping_sub(ENTRY)),
            Step::at_least(scratch, self.module),
            Step::read8(at, at, ENTRY * self.module),
            Step::not_equal(at, u64::MAX),
            Step::read8(at, at, self.offset),
            Step::read8(scratch, at, 0),
            Step::read8(scratch, scratch, super::TYPE),
            Step::equal(scratch, self.main_type),
            Step::read8(to, at, 8),
            Step::not_zero(to),
        ]
    }
}

/// Looks for greenlets; none if the process has not loaded them.
pub(super) fn find(process: &Process<'_>, layout: &Layout) -> Option<Result<Greenlets, &'static str>> {
    let (file, mapping) = process.maps.programs().find(|(_, mapping)| {
        let name = mapping.path.rsplit(|&byte| byte == b'/').next().unwrap_or_default();
        name.starts_with(b"_greenlet.")
    })?;
    let elf = maps::open(process.key.pid, mapping).ok().and_then(|file| Elf::open(file).ok());
    let Some(elf) = elf else { return Some(Err("their module cannot be read")) };
    let bias = load_bias(&elf, process.maps, file);
    let main =
        elf.symbol("PyGreenlet_Type").zip(bias).map(|(symbol, bias)| symbol.address.wrapping_add(bias));
    let (Some(main_type), Some(tls)) = (main, elf.tls()) else {
        return Some(Err("their module has no type or no thread-local storage"));
    };
    let found = search(&process.memory, layout.thread, main_type, tls.memory_size.min(MAX_BLOCK));
    Some(found.ok_or("no thread with greenlets was found"))
}

pub(super) fn search(
    memory: &impl ReadMemory,
    thread: u64,
    main_type: u64,
    block_size: u64,
) -> Option<Greenlets> {
    let dtv = memory.word(thread.wrapping_add(DTV))?;
    let modules = memory.word(dtv.wrapping_sub(ENTRY))?.min(MAX_MODULES);
    for module in 1..=modules {
        let Some(block) = memory.word(dtv.wrapping_add(ENTRY * module)).filter(|&block| block != u64::MAX)
        else {
            continue;
        };
        for offset in (0..block_size).step_by(8) {
            let main = memory.word(block.wrapping_add(offset)).and_then(|state| memory.word(state));
            if main.and_then(|main| memory.word(main.wrapping_add(super::TYPE))) == Some(main_type) {
                return Some(Greenlets { module, offset, main_type });
            }
        }
    }
    None
}

/// `tcbhead_t.dtv` (glibc, x86-64), and the size of a `dtv_t`.
const DTV: u64 = 8;
const ENTRY: u64 = 16;
/// Modules with thread-local storage: programs have some ten.
const MAX_MODULES: u64 = 256;
/// Bytes of the module's block: greenlet's are 16.
const MAX_BLOCK: u64 = 256;
