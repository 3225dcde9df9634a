//! Records connections of the five peers for the agent's own tests: a relay between a client and a server of the same library writes
//! down who said what, in the order in which it came.
//!
//! ```text
//! NAME.rec     a byte that says who spoke (0 the client), four that say how long it is, and that; again and again
//! NAME.calls   what was called, a line each: PATH TAB STATUS TAB REQUEST MESSAGES TAB RESPONSE MESSAGES, of calls that were served
//! ```
//! It must never change what it passes on.

use std::fmt::Write as _;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::apps::workspace;
use crate::grpc::calls::{self, Call, Ends, Kind};
use crate::grpc::peers::{Load, Peer};
use crate::process::{Endpoint, Scratch};

/// Where the recordings are kept.
pub fn folder() -> PathBuf {
    workspace().join("agent/src/exchange/http2/tests/recorded")
}

/// Calls of a few methods, again and again, with one of every kind among them.
fn script() -> Vec<Call> {
    let mut all = Vec::new();
    let unary = |from: usize, all: &mut Vec<Call>| {
        for number in from..from + 24 {
            let body = if number % 8 == 5 { "s=5" } else { "" };
            all.push(Call::unary(&format!("Method{}", number % 5), body, ""));
        }
    };
    unary(0, &mut all);
    all.push(Call::streaming("ServerFive", Kind::Server, "n=5 i=2 z=40", ""));
    all.push(Call::streaming("ClientThree", Kind::Client, "", "n=3 i=2"));
    all.push(Call::streaming("BothThree", Kind::Both, "z=20", "n=3 i=2"));
    all.push(Call::unary("Long", "z=9000", "z=9000"));
    all.push(Call::unary("Keys", "", "m=30x60 b=1"));
    all.push(Call::unary("Late", "d=400", "").ended_by(Ends::Deadline, 60));
    all.push(Call::streaming("ServerCut", Kind::Server, "n=100 i=20", "").ended_by(Ends::Cancelled, 70));
    unary(24, &mut all);
    all
}

/// Records a peer against itself; how many bytes.
pub fn record(peer: Peer) -> Result<usize> {
    let scratch = Scratch::new("record")?;
    let (file, log) = (scratch.join("calls.tsv"), scratch.join("log.tsv"));
    let all = script();
    calls::write(&all, None, &file)?;
    let (at, front) = (Endpoint::free()?, Endpoint::free()?);
    let _server = peer.server(&at, &file, &scratch)?;
    let listener = TcpListener::bind(front.address()?).context("binding the relay")?;
    let said = Arc::new(Mutex::new(Vec::new()));
    let (kept, back) = (Arc::clone(&said), at.address()?);
    let relay = std::thread::spawn(move || -> Result<()> {
        let (client, _) = listener.accept().context("accepting the client")?;
        let server = TcpStream::connect(back).context("connecting to the server")?;
        for socket in [&client, &server] {
            socket.set_nodelay(true).context("switching Nagle off")?;
        }
        let (from, to) =
            (client.try_clone().context("a second handle")?, server.try_clone().context("a second handle")?);
        let theirs = Arc::clone(&kept);
        let way = std::thread::spawn(move || pass(0, from, to, &theirs));
        pass(1, server, client, &kept);
        way.join().ok().context("a direction of the relay died")
    });
    let load = Load { calls: &file, log: &log, concurrency: 2, connections: 1, made: None };
    let mut client = peer.client(&front, &load, &scratch)?;
    let status = client.wait(Duration::from_secs(60))?;
    ensure!(status.success(), "the client ended with {status}: {}", client.output());
    drop(client);
    relay.join().ok().context("the relay died")??;
    let said = std::mem::take(&mut *said.lock().unwrap_or_else(PoisonError::into_inner));
    let mut text = String::new();
    for seen in calls::log(&log, None)? {
        let call = all.get(seen.index).context("a call that was not asked for")?;
        if call.ends == Ends::Served {
            let _ = writeln!(text, "{}\t{}\t{}\t{}", call.path, seen.status, call.requests, call.responses);
        }
    }
    write(&folder().join(format!("{}.rec", peer.name())), &said)?;
    write(&folder().join(format!("{}.calls", peer.name())), text.as_bytes())?;
    Ok(said.len())
}

fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    std::fs::write(path, bytes).with_context(|| format!("writing {}", path.display()))
}

/// Passes on one direction until its end.
fn pass(who: u8, mut from: TcpStream, mut to: TcpStream, said: &Mutex<Vec<u8>>) {
    let mut chunk = [0; 16 * 1024];
    while let Ok(count) = from.read(&mut chunk) {
        let bytes = chunk.get(..count).unwrap_or_default();
        if bytes.is_empty() {
            break;
        }
        {
            // What is answered to it cannot come before it is passed on, which is after this.
            let mut said = said.lock().unwrap_or_else(PoisonError::into_inner);
            said.push(who);
            said.extend((count as u32).to_be_bytes());
            said.extend(bytes);
        }
        if to.write_all(bytes).is_err() {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Write);
}
