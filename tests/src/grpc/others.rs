//! Programs that speak HTTP/2 but are no gRPC library: curl, nghttp, h2load against Node's `http2`, and nginx between two
//! gRPC peers. Plain HTTP/2 gives HTTP spans, found by their path, which is their token.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::agent::Agent;
use crate::apps::source;
use crate::grpc::calls::{self, Call, status_name};
use crate::grpc::judge::method;
use crate::grpc::peers::{Load, Peer, node_modules};
use crate::grpc::rows::{How, every_kind};
use crate::otlp::{Kind, SeenSpan};
use crate::process::{Endpoint, Scratch, Service, needed, output};

/// One line of the table.
#[derive(Clone, Debug, Default)]
pub struct Line {
    /// The program.
    pub program: &'static str,
    /// Requests sent.
    pub sent: usize,
    /// Ends of connections that should have a span.
    pub ends: usize,
    /// Spans seen.
    pub seen: usize,
    /// With the right name, status and duration.
    pub right: usize,
    /// Server spans below the client span of the same request.
    pub joined: usize,
    /// What is wrong.
    pub wrong: Vec<String>,
}

fn token() -> String {
    format!("{:012x}", rand::random::<u64>() >> 16)
}

/// A path for the plain server, and how long it takes.
struct Request {
    path: String,
    query: &'static str,
    least_ms: u64,
    status: &'static str,
    times: usize,
}

impl Request {
    fn new(query: &'static str, least_ms: u64, status: &'static str, times: usize) -> Self {
        Self { path: format!("/plain/{}", token()), query, least_ms, status, times }
    }

    fn url(&self, at: &Endpoint) -> String {
        format!("http://{}{}?{}", at.target(), self.path, self.query)
    }
}

/// Runs curl, nghttp and h2load against Node's plain HTTP/2 server.
pub fn plain(how: &How) -> Result<Vec<Line>> {
    let scratch = Scratch::new("http2")?;
    let at = Endpoint::free()?;
    let mut command = Command::new(needed("node")?);
    command.arg(source("grpc/node/peer.js")).env("NODE_PATH", node_modules()?);
    let _server =
        Service::listening("plain", command.arg("plain").arg(format!("port={}", at.port()?)), &scratch, &at)?;
    let agent = start(how, &scratch)?;
    let some = |n: usize| -> Vec<Request> {
        (0..n)
            .map(|i| match i % 3 {
                0 => Request::new("d=20", 20, "200", 1),
                1 => Request::new("z=100000", 0, "200", 1),
                _ => Request::new("s=404", 0, "404", 1),
            })
            .collect()
    };
    let (curl, nghttp, load) = (some(9), some(9), [Request::new("d=5", 5, "200", 500)]);
    for request in &curl {
        output(Command::new(needed("curl")?).args(["-s", "--http2-prior-knowledge", &request.url(&at)]))?;
    }
    let urls: Vec<String> = nghttp.iter().map(|request| request.url(&at)).collect();
    // A decoder's table of another size, made smaller first: the server's encoder says so in its first block.
    let tables = ["-n", "--header-table-size=1024", "--header-table-size=64"];
    output(Command::new(needed("nghttp")?).args(tables).args(&urls))?;
    let mut h2load = Command::new(needed("h2load")?);
    output(h2load.args(["-n", "500", "-c", "1", "-m", "50", &load[0].url(&at)]))?;
    std::thread::sleep(Duration::from_millis(500));
    let outcome = agent.stop()?;
    Ok(vec![
        judged("curl", &curl, &outcome.spans),
        judged("nghttp", &nghttp, &outcome.spans),
        judged("h2load", &load, &outcome.spans),
    ])
}

/// HTTP/1 that goes over to HTTP/2 (`Upgrade: h2c`): curl and nghttp with Apache, and with a server that refuses it.
pub fn upgraded(how: &How) -> Result<Vec<Line>> {
    let scratch = Scratch::new("h2c")?;
    let (at, old) = (Endpoint::free()?, Endpoint::free()?);
    let folder = scratch.join("plain");
    std::fs::create_dir(&folder).context("a folder to serve")?;
    let some = |n: usize| -> Result<Vec<Request>> {
        let requests = (0..n).map(|i| Request::new("q=1", 0, if i % 3 == 2 { "404" } else { "200" }, 1));
        let requests: Vec<Request> = requests.collect();
        for request in requests.iter().filter(|request| request.status == "200") {
            std::fs::write(scratch.join(request.path.trim_start_matches('/')), vec![b'x'; 5_000])
                .context("a file to serve")?;
        }
        Ok(requests)
    };
    let (curl, nghttp, refused) = (some(9)?, some(9)?, some(3)?);
    let (config, home) = (scratch.join("httpd.conf"), scratch.path().display());
    let mut text = format!("ServerName localhost\nListen {}\nPidFile {home}/pid\n", at.target());
    for module in ["mpm_event", "authz_core", "http2"] {
        let _ = writeln!(text, "LoadModule {module}_module /usr/lib/apache2/modules/mod_{module}.so");
    }
    let _ = write!(
        text,
        "ErrorLog {home}/error.log\nDefaultRuntimeDir {home}\nProtocols h2c http/1.1\nH2Upgrade on\n\
         DocumentRoot {home}\n<Directory {home}>\nRequire all granted\n</Directory>\n"
    );
    std::fs::write(&config, text).context("writing Apache's configuration")?;
    let mut command = Command::new(needed("apache2")?);
    command.arg("-f").arg(&config).arg("-X");
    let _server = Service::listening("apache", &mut command, &scratch, &at)?;
    let mut command = Command::new(needed("python3")?);
    command.args(["-m", "http.server", "--bind", "127.0.0.1", "-d"]).arg(scratch.path());
    let _old = Service::listening("python", command.arg(old.port()?.to_string()), &scratch, &old)?;
    let agent = start(how, &scratch)?;
    for request in &curl {
        output(Command::new(needed("curl")?).args(["-s", "--http2", &request.url(&at)]))?;
    }
    // Three requests a connection: the first goes over, the others follow.
    for three in nghttp.chunks(3) {
        let urls = three.iter().map(|request| request.url(&at));
        output(Command::new(needed("nghttp")?).args(["-n", "-u"]).args(urls))?;
    }
    for request in &refused {
        output(Command::new(needed("curl")?).args(["-s", "--http2", &request.url(&old)]))?;
    }
    std::thread::sleep(Duration::from_millis(500));
    let outcome = agent.stop()?;
    let mut lines = Vec::new();
    for (program, requests, version) in
        [("curl h2c", &curl, "2"), ("nghttp h2c", &nghttp, "2"), ("h2c refused", &refused, "1.")]
    {
        let mut line = judged(program, requests, &outcome.spans);
        for request in requests {
            for span in outcome.spans.iter().filter(|span| span.path() == request.path) {
                let is = span.attribute("network.protocol.version");
                if !is.starts_with(version) {
                    line.wrong.push(format!("{:?} {} is version {is}", span.kind, span.path()));
                }
            }
        }
        lines.push(line);
    }
    Ok(lines)
}

fn start(how: &How, scratch: &Scratch) -> Result<Agent> {
    Agent::start(&how.options(scratch))
}

fn judged(program: &'static str, requests: &[Request], spans: &[SeenSpan]) -> Line {
    let mut line = Line { program, ..Line::default() };
    for request in requests {
        line.sent += request.times;
        line.ends += 2 * request.times;
        let of = |kind: Kind| -> Vec<&SeenSpan> {
            spans.iter().filter(|span| span.kind == kind && span.path() == request.path).collect()
        };
        let (clients, servers) = (of(Kind::Client), of(Kind::Server));
        let ids: HashMap<&str, &SeenSpan> = clients.iter().map(|span| (span.id.as_str(), *span)).collect();
        for span in clients.iter().chain(&servers) {
            line.seen += 1;
            let status = span.attribute("http.response.status_code");
            let lasted = span.end.saturating_sub(span.start);
            if span.name == "GET"
                && status == request.status
                && lasted + 1_000_000 >= request.least_ms * 1_000_000
            {
                line.right += 1;
            } else {
                line.wrong.push(format!(
                    "{:?} {} {status} after {lasted} ns, {}",
                    span.kind, span.name, request.query
                ));
            }
        }
        for server in &servers {
            match server.parent.as_deref() {
                Some(parent) if ids.contains_key(parent) => line.joined += 1,
                Some(parent) => line.wrong.push(format!("server span below {parent}")),
                None => {}
            }
        }
        if clients.len() > request.times || servers.len() > request.times {
            line.wrong.push(format!("{} and {} spans of {}", clients.len(), servers.len(), request.times));
        }
    }
    line
}

/// Go calls Python through nginx `grpc_pass`: four spans a call.
pub fn nginx(how: &How) -> Result<Line> {
    let scratch = Scratch::new("grpcpass")?;
    let (file, log) = (scratch.join("calls.tsv"), scratch.join("log.tsv"));
    // nginx refuses heads of 40 KB by default, and ends deadlines its own way: calls that are simply served.
    let calls: Vec<Call> = every_kind(4)
        .into_iter()
        .filter(|call| call.ends == calls::Ends::Served && !call.options.contains("m="))
        .collect();
    calls::write(&calls, None, &file)?;
    let (back, front) = (Endpoint::free()?, Endpoint::free()?);
    let _server = Peer::Python.server(&back, &file, &scratch)?;
    let config = scratch.join("nginx.conf");
    let home = scratch.path().display();
    let user = if nix::unistd::Uid::effective().is_root() { "user root;\n" } else { "" };
    let text = format!(
        "daemon off;\n{user}worker_processes 1;\nerror_log {home}/error.log;\npid {home}/pid;\n\
         events {{ worker_connections 256; }}\n\
         http {{\n  access_log off;\n  client_body_temp_path {home}/body;\n  proxy_temp_path {home}/proxy;\n\
         fastcgi_temp_path {home}/fastcgi;\n  uwsgi_temp_path {home}/uwsgi;\n  scgi_temp_path {home}/scgi;\n\
         client_max_body_size 0;\n  upstream next {{ server {}; keepalive 8; }}\n\
         server {{ listen {} http2;\n    location / {{ grpc_pass grpc://next; }}\n  }}\n}}\n",
        back.target(),
        front.target()
    );
    std::fs::write(&config, text).with_context(|| format!("writing {}", config.display()))?;
    let mut command = Command::new(needed("nginx")?);
    let _nginx = Service::listening(
        "nginx",
        command.arg("-p").arg(scratch.path()).arg("-c").arg(&config),
        &scratch,
        &front,
    )?;
    let agent = start(how, &scratch)?;
    let load = Load { calls: &file, log: &log, concurrency: 4, connections: 1, made: None };
    let mut client = Peer::Go.client(&front, &load, &scratch)?;
    let status = client.wait(Duration::from_secs(60))?;
    ensure!(status.success(), "the client ended with {status}: {}", client.output());
    std::thread::sleep(Duration::from_millis(500));
    let outcome = agent.stop()?;
    let seen = calls::log(&log, None)?;
    let mut line =
        Line { program: "nginx grpc_pass", sent: seen.len(), ends: 4 * seen.len(), ..Line::default() };
    let by_id: HashMap<&str, &SeenSpan> = outcome.spans.iter().map(|span| (span.id.as_str(), span)).collect();
    for log in &seen {
        let Some(call) = calls.get(log.index) else { continue };
        for span in outcome.spans.iter().filter(|span| method(span) == call.method()) {
            line.seen += 1;
            let status = span.attribute("rpc.response.status_code");
            let lasted = span.end.saturating_sub(span.start);
            if span.name == call.method()
                && status == status_name(log.status)
                && lasted + 2_000_000 >= call.least_ms * 1_000_000
            {
                line.right += 1;
            } else {
                line.wrong.push(format!("{:?} {} {status} after {lasted} ns", span.kind, span.name));
            }
            if span.kind == Kind::Server
                && let Some(parent) = &span.parent
            {
                match by_id.get(parent.as_str()) {
                    Some(parent) if method(parent) == call.method() => line.joined += 1,
                    _ => line.wrong.push(format!("server span of {} below {parent}", call.path)),
                }
            }
        }
    }
    Ok(line)
}
