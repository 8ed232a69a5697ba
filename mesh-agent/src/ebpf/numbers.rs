//! From the numbers in the kernel back to the objects.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use crate::state::Snapshot;
use crate::state::id::Subject;
use crate::state::object::ObjectKey;
use crate::traffic::authz;

/// The objects of one snapshot by number.
#[derive(Clone, Debug, Default)]
pub struct Numbers {
    snapshot: Arc<Snapshot>,
    workloads: BTreeMap<u32, ObjectKey>,
    services: BTreeMap<u32, ObjectKey>,
    addresses: BTreeMap<IpAddr, ObjectKey>,
    virtual_addresses: BTreeMap<IpAddr, ObjectKey>,
}

impl Numbers {
    /// Indexes `snapshot`.
    #[must_use]
    pub fn of(snapshot: Arc<Snapshot>) -> Self {
        let number = |subject| snapshot.ids.number(&subject);
        let workloads = snapshot
            .workloads
            .keys()
            .map(|key| (number(Subject::Workload(key.clone())), key.clone()))
            .collect();
        let services = snapshot
            .services
            .keys()
            .map(|key| (number(Subject::Service(key.clone())), key.clone()))
            .collect();
        let mut addresses = BTreeMap::new();
        for (key, workload) in snapshot.workloads.iter() {
            for address in &workload.spec.addresses {
                addresses
                    .entry(address.to_canonical())
                    .or_insert_with(|| key.clone());
            }
        }
        let mut virtual_addresses = BTreeMap::new();
        for (key, service) in snapshot.services.iter() {
            for address in authz::virtual_addresses(service) {
                virtual_addresses
                    .entry(address.to_canonical())
                    .or_insert_with(|| key.clone());
            }
        }
        Self {
            snapshot,
            workloads,
            services,
            addresses,
            virtual_addresses,
        }
    }

    /// What is indexed.
    #[must_use]
    pub const fn snapshot(&self) -> &Arc<Snapshot> {
        &self.snapshot
    }

    /// The workload with a number. `None` once it is deleted, though its sockets may live on.
    #[must_use]
    pub fn workload(&self, number: u32) -> Option<&ObjectKey> {
        self.workloads.get(&number).filter(|_| number != 0)
    }

    /// The service with a number.
    #[must_use]
    pub fn service(&self, number: u32) -> Option<&ObjectKey> {
        self.services.get(&number).filter(|_| number != 0)
    }

    /// The workload that has an address.
    #[must_use]
    pub fn workload_at(&self, address: IpAddr) -> Option<&ObjectKey> {
        self.addresses.get(&address.to_canonical())
    }

    /// The service that has a virtual address.
    #[must_use]
    pub fn service_at(&self, address: IpAddr) -> Option<&ObjectKey> {
        self.virtual_addresses.get(&address.to_canonical())
    }

    /// What is spoken on a port of a service, as its object says.
    #[must_use]
    pub fn protocol(&self, service: u32, port: u16) -> Option<String> {
        let service = self.snapshot.services.get(self.service(service)?)?;
        let mut ports = service.spec.ports.iter();
        let port = ports.find(|candidate| candidate.port == port)?;
        Some(format!("{:?}", port.protocol).to_lowercase())
    }
}
