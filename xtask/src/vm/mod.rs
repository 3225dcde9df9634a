//! `cargo xtask vm`: the kernel matrix. Debian's 5.10, 6.1 and 6.12 kernels under qemu, the release
//! agent inside, a Python web server and a curl as the traced programs: one trace of two spans.
//!
//! ```text
//! kernel     the distribution's kernel package, unpacked under target/vm, cached
//! initramfs  busybox, the agent, python3, curl and the libraries they load, as one archive
//! boot       qemu: no disk, no network card; a serial port for the console, one for the results
//! verdict    what the results say against what the matrix expects of that kernel, both ways
//! ```
//! It must never touch the machine's own package lists or settings, need root, or let a machine that
//! hangs, panics or says nothing pass.

use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context, Result, bail};

use crate::build::Build;
use crate::command;
use crate::packages;
use crate::project;

mod boot;
mod initramfs;
mod kernel;
mod verdict;

/// Boots Debian's kernels under qemu and traces one request on each.
#[derive(Debug, clap::Args)]
pub struct Vm {
    /// Which kernels; without one, all of the matrix
    #[arg(value_parser = MATRIX.map(|row| row.kernel))]
    kernels: Vec<String>,
    /// An agent that is built already, instead of building it
    #[arg(long, value_name = "FILE")]
    agent: Option<PathBuf>,
    /// Prints the guest's console, too
    #[arg(long)]
    console: bool,
}

/// One kernel, and what each case must show there.
struct Row {
    kernel: &'static str,
    source: kernel::Source,
    cases: &'static [Case],
}

/// The agent is started with `--backend` this, and must then do that.
struct Case {
    backend: &'static str,
    expect: Expect,
}

/// What a case must show.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Expect {
    /// One trace, by this backend, which the line `ready` names.
    Traces(&'static str),
    /// The agent ends by itself with status 1 and a sentence that names the backend.
    Refuses,
}

use Expect::{Refuses, Traces};

/// The expectations in both directions: the tracepoints of the socket backend exist since Linux 6.3, so
/// 5.10 and 6.1 must refuse it; were it suddenly to work there, this table is what is wrong.
const MATRIX: [Row; 3] = [
    Row {
        kernel: "5.10",
        source: kernel::Source {
            package: r"^linux-image-5\.10\.0-[0-9]+-cloud-amd64$",
            suites: &["bullseye-security", "bullseye"],
        },
        cases: &[
            Case { backend: "syscall", expect: Traces("syscall") },
            Case { backend: "auto", expect: Traces("syscall") },
            Case { backend: "socket", expect: Refuses },
        ],
    },
    Row {
        kernel: "6.1",
        source: kernel::Source {
            package: r"^linux-image-6\.1\.0-[0-9]+-cloud-amd64$",
            suites: &["bookworm-security", "bookworm"],
        },
        cases: &[
            Case { backend: "syscall", expect: Traces("syscall") },
            Case { backend: "socket", expect: Refuses },
        ],
    },
    Row {
        kernel: "6.12",
        source: kernel::Source {
            package: r"^linux-image-6\.12\.[0-9]+\+deb1[23](\.[0-9]+)?-cloud-amd64$",
            suites: &["bookworm-security", "trixie-security", "trixie"],
        },
        cases: &[
            Case { backend: "syscall", expect: Traces("syscall") },
            Case { backend: "auto", expect: Traces("socket") },
        ],
    },
];

impl Vm {
    /// All kernels of the matrix.
    pub fn all() -> Self {
        Self { kernels: Vec::new(), agent: None, console: false }
    }

    /// Fails if any kernel does not show what the matrix says, after all have been tried.
    pub fn run(self) -> Result<()> {
        let (passed, failed) = self.tally()?;
        println!("vm: {passed} passed, {failed} failed");
        if failed > 0 {
            bail!("the kernel matrix failed; consoles and results are in {}", directory().display());
        }
        Ok(())
    }

    /// How many cases passed and how many failed, each of which is printed.
    pub fn tally(self) -> Result<(usize, usize)> {
        let missing = packages::missing(packages::VM);
        if !missing.is_empty() {
            bail!("{}", packages::remedy(&missing));
        }
        let agent = match self.agent {
            Some(agent) => agent,
            None => {
                Build::release().run()?;
                project::agent()
            }
        };
        let directory = directory();
        let archive = directory.join("initramfs.cpio");
        initramfs::write(&archive, &agent)?;

        let chosen = |row: &&Row| self.kernels.is_empty() || self.kernels.iter().any(|k| k == row.kernel);
        let (mut passed, mut failed) = (0, 0);
        for row in MATRIX.iter().filter(chosen) {
            let start = Instant::now();
            let outcome = kernel::fetch(row.kernel, &row.source, &directory).and_then(|image| {
                let cases: Vec<_> = row.cases.iter().map(|case| case.backend).collect();
                boot::boot(row.kernel, &image, &archive, &cases, &directory)
                    .with_context(|| format!("kernel {}", row.kernel))
            });
            let results = match outcome {
                Ok(results) => results,
                Err(error) => {
                    println!("vm: {:<5} FAILED  {error:#}", row.kernel);
                    failed += row.cases.len();
                    continue;
                }
            };
            if self.console {
                println!("{}", results.console);
            }
            for (backend, outcome) in verdict::judge(&results.lines, row.cases) {
                match outcome {
                    Ok(what) => {
                        println!("vm: {:<5} --backend {backend:<8} ok      {what}", row.kernel);
                        passed += 1;
                    }
                    Err(error) => {
                        println!("vm: {:<5} --backend {backend:<8} FAILED  {error:#}", row.kernel);
                        failed += 1;
                    }
                }
            }
            println!("vm: {:<5} took {} s", row.kernel, start.elapsed().as_secs());
        }
        Ok((passed, failed))
    }
}

/// Where the kernels are cached, and what the machines said is kept.
fn directory() -> PathBuf {
    project::target().join("vm")
}

/// qemu is the one program of this command that is named by architecture.
fn qemu() -> Result<PathBuf> {
    command::find("qemu-system-x86_64").context("there is no qemu-system-x86_64 on PATH")
}
