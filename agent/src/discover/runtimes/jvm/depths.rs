//! At which depths of stacks tasks lie: the places that the walks of a process read.
//!
//! ```text
//!   look at a stack ─▶ depth ─▶ three looks agree ─▶ read by the walk, at each call, until another needs the room
//! ```
//! The loop of a pool keeps its task at another depth once it is compiled, and differently by each compiler; a walk has room for a few
//! depths. So one at which no call met a task for a while gives way. Words that an earlier walk read must not be taken for
//! those of other depths: each walk bears the number of its generation. Pure.

use std::collections::HashMap;

use super::SLOTS;
use crate::identity::Monotonic;

/// The depths that are read.
#[derive(Debug, Default)]
pub struct Depths {
    read: Vec<Depth>,
    generation: u8,
    found: Votes,
    found_forks: Votes,
    /// Where on the stacks of a ForkJoinPool's threads the task lies that they run.
    forks: Option<(u64, u64)>,
}

#[derive(Clone, Copy, Debug)]
struct Depth {
    below_base: u64,
    /// When a call last met a task there.
    met: Monotonic,
}

impl Depths {
    /// All, in the order in which the walk reads them.
    pub fn all(&self) -> Vec<u64> {
        self.read.iter().map(|depth| depth.below_base).collect()
    }

    /// The number of the walk that reads them.
    pub fn generation(&self) -> u8 {
        self.generation
    }

    /// Which of the objects that a walk of this generation met is the one at this depth.
    pub fn place(&self, below_base: u64, generation: u8) -> Option<usize> {
        let place = self.read.iter().position(|depth| depth.below_base == below_base)?;
        (generation == self.generation).then_some(place)
    }

    /// A call met a task at this depth.
    pub fn met(&mut self, below_base: u64, at: Monotonic) {
        if let Some(depth) = self.read.iter_mut().find(|depth| depth.below_base == below_base) {
            depth.met = at;
        }
    }

    /// The two depths of a ForkJoinPool's threads, if they are known.
    pub fn forks(&self) -> Option<(u64, u64)> {
        self.forks
    }

    /// A look found a task at this depth: true if the walk has to read other depths from now on.
    pub fn found(&mut self, below_base: u64, at: Monotonic) -> bool {
        if self.read.iter().any(|depth| depth.below_base == below_base) || !self.found.count((below_base, 0))
        {
            return false;
        }
        let depth = Depth { below_base, met: at };
        // Two places are a ForkJoinPool's.
        if self.read.len() < if self.forks.is_some() { SLOTS } else { SLOTS - 2 } {
            self.read.push(depth);
            return true;
        }
        let forks = self.forks;
        let of_forks = |depth: u64| forks.is_some_and(|(outer, inner)| depth == outer || depth == inner);
        let others = self.read.iter_mut().filter(|depth| !of_forks(depth.below_base));
        match others.min_by_key(|depth| depth.met) {
            Some(unused) if at.since(unused.met) >= UNUSED => {
                self.found.forget((unused.below_base, 0));
                *unused = depth;
                self.generation = self.generation.wrapping_add(1);
                true
            }
            _ => false,
        }
    }

    /// A look found the task of a ForkJoinPool's thread at these depths: true if the walk has to read them from now on.
    pub fn found_forks(&mut self, pair: (u64, u64), at: Monotonic) -> bool {
        if self.forks.is_some() || !self.found_forks.count(pair) {
            return false;
        }
        self.forks = Some(pair);
        self.read.extend([pair.0, pair.1].map(|below_base| Depth { below_base, met: at }));
        true
    }

    /// As many as there can be.
    #[cfg(test)]
    pub fn full() -> Self {
        let mut depths = Self::default();
        for number in 0..ENOUGH * SLOTS as u32 {
            depths.found((8 * (number / ENOUGH)).into(), Monotonic(0));
            depths.found_forks((800, 808), Monotonic(0));
        }
        assert_eq!(depths.read.len(), SLOTS);
        depths
    }
}

/// Findings, by how many looks agree about them.
#[derive(Debug, Default)]
struct Votes(HashMap<(u64, u64), u32>);

impl Votes {
    /// One more look found these: true if now enough of them agree.
    fn count(&mut self, found: (u64, u64)) -> bool {
        if self.0.len() >= MAX_KINDS && !self.0.contains_key(&found) {
            self.0.clear();
        }
        let votes = self.0.entry(found).or_default();
        *votes += 1;
        *votes >= ENOUGH
    }

    fn forget(&mut self, found: (u64, u64)) {
        self.0.remove(&found);
    }
}

/// Looks that must agree: a thread is looked at some time after its call, when it may run something else.
const ENOUGH: u32 = 3;
/// Different findings remembered; beyond, all are forgotten and found anew.
const MAX_KINDS: usize = 64;
/// After how long a depth at which no task was met gives way to another, nanoseconds.
const UNUSED: u64 = 1_000_000_000;

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    /// Enough looks find a task there; whether the walk changes.
    fn found(depths: &mut Depths, below_base: u64, at: u64) -> bool {
        (0..ENOUGH).any(|_| depths.found(below_base, Monotonic(at)))
    }

    /// Three depths, all that there is room for beside a ForkJoinPool's.
    fn full() -> Depths {
        let mut depths = Depths::default();
        assert!([8, 16, 24].into_iter().all(|below_base| found(&mut depths, below_base, 0)));
        depths
    }

    #[test]
    fn a_depth_is_known_once_three_looks_agree() {
        let mut depths = Depths::default();
        let looks = [64, 72, 64, 64, 64];
        let told = looks.map(|below_base| depths.found(below_base, Monotonic(0)));
        assert_eq!(told, [false, false, false, true, false]);
        let pairs = [(64, 80), (64, 88), (64, 80), (64, 80)];
        let told = pairs.map(|pair| depths.found_forks(pair, Monotonic(0)));
        assert_eq!(told, [false, false, false, true]);
        assert_eq!((depths.all(), depths.forks()), (vec![64, 64, 80], Some((64, 80))));
    }

    #[test]
    fn the_depth_that_was_not_met_for_longest_gives_way() {
        let mut depths = full();
        depths.met(8, Monotonic(SECOND));
        depths.met(24, Monotonic(SECOND));
        assert!(found(&mut depths, 32, SECOND));
        assert_eq!(depths.all(), [8, 32, 24]);
        // It has to be found as often as any other to come back.
        assert!(!depths.found(16, Monotonic(9 * SECOND)));
    }

    #[test]
    fn depths_that_are_in_use_stay() {
        let mut depths = full();
        assert!(!found(&mut depths, 32, SECOND - 1));
        assert_eq!((depths.all(), depths.generation()), (vec![8, 16, 24], 0));
    }

    #[test]
    fn a_fork_join_pools_depths_stay() {
        let mut depths = full();
        assert!((0..ENOUGH).any(|_| depths.found_forks((40, 48), Monotonic(0))));
        for below_base in [56, 64, 72, 80] {
            found(&mut depths, below_base, 5 * SECOND);
        }
        assert_eq!((depths.all(), depths.generation()), (vec![56, 64, 72, 40, 48], 3));
    }

    #[test]
    fn what_an_earlier_walk_met_is_not_taken_for_what_another_meets() {
        let mut depths = full();
        assert_eq!(depths.place(24, 0), Some(2));
        assert!(found(&mut depths, 32, SECOND));
        assert_eq!((depths.place(24, 0), depths.place(24, 1), depths.place(32, 1)), (None, Some(2), Some(0)));
    }

    #[test]
    fn findings_are_bounded() {
        let mut votes = Votes::default();
        for number in 0..10 * MAX_KINDS as u64 {
            votes.count((number, 0));
        }
        assert!(votes.0.len() <= MAX_KINDS);
    }
}
