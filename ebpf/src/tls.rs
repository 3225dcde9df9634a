//! Sessions of TLS libraries: where they begin, and their secrets, once, for processes that have a plan.
//!
//! A session's address comes from a probe at its beginning or from the stack at a socket call. Whether it is one, and
//! whose bytes its secrets open, is decided in the agent, by content. Nothing here goes into the ring.

use core::ffi::c_void;
use core::ptr::{addr_of, addr_of_mut, read_volatile};

use aya_ebpf::bindings::BPF_NOEXIST;
use aya_ebpf::helpers::generated::bpf_probe_read_user;
use aya_ebpf::macros::map;
use aya_ebpf::maps::{Array, HashMap};
use spandrel_proto::call;
use spandrel_proto::counter::Counter;
use spandrel_proto::tls::{
    CALLS, Found, FoundKey, KIND_BLOCKS, KIND_SLICES, NOWHERE, PATHS, PENDING, PROCESSES, Path, Pending,
    Plan, SEARCHED, SESSIONS, SLOTS, STACK_WORDS, STACKS, Stack, TRIES, may_be_pointer,
};

use crate::maps::{add, count};
use crate::memory::{Registers, user};

/// Where things are in the sessions of a process, by thread group id. Written by the agent.
#[map]
static TLS_PLANS: HashMap<u32, Plan> = HashMap::with_max_entries(PROCESSES, 1 /* BPF_F_NO_PREALLOC */);

/// The plan of a process.
#[inline(always)]
pub fn plan(pid: u32) -> Option<*mut Plan> {
    TLS_PLANS.get_ptr_mut(pid)
}

/// Sessions that have begun, by thread group id. The agent removes the entries.
#[map]
static TLS_PENDING: HashMap<u32, Pending> =
    HashMap::with_max_entries(PROCESSES, 1 /* BPF_F_NO_PREALLOC */);

/// A process of which no session has begun.
#[map]
static TLS_NONE: Array<Pending> = Array::with_max_entries(1, 0);

/// Secrets on their way to the agent, by the random bytes of their ClientHello and their mark.
#[map]
static TLS_SECRETS: HashMap<FoundKey, Found> =
    HashMap::with_max_entries(SESSIONS, 1 /* BPF_F_NO_PREALLOC */);

/// Where a session is put together, one per CPU and way; the agent sets the number.
#[map]
static TLS_SCRATCH: Array<Found> = Array::with_max_entries(2, 0);

/// What stacks point to, by connection, on its way to the agent, which removes it.
#[map]
static TLS_STACKS: HashMap<u64, Stack> = HashMap::with_max_entries(STACKS, 1 /* BPF_F_NO_PREALLOC */);

/// Where that is put together, one per CPU and way; the agent sets the number.
#[map]
static TLS_STACK: Array<Stack> = Array::with_max_entries(2, 0);

/// A session has begun in this process.
#[inline(always)]
pub fn begun(pid: u32, session: u64) {
    let mut pending = TLS_PENDING.get_ptr_mut(pid);
    if pending.is_none() {
        let Some(none) = TLS_NONE.get_ptr(0) else { return };
        // SAFETY: the entry is in the array, and nobody writes to it.
        let none: &Pending = unsafe { &*none };
        // Another thread may have been faster.
        let _ = TLS_PENDING.insert(pid, none, BPF_NOEXIST as u64);
        pending = TLS_PENDING.get_ptr_mut(pid);
    }
    let Some(pending) = pending else { return };
    count(Counter::TlsSessions, 1);
    // SAFETY: the entry is in the map; the mask keeps the place within it.
    unsafe {
        let place = (add(addr_of_mut!((*pending).begun), 1) - 1) as usize & (PENDING - 1);
        (addr_of_mut!((*pending).tries) as *mut u8).add(place).write_volatile(0);
        (addr_of_mut!((*pending).sessions) as *mut u64).add(place).write_volatile(session);
    }
}

/// Looks for secrets at a socket call: in what the stack points to, and in the sessions that have begun. Returns
/// what to add to the number that [`may_seek`] judges. A global function, as `record`.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn tls_seek(index: u32, pid: u32, stack: u64, connection: u64, descriptor: u32) -> u32 {
    let Some(plan) = TLS_PLANS.get_ptr(pid) else { return PLANLESS };
    // A session that the stack has led to, and whose secrets are taken.
    let mut taken = 0u64;
    // SAFETY: the entries are in the maps.
    unsafe {
        if (*plan).kind == KIND_BLOCKS {
            for path in 0..PATHS as u32 {
                tls_take_blocks(index, pid, stack, connection, path);
            }
            if (*plan).sampled == 0 {
                return 1;
            }
            tls_sample(index, pid, stack, connection);
            // A search takes some calls to find what this stack may lead to.
            return PLANLESS;
        }
        for place in 0..SLOTS {
            let slot = read_volatile((addr_of!((*plan).slots) as *const u32).add(place));
            if slot == 0 {
                break;
            }
            let Some(session) = user::<u64>(stack + slot as u64) else { continue };
            if (*plan).kind == KIND_SLICES {
                if tls_is_of(session, descriptor)
                    && tls_take_slices(index, pid, session, connection, GUARDED) != 0
                {
                    return 1;
                }
                continue;
            }
            let Some(word) = user::<u64>(session + (*plan).guard as u64) else { continue };
            if word >= (*plan).guarded[0]
                && word < (*plan).guarded[1]
                && tls_take(index, pid, session, connection) == ALL
            {
                taken = session;
                break;
            }
        }
        if (*plan).kind == KIND_SLICES {
            if tls_search(index, pid, stack, connection, descriptor) != 0 {
                return 1;
            }
            tls_search(index, pid, stack, connection, NO_DESCRIPTOR);
            return 1;
        }
        let Some(pending) = TLS_PENDING.get_ptr_mut(pid) else { return 1 };
        if read_volatile(addr_of!((*pending).begun)) == 0 {
            return 1;
        }
        let mut added = 1;
        for place in 0..PENDING {
            let at = (addr_of_mut!((*pending).sessions) as *mut u64).add(place);
            let session = at.read_volatile();
            if session == 0 {
                continue;
            }
            if session == taken {
                // It has begun, so it is this socket's. What is on the stack and has not may be an earlier call's, and tells
                // nothing of this one.
                at.write_volatile(0);
                added = CALLS;
                continue;
            }
            let outcome = tls_take(index, pid, session, 0);
            let tries = (addr_of_mut!((*pending).tries) as *mut u8).add(place);
            let tried = tries.read_volatile() + (outcome == SOME) as u8;
            tries.write_volatile(tried);
            if outcome == ALL || tried >= TRIES {
                at.write_volatile(0);
            }
        }
        added
    }
}

/// Whether a socket's next call may look for secrets, by what its calls before have added: [`CALLS`] that did, and
/// [`MAX_PLANLESS`] of processes that had no plan. A plan may come some milliseconds after a program's first session.
#[inline(always)]
pub fn may_seek(sought: u32) -> bool {
    sought & (PLANLESS - 1) < CALLS && sought < MAX_PLANLESS * PLANLESS
}

/// Whether a call's bytes begin as a request of HTTP does: then the socket has no TLS, and no call of it looks for secrets, which
/// takes 10 to 20 µs. Not by responses: a proxy's answer to CONNECT precedes TLS. Ciphertext that is read begins so once in 2²⁹.
#[inline(always)]
pub fn begins_plain(registers: Registers) -> bool {
    // SAFETY: both are constants of `call`.
    let (number, buffer) = unsafe { (registers.word(call::ORIG_AX) as u32, registers.word(call::SI)) };
    call::buffer(number) == call::Buffer::Flat
        && user::<u32>(buffer).is_some_and(spandrel_proto::tls::is_request)
}

/// What a call of a process without a plan adds, or with one that is not complete.
const PLANLESS: u32 = 1 << 16;
/// More such calls, and the socket's process is none that has TLS.
const MAX_PLANLESS: u32 = 256;

/// What [`tls_take`] says: a master secret, which may be another session's yet, or all there will be.
const SOME: u32 = 1;
const ALL: u32 = 2;

/// Takes what there is of a session. A global function, as `record`.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn tls_take(index: u32, pid: u32, session: u64, connection: u64) -> u32 {
    let Some(plan) = TLS_PLANS.get_ptr(pid) else { return 0 };
    let Some(found) = TLS_SCRATCH.get_ptr_mut(index) else { return 0 };
    // SAFETY: map memory; each read is as long as its place.
    unsafe {
        let mut base = session;
        if (*plan).random_base != NOWHERE {
            let Some(pointer) = user::<u64>(session + (*plan).random_base as u64) else { return 0 };
            base = pointer;
        }
        let random = addr_of_mut!((*found).random) as *mut c_void;
        if bpf_probe_read_user(random, 32, (base + (*plan).random as u64) as *const c_void) != 0
            || read_volatile(random as *const u64) == 0
        {
            return 0;
        }
        let (mut both, mut one) = (true, false);
        for party in 0..2 {
            let offset = read_volatile((addr_of!((*plan).traffic) as *const u32).add(party));
            let to = (addr_of_mut!((*found).traffic) as *mut [u8; 64]).add(party);
            let there = copy(to as *mut c_void, 64, session, offset);
            both &= there;
            one |= there;
        }
        // The other is derived some calls later: with one alone its direction's first records would be taken for the handshake's.
        if one && !both {
            return 0;
        }
        let to = addr_of_mut!((*found).master) as *mut c_void;
        let master = match (*plan).master_base {
            NOWHERE => copy(to, 48, 0, NOWHERE),
            offset => copy(to, 48, user::<u64>(session + offset as u64).unwrap_or(0), (*plan).master),
        };
        if !both && !master {
            return 0;
        }
        addr_of_mut!((*found).connection).write_volatile(connection);
        addr_of_mut!((*found).pid).write_volatile(pid);
        hand_over(found);
        if both { ALL } else { SOME }
    }
}

/// Looks through the stack for a session whose secrets are slices, and notes where it was if it is certainly this
/// descriptor's. A global function, as
/// `record`.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn tls_search(index: u32, pid: u32, stack: u64, connection: u64, descriptor: u32) -> u32 {
    let Some(plan) = TLS_PLANS.get_ptr_mut(pid) else { return 0 };
    for step in 0..(SEARCHED.end - SEARCHED.start) / 8 {
        let place = SEARCHED.start + step * 8;
        let Some(session) = user::<u64>(stack + place as u64) else { return 0 };
        if !may_be_pointer(session) {
            continue;
        }
        let guarded = (descriptor != NO_DESCRIPTOR) as u32 * GUARDED;
        if guarded != 0 && !tls_is_of(session, descriptor) {
            continue;
        }
        if tls_take_slices(index, pid, session, connection, guarded) != 0 {
            if guarded == 0 {
                return SOME;
            }
            // SAFETY: the entry is in the map. A place that is noted twice costs a place.
            unsafe {
                for slot in 0..SLOTS {
                    let at = (addr_of_mut!((*plan).slots) as *mut u32).add(slot);
                    if at.read_volatile() == 0 {
                        at.write_volatile(place);
                        break;
                    }
                }
            }
            return SOME;
        }
    }
    0
}

/// Takes both slices, if that is what they are: a pointer and a length that secrets have. A global function, as
/// `record`.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn tls_take_slices(index: u32, pid: u32, session: u64, connection: u64, guarded: u32) -> u32 {
    let Some(plan) = TLS_PLANS.get_ptr(pid) else { return 0 };
    let Some(found) = TLS_SCRATCH.get_ptr_mut(index) else { return 0 };
    // SAFETY: map memory; each read is as long as its place.
    unsafe {
        for party in 0..2 {
            let offset = read_volatile((addr_of!((*plan).traffic) as *const u32).add(party));
            let Some([pointer, length, capacity]) = user::<[u64; 3]>(session + offset as u64) else {
                return 0;
            };
            let to = (addr_of_mut!((*found).traffic) as *mut [u8; 64]).add(party);
            for word in 0..8 {
                (to as *mut u64).add(word).write_volatile(0);
            }
            if capacity < length || capacity > 256 {
                return 0;
            }
            let there = match length {
                32 => copy(to as *mut c_void, 32, pointer, 0),
                48 => copy(to as *mut c_void, 48, pointer, 0),
                _ => false,
            };
            if !there {
                return 0;
            }
        }
        nameless(found, connection, (guarded != GUARDED) as u64);
        addr_of_mut!((*found).pid).write_volatile(pid);
        hand_over(found);
    }
    SOME
}

/// Takes what lies at the end of this path, if it is two blocks with as much used of each: whose it is, a record's tag must tell, since
/// stacks are full of what earlier calls have left there. A global function, as `record`.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn tls_take_blocks(index: u32, pid: u32, stack: u64, connection: u64, path: u32) -> u32 {
    let Some(plan) = TLS_PLANS.get_ptr(pid) else { return 0 };
    let Some(found) = TLS_SCRATCH.get_ptr_mut(index) else { return 0 };
    // SAFETY: map memory; the mask keeps the path within the plan, and each read is as long as its place.
    unsafe {
        let path = (addr_of!((*plan).paths) as *const Path).add(path as usize & (PATHS - 1));
        let (slot, step) = (read_volatile(addr_of!((*path).slot)), read_volatile(addr_of!((*path).step)));
        if slot == 0 {
            return 0;
        }
        let Some(mut at) = user::<u64>(stack + slot as u64) else { return 0 };
        if step != NOWHERE && may_be_pointer(at) {
            let Some(next) = user::<u64>(at + step as u64) else { return 0 };
            at = next;
        }
        if !may_be_pointer(at) {
            return 0;
        }
        at += read_volatile(addr_of!((*path).secrets)) as u64;
        // The length of one of them lies between the two, whether lengths stand before the bytes or behind them.
        let Some(used @ (32 | 48)) = user::<u64>(at + 64) else { return 0 };
        for block in 0..2 {
            let to = (addr_of_mut!((*found).traffic) as *mut [u8; 64]).add(block);
            let unused = (to as *const u64).add(core::hint::black_box(used >> 3) as usize & 7);
            if !copy(to as *mut c_void, 64, at, 72 * block as u32) || read_volatile(unused) != 0 {
                return 0;
            }
        }
        // While a session begins there is a handshake's secret before the two, and always that for exporting keys behind them.
        for (place, from) in [at.wrapping_sub(72), at + 144].into_iter().enumerate() {
            let to = (addr_of_mut!((*found).beside) as *mut [u8; 64]).add(place);
            copy(to as *mut c_void, 64, from, 0);
        }
        nameless(found, connection, SOME as u64);
        addr_of_mut!((*found).pid).write_volatile(pid);
        hand_over(found);
        // Nobody else overwrites it.
        for word in 0..16 {
            (addr_of_mut!((*found).beside) as *mut u64).add(word).write_volatile(0);
        }
    }
    SOME
}

/// Tells what this stack points to. A global function, as `record`.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn tls_sample(index: u32, pid: u32, stack: u64, connection: u64) -> u32 {
    let Some(sample) = TLS_STACK.get_ptr_mut(index) else { return 0 };
    // SAFETY: map memory; the helper writes as many bytes as there is room for.
    unsafe {
        let words = addr_of_mut!((*sample).words) as *mut u64;
        if bpf_probe_read_user(words as *mut c_void, STACK_WORDS as u32 * 8, stack as *const c_void) != 0 {
            return 0;
        }
        for place in 0..STACK_WORDS {
            if !may_be_pointer(read_volatile(words.add(place))) {
                words.add(place).write_volatile(0);
            }
        }
        addr_of_mut!((*sample).connection).write_volatile(connection);
        addr_of_mut!((*sample).pid).write_volatile(pid);
        let value: &Stack = &*sample;
        let _ = TLS_STACKS.insert(connection, value, 0);
    }
    0
}

/// Whether a `*tls.Conn` of Go lies over this descriptor: `Conn.conn` is an interface, whose word is a `*net.TCPConn`, whose
/// first word is a `*netFD`, which begins with a mutex of 16 bytes and `Sysfd`. Stacks of goroutines are full of what
/// earlier calls have left there.
#[inline(always)]
fn tls_is_of(session: u64, descriptor: u32) -> bool {
    let Some(connection) = user::<u64>(session + 8) else { return false };
    let Some(net) = user::<u64>(connection) else { return false };
    let Some(number) = user::<u64>(net + 16) else { return false };
    number == descriptor as u64
}

/// What [`tls_take_slices`] is told of a session that is certainly the call's.
const GUARDED: u32 = 1;
/// What [`tls_search`] is told to take whatever has the shape of a session.
const NO_DESCRIPTOR: u32 = u32::MAX;

/// Says of traffic secrets beside which no random bytes lie that they are this connection's, or may be.
///
/// # Safety
/// `found` must be map memory of this CPU.
#[inline(always)]
unsafe fn nameless(found: *mut Found, connection: u64, doubtful: u64) {
    // SAFETY: the caller's promise.
    unsafe {
        for word in 0..6 {
            (addr_of_mut!((*found).master) as *mut u64).add(word).write_volatile(0);
        }
        let random = addr_of_mut!((*found).random) as *mut u64;
        random.write_volatile(connection);
        // What is not certain must not take the place of what is.
        random.add(1).write_volatile(doubtful);
        for word in 2..4 {
            random.add(word).write_volatile(0);
        }
        addr_of_mut!((*found).connection).write_volatile(connection);
    }
}

/// Puts what was found where the agent takes it from.
///
/// # Safety
/// `found` must be map memory of this CPU.
#[inline(always)]
unsafe fn hand_over(found: *mut Found) {
    // SAFETY: the caller's promise; the mark stands behind the random bytes.
    unsafe {
        let first = |at: *mut u8| read_volatile(at as *const u64);
        let traffic = addr_of_mut!((*found).traffic) as *mut u8;
        let words = [first(traffic), first(traffic.add(64)), first(addr_of_mut!((*found).master) as *mut u8)];
        let mark = Found::mark_of(words, addr_of!((*found).connection).read_volatile());
        addr_of_mut!((*found).mark).write_volatile(mark);
        let key: &FoundKey = &*(addr_of!((*found).random) as *const FoundKey);
        let value: &Found = &*found;
        if TLS_SECRETS.insert(key, value, 0).is_err() {
            count(Counter::TlsSecretsFull, 1);
        }
    }
}

/// Reads so many bytes at an offset; whether they are there and do not begin with zeroes.
#[inline(always)]
unsafe fn copy(to: *mut c_void, length: u32, base: u64, offset: u32) -> bool {
    // SAFETY: the caller gives room for `length` bytes; the helper fills them with zeroes if it fails.
    unsafe {
        let from = if offset == NOWHERE || base == 0 { 0 } else { base + offset as u64 };
        bpf_probe_read_user(to, length, from as *const c_void) == 0 && read_volatile(to as *const u64) != 0
    }
}
