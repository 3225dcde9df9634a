//! Reading memory: kernel structures through the verifier's types or through a helper, the saved
//! registers, and the traced program's own memory.
//!
//! Nothing here writes anything but its own stack and scratch space.

use core::ffi::c_void;
use core::mem::MaybeUninit;
use core::ptr::read_volatile;

use aya_ebpf::helpers::generated::{
    bpf_get_current_task, bpf_get_current_task_btf, bpf_probe_read_kernel, bpf_probe_read_user,
    bpf_task_pt_regs,
};

use crate::maps::{off, run};

/// How members of kernel structures are read.
pub trait Memory {
    /// Whether sockets are typed pointers, with storage and cookies.
    const TYPED: bool;
    /// Reads the member at `offset` of the structure at `base`.
    ///
    /// # Safety
    /// `base` must be a pointer that this kind of reading may take.
    unsafe fn load<T: Copy>(base: *const u8, offset: u32) -> T;
}

/// Through the verifier: the pointer's type is known, the load cannot fault, and costs next to nothing.
pub struct Typed;

impl Memory for Typed {
    const TYPED: bool = true;
    #[inline(always)]
    unsafe fn load<T: Copy>(base: *const u8, offset: u32) -> T {
        // SAFETY: the verifier has proved that `base` is a structure that has a member here.
        unsafe { read_volatile(base.add(offset as usize) as *const T) }
    }
}

/// Through `bpf_probe_read_kernel`: any address will do, a bad one reads as zero.
pub struct Helped;

impl Memory for Helped {
    const TYPED: bool = false;
    #[inline(always)]
    unsafe fn load<T: Copy>(base: *const u8, offset: u32) -> T {
        kernel((base as u64).wrapping_add(offset as u64))
    }
}

/// Reads kernel memory at any address; a bad one reads as zero.
#[inline(always)]
pub fn kernel<T: Copy>(address: u64) -> T {
    let mut value = MaybeUninit::<T>::zeroed();
    // SAFETY: the helper writes at most `size_of::<T>()` bytes and, on a fault, zeroes; T is an integer
    // or a plain structure of integers everywhere it is used here.
    unsafe {
        bpf_probe_read_kernel(
            value.as_mut_ptr() as *mut c_void,
            size_of::<T>() as u32,
            address as *const c_void,
        );
        value.assume_init()
    }
}

/// Reads a value from the traced program's memory; `None` if the page is not there.
#[inline(always)]
pub fn user<T: Copy>(address: u64) -> Option<T> {
    let mut value = MaybeUninit::<T>::zeroed();
    // SAFETY: as in `kernel`.
    unsafe {
        let failed = bpf_probe_read_user(
            value.as_mut_ptr() as *mut c_void,
            size_of::<T>() as u32,
            address as *const c_void,
        );
        if failed != 0 { None } else { Some(value.assume_init()) }
    }
}

/// The current task, typed where the kernel can (5.11).
#[inline(always)]
pub fn current_task() -> *const u8 {
    // SAFETY: the helpers take nothing and always return a task.
    unsafe {
        if run!(task_registers) != 0 {
            bpf_get_current_task_btf() as *const u8
        } else {
            bpf_get_current_task() as *const u8
        }
    }
}

/// A member of a task from [`current_task`], or of what it points to.
///
/// # Safety
/// `base` must come from [`current_task`] or from a pointer loaded through it.
#[inline(always)]
pub unsafe fn of_task<T: Copy>(base: *const u8, offset: u32) -> T {
    // SAFETY: typed exactly when `current_task` is.
    unsafe { if run!(task_registers) != 0 { Typed::load(base, offset) } else { Helped::load(base, offset) } }
}

/// The registers that the current task saved when it entered the kernel.
#[derive(Clone, Copy)]
pub struct Registers(*const u8);

/// Bytes of a kernel stack and of the registers on its top: `THREAD_SIZE` without KASAN and
/// `struct pt_regs`, x86-64. Used only where `bpf_task_pt_regs` does not exist (before 5.15).
const STACK: u64 = 16384;
const PT_REGS: u64 = 168;

impl Registers {
    /// Those of the current task.
    #[inline(always)]
    pub fn current() -> Self {
        // SAFETY: the task is the current one, and its stack has its registers on top.
        unsafe {
            if run!(task_registers) != 0 {
                Self(bpf_task_pt_regs(bpf_get_current_task_btf()) as *const u8)
            } else {
                let stack: u64 = of_task(current_task(), off!(task_stack));
                Self((stack + STACK - PT_REGS) as *const u8)
            }
        }
    }

    /// Copies all of them. False if they cannot be read.
    ///
    /// # Safety
    /// `to` must have room for [`PT_REGS`] bytes.
    #[inline(always)]
    pub unsafe fn copy(self, to: *mut u64) -> bool {
        // SAFETY: the caller's promise; the helper survives any address.
        unsafe { bpf_probe_read_kernel(to as *mut c_void, PT_REGS as u32, self.0 as *const c_void) == 0 }
    }

    /// The register that is word `index` of `struct pt_regs`.
    ///
    /// # Safety
    /// `index` must be one of the constants of [`spandrel_proto::call`].
    #[inline(always)]
    pub unsafe fn word(self, index: u32) -> u64 {
        // SAFETY: the index lies within `struct pt_regs`.
        unsafe { of_task(self.0, index * 8) }
    }
}
