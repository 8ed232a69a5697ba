//! What of a snapshot is looked up by something else than its name. Made anew when a question finds another snapshot.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use arc_swap::ArcSwapOption;

use crate::state::id::Subject;
use crate::state::object::ObjectKey;
use crate::state::{Snapshot, Store};
use crate::traffic::authz;

/// A snapshot with its look-ups.
#[derive(Debug)]
pub(super) struct Index {
    pub(super) snapshot: Arc<Snapshot>,
    /// Services by virtual address.
    addresses: HashMap<IpAddr, ObjectKey>,
    /// Namespaces by the number of a workload.
    namespaces: HashMap<u32, String>,
}

impl Index {
    pub(super) fn new(snapshot: Arc<Snapshot>) -> Self {
        let addresses = snapshot.services.iter().flat_map(|(key, service)| {
            let addresses = authz::virtual_addresses(service).iter();
            addresses.map(|address| (address.to_canonical(), key.clone()))
        });
        let namespaces = snapshot.ids.iter().filter_map(|(subject, number)| {
            let Subject::Workload(key) = subject else {
                return None;
            };
            Some((number, key.namespace.clone()))
        });
        Self {
            addresses: addresses.collect(),
            namespaces: namespaces.collect(),
            snapshot,
        }
    }

    /// The service that has a virtual address.
    pub(super) fn service_at(&self, address: IpAddr) -> Option<&ObjectKey> {
        self.addresses.get(&address.to_canonical())
    }

    /// The namespace of the workload with a number.
    pub(super) fn namespace(&self, workload: u32) -> Option<&str> {
        self.namespaces.get(&workload).map(String::as_str)
    }
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
        if let Some(index) = self.index.load_full()
            && Arc::ptr_eq(&index.snapshot, &snapshot)
        {
            return index;
        }
        let index = Arc::new(Index::new(snapshot));
        self.index.store(Some(Arc::clone(&index)));
        index
    }
}
