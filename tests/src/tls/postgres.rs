//! PostgreSQL over TLS, which is no HTTP: its client's queries must go on right, and the agent must have nothing to say of them.
//!
//! A server of its own under a temporary folder, as the user that the package made; `psql` with libpq is the client.

use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use nix::unistd::{User, chown};

use super::Certificate;
use crate::agent::{Agent, Options};
use crate::process::{Endpoint, Scratch, Service, needed, output};

/// What became of the queries of one client.
#[derive(Debug)]
pub struct Postgres {
    /// Queries, over one connection.
    pub sent: usize,
    /// Those whose answer is right.
    pub right: usize,
    /// What the server says of the connection.
    pub version: String,
    /// Sessions whose keys the agent had.
    pub opened: u64,
    /// Spans of either program.
    pub spans: usize,
}

/// So many queries by `psql`, both ends traced.
pub fn run(queries: usize, options: &[String]) -> Result<Postgres> {
    let user = User::from_name("postgres").context("looking for a user")?;
    let user = user.context("there is no user postgres: install the package postgresql")?;
    let scratch = Scratch::new("tls-postgres")?;
    let made = Certificate::new(&scratch)?;
    let (data, bin) = (scratch.join("data"), programs()?);
    std::fs::create_dir(&data).context("creating the data folder")?;
    for path in [scratch.path(), &data, &made.certificate, &made.key] {
        chown(path, Some(user.uid), Some(user.gid))
            .with_context(|| format!("giving {} away", path.display()))?;
    }
    let as_user = |program: &str| {
        let mut command = Command::new(bin.join(program));
        command.uid(user.uid.as_raw()).gid(user.gid.as_raw()).current_dir(scratch.path()).env_clear();
        command
    };
    let mut initdb = as_user("initdb");
    output(initdb.args(["-A", "trust", "-U", "postgres", "--no-sync", "-D"]).arg(&data))?;
    let at = Endpoint::free()?;
    let port = at.port()?.to_string();
    let mut server = as_user("postgres");
    server.arg("-D").arg(&data).args(["-p", &port, "-c", "listen_addresses=127.0.0.1", "-c", "ssl=on"]);
    for (name, value) in [
        ("unix_socket_directories", scratch.path()),
        ("ssl_cert_file", &made.certificate),
        ("ssl_key_file", &made.key),
    ] {
        server.arg("-c").arg(format!("{name}={}", value.display()));
    }
    let _server = Service::listening("postgres", &mut server, &scratch, &at)?;
    let agent = Agent::start(&Options::new(&scratch).arguments(options.to_vec()))?;
    let mut script = String::from("SELECT version FROM pg_stat_ssl WHERE pid = pg_backend_pid();\n");
    // Some look like requests of HTTP to whoever reads too fast.
    let text = |number: usize| format!("GET /{number} HTTP/1.1 {}", "x".repeat(number * 7 % 500));
    for number in 0..queries {
        script += &format!("SELECT '{}';\n", text(number));
    }
    let file = scratch.join("queries.sql");
    std::fs::write(&file, script).context("writing the queries")?;
    let mut psql = Command::new(needed("psql")?);
    psql.args(["-qAtX", "-h", "127.0.0.1", "-p", &port, "-U", "postgres", "-d", "postgres", "-f"]).arg(&file);
    let answers = output(psql.env("PGSSLMODE", "require"))?;
    let mut lines = answers.lines();
    let version = lines.next().unwrap_or_default().to_owned();
    let right = lines.zip(0..queries).filter(|(line, number)| *line == text(*number)).count();
    ensure!(version.starts_with("TLS"), "the server says that the connection is {version:?}");
    let outcome = agent.stop()?;
    let is_theirs = |service: &str| ["postgres", "psql", "15/main"].iter().any(|name| service.contains(name));
    Ok(Postgres {
        sent: queries,
        right,
        version,
        opened: outcome.counters.sum(&["spandrel_tls_opened_sessions_total"]),
        spans: outcome.spans.iter().filter(|span| is_theirs(span.service())).count(),
    })
}

/// Where the newest version's programs are.
fn programs() -> Result<PathBuf> {
    let root = Path::new("/usr/lib/postgresql");
    let mut versions: Vec<PathBuf> = std::fs::read_dir(root)
        .with_context(|| format!("{} is not there: install the package postgresql", root.display()))?
        .filter_map(|entry| Some(entry.ok()?.path().join("bin")))
        .filter(|path| path.join("initdb").is_file())
        .collect();
    versions.sort();
    versions.pop().context("there is no initdb: install the package postgresql")
}
