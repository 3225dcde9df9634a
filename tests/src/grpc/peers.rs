//! The five gRPC implementations, each as client and as server: sources in `tests/apps/grpc`, versions pinned there.
//! What has to be built or installed goes to `target/` once and is used without a network after that.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::apps::{built, python, source, workspace};
use crate::process::{Endpoint, Scratch, Service, needed, output};
use crate::tls::Certificate;

/// A gRPC implementation.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[allow(missing_docs)]
pub enum Peer {
    Go,
    Python,
    Node,
    Java,
    Tonic,
}

/// All of them.
pub const PEERS: [Peer; 5] = [Peer::Go, Peer::Python, Peer::Node, Peer::Java, Peer::Tonic];

impl Peer {
    /// As it is called in tables.
    pub fn name(self) -> &'static str {
        match self {
            Self::Go => "go",
            Self::Python => "python",
            Self::Node => "js",
            Self::Java => "java",
            Self::Tonic => "tonic",
        }
    }

    /// The one with this name.
    pub fn named(name: &str) -> Result<Self> {
        PEERS
            .into_iter()
            .find(|peer| peer.name() == name)
            .with_context(|| format!("no peer is called {name:?}: {}", PEERS.map(Self::name).join(", ")))
    }

    /// The program, built or installed if it is not there.
    pub fn command(self) -> Result<Command> {
        Ok(match self {
            Self::Go => Command::new(go()?),
            Self::Python => {
                let mut command = Command::new(environment()?.join("bin/python"));
                command.arg(source("grpc/peer.py")).env("PYTHONDONTWRITEBYTECODE", "1");
                command
            }
            Self::Node => {
                let mut command = Command::new(needed("node")?);
                command.arg(source("grpc/node/peer.js")).env("NODE_PATH", node_modules()?);
                command
            }
            Self::Java => {
                let home = java()?;
                let mut command = Command::new(needed("java")?);
                command.args(["-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Xmx512m", "-cp"]);
                command.arg(format!("{0}/classes:{0}/lib/*", home.display())).arg("Peer");
                command
            }
            Self::Tonic => Command::new(tonic()?),
        })
    }

    /// A server; `calls` names the methods for those that must know them before.
    pub fn server(self, at: &Endpoint, calls: &Path, scratch: &Scratch) -> Result<Service> {
        self.server_until(None, at, calls, scratch)
    }

    /// A server that speaks TLS.
    pub fn secure_server(
        self,
        made: &Certificate,
        at: &Endpoint,
        calls: &Path,
        scratch: &Scratch,
    ) -> Result<Service> {
        self.serve(made.arguments(), at, calls, scratch)
    }

    /// A server that ends gracefully when this file is there.
    pub fn server_until(
        self,
        stop: Option<&Path>,
        at: &Endpoint,
        calls: &Path,
        scratch: &Scratch,
    ) -> Result<Service> {
        self.serve(stop.map(|file| format!("stop={}", file.display())), at, calls, scratch)
    }

    fn serve(
        self,
        more: impl IntoIterator<Item = String>,
        at: &Endpoint,
        calls: &Path,
        scratch: &Scratch,
    ) -> Result<Service> {
        let mut command = self.command()?;
        command.arg("server").arg(format!("port={}", at.port()?)).arg(format!("calls={}", calls.display()));
        Service::listening(&format!("grpc-{}-server", self.name()), command.args(more), scratch, at)
    }

    /// A client that makes these calls and ends.
    pub fn client(self, to: &Endpoint, load: &Load<'_>, scratch: &Scratch) -> Result<Service> {
        let mut command = self.command()?;
        command.arg("client").arg(format!("to={}", to.target()));
        command.arg(format!("calls={}", load.calls.display())).arg(format!("log={}", load.log.display()));
        command.arg(format!("concurrency={}", load.concurrency));
        command.arg(format!("connections={}", load.connections));
        command.args(load.made.into_iter().flat_map(Certificate::arguments));
        Service::start(&format!("grpc-{}-client", self.name()), &mut command, scratch)
    }
}

/// What a client is told.
#[derive(Clone, Copy, Debug)]
pub struct Load<'a> {
    /// File of calls.
    pub calls: &'a Path,
    /// Where to log.
    pub log: &'a Path,
    /// Calls at once on each connection.
    pub concurrency: usize,
    /// Connections, each of which makes all calls.
    pub connections: usize,
    /// Speak TLS to who has this certificate.
    pub made: Option<&'a Certificate>,
}

fn go() -> Result<PathBuf> {
    built("grpc-go", &source("grpc/go/main.go"), |target| {
        let mut command = Command::new(needed("go")?);
        command.current_dir(source("grpc/go")).env("GOFLAGS", "-buildvcs=false").args([
            "build",
            "-trimpath",
            "-o",
        ]);
        output(command.arg(target).arg(".")).map(drop)
    })
}

fn environment() -> Result<PathBuf> {
    let home = workspace().join("target/tests-grpc-python");
    built("grpc-python.done", &source("grpc/python.txt"), |done| {
        let _ = std::fs::remove_dir_all(&home);
        output(Command::new(python()?).args(["-m", "venv"]).arg(&home))?;
        let mut pip = Command::new(home.join("bin/pip"));
        pip.args(["install", "--quiet", "--disable-pip-version-check", "--only-binary", ":all:", "-r"]);
        output(pip.arg(source("grpc/python.txt")))?;
        std::fs::write(done, "").context("marking the virtual environment as complete")
    })?;
    Ok(home)
}

/// Where Node finds what the peer needs.
pub fn node_modules() -> Result<PathBuf> {
    let home = workspace().join("target/tests-grpc-node");
    built("grpc-node.done", &source("grpc/node/package-lock.json"), |done| {
        std::fs::create_dir_all(&home).with_context(|| format!("creating {}", home.display()))?;
        for file in ["package.json", "package-lock.json"] {
            std::fs::copy(source("grpc/node").join(file), home.join(file))
                .with_context(|| format!("copying {file}"))?;
        }
        let mut npm = Command::new(needed("npm")?);
        output(npm.current_dir(&home).args(["ci", "--no-audit", "--no-fund", "--ignore-scripts"]))?;
        std::fs::write(done, "").context("marking the modules as complete")
    })?;
    Ok(home.join("node_modules"))
}

fn java() -> Result<PathBuf> {
    let home = workspace().join("target/tests-grpc-java");
    built("grpc-java-jars.done", &source("grpc/java/pom.xml"), |done| {
        let mut maven = Command::new(needed("mvn")?);
        maven.arg("-q").arg("-B").arg("-f").arg(source("grpc/java/pom.xml"));
        maven.arg("dependency:copy-dependencies");
        output(maven.arg(format!("-DoutputDirectory={}/lib", home.display())))?;
        std::fs::write(done, "").context("marking the jars as complete")
    })?;
    built("grpc-java.done", &source("grpc/java/Peer.java"), |done| {
        let mut javac = Command::new(needed("javac")?);
        javac.args(["-nowarn", "-cp"]).arg(format!("{}/lib/*", home.display()));
        output(javac.arg("-d").arg(home.join("classes")).arg(source("grpc/java/Peer.java")))?;
        std::fs::write(done, "").context("marking the classes as complete")
    })?;
    Ok(home)
}

fn tonic() -> Result<PathBuf> {
    built("grpc-tonic", &source("grpc/tonic/src/main.rs"), |target| {
        let folder = workspace().join("target/tests-grpc-tonic");
        let mut cargo = Command::new(needed("cargo")?);
        // Not what the build of the tests themselves was told.
        for (name, _) in std::env::vars_os() {
            let name = name.to_string_lossy().into_owned();
            if name.starts_with("CARGO_") && name != "CARGO_HOME" || name == "RUSTFLAGS" {
                cargo.env_remove(name);
            }
        }
        cargo.current_dir(source("grpc/tonic")).env("CARGO_TARGET_DIR", &folder);
        output(cargo.args(["build", "--quiet", "--release", "--locked"]))?;
        std::fs::copy(folder.join("release/spandrel-test-tonic"), target)
            .context("copying the program")
            .map(drop)
    })
}
