//! What the user asked for: command line, file and environment in, one [`Settings`] out.
//!
//! ```text
//!   flags ─────────────┐
//!   --config FILE.yaml ┼──▶ one text per key, the strongest source wins ──▶ settings::SETTINGS ──▶ Settings
//!   SPANDREL_* ────────┘
//! ```
//! Every setting is defined once, in [`settings`]: its key, default, unit and text make the flag, the
//! variable, the file's key, the help, the reference and the error messages. Flags win over the file, the
//! file over the environment; a repeatable setting is taken whole from the strongest source that has it.
//! This must never act on a setting, print, or end the process; `main` does. It must not quietly ignore anything:
//! a key that is not known is an error that names the nearest right one.

mod command_line;
mod error;
mod file;
#[doc(hidden)]
pub mod fuzz;
pub mod settings;
mod value;

use std::ffi::OsString;
use std::path::{Path, PathBuf};

pub use command_line::{Command, reference, reference_page};
pub use error::ConfigError;
pub use settings::{
    Backend, Export, LateNames, QueryValues, SETTINGS, Setting, Settings, TelemetryIntake, TlsSearch,
};

use self::settings::Times;

/// What to do.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Invocation {
    /// Trace, or check, with these settings.
    Run(Command, Box<Settings>),
    /// Print this text (help, version) on standard output and end with status 0.
    Print(String),
}

/// Where settings come from besides the command line; a value so that tests need neither variables nor files.
pub struct Sources<'a> {
    /// An environment variable.
    pub variable: &'a dyn Fn(&str) -> Option<OsString>,
    /// A whole file of at most [`MAX_FILE`] bytes.
    pub file: &'a dyn Fn(&Path) -> std::io::Result<Vec<u8>>,
}

impl Sources<'static> {
    /// This process's environment and files.
    pub fn real() -> Self {
        Self { variable: &|name| std::env::var_os(name), file: &file::read }
    }
}

/// Reads everything. `arguments` begin with the program's name, as in `std::env::args_os`.
///
/// # Errors
/// The first thing that is wrong, in one line; the process should end with status 2.
pub fn load(
    arguments: impl IntoIterator<Item = OsString>,
    sources: &Sources<'_>,
) -> Result<Invocation, ConfigError> {
    let (command, flags) = match command_line::parse(arguments)? {
        command_line::Parsed::Print(text) => return Ok(Invocation::Print(text)),
        command_line::Parsed::Flags(command, flags) => (command, flags),
    };
    let variables = variables(sources)?;
    let given = find(&flags, "config").or_else(|| find(&variables, "config"));
    let path = given.and_then(|given| given.texts.last()).map(PathBuf::from);
    let from_file = match &path {
        Some(path) => {
            file::parse(path, &(sources.file)(path).map_err(|error| ConfigError::unreadable(path, &error))?)?
        }
        None => Vec::new(),
    };
    let mut settings = Settings::defaults()?;
    for setting in &SETTINGS {
        let sources = [&flags, &from_file, &variables];
        let Some(given) = sources.iter().find_map(|source| find(source, setting.key)) else {
            continue;
        };
        for text in &given.texts {
            setting.apply(&mut settings, text).map_err(|wanted| ConfigError::Value {
                key: given.name.clone(),
                value: text.clone(),
                wanted,
            })?;
        }
    }
    finish(&mut settings, sources)?;
    Ok(Invocation::Run(command, Box::new(settings)))
}

/// The values that one source gives to one setting.
#[derive(Clone, Debug, Eq, PartialEq)]
struct Given {
    key: &'static str,
    /// What the user would look for: `--ring-bytes`, `SPANDREL_RING_BYTES`, `ring_bytes in FILE`.
    name: String,
    texts: Vec<String>,
}

fn find<'a>(source: &'a [Given], key: &str) -> Option<&'a Given> {
    source.iter().find(|given| given.key == key)
}

/// The settings in the environment. An empty variable is an unset one; a repeatable one is a list with commas.
fn variables(sources: &Sources<'_>) -> Result<Vec<Given>, ConfigError> {
    let mut found = Vec::new();
    for setting in &SETTINGS {
        let name = setting.variable();
        let Some(value) = (sources.variable)(&name).filter(|value| !value.is_empty()) else {
            continue;
        };
        let value = value.into_string().map_err(|value| ConfigError::Value {
            key: name.clone(),
            value: value.to_string_lossy().into_owned(),
            wanted: "text in UTF-8".to_owned(),
        })?;
        // Kubernetes sets NAME_PORT=tcp://… for every service; one called "spandrel" is not a setting.
        if setting.key == "port" && value.contains("://") {
            continue;
        }
        let texts = match setting.times {
            Times::Once => vec![value],
            Times::Repeated => {
                value.split(',').map(|part| part.trim().to_owned()).filter(|p| !p.is_empty()).collect()
            }
        };
        found.push(Given { key: setting.key, name, texts });
    }
    Ok(found)
}

/// What depends on several settings, or on variables that are not ours.
fn finish(settings: &mut Settings, sources: &Sources<'_>) -> Result<(), ConfigError> {
    let standard = |name: &str| {
        (sources.variable)(name)
            .map(|value| value.to_string_lossy().trim().to_owned())
            .filter(|value| !value.is_empty())
    };
    let mut configured = settings.otlp_endpoint.is_some();
    for name in ["OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT"] {
        let Some(value) = standard(name) else { continue };
        configured = true;
        // For gRPC the specification allows an endpoint without a scheme.
        let complete = if value.contains("://") { value.clone() } else { format!("http://{value}") };
        value::endpoint(&complete).map_err(|wanted| ConfigError::Value {
            key: name.to_owned(),
            value,
            wanted,
        })?;
    }
    if settings.exports.is_empty() {
        settings.exports.push(match standard("OTEL_TRACES_EXPORTER").as_deref() {
            Some("otlp") => Export::Otlp,
            Some("console") => Export::Terminal,
            Some("none") => Export::None,
            _ if configured => Export::Otlp,
            _ => Export::Terminal,
        });
    }
    if settings.exports.len() > 1 && settings.exports.contains(&Export::None) {
        return Err(ConfigError::Value {
            key: "--export".to_owned(),
            value: "none".to_owned(),
            wanted: "none alone, or other targets without it".to_owned(),
        });
    }
    Ok(())
}

/// The largest configuration file that is read, in bytes.
pub const MAX_FILE: usize = 1 << 20;

#[cfg(test)]
mod tests;
