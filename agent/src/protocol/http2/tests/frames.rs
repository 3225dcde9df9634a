//! Frames of a correct encoder, cut anywhere; a late join by a chain; what is no HTTP/2; and the fuzz bodies on seeds.

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::encode::{Encoder, Style, frame};
use crate::protocol::http2::fuzz::{fuzz_cuts, fuzz_hpack, fuzz_parser, run};
use crate::protocol::http2::{Event, Malformed, PREFACE, Parser, Start};

/// A stream as a client could write it: calls with messages of any length, control frames between them.
fn client(random: &mut StdRng, calls: u32, longest: usize) -> Vec<u8> {
    let mut encoder = Encoder::new(Style { huffman: random.random(), ..Style::default() });
    let mut out = Vec::new();
    for call in 0..calls {
        let stream = 2 * call + 1;
        if random.random_ratio(1, 20) {
            encoder.resize(random.random_range(0..8192));
        }
        let path = format!("/bench.Echo/Method{}", random.random_range(0..50));
        let many: Vec<(String, String)> = (0..if random.random_ratio(1, 10) { 100 } else { 0 })
            .map(|key| (format!("key-{key}"), "v".repeat(random.random_range(0..400))))
            .collect();
        let mut fields = vec![(":method", "POST"), (":scheme", "http"), (":path", &path)];
        fields.extend(many.iter().map(|(name, value)| (name.as_str(), value.as_str())));
        let block = encoder.block(&fields);
        let mut parts: Vec<&[u8]> = block.chunks(16_384).collect();
        let last = parts.pop().unwrap_or_default();
        match parts.split_first() {
            None => out.extend(frame(1, 4, stream, last)),
            Some((first, rest)) => {
                out.extend(frame(1, 0, stream, first));
                rest.iter().for_each(|part| out.extend(frame(9, 0, stream, part)));
                out.extend(frame(9, 4, stream, last));
            }
        }
        if random.random_ratio(1, 3) {
            out.extend(frame(6, 0, 0, &random.random::<[u8; 8]>()));
            out.extend(frame(8, 0, 0, &[0, 0, 1, 0]));
        }
        let message: Vec<u8> = (0..random.random_range(0..=longest)).map(|_| random.random()).collect();
        let mut parts: Vec<&[u8]> = message.chunks(16_384).collect();
        let last = parts.pop().unwrap_or_default();
        parts.iter().for_each(|part| out.extend(frame(0, 0, stream, part)));
        out.extend(frame(0, 1, stream, last));
    }
    out
}

#[test]
fn frames_cut_anywhere_say_the_same() {
    let mut random = StdRng::seed_from_u64(1);
    for _ in 0..30 {
        let stream = client(&mut random, 12, 300);
        let whole = run(Start::Frame, [&stream[..]]);
        assert!(whole.iter().all(|event| !event.starts_with("Lost")), "{whole:?}");
        assert_eq!(run(Start::Frame, stream.chunks(1)), whole);
        for _ in 0..20 {
            let (mut rest, mut pieces) = (&stream[..], Vec::new());
            while !rest.is_empty() {
                let (piece, after) = rest.split_at(random.random_range(1..=rest.len().min(500)));
                pieces.push(piece);
                rest = after;
            }
            assert_eq!(run(Start::Frame, pieces), whole);
        }
    }
}

#[test]
fn a_chain_ends_where_a_frame_ends_wherever_one_joins() {
    let mut random = StdRng::seed_from_u64(2);
    let (mut joins, mut found) = (0, 0);
    for longest in [30, 300, 40_000] {
        let stream = client(&mut random, 60, longest);
        // The boundaries of a reader from birth.
        let mut boundaries = std::collections::HashSet::new();
        let mut at = 0;
        while at < stream.len() {
            boundaries.insert(at as u64);
            at += 9
                + usize::from(stream[at]) * 65_536
                + usize::from(stream[at + 1]) * 256
                + usize::from(stream[at + 2]);
        }
        for _ in 0..300 {
            let join = random.random_range(0..stream.len() / 2);
            let mut parser = Parser::new(Start::Late, join as u64);
            let mut aligned = None;
            let length = random.random_range(1..4_096);
            for (number, piece) in stream[join..].chunks(length).enumerate() {
                parser.bytes((join + number * length) as u64, piece, &mut |event| {
                    if let Event::Aligned { offset } = event {
                        aligned.get_or_insert(offset);
                    }
                });
                if aligned.is_some() {
                    break;
                }
            }
            joins += 1;
            if let Some(offset) = aligned {
                found += 1;
                let end = stream.len() as u64;
                assert!(
                    offset == end || boundaries.contains(&offset),
                    "{offset} is no boundary, joined at {join}"
                );
            }
        }
    }
    assert!(found * 100 >= joins * 95, "{found} of {joins}");
}

#[test]
fn text_is_no_http2() {
    let mut parser = Parser::new(Start::Preface, 0);
    let mut lost = None;
    parser.bytes(0, b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", &mut |event| {
        if let Event::Lost { offset, why } = event {
            lost = Some((offset, why));
        }
    });
    assert_eq!(lost, Some((0, Malformed::Preface)));
}

#[test]
fn the_fuzz_bodies_hold_on_seeds() {
    let mut random = StdRng::seed_from_u64(3);
    for round in 0..60u8 {
        let mut stream = client(&mut random, 3, 50);
        if round % 2 == 0 {
            for _ in 0..3 {
                let at = random.random_range(0..stream.len());
                stream[at] = random.random();
            }
        }
        let mut seed = vec![round];
        if round % 3 == 0 {
            seed.push(4);
            seed.extend(PREFACE);
        }
        seed.extend(&stream);
        fuzz_parser(&seed);
        fuzz_cuts(&[&[round], &stream[..]].concat());
        fuzz_hpack(&stream);
    }
}
