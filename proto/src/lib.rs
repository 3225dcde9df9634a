//! What Spandrel's kernel programs and its agent say to each other: records, policies, counters, and
//! the pure decisions that both sides must take alike.
//!
//! Everything here is `no_std` and without `unsafe`, so that it can be tested in userspace although
//! half of it runs in the kernel. It must never hold a decision about a protocol (those are taken in
//! the agent), and a record is never cast from bytes: [`record::decode`] reads it by tag and length.

#![no_std]
#![forbid(unsafe_code)]

pub mod call;
pub mod counter;
pub mod frames;
pub mod head;
pub mod layout;
pub mod policy;
pub mod position;
pub mod record;
pub mod records;
pub mod tls;
pub mod walk;

#[cfg(test)]
extern crate std;
