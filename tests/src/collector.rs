//! A real OpenTelemetry Collector: built from Go modules once (`tests/collector`, a minute or two), then a receiver for
//! OTLP over gRPC and HTTP that writes what it got to a file. No processor may stand between the two.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result};

use crate::apps::{built, workspace};
use crate::otlp::{self, SeenSpan};
use crate::process::{Endpoint, Scratch, Service, needed, output};

/// The executable, built if it is not there.
pub fn binary() -> Result<PathBuf> {
    let folder = workspace().join("tests/collector");
    built("collector", &folder.join("go.mod"), |target| {
        let mut command = Command::new(needed("go")?);
        command.current_dir(&folder).env("GOFLAGS", "-mod=mod -buildvcs=false");
        output(command.args(["build", "-trimpath", "-ldflags=-s", "-o"]).arg(target).arg(".")).map(drop)
    })
}

/// A running Collector.
#[derive(Debug)]
pub struct Collector {
    /// Its process.
    pub service: Service,
    /// Where it takes OTLP over gRPC.
    pub grpc: Endpoint,
    /// Where it takes OTLP over HTTP.
    pub http: Endpoint,
    file: PathBuf,
}

impl Collector {
    /// Starts it on free ports.
    pub fn start(scratch: &Scratch) -> Result<Self> {
        Self::start_at(scratch, Endpoint::free()?, Endpoint::free()?)
    }

    /// Starts it on these ports.
    pub fn start_at(scratch: &Scratch, grpc: Endpoint, http: Endpoint) -> Result<Self> {
        let port = grpc.port()?;
        let file = scratch.join(&format!("collector-{port}.jsonl"));
        let config = scratch.join(&format!("collector-{port}.yaml"));
        let text = format!(
            "receivers:\n  otlp:\n    protocols:\n      grpc:\n        endpoint: 127.0.0.1:{port}\n      http:\n        endpoint: {}\n\
             exporters:\n  file:\n    path: {}\n    append: true\n    flush_interval: 50ms\n\
             service:\n  telemetry:\n    metrics:\n      level: none\n  pipelines:\n    traces:\n      receivers: [otlp]\n      exporters: [file]\n\
             \x20   metrics:\n      receivers: [otlp]\n      exporters: [file]\n",
            http.target(),
            file.display()
        );
        std::fs::write(&config, text).with_context(|| format!("writing {}", config.display()))?;
        let mut command = Command::new(binary()?);
        let service = Service::listening("collector", command.arg("--config").arg(&config), scratch, &grpc)?;
        Ok(Self { service, grpc, http, file })
    }

    /// What it received so far.
    pub fn spans(&self) -> Result<Vec<SeenSpan>> {
        if self.file.exists() { otlp::read(&self.file) } else { Ok(Vec::new()) }
    }
}
