//! The program `spandrel`: settings in, exit status out. All work is done by the library.
//!
//! Status 0 after SIGINT or SIGTERM with everything flushed, 2 for a bad argument or configuration, 1 for
//! anything else. Logs go to standard error, results to standard output.

use std::process::ExitCode;

use spandrel::config::{self, Command, Invocation, Sources};
use spandrel::{log, run};

/// A span is some thirty small allocations, made by one thread and freed by another. What the system's allocator took for
/// them was a fifth of the agent's time. Without its huge pages (`no_thp`), which made the agent's memory half as large again and
/// move in steps of 2 MiB, and gave no time back.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let (command, settings) = match config::load(std::env::args_os(), &Sources::real()) {
        Ok(Invocation::Print(text)) => {
            print!("{text}");
            return ExitCode::SUCCESS;
        }
        Ok(Invocation::Run(command, settings)) => (command, settings),
        Err(error) => {
            eprintln!("spandrel: {error}");
            return ExitCode::from(2);
        }
    };
    log::set_level(settings.log);
    let result = match command {
        Command::Trace => run::trace(&settings),
        Command::Check => run::check(&settings),
    };
    match result {
        Ok(code) => code,
        Err(error) => {
            log::error(format_args!("{error:#}"));
            ExitCode::FAILURE
        }
    }
}
