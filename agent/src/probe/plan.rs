//! From what a kernel has to what will be attached: a pure decision that can be printed and tested.
//!
//! It must never touch the kernel: carrying a plan out is `attach`.

use std::fmt;

use spandrel_proto::call;

use super::feature::{Answer, Feature, TABLE};

/// Which hooks call `transferred`.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Backend {
    /// BTF raw tracepoints of the socket layer.
    Socket,
    /// The exits of system calls.
    Syscall,
}

impl fmt::Display for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Socket => "socket",
            Self::Syscall => "syscall",
        })
    }
}

/// Where a program is attached.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Hook {
    /// A BTF raw tracepoint.
    Typed(&'static str),
    /// The tracepoint at the exit of a system call.
    CallExit(&'static str),
}

impl fmt::Display for Hook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Typed(name) => write!(f, "tracepoint {name}"),
            Self::CallExit(name) => write!(f, "tracepoint syscalls/sys_exit_{name}"),
        }
    }
}

/// What will be attached, in order.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Plan {
    /// The backend.
    pub backend: Backend,
    /// Programs of the kernel object and where each goes.
    pub attachments: Vec<(&'static str, Hook)>,
}

/// Nothing can be traced.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("cannot trace: {feature}: {why}")]
pub struct Impossible {
    /// The name of the feature that is missing.
    pub feature: &'static str,
    /// What was found instead.
    pub why: String,
}

/// Decides. `wanted` is the user's choice, if there is one.
pub fn plan(answer: &dyn Fn(Feature) -> Answer, wanted: Option<Backend>) -> Result<Plan, Impossible> {
    let need = |feature: Feature| match answer(feature) {
        Answer::Yes => Ok(()),
        // A question that failed is no reason not to try.
        Answer::Unknown(_) if feature != Feature::Btf && feature != Feature::Bpf => Ok(()),
        other => {
            let name = TABLE.iter().find(|row| row.feature == feature).map_or("?", |row| row.name);
            Err(Impossible { feature: name, why: other.to_string() })
        }
    };
    for feature in [
        Feature::Bpf,
        Feature::Btf,
        Feature::RingBuffer,
        Feature::ProcessTracepoints,
        Feature::StateTracepoint,
    ] {
        need(feature)?;
    }
    let backend = match wanted {
        Some(Backend::Socket) => need(Feature::SocketTracepoints).map(|()| Backend::Socket)?,
        Some(Backend::Syscall) => need(Feature::CallTracepoints).map(|()| Backend::Syscall)?,
        None if need(Feature::SocketTracepoints).is_ok() => Backend::Socket,
        None => need(Feature::CallTracepoints).map(|()| Backend::Syscall)?,
    };
    // Processes and connections first: no data may come before what it belongs to is known.
    let mut attachments = vec![
        ("executed", Hook::Typed("sched_process_exec")),
        ("forked", Hook::Typed("sched_process_fork")),
        ("exited", Hook::Typed("sched_process_exit")),
        ("state_changed", Hook::Typed("inet_sock_set_state")),
        ("connecting", Hook::Typed("inet_sock_set_state")),
    ];
    match backend {
        Backend::Socket => attachments.extend([
            ("sent", Hook::Typed("sock_send_length")),
            ("received", Hook::Typed("sock_recv_length")),
        ]),
        Backend::Syscall => attachments.extend(call::HOOKED.iter().map(|&(name, way)| {
            let program = match way {
                call::Way::Send => "call_sent",
                call::Way::Receive => "call_received",
            };
            (program, Hook::CallExit(name))
        })),
    }
    Ok(Plan { backend, attachments })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn without(missing: &'static [Feature]) -> impl Fn(Feature) -> Answer {
        move |feature| if missing.contains(&feature) { Answer::No("not here".into()) } else { Answer::Yes }
    }

    #[test]
    fn the_socket_backend_is_taken_where_it_exists() {
        let plan = plan(&without(&[]), None).unwrap();
        assert_eq!(plan.backend, Backend::Socket);
        assert!(!plan.attachments.iter().any(|(_, hook)| matches!(hook, Hook::CallExit(_))));
    }

    #[test]
    fn an_older_kernel_gets_the_call_exits() {
        let plan = plan(&without(&[Feature::SocketTracepoints]), None).unwrap();
        assert_eq!(plan.backend, Backend::Syscall);
        assert_eq!(plan.attachments.len(), 5 + call::HOOKED.len());
    }

    #[test]
    fn a_forced_backend_is_not_replaced_by_another() {
        let error = plan(&without(&[Feature::SocketTracepoints]), Some(Backend::Socket)).unwrap_err();
        assert_eq!(error.to_string(), "cannot trace: socket tracepoints: no: not here");
    }

    #[test]
    fn what_nothing_works_without_is_named() {
        for feature in [Feature::Bpf, Feature::Btf, Feature::RingBuffer] {
            assert!(
                plan(&|f| if f == feature { Answer::No("gone".into()) } else { Answer::Yes }, None).is_err()
            );
        }
    }
}
