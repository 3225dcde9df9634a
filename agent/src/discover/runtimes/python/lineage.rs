//! Where `PyContext_CopyCurrent` returns: who made a context of whom.
//!
//! Some builds return in the function, others (profile-guided, as Debian's) leave by a jump to the function that makes
//! the copy. Both are followed instruction by instruction (`discover::code`); the copy is in RAX at each return found.

use super::super::{ProbePoint, Walk};
use super::layout::Binary;
use crate::discover::code;
use crate::discover::elf::Elf;
use crate::discover::maps::Mapping;

/// A return.
pub(super) struct Point {
    file_offset: u64,
    address: u64,
    bytes: Vec<u8>,
}

impl Point {
    pub fn of(self, file: &Mapping, walk: &Walk) -> ProbePoint {
        let Self { file_offset, address, bytes } = self;
        let addresses = vec![address];
        ProbePoint { file: file.clone(), file_offset, addresses, bytes, walk: walk.clone() }
    }
}

/// The returns, for a process that has the file at this bias.
pub(super) fn points(elf: &Elf, binary: &Binary, bias: u64) -> Result<Vec<Point>, String> {
    let (entry, size) = binary.copy.ok_or("PyContext_CopyCurrent is not exported")?;
    let returns = code::returns(entry, size, &|address, length| elf.bytes_at(address, length))?;
    let mut points = Vec::new();
    for at in returns {
        let file_offset = elf.file_offset(at.address).ok_or("a return is outside of the file")?;
        points.push(Point { file_offset, address: at.address.wrapping_add(bias), bytes: at.bytes });
    }
    Ok(points)
}
