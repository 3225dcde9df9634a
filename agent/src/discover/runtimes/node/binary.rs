//! Where the instructions are, in a `node` binary, at which its event loop and its promises can be watched.
//!
//! Found by symbol: official builds, npm's and most distributions' keep them. Builds of a distribution that are
//! stripped keep `node::` symbols and lose V8's builtins: then promises are not watched. A builtin is watched at its
//! entry and where it returns; it must never be watched by its return address, since V8 walks its stack by those.

use super::super::super::elf::{Elf, Symbol};

/// An instruction of the file.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Place {
    /// Its address in the file.
    pub address: u64,
    /// What it means to come by.
    pub mark: Mark,
    /// The bytes there.
    pub bytes: Vec<u8>,
}

/// What it means that an instruction was reached. The number is its walk's tag.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[repr(u16)]
#[allow(missing_docs)]
pub enum Mark {
    Call = 1,
    Made = 2,
    Boundary = 3,
    Immediates = 4,
    Register = 5,
    Derived = 6,
    Job = 7,
    JobOfNobody = 8,
    Moved = 9,
    Microtasks = 10,
    Callable = 11,
    Collects = 12,
    Calls = 13,
}

impl Mark {
    /// The mark with this tag.
    pub fn of(tag: u16) -> Option<Self> {
        use Mark::{
            Boundary, Call, Callable, Calls, Collects, Derived, Immediates, Job, JobOfNobody, Made,
            Microtasks, Moved, Register,
        };
        let of_promises = [Register, Derived, Job, JobOfNobody, Moved, Callable, Calls, Collects];
        [Call, Made, Boundary, Immediates, Microtasks]
            .into_iter()
            .chain(of_promises)
            .find(|&mark| mark as u16 == tag)
    }
}

/// A binary's places.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Places {
    /// Of the event loop.
    pub turns: Vec<Place>,
    /// Of promises; none if one of them is missing.
    pub promises: Vec<Place>,
    /// What is missing.
    pub missing: Vec<&'static str>,
}

/// Symbols of the event loop; all must be there but those that are marked. `AsyncReset` has a third argument up to 20.
/// `uv__stream_io` is where all that a stream can tell its program begins: bytes, an end, a connection that was
/// made, a write that is finished. `TryRunMicrotasks` is called only if there is a microtask to run.
const TURNS: &[(&str, Mark, bool)] = &[
    ("_ZN4node9AsyncWrap10AsyncResetEN2v85LocalINS1_6ObjectEEEd", Mark::Made, false),
    ("_ZN4node9AsyncWrap10AsyncResetEN2v85LocalINS1_6ObjectEEEdb", Mark::Made, false),
    ("_ZN4node11Environment9RunTimersEP10uv_timer_s", Mark::Boundary, true),
    ("_ZN4node11Environment14CheckImmediateEP10uv_check_s", Mark::Immediates, true),
    (
        "_ZN2v88internal9Execution16TryRunMicrotasksEPNS0_7IsolateEPNS0_14MicrotaskQueueE",
        Mark::Microtasks,
        true,
    ),
    ("uv__stream_io", Mark::Boundary, true),
    ("uv__async_io", Mark::Boundary, true),
    ("uv__server_io", Mark::Boundary, true),
    ("uv__poll_io", Mark::Boundary, false),
    ("uv__udp_io", Mark::Boundary, false),
    ("uv__signal_event", Mark::Boundary, false),
    ("uv__inotify_read", Mark::Boundary, false),
];

/// Symbols of promises and of the collectors; all must be there.
const PROMISES: &[(&str, Mark)] = &[
    ("Builtins_PerformPromiseThen", Mark::Register),
    (THEN, Mark::Derived),
    ("Builtins_PromiseFulfillReactionJob", Mark::Job),
    ("Builtins_PromiseRejectReactionJob", Mark::Job),
    ("Builtins_PromiseResolveThenableJob", Mark::JobOfNobody),
    (
        "_ZN2v88internal14MicrotaskQueue16EnqueueMicrotaskEPNS_7IsolateENS_5LocalINS_8FunctionEEE",
        Mark::Callable,
    ),
    (RUNS, Mark::Calls),
    (
        "_ZN2v88internal4Heap14CollectGarbageENS0_15AllocationSpaceENS0_23GarbageCollectionReasonENS_15GCCallbackFlagsE",
        Mark::Collects,
    ),
    ("_ZN2v88internal13GlobalHandles22UpdateListOfYoungNodesEv", Mark::Moved),
    ("_ZN2v88internal20MarkCompactCollector29UpdatePointersAfterEvacuationEv", Mark::Moved),
];

/// What they begin with: a binary has more than 100,000 others.
const PREFIXES: &[&[u8]] = &[
    b"uv__",
    b"Builtins_P",
    b"Builtins_RunMicrotasks",
    b"Builtins_Call_ReceiverIsNull",
    b"_ZN4node9AsyncWrap10AsyncReset",
    b"_ZN4node11Environment",
    b"_ZN2v88internal9Execution16TryRun",
    b"_ZN2v88internal14MicrotaskQueue16",
    b"_ZN2v88internal4Heap14CollectGarbage",
    b"_ZN2v88internal13GlobalHandles",
    b"_ZN2v88internal20MarkCompactCollector",
];

/// Watched at its returns.
const THEN: &str = "Builtins_PromisePrototypeThen";
/// Watched where it calls a function that was put among the microtasks, with [`CALLS`].
const RUNS: &str = "Builtins_RunMicrotasks";
/// What calls a function.
const CALLS: &str = "Builtins_Call_ReceiverIsNullOrUndefined";

/// All symbols that are looked for.
pub fn symbols() -> impl Iterator<Item = &'static str> {
    let turns = TURNS.iter().map(|(name, ..)| *name);
    turns.chain(PROMISES.iter().map(|(name, _)| *name)).chain([CALLS])
}

/// The places of a binary; none if it is not Node.
pub fn places(elf: &Elf) -> Option<Places> {
    let mut turns: Vec<Option<Symbol>> = vec![None; TURNS.len()];
    let mut promises: Vec<Option<Symbol>> = vec![None; PROMISES.len()];
    let mut calls = None;
    elf.symbols(&mut |name, symbol| {
        if !PREFIXES.iter().any(|prefix| name.starts_with(prefix)) {
            return true;
        }
        for (slot, (wanted, ..)) in turns.iter_mut().zip(TURNS) {
            if wanted.as_bytes() == name {
                *slot = Some(*symbol);
            }
        }
        for (slot, (wanted, _)) in promises.iter_mut().zip(PROMISES) {
            if wanted.as_bytes() == name {
                *slot = Some(*symbol);
            }
        }
        if name == CALLS.as_bytes() {
            calls = Some(symbol.address);
        }
        true
    });
    let mut all = Places::default();
    for (symbol, &(name, mark, needed)) in turns.iter().zip(TURNS) {
        match symbol.as_ref().and_then(|symbol| place(elf, symbol.address, mark)) {
            Some(place) => all.turns.push(place),
            None if needed => all.missing.push(name),
            None => {}
        }
    }
    if !all.turns.iter().any(|place| place.mark == Mark::Made) {
        all.missing.push("node::AsyncWrap::AsyncReset");
    }
    for (symbol, &(name, mark)) in promises.iter().zip(PROMISES) {
        let found = match symbol {
            None => Vec::new(),
            Some(symbol) if name == THEN => returns(elf, symbol),
            Some(symbol) if name == RUNS => {
                calls.and_then(|target| call_of_function(elf, symbol, target)).into_iter().collect()
            }
            Some(symbol) => place(elf, symbol.address, mark).into_iter().collect(),
        };
        if found.is_empty() {
            all.promises.clear();
            all.missing.push(name);
            break;
        }
        all.promises.extend(found);
    }
    (!all.turns.is_empty()).then_some(all)
}

/// Whether a missing symbol is one of promises, without which the event loop can be watched.
pub fn is_of_promises(missing: &str) -> bool {
    PROMISES.iter().any(|(name, _)| *name == missing)
}

fn place(elf: &Elf, address: u64, mark: Mark) -> Option<Place> {
    let bytes = elf.bytes_at(address, PROOF)?;
    Some(Place { address, mark, bytes })
}

/// Where a builtin that takes a varying number of arguments returns (V8's `CodeGenerator::AssembleReturn`, x64): at the `jg` over
/// `ret imm16` to the longer way out for more arguments than declared. The result is in its register there on both ways, and the
/// kernel steps over a jump without a second trap.
fn returns(elf: &Elf, symbol: &Symbol) -> Vec<Place> {
    let length = usize::try_from(symbol.size).unwrap_or(0);
    let length = if length == 0 { MAX_BUILTIN } else { length.min(MAX_BUILTIN) };
    let Some(code) = elf.bytes_at(symbol.address, length) else { return Vec::new() };
    let first = if symbol.size == 0 { 1 } else { usize::MAX };
    let places = ways_out(&code).take(first);
    places.filter_map(|at| place(elf, symbol.address + at as u64, Mark::Derived)).collect()
}

/// The offsets of those jumps.
fn ways_out(code: &[u8]) -> impl Iterator<Item = usize> {
    let windows = code.windows(7).enumerate();
    windows.filter(|(_, window)| matches!(window, [0x7f, 0x03, 0xc2, _, 0, 0x41, 0x5a])).map(|(at, _)| at)
}

/// Where the loop over microtasks calls a function that is one (V8's `MicrotaskQueueBuiltinsAssembler::RunSingleMicrotask`): the
/// one call of `target` with a receiver and no argument, `mov eax, 1` in the ten bytes before it; others are hooks of promises,
/// which get one. The function is in rdi.
fn call_of_function(elf: &Elf, symbol: &Symbol, target: u64) -> Option<Place> {
    let length = usize::try_from(symbol.size).ok().filter(|&size| size > 0)?.min(MAX_BUILTIN);
    let code = elf.bytes_at(symbol.address, length)?;
    let at = function_call(&code, symbol.address, target)?;
    place(elf, symbol.address + at as u64, Mark::Calls)
}

/// The offset of that call in code that stands at `address`.
fn function_call(code: &[u8], address: u64, target: u64) -> Option<usize> {
    let mut found = None;
    for (at, window) in code.windows(5).enumerate() {
        let [0xe8, distance @ ..] = window else { continue };
        let Ok(distance) = <[u8; 4]>::try_from(distance) else { continue };
        let next = address.wrapping_add(at as u64 + 5);
        if next.wrapping_add_signed(i32::from_le_bytes(distance).into()) != target {
            continue;
        }
        let before = code.get(at.saturating_sub(10)..at).unwrap_or_default();
        let no_argument = before.windows(5).any(|window| window == [0xb8, 1, 0, 0, 0]);
        if no_argument && found.replace(at).is_some() {
            return None;
        }
    }
    found
}

/// Bytes compared before a place is watched.
const PROOF: usize = 8;
/// The longest builtin that is looked through.
const MAX_BUILTIN: usize = 4096;

#[cfg(test)]
mod tests {
    use super::*;

    /// As in 20.20.2 and 24.21.0: `push; mov eax, ARGUMENTS; mov r11, rax; call`.
    fn call(arguments: u8, distance: i32) -> Vec<u8> {
        let mut code = vec![0x41, 0x50, 0xb8, arguments, 0, 0, 0, 0x49, 0x89, 0xc3, 0xe8];
        code.extend(distance.to_le_bytes());
        code
    }

    #[test]
    fn a_builtin_returns_at_the_jump_between_its_two_ways_out() {
        // As in 20.20.2: `pop rbp; cmp rcx, 3; jg; ret 24; pop r10; lea rsp, [rsp + rcx * 8]; push r10; ret`.
        let code = [
            0x5d, 0x48, 0x83, 0xf9, 3, 0x7f, 3, 0xc2, 24, 0, 0x41, 0x5a, 0x48, 0x8d, 0x24, 0xcc, 0x41, 0x52,
            0xc3,
        ];
        assert_eq!(ways_out(&code).collect::<Vec<_>>(), [5]);
        assert_eq!(ways_out(&code[6..]).count(), 0);
    }

    #[test]
    fn the_call_of_a_microtask_is_the_one_with_no_argument() {
        const HERE: u64 = 0x1000;
        const TARGET: u64 = 0x800;
        let to_target = |end: u64| i32::try_from(TARGET as i64 - (HERE + end) as i64).unwrap();
        let mut code = call(2, to_target(15));
        code.extend(call(1, to_target(30)));
        code.extend(call(1, 0x77));
        assert_eq!(function_call(&code, HERE, TARGET), Some(25));
        code.extend(call(1, to_target(60)));
        assert_eq!(function_call(&code, HERE, TARGET), None, "two of them");
        assert_eq!(function_call(&call(2, to_target(15)), HERE, TARGET), None);
        assert_eq!(function_call(&[0xe8, 1, 2], HERE, TARGET), None);
    }
}
