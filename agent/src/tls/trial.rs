//! Guesses at secrets, tried on records: what a search through a program's memory has found, most of which is none.
//!
//! A key is made once of each guess, however many connections it is tried on, and a guess that has opened one is tried on no
//! other. It must never let out a guess that no tag has proven.

use super::cipher::Opener;
use super::record::Record;
use super::secret::Secrets;
use super::suite::Suite;

/// The guesses of one search.
#[derive(Debug, Default)]
pub struct Trial {
    guesses: Vec<Guess>,
}

#[derive(Debug)]
struct Guess {
    /// Which of the sessions that were looked for it is of; any if none.
    session: Option<usize>,
    secrets: Secrets,
    /// Its keys, once they were needed, for the suite with this number.
    openers: Option<(u16, Vec<Opener>)>,
}

impl Trial {
    /// Adds a guess at the secrets of this session, or of any.
    pub fn add(&mut self, session: Option<usize>, secrets: Secrets) {
        self.guesses.push(Guess { session, secrets, openers: None });
    }

    /// The guess of which one opens one of these records of this session as the first of its direction.
    pub(super) fn opening(
        &mut self,
        suite: &'static Suite,
        records: &[&Record],
        session: usize,
    ) -> Option<&Secrets> {
        let opening = self.guesses.iter_mut().filter(|guess| !records.is_empty() && guess.may_be(session));
        let mut opening = opening.filter_map(|guess| {
            if guess.openers.as_ref().is_none_or(|(number, _)| *number != suite.number) {
                let secrets = guess.secrets.traffic.iter();
                let secrets = secrets.filter_map(|secret| secret.prefix(suite.hash.length()));
                let openers = secrets.filter_map(|secret| Opener::of_traffic_secret(suite, secret)).collect();
                guess.openers = Some((suite.number, openers));
            }
            let openers = guess.openers.iter().flat_map(|(_, openers)| openers);
            let opens = |opener: &Opener| {
                records.iter().any(|record| opener.open(0, &record.header, &record.body).is_some())
            };
            let fits = openers.into_iter().any(opens);
            fits.then_some(guess)
        });
        let guess = opening.next()?;
        // The other direction of the same session may need it still.
        guess.session = Some(session);
        Some(&guess.secrets)
    }
}

impl Guess {
    fn may_be(&self, session: usize) -> bool {
        self.session.is_none_or(|of| of == session)
    }
}
