//! What a key of AES-GCM says of a record: the nonce under which it is genuine.
//!
//! A tag is GHASH of the record, encrypted with the block that begins with the nonce (NIST SP 800-38D §7.1, step 6): under the right
//! key the block can be had back, and ends with the counter 1. So a key without its nonce is proven by one record, and the nonce
//! is found with it: its part that is not on the wire is the session's salt (TLS 1.2), or comes of its IV and the record's
//! number (TLS 1.3). Another key gives such a block once in 2³² times.
//!
//! It must never say that a record is this session's: whoever asks opens it with what was found.

use aes::cipher::{BlockCipherDecrypt as _, BlockCipherEncrypt as _};
use aes::{Aes128, Aes256, Block};
use aes_gcm::aead::KeyInit as _;
use ghash::GHash;
use ghash::universal_hash::UniversalHash as _;

/// Bytes of a tag.
const TAG: usize = 16;

/// A key that may be one of GCM's.
pub(super) struct Key {
    cipher: Cipher,
    hash: GHash,
}

enum Cipher {
    Aes128(Box<Aes128>),
    Aes256(Box<Aes256>),
}

impl Key {
    /// From 16 or 32 bytes.
    pub fn new(key: &[u8]) -> Option<Self> {
        let cipher = match key.len() {
            16 => Cipher::Aes128(Box::new(Aes128::new_from_slice(key).ok()?)),
            32 => Cipher::Aes256(Box::new(Aes256::new_from_slice(key).ok()?)),
            _ => return None,
        };
        let mut subkey = Block::default();
        match &cipher {
            Cipher::Aes128(cipher) => cipher.encrypt_block(&mut subkey),
            Cipher::Aes256(cipher) => cipher.encrypt_block(&mut subkey),
        }
        Some(Self { cipher, hash: GHash::new(&subkey) })
    }

    /// The nonce under which this ciphertext, its tag at the end, is genuine; none if there is none.
    pub fn nonce(&self, aad: &[u8], sealed: &[u8]) -> Option<[u8; 12]> {
        let (sealed, tag) = sealed.split_at_checked(sealed.len().checked_sub(TAG)?)?;
        let mut hash = self.hash.clone();
        hash.update_padded(aad);
        hash.update_padded(sealed);
        let mut lengths = Block::default();
        for (to, from) in lengths.iter_mut().zip([aad, sealed].map(|part| (part.len() as u64 * 8).to_be_bytes()).as_flattened()) {
            *to = *from;
        }
        hash.update(&[lengths]);
        let mut block = hash.finalize();
        for (byte, tag) in block.iter_mut().zip(tag) {
            *byte ^= tag;
        }
        match &self.cipher {
            Cipher::Aes128(cipher) => cipher.decrypt_block(&mut block),
            Cipher::Aes256(cipher) => cipher.decrypt_block(&mut block),
        }
        let (nonce, counter) = block.split_at(12);
        (counter == [0, 0, 0, 1]).then(|| nonce.try_into().ok())?
    }
}

#[cfg(test)]
mod tests {
    use aes_gcm::aead::AeadInOut;
    use aes_gcm::{Aes128Gcm, Aes256Gcm};

    use super::*;

    #[test]
    fn the_nonce_comes_back_from_key_and_record_and_from_no_other() {
        fn seal<C: AeadInOut + aes_gcm::aead::KeyInit>(key: &[u8], nonce: &[u8; 12], aad: &[u8], plain: &[u8]) -> Vec<u8> {
            let mut sealed = plain.to_vec();
            let nonce = nonce.as_slice().try_into().unwrap();
            let tag = C::new_from_slice(key).unwrap().encrypt_inout_detached(nonce, aad, sealed.as_mut_slice().into()).unwrap();
            sealed.extend_from_slice(&tag);
            sealed
        }
        let nonce = *b"nonce of 12b";
        for length in [0, 1, 15, 16, 17, 300] {
            let plain = vec![7; length];
            for (key, sealed) in [
                (vec![1; 16], seal::<Aes128Gcm>(&[1; 16], &nonce, b"header", &plain)),
                (vec![2; 32], seal::<Aes256Gcm>(&[2; 32], &nonce, b"header", &plain)),
            ] {
                let right = Key::new(&key).unwrap();
                assert_eq!(right.nonce(b"header", &sealed), Some(nonce));
                assert_eq!(right.nonce(b"another", &sealed), None);
                assert_eq!(right.nonce(b"header", sealed.get(1..).unwrap()), None);
                let mut other = key.clone();
                other[0] ^= 1;
                assert_eq!(Key::new(&other).unwrap().nonce(b"header", &sealed), None);
            }
        }
        assert!(Key::new(&[0; 24]).is_none());
        assert_eq!(Key::new(&[0; 16]).unwrap().nonce(b"", &[0; 15]), None);
    }
}
