//! Exchanges in, spans out: who is whose parent.
//!
//! (contract; see the helper task)

pub mod span;
