//! The model: objects, their rules, and the one store that holds the current view.
//!
//! Every source of change (API, files) ends in [`Store::apply`]; everybody else reads a [`Snapshot`], which is
//! immutable, and is held for one decision, never for the life of a connection.

pub mod change;
pub mod endpoint;
pub mod id;
pub mod object;
pub mod persist;
pub mod policy;
pub mod report;
pub mod service;
pub mod store;
pub mod validate;
pub mod virtual_address;
pub mod workload;

use std::collections::BTreeMap;
use std::sync::Arc;

pub use change::{Applied, Change, Manifest, Notice, Refusal};
pub use id::Ids;
pub use store::Store;

use endpoint::Endpoint;
use object::ObjectKey;
use policy::AuthorizationPolicy;
use service::Service;
use workload::Workload;

/// Objects of one kind, by key. Cheap to clone; what did not change is shared between snapshots.
pub type Objects<T> = Arc<BTreeMap<ObjectKey, Arc<T>>>;

/// One immutable view of everything.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// The write that made this view.
    pub revision: u64,
    /// All services.
    pub services: Objects<Service>,
    /// All endpoints.
    pub endpoints: Objects<Endpoint>,
    /// All workloads.
    pub workloads: Objects<Workload>,
    /// All authorization policies.
    pub policies: Objects<AuthorizationPolicy>,
    /// The numbers by which the kernel knows them.
    pub ids: Arc<Ids>,
}

impl Snapshot {
    /// The endpoints of a service, in the order of their names.
    pub fn endpoints_of<'a>(
        &'a self,
        service: &'a ObjectKey,
    ) -> impl Iterator<Item = &'a Arc<Endpoint>> {
        self.endpoints
            .range(ObjectKey::new(&service.namespace, "")..)
            .take_while(|(key, _)| key.namespace == service.namespace)
            .map(|(_, endpoint)| endpoint)
            .filter(|endpoint| endpoint.spec.service == service.name)
    }
}
