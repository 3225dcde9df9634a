//! `cargo xtask bench`: what Spandrel costs the traced program, off and on interleaved in one run.
//!
//! It must never compare figures of different runs: the program that measures does all in one.

use std::ffi::OsString;

use anyhow::Result;

use crate::harness;

/// Throughput, latency and CPU of a saturated web server with and without Spandrel.
#[derive(Debug, clap::Args)]
pub struct Bench {
    /// For spandrel-bench, after `--` (`-- --help` lists what it takes)
    #[arg(last = true)]
    args: Vec<OsString>,
}

impl Bench {
    /// Fails if the measurement failed, not if a budget was missed: that it says.
    pub fn run(self) -> Result<()> {
        harness::run("spandrel-bench", self.args)
    }
}
