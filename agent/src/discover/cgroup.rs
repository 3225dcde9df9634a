//! What a process's cgroup path says: which container it is in, or which systemd unit it belongs to.
//!
//! Pure functions over the text of `/proc/PID/cgroup` (lines `number:controllers:path`, cgroups(7)):
//! of cgroup v2 the one line `0::path`, of v1 one line per hierarchy. A path says nothing about names
//! that a container engine keeps elsewhere; those are looked up in `containers.rs`. It must never take
//! a login session, a terminal's scope or `init` for a service: whatever a person started by hand there
//! is named by its own program.

/// What one process's cgroups say.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Membership {
    /// The path in the unified hierarchy, else in systemd's own, else the first one with a path.
    pub path: String,
    /// The container's id: 64 hexadecimal digits for every engine that follows OCI practice; ECS's
    /// shorter form; or the name that LXC and systemd-nspawn give instead of an id.
    pub container: Option<String>,
    /// A container name that stands in the path itself (LXC, systemd-nspawn).
    pub container_name: Option<String>,
    /// The systemd unit's name without `.service` or `.scope`, never a user session's scope.
    pub unit: Option<String>,
}

/// Reads the text of `/proc/PID/cgroup`. Lines that are not of its form are skipped.
pub fn membership(text: &[u8]) -> Membership {
    let text = String::from_utf8_lossy(text.get(..MAX_TEXT).unwrap_or(text));
    let mut found = Membership::default();
    let mut rank = 0;
    for line in text.lines() {
        let mut fields = line.splitn(3, ':');
        let (Some(number), Some(controllers), Some(path)) = (fields.next(), fields.next(), fields.next())
        else {
            continue;
        };
        let path = path.strip_suffix(" (deleted)").unwrap_or(path);
        let this = match (number, controllers) {
            _ if path.is_empty() || path == "/" => 1,
            ("0", "") => 4,
            (_, "name=systemd") => 3,
            _ => 2,
        };
        if this > rank {
            rank = this;
            found.path = super::text::harmless(path.as_bytes(), MAX_PATH);
        }
        if found.container.is_none() {
            found.container = container(path);
        }
        if found.container_name.is_none() {
            found.container_name = named_container(path);
        }
        // Only systemd's own tree speaks of units: v1 controllers may be arranged by anybody.
        if found.unit.is_none() && (controllers.is_empty() || controllers == "name=systemd") {
            found.unit = unit(path);
        }
    }
    if found.container.is_some() || found.container_name.is_some() {
        // An engine's scope is a unit to systemd, and no service to anybody.
        found.unit = None;
    }
    found
}

/// The container id in a cgroup path: its last component that has an engine's form.
///
/// `docker-ID.scope`, `cri-containerd-ID.scope`, `crio-ID.scope`, `libpod-ID.scope`, `nerdctl-ID.scope`
/// (systemd drivers), `/docker/ID`, `/kubepods/…/ID`, `/libpod_parent/libpod-ID` (cgroupfs drivers),
/// `…:cri-containerd:ID` (containerd without a systemd slice), `/ecs/TASK/ID` (ECS; Fargate's ids are 32
/// digits, a dash, a number). `crio-conmon-ID` and `libpod-conmon-ID` hold the engine's monitor and
/// `libpod-payload-ID` the program.
fn container(path: &str) -> Option<String> {
    let in_ecs = path.starts_with("/ecs/") || path.contains("/ecs/");
    path.split('/').rev().find_map(|component| {
        let name =
            component.strip_suffix(".scope").or(component.strip_suffix(".service")).unwrap_or(component);
        let name = name.rsplit(':').next().unwrap_or(name);
        if name.contains("conmon-") {
            return None;
        }
        let tail = name.rsplit('-').next().unwrap_or(name);
        if is_hex(tail) && tail.len() == 64 {
            return Some(tail.to_owned());
        }
        if in_ecs {
            let (head, number) = name.split_once('-')?;
            if is_hex(head)
                && head.len() == 32
                && !number.is_empty()
                && number.bytes().all(|b| b.is_ascii_digit())
            {
                return Some(name.to_owned());
            }
        }
        None
    })
}

/// A container whose path holds its name: `/lxc/NAME`, `/lxc.payload.NAME` (LXC 4+),
/// `machine.slice/machine-NAME.scope` and `systemd-nspawn@NAME.service` (systemd-nspawn, systemd.special(7)).
fn named_container(path: &str) -> Option<String> {
    let mut components = path.split('/').filter(|component| !component.is_empty()).peekable();
    let mut in_machine_slice = false;
    while let Some(component) = components.next() {
        let name = if component == "lxc" {
            components.peek().map(|next| (*next).to_owned())
        } else if let Some(name) = component.strip_prefix("lxc.payload.") {
            Some(name.to_owned())
        } else if let Some(name) =
            component.strip_prefix("systemd-nspawn@").and_then(|n| n.strip_suffix(".service"))
        {
            Some(unescape(name))
        } else if in_machine_slice
            && component.starts_with("machine-")
            && !component.starts_with("machine-qemu")
        {
            component.strip_prefix("machine-").and_then(|n| n.strip_suffix(".scope")).map(unescape)
        } else {
            None
        };
        in_machine_slice |= component == "machine.slice";
        if let Some(name) = name.filter(|name| !name.is_empty()) {
            return Some(super::text::harmless(name.as_bytes(), MAX_NAME));
        }
    }
    None
}

/// The unit in a cgroup path: its deepest `.service` or `.scope`, if that one is a service and not a
/// place where people or schedulers start programs of their own.
///
/// - In a user's slice only services below `user@UID.service` count that systemd was told to run, not
///   those that a desktop makes for what its user opens (`app-….service`, `dbus-….service`).
/// - A scope counts in `system.slice` only, and not with a generated name (`run-….scope`).
/// - `ssh`, `cron`, `getty` and their like: what runs below them is a session or a job.
/// - An instance that is a number is a replica and is dropped: `worker@3` is `worker`, `app@shop` stays.
fn unit(path: &str) -> Option<String> {
    let components: Vec<&str> = path.split('/').collect();
    let deepest = components
        .iter()
        .rev()
        .find(|component| component.ends_with(".service") || component.ends_with(".scope"))?;
    let of_a_user = components.contains(&"user.slice");
    let name = if let Some(service) = deepest.strip_suffix(".service") {
        if of_a_user {
            let desktop = ["user@", "app-", "dbus-", "gnome-", "plasma-", "xdg-"];
            let foreign = components.contains(&"session.slice");
            if foreign || desktop.iter().any(|prefix| service.starts_with(prefix)) {
                return None;
            }
        }
        service
    } else {
        let scope = deepest.strip_suffix(".scope")?;
        let system = components.contains(&"system.slice");
        if of_a_user || !system || scope == "init" || scope.starts_with("session-") {
            return None;
        }
        scope
    };
    if name.starts_with("run-") {
        return None;
    }
    let (template, instance) = match name.split_once('@') {
        Some((template, instance)) => (template, Some(instance)),
        None => (name, None),
    };
    if SESSION_HOSTS.contains(&template) {
        return None;
    }
    let name = match instance {
        Some(instance) if instance.bytes().all(|byte| byte.is_ascii_digit()) => template,
        _ => name,
    };
    let name = super::text::harmless(unescape(name).as_bytes(), MAX_NAME);
    (!name.is_empty()).then_some(name)
}

/// systemd.unit(5), "String escaping": `\xNN` is a byte. (`-` stands for `/` in unit names made of
/// paths; as a name the dash reads better and stays.)
fn unescape(name: &str) -> String {
    let mut bytes = Vec::with_capacity(name.len());
    let mut rest = name.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        let hex = after.strip_prefix(b"x").and_then(|hex| hex.get(..2)).filter(|_| *first == b'\\');
        let value = hex
            .and_then(|hex| std::str::from_utf8(hex).ok())
            .and_then(|hex| u8::from_str_radix(hex, 16).ok());
        match value {
            Some(byte) => {
                bytes.push(byte);
                rest = after.get(3..).unwrap_or(&[]);
            }
            None => {
                bytes.push(*first);
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

fn is_hex(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

/// Units that start programs on behalf of somebody else.
const SESSION_HOSTS: [&str; 12] = [
    "ssh",
    "sshd",
    "user",
    "getty",
    "serial-getty",
    "console-getty",
    "container-getty",
    "cron",
    "crond",
    "atd",
    "anacron",
    "init",
];

/// A line per hierarchy, each at most a path long; more is not a cgroup file of this kernel.
pub(super) const MAX_TEXT: usize = 64 << 10;
const MAX_PATH: usize = 4096;
const MAX_NAME: usize = 255;

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

    #[track_caller]
    fn check(text: &str, container: Option<&str>, unit: Option<&str>) {
        let found = membership(text.replace("ID", ID).as_bytes());
        assert_eq!(found.container.as_deref(), container, "container of {text:?}");
        assert_eq!(found.unit.as_deref(), unit, "unit of {text:?}");
    }

    #[test]
    fn every_engine_and_driver_shows_its_id() {
        for path in [
            "0::/system.slice/docker-ID.scope",
            "12:cpu,cpuacct:/docker/ID",
            "1:name=systemd:/docker/ID\n0::/",
            "0::/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod1_2.slice/cri-containerd-ID.scope",
            "0::/kubepods/besteffort/pod0f9a-11/ID",
            "0::/kubepods.slice/kubepods-pod12.slice/crio-ID.scope",
            "0::/kubepods.slice/kubepods-pod12.slice/crio-ID.scope/container",
            "0::/machine.slice/libpod-ID.scope/container",
            "0::/user.slice/user-1000.slice/user@1000.service/user.slice/libpod-ID.scope/container",
            "0::/libpod_parent/libpod-ID",
            "0::/machine.slice/libpod-payload-ID",
            "0::/system.slice/containerd.service/kubepods-burstable-podx.slice:cri-containerd:ID",
            "0::/system.slice/nerdctl-ID.scope",
            "0::/default/ID",
            "0::/../../docker/ID",
            "0::/actions_job/ID",
            "0::/system.slice/docker-ID.scope (deleted)",
        ] {
            check(path, Some(ID), None);
        }
        check(
            "0::/ecs/task/abc/0123456789abcdef0123456789abcdef-2574839563",
            Some("0123456789abcdef0123456789abcdef-2574839563"),
            None,
        );
    }

    #[test]
    fn an_engines_own_monitor_is_not_in_the_container() {
        check("0::/machine.slice/libpod-conmon-ID.scope", None, None);
        check("0::/kubepods.slice/crio-conmon-ID.scope", None, None);
    }

    #[test]
    fn other_hexadecimal_components_are_no_container() {
        check("4:memory:/process_api/68f3fc60ae2386865a54ff697c38d30d\n0::/", None, None);
        check(
            "0::/system.slice/shop-68f3fc60ae2386865a54ff697c38d30d.service",
            None,
            Some("shop-68f3fc60ae2386865a54ff697c38d30d"),
        );
    }

    #[test]
    fn a_system_service_is_a_unit() {
        check("0::/system.slice/shop.service", None, Some("shop"));
        check("0::/system.slice/nginx.service", None, Some("nginx"));
        check("0::/system.slice/shop.service/workers", None, Some("shop"));
        check("1:name=systemd:/system.slice/shop.service\n0::/", None, Some("shop"));
        check("0::/acme.slice/acme-shop.slice/cart.service", None, Some("cart"));
        check("0::/system.slice/system-app.slice/app@shop.service", None, Some("app@shop"));
        check("0::/system.slice/system-worker.slice/worker@3.service", None, Some("worker"));
        check("0::/system.slice/my\\x2dshop.service", None, Some("my-shop"));
        check("0::/system.slice/shop.scope", None, Some("shop"));
    }

    #[test]
    fn a_users_own_service_is_a_unit_too() {
        check("0::/user.slice/user-1000.slice/user@1000.service/app.slice/shop.service", None, Some("shop"));
    }

    #[test]
    fn sessions_terminals_and_jobs_are_no_service() {
        for path in [
            "0::/user.slice/user-1000.slice/session-3.scope",
            "0::/user.slice/user-1000.slice/user@1000.service/init.scope",
            "0::/user.slice/user-1000.slice/user@1000.service/app.slice/app-org.gnome.Terminal.slice/vte-spawn-1.scope",
            "0::/user.slice/user-1000.slice/user@1000.service/app.slice/app-gnome-firefox-12.scope",
            "0::/user.slice/user-1000.slice/user@1000.service/app.slice/app-org.kde.konsole@1f.service",
            "0::/user.slice/user-1000.slice/user@1000.service/session.slice/org.gnome.Shell@x11.service",
            "0::/user.slice/user-1000.slice/user@1000.service/tmux-spawn-12.scope",
            "0::/user.slice/user-0.slice/user@0.service",
            "0::/init.scope",
            "0::/system.slice/ssh.service",
            "0::/system.slice/system-getty.slice/getty@tty1.service",
            "0::/system.slice/cron.service",
            "0::/system.slice/run-r1f2e.scope",
            "0::/system.slice/run-u42.service",
            "0::/",
            "",
            "nonsense",
            "0::",
        ] {
            check(path, None, None);
        }
    }

    #[test]
    fn engines_that_name_instead_of_number_give_the_name() {
        for (path, name) in [
            ("0::/lxc/shop/init.scope", "shop"),
            ("0::/lxc.payload.shop/system.slice/x.service", "shop"),
            ("0::/machine.slice/systemd-nspawn@shop.service/payload", "shop"),
            ("0::/machine.slice/machine-my\\x2dshop.scope", "my-shop"),
        ] {
            let found = membership(path.as_bytes());
            assert_eq!(found.container_name.as_deref(), Some(name), "{path}");
            assert_eq!(found.unit, None, "{path}");
        }
    }

    #[test]
    fn the_path_is_that_of_the_unified_hierarchy_if_it_says_anything() {
        assert_eq!(membership(b"4:memory:/m\n0::/a/b").path, "/a/b");
        assert_eq!(membership(b"4:memory:/m\n1:name=systemd:/s\n0::/").path, "/s");
        assert_eq!(membership(b"0::/").path, "/");
    }
}
