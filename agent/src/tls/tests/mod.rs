//! Real handshakes without a kernel: two rustls ends in this process, their secrets from its key log.

mod recorded;
mod wire;

use super::*;
use crate::stream::GapCause;
use wire::{Cut, Wire, check, suites};

#[test]
fn every_suite_comes_out_as_it_went_in() {
    for suite in suites() {
        let mut wire = Wire::new(suite);
        wire.client(b"GET /one HTTP/1.1\r\n\r\n");
        wire.server(b"HTTP/1.1 200 OK\r\n\r\n");
        wire.client(b"GET /two HTTP/1.1\r\n\r\n");
        wire.server(&[b'x'; 40_000]);
        check(&wire, Cut::Nowhere);
    }
}

#[test]
fn it_does_not_matter_where_calls_cut_the_stream() {
    let suites = suites();
    let one_of_each_version = [suites.first(), suites.last()].into_iter().flatten();
    for &suite in one_of_each_version {
        let mut wire = Wire::new(suite);
        wire.client(b"GET / HTTP/1.1\r\n\r\n");
        wire.server(b"HTTP/1.1 204 No Content\r\n\r\n");
        for at in 0..wire.longest() {
            check(&wire, Cut::At(at));
        }
        check(&wire, Cut::Every(1));
        check(&wire, Cut::Every(5));
    }
}

#[test]
fn secrets_may_come_first_last_or_in_the_middle() {
    for suite in suites() {
        let mut wire = Wire::new(suite);
        for number in 0..5 {
            wire.client(format!("request {number}").as_bytes());
            wire.server(format!("response {number}").as_bytes());
        }
        for after in 0..wire.pieces.len() + 1 {
            wire.secrets_after = after;
            check(&wire, Cut::Nowhere);
        }
    }
}

#[test]
fn a_key_update_is_followed_in_both_directions() {
    let mut wire = Wire::new(suites()[0]);
    wire.client(b"before");
    wire.server(b"before, too");
    wire.update_keys();
    wire.client(b"after");
    wire.server(b"after, too");
    let (_, ledger) = check(&wire, Cut::Nowhere);
    assert!(ledger.key_updates >= 2, "{ledger:?}");
}

#[test]
fn the_secrets_of_another_session_open_nothing() {
    for suite in suites() {
        let mut wire = Wire::new(suite);
        wire.client(b"GET / HTTP/1.1\r\n\r\n");
        wire.server(b"HTTP/1.1 200 OK\r\n\r\n");
        wire.secrets = Wire::new(suite).secrets;
        let (out, ledger) = wire.run(Cut::Nowhere);
        assert_eq!(out, Default::default());
        assert_eq!(ledger.plaintext, 0);
        assert!(ledger.sealed(Sealed::Refused) + ledger.handshake > 0, "{ledger:?}");
    }
}

#[test]
fn of_guesses_those_come_out_that_open_a_session_in_both_directions() {
    for suite in suites() {
        let mut wire = Wire::new(suite);
        wire.client(b"GET / HTTP/1.1\r\n\r\n");
        wire.server(b"HTTP/1.1 200 OK\r\n\r\n");
        let other = Wire::new(suite).secrets;
        let (mut layer, secrets) = wire.waiting();
        if secrets.traffic.is_empty() {
            // TLS 1.2: only keys are searched for.
            continue;
        }
        let mut trial = Trial::default();
        trial.add(None, other.traffic);
        assert!(matches!(layer.fits(&mut trial, 0), Fits::Nothing), "{suite:?}");
        trial.add(Some(7), secrets.traffic.clone());
        assert!(matches!(layer.fits(&mut trial, 0), Fits::Nothing), "{suite:?}: of another session");
        for secret in &secrets.traffic {
            trial.add(None, vec![secret.clone()]);
        }
        let Fits::Both { secrets: found, client } = layer.fits(&mut trial, 0) else {
            panic!("both directions' secrets are there: {suite:?}");
        };
        assert!(client.is_some_and(|client| client.is(secrets.traffic[0].bytes())), "{suite:?}");
        let mut plaintext = Vec::new();
        layer.secrets(&found, &mut |_, piece| {
            if let crate::stream::Content::Bytes(bytes) = piece.content {
                plaintext.extend_from_slice(bytes);
            }
        });
        assert_eq!(plaintext, b"GET / HTTP/1.1\r\n\r\nHTTP/1.1 200 OK\r\n\r\n", "{suite:?}");
        let mut one = Trial::default();
        one.add(None, secrets.traffic[..1].to_vec());
        let mut wire = Wire::new(suite);
        wire.client(b"GET / HTTP/1.1\r\n\r\n");
        let one = wire.waiting().0.fits(&mut one, 0);
        assert!(!matches!(one, Fits::Both { .. }), "{suite:?}: one direction");
    }
}

#[test]
fn a_guess_at_another_session_takes_nothing_of_what_its_own_opens() {
    for suite in suites() {
        let mut wire = Wire::new(suite);
        wire.client(b"GET / HTTP/1.1\r\n\r\n");
        wire.server(b"HTTP/1.1 200 OK\r\n\r\n");
        let (own, other) = (wire.secrets.traffic.clone(), Wire::new(suite).secrets.traffic);
        let [client, server] = own.as_slice() else {
            // TLS 1.2 has none.
            continue;
        };
        // What lies beside is told with it: a pair that is another than meant has one of the two, and the other beside it.
        let exporter = Secret::new(&[0x5a; 48]);
        let shifted = vec![server.clone(), exporter.clone(), client.clone()];
        let earlier = vec![exporter.clone(), client.clone(), Secret::new(&[0; 64]), server.clone()];
        // And of a copy one may be overwritten.
        let damaged = [vec![exporter.clone(), server.clone()], vec![client.clone(), exporter]];
        for own in [own, shifted, earlier] {
            let guesses = [&other, &damaged[0], &own, &damaged[1]].map(Vec::clone);
            wire.secrets = Secrets { guesses: guesses.to_vec(), ..Secrets::default() };
            for after in 0..wire.pieces.len() + 1 {
                wire.secrets_after = after;
                check(&wire, Cut::Nowhere);
                check(&wire, Cut::Every(5));
            }
        }
        wire.secrets = Secrets { guesses: vec![other], ..Secrets::default() };
        wire.secrets_after = 0;
        let (out, ledger) = wire.run(Cut::Nowhere);
        assert_eq!((out, ledger.plaintext), (Default::default(), 0));
        assert!(
            ledger.sealed(Sealed::NoKey) > 0,
            "what waits for its own is not the handshake's: {ledger:?}"
        );
    }
}

/// The keys of both directions, as a library expands them, without IV or salt.
fn keys(wire: &Wire, secrets: &Secrets, suite: &suite::Suite) -> Vec<Vec<u8>> {
    let (hash, length) = (suite.hash, suite.bulk.key_length());
    if suite.version == Version::Tls13 {
        let key = |secret: &Secret| {
            schedule::expand_label(hash, secret.prefix(hash.length()).unwrap(), "key", length).to_vec()
        };
        return secrets.traffic.iter().map(key).collect();
    }
    // The random bytes of both hellos: behind a record's header, a message's and a version.
    let random = |from: Direction| -> Random {
        let (_, bytes) = wire.pieces.iter().find(|(direction, _)| *direction == from).unwrap();
        bytes[11..43].try_into().unwrap()
    };
    let master = secrets.master[0].prefix(48).unwrap();
    let (client, server) = (random(Direction::Receive), random(Direction::Send));
    let block = schedule::key_block(hash, master, &server, &client, 2 * length);
    block.chunks(length).map(Vec::from).collect()
}

fn gcm() -> Vec<(rustls::SupportedCipherSuite, &'static suite::Suite)> {
    let known = |suite: rustls::SupportedCipherSuite| (suite, suite::suite(suite.suite().into()).unwrap());
    let is_gcm = |(_, suite): &(_, &suite::Suite)| {
        matches!(suite.bulk, suite::Bulk::Aes128Gcm | suite::Bulk::Aes256Gcm)
    };
    suites().into_iter().map(known).filter(is_gcm).collect()
}

#[test]
fn keys_without_a_secret_open_a_session_and_find_its_iv_or_salt() {
    let suites = gcm();
    assert_eq!(suites.len(), 4);
    for (offered, suite) in suites {
        for exchanges in [1, 3] {
            let mut wire = Wire::new(offered);
            for _ in 0..exchanges {
                wire.client(b"GET / HTTP/1.1\r\n\r\n");
                wire.server(b"HTTP/1.1 200 OK\r\n\r\n");
            }
            let (mut layer, secrets) = wire.waiting();
            let mut trial = Trial::default();
            let other = Wire::new(offered);
            for key in keys(&other, &other.secrets, suite) {
                trial.add_key(&key);
            }
            trial.add_key(&[0; 16]);
            trial.add_key(b"not a key");
            assert!(matches!(layer.fits(&mut trial, 0), Fits::Nothing), "{suite:?}: of another session");
            let right = keys(&wire, &secrets, suite);
            trial.add_key(&right[0]);
            let one = layer.fits(&mut trial, 0);
            let enough = matches!(one, Fits::Both { .. });
            assert_eq!(enough, suite.version == Version::Tls12, "{suite:?}: one direction");
            let mut trial = Trial::default();
            right.iter().for_each(|key| trial.add_key(key));
            let found = both(layer.fits(&mut trial, 0));
            assert_eq!(found.keys.len(), 2);
            assert!(matches!(layer.fits(&mut trial, 0), Fits::Nothing), "they are taken");
            let mut plaintext = Vec::new();
            layer.secrets(&found, &mut |_, piece| {
                if let crate::stream::Content::Bytes(bytes) = piece.content {
                    plaintext.extend_from_slice(bytes);
                }
            });
            let expected = b"GET / HTTP/1.1\r\n\r\nHTTP/1.1 200 OK\r\n\r\n".repeat(exchanges);
            assert_eq!(plaintext, expected, "{suite:?}");
            assert_eq!(layer.state(), State::Open);
        }
    }
}

fn both(fits: Fits) -> Secrets {
    match fits {
        Fits::Both { secrets, .. } => secrets,
        other => panic!("the keys of both directions are there: {other:?}"),
    }
}

#[test]
fn behind_a_key_update_a_key_without_a_secret_opens_nothing() {
    for (offered, suite) in gcm().into_iter().filter(|(_, suite)| suite.version == Version::Tls13) {
        let mut wire = Wire::new(offered);
        wire.client(b"before");
        wire.server(b"before, too");
        let (layer, secrets) = wire.waiting();
        let mut trial = Trial::default();
        keys(&wire, &secrets, suite).iter().for_each(|key| trial.add_key(key));
        wire.secrets = both(layer.fits(&mut trial, 0));
        wire.update_keys();
        wire.client(b"after");
        wire.server(&[b'x'; 4000]);
        for cut in [Cut::Nowhere, Cut::Headers, Cut::Keep(100)] {
            let (out, ledger) = wire.run(cut);
            assert_eq!(
                (&*out.from_client, &*out.from_server),
                (&b"before"[..], &b"before, too"[..]),
                "{suite:?}"
            );
            assert!(ledger.sealed(Sealed::Refused) > 0, "{ledger:?}");
        }
    }
}

#[test]
fn without_secrets_what_waits_is_bounded_and_counted() {
    let mut wire = Wire::new(suites()[0]);
    for _ in 0..20 {
        wire.client(&[b'x'; 16_000]);
    }
    wire.secrets = Secrets::default();
    let (out, ledger) = wire.run(Cut::Nowhere);
    assert_eq!(out, Default::default());
    assert!(ledger.waiting_cut > 0 && ledger.sealed(Sealed::NoKey) > 300_000, "{ledger:?}");
}

#[test]
fn a_long_record_of_which_the_beginning_is_here_gives_its_beginning() {
    for suite in suites() {
        let mut wire = Wire::new(suite);
        wire.client(b"GET / HTTP/1.1\r\n\r\n");
        wire.server(b"HTTP/1.1 200 OK\r\n\r\n");
        wire.client(b"GET / HTTP/1.1\r\n\r\n");
        let body: Vec<u8> = (0..16_000u32).map(|n| (n % 251) as u8).collect();
        wire.server(&body);
        wire.client(b"GET /next HTTP/1.1\r\n\r\n");
        wire.server(b"HTTP/1.1 404 Not Found\r\n\r\n");
        let (out, ledger) = wire.run(Cut::Keep(300));
        let server = String::from_utf8_lossy(&out.from_server);
        assert!(server.ends_with("HTTP/1.1 404 Not Found\r\n\r\n"), "{suite:?} {ledger:?}");
        assert!(out.from_server.windows(200).any(|bytes| bytes == &body[..200]), "{suite:?} {ledger:?}");
        assert_eq!(out.gaps, [(GapCause::Limit, 16_000 - out.long_kept(&body))], "{suite:?}");
        assert!(ledger.on_trust > 0);
    }
}

#[test]
fn of_records_of_which_the_header_is_here_the_length_is_known_and_nothing_else() {
    for suite in suites() {
        let mut wire = Wire::new(suite);
        wire.client(b"GET / HTTP/1.1\r\n\r\n");
        wire.server(b"HTTP/1.1 200 OK\r\n\r\n");
        for _ in 0..100 {
            wire.server(&[b'x'; 16_000]);
        }
        wire.client(b"GET /next HTTP/1.1\r\n\r\n");
        wire.server(b"HTTP/1.1 404 Not Found\r\n\r\n");
        let (out, ledger) = wire.run(Cut::Headers);
        assert_eq!(out.from_server, b"HTTP/1.1 200 OK\r\n\r\nHTTP/1.1 404 Not Found\r\n\r\n", "{suite:?}");
        assert_eq!(out.gaps, [(GapCause::Limit, 16_000); 100], "{suite:?} {ledger:?}");
        assert_eq!(ledger.sealed(Sealed::Unproven), 0, "{suite:?} {ledger:?}");
    }
}

#[test]
fn after_a_gap_over_whole_records_the_next_is_found_by_its_tag() {
    for suite in suites() {
        let mut wire = Wire::new(suite);
        wire.client(b"GET / HTTP/1.1\r\n\r\n");
        wire.server(b"HTTP/1.1 200 OK\r\n\r\n");
        for _ in 0..3 {
            let place = wire.client(b"GET /lost HTTP/1.1\r\n\r\n");
            wire.lose(place);
        }
        wire.client(b"GET /found HTTP/1.1\r\n\r\n");
        let (out, ledger) = wire.run(Cut::Nowhere);
        assert_eq!(out.from_client, b"GET / HTTP/1.1\r\n\r\nGET /found HTTP/1.1\r\n\r\n", "{suite:?}");
        assert_eq!(out.gaps.iter().map(|(cause, _)| *cause).collect::<Vec<_>>(), [GapCause::Torn; 3]);
        assert_eq!(ledger.resynchronised, 1, "{suite:?} {ledger:?}");
    }
}

#[test]
fn a_record_that_was_changed_on_the_way_is_refused_and_the_next_is_not() {
    for suite in suites() {
        let mut wire = Wire::new(suite);
        wire.client(b"one");
        wire.server(b"two");
        let place = wire.client(b"three");
        wire.spoil(place);
        wire.client(b"four");
        let (out, ledger) = wire.run(Cut::Nowhere);
        assert_eq!(out.from_client, b"onefour", "{suite:?}");
        assert!(ledger.sealed(Sealed::Refused) > 0);
    }
}

#[test]
fn both_ends_give_each_byte_the_same_place() {
    let mut wire = Wire::new(suites()[0]);
    wire.client(b"GET / HTTP/1.1\r\n\r\n");
    wire.server(b"HTTP/1.1 200 OK\r\n\r\n");
    let (one, _) = wire.run(Cut::Nowhere);
    let (other, _) = wire.run(Cut::Every(7));
    assert_eq!(one.places, other.places);
}

#[test]
fn what_only_looks_like_tls_at_first_is_given_back_as_missing() {
    let mut layer = Layer::default();
    let moment = testing::moment(1);
    let mut said = Vec::new();
    for (offset, bytes) in [(0, &b"\x16\x03\x01"[..]), (3, b"\xff\xffhello"), (10, b"plain")] {
        let piece = testing::piece(offset, Content::Bytes(bytes), &moment);
        layer.piece(Direction::Receive, &piece, May::Begin, &mut |_, piece| {
            said.push(format!("{} {:?}", piece.offset, piece.content));
        });
    }
    assert_eq!(
        said,
        ["0 Gap { length: 10, cause: Unseen }".to_owned(), format!("10 {:?}", Content::Bytes(b"plain"))]
    );
    assert_eq!((layer.ledger().mistaken, layer.ledger().sessions), (1, 0));
    assert!(layer.ledger().balances());
}

#[test]
fn a_byte_that_could_begin_tls_begins_none_where_something_else_is_spoken() {
    let mut layer = Layer::default();
    let moment = testing::moment(1);
    let piece = testing::piece(0, Content::Bytes(b"\x16\x03\x01\x00\x05\x01"), &moment);
    let mut passed = 0;
    layer.piece(Direction::Send, &piece, May::NotBegin, &mut |_, _| passed += 1);
    assert_eq!((passed, layer.state()), (1, State::Plain));
}

#[test]
fn what_was_agreed_on_is_told() {
    for suite in suites() {
        let wire = Wire::new(suite);
        let agreed = wire.agreed();
        let expected = format!("{:?}", suite.suite()).replace("TLS13_", "TLS_");
        assert_eq!(agreed.cipher.map(str::to_owned), Some(expected));
        assert!(agreed.version.is_some());
    }
}

#[test]
fn a_session_that_is_older_than_we_are_is_read_from_where_we_met_it() {
    // AES-GCM tells the number, however high; where numbers are tried, it must be low, above all in a build that is not optimised.
    for (name, age) in [("13_AES_128", 5_000), ("13_AES_256", 5_000), ("13_CHACHA20", 15)] {
        let named = |suite: &rustls::SupportedCipherSuite| format!("{:?}", suite.suite()).contains(name);
        let suite = suites().into_iter().find(named).unwrap();
        let mut wire = Wire::new(suite);
        for number in 0..age + 5 {
            wire.client(format!("GET /{number} ").as_bytes());
            wire.server(format!("200 {number} ").as_bytes());
        }
        wire.seen_from = wire.handshake + 2 * age;
        let (out, ledger) = wire.run(Cut::Nowhere);
        let all = |verb: &str| (age..age + 5).map(|number| format!("{verb}{number} ")).collect::<String>();
        assert_eq!(String::from_utf8_lossy(&out.from_client), all("GET /"), "{name} {ledger:?}");
        assert_eq!(String::from_utf8_lossy(&out.from_server), all("200 "), "{name} {ledger:?}");
        wire.pieces.truncate(wire.seen_from + 1);
        wire.secrets = Wire::new(suite).secrets;
        let (out, ledger) = wire.run(Cut::Nowhere);
        assert_eq!((out, ledger.plaintext), Default::default(), "another session's");
    }
}

#[test]
fn secrets_of_an_older_session_may_come_after_another_s_were_tried_in_vain() {
    let mut wire = Wire::new(suites()[0]);
    for number in 0..40 {
        wire.client(format!("GET /{number} ").as_bytes());
    }
    wire.mistaken = Some(Wire::new(suites()[0]).secrets);
    wire.seen_from = wire.handshake;
    wire.secrets_after = wire.handshake + 35;
    let (out, ledger) = wire.run(Cut::Nowhere);
    assert_eq!(
        String::from_utf8_lossy(&out.from_client),
        "GET /35 GET /36 GET /37 GET /38 GET /39 ",
        "{ledger:?}"
    );
}
