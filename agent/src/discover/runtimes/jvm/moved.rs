//! Where a collection put objects: read from what it left in their old places.
//!
//! A collector that copies writes the new address over the first word of the old object, with both low bits set, and the
//! rest stays until that memory is allocated anew. From the start of a piece of the heap that one thread allocated,
//! objects follow one another, each as large as its class says; what was left free is an object too, a filler. So old
//! objects are met in order, and what lies inside of one is not taken for one.
//!
//! Only tasks are wanted. It must never report an object whose old and new places do not show the same class.

use std::ops::Range;

use super::classes::{ClassLayout, Classes, Kind};
use crate::discover::memory::{MAX_READ, ReadMemory};

/// The new addresses of tasks that lay in this range.
pub fn tasks(
    range: &Range<u64>,
    epoch: u64,
    heap: (u64, u64),
    classes: &mut Classes,
    layout: &ClassLayout,
    memory: &dyn ReadMemory,
) -> Vec<u64> {
    let mut found = Vec::new();
    let mut at = range.start;
    let mut piece = Piece::default();
    while at < range.end && found.len() < MAX_TASKS {
        let Some([mark, class, length]) = piece.header(at, range.end, memory) else { break };
        let Ok(class) = u32::try_from(class) else { break };
        let Some(size) = classes.size(class, length, epoch, layout, memory) else { break };
        let target = mark & !FORWARDED;
        if mark & FORWARDED == FORWARDED
            && (heap.0..heap.1).contains(&target)
            && target.is_multiple_of(8)
            && classes.kind(class, epoch, layout, memory) == Kind::Task
            && memory.u32(target.saturating_add(8)) == Some(class)
        {
            found.push(target);
        }
        let Some(next) = at.checked_add(size) else { break };
        at = next;
    }
    found
}

/// Memory that was read ahead.
#[derive(Default)]
struct Piece {
    start: u64,
    bytes: Vec<u8>,
}

impl Piece {
    /// The mark, the class and the length, if it is an array, of the object there.
    fn header(&mut self, at: u64, end: u64, memory: &dyn ReadMemory) -> Option<[u64; 3]> {
        if end - at < HEADER {
            return None;
        }
        if at < self.start || at + HEADER > self.start + self.bytes.len() as u64 {
            let length = usize::try_from(end - at).map_or(MAX_READ, |length| length.min(MAX_READ));
            self.bytes = memory.bytes(at, length)?;
            self.start = at;
        }
        let bytes = self.bytes.get(usize::try_from(at - self.start).ok()?..)?;
        let (mark, rest) = bytes.split_first_chunk()?;
        let (class, rest) = rest.split_first_chunk()?;
        let length = rest.first_chunk()?;
        Some([
            u64::from_le_bytes(*mark),
            u32::from_le_bytes(*class).into(),
            u32::from_le_bytes(*length).into(),
        ])
    }
}

/// The low bits of the first word of an object that was copied.
const FORWARDED: u64 = 3;
/// A first word, a class and a length.
const HEADER: u64 = 16;
/// Tasks in one range; a handler makes a few.
const MAX_TASKS: usize = 1024;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::discover::memory::Image;

    const HEAP: (u64, u64) = (0x10_0000, 0x20_0000);
    const TASK: u32 = 1;
    const INTS: u32 = 2;

    /// Memory with two classes at 0x1000 and 0x1100: a Runnable of 24 bytes, and int[].
    fn image() -> Image {
        let mut image = Image::default();
        let runnable = 0x3000u64;
        let name = |text: &[u8]| [&(text.len() as u16).to_le_bytes()[..], text, &[0; 64]].concat();
        image.put(0x2000, name(b"Task")).put(0x2100, name(b"[I")).put(0x2200, name(b"java/lang/Runnable"));
        image.put_words(0x3000, &[0, 0x2200, 0, 0, 0]);
        image.put_words(0x3100, &[1, runnable]).put_words(0x3200, &[0, 0]);
        // The helper, the name, the superclass, the interfaces.
        image.put_words(0x1100, &[24, 0x2000, 0, 0x3100]);
        image.put_words(0x1200, &[0xc010_0a02, 0x2100, 0, 0x3200]);
        image
    }

    fn layout() -> ClassLayout {
        ClassLayout::for_tests(0x1000, 8)
    }

    /// Puts objects one behind another: first word, class, length. Where they end.
    fn put(image: &mut Image, at: u64, objects: &[(u64, u32, u32)]) -> u64 {
        let mut all = Vec::new();
        for &(mark, class, length) in objects {
            let size = if class == TASK { 24 } else { (16 + length as usize * 4).next_multiple_of(8) };
            let start = all.len();
            all.resize(start + size, 0xee);
            all[start..start + 8].copy_from_slice(&mark.to_le_bytes());
            all[start + 8..start + 12].copy_from_slice(&class.to_le_bytes());
            all[start + 12..start + 16].copy_from_slice(&length.to_le_bytes());
        }
        let end = at + all.len() as u64;
        image.put(at, all);
        end
    }

    fn check(objects: &[(u64, u32, u32)], expected: &[u64]) {
        let mut image = image();
        let range = 0x11_0000..put(&mut image, 0x11_0000, objects);
        put(&mut image, 0x18_0000, &[(1, TASK, 0), (1, INTS, 0)]);
        let found = tasks(&range, 1, HEAP, &mut Classes::default(), &layout(), &image);
        assert_eq!(found, expected);
    }

    #[test]
    fn tasks_are_where_their_old_places_say() {
        check(&[(1, INTS, 5), (0x18_0003, TASK, 0), (1, TASK, 0)], &[0x18_0000]);
    }

    #[test]
    fn what_is_no_task_or_not_of_the_same_class_or_not_in_the_heap_is_none() {
        check(&[(0x18_001b, INTS, 5), (0x18_001b, TASK, 0), (0x38_0003, TASK, 0)], &[]);
        check(&[(0x18_0001, TASK, 0), (0x18_0002, TASK, 0), (0x18_0007, TASK, 0)], &[]);
    }

    #[test]
    fn what_lies_within_an_object_is_no_object() {
        let mut image = image();
        let range = 0x11_0000..put(&mut image, 0x11_0000, &[(1, INTS, 20)]);
        put(&mut image, 0x18_0000, &[(1, TASK, 0)]);
        let mut inner = image.bytes(0x11_0000, 96).unwrap();
        inner[16..24].copy_from_slice(&0x18_0003u64.to_le_bytes());
        inner[24..28].copy_from_slice(&TASK.to_le_bytes());
        image.put(0x11_0000, inner);
        assert!(tasks(&range, 1, HEAP, &mut Classes::default(), &layout(), &image).is_empty());
    }
}
