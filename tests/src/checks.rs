//! What several end-to-end tests ask of spans, in words that fail with all that is needed to understand why.
//!
//! Nothing here starts or waits for anything but the lock that keeps two tests from sharing the machine.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use anyhow::{Context, Result, bail, ensure};

use crate::otlp::{Kind, SeenSpan};

/// One test at a time: agents see each other's traffic, and figures do not survive company.
pub fn machine() -> MutexGuard<'static, ()> {
    static MACHINE: Mutex<()> = Mutex::new(());
    MACHINE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// How many requests a test sends: `quick`, or `full` where `SPANDREL_FULL` is set.
pub fn scaled(quick: usize, full: usize) -> usize {
    if std::env::var_os("SPANDREL_FULL").is_some() { full } else { quick }
}

/// The one span of this path and kind.
pub fn one<'a>(spans: &'a [SeenSpan], path: &str, kind: Kind) -> Result<&'a SeenSpan> {
    let found: Vec<_> = spans.iter().filter(|span| span.kind == kind && span.path() == path).collect();
    match found[..] {
        [one] => Ok(one),
        [] => bail!("no {kind:?} span of {path} among {} spans", spans.len()),
        _ => bail!("{} {kind:?} spans of {path}: {found:?}", found.len()),
    }
}

/// The client and the server span of this path: one each, joined by their connection, one within the other.
pub fn joined<'a>(spans: &'a [SeenSpan], path: &str) -> Result<(&'a SeenSpan, &'a SeenSpan)> {
    let client = one(spans, path, Kind::Client)?;
    let server = one(spans, path, Kind::Server)?;
    ensure!(
        server.parent.as_deref() == Some(&client.id) && server.trace == client.trace,
        "the server span of {path} has parent {:?} of {}, its client is {} of {}",
        server.parent,
        server.trace,
        client.id,
        client.trace
    );
    ensure!(server.method() == "stream", "{path} is linked by {:?}", server.method());
    ensure!(
        client.start <= server.start && server.end <= client.end,
        "the server span of {path} is not within its client's: {}..{} and {}..{}",
        server.start,
        server.end,
        client.start,
        client.end
    );
    Ok((client, server))
}

/// Spans by path, for those who look for many.
pub fn by_path(spans: &[SeenSpan]) -> HashMap<&str, Vec<SeenSpan>> {
    let mut paths: HashMap<&str, Vec<SeenSpan>> = HashMap::new();
    for span in spans {
        paths.entry(span.path()).or_default().push(span.clone());
    }
    paths
}

/// That no server span of these paths has a parent but its own client span.
pub fn nothing_wrong(spans: &[SeenSpan], prefix: &str) -> Result<()> {
    let by_id: HashMap<&str, &SeenSpan> = spans.iter().map(|span| (span.id.as_str(), span)).collect();
    for server in spans.iter().filter(|s| s.kind == Kind::Server && s.path().starts_with(prefix)) {
        if let Some(parent) = &server.parent {
            let client = by_id.get(parent.as_str());
            let client = client.with_context(|| format!("{} has a parent that never came", server.path()))?;
            ensure!(client.path() == server.path(), "{} is below {}", server.path(), client.path());
        }
    }
    Ok(())
}

/// The bytes that make text harmless nowhere: control characters and what is not UTF-8 by itself.
pub fn is_harmless(text: &str) -> bool {
    !text.chars().any(|c| (c.is_control() && c != '\n' && c != '\t') || ('\u{80}'..='\u{9f}').contains(&c))
}
