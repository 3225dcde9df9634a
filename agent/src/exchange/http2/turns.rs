//! Where frames begin, proved by turns: what can only come after something that went the other way.
//!
//! A chain of plausible frames (`protocol::http2::alignment`) may lie inside the payload of one frame: HTTP/2 in a tunnel.
//! If a chain leaves that payload unbroken, it goes on over a frame's true beginning and is true from there on. So the one
//! question is whether it is still inside, and that needs no length: **a frame's length is written before its payload, so
//! the payload is known by then, and holds no answer to what is asked later.**
//!
//! ```text
//!   answers:  ── an answer ───────────────── its answer ─────────────── its answer ──
//!                          ╲               ╱            ╲             ╱
//!   requests:               a request that               a request that
//!                           is made only now             is made only now         … TURNS times
//! ```
//! The direction of answers is true from the first such turn on, whatever the size of frames and however calls cut them,
//! unless a sender announces bytes that it does not have. That of requests is true because its streams are those which are
//! answered, one turn after another: streams of a tunnel have numbers of their own, and one answer to a stream that was
//! not asked begins the proof anew.
//!
//! When a request is *made*: one that is read, when its read is over, since nobody in the process has it before; one that is
//! written, when its call begins, which has no record. But a thread that made an earlier call has begun this one after it.
//!
//! It must never count an answer to what may have been asked before the last answer came, nor across a loss.

use crate::identity::{Direction, Moment, Monotonic, ThreadId};
use crate::protocol::http2::{Kind, Section};

/// How many turns prove it. One is enough for the direction of answers; the others are for that of requests, and for what
/// we did not think of.
const TURNS: u8 = 3;

/// How many requests may wait for an answer; of more the oldest are forgotten.
const MAX_ASKED: usize = 256;

/// How many threads are remembered; others' requests prove nothing.
const MAX_THREADS: usize = 16;

/// What is known of the turns of a connection.
#[derive(Debug, Default)]
pub(super) struct Turns {
    /// The direction of requests.
    requests: Option<Direction>,
    /// Requests without an answer, by stream.
    asked: Vec<Asked>,
    /// The first stream that was asked, or is not forgotten: those below it were asked before we looked.
    first: u32,
    /// The last stream that was asked.
    last: u32,
    /// When the last answer that counts was there.
    answered: Option<Monotonic>,
    /// Threads that have made a call since the first answer, and when its record was made.
    threads: Vec<(ThreadId, Monotonic)>,
    turns: u8,
}

#[derive(Debug)]
struct Asked {
    stream: u32,
    /// It was made after the first answer, and its record at this time.
    made: Option<Monotonic>,
}

impl Turns {
    /// Nothing was seen yet; requests go this way, if that is known.
    pub fn new(requests: Option<Direction>) -> Self {
        Self { requests, ..Self::default() }
    }

    /// The direction of requests, as it seems.
    pub fn requests(&self) -> Option<Direction> {
        self.requests
    }

    /// True if both directions are proven.
    pub fn are_proof(&self) -> bool {
        self.turns >= TURNS
    }

    /// A header section is complete; the call at `began` moved its first byte, the one at `at` its last.
    pub fn section(
        &mut self,
        direction: Direction,
        stream: u32,
        section: &Section,
        began: &Moment,
        at: &Moment,
    ) {
        let requests = match section.kind {
            Kind::Request => direction,
            Kind::Response => direction.opposite(),
            Kind::Bare => return,
        };
        let legal = *self.requests.get_or_insert(requests) == requests && !stream.is_multiple_of(2);
        match section.kind {
            Kind::Request if legal && stream > self.last => self.ask(direction, stream, began),
            Kind::Response if section.status.is_some_and(|status| status < 200) => {}
            Kind::Response if legal => self.answer(stream, at),
            Kind::Request | Kind::Response | Kind::Bare => self.restart(),
        }
    }

    fn ask(&mut self, direction: Direction, stream: u32, began: &Moment) {
        self.last = stream;
        let begun_after =
            |(thread, time): &(ThreadId, Monotonic)| *thread == began.thread && *time < began.time;
        let made = match direction {
            Direction::Receive => true,
            Direction::Send => self.threads.iter().any(begun_after),
        };
        if self.first == 0 {
            self.first = stream;
        }
        self.asked.push(Asked { stream, made: made.then_some(began.time) });
        if self.asked.len() > MAX_ASKED {
            self.first = self.asked.remove(0).stream + 1;
        }
    }

    fn answer(&mut self, stream: u32, at: &Moment) {
        let asked = self.asked.iter().position(|asked| asked.stream == stream);
        let made = match asked.map(|index| self.asked.remove(index)) {
            Some(asked) => asked.made,
            None if self.first > 0 && stream >= self.first => return self.restart(),
            None => None,
        };
        match (self.answered, made) {
            (None, _) => {
                self.answered = Some(at.time);
                self.threads = vec![(at.thread, at.time)];
            }
            (Some(answered), Some(made)) if made > answered => {
                self.answered = Some(at.time.max(answered));
                self.turns = self.turns.saturating_add(1);
            }
            _ => {}
        }
    }

    /// A call of this connection was seen, and what it moved.
    pub fn moved(&mut self, at: &Moment) {
        let known = self.threads.iter().any(|(thread, _)| *thread == at.thread);
        if self.answered.is_some() && !known && self.threads.len() < MAX_THREADS {
            self.threads.push((at.thread, at.time));
        }
    }

    fn restart(&mut self) {
        *self = Self::new(self.requests);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::ProcessKey;

    fn at(time: u64, thread: u32) -> Moment {
        let process = ProcessKey { pid: 7, exec: 1, started: 1 };
        let time = Monotonic(time);
        Moment { time, process, thread: ThreadId(thread), nonblocking: true, in_epoll: true, evidence: None }
    }

    /// Plays `?5` (a request on stream 5) and `!5` (its answer), a call each, at the end where requests go this way; `@2` changes
    /// the thread. Whether it is a proof.
    fn check(requests: Direction, script: &str) -> bool {
        let (mut turns, mut thread) = (Turns::default(), 1);
        for (time, word) in (1..).zip(script.split(' ')) {
            let (kind, number) = word.split_at(1);
            let number: u32 = number.parse().unwrap();
            let (kind, direction) = match kind {
                "@" => {
                    thread = number;
                    continue;
                }
                "?" => (Kind::Request, requests),
                _ => (Kind::Response, requests.opposite()),
            };
            let section = Section { kind, status: Some(200), ..Section::default() };
            let at = at(time, thread);
            turns.section(direction, number, &section, &at, &at);
            turns.moved(&at);
        }
        turns.are_proof()
    }

    #[test]
    fn four_answers_by_turns_are_a_proof_at_either_end() {
        for requests in [Direction::Send, Direction::Receive] {
            assert!(check(requests, "?5 !5 ?7 !7 ?9 !9 ?11 !11"));
            assert!(!check(requests, "?5 !5 ?7 !7 ?9 !9 ?11"));
            // What was asked before we looked is answered too.
            assert!(check(requests, "!3 ?7 !7 ?9 ?11 !11 !9 ?15 !15"));
        }
    }

    #[test]
    fn answers_to_what_was_asked_before_the_first_of_them_prove_nothing() {
        for requests in [Direction::Send, Direction::Receive] {
            assert!(!check(requests, "?5 ?7 ?9 ?11 ?13 ?15 !5 !7 !9 !11 !13 !15"));
            // Nor do several that were asked in one turn prove more than one.
            assert!(!check(requests, "!3 ?5 ?7 ?9 ?11 !5 !7 !9 !11"));
        }
    }

    #[test]
    fn a_request_counts_where_it_is_known_to_be_written_after_the_answer() {
        // Each is written by a thread of which nothing was seen: its call may have begun before the answer came.
        let script = "!3 @2 ?7 @1 !7 @3 ?9 @1 !9 @4 ?11 @1 !11 @5 ?13 @1 !13";
        assert!(!check(Direction::Send, script));
        assert!(check(Direction::Receive, script));
        // A second call of such a thread began after its first.
        assert!(check(Direction::Send, "!3 @2 ?7 @1 !7 @2 ?9 @1 !9 @2 ?11 @1 !11 @2 ?13 @1 !13"));
    }

    #[test]
    fn an_answer_to_what_was_not_asked_begins_it_anew() {
        assert!(!check(Direction::Send, "?5 !5 ?7 !7 ?9 !9 !21 ?11 !11"));
        assert!(!check(Direction::Send, "?5 !5 ?7 !7 ?9 !9 ?7 ?11 !11"));
    }
}
