//! From the words of a tokio program's walks to facts, and from what is missing to what should be learnt.
//!
//! A request belongs to the task that reads it and writes its answer. A call belongs to the task that waits for its
//! reply, or else to the task that makes it, if that has read a request itself. A task that makes calls for others (a
//! connection task) descends from whoever opened the connection, so descent says nothing of *its* calls: only who waits
//! is followed to who spawned it. That is why there are two kinds of key.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::super::{Hit, ProbeSet, Reader, Seen, Wish};
use super::known::Known;
use super::reply::{search, search_hops};
use super::task::{Places, Program, Waker};
use super::walks::{self, Found, LEARN, READY};
use crate::discover::memory::ReadMemory;
use crate::identity::{Birth, Claim, Direction, Facts, Key, LinkMethod};

/// What one executable has shown, shared by its processes and by the looks at them.
pub type Shared = Arc<Mutex<Known>>;

/// A tokio program in which no task waits for a descriptor yet: at its traffic it is looked at again.
#[derive(Debug, Default)]
pub struct Idle {
    calls: u32,
}

impl Reader for Idle {
    fn read(&mut self, _seen: &Seen<'_>, wishes: &mut Vec<Wish>) -> Facts {
        // After the first calls ever more seldom: a program that merely contains tokio never has such a task.
        self.calls = self.calls.saturating_add(1);
        if self.calls <= 32 || self.calls.is_power_of_two() {
            wishes.push(Wish::Prove);
        }
        Facts::default()
    }
}

/// See the module.
pub struct Tasks {
    /// What is known.
    pub known: Shared,
    /// The process's memory: a call that the walk cannot follow is searched at once, since it is over in milliseconds.
    pub memory: Box<dyn ReadMemory + Send>,
    /// What is where in it.
    pub places: Places,
    /// Where the executable is loaded.
    pub bias: u64,
    /// Bytes of a thread's locals.
    pub thread_locals: u64,
    /// Where tasks are spawned, if that was found and who spawned them may be told; attached only once there is need.
    pub spawns: Option<ProbeSet>,
}

/// Owners and descent.
pub const TASK: u8 = 1;
/// Owners only.
pub const CALLER: u8 = 2;

impl std::fmt::Debug for Tasks {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tasks").field("bias", &self.bias).finish_non_exhaustive()
    }
}

impl Reader for Tasks {
    fn read(&mut self, seen: &Seen<'_>, wishes: &mut Vec<Wish>) -> Facts {
        match seen.tag {
            LEARN => {
                self.learn(seen, wishes);
                Facts::default()
            }
            READY => match Found::of(seen.words) {
                Some(found) => {
                    if seen.direction == Direction::Send && begins_request(seen.bytes) {
                        self.ask(&found, wishes);
                    }
                    facts(&found, seen.direction)
                }
                None => Facts { later: seen.direction == Direction::Send, ..Facts::default() },
            },
            _ => Facts::default(),
        }
    }

    fn observed(&mut self, hit: &Hit<'_>, _wishes: &mut Vec<Wish>) -> Vec<Birth> {
        let &[parent, child] = hit.words else { return Vec::new() };
        let key = |value| Key { space: TASK, value };
        vec![Birth { child: key(child), parent: key(parent), time: hit.time }]
    }

    fn orphaned(&mut self, claims: &[Claim], wishes: &mut Vec<Wish>) {
        // Somebody waited, and is neither a request's task nor known to descend from one.
        let waited_for = claims.iter().any(|claim| claim.key.space == TASK);
        if waited_for && let Some(spawns) = self.spawns.take() {
            wishes.push(Wish::Observe(spawns));
        }
    }
}

impl Tasks {
    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn program(&self) -> Program<'_> {
        Program { memory: &*self.memory, places: &self.places }
    }

    /// In the file's terms.
    fn relative(&self, address: u64) -> u64 {
        address.wrapping_sub(self.bias)
    }

    fn learn(&mut self, seen: &Seen<'_>, wishes: &mut Vec<Wish>) {
        let [id, header, vtable, places @ ..] = seen.words else { return };
        let from = walks::learnt_from(self.thread_locals);
        let places: BTreeSet<i64> = places.iter().map(|place| from.wrapping_add(*place as i64)).collect();
        if places.is_empty() {
            return;
        }
        let settled = self.known().thread_local(*id, &places);
        if begins_request(seen.bytes) {
            self.search_task(*header, *vtable);
        }
        if settled {
            self.walk(wishes);
            // Where spawns can be seen depends on it.
            wishes.push(Wish::Prove);
        }
    }

    /// What the walk met and could not follow is searched now, while the call is in flight.
    fn ask(&mut self, found: &Found, wishes: &mut Vec<Wish>) {
        let learnt = match (found.header, found.receiver) {
            (Some((header, vtable)), None) => self.search_task(header, vtable),
            (_, Some((vtable, data))) if found.waiter.is_none() => self.search_hop(Waker { vtable, data }),
            _ => false,
        };
        if learnt {
            self.walk(wishes);
        }
    }

    /// Searches a task that has just sent a request; whether now more is known of its type.
    fn search_task(&self, header: u64, vtable: u64) -> bool {
        let relative = self.relative(vtable);
        if !self.known().wants_reply(relative) {
            return false;
        }
        let program = self.program();
        let Some(task) = program.task(header).filter(|task| task.vtable == vtable) else { return false };
        let found = search(program, task);
        let mut known = self.known();
        let before = known.paths().len();
        known.reply(relative, found.iter().map(|reply| reply.path));
        known.paths().len() > before
    }

    fn search_hop(&self, waker: Waker) -> bool {
        let relative = self.relative(waker.vtable);
        let (wants, tasks) = {
            let known = self.known();
            (known.wants_hop(relative), known.readers())
        };
        let (true, Some((_, tasks))) = (wants, tasks) else { return false };
        // A task's own waker, whose task is gone by now.
        if tasks == relative {
            return false;
        }
        let program = self.program();
        if !program.is_waker_vtable(waker.vtable) {
            return false;
        }
        let found = search_hops(program, tasks.wrapping_add(self.bias), waker);
        let mut known = self.known();
        let before = known.hops().len();
        known.hop(relative, found);
        known.hops().len() > before
    }

    fn walk(&self, wishes: &mut Vec<Wish>) {
        if let Some(walks) = walks::walks(&self.known(), self.bias, self.thread_locals) {
            wishes.push(Wish::Walks(walks));
        }
    }
}

/// What the words say of one call.
fn facts(found: &Found, direction: Direction) -> Facts {
    let key = |space, value| Key { space, value };
    let claim = |key, method| Claim { key, at: None, born: None, method };
    let waiters = [found.waiter, found.joiner].into_iter().flatten();
    let mut claims: Vec<_> = waiters.map(|task| claim(key(TASK, task), LinkMethod::Waiter)).collect();
    claims.push(claim(key(CALLER, found.task), LinkMethod::Task));
    Facts {
        owns: vec![key(TASK, found.task), key(CALLER, found.task)],
        claims,
        later: found.waiter.is_none() && direction == Direction::Send,
        ..Facts::default()
    }
}

/// Whether these bytes may be the beginning of an HTTP/1 request: a method in capitals, or a part of one.
fn begins_request(bytes: &[u8]) -> bool {
    let method = bytes.iter().take(8).take_while(|byte| byte.is_ascii_uppercase()).count();
    method > 0 && !bytes.starts_with(b"HTTP/")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_task_claims_by_itself_only_what_it_has_read_itself() {
        let facts = facts(&Found { task: 7, ..Found::default() }, Direction::Send);
        assert_eq!(facts.claims.len(), 1);
        assert_eq!(facts.claims[0].key, Key { space: CALLER, value: 7 });
        assert!(facts.later);
    }

    #[test]
    fn who_waits_comes_before_who_waits_for_that_and_before_who_calls() {
        let found = Found { task: 7, waiter: Some(8), joiner: Some(9), ..Found::default() };
        let facts = facts(&found, Direction::Receive);
        assert_eq!(facts.claims.iter().map(|claim| claim.key.value).collect::<Vec<_>>(), [8, 9, 7]);
        assert!(!facts.later);
    }

    #[test]
    fn responses_begin_no_request() {
        for (bytes, want) in [
            (&b"GET / HTTP/1.1"[..], true),
            (b"P", true),
            (b"HTTP/1.1 200 OK", false),
            (b"", false),
            (b"\x16\x03", false),
        ] {
            assert_eq!(begins_request(bytes), want, "{bytes:?}");
        }
    }
}
