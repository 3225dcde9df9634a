//! Programs that speak HTTP/1.1 over TLS, each as a server or a client, and what the agent saw of so many requests.
//!
//! Each request has a path of its own, which only its two ends know: what is seen at both ends and joined is right, what is
//! joined otherwise is wrong. It must never call a request seen by anything but its path.

pub mod postgres;
pub mod tables;

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::agent::{Agent, Options, Outcome};
use crate::apps;
use crate::otlp::{Kind, SeenSpan};
use crate::process::{Endpoint, Scratch, Service, needed, output};

/// A self-signed certificate and its key.
#[derive(Clone, Debug)]
pub struct Certificate {
    /// The certificate, as PEM.
    pub certificate: PathBuf,
    /// Its key.
    pub key: PathBuf,
}

impl Certificate {
    /// Makes one for `localhost` and 127.0.0.1.
    pub fn new(scratch: &Scratch) -> Result<Self> {
        let (certificate, key) = (scratch.join("certificate.pem"), scratch.join("key.pem"));
        let mut command = Command::new(needed("openssl")?);
        command.args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]);
        command.args(["-days", "2", "-subj", "/CN=localhost", "-addext"]);
        command
            .arg("subjectAltName=DNS:localhost,IP:127.0.0.1")
            .args(["-addext", "basicConstraints=critical,CA:FALSE"])
            .arg("-keyout")
            .arg(&key);
        output(command.arg("-out").arg(&certificate))?;
        Ok(Self { certificate, key })
    }
}

impl Certificate {
    /// What the peers of gRPC are told.
    pub fn arguments(&self) -> [String; 2] {
        [format!("certificate={}", self.certificate.display()), format!("key={}", self.key.display())]
    }
}

/// What serves.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[allow(missing_docs)]
pub enum Server {
    Threads,
    Asyncio,
    Uvicorn,
    Gunicorn,
    GunicornThreads,
    Node,
    Nginx,
    Apache,
    Go,
    Rustls,
    Java,
    Calls,
}

/// What asks.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[allow(missing_docs)]
pub enum Client {
    Threads,
    Asyncio,
    Uvloop,
    Node,
    Curl,
    Wget,
    Go,
    Rustls,
    Java,
    JavaUrl,
    Calls,
}

/// Another Node than the one on `PATH`.
const NODE: &str = "SPANDREL_TEST_NODE";

fn node() -> Result<Command> {
    let program = std::env::var_os(NODE).map(PathBuf::from);
    Ok(Command::new(program.map_or_else(|| needed("node"), Ok)?))
}

/// The Python service and its clients.
pub fn python(arguments: &[&str]) -> Result<Command> {
    let mut command = Command::new(apps::python()?);
    command.arg(apps::source("tls_service.py")).args(arguments).env("PYTHONDONTWRITEBYTECODE", "1");
    Ok(command)
}

/// tokio-rustls, without a symbol.
fn rust() -> Result<Command> {
    let program = apps::built("tls-rust", &apps::source("tls_rust/src/main.rs"), |target| {
        let folder = apps::workspace().join("target/tests-tls-rust");
        let mut cargo = Command::new(needed("cargo")?);
        // Not what the build of the tests themselves was told.
        for (name, _) in std::env::vars_os() {
            let name = name.to_string_lossy().into_owned();
            if name.starts_with("CARGO_") && name != "CARGO_HOME" || name == "RUSTFLAGS" {
                cargo.env_remove(name);
            }
        }
        cargo.current_dir(apps::source("tls_rust")).env("CARGO_TARGET_DIR", &folder);
        output(cargo.args(["build", "--quiet", "--release", "--locked"]))?;
        std::fs::copy(folder.join("release/spandrel-test-rustls"), target)
            .context("copying the program")
            .map(drop)
    })?;
    Ok(Command::new(program))
}

/// All the calls of OpenSSL that move plaintext.
fn calls() -> Result<Command> {
    Ok(Command::new(apps::c_program("tls_calls", &["-lssl", "-lcrypto"])?))
}

fn go() -> Result<Command> {
    Ok(Command::new(apps::go_program("tls-go", "tls_go", &[])?))
}

/// Java's own TLS; another JVM than the one on `PATH` by `SPANDREL_TEST_JAVA`.
fn java() -> Result<Command> {
    let folder = apps::workspace().join("target/tests-tls-java");
    let from = apps::source("tls_java/Tls.java");
    apps::built("tls-java.done", &from, |done| {
        output(Command::new(needed("javac")?).args(["-nowarn", "-d"]).arg(&folder).arg(&from))?;
        std::fs::write(done, "").context("marking the classes as complete")
    })?;
    let program = std::env::var_os("SPANDREL_TEST_JAVA").map(PathBuf::from);
    let mut command = Command::new(program.map_or_else(|| needed("java"), Ok)?);
    command.arg("-cp").arg(folder).arg("Tls");
    Ok(command)
}

impl Server {
    /// Starts it; `version` is `1.2` or `1.3`.
    pub fn start(self, version: &str, at: &Endpoint, scratch: &Scratch) -> Result<Service> {
        let made = Certificate::new(scratch)?;
        let (certificate, key, port) = (&made.certificate, &made.key, at.port()?.to_string());
        let style = match self {
            Self::Threads => "threads",
            Self::Asyncio => "asyncio",
            _ => "",
        };
        let mut command = match self {
            Self::Threads | Self::Asyncio => {
                let mut command = python(&[style, &port])?;
                command.arg(certificate).arg(key).arg(version);
                command
            }
            Self::Uvicorn => {
                let mut command = Command::new(apps::virtual_environment()?.join("bin/uvicorn"));
                command.arg("--app-dir").arg(apps::source("")).args(["--port", &port, "--no-access-log"]);
                command.args(["--log-level", "error", "--backlog", "512"]);
                command.arg("--ssl-certfile").arg(certificate).arg("--ssl-keyfile").arg(key);
                command.arg("tls_service:app");
                command
            }
            Self::Gunicorn | Self::GunicornThreads => {
                let mut command = Command::new(apps::virtual_environment()?.join("bin/gunicorn"));
                command.arg("--chdir").arg(apps::source("")).args(["--bind", &format!("127.0.0.1:{port}")]);
                command.args(["--worker-tmp-dir", "/dev/shm", "--backlog", "512"]);
                match self {
                    Self::Gunicorn => command.args(["--workers", "4"]),
                    _ => command.args(["--workers", "2", "-k", "gthread", "--threads", "32"]),
                };
                command.arg("--certfile").arg(certificate).arg("--keyfile").arg(key);
                command.arg("tls_service:application");
                command
            }
            Self::Node => {
                let mut command = node()?;
                command.arg(apps::source("tls_service.js")).args(["serve", &port]).arg(certificate).arg(key);
                command.args((version == "1.2").then_some("TLSv1.2"));
                command
            }
            Self::Go => {
                let mut command = go()?;
                command.args(["serve", &port]).arg(certificate).arg(key);
                command.args((version == "1.2").then_some("1.2"));
                command
            }
            Self::Rustls => {
                let mut command = rust()?;
                command.args(["serve", &port]).arg(certificate).arg(key);
                command.args((version == "1.2").then_some("1.2"));
                command
            }
            Self::Java => {
                let mut command = java()?;
                command.args(["serve", &port]).arg(certificate).arg(key);
                command.args((version == "1.2").then_some("TLSv1.2"));
                command
            }
            Self::Calls => {
                let mut command = calls()?;
                command.args(["serve", &port]).arg(certificate).arg(key);
                command
            }
            Self::Nginx => nginx(&made, version, &port, scratch)?,
            Self::Apache => apache(&made, version, &port, scratch)?,
        };
        command.env("PYTHONDONTWRITEBYTECODE", "1");
        Service::listening(&format!("{self:?}"), &mut command, scratch, at)
    }
}

impl Client {
    /// What asks for `PREFIX-0`, `PREFIX-1`, …, so many, 50 at a time, 40 over a connection where it has a choice.
    pub fn command(self, at: &Endpoint, prefix: &str, count: usize) -> Result<Command> {
        self.over(at, prefix, count, 50, 40)
    }

    /// The same, so many at a time, so many over a connection; neither counts for curl, wget and [`Self::Calls`].
    pub fn over(
        self,
        at: &Endpoint,
        prefix: &str,
        count: usize,
        concurrency: usize,
        per_connection: usize,
    ) -> Result<Command> {
        let [count, concurrency, per_connection] =
            [count, concurrency, per_connection].map(|n| n.to_string());
        let port = at.port()?.to_string();
        let usual = [&*port, prefix, &*count, &*concurrency, &*per_connection];
        Ok(match self {
            Self::Threads => python(&[&["client"], &usual[..]].concat())?,
            Self::Asyncio => python(&[&["asyncio-client"], &usual[..]].concat())?,
            Self::Uvloop => {
                let mut command = Command::new(apps::virtual_environment()?.join("bin/python"));
                command.arg(apps::source("tls_service.py")).arg("uvloop-client").args(usual);
                command
            }
            Self::Node => {
                let mut command = node()?;
                command.arg(apps::source("tls_service.js")).arg("client").args(usual);
                command
            }
            Self::Go => {
                let mut command = go()?;
                command.arg("client").args(usual);
                command
            }
            Self::Rustls => {
                let mut command = rust()?;
                command.arg("client").args(usual);
                command
            }
            Self::Java | Self::JavaUrl => {
                let mut command = java()?;
                let style = if self == Self::Java { "client" } else { "client-url" };
                command.arg(style).args(usual);
                command
            }
            Self::Calls => {
                let mut command = calls()?;
                command.args(["client", &port, prefix, &count]);
                command
            }
            Self::Wget => {
                let mut command = Command::new(needed("wget")?);
                command.args(["-q", "--no-check-certificate", "-O", "/dev/null"]);
                let urls = (0..count.parse::<usize>()?)
                    .map(|number| format!("https://{}{prefix}-{number}", at.target()));
                command.args(urls);
                command
            }
            Self::Curl => {
                let last = count.parse::<usize>()?.saturating_sub(1);
                let mut command = Command::new(needed("curl")?);
                command.args(["-skf", "-Z", "--parallel-max", "50", "--http1.1", "-o", "/dev/null"]);
                command.arg(format!("https://{}{prefix}-[0-{last}]", at.target()));
                command
            }
        })
    }
}

fn nginx(made: &Certificate, version: &str, port: &str, scratch: &Scratch) -> Result<Command> {
    let configuration = scratch.join("nginx.conf");
    let folder = scratch.path().display();
    let text = format!(
        "worker_processes 2; daemon off; pid {folder}/nginx.pid; error_log stderr;\n\
         events {{ worker_connections 512; }}\n\
         http {{ access_log off; client_body_temp_path {folder}/b; proxy_temp_path {folder}/p;\n\
         keepalive_requests 1000000; fastcgi_temp_path {folder}/f; uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s;\n\
         server {{ listen 127.0.0.1:{port} ssl; ssl_certificate {}; ssl_certificate_key {};\n\
         ssl_protocols TLSv{version}; root {folder}/www; location / {{ return 200 \"{}\"; }}\n\
         location /file/ {{ }} }} }}\n",
        made.certificate.display(),
        made.key.display(),
        "x".repeat(200)
    );
    std::fs::write(&configuration, text).context("writing nginx.conf")?;
    let mut command = Command::new(needed("nginx")?);
    command.arg("-c").arg(&configuration).arg("-p").arg(scratch.path());
    Ok(command)
}

fn apache(made: &Certificate, version: &str, port: &str, scratch: &Scratch) -> Result<Command> {
    let modules = Path::new("/usr/lib/apache2/modules");
    ensure!(modules.is_dir(), "{} is not there: install the package apache2", modules.display());
    let home = scratch.path().display();
    let names = ["mpm_event", "authz_core", "alias", "socache_shmcb", "ssl"];
    let load: String =
        names.map(|name| format!("LoadModule {name}_module {}/mod_{name}.so\n", modules.display())).concat();
    let user = match nix::unistd::Uid::effective().is_root() {
        true => "User www-data\nGroup www-data\n",
        false => "",
    };
    std::fs::write(scratch.join("answer"), "x".repeat(200)).context("writing the answer")?;
    let text = format!(
        "{load}ServerName localhost\nListen 127.0.0.1:{port}\nPidFile {home}/pid\nErrorLog {home}/error.log\n\
         Mutex file:{home}\n{user}KeepAlive On\nMaxKeepAliveRequests 0\nStartServers 2\nThreadsPerChild 32\nServerLimit 2\n\
         MaxRequestWorkers 64\nSSLEngine on\nSSLProtocol -all +TLSv{version}\nSSLCertificateFile {}\n\
         SSLCertificateKeyFile {}\nAliasMatch \"^/\" \"{home}/answer\"\n<Directory />\nRequire all granted\n</Directory>\n",
        made.certificate.display(),
        made.key.display(),
    );
    // The workers are another user's.
    for path in [scratch.path(), &scratch.join("answer")] {
        use std::os::unix::fs::PermissionsExt;
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755))
            .context("for Apache's user")?;
    }
    let config = scratch.join("apache.conf");
    std::fs::write(&config, text).context("writing apache.conf")?;
    let mut command = Command::new(needed("apache2")?);
    command.arg("-d").arg(scratch.path()).arg("-f").arg(&config).arg("-DFOREGROUND");
    Ok(command)
}

/// What the agent saw of so many requests.
#[derive(Clone, Debug, Default)]
pub struct Verdict {
    /// Requests that were made.
    pub sent: usize,
    /// Those with a client span.
    pub clients: usize,
    /// Those with a server span.
    pub servers: usize,
    /// Spans that failed. A client sends a request again whose connection was reset (HttpsURLConnection does), so these count as none.
    pub failed: usize,
    /// Those with one of each, the one below the other by their connection, `https` and this version.
    pub joined: usize,
    /// Spans that are not of a request or not alone, have another parent than their client, or another version.
    pub wrong: Vec<String>,
}

impl Verdict {
    /// Judges spans of `PREFIX-0` to `PREFIX-(count - 1)`.
    pub fn of(spans: &[SeenSpan], prefix: &str, count: usize, version: &str) -> Self {
        let mut verdict = Self { sent: count, ..Self::default() };
        let known: HashSet<String> = (0..count).map(|number| format!("{prefix}-{number}")).collect();
        let by_id: HashMap<&str, &SeenSpan> = spans.iter().map(|span| (span.id.as_str(), span)).collect();
        let mut met: HashMap<(&str, Kind), usize> = HashMap::new();
        for span in spans.iter().filter(|span| !span.attribute("tls.protocol.version").is_empty()) {
            if !known.contains(span.path()) {
                verdict.wrong.push(format!("nobody asked for {:?}", span.path()));
                continue;
            }
            if !span.attribute("error.type").is_empty() {
                verdict.failed += 1;
                continue;
            }
            *met.entry((span.path(), span.kind)).or_default() += 1;
            let secure =
                span.attribute("url.scheme") == "https" || span.attribute("url.full").starts_with("https://");
            if !secure || span.attribute("tls.protocol.version") != version {
                verdict.wrong.push(format!("{} is not of TLS {version}: {span:?}", span.path()));
            }
            match span.kind {
                Kind::Client => verdict.clients += 1,
                Kind::Server => verdict.servers += 1,
            }
            let parent = span.parent.as_ref().map(|parent| by_id.get(parent.as_str()));
            match (span.kind, parent) {
                (Kind::Server, Some(Some(parent)))
                    if parent.path() == span.path()
                        && parent.kind == Kind::Client
                        && span.method() == "stream" =>
                {
                    verdict.joined += 1;
                }
                (_, None) => {}
                (_, Some(parent)) => verdict.wrong.push(format!("{} is below {parent:?}", span.path())),
            }
        }
        for ((path, kind), times) in met.into_iter().filter(|(_, times)| *times > 1) {
            verdict.wrong.push(format!("{times} {kind:?} spans of {path}"));
        }
        verdict
    }
}

/// Runs a client against a server that is there already, the agent started between the two.
pub fn run(
    programs: (Server, Client),
    version: &str,
    count: usize,
    options: &[String],
) -> Result<(Verdict, Outcome)> {
    run_over(programs, version, (count, 50, 40), options)
}

/// The same, so many at a time, so many over a connection.
pub fn run_over(
    (server, client): (Server, Client),
    version: &str,
    (count, concurrency, per_connection): (usize, usize, usize),
    options: &[String],
) -> Result<(Verdict, Outcome)> {
    let scratch = Scratch::new("tls")?;
    let at = Endpoint::free()?;
    let _server = server.start(version, &at, &scratch)?;
    let prefix = format!("/{server:?}").to_lowercase();
    let mut client = client.over(&at, &prefix, count, concurrency, per_connection)?;
    let agent = Agent::start(&Options::new(&scratch).arguments(options.to_vec()))?;
    output(&mut client)?;
    agent.settle_for(2 * count, &prefix)?;
    let outcome = agent.stop()?;
    Ok((Verdict::of(&outcome.spans, &prefix, count, version), outcome))
}
