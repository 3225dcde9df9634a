//! What can be wrong with what the user asked for, each in one line: the key, the value, what would be right.
//!
//! It must never print a control character, nor a second line: values are shown escaped.

use std::path::{Path, PathBuf};

/// An error of the user's; status 2.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum ConfigError {
    /// A value that its setting does not take.
    #[error("{key}: {value:?} is not right: {wanted} would be")]
    Value {
        /// The flag, variable or key as the user wrote it.
        key: String,
        /// What was given.
        value: String,
        /// What would be right; a noun phrase.
        wanted: String,
    },
    /// A flag, key or word that means nothing.
    #[error("{what} {name:?} is not known{hint}")]
    Unknown {
        /// `option`, `key of FILE`, `argument`.
        what: String,
        /// What was given.
        name: String,
        /// `; did you mean …?`, or where to find the right ones.
        hint: String,
    },
    /// An option was given without what it needs, or twice.
    #[error("{key}: {problem}")]
    Usage {
        /// The option.
        key: String,
        /// What is wrong and what would be right.
        problem: String,
    },
    /// The configuration file cannot be read or is not YAML.
    #[error("cannot read the configuration file {path:?}: {reason}")]
    File {
        /// Its path.
        path: PathBuf,
        /// Why.
        reason: String,
    },
}

impl ConfigError {
    /// A file that the operating system does not give.
    pub(super) fn unreadable(path: &Path, error: &std::io::Error) -> Self {
        Self::File { path: path.to_owned(), reason: one_line(&error.to_string()) }
    }

    /// Something unknown, with the nearest of `known` as a hint.
    pub(super) fn unknown<'a>(what: &str, name: &str, known: impl Iterator<Item = &'a str>) -> Self {
        let hint = match nearest(name, known) {
            Some(nearest) => format!("; did you mean {nearest}?"),
            None => "; spandrel --help lists all settings".to_owned(),
        };
        Self::Unknown { what: what.to_owned(), name: name.to_owned(), hint }
    }
}

/// Text of somebody else's on one line, without control characters.
pub(super) fn one_line(text: &str) -> String {
    text.split(char::is_control).filter(|part| !part.is_empty()).collect::<Vec<_>>().join(" ")
}

/// The known name that takes the fewest changes to reach, if that is at most a third of it.
pub(super) fn nearest<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    known
        .map(|known| (distance(name, known), known))
        .filter(|(distance, known)| *distance <= (known.len() / 3).max(2) && *distance < known.len())
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, known)| known)
}

/// Levenshtein's distance, in characters; of long texts only the start is compared.
fn distance(left: &str, right: &str) -> usize {
    let right: Vec<char> = right.chars().take(64).collect();
    let mut row: Vec<usize> = (0..=right.len()).collect();
    for (line, from) in left.chars().take(64).enumerate() {
        let mut diagonal = line;
        let mut before = line + 1;
        let mut next = vec![before];
        for (to, above) in right.iter().zip(row.iter().skip(1)) {
            let here = (diagonal + usize::from(from != *to)).min(before + 1).min(above + 1);
            diagonal = *above;
            before = here;
            next.push(here);
        }
        row = next;
    }
    row.last().copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_of_the_fingers_finds_its_setting_and_nonsense_finds_none() {
        let known = || ["ring_bytes", "capture_bytes", "pid", "exe"].into_iter();
        assert_eq!(nearest("ring_byte", known()), Some("ring_bytes"));
        assert_eq!(nearest("rnig_bytes", known()), Some("ring_bytes"));
        assert_eq!(nearest("pdi", known()), Some("pid"));
        assert_eq!(nearest("colour", known()), None);
        assert_eq!(nearest("", known()), None);
    }

    #[test]
    fn distance_counts_changes() {
        for (left, right, want) in [("", "", 0), ("a", "", 1), ("kitten", "sitting", 3), ("abc", "abc", 0)] {
            assert_eq!(distance(left, right), want, "{left} {right}");
        }
    }

    #[test]
    fn messages_are_one_line_whatever_the_value() {
        let error =
            ConfigError::Value { key: "--log".into(), value: "a\nb\x1b".into(), wanted: "info".into() };
        assert_eq!(error.to_string(), "--log: \"a\\nb\\u{1b}\" is not right: info would be");
        assert_eq!(one_line("a\nb\r\n c"), "a b  c");
    }
}
