//! What a service is called: one name from everything known of a process, in a fixed order.
//!
//! The order, first hit wins: the target's `OTEL_SERVICE_NAME`; `service.name` in its
//! `OTEL_RESOURCE_ATTRIBUTES`; the container; the systemd unit; the `-m` module; the script without extension
//! (for `index`, `main` and `__main__` its folder's name); the jar without version; the Java main class's last
//! part; the application argument of gunicorn or uvicorn (which comes before the launcher's own script, or
//! nobody would ever see it); else the executable's name. Code without a name (`-c`, `-e`) is the
//! interpreter's.
//!
//! Pure: no clock, no files. A name is valid UTF-8 without control characters, of at most
//! [`MAX_SERVICE_NAME`] bytes, never empty.

use super::command::{self, Interpreter, Program};
use super::text::{base_name, harmless};

/// The longest service name, in bytes. Ours: OTLP has no bound, some backends cut at 255.
pub const MAX_SERVICE_NAME: usize = 255;

/// The name of a process of which nothing at all is known (the fall-back of the OpenTelemetry
/// specification, Resource conventions).
pub const UNKNOWN_SERVICE: &str = "unknown_service";

/// Everything about a process that a name can come from. Empty where not known.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct ProcessFacts {
    /// The target of `/proc/PID/exe`, without the kernel's ` (deleted)`.
    pub executable: Vec<u8>,
    /// What `execve` was given: the script itself for a script with `#!`.
    pub filename: Vec<u8>,
    /// The arguments; only whole ones if the list was cut.
    pub argv: Vec<Vec<u8>>,
    /// The working directory, for scripts given by a relative path.
    pub directory: Vec<u8>,
    /// The thread group leader's name (at most 15 bytes).
    pub comm: Vec<u8>,
    /// `OTEL_SERVICE_NAME` in its environment.
    pub declared_name: Option<String>,
    /// `service.name` in its `OTEL_RESOURCE_ATTRIBUTES`.
    pub declared_attribute: Option<String>,
    /// The name of its container.
    pub container: Option<String>,
    /// The systemd unit that it belongs to.
    pub unit: Option<String>,
}

/// Where a service name came from.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum NameSource {
    /// `OTEL_SERVICE_NAME`.
    Environment,
    /// `service.name` in `OTEL_RESOURCE_ATTRIBUTES`.
    ResourceAttributes,
    /// The container.
    Container,
    /// The systemd unit.
    Unit,
    /// `-m`.
    Module,
    /// The script.
    Script,
    /// The jar.
    Jar,
    /// The Java main class.
    MainClass,
    /// gunicorn's or uvicorn's application.
    Application,
    /// The executable.
    Executable,
    /// Nothing: it is [`UNKNOWN_SERVICE`].
    Nothing,
}

/// The service's name and where it came from.
pub fn service_name(facts: &ProcessFacts) -> (String, NameSource) {
    let declared = [
        (&facts.declared_name, NameSource::Environment),
        (&facts.declared_attribute, NameSource::ResourceAttributes),
        (&facts.container, NameSource::Container),
        (&facts.unit, NameSource::Unit),
    ];
    for (name, source) in declared {
        if let Some(name) = name.as_ref().and_then(|name| usable(name.as_bytes())) {
            return (name, source);
        }
    }
    let (name, source) = match program(facts) {
        Program::Module(module) => (usable(&module), NameSource::Module),
        Program::Script(path) => (script_name(&path, &facts.directory), NameSource::Script),
        Program::Jar(path) => (usable(&without_version(stem(base_name(&path)))), NameSource::Jar),
        Program::MainClass(class) => (usable(last_part(&class)), NameSource::MainClass),
        Program::Application(application) => (usable(&application), NameSource::Application),
        Program::Inline | Program::Executable => (None, NameSource::Executable),
    };
    if let Some(name) = name {
        return (name, source);
    }
    match usable(&executable_name(facts)) {
        Some(name) => (name, NameSource::Executable),
        None => (UNKNOWN_SERVICE.to_owned(), NameSource::Nothing),
    }
}

/// What the process runs.
pub fn program(facts: &ProcessFacts) -> Program {
    if let Some(title) = title(facts) {
        return command::application_in_title(title).map_or(Program::Executable, Program::Application);
    }
    match interpreter(facts) {
        Some((interpreter, skipped)) => {
            command::program(interpreter, facts.argv.get(skipped..).unwrap_or(&[]))
        }
        None => {
            let name = executable_name(facts);
            match command::application(&name, facts.argv.get(1..).unwrap_or(&[])) {
                Some(application) => Program::Application(application),
                None => Program::Executable,
            }
        }
    }
}

/// Which interpreter the process is, and how many arguments come before its own `argv[0]` (1 for
/// `busybox sh`).
pub fn interpreter(facts: &ProcessFacts) -> Option<(Interpreter, usize)> {
    let first = facts.argv.first().map(|first| base_name(first)).unwrap_or(&[]);
    let executable = base_name(&facts.executable);
    if is_multi_call(executable) || (executable.is_empty() && is_multi_call(first)) {
        let skipped = usize::from(is_multi_call(first));
        return Interpreter::of(&applet(&facts.argv)?).map(|interpreter| (interpreter, skipped));
    }
    Interpreter::of(executable)
        .or_else(|| executable.is_empty().then(|| Interpreter::of(base_name(&facts.filename))).flatten())
        .or_else(|| executable.is_empty().then(|| Interpreter::of(undashed(first))).flatten())
        .map(|interpreter| (interpreter, 0))
}

/// The executable's name as a person would say it: `python3`, not `python3.11`, if that is how it was
/// called; the applet of a multi-call binary.
pub fn executable_name(facts: &ProcessFacts) -> Vec<u8> {
    let executable = base_name(&facts.executable);
    let executable = executable.strip_prefix(b"memfd:").unwrap_or(executable);
    let called = base_name(&facts.filename);
    let first = match title(facts) {
        Some(_) => &[],
        None => facts.argv.first().map(|first| undashed(base_name(first))).unwrap_or(&[]),
    };
    if is_multi_call(executable) || (executable.is_empty() && is_multi_call(called)) {
        return applet(&facts.argv).unwrap_or_else(|| first.to_vec());
    }
    // `execve` of a file descriptor says `/dev/fd/N`, which names nothing.
    let called = if facts.filename.starts_with(b"/dev/fd/") { &[] } else { called };
    let name = if executable.is_empty() {
        // With `#!`, the filename is the script and argv[0] the interpreter.
        if called.is_empty() || is_script(facts) { first } else { called }
    } else if is_form_of(called, executable) {
        called
    } else if is_form_of(first, executable) {
        first
    } else {
        executable
    };
    [name, called, base_name(&facts.comm)].into_iter().find(|name| !name.is_empty()).unwrap_or(&[]).to_vec()
}

/// A process title written over the arguments: one string with spaces where a path would be
/// (`nginx: worker process`, `php-fpm: pool www`).
pub fn title(facts: &ProcessFacts) -> Option<&[u8]> {
    let first = facts.argv.first()?;
    let head = first.split(|byte| *byte == b' ').next().unwrap_or(first);
    let is_path =
        first.as_slice() == facts.executable.as_slice() || first.as_slice() == facts.filename.as_slice();
    let rewritten = head.len() < first.len() && !is_path && !first.starts_with(b"/");
    (rewritten || head.ends_with(b":")).then_some(first.as_slice())
}

/// The record of an `execve` of a script: the kernel puts the interpreter first and the script's path
/// somewhere after it.
fn is_script(facts: &ProcessFacts) -> bool {
    let first = facts.argv.first().map(|first| base_name(first)).unwrap_or(&[]);
    first != base_name(&facts.filename)
        && facts.argv.iter().skip(1).take(2).any(|argument| *argument == facts.filename)
}

/// `python3` is a form of `python3.11`, `nc` of `nc.openbsd`; `sh` is none of `shop`.
pub(super) fn is_form_of(name: &[u8], full: &[u8]) -> bool {
    !name.is_empty()
        && full.strip_prefix(name).is_some_and(|rest| {
            rest.first().is_none_or(|byte| byte.is_ascii_digit() || matches!(byte, b'.' | b'-'))
        })
}

/// A program that is many, and looks at its name or first argument to see which: BusyBox, Toybox, and the
/// dynamic linker called as a command.
fn is_multi_call(name: &[u8]) -> bool {
    matches!(name, b"busybox" | b"toybox" | b"busybox.static")
        || name.starts_with(b"ld-linux")
        || name.starts_with(b"ld-musl")
}

fn applet(argv: &[Vec<u8>]) -> Option<Vec<u8>> {
    argv.iter()
        .take(2)
        .map(|argument| undashed(base_name(argument)))
        .find(|name| !is_multi_call(name) && !name.is_empty())
        .map(<[u8]>::to_vec)
}

/// A login shell's `argv[0]` begins with `-`.
fn undashed(name: &[u8]) -> &[u8] {
    name.strip_prefix(b"-").unwrap_or(name)
}

/// A script's name: its stem, or its folder's name where the stem says nothing.
fn script_name(path: &[u8], directory: &[u8]) -> Option<String> {
    let components = components(path, directory);
    let (last, folders) = components.split_last()?;
    if is_folder(path) {
        return usable(last);
    }
    let name = stem(last);
    if matches!(name, b"index" | b"main" | b"__main__")
        && let Some(folder) = folders.last()
    {
        return usable(folder);
    }
    usable(name)
}

/// `.`, `..` and what ends with `/` are folders, which Node and Python run by their index or `__main__`.
fn is_folder(path: &[u8]) -> bool {
    path.ends_with(b"/") || matches!(base_name(path), b"." | b"..")
}

/// The path's components, with `.` and `..` resolved as text and a relative path put below `directory`.
fn components<'a>(path: &'a [u8], directory: &'a [u8]) -> Vec<&'a [u8]> {
    let mut found: Vec<&[u8]> = Vec::new();
    let below: &[u8] = if path.starts_with(b"/") { &[] } else { directory };
    for component in below.split(|byte| *byte == b'/').chain(path.split(|byte| *byte == b'/')) {
        match component {
            b"" | b"." => {}
            b".." => {
                found.pop();
            }
            _ => found.push(component),
        }
    }
    found
}

/// A file name without its extension: one to five letters or digits that begin with a letter.
fn stem(name: &[u8]) -> &[u8] {
    let Some(dot) = name.iter().rposition(|byte| *byte == b'.').filter(|dot| *dot > 0) else {
        return name;
    };
    let (stem, extension) = name.split_at(dot);
    let extension = extension.get(1..).unwrap_or(&[]);
    let plausible = extension.first().is_some_and(u8::is_ascii_alphabetic)
        && extension.len() <= 5
        && extension.iter().all(u8::is_ascii_alphanumeric);
    if plausible { stem } else { name }
}

/// A jar's stem without version: what comes before the first `-` after which everything looks like one
/// (`shop-service-1.2.3-SNAPSHOT`), or before the first part with digits and a dot (`shop-1.0-linux`).
fn without_version(stem: &[u8]) -> Vec<u8> {
    let parts: Vec<&[u8]> = stem.split(|byte| *byte == b'-').collect();
    let all = (1..parts.len()).find(|from| {
        let tail = parts.get(*from..).unwrap_or(&[]);
        tail.iter().all(|part| is_version(part) || is_qualifier(part))
            && (tail.iter().any(|part| is_version(part))
                || tail.iter().any(|part| part.eq_ignore_ascii_case(b"snapshot")))
    });
    let dotted = || {
        (1..parts.len())
            .find(|at| parts.get(*at).is_some_and(|part| is_version(part) && part.contains(&b'.')))
    };
    match all.or_else(dotted) {
        Some(end) => parts.get(..end).unwrap_or(&[]).join(&b'-'),
        None => stem.to_vec(),
    }
}

fn is_version(part: &[u8]) -> bool {
    let digits = part.strip_prefix(b"v").or(part.strip_prefix(b"V")).unwrap_or(part);
    digits.first().is_some_and(u8::is_ascii_digit)
}

fn is_qualifier(part: &[u8]) -> bool {
    let word: Vec<u8> =
        part.iter().take_while(|byte| !byte.is_ascii_digit() && **byte != b'.').copied().collect();
    let known: [&[u8]; 16] = [
        b"snapshot",
        b"release",
        b"final",
        b"ga",
        b"rc",
        b"m",
        b"alpha",
        b"beta",
        b"sp",
        b"all",
        b"fat",
        b"exec",
        b"boot",
        b"runner",
        b"shaded",
        b"uber",
    ];
    known.iter().any(|known| known.eq_ignore_ascii_case(&word))
}

/// The last part of a class name; `/` separates packages too.
fn last_part(class: &[u8]) -> &[u8] {
    class.rsplit(|byte| matches!(byte, b'.' | b'/')).next().unwrap_or(class)
}

fn usable(name: &[u8]) -> Option<String> {
    let name = harmless(name, MAX_SERVICE_NAME);
    (!name.is_empty()).then_some(name)
}

#[cfg(test)]
mod tests;
