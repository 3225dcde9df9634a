//! Exchanges in, spans out: who is whose parent.
//!
//! (contract; see the helper task)

pub mod context;
pub mod http;
pub mod sampler;
pub mod span;
