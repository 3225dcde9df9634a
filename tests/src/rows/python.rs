//! Python in the ways it is served and calls out: one row for each pair that goes its own way inside.
//!
//! A row whose calls carry nothing that proves their request (a bare executor, a queue) claims orphans and *wrong 0*,
//! and that for good.

use super::Claim::OrphansNeverWrong;
use super::Program::{GunicornOf, Python, Threaded};
use super::{Program, Row, long, row};

const fn asyncio(arguments: &'static [&'static str]) -> Program {
    Python { script: "async_service.py", arguments }
}

const ORPHANS: super::Claim = OrphansNeverWrong { service: 1 };

/// The call is made by the task that answers. The first requests meet a process that is not known yet.
const fn inline(name: &'static str, programs: &'static [Program]) -> Row {
    Row { warm_up: 30, attached: "python of process", ..row(name, programs, super::PROVED) }
}

/// The call is made by a task, or in a thread, that the answering one made. Its maker is not watched yet.
const fn below(name: &'static str, programs: &'static [Program]) -> Row {
    row(name, programs, ORPHANS)
}

/// The call is made by somebody who was handed a job and nothing else.
const fn handed(name: &'static str, programs: &'static [Program]) -> Row {
    row(name, programs, ORPHANS)
}

/// The call is made by a task, or in a thread, that the answering one made, and habits are believed: who made a context is
/// watched once an orphan has shown that it is needed.
const fn inferred(name: &'static str, programs: &'static [Program]) -> Row {
    Row {
        warm_up: 200,
        attached: "python of process|python contexts is watched",
        environment: &[
            ("SPANDREL_LOG", "info"),
            ("SPANDREL_WEAKEST_LINK", "inferred"),
            (super::PROBE_HITS, "0"),
        ],
        ..row(name, programs, super::PROVED)
    }
}

const fn timed(row: Row) -> Row {
    Row { timer: 1, ..row }
}

/// All rows.
pub(super) const ROWS: &[Row] = &[
    timed(inline("py-streams", &[asyncio(&["server=streams", "style=inline"]), Threaded])),
    timed(below("py-streams-gather", &[asyncio(&["server=streams", "style=gather"]), Threaded])),
    long(below("py-streams-tasks", &[asyncio(&["server=streams", "style=tasks"]), Threaded])),
    long(below("py-streams-thread", &[asyncio(&["server=streams", "style=thread"]), Threaded])),
    below("py-streams-late", &[asyncio(&["server=streams", "style=late"]), Threaded]),
    timed(handed("py-streams-executor", &[asyncio(&["server=streams", "style=executor"]), Threaded])),
    handed("py-streams-shared", &[asyncio(&["server=streams", "style=shared"]), Threaded]),
    long(inline("py-uvloop", &[asyncio(&["server=uvloop", "style=inline"]), Threaded])),
    long(below("py-uvloop-gather", &[asyncio(&["server=uvloop", "style=gather"]), Threaded])),
    long(below("py-uvloop-late", &[asyncio(&["server=uvloop", "style=late"]), Threaded])),
    inline("py-aiohttp", &[asyncio(&["server=aiohttp", "style=inline"]), Threaded]),
    long(below("py-aiohttp-gather", &[asyncio(&["server=aiohttp", "style=gather"]), Threaded])),
    below("py-aiohttp-tasks", &[asyncio(&["server=aiohttp", "style=tasks"]), Threaded]),
    long(below("py-aiohttp-thread", &[asyncio(&["server=aiohttp", "style=thread"]), Threaded])),
    long(handed("py-aiohttp-executor", &[asyncio(&["server=aiohttp", "style=executor"]), Threaded])),
    long(inline("py-uvicorn", &[asyncio(&["server=uvicorn", "style=inline"]), Threaded])),
    long(below("py-uvicorn-gather", &[asyncio(&["server=uvicorn", "style=gather"]), Threaded])),
    long(below("py-uvicorn-tasks", &[asyncio(&["server=uvicorn", "style=tasks"]), Threaded])),
    long(below("py-uvicorn-thread", &[asyncio(&["server=uvicorn", "style=thread"]), Threaded])),
    long(handed("py-uvicorn-executor", &[asyncio(&["server=uvicorn", "style=executor"]), Threaded])),
    timed(inline("py-uvicorn-uvloop", &[asyncio(&["server=uvicorn-uvloop", "style=inline"]), Threaded])),
    below("py-uvicorn-uvloop-gather", &[asyncio(&["server=uvicorn-uvloop", "style=gather"]), Threaded]),
    long(below("py-uvicorn-uvloop-tasks", &[asyncio(&["server=uvicorn-uvloop", "style=tasks"]), Threaded])),
    below("py-uvicorn-uvloop-thread", &[asyncio(&["server=uvicorn-uvloop", "style=thread"]), Threaded]),
    long(inline("py-fastapi", &[asyncio(&["server=fastapi", "style=inline"]), Threaded])),
    below("py-fastapi-sync", &[asyncio(&["server=fastapi-sync"]), Threaded]),
    timed(inline("py-trio", &[Python { script: "trio_service.py", arguments: &["style=inline"] }, Threaded])),
    long(below(
        "py-trio-gather",
        &[Python { script: "trio_service.py", arguments: &["style=gather"] }, Threaded],
    )),
    long(below(
        "py-trio-thread",
        &[Python { script: "trio_service.py", arguments: &["style=thread"] }, Threaded],
    )),
    timed(inline(
        "py-gevent",
        &[Python { script: "gevent_service.py", arguments: &["style=inline"] }, Threaded],
    )),
    long(below(
        "py-gevent-gather",
        &[Python { script: "gevent_service.py", arguments: &["style=gather"] }, Threaded],
    )),
    // The same with habits believed.
    timed(inferred("py-streams-gather-inferred", &[asyncio(&["server=streams", "style=gather"]), Threaded])),
    inferred(
        "py-uvicorn-uvloop-thread-inferred",
        &[asyncio(&["server=uvicorn-uvloop", "style=thread"]), Threaded],
    ),
    long(inferred("py-streams-tasks-inferred", &[asyncio(&["server=streams", "style=tasks"]), Threaded])),
    long(inferred("py-streams-thread-inferred", &[asyncio(&["server=streams", "style=thread"]), Threaded])),
    long(inferred("py-streams-late-inferred", &[asyncio(&["server=streams", "style=late"]), Threaded])),
    long(inferred("py-uvloop-gather-inferred", &[asyncio(&["server=uvloop", "style=gather"]), Threaded])),
    long(inferred("py-aiohttp-gather-inferred", &[asyncio(&["server=aiohttp", "style=gather"]), Threaded])),
    long(inferred("py-aiohttp-tasks-inferred", &[asyncio(&["server=aiohttp", "style=tasks"]), Threaded])),
    long(inferred("py-uvicorn-gather-inferred", &[asyncio(&["server=uvicorn", "style=gather"]), Threaded])),
    long(inferred(
        "py-uvicorn-uvloop-gather-inferred",
        &[asyncio(&["server=uvicorn-uvloop", "style=gather"]), Threaded],
    )),
    long(inferred("py-fastapi-sync-inferred", &[asyncio(&["server=fastapi-sync"]), Threaded])),
    long(inferred(
        "py-trio-gather-inferred",
        &[Python { script: "trio_service.py", arguments: &["style=gather"] }, Threaded],
    )),
    long(inferred(
        "py-trio-thread-inferred",
        &[Python { script: "trio_service.py", arguments: &["style=thread"] }, Threaded],
    )),
    row("py-gunicorn-threads", &[GunicornOf("gthread"), Threaded], super::PROVED),
    long(inline("py-gunicorn-gevent", &[GunicornOf("gevent"), Threaded])),
    timed(handed(
        "py-pool-executor",
        &[Python { script: "pooled.py", arguments: &["style=executor"] }, Threaded],
    )),
    long(handed("py-pool-queue", &[Python { script: "pooled.py", arguments: &["style=queue"] }, Threaded])),
];
