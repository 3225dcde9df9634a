//! Carrying out a plan: loading the kernel object with this kernel's offsets, learning what only a
//! running kernel can tell, attaching.
//!
//! This and `intake` are the boundary to the kernel. It must leave nothing behind: all links die with
//! the process, whatever kills it.

use std::net::TcpListener;

use anyhow::{Context as _, anyhow, bail};
use aya::maps::Array;
use aya::programs::Program;
use aya::{Btf as LoaderBtf, Ebpf, EbpfLoader};
use spandrel_proto::layout::Run;

use super::feature::{Feature, Found};
use super::load::load;
use super::plan::{Backend, Hook, Plan};
use super::pod::{PodLearned, PodOffsets, PodRun};
use crate::clock;
use crate::identity::Monotonic;

static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/spandrel"));

/// How the kernel side is to be set.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Bytes of the ring: a power of two, at least a page.
    pub ring_bytes: u32,
    /// At most so many bytes of one call.
    pub capture_bytes: u32,
    /// Whether the map of ignored processes is looked at.
    pub selective: bool,
    /// Whether TLS sessions are looked for.
    pub tls: u32,
    /// The level of the kernel programs' own log: 0 is off and free.
    pub log_level: u8,
}

/// Kernel programs at work. Dropping it detaches them.
pub struct Attached {
    /// The loaded object: `intake` takes its maps.
    pub ebpf: Ebpf,
    /// Which backend.
    pub backend: Backend,
    /// When the last program was attached: what was recorded before is one-sided.
    pub complete: Monotonic,
    /// How many instructions the verifier went through, by program.
    pub verified_instructions: Vec<(String, u32)>,
}

/// Loads and attaches.
pub fn attach(plan: &Plan, found: &Found, options: Options) -> anyhow::Result<Attached> {
    // Before 5.11 maps count against RLIMIT_MEMLOCK; later the limit means nothing here.
    let unlimited = nix::sys::resource::RLIM_INFINITY;
    let _ = nix::sys::resource::setrlimit(nix::sys::resource::Resource::RLIMIT_MEMLOCK, unlimited, unlimited);

    let (offsets, epoll_pointer) = found.offsets().context("laying out the kernel's structures")?;
    let socket_backend = plan.backend == Backend::Socket;
    let run = Run {
        own_pid: std::process::id(),
        task_registers: found.has(Feature::TaskRegisters).into(),
        typed_sockets: socket_backend.into(),
        epoll_pointer: epoll_pointer.into(),
        capture_limit: options.capture_bytes,
        selective: options.selective.into(),
        ring_bytes: options.ring_bytes,
        tls: options.tls,
    };
    let cpus = aya::util::nr_cpus().map_err(|(path, error)| anyhow!("counting CPUs in {path}: {error}"))?;
    let (offsets, run) = (PodOffsets(offsets), PodRun(run));
    let mut loader = EbpfLoader::new();
    loader
        .override_global("OFFSETS", &offsets, true)
        .override_global("RUN", &run, true)
        .override_global("AYA_LOG_LEVEL", &options.log_level, true)
        .map_max_entries("RECORDS", options.ring_bytes)
        .map_max_entries("SCRATCH", cpus as u32 * 2)
        .map_max_entries("WALK_STATES", cpus as u32 * spandrel_proto::walk::STATES)
        .map_max_entries("FOLLOWING", cpus as u32 * 2)
        .map_max_entries("TLS_SCRATCH", cpus as u32 * 2)
        .map_max_entries("TLS_STACK", cpus as u32 * 2);
    if socket_backend {
        loader.map_max_entries("SOCKETS_BY_ADDRESS", 1);
    }
    let mut ebpf = loader.load(OBJECT).context("loading the kernel object")?;
    let btf = LoaderBtf::from_sys_fs().context("reading the kernel's BTF")?;

    // Loading takes the verifier tens of milliseconds a program, attaching less than one: first all of the one,
    // then all of the other, so that the programs begin nearly at once.
    for &(name, hook) in &plan.attachments {
        let doing = || format!("loading {name} for {hook}");
        match (program(&mut ebpf, name)?, hook) {
            (Program::BtfTracePoint(program), Hook::Typed(tracepoint)) => {
                load(|| program.load(tracepoint, &btf)).with_context(doing)?;
            }
            // A program that serves several calls is loaded once.
            (Program::TracePoint(program), Hook::CallExit(_)) if program.fd().is_ok() => {}
            (Program::TracePoint(program), Hook::CallExit(_)) => {
                load(|| program.load()).with_context(doing)?
            }
            _ => bail!("program {name} cannot be attached to {hook}"),
        }
    }
    let mut learned = false;
    for &(name, hook) in &plan.attachments {
        // What is learned from a listening socket must be known before any socket call is looked at.
        if !learned && matches!(name, "sent" | "received") {
            learn(&mut ebpf).context("learning the kernel's TCP from a socket of our own")?;
            learned = true;
        }
        let doing = || format!("attaching {name} to {hook}");
        match (program(&mut ebpf, name)?, hook) {
            (Program::BtfTracePoint(program), Hook::Typed(_)) => {
                program.attach().with_context(doing)?;
            }
            (Program::TracePoint(program), Hook::CallExit(call)) => {
                program.attach("syscalls", &format!("sys_exit_{call}")).with_context(doing)?;
            }
            _ => bail!("program {name} cannot be attached to {hook}"),
        }
    }
    if !learned {
        learn(&mut ebpf).context("learning the kernel's sockets from one of our own")?;
    }
    let complete = clock::monotonic();
    let mut verified_instructions = Vec::new();
    for (name, program) in ebpf.programs() {
        if let Some(count) = program.info().ok().and_then(|info| info.verified_instruction_count()) {
            verified_instructions.push((name.to_owned(), count));
        }
    }
    Ok(Attached { ebpf, backend: plan.backend, complete, verified_instructions })
}

fn program<'a>(ebpf: &'a mut Ebpf, name: &str) -> anyhow::Result<&'a mut Program> {
    ebpf.program_mut(name).ok_or_else(|| anyhow!("the kernel object has no program {name}"))
}

/// Lets the attached programs see sockets of ours, so that they note the kernel's `tcp_prot`,
/// `tcpv6_prot` and `socket_file_ops`, whose addresses no file tells.
fn learn(ebpf: &mut Ebpf) -> anyhow::Result<()> {
    let map = ebpf.map_mut("LEARNED").ok_or_else(|| anyhow!("the kernel object has no map LEARNED"))?;
    let mut entries: Array<_, PodLearned> = Array::try_from(map)?;
    let mut entry = entries.get(&0, 0)?;
    entry.0.learning = 1;
    entries.set(0, entry, 0)?;
    // A socket that begins to listen changes its state, which needs no network to be up; it has a file.
    let listened = TcpListener::bind("127.0.0.1:0").or_else(|_| TcpListener::bind("0.0.0.0:0"));
    let listened6 = TcpListener::bind("[::1]:0").or_else(|_| TcpListener::bind("[::]:0"));
    let mut entry = entries.get(&0, 0)?;
    entry.0.learning = 0;
    entries.set(0, entry, 0)?;
    if entry.0.tcp_prot == 0 {
        listened.context("listening on IPv4")?;
        return Err(anyhow!("the kernel did not report our own listening socket"));
    }
    // A host may have no IPv6 at all; then there is nothing to learn.
    drop(listened6);
    Ok(())
}
