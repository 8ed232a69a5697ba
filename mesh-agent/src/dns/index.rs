//! What of a snapshot is looked up by something else than its name. Made anew when a question finds another snapshot, as
//! far as that is of other objects.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, OnceLock};

use arc_swap::ArcSwapOption;

use crate::state::endpoint::Endpoint;
use crate::state::id::Subject;
use crate::state::object::ObjectKey;
use crate::state::{Snapshot, Store};
use crate::traffic::authz;

/// A snapshot with its look-ups.
#[derive(Debug)]
pub(super) struct Index {
    pub(super) snapshot: Arc<Snapshot>,
    services: Arc<Services>,
    /// Namespaces by the number of a workload.
    namespaces: Arc<HashMap<u32, String>>,
    /// The endpoints of headless services, in the order of their names; made for the first who asks.
    endpoints: OnceLock<HashMap<ObjectKey, Vec<Arc<Endpoint>>>>,
}

/// The look-ups of services.
#[derive(Debug)]
struct Services {
    by_address: HashMap<IpAddr, ObjectKey>,
    by_hostname: HashMap<String, ObjectKey>,
}

impl Index {
    #[cfg(test)]
    pub(super) fn new(snapshot: Arc<Snapshot>) -> Self {
        Self::after(None, snapshot)
    }

    /// The index of a snapshot, with what is still true of the last one.
    fn after(last: Option<&Self>, snapshot: Arc<Snapshot>) -> Self {
        let services = last
            .filter(|last| Arc::ptr_eq(&last.snapshot.services, &snapshot.services))
            .map_or_else(
                || Arc::new(Services::of(&snapshot)),
                |last| Arc::clone(&last.services),
            );
        let namespaces = last
            .filter(|last| Arc::ptr_eq(&last.snapshot.workloads, &snapshot.workloads))
            .map_or_else(
                || Arc::new(namespaces(&snapshot)),
                |last| Arc::clone(&last.namespaces),
            );
        Self {
            snapshot,
            services,
            namespaces,
            endpoints: OnceLock::new(),
        }
    }

    /// The service that has a virtual address.
    pub(super) fn service_at(&self, address: IpAddr) -> Option<&ObjectKey> {
        self.services.by_address.get(&address.to_canonical())
    }

    /// The service that a name outside the mesh means.
    pub(super) fn service_named(&self, hostname: &str) -> Option<&ObjectKey> {
        self.services.by_hostname.get(hostname)
    }

    /// The endpoints of a headless service.
    pub(super) fn endpoints_of(&self, service: &ObjectKey) -> &[Arc<Endpoint>] {
        let endpoints = self.endpoints.get_or_init(|| endpoints(&self.snapshot));
        endpoints.get(service).map_or(&[], Vec::as_slice)
    }

    /// The namespace of the workload with a number.
    pub(super) fn namespace(&self, workload: u32) -> Option<&str> {
        self.namespaces.get(&workload).map(String::as_str)
    }
}

impl Services {
    fn of(snapshot: &Snapshot) -> Self {
        let by_address = snapshot.services.iter().flat_map(|(key, service)| {
            let addresses = authz::virtual_addresses(service).iter();
            addresses.map(|address| (address.to_canonical(), key.clone()))
        });
        let by_hostname = snapshot.services.iter().flat_map(|(key, service)| {
            let hostnames = service.spec.hostnames.iter();
            hostnames.map(|hostname| (hostname.clone(), key.clone()))
        });
        Self {
            by_address: by_address.collect(),
            by_hostname: by_hostname.collect(),
        }
    }
}

fn namespaces(snapshot: &Snapshot) -> HashMap<u32, String> {
    let workloads = snapshot.workloads.keys();
    workloads
        .map(|key| {
            let number = snapshot.ids.number(&Subject::Workload(key.clone()));
            (number, key.namespace.clone())
        })
        .collect()
}

fn endpoints(snapshot: &Snapshot) -> HashMap<ObjectKey, Vec<Arc<Endpoint>>> {
    let mut endpoints: HashMap<ObjectKey, Vec<Arc<Endpoint>>> = HashMap::new();
    for (key, endpoint) in snapshot.endpoints.iter() {
        let service = ObjectKey::new(&key.namespace, &endpoint.spec.service);
        let known = snapshot.services.get(&service);
        if known.is_some_and(|it| it.spec.headless) {
            endpoints
                .entry(service)
                .or_default()
                .push(Arc::clone(endpoint));
        }
    }
    endpoints
}

/// The index of the store's last snapshot.
pub(super) struct Latest {
    store: Arc<Store>,
    index: ArcSwapOption<Index>,
}

impl Latest {
    pub(super) fn new(store: Arc<Store>) -> Self {
        Self {
            store,
            index: ArcSwapOption::empty(),
        }
    }

    pub(super) fn load(&self) -> Arc<Index> {
        let snapshot = self.store.snapshot();
        let last = self.index.load_full();
        if let Some(index) = &last
            && Arc::ptr_eq(&index.snapshot, &snapshot)
        {
            return Arc::clone(index);
        }
        let index = Arc::new(Index::after(last.as_deref(), snapshot));
        self.index.store(Some(Arc::clone(&index)));
        index
    }
}
