//! Who and which: the names that travel from station to station with every fact.
//!
//! They are plain values, made from kernel records and never looked up again. Nothing here reads a
//! clock or does I/O.

pub mod evidence;

use std::fmt;

pub use evidence::{Birth, Claim, EvidenceId, Facts, Gate, Held, Key, LinkMethod};

/// One end of a connection, as the kernel side numbers it (a socket cookie, or a number given at
/// first sight where there are no cookies). Both ends of a connection on this host are two of these.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct ConnectionId(pub u64);

/// One program in one process: a pid is reused, and `exec` puts another program behind the same pid.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct ProcessKey {
    /// The process id (the kernel's tgid) in the agent's pid namespace.
    pub pid: u32,
    /// `task_struct.self_exec_id`: how often this process called `execve`.
    pub exec: u32,
    /// `task_struct.start_time` of the thread group's leader, nanoseconds of `CLOCK_MONOTONIC`.
    pub started: u64,
}

/// A thread id in the agent's pid namespace. Unique among live threads only: use it together with a
/// [`ProcessKey`].
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct ThreadId(pub u32);

/// Which way bytes went, seen from the end that the record is about.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Direction {
    /// The process wrote them.
    Send,
    /// The process read them.
    Receive,
}

impl Direction {
    /// The other way.
    pub fn opposite(self) -> Self {
        match self {
            Self::Send => Self::Receive,
            Self::Receive => Self::Send,
        }
    }
}

/// Which part a process plays in an exchange.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Role {
    /// It read the request.
    Server,
    /// It wrote the request.
    Client,
}

/// `CLOCK_MONOTONIC`, in nanoseconds. The pure stations get it with each event and have no clock.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Monotonic(pub u64);

impl Monotonic {
    /// How many nanoseconds lie between `earlier` and this; 0 if it is not earlier.
    pub fn since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

/// What a traced call said about itself besides its bytes: when, who, and how the socket was set.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Moment {
    /// The end of the call.
    pub time: Monotonic,
    /// The program that called.
    pub process: ProcessKey,
    /// The thread that called.
    pub thread: ThreadId,
    /// `O_NONBLOCK` was set on the socket's file, or `MSG_DONTWAIT` on the call.
    pub nonblocking: bool,
    /// The socket's file was in an epoll set.
    pub in_epoll: bool,
    /// On whose behalf, if a walk found out.
    pub evidence: Option<EvidenceId>,
}

/// An address of one end of a connection.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub enum Address {
    /// TCP over IPv4 or IPv6; v4-mapped addresses are given as IPv4.
    Ip(std::net::SocketAddr),
    /// A unix socket's path where it is known, else empty.
    Unix(String),
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ip(address) => address.fmt(f),
            Self::Unix(path) => write!(f, "unix:{path}"),
        }
    }
}
