//! Secrets of sessions: kept as long as their session, shown to nobody.
//!
//! A [`Secret`] is overwritten when it is dropped, has no `Display`, and its `Debug` says nothing. It must
//! never be copied into anything that outlives it, and never leave the agent's memory.

use std::fmt;

use zeroize::Zeroizing;

use super::suite::Version;

/// The random bytes of a ClientHello: what ties a session in a program's memory to bytes on a socket.
/// They are no secret, they go over the wire in clear.
pub type Random = [u8; 32];

/// The longest secret that TLS has, in bytes: a SHA-384 traffic secret, or a master secret.
pub const MAX_SECRET: usize = 64;

/// Some secret bytes.
#[derive(Clone)]
pub struct Secret(Zeroizing<Vec<u8>>);

impl Secret {
    /// A copy of these bytes, at most [`MAX_SECRET`] of them.
    pub fn new(bytes: &[u8]) -> Self {
        let mut kept = Zeroizing::new(Vec::with_capacity(MAX_SECRET));
        kept.extend_from_slice(bytes.get(..MAX_SECRET).unwrap_or(bytes));
        Self(kept)
    }

    /// True if it is these bytes.
    pub fn is(&self, bytes: &[u8]) -> bool {
        self.0.as_slice() == bytes
    }

    /// All of it.
    pub(super) fn bytes(&self) -> &[u8] {
        &self.0
    }

    /// It, and these bytes behind it.
    pub(super) fn followed_by(&self, more: &[u8]) -> Self {
        // With room for all: what grows is moved, and left where it was.
        let mut both = Self::new(&self.0);
        let room = MAX_SECRET.saturating_sub(both.0.len());
        both.0.extend(more.iter().take(room));
        both
    }

    /// The first bytes of it; none if it is shorter, or if they are all 0, which no secret is.
    pub fn prefix(&self, length: usize) -> Option<&[u8]> {
        self.0.get(..length).filter(|bytes| bytes.iter().any(|&byte| byte != 0))
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}

/// What was found of a session in its program's memory. Which traffic secret is whose need not be known:
/// the tags of the records tell.
#[derive(Clone, Debug, Default)]
pub struct Secrets {
    /// TLS 1.3: application traffic secrets, each perhaps longer than its hash.
    pub traffic: Vec<Secret>,
    /// TLS 1.2: the master secret, and others that it might be.
    pub master: Vec<Secret>,
    /// Keys of AES-GCM, each of one direction, with its IV (TLS 1.3) or salt (TLS 1.2) behind it: what is found without a secret.
    pub keys: Vec<Secret>,
    /// Secrets that lie side by side, traffic secrets of both directions among them, and that are as likely another session's: none is
    /// one of this before a record proves it. The first tells one guess from another.
    pub guesses: Vec<Vec<Secret>>,
}

/// How many of each kind are kept for one session: both directions of two generations, or two guesses of four.
pub const MAX_CANDIDATES: usize = 8;

/// How many guesses are kept: what the stack has of other sessions at some calls.
const MAX_GUESSES: usize = 16;

impl Secrets {
    /// True if it is enough to go on with: of TLS 1.3 both directions are needed, or the records of one would be taken for the
    /// handshake's; those of TLS 1.2 wait for their own.
    pub(super) fn is_enough(&self, version: Version) -> bool {
        match version {
            Version::Tls13 => self.traffic.len() + self.keys.len() >= 2,
            Version::Tls12 => !self.master.is_empty() || !self.keys.is_empty(),
        }
    }

    /// True if nothing of it is more than a guess.
    pub(super) fn is_guessed(&self) -> bool {
        self.traffic.is_empty() && self.master.is_empty() && self.keys.is_empty()
    }

    /// With guesses taken for what they may be: where tags decide of each whether it is.
    pub(super) fn all(&self) -> Self {
        let traffic = self.guesses.iter().flatten().chain(&self.traffic).cloned().collect();
        Self { traffic, master: self.master.clone(), keys: self.keys.clone(), guesses: Vec::new() }
    }

    /// Puts guesses that are known behind all others: they go last.
    pub(super) fn renew(&mut self, guesses: Self) {
        let renewed = |known: &Vec<Secret>| guesses.guesses.iter().any(|guess| is_same(known, guess));
        self.guesses.retain(|known| !renewed(known));
        self.guesses.extend(guesses.guesses);
    }

    /// Adds what is not known yet; the oldest goes if there are too many. False if nothing was new.
    pub fn add(&mut self, other: &Self) -> bool {
        let mut new = false;
        let Self { traffic, master, keys, guesses } = other;
        for guess in guesses {
            if !guess.is_empty() && !self.guesses.iter().any(|known| is_same(known, guess)) {
                if self.guesses.len() >= MAX_GUESSES {
                    self.guesses.remove(0);
                }
                self.guesses.push(guess.clone());
                new = true;
            }
        }
        for (mine, others) in
            [(&mut self.traffic, traffic), (&mut self.master, master), (&mut self.keys, keys)]
        {
            for secret in others {
                if secret.0.iter().all(|&byte| byte == 0) || mine.iter().any(|known| known.0 == secret.0) {
                    continue;
                }
                if mine.len() >= MAX_CANDIDATES {
                    mine.remove(0);
                }
                mine.push(secret.clone());
                new = true;
            }
        }
        new
    }
}

/// Whether two guesses begin alike.
fn is_same(one: &[Secret], other: &[Secret]) -> bool {
    one.first().zip(other.first()).is_some_and(|(one, other)| one.is(other.bytes()))
}

/// How far below its caller a thread's stack is overwritten, in bytes: deeper than secrets are ever passed.
const DEPTH: usize = 64 << 10;

/// Overwrites what calls that are over have left on this thread's stack. Secrets are passed through it, on their way from the
/// kernel and within the ciphers, and what is left of a call is overwritten by the next that is as deep, or by none.
#[inline(never)]
pub fn overwrite_stack() {
    let below = [0u8; DEPTH];
    std::hint::black_box(&below);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_shows_nothing_of_itself() {
        let secrets = Secrets { traffic: vec![Secret::new(&[0xab; 48])], ..Secrets::default() };
        assert!(!format!("{secrets:?}").contains("171"), "{secrets:?}");
        assert_eq!(format!("{:?}", secrets.traffic), "[Secret]");
    }

    #[test]
    fn guesses_are_kept_apart_and_bounded() {
        let pair = |byte| vec![Secret::new(&[byte; 32]), Secret::new(&[!byte; 32])];
        let mut secrets = Secrets::default();
        for byte in 1..=2 * MAX_GUESSES as u8 {
            let guess = Secrets { guesses: vec![pair(byte)], ..Secrets::default() };
            assert!(secrets.add(&guess) && !secrets.add(&guess));
        }
        assert_eq!((secrets.guesses.len(), secrets.is_guessed()), (MAX_GUESSES, true));
        assert!(!secrets.is_enough(Version::Tls13));
        assert_eq!(secrets.all().traffic.len(), 2 * MAX_GUESSES);
    }

    #[test]
    fn bytes_that_are_all_zero_are_no_secret() {
        let mut secrets = Secrets::default();
        assert!(!secrets.add(&Secrets { traffic: vec![Secret::new(&[0; 48])], ..Secrets::default() }));
        assert!(Secret::new(&[0; 48]).prefix(32).is_none());
        let mut one = [0; 48];
        one[31] = 1;
        assert!(Secret::new(&one).prefix(32).is_some());
    }

    #[test]
    fn no_more_candidates_are_kept_than_the_bound() {
        let mut secrets = Secrets::default();
        for byte in 1..=9 {
            assert!(secrets.add(&Secrets { traffic: vec![Secret::new(&[byte; 48])], ..Secrets::default() }));
        }
        assert_eq!(secrets.traffic.len(), MAX_CANDIDATES);
        assert_eq!(secrets.traffic.last().and_then(|secret| secret.prefix(1)), Some(&[9][..]));
    }
}
