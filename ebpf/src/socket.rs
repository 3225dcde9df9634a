//! From a socket to what is known of it: its kind, its state, its positions, its addresses.

use core::ffi::c_void;
use core::ptr::{addr_of, addr_of_mut, null_mut};

use aya_ebpf::helpers::generated::{
    bpf_get_socket_cookie, bpf_probe_read_kernel, bpf_sk_storage_get, bpf_skc_to_tcp_sock,
};
use spandrel_proto::counter::Counter;
use spandrel_proto::position::{RCV_SHUTDOWN, SOCK_DONE, Tcp};
use spandrel_proto::record::{Addresses, Socket, TRANSPORT_FOREIGN, TRANSPORT_TCP, TRANSPORT_UNIX, Unix};

use crate::maps::{self, SOCKETS, SOCKETS_BY_ADDRESS, SocketState, count, off, run};
use crate::memory::{Helped, Memory, current_task, kernel, of_task};

/// include/linux/socket.h
pub const AF_UNIX: u16 = 1;
/// include/linux/socket.h
pub const AF_INET: u16 = 2;
/// include/linux/socket.h
pub const AF_INET6: u16 = 10;
/// include/linux/net.h
const SOCK_STREAM: u16 = 1;
/// include/uapi/asm-generic/fcntl.h
const O_NONBLOCK: u32 = 0o4000;

/// The socket behind a file descriptor of the current task, if it is one.
///
/// # Safety
/// Must run in process context.
#[inline(always)]
pub unsafe fn of_descriptor(descriptor: u32) -> Option<*const u8> {
    // SAFETY: all loads go through the task's own pointers or through helpers.
    unsafe {
        let files: *const u8 = of_task(current_task(), off!(task_files));
        let table: *const u8 = of_task(files, off!(files_fdt));
        let most: u32 = of_task(table, off!(fdt_max_fds));
        if descriptor >= most {
            return None;
        }
        let array: u64 = of_task(table, off!(fdt_fd));
        let file: u64 = kernel(array + descriptor as u64 * 8);
        let operations: u64 = kernel(file + off!(file_f_op) as u64);
        let learned = maps::learned()?;
        if operations == 0 || operations != addr_of!((*learned).socket_file_ops).read_volatile() {
            return None;
        }
        let socket: u64 = kernel(file + off!(file_private_data) as u64);
        let sk: u64 = kernel(socket + off!(socket_sk) as u64);
        if sk == 0 { None } else { Some(sk as *const u8) }
    }
}

/// What kind of stream a socket is: a `TRANSPORT_` constant, or 0 for one that is none.
///
/// # Safety
/// `sk` must be a socket that `M` may read.
#[inline(always)]
pub unsafe fn transport<M: Memory>(sk: *const u8) -> (u32, u16) {
    // SAFETY: the caller's promise.
    unsafe {
        if M::load::<u16>(sk, off!(sock_type)) != SOCK_STREAM {
            return (0, 0);
        }
        let family: u16 = M::load(sk, off!(sock_family));
        if family == AF_UNIX {
            return (TRANSPORT_UNIX, family);
        }
        if family != AF_INET && family != AF_INET6 {
            return (0, family);
        }
        let Some(learned) = maps::learned() else { return (0, family) };
        let prot: u64 = M::load(sk, off!(sock_prot));
        let plain = if family == AF_INET {
            addr_of!((*learned).tcp_prot).read_volatile()
        } else {
            addr_of!((*learned).tcpv6_prot).read_volatile()
        };
        (if prot == plain { TRANSPORT_TCP } else { TRANSPORT_FOREIGN }, family)
    }
}

/// The state of a socket; made at first sight if `create`.
///
/// # Safety
/// `sk` must be a socket that `M` may read.
#[inline(always)]
pub unsafe fn state<M: Memory>(sk: *const u8, create: bool) -> Option<*mut SocketState> {
    // SAFETY: the caller's promise.
    unsafe {
        if M::TYPED {
            let map = addr_of!(SOCKETS) as *mut c_void;
            let state =
                bpf_sk_storage_get(map, sk as *mut c_void, null_mut(), create as u64) as *mut SocketState;
            if state.is_null() {
                return None;
            }
            if (*state).id == 0 {
                (*state).id = bpf_get_socket_cookie(sk as *mut c_void);
            }
            return Some(state);
        }
        let key = sk as u64;
        let inode = inode::<M>(sk);
        if let Some(state) = SOCKETS_BY_ADDRESS.get_ptr_mut(key) {
            // An address is used again soon after a socket is freed, and a unix socket has no event at
            // its end; its inode number tells. (It is 0 while a connection waits to be accepted.)
            let known = (*state).inode;
            if inode == 0 || known == inode {
                return Some(state);
            }
            if known == 0 {
                (*state).inode = inode;
                return Some(state);
            }
            if !create {
                return None;
            }
        } else if !create {
            return None;
        }
        let fresh = SocketState {
            id: maps::number(),
            sent: 0,
            received: 0,
            inode,
            lost: 0,
            announced: 0,
            born: 0,
            follows: 0,
            sought: 0,
            connecting: 0,
            note: 0,
        };
        if SOCKETS_BY_ADDRESS.insert(key, fresh, 0).is_err() {
            return None;
        }
        SOCKETS_BY_ADDRESS.get_ptr_mut(key)
    }
}

/// What a socket is called in records, if any were made of it; any address will do.
#[inline(always)]
pub fn known(sk: *const u8) -> Option<u64> {
    let id = if run!(typed_sockets) != 0 {
        kernel::<u64>(sk as u64 + off!(sock_cookie) as u64)
    } else {
        // SAFETY: it is read through helpers that survive any address; the entry is in the map.
        unsafe { (*state::<Helped>(sk, false)?).id }
    };
    if id == 0 { None } else { Some(id) }
}

/// Forgets a socket that is closed (second backend; the first's storage dies with the socket).
#[inline(always)]
pub fn forget(sk: *const u8) {
    if run!(typed_sockets) == 0 {
        let _ = SOCKETS_BY_ADDRESS.remove(sk as u64);
    }
}

/// The inode number of a socket, 0 if it has no file.
///
/// # Safety
/// `sk` must be a socket that `M` may read.
#[inline(always)]
pub unsafe fn inode<M: Memory>(sk: *const u8) -> u64 {
    // SAFETY: typed pointers all the way, or helpers.
    unsafe {
        let file = file::<M>(sk);
        if file.is_null() {
            return 0;
        }
        let inode: *const u8 = M::load(file, off!(file_f_inode));
        if inode.is_null() { 0 } else { M::load(inode, off!(inode_i_ino)) }
    }
}

/// The file of a socket, or null.
///
/// # Safety
/// `sk` must be a socket that `M` may read.
#[inline(always)]
pub unsafe fn file<M: Memory>(sk: *const u8) -> *const u8 {
    // SAFETY: as in `inode`.
    unsafe {
        let socket: *const u8 = M::load(sk, off!(sock_socket));
        if socket.is_null() { socket } else { M::load(socket, off!(socket_file)) }
    }
}

/// Whether the socket's file has `O_NONBLOCK`, and whether it is in an epoll set.
///
/// # Safety
/// `sk` must be a socket that `M` may read.
#[inline(always)]
pub unsafe fn waiting<M: Memory>(sk: *const u8) -> (bool, bool) {
    // SAFETY: as in `inode`.
    unsafe {
        let file = file::<M>(sk);
        if file.is_null() {
            return (false, false);
        }
        let flags: u32 = M::load(file, off!(file_f_flags));
        let epoll: u64 = M::load(file, off!(file_f_ep));
        // Before 5.11 `f_ep_links` is a list head: empty if it points at itself.
        let in_epoll = if run!(epoll_pointer) != 0 {
            epoll != 0
        } else {
            epoll != 0 && epoll != file as u64 + off!(file_f_ep) as u64
        };
        (flags & O_NONBLOCK != 0, in_epoll)
    }
}

/// Writes a socket as a record tells it, and returns its TCP positions.
///
/// # Safety
/// `sk` must be a socket that `M` may read and of this transport, `to` a place for the description.
#[inline(always)]
pub unsafe fn describe<M: Memory>(
    to: *mut Socket,
    sk: *const u8,
    transport: u32,
    connection: u64,
    moved: u64,
) -> (Tcp, u8) {
    // SAFETY: the caller's promise.
    unsafe {
        let mut shutdown = M::load::<u8>(sk, off!(sock_shutdown)) & 3;
        if transport == TRANSPORT_TCP
            && shutdown & RCV_SHUTDOWN != 0
            && M::load::<u64>(sk, off!(sock_flags)) & SOCK_DONE == 0
        {
            shutdown &= !RCV_SHUTDOWN;
        }
        addr_of_mut!((*to).connection).write(connection);
        addr_of_mut!((*to).transport).write(transport);
        addr_of_mut!((*to).shutdown).write(shutdown as u32);
        addr_of_mut!((*to).moved).write(moved);
        let mut tcp = Tcp::default();
        if transport == TRANSPORT_TCP {
            tcp = self::tcp::<M>(sk);
            (*to).set_tcp(&tcp);
        } else {
            let peer: u64 = kernel(sk as u64 + off!(unix_peer) as u64);
            let allocated: u32 = M::load(sk, off!(sock_wmem_alloc));
            let unix = Unix { sock: sk as u64, peer, inode: inode::<M>(sk), drained: allocated == 1 };
            (*to).set_unix(&unix);
        }
        (tcp, shutdown)
    }
}

#[inline(always)]
unsafe fn tcp<M: Memory>(sk: *const u8) -> Tcp {
    // SAFETY: the caller knows that `sk` is TCP.
    unsafe {
        let tcp = if M::TYPED { bpf_skc_to_tcp_sock(sk as *mut c_void) as *const u8 } else { sk };
        if tcp.is_null() {
            return Tcp::default();
        }
        Tcp {
            write_seq: M::load(tcp, off!(tcp_write_seq)),
            snd_una: M::load(tcp, off!(tcp_snd_una)),
            copied_seq: M::load(tcp, off!(tcp_copied_seq)),
            rcv_nxt: M::load(tcp, off!(tcp_rcv_nxt)),
            bytes_acked: M::load(tcp, off!(tcp_bytes_acked)),
            bytes_received: M::load(tcp, off!(tcp_bytes_received)),
        }
    }
}

/// Writes the addresses of a socket.
///
/// # Safety
/// `sk` must be a socket that `M` may read, `to` a place for them.
#[inline(always)]
pub unsafe fn addresses<M: Memory>(to: *mut Addresses, sk: *const u8, family: u16) {
    // SAFETY: the caller's promise; the helpers write 16 bytes at most and survive any address.
    unsafe {
        (to as *mut [u64; 6]).write([0; 6]);
        addr_of_mut!((*to).family).write(family as u32);
        if family == AF_UNIX {
            return;
        }
        let net: u64 = M::load(sk, off!(sock_net));
        addr_of_mut!((*to).net).write(kernel(net + off!(net_inum) as u64));
        addr_of_mut!((*to).local_port).write(M::load::<u16>(sk, off!(sock_num)) as u32);
        addr_of_mut!((*to).peer_port).write(u16::from_be(M::load::<u16>(sk, off!(sock_dport))) as u32);
        let (local, peer, length) = if family == AF_INET {
            (off!(sock_rcv_saddr), off!(sock_daddr), 4)
        } else {
            (off!(sock_v6_rcv_saddr), off!(sock_v6_daddr), 16)
        };
        let from = sk as u64;
        bpf_probe_read_kernel(
            addr_of_mut!((*to).local) as *mut c_void,
            length,
            (from + local as u64) as *const c_void,
        );
        bpf_probe_read_kernel(
            addr_of_mut!((*to).peer) as *mut c_void,
            length,
            (from + peer as u64) as *const c_void,
        );
    }
}

/// The address of the `struct unix_address` that this end, or else the other, is bound to; 0 if none.
#[inline(always)]
pub fn unix_address(sk: *const u8) -> u64 {
    let own: u64 = kernel(sk as u64 + off!(unix_addr) as u64);
    if own != 0 {
        return own;
    }
    let peer: u64 = kernel(sk as u64 + off!(unix_peer) as u64);
    if peer == 0 { 0 } else { kernel(peer + off!(unix_addr) as u64) }
}

/// Counts a socket that got no state, and the bytes that go unrecorded for it.
#[inline(always)]
pub fn count_stateless(bytes: u64) {
    count(Counter::NoState, 1);
    count(Counter::BytesNoState, bytes);
}
