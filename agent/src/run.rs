//! Starting, running and ending the agent: everything that reads the environment, signals and the clock.
//!
//! The order matters: outputs are opened before anything is attached, so that a file that cannot be
//! created costs the host nothing; processes are scanned after the last program is attached, so that
//! whatever starts meanwhile has a record.

use std::collections::HashSet;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use rand::SeedableRng as _;
use spandrel_proto::layout::{TLS_KEYS, TLS_PROBES};

use crate::config::{self, Export, Settings};
use crate::discover::runtimes;
use crate::discover::runtimes::readers::Readers;
use crate::discover::table::ProcessTable;
use crate::discover::tls_modes::Mode;
use crate::export::settings::{OtlpSettings, Signal as OtlpSignal};
use crate::export::{self, Destination, Exporter, MetricsDestination, metrics};
use crate::gaps::GapReport;
use crate::intake::{Kernel, sockets};
use crate::pipeline::{Pipeline, Processes, Sinks};
use crate::probe::feature::{Found, Places};
use crate::probe::plan::Backend;
use crate::probe::{attach, check, plan};
use crate::screen::Screen;
use crate::stitch::{self, Stitcher, sampler::Sampler};
use crate::stream::{self, Streams};
use crate::wait::{self, Wait, Woken};
use crate::{books, clock, log};

/// How long the end may take.
const FLUSH: Duration = Duration::from_secs(5);

fn env(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

/// Traces until a signal comes.
///
/// # Errors
/// What keeps it from tracing, as a sentence.
pub fn trace(settings: &Settings) -> anyhow::Result<ExitCode> {
    let started = Instant::now();
    // Before any thread exists, so that all inherit the mask.
    let mut signals = SigSet::empty();
    signals.add(Signal::SIGINT);
    signals.add(Signal::SIGTERM);
    // The terminal was closed: what is traced should still arrive.
    signals.add(Signal::SIGHUP);
    signals.thread_block().context("blocking signals")?;
    let signals =
        SignalFd::with_flags(&signals, SfdFlags::SFD_CLOEXEC).context("opening a signal descriptor")?;

    let sinks = match sinks(settings) {
        Ok(sinks) => sinks,
        Err(Refused::Setting(error)) => {
            eprintln!("spandrel: {error}");
            return Ok(ExitCode::from(2));
        }
        Err(Refused::Start(error)) => return Err(error),
    };
    let found = Found::probe(&Places::default());
    let wanted = check::wanted(settings.backend);
    let (sampler, warnings) = Sampler::from_settings(
        env("OTEL_TRACES_SAMPLER").as_deref(),
        env("OTEL_TRACES_SAMPLER_ARG").as_deref(),
    );
    for warning in warnings {
        log::warn(format_args!("{warning}"));
    }
    let options = attach::Options {
        ring_bytes: settings.ring_bytes as u32,
        capture_bytes: settings.capture_bytes as u32,
        selective: !settings.selection.is_everything(),
        tls: match () {
            () if settings.tls.include(Mode::Keys) => TLS_KEYS,
            () if settings.tls.include(Mode::Probes) => TLS_PROBES,
            () => 0,
        },
        log_level: if settings.log >= log::Level::Debug { settings.log as u8 + 1 } else { 0 },
    };
    let attached = attach_best(&found, wanted, options)?;
    let backend = attached.backend;
    for (program, instructions) in &attached.verified_instructions {
        log::debug(format_args!("{program}: {instructions} instructions verified"));
    }
    let kernel = Kernel::new(attached)?;
    let old_sockets: HashSet<u64> = sockets::unix_inodes(Path::new("/proc"));
    let mut table = ProcessTable::new();
    if let (Some(_), Some(name)) = (settings.selection.single(), env("OTEL_SERVICE_NAME")) {
        table.set_service_name(&name);
    }
    let processes = table.scan().context("reading /proc")?;

    let stitch_settings = stitch::Settings {
        limits: stitch::Limits {
            pending_age: settings.pending_age.as_nanos() as u64,
            ..stitch::Limits::default()
        },
        weakest_link: settings.weakest_link,
        sampler,
        intake: match settings.telemetry_intake {
            config::TelemetryIntake::Suppress => stitch::intake::Intake::Suppress,
            config::TelemetryIntake::Trace => stitch::intake::Intake::Trace,
        },
        http: stitch::http::Settings {
            query_values: match settings.query_values {
                config::QueryValues::Redact => stitch::http::QueryValues::Redact,
                config::QueryValues::Keep => stitch::http::QueryValues::Keep,
            },
            value_limit: settings.attribute_bytes as usize,
            ..stitch::http::Settings::default()
        }
        .with_known_methods(env("OTEL_INSTRUMENTATION_HTTP_KNOWN_METHODS").as_deref()),
    };
    let ids = rand::rngs::StdRng::try_from_os_rng().context("seeding the generator of ids")?;
    let mut stitcher = Stitcher::new(stitch_settings, Box::new(ids));
    stitcher.set_wall_offset(clock::wall_offset());

    let drop_one_in = env("SPANDREL_TEST_DROP_ONE_IN").and_then(|every| every.parse().ok());
    let streams = Streams::new(stream::Limits::default(), old_sockets);
    let readers =
        Readers::start(runtimes::How { off: settings.no_runtime.clone(), weakest: settings.weakest_link })
            .context("starting the thread that looks at processes")?;
    let of_processes =
        Processes { table, readers, selection: settings.selection.clone(), probe_hits: settings.probe_hits };
    let mut pipeline = Pipeline::new(kernel, of_processes, streams, stitcher, sinks, drop_one_in);
    if settings.late_names == config::LateNames::Memory {
        pipeline.recall_names().context("starting the thread that searches for header tables")?;
    }
    if settings.tls.include(Mode::Keys) || settings.tls.include(Mode::Probes) {
        keep_to_ourselves();
        pipeline.read_tls(settings.tls.clone());
    }
    if settings.tls.include(Mode::Keys) && settings.tls_search == config::TlsSearch::On {
        pipeline.search_secrets().context("starting the thread that searches for keys")?;
    }
    eprintln!(
        "ready: {processes} processes, backend {backend}, {:.2} s after the start",
        started.elapsed().as_secs_f64()
    );
    watch(&mut pipeline, &signals)?;
    end(pipeline, signals)
}

/// The agent will hold secrets of others, or what they have sealed: no core of it is written, and nobody without privileges reads its memory.
fn keep_to_ourselves() {
    if let Err(error) = nix::sys::prctl::set_dumpable(false) {
        log::warn(format_args!("the agent's memory may be written to a core: {error}"));
    }
    let none = nix::sys::resource::Resource::RLIMIT_CORE;
    let _ = nix::sys::resource::setrlimit(none, 0, 0);
    // What a debugger with privileges writes follows this (core(5)): none of our own memory is in it.
    if let Err(error) = std::fs::write("/proc/self/coredump_filter", "0") {
        log::debug(format_args!("/proc/self/coredump_filter: {error}"));
    }
}

/// The plan for this kernel, carried out. Where the user left the choice and the better backend turns out not to load, the
/// other is tried.
fn attach_best(
    found: &Found,
    wanted: Option<Backend>,
    options: attach::Options,
) -> anyhow::Result<attach::Attached> {
    let answer = |feature| found.answer(feature).clone();
    let plan = plan::plan(&answer, wanted)?;
    match attach::attach(&plan, found, options) {
        Err(error) if wanted.is_none() && plan.backend == Backend::Socket => {
            log::warn(format_args!("backend socket does not work here, trying syscall: {error:#}"));
            attach::attach(&plan::plan(&answer, Some(Backend::Syscall))?, found, options)
        }
        result => result,
    }
}

fn watch(pipeline: &mut Pipeline, signals: &SignalFd) -> anyhow::Result<()> {
    let wait = Wait::new(pipeline.ring(), signals)?;
    let mut last_record = Instant::now();
    let mut refreshed = Instant::now();
    loop {
        let found = pipeline.turn();
        if found > 0 {
            last_record = Instant::now();
        }
        if refreshed.elapsed() >= Duration::from_secs(1) {
            refreshed = Instant::now();
            pipeline.refresh();
        }
        if wait.wait(wait::pause(found, last_record.elapsed()))? == Woken::Signal {
            // Taken off, so that a second one is seen as such.
            let _ = signals.read_signal();
            return Ok(());
        }
    }
}

/// Flushes, for at most [`FLUSH`]; a second signal ends it at once.
fn end(pipeline: Pipeline, signals: SignalFd) -> anyhow::Result<ExitCode> {
    std::thread::Builder::new()
        .name("spandrel-signal".to_owned())
        .spawn(move || {
            if signals.read_signal().is_ok() {
                std::process::exit(1);
            }
        })
        .context("starting a thread")?;
    let (mut books, sinks) = pipeline.finish();
    let Sinks { exporter, screen, gaps } = sinks;
    drop(gaps);
    books.terminal = screen.map(Screen::finish);
    if let Some(exporter) = exporter {
        exporter.publish(books::counters(&books));
        let destinations = exporter.destinations() as u64;
        let ledger = exporter.flush_and_stop(FLUSH);
        books.export = Some(books::Exported { ledger, destinations });
    }
    for line in metrics::table(&books::counters(&books)).lines() {
        eprintln!("{line}");
    }
    for sentence in books::imbalances(&books) {
        log::error(format_args!("{sentence}"));
    }
    // Detaching takes the kernel tens of milliseconds a program; it needs nothing of ours for that.
    std::process::exit(0)
}

/// Why the outputs cannot be opened.
enum Refused {
    /// A setting is wrong: exit status 2.
    Setting(String),
    /// Anything else: exit status 1.
    Start(anyhow::Error),
}

fn sinks(settings: &Settings) -> Result<Sinks, Refused> {
    let start = |error: anyhow::Error| Refused::Start(error);
    let mut destinations = Vec::new();
    let mut metrics_to = None;
    let mut screen = None;
    for export in &settings.exports {
        match export {
            Export::Otlp => {
                let flag = settings.otlp_endpoint.as_deref();
                let spans =
                    OtlpSettings::from(flag, &env).map_err(|error| Refused::Setting(error.to_string()))?;
                let metrics = OtlpSettings::for_signal(OtlpSignal::Metrics, flag, &env)
                    .map_err(|error| Refused::Setting(error.to_string()))?;
                for warning in spans.warnings.iter().chain(&metrics.warnings) {
                    log::warn(format_args!("{warning}"));
                }
                if let Some(variable) = spans.off {
                    log::warn(format_args!("{variable} switches the export of spans off"));
                } else {
                    destinations.push(Destination::Otlp(Box::new(spans)));
                }
                if metrics.endpoint_given && metrics.off.is_none() {
                    let agent = metrics::agent_resource(&env, rand::random());
                    metrics_to = Some(MetricsDestination { settings: metrics, agent });
                }
            }
            Export::File(path) => destinations.push(Destination::File(path.clone())),
            Export::Terminal => {
                screen = Some(Screen::start().context("starting the terminal's thread").map_err(start)?);
            }
            Export::None => {}
        }
    }
    let gaps = match &settings.gap_report {
        Some(path) => Some(
            GapReport::create(path)
                .with_context(|| format!("cannot create {}", path.display()))
                .map_err(start)?,
        ),
        None => None,
    };
    let exporter = if destinations.is_empty() {
        None
    } else {
        let limits =
            export::Limits { queue_bytes: settings.export_queue_bytes as usize, ..export::Limits::default() };
        let say: export::Say = Arc::new(|sentence: &str| log::warn(format_args!("{sentence}")));
        Some(Exporter::start(&destinations, metrics_to, limits, say).map_err(|error| start(error.into()))?)
    };
    Ok(Sinks { exporter, screen, gaps })
}

/// Says what this kernel and these privileges allow, and what would be traced.
///
/// # Errors
/// What keeps it from saying.
pub fn check(settings: &Settings) -> anyhow::Result<ExitCode> {
    let possible = check::run(settings, settings.selection.single(), &mut std::io::stdout().lock())?;
    Ok(if possible { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
