//! Gaps in every state: where they do no harm, and where they lose the place.

use super::*;
use crate::protocol::http1::{Awaits, Malformed};

const LENGTH: &str = "POST / HTTP/1.1\r\nContent-Length: 10\r\n\r\n";
const CHUNKED: &str = "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n";
const GET: &str = "GET / HTTP/1.1\r\n\r\n";

fn parser(stream: &str) -> Driver {
    let mut driver = Driver::new(Side::Requests, &[]);
    driver.call(stream);
    driver.told.clear();
    driver
}

#[test]
fn a_gap_inside_a_body_of_known_length_is_no_loss() {
    let mut driver = parser(LENGTH);
    driver.more("abc").gap(5).call("ij").told(&["49 ended, body 10"]);
    driver.call(GET).told(&["49 began", "49..67 GET /", "67 ended, body 0"]);
    assert_eq!((driver.parser.ledger().gap_body, driver.parser.ledger().gap_lost), (5, 0));
}

#[test]
fn a_gap_that_is_the_rest_of_a_body_ends_it() {
    let mut driver = parser(LENGTH);
    driver.gap(10).told(&["49 ended, body 10"]);
    assert_eq!(driver.parser.awaits(), Awaits::Head);
}

#[test]
fn a_gap_longer_than_the_body_ends_it_where_it_ends_and_loses_the_place() {
    let mut driver = parser(LENGTH);
    driver.more("a").gap(20).told(&["49 ended, body 10", "49 lost: gap"]);
    assert_eq!((driver.parser.ledger().gap_body, driver.parser.ledger().gap_lost), (9, 11));
    driver.call(GET).told(&["60 began", "60..78 GET /", "78 ended, body 0"]);
}

#[test]
fn a_gap_inside_a_chunk_is_no_loss() {
    let mut driver = parser(CHUNKED);
    driver.more("a\r\nabc").gap(7).more("\r\n0\r\n\r\n").told(&["67 ended, body 10"]);
}

#[test]
fn a_gap_over_chunk_framing_loses_the_place() {
    let mut driver = parser(CHUNKED);
    driver.more("a\r\nabc").gap(8).told(&["60 lost: gap"]);
    assert_eq!((driver.parser.ledger().gap_body, driver.parser.ledger().gap_lost), (7, 1));
    for framing in ["", "a", "a;x", "a\r", "1\r\na", "1\r\na\r", "0\r\n", "0\r\nT: x", "0\r\n\r"] {
        let mut driver = parser(CHUNKED);
        driver.more(framing).gap(1).told(&[&format!("{} lost: gap", 47 + framing.len())]);
        assert_eq!(driver.parser.awaits(), Awaits::Resync);
    }
}

#[test]
fn a_gap_where_a_message_had_to_begin_loses_the_place() {
    let mut driver = parser(GET);
    driver.gap(5).told(&["18 lost: gap"]);
    driver.gap(5).call(GET).told(&["28 began", "28..46 GET /", "46 ended, body 0"]);
}

#[test]
fn a_gap_inside_a_head_loses_what_was_held() {
    let mut driver = parser(GET);
    driver.call("GET /b HTTP/1.1\r\nHos").gap(5).told(&["18 began", "18 lost: gap"]);
    assert_eq!((driver.parser.ledger().unparsed(Malformed::Gap), driver.parser.ledger().gap_lost), (20, 5));
    driver.more("t: a\r\n\r\n").told(&[]);
    assert_eq!(driver.parser.ledger().unparsed(Malformed::Gap), 28);
}

#[test]
fn a_gap_before_the_first_byte_is_a_loss() {
    let mut driver = Driver::new(Side::Requests, &[]);
    driver.gap(5).told(&["0 lost: gap"]);
    driver.more("GET / ").told(&[]);
    driver.call(GET).told(&["11 began", "11..29 GET /", "29 ended, body 0"]);
    assert_eq!(driver.parser.ledger().unparsed(Malformed::Gap), 6);
}

#[test]
fn a_gap_in_a_body_that_lasts_until_the_end_is_body() {
    let mut driver = Driver::new(Side::Responses, &[Answers::Ordinary]);
    driver.call("HTTP/1.0 200 OK\r\n\r\nab").gap(1 << 40).close();
    driver.told(&["0 began", "0..19 200 HTTP/1.0", "1099511627797 ended, body 1099511627778"]);
}

#[test]
fn five_gigabytes_of_a_body_may_be_missing() {
    let mut driver = parser("POST / HTTP/1.1\r\nContent-Length: 5368709120\r\n\r\n");
    driver.more("x").gap(5_368_709_118).call("y").told(&["5368709167 ended, body 5368709120"]);
}

#[test]
fn a_gap_of_nothing_is_none() {
    let mut driver = parser("GET / HT");
    driver.gap(0).more("TP/1.1\r\n\r\n").told(&["0..18 GET /", "18 ended, body 0"]);
}
