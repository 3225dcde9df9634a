//! Which two ends are one connection: by the name that both ends of a TCP connection compute, or by the
//! addresses of two unix sockets that name each other.
//!
//! A name is 64 bits that two independent ends agree on, so a match is the proof; a name from a torn
//! snapshot matches nobody. It must never join by address or by time.

use std::collections::HashMap;

use spandrel_proto::position::{End, Name};

use crate::identity::ConnectionId;

/// Names that one end may have registered at once: both roles of a few snapshots.
const MAX_NAMES: usize = 4;

/// The registry.
#[derive(Debug, Default)]
pub(super) struct Names {
    ends: HashMap<(Name, bool), ConnectionId>,
    of: HashMap<ConnectionId, Vec<(Name, bool)>>,
    socks: HashMap<u64, ConnectionId>,
}

impl Names {
    /// Registers the name that `connection` has if it is `end`, and returns the other end if that is
    /// registered under the same name in the other role.
    pub fn register(&mut self, connection: ConnectionId, name: Name, end: End) -> Option<ConnectionId> {
        let active = end == End::Active;
        let own = self.of.entry(connection).or_default();
        if !own.contains(&(name, active)) {
            if own.len() >= MAX_NAMES {
                let oldest = own.remove(0);
                if self.ends.get(&oldest) == Some(&connection) {
                    self.ends.remove(&oldest);
                }
            }
            own.push((name, active));
            self.ends.insert((name, active), connection);
        }
        self.ends.get(&(name, !active)).copied().filter(|other| *other != connection)
    }

    /// Notes the address of a unix socket, and returns whoever had it before.
    pub fn register_sock(&mut self, connection: ConnectionId, sock: u64) -> Option<ConnectionId> {
        self.socks.insert(sock, connection).filter(|before| *before != connection)
    }

    /// Whose the address of a unix socket is.
    pub fn sock(&self, sock: u64) -> Option<ConnectionId> {
        self.socks.get(&sock).copied()
    }

    /// Forgets an end.
    pub fn forget(&mut self, connection: ConnectionId, sock: u64) {
        for name in self.of.remove(&connection).unwrap_or_default() {
            if self.ends.get(&name) == Some(&connection) {
                self.ends.remove(&name);
            }
        }
        if self.socks.get(&sock) == Some(&connection) {
            self.socks.remove(&sock);
        }
    }

    /// Entries held.
    pub fn len(&self) -> usize {
        self.ends.len() + self.socks.len()
    }
}
