//! What must hold for any bytes: the body of the fuzz target.
//!
//! The same bytes, cut differently, say the same, and the books balance. It must never depend on anything but its argument.

use super::{Event, MAX_PARAMS, Parser};
use crate::protocol::http1::Side;

/// The first byte says which side this is and how the rest is cut; `0xfe` in it begins a gap as long as the next byte says.
#[doc(hidden)]
pub fn fuzz_parser(data: &[u8]) {
    let Some((&first, data)) = data.split_first() else { return };
    let side = if first & 1 == 0 { Side::Requests } else { Side::Responses };
    let whole = run(side, data, usize::MAX);
    let cut = run(side, data, usize::from(first >> 1).max(1));
    assert_eq!(whole, cut);
}

/// What is said, with bodies added up.
fn run(side: Side, data: &[u8], size: usize) -> String {
    let (mut parser, mut said, mut offset) = (Parser::new(side), String::new(), 0u64);
    let mut body = 0u64;
    let mut emit = |event: Event| match event {
        Event::RequestBody(bytes) | Event::ResponseBody(bytes) => body += bytes,
        event => said.push_str(&format!("{body} {event:?}\n")),
    };
    for (number, part) in data.split(|&byte| byte == 0xfe).enumerate() {
        let part = match (number, part.split_first()) {
            (1.., Some((&length, rest))) => {
                parser.gap(u64::from(length), &mut emit);
                offset += u64::from(length);
                rest
            }
            _ => part,
        };
        for chunk in part.chunks(size) {
            parser.bytes(offset, chunk, &mut emit);
            offset += chunk.len() as u64;
            assert!(parser.held_bytes() <= MAX_PARAMS);
            assert!(parser.ledger().balances(), "{:?}", parser.ledger());
        }
    }
    format!("{said}{:?}", parser.ledger())
}

#[cfg(test)]
mod tests {
    use super::super::tests::{REQUEST, RESPONSE};
    use super::*;

    #[test]
    fn the_body_holds_on_seeds() {
        for first in 0..=255u8 {
            for message in [REQUEST, RESPONSE] {
                fuzz_parser(&[&[first], message].concat());
                fuzz_parser(&[&[first], message, &[0xfe, first], message].concat());
                for end in 0..message.len() {
                    fuzz_parser(&[&[first], &message[..end], &[0xfe, 3], message].concat());
                }
            }
        }
    }
}
