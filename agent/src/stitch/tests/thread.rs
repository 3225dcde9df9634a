//! The rule `thread`, and everything that it refuses.

use super::super::ledger::Ledger;
use super::super::{Output, Settings};
use super::{MS, check, parse, run};

const THREAD: &str = "web.1 reads s1 /a born
         web.1 calls c1 /b born
         web.1 gets c1
         web.1 answers s1";

#[test]
fn a_thread_that_reads_calls_and_answers_made_the_call_for_the_request() {
    let ledger = check(
        THREAD,
        "
         server web /a
           client web /b thread",
    );
    assert_eq!(ledger.links.thread, 1);
}

#[test]
fn a_call_is_linked_by_thread_only_once_the_answer_began() {
    let lines = parse(THREAD);
    for answered in [3, 4] {
        let mut stitcher = super::stitcher(Settings::default());
        let mut out = Vec::new();
        for input in lines.iter().take(answered).flat_map(|line| line.inputs.clone()) {
            stitcher.handle(input, &mut out);
        }
        stitcher.poll(super::Monotonic(1_100 * MS), &mut out);
        let want = u64::from(answered == 4);
        assert_eq!(stitcher.ledger().links.thread, want);
        assert_eq!(stitcher.ledger().held.pending, 1 - want);
    }
}

#[test]
fn many_calls_one_after_the_other_all_belong_to_the_request() {
    check(
        "web.1 reads s1 /a born
         web.1 calls c1 /b born
         web.1 gets c1
         web.1 calls c1 /c born
         web.1 gets c1
         web.1 calls c2 /d born
         web.1 fails c2
         web.1 calls c3 /d2 born
         web.1 gets c3
         web.1 answers s1",
        "
         server web /a
           client web /b thread
           client web /c thread
           client web /d thread
           client web /d2 thread",
    );
}

#[test]
fn a_chain_of_services_is_one_trace() {
    let script = "join c1 s1
         join c2 s2
         curl.1 calls c1 /a born
         web.1 reads s1 /a born
         web.1 calls c2 /b born
         db.1 reads s2 /b born
         db.1 answers s2
         web.1 gets c2
         web.1 answers s1
         curl.1 gets c1";
    check(
        script,
        "
         client curl /a
           server web /a stream
             client web /b thread
               server db /b stream",
    );
}

#[track_caller]
fn refused(script: &str, cause: impl Fn(&Ledger) -> u64) {
    let told = run(Settings::default(), &parse(script));
    assert_eq!(told.ledger.links.thread, 0, "{}", told.tree);
    assert_eq!(cause(&told.ledger), 1, "{}{:#?}", told.tree, told.ledger);
}

#[test]
fn no_link_by_thread_without_a_proof() {
    let refuse = |from: &str, to: &str, cause: fn(&Ledger) -> u64| {
        let script = THREAD.replace(from, to);
        assert_ne!(script, THREAD);
        refused(&script, cause);
    };
    refuse("/a born", "/a born nonblocking", |l| l.orphans.not_blocking);
    refuse("/a born", "/a born epoll", |l| l.orphans.not_blocking);
    refuse("/a born", "/a born by=2", |l| l.orphans.other_thread_holds);
    refuse("1 reads s1 /a born", "2 reads s1 /a born by=1", |l| l.orphans.not_blocking);
    refuse("/b born", "/b born many", |l| l.orphans.many_per_thread);
    refuse("1 calls", "2 calls", |l| l.orphans.other_thread_holds);
    refuse("/b born", "/b born by=2", |l| l.orphans.other_thread_holds);
    refuse("/b born", "/b born at=-5", |l| l.orphans.other_thread_holds);
    refuse("1 answers", "2 answers", |l| l.orphans.other_thread_answered);
    refuse("answers", "fails", |l| l.orphans.never_answered);
    refuse("web.1 answers", "lost\n web.1 answers", |l| l.orphans.records_lost);
    refuse("web.1 gets c1", "wait 61000\n web.1 gets c1", |l| l.orphans.expired);
}

#[test]
fn where_nobody_waits_for_blocking_sockets_together_their_epoll_sets_say_nothing() {
    check(
        &THREAD.replace("/a born", "/a born epoll oneifblocking"),
        "
         server web /a
           client web /b thread",
    );
    refused(&THREAD.replace("/a born", "/a born epoll nonblocking oneifblocking"), |l| {
        l.orphans.not_blocking
    });
}

#[test]
fn a_program_known_for_one_request_per_thread_needs_no_blocking_socket() {
    check(
        &THREAD
            .replace("/a born", "/a born epoll nonblocking one")
            .replace("web.1 answers", "lost\n web.1 answers"),
        "
         server web /a
           client web /b thread",
    );
}

#[test]
fn records_lost_before_or_after_a_request_say_nothing_about_it() {
    check(
        &format!("lost\n web.1 reads s9 /z born\n web.1 answers s9\n {THREAD}\n wait 50\n lost"),
        "
         server web /z
         server web /a
           client web /b thread",
    );
}

#[test]
fn a_thread_that_holds_two_requests_proves_nothing_for_either_nor_ever_after() {
    let told = run(
        Settings::default(),
        &parse(
            "loop.1 reads s1 /a born
             loop.1 calls c1 /a1 born
             loop.1 reads s2 /b born
             loop.1 calls c2 /b1 born
             loop.1 gets c1
             loop.1 answers s1
             loop.1 calls c3 /b2 born
             loop.1 gets c2
             loop.1 answers s2
             loop.1 reads s1 /c born
             loop.1 calls c1 /c1 born
             loop.1 gets c1
             loop.1 answers s1",
        ),
    );
    let l = told.ledger;
    assert_eq!(l.links.total(), 0, "{}", told.tree);
    assert_eq!(
        (l.orphans.two_requests, l.orphans.rule_lost, l.thread_rule_lost.two_requests),
        (2, 2, 1),
        "{l:#?}"
    );
}

#[test]
fn a_call_that_no_rule_can_link_does_not_wait() {
    for before in [
        "web.1 reads s1 /a born\n web.1 reads s2 /b born",
        "web.1 reads s1 /a born\n web.1 reads s2 /b born\n web.1 begins s1",
        "web.1 reads s1 /a born epoll",
        "web.2 reads s1 /a born",
    ] {
        let mut stitcher = super::stitcher(Settings::default());
        let mut out = Vec::new();
        for line in parse(&format!("{before}\n web.1 calls c1 /x born\n web.1 gets c1")) {
            line.inputs.into_iter().for_each(|input| stitcher.handle(input, &mut out));
        }
        let held = stitcher.ledger().held;
        assert_eq!((held.pending, held.undecided, stitcher.ledger().orphans.total()), (0, 0, 1), "{before}");
    }
}

#[test]
fn the_earlier_request_counts_even_if_it_is_answered_first() {
    let ledger = check(
        "loop.1 reads s1 /a born
         loop.1 reads s2 /b born
         loop.1 fails s1
         loop.1 calls c2 /b1 born
         loop.1 gets c2
         loop.1 answers s2",
        "
         server loop /a
         server loop /b
         client loop /b1",
    );
    assert_eq!(ledger.orphans.rule_lost, 1);
}

#[test]
fn a_thread_that_only_hands_requests_on_loses_the_rule_too() {
    let ledger = check(
        "pool.1 reads s1 /a born
         pool.1 reads s2 /b born
         pool.2 answers s1
         pool.3 answers s2
         pool.1 reads s1 /c born
         pool.1 calls c1 /x born
         pool.1 gets c1
         pool.1 answers s1",
        "
         server pool /a
         server pool /b
         server pool /c
         client pool /x",
    );
    assert_eq!((ledger.thread_rule_lost.two_requests, ledger.orphans.rule_lost), (1, 1));
}

#[test]
fn another_process_of_the_same_program_keeps_the_rule() {
    check(
        "a.1 reads s1 /a born
         a.1 reads s2 /b born
         a.1 answers s1
         a.1 answers s2
         b.1 reads s3 /c born
         b.1 calls c1 /x born
         b.1 gets c1
         b.1 answers s3",
        "
         server a /a
         server a /b
         server b /c
           client b /x thread",
    );
}

#[test]
fn a_response_that_was_merely_lost_does_not_cost_the_rule() {
    let mut lines = parse(
        "web.1 reads s1 /a born
         web.1 reads s2 /b born
         web.1 fails s1
         web.1 answers s2
         web.1 reads s2 /c born
         web.1 calls c1 /x born
         web.1 gets c1
         web.1 answers s2",
    );
    for input in lines.iter_mut().flat_map(|line| &mut line.inputs) {
        if let super::Input::Closed(exchange) = input {
            exchange.incomplete |= exchange.failure.is_some();
        }
    }
    let told = run(Settings::default(), &lines);
    assert_eq!(told.ledger.thread_rule_lost.two_requests, 0, "{:#?}", told.ledger);
    assert_eq!(told.ledger.links.thread, 1, "{}", told.tree);
}

#[test]
fn a_thread_with_two_calls_in_flight_proves_nothing_by_its_sockets() {
    let script = "loop.1 reads s1 /a born
         loop.1 calls c1 /a1 born
         loop.1 calls c2 /timer born
         loop.1 gets c2
         loop.1 gets c1
         loop.1 answers s1";
    let ledger = check(script, "server loop /a\nclient loop /a1\nclient loop /timer");
    assert_eq!((ledger.orphans.two_calls, ledger.thread_rule_lost.two_calls), (2, 1));
    check(
        &script.replace("/a born", "/a born one"),
        "
         server loop /a
           client loop /a1 thread
           client loop /timer thread",
    );
}

#[test]
fn calls_after_the_response_began_are_not_the_requests() {
    let ledger = check(
        "web.1 reads s1 /a born
         web.1 begins s1
         web.1 calls c1 /x born
         web.1 gets c1
         web.1 ends s1",
        "
         server web /a
         client web /x",
    );
    assert_eq!((ledger.roots.client, ledger.orphans.total()), (1, 0));
}

#[test]
fn a_call_of_a_process_that_serves_nothing_is_a_root_at_once() {
    let told = run(Settings::default(), &parse("cron.1 calls c1 /x"));
    assert!(matches!(told.outputs.first(), Some(Output::Bound { .. })));
    assert_eq!(told.ledger.roots.client, 1);
}

#[test]
fn a_forwarded_context_needs_no_answer_and_wins_over_the_thread() {
    check(
        "web.1 reads s1 /a born ctx=7:5
         web.2 reads s2 /b born ctx=7:6
         web.1 calls c1 /x born ctx=7:6
         web.1 gets c1
         web.1 answers s1
         web.2 answers s2",
        "
         server web /a header 7:5
         server web /b header 7:6
           client web /x forwarded",
    );
}

#[test]
fn an_ambiguous_context_leaves_the_thread_as_proof() {
    check(
        "web.1 reads s1 /a born ctx=7:5
         web.2 reads s2 /b born ctx=7:5
         web.1 calls c1 /x born ctx=7:5
         web.1 gets c1
         web.1 answers s1
         web.2 answers s2",
        "
         server web /a header 7:5
           client web /x thread
         server web /b header 7:5",
    );
}
