//! Settings: what the user typed, what is in the file, what is in the environment; and what it means.
//!
//! (contract; see the helper task)
