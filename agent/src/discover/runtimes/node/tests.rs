//! The state machine on short scenes, each as Node plays it: events of the thread with the words that it has then.

use super::super::starts::Starts;
use super::machine::{By, Event, Machine, Owner, Watched, Words};
use super::{counts_on, last_id, promises::Promises};
use crate::discover::memory::Image;

/// A thread with a counter, two server connections that have been there since before (1 and 2, parsers 3 and 4), and
/// client connections from 50 on.
struct Scene {
    machine: Machine,
    counter: u64,
    time: u64,
    /// How the last call's owner was found.
    by: Option<By>,
}

const PARSER: [u64; 3] = [0, 3, 4];

impl Scene {
    fn new(watched: Watched) -> Self {
        let mut scene = Self { machine: Machine::new(), counter: 10, time: 0, by: None };
        // The probes are there: something native was made, by nobody.
        scene.at(0, 0, Event::Made);
        scene.counter += 1;
        if watched == Watched::Yes {
            scene.machine.watch_promises(Watched::Yes);
        }
        // Each parser has served before, in two turns.
        for connection in [1, 2, 1, 2] {
            scene.reads(connection);
            scene.at(PARSER[connection as usize], 0, Event::Made);
            scene.counter += 1;
            scene.at(0, 0, Event::Boundary);
        }
        scene
    }

    fn at(&mut self, id: u64, trigger: u64, event: Event) -> Option<Owner> {
        let found = self.machine.event(&event, Words { id, trigger, counter: self.counter }, &|_| None);
        self.by = found.map(|found| found.by);
        found.map(|found| found.owner)
    }

    fn reads(&mut self, connection: u64) -> Owner {
        self.time += 10;
        self.at(0, 0, Event::Read { connection, at: self.time, starts: Starts::Request });
        Owner { connection, at: self.time }
    }

    fn reads_answer(&mut self, connection: u64) {
        self.time += 10;
        self.at(0, 0, Event::Read { connection, at: self.time, starts: Starts::Response });
    }

    fn asks(&mut self, connection: u64, id: u64, trigger: u64) -> Option<Owner> {
        self.at(id, trigger, Event::Write { connection, starts: Starts::Request })
    }

    /// The program's next id.
    fn made_by_script(&mut self) -> u64 {
        self.counter += 1;
        self.counter
    }
}

#[test]
fn a_call_in_the_turn_of_a_request_is_its_own() {
    let mut scene = Scene::new(Watched::No);
    let owner = scene.reads(1);
    let tick = scene.made_by_script();
    assert_eq!(scene.asks(50, tick, PARSER[1]), Some(owner));
    assert_eq!(scene.by, Some(By::Turn));
}

#[test]
fn timers_of_two_requests_are_told_apart() {
    let mut scene = Scene::new(Watched::No);
    let one = scene.reads(1);
    let timer = scene.made_by_script();
    let other = scene.reads(2);
    let later = scene.made_by_script();
    scene.at(0, 0, Event::Boundary);
    assert_eq!(scene.asks(50, later, PARSER[2]), Some(other));
    assert_eq!(scene.asks(51, timer, PARSER[1]), Some(one));
    // A timer may call for others, too.
    assert_eq!(scene.by, Some(By::Descent));
}

#[test]
fn what_descends_from_one_request_and_answers_another_is_doubted() {
    let mut scene = Scene::new(Watched::No);
    scene.reads(1);
    let timer = scene.made_by_script();
    scene.reads(2);
    scene.at(PARSER[2], 0, Event::Write { connection: 2, starts: Starts::Response });
    scene.at(0, 0, Event::Boundary);
    scene.at(timer, PARSER[1], Event::Write { connection: 1, starts: Starts::Response });
    assert!(!scene.machine.is_doubted(), "each answered its own");
    scene.reads(1);
    let timer = scene.made_by_script();
    scene.reads(2);
    scene.at(0, 0, Event::Boundary);
    scene.at(timer, PARSER[1], Event::Write { connection: 2, starts: Starts::Response });
    assert!(scene.machine.is_doubted());
}

#[test]
fn a_timer_that_was_set_in_a_tick_of_the_turn_is_the_requests() {
    let mut scene = Scene::new(Watched::No);
    let owner = scene.reads(1);
    let tick = scene.made_by_script();
    let timer = scene.made_by_script();
    scene.at(0, 0, Event::Boundary);
    assert_eq!(scene.asks(50, timer, tick), Some(owner));
}

#[test]
fn what_is_made_behind_microtasks_is_anybodys() {
    let mut scene = Scene::new(Watched::No);
    let owner = scene.reads(1);
    let tick = scene.made_by_script();
    scene.at(tick, PARSER[1], Event::Microtasks);
    let of_job = scene.made_by_script();
    let timer = scene.made_by_script();
    let made_in_tick = scene.made_by_script();
    scene.at(0, 0, Event::Boundary);
    assert_eq!(scene.asks(50, timer, of_job), None);
    assert_eq!(scene.asks(51, of_job, 0), None);
    // The tick itself was made before.
    assert_eq!(scene.asks(52, made_in_tick, tick), Some(owner));
}

#[test]
fn what_an_entered_resource_made_in_anothers_turn_is_not_the_turns() {
    let mut scene = Scene::new(Watched::No);
    scene.reads(1);
    let queued = scene.made_by_script();
    let other = scene.reads(2);
    let before = scene.made_by_script();
    let tick = scene.made_by_script();
    // The socket is re-keyed for what waited, in its tick: this shows whose tick it is.
    scene.at(tick, queued, Event::Made);
    scene.counter += 1;
    let timer = scene.made_by_script();
    scene.at(0, 0, Event::Boundary);
    assert_ne!(scene.asks(50, timer, tick), Some(other));
    assert_eq!(scene.asks(51, before, PARSER[2]), Some(other));
}

#[test]
fn what_was_concluded_before_the_loop_was_watched_is_void() {
    let mut scene = Scene::new(Watched::No);
    scene.reads(1);
    let timer = scene.made_by_script();
    scene.at(0, 0, Event::Boundary);
    scene.machine.begin();
    assert_eq!(scene.asks(50, timer, PARSER[1]), None);
}

#[test]
fn what_the_last_read_was_says_nothing_in_a_timer() {
    let mut scene = Scene::new(Watched::No);
    scene.reads(1);
    scene.at(0, 0, Event::Boundary);
    let unknown = scene.made_by_script();
    scene.reads(2);
    scene.at(0, 0, Event::Boundary);
    assert_eq!(scene.asks(50, unknown, 0), None);
}

#[test]
fn the_answer_of_a_call_goes_on_for_its_request() {
    let mut scene = Scene::new(Watched::No);
    let owner = scene.reads(1);
    // The agent gives the socket a new id in the request's turn.
    scene.at(PARSER[1], 0, Event::Made);
    scene.counter += 1;
    let socket = scene.counter;
    let tick = scene.made_by_script();
    assert_eq!(scene.asks(50, tick, PARSER[1]), Some(owner));
    scene.reads(2);
    scene.reads_answer(50);
    let next = scene.made_by_script();
    assert_eq!(scene.asks(51, next, socket), Some(owner));
    assert_eq!(scene.by, Some(By::Descent));
}

#[test]
fn a_queued_request_that_is_written_in_anothers_answer_is_nobodys() {
    let mut scene = Scene::new(Watched::No);
    let one = scene.reads(1);
    scene.at(PARSER[1], 0, Event::Made);
    scene.counter += 1;
    let tick = scene.made_by_script();
    assert_eq!(scene.asks(50, tick, PARSER[1]), Some(one));
    // Another request's timer makes the resource of a waiting request, unobserved.
    scene.at(0, 0, Event::Boundary);
    let queued = scene.made_by_script();
    scene.at(0, 0, Event::Boundary);
    // The answer of the first frees the socket: the waiting request is entered and the socket re-keyed.
    scene.reads_answer(50);
    scene.at(queued, 0, Event::Made);
    scene.counter += 1;
    let tick = scene.made_by_script();
    assert_eq!(scene.asks(50, tick, queued), None);
}

#[test]
fn a_queued_request_of_a_promise_job_is_that_jobs_in_anothers_answer() {
    let mut scene = Scene::new(Watched::Yes);
    learn(&mut scene);
    let one = scene.reads(1);
    scene.at(PARSER[1], 0, Event::Made);
    scene.counter += 1;
    let tick = scene.made_by_script();
    assert_eq!(scene.asks(50, tick, PARSER[1]), Some(one));
    let other = scene.reads(2);
    scene.at(PARSER[2], 0, Event::Register([0x1001, 0x2001, 0x3001]));
    scene.at(0, 0, Event::Boundary);
    scene.at(0, 0, Event::Microtasks);
    scene.at(0, 0, Event::Job(0x1001, 0x2001));
    let queued = scene.made_by_script();
    scene.at(0, 0, Event::Register([0x4001, 0x5001, 0x6001]));
    // The answer of the first frees the socket.
    scene.reads_answer(50);
    scene.at(queued, 0, Event::Made);
    scene.counter += 1;
    let tick = scene.made_by_script();
    assert_eq!(scene.asks(50, tick, queued), Some(other));
}

#[test]
fn a_pool_that_resumes_in_an_immediate_is_refused() {
    let mut scene = Scene::new(Watched::Yes);
    let one = scene.reads(1);
    let tick = scene.made_by_script();
    assert_eq!(scene.asks(50, tick, PARSER[1]), Some(one));
    scene.reads_answer(50);
    let immediate = scene.made_by_script();
    scene.at(0, 0, Event::Immediates);
    assert_eq!(scene.asks(50, immediate, 12), None);
}

#[test]
fn a_promise_job_is_whose_promise_it_was_whatever_the_turn() {
    let mut scene = Scene::new(Watched::Yes);
    learn(&mut scene);
    let one = scene.reads(1);
    scene.at(PARSER[1], 0, Event::Register([0x1001, 0x2001, 0x3001]));
    let other = scene.reads(2);
    scene.at(PARSER[2], 0, Event::Register([0x4001, 0x5001, 0x6001]));
    scene.at(0, 0, Event::Job(0x1001, 0x2001));
    assert_eq!(scene.asks(50, 0, 0), Some(one));
    scene.at(0, 0, Event::Job(0x4001, 0x5001));
    assert_eq!(scene.asks(51, 0, 0), Some(other));
    // A timer that a job made, met in anybody's turn.
    let timer = scene.made_by_script();
    scene.at(0, 0, Event::Boundary);
    assert_eq!(scene.asks(52, timer, 0), Some(other));
}

#[test]
fn without_a_look_at_promises_their_jobs_are_nobodys() {
    let mut scene = Scene::new(Watched::No);
    scene.reads(1);
    assert_eq!(scene.asks(50, 0, 0), None);
    let in_job = scene.made_by_script();
    assert_eq!(scene.asks(51, in_job, 0), None);
    // And what that made in turn.
    let after = scene.made_by_script();
    assert_eq!(scene.asks(52, after, in_job), None);
}

#[test]
fn a_handler_that_two_requests_share_decides_nothing() {
    let mut scene = Scene::new(Watched::Yes);
    learn(&mut scene);
    scene.reads(1);
    scene.at(PARSER[1], 0, Event::Register([0x1001, 0x7001, 0]));
    let other = scene.reads(2);
    scene.at(PARSER[2], 0, Event::Register([0x4001, 0x7001, 0]));
    scene.at(PARSER[2], 0, Event::Derived(0x4001));
    scene.at(0, 0, Event::Job(0x9001, 0x7001));
    assert_eq!(scene.asks(50, 0, 0), None);
    scene.at(0, 0, Event::Job(0x4001, 0x7001));
    assert_eq!(scene.asks(51, 0, 0), Some(other));
}

#[test]
fn a_constant_that_one_request_registered_decides_nothing_for_a_job_from_before() {
    let mut scene = Scene::new(Watched::Yes);
    learn(&mut scene);
    scene.reads(1);
    const UNDEFINED: u64 = 0x77;
    scene.at(PARSER[1], 0, Event::Register([UNDEFINED, 0x2001, 0x3001]));
    scene.at(0, 0, Event::Job(UNDEFINED, 0x9001));
    assert_eq!(scene.asks(50, 0, 0), None);
}

#[test]
fn an_address_is_another_objects_after_a_collection_and_a_job_ends_its_whole_registration() {
    let owner = |connection| Some(Owner { connection, at: 10 });
    let mut promises = Promises::default();
    for number in 0..300u64 {
        promises.register([0x10_0001 + number * 8, 0, 0], None);
    }
    // What the job does not use is not awaited any more.
    promises.register([0x1001, 0x2001, 0x3001], owner(1));
    let before = promises.len();
    assert_eq!(promises.begin(0x1001, 0x2001), owner(1));
    assert_eq!(promises.len(), before - 3);
    // A promise that is never settled dies; its place is another's.
    promises.register([0, 0x4001, 0], owner(1));
    promises.moved(&|_| Some(0x5551));
    promises.register([0, 0x4001, 0], owner(2));
    assert_eq!(promises.begin(0, 0x4001), owner(2));
    // Between two collections it is the same object, and shared.
    promises.register([0, 0x6001, 0], owner(1));
    promises.register([0, 0x6001, 0], owner(2));
    assert_eq!(promises.begin(0, 0x6001), None);
}

#[test]
fn a_function_among_the_microtasks_is_whose_it_was_put_there_for() {
    let mut scene = Scene::new(Watched::Yes);
    learn(&mut scene);
    let one = scene.reads(1);
    scene.at(PARSER[1], 0, Event::Register([0x1001, 0x2001, 0x3001]));
    scene.at(PARSER[1], 0, Event::Callable(0x8001));
    let other = scene.reads(2);
    scene.at(PARSER[2], 0, Event::Callable(0x9001));
    scene.at(0, 0, Event::Boundary);
    scene.at(0, 0, Event::Microtasks);
    scene.at(0, 0, Event::Calls(0x8001));
    assert_eq!(scene.asks(50, 0, 0), Some(one));
    scene.at(0, 0, Event::Calls(0x9001));
    assert_eq!(scene.asks(51, 0, 0), Some(other));
    scene.at(0, 0, Event::Job(0x1001, 0x2001));
    assert_eq!(scene.asks(52, 0, 0), Some(one));
    // It was called, and is nobody's if nobody is seen to put it there again.
    scene.at(0, 0, Event::Calls(0x8001));
    assert_eq!(scene.asks(53, 0, 0), None);
}

#[test]
fn a_function_that_two_requests_put_among_the_microtasks_is_nobodys() {
    let mut scene = Scene::new(Watched::Yes);
    scene.reads(1);
    scene.at(PARSER[1], 0, Event::Callable(0x8001));
    scene.reads(2);
    scene.at(PARSER[2], 0, Event::Callable(0x8001));
    scene.at(0, 0, Event::Boundary);
    scene.at(0, 0, Event::Microtasks);
    scene.at(0, 0, Event::Calls(0x8001));
    assert_eq!(scene.asks(50, 0, 0), None);
    scene.at(0, 0, Event::Calls(0x8001));
    assert_eq!(scene.asks(51, 0, 0), None);
}

#[test]
fn moved_objects_are_followed_and_what_cannot_be_read_is_forgotten() {
    let one = Some(Owner { connection: 1, at: 10 });
    let mut promises = Promises::default();
    for number in 0..300u64 {
        promises.register([0x10_0001 + number * 8, 0, 0], None);
    }
    promises.register([0x4001, 0x2001, 0x3001], one);
    promises.derived(0x1001, one);
    promises.moved(&|address| match address {
        0x1000 => Some(0x8000), // moved
        0x8000 => Some(0x5551), // and begins with a map there
        0x2000 => Some(0x5551), // stands still
        _ => None,              // gone
    });
    assert_eq!(promises.len(), 2);
    assert_eq!(promises.begin(0x8001, 0), one);
    assert_eq!(promises.begin(0, 0x2001), one);
    assert_eq!(promises.begin(0x3001, 0), None);
}

#[test]
fn words_that_are_no_ids_are_none() {
    let words = |numbers: [f64; 3]| Words::of(numbers.map(f64::to_bits));
    assert!(words([3.0, 1.0, 9.0]).is_some());
    assert!(words([9.0, 1.0, 3.0]).is_none());
    assert!(words([0.5, 1.0, 3.0]).is_none());
    assert!(words([f64::NAN, 1.0, 3.0]).is_none());
    let bytes = |numbers: [f64; 4]| -> Vec<u8> { numbers.iter().flat_map(|n| n.to_le_bytes()).collect() };
    assert_eq!(last_id(&bytes([0.0, 0.0, 65.0, -1.0])), Some(65));
    assert_eq!(last_id(&bytes([0.0, 0.0, 2.0, -1.0])), None);
    assert_eq!(last_id(&bytes([0.0, 0.0, 65.0, 0.0])), None);
    assert_eq!(last_id(&bytes([6585623210375.0, 6585903543973.0, 6586009918833.0, -1.0])), None);
}

#[test]
fn of_places_that_look_like_ids_the_one_that_goes_on_counting_is_theirs() {
    let words = |last: f64| [0.0, 0.0, last, -1.0].map(f64::to_bits);
    let mut image = Image::default();
    image.put_words(0x1000, &words(70.0)).put_words(0x2000, &words(65.0));
    let found = [(0x1000, 65), (0x2000, 65), (0x3000, 65)];
    assert_eq!(found.map(|words| counts_on(&words, &image)), [true, false, false]);
}

/// Enough registrations that constants are known.
fn learn(scene: &mut Scene) {
    for number in 0..300u64 {
        scene.at(0, 0, Event::Register([0x10_0001 + number * 8, 0, 0]));
    }
}
