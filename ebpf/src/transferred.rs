//! *So many bytes were just moved through this socket by this task*: the one function behind every
//! capture, called once per socket call at its end.
//!
//! It finds the socket's state, asks its policy, gathers what is wanted and writes records. It must
//! count every byte it leaves out, by cause.

use core::ffi::c_void;
use core::ptr::{addr_of, addr_of_mut, read_unaligned};

use aya_ebpf::bindings::BPF_NOEXIST;
use aya_ebpf::helpers::bpf_get_current_pid_tgid;
use aya_ebpf::helpers::generated::{bpf_get_smp_processor_id, bpf_probe_read_kernel};
use spandrel_proto::call::{self, Way};
use spandrel_proto::counter::Counter;
use spandrel_proto::head::{STEP, empty_line};
use spandrel_proto::layout::TLS_KEYS;
use spandrel_proto::policy::{BLOCK, Decision, Policy, decide};
use spandrel_proto::record::{
    Connecting, Data, FLAG_ACTIVE, FLAG_FIRST, FLAG_IN_EPOLL, FLAG_LAST, FLAG_LATE, FLAG_NONBLOCKING,
    FLAG_SEND, Loss, Opened, REST_NOTHING, REST_UNREADABLE, REST_UNSEEN, REST_VECTOR, State, TAG_CONNECTING,
    TAG_DATA, TAG_OPENED, TAG_STATE, TRANSPORT_FOREIGN, TRANSPORT_TCP, TRANSPORT_UNIX, tcp_state,
};

use spandrel_proto::tls::CALLS;
use spandrel_proto::walk::WORDS_ROOM;

use crate::frames;
use crate::gather::{gather, locate};
use crate::maps::{self, GATHERED, LOSSES, count, count_unseen, off, run, through};
use crate::memory::{Helped, Memory, Registers, current_task, kernel, of_task};
use crate::process::header;
use crate::{ring, socket};

/// include/linux/socket.h
const MSG_OOB: u32 = 1;
const MSG_PEEK: u32 = 2;
const MSG_TRUNC: u32 = 0x20;
const MSG_DONTWAIT: u32 = 0x40;
const MSG_ERRQUEUE: u32 = 0x2000;
/// include/linux/sched.h: a thread of io_uring, or of the kernel; it has no registers of a program.
const PF_NO_PROGRAM: u32 = 0x10 | 0x0020_0000;

/// A call that has just ended.
pub struct Transfer {
    /// The socket.
    pub sk: *const u8,
    /// Bytes moved, or a negative errno.
    pub result: i32,
    /// `MSG_` flags.
    pub flags: u32,
    /// Which way.
    pub way: Way,
    /// The caller's registers.
    pub registers: Registers,
}

/// Records a call.
///
/// # Safety
/// `transfer.sk` must be a socket that `M` may read.
#[inline(always)]
pub unsafe fn transferred<M: Memory>(transfer: &Transfer) {
    let Transfer { sk, result, flags, way, registers } = *transfer;
    let receives = way == Way::Receive;
    if result < 0 || flags & (MSG_PEEK | MSG_ERRQUEUE) != 0 || (receives && flags & MSG_OOB != 0) {
        return;
    }
    let total = result as u32;
    // SAFETY: the caller's promise; the state and scratch are checked pointers.
    unsafe {
        let (transport, family) = socket::transport::<M>(sk);
        // Nothing was moved: only the end of a unix stream is worth telling, which has no other sign.
        if transport == 0 || (total == 0 && !(receives && transport == TRANSPORT_UNIX)) {
            return;
        }
        let ids = bpf_get_current_pid_tgid();
        let pid = (ids >> 32) as u32;
        if pid == run!(own_pid) {
            return;
        }
        count(Counter::Calls, 1);
        count(if receives { Counter::BytesMovedReceive } else { Counter::BytesMovedSend }, total as u64);
        if transport == TRANSPORT_FOREIGN {
            return count(Counter::BytesForeign, total as u64);
        }
        if maps::ignored(pid) {
            return count(Counter::BytesNotSelected, total as u64);
        }
        let Some(state) = socket::state::<M>(sk, true) else { return socket::count_stateless(total as u64) };
        let counter = if receives { addr_of_mut!((*state).received) } else { addr_of_mut!((*state).sent) };
        let moved = maps::add(counter, total as u64);
        let index = bpf_get_smp_processor_id() * 2 + receives as u32;
        let Some(scratch) = maps::scratch(index) else {
            return socket::count_stateless(total as u64);
        };
        if run!(tls) == TLS_KEYS && crate::tls::may_seek((*state).sought) {
            if crate::tls::begins_plain(registers) {
                (*state).sought = CALLS;
            } else {
                let (stack, descriptor) = (registers.word(call::SP), registers.word(call::DI) as u32);
                (*state).sought += crate::tls::tls_seek(index, pid, stack, (*state).id, descriptor);
            }
        }
        let data = addr_of_mut!((*scratch).data);
        let connection = (*state).id;
        let (tcp, shutdown) =
            socket::describe::<M>(addr_of_mut!((*data).socket), sk, transport, connection, moved);
        let position = if transport == TRANSPORT_TCP {
            if receives { tcp.received_at(total, shutdown) } else { tcp.sent_at(total) }
        } else {
            (moved - total as u64) as u32
        };
        let progress = addr_of_mut!((*scratch).progress);
        addr_of_mut!((*progress).family).write_volatile(family as u32);
        addr_of_mut!((*progress).sk).write_volatile(sk as u64);
        let transport = through(addr_of_mut!((*data).socket.transport), transport);
        let position = through(addr_of_mut!((*progress).position), position);
        let word = maps::policy_word(connection, !receives);
        let marks = receives as u32 | ((moved == total as u64) as u32) << 1;
        let mut how = frames::PLAIN;
        let wanted = matches!(Policy::decode(word), Policy::Frames(_) | Policy::Records(_));
        if total > 0 && ((*state).follows != 0 || wanted) {
            (*state).follows = 1;
            how = frames::frames_begin(index, total, word, marks);
            if how == frames::SILENT {
                count(Counter::CallsSilent, 1);
                return count(Counter::BytesSilent, total as u64);
            }
        }
        addr_of_mut!((*progress).how).write_volatile(how);
        addr_of_mut!((*progress).before).write_volatile(0);
        // Decoded only now, behind a box: kept across the call above, the position of a policy that has none would be put
        // on the stack, and the verifier of 6.12 refuses to store what was never written (that of 6.18 does not).
        let policy = Policy::decode(core::hint::black_box(word));
        let Decision::Record { skip, take, until_empty_line } =
            decide(policy, position, total, run!(capture_limit))
        else {
            count(Counter::CallsSilent, 1);
            return count(Counter::BytesSilent, total as u64);
        };
        let skip = through(addr_of_mut!((*progress).skip), skip);
        addr_of_mut!((*progress).take).write_volatile(take);
        addr_of_mut!((*progress).until_empty_line).write_volatile(until_empty_line as u32);
        count(Counter::BytesSilent, skip as u64);
        if (*state).announced == 0 {
            (*state).announced = announce(index);
        }

        let task_flags: u32 = of_task(current_task(), off!(task_flags));
        let mut number = registers.word(call::ORIG_AX) as u32;
        if task_flags & PF_NO_PROGRAM != 0
            || registers.word(call::CS) == call::CS_COMPAT
            || (receives && flags & MSG_TRUNC != 0 && transport == TRANSPORT_TCP)
        {
            // No registers of a program, call numbers of another table, or bytes that were thrown away.
            number = CALL_UNKNOWN;
        }
        let number = through(addr_of_mut!((*data).call), number);
        let (nonblocking, in_epoll) = socket::waiting::<M>(sk);
        let mut record_flags = if receives { 0 } else { FLAG_SEND };
        if nonblocking || flags & MSG_DONTWAIT != 0 {
            record_flags |= FLAG_NONBLOCKING;
        }
        if in_epoll {
            record_flags |= FLAG_IN_EPOLL;
        }
        let record_flags = through(addr_of_mut!((*progress).flags), record_flags as u32) as u16;
        addr_of_mut!((*data).header).write(header(TAG_DATA, record_flags, 0));
        addr_of_mut!((*data).header.lost).write((*state).lost);
        addr_of_mut!((*data).total).write(total);
        addr_of_mut!((*progress).note).write_volatile((*state).note);
        let evidence = crate::walk::evidence(index, pid);
        (*state).note = addr_of_mut!((*progress).note).read_volatile();
        addr_of_mut!((*data).walk).write(evidence as u16);
        addr_of_mut!((*data).words).write((evidence >> 16) as u16);
        locate(progress, registers, number);
        if (*progress).how == frames::FOLLOWED {
            (*state).lost = frames::frames_follow(index);
            return;
        }
        (*state).lost = record(index);
        let mut tracked = addr_of!((*progress).how).read_volatile() == frames::TRACKED;
        // The first call of each direction: a server may write its SETTINGS before it reads the preface, which then confirms them.
        let records = matches!(Policy::decode(word), Policy::Records(_)) && (*progress).how == frames::PLAIN;
        if !tracked && (records || (*state).born != 0 && moved == total as u64 && word == 0) {
            let marks = if records { marks | frames::MARK_RECORDS } else { marks };
            tracked = frames::frames_meet(index, total, marks) != 0;
            if tracked {
                (*state).follows = 1;
            }
        }
        if tracked {
            frames::frames_track(index);
        }
    }
}

/// The number under which calls are counted whose own number means nothing.
const CALL_UNKNOWN: u32 = spandrel_proto::counter::CALL_NUMBERS - 1;

/// Gathers the first block and, if a head may go on behind it, the rest; one record per block. What is to
/// be done stands in the scratch space. Returns how many records of the socket are now lost in a row.
///
/// A global function, which the verifier checks once and for all arguments: followed from each of the
/// many paths that lead here, its loops would exceed every limit. So it takes numbers only.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn record(index: u32) -> u32 {
    let Some(scratch) = maps::scratch(index) else { return 0 };
    // SAFETY: `scratch` is this CPU's.
    unsafe {
        let (data, progress) = (addr_of_mut!((*scratch).data), addr_of_mut!((*scratch).progress));
        let (skip, take) = ((*progress).skip, (*progress).take);
        let until_empty_line = (*progress).until_empty_line != 0;
        let first = if take < BLOCK { take } else { BLOCK };
        let (filled, rest) = if first == 0 { (0, REST_NOTHING) } else { gather(index, scratch, skip, first) };
        // A preface of HTTP/2 has an empty line, and is no head: what follows it are frames.
        let preface =
            read_unaligned(addr_of!((*scratch).bytes) as *const u64) == u64::from_ne_bytes(*b"PRI * HT");
        let until_empty_line = until_empty_line && !preface;
        let goes_on = rest == REST_NOTHING
            && take > BLOCK
            && filled == BLOCK
            && !(until_empty_line && holds_empty_line(index, 0) != 0);
        if !goes_on {
            emit(index, 0, skip, filled, (FLAG_FIRST | FLAG_LAST) as u32 | rest << 16);
            leave(&*data, skip + filled, rest);
            return (*data).header.lost;
        }
        let (filled, rest) = gather(index, scratch, skip, take);
        let mut end = skip;
        for block in 0..(GATHERED as u32 / BLOCK) {
            let at = block * BLOCK;
            if at >= filled {
                break;
            }
            let left = filled - at;
            let length = through(addr_of_mut!((*progress).length), if left < BLOCK { left } else { BLOCK });
            let ends = left <= BLOCK || (until_empty_line && block > 0 && holds_empty_line(index, at) != 0);
            let mut flags = if ends { FLAG_LAST } else { 0 };
            if block == 0 {
                flags |= FLAG_FIRST;
            }
            let flags = through(addr_of_mut!((*progress).flags), flags as u32) as u16;
            let rest = through(
                addr_of_mut!((*progress).piece_rest),
                if left <= BLOCK { rest } else { REST_NOTHING },
            );
            emit(index, at, skip + at, length, flags as u32 | rest << 16);
            end = skip + at + length;
            if flags & FLAG_LAST != 0 {
                break;
            }
        }
        leave(&*data, end, rest);
        (*data).header.lost
    }
}

/// Counts what follows the last piece of a call.
#[inline(always)]
pub fn leave(data: &Data, end: u32, rest: u32) {
    let left = data.total.saturating_sub(end) as u64;
    match rest {
        REST_UNSEEN => {
            count(Counter::BytesUnseen, left);
            count_unseen(data.call, left);
        }
        REST_UNREADABLE => count(Counter::BytesUnreadable, left),
        REST_VECTOR => count(Counter::BytesVector, left),
        _ => count(Counter::BytesLimit, left),
    }
}

/// Writes one piece: `length` bytes that lie `at` of the gathered bytes, a whole number of blocks, and come
/// after the first `skip` of the call. `marks`: `FLAG_FIRST` and `FLAG_LAST`, and in the upper half why nothing
/// follows, a `REST_` constant. A global function, as [`record`].
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn emit(index: u32, at: u32, skip: u32, length: u32, marks: u32) -> u32 {
    const FIXED: usize = size_of::<Data>();
    let Some(scratch) = maps::scratch(index) else { return 0 };
    // At most a block; the mask is for the verifier.
    let length = core::hint::black_box(length) & (2 * BLOCK - 1);
    let at = core::hint::black_box(at) & (GATHERED as u32 - 1);
    // SAFETY: there is HEAD_ROOM before `bytes`.
    unsafe {
        let data = addr_of_mut!((*scratch).data);
        let flags = (*data).header.flags & !(FLAG_FIRST | FLAG_LAST) | marks as u16;
        addr_of_mut!((*data).header.flags).write(flags);
        // The first piece carries the evidence, which lies between the head and the bytes.
        let mut words = 0u32;
        if marks & FLAG_FIRST as u32 != 0 {
            words = core::hint::black_box((*data).words as u32) & (WORDS_ROOM as u32 - 1);
        } else {
            addr_of_mut!((*data).walk).write(0);
            addr_of_mut!((*data).words).write(0);
        }
        let fixed = FIXED as u32 + words * 8;
        addr_of_mut!((*data).header.length).write(fixed + length);
        addr_of_mut!((*data).skip).write(skip);
        addr_of_mut!((*data).captured).write(length);
        let before = addr_of!((*scratch).progress.before).read_volatile();
        addr_of_mut!((*scratch).progress.before).write_volatile(0);
        addr_of_mut!((*data).rest).write(marks >> 16 | before << 8);
        // The head of the record stands directly before its bytes: in the room before the first block,
        // later on the end of the block before, which is already written.
        // Added to the foremost place that it may have: the verifier follows no subtraction.
        const ROOM: usize = WORDS_ROOM * 8;
        let slack = core::hint::black_box(ROOM as u32 - words * 8) as usize & (2 * ROOM - 1);
        let foremost = (addr_of_mut!((*scratch).bytes) as *mut u8).sub(FIXED + ROOM);
        let record = foremost.add(slack).add(at as usize);
        for word in 0..FIXED / 8 {
            (record as *mut u64).add(word).write_volatile((data as *const u64).add(word).read());
        }
        if words != 0 {
            crate::walk::copy_words(index, record.add(FIXED) as *mut u64, words);
        }
        let begins =
            run!(tls) != 0 && begins_session(addr_of!((*scratch).bytes) as *const u8, at) && skip == 0;
        // Its keys may be gone some milliseconds later.
        let written = match begins {
            true => ring::write_and_wake(record, (fixed + length) as u64),
            false => ring::write(record, (fixed + length) as u64),
        };
        if written {
            count(Counter::BytesCaptured, length as u64);
            addr_of_mut!((*data).header.lost).write(0);
            return 1;
        }
        count(Counter::BytesRingFull, length as u64);
        (*data).header.lost += 1;
        // With the last record of a call, the rest of the call is unknown too, captured or not.
        let last = flags & FLAG_LAST != 0;
        let lost = if last { (*data).total.wrapping_sub(skip) } else { length };
        let from = (*scratch).progress.position.wrapping_add(skip);
        note_loss(index, (*scratch).progress.family | ((flags & FLAG_SEND) as u32) << 31, from, lost);
    }
    0
}

/// Whether the first gathered bytes are those of a record with a ClientHello: a handshake's, of version 3.1 as all write there
/// (RFC 8446, section 5.1).
#[inline(always)]
unsafe fn begins_session(bytes: *const u8, at: u32) -> bool {
    // SAFETY: the bytes are map memory.
    at == 0 && unsafe { read_unaligned(bytes as *const u32) } & 0x00ff_ffff == 0x0001_0316
}

/// Notes beside the ring what of which connection did not fit into it. The top bit of `family` says that
/// the bytes were sent. A global function, as [`record`].
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn note_loss(index: u32, family: u32, from: u32, lost: u32) -> u32 {
    let Some(scratch) = maps::scratch(index) else { return 0 };
    // SAFETY: map values are checked; the socket is the one of the call, read through helpers.
    unsafe {
        let key: u64 = (*scratch).data.socket.connection;
        let mut loss = LOSSES.get_ptr_mut(key);
        if loss.is_none() {
            let fresh = addr_of_mut!((*scratch).loss);
            (fresh as *mut [u64; size_of::<Loss>() / 8]).write([0; size_of::<Loss>() / 8]);
            socket::addresses::<Helped>(
                addr_of_mut!((*fresh).addresses),
                (*scratch).progress.sk as *const u8,
                family as u16,
            );
            addr_of_mut!((*fresh).transport).write((*scratch).data.socket.transport);
            // By reference: by value it would be copied to the stack.
            let fresh: &Loss = &*fresh;
            if LOSSES.insert(key, fresh, BPF_NOEXIST as u64).is_ok() {
                loss = LOSSES.get_ptr_mut(key);
            }
        }
        let Some(loss) = loss else {
            count(Counter::LossesUnnoted, 1);
            return 0;
        };
        let to = from.wrapping_add(lost);
        (*loss).records += 1;
        if family >> 31 != 0 {
            if (*loss).sent == 0 {
                (*loss).sent_span[0] = from;
            }
            (*loss).sent += lost as u64;
            (*loss).sent_span[1] = to;
        } else {
            if (*loss).received == 0 {
                (*loss).received_span[0] = from;
            }
            (*loss).received += lost as u64;
            (*loss).received_span[1] = to;
        }
    }
    1
}

/// Whether the whole block at `at` of the gathered bytes holds an empty line. A global function, as
/// [`record`].
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn holds_empty_line(index: u32, at: u32) -> u32 {
    let Some(scratch) = maps::scratch(index) else { return 1 };
    let mut found = 0u64;
    // SAFETY: the mask keeps the block within the bytes.
    unsafe {
        let block = (addr_of_mut!((*scratch).bytes) as *const u8).add(at as usize & (GATHERED - 1));
        let mut step = 0usize;
        while step + 8 <= BLOCK as usize {
            found |= empty_line(read_unaligned(block.add(step) as *const u64));
            step += STEP;
        }
        // The last window must end with the block.
        found |= empty_line(read_unaligned(block.add(BLOCK as usize - 8) as *const u64));
    }
    (found != 0) as u32
}

/// Tells the agent of a connection that it has not heard of; the socket is described in the scratch space.
/// Returns whether that was possible. A global function, as [`record`].
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn announce(index: u32) -> u32 {
    /// `sizeof(struct sockaddr_un)` is 110; one less than a power of two is a mask.
    const MOST_PATH: u32 = 127;
    const FIXED: usize = size_of::<Opened>();
    let Some(scratch) = maps::scratch(index) else { return 0 };
    // SAFETY: `scratch` is this CPU's; the call's bytes are not in it yet.
    unsafe {
        let sk = (*scratch).progress.sk as *const u8;
        let record = addr_of_mut!((*scratch).bytes) as *mut Opened;
        let mut path = 0;
        if (*scratch).data.socket.transport == TRANSPORT_UNIX {
            let address = socket::unix_address(sk);
            if address != 0 {
                // struct unix_address (include/net/af_unix.h): refcnt, len, then the sockaddr_un, whose
                // path follows a 2-byte family.
                let length: u32 = kernel(address + 4);
                path = core::hint::black_box(length.saturating_sub(2)) & MOST_PATH;
                let from = address + off!(unix_addr_name) as u64 + 2;
                bpf_probe_read_kernel(
                    (record as *mut u8).add(FIXED) as *mut c_void,
                    path,
                    from as *const c_void,
                );
            }
        }
        let length = FIXED + path as usize;
        addr_of_mut!((*record).header).write(header(TAG_OPENED, FLAG_LATE, length));
        addr_of_mut!((*record).socket).write((*scratch).data.socket);
        let family = (*scratch).progress.family as u16;
        socket::addresses::<Helped>(addr_of_mut!((*record).addresses), sk, family);
        addr_of_mut!((*record).path).write(path);
        addr_of_mut!((*record).reserved).write(0);
        ring::write(record as *mut u8, length as u64) as u32
    }
}

/// A TCP socket goes to another state.
///
/// # Safety
/// `sk` must be a socket that `M` may read.
#[inline(always)]
pub unsafe fn state_changed<M: Memory>(sk: *const u8, from: u32, to: u32) {
    // SAFETY: the caller's promise.
    unsafe {
        if maps::learning() {
            learn::<M>(sk);
        }
        let opens =
            to == tcp_state::ESTABLISHED && (from == tcp_state::SYN_SENT || from == tcp_state::SYN_RECV);
        let ends = to == tcp_state::FIN_WAIT1 || to == tcp_state::LAST_ACK || to == tcp_state::CLOSE;
        if !opens && !ends {
            return;
        }
        let (transport, family) = socket::transport::<M>(sk);
        if transport != TRANSPORT_TCP {
            return;
        }
        if opens && from == tcp_state::SYN_RECV {
            // What is known of this address is another socket's, and nothing tells: it has no file yet.
            socket::forget(sk);
        }
        let Some(state) = socket::state::<M>(sk, opens) else {
            if opens {
                socket::count_stateless(0);
            }
            return;
        };
        // On the stack: this runs in a softirq, perhaps in the middle of a call of this CPU.
        if opens {
            (*state).born = 1;
            let flags = if from == tcp_state::SYN_SENT { FLAG_ACTIVE } else { 0 };
            let mut opened =
                Opened { header: header(TAG_OPENED, flags, size_of::<Opened>()), ..Opened::default() };
            socket::describe::<M>(addr_of_mut!(opened.socket), sk, transport, (*state).id, 0);
            socket::addresses::<M>(addr_of_mut!(opened.addresses), sk, family);
            if ring::write(addr_of_mut!(opened) as *mut u8, size_of::<Opened>() as u64) {
                (*state).announced = 1;
            }
            return;
        }
        let refused = from == tcp_state::SYN_SENT && (*state).connecting != 0;
        if (*state).announced != 0 || refused {
            let mut record = State { header: header(TAG_STATE, 0, size_of::<State>()), ..State::default() };
            socket::describe::<M>(addr_of_mut!(record.socket), sk, transport, (*state).id, 0);
            record.header.lost = (*state).lost;
            record.from = from;
            record.to = to;
            record.error = M::load(sk, off!(sock_err));
            ring::write(addr_of_mut!(record) as *mut u8, size_of::<State>() as u64);
        }
        // While a program has it open, what came before can still be read. Its inode tells it from the next one here.
        if to == tcp_state::CLOSE && (from == tcp_state::SYN_SENT || socket::inode::<M>(sk) == 0) {
            socket::forget(sk);
        }
    }
}

/// A task asks for a connection: the one moment at which it is known who does.
///
/// # Safety
/// `sk` must be a socket that `M` may read.
#[inline(always)]
pub unsafe fn asked<M: Memory>(sk: *const u8) {
    // SAFETY: the caller's promise; the scratch space is this program's and this CPU's.
    unsafe {
        let (transport, family) = socket::transport::<M>(sk);
        let pid = (bpf_get_current_pid_tgid() >> 32) as u32;
        if transport != TRANSPORT_TCP || pid == run!(own_pid) || maps::ignored(pid) {
            return;
        }
        // A socket that was connected before is another connection now.
        socket::forget(sk);
        let Some(state) = socket::state::<M>(sk, true) else { return socket::count_stateless(0) };
        let Some(asking) = maps::asking() else { return };
        addr_of_mut!((*asking).sk).write_volatile(sk as u64);
        let evidence = crate::walk::evidence_asking(pid, (*state).id);
        let words = core::hint::black_box(evidence >> 16) & (WORDS_ROOM as u32 - 1);
        if evidence != 0 {
            crate::walk::asked_words(addr_of_mut!((*asking).words) as *mut u64, words);
        }
        let length = size_of::<Connecting>() + words as usize * 8;
        let record = addr_of_mut!((*asking).connecting);
        addr_of_mut!((*record).header).write(header(TAG_CONNECTING, 0, length));
        socket::describe::<M>(addr_of_mut!((*record).socket), sk, transport, (*state).id, 0);
        socket::addresses::<M>(addr_of_mut!((*record).addresses), sk, family);
        addr_of_mut!((*record).walk).write(evidence as u16);
        addr_of_mut!((*record).words).write(words as u16);
        addr_of_mut!((*record).reserved).write(0);
        (*state).connecting = ring::write(asking as *mut u8, length as u64) as u32;
    }
}

/// Keeps what only a socket of the agent's own can tell.
#[inline(always)]
unsafe fn learn<M: Memory>(sk: *const u8) {
    // SAFETY: the caller's promise; the entry is checked.
    unsafe {
        let Some(learned) = maps::learned() else { return };
        let family: u16 = M::load(sk, off!(sock_family));
        let prot: u64 = M::load(sk, off!(sock_prot));
        if family == socket::AF_INET {
            addr_of_mut!((*learned).tcp_prot).write_volatile(prot);
        } else if family == socket::AF_INET6 {
            addr_of_mut!((*learned).tcpv6_prot).write_volatile(prot);
        }
        let file = socket::file::<M>(sk);
        if !file.is_null() {
            addr_of_mut!((*learned).socket_file_ops).write_volatile(M::load(file, off!(file_f_op)));
        }
    }
}
