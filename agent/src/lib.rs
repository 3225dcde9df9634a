//! Spandrel's agent: socket traffic of unmodified programs in, distributed traces out.
//!
//! The modules are stations, in the order in which data passes through them: `discover`, `probe`,
//! `intake`, `stream`, `protocol`, `exchange`, `stitch`, `export`. `pipeline` wires them, `run` starts and
//! ends them. A station must know the types of its neighbours and nothing else.

#![deny(unsafe_code)]

pub mod books;
pub mod clock;
pub mod config;
pub mod discover;
pub mod exchange;
pub mod export;
pub mod gaps;
pub mod identity;
pub mod intake;
pub mod log;
pub mod pipeline;
pub mod probe;
pub mod protocol;
pub mod run;
pub mod screen;
pub mod stitch;
pub mod stream;
pub mod sum;
pub mod tls;
pub mod wait;
