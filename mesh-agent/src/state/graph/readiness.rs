//! Whether everything that a service needs is up. Pure.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::dependencies;
use crate::state::Snapshot;
use crate::state::object::ObjectKey;

/// `GET /api/v1/namespaces/NAMESPACE/readiness?service=NAME`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Readiness {
    /// Namespace of the service.
    pub namespace: String,
    /// Its name.
    pub service: String,
    /// Whether everything that it needs is up, and what that needs, and so on.
    pub ready: bool,
    /// All that it needs, the nearest first.
    pub dependencies: Vec<DependencyState>,
}

/// How a service that is needed is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct DependencyState {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Whether one of its endpoints is passing.
    pub ready: bool,
    /// `Ready`, `ServiceNotFound`, `NoEndpoint` or `NoPassingEndpoint`.
    pub reason: String,
    /// Endpoints that it has.
    pub endpoints: u64,
    /// Of these passing.
    pub passing: u64,
    /// Who needs it: `namespace/name`.
    pub needed_by: String,
}

/// Follows the dependencies of a service. `None` where there is no such service.
#[must_use]
pub fn readiness(snapshot: &Snapshot, service: &ObjectKey) -> Option<Readiness> {
    let first = snapshot.services.get(service)?;
    let counts = counts(snapshot);
    let mut seen = BTreeSet::from([service.clone()]);
    let mut next: VecDeque<_> = dependencies(first)
        .map(|it| (it, service.clone()))
        .collect();
    let mut states = Vec::new();
    while let Some((key, needed_by)) = next.pop_front() {
        if !seen.insert(key.clone()) {
            continue;
        }
        let (endpoints, passing) = counts.get(&key).copied().unwrap_or_default();
        let found = snapshot.services.get(&key);
        let reason = match (found, endpoints, passing) {
            (None, _, _) => "ServiceNotFound",
            (Some(_), 0, _) => "NoEndpoint",
            (Some(_), _, 0) => "NoPassingEndpoint",
            (Some(_), _, _) => READY,
        };
        if let Some(found) = found {
            next.extend(dependencies(found).map(|it| (it, key.clone())));
        }
        states.push(DependencyState {
            ready: reason == READY,
            reason: reason.to_owned(),
            endpoints,
            passing,
            needed_by: needed_by.to_string(),
            namespace: key.namespace,
            name: key.name,
        });
    }
    Some(Readiness {
        namespace: service.namespace.clone(),
        service: service.name.clone(),
        ready: states.iter().all(|it| it.ready),
        dependencies: states,
    })
}

const READY: &str = "Ready";

/// Endpoints of every service, and how many of them are passing.
pub(super) fn counts(snapshot: &Snapshot) -> BTreeMap<ObjectKey, (u64, u64)> {
    let mut counts: BTreeMap<ObjectKey, (u64, u64)> = BTreeMap::new();
    // One with a name is a pattern for those of its addresses.
    let endpoints = snapshot.endpoints.values();
    for endpoint in endpoints.filter(|it| it.spec.hostname.is_none()) {
        let service = ObjectKey::new(&endpoint.metadata.namespace, &endpoint.spec.service);
        let (all, passing) = counts.entry(service).or_default();
        *all += 1;
        *passing += u64::from(endpoint.is_up());
    }
    counts
}
