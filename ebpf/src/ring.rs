//! Writing into the ring, without waking the reader for each record. It must never lose one that is not counted.

use core::ffi::c_void;
use core::ptr::addr_of;

use aya_ebpf::bindings::{BPF_RB_AVAIL_DATA, BPF_RB_FORCE_WAKEUP, BPF_RB_NO_WAKEUP};
use aya_ebpf::helpers::generated::{bpf_ringbuf_output, bpf_ringbuf_query};
use spandrel_proto::counter::Counter;

use crate::maps::{RECORDS, count, run};

/// Writes a record of `length` bytes. False if the ring is full, which is counted.
///
/// A wake-up costs the traced program microseconds, so the reader looks by time; only when the ring is half
/// full is it woken.
///
/// # Safety
/// `record` must point to `length` readable bytes that the verifier can see the bound of.
#[inline(always)]
pub unsafe fn write(record: *mut u8, length: u64) -> bool {
    let ring = addr_of!(RECORDS) as *mut c_void;
    // SAFETY: `ring` is a ring buffer; the rest is the caller's promise.
    unsafe {
        let waiting = bpf_ringbuf_query(ring, BPF_RB_AVAIL_DATA as u64);
        let half = (run!(ring_bytes) / 2) as u64;
        output(record, length, if waiting > half { BPF_RB_FORCE_WAKEUP } else { BPF_RB_NO_WAKEUP })
    }
}

/// The same, and the reader is woken: for what will soon be gone.
///
/// # Safety
/// As [`write`].
#[inline(always)]
pub unsafe fn write_and_wake(record: *mut u8, length: u64) -> bool {
    // SAFETY: the caller's promise.
    unsafe { output(record, length, BPF_RB_FORCE_WAKEUP) }
}

/// # Safety
/// As [`write`].
#[inline(always)]
unsafe fn output(record: *mut u8, length: u64, flags: u32) -> bool {
    let ring = addr_of!(RECORDS) as *mut c_void;
    // SAFETY: `ring` is a ring buffer; the rest is the caller's promise.
    unsafe {
        let written = bpf_ringbuf_output(ring, record as *mut c_void, length, flags as u64) == 0;
        count(if written { Counter::Records } else { Counter::RecordsRingFull }, 1);
        written
    }
}
