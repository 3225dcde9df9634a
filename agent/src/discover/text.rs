//! Bytes that a traced program chose, made safe to print, to export and to compare.
//!
//! Everything `discover` reads (arguments, paths, variables, titles) may hold any byte. It must never
//! leave this station with a control character, a direction override, invalid UTF-8 or without an
//! upper length. Nothing here knows what the text means.

/// The replacement for what cannot be shown.
const REPLACEMENT: char = '\u{FFFD}';

/// `bytes` as text of at most `max` bytes: invalid UTF-8 and every character that could move a
/// terminal or turn the reading direction become U+FFFD; white space at both ends goes.
pub fn harmless(bytes: &[u8], max: usize) -> String {
    let head = bytes.get(..max).unwrap_or(bytes);
    let mut text = String::with_capacity(head.len());
    for character in String::from_utf8_lossy(head).trim().chars() {
        let character = if moves_a_terminal(character) { REPLACEMENT } else { character };
        if text.len() + character.len_utf8() > max {
            break;
        }
        text.push(character);
    }
    text
}

/// C0, DEL and C1 controls, line and paragraph separators, and the characters that reorder text
/// (Unicode's Bidi_Control).
pub fn moves_a_terminal(character: char) -> bool {
    character.is_control()
        || matches!(character,
            '\u{061C}' | '\u{200E}' | '\u{200F}' | '\u{2028}' | '\u{2029}'
            | '\u{202A}'..='\u{202E}' | '\u{2066}'..='\u{2069}')
}

/// What follows the last `/`.
pub fn base_name(path: &[u8]) -> &[u8] {
    path.rsplit(|byte| *byte == b'/').next().unwrap_or(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escape_sequences_and_overrides_do_not_survive() {
        assert_eq!(harmless(b"a\x1b[2Jb\nc", 99), "a\u{FFFD}[2Jb\u{FFFD}c");
        assert_eq!(harmless("x\u{202E}y\u{9b}z".as_bytes(), 99), "x\u{FFFD}y\u{FFFD}z");
    }

    #[test]
    fn invalid_utf8_is_replaced_and_the_bound_holds_in_bytes() {
        assert_eq!(harmless(b"\xff\xfe", 99), "\u{FFFD}\u{FFFD}");
        assert_eq!(harmless(b"\xff\xfe", 2), "");
        assert_eq!(harmless("ééé".as_bytes(), 4), "éé");
        assert!(harmless("ééé".as_bytes(), 5).len() <= 5);
    }

    #[test]
    fn a_base_name_is_what_follows_the_last_slash() {
        assert_eq!(base_name(b"/usr/bin/curl"), b"curl");
        assert_eq!(base_name(b"curl"), b"curl");
        assert_eq!(base_name(b"/srv/"), b"");
    }
}
