//! A walk: how to find, in a program's own memory, on whose behalf it makes a call. It is data.
//!
//! A walk is a short program for a machine with [`REGISTERS`] registers of 64 bits, one block of memory and a list
//! of words that it keeps as evidence. The agent writes one for a process once it has proved where things lie in it;
//! the kernel side has one interpreter for all of them, [`step`], which is also run by tests and by the agent over
//! an image of memory.
//! ```text
//!   source ─▶ register ──add, mask──▶ register ──read, guarded──▶ register ──▶ kept word
//!              of the task              a read or guard that fails jumps ahead, or ends the walk without evidence
//! ```
//! It must never write anything but its own [`State`], run longer than [`MAX_EXECUTED`] steps, or keep a word
//! after a guard failed: *fails closed*. What the words mean only the runtime knows that wrote the walk.

use core::fmt;

/// How many registers there are. The first [`PARAMETERS`] begin with the process's parameters, the others with 0.
pub const REGISTERS: usize = 16;
/// How many numbers a process may bring of its own, so that processes can share a walk.
pub const PARAMETERS: usize = 4;
/// The longest walk, in steps.
pub const MAX_STEPS: usize = 128;
/// The most steps that are executed, loops included. A search over a block of the longest takes three a word.
pub const MAX_EXECUTED: u32 = 1024;
/// The most words that a walk keeps: a task's keys, and two for each of sixteen processors.
pub const MAX_WORDS: usize = 40;
/// The largest block, in bytes: as much of a stack as is searched.
pub const MAX_BLOCK: u32 = 2048;
/// 64-bit words of a block's room: twice the largest, since the verifier knows bounds only as masks.
pub const BLOCK_ROOM: usize = 512;
/// Room for kept words: the next power of two, for the same reason.
pub const WORDS_ROOM: usize = 64;
/// Room for the saved registers: `struct pt_regs` has 21 words.
pub const SAVED_ROOM: usize = 32;

/// Which word of the saved registers (`struct pt_regs`, arch/x86/include/asm/ptrace.h) is which register.
#[allow(missing_docs)]
pub mod saved {
    pub const R15: u32 = 0;
    pub const R14: u32 = 1;
    pub const R13: u32 = 2;
    pub const R12: u32 = 3;
    pub const BP: u32 = 4;
    pub const BX: u32 = 5;
    pub const R11: u32 = 6;
    pub const R10: u32 = 7;
    pub const R9: u32 = 8;
    pub const R8: u32 = 9;
    pub const AX: u32 = 10;
    pub const CX: u32 = 11;
    pub const DX: u32 = 12;
    pub const SI: u32 = 13;
    pub const DI: u32 = 14;
    pub const IP: u32 = 16;
    pub const SP: u32 = 19;
    pub const COUNT: u32 = 21;
}

/// One step.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
pub struct Step {
    /// What is done: one of [`op`].
    pub op: u8,
    /// The register that takes the result.
    pub to: u8,
    /// The register that it starts from.
    pub from: u8,
    /// How many steps to pass over if it fails; 0: the walk ends without evidence.
    pub or: u8,
    /// A length, a second register, or half of what `value` says.
    pub size: u32,
    /// An offset, a number to compare with, …
    pub value: u64,
}

const _: () = assert!(size_of::<Step>() == 16);

/// What a step does.
#[allow(missing_docs)]
pub mod op {
    pub const END: u8 = 0;
    pub const REGISTER: u8 = 1;
    pub const THREAD_POINTER: u8 = 2;
    pub const EPOLL_WORD: u8 = 3;
    pub const SOCKET: u8 = 4;
    pub const WAY: u8 = 5;
    pub const TIME: u8 = 6;
    pub const THREAD: u8 = 7;
    pub const SET: u8 = 8;
    pub const ADD: u8 = 9;
    pub const ADD_REGISTER: u8 = 10;
    pub const SUBTRACT: u8 = 11;
    pub const AND: u8 = 12;
    pub const SHIFT_RIGHT: u8 = 13;
    pub const MULTIPLY: u8 = 14;
    pub const READ: u8 = 15;
    pub const BLOCK: u8 = 16;
    pub const FIELD: u8 = 17;
    pub const FIELD_AT: u8 = 18;
    pub const EQUAL: u8 = 19;
    pub const EQUAL_REGISTER: u8 = 20;
    pub const NOT_EQUAL: u8 = 21;
    pub const BELOW: u8 = 22;
    pub const AT_LEAST: u8 = 23;
    pub const IN_RANGE: u8 = 24;
    pub const BELOW_REGISTER: u8 = 25;
    pub const BITS: u8 = 26;
    pub const KEEP: u8 = 27;
    pub const KEEP_VALUE: u8 = 28;
    pub const JUMP: u8 = 29;
    pub const REPEAT: u8 = 30;
    pub const EQUAL_32: u8 = 31;
    pub const FAIL: u8 = 32;
    pub const REMEMBER: u8 = 33;
    pub const REMEMBERED: u8 = 34;
}

/// What a walk works on. In the kernel it lies in a map, one for each CPU and place that walks run at.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct State {
    /// The registers.
    pub registers: [u64; REGISTERS],
    /// The caller's saved registers.
    pub saved: [u64; SAVED_ROOM],
    /// The words kept.
    pub words: [u64; WORDS_ROOM],
    /// How many.
    pub kept: u32,
    /// The next step.
    pub at: u32,
    /// 1 while a walk is under way.
    pub busy: u32,
    /// The kernel side's own.
    pub note: u32,
    /// The call's socket, connection and way, which [`World`] tells of in the kernel; and the word that is
    /// remembered of the socket.
    pub call: [u64; 4],
    /// The block.
    pub block: [u64; BLOCK_ROOM],
}

const _: () = assert!(size_of::<State>() == 8 * (REGISTERS + SAVED_ROOM + WORDS_ROOM + 6 + BLOCK_ROOM));

impl State {
    /// A state before the first step.
    pub const fn new(parameters: [u64; PARAMETERS], saved: [u64; SAVED_ROOM]) -> Self {
        let [a, b, c, d] = parameters;
        Self {
            registers: [a, b, c, d, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
            saved,
            words: [0; WORDS_ROOM],
            kept: 0,
            at: 0,
            busy: 0,
            note: 0,
            call: [0; 4],
            block: [0; BLOCK_ROOM],
        }
    }
}

/// What a walk can ask: the traced program's memory, and what only the kernel knows of the call. `None` and
/// `false` mean that it is not there.
pub trait World {
    /// Reads 1, 2, 4 or 8 bytes of the program's memory.
    fn read(&self, address: u64, bytes: u32) -> Option<u64>;
    /// Reads a block of at most [`MAX_BLOCK`] bytes.
    fn block(&self, address: u64, bytes: u32, to: &mut [u64; BLOCK_ROOM]) -> bool;
    /// The thread pointer: `fs`'s base.
    fn thread_pointer(&self) -> Option<u64>;
    /// The word that the program gave to `epoll_ctl` for the call's descriptor, if all its epoll sets agree.
    fn epoll_word(&self) -> Option<u64>;
    /// The address of the call's socket.
    fn socket(&self) -> Option<u64>;
    /// 1 if the call sends, 0 if it receives.
    fn way(&self) -> u64;
    /// `CLOCK_MONOTONIC`, nanoseconds.
    fn time(&self) -> u64;
    /// The thread's id.
    fn thread(&self) -> u64;
    /// Whether the 32 bytes at this address are those that the agent set for the call's connection.
    fn expected(&self, address: u64) -> bool;
}

/// What comes after a step.
#[repr(u32)]
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Next {
    /// Another step.
    Step = 0,
    /// The walk is over, and what was kept is evidence.
    Done = 1,
    /// The walk is over and there is no evidence.
    Failed = 2,
}

const R: usize = REGISTERS - 1;

/// Executes the step that comes next, which is `what`. The only code that knows what steps mean, in the kernel
/// and outside.
#[inline(always)]
pub fn step(state: &mut State, what: &Step, world: &impl World) -> Next {
    let from = state.registers[what.from as usize & R];
    let Step { value, size, .. } = *what;
    let other = state.registers[size as usize & R];
    let ok = |condition: bool| if condition { Some(from) } else { None };
    // `Some`: it worked, and this goes into the register `to`. Guards put back what they looked at.
    let mut to = what.to;
    let guard = what.op >= op::EQUAL && what.op <= op::BITS || what.op == op::EQUAL_32;
    if guard {
        to = what.from;
    }
    let result = match what.op {
        op::REGISTER => Some(state.saved[value as usize & (SAVED_ROOM - 1)]),
        op::THREAD_POINTER => world.thread_pointer(),
        op::EPOLL_WORD => world.epoll_word(),
        op::SOCKET => world.socket(),
        op::WAY => Some(world.way()),
        op::TIME => Some(world.time()),
        op::THREAD => Some(world.thread()),
        op::SET => Some(value),
        op::ADD => Some(from.wrapping_add(value)),
        op::ADD_REGISTER => Some(from.wrapping_add(other)),
        op::SUBTRACT => Some(from.wrapping_sub(other)),
        op::AND => Some(from & value),
        op::SHIFT_RIGHT => Some(from >> (value & 63)),
        op::MULTIPLY => Some(from.wrapping_mul(value)),
        op::READ => world.read(from.wrapping_add(value), size),
        op::BLOCK => {
            if size <= MAX_BLOCK && world.block(from.wrapping_add(value), size, &mut state.block) {
                Some(from.wrapping_add(value))
            } else {
                None
            }
        }
        op::FIELD => Some(field(state.block[(value as usize >> 3) & (BLOCK_ROOM - 1)], value, size)),
        op::FIELD_AT => {
            let at = from.wrapping_add(value);
            Some(field(state.block[(at as usize >> 3) & (BLOCK_ROOM - 1)], at, size))
        }
        op::EQUAL => ok(from == value),
        op::EQUAL_REGISTER => ok(from == other),
        op::NOT_EQUAL => ok(from != value),
        op::BELOW => ok(from < value),
        op::AT_LEAST => ok(from >= value),
        op::IN_RANGE => ok(from.wrapping_sub(value) < size as u64),
        op::BELOW_REGISTER => ok(from < other),
        op::BITS => ok(from & value == size as u64),
        op::EQUAL_32 => ok(world.expected(from.wrapping_add(value))),
        op::KEEP | op::KEEP_VALUE => {
            let kept = state.kept;
            if kept < MAX_WORDS as u32 {
                state.words[kept as usize & (WORDS_ROOM - 1)] =
                    if what.op == op::KEEP { from } else { value };
                state.kept = kept + 1;
                to = what.from;
                Some(from)
            } else {
                None
            }
        }
        op::JUMP => {
            state.at = state.at.wrapping_add(value as u32 & R_STEP);
            to = what.from;
            Some(from)
        }
        op::REPEAT => {
            let left = from.wrapping_sub(1);
            to = what.from;
            if from != 0 && left != 0 {
                state.at = state.at.wrapping_sub((value as u32 & R_STEP).wrapping_add(1));
            }
            Some(left)
        }
        op::REMEMBER => {
            state.call[3] = from;
            to = what.from;
            Some(from)
        }
        op::REMEMBERED => match state.call[3] {
            0 => None,
            word => Some(word),
        },
        op::END => return Next::Done,
        _ => None,
    };
    match result {
        Some(value) => {
            state.registers[to as usize & R] = value;
            state.at = state.at.wrapping_add(1);
            Next::Step
        }
        None if what.or == 0 => Next::Failed,
        None => {
            state.at = state.at.wrapping_add(1 + what.or as u32);
            Next::Step
        }
    }
}

const R_STEP: u32 = MAX_STEPS as u32 - 1;

#[inline(always)]
fn field(word: u64, at: u64, size: u32) -> u64 {
    let shifted = word >> ((at & 7) * 8);
    match size {
        1 => shifted & 0xff,
        2 => shifted & 0xffff,
        4 => shifted & 0xffff_ffff,
        _ => word,
    }
}

/// Runs a whole walk; true if what `state` kept is evidence.
pub fn run(state: &mut State, walk: &[Step], world: &impl World) -> bool {
    for _ in 0..MAX_EXECUTED {
        let Some(what) = walk.get(state.at as usize) else { return false };
        match step(state, what, world) {
            Next::Step => {}
            Next::Done => return true,
            Next::Failed => return false,
        }
    }
    false
}

/// How a process's calls are walked: the value of the map `WALKED`, whose key is the process id.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Walked {
    /// When the process started; another with the same id is none of ours.
    pub started: u64,
    /// What the first registers begin with.
    pub parameters: [u64; PARAMETERS],
    /// How often it called `execve`.
    pub exec: u32,
    /// The walk of calls that send, a slot of the map `WALKS` plus 1; 0 for none.
    pub send: u32,
    /// That of calls that receive.
    pub receive: u32,
    /// The tags of both, the receiving one's in the upper half.
    pub tags: u32,
}

/// What is done at a probed instruction: the value of the map `PROBED`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Probed {
    /// When the process started.
    pub started: u64,
    /// What the first registers begin with.
    pub parameters: [u64; PARAMETERS],
    /// The walk, a slot of the map `WALKS` plus 1.
    pub walk: u32,
    /// Its tag.
    pub tag: u32,
    /// How often the instruction was reached.
    pub hits: u64,
}

/// The key of the map `PROBED`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
pub struct ProbedAt {
    /// The process's id.
    pub pid: u32,
    /// Spelled-out padding.
    pub reserved: u32,
    /// The address of the instruction in the process.
    pub address: u64,
}

const _: () = {
    assert!(size_of::<Walked>() == 56);
    assert!(size_of::<Probed>() == 64 - 8);
    assert!(size_of::<ProbedAt>() == 16);
};

/// States that a CPU has: for calls that send, calls that receive, probes, and connections that are asked for.
pub const STATES: u32 = 4;

/// Walks that the kernel side holds at once.
pub const WALKS: u32 = 512;

/// Making steps.
#[allow(missing_docs)]
impl Step {
    const fn new(op: u8, to: u8, from: u8, size: u32, value: u64) -> Self {
        Self { op, to, from, or: 0, size, value }
    }
    /// If this step fails, so many steps after it are passed over.
    pub const fn or(self, steps: u8) -> Self {
        Self { or: steps, ..self }
    }
    pub const fn end() -> Self {
        Self::new(op::END, 0, 0, 0, 0)
    }
    pub const fn fail() -> Self {
        Self::new(op::FAIL, 0, 0, 0, 0)
    }
    /// A register that the caller saved: one of [`saved`].
    pub const fn register(to: u8, which: u32) -> Self {
        Self::new(op::REGISTER, to, 0, 0, which as u64)
    }
    /// The first argument of the call: its descriptor.
    pub const fn descriptor(to: u8) -> Self {
        Self::register(to, saved::DI)
    }
    pub const fn thread_pointer(to: u8) -> Self {
        Self::new(op::THREAD_POINTER, to, 0, 0, 0)
    }
    pub const fn epoll_word(to: u8) -> Self {
        Self::new(op::EPOLL_WORD, to, 0, 0, 0)
    }
    pub const fn socket(to: u8) -> Self {
        Self::new(op::SOCKET, to, 0, 0, 0)
    }
    pub const fn way(to: u8) -> Self {
        Self::new(op::WAY, to, 0, 0, 0)
    }
    pub const fn time(to: u8) -> Self {
        Self::new(op::TIME, to, 0, 0, 0)
    }
    pub const fn thread(to: u8) -> Self {
        Self::new(op::THREAD, to, 0, 0, 0)
    }
    pub const fn set(to: u8, value: u64) -> Self {
        Self::new(op::SET, to, 0, 0, value)
    }
    pub const fn add(to: u8, from: u8, value: u64) -> Self {
        Self::new(op::ADD, to, from, 0, value)
    }
    pub const fn add_register(to: u8, from: u8, other: u8) -> Self {
        Self::new(op::ADD_REGISTER, to, from, other as u32, 0)
    }
    pub const fn subtract(to: u8, from: u8, other: u8) -> Self {
        Self::new(op::SUBTRACT, to, from, other as u32, 0)
    }
    pub const fn and(to: u8, from: u8, mask: u64) -> Self {
        Self::new(op::AND, to, from, 0, mask)
    }
    pub const fn shift_right(to: u8, from: u8, bits: u32) -> Self {
        Self::new(op::SHIFT_RIGHT, to, from, 0, bits as u64)
    }
    pub const fn multiply(to: u8, from: u8, by: u64) -> Self {
        Self::new(op::MULTIPLY, to, from, 0, by)
    }
    pub const fn read8(to: u8, from: u8, offset: u64) -> Self {
        Self::new(op::READ, to, from, 8, offset)
    }
    pub const fn read4(to: u8, from: u8, offset: u64) -> Self {
        Self::new(op::READ, to, from, 4, offset)
    }
    pub const fn read2(to: u8, from: u8, offset: u64) -> Self {
        Self::new(op::READ, to, from, 2, offset)
    }
    pub const fn read1(to: u8, from: u8, offset: u64) -> Self {
        Self::new(op::READ, to, from, 1, offset)
    }
    /// Reads so many bytes into the block, up to [`MAX_BLOCK`]. (Register 15 takes the address.)
    pub const fn block(from: u8, offset: u64, bytes: u32) -> Self {
        Self::new(op::BLOCK, 15, from, bytes, offset)
    }
    /// 8 bytes of the block at this offset, a multiple of 8.
    pub const fn field8(to: u8, offset: u64) -> Self {
        Self::new(op::FIELD, to, 0, 8, offset)
    }
    /// 4 bytes of the block at this offset, a multiple of 4.
    pub const fn field4(to: u8, offset: u64) -> Self {
        Self::new(op::FIELD, to, 0, 4, offset)
    }
    pub const fn field2(to: u8, offset: u64) -> Self {
        Self::new(op::FIELD, to, 0, 2, offset)
    }
    pub const fn field1(to: u8, offset: u64) -> Self {
        Self::new(op::FIELD, to, 0, 1, offset)
    }
    /// 8 bytes of the block at the offset in a register.
    pub const fn field_at(to: u8, index: u8) -> Self {
        Self::new(op::FIELD_AT, to, index, 8, 0)
    }
    pub const fn equal(from: u8, value: u64) -> Self {
        Self::new(op::EQUAL, 0, from, 0, value)
    }
    pub const fn equal_register(from: u8, other: u8) -> Self {
        Self::new(op::EQUAL_REGISTER, 0, from, other as u32, 0)
    }
    pub const fn not_equal(from: u8, value: u64) -> Self {
        Self::new(op::NOT_EQUAL, 0, from, 0, value)
    }
    pub const fn not_zero(from: u8) -> Self {
        Self::not_equal(from, 0)
    }
    pub const fn below(from: u8, value: u64) -> Self {
        Self::new(op::BELOW, 0, from, 0, value)
    }
    pub const fn at_least(from: u8, value: u64) -> Self {
        Self::new(op::AT_LEAST, 0, from, 0, value)
    }
    /// `start <= register < start + bytes`.
    pub const fn in_range(from: u8, start: u64, bytes: u32) -> Self {
        Self::new(op::IN_RANGE, 0, from, bytes, start)
    }
    pub const fn below_register(from: u8, other: u8) -> Self {
        Self::new(op::BELOW_REGISTER, 0, from, other as u32, 0)
    }
    /// `register & mask == value`.
    pub const fn bits(from: u8, mask: u64, value: u32) -> Self {
        Self::new(op::BITS, 0, from, value, mask)
    }
    /// The 32 bytes at the register plus `offset` are those that were set for this connection.
    pub const fn equal32(from: u8, offset: u64) -> Self {
        Self::new(op::EQUAL_32, 0, from, 0, offset)
    }
    pub const fn keep(from: u8) -> Self {
        Self::new(op::KEEP, 0, from, 0, 0)
    }
    pub const fn keep_value(value: u64) -> Self {
        Self::new(op::KEEP_VALUE, 0, 0, 0, value)
    }
    /// Keeps the register with the call's socket, for as long as that lives, in place of what was there.
    pub const fn remember(from: u8) -> Self {
        Self::new(op::REMEMBER, 0, from, 0, 0)
    }
    /// What was kept with the call's socket; fails if nothing was.
    pub const fn remembered(to: u8) -> Self {
        Self::new(op::REMEMBERED, to, 0, 0, 0)
    }
    /// Passes over so many steps.
    pub const fn jump(steps: u8) -> Self {
        Self::new(op::JUMP, 0, 0, 0, steps as u64)
    }
    /// Takes 1 off the register and, unless it is 0 now, goes back so many steps: to the one that stands so
    /// many lines above this.
    pub const fn repeat(counter: u8, back: u8) -> Self {
        Self::new(op::REPEAT, 0, counter, 0, back as u64)
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { to, from, size, value, .. } = *self;
        let offset = value as i64;
        match self.op {
            op::END => write!(f, "end")?,
            op::FAIL => write!(f, "fail")?,
            op::REGISTER => write!(f, "r{to} = saved register {value}")?,
            op::THREAD_POINTER => write!(f, "r{to} = thread pointer")?,
            op::EPOLL_WORD => write!(f, "r{to} = epoll word of the descriptor")?,
            op::SOCKET => write!(f, "r{to} = socket")?,
            op::WAY => write!(f, "r{to} = sends")?,
            op::TIME => write!(f, "r{to} = time")?,
            op::THREAD => write!(f, "r{to} = thread")?,
            op::SET => write!(f, "r{to} = {value:#x}")?,
            op::ADD => write!(f, "r{to} = r{from} + {offset}")?,
            op::ADD_REGISTER => write!(f, "r{to} = r{from} + r{size}")?,
            op::SUBTRACT => write!(f, "r{to} = r{from} - r{size}")?,
            op::AND => write!(f, "r{to} = r{from} & {value:#x}")?,
            op::SHIFT_RIGHT => write!(f, "r{to} = r{from} >> {value}")?,
            op::MULTIPLY => write!(f, "r{to} = r{from} * {value}")?,
            op::READ => write!(f, "r{to} = {size} bytes at r{from} + {offset}")?,
            op::BLOCK => write!(f, "block = {size} bytes at r{from} + {offset}")?,
            op::FIELD => write!(f, "r{to} = {size} bytes of the block at {value}")?,
            op::FIELD_AT => write!(f, "r{to} = {size} bytes of the block at r{from} + {offset}")?,
            op::EQUAL => write!(f, "r{from} must be {value:#x}")?,
            op::EQUAL_REGISTER => write!(f, "r{from} must be r{size}")?,
            op::NOT_EQUAL => write!(f, "r{from} must not be {value:#x}")?,
            op::BELOW => write!(f, "r{from} must be below {value:#x}")?,
            op::AT_LEAST => write!(f, "r{from} must be at least {value:#x}")?,
            op::IN_RANGE => write!(f, "r{from} must be in {value:#x} + {size:#x}")?,
            op::BELOW_REGISTER => write!(f, "r{from} must be below r{size}")?,
            op::BITS => write!(f, "r{from} & {value:#x} must be {size:#x}")?,
            op::KEEP => write!(f, "keep r{from}")?,
            op::KEEP_VALUE => write!(f, "keep {value:#x}")?,
            op::JUMP => write!(f, "pass over {value}")?,
            op::REPEAT => write!(f, "r{from} -= 1, and {value} back unless it is 0")?,
            op::REMEMBER => write!(f, "remember r{from} with the socket")?,
            op::REMEMBERED => write!(f, "r{to} = what is remembered with the socket")?,
            op::EQUAL_32 => write!(f, "32 bytes at r{from} + {offset} must be those of the connection")?,
            other => write!(f, "step {other}?")?,
        }
        if self.or != 0 { write!(f, ", or pass over {}", self.or) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests;
