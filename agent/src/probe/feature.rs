//! The feature table: what the agent asks of a kernel, how that is tried, since when kernels have it,
//! and what is lost without it.
//!
//! One table feeds the attach plan, `spandrel check` and the documentation. A probe tries the thing
//! itself and has three answers; a version is only ever an explanation. Nothing else in the agent may
//! ask what a kernel can do.

use std::fmt;
use std::path::{Path, PathBuf};

use aya::maps::MapType;
use aya::programs::ProgramType;
use aya::sys::{is_helper_supported, is_map_supported, is_program_supported};
use spandrel_proto::layout::Offsets;

use super::btf::Btf;

/// What a probe found.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Answer {
    /// It is there.
    Yes,
    /// It is not, and why.
    No(String),
    /// The question itself failed.
    Unknown(String),
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Yes => f.write_str("yes"),
            Self::No(why) => write!(f, "no: {why}"),
            Self::Unknown(why) => write!(f, "could not tell: {why}"),
        }
    }
}

/// A row of the table.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
#[allow(missing_docs)]
pub enum Feature {
    Bpf,
    Btf,
    RingBuffer,
    ProcessTracepoints,
    StateTracepoint,
    SocketTracepoints,
    CallTracepoints,
    TaskRegisters,
    HostPids,
}

/// What stands in a row.
#[derive(Clone, Copy, Debug)]
pub struct Row {
    /// Which.
    pub feature: Feature,
    /// Its name in `spandrel check` and in the documentation.
    pub name: &'static str,
    /// The first kernel that has it.
    pub since: &'static str,
    /// What is lost without it.
    pub without: &'static str,
}

/// The table.
pub const TABLE: [Row; 9] = [
    Row {
        feature: Feature::Bpf,
        name: "bpf",
        since: "5.8",
        without: "everything: needs root, or CAP_BPF and CAP_PERFMON, and a kernel that is not locked down",
    },
    Row {
        feature: Feature::Btf,
        name: "BTF",
        since: "5.2 (CONFIG_DEBUG_INFO_BTF)",
        without: "everything: without /sys/kernel/btf/vmlinux nobody can say where in a socket its numbers are",
    },
    Row { feature: Feature::RingBuffer, name: "ring buffer", since: "5.8", without: "everything" },
    Row {
        feature: Feature::ProcessTracepoints,
        name: "process tracepoints",
        since: "5.5",
        without: "everything: programs could not be told apart",
    },
    Row {
        feature: Feature::StateTracepoint,
        name: "connection tracepoint",
        since: "5.5",
        without: "everything: TCP connections would have no beginning and no end",
    },
    Row {
        feature: Feature::SocketTracepoints,
        name: "socket tracepoints",
        since: "6.3",
        without: "backend `socket`: backend `syscall` is used, which costs every read and write of the machine",
    },
    Row {
        feature: Feature::CallTracepoints,
        name: "system call tracepoints",
        since: "2.6.32 (CONFIG_FTRACE_SYSCALLS, tracefs mounted)",
        without: "backend `syscall`",
    },
    Row {
        feature: Feature::TaskRegisters,
        name: "task registers",
        since: "5.15",
        without: "nothing: registers are read from the kernel stack instead, which is slower",
    },
    Row {
        feature: Feature::HostPids,
        name: "host's process ids",
        since: "any (run in the host's pid namespace)",
        without: "service names: /proc shows other processes than the kernel speaks of",
    },
];

/// Where to look; a test looks elsewhere.
#[derive(Clone, Debug)]
pub struct Places {
    /// The kernel's BTF.
    pub btf: PathBuf,
    /// Where tracefs may be mounted.
    pub tracefs: Vec<PathBuf>,
    /// procfs.
    pub proc: PathBuf,
}

impl Default for Places {
    fn default() -> Self {
        Self {
            btf: "/sys/kernel/btf/vmlinux".into(),
            tracefs: vec!["/sys/kernel/tracing".into(), "/sys/kernel/debug/tracing".into()],
            proc: "/proc".into(),
        }
    }
}

/// What was found out about this kernel.
pub struct Found {
    answers: Vec<(Feature, Answer)>,
    /// Its BTF, if there is any.
    pub btf: Option<Btf>,
}

impl Found {
    /// Asks every question of the table.
    pub fn probe(places: &Places) -> Self {
        let (btf, btf_answer) = read_btf(&places.btf);
        let tracepoint = |name: &str| match &btf {
            Some(btf) if btf.has_typedef(&format!("btf_trace_{name}")) => Answer::Yes,
            Some(_) => Answer::No(format!("the kernel's BTF has no tracepoint {name}")),
            None => Answer::Unknown("there is no BTF".into()),
        };
        let all = |names: &[&str]| {
            names
                .iter()
                .map(|name| tracepoint(name))
                .find(|answer| *answer != Answer::Yes)
                .unwrap_or(Answer::Yes)
        };
        let answers = TABLE
            .iter()
            .map(|row| {
                let answer = match row.feature {
                    Feature::Bpf => may_load(),
                    Feature::Btf => btf_answer.clone(),
                    Feature::RingBuffer => supported(is_map_supported(MapType::RingBuf)),
                    Feature::ProcessTracepoints => {
                        all(&["sched_process_exec", "sched_process_fork", "sched_process_exit"])
                    }
                    Feature::StateTracepoint => tracepoint("inet_sock_set_state"),
                    Feature::SocketTracepoints => all(&["sock_send_length", "sock_recv_length"]),
                    Feature::CallTracepoints => call_tracepoints(&places.tracefs),
                    Feature::TaskRegisters => {
                        supported(is_helper_supported(ProgramType::TracePoint, task_pt_regs()))
                    }
                    Feature::HostPids => host_pids(&places.proc),
                };
                (row.feature, answer)
            })
            .collect();
        Self { answers, btf }
    }

    /// What was found about one feature.
    pub fn answer(&self, feature: Feature) -> &Answer {
        const NOT_ASKED: &Answer = &Answer::Yes;
        self.answers.iter().find(|(f, _)| *f == feature).map_or(NOT_ASKED, |(_, answer)| answer)
    }

    /// Whether a feature is there for certain.
    pub fn has(&self, feature: Feature) -> bool {
        *self.answer(feature) == Answer::Yes
    }

    /// The layout of this kernel's structures.
    pub fn offsets(&self) -> Result<(Offsets, bool), super::btf::BtfError> {
        let Some(btf) = &self.btf else { return Err(super::btf::BtfError::Damaged(0)) };
        let mut offsets = Offsets::default();
        let mut epoll_pointer = true;
        for (field, (name, structure, path, other)) in offsets.fields_mut().into_iter().zip(Offsets::SOURCES)
        {
            *field = match (btf.offset(structure, path), other) {
                (Ok(offset), _) => offset,
                (Err(_), Some(other)) => {
                    if *name == "file_f_ep" {
                        epoll_pointer = false;
                    }
                    btf.offset(structure, &[other])?
                }
                (Err(error), None) => return Err(error),
            };
        }
        Ok((offsets, epoll_pointer))
    }
}

/// `bpf_task_pt_regs`, include/uapi/linux/bpf.h.
fn task_pt_regs() -> aya::sys::BpfHelper {
    aya::sys::BpfHelper::BPF_FUNC_task_pt_regs
}

fn supported<E: std::error::Error>(result: Result<bool, E>) -> Answer {
    match result {
        Ok(true) => Answer::Yes,
        Ok(false) => Answer::No("the kernel does not know it".into()),
        Err(error) => Answer::Unknown(chain(&error)),
    }
}

fn may_load() -> Answer {
    match is_program_supported(ProgramType::TracePoint) {
        Ok(true) => Answer::Yes,
        Ok(false) => Answer::No("the kernel refuses tracing programs".into()),
        Err(error) => {
            let text = chain(&error);
            if text.contains("os error 1)") || text.contains("EPERM") {
                Answer::No("not permitted: run as root, or grant CAP_BPF and CAP_PERFMON".into())
            } else {
                Answer::Unknown(text)
            }
        }
    }
}

fn read_btf(path: &Path) -> (Option<Btf>, Answer) {
    match std::fs::read(path) {
        Ok(bytes) => match Btf::parse(bytes) {
            Ok(btf) => (Some(btf), Answer::Yes),
            Err(error) => (None, Answer::No(format!("{}: {error}", path.display()))),
        },
        Err(error) => {
            let remedy = "the kernel must be built with CONFIG_DEBUG_INFO_BTF";
            (None, Answer::No(format!("cannot read {}: {error}; {remedy}", path.display())))
        }
    }
}

fn call_tracepoints(tracefs: &[PathBuf]) -> Answer {
    let event = |root: &PathBuf| root.join("events/syscalls/sys_exit_read/id");
    match tracefs.iter().map(event).map(std::fs::read).collect::<Result<Vec<_>, _>>() {
        _ if tracefs.iter().map(event).any(|path| path.exists()) => Answer::Yes,
        Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => {
            Answer::No("not permitted to read tracefs".into())
        }
        _ => Answer::No("tracefs is not mounted: mount -t tracefs tracefs /sys/kernel/tracing".into()),
    }
}

/// The inode number of the initial pid namespace: `PROC_PID_INIT_INO`, include/linux/proc_ns.h.
const FIRST_PID_NAMESPACE: &str = "pid:[4026531836]";

fn host_pids(proc: &Path) -> Answer {
    match std::fs::read_link(proc.join("self/ns/pid")) {
        Ok(link) if link.as_os_str() == FIRST_PID_NAMESPACE => Answer::Yes,
        Ok(_) => Answer::No("the agent runs in a pid namespace of its own".into()),
        Err(error) => Answer::Unknown(error.to_string()),
    }
}

/// An error and its causes in one line.
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_btf_the_table_says_so_and_nothing_panics() {
        let places = Places { btf: "/nonexistent/btf".into(), tracefs: vec![], proc: "/nonexistent".into() };
        let found = Found::probe(&places);
        assert!(matches!(found.answer(Feature::Btf), Answer::No(why) if why.contains("/nonexistent/btf")));
        assert!(
            matches!(found.answer(Feature::CallTracepoints), Answer::No(why) if why.contains("mount -t tracefs"))
        );
        assert!(found.offsets().is_err());
    }

    #[test]
    fn every_row_has_its_own_name() {
        let mut names: Vec<_> = TABLE.iter().map(|row| row.name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), TABLE.len());
    }
}
