//! How the kernel side takes a session's secrets out of its program's memory: where they are, and what it
//! hands over.
//!
//! Secrets never go through the ring. They lie in one map, by the random bytes of their session's ClientHello, until
//! the agent takes them out, which deletes them.

/// "There is none", for an offset.
pub const NOWHERE: u32 = u32::MAX;
/// Places relative to the stack pointer that a plan may name.
pub const SLOTS: usize = 6;
/// Where the kernel side looks for a place that is not known: words of the stack from here up to there, in bytes above
/// the stack pointer. Between a system call and `crypto/tls`'s own frames lie 648 to 824 in Go 1.19 to 1.27.
pub const SEARCHED: core::ops::Range<u32> = 512..1024;

/// Sessions of one process that have begun and whose secrets were not taken yet. A power of two: more handshakes
/// than that at once in one process overwrite the oldest.
pub const PENDING: usize = 64;
/// How many calls of a new socket look for secrets: a handshake has 6 to 12.
pub const CALLS: u32 = 24;
/// Whether the first four bytes of a message, as a number, are those of a request of HTTP, or of HTTP/2's preface.
#[inline(always)]
pub const fn is_request(word: u32) -> bool {
    const GET: u32 = u32::from_le_bytes(*b"GET ");
    const POST: u32 = u32::from_le_bytes(*b"POST");
    const PUT: u32 = u32::from_le_bytes(*b"PUT ");
    const HEAD: u32 = u32::from_le_bytes(*b"HEAD");
    const PATCH: u32 = u32::from_le_bytes(*b"PATC");
    const DELETE: u32 = u32::from_le_bytes(*b"DELE");
    const OPTIONS: u32 = u32::from_le_bytes(*b"OPTI");
    const PREFACE: u32 = u32::from_le_bytes(*b"PRI ");
    matches!(word, GET | POST | PUT | HEAD | PATCH | DELETE | OPTIONS | PREFACE)
}

/// How often what may be a master secret is taken: a session that resumes another has that one's at first.
pub const TRIES: u8 = 8;
/// Processes whose sessions can be looked into at once.
pub const PROCESSES: u32 = 4096;
/// Sessions whose secrets may lie in the map.
pub const SESSIONS: u32 = 4096;

/// Where things are in the sessions of one process.
#[repr(C)]
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Plan {
    /// What a pointer from the stack must have at `guard` to be a session: an address from here up to there.
    pub guarded: [u64; 2],
    /// Offset of that word in the session.
    pub guard: u32,
    /// The pointer to what holds the random bytes, if it is not the session itself.
    pub random_base: u32,
    /// The ClientHello's random bytes.
    pub random: u32,
    /// The application traffic secrets of TLS 1.3: 64 bytes each; with [`KIND_SLICES`], slices of 32 or 48.
    pub traffic: [u32; 2],
    /// The pointer to what holds the master secret.
    pub master_base: u32,
    /// The master secret of TLS 1.2 in it: 48 bytes.
    pub master: u32,
    /// Where pointers to sessions are at a socket call, above the stack pointer; 0 for none.
    pub slots: [u32; SLOTS],
    /// A `KIND_` constant.
    pub kind: u32,
    /// With [`KIND_CLEAR`]: the 32-bit number in the session that says which party this end is.
    pub party: u32,
    /// Its values at a client and at a server.
    pub parties: [u32; 2],
    /// With [`KIND_CLEAR`], set by the kernel side: bytes were moved that were not counted, of which session is not known.
    pub torn: u32,
    /// With [`KIND_BLOCKS`]: whether what the stacks point to is told ([`Stack`]), 1 or 0.
    pub sampled: u32,
    /// With [`KIND_BLOCKS`]: the ways from a stack to the secrets; a slot of 0 for none.
    pub paths: [Path; PATHS],
    /// Spelled-out padding.
    pub reserved: u32,
}

/// A way from the stack at a socket call to a session's secrets that a search has found.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Path {
    /// Where a pointer lies, above the stack pointer.
    pub slot: u32,
    /// Where behind it a pointer to what holds the secrets lies; [`NOWHERE`] if it points to that itself.
    pub step: u32,
    /// Where in that the first secret begins.
    pub secrets: u32,
}

/// Ways to secrets that a plan may name.
pub const PATHS: usize = 8;
/// Words of a stack that are told: the frames between a system call and a library's own.
pub const STACK_WORDS: usize = 256;
/// Stacks that may wait for the agent. What finds no room is one of many.
pub const STACKS: u32 = 64;

/// What a stack points to at a socket call, from the stack pointer on.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Stack {
    /// The call's connection.
    pub connection: u64,
    /// Whose.
    pub pid: u32,
    /// Zero.
    pub reserved: u32,
    /// Its words, 0 for those that [`may_be_pointer`] denies: they may be anything, secrets among it.
    pub words: [u64; STACK_WORDS],
}

/// Whether a word may be the address of something that a program has allocated: aligned, not in the first page, and below what is the
/// kernel's.
#[inline(always)]
pub const fn may_be_pointer(word: u64) -> bool {
    word >= 4096 && word >> 47 == 0 && word & 7 == 0
}

/// The secrets lie in the session, beside the random bytes.
pub const KIND_PLACES: u32 = 0;
/// The secrets are slices: pointer, length, capacity. There are no random bytes, so the connection says whose they are.
pub const KIND_SLICES: u32 = 1;

/// No secret is taken: probes read what the library's calls move, in clear. Without random bytes a session is known by its socket,
/// and `guard` is where a `netFD` of Go has what the runtime polls it by.
pub const KIND_CLEAR: u32 = 2;

/// The secrets are two blocks of 64 bytes, each with how much of it is used, 72 bytes apart, at the end of a path: rustls. There are
/// no random bytes, so the connection says whose they are, and nothing that they are this one's.
pub const KIND_BLOCKS: u32 = 3;

const _: () = assert!(size_of::<Plan>() == 96 + PATHS * 12 && size_of::<Stack>() == 16 + STACK_WORDS * 8);

/// Set in a process's number where its plan is for GnuTLS: a program may have both libraries. No process's number is as large
/// (`PID_MAX_LIMIT`, include/linux/threads.h).
pub const OF_GNUTLS: u32 = 1 << 31;
/// The same for Go's `crypto/tls`.
pub const OF_GO: u32 = 1 << 30;
/// All that is told apart so.
pub const LIBRARIES: [u32; 3] = [0, OF_GNUTLS, OF_GO];
/// The bits by which it is.
pub const LIBRARY: u32 = OF_GNUTLS | OF_GO;

/// Calls of TLS libraries that may be under way at once.
pub const CLEAR_CALLS: u32 = 16_384;
/// Sessions whose bytes are counted at once.
pub const CLEAR_SESSIONS: u32 = 65_536;

/// A call of a TLS library that is under way: by the process and by where its frame begins, which is unique among the calls that
/// are, in whichever threads, nested or not, and however stacks are switched.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct ClearFrame {
    /// The stack pointer where it was entered; in Go, whose stacks move, the goroutine.
    pub stack: u64,
    /// The thread group id.
    pub pid: u32,
    /// In Go: the words from there to the end of the stack, which are as many wherever it is.
    pub depth: u32,
}

/// What is kept of it until it returns.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct ClearCall {
    /// The session.
    pub session: u64,
    /// The buffer.
    pub buffer: u64,
    /// Where the call will put how many bytes it moved; 0 if it returns that.
    pub count: u64,
    /// When it began.
    pub began: u64,
    /// 1 if it writes.
    pub sends: u64,
    /// Where the stack ended if the buffer lies in it and may move with it, otherwise 0.
    pub top: u64,
}

/// A session at one of its ends, for as long as its bytes are counted: the ClientHello's random bytes, and the process. A
/// session's address is used again, these are not. Of a session that keeps none: its connection, which is not used again either.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct ClearSession {
    /// The ClientHello's random bytes, or the connection and zeroes.
    pub random: [u64; 4],
    /// The thread group id.
    pub pid: u32,
    /// Which party.
    pub party: u32,
}

/// Bytes that a session's calls have moved.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct ClearCount {
    /// Read, written.
    pub moved: [u64; 2],
}

const _: () = assert!(
    size_of::<ClearFrame>() == 16
        && size_of::<ClearCall>() == 48
        && size_of::<ClearSession>() == 40
        && size_of::<ClearCount>() == 16
);

/// Sessions of one process that have begun.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Pending {
    /// How many there have been.
    pub begun: u64,
    /// Their addresses, each in the place of its number modulo [`PENDING`]; 0 once its secrets were taken.
    pub sessions: [u64; PENDING],
    /// How often something was taken of each.
    pub tries: [u8; PENDING],
}

const _: () = assert!(size_of::<Pending>() == 8 + 9 * PENDING);

/// What was found of a session. Bytes that are all zero are none.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Found {
    /// The ClientHello's random bytes.
    pub random: [u8; 32],
    /// Tells what was found from what is found of the same session later: [`Found::mark_of`].
    pub mark: u64,
    /// The application traffic secrets of TLS 1.3.
    pub traffic: [[u8; 64]; 2],
    /// The master secret of TLS 1.2.
    pub master: [u8; 48],
    /// What lies before and behind traffic secrets that are blocks side by side: of which two of these are the right ones, a record's
    /// tag must tell.
    pub beside: [[u8; 64]; 2],
    /// The connection at whose call the session's address was on the stack; 0 if it was found elsewhere.
    pub connection: u64,
    /// Whose.
    pub pid: u32,
    /// Zero.
    pub reserved: u32,
}

impl Found {
    /// A mark of secrets, which says nothing of them. They are taken out and deleted in two steps, and what is found in
    /// between must not be deleted for what was taken; nor must what was found at one end for what was found at the other.
    #[inline(always)]
    pub fn mark_of(words: [u64; 3], connection: u64) -> u64 {
        let [client, server, master] = words;
        // Any odd number does; this one is 2^64 divided by the golden ratio.
        (client ^ server.rotate_left(21) ^ master.rotate_left(42)).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40
            ^ connection
    }
}

/// What a session's secrets lie under in the map: its random bytes and the mark.
pub type FoundKey = [u8; 40];

const _: () = assert!(size_of::<Found>() == 232 + 128);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_differs_in_a_secret_or_in_the_end_that_it_was_found_at_has_another_mark() {
        let marks = [
            Found::mark_of([1, 2, 3], 7),
            Found::mark_of([1, 2, 4], 7),
            Found::mark_of([2, 1, 3], 7),
            Found::mark_of([0, 0, 3], 7),
            Found::mark_of([1, 2, 3], 8),
        ];
        for (n, mark) in marks.iter().enumerate() {
            assert!(!marks[..n].contains(mark), "{marks:x?}");
        }
    }

    #[test]
    fn a_request_is_told_from_a_record_of_tls_and_from_what_precedes_one() {
        let word = |bytes: &[u8; 4]| u32::from_le_bytes(*bytes);
        for request in [b"GET ", b"POST", b"PRI ", b"DELE"] {
            assert!(is_request(word(request)));
        }
        for other in [b"\x16\x03\x01\x02", b"\x17\x03\x03\0", b"HTTP", b"CONN", b"STAR", b"EHLO"] {
            assert!(!is_request(word(other)));
        }
    }

    #[test]
    fn a_mark_does_not_tell_a_secret() {
        assert!(Found::mark_of([u64::MAX, 0, 0], 0) < 1 << 24);
    }
}
