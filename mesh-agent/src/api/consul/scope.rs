//! What a workload may do that reaches the registry from its own network namespace: see the services of its namespace,
//! and change those at its own addresses.

use std::net::IpAddr;

use super::failure::Failure;
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

    /// Whether an endpoint is one of its own.
    pub(super) fn may_change(&self, endpoint: &Endpoint) -> Result<(), Failure> {
        self.may_see(&endpoint.metadata.namespace)?;
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
        let mut endpoints = snapshot.endpoints_of(service);
        if endpoints.any(|it| self.addresses.contains(&it.spec.address)) {
            return Ok(());
        }
        Err(Failure::forbidden(format!(
            "Permission denied: this workload does not serve {service}"
        )))
    }
}
