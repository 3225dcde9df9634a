//! What an exchange is when nothing is missing: beginning, response, end (RFC 9110, RFC 9112).

use super::*;

#[test]
fn a_server_exchange_lasts_from_the_first_byte_read_to_the_last_byte_written() {
    check(
        &["< GET /a HTT", "< P/1.1|Host: h||", "> HTTP/1.1 200 OK|Content-Length: 4||", "> te", "> xt"],
        &["0 Server GET /a @1..2", "0 responding @3", "0 200 @5 bodies 0 4"],
    );
}

#[test]
fn a_client_exchange_lasts_from_the_first_byte_written_to_the_last_byte_read() {
    check(
        &["> POST /a HTTP/1.1|Content-Length: 2||", "> hi", "< HTTP/1.1 204 No Con", "< tent||"],
        &["0 Client POST /a @1..1", "0 responding @3", "0 204 @4 bodies 2 0"],
    );
}

#[test]
fn each_request_of_a_kept_alive_connection_is_its_own_exchange() {
    check(
        &["> GET /a HTTP/1.1||", "< HTTP/1.1 304 N||", "> GET /b HTTP/1.1||", "< HTTP/1.1 204 N||"],
        &[
            "0 Client GET /a @1..1",
            "0 responding @2",
            "0 304 @2",
            "19 Client GET /b @3..3",
            "19 responding @4",
            "19 204 @4",
        ],
    );
}

#[test]
fn pipelined_requests_are_answered_in_their_order() {
    check(
        &[
            "< GET /a HTTP/1.1||HEAD /b HTTP/1.1||GET /c HTTP/1.1||",
            "> HTTP/1.1 200 OK|Content-Length: 2||hiHTTP/1.1 200 OK|Content-Length: 5||",
            "> HTTP/1.1 404 NF|Content-Length: 0||",
        ],
        &[
            "0 Server GET /a @1..1",
            "19 Server HEAD /b @1..1",
            "39 Server GET /c @1..1",
            "0 responding @2",
            "0 200 @2 bodies 0 2",
            "19 responding @2",
            "19 200 @2",
            "39 responding @3",
            "39 404 @3",
        ],
    );
}

#[test]
fn an_interim_response_answers_nothing_and_is_not_the_beginning_of_the_response() {
    check(
        &[
            "< POST /a HTTP/1.1|Expect: 100-continue|Content-Length: 3||",
            "> HTTP/1.1 100 Continue||",
            "< abc",
            "> HTTP/1.1 103 Early Hints|Link: x||HTTP/1.",
            "> 1 201 Created|Content-Length: 0||",
        ],
        &["0 Server POST /a @1..1", "0 responding @4", "0 201 @5 bodies 3 0"],
    );
}

#[test]
fn a_101_that_nobody_asked_for_answers_nothing() {
    check(
        &["> GET /a HTTP/1.1||", "< HTTP/1.1 101 Eh||", "< HTTP/1.1 204 N||"],
        &["0 Client GET /a @1..1", "0 responding @3", "0 204 @3"],
    );
}

#[test]
fn a_response_may_begin_and_end_before_its_request_does() {
    check(
        &[
            "< POST /a HTTP/1.1|Content-Length: 4||",
            "> HTTP/1.1 413 Too Large|Content-Length: 2||no",
            "< ab",
            "< cd",
            "< GET /b HTTP/1.1||",
            "> HTTP/1.1 204 N||",
        ],
        &[
            "0 Server POST /a @1..1",
            "0 responding @2",
            "0 413 @2 bodies 4 2",
            "43 Server GET /b @5..5",
            "43 responding @6",
            "43 204 @6",
        ],
    );
}

#[test]
fn chunked_messages_end_with_their_last_chunk_and_trailers() {
    check(
        &[
            "> POST /a HTTP/1.1|Transfer-Encoding: chunked||3|abc|",
            "> 0|X: y||",
            "< HTTP/1.1 200 OK|Transfer-Encoding: chunked||",
            "< 2;ext=1|hi|0||",
        ],
        &["0 Client POST /a @1..1", "0 responding @3", "0 200 @4 bodies 3 2"],
    );
}

#[test]
fn a_response_to_head_has_no_body() {
    check(
        &["> HEAD /a HTTP/1.1||", "< HTTP/1.1 200 OK|Content-Length: 500||", "> GET /b HTTP/1.0||"],
        &["0 Client HEAD /a @1..1", "0 responding @2", "0 200 @2", "20 Client GET /b @3..3"],
    );
}

#[test]
fn a_websocket_exchange_ends_with_the_head_of_its_response() {
    let connection = check(
        &[
            "< GET /ws HTTP/1.1|Connection: Upgrade|Upgrade: websocket||",
            "> HTTP/1.1 101 Switching Protocols||",
            "< \u{1}\u{2}frame",
            "> GET /not-http HTTP/1.1||",
            "close peer",
        ],
        &["0 Server GET /ws @1..1", "0 responding @2", "0 101 @2 switched"],
    );
    assert_eq!(connection.protocol(), Classified::Other(Other::Switched));
}

#[test]
fn frames_that_were_read_before_the_record_of_the_101_came_do_no_harm() {
    check(
        &[
            "< GET /ws HTTP/1.1|Connection: Upgrade|Upgrade: websocket||",
            "< \u{1}\u{2}frame||",
            "> HTTP/1.1 101 Switching Protocols||",
        ],
        &["0 Server GET /ws @1..1", "0 responding @3", "0 101 @3 switched"],
    );
}

#[test]
fn an_upgrade_that_the_server_ignores_is_an_exchange_like_any_other() {
    check(
        &[
            "> GET /a HTTP/1.1|Upgrade: h2c||",
            "< HTTP/1.1 200 OK|Content-Length: 2||hi",
            "> GET /b HTTP/1.1||",
            "< HTTP/1.1 204 N||",
        ],
        &[
            "0 Client GET /a @1..1",
            "0 responding @2",
            "0 200 @2 bodies 0 2",
            "33 Client GET /b @3..3",
            "33 responding @4",
            "33 204 @4",
        ],
    );
}

#[test]
fn a_tunnel_begins_only_when_connect_succeeds() {
    check(
        &[
            "> CONNECT h:1 HTTP/1.1||",
            "< HTTP/1.1 407 Auth|Content-Length: 0||",
            "> CONNECT h:1 HTTP/1.1||",
            "< HTTP/1.1 200 OK|Content-Length: 9||",
            "> GET /inside HTTP/1.1||",
        ],
        &[
            "0 Client CONNECT h:1 @1..1",
            "0 responding @2",
            "0 407 @2",
            "24 Client CONNECT h:1 @3..3",
            "24 responding @4",
            "24 200 @4 switched",
        ],
    );
}

#[test]
fn each_call_of_a_message_may_be_made_by_another_thread() {
    let steps = parse(&["#1 < GET /a HTTP", "#2 < /1.1||", "#3 > HTTP/1.1 204 ", "#4 > N||"]);
    let (_, events) = run(true, &steps);
    let Event::Opened { began, at, .. } = &events[0] else { panic!("{events:?}") };
    assert_eq!((began.thread, at.thread), (ThreadId(1), ThreadId(2)));
    let Event::Closed(exchange) = &events[2] else { panic!("{events:?}") };
    assert_eq!(exchange.request_ended.map(|at| at.thread), Some(ThreadId(2)));
    assert_eq!(exchange.responded.map(|at| at.thread), Some(ThreadId(3)));
}
