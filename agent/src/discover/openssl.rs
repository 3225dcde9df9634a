//! Where OpenSSL and its kin, and GnuTLS, keep a session's secrets: read out of the library's own accessors.
//!
//! ```text
//!   SSL_get_client_random ─▶ lea K(%rdi)             the random bytes are at K
//!   SSL_get_session       ─▶ mov K(%rdi),%rax        the pointer to the SSL_SESSION
//!   SSL_SESSION_get_master_key ─▶ lea K(%rdi)        the master secret in it
//!   gnutls_session_get_random ─▶ lea K(%rdi),%rax    the random bytes of GnuTLS
//! ```
//! No accessor exists for the traffic secrets of TLS 1.3; they lie at a constant distance from what is known, by a
//! table that is no more than a first guess: the tag of the first record is what proves it. Nothing here reads a process,
//! and it must never fail worse than by finding nothing: the file is anybody's.

use iced_x86::{Decoder, DecoderOptions, Mnemonic, OpKind, Register};
use spandrel_proto::tls::NOWHERE;

use super::elf::Elf;

/// What is known of a library, in addresses and offsets of its own.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Library {
    /// The pointer to what holds the ClientHello's random bytes, if it is not the session.
    pub random_base: u32,
    /// The random bytes.
    pub random: u32,
    /// The traffic secrets; [`NOWHERE`] if this build is not in the table.
    pub traffic: [u32; 2],
    /// The pointer to the `SSL_SESSION`.
    pub master_base: u32,
    /// The master secret in it.
    pub master: u32,
    /// File offsets at which a session begins.
    pub begins: Vec<u64>,
    /// The library's line of versions, for whoever reads the log.
    pub kind: &'static str,
}

/// Bytes of a function that are looked at: what is looked for stands among the first instructions.
const LOOKED_AT: usize = 256;

/// Bytes of names in a table for debuggers that are read in search of the accessors; a program with OpenSSL linked in that
/// exports none of them, and has more than this, is not read.
pub(super) const MAX_DEBUG_NAMES: u64 = 4 << 20;

/// A program's own sessions are no smaller than this, and no larger: offsets beyond are not believed.
const OFFSETS: std::ops::RangeInclusive<u64> = 0x8..=0x2000;

/// Where a session begins. `SSL_connect` and `SSL_accept` call these when nobody else has.
const BEGINS: [&str; 2] = ["SSL_set_connect_state", "SSL_set_accept_state"];

/// What holds the random bytes and where, the traffic secrets, the line of versions.
/// `ssl/ssl_local.h` of each: `s3.client_random`, `client_app_traffic_secret`, `server_app_traffic_secret`.
const TABLE: [(u32, u32, [u32; 2], &str); 4] = [
    (0xa8, 0xb8, [0x33c, 0x37c], "OpenSSL 1.1.1"),
    (NOWHERE, 0x160, [0x744, 0x784], "OpenSSL 3.0"),
    (NOWHERE, 0x140, [0x6fc, 0x73c], "OpenSSL 3.2 or 3.3"),
    (NOWHERE, 0x188, [0x77c, 0x7bc], "OpenSSL 3.5"),
];

/// From the random bytes of GnuTLS 3.7 to `key.proto.tls13.ap_ckey` and `ap_skey` (`lib/gnutls_int.h`), and its line of versions.
const GNUTLS: ([u32; 2], &str) = ([0x17c4, 0x1804], "GnuTLS");

impl Library {
    /// Reads it out of a file; none if the file has no such accessors.
    pub fn of(elf: &Elf) -> Option<Self> {
        Self::of_openssl(elf).or_else(|| Self::of_gnutls(elf))
    }

    /// True if TLS 1.2 is found by a search alone, and what the table says of 1.3 is true of few builds.
    pub fn is_gnutls(&self) -> bool {
        self.kind == GNUTLS.1
    }

    fn of_gnutls(elf: &Elf) -> Option<Self> {
        let random = super::plaintext::gnutls_random(elf)?;
        let ([client, server], kind) = GNUTLS;
        // Called once for each session, or some times if it would block: sessions that have begun are looked for by content.
        let begins = elf.file_offset(elf.symbol_within("gnutls_handshake", MAX_DEBUG_NAMES)?.address)?;
        Some(Self {
            random_base: NOWHERE,
            random,
            traffic: [random + client, random + server],
            master_base: NOWHERE,
            master: NOWHERE,
            begins: vec![begins],
            kind,
        })
    }

    fn of_openssl(elf: &Elf) -> Option<Self> {
        let code = |name: &str| {
            let symbol = elf.symbol_within(name, MAX_DEBUG_NAMES)?;
            Some((symbol.address, elf.bytes_at(symbol.address, LOOKED_AT)?))
        };
        let (address, bytes) = code("SSL_get_client_random")?;
        let (random_base, random) = random(address, &bytes)?;
        let master_base = code("SSL_get_session").and_then(|(at, bytes)| loaded(at, &bytes));
        let master = code("SSL_SESSION_get_master_key").and_then(|(at, bytes)| pointed_to(at, &bytes));
        let begins = BEGINS
            .iter()
            .filter_map(|name| elf.file_offset(elf.symbol_within(name, MAX_DEBUG_NAMES)?.address))
            .collect();
        let row = TABLE.iter().find(|row| (row.0, row.1) == (random_base, random));
        let (master_base, master) = master_base.zip(master).unwrap_or((NOWHERE, NOWHERE));
        Some(Self {
            random_base,
            random,
            traffic: row.map_or([NOWHERE; 2], |row| row.2),
            master_base,
            master,
            begins,
            kind: row.map_or("a library like OpenSSL", |row| row.3),
        })
    }
}

fn is_general(register: Register) -> bool {
    (Register::RAX as u32..=Register::R15 as u32).contains(&(register as u32))
}

fn offset(displacement: u64) -> Option<u32> {
    OFFSETS.contains(&displacement).then_some(displacement as u32)
}

/// The place of the random bytes: the first address that is taken, and what it is relative to.
pub(super) fn random(address: u64, bytes: &[u8]) -> Option<(u32, u32)> {
    let (mut base, mut base_register) = (NOWHERE, Register::None);
    for instruction in Decoder::with_ip(64, bytes, address, DecoderOptions::NONE).iter().take(48) {
        let memory = instruction.memory_base();
        match instruction.mnemonic() {
            Mnemonic::Mov
                if instruction.op1_kind() == OpKind::Memory
                    && memory == Register::RDI
                    && instruction.memory_index() == Register::None
                    && is_general(instruction.op0_register())
                    && instruction.memory_displacement64() >= 0x40 =>
            {
                base = offset(instruction.memory_displacement64())?;
                base_register = instruction.op0_register();
            }
            Mnemonic::Lea
                if instruction.memory_index() == Register::None
                    && is_general(memory)
                    && memory != Register::RSP
                    && memory != Register::RBP
                    && instruction.memory_displacement64() >= 0x40 =>
            {
                let random = offset(instruction.memory_displacement64())?;
                return Some((if memory == base_register { base } else { NOWHERE }, random));
            }
            Mnemonic::Ret => return None,
            _ => {}
        }
    }
    None
}

/// The member that a function returns: the last that is read into `rax` before it returns.
fn loaded(address: u64, bytes: &[u8]) -> Option<u32> {
    let mut found = None;
    for instruction in Decoder::with_ip(64, bytes, address, DecoderOptions::NONE).iter().take(24) {
        match instruction.mnemonic() {
            Mnemonic::Mov
                if instruction.op1_kind() == OpKind::Memory
                    && instruction.op0_register() == Register::RAX
                    && is_general(instruction.memory_base())
                    && instruction.memory_index() == Register::None =>
            {
                found = offset(instruction.memory_displacement64()).or(found);
            }
            Mnemonic::Ret => return found,
            _ => {}
        }
    }
    found
}

/// The member whose address a function takes first.
fn pointed_to(address: u64, bytes: &[u8]) -> Option<u32> {
    for instruction in Decoder::with_ip(64, bytes, address, DecoderOptions::NONE).iter().take(48) {
        match instruction.mnemonic() {
            Mnemonic::Lea | Mnemonic::Add
                if instruction.mnemonic() == Mnemonic::Lea
                    && is_general(instruction.memory_base())
                    && instruction.memory_base() != Register::RSP
                    && instruction.memory_index() == Register::None =>
            {
                return offset(instruction.memory_displacement64());
            }
            Mnemonic::Ret => return None,
            _ => {}
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    /// OpenSSL 3.0.19, Debian: `lea 0x160(%rdi),%rsi` after four other instructions.
    const RANDOM_3_0: &[u8] = &[
        0x48, 0x89, 0xf1, 0xb8, 0x20, 0, 0, 0, 0x48, 0x85, 0xd2, 0x74, 0x58, 0x48, 0x39, 0xc2, 0x48, 0x8d,
        0xb7, 0x60, 0x01, 0, 0,
    ];
    /// OpenSSL 1.1.1: `mov 0xa8(%rdi),%rdi; lea 0xb8(%rdi),%rsi`.
    const RANDOM_1_1: &[u8] = &[0x48, 0x8b, 0xbf, 0xa8, 0, 0, 0, 0x48, 0x8d, 0xb7, 0xb8, 0, 0, 0, 0xc3];
    /// `mov 0x918(%rdi),%rax; xor %edi,%edi; ret`
    const SESSION_3_0: &[u8] = &[0x48, 0x8b, 0x87, 0x18, 0x09, 0, 0, 0x31, 0xff, 0xc3];
    /// `push %rbx; mov %rdi,%rax; mov 8(%rdi),%rbx; lea 0x50(%rax),%rsi`
    const MASTER_3_0: &[u8] = &[0x53, 0x48, 0x89, 0xf8, 0x48, 0x8b, 0x5f, 0x08, 0x48, 0x8d, 0x70, 0x50, 0xc3];

    #[test]
    fn offsets_stand_in_the_accessors() {
        assert_eq!(random(0x1000, RANDOM_3_0), Some((NOWHERE, 0x160)));
        assert_eq!(random(0x1000, RANDOM_1_1), Some((0xa8, 0xb8)));
        assert_eq!(loaded(0x1000, SESSION_3_0), Some(0x918));
        assert_eq!(pointed_to(0x1000, MASTER_3_0), Some(0x50));
    }

    #[test]
    fn code_that_does_something_else_says_nothing() {
        assert_eq!(random(0, &[0xc3]), None);
        assert_eq!(random(0, &[]), None);
        // An offset that no session has: lea 0x7fffffff(%rdi),%rsi.
        assert_eq!(random(0, &[0x48, 0x8d, 0xb7, 0xff, 0xff, 0xff, 0x7f]), None);
        assert_eq!(loaded(0, &[0x90; 256]), None);
        assert_eq!(pointed_to(0, &[0xff; 256]), None);
    }
}
