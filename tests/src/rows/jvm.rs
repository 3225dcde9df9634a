//! The JVM: a thread for a request, a virtual thread for one, Tomcat's workers, and pools. What links a pool's work is where its task was
//! allocated: a habit, which has to be allowed, and which holds with collectors that stand still between two collections.
//!
//! No row may claim a pool's links without allowing them.

use super::Claim::OrphansNeverWrong;
use super::Program::{Jvm, Micronaut, Spring, Threaded};
use super::{Claim, INFERRED, PROVED, Program, Row, long, row};

/// All rows.
pub(super) const ROWS: &[Row] = &[
    row("jvm-thread", &[Jvm("thread"), Threaded], PROVED),
    // Needs a JDK of 21 or later.
    Row { warm_up: 100, ..long(row("jvm-virtual", &[Jvm("virtual"), Threaded], ORPHANS)) },
    pool("jvm-submit", &[Jvm("submit"), Threaded]),
    pool("jvm-get", &[Jvm("get"), Threaded]),
    pool("jvm-stages", &[Jvm("stages"), Threaded]),
    pool("jvm-scheduled", &[Jvm("scheduled"), Threaded]),
    pool("jvm-forkjoin", &[Jvm("forkjoin"), Threaded]),
    // Waits for one task and helps with others meanwhile: there the outermost task is not the one that calls.
    pool("jvm-joins", &[Jvm("joins"), Threaded]),
    pool("jvm-client", &[Jvm("client"), Threaded]),
    // Full collections, classes that are unloaded, code that is not valid any more, pools that end: for minutes.
    pool("jvm-churn", &[Jvm("churn"), Threaded]),
    // Spring Boot, each way with the client that its users mostly take.
    Row { warm_up: 200, ..long(row("spring-tomcat", &[Spring("tomcat"), Threaded], ORPHANS)) },
    pool("spring-async", &[Spring("async"), Threaded]),
    pool("spring-webflux", &[Spring("webflux"), Threaded]),
    // Netty in, a blocking executor, Netty out.
    pool("micronaut", &[Micronaut, Threaded]),
];

const ORPHANS: Claim = OrphansNeverWrong { service: 1 };

/// A row whose work is handed over.
const fn pool(name: &'static str, programs: &'static [Program]) -> Row {
    Row { warm_up: 200, environment: INFERRED, ..long(row(name, programs, ORPHANS)) }
}
