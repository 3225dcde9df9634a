//! Plaintext of TLS libraries: what their calls read and write, of processes that have a plan for it.
//!
//! ```text
//!   entry ─▶ CLEAR_CALLS, by where the frame begins ─▶ return: how much ─▶ counted by session ─▶ record with the bytes
//! ```
//! Which socket it belongs to is decided in the agent, by the ClientHello's random bytes, which the session keeps; Go's does not,
//! but refers to its socket. What cannot
//! be counted here makes every later position of its process uncertain ([`torn`]): a position must never be less than it is.

use core::ffi::c_void;
use core::hint::black_box;
use core::ptr::{addr_of, addr_of_mut, read_volatile};

use aya_ebpf::bindings::{BPF_RB_AVAIL_DATA, BPF_RB_FORCE_WAKEUP, BPF_RB_NO_WAKEUP};
use aya_ebpf::helpers::bpf_get_current_pid_tgid;
use aya_ebpf::helpers::generated::{
    bpf_ktime_get_ns, bpf_probe_read_user, bpf_ringbuf_query, bpf_ringbuf_reserve, bpf_ringbuf_submit,
};
use aya_ebpf::macros::map;
use aya_ebpf::maps::HashMap;
use spandrel_proto::counter::Counter;
use spandrel_proto::record::{
    FLAG_FIRST, FLAG_LAST, FLAG_LATE, FLAG_SEND, PARTY_CLIENT, PARTY_SERVER, PARTY_UNKNOWN, Plain, TAG_PLAIN,
};
use spandrel_proto::tls::{
    CLEAR_CALLS as CALLS, CLEAR_SESSIONS, ClearCall, ClearCount, ClearFrame, ClearSession, KIND_CLEAR,
    NOWHERE, OF_GO, Plan,
};
use spandrel_proto::walk::saved;

use crate::maps::{RECORDS, count, run};
use crate::memory::user;
use crate::{process, socket};

/// Calls that are under way.
#[map]
static CLEAR_CALLS: HashMap<ClearFrame, ClearCall> =
    HashMap::with_max_entries(CALLS, 1 /* BPF_F_NO_PREALLOC */);

/// Bytes that sessions have moved. The agent removes the entries.
#[map]
static CLEAR_COUNTS: HashMap<ClearSession, ClearCount> =
    HashMap::with_max_entries(CLEAR_SESSIONS, 1 /* BPF_F_NO_PREALLOC */);

/// Pieces of one call at the most: as much as the capture limit takes.
const PIECES: u32 = 5;
/// Bytes of the longest piece.
const LONGEST: u32 = 16_383;

/// A word of the registers at a probe.
#[inline(always)]
fn word(registers: *const u8, index: u32) -> u64 {
    // SAFETY: the context of a uprobe is the saved registers, and the index is one of `saved`.
    unsafe { read_volatile((registers as *const u64).add(index as usize)) }
}

/// A call of a library's begins: the session, the buffer; its fourth argument says where it will put how many bytes it moved, if
/// `counts`.
#[inline(always)]
pub fn entered(registers: *const u8, library: u32, sends: u64, counts: u64) {
    let Some((pid, plan)) = hit(library) else { return };
    let frame = ClearFrame { stack: word(registers, saved::SP), pid, depth: 0 };
    let call = ClearCall {
        session: word(registers, saved::DI),
        buffer: word(registers, saved::SI),
        count: if counts != 0 { word(registers, saved::CX) } else { 0 },
        // SAFETY: the helper takes nothing.
        began: unsafe { bpf_ktime_get_ns() },
        sends,
        top: 0,
    };
    if CLEAR_CALLS.insert(frame, call, 0).is_err() {
        torn(plan, Counter::ClearCallsFull);
    }
}

/// Such a call returns: its return address is off the stack.
#[inline(always)]
pub fn returned(registers: *const u8, library: u32) {
    let Some((pid, plan)) = hit(library) else { return };
    let frame = ClearFrame { stack: word(registers, saved::SP) - 8, pid, depth: 0 };
    let Some(call) = take(&frame) else { return };
    let result = word(registers, saved::AX) as i32;
    if result <= 0 {
        return;
    }
    match call.count {
        0 => moved(pid, library, plan, &call, result as u64),
        place => match user::<u64>(place) {
            Some(bytes) => moved(pid, library, plan, &call, bytes),
            None => torn(plan, Counter::ClearUnreadable),
        },
    }
}

/// A method of a `*tls.Conn` of Go begins: the receiver, the buffer (Go's register ABI, since 1.17). Where its stack is too small
/// it begins twice, in the same place.
#[inline(always)]
pub fn go_entered(registers: *const u8, sends: u64) {
    let Some((pid, plan)) = hit(OF_GO) else { return };
    let Some((frame, top)) = go_frame(registers, pid) else { return torn(plan, Counter::ClearUnreadable) };
    let buffer = word(registers, saved::BX);
    let call = ClearCall {
        session: word(registers, saved::AX),
        buffer,
        count: 0,
        // SAFETY: the helper takes nothing.
        began: unsafe { bpf_ktime_get_ns() },
        sends,
        top: if buffer > word(registers, saved::SP) && buffer < top { top } else { 0 },
    };
    if CLEAR_CALLS.insert(frame, call, 0).is_err() {
        torn(plan, Counter::ClearCallsFull);
    }
}

/// Such a method is about to return.
#[inline(always)]
pub fn go_returned(registers: *const u8) {
    let Some((pid, plan)) = hit(OF_GO) else { return };
    let Some((frame, top)) = go_frame(registers, pid) else { return torn(plan, Counter::ClearUnreadable) };
    let Some(mut call) = take(&frame) else { return };
    if call.top != 0 {
        // What lies in the stack is as far from its end as before.
        call.buffer = top.wrapping_sub(call.top - call.buffer);
    }
    let result = word(registers, saved::AX) as i64;
    if result > 0 {
        moved(pid, OF_GO, plan, &call, result as u64);
    }
}

/// Which call it is, by its goroutine (r14), and where that one's stack ends: `g` begins with `stack.lo` and `stack.hi`.
#[inline(always)]
fn go_frame(registers: *const u8, pid: u32) -> Option<(ClearFrame, u64)> {
    let goroutine = word(registers, saved::R14);
    let top = user::<u64>(goroutine + 8)?;
    let depth = top.wrapping_sub(word(registers, saved::SP)) >> 3;
    Some((ClearFrame { stack: goroutine, pid, depth: depth as u32 }, top))
}

/// A probe was hit: by which process, and its plan, if it has one for this.
#[inline(always)]
fn hit(library: u32) -> Option<(u32, *mut Plan)> {
    let pid = (bpf_get_current_pid_tgid() >> 32) as u32;
    let plan = crate::tls::plan(pid | library)?;
    // SAFETY: the entry is in the map.
    if unsafe { (*plan).kind } != KIND_CLEAR {
        return None;
    }
    count(Counter::ClearHits, 1);
    Some((pid, plan))
}

/// Takes a call out that has returned.
#[inline(always)]
fn take(frame: &ClearFrame) -> Option<ClearCall> {
    // SAFETY: the entry is in the map.
    let call = unsafe { *CLEAR_CALLS.get_ptr(frame)? };
    let _ = CLEAR_CALLS.remove(frame);
    Some(call)
}

/// A call has moved so many bytes.
#[inline(always)]
fn moved(pid: u32, library: u32, plan: *mut Plan, call: &ClearCall, bytes: u64) {
    if bytes == 0 {
        return;
    }
    // No library moves as much at once.
    if bytes >> 30 != 0 {
        return torn(plan, Counter::ClearUnreadable);
    }
    // One that is not where the plan says is a second copy's of the library, and nobody knows it by that.
    match session(pid, plan, call.session) {
        Some(session) => tell(&session, library, plan, call, bytes as u32),
        None => count(Counter::ClearUnreadable, 1),
    }
}

/// Bytes of a process were moved that are not counted.
#[inline(always)]
fn torn(plan: *mut Plan, why: Counter) {
    count(why, 1);
    // SAFETY: the entry is in the map.
    unsafe { addr_of_mut!((*plan).torn).write_volatile(1) };
}

#[inline(always)]
fn tell(session: &ClearSession, library: u32, plan: *mut Plan, call: &ClearCall, moved: u32) {
    let way = (call.sends & 1) as usize;
    let mut flags = if way == 1 { FLAG_SEND } else { 0 };
    let mut place = 0;
    match CLEAR_COUNTS.get_ptr_mut(*session) {
        // SAFETY: the entry is in the map; a session's calls in one direction come one after the other.
        Some(counted) => unsafe {
            let at = (addr_of_mut!((*counted).moved) as *mut u64).add(way);
            place = at.read_volatile();
            at.write_volatile(place + moved as u64);
        },
        None => {
            let moved = moved as u64;
            let counted = ClearCount { moved: if way == 1 { [0, moved] } else { [moved, 0] } };
            if CLEAR_COUNTS.insert(*session, counted, 0).is_err() {
                torn(plan, Counter::ClearSessionsFull);
            }
        }
    }
    // SAFETY: the entry is in the map.
    if unsafe { addr_of!((*plan).torn).read_volatile() } != 0 {
        flags |= FLAG_LATE;
    }
    let limit = run!(capture_limit);
    let most = if moved < limit { moved } else { limit };
    let mut skip = 0u32;
    for number in 0..PIECES {
        let left = most - skip;
        let length = if left < LONGEST { left } else { LONGEST };
        let mut marks = flags;
        if number == 0 {
            marks |= FLAG_FIRST;
        }
        if skip + length >= most || number + 1 == PIECES {
            marks |= FLAG_LAST;
        }
        let told = Told { session, library, call, place, total: moved, skip, length, flags: marks };
        let written = match length {
            0..512 => piece::<512>(&told),
            512..4096 => piece::<4096>(&told),
            _ => piece::<16384>(&told),
        };
        if !written {
            count(Counter::ClearRingFull, 1);
            count(Counter::RecordsRingFull, 1);
        }
        skip += length;
        if marks & FLAG_LAST != 0 {
            break;
        }
    }
}

/// A piece of a call, as it is told.
struct Told<'a> {
    session: &'a ClearSession,
    library: u32,
    call: &'a ClearCall,
    place: u64,
    total: u32,
    skip: u32,
    length: u32,
    flags: u16,
}

/// Writes a piece of less than `ROOM` bytes, a power of two.
#[inline(always)]
fn piece<const ROOM: usize>(told: &Told<'_>) -> bool {
    const FIXED: usize = size_of::<Plain>();
    let ring = addr_of!(RECORDS) as *mut c_void;
    let length = black_box(told.length) & (ROOM as u32 - 1);
    // SAFETY: what was reserved is as long as what is written; the helper survives any address.
    unsafe {
        let record = bpf_ringbuf_reserve(ring, (FIXED + ROOM) as u64, 0) as *mut Plain;
        if record.is_null() {
            return false;
        }
        let from = told.call.buffer + told.skip as u64;
        let to = (record as *mut u8).add(FIXED) as *mut c_void;
        let captured = match bpf_probe_read_user(to, length, from as *const c_void) {
            0 => length,
            _ => {
                count(Counter::ClearUnreadable, 1);
                0
            }
        };
        addr_of_mut!((*record).header).write(process::header(
            TAG_PLAIN,
            told.flags,
            FIXED + captured as usize,
        ));
        (addr_of_mut!((*record).random) as *mut [u64; 4]).write(told.session.random);
        addr_of_mut!((*record).place).write(told.place);
        addr_of_mut!((*record).began).write(told.call.began);
        addr_of_mut!((*record).total).write(told.total);
        addr_of_mut!((*record).skip).write(told.skip);
        addr_of_mut!((*record).captured).write(captured);
        addr_of_mut!((*record).party).write(told.session.party | told.library);
        let waiting = bpf_ringbuf_query(ring, BPF_RB_AVAIL_DATA as u64);
        let half = (run!(ring_bytes) / 2) as u64;
        let wake = if waiting > half { BPF_RB_FORCE_WAKEUP } else { BPF_RB_NO_WAKEUP };
        bpf_ringbuf_submit(record as *mut c_void, wake as u64);
        count(Counter::Records, 1);
        count(Counter::ClearCaptured, captured as u64);
    }
    true
}

/// Which session it is, of which party: none if that cannot be read.
#[inline(always)]
fn session(pid: u32, plan: *mut Plan, session: u64) -> Option<ClearSession> {
    // SAFETY: the entry is in the map.
    let (base, random, guard, party, parties) =
        unsafe { ((*plan).random_base, (*plan).random, (*plan).guard, (*plan).party, (*plan).parties) };
    let random = match (base, random) {
        (_, NOWHERE) => [go_connection(session, guard)?, 0, 0, 0],
        (NOWHERE, random) => user::<[u64; 4]>(session + random as u64)?,
        (base, random) => user::<[u64; 4]>(user::<u64>(session + base as u64)? + random as u64)?,
    };
    if random[0] == 0 {
        return None;
    }
    let party = match party {
        NOWHERE => PARTY_UNKNOWN,
        party => match user::<u32>(session + party as u64)? {
            client if client == parties[0] => PARTY_CLIENT,
            server if server == parties[1] => PARTY_SERVER,
            _ => PARTY_UNKNOWN,
        },
    };
    Some(ClearSession { random, pid, party })
}

/// The connection that a `*tls.Conn` of Go lies over: `Conn.conn` is an interface, whose word is a `*net.TCPConn`, whose first
/// word is a `*netFD`, which begins with a mutex of 16 bytes and `Sysfd`. What else implements `net.Conn` has something else
/// there; a `netFD` it is if it has, at `guard`, what the runtime polls it by, which begins with a link and the same descriptor.
#[inline(always)]
fn go_connection(session: u64, guard: u32) -> Option<u64> {
    let connection = user::<u64>(session + 8)?;
    let net = user::<u64>(connection)?;
    let descriptor = user::<u64>(net + 16)?;
    if descriptor >> 31 != 0 {
        return None;
    }
    // SAFETY: a probe is hit in process context.
    let id = socket::known(unsafe { socket::of_descriptor(descriptor as u32) }?)?;
    // Afterwards: it is taken from the poller before its descriptor can become another's.
    let polled = user::<u64>(net + guard as u64)?;
    if polled != 0 && user::<u64>(polled + 8)? == descriptor { Some(id) } else { None }
}
