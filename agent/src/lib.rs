//! Spandrel's agent: socket traffic of unmodified programs in, distributed traces out.
//!
//! The modules are stations, in the order in which data passes through them: `discover`, `probe`,
//! `intake`, `stream`, `protocol`, `exchange`, `stitch`, `export`. `pipeline` wires them. A station
//! must know the types of its neighbours and nothing else.

#![deny(unsafe_code)]

pub mod config;
pub mod discover;
pub mod exchange;
pub mod export;
pub mod identity;
pub mod log;
pub mod probe;
pub mod protocol;
pub mod stitch;
pub mod stream;
