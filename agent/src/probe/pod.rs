//! The structures that are written into maps and constants, marked as plain data for the loader.
//!
//! The map boundary: the only `unsafe` in this station. It must hold only structures of integers
//! without padding, which `spandrel-proto` lays out and asserts.

#![allow(unsafe_code)]

use spandrel_proto::layout::{Learned, Offsets, Run};
use spandrel_proto::record::Loss;
use spandrel_proto::tls::{ClearCall, ClearCount, ClearFrame, ClearSession, Found, Pending, Plan, Stack};
use spandrel_proto::walk::{MAX_STEPS, Probed, ProbedAt, Step, Walked};

macro_rules! plain {
    ($($(#[$doc:meta])* $name:ident($inner:ty);)*) => {$(
        $(#[$doc])*
        #[repr(transparent)]
        #[derive(Clone, Copy, Debug)]
        pub struct $name(pub $inner);
        // SAFETY: `repr(transparent)` over a `repr(C)` structure of integers whose size is the sum of its
        // fields', so any bytes are a value and there is no padding to leak.
        unsafe impl aya::Pod for $name {}
    )*};
}

plain! {
    /// [`Offsets`], for the loader.
    PodOffsets(Offsets);
    /// [`Run`], for the loader.
    PodRun(Run);
    /// [`Learned`], as a map value.
    PodLearned(Learned);
    /// [`Loss`], as a map value.
    PodLoss(Loss);
    /// A walk, as a map value.
    PodSteps([Step; MAX_STEPS]);
    /// [`Walked`], as a map value.
    PodWalked(Walked);
    /// [`Probed`], as a map value.
    PodProbed(Probed);
    /// [`ProbedAt`], as a map key.
    PodProbedAt(ProbedAt);
    /// [`Plan`], as a map value.
    PodPlan(Plan);
    /// [`Pending`], as a map value.
    PodPending(Pending);
    /// [`ClearFrame`], as a map key.
    PodClearFrame(ClearFrame);
    /// [`ClearCall`], as a map value.
    PodClearCall(ClearCall);
    /// [`ClearSession`], as a map key.
    PodClearSession(ClearSession);
    /// [`ClearCount`], as a map value.
    PodClearCount(ClearCount);
}

/// [`Stack`], as a map value: addresses of a program, which nobody need see.
#[repr(transparent)]
#[derive(Clone, Copy)]
pub struct PodStack(pub Stack);
// SAFETY: as above.
unsafe impl aya::Pod for PodStack {}

/// [`Found`], as a map value; it has secrets in it, so it cannot be printed, and whoever takes it overwrites it.
#[repr(transparent)]
#[derive(Clone, Copy)]
pub struct PodFound(pub Found);
// SAFETY: as above.
unsafe impl aya::Pod for PodFound {}
