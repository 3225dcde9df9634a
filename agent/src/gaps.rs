//! The gap report: one line of JSON for each stretch of bytes that was lost, so that whoever misses a
//! request can find it.
//!
//! It tells addresses, positions and causes, never bytes.

use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use serde_json::json;

use crate::identity::Direction;
use crate::stream::Gap;

/// An open report.
pub struct GapReport {
    file: File,
}

impl GapReport {
    /// Creates it, readable by its owner only.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn create(path: &Path) -> std::io::Result<Self> {
        let file = OpenOptions::new().create(true).append(true).mode(0o600).open(path)?;
        Ok(Self { file })
    }

    /// Writes one line.
    pub fn write(&mut self, gap: &Gap) {
        let line = line(gap);
        if let Err(error) = self.file.write_all(line.as_bytes()) {
            crate::log::warn(format_args!("cannot write to the gap report: {error}"));
        }
    }
}

fn line(gap: &Gap) -> String {
    let Gap { connection, local, peer, direction, position, length, cause } = gap;
    let text = |address: &Option<crate::identity::Address>| address.as_ref().map(ToString::to_string);
    let object = json!({
        "connection": connection.0,
        "local": text(local),
        "peer": text(peer),
        "direction": match direction { Direction::Send => "send", Direction::Receive => "receive" },
        "position": position,
        "length": length,
        "cause": cause.name(),
    });
    format!("{object}\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::{Address, ConnectionId};
    use crate::stream::GapCause;

    #[test]
    fn a_gap_is_one_line_of_json() {
        let gap = Gap {
            connection: ConnectionId(7),
            local: Some(Address::Ip("127.0.0.1:80".parse().unwrap())),
            peer: None,
            direction: Direction::Send,
            position: 9,
            length: 10,
            cause: GapCause::Lost,
        };
        let line = line(&gap);
        assert!(line.ends_with('\n') && line.matches('\n').count() == 1);
        let back: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert_eq!(back["local"], "127.0.0.1:80");
        assert_eq!(back["peer"], serde_json::Value::Null);
        assert_eq!(back["cause"], "lost");
    }
}
