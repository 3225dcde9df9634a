//! Bytes that a traced program chose, made fit for an attribute.
//!
//! Two kinds: a URL's parts are percent-encoded as a browser would, so nothing is lost and everything is
//! ASCII; other text keeps its characters, and what is not UTF-8, moves a terminal or turns the reading
//! direction around becomes U+FFFD.
//!
//! It must never let a control character through, in either kind.

use std::fmt::Write as _;

use super::super::span::Text;

/// Text that is not a URL: valid UTF-8, one line, without `is_harmful` characters. A tab is a space.
pub fn harmless(bytes: &[u8]) -> Text {
    String::from_utf8_lossy(bytes)
        .chars()
        .map(|character| match character {
            '\t' => ' ',
            character if is_harmful(character) => char::REPLACEMENT_CHARACTER,
            character => character,
        })
        .collect()
}

/// A character that does something to its reader's screen rather than stand on it: C0 and C1 controls
/// and DEL (Unicode's `Cc`), line and paragraph separators, and the controls of the bidirectional
/// algorithm (UAX #9 §2), which make text look like other text.
pub fn is_harmful(character: char) -> bool {
    character.is_control()
        || matches!(character,
            '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}')
}

/// Appends a part of a URL: printable ASCII as it came (what is encoded stays so), any other byte as
/// `%XX` (RFC 3986 §2.1).
pub fn push_url(to: &mut Text, part: &[u8]) {
    for &byte in part {
        match byte {
            0x21..=0x7e => to.push(char::from(byte)),
            _ => {
                let _ = write!(to, "%{byte:02X}");
            }
        }
    }
}

/// Cuts a value to a limit in bytes, at a character's boundary and not inside a `%XX`. Says whether it
/// had to.
pub fn cut(value: &mut Text, limit: usize) -> bool {
    if value.len() <= limit {
        return false;
    }
    let mut end = limit;
    while !value.is_char_boundary(end) {
        end -= 1;
    }
    let tail = value.as_bytes().get(end.saturating_sub(2)..end).unwrap_or_default();
    match tail {
        [b'%', _] => end -= 2,
        [.., b'%'] => end -= 1,
        _ => {}
    }
    value.truncate(end);
    true
}
