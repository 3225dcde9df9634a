//! Which unix sockets existed when the agent began: the counters of those do not start with their first
//! byte.
//!
//! It reads `/proc/*/net/unix`, once per network namespace, and must be called after the last program is
//! attached, so that a socket that is not listed was seen from its first byte.

use std::collections::HashSet;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

/// The inode numbers of the unix sockets of all network namespaces that a process is in.
pub fn unix_inodes(proc: &Path) -> HashSet<u64> {
    let mut seen = HashSet::new();
    let mut inodes = HashSet::new();
    let Ok(entries) = fs::read_dir(proc) else { return inodes };
    for entry in entries.flatten() {
        let name = entry.file_name();
        if !name.to_string_lossy().bytes().all(|byte| byte.is_ascii_digit()) {
            continue;
        }
        let process = entry.path();
        // A process may end while it is looked at; then its namespace has another one, or is gone too.
        let Ok(namespace) = fs::metadata(process.join("ns/net")) else { continue };
        if seen.insert(namespace.ino())
            && let Ok(table) = fs::read_to_string(process.join("net/unix"))
        {
            inodes.extend(parse(&table));
        }
    }
    inodes
}

/// The seventh column of each line but the first (proc_pid_net(5)).
fn parse(table: &str) -> impl Iterator<Item = u64> {
    table.lines().skip(1).filter_map(|line| line.split_ascii_whitespace().nth(6)?.parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_inode_is_the_seventh_column() {
        let table = "Num       RefCount Protocol Flags    Type St Inode Path\n\
                     0000000000000000: 00000002 00000000 00010000 0001 01 12345 /run/x.sock\n\
                     0000000000000000: 00000003 00000000 00000000 0001 03 777\n\
                     broken line\n";
        assert_eq!(parse(table).collect::<Vec<_>>(), [12345, 777]);
    }
}
