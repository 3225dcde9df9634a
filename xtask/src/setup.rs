//! `cargo xtask setup`: what building the kernel programs takes beyond a stable toolchain.
//!
//! Two things: the sources of `core`, which is compiled for the BPF target, and the linker that turns
//! LLVM bitcode into an eBPF object. The linker is pinned and goes under the target directory; it must
//! never touch a `bpf-linker` of the user's own. Run again, it only looks.

use std::time::Instant;

use anyhow::{Context, Result, bail};

use crate::command::{self, Cmd};
use crate::project;

/// Installs what the build needs: the component rust-src, and a pinned bpf-linker under target/tools.
#[derive(Debug, clap::Args)]
pub struct Setup {}

impl Setup {
    /// Does it, and says what it did.
    pub fn run(self) -> Result<()> {
        rust_src()?;
        bpf_linker()?;
        kernel_hints();
        Ok(())
    }
}

/// `-Z build-std=core` looks for the sources here, below the sysroot.
const CORE_SOURCES: &str = "lib/rustlib/src/rust/library/core/src/lib.rs";

/// The version that the kernel programs are tested with: another one may emit other code, and the
/// verifiers of old kernels are particular.
const BPF_LINKER: &str = "0.10.4";

fn rust_src() -> Result<()> {
    let sysroot = Cmd::new("rustc").args(["--print", "sysroot"]).directory(project::root()).read()?;
    let sources = std::path::Path::new(sysroot.trim()).join(CORE_SOURCES);
    if sources.exists() {
        eprintln!("setup: the sources of `core` are there");
        return Ok(());
    }
    let remedy = "the kernel programs are built together with `core`, whose sources are missing.\n\
        With rustup:          rustup component add rust-src\n\
        With Debian packages: apt-get install rustc-web cargo-web rust-web-src libstd-rust-web-dev";
    if !command::exists("rustup") {
        bail!("{remedy}\n(looked for {}; there is no rustup on PATH)", sources.display());
    }
    eprintln!("setup: adding the sources of `core` to the toolchain (some seconds) …");
    Cmd::new("rustup")
        .args(["component", "add", "rust-src"])
        .directory(project::root())
        .run()
        .context(remedy)?;
    if !sources.exists() {
        bail!("rustup has added rust-src, but {} is still missing", sources.display());
    }
    Ok(())
}

fn bpf_linker() -> Result<()> {
    let linker = project::tools().join("bin/bpf-linker");
    if linker.exists() {
        let version = Cmd::new(&linker).arg("--version").read()?;
        if version.split_whitespace().last() == Some(BPF_LINKER) {
            eprintln!("setup: bpf-linker {BPF_LINKER} is there");
            return Ok(());
        }
    }
    eprintln!("setup: building bpf-linker {BPF_LINKER} into {} (1 to 3 minutes) …", linker.display());
    let start = Instant::now();
    let leftovers = project::target().join("tools/build");
    project::cargo("install")
        .args([&format!("bpf-linker@{BPF_LINKER}"), "--locked", "--force", "--quiet", "--root"])
        .arg(project::tools())
        // Not shared with the workspace's own builds, whose lock it would hold for minutes.
        .env("CARGO_TARGET_DIR", &leftovers)
        .run()
        .context("cannot install bpf-linker, which links the kernel programs")?;
    // Half a gigabyte that nothing will look at again.
    std::fs::remove_dir_all(&leftovers).with_context(|| format!("cannot remove {}", leftovers.display()))?;
    eprintln!("setup: bpf-linker took {} s", start.elapsed().as_secs());
    Ok(())
}

/// What running will miss on this machine. Only hints: the machine that builds need not be the one that runs.
fn kernel_hints() {
    let tracing = ["/sys/kernel/tracing/events", "/sys/kernel/debug/tracing/events"];
    if command::is_root() && !tracing.iter().any(|folder| std::path::Path::new(folder).exists()) {
        eprintln!(
            "setup: tracefs is not mounted; the syscall backend needs it (the socket backend does not):\n\
             \u{20}       mount -t tracefs tracefs /sys/kernel/tracing"
        );
    }
    if !std::path::Path::new("/sys/kernel/btf/vmlinux").exists() {
        eprintln!(
            "setup: this kernel has no /sys/kernel/btf/vmlinux (CONFIG_DEBUG_INFO_BTF), so Spandrel can be built\n\
             \u{20}       here but will not run"
        );
    }
}
