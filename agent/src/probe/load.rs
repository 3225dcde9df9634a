//! Loading one kernel program: again where a signal interrupted the verifier, and with an error that a person can read.
//! It must never show the verifier's whole log but at log level debug: it has thousands of lines.

use anyhow::bail;
use aya::programs::ProgramError;

use crate::log;

/// As often as libbpf (`PROG_LOAD_ATTEMPTS` in its bpf.c): the verifier gives up with EAGAIN when a signal is pending
/// (`do_check` in kernel/bpf/verifier.c), which need not be for this process to handle: a stop and a continue do it.
const ATTEMPTS: usize = 5;
/// The end of a verifier's log says what it refuses.
const LINES: usize = 6;

/// Loads a program by `once`.
///
/// # Errors
/// Why the kernel refuses it.
pub fn load(once: impl FnMut() -> Result<(), ProgramError>) -> anyhow::Result<()> {
    let interrupted = |error: &ProgramError| match error {
        ProgramError::LoadError { io_error, .. } => io_error.raw_os_error() == Some(libc::EAGAIN),
        _ => false,
    };
    match again(once, interrupted) {
        Err(ProgramError::LoadError { io_error, verifier_log }) => {
            let said = verifier_log.to_string();
            log::debug(format_args!("the verifier's log:\n{said}"));
            bail!("the kernel refuses the program: {io_error}; its verifier's last words:\n{}", end(&said))
        }
        other => Ok(other?),
    }
}

fn again<E>(mut once: impl FnMut() -> Result<(), E>, interrupted: impl Fn(&E) -> bool) -> Result<(), E> {
    for _ in 1..ATTEMPTS {
        match once() {
            Err(error) if interrupted(&error) => {}
            result => return result,
        }
    }
    once()
}

/// The last lines of a log that say something.
fn end(log: &str) -> String {
    let mut last: Vec<&str> = log.lines().rev().filter(|line| !line.trim().is_empty()).take(LINES).collect();
    last.reverse();
    last.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How often it is tried if it is interrupted so many times before it is refused or works.
    fn tries(interruptions: usize, then: Result<(), &'static str>) -> (usize, Result<(), &'static str>) {
        let mut tries = 0;
        let once = || {
            tries += 1;
            if tries <= interruptions { Err("interrupted") } else { then }
        };
        let result = again(once, |error| *error == "interrupted");
        (tries, result)
    }

    #[test]
    fn what_a_signal_interrupted_is_tried_again_and_not_for_ever() {
        assert_eq!(tries(0, Ok(())), (1, Ok(())));
        assert_eq!(tries(0, Err("refused")), (1, Err("refused")));
        assert_eq!(tries(ATTEMPTS - 1, Ok(())), (ATTEMPTS, Ok(())));
        assert_eq!(tries(ATTEMPTS, Ok(())), (ATTEMPTS, Err("interrupted")));
    }

    #[test]
    fn of_a_long_log_the_end_is_shown() {
        let log: String = (0..1_000).map(|line| format!("{line}: (b7) r0 = 0\n\n")).collect();
        let shown = end(&log);
        assert_eq!(shown.lines().count(), LINES);
        assert!(shown.ends_with("999: (b7) r0 = 0"), "{shown}");
        assert_eq!(end(""), "");
    }
}
