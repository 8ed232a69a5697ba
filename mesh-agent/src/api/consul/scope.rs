//! What a workload may do that reaches the registry from its own network namespace: see the services of its namespace,
//! and change those at its own addresses.

use std::net::IpAddr;

use super::failure::Failure;
use super::instance::NODES;
use super::kv::HOLDER;
use crate::state::Snapshot;
use crate::state::endpoint::Endpoint;
use crate::state::object::ObjectKey;

/// Most endpoints that a workload may have by its own word.
const MAX_ENDPOINTS: usize = 64;

/// Whose requests these are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scope {
    /// The namespace of the workload.
    pub namespace: String,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
}

impl Scope {
    /// Whether it may ask after a namespace.
    pub(super) fn may_see(&self, namespace: &str) -> Result<(), Failure> {
        if namespace == self.namespace {
            return Ok(());
        }
        let own = &self.namespace;
        Err(Failure::forbidden(format!(
            "Permission denied: this workload sees the namespace {own}, not {namespace}"
        )))
    }

    /// Whether an endpoint is one of its own. It stands for itself only: not for a node, whose checks are those of all
    /// instances there, nor for what holds the keys of no service.
    pub(super) fn may_change(&self, endpoint: &Endpoint) -> Result<(), Failure> {
        self.may_see(&endpoint.metadata.namespace)?;
        may_serve(&endpoint.spec.service)?;
        let address = endpoint.spec.address;
        if self.addresses.contains(&address) {
            return Ok(());
        }
        Err(Failure::forbidden(format!(
            "Permission denied: {address} is no address of this workload"
        )))
    }

    /// Whether it may have one more endpoint: nobody fills the registry from inside.
    pub(super) fn may_add(&self, snapshot: &Snapshot) -> Result<(), Failure> {
        let own = snapshot
            .endpoints
            .range(ObjectKey::new(&self.namespace, "")..);
        let own = own.take_while(|(key, _)| key.namespace == self.namespace);
        let own = own.filter(|(_, it)| self.addresses.contains(&it.spec.address));
        if own.count() < MAX_ENDPOINTS {
            return Ok(());
        }
        Err(Failure::forbidden(format!(
            "Permission denied: this workload has {MAX_ENDPOINTS} endpoints already"
        )))
    }

    /// Whether the settings of a service are those of one that it serves.
    pub(super) fn may_configure(
        &self,
        snapshot: &Snapshot,
        service: &ObjectKey,
    ) -> Result<(), Failure> {
        self.may_see(&service.namespace)?;
        may_serve(&service.name)?;
        let mut endpoints = snapshot.endpoints_of(service);
        if endpoints.any(|it| self.addresses.contains(&it.spec.address)) {
            return Ok(());
        }
        Err(Failure::forbidden(format!(
            "Permission denied: this workload does not serve {service}"
        )))
    }
}

/// Whether a service is one that a workload may serve.
fn may_serve(service: &str) -> Result<(), Failure> {
    if !matches!(service, NODES | HOLDER) {
        return Ok(());
    }
    Err(Failure::forbidden(format!(
        "Permission denied: the service {service} is not for workloads"
    )))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn endpoint(service: &str, address: &str) -> Endpoint {
        let object = json!({"apiVersion": "mesh.dev/v1alpha1", "kind": "Endpoint",
            "metadata": {"name": "a", "namespace": "shop"},
            "spec": {"service": service, "address": address}});
        serde_json::from_value(object).expect("it is right")
    }

    #[test]
    fn a_workload_speaks_for_itself_and_not_for_nodes_or_keys() {
        let scope = Scope {
            namespace: "shop".to_owned(),
            addresses: vec![IpAddr::from([10, 0, 0, 3])],
        };
        assert!(scope.may_change(&endpoint("web", "10.0.0.3")).is_ok());
        assert!(scope.may_change(&endpoint("web", "10.0.0.4")).is_err());
        for service in [NODES, HOLDER] {
            assert!(scope.may_change(&endpoint(service, "10.0.0.3")).is_err());
            let key = ObjectKey::new("shop", service);
            assert!(scope.may_configure(&Snapshot::default(), &key).is_err());
        }
    }
}
