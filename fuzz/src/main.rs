//! Every fuzz body of the agent in one program under libFuzzer, chosen by `SPANDREL_FUZZ_TARGET`.
//!
//! A body stands beside the parser whose invariants it asserts, and unit tests run it on seeds; here is
//! only the table. A body that is not in the table is never fuzzed, which the check `tidy` of xtask calls
//! an error. It must never hold logic of its own. `cargo xtask fuzz` builds and drives it.

#![no_main]

use std::sync::OnceLock;

/// A fuzz body: it asserts its invariants by panicking.
type Body = fn(&[u8]);

/// Each target under its name; its seeds are in `corpus/` below that name.
const TARGETS: &[(&str, Body)] = &[
    ("http1_cuts", spandrel::protocol::http1::fuzz::fuzz_cuts),
    ("http1_parser", spandrel::protocol::http1::fuzz::fuzz_parser),
];

static BODY: OnceLock<Body> = OnceLock::new();

libfuzzer_sys::fuzz_target!(init: choose(), |data: &[u8]| {
    if let Some(body) = BODY.get() {
        body(data);
    }
});

/// Called once, before libFuzzer reads its arguments.
fn choose() {
    let name = std::env::var("SPANDREL_FUZZ_TARGET").unwrap_or_default();
    match TARGETS.iter().find(|(target, _)| *target == name) {
        Some((_, body)) => BODY.get_or_init(|| *body),
        None => {
            for (target, _) in TARGETS {
                println!("{target}");
            }
            std::process::exit(i32::from(name != "list"));
        }
    };
}
