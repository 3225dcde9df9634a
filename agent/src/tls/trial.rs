//! Guesses at secrets and keys, tried on records: what a search through a program's memory has found, most of which is none.
//!
//! A key is made once of each guess, however many connections it is tried on, and a guess that has opened one is tried on no
//! other. It must never let out a guess that no tag has proven.

use super::cipher::Opener;
use super::nonce::Gcm;
use super::record::{HANDSHAKE, Record};
use super::secret::Secret;
use super::suite::{Suite, Version};

/// The guesses of one search.
#[derive(Debug, Default)]
pub struct Trial {
    guesses: Vec<Guess>,
    keys: Vec<Key>,
}

#[derive(Debug)]
struct Guess {
    /// Which of the sessions that were looked for it is of; any if none.
    session: Option<usize>,
    traffic: Vec<Secret>,
    /// The key of each, once they were needed, for the suite with this number.
    openers: Option<(u16, Vec<Option<Opener>>)>,
}

/// A key of AES, of any session or of none.
struct Key {
    key: Secret,
    prover: Gcm,
    /// It has opened a record.
    taken: bool,
}

/// A record that waits for a key of GCM, for [`Trial::proving`].
#[derive(Clone, Copy, Debug)]
pub(super) struct Sealed<'a> {
    /// It, if it is whole.
    pub record: Option<&'a Record>,
    /// Its number: exact in TLS 1.2, and not known in TLS 1.3.
    pub number: u64,
}

/// Bytes of a tag of GCM.
const TAG: usize = 16;

/// Records on which all keys are tried have no longer bodies: what a trial costs grows with them.
const MAX_TRIED: usize = 4096;

impl Trial {
    /// Adds a guess at the traffic secrets of this session, or of any.
    pub fn add(&mut self, session: Option<usize>, traffic: Vec<Secret>) {
        self.guesses.push(Guess { session, traffic, openers: None });
    }

    /// Adds a key of AES, of 16 or 32 bytes.
    pub fn add_key(&mut self, key: &[u8]) {
        if let Some(prover) = Gcm::new(key) {
            self.keys.push(Key { key: Secret::new(key), prover, taken: false });
        }
    }

    /// The guess of which one opens one of these records of this session as the first of its direction, and which of it.
    pub(super) fn opening(
        &mut self,
        suite: &'static Suite,
        records: &[&Record],
        session: usize,
    ) -> Option<(&[Secret], usize)> {
        if records.is_empty() {
            return None;
        }
        // First those that have opened the other direction, or are this session's anyway.
        let may_be = self.guesses.iter_mut().filter(|guess| guess.session.is_none_or(|of| of == session));
        let (own, any): (Vec<_>, Vec<_>) = may_be.partition(|guess| guess.session.is_some());
        let (guess, opened) = own.into_iter().chain(any).find_map(|guess| {
            if guess.openers.as_ref().is_none_or(|(number, _)| *number != suite.number) {
                let opener =
                    |secret: &Secret| Opener::of_traffic_secret(suite, secret.prefix(suite.hash.length())?);
                guess.openers = Some((suite.number, guess.traffic.iter().map(opener).collect()));
            }
            let (_, openers) = guess.openers.as_ref()?;
            let opens = |opener: &Opener| {
                records.iter().any(|record| opener.open(0, &record.header, &record.body).is_some())
            };
            let opened = openers.iter().position(|opener| opener.as_ref().is_some_and(opens))?;
            Some((guess, opened))
        })?;
        // The other direction of the same session may need it still.
        guess.session = Some(session);
        Some((&guess.traffic, opened))
    }

    /// The key that opens these records of one direction, which wait in this order, with what makes nonces of it: the salt in TLS 1.2,
    /// the IV in TLS 1.3.
    pub(super) fn proving(&mut self, suite: &'static Suite, records: &[Sealed<'_>]) -> Option<Secret> {
        let short = |sealed: &&Sealed<'_>| sealed.record.is_some_and(|record| record.body.len() <= MAX_TRIED);
        // The first of TLS 1.2 is short and has the key already; in TLS 1.3 the first are the handshake's.
        let tried = match suite.version {
            Version::Tls12 => records.iter().find(short),
            Version::Tls13 => records.iter().rev().find(short),
        }?;
        let right = |key: &&mut Key| !key.taken && key.key.bytes().len() == suite.bulk.key_length();
        let mut keys = self.keys.iter_mut().filter(right);
        let (key, found) = keys.find_map(|key| {
            let nonce = key.nonce(suite, tried)?;
            let found = match suite.version {
                Version::Tls12 => key.with(nonce.get(..4)?),
                Version::Tls13 => key.with(&key.first(suite, records)?),
            };
            Some((key, found))
        })?;
        key.taken = true;
        Some(found)
    }
}

impl Key {
    /// The nonce of a record, if this is its key and it holds what that of the data seals.
    fn nonce(&self, suite: &Suite, sealed: &Sealed<'_>) -> Option<[u8; 12]> {
        let Record { header, body, .. } = sealed.record?;
        if suite.version == Version::Tls13 {
            let (sealed, tag) = body.split_at_checked(body.len().checked_sub(TAG)?)?;
            let nonce = self.prover.nonce(header, sealed, tag)?;
            // As the first record with this for an IV.
            let opener = Opener::of_key(suite, self.with(&nonce).bytes())?;
            let opened = opener.open(0, header, body)?;
            // RFC 8446 §4: after the handshake come tickets, requests for a certificate, updates of keys. All else is sealed
            // with its own keys.
            let is_after = opened.kind != HANDSHAKE || matches!(opened.plaintext.first(), Some(4 | 13 | 24));
            return is_after.then_some(nonce);
        }
        let (explicit, body) = body.split_at_checked(8)?;
        let (sealed_bytes, tag) = body.split_at_checked(body.len().checked_sub(TAG)?)?;
        let length = u16::try_from(sealed_bytes.len()).ok()?.to_be_bytes();
        let [kind, major, minor, ..] = *header;
        let mut aad = [0u8; 13];
        let head = [kind, major, minor, length[0], length[1]];
        for (to, from) in aad.iter_mut().zip(sealed.number.to_be_bytes().into_iter().chain(head)) {
            *to = from;
        }
        self.prover.nonce(&aad, sealed_bytes, tag).filter(|nonce| nonce.ends_with(explicit))
    }

    /// The nonce of the first record under this key, which is the IV of TLS 1.3: the one before it is under another key, and the
    /// one behind it, if there is one, has the number 1.
    fn first(&self, suite: &Suite, records: &[Sealed<'_>]) -> Option<[u8; 12]> {
        let mut under = records.iter().map(|sealed| (sealed.record.is_some(), self.nonce(suite, sealed)));
        let mut whole_before = false;
        let iv = loop {
            match under.next()? {
                (_, Some(iv)) => break iv,
                (is_whole, None) => whole_before = is_whole,
            }
        };
        let mut second = iv;
        second[11] ^= 1;
        let goes_on = under.next().is_none_or(|(is_whole, nonce)| !is_whole || nonce == Some(second));
        (whole_before && goes_on).then_some(iv)
    }

    fn with(&self, more: &[u8]) -> Secret {
        self.key.followed_by(more)
    }
}

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Key")
    }
}
