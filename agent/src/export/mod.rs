//! Spans out of the agent: OTLP, the terminal, a file.
//!
//! (contract; see the helper task)

pub mod terminal;
