//! Paths from the stack of a socket call to the secrets of its session: what stacks point to and where a search has found
//! secrets in, paths out.
//!
//! ```text
//!   stack pointer ──slot──▶ session ──step──▶ what holds its state ──secrets──▶ two blocks (rustls)
//!                     └────────────────────────────▲ or at once
//! ```
//! Between a library's call and the system call lie frames of constant size, so that a path of one session is that of
//! all others, in each process of the same program. It is believed when it has led to the secrets of [`SESSIONS`] of them, and
//! even then what it leads to is a guess: a record's tag tells. It must never keep a secret, or look at memory without a bound.

use std::collections::{HashMap, HashSet};

use spandrel_proto::tls::{NOWHERE, PATHS, Path, Stack};

use super::memory::ReadMemory;
use crate::identity::ConnectionId;

/// Sessions that a path must have led to.
const SESSIONS: usize = 3;
/// Stacks that are looked at, all in all, and of one connection.
const STACKS: usize = 16;
const STACKS_EACH: usize = 4;
/// Connections whose secrets' places are known.
const MAX_CONNECTIONS: usize = 256;
/// Paths of one stack.
const MAX_PATHS: usize = 64;
/// How long what holds a session's state may be, and what holds the pointer to it.
const REACH: u64 = 2048;

/// What is learned of one process.
#[derive(Debug, Default)]
pub struct Lesson {
    places: HashMap<ConnectionId, Vec<u64>>,
    /// The paths that each stack had, and whose it was.
    stacks: Vec<(ConnectionId, Vec<Path>)>,
}

impl Lesson {
    /// The secrets of this connection lie at these places, or copies of them.
    pub fn found(&mut self, connection: ConnectionId, places: &[u64]) {
        if self.places.len() < MAX_CONNECTIONS {
            self.places.insert(connection, places.to_vec());
        }
    }

    /// Looks at a stack, while what it points to is there.
    pub fn stack(&mut self, stack: &Stack, memory: &dyn ReadMemory) {
        let connection = ConnectionId(stack.connection);
        if let Some(places) = self.places.get(&connection)
            && self.stacks.len() < STACKS
            && self.stacks.iter().filter(|(other, _)| *other == connection).count() < STACKS_EACH
        {
            self.stacks.push((connection, paths(&stack.words, places, memory)));
        }
    }

    /// What was learned, once there is enough to learn from: those paths that led to most sessions, each another stack's.
    pub fn learned(&self) -> Option<Vec<Path>> {
        if self.stacks.len() < STACKS {
            return None;
        }
        let mut left: Vec<&(ConnectionId, Vec<Path>)> = self.stacks.iter().collect();
        let mut learned = Vec::new();
        while learned.len() < PATHS {
            let mut led: HashMap<Path, HashSet<ConnectionId>> = HashMap::new();
            for (connection, paths) in &left {
                for path in paths {
                    led.entry(*path).or_default().insert(*connection);
                }
            }
            let best = led.into_iter().max_by_key(|(path, led)| (led.len(), std::cmp::Reverse(*path)));
            let Some((path, _)) = best.filter(|(_, led)| led.len() >= SESSIONS) else { break };
            left.retain(|(_, paths)| !paths.contains(&path));
            learned.push(path);
        }
        Some(learned)
    }
}

/// The paths by which these words of a stack lead to one of these places.
fn paths(words: &[u64], places: &[u64], memory: &dyn ReadMemory) -> Vec<Path> {
    // How far behind an address the secrets begin.
    let behind = |address: u64| {
        let mut distances = places.iter().filter_map(|place| place.checked_sub(address));
        distances.find(|distance| *distance < REACH).and_then(|distance| u32::try_from(distance).ok())
    };
    let mut paths = Vec::new();
    for (slot, &word) in (0u32..).step_by(8).zip(words).filter(|(slot, word)| *slot > 0 && **word != 0) {
        paths.extend(behind(word).map(|secrets| Path { slot, step: NOWHERE, secrets }));
        let Some(held) = memory.bytes(word, REACH as usize) else { continue };
        for (step, bytes) in (0u32..).step_by(8).zip(held.as_chunks().0) {
            let secrets = behind(u64::from_le_bytes(*bytes));
            paths.extend(secrets.map(|secrets| Path { slot, step, secrets }));
        }
        if paths.len() >= MAX_PATHS {
            break;
        }
    }
    paths.truncate(MAX_PATHS);
    paths
}

#[cfg(test)]
mod tests {
    use super::super::memory::Image;
    use super::*;
    use spandrel_proto::tls::STACK_WORDS;

    /// A session at `base` of which the state lies at `base + 0x4000`, and the secrets 0x50 behind; and a stack of its call.
    fn session(image: &mut Image, base: u64, connection: u64, slot: usize) -> (Stack, u64) {
        let mut held = vec![0; REACH as usize];
        held[0x128..0x130].copy_from_slice(&(base + 0x4000).to_le_bytes());
        image.put(base, held);
        let mut words = [0; STACK_WORDS];
        words[slot] = base;
        // What earlier calls have left.
        words[7] = 0x9000;
        (Stack { connection, pid: 1, reserved: 0, words }, base + 0x4050)
    }

    fn lesson(slots: &[usize]) -> Option<Vec<Path>> {
        let mut lesson = Lesson::default();
        for number in 0..STACKS as u64 {
            let mut image = Image::default();
            let slot = slots[number as usize % slots.len()];
            let (stack, place) = session(&mut image, 0x10_0000 + number * 0x1_0000, number, slot);
            assert_eq!(lesson.learned(), None);
            lesson.stack(&stack, &image);
            assert_eq!(lesson.stacks.len(), number as usize, "its places are not known");
            lesson.found(ConnectionId(number), &[0x77_0000_0000, place]);
            lesson.stack(&stack, &image);
        }
        lesson.learned()
    }

    #[test]
    fn a_path_that_led_to_three_sessions_is_learned() {
        let path = |slot| Path { slot, step: 0x128, secrets: 0x50 };
        assert_eq!(lesson(&[13]), Some(vec![path(104)]));
        assert_eq!(lesson(&[20, 13, 20]), Some(vec![path(160), path(104)]));
    }

    #[test]
    fn what_led_to_one_session_is_chance() {
        let all: Vec<usize> = (10..10 + STACKS).collect();
        assert_eq!(lesson(&all), Some(vec![]));
    }

    #[test]
    fn of_few_connections_nothing_is_learned() {
        let mut lesson = Lesson::default();
        for number in 0..10 * STACKS as u64 {
            let mut image = Image::default();
            let (stack, place) = session(&mut image, 0x10_0000, number % 3, 13);
            lesson.found(ConnectionId(number % 3), &[place]);
            lesson.stack(&stack, &image);
        }
        assert_eq!((lesson.stacks.len(), lesson.learned()), (3 * STACKS_EACH, None));
    }

    #[test]
    fn a_pointer_to_what_holds_the_secrets_needs_no_step() {
        let got = paths(&[0, 0, 0x7000], &[0x7108], &Image::default());
        assert_eq!(got, [Path { slot: 16, step: NOWHERE, secrets: 0x108 }]);
        assert_eq!(paths(&[0, 0, 0x7000], &[0x6ff8, 0x7000 + REACH], &Image::default()), []);
    }
}
