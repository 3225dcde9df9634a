//! Services in frameworks: what their users write, with the client that they mostly take. Packages are installed under
//! `target/` on first use, by npm and Maven, and only for the rows that need them: `cargo xtask test` does not come here.

use std::path::PathBuf;
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
    let home = spring_classes()?;
    let mut command = Command::new(chosen(wiring.runtimes.java.as_ref(), "java")?);
    command.args(&wiring.runtimes.java_options).arg("-cp");
    command.arg(format!("{0}/classes:{0}/libraries/*", home.display())).arg("service.Application");
    command.arg(listen(at)).args(wiring.arguments()).arg(format!("framework={way}"));
    Service::listening("spring", &mut command, scratch, at)
}

fn spring_classes() -> Result<PathBuf> {
    let target = workspace().join("target/frameworks-spring");
    let from = source("frameworks/spring/Application.java");
    built("frameworks-spring.done", &from, |done| {
        std::fs::create_dir_all(&target).with_context(|| format!("creating {}", target.display()))?;
        std::fs::copy(source("frameworks/spring/pom.xml"), target.join("pom.xml"))
            .context("copying pom.xml")?;
        let libraries = target.join("libraries");
        let mut maven = Command::new(needed("mvn")?);
        maven.current_dir(&target).args(["-q", "-B", "dependency:copy-dependencies"]);
        output(maven.arg(format!("-DoutputDirectory={}", libraries.display())))?;
        let mut compiler = Command::new(needed("javac")?);
        compiler.args(["--release", "17", "-nowarn", "-d"]).arg(target.join("classes"));
        output(compiler.arg("-cp").arg(format!("{}/*", libraries.display())).arg(&from))?;
        std::fs::write(done, "").context("marking the classes as complete")
    })?;
    Ok(target)
}
