//! Fuzz bodies of this folder.
