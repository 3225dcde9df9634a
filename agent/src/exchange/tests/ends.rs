//! How connections end, and what that means for what was under way (design of failures: where, why, when).

use super::*;

const OPENED: &str = "0 Client GET /a @1..1";
const REQUEST: &str = "> GET /a HTTP/1.1||";

#[test]
fn a_connection_that_ends_between_exchanges_is_no_failure() {
    for end in
        ["close peer", "close local", "close reset", "close timeout", "close killed", "exit 1", "abandon"]
    {
        check(&[REQUEST, "< HTTP/1.1 204 N||", end], &[OPENED, "0 responding @2", "0 204 @2"]);
    }
}

#[test]
fn an_unanswered_request_fails_by_what_ended_the_connection() {
    for (end, want) in [
        ("close reset", "0 none @9 ConnectionReset@9 in Receive"),
        ("close pipe", "0 none @9 ConnectionReset@9 in Receive"),
        ("close timeout", "0 none @9 TimedOut@9 in Receive"),
        ("close peer", "0 none @9 ConnectionClosed@9 in Receive"),
        ("close local", "0 none @9 Cancelled@9 in Receive"),
        ("close killed", "0 none @9 ProcessExited@9 in Receive"),
        ("close errno 113", "0 none @9 Socket(113)@9 in Receive"),
        ("exit 1", "0 none @9 ProcessExited@9 in Receive"),
        ("abandon", "0 none @1 incomplete"),
    ] {
        check(&[REQUEST, &format!("@9 {end}")], &[OPENED, want]);
    }
}

#[test]
fn a_response_that_is_cut_fails_with_its_status_and_what_came_of_it() {
    check(
        &[REQUEST, "< HTTP/1.1 200 OK|Content-Length: 9||abc", "close reset"],
        &[OPENED, "0 responding @2", "0 200 @3 bodies 0 3 ConnectionReset@3 in Receive"],
    );
}

#[test]
fn a_response_of_which_only_a_part_of_the_head_came_is_none() {
    check(
        &[REQUEST, "< HTTP/1.1 200 OK|Content-Le", "close peer"],
        &[OPENED, "0 none @3 ConnectionClosed@3 in Receive"],
    );
}

#[test]
fn a_request_that_was_cut_fails_in_its_own_direction() {
    check(
        &["< POST /a HTTP/1.1|Content-Length: 9||abc", "close peer"],
        &["0 Server POST /a @1..1", "0 none @2 bodies 3 0 request-unfinished ConnectionClosed@2 in Receive"],
    );
}

#[test]
fn a_server_that_answers_without_reading_the_whole_request_has_not_failed() {
    check(
        &[
            "< POST /a HTTP/1.1|Content-Length: 9||abc",
            "> HTTP/1.1 413 No|Content-Length: 0||",
            "close local",
        ],
        &["0 Server POST /a @1..1", "0 responding @2", "0 413 @2 bodies 3 0 request-unfinished"],
    );
}

#[test]
fn every_pipelined_request_without_a_response_fails() {
    check(
        &["< GET /a HTTP/1.1||GET /b HTTP/1.1||", "> HTTP/1.1 204 N||HTTP/1.1 200 O", "close reset"],
        &[
            "0 Server GET /a @1..1",
            "19 Server GET /b @1..1",
            "0 responding @2",
            "0 204 @2",
            "19 none @3 ConnectionReset@3 in Send",
        ],
    );
}

#[test]
fn a_response_without_a_length_ends_when_its_sender_ends_at_its_last_byte() {
    check(
        &[REQUEST, "< HTTP/1.0 200 OK||ab", "< cd", "@50 close peer"],
        &[OPENED, "0 responding @2", "0 200 @3 bodies 0 4"],
    );
    for end in ["close local", "close killed", "exit 1"] {
        check(
            &["< GET /a HTTP/1.0||", "> HTTP/1.0 200 OK||ab", "> cd", &format!("@50 {end}")],
            &["0 Server GET /a @1..1", "0 responding @2", "0 200 @3 bodies 0 4"],
        );
    }
}

#[test]
fn a_response_without_a_length_that_the_reader_gave_up_is_cancelled() {
    check(
        &[REQUEST, "< HTTP/1.0 200 OK||ab", "close local"],
        &[OPENED, "0 responding @2", "0 200 @3 bodies 0 2 Cancelled@3 in Receive"],
    );
}

#[test]
fn a_response_without_a_length_that_was_reset_has_failed() {
    check(
        &[REQUEST, "< HTTP/1.0 200 OK||ab", "close reset"],
        &[OPENED, "0 responding @2", "0 200 @3 bodies 0 2 ConnectionReset@3 in Receive"],
    );
}

#[test]
fn whether_a_client_that_died_had_read_all_of_a_response_without_a_length_is_not_said() {
    check(
        &[REQUEST, "< HTTP/1.0 200 OK||ab", "@50 exit 1", "close peer"],
        &[OPENED, "0 responding @2", "0 200 @2 bodies 0 2 incomplete"],
    );
}

#[test]
fn a_client_that_finishes_its_direction_after_the_request_still_gets_its_response() {
    check(
        &["< GET /a HTTP/1.1||", "> HTTP/1.1 200 OK||ab", "close peer"],
        &["0 Server GET /a @1..1", "0 responding @2", "0 200 @2 bodies 0 2"],
    );
    check(
        &[REQUEST, "< HTTP/1.1 200 OK||ab", "close half"],
        &[OPENED, "0 responding @2", "0 200 @2 bodies 0 2"],
    );
}

#[test]
fn the_death_of_one_of_several_users_of_a_socket_ends_nothing() {
    check(
        &["$1 < GET /a HTTP/1.1|", "$2 < |", "exit 1", "$2 > HTTP/1.1 204 N||"],
        &["0 Server GET /a @1..2", "0 responding @4", "0 204 @4"],
    );
}

#[test]
fn the_death_of_a_process_that_never_used_the_socket_ends_nothing() {
    check(
        &["$2 < GET /a HTTP/1.1||", "exit 1", "$2 > HTTP/1.1 204 N||"],
        &["0 Server GET /a @1..1", "0 responding @3", "0 204 @3"],
    );
}

#[test]
fn a_socket_that_lives_on_after_its_only_known_user_died_goes_on_like_one_joined_late() {
    check(
        &["$2 < GET /a HTTP/1.1||", "exit 2", "$3 < GET /b HTTP/1.1||", "$3 > HTTP/1.1 204 N||"],
        &[
            "0 Server GET /a @1..1",
            "0 none @2 ProcessExited@2 in Send",
            "19 Server GET /b @3..3",
            "19 responding @4",
            "19 204 @4",
        ],
    );
}

#[test]
fn a_connection_ends_once() {
    let connection = check(
        &[REQUEST, "close reset", "close peer", "abandon", "exit 1", "< HTTP/1.1 204 N||"],
        &[OPENED, "0 none @2 ConnectionReset@2 in Receive"],
    );
    assert_eq!(connection.ledger().bytes_late, 18);
}
