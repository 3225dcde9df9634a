//! Where the secrets of TLS sessions and the connections that carry them meet, whichever comes first.
//!
//! The bytes are read in `tls`; which process may be looked into at all is decided here. Secrets must never leave this
//! thread: what waits for its connection is bounded, and gone with it.

use foldhash::HashMap;

use super::behind::{Behind, End};
use super::keyless::{Keyless, MAX_KEYLESS};
use super::{FRESH, Pipeline};
use crate::discover::searching;
use crate::discover::select::Verdict;
use crate::discover::table::candidate;
use crate::discover::tls_modes::{Mode, Modes};
use crate::exchange::{self, Want};
use crate::identity::{ConnectionId, Direction, Moment, Monotonic, ProcessKey};
use crate::probe::sessions::Sessions;
use crate::tls::clear::Session;
use crate::{stream, tls};

/// Connections whose secrets may come before the first record of them, which is milliseconds late at most. More are found
/// again at their next calls, or counted as sessions without a key.
const MAX_EARLY: usize = 4_096;
/// How long such secrets are kept, nanoseconds.
const EARLY_AGE: u64 = 10_000_000_000;

/// What the layers of all connections share.
#[derive(Default)]
pub(super) struct Encrypted {
    /// Where sockets and TLS sessions meet.
    pub(super) keys: tls::keys::Keys,
    /// Secrets of connections that no record has told of yet.
    early: HashMap<ConnectionId, Early>,
    /// How the TLS of which process is read; none if nobody's is.
    modes: Option<Modes>,
    /// Secrets may be searched for.
    searches: bool,
    /// Connections whose secrets are waited for.
    pub(super) keyless: Vec<Keyless>,
    /// What probes have read and waits for a hello.
    pub(super) waiting: tls::clear::Waiting,
    pub(super) clear: tls::clear::Ledger,
    /// Sessions whose bytes need not be counted any more: of which process, and which party.
    pub(super) over: Vec<(tls::clear::Session, u32, tls::clear::Party)>,
    /// Processes that begin TLS sessions, and may not be known for it.
    pub(super) encrypting: Vec<ProcessKey>,
}

impl Encrypted {
    /// Lets go of what has waited for its connection for too long.
    pub(super) fn expire(&mut self, now: Monotonic) {
        self.keys.expire(now);
        self.waiting.expire(now, &mut self.clear);
        self.early.retain(|_, early| now.since(early.since) < EARLY_AGE);
    }
}

/// Secrets that came before the first record of their connection.
struct Early {
    since: Monotonic,
    secrets: tls::Secrets,
    /// They are of this connection only if it is older than we are.
    if_older: bool,
}

impl Pipeline {
    /// From now on TLS is read, in these ways. Looks at all selected processes that are there.
    pub fn read_tls(&mut self, modes: Modes) {
        let Behind { table, selection, .. } = &self.behind;
        let mut sessions = Sessions::default();
        for (pid, description) in table.scanned() {
            let candidate = candidate(pid, description);
            let selected = selection.is_everything() || selection.verdict(&candidate) == Verdict::Selected;
            if pid != std::process::id() && selected {
                sessions.look(pid, modes.of(&candidate), &mut self.kernel);
            }
        }
        self.sessions = Some(sessions);
        self.behind.tls.modes = Some(modes);
    }

    /// From now on, secrets of sessions that are not found otherwise are searched for in the memory of processes.
    pub fn search_secrets(&mut self) -> std::io::Result<()> {
        self.secrets = Some(searching::Searcher::start()?);
        self.behind.tls.searches = true;
        Ok(())
    }

    /// Searches for secrets, and tries what was found.
    fn search(&mut self, now: Monotonic) {
        let Some(searcher) = &mut self.secrets else { return };
        self.behind.search(searcher, self.sessions.as_ref(), now);
        while let Some(answer) = searcher.answer() {
            for (ask, places) in self.behind.try_guesses(&answer, searcher, now) {
                if let Some(sessions) = &mut self.sessions {
                    sessions.found(ask.process, ask.connection, &places, &mut self.kernel);
                }
            }
        }
    }

    /// What there is to do for TLS: secrets that were found, processes to look into.
    pub(super) fn meet(&mut self, now: Monotonic) {
        let Some(sessions) = &mut self.sessions else { return };
        for process in std::mem::take(&mut self.behind.tls.encrypting) {
            sessions.look(process.pid, self.behind.tls_mode(process), &mut self.kernel);
        }
        while self.loading.front().is_some_and(|(due, _)| *due <= now) {
            if let Some((_, process)) = self.loading.pop_front()
                && self.behind.may_look_into(process)
            {
                sessions.look_again(process.pid, self.behind.tls_mode(process), &mut self.kernel);
            }
        }
        let takes_keys = sessions.takes_keys();
        if takes_keys {
            let behind = &mut self.behind;
            self.kernel.take_secrets(&mut |found| behind.secrets(found, now));
            sessions.learn(&mut self.kernel);
        }
        self.search(now);
        if takes_keys {
            self.carry_out();
        }
    }
}

impl Behind {
    /// How a selected process's TLS is read.
    pub(super) fn tls_mode(&mut self, process: ProcessKey) -> Mode {
        self.tls.modes.as_ref().map_or(Mode::Off, |modes| self.table.tls_mode(process, modes))
    }

    /// A piece of TLS came: says what is needed to read it.
    pub(super) fn encrypted(&mut self, connection: ConnectionId, moment: &Moment) {
        let Some(end) = self.connections.get_mut(&connection) else { return };
        let random = end.layer.random();
        if random != end.hello {
            if let Some(before) = end.hello.take() {
                self.tls.keys.closed(&before, connection);
            }
            end.hello = random;
            if self.tls.encrypting.len() < FRESH {
                self.tls.encrypting.push(moment.process);
            }
            if let Some(secrets) =
                random.and_then(|random| self.tls.keys.hello(random, connection, moment.time))
            {
                let End { exchanges, layer, .. } = end;
                let scratch = &mut self.scratch;
                layer.secrets(&secrets, &mut |direction, piece| exchanges.piece(direction, &piece, scratch));
            }
            let early = self.connections.get_mut(&connection).and_then(|end| end.early.take());
            if let (Some(random), Some(secrets)) = (random, early) {
                self.found(random, &secrets, moment.time);
            }
            for session in
                [random.map(Session::Hello), Some(Session::Socket(connection))].into_iter().flatten()
            {
                for clear in self.tls.waiting.take(session, &mut self.tls.clear) {
                    self.place(clear);
                }
            }
        }
        if let Some(end) = self.connections.get_mut(&connection)
            && let Some(random) = random
            && let Some(proven) = end.layer.take_proven()
        {
            // The other end's, too.
            self.found(random, &proven, moment.time);
        }
        if let Some(end) = self.connections.get_mut(&connection)
            && self.tls.searches
            && !end.keyless
            && end.layer.state() == tls::State::Waiting
            && self.tls.keyless.len() < MAX_KEYLESS
        {
            end.keyless = true;
            self.tls.keyless.push(Keyless {
                connection,
                since: moment.time,
                searched: 0,
                asked: false,
                last: false,
                closed: None,
            });
        }
        self.ask(connection);
    }

    /// Secrets were found beside these random bytes.
    fn secrets(&mut self, found: &spandrel_proto::tls::Found, now: Monotonic) {
        let older = ConnectionId(found.connection);
        // Without random bytes, the connection itself says whose they are; with its hello, both ends have them.
        // The byte behind says that only the shape of what was found was right.
        let nameless = found.random.iter().skip(9).all(|&byte| byte == 0);
        let traffic = |blocks: &[[u8; 64]]| -> Vec<tls::Secret> {
            blocks.iter().map(|block| tls::Secret::new(block)).collect()
        };
        let secrets = match nameless && found.random[8] != 0 {
            true => {
                let [mut guess, beside] = [traffic(&found.traffic), traffic(&found.beside)];
                guess.extend(beside);
                tls::Secrets { guesses: vec![guess], ..tls::Secrets::default() }
            }
            false => tls::Secrets {
                traffic: traffic(&found.traffic),
                master: vec![tls::Secret::new(&found.master)],
                ..tls::Secrets::default()
            },
        };
        let random = match nameless {
            true => self.connections.get(&older).and_then(|end| end.hello),
            false => Some(found.random),
        };
        match random {
            Some(random) => self.found(random, &secrets, now),
            None if self.connections.contains_key(&older) => self.early(older, &secrets),
            None => self.keep_early(older, &secrets, false, now),
        }
        // A process's sessions are looked for at each of its calls: what has a name is another connection's as often as not,
        // unless this one can have no hello any more.
        if !nameless && self.tls.keys.is_unasked(&found.random) {
            match self.connections.get(&older).map(|end| end.ends.born_here) {
                Some(true) => {}
                Some(false) => self.early(older, &secrets),
                None => self.keep_early(older, &secrets, true, now),
            }
        }
    }

    /// A connection is there: secrets may have come before it.
    pub(super) fn came_early(&mut self, opened: &stream::Opened) {
        if let Some(Early { secrets, if_older, .. }) = self.tls.early.remove(&opened.connection)
            && !(if_older && opened.born_here)
        {
            self.early(opened.connection, &secrets);
        }
    }

    /// Keeps secrets for the first record of their connection.
    fn keep_early(
        &mut self,
        connection: ConnectionId,
        secrets: &tls::Secrets,
        if_older: bool,
        now: Monotonic,
    ) {
        if self.tls.early.len() >= MAX_EARLY {
            return;
        }
        let fresh = || Early { since: now, secrets: tls::Secrets::default(), if_older };
        let early = self.tls.early.entry(connection).or_insert_with(fresh);
        early.if_older &= if_older;
        early.secrets.add(secrets);
    }

    /// Secrets of the session with these random bytes go to the connections that have read them.
    pub(super) fn found(&mut self, random: tls::Random, secrets: &tls::Secrets, now: Monotonic) {
        for connection in self.tls.keys.found(random, secrets, now).to_vec() {
            if let Some(End { exchanges, layer, .. }) = self.connections.get_mut(&connection) {
                let scratch = &mut self.scratch;
                layer.secrets(secrets, &mut |direction, piece| exchanges.piece(direction, &piece, scratch));
                self.ask(connection);
                self.pass_on(connection);
            }
        }
    }

    /// Secrets of a connection whose hello was not read: it comes, or the session is older than we are. The other end,
    /// if it is here, has the same.
    pub(super) fn early(&mut self, connection: ConnectionId, secrets: &tls::Secrets) {
        let Some(end) = self.connections.get_mut(&connection) else { return };
        end.early.get_or_insert_default().add(secrets);
        let peer = end.peer;
        for connection in [Some(connection), peer].into_iter().flatten() {
            self.late(connection, secrets);
        }
    }

    /// Secrets that open what a connection carries, if that is a session that is older than we are.
    pub(super) fn late(&mut self, connection: ConnectionId, secrets: &tls::Secrets) {
        let Some(end) = self.connections.get_mut(&connection) else { return };
        let unknown = matches!(
            end.exchanges.protocol(),
            exchange::Classified::Unknown | exchange::Classified::Other(_)
        );
        // Of a connection that began here the hello comes.
        if end.ends.born_here || !unknown {
            return;
        }
        let End { exchanges, layer, asked, .. } = end;
        let scratch = &mut self.scratch;
        if !layer.late(secrets, &mut |direction, piece| exchanges.piece(direction, &piece, scratch)) {
            return;
        }
        let everything = Some(exchange::Policy::Everything);
        for (asked, direction) in asked.iter_mut().zip([Direction::Receive, Direction::Send]) {
            if std::mem::replace(asked, everything) != everything {
                self.wishes.push((connection, Want { direction, policy: exchange::Policy::Everything }));
            }
        }
        self.pass_on(connection);
    }

    /// What the kernel side should send of a TLS connection: the exchanges' wishes are about plaintext, and their
    /// offsets are not known on the wire before they are reached.
    fn ask(&mut self, connection: ConnectionId) {
        use exchange::Policy;
        let Some(end) = self.connections.get_mut(&connection) else { return };
        let mut wanted = end.asked.map(|asked| asked.unwrap_or(Policy::Everything));
        for want in self.scratch.wishes.drain(..) {
            let wanted = &mut wanted[usize::from(want.direction == Direction::Send)];
            *wanted = match want.policy {
                Policy::Nothing => Policy::Nothing,
                // Of a body the records' headers. It is longer on the wire than inside, never shorter.
                Policy::From { offset } if end.layer.is_measured(want.direction) => {
                    Policy::Records { offset }
                }
                Policy::From { .. } => Policy::FirstBlock,
                _ => Policy::Everything,
            };
        }
        match end.layer.state() {
            tls::State::Hopeless => wanted = [Policy::Nothing; 2],
            // Its calls say how the socket is set and on whose behalf they are, its bytes nothing.
            tls::State::Probed => wanted = [Policy::FirstBlock; 2],
            _ => {}
        }
        for (index, direction) in [Direction::Receive, Direction::Send].into_iter().enumerate() {
            if end.asked[index] != Some(wanted[index]) {
                end.asked[index] = Some(wanted[index]);
                self.scratch.wishes.push(Want { direction, policy: wanted[index] });
            }
        }
    }

    /// A connection is over: so are its session's secrets here.
    pub(super) fn end_layer(&mut self, connection: ConnectionId, end: &mut End) {
        end.layer.close();
        if let (Some(probed), Some(party)) = (end.clear, end.layer.party()) {
            self.tls.over.push((probed.session, probed.process.pid, party));
        }
        if let Some(random) = end.hello.take() {
            self.tls.keys.closed(&random, connection);
        }
    }
}
