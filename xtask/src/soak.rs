//! `cargo xtask soak`: the agent's memory over minutes of connections that come and go.
//!
//! It must never call a leak noise: the program that measures has one bound, and says it.

use std::ffi::OsString;

use anyhow::Result;

use crate::harness;

/// Memory over 10 minutes of 1,000 new connections a second.
#[derive(Debug, clap::Args)]
pub struct Soak {
    /// For spandrel-soak, after `--` (`-- --help` lists what it takes)
    #[arg(last = true)]
    args: Vec<OsString>,
}

impl Soak {
    /// Fails if memory is not flat.
    pub fn run(self) -> Result<()> {
        harness::run("spandrel-soak", self.args)
    }
}
