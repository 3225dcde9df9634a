//! `cargo xtask run`: from a clone to traces in one command.
//!
//! It builds and then becomes the agent (exec, not a child), so that signals and the exit status are
//! the agent's own. It must never raise its own privileges: it says which command would.

use std::os::unix::process::CommandExt;

use anyhow::{Context, Result, bail};

use crate::build::Build;
use crate::{command, project};

/// Builds for release and runs the agent.
#[derive(Debug, clap::Args)]
pub struct Run {
    /// What the agent is given, after `--`
    #[arg(last = true)]
    args: Vec<std::ffi::OsString>,
}

impl Run {
    /// Returns only if the agent could not be started.
    pub fn run(self) -> Result<()> {
        Build::release().run()?;
        let agent = project::agent();
        if !command::is_root() {
            let args: Vec<_> = self.args.iter().map(|arg| arg.to_string_lossy()).collect();
            bail!(
                "watching other programs' sockets takes root. It is built; now run:\n  sudo {} {}",
                agent.display(),
                args.join(" ")
            );
        }
        eprintln!("run: {}", agent.display());
        let error = std::process::Command::new(&agent).args(self.args).exec();
        Err(error).with_context(|| format!("cannot start {}", agent.display()))
    }
}
