//! Whose a promise job is: by the address of the promise or of the handler that it was registered with.
//!
//! V8's collectors move objects. What moved leaves its new address in its first word (the low bit is clear there,
//! and set in the map word of an object that stands still), until the space is used again. So at each collection
//! every address is looked up once ([`Promises::moved`]). An address that two owners register between two collections
//! is a constant or a shared function, and useless from then on; after a collection it may be another object's.
//! It must never guess: an address that cannot be read is forgotten.

use std::collections::{HashMap, HashSet};

use super::machine::Owner;

/// The registered objects.
#[derive(Debug, Default)]
pub struct Promises {
    pending: HashMap<u64, Pending>,
    /// The addresses of one registration: when its job runs, none of them is awaited any more.
    together: HashMap<u64, Vec<u64>>,
    /// Collections so far: only after one can an address be another object's.
    collections: u64,
    /// Registrations so far, to number them.
    number: u64,
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
    registration: u64,
    /// After how many collections it was registered.
    at: u64,
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
    /// A function among the microtasks.
    Function,
}

impl Promises {
    /// Handlers were registered on behalf of `owner`: what their result goes to, and the two of them.
    pub fn register(&mut self, [result, fulfilled, rejected]: [u64; 3], owner: Option<Owner>) {
        let parts = [(result, Part::Result), (fulfilled, Part::Handler), (rejected, Part::Handler)];
        self.put(&parts, owner);
    }

    /// `then` returned this promise.
    pub fn derived(&mut self, promise: u64, owner: Option<Owner>) {
        self.put(&[(promise, Part::Derived)], owner);
    }

    /// A function was put among the microtasks.
    pub fn function(&mut self, function: u64, owner: Option<Owner>) {
        self.put(&[(function, Part::Function)], owner);
    }

    /// A function among the microtasks is called: whose that is.
    pub fn call(&mut self, function: u64) -> Option<Owner> {
        let taken = self.take(function)?;
        (taken.part == Part::Function).then_some(taken.owner).flatten()
    }

    fn put(&mut self, objects: &[(u64, Part)], owner: Option<Owner>) {
        self.registered = self.registered.saturating_add(1);
        self.number += 1;
        let mut together = Vec::with_capacity(objects.len());
        for &(object, part) in objects {
            // A small integer, or nothing.
            if object & 1 == 0 || self.shared.contains(&object) {
                continue;
            }
            let pending = Pending { owner, part, registration: self.number, at: self.collections };
            match self.pending.get(&object) {
                Some(known) if known.owner != owner && known.at == self.collections => {
                    self.pending.remove(&object);
                    self.shared.insert(object);
                }
                _ => {
                    self.pending.insert(object, pending);
                    together.push(object);
                }
            }
        }
        self.together.insert(self.number, together);
        if self.pending.len() > MAX_PENDING || self.shared.len() > MAX_PENDING {
            self.clear();
        }
    }

    /// A job begins, with this promise or capability and this handler: whose it is.
    pub fn begin(&mut self, promise: u64, handler: u64) -> Option<Owner> {
        let promise = self.take(promise);
        let handler = self.take(handler);
        // Constants show themselves only once two owners registered them.
        if self.registered < LEARNING {
            return None;
        }
        match (promise, handler) {
            (Some(one), Some(other)) if one.owner == other.owner => one.owner,
            (Some(Pending { owner, part: Part::Derived, .. }), None) => owner,
            (None, Some(Pending { owner, part: Part::Handler, .. })) => owner,
            _ => None,
        }
    }

    /// What is known of an object; nothing is from now on, nor of what was registered with it, but its own other part
    /// in the job that begins.
    fn take(&mut self, object: u64) -> Option<Pending> {
        let taken = self.pending.remove(&object)?;
        if taken.part == Part::Handler {
            for other in self.together.remove(&taken.registration).unwrap_or_default() {
                if self.pending.get(&other).is_some_and(|pending| pending.registration == taken.registration)
                {
                    self.pending.remove(&other);
                }
            }
        } else if matches!(taken.part, Part::Derived | Part::Function) {
            self.together.remove(&taken.registration);
        }
        Some(taken)
    }

    /// A collection has just moved objects: `read` gives the word at an address.
    pub fn moved(&mut self, read: &dyn Fn(u64) -> Option<u64>) {
        self.collections += 1;
        self.together.clear();
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
        for (&object, pending) in &self.pending {
            self.together.entry(pending.registration).or_default().push(object);
        }
        self.shared = self.shared.iter().filter_map(|&object| follow(object, read)).collect();
    }

    /// Nothing is known any more.
    pub fn clear(&mut self) {
        self.forgotten += self.pending.len() as u64;
        self.pending.clear();
        self.together.clear();
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
