//! Where the members of kernel structures are, and how this run is set: constants that the agent
//! writes into the object file before it is loaded.
//!
//! The verifier knows their values, so code that a kernel cannot have (`if features.x == 0`) is removed
//! before it is judged: one object for all kernels. Integers only, no padding.

macro_rules! offsets {
    ($($(#[$doc:meta])* $field:ident = $structure:literal $($member:literal).+ $(or $other:literal)?;)*) => {
        /// Byte offsets of members, from the running kernel's BTF.
        #[repr(C)]
        #[derive(Clone, Copy, Debug, Default)]
        pub struct Offsets { $($(#[$doc])* pub $field: u32,)* }

        impl Offsets {
            /// Where each field comes from: its name, the structure, the path of members, and the name
            /// that the member has on kernels that lack the first. All are needed.
            pub const SOURCES: &'static [(&'static str, &'static str, &'static [&'static str], Option<&'static str>)] =
                &[$((stringify!($field), $structure, &[$($member),+], { #[allow(unused_mut, unused_assignments)] { let mut other = None; $(other = Some($other);)? other } })),*];

            /// The fields in the order of [`Self::SOURCES`].
            pub fn fields_mut(&mut self) -> [&mut u32; Self::SOURCES.len()] {
                [$(&mut self.$field),*]
            }
        }
    };
}

offsets! {
    /// include/linux/sched.h
    task_flags = "task_struct" "flags";
    /// include/linux/sched.h
    task_pid = "task_struct" "pid";
    /// include/linux/sched.h
    task_tgid = "task_struct" "tgid";
    /// include/linux/sched.h
    task_group_leader = "task_struct" "group_leader";
    /// include/linux/sched.h; `CLOCK_MONOTONIC`, nanoseconds
    task_start_time = "task_struct" "start_time";
    /// include/linux/sched.h
    task_self_exec_id = "task_struct" "self_exec_id";
    /// include/linux/sched.h
    task_mm = "task_struct" "mm";
    /// include/linux/sched.h
    task_signal = "task_struct" "signal";
    /// include/linux/sched.h
    task_files = "task_struct" "files";
    /// include/linux/sched.h; the base of the kernel stack, for registers before 5.15
    task_stack = "task_struct" "stack";
    /// arch/x86/include/asm/processor.h; the base of the segment that holds thread-local variables
    task_fsbase = "task_struct" "thread" . "fsbase";
    /// fs/eventpoll.c; a link of `file.f_ep`'s list
    epitem_fllink = "epitem" "fllink";
    /// fs/eventpoll.c; what the program gave to `epoll_ctl`
    epitem_event = "epitem" "event";
    /// include/linux/sched/signal.h
    signal_live = "signal_struct" "live";
    /// include/linux/mm_types.h
    mm_arg_start = "mm_struct" "arg_start";
    /// include/linux/mm_types.h
    mm_arg_end = "mm_struct" "arg_end";
    /// include/linux/binfmts.h
    bprm_filename = "linux_binprm" "filename";
    /// include/linux/fdtable.h
    files_fdt = "files_struct" "fdt";
    /// include/linux/fdtable.h
    fdt_max_fds = "fdtable" "max_fds";
    /// include/linux/fdtable.h
    fdt_fd = "fdtable" "fd";
    /// include/linux/fs.h
    file_f_op = "file" "f_op";
    /// include/linux/fs.h
    file_f_flags = "file" "f_flags";
    /// include/linux/fs.h
    file_f_inode = "file" "f_inode";
    /// include/linux/fs.h
    file_private_data = "file" "private_data";
    /// include/linux/fs.h; 5.10 has a list head instead of a pointer
    file_f_ep = "file" "f_ep" or "f_ep_links";
    /// include/linux/fs.h
    inode_i_ino = "inode" "i_ino";
    /// include/linux/net.h
    socket_sk = "socket" "sk";
    /// include/linux/net.h
    socket_file = "socket" "file";
    /// include/net/sock.h
    sock_family = "sock" "__sk_common" . "skc_family";
    /// include/net/sock.h
    sock_state = "sock" "__sk_common" . "skc_state";
    /// include/net/sock.h
    sock_prot = "sock" "__sk_common" . "skc_prot";
    /// include/net/sock.h
    sock_net = "sock" "__sk_common" . "skc_net";
    /// include/net/sock.h; network byte order
    sock_dport = "sock" "__sk_common" . "skc_dport";
    /// include/net/sock.h; host byte order
    sock_num = "sock" "__sk_common" . "skc_num";
    /// include/net/sock.h
    sock_daddr = "sock" "__sk_common" . "skc_daddr";
    /// include/net/sock.h
    sock_rcv_saddr = "sock" "__sk_common" . "skc_rcv_saddr";
    /// include/net/sock.h
    sock_v6_daddr = "sock" "__sk_common" . "skc_v6_daddr";
    /// include/net/sock.h
    sock_v6_rcv_saddr = "sock" "__sk_common" . "skc_v6_rcv_saddr";
    /// include/net/sock.h; 0 until somebody has asked for it
    sock_cookie = "sock" "__sk_common" . "skc_cookie";
    /// include/net/sock.h
    sock_type = "sock" "sk_type";
    /// include/net/sock.h
    sock_shutdown = "sock" "sk_shutdown";
    /// include/net/sock.h
    sock_flags = "sock" "__sk_common" . "skc_flags";
    /// include/net/sock.h
    sock_err = "sock" "sk_err";
    /// include/net/sock.h
    sock_socket = "sock" "sk_socket";
    /// include/net/sock.h
    sock_wmem_alloc = "sock" "sk_wmem_alloc";
    /// include/net/net_namespace.h
    net_inum = "net" "ns" . "inum";
    /// include/linux/tcp.h
    tcp_write_seq = "tcp_sock" "write_seq";
    /// include/linux/tcp.h
    tcp_snd_una = "tcp_sock" "snd_una";
    /// include/linux/tcp.h
    tcp_copied_seq = "tcp_sock" "copied_seq";
    /// include/linux/tcp.h
    tcp_rcv_nxt = "tcp_sock" "rcv_nxt";
    /// include/linux/tcp.h
    tcp_bytes_acked = "tcp_sock" "bytes_acked";
    /// include/linux/tcp.h
    tcp_bytes_received = "tcp_sock" "bytes_received";
    /// include/net/af_unix.h
    unix_peer = "unix_sock" "peer";
    /// include/net/af_unix.h
    unix_addr = "unix_sock" "addr";
    /// include/net/af_unix.h
    unix_addr_name = "unix_address" "name";
}

/// How this run of the kernel programs is set. All `u32`, 0 for no.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct Run {
    /// The agent's own process, which is never recorded.
    pub own_pid: u32,
    /// `bpf_get_current_task_btf` and `bpf_task_pt_regs` exist (5.15).
    pub task_registers: u32,
    /// Sockets have storage, cookies and typed access in these programs: the first backend.
    pub typed_sockets: u32,
    /// `file.f_ep` is a pointer (5.11), not a list head.
    pub epoll_pointer: u32,
    /// At most so many bytes of a call are captured.
    pub capture_limit: u32,
    /// Only processes in the map `SELECTED` are recorded.
    pub selective: u32,
    /// The ring's size in bytes; the reader is woken when it is half full.
    pub ring_bytes: u32,
    /// How TLS is read: 0, or a `TLS_` constant.
    pub tls: u32,
}

/// By the keys of its sessions.
pub const TLS_KEYS: u32 = 1;
/// By probes in its libraries.
pub const TLS_PROBES: u32 = 2;

/// Addresses that only the running kernel can tell, learned from a socket of the agent's own.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct Learned {
    /// `&tcp_prot`: a socket with another `sk_prot` is not plain TCP.
    pub tcp_prot: u64,
    /// `&tcpv6_prot`.
    pub tcpv6_prot: u64,
    /// `&socket_file_ops`: a file with other operations is no socket.
    pub socket_file_ops: u64,
    /// 0 until the agent asks for it: what is learned is stored only while this is set.
    pub learning: u64,
}
