//! Programs that a test starts, and directories that it writes to. Both are gone when their value is dropped, also
//! after a failed assertion. A program runs in a process group of its own, so that its workers go with it; nothing
//! but what was started here is ever signalled.

use std::fs::File;
use std::io::ErrorKind;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

/// A directory of its own, removed at the end unless the test is failing or `SPANDREL_KEEP` is set.
#[derive(Debug)]
pub struct Scratch(PathBuf);

impl Scratch {
    /// A fresh one. Its path is short (a unix socket's path has 108 bytes) and every user can look into it.
    pub fn new(name: &str) -> Result<Self> {
        static NUMBER: AtomicUsize = AtomicUsize::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("spandrel-{name}-{}-{number}", std::process::id()));
        std::fs::create_dir_all(&path).with_context(|| format!("creating {}", path.display()))?;
        let all = std::os::unix::fs::PermissionsExt::from_mode(0o777);
        std::fs::set_permissions(&path, all).with_context(|| format!("opening {} to all", path.display()))?;
        Ok(Self(path))
    }

    /// A path in it.
    pub fn join(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// Its path.
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if std::thread::panicking() || std::env::var_os("SPANDREL_KEEP").is_some() {
            eprintln!("kept for a look: {}", self.0.display());
        } else {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }
}

/// A program that runs beside the test. Dropping it ends it and its process group.
#[derive(Debug)]
pub struct Service {
    name: String,
    child: Child,
    log: PathBuf,
}

impl Service {
    /// Starts it; standard output and error go to a file in `scratch`.
    pub fn start(name: &str, command: &mut Command, scratch: &Scratch) -> Result<Self> {
        static NUMBER: AtomicUsize = AtomicUsize::new(0);
        let log = scratch.join(&format!("{name}.{}.out", NUMBER.fetch_add(1, Ordering::Relaxed)));
        let out = File::create(&log).with_context(|| format!("creating {}", log.display()))?;
        let child = command
            .stdin(Stdio::null())
            .stdout(out.try_clone().context("duplicating a file")?)
            .stderr(out)
            .process_group(0)
            .spawn()
            .with_context(|| format!("starting {name}: {command:?}"))?;
        Ok(Self { name: name.to_owned(), child, log })
    }

    /// Starts it and waits until somebody listens there.
    pub fn listening(name: &str, command: &mut Command, scratch: &Scratch, at: &Endpoint) -> Result<Self> {
        let mut service = Self::start(name, command, scratch)?;
        let deadline = Instant::now() + START;
        while !at.answers() {
            if let Some(status) = service.exited()? {
                bail!("{name} ended with {status} before it listened: {}", service.output());
            }
            ensure!(Instant::now() < deadline, "{name} does not listen at {at:?}: {}", service.output());
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(service)
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// How it ended, if it did.
    pub fn exited(&mut self) -> Result<Option<ExitStatus>> {
        self.child.try_wait().with_context(|| format!("asking after {}", self.name))
    }

    /// Waits for its own end.
    pub fn wait(&mut self, at_most: Duration) -> Result<ExitStatus> {
        let deadline = Instant::now() + at_most;
        loop {
            if let Some(status) = self.exited()? {
                return Ok(status);
            }
            ensure!(
                Instant::now() < deadline,
                "{} still runs after {at_most:?}: {}",
                self.name,
                self.output()
            );
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// What it wrote so far, at most the last 4 KiB.
    pub fn output(&self) -> String {
        let text = std::fs::read(&self.log).unwrap_or_default();
        String::from_utf8_lossy(text.get(text.len().saturating_sub(4096)..).unwrap_or_default()).into_owned()
    }

    /// Sends a signal to it alone.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        nix::sys::signal::kill(Pid::from_raw(self.pid() as i32), signal)
            .with_context(|| format!("sending {signal} to {}", self.name))
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        let group = Pid::from_raw(self.child.id() as i32);
        if matches!(self.child.try_wait(), Ok(None)) {
            let _ = killpg(group, Signal::SIGTERM);
            let deadline = Instant::now() + Duration::from_secs(2);
            while Instant::now() < deadline && matches!(self.child.try_wait(), Ok(None)) {
                std::thread::sleep(Duration::from_millis(5));
            }
        }
        let _ = killpg(group, Signal::SIGKILL);
        let _ = self.child.wait();
    }
}

/// Where a service listens.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Endpoint {
    /// A port of 127.0.0.1.
    Port(u16),
    /// A unix socket.
    Unix(PathBuf),
}

impl Endpoint {
    /// A port of 127.0.0.1 that nobody has at the moment. Below the range of outgoing connections, so that nobody
    /// gets it by chance before it is bound.
    pub fn free() -> Result<Self> {
        for _ in 0..1000 {
            let port = rand::random_range(20_000..30_000);
            match TcpListener::bind(("127.0.0.1", port)) {
                Ok(_) => return Ok(Self::Port(port)),
                Err(error) if error.kind() == ErrorKind::AddrInUse => {}
                Err(error) => return Err(error).context("looking for a free port"),
            }
        }
        bail!("no free port of 127.0.0.1 between 20000 and 30000 in a thousand tries")
    }

    /// The port.
    pub fn port(&self) -> Result<u16> {
        match self {
            Self::Port(port) => Ok(*port),
            Self::Unix(path) => bail!("{} is a unix socket and has no port", path.display()),
        }
    }

    /// Its address.
    pub fn address(&self) -> Result<SocketAddr> {
        Ok(SocketAddr::from(([127, 0, 0, 1], self.port()?)))
    }

    /// As the services' `next=` wants it.
    pub fn target(&self) -> String {
        match self {
            Self::Port(port) => format!("127.0.0.1:{port}"),
            Self::Unix(path) => format!("unix:{}", path.display()),
        }
    }

    fn answers(&self) -> bool {
        match self {
            Self::Port(port) => TcpStream::connect(("127.0.0.1", *port)).is_ok(),
            Self::Unix(path) => UnixStream::connect(path).is_ok(),
        }
    }
}

/// A program's output, where it ends by itself within `END`; anything but success is an error that quotes it.
pub fn output(command: &mut Command) -> Result<String> {
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .spawn()
        .with_context(|| format!("starting {command:?}"))?;
    let group = Pid::from_raw(child.id() as i32);
    let (text, errors) = (collected(child.stdout.take()), collected(child.stderr.take()));
    let deadline = Instant::now() + END;
    let status = loop {
        if let Some(status) = child.try_wait().with_context(|| format!("asking after {command:?}"))? {
            break status;
        }
        if Instant::now() > deadline {
            let _ = killpg(group, Signal::SIGKILL);
            let _ = child.wait();
            bail!("{command:?} still ran after {END:?}");
        }
        std::thread::sleep(Duration::from_millis(1));
    };
    let text = text.join().unwrap_or_default();
    ensure!(status.success(), "{command:?} ended with {status}: {text}{}", errors.join().unwrap_or_default());
    Ok(text)
}

fn collected(stream: Option<impl std::io::Read + Send + 'static>) -> std::thread::JoinHandle<String> {
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        let _ = stream.map(|mut stream| stream.read_to_end(&mut bytes));
        String::from_utf8_lossy(&bytes).into_owned()
    })
}

/// A program that must be there; the error says how to get it.
pub fn needed(program: &str) -> Result<PathBuf> {
    let folders = std::env::var_os("PATH").unwrap_or_default();
    let also = ["/usr/sbin", "/sbin", "/usr/local/go/bin"].map(PathBuf::from);
    std::env::split_paths(&folders)
        .chain(also)
        .map(|folder| folder.join(program))
        .find(|path| path.is_file())
        .with_context(|| {
            format!("{program} is not installed: `cargo xtask setup` installs what tests/needs.txt lists")
        })
}

/// Waits until `done` says so.
pub fn until(what: &str, at_most: Duration, mut done: impl FnMut() -> Result<bool>) -> Result<Duration> {
    let began = Instant::now();
    while !done()? {
        ensure!(began.elapsed() < at_most, "not within {at_most:?}: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(began.elapsed())
}

/// How long a program may take that ends by itself: building the Collector takes longest.
const END: Duration = Duration::from_secs(1200);
/// How long a service may take to listen.
const START: Duration = Duration::from_secs(60);
/// How long a test waits for what must come: longer than it takes on the slowest machine, so that no verdict depends on
/// how busy this one is.
pub const PATIENCE: Duration = Duration::from_secs(60);
