//! Walks: on whose behalf a call is made, read from the program's own memory by the table that the agent wrote
//! for it. `spandrel_proto::walk` says what a step means; here is what a walk can ask of the kernel.
//!
//! It must never keep words of a walk that failed, or walk a process that the agent wrote no table for.

use core::ffi::c_void;
use core::ptr::{addr_of, addr_of_mut};

use aya_ebpf::helpers::bpf_get_current_pid_tgid;
use aya_ebpf::helpers::generated::{
    bpf_get_smp_processor_id, bpf_ktime_get_ns, bpf_probe_read_kernel, bpf_probe_read_user,
};
use spandrel_proto::counter::Counter;
use spandrel_proto::record::{Observed, TAG_OBSERVED};
use spandrel_proto::walk::{
    BLOCK_ROOM, MAX_EXECUTED, MAX_STEPS, Next, PARAMETERS, ProbedAt, REGISTERS, SAVED_ROOM, STATES, State,
    WORDS_ROOM, Walked, World, step,
};

use crate::maps::{self, count, off, run};
use crate::memory::{Registers, current_task, kernel, of_task, user};
use crate::{process, ring};

/// Epoll sets that a descriptor may be in.
const EPOLL_SETS: u32 = 4;
/// Which of a CPU's states is for connections that are asked for.
const ASKING: u32 = 3;
/// `sizeof(struct pt_regs)`, x86-64.
const PT_REGS: u32 = 168;

/// Runs the walk of this process, if it has one, for the call that is described in the scratch space. Returns the
/// walk's tag, and how many words it kept in the upper half; 0 without evidence. A global function, which the verifier
/// checks once, and so are those below it.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn evidence(index: u32, pid: u32) -> u32 {
    let Some(walked) = maps::walked(pid) else { return 0 };
    let Some(scratch) = maps::scratch(index) else { return 0 };
    let receives = index & 1;
    let place = (index >> 1) * STATES + receives;
    let Some(state) = maps::walk_state(place) else { return 0 };
    // SAFETY: map values; the task is the current one.
    unsafe {
        let slot = if receives != 0 { (*walked).receive } else { (*walked).send };
        if slot == 0 || !is_this_process(walked) || !begin(state, &(*walked).parameters) {
            return 0;
        }
        if !Registers::current().copy(addr_of_mut!((*state).saved) as *mut u64) {
            (*state).busy = 0;
            return 0;
        }
        addr_of_mut!((*state).call).write([
            (*scratch).progress.sk,
            (*scratch).data.socket.connection,
            1 - receives as u64,
            (*scratch).progress.note,
        ]);
        let found = walk(place, slot - 1);
        (*scratch).progress.note = (*state).call[3];
        (*state).busy = 0;
        if found != Next::Done as u32 {
            count(Counter::WalksFailed, 1);
            return 0;
        }
        count(Counter::Walks, 1);
        let tags = (*walked).tags;
        (if receives != 0 { tags >> 16 } else { tags & 0xffff }) | (*state).kept << 16
    }
}

/// Runs the walk of this process, if it has one, for a connection that its task asks for, as for a call that sends on
/// its socket. Returns as [`evidence`] does; the words are read by [`asked_words`], which must be called, since nobody
/// else walks here until then.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn evidence_asking(pid: u32, connection: u64) -> u32 {
    let Some(walked) = maps::walked(pid) else { return 0 };
    let Some(asking) = maps::asking() else { return 0 };
    // SAFETY: the helper takes nothing.
    let place = unsafe { bpf_get_smp_processor_id() } * STATES + ASKING;
    let Some(state) = maps::walk_state(place) else { return 0 };
    // SAFETY: map values; the task is the current one.
    unsafe {
        let slot = (*walked).send;
        if slot == 0 || !is_this_process(walked) || !begin(state, &(*walked).parameters) {
            return 0;
        }
        if !Registers::current().copy(addr_of_mut!((*state).saved) as *mut u64) {
            (*state).busy = 0;
            return 0;
        }
        addr_of_mut!((*state).call).write([(*asking).sk, connection, 1, 0]);
        let found = walk(place, slot - 1);
        if found != Next::Done as u32 {
            (*state).busy = 0;
            count(Counter::WalksFailed, 1);
            return 0;
        }
        count(Counter::Walks, 1);
        ((*walked).tags & 0xffff) | (*state).kept << 16
    }
}

/// Copies the words of the walk that [`evidence_asking`] ran, and lets the next one run.
///
/// # Safety
/// `to` must have room for [`WORDS_ROOM`] words.
#[inline(always)]
pub unsafe fn asked_words(to: *mut u64, words: u32) {
    // SAFETY: the helper takes nothing; the rest is the caller's promise.
    unsafe {
        let Some(state) = maps::walk_state(bpf_get_smp_processor_id() * STATES + ASKING) else { return };
        let words = core::hint::black_box(words) & (WORDS_ROOM as u32 - 1);
        bpf_probe_read_kernel(to as *mut c_void, words * 8, addr_of!((*state).words) as *const c_void);
        addr_of_mut!((*state).busy).write_volatile(0);
    }
}

/// Whether the walk was written for the program that runs now.
#[inline(always)]
unsafe fn is_this_process(walked: *const Walked) -> bool {
    // SAFETY: a map value; the task is the current one.
    unsafe {
        let exec: u32 = of_task(current_task(), off!(task_self_exec_id));
        (*walked).started == process::started() && (*walked).exec == exec
    }
}

/// An instruction that is probed was reached; `registers` are those of the thread there.
#[inline(always)]
pub fn observed(address: u64, registers: *const u8) {
    let pid = (bpf_get_current_pid_tgid() >> 32) as u32;
    let Some(probed) = maps::probed(&ProbedAt { pid, reserved: 0, address }) else { return };
    // SAFETY: the helper takes nothing.
    let place = unsafe { bpf_get_smp_processor_id() } * STATES + 2;
    let Some(state) = maps::walk_state(place) else { return };
    // SAFETY: map values; the helper writes as many bytes as there is room for.
    unsafe {
        let slot = (*probed).walk;
        if slot == 0 || (*probed).started != process::started() {
            return;
        }
        maps::add(addr_of_mut!((*probed).hits), 1);
        count(Counter::Hits, 1);
        if !begin(state, &(*probed).parameters) {
            missed(address, (*probed).tag);
            return;
        }
        let saved = addr_of_mut!((*state).saved) as *mut c_void;
        let copied = bpf_probe_read_kernel(saved, PT_REGS, registers as *const c_void) == 0;
        addr_of_mut!((*state).call).write([0; 4]);
        if !copied || walk(place, slot - 1) != Next::Done as u32 {
            (*state).busy = 0;
            return count(Counter::WalksFailed, 1);
        }
        count(Counter::Walks, 1);
        // Nobody else walks here until its words are in the ring.
        tell(address, (*probed).tag, state);
        addr_of_mut!((*state).busy).write_volatile(0);
    }
}

/// Writes a record of what a walk found at a probed instruction.
///
/// # Safety
/// `state` is this CPU's, and nobody else walks there.
#[inline(always)]
unsafe fn tell(address: u64, tag: u32, state: *mut State) {
    // SAFETY: map values; the helper writes as many bytes as there is room for.
    unsafe {
        let Some(sighting) = maps::sighting() else { return };
        let words = core::hint::black_box((*state).kept) & (WORDS_ROOM as u32 - 1);
        let length = size_of::<Observed>() + words as usize * 8;
        addr_of_mut!((*sighting).observed).write(Observed {
            header: process::header(TAG_OBSERVED, 0, length),
            address,
            walk: tag as u16,
            words: words as u16,
            reserved: 0,
        });
        bpf_probe_read_kernel(
            addr_of_mut!((*sighting).words) as *mut c_void,
            words * 8,
            addr_of!((*state).words) as *const c_void,
        );
        ring::write(sighting as *mut u8, length as u64);
    }
}

/// An instruction was reached by a thread that interrupted another one's walk on this CPU: the record has no words, so that
/// the reader knows that it misses something. Returns 0: the verifier takes no global function without a number.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn missed(address: u64, tag: u32) -> u32 {
    count(Counter::HitsMissed, 1);
    let length = size_of::<Observed>();
    let mut bare = Observed {
        header: process::header(TAG_OBSERVED, 0, length),
        address,
        walk: tag as u16,
        words: 0,
        reserved: 0,
    };
    // SAFETY: a record of that length on the stack.
    unsafe { ring::write(addr_of_mut!(bare) as *mut u8, length as u64) };
    0
}

/// Copies the words of this call's walk.
///
/// # Safety
/// `to` must have room for `words` words, of which there are fewer than [`WORDS_ROOM`].
#[inline(always)]
pub unsafe fn copy_words(index: u32, to: *mut u64, words: u32) {
    let Some(state) = maps::walk_state((index >> 1) * STATES + (index & 1)) else { return };
    // SAFETY: the caller's promise.
    unsafe {
        bpf_probe_read_kernel(to as *mut c_void, words * 8, addr_of!((*state).words) as *const c_void);
    }
}

/// Prepares a walk. False if one is under way here: a thread was preempted in the middle of it.
#[inline(always)]
unsafe fn begin(state: *mut State, parameters: &[u64; PARAMETERS]) -> bool {
    // SAFETY: map memory of this CPU.
    unsafe {
        if addr_of!((*state).busy).read_volatile() != 0 {
            return false;
        }
        addr_of_mut!((*state).busy).write_volatile(1);
        let registers = addr_of_mut!((*state).registers) as *mut u64;
        for (n, parameter) in parameters.iter().enumerate() {
            registers.add(n).write_volatile(*parameter);
        }
        for n in PARAMETERS..REGISTERS {
            registers.add(n).write_volatile(0);
        }
        (*state).kept = 0;
        (*state).at = 0;
    }
    true
}

/// Runs the walk in `slot` over the state at `place`. Returns a [`Next`].
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn walk(place: u32, slot: u32) -> u32 {
    for _ in 0..MAX_EXECUTED {
        let next = walk_step(place, slot);
        if next != Next::Step as u32 {
            return next;
        }
    }
    Next::Failed as u32
}

/// One step.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn walk_step(place: u32, slot: u32) -> u32 {
    let Some(state) = maps::walk_state(place) else { return Next::Failed as u32 };
    let Some(steps) = maps::walk_steps(slot) else { return Next::Failed as u32 };
    // SAFETY: map memory of this CPU; nobody else refers to it meanwhile.
    unsafe {
        let call = addr_of!((*state).call) as *const u64;
        let what = (steps as *const spandrel_proto::walk::Step)
            .add(core::hint::black_box((*state).at) as usize & (MAX_STEPS - 1));
        step(&mut *state, &*what, &Here { call }) as u32
    }
}

/// The world of the current task.
struct Here {
    /// The call's socket, connection and way.
    call: *const u64,
}

impl World for Here {
    #[inline(always)]
    fn read(&self, address: u64, bytes: u32) -> Option<u64> {
        // One call of the helper for all sizes: what is beyond the size stays 0.
        let mut value = 0u64;
        let bytes = core::hint::black_box(bytes) & 15;
        if bytes > 8 {
            return None;
        }
        // SAFETY: at most 8 bytes of a place of 8.
        let failed = unsafe {
            bpf_probe_read_user(addr_of_mut!(value) as *mut c_void, bytes, address as *const c_void)
        };
        if failed != 0 { None } else { Some(value) }
    }

    #[inline(always)]
    fn block(&self, address: u64, bytes: u32, to: &mut [u64; BLOCK_ROOM]) -> bool {
        let bytes = core::hint::black_box(bytes) & (BLOCK_ROOM as u32 * 8 - 1);
        // SAFETY: the mask is the room's.
        unsafe { bpf_probe_read_user(to.as_mut_ptr() as *mut c_void, bytes, address as *const c_void) == 0 }
    }

    #[inline(always)]
    fn thread_pointer(&self) -> Option<u64> {
        // SAFETY: the task is the current one.
        Some(unsafe { of_task(current_task(), off!(task_fsbase)) })
    }

    #[inline(always)]
    fn epoll_word(&self) -> Option<u64> {
        let sk = self.socket()?;
        let socket: u64 = kernel(sk + off!(sock_socket) as u64);
        if socket == 0 {
            return None;
        }
        let file: u64 = kernel(socket + off!(socket_file) as u64);
        if file == 0 {
            return None;
        }
        // Since 5.11 `f_ep` points to the head of the list; before, `f_ep_links` is the head.
        let list = file + off!(file_f_ep) as u64;
        let head: u64 = if run!(epoll_pointer) != 0 { kernel(list) } else { list };
        if head == 0 {
            return None;
        }
        let mut at: u64 = kernel(head);
        let mut word = 0u64;
        for n in 0..EPOLL_SETS {
            if at == 0 || at == head {
                return if n == 0 { None } else { Some(word) };
            }
            // struct epoll_event is packed: 4 bytes of events, then the data.
            let item = at - off!(epitem_fllink) as u64;
            let data: u64 = kernel(item + off!(epitem_event) as u64 + 4);
            if n > 0 && data != word {
                return None;
            }
            word = data;
            at = kernel(at);
        }
        None
    }

    #[inline(always)]
    fn socket(&self) -> Option<u64> {
        // SAFETY: three words of map memory.
        let sk = unsafe { self.call.read() };
        if sk == 0 { None } else { Some(sk) }
    }

    #[inline(always)]
    fn way(&self) -> u64 {
        // SAFETY: three words of map memory.
        unsafe { self.call.add(2).read() }
    }

    #[inline(always)]
    fn time(&self) -> u64 {
        // SAFETY: the helper takes nothing.
        unsafe { bpf_ktime_get_ns() }
    }

    #[inline(always)]
    fn thread(&self) -> u64 {
        bpf_get_current_pid_tgid() & 0xffff_ffff
    }

    #[inline(always)]
    fn expected(&self, address: u64) -> bool {
        // SAFETY: three words of map memory; the entry is in the map.
        unsafe {
            let Some(expected) = maps::expected(self.call.add(1).read()) else { return false };
            let Some(found) = user::<[u64; 4]>(address) else { return false };
            (*expected)[0] == found[0]
                && (*expected)[1] == found[1]
                && (*expected)[2] == found[2]
                && (*expected)[3] == found[3]
        }
    }
}

const _: () = assert!(SAVED_ROOM * 8 >= PT_REGS as usize);
