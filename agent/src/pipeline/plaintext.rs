//! What probes have read of TLS sessions goes to the connections that carried it.
//!
//! A piece must never be given to a connection that only may be its own: two candidates are none.

use spandrel_proto::record::{self, FLAG_FIRST, FLAG_SEND};
use spandrel_proto::tls::{LIBRARY, OF_GO};

use super::behind::{Behind, End, conversation};
use crate::identity::{ConnectionId, Direction, Moment, Monotonic, ProcessKey, ThreadId};
use crate::tls::clear::{Candidate, Choice, Session, Ways, choose};
use crate::{stream, tls};

impl Behind {
    /// A probe has read plaintext.
    pub(super) fn plain(&mut self, clear: tls::clear::Clear) {
        self.tls.clear.moved += clear.bytes.len() as u64 + clear.rest;
        self.place(clear);
    }

    /// Puts plaintext where it belongs, or keeps it until that is known.
    pub(super) fn place(&mut self, mut clear: tls::clear::Clear) {
        let connections = match &clear.session {
            Session::Hello(random) => self.tls.keys.connections(random),
            Session::Socket(connection) => std::slice::from_ref(connection),
        };
        let candidates = connections.iter().filter_map(|&connection| {
            let end = self.connections.get(&connection).filter(|end| end.hello.is_some())?;
            Some(Candidate { connection, process: end.process?, party: end.layer.party() })
        });
        let connection = match choose(candidates, clear.moment.process, clear.party) {
            Choice::One(connection) => connection,
            Choice::None => return self.tls.waiting.keep(clear, &mut self.tls.clear),
            Choice::Several => {
                self.tls.clear.ambiguous += clear.bytes.len() as u64 + clear.rest;
                return;
            }
        };
        let Some(end) = self.connections.get_mut(&connection) else { return };
        let Some(party) = end.layer.party() else { return };
        // A call that was under way when the probes came is not seen at its end: a connection must be younger than they are.
        let from_birth = clear.party.is_some()
            && end.ends.born_here
            && clear.since.is_some_and(|since| end.opened > since);
        let process = clear.moment.process;
        let fresh = Probed { session: clear.session, process, ways: Ways::new(from_birth, party) };
        let mut probed = end.clear.unwrap_or(fresh);
        // Each process that has a session, or both parties where they are not told apart, are counted by themselves.
        clear.counted &= probed.process == process && clear.party.is_some();
        if end.clear.is_none() {
            if let Some(random) = &end.hello {
                self.tls.keys.read(random);
            }
            *if from_birth { &mut self.tls.clear.counted } else { &mut self.tls.clear.uncounted } += 1;
            if !from_birth {
                // Calls that were under way may have moved what was not seen.
                let fresh = conversation(self.recall, connection, false);
                self.gone.replace(&mut end.exchanges, fresh, &mut self.scratch);
            }
        }
        let call = end.calls[usize::from(clear.direction == Direction::Send)];
        let moment = match call {
            // What a call of the library does inside, it does on the same behalf.
            Some(call) => Moment {
                nonblocking: call.nonblocking,
                in_epoll: call.in_epoll,
                evidence: call.evidence.filter(|_| {
                    let inside = clear.began <= call.time && call.time <= clear.moment.time;
                    inside && call.thread == clear.moment.thread
                }),
                ..clear.moment
            },
            None => clear.moment,
        };
        let End { exchanges, layer, .. } = end;
        let scratch = &mut self.scratch;
        let (plaintext, missing) =
            probed.ways.piece(&clear, &moment, &mut self.tls.clear, &mut |direction, piece| {
                exchanges.piece(direction, &piece, scratch);
            });
        layer.told(plaintext, missing);
        end.clear = Some(probed);
        // What is wanted of the plaintext says nothing of the socket.
        scratch.wishes.clear();
        self.pass_on(connection);
    }
}

/// A session whose plaintext probes read, at one of its ends.
#[derive(Clone, Copy)]
pub(super) struct Probed {
    pub(super) session: Session,
    /// Who was seen to use it first.
    pub(super) process: ProcessKey,
    pub(super) ways: Ways,
}

/// Whose plaintext it is.
fn session(plain: &record::Plain) -> Session {
    if plain.party & OF_GO == 0 {
        return Session::Hello(plain.random);
    }
    let [a, b, c, d, e, f, g, h, ..] = plain.random;
    Session::Socket(ConnectionId(u64::from_ne_bytes([a, b, c, d, e, f, g, h])))
}

/// The bytes by which the kernel side knows a session.
pub(super) fn name(session: &Session) -> [u8; 32] {
    match session {
        Session::Hello(random) => *random,
        Session::Socket(connection) => {
            let mut name = [0; 32];
            name[..8].copy_from_slice(&connection.0.to_ne_bytes());
            name
        }
    }
}

/// A piece of plaintext, as `tls` sees it.
pub(super) fn clear(plain: &record::Plain, bytes: &[u8], since: Option<Monotonic>) -> tls::clear::Clear {
    let flag = |flag: u16| plain.header.flags & flag != 0;
    let behind = u64::from(plain.total.saturating_sub(plain.skip).saturating_sub(plain.captured));
    tls::clear::Clear {
        session: session(plain),
        party: match plain.party & !LIBRARY {
            record::PARTY_CLIENT => Some(tls::clear::Party::Client),
            record::PARTY_SERVER => Some(tls::clear::Party::Server),
            _ => None,
        },
        direction: if flag(FLAG_SEND) { Direction::Send } else { Direction::Receive },
        place: plain.place.saturating_add(u64::from(plain.skip)),
        rest: if flag(record::FLAG_LAST) { behind } else { 0 },
        first: flag(FLAG_FIRST),
        last: flag(record::FLAG_LAST),
        counted: !flag(record::FLAG_LATE),
        since,
        began: Monotonic(plain.began),
        moment: Moment {
            time: Monotonic(plain.header.time),
            process: stream::process(&plain.header),
            thread: ThreadId(plain.header.thread),
            // How the socket is set, its own calls tell.
            nonblocking: true,
            in_epoll: true,
            evidence: None,
        },
        bytes: bytes.to_vec(),
    }
}
