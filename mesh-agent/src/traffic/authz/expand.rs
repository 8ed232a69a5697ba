//! One policy to the rules of one key.

use std::net::IpAddr;

use ipnet::IpNet;
use mesh_common::address::Address;
use mesh_common::policy::{MAX_RULES, Rule};
use mesh_common::workload::Caller;

use crate::state::Ids;
use crate::state::id::Subject;
use crate::state::policy as spec;
use crate::state::policy::AuthorizationPolicy;

/// The rules of one policy, at a key of the service's port `port` or of a whole workload.
///
/// One rule more than [`MAX_RULES`] is enough to know that there are too many.
pub(super) fn expand(
    policy: &AuthorizationPolicy,
    port: Option<u16>,
    ids: &Ids,
    number: u32,
) -> Vec<Rule> {
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
