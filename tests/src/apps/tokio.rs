//! The tokio service, in the builds that users run: with symbols; stripped, with link-time optimisation; and linked
//! statically at a fixed address. Each is built on first use; the target folder is kept, so that a change is quick.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result};

use super::{Wiring, built, listen, source, workspace};
use crate::process::{self, Endpoint, Scratch, needed, output};

/// How it is built.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Build {
    /// As `cargo build --release` leaves it: position-independent, with symbols.
    Symbols,
    /// Fat link-time optimisation, one unit, no symbol.
    Stripped,
    /// The same, static and not position-independent.
    Static,
    /// The same as `Stripped`, with musl: static and position-independent.
    Musl,
}

/// What is started.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Service {
    /// How its handlers call out: see `tests/apps/tokio/src/main.rs`.
    pub style: &'static str,
    /// Its build.
    pub build: Build,
    /// On the one thread of a `current_thread` runtime.
    pub one_thread: bool,
}

/// Starts it.
pub fn start(
    service: Service,
    at: &Endpoint,
    wiring: &Wiring,
    scratch: &Scratch,
) -> Result<process::Service> {
    let mut command = wiring.command_of_file(&executable(service.build)?);
    command.arg(listen(at)).args(wiring.arguments()).arg(format!("style={}", service.style));
    if service.one_thread {
        command.arg("flavor=current");
    }
    process::Service::listening("tokio-service", &mut command, scratch, at)
}

/// Its executable.
pub fn executable(build: Build) -> Result<PathBuf> {
    let (name, profile, target, flags) = match build {
        Build::Symbols => ("tokio-symbols", "release", "", ""),
        Build::Stripped => ("tokio-stripped", "stripped", "", ""),
        Build::Static => {
            ("tokio-static", "stripped", GLIBC, "-C target-feature=+crt-static -C relocation-model=static")
        }
        // `rustup target add` brings it; static-pie is its default.
        Build::Musl => ("tokio-musl", "stripped", MUSL, ""),
    };
    built(name, &source("tokio/src/main.rs"), |made_at| {
        let mut folder = workspace().join("target/tests-tokio");
        let mut command = Command::new(needed("cargo")?);
        command.current_dir(source("tokio")).args(["build", "--locked", "--quiet", "--profile", profile]);
        // What the tests' own build was told is none of the service's business.
        command.env_remove("RUSTFLAGS").env_remove("CARGO_ENCODED_RUSTFLAGS").env_remove("CARGO_TARGET_DIR");
        if !target.is_empty() {
            // With a target of its own, so that build scripts are not linked in this way.
            folder = workspace().join("target/tests-tokio-static");
            command.env("RUSTFLAGS", flags).args(["--target", target]);
        }
        output(command.arg("--target-dir").arg(&folder))?;
        let folder = folder.join(target);
        let made = folder.join(profile).join("tokio-service");
        std::fs::copy(&made, made_at).with_context(|| format!("copying {}", made.display())).map(drop)
    })
}

const GLIBC: &str = "x86_64-unknown-linux-gnu";
const MUSL: &str = "x86_64-unknown-linux-musl";
