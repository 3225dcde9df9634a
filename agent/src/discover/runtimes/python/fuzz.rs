//! Fuzz body: the search for a layout over memory that anybody made up.

use super::layout::{Binary, find};
use super::{greenlet, lineage};
use crate::discover::elf::Elf;
use crate::discover::memory::Image;

/// No memory makes the search panic or read without end; what it finds are offsets that it may look at.
pub fn fuzz_layout(data: &[u8]) {
    let mut image = Image::default();
    for (piece, at) in data.chunks(512).zip(0u64..) {
        image.put(BASE + at * 0x1000, piece.to_vec());
    }
    let binary = Binary { runtime: BASE, context_type: BASE + 0x5000, copy: None, minor: Some(11) };
    if let Ok((layout, _)) = find(&image, &binary) {
        assert!(layout.thread_id < 512 && layout.context < 512, "{layout:?}");
    }
    let _ = greenlet::search(&image, BASE, BASE + 0x5000, 16);
}

/// A file, whatever is in it.
pub(in super::super) fn read_file(elf: &Elf) {
    for path in [&b"/usr/bin/python3.11"[..], b"libpython3.999999999999.so", b""] {
        let Some(binary) = Binary::of(elf, path) else { continue };
        for point in lineage::points(elf, &binary.moved(u64::MAX), 1).into_iter().flatten() {
            drop(point);
        }
    }
}

/// The symbols that are looked for.
pub(in super::super) const SYMBOLS: &[&str] = &["_PyRuntime", "PyContext_Type", "PyContext_CopyCurrent"];

const BASE: u64 = 0x10_0000;
