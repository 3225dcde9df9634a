//! A fuzz body for everything that reads text of the user's: any file and any value gives settings or one line.
//! Must never be called by the agent.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;

use super::{Invocation, SETTINGS, Sources, load};

/// The same bytes as a file, as a variable of each setting, and as a command line split at blanks.
#[doc(hidden)]
pub fn fuzz_config(data: &[u8]) {
    let none = |_: &str| None;
    let file = |_: &std::path::Path| Ok(data.to_vec());
    check(&[b"spandrel", b"--config", b"x.yaml"], &Sources { variable: &none, file: &file });
    for setting in &SETTINGS {
        let name = setting.variable();
        let one = |asked: &str| (asked == name).then(|| OsString::from_vec(data.to_vec()));
        check(&[b"spandrel"], &Sources { variable: &one, file: &file });
    }
    let words: Vec<&[u8]> =
        std::iter::once(b"spandrel".as_slice()).chain(data.split(|byte| *byte == b' ')).collect();
    check(&words, &Sources { variable: &none, file: &file });
}

fn check(arguments: &[&[u8]], sources: &Sources<'_>) {
    let arguments = arguments.iter().map(|argument| OsString::from_vec(argument.to_vec()));
    match load(arguments, sources) {
        Ok(Invocation::Run(_, settings)) => {
            assert!(settings.ring_bytes.is_power_of_two());
            assert!(!settings.exports.is_empty());
        }
        Ok(Invocation::Print(_)) => {}
        Err(error) => assert!(!error.to_string().chars().any(char::is_control), "{error:?}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_text_gives_settings_or_one_line() {
        for seed in [
            "",
            "ring_bytes: 16MiB\npid: [1, 2]\n",
            "--ring-bytes 1",
            "--exe a check --pid 7",
            "a: &a [*a]\n",
            "? [x]\n: y\n",
            "- x\n- y",
            "\u{1b}[2J: \u{1b}\n",
            "--\u{1b}=x",
            "--help",
            "pid: !!int x\n",
            "18446744073709551616",
            "log: [info]",
        ] {
            for cut in 0..=seed.len() {
                fuzz_config(&seed.as_bytes()[..cut]);
            }
        }
        fuzz_config(b"\xff\xfe");
        fuzz_config(b"pid: \xff");
    }
}
