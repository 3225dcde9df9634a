//! What the tests need from the distribution: one list, each entry with the program it is there for.
//!
//! A missing program is installed by `cargo xtask test` on Debian as root and is otherwise named with the
//! command that would install it. It must never install anything else, or anything at all from another
//! command.

use std::path::Path;

use anyhow::{Result, bail};

use crate::command::{self, Cmd};

/// A program and the Debian package that has it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Need {
    /// The program, by name on `PATH`, or a file by its path.
    pub program: &'static str,
    /// The Debian package.
    pub package: &'static str,
}

const fn need(program: &'static str, package: &'static str) -> Need {
    Need { program, package }
}

/// The kernel matrix.
pub const VM: &[Need] = &[
    need("qemu-system-x86_64", "qemu-system-x86"),
    need("busybox", "busybox-static"),
    need("curl", "curl"),
    need("/usr/bin/python3", "python3"),
    need("dpkg-deb", "dpkg"),
    need("apt-get", "apt"),
    need("ldd", "libc-bin"),
];

/// Fuzzing: the runtime of libFuzzer is C++.
pub const FUZZ: &[Need] = &[need("c++", "g++")];

/// The end-to-end tests and the truth harness.
pub const END_TO_END: &[Need] = &[
    need("curl", "curl"),
    need("/usr/bin/python3", "python3"),
    need("nginx", "nginx-light"),
    need("apache2", "apache2-bin"),
    need("wrk", "wrk"),
    need("node", "nodejs"),
    need("go", "golang-go"),
    need("cc", "gcc"),
    need("ip", "iproute2"),
    need("nft", "nftables"),
    need("unshare", "util-linux"),
];

/// Those of `needs` that are not there.
pub fn missing(needs: &[Need]) -> Vec<Need> {
    let there = |program: &str| match program.starts_with('/') {
        true => Path::new(program).exists(),
        false => command::exists(program),
    };
    needs.iter().filter(|need| !there(need.program)).copied().collect()
}

/// One sentence: what is missing, and the command that installs it.
pub fn remedy(missing: &[Need]) -> String {
    let programs: Vec<_> = missing.iter().map(|need| need.program).collect();
    format!("missing: {}. On Debian: apt-get install --no-install-recommends {}", programs.join(", "), names(missing))
}

/// Installs what is missing if that is ours to do (Debian, root), and otherwise says what is missing.
pub fn provide(needs: &[Need]) -> Result<()> {
    let missing = missing(needs);
    if missing.is_empty() {
        return Ok(());
    }
    if !command::is_root() || !Path::new("/etc/debian_version").exists() {
        bail!("{}", remedy(&missing));
    }
    eprintln!("installing {}", names(&missing));
    let apt = || Cmd::new("apt-get").env("DEBIAN_FRONTEND", "noninteractive");
    apt().args(["--quiet=2", "update"]).run()?;
    apt()
        // A service that starts itself would take the ports and appear in the traces.
        .env("RUNLEVEL", "1")
        .args(["--quiet=2", "--yes", "--no-install-recommends", "install"])
        .args(names(&missing).split(' '))
        .run()
}

fn names(needs: &[Need]) -> String {
    let mut names: Vec<_> = needs.iter().map(|need| need.package).collect();
    names.sort_unstable();
    names.dedup();
    names.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_named_once_with_the_command_that_installs_it() {
        let missing = missing(&[need("sh", "dash"), need("no-such-a", "tool"), need("/no/such/b", "tool")]);
        assert_eq!(
            remedy(&missing),
            "missing: no-such-a, /no/such/b. On Debian: apt-get install --no-install-recommends tool"
        );
    }
}
