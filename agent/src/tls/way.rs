//! One direction of a session: from clear records to opened ones.
//!
//! ```text
//!            first encrypted record            a tag fits
//!   Clear ──────────────────────────▶ Sealed ────────────▶ Open ─▶ Open (KeyUpdate)
//!                                       │ too many refused   │ too many refused
//!                                       └──▶ Dead ◀──────────┘   new secrets ─▶ Sealed
//! ```
//! It must never yield plaintext under a key and a number that no tag has proven.

use super::cipher::{ON_TRUST, Opened, Opener};
use super::handshake::Reader;
use super::record::{Framer, Record};
use super::suite::Suite;

/// Records that may be refused in a row before a direction is given up, until other secrets are known.
/// A handshake of TLS 1.3 has a handful under another key, long certificates some more.
const MAX_REFUSED: u32 = 64;

/// How many records before application data may be sealed under handshake keys without having been tried.
const HANDSHAKE_RECORDS: u64 = 8;

/// How many records a session that is older than we are may have sent, where numbers must be tried.
const MAX_AGE: u64 = 4096;

/// How many numbers are tried after a gap, at the most.
const MAX_NUMBERS: u64 = 1024;

/// How many bytes one search may go through, and all those for the number of a session of unknown age together: what a tag
/// costs grows with the record.
const MAX_SEARCHED: u64 = 4 << 20;

/// What trying a number costs beside the record's own bytes, in bytes: the keys of a tag.
const COST: u64 = 64;

/// The shortest record of application data, header included: what a gap may consist of.
const SHORTEST: u64 = 22;

/// One direction.
#[derive(Debug, Default)]
pub(super) struct Way {
    pub framer: Option<Framer>,
    pub reader: Reader,
    pub epoch: Epoch,
    /// A ChangeCipherSpec came in clear.
    pub changed: bool,
    /// How many of its records wait.
    pub waiting: usize,
    /// The number of the next record; while sealed, how many sealed records were passed by.
    pub number: u64,
    /// Bytes that are in no record since the last one that was proven; the number is not certain.
    torn: u64,
    refused: u32,
    /// Bytes that were gone through in vain for a number of which nothing is known.
    searched: u64,
    /// It was open before.
    pub proven: bool,
    /// Application data came out.
    pub data: bool,
}

#[derive(Debug, Default)]
pub(super) enum Epoch {
    /// Records go over the wire as they are.
    #[default]
    Clear,
    /// They are encrypted, and no key is proven.
    Sealed,
    /// They are encrypted under this key.
    Open(Box<Opener>),
    /// No key fits.
    Dead,
}

/// What became of a record.
pub(super) enum Tried {
    /// Opened: its content type, its plaintext, and how much of that is missing at the end.
    Opened { kind: u8, plaintext: Vec<u8>, missing: u64, trusted: bool },
    /// Under another key: of the handshake, as far as can be told.
    Handshake,
    /// No key fits.
    Refused,
    /// Not enough of it is here.
    Unproven,
    /// None of these keys is its own: what was found beside the session's random bytes may have been another session's, which
    /// it resumes. It is to be tried again with the next.
    Later,
}

/// How [`Way::seek`] numbers records.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Numbers {
    /// From the first sealed record on: TLS 1.2.
    Exact,
    /// From one of the first sealed records on: TLS 1.3 seals the handshake under another key.
    AfterHandshake,
    /// Not known at all: the session is older than we are.
    Any,
}

/// What one search has brought, for the ledger.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(super) struct Found {
    pub resynchronised: bool,
    pub key_update: bool,
}

impl Way {
    /// Encrypted records begin.
    pub fn seal(&mut self) {
        (self.epoch, self.number, self.torn, self.refused) = (Epoch::Sealed, 0, 0, 0);
    }

    /// There are new secrets to try.
    pub fn revive(&mut self) {
        if matches!(self.epoch, Epoch::Dead) {
            self.epoch = Epoch::Sealed;
            self.refused = 0;
        }
    }

    /// So many bytes were in no record.
    pub fn lose(&mut self, bytes: u64) {
        self.torn = self.torn.saturating_add(bytes.max(1));
        self.reader.lose();
    }

    /// Tries the candidates on a record whose key is not known.
    pub fn seek(&mut self, record: &Record, candidates: Vec<Opener>, numbers: Numbers) -> Tried {
        let passed = self.number;
        self.number = self.number.saturating_add(1);
        if record.missing.is_some() {
            return Tried::Unproven;
        }
        let lost = (self.torn / SHORTEST).min(MAX_NUMBERS);
        let tries: Vec<u64> = match numbers {
            Numbers::Exact => (passed..=passed + lost).collect(),
            Numbers::Any => (0..=MAX_AGE).collect(),
            Numbers::AfterHandshake => {
                let near = passed.saturating_sub(HANDSHAKE_RECORDS)..=passed + lost;
                (0..=passed.min(HANDSHAKE_RECORDS)).chain(near.filter(|n| *n > HANDSHAKE_RECORDS)).collect()
            }
        };
        let cost = record.moved() + COST;
        for opener in candidates {
            let left = MAX_SEARCHED.saturating_sub(self.searched);
            let most = (left / cost).max(1).min(tries.len() as u64);
            if let Some((number, opened)) =
                numbered(&opener, record, tries.iter().copied().take(most as usize))
            {
                (self.number, self.torn, self.refused, self.proven) = (number.saturating_add(1), 0, 0, true);
                (self.searched, self.epoch) = (0, Epoch::Open(Box::new(opener)));
                return Tried::opened(opened.kind, opened.plaintext);
            }
            if numbers == Numbers::Any && !opener.tells_numbers() {
                self.searched = self.searched.saturating_add(most * cost);
            }
        }
        if numbers == Numbers::Exact && self.torn == 0 {
            self.number = passed;
            return Tried::Later;
        }
        self.refused += 1;
        if self.refused > MAX_REFUSED {
            self.epoch = Epoch::Dead;
            return Tried::Refused;
        }
        match numbers {
            Numbers::Exact | Numbers::Any => Tried::Refused,
            Numbers::AfterHandshake => Tried::Handshake,
        }
    }

    /// Opens a record under the proven key.
    pub fn open(&mut self, record: &Record, suite: &Suite) -> (Tried, Found) {
        let mut found = Found::default();
        let Epoch::Open(opener) = &self.epoch else { return (Tried::Refused, found) };
        if record.missing.is_some() {
            if self.torn > 0 || record.found {
                self.torn = self.torn.saturating_add(1);
                return (Tried::Unproven, found);
            }
            let number = self.number;
            self.number += 1;
            let Some(plaintext) = opener.prefix(number, &record.body, record.length()) else {
                return (Tried::Unproven, found);
            };
            let length = opener.plaintext_length(record.length());
            let missing = length.saturating_sub(plaintext.len()) as u64;
            let kind = if opener.explicit() > 0 { record.kind() } else { ON_TRUST };
            return (Tried::Opened { kind, plaintext, missing, trusted: true }, found);
        }
        let number = self.number;
        if let Some(opened) = opener.open(number, &record.header, &record.body) {
            found.resynchronised = self.torn > 0;
            (self.number, self.torn, self.refused) = (number + 1, 0, 0);
            return (Tried::opened(opened.kind, opened.plaintext), found);
        }
        let mut most = (MAX_SEARCHED / (record.moved() + COST)).clamp(1, MAX_NUMBERS);
        most = most.min(self.torn.div_ceil(SHORTEST) + u64::from(self.torn > 0));
        let later = number.saturating_add(1)..=number.saturating_add(most);
        if self.torn > 0
            && let Some((number, opened)) = numbered(opener, record, later)
        {
            (self.number, self.torn, self.refused) = (number.saturating_add(1), 0, 0);
            found.resynchronised = true;
            return (Tried::opened(opened.kind, opened.plaintext), found);
        }
        // A KeyUpdate that was not seen.
        if let Some(next) = opener.next(suite)
            && let Some((number, opened)) = numbered(&next, record, 0..=most)
        {
            (self.number, self.torn, self.refused) = (number.saturating_add(1), 0, 0);
            self.epoch = Epoch::Open(Box::new(next));
            found.key_update = true;
            return (Tried::opened(opened.kind, opened.plaintext), found);
        }
        self.refused += 1;
        self.torn = self.torn.saturating_add(record.moved());
        if self.refused > MAX_REFUSED {
            self.epoch = Epoch::Dead;
        }
        (Tried::Refused, found)
    }

    /// How certain the next number is, to be put back if a record is to be tried again.
    pub fn certainty(&self) -> (u64, u32) {
        (self.torn, self.refused)
    }

    /// Puts it back.
    pub fn restore(&mut self, (torn, refused): (u64, u32)) {
        (self.torn, self.refused) = (torn, refused);
    }

    /// Turns to another secret whose first record this is.
    pub fn turn(&mut self, record: &Record, candidates: Vec<Opener>) -> Option<Tried> {
        if record.missing.is_some() {
            return None;
        }
        for opener in candidates {
            if let Some(opened) = opener.open(0, &record.header, &record.body) {
                (self.number, self.torn, self.refused) = (1, 0, 0);
                self.epoch = Epoch::Open(Box::new(opener));
                return Some(Tried::opened(opened.kind, opened.plaintext));
            }
        }
        None
    }

    /// The next generation's key, after a KeyUpdate.
    pub fn update(&mut self, suite: &Suite) -> bool {
        let Epoch::Open(opener) = &self.epoch else { return false };
        let Some(next) = opener.next(suite) else { return false };
        (self.epoch, self.number) = (Epoch::Open(Box::new(next)), 0);
        true
    }
}

/// Opens a record under a key whose number is not certain: that which it tells if it can, and not below the first of these,
/// else one of these.
fn numbered(opener: &Opener, record: &Record, mut tries: impl Iterator<Item = u64>) -> Option<(u64, Opened)> {
    let open = |number| Some((number, opener.open(number, &record.header, &record.body)?));
    if opener.tells_numbers() {
        let number = opener.number(&record.header, &record.body)?;
        return tries.next().filter(|&first| first <= number).and_then(|_| open(number));
    }
    tries.find_map(open)
}

impl Tried {
    fn opened(kind: u8, plaintext: Vec<u8>) -> Self {
        Self::Opened { kind, plaintext, missing: 0, trusted: false }
    }
}
