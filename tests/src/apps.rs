//! The traced programs: one function each, that starts it as its users would and waits until it listens. Sources are in
//! `tests/apps`; what has to be built or installed goes to `target/` once. None of them may know that it is traced.

pub mod fpm;
pub mod frameworks;
pub mod nginx;
pub mod tokio;

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;

use anyhow::{Context, Result, ensure};

use crate::process::{Endpoint, Scratch, Service, needed, output};

/// The root of the workspace.
pub fn workspace() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().unwrap_or(here).to_owned()
}

/// A file of `tests/apps`.
pub fn source(name: &str) -> PathBuf {
    workspace().join("tests/apps").join(name)
}

/// What most services are told.
#[derive(Clone, Debug, Default)]
pub struct Wiring {
    /// The routing table.
    pub routes: Option<PathBuf>,
    /// Whom to call.
    pub next: Option<Endpoint>,
    /// Where to log which bytes were which request.
    pub log: Option<PathBuf>,
    /// Copy `traceparent` and `tracestate` from the request to the calls.
    pub copy: bool,
    /// Calls that belong to no request.
    pub background: Option<PathBuf>,
    /// What it runs on.
    pub runtimes: Runtimes,
    /// In a mount and a pid namespace of its own.
    pub apart: bool,
}

/// Other runtimes than those on `PATH`.
#[derive(Clone, Debug, Default)]
pub struct Runtimes {
    /// Node.
    pub node: Option<PathBuf>,
    /// The `java` of a JVM.
    pub java: Option<PathBuf>,
    /// Options of the JVM: a collector, a heap.
    pub java_options: Vec<String>,
}

impl Wiring {
    /// Runs a program; apart from others if that is asked for.
    fn command(&self, program: impl AsRef<OsStr>) -> Command {
        if !self.apart {
            return Command::new(program);
        }
        let mut command = Command::new("unshare");
        command.args(["--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]).arg(program);
        command
    }

    /// As [`Wiring::command`], of a program that is one file: apart, it lies where only its own namespace has it.
    fn command_of_file(&self, program: &Path) -> Command {
        if !self.apart {
            return Command::new(program);
        }
        let mut command = self.command("sh");
        let script = "mount -t tmpfs none /mnt && cp \"$0\" /mnt/service && exec /mnt/service \"$@\"";
        command.arg("-c").arg(script).arg(program);
        command
    }

    fn arguments(&self) -> Vec<String> {
        let path =
            |key: &str, value: &Option<PathBuf>| value.as_ref().map(|v| format!("{key}={}", v.display()));
        let mut all: Vec<String> = Vec::new();
        all.extend(path("routes", &self.routes));
        all.extend(self.next.as_ref().map(|next| format!("next={}", next.target())));
        all.extend(path("log", &self.log));
        all.extend(self.copy.then(|| "copy=1".to_owned()));
        all.extend(path("background", &self.background));
        all
    }
}

fn listen(at: &Endpoint) -> String {
    match at {
        Endpoint::Port(port) => format!("port={port}"),
        Endpoint::Unix(path) => format!("unix={}", path.display()),
    }
}

/// The Python that the distribution installs: not a shim that execs another program first. `SPANDREL_TEST_PYTHON`
/// names another interpreter.
pub fn python() -> Result<PathBuf> {
    if let Some(other) = std::env::var_os("SPANDREL_TEST_PYTHON") {
        return Ok(PathBuf::from(other));
    }
    let path = PathBuf::from("/usr/bin/python3");
    if path.is_file() { Ok(path) } else { needed("python3") }
}

/// A Python service of `tests/apps`.
pub fn python_service(script: &str, at: &Endpoint, wiring: &Wiring, scratch: &Scratch) -> Result<Service> {
    let mut command = wiring.command(python()?);
    command.arg(source(script)).arg(listen(at)).args(wiring.arguments());
    Service::listening(script, command.env("PYTHONDONTWRITEBYTECODE", "1"), scratch, at)
}

/// A Python service that needs packages, with arguments that say how it works.
pub fn python_style(
    script: &str,
    arguments: &[&str],
    at: &Endpoint,
    wiring: &Wiring,
    scratch: &Scratch,
) -> Result<Service> {
    let mut command = wiring.command(virtual_environment()?.join("bin/python"));
    command.arg(source(script)).args(arguments).arg(listen(at)).args(wiring.arguments());
    Service::listening(script, command.env("PYTHONDONTWRITEBYTECODE", "1"), scratch, at)
}

/// The folder under `target/` with the packages of a `package.json`, installed if they are not there.
pub fn npm_packages(name: &str, package: &Path) -> Result<PathBuf> {
    let target = workspace().join("target").join(name);
    built(&format!("{name}.done"), package, |done| {
        std::fs::create_dir_all(&target).with_context(|| format!("creating {}", target.display()))?;
        std::fs::copy(package, target.join("package.json")).context("copying package.json")?;
        let mut npm = Command::new(needed("npm")?);
        output(npm.args(["install", "--silent", "--no-audit", "--no-fund"]).current_dir(&target))?;
        std::fs::write(done, "").context("marking the modules as complete")
    })?;
    Ok(target)
}

/// The Node service, calling in this style.
pub fn node(style: &str, at: &Endpoint, wiring: &Wiring, scratch: &Scratch) -> Result<Service> {
    let mut command = Command::new(chosen(wiring.runtimes.node.as_ref(), "node")?);
    command.arg(source("service.js")).arg(listen(at)).args(wiring.arguments()).arg(format!("style={style}"));
    Service::listening("service.js", &mut command, scratch, at)
}

/// The JVM service, working in this style.
pub fn jvm(style: &str, at: &Endpoint, wiring: &Wiring, scratch: &Scratch) -> Result<Service> {
    let classes = jvm_classes()?;
    let mut command = Command::new(chosen(wiring.runtimes.java.as_ref(), "java")?);
    command.args(&wiring.runtimes.java_options).arg("-cp").arg(classes).arg("Service");
    command.arg(listen(at)).args(wiring.arguments()).arg(format!("style={style}"));
    Service::listening("jvm-service", &mut command, scratch, at)
}

/// The classes of the JVM service, compiled on first use for the oldest version that is supported.
pub fn jvm_classes() -> Result<PathBuf> {
    let from = source("jvm/Service.java");
    let folder = workspace().join("target/tests-jvm");
    built("jvm-service.done", &from, |done| {
        let mut compiler = Command::new(needed("javac")?);
        output(
            compiler.args(["--release", "11", "-nowarn", "-Xlint:-options", "-d"]).arg(&folder).arg(&from),
        )?;
        std::fs::write(done, "").context("marking the classes as complete")
    })?;
    Ok(folder)
}

/// This program, or the one with this name on `PATH`.
fn chosen(path: Option<&PathBuf>, name: &str) -> Result<PathBuf> {
    path.map_or_else(|| needed(name), |path| Ok(path.clone()))
}

/// The Go service, built on first use.
pub fn go(at: &Endpoint, wiring: &Wiring, scratch: &Scratch) -> Result<Service> {
    let mut command = wiring.command_of_file(&go_service()?);
    command.arg(listen(at)).args(wiring.arguments());
    Service::listening("go-service", &mut command, scratch, at)
}

/// The Go service in one of its styles, with `+context` at the end if the request's context is passed; `build` is
/// `plain`, `stripped`, `pie`, linked by C's linker (`external`, `pie-external`), or one that lies: of another `version`, with the `names` of functions exchanged, with build
/// `info` that is corrupt, or with another `table` of functions than its own.
pub fn go_style(
    style: &str,
    build: &str,
    at: &Endpoint,
    wiring: &Wiring,
    scratch: &Scratch,
) -> Result<Service> {
    let flags: &[&str] = match build {
        "stripped" => &["-ldflags=-s -w"],
        "pie" => &["-ldflags=-s -w", "-buildmode=pie"],
        "external" => &["-ldflags=-s -w -linkmode=external"],
        "pie-external" => &["-ldflags=-s -w -linkmode=external", "-buildmode=pie"],
        _ => &[],
    };
    let program = match build {
        "version" | "names" | "info" | "table" => go_lying(build)?,
        _ => go_built(&format!("go-service-{build}"), flags)?,
    };
    let mut command = wiring.command_of_file(&program);
    command.arg(listen(at)).args(wiring.arguments());
    match style.split_once('+') {
        Some((style, _)) => command.args([format!("style={style}"), "context=1".to_owned()]),
        None => command.arg(format!("style={style}")),
    };
    Service::listening("go-service", &mut command, scratch, at)
}

/// The Go service, whose file says what is not so.
fn go_lying(about: &str) -> Result<PathBuf> {
    let honest = go_built("go-service-plain", &[])?;
    built(&format!("go-service-{about}"), &honest, |target| {
        let mut bytes = std::fs::read(&honest).context("reading the Go service")?;
        let find = |bytes: &[u8], text: &[u8], from: usize| {
            bytes[from..].windows(text.len()).position(|part| part == text).map(|at| from + at)
        };
        if about == "version" {
            // Layouts of Go 1.21, where every number of a goroutine is elsewhere.
            let info = find(&bytes, b"\xff Go buildinf:", 0).context("no build information")?;
            let version = find(&bytes, b"go1.", info).context("no version")?;
            bytes[version + 4..version + 6].copy_from_slice(b"21");
        }
        if about == "info" {
            // A version of 16,383 bytes, most of them beyond the section.
            let info = find(&bytes, b"\xff Go buildinf:", 0).context("no build information")?;
            bytes[info + 32..info + 40].fill(0xff);
        }
        if about == "table" {
            // The program goes on with its own; who looks for it by name finds four million functions of noise.
            let mut noise = 0xffff_fff1u32.to_le_bytes().to_vec();
            noise.extend([0, 0, 1, 8]);
            for word in [3_999_999u64, 0, 0x40_1000, 72, 0, 0, 0, 72] {
                noise.extend(word.to_le_bytes());
            }
            noise.extend((0..8u64 << 20).map(|n| (n.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8));
            let end = (bytes.len() as u64).to_le_bytes();
            let length = (noise.len() as u64).to_le_bytes();
            let header = section_header(&bytes, b".gopclntab").context("no section .gopclntab")?;
            bytes[header + 24..header + 32].copy_from_slice(&end);
            bytes[header + 32..header + 40].copy_from_slice(&length);
            bytes.extend(noise);
        }
        let exchanged: &[(&[u8], &[u8])] = match about {
            "names" => &[
                (b"net/http.(*Transport).dialConn.gowrap2\0", b"net/http.(*Transport).dialConn.gowrap3\0"),
                (b"net/http.(*Server).Serve.gowrap3\0", b"net/http.(*Server).Serve.gowrap9\0"),
                (b"runtime.semacquire1\0", b"runtime.semrelease1\0"),
            ],
            _ => &[],
        };
        for (one, other) in exchanged {
            let at = find(&bytes, one, 0).with_context(|| format!("no {}", String::from_utf8_lossy(one)))?;
            if let Some(other_at) = find(&bytes, other, 0) {
                bytes[other_at..other_at + one.len()].copy_from_slice(one);
            }
            bytes[at..at + other.len()].copy_from_slice(other);
        }
        std::fs::write(target, bytes).context("writing the service that lies")?;
        std::fs::set_permissions(target, std::os::unix::fs::PermissionsExt::from_mode(0o755))
            .context("making the service executable")
    })
}

/// Where the header of a section is (elf(5): `e_shoff`, `e_shnum`, `e_shstrndx`, and headers of 64 bytes).
fn section_header(file: &[u8], name: &[u8]) -> Option<usize> {
    let number = |at: usize, length: usize| {
        let bytes = file.get(at..at.checked_add(length)?)?;
        Some(bytes.iter().rev().fold(0, |all, &byte| all << 8 | usize::from(byte)))
    };
    let header = |index: usize| Some(number(0x28, 8)? + index * 64);
    let names = number(header(number(0x3e, 2)?)? + 24, 8)?;
    (0..number(0x3c, 2)?).filter_map(header).find(|&at| {
        let its = number(at, 4).and_then(|offset| file.get(names + offset..));
        its.is_some_and(|its| its.starts_with(name) && its.get(name.len()) == Some(&0))
    })
}

/// A program that is hard luck for whoever looks into it (`tests/apps/unlucky.c`), with 100,000 functions more; its name says
/// that it is a Python.
pub fn unlucky() -> Result<PathBuf> {
    let from = source("unlucky.c");
    built("python3-unlucky", &from, |target| {
        let functions = target.with_extension("s");
        let one = |n: u32| format!(".globl g{n}\n.type g{n},@function\ng{n}: ret\n.size g{n},.-g{n}\n");
        let text: String = (0..100_000).map(one).collect();
        std::fs::write(&functions, format!(".text\n{text}.section .note.GNU-stack,\"\",@progbits\n"))
            .context("writing functions")?;
        let mut compiler = Command::new(needed("cc")?);
        compiler.args(["-O2", "-Wall", "-rdynamic", "-o"]).arg(target).arg(&from).arg(&functions);
        let made = output(compiler.arg("-lpthread"));
        let _ = std::fs::remove_file(&functions);
        made.map(drop)
    })
}

/// The executable of the Go service, built on first use.
pub fn go_service() -> Result<PathBuf> {
    go_built("go-service", &[])
}

/// `SPANDREL_TEST_GO` names another Go compiler; what it builds is kept apart.
fn go_built(name: &str, flags: &[&str]) -> Result<PathBuf> {
    go_program(name, "go", flags)
}

/// A Go program of `tests/apps`, built on first use.
pub fn go_program(name: &str, folder: &str, flags: &[&str]) -> Result<PathBuf> {
    let other = std::env::var_os("SPANDREL_TEST_GO").map(PathBuf::from);
    let version = other.iter().flat_map(|path| path.iter().rev().nth(2)).map(|part| part.to_string_lossy());
    let name = version.fold(name.to_owned(), |name, version| format!("{name}-{version}"));
    built(&name, &source(folder).join("main.go"), |target| {
        let compiler = match &other {
            Some(path) => path.clone(),
            None => needed("go").unwrap_or_else(|_| "go".into()),
        };
        let mut command = Command::new(compiler);
        command.current_dir(source(folder)).env("GOFLAGS", "-buildvcs=false").env("GOTOOLCHAIN", "local");
        command.args(["build", "-trimpath"]).args(flags).arg("-o");
        output(command.arg(target).arg(".")).map(drop)
    })
}

/// A C program of `tests/apps` with these libraries, built on first use.
pub fn c_program(name: &str, libraries: &[&str]) -> Result<PathBuf> {
    let from = source(&format!("{name}.c"));
    built(name, &from, |target| {
        let compiler = needed("cc")?;
        let mut command = Command::new(compiler);
        command.args(["-O2", "-Wall", "-o"]).arg(target).arg(&from).args(libraries).arg("-lpthread");
        output(&mut command).map(drop)
    })
}

/// The C service that reads the clock around its system calls.
pub fn clock(at: &Endpoint, wiring: &Wiring, scratch: &Scratch) -> Result<Service> {
    let mut command = Command::new(c_program("clock", &[])?);
    command.arg(listen(at)).args(wiring.arguments());
    Service::listening("clock", &mut command, scratch, at)
}

/// The C service with a queue and workers.
pub fn pool(arguments: &[&str], at: &Endpoint, wiring: &Wiring, scratch: &Scratch) -> Result<Service> {
    let mut command = Command::new(c_program("pool", &[])?);
    command.args(arguments).arg(listen(at)).args(wiring.arguments());
    Service::listening("pool", &mut command, scratch, at)
}

/// Gunicorn with sync workers: a process per request at a time.
pub fn gunicorn(at: &Endpoint, wiring: &Wiring, scratch: &Scratch) -> Result<Service> {
    gunicorn_of("sync", at, wiring, scratch)
}

/// Gunicorn with workers of this class: 8 that take one request at a time, or 2 that take many.
pub fn gunicorn_of(class: &str, at: &Endpoint, wiring: &Wiring, scratch: &Scratch) -> Result<Service> {
    let bind = match at {
        Endpoint::Port(port) => format!("127.0.0.1:{port}"),
        Endpoint::Unix(path) => format!("unix:{}", path.display()),
    };
    let mut command = Command::new(virtual_environment()?.join("bin/gunicorn"));
    let workers = if class == "sync" { "8" } else { "2" };
    command.args(["--workers", workers, "--worker-class", class, "--worker-tmp-dir", "/dev/shm"]);
    command.args(["--bind", &bind]);
    if class == "gthread" {
        command.args(["--threads", "32", "--keep-alive", "60"]);
    }
    command.arg("--chdir").arg(source("")).arg("wsgi_service:application");
    command.env("PYTHONDONTWRITEBYTECODE", "1");
    if let Some(routes) = &wiring.routes {
        command.env("ROUTES", routes);
    }
    if let Some(next) = &wiring.next {
        command.env("NEXT", next.target());
    }
    if let Some(log) = &wiring.log {
        command.env("CALL_LOG", log);
    }
    Service::listening("gunicorn", &mut command, scratch, at)
}

/// Puma with 32 threads: some of its requests are read by its reactor, all are answered by the thread that works for them.
pub fn puma(at: &Endpoint, wiring: &Wiring, scratch: &Scratch) -> Result<Service> {
    let mut command = Command::new(needed("puma")?);
    command.args([
        "-b",
        &format!("tcp://127.0.0.1:{}", at.port()?),
        "-t",
        "32:32",
        "-w",
        "0",
        "-e",
        "production",
    ]);
    command.arg(source("service.ru"));
    if let Some(routes) = &wiring.routes {
        command.env("ROUTES", routes);
    }
    if let Some(next) = &wiring.next {
        command.env("NEXT", next.target());
    }
    Service::listening("puma", &mut command, scratch, at)
}

/// A virtual environment under `target/` with what the Python services need beyond the standard library. For another
/// interpreter than the distribution's, another one, with the versions of the packages that it can still have.
pub fn virtual_environment() -> Result<PathBuf> {
    let python = python()?;
    let other = std::env::var_os("SPANDREL_TEST_PYTHON").is_some();
    let name = if other {
        let version =
            output(Command::new(&python).args(["-c", "import sys; print(sys.version.split()[0])"]))?;
        format!("tests-python-{}", version.trim())
    } else {
        "tests-python".to_owned()
    };
    let target = workspace().join("target").join(&name);
    built(&format!("{name}.done"), &source("../needs.txt"), |done| {
        let _ = std::fs::remove_dir_all(&target);
        output(Command::new(&python).args(["-m", "venv"]).arg(&target))?;
        let mut pip = Command::new(target.join("bin/pip"));
        let mut packages = needs("pip")?;
        if other {
            for package in &mut packages {
                package.truncate(package.find("==").unwrap_or(package.len()));
            }
        }
        output(pip.args(["install", "--quiet", "--disable-pip-version-check"]).args(packages))?;
        std::fs::write(done, "").context("marking the virtual environment as complete")
    })?;
    Ok(target)
}

/// The entries of one kind in `tests/needs.txt`.
pub fn needs(kind: &str) -> Result<Vec<String>> {
    let path = source("../needs.txt");
    let text = std::fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
    let mut names = Vec::new();
    for line in text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')) {
        if let Some((is, name)) = line.split_once(char::is_whitespace)
            && is == kind
        {
            names.push(name.trim().to_owned());
        }
    }
    Ok(names)
}

/// `target/tests-bin/NAME`, made by `make` if it is not there or older than `from`. One at a time, also between tests
/// that run in parallel.
pub fn built(name: &str, from: &Path, make: impl FnOnce(&Path) -> Result<()>) -> Result<PathBuf> {
    static ONE: Mutex<()> = Mutex::new(());
    let _one = ONE.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let folder = workspace().join("target/tests-bin");
    std::fs::create_dir_all(&folder).with_context(|| format!("creating {}", folder.display()))?;
    let target = folder.join(name);
    let age = |path: &Path| path.metadata().and_then(|m| m.modified()).ok();
    if age(&target).is_none_or(|made| age(from).is_some_and(|changed| changed > made)) {
        let unfinished = folder.join(format!("{name}.{}", std::process::id()));
        make(&unfinished).with_context(|| format!("building {name}"))?;
        std::fs::rename(&unfinished, &target).with_context(|| format!("moving {name} to its place"))?;
    }
    Ok(target)
}

/// What a proxy does with requests: each path becomes the next hop's by a map.
#[derive(Clone, Debug)]
pub struct Proxy {
    /// `FROM TO` a line, for nginx each line ends with `;`.
    pub map: PathBuf,
    /// The upstream.
    pub next: Endpoint,
}

/// Apache as a reverse proxy; `mpm` is `prefork`, `worker` or `event`.
pub fn apache(mpm: &str, at: &Endpoint, proxy: &Proxy, scratch: &Scratch) -> Result<Service> {
    let port = at.port()?;
    let folder = scratch.join(&format!("apache-{port}"));
    std::fs::create_dir_all(&folder).with_context(|| format!("creating {}", folder.display()))?;
    let modules = Path::new("/usr/lib/apache2/modules");
    ensure!(modules.is_dir(), "{} is not there: install the package apache2", modules.display());
    let home = folder.display();
    let next = proxy.next.target();
    let map = proxy.map.display();
    let load: String = [&format!("mpm_{mpm}"), "authz_core", "proxy", "proxy_http", "rewrite"]
        .iter()
        .map(|name| format!("LoadModule {name}_module {}/mod_{name}.so\n", modules.display()))
        .collect();
    let size = match mpm {
        "prefork" => {
            "StartServers 8\nMinSpareServers 8\nMaxSpareServers 64\nServerLimit 64\nMaxRequestWorkers 64\n"
        }
        _ => "StartServers 2\nThreadsPerChild 32\nServerLimit 2\nMaxRequestWorkers 64\n",
    };
    let text = format!(
        "{load}ServerName localhost\nListen 127.0.0.1:{port}\nPidFile {home}/pid\nErrorLog {home}/error.log\nMutex file:{home}\n\
         User root\nGroup root\nKeepAlive On\nMaxKeepAliveRequests 0\nKeepAliveTimeout 30\n{size}\
         <Proxy \"http://{next}\">\n  ProxySet enablereuse=on max=64\n</Proxy>\n\
         RewriteEngine On\nRewriteMap next \"txt:{map}\"\nRewriteRule \"^(/.*)$\" \"http://{next}${{next:$1|/none}}\" [P]\n"
    );
    // Debian's build refuses to run as root unless told; a test that must be root to trace has no other user at hand.
    let text = if nix::unistd::Uid::effective().is_root() {
        text.replace("User root\nGroup root\n", "User www-data\nGroup www-data\n")
    } else {
        text.replace("User root\nGroup root\n", "")
    };
    let config = folder.join("apache.conf");
    std::fs::write(&config, text).with_context(|| format!("writing {}", config.display()))?;
    let mut command = Command::new(needed("apache2")?);
    command.arg("-d").arg(&folder).arg("-f").arg(&config).arg("-DFOREGROUND");
    Service::listening("apache2", &mut command, scratch, at)
}
