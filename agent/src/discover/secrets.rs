//! Secrets of TLS sessions whose place nobody has told: memory of a process in, bytes that may be secrets out.
//!
//! ```text
//!   the 32 random bytes of a ClientHello, anywhere ─▶ what lies at the distances of the libraries that keep them
//!   two blocks of 64 bytes, each with its length ───▶ both (rustls, which keeps no random bytes)
//!   arrays of 32 or 48 bytes ───────────────────────▶ each (Java)
//!   expanded keys of AES ───────────────────────────▶ each (`schedules`: whatever library)
//! ```
//! For programs that have their library linked in without a symbol. Nothing that is found is believed: a record's tag tells, and
//! what opens none is dropped and overwritten. It must never keep what it reads, or read without a bound.

use std::collections::HashMap;
use std::ops::Range;

use zeroize::{Zeroize as _, Zeroizing};

use super::maps::{Mapping, Maps};
use super::memory::{MAX_READ, ReadMemory};
use super::schedules::{self, Key};

/// Bytes read of one process in one search.
pub const MAX_SEARCHED: u64 = 1 << 30;
/// Guesses that one search gives.
pub const MAX_GUESSES: usize = 1024;
/// Keys of AES that one search gives: a process of thousands of sessions has some for each.
pub const MAX_KEYS: usize = 8192;
/// Places of one needle that are looked at, and of two blocks that are told.
const MAX_PLACES: usize = 4;

/// A secret, with zeroes behind it.
pub type Bytes = Zeroizing<[u8; 64]>;

/// Secrets that belong together, if they are any.
#[derive(Clone)]
pub struct Guess {
    /// Of the session with this number among those looked for; of any if none.
    pub session: Option<usize>,
    /// The secrets of both directions, of TLS 1.3, and what lies side by side with them.
    pub traffic: Vec<Bytes>,
    /// Where they lie, the first of them: blocks alone, [`BLOCK`] bytes apart, whose places tell those of others.
    pub places: Vec<u64>,
}

/// Where the secrets lie, relative to the random bytes, and how long the room for each is.
/// `ssl/internal.h` of BoringSSL, `ssl/ssl_local.h` of OpenSSL, `lib/gnutls_int.h` of GnuTLS; measured with builds of each.
const DISTANCES: [(i64, i64, usize); 6] = [
    // BoringSSL: `SSL3_STATE::write_traffic_secret` and `read_traffic_secret`, 48 bytes and a length.
    (0xf0, 0x121, 48),
    // OpenSSL 3.5, 3.0, 3.2 and 3.3: `client_app_traffic_secret`, `server_app_traffic_secret`.
    (0x5f4, 0x634, 64),
    (0x5e4, 0x624, 64),
    (0x5bc, 0x5fc, 64),
    // GnuTLS 3.7: `key.proto.tls13.ap_ckey` and `ap_skey`.
    (0x17c4, 0x1804, 64),
    // BoringSSL before 2021: 64 bytes each.
    (0xf0, 0x130, 64),
];

/// What rustls keeps a traffic secret in: `crypto::tls13::OkmBlock`, 64 bytes of which so many are used.
pub const BLOCK: usize = 72;
/// Blocks side by side: `tls13::key_schedule::KeyScheduleTrafficWithClientFinishedPending` of rustls has four.
const MAX_RUN: u64 = 5;

/// A shape that lies across two pieces is seen from the second.
const OVERLAP: usize = schedules::LONGEST;

/// What a search has brought.
#[derive(Default)]
pub struct Found {
    /// The guesses.
    pub guesses: Vec<Guess>,
    /// Keys of AES, each once.
    pub keys: Vec<Key>,
    /// Bytes read.
    pub searched: u64,
}

/// Whether expanded keys are looked for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Schedules {
    /// Some session has records that a key of AES may prove.
    Wanted,
    /// None has.
    Unwanted,
}

/// Which shapes are looked for besides random bytes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Shapes {
    /// The blocks of rustls.
    Blocks,
    /// The arrays of Java.
    Arrays,
    /// Neither: the library is one that keeps random bytes.
    None,
}

/// Searches what a process may have allocated.
pub fn find(
    memory: &dyn ReadMemory,
    maps: &Maps,
    randoms: &[[u8; 32]],
    shapes: Shapes,
    schedules: Schedules,
) -> Found {
    let mut found = Found::default();
    let mut piece = Zeroizing::new(vec![0u8; MAX_READ]);
    let mut needles = Needles::new(randoms);
    for mapping in maps.iter().filter(|mapping| may_hold(mapping)) {
        let all = mapping.start..mapping.end;
        let ranges = memory.touched(all.clone()).unwrap_or_else(|| Vec::from([all]));
        for range in ranges {
            pieces(memory, range, &mut piece, &mut found, &mut |at, bytes, found| {
                needles.find(memory, at, bytes, found);
                match shapes {
                    Shapes::Blocks => blocks(memory, at, bytes, found),
                    Shapes::Arrays => arrays(bytes, found),
                    Shapes::None => {}
                }
                if schedules == Schedules::Wanted {
                    schedules::find(bytes, &mut |key| found.add_key(key));
                }
            });
        }
    }
    found.keys.sort_unstable_by(|one, other| one.as_slice().cmp(other));
    found.keys.dedup();
    found
}

/// Memory of the program's own: no file's, no kernel's.
fn may_hold(mapping: &Mapping) -> bool {
    let special = mapping.path.first() == Some(&b'[')
        && mapping.path != b"[heap]"
        && !mapping.path.starts_with(b"[anon");
    mapping.read && mapping.write && mapping.inode == 0 && !special
}

fn pieces(
    memory: &dyn ReadMemory,
    range: Range<u64>,
    piece: &mut Zeroizing<Vec<u8>>,
    found: &mut Found,
    look: &mut dyn FnMut(u64, &[u8], &mut Found),
) {
    let mut at = range.start;
    while at < range.end && found.searched < MAX_SEARCHED && found.guesses.len() < MAX_GUESSES {
        let length = usize::try_from(range.end - at).unwrap_or(MAX_READ).min(MAX_READ);
        let Some(bytes) = piece.get_mut(..length) else { return };
        found.searched += length as u64;
        // A program gives pages back all the time; what is lost with them comes again, or was none.
        if memory.read(at, bytes) {
            look(at, bytes, found);
        }
        if length <= OVERLAP {
            return;
        }
        at += (length - OVERLAP) as u64;
    }
}

/// The random bytes of hellos, all looked for in one pass.
struct Needles {
    /// The sessions of each, and how many places of it were looked at.
    sessions: HashMap<[u8; 32], (Vec<usize>, usize)>,
    /// Whether one of them begins with these two bytes.
    begins: Vec<bool>,
}

impl Needles {
    fn new(randoms: &[[u8; 32]]) -> Self {
        let mut needles = Self { sessions: HashMap::new(), begins: vec![false; 1 << 16] };
        for (session, random) in randoms.iter().enumerate() {
            needles.sessions.entry(*random).or_default().0.push(session);
            let [first, second, ..] = *random;
            if let Some(begins) = needles.begins.get_mut(usize::from(u16::from_le_bytes([first, second]))) {
                *begins = true;
            }
        }
        needles
    }

    fn find(&mut self, memory: &dyn ReadMemory, at: u64, bytes: &[u8], found: &mut Found) {
        // Members of the structures that keep them are aligned.
        for place in (0..bytes.len().saturating_sub(31)).step_by(4) {
            let Some(candidate) = bytes.get(place..).and_then(|rest| rest.first_chunk::<32>()) else {
                return;
            };
            let [first, second, ..] = *candidate;
            let begins = self.begins.get(usize::from(u16::from_le_bytes([first, second])));
            if begins != Some(&true) {
                continue;
            }
            if let Some((sessions, places)) = self.sessions.get_mut(candidate)
                && *places < MAX_PLACES
            {
                *places += 1;
                beside(memory, at + place as u64, sessions, found);
            }
        }
    }
}

/// What lies beside the random bytes of these sessions, at the distances of libraries.
fn beside(memory: &dyn ReadMemory, at: u64, sessions: &[usize], found: &mut Found) {
    for (one, other, room) in DISTANCES {
        let read = |distance: i64| {
            let mut secret: Bytes = Zeroizing::new([0; 64]);
            let there = memory.read(at.checked_add_signed(distance)?, secret.get_mut(..room)?);
            (there && is_random(secret.get(..32)?)).then_some(secret)
        };
        if let Some((one, other)) = read(one).zip(read(other)) {
            for &session in sessions {
                let traffic = vec![one.clone(), other.clone()];
                found.add(Guess { session: Some(session), traffic, places: Vec::new() });
            }
        }
    }
}

/// Looks for blocks side by side that are as much used: two traffic secrets, behind a secret of the handshake as long as that lasts, and
/// before that for exporting keys.
fn blocks(memory: &dyn ReadMemory, start: u64, bytes: &[u8], found: &mut Found) {
    let here = (start, bytes);
    for at in (0..bytes.len().saturating_sub(BLOCK)).step_by(8) {
        let length = |at: usize| bytes.get(at..)?.first_chunk().map(|word| u64::from_le_bytes(*word));
        let Some(used @ (32 | 48)) = length(at) else { continue };
        if length(at + BLOCK) != Some(used) {
            continue;
        }
        let is_used =
            |address| read(memory, here, address).map(|word| u64::from_le_bytes(*word)) == Some(used);
        let at = start + at as u64;
        // The length may stand behind the bytes or before them.
        for (begin, behind) in [(at.checked_sub(64), true), (at.checked_add(8), false)] {
            let Some(begin) = begin.filter(|begin| *begin > BLOCK as u64) else { continue };
            // Not the first of them, or of the other kind.
            if secret(memory, here, begin - BLOCK as u64, used).is_some() || behind && is_used(begin - 8) {
                continue;
            }
            let addresses = (0..MAX_RUN).map(|number| begin + number * BLOCK as u64);
            let used_of = |address: u64| if behind { address + 64 } else { address - 8 };
            let blocks = addresses.take_while(|address| is_used(used_of(*address)));
            let traffic: Vec<Bytes> =
                blocks.map_while(|address| secret(memory, here, address, used)).collect();
            if traffic.len() > 1 {
                found.add(Guess { session: None, traffic, places: vec![begin] });
            }
        }
    }
}

/// The secret that is so long in the 64 bytes at this address.
fn secret(memory: &dyn ReadMemory, here: (u64, &[u8]), address: u64, used: u64) -> Option<Bytes> {
    let bytes = read::<64>(memory, here, address)?;
    let (secret, unused) = bytes.split_at_checked(usize::try_from(used).ok()?)?;
    (is_random(secret) && unused.iter().all(|&byte| byte == 0)).then_some(bytes)
}

/// The bytes at this address: of those that are at hand, which begin at `start`, or of the memory.
fn read<const N: usize>(
    memory: &dyn ReadMemory,
    (start, bytes): (u64, &[u8]),
    address: u64,
) -> Option<Zeroizing<[u8; N]>> {
    let at = address.checked_sub(start).and_then(|at| usize::try_from(at).ok());
    if let Some(here) = at.and_then(|at| bytes.get(at..)?.first_chunk()) {
        return Some(Zeroizing::new(*here));
    }
    let mut read = Zeroizing::new([0; N]);
    memory.read(address, read.as_mut_slice()).then_some(read)
}

/// Looks for arrays of bytes of HotSpot, whose head is a mark (unlocked: 1), a class in 4 bytes and a length in 4.
fn arrays(bytes: &[u8], found: &mut Found) {
    for at in (0..bytes.len().saturating_sub(16)).step_by(8) {
        let Some(head) = bytes.get(at..at + 16) else { return };
        let length = match head {
            [1 | 9 | 17 | 25, _, _, _, _, _, _, _, _, _, _, _, length @ (32 | 48), 0, 0, 0] => {
                usize::from(*length)
            }
            _ => continue,
        };
        let Some(data) = bytes.get(at + 16..at + 16 + length).filter(|data| is_random(data)) else {
            continue;
        };
        let mut secret: Bytes = Zeroizing::new([0; 64]);
        for (to, from) in secret.iter_mut().zip(data) {
            *to = *from;
        }
        found.add(Guess { session: None, traffic: vec![secret], places: Vec::new() });
    }
}

/// Whether bytes may be a hash's: of 32 random bytes 30 differ on average, and fewer than 20 once in 10¹⁰ times.
fn is_random(bytes: &[u8]) -> bool {
    let mut seen = [false; 256];
    for &byte in bytes.iter().take(32) {
        if let Some(seen) = seen.get_mut(usize::from(byte)) {
            *seen = true;
        }
    }
    seen.iter().filter(|seen| **seen).count() >= 20
}

impl Found {
    fn add(&mut self, guess: Guess) {
        let same = |known: &&mut Guess| known.session == guess.session && known.traffic == guess.traffic;
        if let Some(known) = self.guesses.iter_mut().find(same) {
            if known.places.len() < MAX_PLACES {
                known.places.extend(&guess.places);
            }
        } else if self.guesses.len() < MAX_GUESSES {
            self.guesses.push(guess);
        }
    }

    fn add_key(&mut self, key: Key) {
        // Copies of one key often lie side by side.
        if self.keys.len() < MAX_KEYS && self.keys.last() != Some(&key) {
            self.keys.push(key);
        }
    }
}

impl Drop for Guess {
    fn drop(&mut self) {
        self.traffic.iter_mut().for_each(|secret| secret.zeroize());
    }
}

/// Any bytes are memory.
pub fn fuzz_secrets(data: &[u8]) {
    let mut random = [0; 32];
    for (to, from) in random.iter_mut().zip(data) {
        *to = *from;
    }
    let mut image = super::memory::Image::default();
    image.put(0x1000, data.to_vec());
    let maps = Maps::parse(format!("1000-{:x} rw-p 0 00:00 0\n", 0x1000 + data.len()).as_bytes());
    for shapes in [Shapes::Blocks, Shapes::Arrays, Shapes::None] {
        let found = find(&image, &maps, &[random], shapes, Schedules::Wanted);
        assert!(found.guesses.len() <= MAX_GUESSES && found.keys.len() <= MAX_KEYS);
        assert!(found.searched <= 2 * data.len() as u64 + 1);
        for guess in &found.guesses {
            assert!(guess.traffic.iter().all(|secret| is_random(secret.as_slice())));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::memory::Image;
    use super::*;

    fn hash(seed: u8, length: usize) -> Vec<u8> {
        (0..length).map(|at| seed.wrapping_add((at as u8).wrapping_mul(37))).collect()
    }

    fn guesses(
        at: u64,
        bytes: &[u8],
        randoms: &[[u8; 32]],
        shapes: Shapes,
    ) -> Vec<(Option<usize>, Vec<u8>, usize)> {
        let mut image = Image::default();
        image.put(at, bytes);
        let maps =
            Maps::parse(format!("{at:x}-{:x} rw-p 0 00:00 0 [heap]\n", at + bytes.len() as u64).as_bytes());
        let found = find(&image, &maps, randoms, shapes, Schedules::Unwanted);
        let short = |guess: &Guess| (guess.session, guess.traffic[0][..4].to_vec(), guess.traffic.len());
        found.guesses.iter().map(short).collect()
    }

    #[test]
    fn secrets_lie_at_a_library_s_distance_from_the_random_bytes() {
        let random: [u8; 32] = hash(9, 32).try_into().unwrap();
        for (one, other, room) in [(0xf0, 0x121, 48), (0x5f4, 0x634, 48)] {
            let mut memory = vec![0; 0x4000];
            memory[0x100..0x120].copy_from_slice(&random);
            memory[0x100 + one..][..room].copy_from_slice(&hash(1, room));
            memory[0x100 + other..][..room].copy_from_slice(&hash(2, room));
            let got = guesses(0x7000, &memory, &[[0xee; 32], random], Shapes::None);
            assert!(got.contains(&(Some(1), hash(1, 4), 2)), "{one:x}: {got:?}");
        }
    }

    #[test]
    fn two_blocks_side_by_side_are_a_session_of_rustls() {
        for behind in [true, false] {
            let mut memory = vec![0; 0x1000];
            for (n, seed) in [1u8, 2].into_iter().enumerate() {
                let at = 0x208 + 72 * n;
                let (bytes, used) = if behind { (at, at + 64) } else { (at + 8, at) };
                memory[bytes..bytes + 48].copy_from_slice(&hash(seed, 48));
                memory[used] = 48;
            }
            let got = guesses(0x7000, &memory, &[], Shapes::Blocks);
            assert_eq!(got, [(None, hash(1, 4), 2)], "{behind}");
        }
    }

    #[test]
    fn blocks_side_by_side_are_one_guess_wherever_pieces_end() {
        let places = (MAX_READ - 400..MAX_READ + 8).step_by(8);
        for (behind, at) in places.flat_map(|at| [(true, at), (false, at)]) {
            let mut memory = vec![0; MAX_READ * 2];
            for (n, seed) in [1u8, 2, 3, 4].into_iter().enumerate() {
                let at = at + 72 * n;
                let (bytes, used) = if behind { (at, at + 64) } else { (at + 8, at) };
                memory[bytes..bytes + 48].copy_from_slice(&hash(seed, 48));
                memory[used] = 48;
            }
            let got = guesses(0x7000, &memory, &[], Shapes::Blocks);
            assert_eq!(got, [(None, hash(1, 4), 4)], "{at}, {behind}");
        }
    }

    #[test]
    fn shapes_are_seen_wherever_pieces_end() {
        for at in (MAX_READ - 200..MAX_READ + 8).step_by(8) {
            let mut memory = vec![0; MAX_READ * 2];
            for (n, seed) in [1u8, 2].into_iter().enumerate() {
                memory[at + 72 * n..][..32].copy_from_slice(&hash(seed, 32));
                memory[at + 72 * n + 64] = 32;
            }
            assert_eq!(guesses(0x7000, &memory, &[], Shapes::Blocks).len(), 1, "{at}");
        }
    }

    #[test]
    fn an_expanded_key_is_found_once_wherever_pieces_end() {
        let schedule = schedules::tests::expand(&hash(5, 32));
        for at in (MAX_READ - 300..MAX_READ + 8).step_by(4) {
            let mut memory = vec![0; MAX_READ * 2];
            memory[at..at + schedule.len()].copy_from_slice(&schedule);
            memory[at + 1000..at + 1000 + schedule.len()].copy_from_slice(&schedule);
            let mut image = Image::default();
            image.put(0x7000, memory);
            let maps = Maps::parse(b"7000-27000 rw-p 0 00:00 0\n");
            let found = find(&image, &maps, &[], Shapes::None, Schedules::Wanted);
            assert_eq!(found.keys, [Key::new(hash(5, 32))], "{at}");
            assert!(find(&image, &maps, &[], Shapes::None, Schedules::Unwanted).keys.is_empty());
        }
    }

    #[test]
    fn arrays_of_a_jvm_are_guesses_of_their_own() {
        let mut memory = vec![0; 0x1000];
        memory[0x40] = 1;
        memory[0x48..0x4c].copy_from_slice(&[0x10, 0x20, 0, 0]);
        memory[0x4c] = 48;
        memory[0x50..0x80].copy_from_slice(&hash(3, 48));
        assert_eq!(guesses(0x7000, &memory, &[], Shapes::Arrays), [(None, hash(3, 4), 1)]);
    }

    #[test]
    fn what_is_not_random_is_no_secret() {
        assert!(!is_random(&[0; 48]));
        assert!(!is_random(b"GET / HTTP/1.1\r\nHost: localhost\r"[..].as_ref()));
        assert!(is_random(&hash(0, 32)));
    }

    #[test]
    fn no_bytes_make_it_panic() {
        for length in [0, 1, 31, 72, 200, 5000] {
            fuzz_secrets(&vec![48; length]);
            fuzz_secrets(&hash(7, length));
        }
    }
}
