//! The words that a program gave to `epoll_ctl`, as `/proc/PID/fdinfo` tells them: for most event loops, pointers to
//! their connection objects. Reading them changes nothing and stops nobody.
//!
//! It must never read without a bound: a program can have a million descriptors.

use std::fs;
use std::io::Read;

/// A descriptor in an epoll set.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Watched {
    /// The descriptor.
    pub descriptor: i32,
    /// The program's word.
    pub word: u64,
}

/// What the epoll sets of a process watch.
pub fn watched(pid: u32) -> Vec<Watched> {
    let mut all = Vec::new();
    let Ok(entries) = fs::read_dir(format!("/proc/{pid}/fd")) else { return all };
    let mut sets = 0;
    for entry in entries.take(MAX_DESCRIPTORS).flatten() {
        let is_set = fs::read_link(entry.path())
            .is_ok_and(|target| target.as_os_str().as_encoded_bytes() == b"anon_inode:[eventpoll]");
        if !is_set {
            continue;
        }
        sets += 1;
        if sets > MAX_SETS {
            break;
        }
        let path = format!("/proc/{pid}/fdinfo/{}", entry.file_name().to_string_lossy());
        let mut text = Vec::new();
        if fs::File::open(path).is_ok_and(|file| file.take(MAX_TEXT).read_to_end(&mut text).is_ok()) {
            all.extend(parse(&text));
        }
    }
    all
}

/// The lines `tfd: 13 events: 80002019 data: 7f56f4003880 …` of an epoll set's `fdinfo` (fs/eventpoll.c,
/// `ep_show_fdinfo`).
pub(super) fn parse(text: &[u8]) -> impl Iterator<Item = Watched> {
    text.split(|&byte| byte == b'\n').filter_map(|line| {
        let line = std::str::from_utf8(line).ok()?;
        let mut words = line.split_ascii_whitespace();
        let mut after = |name: &str| words.by_ref().skip_while(|word| *word != name).nth(1);
        let descriptor = after("tfd:")?.parse().ok()?;
        let word = u64::from_str_radix(after("data:")?, 16).ok()?;
        Some(Watched { descriptor, word })
    })
}

/// Descriptors looked at: a busy server's first some thousand tell as much as all.
const MAX_DESCRIPTORS: usize = 8192;
/// Epoll sets looked at: a set for each worker is usual.
const MAX_SETS: usize = 64;
/// Bytes read of one set: some ten thousand lines.
const MAX_TEXT: u64 = 1 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_line_is_a_descriptor_and_its_word() {
        let text = b"pos:\t0\nflags:\t02\nmnt_id:\t15\nino:\t1057\n\
            tfd:       13 events: 80002019 data:     7f56f4003880  pos:0 ino:2e1 sdev:9\n\
            tfd:        5 events:       19 data: ffffffffffffffff  pos:0 ino:2e1 sdev:9\n\
            tfd: x events: 1 data: 2\ntfd: 7 events: 1 data: zz\ntfd: 7\n";
        let want =
            [Watched { descriptor: 13, word: 0x7f56_f400_3880 }, Watched { descriptor: 5, word: u64::MAX }];
        assert_eq!(parse(text).collect::<Vec<_>>(), want);
    }
}
