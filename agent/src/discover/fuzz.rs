//! Fuzz bodies for everything here that reads bytes of a traced program: they assert what must hold for any
//! bytes. Must never be called by the agent.

use super::naming::{self, MAX_SERVICE_NAME, ProcessFacts};
use super::runtime::{self, Content};
use super::text::moves_a_terminal;
use super::{ExecFacts, Host, ProcessTable, cgroup, containers, environment, proc, serving};
use crate::identity::{Monotonic, ProcessKey};

#[track_caller]
fn assert_harmless(text: &str, max: usize) {
    assert!(text.len() <= max, "{} bytes", text.len());
    assert!(!text.chars().any(moves_a_terminal), "{text:?}");
}

/// Arguments, cut anywhere, of an executable named by their first line.
#[doc(hidden)]
pub fn fuzz_cmdline(data: &[u8]) {
    let split = data.iter().position(|byte| *byte == b'\n').unwrap_or(0);
    let (executable, argv) = data.split_at(split);
    for truncated in [false, true] {
        let argv = proc::split_arguments(argv, truncated);
        let facts = ProcessFacts {
            executable: executable.to_vec(),
            argv: argv.clone(),
            filename: argv.get(1).cloned().unwrap_or_default(),
            directory: argv.last().cloned().unwrap_or_default(),
            ..ProcessFacts::default()
        };
        let (name, _) = naming::service_name(&facts);
        assert!(!name.is_empty());
        assert_harmless(&name, MAX_SERVICE_NAME);
        serving::serving(&facts, None);
        let recorded = ProcessFacts { executable: Vec::new(), ..facts };
        assert_harmless(&naming::service_name(&recorded).0, MAX_SERVICE_NAME);
    }
}

/// An environment, whole and in two pieces: both give the same, and nothing but the two variables.
#[doc(hidden)]
pub fn fuzz_environ(data: &[u8]) {
    let whole = environment::declared(data);
    let (first, second) = data.split_at(data.len() / 2);
    let mut scanner = environment::Scanner::default();
    scanner.piece(first);
    scanner.piece(second);
    assert_eq!(scanner.finish(), whole);
    if memchr::memmem::find(data, b"OTEL_").is_none() {
        assert_eq!(whole, environment::Declared::default());
    }
    if let Some(name) = &whole.service_name {
        assert_harmless(name, MAX_SERVICE_NAME);
    }
    for (key, value) in &whole.attributes {
        assert_harmless(key, data.len().saturating_mul(3));
        assert_harmless(value, data.len().saturating_mul(3));
    }
}

/// A cgroup file.
#[doc(hidden)]
pub fn fuzz_cgroup(data: &[u8]) {
    let found = cgroup::membership(data);
    for text in [&found.container, &found.container_name, &found.unit].into_iter().flatten() {
        assert_harmless(text, 255);
        assert!(!text.is_empty());
    }
    assert!(found.unit.is_none() || (found.container.is_none() && found.container_name.is_none()));
}

/// A stat file.
#[doc(hidden)]
pub fn fuzz_stat(data: &[u8]) {
    if let Some(stat) = proc::parse_stat(data) {
        assert!(stat.comm.len() < data.len());
        proc::same_start(stat.start_ticks, stat.start_ticks, u64::MAX);
    }
}

/// Records in any order, over a procfs that has nobody: the table stays bounded and its books balance.
#[doc(hidden)]
pub fn fuzz_table(data: &[u8]) {
    let nowhere = "/nonexistent";
    let mut table = ProcessTable::with(
        proc::ProcFs::at(nowhere),
        Host::default(),
        containers::Containers::below(nowhere),
        containers::CgroupTree::at(nowhere),
    );
    let mut time = 0u64;
    for step in data.chunks_exact(4) {
        let &[what, pid, exec, age] = step else { continue };
        let key = |pid: u8| ProcessKey {
            pid: u32::from(pid % 8),
            exec: u32::from(exec % 4),
            started: u64::from(age % 4),
        };
        time = time.saturating_add(u64::from(age) << 28);
        let now = Monotonic(time);
        match what % 5 {
            0 => table.exec(ExecFacts {
                key: key(pid),
                filename: step.to_vec(),
                argv: data.to_vec(),
                cgroup_id: u64::from(exec),
                time: now,
            }),
            1 => table.fork(key(pid), key(pid.wrapping_add(1)), now),
            2 => table.exit(key(pid), now),
            3 => table.expire(now),
            _ => assert_harmless(&table.resource(key(pid)).service, MAX_SERVICE_NAME),
        }
        let ledger = table.ledger();
        let gone = ledger.ended_by_age + ledger.ended_by_count + ledger.vanished + ledger.displaced;
        assert_eq!(ledger.met, ledger.held + gone, "{ledger:?}");
        let named = ledger.by_image + ledger.by_scan + ledger.by_proc + ledger.by_record + ledger.unnamed;
        assert_eq!(ledger.resolved, named, "{ledger:?}");
        assert!(ledger.held <= 128);
    }
}

/// An executable's content.
#[doc(hidden)]
pub fn fuzz_elf(data: &[u8]) {
    let mut asked = 0usize;
    let content = runtime::look(|offset, length| {
        asked += length;
        let from = usize::try_from(offset).unwrap_or(usize::MAX).min(data.len());
        data.get(from..from.saturating_add(length).min(data.len())).unwrap_or(&[]).to_vec()
    });
    assert!(asked <= 1 << 20, "{asked} bytes asked for");
    if let Content::Go(Some(version)) = content {
        assert_harmless(&version, 64);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SEEDS: [&[u8]; 14] = [
        b"",
        b"\0",
        b"/usr/bin/python3\npython3\0-u\0app.py\0",
        b"/usr/bin/java\njava\0-cp\0a:b\0com.acme.Main\0",
        b"\npython3\0/usr/bin/gunicorn\0-w\x004\0a:b\0",
        b"/bin/busybox\nbusybox\0sh\0-c",
        b"PATH=/bin\0OTEL_SERVICE_NAME=shop\0OTEL_RESOURCE_ATTRIBUTES=a=%20b,c=d\0",
        b"0::/system.slice/shop.service\n1:name=systemd:/docker/x\n",
        b"0::/system.slice/\\x2d\\x1b.service",
        b"12:cpu:/docker/0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef",
        b"42 (a) b) S 1 1 1 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 123456 9",
        b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0\x02\0\x3e\0\x01\0\0\0",
        b"\x7fELF\x01\x02\x01",
        b"\xff\xfe\x1b[2J\n\xff\0\xff\0",
    ];

    fn all(data: &[u8]) {
        fuzz_cmdline(data);
        fuzz_environ(data);
        fuzz_cgroup(data);
        fuzz_stat(data);
        fuzz_elf(data);
        fuzz_table(data);
    }

    #[test]
    fn the_invariants_hold_for_seeds_their_prefixes_and_single_changes() {
        for seed in SEEDS {
            for cut in 0..=seed.len() {
                all(&seed[..cut]);
            }
            for at in 0..seed.len() {
                for byte in [0, b' ', b'-', b'/', b'@', b'%', 0x7f, 0xff] {
                    let mut changed = seed.to_vec();
                    changed[at] = byte;
                    all(&changed);
                }
            }
        }
    }

    #[test]
    fn the_invariants_hold_for_bytes_without_sense() {
        // A linear congruential generator: the same bytes in every run.
        let mut state = 1u64;
        for length in 0..400 {
            let data: Vec<u8> = (0..length)
                .map(|_| {
                    state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                    (state >> 56) as u8
                })
                .collect();
            all(&data);
        }
    }
}
