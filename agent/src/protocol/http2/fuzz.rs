//! What must hold for any bytes, cut and interrupted anyhow: the bodies of the fuzz targets.
//!
//! They assert invariants, not just that nothing panics: memory is bounded, the books balance after every step, and cuts
//! change nothing. They must never depend on anything but their argument, so that a crash is a seed.

use super::hpack::{Decoder, Joined, MAX_TABLE};
use super::{Event, MAX_BLOCK, MAX_FIELDS, Parser, Start};

/// Drives a parser by an arbitrary sequence of operations: the first byte chooses how it starts, then each operation is
/// one byte that says what to do (and how much), followed by the bytes of its piece.
#[doc(hidden)]
pub fn fuzz_parser(data: &[u8]) {
    let Some((&first, mut rest)) = data.split_first() else { return };
    let start = match first % 3 {
        0 => Start::Preface,
        1 => Start::Frame,
        _ => Start::Late,
    };
    let begins = u64::from(first) << 20;
    let mut parser = Parser::new(start, begins);
    let mut offset = begins;
    while let Some((&operation, after)) = rest.split_first() {
        rest = after;
        let length = usize::from(operation >> 3);
        match operation & 7 {
            0..=4 => {
                let length = match operation & 7 {
                    0 | 1 => length,
                    2 | 3 => length * 16,
                    _ => rest.len(),
                };
                let (piece, after) = rest.split_at(length.min(rest.len()));
                rest = after;
                parser.bytes(offset, piece, &mut |event| check(&event));
                offset += piece.len() as u64;
            }
            5 => {
                let length = 1u64 << (length * 2 % 50);
                parser.gap(offset, length, &mut |event| check(&event));
                offset += length;
            }
            6 => {
                parser.gap(offset, length as u64, &mut |event| check(&event));
                offset += length as u64;
            }
            _ if length == 0 => parser.close(),
            _ => {}
        }
        check_books(&parser, offset - begins);
    }
}

/// What a parser says does not depend on how many pieces the bytes came in.
#[doc(hidden)]
pub fn fuzz_cuts(data: &[u8]) {
    let Some((&first, stream)) = data.split_first() else { return };
    let start = if first & 1 == 0 { Start::Frame } else { Start::Late };
    let whole = run(start, [stream]);
    let cut = usize::from(first).wrapping_mul(31) % (stream.len() + 1);
    let (one, two) = stream.split_at(cut);
    assert_eq!(run(start, [one, two]), whole, "cut at byte {cut}");
    assert_eq!(run(start, stream.chunks(1)), whole, "cut into single bytes");
}

/// Any blocks, read by a late and by an early reader: never more than the bounds, and where both know a line, the same.
#[doc(hidden)]
pub fn fuzz_hpack(data: &[u8]) {
    let (mut early, mut late) = (Decoder::new(Joined::AtBirth), Decoder::new(Joined::Late));
    let mut aligned = true;
    for block in data.split(|&byte| byte == 0xf7) {
        let (mut one, mut two) = (Vec::new(), Vec::new());
        let read = early.decode(block, &mut |line| one.push((line.field, format!("{:?}", line.value))));
        let other = late.decode(block, &mut |line| two.push((line.field, format!("{:?}", line.value))));
        aligned &= read.is_ok() && other.is_ok();
        if aligned {
            assert_eq!(one, two);
        }
        assert!(early.bytes() <= MAX_TABLE && late.bytes() <= MAX_TABLE);
    }
}

/// The events of bytes that came in these pieces, as text; DATA joined.
pub(super) fn run<'a>(start: Start, pieces: impl IntoIterator<Item = &'a [u8]>) -> Vec<String> {
    let mut parser = Parser::new(start, 0);
    let (mut events, mut offset) = (Vec::new(), 0);
    let mut data = 0u64;
    for piece in pieces {
        parser.bytes(offset, piece, &mut |event| {
            check(&event);
            match event {
                Event::Data { bytes, .. } => data += bytes.len() as u64,
                event => {
                    if data > 0 {
                        events.push(format!("{} of data", std::mem::take(&mut data)));
                    }
                    events.push(format!("{event:?}"));
                }
            }
        });
        offset += piece.len() as u64;
        check_books(&parser, offset);
    }
    events
}

fn check(event: &Event<'_>) {
    if let Event::Section { section, .. } = event {
        assert!(section.fields.0.len() <= MAX_FIELDS);
    }
}

fn check_books(parser: &Parser, came: u64) {
    let ledger = parser.ledger();
    assert_eq!(ledger.bytes + ledger.gap, came, "what came in is not what was given: {ledger:?}");
    assert!(ledger.balances(), "the books do not balance: {ledger:?}");
    assert!(parser.held_bytes() <= MAX_BLOCK + MAX_TABLE, "too much is held");
}
