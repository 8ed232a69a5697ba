//! Which endpoints should be there for the addresses of a name. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use crate::state::endpoint::{Endpoint, EndpointStatus, LEFT_NAME, Lifecycle, RESOLVED_FOR};
use crate::state::object::{Condition, ConditionStatus, Kind, Metadata, ObjectKey};
use crate::state::{Change, Manifest, Snapshot};

/// What a name stands for: its addresses, or a word and a sentence that say why there are none.
pub(super) type Answer<'a> = Result<&'a BTreeSet<IpAddr>, (&'static str, &'a str)>;

/// The endpoints that have a name, each with it.
pub(super) fn wanted(snapshot: &Snapshot) -> BTreeMap<ObjectKey, String> {
    let endpoints = snapshot.endpoints.iter();
    endpoints
        .filter_map(|(key, it)| Some((key.clone(), it.spec.hostname.clone()?)))
        .take(MAX_NAMES)
        .collect()
}

/// Whether an endpoint has a name, or is an address of one.
pub(super) fn concerns(endpoint: &Endpoint) -> bool {
    endpoint.spec.hostname.is_some() || pattern_of(endpoint).is_some()
}

/// The addresses of one family, that of IPv4 or that of IPv6, that a name had when it was found last.
pub(super) fn known(snapshot: &Snapshot, hostname: &str, is_v4: bool) -> BTreeSet<IpAddr> {
    let all = snapshot.endpoints.values();
    let its = all.filter(|it| is_at(it, hostname) && !it.has_left_name());
    its.map(|it| it.spec.address.to_canonical())
        .filter(|it| it.is_ipv4() == is_v4)
        .collect()
}

/// What has to be written so that there is an endpoint for every address. Where a name was not found, the endpoints of the
/// last answer stay. One whose address is not in the answer any more keeps its connections: many names answer with a few
/// of their addresses, now these and now those.
pub(super) fn changes<'a>(
    snapshot: &Snapshot,
    answer: impl Fn(&str) -> Option<Answer<'a>>,
) -> Vec<Change> {
    let mut changes = Vec::new();
    let mut resolved: BTreeMap<ObjectKey, Vec<&Arc<Endpoint>>> = BTreeMap::new();
    for endpoint in snapshot.endpoints.values() {
        if let Some(pattern) = pattern_of(endpoint) {
            resolved.entry(pattern).or_default().push(endpoint);
        }
    }
    for (key, pattern) in &snapshot.endpoints {
        let Some(hostname) = &pattern.spec.hostname else {
            continue;
        };
        let answer = answer(hostname);
        let old = resolved.remove(key).unwrap_or_default();
        let new = endpoints(pattern, hostname, &old, answer);
        let is_wanted = |old: &Endpoint| new.iter().any(|new| new.key() == old.key());
        changes.extend(old.iter().filter(|old| !is_wanted(old)).map(|it| gone(it)));
        for endpoint in new {
            let is_there = old.iter().any(|old| {
                old.key() == endpoint.key()
                    && old.spec == endpoint.spec
                    && old.metadata.labels == endpoint.metadata.labels
                    && old.metadata.annotations == endpoint.metadata.annotations
            });
            if !is_there {
                changes.push(Change::Put(Manifest::Endpoint(Arc::new(endpoint))));
            }
        }
        changes.extend(answer.and_then(|answer| condition(pattern, answer)));
    }
    // Their pattern is gone, or has an address now.
    changes.extend(resolved.values().flatten().map(|it| gone(it)));
    changes
}

/// The endpoints that there should be for a pattern whose endpoints are `old`: those of the answer, and those that are
/// leaving.
fn endpoints(
    pattern: &Endpoint,
    hostname: &str,
    old: &[&Arc<Endpoint>],
    answer: Option<Answer<'_>>,
) -> Vec<Endpoint> {
    // What was found for another name is nothing for this one.
    let same = old.iter().filter(|it| is_at(it, hostname));
    let (mut left, stay): (Vec<&Arc<Endpoint>>, Vec<_>) = same.partition(|it| match answer {
        Some(Ok(addresses)) => {
            let address = it.spec.address.to_canonical();
            addresses.iter().all(|it| it.to_canonical() != address)
        }
        Some(Err(_)) | None => it.has_left_name(),
    });
    let addresses = match answer {
        Some(Ok(addresses)) => addresses.clone(),
        Some(Err(_)) | None => stay.iter().map(|it| it.spec.address).collect(),
    };
    // Those that left before still have connections.
    left.sort_by_key(|it| !it.has_left_name());
    let left = left.iter().take(MAX_LEFT).map(|it| it.spec.address);
    let left = left.map(|it| leaving(like(pattern, hostname, it)));
    let new = addresses.iter().map(|it| like(pattern, hostname, *it));
    new.chain(left).collect()
}

/// Whether an endpoint was made for an address of `hostname`.
fn is_at(endpoint: &Endpoint, hostname: &str) -> bool {
    let annotation = endpoint.metadata.annotations.get(HOSTNAME);
    endpoint.resolved_for().is_some() && annotation.is_some_and(|it| it == hostname)
}

/// The endpoint once its name does not answer with its address any more.
fn leaving(mut endpoint: Endpoint) -> Endpoint {
    let annotations = &mut endpoint.metadata.annotations;
    annotations.insert(LEFT_NAME.to_owned(), "true".to_owned());
    endpoint.spec.lifecycle = Lifecycle::Draining;
    endpoint
}

/// The endpoint with the name that an endpoint was made for.
fn pattern_of(endpoint: &Endpoint) -> Option<ObjectKey> {
    let name = endpoint.resolved_for()?;
    Some(ObjectKey::new(&endpoint.metadata.namespace, name))
}

/// The endpoint for one address of a name.
fn like(pattern: &Endpoint, hostname: &str, address: IpAddr) -> Endpoint {
    let metadata = &pattern.metadata;
    let mut annotations = metadata.annotations.clone();
    annotations.insert(RESOLVED_FOR.to_owned(), metadata.name.clone());
    annotations.insert(HOSTNAME.to_owned(), hostname.to_owned());
    let mut spec = pattern.spec.clone();
    spec.hostname = None;
    spec.address = address;
    Endpoint {
        api_version: pattern.api_version.clone(),
        kind: Kind::Endpoint,
        metadata: Metadata {
            name: format!("{}.{}", metadata.name, label(address)),
            namespace: metadata.namespace.clone(),
            labels: metadata.labels.clone(),
            annotations,
            ..Metadata::default()
        },
        spec,
        status: EndpointStatus::default(),
    }
}

/// An address as a label of a name.
fn label(address: IpAddr) -> String {
    match address.to_canonical() {
        IpAddr::V4(ip) => ip.octets().map(|part| part.to_string()).join("-"),
        IpAddr::V6(ip) => ip.segments().map(|part| format!("{part:x}")).join("-"),
    }
}

fn gone(endpoint: &Endpoint) -> Change {
    Change::Delete {
        kind: Kind::Endpoint,
        key: endpoint.key(),
        resource_version: None,
    }
}

/// What the pattern is told, if it does not say so already.
fn condition(pattern: &Endpoint, answer: Answer<'_>) -> Option<Change> {
    let (status, reason, message) = match answer {
        Ok(addresses) => {
            let addresses: Vec<String> = addresses.iter().map(ToString::to_string).collect();
            (ConditionStatus::True, RESOLVED, addresses.join(", "))
        }
        Err((reason, message)) => (ConditionStatus::False, reason, message.to_owned()),
    };
    let condition = Condition {
        kind: RESOLVED.to_owned(),
        status,
        reason: reason.to_owned(),
        message,
        observed_generation: pattern.metadata.generation,
    };
    let is_said = pattern.status.conditions.contains(&condition);
    (!is_said).then(|| Change::Condition {
        kind: Kind::Endpoint,
        key: pattern.key(),
        condition,
    })
}

/// Most endpoints whose names are looked up. Of more there is no condition.
const MAX_NAMES: usize = 4096;

/// Most endpoints of a pattern that are leaving, each with a connection. More than that are deleted at once.
const MAX_LEFT: usize = 1024;

/// The condition of an endpoint whose name was found, and its reason.
const RESOLVED: &str = "Resolved";

/// The annotation that tells whose address it is.
const HOSTNAME: &str = "mesh.dev/hostname";

#[cfg(test)]
pub(super) mod tests;
