//! Where this JVM keeps what its walks read: from HotSpot's own table, its flags and two symbols, proved on the process.
//!
//! It says which collector runs and which of the rules hold with it. It must never fill in what the table lacks.

use super::classes::ClassLayout;
use super::structs::Structs;
use super::tomcat::Narrow;
use crate::discover::memory::ReadMemory;
use crate::identity::ThreadId;

/// What is known of a JVM.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Layout {
    /// The collector's name, or `unknown`.
    pub collector: &'static str,
    /// `Thread::_thr_current` in libjvm's thread-local storage.
    pub current: u64,
    /// `Thread::_tlab`, and start, top and end in it.
    pub tlab: [u64; 4],
    /// `JavaThread::_stack_base`.
    pub stack_base: u64,
    /// `JavaThread::_threadObj`.
    pub thread: u64,
    /// `Thread::_osthread`, and `OSThread::_thread_id`: which thread of the system it is.
    pub system: Option<[u64; 2]>,
    /// `JavaThread::_vthread`, from 21 on.
    pub mounted: Option<u64>,
    /// Where the id of the mounted Java thread is.
    pub id: Id,
    /// Where collections are counted.
    pub collections: u64,
    /// Where it is said that a collection is under way.
    pub collecting: Option<u64>,
    /// The heap's addresses.
    pub heap: (u64, u64),
    /// What classes look like; none where objects do not have their class at offset 8.
    pub classes: Option<ClassLayout>,
    /// How references are written down in objects; none if they are plain addresses.
    pub narrow: Option<Narrow>,
}

/// Where a Java thread's id is found.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Id {
    /// At this offset of the `JavaThread` that runs it: `_monitor_owner_id`, from 24 on.
    OfThread(u64),
    /// At this offset of its object.
    InObject(u64),
    /// Nowhere.
    Unknown,
}

impl Layout {
    /// Of a process. `symbol` gives an address in the process, `current` is that of the thread-local variable.
    pub fn prove(
        memory: &dyn ReadMemory,
        symbol: &dyn Fn(&str) -> Option<u64>,
        current: u64,
    ) -> Result<Self, &'static str> {
        let structs = Structs::read(memory, symbol).ok_or("its table of structures cannot be read")?;
        let at = |structures: &[&str], member| structs.offset(structures, member);
        let tlab = at(&["JavaThread", "Thread"], "_tlab");
        let buffer = ["_start", "_top", "_end"].map(|member| at(&["ThreadLocalAllocBuffer"], member));
        let (Some(tlab), [Some(start), Some(top), Some(end)]) = (tlab, buffer) else {
            return Err("its table lacks the allocation buffer");
        };
        let heap = structs
            .address("Universe", "_collectedHeap")
            .and_then(|address| memory.word(address))
            .filter(|&heap| heap != 0)
            .ok_or("its heap is not there yet")?;
        let collections =
            heap + at(&["CollectedHeap"], "_total_collections").ok_or("its table lacks the collections")?;
        let reserved =
            heap + at(&["CollectedHeap"], "_reserved").ok_or("its table lacks the heap's addresses")?;
        let region = ["_start", "_word_size"].map(|member| at(&["MemRegion"], member));
        let [Some(from), Some(words)] = region else { return Err("its table lacks MemRegion") };
        let (Some(from), Some(words)) = (memory.word(reserved + from), memory.word(reserved + words)) else {
            return Err("its heap's addresses cannot be read");
        };
        let in_object = || {
            let offset = symbol(super::THREAD_ID).and_then(|address| memory.u32(address));
            let offset = offset.filter(|offset| (8..MAX_OBJECT).contains(offset) && offset.is_multiple_of(8));
            offset.map_or(Id::Unknown, |offset| Id::InObject(offset.into()))
        };
        let flags = Flags::of(&structs, memory).ok_or("its flags cannot be read")?;
        let collector = COLLECTORS
            .iter()
            .find(|(flag, _)| flags.is_on(flag, memory))
            .map_or("unknown", |&(_, name)| name);
        let by_header = !flags.is_on("UseCompactObjectHeaders", memory)
            && flags.is_on("UseCompressedClassPointers", memory);
        Ok(Self {
            collector,
            current,
            tlab: [tlab, start, top, end],
            stack_base: at(&["JavaThread", "Thread"], "_stack_base").ok_or("its table lacks the stack")?,
            thread: at(&["JavaThread"], "_threadObj").ok_or("its table lacks the thread's object")?,
            system: at(&["JavaThread", "Thread"], "_osthread")
                .zip(at(&["OSThread"], "_thread_id"))
                .map(|(thread, id)| [thread, id]),
            mounted: at(&["JavaThread"], "_vthread"),
            id: at(&["JavaThread"], "_monitor_owner_id").map_or_else(in_object, Id::OfThread),
            collections,
            collecting: ["_is_stw_gc_active", "_is_gc_active"]
                .iter()
                .find_map(|member| at(&["CollectedHeap"], member))
                .map(|member| heap + member),
            heap: (from, from.saturating_add(words.saturating_mul(8))),
            narrow: if flags.is_on("UseCompressedOops", memory) { narrow(&structs, memory) } else { None },
            classes: if by_header { ClassLayout::of(&structs, memory) } else { None },
        })
    }

    /// The allocation buffer (start, top, end) that the `JavaThread` at this address has right now, if `address` lies in what is
    /// allocated of it, it is still this thread of the system's, and no collection came since `epoch`. Read twice: a thread that
    /// is between two buffers shows it mostly.
    pub fn buffer_now(
        &self,
        memory: &dyn ReadMemory,
        java_thread: u64,
        thread: ThreadId,
        epoch: u64,
        address: Option<u64>,
    ) -> Option<[u64; 3]> {
        let found = self.buffer(memory, java_thread)?;
        let [start, top, _] = found;
        if address.is_some_and(|address| !(start..top).contains(&address)) {
            return None;
        }
        let [system, id] = self.system?;
        let id = memory.word(java_thread.checked_add(system)?)?.checked_add(id)?;
        let same = memory.u32(id)? == thread.0
            && self.buffer(memory, java_thread)? == found
            && u64::from(memory.u32(self.collections)?) == epoch;
        same.then_some(found)
    }

    /// Whether the last collection is this one, and is over.
    pub fn is_after(&self, memory: &dyn ReadMemory, epoch: u64) -> bool {
        let mut collecting = [1];
        self.collecting.is_some_and(|address| memory.read(address, &mut collecting))
            && collecting == [0]
            && memory.u32(self.collections).map(u64::from) == Some(epoch)
    }

    fn buffer(&self, memory: &dyn ReadMemory, java_thread: u64) -> Option<[u64; 3]> {
        let [tlab, members @ ..] = self.tlab;
        let mut bytes = [0; 64];
        let word = |bytes: &[u8], member: u64| {
            let member = usize::try_from(member).ok()?;
            Some(u64::from_le_bytes(bytes.get(member..)?.first_chunk().copied()?))
        };
        if !memory.read(java_thread.checked_add(tlab)?, &mut bytes) {
            return None;
        }
        let [start, top, end] = members.map(|member| word(&bytes, member));
        Some([start?, top?, end?])
    }

    /// Whether a thread's object can have two addresses at a time, so that two of them cannot be compared.
    pub fn moves_ids(&self) -> bool {
        !matches!(self.collector, "G1" | "Serial" | "Parallel" | "Epsilon")
    }

    /// Whether addresses stay what they are between two counted collections.
    pub fn stands_still(&self) -> bool {
        matches!(self.collector, "G1" | "Serial")
    }
}

fn narrow(structs: &Structs, memory: &dyn ReadMemory) -> Option<Narrow> {
    let place = |member| {
        let long = format!("_narrow_oop.{member}");
        let place = structs.address("CompressedOops", &long);
        place
            .or_else(|| structs.address("CompressedOops", member))
            .or_else(|| structs.address("Universe", &long))
    };
    let base = memory.word(place("_base")?)?;
    let shift = memory.u32(place("_shift")?).filter(|&shift| shift < 8)?;
    Some(Narrow { base, shift })
}

/// Flags by the collector that they choose. Parallel is known and not relied on.
const COLLECTORS: &[(&str, &str)] = &[
    ("UseG1GC", "G1"),
    ("UseSerialGC", "Serial"),
    ("UseParallelGC", "Parallel"),
    ("UseZGC", "Z"),
    ("UseShenandoahGC", "Shenandoah"),
    ("UseEpsilonGC", "Epsilon"),
];

/// `JVMFlag::flags`: an array of names and addresses.
struct Flags {
    first: u64,
    count: u64,
    size: u64,
    name: u64,
    address: u64,
}

impl Flags {
    fn of(structs: &Structs, memory: &dyn ReadMemory) -> Option<Self> {
        Some(Self {
            first: memory.word(structs.address("JVMFlag", "flags")?)?,
            count: memory.word(structs.address("JVMFlag", "numFlags")?)?.min(MAX_FLAGS),
            size: structs.size("JVMFlag").filter(|size| (16..=128).contains(size))?,
            name: structs.offset(&["JVMFlag"], "_name")?,
            address: structs.offset(&["JVMFlag"], "_addr")?,
        })
    }

    fn is_on(&self, flag: &str, memory: &dyn ReadMemory) -> bool {
        (0..self.count).any(|number| {
            let at = self.first + number * self.size;
            let name = memory.word(at + self.name).and_then(|name| memory.text(name, 64));
            let mut value = [0];
            name.is_some_and(|name| name == flag.as_bytes())
                && memory.word(at + self.address).is_some_and(|address| memory.read(address, &mut value))
                && value == [1]
        })
    }
}

/// The size of a thread's object is less.
const MAX_OBJECT: u32 = 4096;
/// Flags looked at; there are some 1,500.
const MAX_FLAGS: u64 = 8192;
