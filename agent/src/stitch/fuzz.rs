//! Sequences of inputs, legal or not, out of bytes.
//!
//! It asserts that no sequence panics, that both sums of the ledger hold after every input, that every bound
//! holds, that no span ends twice or without having been bound, and that nothing is left at the end.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use rand::SeedableRng;
use rand::rngs::StdRng;

use super::span::{LinkMethod, SpanId, TraceId};
use super::{Endpoints, Input, Ledger, Limits, Output, Serving, Settings, Stitcher};
use crate::discover::Resource;
use crate::exchange::{Carried, Exchange, ExchangeId, Failure, FailureKind};
use crate::identity::evidence::Evidence;
use crate::identity::{
    Address, Birth, Claim, ConnectionId, Direction, EvidenceId, Facts, Gate, Key, Moment, Monotonic,
    ProcessKey, Role, ThreadId,
};
use crate::protocol::{FieldName, Fields, RequestHead, ResponseHead, Version};

/// See the module.
pub fn fuzz_stitcher(data: &[u8]) {
    let _ = run(data);
}

/// Returns what happened, for the test that asks whether random bytes get anywhere.
fn run(data: &[u8]) -> Ledger {
    let mut bytes = data.iter().copied();
    let mut made = Made {
        bytes: &mut bytes,
        time: 0,
        opened: Vec::new(),
        offsets: 0,
        evidence: Evidence::default(),
        notes: Vec::new(),
    };
    let kind = made.byte();
    // Narrow bounds are met all the time, wide ones let the rules work.
    let scale = if kind & 1 == 0 { 1 } else { 8 };
    let limits = Limits {
        open_exchanges: 8 * scale,
        pending_spans: 6 * scale,
        pending_bytes: if kind & 2 == 0 { 6_000 } else { 12_000 * scale },
        pending_age: 1_000,
        stream_grace: 100,
        client_grace: 400,
        remembered_clients: 2 * scale,
        remembered_owners: 1,
        connections: 6 * scale,
        connects: 3 * scale,
        inbound_contexts: 8 * scale,
        lost_processes: 3,
    };
    let weakest_link = match kind & 12 {
        0 => LinkMethod::Thread,
        4 => LinkMethod::Header,
        _ => LinkMethod::Inferred,
    };
    let settings = Settings { limits: limits.clone(), weakest_link, ..Settings::default() };
    let mut stitcher = Stitcher::new(settings, Box::new(StdRng::seed_from_u64(1)));
    let mut judge = Judge::default();
    let mut out = Vec::new();
    while let Some(step) = made.bytes.next() {
        if step % 16 == 15 {
            let next = stitcher.poll(Monotonic(made.time), &mut out);
            assert!(next.is_none_or(|next| next > stitcher.clock), "something due was left");
        } else {
            let input = made.input(step);
            for facts in made.notes.drain(..) {
                stitcher.note(facts);
            }
            stitcher.handle(input, &mut out);
        }
        judge.take(&mut out);
        let ledger = stitcher.ledger();
        assert_eq!(ledger.balance(), (0, 0), "{ledger:#?}");
        assert_eq!(ledger.held.open, stitcher.open.len() as u64);
        assert!(stitcher.open.len() <= limits.open_exchanges);
        assert!(stitcher.unbound <= limits.pending_spans);
        assert!(stitcher.bytes <= limits.pending_bytes, "{}", stitcher.bytes);
        assert!(stitcher.remembered.len() <= limits.remembered_clients);
        assert!(stitcher.connections.len() <= limits.connections);
        assert!(stitcher.owned.sizes().0 <= limits.remembered_owners);
        assert!(stitcher.lost.len() <= limits.lost_processes);
        assert!(stitcher.processes.len() <= limits.open_exchanges);
        assert!(stitcher.doomed.len() <= limits.open_exchanges);
        assert!(stitcher.closing.len() <= limits.connections);
        assert_eq!(ledger.connects.balance(ledger.held.connects), 0, "{ledger:#?}");
        assert!(ledger.held.connects <= limits.connects as u64);
        assert_eq!(stitcher.connections.len(), stitcher.connections_by_age.len());
        assert_eq!(stitcher.by_exchange.len(), stitcher.nodes.len());
    }
    stitcher.finish(Monotonic(made.time), &mut out);
    stitcher.poll(Monotonic(u64::MAX), &mut out);
    judge.take(&mut out);
    assert_eq!(stitcher.ledger().balance(), (0, 0));
    assert_eq!((stitcher.nodes.len(), stitcher.bytes, stitcher.unbound), (0, 0, 0));
    assert!(stitcher.deadlines.is_empty() && stitcher.processes.is_empty());
    assert_eq!(stitcher.owned.sizes(), (0, 0));
    assert_eq!(stitcher.connects_held(), 0);
    assert_eq!(stitcher.ledger().spans, judge.spans);
    assert!(judge.bound.keys().all(|span| judge.over.contains(span)), "a bound span never ended");
    stitcher.ledger()
}

#[derive(Default)]
struct Judge {
    bound: HashMap<SpanId, TraceId>,
    over: HashSet<SpanId>,
    spans: u64,
}

impl Judge {
    fn take(&mut self, out: &mut Vec<Output>) {
        for output in out.drain(..) {
            match output {
                Output::Bound { trace, span } => assert!(self.bound.insert(span, trace).is_none()),
                Output::Abandoned { trace, span } => {
                    assert_eq!(self.bound.get(&span), Some(&trace));
                    assert!(self.over.insert(span));
                }
                Output::Ended(span) => {
                    assert_eq!(self.bound.get(&span.id), Some(&span.trace));
                    assert!(self.over.insert(span.id) && span.start <= span.end);
                    if let Some(trace) = span.parent.and_then(|parent| self.bound.get(&parent.span)) {
                        assert_eq!(*trace, span.trace);
                    }
                    self.spans += 1;
                }
            }
        }
    }
}

struct Made<'a> {
    bytes: &'a mut dyn Iterator<Item = u8>,
    time: u64,
    /// Exchanges that may be under way.
    opened: Vec<ExchangeId>,
    offsets: u64,
    /// Numbers facts as the stitcher does.
    evidence: Evidence,
    notes: Vec<Facts>,
}

impl Made<'_> {
    fn byte(&mut self) -> u8 {
        self.bytes.next().unwrap_or(0)
    }

    fn connection(&mut self) -> ConnectionId {
        ConnectionId(u64::from(self.byte() % 8))
    }

    /// A new exchange: mostly at the place where the last one was, on another connection.
    fn new_id(&mut self) -> ExchangeId {
        let connection = self.connection();
        let offset = match self.byte() {
            255 => u64::MAX,
            254 => 0,
            next => {
                self.offsets += u64::from(next & 1);
                self.offsets
            }
        };
        let id = ExchangeId { connection, offset };
        self.opened.push(id);
        if self.opened.len() > 8 {
            self.opened.remove(0);
        }
        id
    }

    /// Mostly one that may be under way.
    fn id(&mut self) -> ExchangeId {
        let which = usize::from(self.byte());
        let index = which.checked_rem(self.opened.len()).filter(|_| which < 250);
        match index.and_then(|index| self.opened.get(index)) {
            Some(&id) => id,
            None => ExchangeId { connection: self.connection(), offset: 0 },
        }
    }

    fn moment(&mut self) -> Moment {
        let (who, how) = (self.byte(), self.byte());
        self.time = match how {
            255 => u64::MAX,
            how => self.time.saturating_add(u64::from(how >> 4)),
        };
        let evidence = if who & 0x18 == 0x18 { self.facts() } else { None };
        Moment {
            time: Monotonic(if how & 15 == 7 { self.time / 2 } else { self.time }),
            process: ProcessKey { pid: u32::from(who & 3), exec: 0, started: 0 },
            thread: ThreadId(u32::from((who >> 2) & 1)),
            nonblocking: who >> 5 == 1,
            in_epoll: who >> 5 == 2,
            evidence,
        }
    }

    fn key(&mut self) -> Key {
        let byte = self.byte();
        Key { space: 0, value: u64::from(byte & 1) }
    }

    fn facts(&mut self) -> Option<EvidenceId> {
        let kind = self.byte();
        let mut facts = Facts { later: kind & 1 != 0, more: kind & 2 != 0, ..Facts::default() };
        for _ in 0..kind >> 1 & 3 {
            facts.owns.push(self.key());
        }
        for _ in 0..kind >> 3 & 3 {
            let (key, how) = (self.key(), self.byte());
            facts.claims.push(Claim {
                key,
                at: (how & 1 != 0).then(|| Monotonic(self.time.saturating_sub(u64::from(how >> 2)))),
                born: (how & 2 != 0).then(|| u64::from(how >> 2)),
                method: LinkMethod::Waiter,
            });
        }
        if kind & 32 != 0 {
            let last = u64::from(self.byte() & 63);
            facts.gate = Some(Gate { last, batches: vec![(last / 2, last / 2 + 4)] });
        }
        self.notes.push(facts.clone());
        self.evidence.put(facts)
    }

    fn head(&mut self) -> Box<RequestHead> {
        let kind = self.byte();
        let mut fields = Vec::new();
        if kind % 4 == 1 {
            let value = format!("00-{:032x}-{:016x}-{:02x}", 1 + kind / 128, 1 + kind / 64, kind >> 5 & 1);
            fields.push((FieldName::Traceparent, value.into_bytes().into_boxed_slice()));
        }
        let intake = kind % 16 == 2;
        Box::new(RequestHead {
            method: if intake { b"POST".as_slice() } else { b"GET" }.into(),
            target: if intake { b"/api/v2/spans".as_slice() } else { b"/" }.into(),
            version: Version::Http11,
            fields: Fields(fields),
        })
    }

    fn input(&mut self, step: u8) -> Input {
        let role = if step & 16 == 0 { Role::Server } else { Role::Client };
        match step % 16 {
            0..=5 => {
                let at = self.moment();
                let began = if step & 32 == 0 || step & 64 == 0 { at } else { self.moment() };
                Input::Opened {
                    id: self.new_id(),
                    role,
                    began,
                    at,
                    head: self.head(),
                    carried: Carried::Alone,
                    ends: Endpoints { born_here: step & 64 == 0, ..Endpoints::default() },
                    resource: Arc::new(Resource { service: String::new(), attributes: Vec::new() }),
                    serving: match step >> 6 {
                        0 => Serving::Unknown,
                        1 => Serving::OneIfBlocking,
                        2 => Serving::OneRequestPerThread,
                        _ => Serving::ManyPerThread,
                    },
                }
            }
            6 | 7 => Input::Responding { id: self.id(), at: self.moment() },
            8..=10 => {
                let (id, began, at) = (self.id(), self.moment(), self.moment());
                let failure = (step & 32 != 0).then_some(Failure {
                    kind: FailureKind::ConnectionReset,
                    at: at.time,
                    during: Direction::Receive,
                });
                let response =
                    ResponseHead { status: 200, version: Version::Http11, fields: Fields::default() };
                Input::Closed(Box::new(Exchange {
                    id,
                    role,
                    began,
                    request_ended: None,
                    responded: None,
                    ended: at.time,
                    request: self.head(),
                    response: failure.is_none().then(|| Box::new(response)),
                    request_body: 0,
                    response_body: 0,
                    failure,
                    switched: false,
                    incomplete: step & 64 != 0,
                    stream: None,
                }))
            }
            11 => Input::Joined {
                a: self.connection(),
                b: self.connection(),
                a_to_b: if step & 96 != 96 { 0 } else { i64::MIN },
                b_to_a: if step & 64 == 0 { 0 } else { i64::from(step) - 300 },
            },
            12 => Input::ConnectionClosed { connection: self.connection(), time: Monotonic(self.time) },
            13 if step & 64 != 0 => match step & 176 {
                16 => Input::Connected { connection: self.connection() },
                0 | 32 | 128 | 160 => Input::Connecting {
                    connection: self.connection(),
                    at: self.moment(),
                    peer: Address::Unix(String::new()),
                    serving: if step & 32 == 0 {
                        Serving::OneRequestPerThread
                    } else {
                        Serving::OneIfBlocking
                    },
                },
                _ => Input::ConnectFailed {
                    connection: self.connection(),
                    time: Monotonic(self.time),
                    errno: i32::from(step & 32),
                },
            },
            13 => Input::ProcessExited { process: self.moment().process, time: Monotonic(self.time) },
            _ if step & 128 != 0 => {
                let birth = Birth { child: self.key(), parent: self.key(), time: Monotonic(self.time) };
                Input::Born { process: self.moment().process, birth }
            }
            _ if step & 96 == 96 => Input::Doubted { process: self.moment().process },
            _ => Input::RecordsLost { since: self.moment().time, until: Monotonic(self.time) },
        }
    }
}

#[cfg(test)]
mod tests {
    use rand::RngCore;

    use super::*;

    #[test]
    fn no_sequence_of_inputs_breaks_an_invariant_and_every_rule_is_reached() {
        fuzz_stitcher(b"");
        let mut random = StdRng::seed_from_u64(42);
        let mut reached: HashMap<String, u64> = HashMap::new();
        for length in 0..4_000 {
            let mut data = vec![0; length % 600];
            random.fill_bytes(&mut data);
            let mut group = String::new();
            for line in format!("{:#?}", run(&data)).lines() {
                let Some((name, value)) = line.trim().trim_end_matches(',').split_once(": ") else {
                    continue;
                };
                match value.parse::<u64>() {
                    Ok(value) => *reached.entry(format!("{group} {name}")).or_default() += value,
                    Err(_) => group = name.to_owned(),
                }
            }
        }
        let mut never: Vec<_> =
            reached.iter().filter(|&(_, &n)| n == 0).map(|(name, _)| name.as_str()).collect();
        never.sort_unstable();
        assert_eq!(never, NEVER, "{reached:#?}");
    }

    /// What is 0 at the end, methods that do not exist yet, and what takes more luck than random bytes
    /// have: those have scenarios of their own.
    const NEVER: [&str; 15] = [
        "clamps client_end",
        "connects crowded",
        "connects values_cut",
        "forgotten births",
        "forgotten lives",
        "held connects",
        "held open",
        "held pending",
        "held undecided",
        "links inferred",
        "links task",
        "orphans cycle",
        "orphans two_calls",
        "orphans works_on",
        "thread_rule_lost two_calls",
    ];
}
