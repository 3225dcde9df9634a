//! The clock: read at the edges only, and handed to the stations with each event.

use nix::time::{ClockId, clock_gettime};

use crate::identity::Monotonic;

/// `CLOCK_MONOTONIC` now.
pub fn monotonic() -> Monotonic {
    Monotonic(nanoseconds(ClockId::CLOCK_MONOTONIC))
}

/// What must be added to `CLOCK_MONOTONIC` for nanoseconds since 1970, now. It moves when the wall clock is
/// set and, since `CLOCK_MONOTONIC` stands still meanwhile, when the machine was suspended.
pub fn wall_offset() -> u64 {
    // Read in between, so that the error is half of the shortest of three tries.
    let tries = (0..3).map(|_| {
        let before = nanoseconds(ClockId::CLOCK_MONOTONIC);
        let wall = nanoseconds(ClockId::CLOCK_REALTIME);
        let after = nanoseconds(ClockId::CLOCK_MONOTONIC);
        (after - before, wall.saturating_sub(before + (after - before) / 2))
    });
    tries.min().map_or(0, |(_, offset)| offset)
}

fn nanoseconds(clock: ClockId) -> u64 {
    // The two clocks that are asked for exist on every Linux.
    clock_gettime(clock).map_or(0, |time| time.tv_sec() as u64 * 1_000_000_000 + time.tv_nsec() as u64)
}
