//! Service: a named set of endpoints behind one or more addresses. Data only.

use std::collections::BTreeMap;
use std::net::IpAddr;

use mesh_common::service::{TCP, UDP};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::life::Availability;
use super::object::{Condition, Object};

/// A service of the registry.
pub type Service = Object<ServiceSpec, ServiceStatus>;

/// What is wanted of a service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ServiceSpec {
    /// Virtual addresses; allotted from the configured ranges when there are none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schema(value_type = Vec<String>)]
    pub addresses: Vec<IpAddr>,
    /// The ports that callers dial; 1 to 64, none where the service is `portless`.
    pub ports: Vec<Port>,
    /// Whether it is only found and read, never dialled: it has no ports, and no virtual address is allotted.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub portless: bool,
    /// Whether its name stands for the addresses of its endpoints that are well, and not for a virtual address: it is
    /// dialled past the mesh, and has no addresses.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub headless: bool,
    /// Names outside the mesh, at most 16: questions of workloads for them are answered as for the service itself.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub hostnames: Vec<String>,
    /// How connections travel.
    #[serde(default)]
    pub mode: Mode,
    /// How an endpoint is picked.
    #[serde(default)]
    pub balancing: Balancing,
    /// Version of the service, free text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// Free words; at most 64.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tags: Vec<String>,
    /// Free names and values; at most 64.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub meta: BTreeMap<String, String>,
    /// Services that it needs; at most 256.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub dependencies: Vec<Dependency>,
    /// Free settings that the service reads back and watches; at most 1024, of 1 MiB together.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub configuration: BTreeMap<String, String>,
}

/// A service that is needed.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Dependency {
    /// Its name.
    pub name: String,
    /// Its namespace; absent: that of the service that needs it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
}

impl ServiceSpec {
    /// Whether it is dialled at virtual addresses.
    #[must_use]
    pub const fn is_virtual(&self) -> bool {
        !self.portless && !self.headless
    }
}

/// One port of a service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Port {
    /// A DNS label, unique in the service; endpoints map it to a port of their own.
    pub name: String,
    /// 1 to 65535, unique in the service per transport (`udp` is one, all others are TCP).
    pub port: u16,
    /// What is spoken on it.
    #[serde(default)]
    pub protocol: Protocol,
}

/// What is spoken on a port.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// HTTP/1.1, with upgrades. Clients may speak HTTP/2.
    Http,
    /// HTTP/2 with prior knowledge. Clients may speak HTTP/1.1.
    Http2,
    /// gRPC: HTTP/2 with trailers and a status of its own.
    Grpc,
    /// Opaque TCP.
    Tcp,
    /// TLS that the workloads themselves terminate: opaque TCP.
    Tls,
    /// Datagrams: balanced in the kernel, whatever the mode says. A socket keeps its endpoint.
    Udp,
    /// Found from the first bytes.
    #[default]
    Auto,
}

impl Protocol {
    /// Whether a port that speaks it can take what was meant for one that speaks `other`: requests are made for the
    /// protocol of the port that was asked.
    #[must_use]
    pub fn takes_over(self, other: Self) -> bool {
        let is_http2 = |it: Self| matches!(it, Self::Http2 | Self::Grpc);
        self == other || (is_http2(self) && is_http2(other))
    }

    /// The word for it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Http2 => "http2",
            Self::Grpc => "grpc",
            Self::Tcp => "tcp",
            Self::Tls => "tls",
            Self::Udp => "udp",
            Self::Auto => "auto",
        }
    }

    /// Number of the IP protocol below: [`TCP`] or [`UDP`].
    #[must_use]
    pub const fn transport(self) -> u8 {
        match self {
            Self::Udp => UDP,
            _ => TCP,
        }
    }
}

/// How connections to a service travel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// Direct where the port is `tcp`, `tls` or `udp` and nothing needs the proxy; else by the proxy.
    #[default]
    Auto,
    /// The kernel picks an endpoint at connect.
    Direct,
    /// Through the proxy.
    Proxy,
}

/// How an endpoint is picked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
pub enum Balancing {
    /// Each in turn, by weight.
    RoundRobin,
    /// Any, by weight.
    Random,
    /// Of two picked at random the one with less to do (power of two choices), by weight.
    #[default]
    LeastRequest,
}

/// What is so with a service. Written by the agent.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ServiceStatus {
    /// The virtual addresses in force.
    #[serde(default)]
    #[schema(value_type = Vec<String>)]
    pub addresses: Vec<IpAddr>,
    /// `Accepted`: the object is in force. `Programmed`: every port is steered.
    #[serde(default)]
    pub conditions: Vec<Condition>,
    /// Whether an endpoint of it serves.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub availability: Option<Availability>,
    /// Which writes made the settings in `configuration`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub configuration: BTreeMap<String, SettingStatus>,
}

/// Which writes made a setting.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SettingStatus {
    /// The revision that made it.
    pub created: u64,
    /// The revision that changed it last.
    pub modified: u64,
}

impl Service {
    /// The addresses by which it is dialled.
    #[must_use]
    pub fn virtual_addresses(&self) -> &[IpAddr] {
        if self.status.addresses.is_empty() {
            &self.spec.addresses
        } else {
            &self.status.addresses
        }
    }
}

impl ServiceSpec {
    /// A service with these ports, with nothing said that need not be; without any it is portless.
    #[must_use]
    pub const fn new(ports: Vec<Port>) -> Self {
        Self {
            addresses: Vec::new(),
            portless: ports.is_empty(),
            headless: false,
            hostnames: Vec::new(),
            ports,
            mode: Mode::Auto,
            balancing: Balancing::LeastRequest,
            version: None,
            tags: Vec::new(),
            meta: BTreeMap::new(),
            dependencies: Vec::new(),
            configuration: BTreeMap::new(),
        }
    }
}
