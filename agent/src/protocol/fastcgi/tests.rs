//! Records as nginx 1.22 and PHP-FPM 8.2 write them, read back.

use super::*;
use crate::protocol::FieldName;
use crate::protocol::http1::{Awaits, Side};

/// A record with this content.
fn record(kind: u8, request: u16, content: &[u8], padding: u8) -> Vec<u8> {
    let mut bytes = vec![1, kind];
    bytes.extend(request.to_be_bytes());
    bytes.extend((content.len() as u16).to_be_bytes());
    bytes.extend([padding, 0]);
    bytes.extend(content);
    bytes.extend(vec![0; usize::from(padding)]);
    bytes
}

/// POST /a with a body of 3 bytes.
pub const REQUEST: &[u8] = b"\x01\x01\x00\x01\x00\x08\x00\x00\x00\x01\x00\x00\x00\x00\x00\x00\
\x01\x04\x00\x01\x00\x29\x03\x00\x0e\x04REQUEST_METHODPOST\x0b\x02REQUEST_URI/a\x04\x00HTTP\x00\x00\x00\x01\x04\x00\x01\x00\x00\x00\x00\
\x01\x05\x00\x01\x00\x03\x05\x00abc\x00\x00\x00\x00\x00\x01\x05\x00\x01\x00\x00\x00\x00";

/// 404 with a body of 3 bytes.
pub const RESPONSE: &[u8] = b"\x01\x06\x00\x01\x00\x2a\x07\x00Status: 404 Not Found\r\nX-A: b\r\nA: b\r\n\r\nabc\x00\x00\x00\x00\x00\x00\x00\
\x01\x03\x00\x01\x00\x08\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00";

fn events(side: Side, bytes: &[u8]) -> (Vec<Event>, Ledger) {
    let (mut parser, mut events) = (Parser::new(side), Vec::new());
    parser.bytes(100, bytes, &mut |event| events.push(event));
    assert!(parser.ledger().balances(), "{:?}", parser.ledger());
    (events, parser.ledger().clone())
}

#[test]
fn a_request_and_its_response_are_read() {
    let (said, ledger) = events(Side::Requests, REQUEST);
    let [Event::Began { offset: 100 }, Event::Request { head }, Event::RequestBody(3), Event::RequestEnded] =
        &said[..]
    else {
        panic!("{said:?}")
    };
    assert_eq!((&*head.method, &*head.target), (&b"POST"[..], &b"/a"[..]));
    assert_eq!((ledger.lost, ledger.head, ledger.body), (0, 41, 3));
    let (said, ledger) = events(Side::Responses, RESPONSE);
    let [Event::Responding, Event::Response { head }, Event::ResponseBody(3), Event::Ended] = &said[..]
    else {
        panic!("{said:?}")
    };
    assert_eq!((head.status, ledger.lost, ledger.body), (404, 0, 3));
}

#[test]
fn of_parameters_only_those_that_may_be_kept_leave_the_parser() {
    let mut params = Vec::new();
    let mut add = |name: &[u8], value: &[u8]| {
        params.push(name.len() as u8);
        params.extend((value.len() as u32 | 1 << 31).to_be_bytes());
        params.extend(name);
        params.extend(value);
    };
    add(b"SCRIPT_NAME", b"/index.php");
    add(b"QUERY_STRING", b"a=1");
    add(b"HTTP_COOKIE", b"secret");
    add(b"HTTP_TRACEPARENT", b"00-x");
    add(b"HTTP_X_FORWARDED_FOR", b"10.0.0.1");
    add(b"HTTP_HOST", b"shop");
    add(b"REQUEST_SCHEME", b"https");
    add(b"CONTENT_TYPE", b"");
    add(b"HTTP_TRACEPARENT", b"00-y");
    let mut bytes = record(1, 7, &[0, 1, 1, 0, 0, 0, 0, 0], 0);
    let (one, two) = params.split_at(params.len() / 2);
    bytes.extend(record(4, 7, one, 1));
    bytes.extend(record(4, 7, two, 0));
    bytes.extend(record(4, 7, b"", 0));
    let (said, _) = events(Side::Requests, &bytes);
    let [Event::Began { .. }, Event::Request { head }] = &said[..] else { panic!("{said:?}") };
    assert_eq!(&*head.target, b"/index.php?a=1");
    let fields: Vec<_> = head.fields.0.iter().map(|(name, value)| (*name, &**value)).collect();
    assert_eq!(
        fields,
        [
            (FieldName::Traceparent, &b"00-x"[..]),
            (FieldName::XForwardedFor, b"10.0.0.1"),
            (FieldName::Host, b"shop"),
            (FieldName::Scheme, b"https"),
        ]
    );
}

#[test]
fn a_client_s_first_record_is_known_by_its_content_too() {
    assert_eq!(begins_request(REQUEST), Some(true));
    for end in 1..16 {
        assert_eq!(begins_request(&REQUEST[..end]), None);
    }
    for other in [&b"GET / HTTP/1.1\r\n\r\n"[..], RESPONSE, b"", &record(1, 0, &[0, 1, 0, 0, 0, 0, 0, 0], 0)]
    {
        assert_eq!(begins_request(other), Some(false), "{other:?}");
    }
    assert_eq!(begins_request(&record(1, 1, &[0, 9, 0, 0, 0, 0, 0, 0], 0)), Some(false));
}

#[test]
fn what_is_missing_of_a_body_costs_nothing_and_of_a_head_the_place() {
    let mut bytes = record(6, 1, b"Content-Type: text/html\r\n\r\n", 0);
    bytes.extend(&record(6, 1, &[b'x'; 60_000], 4)[..HEADER + 10]);
    let (mut parser, mut said) = (Parser::new(Side::Responses), Vec::new());
    parser.bytes(0, &bytes, &mut |event| said.push(format!("{event:?}")));
    assert_eq!(parser.awaits(), Awaits::Body(59_994));
    parser.gap(59_994, &mut |event| said.push(format!("{event:?}")));
    parser.bytes(60_000, &record(3, 1, &[0; 8], 0), &mut |event| said.push(format!("{event:?}")));
    assert_eq!(said.last().map(String::as_str), Some("Ended"));
    assert_eq!((parser.ledger().lost, parser.ledger().gap_body), (0, 59_994));
    parser.gap(1, &mut |event| said.push(format!("{event:?}")));
    assert_eq!((said.last().map(String::as_str), parser.ledger().gap_lost), (Some("Lost"), 1));
    assert!(parser.ledger().balances());
}

#[test]
fn a_second_request_before_the_first_is_over_and_a_response_among_requests_lose_the_place() {
    let begin = record(1, 1, &[0, 1, 0, 0, 0, 0, 0, 0], 0);
    let (said, _) = events(Side::Requests, &[&begin[..], &begin].concat());
    assert!(matches!(&said[..], [Event::Began { .. }, Event::Lost]), "{said:?}");
    let (said, _) = events(Side::Requests, RESPONSE);
    assert!(matches!(&said[..], [Event::Lost]), "{said:?}");
}

#[test]
fn parameters_are_bounded() {
    let mut bytes = record(1, 1, &[0, 1, 0, 0, 0, 0, 0, 0], 0);
    for _ in 0..4 {
        bytes.extend(record(4, 1, &[0; 60_000], 0));
    }
    let (_, ledger) = events(Side::Requests, &bytes);
    assert_eq!(ledger.params_cut, 240_000 - MAX_PARAMS as u64);
}
