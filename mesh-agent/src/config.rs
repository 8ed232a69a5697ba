//! What can be configured: flags, then `MESH_*` in the environment, then one YAML file, then defaults, checked as a whole.
//!
//! The result is plain values; the composition root makes each part's own `Config` from them.

pub mod cli;
mod file;
mod missing;
mod mountinfo;
mod options;
mod resolve;
mod span;
mod validate;

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ipnet::IpNet;
use serde::Serialize;

use crate::registry::etcd::Address;
use crate::state::endpoint::Locality;
use crate::traffic::path;

pub(crate) use file::read_text;
pub use options::{
    Acceleration, LocalityOptions, LogFormat, Options, ProxyOptions, SourceOptions, Switch,
};
pub use span::{ParseSpanError, Span};

/// Everything that `mesh-agent run` is told, checked. Printed by `--print-config` in the form of the file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Settings {
    /// The cgroup that is hooked: processes below it can be enrolled. Default: the root of the cgroup2 mount. Deeper
    /// means that processes outside of it can never be captured.
    pub cgroup: PathBuf,
    /// Directory on a bpffs under which maps and links are pinned. Default: `/sys/fs/bpf/mesh`. Two agents on one node
    /// need two.
    pub pin_dir: PathBuf,
    /// Directory of the registry, on a disk that survives a restart. Default: `/var/lib/mesh`.
    pub state_dir: PathBuf,
    /// Where the API listens. Default: 127.0.0.1:15000. Anything but a loopback address needs `token_file`.
    pub api: SocketAddr,
    /// Where `/metrics`, `/healthz` and `/readyz` answer. Default: 127.0.0.1:15020.
    pub metrics: SocketAddr,
    /// Where the API listens too, for its own user only. Default: `/run/mesh/agent.sock`; with another `state_dir`
    /// `agent.sock` in it, so that two agents do not meet, or none where that path is too long for a socket.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unix_socket: Option<PathBuf>,
    /// File with the token that callers of the API must show. Default: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token_file: Option<PathBuf>,
    /// Values of `Host` that the API accepts besides loopback names and its own address. Default: none.
    pub allowed_host: Vec<String>,
    /// Threads of the data plane. Default: one per processor. Fewer limits throughput, more than processors costs
    /// switches between them.
    pub workers: usize,
    /// Whether bytes may move from socket to socket for workloads that ask for it. Default: opt-in.
    pub acceleration: Acceleration,
    /// What is logged: a level, or directives as in `RUST_LOG`. Default: info. `debug` writes some lines per connection.
    pub log_level: String,
    /// Shape of a line of the log. Default: text.
    pub log_format: LogFormat,
    /// Whether each connection and request is written to stdout. Default: on.
    pub access_log: Switch,
    /// Time that connections have to end after SIGTERM. Default: 30 s. Too short cuts long requests; too long delays the
    /// stop, and an init system may kill the agent first.
    #[serde(serialize_with = "span::serialize")]
    pub drain_timeout: Duration,
    /// Time that established direct connections to an endpoint that is gone, or has failed for good, may go on before they
    /// are reset. Default: 10 s. Too short cuts what would have ended well; too long lets clients wait for a dead address.
    #[serde(serialize_with = "span::serialize")]
    pub stale_grace: Duration,
    /// Ranges from which virtual addresses of services are allotted. Default: 240.240.0.0/16 and `fd00:240:240::/64`. Too
    /// small a range refuses services when it is used up; one that is in use elsewhere hides what is there.
    pub virtual_range: Vec<IpNet>,
    /// Whether the agent answers questions for names of workloads that do not refuse. Default: on. Off: names of services
    /// are known to nobody, unless another resolver knows them.
    pub dns: Switch,
    /// How long a client may remember an answer about the mesh. Default: 5 s. Too short asks often; too long lets clients
    /// dial what is gone.
    #[serde(serialize_with = "span::serialize")]
    pub dns_ttl: Duration,
    /// Where the resolvers are named that are asked for the names of endpoints, and for workloads whose egress is locked. Default: `/etc/resolv.conf`.
    pub resolv_conf: PathBuf,
    /// Whether registry and pinned state are forgotten at the start. A flag only: in the file or the environment it would
    /// forget at every start.
    #[serde(skip)]
    pub reset: bool,
    /// The registry that several nodes share. Default: none, this node keeps its own. Printed without the password.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub registry: Option<Address>,
    /// File with the certificates of the authorities that its members are signed by. Default: those that this
    /// machine trusts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub registry_ca: Option<PathBuf>,
    /// The authorities that checks over TLS trust, in PEM; absent: those that this machine trusts.
    pub check_ca: Option<PathBuf>,
    /// File with this node's certificate, for members that ask for one. Default: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub registry_cert: Option<PathBuf>,
    /// File with the key of that certificate. Default: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub registry_key: Option<PathBuf>,
    /// How long endpoints that were registered on this node outlive its agent there. Default: 15 s. Too short takes them
    /// away when etcd or the network pauses; too long leaves those of a dead node to be found.
    #[serde(serialize_with = "span::serialize")]
    pub registry_ttl: Duration,
    /// Whether a registry that is damaged or gone is made anew from its last export. One that can be read is kept. A flag
    /// only.
    #[serde(skip)]
    pub restore: bool,
    /// Where objects come from beside the API. Default: nowhere.
    pub sources: Sources,
    /// Where this node is: region, zone and name, compared with the locality of endpoints. Default: nowhere, so that no
    /// endpoint is nearer than another.
    pub locality: Locality,
    /// Limits and deadlines of the proxy.
    pub proxy: ProxySettings,
}

/// Where objects come from beside the API, in the file under `sources`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Sources {
    /// A folder of files with objects (`*.yaml`, `*.yml`, `*.json`). Objects that came from one and are not configured any
    /// more become the API's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub files: Option<PathBuf>,
}

/// Limits and deadlines of the proxy, in the file under `proxy`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ProxySettings {
    /// For one attempt to connect to an endpoint. Default: 1 s. Too short fails endpoints that are far away; too long
    /// delays the next attempt.
    #[serde(serialize_with = "span::serialize")]
    pub connect_timeout: Duration,
    /// From the opening of a connection to a service port that is declared HTTP to its first byte. Default: 1 min. Too short
    /// ends connections that clients keep ready; too long lets silent clients hold connections.
    #[serde(serialize_with = "span::serialize")]
    pub first_byte_timeout: Duration,
    /// From the first byte of a request's head to its last. Default: 10 s. Too long lets slow clients hold connections.
    #[serde(serialize_with = "span::serialize")]
    pub header_timeout: Duration,
    /// How long the body of a request may be silent, except in gRPC, where `idleTimeout` holds. Default: 5 min. Too short
    /// fails clients that make their bodies slowly; too long lets silent ones hold endpoints.
    #[serde(serialize_with = "span::serialize")]
    pub body_timeout: Duration,
    /// From the end of a request to the head of the response. Default: 5 min. Too short fails slow requests; too long
    /// keeps clients waiting for endpoints that hang.
    #[serde(serialize_with = "span::serialize")]
    pub response_timeout: Duration,
    /// How long a client's connection may be open without a request. Default: 10 min. Too short makes clients connect
    /// anew; too long keeps descriptors busy.
    #[serde(serialize_with = "span::serialize")]
    pub keep_alive_timeout: Duration,
    /// How long a client's connection may be used before the client is told to open another: by `connection: close` or
    /// GOAWAY, so that no request fails. Default: 24 h; 0s is for ever. Too short makes clients connect anew; too long leaves
    /// connections on the worker that took them.
    #[serde(serialize_with = "span::serialize")]
    pub max_connection_age: Duration,
    /// How long a connection, request or tunnel may move no byte. Default: 1 h. Too short cuts quiet database
    /// connections; too long keeps what the other side has forgotten.
    #[serde(serialize_with = "span::serialize")]
    pub idle_timeout: Duration,
    /// How long an unused connection to an endpoint is kept. Default: 1 min. Longer than the server keeps it means
    /// requests sent into a closing connection; too short means connecting anew.
    #[serde(serialize_with = "span::serialize")]
    pub pool_idle_timeout: Duration,
    /// From the first byte of an unknown protocol until it counts as opaque. Default: 1 s. Too short takes slow HTTP
    /// clients for opaque; too long delays others.
    #[serde(serialize_with = "span::serialize")]
    pub detect_timeout: Duration,
    /// How long both sides of an unknown protocol may be silent before the endpoint is dialled too. Default: 20 ms. Too
    /// short dials endpoints in vain; too long delays protocols in which the server speaks first.
    #[serde(serialize_with = "span::serialize")]
    pub detect_race: Duration,
    /// Most connections that the proxy carries. Default: 16384. More are refused and counted; each takes two descriptors.
    pub max_connections: usize,
    /// Most connections that it carries for one workload. Default: 8192. Equal to `maxConnections` lets one workload
    /// take everything.
    pub max_connections_per_workload: usize,
    /// Most bytes in buffers for all workloads. Default: 1 GiB. Too small slows connections down; too large lets the
    /// node run out of memory.
    pub max_buffered_bytes: usize,
    /// Most bytes in buffers for one workload. Default: 512 MiB. As above, for its share.
    pub max_buffered_bytes_per_workload: usize,
    /// Largest head of a request or response, in bytes. Default: 65536. Smaller refuses large cookies with 431; larger
    /// costs memory per connection.
    pub max_header_bytes: usize,
    /// Most idle HTTP/1.1 connections kept per endpoint and caller by one worker. Default: 256. 0 connects for each
    /// request; more keeps descriptors of the endpoint busy.
    pub max_idle_connections: usize,
    /// Most requests that one worker serves at once. Default: 16384. More wait. Streams that live long count, too.
    pub max_requests: usize,
    /// Most requests that one worker serves at once for one workload. Default: 8192. Equal to `maxRequests` lets one
    /// workload take everything until another comes.
    pub max_requests_per_workload: usize,
    /// Most requests that wait at one worker when it is overloaded. Default: 8192. More are shed with 503, the lowest
    /// priority first. 0 sheds at once.
    pub max_queued_requests: usize,
    /// How long a request may wait when its worker is overloaded. Default: 1 s. Too short sheds what could have been
    /// served; too long keeps clients waiting that have given up.
    #[serde(serialize_with = "span::serialize")]
    pub queue_timeout: Duration,
    /// How far the spellings of a path are made one before routing and policy see it: `off`, `base`, `merge-slashes`,
    /// `decode-and-merge-slashes`, `strict`, or `auto`. Default: `auto`, which is `strict` for services whose routes tell
    /// paths apart, and `merge-slashes` for all others. Less lets through what endpoints may read as another path;
    /// `strict` refuses `%2F` and `;`, which some applications use. The table stands in `traffic/path.rs`.
    pub path_normalization: path::Mode,
}

impl Settings {
    /// Joins flags and environment with the file that they name and with the defaults, and checks the result.
    pub fn load(run: &cli::Run) -> Result<Self, Error> {
        let from_file = match &run.config {
            Some(path) => file::read(path)?,
            None => Options::default(),
        };
        let options = run.options.clone().over(from_file);
        let settings = resolve::resolve(options, run.beginning.reset, default_cgroup)?;
        Ok(Self {
            restore: run.beginning.restore,
            ..settings
        })
    }

    /// The settings in the form of the file.
    pub fn to_yaml(&self) -> Result<String, serde_saphyr::ser::Error> {
        serde_saphyr::to_string(self)
    }
}

/// Root of the cgroup2 mount of this machine.
pub fn default_cgroup() -> Result<PathBuf, Error> {
    let path = Path::new("/proc/self/mountinfo");
    let text = std::fs::read_to_string(path).map_err(|source| Error::Read {
        path: path.to_owned(),
        source,
    })?;
    mountinfo::cgroup2(&text).ok_or(Error::NoCgroup)
}

/// Why the agent cannot be configured.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The file is not as it should be.
    #[error("{}:{line}: {message}", path.display())]
    Parse {
        /// The file.
        path: PathBuf,
        /// Line in it, from 1.
        line: u64,
        /// What is wrong there; names the key.
        message: String,
    },
    /// Values do not fit. All of them are named.
    #[error("{}", Problems(.0))]
    Invalid(Vec<Problem>),
    /// There is nothing to hook.
    #[error(
        "no cgroup2 mount in /proc/self/mountinfo: mount one (mount -t cgroup2 none DIRECTORY) or name one with --cgroup"
    )]
    NoCgroup,
}

/// One value that does not fit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Its key in the file.
    pub key: &'static str,
    /// What is wrong, and what would be right.
    pub message: String,
}

struct Problems<'p>(&'p [Problem]);

impl fmt::Display for Problems<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.0.iter().enumerate() {
            let separator = if index == 0 { "" } else { "\n" };
            write!(f, "{separator}{}: {}", problem.key, problem.message)?;
        }
        Ok(())
    }
}
