//! Every counter is documented, every sum is checked, and the pages under `docs/` are what the tables say.

use std::collections::BTreeSet;
use std::path::Path;

use super::documented::every;
use super::*;

#[test]
fn every_exported_counter_is_documented_and_every_documented_one_exported() {
    let exported: BTreeSet<&str> = counters(&every()).iter().map(|counter| counter.name).collect();
    let documented: BTreeSet<&str> = DOCUMENTED.iter().map(|(name, _)| *name).collect();
    assert_eq!(exported, documented);
    assert_eq!(documented.len(), DOCUMENTED.len(), "a counter is documented twice");
}

#[test]
fn no_counter_stands_twice_with_the_same_cause() {
    let all = counters(&every());
    let distinct: BTreeSet<_> = all.iter().map(|counter| (counter.name, counter.cause)).collect();
    assert_eq!(distinct.len(), all.len());
}

#[test]
fn a_name_says_its_station_and_a_meaning_is_one_line() {
    let stations =
        "kernel intake pipeline stream tls protocol exchange stitch discover runtime terminal export";
    for (name, meaning) in DOCUMENTED {
        let mut parts = name.split('_');
        assert_eq!(parts.next(), Some("spandrel"), "{name}");
        assert!(
            parts.next().is_some_and(|station| stations.split(' ').any(|known| known == station)),
            "{name}"
        );
        assert!(
            name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_'),
            "{name}"
        );
        assert!(!meaning.is_empty() && !meaning.contains(['\n', '|']) && !meaning.ends_with('.'), "{name}");
    }
}

#[test]
fn what_can_be_held_is_a_level_and_all_else_a_total() {
    for (name, _) in DOCUMENTED {
        let is_level =
            ["_held_", "_open_", "_waiting_", "_undecided_"].iter().any(|word| name.contains(word));
        assert_eq!(name.ends_with("_total"), !is_level, "{name}");
    }
}

#[test]
fn a_call_is_shown_by_its_name_or_else_its_number() {
    assert_eq!(call_name(40), "sendfile");
    assert_eq!(call_name(200), "200");
    assert_eq!(call_name(CALL_NUMBERS - 1), "unknown");
    assert_eq!(call_name(u32::MAX), "unknown");
}

/// Books of an agent that lost something everywhere, and all of whose sums hold.
fn balanced() -> Books {
    let mut counters = vec![0; KernelCounter::COUNT];
    let mut set = |counter: KernelCounter, value| counters[counter as usize] = value;
    set(KernelCounter::BytesMovedSend, 700);
    set(KernelCounter::BytesMovedReceive, 300);
    set(KernelCounter::BytesCaptured, 600);
    set(KernelCounter::BytesSilent, 300);
    set(KernelCounter::BytesUnseen, 60);
    set(KernelCounter::BytesRingFull, 40);
    set(KernelCounter::Records, 9);
    let mut http1 = http1::Ledger { bytes: 450, head: 350, body: 80, gap: 390, ..Default::default() };
    http1.unparsed[Malformed::Gap as usize] = 20;
    (http1.gap_body, http1.gap_lost) = (300, 90);
    let mut stitch = stitch::Ledger { exchanges: 5, spans: 3, suppressed: 1, ..Default::default() };
    stitch.held.open = 1;
    stitch.held.undecided = 1;
    stitch.links.stream = 2;
    stitch.roots.client = 1;
    stitch.roots.suppressed = 1;
    Books {
        kernel: Some(Kernel { counters, unseen_calls: vec![(40, 50), (511, 10)] }),
        intake: intake::Ledger {
            records: 9,
            early: 1,
            early_bytes: 20,
            undecodable: 1,
            undecodable_bytes: 240,
        },
        pipeline: pipeline::Ledger { not_selected_records: 1, not_selected_bytes: 30 },
        sessions: Default::default(),
        secrets: Default::default(),
        tables: Default::default(),
        runtimes: Default::default(),
        stream: stream::Ledger {
            captured: 450,
            passed: 450,
            gaps: [300, 0, 60, 40, 0],
            ..Default::default()
        },
        tls: tls::Ledger {
            moved: 850,
            passed: 800,
            opened: 45,
            handshake: 5,
            plaintext: 40,
            missing: 10,
            ..Default::default()
        },
        keys: Default::default(),
        clear: Default::default(),
        parsers: exchange::Parsers { http1, ..Default::default() },
        exchange: exchange::Ledger {
            bytes: 850,
            bytes_parsed: 840,
            bytes_late: 10,
            requests: 6,
            requests_refused: 1,
            opened: 5,
            complete: 3,
            cancelled: 1,
            open: 1,
            responses: 4,
            responses_paired: 3,
            responses_without_request: 1,
            ..Default::default()
        },
        stitch,
        failed_connects: Vec::new(),
        discover: discover::Ledger {
            met: 3,
            held: 2,
            vanished: 1,
            resolved: 2,
            by_scan: 2,
            ..Default::default()
        },
        terminal: Some(terminal::Ledger { ended: 3, in_tree: 2, held: 1, trees: 1, ..Default::default() }),
        export: Some(Exported {
            ledger: export::Ledger { offered: 6, exported: 4, gave_up: 1, waiting: 1, ..Default::default() },
            destinations: 2,
        }),
    }
}

#[test]
fn books_in_which_all_is_accounted_for_balance() {
    assert_eq!(imbalances(&Books::default()), [""; 0]);
    assert_eq!(imbalances(&every()), [""; 0]);
    assert_eq!(imbalances(&balanced()), [""; 0]);
}

#[test]
fn a_byte_that_no_cause_explains_is_told() {
    let mut books = balanced();
    let kernel = books.kernel.as_mut().unwrap();
    kernel.counters[KernelCounter::BytesMovedSend as usize] += 1;
    assert_eq!(
        imbalances(&books),
        [
            "the books do not balance: kernel, bytes moved: 1001 are not 600 captured + 300 policy + 60 no_buffer + 40 ring_full: \
          1 unaccounted for"
        ]
    );
    let mut books = balanced();
    books.exchange.responses_paired += 2;
    assert_eq!(
        imbalances(&books),
        ["the books do not balance: exchange, responses: 4 are not 5 paired + 1 without request: 2 too many"]
    );
}

/// One spoilt number at a time: every number that is in a sum must be missed by some sum.
#[test]
fn every_sum_is_checked() {
    type Spoil = fn(&mut Books);
    let spoil: [(&str, Spoil); 25] = [
        ("kernel, bytes moved", |b| {
            b.kernel.as_mut().unwrap().counters[KernelCounter::BytesVector as usize] = 1
        }),
        ("by system call", |b| b.kernel.as_mut().unwrap().unseen_calls.clear()),
        ("records written", |b| b.intake.records = 8),
        ("bytes captured by the kernel side", |b| b.intake.undecodable_bytes = 99),
        ("bytes captured by the kernel side", |b| b.pipeline.not_selected_bytes += 101),
        ("stream, bytes captured", |b| b.stream.discarded = 1),
        ("stream, bytes captured", |b| b.stream.held = 1),
        ("tls, bytes moved", |b| b.stream.gaps[4] = 1),
        ("tls, bytes moved", |b| b.tls.opened += 1),
        ("exchange, bytes moved", |b| b.tls.plaintext += 1),
        ("exchange, bytes:", |b| b.exchange.bytes_other = 1),
        ("exchange, requests", |b| b.exchange.requests_refused = 0),
        ("exchange, exchanges opened", |b| b.exchange.timed_out = 1),
        ("exchange, responses", |b| b.exchange.responses = 0),
        ("exchange, bytes parsed", |b| b.parsers.http1.gap = 0),
        ("protocol, bytes read", |b| b.parsers.http1.framing = 1),
        ("protocol, bytes missing", |b| b.parsers.http1.gap_lost = 0),
        ("http2, bytes read", |b| b.parsers.http2.framing = 1),
        ("http2, bytes missing", |b| b.parsers.http2.gap_lost = 1),
        ("stitch, exchanges: 6 are not 5 opened before", |b| b.stitch.exchanges = 6),
        ("spans, left out and held: off by -1", |b| b.stitch.not_sampled = 1),
        ("links, roots and orphans: off by -1", |b| b.stitch.orphans.expired = 1),
        ("discover, processes met", |b| b.discover.displaced = 1),
        ("discover, processes resolved", |b| b.discover.unnamed = 1),
        ("export, spans offered", |b| b.export.as_mut().unwrap().ledger.waiting = 0),
    ];
    for (sentence, spoil) in spoil {
        let mut books = balanced();
        spoil(&mut books);
        let found = imbalances(&books);
        assert!(found.iter().any(|found| found.contains(sentence)), "{sentence}: {found:#?}");
    }
}

#[test]
fn a_span_that_one_destination_was_not_offered_is_told() {
    let mut books = balanced();
    books.export.as_mut().unwrap().destinations = 3;
    books.terminal.as_mut().unwrap().ended = 4;
    let found = imbalances(&books).join("\n");
    assert!(found.contains("export, spans offered: 6 are not 9 from stitch"), "{found}");
    assert!(found.contains("terminal, spans: 4 are not 3 from stitch"), "{found}");
}

#[test]
fn numbers_that_cannot_be_added_are_told_and_do_not_panic() {
    let mut books = balanced();
    books.stream.gaps = [u64::MAX; GapCause::ALL.len()];
    books.parsers.http1.unparsed = [u64::MAX; Malformed::ALL.len()];
    books.kernel.as_mut().unwrap().counters = vec![u64::MAX; KernelCounter::COUNT];
    assert!(imbalances(&books).len() >= 3);
}

/// The pages are generated: `UPDATE_DOCS=1 cargo test -p spandrel --lib books` writes them anew.
#[test]
fn the_generated_pages_are_what_the_tables_say() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs");
    let pages = [
        ("counters.md", markdown()),
        ("features.md", crate::probe::check::features_markdown()),
        ("settings.md", crate::config::reference_page()),
    ];
    for (name, wanted) in pages {
        let path = folder.join(name);
        if std::env::var_os("UPDATE_DOCS").is_some() {
            std::fs::create_dir_all(&folder).unwrap();
            std::fs::write(&path, &wanted).unwrap();
        }
        let found = std::fs::read_to_string(&path).unwrap_or_default();
        assert!(
            found == wanted,
            "docs/{name} is not what the tables say now; to write it anew: UPDATE_DOCS=1 cargo test -p spandrel --lib books"
        );
    }
}
