//! How text looks where it goes: colour or not, how wide; and how bytes of the traffic are shown.
//!
//! It must never let a character through that does something to the terminal; and with colours off it
//! must not write a single escape sequence.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::io::IsTerminal as _;

use crate::stitch::http::is_harmful;

/// What the output can show.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Style {
    /// Colours, as ECMA-48 sequences (SGR).
    pub color: Color,
    /// How many columns there are; none in a pipe or a file, where nothing is shortened.
    pub width: Option<usize>,
}

/// Colours or none.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Color {
    /// Plain text.
    #[default]
    Off,
    /// The eight colours that every terminal has.
    On,
}

impl Style {
    /// The style for this process's standard output and environment.
    pub fn of_stdout() -> Self {
        let terminal = std::io::stdout().is_terminal();
        let color = Color::choose(terminal, |name| std::env::var(name).ok());
        Self { color, width: stdout_width() }
    }
}

/// How wide standard output is now; none if it is not a terminal.
pub fn stdout_width() -> Option<usize> {
    let (width, _) = terminal_size::terminal_size_of(std::io::stdout())?;
    (width.0 > 0).then_some(usize::from(width.0))
}

impl Color {
    /// Whether to use colours. `NO_COLOR` (not empty) forbids them, then `CLICOLOR_FORCE` (not `0`) wants
    /// them anywhere, then a terminal gets them unless `CLICOLOR=0` or `TERM=dumb`
    /// (no-color.org, bixense.com/clicolors).
    pub fn choose(terminal: bool, variable: impl Fn(&str) -> Option<String>) -> Self {
        let set = |name: &str| variable(name).filter(|value| !value.is_empty());
        let off = |name: &str, value: &str| variable(name).is_some_and(|found| found == value);
        if set("NO_COLOR").is_some() {
            Self::Off
        } else if set("CLICOLOR_FORCE").is_some_and(|value| value != "0")
            || (terminal && !off("CLICOLOR", "0") && !off("TERM", "dumb"))
        {
            Self::On
        } else {
            Self::Off
        }
    }
}

/// An SGR parameter list.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Paint(pub &'static str);

/// As the terminal has it.
pub const PLAIN: Paint = Paint("");
/// For what is read second.
pub const DIM: Paint = Paint("2");
/// For what is read first.
pub const BOLD: Paint = Paint("1");
/// What went wrong.
pub const ERROR: Paint = Paint("1;31");
/// What is not quite right.
pub const WARNING: Paint = Paint("33");
/// What went well.
pub const GOOD: Paint = Paint("32");
/// One for each service of a trace, in order of appearance, then again from the first.
pub const SERVICES: [Paint; 6] =
    [Paint("36"), Paint("35"), Paint("34"), Paint("33"), Paint("32"), Paint("96")];

/// A line under construction, which knows how many columns it takes.
#[derive(Debug, Default)]
pub struct Line {
    text: String,
    width: usize,
    color: Color,
}

impl Line {
    /// An empty one.
    pub fn new(color: Color) -> Self {
        Self { text: String::new(), width: 0, color }
    }

    /// Appends text that has been through [`harmless`] or is ours.
    pub fn push(&mut self, text: &str, paint: Paint) {
        self.width += width(text);
        if self.color == Color::Off || paint == PLAIN || text.trim().is_empty() {
            self.text.push_str(text);
        } else {
            let Paint(sgr) = paint;
            let _ = write!(self.text, "\u{1b}[{sgr}m{text}\u{1b}[0m");
        }
    }

    /// Appends blanks up to a column; at least one if anything is there already.
    pub fn pad(&mut self, column: usize) {
        let blanks = column.saturating_sub(self.width).max(usize::from(self.width > 0));
        self.text.extend(std::iter::repeat_n(' ', blanks));
        self.width += blanks;
    }

    /// How many columns it takes.
    pub fn width(&self) -> usize {
        self.width
    }

    /// The line without blanks at its end, and with a line feed.
    pub fn finish(mut self) -> String {
        self.text.truncate(self.text.trim_end_matches(' ').len());
        self.text.push('\n');
        self.text
    }
}

/// Text of the traffic as it may be shown: what `is_harmful` becomes `\xNN` up to U+00FF, else `\u{…}`.
pub fn harmless(text: &str) -> Cow<'_, str> {
    if !text.contains(is_harmful) {
        return Cow::Borrowed(text);
    }
    let mut shown = String::with_capacity(text.len() + 8);
    for character in text.chars() {
        match u32::from(character) {
            _ if !is_harmful(character) => shown.push(character),
            code @ ..=0xff => {
                let _ = write!(shown, "\\x{code:02x}");
            }
            code => {
                let _ = write!(shown, "\\u{{{code:x}}}");
            }
        }
    }
    Cow::Owned(shown)
}

/// How many columns a text takes. The usual wide and combining blocks only: a wrong guess moves a column,
/// nothing else.
pub fn width(text: &str) -> usize {
    text.chars().map(character_width).sum()
}

fn character_width(character: char) -> usize {
    match character {
        '\u{300}'..='\u{36f}' | '\u{200b}'..='\u{200d}' | '\u{fe00}'..='\u{fe0f}' => 0,
        '\u{1100}'..='\u{115f}'
        | '\u{2e80}'..='\u{a4cf}'
        | '\u{ac00}'..='\u{d7a3}'
        | '\u{f900}'..='\u{faff}'
        | '\u{fe30}'..='\u{fe6f}'
        | '\u{ff00}'..='\u{ff60}'
        | '\u{ffe0}'..='\u{ffe6}'
        | '\u{1f300}'..='\u{1faff}'
        | '\u{20000}'..='\u{3fffd}' => 2,
        _ => 1,
    }
}

/// A text that takes at most so many columns; what was left out is `…`.
pub fn shorten(text: &str, columns: usize) -> Cow<'_, str> {
    if width(text) <= columns {
        return Cow::Borrowed(text);
    }
    let mut left = columns.saturating_sub(1);
    let mut short = String::new();
    for character in text.chars() {
        let Some(rest) = left.checked_sub(character_width(character)) else { break };
        left = rest;
        short.push(character);
    }
    if columns > 0 {
        short.push('…');
    }
    Cow::Owned(short)
}

/// A duration of so many nanoseconds in three digits: `812 ns`, `1.25 ms`, `12.3 s`, `2m05s`, `3h07m`.
pub fn duration(nanoseconds: u64) -> String {
    let scaled = |unit: u64, name: &str| {
        let (whole, rest) = (nanoseconds / unit, nanoseconds % unit);
        match whole {
            0..10 => format!("{whole}.{:02} {name}", rest / (unit / 100)),
            10..100 => format!("{whole}.{} {name}", rest / (unit / 10)),
            _ => format!("{whole} {name}"),
        }
    };
    const SECOND: u64 = 1_000_000_000;
    match nanoseconds {
        0..1_000 => format!("{nanoseconds} ns"),
        1_000..1_000_000 => scaled(1_000, "µs"),
        1_000_000..SECOND => scaled(1_000_000, "ms"),
        _ => match nanoseconds / SECOND {
            0..100 => scaled(SECOND, "s"),
            seconds @ 100..6_000 => format!("{}m{:02}s", seconds / 60, seconds % 60),
            seconds => format!("{}h{:02}m", seconds / 3_600, seconds / 60 % 60),
        },
    }
}
