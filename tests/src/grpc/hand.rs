//! A server of gRPC written by hand, which ends calls in the ways that libraries hardly ever do: every code of RST_STREAM,
//! refused streams, GOAWAY below streams that are under way, a connection that is closed or reset.
//!
//! What it shall do stands in the first line of a call's message, `a=ACTION k=TOKEN`; what it did, attempt by attempt, in its
//! log. It reads no header block, so it needs no table, and it must never answer a stream in two ways.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nix::sys::socket::{setsockopt, sockopt::Linger};

use crate::grpc::wire::{frame, literal};
use crate::process::Endpoint;

/// How an attempt ended.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Did {
    /// Answered in full, with this status.
    Status(u32),
    /// `:status`, and no `grpc-status`.
    Http(u16),
    /// RST_STREAM.
    Reset(u32),
    /// GOAWAY that names a lower stream.
    GoneAway,
    /// The connection was closed or reset.
    Lost,
}

impl Did {
    /// The status that both ends must have: "gRPC over HTTP2", its table of HTTP/2 errors; where that says nothing, what
    /// grpc-go does.
    pub fn status(self) -> u32 {
        match self {
            Self::Status(status) => status,
            Self::Http(503) | Self::GoneAway | Self::Lost | Self::Reset(7) => 14,
            Self::Http(_) => 2,
            Self::Reset(8) => 1,
            Self::Reset(11) => 8,
            Self::Reset(12) => 7,
            Self::Reset(_) => 13,
        }
    }
}

/// The attempts at each token, in their order.
pub type Log = HashMap<String, Vec<Did>>;

/// The server. It ends with the process.
#[derive(Debug)]
pub struct Hand {
    /// Where it listens.
    pub at: Endpoint,
    log: Arc<Mutex<Log>>,
}

impl Hand {
    /// Starts it.
    pub fn start() -> Result<Self> {
        let at = Endpoint::free()?;
        let listener = TcpListener::bind(at.address()?).context("binding the server by hand")?;
        let log = Arc::new(Mutex::new(Log::new()));
        let kept = Arc::clone(&log);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let log = Arc::clone(&log);
                std::thread::spawn(move || Connection::new(stream, log).serve());
            }
        });
        Ok(Self { at, log: kept })
    }

    /// What it did so far.
    pub fn log(&self) -> Log {
        self.log.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// What a call's message asks for.
fn asked(message: &[u8]) -> Option<(String, String)> {
    let line = String::from_utf8_lossy(message.split(|byte| *byte == b'\n').next()?).into_owned();
    let word = |key: &str| line.split(' ').find_map(|word| Some(word.strip_prefix(key)?.to_owned()));
    Some((word("a=")?, word("k=")?))
}

/// `:status`, and that it is gRPC.
fn head(status: u16) -> Vec<u8> {
    [literal(":status", &status.to_string()), literal("content-type", "application/grpc")].concat()
}

struct Connection {
    socket: TcpStream,
    log: Arc<Mutex<Log>>,
    /// DATA of streams that are not answered.
    messages: HashMap<u32, Vec<u8>>,
    /// Streams that are answered later.
    held: Vec<(Instant, u32, String)>,
    /// Streams above are not served.
    gone: Option<u32>,
}

impl Connection {
    fn new(socket: TcpStream, log: Arc<Mutex<Log>>) -> Self {
        Self { socket, log, messages: HashMap::new(), held: Vec::new(), gone: None }
    }

    fn did(&self, token: &str, did: Did) {
        self.log
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .entry(token.to_owned())
            .or_default()
            .push(did);
    }

    fn attempts(&self, token: &str) -> usize {
        self.log.lock().unwrap_or_else(PoisonError::into_inner).get(token).map_or(0, Vec::len)
    }

    /// Until the client ends it, or the server does.
    fn serve(mut self) {
        let mut bytes = Vec::new();
        let mut chunk = [0; 16 * 1024];
        if self.socket.write_all(&frame(4, 0, 0, &[])).is_err()
            || self.socket.set_read_timeout(Some(Duration::from_millis(20))).is_err()
        {
            return;
        }
        let mut preface = false;
        loop {
            match self.socket.read(&mut chunk) {
                Ok(0) => return,
                Ok(count) => bytes.extend_from_slice(&chunk[..count]),
                Err(error)
                    if matches!(
                        error.kind(),
                        std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut
                    ) => {}
                Err(_) => return,
            }
            if !preface && bytes.len() >= 24 {
                bytes.drain(..24);
                preface = true;
            }
            while preface && bytes.len() >= 9 {
                let length = u32::from_be_bytes([0, bytes[0], bytes[1], bytes[2]]) as usize;
                if bytes.len() < 9 + length {
                    break;
                }
                let stream = u32::from_be_bytes([bytes[5] & 0x7f, bytes[6], bytes[7], bytes[8]]);
                let (kind, flags) = (bytes[3], bytes[4]);
                let payload: Vec<u8> = bytes.drain(..9 + length).skip(9).collect();
                if !self.take(kind, flags, stream, &payload) {
                    return;
                }
            }
            self.answer_held();
        }
    }

    /// Takes a frame; false if the connection is over.
    fn take(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) -> bool {
        match kind {
            4 if flags & 1 == 0 => self.send(&[frame(4, 1, 0, &[])]),
            6 if flags & 1 == 0 => self.send(&[frame(6, 1, 0, payload)]),
            0 => {
                self.messages.entry(stream).or_default().extend_from_slice(payload);
                if flags & 1 == 0 {
                    return true;
                }
                let message = self.messages.remove(&stream).unwrap_or_default();
                match asked(message.get(5..).unwrap_or_default()) {
                    Some((action, token)) => self.act(stream, &action, token),
                    None => true,
                }
            }
            _ => true,
        }
    }

    fn act(&mut self, stream: u32, action: &str, token: String) -> bool {
        if self.gone.is_some_and(|last| stream > last) {
            self.did(&token, Did::GoneAway);
            return true;
        }
        let code = |prefix: &str| -> Option<u32> { action.strip_prefix(prefix)?.parse().ok() };
        // What is said once is not said again to a client that tries again.
        let again = self.attempts(&token) > 0;
        if let Some(code) = code("reset:") {
            self.did(&token, Did::Reset(code));
            return self.send(&[frame(3, 0, stream, &code.to_be_bytes())]);
        }
        if let Some(code) = code("late-reset:") {
            self.did(&token, Did::Reset(code));
            let begun = [frame(1, 4, stream, &head(200)), frame(0, 0, stream, b"\0\0\0\0\x02hi")];
            return self.send(&begun) && self.send(&[frame(3, 0, stream, &code.to_be_bytes())]);
        }
        match action {
            "refuse" if !again => {
                self.did(&token, Did::Reset(7));
                self.send(&[frame(3, 0, stream, &7_u32.to_be_bytes())])
            }
            "hold" => {
                self.held.push((Instant::now() + Duration::from_millis(300), stream, token));
                true
            }
            "goaway" if !again => {
                let last = stream.saturating_sub(2);
                self.did(&token, Did::GoneAway);
                self.gone = Some(last);
                let (gone, held) = std::mem::take(&mut self.held).into_iter().partition(|held| held.1 > last);
                self.held = held;
                let gone: Vec<(Instant, u32, String)> = gone;
                for (_, _, token) in gone {
                    self.did(&token, Did::GoneAway);
                }
                let payload = [last.to_be_bytes(), 0_u32.to_be_bytes()].concat();
                self.send(&[frame(7, 0, 0, &payload)])
            }
            "trailers-only" => {
                self.did(&token, Did::Status(5));
                let block = [head(200), literal("grpc-status", "5")].concat();
                self.send(&[frame(1, 5, stream, &block)])
            }
            "http" => {
                self.did(&token, Did::Http(503));
                self.send(&[frame(1, 5, stream, &head(503))])
            }
            "no-status" => {
                self.did(&token, Did::Http(200));
                let answer = [frame(1, 4, stream, &head(200)), frame(0, 1, stream, b"\0\0\0\0\x02hi")];
                self.send(&answer)
            }
            "close" if !again => {
                self.did(&token, Did::Lost);
                self.drain();
                false
            }
            "abort" if !again => {
                self.did(&token, Did::Lost);
                let linger = libc::linger { l_onoff: 1, l_linger: 0 };
                let _ = setsockopt(&self.socket, Linger, &linger);
                false
            }
            _ => self.answer(stream, &token),
        }
    }

    /// Reads what is there, since a close with unread bytes is a reset.
    fn drain(&mut self) {
        let mut chunk = [0; 4096];
        let _ = self.socket.set_read_timeout(Some(Duration::from_millis(50)));
        while self.socket.read(&mut chunk).is_ok_and(|count| count > 0) {}
    }

    fn answer(&mut self, stream: u32, token: &str) -> bool {
        self.did(token, Did::Status(0));
        self.send(&[
            frame(1, 4, stream, &head(200)),
            frame(0, 0, stream, b"\0\0\0\0\x02hi"),
            frame(1, 5, stream, &literal("grpc-status", "0")),
        ])
    }

    fn answer_held(&mut self) {
        let now = Instant::now();
        let (due, held) = std::mem::take(&mut self.held).into_iter().partition(|held| held.0 <= now);
        self.held = held;
        let due: Vec<(Instant, u32, String)> = due;
        for (_, stream, token) in due {
            self.answer(stream, &token);
        }
    }

    fn send(&mut self, frames: &[Vec<u8>]) -> bool {
        self.socket.write_all(&frames.concat()).is_ok()
    }
}
