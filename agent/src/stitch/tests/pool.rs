//! What the workers of a pool do by habit, and what refutes it.

use super::super::span::LinkMethod;
use super::super::{Ledger, Settings};
use super::{parse, run};

fn inferring() -> Settings {
    Settings { weakest_link: LinkMethod::Inferred, ..Settings::default() }
}

/// So many requests, one after the other, that thread 1 reads and worker 2 answers, doing this in between and this after.
fn served(requests: usize, meanwhile: &str, after: &str) -> String {
    let one = format!(
        "web.1 reads s1 /a born nonblocking
         {meanwhile}
         web.2 answers s1
         {after}
         wait 5\n"
    );
    one.repeat(requests)
}

/// A call of worker 2.
const CALL: &str = "web.2 calls c1 /x born\nweb.2 gets c1";
/// Two requests at once; what is called between the answers is for the one that is answered next.
const BACKLOG: &str = "web.1 reads s1 /one born nonblocking
     web.1 reads s2 /two born nonblocking
     web.2 calls c1 /x born
     web.2 gets c1
     web.2 answers s1
     web.2 calls c1 /y born
     web.2 gets c1
     web.2 answers s2
     wait 200";

#[track_caller]
fn links(settings: Settings, script: &str, want: u64) -> Ledger {
    let told = run(settings, &parse(script));
    assert_eq!(told.ledger.links.inferred, want, "{}", told.tree);
    told.ledger
}

#[test]
fn what_a_worker_calls_is_for_the_request_that_it_answers_next_where_that_is_a_habit() {
    let script = served(60, CALL, "") + BACKLOG;
    // The first is after nothing, and fifty must have shown it.
    links(inferring(), &script, 60 - 51 + 2);
    let told = run(inferring(), &parse(&script));
    assert!(
        told.tree.ends_with(&super::dedent(
            "
         server web /one
           client web /x inferred
         server web /two
           client web /y inferred"
        )),
        "{}",
        told.tree
    );
    links(Settings::default(), &script, 0);
}

#[test]
fn workers_that_are_never_idle_show_nothing() {
    let script = "web.1 reads s0 /a born nonblocking\n".to_owned()
        + &(0..80)
            .map(|n| format!("web.1 reads s{} /a born nonblocking\n{CALL}\nweb.2 answers s{n}\n", n + 1))
            .collect::<String>();
    links(inferring(), &script, 0);
}

#[test]
fn one_call_behind_an_answer_refutes_the_habit_for_good() {
    let stray = served(1, "", "web.2 calls c1 /audit born\nweb.2 gets c1");
    for script in [
        served(60, CALL, "") + &stray + &served(10, CALL, "") + BACKLOG,
        served(60, CALL, "") + &stray + &served(100, CALL, ""),
    ] {
        let before = run(inferring(), &parse(&served(60, CALL, ""))).ledger.links.inferred;
        links(inferring(), &script, before);
    }
}

#[test]
fn a_call_that_is_under_way_when_its_thread_answers_refutes_it() {
    let script = served(60, CALL, "") + &served(1, "web.2 calls c2 /x born", "web.2 gets c2") + BACKLOG;
    links(inferring(), &script, 9);
}

#[test]
fn a_thread_that_calls_and_then_reads_a_request_refutes_it() {
    let script = served(60, CALL, "")
        + "web.1 reads s2 /b born nonblocking
           web.2 calls c1 /x born
           web.2 gets c1
           web.2 reads s3 /c born nonblocking
           web.2 answers s3
           web.2 answers s2
           wait 100\n"
        + BACKLOG;
    links(inferring(), &script, 9);
}

#[test]
fn calls_of_event_loops_of_other_threads_and_of_nobodys_time_are_not_linked() {
    for call in [
        // It does not block; the thread never answered anything.
        "web.2 calls c1 /x born nonblocking\nweb.2 gets c1",
        "web.3 calls c1 /x born\nweb.3 gets c1",
        "web.2 calls c1 /x born many\nweb.2 gets c1",
    ] {
        links(inferring(), &(served(60, CALL, "") + &served(1, call, "")), 9);
    }
    // What is known to serve one request a thread need not block.
    let known = "web.2 calls c1 /x born one nonblocking\nweb.2 gets c1";
    links(inferring(), &(served(60, CALL, "") + &served(1, known, "")), 10);
}

#[test]
fn what_waits_for_a_worker_that_ends_is_an_orphan() {
    let script = served(60, CALL, "")
        + "web.1 reads s2 /b born nonblocking
           web.2 calls c1 /x born
           web.2 gets c1
           exit web\n";
    let ledger = links(inferring(), &script, 9);
    assert_eq!(ledger.orphans.never_answered, 1);
}
