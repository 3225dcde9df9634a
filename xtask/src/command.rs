//! Running other programs: a failure quotes the command that failed, so that it can be typed again.
//!
//! It must never hide what a program said (output is passed on, or quoted in the error), and never
//! leave a program running that has outlived its time limit: its descendants are ended one by one, by
//! id, each found through its parent. No process groups, so that Ctrl-C still reaches them all.

use std::ffi::OsStr;
use std::fmt;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// A program with its arguments, not yet running.
#[derive(Debug)]
pub struct Cmd {
    command: Command,
    shown: String,
    environment: Vec<String>,
}

impl Cmd {
    /// A program by name (looked up on `PATH`) or path.
    pub fn new(program: impl AsRef<OsStr>) -> Self {
        let shown = quoted(program.as_ref());
        Self { command: Command::new(program), shown, environment: Vec::new() }
    }

    /// The program's name in messages, where its path would only distract.
    pub fn shown_as(mut self, name: &str) -> Self {
        self.shown = name.to_owned();
        self
    }

    /// One more argument.
    pub fn arg(mut self, arg: impl AsRef<OsStr>) -> Self {
        self.shown.push(' ');
        self.shown.push_str(&quoted(arg.as_ref()));
        self.command.arg(arg);
        self
    }

    /// More arguments.
    pub fn args<A: AsRef<OsStr>>(self, args: impl IntoIterator<Item = A>) -> Self {
        args.into_iter().fold(self, Cmd::arg)
    }

    /// Runs in this directory.
    pub fn directory(mut self, directory: impl Into<PathBuf>) -> Self {
        self.command.current_dir(directory.into());
        self
    }

    /// Sets a variable of the program's environment; `PATH` is not repeated in messages.
    pub fn env(mut self, key: &str, value: impl AsRef<OsStr>) -> Self {
        if key != "PATH" && !key.starts_with("CARGO_TERM") {
            self.environment.push(format!("{key}={}", quoted(value.as_ref())));
        }
        self.command.env(key, value);
        self
    }

    /// Runs it on our own input and output.
    pub fn run(mut self) -> Result<()> {
        let status = self.command.status().with_context(|| format!("cannot start `{self}`"))?;
        self.verdict(status)
    }

    /// Runs it and gives what it wrote to standard output; what it wrote to standard error is quoted
    /// if it fails.
    pub fn read(mut self) -> Result<String> {
        let output =
            self.command.stdin(Stdio::null()).output().with_context(|| format!("cannot start `{self}`"))?;
        if let Err(error) = self.verdict(output.status) {
            bail!("{error}\n{}", String::from_utf8_lossy(&output.stderr).trim_end());
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Runs it without input and hands each line of its output and its errors, in the order in which
    /// they were written, to `line`. Past `limit` it and all its descendants are killed.
    pub fn lines(mut self, limit: Duration, mut line: impl FnMut(&str)) -> Result<()> {
        let (reader, writer) = std::io::pipe().context("cannot make a pipe")?;
        let errors = writer.try_clone().context("cannot copy a pipe's end")?;
        self.command.stdin(Stdio::null()).stdout(writer).stderr(errors);
        let mut child = self.command.spawn().with_context(|| format!("cannot start `{self}`"))?;
        // The builder keeps our copies of the pipe's writing end, and the reader waits for the last of them.
        self.command.stdout(Stdio::null()).stderr(Stdio::null());

        let (sender, lines) = mpsc::channel();
        std::thread::spawn(move || {
            let mut reader = BufReader::new(reader);
            let mut bytes = Vec::new();
            while let Ok(1..) = reader.read_until(b'\n', &mut bytes) {
                if sender.send(String::from_utf8_lossy(&bytes).trim_end().to_owned()).is_err() {
                    return;
                }
                bytes.clear();
            }
        });

        let deadline = Instant::now() + limit;
        loop {
            match lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(text) => line(&text),
                Err(RecvTimeoutError::Disconnected) => break,
                Err(RecvTimeoutError::Timeout) => {
                    for process in family(child.id()) {
                        // It may have ended by itself in the meantime, which is as good.
                        let _ = kill(Pid::from_raw(process), Signal::SIGKILL);
                    }
                    child.wait().with_context(|| format!("cannot wait for `{self}`"))?;
                    bail!("`{self}` was not done after {} s, so it was killed", limit.as_secs());
                }
            }
        }
        let status = child.wait().with_context(|| format!("cannot wait for `{self}`"))?;
        self.verdict(status)
    }

    fn verdict(&self, status: ExitStatus) -> Result<()> {
        if status.success() {
            return Ok(());
        }
        bail!("`{self}` failed: {status}")
    }
}

impl fmt::Display for Cmd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for variable in &self.environment {
            write!(f, "{variable} ")?;
        }
        f.write_str(&self.shown)
    }
}

/// Is there a program of this name on `PATH`, or in the folders of administrators' programs, which a
/// user's `PATH` often lacks?
pub fn exists(program: &str) -> bool {
    find(program).is_some()
}

/// Where the program of this name is.
pub fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let usual = ["/usr/local/sbin", "/usr/sbin", "/sbin"].map(PathBuf::from);
    std::env::split_paths(&path)
        .chain(usual)
        .map(|directory| directory.join(program))
        .find(|candidate| candidate.is_file())
}

/// Are we root?
pub fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}

/// A process and its descendants, the deepest last, so that no parent can start another once it is dead.
fn family(process: u32) -> Vec<i32> {
    let mut parents = Vec::new();
    for entry in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(id) = entry.file_name().to_str().and_then(|name| name.parse::<i32>().ok()) else { continue };
        let stat = std::fs::read_to_string(entry.path().join("stat")).unwrap_or_default();
        if let Some(parent) = parent_in(&stat) {
            parents.push((id, parent));
        }
    }
    let mut family = vec![process as i32];
    let mut next = 0;
    while let Some(&parent) = family.get(next) {
        family.extend(parents.iter().filter(|(_, p)| *p == parent).map(|(id, _)| *id));
        next += 1;
    }
    family
}

/// The fourth field of `/proc/PID/stat` (proc(5)); the second, the name, may hold spaces and brackets.
fn parent_in(stat: &str) -> Option<i32> {
    let (_, after_name) = stat.rsplit_once(')')?;
    after_name.split_whitespace().nth(1)?.parse().ok()
}

/// A word as a POSIX shell would need it.
fn quoted(word: &OsStr) -> String {
    let word = word.to_string_lossy();
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_=./:,@+%".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        return word.into_owned();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_quotes_the_command_so_that_a_shell_would_take_it() {
        let error = Cmd::new("sh").arg("-c").arg("exit 3 # it's").env("A", "b c").run().unwrap_err();
        assert_eq!(error.to_string(), r"`A='b c' sh -c 'exit 3 # it'\''s'` failed: exit status: 3");
    }

    #[test]
    fn output_and_errors_arrive_as_lines_in_their_order() {
        let mut lines = Vec::new();
        let script = "echo one; echo two >&2; printf three";
        Cmd::new("sh")
            .args(["-c", script])
            .lines(Duration::from_secs(10), |l| lines.push(l.to_owned()))
            .unwrap();
        assert_eq!(lines, ["one", "two", "three"]);
    }

    #[test]
    fn past_its_limit_a_program_and_its_children_are_killed() {
        let mut child = 0;
        let error = Cmd::new("sh")
            .args(["-c", "sleep 100 & echo $!; wait"])
            .lines(Duration::from_millis(500), |line| child = line.parse().unwrap())
            .unwrap_err();
        assert!(error.to_string().ends_with("so it was killed"), "{error}");
        // A zombie whose new parent has not reaped it yet still has an entry, in state Z.
        let state = || {
            let stat = std::fs::read_to_string(format!("/proc/{child}/stat")).unwrap_or_default();
            stat.rsplit_once(") ").and_then(|(_, rest)| rest.chars().next())
        };
        // Being killed takes the time until it is next scheduled.
        let patience = Instant::now() + Duration::from_secs(10);
        while !matches!(state(), None | Some('Z' | 'X')) {
            assert!(Instant::now() < patience, "it still runs, in state {:?}", state());
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    #[test]
    fn a_process_name_with_brackets_does_not_hide_its_parent() {
        assert_eq!(parent_in("12 (a) b (c) S 7 12 12 0"), Some(7));
        assert_eq!(parent_in(""), None);
    }
}
