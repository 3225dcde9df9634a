//! The layout of kernel structures, from the kernel's own BTF (`/sys/kernel/btf/vmlinux`).
//!
//! A small reader, because the loader's keeps members to itself: it finds a member by structure and
//! path, also through members without a name. Format: Documentation/bpf/btf.rst. It must never index
//! beyond the bytes it was given; a broken table is an error, not a panic.

use std::collections::HashMap;

/// Why BTF could not be read or does not have what was asked for.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum BtfError {
    /// Not BTF, or cut off.
    #[error("the kernel's type information is damaged at byte {0}")]
    Damaged(usize),
    /// No such structure.
    #[error("this kernel has no `struct {0}`")]
    NoStructure(String),
    /// No such member.
    #[error("this kernel's `struct {0}` has no member `{1}`")]
    NoMember(String, String),
}

/// Parsed BTF.
pub struct Btf {
    bytes: Vec<u8>,
    /// Where each type begins, by id; id 0 is `void`.
    types: Vec<usize>,
    strings: usize,
    structures: HashMap<Vec<u8>, u32>,
    typedefs: HashMap<Vec<u8>, u32>,
}

const KIND_ARRAY: u32 = 3;
const KIND_STRUCT: u32 = 4;
const KIND_UNION: u32 = 5;
const KIND_TYPEDEF: u32 = 8;
const KIND_VOLATILE: u32 = 9;
const KIND_CONST: u32 = 10;
const KIND_RESTRICT: u32 = 11;
const KIND_TYPE_TAG: u32 = 18;
/// How deep members without a name may be nested, and typedefs chained.
const MAX_DEPTH: u32 = 16;

impl Btf {
    /// Parses BTF as the kernel publishes it.
    pub fn parse(bytes: Vec<u8>) -> Result<Self, BtfError> {
        let mut btf = Self {
            bytes,
            types: vec![usize::MAX],
            strings: 0,
            structures: HashMap::new(),
            typedefs: HashMap::new(),
        };
        if btf.u32(0)? & 0xffff != 0xeb9f {
            return Err(BtfError::Damaged(0));
        }
        let header = btf.u32(4)? as usize;
        let (type_at, type_length) = (header + btf.u32(8)? as usize, btf.u32(12)? as usize);
        btf.strings = header + btf.u32(16)? as usize;
        let mut at = type_at;
        while at < type_at + type_length {
            let info = btf.u32(at + 4)?;
            let (kind, length) = (info >> 24 & 0x1f, (info & 0xffff) as usize);
            let tail = match kind {
                1 | 14 => 4,      // INT, VAR
                KIND_ARRAY => 12, // ARRAY
                KIND_STRUCT | KIND_UNION => 12 * length,
                15 | 19 => 12 * length, // DATASEC, ENUM64
                6 | 13 => 8 * length,   // ENUM, FUNC_PROTO
                17 => 4,                // DECL_TAG
                _ => 0,
            };
            let id = btf.types.len() as u32;
            if kind == KIND_STRUCT || kind == KIND_TYPEDEF {
                let name = btf.string(btf.u32(at)?).to_vec();
                let index = if kind == KIND_STRUCT { &mut btf.structures } else { &mut btf.typedefs };
                index.entry(name).or_insert(id);
            }
            btf.types.push(at);
            at += 12 + tail;
        }
        Ok(btf)
    }

    /// Whether there is a typedef of this name. The kernel has one, `btf_trace_NAME`, per tracepoint
    /// that a BTF raw tracepoint program can attach to.
    pub fn has_typedef(&self, name: &str) -> bool {
        self.typedefs.contains_key(name.as_bytes())
    }

    /// The byte offset of a member, by the path of names that leads to it.
    pub fn offset(&self, structure: &str, path: &[&str]) -> Result<u32, BtfError> {
        let missing = || BtfError::NoStructure(structure.to_owned());
        let mut id = *self.structures.get(structure.as_bytes()).ok_or_else(missing)?;
        let mut bits = 0;
        for name in path {
            let (bit, next) = self
                .member(id, name.as_bytes(), 0)?
                .ok_or_else(|| BtfError::NoMember(structure.to_owned(), (*name).to_owned()))?;
            bits += bit;
            id = self.resolve(next)?;
        }
        Ok(bits / 8)
    }

    fn member(&self, id: u32, name: &[u8], depth: u32) -> Result<Option<(u32, u32)>, BtfError> {
        let at = self.at(id)?;
        let info = self.u32(at + 4)?;
        if depth > MAX_DEPTH || !matches!(info >> 24 & 0x1f, KIND_STRUCT | KIND_UNION) {
            return Ok(None);
        }
        // With the kind flag set, the offset's top byte is the width of a bit field.
        let mask = if info >> 31 != 0 { 0xff_ffff } else { u32::MAX };
        for index in 0..(info & 0xffff) as usize {
            let member = at + 12 + 12 * index;
            let (member_name, member_type) = (self.string(self.u32(member)?), self.u32(member + 4)?);
            let bit = self.u32(member + 8)? & mask;
            if member_name == name {
                return Ok(Some((bit, member_type)));
            }
            if member_name.is_empty()
                && let Some((inner, found)) = self.member(self.resolve(member_type)?, name, depth + 1)?
            {
                return Ok(Some((bit + inner, found)));
            }
        }
        Ok(None)
    }

    /// Follows typedefs and qualifiers.
    fn resolve(&self, mut id: u32) -> Result<u32, BtfError> {
        for _ in 0..MAX_DEPTH {
            let at = self.at(id)?;
            match self.u32(at + 4)? >> 24 & 0x1f {
                KIND_TYPEDEF | KIND_VOLATILE | KIND_CONST | KIND_RESTRICT | KIND_TYPE_TAG => {
                    id = self.u32(at + 8)?
                }
                _ => return Ok(id),
            }
        }
        Ok(id)
    }

    fn at(&self, id: u32) -> Result<usize, BtfError> {
        self.types
            .get(id as usize)
            .copied()
            .filter(|&at| at != usize::MAX)
            .ok_or(BtfError::Damaged(id as usize))
    }

    fn u32(&self, at: usize) -> Result<u32, BtfError> {
        let bytes = at.checked_add(4).and_then(|end| self.bytes.get(at..end)).ok_or(BtfError::Damaged(at))?;
        bytes.try_into().map(u32::from_ne_bytes).map_err(|_| BtfError::Damaged(at))
    }

    fn string(&self, offset: u32) -> &[u8] {
        let from = self.bytes.get(self.strings.saturating_add(offset as usize)..).unwrap_or_default();
        from.split(|&byte| byte == 0).next().unwrap_or_default()
    }
}

/// Fuzz body: no bytes make the reader panic.
#[doc(hidden)]
pub fn fuzz_btf(data: &[u8]) {
    if let Ok(btf) = Btf::parse(data.to_vec()) {
        let _ = btf.offset("sock", &["__sk_common", "skc_family"]);
        let _ = btf.has_typedef("x");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `struct s { int a; struct { short b; } ; }` by hand.
    fn small() -> Vec<u8> {
        let strings = b"\0s\0a\0b\0int\0".to_vec();
        let mut types: Vec<u32> = Vec::new();
        types.extend([7, 1 << 24, 4, 32]); // 1: int
        types.extend([0, 4 << 24 | 1, 2, 5, 1, 0]); // 2: anonymous struct { b: int at 0 }
        types.extend([1, 4 << 24 | 2, 8, 3, 1, 0, 0, 2, 32]); // 3: struct s { a at 0, anonymous at 32 bits }
        let types: Vec<u8> = types.iter().flat_map(|word| word.to_ne_bytes()).collect();
        let mut bytes: Vec<u8> = Vec::new();
        for word in [0x1_eb9fu32, 24, 0, types.len() as u32, types.len() as u32, strings.len() as u32] {
            bytes.extend(word.to_ne_bytes());
        }
        bytes.extend(types);
        bytes.extend(strings);
        bytes
    }

    #[test]
    fn members_are_found_also_through_members_without_a_name() {
        let btf = Btf::parse(small()).unwrap();
        assert_eq!(btf.offset("s", &["a"]), Ok(0));
        assert_eq!(btf.offset("s", &["b"]), Ok(4));
        assert_eq!(btf.offset("s", &["c"]), Err(BtfError::NoMember("s".into(), "c".into())));
        assert_eq!(btf.offset("t", &["c"]), Err(BtfError::NoStructure("t".into())));
    }

    #[test]
    fn no_cut_or_flipped_byte_makes_it_panic() {
        let bytes = small();
        for cut in 0..bytes.len() {
            fuzz_btf(&bytes[..cut]);
            for flip in [0x01, 0x80, 0xff] {
                let mut damaged = bytes.clone();
                damaged[cut] ^= flip;
                fuzz_btf(&damaged);
            }
        }
    }
}
