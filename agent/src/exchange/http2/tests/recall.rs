//! Names that a late join hides, and tables that a search of memory brings: a connection joined late, answered at step
//! [`ANSWERED`]. A step is a millisecond.

use std::sync::Arc;

use super::truth::{Connection2, Known, judge_events, record, whole};
use super::*;
use crate::exchange::{Ledger, Table, Tables};

const JOINED: usize = 402;
const ANSWERED: usize = 1_510;

fn table(entries: &[(String, String)]) -> Table {
    let entries = entries.iter().map(|(name, value)| (name.clone().into(), value.clone().into())).collect();
    Table { entries, limit: 4096 }
}

fn answer(began: u64, ended: u64, tables: &[Table]) -> Arc<Tables> {
    let milliseconds = |at: u64| Monotonic(at * 1_000_000);
    Arc::new(Tables { began: milliseconds(began), ended: milliseconds(ended), tables: tables.to_vec() })
}

/// Plays a late join; what is known, how often it asked, the books.
fn check(connection: &Connection2, answer: Option<Arc<Tables>>) -> (Known, usize, Ledger) {
    let mut asked = 0;
    let steps = whole(&connection.steps[JOINED..]);
    let late = Connection::new(ConnectionId(1), false).recalling();
    let (end, events) = play_on(late, &steps, &mut |step, connection, out| {
        asked += usize::from(std::mem::take(&mut out.tables));
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
