//! Which functions of a TLS library move plaintext, and how its sessions are told apart: read out of the library's own code.
//!
//! ```text
//!   SSL_get_client_random, gnutls_session_get_random ─▶ where the ClientHello's random bytes are
//!   SSL_is_server ─▶ mov K(%rdi),%eax                   which party a session is
//!   .gopclntab ─▶ crypto/tls.(*Conn).Read, .Write       where they begin, and every `ret` of theirs
//! ```
//! A call is counted once, so no two functions of a list may call one another for the bytes of one call: those of OpenSSL share
//! what is below them, `gnutls_record_send` jumps to `gnutls_record_send2`. LibreSSL's do call one another, and are not read.
//! Nothing here reads a process; the file is anybody's.

use iced_x86::{Decoder, DecoderOptions, Instruction, Mnemonic, OpKind, Register};
use spandrel_proto::tls::{NOWHERE, OF_GNUTLS, OF_GO};

use super::elf::{Elf, Symbol};
use super::runtimes::go::table::{self, Function};
use super::{code, go_tls, openssl};

/// What is known of a library.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Functions {
    /// The pointer to what holds the random bytes, if it is not the session.
    pub random_base: u32,
    /// The ClientHello's random bytes; [`NOWHERE`] if a session keeps none, and is known by its socket.
    pub random: u32,
    /// Where a `netFD` has what it is polled by, of sessions that are known by their socket.
    pub polled: u32,
    /// The number that says which party a session is; [`NOWHERE`] if it is not known.
    pub party: u32,
    /// What it is at a client and at a server.
    pub parties: [u32; 2],
    /// What is probed, in this order: kernel programs and offsets in the file. No return may be seen of a call whose beginning was
    /// not.
    pub probes: Vec<(&'static str, u64)>,
    /// What is set in the key of a plan for it.
    pub library: u32,
    /// The library, for whoever reads the log.
    pub kind: &'static str,
}

/// Functions of OpenSSL and the programs for them. `SSL_peek` moves nothing: what it shows is read again.
const OPENSSL: [(&str, &str); 4] = [
    ("SSL_read", "clear_read"),
    ("SSL_write", "clear_write"),
    ("SSL_read_ex", "clear_read_counted"),
    ("SSL_write_ex", "clear_write_counted"),
];

/// Those of GnuTLS since 3.6.3.
const GNUTLS: [(&str, &str); 2] =
    [("gnutls_record_recv", "gnutls_read"), ("gnutls_record_send2", "gnutls_write")];

/// Those of Go.
const GO: [(&str, &str); 2] =
    [("crypto/tls.(*Conn).Read", "go_read"), ("crypto/tls.(*Conn).Write", "go_write")];

/// Bytes of a function that are looked at.
const LOOKED_AT: usize = 256;

/// Where members of a session may be that are looked for: before them stands what kind of object it is (OpenSSL 3.2 and later look
/// at that first), which is the same for all.
const OFFSETS: std::ops::RangeInclusive<u64> = 0x20..=0x2000;

impl Functions {
    /// Reads them out of a file; none if it has no such functions.
    pub fn of(elf: &Elf) -> Option<Self> {
        Self::of_go(elf).or_else(|| Self::of_openssl(elf)).or_else(|| Self::of_gnutls(elf))
    }

    fn of_openssl(elf: &Elf) -> Option<Self> {
        // Neither LibreSSL nor BoringSSL has it; both have other ways from one of these functions to another.
        symbol(elf, "SSL_stateless")?;
        let (at, code) = code_of(elf, "SSL_get_client_random")?;
        let (random_base, random) = openssl::random(at, &code)?;
        let party = code_of(elf, "SSL_is_server").and_then(|(at, code)| member(at, &code));
        Some(Self {
            random_base,
            random,
            polled: NOWHERE,
            party: party.unwrap_or(NOWHERE),
            parties: [0, 1],
            probes: with_returns(entries(elf, &OPENSSL)?, "clear_returned"),
            library: 0,
            kind: "OpenSSL",
        })
    }

    fn of_gnutls(elf: &Elf) -> Option<Self> {
        let random = gnutls_random(elf)?;
        Some(Self {
            random_base: NOWHERE,
            random,
            polled: NOWHERE,
            // lib/gnutls_int.h: a session begins with `security_parameters_st`, which begins with `entity`;
            // lib/includes/gnutls/gnutls.h.in: GNUTLS_CLIENT, GNUTLS_SERVER.
            party: 0,
            parties: [2, 1],
            probes: with_returns(entries(elf, &GNUTLS)?, "gnutls_returned"),
            library: OF_GNUTLS,
            kind: "GnuTLS",
        })
    }

    fn of_go(elf: &Elf) -> Option<Self> {
        let go = go_tls::Go::of(elf)?;
        let found = table::of(elf, &GO.map(|(name, _)| name))?.found;
        let mut probes = Vec::new();
        let mut returns = Vec::new();
        for (function, (_, program)) in found.into_iter().zip(GO) {
            let function = function?;
            probes.push((program, elf.file_offset(function.address)?));
            for at in go_returns(elf, function)? {
                returns.push(("go_returned", elf.file_offset(at)?));
            }
        }
        probes.extend(returns);
        Some(Self {
            random_base: NOWHERE,
            random: NOWHERE,
            polled: go.polled,
            // `crypto/tls/conn.go`: `Conn.conn`, then `Conn.isClient`, a byte and nothing up to the next word.
            party: 16,
            parties: [1, 0],
            probes,
            library: OF_GO,
            kind: "Go's crypto/tls",
        })
    }
}

/// A return probe for each of these functions.
fn with_returns(mut entries: Vec<(&'static str, u64)>, returned: &'static str) -> Vec<(&'static str, u64)> {
    let returns: Vec<_> = entries.iter().map(|(_, at)| (returned, *at)).collect();
    entries.extend(returns);
    entries
}

/// The addresses of a function's own returns. Go's compiler makes no jump from one function into another.
fn go_returns(elf: &Elf, function: Function) -> Option<Vec<u64>> {
    let Function { address, size } = function;
    let found = code::returns(address, size, &|address, length| elf.bytes_at(address, length)).ok()?;
    let end = address.checked_add(size)?;
    Some(found.into_iter().map(|at| at.address).filter(|at| (address..end).contains(at)).collect())
}

/// Where a session of GnuTLS keeps the ClientHello's random bytes.
pub(super) fn gnutls_random(elf: &Elf) -> Option<u32> {
    let (at, code) = code_of(elf, "gnutls_session_get_random")?;
    address(at, &code)
}

fn symbol(elf: &Elf, name: &str) -> Option<Symbol> {
    elf.symbol_within(name, openssl::MAX_DEBUG_NAMES)
}

fn code_of(elf: &Elf, name: &str) -> Option<(u64, Vec<u8>)> {
    let symbol = symbol(elf, name)?;
    Some((symbol.address, elf.bytes_at(symbol.address, LOOKED_AT)?))
}

/// All of these functions that there are, each once; none if nothing would be read, or nothing written.
fn entries(elf: &Elf, functions: &[(&str, &'static str)]) -> Option<Vec<(&'static str, u64)>> {
    let mut entries: Vec<(&'static str, u64)> = Vec::new();
    for (name, program) in functions {
        let Some(offset) = symbol(elf, name).and_then(|symbol| elf.file_offset(symbol.address)) else {
            continue;
        };
        // One function by two names would be counted twice.
        if entries.iter().any(|(_, known)| *known == offset) {
            return None;
        }
        entries.push((program, offset));
    }
    let has = |part: &str| entries.iter().any(|(program, _)| program.contains(part));
    (has("read") && has("write")).then_some(entries)
}

fn instructions(address: u64, code: &[u8]) -> impl Iterator<Item = Instruction> {
    Decoder::with_ip(64, code, address, DecoderOptions::NONE).into_iter().take(48)
}

fn offset(displacement: u64) -> Option<u32> {
    OFFSETS.contains(&displacement).then_some(displacement as u32)
}

/// The 32-bit member of its argument that a function returns.
fn member(address: u64, code: &[u8]) -> Option<u32> {
    for instruction in instructions(address, code) {
        match instruction.mnemonic() {
            Mnemonic::Mov
                if instruction.op0_register() == Register::EAX
                    && instruction.op1_kind() == OpKind::Memory
                    && instruction.memory_base() == Register::RDI
                    && instruction.memory_index() == Register::None
                    && instruction.memory_displacement64() >= *OFFSETS.start() =>
            {
                return offset(instruction.memory_displacement64());
            }
            // Another register may hold the argument behind these.
            Mnemonic::Ret | Mnemonic::Call | Mnemonic::Jmp => return None,
            _ => {}
        }
    }
    None
}

/// The member of its argument whose address a function takes first.
fn address(address: u64, code: &[u8]) -> Option<u32> {
    for instruction in instructions(address, code) {
        match instruction.mnemonic() {
            Mnemonic::Lea
                if instruction.memory_base() == Register::RDI
                    && instruction.memory_index() == Register::None =>
            {
                return offset(instruction.memory_displacement64());
            }
            Mnemonic::Ret | Mnemonic::Call | Mnemonic::Jmp => return None,
            _ => {}
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    /// OpenSSL 3.0.19, Debian: `mov 0x38(%rdi),%eax; xor %edi,%edi; ret`.
    const IS_SERVER: &[u8] = &[0x8b, 0x47, 0x38, 0x31, 0xff, 0xc3];
    /// GnuTLS 3.7.9, Debian: `test %rsi,%rsi; je; lea 0x50(%rdi),%rax; movl $0x20,0x8(%rsi)`.
    const GET_RANDOM: &[u8] =
        &[0x48, 0x85, 0xf6, 0x74, 0x0e, 0x48, 0x8d, 0x47, 0x50, 0xc7, 0x46, 0x08, 0x20, 0, 0, 0, 0xc3];

    #[test]
    fn a_party_and_the_random_bytes_are_read_out_of_accessors() {
        assert_eq!(member(0x1000, IS_SERVER), Some(0x38));
        assert_eq!(address(0x1000, GET_RANDOM), Some(0x50));
    }

    #[test]
    fn what_kind_of_object_it_is_is_not_the_party() {
        // mov (%rdi),%eax; test %eax,%eax; jne; mov 0x78(%rdi),%eax; ret
        let code = [0x8b, 0x07, 0x85, 0xc0, 0x75, 0x04, 0x8b, 0x47, 0x78, 0xc3];
        assert_eq!(member(0, &code), Some(0x78));
    }

    #[test]
    fn code_that_does_something_else_says_nothing() {
        for code in [&[][..], &[0xc3], &[0x90; 256], &[0xff; 256]] {
            assert_eq!((member(0, code), address(0, code)), (None, None), "{code:x?}");
        }
        // mov 0x7fffffff(%rdi),%eax
        assert_eq!(member(0, &[0x8b, 0x87, 0xff, 0xff, 0xff, 0x7f, 0xc3]), None);
        // jmp, and what would have said it behind.
        assert_eq!(member(0, &[0xeb, 0x00, 0x8b, 0x47, 0x38, 0xc3]), None);
    }
}
