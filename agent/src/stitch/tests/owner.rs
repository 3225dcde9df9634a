//! The rules `waiter` and `task`, and everything that they refuse.

use super::super::span::LinkMethod;
use super::super::{Limits, Settings};
use super::{check, check_with, parse, run};

fn inferring() -> Settings {
    Settings { weakest_link: LinkMethod::Inferred, ..Settings::default() }
}

#[test]
fn a_call_belongs_to_the_one_request_that_owns_what_it_claims() {
    let ledger = check(
        "web.1 reads s1 /a born many owns=1
         web.1 reads s2 /b born many owns=2
         web.9 calls c1 /x born many claims=2
         web.9 gets c1
         web.1 answers s1
         web.1 answers s2",
        "
         server web /a
         server web /b
           client web /x waiter",
    );
    assert_eq!(ledger.links.waiter, 1);
}

#[test]
fn a_request_may_say_only_with_its_answer_what_it_owns() {
    check(
        "web.1 reads s1 /a born many
         web.1 reads s2 /b born many
         web.1 calls c1 /x born many claims=7
         web.1 calls c2 /y born many claims=8
         web.1 gets c1
         web.1 gets c2
         web.1 answers s2 owns=7
         web.1 answers s1 owns=8",
        "
         server web /a
           client web /y waiter
         server web /b
           client web /x waiter",
    );
}

#[test]
fn a_key_that_is_said_at_the_read_is_not_waited_for_and_one_that_comes_with_the_answer_is() {
    check(
        "web.1 reads s1 /a born many owns=1 more
         web.1 reads s2 /b born many owns=2 more
         web.9 calls c1 /x born many claims=8 claims=7
         web.9 calls c2 /y born many claims=2
         web.9 gets c1
         web.9 gets c2
         wait 400
         web.1 answers s1 owns=7
         web.1 answers s2 owns=9",
        "
         server web /a
           client web /x waiter
         server web /b
           client web /y waiter",
    );
}

#[test]
fn a_call_that_claims_what_nobody_owns_waits_for_all_that_may_say_so() {
    let ledger = check(
        "web.1 reads s1 /a born many owns=1 more
         web.9 calls c1 /x born many claims=7
         web.9 gets c1
         wait 400
         web.1 answers s1
         web.1 reads s2 /b born many owns=1 more
         wait 400
         web.1 answers s2 owns=7",
        "
         server web /a
         client web /x
         server web /b",
    );
    assert_eq!(ledger.orphans.no_owner, 1);
}

#[test]
fn a_call_is_not_linked_before_every_request_of_its_time_has_said_what_it_owns() {
    // Both answers are written by the task that made the call: a server that answers in batches.
    let ledger = check(
        "web.1 reads s1 /a born many
         web.1 reads s2 /b born many
         web.1 calls c1 /x born many claims=7
         web.1 gets c1
         web.1 answers s2 owns=7
         wait 400
         web.1 answers s1 owns=7
         wait 400",
        "
         server web /a
         server web /b
         client web /x",
    );
    assert_eq!(ledger.orphans.key_shared, 1);
}

#[test]
fn a_key_that_is_used_again_is_told_by_the_time() {
    check(
        "web.1 reads s1 /a born many
         web.1 calls c1 /x born many claims=7
         web.1 gets c1
         web.1 answers s1 owns=7
         web.1 reads s2 /b born many
         web.1 calls c1 /y born many claims=7
         web.1 gets c1
         web.1 answers s2 owns=7
         web.1 calls c1 /z born many claims=7
         web.1 gets c1",
        "
         server web /a
           client web /x waiter
         server web /b
           client web /y waiter
         client web /z",
    );
}

#[test]
fn a_late_call_of_a_task_belongs_to_the_request_that_made_the_task() {
    // Task 45 was made by the first request of the connection's task 1, and calls during the second.
    check_with(
        inferring(),
        "web.1 reads s1 /a born many owns=1 gate=40
         web.1 answers s1
         web.1 reads s1 /b born many owns=1 gate=50
         web.9 calls c1 /x born many claims=1^45
         web.9 calls c2 /y born many claims=1^55
         web.9 calls c3 /z born many claims=1^35
         web.9 gets c1
         web.9 gets c2
         web.9 gets c3
         wait 400
         web.1 answers s1
         wait 400",
        "
         server web /a
           client web /x inferred
         server web /b
           client web /y inferred
         client web /z",
    );
}

/// Task 45 was made for the first request, and calls for it and later again.
const WORKER: &str = "web.1 reads s1 /a born many owns=1 gate=40
     web.9 calls c1 /x born many claims=1^45
     web.9 gets c1
     web.1 answers s1
     wait 200
     web.9 calls c2 /y born many claims=1^45
     web.9 gets c2
     wait 800";

#[test]
fn a_task_that_calls_on_after_the_request_that_made_it_is_a_worker_and_proves_nothing() {
    let tree = "
         server web /a
         client web /x
         client web /y";
    assert_eq!(check_with(inferring(), WORKER, tree).orphans.works_on, 2);
    let later = "
         server web /a
           client web /x inferred
         client web /y";
    assert_eq!(check_with(inferring(), &WORKER.replace("wait 200", "wait 400"), later).orphans.works_on, 1);
}

/// A call that a timer of the first request may have made for it, or for somebody else.
const TIMER: &str = "web.1 reads s1 /a born many owns=1
     web.1 reads s2 /b born many owns=2
     web.1 calls c1 /x born many likely=1
     web.1 gets c1
     web.1 answers s1
     wait 200
     web.1 answers s2
     wait 800";

#[test]
fn what_is_likely_is_believed_some_time_after_the_request_if_no_exception_was_seen_until_then() {
    let tree = "
         server web /a
           client web /x inferred
         server web /b";
    assert_eq!(check_with(inferring(), TIMER, tree).links.inferred, 1);
    let doubted = "
         server web /a
         server web /b
         client web /x";
    let exception = TIMER.replace("wait 200", "wait 200\n web.1 doubted");
    assert_eq!(check_with(inferring(), &exception, doubted).orphans.works_on, 1);
    let too_late = TIMER.replace("wait 200", "wait 400\n web.1 doubted");
    assert_eq!(check_with(inferring(), &too_late, tree).links.inferred, 1);
}

#[test]
fn lineage_links_only_where_that_is_allowed() {
    let ledger = check(
        &WORKER.replace("wait 200", "wait 400"),
        "
         server web /a
         client web /x
         client web /y",
    );
    assert_eq!(ledger.orphans.weakest_link, 2);
}

/// The request's task 1 made task 45, which calls once the request waits for something that it holds.
const FAN: &str = "web.1 reads s1 /a born many owns=1 gate=40
     web.1 reads s2 /b born many owns=2 gate=41
     web.9 calls c1 /x born many claims=45 claims=1^45 later
     web.9 gets c1 claims=45 claims=1^45 held=1
     web.1 answers s1
     wait 200
     web.1 answers s2
     wait 800";

#[test]
fn a_task_belongs_to_the_request_that_made_it_and_waits_for_what_it_holds() {
    let tree = "
         server web /a
           client web /x task
         server web /b";
    assert_eq!(check(FAN, tree).links.task, 1);
}

#[test]
fn who_waits_for_what_a_task_holds_without_having_made_it_proves_nothing_by_itself() {
    let tree = "
         server web /a
         server web /b
         client web /x";
    assert_eq!(check(&FAN.replace("held=1", "held=2"), tree).orphans.works_on, 1);
    assert_eq!(check(&FAN.replace("held=1", "held=1 held=2"), tree).orphans.works_on, 1);
    let nobody = check(&FAN.replace("held=1", "held=7"), tree);
    assert_eq!(nobody.orphans.weakest_link, 1);
    // Nor where habits are believed, as long as this one was not seen.
    assert_eq!(check_with(inferring(), &FAN.replace("held=1", "held=2"), tree).orphans.works_on, 1);
}

/// One job after the other, each of another request, by worker 45, which holds these things with them.
fn jobs(things: [u64; 6]) -> String {
    let job = |(number, thing): (usize, u64)| {
        let request = number % 2 + 1;
        format!(
            "web.{request} reads s{request} /a born many owns={request}
             web.9 calls c1 /x born many claims=45 held={request}@{thing}
             web.9 gets c1
             web.{request} answers s{request}\n"
        )
    };
    (0..).zip(things).map(job).collect::<String>() + "wait 800"
}

#[test]
fn who_waits_for_what_a_worker_holds_with_each_job_asked_for_it_where_habits_are_believed() {
    let linked = "
         server web /a
           client web /x inferred";
    let orphans = "
         server web /a
         client web /x";
    let own = jobs([10, 11, 12, 13, 14, 15]);
    check_with(inferring(), &own, &linked.repeat(6));
    assert_eq!(check(&own, &orphans.repeat(6)).orphans.no_owner, 6);
    // A thing that is everybody's; and a habit that was shown too seldom.
    let everybodys = check_with(inferring(), &jobs([10; 6]), &orphans.repeat(6));
    assert_eq!(everybodys.orphans.works_on, 6);
    check_with(inferring(), &jobs([10, 11, 12, 13, 13, 13]), &orphans.repeat(6));
}

#[test]
fn a_task_that_works_on_for_others_is_not_its_makers_and_its_jobs_are_whose_they_are() {
    // As a goroutine that a request starts where no worker is there, and that works until the queue is empty.
    let script = jobs([10, 11, 12, 13, 14, 15]).replace("claims=45", "claims=44")
        + "
         web.1 reads s1 /own born many owns=1 gate=40
         web.9 calls c1 /first born many claims=45 claims=1^45 held=1@50
         web.9 gets c1
         web.1 answers s1
         web.2 reads s2 /other born many owns=2 gate=46
         web.9 calls c1 /second born many claims=45 claims=1^45 held=2@51
         web.9 gets c1
         web.2 answers s2
         wait 800";
    let told = run(inferring(), &parse(&script));
    for line in ["client web /first inferred", "client web /second inferred"] {
        assert!(told.tree.contains(line), "{}", told.tree);
    }
}

#[test]
fn a_task_that_an_earlier_request_of_its_maker_made_is_not_this_ones_whoever_waits() {
    // As when a request waits for everything that earlier ones left behind.
    let script = "web.1 reads s1 /a born many owns=1 gate=40
         web.1 answers s1
         web.1 reads s1 /flush born many owns=1 gate=50
         web.9 calls c1 /x born many claims=1^45 held=1
         web.9 gets c1
         web.1 answers s1
         wait 800";
    let tree = "
         server web /a
         server web /flush
         client web /x";
    assert_eq!(check(script, tree).orphans.works_on, 1);
}

#[test]
fn a_worker_that_calls_on_is_not_its_makers_even_if_that_one_waits_for_it() {
    let script = FAN.replace("wait 200", "web.9 calls c2 /y born many claims=1^45\nweb.9 gets c2\nwait 200");
    let tree = "
         server web /a
         server web /b
         client web /x
         client web /y";
    assert_eq!(check(&script, tree).orphans.works_on, 1);
}

#[test]
fn of_whom_it_is_not_known_what_had_been_made_by_then_the_tasks_are_nobodys() {
    let script = "web.1 reads s1 /a born many owns=1 gate=40
         web.1 answers s1
         web.1 reads s1 /b born many owns=1
         web.9 calls c1 /x born many claims=1^45
         web.9 gets c1
         web.1 answers s1
         wait 800";
    let tree = "
         server web /a
         server web /b
         client web /x";
    check_with(inferring(), script, tree);
}

#[test]
fn what_a_worker_makes_for_each_job_descends_from_a_worker() {
    // Task 8 is made by the request's task 7, and makes a task for each call.
    let ledger = check_with(
        inferring(),
        "web.1 reads s1 /a born many
         web.1 bears 8 7
         web.1 bears 9 8
         web.1 calls c1 /x born many claims=9
         web.1 gets c1
         web.1 answers s1 owns=7
         web.1 bears 10 8
         web.1 calls c2 /y born many claims=10
         web.1 gets c2
         wait 800",
        "
         server web /a
         client web /x
         client web /y",
    );
    assert_eq!(ledger.orphans.works_on, 2);
}

#[test]
fn a_lineage_is_followed_at_the_time_of_each_birth() {
    let ledger = check_with(
        inferring(),
        "web.1 reads s1 /a born many
         web.1 bears 8 7
         web.1 bears 9 8
         web.1 answers s1 owns=7
         web.1 reads s2 /b born many
         web.1 calls c1 /x born many claims=9
         web.1 bears 9 6
         web.1 calls c2 /y born many claims=9
         web.1 gets c1
         web.1 gets c2
         web.1 answers s2 owns=6
         wait 800",
        "
         server web /a
           client web /x inferred
         server web /b
           client web /y inferred",
    );
    assert_eq!(ledger.links.inferred, 2);
}

#[test]
fn a_task_is_believed_although_its_key_is_another_tasks_by_then() {
    let ledger = check_with(
        inferring(),
        "web.1 reads s1 /a born many
         web.1 bears 8 7
         web.1 calls c1 /x born many claims=8
         web.1 gets c1
         web.1 answers s1 owns=7
         web.1 reads s2 /b born many
         web.1 bears 8 7
         web.1 calls c2 /y born many claims=8
         web.1 gets c2
         web.1 answers s2 owns=7
         wait 800",
        "
         server web /a
           client web /x inferred
         server web /b
           client web /y inferred",
    );
    assert_eq!(ledger.links.inferred, 2);
}

#[test]
fn the_call_that_reads_the_answer_may_know_better() {
    check(
        "web.1 reads s1 /a born many owns=1
         web.9 calls c1 /x born many later
         wait 400
         web.9 gets c1 claims=1
         web.1 answers s1",
        "
         server web /a
           client web /x waiter",
    );
}

#[test]
fn a_claim_on_nothing_leaves_an_orphan_and_says_so() {
    let ledger = check(
        "web.1 reads s1 /a born many owns=1
         web.9 calls c1 /x born many claims=2
         web.9 gets c1
         wait 400
         web.1 answers s1",
        "
         server web /a
         client web /x",
    );
    assert_eq!(ledger.orphans.no_owner, 1);
}

#[test]
fn a_call_by_a_process_that_serves_nothing_is_a_root() {
    let ledger = check(
        "job.1 calls c1 /x born many claims=2
         job.1 gets c1
         wait 400",
        "
         client job /x",
    );
    assert_eq!(ledger.roots.client, 1);
}

#[test]
fn keys_of_two_processes_are_not_compared() {
    check(
        "web.1 reads s1 /a born many owns=1
         api.1 reads s2 /b born many owns=2
         api.9 calls c1 /x born many claims=1
         api.9 gets c1
         wait 400
         web.1 answers s1
         api.1 answers s2",
        "
         server web /a
         server api /b
         client api /x",
    );
}

#[test]
fn a_method_weaker_than_the_setting_makes_no_link() {
    let settings = Settings { weakest_link: LinkMethod::Header, ..Settings::default() };
    let ledger = check_with(
        settings,
        "web.1 reads s1 /a born many owns=1
         web.1 calls c1 /x born many claims=1
         web.1 gets c1
         wait 400
         web.1 answers s1",
        "
         server web /a
         client web /x",
    );
    assert_eq!(ledger.orphans.weakest_link, 1);
}

#[test]
fn requests_that_are_over_are_forgotten_at_the_bound_and_counted() {
    let settings = Settings { limits: Limits { remembered_owners: 1, ..Limits::default() }, ..inferring() };
    let ledger = check_with(
        settings,
        "web.1 reads s1 /a born many owns=1 gate=10
         web.1 answers s1
         web.1 reads s2 /b born many owns=2 gate=20
         web.1 answers s2
         web.9 calls c1 /x born many claims=1^15
         web.9 gets c1
         wait 400",
        "
         server web /a
         server web /b
         client web /x",
    );
    assert_eq!((ledger.forgotten.owners, ledger.orphans.no_owner), (1, 1));
}

#[test]
fn of_a_key_that_many_had_the_oldest_owners_are_forgotten_and_counted() {
    // Each request takes two lines, so two milliseconds.
    let requests = |from: usize, to: usize| -> String {
        (from..to).map(|n| format!("web.1 reads s{n} /r born many owns=1\nweb.1 answers s{n}\n")).collect()
    };
    let call = |claim: &str| format!("web.9 calls c1 /x born many claims={claim}\nweb.9 gets c1\nwait 400");
    let claimed = |requests: String, claim: &str| {
        let told = run(Settings::default(), &parse(&(requests + &call(claim))));
        (told.ledger.links.task + told.ledger.links.waiter, told.ledger.forgotten.lives)
    };
    assert_eq!(claimed(requests(0, 64), "1@-128"), (1, 0));
    assert_eq!(claimed(requests(0, 70), "1@-140"), (0, 6));
    assert_eq!(claimed(requests(0, 70), "1@-2"), (1, 6));
    // One that is still under way when it is forgotten may be the owner at any time.
    let open = "web.1 reads s99 /r born many owns=1\n".to_owned();
    assert_eq!(claimed(open + &requests(0, 70), "1@-2"), (0, 7));
}

#[test]
fn a_loss_while_a_request_is_served_leaves_its_calls_without_a_parent() {
    // The end of the first request and the second's beginning may be what was lost.
    let ledger = check(
        "web.1 reads s1 /a born many owns=1
         lost
         web.9 calls c1 /x born many claims=1
         web.9 gets c1
         wait 400
         web.1 answers s1",
        "
         server web /a
         client web /x",
    );
    assert_eq!(ledger.orphans.records_lost, 1);
}

#[test]
fn a_loss_voids_what_is_known_of_births() {
    check_with(
        inferring(),
        "web.1 bears 9 8
         lost
         web.1 reads s1 /a born many owns=8
         web.1 calls c1 /x born many claims=9
         web.1 gets c1
         wait 400
         web.1 answers s1",
        "
         server web /a
         client web /x",
    );
}

#[test]
fn a_link_that_waits_outlives_what_is_known_of_its_key() {
    let others: String = (0..70)
        .map(|n| format!("web.1 reads s{n} /r born many owns=1 gate=90\nweb.1 answers s{n}\n"))
        .collect();
    let script = "web.1 reads a /a born many owns=1 gate=40
         web.9 calls c1 /x born many claims=1^45
         web.9 gets c1
         web.1 answers a
         wait 110\n"
        .to_owned();
    let told = run(inferring(), &parse(&(script + &others + "wait 800")));
    assert_eq!((told.ledger.links.inferred, told.ledger.forgotten.lives), (1, 7));
}
