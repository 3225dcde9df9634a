//! From secrets to keys: RFC 8446 §7.1 and §7.3, RFC 5246 §5 and §6.3.
//!
//! Pure functions. What they return is overwritten when it is dropped.

use hmac::{Hmac, KeyInit as _, Mac as _};
use sha1::Sha1;
use sha2::{Sha256, Sha384};
use zeroize::Zeroizing;

use super::secret::Random;
use super::suite::Hash;

/// HMAC over several parts.
pub(super) fn hmac(hash: Hash, key: &[u8], parts: &[&[u8]]) -> Zeroizing<Vec<u8>> {
    macro_rules! with {
        ($hash:ty) => {{
            // A key of any length will do (RFC 2104 §2): this cannot fail.
            let Ok(mut mac) = Hmac::<$hash>::new_from_slice(key) else { return Zeroizing::default() };
            for part in parts {
                mac.update(part);
            }
            Zeroizing::new(mac.finalize().into_bytes().to_vec())
        }};
    }
    match hash {
        Hash::Sha1 => with!(Sha1),
        Hash::Sha256 => with!(Sha256),
        Hash::Sha384 => with!(Sha384),
    }
}

/// `HKDF-Expand-Label` with an empty context, RFC 8446 §7.1.
pub(super) fn expand_label(hash: Hash, secret: &[u8], label: &str, length: usize) -> Zeroizing<Vec<u8>> {
    let mut info = Vec::with_capacity(32);
    info.extend_from_slice(&(length as u16).to_be_bytes());
    info.push((label.len() + 6) as u8);
    info.extend_from_slice(b"tls13 ");
    info.extend_from_slice(label.as_bytes());
    info.push(0);
    let mut out = Zeroizing::new(Vec::with_capacity(length + hash.length()));
    let mut block = Zeroizing::new(Vec::new());
    let mut counter = 1u8;
    while out.len() < length {
        block = hmac(hash, secret, &[block.as_slice(), &info, &[counter]]);
        out.extend_from_slice(&block);
        counter = counter.wrapping_add(1);
    }
    out.truncate(length);
    out
}

/// The secret after a KeyUpdate, RFC 8446 §7.2.
pub(super) fn next_secret(hash: Hash, secret: &[u8]) -> Zeroizing<Vec<u8>> {
    expand_label(hash, secret, "traffic upd", hash.length())
}

/// The `key_block` of TLS 1.2, RFC 5246 §6.3: as many bytes as are asked for.
pub(super) fn key_block(
    hash: Hash,
    master: &[u8],
    server: &Random,
    client: &Random,
    length: usize,
) -> Zeroizing<Vec<u8>> {
    const LABEL: &[u8] = b"key expansion";
    let mut out = Zeroizing::new(Vec::with_capacity(length + hash.length()));
    let mut a = hmac(hash, master, &[LABEL, server, client]);
    while out.len() < length {
        out.extend_from_slice(&hmac(hash, master, &[&a, LABEL, server, client]));
        a = hmac(hash, master, &[&a]);
    }
    out.truncate(length);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hex(text: &str) -> Vec<u8> {
        text.as_bytes()
            .chunks(2)
            .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap())
            .collect()
    }

    /// RFC 8448 §3, "server application traffic secret" and the keys derived from it.
    #[test]
    fn keys_of_tls_1_3_are_those_of_the_published_trace() {
        let secret = hex("a11af9f05531f856ad47116b45a950328204b4f44bfb6b3a4b4f1f3fcb631643");
        let key = expand_label(Hash::Sha256, &secret, "key", 16);
        assert_eq!(*key, hex("9f02283b6c9c07efc26bb9f2ac92e356"));
        let iv = expand_label(Hash::Sha256, &secret, "iv", 12);
        assert_eq!(*iv, hex("cf782b88dd83549aadf1e984"));
    }
}
