//! Layouts found in images of memory, and walks run over them.

use spandrel_proto::walk::{self, SAVED_ROOM, State, World};

use super::layout::{Binary, Layout, Missing, find};
use super::*;
use crate::discover::memory::{Image, ReadMemory};

const RUNTIME: u64 = 0x10_0000;
const INTERPRETER: u64 = 0x20_0000;
const STATE_OF_MAIN: u64 = 0x30_0000;
const THREAD_OF_MAIN: u64 = 0x7000_0000_0000;
const CONTEXT_OF_MAIN: u64 = 0x50_0000;
const CONTEXT_TYPE: u64 = 0x60_0000;

const BINARY: Binary = Binary { runtime: RUNTIME, context_type: CONTEXT_TYPE, copy: None, minor: Some(11) };

/// A process as 3.11 has it, with the thread state in this slot.
fn process(slot: i64, context: u64) -> Image {
    let mut image = Image::default();
    let mut words = |address: u64, count: usize, set: &[(u64, u64)]| {
        let mut all = vec![0; count];
        for &(at, value) in set {
            all[(at / 8) as usize] = value;
        }
        image.put_words(address, &all);
    };
    words(RUNTIME, 2000, &[(40, INTERPRETER), (48, INTERPRETER)]);
    words(INTERPRETER, 3000, &[(16, STATE_OF_MAIN), (24, 0x1_2345_6780)]);
    words(STATE_OF_MAIN, 100, &[(16, INTERPRETER), (152, THREAD_OF_MAIN), (160, 77), (224, context)]);
    let base = THREAD_OF_MAIN - 8192;
    let at = |offset: i64| (THREAD_OF_MAIN - base).wrapping_add_signed(offset);
    words(base, 2048, &[(at(0), THREAD_OF_MAIN), (at(16), THREAD_OF_MAIN), (at(slot), STATE_OF_MAIN)]);
    words(CONTEXT_OF_MAIN, 8, &[(8, CONTEXT_TYPE), (40, 1)]);
    image
}

#[test]
fn a_layout_is_found_without_a_table() {
    let image = process(0x310 + 8 + 16, CONTEXT_OF_MAIN);
    let (layout, _) = find(&image, &Binary { minor: None, ..BINARY }).unwrap();
    assert_eq!(layout, Layout { slot: 0x328, thread_id: 152, context: 224, thread: THREAD_OF_MAIN });
}

#[test]
fn a_state_in_thread_local_storage_is_found_below_the_thread_pointer() {
    let (layout, _) = find(&process(-24, CONTEXT_OF_MAIN), &BINARY).unwrap();
    assert_eq!(layout.slot as i64, -24);
}

#[test]
fn where_no_context_is_there_yet_the_version_says_where_it_will_be() {
    let image = process(0x318, 0);
    assert_eq!(find(&image, &BINARY).unwrap().0.context, 224);
    assert!(matches!(find(&image, &Binary { minor: None, ..BINARY }), Err(Missing::Yet(_))));
}

#[test]
fn what_does_not_prove_itself_is_not_believed() {
    let spoil = |address: u64| {
        let mut image = process(0x318, CONTEXT_OF_MAIN);
        assert!(find(&image, &BINARY).is_ok());
        image.put_words(address, &[0xdead_beef_0000]);
        // Regions do not overlap in an image: the word stands alone, what lay around it is as good as unreadable.
        find(&image, &BINARY).is_err()
    };
    for address in [RUNTIME, INTERPRETER, STATE_OF_MAIN] {
        assert!(spoil(address), "{address:#x}");
    }
    assert!(find(&Image::default(), &BINARY).is_err());
}

/// A task of the process: its thread pointer is `thread`.
struct Task<'a> {
    image: &'a Image,
    thread: u64,
}

impl World for Task<'_> {
    fn thread_pointer(&self) -> Option<u64> {
        Some(self.thread)
    }
    fn epoll_word(&self) -> Option<u64> {
        None
    }
    fn socket(&self) -> Option<u64> {
        None
    }
    fn way(&self) -> u64 {
        1
    }
    fn time(&self) -> u64 {
        0
    }
    fn thread(&self) -> u64 {
        0
    }
    fn read(&self, address: u64, size: u32) -> Option<u64> {
        let bytes = self.image.bytes(address, size as usize)?;
        let mut word = [0; 8];
        word[..bytes.len()].copy_from_slice(&bytes);
        Some(u64::from_le_bytes(word))
    }
    fn block(&self, _: u64, _: u32, _: &mut [u64; walk::BLOCK_ROOM]) -> bool {
        false
    }
    fn expected(&self, _: u64) -> bool {
        false
    }
}

fn walked(steps: &[Step], image: &Image, thread: u64, ax: u64) -> Option<Vec<u64>> {
    let mut saved = [0; SAVED_ROOM];
    saved[walk::saved::AX as usize] = ax;
    let mut state = State::new([0; 4], saved);
    walk::run(&mut state, steps, &Task { image, thread }).then(|| state.words[..state.kept as usize].to_vec())
}

#[test]
fn a_call_in_an_entered_context_keeps_it_and_any_other_keeps_nothing() {
    let image = process(0x318, CONTEXT_OF_MAIN);
    let (layout, _) = find(&image, &BINARY).unwrap();
    let steps = call_walk(&layout, &BINARY, None);
    assert_eq!(walked(&steps, &image, THREAD_OF_MAIN, 0), Some(vec![CONTEXT_OF_MAIN, 0]));
    // Another thread's block, no context, one that is not entered, one of another type.
    assert_eq!(walked(&steps, &image, THREAD_OF_MAIN - 64, 0), None);
    assert_eq!(walked(&steps, &process(0x318, 0), THREAD_OF_MAIN, 0), None);
    for (at, value) in [(40, 0), (8, 1)] {
        let mut words = vec![0, CONTEXT_TYPE, 0, 0, 0, 1, 0, 0];
        words[at / 8] = value;
        let mut image = process(0x318, CONTEXT_OF_MAIN);
        image.put_words(CONTEXT_OF_MAIN, &words);
        assert_eq!(walked(&steps, &image, THREAD_OF_MAIN, 0), None);
    }
}

#[test]
fn a_copy_keeps_the_new_context_and_the_current_one_if_it_is_entered() {
    let mut image = process(0x318, CONTEXT_OF_MAIN);
    let copy = 0x50_1000;
    image.put_words(copy, &[1, CONTEXT_TYPE, 0, 0, 0, 0, 0, 0]);
    let (layout, _) = find(&image, &BINARY).unwrap();
    let steps = copy_walk(&layout, &BINARY);
    assert_eq!(walked(&steps, &image, THREAD_OF_MAIN, copy), Some(vec![copy, CONTEXT_OF_MAIN]));
    image.put_words(CONTEXT_OF_MAIN, &[1, CONTEXT_TYPE, 0, 0, 0, 0, 0, 0]);
    assert_eq!(walked(&steps, &image, THREAD_OF_MAIN, copy), Some(vec![copy, 0]));
    assert_eq!(walked(&steps, &image, THREAD_OF_MAIN, 0x999), None);
}

#[test]
fn greenlets_are_kept_beside_contexts_or_without() {
    let (dtv, block, state, main, current, main_type) =
        (0x70_0000, 0x71_0000, 0x72_0000, 0x73_0000, 0x74_0000, 0x75_0000);
    for (context, want) in [(CONTEXT_OF_MAIN, CONTEXT_OF_MAIN), (0, 0)] {
        let mut image = process(0x318, context);
        image.put_words(THREAD_OF_MAIN + 8, &[dtv]);
        image.put_words(THREAD_OF_MAIN, &[THREAD_OF_MAIN, dtv, THREAD_OF_MAIN]);
        image.put_words(THREAD_OF_MAIN + 0x310, &[0, STATE_OF_MAIN]);
        image.put_words(dtv - 16, &[2, 0, 0, 0, u64::MAX, 0, block, 0]);
        image.put_words(block, &[0, state]);
        image.put_words(state, &[main, current]);
        image.put_words(main, &[1, main_type]);
        let found = greenlet::search(&image, THREAD_OF_MAIN, main_type, 16).unwrap();
        let layout = Layout { slot: 0x318, thread_id: 152, context: 224, thread: THREAD_OF_MAIN };
        let steps = call_walk(&layout, &BINARY, Some(&found));
        assert_eq!(walked(&steps, &image, THREAD_OF_MAIN, 0), Some(vec![want, current]));
    }
}

#[test]
fn a_reader_owns_and_claims_by_context_and_asks_for_makers_once_if_it_knows_where() {
    let mapping = Mapping::default();
    let point = |address| super::super::ProbePoint {
        file: mapping.clone(),
        file_offset: 0,
        addresses: vec![address],
        bytes: vec![0xc3],
        walk: Walk::default(),
    };
    let mut reader = Contexts { points: vec![point(1)] };
    let mut wishes = Vec::new();
    let seen = Seen {
        tag: tag::CALL,
        words: &[7, 0],
        time: crate::identity::Monotonic(1),
        thread: crate::identity::ThreadId(1),
        connection: crate::identity::ConnectionId(1),
        direction: Direction::Send,
        bytes: &[],
    };
    let facts = reader.read(&seen, &mut wishes);
    assert_eq!(facts.owns, [Key { space: space::CONTEXT, value: 7 }]);
    assert_eq!(facts.claims.len(), 1);
    assert!(reader.read(&Seen { direction: Direction::Receive, ..seen }, &mut wishes).is_empty());
    assert!(reader.read(&Seen { words: &[], tag: 0, ..seen }, &mut wishes).is_empty());
    reader.orphaned(&facts.claims, &mut wishes);
    reader.orphaned(&facts.claims, &mut wishes);
    assert!(matches!(&wishes[..], [Wish::Observe(set)] if set.points.len() == 1));
    let (mut reader, mut wishes) = (Contexts { points: Vec::new() }, Vec::new());
    reader.orphaned(&facts.claims, &mut wishes);
    assert!(wishes.is_empty());
}

#[test]
fn no_image_makes_the_search_panic() {
    let mut random = 1u64;
    for _ in 0..200 {
        let bytes: Vec<u8> = (0..4096)
            .map(|at| {
                random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                // Pointers into the image are likely.
                if at % 8 < 2 {
                    (random >> 60) as u8 * 16
                } else if at % 8 == 2 {
                    0x10
                } else {
                    0
                }
            })
            .collect();
        super::fuzz::fuzz_layout(&bytes);
    }
}
