//! Long connections with a known truth, joined anywhere, with records dropped, and with HTTP/2 inside DATA: whatever is said of a
//! call is true of the call with its stream's number.

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::*;
use crate::exchange::Exchange;

/// What both ends of a connection write, call by call.
pub(super) struct Connection2 {
    pub steps: Vec<Step>,
    /// The tables at the end, of the client's encoder and of the server's.
    pub tables: [Vec<(String, String)>; 2],
    /// The path, status and message lengths of each call.
    calls: Vec<(String, String, u64, u64)>,
}

pub(super) fn record(calls: u32, methods: u32, literal: &'static [&'static str]) -> Connection2 {
    record_dated(calls, methods, literal, None)
}

/// A server that sends a new `date` every so many calls.
#[derive(Clone, Copy)]
pub(super) struct Dated {
    pub every: u32,
    /// The tables are those that there were after this call.
    pub tables_at: u32,
}

pub(super) fn record_dated(
    calls: u32,
    methods: u32,
    literal: &'static [&'static str],
    dated: Option<Dated>,
) -> Connection2 {
    let mut peers = Peers::new();
    peers.client = Encoder::new(Style { literal, ..Style::default() });
    let mut out = Connection2 { steps: begin(), tables: Default::default(), calls: Vec::new() };
    for call in 0..calls {
        let stream = 2 * call + 1;
        let path = format!("/bench.Echo/Method{}", call * 7 % methods);
        let status = if call % 20 == 7 { "5" } else { "0" };
        let (asked, answered) = (call as usize * 13 % 200, call as usize * 31 % 500);
        let request = [peers.request(stream, 0, &path), data(stream, 1, &message(asked))].concat();
        let noise = if call % 3 == 0 { frame(8, 0, 0, &[0, 0, 0, 5]) } else { Vec::new() };
        let head = match dated {
            Some(Dated { every, .. }) => {
                peers.head_with(stream, &[("date", &format!("{} GMT", call / every))])
            }
            None => peers.head(stream),
        };
        let response = [head, data(stream, 0, &message(answered)), noise, peers.trailers(stream, status)];
        out.steps.push(Client(request));
        out.steps.push(Server(response.concat()));
        out.calls.push((path, status.to_owned(), asked as u64, answered as u64));
        if dated.is_none_or(|dated| dated.tables_at == call) {
            out.tables = [peers.client.table().to_vec(), peers.server.table().to_vec()];
        }
    }
    out
}

#[derive(Debug, Default)]
pub(super) struct Known {
    pub closed: usize,
    pub complete: usize,
    pub paths: usize,
    pub statuses: usize,
}

/// Plays steps, of which the player may see less than there was; checks every word.
fn judge(connection: &Connection2, born_here: bool, steps: &[(usize, Step, bool)]) -> Known {
    let (_, events) = play(born_here, steps);
    judge_events(connection, &events)
}

pub(super) fn judge_events(connection: &Connection2, events: &[Event]) -> Known {
    let mut known = Known::default();
    for event in events {
        let Event::Closed(exchange) = event else { continue };
        let Exchange { request, stream, incomplete, failure, .. } = &**exchange;
        let facts = stream.as_ref().unwrap();
        let (path, status, asked, answered) = &connection.calls[(facts.stream as usize - 1) / 2];
        known.closed += 1;
        if !request.target.is_empty() {
            assert_eq!(&*request.target, path.as_bytes(), "stream {}", facts.stream);
            known.paths += 1;
        }
        let trailers = facts.trailers.as_ref().and_then(|fields| fields.first(FieldName::GrpcStatus));
        if let Some(said) = trailers {
            assert_eq!(said, status.as_bytes(), "stream {}", facts.stream);
            known.statuses += 1;
        }
        if !incomplete && failure.is_none() {
            known.complete += 1;
            let counts = (facts.request_messages, facts.response_messages);
            assert!(counts.0.at_least || counts.0.bytes == *asked, "{facts:?}");
            assert!(counts.1.at_least || counts.1.bytes == *answered, "{facts:?}");
        }
    }
    known
}

pub(super) fn whole(steps: &[Step]) -> Vec<(usize, Step, bool)> {
    steps.iter().enumerate().map(|(number, step)| (number, step.clone(), true)).collect()
}

#[test]
fn a_connection_joined_late_is_told_once_it_is_proven_and_then_whole() {
    for (methods, literal, paths) in [(5, &[][..], 0), (50, &[], 0), (200, &[], 600), (50, &[":path"], 700)] {
        let connection = record(1_000, methods, literal);
        let born = judge(&connection, true, &whole(&connection.steps));
        assert_eq!((born.complete, born.paths, born.statuses), (1_000, 1_000, 1_000));
        let late = judge(&connection, false, &whole(&connection.steps[402..]));
        // The first calls are needed to find the place.
        assert!(late.complete >= 790, "{late:?}");
        assert!(late.paths >= paths && (paths > 0 || late.paths == 0), "{methods} methods: {late:?}");
    }
}

#[test]
fn nothing_is_told_before_it_is_proven() {
    let connection = record(60, 50, &[]);
    // Five calls: not enough turns, and no 16 KiB.
    let (end, events) = play(false, &whole(&connection.steps[20..30]));
    let ledger = end.ledger();
    assert_eq!(events.len(), 0);
    assert_eq!((ledger.opened, ledger.open), (0, 0));
    assert_eq!(ledger.requests, ledger.requests_unproven);
}

#[test]
fn a_handful_of_small_calls_proves_where_frames_begin() {
    let connection = record(60, 50, &[":path"]);
    let late = judge(&connection, false, &whole(&connection.steps[22..]));
    // The first call is needed to find the place, the second one's answer is the first of four.
    assert!(late.complete >= 44 && late.paths == late.complete, "{late:?}");
}

#[test]
fn a_join_at_any_byte_says_nothing_wrong() {
    let connection = record(600, 40, &[":path"]);
    let mut random = StdRng::seed_from_u64(5);
    for _ in 0..40 {
        let from = random.random_range(2..600);
        let mut steps = whole(&connection.steps[from..]);
        if let Client(bytes) | Server(bytes) = &mut steps[0].1 {
            let cut = random.random_range(0..bytes.len());
            bytes.drain(..cut);
        }
        judge(&connection, false, &steps);
    }
}

#[test]
fn records_dropped_at_random_make_nothing_wrong() {
    let mut random = StdRng::seed_from_u64(6);
    let connection = record(1_500, 30, &[]);
    for one_in in [5, 50, 500] {
        let mut steps = whole(&connection.steps);
        for (_, step, _) in &mut steps {
            if random.random_ratio(1, one_in) {
                *step = match step {
                    Client(bytes) => Step::ClientGap(bytes.len() as u64),
                    Server(bytes) => Step::ServerGap(bytes.len() as u64),
                    Step::ClientGap(_) | Step::ServerGap(_) | Step::Closed => continue,
                };
            }
        }
        let known = judge(&connection, true, &steps);
        if one_in == 500 {
            assert!(known.complete > 700, "{known:?}");
        }
    }
}

/// A proxy that carries HTTP/2 inside DATA of one long stream: calls of the inner connection are nobody's.
#[test]
fn a_tunnel_of_http2_inside_data_shows_no_inner_calls() {
    let inner = record(3_000, 50, &[":path"]);
    let mut peers = Peers::new();
    let connect = peers.request(1, 0, "/tunnel");
    let head = peers.head(1);
    let mut steps = begin();
    steps.extend([Client(connect), Server(head)]);
    for ours in [true, false] {
        let bytes: Vec<u8> = inner
            .steps
            .iter()
            .flat_map(|step| match step {
                Client(bytes) if ours => bytes.clone(),
                Server(bytes) if !ours => bytes.clone(),
                _ => Vec::new(),
            })
            .collect();
        for part in bytes.chunks(16_384) {
            let outer = data(1, 0, part);
            steps.push(if ours { Client(outer) } else { Server(outer) });
        }
    }
    let (_, events) = play(true, &whole(&steps));
    assert_eq!(events.len(), 2, "the tunnel's own request and response head");
    let mut random = StdRng::seed_from_u64(7);
    for _ in 0..30 {
        // Joined inside the payload.
        let mut late = whole(&steps[4..]);
        if let Client(bytes) = &mut late[0].1 {
            bytes.drain(..random.random_range(1..9_000));
        }
        let (_, events) = play(false, &late);
        assert!(events.is_empty(), "{events:?}");
    }
}

#[test]
fn three_hundred_pings_in_one_call_change_nothing() {
    let mut connection = record(20, 5, &[]);
    let pings: Vec<u8> = (0..300).flat_map(|_| frame(6, 0, 0, &[7; 8])).collect();
    connection.steps.insert(12, Client(pings.clone()));
    connection.steps.insert(25, Server(pings));
    let known = judge(&connection, true, &whole(&connection.steps));
    assert_eq!((known.complete, known.statuses), (20, 20));
}
