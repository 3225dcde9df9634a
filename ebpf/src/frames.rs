//! The policies *frames* and *records*: a call's bytes but for the payload of DATA (`spandrel_proto::frames` says what that
//! means), or but for records of a long message (`spandrel_proto::records`).
//!
//! ```text
//!   begin   what is known of this direction at this call: followed, left out whole, tracked, nothing
//!   follow  windows of the call, each gathered, stepped through, and written as one piece
//!   track   the same without writing: the call was recorded whole, and its end is a place that may be confirmed
//!   meet    the first bytes of a connection that was born here: is this HTTP/2?
//! ```
//! Where its bounds are hit, or a byte cannot be read, the direction is *lost*: that is counted and shown by the record, and
//! nothing is left out until the agent names a boundary. All of it are global functions, as `transferred::record`.

use core::ptr::{addr_of, addr_of_mut, read_unaligned};

use aya_ebpf::macros::map;
use aya_ebpf::maps::{Array, LruHashMap};
use spandrel_proto::counter::Counter;
use spandrel_proto::frames::{
    BLOCKS, FRAMING_HTTP2, FRAMING_TLS, Follower, Found, HEADER, MODE_ASSUMED, MODE_FIRST, MODE_KNOWN,
    MODE_LOST, PEEK, STEPS, WINDOWS, step,
};
use spandrel_proto::policy::{BLOCK, Policy};
use spandrel_proto::record::{FLAG_FIRST, FLAG_LAST, FLAG_SEND, REST_FRAMES, REST_NOTHING, REST_SILENT};
use spandrel_proto::records;

use crate::gather::gather;
use crate::maps::{self, count};
use crate::transferred::{emit, leave};

/// Followed directions, by connection and way. One that is forgotten here is lost, which is honest.
#[map]
static FOLLOWERS: LruHashMap<u64, Follower> = LruHashMap::with_max_entries(32768, 0);

/// What is done with a call is found out here: one per CPU and way, as the scratch space; the agent sets the number.
#[map]
static FOLLOWING: Array<Following> = Array::with_max_entries(2, 0);

/// A call that is being followed.
#[repr(C)]
struct Following {
    follower: Follower,
    /// How far in the call.
    at: u32,
    /// Bytes of the call.
    total: u32,
    /// Bytes of the next window.
    window: u32,
    /// Bytes gathered for the current one.
    filled: u32,
    /// How far in it.
    place: u32,
    /// Whether the payload from there on is left out.
    cut: u32,
    /// Whether pieces are written.
    writes: u32,
    /// Whether one was.
    wrote: u32,
    /// Bytes that were left out.
    omitted: u32,
    /// Why no more came: a `REST_` constant.
    rest: u32,
    /// Windows that were more than a look at what follows a payload.
    blocks: u32,
    /// Of records: the position before which bodies must end to be left out.
    until: u32,
}

/// Nothing is known: as any other call.
pub const PLAIN: u32 = 0;
/// [`follow`] writes what is wanted.
pub const FOLLOWED: u32 = 1;
/// All of it is payload that nobody wants.
pub const SILENT: u32 = 2;
/// As any other call, and then [`track`].
pub const TRACKED: u32 = 3;

#[inline(always)]
fn following(index: u32) -> Option<*mut Following> {
    FOLLOWING.get_ptr_mut(index)
}

#[inline(always)]
fn key(connection: u64, receives: bool) -> u64 {
    connection << 1 | receives as u64
}

/// Writes the follower of a call back to where it is kept.
#[inline(always)]
unsafe fn keep(key: u64, follower: *mut Follower) -> bool {
    // SAFETY: both are map memory.
    unsafe {
        if let Some(kept) = FOLLOWERS.get_ptr_mut(key) {
            copy(kept, follower);
            return true;
        }
        // By reference: by value it would be copied to the stack.
        let follower: &Follower = &*follower;
        FOLLOWERS.insert(key, follower, 0).is_ok()
    }
}

#[inline(always)]
unsafe fn copy(to: *mut Follower, from: *const Follower) {
    const WORDS: usize = size_of::<Follower>() / 8;
    // SAFETY: the caller's promise: map memory of this size, aligned to 8.
    unsafe {
        for word in 0..WORDS {
            (to as *mut u64).add(word).write_volatile((from as *const u64).add(word).read_volatile());
        }
    }
}

/// At the first byte of a call of `total` bytes.
///
/// # Safety
/// `call` must be map memory.
#[inline(always)]
unsafe fn start(call: *mut Following, total: u32) {
    // SAFETY: the caller's promise.
    unsafe {
        addr_of_mut!((*call).at).write_volatile(0);
        addr_of_mut!((*call).total).write_volatile(total);
        addr_of_mut!((*call).window).write_volatile(BLOCK);
        addr_of_mut!((*call).omitted).write_volatile(0);
        addr_of_mut!((*call).blocks).write_volatile(0);
    }
}

/// Finds out what to do with the call that is described in the scratch space. `marks`: bit 0 it receives, bit 1 it moved the
/// first bytes that were seen of its direction. `word`: its policy.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn frames_begin(index: u32, total: u32, word: u64, marks: u32) -> u32 {
    let (Some(scratch), Some(call)) = (maps::scratch(index), following(index)) else { return PLAIN };
    // SAFETY: both are map memory.
    unsafe {
        let key = key((*scratch).data.socket.connection, marks & 1 != 0);
        let position = (*scratch).progress.position;
        let follower = addr_of_mut!((*call).follower);
        match FOLLOWERS.get_ptr_mut(key) {
            Some(kept) => copy(follower, kept),
            None => (*follower).begin(MODE_LOST, position, 0),
        }
        start(call, total);
        addr_of_mut!((*call).writes).write_volatile(1);
        addr_of_mut!((*call).wrote).write_volatile(0);
        let mode = addr_of!((*follower).mode).read_volatile();
        if mode == MODE_FIRST && marks & 2 != 0 {
            (*follower).begin(MODE_KNOWN, position, 0);
        } else if mode != MODE_LOST && (*follower).position != position {
            if mode == MODE_KNOWN {
                count(Counter::FramesLost, 1);
            }
            (*follower).mode = MODE_LOST;
        }
        let policy = Policy::decode(word);
        match policy {
            Policy::Heads if (*follower).framing == FRAMING_HTTP2 => {}
            Policy::Records(until) => {
                addr_of_mut!((*call).until).write_volatile(until);
                if (*follower).framing != FRAMING_TLS {
                    (*follower).mode = MODE_LOST;
                }
            }
            Policy::Frames(named) => {
                if (*follower).framing != FRAMING_HTTP2 {
                    (*follower).begin(MODE_LOST, position, 0);
                }
                if (*follower).mode != MODE_KNOWN {
                    let ahead = named.wrapping_sub(position);
                    if (*follower).mode == MODE_ASSUMED && (*follower).assumed == named {
                        (*follower).mode = MODE_KNOWN;
                        (*follower).silent = 0;
                    } else if ahead <= total {
                        (*follower).begin(MODE_KNOWN, position, ahead);
                    } else if (*follower).mode != MODE_ASSUMED
                        || named.wrapping_sub((*follower).assumed) < AHEAD
                    {
                        // The agent is past it and did not confirm it.
                        (*follower).begin(MODE_ASSUMED, position, 0);
                        (*follower).assumed = position;
                    }
                }
            }
            _ => (*follower).mode = MODE_LOST,
        }
        let mode = addr_of!((*follower).mode).read_volatile();
        let how = if mode == MODE_KNOWN {
            if (*follower).omits(total) == total {
                (*follower).omit(total);
                (*follower).position = position.wrapping_add(total);
                SILENT
            } else {
                FOLLOWED
            }
        } else if mode == MODE_ASSUMED {
            TRACKED
        } else {
            PLAIN
        };
        if how != FOLLOWED && !keep(key, follower) {
            return PLAIN;
        }
        how
    }
}

/// Writes what is wanted of the call. Returns how many records of the socket are now lost in a row.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn frames_follow(index: u32) -> u32 {
    let (Some(scratch), Some(call)) = (maps::scratch(index), following(index)) else { return 0 };
    let outcome = walk_windows(index);
    // SAFETY: both are map memory.
    unsafe {
        let data = addr_of_mut!((*scratch).data);
        let receives = (*data).header.flags & FLAG_SEND == 0;
        let follower = addr_of_mut!((*call).follower);
        (*follower).position = (*scratch).progress.position.wrapping_add((*call).total);
        // What was left out at the end of the call stands in its last record.
        (*follower).silent = 0;
        count(Counter::BytesSilent, (*call).omitted as u64);
        if outcome != OVER {
            (*follower).mode = MODE_LOST;
            count(Counter::FramesLost, 1);
            let rest = if (*call).rest == REST_NOTHING { REST_FRAMES } else { (*call).rest };
            let first = if (*call).wrote == 0 { FLAG_FIRST } else { 0 };
            emit(index, 0, (*call).at, 0, (first | FLAG_LAST) as u32 | rest << 16);
            leave(&*data, (*call).at, rest);
        }
        keep(key((*data).socket.connection, receives), follower);
        (*data).header.lost
    }
}

/// Steps through a call that was recorded whole.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn frames_track(index: u32) -> u32 {
    let (Some(scratch), Some(call)) = (maps::scratch(index), following(index)) else { return 0 };
    // SAFETY: both are map memory.
    unsafe {
        addr_of_mut!((*call).writes).write_volatile(0);
        let outcome = walk_windows(index);
        let data = addr_of!((*scratch).data);
        let follower = addr_of_mut!((*call).follower);
        (*follower).position = (*scratch).progress.position.wrapping_add((*call).total);
        (*follower).silent = 0;
        if outcome != OVER {
            (*follower).mode = MODE_LOST;
        }
        keep(key((*data).socket.connection, (*data).header.flags & FLAG_SEND == 0), follower);
    }
    0
}

/// The first bytes of a connection that was born here, which were just recorded: whether they are HTTP/2's, so that
/// [`frames_track`] is to step through them; or of a call of a connection whose records are to be followed: whether a record
/// begins there. (In the middle of one, one call in a hundred million looks like that; then the next header does not.) It does not call that itself: the stacks of all functions in a chain of
/// calls have 512 bytes together. `marks` as for [`frames_begin`].
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn frames_meet(index: u32, total: u32, marks: u32) -> u32 {
    let (Some(scratch), Some(call)) = (maps::scratch(index), following(index)) else { return 0 };
    // SAFETY: both are map memory; `filled` bytes of this call are there.
    unsafe {
        let least = if marks & MARK_RECORDS == 0 { HEADER } else { records::HEADER };
        if (*scratch).progress.filled < least {
            return 0;
        }
        let bytes = addr_of!((*scratch).bytes) as *const u8;
        let word = |at: usize| read_unaligned(bytes.add(at) as *const u64);
        let connection = (*scratch).data.socket.connection;
        let position = (*scratch).progress.position;
        let receives = marks & 1 != 0;
        let follower = addr_of_mut!((*call).follower);
        if marks & MARK_RECORDS != 0 {
            if !records::may_begin(word(0)) {
                return 0;
            }
            (*follower).begin(MODE_KNOWN, position, 0);
            (*follower).framing = FRAMING_TLS;
            start(call, total);
            return 1;
        }
        let other = FOLLOWERS.get_ptr_mut(key(connection, !receives));
        if (*scratch).progress.filled >= PREFACE
            && word(0) == u64::from_ne_bytes(*b"PRI * HT")
            && word(8) == u64::from_ne_bytes(*b"TP/2.0\r\n")
            && word(16) == u64::from_ne_bytes(*b"\r\nSM\r\n\r\n")
        {
            match other {
                Some(other) => {
                    if (*other).mode == MODE_ASSUMED {
                        (*other).mode = MODE_KNOWN;
                    }
                }
                None => {
                    (*follower).begin(MODE_FIRST, 0, 0);
                    keep(key(connection, !receives), follower);
                }
            }
            (*follower).begin(MODE_KNOWN, position, PREFACE);
        } else if word(0) as u8 == 0 && word(0) >> 24 & 0xffff == 4 && word(1) >> 32 == 0 {
            // A first SETTINGS frame, no acknowledgement, of stream 0: a server may write it before it reads the preface.
            (*follower).begin(MODE_ASSUMED, position, 0);
            (*follower).assumed = position;
        } else {
            return 0;
        }
        start(call, total);
    }
    1
}

/// Among the marks of [`frames_meet`]: records are looked for.
pub const MARK_RECORDS: u32 = 4;

/// So far ahead a position is ahead, and not behind (modulo 2³²).
const AHEAD: u32 = 1 << 31;

/// Bytes of a client's preface (RFC 9113, section 3.4).
const PREFACE: u32 = 24;

/// What [`frames_window`] says: the call goes on, it is over, or nothing more can be followed.
const ON: u32 = 0;
const OVER: u32 = 1;
const LOST: u32 = 2;

#[inline(always)]
fn walk_windows(index: u32) -> u32 {
    let mut outcome = ON;
    for _ in 0..WINDOWS {
        outcome = frames_window(index);
        if outcome != ON {
            break;
        }
    }
    outcome
}

/// Gathers the next window of the call, steps through it and writes what is kept of it.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn frames_window(index: u32) -> u32 {
    let (Some(scratch), Some(call)) = (maps::scratch(index), following(index)) else { return LOST };
    // SAFETY: both are map memory.
    unsafe {
        let total = (*call).total;
        let left = total.wrapping_sub((*call).at);
        let omitted = (*call).follower.omits(left);
        (*call).follower.omit(omitted);
        (*call).omitted = (*call).omitted.wrapping_add(omitted);
        (*call).at = (*call).at.wrapping_add(omitted);
        (*call).rest = REST_NOTHING;
        let at = (*call).at;
        if omitted >= left {
            return OVER;
        }
        let left = left - omitted;
        let window = (*call).window;
        if window == BLOCK {
            (*call).blocks = (*call).blocks.wrapping_add(1);
            if (*call).blocks > BLOCKS {
                return LOST;
            }
        }
        let (filled, rest) = gather(index, scratch, at, if left < window { left } else { window });
        (*call).rest = rest;
        (*call).filled = filled;
        (*call).place = 0;
        (*call).cut = 0;
        for _ in 0..STEPS {
            if frames_step(index) != 0 {
                break;
            }
        }
        let kept = (*call).place;
        let cut = (*call).cut != 0;
        let stuck = !cut && (kept < (*call).filled || (*call).rest != REST_NOTHING);
        (*call).window = if cut { PEEK } else { BLOCK };
        let end = at.wrapping_add(kept);
        // The last piece says that it is; if the call ends otherwise, `frames_follow` says so.
        let ends = !stuck && (*call).follower.omits_all(total.wrapping_sub(end));
        if (*call).writes != 0 && (kept > 0 || ends) {
            let mut marks = if (*call).wrote == 0 { FLAG_FIRST } else { 0 };
            let mut rest = REST_NOTHING;
            if ends {
                marks |= FLAG_LAST;
                if end < total {
                    rest = REST_SILENT;
                }
            }
            let silent = (*call).follower.silent;
            addr_of_mut!((*scratch).progress.before).write_volatile(silent & 0x00ff_ffff);
            (*call).follower.silent = 0;
            (*call).wrote = 1;
            emit(index, 0, at, kept, marks as u32 | rest << 16);
        }
        (*call).at = end;
        if stuck {
            LOST
        } else if end >= total {
            OVER
        } else {
            ON
        }
    }
}

/// One step through the gathered window; not 0 once there is nothing more to step through, be it that nothing here can be a
/// header, which leaves the window unfinished.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn frames_step(index: u32) -> u32 {
    let (Some(scratch), Some(call)) = (maps::scratch(index), following(index)) else { return 1 };
    // SAFETY: both are map memory; the mask keeps the eight bytes within the bytes.
    unsafe {
        let (place, filled) = ((*call).place, (*call).filled);
        if place >= filled {
            return 1;
        }
        let bytes = addr_of!((*scratch).bytes) as *const u8;
        let at = core::hint::black_box(place) & (2 * BLOCK - 1);
        let word = read_unaligned(bytes.add(at as usize) as *const u64);
        let long = (*call).total > BLOCK;
        let follower = &mut (*call).follower;
        let (next, found) = if follower.framing == FRAMING_TLS {
            let here = (*scratch).progress.position.wrapping_add((*call).at).wrapping_add(place);
            records::step(follower, place, filled, word, (*call).until.wrapping_sub(here), long)
        } else {
            step(follower, place, filled, word as u32, long)
        };
        (*call).place = next;
        if found == Found::Cut {
            (*call).cut = 1;
        }
        if found != Found::More {
            return 1;
        }
    }
    0
}
