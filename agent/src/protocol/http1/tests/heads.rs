//! Heads: fields, folding, what is kept, and how long they may be.

use super::*;
use crate::protocol::FieldName;
use crate::protocol::http1::{MAX_FIELDS, MAX_HEAD, MAX_VALUE};

/// A request with these header lines.
#[track_caller]
fn fields(lines: &str, want: &str) {
    let stream = format!("GET / HTTP/1.1\r\n{lines}\r\n");
    let end = stream.len();
    requests(&stream, &["0 began", &format!("0..{end} GET /{want}"), &format!("{end} ended, body 0")]);
}

/// A request with these header lines is none.
#[track_caller]
fn broken(lines: &str, why: &str) {
    requests(&format!("GET / HTTP/1.1\r\n{lines}\r\n"), &["0 began", &format!("0 lost: {why}")]);
}

#[test]
fn kept_fields_come_in_order_and_as_often_as_they_were_sent() {
    fields(
        "host:a\r\nX-Forwarded-For: 1\r\nCookie: secret\r\nx-forwarded-for:\t2 \t\r\nTRACEPARENT: t\r\n",
        " Host=a XForwardedFor=1 XForwardedFor=2 Traceparent=t",
    );
}

#[test]
fn no_value_leaves_the_parser_that_may_not_be_kept() {
    let mut driver = Driver::new(Side::Requests, &[]);
    driver.call("GET / HTTP/1.1\r\nAuthorization: secret\r\nCookie: secret\r\nX: secret\r\n\r\n");
    assert!(!driver.told.concat().contains("secret"));
}

#[test]
fn a_value_may_be_empty_and_contain_colons() {
    fields("Host:\r\nUser-Agent: a:b: c\r\nX:\r\n", " Host= UserAgent=a:b: c");
}

#[test]
fn folded_lines_are_one_value() {
    fields("User-Agent: a\r\n  b\r\n\tc \r\nHost: h\r\n", " UserAgent=a b c Host=h");
    fields("User-Agent:\r\n a\n b\nHost: h\r\n", " UserAgent=a b Host=h");
    fields("User-Agent: a\r\n \r\n b\r\n", " UserAgent=a b");
    fields("Cookie: a\r\n Host: no\r\nHost: h\r\n", " Host=h");
    fields("Host: h\r\n \r\nUser-Agent: u\r\n", " Host=h UserAgent=u");
}

#[test]
fn a_length_may_be_folded() {
    requests(
        "POST / HTTP/1.1\r\nContent-Length:\r\n 2\r\n\r\nhi",
        &["0 began", "0..40 POST /", "42 ended, body 2"],
    );
}

#[test]
fn a_folded_line_before_the_first_field_is_skipped() {
    fields(" Host: no\r\n\tHost: no\r\nHost: h\r\n", " Host=h");
    fields(" \r\n", "");
}

#[test]
fn a_line_that_is_no_field_loses_the_place() {
    broken("Host\r\n", "field_line");
    broken(": x\r\n", "field_line");
    broken("Content-Length : 2\r\n", "field_line");
    broken("A\r\n b: c\r\n", "field_line");
    broken("A\x01: c\r\n", "field_line");
}

#[test]
fn a_name_that_is_no_token_is_nobodys_field() {
    fields("Foo Bar: x\r\nHöst: no\r\nHost: h\r\n(Host): no\r\n", " Host=h");
}

#[test]
fn a_value_with_nul_or_a_bare_cr_loses_the_place() {
    broken("X: a\0b\r\n", "field_value");
    broken("X: a\rb\r\n", "field_value");
    broken("Host: a\r\r\n", "field_value");
    broken("Host: a\r\n b\0\r\n", "field_value");
    fields("Host: a\tb\x01\x7f\r\n", " Host=a\tb\x01\x7f");
}

#[test]
fn white_space_before_the_colon_is_forgiven_in_responses_only() {
    responses(
        &[Answers::Ordinary],
        "HTTP/1.1 200 OK\r\nContent-Length : 2\r\n\r\nhi",
        &["0 began", "0..39 200", "41 ended, body 2"],
    );
}

#[test]
fn a_head_may_be_as_long_as_the_bound_and_not_longer() {
    let (start, end) = ("GET / HTTP/1.1\r\nX: ", "\r\n\r\n");
    let filler = |length: usize| "x".repeat(length - start.len() - end.len());
    let fits = format!("{start}{}{end}", filler(MAX_HEAD - 1));
    let length = fits.len();
    requests(&fits, &["0 began", &format!("0..{length} GET /"), &format!("{length} ended, body 0")]);
    let fits = format!("{start}{}{end}", filler(MAX_HEAD));
    requests(&fits, &["0 began", "0..65536 GET /", "65536 ended, body 0"]);
    let longer = format!("{start}{}{end}", filler(MAX_HEAD + 1));
    requests(&longer, &["0 began", "0 lost: head_too_long"]);
    requests(&format!("GET /{}", "x".repeat(MAX_HEAD)), &["0 began", "0 lost: head_too_long"]);
}

#[test]
fn a_head_without_an_end_is_not_held_beyond_the_bound() {
    let mut driver = Driver::new(Side::Requests, &[]);
    driver.call("GET / HTTP/1.1\r\n");
    let mut most = 0;
    for _ in 0..MAX_HEAD / 5 {
        driver.more("X: y\r\n");
        most = most.max(driver.parser.ledger().held);
    }
    driver.told(&["0 began", "0 lost: head_too_long"]);
    assert!(most <= MAX_HEAD as u64);
    assert_eq!(driver.parser.ledger().held, 0);
    assert_eq!(
        driver.parser.ledger().unparsed(crate::protocol::http1::Malformed::HeadTooLong),
        driver.offset
    );
}

#[test]
fn a_long_value_is_cut_and_the_cut_is_counted() {
    let (mut parser, mut values) = (Parser::new(Side::Requests), Vec::new());
    let stream = format!(
        "GET / HTTP/1.1\r\nUser-Agent: {}\r\nHost: {}\r\n\r\n",
        "u".repeat(MAX_VALUE + 1),
        "h".repeat(MAX_VALUE)
    );
    parser.bytes(0, stream.as_bytes(), true, &mut || Answers::Unknown, &mut |event| {
        if let Event::Request { head, .. } = event {
            values.extend(head.fields.0.iter().map(|(name, value)| (*name, value.len())));
        }
    });
    assert_eq!(values, [(FieldName::UserAgent, MAX_VALUE), (FieldName::Host, MAX_VALUE)]);
    assert_eq!(parser.ledger().fields_cut, 1);
}

#[test]
fn only_so_many_fields_are_kept_and_the_others_are_counted() {
    let (mut parser, mut kept) = (Parser::new(Side::Requests), 0);
    let lines = "Forwarded: for=a\r\n".repeat(MAX_FIELDS + 3);
    let stream = format!("GET / HTTP/1.1\r\n{lines}Content-Length: 1\r\n\r\nx");
    parser.bytes(0, stream.as_bytes(), true, &mut || Answers::Unknown, &mut |event| {
        if let Event::Request { head, .. } = event {
            kept = head.fields.0.len();
        }
    });
    assert_eq!((kept, parser.ledger().fields_dropped), (MAX_FIELDS, 3));
    assert_eq!(parser.ledger().body, 1, "fields that frame are never too many");
}

#[test]
fn what_a_server_goes_over_to_is_kept_no_more_often_than_other_fields() {
    let (mut parser, mut kept) = (Parser::new(Side::Responses), 0);
    let lines = "Upgrade: h2c\r\n".repeat(MAX_FIELDS + 3);
    let stream = format!("HTTP/1.1 200 OK\r\n{lines}Content-Length: 1\r\n\r\nx");
    parser.bytes(0, stream.as_bytes(), true, &mut || Answers::Ordinary, &mut |event| {
        if let Event::Response { head, .. } = event {
            kept = head.fields.0.len();
        }
    });
    assert_eq!((kept, parser.ledger().fields_dropped), (MAX_FIELDS, 3));
}
