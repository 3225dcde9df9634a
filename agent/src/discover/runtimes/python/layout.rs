//! Where a Python process keeps its thread states and their contexts: found by looking, proved by what was found.
//!
//! ```text
//!   _PyRuntime + ? ─▶ interpreter + ? ─▶ thread state + 16 ─▶ the same interpreter
//!                                         │  + ? ─▶ P: a thread's control block, which points at itself twice
//!                                         │  + ? ─▶ a context, by its type
//!   P + slot ─────────────────────────────┘
//! ```
//! No offset but that of `interp` is written down; so other versions and builds need no table. It must never accept
//! what does not prove itself, and reads at most [`MAX_READS`] times.

use std::cell::Cell;

use crate::discover::elf::Elf;
use crate::discover::memory::ReadMemory;

/// What is known of a file that holds an interpreter, as addresses of the file, or of a process.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Binary {
    /// `_PyRuntime`.
    pub runtime: u64,
    /// `PyContext_Type`.
    pub context_type: u64,
    /// `PyContext_CopyCurrent`, and its length.
    pub copy: Option<(u64, u64)>,
    /// The 11 of 3.11, if the file's name says it.
    pub minor: Option<u32>,
}

impl Binary {
    /// Of a file, if it holds an interpreter: these symbols are exported and survive stripping.
    pub fn of(elf: &Elf, path: &[u8]) -> Option<Self> {
        let address = |name| elf.symbol(name).map(|symbol| symbol.address);
        Some(Self {
            runtime: address("_PyRuntime")?,
            context_type: address("PyContext_Type")?,
            copy: elf.symbol("PyContext_CopyCurrent").map(|symbol| (symbol.address, symbol.size)),
            minor: minor(path),
        })
    }

    /// As a process has it. The function stays as the file has it.
    pub fn moved(&self, bias: u64) -> Self {
        Self {
            runtime: self.runtime.wrapping_add(bias),
            context_type: self.context_type.wrapping_add(bias),
            ..*self
        }
    }
}

/// The 11 of `/usr/lib/libpython3.11.so.1.0`.
fn minor(path: &[u8]) -> Option<u32> {
    let name = path.rsplit(|&byte| byte == b'/').next()?;
    let at = name.windows(8).position(|window| window == b"python3.")?;
    let digits: Vec<u8> = name.get(at + 8..)?.iter().copied().take_while(u8::is_ascii_digit).collect();
    std::str::from_utf8(&digits).ok()?.parse().ok()
}

/// Where things are. All are offsets.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Layout {
    /// From the thread pointer: where a thread finds its own state. May be negative (thread-local storage).
    pub slot: u64,
    /// From a thread state: its thread's control block.
    pub thread_id: u64,
    /// From a thread state: the current context.
    pub context: u64,
    /// A thread's control block, for those who look further.
    pub thread: u64,
}

/// Why there is no layout.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Missing {
    /// The program has not come far enough.
    Yet(&'static str),
    /// It will not be read.
    Never(&'static str),
}

/// Looks for the layout, and says for people what it found.
pub(super) fn find(memory: &impl ReadMemory, binary: &Binary) -> Result<(Layout, Vec<String>), Missing> {
    let search = Search { memory, reads: Cell::new(0) };
    let debug = search.debug_offsets(binary.runtime);
    if debug.is_some_and(|(_, free_threaded)| free_threaded != 0) {
        return Err(Missing::Never("a free-threaded build: its objects have another head"));
    }
    let minor = debug.map(|(version, _)| u32::try_from(version >> 16 & 0xff).unwrap_or(0)).or(binary.minor);
    let state = search.state(binary.runtime).ok_or(Missing::Yet("no thread state was found yet"))?;
    let slot = match search.slots(&state).as_slice() {
        [slot] => *slot,
        [] => return Err(Missing::Yet("no thread was found that knows its own state")),
        // One of two may be that of whoever holds the lock at the moment.
        _ => return Err(Missing::Yet("a thread has its state at several places")),
    };
    let seen = search.context(&state, binary.context_type);
    let context = seen
        .or_else(|| minor.and_then(known_context))
        .ok_or(Missing::Yet("no context was found yet, and the version says nothing"))?;
    let named = minor.map_or("of unknown version".to_owned(), |minor| format!("3.{minor}"));
    let layout = Layout { slot, thread_id: state.thread_id, context, thread: state.thread };
    let how = if seen.is_some() { "seen" } else { "by version, checked at each call" };
    let report = format!(
        "{named}: thread state at thread pointer {:+}, its thread at +{}, its context at +{context} ({how})",
        slot as i64, state.thread_id
    );
    Ok((layout, vec![report]))
}

/// `PyThreadState.context` (Include/cpython/pystate.h) in release builds for x86-64.
fn known_context(minor: u32) -> Option<u64> {
    match minor {
        8..=10 => Some(240),
        11 => Some(224),
        12..=14 => Some(208),
        15 => Some(232),
        _ => None,
    }
}

/// A thread state that proved itself.
struct State {
    address: u64,
    thread_id: u64,
    thread: u64,
}

struct Search<'a, M> {
    memory: &'a M,
    reads: Cell<usize>,
}

impl<M: ReadMemory> Search<'_, M> {
    fn may_read(&self) -> bool {
        self.reads.set(self.reads.get() + 1);
        self.reads.get() <= MAX_READS
    }

    fn word(&self, address: u64) -> Option<u64> {
        if self.may_read() { self.memory.word(address) } else { None }
    }

    /// So many words, or fewer where memory ends.
    fn words(&self, address: u64, count: usize) -> Vec<u64> {
        for count in [count, count / 8, count / 32] {
            if self.may_read()
                && let Some(bytes) = self.memory.bytes(address, count * 8)
            {
                return bytes
                    .chunks_exact(8)
                    .filter_map(|word| word.try_into().ok().map(u64::from_le_bytes))
                    .collect();
            }
        }
        Vec::new()
    }

    /// 3.13 and later say themselves who they are (`_Py_DebugOffsets`): the version, and whether free-threaded.
    fn debug_offsets(&self, runtime: u64) -> Option<(u64, u64)> {
        let head = self.words(runtime, 8);
        (head.first() == Some(&u64::from_le_bytes(*b"xdebugpy"))).then_some((*head.get(1)?, *head.get(2)?))
    }

    fn state(&self, runtime: u64) -> Option<State> {
        let mut seen = std::collections::HashSet::new();
        let interpreters = self.words(runtime, RUNTIME_WORDS);
        for interpreter in interpreters.into_iter().filter(|&word| is_pointer(word)) {
            if !seen.insert(interpreter) {
                continue;
            }
            for state in
                self.words(interpreter, INTERPRETER_WORDS).into_iter().filter(|&word| is_pointer(word))
            {
                if !seen.insert(state) || self.word(state.wrapping_add(INTERPRETER)) != Some(interpreter) {
                    continue;
                }
                if let Some(found) = self.thread(state) {
                    return Some(found);
                }
            }
        }
        None
    }

    /// The member of a thread state that is its thread: a control block holds its own address at 0 and at 16
    /// (glibc's `tcbhead_t`: `tcb` and `self`), and finds the state again.
    fn thread(&self, state: u64) -> Option<State> {
        let words = self.words(state, STATE_WORDS);
        words.iter().zip(0u64..).filter(|(word, _)| is_pointer(**word) && word.is_multiple_of(64)).find_map(
            |(&thread, at)| {
                let block =
                    (self.word(thread) == Some(thread)).then(|| self.word(thread.wrapping_add(16)))?;
                let found = State { address: state, thread_id: at * 8, thread };
                (block == Some(thread) && !self.slots(&found).is_empty()).then_some(found)
            },
        )
    }

    /// Where from its thread pointer a thread has its state: in the first block of `pthread_setspecific` (glibc's
    /// `struct pthread.specific_1stblock`), or in static thread-local storage (3.15).
    fn slots(&self, state: &State) -> Vec<u64> {
        let keys = self.words(state.thread.wrapping_add(SPECIFIC), SPECIFIC_KEYS * 2);
        let specific =
            keys.iter().zip(0u64..).filter(|(word, at)| **word == state.address && !at.is_multiple_of(2));
        let specific: Vec<u64> = specific.map(|(_, at)| SPECIFIC + at * 8).collect();
        if !specific.is_empty() {
            return specific;
        }
        let below = (STATIC_WORDS as u64) * 8;
        let words = self.words(state.thread.wrapping_sub(below), STATIC_WORDS);
        let found = words.iter().zip(0u64..).filter(|(word, _)| **word == state.address);
        found.map(|(_, at)| (at * 8).wrapping_sub(below)).collect()
    }

    /// The one member of a thread state that is a context, or of one of those after it in the list.
    fn context(&self, first: &State, context_type: u64) -> Option<u64> {
        let mut state = first.address;
        for _ in 0..MAX_STATES {
            let words = self.words(state, STATE_WORDS);
            let found: Vec<u64> = words
                .iter()
                .zip(0u64..)
                .filter(|(word, _)| {
                    is_pointer(**word) && self.word(word.wrapping_add(super::TYPE)) == Some(context_type)
                })
                .map(|(_, at)| at * 8)
                .collect();
            if let [offset] = found.as_slice() {
                return Some(*offset);
            }
            // `prev` and `next` are the first two members.
            state = *words.get(1).filter(|&&next| is_pointer(next))?;
        }
        None
    }
}

fn is_pointer(word: u64) -> bool {
    (0x1_0000..1 << 47).contains(&word) && word.is_multiple_of(8)
}

/// `PyThreadState.interp`, after `prev` and `next`: the same from 3.8 to 3.15.
const INTERPRETER: u64 = 16;
/// Words of `_PyRuntime` and of an interpreter among which the next thing is looked for: 3.15 has them at 936 and 7,336.
const RUNTIME_WORDS: usize = 160;
const INTERPRETER_WORDS: usize = 1024;
/// Words of a thread state: the longest of what is looked for is at 240.
const STATE_WORDS: usize = 64;
/// `offsetof(struct pthread, specific_1stblock)` in glibc for x86-64, since 2.4.
const SPECIFIC: u64 = 0x310;
/// `PTHREAD_KEY_2NDLEVEL_SIZE`.
const SPECIFIC_KEYS: usize = 32;
/// Words of static thread-local storage that are looked through.
const STATIC_WORDS: usize = 512;
/// Thread states that are looked at for a context.
const MAX_STATES: usize = 64;
/// Reads of memory for one process, a microsecond each.
const MAX_READS: usize = 60_000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_is_read_from_a_file_name() {
        assert_eq!(minor(b"/usr/bin/python3.11"), Some(11));
        assert_eq!(minor(b"/opt/lib/libpython3.8.so.1.0"), Some(8));
        assert_eq!(minor(b"/usr/bin/python"), None);
        assert_eq!(minor(b"/python3.9/bin/uwsgi"), None);
    }
}
