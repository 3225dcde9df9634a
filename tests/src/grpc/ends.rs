//! What ends a call: a server's answer, its client, a deadline, a server or client that is killed, a server that stops in good
//! order, and the ways of a server written by hand. For each both ends, their status, when they ended, and one span for an attempt.
//!
//! All of it goes on under one agent, since each call's method is a token. The server by hand says which attempts it saw and what
//! it did with each; a program's own view is compared, but what counts is what was on the wire.
//!
//! It must never take a program's word for what the wire showed.

use std::collections::HashMap;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;

use crate::agent::{Agent, Outcome};
use crate::grpc::calls::{self, Call, Ends, Kind as Shape, Seen, status_name};
use crate::grpc::hand::{Did, Hand};
use crate::grpc::judge::method;
use crate::grpc::peers::{Load, Peer};
use crate::grpc::rows::{How, token};
use crate::otlp::{Kind, SeenSpan};
use crate::process::{Endpoint, Scratch, until};

/// One line of the table.
#[derive(Clone, Debug)]
pub struct Line {
    /// What ended the calls.
    pub case: &'static str,
    /// Who called.
    pub client: &'static str,
    /// Who answered.
    pub server: &'static str,
    /// Attempts, two ends each.
    pub ends: usize,
    /// Ends with a span.
    pub seen: usize,
    /// With the right status.
    pub status: usize,
    /// That ended when they should.
    pub duration: usize,
    /// Server spans below the client span of the same attempt.
    pub joined: usize,
    /// Another status, a span of no attempt, another parent, another number of messages.
    pub wrong: Vec<String>,
    /// What is missing or late.
    pub examples: Vec<String>,
    /// Where the program saw something else than the wire shows.
    pub notes: Vec<String>,
}

/// An attempt, as it must be seen at both ends.
#[derive(Clone, Debug)]
struct Attempt {
    /// Statuses of which the client's end must have one, and the server's.
    statuses: [Vec<u32>; 2],
    least: Duration,
    /// The end lies between these, in nanoseconds since 1970.
    between: (u64, u64),
    /// Messages of the response, at least and at most.
    messages: (u64, u64),
}

/// What must be seen of a method.
#[derive(Clone, Debug)]
struct Expected {
    line: usize,
    method: String,
    attempts: Vec<Attempt>,
}

/// How late a record, or a program's clock, may be: the machine is busy.
const SLACK: u64 = 30_000_000;

/// How long after a kill both ends must know.
const HEARD: u64 = 1_000_000_000;

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos() as u64)
}

/// Runs all cases.
pub fn run(pairs: &[(Peer, Peer)], by_hand: &[Peer], how: &How) -> Result<(Vec<Line>, Option<Outcome>)> {
    let scratch = Scratch::new("grpc-ends")?;
    let mut table = Table { lines: Vec::new(), expected: Vec::new() };
    let agent = how.agent(&scratch)?;
    for (client, server) in pairs {
        table.pair(*client, *server)?;
    }
    let hand = Hand::start()?;
    for client in by_hand {
        table.hand(*client, &hand)?;
    }
    // A server's own end comes when its timer is over.
    std::thread::sleep(Duration::from_millis(700));
    let outcome = agent.map(Agent::stop).transpose()?;
    if let Some(outcome) = &outcome {
        table.judge(&outcome.spans);
    }
    Ok((table.lines, outcome))
}

struct Table {
    lines: Vec<Line>,
    expected: Vec<Expected>,
}

/// What is done to calls that are under way.
#[derive(Clone, Copy, Eq, PartialEq)]
enum Blow {
    ServerKilled,
    ServerStops,
    ClientKilled,
}

impl Table {
    fn line(&mut self, case: &'static str, client: Peer, server: &'static str) -> usize {
        self.lines.push(Line {
            case,
            client: client.name(),
            server,
            ends: 0,
            seen: 0,
            status: 0,
            duration: 0,
            joined: 0,
            wrong: Vec::new(),
            examples: Vec::new(),
            notes: Vec::new(),
        });
        self.lines.len() - 1
    }

    fn pair(&mut self, client: Peer, server: Peer) -> Result<()> {
        self.calls(client, server)
            .and_then(|()| self.blow(client, server, Blow::ServerKilled))
            .and_then(|()| self.blow(client, server, Blow::ServerStops))
            .and_then(|()| self.blow(client, server, Blow::ClientKilled))
            .with_context(|| format!("{} calls {}", client.name(), server.name()))
    }

    /// Calls that end by themselves, by their client, and by a deadline.
    fn calls(&mut self, client: Peer, server: Peer) -> Result<()> {
        let name = |kind: &str| format!("{kind}{}", token());
        let stream = |body: &str| Call::streaming(&name("Server"), Shape::Server, body, "");
        let cases = [
            ("stream of 50", vec![stream("n=50 i=20")]),
            (
                "cancelled",
                vec![
                    Call::unary(&name("Cancelled"), "d=500", "").ended_by(Ends::Cancelled, 100),
                    stream("n=100 i=20").ended_by(Ends::Cancelled, 150),
                ],
            ),
            (
                "deadline",
                vec![
                    Call::unary(&name("Deadline"), "d=600", "").ended_by(Ends::Deadline, 200),
                    stream("n=100 i=20").ended_by(Ends::Deadline, 200),
                ],
            ),
            ("trailers-only", vec![Call::unary(&name("Fails"), "s=5", "")]),
        ];
        let scratch = Scratch::new("grpc-ends")?;
        let (file, log, open) = (scratch.join("calls.tsv"), scratch.join("log.tsv"), scratch.join("open"));
        std::fs::write(&open, "").context("an open gate")?;
        let all: Vec<(usize, Call)> = cases
            .into_iter()
            .flat_map(|(case, calls)| {
                let line = self.line(case, client, server.name());
                calls.into_iter().map(move |call| (line, call)).collect::<Vec<_>>()
            })
            .collect();
        // A call that waits for its connection may be over before it is sent.
        let warm = vec![Call::unary(&name("Warm"), "", "")];
        let calls: Vec<Call> = all.iter().map(|(_, call)| call.clone()).collect();
        let lines = calls::write_groups(&[warm, calls], &open, &file)?;
        let at = Endpoint::free()?;
        let _server = server.server(&at, &file, &scratch)?;
        for seen in drive(client, &at, &file, &log, &scratch)? {
            let path = lines.get(seen.index).and_then(Option::as_deref);
            let Some((line, call)) = all.iter().find(|(_, call)| Some(call.path.as_str()) == path) else {
                continue;
            };
            // A client that drops its call tells its program what it likes; and a server counts from when it heard of the call.
            // tonic keeps a deadline only until the response's head: of a stream the program gets all, and so did the wire.
            let served = seen.status == call.status && seen.messages == call.responses;
            let ends = if served { Ends::Served } else { call.ends };
            let statuses = match ends {
                Ends::Served => [vec![call.status], vec![call.status]],
                Ends::Cancelled => [vec![1], vec![1]],
                Ends::Deadline => [vec![4], vec![4, 1]],
            };
            let messages = match ends {
                Ends::Served => (call.responses, call.responses),
                _ => (0, call.responses),
            };
            // A server that nobody tells of the end goes on until its timer is over.
            let most = if ends == Ends::Served { SLACK } else { HEARD };
            self.expect(
                *line,
                call,
                Attempt {
                    statuses,
                    least: Duration::from_millis(call.least_ms),
                    between: (seen.began, seen.ended + most),
                    messages,
                },
            );
            self.compare(*line, call, &seen, &[call.status, 1, 4]);
        }
        Ok(())
    }

    /// Calls under way when something happens to an end of their connection.
    fn blow(&mut self, client: Peer, server: Peer, blow: Blow) -> Result<()> {
        let case = match blow {
            Blow::ServerKilled => "server killed",
            Blow::ServerStops => "server stops",
            Blow::ClientKilled => "client killed",
        };
        let line = self.line(case, client, server.name());
        let name = |kind: &str| format!("{kind}{}", token());
        let (slow, many) = match blow {
            Blow::ServerStops => ("d=700", "n=35 i=20"),
            Blow::ServerKilled | Blow::ClientKilled => ("d=20000", "n=400 i=50"),
        };
        let under_way =
            [Call::unary(&name("Slow"), slow, ""), Call::streaming(&name("Server"), Shape::Server, many, "")];
        let scratch = Scratch::new("grpc-ends")?;
        let (file, log) = (scratch.join("calls.tsv"), scratch.join("log.tsv"));
        let (gate, stop) = (scratch.join("gate"), scratch.join("stop"));
        let mut all = vec![Call::unary(&name("Warm"), "", "")];
        all.extend(under_way.iter().cloned());
        calls::write(&all, Some((1, &gate)), &file)?;
        let at = Endpoint::free()?;
        let mut serving = server.server_until(Some(&stop), &at, &file, &scratch)?;
        let load = Load { calls: &file, log: &log, concurrency: 4, connections: 1, made: None };
        let mut calling = client.client(&at, &load, &scratch)?;
        let reached = scratch.join("gate.reached");
        until("the client has made its first call", CLIENT, || {
            ensure!(calling.exited()?.is_none(), "the client ended: {}", calling.output());
            Ok(reached.exists())
        })?;
        let opened = now();
        std::fs::write(&gate, "").context("opening the gate")?;
        std::thread::sleep(Duration::from_millis(350));
        let struck = now();
        match blow {
            Blow::ServerKilled => serving.signal(Signal::SIGKILL)?,
            Blow::ServerStops => std::fs::write(&stop, "").context("stopping the server")?,
            Blow::ClientKilled => calling.signal(Signal::SIGKILL)?,
        }
        let status = calling.wait(CLIENT)?;
        ensure!(
            status.success() || blow == Blow::ClientKilled,
            "the client ended with {status}: {}",
            calling.output()
        );
        if blow == Blow::ServerStops {
            serving.wait(CLIENT).context("a server that stops in good order")?;
        }
        let seen = if blow == Blow::ClientKilled { Vec::new() } else { calls::log(&log, Some(1))? };
        for (index, call) in under_way.iter().enumerate() {
            let attempt = match blow {
                Blow::ServerStops => Attempt {
                    statuses: [vec![0], vec![0]],
                    least: Duration::from_millis(call.least_ms),
                    between: (struck, now() + SLACK),
                    messages: (call.responses, call.responses),
                },
                Blow::ServerKilled | Blow::ClientKilled => Attempt {
                    statuses: [vec![14], vec![14]],
                    least: Duration::from_nanos(struck - opened).saturating_sub(LEAST_SLACK),
                    between: (struck - SLACK, struck + HEARD),
                    messages: (0, call.responses),
                },
            };
            let own = attempt.statuses[0].clone();
            self.expect(line, call, attempt);
            if let Some(seen) = seen.iter().find(|seen| seen.index == index + 1) {
                self.compare(line, call, seen, &own);
            }
        }
        Ok(())
    }

    /// A client against the server by hand.
    fn hand(&mut self, client: Peer, hand: &Hand) -> Result<()> {
        let scratch = Scratch::new("grpc-ends")?;
        let (file, log, open) = (scratch.join("calls.tsv"), scratch.join("log.tsv"), scratch.join("open"));
        std::fs::write(&open, "").context("an open gate")?;
        let call = |action: &str| {
            let token = token();
            Call::unary(&format!("Hand{token}"), &format!("a={action} k=Hand{token}"), "")
        };
        let mut all: Vec<(&'static str, Vec<Call>)> = Vec::new();
        all.push(("resets", (0..14).map(|code| call(&format!("reset:{code}"))).collect()));
        let late = [0, 2, 8, 11].map(|code| call(&format!("late-reset:{code}")));
        all.push(("late resets", late.into()));
        all.push(("refused", vec![call("refuse")]));
        all.push(("answers", ["trailers-only", "http", "no-status"].map(call).into()));
        all.push(("GOAWAY", vec![call("hold"), call("goaway")]));
        all.push(("closed", vec![call("close")]));
        all.push(("reset", vec![call("abort")]));
        all.push(("goes on", vec![call("ok")]));
        let groups: Vec<Vec<Call>> = all.iter().map(|(_, calls)| calls.clone()).collect();
        let lines = calls::write_groups(&groups, &open, &file)?;
        let began = now();
        let seen = drive(client, &hand.at, &file, &log, &scratch)
            .with_context(|| format!("{} calls a server by hand", client.name()))?;
        let did = hand.log();
        for (case, calls) in &all {
            let line = self.line(case, client, "by hand");
            for call in calls {
                let token = call.method().rsplit('/').next().unwrap_or("");
                let attempts: &[Did] = did.get(token).map_or(&[], Vec::as_slice);
                let attempts = attempts.iter().map(|did| Attempt {
                    statuses: [vec![did.status()], vec![did.status()]],
                    least: Duration::ZERO,
                    between: (began, now() + SLACK),
                    messages: (0, 1),
                });
                let attempts: Vec<Attempt> = attempts.collect();
                let last = attempts.last().map(|attempt| attempt.statuses[0].clone()).unwrap_or_default();
                self.expected.push(Expected { line, method: call.method().to_owned(), attempts });
                let seen = seen.iter().find(|seen| {
                    lines.get(seen.index).and_then(Option::as_ref).is_some_and(|path| *path == call.path)
                });
                if let Some(seen) = seen {
                    self.compare(line, call, seen, &last);
                }
            }
        }
        Ok(())
    }

    fn expect(&mut self, line: usize, call: &Call, attempt: Attempt) {
        let method = call.method().to_owned();
        self.expected.push(Expected { line, method, attempts: vec![attempt] });
    }

    /// Notes where a program saw another status than the wire shows.
    fn compare(&mut self, line: usize, call: &Call, seen: &Seen, wire: &[u32]) {
        if !wire.contains(&seen.status)
            && let Some(line) = self.lines.get_mut(line)
        {
            let (body, saw) = (&call.body, status_name(seen.status));
            let wire = wire.first().copied().map_or("?", status_name);
            line.notes.push(format!("{body:?}: the program saw {saw}, the wire shows {wire}"));
        }
    }

    fn judge(&mut self, spans: &[SeenSpan]) {
        let mut index: HashMap<(&str, Kind), Vec<&SeenSpan>> = HashMap::new();
        for span in spans {
            index.entry((method(span), span.kind)).or_default().push(span);
        }
        for all in index.values_mut() {
            all.sort_by_key(|span| span.start);
        }
        for expected in &self.expected {
            let Some(line) = self.lines.get_mut(expected.line) else { continue };
            let of = |kind| index.get(&(expected.method.as_str(), kind)).cloned().unwrap_or_default();
            let (clients, servers) = (of(Kind::Client), of(Kind::Server));
            line.ends += 2 * expected.attempts.len();
            for (end, spans) in [&clients, &servers].into_iter().enumerate() {
                for extra in spans.iter().skip(expected.attempts.len()) {
                    line.wrong.push(format!("{:?} {} has one span more", extra.kind, expected.method));
                }
                for (at, attempt) in expected.attempts.iter().enumerate() {
                    match spans.get(at) {
                        Some(span) => line.end(end, attempt, span),
                        None => line.examples.push(format!(
                            "missing: {:?}, attempt {at} of {}",
                            [Kind::Client, Kind::Server][end],
                            expected.method
                        )),
                    }
                }
            }
            for server in &servers {
                match &server.parent {
                    Some(parent) if clients.iter().any(|client| client.id == *parent) => line.joined += 1,
                    Some(_) => line.wrong.push(format!("{} has another parent", expected.method)),
                    None => line.examples.push(format!("orphan: the server's {}", expected.method)),
                }
            }
        }
    }
}

impl Line {
    fn end(&mut self, end: usize, attempt: &Attempt, span: &SeenSpan) {
        self.seen += 1;
        let (kind, name) = (span.kind, method(span));
        let status = span.attribute("rpc.response.status_code");
        let right =
            attempt.statuses.get(end).is_some_and(|all| all.iter().any(|s| status_name(*s) == status));
        if right {
            self.status += 1;
        } else {
            let reason = span.attribute("error.type");
            let text =
                format!("{kind:?} {name} has status {status:?} ({reason}), not {:?}", attempt.statuses);
            // Unknown is not wrong. A client may write its call so much later than it has worked out how long it may take that its
            // reset comes before that time is over, as far as the wire shows.
            let early = status == "CANCELLED" && attempt.statuses.first().is_some_and(|all| all.contains(&4));
            if status.is_empty() || early { self.examples.push(text) } else { self.wrong.push(text) }
        }
        let lasted = span.end.saturating_sub(span.start);
        let (from, to) = attempt.between;
        if lasted + SLACK >= attempt.least.as_nanos() as u64 && span.end + SLACK >= from && span.end <= to {
            self.duration += 1;
        } else {
            let (early, late) = (from as i64 - span.end as i64, span.end as i64 - to as i64);
            self.examples.push(format!(
                "{kind:?} {name} lasted {lasted} ns, not {:?}; ended {early} ns before, {late} ns after it should",
                attempt.least
            ));
        }
        let messages = span.attribute("spandrel.rpc.response.messages").parse::<u64>();
        let (least, most) = attempt.messages;
        if !messages.as_ref().is_ok_and(|count| (least..=most).contains(count)) {
            self.wrong.push(format!("{kind:?} {name} has {messages:?} messages, not {least} to {most}"));
        }
    }

    /// Whether all is as it must be. A client that gave up before it sent anything has nothing that could be seen.
    pub fn is_right(&self) -> bool {
        let all = [self.seen, self.status, self.duration, 2 * self.joined];
        self.wrong.is_empty() && all.iter().all(|count| *count == self.ends)
    }
}

/// Runs a client to its end.
fn drive(client: Peer, to: &Endpoint, file: &Path, log: &Path, scratch: &Scratch) -> Result<Vec<Seen>> {
    let load = Load { calls: file, log, concurrency: 6, connections: 1, made: None };
    let mut client = client.client(to, &load, scratch)?;
    let status = client.wait(CLIENT)?;
    ensure!(status.success(), "the client ended with {status}: {}", client.output());
    calls::log(log, None)
}

/// How much later than told a client may begin its calls.
const LEAST_SLACK: Duration = Duration::from_millis(150);

/// How long a client may take.
const CLIENT: Duration = Duration::from_secs(60);
