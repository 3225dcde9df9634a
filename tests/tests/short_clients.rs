//! Clients that live for milliseconds: each of a thousand `curl`s and of a thousand short Python scripts has its span,
//! under its right name, also from another pid and mount namespace.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use anyhow::{Result, ensure};
use spandrel_tests::agent::{Agent, Options};
use spandrel_tests::apps::{self, Wiring};
use spandrel_tests::checks::{joined, machine, scaled};
use spandrel_tests::process::{Endpoint, PATIENCE, Scratch, Service, needed, output};

/// Runs so many clients one after the other, and asks for each one's spans and name.
fn clients(
    prefix: &str,
    name: &str,
    isolated: bool,
    client: impl Fn(&str, &Path) -> Result<Command>,
) -> Result<()> {
    let _machine = machine();
    let scratch = Scratch::new("clients")?;
    let at = Endpoint::free()?;
    let _server = apps::python_service("threaded.py", &at, &Wiring::default(), &scratch)?;
    let agent = Agent::start(&Options::new(&scratch))?;
    let count = scaled(200, 1_000);
    for number in 0..count {
        let url = format!("http://{}/{prefix}-{number}", at.target());
        let inner = client(&url, scratch.path())?;
        let mut command = if isolated {
            let mut outer = Command::new(needed("unshare")?);
            outer
                .args(["--pid", "--mount", "--fork", "--mount-proc"])
                .arg(inner.get_program())
                .args(inner.get_args());
            outer
        } else {
            inner
        };
        output(&mut command)?;
    }
    agent.settle_for(2 * count, &format!("/{prefix}-"))?;
    let outcome = agent.stop()?;
    let mut names = BTreeMap::<String, usize>::new();
    let mut failures = Vec::new();
    for number in 0..count {
        match joined(&outcome.spans, &format!("/{prefix}-{number}")) {
            Ok((client, server)) => {
                *names.entry(client.service().to_owned()).or_default() += 1;
                if server.service() != "threaded" {
                    failures.push(format!("the server is called {:?}", server.service()));
                }
            }
            Err(error) => failures.push(format!("{error:#}")),
        }
    }
    ensure!(
        failures.is_empty(),
        "{} of {count}: {}",
        failures.len(),
        failures[..failures.len().min(5)].join("\n")
    );
    ensure!(
        names == BTreeMap::from([(name.to_owned(), count)]),
        "the clients are called {names:?}, not all {name:?}"
    );
    Ok(())
}

fn curl(url: &str, _: &Path) -> Result<Command> {
    let mut command = Command::new(needed("curl")?);
    command.args(["--silent", "--fail", "--output", "/dev/null", url]);
    Ok(command)
}

fn script(url: &str, folder: &Path) -> Result<Command> {
    let path = folder.join("script.py");
    std::fs::write(&path, "import sys, urllib.request\nurllib.request.urlopen(sys.argv[1]).read()\n")?;
    let mut command = Command::new(apps::python()?);
    command.arg(&path).arg(url);
    Ok(command)
}

#[test]
fn every_curl_of_many_has_its_span_and_its_name() -> Result<()> {
    clients("curl", "curl", false, curl)
}

#[test]
fn every_curl_in_namespaces_of_its_own_has_its_span_and_its_name() -> Result<()> {
    clients("curl-ns", "curl", true, curl)
}

#[test]
fn every_short_script_has_its_span_and_its_name() -> Result<()> {
    clients("script", "script", false, script)
}

#[test]
fn every_short_script_in_namespaces_of_its_own_has_its_span_and_its_name() -> Result<()> {
    clients("script-ns", "script", true, script)
}

#[test]
fn a_target_names_itself_by_its_environment() -> Result<()> {
    let _machine = machine();
    let scratch = Scratch::new("names")?;
    let at = Endpoint::free()?;
    let _server = apps::python_service("threaded.py", &at, &Wiring::default(), &scratch)?;
    let agent = Agent::start(&Options::new(&scratch))?;
    let cases = [
        ("a", vec![("OTEL_SERVICE_NAME", "checkout")], "checkout"),
        ("b", vec![("OTEL_RESOURCE_ATTRIBUTES", "service.name=cart,service.version=7")], "cart"),
        (
            "c",
            vec![("OTEL_SERVICE_NAME", "first"), ("OTEL_RESOURCE_ATTRIBUTES", "service.name=second")],
            "first",
        ),
    ];
    for (path, environment, _) in &cases {
        // Its environment is not in any record, so it stays until it has been looked at.
        let text = "import os, sys, time, urllib.request\nurllib.request.urlopen(sys.argv[1]).read()\n\
                    while not os.path.exists(sys.argv[2]): time.sleep(0.01)\n";
        let file = scratch.join("script.py");
        std::fs::write(&file, text)?;
        let (url, go) = (format!("http://{}/name-{path}", at.target()), scratch.join(&format!("go-{path}")));
        let mut command = Command::new(apps::python()?);
        command.arg(&file).arg(url).arg(&go).envs(environment.iter().copied());
        let mut script = Service::start("script", &mut command, &scratch)?;
        agent.settle_for(2, &format!("/name-{path}"))?;
        std::fs::write(&go, "")?;
        ensure!(script.wait(PATIENCE)?.success(), "{}", script.output());
    }
    let outcome = agent.stop()?;
    for (path, _, want) in &cases {
        let (client, _) = joined(&outcome.spans, &format!("/name-{path}"))?;
        ensure!(client.service() == *want, "{} instead of {want}", client.service());
    }
    let (client, _) = joined(&outcome.spans, "/name-b")?;
    ensure!(client.resource.get("service.version").map(String::as_str) == Some("7"), "{:?}", client.resource);
    Ok(())
}
