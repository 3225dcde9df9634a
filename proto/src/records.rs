//! Following TLS records without their bodies (RFC 8446, section 5.1): where the next record begins, and which are not worth
//! sending while a long message goes by inside. The kernel side steps through windows of a call with [`step`].
//!
//! ```text
//!   5 bytes of header ──▶ body ──▶ 5 bytes of header …
//!                          long application data that ends before a position: left out
//!                          anything else: all of it is kept
//! ```
//! Every header is kept, since a record's number is part of what decrypts it; so are handshakes, alerts, and what is short
//! enough to be a session ticket or a key update in disguise. A record's plaintext is never longer than the record: nothing
//! that is left out ends a message which needs as many bytes as lie before the position.

use crate::frames::{BEFORE, DATA, Follower, Found, payload};
use crate::policy::MAX_SILENCE;

/// Bytes before a body: type, version (2), length (2).
pub const HEADER: u32 = 5;
/// Bodies up to this length are kept.
pub const SHORT: u32 = 512;
/// The longest body there is (RFC 5246, section 6.2.3).
const MAX_BODY: u32 = (1 << 14) + 2048;
/// The type of application data.
const APPLICATION_DATA: u32 = 23;
/// The types that there are, from here on up to application data.
const CHANGE_CIPHER_SPEC: u32 = 20;

/// Whether bytes may be a header, of which `word` are the first eight in the machine's little-endian order.
#[inline(always)]
pub const fn may_begin(word: u64) -> bool {
    let bytes = word.to_le_bytes();
    let kind = bytes[0] as u32;
    kind >= CHANGE_CIPHER_SPEC
        && kind <= APPLICATION_DATA
        && bytes[1] == 3
        && bytes[2] <= 4
        && ((bytes[3] as u32) << 8 | bytes[4] as u32) <= MAX_BODY
}

/// Looks at what is at `at` of a window of `end` bytes, of which `word` are the first eight from there on, in the machine's
/// little-endian order; those beyond the window mean nothing. `ahead`: bytes from there to the position that bodies must end
/// before to be left out, modulo 2³². `long` as for [`crate::frames::step`]. Returns the new place, at most `end`.
#[inline(always)]
pub const fn step(
    follower: &mut Follower,
    at: u32,
    end: u32,
    word: u64,
    ahead: u32,
    long: bool,
) -> (u32, Found) {
    if follower.left > 0 {
        return payload(follower, at, end, long);
    }
    let here = end.wrapping_sub(at);
    if follower.have == 0 && here >= HEADER {
        if !may_begin(word) {
            return (at, Found::Broken);
        }
        let bytes = word.to_le_bytes();
        let length = (bytes[3] as u32) << 8 | bytes[4] as u32;
        begin_body(follower, bytes[0] as u32, length, ahead.wrapping_sub(HEADER));
        return (at.wrapping_add(HEADER), Found::More);
    }
    // A header that is cut: one byte after the other.
    let byte = word as u32 & 0xff;
    if follower.have == 0 {
        // Not as its kind: that would say that the body may be left out, or not.
        follower.due = byte;
    } else if follower.have >= 3 {
        follower.length = (follower.length << 8 | byte) & 0xffff;
    }
    follower.have = follower.have.wrapping_add(1);
    if follower.have >= HEADER {
        let (kind, length) = (follower.due, follower.length);
        if kind < CHANGE_CIPHER_SPEC || kind > APPLICATION_DATA || length > MAX_BODY {
            return (at, Found::Broken);
        }
        begin_body(follower, kind, length, ahead.wrapping_sub(1));
    }
    (at.wrapping_add(1), Found::More)
}

/// `ahead`: bytes from the body's first on.
#[inline(always)]
const fn begin_body(follower: &mut Follower, kind: u32, length: u32, ahead: u32) {
    follower.left = length;
    follower.have = 0;
    follower.length = 0;
    follower.due = 0;
    let unwanted = kind == APPLICATION_DATA && length > SHORT && length <= ahead && ahead <= MAX_SILENCE;
    follower.kind = if unwanted { DATA } else { BEFORE };
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frames::{FRAMING_TLS, MODE_KNOWN, PEEK};
    use std::vec;
    use std::vec::Vec;

    fn record(kind: u8, length: usize) -> Vec<u8> {
        let mut bytes = vec![kind, 3, 3];
        bytes.extend((length as u16).to_be_bytes());
        bytes.extend((0..length).map(|at| at as u8));
        bytes
    }

    /// Follows a stream in calls of these lengths as the kernel side does; what is kept, as (offset, bytes).
    fn follow(
        stream: &[u8],
        calls: &[usize],
        until: u32,
        window: usize,
    ) -> (Follower, Vec<(usize, Vec<u8>)>) {
        let mut follower = Follower::default();
        follower.begin(MODE_KNOWN, 0, 0);
        follower.framing = FRAMING_TLS;
        let (mut kept, mut base) = (Vec::new(), 0);
        for &length in calls {
            let call = &stream[base..base + length];
            let (mut at, mut size) = (0, window);
            while at < call.len() {
                let omitted = follower.omits((call.len() - at) as u32);
                follower.omit(omitted);
                at += omitted as usize;
                if at >= call.len() {
                    break;
                }
                let end = size.min(call.len() - at) as u32;
                let (mut place, mut cut) = (0, false);
                while place < end && !cut {
                    let mut eight = [0xee; 8];
                    let seen = &call[at + place as usize..];
                    let have = seen.len().min(8);
                    eight[..have].copy_from_slice(&seen[..have]);
                    let ahead = until.wrapping_sub((base + at) as u32 + place);
                    let long = call.len() > window;
                    let word = u64::from_le_bytes(eight);
                    let (next, found) = step(&mut follower, place, end, word, ahead, long);
                    assert!(next > place || found == Found::Cut, "no progress: {found:?}");
                    (place, cut) = (next, found == Found::Cut);
                }
                if place > 0 {
                    kept.push((base + at, call[at..at + place as usize].to_vec()));
                }
                at += place as usize;
                size = if cut { PEEK as usize } else { window };
            }
            base += length;
        }
        (follower, kept)
    }

    #[test]
    fn headers_and_all_that_is_wanted_are_kept_wherever_calls_cut() {
        let records = [(23, 3000), (22, 900), (23, 40), (23, 600), (21, 2), (23, 700), (23, 20)];
        let (mut stream, mut needed) = (Vec::new(), Vec::new());
        let until = 4800;
        for (kind, length) in records {
            let at = stream.len();
            stream.extend(record(kind, length));
            let unwanted = kind == 23 && length > SHORT as usize && stream.len() <= until;
            needed.push(at..at + 5 + if unwanted { 0 } else { length });
        }
        for window in [64, 4096] {
            for cut in 0..=stream.len() {
                let (follower, kept) = follow(&stream, &[cut, stream.len() - cut], until as u32, window);
                assert_eq!((follower.left, follower.have), (0, 0), "cut at {cut}");
                let mut seen = vec![false; stream.len()];
                for (offset, bytes) in &kept {
                    assert_eq!(stream[*offset..offset + bytes.len()], bytes[..], "at {offset}, cut at {cut}");
                    seen[*offset..offset + bytes.len()].fill(true);
                }
                for range in &needed {
                    assert!(seen[range.clone()].iter().all(|&is| is), "{range:?}, cut at {cut}");
                }
            }
        }
    }

    #[test]
    fn of_a_long_message_only_headers_are_kept() {
        let stream: Vec<u8> = (0..64).flat_map(|_| record(23, 16_401)).collect();
        let (_, kept) = follow(&stream, &[stream.len()], u32::MAX >> 2, 4096);
        assert_eq!(kept.iter().map(|(_, bytes)| bytes.len()).sum::<usize>(), 64 * 5);
        // As OpenSSL reads: the header, then the body.
        let calls: Vec<usize> = (0..64).flat_map(|_| [5, 16_401]).collect();
        let (_, kept) = follow(&stream, &calls, u32::MAX >> 2, 4096);
        assert_eq!(kept.iter().map(|(_, bytes)| bytes.len()).sum::<usize>(), 64 * 5);
    }

    #[test]
    fn a_position_that_was_passed_leaves_nothing_out() {
        let stream: Vec<u8> = record(23, 16_401);
        let (_, kept) = follow(&stream, &[stream.len()], 0, 4096);
        assert_eq!(kept.iter().map(|(_, bytes)| bytes.len()).sum::<usize>(), stream.len());
    }

    #[test]
    fn what_cannot_be_a_header_is_none() {
        let mut follower = Follower::default();
        for bytes in [*b"\x18\x03\x03\x00\x01abc", *b"\x17\x02\x03\x00\x01abc", *b"\x17\x03\x03\xff\x01abc"] {
            let (place, found) = step(&mut follower, 0, 100, u64::from_le_bytes(bytes), 0, false);
            assert_eq!((place, found), (0, Found::Broken));
        }
    }
}
