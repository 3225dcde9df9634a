//! What the parser must say of streams from our own encoder, of those of real programs, and of bytes that are none.

pub(crate) mod encode;
mod frames;
mod hpack;
