//! The programs of package `spandrel-tests` that are commands of their own: truth, bench and soak.
//!
//! Each measures the release agent as a user starts it. Nothing is decided here, not even what an
//! argument means: they are handed on, and the program's exit status is the command's.

use std::ffi::OsString;

use anyhow::{Result, bail};

use crate::build::Build;
use crate::command::{self, Cmd};
use crate::{packages, project};

/// Builds the agent and the program, and runs the program from the root.
pub fn run(program: &str, args: impl IntoIterator<Item = OsString>) -> Result<()> {
    let missing = packages::missing(&packages::end_to_end()?);
    if !missing.is_empty() {
        bail!("{}", packages::remedy(&missing));
    }
    if !command::is_root() {
        bail!(
            "watching other programs' sockets takes root: run this command with sudo -E env PATH=\"$PATH\""
        );
    }
    Build::release().run()?;
    project::cargo("build")
        .args(["--quiet", "--release", "--package", "spandrel-tests", "--bin", program])
        .run()?;
    let path = project::target().join("release").join(program);
    Cmd::new(path)
        .shown_as(program)
        .args(args)
        .directory(project::root())
        .env("SPANDREL_BIN", project::agent())
        .run()
}
