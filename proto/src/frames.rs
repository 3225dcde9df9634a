//! Following HTTP/2 frames without their payload (RFC 9113, section 4.1): where the next frame begins, and what of a DATA frame
//! is worth sending. The kernel side steps through windows of a call with [`step`]; what it means is tested here.
//!
//! ```text
//!   9 bytes of header ──▶ payload ──▶ 9 bytes of header …
//!                          DATA: 16 bytes are kept, the rest is left out if it is long or does not end in the window
//!                          anything else: all of it is kept
//! ```
//! It decides nothing about what frames mean, and never guesses where one begins: that is known from the first byte of the
//! connection, or told by the agent. Whoever finds bytes at another position than [`Follower::position`] must stop believing it.

/// Bytes before a payload: length (3), type, flags, stream (4).
pub const HEADER: u32 = 9;
/// Bytes kept of a DATA frame's payload: the 5 of a gRPC prefix, one of padding, and a little.
pub const KEPT: u32 = 16;
/// Less than this is not worth leaving out: a record's head is longer than half of it.
pub const LEAST: u32 = 256;
/// Bytes that are looked at behind a payload that was left out: the next header, and what is kept if it is DATA again.
pub const PEEK: u32 = 32;
/// Frames, or bytes of headers that are cut, that are looked at in one window. Each has at least 9 bytes but for those.
pub const STEPS: u32 = 512;
/// Windows that are looked at in one call: one for each long DATA frame, and a reader of a busy connection takes megabytes at once
/// (what `tcp_rmem` allows by default, 6 MiB, in frames of 16 KiB).
pub const WINDOWS: u32 = 512;
/// Of these, those of a whole block, which is kept if it is no DATA: 256 KiB of header blocks, six times the largest that were seen, or
/// as much of a flood of small frames.
pub const BLOCKS: u32 = 64;

/// Type of a DATA frame.
pub const DATA: u32 = 0;
/// Bytes before the first frame: a preface, or what comes before a boundary that the agent knows.
pub const BEFORE: u32 = 256;

/// Frames of HTTP/2.
pub const FRAMING_HTTP2: u32 = 0;
/// Records of TLS ([`crate::records`]).
pub const FRAMING_TLS: u32 = 1;

/// Nothing is known.
pub const MODE_LOST: u32 = 0;
/// A frame header is assumed to begin at [`Follower::assumed`]; nothing is left out until that is confirmed.
pub const MODE_ASSUMED: u32 = 1;
/// The place is known.
pub const MODE_KNOWN: u32 = 2;
/// The first byte of this direction will begin a frame.
pub const MODE_FIRST: u32 = 3;

/// Where a direction of a connection is.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Follower {
    /// A `MODE_` constant.
    pub mode: u32,
    /// The position of the next byte.
    pub position: u32,
    /// Bytes of the current payload that are to come.
    pub left: u32,
    /// Of these, bytes that are to be kept though it is DATA.
    pub due: u32,
    /// The current frame's type.
    pub kind: u32,
    /// Bytes of the next header that have come.
    pub have: u32,
    /// Its length, as far as it has come.
    pub length: u32,
    /// Where it was assumed that a header begins.
    pub assumed: u32,
    /// A `FRAMING_` constant: what is framed.
    pub framing: u32,
    /// Bytes that were left out since the last record.
    pub silent: u32,
}

impl Follower {
    /// As if the first byte of a frame header were next, `left` bytes on.
    #[inline(always)]
    pub const fn begin(&mut self, mode: u32, position: u32, left: u32) {
        self.mode = mode;
        self.position = position;
        self.left = left;
        self.due = 0;
        self.kind = BEFORE;
        self.have = 0;
        self.length = 0;
        self.framing = FRAMING_HTTP2;
        self.silent = 0;
    }

    /// Bytes that may be left out where it stands, of a call with so many bytes.
    #[inline(always)]
    pub const fn omits(&self, bytes: u32) -> u32 {
        if self.kind != DATA || self.due > 0 || self.have > 0 {
            return 0;
        }
        if self.left < bytes { self.left } else { bytes }
    }

    /// Whether all of a call's last `bytes` may be left out: then what was sent before them is its last piece, and says so.
    #[inline(always)]
    pub const fn omits_all(&self, bytes: u32) -> bool {
        self.omits(bytes) >= bytes
    }

    /// Leaves out so many bytes of the payload.
    #[inline(always)]
    pub const fn omit(&mut self, bytes: u32) {
        self.left = self.left.wrapping_sub(bytes);
        self.silent = self.silent.wrapping_add(bytes);
    }
}

/// What a step found.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Found {
    /// Go on at the new place.
    More,
    /// From the new place on the payload is not worth sending.
    Cut,
    /// What stands there cannot be a header.
    Broken,
}

/// Looks at what is at `at` of a window of `end` bytes, of which `word` are the first four from there on, in the machine's
/// little-endian order; those beyond the window mean nothing. `long`: the call goes on for long, so that leaving out pays.
/// Returns the new place, at most `end`.
#[inline(always)]
pub const fn step(follower: &mut Follower, at: u32, end: u32, word: u32, long: bool) -> (u32, Found) {
    if follower.left > 0 {
        return payload(follower, at, end, long);
    }
    let here = end.wrapping_sub(at);
    if follower.have == 0 && here >= HEADER {
        let bytes = word.to_le_bytes();
        let length = (bytes[0] as u32) << 16 | (bytes[1] as u32) << 8 | bytes[2] as u32;
        begin_payload(follower, length, bytes[3] as u32);
        return (at.wrapping_add(HEADER), Found::More);
    }
    // A header that is cut: one byte after the other.
    let byte = word & 0xff;
    if follower.have < 3 {
        follower.length = (follower.length << 8 | byte) & 0x00ff_ffff;
    } else if follower.have == 3 {
        // Not before the header is complete does the payload begin; `left` is 0 until then.
        follower.kind = byte;
    }
    follower.have = follower.have.wrapping_add(1);
    if follower.have >= HEADER {
        let (length, kind) = (follower.length, follower.kind);
        begin_payload(follower, length, kind);
    }
    (at.wrapping_add(1), Found::More)
}

/// Takes what a window holds of the current payload, or says that it is not worth sending.
#[inline(always)]
pub(crate) const fn payload(follower: &mut Follower, at: u32, end: u32, long: bool) -> (u32, Found) {
    let here = end.wrapping_sub(at);
    let mut take = follower.left;
    if follower.kind == DATA {
        if follower.due > 0 {
            take = follower.due;
        } else if follower.left >= LEAST && (long || follower.left > here) {
            return (at, Found::Cut);
        }
    }
    if take > here {
        take = here;
    }
    follower.left = follower.left.wrapping_sub(take);
    follower.due = follower.due.saturating_sub(take);
    (at.wrapping_add(take), Found::More)
}

#[inline(always)]
const fn begin_payload(follower: &mut Follower, length: u32, kind: u32) {
    follower.left = length;
    follower.kind = kind;
    follower.have = 0;
    follower.length = 0;
    follower.due = 0;
    if kind == DATA {
        follower.due = if length < KEPT { length } else { KEPT };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::vec;
    use std::vec::Vec;

    fn frame(kind: u8, length: usize) -> Vec<u8> {
        let mut bytes = (length as u32).to_be_bytes()[1..].to_vec();
        bytes.extend([kind, 0, 0, 0, 0, 1]);
        bytes.extend((0..length).map(|at| at as u8));
        bytes
    }

    /// Follows a stream in calls of these lengths as the kernel side does; what is kept, as (offset, bytes).
    fn follow(stream: &[u8], calls: &[usize], window: usize) -> (Follower, Vec<(usize, Vec<u8>)>) {
        let mut follower = Follower::default();
        follower.begin(MODE_KNOWN, 0, 0);
        let (mut kept, mut base) = (Vec::new(), 0);
        for &length in calls {
            let call = &stream[base..base + length];
            let (mut at, mut size, mut ended) = (0, window, true);
            while at < call.len() {
                let omitted = follower.omits((call.len() - at) as u32);
                follower.omit(omitted);
                at += omitted as usize;
                if at >= call.len() {
                    assert!(ended, "the last piece of a call of {length} did not say that it is");
                    break;
                }
                let end = size.min(call.len() - at) as u32;
                let (mut place, mut cut) = (0, false);
                while place < end && !cut {
                    let mut four = [0xee; 4];
                    let seen = &call[at + place as usize..];
                    let have = seen.len().min(4);
                    four[..have].copy_from_slice(&seen[..have]);
                    let long = call.len() > window;
                    let (next, found) = step(&mut follower, place, end, u32::from_le_bytes(four), long);
                    assert!(next > place || found == Found::Cut, "no progress");
                    (place, cut) = (next, found == Found::Cut);
                }
                if place > 0 {
                    kept.push((base + at, call[at..at + place as usize].to_vec()));
                }
                at += place as usize;
                ended = follower.omits_all((call.len() - at) as u32);
                size = if cut { PEEK as usize } else { window };
            }
            base += length;
            follower.position = base as u32;
        }
        (follower, kept)
    }

    fn check(frames: &[(u8, usize)], window: usize) {
        let mut stream = Vec::new();
        // The bytes that must be there: headers, everything but DATA, the first of DATA.
        let mut needed = Vec::new();
        for &(kind, length) in frames {
            let at = stream.len();
            stream.extend(frame(kind, length));
            let shown = if kind == 0 { length.min(KEPT as usize) } else { length };
            needed.push(at..at + 9 + shown);
        }
        for cut in 0..=stream.len() {
            let (follower, kept) = follow(&stream, &[cut, stream.len() - cut], window);
            assert_eq!((follower.left, follower.have), (0, 0), "cut at {cut} of {frames:?}");
            let mut seen = vec![false; stream.len()];
            for (offset, bytes) in &kept {
                assert_eq!(stream[*offset..offset + bytes.len()], bytes[..], "at {offset}, cut at {cut}");
                seen[*offset..offset + bytes.len()].fill(true);
            }
            for range in &needed {
                assert!(seen[range.clone()].iter().all(|&is| is), "{range:?}, cut at {cut} of {frames:?}");
            }
        }
    }

    #[test]
    fn all_that_is_needed_is_kept_wherever_calls_cut() {
        check(&[(1, 30), (0, 5), (0, 20), (8, 4), (6, 8)], 4096);
        check(&[(1, 300), (0, 700), (1, 40), (0, 0), (0, 16), (3, 4)], 128);
        check(&[(0, 2000), (0, 2000), (1, 10), (0, 3000), (9, 100)], 64);
        // What is looked at behind a long payload ends within a short one.
        check(&[(0, 2000), (0, 52)], 64);
    }

    #[test]
    fn a_long_payload_is_left_out_but_for_its_beginning() {
        let mut stream = frame(1, 20);
        for _ in 0..4 {
            stream.extend(frame(0, 16_384));
        }
        let (follower, kept) = follow(&stream, &[stream.len()], 4096);
        let bytes: usize = kept.iter().map(|(_, bytes)| bytes.len()).sum();
        assert_eq!(bytes, 29 + 4 * 25);
        assert_eq!((follower.left, follower.silent), (0, 4 * (16_384 - 16)));
    }

    #[test]
    fn a_call_within_a_payload_is_left_out_whole() {
        let stream = frame(0, 10_000);
        let (follower, kept) = follow(&stream, &[1000, 4000, 5000, 9], 4096);
        assert_eq!(kept.len(), 1);
        assert_eq!(kept[0].1.len(), 25);
        assert_eq!(follower.left, 0);
    }

    #[test]
    fn short_payloads_are_not_cut_from_a_short_call() {
        let mut stream = frame(1, 20);
        stream.extend(frame(0, 1500));
        stream.extend(frame(1, 20));
        let (_, kept) = follow(&stream, &[stream.len()], 4096);
        assert_eq!(kept.len(), 1);
        assert_eq!(kept[0].1, stream);
    }
}
