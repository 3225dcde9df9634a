//! Where sockets and sessions meet: by the random bytes of the ClientHello, which both have.
//!
//! ```text
//!   a hello was read on this connection ─▶ Keys ◀─ secrets were found beside these bytes
//! ```
//! Both may come first, and both ends of a connection read the same hello, so that what is found at one serves both.
//! Whether secrets are the right ones is not decided here: the tags of the records tell. Secrets are dropped, and
//! overwritten, with the last connection that may need them.

use std::collections::HashMap;

use super::secret::{Random, Secrets};
use crate::identity::{ConnectionId, Monotonic};

/// How many sessions are known at once. More: those that no connection has asked for go, then the oldest.
pub const MAX_SESSIONS: usize = 16_384;

/// How long secrets wait for a connection that needs them, nanoseconds: the hello is in a record that may come
/// some milliseconds after them.
const UNASKED_FOR: u64 = 10_000_000_000;

/// How many connections may have one hello: both ends, and what relays it unread.
const MAX_CONNECTIONS: usize = 8;

/// The books, in sessions.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Ledger {
    /// Hellos read on connections.
    pub hellos: u64,
    /// Sessions whose secrets were found.
    pub found: u64,
    /// Of these, those that no connection has asked for.
    pub unasked: u64,
    /// Sessions that ended, or were forgotten, without secrets.
    pub keyless: u64,
    /// Sessions forgotten because there were too many.
    pub forgotten: u64,
    /// Hellos that stood on more connections than one hello can.
    pub replayed: u64,
}

#[derive(Debug, Default)]
struct Session {
    secrets: Option<Secrets>,
    connections: Vec<ConnectionId>,
    /// Its plaintext was read by probes, which needs no secret.
    read: bool,
    since: Monotonic,
}

/// Sessions that have begun and not ended.
#[derive(Debug, Default)]
pub struct Keys {
    sessions: HashMap<Random, Session>,
    ledger: Ledger,
}

impl Keys {
    /// A hello was read; the secrets, if they are known.
    pub fn hello(&mut self, random: Random, connection: ConnectionId, now: Monotonic) -> Option<Secrets> {
        self.make_room();
        self.ledger.hellos += 1;
        let session =
            self.sessions.entry(random).or_insert_with(|| Session { since: now, ..Session::default() });
        if session.connections.len() >= MAX_CONNECTIONS {
            self.ledger.replayed += 1;
            return None;
        }
        session.connections.push(connection);
        session.secrets.clone()
    }

    /// Secrets were found; the connections that need them.
    pub fn found(&mut self, random: Random, secrets: &Secrets, now: Monotonic) -> &[ConnectionId] {
        self.make_room();
        let session =
            self.sessions.entry(random).or_insert_with(|| Session { since: now, ..Session::default() });
        let known = session.secrets.get_or_insert_default();
        let guessed = known.is_guessed();
        let new = known.add(secrets);
        self.ledger.found += u64::from(guessed && !known.is_guessed());
        match new {
            true => &session.connections,
            false => &[],
        }
    }

    /// When it was first heard of the session with these random bytes.
    pub fn since(&self, random: &Random) -> Option<Monotonic> {
        self.sessions.get(random).map(|session| session.since)
    }

    /// The connections that have this hello.
    pub fn connections(&self, random: &Random) -> &[ConnectionId] {
        self.sessions.get(random).map_or(&[], |session| &session.connections)
    }

    /// Plaintext of this session was read by probes.
    pub fn read(&mut self, random: &Random) {
        if let Some(session) = self.sessions.get_mut(random) {
            session.read = true;
        }
    }

    /// True if secrets are known of this session and no connection has its hello: the session may be older than we are.
    pub fn is_unasked(&self, random: &Random) -> bool {
        self.sessions.get(random).is_some_and(|session| session.connections.is_empty())
    }

    /// A connection with this hello is over.
    pub fn closed(&mut self, random: &Random, connection: ConnectionId) {
        let Some(session) = self.sessions.get_mut(random) else { return };
        session.connections.retain(|other| *other != connection);
        if session.connections.is_empty() {
            let found = session.secrets.as_ref().is_some_and(|secrets| !secrets.is_guessed());
            self.ledger.keyless += u64::from(!found && !session.read);
            self.sessions.remove(random);
        }
    }

    /// Drops secrets that nobody asks for.
    pub fn expire(&mut self, now: Monotonic) {
        let before = self.sessions.len();
        self.sessions
            .retain(|_, session| !session.connections.is_empty() || now.since(session.since) < UNASKED_FOR);
        self.ledger.unasked += (before - self.sessions.len()) as u64;
    }

    /// The books.
    pub fn ledger(&self) -> Ledger {
        self.ledger
    }

    /// Sessions known now.
    pub fn len(&self) -> usize {
        self.sessions.len()
    }

    /// True if none is known.
    pub fn is_empty(&self) -> bool {
        self.sessions.is_empty()
    }

    fn make_room(&mut self) {
        if self.sessions.len() < MAX_SESSIONS {
            return;
        }
        let before = self.sessions.len();
        self.sessions.retain(|_, session| !session.connections.is_empty());
        if self.sessions.len() >= MAX_SESSIONS {
            // Looked for rarely: it takes as many connections at once.
            let oldest =
                self.sessions.iter().min_by_key(|(_, session)| session.since).map(|(random, _)| *random);
            oldest.map(|random| self.sessions.remove(&random));
        }
        self.ledger.forgotten += (before - self.sessions.len()) as u64;
    }
}

#[cfg(test)]
mod tests {
    use super::super::secret::Secret;
    use super::*;

    fn secrets(byte: u8) -> Secrets {
        Secrets { traffic: vec![Secret::new(&[byte; 32])], ..Secrets::default() }
    }

    #[test]
    fn both_ends_get_what_was_found_at_one_whichever_comes_first() {
        let mut keys = Keys::default();
        let (one, other) = (ConnectionId(1), ConnectionId(2));
        assert!(keys.hello([7; 32], one, Monotonic(0)).is_none());
        assert_eq!(keys.found([7; 32], &secrets(1), Monotonic(1)), [one]);
        assert_eq!(keys.found([7; 32], &secrets(1), Monotonic(1)), []);
        assert!(keys.hello([7; 32], other, Monotonic(2)).is_some());
        assert_eq!(keys.found([7; 32], &secrets(2), Monotonic(3)), [one, other]);
        keys.closed(&[7; 32], one);
        assert_eq!(keys.len(), 1);
        keys.closed(&[7; 32], other);
        assert!(keys.is_empty());
        assert_eq!(keys.ledger(), Ledger { hellos: 2, found: 1, ..Ledger::default() });
    }

    #[test]
    fn secrets_that_nobody_asks_for_are_dropped() {
        let mut keys = Keys::default();
        keys.found([7; 32], &secrets(1), Monotonic(0));
        keys.expire(Monotonic(UNASKED_FOR - 1));
        assert_eq!(keys.len(), 1);
        keys.expire(Monotonic(UNASKED_FOR));
        assert!(keys.is_empty());
        assert_eq!(keys.ledger().unasked, 1);
    }

    #[test]
    fn a_hello_that_is_replayed_everywhere_takes_no_memory() {
        let mut keys = Keys::default();
        for connection in 0..100 {
            keys.hello([7; 32], ConnectionId(connection), Monotonic(0));
        }
        assert_eq!(keys.ledger().replayed, 100 - MAX_CONNECTIONS as u64);
        for random in 0..MAX_SESSIONS as u32 + 10 {
            let mut bytes = [0; 32];
            bytes[..4].copy_from_slice(&random.to_be_bytes());
            keys.hello(bytes, ConnectionId(1), Monotonic(u64::from(random)));
        }
        assert_eq!(keys.len(), MAX_SESSIONS);
    }
}
