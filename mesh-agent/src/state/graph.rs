//! The graph: which services need which, as they declare, and who calls whom, as the agent has seen. Pure.
//!
//! A workload serves a service where one of its addresses is that of an endpoint. What it calls is declared where a service
//! that it serves has the called one among its dependencies, or is the called one itself. A workload that serves nothing
//! cannot declare anything; what it calls is shown, and is no fault.

pub mod readiness;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::Snapshot;
use super::object::{Kind, ObjectKey};
use super::service::Service;

/// What was seen of one workload's calls of one service.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Connections that have ended or were refused, by verdict: `direct`, `proxy`, `deny`.
    pub connections: BTreeMap<String, u64>,
    /// Connections that are open now.
    pub open: u64,
    /// Requests on connections that the proxy carried.
    pub requests: u64,
    /// Of these answered with a status of 500 or more, or not at all.
    pub failed: u64,
}

impl Traffic {
    /// Adds what was seen elsewhere.
    pub fn add(&mut self, other: &Self) {
        for (verdict, count) in &other.connections {
            *self.connections.entry(verdict.clone()).or_default() += count;
        }
        self.open += other.open;
        self.requests += other.requests;
        self.failed += other.failed;
    }
}

/// What was seen of all calls: workload and service, and how much.
pub type Observed = BTreeMap<(ObjectKey, ObjectKey), Traffic>;

/// `GET /api/v1/graph`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Graph {
    /// Services and workloads.
    pub nodes: Vec<Node>,
    /// Who needs or calls whom.
    pub edges: Vec<Edge>,
    /// Connections that were not told apart because more pairs call each other than are remembered.
    pub uncounted: u64,
}

/// A service or a workload.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Node {
    /// `Service` or `Workload`.
    pub kind: Kind,
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Whether it exists: a service may be declared as a dependency and not be there.
    pub exists: bool,
    /// Services that a workload serves, `namespace/name`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub serves: Vec<String>,
    /// Endpoints of a service.
    #[serde(default)]
    pub endpoints: u64,
    /// Of these passing.
    #[serde(default)]
    pub passing: u64,
}

/// One needs or calls the other. Between two services: what is declared, with what all workloads of the first were seen to
/// call; between a workload and a service: what was seen.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Edge {
    /// Who needs or calls.
    pub source: End,
    /// What is needed or called.
    pub destination: End,
    /// Whether it is declared: a dependency of the service, or of a service that the workload serves.
    pub declared: bool,
    /// Whether it was seen.
    pub observed: bool,
    /// Whether it was seen, could have been declared, and is not.
    pub undeclared: bool,
    /// Connections: those that have ended, those refused, those that are open.
    #[serde(default)]
    pub connections: u64,
    /// Those that have ended or were refused, by verdict.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub verdicts: BTreeMap<String, u64>,
    /// Those that are open.
    #[serde(default)]
    pub open: u64,
    /// Requests on connections that the proxy carries, of the last ten minutes at least.
    #[serde(default)]
    pub requests: u64,
    /// Of these answered with a status of 500 or more, or not at all.
    #[serde(default)]
    pub failed: u64,
}

/// One end of an edge.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct End {
    /// `Service` or `Workload`.
    pub kind: Kind,
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

impl End {
    fn new(kind: Kind, key: &ObjectKey) -> Self {
        Self {
            kind,
            namespace: key.namespace.clone(),
            name: key.name.clone(),
        }
    }
}

/// What a service needs.
pub fn dependencies(service: &Service) -> impl Iterator<Item = ObjectKey> {
    let namespace = &service.metadata.namespace;
    service.spec.dependencies.iter().map(move |it| {
        let namespace = it.namespace.as_ref().unwrap_or(namespace);
        ObjectKey::new(namespace, &it.name)
    })
}

/// Joins what is declared with what was seen; with `namespace`, only edges of which one end is in it.
#[must_use]
pub fn graph(snapshot: &Snapshot, observed: &Observed, namespace: Option<&str>) -> Graph {
    let serves = serving(snapshot);
    let mut edges: BTreeMap<(End, End), Edge> = BTreeMap::new();
    for (key, service) in &snapshot.services {
        for needed in dependencies(service) {
            let source = End::new(Kind::Service, key);
            let destination = End::new(Kind::Service, &needed);
            entry(&mut edges, source, destination).declared = true;
        }
    }
    for ((workload, called), traffic) in observed {
        let none = BTreeSet::new();
        let own = serves.get(workload).unwrap_or(&none);
        let is_declared = is_declared(snapshot, own, called);
        let destination = End::new(Kind::Service, called);
        let source = End::new(Kind::Workload, workload);
        let edge = entry(&mut edges, source, destination.clone());
        edge.declared = is_declared;
        edge.see(traffic, !own.is_empty() && !is_declared);
        for service in own.iter().filter(|it| *it != called) {
            let source = End::new(Kind::Service, service);
            let edge = entry(&mut edges, source, destination.clone());
            edge.see(traffic, !is_declared);
        }
    }
    let is_meant = |end: &End| namespace.is_none_or(|it| end.namespace == it);
    edges.retain(|(source, destination), _| is_meant(source) || is_meant(destination));
    Graph {
        nodes: nodes(snapshot, &edges, &serves, namespace),
        edges: edges.into_values().collect(),
        uncounted: 0,
    }
}

/// Calls of one service by another that could have been declared and are not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Undeclared {
    /// Who calls.
    pub source: ObjectKey,
    /// What is called.
    pub destination: ObjectKey,
    /// How much was seen.
    pub traffic: Traffic,
}

/// What was seen between services and is not declared now.
#[must_use]
pub fn undeclared(snapshot: &Snapshot, observed: &Observed) -> Vec<Undeclared> {
    let serves = serving(snapshot);
    let mut found: BTreeMap<(&ObjectKey, &ObjectKey), Traffic> = BTreeMap::new();
    for ((workload, called), traffic) in observed {
        let Some(own) = serves.get(workload) else {
            continue;
        };
        if is_declared(snapshot, own, called) {
            continue;
        }
        for service in own {
            found.entry((service, called)).or_default().add(traffic);
        }
    }
    let found = found.into_iter();
    found
        .map(|((source, destination), traffic)| Undeclared {
            source: source.clone(),
            destination: destination.clone(),
            traffic,
        })
        .collect()
}

impl Traffic {
    /// All connections.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.connections.values().sum::<u64>() + self.open
    }
}

impl Edge {
    fn see(&mut self, traffic: &Traffic, undeclared: bool) {
        self.observed = true;
        self.undeclared = undeclared;
        self.connections += traffic.total();
        for (verdict, count) in &traffic.connections {
            *self.verdicts.entry(verdict.clone()).or_default() += count;
        }
        self.open += traffic.open;
        self.requests += traffic.requests;
        self.failed += traffic.failed;
    }
}

fn entry(edges: &mut BTreeMap<(End, End), Edge>, source: End, destination: End) -> &mut Edge {
    let ends = (source.clone(), destination.clone());
    edges.entry(ends).or_insert_with(|| Edge {
        source,
        destination,
        declared: false,
        observed: false,
        undeclared: false,
        connections: 0,
        verdicts: BTreeMap::new(),
        open: 0,
        requests: 0,
        failed: 0,
    })
}

/// Whether one of the services has declared that it calls the other, or is it.
fn is_declared(snapshot: &Snapshot, own: &BTreeSet<ObjectKey>, called: &ObjectKey) -> bool {
    own.contains(called)
        || own
            .iter()
            .filter_map(|key| snapshot.services.get(key))
            .any(|it| dependencies(it).any(|needed| needed == *called))
}

/// The services that workloads serve. One look at the endpoints, however many workloads there are.
fn serving(snapshot: &Snapshot) -> BTreeMap<ObjectKey, BTreeSet<ObjectKey>> {
    let mut by_address: BTreeMap<IpAddr, &ObjectKey> = BTreeMap::new();
    for (key, workload) in &snapshot.workloads {
        for address in &workload.spec.addresses {
            by_address.insert(address.to_canonical(), key);
        }
    }
    let mut serves: BTreeMap<ObjectKey, BTreeSet<ObjectKey>> = BTreeMap::new();
    for endpoint in snapshot.endpoints.values() {
        if let Some(workload) = by_address.get(&endpoint.spec.address.to_canonical()) {
            let service = ObjectKey::new(&endpoint.metadata.namespace, &endpoint.spec.service);
            let services = serves.entry((*workload).clone()).or_default();
            services.insert(service);
        }
    }
    serves
}

fn nodes(
    snapshot: &Snapshot,
    edges: &BTreeMap<(End, End), Edge>,
    serves: &BTreeMap<ObjectKey, BTreeSet<ObjectKey>>,
    namespace: Option<&str>,
) -> Vec<Node> {
    let of_edges = edges
        .keys()
        .flat_map(|(source, destination)| [source, destination]);
    let mut ends: BTreeSet<End> = of_edges.cloned().collect();
    let is_meant = |key: &&ObjectKey| namespace.is_none_or(|it| key.namespace == it);
    let services = snapshot.services.keys().filter(is_meant);
    ends.extend(services.map(|key| End::new(Kind::Service, key)));
    let workloads = snapshot.workloads.keys().filter(is_meant);
    ends.extend(workloads.map(|key| End::new(Kind::Workload, key)));
    let counts = readiness::counts(snapshot);
    let node = |end: End| {
        let key = ObjectKey::new(&end.namespace, &end.name);
        let is_service = end.kind == Kind::Service;
        let counted = counts.get(&key).filter(|_| is_service).copied();
        let (endpoints, passing) = counted.unwrap_or_default();
        let served = serves.get(&key).filter(|_| !is_service);
        Node {
            exists: snapshot.object(end.kind, &key).is_some(),
            serves: served
                .into_iter()
                .flatten()
                .map(ToString::to_string)
                .collect(),
            endpoints,
            passing,
            kind: end.kind,
            namespace: end.namespace,
            name: end.name,
        }
    };
    ends.into_iter().map(node).collect()
}

#[cfg(test)]
mod tests;
