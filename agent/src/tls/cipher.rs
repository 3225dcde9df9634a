//! Opening records: whole ones with the proof that they are genuine, beginnings of them without.
//!
//! ```text
//!   Opener::open    a whole record, its number ─▶ type and plaintext, or none: the tag refuses it
//!   Opener::prefix  the beginning of one, its number ─▶ the beginning of its plaintext, on trust
//! ```
//! A prefix may be asked for only if key and number are proven by a record that [`Opener::open`] has opened.
//! Nothing here tries one number or key after the other.

use aes::{Aes128, Aes256};
use aes_gcm::aead::AeadInOut;
use aes_gcm::{Aes128Gcm, Aes256Gcm};
use ccm::Ccm;
use ccm::consts::{U8, U12, U16};
use chacha20::ChaCha20;
use chacha20::cipher::{
    BlockModeDecrypt as _, KeyInit, KeyIvInit as _, StreamCipher as _, StreamCipherSeek as _,
};
use chacha20poly1305::ChaCha20Poly1305;
use zeroize::Zeroizing;

use super::nonce;
use super::record::{APPLICATION_DATA, HEADER};
use super::schedule::{expand_label, hmac, key_block, next_secret};
use super::secret::Random;
use super::suite::{Bulk, Hash, Suite, Version};

/// The keys of one direction in one generation.
pub(super) struct Opener {
    version: Version,
    bulk: Bulk,
    cipher: Cipher,
    key: Zeroizing<Vec<u8>>,
    /// TLS 1.3 and ChaCha20: 12 bytes; GCM and CCM of TLS 1.2: 4.
    iv: Zeroizing<Vec<u8>>,
    /// CBC only.
    mac_key: Zeroizing<Vec<u8>>,
    /// CBC only, RFC 7366.
    encrypt_then_mac: bool,
    /// TLS 1.3 only: what the next generation is derived from.
    secret: Zeroizing<Vec<u8>>,
    hash: Hash,
}

enum Cipher {
    Aes128Gcm(Box<Aes128Gcm>),
    Aes256Gcm(Box<Aes256Gcm>),
    ChaCha20Poly1305(Box<ChaCha20Poly1305>),
    Aes128Ccm(Box<Ccm<Aes128, U16, U12>>),
    Aes256Ccm(Box<Ccm<Aes256, U16, U12>>),
    Aes128Ccm8(Box<Ccm<Aes128, U8, U12>>),
    Aes256Ccm8(Box<Ccm<Aes256, U8, U12>>),
    Cbc,
}

/// What a record held.
pub(super) struct Opened {
    /// A content type, RFC 8446 §5.1.
    pub kind: u8,
    pub plaintext: Vec<u8>,
}

impl std::fmt::Debug for Opener {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Opener({:?})", self.bulk)
    }
}

/// Whose records.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Party {
    Client,
    Server,
}

impl Opener {
    /// From a traffic secret of TLS 1.3, which must be as long as the suite's hash.
    pub fn of_traffic_secret(suite: &Suite, secret: &[u8]) -> Option<Self> {
        let key = expand_label(suite.hash, secret, "key", suite.bulk.key_length());
        let iv = expand_label(suite.hash, secret, "iv", 12);
        let cipher = Cipher::new(suite.bulk, &key)?;
        Some(Self {
            version: Version::Tls13,
            bulk: suite.bulk,
            cipher,
            key,
            iv,
            mac_key: Zeroizing::default(),
            encrypt_then_mac: false,
            secret: Zeroizing::new(secret.to_vec()),
            hash: suite.hash,
        })
    }

    /// From the master secret of TLS 1.2.
    pub fn of_master(
        suite: &Suite,
        party: Party,
        master: &[u8],
        (client, server): (&Random, &Random),
        encrypt_then_mac: bool,
    ) -> Option<Self> {
        let key_length = suite.bulk.key_length();
        let (mac_length, iv_length) = match suite.bulk {
            Bulk::Aes128Cbc(hash) | Bulk::Aes256Cbc(hash) => (hash.length(), 0),
            Bulk::ChaCha20Poly1305 => (0, 12),
            _ => (0, 4),
        };
        let block = key_block(suite.hash, master, server, client, 2 * (mac_length + key_length + iv_length));
        // RFC 5246 §6.3: MAC keys, keys, IVs; of each the client's first.
        let mut rest = block.as_slice();
        let mut pair = |length: usize| {
            let (clients, after) = rest.split_at_checked(length)?;
            let (servers, after) = after.split_at_checked(length)?;
            rest = after;
            Some(Zeroizing::new(match party {
                Party::Client => clients.to_vec(),
                Party::Server => servers.to_vec(),
            }))
        };
        let mac_key = pair(mac_length)?;
        let key = pair(key_length)?;
        let iv = pair(iv_length)?;
        let cipher = Cipher::new(suite.bulk, &key)?;
        Some(Self {
            version: Version::Tls12,
            bulk: suite.bulk,
            cipher,
            key,
            iv,
            mac_key,
            encrypt_then_mac,
            secret: Zeroizing::default(),
            hash: suite.hash,
        })
    }

    /// From a key of AES-GCM with its IV (TLS 1.3) or salt (TLS 1.2) behind it. What comes after a KeyUpdate cannot be had from it.
    pub fn of_key(suite: &Suite, bytes: &[u8]) -> Option<Self> {
        if !matches!(suite.bulk, Bulk::Aes128Gcm | Bulk::Aes256Gcm) {
            return None;
        }
        let (key, iv) = bytes.split_at_checked(suite.bulk.key_length())?;
        let iv_length = match suite.version {
            Version::Tls12 => 4,
            Version::Tls13 => 12,
        };
        Some(Self {
            version: suite.version,
            bulk: suite.bulk,
            cipher: Cipher::new(suite.bulk, key)?,
            key: Zeroizing::new(key.to_vec()),
            iv: (iv.len() == iv_length).then(|| Zeroizing::new(iv.to_vec()))?,
            mac_key: Zeroizing::default(),
            encrypt_then_mac: false,
            secret: Zeroizing::default(),
            hash: suite.hash,
        })
    }

    /// The next generation, after a KeyUpdate.
    pub fn next(&self, suite: &Suite) -> Option<Self> {
        (self.version == Version::Tls13 && !self.secret.is_empty())
            .then(|| next_secret(self.hash, &self.secret))
            .and_then(|secret| Self::of_traffic_secret(suite, &secret))
    }

    /// How far behind a record's header its plaintext begins.
    pub fn explicit(&self) -> usize {
        match (self.version, self.bulk) {
            (_, Bulk::Aes128Cbc(_) | Bulk::Aes256Cbc(_)) => 16,
            (Version::Tls13, _) | (_, Bulk::ChaCha20Poly1305) => 0,
            (Version::Tls12, _) => 8,
        }
    }

    fn tag_length(&self) -> usize {
        match self.bulk {
            Bulk::Aes128Ccm8 | Bulk::Aes256Ccm8 => 8,
            _ => 16,
        }
    }

    /// How long the plaintext of a record with a body of this length is; with CBC, how long at most.
    /// (TLS 1.3 may pad, which hardly anybody does; with it, too, this is the most.)
    pub fn plaintext_length(&self, body: usize) -> usize {
        let overhead = match self.bulk {
            Bulk::Aes128Cbc(hash) | Bulk::Aes256Cbc(hash) => 16 + hash.length() + 1,
            _ => self.explicit() + self.tag_length() + usize::from(self.version == Version::Tls13),
        };
        body.saturating_sub(overhead)
    }

    /// True if [`Opener::plaintext_length`] is exact for a record that is not padded.
    pub fn length_is_exact(&self) -> bool {
        !matches!(self.bulk, Bulk::Aes128Cbc(_) | Bulk::Aes256Cbc(_))
    }

    fn nonce(&self, number: u64, body: &[u8]) -> Option<[u8; 12]> {
        let mut nonce = [0u8; 12];
        if self.iv.len() == 12 {
            nonce.copy_from_slice(&self.iv);
            for (byte, number) in nonce.iter_mut().skip(4).zip(number.to_be_bytes()) {
                *byte ^= number;
            }
        } else {
            let (salt, explicit) = nonce.split_at_mut(4);
            salt.copy_from_slice(self.iv.get(..4)?);
            explicit.copy_from_slice(body.get(..8)?);
        }
        Some(nonce)
    }

    /// True if [`Opener::number`] can tell. In TLS 1.2 the number is part of what the tag is made of, and ChaCha20 and CCM keep
    /// the nonce to themselves.
    pub fn tells_numbers(&self) -> bool {
        self.version == Version::Tls13 && matches!(self.bulk, Bulk::Aes128Gcm | Bulk::Aes256Gcm)
    }

    /// The number that a whole record has if it was sealed under this key: the one that [`Opener::open`] is worth trying with.
    pub fn number(&self, header: &[u8; HEADER], body: &[u8]) -> Option<u64> {
        let (sealed, tag) = body.split_at_checked(body.len().checked_sub(self.tag_length())?)?;
        let nonce = nonce::of_gcm(&self.key, header, sealed, tag)?;
        // RFC 8446 §5.3: the number, 64 bits behind 32 zeros, XOR the IV.
        let mut bytes = nonce.into_iter().zip(self.iv.iter()).map(|(one, other)| one ^ other);
        let above = bytes.by_ref().take(4).any(|byte| byte != 0);
        (!above).then(|| bytes.fold(0, |number, byte| number << 8 | u64::from(byte)))
    }

    /// Opens a whole record; none if it is not the one of this number under this key.
    pub fn open(&self, number: u64, header: &[u8; HEADER], body: &[u8]) -> Option<Opened> {
        if matches!(self.cipher, Cipher::Cbc) {
            return self.open_cbc(number, header, body);
        }
        let nonce = self.nonce(number, body)?;
        let sealed = body.get(self.explicit()..)?;
        let (sealed, tag) = sealed.split_at_checked(sealed.len().checked_sub(self.tag_length())?)?;
        let mut plaintext = sealed.to_vec();
        let [kind, major, minor, _, _] = *header;
        let mut aad = [0u8; 13];
        let aad: &[u8] = match self.version {
            Version::Tls13 => header,
            Version::Tls12 => {
                let length = (plaintext.len() as u16).to_be_bytes();
                aad[..8].copy_from_slice(&number.to_be_bytes());
                aad[8..].copy_from_slice(&[kind, major, minor, length[0], length[1]]);
                &aad
            }
        };
        if !self.cipher.verify(&nonce, aad, &mut plaintext, tag) {
            return None;
        }
        let kind = match self.version {
            Version::Tls12 => kind,
            Version::Tls13 => {
                // RFC 8446 §5.2: zeros, and before them the type.
                let end = plaintext.iter().rposition(|&byte| byte != 0)?;
                let kind = plaintext.get(end).copied()?;
                plaintext.truncate(end);
                kind
            }
        };
        Some(Opened { kind, plaintext })
    }

    /// The beginning of the plaintext of a record of which the beginning is here, and whose body has this
    /// length. Nothing proves it but that key and number are right.
    pub fn prefix(&self, number: u64, body: &[u8], length: usize) -> Option<Vec<u8>> {
        if body.len() <= self.explicit() && self.length_is_exact() {
            // How long it is, its header tells.
            return Some(Vec::new());
        }
        let sealed = body.get(self.explicit()..)?;
        let wanted = sealed.len().min(self.plaintext_length(length));
        let mut plaintext = sealed.get(..wanted)?.to_vec();
        if matches!(self.cipher, Cipher::Cbc) {
            let whole = plaintext.len() / 16 * 16;
            plaintext.truncate(whole);
            self.decrypt_cbc(body.get(..16)?, &mut plaintext)?;
            return Some(plaintext);
        }
        let nonce = self.nonce(number, body)?;
        let mut block = [0u8; 16];
        match self.bulk {
            Bulk::ChaCha20Poly1305 => {
                // RFC 8439 §2.8: block 0 is the key of the tag.
                let mut stream = ChaCha20::new_from_slices(&self.key, &nonce).ok()?;
                stream.try_seek(64u32).ok()?;
                stream.apply_keystream(&mut plaintext);
                return Some(plaintext);
            }
            // NIST SP 800-38D §7.1: block 1 is the tag's.
            Bulk::Aes128Gcm | Bulk::Aes256Gcm => {
                block[..12].copy_from_slice(&nonce);
                block[15] = 2;
            }
            // RFC 3610 §2.3, with 3 bytes of length: block 0 is the tag's.
            _ => {
                block[0] = 2;
                block[1..13].copy_from_slice(&nonce);
                block[15] = 1;
            }
        }
        if self.key.len() == 16 {
            ctr::Ctr32BE::<Aes128>::new_from_slices(&self.key, &block).ok()?.apply_keystream(&mut plaintext);
        } else {
            ctr::Ctr32BE::<Aes256>::new_from_slices(&self.key, &block).ok()?.apply_keystream(&mut plaintext);
        }
        Some(plaintext)
    }

    /// RFC 5246 §6.2.3.2, RFC 7366 §3.
    fn open_cbc(&self, number: u64, header: &[u8; HEADER], body: &[u8]) -> Option<Opened> {
        let (Bulk::Aes128Cbc(hash) | Bulk::Aes256Cbc(hash)) = self.bulk else { return None };
        let [kind, major, minor, _, _] = *header;
        let authentic = |content: &[u8], tag: &[u8]| {
            let length = u16::try_from(content.len()).ok()?.to_be_bytes();
            let head = [kind, major, minor, length[0], length[1]];
            let expected = hmac(hash, &self.mac_key, &[&number.to_be_bytes(), &head, content]);
            (expected.as_slice() == tag).then_some(())
        };
        let body = if self.encrypt_then_mac {
            let (sealed, tag) = body.split_at_checked(body.len().checked_sub(hash.length())?)?;
            authentic(sealed, tag)?;
            sealed
        } else {
            body
        };
        let (iv, sealed) = body.split_at_checked(16)?;
        if sealed.is_empty() || !sealed.len().is_multiple_of(16) {
            return None;
        }
        let mut plaintext = sealed.to_vec();
        self.decrypt_cbc(iv, &mut plaintext)?;
        let padding = usize::from(*plaintext.last()?);
        let content = plaintext.len().checked_sub(padding + 1)?;
        plaintext.truncate(content);
        if !self.encrypt_then_mac {
            let content = plaintext.len().checked_sub(hash.length())?;
            let (content, tag) = plaintext.split_at_checked(content)?;
            authentic(content, tag)?;
            plaintext.truncate(plaintext.len() - hash.length());
        }
        Some(Opened { kind, plaintext })
    }

    fn decrypt_cbc(&self, iv: &[u8], blocks: &mut [u8]) -> Option<()> {
        use chacha20::cipher::block_padding::NoPadding;
        if self.key.len() == 16 {
            let mode = cbc::Decryptor::<Aes128>::new_from_slices(&self.key, iv).ok()?;
            mode.decrypt_padded::<NoPadding>(blocks).ok()?;
        } else {
            let mode = cbc::Decryptor::<Aes256>::new_from_slices(&self.key, iv).ok()?;
            mode.decrypt_padded::<NoPadding>(blocks).ok()?;
        }
        Some(())
    }
}

impl Cipher {
    fn new(bulk: Bulk, key: &[u8]) -> Option<Self> {
        fn keyed<C: KeyInit>(key: &[u8]) -> Option<Box<C>> {
            C::new_from_slice(key).ok().map(Box::new)
        }
        Some(match bulk {
            Bulk::Aes128Gcm => Self::Aes128Gcm(keyed(key)?),
            Bulk::Aes256Gcm => Self::Aes256Gcm(keyed(key)?),
            Bulk::ChaCha20Poly1305 => Self::ChaCha20Poly1305(keyed(key)?),
            Bulk::Aes128Ccm => Self::Aes128Ccm(keyed(key)?),
            Bulk::Aes256Ccm => Self::Aes256Ccm(keyed(key)?),
            Bulk::Aes128Ccm8 => Self::Aes128Ccm8(keyed(key)?),
            Bulk::Aes256Ccm8 => Self::Aes256Ccm8(keyed(key)?),
            Bulk::Aes128Cbc(_) | Bulk::Aes256Cbc(_) => Self::Cbc,
        })
    }

    /// Decrypts in place; false, and what is in place means nothing, if the tag does not fit.
    fn verify(&self, nonce: &[u8; 12], aad: &[u8], buffer: &mut [u8], tag: &[u8]) -> bool {
        fn with<C: AeadInOut>(
            cipher: &C,
            nonce: &[u8; 12],
            aad: &[u8],
            buffer: &mut [u8],
            tag: &[u8],
        ) -> bool {
            let Ok(nonce) = nonce.as_slice().try_into() else { return false };
            let Ok(tag) = tag.try_into() else { return false };
            cipher.decrypt_inout_detached(nonce, aad, buffer.into(), tag).is_ok()
        }
        match self {
            Self::Aes128Gcm(cipher) => with(cipher.as_ref(), nonce, aad, buffer, tag),
            Self::Aes256Gcm(cipher) => with(cipher.as_ref(), nonce, aad, buffer, tag),
            Self::ChaCha20Poly1305(cipher) => with(cipher.as_ref(), nonce, aad, buffer, tag),
            Self::Aes128Ccm(cipher) => with(cipher.as_ref(), nonce, aad, buffer, tag),
            Self::Aes256Ccm(cipher) => with(cipher.as_ref(), nonce, aad, buffer, tag),
            Self::Aes128Ccm8(cipher) => with(cipher.as_ref(), nonce, aad, buffer, tag),
            Self::Aes256Ccm8(cipher) => with(cipher.as_ref(), nonce, aad, buffer, tag),
            Self::Cbc => false,
        }
    }
}

/// The type of a record of TLS 1.3 of which only the beginning is here: what is long is data.
pub(super) const ON_TRUST: u8 = APPLICATION_DATA;
