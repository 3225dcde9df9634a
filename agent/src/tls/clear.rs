//! Plaintext that probes in TLS libraries have read: which socket it belongs to, and where in its stream.
//!
//! ```text
//!   record (session, party, process, place) ─▶ choose ─▶ Ways ─▶ pieces and gaps
//!                 no such hello yet ─▶ waits ─┘
//! ```
//! A session is the connection on which this process has seen its ClientHello, as the party that the session says it is; where it
//! says which connection it lies over, that one, if the same is true of it. If that
//! is not exactly one, the plaintext is dropped, and counted: no span rather than one of another socket.
//!
//! Plaintext from a probe has no position on the wire. Its offset is how many bytes the session has moved before, which
//! both ends count alike if they were counted from their first byte ([`Origin::Counted`]). Otherwise the ends must never meet by
//! it: each has offsets of its own then. No stream is as long as these are apart. It reads no clock and does no I/O.

use std::collections::VecDeque;

use super::secret::Random;
use crate::identity::{ConnectionId, Direction, Moment, Monotonic, ProcessKey};
use crate::stream::{Content, GapCause, Piece};

/// Bytes of records that may wait for their hello, which comes within milliseconds. More: the oldest are dropped.
pub const MAX_WAITING_BYTES: usize = 4 << 20;
/// How long a record waits for its hello, nanoseconds.
pub const WAITS: u64 = 1_000_000_000;

/// The books, in bytes: `moved = passed + unknown + ambiguous + misplaced + held`.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Ledger {
    /// Bytes that calls have moved, as far as records told of them.
    pub moved: u64,
    /// Those that went on.
    pub passed: u64,
    /// Those of sessions whose hello was seen on no connection.
    pub unknown: u64,
    /// Those of sessions that may be several connections'.
    pub ambiguous: u64,
    /// Those that came behind what was moved after them.
    pub misplaced: u64,
    /// Those that wait for their hello.
    pub held: u64,
    /// Bytes that no record told of, between two that did.
    pub lost: u64,
    /// Ends of sessions whose bytes were counted from the first.
    pub counted: u64,
    /// Ends of sessions that were not: these join no other end.
    pub uncounted: u64,
}

impl Ledger {
    /// True if every byte is accounted for.
    pub fn balances(&self) -> bool {
        let Self { moved, passed, unknown, ambiguous, misplaced, held, lost: _, counted: _, uncounted: _ } =
            *self;
        moved == passed + unknown + ambiguous + misplaced + held
    }
}

/// Which party of a session an end is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Party {
    /// It sent the ClientHello.
    Client,
    /// It received it.
    Server,
}

/// What a session is known by.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Session {
    /// The random bytes of its ClientHello.
    Hello(Random),
    /// Its socket.
    Socket(ConnectionId),
}

/// A piece of what a call moved.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Clear {
    /// Whose.
    pub session: Session,
    /// Which party the session is, as far as the library says.
    pub party: Option<Party>,
    /// Which way.
    pub direction: Direction,
    /// Bytes of the session in this direction before this piece.
    pub place: u64,
    /// Bytes of the call that are not here, behind this piece, if it is the call's last.
    pub rest: u64,
    /// It is the call's first.
    pub first: bool,
    /// It is the call's last.
    pub last: bool,
    /// Where it is was counted.
    pub counted: bool,
    /// Since when such calls of the process are seen.
    pub since: Option<Monotonic>,
    /// When the call began.
    pub began: Monotonic,
    /// The call.
    pub moment: Moment,
    /// The bytes.
    pub bytes: Vec<u8>,
}

impl Clear {
    fn moved(&self) -> u64 {
        self.bytes.len() as u64 + self.rest
    }
}

/// A connection that has seen the hello.
#[derive(Clone, Copy, Debug)]
pub struct Candidate {
    /// Which.
    pub connection: ConnectionId,
    /// Whose.
    pub process: ProcessKey,
    /// Which party it is by its hello.
    pub party: Option<Party>,
}

/// What [`choose`] says.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Choice {
    /// This one.
    One(ConnectionId),
    /// None has.
    None,
    /// Several may be meant.
    Several,
}

/// The connection that this process's session of this party is on.
pub fn choose(
    candidates: impl Iterator<Item = Candidate>,
    process: ProcessKey,
    party: Option<Party>,
) -> Choice {
    let mut choice = Choice::None;
    for candidate in candidates {
        let other = matches!((candidate.party, party), (Some(one), Some(other)) if one != other);
        if candidate.process != process || other {
            continue;
        }
        choice = match choice {
            Choice::None => Choice::One(candidate.connection),
            _ => return Choice::Several,
        };
    }
    choice
}

/// From where the bytes of an end are counted. An offset is only ever compared with those of the session's other end; an
/// order of these is part of it, since what a server waits for is over once its client is further.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Origin {
    /// From the session's first byte.
    Counted,
    /// Not, at this party.
    Uncounted(Party),
    /// Not any more, at this party.
    Torn(Party),
}

impl Origin {
    fn base(self) -> u64 {
        match self {
            Self::Uncounted(Party::Server) => 1 << 60,
            Self::Counted => 2 << 60,
            Self::Uncounted(Party::Client) | Self::Torn(Party::Client) => 3 << 60,
            Self::Torn(Party::Server) => (3 << 60) + (1 << 59),
        }
    }
}

/// Both directions of an end.
#[derive(Clone, Copy, Debug)]
pub struct Ways {
    origin: Origin,
    party: Party,
    next: [Option<u64>; 2],
}

impl Ways {
    /// One of which no byte was seen.
    pub fn new(counted: bool, party: Party) -> Self {
        let origin = if counted { Origin::Counted } else { Origin::Uncounted(party) };
        Self { origin, party, next: [None; 2] }
    }

    /// Puts a piece in its place. Returns how many bytes of plaintext were passed on, and how many as gaps.
    pub fn piece(
        &mut self,
        clear: &Clear,
        moment: &Moment,
        ledger: &mut Ledger,
        out: &mut dyn FnMut(Direction, Piece<'_>),
    ) -> (u64, u64) {
        let direction = clear.direction;
        let mut missing = 0;
        let mut gap = |offset, length, cause, starts_call| {
            missing += length;
            let content = Content::Gap { length, cause };
            out(direction, Piece { offset, content, starts_call, ends_call: false, moment });
        };
        if !clear.counted && self.origin == Origin::Counted {
            self.origin = Origin::Torn(self.party);
            self.next = [None; 2];
        }
        let Some(next) = self.next.get_mut(usize::from(direction == Direction::Send)) else { return (0, 0) };
        let base = self.origin.base();
        // The first byte stands for all that may be missing where counting failed.
        let place = base + 1 + clear.place;
        match (*next, self.origin) {
            (None, Origin::Counted) if clear.place > 0 => {
                ledger.lost += clear.place;
                gap(base + 1, clear.place, GapCause::Lost, false);
            }
            (None, Origin::Counted) => {}
            (None, Origin::Torn(_)) => gap(place - 1, 1, GapCause::Torn, false),
            (None, Origin::Uncounted(_)) => {}
            (Some(next), _) if next < place => {
                ledger.lost += place - next;
                gap(next, place - next, GapCause::Lost, false);
            }
            (Some(next), _) if next > place => {
                ledger.misplaced += clear.moved();
                return (0, missing);
            }
            (Some(_), _) => {}
        }
        let length = clear.bytes.len() as u64;
        let end = place + length;
        if clear.rest > 0 {
            *next = Some(end + clear.rest);
        } else {
            *next = Some(end);
        }
        ledger.passed += clear.moved();
        if length > 0 {
            let content = Content::Bytes(&clear.bytes);
            let (starts_call, ends_call) = (clear.first, clear.last && clear.rest == 0);
            out(direction, Piece { offset: place, content, starts_call, ends_call, moment });
        }
        if clear.rest > 0 {
            missing += clear.rest;
            let content = Content::Gap { length: clear.rest, cause: GapCause::Limit };
            let starts_call = clear.first && length == 0;
            out(direction, Piece { offset: end, content, starts_call, ends_call: clear.last, moment });
        }
        (length, missing)
    }
}

/// Records whose hello has not come.
#[derive(Debug, Default)]
pub struct Waiting {
    records: VecDeque<Clear>,
    bytes: usize,
}

impl Waiting {
    /// Keeps one.
    pub fn keep(&mut self, clear: Clear, ledger: &mut Ledger) {
        self.bytes += clear.bytes.len();
        ledger.held += clear.moved();
        self.records.push_back(clear);
        while self.bytes > MAX_WAITING_BYTES {
            self.drop_oldest(ledger);
        }
    }

    /// Takes those of a session out, in order.
    pub fn take(&mut self, session: Session, ledger: &mut Ledger) -> Vec<Clear> {
        if !self.records.iter().any(|clear| clear.session == session) {
            return Vec::new();
        }
        let (taken, left): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.records).into_iter().partition(|clear| clear.session == session);
        self.records = left.into();
        for clear in &taken {
            self.bytes -= clear.bytes.len();
            ledger.held -= clear.moved();
        }
        taken
    }

    /// Drops what has waited for too long.
    pub fn expire(&mut self, now: Monotonic, ledger: &mut Ledger) {
        while self.records.front().is_some_and(|clear| now.since(clear.moment.time) > WAITS) {
            self.drop_oldest(ledger);
        }
    }

    fn drop_oldest(&mut self, ledger: &mut Ledger) {
        if let Some(clear) = self.records.pop_front() {
            self.bytes -= clear.bytes.len();
            ledger.held -= clear.moved();
            ledger.unknown += clear.moved();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::ThreadId;

    const PROCESS: ProcessKey = ProcessKey { pid: 7, exec: 0, started: 1 };
    const MOMENT: Moment = Moment {
        time: Monotonic(5),
        process: PROCESS,
        thread: ThreadId(7),
        nonblocking: false,
        in_epoll: false,
        evidence: None,
    };

    fn clear(direction: Direction, place: u64, bytes: &[u8]) -> Clear {
        Clear {
            session: Session::Hello([9; 32]),
            party: Some(Party::Server),
            direction,
            place,
            rest: 0,
            first: true,
            last: true,
            counted: true,
            since: None,
            began: Monotonic(4),
            moment: MOMENT,
            bytes: bytes.to_vec(),
        }
    }

    /// What comes out of these pieces: offsets from the origin's base on, and bytes or gaps.
    fn check(counted: bool, party: Party, pieces: &[Clear], want: &[(u64, &str)]) -> Ledger {
        let (mut ways, mut ledger, mut got) = (Ways::new(counted, party), Ledger::default(), Vec::new());
        for clear in pieces {
            ledger.moved += clear.moved();
            let mut passed = (0, 0);
            let told = ways.piece(clear, &clear.moment, &mut ledger, &mut |_, piece| {
                let text = match piece.content {
                    Content::Bytes(bytes) => {
                        passed.0 += bytes.len() as u64;
                        String::from_utf8_lossy(bytes).into_owned()
                    }
                    Content::Gap { length, cause } => {
                        passed.1 += length;
                        format!("{length} {}", cause.name())
                    }
                };
                got.push((piece.offset, text));
            });
            assert_eq!(told, passed, "what it says it told");
            assert!(ledger.balances(), "{ledger:?}");
        }
        let got: Vec<(u64, &str)> = got.iter().map(|(offset, text)| (*offset, text.as_str())).collect();
        assert_eq!(got, want);
        ledger
    }

    const COUNTED: u64 = (2 << 60) + 1;

    #[test]
    fn bytes_that_were_counted_from_the_first_have_the_same_offsets_at_both_ends() {
        for (party, direction) in [(Party::Client, Direction::Send), (Party::Server, Direction::Receive)] {
            let pieces = [clear(direction, 0, b"GET"), clear(direction, 3, b" /")];
            check(true, party, &pieces, &[(COUNTED, "GET"), (COUNTED + 3, " /")]);
        }
    }

    #[test]
    fn bytes_that_were_not_have_other_offsets_at_each_end() {
        let receive = [clear(Direction::Receive, 0, b"GET")];
        check(false, Party::Server, &receive, &[((1 << 60) + 1, "GET")]);
        let send = [clear(Direction::Send, 0, b"GET")];
        check(false, Party::Client, &send, &[((3 << 60) + 1, "GET")]);
    }

    #[test]
    fn from_where_counting_failed_on_nothing_joins() {
        let mut late = clear(Direction::Receive, 3, b"GET");
        late.counted = false;
        let torn = (3 << 60) + (1 << 59);
        check(
            true,
            Party::Server,
            &[clear(Direction::Receive, 0, b"GET"), late],
            &[(COUNTED, "GET"), (torn + 3, "1 torn"), (torn + 4, "GET")],
        );
    }

    #[test]
    fn what_no_record_told_of_is_a_gap() {
        let pieces = [clear(Direction::Send, 4, b"b"), clear(Direction::Send, 7, b"c")];
        let ledger = check(
            true,
            Party::Client,
            &pieces,
            &[(COUNTED, "4 lost"), (COUNTED + 4, "b"), (COUNTED + 5, "2 lost"), (COUNTED + 7, "c")],
        );
        assert_eq!(ledger.lost, 6);
    }

    #[test]
    fn what_was_not_captured_of_a_call_is_a_gap_and_what_comes_too_late_nothing() {
        let mut long = clear(Direction::Send, 0, b"ab");
        long.rest = 5;
        let pieces = [long, clear(Direction::Send, 7, b"c"), clear(Direction::Send, 1, b"xx")];
        let want = [(COUNTED, "ab"), (COUNTED + 2, "5 limit"), (COUNTED + 7, "c")];
        assert_eq!(check(true, Party::Client, &pieces, &want).misplaced, 2);
    }

    #[test]
    fn a_session_is_the_one_connection_of_its_process_and_party_or_none() {
        let end = |connection, pid, party| Candidate {
            connection: ConnectionId(connection),
            process: ProcessKey { pid, ..PROCESS },
            party,
        };
        let (client, server) = (end(1, 7, Some(Party::Client)), end(2, 7, Some(Party::Server)));
        let of = |ends: &[Candidate], party| choose(ends.iter().copied(), PROCESS, party);
        assert_eq!(of(&[client, server], Some(Party::Server)), Choice::One(ConnectionId(2)));
        assert_eq!(of(&[client, server], Some(Party::Client)), Choice::One(ConnectionId(1)));
        assert_eq!(of(&[client, server], None), Choice::Several);
        assert_eq!(of(&[client, end(3, 8, Some(Party::Server))], None), Choice::One(ConnectionId(1)));
        assert_eq!(of(&[end(3, 8, Some(Party::Server))], None), Choice::None);
        assert_eq!(of(&[server, server], Some(Party::Server)), Choice::Several, "a hello that was replayed");
        assert_eq!(of(&[], None), Choice::None);
    }

    #[test]
    fn what_waits_is_bounded_and_comes_out_in_order() {
        let (mut waiting, mut ledger) = (Waiting::default(), Ledger::default());
        let keep = |waiting: &mut Waiting, ledger: &mut Ledger, clear: Clear| {
            ledger.moved += clear.moved();
            waiting.keep(clear, ledger);
            assert!(ledger.balances(), "{ledger:?}");
        };
        let other = Clear { session: Session::Socket(ConnectionId(8)), ..clear(Direction::Send, 0, b"x") };
        for clear in [clear(Direction::Send, 0, b"a"), other, clear(Direction::Send, 1, b"b")] {
            keep(&mut waiting, &mut ledger, clear);
        }
        let places: Vec<u64> =
            waiting.take(Session::Hello([9; 32]), &mut ledger).iter().map(|clear| clear.place).collect();
        assert_eq!((places, ledger.held), (vec![0, 1], 1));
        ledger.moved -= 2;
        waiting.expire(Monotonic(5 + WAITS), &mut ledger);
        assert_eq!(ledger.unknown, 0);
        waiting.expire(Monotonic(6 + WAITS), &mut ledger);
        assert_eq!(ledger.unknown, 1);
        for number in 0..10 {
            keep(&mut waiting, &mut ledger, clear(Direction::Send, number, &vec![0; 1 << 20]));
        }
        assert_eq!((waiting.bytes, ledger.held), (4 << 20, 4 << 20));
    }
}
