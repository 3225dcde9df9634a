//! The rules `stream`, `header` and `forwarded`, settings and times, and what they refuse.

use super::super::intake::Intake;
use super::super::ledger::Ledger;
use super::super::sampler::Sampler;
use super::super::span::LinkMethod;
use super::super::{Output, Settings};
use super::{MS, check, check_with, parse, run};

fn weakest(method: LinkMethod) -> Settings {
    Settings { weakest_link: method, ..Settings::default() }
}

// --- stream ---

#[test]
fn a_server_is_the_child_of_the_client_that_wrote_its_bytes() {
    let ledger = check(
        "join c1 s1
         curl.1 calls c1 /a
         web.1 reads s1 /a
         web.1 answers s1
         curl.1 gets c1",
        "
         client curl /a
           server web /a stream",
    );
    assert_eq!((ledger.links.stream, ledger.roots.client, ledger.spans), (1, 1, 2));
}

#[test]
fn requests_of_one_connection_are_told_apart_by_their_offsets() {
    check(
        "join c1 s1
         curl.1 calls c1 /a
         web.1 reads s1 /a
         web.1 answers s1
         curl.1 gets c1
         curl.1 calls c1 /b
         web.1 reads s1 /b
         web.1 answers s1
         curl.1 gets c1",
        "
         client curl /a
           server web /a stream
         client curl /b
           server web /b stream",
    );
}

#[test]
fn a_server_may_be_over_before_its_client_is_reported() {
    check(
        "join c1 s1
         web.1 reads s1 /a
         web.1 answers s1
         wait 900
         curl.1 calls c1 /a
         curl.1 gets c1",
        "
         client curl /a
           server web /a stream",
    );
}

#[test]
fn a_client_may_be_over_before_its_server_is_reported() {
    check(
        "join c1 s1
         curl.1 calls c1 /a
         curl.1 gets c1
         wait 900
         web.1 reads s1 /a
         web.1 answers s1",
        "
         client curl /a
           server web /a stream",
    );
}

#[test]
fn a_client_that_gave_up_and_closed_is_still_the_parent() {
    check(
        "join c1 s1
         curl.1 calls c1 /a
         curl.1 fails c1
         close c1
         wait 900
         web.1 reads s1 /a
         web.1 answers s1",
        "
         client curl /a
           server web /a stream",
    );
}

#[test]
fn a_server_stops_waiting_when_a_later_request_shows_that_its_clients_was_not_seen() {
    let script = "join c1 s1
         web.1 reads s1 /a
         web.1 answers s1
         web.1 reads s1 /b
         curl.1 calls c1 /b
         curl.1 gets c1
         web.1 answers s1";
    // The first request of c1 in the script is the second on the wire.
    let mut lines = parse(script);
    for line in &mut lines {
        for input in &mut line.inputs {
            match input {
                super::Input::Opened { id, role: super::Role::Client, .. } => id.offset += 100,
                super::Input::Responding { id, .. } if id.offset < 1_000 => id.offset += 100,
                super::Input::Closed(e) if e.role == super::Role::Client => e.id.offset += 100,
                _ => {}
            }
        }
    }
    let told = run(Settings::default(), &lines);
    assert_eq!(told.tree, "server web /a\nclient curl /b\n  server web /b stream\n");
    assert_eq!(told.ledger.orphans.client_unseen, 1);
}

#[test]
fn a_server_stops_waiting_when_its_clients_connection_ends() {
    let ledger = check(
        "join c1 s1
         web.1 reads s1 /a
         close c1
         web.1 answers s1
         wait 1",
        "server web /a",
    );
    assert_eq!(ledger.orphans.client_unseen, 1);
}

#[test]
fn a_server_on_a_joined_connection_waits_until_it_is_too_old() {
    let script = "join c1 s1
         web.1 reads s1 /a
         web.1 answers s1
         wait 59000";
    let waiting = run(Settings::default(), &parse(script));
    assert_eq!((waiting.ledger.orphans.expired, waiting.ledger.orphans.shutdown), (0, 1));
    let over = run(Settings::default(), &parse(&format!("{script}\nwait 2000")));
    assert_eq!((over.ledger.orphans.expired, over.ledger.orphans.shutdown), (1, 0));
}

#[test]
fn a_server_does_not_wait_for_a_client_on_this_host_that_is_not_traced() {
    let script = "join c1 s1
         web.1 reads s1 /a born
         wait 2000
         web.1 answers s1
         wait 300";
    let waiting = run(Settings::default(), &parse(script));
    assert_eq!((waiting.ledger.orphans.client_unseen, waiting.ledger.orphans.shutdown), (0, 1));
    let over = run(Settings::default(), &parse(&format!("{script}\nwait 1000")));
    assert_eq!((over.ledger.orphans.client_unseen, over.ledger.orphans.total()), (1, 1));
    // One that spoke is only late.
    let spoke = "join c1 s1
         curl.1 calls c1 /a
         web.1 reads s1 /a born
         web.1 answers s1
         curl.1 gets c1
         web.1 reads s1 /b born
         web.1 answers s1
         wait 5000
         curl.1 calls c1 /b at=-5005
         curl.1 gets c1";
    let late = run(Settings::default(), &parse(spoke));
    assert_eq!(late.ledger.orphans.total(), 0, "{}", late.tree);
}

#[test]
fn a_server_on_a_connection_seen_from_its_start_does_not_wait() {
    let told = run(Settings::default(), &parse("web.1 reads s1 /a born"));
    assert!(
        matches!(told.outputs.as_slice(), [Output::Bound { .. }, Output::Abandoned { .. }]),
        "{:?}",
        told.outputs
    );
    let ledger = check("web.1 reads s1 /a born\n web.1 answers s1", "server web /a");
    assert_eq!((ledger.roots.server, ledger.orphans.total()), (1, 0));
}

#[test]
fn a_server_on_an_older_connection_waits_a_moment_for_the_join() {
    check(
        "curl.1 calls c1 /a
         web.1 reads s1 /a
         web.1 answers s1
         curl.1 gets c1
         wait 200
         join c1 s1",
        "
         client curl /a
           server web /a stream",
    );
    let late = check(
        "curl.1 calls c1 /a
         web.1 reads s1 /a
         web.1 answers s1
         curl.1 gets c1
         wait 300
         join c1 s1",
        "
         client curl /a
         server web /a",
    );
    assert_eq!(late.roots.server, 1);
}

#[test]
fn a_second_statement_about_a_connections_other_end_is_not_believed() {
    let ledger = check(
        "join c1 s1
         join c1 s2
         join c1 s1
         curl.1 calls c1 /a
         web.1 reads s1 /a
         web.1 answers s1
         curl.1 gets c1",
        "
         client curl /a
           server web /a stream",
    );
    assert_eq!(ledger.stray.joins, 1);
}

#[test]
fn stream_wins_over_the_context_that_came_over_the_stream() {
    check(
        "join c1 s1
         app.1 calls c1 /a ctx=7:5
         web.1 reads s1 /a ctx=7:5
         web.1 answers s1
         app.1 gets c1",
        "
         client app /a header 7:5
           server web /a stream",
    );
}

// --- header ---

#[test]
fn without_a_client_here_the_context_names_the_parent() {
    let told = run(
        Settings::default(),
        &parse(
            "web.1 reads s1 /a born ctx=7:5:03
             web.1 answers s1",
        ),
    );
    assert_eq!(told.tree, "server web /a header 7:5\n");
    let span = &told.spans[0];
    assert_eq!((span.flags, span.trace_state.as_deref()), (0x03, Some("x=5")));
    assert!(span.parent.unwrap().remote);
    assert_eq!(span.wall_offset, 1_000);
}

#[test]
fn a_span_with_a_parent_says_how_it_was_found() {
    let told = run(Settings::default(), &parse("web.1 reads s1 /a born ctx=7:5\n web.1 answers s1"));
    let found: Vec<_> =
        told.spans[0].attributes.iter().filter(|(k, _)| *k == "spandrel.link.method").collect();
    assert_eq!(found, [&("spandrel.link.method", super::super::span::Value::Text("header".into()))]);
    let told = run(Settings::default(), &parse("web.1 reads s1 /a born\n web.1 answers s1"));
    assert!(told.spans[0].attributes.iter().all(|(k, _)| *k != "spandrel.link.method"));
}

#[test]
fn the_trace_of_others_keeps_one_wall_offset() {
    let lines = parse(
        "web.1 reads s1 /a born ctx=7:5
         web.1 answers s1
         web.1 reads s2 /b born ctx=7:6
         web.1 answers s2
         web.1 reads s3 /c born
         web.1 answers s3",
    );
    let mut stitcher = super::stitcher(Settings::default());
    let mut out = Vec::new();
    for (i, line) in lines.into_iter().enumerate() {
        stitcher.set_wall_offset(i as u64);
        line.inputs.into_iter().for_each(|input| stitcher.handle(input, &mut out));
    }
    let offsets: Vec<u64> = out
        .iter()
        .filter_map(|o| if let Output::Ended(span) = o { Some(span.wall_offset) } else { None })
        .collect();
    assert_eq!(offsets, [0, 0, 4]);
}

// --- forwarded ---

#[test]
fn a_context_that_was_passed_on_names_the_request_that_brought_it() {
    let told = run(
        Settings::default(),
        &parse(
            "nginx.1 reads s1 /a born epoll many ctx=7:5
             nginx.1 reads s2 /b born epoll many ctx=8:6
             nginx.1 calls c2 /b2 many ctx=8:6
             nginx.1 calls c1 /a2 many ctx=7:5
             nginx.1 gets c1
             nginx.1 answers s1
             nginx.1 gets c2
             nginx.1 answers s2",
        ),
    );
    assert_eq!(
        told.tree,
        "server nginx /a header 7:5\n  client nginx /a2 forwarded\nserver nginx /b header 8:6\n  client nginx /b2 forwarded\n"
    );
    assert!(told.spans.iter().filter_map(|s| s.parent).all(|p| p.remote == (p.method == LinkMethod::Header)));
}

#[test]
fn a_context_that_two_live_requests_brought_is_of_no_use() {
    let ledger = check(
        "nginx.1 reads s1 /a born epoll many ctx=7:5
         nginx.1 reads s2 /b born epoll many ctx=7:5
         nginx.1 calls c1 /c many ctx=7:5
         nginx.1 gets c1
         nginx.1 answers s1
         nginx.1 answers s2",
        "
         server nginx /a header 7:5
         server nginx /b header 7:5
         client nginx /c",
    );
    assert_eq!(ledger.orphans.context_ambiguous, 1);
}

#[test]
fn a_context_whose_request_is_over_is_of_no_use() {
    let ledger = check(
        "nginx.1 reads s1 /a born epoll many ctx=7:5
         nginx.1 answers s1
         nginx.1 calls c1 /c many ctx=7:5
         nginx.1 gets c1",
        "
         server nginx /a header 7:5
         client nginx /c",
    );
    assert_eq!(ledger.orphans.context_not_live, 1);
}

#[test]
fn a_context_brought_to_another_process_says_nothing_here() {
    check(
        "web.1 reads s1 /a born ctx=7:5
         app.1 calls c1 /c ctx=7:5
         app.1 gets c1
         web.1 answers s1",
        "
         server web /a header 7:5
         client app /c header 7:5",
    );
}

#[test]
fn a_span_id_never_seen_inbound_is_an_sdks_and_the_calls_parent() {
    let told = run(
        Settings::default(),
        &parse(
            "app.1 reads s1 /a born ctx=7:5
             app.1 calls c1 /c ctx=7:9
             app.1 gets c1
             app.1 answers s1",
        ),
    );
    assert_eq!(told.tree, "server app /a header 7:5\nclient app /c header 7:9\n");
    assert!(told.spans.iter().any(|s| s.parent.is_some_and(|p| !p.remote)));
}

#[test]
fn a_process_that_calls_itself_with_an_sdks_context_is_not_its_own_parent() {
    for reported_first in ["app.2 reads s1 /c ctx=7:9", "app.1 calls c1 /c ctx=7:9"] {
        let second = if reported_first.contains("reads") {
            "app.1 calls c1 /c ctx=7:9"
        } else {
            "app.2 reads s1 /c ctx=7:9"
        };
        let told = run(
            Settings::default(),
            &parse(&format!("join c1 s1\n{reported_first}\n{second}\n app.2 answers s1\n app.1 gets c1")),
        );
        assert!(told.tree.contains("\n  server app /c stream\n"), "{}", told.tree);
        assert_eq!(told.ledger.links.stream, 1);
    }
}

#[test]
fn reports_that_would_make_a_span_its_own_ancestor_are_not_believed() {
    let ledger = check(
        "join c1 s1
         join c2 s2
         app.1 reads s1 /a ctx=7:5
         app.2 calls c2 /b ctx=7:5
         app.3 reads s2 /b ctx=8:6
         app.4 calls c1 /a ctx=8:6
         app.4 gets c1
         app.3 answers s2
         app.2 gets c2
         app.1 answers s1",
        "
         server app /a
           client app /b forwarded
             server app /b stream
               client app /a forwarded",
    );
    assert_eq!(ledger.orphans.cycle, 1);
}

// --- settings ---

#[test]
fn a_link_weaker_than_the_setting_is_not_made() {
    let script = "join c1 s1
         web.1 reads s1 /a ctx=7:5
         curl.1 calls c1 /a ctx=7:5
         web.1 calls c2 /x born ctx=7:5
         web.1 gets c2
         web.1 calls c2 /y born
         web.1 gets c2
         web.1 answers s1
         curl.1 gets c1";
    let links = |method| {
        let l = run(weakest(method), &parse(script)).ledger;
        assert_eq!(l.orphans.weakest_link, 4 - l.links.total(), "{l:#?}");
        (l.links.stream, l.links.forwarded, l.links.header, l.links.thread)
    };
    assert_eq!(links(LinkMethod::Inferred), (1, 1, 1, 1));
    assert_eq!(links(LinkMethod::Thread), (1, 1, 1, 1));
    assert_eq!(links(LinkMethod::Task), (1, 1, 1, 0));
    assert_eq!(links(LinkMethod::Forwarded), (1, 1, 0, 0));
    assert_eq!(links(LinkMethod::Stream), (1, 0, 0, 0));
}

#[test]
fn an_inbound_not_sampled_is_followed_down_the_tree_and_counted() {
    let script = "join c1 s1
         join c2 s2
         app.1 calls c1 /a ctx=7:5:00
         web.1 reads s1 /a ctx=7:5:00
         web.1 calls c2 /b
         db.1 reads s2 /b
         db.1 answers s2
         web.1 gets c2
         web.1 answers s1
         app.1 gets c1";
    let told = run(Settings::default(), &parse(script));
    assert_eq!((told.ledger.not_sampled, told.ledger.spans, told.outputs.len()), (4, 0, 0), "{}", told.tree);
    let (sampler, _) = Sampler::from_settings(Some("always_on"), None);
    check_with(
        Settings { sampler, ..Settings::default() },
        script,
        "
         client app /a header 7:5
           server web /a stream
             client web /b thread
               server db /b stream",
    );
}

#[test]
fn telemetry_is_suppressed_at_both_ends_with_what_it_causes() {
    let script = "join c1 s1
         app.1 calls c1 /v1/traces intake
         collector.1 reads s1 /v1/traces intake
         collector.1 calls c2 /_bulk born
         collector.1 gets c2
         collector.1 answers s1
         app.1 gets c1";
    let ledger = check(script, "");
    assert_eq!((ledger.suppressed, ledger.spans), (3, 0));
    check_with(
        Settings { intake: Intake::Trace, ..Settings::default() },
        script,
        "
         client app /v1/traces
           server collector /v1/traces stream
             client collector /_bulk thread",
    );
}

// --- time ---

fn times(script: &str) -> (Vec<(String, u64, u64)>, Ledger) {
    let told = run(Settings::default(), &parse(script));
    let mut times: Vec<_> = told
        .spans
        .iter()
        .map(|s| (s.resource.service.clone(), s.start.0 / MS - 1_000, s.end.0 / MS - 1_000))
        .collect();
    times.sort();
    (times, told.ledger)
}

#[test]
fn a_call_starts_no_later_than_it_is_read_and_is_answered_no_later_than_it_ends() {
    let span = |name: &str, start, end| (name.to_owned(), start, end);
    // The client's record of its write, and the server's of its write, come late: both still here.
    let (got, l) = times("join c s\n web.1 reads s /a\n curl.1 calls c /a\n curl.1 gets c\n web.1 answers s");
    assert_eq!(got, [span("curl /a", 2, 4), span("web /a", 2, 4)]);
    assert_eq!((l.clamps.client_start, l.clamps.client_end + l.clamps.server_end), (1, 1));
    // The client is out before the server is heard of.
    let (got, l) =
        times("join c s\n curl.1 calls c /a\n curl.1 gets c\n web.1 reads s /a at=-3\n web.1 answers s");
    assert_eq!(got, [span("curl /a", 2, 3), span("web /a", 2, 3)]);
    assert_eq!((l.clamps.server_start, l.clamps.server_end), (1, 1));
    // The server is out before its client ends.
    let (got, l) =
        times("join c s\n curl.1 calls c /a\n web.1 reads s /a\n web.1 answers s\n curl.1 gets c at=-2");
    assert_eq!(got, [span("curl /a", 2, 4), span("web /a", 3, 4)]);
    assert_eq!(l.clamps.client_end, 1);
}

#[test]
fn a_server_that_works_on_after_its_client_gave_up_keeps_its_end() {
    let (got, l) =
        times("join c s\n curl.1 calls c /a\n web.1 reads s /a\n curl.1 fails c\n web.1 answers s");
    assert_eq!(got, [("curl /a".to_owned(), 2, 4), ("web /a".to_owned(), 3, 5)]);
    assert_eq!(l.clamps, super::super::ledger::Clamps::default());
}
