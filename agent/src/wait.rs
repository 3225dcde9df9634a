//! When the thread that reads the ring looks at it next, and what ends its wait early.
//!
//! To be waited for costs a traced program microseconds a record, so the kernel side wakes this thread only when a program
//! begins (its environment must be read before it is gone), when a TLS session begins (its keys may be gone soon) and when
//! the ring is half full; everything else is found by looking. Each look costs tens of microseconds of switching, however
//! little there is, so they are as rare as truth allows. Must never wait for the ring to be *readable*: it is that after each record.

use std::os::fd::AsFd;
use std::time::Duration;

use anyhow::Context as _;
use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};

use crate::pipeline::BATCH;

/// Milliseconds until the next look after one that found much: the more comes, the sooner the ring would be full.
const MUCH: u16 = 1;
/// Records that are much. Some 400 bytes each, a ring of 8 MiB takes in 5 ms what ten times that many bring in one.
const MANY: usize = 512;
/// After a look that found less, while records come.
const BUSY: u16 = 5;
/// While none come. What the first record after a silence asks for (a policy, a name) waits for so long at most.
const IDLE: u16 = 20;
/// How long after the last record others are to be expected soon.
const BUSY_FOR: Duration = Duration::from_millis(100);

/// Milliseconds until the next look, after one that found so many records, if the last record was found so long ago.
pub fn pause(found: usize, silence: Duration) -> u16 {
    match found {
        BATCH.. => 0,
        MANY.. => MUCH,
        _ if silence < BUSY_FOR => BUSY,
        _ => IDLE,
    }
}

/// What ended a wait.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Woken {
    /// The time, or the kernel side: there may be something in the ring.
    Look,
    /// A signal.
    Signal,
}

/// What is waited for.
pub struct Wait(Epoll);

/// What a descriptor is registered with.
const RING: u64 = 0;
const SIGNALS: u64 = 1;

impl Wait {
    /// For the kernel's wake-ups of the ring and for signals that become readable. Both must stay open for as long as it is used.
    ///
    /// # Errors
    /// What the kernel refuses.
    pub fn new(ring: &impl AsFd, signals: &impl AsFd) -> anyhow::Result<Self> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).context("opening an epoll descriptor")?;
        // By edge: reported is that the kernel side woke the ring's readers, not that something is in it.
        let edge = EpollFlags::EPOLLIN | EpollFlags::EPOLLET;
        epoll.add(ring, EpollEvent::new(edge, RING)).context("waiting for the ring")?;
        epoll.add(signals, EpollEvent::new(EpollFlags::EPOLLIN, SIGNALS)).context("waiting for signals")?;
        Ok(Self(epoll))
    }

    /// Waits, at most so many milliseconds.
    ///
    /// # Errors
    /// What the kernel refuses.
    pub fn wait(&self, milliseconds: u16) -> anyhow::Result<Woken> {
        let mut events = [EpollEvent::empty(); 2];
        match self.0.wait(&mut events, EpollTimeout::from(milliseconds)) {
            Ok(some) if events.iter().take(some).any(|event| event.data() == SIGNALS) => Ok(Woken::Signal),
            Ok(_) | Err(Errno::EINTR) => Ok(Woken::Look),
            Err(error) => Err(error).context("waiting for records"),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use nix::sys::eventfd::EventFd;

    use super::*;

    #[test]
    fn the_more_comes_the_sooner_is_the_next_look() {
        let now = Duration::ZERO;
        assert_eq!(pause(0, BUSY_FOR), IDLE);
        assert_eq!(pause(0, now), BUSY);
        assert_eq!(pause(1, now), BUSY);
        assert_eq!(pause(MANY, now), MUCH);
        assert_eq!(pause(BATCH, now), 0);
    }

    #[test]
    fn what_was_not_taken_out_of_the_ring_does_not_end_the_next_wait() -> anyhow::Result<()> {
        let (ring, signals) = (EventFd::new()?, EventFd::new()?);
        let wait = Wait::new(&ring, &signals)?;
        ring.write(1)?;
        assert_eq!(wait.wait(60_000)?, Woken::Look, "woken");
        let before = Instant::now();
        assert_eq!(wait.wait(20)?, Woken::Look);
        assert!(before.elapsed() >= Duration::from_millis(15), "by time");
        ring.write(1)?;
        assert_eq!(wait.wait(60_000)?, Woken::Look, "woken again");
        signals.write(1)?;
        assert_eq!(wait.wait(60_000)?, Woken::Signal);
        Ok(())
    }
}
