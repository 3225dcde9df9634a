//! Every setting, once: key, value, default, meaning, and how its text becomes part of [`Settings`].
//!
//! The flag is `--` and the key with `-`; the variable `SPANDREL_` and the key in capitals; the key itself is that
//! of the YAML file. To add a setting, add a row to [`SETTINGS`] and a field to [`Settings`], and use it:
//! one that is accepted and ignored must never be here.

use std::collections::HashSet;
use std::path::PathBuf;
use std::time::Duration;

use super::error::ConfigError;
use super::value;
use crate::discover::Selection;
use crate::discover::runtimes::RUNTIMES;
use crate::discover::select::Glob;
use crate::discover::tls_modes::{Mode, Modes, Selector};
use crate::log::Level;
use crate::stitch::span::LinkMethod;

/// Everything that can be set, as the stations want it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Settings {
    /// Which processes to trace.
    pub selection: Selection,
    /// Where spans go; never empty.
    pub exports: Vec<Export>,
    /// Where OTLP goes, if it was given here and not by the `OTEL_EXPORTER_OTLP_*` variables.
    pub otlp_endpoint: Option<String>,
    /// Where to write a line of JSON for each known gap.
    pub gap_report: Option<PathBuf>,
    /// What becomes of the values in query strings.
    pub query_values: QueryValues,
    /// What becomes of exchanges that are telemetry on its way to a collector.
    pub telemetry_intake: TelemetryIntake,
    /// The longest attribute value, in bytes.
    pub attribute_bytes: u64,
    /// The weakest way to find a parent that is allowed.
    pub weakest_link: LinkMethod,
    /// Runtimes whose processes are not read from inside, by name.
    pub no_runtime: HashSet<&'static str>,
    /// How TLS is read, of which processes.
    pub tls: Modes,
    /// Whether the keys of TLS are searched for.
    pub tls_search: TlsSearch,
    /// Where names that a late join hides come from.
    pub late_names: LateNames,
    /// How long a span may wait for its parent.
    pub pending_age: Duration,
    /// Which kernel hooks to use.
    pub backend: Backend,
    /// The most bytes captured of one call.
    pub capture_bytes: u64,
    /// The size of the ring buffer between kernel and agent, in bytes; a power of two.
    pub ring_bytes: u64,
    /// Hits a second of a process's probes above which they come off; 0 for no bound, none for each set's own.
    pub probe_hits: Option<u64>,
    /// The most bytes of spans that wait for an exporter.
    pub export_queue_bytes: u64,
    /// How much to log.
    pub log: Level,
    /// The configuration file that was read.
    pub config: Option<PathBuf>,
}

/// Where finished spans go.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub enum Export {
    /// To an OTLP endpoint.
    Otlp,
    /// To standard output, as trees.
    Terminal,
    /// To a file, one OTLP/JSON object per line.
    File(PathBuf),
    /// Nowhere.
    None,
}

/// How the kernel side watches socket calls.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Backend {
    /// The best that this kernel has.
    Auto,
    /// The socket tracepoints (Linux 6.3 and later).
    Socket,
    /// The system call tracepoints.
    Syscall,
}

/// What becomes of the values in query strings.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum QueryValues {
    /// They become `REDACTED`.
    Redact,
    /// They stay.
    Keep,
}

/// What becomes of exchanges that carry telemetry (OTLP, Jaeger, Zipkin).
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum TelemetryIntake {
    /// They make no spans, and are counted.
    Suppress,
    /// They are traced like any other.
    Trace,
}

/// How often a setting may be given in one source.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Times {
    /// At most once.
    Once,
    /// Any number of times; a list in the file, separated by commas in the variable.
    Repeated,
}

/// Whether keys are searched for in a program's memory.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum TlsSearch {
    /// If they are not found otherwise.
    On,
    /// Never.
    Off,
}

/// Where names and statuses come from that HTTP/2 hides from who joins a connection late.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum LateNames {
    /// From the wire, as far as it says them again.
    Wire,
    /// Also from the header tables in the memory of both ends' processes.
    Memory,
}

/// The definition of one setting.
#[derive(Clone, Copy, Debug)]
pub struct Setting {
    /// Its key, in the file.
    pub key: &'static str,
    /// What its value is called in the help.
    pub value: &'static str,
    /// How often it may be given.
    pub times: Times,
    /// The text that stands if nothing was given; none if there is nothing then.
    pub default: Option<&'static str>,
    /// What it does, as a sentence.
    pub text: &'static str,
    /// The heading it stands below.
    pub heading: &'static str,
    set: fn(&mut Settings, &str) -> Result<(), String>,
}

impl Setting {
    /// `--ring-bytes`.
    pub fn flag(&self) -> String {
        format!("--{}", self.long())
    }

    /// `ring-bytes`.
    pub fn long(&self) -> String {
        self.key.replace('_', "-")
    }

    /// `SPANDREL_RING_BYTES`.
    pub fn variable(&self) -> String {
        format!("SPANDREL_{}", self.key.to_ascii_uppercase())
    }

    /// Puts a text into the settings, or says what would be right.
    pub fn apply(&self, settings: &mut Settings, text: &str) -> Result<(), String> {
        (self.set)(settings, text.trim())
    }
}

impl Settings {
    /// The settings if nothing is given anywhere, except that `exports` is empty: what stands there depends on
    /// other settings.
    pub fn defaults() -> Result<Self, ConfigError> {
        let mut settings = Self {
            selection: Selection::default(),
            exports: Vec::new(),
            otlp_endpoint: None,
            gap_report: None,
            query_values: QueryValues::Redact,
            telemetry_intake: TelemetryIntake::Suppress,
            attribute_bytes: 0,
            weakest_link: LinkMethod::Thread,
            no_runtime: HashSet::new(),
            tls: Modes { usual: Mode::Keys, rules: Vec::new() },
            tls_search: TlsSearch::On,
            late_names: LateNames::Wire,
            pending_age: Duration::ZERO,
            backend: Backend::Auto,
            capture_bytes: 0,
            ring_bytes: 0,
            probe_hits: None,
            export_queue_bytes: 0,
            log: Level::Info,
            config: None,
        };
        for setting in &SETTINGS {
            let Some(text) = setting.default else { continue };
            setting.apply(&mut settings, text).map_err(|wanted| ConfigError::Value {
                key: setting.flag(),
                value: text.to_owned(),
                wanted,
            })?;
        }
        Ok(settings)
    }
}

const SELECTION: &str = "What to trace (without any: every process)";
const OUTPUT: &str = "Where spans go, and what they show";
const LINKS: &str = "How parents are found";
const KERNEL: &str = "The kernel side";
const AGENT: &str = "The agent itself";

/// Every setting, in the order in which the help shows them.
pub const SETTINGS: [Setting; 25] = [
    Setting {
        key: "pid",
        value: "N",
        times: Times::Repeated,
        default: None,
        heading: SELECTION,
        text: "Trace the process with this id",
        set: |settings, text| {
            let pid = value::number(text, 1, MAX_PID)?;
            settings.selection.pids.push(u32::try_from(pid).map_err(|error| error.to_string())?);
            Ok(())
        },
    },
    Setting {
        key: "exe",
        value: "GLOB",
        times: Times::Repeated,
        default: None,
        heading: SELECTION,
        text: "Trace programs whose executable matches: its file name or, if the pattern has a /, its path; * is any text, ? any character",
        set: |settings, text| {
            settings.selection.executables.push(glob(text)?);
            Ok(())
        },
    },
    Setting {
        key: "port",
        value: "N",
        times: Times::Repeated,
        default: None,
        heading: SELECTION,
        text: "Trace processes that serve on this port",
        set: |settings, text| {
            let port = value::number(text, 1, u64::from(u16::MAX))?;
            settings.selection.ports.push(u16::try_from(port).map_err(|error| error.to_string())?);
            Ok(())
        },
    },
    Setting {
        key: "cgroup",
        value: "GLOB",
        times: Times::Repeated,
        default: None,
        heading: SELECTION,
        text: "Trace processes whose cgroup path matches: one of its components or, if the pattern has a /, the whole path",
        set: |settings, text| {
            settings.selection.cgroups.push(glob(text)?);
            Ok(())
        },
    },
    Setting {
        key: "exclude_exe",
        value: "GLOB",
        times: Times::Repeated,
        default: None,
        heading: SELECTION,
        text: "Never trace programs whose executable matches, whatever else selects them",
        set: |settings, text| {
            settings.selection.excluded.push(glob(text)?);
            Ok(())
        },
    },
    Setting {
        key: "tls",
        value: "keys|probes|off",
        times: Times::Once,
        default: Some("keys"),
        heading: SELECTION,
        text: "How to read TLS; keys: take the keys of each session out of the traced program's memory, keep them in the agent's memory alone until the session ends, and decrypt what the socket moves; probes: take no key, but what the calls of OpenSSL, GnuTLS and Go read and write, which costs the traced program two probe hits for each; off: do not",
        set: |settings, text| {
            settings.tls.usual = value::choice(text, TLS_MODES)?;
            Ok(())
        },
    },
    Setting {
        key: "tls_for",
        value: "exe:GLOB=MODE",
        times: Times::Repeated,
        default: None,
        heading: SELECTION,
        text: "As --tls, for some processes: exe:GLOB=MODE, cgroup:GLOB=MODE or pid:N=MODE; the first that a process meets counts. What is said of a process holds for its end of a session: with probes or off it is not read with the keys of who is at the other end either",
        set: |settings, text| {
            settings.tls.rules.push(tls_rule(text)?);
            Ok(())
        },
    },
    Setting {
        key: "tls_search",
        value: "on|off",
        times: Times::Once,
        default: Some("on"),
        heading: SELECTION,
        text: "Whether the keys of a TLS session that are not found where they should be (BoringSSL, GnuTLS, rustls, Java, TLS 1.2 of Go) may be searched for in all memory that its program has allocated, a tenth of the time at the most",
        set: |settings, text| {
            settings.tls_search = value::choice(text, &[("on", TlsSearch::On), ("off", TlsSearch::Off)])?;
            Ok(())
        },
    },
    Setting {
        key: "late_names",
        value: "wire|memory",
        times: Times::Once,
        default: Some("wire"),
        heading: SELECTION,
        text: "Where method names and statuses come from that an HTTP/2 connection no longer says when Spandrel meets it; wire: what it says again; memory: also search the memory of the processes at its ends (Go, Node, nghttp2) for its header tables, some hundred megabytes once for a connection",
        set: |settings, text| {
            let choices = [("wire", LateNames::Wire), ("memory", LateNames::Memory)];
            settings.late_names = value::choice(text, &choices)?;
            Ok(())
        },
    },
    Setting {
        key: "export",
        value: "otlp|terminal|file:PATH|none",
        times: Times::Repeated,
        default: None,
        heading: OUTPUT,
        text: "Where spans go; file: one OTLP/JSON object per line. Without it: otlp if an endpoint is configured, else terminal",
        set: |settings, text| {
            let export = match text.strip_prefix("file:") {
                Some(path) => Export::File(PathBuf::from(value::text(path, "file: and a path")?)),
                None => value::choice(text, &[("otlp", 0), ("terminal", 1), ("file:PATH", 2), ("none", 3)])
                    .and_then(|number| match number {
                    0 => Ok(Export::Otlp),
                    1 => Ok(Export::Terminal),
                    3 => Ok(Export::None),
                    _ => Err("file: and a path".to_owned()),
                })?,
            };
            if !settings.exports.contains(&export) {
                settings.exports.push(export);
            }
            Ok(())
        },
    },
    Setting {
        key: "otlp_endpoint",
        value: "URL",
        times: Times::Once,
        default: None,
        heading: OUTPUT,
        text: "Where OTLP goes, such as http://collector:4317 (gRPC on port 4317, else HTTP/protobuf); the OTEL_EXPORTER_OTLP_* variables work too",
        set: |settings, text| {
            settings.otlp_endpoint = Some(value::endpoint(text)?);
            Ok(())
        },
    },
    Setting {
        key: "query_values",
        value: "redact|keep",
        times: Times::Once,
        default: Some("redact"),
        heading: OUTPUT,
        text: "What becomes of the values in query strings; their keys always stay",
        set: |settings, text| {
            settings.query_values =
                value::choice(text, &[("redact", QueryValues::Redact), ("keep", QueryValues::Keep)])?;
            Ok(())
        },
    },
    Setting {
        key: "attribute_bytes",
        value: "SIZE",
        times: Times::Once,
        default: Some("2KiB"),
        heading: OUTPUT,
        text: "The longest attribute value; longer ones are cut and counted",
        set: |settings, text| {
            settings.attribute_bytes = value::bytes(text, 64, 64 << 10)?;
            Ok(())
        },
    },
    Setting {
        key: "telemetry_intake",
        value: "suppress|trace",
        times: Times::Once,
        default: Some("suppress"),
        heading: OUTPUT,
        text: "What becomes of requests that carry telemetry to a collector (OTLP, Jaeger, Zipkin)",
        set: |settings, text| {
            let choices = [("suppress", TelemetryIntake::Suppress), ("trace", TelemetryIntake::Trace)];
            settings.telemetry_intake = value::choice(text, &choices)?;
            Ok(())
        },
    },
    Setting {
        key: "export_queue_bytes",
        value: "SIZE",
        times: Times::Once,
        default: Some("16MiB"),
        heading: OUTPUT,
        text: "The most bytes of spans that wait for a slow or dead endpoint; what comes beyond is dropped and counted",
        set: |settings, text| {
            settings.export_queue_bytes = value::bytes(text, 64 << 10, 4 << 30)?;
            Ok(())
        },
    },
    Setting {
        key: "gap_report",
        value: "PATH",
        times: Times::Once,
        default: None,
        heading: OUTPUT,
        text: "Write a line of JSON to this file for each gap in what was captured",
        set: |settings, text| {
            settings.gap_report = Some(PathBuf::from(value::text(text, "a path")?));
            Ok(())
        },
    },
    Setting {
        key: "weakest_link",
        value: "KIND",
        times: Times::Once,
        default: Some("thread"),
        heading: LINKS,
        text: "The weakest way to find a parent that is allowed: stream, forwarded, header, waiter, task, thread or inferred",
        set: |settings, text| {
            settings.weakest_link =
                value::choice(text, &LinkMethod::ALL.map(|method| (method.name(), method)))?;
            Ok(())
        },
    },
    Setting {
        key: "no_runtime",
        value: "NAME",
        times: Times::Repeated,
        default: None,
        heading: LINKS,
        text: "Do not read processes of this runtime from inside: their calls get no parents that only their memory tells",
        set: |settings, text| {
            let names: Vec<_> = RUNTIMES.iter().map(|runtime| (runtime.name(), runtime.name())).collect();
            settings.no_runtime.insert(value::choice(text, &names)?);
            Ok(())
        },
    },
    Setting {
        key: "pending_age",
        value: "DURATION",
        times: Times::Once,
        default: Some("60s"),
        heading: LINKS,
        text: "How long a span may wait for its parent; then it goes out without one, counted",
        set: |settings, text| {
            settings.pending_age = value::duration(text, Duration::from_secs(1), Duration::from_secs(3600))?;
            Ok(())
        },
    },
    Setting {
        key: "backend",
        value: "auto|socket|syscall",
        times: Times::Once,
        default: Some("auto"),
        heading: KERNEL,
        text: "Which hooks to use: socket tracepoints (Linux 6.3 and later) or those of system calls",
        set: |settings, text| {
            let choices =
                [("auto", Backend::Auto), ("socket", Backend::Socket), ("syscall", Backend::Syscall)];
            settings.backend = value::choice(text, &choices)?;
            Ok(())
        },
    },
    Setting {
        key: "capture_bytes",
        value: "SIZE",
        times: Times::Once,
        default: Some("64KiB"),
        heading: KERNEL,
        text: "The most bytes captured of one call while a request's head may be in it",
        set: |settings, text| {
            settings.capture_bytes = value::bytes(text, 4 << 10, 64 << 10)?;
            Ok(())
        },
    },
    Setting {
        key: "probe_hits",
        value: "N",
        times: Times::Once,
        default: None,
        heading: KERNEL,
        text: "Hits a second of a process's probes above which they come off again; 0 for no bound. Without it each \
               set of probes has its own, about 2 % of a processor",
        set: |settings, text| {
            settings.probe_hits = Some(value::number(text, 0, 1_000_000_000)?);
            Ok(())
        },
    },
    Setting {
        key: "ring_bytes",
        value: "SIZE",
        times: Times::Once,
        default: Some("16MiB"),
        heading: KERNEL,
        text: "The size of the ring buffer between kernel and agent: a power of two from 64KiB on",
        set: |settings, text| {
            settings.ring_bytes = value::ring(text, 64 << 10, 1 << 30)?;
            Ok(())
        },
    },
    Setting {
        key: "config",
        value: "FILE.yaml",
        times: Times::Once,
        default: None,
        heading: AGENT,
        text: "Read settings from this file; a key is the flag with _ for -",
        set: |settings, text| {
            settings.config = Some(PathBuf::from(value::text(text, "a path")?));
            Ok(())
        },
    },
    Setting {
        key: "log",
        value: "error|warn|info|debug|trace",
        times: Times::Once,
        default: Some("info"),
        heading: AGENT,
        text: "How much to say on standard error",
        set: |settings, text| {
            settings.log = value::choice(text, &Level::ALL.map(|level| (level.name(), level)))?;
            Ok(())
        },
    },
];

fn glob(text: &str) -> Result<Glob, String> {
    value::text(text, "a pattern such as python* or /usr/bin/*").map(|text| Glob::new(&text))
}

/// The words for the ways to read TLS.
const TLS_MODES: &[(&str, Mode)] = &[("keys", Mode::Keys), ("probes", Mode::Probes), ("off", Mode::Off)];

/// A rule of `--tls-for`. A pattern may have any character in it, so the way is what follows the last `=`.
fn tls_rule(text: &str) -> Result<(Selector, Mode), String> {
    let wanted = || "a rule such as exe:nginx=probes, cgroup:shop*=off or pid:7=keys,".to_owned();
    let (selector, mode) = text.rsplit_once('=').ok_or_else(wanted)?;
    let mode = value::choice(mode, TLS_MODES).map_err(|_| wanted())?;
    let selector = match selector.split_once(':').ok_or_else(wanted)? {
        ("exe", pattern) => Selector::Executable(glob(pattern)?),
        ("cgroup", pattern) => Selector::Cgroup(glob(pattern)?),
        ("pid", pid) => Selector::Pid(value::number(pid, 1, MAX_PID)? as u32),
        _ => return Err(wanted()),
    };
    Ok((selector, mode))
}

/// `PID_MAX_LIMIT` on 64-bit kernels (include/linux/threads.h).
const MAX_PID: u64 = 4 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_default_is_a_value_that_its_setting_takes() {
        let settings = Settings::defaults().unwrap();
        assert_eq!(settings.ring_bytes, 16 << 20);
        assert_eq!(settings.capture_bytes, 64 << 10);
        assert_eq!(settings.attribute_bytes, 2048);
        assert_eq!(settings.export_queue_bytes, 16 << 20);
        assert_eq!(settings.pending_age, Duration::from_secs(60));
        assert_eq!(settings.weakest_link, LinkMethod::Thread);
        assert!(settings.selection.is_everything());
    }

    #[test]
    fn keys_are_unique_and_texts_are_there() {
        for (number, setting) in SETTINGS.iter().enumerate() {
            assert!(
                setting.key.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_'),
                "{}",
                setting.key
            );
            assert!(!setting.text.is_empty() && !setting.text.ends_with('.'), "{}", setting.key);
            assert!(
                SETTINGS.iter().skip(number + 1).all(|other| other.key != setting.key),
                "{}",
                setting.key
            );
        }
    }

    #[test]
    fn every_setting_refuses_some_text_and_says_what_would_be_right() {
        let mut settings = Settings::defaults().unwrap();
        for setting in &SETTINGS {
            let wanted = setting.apply(&mut settings, "").unwrap_err();
            assert!(!wanted.is_empty(), "{}", setting.key);
        }
    }
}
