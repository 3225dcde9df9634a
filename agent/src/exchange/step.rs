//! Are we in step: was every request and every response seen since nothing was outstanding? If not, what
//! would prove that a response answers a request?
//!
//! Out of step a response is believed to answer a request only if
//! 1. the request is the only one unanswered, and was completely moved before the response began;
//! 2. the response begins at the very offset that the responses' direction had reached when the request's
//!    head was complete (interim responses apart), so that nothing unseen lies between them;
//! 3. if requests went missing before it, something was moved since that could have answered them;
//! 4. the connection does not pipeline ([`Step::pipelines`]), or the request came after a silence;
//! 5. the records of the two stand in their true order: the calls of one thread do; those of two threads do
//!    if they are far apart, or if requests and responses have taken turns [`TURNS`] times before.
//!
//! Then we are in step again, by an assumption that no byte can prove: that a connection which has not been
//! seen to pipeline had no unseen request outstanding when that request was sent. The first request that
//! overlaps another one takes it back.
//!
//! Nothing here may pair by time alone: time only says how far apart two threads' records are.

use super::Role;
use crate::identity::{Moment, Monotonic};

/// What was seen before the first message.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Joined {
    /// Everything since the connection's birth, which is nothing.
    AtBirth,
    /// Not the beginning.
    Later,
    /// Not the beginning, and since we look, requests went missing.
    WithRequestsMissing,
}

/// What is known of the order of requests and responses.
#[derive(Debug)]
pub(super) struct Step {
    role: Role,
    in_step: bool,
    /// We are in step because of a proof that assumes that nothing overlaps.
    assumed: bool,
    /// The offset of the next byte of the responses' direction, and the call that moved the byte before it.
    reached: Option<(u64, Moment)>,
    /// Where the last response ended that was paired.
    answered: Option<u64>,
    /// Requests may be missing since.
    missing: bool,
    /// How often in a row a request and a response took turns, with nothing against them but that two
    /// threads made the records.
    turns: u8,
    /// When something was moved last, in any direction.
    moved: Option<Monotonic>,
    /// Requests that began in step.
    requests: u64,
    /// Requests that began while another one was unanswered.
    overlaps: u64,
    /// In step, a request that was not the first one began when all before it were answered.
    takes_turns: bool,
}

/// What is noted of a request when its head is complete.
#[derive(Clone, Copy, Debug)]
pub(super) struct Mark {
    /// In step: its response is found by counting.
    pub counted: bool,
    /// Where its response must begin.
    reached: Option<u64>,
    after_silence: bool,
    /// Its response may have been recorded before it, by another thread.
    overtaken: bool,
}

/// Whether a response answers a request.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Proof {
    /// It does.
    Given,
    /// It does, if the order of the records is that of the calls.
    Turn,
    /// That is not certain.
    Missing,
}

impl Step {
    pub fn new(role: Role, joined: Joined) -> Self {
        Self {
            role,
            in_step: joined == Joined::AtBirth,
            assumed: false,
            reached: None,
            answered: None,
            missing: joined == Joined::WithRequestsMissing,
            turns: 0,
            moved: None,
            requests: 0,
            overlaps: 0,
            takes_turns: false,
        }
    }

    pub fn is_in_step(&self) -> bool {
        self.in_step
    }

    /// A piece of a request was moved.
    pub fn note_request(&mut self, at: &Moment) {
        self.moved = self.moved.max(Some(at.time));
    }

    /// A piece of a response was moved, and now its direction has reached this offset.
    pub fn note_response(&mut self, at: &Moment, reached: u64) {
        self.moved = self.moved.max(Some(at.time));
        self.reached = Some((reached, *at));
    }

    /// Nothing lies between these offsets of the responses' direction: who has reached the one has reached the other.
    pub fn pass(&mut self, from: u64, to: u64) {
        if let Some((reached, _)) = self.reached.as_mut().filter(|(reached, _)| *reached == from) {
            *reached = to;
        }
        if self.answered == Some(from) {
            self.answered = Some(to);
        }
    }

    /// True if nothing was moved for so long that nothing can be outstanding.
    pub fn is_silent(&self, now: &Moment) -> bool {
        self.moved.is_some_and(|moved| now.time.since(moved) >= SETTLED)
    }

    /// A request began when no other was unanswered, and its head is complete.
    pub fn note_turn(&mut self) {
        self.takes_turns |= self.in_step && self.answered.is_some();
    }

    /// A request began while another one was unanswered. False if that takes back what was assumed: those
    /// that are open are not counted any more.
    #[must_use]
    pub fn note_overlap(&mut self) -> bool {
        self.overlaps += 1;
        let assumed = std::mem::take(&mut self.assumed);
        self.in_step &= !assumed;
        !assumed
    }

    /// What has to be remembered of a request whose head is complete.
    pub fn mark(&mut self, began: &Moment, after_silence: bool) -> Mark {
        // Out of step, taking turns shows nothing: it looks so with any number of unseen requests.
        self.requests += u64::from(self.in_step);
        let overtaken = match (self.role, &self.reached) {
            (Role::Client, Some((_, response))) => !are_ordered(response, began),
            (Role::Client, None) | (Role::Server, _) => false,
        };
        let reached = self.reached.map(|(reached, _)| reached);
        Mark { counted: self.in_step, reached, after_silence, overtaken }
    }

    /// Does a response that begins here and now answer this request, the only one that is unanswered,
    /// which was completely moved at that moment?
    pub fn proof(&self, mark: &Mark, ended: &Moment, start: u64, at: &Moment) -> Proof {
        if !mark.may_be_answered_at(start) || self.shows_unanswered(mark) {
            return Proof::Missing;
        }
        if self.pipelines() && !mark.after_silence {
            return Proof::Missing;
        }
        let ordered = match self.role {
            Role::Client => !mark.overtaken,
            Role::Server => are_ordered(ended, at),
        };
        match ordered || self.turns >= TURNS {
            true => Proof::Given,
            false => Proof::Turn,
        }
    }

    /// True if requests are missing before this one, and nothing was moved that could have answered them:
    /// they were unanswered when it was sent.
    pub fn shows_unanswered(&self, mark: &Mark) -> bool {
        self.missing && mark.reached == self.answered
    }

    /// A request that was not counted has found its response.
    pub fn note_proven(&mut self) {
        (self.in_step, self.assumed, self.missing, self.turns) = (true, true, false, 0);
    }

    /// A response that was paired has ended.
    pub fn note_answered(&mut self, offset: u64) {
        self.answered = Some(offset);
        self.missing &= !self.in_step;
    }

    /// A response was given to no request. `pipelined`: because it could have been for several.
    pub fn note_unpaired(&mut self, proof: Proof, pipelined: bool) {
        self.in_step = false;
        self.turns = if proof == Proof::Turn { self.turns.saturating_add(1) } else { 0 };
        self.overlaps += u64::from(pipelined);
    }

    /// Something unseen happened.
    pub fn lose(&mut self) {
        (self.in_step, self.turns) = (false, 0);
    }

    /// Requests may be missing.
    pub fn lose_requests(&mut self) {
        self.lose();
        self.missing = true;
    }

    /// Responses may be missing, while so many requests were unanswered.
    pub fn lose_responses(&mut self, unanswered: u64) {
        self.lose();
        // That they overlapped says only that a response is missing, unless it was so from the beginning.
        if self.takes_turns {
            self.overlaps = self.overlaps.saturating_sub(unanswered.saturating_sub(1));
        }
    }

    /// True if requests are sent before the last one was answered. (Two threads that move requests and
    /// responses of one connection look like that too, once in a long while.)
    fn pipelines(&self) -> bool {
        self.overlaps.saturating_mul(RARE) > self.requests
    }
}

impl Mark {
    /// False if something lies between this request and a response that begins there.
    pub fn may_be_answered_at(&self, start: u64) -> bool {
        self.reached.is_none_or(|reached| reached == start)
    }

    /// An interim response of these offsets came.
    pub fn pass_interim(&mut self, start: u64, end: u64) {
        if self.reached == Some(start) {
            self.reached = Some(end);
        }
    }
}

/// True if the records of two calls are certain to stand in the order in which their bytes were moved: the
/// calls of one thread follow each other; of two threads, one may have been preempted between moving its
/// bytes and making its record.
fn are_ordered(first: &Moment, second: &Moment) -> bool {
    (first.process, first.thread) == (second.process, second.thread)
        || second.time.since(first.time) >= PREEMPTED_FOR
}

/// Longer than a thread is preempted but in a machine that is hopelessly overloaded, in nanoseconds.
const PREEMPTED_FOR: u64 = 10_000_000;

/// How often requests and responses must have taken turns until the order of two threads' records is
/// believed: records that are late once in a hundred times are late three times in a row once in a million.
const TURNS: u8 = 2;

/// A silence after which nothing is outstanding on a connection that pipelines, in nanoseconds.
const SETTLED: u64 = 1_000_000_000;

/// A connection pipelines if more than one in so many requests overlapped.
const RARE: u64 = 64;
