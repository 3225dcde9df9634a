//! The rules of the exchange station, each as a script of what a connection moved and the events it must
//! yield, as text.
//!
//! A script is a list of steps; each is one call (`>` sent, `<` received), or an end. Time goes on by 1 ms a
//! step. What is written as one call is also tried cut into two pieces at every byte, and into single bytes:
//! the events must be the same.
//! ```text
//! > GET / HTTP/1.1||     a call; `|` is a line end, `{9}` nine bytes of a body
//! >~ lost 10             10 bytes are missing: silent, limit, unseen, lost
//! @50 #2 $7 < text       at 50 ms, by thread 2 of process 7
//! close peer             or: local, reset, pipe, timeout, killed, errno N
//! exit 7, abandon        process 7 dies; nothing more is known
//! ```

mod bounds;
mod ends;
mod fastcgi;
mod loss;
mod order;
mod protocols;
mod rules;
mod truth;
mod wishes;

use super::*;
use crate::identity::{ConnectionId, ProcessKey, ThreadId};
use crate::stream::{Closed, Content, GapCause, Piece};

/// A connection that was seen from its first byte.
#[track_caller]
fn check(script: &[&str], want: &[&str]) -> Connection {
    check_from(true, script, want)
}

/// A connection that was joined later.
#[track_caller]
fn check_late(script: &[&str], want: &[&str]) -> Connection {
    check_from(false, script, want)
}

#[track_caller]
fn check_from(born_here: bool, script: &[&str], want: &[&str]) -> Connection {
    let steps: Vec<Step> = parse(script);
    let (connection, output) = run(born_here, &steps);
    assert_eq!(texts(&output), want, "{script:#?}");
    for (number, step) in steps.iter().enumerate() {
        let Do::Bytes { direction, bytes, starts_call } = &step.what else { continue };
        let cuts = (1..bytes.len()).map(|cut| vec![cut]).chain([(1..bytes.len()).collect()]);
        for cuts in cuts.take(400) {
            let mut pieces = Vec::new();
            let mut from = 0;
            for to in cuts.iter().copied().chain([bytes.len()]) {
                let (bytes, starts_call) = (bytes[from..to].to_vec(), *starts_call && from == 0);
                let what = Do::Bytes { direction: *direction, bytes, starts_call };
                pieces.push(Step { moment: step.moment, what });
                from = to;
            }
            let mut steps = steps.clone();
            steps.splice(number..=number, pieces);
            let (_, output) = run(born_here, &steps);
            assert_eq!(texts(&output), want, "step {number} cut at {cuts:?} of {script:#?}");
        }
    }
    connection
}

/// What was asked for, after each step that asked for something: `step: direction policy`.
#[track_caller]
fn check_wishes(born_here: bool, script: &[&str], want: &[&str]) {
    let steps = parse(script);
    let mut player = Player::new(born_here);
    let mut got = Vec::new();
    for (number, step) in steps.iter().enumerate() {
        player.step(step);
        for Want { direction, policy } in player.output.wishes.drain(..) {
            got.push(format!("{number}: {direction:?} {policy:?}"));
        }
    }
    assert_eq!(got, want, "{script:#?}");
}

#[derive(Clone, Debug)]
struct Step {
    moment: Moment,
    what: Do,
}

#[derive(Clone, Debug)]
enum Do {
    Bytes { direction: Direction, bytes: Vec<u8>, starts_call: bool },
    Gap { direction: Direction, length: u64, cause: GapCause },
    Close { errno: i32, peer: bool, local: bool, killed: bool },
    Exit(u32),
    Abandon,
}

fn process(pid: u32) -> ProcessKey {
    ProcessKey { pid, exec: 1, started: 9 }
}

fn parse(script: &[&str]) -> Vec<Step> {
    let mut time = 0;
    script.iter().map(|line| parse_step(line, &mut time)).collect()
}

fn parse_step(line: &str, time: &mut u64) -> Step {
    *time += 1;
    let (mut thread, mut pid, mut rest) = (1, 1, line);
    loop {
        let (word, after) = rest.split_once(' ').unwrap_or((rest, ""));
        match word.split_at(1) {
            ("@", number) => *time = number.parse().unwrap(),
            ("#", number) => thread = number.parse().unwrap(),
            ("$", number) => pid = number.parse().unwrap(),
            _ => break,
        }
        rest = after;
    }
    let moment = Moment {
        time: Monotonic(*time * 1_000_000),
        process: process(pid),
        thread: ThreadId(thread),
        nonblocking: false,
        in_epoll: false,
        evidence: None,
    };
    let (word, after) = rest.split_once(' ').unwrap_or((rest, ""));
    let direction = if word.starts_with('>') { Direction::Send } else { Direction::Receive };
    let what = match word {
        ">" | "<" => Do::Bytes { direction, bytes: expand(after), starts_call: true },
        ">~" | "<~" => {
            let (cause, length) = after.split_once(' ').unwrap();
            let cause = match cause {
                "silent" => GapCause::Silent,
                "limit" => GapCause::Limit,
                "unseen" => GapCause::Unseen,
                "lost" => GapCause::Lost,
                other => panic!("{other} is no cause"),
            };
            Do::Gap { direction, length: length.parse().unwrap(), cause }
        }
        "close" => match after.split_once(' ').unwrap_or((after, "")) {
            ("peer", _) => Do::Close { errno: 0, peer: true, local: false, killed: false },
            ("local", _) => Do::Close { errno: 0, peer: false, local: true, killed: false },
            ("half", _) => Do::Close { errno: 0, peer: true, local: true, killed: false },
            ("killed", _) => Do::Close { errno: 0, peer: false, local: true, killed: true },
            ("reset", _) => Do::Close { errno: libc::ECONNRESET, peer: false, local: false, killed: false },
            ("pipe", _) => Do::Close { errno: libc::EPIPE, peer: true, local: false, killed: false },
            ("timeout", _) => Do::Close { errno: libc::ETIMEDOUT, peer: false, local: false, killed: false },
            ("errno", number) => {
                Do::Close { errno: number.parse().unwrap(), peer: false, local: false, killed: false }
            }
            other => panic!("{other:?} is no way to close"),
        },
        "exit" => Do::Exit(after.parse().unwrap()),
        "abandon" => Do::Abandon,
        other => panic!("{other} is no step"),
    };
    Step { moment, what }
}

/// `|` is a line end, `{9}` nine bytes.
fn expand(text: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut rest = text;
    while let Some(at) = rest.find(['|', '{']) {
        bytes.extend_from_slice(&rest.as_bytes()[..at]);
        if rest[at..].starts_with('|') {
            bytes.extend_from_slice(b"\r\n");
            rest = &rest[at + 1..];
        } else {
            let end = at + rest[at..].find('}').unwrap();
            bytes.resize(bytes.len() + rest[at + 1..end].parse::<usize>().unwrap(), b'x');
            rest = &rest[end + 1..];
        }
    }
    bytes.extend_from_slice(rest.as_bytes());
    bytes
}

/// A connection and where its two directions are.
struct Player {
    connection: Connection,
    output: Output,
    received: u64,
    sent: u64,
}

impl Player {
    fn new(born_here: bool) -> Self {
        let connection = Connection::new(ConnectionId(1), born_here);
        Self { connection, output: Output::default(), received: 0, sent: 0 }
    }

    fn step(&mut self, step: &Step) {
        let moment = &step.moment;
        match &step.what {
            Do::Bytes { direction, bytes, starts_call } => {
                let offset = self.advance(*direction, bytes.len() as u64);
                let content = Content::Bytes(bytes);
                let piece = Piece { offset, content, starts_call: *starts_call, ends_call: false, moment };
                self.connection.piece(*direction, &piece, &mut self.output);
            }
            Do::Gap { direction, length, cause } => {
                let offset = self.advance(*direction, *length);
                let content = Content::Gap { length: *length, cause: *cause };
                let piece = Piece { offset, content, starts_call: false, ends_call: false, moment };
                self.connection.piece(*direction, &piece, &mut self.output);
            }
            Do::Close { errno, peer, local, killed } => {
                let closed = Closed {
                    time: moment.time,
                    errno: *errno,
                    peer_finished: *peer,
                    local_finished_first: *local,
                    process_exited: *killed,
                };
                self.connection.closed(&closed, &mut self.output);
            }
            Do::Exit(pid) => {
                self.connection.process_exited(process(*pid), moment.time, &mut self.output);
            }
            Do::Abandon => self.connection.abandoned(&mut self.output),
        }
        let (ledger, parsers) = (self.connection.ledger(), self.connection.parser_ledger());
        assert!(ledger.balances(), "{ledger:?}");
        assert!(parsers.balances(), "{parsers:?}");
        assert_eq!(ledger.bytes_parsed, parsers.bytes());
    }

    fn advance(&mut self, direction: Direction, length: u64) -> u64 {
        let next = match direction {
            Direction::Receive => &mut self.received,
            Direction::Send => &mut self.sent,
        };
        let offset = *next;
        *next += length;
        offset
    }
}

fn run(born_here: bool, steps: &[Step]) -> (Connection, Vec<Event>) {
    let mut player = Player::new(born_here);
    steps.iter().for_each(|step| player.step(step));
    (player.connection, player.output.events)
}

fn texts(events: &[Event]) -> Vec<String> {
    events.iter().map(text).collect()
}

/// What matters of an event, times in ms: `offset what @time`.
fn text(event: &Event) -> String {
    let ms = |time: Monotonic| time.0 / 1_000_000;
    match event {
        Event::Opened { id, role, began, at, head, carried: _ } => {
            let (method, target) =
                (String::from_utf8_lossy(&head.method), String::from_utf8_lossy(&head.target));
            let began = format!("@{}..{}", ms(began.time), ms(at.time));
            format!("{} {role:?} {method} {target} {began}", id.offset)
        }
        Event::Responding { id, at } => format!("{} responding @{}", id.offset, ms(at.time)),
        Event::Closed(exchange) => {
            let status = exchange.response.as_ref().map_or("none".into(), |head| head.status.to_string());
            let mut text = format!("{} {status} @{}", exchange.id.offset, ms(exchange.ended));
            if (exchange.request_body, exchange.response_body) != (0, 0) {
                text += &format!(" bodies {} {}", exchange.request_body, exchange.response_body);
            }
            if exchange.request_ended.is_none() {
                text += " request-unfinished";
            }
            if exchange.switched {
                text += " switched";
            }
            if exchange.incomplete {
                text += " incomplete";
            }
            if let Some(Failure { kind, at, during }) = exchange.failure {
                text += &format!(" {kind:?}@{} in {during:?}", ms(at));
            }
            text
        }
    }
}
