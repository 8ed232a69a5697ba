//! Mirrors a snapshot into the kernel's maps: what they should hold, what they hold, and the writes between.

pub mod apply;
mod basis;
pub mod desired;
pub mod diff;
mod kernel;

pub use apply::{Failure, Mirror, SyncReport};
pub use desired::{Enrolled, Place};

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use mesh_common::address::Address;
use mesh_common::egress::EgressKey;
use mesh_common::endpoint::Endpoint;
use mesh_common::names::map;
use mesh_common::policy::{Policy, PolicyKey};
use mesh_common::service::{Service, ServiceKey, SlotKey};
use mesh_common::workload::Workload;

use basis::Step;

use crate::state::Ids;
use crate::state::id::Subject;

/// What the maps hold, as far as the mirror writes them. Kept in memory beside the maps, so that a sync reads nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Held {
    /// `POLICY`.
    pub policies: BTreeMap<PolicyKey, Arc<Policy>>,
    /// `ENDPOINTS`.
    pub endpoints: BTreeMap<u32, Endpoint>,
    /// Keys of `OPEN`; the kernel owns the values.
    pub open: BTreeSet<u32>,
    /// Keys of `CURSORS`; the kernel owns the values.
    pub cursors: BTreeSet<u32>,
    /// `SLOTS`.
    pub slots: BTreeMap<SlotKey, u32>,
    /// `SERVICES`.
    pub services: BTreeMap<ServiceKey, Service>,
    /// `IDENTITIES`.
    pub identities: BTreeMap<Address, Workload>,
    /// `WORKLOADS`.
    pub workloads: BTreeMap<u64, Workload>,
    /// `CGROUPS`.
    pub cgroups: BTreeMap<u64, Workload>,
    /// Keys of `EGRESS`.
    pub exits: BTreeSet<EgressKey>,
}

impl Held {
    /// Whether the maps hold nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// What is held of all that a step concerns.
    fn part(&self, step: &Step) -> Self {
        let of = [&step.before, &step.after];
        let endpoints = || of.into_iter().flat_map(|it| it.endpoints.keys());
        let ports = || of.into_iter().flat_map(|it| it.slots.keys());
        let exits = of.into_iter().flat_map(|it| &it.exits);
        let slots = ports().flat_map(|port_id| self.slots_of(*port_id));
        Self {
            policies: some(
                &self.policies,
                of.into_iter().flat_map(|it| it.policies.keys()),
            ),
            endpoints: some(&self.endpoints, endpoints()),
            open: endpoints()
                .filter(|it| self.open.contains(it))
                .copied()
                .collect(),
            cursors: ports()
                .filter(|it| self.cursors.contains(it))
                .copied()
                .collect(),
            slots: slots.collect(),
            services: some(
                &self.services,
                of.into_iter().flat_map(|it| it.services.keys()),
            ),
            identities: some(
                &self.identities,
                of.into_iter().flat_map(|it| it.identities.keys()),
            ),
            workloads: some(
                &self.workloads,
                of.into_iter().flat_map(|it| it.workloads.keys()),
            ),
            cgroups: some(
                &self.cgroups,
                of.into_iter().flat_map(|it| it.cgroups.keys()),
            ),
            exits: exits
                .filter(|it| self.exits.contains(it))
                .copied()
                .collect(),
        }
    }

    fn slots_of(&self, port_id: u32) -> impl Iterator<Item = (SlotKey, u32)> {
        let first = SlotKey {
            port_id,
            generation: 0,
            family: 0,
            slot: 0,
        };
        let slots = self.slots.range(first..);
        let slots = slots.take_while(move |(key, _)| key.port_id == port_id);
        slots.map(|(key, id)| (*key, *id))
    }

    /// Does to the picture what `write` did to the maps.
    pub fn follow(&mut self, write: &Write) {
        match write {
            Write::PutPolicy(key, policy) => {
                self.policies.insert(*key, Arc::clone(policy));
            }
            Write::PutEndpoint(id, endpoint) => {
                self.endpoints.insert(*id, *endpoint);
            }
            Write::PutOpen(id) => {
                self.open.insert(*id);
            }
            Write::PutCursor(id) => {
                self.cursors.insert(*id);
            }
            Write::PutSlot(key, id) => {
                self.slots.insert(*key, *id);
            }
            Write::PutService(key, service) => {
                self.services.insert(*key, *service);
            }
            Write::PutIdentity(address, workload) => {
                self.identities.insert(*address, *workload);
            }
            Write::PutWorkload(cookie, workload) => {
                self.workloads.insert(*cookie, *workload);
            }
            Write::PutCgroup(id, workload) => {
                self.cgroups.insert(*id, *workload);
            }
            Write::PutExit(key) => {
                self.exits.insert(*key);
            }
            Write::WaitForReaders => {}
            removal => self.follow_removal(removal),
        }
    }

    fn follow_removal(&mut self, write: &Write) {
        match write {
            Write::RemovePolicy(key) => drop(self.policies.remove(key)),
            Write::RemoveEndpoint(id) => drop(self.endpoints.remove(id)),
            Write::RemoveOpen(id) => drop(self.open.remove(id)),
            Write::RemoveCursor(id) => drop(self.cursors.remove(id)),
            Write::RemoveSlot(key) => drop(self.slots.remove(key)),
            Write::RemoveService(key) => drop(self.services.remove(key)),
            Write::RemoveIdentity(address) => drop(self.identities.remove(address)),
            Write::RemoveWorkload(cookie) => drop(self.workloads.remove(cookie)),
            Write::RemoveCgroup(id) => drop(self.cgroups.remove(id)),
            Write::RemoveExit(key) => {
                self.exits.remove(key);
            }
            _ => {}
        }
    }
}

/// The entries with some keys.
fn some<'a, K: Copy + Ord + 'a, V: Clone>(
    map: &BTreeMap<K, V>,
    keys: impl Iterator<Item = &'a K>,
) -> BTreeMap<K, V> {
    let found = keys.filter_map(|key| Some((*key, map.get(key)?.clone())));
    found.collect()
}

/// One write to one map.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Write {
    /// New or changed rules.
    PutPolicy(PolicyKey, Arc<Policy>),
    /// No rules any more.
    RemovePolicy(PolicyKey),
    /// New or changed endpoint.
    PutEndpoint(u32, Endpoint),
    /// Endpoint that is gone.
    RemoveEndpoint(u32),
    /// A count of open connections, from zero; never over one that is there.
    PutOpen(u32),
    /// The count of an endpoint that is gone.
    RemoveOpen(u32),
    /// A round-robin cursor, from zero; never over one that is there.
    PutCursor(u32),
    /// The cursor of a port that is gone.
    RemoveCursor(u32),
    /// A slot of a generation that nobody reads yet.
    PutSlot(SlotKey, u32),
    /// A slot of a generation that nobody reads any more.
    RemoveSlot(SlotKey),
    /// New or changed service port: from here on its slots are read.
    PutService(ServiceKey, Service),
    /// Service port that is gone.
    RemoveService(ServiceKey),
    /// Who has an address.
    PutIdentity(Address, Workload),
    /// Address that nobody has.
    RemoveIdentity(Address),
    /// Enrols a network namespace.
    PutWorkload(u64, Workload),
    /// Takes it out.
    RemoveWorkload(u64),
    /// Enrols a cgroup.
    PutCgroup(u64, Workload),
    /// Takes it out.
    RemoveCgroup(u64),
    /// Lets something out.
    PutExit(EgressKey),
    /// Does no more.
    RemoveExit(EgressKey),
    /// Not a write: waits until no hook runs that began before, and so might still read what is removed next.
    WaitForReaders,
}

impl Write {
    /// The map that is written.
    #[must_use]
    pub const fn map(&self) -> &'static str {
        match self {
            Self::PutPolicy(..) | Self::RemovePolicy(_) => map::POLICY,
            Self::PutEndpoint(..) | Self::RemoveEndpoint(_) => map::ENDPOINTS,
            Self::PutOpen(_) | Self::RemoveOpen(_) => map::OPEN,
            Self::PutCursor(_) | Self::RemoveCursor(_) => map::CURSORS,
            Self::PutSlot(..) | Self::RemoveSlot(_) => map::SLOTS,
            Self::PutService(..) | Self::RemoveService(_) => map::SERVICES,
            Self::PutIdentity(..) | Self::RemoveIdentity(_) => map::IDENTITIES,
            Self::PutWorkload(..) | Self::RemoveWorkload(_) => map::WORKLOADS,
            Self::PutCgroup(..) | Self::RemoveCgroup(_) => map::CGROUPS,
            Self::PutExit(_) | Self::RemoveExit(_) => map::EGRESS,
            Self::WaitForReaders => "",
        }
    }

    /// Whether it takes away what nobody finds: then it may wait.
    const fn is_of_garbage(&self) -> bool {
        matches!(
            self,
            Self::RemoveSlot(_)
                | Self::RemoveEndpoint(_)
                | Self::RemoveOpen(_)
                | Self::RemoveCursor(_)
        )
    }

    /// Whose entry is written; that of a policy may be of several.
    fn subjects(&self, ids: &Ids) -> impl Iterator<Item = Subject> {
        let rules = match self {
            Self::PutPolicy(_, policy) => policy.rules.get(..policy.count as usize),
            _ => None,
        };
        let number = match self {
            Self::PutEndpoint(id, _) | Self::PutOpen(id) | Self::PutCursor(id) => Some(*id),
            Self::PutSlot(key, _) => Some(key.port_id),
            Self::PutService(_, service) => Some(service.id),
            Self::PutIdentity(_, workload)
            | Self::PutWorkload(_, workload)
            | Self::PutCgroup(_, workload) => Some(workload.id),
            Self::PutExit(key) => Some(key.exit.workload),
            _ => None,
        };
        let rules = rules.unwrap_or_default().iter();
        let numbers = rules.map(|it| it.policy).chain(number);
        numbers.filter_map(|it| ids.subject(it).cloned())
    }
}
