//! What samples have shown of one executable: where its tasks keep what a walk needs.
//!
//! Addresses are relative to where the executable is loaded, so that what one process showed holds for all. A fact is
//! *settled* once samples agree, and is never taken back: the kernel side checks it again at each read, so that what
//! does not hold finds nothing.
//!
//! It must never settle on what one sample showed, or choose among candidates.

use std::collections::{BTreeMap, BTreeSet};

use super::reply::{Hop, Path};

/// See the module.
#[derive(Clone, Debug, Default)]
pub struct Known {
    /// Where the object behind an epoll word has its reader's waker, and that waker's vtable: how often seen.
    readers: BTreeMap<(u32, u64), u32>,
    thread_local: ThreadLocal,
    replies: BTreeMap<u64, Samples<Path>>,
    hops: BTreeMap<u64, Samples<(u32, u32)>>,
}

/// The search for the thread's current task.
#[derive(Clone, Debug, Default)]
struct ThreadLocal {
    candidates: Option<BTreeSet<i64>>,
    samples: u32,
    changes: u32,
    last: u64,
    settled: Option<i64>,
}

/// How often which candidate was found.
#[derive(Clone, Debug)]
struct Samples<T> {
    tries: u32,
    found: BTreeMap<T, u32>,
}

impl<T> Default for Samples<T> {
    fn default() -> Self {
        Self { tries: 0, found: BTreeMap::new() }
    }
}

impl<T: Copy + Ord> Samples<T> {
    fn add(&mut self, found: impl IntoIterator<Item = T>) {
        self.tries = self.tries.saturating_add(1);
        for found in found {
            if self.found.len() < MAX_CANDIDATES || self.found.contains_key(&found) {
                *self.found.entry(found).or_default() += 1;
            }
        }
    }

    fn best(&self) -> Option<(T, u32, u32)> {
        let (best, hits) = self.found.iter().max_by_key(|(_, hits)| **hits)?;
        let next = self.found.iter().filter(|(other, _)| *other != best).map(|(_, hits)| *hits).max();
        Some((*best, *hits, next.unwrap_or(0)))
    }
}

impl Known {
    /// A waker of a task was found so many bytes behind an epoll word.
    pub fn reader(&mut self, offset: u32, waker_vtable: u64) {
        if self.readers.len() < MAX_CANDIDATES || self.readers.contains_key(&(offset, waker_vtable)) {
            *self.readers.entry((offset, waker_vtable)).or_default() += 1;
        }
    }

    /// Where a watched object has its reader's waker, and the vtable of tasks' wakers.
    pub fn readers(&self) -> Option<(u32, u64)> {
        let total: u32 = self.readers.values().sum();
        let (best, hits) = self.readers.iter().max_by_key(|(_, hits)| **hits)?;
        (hits.saturating_mul(10) >= total.saturating_mul(9)).then_some(*best)
    }

    /// A task with this id made a call, and these places below the thread pointer held its id. Whether that settled
    /// the question.
    pub fn thread_local(&mut self, id: u64, places: &BTreeSet<i64>) -> bool {
        let search = &mut self.thread_local;
        // A task that is not the current one has its id nowhere.
        if search.settled.is_some() || places.is_empty() {
            return false;
        }
        let candidates = match &search.candidates {
            None => places.clone(),
            Some(candidates) => candidates.intersection(places).copied().collect(),
        };
        if candidates.is_empty() {
            *search = ThreadLocal::default();
            return false;
        }
        search.samples = search.samples.saturating_add(1);
        search.changes += u32::from(search.last != id && search.last != 0);
        search.last = id;
        if let (Some(&only), 1) = (candidates.first(), candidates.len())
            && search.samples >= SAMPLES
            && search.changes >= CHANGES
        {
            search.settled = Some(only);
        }
        search.candidates = Some(candidates);
        search.settled.is_some()
    }

    /// Where the thread's current task is, below the thread pointer.
    pub fn current_task(&self) -> Option<i64> {
        self.thread_local.settled
    }

    /// A connection task of this type was searched for the replies that it owes.
    pub fn reply(&mut self, vtable: u64, found: impl IntoIterator<Item = Path>) {
        if self.replies.len() < MAX_TYPES || self.replies.contains_key(&vtable) {
            self.replies.entry(vtable).or_default().add(found);
        }
    }

    /// Whether a search of a task of this type could still tell something.
    pub fn wants_reply(&self, vtable: u64) -> bool {
        match self.replies.get(&vtable) {
            None => self.replies.len() < MAX_TYPES,
            Some(samples) => settled_path(samples).is_none() && samples.tries < MAX_TRIES,
        }
    }

    /// How tasks of a type are asked who waits for their reply; the types that were seen most, first.
    pub fn paths(&self) -> Vec<(u64, Path)> {
        let mut paths: Vec<_> = self
            .replies
            .iter()
            .filter_map(|(vtable, samples)| Some((samples.tries, *vtable, settled_path(samples)?)))
            .collect();
        paths.sort_unstable_by_key(|&(tries, vtable, _)| (std::cmp::Reverse(tries), vtable));
        paths.into_iter().map(|(_, vtable, path)| (vtable, path)).collect()
    }

    /// A waker of another kind was searched for the task behind it.
    pub fn hop(&mut self, vtable: u64, found: impl IntoIterator<Item = Hop>) {
        if self.hops.len() < MAX_TYPES || self.hops.contains_key(&vtable) {
            let found = found.into_iter().map(|hop| (hop.queue, hop.waker));
            self.hops.entry(vtable).or_default().add(found);
        }
    }

    /// Whether a search of a waker of this kind could still tell something.
    pub fn wants_hop(&self, vtable: u64) -> bool {
        match self.hops.get(&vtable) {
            None => self.hops.len() < MAX_TYPES,
            Some(samples) => settled_hop(samples).is_none() && samples.tries < MAX_TRIES,
        }
    }

    /// How the task behind a waker of another kind is found.
    pub fn hops(&self) -> Vec<Hop> {
        let hops = self.hops.iter().filter_map(|(&vtable, samples)| {
            let (queue, waker) = settled_hop(samples)?;
            Some(Hop { vtable, queue, waker })
        });
        hops.collect()
    }

    /// What is known, in a line.
    pub fn summary(&self) -> String {
        let current = match self.current_task() {
            Some(place) => format!("the current task is at thread pointer {place:+#x}"),
            None => "the place of the current task is not known yet".to_owned(),
        };
        format!(
            "{current}; replies of {} of {} types of task, {} kinds of waker",
            self.paths().len(),
            self.replies.len(),
            self.hops().len() + usize::from(self.readers().is_some())
        )
    }
}

/// Each sample of a reply is a proof by itself (it points back); several show that it is no accident of one moment.
fn settled_path(samples: &Samples<Path>) -> Option<Path> {
    let (best, hits, next) = samples.best()?;
    (hits >= REPLIES && hits > next.saturating_mul(4)).then_some(best)
}

/// The task behind a waker does not point back, so the one place that nearly always holds is asked for.
fn settled_hop(samples: &Samples<(u32, u32)>) -> Option<(u32, u32)> {
    let (best, hits, next) = samples.best()?;
    let nearly_always = hits.saturating_mul(10) >= samples.tries.saturating_mul(8);
    (hits >= HOPS && nearly_always && next.saturating_mul(2) <= hits).then_some(best)
}

/// Samples for the place of the current task. With two tasks in turn, any other word would have to follow both.
const SAMPLES: u32 = 8;
/// Times that the current task was another one than in the sample before.
const CHANGES: u32 = 4;
/// Samples for a reply's path.
const REPLIES: u32 = 3;
/// Samples for a hop.
const HOPS: u32 = 6;
/// Searches of one type of task, or kind of waker, before it is left alone: each reads some ten pages.
const MAX_TRIES: u32 = 200;
/// Types that are told apart. A program has some ten that own connections.
const MAX_TYPES: usize = 256;
/// Candidates noted of each.
const MAX_CANDIDATES: usize = 256;

#[cfg(test)]
mod tests {
    use super::*;

    fn places(places: &[i64]) -> BTreeSet<i64> {
        places.iter().copied().collect()
    }

    #[test]
    fn the_current_task_is_where_every_sample_had_it() {
        let mut known = Known::default();
        for n in 0..8 {
            assert_eq!(known.current_task(), None);
            known.thread_local(4 + n % 2, &places(if n == 3 { &[-0x148] } else { &[-0x148, -0x20] }));
        }
        assert_eq!(known.current_task(), Some(-0x148));
    }

    #[test]
    fn one_task_alone_settles_nothing() {
        let mut known = Known::default();
        for _ in 0..100 {
            known.thread_local(7, &places(&[-0x148]));
        }
        assert_eq!(known.current_task(), None);
    }

    #[test]
    fn two_places_that_always_agree_settle_nothing() {
        let mut known = Known::default();
        for n in 0..100 {
            known.thread_local(n + 1, &places(&[-0x148, -0x20]));
        }
        assert_eq!(known.current_task(), None);
    }

    #[test]
    fn a_path_needs_several_samples_and_no_rival() {
        let path = |shared| Path { boxed: Some(0x38), shared };
        let mut known = Known::default();
        known.reply(1, [path(0x258)]);
        known.reply(1, []);
        known.reply(1, [path(0x258)]);
        assert!(known.paths().is_empty() && known.wants_reply(1));
        known.reply(1, [path(0x258)]);
        assert_eq!(known.paths(), [(1, path(0x258))]);
        assert!(!known.wants_reply(1));
        for _ in 0..10 {
            known.reply(2, [path(0x10), path(0x20)]);
        }
        assert_eq!(known.paths().len(), 1, "two rivals");
    }

    #[test]
    fn a_hop_must_nearly_always_be_there() {
        let hop = |queue, waker| Hop { vtable: 5, queue, waker };
        let mut known = Known::default();
        for n in 0..10 {
            known.hop(5, [hop(0, 0x18)].into_iter().chain((n % 3 == 0).then_some(hop(0x18, 0x30))));
        }
        assert_eq!(known.hops(), [hop(0, 0x18)]);
        for n in 0..20 {
            known.hop(6, (n % 2 == 0).then_some(hop(0, 0x18)));
        }
        assert_eq!(known.hops().len(), 1, "half of the samples are no rule");
    }

    #[test]
    fn searches_end() {
        let mut known = Known::default();
        for _ in 0..1000 {
            if known.wants_reply(9) {
                known.reply(9, []);
            }
        }
        assert_eq!(known.replies[&9].tries, MAX_TRIES);
    }
}
