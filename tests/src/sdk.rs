//! The same service as it is, traced by Spandrel, and under the auto-instrumentation that a user would pick instead:
//! Flask and aiohttp under `opentelemetry-instrument`, Node under `@opentelemetry/auto-instrumentations-node`, the JVM under the
//! OpenTelemetry Java agent; Go has none that installs by itself (OpenTelemetry's for Go is eBPF as well, and its module comes
//! without its objects), so it is measured with and without Spandrel alone. All send their spans to a backend that throws them away.
//!
//! It must never compare two runs: the three modes take turns in each round, and a ratio is of one round. What it needs is
//! installed under `target/` on first use and by nothing else: `cargo xtask test` does not come here.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::agent::{Agent, Options};
use crate::apps::{built, go_service, jvm_classes, npm_packages, python, source, workspace};
use crate::load::{Nginx, Sink, Usage, only, saturate};
use crate::process::{Endpoint, Scratch, Service, needed, output};

/// A service that can be run with and without its SDK.
#[derive(Clone, Copy, Debug)]
pub struct Subject {
    /// What it is called in the table.
    pub name: &'static str,
    /// The executable that Spandrel is told to trace.
    executable: &'static str,
    program: Program,
}

/// What answers. All but Flask make two calls for each request, to nginx.
#[derive(Clone, Copy, Debug)]
enum Program {
    Flask,
    Aiohttp(&'static str),
    Go(&'static str),
    Node(&'static str),
    Jvm(&'static str),
}

/// All of them.
pub const SUBJECTS: &[Subject] = &[
    Subject { name: "Flask, Gunicorn's threads", executable: "python3*", program: Program::Flask },
    Subject { name: "aiohttp, await", executable: "python3*", program: Program::Aiohttp("inline") },
    Subject { name: "aiohttp, gather", executable: "python3*", program: Program::Aiohttp("gather") },
    Subject { name: "Go, the handler", executable: "go-service*", program: Program::Go("inline") },
    Subject { name: "Go, a goroutine a call", executable: "go-service*", program: Program::Go("fan") },
    Subject { name: "Node, callbacks", executable: "node", program: Program::Node("callback") },
    Subject { name: "Node, await http", executable: "node", program: Program::Node("await") },
    Subject { name: "Node, await fetch", executable: "node", program: Program::Node("fetch") },
    Subject { name: "JVM, threads", executable: "java", program: Program::Jvm("thread") },
    Subject { name: "JVM, a pool", executable: "java", program: Program::Jvm("submit") },
];

/// Who watches.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Watcher {
    Nobody,
    Spandrel,
    Sdk,
}

const WATCHERS: [Watcher; 3] = [Watcher::Nobody, Watcher::Spandrel, Watcher::Sdk];

/// What each watcher costs, by round.
#[derive(Clone, Debug, Default)]
pub struct Lost {
    /// Throughput lost to Spandrel, in per cent of nobody's in the same round.
    pub spandrel: Vec<f64>,
    /// To the SDK.
    pub sdk: Vec<f64>,
    /// The 99th percentile of latencies in microseconds: alone, with Spandrel, with the SDK.
    pub p99: [Vec<f64>; 3],
    /// The service's own CPU a request, in microseconds: alone, with Spandrel, with the SDK.
    pub cpu: [Vec<f64>; 3],
    /// Hits of Spandrel's probes a request.
    pub hits: Vec<f64>,
}

/// Measures a service, so many rounds of so many seconds each for each watcher.
pub fn compare(subject: &Subject, rounds: usize, seconds: u64, scratch: &Scratch) -> Result<Lost> {
    let sink = Sink::start()?;
    let nginx = Nginx::start(scratch)?;
    let mut lost = Lost::default();
    for round in 0..rounds {
        let mut rates = [0.0; 3];
        for turn in 0..WATCHERS.len() {
            let index = (turn + round) % WATCHERS.len();
            let (Some(&watcher), Some(rate)) = (WATCHERS.get(index), rates.get_mut(index)) else { continue };
            if watcher == Watcher::Sdk && !subject.program.has_sdk() {
                continue;
            }
            let at = Endpoint::free()?;
            let before = sink.received();
            let with = (watcher == Watcher::Sdk).then_some(&sink);
            let service = subject.program.start(&at, with, &nginx.at, scratch)?;
            let agent = (watcher == Watcher::Spandrel).then(|| watch(subject, &sink, scratch)).transpose()?;
            // Compilers of the service, and probes that are attached at the first need.
            let warm = saturate(&at, "/file", 1, CONNECTIONS, WARM_UP)?;
            let used = Usage::of(service.pid())?.cpu;
            let load = saturate(&at, "/file", 1, CONNECTIONS, seconds)?;
            *rate = load.rate;
            let used = (Usage::of(service.pid())?.cpu - used).as_secs_f64() * 1e6 / load.requests as f64;
            lost.cpu[index].push(used);
            lost.p99[index].push(load.p99);
            let mut hits = String::new();
            if let Some(agent) = agent {
                let outcome = agent.stop()?;
                let each = outcome.counters.sum(&["spandrel_kernel_probe_hits_total"]) as f64
                    / (warm.requests + load.requests) as f64;
                lost.hits.push(each);
                hits = format!("{each:>8.1} hits a request");
            }
            drop(service);
            let sent = sink.received() - before;
            // A watcher that sends nothing costs nothing and says nothing.
            ensure!((watcher == Watcher::Nobody) == (sent == 0.0), "{watcher:?} sent {sent} bytes of spans");
            println!(
                "{:<5} {:<28} {watcher:<10?} {:>10.0} requests/s {used:>8.0} µs a request, p99 {:>8.0} µs {hits}",
                round + 1,
                subject.name,
                load.rate,
                load.p99
            );
        }
        let [nobody, spandrel, sdk] = rates;
        lost.spandrel.push((1.0 - spandrel / nobody) * 100.0);
        if subject.program.has_sdk() {
            lost.sdk.push((1.0 - sdk / nobody) * 100.0);
        }
    }
    Ok(lost)
}

/// Enough to keep the service busy.
const CONNECTIONS: usize = 8;
/// Seconds of load before those that count.
const WARM_UP: u64 = 4;

/// Spandrel sees the service only, as the SDK does: not the load. It may link what it can, at any price.
fn watch(subject: &Subject, sink: &Sink, scratch: &Scratch) -> Result<Agent> {
    let mut arguments = only(&[subject.executable]);
    let endpoint = format!("http://127.0.0.1:{}", sink.port);
    arguments.extend(["--export".into(), "otlp".into(), "--otlp-endpoint".into(), endpoint]);
    arguments.extend(["--weakest-link", "inferred", "--probe-hits", "0"].map(String::from));
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

impl Program {
    fn has_sdk(self) -> bool {
        !matches!(self, Self::Go(_))
    }

    fn start(
        self,
        at: &Endpoint,
        with: Option<&Sink>,
        next: &Endpoint,
        scratch: &Scratch,
    ) -> Result<Service> {
        let routes = scratch.join("sdk-routes.tsv");
        std::fs::write(&routes, "/file\t0\t1024\t/file\t/file\n").context("writing the routes")?;
        let told = |style: &str| {
            [
                format!("port={}", at.port().unwrap_or(0)),
                format!("routes={}", routes.display()),
                format!("next={}", next.target()),
                format!("style={style}"),
            ]
        };
        match self {
            Self::Flask => flask(at, with, scratch),
            Self::Aiohttp(style) => {
                let bin = python_environment()?.join("bin");
                let mut command = match with {
                    Some(sink) => {
                        let mut command = Command::new(bin.join("opentelemetry-instrument"));
                        sdk(&mut command, sink);
                        command.arg(bin.join("python"));
                        command
                    }
                    None => Command::new(bin.join("python")),
                };
                command.arg(source("async_service.py")).arg("server=aiohttp").args(told(style));
                Service::listening("aiohttp", command.env("PYTHONDONTWRITEBYTECODE", "1"), scratch, at)
            }
            Self::Go(style) => {
                let mut command = Command::new(go_service()?);
                command.args(told(style));
                Service::listening("go-service", &mut command, scratch, at)
            }
            Self::Node(style) => {
                let mut command = Command::new(needed("node")?);
                if let Some(sink) = with {
                    sdk(&mut command, sink);
                    let register =
                        "node_modules/@opentelemetry/auto-instrumentations-node/build/src/register.js";
                    let modules = npm_packages("sdk-node", &source("sdk/package.json"))?;
                    command.arg("--require").arg(modules.join(register));
                }
                command.arg(source("service.js")).args(told(style));
                Service::listening("node", &mut command, scratch, at)
            }
            Self::Jvm(style) => {
                let mut command = Command::new(needed("java")?);
                if let Some(sink) = with {
                    sdk(&mut command, sink);
                    command.arg(format!("-javaagent:{}", java_agent()?.display()));
                }
                command.arg("-cp").arg(jvm_classes()?).arg("Service").args(told(style));
                Service::listening("java", &mut command, scratch, at)
            }
        }
    }
}

fn flask(at: &Endpoint, with: Option<&Sink>, scratch: &Scratch) -> Result<Service> {
    let bin = python_environment()?.join("bin");
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

fn python_environment() -> Result<PathBuf> {
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

/// The OpenTelemetry Java agent, from Maven's central repository.
fn java_agent() -> Result<PathBuf> {
    let target = workspace().join("target/sdk-java");
    built("sdk-java.done", &source("sdk/package.json"), |done| {
        std::fs::create_dir_all(&target).with_context(|| format!("creating {}", target.display()))?;
        let mut maven = Command::new(needed("mvn")?);
        maven.current_dir(&target).args(["-q", "-B", "dependency:copy", "-Dmdep.stripVersion=true"]);
        maven.arg(format!("-Dartifact={JAVA_AGENT}"));
        output(maven.arg(format!("-DoutputDirectory={}", target.display())))?;
        std::fs::write(done, "").context("marking the agent as complete")
    })?;
    Ok(target.join("opentelemetry-javaagent.jar"))
}

const JAVA_AGENT: &str = "io.opentelemetry.javaagent:opentelemetry-javaagent:2.20.1";
