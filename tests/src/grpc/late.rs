//! Connections that are warm when the agent comes: what share of their calls has its name and status, and whether any has another's.
//!
//! Several client processes may share a server, each with several connections; those of a process make the same calls, and each
//! process makes them in an order of its own, so that no two processes' header tables are alike and a name out of another's table
//! shows. It must never count a call that the client made before the agent was there.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::grpc::calls::{self, Call};
use crate::grpc::judge;
use crate::grpc::peers::{Load, Peer};
use crate::grpc::rows::{CLIENT, How, Report, cpu, repeated};
use crate::process::{Endpoint, Scratch, until};

/// What is joined.
#[derive(Clone, Copy, Debug)]
pub struct Late {
    /// Who calls.
    pub client: Peer,
    /// Who answers.
    pub server: Peer,
    /// How many methods are called in turn.
    pub methods: usize,
    /// Calls of each connection before the agent comes.
    pub before: usize,
    /// Calls of each connection with it.
    pub calls: usize,
    /// Client processes.
    pub clients: usize,
    /// Connections of each of them.
    pub connections: usize,
    /// Each call has a random `x-request-id`.
    pub random: bool,
}

impl Late {
    /// The calls of a client process: the methods in an order of its own.
    fn calls_of(&self, client: usize) -> Vec<Call> {
        let mut calls = repeated(self.before + self.calls, self.methods);
        let other = repeated(self.methods, self.methods);
        for (index, call) in calls.iter_mut().enumerate() {
            // A prime further for each process, and every second one backwards.
            let step = if client.is_multiple_of(2) { index } else { self.methods - 1 - index % self.methods };
            let method = (step + 7 * client) % self.methods;
            call.path.clone_from(&other[method].path);
            if self.random {
                call.options = "r=1".into();
            }
        }
        calls
    }
}

/// Warms connections up, starts the agent, makes the other calls and judges them.
pub fn run(late: &Late, how: &How) -> Result<Report> {
    let scratch = Scratch::new("grpc-late")?;
    let at = Endpoint::free()?;
    let path = |name: &str, client: usize| -> PathBuf { scratch.join(&format!("{name}{client}")) };
    let mut all = Vec::new();
    for client in 0..late.clients {
        let calls = late.calls_of(client);
        calls::write(&calls, Some((late.before, &path("gate", client))), &path("calls", client))?;
        all.extend(calls);
    }
    let _server = late.server.server(&at, &path("calls", 0), &scratch)?;
    let mut clients = Vec::new();
    for client in 0..late.clients {
        let (calls, log) = (path("calls", client), path("log", client));
        let load =
            Load { calls: &calls, log: &log, concurrency: 1, connections: late.connections, made: None };
        clients.push(late.client.client(&at, &load, &scratch)?);
    }
    for (number, client) in clients.iter_mut().enumerate() {
        let reached = scratch.join(&format!("gate{number}.reached"));
        until("the clients have made their first calls", CLIENT, || {
            ensure!(client.exited()?.is_none(), "a client ended: {}", client.output());
            Ok(reached.exists())
        })?;
    }
    let agent = how.agent(&scratch)?;
    // As after any start: what is under way is met by its next bytes.
    std::thread::sleep(Duration::from_millis(100));
    let began = std::time::Instant::now();
    for client in 0..late.clients {
        std::fs::write(path("gate", client), "").context("opening the gate")?;
    }
    let (each, mut seen) = (late.before + late.calls, Vec::new());
    for (number, client) in clients.iter_mut().enumerate() {
        let status = client.wait(CLIENT)?;
        ensure!(status.success(), "a client ended with {status}: {}", client.output());
        let mut logged = calls::log(&path("log", number), Some(late.before))?;
        let made = logged.len();
        ensure!(made == each * late.connections, "a client made {made} of {} calls", each * late.connections);
        logged.retain(|log| log.index >= late.before);
        for log in &mut logged {
            log.index += number * each;
            log.connection += number * late.connections;
        }
        seen.extend(logged);
    }
    let elapsed = began.elapsed();
    let Some(agent) = agent else {
        return Ok(Report {
            verdict: judge::Verdict::default(),
            outcome: None,
            elapsed,
            cpu: Duration::ZERO,
        });
    };
    let cpu = cpu(agent.pid())?;
    let outcome = agent.stop()?;
    let verdict = judge::judge_serial(&all, &seen, &outcome.spans);
    Ok(Report { verdict, outcome: Some(outcome), elapsed, cpu })
}
