//! Services in frameworks: what their users write, with the client that they mostly take. Packages are installed under
//! `target/` on first use, by npm and Maven, and only for the rows that need them: `cargo xtask test` does not come here.

use std::process::Command;

use anyhow::{Context, Result};

use super::{Wiring, built, chosen, listen, npm_packages, source, workspace};
use crate::process::{Endpoint, Scratch, Service, needed, output};

/// A service in one of Node's frameworks.
pub fn node(framework: &str, at: &Endpoint, wiring: &Wiring, scratch: &Scratch) -> Result<Service> {
    let modules =
        npm_packages("frameworks-node", &source("frameworks/node/package.json"))?.join("node_modules");
    let mut command = Command::new(chosen(wiring.runtimes.node.as_ref(), "node")?);
    command.arg(source("frameworks/node/service.js")).arg(listen(at)).args(wiring.arguments());
    command.arg(format!("framework={framework}")).env("NODE_PATH", modules);
    Service::listening(framework, &mut command, scratch, at)
}

/// A Spring Boot service: Tomcat, an `@Async` pool behind it, or WebFlux.
pub fn spring(way: &str, at: &Endpoint, wiring: &Wiring, scratch: &Scratch) -> Result<Service> {
    let mut command = of_maven("spring", "Application", wiring)?;
    command.arg(listen(at)).args(wiring.arguments()).arg(format!("framework={way}"));
    Service::listening("spring", &mut command, scratch, at)
}

/// A Micronaut service.
pub fn micronaut(at: &Endpoint, wiring: &Wiring, scratch: &Scratch) -> Result<Service> {
    let mut command = of_maven("micronaut", "Service", wiring)?;
    command.arg(listen(at)).args(wiring.arguments());
    Service::listening("micronaut", &mut command, scratch, at)
}

/// `service.CLASS`, compiled beside the libraries that its `pom.xml` names; their annotation processors take part.
fn of_maven(framework: &str, class: &str, wiring: &Wiring) -> Result<Command> {
    let target = workspace().join(format!("target/frameworks-{framework}"));
    let from = source(&format!("frameworks/{framework}/{class}.java"));
    let libraries = target.join("libraries");
    built(&format!("frameworks-{framework}.done"), &from, |done| {
        std::fs::create_dir_all(&target).with_context(|| format!("creating {}", target.display()))?;
        let pom = source(&format!("frameworks/{framework}/pom.xml"));
        std::fs::copy(pom, target.join("pom.xml")).context("copying pom.xml")?;
        let mut maven = Command::new(needed("mvn")?);
        maven.current_dir(&target).args(["-q", "-B", "dependency:copy-dependencies"]);
        output(maven.arg(format!("-DoutputDirectory={}", libraries.display())))?;
        let mut jars = Vec::new();
        for entry in std::fs::read_dir(&libraries).context("listing the libraries")? {
            jars.push(entry?.path().display().to_string());
        }
        let jars = jars.join(":");
        let mut compiler = Command::new(needed("javac")?);
        compiler.args(["--release", "17", "-nowarn", "-d"]).arg(target.join("classes"));
        output(compiler.args(["-cp", &jars, "-processorpath", &jars]).arg(&from))?;
        std::fs::write(done, "").context("marking the classes as complete")
    })?;
    let mut command = Command::new(chosen(wiring.runtimes.java.as_ref(), "java")?);
    command.args(&wiring.runtimes.java_options).arg("-cp");
    command.arg(format!("{0}/classes:{0}/libraries/*", target.display())).arg(format!("service.{class}"));
    Ok(command)
}
