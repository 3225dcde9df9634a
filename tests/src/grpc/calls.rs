//! What a peer is told: lines of calls for the client, and in each request's first line what its server shall do.
//!
//! ```text
//! client:  PATH TAB unary|server|client|both TAB BODY TAB OPTIONS     or   wait TAB FILE
//!   OPTIONS  m=NxL  N metadata keys of L bytes     b=1 binary metadata     r=1 a random x-request-id
//!            t=MS   deadline      c=MS cancel after      n=N request messages     i=MS between them      z=N padding
//!   `wait` lets calls under way end, makes FILE.reached and goes on when FILE is there.
//!   Its log: CONNECTION TAB INDEX TAB PATH TAB BEGAN TAB ENDED TAB STATUS TAB MESSAGES, times in ns since 1970
//! server:  argument stop=FILE: ends gracefully when FILE is there
//!          BODY  d=MS delay   s=CODE status   n=N messages   i=MS between them   z=N bytes each   h=NxL reply metadata
//! ```
//! The kind of a method is the beginning of its name: `Server…`, `Client…`, `Both…` stream, anything else is unary.

use std::fmt::Write as _;
use std::path::Path;

use anyhow::{Context, Result};

/// Who sends more than one message.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[allow(missing_docs)]
pub enum Kind {
    Unary,
    Server,
    Client,
    Both,
}

/// What ends a call but its server.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[allow(missing_docs)]
pub enum Ends {
    Served,
    Deadline,
    Cancelled,
}

/// One call.
#[derive(Clone, Debug)]
pub struct Call {
    /// `/bench.Echo/METHOD`.
    pub path: String,
    /// Who streams.
    pub kind: Kind,
    /// What the server shall do.
    pub body: String,
    /// What the client shall do.
    pub options: String,
    /// It lasts at least so long.
    pub least_ms: u64,
    /// Messages that the client sends.
    pub requests: u64,
    /// Messages that the server sends, if the call is not cut short.
    pub responses: u64,
    /// Status that the server gives.
    pub status: u32,
    /// What ends it.
    pub ends: Ends,
}

impl Call {
    /// A unary call of this method.
    pub fn unary(method: &str, body: &str, options: &str) -> Self {
        let status = number(body, "s").unwrap_or(0) as u32;
        Self {
            path: format!("/bench.Echo/{method}"),
            kind: Kind::Unary,
            body: body.to_owned(),
            options: options.to_owned(),
            least_ms: number(body, "d").unwrap_or(0),
            requests: 1,
            responses: u64::from(status == 0),
            status,
            ends: Ends::Served,
        }
    }

    /// A call of a method whose name says its kind.
    pub fn streaming(method: &str, kind: Kind, body: &str, options: &str) -> Self {
        let mut call = Self::unary(method, body, options);
        call.kind = kind;
        if kind != Kind::Server {
            call.requests = number(options, "n").unwrap_or(1);
            call.least_ms += number(options, "i").unwrap_or(0) * call.requests.saturating_sub(1);
        }
        match kind {
            Kind::Server => {
                call.responses = number(body, "n").unwrap_or(1);
                call.least_ms += number(body, "i").unwrap_or(0) * call.responses;
            }
            Kind::Both => call.responses = call.requests,
            Kind::Unary | Kind::Client => {}
        }
        call
    }

    /// The same call, cut short by its client's deadline or by hand.
    pub fn ended_by(mut self, ends: Ends, after_ms: u64) -> Self {
        let key = if ends == Ends::Deadline { 't' } else { 'c' };
        let _ = write!(self.options, " {key}={after_ms}");
        (self.ends, self.least_ms) = (ends, after_ms.saturating_sub(2));
        self
    }

    /// `rpc.method`, as the conventions want it.
    pub fn method(&self) -> &str {
        self.path.trim_start_matches('/')
    }

    fn line(&self) -> String {
        let kind = match self.kind {
            Kind::Unary => "unary",
            Kind::Server => "server",
            Kind::Client => "client",
            Kind::Both => "both",
        };
        format!("{}\t{kind}\t{}\t{}\n", self.path, self.body, self.options)
    }
}

fn number(text: &str, key: &str) -> Option<u64> {
    text.split(' ').find_map(|word| word.strip_prefix(key)?.strip_prefix('=')?.parse().ok())
}

/// Writes calls for a client; before the one at `wait` it waits for this file.
pub fn write(calls: &[Call], wait: Option<(usize, &Path)>, to: &Path) -> Result<()> {
    let mut text = String::new();
    for (index, call) in calls.iter().enumerate() {
        if let Some((at, file)) = wait
            && at == index
        {
            let _ = writeln!(text, "wait\t{}", file.display());
        }
        text.push_str(&call.line());
    }
    std::fs::write(to, text).with_context(|| format!("writing calls to {}", to.display()))
}

/// Writes groups of calls, each of which begins when the one before is over; `open` is a file that is there. Returns the path of
/// the call in each line.
pub fn write_groups(groups: &[Vec<Call>], open: &Path, to: &Path) -> Result<Vec<Option<String>>> {
    let (mut text, mut paths) = (String::new(), Vec::new());
    for (number, group) in groups.iter().enumerate() {
        if number > 0 {
            let _ = writeln!(text, "wait\t{}", open.display());
            paths.push(None);
        }
        for call in group {
            text.push_str(&call.line());
            paths.push(Some(call.path.clone()));
        }
    }
    std::fs::write(to, text).with_context(|| format!("writing calls to {}", to.display()))?;
    Ok(paths)
}

/// What the client saw of a call.
#[derive(Clone, Debug)]
pub struct Seen {
    /// Which of its connections.
    pub connection: usize,
    /// Index into the calls.
    pub index: usize,
    /// Nanoseconds since 1970, before the call.
    pub began: u64,
    /// Nanoseconds since 1970, after it.
    pub ended: u64,
    /// The status that the program got.
    pub status: u32,
    /// Messages that the program got.
    pub messages: u64,
}

/// Reads a client's log; `wait` is the index before which it waited.
pub fn log(path: &Path, wait: Option<usize>) -> Result<Vec<Seen>> {
    let text = std::fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?;
    let mut all = Vec::new();
    for line in text.lines() {
        let seen = entry(line, wait).with_context(|| format!("{}: {line:?}", path.display()))?;
        all.push(seen);
    }
    Ok(all)
}

fn entry(line: &str, wait: Option<usize>) -> Result<Seen> {
    let parts: Vec<&str> = line.split('\t').collect();
    let part = |at: usize| parts.get(at).copied().context("too few fields");
    let line: usize = part(1)?.parse()?;
    Ok(Seen {
        connection: part(0)?.parse()?,
        // The line of `wait` is counted too.
        index: if wait.is_some_and(|at| line > at) { line - 1 } else { line },
        began: part(3)?.parse()?,
        ended: part(4)?.parse()?,
        status: part(5)?.parse()?,
        messages: part(6)?.parse()?,
    })
}

/// A status code by its name in the conventions.
pub fn status_name(code: u32) -> &'static str {
    const NAMES: [&str; 17] = [
        "OK",
        "CANCELLED",
        "UNKNOWN",
        "INVALID_ARGUMENT",
        "DEADLINE_EXCEEDED",
        "NOT_FOUND",
        "ALREADY_EXISTS",
        "PERMISSION_DENIED",
        "RESOURCE_EXHAUSTED",
        "FAILED_PRECONDITION",
        "ABORTED",
        "OUT_OF_RANGE",
        "UNIMPLEMENTED",
        "INTERNAL",
        "UNAVAILABLE",
        "DATA_LOSS",
        "UNAUTHENTICATED",
    ];
    NAMES.get(code as usize).copied().unwrap_or("?")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_lasts_as_long_as_its_messages_need() {
        let call = Call::streaming("Server1", Kind::Server, "n=50 i=20", "");
        assert_eq!((call.least_ms, call.requests, call.responses), (1000, 1, 50));
        let call = Call::streaming("Both1", Kind::Both, "z=1", "n=3 i=5");
        assert_eq!((call.least_ms, call.requests, call.responses), (10, 3, 3));
    }

    #[test]
    fn the_line_at_which_a_client_waits_is_no_call() {
        let line = "2\t11\t/a\t5\t6\t0\t1";
        assert_eq!(entry(line, Some(10)).unwrap().index, 10);
        assert_eq!(entry(line, None).unwrap().index, 11);
        assert!(entry("2\t11", None).is_err());
    }
}
