//! What the end-to-end tests and the truth harness share.
//!
//! ```text
//! plan     opaque tokens, who calls whom: the truth, known before any traffic
//! driver   sends the requests of a plan and notes where each one's bytes were
//! process  programs that a test starts, and never leaves behind
//! apps     the traced programs, one function each
//! agent    the real agent, as a user starts it; its counters
//! otlp     the spans that came out          gaps   what it says is missing
//! judge    spans against the plan: complete, right, orphan, missing, wrong
//! rows     the truth table: one program, one claim a row
//! grpc     HTTP/2 and gRPC: five peers as client and server, their table
//! tls      programs that speak TLS, their table
//! load     what bench and soak share
//! sdk      the same service under an SDK: what bench compares with
//! checks   what several tests ask of spans            collector   a real OpenTelemetry Collector
//! ```
//! Everything asserts on what came out of the agent. Nothing here may share code with it: a mistake in its types
//! must not be able to hide itself. Start reading in [`judge`] and [`rows`].

pub mod agent;
pub mod apps;
pub mod checks;
pub mod collector;
pub mod driver;
pub mod follow;
pub mod gaps;
pub mod grpc;
pub mod judge;
pub mod load;
pub mod many;
pub mod otlp;
pub mod plan;
pub mod process;
pub mod rows;
pub mod sdk;
pub mod tls;
