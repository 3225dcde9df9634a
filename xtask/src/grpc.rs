//! `cargo xtask grpc`: the table of HTTP/2 and gRPC, real peers as clients and servers.
//!
//! It must never soften a row's claim: claims and verdicts stand in package `spandrel-tests`.

use std::ffi::OsString;

use anyhow::Result;

use crate::harness;

/// HTTP/2 and gRPC against real peers: names, status, durations, parents; kinds, load, late join, other programs.
#[derive(Debug, clap::Args)]
pub struct Grpc {
    /// All 25 pairs of peers, 10,000 calls each (`-- --all-pairs` for 1,000)
    #[arg(long)]
    full: bool,
    /// More for spandrel-grpc, after `--` (`-- --help` lists what it takes)
    #[arg(last = true)]
    args: Vec<OsString>,
}

impl Grpc {
    /// Fails if a row misses its claim.
    pub fn run(self) -> Result<()> {
        let full = self.full.then(|| OsString::from("--full"));
        harness::run("spandrel-grpc", full.into_iter().chain(self.args))
    }
}
