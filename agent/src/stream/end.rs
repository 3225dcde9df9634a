//! One end of a connection, and how its pieces leave the station.
//!
//! Data and small questions about it; what records do to it is in `streams`, `joining` and `closing`.

use spandrel_proto::position::{End, Tcp};
use spandrel_proto::record::Unix;

use super::step::Step;
use super::streams::{Ledger, MAX_OFFSET};
use super::track::{Explained, Track};
use super::{Closed, Content, Event, Gap, GapCause, Opened, Piece};
use crate::identity::{Direction, Moment, Monotonic, ThreadId};

/// One direction of an end.
#[derive(Default)]
pub(super) struct Way {
    pub track: Track,
    pub step: Step,
    /// Bytes moved since first met, by the last record.
    pub moved: u64,
    /// Who made that record.
    pub thread: Option<ThreadId>,
    /// The kernel is asked to make no records of calls that end before this offset.
    pub silent_until: u64,
    /// As above, by an earlier policy: the kernel may have obeyed it until the new one reached it.
    pub was_silent_until: u64,
    /// A record of this socket was lost, and no hole has explained where.
    pub lost: bool,
    /// The kernel was asked to leave out the payload of frames.
    pub followed: bool,
}

impl Way {
    /// What explains a hole before a record.
    pub fn explained(&self) -> Explained {
        let next = self.track.next().unwrap_or_default();
        if self.step.overlapped() {
            // Records are out of order here, or positions somebody else's: nothing explains a hole.
            Explained::No
        } else if self.lost {
            Explained::As(GapCause::Lost)
        } else if next < self.silent_until.max(self.was_silent_until) {
            Explained::As(GapCause::Silent)
        } else {
            Explained::No
        }
    }

    /// Bytes up to an offset were told: what was waiting to be explained before it is explained.
    pub fn reached(&mut self, offset: u64, hole: Hole) {
        if hole == Hole::Yes || offset >= self.was_silent_until {
            self.was_silent_until = 0;
        }
    }

    /// Sets the offset up to which the kernel is asked to be silent.
    pub fn silence(&mut self, until: u64) {
        self.was_silent_until = self.was_silent_until.max(self.silent_until);
        self.silent_until = until;
    }

    /// Whether calls may have gone unrecorded by a wish of ours.
    pub fn is_silent(&self) -> bool {
        self.track.next().unwrap_or_default() < self.silent_until.max(self.was_silent_until)
    }
}

/// Whether there is a hole before a record.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Hole {
    Yes,
    No,
}

/// One end of a connection.
pub(super) struct ConnectionEnd {
    pub opened: Opened,
    pub known_addresses: bool,
    pub transport: u32,
    pub role: Option<End>,
    /// The sequence numbers that count as offset 0: (sent, received).
    pub base: (u32, u32),
    /// The first record that is seen of a direction may not be its first.
    pub from_birth: bool,
    pub send: Way,
    pub receive: Way,
    pub joined: bool,
    /// The halves of the names under which this end is registered, as its last snapshot gave them.
    pub named: Option<(u32, u32)>,
    pub unix: Unix,
    /// A shift of what this end sends into what the other receives, seen once with so many bytes sent.
    pub candidate: Option<(i64, u64)>,
    pub shift: Option<i64>,
    /// When it was met.
    pub met: Monotonic,
    /// The last record was of bytes that went this way.
    pub direction: Option<Direction>,
    pub last: Moment,
    /// No more bytes will be read, and that was told.
    pub finished: bool,
    pub finished_first: bool,
    /// Whether the process was gone when this end sent its FIN.
    pub finished_by_exit: Option<bool>,
    pub closing: Option<(Closed, Tcp, u32)>,
}

impl ConnectionEnd {
    pub fn base(&self, direction: Direction) -> u32 {
        match direction {
            Direction::Send => self.base.0,
            Direction::Receive => self.base.1,
        }
    }

    pub fn way(&mut self, direction: Direction) -> &mut Way {
        match direction {
            Direction::Send => &mut self.send,
            Direction::Receive => &mut self.receive,
        }
    }

    pub fn held(&self) -> usize {
        self.send.track.held_bytes() + self.receive.track.held_bytes()
    }

    pub fn holds(&self) -> bool {
        self.send.track.holds() || self.receive.track.holds()
    }

    /// A direction, and what passes its pieces on.
    pub fn passing<'a>(
        &'a mut self,
        direction: Direction,
        ledger: &'a mut Ledger,
        out: &'a mut dyn FnMut(Event<'_>),
    ) -> (&'a mut Way, Passing<'a>) {
        let base = self.base(direction);
        let Self { opened, send, receive, .. } = self;
        let way = match direction {
            Direction::Send => send,
            Direction::Receive => receive,
        };
        (way, Passing { opened, direction, base, ledger, out })
    }
}

impl ConnectionEnd {
    /// Says that a direction went on to an offset.
    pub fn skip(
        &mut self,
        direction: Direction,
        until: u64,
        moment: &Moment,
        ledger: &mut Ledger,
        out: &mut dyn FnMut(Event<'_>),
    ) {
        let from_birth = self.from_birth;
        let (way, mut passing) = self.passing(direction, ledger, out);
        let Some(next) = way.track.next().or(from_birth.then_some(0)) else { return };
        if until > MAX_OFFSET || (until <= next && !way.track.holds()) {
            return;
        }
        let cause = if way.step.overlapped() {
            GapCause::Uncertain
        } else if way.followed || until <= way.silent_until.max(way.was_silent_until) {
            GapCause::Silent
        } else {
            GapCause::Lost
        };
        way.track.skip_to(until, cause, moment, &mut |piece| passing.pass(piece));
        passing.ledger.discarded += way.track.take_discarded();
    }
}

/// Passes pieces on: to the stations behind, and to the books.
pub(super) struct Passing<'a> {
    opened: &'a Opened,
    direction: Direction,
    base: u32,
    pub ledger: &'a mut Ledger,
    out: &'a mut dyn FnMut(Event<'_>),
}

impl Passing<'_> {
    pub fn pass(&mut self, piece: Piece<'_>) {
        let connection = self.opened.connection;
        match piece.content {
            Content::Bytes(bytes) => self.ledger.passed += bytes.len() as u64,
            Content::Gap { length, cause } => {
                let gaps = &mut self.ledger.gaps[cause as usize];
                // The length is what a snapshot says, and that may be torn.
                *gaps = gaps.saturating_add(length);
                if matches!(cause, GapCause::Lost | GapCause::Uncertain) {
                    let gap = Gap {
                        connection,
                        local: Some(self.opened.local.clone()),
                        peer: Some(self.opened.peer.clone()),
                        direction: self.direction,
                        position: self.base.wrapping_add(piece.offset as u32),
                        length,
                        cause,
                    };
                    (self.out)(Event::Gap(&gap));
                }
            }
        }
        (self.out)(Event::Piece { connection, direction: self.direction, piece });
    }
}
