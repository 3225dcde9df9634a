//! nginx with one worker per processor, in the ways that it forwards. One `nginx.conf` for each; what a request becomes
//! stands in maps, so that nothing of it travels.

use std::path::Path;

use anyhow::{Context, Result, bail};

use super::{Proxy, Wiring};
use crate::process::{Endpoint, Scratch, Service, needed};

/// Starts it. `mode` is `keepalive`, `fresh` (a connection for each call), `unbuffered`, `limit_rate`, or one that calls
/// twice: `auth`, `mirror`, `subrequest`; or by FastCGI: `fastcgi`, `fastcgi_keep`; `aside` maps a request to the first of these calls.
pub fn start(
    mode: &str,
    at: &Endpoint,
    proxy: &Proxy,
    aside: &Path,
    wiring: &Wiring,
    scratch: &Scratch,
) -> Result<Service> {
    let port = at.port()?;
    let folder = scratch.join(&format!("nginx-{port}"));
    std::fs::create_dir_all(&folder).with_context(|| format!("creating {}", folder.display()))?;
    let home = folder.display();
    let upstream = proxy.next.target();
    let (map, aside) = (proxy.map.display(), aside.display());
    let user = if nix::unistd::Uid::effective().is_root() { "user root;\n" } else { "" };
    let keep = match mode {
        "fresh" | "fastcgi" => "",
        // Each keeps a process of the application.
        "fastcgi_keep" => "keepalive 8; keepalive_requests 1000000;",
        _ => "keepalive 64; keepalive_requests 1000000;",
    };
    let (here, beside) = match mode {
        "keepalive" | "fresh" | "fastcgi" => ("", ""),
        "fastcgi_keep" => ("fastcgi_keep_conn on;", ""),
        "unbuffered" => ("proxy_buffering off; proxy_request_buffering off;", ""),
        "limit_rate" => ("limit_rate 200k;", ""),
        "auth" => ("auth_request /aside;", ASIDE),
        "mirror" => ("mirror /aside;", ASIDE),
        "subrequest" => ("add_before_body /aside; addition_types *;", ASIDE),
        other => bail!("no mode of nginx is called {other}"),
    };
    let pass = match mode.starts_with("fastcgi") {
        false => "proxy_pass http://next$next;".to_owned(),
        true => format!(
            "fastcgi_pass next; fastcgi_param REQUEST_URI $next; fastcgi_param REQUEST_METHOD $request_method; \
             fastcgi_param CONTENT_TYPE $content_type; fastcgi_param CONTENT_LENGTH $content_length; \
             fastcgi_param SCRIPT_FILENAME {};",
            super::fpm::script()
        ),
    };
    let text = format!(
        "daemon off;\n{user}worker_processes 2;\nerror_log {home}/error.log;\npid {home}/pid;\n\
         events {{ worker_connections 1024; }}\n\
         http {{\n  access_log off;\n  map_hash_max_size 262144;\n  map_hash_bucket_size 128;\n  keepalive_requests 1000000;\n\
         client_body_temp_path {home}/body;\n  proxy_temp_path {home}/proxy;\n  fastcgi_temp_path {home}/fastcgi;\n\
         uwsgi_temp_path {home}/uwsgi;\n  scgi_temp_path {home}/scgi;\n\
         map $request_uri $next {{ default /none; include {map}; }}\n\
         map $request_uri $aside {{ default /none; include {aside}; }}\n\
         upstream next {{ server {upstream}; {keep} }}\n\
         proxy_http_version 1.1;\n  proxy_set_header Connection \"\";\n\
         server {{ listen 127.0.0.1:{port};\n    location / {{ {here} {pass} }}\n{beside}  }}\n}}\n"
    );
    let config = folder.join("nginx.conf");
    std::fs::write(&config, text).with_context(|| format!("writing {}", config.display()))?;
    let mut command = wiring.command(needed("nginx")?);
    Service::listening("nginx", command.arg("-p").arg(&folder).arg("-c").arg(&config), scratch, at)
}

/// Its own `proxy_set_header` hides those of the server, so `Connection` is said again: else the service closes a connection that
/// nginx keeps, and nginx calls twice.
const ASIDE: &str = "    location = /aside {\n      internal;\n      proxy_pass http://next$aside;\n      proxy_pass_request_body off;\n      \
                     proxy_set_header Content-Length \"\"; proxy_set_header Connection \"\";\n    }\n";
