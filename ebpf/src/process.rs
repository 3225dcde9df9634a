//! Exec, fork and exit, in the same ring as the data, so that their order with it is a fact.

use core::ffi::c_void;
use core::ptr::addr_of_mut;

use aya_ebpf::helpers::bpf_get_current_pid_tgid;
use aya_ebpf::helpers::generated::{
    bpf_get_current_cgroup_id, bpf_ktime_get_ns, bpf_probe_read_kernel_str, bpf_probe_read_user,
};
use spandrel_proto::record::{ARGUMENTS, Exec, FILENAME, Fork, Header, TAG_EXEC, TAG_EXIT, TAG_FORK};

use crate::maps::{exec_scratch, off};
use crate::memory::{Memory, Typed, current_task, of_task};
use crate::ring;

/// The head of a record about the current process.
#[inline(always)]
pub fn header(tag: u16, flags: u16, length: usize) -> Header {
    let ids = bpf_get_current_pid_tgid();
    let task = current_task();
    // SAFETY: the task is the current one.
    unsafe {
        Header {
            tag,
            flags,
            length: length as u32,
            time: bpf_ktime_get_ns(),
            pid: (ids >> 32) as u32,
            thread: ids as u32,
            started: started(),
            exec: of_task(task, off!(task_self_exec_id)),
            lost: 0,
        }
    }
}

/// When the current process started, `CLOCK_MONOTONIC` in nanoseconds.
#[inline(always)]
pub fn started() -> u64 {
    // SAFETY: the task is the current one, and its leader is a task.
    unsafe {
        let leader: *const u8 = of_task(current_task(), off!(task_group_leader));
        of_task(leader, off!(task_start_time))
    }
}

/// # Safety
/// The arguments must be the typed arguments of the tracepoint.
#[inline(always)]
pub unsafe fn executed(task: *const u8, program: *const u8) {
    // SAFETY: typed arguments; the scratch space is this CPU's and this program's.
    unsafe {
        let Some(exec) = exec_scratch() else { return };
        addr_of_mut!((*exec).header).write(header(TAG_EXEC, 0, size_of::<Exec>()));
        addr_of_mut!((*exec).cgroup).write(bpf_get_current_cgroup_id());
        let filename: u64 = Typed::load(program, off!(bprm_filename));
        let copied = bpf_probe_read_kernel_str(
            addr_of_mut!((*exec).filename) as *mut c_void,
            FILENAME as u32,
            filename as *const c_void,
        );
        addr_of_mut!((*exec).filename_length).write(if copied > 0 { copied as u32 - 1 } else { 0 });
        let mm: *const u8 = Typed::load(task, off!(task_mm));
        let mut length = 0;
        if !mm.is_null() {
            let start: u64 = Typed::load(mm, off!(mm_arg_start));
            let end: u64 = Typed::load(mm, off!(mm_arg_end));
            let most = ARGUMENTS as u64 - 1;
            let all = end.wrapping_sub(start);
            length = core::hint::black_box(if all < most { all } else { most }) & most;
            let failed = bpf_probe_read_user(
                addr_of_mut!((*exec).arguments) as *mut c_void,
                length as u32,
                start as *const c_void,
            );
            if failed != 0 {
                length = 0;
            }
        }
        addr_of_mut!((*exec).arguments_length).write(length as u32);
        // Its environment is in no record: it is read from the process, which may soon be gone.
        ring::write_and_wake(exec as *mut u8, size_of::<Exec>() as u64);
    }
}

/// # Safety
/// The arguments must be the typed arguments of the tracepoint.
#[inline(always)]
pub unsafe fn forked(parent: *const u8, child: *const u8) {
    // SAFETY: typed arguments.
    unsafe {
        let child_pid: u32 = Typed::load(child, off!(task_tgid));
        let parent_pid: u32 = Typed::load(parent, off!(task_tgid));
        if child_pid == parent_pid {
            return; // another thread
        }
        let mut fork = Fork {
            header: header(TAG_FORK, 0, size_of::<Fork>()),
            started: Typed::load(child, off!(task_start_time)),
            pid: child_pid,
            exec: Typed::load(child, off!(task_self_exec_id)),
        };
        ring::write(addr_of_mut!(fork) as *mut u8, size_of::<Fork>() as u64);
    }
}

/// # Safety
/// The argument must be the typed argument of the tracepoint.
#[inline(always)]
pub unsafe fn exited(task: *const u8) {
    // SAFETY: typed argument.
    unsafe {
        let signal: *const u8 = Typed::load(task, off!(task_signal));
        // `do_exit` (kernel/exit.c) has already taken this thread off the count of live ones.
        if Typed::load::<u32>(signal, off!(signal_live)) != 0 {
            return;
        }
        let mut exit = header(TAG_EXIT, 0, size_of::<Header>());
        ring::write(addr_of_mut!(exit) as *mut u8, size_of::<Header>() as u64);
    }
}
