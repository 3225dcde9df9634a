//! The handshake messages that go over the wire in clear, as far as they matter: ClientHello and
//! ServerHello.
//!
//! Bytes of handshake records of one direction in, [`Hello`]s out, cut anywhere. Everything else is skipped by its length. It
//! must never keep more than [`MAX_HELLO`] bytes, and never the server's name, a ticket or a key share.

use super::secret::Random;
use super::suite::Version;

/// The longest hello that is read, in bytes. With post-quantum key shares they have 1.5 to 2 KiB; only
/// lists of tickets or padding make them longer.
pub const MAX_HELLO: usize = 16 * 1024;

/// A name that ALPN may have, in bytes; longer ones are not kept.
const MAX_NAME: usize = 32;

/// What a hello says.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Hello {
    /// A client's.
    Client {
        /// Its random bytes, which tie the session to its program's memory.
        random: Random,
    },
    /// A server's answer, or its wish for another ClientHello.
    Server(ServerHello),
    /// A TLS 1.3 client or server announces its next traffic secret.
    KeyUpdate,
    /// A hello that is none: too long, or not what RFC 8446 §4.1 describes.
    Malformed,
}

/// What a server has chosen.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ServerHello {
    /// Its random bytes.
    pub random: Random,
    /// The version; none if it is one that is not read.
    pub version: Option<Version>,
    /// The cipher suite's number.
    pub suite: u16,
    /// RFC 7366.
    pub encrypt_then_mac: bool,
    /// The protocol chosen by ALPN, if it is said in clear (TLS 1.2).
    pub protocol: Option<Box<str>>,
}

impl ServerHello {
    /// A HelloRetryRequest, RFC 8446 §4.1.3: another ClientHello comes.
    pub fn asks_again(&self) -> bool {
        const RETRY: Random = [
            0xcf, 0x21, 0xad, 0x74, 0xe5, 0x9a, 0x61, 0x11, 0xbe, 0x1d, 0x8c, 0x02, 0x1e, 0x65, 0xb8, 0x91,
            0xc2, 0xa2, 0x11, 0x16, 0x7a, 0xbb, 0x8c, 0x5e, 0x07, 0x9e, 0x09, 0xe2, 0xc8, 0xa8, 0x33, 0x9c,
        ];
        self.random == RETRY
    }
}

/// Reads the handshake messages of one direction.
#[derive(Debug, Default)]
pub struct Reader {
    header: [u8; 4],
    have: usize,
    message: Vec<u8>,
    /// Bytes of the present message that have not come yet.
    left: usize,
}

const CLIENT_HELLO: u8 = 1;
const SERVER_HELLO: u8 = 2;
const KEY_UPDATE: u8 = 24;

impl Reader {
    /// Takes the next bytes.
    pub fn bytes(&mut self, mut bytes: &[u8], emit: &mut dyn FnMut(Hello)) {
        while !bytes.is_empty() {
            if self.have < self.header.len() {
                let take = bytes.len().min(self.header.len() - self.have);
                let (taken, rest) = bytes.split_at(take);
                for (to, from) in self.header.iter_mut().skip(self.have).zip(taken) {
                    *to = *from;
                }
                self.have += take;
                bytes = rest;
                if self.have == self.header.len() {
                    let [_, high, middle, low] = self.header;
                    self.left = u32::from_be_bytes([0, high, middle, low]) as usize;
                    self.ended(emit);
                }
                continue;
            }
            let take = bytes.len().min(self.left);
            let (taken, rest) = bytes.split_at(take);
            if self.is_kept() {
                self.message.extend_from_slice(taken);
            }
            self.left -= take;
            bytes = rest;
            self.ended(emit);
        }
    }

    /// Bytes kept.
    pub fn held(&self) -> usize {
        self.message.len()
    }

    /// Forgets a message that was begun: bytes of it are missing.
    pub fn lose(&mut self) {
        *self = Self::default();
    }

    fn is_kept(&self) -> bool {
        let [kind, high, middle, low] = self.header;
        matches!(kind, CLIENT_HELLO | SERVER_HELLO)
            && u32::from_be_bytes([0, high, middle, low]) as usize <= MAX_HELLO
    }

    fn ended(&mut self, emit: &mut dyn FnMut(Hello)) {
        if self.left > 0 {
            return;
        }
        let kind = self.header[0];
        match kind {
            CLIENT_HELLO | SERVER_HELLO if !self.is_kept() => emit(Hello::Malformed),
            CLIENT_HELLO => emit(client(&self.message).unwrap_or(Hello::Malformed)),
            SERVER_HELLO => emit(server(&self.message).map_or(Hello::Malformed, Hello::Server)),
            KEY_UPDATE => emit(Hello::KeyUpdate),
            _ => {}
        }
        self.message.clear();
        self.have = 0;
    }
}

/// A cursor that never goes beyond its bytes.
struct Cursor<'a>(&'a [u8]);

impl<'a> Cursor<'a> {
    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(taken)
    }

    fn u8(&mut self) -> Option<u8> {
        self.take(1)?.first().copied()
    }

    fn u16(&mut self) -> Option<u16> {
        self.take(2)?.try_into().ok().map(u16::from_be_bytes)
    }

    /// A vector whose length is in its first byte.
    fn short(&mut self) -> Option<&'a [u8]> {
        let length = self.u8()?;
        self.take(usize::from(length))
    }

    /// A vector whose length is in its first two bytes.
    fn long(&mut self) -> Option<&'a [u8]> {
        let length = self.u16()?;
        self.take(usize::from(length))
    }
}

/// RFC 8446 §4.1.2.
fn client(message: &[u8]) -> Option<Hello> {
    let mut rest = Cursor(message);
    let legacy = rest.u16()?;
    let random = rest.take(32)?.try_into().ok()?;
    rest.short()?;
    let suites = rest.long()?;
    rest.short()?;
    (legacy >> 8 == 3 && !suites.is_empty()).then_some(Hello::Client { random })
}

/// Extensions, RFC 8446 §4.2.
const ALPN: u16 = 16;
const ENCRYPT_THEN_MAC: u16 = 22;
const SUPPORTED_VERSIONS: u16 = 43;

/// RFC 8446 §4.1.3.
fn server(message: &[u8]) -> Option<ServerHello> {
    let mut rest = Cursor(message);
    let legacy = rest.u16()?;
    let random = rest.take(32)?.try_into().ok()?;
    rest.short()?;
    let suite = rest.u16()?;
    rest.u8()?;
    if legacy >> 8 != 3 {
        return None;
    }
    let mut hello = ServerHello {
        random,
        version: (legacy == 0x0303).then_some(Version::Tls12),
        suite,
        encrypt_then_mac: false,
        protocol: None,
    };
    // A hello of TLS 1.2 may have none at all.
    let mut extensions = Cursor(if rest.0.is_empty() { &[] } else { rest.long()? });
    while !extensions.0.is_empty() {
        let (kind, content) = (extensions.u16()?, extensions.long()?);
        match kind {
            SUPPORTED_VERSIONS => {
                hello.version = (content == [3, 4]).then_some(Version::Tls13);
            }
            ENCRYPT_THEN_MAC => hello.encrypt_then_mac = true,
            ALPN => {
                let mut names = Cursor(Cursor(content).long()?);
                hello.protocol = names
                    .short()
                    .filter(|name| name.len() <= MAX_NAME && name.iter().all(u8::is_ascii_graphic))
                    .and_then(|name| std::str::from_utf8(name).ok())
                    .map(Into::into);
            }
            _ => {}
        }
    }
    Some(hello)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(bytes: &[u8], cut: usize) -> Vec<Hello> {
        let (mut reader, mut hellos) = (Reader::default(), Vec::new());
        let (one, two) = bytes.split_at(cut.min(bytes.len()));
        reader.bytes(one, &mut |hello| hellos.push(hello));
        reader.bytes(two, &mut |hello| hellos.push(hello));
        hellos
    }

    fn server_hello(extensions: &[u8]) -> Vec<u8> {
        let mut body = vec![3, 3];
        body.extend([7; 32]);
        body.extend([0, 0x13, 0x01, 0]);
        body.extend((extensions.len() as u16).to_be_bytes());
        body.extend(extensions);
        let mut message = vec![2, 0, 0, body.len() as u8];
        message.extend(body);
        message
    }

    #[test]
    fn a_server_hello_is_read_wherever_it_is_cut() {
        let message = server_hello(&[0, 43, 0, 2, 3, 4, 0, 16, 0, 5, 0, 3, 2, b'h', b'2']);
        for cut in 0..=message.len() {
            let [Hello::Server(hello)] = &read(&message, cut)[..] else { panic!("cut at {cut}") };
            assert_eq!((hello.version, hello.suite), (Some(Version::Tls13), 0x1301));
            assert_eq!(hello.protocol.as_deref(), Some("h2"));
        }
    }

    #[test]
    fn a_draft_or_an_old_version_is_not_taken_for_one_that_is_known() {
        let [Hello::Server(hello)] = &read(&server_hello(&[0, 43, 0, 2, 0x7f, 0x1c]), 0)[..] else {
            panic!()
        };
        assert_eq!(hello.version, None);
    }

    #[test]
    fn a_message_behind_one_that_was_skipped_is_read() {
        let mut bytes = vec![11, 0, 0, 3, 1, 2, 3];
        bytes.extend(server_hello(&[]));
        assert!(
            matches!(&read(&bytes, 5)[..], [Hello::Server(hello)] if hello.version == Some(Version::Tls12))
        );
    }

    #[test]
    fn a_hello_that_is_too_long_or_ends_early_is_malformed_and_takes_no_memory() {
        let mut reader = Reader::default();
        let mut hellos = Vec::new();
        reader.bytes(&[1, 0xff, 0xff, 0xff], &mut |hello| hellos.push(hello));
        reader.bytes(&[0; 9000], &mut |hello| hellos.push(hello));
        assert_eq!((reader.held(), hellos.len()), (0, 0));
        assert_eq!(read(&[1, 0, 0, 2, 3, 3], 0), [Hello::Malformed]);
        assert_eq!(read(&[2, 0, 0, 0], 0), [Hello::Malformed]);
    }
}
