//! The edge to container engines and the cgroup tree: the name behind a container id, the path behind a
//! cgroup id.
//!
//! Engines keep what they know of a container in a file below `/var/lib` or `/run`, readable by root on the
//! host; no socket is spoken to. The names are looked for in this order: the Kubernetes container's, the Compose
//! service's (both the same for all replicas), the container's own. It must never fail because an engine is
//! not there: then there is no name, and the service is named by its program.

use std::collections::HashMap;
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::cgroup::{self, Membership};
use super::text::harmless;

/// Names of containers, each looked up once.
#[derive(Debug)]
pub struct Containers {
    root: PathBuf,
    known: HashMap<String, Option<String>>,
}

impl Containers {
    /// Looks below `root` (the host's `/`).
    pub fn below(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into(), known: HashMap::new() }
    }

    /// The name of the container with this id.
    pub fn name(&mut self, id: &str) -> Option<String> {
        if let Some(known) = self.known.get(id) {
            return known.clone();
        }
        if self.known.len() >= MAX_KNOWN {
            self.known.clear();
        }
        let name = is_plain(id).then(|| self.look_up(id)).flatten();
        self.known.insert(id.to_owned(), name.clone());
        name
    }

    fn look_up(&self, id: &str) -> Option<String> {
        let mut candidates = vec![
            format!("var/lib/docker/containers/{id}/config.v2.json"),
            format!("run/containers/storage/overlay-containers/{id}/userdata/config.json"),
            format!("var/lib/containers/storage/overlay-containers/{id}/userdata/config.json"),
        ];
        let tasks = "run/containerd/io.containerd.runtime.v2.task";
        for namespace in folders(&self.root.join(tasks), MAX_NAMESPACES) {
            candidates.push(format!("{tasks}/{namespace}/{id}/config.json"));
        }
        candidates.iter().find_map(|path| name_in(&read(&self.root.join(path))?))
    }
}

/// The name in an engine's JSON: Docker's `config.v2.json` (labels in `Config.Labels`, `Name` with a leading
/// slash) or an OCI runtime specification (`annotations`).
fn name_in(json: &[u8]) -> Option<String> {
    let document: serde_json::Value = serde_json::from_slice(json).ok()?;
    let labels = document.pointer("/Config/Labels").or(document.get("annotations"));
    let label = |key: &str| labels.and_then(|labels| labels.get(key)).and_then(serde_json::Value::as_str);
    [
        label("io.kubernetes.container.name"),
        label("io.kubernetes.cri.container-name"),
        label("com.docker.compose.service"),
        label("io.podman.compose.service"),
        document.get("Name").and_then(serde_json::Value::as_str),
        label("nerdctl/name"),
        label("io.podman.annotations.name"),
    ]
    .into_iter()
    .flatten()
    .map(|name| harmless(name.trim_start_matches('/').as_bytes(), 255))
    .find(|name| !name.is_empty())
}

/// Cgroup paths by the id that the kernel gives in an exec record: the inode of the folder in the unified
/// hierarchy. For processes that were gone before `/proc` could be asked.
#[derive(Debug)]
pub struct CgroupTree {
    root: PathBuf,
    known: HashMap<u64, Membership>,
    read: Option<Instant>,
}

impl CgroupTree {
    /// This machine's unified hierarchy: `/sys/fs/cgroup`, or `unified` in it beside those of v1. In any other
    /// file system an inode would mean something else.
    pub fn of_host() -> Self {
        let roots = ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"];
        let found = roots.into_iter().find(|root| Path::new(root).join("cgroup.controllers").exists());
        Self::at(found.unwrap_or_default())
    }

    /// The unified hierarchy mounted at `root`.
    pub fn at(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into(), known: HashMap::new(), read: None }
    }

    /// What the cgroup with this id says. An unknown id has the tree read again, at most once in [`REREAD`].
    pub fn membership(&mut self, id: u64) -> Option<Membership> {
        // 0: not known. 1: the root, which says nothing.
        if id <= 1 {
            return None;
        }
        if !self.known.contains_key(&id) && self.read.is_none_or(|read| read.elapsed() >= REREAD) {
            self.read = Some(Instant::now());
            self.walk();
        }
        self.known.get(&id).cloned()
    }

    fn walk(&mut self) {
        // Gone cgroups go too: their last processes are named within a moment.
        self.known.clear();
        let mut open = vec![self.root.clone()];
        while let Some(folder) = open.pop() {
            if self.known.len() >= MAX_CGROUPS {
                return;
            }
            let Ok(meta) = std::fs::metadata(&folder) else { continue };
            if let Ok(below) = folder.strip_prefix(&self.root) {
                let text = format!("0::/{}", below.to_string_lossy());
                self.known.insert(meta.ino(), cgroup::membership(text.as_bytes()));
            }
            open.extend(folders(&folder, MAX_CGROUPS).into_iter().map(|name| folder.join(name)));
        }
    }
}

fn folders(path: &Path, max: usize) -> Vec<String> {
    let Ok(entries) = std::fs::read_dir(path) else {
        return Vec::new();
    };
    entries
        .filter_map(Result::ok)
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        .filter_map(|entry| entry.file_name().into_string().ok())
        .take(max)
        .collect()
}

fn read(path: &Path) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path).ok()?.take(MAX_JSON).read_to_end(&mut bytes).ok()?;
    Some(bytes)
}

/// An id becomes part of a path: nothing but what ids are made of.
fn is_plain(id: &str) -> bool {
    !id.is_empty() && id.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
}

/// How often an unknown cgroup id may cost a walk.
const REREAD: Duration = Duration::from_secs(1);
const MAX_CGROUPS: usize = 4096;
const MAX_KNOWN: usize = 1024;
const MAX_NAMESPACES: usize = 16;
const MAX_JSON: u64 = 1 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_the_same_for_all_replicas_where_the_engine_knows_one() {
        let check =
            |json: &str, want: Option<&str>| assert_eq!(name_in(json.as_bytes()).as_deref(), want, "{json}");
        check(r#"{"Name":"/shop-web-1"}"#, Some("shop-web-1"));
        check(
            r#"{"Name":"/shop-web-1","Config":{"Labels":{"com.docker.compose.service":"web"}}}"#,
            Some("web"),
        );
        check(
            r#"{"annotations":{"io.kubernetes.cri.container-name":"cart","nerdctl/name":"x"}}"#,
            Some("cart"),
        );
        check(r#"{"annotations":{"nerdctl/name":"cart"}}"#, Some("cart"));
        check(r#"{"annotations":{"io.kubernetes.container.name":"cart"}}"#, Some("cart"));
        check(r#"{"Name":7}"#, None);
        check("{", None);
        check("[]", None);
    }

    #[test]
    fn an_id_cannot_leave_the_folder() {
        assert!(!is_plain("../../etc"));
        assert!(!is_plain(""));
        assert!(is_plain("0123abcd-7"));
    }

    #[test]
    fn names_are_found_where_docker_and_containerd_keep_them() {
        let root = std::env::temp_dir().join(format!("spandrel-containers-{}", std::process::id()));
        let docker = root.join("var/lib/docker/containers/aa");
        let containerd = root.join("run/containerd/io.containerd.runtime.v2.task/k8s.io/bb");
        std::fs::create_dir_all(&docker).unwrap();
        std::fs::create_dir_all(&containerd).unwrap();
        std::fs::write(docker.join("config.v2.json"), r#"{"Name":"/shop"}"#).unwrap();
        std::fs::write(
            containerd.join("config.json"),
            r#"{"annotations":{"io.kubernetes.cri.container-name":"cart"}}"#,
        )
        .unwrap();
        let mut containers = Containers::below(&root);
        assert_eq!(containers.name("aa").as_deref(), Some("shop"));
        assert_eq!(containers.name("bb").as_deref(), Some("cart"));
        assert_eq!(containers.name("cc"), None);
        std::fs::remove_dir_all(&root).unwrap();
        assert_eq!(containers.name("aa").as_deref(), Some("shop"), "looked up once");
    }

    #[test]
    fn a_cgroup_id_leads_to_its_path() {
        let root = std::env::temp_dir().join(format!("spandrel-cgroups-{}", std::process::id()));
        let unit = root.join("system.slice/shop.service");
        std::fs::create_dir_all(&unit).unwrap();
        let id = std::fs::metadata(&unit).unwrap().ino();
        let mut tree = CgroupTree::at(&root);
        let found = tree.membership(id);
        std::fs::remove_dir_all(&root).unwrap();
        assert_eq!(found.unwrap().unit.as_deref(), Some("shop"));
        assert_eq!(tree.membership(id + 1_000_000), None);
        assert_eq!(tree.membership(0), None);
    }
}
