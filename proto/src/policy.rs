//! What the kernel side should send of a connection, one word per direction, and how it obeys.
//!
//! The agent writes words, the kernel side reads them; [`decide`] is the whole meaning of a word and is
//! tested here. A word must fit in 64 bits, because it is read and written in one piece while both
//! sides run.

/// Bytes taken at once; the unit in which a head is searched for its end.
pub const BLOCK: u32 = 4096;
/// The default, and the most, that is taken of one call.
pub const MAX_CAPTURE: u32 = 64 * 1024;
/// A silence reaches at most so far ahead, so that "before" stays decidable modulo 2³².
pub const MAX_SILENCE: u32 = 1 << 30;

/// How many connections can have a policy at once. A connection's slot is its id modulo this number;
/// two connections in one slot cost bytes (one falls back to [`Policy::Heads`]), never truth.
pub const SLOTS: u32 = 16 * 1024;

/// One connection's policies, as they lie in the map that agent and kernel share.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Slot {
    /// The connection for which the words are; any other connection ignores them. 0: nobody.
    pub connection: u64,
    /// The word for bytes that the process writes.
    pub send: u64,
    /// The word for bytes that the process reads.
    pub receive: u64,
}

/// What should be sent of one direction.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Policy {
    /// Of each call, blocks up to and including the first that holds an empty line.
    #[default]
    Heads,
    /// Of each call, the first block.
    FirstBlock,
    /// Of each call, everything up to the limit.
    Everything,
    /// No record of calls that end before this position; from it on, as [`Policy::Heads`].
    From(u32),
    /// No record at all.
    Nothing,
    /// HTTP/2: frame headers, whole frames but DATA, and of DATA the first bytes ([`crate::frames`]). A frame header begins
    /// at this position; one that is behind tells nothing. Where frames are not followed, as [`Policy::Everything`].
    Frames(u32),
    /// TLS: headers of records, and whole records but for long ones of application data that end before this position
    /// ([`crate::records`]). Where records are not followed, as [`Policy::Everything`].
    Records(u32),
}

impl Policy {
    /// The policy as a word.
    pub const fn encode(self) -> u64 {
        match self {
            Self::Heads => 0,
            Self::FirstBlock => 1,
            Self::Everything => 2,
            Self::From(position) => 3 | (position as u64) << 32,
            Self::Nothing => 4,
            Self::Frames(position) => 5 | (position as u64) << 32,
            Self::Records(position) => 6 | (position as u64) << 32,
        }
    }

    /// The policy that a word means; a word that means nothing is the default.
    pub const fn decode(word: u64) -> Self {
        match word & 0xff {
            1 => Self::FirstBlock,
            2 => Self::Everything,
            3 => Self::From((word >> 32) as u32),
            4 => Self::Nothing,
            5 => Self::Frames((word >> 32) as u32),
            6 => Self::Records((word >> 32) as u32),
            _ => Self::Heads,
        }
    }
}

/// What to do with one call.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Decision {
    /// Count its bytes, say nothing.
    Silent,
    /// Make a record.
    Record {
        /// Bytes at the start of the call that are not wanted.
        skip: u32,
        /// Bytes after them that are wanted at the most.
        take: u32,
        /// Stop after the first block that holds an empty line.
        until_empty_line: bool,
    },
}

/// What a policy says of a call that moved `total` bytes (at least 1), the first at `position`, if at
/// most `limit` bytes may be taken of a call.
pub const fn decide(policy: Policy, position: u32, total: u32, limit: u32) -> Decision {
    match policy {
        Policy::Nothing => Decision::Silent,
        Policy::FirstBlock => {
            Decision::Record { skip: 0, take: least(least(total, BLOCK), limit), until_empty_line: false }
        }
        Policy::Everything | Policy::Frames(_) | Policy::Records(_) => {
            Decision::Record { skip: 0, take: least(total, limit), until_empty_line: false }
        }
        Policy::Heads => Decision::Record { skip: 0, take: least(total, limit), until_empty_line: true },
        Policy::From(from) => {
            let ahead = from.wrapping_sub(position);
            if ahead == 0 || ahead > MAX_SILENCE {
                // Reached, or passed long ago.
                Decision::Record { skip: 0, take: least(total, limit), until_empty_line: true }
            } else if total < ahead {
                Decision::Silent
            } else {
                Decision::Record { skip: ahead, take: least(total - ahead, limit), until_empty_line: true }
            }
        }
    }
}

const fn least(a: u32, b: u32) -> u32 {
    if a < b { a } else { b }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_policy_survives_its_word() {
        for policy in [
            Policy::Heads,
            Policy::FirstBlock,
            Policy::Everything,
            Policy::From(0),
            Policy::From(u32::MAX),
            Policy::Nothing,
            Policy::Frames(0),
            Policy::Frames(u32::MAX),
            Policy::Records(0),
            Policy::Records(u32::MAX),
        ] {
            assert_eq!(Policy::decode(policy.encode()), policy);
        }
        assert_eq!(Policy::decode(250), Policy::Heads);
    }

    #[test]
    fn a_silence_ends_at_its_position_to_the_byte() {
        let from = Policy::From(1000);
        assert_eq!(decide(from, 0, 999, MAX_CAPTURE), Decision::Silent);
        let at_end = Decision::Record { skip: 1000, take: 0, until_empty_line: true };
        assert_eq!(decide(from, 0, 1000, MAX_CAPTURE), at_end);
        let across = Decision::Record { skip: 1000, take: 5, until_empty_line: true };
        assert_eq!(decide(from, 0, 1005, MAX_CAPTURE), across);
        let after = Decision::Record { skip: 0, take: 5, until_empty_line: true };
        assert_eq!(decide(from, 1000, 5, MAX_CAPTURE), after);
        assert_eq!(decide(from, 1001, 5, MAX_CAPTURE), after);
    }

    #[test]
    fn a_silence_works_across_the_wrap() {
        let from = Policy::From(10);
        assert_eq!(decide(from, u32::MAX - 9, 19, MAX_CAPTURE), Decision::Silent);
        let end = Decision::Record { skip: 20, take: 1, until_empty_line: true };
        assert_eq!(decide(from, u32::MAX - 9, 21, MAX_CAPTURE), end);
    }

    #[test]
    fn no_call_gives_more_than_the_limit() {
        for policy in [Policy::Heads, Policy::FirstBlock, Policy::Everything, Policy::From(3)] {
            match decide(policy, 3, u32::MAX, 100) {
                Decision::Record { take, .. } => assert_eq!(take, 100),
                Decision::Silent => panic!("{policy:?}"),
            }
        }
    }
}
