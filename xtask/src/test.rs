//! `cargo xtask test`: everything that must hold of this repository, in one command without a terminal.
//!
//! A step that fails does not keep the others from running; what it printed is shown then. A warning of
//! the compiler, of clippy or of rustdoc is a failure. It must never pass over in silence what the machine
//! lacks: that is a failure, too, with the remedy. At the end stand the ten slowest steps and tests and one
//! line, `N passed, N failed`.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use crate::command::Cmd;
use crate::{build, fuzz, packages, project, setup, tidy, vm};

/// Everything, end to end: format, lints, unit tests, documentation, fuzzing, real programs, kernels.
#[derive(Debug, clap::Args)]
pub struct Test {
    /// Only the steps whose name contains this, e.g. `unit`
    step: Option<String>,
    /// How long to fuzz, over all targets together
    #[arg(long, default_value_t = 30, value_name = "N")]
    fuzz_seconds: u64,
}

impl Test {
    /// Fails if anything failed, after all has been tried.
    pub fn run(self) -> Result<()> {
        let mut report = Report { only: self.step, ..Report::default() };
        let cargo = |subcommand: &str| project::cargo(subcommand).env("CARGO_TERM_COLOR", "never");

        report.step("packages", |tally| {
            tally.one(packages::end_to_end().and_then(|mut needs| {
                needs.extend_from_slice(packages::VM);
                needs.extend_from_slice(packages::FUZZ);
                packages::provide(&needs)
            }))
        });
        report.step("setup", |tally| tally.one(setup::Setup {}.run()));
        report.step("format", |tally| tally.check(cargo("fmt").args(["--all", "--check"])));
        report.step("tidy", |tally| tally.one(tidy::Tidy {}.run()));
        report.step("clippy", |tally| {
            let lints = cargo("clippy").args(["--workspace", "--exclude", "spandrel-ebpf", "--all-targets"]);
            tally.check(lints.args(["--", "--deny", "warnings"]))
        });
        report.step("clippy of the kernel programs", |tally| {
            tally.check(
                cargo("clippy")
                    .args(["--package", "spandrel-ebpf", "--release", "-Z", "build-std=core"])
                    .args(["--target", "bpfel-unknown-none", "--target-dir"])
                    .arg(project::target().join("ebpf"))
                    .args(["--", "--deny", "warnings"])
                    // As the agent's build script has it, so that both share what is built: unstable
                    // `-Z build-std` on the stable toolchain, and these flags.
                    .env("RUSTC_BOOTSTRAP", "1")
                    .env("RUSTFLAGS", "--cfg=bpf_target_arch=\"x86_64\" -Cdebuginfo=2 -Clink-arg=--btf"),
            )
        });
        report.step("build", |tally| tally.one(build::Build::release().run()));
        report.step("unit tests", |tally| {
            let packages = ["--workspace", "--exclude", "spandrel-ebpf", "--exclude", "spandrel-fuzz"];
            let tests = cargo("test").args(packages).args(["--exclude", "spandrel-tests", "--no-fail-fast"]);
            tally.tests(tests, Timed::Together, MINUTE * 30)
        });
        report.step("documentation", |tally| {
            let packages = ["--workspace", "--exclude", "spandrel-ebpf", "--exclude", "spandrel-fuzz"];
            let doc = cargo("doc").args(packages).args(["--no-deps", "--document-private-items"]);
            // Private items are documented, so links to them are no mistake.
            let flags = "--deny warnings --allow rustdoc::private-intra-doc-links";
            tally.check(doc.env("RUSTDOCFLAGS", flags))
        });
        report.step("fuzz", |tally| match fuzz::Fuzz::all(self.fuzz_seconds).tally() {
            Ok(targets) => tally.passed += targets,
            Err(error) => tally.fail(&format!("{error:#}")),
        });
        report.step("end to end", |tally| {
            // One at a time: agents see each other's traffic.
            let tests = cargo("test").args(["--package", "spandrel-tests", "--no-fail-fast"]);
            let tests = tests.args(["--", "--test-threads=1"]).env("SPANDREL_BIN", project::agent());
            tally.tests(tests, Timed::OneByOne, MINUTE * 60)
        });
        report.step("kernel matrix", |tally| match vm::Vm::all().tally() {
            Ok((passed, failed)) => {
                tally.passed += passed;
                if failed > 0 {
                    tally.failures.push(format!("{failed} cases"));
                    tally.failed += failed;
                }
            }
            Err(error) => tally.fail(&format!("{error:#}")),
        });
        report.close()
    }
}

const MINUTE: Duration = Duration::from_secs(60);

/// What has been run.
#[derive(Debug, Default)]
struct Report {
    only: Option<String>,
    passed: usize,
    failed: usize,
    failures: Vec<String>,
    times: Vec<(String, Duration)>,
}

/// What one step counted.
#[derive(Debug, Default)]
struct Tally {
    passed: usize,
    failed: usize,
    failures: Vec<String>,
    times: Vec<(String, Duration)>,
}

impl Report {
    fn step(&mut self, name: &str, run: impl FnOnce(&mut Tally)) {
        if self.only.as_ref().is_some_and(|only| !name.contains(only.as_str())) {
            return;
        }
        println!("== {name}");
        let start = Instant::now();
        let mut tally = Tally::default();
        run(&mut tally);
        let took = start.elapsed();
        let Tally { passed, failed, failures, times } = tally;
        println!("== {name}: {passed} passed, {failed} failed, {:.1} s", took.as_secs_f64());
        self.passed += passed;
        self.failed += failed;
        self.failures.extend(failures.into_iter().map(|failure| format!("{name}: {failure}")));
        // A step whose tests are timed one by one is itself only what is left: compiling.
        let tests: Duration = times.iter().map(|(_, time)| *time).sum();
        self.times.push((name.to_owned(), took.saturating_sub(tests)));
        self.times.extend(times);
    }

    fn close(mut self) -> Result<()> {
        self.times.sort_by_key(|(_, time)| std::cmp::Reverse(*time));
        println!("\nthe slowest:");
        for (name, time) in self.times.iter().take(10) {
            println!("{:>8.1} s  {name}", time.as_secs_f64());
        }
        if !self.failures.is_empty() {
            println!("\nfailed:");
        }
        for failure in &self.failures {
            println!("  {}", failure.trim_end().replace('\n', "\n    "));
        }
        if self.passed + self.failed == 0 {
            bail!("there is no step {:?}", self.only.unwrap_or_default());
        }
        println!("\n{} passed, {} failed", self.passed, self.failed);
        if self.failed > 0 { bail!("{} failed", self.failed) } else { Ok(()) }
    }
}

impl Tally {
    fn fail(&mut self, why: &str) {
        println!("{why}");
        self.failed += 1;
        self.failures.push(why.to_owned());
    }

    /// A step that is one check.
    fn one(&mut self, result: Result<()>) {
        match result {
            Ok(()) => self.passed += 1,
            Err(error) => self.fail(&format!("{error:#}")),
        }
    }

    /// A program that is one check: what it printed is shown if it failed, and a warning is a failure.
    fn check(&mut self, command: Cmd) {
        let mut output = Vec::new();
        let result = command.lines(MINUTE * 30, |line| output.push(line.to_owned()));
        let warnings = output.iter().filter(|line| is_warning(line)).count();
        if result.is_err() || warnings > 0 {
            println!("{}", output.join("\n"));
        }
        match result {
            Ok(()) if warnings > 0 => self.fail(&format!("{warnings} warnings")),
            result => self.one(result),
        }
    }

    /// A run of `cargo test`, whose tests count one by one.
    fn tests(&mut self, command: Cmd, timed: Timed, limit: Duration) {
        let (mut output, mut warnings) = (Vec::new(), 0);
        let mut last = Instant::now();
        let result = command.lines(limit, |line| {
            if let Some((test, outcome)) = outcome(line) {
                println!("{line}");
                if timed == Timed::OneByOne {
                    self.times.push((format!("test {test}"), last.elapsed()));
                }
                // An ignored test is one that nobody runs.
                if outcome != Outcome::Passed {
                    self.failures.push(line.to_owned());
                }
            }
            if line.starts_with("test ") || line.starts_with("running ") {
                last = Instant::now();
            }
            // The sums, since a line of a single test can be torn by what its programs print.
            if let Some([passed, failed, ignored]) = sums(line) {
                self.passed += passed;
                self.failed += failed + ignored;
            }
            warnings += usize::from(is_warning(line));
            output.push(line.to_owned());
        });
        if result.is_err() || warnings > 0 {
            println!("{}", output.join("\n"));
        }
        for failure in &mut self.failures {
            if let Some((test, Outcome::Failed)) = outcome(failure) {
                let said = said(&output, test);
                failure.extend(said.iter().flat_map(|line| ["\n", line]));
            }
        }
        if warnings > 0 {
            self.fail(&format!("{warnings} warnings"));
        }
        match result {
            Err(error) if self.failed == 0 => self.fail(&format!("{error:#}")),
            Ok(()) if self.passed == 0 => self.fail("not one test ran"),
            _ => {}
        }
    }
}

/// Whether a test's time is that from the end of the one before it, or known for all of them only.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Timed {
    OneByOne,
    Together,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Outcome {
    Passed,
    Failed,
    Ignored,
}

/// `test NAME ... ok` and its like, as libtest prints them.
fn outcome(line: &str) -> Option<(&str, Outcome)> {
    let (test, rest) = line.strip_prefix("test ")?.split_once(" ... ")?;
    let outcome = match rest.split([',', ' ']).next()? {
        "ok" => Outcome::Passed,
        "FAILED" => Outcome::Failed,
        "ignored" => Outcome::Ignored,
        _ => return None,
    };
    Some((test, outcome))
}

/// So many lines of a failed test's error stand at the end of the run too, where only the end of the output is kept.
const SAID: usize = 20;

/// The error of a failed test, of what libtest prints after all tests of its program have run.
fn said<'a>(output: &'a [String], test: &str) -> &'a [String] {
    let head = format!("---- {test} stdout ----");
    let Some(from) = output.iter().rposition(|line| *line == head) else { return &[] };
    let said = output.get(from + 1..).unwrap_or_default();
    let end = said.iter().position(|line| line.starts_with("---- ") || line == "failures:");
    let said = said.get(..end.unwrap_or(said.len())).unwrap_or_default();
    let error = said.iter().position(|line| line.starts_with("Error: ") || line.contains(" panicked at "));
    let said = said.get(error.unwrap_or_default()..).unwrap_or_default();
    said.get(..said.len().min(SAID)).unwrap_or_default()
}

/// Passed, failed and ignored of `test result: ok. 3 passed; 0 failed; 1 ignored; …`, which ends each
/// program of tests.
fn sums(line: &str) -> Option<[usize; 3]> {
    let (_, sums) = line.strip_prefix("test result: ")?.split_once(". ")?;
    let mut sums = sums.split("; ").map_while(|sum| sum.split(' ').next()?.parse().ok());
    Some([sums.next()?, sums.next()?, sums.next()?])
}

/// As rustc, cargo, clippy and rustdoc begin them.
fn is_warning(line: &str) -> bool {
    line.starts_with("warning: ") || line.starts_with("warning[")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_libtest_prints_is_counted() {
        assert_eq!(outcome("test a::b ... ok"), Some(("a::b", Outcome::Passed)));
        assert_eq!(outcome("test a::b ... FAILED"), Some(("a::b", Outcome::Failed)));
        assert_eq!(outcome("test a ... ignored, needs x"), Some(("a", Outcome::Ignored)));
        let result = "test result: FAILED. 3 passed; 1 failed; 2 ignored; 0 measured; 0 filtered out";
        assert_eq!((outcome(result), sums(result)), (None, Some([3, 1, 2])));
    }

    #[test]
    fn the_error_of_a_failed_test_stands_at_the_end() {
        let rows: String = (0..40).map(|row| format!("row {row}\n")).collect();
        let output = format!(
            "test a ... FAILED\n\nfailures:\n\n---- a stdout ----\n{rows}Error: 2 rows:\none\ntwo\n\n\nfailures:\n    a\n"
        );
        let mut tally = Tally { passed: 1, ..Tally::default() };
        tally.tests(Cmd::new("printf").arg(output), Timed::Together, MINUTE);
        assert_eq!(
            tally.failures.first().map(|failure| failure.trim_end()),
            Some("test a ... FAILED\nError: 2 rows:\none\ntwo")
        );
    }

    #[test]
    fn a_program_that_succeeds_with_a_warning_fails() {
        let mut tally = Tally::default();
        tally.check(Cmd::new("echo").arg("warning: unused"));
        assert_eq!((tally.passed, tally.failed), (0, 1));
        tally.check(Cmd::new("echo").arg("no warnings"));
        assert_eq!((tally.passed, tally.failed), (1, 1));
    }

    #[test]
    fn a_test_run_without_a_test_fails() {
        let mut tally = Tally::default();
        tally.tests(Cmd::new("true"), Timed::Together, MINUTE);
        assert_eq!((tally.passed, tally.failed), (0, 1));
        tally.tests(
            Cmd::new("echo").arg("test result: ok. 1 passed; 0 failed; 0 ignored; 0 measured"),
            Timed::Together,
            MINUTE,
        );
        assert_eq!((tally.passed, tally.failed), (1, 1));
    }
}
