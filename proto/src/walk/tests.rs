//! Walks over an image of memory.

use std::boxed::Box;
use std::collections::BTreeMap;
use std::string::ToString as _;
use std::vec::Vec;

use super::*;

#[derive(Default)]
struct Image {
    words: BTreeMap<u64, u64>,
}

impl World for Image {
    fn read(&self, address: u64, bytes: u32) -> Option<u64> {
        let word = self.words.get(&(address & !7))?;
        Some(field(*word, address, bytes))
    }
    fn block(&self, address: u64, bytes: u32, to: &mut [u64; BLOCK_ROOM]) -> bool {
        (0..bytes as u64 / 8).all(|n| match self.words.get(&(address + n * 8)) {
            Some(word) => {
                to[n as usize] = *word;
                true
            }
            None => false,
        })
    }
    fn thread_pointer(&self) -> Option<u64> {
        Some(0x7000)
    }
    fn epoll_word(&self) -> Option<u64> {
        None
    }
    fn socket(&self) -> Option<u64> {
        Some(1)
    }
    fn way(&self) -> u64 {
        1
    }
    fn time(&self) -> u64 {
        5
    }
    fn thread(&self) -> u64 {
        6
    }
    fn expected(&self, _: u64) -> bool {
        false
    }
}

fn image(words: &[(u64, u64)]) -> Image {
    Image { words: words.iter().copied().collect() }
}

#[track_caller]
fn check(words: &[(u64, u64)], walk: &[Step], want: Option<&[u64]>) {
    let mut saved = [0; SAVED_ROOM];
    saved[saved::R14 as usize] = 0x1000;
    let mut state = Box::new(State::new([9, 0, 0, 0], saved));
    let found = run(&mut state, walk, &image(words)).then(|| state.words[..state.kept as usize].to_vec());
    assert_eq!(found.as_deref(), want, "{}", text(walk));
}

fn text(walk: &[Step]) -> std::string::String {
    walk.iter().map(|step| step.to_string() + "\n").collect()
}

#[test]
fn pointers_are_followed_from_a_saved_register() {
    let walk = [
        Step::register(4, saved::R14),
        Step::read8(5, 4, 8),
        Step::read4(6, 5, 4),
        Step::keep(6),
        Step::keep(0),
        Step::end(),
    ];
    check(&[(0x1008, 0x2000), (0x2000, 7 << 32)], &walk, Some(&[7, 9]));
}

#[test]
fn a_read_that_fails_leaves_no_evidence() {
    let walk = [Step::keep_value(1), Step::read8(5, 4, 8), Step::end()];
    check(&[], &walk, None);
}

#[test]
fn a_guard_that_fails_leaves_no_evidence_or_takes_the_other_way() {
    let guard = Step::equal(0, 8);
    check(&[], &[Step::keep(0), guard, Step::end()], None);
    check(&[], &[guard.or(1), Step::keep_value(1), Step::keep_value(2), Step::end()], Some(&[2]));
    check(&[], &[Step::equal(0, 9).or(1), Step::keep_value(1), Step::end()], Some(&[1]));
}

#[test]
fn a_walk_without_an_end_leaves_no_evidence() {
    check(&[], &[Step::keep(0)], None);
    check(&[], &[Step::set(1, 0), Step::repeat(1, 0), Step::jump(127)], None);
    check(&[], &[Step::set(1, u64::MAX), Step::add(2, 2, 1), Step::repeat(1, 1), Step::end()], None);
}

#[test]
fn a_search_over_a_block_keeps_what_points_back() {
    // Four words on a stack; the third points to an object that points back.
    let words =
        [(0x1000, 1), (0x1008, 0x3000), (0x1010, 0x2000), (0x1018, 0), (0x2038, 0x2000), (0x3038, 0x4000)];
    let walk = [
        Step::register(4, saved::R14),
        Step::block(4, 0, 32),
        Step::set(5, 0),
        Step::set(6, 4),
        Step::field_at(7, 5),
        Step::read8(8, 7, 0x38).or(2),
        Step::equal_register(8, 7).or(1),
        Step::keep(7),
        Step::add(5, 5, 8),
        Step::repeat(6, 5),
        Step::end(),
    ];
    check(&words, &walk, Some(&[0x2000]));
}

#[test]
fn fields_of_a_block_are_cut_to_their_size() {
    let walk = [
        Step::register(4, saved::R14),
        Step::block(4, 0, 8),
        Step::field4(5, 4),
        Step::keep(5),
        Step::field2(5, 2),
        Step::keep(5),
        Step::field1(5, 1),
        Step::keep(5),
        Step::end(),
    ];
    check(&[(0x1000, 0x8877_6655_4433_2211)], &walk, Some(&[0x8877_6655, 0x4433, 0x22]));
}

#[test]
fn no_more_words_are_kept_than_there_is_room_for() {
    let walk: Vec<Step> = (0..MAX_WORDS as u64 + 1).map(Step::keep_value).chain([Step::end()]).collect();
    check(&[], &walk, None);
    let most: Vec<u64> = (0..MAX_WORDS as u64).collect();
    check(&[], &[&walk[..MAX_WORDS], &[Step::end()]].concat(), Some(&most));
}

#[test]
fn no_bytes_make_the_interpreter_panic_or_run_on() {
    let mut seed = 1u64;
    for _ in 0..20_000 {
        let mut walk = Vec::new();
        for _ in 0..12 {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let [op, to, from, or, ..] = (seed >> 16).to_ne_bytes();
            let value = if seed & 1 == 0 { seed } else { seed >> 58 };
            walk.push(Step { op: op % 36, to, from, or: or & 3, size: (seed >> 8) as u32 & 15, value });
        }
        let mut state = Box::new(State::new([0x1000, 8, 3, 1], [7; SAVED_ROOM]));
        run(&mut state, &walk, &image(&[(0x1000, 0x1008), (0x1008, 3)]));
        assert!(state.kept as usize <= MAX_WORDS);
        let _ = text(&walk);
    }
}
