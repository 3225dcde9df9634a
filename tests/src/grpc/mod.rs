//! HTTP/2 and gRPC against real peers: what was sent, and what the spans say of it.
//!
//! ```text
//! peers    five gRPC implementations, each as client and as server, built once      calls   what they are told to do
//! judge    spans against what the client saw: name, status, duration, parent
//! rows     one claim each: every kind of call, many calls over one connection, bulk, other programs
//! late     connections that are warm when the agent comes
//! ends     what ends a call, also by hand: a server that resets, refuses, goes away
//! hostile  connections by hand (wire) that want to make an agent wrong, slow or large: tunnels, bombs, floods, losses
//! record   connections of the five peers, written down for the agent's own tests
//! ```
//! A call is found by its method, which is its token: nobody else's call has it. Only a late join has methods that
//! repeat; there calls of a connection follow each other and are told apart by when they were. Nothing here may share
//! code with the agent.

pub mod calls;
pub mod ends;
pub mod hand;
pub mod hostile;
pub mod judge;
pub mod late;
pub mod others;
pub mod peers;
pub mod record;
pub mod rows;
pub mod wire;
