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
/// Most bytes of an endpoint that a workload has a hand in: all nodes keep it and send it to one another.
const MAX_BYTES: usize = 64 << 10;

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

    /// Marks an endpoint that it has a hand in, where it may say that of it.
    pub(super) fn mark(&self, endpoint: &mut Endpoint) -> Result<(), Failure> {
        self.may_say(endpoint)?;
        endpoint.mark_as_of_workload();
        Ok(())
    }

    /// Whether it may say that of an endpoint. Its checks ask nobody else: the agent asks past the policies that hold for
    /// the workload.
    fn may_say(&self, endpoint: &Endpoint) -> Result<(), Failure> {
        let mut checks = endpoint.spec.checks.iter();
        if let Some(check) = checks.find(|it| !it.stays_at(&self.addresses)) {
            let (kind, id) = (check.kind().to_ascii_uppercase(), &check.id);
            return Err(Failure::bad(format!(
                "{kind} of check {id:?} must be at localhost or an address of this workload"
            )));
        }
        let said = serde_json::to_vec(&(&endpoint.metadata, &endpoint.spec));
        // What came as JSON can be written as JSON.
        let bytes = said.map_or(0, |it| it.len());
        if bytes > MAX_BYTES {
            return Err(Failure::bad(format!(
                "the service with its checks is too large: at most {MAX_BYTES} bytes as an Endpoint, not {bytes}"
            )));
        }
        Ok(())
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
    use axum::http::StatusCode;
    use serde_json::{Value, json};

    use super::*;

    /// Why a workload at 10.0.0.3 may not say that of its endpoint.
    fn refused(fields: Value) -> Option<String> {
        let scope = Scope {
            namespace: "shop".to_owned(),
            addresses: vec!["10.0.0.3".parse().unwrap()],
        };
        let mut spec = json!({"service": "web", "address": "10.0.0.3"});
        let Value::Object(fields) = fields else {
            panic!("an object");
        };
        spec.as_object_mut().unwrap().extend(fields);
        let endpoint = json!({"apiVersion": "mesh.dev/v1alpha1", "kind": "Endpoint",
            "metadata": {"name": "web-1", "namespace": "shop"}, "spec": spec});
        let endpoint: Endpoint = serde_json::from_value(endpoint).unwrap();
        let refused = scope.may_say(&endpoint).err()?;
        assert_eq!(refused.status, StatusCode::BAD_REQUEST);
        Some(refused.text)
    }

    #[test]
    fn checks_that_ask_others_are_refused_by_name() {
        let tcp = |address: &str| {
            let check = json!({"id": "db", "tcp": {"address": address}});
            refused(json!({"checks": [{"id": "alive", "ttl": "1s"}, check]}))
        };
        assert_eq!(tcp("localhost:80"), None);
        assert_eq!(tcp("10.0.0.3:80"), None);
        let text = tcp("10.0.0.4:80").unwrap();
        assert!(text.starts_with("TCP of check \"db\""), "{text}");
    }

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

    #[test]
    fn an_endpoint_that_is_too_large_is_refused() {
        let body = |size: usize| {
            let http = json!({"url": "http://localhost/", "body": "x".repeat(size)});
            refused(json!({"checks": [{"id": "a", "http": http}]}))
        };
        assert_eq!(body(60 << 10), None);
        assert!(body(64 << 10).unwrap().contains("too large"));
    }
}
