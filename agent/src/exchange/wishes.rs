//! What the kernel side should send of a connection: a pure function of what the parser waits for.
//!
//! A wish is an optimisation: it takes effect late, or never, and nothing may be concluded from having
//! asked. What comes of it are gaps with positions, and the parsers follow those.

use super::{Policy, Want};
use crate::identity::Direction;
use crate::protocol::http1::Awaits;

/// What was asked for last, so that a wish is made only when it changes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wishes {
    pub receive: Policy,
    pub send: Policy,
}

impl Default for Wishes {
    fn default() -> Self {
        Self { receive: Policy::Heads, send: Policy::Heads }
    }
}

impl Wishes {
    /// What was asked for last.
    pub fn last(&self, direction: Direction) -> Policy {
        match direction {
            Direction::Receive => self.receive,
            Direction::Send => self.send,
        }
    }

    /// Asks for this, if it is not what was asked for last.
    pub fn ask(&mut self, direction: Direction, policy: Policy, wants: &mut Vec<Want>) {
        let last = match direction {
            Direction::Receive => &mut self.receive,
            Direction::Send => &mut self.send,
        };
        if *last != policy {
            *last = policy;
            wants.push(Want { direction, policy });
        }
    }
}

/// What to send of messages outside of bodies that we follow.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Capture {
    /// Their heads.
    Heads,
    /// All of them: what the limits of [`Policy::Heads`] cut has already cost us chunk framing.
    Everything,
}

/// The right policy for a direction whose next byte is `next` and whose parser awaits this.
pub(super) fn policy(awaits: Awaits, next: u64, last: Policy, capture: Capture) -> Policy {
    match awaits {
        Awaits::Body(left) | Awaits::Chunk(left) if left > WORTH_SILENCE => silence(next, left, last),
        // Framing comes soon, and at any place.
        Awaits::Chunk(_) | Awaits::ChunkFraming => Policy::Everything,
        // Each call must show itself: the last byte's time is the end of the response.
        Awaits::Close => Policy::FirstBlock,
        Awaits::Nothing => Policy::Nothing,
        Awaits::Head | Awaits::Body(_) | Awaits::Resync => match (capture, last) {
            // Behind its offset it means the same, as long as positions modulo 2³² cannot mistake it.
            (Capture::Heads, Policy::From { offset })
                if offset <= next && next - offset < MAX_SILENCE / 2 =>
            {
                last
            }
            (Capture::Heads, _) => Policy::Heads,
            (Capture::Everything, _) => Policy::Everything,
        },
    }
}

/// Nothing until the body's end. A silence that was asked for and still lasts is left as it is.
fn silence(next: u64, left: u64, last: Policy) -> Policy {
    let end = next.saturating_add(left);
    match last {
        Policy::From { offset } if offset > next && offset <= end => last,
        _ => Policy::From { offset: end.min(next.saturating_add(MAX_SILENCE)) },
    }
}

/// How much of a body must be left for a silence to be worth a change of policy, in bytes: about as much as
/// the kernel copies in the time that the change takes.
const WORTH_SILENCE: u64 = 16 * 1024;

/// The longest silence, in bytes: the kernel side compares positions modulo 2³². A longer body renews it.
const MAX_SILENCE: u64 = 1 << 30;

#[cfg(test)]
mod tests {
    use super::*;

    fn heads(awaits: Awaits, next: u64, last: Policy) -> Policy {
        policy(awaits, next, last, Capture::Heads)
    }

    #[test]
    fn the_rest_of_a_long_body_is_silent_up_to_its_end() {
        assert_eq!(heads(Awaits::Body(20_000), 100, Policy::Heads), Policy::From { offset: 20_100 });
        assert_eq!(heads(Awaits::Chunk(20_000), 100, Policy::Everything), Policy::From { offset: 20_100 });
        assert_eq!(heads(Awaits::Body(16_384), 100, Policy::Heads), Policy::Heads);
    }

    #[test]
    fn a_silence_longer_than_positions_allow_is_renewed_when_it_ends_and_not_before() {
        let five_gib = 5 << 30;
        let first = heads(Awaits::Body(five_gib), 0, Policy::Heads);
        assert_eq!(first, Policy::From { offset: 1 << 30 });
        assert_eq!(heads(Awaits::Body(five_gib - 9), 9, first), first);
        let renewed = heads(Awaits::Body(five_gib - (1 << 30)), 1 << 30, first);
        assert_eq!(renewed, Policy::From { offset: 2 << 30 });
    }

    #[test]
    fn a_silence_that_is_over_means_heads_until_positions_could_mistake_it() {
        let over = Policy::From { offset: 1_000 };
        assert_eq!(heads(Awaits::Head, 1_000, over), over);
        assert_eq!(heads(Awaits::Head, 1_000 + (1 << 29), over), Policy::Heads);
        assert_eq!(policy(Awaits::Head, 1_000, over, Capture::Everything), Policy::Everything);
    }

    #[test]
    fn a_silence_that_lies_ahead_of_a_new_head_is_taken_back() {
        assert_eq!(heads(Awaits::Resync, 100, Policy::From { offset: 1_000 }), Policy::Heads);
    }
}
