//! Snapshots for tests, from objects as people write them.

use std::sync::Arc;

use serde_json::{Value, json};

use crate::state::Ids;
use crate::state::Snapshot;
use crate::state::endpoint::Endpoint;
use crate::state::id::Subject;
use crate::state::object::ObjectKey;
use crate::state::policy::AuthorizationPolicy;
use crate::state::resource::Resource;
use crate::state::service::Service;
use crate::state::workload::Workload;

/// A snapshot that grows.
#[derive(Default)]
pub(crate) struct Fixture {
    snapshot: Snapshot,
}

impl From<Snapshot> for Fixture {
    fn from(snapshot: Snapshot) -> Self {
        Self { snapshot }
    }
}

impl Fixture {
    /// Adds or replaces a service of the namespace `shop`.
    pub(crate) fn service(mut self, name: &str, spec: &Value) -> Self {
        let service: Service = object("Service", name, spec);
        for port in &service.spec.ports {
            self.ids()
                .assign(Subject::Port(service.key(), port.name.clone()));
        }
        self.ids().assign(Subject::Service(service.key()));
        self.snapshot
            .services
            .insert(service.key(), Arc::new(service));
        self
    }

    /// Adds or replaces an endpoint; its ports are numbered for the ports `names`.
    pub(crate) fn endpoint(mut self, name: &str, names: &[&str], spec: &Value) -> Self {
        let endpoint: Endpoint = object("Endpoint", name, spec);
        for port in names {
            self.ids()
                .assign(Subject::Endpoint(endpoint.key(), (*port).to_owned()));
        }
        self.snapshot
            .endpoints
            .insert(endpoint.key(), Arc::new(endpoint));
        self
    }

    /// Adds or replaces a workload, and numbers its identity.
    pub(crate) fn workload(mut self, name: &str, spec: &Value) -> Self {
        let workload: Workload = object("Workload", name, spec);
        self.ids().assign(Subject::Workload(workload.key()));
        self.ids().assign(Subject::Namespace("shop".to_owned()));
        self.ids().assign(Subject::ServiceAccount(
            workload.spec.service_account.clone(),
        ));
        self.snapshot
            .workloads
            .insert(workload.key(), Arc::new(workload));
        self
    }

    /// Adds or replaces a policy.
    pub(crate) fn policy(mut self, name: &str, spec: &Value) -> Self {
        let policy: AuthorizationPolicy = object("AuthorizationPolicy", name, spec);
        self.ids().assign(Subject::Policy(policy.key()));
        self.snapshot
            .policies
            .insert(policy.key(), Arc::new(policy));
        self
    }

    /// Adds or replaces a route or traffic policy: what the store would not refuse.
    pub(crate) fn object<R: Resource>(mut self, name: &str, spec: &Value) -> Self {
        let object: R = object(R::KIND.name(), name, spec);
        let key = ObjectKey::new(&object.metadata().namespace, name);
        R::all_mut(&mut self.snapshot).insert(key, Arc::new(object));
        self
    }

    /// Numbers a name.
    pub(crate) fn name(mut self, subject: Subject) -> Self {
        self.ids().assign(subject);
        self
    }

    /// The snapshot so far.
    pub(crate) fn snapshot(&self) -> Snapshot {
        self.snapshot.clone()
    }

    fn ids(&mut self) -> &mut Ids {
        &mut self.snapshot.ids
    }
}

fn object<T: serde::de::DeserializeOwned>(kind: &str, name: &str, spec: &Value) -> T {
    serde_json::from_value(json!({
        "apiVersion": "mesh.dev/v1alpha1",
        "kind": kind,
        "metadata": {"name": name, "namespace": "shop"},
        "spec": spec,
    }))
    .expect("a valid object")
}
