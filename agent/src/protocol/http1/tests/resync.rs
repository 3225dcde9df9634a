//! Finding a place again: only at the start of a call, only with a complete valid head.

use super::*;
use crate::protocol::http1::{Awaits, Malformed};

const GET: &str = "GET / HTTP/1.1\r\n\r\n";
const CHUNKED: &str = "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n";

/// A parser of requests that is lost, at offset 20.
fn lost() -> Driver {
    let mut driver = Driver::new(Side::Requests, &[]);
    driver.call(GET).gap(2).told(&["0 began", "0..18 GET /", "18 ended, body 0", "18 lost: gap"]);
    driver
}

#[test]
fn a_stream_that_is_joined_inside_a_call_is_lost_until_the_next_one() {
    let mut driver = Driver::new(Side::Requests, &[]);
    driver.more("GET / HTTP/1.1\r\n\r\n").told(&["0 lost: joined"]);
    driver.more("\r\n").call(GET).told(&["20 began", "20..38 GET /", "38 ended, body 0"]);
    assert_eq!(driver.parser.ledger().unparsed(Malformed::Joined), 20);
}

#[test]
fn what_a_joined_stream_turns_out_to_be_is_the_cause() {
    let mut driver = Driver::new(Side::Requests, &[]);
    driver.more("...").call("PRI * HTTP/2.0\r\n\r\n").call("SM\r\n\r\n");
    driver.told(&["0 lost: joined", "3 began", "3 lost: http2_preface", "21 began", "21 lost: method"]);
    let ledger = driver.parser.ledger();
    assert_eq!((ledger.unparsed(Malformed::Joined), ledger.unparsed(Malformed::Http2Preface)), (3, 24));
}

#[test]
fn a_stream_that_is_joined_inside_a_body_finds_the_next_head() {
    let mut driver = Driver::new(Side::Requests, &[]);
    driver.call("some of a body, ").told(&["0 began", "0 lost: version"]);
    driver.call("\x01\x02\x03").told(&[]);
    driver.call(GET).told(&["19 began", "19..37 GET /", "37 ended, body 0"]);
    assert_eq!(driver.parser.ledger().unparsed(Malformed::Version), 19);
}

#[test]
fn nothing_is_believed_inside_a_call() {
    let mut driver = lost();
    driver.call("\x01").more(GET).more(GET).told(&[]);
    assert_eq!(driver.parser.awaits(), Awaits::Resync);
    assert_eq!(driver.parser.ledger().unparsed(Malformed::Gap), 37);
}

#[test]
fn a_head_is_found_again_in_pieces_of_one_byte() {
    let mut driver = lost();
    for byte in "POST /long HTTP/1.1\r\nContent-Length: 2\r\n\r\nhi".chars() {
        driver.call(&byte.to_string());
    }
    driver.told(&["20 began", "20..62 POST /long", "64 ended, body 2"]);
}

#[test]
fn the_first_byte_of_a_head_that_is_found_again_is_told_when_it_comes() {
    let mut driver = lost();
    driver.call("G").told(&["20 began"]);
    assert_eq!(driver.parser.awaits(), Awaits::Resync);
    driver.call("ET / HTTP/1.1\r\n\r\n").told(&["20..38 GET /", "38 ended, body 0"]);
}

#[test]
fn the_end_of_a_body_does_not_become_the_beginning_of_a_method() {
    let mut driver = lost();
    driver.call("abc").told(&["20 began"]);
    driver.call(GET).told(&["20 lost: method", "23 began", "23..41 GET /", "41 ended, body 0"]);
    assert_eq!(driver.parser.ledger().unparsed(Malformed::Gap), 3);
}

#[test]
fn the_call_that_shows_that_an_attempt_was_none_is_an_attempt_itself() {
    let mut driver = lost();
    driver.call("hello wor").told(&["20 began"]);
    driver.call(GET).told(&["20 lost: version", "29 began", "29..47 GET /", "47 ended, body 0"]);
    let mut driver = lost();
    driver.call("GET /x HTTP/1.1\r\nX").told(&["20 began"]);
    driver.call("\x01: y\r\n\r\n").told(&["20 lost: field_line"]);
    driver.call(GET).told(&["46 began", "46..64 GET /", "64 ended, body 0"]);
}

#[test]
fn a_call_is_tried_once() {
    let mut driver = Driver::new(Side::Requests, &[]);
    driver.call(GET).told(&["0 began", "0..18 GET /", "18 ended, body 0"]);
    driver.call("abc\x01").told(&["18 began", "18 lost: method"]);
    driver.call("abc\x01").told(&["22 began", "22 lost: method"]);
}

#[test]
fn a_head_that_may_be_one_does_not_swallow_the_message_after_it() {
    let mut driver = lost();
    driver.call("GET /logged HTTP/1.1\r\nHost: a").told(&["20 began"]);
    driver.call(GET).told(&["20 lost: head_cut", "49 began", "49..67 GET /", "67 ended, body 0"]);
    let mut driver = Driver::new(Side::Responses, &[Answers::Unknown]);
    driver.call("HTTP/1.1 200 OK\r\nDate:").call("HTTP/1.1 204 No\r\n\r\n");
    driver.told(&["0 began", "0 lost: head_cut", "22 began", "22..41 204", "41 ended, body 0"]);
}

#[test]
fn a_value_that_goes_on_in_another_call_may_look_like_a_line_without_a_method() {
    let mut driver = lost();
    driver.call("GET / HTTP/1.1\r\nUser-Agent:").call("a b HTTP/1.1\r\n\r\n");
    driver.told(&["20 began", "20..63 GET / UserAgent=a b HTTP/1.1", "63 ended, body 0"]);
}

#[test]
fn a_head_whose_place_is_known_goes_on_whatever_its_calls_begin_with() {
    let mut driver = Driver::new(Side::Requests, &[]);
    driver.call(GET).call("abc").call(GET).told(&[
        "0 began",
        "0..18 GET /",
        "18 ended, body 0",
        "18 began",
        "18..39 abcGET /",
        "39 ended, body 0",
    ]);
    driver.call("GET / HTTP/1.1\r\nHost: ").call("GET / HTTP/1.1\r\n\r\n");
    driver.told(&["39 began", "39..79 GET / Host=GET / HTTP/1.1", "79 ended, body 0"]);
}

#[test]
fn a_broken_chunk_line_at_the_start_of_a_call_may_be_a_head() {
    let mut driver = Driver::new(Side::Requests, &[]);
    driver.call(CHUNKED).call(GET);
    driver.told(&[
        "0 began",
        "0..47 POST /",
        "47 lost: chunk_size",
        "47 began",
        "47..65 GET /",
        "65 ended, body 0",
    ]);
}

#[test]
fn a_head_with_a_broken_length_is_not_believed() {
    let mut driver = lost();
    driver
        .call("POST / HTTP/1.1\r\nContent-Length: x\r\n\r\n")
        .told(&["20 began", "20 lost: content_length"]);
    driver.call("POST / HTTP/1.1\r\nTransfer-Encoding: gzip\r\n\r\n");
    driver.told(&["58 began", "58 lost: transfer_encoding"]);
    let mut driver = Driver::new(Side::Responses, &[]);
    driver
        .call("HTTP/1.1 200 OK\r\nContent-Length: 1,2\r\n\r\n")
        .told(&["0 began", "0 lost: content_length"]);
}

#[test]
fn responses_are_found_again_by_their_status_line() {
    let mut driver = Driver::new(Side::Responses, &[Answers::Unknown]);
    driver.call("HTTP is a protocol").told(&["0 began", "0 lost: status_line"]);
    driver.call("HTT").told(&["18 began"]);
    driver.call("HTTP/1.1 204 No\r\n\r\n").told(&[
        "18 lost: status_line",
        "21 began",
        "21..40 204",
        "40 ended, body 0",
    ]);
}

#[test]
fn what_is_skipped_counts_under_the_cause_that_lost_the_place() {
    let mut driver = Driver::new(Side::Requests, &[]);
    driver.call(CHUNKED).more("zz").call("(((").call("a b c").told(&[
        "0 began",
        "0..47 POST /",
        "47 lost: chunk_size",
        "52 began",
        "52 lost: version",
    ]);
    assert_eq!(driver.parser.ledger().unparsed(Malformed::ChunkSize), 10);
}

#[test]
fn a_candidate_that_the_end_cuts_is_truncated() {
    let mut driver = lost();
    driver.call("GET /").close().told(&["20 began", "25 truncated, body 0"]);
    assert_eq!(driver.parser.ledger().unparsed(Malformed::Gap), 5);
    let mut driver = Driver::new(Side::Requests, &[]);
    driver.call("GET /").close().told(&["0 began", "5 truncated, body 0"]);
    assert_eq!(driver.parser.ledger().unparsed(Malformed::HeadCut), 5);
}

#[test]
fn empty_lines_at_the_start_of_a_call_do_not_hide_a_head() {
    let mut driver = lost();
    driver.call("\r\n").more(GET).told(&["22 began", "22..40 GET /", "40 ended, body 0"]);
    assert_eq!(driver.parser.ledger().unparsed(Malformed::Gap), 2);
}
