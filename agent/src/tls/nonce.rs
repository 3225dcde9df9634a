//! The nonce that a record of AES-GCM was sealed under, worked out from its tag: what else would have to be tried.
//!
//! ```text
//!   tag = E(K, J0) XOR GHASH(E(K, 0), aad, sealed)        NIST SP 800-38D §7.1, with J0 = nonce ‖ 00000001
//!    ⇒ J0 = D(K, tag XOR GHASH(…))                         one block, however many records went before
//! ```
//! A key that is not the record's gives 16 bytes without meaning, whose last four are that counter once in 2³² times: whoever
//! asks must hold what comes out against what is known of the nonce, or open the record under it. Nothing here says
//! that a record is genuine.

use aes::{Aes128, Aes256, Block};
use chacha20::cipher::{BlockCipherDecrypt, BlockCipherEncrypt, KeyInit};
use ghash::GHash;
use ghash::universal_hash::UniversalHash;
use zeroize::Zeroize as _;

/// What stands behind the nonce in the block that the tag is sealed under.
const COUNTER: [u8; 4] = [0, 0, 0, 1];

/// The nonce under which this key, of 16 or 32 bytes, gives this tag; none if there is none.
pub(super) fn of_gcm(key: &[u8], aad: &[u8], sealed: &[u8], tag: &[u8]) -> Option<[u8; 12]> {
    Gcm::new(key)?.nonce(aad, sealed, tag)
}

/// A key, made once for many records.
pub(super) struct Gcm {
    cipher: Cipher,
    hash: GHash,
}

enum Cipher {
    Aes128(Box<Aes128>),
    Aes256(Box<Aes256>),
}

impl Gcm {
    /// From 16 or 32 bytes.
    pub fn new(key: &[u8]) -> Option<Self> {
        let mut subkey = Block::default();
        let cipher = match key.len() {
            16 => {
                let cipher = Box::new(Aes128::new_from_slice(key).ok()?);
                cipher.encrypt_block(&mut subkey);
                Cipher::Aes128(cipher)
            }
            32 => {
                let cipher = Box::new(Aes256::new_from_slice(key).ok()?);
                cipher.encrypt_block(&mut subkey);
                Cipher::Aes256(cipher)
            }
            _ => return None,
        };
        let hash = GHash::new(&subkey);
        subkey.zeroize();
        Some(Self { cipher, hash })
    }

    /// The nonce under which it gives this tag; none if there is none.
    pub fn nonce(&self, aad: &[u8], sealed: &[u8], tag: &[u8]) -> Option<[u8; 12]> {
        let mut hash = self.hash.clone();
        hash.update_padded(aad);
        hash.update_padded(sealed);
        let mut lengths = [0; 16];
        lengths[..8].copy_from_slice(&(aad.len() as u64 * 8).to_be_bytes());
        lengths[8..].copy_from_slice(&(sealed.len() as u64 * 8).to_be_bytes());
        hash.update(&[lengths.into()]);
        let mut first: [u8; 16] = tag.try_into().ok()?;
        for (byte, hashed) in first.iter_mut().zip(hash.finalize()) {
            *byte ^= hashed;
        }
        let mut first = Block::from(first);
        match &self.cipher {
            Cipher::Aes128(cipher) => cipher.decrypt_block(&mut first),
            Cipher::Aes256(cipher) => cipher.decrypt_block(&mut first),
        }
        let (nonce, counter) = first.split_first_chunk::<12>()?;
        (*counter == COUNTER).then_some(*nonce)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Test cases 4 and 16 of "The Galois/Counter Mode of Operation" (McGrew, Viega), whose nonce and AAD are the same.
    #[test]
    fn the_nonces_of_the_published_vectors_come_out() {
        let bytes = |text: &str| -> Vec<u8> {
            (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap()).collect()
        };
        let key = "feffe9928665731c6d6a8f9467308308";
        let aad = bytes("feedfacedeadbeeffeedfacedeadbeefabaddad2");
        let nonce = bytes("cafebabefacedbaddecaf888");
        let sealed = "42831ec2217774244b7221b784d0d49ce3aa212f2c02a4e035c17e2329aca12e\
                      21d514b25466931c7d8f6a5aac84aa051ba30b396a0aac973d58e091";
        let tag = "5bc94fbc3221a5db94fae95ae7121a47";
        let found = of_gcm(&bytes(key), &aad, &bytes(sealed), &bytes(tag));
        assert_eq!(found.map(Vec::from), Some(nonce.clone()));
        let sealed = "522dc1f099567d07f47f37a32a84427d643a8cdcbfe5c0c97598a2bd2555d1aa\
                      8cb08e48590dbb3da7b08b1056828838c5f61e6393ba7a0abcc9f662";
        let tag = "76fc6ece0f4e1768cddf8853bb2d551b";
        let key = key.repeat(2);
        assert_eq!(of_gcm(&bytes(&key), &aad, &bytes(sealed), &bytes(tag)).map(Vec::from), Some(nonce));
        assert_eq!(of_gcm(&bytes(&key), &aad[1..], &bytes(sealed), &bytes(tag)), None);
        assert_eq!(of_gcm(&bytes(&key), &aad, &bytes(sealed), &bytes(&tag[2..])), None);
        assert_eq!(of_gcm(&[0; 24], &aad, &bytes(sealed), &bytes(tag)), None);
    }
}
