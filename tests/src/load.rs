//! What bench and soak share: a web server and what loads it, what a process has taken, and a backend that costs next to
//! nothing.
//!
//! It must never judge a figure, and never look at the agent but from outside, through `/proc`.

use std::collections::HashSet;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use crate::process::{Endpoint, Scratch, Service, needed, output};

/// nginx with `/file` (1 KiB, from a file) and `/ok/…` (two bytes, whatever the path). It has half the machine's cores;
/// the others are for the load.
#[derive(Debug)]
pub struct Nginx {
    _service: Service,
    /// Where it listens.
    pub at: Endpoint,
    /// How many processes it has, and how many threads its load should have.
    pub threads: usize,
}

impl Nginx {
    /// Starts it, with its files in `scratch`.
    pub fn start(scratch: &Scratch) -> Result<Self> {
        let at = Endpoint::free()?;
        let port = at.port()?;
        let home = scratch.path().display();
        let threads = std::thread::available_parallelism().map_or(1, |cores| (cores.get() / 2).max(1));
        let user = if nix::unistd::Uid::effective().is_root() { "user root;\n" } else { "" };
        let text = format!(
            "daemon off;\n{user}worker_processes {threads};\nerror_log {home}/error.log;\npid {home}/pid;\n\
             events {{ worker_connections 4096; }}\n\
             http {{\n  access_log off;\n  keepalive_requests 1000000000;\n  client_body_temp_path {home}/body;\n\
             proxy_temp_path {home}/proxy;\n  fastcgi_temp_path {home}/fastcgi;\n  uwsgi_temp_path {home}/uwsgi;\n\
             scgi_temp_path {home}/scgi;\n  server {{ listen 127.0.0.1:{port}; root {home}/www;\n    location /ok/ {{ return 200 ok; }} }}\n}}\n"
        );
        std::fs::create_dir_all(scratch.join("www")).context("creating nginx's folder")?;
        std::fs::write(scratch.join("www/file"), [b'x'; 1024]).context("writing nginx's file")?;
        let config = scratch.join("nginx.conf");
        std::fs::write(&config, text).context("writing nginx.conf")?;
        let mut command = Command::new(needed("nginx")?);
        command.arg("-p").arg(scratch.path()).arg("-c").arg(&config);
        let service = Service::listening("nginx", &mut command, scratch, &at)?;
        Ok(Self { _service: service, at, threads })
    }
}

/// Traces these programs only, by the names of their executables: what else the machine does is not the load's.
pub fn only(programs: &[&str]) -> Vec<String> {
    programs.iter().flat_map(|program| ["--exe".to_owned(), (*program).to_owned()]).collect()
}

/// What a process has taken so far.
#[derive(Clone, Copy, Debug)]
pub struct Usage {
    /// In user and in kernel mode.
    pub cpu: Duration,
    /// Anonymous memory, bytes.
    pub anonymous: f64,
    /// Kernel memory of its maps but the rings, bytes.
    pub maps: f64,
    /// Kernel memory of its rings, bytes.
    pub ring: f64,
}

impl Usage {
    /// Of this process.
    pub fn of(pid: u32) -> Result<Self> {
        let process = Path::new("/proc").join(pid.to_string());
        let read = |name: &str| {
            let path = process.join(name);
            std::fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))
        };
        let (maps, ring) = kernel_maps(&process)?;
        Ok(Self {
            cpu: cpu(&read("stat")?)?,
            anonymous: field(&read("status")?, "RssAnon:") * 1024.0,
            maps,
            ring,
        })
    }
}

/// Anonymous memory of a process, in bytes.
pub fn anonymous(pid: u32) -> Result<u64> {
    let path = format!("/proc/{pid}/status");
    let text = std::fs::read_to_string(&path).with_context(|| format!("reading {path}"))?;
    Ok(field(&text, "RssAnon:") as u64 * 1024)
}

/// utime and stime of proc_pid_stat(5), the 14th and 15th field; the second may hold blanks.
fn cpu(stat: &str) -> Result<Duration> {
    let (_, fields) = stat.rsplit_once(") ").context("no process name in stat")?;
    let ticks = |n: usize| fields.split(' ').nth(n).and_then(|field| field.parse::<u64>().ok());
    let ticks = ticks(11).zip(ticks(12)).map(|(user, system)| user + system).context("no times in stat")?;
    let hertz = nix::unistd::sysconf(nix::unistd::SysconfVar::CLK_TCK).ok().flatten().unwrap_or(100);
    Ok(Duration::from_secs_f64(ticks as f64 / hertz as f64))
}

/// The number behind this word at a line's start; 0 without such a line.
fn field(text: &str, key: &str) -> f64 {
    let line = text.lines().find_map(|line| line.strip_prefix(key));
    line.and_then(|rest| rest.split_whitespace().next()?.parse().ok()).unwrap_or(0.0)
}

/// Bytes of kernel memory of the maps that a process holds: all but the rings, and the rings (their type is 27,
/// `BPF_MAP_TYPE_RINGBUF` of include/uapi/linux/bpf.h).
fn kernel_maps(process: &Path) -> Result<(f64, f64)> {
    let (mut maps, mut ring) = (0.0, 0.0);
    let mut seen = HashSet::new();
    let entries = process.join("fdinfo");
    for entry in
        std::fs::read_dir(&entries).with_context(|| format!("listing {}", entries.display()))?.flatten()
    {
        let text = std::fs::read_to_string(entry.path()).unwrap_or_default();
        // Without `map_id`, which kernels have told since 4.13, it is no map.
        let id = field(&text, "map_id:");
        if id > 0.0 && seen.insert(id as u64) {
            *(if field(&text, "map_type:") == 27.0 { &mut ring } else { &mut maps }) +=
                field(&text, "memlock:");
        }
    }
    Ok((maps, ring))
}

/// One run of wrk.
#[derive(Clone, Copy, Debug)]
pub struct Load {
    /// How many were answered.
    pub requests: u64,
    /// A second.
    pub rate: f64,
    /// Microseconds.
    pub p50: f64,
    /// Microseconds.
    pub p99: f64,
}

/// wrk on so many keep-alive connections, as fast as it can, for so many seconds.
pub fn saturate(at: &Endpoint, path: &str, threads: usize, connections: usize, seconds: u64) -> Result<Load> {
    let text = output(
        Command::new(needed("wrk")?)
            .args(["--latency", "--threads", &threads.to_string()])
            .args(["--connections", &connections.to_string()])
            .args(["--duration", &format!("{seconds}s")])
            .arg(format!("http://{}{path}", at.target())),
    )?;
    ensure!(!text.contains("Socket errors") && !text.contains("Non-2xx"), "wrk met errors:\n{text}");
    parse_wrk(&text).with_context(|| format!("reading what wrk said:\n{text}"))
}

/// `50%    1.23ms`, `Requests/sec:  12345.67` and `123456 requests in 5.00s, 1MB read`.
fn parse_wrk(text: &str) -> Result<Load> {
    let after = |start: &str| {
        let found = text.lines().find_map(|line| line.trim().strip_prefix(start));
        found.map(str::trim).with_context(|| format!("no line {start}"))
    };
    let requests =
        text.lines().find_map(|line| line.trim().split_once(" requests in ")).context("no count")?.0;
    Ok(Load {
        requests: requests.parse().context("the count is no number")?,
        rate: after("Requests/sec:")?.parse().context("the rate is no number")?,
        p50: microseconds(after("50%")?)?,
        p99: microseconds(after("99%")?)?,
    })
}

fn microseconds(text: &str) -> Result<f64> {
    let units = [("us", 1.0), ("ms", 1e3), ("s", 1e6)];
    for (unit, factor) in units {
        if let Some(number) = text.strip_suffix(unit) {
            return Ok(number.parse::<f64>().with_context(|| format!("no duration: {text}"))? * factor);
        }
    }
    bail!("no duration: {text}")
}

/// Takes OTLP over HTTP and throws it away: a backend that costs next to nothing.
#[derive(Debug)]
pub struct Sink {
    /// Where it listens, on 127.0.0.1.
    pub port: u16,
    bytes: Arc<AtomicU64>,
}

impl Sink {
    /// Listens, with a thread per connection.
    pub fn start() -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("listening")?;
        let port = listener.local_addr().context("asking for the port")?.port();
        let bytes = Arc::new(AtomicU64::new(0));
        let count = Arc::clone(&bytes);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let count = Arc::clone(&count);
                std::thread::spawn(move || take(stream, &count));
            }
        });
        Ok(Self { port, bytes })
    }

    /// Bytes so far.
    pub fn received(&self) -> f64 {
        self.bytes.load(Ordering::Relaxed) as f64
    }
}

/// Serves one connection until it ends; a request that has neither Content-Length nor chunks ends it.
fn take(mut stream: TcpStream, count: &AtomicU64) -> Option<()> {
    let mut buffer = vec![0; 1 << 20];
    let (mut head, mut body) = (Vec::new(), 0u64);
    // The last bytes of a chunked body, while there is one (Node's SDK sends such).
    let mut tail: Option<Vec<u8>> = None;
    loop {
        let got = stream.read(&mut buffer).ok().filter(|got| *got > 0)?;
        count.fetch_add(got as u64, Ordering::Relaxed);
        let ends_chunks = |tail: &mut Vec<u8>, bytes: &[u8]| {
            tail.extend_from_slice(bytes.get(bytes.len().saturating_sub(5)..).unwrap_or_default());
            tail.drain(..tail.len().saturating_sub(5));
            tail.ends_with(b"0\r\n\r\n")
        };
        if let Some(last) = &mut tail {
            if ends_chunks(last, buffer.get(..got)?) {
                tail = None;
            }
        } else if body > 0 {
            body = body.checked_sub(got as u64)?;
        } else {
            head.extend_from_slice(buffer.get(..got)?);
            let Some(end) = head.windows(4).position(|window| window == b"\r\n\r\n") else { continue };
            let text = String::from_utf8_lossy(head.get(..end)?).to_ascii_lowercase();
            let there = head.get(end + 4..)?;
            if text.lines().any(|line| line.starts_with("transfer-encoding:") && line.contains("chunked")) {
                let mut last = Vec::new();
                tail = (!ends_chunks(&mut last, there)).then_some(last);
            } else {
                let length: u64 = text
                    .lines()
                    .find_map(|line| line.strip_prefix("content-length:"))?
                    .trim()
                    .parse()
                    .ok()?;
                body = length.checked_sub(there.len() as u64)?;
            }
            head.clear();
        }
        if body == 0 && tail.is_none() {
            stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").ok()?;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_wrk_prints_is_read_in_microseconds() {
        let text = "  Latency Distribution\n     50%    1.50ms\n     90%  700.00us\n     99%    1.20s \n\
            \x20 61234 requests in 5.00s, 75.1MB read\nRequests/sec:  12246.80\nTransfer/sec:     15.02MB\n";
        let load = parse_wrk(text).unwrap();
        assert_eq!((load.requests, load.p50, load.p99), (61_234, 1_500.0, 1_200_000.0));
        assert!((load.rate - 12_246.8).abs() < 1e-6);
    }

    #[test]
    fn a_body_in_chunks_is_taken_and_answered_as_one_with_a_length_is() {
        let sink = Sink::start().unwrap();
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, sink.port)).unwrap();
        let mut answer = [0; 38];
        for request in [
            "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
            "POST / HTTP/1.1\r\nContent-Length: 3\r\n\r\nabc",
        ] {
            stream.write_all(request.as_bytes()).unwrap();
            stream.read_exact(&mut answer).unwrap();
            assert!(answer.starts_with(b"HTTP/1.1 200 OK"));
        }
    }

    #[test]
    fn the_agents_cpu_time_is_read_behind_a_name_with_blanks() {
        let stat = "7 (a) b) S 1 7 7 0 -1 4194560 1 2 3 4 250 50 7 8 20 0 1 0 123456 9";
        assert_eq!(cpu(stat).unwrap(), Duration::from_secs(3));
    }
}
