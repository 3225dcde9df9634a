//! The agent's own log: plain lines on standard error, `spandrel: warn: …`.
//!
//! One level, set once at the start; a line below it costs one load and formats nothing. A line holds no
//! control character, whatever its arguments hold, and is written with one call. This must never panic,
//! block on anything but standard error, or be the only trace of a loss: losses have counters. For what can
//! happen often there is [`RateLimit`].

use std::fmt;
use std::io::Write;
use std::sync::atomic::{AtomicU8, Ordering};

use crate::discover::text::moves_a_terminal;
use crate::identity::Monotonic;

/// How important a line is, most important first.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
#[repr(u8)]
pub enum Level {
    /// Something does not work.
    Error,
    /// Something works worse than it should.
    Warn,
    /// What a user wants to know once.
    Info,
    /// What a developer wants to know.
    Debug,
    /// Every step.
    Trace,
}

impl Level {
    /// All, most important first.
    pub const ALL: [Self; 5] = [Self::Error, Self::Warn, Self::Info, Self::Debug, Self::Trace];

    /// Its name in lines and in the setting `log`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warn => "warn",
            Self::Info => "info",
            Self::Debug => "debug",
            Self::Trace => "trace",
        }
    }
}

/// Sets what is logged from now on: this level and what is more important.
pub fn set_level(level: Level) {
    LEVEL.store(level as u8, Ordering::Relaxed);
}

/// Whether lines of this level are written.
pub fn is_on(level: Level) -> bool {
    level as u8 <= LEVEL.load(Ordering::Relaxed)
}

/// Logs that something does not work: `log::error(format_args!("cannot …: {error}"))`.
pub fn error(message: fmt::Arguments<'_>) {
    write(Level::Error, message);
}

/// Logs that something works worse than it should.
pub fn warn(message: fmt::Arguments<'_>) {
    write(Level::Warn, message);
}

/// Logs what a user wants to know once.
pub fn info(message: fmt::Arguments<'_>) {
    write(Level::Info, message);
}

/// Logs what a developer wants to know.
pub fn debug(message: fmt::Arguments<'_>) {
    write(Level::Debug, message);
}

/// Logs a step.
pub fn trace(message: fmt::Arguments<'_>) {
    write(Level::Trace, message);
}

/// A line as it is written, with its end.
pub fn line(level: Level, message: fmt::Arguments<'_>) -> String {
    let mut line = format!("spandrel: {}: ", level.name());
    for character in message.to_string().chars() {
        line.push(match character {
            '\n' | '\r' | '\t' => ' ',
            other if moves_a_terminal(other) => '\u{FFFD}',
            other => other,
        });
    }
    line.push('\n');
    line
}

fn write(level: Level, message: fmt::Arguments<'_>) {
    if is_on(level) {
        // Nobody may read our standard error; that must not end the tracer.
        let _ = std::io::stderr().lock().write_all(line(level, message).as_bytes());
    }
}

/// At most one line in an interval for something that can happen often.
#[derive(Clone, Copy, Debug, Default)]
pub struct RateLimit {
    last: Option<Monotonic>,
    held_back: u64,
}

impl RateLimit {
    /// Whether to log now: how many were held back since the last line, or none to be silent. `interval` is in
    /// nanoseconds.
    pub fn admit(&mut self, now: Monotonic, interval: u64) -> Option<u64> {
        if self.last.is_some_and(|last| now.since(last) < interval) {
            self.held_back = self.held_back.saturating_add(1);
            return None;
        }
        self.last = Some(now);
        Some(std::mem::take(&mut self.held_back))
    }
}

static LEVEL: AtomicU8 = AtomicU8::new(Level::Info as u8);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_one_line_and_cannot_move_a_terminal() {
        let hostile = "a\x1b[2Jb\nc\u{202E}d\u{9b}";
        assert_eq!(
            line(Level::Warn, format_args!("path {hostile}")),
            "spandrel: warn: path a\u{FFFD}[2Jb c\u{FFFD}d\u{FFFD}\n"
        );
    }

    #[test]
    fn a_level_admits_itself_and_what_is_more_important() {
        // No other test sets the level.
        set_level(Level::Warn);
        assert!(is_on(Level::Error) && is_on(Level::Warn) && !is_on(Level::Info) && !is_on(Level::Trace));
        set_level(Level::Info);
        assert!(is_on(Level::Info) && !is_on(Level::Debug));
    }

    #[test]
    fn a_rate_limit_says_how_many_it_held_back() {
        let mut limit = RateLimit::default();
        let admitted: Vec<Option<u64>> =
            [0, 1, 2, 10, 11, 20].into_iter().map(|now| limit.admit(Monotonic(now), 10)).collect();
        assert_eq!(admitted, [Some(0), None, None, Some(2), None, Some(1)]);
    }
}
