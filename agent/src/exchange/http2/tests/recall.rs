//! Names that a late join hides, and tables that a search of memory brings: a connection joined late, answered at step
//! [`ANSWERED`]. A step is a millisecond.

use std::sync::Arc;

use super::truth::{Connection2, Dated, Known, judge_events, record, record_dated, whole};
use super::*;
use crate::exchange::{Ledger, Searched, Table, TableEntry, Tables};

const JOINED: usize = 402;
const ANSWERED: usize = 1_510;

fn table(entries: &[(String, String)]) -> Table {
    let entry = |(name, value): &(String, String)| TableEntry {
        name: name.clone().into(),
        value: Some(value.clone().into()),
        size: 32 + name.len() + value.len(),
    };
    Table { entries: entries.iter().map(entry).collect(), limit: 4096 }
}

/// As C core keeps it: some values have a form of their own.
fn parsed(table: &Table) -> Table {
    let mut entries = table.entries.to_vec();
    for entry in &mut entries {
        if entry.name == b"te" {
            entry.value = None;
        }
    }
    Table { entries: entries.into(), ..table.clone() }
}

fn answer(began: u64, ended: u64, tables: &[Table]) -> Arc<Tables> {
    answers(began, ended, vec![Searched { of: None, grpc_only: false, tables: tables.to_vec() }])
}

fn answers(began: u64, ended: u64, processes: Vec<Searched>) -> Arc<Tables> {
    let milliseconds = |at: u64| Monotonic(at * 1_000_000);
    Arc::new(Tables { began: milliseconds(began), ended: milliseconds(ended), processes, incomplete: false })
}

/// Plays a late join; what is known, how often it asked, the books.
fn check(connection: &Connection2, answer: Option<Arc<Tables>>) -> (Known, usize, Ledger) {
    let mut asked = 0;
    let steps = whole(&connection.steps[JOINED..]);
    let late = Connection::new(ConnectionId(1), false).recalling();
    let (end, events) = play_on(late, &steps, &mut |step, connection, out| {
        asked += usize::from(std::mem::take(&mut out.tables));
        connection.set_tables_room(4_096);
        if let (ANSWERED, Some(answer)) = (step, &answer) {
            connection.tables(answer);
        }
        connection.poll(Monotonic(step as u64 * 1_000_000), out);
    });
    (judge_events(connection, &events), asked, end.ledger())
}

fn warm() -> Connection2 {
    record(3_000, 50, &[])
}

#[test]
fn every_call_gets_its_name_and_status_once_its_table_is_found() {
    let connection = warm();
    let [requests, responses] = &connection.tables;
    let (known, asked, ledger) =
        check(&connection, Some(answer(1_400, 1_500, &[table(responses), table(requests)])));
    assert!(known.closed >= 2_790, "{known:?}");
    // The status of a call that failed stands under a name that was never seen in full.
    assert_eq!((known.paths, known.statuses), (known.closed, known.closed));
    assert_eq!((asked, ledger.tables_restored, ledger.tables_ambiguous), (1, 2, 0));
}

#[test]
fn of_two_tables_that_both_fit_none_is_taken() {
    let connection = warm();
    let [requests, responses] = &connection.tables;
    let mut other = requests.clone();
    let paths: Vec<usize> = (0..other.len()).filter(|&at| other[at].0 == ":path").collect();
    let (first, second) = (paths[0], paths[1]);
    other.swap(first, second);
    let tables = [table(requests), table(&other), table(responses)];
    let (known, _, ledger) = check(&connection, Some(answer(1_400, 1_500, &tables)));
    assert_eq!((known.paths, known.statuses), (0, known.closed));
    assert!(ledger.tables_ambiguous >= 1, "{ledger:?}");
    // Two that are equal are as good as one.
    let tables = [table(requests), table(requests), table(responses)];
    let (known, ..) = check(&connection, Some(answer(1_400, 1_500, &tables)));
    assert_eq!(known.paths, known.closed);
}

#[test]
fn a_table_that_would_make_a_section_illegal_is_not_it() {
    let connection = warm();
    let [requests, _] = &connection.tables;
    let mut other = requests.clone();
    other.rotate_left(1);
    let (known, _, ledger) = check(&connection, Some(answer(1_400, 1_500, &[table(&other)])));
    assert_eq!((known.paths, known.statuses, ledger.tables_restored), (0, 0, 0));
    assert!(ledger.tables_unfound >= 1, "{ledger:?}");
}

#[test]
fn a_table_that_was_searched_for_while_it_changed_is_asked_for_again() {
    let connection = warm();
    let [requests, responses] = &connection.tables;
    let tables = [table(requests), table(responses)];
    let (known, asked, ledger) = check(&connection, Some(answer(100, 1_500, &tables)));
    assert_eq!((known.paths, ledger.tables_restored), (0, 0));
    assert!(asked >= 2, "{asked}");
    // Nor is it believed before something moved after the search.
    let (known, ..) = check(&connection, Some(answer(1_400, 90_000, &tables)));
    assert_eq!(known.paths, 0);
}

#[test]
fn without_an_answer_calls_go_out_nameless_in_the_end() {
    let connection = record(8_000, 50, &[]);
    let (known, asked, _) = check(&connection, None);
    assert!(known.closed >= 7_000, "{known:?}");
    assert_eq!((known.paths, asked), (0, 1));
}

#[test]
fn a_table_into_which_is_inserted_every_second_says_itself_of_what_time_it_is() {
    // A step is a millisecond: a date each second, as some servers send it. The search lies about an insertion.
    for tables_at in [690, 740, 749, 751, 760] {
        let connection = record_dated(3_000, 50, &[], Some(Dated { every: 250, tables_at }));
        let [requests, responses] = &connection.tables;
        let tables = [table(responses), table(requests)];
        // The tables are of step 2 * tables_at of the recording, which is played from JOINED on.
        let at = 2 * u64::from(tables_at) - JOINED as u64;
        let (known, _, ledger) = check(&connection, Some(answer(at - 20, at + 20, &tables)));
        assert_eq!((known.paths, known.statuses), (known.closed, known.closed), "{tables_at}: {ledger:?}");
        assert_eq!(ledger.tables_restored, 2, "{tables_at}: {ledger:?}");
    }
}

#[test]
fn a_table_of_another_time_than_it_can_be_of_is_not_it() {
    for tables_at in [100, 300, 2_400] {
        let connection = record_dated(3_000, 50, &[], Some(Dated { every: 250, tables_at }));
        let [_, responses] = &connection.tables;
        let (known, _, ledger) = check(&connection, Some(answer(1_300, 1_340, &[table(responses)])));
        assert_eq!((known.paths, ledger.tables_restored), (0, 0), "{tables_at}: {ledger:?}");
    }
}

#[test]
fn a_table_of_c_core_is_only_of_what_its_process_receives_and_of_a_call_of_grpc() {
    let connection = warm();
    let [requests, responses] = [0, 1].map(|way| parsed(&table(&connection.tables[way])));
    let core = |of, tables: &[&Table]| Searched {
        of: Some(of),
        grpc_only: true,
        tables: tables.iter().copied().cloned().collect(),
    };
    // The server's process has the requests; the client's has the responses.
    let ends = [core(Direction::Send, &[&requests]), core(Direction::Receive, &[&responses])];
    let (known, _, ledger) = check(&connection, Some(answers(1_400, 1_500, ends.to_vec())));
    assert_eq!((known.paths, known.statuses), (known.closed, known.closed));
    assert_eq!(ledger.tables_restored, 2);
    let ends = [core(Direction::Send, &[&responses]), core(Direction::Receive, &[&requests])];
    let (known, _, ledger) = check(&connection, Some(answers(1_400, 1_500, ends.to_vec())));
    assert_eq!((known.paths, ledger.tables_restored), (0, 0));
}

#[test]
fn of_tables_that_both_fit_that_is_taken_which_both_processes_have() {
    let connection = warm();
    let [requests, responses] = [0, 1].map(|way| table(&connection.tables[way]));
    let mut other = requests.entries.to_vec();
    let paths: Vec<usize> = (0..other.len()).filter(|&at| other[at].name == b":path").collect();
    other.swap(paths[0], paths[1]);
    let other = Table { entries: other.into(), limit: 4096 };
    let process = |tables: &[&Table]| Searched {
        of: None,
        grpc_only: false,
        tables: tables.iter().copied().cloned().collect(),
    };
    // A server that has the connections of several clients.
    let (server, client) = (process(&[&other, &requests, &responses]), process(&[&requests, &responses]));
    for ends in [[server.clone(), client.clone()], [client.clone(), server.clone()]] {
        let (known, ..) = check(&connection, Some(answers(1_400, 1_500, ends.to_vec())));
        assert_eq!((known.paths, known.statuses), (known.closed, known.closed));
    }
    // Two processes that have no table in common that fits: one of them is not what it seems.
    let (known, ..) = check(&connection, Some(answers(1_400, 1_500, vec![process(&[&other]), client])));
    assert_eq!(known.paths, 0);
    let (known, ..) = check(&connection, Some(answers(1_400, 1_500, vec![server.clone(), server])));
    assert_eq!(known.paths, 0);
}

#[test]
fn a_search_that_was_not_complete_is_asked_for_again() {
    let connection = warm();
    let nothing = Tables { incomplete: true, ..Tables::clone(&answer(1_400, 1_500, &[])) };
    let (known, asked, _) = check(&connection, Some(Arc::new(nothing)));
    assert_eq!((known.paths, asked), (0, 2));
}

#[test]
fn a_connection_that_falls_silent_after_the_search_or_is_closed_later_gets_its_names_too() {
    for closed in [true, false] {
        let connection = record(1_000, 50, &[]);
        let [requests, responses] = &connection.tables;
        let tables = answer(1_000, 1_100, &[table(responses), table(requests)]);
        let mut steps = whole(&connection.steps[JOINED..]);
        let last = steps.len();
        assert!(last > 1_150 && last < 1_610);
        if closed {
            steps.push((1_700, Step::Closed, true));
        }
        let late = Connection::new(ConnectionId(1), false).recalling();
        let (mut end, mut events) = play_on(late, &steps, &mut |step, connection, _| {
            connection.set_tables_room(4_096);
            if step == 1_110 {
                connection.tables(&tables);
            }
        });
        if !closed {
            let mut out = Output::default();
            end.poll(Monotonic(1_700_000_000), &mut out);
            assert!(out.events.is_empty(), "a record may be late");
            end.poll(Monotonic(4_000_000_000), &mut out);
            events.extend(out.events);
        }
        let known = judge_events(&connection, &events);
        assert!(known.closed > 700 && known.paths == known.closed, "{closed}: {known:?}");
    }
}

#[test]
fn without_room_a_few_calls_wait_and_all_that_begin_later_have_their_names() {
    let connection = warm();
    let [requests, responses] = &connection.tables;
    let tables = answer(1_400, 1_500, &[table(responses), table(requests)]);
    let steps = whole(&connection.steps[JOINED..]);
    let (mut last, mut nameless) = (0, 0);
    let late = Connection::new(ConnectionId(1), false).recalling();
    let (_, events) = play_on(late, &steps, &mut |step, connection, _| {
        if step == ANSWERED {
            connection.tables(&tables);
        }
    });
    judge_events(&connection, &events);
    for event in &events {
        let Event::Closed(exchange) = event else { continue };
        if exchange.request.target.is_empty() {
            (last, nameless) = (exchange.ended.0 / 1_000_000, nameless + 1);
        }
    }
    // Up to half a second after the search; of those before it 32 waited.
    assert!((1_990..2_010).contains(&last), "{last}");
    assert!((900..1_000).contains(&nameless), "{nameless}");
}

#[test]
fn a_call_that_was_open_when_the_table_was_found_has_its_name_and_nobody_asks_again() {
    let mut connection = warm();
    let [requests, responses] = connection.tables.clone();
    let tables = answer(1_400, 1_500, &[table(&responses), table(&requests)]);
    // One call is answered long after the others.
    let at = JOINED + 1_401;
    assert!(matches!(connection.steps[at], Server(_)));
    let answered = connection.steps.remove(at);
    connection.steps.insert(JOINED + 2_400, answered);
    let (known, asked, ledger) = check(&connection, Some(tables));
    assert_eq!((known.paths, known.statuses, asked), (known.closed, known.closed, 1), "{ledger:?}");
    assert_eq!(ledger.tables_restored, 2);
}
