//! Sends the requests of a plan over keep-alive connections, so many at once, and notes which bytes of which
//! connection each of them was. It is a traced program like any other: blocking sockets, a thread per connection, no
//! tracing of its own. It must never send anything that links two hops.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::gaps::Place;
use crate::plan::{Body, Plan};

/// How to send.
#[derive(Clone, Debug)]
pub struct Load {
    /// To whom.
    pub to: SocketAddr,
    /// How many connections, each with one request at a time.
    pub concurrency: usize,
    /// A random wait before each request, up to so long.
    pub pause: Duration,
    /// Of the random waits.
    pub seed: u64,
}

/// What was sent.
#[derive(Clone, Debug, Default)]
pub struct Sent {
    /// By path: where the bytes of a request and its response were.
    pub places: HashMap<String, Place>,
    /// By path: when its first byte was about to be written.
    pub began: HashMap<String, Instant>,
    /// From the first request to the last response.
    pub elapsed: Duration,
}

/// How far a driver is, and when it has done enough.
#[derive(Debug, Default)]
pub struct Progress {
    next: AtomicUsize,
    enough: AtomicBool,
}

impl Progress {
    /// Requests begun so far.
    pub fn begun(&self) -> usize {
        self.next.load(Ordering::Relaxed)
    }

    /// No request more.
    pub fn enough(&self) {
        self.enough.store(true, Ordering::Relaxed);
    }

    fn next(&self) -> Option<usize> {
        (!self.enough.load(Ordering::Relaxed)).then(|| self.next.fetch_add(1, Ordering::Relaxed))
    }
}

/// Sends these requests. Any that is not answered with 200 is an error: then nothing can be said about spans.
pub fn drive(load: &Load, plan: &Plan, roots: &[usize]) -> Result<Sent> {
    drive_until(load, plan, roots, &Progress::default())
}

/// The same, until somebody says that it is enough.
pub fn drive_until(load: &Load, plan: &Plan, roots: &[usize], progress: &Progress) -> Result<Sent> {
    let began = Instant::now();
    let parts = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..load.concurrency)
            .map(|number| {
                scope.spawn(move || {
                    // One that fails must not keep the others, or who waits for progress, going for long.
                    worker(load, plan, roots, progress, number as u64).inspect_err(|_| progress.enough())
                })
            })
            .collect();
        workers
            .into_iter()
            .map(|worker| worker.join().unwrap_or_else(|_| bail!("a thread of the driver panicked")))
            .collect::<Result<Vec<_>>>()
    })?;
    let mut sent = Sent { elapsed: began.elapsed(), ..Sent::default() };
    for (path, place, began) in parts.into_iter().flatten() {
        sent.began.insert(path.clone(), began);
        sent.places.insert(path, place);
    }
    Ok(sent)
}

fn worker(
    load: &Load,
    plan: &Plan,
    roots: &[usize],
    progress: &Progress,
    number: u64,
) -> Result<Vec<(String, Place, Instant)>> {
    let mut random = StdRng::seed_from_u64(load.seed ^ (number << 32));
    let mut connection: Option<Connection> = None;
    let mut sent = Vec::new();
    while let Some(&root) = progress.next().and_then(|next| roots.get(next)) {
        let call = &plan.calls[root];
        std::thread::sleep(load.pause.mul_f64(random.random()));
        let mut open = match connection.take() {
            Some(open) => open,
            None => Connection::open(load.to)?,
        };
        let mut extra = String::new();
        if let Some(carried) = &call.carried {
            extra = format!("traceparent: {}\r\n", carried.header());
        }
        let began = Instant::now();
        let (place, closes) = open
            .exchange_with(&call.path, &extra, call.body)
            .with_context(|| format!("{} from {}", call.path, load.to))?;
        sent.push((call.path.clone(), place, began));
        if !closes {
            connection = Some(open);
        }
    }
    Ok(sent)
}

/// A keep-alive connection that counts its bytes.
#[derive(Debug)]
pub struct Connection {
    stream: TcpStream,
    sent: u64,
    received: u64,
}

impl Connection {
    /// Connects.
    pub fn open(to: SocketAddr) -> Result<Self> {
        let stream = TcpStream::connect(to).with_context(|| format!("connecting to {to}"))?;
        stream.set_nodelay(true).context("setting TCP_NODELAY")?;
        stream.set_read_timeout(Some(ANSWER)).context("setting a time-out")?;
        Ok(Self { stream, sent: 0, received: 0 })
    }

    /// The socket.
    pub fn stream(&self) -> &TcpStream {
        &self.stream
    }

    /// One request and its response: where they were, and whether the connection closes now. `extra` are whole header
    /// lines.
    pub fn exchange(&mut self, path: &str, extra: &str) -> Result<(Place, bool)> {
        self.exchange_with(path, extra, Body::None)
    }

    fn exchange_with(&mut self, path: &str, extra: &str, body: Body) -> Result<(Place, bool)> {
        let from = (self.sent, self.received);
        let (method, length) = match body {
            Body::None => ("GET", String::new()),
            Body::InPieces => ("POST", format!("Content-Length: {}\r\n", 3 * PIECE)),
        };
        let head = format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\n{extra}{length}\r\n");
        self.write(head.as_bytes())?;
        if body == Body::InPieces {
            for _ in 0..3 {
                self.write(&[b'.'; PIECE])?;
                std::thread::sleep(Duration::from_millis(1));
            }
        }
        let closes = self.response().context("reading the response")?;
        let place = Place {
            client: self.stream.local_addr().context("asking for the own port")?.port(),
            server: self.stream.peer_addr().context("asking for the peer's port")?.port(),
            request: (from.0, self.sent),
            response: (from.1, self.received),
        };
        Ok((place, closes))
    }

    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.stream.write_all(bytes).context("writing the request")?;
        self.sent += bytes.len() as u64;
        Ok(())
    }

    /// Reads one response with a Content-Length or chunked, or to the end of the connection.
    fn response(&mut self) -> Result<bool> {
        let mut data = Vec::new();
        let mut buffer = [0; 16 * 1024];
        loop {
            if let Some(end) = complete(&data)? {
                ensure!(end.length == data.len(), "{} bytes after the response", data.len() - end.length);
                return Ok(end.closes);
            }
            let count = self.stream.read(&mut buffer)?;
            self.received += count as u64;
            if count == 0 {
                let head = String::from_utf8_lossy(&data).into_owned();
                ensure!(
                    head.starts_with("HTTP/1.") && !head.to_lowercase().contains("content-length"),
                    "closed early"
                );
                return Ok(true);
            }
            data.extend_from_slice(&buffer[..count]);
        }
    }
}

struct End {
    length: usize,
    closes: bool,
}

/// Where the response at the start of `data` ends, if all of it is there. A status but 200 is an error.
fn complete(data: &[u8]) -> Result<Option<End>> {
    let Some(head) = data.windows(4).position(|w| w == b"\r\n\r\n").map(|at| at + 4) else { return Ok(None) };
    let text = String::from_utf8_lossy(&data[..head]).to_lowercase();
    let status = text.split(' ').nth(1).unwrap_or("").to_owned();
    ensure!(status == "200", "status {status}");
    let field = |name: &str| {
        text.lines()
            .find_map(|l| l.strip_prefix(name)?.strip_prefix(':').map(|value| value.trim().to_owned()))
    };
    let closes = field("connection").is_some_and(|value| value.contains("close"));
    if let Some(length) = field("content-length") {
        let length = head + length.parse::<usize>().with_context(|| format!("Content-Length {length:?}"))?;
        return Ok((data.len() >= length).then_some(End { length, closes }));
    }
    if field("transfer-encoding").is_some_and(|value| value.contains("chunked")) {
        return Ok(data.ends_with(b"0\r\n\r\n").then_some(End { length: data.len(), closes }));
    }
    Ok(None)
}

/// A third of a request's body.
const PIECE: usize = 3000;
const ANSWER: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_response_ends_where_its_length_says() {
        let whole = b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nConnection: close\r\n\r\nabc";
        for cut in 0..whole.len() {
            assert!(complete(&whole[..cut]).unwrap().is_none(), "cut at {cut}");
        }
        assert!(complete(whole).unwrap().unwrap().closes);
    }

    #[test]
    fn another_status_than_200_is_an_error() {
        assert!(complete(b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n").is_err());
    }
}
