//! Chunked bodies: sizes, extensions, trailers, and everything that can be wrong with them.

use super::*;
use crate::protocol::http1::{Awaits, MAX_CHUNK_LINE, MAX_TRAILERS};

const HEAD: &str = "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n";

/// A chunked body behind [`HEAD`]; the wanted events are those behind the head, with offsets from the
/// first byte of the body.
#[track_caller]
fn body(body: &str, want: &[(usize, &str)]) {
    let mut events = vec!["0 began".to_owned(), format!("0..{} POST /", HEAD.len())];
    events.extend(want.iter().map(|(offset, event)| format!("{} {event}", HEAD.len() + offset)));
    let events: Vec<&str> = events.iter().map(String::as_str).collect();
    requests(&format!("{HEAD}{body}"), &events);
}

#[test]
fn a_chunked_body_ends_with_the_empty_line_after_its_last_chunk() {
    body("5\r\nhello\r\n0\r\n\r\n", &[(15, "ended, body 5")]);
    body("1\r\na\r\n1A\r\nbcdefghijklmnopqrstuvwxyz_\r\n0\r\n\r\n", &[(43, "ended, body 27")]);
    body("0\r\n\r\n", &[(5, "ended, body 0")]);
    body("000\r\n\r\n\r\n", &[(7, "ended, body 0")]);
}

#[test]
fn extensions_and_trailers_are_skipped() {
    body("5;a=b;c=\"d;e\"\r\nhello\r\n0;last\r\nDigest: x\r\nA:\r\n\r\n", &[(47, "ended, body 5")]);
    body("0\r\nX: a\r\n folded\r\n\r\n", &[(20, "ended, body 0")]);
}

#[test]
fn white_space_may_follow_a_size() {
    body("5  \r\nhello\r\n0 \t;x\r\n\r\n", &[(21, "ended, body 5")]);
}

#[test]
fn chunk_framing_may_end_lines_with_bare_line_feeds() {
    body("5\nhello\n0\nA: b\n\n", &[(16, "ended, body 5")]);
}

#[test]
fn a_message_follows_a_chunked_one() {
    let next = HEAD.len() + 5;
    requests(
        &format!("{HEAD}0\r\n\r\nGET /b HTTP/1.1\r\n\r\n"),
        &[
            "0 began",
            "0..47 POST /",
            &format!("{next} ended, body 0"),
            &format!("{next} began"),
            &format!("{next}..{} GET /b", next + 19),
            &format!("{} ended, body 0", next + 19),
        ],
    );
}

#[test]
fn a_size_that_is_no_number_loses_the_place() {
    body("x\r\n", &[(0, "lost: chunk_size")]);
    body("-5\r\n", &[(0, "lost: chunk_size")]);
    body("\r\n", &[(0, "lost: chunk_size")]);
    body("5g\r\n", &[(1, "lost: chunk_size")]);
    body("0x5\r\n", &[(1, "lost: chunk_size")]);
    body("5 5\r\n", &[(2, "lost: chunk_size")]);
    body("10000000000000000\r\n", &[(16, "lost: chunk_size")]);
}

#[test]
fn the_largest_size_is_waited_for_and_reserves_nothing() {
    let mut driver = Driver::new(Side::Requests, &[]);
    driver.call(HEAD).call("ffffffffffffffff\r\nab");
    assert_eq!(driver.parser.awaits(), Awaits::Chunk(u64::MAX - 2));
}

#[test]
fn a_line_of_framing_that_does_not_end_where_it_has_to_loses_the_place() {
    body("2\r\nhello", &[(5, "lost: chunk_end")]);
    body("2\r\nhi\rx", &[(6, "lost: chunk_end")]);
    body("2\rhi", &[(2, "lost: chunk_end")]);
    body("2;a\rb\r\nhi", &[(4, "lost: chunk_end")]);
}

#[test]
fn a_size_line_has_a_longest_length() {
    let longest = format!("5;{}\r", "x".repeat(MAX_CHUNK_LINE - 4));
    body(&format!("{longest}\nhello\r\n0\r\n\r\n"), &[(MAX_CHUNK_LINE + 12, "ended, body 5")]);
    body(
        &format!("5;{}\r\nhello", "x".repeat(MAX_CHUNK_LINE)),
        &[(MAX_CHUNK_LINE, "lost: chunk_line_too_long")],
    );
    body(&"0".repeat(MAX_CHUNK_LINE + 5), &[(MAX_CHUNK_LINE, "lost: chunk_line_too_long")]);
}

#[test]
fn trailers_have_a_longest_length() {
    let trailer = "T: x\r\n".repeat(MAX_TRAILERS / 6 + 1);
    body(&format!("0\r\n{trailer}\r\n"), &[(MAX_TRAILERS + 3, "lost: trailers_too_long")]);
    let long = "T".repeat(MAX_TRAILERS + 1);
    body(&format!("0\r\n{long}\r\n"), &[(MAX_TRAILERS + 3, "lost: trailers_too_long")]);
}

#[test]
fn it_says_how_much_of_a_chunk_is_to_come() {
    let mut driver = Driver::new(Side::Requests, &[]);
    driver.call(HEAD);
    assert_eq!(driver.parser.awaits(), Awaits::ChunkFraming);
    driver.call("5\r\nhe");
    assert_eq!(driver.parser.awaits(), Awaits::Chunk(3));
    driver.call("llo");
    assert_eq!(driver.parser.awaits(), Awaits::ChunkFraming);
    driver.call("\r\n0\r\n");
    assert_eq!(driver.parser.awaits(), Awaits::ChunkFraming);
    driver.call("\r\n");
    assert_eq!(driver.parser.awaits(), Awaits::Head);
    let ledger = driver.parser.ledger();
    assert_eq!((ledger.head, ledger.body, ledger.framing), (47, 5, 10));
}
