//! What this kernel can do, what will therefore be attached, and attaching it.
//!
//! ```text
//!   feature::Found ──▶ plan::plan (pure) ──▶ attach::attach ──▶ Attached: maps for `intake`
//! ```
//! `check` prints the first two, and what would be traced. Start with [`feature::TABLE`]. To add a hook: a row there, a line in [`plan::plan`], a program in
//! `ebpf/`. It must never assume a kernel: every question is a row of the table.

pub mod attach;
pub mod btf;
pub mod check;
pub mod feature;
pub mod load;
pub mod plan;
pub mod pod;
pub mod sessions;
