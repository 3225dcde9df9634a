//! Records come in an order that never was: a response before its request, an end before its beginning.

use super::*;

#[test]
fn a_response_whose_record_came_before_its_request_waits_for_it() {
    check(
        &["@6 #2 < HTTP/1.1 200 OK|Content-Length: 2||h", "@8 #2 < i", "@5 #1 > GET /a HTTP/1.1||"],
        &["0 Client GET /a @5..5", "0 responding @6", "0 200 @8 bodies 0 2"],
    );
    check(
        &[
            "> GET /a HTTP/1.1||",
            "< HTTP/1.1 204 N||",
            "#2 < HTTP/1.1 200 OK|Content-Length: 2||hi",
            "#1 > GET /b HTT",
            "#1 > P/1.1||",
        ],
        &[
            "0 Client GET /a @1..1",
            "0 responding @2",
            "0 204 @2",
            "19 Client GET /b @4..5",
            "19 responding @3",
            "19 200 @4 bodies 0 2",
        ],
    );
}

#[test]
fn a_response_to_head_that_came_first_is_framed_as_one() {
    check(
        &["< HTTP/1.1 200 OK|Content-Length: 500||", "> HEAD /a HTTP/1.1||", "> GET /b HTTP/1.1||"],
        &["0 Client HEAD /a @2..2", "0 responding @1", "0 200 @2", "20 Client GET /b @3..3"],
    );
}

#[test]
fn a_response_read_long_before_the_next_request_was_sent_is_not_its_response() {
    let connection = check(
        &[
            "> GET /a HTTP/1.1||",
            "< HTTP/1.1 204 N||",
            "< HTTP/1.1 408 Idle|Content-Length: 0||",
            "@5000 > GET /b HTTP/1.1||",
            "< HTTP/1.1 304 N||",
        ],
        &[
            "0 Client GET /a @1..1",
            "0 responding @2",
            "0 204 @2",
            "19 Client GET /b @5000..5000",
            "19 responding @5001",
            "19 304 @5001",
        ],
    );
    assert_eq!(connection.ledger().responses_without_request, 1);
}

#[test]
fn at_a_server_no_response_was_written_before_its_request_was_read() {
    let connection = check(
        &[
            "< GET /a HTTP/1.1||",
            "> HTTP/1.1 204 N||",
            "> HTTP/1.1 408 Idle|Content-Length: 0||",
            "< GET /b HTTP/1.1||",
            "> HTTP/1.1 304 N||",
        ],
        &[
            "0 Server GET /a @1..1",
            "0 responding @2",
            "0 204 @2",
            "19 Server GET /b @4..4",
            "19 responding @5",
            "19 304 @5",
        ],
    );
    assert_eq!(connection.ledger().responses_without_request, 1);
}

#[test]
fn a_gap_in_the_requests_shows_that_a_response_that_waits_is_none_of_the_next_request() {
    let connection = check(
        &[
            "> GET /a HTTP/1.1||",
            "< HTTP/1.1 204 N||",
            "< HTTP/1.1 500 No|Content-Length: 0||",
            ">~ lost 19",
            "> GET /c HTTP/1.1||",
            "< HTTP/1.1 304 N||",
        ],
        &[
            "0 Client GET /a @1..1",
            "0 responding @2",
            "0 204 @2",
            "38 Client GET /c @5..5",
            "38 responding @6",
            "38 304 @6",
        ],
    );
    assert_eq!(connection.ledger().responses_without_request, 1);
}

#[test]
fn a_response_that_waits_at_the_end_of_the_connection_belongs_to_nothing() {
    for end in ["close peer", "exit 1", "abandon"] {
        let connection = check(
            &["> GET /a HTTP/1.1||", "< HTTP/1.1 204 N||", "< HTTP/1.1 408 Idle||", end],
            &["0 Client GET /a @1..1", "0 responding @2", "0 204 @2"],
        );
        assert_eq!(connection.ledger().responses_without_request, 1);
        assert_eq!(connection.ledger().bytes_held, 0);
    }
}

#[test]
fn a_server_whose_response_was_recorded_after_the_next_request_is_still_in_step() {
    check(
        &[
            "< GET /a HTTP/1.1||",
            "@5 #2 < GET /b HTTP/1.1||",
            "@6 #1 > HTTP/1.1 204 N||",
            "@7 #2 > HTTP/1.1 304 N||",
        ],
        &[
            "0 Server GET /a @1..1",
            "19 Server GET /b @5..5",
            "0 responding @6",
            "0 204 @6",
            "19 responding @7",
            "19 304 @7",
        ],
    );
}

#[test]
fn an_exchange_never_ends_before_it_began() {
    let connection = check(
        &["@9 < HTTP/1.1 204 N||", "@12 > GET /a HTTP/1.1||"],
        &["0 Client GET /a @12..12", "0 responding @9", "0 204 @12"],
    );
    assert_eq!(connection.ledger().ends_clamped, 1);
}
