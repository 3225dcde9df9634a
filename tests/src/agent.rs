//! The real agent, started as a user starts it, and what it said: its spans, its gap report, its counters.
//!
//! The binary is `SPANDREL_BIN`, or the release build of this workspace. It must never be linked in: what is tested is
//! the program.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::gaps::{self, Gap};
use crate::otlp::{self, SeenSpan};
use crate::process::Scratch;

/// The agent's executable; an error says how to get it.
pub fn binary() -> Result<PathBuf> {
    if let Some(path) = std::env::var_os("SPANDREL_BIN") {
        let path = PathBuf::from(path);
        ensure!(path.is_file(), "SPANDREL_BIN is {}, which is no file", path.display());
        return Ok(path);
    }
    let path = crate::apps::workspace().join("target/release/spandrel");
    ensure!(path.is_file(), "{} is not built: run `cargo xtask build`, or set SPANDREL_BIN", path.display());
    Ok(path)
}

/// A running agent. Dropping it kills it.
#[derive(Debug)]
pub struct Agent {
    child: Child,
    stderr: Arc<Mutex<Vec<String>>>,
    stdout: Arc<Mutex<String>>,
    readers: Vec<JoinHandle<()>>,
    spans: PathBuf,
    gaps: PathBuf,
    /// From start to the line `ready`.
    pub start_up: Duration,
}

/// How to start it.
#[derive(Debug)]
pub struct Options<'a> {
    /// Where its files go.
    pub scratch: &'a Scratch,
    /// `auto`, `socket` or `syscall`.
    pub backend: &'a str,
    /// More arguments.
    pub arguments: Vec<String>,
    /// More environment.
    pub environment: Vec<(String, String)>,
    /// Write spans to a file of OTLP/JSON lines.
    pub file: bool,
}

impl<'a> Options<'a> {
    /// All defaults, spans to a file.
    pub fn new(scratch: &'a Scratch) -> Self {
        Self { scratch, backend: "auto", arguments: Vec::new(), environment: Vec::new(), file: true }
    }

    /// With these arguments too.
    pub fn arguments<S: Into<String>>(mut self, arguments: impl IntoIterator<Item = S>) -> Self {
        self.arguments.extend(arguments.into_iter().map(Into::into));
        self
    }

    /// With this variable too.
    pub fn variable(mut self, key: &str, value: &str) -> Self {
        self.environment.push((key.into(), value.into()));
        self
    }

    /// With this backend.
    pub fn backend(mut self, backend: &'a str) -> Self {
        self.backend = backend;
        self
    }

    /// Without `--export file:…`.
    pub fn no_file(mut self) -> Self {
        self.file = false;
        self
    }
}

impl Agent {
    /// Starts it and waits for the line that begins with `ready`.
    pub fn start(options: &Options<'_>) -> Result<Self> {
        static NUMBER: std::sync::atomic::AtomicUsize = std::sync::atomic::AtomicUsize::new(0);
        let number = NUMBER.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let spans = options.scratch.join(&format!("spans-{number}.jsonl"));
        let gaps = options.scratch.join(&format!("gaps-{number}.jsonl"));
        let mut command = Command::new(binary()?);
        if options.file {
            command.arg("--export").arg(format!("file:{}", spans.display()));
        }
        command.arg("--backend").arg(options.backend);
        command.arg("--gap-report").arg(&gaps);
        command.args(&options.arguments);
        for (key, _) in std::env::vars().filter(|(key, _)| key.starts_with("OTEL_")) {
            command.env_remove(key);
        }
        command.envs(options.environment.iter().map(|(key, value)| (key, value)));
        let began = Instant::now();
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .spawn()
            .with_context(|| format!("starting the agent: {command:?}"))?;
        let stderr = Arc::new(Mutex::new(Vec::new()));
        let stdout = Arc::new(Mutex::new(String::new()));
        let mut readers = Vec::new();
        if let (Some(err), Some(out)) = (child.stderr.take(), child.stdout.take()) {
            let (errors, lines) = (Arc::clone(&stderr), Arc::clone(&stdout));
            readers.push(std::thread::spawn(move || {
                for line in BufReader::new(err).split(b'\n').map_while(Result::ok) {
                    if let Ok(mut all) = errors.lock() {
                        all.push(String::from_utf8_lossy(&line).into_owned());
                    }
                }
            }));
            readers.push(std::thread::spawn(move || {
                for line in BufReader::new(out).split(b'\n').map_while(Result::ok) {
                    if let Ok(mut all) = lines.lock() {
                        all.push_str(&String::from_utf8_lossy(&line));
                        all.push('\n');
                    }
                }
            }));
        }
        let mut agent = Self { child, stderr, stdout, readers, spans, gaps, start_up: Duration::ZERO };
        loop {
            if agent.stderr().iter().any(|line| line.starts_with("ready")) {
                agent.start_up = began.elapsed();
                return Ok(agent);
            }
            if let Some(status) = agent.child.try_wait().context("asking after the agent")? {
                for reader in std::mem::take(&mut agent.readers) {
                    let _ = reader.join();
                }
                bail!("the agent ended with {status} before it was ready: {}", agent.stderr().join("\n"));
            }
            ensure!(
                began.elapsed() < READY,
                "the agent is not ready after {READY:?}: {}",
                agent.stderr().join("\n")
            );
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Lines of standard error so far.
    pub fn stderr(&self) -> Vec<String> {
        self.stderr.lock().map(|lines| lines.clone()).unwrap_or_default()
    }

    /// Standard output so far.
    pub fn stdout(&self) -> String {
        self.stdout.lock().map(|text| text.clone()).unwrap_or_default()
    }

    /// Spans in the file so far.
    pub fn spans(&self) -> Result<Vec<SeenSpan>> {
        if self.spans.exists() { otlp::read(&self.spans) } else { Ok(Vec::new()) }
    }

    /// Waits until the spans so far satisfy `done`, and returns them.
    pub fn spans_until(
        &self,
        what: &str,
        at_most: Duration,
        done: impl Fn(&[SeenSpan]) -> bool,
    ) -> Result<Vec<SeenSpan>> {
        let began = Instant::now();
        loop {
            let spans = self.spans()?;
            if done(&spans) {
                return Ok(spans);
            }
            ensure!(
                began.elapsed() < at_most,
                "not within {at_most:?}: {what}; {} spans so far; the agent said: {}",
                spans.len(),
                self.stderr().join("\n")
            );
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Waits until the spans so far satisfy `done`, or none has come for so long that none will. What is missing then
    /// is for the caller to say, who knows more than a time-out.
    pub fn settle(&self, done: impl Fn(&[SeenSpan]) -> bool) -> Result<()> {
        let (mut count, mut last) = (0, Instant::now());
        loop {
            let looked = Instant::now();
            let spans = self.spans()?;
            if done(&spans) {
                return Ok(());
            }
            if spans.len() != count {
                (count, last) = (spans.len(), Instant::now());
            } else if last.elapsed() > SETTLED {
                return Ok(());
            }
            // Reading a long file costs the agent the processor that it needs.
            std::thread::sleep((looked.elapsed() * 2).max(Duration::from_millis(20)));
        }
    }

    /// [`Agent::settle`] for so many spans whose path begins so.
    pub fn settle_for(&self, count: usize, prefix: &str) -> Result<()> {
        self.settle(|spans| spans.iter().filter(|span| span.path().starts_with(prefix)).count() >= count)
    }

    /// Kills it, as the kernel would: no chance to clean up.
    pub fn kill(mut self) -> Result<()> {
        self.child.kill().context("killing the agent")?;
        self.child.wait().context("waiting for the killed agent").map(drop)
    }

    /// SIGINT, and what it left behind. A status other than success is an error.
    pub fn stop(self) -> Result<Outcome> {
        let outcome = self.end(Signal::SIGINT)?;
        ensure!(
            outcome.status.success(),
            "the agent ended with {}: {}",
            outcome.status,
            outcome.stderr.join("\n")
        );
        Ok(outcome)
    }

    /// A signal, and what it left behind.
    pub fn end(mut self, signal: Signal) -> Result<Outcome> {
        let began = Instant::now();
        kill(Pid::from_raw(self.child.id() as i32), signal).context("signalling the agent")?;
        let status = loop {
            if let Some(status) = self.child.try_wait().context("asking after the agent")? {
                break status;
            }
            ensure!(
                began.elapsed() < STOP,
                "the agent still runs {STOP:?} after {signal}: {}",
                self.stderr().join("\n")
            );
            std::thread::sleep(Duration::from_millis(5));
        };
        let took = began.elapsed();
        // Until the threads that read its output have met the end of it.
        for reader in std::mem::take(&mut self.readers) {
            let _ = reader.join();
        }
        let stderr = self.stderr();
        Ok(Outcome {
            status,
            took,
            spans: if self.spans.exists() { otlp::read(&self.spans)? } else { Vec::new() },
            gaps: if self.gaps.exists() { gaps::read(&self.gaps)? } else { Vec::new() },
            counters: Counters::parse(&stderr),
            stdout: self.stdout(),
            stderr,
        })
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

/// What an agent left behind.
#[derive(Debug)]
pub struct Outcome {
    /// How it ended.
    pub status: ExitStatus,
    /// From the signal to the end.
    pub took: Duration,
    /// All spans of its file.
    pub spans: Vec<SeenSpan>,
    /// All gaps of its report.
    pub gaps: Vec<Gap>,
    /// Its counters.
    pub counters: Counters,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: Vec<String>,
}

/// The counters in the agent's last words: lines `spandrel_NAME{label="value"} N`.
#[derive(Clone, Debug, Default)]
pub struct Counters(BTreeMap<String, u64>);

impl Counters {
    /// Those among these lines; a line may have other text before the counter.
    pub fn parse(lines: &[String]) -> Self {
        let mut all = BTreeMap::new();
        for line in lines {
            let Some(line) = line.find("spandrel_").and_then(|at| line.get(at..)) else { continue };
            let Some((name, value)) = line.trim_end().rsplit_once(' ') else { continue };
            let plain = name.trim_end().chars().all(|c| c.is_ascii_graphic());
            if let (true, Ok(value)) = (plain, value.parse()) {
                all.insert(name.trim_end().to_owned(), value);
            }
        }
        Self(all)
    }

    /// All, by name and labels.
    pub fn all(&self) -> &BTreeMap<String, u64> {
        &self.0
    }

    /// The sum of all whose name with labels contains each of these texts.
    pub fn sum(&self, texts: &[&str]) -> u64 {
        self.matching(texts).map(|(_, value)| value).sum()
    }

    /// All whose name with labels contains each of these texts.
    pub fn matching<'a>(&'a self, texts: &'a [&'a str]) -> impl Iterator<Item = (&'a str, u64)> {
        self.0
            .iter()
            .filter(move |(name, _)| texts.iter().all(|text| name.contains(text)))
            .map(|(name, &value)| (name.as_str(), value))
    }
}

const READY: Duration = Duration::from_secs(60);
const STOP: Duration = Duration::from_secs(60);
/// Without a new span for so long, none will come: a server waits 250 ms for its client, and the rest for nothing but
/// the processor.
const SETTLED: Duration = Duration::from_secs(3);
/// Within so long the agent must have ended after a signal. It flushes for at most 5 s; the rest is for a busy machine,
/// and far from the minutes for which a destination that is away can be tried.
pub const END_WITHIN: Duration = Duration::from_secs(20);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_are_found_among_other_lines() {
        let lines = [
            "ready: 14 programs attached".to_owned(),
            "2026-01-01T00:00:00Z  INFO spandrel_stream_lost_bytes_total{cause=\"ring\"} 12".to_owned(),
            "  spandrel_stream_lost_bytes_total{cause=\"page\"}   3".to_owned(),
            "spandrel_export_spans_total 7".to_owned(),
            "spandrel_is fine".to_owned(),
        ];
        let counters = Counters::parse(&lines);
        assert_eq!(counters.all().len(), 3);
        assert_eq!(counters.sum(&["stream_lost"]), 15);
        assert_eq!(counters.sum(&["stream_lost", "ring"]), 12);
    }
}
