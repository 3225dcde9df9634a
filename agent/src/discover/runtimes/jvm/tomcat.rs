//! Tomcat's workers: which connection a thread works for, by the object that it runs.
//!
//! ```text
//!   worker's stack ─▶ SocketProcessor ─▶ NioSocketWrapper ─▶ NioChannel ─▶ SocketChannelImpl ─▶ fdVal
//! ```
//! All of a request, also what comes after an asynchronous part of it, is done within `SocketProcessor.run` for the connection
//! that brought it, and the object says which that is at each moment of it. So a call that is made meanwhile belongs to the
//! request that was read from that descriptor last. The descriptor is read with the call, by the walk. It must also be the
//! one from which this thread itself read last: these objects are used again, and a place on a stack may be left over.
//!
//! Where the references lie is learnt from objects of these classes, and where the descriptor is, by its value. It must
//! never take a place that is not the only one.

use std::collections::HashSet;

use super::classes::{ClassLayout, Kind};
use crate::discover::memory::ReadMemory;

/// How references are written down in objects.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Narrow {
    /// The address of reference 0.
    pub base: u64,
    /// By how much one is shifted.
    pub shift: u32,
}

impl Narrow {
    /// The address of an object.
    pub fn object(self, reference: u32) -> Option<u64> {
        self.base.checked_add(u64::from(reference) << self.shift)
    }
}

/// Where one gets on, from the object that a worker runs to the descriptor.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Path {
    /// The number of the class of what a worker runs.
    pub class: u32,
    /// The offsets of three references, and that of the descriptor.
    pub offsets: [u64; 4],
    /// How references are written.
    pub narrow: Narrow,
}

/// Finds the path.
#[derive(Debug, Default)]
pub struct Finder {
    path: Option<Path>,
    descriptor: Places,
    looks: u32,
}

/// Where in objects of one class a number is, by its value.
#[derive(Debug, Default)]
pub struct Places {
    /// Where it may be, and the objects that were looked at.
    places: Option<HashSet<u64>>,
    objects: HashSet<u64>,
    looks: u32,
}

impl Places {
    /// Looks at one more object: the place, if there is only one left and enough of them agree. `is` tells whether a number may be the one.
    pub fn look(
        &mut self,
        object: u64,
        layout: &ClassLayout,
        memory: &dyn ReadMemory,
        is: &dyn Fn(u32) -> bool,
    ) -> Option<u64> {
        self.looks += 1;
        let mut places = HashSet::new();
        for place in members(object, layout, memory) {
            if memory.u32(object + place).is_some_and(is) {
                places.insert(place);
            }
        }
        let places = match self.places.take() {
            Some(known) => known.intersection(&places).copied().collect(),
            None => places,
        };
        self.objects.insert(object);
        let only = if places.len() == 1 { places.iter().next().copied() } else { None };
        self.places = Some(places).filter(|places| !places.is_empty());
        only.filter(|_| self.objects.len() >= SOCKETS || self.looks >= LOOKS)
    }
}

impl Finder {
    /// The path, if it is known.
    pub fn path(&self) -> Option<Path> {
        self.path
    }

    /// Looks at an object that a worker runs or ran: true if the path is known now and was not before. `serves` tells
    /// whether a number is that of a descriptor that requests were read from.
    pub fn look(
        &mut self,
        object: u64,
        class: u32,
        (layout, narrow): (&ClassLayout, Narrow),
        memory: &dyn ReadMemory,
        serves: &dyn Fn(u64) -> bool,
    ) -> bool {
        if self.path.is_some() || self.looks >= MAX_LOOKS {
            return false;
        }
        self.looks += 1;
        let (mut at, mut offsets) = (object, [0; 4]);
        for (offset, wanted) in offsets.iter_mut().zip(CLASSES) {
            let Some((place, next)) = the_only(at, wanted, layout, narrow, memory) else { return false };
            (*offset, at) = (place, next);
        }
        let is = |number: u32| serves(number.into());
        if let Some(place) = self.descriptor.look(at, layout, memory, &is) {
            let [wrapper, channel, socket, _] = offsets;
            self.path = Some(Path { class, offsets: [wrapper, channel, socket, place], narrow });
        }
        self.path.is_some()
    }
}

/// The one reference in this object to one of this class or one that extends it.
pub fn the_only(
    at: u64,
    wanted: &[u8],
    layout: &ClassLayout,
    narrow: Narrow,
    memory: &dyn ReadMemory,
) -> Option<(u64, u64)> {
    let mut found = None;
    for place in members(at, layout, memory) {
        let Some(reference) = memory.u32(at.checked_add(place)?).filter(|&reference| reference != 0) else {
            continue;
        };
        let object = narrow.object(reference)?;
        let Some(class) = memory.u32(object.checked_add(8)?) else { continue };
        if layout.extends(class, wanted, memory) && found.replace((place, object)).is_some() {
            return None;
        }
    }
    found
}

/// Where members of four bytes may be in this object. What lies behind it is of another one, which need not stay there.
fn members(at: u64, layout: &ClassLayout, memory: &dyn ReadMemory) -> impl Iterator<Item = u64> + use<> {
    let class = at.checked_add(8).and_then(|at| memory.u32(at));
    let length = class.and_then(|class| layout.length(class, memory)).unwrap_or(0);
    (FIRST..length.min(OBJECT)).step_by(4)
}

/// Whether a class is that of what Tomcat's workers run.
pub fn kind(name: &[u8]) -> Option<Kind> {
    (name == PROCESSOR).then_some(Kind::Worker)
}

const PROCESSOR: &[u8] = b"org/apache/tomcat/util/net/SocketProcessorBase";
/// What is met on the way.
const CLASSES: [&[u8]; 3] = [
    b"org/apache/tomcat/util/net/SocketWrapperBase",
    b"org/apache/tomcat/util/net/NioChannel",
    b"sun/nio/ch/SocketChannelImpl",
];
/// Where members of an object begin: after its first word and the number of its class.
const FIRST: u64 = 12;
/// How much of an object is looked at; these are shorter.
const OBJECT: u64 = 512;
/// Sockets that agree on where the descriptor is; fewer where there are fewer, if they agree this often.
const SOCKETS: usize = 3;
const LOOKS: u32 = 16;
/// Objects looked at before it is given up.
const MAX_LOOKS: u32 = 512;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::discover::memory::Image;

    const NARROW: Narrow = Narrow { base: 0, shift: 3 };

    /// Classes at 0x10_0000 and up, 0x100 each, by number; objects of 64 bytes.
    fn classes(image: &mut Image) {
        let names: [&[u8]; 5] = [
            PROCESSOR,
            b"org/apache/tomcat/util/net/SocketWrapperBase",
            b"org/apache/tomcat/util/net/NioChannel",
            b"sun/nio/ch/SocketChannelImpl",
            b"java/lang/Object",
        ];
        for (number, name) in (1u64..).zip(names) {
            let (klass, text) = (0x10_0000 + number * 0x100, 0x20_0000 + number * 0x100);
            image.put_words(klass, &[64, text, 0, 0x30_0000]);
            image.put(text, [&(name.len() as u16).to_le_bytes()[..], name, &[0; 8]].concat());
        }
        image.put_words(0x30_0000, &[0]);
    }

    /// An object of the class with this number, with these members.
    fn object(image: &mut Image, at: u64, class: u32, members: &[(usize, u32)]) {
        let mut bytes = vec![0; 64];
        bytes[8..12].copy_from_slice(&class.to_le_bytes());
        for &(place, value) in members {
            bytes[place..place + 4].copy_from_slice(&value.to_le_bytes());
        }
        image.put(at, bytes);
    }

    /// What a worker runs at `at`, and all that it leads to; the descriptor at 40, another number at 44.
    fn worker(image: &mut Image, at: u64, descriptor: u32, other: u32) {
        let reference = |at: u64| u32::try_from(at >> 3).unwrap();
        object(image, at, 1, &[(16, reference(at + 0x400)), (20, reference(at + 0x100))]);
        object(image, at + 0x100, 2, &[(12, reference(at + 0x200))]);
        object(image, at + 0x200, 3, &[(24, reference(at + 0x300))]);
        object(image, at + 0x300, 4, &[(40, descriptor), (44, other)]);
        object(image, at + 0x400, 5, &[]);
    }

    fn look(finder: &mut Finder, image: &Image, at: u64) -> bool {
        let layout = ClassLayout::for_tests(0x10_0000, 8);
        finder.look(at, 1, (&layout, NARROW), image, &|number| (10..20).contains(&number))
    }

    #[test]
    fn the_way_to_the_descriptor_is_found_once_three_sockets_agree() {
        let mut image = Image::default();
        classes(&mut image);
        let mut finder = Finder::default();
        for (at, descriptor, other) in [(0x40_0000, 10, 11), (0x41_0000, 12, 13), (0x42_0000, 14, 7)] {
            assert_eq!(finder.path(), None);
            worker(&mut image, at, descriptor, other);
            assert_eq!(look(&mut finder, &image, at), at == 0x42_0000);
        }
        let path = Path { class: 1, offsets: [20, 12, 24, 40], narrow: NARROW };
        assert_eq!(finder.path(), Some(path));
    }

    #[test]
    fn what_two_places_may_be_is_none() {
        let mut image = Image::default();
        classes(&mut image);
        let mut finder = Finder::default();
        for number in 0..32 {
            let at = 0x40_0000 + number * 0x1000;
            worker(&mut image, at, 10 + number as u32 % 8, 10 + number as u32 % 7);
            assert!(!look(&mut finder, &image, at));
        }
        // Nor is a reference of which there are two.
        let mut finder = Finder::default();
        for number in 0..32u64 {
            let at = 0x40_0000 + number * 0x1000;
            worker(&mut image, at, 10, 0);
            let reference = u32::try_from((at + 0x100) >> 3).unwrap();
            object(&mut image, at, 1, &[(16, reference), (20, reference)]);
            assert!(!look(&mut finder, &image, at));
        }
    }
}
