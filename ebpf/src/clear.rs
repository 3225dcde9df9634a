//! Plaintext of TLS libraries: what their calls read and write, of processes that have a plan for it.
//!
//! ```text
//!   entry ─▶ CLEAR_CALLS, by where the frame begins ─▶ return: how much ─▶ counted by session ─▶ record with the bytes
//! ```
//! Which socket it belongs to is decided in the agent, by the ClientHello's random bytes, which the session keeps. What cannot
//! be counted here makes every later position uncertain ([`TORN`]): a position must never be less than it is.

use core::ffi::c_void;
use core::hint::black_box;
use core::ptr::{addr_of, addr_of_mut, read_volatile};

use aya_ebpf::bindings::{BPF_RB_AVAIL_DATA, BPF_RB_FORCE_WAKEUP, BPF_RB_NO_WAKEUP};
use aya_ebpf::helpers::bpf_get_current_pid_tgid;
use aya_ebpf::helpers::generated::{
    bpf_ktime_get_ns, bpf_probe_read_user, bpf_ringbuf_query, bpf_ringbuf_reserve, bpf_ringbuf_submit,
};
use aya_ebpf::macros::map;
use aya_ebpf::maps::{Array, HashMap};
use spandrel_proto::counter::Counter;
use spandrel_proto::record::{
    FLAG_FIRST, FLAG_LAST, FLAG_LATE, FLAG_SEND, PARTY_CLIENT, PARTY_SERVER, PARTY_UNKNOWN, Plain, TAG_PLAIN,
};
use spandrel_proto::tls::{
    CLEAR_CALLS as CALLS, CLEAR_SESSIONS, ClearCall, ClearCount, ClearFrame, ClearSession, KIND_CLEAR,
    NOWHERE,
};
use spandrel_proto::walk::saved;

use crate::maps::{RECORDS, count, run};
use crate::memory::user;
use crate::process;

/// Calls that are under way.
#[map]
static CLEAR_CALLS: HashMap<ClearFrame, ClearCall> =
    HashMap::with_max_entries(CALLS, 1 /* BPF_F_NO_PREALLOC */);

/// Bytes that sessions have moved. The agent removes the entries.
#[map]
static CLEAR_COUNTS: HashMap<ClearSession, ClearCount> =
    HashMap::with_max_entries(CLEAR_SESSIONS, 1 /* BPF_F_NO_PREALLOC */);

/// 1 once bytes were moved that were not counted: of which session is not known, so from then on of all.
#[map]
static CLEAR_TORN: Array<u32> = Array::with_max_entries(1, 0);

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
    let pid = (bpf_get_current_pid_tgid() >> 32) as u32;
    if !has_plan(pid | library) {
        return;
    }
    count(Counter::ClearHits, 1);
    let frame = ClearFrame { stack: word(registers, saved::SP), pid, reserved: 0 };
    let call = ClearCall {
        session: word(registers, saved::DI),
        buffer: word(registers, saved::SI),
        count: if counts != 0 { word(registers, saved::CX) } else { 0 },
        // SAFETY: the helper takes nothing.
        began: unsafe { bpf_ktime_get_ns() },
        sends,
    };
    if CLEAR_CALLS.insert(frame, call, 0).is_err() {
        torn(Counter::ClearCallsFull);
    }
}

/// Such a call returns: its return address is off the stack.
#[inline(always)]
pub fn returned(registers: *const u8, library: u32) {
    let pid = (bpf_get_current_pid_tgid() >> 32) as u32;
    if !has_plan(pid | library) {
        return;
    }
    count(Counter::ClearHits, 1);
    let frame = ClearFrame { stack: word(registers, saved::SP) - 8, pid, reserved: 0 };
    let Some(call) = CLEAR_CALLS.get_ptr(frame) else { return };
    // SAFETY: the entry is in the map.
    let call = unsafe { *call };
    let _ = CLEAR_CALLS.remove(frame);
    let result = word(registers, saved::AX) as i32;
    if result <= 0 {
        return;
    }
    let moved = match call.count {
        0 => result as u64,
        place => match user::<u64>(place) {
            Some(moved) => moved,
            None => return torn(Counter::ClearUnreadable),
        },
    };
    if moved == 0 {
        return;
    }
    // No library moves as much at once.
    if moved >> 30 != 0 {
        return torn(Counter::ClearUnreadable);
    }
    // One that is not where the plan says is a second copy's of the library, and nobody knows it by that.
    match session(pid, library, call.session) {
        Some(session) => tell(&session, library, &call, moved as u32),
        None => count(Counter::ClearUnreadable, 1),
    }
}

#[inline(always)]
fn has_plan(key: u32) -> bool {
    // SAFETY: the entry is in the map.
    crate::tls::plan(key).is_some_and(|plan| unsafe { (*plan).kind } == KIND_CLEAR)
}

/// Bytes were moved that are not counted.
#[inline(always)]
fn torn(why: Counter) {
    count(why, 1);
    if let Some(torn) = CLEAR_TORN.get_ptr_mut(0) {
        // SAFETY: the entry is in the array.
        unsafe { torn.write_volatile(1) };
    }
}

#[inline(always)]
fn tell(session: &ClearSession, library: u32, call: &ClearCall, moved: u32) {
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
                torn(Counter::ClearSessionsFull);
            }
        }
    }
    // SAFETY: the entry is in the array.
    if CLEAR_TORN.get_ptr(0).is_none_or(|torn| unsafe { torn.read_volatile() != 0 }) {
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
fn session(pid: u32, library: u32, session: u64) -> Option<ClearSession> {
    let plan = crate::tls::plan(pid | library)?;
    // SAFETY: the entry is in the map.
    let (base, random, party, parties) =
        unsafe { ((*plan).random_base, (*plan).random, (*plan).party, (*plan).parties) };
    let base = match base {
        NOWHERE => session,
        base => user::<u64>(session + base as u64)?,
    };
    let random = user::<[u64; 4]>(base + random as u64)?;
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
