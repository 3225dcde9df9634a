//! The memory of another process, read and never written: live, or an image of it for tests.
//!
//! A reader of a runtime is written against [`ReadMemory`] and does not know which of the two it has. Whatever
//! comes from here is hostile: it may be torn (the process runs on), recycled or made up, so it must be proved
//! before anything is concluded. Nothing here stops, traces or writes to a process, or reads without a bound.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::IoSliceMut;
use std::ops::Range;
use std::os::unix::fs::FileExt as _;

use nix::sys::uio::{RemoteIoVec, process_vm_readv};
use nix::unistd::Pid;

/// The longest piece that [`ReadMemory::bytes`] reads at once: what a search looks at in one go.
pub const MAX_READ: usize = 64 << 10;

/// Somebody's memory.
pub trait ReadMemory {
    /// Fills `out` from this address on. False if a part is not there: `out` means nothing then.
    fn read(&self, address: u64, out: &mut [u8]) -> bool;

    /// The parts of a range, which begins and ends with a page, that were ever written to or read; all else is zero. None if that is not known.
    fn touched(&self, _range: Range<u64>) -> Option<Vec<Range<u64>>> {
        None
    }

    /// Eight bytes.
    fn word(&self, address: u64) -> Option<u64> {
        let mut bytes = [0; 8];
        self.read(address, &mut bytes).then(|| u64::from_le_bytes(bytes))
    }

    /// Four bytes.
    fn u32(&self, address: u64) -> Option<u32> {
        let mut bytes = [0; 4];
        self.read(address, &mut bytes).then(|| u32::from_le_bytes(bytes))
    }

    /// So many bytes; none if it is more than [`MAX_READ`], or a part is not there.
    fn bytes(&self, address: u64, length: usize) -> Option<Vec<u8>> {
        if length > MAX_READ {
            return None;
        }
        let mut bytes = vec![0; length];
        self.read(address, &mut bytes).then_some(bytes)
    }

    /// A text that ends with NUL, at most `max` bytes of it.
    fn text(&self, address: u64, max: usize) -> Option<Vec<u8>> {
        let mut text = Vec::new();
        let max = max.min(MAX_READ);
        while text.len() < max {
            let at = address.checked_add(text.len() as u64)?;
            // Not beyond the page that is known to be there.
            let page = PAGE - (at % PAGE);
            let length = (max - text.len()).min(usize::try_from(page).ok()?).min(256);
            let piece = self.bytes(at, length)?;
            match memchr::memchr(0, &piece) {
                Some(end) => {
                    text.extend(piece.iter().take(end));
                    return Some(text);
                }
                None => text.extend(piece),
            }
        }
        Some(text)
    }
}

/// The smallest page of the machine.
const PAGE: u64 = 4096;

/// A running process's. Whether the pid still belongs to the process meant must be asked of the process table,
/// before and after what was read is believed.
#[derive(Clone, Copy, Debug)]
pub struct ProcessMemory {
    pid: Pid,
}

impl ProcessMemory {
    /// Of the process that has this pid now.
    pub fn of(pid: u32) -> Option<Self> {
        // 0 would be the agent itself, a negative number somebody else.
        let pid = i32::try_from(pid).ok().filter(|&pid| pid > 0)?;
        Some(Self { pid: Pid::from_raw(pid) })
    }
}

impl ReadMemory for ProcessMemory {
    fn read(&self, address: u64, out: &mut [u8]) -> bool {
        let Ok(base) = usize::try_from(address) else { return false };
        let len = out.len();
        if len == 0 {
            return true;
        }
        let remote = [RemoteIoVec { base, len }];
        // process_vm_readv(2): needs the right to trace, stops nothing, and may return less than asked.
        process_vm_readv(self.pid, &mut [IoSliceMut::new(out)], &remote).is_ok_and(|read| read == len)
    }

    fn touched(&self, range: Range<u64>) -> Option<Vec<Range<u64>>> {
        // A word a page; bits 63 and 62: present, swapped out (Documentation/admin-guide/mm/pagemap.rst).
        let file = File::open(format!("/proc/{}/pagemap", self.pid)).ok()?;
        let mut touched: Vec<Range<u64>> = Vec::new();
        let (mut page, end) = (range.start / PAGE, range.end / PAGE);
        let mut words = vec![0u8; MAX_READ];
        while page < end {
            let most = usize::try_from((end - page).saturating_mul(8)).unwrap_or(MAX_READ);
            let part = words.get_mut(..most.min(MAX_READ))?;
            file.read_exact_at(part, page.checked_mul(8)?).ok()?;
            for word in part.chunks_exact(8) {
                let at = page * PAGE;
                page += 1;
                if u64::from_le_bytes(word.try_into().ok()?) >> 62 == 0 {
                    continue;
                }
                match touched.last_mut() {
                    Some(last) if last.end == at => last.end += PAGE,
                    _ => touched.push(at..at + PAGE),
                }
            }
        }
        Some(touched)
    }
}

/// Regions of memory by their address, as a test or a recording has them.
#[derive(Clone, Debug, Default)]
pub struct Image {
    regions: BTreeMap<u64, Vec<u8>>,
}

impl Image {
    /// Puts a region there, in place of one that began at the same address.
    pub fn put(&mut self, address: u64, bytes: impl Into<Vec<u8>>) -> &mut Self {
        self.regions.insert(address, bytes.into());
        self
    }

    /// Puts words there, eight bytes each.
    pub fn put_words(&mut self, address: u64, words: &[u64]) -> &mut Self {
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        self.put(address, bytes)
    }
}

impl ReadMemory for Image {
    fn read(&self, address: u64, out: &mut [u8]) -> bool {
        let Some((start, bytes)) = self.regions.range(..=address).next_back() else { return false };
        let Ok(skip) = usize::try_from(address - start) else { return false };
        let Some(end) = skip.checked_add(out.len()) else { return false };
        match bytes.get(skip..end) {
            Some(found) => {
                out.copy_from_slice(found);
                true
            }
            None => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_memory_of_a_process_is_read_at_its_addresses() {
        let value = Box::new(0x1122_3344_5566_7788_u64);
        let own = ProcessMemory::of(std::process::id()).unwrap();
        let address = std::ptr::from_ref(&*value) as u64;
        assert_eq!(own.word(address), Some(*value));
        assert_eq!(own.u32(address), Some(0x5566_7788));
        assert_eq!(own.word(8), None);
        assert_eq!(own.word(u64::MAX - 3), None);
        assert!(ProcessMemory::of(0).is_none());
        assert!(ProcessMemory::of(u32::MAX).is_none());
    }

    #[test]
    fn pages_that_nobody_has_touched_are_known() {
        const LENGTH: usize = 64 << 20;
        let mut bytes = vec![0u8; LENGTH];
        bytes[LENGTH / 2] = 1;
        let start = (bytes.as_ptr() as u64).next_multiple_of(PAGE);
        let own = ProcessMemory::of(std::process::id()).unwrap();
        let touched = own.touched(start..start + LENGTH as u64 - PAGE).unwrap();
        let at = std::ptr::from_ref(&bytes[LENGTH / 2]) as u64;
        assert!(touched.iter().any(|range| range.contains(&at)), "{touched:?}");
        // Large pages may be 2 MiB.
        assert!(touched.iter().map(|range| range.end - range.start).sum::<u64>() < 16 << 20, "{touched:?}");
    }

    #[test]
    fn an_image_has_what_was_put_there_and_nothing_beyond() {
        let mut image = Image::default();
        image.put_words(0x1000, &[1, 2]).put(0x2000, *b"hello\0rest");
        assert_eq!(
            (image.word(0x1000), image.word(0x1008), image.word(0x1004)),
            (Some(1), Some(2), Some(2 << 32))
        );
        assert_eq!((image.word(0x1009), image.word(0xfff), image.word(0x1010)), (None, None, None));
        assert_eq!(image.text(0x2000, 5).unwrap(), b"hello");
        assert_eq!(image.bytes(0x2000, MAX_READ + 1), None);
    }

    #[test]
    fn a_text_ends_with_its_nul_or_its_bound_also_at_the_end_of_what_is_there() {
        let mut image = Image::default();
        let mut bytes = vec![b'x'; 4096];
        bytes.extend(b"end\0");
        bytes.resize(8192, 0);
        image.put(0x10_000, bytes);
        assert_eq!(image.text(0x10_000 + 4090, 100).unwrap(), b"xxxxxxend");
        assert_eq!(image.text(0x10_000, 7).unwrap(), b"xxxxxxx");
        assert_eq!(image.text(0x9000, 7), None);
    }
}
