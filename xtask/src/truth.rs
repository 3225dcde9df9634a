//! `cargo xtask truth`: the truth table, how many spans have their true parent, a row per runtime.
//!
//! It must never soften a row's claim: claims and verdicts stand in package `spandrel-tests`.

use std::ffi::OsString;

use anyhow::Result;

use crate::harness;

/// The truth table: per row, how many requests are complete, right, orphan, missing, wrong.
#[derive(Debug, clap::Args)]
pub struct Truth {
    /// 10,000 requests a row instead of 1,000
    #[arg(long)]
    full: bool,
    /// More for spandrel-truth, after `--` (`-- --help` lists what it takes)
    #[arg(last = true)]
    args: Vec<OsString>,
}

impl Truth {
    /// Fails if a row misses its claim.
    pub fn run(self) -> Result<()> {
        let full = self.full.then(|| OsString::from("--full"));
        harness::run("spandrel-truth", full.into_iter().chain(self.args))
    }
}
