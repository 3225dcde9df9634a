//! A distribution kernel as a file: found with apt, downloaded, unpacked, cached.
//!
//! apt runs on lists, a cache and sources of its own below the target directory and needs no root; the
//! machine's own are only read, for the mirror that the machine uses. What is fetched is verified by apt
//! against Debian's keyring. It must never run a package's scripts: the archive is unpacked, not installed.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::command::Cmd;

/// Where a kernel comes from.
pub struct Source {
    /// A regular expression for the package's name; of several, the newest is taken.
    pub package: &'static str,
    /// Debian suites that may have it; the first that does is taken.
    pub suites: &'static [&'static str],
}

/// The kernel's image, from the cache if it is there.
pub fn fetch(name: &str, source: &Source, directory: &Path) -> Result<PathBuf> {
    let cache = directory.join("kernels").join(name);
    if let Some(image) = image_in(&cache) {
        return Ok(image);
    }
    for suite in source.suites {
        let apt = Apt::new(directory, suite)?;
        let Some(package) = apt.newest(source.package)? else { continue };
        println!("vm: {name:<5} fetching {package} from {suite} (about 30 MB)");
        let archive = apt.download(&package)?;
        let unpacked = directory.join("unpacked").join(name);
        fs::create_dir_all(&unpacked).with_context(|| format!("cannot create {}", unpacked.display()))?;
        Cmd::new("dpkg-deb").arg("--extract").arg(&archive).arg(&unpacked).run()?;
        let image = image_in(&unpacked.join("boot"))
            .with_context(|| format!("{package} holds no boot/vmlinuz-*, in {}", unpacked.display()))?;
        // The image moves last and in one step, so that an interrupted run leaves no half cache.
        fs::create_dir_all(&cache).with_context(|| format!("cannot create {}", cache.display()))?;
        let kept = cache.join(image.file_name().unwrap_or_default());
        fs::rename(&image, &kept).with_context(|| format!("cannot move {}", image.display()))?;
        fs::remove_dir_all(&unpacked).with_context(|| format!("cannot remove {}", unpacked.display()))?;
        return Ok(kept);
    }
    bail!("no package matches {} in Debian's suites {:?}", source.package, source.suites)
}

fn image_in(directory: &Path) -> Option<PathBuf> {
    let entries = fs::read_dir(directory).ok()?;
    entries
        .flatten()
        .map(|entry| entry.path())
        .find(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("vmlinuz-")))
}

/// apt with its state in a directory of ours, for one suite.
struct Apt {
    directory: PathBuf,
}

/// Debian's archive key, from the package debian-archive-keyring.
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

impl Apt {
    fn new(directory: &Path, suite: &str) -> Result<Self> {
        let directory = directory.join("apt").join(suite);
        for folder in ["lists/partial", "cache/archives/partial"] {
            let folder = directory.join(folder);
            fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
        }
        if !Path::new(KEYRING).exists() {
            bail!("{KEYRING} is missing: apt-get install debian-archive-keyring");
        }
        let apt = Self { directory };
        let mirror = mirror(suite.ends_with("-security"));
        let list = apt.directory.join("sources.list");
        fs::write(&list, format!("deb [arch=amd64 signed-by={KEYRING}] {mirror} {suite} main\n"))
            .with_context(|| format!("cannot write {}", list.display()))?;
        apt.command("apt-get").args(["--quiet=2", "update"]).read()?;
        Ok(apt)
    }

    fn command(&self, program: &str) -> Cmd {
        let path = |below: &str| self.directory.join(below).display().to_string();
        Cmd::new(program)
            .args(["-o", &format!("Dir::Etc::SourceList={}", path("sources.list"))])
            .args(["-o", "Dir::Etc::SourceParts=-", "-o", "APT::Architecture=amd64"])
            .args(["-o", &format!("Dir::State::Lists={}", path("lists"))])
            .args(["-o", &format!("Dir::Cache={}", path("cache"))])
            .args(["-o", "Acquire::Languages=none", "-o", "Acquire::Retries=3"])
            // Otherwise apt, run by root, warns that its own user cannot write here.
            .args(["-o", "APT::Sandbox::User="])
    }

    /// The newest package whose name matches, by Debian's order of versions.
    fn newest(&self, pattern: &str) -> Result<Option<String>> {
        let found = self.command("apt-cache").args(["search", "--names-only", pattern]).read()?;
        let mut names: Vec<&str> = found.lines().filter_map(|line| line.split_whitespace().next()).collect();
        names.sort_by_key(|name| numbers(name));
        Ok(names.last().map(|name| (*name).to_owned()))
    }

    fn download(&self, package: &str) -> Result<PathBuf> {
        let folder = self.directory.join("cache/archives");
        self.command("apt-get").args(["--quiet=2", "download", package]).directory(&folder).read()?;
        let entries = fs::read_dir(&folder).with_context(|| format!("cannot list {}", folder.display()))?;
        // apt writes the version's colons and the like as %xx, so the name is looked up, not composed.
        entries
            .flatten()
            .map(|entry| entry.path())
            .find(|path| {
                path.file_name()
                    .is_some_and(|name| name.to_string_lossy().starts_with(&format!("{package}_")))
            })
            .with_context(|| format!("apt-get has downloaded {package}, but not into {}", folder.display()))
    }
}

/// The numbers in a package's name in their order, which orders packages of one name pattern.
fn numbers(name: &str) -> Vec<u64> {
    name.split(|c: char| !c.is_ascii_digit()).filter_map(|digits| digits.parse().ok()).collect()
}

/// The mirror that this machine uses, if it is a Debian machine; else Debian's own.
fn mirror(security: bool) -> String {
    let format = ["--format", "$(REPO_URI) $(ORIGIN)", "Created-By: Packages", "Origin: Debian"];
    let targets = Cmd::new("apt-get").arg("indextargets").args(format).read().unwrap_or_default();
    targets
        .lines()
        .filter_map(|line| line.split_whitespace().next())
        .find(|uri| uri.contains("security") == security && !uri.starts_with("cdrom"))
        .unwrap_or(match security {
            true => "http://deb.debian.org/debian-security",
            false => "http://deb.debian.org/debian",
        })
        .to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_package_is_the_one_with_the_greatest_numbers_not_the_last_in_the_alphabet() {
        let mut names = ["linux-image-6.12.117+deb12-cloud-amd64", "linux-image-6.12.43+deb12-cloud-amd64"];
        names.sort_by_key(|name| numbers(name));
        assert_eq!(names[1], "linux-image-6.12.117+deb12-cloud-amd64");
    }
}
