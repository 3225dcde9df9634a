//! One boot of one kernel under qemu, and what it left on its two serial ports.
//!
//! Each argument has its reason below. It must never wait for ever: past [`LIMIT`] qemu is killed, which
//! is a failure like a panic is.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::command::Cmd;

/// What a machine said.
#[derive(Debug)]
pub struct Results {
    /// The lines of the second serial port, which only `init` writes to.
    pub lines: Vec<String>,
    /// The first serial port: the kernel's console.
    pub console: String,
}

/// Three times what the slowest machine took, emulated on two cores that had much else to do.
const LIMIT: Duration = Duration::from_secs(600);

/// Boots, waits for the machine to switch itself off, and reads what it said.
pub fn boot(
    name: &str,
    kernel: &Path,
    initramfs: &Path,
    cases: &[&str],
    directory: &Path,
) -> Result<Results> {
    let console = directory.join(format!("{name}.console"));
    let results = directory.join(format!("{name}.results"));
    for file in [&console, &results] {
        fs::write(file, "").with_context(|| format!("cannot write {}", file.display()))?;
    }
    let append = format!("console=ttyS0 quiet panic=-1 spandrel.cases={}", cases.join(","));
    let qemu = Cmd::new(super::qemu()?)
        .shown_as("qemu-system-x86_64")
        // Emulation everywhere, also where /dev/kvm is: the same machine on every host.
        .args(["-accel", "tcg", "-cpu", "max"])
        // The archive is held twice while it is unpacked.
        .args(["-m", "1024", "-smp", "1"])
        // `panic=-1` above turns a panic into a reboot, and this a reboot into an exit.
        .args(["-display", "none", "-monitor", "none", "-no-reboot", "-nic", "none"])
        .args(["-serial", &format!("file:{}", console.display())])
        .args(["-serial", &format!("file:{}", results.display())])
        .arg("-kernel")
        .arg(kernel)
        .arg("-initrd")
        .arg(initramfs)
        .args(["-append", &append]);
    let ended = qemu.lines(LIMIT, |line| println!("vm: {name:<5} qemu: {line}"));
    let read = |file: &Path| {
        let bytes = fs::read(file).with_context(|| format!("cannot read {}", file.display()))?;
        anyhow::Ok(String::from_utf8_lossy(&bytes).into_owned())
    };
    let console = read(&console)?;
    ended.with_context(|| tail(&console))?;
    if console.contains("Kernel panic") {
        bail!("the kernel panicked:\n{}", tail(&console));
    }
    let lines: Vec<String> = read(&results)?.lines().map(|line| line.trim_end().to_owned()).collect();
    match lines.iter().filter(|line| line.starts_with("verdict ")).count() {
        1 => Ok(Results { lines, console }),
        n => bail!("{n} verdicts instead of one; the console ends with:\n{}", tail(&console)),
    }
}

/// The last lines of a console, indented.
fn tail(console: &str) -> String {
    let lines: Vec<&str> = console.lines().collect();
    let start = lines.len().saturating_sub(15);
    lines.get(start..).unwrap_or_default().iter().map(|line| format!("    {line}\n")).collect()
}
