//! Where a system call keeps its bytes: one table from call number to buffer.
//!
//! A call that is not in the table moves bytes that cannot be read here: its number and how many they
//! were are counted. Numbers: arch/x86/entry/syscalls/syscall_64.tbl; which words of the saved
//! registers hold the arguments: struct pt_regs, arch/x86/include/asm/ptrace.h (x86-64 only so far).

/// Index, in 8-byte words of `struct pt_regs`, of the saved instruction segment: 0x33 for 64-bit code.
pub const CS: u32 = 17;
/// The code segment of a 32-bit program (`__USER32_CS`), whose call numbers mean other calls.
pub const CS_COMPAT: u64 = 0x23;
/// Index of the number of the call that is under way.
pub const ORIG_AX: u32 = 15;
/// Index of the call's result, once it has one.
pub const AX: u32 = 10;
/// Index of the first argument: the file descriptor.
pub const DI: u32 = 14;
/// Index of the second argument.
pub const SI: u32 = 13;
/// Index of the third argument.
pub const DX: u32 = 12;
/// The stack pointer.
pub const SP: u32 = 19;
/// Index of the fourth argument.
pub const R10: u32 = 7;

/// Where the bytes of a call are.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Buffer {
    /// The second argument is their address.
    Flat,
    /// The second argument is an array of `struct iovec`, the third its length.
    Vector,
    /// The second argument is a `struct user_msghdr`, which has the vector.
    Message,
    /// Not in the program's memory, or at a place that is not known.
    Unseen,
}

/// Where the bytes of the call with this number are.
#[inline(always)]
pub const fn buffer(call: u32) -> Buffer {
    match call {
        // read, write, sendto, recvfrom
        0 | 1 | 44 | 45 => Buffer::Flat,
        // readv, writev
        19 | 20 => Buffer::Vector,
        // sendmsg, recvmsg
        46 | 47 => Buffer::Message,
        _ => Buffer::Unseen,
    }
}

/// What the calls that the second backend hooks have in common: tracepoint name and whether they send.
/// `sendfile` gives a length and no buffer, as `splice` does in the direction into a socket.
pub const HOOKED: [(&str, Way); 9] = [
    ("read", Way::Receive),
    ("readv", Way::Receive),
    ("recvfrom", Way::Receive),
    ("recvmsg", Way::Receive),
    ("write", Way::Send),
    ("writev", Way::Send),
    ("sendto", Way::Send),
    ("sendmsg", Way::Send),
    ("sendfile64", Way::Send),
];

/// The number of `sendfile`, whose socket is its first argument as for the others.
pub const SENDFILE: u32 = 40;

/// Which way a call moves bytes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Way {
    /// Out of the process.
    Send,
    /// Into the process.
    Receive,
}

/// The name of a call that is not in the table, for people; the number otherwise.
pub const fn name(call: u32) -> Option<&'static str> {
    Some(match call {
        0 => "read",
        1 => "write",
        19 => "readv",
        20 => "writev",
        40 => "sendfile",
        44 => "sendto",
        45 => "recvfrom",
        46 => "sendmsg",
        47 => "recvmsg",
        275 => "splice",
        276 => "tee",
        299 => "recvmmsg",
        307 => "sendmmsg",
        425 => "io_uring_setup",
        426 => "io_uring_enter",
        _ => return None,
    })
}
