//! Conversations in FastCGI.

use super::*;

const BEGIN: &str = "\x01\x01\0\x01\0\x08\0\0\0\x01\x01\0\0\0\0\0";
const PARAMS: &str = "\x01\x04\0\x01\0\x0f\0\0\x0b\x02REQUEST_URI/a\x01\x04\0\x01\0\0\0\0";
const NO_BODY: &str = "\x01\x05\0\x01\0\0\0\0";
const OUTPUT: &str = "\x01\x06\0\x01\0\x18\0\0Status: 404 N\r\nA: b\r\n\r\nX";
const END: &str = "\x01\x03\0\x01\0\x08\0\0\0\0\0\0\0\0\0\0";

fn received(parts: &[&str]) -> String {
    format!("< {}", parts.concat())
}

fn sent(parts: &[&str]) -> String {
    format!("> {}", parts.concat())
}

#[test]
fn requests_one_after_the_other_have_their_responses() {
    let (request, response) = (received(&[BEGIN, PARAMS, NO_BODY]), sent(&[OUTPUT, END]));
    let connection = check(
        &[&request, &response, &request, &response],
        &[
            "0 Server  /a @1..1",
            "0 responding @2",
            "0 404 @2 bodies 0 1",
            "55 Server  /a @3..3",
            "55 responding @4",
            "55 404 @4 bodies 0 1",
        ],
    );
    assert_eq!(connection.protocol(), Classified::FastCgi);
    let (request, response) = (sent(&[BEGIN, PARAMS, NO_BODY]), received(&[OUTPUT, END]));
    check(&[&request, &response], &["0 Client  /a @1..1", "0 responding @2", "0 404 @2 bodies 0 1"]);
}

#[test]
fn records_come_in_reads_of_their_own_and_a_connection_may_be_met_at_any_request() {
    let parts = [&BEGIN[..8], &BEGIN[8..], PARAMS, NO_BODY].map(|part| received(&[part]));
    let response = sent(&[OUTPUT, END]);
    let script = [&response, &parts[0], &parts[1], &parts[2], &parts[3], &response];
    check_late(
        &script.map(String::as_str),
        &["0 Server  /a @2..4", "0 responding @6", "0 404 @6 bodies 0 1"],
    );
}

#[test]
fn a_response_that_never_comes_has_failed_and_one_that_was_cut_too() {
    let request = received(&[BEGIN, PARAMS, NO_BODY]);
    check(&[&request, "close peer"], &["0 Server  /a @1..1", "0 none @2 ConnectionClosed@2 in Send"]);
    let half = sent(&[OUTPUT]);
    check(
        &[&request, &half, "close reset"],
        &["0 Server  /a @1..1", "0 responding @2", "0 404 @3 bodies 0 1 ConnectionReset@3 in Send"],
    );
}

#[test]
fn a_lost_record_ends_what_is_open_and_the_next_request_begins_anew() {
    let (request, response) = (received(&[BEGIN, PARAMS, NO_BODY]), sent(&[OUTPUT, END]));
    check(
        &[&request, ">~ lost 48", &request, &response],
        &[
            "0 Server  /a @1..1",
            "0 none @1 incomplete",
            "55 Server  /a @3..3",
            "55 responding @4",
            "55 404 @4 bodies 0 1",
        ],
    );
}

#[test]
fn a_long_body_is_not_asked_for() {
    let (begin, params) = (received(&[BEGIN, PARAMS]), "< \x01\x05\0\x01\x7f\x7f\0\0abc");
    check_wishes(
        true,
        &[&begin, params],
        &["0: Receive Everything", "0: Send Everything", "1: Receive From { offset: 32694 }"],
    );
}
