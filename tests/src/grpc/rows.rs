//! The table of HTTP/2 and gRPC: what is sent between which peers, and what each row claims.
//!
//! Every row starts the server, the agent and the client, ends the agent and judges; a late join (`late`) starts the client
//! first. None claims less than *nothing wrong*.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::agent::{Agent, Options, Outcome};
use crate::grpc::calls::{self, Call, Ends, Kind};
use crate::grpc::judge::{self, Verdict};
use crate::grpc::peers::{Load, Peer};
use crate::process::{Endpoint, Scratch};
use crate::tls::Certificate;

/// How a row is run.
#[derive(Clone, Debug)]
pub struct How {
    /// `auto`, `socket`, `syscall`.
    pub backend: String,
    /// More arguments for the agent.
    pub arguments: Vec<String>,
    /// More environment for the agent.
    pub environment: Vec<(String, String)>,
    /// Start no agent: only whether the programs work.
    pub dry: bool,
    /// The rows of [`run`] speak TLS.
    pub tls: bool,
}

impl How {
    /// The agent's options.
    pub(crate) fn options<'a>(&'a self, scratch: &'a Scratch) -> Options<'a> {
        let mut options = Options::new(scratch).backend(&self.backend).arguments(self.arguments.clone());
        options.environment.extend(self.environment.iter().cloned());
        options
    }

    /// The agent, unless none is wanted.
    pub(crate) fn agent(&self, scratch: &Scratch) -> Result<Option<Agent>> {
        if self.dry { Ok(None) } else { Agent::start(&self.options(scratch)).map(Some) }
    }
}

impl Default for How {
    fn default() -> Self {
        Self {
            backend: "auto".into(),
            arguments: Vec::new(),
            environment: Vec::new(),
            dry: false,
            tls: false,
        }
    }
}

/// What a row gave.
#[derive(Debug)]
pub struct Report {
    /// By the judge.
    pub verdict: Verdict,
    /// The agent's end; none in a dry run.
    pub outcome: Option<Outcome>,
    /// From the first call to the last.
    pub elapsed: Duration,
    /// CPU that the agent used since it was ready.
    pub cpu: Duration,
}

/// A token that nobody else has.
pub(crate) fn token() -> String {
    format!("{:012x}", rand::random::<u64>() >> 16)
}

/// Every kind of call, `times` times: unary and streaming, failing, long heads, deadline, cancelled.
pub fn every_kind(times: usize) -> Vec<Call> {
    let mut all = Vec::new();
    for _ in 0..times {
        let name = |kind: &str| format!("{kind}{}", token());
        all.push(Call::unary(&name("Plain"), "d=3", ""));
        all.push(Call::unary(&name("Fails"), "d=1 s=5", "r=1"));
        all.push(Call::unary(&name("Denied"), "s=7", ""));
        all.push(Call::unary(&name("Slow"), "d=60", "r=1"));
        all.push(Call::unary(&name("Binary"), "d=1", "b=1"));
        // 40 KB of metadata each way: CONTINUATION.
        all.push(Call::unary(&name("Heads"), "h=100x400", "m=100x400 b=1"));
        all.push(Call::unary(&name("Bulk"), "z=200000", "z=200000"));
        all.push(Call::streaming(&name("Server"), Kind::Server, "n=20 i=5 z=100", ""));
        all.push(Call::streaming(&name("ServerBurst"), Kind::Server, "n=200 z=100", ""));
        all.push(Call::streaming(&name("ServerFails"), Kind::Server, "n=3 s=9", ""));
        all.push(Call::streaming(&name("Client"), Kind::Client, "z=10", "n=5 i=2"));
        all.push(Call::streaming(&name("Both"), Kind::Both, "z=30000", "n=6 i=3 z=30000"));
        all.push(Call::unary(&name("Deadline"), "d=400", "").ended_by(Ends::Deadline, 150));
        all.push(Call::unary(&name("Cancelled"), "d=400", "").ended_by(Ends::Cancelled, 100));
        all.push(
            Call::streaming(&name("ServerCancelled"), Kind::Server, "n=100 i=20", "")
                .ended_by(Ends::Cancelled, 100),
        );
    }
    all
}

/// So many unary calls, each with a method of its own, one in twenty failing.
pub fn unary(count: usize, random_metadata: bool) -> Vec<Call> {
    (0..count)
        .map(|number| {
            let body = if number % 20 == 7 { "d=1 s=5" } else { "d=1" };
            Call::unary(&format!("M{}", token()), body, if random_metadata { "r=1" } else { "" })
        })
        .collect()
}

/// So many unary calls of so many methods in turn, one in twenty failing.
pub fn repeated(count: usize, methods: usize) -> Vec<Call> {
    (0..count)
        .map(|number| {
            let body = if number % 20 == 7 { "d=1 s=5" } else { "d=1" };
            Call::unary(&format!("Method{}", number % methods.max(1)), body, "")
        })
        .collect()
}

/// A row of calls between two peers.
#[derive(Clone, Debug)]
pub struct Row {
    /// Who calls.
    pub client: Peer,
    /// Who answers.
    pub server: Peer,
    /// What.
    pub calls: Vec<Call>,
    /// At once on a connection.
    pub concurrency: usize,
    /// Connections that all make all calls.
    pub connections: usize,
}

/// Runs a row.
pub fn run(row: &Row, how: &How) -> Result<Report> {
    let scratch = Scratch::new("grpc")?;
    let (file, log) = (scratch.join("calls.tsv"), scratch.join("log.tsv"));
    calls::write(&row.calls, None, &file)?;
    let at = Endpoint::free()?;
    let made = if how.tls { Some(Certificate::new(&scratch)?) } else { None };
    let _server = match &made {
        Some(made) => row.server.secure_server(made, &at, &file, &scratch)?,
        None => row.server.server(&at, &file, &scratch)?,
    };
    let load = Load {
        calls: &file,
        log: &log,
        concurrency: row.concurrency,
        connections: row.connections,
        made: made.as_ref(),
    };
    let agent = how.agent(&scratch)?;
    let mut client = row.client.client(&at, &load, &scratch)?;
    let ready = agent.as_ref().map(|agent| cpu(agent.pid())).transpose()?.unwrap_or_default();
    let began = Instant::now();
    let status = client.wait(CLIENT)?;
    let elapsed = began.elapsed();
    ensure!(status.success(), "the client ended with {status}: {}", client.output());
    let seen = calls::log(&log, None)?;
    ensure!(
        seen.len() == row.calls.len() * row.connections,
        "the client made {} of {} calls: {}",
        seen.len(),
        row.calls.len() * row.connections,
        client.output()
    );
    // Cancelled calls: the server's own end comes when its timer is over.
    std::thread::sleep(Duration::from_millis(700));
    let Some(agent) = agent else {
        return Ok(Report { verdict: Verdict::default(), outcome: None, elapsed, cpu: Duration::ZERO });
    };
    let cpu = cpu(agent.pid())?.saturating_sub(ready);
    let outcome = agent.stop()?;
    let verdict = judge::judge(&row.calls, &seen, &outcome.spans);
    Ok(Report { verdict, outcome: Some(outcome), elapsed, cpu })
}

/// User and system time of a process (`proc_pid_stat(5)`, fields 14 and 15).
pub fn cpu(pid: u32) -> Result<Duration> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).context("reading the agent's stat")?;
    let rest = text.rsplit_once(')').map_or("", |(_, rest)| rest);
    let fields: Vec<u64> = rest.split_whitespace().map(|word| word.parse().unwrap_or(0)).collect();
    let ticks = fields.get(11).unwrap_or(&0) + fields.get(12).unwrap_or(&0);
    Ok(Duration::from_millis(ticks * 10))
}

/// How long a client may take.
pub(crate) const CLIENT: Duration = Duration::from_secs(150);
