//! Rows of nginx in the ways that it forwards, of tokio in the ways that a handler makes calls, and of chains through
//! one runtime after the other.

use super::Program::{Clock, Go, Jvm, Nginx, NginxAs, Node, Python, Threaded, Tokio};
use super::{Claim, Program, Row, UNBOUNDED_INFERRED, long, row};
use crate::apps::tokio::{Build, Service};

/// The request that an upstream connection works for, or the task that waits for the reply, is the parent. A process
/// that serves its first request in the middle of a row is not known yet.
const PROVED: Claim = Claim::Complete(99.5);
/// Tasks that the handler spawned: of those that nobody awaits the parent is not known yet.
const SPAWNED: Claim = Claim::OrphansNeverWrong { service: 1 };

/// The rows.
pub(super) const ROWS: &[Row] = &[
    nginx("nginx-fresh", &[NginxAs("fresh"), Threaded]),
    nginx("nginx-unbuffered", &[NginxAs("unbuffered"), Threaded]),
    long(nginx("nginx-limit-rate", &[NginxAs("limit_rate"), Threaded])),
    nginx("nginx-auth", &[NginxAs("auth"), Threaded]),
    nginx("nginx-mirror", &[NginxAs("mirror"), Threaded]),
    long(nginx("nginx-subrequest", &[NginxAs("subrequest"), Threaded])),
    Row { posts: true, ..nginx("nginx-post", &[NginxAs("keepalive"), Threaded]) },
    Row { posts: true, long: true, ..nginx("nginx-post-unbuffered", &[NginxAs("unbuffered"), Threaded]) },
    tokio("tokio-inline", &[stripped("inline"), Threaded]),
    Row { timer: 1, ..tokio("tokio-timer", &[stripped("inline"), Threaded]) },
    long(tokio("tokio-join", &[stripped("join"), Threaded])),
    spawned(tokio("tokio-spawn", &[stripped("spawn"), Threaded])),
    spawned(tokio("tokio-detached", &[stripped("detached"), Threaded])),
    tokio("tokio-unordered", &[stripped("unordered"), Threaded]),
    long(spawned(tokio("tokio-joinset", &[stripped("joinset"), Threaded]))),
    long(tokio("tokio-select", &[stripped("select"), Threaded])),
    tokio("tokio-direct", &[stripped("direct"), Threaded]),
    Row { gives_up: true, ..tokio("tokio-cancel", &[stripped("cancel"), Threaded]) },
    tokio("tokio-current", &[ONE_THREAD, Threaded]),
    // A task that the first request starts, and that calls for all later ones too.
    long(spawned(tokio("tokio-lazy", &[stripped("lazy"), Threaded]))),
    // Other builds take minutes to make, and differ in where things are only.
    long(tokio("tokio-symbols", &[with_symbols("inline"), Threaded])),
    long(spawned(tokio("tokio-symbols-spawn", &[with_symbols("spawn"), Threaded]))),
    long(spawned(tokio("tokio-symbols-detached", &[with_symbols("detached"), Threaded]))),
    long(tokio("tokio-static", &[fixed("inline"), Threaded])),
    long(spawned(tokio("tokio-static-spawn", &[fixed("spawn"), Threaded]))),
    long(tokio("tokio-musl", &[MUSL, Threaded])),
    chain("chain", &[Nginx, Go, UVICORN, stripped("inline"), Threaded]),
    // Five runtimes. Node's promises are followed only where links by descent are allowed.
    Row {
        warm_up: 400,
        attached: "node event loop is watched|node promises is watched",
        environment: UNBOUNDED_INFERRED,
        claim: Claim::Complete(99.0),
        ..chain("chain-six", &[Jvm("thread"), Node, Go, UVICORN, stripped("inline"), Nginx, Threaded])
    },
    // Each service in namespaces of its own, the Go and the Rust program in a file system that only they have.
    Row { apart: true, ..chain("chain-apart", &[Nginx, Go, UVICORN, stripped("inline"), Threaded]) },
    chain("chain-reverse", &[Threaded, stripped("inline"), UVICORN, Go, Nginx, Clock]),
];

/// Linked with musl.
const MUSL: Program = Tokio(Service { style: "inline", build: Build::Musl, one_thread: false });
/// Under uvicorn, calls made by the task that answers.
const UVICORN: Program =
    Python { script: "async_service.py", arguments: &["server=uvicorn", "style=inline"] };

const fn nginx(name: &'static str, programs: &'static [Program]) -> Row {
    Row { warm_up: 200, attached: "watched descriptors are connections", ..row(name, programs, PROVED) }
}

const fn tokio(name: &'static str, programs: &'static [Program]) -> Row {
    Row { warm_up: 200, attached: "the current task is at", ..row(name, programs, PROVED) }
}

const fn spawned(row: Row) -> Row {
    Row { claim: SPAWNED, ..row }
}

const fn chain(name: &'static str, programs: &'static [Program]) -> Row {
    Row { warm_up: 200, long: true, ..row(name, programs, PROVED) }
}

const ONE_THREAD: Program = Tokio(Service { style: "inline", build: Build::Stripped, one_thread: true });

const fn with_symbols(style: &'static str) -> Program {
    Tokio(Service { style, build: Build::Symbols, one_thread: false })
}

const fn stripped(style: &'static str) -> Program {
    Tokio(Service { style, build: Build::Stripped, one_thread: false })
}

const fn fixed(style: &'static str) -> Program {
    Tokio(Service { style, build: Build::Static, one_thread: false })
}
