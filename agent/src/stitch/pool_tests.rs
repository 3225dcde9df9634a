//! The pool rule against simulated pools, with the truth known.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, VecDeque};

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::*;

const QUEUE: u64 = 0x1000;
const MS: u64 = 1_000_000;

/// What jobs of the pool do.
#[derive(Clone, Copy, Debug, Default)]
struct Jobs {
    workers: u32,
    concurrency: usize,
    /// One more call after the answer.
    audit: bool,
    /// One job in so many belongs to no request.
    background: Option<u32>,
    /// Workers go on with other jobs while a call is under way.
    asynchronous: bool,
    /// Each worker reads the request itself.
    own_reads: bool,
    /// A contended lock in the middle of jobs, on a word of its own.
    lock: bool,
}

#[derive(Debug, Default, Eq, PartialEq)]
struct Count {
    right: usize,
    orphan: usize,
    wrong: usize,
    background_linked: usize,
    inferred: usize,
}

#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
enum Due {
    Arrive(u64),
    /// A worker goes on with its job: which, and how far it is.
    Go(u32, Option<u64>, u32),
}

fn simulate(jobs: Jobs, habits: Habits, requests: u64, seed: u64) -> (Count, Pool) {
    let mut random = StdRng::seed_from_u64(seed);
    let mut due = BinaryHeap::new();
    let mut steps: Vec<(u64, ThreadId, Step)> = Vec::new();
    let mut truth: HashMap<NodeId, Option<NodeId>> = HashMap::new();
    let mut read_at: HashMap<u64, u64> = HashMap::new();
    let mut queue: VecDeque<Option<u64>> = VecDeque::new();
    let mut idle: Vec<u32> = (0..jobs.workers).collect();
    let (mut next, mut calls) = (0u64, 1 << 32);
    for worker in &idle {
        steps.push((u64::from(*worker) + 1, ThreadId(*worker), Step::Idle(QUEUE)));
    }
    for _ in 0..jobs.concurrency {
        due.push(Reverse((MS + random.random_range(0..MS), Due::Arrive(next))));
        next += 1;
    }
    let push =
        |steps: &mut Vec<_>, at: u64, worker: u32, step: Step| steps.push((at, ThreadId(worker), step));
    while let Some(Reverse((now, what))) = due.pop() {
        match what {
            Due::Arrive(request) => {
                if !jobs.own_reads {
                    push(&mut steps, now, 9_999, Step::Read(NodeId(request)));
                    read_at.insert(request, now);
                }
                queue.push_back(Some(request));
                if jobs.background.is_some_and(|every| random.random_range(0..every) == 0) {
                    queue.push_back(None);
                }
            }
            Due::Go(worker, job, stage) => {
                // Stages: 0 begins, 1 and 2 call, 3 answers, 4 audits, 5 is over. Odd halves are answers to calls.
                let pause = now + random.random_range(50_000..2 * MS);
                let call = |steps: &mut Vec<_>, calls: &mut u64, truth: &mut HashMap<_, _>| {
                    *calls += 1;
                    let id = NodeId(*calls);
                    truth.insert(id, job.map(NodeId));
                    steps.push((now, ThreadId(worker), Step::Called { call: id, watched: false }));
                    let got = now + 30_000;
                    if !jobs.asynchronous {
                        steps.push((got, ThreadId(worker), Step::Got(id)));
                    } else {
                        steps.push((pause - 1, ThreadId(worker), Step::Got(id)));
                    }
                };
                match (stage, job) {
                    (0, Some(request)) if jobs.own_reads => {
                        push(&mut steps, now, worker, Step::Read(NodeId(request)));
                        read_at.insert(request, now);
                    }
                    (1 | 2, _) => call(&mut steps, &mut calls, &mut truth),
                    (3, Some(request)) => {
                        let read = Monotonic(read_at[&request]);
                        push(&mut steps, now, worker, Step::Answered { server: NodeId(request), read });
                        if next < requests {
                            due.push(Reverse((now + random.random_range(0..3 * MS), Due::Arrive(next))));
                            next += 1;
                        }
                    }
                    (4, Some(_)) if jobs.audit => call(&mut steps, &mut calls, &mut truth),
                    (5, _) => {
                        if queue.is_empty() {
                            push(&mut steps, now, worker, Step::Idle(QUEUE));
                        }
                        idle.push(worker);
                    }
                    _ => {}
                }
                if jobs.lock && stage == 2 && random.random_bool(0.1) {
                    push(&mut steps, now + 40_000, worker, Step::Idle(QUEUE + 0x100 * u64::from(worker + 1)));
                }
                if stage < 5 {
                    due.push(Reverse((pause, Due::Go(worker, job, stage + 1))));
                    if jobs.asynchronous && (stage == 1 || stage == 2) {
                        idle.push(worker);
                    }
                }
            }
        }
        while !queue.is_empty() && !idle.is_empty() {
            let worker = idle.swap_remove(random.random_range(0..idle.len()));
            let job = queue.pop_front().flatten();
            due.push(Reverse((now + 1_000, Due::Go(worker, job, 0))));
        }
    }
    steps.sort_by_key(|&(time, thread, _)| (time, thread));
    let mut pool = Pool::default();
    let (mut acts, mut kept, mut count) = (Vec::new(), HashMap::<NodeId, i64>::new(), Count::default());
    let mut decided = 0;
    let mut settled = 0;
    for (time, thread, step) in steps {
        pool.step(thread, Monotonic(time), step, &mut acts);
        if time > settled + 50 * MS {
            settled = time;
            pool.settle(Monotonic(time - 20 * MS), habits, &mut acts);
        }
        decided += judge(&mut acts, &mut kept, &truth, &mut count);
    }
    pool.settle(Monotonic(u64::MAX), habits, &mut acts);
    decided += judge(&mut acts, &mut kept, &truth, &mut count);
    std::mem::take(&mut pool).end(&mut acts);
    decided += judge(&mut acts, &mut kept, &truth, &mut count);
    assert_eq!(decided, truth.len(), "each call is decided once");
    assert!(kept.values().all(|&times| times == 0), "what was kept is let go");
    (count, pool)
}

fn judge(
    acts: &mut Vec<Act>,
    kept: &mut HashMap<NodeId, i64>,
    truth: &HashMap<NodeId, Option<NodeId>>,
    count: &mut Count,
) -> usize {
    let mut decided = 0;
    for act in acts.drain(..) {
        match act {
            Act::Keep(server) => *kept.entry(server).or_default() += 1,
            Act::LetGo(server) => *kept.entry(server).or_default() -= 1,
            Act::Decide(call, verdict) => {
                decided += 1;
                match (verdict, truth[&call]) {
                    (Err(_), _) => count.orphan += 1,
                    (Ok((server, method)), owner) => {
                        assert!(
                            kept.get(&server).is_some_and(|&times| times > 0),
                            "a parent was let go before"
                        );
                        count.inferred += usize::from(method == LinkMethod::Inferred);
                        *(if Some(server) == owner { &mut count.right } else { &mut count.wrong }) += 1;
                        count.background_linked += usize::from(owner.is_none());
                    }
                }
            }
        }
    }
    decided
}

fn never_wrong(jobs: Jobs, habits: Habits) -> Vec<Count> {
    (0..3)
        .map(|seed| {
            let (count, _) = simulate(jobs, habits, 1_000, seed);
            assert_eq!(count.wrong, 0, "{jobs:?} {seed} {count:?}");
            count
        })
        .collect()
}

const SMALL: Jobs = Jobs {
    workers: 8,
    concurrency: 4,
    audit: false,
    background: None,
    asynchronous: false,
    own_reads: false,
    lock: false,
};

#[test]
fn a_pool_with_idle_workers_is_nearly_complete() {
    for count in never_wrong(SMALL, Habits::Ignored) {
        assert!(count.right * 100 >= 95 * (count.right + count.orphan), "{count:?}");
    }
}

#[test]
fn calls_after_the_answer_are_told_from_those_before() {
    for count in never_wrong(Jobs { audit: true, ..SMALL }, Habits::Ignored) {
        assert!(count.right * 100 >= 90 * (count.right + count.orphan), "{count:?}");
    }
    never_wrong(Jobs { audit: true, concurrency: 12, ..SMALL }, Habits::Ignored);
    never_wrong(Jobs { audit: true, concurrency: 50, ..SMALL }, Habits::Believed);
    never_wrong(Jobs { audit: true, concurrency: 50, workers: 64, ..SMALL }, Habits::Believed);
}

#[test]
fn with_a_backlog_there_is_no_idle_wait_and_nearly_everything_is_ambiguous() {
    for count in never_wrong(Jobs { concurrency: 50, ..SMALL }, Habits::Ignored) {
        assert!(count.right * 10 < count.orphan, "{count:?}");
    }
}

#[test]
fn habits_help_where_the_pool_has_shown_them() {
    for count in never_wrong(Jobs { concurrency: 7, ..SMALL }, Habits::Believed) {
        assert!(count.inferred > 0, "{count:?}");
        assert!(count.right * 100 >= 95 * (count.right + count.orphan), "{count:?}");
    }
}

#[test]
fn a_worker_that_reads_the_request_itself_is_nearly_complete() {
    for concurrency in [4, 9] {
        for count in never_wrong(Jobs { own_reads: true, concurrency, ..SMALL }, Habits::Ignored) {
            assert!(count.right * 100 >= 95 * (count.right + count.orphan), "{concurrency} {count:?}");
        }
    }
}

#[test]
fn a_pool_that_also_does_other_jobs_loses_the_rule_before_it_is_wrong_often() {
    for seed in 0..3 {
        let jobs = Jobs { background: Some(5), ..SMALL };
        let (count, _) = simulate(jobs, Habits::Ignored, 1_000, seed);
        assert_eq!(count.wrong, 0, "{count:?}");
    }
}

#[test]
fn workers_that_go_on_while_a_call_is_under_way_prove_nothing() {
    for concurrency in [4, 50] {
        never_wrong(Jobs { asynchronous: true, concurrency, ..SMALL }, Habits::Ignored);
    }
}

#[test]
fn a_wait_on_a_word_of_one_thread_is_no_idle_wait() {
    never_wrong(Jobs { lock: true, audit: true, concurrency: 9, ..SMALL }, Habits::Ignored);
}

#[track_caller]
fn verdicts(script: &[(u32, Step)], clean: u64) -> Vec<(u64, Verdict)> {
    let mut pool = Pool { clean, ..Pool::default() };
    pool.words.insert(QUEUE, Waiters::Several);
    let mut acts = Vec::new();
    for (at, &(thread, step)) in script.iter().enumerate() {
        pool.step(ThreadId(thread), Monotonic(at as u64 + 1), step, &mut acts);
    }
    pool.settle(Monotonic(1_000), Habits::Ignored, &mut acts);
    let decided = |act| match act {
        Act::Decide(call, verdict) => Some((call.0, verdict)),
        Act::Keep(_) | Act::LetGo(_) => None,
    };
    acts.into_iter().filter_map(decided).collect()
}

fn called(call: u64) -> Step {
    Step::Called { call: NodeId(call), watched: false }
}

fn answered(server: u64, read: u64) -> Step {
    Step::Answered { server: NodeId(server), read: Monotonic(read) }
}

#[test]
fn each_part_of_the_rule() {
    let script = [
        (1, Step::Idle(QUEUE)),
        (1, called(10)),
        (1, Step::Got(NodeId(10))),
        (1, answered(1, 0)),
        (1, called(11)),
        (1, Step::Got(NodeId(11))),
        (1, called(12)),
        (1, Step::Got(NodeId(12))),
        (1, answered(2, 6)),
        (1, called(13)),
        (1, Step::Got(NodeId(13))),
        (1, Step::Idle(QUEUE)),
    ];
    let thread = |server| Ok((NodeId(server), LinkMethod::Thread));
    assert_eq!(
        verdicts(&script, TRIAL),
        [(10, thread(1)), (11, thread(1)), (12, Err(Doubt::Ambiguous)), (13, thread(2))]
    );
    // Nothing is said before enough segments ended well.
    assert_eq!(verdicts(&script, 0), [(12, Err(Doubt::Ambiguous))]);
    // ... nor where the first idle wait was not seen.
    assert_eq!(verdicts(&script[1..3], TRIAL), [(10, Err(Doubt::NoPool))]);
}

#[test]
fn a_call_under_way_while_the_thread_does_something_else_proves_nothing() {
    let script = [(1, Step::Idle(QUEUE)), (1, called(10)), (1, answered(1, 0)), (1, Step::Got(NodeId(10)))];
    assert_eq!(verdicts(&script, TRIAL), [(10, Err(Doubt::NotSerial))]);
    let script =
        [(1, Step::Idle(QUEUE)), (1, called(10)), (1, Step::GotElsewhere(NodeId(10))), (1, answered(1, 0))];
    assert_eq!(verdicts(&script, TRIAL), [(10, Err(Doubt::NotSerial))]);
    let watched = Step::Called { call: NodeId(10), watched: true };
    let script = [(1, Step::Idle(QUEUE)), (1, watched), (1, Step::Got(NodeId(10))), (1, answered(1, 0))];
    assert_eq!(verdicts(&script, TRIAL), [(10, Err(Doubt::NotSerial))]);
}

#[test]
fn a_segment_of_calls_alone_costs_a_pool_that_answers_the_rule() {
    let mut pool = Pool { clean: TRIAL, ..Pool::default() };
    pool.words.insert(QUEUE, Waiters::Several);
    let mut acts = Vec::new();
    let steps = [
        Step::Idle(QUEUE),
        answered(1, 0),
        Step::Idle(QUEUE),
        called(10),
        Step::Got(NodeId(10)),
        Step::Idle(QUEUE),
        called(11),
        Step::Got(NodeId(11)),
        answered(2, 0),
    ];
    for (at, step) in steps.into_iter().enumerate() {
        pool.step(ThreadId(1), Monotonic(at as u64 + 1), step, &mut acts);
    }
    pool.settle(Monotonic(1_000), Habits::Ignored, &mut acts);
    assert!(pool.is_lost());
    let refused = |call| Act::Decide(NodeId(call), Err(Doubt::Shared));
    assert!(acts.contains(&refused(10)) && acts.contains(&refused(11)), "{acts:?}");
}

#[test]
fn lost_records_end_what_was_being_proved() {
    let mut pool = Pool { clean: TRIAL, ..Pool::default() };
    pool.words.insert(QUEUE, Waiters::Several);
    let mut acts = Vec::new();
    pool.step(ThreadId(1), Monotonic(1), Step::Idle(QUEUE), &mut acts);
    pool.step(ThreadId(1), Monotonic(2), called(10), &mut acts);
    pool.step(ThreadId(1), Monotonic(3), Step::Got(NodeId(10)), &mut acts);
    pool.blind(Monotonic(4), &mut acts);
    pool.step(ThreadId(1), Monotonic(5), answered(1, 0), &mut acts);
    pool.settle(Monotonic(1_000), Habits::Ignored, &mut acts);
    assert!(acts.contains(&Act::Decide(NodeId(10), Err(Doubt::NotSerial))), "{acts:?}");
}
