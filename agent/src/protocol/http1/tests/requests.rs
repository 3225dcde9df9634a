//! Requests: where they begin and end, and what their start lines may look like.

use super::*;
use crate::protocol::http1::{Awaits, MAX_METHOD, Malformed};

#[test]
fn a_request_without_a_length_ends_with_its_head() {
    requests(
        "GET /a?b=c HTTP/1.1\r\nHost: h\r\nAccept: */*\r\n\r\n",
        &["0 began", "0..45 GET /a?b=c Host=h", "45 ended, body 0"],
    );
}

#[test]
fn pipelined_requests_end_where_their_bodies_end() {
    requests(
        "POST /a HTTP/1.1\r\nContent-Length: 2\r\n\r\nhiGET /b HTTP/1.1\r\n\r\n",
        &["0 began", "0..39 POST /a", "41 ended, body 2", "41 began", "41..60 GET /b", "60 ended, body 0"],
    );
}

#[test]
fn a_request_begins_with_its_first_byte_and_not_with_its_call() {
    let mut driver = Driver::new(Side::Requests, &[]);
    driver.call("GET / HTTP/1.1\r\n\r\n").told(&["0 began", "0..18 GET /", "18 ended, body 0"]);
    driver.call("G").told(&["18 began"]);
    driver.call("ET / HTTP/1.1\r\n\r\n").told(&["18..36 GET /", "36 ended, body 0"]);
}

#[test]
fn any_token_is_a_method_as_it_was_sent() {
    requests(
        "M-SEARCH * HTTP/1.1\r\n\r\nget / HTTP/1.1\r\n\r\n",
        &["0 began", "0..23 M-SEARCH *", "23 ended, body 0", "23 began", "23..41 get /", "41 ended, body 0"],
    );
    requests(
        "X!#$%&'*+-.^_`|~9 / HTTP/1.1\n\n",
        &["0 began", "0..30 X!#$%&'*+-.^_`|~9 /", "30 ended, body 0"],
    );
}

#[test]
fn every_form_of_target_is_kept_as_it_was_sent() {
    requests(
        "GET http://h:80/p?q HTTP/1.1\r\n\r\n",
        &["0 began", "0..32 GET http://h:80/p?q", "32 ended, body 0"],
    );
    requests("OPTIONS * HTTP/1.1\r\n\r\n", &["0 began", "0..22 OPTIONS *", "22 ended, body 0"]);
    requests(
        "CONNECT h:443 HTTP/1.1\r\n\r\n",
        &["0 began", "0..26 CONNECT h:443 (Connect)", "26 ended, body 0"],
    );
    requests("GET /ü HTTP/1.1\r\n\r\n", &["0 began", "0..20 GET /ü", "20 ended, body 0"]);
}

#[test]
fn a_request_says_how_its_response_is_framed() {
    requests("HEAD / HTTP/1.1\r\n\r\n", &["0 began", "0..19 HEAD / (Head)", "19 ended, body 0"]);
    requests(
        "GET / HTTP/1.1\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
        &["0 began", "0..59 GET / (Upgrade)", "59 ended, body 0"],
    );
}

#[test]
fn lines_may_end_with_a_bare_line_feed() {
    requests(
        "POST / HTTP/1.1\nHost: h\nContent-Length: 2\n\nhi",
        &["0 began", "0..43 POST / Host=h", "45 ended, body 2"],
    );
    requests("GET / HTTP/1.1\nHost: h\r\n\n", &["0 began", "0..25 GET / Host=h", "25 ended, body 0"]);
}

#[test]
fn empty_lines_before_a_request_are_not_part_of_it() {
    requests(
        "\r\nGET / HTTP/1.1\r\n\r\n\n\r\n\r\nGET / HTTP/1.0\r\n\r\n\r\n",
        &[
            "2 began",
            "2..20 GET /",
            "20 ended, body 0",
            "25 began",
            "25..43 GET / HTTP/1.0",
            "43 ended, body 0",
        ],
    );
    let mut driver = Driver::new(Side::Requests, &[]);
    driver.call("\r\nGET / HTTP/1.1\r\n\r\n\r\n");
    assert_eq!((driver.parser.ledger().head, driver.parser.ledger().framing), (18, 4));
}

#[test]
fn a_minor_version_above_1_is_read_as_1() {
    requests("GET / HTTP/1.7\r\n\r\n", &["0 began", "0..18 GET /", "18 ended, body 0"]);
}

#[test]
fn a_start_line_that_breaks_a_rule_is_no_request() {
    requests("GET  / HTTP/1.1\r\n\r\n", &["0 began", "0 lost: target"]);
    requests("GET /a b HTTP/1.1\r\n\r\n", &["0 began", "0 lost: version"]);
    requests("GET /\0 HTTP/1.1\r\n\r\n", &["0 began", "0 lost: target"]);
    requests("GET /\x01 HTTP/1.1\r\n\r\n", &["0 began", "0..19 GET /\u{1}", "19 ended, body 0"]);
    requests("GET /\r\n\r\n", &["0 began", "0 lost: version"]);
    requests("GET / HTTP/1.1 \r\n\r\n", &["0 began", "0 lost: version"]);
    requests("GET / HTTP/1.1\rX\n\r\n", &["0 began", "0 lost: version"]);
    requests("GET / HTTP/1.x\r\n\r\n", &["0 began", "0 lost: version"]);
    requests("GET / http/1.1\r\n\r\n", &["0 began", "0 lost: version"]);
    requests("G(T / HTTP/1.1\r\n\r\n", &["0 began", "0 lost: method"]);
    requests("OPTIONS rtsp://h RTSP/1.0\r\n\r\n", &["0 began", "0 lost: version"]);
    requests("HTTP/1.1 200 OK\r\n\r\n", &["0 began", "0 lost: method"]);
    requests(&("M".repeat(MAX_METHOD + 1) + " / HTTP/1.1\r\n\r\n"), &["0 began", "0 lost: method"]);
}

#[test]
fn bytes_that_begin_nothing_are_lost_at_once() {
    requests("\x16\x03\x01\x02\0\x01", &["0 lost: method"]);
    requests(" GET / HTTP/1.1\r\n\r\n", &["0 lost: method"]);
}

#[test]
fn the_preface_of_http_2_is_no_request() {
    requests("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", &["0 began", "0 lost: http2_preface"]);
    requests("PRI * HTTP/1.1\r\n\r\n", &["0 began", "0..18 PRI *", "18 ended, body 0"]);
}

#[test]
fn a_request_whose_length_is_broken_is_told_and_its_end_is_not_known() {
    requests("POST / HTTP/1.1\r\nContent-Length: x\r\n\r\nhi", &["0 began", "0 lost: content_length"]);
    let first = "GET / HTTP/1.1\r\n\r\n";
    requests(
        &format!("{first}POST /a HTTP/1.1\r\nContent-Length: -2\r\n\r\nhi"),
        &[
            "0 began",
            "0..18 GET /",
            "18 ended, body 0",
            "18 began",
            "18..58 POST /a",
            "58 lost: content_length",
        ],
    );
    requests(
        &format!("{first}POST /a HTTP/1.1\r\nTransfer-Encoding: gzip\r\n\r\nhi"),
        &[
            "0 began",
            "0..18 GET /",
            "18 ended, body 0",
            "18 began",
            "18..63 POST /a",
            "63 lost: transfer_encoding",
        ],
    );
}

#[test]
fn expecting_100_continue_does_not_change_where_a_request_ends() {
    requests(
        "PUT / HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\nabcGET / HTTP/1.1\r\n\r\n",
        &["0 began", "0..59 PUT /", "62 ended, body 3", "62 began", "62..80 GET /", "80 ended, body 0"],
    );
}

#[test]
fn a_request_that_the_end_cuts_is_truncated() {
    requests("GET / HT<close>", &["0 began", "8 truncated, body 0"]);
    requests(
        "POST / HTTP/1.1\r\nContent-Length: 5\r\n\r\nab<close>",
        &["0 began", "0..38 POST /", "40 truncated, body 2"],
    );
    requests("GET / HTTP/1.1\r\n\r\n\r\n<close>", &["0 began", "0..18 GET /", "18 ended, body 0"]);
}

#[test]
fn nothing_is_parsed_after_the_end_and_it_is_counted() {
    let mut driver = Driver::new(Side::Requests, &[]);
    driver.call("GET / HTTP/1.1\r\n\r\n").close().call("GET / HTTP/1.1\r\n\r\n").gap(3).close();
    driver.told(&["0 began", "0..18 GET /", "18 ended, body 0"]);
    assert_eq!(driver.parser.ledger().unparsed(Malformed::AfterEnd), 18);
    assert_eq!(driver.parser.awaits(), Awaits::Nothing);
}

#[test]
fn requests_stop_being_parsed_when_the_responses_switched() {
    let mut driver = Driver::new(Side::Requests, &[]);
    driver.call("GET / HTTP/1.1\r\nUpgrade: websocket\r\n\r\n").switch();
    driver.told(&["0 began", "0..38 GET / (Upgrade)", "38 ended, body 0", "38 switched"]);
    driver.call("GET / HTTP/1.1\r\n\r\n").gap(7).switch().close().told(&[]);
    assert_eq!(driver.parser.awaits(), Awaits::Nothing);
    assert_eq!(driver.parser.ledger().switched, 18);
}

#[test]
fn what_looked_like_a_head_when_the_responses_switched_is_not_one() {
    let mut driver = Driver::new(Side::Requests, &[]);
    driver.call("CONNECT h:443 HTTP/1.1\r\n\r\nSSH").switch();
    driver.told(&["0 began", "0..26 CONNECT h:443 (Connect)", "26 ended, body 0", "26 began", "26 switched"]);
    assert_eq!(driver.parser.ledger().switched, 3);
}

#[test]
fn a_body_that_the_switch_cuts_is_truncated() {
    let mut driver = Driver::new(Side::Requests, &[]);
    driver.call("POST / HTTP/1.1\r\nContent-Length: 5\r\n\r\nab").switch();
    driver.told(&["0 began", "0..38 POST /", "40 truncated, body 2", "40 switched"]);
}

#[test]
fn it_says_how_much_of_a_body_is_to_come() {
    let mut driver = Driver::new(Side::Requests, &[]);
    assert_eq!(driver.parser.awaits(), Awaits::Resync);
    driver.call("GET / HTTP/1.1\r\n\r\n");
    assert_eq!(driver.parser.awaits(), Awaits::Head);
    driver.call("POST / HTTP/1.1\r\nContent-Length: 9\r\n");
    assert_eq!(driver.parser.awaits(), Awaits::Head);
    driver.more("\r\nab");
    assert_eq!(driver.parser.awaits(), Awaits::Body(7));
    driver.call("cdefghi");
    assert_eq!(driver.parser.awaits(), Awaits::Head);
}
