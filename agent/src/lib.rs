//! Spandrel's agent: socket traffic of unmodified programs in, distributed traces out.

#![deny(unsafe_code)]

pub mod config;
pub mod discover;
pub mod exchange;
pub mod export;
pub mod identity;
pub mod log;
pub mod protocol;
pub mod stitch;
pub mod stream;
