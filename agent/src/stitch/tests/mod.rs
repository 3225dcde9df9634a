//! Scenarios as text: what threads did, and the trees that must come of it.
//!
//! ```text
//! web.1 reads s1 /a      thread 1 of the process web reads a request on connection s1
//! web.1 calls c1 /b      ... writes one on connection c1
//! web.1 begins s1        the first byte of a response is moved
//! web.1 ends s1          the last one; `answers` is both
//! web.1 fails s1         the exchange ends without response
//! join c1 s1             c1 and s1 are the two ends of one connection
//! close c1 · exit web · lost · wait 300 (ms)
//! ```
//! Each line happens 1 ms after the one before. Flags on `reads` and `calls`: `nonblocking`, `epoll`, `born`,
//! `one`, `oneifblocking`, `many` (how the program serves), `by=2` (thread 2 completed the head), `ctx=7:5:01` (trace, span,
//! flags), `at=-3` (reported to have happened 3 ms earlier), `intake`.
//!
//! Evidence, also on `begins` and `answers`: `owns=5` (a key), `claims=5`, `claims=5@-3` (who owned it 3 ms before),
//! `claims=5^41` (who owned it and made task 41), `gate=40` (tasks up to 40 were made before),
//! `held=5`, `held=5@80` (who waits for what the caller holds, and what that is), `later`,
//! `more` (the answer tells more keys).
//! `web.1 bears 7 5`: task 5 makes task 7. `web.1 asks x1` (flags as `calls`): a connection is asked for; `connected x1`,
//! `refused x1` (errno 111), `dropped x1` (no error): what becomes of it. A span shows its events as `!name`.

mod bounds;
mod connects;
mod order;
mod owner;
mod pool;
mod rules;
mod simulate;
mod thread;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use rand::SeedableRng;
use rand::rngs::StdRng;

use super::ledger::Ledger;
use super::span::{Kind, Span, SpanId, TraceId};
use super::{Endpoints, Input, Output, Serving, Settings, Stitcher};
use crate::discover::Resource;
use crate::exchange::{Carried, Exchange, ExchangeId, Failure, FailureKind};
use crate::identity::{
    Address, Birth, Claim, ConnectionId, Direction, EvidenceId, Facts, Gate, Held, Key, LinkMethod, Moment,
    Monotonic, ProcessKey, Role, ThreadId,
};
use crate::protocol::{FieldName, Fields, RequestHead, ResponseHead, Version};

pub(super) const MS: u64 = 1_000_000;
/// What a client writes at offset o its server reads at o + SHIFT.
const SHIFT: i64 = 1_000;

/// One line of a scenario.
#[derive(Clone, Debug)]
pub(super) struct Line {
    /// Lines of one actor stay in order.
    pub actor: String,
    pub inputs: Vec<Input>,
    /// What walks found for them.
    pub notes: Vec<(EvidenceId, Facts)>,
    /// Poll after so many nanoseconds.
    pub wait: Option<u64>,
}

/// What came of a scenario.
pub(super) struct Told {
    pub tree: String,
    pub spans: Vec<Arc<Span>>,
    pub outputs: Vec<Output>,
    pub ledger: Ledger,
}

/// The trees that come of a script, with the default settings.
#[track_caller]
pub(super) fn check(script: &str, want: &str) -> Ledger {
    check_with(Settings::default(), script, want)
}

#[track_caller]
pub(super) fn check_with(settings: Settings, script: &str, want: &str) -> Ledger {
    let told = run(settings, &parse(script));
    assert_eq!(
        told.tree,
        dedent(want),
        "\n--- got ---\n{}--- of ---\n{script}\n{:#?}",
        told.tree,
        told.ledger
    );
    told.ledger
}

pub(super) fn stitcher(settings: Settings) -> Stitcher {
    Stitcher::new(settings, Box::new(StdRng::seed_from_u64(7)))
}

pub(super) fn run(settings: Settings, lines: &[Line]) -> Told {
    let mut stitcher = stitcher(settings);
    stitcher.set_wall_offset(1_000);
    let mut out = Vec::new();
    let mut now = 0;
    let mut notes: Vec<_> = lines.iter().flat_map(|line| &line.notes).collect();
    notes.sort_by_key(|(id, _)| *id);
    stitcher.note(Facts { later: true, ..Facts::default() });
    for (id, facts) in notes {
        assert_eq!(stitcher.note(facts.clone()), Some(*id));
    }
    for line in lines {
        for input in &line.inputs {
            stitcher.handle(input.clone(), &mut out);
            assert_eq!(stitcher.ledger().balance(), (0, 0), "after {input:?}: {:#?}", stitcher.ledger());
        }
        if let Some(wait) = line.wait {
            now = stitcher.clock.0.max(now) + wait;
            stitcher.poll(Monotonic(now), &mut out);
            assert_eq!(stitcher.ledger().balance(), (0, 0));
        }
    }
    stitcher.poll(Monotonic(stitcher.clock.0 + 100 * MS), &mut out);
    stitcher.finish(Monotonic(stitcher.clock.0 + 100 * MS), &mut out);
    let ledger = stitcher.ledger();
    assert_eq!(ledger.balance(), (0, 0), "{ledger:#?}");
    assert_eq!(ledger.held, super::ledger::Held::default());
    assert_eq!(ledger.connects.balance(0), 0, "{ledger:#?}");
    tell(out, ledger)
}

fn tell(outputs: Vec<Output>, ledger: Ledger) -> Told {
    let mut bound: HashMap<SpanId, TraceId> = HashMap::new();
    let mut over = HashSet::new();
    let mut spans = Vec::new();
    for output in &outputs {
        match output {
            Output::Bound { trace, span } => assert_eq!(bound.insert(*span, *trace), None, "bound twice"),
            Output::Abandoned { trace, span } => {
                assert_eq!(bound.get(span), Some(trace), "abandoned without being bound");
                assert!(over.insert(*span), "ended twice");
            }
            Output::Ended(span) => {
                assert_eq!(bound.get(&span.id), Some(&span.trace), "ended without being bound");
                assert!(over.insert(span.id), "ended twice");
                assert!(span.start <= span.end, "{span:?}");
                spans.push(Arc::clone(span));
            }
        }
    }
    let tree = tree(&spans);
    Told { tree, spans, outputs, ledger }
}

/// The spans as indented text, roots and children in order of start.
fn tree(spans: &[Arc<Span>]) -> String {
    let known: HashMap<SpanId, &Arc<Span>> = spans.iter().map(|span| (span.id, span)).collect();
    let mut children: BTreeMap<Option<SpanId>, Vec<&Arc<Span>>> = BTreeMap::new();
    for span in spans {
        let parent = span.parent.map(|p| p.span).filter(|p| known.contains_key(p));
        if let Some(parent) = parent.and_then(|p| known.get(&p)) {
            assert_eq!(parent.trace, span.trace, "a child is in another trace");
            assert_eq!(parent.wall_offset, span.wall_offset, "a trace is torn");
        }
        children.entry(parent).or_default().push(span);
    }
    for list in children.values_mut() {
        list.sort_by_key(|span| (span.start, span.resource.service.clone()));
    }
    let mut text = String::new();
    let mut work: Vec<(usize, &Arc<Span>)> = Vec::new();
    let below = |parent: Option<SpanId>, depth: usize, work: &mut Vec<_>| {
        work.extend(children.get(&parent).into_iter().flatten().rev().map(|&span| (depth, span)));
    };
    below(None, 0, &mut work);
    while let Some((depth, span)) = work.pop() {
        let kind = match span.kind {
            Kind::Server => "server",
            Kind::Client => "client",
        };
        let link = match span.parent {
            None => String::new(),
            Some(p) if known.contains_key(&p.span) => format!(" {}", p.method.name()),
            Some(p) => format!(" {} {:x}:{:x}", p.method.name(), span.trace.0[15], p.span.0[7]),
        };
        let events = span.events.iter().filter(|event| event.name.starts_with("connect."));
        let events: String = events.map(|event| format!(" !{}", event.name)).collect();
        text += &format!("{}{kind} {}{link}{events}\n", "  ".repeat(depth), span.resource.service);
        below(Some(span.id), depth + 1, &mut work);
    }
    text
}

/// Without the indentation that all lines share, and without empty lines.
fn dedent(text: &str) -> String {
    let lines: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
    let indent = lines.iter().map(|l| l.len() - l.trim_start().len()).min().unwrap_or(0);
    lines.iter().map(|line| format!("{}\n", line[indent..].trim_end())).collect()
}

pub(super) fn process(pid: u32) -> ProcessKey {
    ProcessKey { pid, exec: 1, started: 1 }
}

pub(super) fn moment(time: u64, pid: u32, thread: u32) -> Moment {
    Moment {
        time: Monotonic(time),
        process: process(pid),
        thread: ThreadId(thread),
        nonblocking: false,
        in_epoll: false,
        evidence: None,
    }
}

pub(super) fn resource(service: &str) -> Arc<Resource> {
    Arc::new(Resource { service: service.to_owned(), attributes: Vec::new() })
}

pub(super) fn request(method: &str, target: &str, fields: Vec<(FieldName, Box<[u8]>)>) -> Box<RequestHead> {
    Box::new(RequestHead {
        method: method.as_bytes().into(),
        target: target.as_bytes().into(),
        version: Version::Http11,
        fields: Fields(fields),
    })
}

/// An exchange that went well.
pub(super) fn exchange(
    id: ExchangeId,
    role: Role,
    began: Moment,
    head: Box<RequestHead>,
    at: Moment,
) -> Exchange {
    let response = ResponseHead { status: 200, version: Version::Http11, fields: Fields::default() };
    Exchange {
        id,
        role,
        began,
        request_ended: Some(began),
        responded: Some(at),
        ended: at.time,
        request: head,
        response: Some(Box::new(response)),
        request_body: 0,
        response_body: 0,
        failure: None,
        switched: false,
        incomplete: false,
        stream: None,
    }
}

#[derive(Default)]
struct Parser {
    numbers: HashMap<String, u64>,
    opened: HashMap<(String, bool), u64>,
    /// Who opened exchanges on a connection.
    owners: HashMap<String, String>,
    /// Under way, oldest first.
    under_way: Vec<(String, Exchange)>,
    evidence: crate::identity::evidence::Evidence,
    notes: Vec<(EvidenceId, Facts)>,
}

/// What a word says of a call's evidence; false if it says something else.
fn fact(facts: &mut Facts, time: u64, word: &str) -> bool {
    let key = |text: &str| Key { space: 0, value: text.parse().unwrap() };
    match word.split_once('=').unwrap_or((word, "")) {
        ("owns", value) => facts.owns.push(key(value)),
        ("claims", text) => {
            let (text, born) = text.split_once('^').map_or((text, None), |(t, born)| (t, born.parse().ok()));
            let (text, at) = text.split_once('@').map_or((text, None), |(t, at)| (t, Some(at)));
            let at = at.map(|at| {
                Monotonic(time.checked_add_signed(at.parse::<i64>().unwrap() * MS as i64).unwrap())
            });
            let method = if born.is_some() { LinkMethod::Inferred } else { LinkMethod::Waiter };
            facts.claims.push(Claim { key: key(text), at, born, method });
        }
        ("likely", text) => {
            facts.claims.push(Claim { key: key(text), at: None, born: None, method: LinkMethod::Inferred });
        }
        ("held", text) => {
            let (waiter, thing) = text.split_once('@').unwrap_or((text, "0"));
            facts.held.push(Held { thing: thing.parse().unwrap(), waiter: key(waiter) });
        }
        ("gate", last) => facts.gate = Some(Gate { last: last.parse().unwrap(), batches: Vec::new() }),
        ("later", _) => facts.later = true,
        ("more", _) => facts.more = true,
        _ => return false,
    }
    true
}

impl Parser {
    fn number(&mut self, name: &str) -> u64 {
        let next = self.numbers.len() as u64 + 1;
        *self.numbers.entry(name.to_owned()).or_insert(next)
    }

    fn note(&mut self, facts: Facts) -> Option<EvidenceId> {
        if facts.is_empty() {
            return None;
        }
        if self.notes.is_empty() {
            // Number 0 is nobody's.
            self.evidence.put(Facts { later: true, ..Facts::default() });
        }
        let id = self.evidence.put(facts.clone()).unwrap();
        self.notes.push((id, facts));
        Some(id)
    }

    fn open(&mut self, time: u64, who: &str, verb: &str, words: &[&str]) -> Vec<Input> {
        let (name, thread) = who.split_once('.').unwrap();
        let pid = self.number(name) as u32;
        let role = if verb == "reads" { Role::Server } else { Role::Client };
        let (connection, target) = (words[0], words[1]);
        let mut began = moment(time, pid, thread.parse().unwrap());
        let mut at = began;
        let mut serving = Serving::Unknown;
        let mut born_here = false;
        let mut fields = Vec::new();
        let mut method = "GET";
        let mut facts = Facts::default();
        for flag in &words[2..] {
            if fact(&mut facts, time, flag) {
                continue;
            }
            match flag.split_once('=').unwrap_or((flag, "")) {
                ("nonblocking", _) => (began.nonblocking, at.nonblocking) = (true, true),
                ("epoll", _) => (began.in_epoll, at.in_epoll) = (true, true),
                ("born", _) => born_here = true,
                ("one", _) => serving = Serving::OneRequestPerThread,
                ("oneifblocking", _) => serving = Serving::OneIfBlocking,
                ("many", _) => serving = Serving::ManyPerThread,
                ("by", thread) => at.thread = ThreadId(thread.parse().unwrap()),
                ("ctx", context) => {
                    let parts: Vec<&str> = context.split(':').collect();
                    let value =
                        format!("00-{:0>32}-{:0>16}-{}", parts[0], parts[1], parts.get(2).unwrap_or(&"01"));
                    fields.push((FieldName::Traceparent, value.into_bytes().into()));
                    fields.push((FieldName::Tracestate, format!("x={}", parts[1]).into_bytes().into()));
                }
                ("at", shift) => {
                    let shifted = time.checked_add_signed(shift.parse::<i64>().unwrap() * MS as i64).unwrap();
                    (began.time, at.time) = (Monotonic(shifted), Monotonic(shifted));
                }
                ("intake", _) => {
                    method = "POST";
                    fields.push((FieldName::ContentType, b"application/x-protobuf".as_slice().into()));
                }
                other => panic!("{other:?}"),
            }
        }
        began.evidence = self.note(facts);
        let server = role == Role::Server;
        let count = self.opened.entry((connection.to_owned(), server)).or_default();
        let offset = (*count * 100).checked_add_signed(if server { SHIFT } else { 0 }).unwrap();
        *count += 1;
        let id = ExchangeId { connection: ConnectionId(self.number(connection)), offset };
        self.owners.insert(connection.to_owned(), who.to_owned());
        let head = request(method, target, fields);
        self.under_way.push((connection.to_owned(), exchange(id, role, began, head.clone(), at)));
        let resource = resource(&format!("{name} {target}"));
        let ends = Endpoints { born_here, ..Endpoints::default() };
        vec![Input::Opened { id, role, began, at, head, carried: Carried::Alone, ends, resource, serving }]
    }

    fn respond(&mut self, time: u64, who: &str, verb: &str, words: &[&str]) -> Vec<Input> {
        let (name, thread) = who.split_once('.').unwrap();
        let mut at = moment(time, self.number(name) as u32, thread.parse().unwrap());
        if let Some(shift) = words.get(1).and_then(|w| w.strip_prefix("at=")) {
            at.time.0 = at.time.0.checked_add_signed(shift.parse::<i64>().unwrap() * MS as i64).unwrap();
        }
        let mut facts = Facts::default();
        for word in &words[1..] {
            fact(&mut facts, time, word);
        }
        at.evidence = self.note(facts);
        let index = self.under_way.iter().position(|(c, _)| c == words[0]).expect("nothing is under way");
        let id = self.under_way[index].1.id;
        let mut inputs = Vec::new();
        if matches!(verb, "begins" | "answers" | "gets") {
            inputs.push(Input::Responding { id, at });
        }
        if verb != "begins" {
            let (_, mut exchange) = self.under_way.remove(index);
            exchange.ended = at.time;
            if verb == "fails" {
                (exchange.response, exchange.responded) = (None, None);
                let kind = FailureKind::ConnectionReset;
                exchange.failure = Some(Failure { kind, at: at.time, during: Direction::Receive });
            }
            inputs.push(Input::Closed(Box::new(exchange)));
        }
        inputs
    }
}

pub(super) fn parse(script: &str) -> Vec<Line> {
    let mut parser = Parser::default();
    let mut time = 1_000 * MS;
    let mut lines = Vec::new();
    for line in script.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        let Some((&who, rest)) = words.split_first() else { continue };
        time += MS;
        let now = Monotonic(time);
        let (mut actor, mut wait) = (who.to_owned(), None);
        let inputs = match (who, rest) {
            ("join", [a, b]) => {
                actor = format!("join {a}");
                let (a, b) = (ConnectionId(parser.number(a)), ConnectionId(parser.number(b)));
                vec![Input::Joined { a, b, a_to_b: SHIFT, b_to_a: -3 }]
            }
            ("close", [c]) => {
                actor = parser.owners.get(*c).cloned().unwrap_or_default();
                let connection = ConnectionId(parser.number(c));
                vec![Input::ConnectionClosed { connection, time: now }]
            }
            ("exit", [name]) => {
                let process = process(parser.number(name) as u32);
                vec![Input::ProcessExited { process, time: now }]
            }
            (_, ["bears", child, parent]) => {
                let (name, _) = who.split_once('.').unwrap();
                let key = |text: &str| Key { space: 0, value: text.parse().unwrap() };
                let birth = Birth { child: key(child), parent: key(parent), time: now };
                vec![Input::Born { process: process(parser.number(name) as u32), birth }]
            }
            (_, ["doubted"]) => {
                let (name, _) = who.split_once('.').unwrap();
                vec![Input::Doubted { process: process(parser.number(name) as u32) }]
            }
            ("lost", []) => vec![Input::RecordsLost { since: Monotonic(time - MS), until: now }],
            ("wait", [ms]) => {
                let ms: u64 = ms.parse().unwrap();
                time += ms * MS;
                wait = Some(ms * MS);
                vec![]
            }
            (_, ["asks", c, flags @ ..]) => {
                let (name, thread) = who.split_once('.').unwrap();
                let pid = parser.number(name) as u32;
                let mut at = moment(time, pid, thread.parse().unwrap());
                let (mut serving, mut facts) = (Serving::Unknown, Facts::default());
                for flag in flags {
                    serving = match *flag {
                        "one" => Serving::OneRequestPerThread,
                        "many" => Serving::ManyPerThread,
                        other if fact(&mut facts, time, other) => serving,
                        other => panic!("{other:?}"),
                    };
                }
                at.evidence = parser.note(facts);
                let peer = Address::Unix((*c).to_owned());
                vec![Input::Connecting { connection: ConnectionId(parser.number(c)), at, peer, serving }]
            }
            ("connected", [c]) => vec![Input::Connected { connection: ConnectionId(parser.number(c)) }],
            (verb @ ("refused" | "dropped"), [c]) => {
                let errno = if verb == "refused" { 111 } else { 0 };
                vec![Input::ConnectFailed { connection: ConnectionId(parser.number(c)), time: now, errno }]
            }
            (_, [verb @ ("reads" | "calls"), rest @ ..]) => parser.open(time, who, verb, rest),
            (_, [verb @ ("begins" | "ends" | "answers" | "gets" | "fails"), rest @ ..]) => {
                parser.respond(time, who, verb, rest)
            }
            _ => panic!("not understood: {line}"),
        };
        let known: usize = lines.iter().map(|line: &Line| line.notes.len()).sum();
        let notes = parser.notes.get(known..).unwrap_or_default().to_vec();
        lines.push(Line { actor, inputs, notes, wait });
    }
    lines
}
