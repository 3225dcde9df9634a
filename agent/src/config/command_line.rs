//! The command line, made from the table of settings: parsing, help, and the reference for the README.
//!
//! It must never define a setting of its own, and never answer a mistake with more than one line.

use std::ffi::OsString;

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Arg, ArgAction, ArgMatches};

use super::Given;
use super::error::{ConfigError, one_line};
use super::settings::{SETTINGS, Setting, Times};

/// What the user wants done.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Command {
    /// Trace.
    Trace,
    /// Say what this kernel and these privileges allow, what would be traced, and why not.
    Check,
}

/// What the command line says.
pub(super) enum Parsed {
    Print(String),
    Flags(Command, Vec<Given>),
}

/// Parses the command line, program name first.
pub(super) fn parse(arguments: impl IntoIterator<Item = OsString>) -> Result<Parsed, ConfigError> {
    let matches = match definition().try_get_matches_from(arguments) {
        Ok(matches) => matches,
        Err(error) if matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) => {
            return Ok(Parsed::Print(error.render().to_string()));
        }
        Err(error) => return Err(explained(&error)),
    };
    let (command, matches) = match matches.subcommand() {
        Some((_, below)) => (Command::Check, below.clone()),
        None => (Command::Trace, matches),
    };
    let mut found = Vec::new();
    for setting in &SETTINGS {
        if let Some(given) = given(setting, &matches)? {
            found.push(given);
        }
    }
    Ok(Parsed::Flags(command, found))
}

/// A table of all settings in Markdown, for the README.
pub fn reference() -> String {
    let mut table = String::from("| flag | value | default | meaning |\n|---|---|---|---|\n");
    for setting in &SETTINGS {
        let default = setting.default.map_or("–".to_owned(), |default| format!("`{default}`"));
        let repeatable = match setting.times {
            Times::Once => "",
            Times::Repeated => "; repeatable",
        };
        let value = setting.value.replace('|', "\\|");
        table.push_str(&format!(
            "| `{}` | `{value}` | {default} | {}{repeatable} |\n",
            setting.flag(),
            setting.text
        ));
    }
    table
}

/// The page about settings of the documentation, in Markdown.
pub fn reference_page() -> String {
    let mut page = String::from(REFERENCE_HEADER);
    page.push_str(&reference());
    page
}

fn given(setting: &Setting, matches: &ArgMatches) -> Result<Option<Given>, ConfigError> {
    let Ok(Some(values)) = matches.try_get_many::<OsString>(setting.key) else {
        return Ok(None);
    };
    let name = setting.flag();
    let texts: Result<Vec<String>, ConfigError> = values
        .map(|value| {
            value.to_str().map(str::to_owned).ok_or_else(|| ConfigError::Value {
                key: name.clone(),
                value: value.to_string_lossy().into_owned(),
                wanted: "text in UTF-8".to_owned(),
            })
        })
        .collect();
    Ok(Some(Given { key: setting.key, texts: texts?, name }))
}

fn definition() -> clap::Command {
    let mut command = clap::Command::new("spandrel")
        .version(env!("CARGO_PKG_VERSION"))
        .about("Distributed traces from unmodified programs, by eBPF, over OTLP")
        .after_help(AFTER_HELP)
        .override_usage("spandrel [OPTIONS]\n       spandrel check [OPTIONS]")
        .disable_help_subcommand(true)
        .subcommand_help_heading("Commands")
        .subcommand(clap::Command::new("check").about(
            "Say what this kernel and these privileges allow, what would be traced, and why not; status 1 if nothing can be",
        ));
    for setting in &SETTINGS {
        let mut help = setting.text.to_owned();
        if let Some(default) = setting.default {
            help.push_str(&format!(" [default: {default}]"));
        }
        let action = match setting.times {
            Times::Once => ArgAction::Set,
            Times::Repeated => {
                help.push_str(" (repeatable)");
                ArgAction::Append
            }
        };
        command = command.arg(
            Arg::new(setting.key)
                .long(setting.long())
                .value_name(setting.value)
                .help(help)
                .help_heading(setting.heading)
                .action(action)
                .allow_negative_numbers(true)
                .value_parser(clap::value_parser!(OsString))
                .global(true),
        );
    }
    command
}

/// A parser's complaint as one line: which option, what is wrong, what would be right.
fn explained(error: &clap::Error) -> ConfigError {
    let context = |kind| match error.get(kind) {
        Some(ContextValue::String(text)) => Some(text.clone()),
        Some(ContextValue::Strings(texts)) => texts.first().cloned(),
        _ => None,
    };
    let argument = context(ContextKind::InvalidArg).unwrap_or_default();
    let option = argument.split([' ', '=']).next().unwrap_or(&argument).to_owned();
    match error.kind() {
        ErrorKind::UnknownArgument | ErrorKind::InvalidSubcommand => {
            let name = if option.is_empty() {
                context(ContextKind::InvalidSubcommand).unwrap_or_default()
            } else {
                option
            };
            let flags: Vec<String> = SETTINGS.iter().map(Setting::flag).collect();
            let words = ["check", "--help", "--version"];
            let known = flags.iter().map(String::as_str).chain(words);
            ConfigError::unknown(if name.starts_with('-') { "option" } else { "argument" }, &name, known)
        }
        ErrorKind::InvalidValue | ErrorKind::TooFewValues | ErrorKind::WrongNumberOfValues => {
            let wanted =
                SETTINGS.iter().find(|setting| setting.flag() == option).map_or("", |setting| setting.value);
            ConfigError::Usage { problem: format!("it needs a value: {option} {wanted}"), key: option }
        }
        ErrorKind::ArgumentConflict => {
            ConfigError::Usage { key: option, problem: "it was given twice and takes one value".to_owned() }
        }
        _ => {
            let text = error.render().to_string();
            let first = text.lines().next().unwrap_or_default();
            let problem = one_line(first.strip_prefix("error: ").unwrap_or(first));
            ConfigError::Usage { key: "spandrel".to_owned(), problem }
        }
    }
}

const AFTER_HELP: &str = concat!(
    "Every option is also a key of the configuration file (with _ for -) and a variable (SPANDREL_ and the key in ",
    "capitals; lists with commas): --ring-bytes, ring_bytes, SPANDREL_RING_BYTES. Flags win over the file, the file ",
    "over the environment. Sizes take KiB, MiB and GiB; durations need ms, s, m or h.\n\n",
    "Exit status: 0 after SIGINT or SIGTERM with everything flushed, 2 for a bad argument or configuration, 1 for ",
    "anything else."
);

const REFERENCE_HEADER: &str = "\
# Settings

Every setting is a flag, a key of the configuration file (`--config FILE.yaml`; the flag with `_` for `-`) and an
environment variable (`SPANDREL_` and the key in capitals; lists with commas): `--ring-bytes 16MiB`,
`ring_bytes: 16MiB`, `SPANDREL_RING_BYTES=16MiB`. Flags win over the file, the file over the environment. Sizes take
`KiB`, `MiB` and `GiB`; durations need `ms`, `s`, `m` or `h`.

The `OTEL_EXPORTER_OTLP_*` variables work as for any OpenTelemetry SDK.

";
