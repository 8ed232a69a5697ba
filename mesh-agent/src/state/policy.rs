//! `AuthorizationPolicy`: who may connect to whom. Data only; `traffic::authz` compiles it.

use ipnet::IpNet;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize};
use utoipa::ToSchema;

use super::object::{Condition, Kind, Object};

/// A policy of the registry.
pub type AuthorizationPolicy = Object<AuthorizationPolicySpec, AuthorizationPolicyStatus>;

/// Who may, or may not, connect to a target.
///
/// All fields of one `from` item must match, and any value of a list, any item, any rule; an absent field matches all.
/// A list within a rule that is written has at least one item: what fills in an empty one opens nothing.
/// Deny beats Allow; a target with an Allow policy denies the rest; an Allow without rules admits nobody, a Deny
/// without rules refuses nobody.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct AuthorizationPolicySpec {
    /// What is protected, in the policy's namespace.
    pub target: Target,
    /// What happens to who matches.
    pub action: Action,
    /// Whether it is in force or only counts.
    #[serde(default)]
    pub mode: PolicyMode,
    /// Who.
    #[serde(default)]
    pub rules: Vec<Rule>,
}

/// What a policy protects.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Target {
    /// `Service` or `Workload`.
    pub kind: Kind,
    /// Its name.
    pub name: String,
}

/// What happens to who matches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
pub enum Action {
    /// They are admitted, and nobody else is.
    Allow,
    /// They are refused.
    Deny,
}

/// Whether a policy is in force.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
pub enum PolicyMode {
    /// In force.
    #[default]
    Enforce,
    /// Only counts what it would refuse.
    Audit,
}

/// One rule: any of `from`, and any of `to`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Rule {
    /// Callers; absent: all.
    #[serde(
        default,
        deserialize_with = "at_least_one",
        skip_serializing_if = "Vec::is_empty"
    )]
    #[schema(min_items = 1)]
    pub from: Vec<Source>,
    /// Ports; absent: all.
    #[serde(
        default,
        deserialize_with = "at_least_one",
        skip_serializing_if = "Vec::is_empty"
    )]
    #[schema(min_items = 1)]
    pub to: Vec<Destination>,
}

/// A set of callers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Source {
    /// Namespaces of the caller's identity.
    #[serde(
        default,
        deserialize_with = "at_least_one",
        skip_serializing_if = "Vec::is_empty"
    )]
    #[schema(min_items = 1)]
    pub namespaces: Vec<String>,
    /// Service accounts of the caller's identity.
    #[serde(
        default,
        deserialize_with = "at_least_one",
        skip_serializing_if = "Vec::is_empty"
    )]
    #[schema(min_items = 1)]
    pub service_accounts: Vec<String>,
    /// Networks of the caller's address.
    #[serde(
        default,
        deserialize_with = "at_least_one",
        skip_serializing_if = "Vec::is_empty"
    )]
    #[schema(value_type = Vec<String>, min_items = 1)]
    pub cidrs: Vec<IpNet>,
}

/// A set of ports.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Destination {
    /// For a Service its ports, for a Workload the ports it listens on.
    #[serde(
        default,
        deserialize_with = "at_least_one",
        skip_serializing_if = "Vec::is_empty"
    )]
    #[schema(min_items = 1)]
    pub ports: Vec<u16>,
}

/// A list that is written says whom: without an item it would say the same as none, which is all.
fn at_least_one<'de, D: Deserializer<'de>, T: Deserialize<'de>>(
    deserializer: D,
) -> Result<Vec<T>, D::Error> {
    let items = Vec::deserialize(deserializer)?;
    if items.is_empty() {
        return Err(D::Error::custom("at least one; without the field, all"));
    }
    Ok(items)
}

/// What is so with a policy. Written by the agent.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct AuthorizationPolicyStatus {
    /// `Accepted`: it does something. `ResolvedRefs`: its target, and the ports of it that are named, exist.
    #[serde(default)]
    pub conditions: Vec<Condition>,
}
