//! The maps, the constants that the agent sets before loading, and the counters.
//!
//! Every map is bounded; what finds one full is counted by whoever asked.

use core::intrinsics::AtomicOrdering;
use core::ptr::{addr_of, read_volatile};

use aya_ebpf::btf_maps::SkStorage;
use aya_ebpf::macros::{btf_map, map};
use aya_ebpf::maps::{Array, HashMap, PerCpuArray, RingBuf};
use spandrel_proto::counter::{CALL_NUMBERS, Counter};
use spandrel_proto::layout::{Learned, Offsets, Run};
use spandrel_proto::policy::{SLOTS, Slot};
use spandrel_proto::record::{Connecting, Data, Exec, Loss, Observed};
use spandrel_proto::walk::{self, MAX_STEPS, Probed, ProbedAt, Step, WORDS_ROOM, Walked};

/// Where members of kernel structures are. Set by the agent.
#[unsafe(no_mangle)]
pub static OFFSETS: Offsets = {
    // SAFETY: a structure of integers; all zeroes is one of its values.
    unsafe { core::mem::zeroed() }
};

/// How this run is set. Set by the agent.
#[unsafe(no_mangle)]
pub static RUN: Run = {
    // SAFETY: as above.
    unsafe { core::mem::zeroed() }
};

/// An offset, as the agent set it.
macro_rules! off {
    ($field:ident) => {
        // SAFETY: reads a constant; volatile, because its value here is not the one it is loaded with.
        unsafe { core::ptr::read_volatile(core::ptr::addr_of!($crate::maps::OFFSETS.$field)) }
    };
}
/// A setting, as the agent set it.
macro_rules! run {
    ($field:ident) => {
        // SAFETY: as for `off!`.
        unsafe { core::ptr::read_volatile(core::ptr::addr_of!($crate::maps::RUN.$field)) }
    };
}
pub(crate) use {off, run};

/// What is kept of a socket for as long as it lives.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct SocketState {
    /// Its id.
    pub id: u64,
    /// Bytes written since it was first met.
    pub sent: u64,
    /// Bytes read since it was first met.
    pub received: u64,
    /// Its inode number, to tell a socket from a later one at the same address (second backend).
    pub inode: u64,
    /// Records lost since the last that was not.
    pub lost: u32,
    /// 1 once its *opened* record was written.
    pub announced: u32,
    /// 1 if it was there from its first byte on.
    pub born: u32,
    /// 1 once its frames are followed, or were.
    pub follows: u32,
    /// What a walk remembers of it.
    pub note: u64,
    /// Calls that have looked for the secrets of a TLS session.
    pub sought: u32,
    /// 1 once its *connecting* record was written.
    pub connecting: u32,
}

/// To the agent, in order.
#[map]
pub static RECORDS: RingBuf = RingBuf::with_byte_size(16 * 1024 * 1024, 0);

/// State by socket, first backend: dies with the socket.
#[btf_map]
pub static SOCKETS: SkStorage<SocketState> = SkStorage::new();

/// State by address of the socket, second backend.
#[map]
pub static SOCKETS_BY_ADDRESS: HashMap<u64, SocketState> =
    HashMap::with_max_entries(65536, 1 /* BPF_F_NO_PREALLOC */);

/// Numbers for the sockets of the second backend: how many each CPU has given.
#[map]
static NUMBERS: PerCpuArray<u64> = PerCpuArray::with_max_entries(1, 0);

/// Policies, by slot; written by the agent through shared memory.
#[map]
static POLICIES: Array<Slot> = Array::with_max_entries(SLOTS, 1 << 10 /* BPF_F_MMAPABLE */);

/// What could not be written to the ring, by connection.
#[map]
pub static LOSSES: HashMap<u64, Loss> = HashMap::with_max_entries(8192, 1 /* BPF_F_NO_PREALLOC */);

/// Processes that are not to be recorded, by thread group id; the value is their start time.
#[map]
static IGNORED: HashMap<u32, u64> = HashMap::with_max_entries(65536, 1 /* BPF_F_NO_PREALLOC */);

/// Walks, by slot; what is in one never changes while a process refers to it.
#[map]
static WALKS: Array<[Step; MAX_STEPS]> = Array::with_max_entries(walk::WALKS, 0);

/// Processes whose calls are walked, by thread group id.
#[map]
static WALKED: HashMap<u32, Walked> = HashMap::with_max_entries(16384, 1 /* BPF_F_NO_PREALLOC */);

/// Instructions at which a walk runs.
#[map]
static PROBED: HashMap<ProbedAt, Probed> = HashMap::with_max_entries(16384, 1 /* BPF_F_NO_PREALLOC */);

/// What walks work on: for each CPU one for calls that send, for calls that receive, for probes, and for
/// connections that are asked for.
#[map]
static WALK_STATES: Array<walk::State> = Array::with_max_entries(walk::STATES, 0);

/// 32 bytes that a walk may ask for, by connection.
#[map]
static EXPECTED: HashMap<u64, [u64; 4]> = HashMap::with_max_entries(65536, 1 /* BPF_F_NO_PREALLOC */);

/// Addresses that only the running kernel can tell.
#[map]
static LEARNED: Array<Learned> = Array::with_max_entries(1, 0);

/// [`Counter`]s.
#[map]
static COUNTERS: PerCpuArray<u64> = PerCpuArray::with_max_entries(Counter::COUNT as u32, 0);

/// Bytes of calls without a readable buffer, by call number.
#[map]
static UNSEEN_CALLS: PerCpuArray<u64> = PerCpuArray::with_max_entries(CALL_NUMBERS, 0);

/// Room before the bytes of a call: a record's head that is kept, a loss that is being noted, and at the
/// end the head of the first record.
pub const HEAD_ROOM: usize = 1024;
/// Bytes that are gathered of one call at the most.
pub const GATHERED: usize = 64 * 1024;

/// Where a call's bytes are gathered. Three times as long as what is gathered, since the verifier bounds
/// offset and length each by itself (and the length to the next power of two), not their sum.
#[repr(C)]
pub struct Scratch {
    /// The head that all records of this call share.
    pub data: Data,
    /// A loss that is being noted.
    pub loss: Loss,
    /// How far a call's bytes are gathered.
    pub progress: Progress,
    /// The rest of the room before the bytes.
    pub head_room: [u8; HEAD_ROOM - KEPT],
    /// The call's bytes.
    pub bytes: [u8; 3 * GATHERED],
}

const KEPT: usize = size_of::<Data>() + size_of::<Loss>() + size_of::<Progress>();
const _: () = assert!(HEAD_ROOM - KEPT >= size_of::<Data>() + 8 * WORDS_ROOM);

/// What is decided of a call, and how far its bytes are gathered.
///
/// It lies in a map and not in registers, because what the verifier knows of a number in a map is always
/// the same: nothing. So paths through the program meet again behind each decision, and it need not
/// follow every combination of them to the end; see [`through`].
#[repr(C)]
pub struct Progress {
    /// The socket's address: here no more than a number.
    pub sk: u64,
    /// The call's buffer, or its vector.
    pub address: u64,
    /// Pieces of the vector, 0 for a flat buffer.
    pub pieces: u64,
    /// Bytes of the vector that are still to be passed over.
    pub passing: u64,
    /// Bytes of the vector before its piece [`Progress::piece`].
    pub behind: u64,
    /// What a walk remembers of the socket.
    pub note: u64,
    /// Bytes that are there.
    pub filled: u32,
    /// Why there are not more: a `REST_` constant.
    pub rest: u32,
    /// The position of the call's first byte.
    pub position: u32,
    /// Bytes of the call that are not wanted.
    pub skip: u32,
    /// Bytes after them that are wanted at the most.
    pub take: u32,
    /// Whether to stop after the first block with an empty line.
    pub until_empty_line: u32,
    /// Flags of the next record.
    pub flags: u32,
    /// Bytes of the next record.
    pub length: u32,
    /// The socket's family.
    pub family: u32,
    /// Why nothing follows the next record: a `REST_` constant.
    pub piece_rest: u32,
    /// Bytes directly before the next record that were left out.
    pub before: u32,
    /// What is done with the call: a constant of `frames`.
    pub how: u32,
    /// The piece of the vector that was reached.
    pub piece: u32,
    /// Spelled-out padding.
    pub reserved: u32,
}

/// Puts a value into a map and takes it out again: the verifier forgets how it came about.
///
/// # Safety
/// `place` must be map memory of this CPU.
#[inline(always)]
pub unsafe fn through<T: Copy>(place: *mut T, value: T) -> T {
    // SAFETY: the caller's promise.
    unsafe {
        place.write_volatile(value);
        place.read_volatile()
    }
}

/// One per CPU and way; the agent sets the number.
#[map]
static SCRATCH: Array<Scratch> = Array::with_max_entries(2, 0);

/// The scratch space of this CPU for this way. The kernel does not run one program twice at once on
/// one CPU, and each way has its own programs.
#[inline(always)]
pub fn scratch(index: u32) -> Option<*mut Scratch> {
    SCRATCH.get_ptr_mut(index)
}

/// An observed record, with room for its words.
#[repr(C)]
pub struct Sighting {
    /// The fixed part.
    pub observed: Observed,
    /// The words.
    pub words: [u64; WORDS_ROOM],
}

/// Where an observed record is put together.
#[map]
static SIGHTING: PerCpuArray<Sighting> = PerCpuArray::with_max_entries(1, 0);

/// This CPU's place for an observed record.
#[inline(always)]
pub fn sighting() -> Option<*mut Sighting> {
    SIGHTING.get_ptr_mut(0)
}

/// A connecting record, with room for its words.
#[repr(C)]
pub struct Asking {
    /// The fixed part.
    pub connecting: Connecting,
    /// The words.
    pub words: [u64; WORDS_ROOM],
    /// The socket's address: here no more than a number.
    pub sk: u64,
}

/// Where a connecting record is put together.
#[map]
static ASKING: PerCpuArray<Asking> = PerCpuArray::with_max_entries(1, 0);

/// This CPU's place for a connecting record.
#[inline(always)]
pub fn asking() -> Option<*mut Asking> {
    ASKING.get_ptr_mut(0)
}

/// Where an exec record is put together.
#[map]
static EXEC_SCRATCH: PerCpuArray<Exec> = PerCpuArray::with_max_entries(1, 0);

/// This CPU's place for an exec record.
#[inline(always)]
pub fn exec_scratch() -> Option<*mut Exec> {
    EXEC_SCRATCH.get_ptr_mut(0)
}

/// Adds to a counter.
#[inline(always)]
pub fn count(counter: Counter, add: u64) {
    if let Some(slot) = COUNTERS.get_ptr_mut(counter as u32) {
        // SAFETY: the slot is this CPU's own.
        unsafe { *slot += add };
    }
}

/// Adds to a number that other CPUs add to as well, and reads it. The kernels before 5.12 know no addition that
/// returns a value, so another CPU's may be in what is read; none is ever lost.
///
/// # Safety
/// `number` must point to an aligned number in a map or in a socket's storage.
#[inline(always)]
pub unsafe fn add(number: *mut u64, add: u64) -> u64 {
    // SAFETY: the caller's promise. (`core` has no atomic types for this target, only what they are made of.)
    unsafe {
        core::intrinsics::atomic_xadd::<u64, u64, { AtomicOrdering::Relaxed }>(number, add);
        read_volatile(number)
    }
}

/// Counts bytes of a call that has no readable buffer.
#[inline(always)]
pub fn count_unseen(call: u32, bytes: u64) {
    let last = CALL_NUMBERS - 1;
    if let Some(slot) = UNSEEN_CALLS.get_ptr_mut(if call < last { call } else { last }) {
        // SAFETY: the slot is this CPU's own.
        unsafe { *slot += bytes };
    }
}

/// One walk.
#[inline(always)]
pub fn walk_steps(slot: u32) -> Option<*const [Step; MAX_STEPS]> {
    WALKS.get_ptr(slot)
}

/// How a process's calls are walked.
#[inline(always)]
pub fn walked(pid: u32) -> Option<*const Walked> {
    WALKED.get_ptr(pid)
}

/// What is done at an instruction.
#[inline(always)]
pub fn probed(at: &ProbedAt) -> Option<*mut Probed> {
    PROBED.get_ptr_mut(at)
}

/// What the walk works on that runs at this place of this CPU.
#[inline(always)]
pub fn walk_state(index: u32) -> Option<*mut walk::State> {
    WALK_STATES.get_ptr_mut(index)
}

/// The 32 bytes that are expected of a connection.
#[inline(always)]
pub fn expected(connection: u64) -> Option<*const [u64; 4]> {
    EXPECTED.get_ptr(connection)
}

/// The policy slot of a connection, if it is for this connection.
#[inline(always)]
pub fn policy_word(connection: u64, send: bool) -> u64 {
    let Some(slot) = POLICIES.get_ptr((connection % SLOTS as u64) as u32) else { return 0 };
    // SAFETY: the slot is in the array; the agent writes whole words while we read them, and clears
    // `connection` before it gives the slot to another.
    unsafe {
        if read_volatile(addr_of!((*slot).connection)) != connection {
            return 0;
        }
        let word = if send {
            read_volatile(addr_of!((*slot).send))
        } else {
            read_volatile(addr_of!((*slot).receive))
        };
        if read_volatile(addr_of!((*slot).connection)) != connection { 0 } else { word }
    }
}

/// Whether the process of the current task is not to be recorded. A pid alone does not tell: it is used again.
#[inline(always)]
pub fn ignored(pid: u32) -> bool {
    if run!(selective) == 0 {
        return false;
    }
    let Some(started) = IGNORED.get_ptr(pid) else { return false };
    // SAFETY: the entry is in the map; the task is the current one.
    unsafe { *started == crate::process::started() }
}

/// What was learned.
#[inline(always)]
pub fn learned() -> Option<*mut Learned> {
    LEARNED.get_ptr_mut(0)
}

/// Whether the agent is asking, in this very thread's process, for what only the kernel can tell.
#[inline(always)]
pub fn learning() -> bool {
    let Some(learned) = learned() else { return false };
    // SAFETY: the entry is in the array.
    let asked = unsafe { read_volatile(addr_of!((*learned).learning)) };
    asked != 0 && (aya_ebpf::helpers::bpf_get_current_pid_tgid() >> 32) as u32 == run!(own_pid)
}

/// A number for a socket that has no cookie: unique since boot of the agent.
#[inline(always)]
pub fn number() -> u64 {
    let Some(slot) = NUMBERS.get_ptr_mut(0) else { return 0 };
    // SAFETY: the slot is this CPU's own.
    unsafe {
        *slot += 1;
        let cpu = aya_ebpf::helpers::generated::bpf_get_smp_processor_id() as u64;
        (cpu + 1) << 48 | *slot
    }
}
