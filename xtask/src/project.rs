//! Where things are in this repository, and the environment that builds of it need.
//!
//! Everything that xtask makes lies under the target directory (`CARGO_TARGET_DIR`, or `target/` at
//! the root), so that deleting it undoes all of it. Nothing here may touch the file system: a path
//! is an answer, not an action.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use crate::command::Cmd;

/// The folder that holds the workspace's `Cargo.toml`.
pub fn root() -> PathBuf {
    let manifest = std::env::var_os("CARGO_MANIFEST_DIR").map(PathBuf::from);
    let manifest = manifest.unwrap_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")));
    manifest.parent().map(Path::to_path_buf).unwrap_or(manifest)
}

/// Cargo's target directory.
pub fn target() -> PathBuf {
    match std::env::var_os("CARGO_TARGET_DIR") {
        Some(directory) => root().join(directory),
        None => root().join("target"),
    }
}

/// Where `setup` installs the build's own tools, as `cargo install --root` lays them out.
pub fn tools() -> PathBuf {
    target().join("tools")
}

/// The agent, built for release.
pub fn agent() -> PathBuf {
    target().join("release/spandrel")
}

/// `cargo`, at the root, with our tools first on the search path and nothing that asks for a terminal.
pub fn cargo(subcommand: &str) -> Cmd {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    Cmd::new(cargo)
        .shown_as("cargo")
        .arg(subcommand)
        .directory(root())
        .env("PATH", path_with_tools())
        .env("CARGO_TERM_PROGRESS_WHEN", "never")
}

/// `PATH` with [`tools`] in front: the kernel programs are linked by the pinned `bpf-linker`.
fn path_with_tools() -> OsString {
    let mut path = tools().join("bin").into_os_string();
    if let Some(rest) = std::env::var_os("PATH") {
        path.push(":");
        path.push(rest);
    }
    path
}
