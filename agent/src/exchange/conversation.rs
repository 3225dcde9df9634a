//! What a connection end says in one protocol, whatever the protocol: pieces in, exchanges and wishes out.
//!
//! Each protocol has a file or folder beside this one; the rest of the station knows only this face. A protocol that is added
//! is a variant here and its beginning in `classify`.

use std::sync::Arc;

use super::fastcgi::FastCgi;
use super::http1::{Http1, Upgrade};
use super::http2::Http2;
use super::pairing::Stopped;
use super::pending::Sink;
use super::wishes::Wishes;
use super::{Classified, Policy, Tables};
use crate::identity::{Direction, Monotonic, Role};
use crate::protocol::{fastcgi, http1, http2};
use crate::stream::{Closed, Piece};
use crate::sum::sums;

/// A conversation under way.
#[derive(Debug)]
pub(super) enum Conversation {
    Http1(Box<Http1>),
    Http2(Box<Http2>),
    FastCgi(Box<FastCgi>),
}

/// What has become of a conversation.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum State {
    /// It goes on.
    Going,
    /// What seemed to be the first message was none, or the place is lost and only another first message can bring it back.
    Doubtful,
    /// No message comes any more, though much is moved.
    Unrecognised,
    /// It ended by itself.
    Stopped(Stopped),
}

/// The books of a connection's parsers, by protocol.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Parsers {
    /// HTTP/1.
    pub http1: http1::Ledger,
    /// HTTP/2.
    pub http2: http2::Ledger,
    /// FastCGI.
    pub fastcgi: fastcgi::Ledger,
}

sums!(Parsers { http1, http2, fastcgi });

impl Parsers {
    /// Bytes that parsers got, those that they were told are missing included.
    pub fn bytes(&self) -> u64 {
        let Self { http1, http2, fastcgi } = self;
        let all = [http1.bytes, http1.gap, http2.bytes, http2.gap, fastcgi.bytes, fastcgi.gap];
        all.into_iter().fold(0, u64::saturating_add)
    }

    /// True if every byte that came in is accounted for.
    pub fn balances(&self) -> bool {
        self.http1.balances() && self.http2.balances() && self.fastcgi.balances()
    }
}

impl Conversation {
    /// Takes the next piece of either direction.
    pub fn piece(&mut self, direction: Direction, piece: &Piece<'_>, sink: &mut Sink<'_>) {
        match self {
            Self::Http1(http1) => http1.piece(direction, piece, sink),
            Self::Http2(http2) => http2.piece(direction, piece, sink),
            Self::FastCgi(fastcgi) => fastcgi.piece(direction, piece, sink),
        }
    }

    /// Nothing is missing from here to there of a direction.
    pub fn pass(&mut self, direction: Direction, from: u64, to: u64) {
        match self {
            Self::Http1(http1) => http1.pass(direction, from, to),
            Self::Http2(http2) => http2.pass(direction, to),
            Self::FastCgi(_) => {}
        }
    }

    /// The connection ended.
    pub fn closed(&mut self, closed: &Closed, sink: &mut Sink<'_>) {
        match self {
            Self::Http1(http1) => http1.closed(closed, sink),
            Self::Http2(http2) => http2.closed(closed, sink),
            Self::FastCgi(fastcgi) => fastcgi.closed(closed, sink),
        }
    }

    /// The only process that used the connection died.
    pub fn process_exited(&mut self, time: Monotonic, sink: &mut Sink<'_>) {
        match self {
            Self::Http1(http1) => http1.process_exited(time, sink),
            Self::Http2(http2) => http2.process_exited(time, sink),
            Self::FastCgi(fastcgi) => fastcgi.process_exited(time, sink),
        }
    }

    /// Nothing more will be known of the connection.
    pub fn abandoned(&mut self, sink: &mut Sink<'_>) {
        match self {
            Self::Http1(http1) => http1.abandoned(sink),
            Self::Http2(http2) => http2.abandoned(sink),
            Self::FastCgi(fastcgi) => fastcgi.abandoned(sink),
        }
    }

    /// Which protocol it is.
    pub fn protocol(&self) -> Classified {
        match self {
            Self::Http1(_) => Classified::Http1,
            Self::Http2(_) => Classified::Http2,
            Self::FastCgi(_) => Classified::FastCgi,
        }
    }

    /// The part that the process plays, if a complete head has shown it.
    pub fn proven_role(&self) -> Option<Role> {
        match self {
            Self::Http1(http1) => http1.proven_role(),
            Self::Http2(http2) => http2.role(),
            Self::FastCgi(fastcgi) => Some(fastcgi.role()),
        }
    }

    /// What a late join hides may be asked for.
    pub fn allow_recall(&mut self) {
        if let Self::Http2(http2) = self {
            http2.allow_recall();
        }
    }

    /// True once if the HPACK tables of both ends' processes are to be searched for.
    pub fn wants_tables(&mut self) -> bool {
        match self {
            Self::Http1(_) | Self::FastCgi(_) => false,
            Self::Http2(http2) => http2.wants_tables(),
        }
    }

    /// True if exchanges wait for such tables.
    pub fn awaits_tables(&self) -> bool {
        matches!(self, Self::Http2(http2) if http2.awaits_tables())
    }

    /// So many exchanges may wait for them.
    pub fn set_tables_room(&mut self, room: usize) {
        if let Self::Http2(http2) = self {
            http2.set_tables_room(room);
        }
    }

    /// The tables that were found.
    pub fn tables(&mut self, tables: &Arc<Tables>) {
        if let Self::Http2(http2) = self {
            http2.tables(tables);
        }
    }

    /// Lets go of what has waited for long enough.
    pub fn poll(&mut self, now: Monotonic, sink: &mut Sink<'_>) {
        if let Self::Http2(http2) = self {
            http2.poll(now, sink);
        }
    }

    /// What has become of it.
    pub fn state(&self) -> State {
        match self {
            Self::Http1(http1) => http1.state(),
            Self::Http2(http2) => http2.state(),
            Self::FastCgi(fastcgi) => fastcgi.state(),
        }
    }

    /// What the kernel side should send of a direction.
    pub fn policy(&self, direction: Direction, wishes: &Wishes) -> Policy {
        match self {
            Self::Http1(http1) => http1.policy(direction, wishes),
            Self::Http2(http2) => http2.policy(direction, wishes.last(direction)),
            Self::FastCgi(fastcgi) => fastcgi.policy(direction, wishes.last(direction)),
        }
    }

    /// What goes over from HTTP/1 to HTTP/2, if that was just said.
    pub fn take_upgrade(&mut self) -> Option<Upgrade> {
        match self {
            Self::Http1(http1) => http1.take_upgrade(),
            Self::Http2(_) | Self::FastCgi(_) => None,
        }
    }

    /// Ends the parsers because the connection is another protocol's now.
    pub fn switch(&mut self) {
        match self {
            Self::Http1(http1) => http1.switch(),
            Self::Http2(_) | Self::FastCgi(_) => {}
        }
    }

    /// What the parsers say of their bytes.
    pub fn parsers(&self) -> Parsers {
        match self {
            Self::Http1(http1) => Parsers { http1: http1.parsers(), ..Parsers::default() },
            Self::Http2(http2) => Parsers { http2: http2.parsers(), ..Parsers::default() },
            Self::FastCgi(fastcgi) => Parsers { fastcgi: fastcgi.parsers(), ..Parsers::default() },
        }
    }

    /// Bytes that were moved and wait for what comes before them.
    pub fn held_moved(&self) -> u64 {
        match self {
            Self::Http1(http1) => http1.held().moved(),
            Self::Http2(_) | Self::FastCgi(_) => 0,
        }
    }

    /// Exchanges that are not over.
    pub fn open_exchanges(&self) -> usize {
        match self {
            Self::Http1(http1) => http1.open_exchanges(),
            Self::Http2(http2) => http2.open_exchanges(),
            Self::FastCgi(fastcgi) => fastcgi.open_exchanges(),
        }
    }

    /// Memory for bytes of the traffic.
    pub fn held_bytes(&self) -> usize {
        match self {
            Self::Http1(http1) => http1.held_bytes(),
            Self::Http2(http2) => http2.held_bytes(),
            Self::FastCgi(fastcgi) => fastcgi.held_bytes(),
        }
    }
}
