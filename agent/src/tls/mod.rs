//! Ciphertext of sockets and secrets of sessions in, plaintext with the sockets' positions out.
//!
//! ```text
//!   piece ─▶ Layer ─ not TLS ─────────────────────────────────────────▶ piece
//!              └─ record ─▶ session: handshake in clear ─▶ random, suite
//!                             │ sealed: waits for secrets; a tag proves key and number
//!                             └─ plaintext ───────────────────────────▶ piece
//! ```
//! A plaintext byte has the stream offset at which it, or what it was encrypted to, lies on the wire; so both ends of a
//! connection agree on it, and offsets jump over what frames the records. A jump is no gap.
//!
//! Which session a socket carries is decided by content: the 32 random bytes of its ClientHello stand in the
//! program's memory beside the secrets. A secret of another session opens nothing: the tag refuses it.
//!
//! What holds: nothing that no tag has proven comes out (the beginning of a long record comes out without its own tag,
//! under a key and a number that are proven); the [`Ledger`] balances; what waits is bounded. It does no I/O, reads no clock,
//! knows one connection end at a time, and tells secrets to nobody. It never keeps the name of the server that a client asks
//! for, a certificate or a ticket.

mod cipher;
pub mod clear;
pub mod fuzz;
mod handshake;
pub mod keys;
mod ledger;
mod nonce;
mod record;
mod schedule;
mod secret;
mod session;
mod suite;
mod testing;
#[cfg(test)]
mod tests;
mod trial;
mod way;

pub use ledger::{Ledger, Sealed};
pub use secret::{MAX_SECRET, Random, Secret, Secrets, overwrite_stack};
pub use session::{Agreed, Fits, MAX_WAITING_BYTES, MAX_WAITING_RECORDS};
pub use suite::Version;
pub use trial::Trial;

use crate::identity::Direction;
use crate::stream::{Content, GapCause, Piece};
use session::{Session, Sink};

/// What lies between the bytes of one socket and the protocols: nothing, or TLS.
#[derive(Debug, Default)]
pub struct Layer {
    session: Option<Box<Session>>,
    /// What a session has taken that no hello has shown to be one: where it began in each direction, and how
    /// many bytes.
    doubtful: [Option<(u64, u64)>; 2],
    /// Secrets of a session that is older than we are, and that may be this connection's.
    late: Option<Secrets>,
    ledger: Ledger,
}

/// Whether TLS may begin with the next piece.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum May {
    /// What the connection speaks is not known, or it may change to TLS.
    Begin,
    /// The same, and probes read its plaintext: nothing is to be opened.
    BeginProbed,
    /// It speaks something else.
    #[default]
    NotBegin,
}

impl Layer {
    /// So many bytes of plaintext came from probes, and so many as gaps.
    pub fn told(&mut self, plaintext: u64, missing: u64) {
        self.ledger.plaintext += plaintext;
        self.ledger.missing += missing;
        if let Some(session) = &mut self.session {
            session.told(&mut self.ledger);
        }
    }

    /// Takes the next piece of one direction; what is plain goes on.
    pub fn piece(&mut self, direction: Direction, piece: &Piece<'_>, may: May, out: &mut Sink<'_>) {
        let moved = match piece.content {
            Content::Bytes(bytes) => bytes.len() as u64,
            Content::Gap { length, .. } => length,
        };
        self.ledger.moved = self.ledger.moved.saturating_add(moved);
        if self.session.is_none() {
            if !self.begins(piece, may) {
                self.ledger.passed = self.ledger.passed.saturating_add(moved);
                return out(direction, *piece);
            }
            self.ledger.sessions += 1;
            self.session = Some(Box::new(match self.late.take() {
                Some(secrets) if !begins(piece) => Session::late(direction, piece.offset, &secrets),
                _ => Session::new(direction, piece.offset, may == May::BeginProbed),
            }));
        }
        let Some(session) = &mut self.session else { return };
        session.piece(direction, piece, &mut self.ledger, out);
        if session.is_genuine() {
            return;
        }
        let mistaken = session.is_mistaken();
        if let Some(doubtful) = self.doubtful.get_mut(way(direction)) {
            doubtful.get_or_insert((piece.offset, 0)).1 += moved;
        }
        if mistaken {
            self.give_up(piece, out);
        }
    }

    /// True if with this piece TLS begins, or goes on whose beginning was not seen.
    pub fn begins(&self, piece: &Piece<'_>, may: May) -> bool {
        let older = may == May::Begin && self.late.is_some();
        self.session.is_none() && may != May::NotBegin && (begins(piece) || older && is_record(piece))
    }

    /// Secrets of a session that is older than we are, found at a call of this connection or of its other end: believed if
    /// they open what looks like a record. False if they cannot be of use any more.
    pub fn late(&mut self, secrets: &Secrets, out: &mut Sink<'_>) -> bool {
        match &mut self.session {
            None => _ = self.late.get_or_insert_default().add(secrets),
            Some(session) if session.is_guessed() => session.secrets(secrets, &mut self.ledger, out),
            Some(_) => return false,
        }
        true
    }

    /// It was no TLS: what was taken is told as missing.
    fn give_up(&mut self, piece: &Piece<'_>, out: &mut Sink<'_>) {
        self.close();
        self.session = None;
        self.ledger.sessions -= 1;
        self.ledger.mistaken += 1;
        let taken = std::mem::take(&mut self.doubtful);
        for (direction, taken) in [Direction::Receive, Direction::Send].into_iter().zip(taken) {
            let Some((offset, length)) = taken else { continue };
            self.ledger.missing += length;
            let content = Content::Gap { length, cause: GapCause::Unseen };
            out(
                direction,
                Piece { offset, content, starts_call: true, ends_call: false, moment: piece.moment },
            );
        }
    }

    /// Secrets that were found beside these random bytes.
    pub fn secrets(&mut self, secrets: &Secrets, out: &mut Sink<'_>) {
        if let Some(session) = &mut self.session {
            session.secrets(secrets, &mut self.ledger, out);
        }
    }

    /// Guesses at its secrets that a record has proven since this was asked last.
    pub fn take_proven(&mut self) -> Option<Secrets> {
        self.session.as_mut().and_then(|session| session.take_proven())
    }

    /// What of the guesses at the session with this number opens records that wait. Nothing is consumed.
    pub fn fits(&self, trial: &mut Trial, number: usize) -> Fits {
        self.session.as_ref().map_or(Fits::Nothing, |session| session.fits(trial, number))
    }

    /// True if what waits for secrets is enough to prove them by.
    pub fn is_provable(&self) -> bool {
        self.session.as_ref().is_some_and(|session| session.is_provable())
    }

    /// The version that was agreed on, as far as it was seen.
    pub fn version(&self) -> Option<Version> {
        self.session.as_ref().and_then(|session| session.version())
    }

    /// True if it waits for what a key of AES, without a secret, could open.
    pub fn wants_key(&self) -> bool {
        self.session.as_ref().is_some_and(|session| session.wants_key())
    }

    /// The end of the connection.
    pub fn close(&mut self) {
        if let Some(session) = &mut self.session {
            session.close(&mut self.ledger);
        }
    }

    /// The random bytes of the ClientHello, if this is TLS and it was seen.
    pub fn random(&self) -> Option<Random> {
        self.session.as_ref().and_then(|session| session.random())
    }

    /// Which party this end is, if this is TLS and its ClientHello was seen.
    pub fn party(&self) -> Option<clear::Party> {
        self.session.as_ref()?.client().map(|client| match client {
            Direction::Send => clear::Party::Client,
            Direction::Receive => clear::Party::Server,
        })
    }

    /// What the two ends have agreed on; none if this is not TLS.
    pub fn agreed(&self) -> Option<Agreed> {
        self.session.as_ref().filter(|session| session.is_genuine()).map(|session| session.agreed())
    }

    /// True if the headers of this direction's records are enough to pass a message by.
    pub fn is_measured(&self, direction: Direction) -> bool {
        self.session.as_ref().is_some_and(|session| session.is_measured(direction))
    }

    /// How far it is.
    pub fn state(&self) -> State {
        match &self.session {
            None => State::Plain,
            Some(session) if session.is_probed() => State::Probed,
            Some(session) if session.is_hopeless() => State::Hopeless,
            Some(session) if session.is_open() => State::Open,
            Some(session) if session.waits() => State::Waiting,
            Some(_) => State::Handshake,
        }
    }

    /// The books, as they are now.
    pub fn ledger(&self) -> Ledger {
        let held = self.session.as_ref().map_or(0, |session| session.held());
        Ledger { held, ..self.ledger }
    }
}

/// How far a connection's TLS is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum State {
    /// It is none.
    Plain,
    /// Nothing waits for a key yet.
    Handshake,
    /// Records wait for a key.
    Waiting,
    /// Plaintext comes out of both directions.
    Open,
    /// What is sealed stays so: probes read its plaintext.
    Probed,
    /// No plaintext will come.
    Hopeless,
}

/// True if this is the beginning of a handshake record at the beginning of a call, with a hello in it as far
/// as can be seen.
fn begins(piece: &Piece<'_>) -> bool {
    let Content::Bytes(bytes) = piece.content else { return false };
    let hello = bytes.get(record::HEADER).is_none_or(|kind| matches!(kind, 1 | 2));
    piece.starts_call && bytes.first() == Some(&record::HANDSHAKE) && record::may_be_header(bytes) && hello
}

/// True if this is the beginning of a record of application data at the beginning of a call.
fn is_record(piece: &Piece<'_>) -> bool {
    let Content::Bytes(bytes) = piece.content else { return false };
    let is_data = bytes.first() == Some(&record::APPLICATION_DATA);
    piece.starts_call && is_data && bytes.len() >= record::HEADER && record::may_be_header(bytes)
}

fn way(direction: Direction) -> usize {
    match direction {
        Direction::Receive => 0,
        Direction::Send => 1,
    }
}
