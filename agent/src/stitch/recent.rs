//! A map that remembers at least the last N keys and at most twice as many, in two generations.
//!
//! It must never hold more, and must say how many it forgot.

use std::collections::HashMap;
use std::hash::Hash;

/// See the module.
#[derive(Debug)]
pub(super) struct Recent<K, V> {
    young: HashMap<K, V>,
    old: HashMap<K, V>,
    capacity: usize,
}

impl<K: Eq + Hash, V: Copy> Recent<K, V> {
    /// Remembers at least the last `capacity / 2` keys and never more than `capacity`.
    pub fn new(capacity: usize) -> Self {
        Self { young: HashMap::new(), old: HashMap::new(), capacity: (capacity / 2).max(1) }
    }

    /// What was last put under this key, if it is still known.
    pub fn find(&self, key: &K) -> Option<V> {
        self.young.get(key).or_else(|| self.old.get(key)).copied()
    }

    /// Remembers; returns how many keys were forgotten for it.
    pub fn insert(&mut self, key: K, value: V) -> u64 {
        let mut forgotten = 0;
        if self.young.len() >= self.capacity && !self.young.contains_key(&key) {
            forgotten = self.old.len() as u64;
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(key, value);
        forgotten
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_half_is_known_and_never_more_than_the_capacity() {
        let mut recent = Recent::new(10);
        let mut forgotten = 0;
        for key in 0..1000_u64 {
            forgotten += recent.insert(key, ());
            assert!(recent.young.len() + recent.old.len() <= 10);
            for known in key.saturating_sub(4)..=key {
                assert!(recent.find(&known).is_some(), "{known} after {key}");
            }
        }
        assert_eq!(forgotten as usize, 1000 - recent.young.len() - recent.old.len());
    }
}
