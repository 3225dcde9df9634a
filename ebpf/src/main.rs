//! Spandrel's kernel programs: what a socket call moved, who called, and which process became which.
//!
//! All capture is one function, [`transferred::transferred`], called once per socket call at its end.
//! What calls it is a backend: BTF raw tracepoints of the socket layer (kernel 6.3+), or the exits of
//! the system calls that move bytes. The programs here only find the socket and the result.
//!
//! The kernel side must decide nothing about protocols or parents, must never write to memory of a
//! traced program or change a packet, and must count whatever it leaves out.

#![no_std]
#![no_main]
// An atomic addition, which `core` offers for this target only as an intrinsic.
#![allow(internal_features)]
#![feature(core_intrinsics)]
// `off!` and `run!` bring their own `unsafe`, also where there is one around them.
#![allow(unused_unsafe)]

mod clear;
mod frames;
mod gather;
mod maps;
mod memory;
mod process;
mod ring;
mod socket;
mod tls;
mod transferred;
mod walk;

use aya_ebpf::EbpfContext;
use aya_ebpf::macros::{btf_tracepoint, tracepoint, uprobe, uretprobe};
use aya_ebpf::programs::{BtfTracePointContext, ProbeContext, RetProbeContext, TracePointContext};
use aya_log_ebpf::debug;
use spandrel_proto::call::{self, Way};
use spandrel_proto::record::tcp_state;
use spandrel_proto::tls::OF_GNUTLS;

use crate::maps::run;
use crate::memory::Registers;
use crate::transferred::{Transfer, transferred};

/// Argument `index` of a BTF raw tracepoint: the context is an array of 8-byte words that the verifier
/// knows the types of.
macro_rules! argument {
    ($context:expr, $index:literal) => {
        // SAFETY: the verifier refuses an index that the tracepoint does not have.
        unsafe { core::ptr::read_volatile(($context.as_ptr() as *const u64).add($index)) }
    };
}

/// `sock_send_length(struct sock *sk, int ret, int flags)`, include/trace/events/sock.h (6.3): in
/// `sock_sendmsg_nosec`, net/socket.c.
#[btf_tracepoint(function = "sock_send_length")]
pub fn sent(context: BtfTracePointContext) -> i32 {
    let sk = argument!(context, 0) as *const u8;
    let result = argument!(context, 1) as i32;
    typed(sk, result, 0, Way::Send)
}

/// `sock_recv_length(struct sock *sk, int ret, int flags)`, include/trace/events/sock.h (6.3): in
/// `sock_recvmsg_nosec`, net/socket.c.
#[btf_tracepoint(function = "sock_recv_length")]
pub fn received(context: BtfTracePointContext) -> i32 {
    let sk = argument!(context, 0) as *const u8;
    let result = argument!(context, 1) as i32;
    let flags = argument!(context, 2) as u32;
    typed(sk, result, flags, Way::Receive)
}

#[inline(always)]
fn typed(sk: *const u8, result: i32, flags: u32, way: Way) -> i32 {
    let registers = Registers::current();
    // SAFETY: `sk` is the tracepoint's typed argument.
    unsafe { transferred::<memory::Typed>(&Transfer { sk, result, flags, way, registers }) };
    0
}

/// The exit of a system call that sends. One program serves all of them: the arguments are still in the
/// saved registers.
#[tracepoint]
pub fn call_sent(context: TracePointContext) -> u32 {
    call_ended(&context, Way::Send)
}

/// The exit of a system call that receives.
#[tracepoint]
pub fn call_received(context: TracePointContext) -> u32 {
    call_ended(&context, Way::Receive)
}

/// Where a TLS session begins, in a library of the traced program: its first argument is the session.
#[uprobe]
pub fn session_begun(context: ProbeContext) -> u32 {
    let pid = (aya_ebpf::helpers::bpf_get_current_pid_tgid() >> 32) as u32;
    if let Some(session) = context.arg::<u64>(0) {
        tls::begun(pid, session);
    }
    0
}

/// `int SSL_read(SSL *, void *, int)`.
#[uprobe]
pub fn clear_read(context: ProbeContext) -> u32 {
    clear::entered(context.as_ptr() as *const u8, 0, 0, 0);
    0
}

/// `int SSL_write(SSL *, const void *, int)`.
#[uprobe]
pub fn clear_write(context: ProbeContext) -> u32 {
    clear::entered(context.as_ptr() as *const u8, 0, 1, 0);
    0
}

/// `int SSL_read_ex(SSL *, void *, size_t, size_t *)`.
#[uprobe]
pub fn clear_read_counted(context: ProbeContext) -> u32 {
    clear::entered(context.as_ptr() as *const u8, 0, 0, 1);
    0
}

/// `int SSL_write_ex(SSL *, const void *, size_t, size_t *)`.
#[uprobe]
pub fn clear_write_counted(context: ProbeContext) -> u32 {
    clear::entered(context.as_ptr() as *const u8, 0, 1, 1);
    0
}

/// The return from any of these.
#[uretprobe]
pub fn clear_returned(context: RetProbeContext) -> u32 {
    clear::returned(context.as_ptr() as *const u8, 0);
    0
}

/// `ssize_t gnutls_record_recv(gnutls_session_t, void *, size_t)`.
#[uprobe]
pub fn gnutls_read(context: ProbeContext) -> u32 {
    clear::entered(context.as_ptr() as *const u8, OF_GNUTLS, 0, 0);
    0
}

/// `ssize_t gnutls_record_send2(gnutls_session_t, const void *, size_t, …)`.
#[uprobe]
pub fn gnutls_write(context: ProbeContext) -> u32 {
    clear::entered(context.as_ptr() as *const u8, OF_GNUTLS, 1, 0);
    0
}

/// The return from these.
#[uretprobe]
pub fn gnutls_returned(context: RetProbeContext) -> u32 {
    clear::returned(context.as_ptr() as *const u8, OF_GNUTLS);
    0
}

/// `func (c *Conn) Read(b []byte) (int, error)` of Go's `crypto/tls`.
#[uprobe]
pub fn go_read(context: ProbeContext) -> u32 {
    clear::go_entered(context.as_ptr() as *const u8, 0);
    0
}

/// `func (c *Conn) Write(b []byte) (int, error)`.
#[uprobe]
pub fn go_write(context: ProbeContext) -> u32 {
    clear::go_entered(context.as_ptr() as *const u8, 1);
    0
}

/// An instruction by which these return. A return probe would change the stack, which Go walks and moves.
#[uprobe]
pub fn go_returned(context: ProbeContext) -> u32 {
    clear::go_returned(context.as_ptr() as *const u8);
    0
}

#[inline(always)]
fn call_ended(context: &TracePointContext, way: Way) -> u32 {
    // The result stands at offset 16 of every `syscalls/sys_exit_*` event (struct syscall_trace_exit,
    // kernel/trace/trace.h).
    // SAFETY: the verifier knows the event's size.
    let result = unsafe { core::ptr::read_volatile((context.as_ptr() as *const u8).add(16) as *const i64) };
    if result < 0 || (result == 0 && way == Way::Send) {
        return 0;
    }
    let registers = Registers::current();
    // SAFETY: the walk reads through helpers that survive any address.
    unsafe {
        let Some(sk) = socket::of_descriptor(registers.word(call::DI) as u32) else {
            return 0;
        };
        let flags = match registers.word(call::ORIG_AX) as u32 {
            44 | 45 => registers.word(call::R10) as u32,
            46 | 47 => registers.word(call::DX) as u32,
            _ => 0,
        };
        transferred::<memory::Helped>(&Transfer { sk, result: result as i32, flags, way, registers });
    }
    0
}

/// `inet_sock_set_state(const struct sock *sk, int oldstate, int newstate)`,
/// include/trace/events/sock.h.
#[btf_tracepoint(function = "inet_sock_set_state")]
pub fn state_changed(context: BtfTracePointContext) -> i32 {
    let sk = argument!(context, 0) as *const u8;
    let from = argument!(context, 1) as u32;
    let to = argument!(context, 2) as u32;
    debug!(&context, "socket goes from state {} to {}", from, to);
    // SAFETY: `sk` is the tracepoint's typed argument.
    unsafe {
        if run!(typed_sockets) != 0 {
            transferred::state_changed::<memory::Typed>(sk, from, to);
        } else {
            transferred::state_changed::<memory::Helped>(sk, from, to);
        }
    }
    0
}

/// The same tracepoint, where a task asks for a connection: `tcp_v4_connect` and `tcp_v6_connect` (net/ipv4/tcp_ipv4.c,
/// net/ipv6/tcp_ipv6.c) set the state once the peer's address is in the socket.
#[btf_tracepoint(function = "inet_sock_set_state")]
pub fn connecting(context: BtfTracePointContext) -> i32 {
    let sk = argument!(context, 0) as *const u8;
    if argument!(context, 2) as u32 != tcp_state::SYN_SENT {
        return 0;
    }
    // SAFETY: `sk` is the tracepoint's typed argument.
    unsafe {
        if run!(typed_sockets) != 0 {
            transferred::asked::<memory::Typed>(sk);
        } else {
            transferred::asked::<memory::Helped>(sk);
        }
    }
    0
}

/// `sched_process_exec(struct task_struct *p, pid_t old_pid, struct linux_binprm *bprm)`,
/// include/trace/events/sched.h.
#[btf_tracepoint(function = "sched_process_exec")]
pub fn executed(context: BtfTracePointContext) -> i32 {
    let task = argument!(context, 0) as *const u8;
    let program = argument!(context, 2) as *const u8;
    // SAFETY: both are the tracepoint's typed arguments.
    unsafe { process::executed(task, program) };
    0
}

/// `sched_process_fork(struct task_struct *parent, struct task_struct *child)`,
/// include/trace/events/sched.h.
#[btf_tracepoint(function = "sched_process_fork")]
pub fn forked(context: BtfTracePointContext) -> i32 {
    let parent = argument!(context, 0) as *const u8;
    let child = argument!(context, 1) as *const u8;
    // SAFETY: both are the tracepoint's typed arguments.
    unsafe { process::forked(parent, child) };
    0
}

/// `sched_process_exit(struct task_struct *p)`, include/trace/events/sched.h.
#[btf_tracepoint(function = "sched_process_exit")]
pub fn exited(context: BtfTracePointContext) -> i32 {
    let task = argument!(context, 0) as *const u8;
    // SAFETY: it is the tracepoint's typed argument.
    unsafe { process::exited(task) };
    0
}

/// An instruction of a traced program that a walk is for. Where it is attached, `probe::uprobe` of the agent
/// decides.
#[uprobe]
pub fn observed(context: ProbeContext) -> u32 {
    // SAFETY: the context of a uprobe is the saved registers.
    let address = unsafe {
        core::ptr::read_volatile(
            (context.as_ptr() as *const u64).add(spandrel_proto::walk::saved::IP as usize),
        )
    };
    walk::observed(address, context.as_ptr() as *const u8);
    0
}

/// The verifier admits no program that can panic; this is never reached.
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
