//! What is missing: gaps that framing bridges, gaps that it does not, and how pairing starts again.

use super::*;

const OPENED: &str = "0 Client GET /a @1..1";
const REQUEST: &str = "> GET /a HTTP/1.1||";

#[test]
fn a_silent_body_is_followed_exactly_and_ends_when_the_call_that_covers_it_did() {
    check(
        &[
            REQUEST,
            "< HTTP/1.1 200 OK|Content-Length: 100000||{100}",
            "@30 <~ silent 99900",
            "> GET /b HTTP/1.1||",
            "< HTTP/1.1 204 N||",
        ],
        &[
            OPENED,
            "0 responding @2",
            "0 200 @30 bodies 0 100000",
            "19 Client GET /b @31..31",
            "19 responding @32",
            "19 204 @32",
        ],
    );
}

#[test]
fn a_body_sent_from_a_file_is_followed_exactly() {
    check(
        &["< GET /a HTTP/1.1||", "> HTTP/1.1 200 OK|Content-Length: 5000||", ">~ unseen 5000"],
        &["0 Server GET /a @1..1", "0 responding @2", "0 200 @3 bodies 0 5000"],
    );
}

#[test]
fn a_lost_record_inside_a_body_of_known_length_costs_nothing() {
    check(
        &[REQUEST, "< HTTP/1.1 200 OK|Content-Length: 9||", "<~ lost 5", "< abcd"],
        &[OPENED, "0 responding @2", "0 200 @4 bodies 0 9"],
    );
}

#[test]
fn a_response_whose_framing_is_missing_is_closed_with_its_head() {
    check(
        &[
            REQUEST,
            "< HTTP/1.1 200 OK|Transfer-Encoding: chunked||3|",
            "@20 <~ limit 12",
            "> GET /b HTTP/1.1||",
            "< HTTP/1.1 204 N||",
        ],
        &[
            OPENED,
            "0 responding @2",
            "0 200 @20 incomplete",
            "19 Client GET /b @21..21",
            "19 responding @22",
            "19 204 @22",
        ],
    );
}

#[test]
fn what_was_lost_without_a_time_does_not_move_the_end() {
    check(
        &[REQUEST, "< HTTP/1.1 200 OK|Transfer-Encoding: chunked||3|", "@900 <~ lost 12"],
        &[OPENED, "0 responding @2", "0 200 @2 incomplete"],
    );
}

#[test]
fn after_a_lost_response_the_next_one_is_not_given_to_its_request() {
    // The response to /a and the request /b were lost; what comes is the response to /b.
    let connection = check(
        &[REQUEST, "<~ lost 18", "< HTTP/1.1 500 No|Content-Length: 0||"],
        &[OPENED, "0 none @1 incomplete"],
    );
    assert_eq!(connection.ledger().responses_without_request, 1);
}

#[test]
fn after_a_lost_response_pairing_starts_with_the_next_request() {
    check(
        &[
            REQUEST,
            "<~ lost 18",
            "< HTTP/1.1 500 No|Content-Length: 0||",
            ">~ lost 19",
            "> GET /c HTTP/1.1||",
            "< HTTP/1.1 204 N||",
        ],
        &[OPENED, "0 none @1 incomplete", "38 Client GET /c @5..5", "38 responding @6", "38 204 @6"],
    );
}

#[test]
fn a_response_behind_a_gap_is_not_given_to_a_request_before_it() {
    // The response to /b was lost, the next request came, and only its response shows the loss.
    check(
        &[
            REQUEST,
            "< HTTP/1.1 204 N||",
            "> GET /b HTTP/1.1||",
            "> GET /c HTTP/1.1||",
            "<~ lost 18",
            "< HTTP/1.1 204 N||",
            "> GET /d HTTP/1.1||",
            "< HTTP/1.1 304 N||",
        ],
        &[
            OPENED,
            "0 responding @2",
            "0 204 @2",
            "19 Client GET /b @3..3",
            "38 Client GET /c @4..4",
            "19 none @3 incomplete",
            "38 none @4 incomplete",
            "57 Client GET /d @7..7",
            "57 responding @8",
            "57 304 @8",
        ],
    );
}

#[test]
fn requests_before_a_lost_one_are_still_answered_in_order() {
    check(
        &[
            "< GET /a HTTP/1.1||GET /b HTTP/1.1||",
            "<~ lost 19",
            "> HTTP/1.1 204 N||",
            "> HTTP/1.1 304 N||",
            "> HTTP/1.1 500 N|Content-Length: 0||",
        ],
        &[
            "0 Server GET /a @1..1",
            "19 Server GET /b @1..1",
            "0 responding @3",
            "0 204 @3",
            "19 responding @4",
            "19 304 @4",
        ],
    );
}

#[test]
fn a_request_whose_body_lost_its_framing_is_still_answered() {
    check(
        &[
            "< POST /a HTTP/1.1|Transfer-Encoding: chunked||5|",
            "<~ lost 20",
            "> HTTP/1.1 204 N||",
            "< GET /b HTTP/1.1||",
            "> HTTP/1.1 200 OK|Content-Length: 0||",
        ],
        &[
            "0 Server POST /a @1..1",
            "0 responding @3",
            "0 204 @3 request-unfinished incomplete",
            "71 Server GET /b @4..4",
            "71 responding @5",
            "71 200 @5",
        ],
    );
}

#[test]
fn a_request_behind_a_lost_one_waits_for_the_response_of_neither() {
    // /b was lost; /c came while /a was unanswered: this connection pipelines, and whose the second response
    // is cannot be known.
    check(
        &[
            "< GET /a HTTP/1.1||",
            "<~ lost 19",
            "< GET /c HTTP/1.1||",
            "> HTTP/1.1 204 N||",
            "> HTTP/1.1 304 N||",
        ],
        &[
            "0 Server GET /a @1..1",
            "38 Server GET /c @3..3",
            "0 responding @4",
            "0 204 @4",
            "38 none @3 incomplete",
        ],
    );
}

#[test]
fn a_connection_joined_between_exchanges_is_followed_from_its_next_request_on() {
    check_late(
        &["< GET /a HTTP/1.1||", "> HTTP/1.1 204 N||", "< GET /b HTTP/1.1||", "> HTTP/1.1 304 N||"],
        &[
            "0 Server GET /a @1..1",
            "0 responding @2",
            "0 204 @2",
            "19 Server GET /b @3..3",
            "19 responding @4",
            "19 304 @4",
        ],
    );
}

#[test]
fn a_response_to_a_request_that_was_sent_before_we_came_belongs_to_nothing() {
    let connection = check_late(
        &["< HTTP/1.1 200 OK|Content-Length: 2||hi", "> GET /b HTTP/1.1||", "< HTTP/1.1 204 N||"],
        &["0 Client GET /b @2..2", "0 responding @3", "0 204 @3"],
    );
    assert_eq!(connection.ledger().responses_without_request, 1);
}

#[test]
fn a_connection_joined_in_the_middle_of_a_body_is_followed_from_its_next_request_on() {
    for body in ["< {50}", "< tail of a body||", "< GET it? No|"] {
        check_late(
            &[body, "< 20|more|0||", "> POST /b HTTP/1.1|Content-Length: 1||", "> x", "< HTTP/1.1 204 N||"],
            &["0 Client POST /b @3..3", "0 responding @5", "0 204 @5 bodies 1 0"],
        );
    }
}

#[test]
fn a_connection_joined_during_a_response_to_head_is_followed_from_its_next_request_on() {
    check_late(
        &["< HTTP/1.1 200 OK|Content-Length: 1000||", "> GET /b HTTP/1.1||", "< HTTP/1.1 204 N||"],
        &["0 Client GET /b @2..2", "0 responding @3", "0 204 @3"],
    );
}

#[test]
fn out_of_step_a_response_that_begins_before_its_request_ended_is_not_believed() {
    check_late(
        &["< POST /a HTTP/1.1|Content-Length: 9||a", "> HTTP/1.1 401 No|Content-Length: 0||", "< {8}"],
        &["0 Server POST /a @1..1", "0 none @1 request-unfinished incomplete"],
    );
}

#[test]
fn out_of_step_an_interim_response_does_not_hide_the_final_one() {
    check_late(
        &[
            "> \u{1}{20}",
            "< POST /a HTTP/1.1|Content-Length: 1||",
            "> HTTP/1.1 100 C||",
            "< a",
            "> HTTP/1.1 204 N||",
        ],
        &["0 Server POST /a @2..2", "0 responding @5", "0 204 @5 bodies 1 0"],
    );
}

#[test]
fn out_of_step_a_connection_that_pipelines_is_paired_only_after_a_silence() {
    check_late(
        &[
            "< GET /a HTTP/1.1||GET /b HTTP/1.1||",
            "> HTTP/1.1 204 N||HTTP/1.1 204 N||HTTP/1.1 204 N||",
            "< GET /c HTTP/1.1||",
            "> HTTP/1.1 204 N||",
            "@5000 < GET /d HTTP/1.1||",
            "> HTTP/1.1 304 N||",
        ],
        &[
            "0 Server GET /a @1..1",
            "19 Server GET /b @1..1",
            "0 none @1 incomplete",
            "19 none @1 incomplete",
            "38 Server GET /c @3..3",
            "38 none @3 incomplete",
            "57 Server GET /d @5000..5000",
            "57 responding @5001",
            "57 304 @5001",
        ],
    );
}

#[test]
fn garbage_between_messages_costs_what_was_under_way_and_no_more() {
    check(
        &[REQUEST, "< HTTP/2.7 \u{0}garbage||", "> GET /b HTTP/1.1||", "< HTTP/1.1 204 N||"],
        &[OPENED, "0 none @1 incomplete", "19 Client GET /b @3..3", "19 responding @4", "19 204 @4"],
    );
}

#[test]
fn a_request_behind_a_missing_one_that_nothing_can_have_answered_is_not_paired() {
    // Nothing was written between the responses to /a and the next one: that may be the one to /b.
    check(
        &[
            "< GET /a HTTP/1.1||",
            "> HTTP/1.1 204 N||",
            "<~ lost 19",
            "< GET /c HTTP/1.1||",
            "> HTTP/1.1 304 N||",
        ],
        &[
            "0 Server GET /a @1..1",
            "0 responding @2",
            "0 204 @2",
            "38 Server GET /c @4..4",
            "38 none @4 incomplete",
        ],
    );
}

#[test]
fn out_of_step_the_calls_of_two_threads_are_believed_when_they_are_far_apart() {
    check_late(
        &["#1 < GET /a HTTP/1.1||", "@20 #2 > HTTP/1.1 204 N||"],
        &["0 Server GET /a @1..1", "0 responding @20", "0 204 @20"],
    );
    check_late(
        &["#2 < HTTP/1.1 204 N||", "@20 #1 > GET /a HTTP/1.1||", "#2 < HTTP/1.1 304 N||"],
        &["0 Client GET /a @20..20", "0 responding @21", "0 304 @21"],
    );
}

#[test]
fn out_of_step_the_calls_of_two_threads_are_believed_after_they_took_turns() {
    check_late(
        &[
            "#1 < GET /a HTTP/1.1||",
            "#2 > HTTP/1.1 204 N||",
            "#1 < GET /b HTTP/1.1||",
            "#2 > HTTP/1.1 204 N||",
            "#1 < GET /c HTTP/1.1||",
            "#2 > HTTP/1.1 304 N||",
        ],
        &[
            "0 Server GET /a @1..1",
            "0 none @1 incomplete",
            "19 Server GET /b @3..3",
            "19 none @3 incomplete",
            "38 Server GET /c @5..5",
            "38 responding @6",
            "38 304 @6",
        ],
    );
}

#[test]
fn an_overlap_takes_back_what_was_assumed_when_we_came() {
    check_late(
        &[
            "< GET /a HTTP/1.1||",
            "> HTTP/1.1 204 N||",
            "< GET /b HTTP/1.1||",
            "< GET /c HTTP/1.1||",
            "> HTTP/1.1 304 N||",
        ],
        &[
            "0 Server GET /a @1..1",
            "0 responding @2",
            "0 204 @2",
            "19 Server GET /b @3..3",
            "38 Server GET /c @4..4",
            "19 none @3 incomplete",
            "38 none @4 incomplete",
        ],
    );
}
