//! Connections that failed: whose event they are, and when they are nobody's.

use super::{check, check_with};
use crate::stitch::Settings;

#[test]
fn a_connection_that_a_requests_thread_asked_for_is_an_event_of_that_request() {
    let ledger = check(
        "web.1 reads s1 /a
         web.1 asks x1
         refused x1
         web.1 answers s1
         wait 100",
        "
         server web /a !connect.failed",
    );
    assert_eq!((ledger.connects.asked, ledger.connects.told), (1, 1));
}

#[test]
fn one_that_came_about_is_no_event() {
    let ledger = check(
        "web.1 reads s1 /a
         web.1 asks x1
         connected x1
         web.1 calls x1 /b
         web.1 gets x1
         web.1 answers s1
         wait 100",
        "
         server web /a
           client web /b thread",
    );
    assert_eq!((ledger.connects.established, ledger.connects.told), (1, 0));
}

#[test]
fn what_the_thread_does_when_the_failure_comes_says_nothing() {
    let ledger = check(
        "web.1 asks x1 one
         web.1 reads s1 /a one
         refused x1
         web.1 answers s1
         wait 100",
        "
         server web /a",
    );
    assert_eq!((ledger.connects.told, ledger.connects.alone), (0, 1));
}

#[test]
fn a_failure_that_comes_after_the_answer_is_late() {
    let ledger = check(
        "web.1 reads s1 /a one
         web.1 asks x1 one
         web.1 answers s1
         wait 100
         refused x1",
        "
         server web /a",
    );
    assert_eq!((ledger.connects.told, ledger.connects.late), (0, 1));
}

#[test]
fn a_thread_that_held_two_requests_asked_for_neither() {
    let ledger = check(
        "web.1 reads s1 /a nonblocking
         web.1 reads s2 /b nonblocking
         web.1 asks x1
         refused x1
         web.1 answers s1
         web.1 answers s2
         wait 100",
        "
         server web /a
         server web /b",
    );
    assert_eq!((ledger.connects.told, ledger.connects.alone), (0, 1));
}

#[test]
fn another_thread_that_answers_takes_the_event_away() {
    let ledger = check(
        "web.1 reads s1 /a
         web.1 asks x1
         refused x1
         web.2 answers s1
         wait 100",
        "
         server web /a",
    );
    assert_eq!((ledger.connects.told, ledger.connects.alone), (0, 1));
}

#[test]
fn on_sockets_alone_nothing_else_may_have_been_under_way() {
    let script = |flag: &str| {
        format!(
            "web.1 reads s1 /a {flag}
             web.1 asks x1 {flag}
             web.1 asks x2 {flag}
             refused x1
             refused x2
             web.1 answers s1
             wait 100"
        )
    };
    let ledger = check(&script(""), "server web /a");
    assert_eq!(ledger.connects.alone, 2);
    check(&script("one"), "server web /a !connect.failed !connect.failed");
}

#[test]
fn a_task_that_asks_is_told_by_its_keys_also_while_others_are_under_way() {
    let ledger = check(
        "web.1 reads s1 /a many owns=1
         web.1 reads s2 /b many owns=2
         web.1 asks x1 many claims=2
         web.1 asks x2 many claims=1
         dropped x1
         web.1 answers s2
         refused x2
         web.1 answers s1
         wait 200",
        "
         server web /a !connect.failed
         server web /b !connect.cancelled",
    );
    assert_eq!(ledger.connects.told, 2);
}

#[test]
fn a_task_that_owns_nothing_asked_for_nobody() {
    let ledger = check(
        "web.1 reads s1 /a many owns=1
         web.1 asks x1 many claims=5
         web.1 asks x2 many
         refused x1
         refused x2
         web.1 answers s1
         wait 200",
        "
         server web /a",
    );
    assert_eq!((ledger.connects.told, ledger.connects.alone), (0, 2));
}

#[test]
fn a_server_is_held_back_no_longer_than_a_second_for_what_may_be_its_own() {
    // Another request, which has not said what it owns, keeps the rule from being final.
    let ledger = check(
        "web.1 reads s1 /a many owns=1
         web.1 reads s2 /b many
         web.1 asks x1 many claims=5
         refused x1
         web.1 answers s1
         wait 1100
         web.1 answers s2
         wait 200",
        "
         server web /a
         server web /b",
    );
    assert_eq!((ledger.connects.told, ledger.connects.alone), (0, 1));
}

#[test]
fn too_many_in_flight_are_forgotten_and_counted() {
    let mut settings = Settings::default();
    settings.limits.connects = 2;
    let script = "web.1 reads s1 /a one
         web.1 asks x1 one
         web.1 asks x2 one
         web.1 asks x3 one
         refused x1
         refused x2
         refused x3
         web.1 answers s1
         wait 100";
    let ledger = check_with(settings, script, "server web /a !connect.failed !connect.failed");
    assert_eq!((ledger.connects.forgotten, ledger.connects.told), (1, 2));
}
