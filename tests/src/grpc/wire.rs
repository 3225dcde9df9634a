//! HTTP/2 written by hand: frames, an encoder of header blocks, and both ends of one connection, each driven by a thread of its own.
//!
//! Each call that moves bytes is one that was asked for, so a test decides what a record holds. It must never share code with the
//! agent, and it knows what it has written: nothing here reads a frame.

use std::collections::VecDeque;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;

use anyhow::{Context, Result};

/// What a client sends first (RFC 9113 §3.4).
pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Types of frames (RFC 9113 §6).
pub const DATA: u8 = 0;
/// HEADERS.
pub const HEADERS: u8 = 1;
/// SETTINGS.
pub const SETTINGS: u8 = 4;
/// PING.
pub const PING: u8 = 6;
/// CONTINUATION.
pub const CONTINUATION: u8 = 9;
/// The flags END_STREAM and END_HEADERS.
pub const END_STREAM: u8 = 1;
/// The block ends with this frame.
pub const END_HEADERS: u8 = 4;

/// A frame (RFC 9113 §4.1).
pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = (payload.len() as u32).to_be_bytes();
    let mut bytes = vec![length[1], length[2], length[3], kind, flags];
    bytes.extend(stream.to_be_bytes());
    bytes.extend(payload);
    bytes
}

/// An integer with a prefix of so many bits, under these first bits (RFC 7541 §5.1).
pub fn integer(first: u8, prefix: u32, value: usize) -> Vec<u8> {
    let most = (1 << prefix) - 1;
    if value < most {
        return vec![first | value as u8];
    }
    let (mut bytes, mut rest) = (vec![first | most as u8], value - most);
    while rest >= 128 {
        bytes.push((rest % 128) as u8 | 128);
        rest /= 128;
    }
    bytes.push(rest as u8);
    bytes
}

fn string(text: &str) -> Vec<u8> {
    [&integer(0, 7, text.len())[..], text.as_bytes()].concat()
}

/// A field whose name and value are written out and not kept (RFC 7541 §6.2.2).
pub fn literal(name: &str, value: &str) -> Vec<u8> {
    [&[0][..], &string(name), &string(value)].concat()
}

/// Entries of the fixed table (RFC 7541 appendix A) that every encoder uses.
const FIXED: [(usize, &str, &str); 7] = [
    (3, ":method", "POST"),
    (6, ":scheme", "http"),
    (8, ":status", "200"),
    (1, ":authority", ""),
    (4, ":path", ""),
    (31, "content-type", ""),
    (58, "user-agent", ""),
];

/// An encoder with a table of 4,096 bytes, which inserts whatever it has not got (RFC 7541 §6.2.1): after a loss little of it is
/// known, as with the libraries that write short blocks.
#[derive(Debug, Default)]
pub struct Encoder {
    table: VecDeque<(String, String)>,
}

impl Encoder {
    /// A block of these fields.
    pub fn block(&mut self, fields: &[(&str, &str)]) -> Vec<u8> {
        let mut block = Vec::new();
        for (name, value) in fields {
            let fixed = FIXED.iter().find(|(_, key, text)| key == name && (text == value || text.is_empty()));
            if let Some((index, _, text)) = fixed
                && text == value
            {
                block.extend(integer(0x80, 7, *index));
                continue;
            }
            let mut entries = self.table.iter();
            if let Some(at) = entries.position(|entry| (&*entry.0, &*entry.1) == (*name, *value)) {
                block.extend(integer(0x80, 7, FIRST + at));
                continue;
            }
            let dynamic = self.table.iter().position(|entry| entry.0 == *name).map(|at| FIRST + at);
            match fixed.map(|(index, _, _)| *index).or(dynamic) {
                Some(index) => block.extend(integer(0x40, 6, index)),
                None => block.extend([&[0x40][..], &string(name)].concat()),
            }
            block.extend(string(value));
            self.table.push_front(((*name).to_owned(), (*value).to_owned()));
            while self.table.iter().map(|(name, value)| name.len() + value.len() + 32).sum::<usize>() > TABLE
            {
                self.table.pop_back();
            }
        }
        block
    }
}

/// The index of the newest entry (RFC 7541 §2.3.3).
const FIRST: usize = 62;
const TABLE: usize = 4096;

/// One end of a connection, and the thread that uses it.
#[derive(Debug)]
struct End {
    orders: Option<Sender<Order>>,
    done: Receiver<std::io::Result<()>>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
enum Order {
    /// One call.
    Write(Vec<u8>),
    /// So many bytes, in as many calls as it takes.
    Read(usize),
}

impl End {
    fn new(mut socket: TcpStream) -> Self {
        let (orders, taken) = channel::<Order>();
        let (said, done) = channel();
        let thread = std::thread::spawn(move || {
            let mut buffer = vec![0; 128 * 1024];
            for order in taken {
                let result = match order {
                    Order::Write(bytes) => socket.write_all(&bytes),
                    Order::Read(mut left) => loop {
                        let most = left.min(buffer.len());
                        match socket.read(buffer.get_mut(..most).unwrap_or_default()) {
                            _ if left == 0 => break Ok(()),
                            Ok(0) => break Err(std::io::ErrorKind::UnexpectedEof.into()),
                            Ok(count) => left -= count,
                            Err(error) => break Err(error),
                        }
                        if left == 0 {
                            break Ok(());
                        }
                    },
                };
                if said.send(result).is_err() {
                    return;
                }
            }
        });
        Self { orders: Some(orders), done, thread: Some(thread) }
    }

    fn order(&self, order: Order) -> Result<()> {
        self.orders.as_ref().context("the end is closed")?.send(order).context("an end's thread is gone")
    }

    fn wait(&self) -> Result<()> {
        self.done.recv().context("an end's thread is gone")?.context("moving bytes")
    }
}

impl Drop for End {
    fn drop(&mut self) {
        self.orders = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Who writes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Side {
    /// The one that connected.
    Client,
    /// The one that accepted.
    Server,
}

/// Both ends of a new connection over loopback, the client's first.
pub fn connected() -> Result<(TcpStream, TcpStream)> {
    let listener = TcpListener::bind(("127.0.0.1", 0)).context("listening")?;
    let client =
        TcpStream::connect(listener.local_addr().context("asking for the port")?).context("connecting")?;
    let (server, _) = listener.accept().context("accepting")?;
    for socket in [&client, &server] {
        socket.set_nodelay(true).context("switching Nagle off")?;
    }
    Ok((client, server))
}

/// Both ends of a connection. Dropping it closes both.
#[derive(Debug)]
pub struct Wire {
    client: End,
    server: End,
}

impl Wire {
    /// A new connection over loopback.
    pub fn connect() -> Result<Self> {
        let (client, server) = connected()?;
        Ok(Self { client: End::new(client), server: End::new(server) })
    }

    /// One call of this side writes all of it; the other has read it when this returns.
    pub fn send(&self, from: Side, bytes: Vec<u8>) -> Result<()> {
        let (writer, reader) = match from {
            Side::Client => (&self.client, &self.server),
            Side::Server => (&self.server, &self.client),
        };
        let length = bytes.len();
        if length == 0 {
            return Ok(());
        }
        writer.order(Order::Write(bytes))?;
        reader.order(Order::Read(length))?;
        writer.wait()?;
        reader.wait()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_said_before_is_a_reference() {
        let mut encoder = Encoder::default();
        assert_eq!(encoder.block(&[("a", "b")]), [0x40, 1, b'a', 1, b'b']);
        assert_eq!(encoder.block(&[("a", "b"), ("a", "c"), ("a", "b")]), [0xbe, 0x7e, 1, b'c', 0xbf]);
        assert_eq!(encoder.block(&[(":status", "200"), (":path", "/")]), [0x88, 0x44, 1, b'/']);
        // RFC 7541 §C.1.2.
        assert_eq!(integer(0, 5, 1337), [31, 154, 10]);
    }

    #[test]
    fn what_one_end_writes_the_other_has_read() {
        let wire = Wire::connect().unwrap();
        wire.send(Side::Client, vec![1; 3_000_000]).unwrap();
        wire.send(Side::Server, vec![2]).unwrap();
        wire.send(Side::Client, Vec::new()).unwrap();
    }
}
