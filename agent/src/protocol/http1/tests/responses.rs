//! Responses: their bodies as RFC 9112 §6.3 frames them, interim responses, and other protocols.

use super::*;
use crate::protocol::http1::Awaits;
use Answers::{Connect, Head, Ordinary, Unknown, Upgrade};

#[test]
fn a_response_has_the_body_that_its_length_says() {
    responses(
        &[Ordinary, Ordinary],
        "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhelloHTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n",
        &["0 began", "0..38 200", "43 ended, body 5", "43 began", "43..88 404", "88 ended, body 0"],
    );
}

#[test]
fn a_status_line_may_lack_its_reason_and_have_any_text_as_one() {
    responses(&[Ordinary], "HTTP/1.1 204\r\n\r\n", &["0 began", "0..16 204", "16 ended, body 0"]);
    responses(&[Ordinary], "HTTP/1.1 204 \n\n", &["0 began", "0..15 204", "15 ended, body 0"]);
    responses(&[Ordinary], "HTTP/1.1 204 Größe:\tx\r\n\r\n", &["0 began", "0..27 204", "27 ended, body 0"]);
    responses(
        &[Ordinary],
        "HTTP/1.1 999 x\r\nContent-Length: 0\r\n\r\n",
        &["0 began", "0..37 999", "37 ended, body 0"],
    );
}

#[test]
fn a_status_line_that_breaks_a_rule_is_no_response() {
    for line in [
        "HTTP/1.1  200 OK",
        "HTTP/1.1 20 OK",
        "HTTP/1.1 2000",
        "HTTP/1.1 099 OK",
        "HTTP/1.1 0200 OK",
        "HTTP/1.1 2x0 OK",
        "HTTP/1.1",
        "HTTP/2 200 OK",
        "HTTP/1.1 200 \x01",
        "HTTP/1.1 200 a\rb",
    ] {
        responses(&[], &format!("{line}\r\n\r\n"), &["0 began", "0 lost: status_line"]);
    }
    responses(&[], "ICY 200 OK\r\n\r\n", &["0 lost: status_line"]);
}

#[test]
fn a_response_to_head_has_no_body_whatever_it_says() {
    responses(
        &[Head, Head, Head, Ordinary],
        concat!(
            "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
            "HTTP/1.0 200 OK\r\n\r\n",
            "HTTP/1.1 304 x\r\nContent-Length: 5\r\n\r\n"
        ),
        &[
            "0 began",
            "0..38 200",
            "38 ended, body 0",
            "38 began",
            "38..85 200",
            "85 ended, body 0",
            "85 began",
            "85..104 200 HTTP/1.0",
            "104 ended, body 0",
            "104 began",
            "104..141 304",
            "141 ended, body 0",
        ],
    );
}

#[test]
fn interim_responses_have_no_end_and_answer_nothing() {
    responses(
        &[Ordinary],
        concat!(
            "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 102 Processing\r\n\r\n",
            "HTTP/1.1 103 Early Hints\r\nContent-Length: 9\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nx"
        ),
        &[
            "0 began",
            "0..25 100",
            "25 began",
            "25..52 102",
            "52 began",
            "52..99 103",
            "99 began",
            "99..137 200",
            "138 ended, body 1",
        ],
    );
}

#[test]
fn a_response_without_a_length_lasts_until_the_end() {
    responses(
        &[Ordinary],
        "HTTP/1.0 200 OK\r\n\r\nHTTP/1.1 200 OK\r\n\r\n<close>",
        &["0 began", "0..19 200 HTTP/1.0", "38 ended, body 19"],
    );
    responses(&[Ordinary], "HTTP/1.1 200 OK\r\n\r\n<close>", &["0 began", "0..19 200", "19 ended, body 0"]);
    responses(
        &[Ordinary],
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\nContent-Length: 1\r\n\r\nxyz<close>",
        &["0 began", "0..63 200", "66 ended, body 3"],
    );
}

#[test]
fn a_response_that_the_end_cuts_is_truncated() {
    responses(
        &[Ordinary],
        "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nxyz<close>",
        &["0 began", "0..38 200", "41 truncated, body 3"],
    );
    responses(
        &[Ordinary],
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nxyz\r\n<close>",
        &["0 began", "0..47 200", "55 truncated, body 3"],
    );
}

#[test]
fn equal_lengths_are_one_length_and_different_ones_lose_the_place() {
    responses(
        &[Ordinary],
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\ncontent-length: 2, 2\r\n\r\nhi",
        &["0 began", "0..60 200", "62 ended, body 2"],
    );
    responses(
        &[Ordinary, Ordinary],
        "HTTP/1.1 204 x\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nhi",
        &["0 began", "0..18 204", "18 ended, body 0", "18 began", "18..75 200", "75 lost: content_length"],
    );
}

#[test]
fn only_an_asked_for_101_switches() {
    responses(
        &[Upgrade],
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n\u{1}\u{5}hello<close>",
        &["0 began", "0..56 101 Upgrade=websocket", "56 ended, body 0", "56 switched"],
    );
    responses(
        &[Ordinary, Ordinary],
        "HTTP/1.1 101 What\r\n\r\nHTTP/1.1 204 No\r\n\r\n",
        &["0 began", "0..21 101", "21 ended, body 0", "21 began", "21..40 204", "40 ended, body 0"],
    );
    responses(
        &[Upgrade],
        "HTTP/1.1 200 No\r\nContent-Length: 2\r\n\r\nhi",
        &["0 began", "0..38 200", "40 ended, body 2"],
    );
}

#[test]
fn a_2xx_to_connect_opens_a_tunnel_and_others_have_bodies() {
    responses(
        &[Connect],
        "HTTP/1.1 200 Connection established\r\nContent-Length: 4\r\n\r\nHTTP/1.1 200 OK\r\n\r\n",
        &["0 began", "0..58 200", "58 ended, body 0", "58 switched"],
    );
    responses(
        &[Connect],
        "HTTP/1.1 407 Auth\r\nContent-Length: 2\r\n\r\nhi",
        &["0 began", "0..40 407", "42 ended, body 2"],
    );
}

#[test]
fn switched_bytes_are_counted_as_such() {
    let mut driver = Driver::new(Side::Responses, &[Upgrade]);
    driver.call("HTTP/1.1 101 S\r\n\r\n\u{1}\u{5}hello").call("more").gap(9);
    assert_eq!(driver.parser.awaits(), Awaits::Nothing);
    assert_eq!((driver.parser.ledger().switched, driver.parser.ledger().gap_body), (11, 9));
}

#[test]
fn a_response_to_an_unknown_request_is_framed_by_its_own_fields() {
    responses(
        &[Unknown, Unknown],
        "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhelloHTTP/1.1 101 S\r\n\r\nxyz",
        &[
            "0 began",
            "0..38 200",
            "43 ended, body 5",
            "43 began",
            "43..61 101",
            "61 ended, body 0",
            "61 switched",
        ],
    );
}

const UNKNOWN: &str = "HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\n";
const NEXT: &str = "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n";

#[test]
fn a_status_line_in_the_place_of_an_unknown_responses_body_shows_that_there_is_none() {
    for head in [UNKNOWN, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", "HTTP/1.1 200 OK\r\n\r\n"]
    {
        for cut in 0..NEXT.len() {
            let mut driver = Driver::new(Side::Responses, &[Unknown, Ordinary]);
            driver.call(head);
            assert_eq!(driver.parser.awaits(), Awaits::Head, "nothing may be left out while in doubt");
            driver.call(&NEXT[..cut]).call(&NEXT[cut..]);
            let (end, next) = (head.len(), head.len() + NEXT.len());
            driver.told(&[
                "0 began",
                &format!("0..{end} 200"),
                &format!("{end} ended, body 0"),
                &format!("{end} began"),
                &format!("{end}..{next} 404"),
                &format!("{next} ended, body 0"),
            ]);
        }
    }
}

#[test]
fn an_unknown_responses_body_that_only_begins_like_a_status_line_is_a_body() {
    let body = format!("{:<50}", "HTTP/1.1 20 bottles of beer");
    for cut in 0..body.len() {
        let mut driver = Driver::new(Side::Responses, &[Unknown]);
        driver.call(UNKNOWN).call(&body[..cut]).call(&body[cut..]);
        driver.told(&["0 began", "0..39 200", "89 ended, body 50"]);
    }
    let mut driver = Driver::new(Side::Responses, &[Unknown]);
    driver.call("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n").call("HTTP").told(&["0 began", "0..38 200"]);
    assert_eq!(driver.parser.ledger().held, 4);
    driver.close().told(&["42 ended, body 4"]);
}

#[test]
fn a_status_line_after_some_of_the_body_is_body() {
    let mut driver = Driver::new(Side::Responses, &[Unknown]);
    driver.call(UNKNOWN).more("x").call(NEXT).told(&["0 began", "0..39 200"]);
    assert_eq!(driver.parser.awaits(), Awaits::Body(49 - NEXT.len() as u64));
    let mut driver = Driver::new(Side::Responses, &[Unknown]);
    driver.call(UNKNOWN).gap(1).call(NEXT).told(&["0 began", "0..39 200"]);
}

#[test]
fn a_status_line_in_the_body_of_a_known_response_is_body() {
    let mut driver = Driver::new(Side::Responses, &[Ordinary]);
    driver.call(UNKNOWN).call(NEXT).told(&["0 began", "0..39 200"]);
}

#[test]
fn what_was_held_in_doubt_is_body_when_bytes_are_missing_behind_it() {
    let mut driver = Driver::new(Side::Responses, &[Unknown]);
    driver.call(UNKNOWN).call("HTTP").gap(46).told(&["0 began", "0..39 200", "89 ended, body 50"]);
    assert_eq!((driver.parser.ledger().body, driver.parser.ledger().gap_body), (4, 46));
}
