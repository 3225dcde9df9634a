//! Builds the kernel object with the toolchain at hand and puts it where the agent embeds it.
//!
//! It must never install anything: what is missing is named, with the command that brings it. The
//! object does not depend on the agent's profile, so all profiles share one build under `target/ebpf`.

use std::env;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, bail};

/// The name of the linker that `cargo xtask setup` puts under `target/tools`.
const LINKER: &str = "bpf-linker";

fn main() -> anyhow::Result<()> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("the agent lies in the workspace")?;
    for input in ["ebpf", "proto", "Cargo.lock"] {
        println!("cargo:rerun-if-changed={}", root.join(input).display());
    }
    let out = PathBuf::from(env::var_os("OUT_DIR").context("OUT_DIR is not set: this runs under cargo")?);
    let arch = env::var("CARGO_CFG_TARGET_ARCH").context("cargo names no architecture")?;
    if arch != "x86_64" {
        bail!("the kernel programs know the registers of x86-64 only, not of {arch}");
    }

    let mut path = OsString::from(root.join("target/tools/bin"));
    path.push(":");
    path.push(env::var_os("PATH").unwrap_or_default());
    if Command::new(LINKER).arg("--version").env("PATH", &path).output().is_err() {
        bail!(
            "{LINKER} is missing: run `cargo xtask setup` (it puts it under target/tools), then build again"
        );
    }
    let target = root.join("target/ebpf");
    let flags = ["--cfg=bpf_target_arch=\"x86_64\"", "-Cdebuginfo=2", "-Clink-arg=--btf"].join("\x1f");
    let output = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
        .args(["build", "--release", "--package", "spandrel-ebpf", "-Z", "build-std=core"])
        .args(["--target", "bpfel-unknown-none", "--target-dir"])
        .arg(&target)
        .current_dir(root)
        .env("PATH", path)
        .env("CARGO_ENCODED_RUSTFLAGS", flags)
        // `-Z build-std` on a stable toolchain; the object is for the kernel, not for this host.
        .env("RUSTC_BOOTSTRAP", "1")
        .env_remove("RUSTC_WORKSPACE_WRAPPER")
        .env_remove("RUSTC_WRAPPER")
        .output()
        .context("running cargo for the kernel object")?;
    if !output.status.success() {
        bail!(
            "the kernel object does not build (it needs the rust-src component: `cargo xtask setup`):\n{}",
            String::from_utf8_lossy(&output.stderr)
        );
    }
    let built = target.join("bpfel-unknown-none/release/spandrel");
    std::fs::copy(&built, out.join("spandrel")).with_context(|| format!("copying {}", built.display()))?;
    Ok(())
}
