//! Sessions whose secrets nobody has handed over: when to search the memory of which process for them, and whether what
//! was found opens them.
//!
//! The search has a thread of its own (`discover::searching`). A connection that waits must never be kept for longer than
//! the last search can take.

use std::collections::HashSet;

use super::behind::Behind;
use crate::discover::searching;
use crate::discover::secrets::{BLOCK, Guess, Schedules};
use crate::identity::{ConnectionId, Monotonic, ProcessKey};
use crate::probe::sessions::Sessions;
use crate::{stream, tls};

/// When the secrets of a session are searched for, nanoseconds after what could prove them first waited, and after the search
/// before.
const SEARCHES: [u64; 4] = [3_000_000, 50_000_000, 500_000_000, 5_000_000_000];
/// When they are in a program whose sessions are looked into at their calls: a handshake among many may take long.
const PLANNED: u64 = 150_000_000;
/// How long a connection that is over is kept at the most, nanoseconds, for a last search at each end: what a program has allocated
/// is not overwritten at once.
const AFTERLIFE: u64 = 6_000_000_000;
/// Connections whose secrets are searched for at once. Beyond, they wait as without a search.
pub(super) const MAX_KEYLESS: usize = 1_024;

/// A connection whose secrets are waited for.
pub(super) struct Keyless {
    pub(super) connection: ConnectionId,
    /// When they were first missing, or last searched for.
    pub(super) since: Monotonic,
    /// How often that was done.
    pub(super) searched: usize,
    /// A search is under way, and has not been answered.
    pub(super) asked: bool,
    /// That was the last: the connection is over.
    pub(super) last: bool,
    /// It is over.
    pub(super) closed: Option<stream::Closed>,
}

impl Behind {
    /// Asks for searches for the secrets of connections that have waited for long enough, and lets go of those that are over and
    /// have waited for long enough for that.
    pub(super) fn search(
        &mut self,
        searcher: &mut searching::Searcher,
        sessions: Option<&Sessions>,
        now: Monotonic,
    ) {
        // Of a session's two ends one is searched at a time: what is found at one serves both.
        let under_way = self.tls.keyless.iter().filter(|keyless| keyless.asked);
        let under_way = under_way.filter_map(|keyless| self.connections.get(&keyless.connection)?.hello);
        let mut under_way: HashSet<tls::Random> = under_way.collect();
        // And no end is let go of while the other may still be searched.
        let hopeful = self.tls.keyless.iter().filter(|keyless| !keyless.last);
        let hopeful = hopeful.filter_map(|keyless| self.connections.get(&keyless.connection)?.hello);
        let hopeful: HashSet<tls::Random> = hopeful.collect();
        for mut keyless in std::mem::take(&mut self.tls.keyless) {
            let processes = self.processes(keyless.connection);
            let Some(end) = self.connections.get_mut(&keyless.connection) else { continue };
            let (state, random) = (end.layer.state(), end.hello);
            let searched_now = random.is_some_and(|random| under_way.contains(&random));
            let waits = state == tls::State::Waiting;
            let version = end.layer.version();
            let schedules = match end.layer.wants_key() {
                true => Schedules::Wanted,
                false => Schedules::Unwanted,
            };
            if let Some(closed) = &keyless.closed
                && (!waits
                    || now.since(closed.time) > AFTERLIFE
                    || !searched_now && random.is_none_or(|random| !hopeful.contains(&random)))
            {
                self.close(keyless.connection, closed);
                continue;
            }
            if !waits || keyless.searched >= SEARCHES.len() && keyless.closed.is_none() {
                end.keyless = waits;
                continue;
            }
            let provable = end.layer.is_provable();
            let has_plan =
                |process: &ProcessKey| sessions.is_some_and(|all| all.has_plan(process.pid, version));
            let planned = processes.iter().flatten().any(has_plan);
            let delay = SEARCHES.get(keyless.searched).copied().unwrap_or(u64::MAX);
            let delay = if planned { delay.max(PLANNED) } else { delay };
            let last = keyless.closed.is_some();
            if !provable && !last {
                keyless.since = now;
            }
            if !searched_now
                && !keyless.last
                && (last || provable && now.since(keyless.since) >= delay)
                && let ([Some(process), _], Some(random)) = (processes, random)
                && self.may_look_into(process)
            {
                let connection = keyless.connection;
                let since = self.tls.keys.since(&random).unwrap_or_default();
                keyless.asked =
                    searcher.ask(searching::Ask { connection, process, random, since, schedules });
                if keyless.asked {
                    under_way.insert(random);
                }
                keyless.searched += 1;
                (keyless.since, keyless.last) = (now, last);
            } else if last && !searched_now {
                // There is nobody to ask.
                keyless.last = true;
            }
            self.tls.keyless.push(keyless);
        }
    }

    /// Tries what a search has found on the connections that it was made for; those that it opened, and where what did lies.
    pub(super) fn try_guesses(
        &mut self,
        answer: &searching::Answer,
        searcher: &mut searching::Searcher,
        now: Monotonic,
    ) -> Vec<(searching::Ask, Vec<u64>)> {
        let mut opened = Vec::new();
        let mut trial = tls::Trial::default();
        for guess in &answer.guesses {
            let traffic = guess.traffic.iter().map(|secret| tls::Secret::new(secret.as_slice())).collect();
            trial.add(guess.session, traffic);
        }
        answer.keys.iter().for_each(|key| trial.add_key(key));
        let answered: HashSet<ConnectionId> = answer.asks.iter().map(|ask| ask.connection).collect();
        for keyless in self.tls.keyless.iter_mut().filter(|keyless| answered.contains(&keyless.connection)) {
            (keyless.asked, keyless.since) = (false, now);
        }
        for (number, ask) in answer.asks.iter().enumerate() {
            let Some(end) = self.connections.get(&ask.connection) else { continue };
            if end.layer.state() != tls::State::Waiting || end.hello != Some(ask.random) {
                continue;
            }
            match end.layer.fits(&mut trial, number) {
                tls::Fits::Nothing => {}
                tls::Fits::OneDirection(guesses) => self.found(ask.random, &guesses, now),
                tls::Fits::Both { secrets, client } => {
                    searcher.opened();
                    self.found(ask.random, &secrets, now);
                    opened.extend(client.map(|client| (*ask, places(&answer.guesses, &client))));
                }
            }
        }
        opened
    }
}

/// Where this traffic secret lies: the client's, behind which is the server's.
fn places(guesses: &[Guess], client: &tls::Secret) -> Vec<u64> {
    let places = guesses.iter().flat_map(|guess| {
        let number = guess.traffic.iter().position(|secret| client.is(secret.as_slice()));
        number
            .into_iter()
            .flat_map(|number| guess.places.iter().map(move |place| place + (number * BLOCK) as u64))
    });
    places.collect()
}
