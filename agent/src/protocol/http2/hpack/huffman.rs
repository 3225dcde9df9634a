//! Huffman-coded strings of HPACK (RFC 7541 §5.2 and appendix B), half a byte at a time.
//!
//! The code is canonical: lengths alone give it, so the lengths are all that is written down, and the compiler
//! makes the table of the automaton from them (256 states, one for each inner node of the tree; at most one symbol
//! in four bits, since the shortest code has five). It must never yield more than eight fifths of what went in.

use super::super::Malformed;

/// Appends the decoded string to `out`. Padding that is not the beginning of EOS, or longer than seven bits,
/// is an error, and so is EOS itself (§5.2).
pub fn decode(encoded: &[u8], out: &mut Vec<u8>) -> Result<(), Malformed> {
    let mut state = 0u8;
    for &byte in encoded {
        for nibble in [byte >> 4, byte & 15] {
            let Some(step) = AUTOMATON.get(usize::from(state) * 16 + usize::from(nibble)) else {
                return Err(Malformed::Huffman);
            };
            match step.what {
                What::Nothing => {}
                What::Symbol => out.push(step.symbol),
                What::Broken => return Err(Malformed::Huffman),
            }
            state = step.next;
        }
    }
    match PADDING.contains(&state) {
        true => Ok(()),
        false => Err(Malformed::Huffman),
    }
}

/// What four bits do in one state.
#[derive(Clone, Copy)]
struct Step {
    next: u8,
    symbol: u8,
    what: What,
}

#[derive(Clone, Copy)]
enum What {
    Nothing,
    Symbol,
    Broken,
}

/// The symbol that must not occur (§5.2).
const EOS: usize = 256;

/// Leaves of the tree are numbered from here on.
const LEAF: u16 = 256;

static AUTOMATON: [Step; 256 * 16] = automaton();
/// The states after no to seven bits of padding.
static PADDING: [u8; 8] = padding();

/// The codes, by symbol: what `tree` and an encoder need.
pub(in crate::protocol::http2) const fn codes() -> [(u32, u8); 257] {
    let mut codes = [(0u32, 0u8); 257];
    let (mut code, mut length) = (0u32, 1u8);
    while length <= 30 {
        let mut symbol = 0;
        while symbol < 257 {
            if LENGTHS[symbol] == length {
                codes[symbol] = (code, length);
                code += 1;
            }
            symbol += 1;
        }
        code <<= 1;
        length += 1;
    }
    codes
}

const fn tree() -> [[u16; 2]; 256] {
    let codes = codes();
    let mut tree = [[0u16; 2]; 256];
    let (mut made, mut symbol) = (1u16, 0);
    while symbol < 257 {
        let (code, length) = codes[symbol];
        let (mut node, mut bit) = (0usize, length);
        while bit > 1 {
            bit -= 1;
            let side = (code >> bit & 1) as usize;
            if tree[node][side] == 0 {
                tree[node][side] = made;
                made += 1;
            }
            node = tree[node][side] as usize;
        }
        tree[node][(code & 1) as usize] = LEAF + symbol as u16;
        symbol += 1;
    }
    tree
}

const fn automaton() -> [Step; 256 * 16] {
    let tree = tree();
    let mut steps = [Step { next: 0, symbol: 0, what: What::Nothing }; 256 * 16];
    let mut at = 0;
    while at < steps.len() {
        let mut node = (at / 16) as u16;
        let mut bit = 4;
        while bit > 0 {
            bit -= 1;
            node = tree[node as usize][at >> bit & 1];
            if node == LEAF + EOS as u16 {
                steps[at].what = What::Broken;
                node = 0;
            } else if node >= LEAF {
                if let What::Nothing = steps[at].what {
                    steps[at].what = What::Symbol;
                    steps[at].symbol = (node - LEAF) as u8;
                }
                node = 0;
            }
        }
        steps[at].next = node as u8;
        at += 1;
    }
    steps
}

const fn padding() -> [u8; 8] {
    let tree = tree();
    let mut states = [0u8; 8];
    let mut bits = 1;
    while bits < 8 {
        states[bits] = tree[states[bits - 1] as usize][1] as u8;
        bits += 1;
    }
    states
}

/// How many bits the code of each symbol has, EOS last (RFC 7541, appendix B).
#[rustfmt::skip]
const LENGTHS: [u8; 257] = [
    13, 23, 28, 28, 28, 28, 28, 28, 28, 24, 30, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 30, 28, 28, 28,
    28, 28, 28, 28, 28, 28, 6, 10, 10, 12, 13, 6, 8, 11, 10, 10, 8, 11, 8, 6, 6, 6, 5, 5, 5, 6, 6, 6, 6, 6,
    6, 6, 7, 8, 15, 6, 12, 10, 13, 6, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 8,
    7, 8, 13, 19, 13, 14, 6, 15, 5, 6, 5, 6, 5, 6, 6, 6, 5, 7, 7, 6, 6, 6, 5, 6, 7, 6, 5, 5, 6, 7, 7, 7, 7,
    7, 15, 11, 14, 13, 28, 20, 22, 20, 20, 22, 22, 22, 23, 22, 23, 23, 23, 23, 23, 24, 23, 24, 24, 22, 23,
    24, 23, 23, 23, 23, 21, 22, 23, 22, 23, 23, 24, 22, 21, 20, 22, 22, 23, 23, 21, 23, 22, 22, 24, 21, 22,
    23, 23, 21, 21, 22, 21, 23, 22, 23, 23, 20, 22, 22, 22, 23, 22, 22, 23, 26, 26, 20, 19, 22, 23, 22, 25,
    26, 26, 26, 27, 27, 26, 24, 25, 19, 21, 26, 27, 27, 26, 27, 24, 21, 21, 26, 26, 28, 27, 27, 27, 20, 24,
    20, 21, 22, 21, 21, 23, 22, 22, 25, 25, 24, 24, 26, 23, 26, 27, 26, 26, 27, 27, 27, 27, 27, 28, 27, 27,
    27, 27, 27, 26, 30,
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::http2::tests::encode::huffman;

    #[track_caller]
    fn check(encoded: &[u8], want: Result<&str, Malformed>) {
        let mut out = Vec::new();
        let got = decode(encoded, &mut out).map(|()| String::from_utf8_lossy(&out).into_owned());
        assert_eq!(got, want.map(str::to_owned), "{encoded:02x?}");
    }

    #[test]
    fn every_byte_survives_its_code() {
        let all: Vec<u8> = (0..=255).chain((0..=255).rev()).collect();
        for length in 0..all.len() {
            let mut out = Vec::new();
            decode(&huffman(&all[..length]), &mut out).unwrap();
            assert_eq!(out, all[..length]);
        }
    }

    #[test]
    fn the_code_is_that_of_the_appendix() {
        let codes = codes();
        assert_eq!(codes[usize::from(b'0')], (0x0, 5));
        assert_eq!(codes[usize::from(b'z')], (0x7b, 7));
        assert_eq!(codes[0], (0x1ff8, 13));
        assert_eq!(codes[255], (0x3ffffee, 26));
        assert_eq!(codes[EOS], (0x3fffffff, 30));
        check(b"\xf1\xe3\xc2\xe5\xf2\x3a\x6b\xa0\xab\x90\xf4\xff", Ok("www.example.com"));
    }

    #[test]
    fn padding_is_the_beginning_of_eos_and_shorter_than_a_byte() {
        check(b"\x1f", Ok("a"));
        check(b"\x1e", Err(Malformed::Huffman));
        check(b"\x1f\xff", Err(Malformed::Huffman));
        check(b"\xff\xff\xff\xff", Err(Malformed::Huffman));
        check(b"\xff", Err(Malformed::Huffman));
    }
}
