//! The bytes of a call, from where the program keeps them into scratch space.
//!
//! It reads and never faults a page in; what is not there is a gap that the record names.

use core::ffi::c_void;
use core::ptr::{addr_of, addr_of_mut};

use aya_ebpf::helpers::generated::bpf_probe_read_user;
use spandrel_proto::call::{self, Buffer};
use spandrel_proto::record::{REST_NOTHING, REST_UNREADABLE, REST_UNSEEN, REST_VECTOR};

use crate::maps::{self, GATHERED, Progress, Scratch, through};
use crate::memory::{Registers, user};

/// Pieces of a vector that are looked at: gRPC's C core writes up to 260 at once (`MAX_WRITE_IOVEC`, its `tcp_posix.cc`).
const VECTOR: u32 = 264;

/// Pieces that stand for "there is no buffer that can be read", which no vector has.
const UNSEEN: u64 = u64::MAX;

/// Finds where the call that is under way keeps its bytes, and notes it in the scratch space.
///
/// # Safety
/// `registers` must be those of the current task, `progress` that of this CPU's scratch space.
#[inline(always)]
pub unsafe fn locate(progress: *mut Progress, registers: Registers, call: u32) {
    // SAFETY: the caller's promise.
    unsafe {
        let (mut address, mut pieces) = (registers.word(call::SI), 0);
        match call::buffer(call) {
            Buffer::Flat => {}
            Buffer::Vector => pieces = registers.word(call::DX),
            Buffer::Message => {
                // struct user_msghdr (include/linux/socket.h): msg_iov at 16, msg_iovlen at 24.
                (address, pieces) = match user::<[u64; 2]>(address + 16) {
                    Some([vector, pieces]) => (vector, pieces),
                    None => (0, UNSEEN),
                };
            }
            Buffer::Unseen => pieces = UNSEEN,
        }
        addr_of_mut!((*progress).address).write_volatile(address);
        addr_of_mut!((*progress).pieces).write_volatile(pieces);
        addr_of_mut!((*progress).piece).write_volatile(0);
        addr_of_mut!((*progress).behind).write_volatile(0);
    }
}

/// `length`, which is at most [`GATHERED`], with a bound that the verifier sees: a mask on a value that
/// the compiler cannot know is the one form that survives its optimisations.
#[inline(always)]
fn bounded(length: u32) -> u32 {
    core::hint::black_box(length) & (2 * GATHERED as u32 - 1)
}

/// Copies `take` bytes of the located call, after its first `skip`, to the scratch space. How many came,
/// and why not all: a `REST_` constant.
///
/// # Safety
/// `scratch` must be this CPU's, the one with this index.
#[inline(always)]
pub unsafe fn gather(index: u32, scratch: *mut Scratch, skip: u32, take: u32) -> (u32, u32) {
    // SAFETY: the caller's promise; all of it is map memory.
    unsafe {
        let progress = addr_of_mut!((*scratch).progress);
        addr_of_mut!((*progress).filled).write_volatile(0);
        // A call that is looked at in many windows goes on where the last one ended: else each would walk over all pieces before
        // it, which for 260 pieces and 64 windows is ten thousand.
        let mut behind = addr_of!((*progress).behind).read_volatile();
        if behind > skip as u64 {
            addr_of_mut!((*progress).piece).write_volatile(0);
            addr_of_mut!((*progress).behind).write_volatile(0);
            behind = 0;
        }
        addr_of_mut!((*progress).passing).write_volatile((skip as u64).wrapping_sub(behind));
        let bytes = addr_of_mut!((*scratch).bytes) as *mut u8;
        let pieces = addr_of!((*progress).pieces).read_volatile();
        let rest = if pieces == UNSEEN {
            REST_UNSEEN
        } else if pieces == 0 {
            flat(progress, bytes, skip, take)
        } else {
            vector(index, take)
        };
        let rest = through(addr_of_mut!((*progress).rest), rest);
        (addr_of!((*progress).filled).read_volatile(), rest)
    }
}

#[inline(always)]
unsafe fn flat(progress: *mut Progress, to: *mut u8, skip: u32, take: u32) -> u32 {
    let length = bounded(take);
    // SAFETY: `to` has room for as much.
    unsafe {
        let from = addr_of!((*progress).address).read_volatile() + skip as u64;
        if bpf_probe_read_user(to as *mut c_void, length, from as *const c_void) != 0 {
            return REST_UNREADABLE;
        }
        addr_of_mut!((*progress).filled).write_volatile(length);
    }
    REST_NOTHING
}

/// Copies from one piece of the located vector after the other, from the one that was reached.
#[inline(always)]
unsafe fn vector(index: u32, take: u32) -> u32 {
    for _ in 0..VECTOR {
        let outcome = gather_piece(index, take);
        if outcome != GOES_ON {
            return outcome;
        }
    }
    REST_VECTOR
}

/// What [`gather_piece`] says if the vector's next piece is wanted too: not a `REST_` constant.
const GOES_ON: u32 = 255;

/// Copies what is wanted of one piece of the located vector. A global function, which the verifier checks
/// once and not once for each of the pieces.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn gather_piece(index: u32, take: u32) -> u32 {
    let Some(scratch) = maps::scratch(index) else { return REST_UNREADABLE };
    // SAFETY: map memory; the offset is below one third of the room, the length below two.
    unsafe {
        let progress = addr_of_mut!((*scratch).progress);
        let piece = (*progress).piece;
        if piece as u64 >= (*progress).pieces {
            return REST_UNSEEN;
        }
        let Some([base, length]) = user::<[u64; 2]>((*progress).address + piece as u64 * 16) else {
            return REST_UNREADABLE;
        };
        let skip = (*progress).passing;
        if length <= skip {
            (*progress).passing = skip - length;
            (*progress).behind = (*progress).behind.wrapping_add(length);
            (*progress).piece = piece.wrapping_add(1);
            return GOES_ON;
        }
        let filled = (*progress).filled;
        let wanted = take.wrapping_sub(filled) as u64;
        let here = length - skip;
        let copy = bounded((if here < wanted { here } else { wanted }) as u32);
        let to = (addr_of_mut!((*scratch).bytes) as *mut u8).add(filled as usize & (GATHERED - 1));
        if bpf_probe_read_user(to as *mut c_void, copy, (base + skip) as *const c_void) != 0 {
            return REST_UNREADABLE;
        }
        if copy as u64 == here {
            (*progress).behind = (*progress).behind.wrapping_add(length);
            (*progress).piece = piece.wrapping_add(1);
        }
        (*progress).passing = 0;
        (*progress).filled = filled + copy;
        if filled + copy >= take { REST_NOTHING } else { GOES_ON }
    }
}
