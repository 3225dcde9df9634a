//! What is HTTP/1 and what is not, and which end this is.

use super::*;

#[test]
fn the_end_that_reads_requests_is_the_server_and_the_one_that_sends_them_the_client() {
    check(&["< GET / HTTP/1.1||", "abandon"], &["0 Server GET / @1..1", "0 none @1 incomplete"]);
    check(&["> GET / HTTP/1.1||", "abandon"], &["0 Client GET / @1..1", "0 none @1 incomplete"]);
}

#[test]
fn a_start_line_may_come_byte_by_byte() {
    let connection = check(
        &["< G", "< ET / HTTP/1.", "< 1|", "< |", "> H", "> TTP/1.1 204 N||"],
        &["0 Server GET / @1..4", "0 responding @5", "0 204 @6"],
    );
    assert_eq!(connection.protocol(), Classified::Http1);
}

#[test]
fn what_waited_for_the_rest_of_a_start_line_is_dropped_when_it_is_none() {
    let connection = check_late(
        &["< GE", "< \u{1}", "< GET / HTTP/1.1||", "> HTTP/1.1 204 N||"],
        &["3 Server GET / @3..3", "3 responding @4", "3 204 @4"],
    );
    assert_eq!(connection.ledger().bytes_unrecognised, 3);
}

#[test]
fn a_connection_is_something_else_only_when_both_directions_showed_it_often() {
    let one_way: Vec<&str> = std::iter::repeat_n("< \u{1}binary", 50).collect();
    assert_eq!(check_late(&one_way, &[]).protocol(), Classified::Unknown);
    let both: Vec<&str> = ["< \u{1}binary", "> \u{2}binary"].into_iter().cycle().take(16).collect();
    assert_eq!(check(&both, &[]).protocol(), Classified::Other(Other::Unrecognised));
    assert_eq!(check(&both[..14], &[]).protocol(), Classified::Unknown);
}

#[test]
fn few_calls_of_many_bytes_show_as_much_as_many_calls() {
    let script = ["< \u{1}{65535}", "> \u{1}{65535}"];
    let (connection, events) = run(true, &parse(&script));
    assert_eq!((connection.protocol(), events.len()), (Classified::Other(Other::Unrecognised), 0));
}

#[test]
fn other_protocols_are_something_else_after_a_few_calls() {
    for (there, back) in [
        ("\u{16}\u{3}\u{1}\u{2}\u{0}\u{1}", "\u{16}\u{3}\u{3}\u{0}z\u{2}"),
        ("*3|$3|SET|$1|k|$1|v|", "+OK|"),
        ("get key|", "VALUE key 0 1|v|END|"),
        ("SSH-2.0-OpenSSH|", "SSH-2.0-OpenSSH|"),
        ("OPTIONS rtsp://h/ RTSP/1.0||", "RTSP/1.0 200 OK||"),
    ] {
        let calls = [format!("> {there}"), format!("< {back}")];
        let script: Vec<&str> = calls.iter().map(String::as_str).cycle().take(16).collect();
        let connection = check(&script, &[]);
        assert_eq!(connection.protocol(), Classified::Other(Other::Unrecognised), "{there}");
    }
}

#[test]
fn a_proxy_header_before_the_first_request_does_not_hide_it() {
    check(
        &["< PROXY TCP4 1.1.1.1 2.2.2.2 1 2|", "< GET / HTTP/1.1||", "> HTTP/1.1 204 N||"],
        &["32 Server GET / @2..2", "32 responding @3", "32 204 @3"],
    );
}

#[test]
fn a_body_that_begins_like_a_message_is_not_believed_for_long() {
    // Joined in the middle of an upload that carries mail: a start line without a head behind it.
    check_late(
        &["< HTTP/1.1 200 OK|no header at all||", "< GET /a HTTP/1.1||", "> HTTP/1.1 204 N||"],
        &["37 Server GET /a @2..2", "37 responding @3", "37 204 @3"],
    );
}

#[test]
fn a_connection_that_went_over_to_another_protocol_unseen_is_noticed() {
    let mut script = vec!["< GET /a HTTP/1.1||", "> HTTP/1.1 204 N||", "<~ lost 40", ">~ lost 40"];
    script.extend(["< \u{1}frame", "> \u{2}frame"].into_iter().cycle().take(128));
    let (connection, _) = run(true, &parse(&script));
    assert_eq!(connection.protocol(), Classified::Other(Other::Unrecognised));
}

#[test]
fn a_connection_that_moves_nothing_is_unknown() {
    assert_eq!(check(&["close peer"], &[]).protocol(), Classified::Unknown);
}
