//! Whole connections of which records are lost, come late or come in the wrong order: whatever is paired is
//! paired right. Each request and each response carries its number, in the target and in the status.

use super::*;

/// Marsaglia's xorshift.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 >> 16
    }

    /// True in so many of a thousand cases.
    fn chance(&mut self, of_thousand: u64) -> bool {
        self.next() % 1000 < of_thousand
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }
}

/// What happens to the records of one connection end.
#[derive(Clone, Copy, Debug)]
struct Case {
    seed: u64,
    role: Role,
    exchanges: u64,
    /// Requests sent before the first response: 1 is no pipelining.
    depth: u64,
    /// A new request goes out as soon as a response came; else a batch when all have come.
    rolling: bool,
    /// In a thousand records.
    lost: u64,
    /// Records lost in a row, at most.
    burst: u64,
    /// Pairs in a thousand whose records come in the wrong order.
    inverted: u64,
    /// The first so many records are not lost.
    intact: usize,
    /// Records before the connection is joined; 0: it is seen from birth.
    joined_after: u64,
}

#[derive(Debug, Default, Eq, PartialEq)]
struct Verdict {
    right: u64,
    wrong: u64,
    incomplete: u64,
    failed: u64,
    unseen: u64,
}

/// One call: when it ended, its bytes, and where they are in its direction.
struct Record {
    time: u64,
    direction: Direction,
    offset: u64,
    bytes: Vec<u8>,
}

fn records(case: Case, random: &mut Random) -> Vec<Record> {
    let to_server = super::super::pending::request_direction(case.role);
    let (mut records, mut time): (Vec<Record>, _) = (Vec::new(), 1_000_000_000);
    let mut offsets = [0u64; 2];
    let mut call = |direction: Direction, bytes: Vec<u8>, time: u64| {
        let offset = &mut offsets[direction as usize];
        let record = Record { time, direction, offset: *offset, bytes };
        *offset += record.bytes.len() as u64;
        record
    };
    let request = |number: u64| format!("GET /{number} HTTP/1.1\r\nHost: h\r\n\r\n").into_bytes();
    let (mut sent, mut answered) = (0, 0);
    while answered < case.exchanges {
        let room = match case.rolling {
            true => case.depth - (sent - answered),
            false if sent == answered => case.depth,
            false => 0,
        };
        for _ in 0..room.min(case.exchanges - sent) {
            time += 20_000 + random.below(100_000);
            records.push(call(to_server, request(sent), time));
            sent += 1;
        }
        time += 20_000 + random.below(2_000_000);
        let body = random.below(3) * 50;
        let head = format!("HTTP/1.1 {} N\r\nContent-Length: {body}\r\n\r\n", status(answered));
        let mut bytes = head.into_bytes();
        // In one call, or head and body apart.
        if random.chance(500) {
            records.push(call(to_server.opposite(), bytes, time));
            bytes = Vec::new();
            time += 5_000;
        }
        bytes.resize(bytes.len() + body as usize, b'x');
        if !bytes.is_empty() {
            records.push(call(to_server.opposite(), bytes, time));
        }
        answered += 1;
    }
    // Two threads: a call that ended first is recorded second, because its thread was preempted before its
    // end. At a client that is the request, at a server the response.
    let late = match case.role {
        Role::Client => to_server,
        Role::Server => to_server.opposite(),
    };
    for index in 1..records.len() {
        let other = records[index].direction != records[index - 1].direction;
        if other && records[index - 1].direction == late && random.chance(case.inverted) {
            records[index - 1].time = records[index].time + 1_000 + random.below(100_000);
            records.swap(index - 1, index);
        }
    }
    records
}

fn status(number: u64) -> u64 {
    // No 204 and no 304: here every response has a body.
    400 + number % 199
}

fn play(case: Case) -> Verdict {
    let mut random = Random(case.seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1);
    let records = records(case, &mut random);
    let mut connection = Connection::new(ConnectionId(1), case.joined_after == 0);
    let mut output = Output::default();
    let mut next: [Option<u64>; 2] = if case.joined_after == 0 { [Some(0); 2] } else { [None; 2] };
    let mut losing = 0;
    for (number, record) in records.iter().enumerate().skip(case.joined_after as usize) {
        if losing == 0 && number >= case.intact && random.chance(case.lost) {
            losing = 1 + random.below(case.burst);
        }
        if losing > 0 {
            losing -= 1;
            continue;
        }
        let moment = Moment {
            time: Monotonic(record.time),
            process: process(1),
            // With one thread, no record is late.
            thread: ThreadId(if case.inverted > 0 { record.direction as u32 } else { 1 }),
            nonblocking: false,
            in_epoll: false,
            evidence: None,
        };
        let next = &mut next[record.direction as usize];
        let expected = next.unwrap_or(record.offset);
        if expected < record.offset {
            let content = Content::Gap { length: record.offset - expected, cause: GapCause::Lost };
            let gap =
                Piece { offset: expected, content, starts_call: false, ends_call: false, moment: &moment };
            connection.piece(record.direction, &gap, &mut output);
        }
        *next = Some(record.offset + record.bytes.len() as u64);
        let content = Content::Bytes(&record.bytes);
        let piece =
            Piece { offset: record.offset, content, starts_call: true, ends_call: false, moment: &moment };
        connection.piece(record.direction, &piece, &mut output);
        assert!(connection.ledger().balances());
    }
    connection.abandoned(&mut output);
    judge(output.events, case.exchanges)
}

/// Compares what was paired with the numbers in it.
fn judge(events: Vec<Event>, exchanges: u64) -> Verdict {
    let mut verdict = Verdict { unseen: exchanges, ..Verdict::default() };
    for event in events {
        let Event::Closed(exchange) = event else { continue };
        let target = String::from_utf8_lossy(&exchange.request.target).into_owned();
        let number: u64 = target.trim_start_matches('/').parse().unwrap();
        verdict.unseen = verdict.unseen.saturating_sub(1);
        match exchange.response {
            Some(head) if u64::from(head.status) != status(number) => verdict.wrong += 1,
            Some(_) if exchange.failure.is_some() => verdict.failed += 1,
            Some(_) if !exchange.incomplete => verdict.right += 1,
            _ => verdict.incomplete += 1,
        }
    }
    verdict
}

const CASE: Case = Case {
    seed: 0,
    role: Role::Client,
    exchanges: 60,
    depth: 1,
    rolling: true,
    lost: 0,
    burst: 1,
    inverted: 0,
    intact: 0,
    joined_after: 0,
};

/// Adds up what many connections of a kind yield.
fn play_many(case: Case, seeds: u64) -> Verdict {
    let mut total = Verdict::default();
    for seed in 0..seeds {
        for role in [Role::Client, Role::Server] {
            let case = Case { seed: seed + 1, role, ..case };
            let verdict = play(case);
            assert_eq!(verdict.wrong, 0, "{case:?} {verdict:?}");
            total.right += verdict.right;
            total.incomplete += verdict.incomplete;
            total.failed += verdict.failed;
            total.unseen += verdict.unseen;
        }
    }
    total
}

#[test]
fn the_judge_calls_a_swapped_response_wrong() {
    let script = |first: u64, second: u64| {
        let script = format!(
            "< GET /0 HTTP/1.1||GET /1 HTTP/1.1||\n> HTTP/1.1 {first} N|Content-Length: 0||\n> HTTP/1.1 {second} N|Content-Length: 0||"
        );
        run(true, &parse(&script.lines().collect::<Vec<_>>())).1
    };
    assert_eq!(judge(script(400, 401), 2), Verdict { right: 2, ..Verdict::default() });
    assert_eq!(judge(script(401, 400), 2), Verdict { wrong: 2, ..Verdict::default() });
}

#[test]
fn with_nothing_lost_everything_is_paired_whatever_the_order_of_the_records() {
    for inverted in [0, 20, 500, 1000] {
        let total = play_many(Case { inverted, ..CASE }, 50);
        assert_eq!(total, Verdict { right: 50 * 2 * 60, ..Verdict::default() }, "{inverted}");
    }
    for (depth, rolling) in [(2, true), (2, false), (7, true), (16, false)] {
        let total = play_many(Case { depth, rolling, exchanges: 64, ..CASE }, 50);
        assert_eq!(total, Verdict { right: 50 * 2 * 64, ..Verdict::default() }, "{depth} {rolling}");
    }
}

#[test]
fn with_records_lost_nothing_is_paired_wrong_and_the_connection_recovers() {
    for (lost, burst, at_least) in [(5, 1, 95), (20, 3, 80), (50, 10, 50), (300, 2, 10)] {
        let total = play_many(Case { lost, burst, ..CASE }, 100);
        let all = 100 * 2 * 60;
        assert!(total.right * 100 >= all * at_least, "lost {lost}, bursts of {burst}: {total:?} of {all}");
    }
}

#[test]
fn with_records_lost_and_others_late_nothing_is_paired_wrong() {
    for (lost, burst, inverted) in [(5, 1, 10), (20, 3, 10), (50, 10, 50), (300, 2, 50)] {
        let total = play_many(Case { lost, burst, inverted, ..CASE }, 100);
        assert!(total.right > 0, "{total:?}");
    }
}

#[test]
fn a_connection_that_was_seen_to_pipeline_is_not_paired_wrong_when_records_are_lost() {
    for (depth, rolling) in [(2, true), (2, false), (3, true), (7, true), (16, false)] {
        for (lost, burst) in [(5, 1), (20, 3), (100, 4)] {
            let case = Case { depth, rolling, lost, burst, intact: 4, exchanges: 64, ..CASE };
            let total = play_many(case, 50);
            assert!(total.right > 0, "{case:?} {total:?}");
        }
    }
}

#[test]
fn a_connection_joined_anywhere_is_paired_from_its_next_request_on() {
    for joined_after in 1..30 {
        let total = play_many(Case { joined_after, exchanges: 30, ..CASE }, 20);
        assert_eq!((total.incomplete, total.failed), (0, 0));
        assert!(total.right >= 20 * 2 * (30 - joined_after - 1), "joined after {joined_after}: {total:?}");
    }
}

#[test]
fn a_connection_joined_anywhere_whose_records_are_late_is_not_paired_wrong() {
    for joined_after in 1..30 {
        play_many(Case { joined_after, inverted: 20, exchanges: 30, ..CASE }, 30);
    }
}
