//! Every bound holds, and what it cost is counted.

use super::*;

#[test]
fn a_connection_with_too_many_unanswered_requests_is_given_up() {
    let request = "< GET /a HTTP/1.1||".to_owned();
    let script: Vec<&str> = std::iter::repeat_n(request.as_str(), MAX_UNANSWERED + 1).collect();
    let (connection, events) = run(true, &parse(&script));
    assert_eq!(connection.protocol(), Classified::Other(Other::GivenUp));
    let ledger = connection.ledger();
    assert_eq!((ledger.opened, ledger.requests_refused), (1000, 1));
    assert_eq!(ledger.incomplete, 1000);
    assert_eq!(events.iter().filter(|event| matches!(event, Event::Closed(_))).count(), 1000);
}

#[test]
fn heads_of_unanswered_requests_take_no_more_than_their_bound() {
    let request = "< GET /{60000} HTTP/1.1||".to_owned();
    let script: Vec<&str> = std::iter::repeat_n(request.as_str(), 40).collect();
    let mut player = Player::new(true);
    for step in parse(&script) {
        player.step(&step);
        assert!(player.connection.held_bytes() <= MAX_UNANSWERED_BYTES);
    }
    assert_eq!(player.connection.protocol(), Classified::Other(Other::GivenUp));
    assert_eq!(player.connection.ledger().requests_refused, 1);
}

#[test]
fn a_response_that_waits_for_its_request_takes_no_more_than_its_bound() {
    let mut player = Player::new(true);
    let mut script = vec!["< HTTP/1.1 200 OK|Content-Length: 1000000||".to_owned()];
    script.resize(40, "< {4000}".to_owned());
    let script: Vec<&str> = script.iter().map(String::as_str).collect();
    for step in parse(&script) {
        player.step(&step);
        assert!(player.connection.held_bytes() <= MAX_HELD_BYTES);
    }
    assert_eq!(player.connection.ledger().responses_without_request, 1);
    assert_eq!(player.connection.ledger().bytes_held, 0);
}

#[test]
fn a_response_that_waits_in_single_bytes_takes_no_more_than_its_bound() {
    let mut script = vec!["< HTTP/1.1 200 OK|Content-Length: 1000000||"];
    script.resize(MAX_HELD_PIECES + 1, "< x");
    let (connection, _) = run(true, &parse(&script));
    assert_eq!((connection.ledger().bytes_held, connection.ledger().responses_without_request), (0, 1));
}

#[test]
fn a_start_line_that_never_ends_is_not_kept_for_ever() {
    let mut player = Player::new(true);
    let mut script = vec!["< GET /"];
    script.resize(100, "< {4000}");
    for step in parse(&script) {
        player.step(&step);
        assert!(player.connection.held_bytes() <= MAX_HELD_BYTES);
    }
    assert_eq!(player.connection.protocol(), Classified::Unknown);
    assert!(player.connection.ledger().bytes_unrecognised > 300_000);
}
