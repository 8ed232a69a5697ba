//! The settings as the user wrote them: one struct for flags, environment and file, so that their names cannot differ.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, ValueEnum};
use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::span::Span;
use crate::registry::etcd::Address;
use crate::traffic::path;

/// What the user said, nothing filled in. `Settings` says what each means.
#[derive(Args, Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Options {
    /// Cgroup that is hooked; processes below it can be enrolled [default: root of the cgroup2 mount]
    #[arg(long, env = "MESH_CGROUP", value_name = "PATH")]
    pub cgroup: Option<PathBuf>,

    /// Directory on a bpffs for maps and links [default: /sys/fs/bpf/mesh]
    #[arg(long, env = "MESH_PIN_DIR", value_name = "PATH")]
    pub pin_dir: Option<PathBuf>,

    /// Directory of the registry [default: /var/lib/mesh]
    #[arg(long, env = "MESH_STATE_DIR", value_name = "PATH")]
    pub state_dir: Option<PathBuf>,

    /// Where the API listens; not loopback: with --token-file only [default: 127.0.0.1:15000]
    #[arg(long, env = "MESH_API", value_name = "ADDR:PORT")]
    pub api: Option<SocketAddr>,

    /// Where metrics and probes answer [default: 127.0.0.1:15020]
    #[arg(long, env = "MESH_METRICS", value_name = "ADDR:PORT")]
    pub metrics: Option<SocketAddr>,

    /// Where the API listens too, for its own user only [default: /run/mesh/agent.sock, or agent.sock in another --state-dir]
    #[arg(long, env = "MESH_UNIX_SOCKET", value_name = "PATH")]
    pub unix_socket: Option<PathBuf>,

    /// File with the token that callers of the API must show
    #[arg(long, env = "MESH_TOKEN_FILE", value_name = "PATH")]
    pub token_file: Option<PathBuf>,

    /// Host that the API answers to, besides loopback names and its own address; may be repeated
    #[arg(
        long,
        env = "MESH_ALLOWED_HOST",
        value_name = "HOST",
        value_delimiter = ','
    )]
    pub allowed_host: Option<Vec<String>>,

    /// Threads of the data plane [default: one per processor]
    #[arg(long, env = "MESH_WORKERS", value_name = "N")]
    pub workers: Option<u16>,

    /// Whether bytes may move from socket to socket for workloads that ask for it [default: opt-in]
    #[arg(long, env = "MESH_ACCELERATION", value_name = "WHEN")]
    pub acceleration: Option<Acceleration>,

    /// Level, or directives as in `RUST_LOG` [default: info]
    #[arg(long, env = "MESH_LOG_LEVEL", value_name = "LEVEL")]
    pub log_level: Option<String>,

    /// Shape of a line of the log [default: text]
    #[arg(long, env = "MESH_LOG_FORMAT", value_name = "FORMAT")]
    pub log_format: Option<LogFormat>,

    /// Whether each connection and request is written to stdout [default: on]
    #[arg(long, env = "MESH_ACCESS_LOG", value_name = "SWITCH")]
    pub access_log: Option<Switch>,

    /// Time that connections have to end after SIGTERM [default: 30s]
    #[arg(long, env = "MESH_DRAIN_TIMEOUT", value_name = "TIME")]
    pub drain_timeout: Option<Span>,

    /// Time that direct connections to an endpoint that is gone may go on [default: 10s]
    #[arg(long, env = "MESH_STALE_GRACE", value_name = "TIME")]
    pub stale_grace: Option<Span>,

    /// Range for virtual addresses; may be repeated [default: 240.240.0.0/16 and `fd00:240:240::/64`]
    #[arg(
        long,
        env = "MESH_VIRTUAL_RANGE",
        value_name = "CIDR",
        value_delimiter = ','
    )]
    pub virtual_range: Option<Vec<IpNet>>,

    /// Registry that several nodes share: `etcd://[USER:PASSWORD@]HOST[:PORT][,HOST..][/PREFIX]`, `etcds://` over TLS
    #[arg(
        long,
        env = "MESH_REGISTRY",
        value_name = "URL",
        hide_env_values = true
    )]
    pub registry: Option<Address>,

    /// Certificates of the authorities that members of an `etcds://` registry are signed by [default: those that this machine trusts]
    #[arg(long, env = "MESH_REGISTRY_CA", value_name = "FILE")]
    pub registry_ca: Option<PathBuf>,

    /// Own certificate for an `etcds://` registry that asks for one
    #[arg(long, env = "MESH_REGISTRY_CERT", value_name = "FILE")]
    pub registry_cert: Option<PathBuf>,

    /// Key of that certificate
    #[arg(long, env = "MESH_REGISTRY_KEY", value_name = "FILE")]
    pub registry_key: Option<PathBuf>,

    /// How long endpoints of this node outlive its agent in the shared registry [default: 15s]
    #[arg(long, env = "MESH_REGISTRY_TTL", value_name = "TIME")]
    pub registry_ttl: Option<Span>,

    /// Certificates of the authorities that checks of registrations over TLS trust; read at the start [default: those that this machine trusts]
    #[arg(long, env = "MESH_CHECK_CA", value_name = "FILE")]
    pub check_ca: Option<PathBuf>,

    /// Where objects come from beside the API.
    #[command(flatten)]
    pub sources: SourceOptions,

    /// Whether the agent answers questions for names of workloads that do not refuse [default: on]
    #[arg(long, env = "MESH_DNS", value_name = "SWITCH")]
    pub dns: Option<Switch>,

    /// How long an answer about the mesh may be remembered [default: 5s]
    #[arg(long, env = "MESH_DNS_TTL", value_name = "TIME")]
    pub dns_ttl: Option<Span>,

    /// Who is asked for the names of endpoints outside the mesh, and for locked workloads [default: /etc/resolv.conf]
    #[arg(long, env = "MESH_RESOLV_CONF", value_name = "FILE")]
    pub resolv_conf: Option<PathBuf>,

    /// Where this node is.
    #[command(flatten)]
    pub locality: LocalityOptions,

    /// Limits and deadlines of the proxy: in the file only.
    #[arg(skip)]
    pub proxy: ProxyOptions,
}

/// Where objects come from beside the API, as the user wrote it.
#[derive(Args, Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct SourceOptions {
    /// Folder of YAML and JSON files with objects (not of folders in it), followed while the agent runs
    #[arg(long = "source", env = "MESH_SOURCE", value_name = "DIR")]
    pub files: Option<PathBuf>,
}

/// Where this node is, as the user wrote it.
#[derive(Args, Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct LocalityOptions {
    /// Region of this node, for services that prefer what is near
    #[arg(long, env = "MESH_REGION", value_name = "NAME")]
    pub region: Option<String>,

    /// Zone of this node, one of its region
    #[arg(long, env = "MESH_ZONE", value_name = "NAME")]
    pub zone: Option<String>,

    /// Name of this node, as endpoints have it in their locality
    #[arg(long, env = "MESH_NODE", value_name = "NAME")]
    pub node: Option<String>,
}

impl LocalityOptions {
    fn over(self, below: Self) -> Self {
        Self {
            region: self.region.or(below.region),
            zone: self.zone.or(below.zone),
            node: self.node.or(below.node),
        }
    }
}

/// Limits and deadlines of the proxy, as the user wrote them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
#[expect(
    missing_docs,
    reason = "`ProxySettings` has the same fields, with their meaning"
)]
pub struct ProxyOptions {
    pub connect_timeout: Option<Span>,
    pub first_byte_timeout: Option<Span>,
    pub header_timeout: Option<Span>,
    pub body_timeout: Option<Span>,
    pub response_timeout: Option<Span>,
    pub keep_alive_timeout: Option<Span>,
    pub max_connection_age: Option<Span>,
    pub idle_timeout: Option<Span>,
    pub pool_idle_timeout: Option<Span>,
    pub detect_timeout: Option<Span>,
    pub detect_race: Option<Span>,
    pub max_connections: Option<usize>,
    pub max_connections_per_workload: Option<usize>,
    pub max_buffered_bytes: Option<usize>,
    pub max_buffered_bytes_per_workload: Option<usize>,
    pub max_header_bytes: Option<usize>,
    pub max_idle_connections: Option<usize>,
    pub max_requests: Option<usize>,
    pub max_requests_per_workload: Option<usize>,
    pub max_queued_requests: Option<usize>,
    pub queue_timeout: Option<Span>,
    pub path_normalization: Option<path::Mode>,
}

/// When bytes may move from socket to socket.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Acceleration {
    /// Never.
    Off,
    /// For workloads that ask for it.
    #[default]
    OptIn,
}

/// Shape of a line of the log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object per line.
    Json,
}

/// On or off.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Switch {
    /// It is done.
    On,
    /// It is not.
    Off,
}

impl Options {
    /// These options where they are given, `below` where they are not.
    #[must_use]
    pub fn over(self, below: Self) -> Self {
        Self {
            cgroup: self.cgroup.or(below.cgroup),
            pin_dir: self.pin_dir.or(below.pin_dir),
            state_dir: self.state_dir.or(below.state_dir),
            api: self.api.or(below.api),
            metrics: self.metrics.or(below.metrics),
            unix_socket: self.unix_socket.or(below.unix_socket),
            token_file: self.token_file.or(below.token_file),
            allowed_host: self.allowed_host.or(below.allowed_host),
            workers: self.workers.or(below.workers),
            acceleration: self.acceleration.or(below.acceleration),
            log_level: self.log_level.or(below.log_level),
            log_format: self.log_format.or(below.log_format),
            access_log: self.access_log.or(below.access_log),
            drain_timeout: self.drain_timeout.or(below.drain_timeout),
            stale_grace: self.stale_grace.or(below.stale_grace),
            virtual_range: self.virtual_range.or(below.virtual_range),
            registry: self.registry.or(below.registry),
            registry_ca: self.registry_ca.or(below.registry_ca),
            registry_cert: self.registry_cert.or(below.registry_cert),
            registry_key: self.registry_key.or(below.registry_key),
            registry_ttl: self.registry_ttl.or(below.registry_ttl),
            check_ca: self.check_ca.or(below.check_ca),
            sources: SourceOptions {
                files: self.sources.files.or(below.sources.files),
            },
            dns: self.dns.or(below.dns),
            dns_ttl: self.dns_ttl.or(below.dns_ttl),
            resolv_conf: self.resolv_conf.or(below.resolv_conf),
            locality: self.locality.over(below.locality),
            proxy: below.proxy,
        }
    }
}
