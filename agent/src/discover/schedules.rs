//! Expanded keys of AES: memory in, the keys whose schedules stand in it out.
//!
//! Whoever encrypts with AES expands the key once and keeps all round keys, one behind the other: each word is a function of
//! those before it (FIPS 197 §5.2). So a schedule is known by itself, whoever made it: 40 words of it must fit, which other
//! bytes do once in 2¹²⁸⁰. Some keep its words as they are written (Go, OpenSSL and its kin, ring), some as numbers of the
//! machine (Java's `int[]`). The way is that of "Lest We Remember" (Halderman and others, 2008).
//!
//! A key is no session's secret until a record proves it. Nothing here reads a process, or keeps what it is shown.

use zeroize::Zeroizing;

/// Bytes of the longest schedule that is looked for: AES-256.
pub const LONGEST: usize = 240;

/// A key of 16 or 32 bytes.
pub type Key = Zeroizing<Vec<u8>>;

/// Schedules begin at multiples of this: their words have 4 bytes, and what allocates them keeps them aligned.
const STEP: usize = 4;

/// How the words of a schedule lie in memory.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Order {
    /// As FIPS 197 writes them.
    Written,
    /// As numbers of the machine, which begins with the lowest byte.
    Native,
}

/// Of keys of so many words, in this order.
const KINDS: [(usize, Order); 4] =
    [(4, Order::Written), (4, Order::Native), (8, Order::Written), (8, Order::Native)];

/// What [`may_begin`] looks at.
type Head = [u8; 36];

/// Tells each key whose schedule is in these bytes. A schedule that is there twice is told twice.
pub fn find(bytes: &[u8], found: &mut dyn FnMut(Key)) {
    for at in (0..bytes.len()).step_by(STEP) {
        let Some(rest) = bytes.get(at..) else { return };
        let Some(head) = rest.first_chunk() else { return };
        if may_begin(head) {
            for (words, order) in KINDS.into_iter().filter(|&(words, order)| is_schedule(rest, words, order))
            {
                found(key(rest, words, order));
            }
        }
    }
}

/// One byte of the first word behind the key, which tells 255 of 256 others: word N is word 0 XOR the substituted and rotated word
/// N - 1 XOR a constant, which is in the highest byte and not in this. It is the second as FIPS 197 writes it, and comes of the third
/// of the word before. All kinds at once, and without a branch: nearly all that is searched ends here.
#[inline(always)]
fn may_begin(head: &Head) -> bool {
    let at = |index: usize| head.get(index).copied().unwrap_or_default();
    let fits = |first: usize, last: usize, next: usize| at(next) == at(first) ^ substituted(at(last));
    fits(1, 14, 17) | fits(2, 13, 18) | fits(1, 30, 33) | fits(2, 29, 34)
}

/// True if a whole schedule of a key of so many words begins here. FIPS 197 §5.2.
fn is_schedule(bytes: &[u8], words: usize, order: Order) -> bool {
    let mut constant = 1u8;
    for at in words..4 * (words + 7) {
        let (Some(mut before), Some(first), Some(this)) =
            (word(bytes, at - 1, order), word(bytes, at - words, order), word(bytes, at, order))
        else {
            return false;
        };
        if at % words == 0 {
            before = substitute(before.rotate_left(8)) ^ u32::from(constant) << 24;
            constant = double(constant);
        } else if words == 8 && at % words == 4 {
            before = substitute(before);
        }
        if this != first ^ before {
            return false;
        }
    }
    true
}

fn word(bytes: &[u8], at: usize, order: Order) -> Option<u32> {
    let bytes = bytes.get(at * 4..at * 4 + 4)?.try_into().ok()?;
    Some(match order {
        Order::Written => u32::from_be_bytes(bytes),
        Order::Native => u32::from_le_bytes(bytes),
    })
}

/// The key is the schedule's beginning.
fn key(bytes: &[u8], words: usize, order: Order) -> Key {
    let mut key = Zeroizing::new(Vec::with_capacity(words * 4));
    key.extend((0..words).filter_map(|at| word(bytes, at, order)).flat_map(u32::to_be_bytes));
    key
}

fn substitute(word: u32) -> u32 {
    u32::from_be_bytes(word.to_be_bytes().map(substituted))
}

fn substituted(byte: u8) -> u8 {
    S_BOX.get(usize::from(byte)).copied().unwrap_or_default()
}

/// Twice this in the field of FIPS 197 §4.2.
const fn double(byte: u8) -> u8 {
    byte << 1 ^ if byte & 0x80 == 0 { 0 } else { 0x1b }
}

/// FIPS 197 §5.1.1: the inverse in the field, then a rotation of bits. `p` goes through all of the field by multiplying with 3, `q` by
/// dividing by 3: each is the other's inverse.
const S_BOX: [u8; 256] = {
    let mut table = [0u8; 256];
    let (mut p, mut q) = (1u8, 1u8);
    loop {
        p ^= double(p);
        q ^= q << 1;
        q ^= q << 2;
        q ^= q << 4;
        if q & 0x80 != 0 {
            q ^= 0x09;
        }
        let bits = q ^ q.rotate_left(1) ^ q.rotate_left(2) ^ q.rotate_left(3) ^ q.rotate_left(4);
        table[p as usize] = bits ^ 0x63;
        if p == 1 {
            break;
        }
    }
    table[0] = 0x63;
    table
};

/// Any bytes are memory.
pub fn fuzz_schedules(data: &[u8]) {
    let mut keys = 0;
    find(data, &mut |key| {
        assert!(matches!(key.len(), 16 | 32));
        let at = |part: &[u8]| data.windows(part.len()).any(|bytes| bytes == part);
        let swapped: Vec<u8> = key.chunks(4).flat_map(|word| word.iter().rev().copied()).collect();
        assert!(at(&key) || at(&swapped), "a key that is nowhere");
        keys += 1;
    });
    // Each takes 160 bytes of its own or shares them: never more than one a place, size and order.
    assert!(keys <= data.len());
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// FIPS 197 §A.1 and §A.3: the key, and the last round key of its schedule.
    const AES_128: (&str, &str) = ("2b7e151628aed2a6abf7158809cf4f3c", "d014f9a8c9ee2589e13f0cc8b6630ca6");
    const AES_256: (&str, &str) = (
        "603deb1015ca71be2b73aef0857d77811f352c073b6108d72d9810a30914dff4",
        "fe4890d1e6188d0b046df344706c631e",
    );

    fn hex(text: &str) -> Vec<u8> {
        (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap()).collect()
    }

    /// By the standard's own words, not by what is tested.
    pub fn expand(key: &[u8]) -> Vec<u8> {
        let mut out = key.to_vec();
        let words = key.len() / 4;
        let mut constant = 1u8;
        for at in words..4 * (words + 7) {
            let mut before: [u8; 4] = out[out.len() - 4..].try_into().unwrap();
            if at % words == 0 {
                before.rotate_left(1);
                before = before.map(substituted);
                before[0] ^= constant;
                constant = double(constant);
            } else if words == 8 && at % words == 4 {
                before = before.map(substituted);
            }
            for (byte, from) in before.into_iter().zip((at - words) * 4..) {
                out.push(byte ^ out[from]);
            }
        }
        out
    }

    fn native(schedule: &[u8]) -> Vec<u8> {
        schedule.chunks(4).flat_map(|word| word.iter().rev().copied()).collect()
    }

    #[track_caller]
    fn check(bytes: &[u8], expected: &[&[u8]]) {
        let mut keys = Vec::new();
        find(bytes, &mut |key| keys.push(key.to_vec()));
        assert_eq!(keys, expected);
        fuzz_schedules(bytes);
    }

    #[test]
    fn the_schedules_of_the_standard_are_found_as_they_are_written_and_as_numbers() {
        for (key, last) in [AES_128, AES_256] {
            let (key, schedule) = (hex(key), expand(&hex(key)));
            assert!(schedule.ends_with(&hex(last)));
            for schedule in [schedule.clone(), native(&schedule)] {
                let mut memory = vec![0x55; 1024];
                memory[36..36 + schedule.len()].copy_from_slice(&schedule);
                check(&memory, &[&key]);
                check(&schedule, &[&key]);
            }
        }
    }

    #[test]
    fn a_schedule_that_ends_early_or_has_one_wrong_bit_is_none() {
        for (key, _) in [AES_128, AES_256] {
            let schedule = expand(&hex(key));
            check(&schedule[..schedule.len() - 1], &[]);
            for at in 0..schedule.len() {
                let mut schedule = schedule.clone();
                schedule[at] ^= 0x10;
                check(&schedule, &[]);
            }
        }
    }

    #[test]
    fn other_bytes_are_none() {
        check(&[], &[]);
        check(&[0; 4096], &[]);
        check(&[0xff; 4096], &[]);
        let noise: Vec<u8> = (0..40_000u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
        check(&noise, &[]);
    }
}
