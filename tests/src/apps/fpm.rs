//! PHP-FPM: processes that take one request at a time, over FastCGI.

use std::fmt::Write as _;
use std::process::Command;

use anyhow::{Context, Result};

use super::{Wiring, source};
use crate::process::{Endpoint, Scratch, Service, needed};

/// More than are ever busy and kept at once: a connection that a server keeps keeps a process.
const PROCESSES: usize = 80;

/// Starts it.
pub fn start(at: &Endpoint, wiring: &Wiring, scratch: &Scratch) -> Result<Service> {
    let port = at.port()?;
    let routes = scratch.join(&format!("routes-{port}.php"));
    let table = wiring.routes.as_ref().context("a service needs routes")?;
    let table = std::fs::read_to_string(table).with_context(|| format!("reading {}", table.display()))?;
    std::fs::write(&routes, php(&table)).with_context(|| format!("writing {}", routes.display()))?;
    let next = wiring.next.as_ref().context("a service needs a next one")?.target();
    let user = if nix::unistd::Uid::effective().is_root() { "user = root\n" } else { "" };
    let config = scratch.join(&format!("fpm-{port}.conf"));
    let text = format!(
        "[global]\ndaemonize = no\nerror_log = {log}\n[www]\n{user}listen = 127.0.0.1:{port}\nlisten.backlog = 1024\n\
         pm = static\npm.max_children = {PROCESSES}\nenv[ROUTES] = {routes}\nenv[NEXT] = {next}\n\
         php_admin_value[memory_limit] = 512M\n",
        log = scratch.join("fpm.log").display(),
        routes = routes.display(),
    );
    std::fs::write(&config, text).with_context(|| format!("writing {}", config.display()))?;
    let mut command = Command::new(program()?);
    Service::listening("php-fpm", command.arg("-R").arg("-y").arg(&config), scratch, at)
}

/// Where nginx finds the script.
pub fn script() -> String {
    source("fpm_service.php").display().to_string()
}

/// Debian puts its version behind the name.
fn program() -> Result<std::path::PathBuf> {
    let versions = (0..10).rev().flat_map(|minor| [format!("php-fpm8.{minor}")]);
    let found = versions.chain(["php-fpm".to_owned()]).find_map(|name| needed(&name).ok());
    found.map_or_else(|| needed("php-fpm"), Ok)
}

/// The routing table as PHP reads it; paths hold nothing that would have to be quoted.
fn php(table: &str) -> String {
    let mut text = "<?php return [\n".to_owned();
    for line in table.lines() {
        let mut words = line.split('\t');
        let [Some(path), Some(delay), Some(size)] = [words.next(), words.next(), words.next()] else {
            continue;
        };
        let calls: Vec<String> = words.map(|call| format!("'{call}'")).collect();
        let _ = writeln!(text, "'{path}' => [{delay}, {size}, [{}]],", calls.join(","));
    }
    text.push_str("];\n");
    text
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_routing_table_becomes_an_array() {
        assert_eq!(
            super::php("/a\t3\t2\t/b\t/c\n/b\t0\t9\n"),
            "<?php return [\n'/a' => [3, 2, ['/b','/c']],\n'/b' => [0, 9, []],\n];\n"
        );
    }
}
