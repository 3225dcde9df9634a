//! `cargo xtask build`: the agent, with the kernel object embedded.
//!
//! The kernel object is made by the agent's own build script; this command only sees to it that what
//! the script needs is there. It must never pass other flags than a plain `cargo build` would, or the
//! two would overwrite each other's results for ever.

use anyhow::Result;

use crate::{project, setup};

/// Builds the agent with the kernel object embedded in it.
#[derive(Debug, clap::Args)]
pub struct Build {
    /// Optimised, as it is meant to be run
    #[arg(long)]
    release: bool,
}

impl Build {
    /// Optimised, as it is meant to be run.
    pub fn release() -> Self {
        Self { release: true }
    }

    /// Sets up, then builds.
    pub fn run(self) -> Result<()> {
        setup::Setup {}.run()?;
        let cargo = project::cargo("build").args(["--package", "spandrel"]);
        if self.release { cargo.arg("--release").run() } else { cargo.run() }
    }
}
