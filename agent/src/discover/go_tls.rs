//! Where Go's `crypto/tls` keeps a connection's secrets: by the version that a program says it was built with.
//!
//! The offsets are those of `crypto/tls.Conn` in that version's sources: guesses. What lies there must have the shape of
//! a secret, and its tag must open a record. Nothing here reads a process.

use super::elf::Elf;

/// A program written in Go.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Go {
    /// Its minor version: 24 of `go1.24.3`.
    pub minor: u32,
    /// Offsets of `Conn.in.trafficSecret` and `Conn.out.trafficSecret`.
    pub traffic: [u32; 2],
    /// Offset of `poll.FD.pd.runtimeCtx` in a `netFD`, which begins with it.
    pub polled: u32,
}

impl Go {
    /// Reads the version out of a file; none if it is not one of Go, or of a version that is not known.
    pub fn of(elf: &Elf) -> Option<Self> {
        let minor = version(&elf.section_bytes(".go.buildinfo", 4096)?)?;
        // `crypto/tls/conn.go`: `Conn.in`, `Conn.out` and `halfConn.trafficSecret` of each.
        let traffic = match minor {
            26 => [368 + 128, 520 + 128],
            19 | 20 => [344 + 120, 488 + 120],
            21..=23 => [376 + 128, 528 + 128],
            24 | 25 => [384 + 128, 536 + 128],
            27..=29 => [392 + 128, 544 + 128],
            _ => return None,
        };
        // `internal/poll/fd_unix.go`: a mutex, `Sysfd`, since 1.21 `SysFile`, `pd`.
        let polled = if minor < 21 { 24 } else { 32 };
        Some(Self { minor, traffic, polled })
    }
}

/// `debug/buildinfo` of Go: since 1.18 the version stands in the section itself, behind its length.
fn version(info: &[u8]) -> Option<u32> {
    const MAGIC: &[u8] = b"\xff Go buildinf:";
    const INLINE: u8 = 2;
    if !info.starts_with(MAGIC) || info.get(15)? & INLINE == 0 {
        return None;
    }
    let length = usize::from(*info.get(32)?).min(64);
    let text = std::str::from_utf8(info.get(33..33 + length)?).ok()?;
    let minor = text.strip_prefix("go1.")?;
    let end = minor.find(|c: char| !c.is_ascii_digit()).unwrap_or(minor.len());
    minor.get(..end)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn info(version: &str) -> Vec<u8> {
        let mut info = b"\xff Go buildinf:\x08\x02".to_vec();
        info.resize(32, 0);
        info.push(version.len() as u8);
        info.extend(version.as_bytes());
        info
    }

    #[test]
    fn the_version_stands_in_the_program() {
        assert_eq!(version(&info("go1.24.3")), Some(24));
        assert_eq!(version(&info("go1.27rc1 X:boringcrypto")), Some(27));
    }

    #[test]
    fn what_is_none_says_none() {
        assert_eq!(version(b""), None);
        assert_eq!(version(&info("devel +abc")), None);
        let mut cut = info("go1.24.3");
        cut.truncate(36);
        assert_eq!(version(&cut), None);
    }
}
