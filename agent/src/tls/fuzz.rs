//! What must hold for any bytes, cut and interrupted anyhow: the bodies of the fuzz targets.
//!
//! They assert invariants: the books balance after every step, memory is bounded, what comes out never goes
//! back, nothing comes out of a session without its key, and cuts change nothing. They depend on nothing but their argument.

use super::handshake::{Hello, MAX_HELLO, Reader};
use super::record::{Framed, Framer, MAX_BODY};
use super::testing::moment;
use super::{Fits, Layer, MAX_WAITING_BYTES, May, Secret, Secrets, Trial};
use crate::identity::Direction;
use crate::stream::{Content, GapCause, Piece};

/// Drives a layer by an arbitrary sequence of operations: one byte that says what to do and how much, then
/// the bytes of its piece.
#[doc(hidden)]
pub fn fuzz_layer(data: &[u8]) {
    let mut layer = Layer::default();
    let (mut offsets, mut reached) = ([0u64; 2], [0u64; 2]);
    let (mut came, mut went, mut missing) = (0u64, 0u64, 0u64);
    let mut rest = data;
    while let Some((&operation, after)) = rest.split_first() {
        rest = after;
        let which = usize::from(operation & 1);
        let direction = if which == 0 { Direction::Receive } else { Direction::Send };
        let amount = usize::from(operation >> 4);
        let mut out = |direction: Direction, piece: Piece<'_>| {
            let reached = &mut reached[usize::from(direction == Direction::Send)];
            assert!(piece.offset >= *reached, "{} goes back behind {reached}", piece.offset);
            match piece.content {
                Content::Bytes(bytes) => {
                    *reached = piece.offset + bytes.len() as u64;
                    went += bytes.len() as u64;
                }
                Content::Gap { cause: GapCause::Framing, .. } => {}
                Content::Gap { length, .. } => {
                    *reached = piece.offset + length;
                    missing += length;
                }
            }
        };
        let moment = moment(came);
        let length = match operation >> 1 & 7 {
            0..=2 => amount,
            3 | 4 => amount * 64,
            _ => 0,
        };
        let offset = offsets[which];
        match operation >> 1 & 7 {
            0..=4 => {
                let (bytes, after) = rest.split_at(length.min(rest.len()));
                rest = after;
                let content = Content::Bytes(bytes);
                let piece = Piece {
                    offset,
                    content,
                    starts_call: operation & 2 == 0,
                    ends_call: false,
                    moment: &moment,
                };
                layer.piece(direction, &piece, May::Begin, &mut out);
                offsets[which] += bytes.len() as u64;
                came += bytes.len() as u64;
            }
            5 | 6 => {
                let length = 1 << amount;
                let content = Content::Gap { length, cause: GapCause::Limit };
                let piece = Piece { offset, content, starts_call: false, ends_call: false, moment: &moment };
                layer.piece(direction, &piece, May::Begin, &mut out);
                offsets[which] += length;
                came += length;
            }
            _ => {
                let mut trial = Trial::default();
                trial.add_key(&[operation; 16]);
                trial.add_key(&[operation; 32]);
                match layer.fits(&mut trial, 0) {
                    Fits::Both { secrets, .. } => {
                        assert!(secrets.traffic.is_empty() && !secrets.keys.is_empty())
                    }
                    Fits::OneDirection(_) => panic!("there is no guess"),
                    Fits::Nothing => {}
                }
                let secret = Secret::new(&[operation; 48]);
                let key = Secret::new(&[operation; 44]);
                let secrets = Secrets {
                    guesses: vec![vec![secret.clone(), key.clone()]],
                    traffic: vec![secret.clone()],
                    master: vec![secret],
                    keys: vec![key],
                };
                layer.secrets(&secrets, &mut out);
            }
        }
        let ledger = layer.ledger();
        assert_eq!(ledger.moved, came);
        assert!(ledger.balances(), "{ledger:?}");
        assert_eq!(ledger.passed + ledger.plaintext + ledger.missing, went + missing, "{ledger:?}");
        assert_eq!(ledger.plaintext, 0, "no key is known");
    }
    layer.close();
    let ledger = layer.ledger();
    assert!(ledger.balances() && ledger.held == 0, "{ledger:?}");
}

/// What the record layer says does not depend on where its bytes are cut, and it keeps no more than a record.
#[doc(hidden)]
pub fn fuzz_records(data: &[u8]) {
    let read = |cut: usize| {
        let (mut framer, mut records, mut lost) = (Framer::aligned(0), Vec::new(), 0);
        let moment = moment(0);
        let (one, two) = data.split_at(cut);
        for (offset, bytes) in [(0, one), (cut as u64, two)] {
            let piece = Piece {
                offset,
                content: Content::Bytes(bytes),
                starts_call: offset == 0,
                ends_call: false,
                moment: &moment,
            };
            framer.piece(&piece, &mut |framed| match framed {
                Framed::Record(record) => records.push((record.offset, record.header, record.body)),
                Framed::Lost { length, .. } => lost += length,
            });
            assert!(framer.held() <= (super::record::HEADER + MAX_BODY) as u64);
        }
        let moved: u64 = records.iter().map(|(_, _, body)| 5 + body.len() as u64).sum();
        assert_eq!(moved + lost + framer.held(), data.len() as u64);
        records
    };
    let whole = read(0);
    assert_eq!(read(data.len() / 2), whole);
    assert_eq!(read(data.len().min(3)), whole);
}

/// What the handshake reader says does not depend on cuts, and it keeps no more than a hello.
#[doc(hidden)]
pub fn fuzz_handshake(data: &[u8]) {
    let read = |size: usize| {
        let (mut reader, mut hellos): (_, Vec<Hello>) = (Reader::default(), Vec::new());
        for bytes in data.chunks(size.max(1)) {
            reader.bytes(bytes, &mut |hello| hellos.push(hello));
            assert!(reader.held() <= MAX_HELLO);
        }
        hellos
    };
    let whole = read(data.len());
    assert_eq!(read(1), whole);
    assert_eq!(read(7), whole);
}

const _: () = assert!(MAX_WAITING_BYTES >= MAX_BODY);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bodies_hold_on_seeds() {
        let seeds: [&[u8]; 6] = [
            b"",
            b"\x60\x16\x03\x01\x00\x02a\x60bcdefg",
            b"\x06\x16\x03\x01\x00\x30\x01\x00\x00\x2c\x03\x03",
            b"\x2a\x60\x16\x03\x03\x00\x05\x17\x03\x03\x00\x01a\x0e",
            b"\x01\x00\x00\x2c\x03\x03aaaaaaaabbbbbbbbccccccccdddddddd\x00\x00\x02\x13\x01\x01\x00\x00\x00",
            &[0x16; 300],
        ];
        for seed in seeds {
            fuzz_layer(seed);
            fuzz_records(seed);
            fuzz_handshake(seed);
        }
        // A cheap sequence of everything.
        let mut state = 1u32;
        for _ in 0..300 {
            let bytes: Vec<u8> = (0..400)
                .map(|_| {
                    state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                    match state >> 29 {
                        0 => 0x16,
                        1 => 0x03,
                        2 => 0x00,
                        3 => 0x17,
                        _ => (state >> 16) as u8,
                    }
                })
                .collect();
            fuzz_layer(&bytes);
            fuzz_records(&bytes);
            fuzz_handshake(&bytes);
        }
    }
}
