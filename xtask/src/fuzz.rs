//! `cargo xtask fuzz`: the fuzz bodies under libFuzzer, on the stable toolchain.
//!
//! Only this workspace's own crates are compiled for coverage, through cargo's workspace wrapper; every
//! dependency is the one that the release build made. Seeds are read from `fuzz/corpus`; what is found on
//! the way stays under the target directory. It must never write to the committed corpus: a crash becomes
//! a seed by being copied there, with the change that mends it.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::command::Cmd;
use crate::{packages, project, setup};

/// Fuzzes the parsers, guided by coverage.
#[derive(Debug, clap::Args)]
pub struct Fuzz {
    /// How long, over all targets together
    #[arg(long, default_value_t = 60, value_name = "N")]
    seconds: u64,
    /// Of libFuzzer's random numbers; with the same seed, corpus and build it does the same
    #[arg(long, default_value_t = 1)]
    seed: u32,
    /// Only names the targets
    #[arg(long)]
    list: bool,
    /// Which of them; without one, all
    targets: Vec<String>,
}

impl Fuzz {
    /// All targets, for so many seconds altogether.
    pub fn all(seconds: u64) -> Self {
        Self { seconds, seed: 1, list: false, targets: Vec::new() }
    }

    /// Fails at the first crash, and says where its input is.
    pub fn run(self) -> Result<()> {
        self.tally().map(drop)
    }

    /// The same, and says how many targets there were.
    pub fn tally(self) -> Result<usize> {
        let missing = packages::missing(packages::FUZZ);
        if !missing.is_empty() {
            bail!("{}", packages::remedy(&missing));
        }
        setup::Setup {}.run()?;
        let program = build()?;
        let known = Cmd::new(&program).env(TARGET, "list").read()?;
        let known: Vec<&str> = known.split_whitespace().collect();
        if self.list {
            println!("{}", known.join("\n"));
            return Ok(known.len());
        }
        if let Some(unknown) = self.targets.iter().find(|target| !known.contains(&target.as_str())) {
            bail!("there is no fuzz target {unknown}; there are {}", known.join(", "));
        }
        let chosen = |target: &&&str| self.targets.is_empty() || self.targets.iter().any(|t| t == **target);
        let chosen: Vec<&str> = known.iter().filter(chosen).copied().collect();
        // libFuzzer takes whole seconds, and 0 means for ever.
        let each = (self.seconds / chosen.len().max(1) as u64).max(1);
        for target in &chosen {
            one(&program, target, each, self.seed)?;
        }
        Ok(chosen.len())
    }
}

/// The variable by which the program is told what to fuzz.
const TARGET: &str = "SPANDREL_FUZZ_TARGET";

/// An input longer than this is cut by no bound that a shorter one would not meet: the largest head that a
/// connection sends by default is 64 KiB, and most bounds can be reached with less.
const LONGEST_INPUT: usize = 16 * 1024;

fn one(program: &PathBuf, target: &str, seconds: u64, seed: u32) -> Result<()> {
    let found = project::target().join("fuzz/corpus").join(target);
    let crashes = project::target().join("fuzz/crashes").join(target);
    let seeds = project::root().join("fuzz/corpus").join(target);
    for folder in [&found, &crashes] {
        fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
    }
    if !seeds.is_dir() {
        bail!("the target {target} has no seeds: {} is missing", seeds.display());
    }
    let start = Instant::now();
    let mut output = Vec::new();
    let result = Cmd::new(program)
        .env(TARGET, target)
        .args([
            &format!("-max_total_time={seconds}"),
            &format!("-seed={seed}"),
            "-timeout=10",
            "-rss_limit_mb=1024",
        ])
        .args([&format!("-max_len={LONGEST_INPUT}"), &format!("-artifact_prefix={}/", crashes.display())])
        .args(["-print_final_stats=1", "-verbosity=1"])
        .arg(&found)
        .arg(&seeds)
        .lines(Duration::from_secs(seconds * 2 + 120), |line| output.push(line.to_owned()));
    if let Err(error) = result {
        let start = output.len().saturating_sub(40);
        let tail = output.get(start..).unwrap_or_default().join("\n");
        bail!("{tail}\nthe fuzz target {target} failed: {error}\nthe input is in {}", crashes.display());
    }
    let statistic = |name: &str| {
        let line = output.iter().find_map(|line| line.strip_prefix("stat::")?.strip_prefix(name));
        line.map_or("?", |value| value.trim_start_matches(':').trim()).to_owned()
    };
    let runs = statistic("number_of_executed_units");
    println!(
        "fuzz: {target:<20} {runs:>10} inputs in {:>3} s, no crash (seed {seed})",
        start.elapsed().as_secs()
    );
    Ok(())
}

fn build() -> Result<PathBuf> {
    let folder = project::target().join("fuzz");
    fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
    let wrapper = folder.join("rustc");
    // Written only if it differs: cargo compiles anew when the wrapper is newer than the result.
    if fs::read_to_string(&wrapper).ok().as_deref() != Some(WRAPPER) {
        fs::write(&wrapper, WRAPPER).with_context(|| format!("cannot write {}", wrapper.display()))?;
        let executable = fs::Permissions::from_mode(0o755);
        fs::set_permissions(&wrapper, executable)
            .with_context(|| format!("cannot make {} executable", wrapper.display()))?;
    }
    project::cargo("build")
        .args(["--quiet", "--release", "--package", "spandrel-fuzz"])
        .env("RUSTC_WORKSPACE_WRAPPER", &wrapper)
        .run()?;
    Ok(project::target().join("release/spandrel-fuzz"))
}

/// Cargo calls it as `rustc PATH-OF-RUSTC ARGUMENTS` for the workspace's crates only. Build scripts run on
/// their own, without libFuzzer, so they stay as they are. The flags are those of cargo-fuzz; checks of
/// arithmetic are on, since an overflow is a finding.
const WRAPPER: &str = r#"#!/bin/sh
case " $* " in
*" build_script_build "*) exec "$@" ;;
esac
exec "$@" -Cpasses=sancov-module \
    -Cllvm-args=-sanitizer-coverage-level=4 \
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters \
    -Cllvm-args=-sanitizer-coverage-pc-table \
    -Cllvm-args=-sanitizer-coverage-trace-compares \
    -Ccodegen-units=1 -Cdebug-assertions=on -Coverflow-checks=on
"#;
