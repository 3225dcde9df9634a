//! The same service as it is, traced by Spandrel, and under the auto-instrumentation that a user would pick instead:
//! Flask under `opentelemetry-instrument`, Node's `http` under `@opentelemetry/auto-instrumentations-node`. Both send
//! their spans to a backend that throws them away.
//!
//! It must never compare two runs: the three modes take turns in each round, and a ratio is of one round. What it needs is
//! installed under `target/` on first use and by nothing else: `cargo xtask test` does not come here.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::agent::{Agent, Options};
use crate::apps::{built, python, source, workspace};
use crate::load::{Sink, only, saturate};
use crate::process::{Endpoint, Scratch, Service, needed, output};

/// A service that can be run with and without its SDK.
#[derive(Clone, Copy, Debug)]
pub struct Subject {
    /// What it is called in the table.
    pub name: &'static str,
    /// The executable that Spandrel is told to trace.
    executable: &'static str,
    start: fn(&Endpoint, Option<&Sink>, &Scratch) -> Result<Service>,
}

/// All of them.
pub const SUBJECTS: &[Subject] = &[
    Subject { name: "Flask, Gunicorn's threads", executable: "python3*", start: flask },
    Subject { name: "Node http", executable: "node", start: node },
];

/// Who watches.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Watcher {
    Nobody,
    Spandrel,
    Sdk,
}

const WATCHERS: [Watcher; 3] = [Watcher::Nobody, Watcher::Spandrel, Watcher::Sdk];

/// Throughput lost to each watcher, in per cent of nobody's in the same round, by round.
#[derive(Clone, Debug, Default)]
pub struct Lost {
    /// To Spandrel.
    pub spandrel: Vec<f64>,
    /// To the SDK.
    pub sdk: Vec<f64>,
}

/// Measures a service, so many rounds of so many seconds each for each watcher.
pub fn compare(subject: &Subject, rounds: usize, seconds: u64, scratch: &Scratch) -> Result<Lost> {
    let sink = Sink::start()?;
    let mut lost = Lost::default();
    for round in 0..rounds {
        let mut rates = [0.0; 3];
        for turn in 0..WATCHERS.len() {
            let index = (turn + round) % WATCHERS.len();
            let (Some(&watcher), Some(rate)) = (WATCHERS.get(index), rates.get_mut(index)) else { continue };
            let at = Endpoint::free()?;
            let before = sink.received();
            let service = (subject.start)(&at, (watcher == Watcher::Sdk).then_some(&sink), scratch)?;
            let agent = (watcher == Watcher::Spandrel).then(|| watch(subject, &sink, scratch)).transpose()?;
            *rate = saturate(&at, "/file", 1, CONNECTIONS, seconds)?.rate;
            if let Some(agent) = agent {
                agent.stop()?;
            }
            drop(service);
            let sent = sink.received() - before;
            // A watcher that sends nothing costs nothing and says nothing.
            ensure!((watcher == Watcher::Nobody) == (sent == 0.0), "{watcher:?} sent {sent} bytes of spans");
            println!("{:<5} {:<28} {watcher:<10?} {rate:>10.0} requests/s", round + 1, subject.name);
        }
        let [nobody, spandrel, sdk] = rates;
        lost.spandrel.push((1.0 - spandrel / nobody) * 100.0);
        lost.sdk.push((1.0 - sdk / nobody) * 100.0);
    }
    Ok(lost)
}

/// Enough to keep the service busy.
const CONNECTIONS: usize = 8;

/// Spandrel sees the service only, as the SDK does: not the load.
fn watch(subject: &Subject, sink: &Sink, scratch: &Scratch) -> Result<Agent> {
    let mut arguments = only(&[subject.executable]);
    let endpoint = format!("http://127.0.0.1:{}", sink.port);
    arguments.extend(["--export".into(), "otlp".into(), "--otlp-endpoint".into(), endpoint]);
    Agent::start(&Options::new(scratch).no_file().arguments(arguments))
}

/// The variables of an SDK that sends traces to the sink and nothing else.
fn sdk(command: &mut Command, sink: &Sink) {
    command.envs([
        ("OTEL_SERVICE_NAME", "bench".to_owned()),
        ("OTEL_TRACES_EXPORTER", "otlp".to_owned()),
        ("OTEL_METRICS_EXPORTER", "none".to_owned()),
        ("OTEL_LOGS_EXPORTER", "none".to_owned()),
        // Node's look for cloud metadata would delay it.
        ("OTEL_NODE_RESOURCE_DETECTORS", "env,host,process".to_owned()),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf".to_owned()),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", format!("http://127.0.0.1:{}", sink.port)),
    ]);
}

fn flask(at: &Endpoint, with: Option<&Sink>, scratch: &Scratch) -> Result<Service> {
    let bin = flask_environment()?.join("bin");
    let mut command = match with {
        Some(sink) => {
            let mut command = Command::new(bin.join("opentelemetry-instrument"));
            sdk(&mut command, sink);
            command.arg(bin.join("gunicorn"));
            command
        }
        None => Command::new(bin.join("gunicorn")),
    };
    command.args(["--workers", "1", "--worker-class", "gthread", "--threads", "8", "--keep-alive", "60"]);
    command.args(["--worker-tmp-dir", "/dev/shm", "--bind", &at.target(), "--chdir"]).arg(source("sdk"));
    command.arg("flask_service:application").env("PYTHONDONTWRITEBYTECODE", "1");
    Service::listening("flask", &mut command, scratch, at)
}

fn node(at: &Endpoint, with: Option<&Sink>, scratch: &Scratch) -> Result<Service> {
    let home = node_modules()?;
    let mut command = Command::new(needed("node")?);
    if let Some(sink) = with {
        sdk(&mut command, sink);
        let register = "node_modules/@opentelemetry/auto-instrumentations-node/build/src/register.js";
        command.arg("--require").arg(home.join(register));
    }
    command.arg(source("sdk/http_service.js")).arg(at.port()?.to_string());
    Service::listening("node", &mut command, scratch, at)
}

fn flask_environment() -> Result<PathBuf> {
    let target = workspace().join("target/sdk-python");
    let packages = source("sdk/requirements.txt");
    built("sdk-python.done", &packages, |done| {
        let _ = std::fs::remove_dir_all(&target);
        output(Command::new(python()?).args(["-m", "venv"]).arg(&target))?;
        let mut pip = Command::new(target.join("bin/pip"));
        output(pip.args(["install", "--quiet", "--disable-pip-version-check", "-r"]).arg(&packages))?;
        std::fs::write(done, "").context("marking the virtual environment as complete")
    })?;
    Ok(target)
}

fn node_modules() -> Result<PathBuf> {
    let target = workspace().join("target/sdk-node");
    let package = source("sdk/package.json");
    built("sdk-node.done", &package, |done| {
        std::fs::create_dir_all(&target).with_context(|| format!("creating {}", target.display()))?;
        std::fs::copy(&package, target.join("package.json")).context("copying package.json")?;
        let mut npm = Command::new(needed("npm")?);
        output(npm.args(["install", "--silent", "--no-audit", "--no-fund"]).current_dir(&target))?;
        std::fs::write(done, "").context("marking the modules as complete")
    })?;
    Ok(target)
}
