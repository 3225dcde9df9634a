//! Where a program spawns tasks: the one thing about descent that no memory tells afterwards.
//!
//! With symbols it is the entry of `OwnedTasks::bind_inner`, whose second argument is the new task's header. Without
//! them it is the loop that draws a task's id, which the compiler leaves at each spawn (tokio, `runtime/task/id.rs`:
//! *add 1 to a counter, again if it was 0*):
//!
//! ```text
//!   again: mov $1, R  │  lock xadd R, counter(%rip)  │  test R, R  │  je again         at `test`, R is the child's id
//! ```
//! Other counters are drawn in the same way (threads have ids too), so the counter must fit the ids that live tasks
//! have. It must never offer a place whose bytes are not exactly these: a probe in the middle of an instruction breaks
//! the program, so the bytes are compared again when it is attached.

use std::collections::BTreeMap;

/// A place where a task's id is in a register.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Site {
    /// The address of the `test` in the file's terms.
    pub address: u64,
    /// The register with the id, as instructions number them.
    pub register: u8,
    /// The bytes of the `test`.
    pub bytes: [u8; 3],
}

/// Sites by the address of the counter that they draw from.
pub type Sites = BTreeMap<u64, Vec<Site>>;

/// Finds the loops in code that is loaded at this address (in the file's terms).
pub fn search(code: &[u8], address: u64) -> Sites {
    let mut sites = Sites::new();
    for at in memchr::memmem::find_iter(code, b"\x0f\xc1") {
        let Some((counter, site)) = drawn(code, address, at) else { continue };
        let all = sites.entry(counter).or_default();
        if all.len() < MAX_SITES {
            all.push(site);
        }
    }
    sites
}

/// The loop around the `0f c1` at this place, if it is one.
fn drawn(code: &[u8], address: u64, at: usize) -> Option<(u64, Site)> {
    // f0 REX.W 0f c1 modrm disp32: `lock xadd R, disp32(%rip)`.
    let start = at.checked_sub(2)?;
    let &[lock, rex, _, _, modrm, a, b, c, d, t0, t1, t2, je, back, ..] = code.get(start..)? else {
        return None;
    };
    if lock != 0xf0 || !matches!(rex, 0x48 | 0x4c) || modrm & 0b1100_0111 != 0b101 {
        return None;
    }
    let register = (modrm >> 3 & 7) | if rex == 0x4c { 8 } else { 0 };
    let behind = address.checked_add(start as u64)?.checked_add(XADD)?;
    let counter = behind.wrapping_add_signed(i64::from(i32::from_le_bytes([a, b, c, d])));
    // `test R, R`: REX.W 85 /r with R twice.
    let same = register & 7;
    let (test_rex, test_modrm) = (if register >= 8 { 0x4d } else { 0x48 }, 0b1100_0000 | same << 3 | same);
    if [t0, t1, t2] != [test_rex, 0x85, test_modrm] || je != 0x74 {
        return None;
    }
    // `je` leads back to the `mov $1, R` right before: 5 bytes, or 6 with a REX prefix.
    let moved: &[u8] = match register {
        0..=7 => &[0xb8 | same, 1, 0, 0, 0],
        _ => &[0x41, 0xb8 | same, 1, 0, 0, 0],
    };
    let first = start.checked_sub(moved.len())?;
    let jump = XADD as usize + 3 + 2 + moved.len();
    if code.get(first..start)? != moved || i8::try_from(jump).ok()?.checked_neg()? != back as i8 {
        return None;
    }
    Some((counter, Site { address: behind, register, bytes: [t0, t1, t2] }))
}

/// The sites of the one counter that can be tasks': its value follows the largest id of a live task closely.
pub fn of_tasks(sites: &Sites, largest: u64, value: impl Fn(u64) -> Option<u64>) -> Option<&[Site]> {
    let mut fitting = sites.iter().filter(|(counter, _)| {
        value(**counter).is_some_and(|next| next > largest && next - largest <= AHEAD)
    });
    match (fitting.next(), fitting.next()) {
        (Some((_, sites)), None) => Some(sites),
        _ => None,
    }
}

/// The bytes of `lock xadd R, disp32(%rip)`.
const XADD: u64 = 9;
/// Sites of one counter that are noted; a large program has some hundred spawns.
const MAX_SITES: usize = 512;
/// How far the counter may be ahead of the largest id that was met: tasks that wait for no descriptor were not met.
const AHEAD: u64 = 1 << 20;

/// Fuzz body: whatever the code is, each site is the whole loop, in bounds and with its own bytes.
pub fn fuzz_code(data: &[u8]) {
    const BASE: u64 = 0x1000;
    for site in search(data, BASE).values().flatten() {
        let at = (site.address - BASE) as usize;
        assert_eq!(data.get(at..at + 3), Some(&site.bytes[..]), "{site:?}");
        assert!(site.register < 16 && data.get(at + 3) == Some(&0x74));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// From a stripped release build with fat LTO (rustc 1.95, tokio 1.54): `%rax`, `%rsi`, `%r13`.
    const LOOPS: &str = "\
        b801000000f0480fc1057a3f13004885c074ed \
        be01000000f0480fc1355a210f004885f674ed \
        41bd01000000f04c0fc12d096207004d85ed74ec";

    fn code(text: &str) -> Vec<u8> {
        let digits: Vec<u8> = text.bytes().filter(u8::is_ascii_hexdigit).collect();
        digits.chunks(2).map(|d| u8::from_str_radix(std::str::from_utf8(d).unwrap(), 16).unwrap()).collect()
    }

    #[test]
    fn loops_that_draw_an_id_are_found_with_their_register() {
        let found = search(&code(LOOPS), 0x1000);
        let registers: Vec<u8> = found.values().flatten().map(|site| site.register).collect();
        let mut sorted = registers.clone();
        sorted.sort_unstable();
        assert_eq!(sorted, [0, 6, 13]);
    }

    #[test]
    fn the_place_is_the_test_and_the_counter_is_relative_to_it() {
        let found = search(&code("b801000000f0480fc105000100004885c074ed"), 0x1000);
        let site = Site { address: 0x100e, register: 0, bytes: [0x48, 0x85, 0xc0] };
        assert_eq!(found, Sites::from([(0x110e, vec![site])]));
    }

    #[test]
    fn what_differs_in_any_byte_is_no_loop() {
        let whole = code("b801000000f0480fc105000100004885c074ed");
        for at in (0..whole.len()).filter(|at| !(10..14).contains(at)) {
            let mut spoilt = whole.clone();
            spoilt[at] ^= 1;
            // A bit of the register's number at one place disagrees with the others.
            assert!(search(&spoilt, 0x1000).is_empty(), "byte {at}");
        }
        for end in 0..whole.len() {
            assert!(search(&whole[..end], 0x1000).is_empty(), "cut at {end}");
        }
    }

    #[test]
    fn only_a_counter_that_fits_the_ids_is_tasks() {
        let site = |address| Site { address, register: 0, bytes: [0x48, 0x85, 0xc0] };
        let sites = Sites::from([(0x10, vec![site(1)]), (0x20, vec![site(2)])]);
        let of = |a, b| {
            of_tasks(&sites, 100, |counter| Some(if counter == 0x10 { a } else { b })).map(<[Site]>::to_vec)
        };
        assert_eq!(of(5, 120), Some(vec![site(2)]));
        assert_eq!(of(101, 5), Some(vec![site(1)]));
        assert_eq!(of(5, 6), None);
        assert_eq!(of(110, 120), None, "two that fit");
    }

    #[test]
    fn no_code_makes_a_site_that_is_not_there() {
        fuzz_code(&code(LOOPS));
        fuzz_code(b"\x0f\xc1");
        fuzz_code(b"\xf0\x48\x0f\xc1\x05");
    }
}
