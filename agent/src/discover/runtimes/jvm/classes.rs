//! What class an object is of, and whether that is the class of a task: something that is handed over to be run.
//!
//! A task implements Runnable or Callable, or extends ForkJoinTask, and is not part of the machinery that runs tasks.
//! Classes are read once between two collections, since a class that is unloaded leaves its number to another. It
//! must never take a class for a task's that it could not read to the end.

use std::collections::HashMap;

use super::structs::Structs;
use crate::discover::memory::ReadMemory;

/// Where classes are, and what in them.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ClassLayout {
    base: u64,
    shift: u32,
    name: u64,
    superclass: u64,
    secondary: u64,
    symbol_length: u64,
    symbol_body: u64,
    array_length: u64,
    array_data: u64,
    /// `Klass::_layout_helper`: how large objects are.
    helper: Option<u64>,
}

/// What a class is to whoever looks for a task.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Kind {
    /// A task's.
    Task,
    /// A task by which a worker serves one connection, see `tomcat`.
    Worker,
    /// A task by which a thread of `java.net.http.HttpClient` writes, see `client`.
    Client,
    /// Part of a ForkJoinPool, whose workers keep slots of earlier tasks on their stacks.
    ForkJoin,
    /// Neither.
    Other,
}

impl ClassLayout {
    /// From HotSpot's table.
    pub fn of(structs: &Structs, memory: &dyn ReadMemory) -> Option<Self> {
        let pointer = |member| {
            structs
                .address("CompressedKlassPointers", member)
                .or_else(|| structs.address("CompressedKlassPointers", &format!("_narrow_klass.{member}")))
                .or_else(|| structs.address("Universe", &format!("_narrow_klass.{member}")))
        };
        let base = memory.word(pointer("_base")?)?;
        let shift = memory.u32(pointer("_shift")?).filter(|&shift| shift < 32)?;
        let klass = |member| structs.offset(&["Klass"], member);
        Some(Self {
            base,
            shift,
            name: klass("_name")?,
            superclass: klass("_super")?,
            secondary: klass("_secondary_supers")?,
            symbol_length: structs.offset(&["Symbol"], "_length")?,
            symbol_body: structs.offset(&["Symbol"], "_body")?,
            array_length: structs.offset(&["Array<Klass*>", "Array<int>"], "_length")?,
            array_data: structs.offset(&["Array<Klass*>"], "_data[0]").unwrap_or(8),
            helper: klass("_layout_helper"),
        })
    }

    /// A layout in which members follow one another.
    #[cfg(test)]
    pub fn for_tests(base: u64, shift: u32) -> Self {
        Self {
            base,
            shift,
            helper: Some(0),
            name: 8,
            superclass: 16,
            secondary: 24,
            symbol_length: 0,
            symbol_body: 2,
            array_length: 0,
            array_data: 8,
        }
    }

    fn name(&self, klass: u64, memory: &dyn ReadMemory) -> Option<Vec<u8>> {
        let symbol = memory.word(klass.checked_add(self.name)?)?;
        let mut length = [0; 2];
        if !memory.read(symbol.checked_add(self.symbol_length)?, &mut length) {
            return None;
        }
        memory.bytes(symbol.checked_add(self.symbol_body)?, u16::from_le_bytes(length).into())
    }

    /// How objects of this class are laid out: HotSpot's own number, see [`size`].
    fn helper(&self, number: u32, memory: &dyn ReadMemory) -> Option<i32> {
        let klass = self.base.checked_add(u64::from(number) << self.shift)?;
        let helper = memory.u32(klass.checked_add(self.helper?)?)?.cast_signed();
        // Those of `Class` are as large as they say themselves.
        let sized = helper < 0 || self.name(klass, memory)? != b"java/lang/Class";
        sized.then_some(helper)
    }

    /// How long objects of the class with this number are, if all are of one length.
    pub fn length(&self, number: u32, memory: &dyn ReadMemory) -> Option<u64> {
        let helper = self.helper(number, memory).filter(|helper| *helper > 0)?;
        size(helper, 0)
    }

    /// Whether the class with this number is this one, or extends it.
    pub fn extends(&self, number: u32, wanted: &[u8], memory: &dyn ReadMemory) -> bool {
        let mut at = self.base.checked_add(u64::from(number) << self.shift);
        for _ in 0..MAX_DEPTH {
            let Some(klass) = at.filter(|&klass| klass != 0) else { return false };
            match self.name(klass, memory) {
                Some(name) if name == wanted => return true,
                Some(_) => at = klass.checked_add(self.superclass).and_then(|at| memory.word(at)),
                None => return false,
            }
        }
        false
    }

    fn kind(&self, number: u32, memory: &dyn ReadMemory) -> Option<Kind> {
        let klass = self.base.checked_add(u64::from(number) << self.shift)?;
        let mut task = false;
        let mut at = klass;
        for _ in 0..MAX_DEPTH {
            if at == 0 {
                break;
            }
            let name = self.name(at, memory)?;
            if name.starts_with(b"java/util/concurrent/ForkJoinPool")
                || name.starts_with(b"java/util/concurrent/ForkJoinWorkerThread")
            {
                return Some(Kind::ForkJoin);
            }
            if let Some(kind) = super::tomcat::kind(&name).or_else(|| super::client::kind(&name)) {
                return Some(kind);
            }
            if MACHINERY.contains(&name.as_slice()) {
                return Some(Kind::Other);
            }
            task |= name == b"java/util/concurrent/ForkJoinTask";
            at = memory.word(at.checked_add(self.superclass)?)?;
        }
        let array = memory.word(klass.checked_add(self.secondary)?)?;
        if array != 0 {
            let length = u64::from(memory.u32(array.checked_add(self.array_length)?)?.min(MAX_INTERFACES));
            for number in 0..length {
                let interface = memory.word(array.checked_add(self.array_data + 8 * number)?)?;
                let name = self.name(interface, memory)?;
                task |= name == b"java/lang/Runnable" || name == b"java/util/concurrent/Callable";
            }
        }
        Some(if task { Kind::Task } else { Kind::Other })
    }
}

/// The classes met since the last collection.
#[derive(Debug, Default)]
pub struct Classes {
    known: HashMap<u32, Kind>,
    helpers: HashMap<u32, Option<i32>>,
    epoch: u64,
}

impl Classes {
    /// What the class with this number is.
    pub fn kind(&mut self, number: u32, epoch: u64, layout: &ClassLayout, memory: &dyn ReadMemory) -> Kind {
        self.collected(epoch);
        if let Some(kind) = self.known.get(&number) {
            return *kind;
        }
        let kind = layout.kind(number, memory).unwrap_or(Kind::Other);
        self.known.insert(number, kind);
        kind
    }

    /// The size of an object of the class with this number; `length` of it if it is an array.
    pub fn size(
        &mut self,
        number: u32,
        length: u64,
        epoch: u64,
        layout: &ClassLayout,
        memory: &dyn ReadMemory,
    ) -> Option<u64> {
        self.collected(epoch);
        let helper = *self.helpers.entry(number).or_insert_with(|| layout.helper(number, memory));
        size(helper?, length)
    }

    fn collected(&mut self, epoch: u64) {
        if self.epoch != epoch || self.known.len() >= MAX_CLASSES || self.helpers.len() >= MAX_CLASSES {
            self.known.clear();
            self.helpers.clear();
            self.epoch = epoch;
        }
    }
}

/// The size of an object by `Klass::_layout_helper` (HotSpot's klass.hpp): of an instance it is the size, with a bit that does not
/// matter here; of an array it is negative, and has the bytes before the elements and the logarithm of an element's.
fn size(helper: i32, length: u64) -> Option<u64> {
    let bits = u64::from(helper.cast_unsigned());
    match helper {
        0 => None,
        1.. => Some(bits & !7).filter(|size| *size >= 16),
        _ => {
            let (before, element) = (bits >> 16 & 0xff, bits & 0xff);
            let elements =
                length.checked_shl(u32::try_from(element).ok().filter(|element| *element <= 3)?)?;
            Some((before + elements).next_multiple_of(8)).filter(|_| before >= 16)
        }
    }
}

/// What runs tasks and is runnable itself.
const MACHINERY: &[&[u8]] = &[
    b"java/lang/Thread",
    b"java/util/concurrent/ThreadPoolExecutor$Worker",
    // Tomcat's copies of the two.
    b"org/apache/tomcat/util/threads/TaskThread$WrappingRunnable",
    b"org/apache/tomcat/util/threads/ThreadPoolExecutor$Worker",
];
/// The longest line of ancestors.
const MAX_DEPTH: usize = 64;
/// Interfaces looked at.
const MAX_INTERFACES: u32 = 256;
/// Classes remembered.
const MAX_CLASSES: usize = 16_384;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_what_hotspots_number_says() {
        assert_eq!(size(24, 0), Some(24));
        assert_eq!(size(25, 0), Some(24), "with a finalizer");
        // Of int[] and byte[]: a tag, 16 bytes before the elements, the element's type, the logarithm of its size.
        assert_eq!(size(0xc010_0a02_u32.cast_signed(), 3), Some(32));
        assert_eq!(size(0xc010_0800_u32.cast_signed(), 9), Some(32));
        assert_eq!([size(0, 0), size(8, 0), size(0xc010_0a3f_u32.cast_signed(), 3)], [None; 3]);
    }
}
