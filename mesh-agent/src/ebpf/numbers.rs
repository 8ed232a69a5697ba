//! From the numbers in the kernel back to the objects.

use std::net::IpAddr;
use std::sync::Arc;

use crate::state::Snapshot;
use crate::state::id::Subject;
use crate::state::object::{Kind, ObjectKey};

/// The objects of one snapshot by number. Zero is nobody's.
#[derive(Clone, Debug, Default)]
pub struct Numbers {
    snapshot: Arc<Snapshot>,
}

impl Numbers {
    /// Those of `snapshot`.
    #[must_use]
    pub const fn of(snapshot: Arc<Snapshot>) -> Self {
        Self { snapshot }
    }

    /// What is looked at.
    #[must_use]
    pub const fn snapshot(&self) -> &Arc<Snapshot> {
        &self.snapshot
    }

    /// The workload with a number. `None` once it is deleted, though its sockets may live on.
    #[must_use]
    pub fn workload(&self, number: u32) -> Option<&ObjectKey> {
        match self.snapshot.ids.subject(number)? {
            Subject::Workload(key) => Some(key),
            _ => None,
        }
    }

    /// The service with a number.
    #[must_use]
    pub fn service(&self, number: u32) -> Option<&ObjectKey> {
        match self.snapshot.ids.subject(number)? {
            Subject::Service(key) => Some(key),
            _ => None,
        }
    }

    /// The workload that has an address.
    #[must_use]
    pub fn workload_at(&self, address: IpAddr) -> Option<&ObjectKey> {
        let mut holders = self.snapshot.holders_of(address);
        holders.find_map(|(kind, key)| (kind == Kind::Workload).then_some(key))
    }

    /// The service that has a virtual address.
    #[must_use]
    pub fn service_at(&self, address: IpAddr) -> Option<&ObjectKey> {
        self.snapshot.service_at(address)
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
