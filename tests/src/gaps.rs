//! What the agent itself says is missing: its gap report, and the question whether a missing request met a gap.
//!
//! A gap is a range of one direction of one connection, as one end saw it. It must never be stretched to fit: a
//! request that overlaps no reported range was lost silently.

use std::collections::HashMap;
use std::path::Path;

use anyhow::{Context, Result};
use serde::Deserialize;

use crate::otlp::Kind;

/// One line of the report.
#[derive(Clone, Debug, Deserialize)]
pub struct Gap {
    /// The agent's number of this end of the connection.
    #[serde(default)]
    pub connection: u64,
    /// `ip:port` of this end, if it is known.
    #[serde(default)]
    pub local: Option<String>,
    /// `ip:port` of the other end, if it is known.
    #[serde(default)]
    pub peer: Option<String>,
    /// `send` or `receive`, seen from this end.
    pub direction: String,
    /// The TCP sequence number of the first missing byte.
    pub position: u32,
    /// How many bytes.
    pub length: u64,
    /// Why.
    pub cause: String,
}

/// A gap that is on purpose loses no message.
const INTENDED: [&str; 3] = ["silent", "limit", "unseen"];

impl Gap {
    /// Whether the agent lost these bytes, rather than not asking for them.
    pub fn is_loss(&self) -> bool {
        !INTENDED.contains(&self.cause.as_str())
    }
}

/// All gaps of a report. A last line without its newline is left out.
pub fn read(path: &Path) -> Result<Vec<Gap>> {
    let text = std::fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?;
    let whole = text.rfind('\n').map_or("", |end| &text[..end]);
    whole
        .lines()
        .enumerate()
        .map(|(n, line)| {
            serde_json::from_str(line).with_context(|| format!("{} line {}: {line}", path.display(), n + 1))
        })
        .collect()
}

/// Where one request and its response were: bytes of a TCP connection, from the first byte sent on it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Place {
    /// The client's port.
    pub client: u16,
    /// The server's port.
    pub server: u16,
    /// The request: first byte, and the byte after the last.
    pub request: (u64, u64),
    /// The response, likewise.
    pub response: (u64, u64),
}

impl Place {
    /// A line as the services log it: `path TAB client port TAB server port TAB request from, to TAB response from, to`.
    pub fn parse(line: &str) -> Option<(String, Self)> {
        let mut field = line.split('\t');
        let path = field.next()?.to_owned();
        let n: Vec<u64> = field.map_while(|f| f.parse().ok()).collect();
        let &[client, server, a, b, c, d] = n.as_slice() else { return None };
        let place = Self {
            client: client.try_into().ok()?,
            server: server.try_into().ok()?,
            request: (a, b),
            response: (c, d),
        };
        Some((path, place))
    }

    /// Whether a span of this request, seen from the side that `kind` says, can be missing because of one of these gaps.
    pub fn meets(&self, kind: Kind, gaps: &GapIndex) -> bool {
        let (local, peer) = match kind {
            Kind::Client => (self.client, self.server),
            Kind::Server => (self.server, self.client),
        };
        let (sent, received) = match kind {
            Kind::Client => (self.request, self.response),
            Kind::Server => (self.response, self.request),
        };
        gaps.of(local, peer).any(|gap| {
            let (from, to) = if gap.sent { sent } else { received };
            gap.from < to && from < gap.from.saturating_add(gap.length)
        })
    }
}

/// A lost stretch of one direction of one connection, counted from the first byte sent on it.
#[derive(Clone, Copy, Debug)]
struct Stretch {
    sent: bool,
    from: u64,
    length: u64,
}

/// The sequence number of the first byte by source and destination port of a direction.
pub type FirstBytes = HashMap<(u16, u16), u32>;

/// What `apps/sniff.py` wrote.
pub fn first_bytes(path: &Path) -> Result<FirstBytes> {
    let text = std::fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?;
    let line = |line: &str| {
        let mut word = line.split(' ');
        let ports = (word.next()?.parse().ok()?, word.next()?.parse().ok()?);
        Some((ports, word.next()?.parse().ok()?))
    };
    Ok(text.lines().filter_map(line).collect())
}

/// Lost stretches by the ports of their connection.
#[derive(Debug, Default)]
pub struct GapIndex {
    lost: HashMap<(u16, u16), Vec<Stretch>>,
    /// Gaps that were lost and cannot be placed: no addresses, or a connection whose beginning was not seen. They excuse
    /// nothing.
    pub unplaced: usize,
}

impl GapIndex {
    /// An index of these gaps.
    pub fn new(gaps: &[Gap], first: &FirstBytes) -> Self {
        let mut index = Self::default();
        for gap in gaps.iter().filter(|gap| gap.is_loss()) {
            let ports = [&gap.local, &gap.peer].map(|address| address.as_deref().and_then(port));
            let sent = gap.direction == "send";
            let placed = match ports {
                [Some(local), Some(peer)] => {
                    let direction = if sent { (local, peer) } else { (peer, local) };
                    first.get(&direction).map(|first| ((local, peer), first))
                }
                _ => None,
            };
            let Some((key, first)) = placed else {
                index.unplaced += 1;
                continue;
            };
            let from = u64::from(gap.position.wrapping_sub(*first));
            index.lost.entry(key).or_default().push(Stretch { sent, from, length: gap.length });
        }
        index
    }

    /// Whether any loss was reported.
    pub fn any(&self) -> bool {
        self.unplaced > 0 || !self.lost.is_empty()
    }

    fn of(&self, local: u16, peer: u16) -> impl Iterator<Item = &Stretch> {
        self.lost.get(&(local, peer)).into_iter().flatten()
    }
}

fn port(address: &str) -> Option<u16> {
    address.rsplit_once(':')?.1.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIRST: u32 = u32::MAX - 50;

    fn gap(direction: &str, offset: u32, length: u64, cause: &str) -> GapIndex {
        let gap = Gap {
            connection: 1,
            local: Some("127.0.0.1:40000".into()),
            peer: Some("127.0.0.1:80".into()),
            direction: direction.into(),
            position: FIRST.wrapping_add(offset),
            length,
            cause: cause.into(),
        };
        GapIndex::new(&[gap], &[((40000, 80), FIRST), ((80, 40000), FIRST)].into())
    }

    #[test]
    fn a_gap_excuses_only_what_it_overlaps_on_its_own_end() {
        let (_, place) = Place::parse("/1/a\t40000\t80\t100\t200\t50\t60").unwrap();
        for (direction, offset, length, cause, want) in [
            ("send", 199, 1, "lost", true),
            ("send", 200, 9, "lost", false),
            ("send", 0, 100, "lost", false),
            ("send", 0, 101, "lost", true),
            ("receive", 59, 1, "lost", true),
            ("receive", 100, 50, "lost", false),
            ("send", 100, 50, "silent", false),
        ] {
            let gaps = gap(direction, offset, length, cause);
            assert_eq!(place.meets(Kind::Client, &gaps), want, "{direction} {offset} {length} {cause}");
            assert!(!place.meets(Kind::Server, &gaps), "the other end lost nothing");
        }
    }
}
