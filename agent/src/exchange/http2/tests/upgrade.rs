//! HTTP/1 that goes over to HTTP/2 without TLS (RFC 7540 §3.2): the request before 101 is answered on stream 1.

use super::*;

const ASKS: &str = "GET /first HTTP/1.1\r\nHost: h\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n\r\n";
const GOES_OVER: &str = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n";

/// The client's words behind 101: the preface and its SETTINGS.
fn preface() -> Step {
    Client([&PREFACE[..], &SETTINGS].concat())
}

fn answer(peers: &mut Peers, stream: u32, status: &str) -> Vec<u8> {
    let block = peers.server.block(&[(":status", status), ("content-type", "text/plain")]);
    [frame(1, 4, stream, &block), data(stream, 1, b"hello")].concat()
}

#[test]
fn the_request_that_asked_is_answered_on_stream_1_and_others_follow() {
    let mut peers = Peers::new();
    let over = [GOES_OVER.as_bytes(), &SETTINGS, &answer(&mut peers, 1, "404")].concat();
    let second = [peers.request(3, 1, "/second")].concat();
    let steps = [
        Client(ASKS.into()),
        Server(over),
        preface(),
        Client(second),
        Server(answer(&mut peers, 3, "200")),
        Step::Closed,
    ];
    let connection = check(
        &steps,
        &[
            "Client /first @0..0",
            "responding @1",
            "1 closed @1 404 0x0 0+x0",
            "Client /second @3..3",
            "responding @4",
            "3 closed @4 200 0x0 0+x0",
        ],
    );
    assert_eq!(connection.protocol(), Classified::Http2);
    assert_eq!(connection.ledger().bytes_unrecognised + connection.ledger().bytes_other, 0);
}

#[test]
fn an_answer_that_comes_later_ends_the_request_then() {
    let mut peers = Peers::new();
    let steps = [
        Client(ASKS.into()),
        Server([GOES_OVER.as_bytes(), &SETTINGS].concat()),
        preface(),
        Server(answer(&mut peers, 1, "200")),
    ];
    check(&steps, &["Client /first @0..0", "responding @3", "1 closed @3 200 0x0 0+x0"]);
}

#[test]
fn a_connection_that_ends_before_the_answer_fails_the_request() {
    let steps =
        [Client(ASKS.into()), Server([GOES_OVER.as_bytes(), &SETTINGS].concat()), preface(), Step::Closed];
    check(&steps, &["Client /first @0..0", "1 closed @3 0x0 0x0 connection_closed"]);
}

#[test]
fn a_refused_upgrade_stays_http1() {
    let steps = [
        Client(ASKS.into()),
        Server(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi".into()),
        Client(b"GET /second HTTP/1.1\r\n\r\n".into()),
        Server(b"HTTP/1.1 204 N\r\n\r\n".into()),
    ];
    let whole: Vec<(usize, Step, bool)> = steps.into_iter().enumerate().map(|(n, s)| (n, s, true)).collect();
    let (connection, events) = play(true, &whole);
    assert_eq!(connection.protocol(), Classified::Http1);
    assert_eq!(events.iter().filter(|event| matches!(event, Event::Closed(_))).count(), 2);
}

/// What a relay between two real programs saw: a byte that says who spoke (0 the client), four that say how long it is, and that.
pub(super) fn recorded(mut bytes: &[u8]) -> Vec<Step> {
    let mut steps = Vec::new();
    while let Some((head, rest)) = bytes.split_at_checked(5) {
        let length = u32::from_be_bytes([head[1], head[2], head[3], head[4]]) as usize;
        let (said, rest) = rest.split_at(length);
        match head[0] {
            _ if said.is_empty() => {}
            0 => steps.push(Client(said.to_vec())),
            _ => steps.push(Server(said.to_vec())),
        }
        bytes = rest;
    }
    steps.push(Step::Closed);
    steps
}

#[test]
fn curl_and_apache_go_over_and_the_second_request_is_refused_by_goaway() {
    // curl 7.88, Apache 2.4: the server says that it ends after stream 1 when stream 3 is on its way.
    let steps = recorded(include_bytes!("recorded/curl-apache-h2c.rec"));
    check(
        &steps,
        &[
            "Client /plain/a?q=1 @0..0",
            "responding @4",
            "1 closed @4 200 0x0 0+x0",
            "Client /plain/missing?q=1 @5..5",
            "3 closed @6 0x0 0x0 goaway",
        ],
    );
}

#[test]
fn nghttp_and_apache_go_over_and_three_requests_are_answered() {
    let steps = recorded(include_bytes!("recorded/nghttp-apache-h2c.rec"));
    check(
        &steps,
        &[
            "Client /plain/a?q=1 @0..0",
            "Client /plain/missing?q=1 @2..2",
            "Client /plain/a?q=2 @2..2",
            "responding @3",
            "1 closed @3 200 0x0 0+x0",
            "responding @5",
            "responding @5",
            "13 closed @5 404 0x0 0+x0",
            "15 closed @5 200 0x0 0+x0",
        ],
    );
}
