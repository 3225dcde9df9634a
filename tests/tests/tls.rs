//! Plaintext of TLS programs without a probe per request: each request of real clients and servers has its two spans,
//! joined by their connection; and no secret of theirs is in anything that the agent says.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Result, ensure};
use spandrel_tests::agent::{Agent, Options, Outcome};
use spandrel_tests::apps;
use spandrel_tests::checks::{joined, machine, nothing_wrong, scaled};
use spandrel_tests::process::{Endpoint, Scratch, Service, needed, output};

/// A self-signed certificate and its key.
fn certificate(scratch: &Scratch) -> Result<(PathBuf, PathBuf)> {
    let (certificate, key) = (scratch.join("certificate.pem"), scratch.join("key.pem"));
    let mut command = Command::new(needed("openssl")?);
    command.args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]);
    command.args(["-days", "2", "-subj", "/CN=localhost", "-keyout"]).arg(&key).arg("-out").arg(&certificate);
    output(&mut command)?;
    Ok((certificate, key))
}

fn python(arguments: &[&str]) -> Result<Command> {
    let mut command = Command::new(apps::python()?);
    command.arg(apps::source("tls_service.py")).args(arguments).env("PYTHONDONTWRITEBYTECODE", "1");
    Ok(command)
}

fn python_server(style: &str, version: &str, at: &Endpoint, scratch: &Scratch) -> Result<Service> {
    let (certificate, key) = certificate(scratch)?;
    let mut command = python(&[style, &at.port()?.to_string()])?;
    command.arg(certificate).arg(key).arg(version);
    Service::listening("tls_service.py", &mut command, scratch, at)
}

fn node(arguments: &[&str]) -> Result<Command> {
    let mut command = Command::new(needed("node")?);
    command.arg(apps::source("tls_service.js")).args(arguments);
    Ok(command)
}

fn nginx(at: &Endpoint, scratch: &Scratch) -> Result<Service> {
    let (certificate, key) = certificate(scratch)?;
    let configuration = scratch.join("nginx.conf");
    let folder = scratch.path().display();
    std::fs::write(
        &configuration,
        format!(
            "worker_processes 2; daemon off; pid {folder}/nginx.pid; error_log stderr;\n\
             events {{ worker_connections 512; }}\n\
             http {{ access_log off; client_body_temp_path {folder}/b; proxy_temp_path {folder}/p;\n\
             fastcgi_temp_path {folder}/f; uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s;\n\
             server {{ listen 127.0.0.1:{} ssl; ssl_certificate {}; ssl_certificate_key {};\n\
             ssl_protocols TLSv1.2 TLSv1.3; location / {{ return 200 \"{}\"; }} }} }}\n",
            at.port()?,
            certificate.display(),
            key.display(),
            "x".repeat(200)
        ),
    )?;
    let mut command = Command::new(needed("nginx")?);
    command.arg("-c").arg(&configuration).arg("-p").arg(scratch.path());
    Service::listening("nginx", &mut command, scratch, at)
}

/// All of these requests were seen at both ends, and joined; or, where a session of a program that has just begun may be
/// missed, at least so many percent, and every other one is of a session that is counted as having no key.
fn all_joined(outcome: &Outcome, prefix: &str, count: usize, version: &str, percent: usize) -> Result<()> {
    let mut missing = Vec::new();
    for number in 0..count {
        match joined(&outcome.spans, &format!("{prefix}-{number}")) {
            Ok((client, server)) => {
                ensure!(server.attribute("url.scheme") == "https", "{server:?}");
                ensure!(client.attribute("url.full").starts_with("https://"), "{client:?}");
                for span in [client, server] {
                    ensure!(span.attribute("tls.protocol.version") == version, "{span:?}");
                    ensure!(span.attribute("tls.cipher").starts_with("TLS_"), "{span:?}");
                }
            }
            Err(error) => missing.push(format!("{error:#}")),
        }
    }
    nothing_wrong(&outcome.spans, prefix)?;
    let keyless = outcome.counters.sum(&["spandrel_tls_unused_sessions_total", "keyless"]) as usize;
    let allowed = count - count * percent / 100;
    ensure!(
        missing.len() <= allowed && (missing.is_empty() || keyless > 0),
        "{} of {count} are not seen: {}\n{}",
        missing.len(),
        missing[..missing.len().min(3)].join("\n"),
        outcome.stderr.join("\n")
    );
    Ok(())
}

/// Runs a client against a server that is there already, the agent started between the two.
fn seen(
    prefix: &str,
    count: usize,
    version: &str,
    scratch: &Scratch,
    mut client: Command,
    percent: usize,
) -> Result<Outcome> {
    let agent = Agent::start(&Options::new(scratch))?;
    output(&mut client)?;
    agent.settle_for(2 * count, prefix)?;
    let outcome = agent.stop()?;
    all_joined(&outcome, prefix, count, version, percent)?;
    Ok(outcome)
}

fn between_pythons(server: &str, client: &str, version: &str) -> Result<()> {
    let _machine = machine();
    let scratch = Scratch::new("tls")?;
    let at = Endpoint::free()?;
    let _server = python_server(server, version, &at, &scratch)?;
    let (count, port) = (scaled(400, 10_000), at.port()?.to_string());
    let client = python(&[client, &port, "/tls", &count.to_string(), "50", "40"])?;
    seen("/tls", count, version, &scratch, client, 100).map(drop)
}

#[test]
fn threads_on_sockets_with_tls_1_3() -> Result<()> {
    between_pythons("threads", "client", "1.3")
}

#[test]
fn threads_on_sockets_with_tls_1_2() -> Result<()> {
    between_pythons("threads", "client", "1.2")
}

#[test]
fn an_event_loop_on_memory() -> Result<()> {
    between_pythons("asyncio", "asyncio-client", "1.3")
}

#[test]
fn node_with_openssl_linked_in() -> Result<()> {
    let _machine = machine();
    let scratch = Scratch::new("tls-node")?;
    let at = Endpoint::free()?;
    let (certificate, key) = certificate(&scratch)?;
    let (count, port) = (scaled(400, 10_000), at.port()?.to_string());
    let mut command = node(&["serve", &port])?;
    command.arg(certificate).arg(key);
    let _server = Service::listening("tls_service.js", &mut command, &scratch, &at)?;
    let client = node(&["client", &port, "/node", &count.to_string(), "20"])?;
    seen("/node", count, "1.3", &scratch, client, 100).map(drop)
}

#[test]
fn nginx_and_curls_that_live_for_one_request() -> Result<()> {
    let _machine = machine();
    let scratch = Scratch::new("tls-nginx")?;
    let at = Endpoint::free()?;
    let _server = nginx(&at, &scratch)?;
    let count = scaled(60, 1_000);
    let urls: String = (0..count)
        .map(|number| format!("curl -skf -o /dev/null https://{}/curl-{number}\n", at.target()))
        .collect();
    needed("curl")?;
    let mut client = Command::new("sh");
    client.arg("-ec").arg(urls);
    seen("/curl", count, "1.3", &scratch, client, 95).map(drop)
}

#[test]
fn go_with_its_own_tls() -> Result<()> {
    let _machine = machine();
    let scratch = Scratch::new("tls-go")?;
    let at = Endpoint::free()?;
    let program = apps::go_program("tls-go", "tls_go", &[])?;
    let (certificate, key) = certificate(&scratch)?;
    let (count, port) = (scaled(400, 10_000), at.port()?.to_string());
    let mut command = Command::new(&program);
    command.args(["serve", &port]).arg(certificate).arg(key);
    let _server = Service::listening("tls-go", &mut command, &scratch, &at)?;
    let mut client = Command::new(&program);
    client.args(["client", &port, "/go", &count.to_string(), "50", "40"]);
    seen("/go", count, "1.3", &scratch, client, 95).map(drop)
}

#[test]
fn sessions_that_are_older_than_the_agent() -> Result<()> {
    let _machine = machine();
    let scratch = Scratch::new("tls-late")?;
    let at = Endpoint::free()?;
    let _server = python_server("threads", "1.3", &at, &scratch)?;
    let (count, port) = (scaled(1_500, 6_000), at.port()?.to_string());
    // Ten connections that last as long as the client, which sends a request every few milliseconds.
    let mut command = python(&["slow-client", &port, "/late", &count.to_string(), "10", "1000000"])?;
    let mut client = Service::start("client", &mut command, &scratch)?;
    std::thread::sleep(std::time::Duration::from_secs(1));
    let agent = Agent::start(&Options::new(&scratch))?;
    let status = client.wait(std::time::Duration::from_secs(60))?;
    ensure!(status.success(), "{}", client.output());
    // How many had been sent by the time the agent was ready nobody knows; the last are certain.
    agent.settle(|spans| joined(spans, &format!("/late-{}", count - 1)).is_ok())?;
    let outcome = agent.stop()?;
    nothing_wrong(&outcome.spans, "/late")?;
    let late =
        (count * 3 / 4..count).filter(|number| joined(&outcome.spans, &format!("/late-{number}")).is_err());
    let missing = late.count();
    ensure!(missing == 0, "{missing} of the last {} are not seen\n{}", count / 4, outcome.stderr.join("\n"));
    Ok(())
}

#[test]
fn switched_off_nothing_of_tls_is_read() -> Result<()> {
    let _machine = machine();
    let scratch = Scratch::new("tls-off")?;
    let at = Endpoint::free()?;
    let _server = python_server("threads", "1.3", &at, &scratch)?;
    let agent = Agent::start(&Options::new(&scratch).arguments(["--tls", "off"]))?;
    output(&mut python(&["client", &at.port()?.to_string(), "/off", "20", "2", "5"])?)?;
    let outcome = agent.stop()?;
    ensure!(!outcome.spans.iter().any(|span| span.path().starts_with("/off")), "{:?}", outcome.spans);
    ensure!(outcome.counters.sum(&["spandrel_tls_found_secrets"]) == 0, "{:?}", outcome.counters);
    Ok(())
}

/// The secrets of a run, as the programs' own key log tells them.
fn key_log(path: &Path) -> Result<Vec<Vec<u8>>> {
    let text = std::fs::read_to_string(path)?;
    let digits = text.lines().filter(|line| !line.starts_with('#')).filter_map(|line| line.split(' ').nth(2));
    let secrets = digits.map(|digits| {
        let pairs = digits.as_bytes().chunks(2);
        pairs.map(|pair| Ok(u8::from_str_radix(std::str::from_utf8(pair)?, 16)?)).collect::<Result<Vec<u8>>>()
    });
    secrets.collect()
}

#[test]
fn no_secret_is_in_anything_that_the_agent_says_or_leaves() -> Result<()> {
    let _machine = machine();
    let scratch = Scratch::new("tls-secrets")?;
    let at = Endpoint::free()?;
    let _server = python_server("threads", "1.3", &at, &scratch)?;
    let log = scratch.join("keys");
    let arguments = ["--log", "trace", "--export", "terminal"];
    let agent = Agent::start(&Options::new(&scratch).arguments(arguments))?;
    let mut client = python(&["client", &at.port()?.to_string(), "/secret", "50", "5", "5"])?;
    output(client.env("SSLKEYLOGFILE", &log))?;
    agent.settle_for(100, "/secret")?;
    let limits = std::fs::read_to_string(format!("/proc/{}/limits", agent.pid()))?;
    let core = limits.lines().find(|line| line.starts_with("Max core file size")).unwrap_or_default();
    ensure!(core.split_whitespace().nth(4) == Some("0"), "a core could be written: {core:?}");
    let filter = std::fs::read_to_string(format!("/proc/{}/coredump_filter", agent.pid()))?;
    ensure!(filter.trim().chars().all(|digit| digit == '0'), "its memory would be in a core: {filter}");
    let outcome = agent.stop()?;
    all_joined(&outcome, "/secret", 50, "1.3", 100)?;
    let secrets = key_log(&log)?;
    ensure!(secrets.len() >= 40, "only {} secrets in the key log", secrets.len());
    let mut said = outcome.stderr.join("\n").into_bytes();
    said.extend(outcome.stdout.bytes());
    for entry in std::fs::read_dir(scratch.path())? {
        let path = entry?.path();
        if path != log && path.is_file() {
            said.extend(std::fs::read(path)?);
        }
    }
    for secret in &secrets {
        let hex: String = secret.iter().map(|byte| format!("{byte:02x}")).collect();
        let text = String::from_utf8_lossy(&said).to_lowercase();
        ensure!(!text.contains(&hex[..32]), "a secret is in what the agent said");
        ensure!(!said.windows(16).any(|bytes| bytes == &secret[..16]), "a secret is in a file");
    }
    Ok(())
}
