//! One connection end from its first piece to its end: unknown, then in a protocol that we know, or in another.
//!
//! ```text
//!             a start line                  101, 2xx to CONNECT, too many unanswered
//!   Joining ────────────────▶ Conversation ──────────────────────────────────────────▶ Other
//!     │  ▲                        │   │                                                  ▲
//!     │  └─ it was none, or ──────┘   └─ no message in many calls of both directions ────┤
//!     │     the process died                                                             │
//!     └─ no start line in several calls of both directions ──────────────────────────────┘
//! ```
//!
//! It must never read a clock, never know another connection, and never keep more than the bounds that
//! `exchange` names.

use std::sync::Arc;

use super::classify::{Proven, Skipped, Verdict, begins_with_frame, verdict};
use super::conversation::{Conversation, Parsers, State};
use super::fastcgi::FastCgi;
use super::held::{Held, length};
use super::http1::{Http1, Upgrade};
use super::http2::Http2;
use super::pairing::Stopped;
use super::pending::{Sink, request_direction};
use super::step::Joined;
use super::wishes::Wishes;
use super::{Classified, Event, Ledger, Other, Output, Policy, Tables};
use crate::identity::{ConnectionId, Direction, Monotonic, ProcessKey, Role};
use crate::stream::{Closed, Content, GapCause, Piece};
use crate::sum::Sum as _;

/// One connection end: one socket as the processes that use it see it.
///
/// Pieces of both directions go in as they come, each direction in order of position; then one of
/// [`Connection::closed`] and [`Connection::abandoned`]. Both may be preceded by
/// [`Connection::process_exited`]. Every [`Event::Opened`] is followed by exactly one [`Event::Closed`] at
/// the latest then.
#[derive(Debug)]
pub struct Connection {
    id: ConnectionId,
    phase: Phase,
    /// The part that the process plays, once a head has proven it: ids are offsets of one direction.
    role: Option<Role>,
    /// Seen from its first byte, and nothing was skipped since.
    whole: bool,
    ended: bool,
    user: User,
    /// What a late join hides may be asked for.
    recalls: bool,
    wishes: Wishes,
    ledger: Ledger,
    /// Of the parsers of earlier conversations.
    parsers: Parsers,
}

#[derive(Debug)]
enum Phase {
    Joining(Joining),
    Conversation(Conversation),
    Other(Other),
}

/// Nothing that is known to be a message was seen.
#[derive(Debug, Default)]
struct Joining {
    /// What may be the beginning of a start line, in the order of arrival.
    held: Held,
    skipped: Skipped,
    /// What begins no message of HTTP/1 may be HTTP/2 under way.
    http2: Option<Box<Http2>>,
    /// A call began with what could be a frame.
    promising: bool,
}

/// Who has been seen using the socket.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum User {
    Nobody,
    One(ProcessKey),
    Several,
}

impl Connection {
    /// A connection of which nothing was seen. `born_here`: whatever will be missing from its first byte on
    /// will be told as a gap.
    pub fn new(id: ConnectionId, born_here: bool) -> Self {
        Self {
            id,
            phase: Phase::Joining(Joining::default()),
            role: None,
            whole: born_here,
            ended: false,
            user: User::Nobody,
            recalls: false,
            wishes: Wishes::default(),
            ledger: Ledger::default(),
            parsers: Parsers::default(),
        }
    }

    /// The same, and what a late join hides may be asked for ([`Output::tables`]).
    pub fn recalling(self) -> Self {
        Self { recalls: true, ..self }
    }

    /// The tables that were asked for.
    pub fn tables(&mut self, tables: &Arc<Tables>) {
        if let Phase::Conversation(conversation) = &mut self.phase {
            conversation.tables(tables);
        }
    }

    /// So many exchanges may wait for tables; a few always may.
    pub fn set_tables_room(&mut self, room: usize) {
        if let Phase::Conversation(conversation) = &mut self.phase {
            conversation.set_tables_room(room);
        }
    }

    /// True if exchanges wait for tables: [`Connection::poll`] is to be called now and then.
    pub fn awaits_tables(&self) -> bool {
        matches!(&self.phase, Phase::Conversation(conversation) if conversation.awaits_tables())
    }

    /// Time has passed.
    pub fn poll(&mut self, now: Monotonic, out: &mut Output) {
        if let Phase::Conversation(conversation) = &mut self.phase {
            conversation.poll(now, &mut Sink { events: &mut out.events, ledger: &mut self.ledger });
        }
    }

    /// The next piece of one direction.
    pub fn piece(&mut self, direction: Direction, piece: &Piece<'_>, out: &mut Output) {
        if let Content::Gap { length, cause: GapCause::Framing } = piece.content {
            if let Phase::Conversation(conversation) = &mut self.phase {
                conversation.pass(direction, piece.offset, piece.offset.saturating_add(length));
            }
            return;
        }
        let moved = length(piece);
        self.ledger.bytes = self.ledger.bytes.saturating_add(moved);
        if self.ended {
            self.ledger.bytes_late = self.ledger.bytes_late.saturating_add(moved);
            return;
        }
        self.user = self.user.and(piece.moment.process);
        match &mut self.phase {
            Phase::Joining(_) => self.join(direction, piece, &mut out.events),
            Phase::Conversation(conversation) => {
                let mut sink = Sink { events: &mut out.events, ledger: &mut self.ledger };
                conversation.piece(direction, piece, &mut sink);
                out.tables |= self.recalls && conversation.wants_tables();
            }
            Phase::Other(_) => self.ledger.bytes_other = self.ledger.bytes_other.saturating_add(moved),
        }
        self.settle(direction, piece, &mut out.events);
        self.wish(out);
    }

    /// The connection ended.
    pub fn closed(&mut self, closed: &Closed, out: &mut Output) {
        self.end(out, |conversation, sink| conversation.closed(closed, sink));
    }

    /// No end of the connection will be seen: it is too old, or the agent stops. What is open is closed as
    /// incomplete.
    pub fn abandoned(&mut self, out: &mut Output) {
        self.end(out, Conversation::abandoned);
    }

    /// A process died. If it was the only one seen to use the socket, what is open has failed; the socket may
    /// live on in a process that inherited it.
    pub fn process_exited(&mut self, process: ProcessKey, time: Monotonic, out: &mut Output) {
        if self.ended || self.user != User::One(process) {
            return;
        }
        self.user = User::Nobody;
        if let Phase::Conversation(conversation) = &mut self.phase {
            let mut sink = Sink { events: &mut out.events, ledger: &mut self.ledger };
            conversation.process_exited(time, &mut sink);
            self.role = self.role.or(conversation.proven_role());
            self.parsers.add(&conversation.parsers());
            self.phase = Phase::Joining(Joining::default());
            self.whole = false;
        }
    }

    /// Bytes of the traffic that are kept now: at most [`super::MAX_HELD_BYTES`],
    /// [`super::MAX_UNANSWERED_BYTES`] and one head or header block and table of each direction.
    pub fn held_bytes(&self) -> usize {
        match &self.phase {
            Phase::Joining(joining) => joining.held.bytes(),
            Phase::Conversation(conversation) => conversation.held_bytes(),
            Phase::Other(_) => 0,
        }
    }

    /// What the connection speaks, as far as it is known.
    pub fn protocol(&self) -> Classified {
        match &self.phase {
            Phase::Joining(_) => Classified::Unknown,
            Phase::Conversation(conversation) => conversation.protocol(),
            Phase::Other(other) => Classified::Other(*other),
        }
    }

    /// The books, as they are now.
    pub fn ledger(&self) -> Ledger {
        let mut ledger = self.ledger.clone();
        match &self.phase {
            Phase::Joining(joining) => ledger.bytes_held = joining.held.moved(),
            Phase::Conversation(conversation) => {
                ledger.bytes_held = conversation.held_moved();
                ledger.open = conversation.open_exchanges() as u64;
            }
            Phase::Other(_) => {}
        }
        ledger
    }

    /// The books of the connection's parsers, as they are now. Their [`Parsers::bytes`] are [`Ledger::bytes_parsed`].
    pub fn parser_ledger(&self) -> Parsers {
        let mut ledger = self.parsers.clone();
        if let Phase::Conversation(conversation) = &self.phase {
            ledger.add(&conversation.parsers());
        }
        ledger
    }

    /// Takes a piece while the protocol is not known.
    fn join(&mut self, direction: Direction, piece: &Piece<'_>, events: &mut Vec<Event>) {
        let Phase::Joining(joining) = &mut self.phase else { return };
        match verdict(direction, piece, &joining.held) {
            Verdict::Http1(role) if self.role.is_none_or(|proven| proven == role) => {
                // What waited of this direction belongs to the message only if it still does with this
                // piece; the parser finds that out.
                let joined = match self.whole {
                    true => Joined::AtBirth,
                    false if joining.skipped.has_gaps(request_direction(role)) => Joined::WithRequestsMissing,
                    false => Joined::Later,
                };
                let http1 = Box::new(Http1::new(self.id, role, joined));
                self.begin(Conversation::Http1(http1), direction, piece, events);
            }
            Verdict::Http2(role) if self.role.is_none_or(|proven| proven == role) => {
                let http2 = Box::new(Http2::from_preface(self.id, role));
                self.begin(Conversation::Http2(http2), direction, piece, events);
            }
            Verdict::FastCgi(role) if self.role.is_none_or(|proven| proven == role) => {
                let fastcgi = Box::new(FastCgi::new(self.id, role));
                self.begin(Conversation::FastCgi(fastcgi), direction, piece, events);
            }
            Verdict::Wait if joining.held.push(direction, piece) => {}
            Verdict::Http1(_) | Verdict::Http2(_) | Verdict::FastCgi(_) | Verdict::Wait | Verdict::Skip => {
                let skipped = joining.held.drop_direction(direction).saturating_add(length(piece));
                joining.skipped.add(direction, piece);
                joining.promising |= begins_with_frame(piece);
                self.ledger.bytes_unrecognised = self.ledger.bytes_unrecognised.saturating_add(skipped);
                self.whole = false;
                self.join_http2(direction, piece, events);
            }
        }
    }

    /// Looks for HTTP/2 that is under way in a piece that begins no message.
    fn join_http2(&mut self, direction: Direction, piece: &Piece<'_>, events: &mut Vec<Event>) {
        let Phase::Joining(joining) = &mut self.phase else { return };
        let http2 = joining.http2.get_or_insert_with(|| Box::new(Http2::late(self.id)));
        // These bytes are counted as unrecognised, whatever comes of them.
        let mut apart = Ledger::default();
        http2.piece(direction, piece, &mut Sink { events, ledger: &mut apart });
        apart.bytes_parsed = 0;
        self.ledger.add(&apart);
        let expected =
            http2.apparent_role().is_some_and(|role| self.role.is_none_or(|proven| proven == role));
        if expected && let Some(mut http2) = joining.http2.take() {
            http2.reset_ledgers();
            if self.recalls {
                http2.allow_recall();
            }
            // What waits of the other direction.
            let mut held = std::mem::take(&mut joining.held);
            while let Some(held) = held.pop() {
                let mut sink = Sink { events, ledger: &mut self.ledger };
                http2.piece(held.direction, &held.as_piece(), &mut sink);
            }
            self.phase = Phase::Conversation(Conversation::Http2(http2));
        }
    }

    /// Begins a conversation with what waited and this piece.
    fn begin(
        &mut self,
        mut conversation: Conversation,
        direction: Direction,
        piece: &Piece<'_>,
        events: &mut Vec<Event>,
    ) {
        let Phase::Joining(joining) = &mut self.phase else { return };
        if self.recalls {
            // What is lost later is joined late again.
            conversation.allow_recall();
        }
        let mut held = std::mem::take(&mut joining.held);
        let mut sink = Sink { events, ledger: &mut self.ledger };
        while let Some(held) = held.pop() {
            conversation.piece(held.direction, &held.as_piece(), &mut sink);
        }
        conversation.piece(direction, piece, &mut sink);
        self.phase = Phase::Conversation(conversation);
    }

    /// Goes over to the phase that this piece has brought.
    fn settle(&mut self, direction: Direction, piece: &Piece<'_>, events: &mut Vec<Event>) {
        match &mut self.phase {
            Phase::Joining(joining) => {
                let proven = if joining.promises_http2() { Proven::Yes } else { Proven::No };
                if joining.skipped.is_enough(proven) {
                    self.become_other(Other::Unrecognised, events);
                }
            }
            Phase::Conversation(conversation) => match conversation.state() {
                State::Going => {}
                State::Doubtful => {
                    let mut joining = Joining::default();
                    joining.skipped.add(direction, piece);
                    self.role = self.role.or(conversation.proven_role());
                    self.parsers.add(&conversation.parsers());
                    self.phase = Phase::Joining(joining);
                    self.whole = false;
                }
                State::Unrecognised => self.become_other(Other::Unrecognised, events),
                State::Stopped(Stopped::Switched) => match conversation.take_upgrade() {
                    Some(upgrade) => self.upgrade(upgrade, events),
                    None => self.become_other(Other::Switched, events),
                },
                State::Stopped(Stopped::Full) => self.become_other(Other::GivenUp, events),
            },
            Phase::Other(_) => {}
        }
    }

    /// Goes over from HTTP/1 to HTTP/2.
    fn upgrade(&mut self, upgrade: Upgrade, events: &mut Vec<Event>) {
        let Phase::Conversation(before) = &self.phase else { return };
        self.parsers.add(&before.parsers());
        let Upgrade { role, exchange, moved } = upgrade;
        let mut http2 = Http2::upgraded(self.id, role, exchange);
        if self.recalls {
            http2.allow_recall();
        }
        let mut sink = Sink { events, ledger: &mut self.ledger };
        for mut held in moved {
            while let Some(held) = held.pop() {
                http2.piece(held.direction, &held.as_piece(), &mut sink);
            }
        }
        self.phase = Phase::Conversation(Conversation::Http2(Box::new(http2)));
    }

    fn become_other(&mut self, other: Other, events: &mut Vec<Event>) {
        match &mut self.phase {
            Phase::Joining(joining) => {
                let held = joining.held.moved();
                self.ledger.bytes_unrecognised = self.ledger.bytes_unrecognised.saturating_add(held);
            }
            Phase::Conversation(conversation) => {
                if other == Other::Switched {
                    conversation.switch();
                }
                conversation.abandoned(&mut Sink { events, ledger: &mut self.ledger });
                self.parsers.add(&conversation.parsers());
            }
            Phase::Other(_) => {}
        }
        self.phase = Phase::Other(other);
    }

    fn wish(&mut self, out: &mut Output) {
        for direction in [Direction::Receive, Direction::Send] {
            let policy = match &self.phase {
                Phase::Joining(joining) if joining.promises_http2() => Policy::Everything,
                Phase::Joining(joining) if joining.is_looking_only(direction) => Policy::FirstBlock,
                Phase::Joining(_) => Policy::Heads,
                Phase::Conversation(conversation) => conversation.policy(direction, &self.wishes),
                Phase::Other(_) => Policy::Nothing,
            };
            self.wishes.ask(direction, policy, &mut out.wishes);
        }
    }

    fn end(&mut self, out: &mut Output, end: impl FnOnce(&mut Conversation, &mut Sink<'_>)) {
        if std::mem::replace(&mut self.ended, true) {
            return;
        }
        match &mut self.phase {
            Phase::Joining(joining) => {
                let held = std::mem::take(&mut joining.held).moved();
                self.ledger.bytes_unrecognised = self.ledger.bytes_unrecognised.saturating_add(held);
            }
            Phase::Conversation(conversation) => {
                end(conversation, &mut Sink { events: &mut out.events, ledger: &mut self.ledger });
            }
            Phase::Other(_) => {}
        }
    }
}

impl Joining {
    /// True if what comes of this direction begins no message, so that the beginnings of calls are enough.
    fn is_looking_only(&self, direction: Direction) -> bool {
        self.skipped.any(direction) && !self.held.holds(direction)
    }

    /// True if it seems to be HTTP/2 under way, which is worth more patience and more bytes.
    fn promises_http2(&self) -> bool {
        self.promising || self.http2.as_ref().is_some_and(|http2| http2.is_aligned())
    }
}

impl User {
    /// Another call was made by this process.
    fn and(self, process: ProcessKey) -> Self {
        match self {
            Self::Nobody => Self::One(process),
            // The same process with another program.
            Self::One(one) if (one.pid, one.started) == (process.pid, process.started) => Self::One(process),
            Self::One(_) | Self::Several => Self::Several,
        }
    }
}
