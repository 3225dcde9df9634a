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
    ("btf", spandrel::probe::btf::fuzz_btf),
    ("config", spandrel::config::fuzz::fuzz_config),
    ("discover_binaries", spandrel::discover::runtimes::fuzz::fuzz_binaries),
    ("discover_cgroup", spandrel::discover::fuzz::fuzz_cgroup),
    ("discover_cmdline", spandrel::discover::fuzz::fuzz_cmdline),
    ("discover_code", spandrel::discover::code::fuzz_returns),
    ("discover_elf", spandrel::discover::fuzz::fuzz_elf),
    ("discover_elf_file", spandrel::discover::elf::fuzz_file),
    ("discover_environ", spandrel::discover::fuzz::fuzz_environ),
    ("discover_schedules", spandrel::discover::schedules::fuzz_schedules),
    ("discover_secrets", spandrel::discover::secrets::fuzz_secrets),
    ("discover_hpack", spandrel::discover::hpack::fuzz_tables),
    ("discover_jvm", spandrel::discover::runtimes::jvm::fuzz::fuzz_structs),
    ("discover_maps", spandrel::discover::runtimes::fuzz::fuzz_maps),
    ("discover_proofs", spandrel::discover::runtimes::fuzz::fuzz_proofs),
    ("discover_python", spandrel::discover::runtimes::python::fuzz::fuzz_layout),
    ("discover_stat", spandrel::discover::fuzz::fuzz_stat),
    ("discover_table", spandrel::discover::fuzz::fuzz_table),
    ("exchange", spandrel::exchange::fuzz::fuzz_connection),
    ("exchange_fastcgi", spandrel::exchange::fuzz::fuzz_fastcgi),
    ("exchange_http2", spandrel::exchange::fuzz::fuzz_http2),
    ("export_answer", spandrel::export::fuzz::fuzz_answer),
    ("export_settings", spandrel::export::fuzz::fuzz_settings),
    ("fastcgi_parser", spandrel::protocol::fastcgi::fuzz::fuzz_parser),
    ("go_functions", spandrel::discover::runtimes::go::table::fuzz_functions),
    ("http1_cuts", spandrel::protocol::http1::fuzz::fuzz_cuts),
    ("http1_parser", spandrel::protocol::http1::fuzz::fuzz_parser),
    ("http2_cuts", spandrel::protocol::http2::fuzz::fuzz_cuts),
    ("http2_hpack", spandrel::protocol::http2::fuzz::fuzz_hpack),
    ("http2_parser", spandrel::protocol::http2::fuzz::fuzz_parser),
    ("record", spandrel_proto::record::fuzz_decode),
    ("stitch", spandrel::stitch::fuzz::fuzz_stitcher),
    ("stitch_context", spandrel::stitch::context::fuzz::fuzz_context),
    ("stitch_http", spandrel::stitch::http::fuzz::fuzz_describe),
    ("stream", spandrel::stream::fuzz::fuzz_streams),
    ("terminal_escape", spandrel::export::terminal::fuzz::fuzz_escape),
    ("terminal_events", spandrel::export::terminal::fuzz::fuzz_terminal),
    ("tokio_code", spandrel::discover::runtimes::tokio::fuzz_code),
    ("tokio_memory", spandrel::discover::runtimes::tokio::fuzz_memory),
    ("tls_handshake", spandrel::tls::fuzz::fuzz_handshake),
    ("tls_layer", spandrel::tls::fuzz::fuzz_layer),
    ("tls_records", spandrel::tls::fuzz::fuzz_records),
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
