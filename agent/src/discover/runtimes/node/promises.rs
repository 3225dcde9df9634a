//! Whose a promise job is: by the address of the promise or of the handler that it was registered with.
//!
//! V8's collectors move objects. What moved leaves its new address in its first word (the low bit is clear there,
//! and set in the map word of an object that stands still), until the space is used again. So at each collection
//! every address is looked up once ([`Promises::moved`]). An address that two owners register is a constant or a
//! shared function, and useless from then on. It must never guess: an address that cannot be read is forgotten.

use std::collections::{HashMap, HashSet};

use super::machine::Owner;

/// The registered objects.
#[derive(Debug, Default)]
pub struct Promises {
    pending: HashMap<u64, Pending>,
    /// Addresses that were registered twice at a time.
    shared: HashSet<u64>,
    /// Registrations so far, up to [`LEARNING`].
    registered: u32,
    /// What was forgotten because there were too many, could not be read, or was met twice.
    pub forgotten: u64,
}

#[derive(Clone, Copy, Debug, PartialEq)]
struct Pending {
    owner: Option<Owner>,
    part: Part,
}

/// What an object is in a registration.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Part {
    /// What the handlers' result goes to: may be a constant, so one of the handlers must agree.
    Result,
    /// A handler: a job with it is enough.
    Handler,
    /// The promise that `then` returned, made for this registration: enough, too.
    Derived,
}

impl Promises {
    /// Handlers were registered on behalf of `owner`: what their result goes to, and the two of them.
    pub fn register(&mut self, [result, fulfilled, rejected]: [u64; 3], owner: Option<Owner>) {
        self.registered = self.registered.saturating_add(1);
        self.put(result, Pending { owner, part: Part::Result });
        self.put(fulfilled, Pending { owner, part: Part::Handler });
        self.put(rejected, Pending { owner, part: Part::Handler });
    }

    /// `then` returned this promise.
    pub fn derived(&mut self, promise: u64, owner: Option<Owner>) {
        self.registered = self.registered.saturating_add(1);
        self.put(promise, Pending { owner, part: Part::Derived });
    }

    fn put(&mut self, object: u64, pending: Pending) {
        // A small integer, or nothing.
        if object & 1 == 0 || self.shared.contains(&object) {
            return;
        }
        match self.pending.get(&object) {
            Some(known) if known.owner != pending.owner => {
                self.pending.remove(&object);
                self.shared.insert(object);
            }
            _ => {
                self.pending.insert(object, pending);
            }
        }
        if self.pending.len() > MAX_PENDING || self.shared.len() > MAX_PENDING {
            self.clear();
        }
    }

    /// A job begins, with this promise or capability and this handler: whose it is.
    pub fn begin(&mut self, promise: u64, handler: u64) -> Option<Owner> {
        let promise = self.pending.remove(&promise);
        let handler = self.pending.remove(&handler);
        // Constants show themselves only once two owners registered them.
        if self.registered < LEARNING {
            return None;
        }
        match (promise, handler) {
            (Some(one), Some(other)) if one.owner == other.owner => one.owner,
            (Some(Pending { owner, part: Part::Derived }), None) => owner,
            (None, Some(Pending { owner, part: Part::Handler })) => owner,
            _ => None,
        }
    }

    /// A collection has just moved objects: `read` gives the word at an address.
    pub fn moved(&mut self, read: &dyn Fn(u64) -> Option<u64>) {
        let mut moved = HashMap::with_capacity(self.pending.len());
        let mut twice = HashSet::new();
        for (object, pending) in std::mem::take(&mut self.pending) {
            let Some(now) = follow(object, read) else {
                self.forgotten += 1;
                continue;
            };
            if moved.insert(now, pending).is_some() {
                twice.insert(now);
            }
        }
        for object in twice {
            moved.remove(&object);
            self.forgotten += 1;
        }
        self.pending = moved;
        self.shared = self.shared.iter().filter_map(|&object| follow(object, read)).collect();
    }

    /// Nothing is known any more.
    pub fn clear(&mut self) {
        self.forgotten += self.pending.len() as u64;
        self.pending.clear();
        self.shared.clear();
        self.registered = 0;
    }

    /// How many are registered.
    #[cfg(test)]
    pub fn len(&self) -> usize {
        self.pending.len()
    }
}

/// Where an object is now: its tagged address.
fn follow(object: u64, read: &dyn Fn(u64) -> Option<u64>) -> Option<u64> {
    let first = read(object.checked_sub(1)?)?;
    if first & 1 == 1 {
        return Some(object);
    }
    // What it moved to must begin with a map word.
    let map = (first & 7 == 0 && first != 0).then(|| read(first)).flatten()?;
    (map & 1 == 1).then_some(first + 1)
}

/// Objects pending at once. A request has some dozens, and a job takes its own away.
const MAX_PENDING: usize = 65_536;
/// Registrations after which `undefined` and its like were mostly registered twice.
const LEARNING: u32 = 16;
