//! Other proxies, with the shortest configuration that does the same: one worker, no log, connections to the endpoint
//! kept.

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use mesh_tests::requirements;
use serde_json::{Value, json};

use super::outcome::{BARE, ENVOY};
use super::process::{PROXY_CPU, on};

/// What is spoken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wire {
    Http1,
    Http2,
    Tcp,
}

/// A proxy that ours is compared with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Peer {
    Hyper,
    Envoy,
    HaProxy,
    Nginx,
}

/// From where to where, and where files may be put.
pub(crate) struct Task<'a> {
    pub(crate) wire: Wire,
    /// Whether a line is to be written for each request. nginx and Envoy write it to where nobody reads; a bare relay has no
    /// log, and `haproxy` one of datagrams only.
    pub(crate) is_logging: bool,
    pub(crate) listen: SocketAddr,
    pub(crate) endpoint: SocketAddr,
    pub(crate) folder: &'a Path,
}

impl Peer {
    pub(crate) const ALL: [Self; 4] = [Self::Hyper, Self::Envoy, Self::HaProxy, Self::Nginx];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Hyper => BARE,
            Self::Envoy => ENVOY,
            Self::HaProxy => "haproxy",
            Self::Nginx => "nginx",
        }
    }

    /// The command that does `task`; `None` where this proxy cannot.
    pub(crate) fn command(self, task: &Task<'_>) -> io::Result<Option<Command>> {
        Ok(Some(match self {
            Self::Hyper => relay(task),
            Self::Envoy => envoy(task)?,
            Self::HaProxy => haproxy(task)?,
            Self::Nginx if task.wire == Wire::Tcp => return Ok(None),
            Self::Nginx => nginx(task)?,
        }))
    }
}

fn relay(task: &Task<'_>) -> Command {
    let program = requirements::program("relay");
    let mut command = on(PROXY_CPU, &program.to_string_lossy());
    let mode = match task.wire {
        Wire::Http1 => "http1",
        Wire::Http2 => "http2",
        Wire::Tcp => "tcp",
    };
    command.args([mode, &task.listen.to_string(), &task.endpoint.to_string()]);
    command
}

fn haproxy(task: &Task<'_>) -> io::Result<Command> {
    let Task {
        listen, endpoint, ..
    } = task;
    let (mode, protocol) = match task.wire {
        Wire::Http1 => ("http", ""),
        Wire::Http2 => ("http", "proto h2"),
        Wire::Tcp => ("tcp", ""),
    };
    let text = format!(
        "global\n  nbthread 1\n  no strict-limits\n  maxconn 9500\n\
         defaults\n  mode {mode}\n  timeout connect 5s\n  timeout client 300s\n  timeout server 300s\n\
         listen l\n  bind {listen} {protocol}\n  server s {endpoint} {protocol}\n"
    );
    let path = file(task, "haproxy.cfg", &text)?;
    let mut command = on(PROXY_CPU, "haproxy");
    command.args(["-db", "-q", "-f"]).arg(path);
    Ok(command)
}

fn nginx(task: &Task<'_>) -> io::Result<Command> {
    let Task {
        listen, endpoint, ..
    } = task;
    // nginx speaks HTTP/2 to endpoints only where it takes them for gRPC servers.
    let (protocol, pass) = if task.wire == Wire::Http2 {
        (" http2", "grpc_pass grpc://be;")
    } else {
        ("", "proxy_pass http://be;")
    };
    let log = if task.is_logging { LOG } else { "off" };
    let server = format!(
        "upstream be {{ server {endpoint}; keepalive 256; keepalive_requests 1000000000; }}\n\
         server {{ listen {listen}{protocol} backlog=16384; access_log {log}; location / {{ {pass} }} }}"
    );
    let path = file(task, "nginx.conf", &nginx_file(task.folder, &server))?;
    let mut command = on(PROXY_CPU, "nginx");
    command.arg("-c").arg(path);
    Ok(command)
}

/// A configuration of nginx around `server`: as a proxy, and as what answers.
pub(crate) fn nginx_file(folder: &Path, server: &str) -> String {
    let folder = folder.display();
    format!(
        "daemon off; user root; worker_processes 1; pid {folder}/nginx.pid; error_log {folder}/error.log crit;\n\
         events {{ worker_connections 19000; }}\n\
         http {{ access_log off; keepalive_requests 1000000000; keepalive_timeout 300s;\n\
         http2_max_concurrent_streams 1024; default_type text/plain;\n\
         client_body_temp_path {folder}/t; proxy_temp_path {folder}/t; fastcgi_temp_path {folder}/t;\n\
         uwsgi_temp_path {folder}/t; scgi_temp_path {folder}/t; proxy_http_version 1.1;\n\
         proxy_set_header Connection \"\"; proxy_set_header Host $http_host;\n{server}\n}}\n"
    )
}

fn file(task: &Task<'_>, name: &str, text: &str) -> io::Result<PathBuf> {
    let path = task.folder.join(name);
    fs::write(&path, text)?;
    Ok(path)
}

/// Where peers write their access logs.
const LOG: &str = "/dev/null";

const TYPE: &str = "type.googleapis.com/envoy.";

/// Tuned as Envoy's own "best practices for benchmarking" advise: no request ids, no dynamic statistics, no limits that
/// would be reached; and no statistics and added headers at all.
fn envoy(task: &Task<'_>) -> io::Result<Command> {
    let program = std::env::var_os("MESH_BENCH_ENVOY")
        .ok_or_else(|| io::Error::other("MESH_BENCH_ENVOY does not say where it is"))?;
    let filter = match task.wire {
        Wire::Tcp => json!({
            "name": "tcp",
            "typed_config": {
                "@type": format!("{TYPE}extensions.filters.network.tcp_proxy.v3.TcpProxy"),
                "stat_prefix": "in",
                "cluster": "be",
            },
        }),
        Wire::Http1 | Wire::Http2 => envoy_http(task),
    };
    let config = json!({
        "stats_config": { "stats_matcher": { "reject_all": true } },
        "static_resources": {
            "listeners": [{
                "name": "in",
                "address": envoy_address(task.listen),
                "filter_chains": [{ "filters": [filter] }],
            }],
            "clusters": [envoy_cluster(task)],
        },
    });
    let path = file(task, "envoy.json", &config.to_string())?;
    let mut command = on(PROXY_CPU, &program.to_string_lossy());
    command.arg("-c").arg(path).args([
        "--concurrency",
        "1",
        "--disable-hot-restart",
        "-l",
        "error",
    ]);
    Ok(command)
}

fn envoy_http(task: &Task<'_>) -> Value {
    let codec = if task.wire == Wire::Http2 {
        "HTTP2"
    } else {
        "HTTP1"
    };
    let network = format!("{TYPE}extensions.filters.network.http_connection_manager.v3");
    let log = json!({
        "name": "log",
        "typed_config": {
            "@type": format!("{TYPE}extensions.access_loggers.file.v3.FileAccessLog"),
            "path": LOG,
        },
    });
    let logs: Vec<Value> = task.is_logging.then_some(log).into_iter().collect();
    json!({
        "name": "http",
        "typed_config": {
            "@type": format!("{network}.HttpConnectionManager"),
            "stat_prefix": "in",
            "codec_type": codec,
            "generate_request_id": false,
            "access_log": logs,
            "http_filters": [{
                "name": "router",
                "typed_config": {
                    "@type": format!("{TYPE}extensions.filters.http.router.v3.Router"),
                    "dynamic_stats": false,
                    "suppress_envoy_headers": true,
                },
            }],
            "route_config": {
                "name": "all",
                "virtual_hosts": [{
                    "name": "all",
                    "domains": ["*"],
                    "routes": [{ "match": { "prefix": "/" }, "route": { "cluster": "be" } }],
                }],
            },
        },
    })
}

fn envoy_cluster(task: &Task<'_>) -> Value {
    const MANY: u32 = 1_000_000;
    let mut cluster = json!({
        "name": "be",
        "connect_timeout": "5s",
        "type": "STATIC",
        "load_assignment": {
            "cluster_name": "be",
            "endpoints": [{
                "lb_endpoints": [{ "endpoint": { "address": envoy_address(task.endpoint) } }],
            }],
        },
        "circuit_breakers": { "thresholds": [{
            "max_connections": MANY,
            "max_pending_requests": MANY,
            "max_requests": MANY,
            "max_retries": MANY,
        }] },
    });
    if task.wire == Wire::Http2
        && let Some(fields) = cluster.as_object_mut()
    {
        let options = format!("{TYPE}extensions.upstreams.http.v3.HttpProtocolOptions");
        let options = json!({
            "@type": options,
            "explicit_http_config": { "http2_protocol_options": {} },
        });
        let all = json!({ "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": options });
        fields.insert("typed_extension_protocol_options".to_owned(), all);
    }
    cluster
}

fn envoy_address(address: SocketAddr) -> Value {
    json!({ "socket_address": {
        "address": address.ip().to_string(),
        "port_value": address.port(),
    } })
}
