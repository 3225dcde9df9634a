//! Which processes there are, what they are called, and which of them to trace.
//!
//! In: the kernel's exec, fork and exit records, one look at `/proc` at the start, and keys that other
//! records mention. Out: one [`Resource`] per program, its [`Serving`] model, and what [`select`] needs.
//! ```text
//!   records ──▶ table ◀── proc, containers      (the only I/O: bounded reads, never a write)
//!                 │ facts
//!                 ▼
//!   command ─▶ naming ─▶ resource               (pure; cgroup, environment, runtime and text parse for them)
//! ```
//! Start reading at [`ProcessTable`] and [`naming::service_name`]. Invariants: a name comes from the process
//! that made the traffic or from nothing (a reused pid is told by its start time); of a target's environment
//! two variables are kept; nothing leaves here that could move a terminal. Ledger: [`table::Ledger`].

pub mod answering;
pub mod cgroup;
pub mod code;
pub mod command;
pub mod containers;
pub mod elf;
pub mod environment;
#[doc(hidden)]
pub mod fuzz;
pub mod go_tls;
pub mod hpack;
pub mod maps;
pub mod memory;
pub mod naming;
pub mod openssl;
pub mod paths;
pub mod plaintext;
pub mod proc;
pub mod resource;
pub mod runtime;
pub mod runtimes;
pub mod schedules;
pub mod searching;
pub mod secrets;
pub mod select;
pub mod serving;
pub mod table;
pub mod tables;
pub mod text;
pub mod tls_modes;

pub use resource::Host;
pub use select::{Candidate, Selection};
pub use serving::Serving;
pub use table::{ExecFacts, ProcessTable};

/// What a traced service says of itself: one OTLP resource per program.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Resource {
    /// `service.name`.
    pub service: String,
    /// All attributes, `service.name` among them; each key once, in a fixed order.
    pub attributes: Vec<(String, ResourceValue)>,
}

/// A resource attribute's value.
#[derive(Clone, Debug, Eq, PartialEq)]
#[allow(missing_docs)]
pub enum ResourceValue {
    Text(String),
    Integer(i64),
}
