//! Workload: a pod, process or container of this node. Data only.

use std::net::IpAddr;
use std::path::PathBuf;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::object::{Condition, Object};

/// A workload of the registry.
pub type Workload = Object<WorkloadSpec, WorkloadStatus>;

/// How a workload is recognised, who it is, and what is promised to it. Exactly one of `netns` and `cgroup` is given.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct WorkloadSpec {
    /// Path of its network namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub netns: Option<PathBuf>,
    /// Path of its cgroup (with all below it), in the agent's own network namespace. At most 15 levels below the root of
    /// the tree.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub cgroup: Option<PathBuf>,
    /// Its addresses, unique on the node.
    #[serde(default)]
    #[schema(value_type = Vec<String>)]
    pub addresses: Vec<IpAddr>,
    /// Its identity, with the namespace; a DNS label.
    #[serde(default = "default_service_account")]
    pub service_account: String,
    /// What happens to connections that need the agent while it is absent or hung.
    #[serde(default)]
    pub fail_mode: FailMode,
    /// Whether its sockets may be paired by `sk_msg`. Changes what some system calls do: see the README.
    #[serde(default)]
    pub acceleration: bool,
    /// What may be dialled.
    #[serde(default)]
    pub egress: Egress,
    /// What may be dialled beside services where egress is locked, at most 64.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub egress_allow: Vec<Exit>,
    /// Whether its questions for names go to the agent, which answers for services and asks its resolver for the rest; where
    /// egress is locked and that may not be dialled, the agent's own.
    #[serde(default = "default_dns")]
    pub dns: bool,
    /// Whether it reaches the registry at 127.0.0.1:15000 in its own network namespace: the paths of Consul, for the
    /// services of its namespace at its addresses. Needs `netns`.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub registry_access: bool,
}

const fn default_dns() -> bool {
    true
}

fn default_service_account() -> String {
    "default".to_owned()
}

/// What happens to connections that need the agent while it is absent or hung.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum FailMode {
    /// They go on without it.
    #[default]
    Open,
    /// They are refused.
    Closed,
}

/// What a workload may dial.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Egress {
    /// Anything.
    #[default]
    Open,
    /// Services and what `egressAllow` names; what leaves without a verdict is dropped.
    Locked,
}

/// A way out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Exit {
    /// Where to.
    #[schema(value_type = String)]
    pub cidr: IpNet,
    /// The ports, of TCP and UDP, at most 16; all where there are none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ports: Vec<u16>,
}

/// What is so with a workload. Written by the agent.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct WorkloadStatus {
    /// `Accepted`; `Enrolled`: its listeners stand and the kernel knows it. With `ListenFailed` or `HookFailed` the kernel
    /// knows it, but not all is there: without listeners its `failMode` holds. `NamesAnswered`, once that has
    /// failed: its questions for names reach the agent; `Disabled` where nobody wants them to. `RegistryAccess`, once it
    /// was asked for: it reaches the registry.
    #[serde(default)]
    pub conditions: Vec<Condition>,
}
