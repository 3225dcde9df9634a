//! The map of policies, written through shared memory: no system call per wish.
//!
//! Part of the map boundary, with its `unsafe`. It must write a slot so that the kernel side, reading at
//! any moment, sees the words of the connection that the slot names or none.

#![allow(unsafe_code)]

use std::num::NonZeroUsize;
use std::os::fd::AsFd as _;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Context as _, bail};
use aya::maps::{Map, MapData};
use nix::sys::mman::{MapFlags, ProtFlags, mmap, munmap};
use spandrel_proto::policy::{Policy, SLOTS, Slot};

use crate::identity::{ConnectionId, Direction};

/// 8-byte words of a [`Slot`].
const WORDS: usize = size_of::<Slot>() / 8;

/// The mapped array of [`Slot`]s.
pub(super) struct Policies {
    memory: NonNull<AtomicU64>,
    length: NonZeroUsize,
    /// Keeps the map alive as long as the mapping.
    _map: MapData,
}

// SAFETY: the memory is only touched through `&mut self`, and by atomic words.
unsafe impl Send for Policies {}

impl Policies {
    pub fn map(map: Map) -> anyhow::Result<Self> {
        let Map::Array(map) = map else { bail!("the map POLICIES is not an array") };
        let length = size_of::<Slot>() * SLOTS as usize;
        let length = NonZeroUsize::new(length.next_multiple_of(4096)).context("the map POLICIES is empty")?;
        // SAFETY: a new mapping of our own map, made mappable by BPF_F_MMAPABLE; the kernel rounds it up to
        // whole pages, and so do we.
        let memory = unsafe {
            mmap(
                None,
                length,
                ProtFlags::PROT_READ | ProtFlags::PROT_WRITE,
                MapFlags::MAP_SHARED,
                map.fd().as_fd(),
                0,
            )
        }
        .context("mapping the policies")?;
        Ok(Self { memory: memory.cast(), length, _map: map })
    }

    pub fn set(&mut self, connection: ConnectionId, direction: Direction, policy: Policy) -> bool {
        let slot = (connection.0 % u64::from(SLOTS)) as usize;
        // SAFETY: `slot` is below SLOTS, and the mapping holds SLOTS slots of WORDS aligned words.
        let words = unsafe { std::slice::from_raw_parts(self.memory.as_ptr().add(slot * WORDS), WORDS) };
        let [owner, send, receive] = words else { return false };
        let before = owner.load(Ordering::Relaxed);
        if before != connection.0 {
            owner.store(0, Ordering::Release);
            send.store(0, Ordering::Release);
            receive.store(0, Ordering::Release);
        }
        match direction {
            Direction::Send => send.store(policy.encode(), Ordering::Release),
            Direction::Receive => receive.store(policy.encode(), Ordering::Release),
        }
        owner.store(connection.0, Ordering::Release);
        before == 0 || before == connection.0
    }
}

impl Drop for Policies {
    fn drop(&mut self) {
        // SAFETY: the mapping that `map` made, of this length; nobody holds a reference into it.
        let _ = unsafe { munmap(self.memory.cast(), self.length.get()) };
    }
}
