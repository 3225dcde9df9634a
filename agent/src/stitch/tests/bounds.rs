//! Every bound holds, is counted, and leaves the books balanced.

use super::super::ledger::Held;
use super::super::{Endpoints, Input, Limits, Output, Serving, Settings, Stitcher};
use super::{MS, exchange, moment, request, resource, stitcher};
use crate::exchange::{Carried, ExchangeId};
use crate::identity::{ConnectionId, Moment, Monotonic, Role};

fn limits(change: impl Fn(&mut Limits)) -> Stitcher {
    let mut limits = Limits::default();
    change(&mut limits);
    stitcher(Settings { limits, ..Settings::default() })
}

fn open(connection: u64, offset: u64, role: Role, at: Moment, born_here: bool) -> Input {
    Input::Opened {
        carried: Carried::Alone,
        id: ExchangeId { connection: ConnectionId(connection), offset },
        role,
        began: at,
        at,
        head: request("GET", "/", Vec::new()),
        ends: Endpoints { born_here, ..Endpoints::default() },
        resource: resource("x"),
        serving: Serving::Unknown,
    }
}

fn close(connection: u64, offset: u64, role: Role, at: Moment) -> Input {
    let id = ExchangeId { connection: ConnectionId(connection), offset };
    Input::Closed(Box::new(exchange(id, role, at, request("GET", "/", Vec::new()), at)))
}

#[track_caller]
fn finish(mut stitcher: Stitcher, out: &mut Vec<Output>) -> super::Told {
    assert_eq!(stitcher.ledger().balance(), (0, 0), "{:#?}", stitcher.ledger());
    stitcher.finish(stitcher.clock, out);
    assert_eq!(stitcher.ledger().held, Held::default());
    assert_eq!(stitcher.ledger().balance(), (0, 0), "{:#?}", stitcher.ledger());
    super::tell(std::mem::take(out), stitcher.ledger())
}

#[test]
fn a_flood_of_exchanges_that_never_end_stays_within_its_bound() {
    for role in [Role::Server, Role::Client] {
        let (mut stitcher, mut out) = (limits(|l| l.open_exchanges = 100), Vec::new());
        for n in 0..10_000 {
            stitcher.handle(open(n, 0, role, moment(n, 1, 1), false), &mut out);
            assert!(stitcher.nodes.len() <= 100 && stitcher.connections.len() <= 100);
            assert!(stitcher.bytes() < 200_000 && stitcher.processes.len() <= 1);
            assert!(stitcher.doomed.len() + stitcher.remembered.len() + stitcher.closing.len() == 0);
        }
        let told = finish(stitcher, &mut out);
        assert_eq!((told.ledger.dropped.open_limit, told.ledger.dropped.shutdown), (9_900, 100));
        assert_eq!(told.ledger.thread_rule_lost.request_given_up, u64::from(role == Role::Server));
    }
}

#[test]
fn a_flood_of_connections_that_close_without_their_exchanges_is_given_up_by_age() {
    let (mut stitcher, mut out) = (limits(|_| {}), Vec::new());
    for n in 0..1_000 {
        let time = Monotonic(n);
        stitcher.handle(open(n, 0, Role::Server, moment(n, 1, n as u32), false), &mut out);
        stitcher.handle(Input::ConnectionClosed { connection: ConnectionId(n), time }, &mut out);
    }
    stitcher.poll(Monotonic(61_000 * MS), &mut out);
    assert_eq!((stitcher.nodes.len(), stitcher.connections.len(), stitcher.bytes()), (0, 0, 0));
    assert_eq!(finish(stitcher, &mut out).ledger.dropped.never_closed, 1_000);
}

#[test]
fn spans_that_wait_are_bounded_and_the_longest_waiting_goes_first() {
    let (mut stitcher, mut out) = (limits(|l| l.pending_spans = 10), Vec::new());
    for n in 0..100 {
        let (s, c) = (2 * n + 1, 2 * n);
        let joined = Input::Joined { a: ConnectionId(c), b: ConnectionId(s), a_to_b: 0, b_to_a: 0 };
        stitcher.handle(joined, &mut out);
        stitcher.handle(open(s, 0, Role::Server, moment(n, 1, n as u32), false), &mut out);
        stitcher.handle(close(s, 0, Role::Server, moment(n, 1, n as u32)), &mut out);
        assert!(stitcher.ledger().held.pending <= 10);
    }
    let told = finish(stitcher, &mut out);
    assert_eq!((told.ledger.orphans.limit, told.ledger.orphans.shutdown, told.ledger.spans), (90, 10, 100));
    let starts: Vec<u64> = told.spans.iter().map(|span| span.start.0).collect();
    assert!(starts.is_sorted());
}

#[test]
fn memory_is_bounded_whatever_holds_it() {
    for joined in [true, false] {
        let (mut stitcher, mut out) = (limits(|l| l.pending_bytes = 100_000), Vec::new());
        for n in 0..2_000 {
            if joined {
                let (a, b) = (ConnectionId(n), ConnectionId(1_000_000 + n));
                stitcher.handle(Input::Joined { a, b, a_to_b: 0, b_to_a: 0 }, &mut out);
            }
            let at = moment(n, 1, 1);
            stitcher.handle(open(n, 0, Role::Client, at, false), &mut out);
            if n % 3 != 0 {
                stitcher.handle(close(n, 0, Role::Client, at), &mut out);
            }
            assert!(stitcher.bytes() <= 100_000);
        }
        let ledger = finish(stitcher, &mut out).ledger;
        assert!(ledger.forgotten.clients > 0 && ledger.dropped.byte_limit > 0, "{ledger:#?}");
    }
}

#[test]
fn clients_that_are_out_are_remembered_in_bounded_number_and_time() {
    let (mut stitcher, mut out) = (limits(|l| l.remembered_clients = 10), Vec::new());
    for n in 0..100 {
        let at = moment(n, 1, 1);
        stitcher.handle(open(n, 0, Role::Client, at, false), &mut out);
        stitcher.handle(close(n, 0, Role::Client, at), &mut out);
        assert!(stitcher.remembered.len() <= 10);
    }
    stitcher.poll(Monotonic(61_000 * MS), &mut out);
    assert_eq!(stitcher.nodes.len(), 0);
    assert_eq!(finish(stitcher, &mut out).ledger.forgotten.clients, 90);
}

#[test]
fn what_is_known_of_connections_is_bounded() {
    let (mut stitcher, mut out) = (limits(|l| l.connections = 10), Vec::new());
    for n in 0..100 {
        let (a, b) = (ConnectionId(2 * n), ConnectionId(2 * n + 1));
        stitcher.handle(Input::Joined { a, b, a_to_b: 0, b_to_a: 0 }, &mut out);
        assert!(stitcher.connections.len() <= 10 && stitcher.connections_by_age.len() <= 10);
    }
    assert_eq!(finish(stitcher, &mut out).ledger.forgotten.connections, 190);
}

#[test]
fn connections_that_close_leave_nothing_behind() {
    let (mut stitcher, mut out) = (limits(|_| {}), Vec::new());
    for n in 0..1_000 {
        let (a, b, at) = (ConnectionId(2 * n), ConnectionId(2 * n + 1), moment(n, 1, 1));
        let time = Monotonic(n);
        stitcher.handle(Input::Joined { a, b, a_to_b: 0, b_to_a: 0 }, &mut out);
        for (connection, role) in [(a, Role::Client), (b, Role::Server)] {
            stitcher.handle(open(connection.0, 0, role, at, false), &mut out);
            stitcher.handle(close(connection.0, 0, role, at), &mut out);
        }
        stitcher.handle(Input::ConnectionClosed { connection: a, time }, &mut out);
        stitcher.handle(Input::ConnectionClosed { connection: b, time }, &mut out);
        assert_eq!((stitcher.connections.len(), stitcher.connections_by_age.len()), (0, 0));
        assert_eq!((stitcher.nodes.len(), stitcher.closing.len(), stitcher.by_exchange.len()), (0, 0, 0));
    }
    assert_eq!(finish(stitcher, &mut out).ledger.links.stream, 1_000);
}

#[test]
fn too_many_processes_without_the_rule_switch_it_off_for_the_others() {
    let (mut stitcher, mut out) = (limits(|l| l.lost_processes = 1), Vec::new());
    for (n, thread) in [(1, 1), (2, 1)] {
        stitcher.handle(open(n, 0, Role::Server, moment(n, 1, thread), true), &mut out);
    }
    for n in [1, 2] {
        let id = ExchangeId { connection: ConnectionId(n), offset: 0 };
        stitcher.handle(Input::Responding { id, at: moment(3, 1, 1) }, &mut out);
    }
    stitcher.handle(open(3, 0, Role::Server, moment(4, 7, 1), true), &mut out);
    stitcher.handle(open(4, 0, Role::Client, moment(5, 7, 1), true), &mut out);
    assert_eq!(stitcher.ledger().orphans.rule_lost, 1);
    let exited = Input::ProcessExited { process: super::process(1), time: Monotonic(6) };
    stitcher.handle(exited, &mut out);
    stitcher.handle(open(5, 0, Role::Client, moment(7, 7, 1), true), &mut out);
    assert_eq!(stitcher.ledger().orphans.rule_lost, 1);
    finish(stitcher, &mut out);
}

#[test]
fn a_call_is_out_within_a_minute_of_a_request_that_does_not_end() {
    let (mut stitcher, mut out) = (limits(|_| {}), Vec::new());
    stitcher.handle(open(1, 0, Role::Server, moment(0, 1, 1), true), &mut out);
    let mut most = 0;
    for n in 0..30_000_u64 {
        let at = moment((n + 1) * 20 * MS, 1, 1);
        stitcher.handle(open(2, n, Role::Client, at, true), &mut out);
        stitcher.handle(close(2, n, Role::Client, at), &mut out);
        let next = stitcher.poll(at.time, &mut out).unwrap();
        assert!(next > at.time);
        most = most.max(stitcher.nodes.len());
    }
    assert!(most <= 3_002, "{most}");
    let told = finish(stitcher, &mut out);
    assert!(told.ledger.orphans.expired >= 26_000, "{:#?}", told.ledger);
}

#[test]
fn the_next_deadline_is_when_something_happens() {
    let (mut stitcher, mut out) = (limits(|_| {}), Vec::new());
    assert_eq!(stitcher.poll(Monotonic(5), &mut out), None);
    stitcher.handle(open(1, 0, Role::Server, moment(10, 1, 1), false), &mut out);
    stitcher.handle(close(1, 0, Role::Server, moment(20, 1, 1)), &mut out);
    let next = stitcher.poll(Monotonic(30), &mut out).unwrap();
    assert_eq!(next, Monotonic(20 + 250 * MS));
    assert!(out.is_empty());
    assert_eq!(stitcher.poll(next, &mut out), None);
    assert_eq!(out.len(), 2);
}

#[test]
fn a_second_opening_of_the_same_exchange_and_the_end_of_none_are_counted() {
    let (mut stitcher, mut out) = (limits(|_| {}), Vec::new());
    for _ in 0..2 {
        stitcher.handle(open(1, 0, Role::Server, moment(1, 1, 1), true), &mut out);
    }
    for _ in 0..2 {
        stitcher.handle(close(1, 0, Role::Server, moment(2, 1, 1)), &mut out);
    }
    let ledger = finish(stitcher, &mut out).ledger;
    assert_eq!((ledger.dropped.duplicate, ledger.stray.events, ledger.spans), (1, 1, 1));
}

#[test]
fn a_node_is_small_enough_for_the_default_bounds() {
    let node = super::super::node::node_bytes(None);
    let limits = Limits::default();
    assert!(node <= 800, "{node}");
    assert!(node * (limits.remembered_clients + 10_000) <= limits.pending_bytes, "{node}");
}
