//! A process's facts as the attributes of an OTLP resource, by the semantic conventions (v1.44, resource).
//!
//! Pure. What the target declares in `OTEL_RESOURCE_ATTRIBUTES` wins over what was found, as the
//! specification ranks environment above detectors; only who observed (`telemetry.*`) and which process it is
//! (`process.pid`) are not the target's to say. It must never call itself `opentelemetry`, which is
//! reserved for that project's own SDKs, nor emit command-line arguments, which hold secrets.

use std::sync::Arc;

use super::cgroup::Membership;
use super::environment::Declared;
use super::naming::{self, NameSource, ProcessFacts};
use super::runtime::Runtime;
use super::serving::{self, Serving};
use super::text::{base_name, harmless};
use super::{Resource, ResourceValue};
use crate::identity::ProcessKey;

/// What is the same for all processes of this machine.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Host {
    /// `host.name`.
    pub name: String,
    /// A number of this boot (`/proc/sys/kernel/random/boot_id`): makes instance ids unique among machines
    /// and boots.
    pub boot: String,
}

impl Host {
    /// This machine.
    pub fn read() -> Self {
        let line = |path: &str| {
            let text = std::fs::read(path).unwrap_or_default();
            harmless(&text, 255)
        };
        Self { name: line("/proc/sys/kernel/hostname"), boot: line("/proc/sys/kernel/random/boot_id") }
    }
}

/// A program as it is described once for all processes that run the same image (a server and its
/// forked workers).
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Description {
    /// `service.name`.
    pub service: String,
    /// Where that came from.
    pub source: NameSource,
    /// How its threads serve.
    pub serving: Serving,
    /// Its executable's path.
    pub executable: Vec<u8>,
    /// Its executable's name.
    pub name: Vec<u8>,
    /// Its cgroup's path.
    pub cgroup: String,
    /// Its language runtime.
    pub runtime: Option<Runtime>,
    /// `container.id`.
    container: Option<String>,
    /// What it declared, without `service.name`.
    declared: Vec<(String, String)>,
}

/// Puts together what is known of a program.
pub fn describe(
    facts: &ProcessFacts,
    membership: &Membership,
    declared: &Declared,
    go: Option<Runtime>,
) -> Description {
    let (service, source) = naming::service_name(facts);
    let runtime = go
        .or_else(|| {
            naming::interpreter(facts).and_then(|(interpreter, _)| Runtime::of_interpreter(interpreter))
        })
        .or_else(|| Runtime::of_executable(base_name(&facts.executable)))
        .or_else(|| Runtime::of_executable(&naming::executable_name(facts)));
    let serving = serving::serving(facts, runtime.as_ref());
    let executable = if facts.executable.is_empty() { &facts.filename } else { &facts.executable };
    Description {
        service,
        source,
        serving,
        executable: executable.clone(),
        name: naming::executable_name(facts),
        cgroup: membership.path.clone(),
        runtime,
        container: membership.container.clone(),
        declared: declared.attributes.iter().filter(|(key, _)| key != "service.name").cloned().collect(),
    }
}

/// The resource of one process.
pub fn resource(
    description: &Description,
    key: ProcessKey,
    host: &Host,
    name: Option<&str>,
) -> Arc<Resource> {
    let service = name.unwrap_or(&description.service).to_owned();
    let mut attributes = Attributes(Vec::with_capacity(16));
    attributes.text("service.name", &service);
    for (key, value) in &description.declared {
        if !is_ours(key) {
            attributes.text(key, value);
        }
    }
    attributes.text("service.instance.id", &instance_id(key, host));
    attributes.0.push(("process.pid".to_owned(), ResourceValue::Integer(i64::from(key.pid))));
    let path = harmless(&description.executable, MAX_PATH);
    // By the conventions the name is that of the file, not the one it was called by.
    let base = base_name(&description.executable);
    let file = harmless(if base.is_empty() { &description.name } else { base }, MAX_PATH);
    attributes.text("process.executable.name", &file);
    if path.starts_with('/') {
        attributes.text("process.executable.path", &path);
    }
    if let Some(runtime) = &description.runtime {
        attributes.text("process.runtime.name", runtime.name);
        attributes.text("process.runtime.version", runtime.version.as_deref().unwrap_or_default());
    }
    attributes.text("container.id", description.container.as_deref().unwrap_or_default());
    attributes.text("host.name", &host.name);
    attributes.text("host.arch", host_arch(std::env::consts::ARCH));
    attributes.text("os.type", "linux");
    attributes.text("telemetry.sdk.name", "spandrel");
    attributes.text("telemetry.sdk.version", env!("CARGO_PKG_VERSION"));
    attributes
        .text("telemetry.sdk.language", description.runtime.as_ref().map_or("", |runtime| runtime.language));
    attributes.text("telemetry.distro.name", "spandrel");
    attributes.text("telemetry.distro.version", env!("CARGO_PKG_VERSION"));
    Arc::new(Resource { service, attributes: attributes.0 })
}

/// `service.instance.id`: a UUID version 5 (RFC 9562 §5.5) in the name space that the conventions give for it,
/// of boot, pid, start time and exec count; so it is the same whenever this process is met.
pub fn instance_id(key: ProcessKey, host: &Host) -> String {
    let name = format!("{}/{}/{}/{}", host.boot, key.pid, key.started, key.exec);
    uuid::Uuid::new_v5(&INSTANCE_NAMESPACE, name.as_bytes()).to_string()
}

/// `host.arch` (semantic conventions, host): their names for Rust's.
fn host_arch(arch: &str) -> &str {
    match arch {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        "arm" => "arm32",
        "powerpc64" => "ppc64",
        other => other,
    }
}

/// Attributes that a target cannot set for itself.
fn is_ours(key: &str) -> bool {
    key.starts_with("telemetry.") || key == "process.pid" || key == "service.name"
}

struct Attributes(Vec<(String, ResourceValue)>);

impl Attributes {
    /// Adds a text that is not empty, unless the key is there already.
    fn text(&mut self, key: &str, value: &str) {
        if !value.is_empty() && !self.0.iter().any(|(known, _)| known == key) {
            self.0.push((key.to_owned(), ResourceValue::Text(value.to_owned())));
        }
    }
}

/// The name space for `service.instance.id` (semantic conventions, service).
const INSTANCE_NAMESPACE: uuid::Uuid = uuid::uuid!("4d63009a-8d0f-11ee-aad7-4c796ed8e320");
const MAX_PATH: usize = 2 << 10;

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: ProcessKey = ProcessKey { pid: 42, exec: 1, started: 7 };

    fn host() -> Host {
        Host { name: "box".to_owned(), boot: "b".to_owned() }
    }

    fn text<'a>(resource: &'a Resource, key: &str) -> Option<&'a str> {
        resource.attributes.iter().find(|(known, _)| known == key).map(|(_, value)| match value {
            ResourceValue::Text(text) => text.as_str(),
            ResourceValue::Integer(_) => "an integer",
        })
    }

    fn described(executable: &str, command: &str, declared: &str) -> Arc<Resource> {
        let declared = super::super::environment::declared(declared.as_bytes());
        let facts = ProcessFacts {
            executable: executable.as_bytes().to_vec(),
            argv: command.split_whitespace().map(|word| word.as_bytes().to_vec()).collect(),
            declared_attribute: declared.service_attribute().map(str::to_owned),
            ..ProcessFacts::default()
        };
        resource(&describe(&facts, &Membership::default(), &declared, None), KEY, &host(), None)
    }

    #[test]
    fn a_resource_says_what_the_conventions_ask_for() {
        let found = described("/usr/bin/python3.11", "python3 app.py", "");
        assert_eq!(found.service, "app");
        for (key, value) in [
            ("service.name", "app"),
            ("process.pid", "an integer"),
            ("process.executable.name", "python3.11"),
            ("process.executable.path", "/usr/bin/python3.11"),
            ("process.runtime.name", "cpython"),
            ("telemetry.sdk.language", "python"),
            ("telemetry.sdk.name", "spandrel"),
            ("telemetry.distro.name", "spandrel"),
            ("host.name", "box"),
            ("os.type", "linux"),
        ] {
            assert_eq!(text(&found, key), Some(value), "{key}");
        }
        assert_eq!(text(&found, "container.id"), None);
        assert!(found.attributes.contains(&("process.pid".to_owned(), ResourceValue::Integer(42))));
    }

    #[test]
    fn what_a_target_declares_wins_but_not_over_who_observed_it() {
        let found = described(
            "/usr/bin/curl",
            "curl",
            "OTEL_RESOURCE_ATTRIBUTES=service.name=shop,host.name=h,team=a,telemetry.sdk.name=opentelemetry,process.pid=1\0",
        );
        assert_eq!(found.service, "shop");
        assert_eq!(text(&found, "host.name"), Some("h"));
        assert_eq!(text(&found, "team"), Some("a"));
        assert_eq!(text(&found, "telemetry.sdk.name"), Some("spandrel"));
        assert_eq!(text(&found, "process.pid"), Some("an integer"));
    }

    #[test]
    fn each_key_is_there_once() {
        let found = described("/usr/bin/curl", "curl", "OTEL_RESOURCE_ATTRIBUTES=os.type=x,service.name=y\0");
        for (key, _) in &found.attributes {
            assert_eq!(found.attributes.iter().filter(|(other, _)| other == key).count(), 1, "{key}");
        }
    }

    #[test]
    fn an_instance_id_is_stable_and_differs_by_process_and_boot() {
        let id = instance_id(KEY, &host());
        assert_eq!(id, instance_id(KEY, &host()));
        assert_eq!(id.len(), 36);
        assert_eq!(id.as_bytes()[14], b'5', "a UUID of version 5: {id}");
        assert_ne!(id, instance_id(ProcessKey { started: 8, ..KEY }, &host()));
        assert_ne!(id, instance_id(KEY, &Host { boot: "c".to_owned(), ..host() }));
    }

    #[test]
    fn this_host_has_a_name_and_a_boot() {
        let host = Host::read();
        assert!(!host.name.is_empty() && !host.boot.is_empty());
    }
}
