//! The first thing a newcomer does: an HTTP server, a `curl`, and one trace of both, on the terminal and in a file,
//! within two seconds. Nothing but the agent's output is asked.

use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use spandrel_tests::agent::{Agent, Options};
use spandrel_tests::apps;
use spandrel_tests::checks::{joined, machine, one};
use spandrel_tests::otlp::{Kind, SeenSpan};
use spandrel_tests::process::{Endpoint, PATIENCE, Scratch, Service, needed, output, until};

fn http_server(at: &Endpoint, scratch: &Scratch) -> Result<Service> {
    let mut command = Command::new(apps::python()?);
    command
        .args(["-m", "http.server", "--bind", "127.0.0.1", &at.port()?.to_string()])
        .current_dir(scratch.path());
    Service::listening("http.server", &mut command, scratch, at)
}

fn curl(at: &Endpoint, path: &str) -> Result<()> {
    let url = format!("http://{}{path}", at.target());
    output(Command::new(needed("curl")?).args(["--silent", "--fail", "--output", "/dev/null", &url]))
        .map(drop)
}

#[test]
fn curl_and_http_server_are_one_trace_within_two_seconds() -> Result<()> {
    let _machine = machine();
    let mut slow = Vec::new();
    while slow.len() < ATTEMPTS {
        match first_trace()? {
            took if took < Duration::from_secs(2) => return Ok(()),
            took => slow.push(took),
        }
    }
    bail!("it took {slow:?}")
}

/// All but the time must be right each time. The time is that of the best attempt: a busy machine delays one, a slow agent
/// every one.
const ATTEMPTS: usize = 5;

/// Until the line `ready`, or from the request to the trace on the terminal, whichever took longer.
fn first_trace() -> Result<Duration> {
    let scratch = Scratch::new("first")?;
    std::fs::write(scratch.join("hello"), "hello")?;
    let at = Endpoint::free()?;
    let _server = http_server(&at, &scratch)?;
    let agent = Agent::start(&Options::new(&scratch).arguments(["--export", "terminal"]))?;
    let start_up = agent.start_up;
    let began = Instant::now();
    curl(&at, "/hello")?;
    let both = |text: &str| text.lines().filter(|line| line.contains("/hello")).count() >= 2;
    until("the trace on the terminal", PATIENCE, || Ok(both(&agent.stdout())))?;
    let shown = began.elapsed();
    let in_file = |spans: &[_]| joined(spans, "/hello").is_ok();
    let spans = agent.spans_until("curl and server in the file", PATIENCE, in_file)?;
    let terminal = agent.stdout();

    let (client, server) = joined(&spans, "/hello")?;
    ensure!(client.parent.is_none(), "curl has a parent: {client:?}");
    ensure!(client.service() == "curl", "the client is called {:?}", client.service());
    ensure!(server.service() == "http.server", "the server is called {:?}", server.service());
    for span in [client, server] {
        ensure!(span.name == "GET", "a span is called {:?}", span.name);
        ensure!(span.attribute("http.request.method") == "GET", "{span:?}");
        ensure!(span.attribute("http.response.status_code") == "200", "{span:?}");
        ensure!(span.status == 0, "a success has status {}", span.status);
    }
    ensure!(server.attribute("url.scheme") == "http", "{server:?}");
    ensure!(server.attribute("user_agent.original").starts_with("curl/"), "{server:?}");
    ensure!(client.attribute("server.port") == at.port()?.to_string(), "{client:?}");

    let line = |word: &str| terminal.lines().position(|line| line.contains(word));
    let (first, second) = (line("curl"), line("http.server"));
    ensure!(first.is_some() && first < second, "the terminal does not show server below client:\n{terminal}");
    ensure!(terminal.contains("200") && terminal.contains("stream"), "no status or link method:\n{terminal}");
    ensure!(!terminal.contains('\x1b'), "colours in a pipe:\n{terminal}");
    agent.stop()?;
    Ok(shown.max(start_up))
}

#[test]
fn a_page_that_is_not_there_is_an_error_of_the_client_only() -> Result<()> {
    let _machine = machine();
    let scratch = Scratch::new("missing")?;
    let at = Endpoint::free()?;
    let _server = http_server(&at, &scratch)?;
    let agent = Agent::start(&Options::new(&scratch))?;
    let _ = curl(&at, "/not-there");
    // Not `joined`: with --fail curl hangs up at the status line, while the server is still writing.
    let both =
        |s: &[SeenSpan]| one(s, "/not-there", Kind::Client).and(one(s, "/not-there", Kind::Server)).is_ok();
    let spans = agent.spans_until("both spans", PATIENCE, both)?;
    let (client, server) =
        (one(&spans, "/not-there", Kind::Client)?, one(&spans, "/not-there", Kind::Server)?);
    ensure!(server.parent.as_deref() == Some(&client.id), "{server:?}");
    ensure!(client.status == 2 && client.attribute("error.type") == "404", "{client:?}");
    ensure!(server.status == 0 && server.attribute("http.response.status_code") == "404", "{server:?}");
    agent.stop().map(drop)
}

#[test]
fn a_redacted_query_keeps_its_keys_only() -> Result<()> {
    let _machine = machine();
    let scratch = Scratch::new("query")?;
    std::fs::write(scratch.join("hello"), "hello")?;
    let at = Endpoint::free()?;
    let _server = http_server(&at, &scratch)?;
    let agent = Agent::start(&Options::new(&scratch).arguments(["--export", "terminal"]))?;
    curl(&at, "/hello?card=4111111111111111&name=ann")?;
    agent.spans_until("both spans", PATIENCE, |s| joined(s, "/hello").is_ok())?;
    let outcome = agent.stop()?;
    let server = one(&outcome.spans, "/hello", Kind::Server)?;
    ensure!(server.attribute("url.query") == "card=REDACTED&name=REDACTED", "{server:?}");
    let everything = format!("{:?}{}{:?}", outcome.spans, outcome.stdout, outcome.stderr);
    ensure!(!everything.contains("4111111111111111"), "a query value is in the output");
    Ok(())
}
