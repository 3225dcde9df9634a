//! Bad input at the command line and in the traffic: one clear sentence and the right exit status; a terminal and OTLP
//! that no path can harm.

use std::process::{Command, Output, Stdio};

use anyhow::{Context, Result, ensure};
use spandrel_tests::agent::{self, Agent, END_WITHIN, Options};
use spandrel_tests::apps::{self, Wiring};
use spandrel_tests::checks::{is_harmless, joined, machine};
use spandrel_tests::otlp::Kind;
use spandrel_tests::process::{Endpoint, PATIENCE, Scratch, Service, needed, output, until};

/// What the agent says to this; it must end by itself.
fn says(command: &mut Command) -> Result<Output> {
    let mut wrapped = Command::new(needed("timeout")?);
    wrapped.args(["--signal=KILL", "60"]).arg(command.get_program()).args(command.get_args());
    for (key, value) in command.get_envs() {
        if let Some(value) = value {
            wrapped.env(key, value);
        }
    }
    wrapped.stdin(Stdio::null()).output().with_context(|| format!("starting {command:?}"))
}

fn spandrel(arguments: &[&str]) -> Result<Command> {
    let mut command = Command::new(agent::binary()?);
    command.args(arguments);
    Ok(command)
}

/// The status, and one sentence on standard error that has each of these words.
fn refuses(command: &mut Command, status: i32, words: &[&str]) -> Result<()> {
    let out = says(command)?;
    let text = String::from_utf8_lossy(&out.stderr).into_owned();
    ensure!(out.status.code() == Some(status), "{command:?} ended with {}, not {status}: {text}", out.status);
    let lines: Vec<_> = text.lines().filter(|line| !line.trim().is_empty()).collect();
    ensure!(lines.len() == 1, "{command:?} says {} lines, not one: {text}", lines.len());
    for word in words {
        ensure!(text.contains(word), "{command:?} does not say {word:?}: {text}");
    }
    ensure!(!text.contains("panicked") && !text.contains("RUST_BACKTRACE"), "{text}");
    Ok(())
}

#[test]
fn an_unknown_flag_is_told_in_one_line() -> Result<()> {
    refuses(&mut spandrel(&["--no-such-flag"])?, 2, &["--no-such-flag"])
}

#[test]
fn a_bad_value_is_told_with_key_value_and_what_would_be_right() -> Result<()> {
    refuses(&mut spandrel(&["--backend", "magic"])?, 2, &["backend", "magic", "socket"])?;
    refuses(&mut spandrel(&["--ring-bytes", "many"])?, 2, &["ring-bytes", "many"])?;
    refuses(&mut spandrel(&["--weakest-link", "hope"])?, 2, &["weakest-link", "hope", "thread"])?;
    refuses(&mut spandrel(&["--port", "99999"])?, 2, &["port", "99999"])
}

#[test]
fn a_config_that_cannot_be_read_or_understood_is_told_by_file_and_key() -> Result<()> {
    let scratch = Scratch::new("config")?;
    refuses(&mut spandrel(&["--config", "/no/such/file.yaml"])?, 2, &["/no/such/file.yaml"])?;
    let file = scratch.join("spandrel.yaml");
    std::fs::write(&file, "no_such_key: 1\n")?;
    let path = file.display().to_string();
    refuses(&mut spandrel(&["--config", &path])?, 2, &["no_such_key"])?;
    std::fs::write(&file, "backend: magic\n")?;
    refuses(&mut spandrel(&["--config", &path])?, 2, &["backend", "magic"])?;
    std::fs::write(&file, "backend: [\n")?;
    refuses(&mut spandrel(&["--config", &path])?, 2, &["spandrel.yaml"])
}

#[test]
fn an_output_file_that_cannot_be_created_is_told() -> Result<()> {
    refuses(&mut spandrel(&["--export", "file:/no/such/folder/spans"])?, 1, &["/no/such/folder/spans"])
}

#[test]
fn an_endpoint_that_is_no_url_is_told() -> Result<()> {
    refuses(&mut spandrel(&["--otlp-endpoint", "not a url"])?, 2, &["endpoint", "not a url"])?;
    let mut command = spandrel(&[])?;
    refuses(command.env("OTEL_EXPORTER_OTLP_ENDPOINT", "::::"), 2, &["OTEL_EXPORTER_OTLP_ENDPOINT", "::::"])
}

#[test]
fn an_endpoint_that_refuses_is_told_and_the_agent_runs_on() -> Result<()> {
    let _machine = machine();
    let scratch = Scratch::new("refused")?;
    let (at, nobody) = (Endpoint::free()?, Endpoint::free()?);
    let _server = apps::python_service("threaded.py", &at, &Wiring::default(), &scratch)?;
    let endpoint = format!("http://{}", nobody.target());
    let agent =
        Agent::start(&Options::new(&scratch).arguments(["--export", "otlp", "--otlp-endpoint", &endpoint]))?;
    let url = format!("http://{}/refused", at.target());
    output(Command::new(needed("curl")?).args(["--silent", "--fail", "--output", "/dev/null", &url]))?;
    agent.spans_until("both spans in the file", PATIENCE, |s| joined(s, "/refused").is_ok())?;
    until("a word about the endpoint", PATIENCE, || {
        Ok(agent.stderr().iter().any(|line| line.contains(&nobody.target())))
    })?;
    let outcome = agent.stop()?;
    ensure!(outcome.took < END_WITHIN, "the end took {:?}", outcome.took);
    Ok(())
}

#[test]
fn an_ordinary_user_is_told_what_is_missing() -> Result<()> {
    let scratch = Scratch::new("user")?;
    // A copy that everybody may run: a workspace under /root is closed to others.
    let copy = scratch.join("spandrel");
    std::fs::copy(agent::binary()?, &copy)?;
    let mut command = Command::new(needed("setpriv")?);
    command.args(["--reuid", "65534", "--regid", "65534", "--clear-groups"]).arg(&copy);
    refuses(&mut command, 1, &["CAP_BPF"])
}

#[test]
fn a_kernel_without_btf_is_told() -> Result<()> {
    let scratch = Scratch::new("btf")?;
    let binary = agent::binary()?;
    let hide = format!("mount -t tmpfs none /sys/kernel/btf && exec {} --export none", binary.display());
    let mut command = Command::new(needed("unshare")?);
    command.args(["--mount", "sh", "-c", &hide]).current_dir(scratch.path());
    refuses(&mut command, 1, &["BTF"])
}

#[test]
fn check_says_what_is_there_and_help_and_version_work() -> Result<()> {
    let works = |argument: &str| -> Result<String> {
        let out = says(&mut spandrel(&[argument])?)?;
        ensure!(out.status.success(), "{argument} ended with {}", out.status);
        Ok(String::from_utf8_lossy(&out.stdout).into_owned())
    };
    let check = works("check")?;
    ensure!(check.lines().count() >= 5, "{check}");
    let version = works("--version")?;
    ensure!(version.starts_with("spandrel "), "{version}");
    let help = works("--help")?;
    for flag in [
        "--pid",
        "--exe",
        "--port",
        "--cgroup",
        "--export",
        "--config",
        "--weakest-link",
        "--backend",
        "--ring-bytes",
    ] {
        ensure!(help.contains(flag), "the help does not mention {flag}");
    }
    Ok(())
}

#[test]
fn check_says_of_a_process_what_was_proved_of_its_runtime() -> Result<()> {
    let scratch = Scratch::new("check")?;
    let wiring = Wiring::default();
    let start = |service: fn(&Endpoint, &Wiring, &Scratch) -> Result<Service>| -> Result<Service> {
        service(&Endpoint::free()?, &wiring, &scratch)
    };
    let services = [
        (start(apps::go)?, &["inside      go: Go 1."][..]),
        (
            start(|at, wiring, scratch| apps::python_service("asyncio_service.py", at, wiring, scratch))?,
            &["inside      python: "],
        ),
        (start(|at, wiring, scratch| apps::node("await", at, wiring, scratch))?, &["inside      node: "]),
        (start(apps::clock)?, &["inside      of no runtime that is read"]),
    ];
    for (service, want) in &services {
        let pid = service.pid().to_string();
        // A program may need a moment until its runtime has set itself up.
        until(&format!("check knows process {pid}: {want:?}"), PATIENCE, || {
            let out = says(&mut spandrel(&["check", "--pid", &pid])?)?;
            let text = String::from_utf8_lossy(&out.stdout);
            Ok(out.status.success()
                && want.iter().all(|line| text.contains(line))
                && !text.contains("not yet"))
        })?;
    }
    let pid = services[0].0.pid().to_string();
    let out = says(&mut spandrel(&["check", "--pid", &pid, "--no-runtime", "go"])?)?;
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    ensure!(text.contains("of no runtime that is read and not switched off"), "{text}");
    Ok(())
}

#[test]
fn a_second_signal_ends_it_at_once_and_sigterm_is_a_clean_end() -> Result<()> {
    let _machine = machine();
    let scratch = Scratch::new("signal")?;
    let agent = Agent::start(&Options::new(&scratch))?;
    let outcome = agent.end(nix::sys::signal::Signal::SIGTERM)?;
    ensure!(outcome.status.success(), "SIGTERM: {}", outcome.status);
    Ok(())
}

#[test]
fn control_characters_in_a_path_harm_neither_terminal_nor_otlp() -> Result<()> {
    let _machine = machine();
    let scratch = Scratch::new("evil")?;
    let agent = Agent::start(&Options::new(&scratch).arguments(["--export", "terminal"]))?;
    output(
        Command::new(apps::python()?).arg(apps::source("sockets.py")).args(["control_characters", "evil"]),
    )?;
    agent.settle(|spans| {
        spans.iter().filter(|s| s.kind == Kind::Server && s.path().starts_with("/evil-")).count() >= 3
    })?;
    until("the traces on the terminal", PATIENCE, || Ok(agent.stdout().contains("evil-0")))?;
    let outcome = agent.stop()?;
    let evil: Vec<_> = outcome.spans.iter().filter(|span| span.path().starts_with("/evil-")).collect();
    let servers = evil.iter().filter(|span| span.kind == Kind::Server).count();
    ensure!(servers == 3, "{servers} of 3 server spans: {evil:?}");
    for span in &evil {
        for (key, value) in &span.attributes {
            ensure!(is_harmless(value), "{key} is {value:?}");
        }
        ensure!(is_harmless(&span.name), "{:?}", span.name);
    }
    ensure!(outcome.stdout.contains("evil-0"), "the terminal shows nothing of it: {}", outcome.stdout);
    ensure!(is_harmless(&outcome.stdout), "the terminal gets {:?}", outcome.stdout);
    ensure!(outcome.stderr.iter().all(|line| is_harmless(line)), "{:?}", outcome.stderr);
    Ok(())
}

#[test]
fn the_output_file_is_for_its_owner_only() -> Result<()> {
    let _machine = machine();
    let scratch = Scratch::new("mode")?;
    let file = scratch.join("mine.jsonl");
    let agent = Agent::start(
        &Options::new(&scratch).arguments(["--export", &format!("file:{}", file.display())]).no_file(),
    )?;
    let mode =
        std::os::unix::fs::PermissionsExt::mode(&file.metadata().context("the file of spans")?.permissions());
    agent.stop()?;
    ensure!(mode & 0o777 == 0o600, "the mode is {mode:o}");
    Ok(())
}
