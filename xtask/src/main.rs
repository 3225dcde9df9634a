//! `cargo xtask`: everything that is done to this repository, one command each.
//!
//! This file is the table of contents: a line per command, nothing else. A command is a struct of
//! flags with `run(self) -> Result<()>` in a file of its own name, and nothing happens before the
//! command is known. What commands share: [`command`] (running programs), [`project`] (where things
//! are), [`packages`] (what the tests need from the distribution).
//!
//! It must never change anything outside this repository, with one exception that says so when it
//! happens: `cargo xtask test`, as root on Debian, installs the packages listed in [`packages`].

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

mod bench;
mod build;
mod command;
mod fuzz;
mod grpc;
mod harness;
mod packages;
mod project;
mod run;
mod setup;
mod soak;
mod test;
mod tidy;
mod tls;
mod truth;
mod vm;

/// What is done to this repository, one command each.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", version, max_term_width = 110)]
struct Xtask {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Setup(setup::Setup),
    Build(build::Build),
    Run(run::Run),
    Test(test::Test),
    Tidy(tidy::Tidy),
    Truth(truth::Truth),
    Grpc(grpc::Grpc),
    Tls(tls::Tls),
    Bench(bench::Bench),
    Soak(soak::Soak),
    Fuzz(fuzz::Fuzz),
    Vm(vm::Vm),
}

fn main() -> ExitCode {
    match run(Xtask::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Not the default, which adds a backtrace of ourselves where the command that failed should stand.
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> Result<()> {
    match command {
        Command::Setup(command) => command.run(),
        Command::Build(command) => command.run(),
        Command::Run(command) => command.run(),
        Command::Test(command) => command.run(),
        Command::Tidy(command) => command.run(),
        Command::Truth(command) => command.run(),
        Command::Grpc(command) => command.run(),
        Command::Tls(command) => command.run(),
        Command::Bench(command) => command.run(),
        Command::Soak(command) => command.run(),
        Command::Fuzz(command) => command.run(),
        Command::Vm(command) => command.run(),
    }
}
