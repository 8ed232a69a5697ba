//! L4 authorization: compiles policies into the rules by which the kernel, the proxy and `explain` decide.
//!
//! A policy for a service holds at each of its virtual addresses and ports, and at each endpoint's address and port, so
//! that dialling the endpoint does not go around it. A policy for a workload holds at the workload's addresses.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use mesh_common::address::{Address, SocketAddress};
use mesh_common::policy::{Authorization, MAX_RULES, Policy, PolicyKey, Rule};
use mesh_common::service::TCP;
use mesh_common::workload::Caller;

use crate::state::Ids;
use crate::state::Snapshot;
use crate::state::endpoint::Endpoint;
use crate::state::id::Subject;
use crate::state::object::{Kind, ObjectKey};
use crate::state::policy as spec;
use crate::state::policy::AuthorizationPolicy;
use crate::state::service::Service;

#[cfg(test)]
mod tests;

/// All policies of a snapshot, by what they protect.
#[derive(Clone, Debug, Default)]
pub struct Compiled {
    /// The rules of each protected address and port; port 0 is a whole workload. The endpoints of a service share theirs.
    pub policies: BTreeMap<PolicyKey, Arc<Policy>>,
    /// Policies that are not in force as written, because more than [`MAX_RULES`] rules meet at one key. Audited rules
    /// are left out first; where that is not enough, the key admits nobody.
    pub too_many: Vec<ObjectKey>,
}

impl Compiled {
    /// What policy says of a caller at `source` that dials `destination` over TCP: as a service's port or endpoint, and as a
    /// workload.
    #[must_use]
    pub fn authorize(
        &self,
        caller: &Caller,
        source: &Address,
        destination: SocketAddress,
    ) -> Authorization {
        let mut said = Authorization::default();
        for key in [
            PolicyKey::port(&destination, TCP),
            PolicyKey::workload(destination.address),
        ] {
            if let Some(policy) = self.policies.get(&key) {
                let one = policy.authorize(caller, source, destination.port);
                said.is_denied |= one.is_denied;
                said.is_audited |= one.is_audited;
            }
        }
        said.is_audited &= !said.is_denied;
        said
    }
}

/// Compiles every policy of `snapshot`.
#[must_use]
pub fn compile(snapshot: &Snapshot) -> Compiled {
    let mut merged: BTreeMap<PolicyKey, Vec<Sourced<'_>>> = BTreeMap::new();
    for (target, policies) in by_target(snapshot) {
        let protected = protected(snapshot, &target);
        for (key, policy) in policies {
            let number = snapshot.ids.number(&Subject::Policy(key.clone()));
            let mut last = None;
            for (address, port) in &protected {
                // Neighbours have the same port: a service's endpoints differ in the address only.
                if last.as_ref().is_none_or(|(of, _)| of != port) {
                    last = Some((*port, expand(policy, *port, &snapshot.ids, number)));
                }
                if let Some((_, rules)) = &last {
                    let list = merged.entry(*address).or_default();
                    list.extend(rules.iter().map(|rule| Sourced { rule: *rule, key }));
                }
            }
        }
    }
    let mut too_many = BTreeSet::new();
    let mut shared = Shared::default();
    let policies = merged
        .into_iter()
        .filter_map(|(address, rules)| Some((address, shared.policy(&fit(rules, &mut too_many))?)))
        .collect();
    Compiled {
        policies,
        too_many: too_many.into_iter().collect(),
    }
}

/// The policies that speak of `destination`, which may be a service's port, an endpoint or a workload, dialled over the
/// IP protocol with number `protocol`.
#[must_use]
pub fn policies_for(
    snapshot: &Snapshot,
    destination: SocketAddress,
    protocol: u8,
) -> Vec<ObjectKey> {
    let whole = PolicyKey::workload(destination.address);
    let destination = PolicyKey::port(&destination, protocol);
    by_target(snapshot)
        .into_iter()
        .filter(|(target, _)| {
            protected(snapshot, target)
                .iter()
                .any(|(key, _)| *key == destination || *key == whole)
        })
        .flat_map(|(_, policies)| policies.into_iter().map(|(key, _)| key.clone()))
        .collect()
}

/// A rule and the policy that it comes from.
struct Sourced<'a> {
    rule: Rule,
    key: &'a ObjectKey,
}

type Target = (Kind, ObjectKey);

fn by_target(snapshot: &Snapshot) -> BTreeMap<Target, Vec<(&ObjectKey, &AuthorizationPolicy)>> {
    let mut targets: BTreeMap<Target, Vec<_>> = BTreeMap::new();
    for (key, policy) in &snapshot.policies {
        let target = &policy.spec.target;
        targets
            .entry((target.kind, ObjectKey::new(&key.namespace, &target.name)))
            .or_default()
            .push((key, policy.as_ref()));
    }
    targets
}

/// The keys under which a target is protected, with the service's port where there is one.
fn protected(snapshot: &Snapshot, (kind, key): &Target) -> Vec<(PolicyKey, Option<u16>)> {
    match kind {
        Kind::Service => snapshot
            .services
            .get(key)
            .map(|service| {
                let endpoints: Vec<_> = snapshot.endpoints_of(key).collect();
                protected_service(service, &endpoints)
            })
            .unwrap_or_default(),
        Kind::Workload => snapshot
            .workloads
            .get(key)
            .map(|workload| {
                let addresses = workload.spec.addresses.iter();
                addresses
                    .map(|address| (PolicyKey::workload(Address::from(*address)), None))
                    .collect()
            })
            .unwrap_or_default(),
        _ => Vec::new(),
    }
}

fn protected_service(
    service: &Service,
    endpoints: &[&Arc<Endpoint>],
) -> Vec<(PolicyKey, Option<u16>)> {
    let mut keys = Vec::new();
    for port in &service.spec.ports {
        let protocol = port.protocol.transport();
        let virtual_keys = service
            .virtual_addresses()
            .iter()
            .map(|address| SocketAddress::new(Address::from(*address), port.port));
        let endpoints = endpoints.iter().filter(|it| it.spec.hostname.is_none());
        let endpoint_keys = endpoints.map(|endpoint| {
            SocketAddress::new(endpoint.spec.address.into(), endpoint.spec.port_of(port))
        });
        keys.extend(
            virtual_keys
                .chain(endpoint_keys)
                .map(|key| (PolicyKey::port(&key, protocol), Some(port.port))),
        );
    }
    keys
}

/// The rules of one policy, at a key of the service's port `port` or of a whole workload.
///
/// One rule more than [`MAX_RULES`] is enough to know that there are too many.
fn expand(policy: &AuthorizationPolicy, port: Option<u16>, ids: &Ids, number: u32) -> Vec<Rule> {
    let mut flags = 0;
    if policy.spec.action == spec::Action::Deny {
        flags |= Rule::DENY;
    }
    if policy.spec.mode == spec::PolicyMode::Audit {
        flags |= Rule::AUDIT;
    }
    let blank = Rule {
        flags,
        policy: number,
        ..Rule::default()
    };
    let mut rules: Vec<Rule> = policy
        .spec
        .rules
        .iter()
        .flat_map(|rule| expand_rule(rule, port, ids, blank))
        .take(MAX_RULES + 1)
        .collect();
    if rules.is_empty() && policy.spec.action == spec::Action::Allow {
        // Everybody is refused whom no other Allow policy admits.
        rules.push(Rule {
            flags: flags | Rule::NOBODY,
            ..blank
        });
    }
    rules
}

fn expand_rule<'a>(
    rule: &'a spec::Rule,
    port: Option<u16>,
    ids: &'a Ids,
    blank: Rule,
) -> impl Iterator<Item = Rule> + 'a {
    let anyone = spec::Source::default();
    let sources = if rule.from.is_empty() {
        expand_source(&anyone, ids)
    } else {
        rule.from
            .iter()
            .flat_map(|source| expand_source(source, ids))
            .take(MAX_RULES + 1)
            .collect()
    };
    ports(rule, port).into_iter().flat_map(move |port| {
        sources
            .clone()
            .into_iter()
            .map(move |(caller, network)| Rule {
                flags: blank.flags | network.flags,
                prefix: network.prefix,
                port,
                caller,
                network: network.address,
                ..blank
            })
    })
}

/// The ports that the compiled rules name; none, if the rule does not speak of this key.
fn ports(rule: &spec::Rule, port: Option<u16>) -> Vec<u16> {
    let all = rule.to.is_empty() || rule.to.iter().any(|to| to.ports.is_empty());
    let mut listed = rule.to.iter().flat_map(|to| to.ports.iter().copied());
    match port {
        // The key names the port already; at an endpoint it may be another number than the service's.
        Some(port) if all || listed.any(|listed| listed == port) => vec![0],
        Some(_) => Vec::new(),
        None if all => vec![0],
        None => listed.collect(),
    }
}

/// A network as the kernel compares it.
#[derive(Clone, Copy, Default)]
struct Network {
    address: Address,
    prefix: u8,
    flags: u8,
}

/// The callers of one `from` item. A name without a number belongs to nobody.
fn expand_source(source: &spec::Source, ids: &Ids) -> Vec<(Caller, Network)> {
    let namespaces = numbers(&source.namespaces, |name| {
        ids.number(&Subject::Namespace(name))
    });
    let accounts = numbers(&source.service_accounts, |name| {
        ids.number(&Subject::ServiceAccount(name))
    });
    let networks = if source.cidrs.is_empty() {
        vec![Network::default()]
    } else {
        source.cidrs.iter().map(network).collect()
    };
    let mut callers = Vec::new();
    for namespace in namespaces {
        for service_account in &accounts {
            let caller = Caller {
                namespace,
                service_account: *service_account,
            };
            callers.extend(networks.iter().map(|network| (caller, *network)));
            if callers.len() > MAX_RULES {
                return callers;
            }
        }
    }
    callers
}

/// Numbers of names; the wildcard 0 if there are none.
fn numbers(names: &[String], number: impl Fn(String) -> u32) -> Vec<u32> {
    if names.is_empty() {
        return vec![0];
    }
    names
        .iter()
        .map(|name| number(name.clone()))
        .filter(|number| *number != 0)
        .collect()
}

fn network(cidr: &IpNet) -> Network {
    match cidr {
        IpNet::V4(cidr) => Network {
            address: IpAddr::V4(cidr.network()).into(),
            prefix: cidr.prefix_len() + MAPPED_PREFIX,
            flags: 0,
        },
        IpNet::V6(cidr) => Network {
            address: IpAddr::V6(cidr.network()).into(),
            prefix: cidr.prefix_len(),
            flags: if cidr.prefix_len() < MAPPED_PREFIX {
                Rule::IPV6
            } else {
                0
            },
        },
    }
}

/// Bits before the IPv4 address in a v4-mapped one.
const MAPPED_PREFIX: u8 = 96;

/// Policies by their rules. A policy has room for all rules it may have, so that thousands of equal ones would cost
/// much.
#[derive(Debug, Default)]
pub struct Shared(HashMap<Vec<Rule>, Arc<Policy>>);

impl Shared {
    /// The policy of `rules`, of which the first [`MAX_RULES`] count; none, if there are none.
    pub fn policy(&mut self, rules: &[Rule]) -> Option<Arc<Policy>> {
        if rules.is_empty() {
            return None;
        }
        if let Some(policy) = self.0.get(rules) {
            return Some(Arc::clone(policy));
        }
        let mut policy = Policy::EMPTY;
        for (slot, rule) in policy.rules.iter_mut().zip(rules) {
            *slot = *rule;
            policy.count += 1;
        }
        let policy = Arc::new(policy);
        self.0.insert(rules.to_vec(), Arc::clone(&policy));
        Some(policy)
    }
}

/// Makes the rules of a key fit in one policy.
fn fit(mut rules: Vec<Sourced<'_>>, too_many: &mut BTreeSet<ObjectKey>) -> Vec<Rule> {
    let mut seen = BTreeSet::new();
    rules.retain(|Sourced { rule, .. }| {
        seen.insert((
            rule.flags,
            rule.port,
            rule.caller.namespace,
            rule.caller.service_account,
            rule.network,
            rule.prefix,
        ))
    });
    if rules.len() > MAX_RULES {
        rules.retain(|sourced| {
            let is_audited = sourced.rule.flags & Rule::AUDIT != 0;
            if is_audited {
                too_many.insert(sourced.key.clone());
            }
            !is_audited
        });
    }
    if rules.len() > MAX_RULES {
        too_many.extend(rules.iter().map(|sourced| sourced.key.clone()));
        return vec![Rule {
            flags: Rule::NOBODY,
            ..Rule::default()
        }];
    }
    rules.into_iter().map(|sourced| sourced.rule).collect()
}
