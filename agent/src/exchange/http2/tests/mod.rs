//! The rules of calls: what both ends wrote, as frames, and the exchanges it must yield.
//!
//! Each script is played whole, and cut at every byte of every call.

mod oracle;
mod recall;
mod truth;
mod tunnel;
mod upgrade;

use crate::exchange::{Classified, Connection, Event, Output};
use crate::identity::{ConnectionId, Direction, Moment, Monotonic, ProcessKey, ThreadId};
use crate::protocol::http2::PREFACE;
use crate::protocol::http2::tests::encode::{Encoder, Style, frame};
use crate::protocol::{FieldName, Fields};
use crate::stream::{Closed, Content, GapCause, Piece};

/// A call of the client's, a call of the server's, or an end.
#[derive(Clone, Debug)]
enum Step {
    Client(Vec<u8>),
    Server(Vec<u8>),
    ClientGap(u64),
    ServerGap(u64),
    Closed,
}
use Step::{Client, Server};

const SETTINGS: [u8; 9] = [0, 0, 0, 4, 0, 0, 0, 0, 0];

/// Both encoders of a connection, and the fields of calls.
struct Peers {
    client: Encoder,
    server: Encoder,
}

impl Peers {
    fn new() -> Self {
        Self { client: Encoder::new(Style::default()), server: Encoder::new(Style::default()) }
    }

    fn request(&mut self, stream: u32, flags: u8, path: &str) -> Vec<u8> {
        let block = self.client.block(&[
            (":method", "POST"),
            (":scheme", "http"),
            (":path", path),
            (":authority", "localhost:1"),
            ("content-type", "application/grpc"),
            ("te", "trailers"),
        ]);
        frame(1, 4 | flags, stream, &block)
    }

    fn head(&mut self, stream: u32) -> Vec<u8> {
        self.head_with(stream, &[])
    }

    fn head_with(&mut self, stream: u32, more: &[(&str, &str)]) -> Vec<u8> {
        let fields = [&[(":status", "200"), ("content-type", "application/grpc")], more].concat();
        let block = self.server.block(&fields);
        frame(1, 4, stream, &block)
    }

    fn trailers(&mut self, stream: u32, status: &str) -> Vec<u8> {
        let block = self.server.block(&[("grpc-status", status)]);
        frame(1, 5, stream, &block)
    }
}

/// A message of so many bytes.
fn message(length: usize) -> Vec<u8> {
    let mut out = vec![0];
    out.extend_from_slice(&u32::try_from(length).unwrap().to_be_bytes());
    out.extend(vec![b'm'; length]);
    out
}

fn data(stream: u32, flags: u8, payload: &[u8]) -> Vec<u8> {
    frame(0, flags, stream, payload)
}

fn begin() -> Vec<Step> {
    vec![Client([&PREFACE[..], &SETTINGS].concat()), Server(SETTINGS.to_vec())]
}

fn moment(step: usize) -> Moment {
    Moment {
        time: Monotonic(step as u64 * 1_000_000),
        process: ProcessKey { pid: 7, exec: 1, started: 1 },
        thread: ThreadId(1),
        nonblocking: true,
        in_epoll: true,
        evidence: None,
    }
}

/// Plays the steps at the client's end.
fn run(born_here: bool, steps: &[(usize, Step, bool)]) -> (Connection, Vec<String>) {
    let (connection, events) = play(born_here, steps);
    (connection, events.iter().map(text).collect())
}

fn play(born_here: bool, steps: &[(usize, Step, bool)]) -> (Connection, Vec<Event>) {
    play_on(Connection::new(ConnectionId(1), born_here), steps, &mut |_, _, _| {})
}

/// The same, with something to do after each step.
fn play_on(
    mut connection: Connection,
    steps: &[(usize, Step, bool)],
    after: &mut dyn FnMut(usize, &mut Connection, &mut Output),
) -> (Connection, Vec<Event>) {
    let (mut sent, mut received) = (0u64, 0u64);
    let mut out = Output::default();
    for (number, step, starts_call) in steps {
        let moment = moment(*number);
        let (direction, content, length) = match step {
            Client(bytes) => (Direction::Send, Content::Bytes(bytes), bytes.len() as u64),
            Server(bytes) => (Direction::Receive, Content::Bytes(bytes), bytes.len() as u64),
            Step::ClientGap(length) => {
                (Direction::Send, Content::Gap { length: *length, cause: GapCause::Lost }, *length)
            }
            Step::ServerGap(length) => {
                (Direction::Receive, Content::Gap { length: *length, cause: GapCause::Lost }, *length)
            }
            Step::Closed => {
                let closed = Closed {
                    time: moment.time,
                    errno: 0,
                    peer_finished: true,
                    local_finished_first: false,
                    process_exited: false,
                };
                connection.closed(&closed, &mut out);
                continue;
            }
        };
        let offset = match direction {
            Direction::Send => &mut sent,
            Direction::Receive => &mut received,
        };
        let piece =
            Piece { offset: *offset, content, starts_call: *starts_call, ends_call: false, moment: &moment };
        connection.piece(direction, &piece, &mut out);
        *offset += length;
        let (ledger, parsers) = (connection.ledger(), connection.parser_ledger());
        assert!(ledger.balances(), "{ledger:?}");
        assert!(parsers.balances(), "{parsers:?}");
        assert_eq!(ledger.bytes_parsed, parsers.bytes());
        after(*number, &mut connection, &mut out);
    }
    (connection, out.events)
}

fn grpc_status(fields: &Fields) -> String {
    fields
        .first(FieldName::GrpcStatus)
        .map_or_else(String::new, |s| format!(" status {}", String::from_utf8_lossy(s)))
}

fn text(event: &Event) -> String {
    match event {
        Event::Opened { id: _, role, began, at, head, carried: _ } => {
            let path = String::from_utf8_lossy(&head.target);
            format!("{role:?} {path} @{}..{}", began.time.0 / 1_000_000, at.time.0 / 1_000_000)
        }
        Event::Responding { id: _, at } => format!("responding @{}", at.time.0 / 1_000_000),
        Event::Closed(exchange) => {
            let facts = exchange.stream.as_ref().unwrap();
            let mut text = format!("{} closed @{}", facts.stream, exchange.ended.0 / 1_000_000);
            if let Some(head) = &exchange.response {
                text += &format!(" {}{}", head.status, grpc_status(&head.fields));
            }
            text += &facts.trailers.as_ref().map_or_else(String::new, grpc_status);
            for messages in [facts.request_messages, facts.response_messages] {
                let more = if messages.at_least { "+" } else { "" };
                text += &format!(" {}{more}x{}", messages.count, messages.bytes);
            }
            if let Some(failure) = exchange.failure {
                text += &format!(" {}", failure.kind.error_type());
            }
            if exchange.incomplete {
                text += " incomplete";
            }
            text
        }
    }
}

#[track_caller]
fn check(steps: &[Step], want: &[&str]) -> Connection {
    let whole: Vec<(usize, Step, bool)> =
        steps.iter().enumerate().map(|(number, step)| (number, step.clone(), true)).collect();
    let (connection, got) = run(true, &whole);
    assert_eq!(got, want);
    for (number, step) in steps.iter().enumerate() {
        let (Client(bytes) | Server(bytes)) = step else { continue };
        let cuts = (1..bytes.len().min(300)).map(|cut| vec![cut]).chain([(1..bytes.len()).collect()]);
        for cuts in cuts {
            let (mut pieces, mut from) = (Vec::new(), 0);
            for to in cuts.iter().copied().chain([bytes.len()]) {
                let part = bytes[from..to].to_vec();
                let part = if matches!(step, Client(_)) { Client(part) } else { Server(part) };
                pieces.push((number, part, from == 0));
                from = to;
            }
            let mut steps = whole.clone();
            steps.splice(number..=number, pieces);
            assert_eq!(run(true, &steps).1, want, "step {number} cut at {cuts:?}");
        }
    }
    connection
}

#[test]
fn a_unary_call_is_one_exchange() {
    let mut peers = Peers::new();
    let mut steps = begin();
    steps.push(Client([peers.request(1, 0, "/a.B/C"), data(1, 1, &message(20))].concat()));
    steps.push(Server([peers.head(1), data(1, 0, &message(7)), peers.trailers(1, "0")].concat()));
    let connection =
        check(&steps, &["Client /a.B/C @2..2", "responding @3", "1 closed @3 200 status 0 1x20 1x7"]);
    assert_eq!(connection.protocol(), Classified::Http2);
}

#[test]
fn a_server_that_speaks_first_is_waited_for() {
    let mut peers = Peers::new();
    let mut steps = begin();
    steps.swap(0, 1);
    steps.push(Client([peers.request(1, 1, "/a.B/C")].concat()));
    let only = peers.server.block(&[(":status", "200"), ("grpc-status", "5")]);
    steps.push(Server(frame(1, 5, 1, &only)));
    let connection =
        check(&steps, &["Client /a.B/C @2..2", "responding @3", "1 closed @3 200 status 5 0x0 0x0"]);
    assert_eq!(connection.ledger().bytes_unrecognised, 0);
}

#[test]
fn streams_are_told_apart_however_their_frames_mix() {
    let mut peers = Peers::new();
    let mut steps = begin();
    steps.push(Client([peers.request(1, 0, "/a.B/C"), peers.request(3, 0, "/a.B/D")].concat()));
    steps.push(Client([data(3, 0, &message(3)), data(1, 1, &message(1)), data(3, 1, &message(4))].concat()));
    let heads = [peers.head(3), peers.head(1)].concat();
    steps.push(Server(heads));
    steps.push(Server([data(3, 0, &message(9)), peers.trailers(3, "0")].concat()));
    steps.push(Server(peers.trailers(1, "13")));
    check(
        &steps,
        &[
            "Client /a.B/C @2..2",
            "Client /a.B/D @2..2",
            "responding @4",
            "responding @4",
            "3 closed @5 200 status 0 2x7 1x9",
            "1 closed @6 200 status 13 1x1 0x0",
        ],
    );
}

#[test]
fn a_reset_ends_the_call_unless_it_was_complete() {
    let mut peers = Peers::new();
    let mut steps = begin();
    steps.push(Client([peers.request(1, 0, "/a.B/C"), peers.request(3, 0, "/a.B/D")].concat()));
    steps.push(Client(frame(3, 0, 1, &[0, 0, 0, 8])));
    steps.push(Server([peers.head(3), peers.trailers(3, "4"), frame(3, 0, 3, &[0; 4])].concat()));
    check(
        &steps,
        &[
            "Client /a.B/C @2..2",
            "Client /a.B/D @2..2",
            "1 closed @3 0x0 0x0 CANCEL",
            "responding @4",
            "3 closed @4 200 status 4 0x0 0x0",
        ],
    );
}

#[test]
fn what_goaway_refuses_was_not_processed() {
    let mut peers = Peers::new();
    let mut steps = begin();
    steps.push(Client([peers.request(1, 1, "/a.B/C"), peers.request(3, 1, "/a.B/D")].concat()));
    steps.push(Server(frame(7, 0, 0, &[0, 0, 0, 1, 0, 0, 0, 0])));
    steps.push(Client(peers.request(5, 1, "/a.B/E")));
    steps.push(Step::Closed);
    check(
        &steps,
        &[
            "Client /a.B/C @2..2",
            "Client /a.B/D @2..2",
            "3 closed @3 0x0 0x0 goaway",
            "Client /a.B/E @4..4",
            "5 closed @4 0x0 0x0 goaway",
            "1 closed @5 0x0 0x0 connection_closed",
        ],
    );
}

#[test]
fn padding_priority_continuation_push_and_unknown_frames_change_nothing() {
    let mut peers = Peers::new();
    let request = peers.request(1, 0, "/a.B/C");
    let block = &request[9..];
    let (one, two) = block.split_at(block.len() / 2);
    let padded = [&[3u8, 0x80, 0, 0, 0, 15][..], one, &[0; 3]].concat();
    let promised = Encoder::literal("x", "y");
    let mut steps = begin();
    steps.push(Client(
        [
            frame(2, 0, 5, &[0, 0, 0, 0, 1]),
            frame(0xbe, 0xff, 77, b"whatever"),
            frame(1, 0x08 | 0x20, 1, &padded),
            frame(9, 0, 1, &[]),
            frame(9, 4, 1, two),
            frame(8, 0, 9, &[0, 0, 1, 0]),
            data(1, 1 | 8, &[&[4u8][..], &message(2), &[0; 4]].concat()),
        ]
        .concat(),
    ));
    steps.push(Server(
        [
            frame(5, 4, 1, &[&[0, 0, 0, 2][..], &promised].concat()),
            frame(6, 0, 0, &[0; 8]),
            peers.head(1),
            peers.trailers(1, "0"),
        ]
        .concat(),
    ));
    // The promise was one insertion into the server's table that its encoder does not know of: nothing here refers to it.
    check(&steps, &["Client /a.B/C @2..2", "responding @3", "1 closed @3 200 status 0 1x2 0x0"]);
}

#[test]
fn a_response_whose_request_is_recorded_later_waits_for_it() {
    let mut peers = Peers::new();
    let mut steps = begin();
    let request = [peers.request(1, 0, "/a.B/C"), data(1, 1, &message(20))].concat();
    steps.push(Server([peers.head(1), data(1, 0, &message(7)), peers.trailers(1, "0")].concat()));
    steps.push(Client(request));
    check(&steps, &["Client /a.B/C @3..3", "responding @2", "1 closed @3 200 status 0 1x20 1x7"]);
}

#[test]
fn an_interim_response_is_not_the_response() {
    let mut peers = Peers::new();
    let mut steps = begin();
    steps.push(Client(peers.request(1, 1, "/a")));
    let early = frame(1, 4, 1, &peers.server.block(&[(":status", "103")]));
    let last = frame(1, 5, 1, &peers.server.block(&[(":status", "404")]));
    steps.push(Server(early));
    steps.push(Server(last));
    check(&steps, &["Client /a @2..2", "responding @4", "1 closed @4 404 0x0 0x0"]);
}

/// One block was lost in each direction, so what was inserted before is unknown.
fn forgotten(peers: &mut Peers, steps: &mut Vec<Step>) {
    let request = [peers.request(1, 0, "/a.B/C"), data(1, 1, &message(1))].concat();
    let (head, trailers) = (peers.head(1), peers.trailers(1, "5"));
    // The kernel side cut both inside the header block, and knows the rest.
    steps.push(Client(request[..15].to_vec()));
    let block = usize::from(request[2]) + 9;
    steps.push(Step::ClientGap(block as u64 - 15));
    steps.push(Client(request[block..].to_vec()));
    for cut in [head, trailers] {
        steps.push(Server(cut[..10].to_vec()));
        steps.push(Step::ServerGap(cut.len() as u64 - 10));
    }
}

#[test]
fn a_call_whose_content_type_is_hidden_is_proven_by_one_that_names_the_same_entries() {
    let mut peers = Peers::new();
    let mut steps = begin();
    forgotten(&mut peers, &mut steps);
    for stream in [3, 5] {
        steps.push(Client([peers.request(stream, 0, "/a.B/C"), data(stream, 1, &message(2))].concat()));
        steps.push(Server(
            [peers.head(stream), data(stream, 0, &message(3)), peers.trailers(stream, "0")].concat(),
        ));
    }
    // Cancelled: nothing but its request was seen.
    steps.push(Client([peers.request(7, 0, "/a.B/C"), frame(3, 0, 7, &[0, 0, 0, 8])].concat()));
    let whole: Vec<(usize, Step, bool)> =
        steps.iter().enumerate().map(|(number, step)| (number, step.clone(), true)).collect();
    let (_, events) = play(true, &whole);
    let proven: Vec<(u32, bool)> = events
        .iter()
        .filter_map(|event| match event {
            Event::Closed(exchange) => exchange.stream.as_ref().map(|stream| (stream.stream, stream.grpc)),
            Event::Opened { .. } | Event::Responding { .. } => None,
        })
        .collect();
    // Exact framing has to be seen twice.
    assert_eq!(proven, [(3, false), (5, true), (7, true)]);
}

#[test]
fn a_number_under_an_unknown_name_is_a_status_only_in_a_call_of_grpc() {
    for grpc in [true, false] {
        let mut peers = Peers::new();
        let mut steps = begin();
        forgotten(&mut peers, &mut steps);
        let kind = if grpc { "application/grpc+proto" } else { "text/plain" };
        let fields = [(":method", "POST"), (":scheme", "http"), (":path", "/a.B/D"), ("content-type", kind)];
        let request = frame(1, 5, 3, &peers.client.block(&fields));
        steps.push(Client(request));
        // The name is that of an entry from before, the value is new.
        steps.push(Server([peers.head(3), peers.trailers(3, "7")].concat()));
        let whole: Vec<(usize, Step, bool)> =
            steps.iter().enumerate().map(|(number, step)| (number, step.clone(), true)).collect();
        let (_, events) = run(true, &whole);
        let want = if grpc { "3 closed @10 200 status 7 0x0 0x0" } else { "3 closed @10 200 0x0 0x0" };
        assert_eq!(events.last().unwrap(), want);
    }
}

#[test]
fn a_gap_inside_data_costs_nothing_but_bytes() {
    let mut peers = Peers::new();
    let mut steps = begin();
    let body = data(1, 1, &message(40_000));
    steps.push(Client([peers.request(1, 0, "/a.B/C"), body[..9 + 16].to_vec()].concat()));
    steps.push(Step::ClientGap(body.len() as u64 - 25));
    steps.push(Server([peers.head(1), data(1, 0, &message(7)), peers.trailers(1, "0")].concat()));
    check(&steps, &["Client /a.B/C @2..2", "responding @4", "1 closed @4 200 status 0 1x40000 1x7"]);
}

#[test]
fn a_gap_over_frames_leaves_the_calls_that_were_open_in_doubt() {
    let mut peers = Peers::new();
    let mut steps = begin();
    steps.push(Client([peers.request(1, 1, "/a.B/C"), peers.request(3, 1, "/a.B/D")].concat()));
    let head = peers.head(1);
    peers.trailers(1, "0");
    steps.push(Server(head));
    steps.push(Step::ServerGap(30));
    steps.push(Step::Closed);
    check(
        &steps,
        &[
            "Client /a.B/C @2..2",
            "Client /a.B/D @2..2",
            "responding @3",
            "1 closed @3 200 0x0 0+x0 incomplete",
            "3 closed @2 0x0 0+x0 incomplete",
        ],
    );
}
