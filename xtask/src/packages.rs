//! What the tests need from the distribution: what xtask itself runs is listed here, what the end-to-end
//! tests run in `tests/needs.txt`.
//!
//! What is missing is installed by `cargo xtask test` on Debian as root, and is otherwise named with the
//! command that would install it. It must never install anything else, or anything at all from another
//! command.

use std::borrow::Cow;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use anyhow::{Context, Result, bail};

use crate::command::{self, Cmd};
use crate::project;

/// A program and the Debian package that has it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Need {
    /// The program, by name on `PATH`, or a file by its path; none for what no program shows.
    pub program: Option<Cow<'static, str>>,
    /// The Debian package, or nothing if Debian's is too old.
    pub package: Option<Cow<'static, str>>,
    /// The oldest version (major, minor) that is known to work, where that matters.
    pub version: Option<(u32, u32)>,
}

const fn need(program: &'static str, package: &'static str) -> Need {
    Need { program: Some(Cow::Borrowed(program)), package: Some(Cow::Borrowed(package)), version: None }
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

/// The end-to-end tests and what else package `spandrel-tests` runs: `tests/needs.txt`, whose lines `pip`
/// those tests install for themselves.
pub fn end_to_end() -> Result<Vec<Need>> {
    let path = project::root().join("tests/needs.txt");
    let text = std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    parse(&text).with_context(|| format!("in {}", path.display()))
}

/// `apt PACKAGE` or `tool PROGRAM VERSION` a line; `#` begins a comment.
fn parse(text: &str) -> Result<Vec<Need>> {
    let mut needs = Vec::new();
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words[..] {
            [] | ["pip", ..] => {}
            ["apt", package] => {
                let program = program_of(package).map(|program| Cow::Owned(program.to_owned()));
                needs.push(Need { program, package: Some(Cow::Owned(package.to_owned())), version: None });
            }
            ["tool", program, version] => {
                let version = numbers(version).with_context(|| format!("{version} is no version: {line}"))?;
                let program = Some(Cow::Owned(program.to_owned()));
                needs.push(Need { program, package: None, version: Some(version) });
            }
            _ => bail!("neither `apt PACKAGE` nor `pip …` nor `tool PROGRAM VERSION`: {line}"),
        }
    }
    Ok(needs)
}

/// Most packages are named like their program.
fn program_of(package: &str) -> Option<&str> {
    match package {
        "apache2-bin" => Some("apache2"),
        "default-jdk-headless" => Some("javac"),
        "iproute2" => Some("ip"),
        "maven" => Some("mvn"),
        "nftables" => Some("nft"),
        "nghttp2-client" => Some("nghttp"),
        "nginx-light" => Some("nginx"),
        "util-linux" => Some("unshare"),
        // The programs of PHP and PostgreSQL have a version in their names or folders.
        "libc6-dev" | "libssl-dev" | "php-fpm" | "postgresql" | "python3-venv" => None,
        package => Some(package),
    }
}

/// Those of `needs` that are not there. Debian is asked for the package, so that a program which came from
/// elsewhere counts as well as one that did not.
pub fn missing(needs: &[Need]) -> Vec<Need> {
    needs.iter().filter(|need| !is_there(need)).cloned().collect()
}

fn is_there(need: &Need) -> bool {
    let program = match need.program.as_deref() {
        Some(program) if program.starts_with('/') => Path::new(program).exists(),
        Some(program) => command::exists(program),
        // Nothing to be seen of it: Debian knows, elsewhere the test that lacks it will say.
        None => !is_debian(),
    };
    // Nor is a package missing that is installed, whatever its programs are called.
    let there = program || need.package.as_deref().is_some_and(is_installed);
    there && need.version.is_none_or(|oldest| version_of(need).is_some_and(|version| version >= oldest))
}

fn is_installed(package: &str) -> bool {
    let format = ["--show", "--showformat=${db:Status-Status}", package];
    Cmd::new("dpkg-query").args(format).read().is_ok_and(|status| status == "installed")
}

/// `go version` and `node --version` both answer with the version somewhere in a line.
fn version_of(need: &Need) -> Option<(u32, u32)> {
    let program = need.program.as_deref()?;
    let argument = if program == "go" { "version" } else { "--version" };
    numbers(&Cmd::new(program).arg(argument).read().ok()?)
}

/// The first number in a text, with the one behind the dot after it, if any.
fn numbers(text: &str) -> Option<(u32, u32)> {
    let start = text.find(|c: char| c.is_ascii_digit())?;
    let mut parts = text.get(start..)?.split(|c: char| !c.is_ascii_digit());
    let major = parts.next()?.parse().ok()?;
    Some((major, parts.next().and_then(|minor| minor.parse().ok()).unwrap_or(0)))
}

/// One sentence: what is missing, and the command that installs it.
pub fn remedy(missing: &[Need]) -> String {
    let mut named = Vec::new();
    for need in missing {
        let name = need.program.as_deref().or(need.package.as_deref()).unwrap_or("?");
        named.push(match need.version {
            Some((major, minor)) => format!("{name} {major}.{minor} or newer"),
            None => name.to_owned(),
        });
    }
    let packages = names(missing);
    let command =
        if packages.is_empty() { String::new() } else { format!(". On Debian: {INSTALL} {packages}") };
    format!("missing: {}{command}", named.join(", "))
}

const INSTALL: &str = "apt-get install --no-install-recommends";

/// Installs what is missing if that is ours to do (Debian, root), and otherwise says what is missing.
pub fn provide(needs: &[Need]) -> Result<()> {
    let absent = missing(needs);
    let packages = names(&absent);
    if !packages.is_empty() && command::is_root() && is_debian() {
        println!("installing {packages}");
        let _quiet = NoServices::begin()?;
        let apt = || Cmd::new("apt-get").env("DEBIAN_FRONTEND", "noninteractive").arg("--quiet=2");
        apt().arg("update").run()?;
        apt().args(["--yes", "--no-install-recommends", "install"]).args(packages.split(' ')).run()?;
    }
    let absent = missing(needs);
    if absent.is_empty() { Ok(()) } else { bail!("{}", remedy(&absent)) }
}

/// Debian starts a service when its package is installed. A web server that nobody asked for would take port
/// 80 from the next one, whose installation then fails, and would appear in traces; while this value lives,
/// none is started (Debian Policy, invoke-rc.d: `policy-rc.d` answering 101).
struct NoServices;

const POLICY: &str = "/usr/sbin/policy-rc.d";

impl NoServices {
    /// An administrator's own policy stays as it is, and then counts.
    fn begin() -> Result<Option<Self>> {
        if Path::new(POLICY).exists() {
            return Ok(None);
        }
        std::fs::write(POLICY, "#!/bin/sh\nexit 101\n").with_context(|| format!("cannot write {POLICY}"))?;
        let guard = Self;
        let executable = std::fs::Permissions::from_mode(0o755);
        std::fs::set_permissions(POLICY, executable)
            .with_context(|| format!("cannot make {POLICY} executable"))?;
        Ok(Some(guard))
    }
}

impl Drop for NoServices {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_file(POLICY) {
            eprintln!("{POLICY} is left behind and keeps services from starting; remove it: {error}");
        }
    }
}

fn is_debian() -> bool {
    Path::new("/etc/debian_version").exists()
}

fn names(needs: &[Need]) -> String {
    let mut names: Vec<&str> = needs.iter().filter_map(|need| need.package.as_deref()).collect();
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

    #[test]
    fn a_package_that_is_installed_is_there_whatever_its_programs_are_called() {
        assert_eq!(is_there(&need("no-such-program", "dpkg")), is_debian());
    }

    #[test]
    fn a_program_that_is_too_old_is_missing_and_no_package_is_offered_for_it() {
        let needs = parse("# comment\n\npip gunicorn==1\ntool rustc 1.85\ntool cargo 99.0\n").unwrap();
        assert_eq!(remedy(&missing(&needs)), "missing: cargo 99.0 or newer");
    }

    #[test]
    fn versions_are_found_in_what_programs_print() {
        assert_eq!(numbers("go version go1.25.3 linux/amd64"), Some((1, 25)));
        assert_eq!(numbers("v20"), Some((20, 0)));
        assert_eq!(numbers("none"), None);
    }

    #[test]
    fn a_line_that_is_no_need_is_an_error_that_quotes_it() {
        assert!(parse("apt a b").unwrap_err().to_string().ends_with("apt a b"));
    }
}
