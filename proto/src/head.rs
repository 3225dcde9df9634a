//! Whether a block of bytes holds an empty line, eight bytes at a time and without a branch.
//!
//! The kernel side asks this of whole blocks to know whether a head may go on behind them. It may say
//! yes where a body happens to hold an empty line; it must never say no where there is one.

/// Bytes by which two windows overlap, so that no empty line (at most `\n\r\n`) falls between them.
pub const STEP: usize = 6;

/// 0 unless one of the windows that were folded into it holds `\n\n` or `\n\r\n`.
#[inline(always)]
pub const fn empty_line(window: u64) -> u64 {
    let newline = equal(window, 0x0a0a_0a0a_0a0a_0a0a);
    let carriage = equal(window, 0x0d0d_0d0d_0d0d_0d0d);
    (newline & (newline >> 8)) | (newline & (carriage >> 8) & (newline >> 16))
}

/// The top bit of each byte in which `a` and `b` are equal. Exact: no carry crosses a byte.
#[inline(always)]
const fn equal(a: u64, b: u64) -> u64 {
    const LOW: u64 = 0x7f7f_7f7f_7f7f_7f7f;
    let x = a ^ b;
    !(((x & LOW) + LOW) | x | LOW)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(bytes: &[u8]) -> bool {
        let mut any = 0;
        let mut at = 0;
        while at + 8 <= bytes.len() {
            let mut window = [0; 8];
            window.copy_from_slice(&bytes[at..at + 8]);
            any |= empty_line(u64::from_le_bytes(window));
            at += STEP;
        }
        any != 0
    }

    #[test]
    fn an_empty_line_is_found_wherever_it_stands() {
        for line in ["\r\n\r\n", "\n\n", "\n\r\n"] {
            for at in 0..60 {
                let mut block = [b'x'; 68];
                block[at..at + line.len()].copy_from_slice(line.as_bytes());
                assert!(found(&block), "{line:?} at {at}");
            }
        }
    }

    #[test]
    fn lines_that_are_not_empty_are_not_found() {
        assert!(!found(b"GET / HTTP/1.1\r\nHost: a\r\nX: \x0b\x0c\r\n y\r\nnext\r\n.."));
        assert!(!found(&[b'\r'; 80]));
        assert!(!found(&[0x0b; 80]));
    }
}
