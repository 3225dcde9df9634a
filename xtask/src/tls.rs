//! `cargo xtask tls`: the table of programs that speak TLS.
//!
//! It must never soften a row's claim: claims and verdicts stand in package `spandrel-tests`.

use std::ffi::OsString;

use anyhow::Result;

use crate::harness;

/// HTTP over TLS between real programs: how many requests are seen and joined, first requests, late joins, costs.
#[derive(Debug, clap::Args)]
pub struct Tls {
    /// 10,000 requests a row
    #[arg(long)]
    full: bool,
    /// More for spandrel-tls, after `--` (`-- --help` lists what it takes)
    #[arg(last = true)]
    args: Vec<OsString>,
}

impl Tls {
    /// Fails if a row misses its claim.
    pub fn run(self) -> Result<()> {
        let full = self.full.then(|| OsString::from("--full"));
        harness::run("spandrel-tls", full.into_iter().chain(self.args))
    }
}
