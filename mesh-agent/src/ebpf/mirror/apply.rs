//! Carries out the writes: one sync at a time, what fails is counted and reported, and the rest goes on.
//!
//! A write that depends on one that failed is held back, so that no service ever reads a slot that is not there.

use std::collections::{BTreeMap, BTreeSet};
use std::error::Error;
use std::fmt;
use std::io;
use std::sync::Arc;

use mesh_common::address::SocketAddress;
use mesh_common::endpoint::{Endpoint, State};
use mesh_common::names::map;
use mesh_common::policy::{Policy, PolicyKey};
use mesh_common::service::{SlotKey, TCP, UDP};

use super::desired::{Desired, Enrolled, desired};
use super::diff::diff;
use super::{Held, Write};
use crate::ebpf::metrics::Metrics;
use crate::ebpf::{TableError, Tables};
use crate::state::Ids;
use crate::state::Snapshot;
use crate::state::id::Subject;
use crate::state::object::ObjectKey;
use crate::traffic::authz::Shared;

#[cfg(test)]
mod tests;

/// The one writer of the mirrored maps.
#[derive(Debug)]
pub struct Mirror {
    held: Held,
    metrics: Metrics,
}

/// What came of a sync.
#[derive(Debug, Default)]
pub struct SyncReport {
    /// Writes that were done.
    pub written: usize,
    /// Writes that the kernel refused. They are tried again at the next sync.
    pub failed: usize,
    /// Writes that were held back because another one failed.
    pub held_back: usize,
    /// The first [`MAX_FAILURES`] of the refused ones.
    pub failures: Vec<Failure>,
    /// Policies that are not in force as written: too many rules.
    pub too_many: Vec<ObjectKey>,
}

/// Most failures that a report describes.
pub const MAX_FAILURES: usize = 64;

/// A write that the kernel refused.
#[derive(Debug)]
pub struct Failure {
    /// Name of the map.
    pub map: &'static str,
    /// Whose entry it is, if it belongs to an object.
    pub subject: Option<Subject>,
    /// What the kernel said.
    pub source: Box<dyn Error + Send + Sync>,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.subject {
            Some(subject) => write!(f, "cannot write {subject:?} to map {}", self.map),
            None => write!(f, "cannot write to map {}", self.map),
        }
    }
}

impl Error for Failure {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        Some(self.source.as_ref())
    }
}

impl SyncReport {
    /// Whether the snapshot is wholly in the kernel.
    #[must_use]
    pub const fn is_complete(&self) -> bool {
        self.failed == 0 && self.held_back == 0
    }
}

/// Where writes go: the maps, or in tests a picture of them.
pub trait Kernel {
    /// Why a write is refused.
    type Error: Error + Send + Sync + 'static;

    /// Does one write.
    fn write(&self, write: &Write) -> Result<(), Self::Error>;
}

impl Mirror {
    /// Reads what the maps hold: after a restart that is what the last agent wrote.
    pub fn new(tables: &Tables, metrics: Metrics) -> Result<Self, TableError> {
        Ok(Self {
            held: read(tables)?,
            metrics,
        })
    }

    /// Makes the maps hold what `snapshot` says. Blocks: some 10 ms where something must go, else less.
    ///
    /// A report that [is not complete](SyncReport::is_complete) asks for another sync after a while.
    pub fn sync<K: Kernel>(
        &mut self,
        kernel: &K,
        snapshot: &Snapshot,
        enrolled: &Enrolled,
    ) -> SyncReport {
        let desired = desired(snapshot, enrolled);
        let mut report = self.sync_desired(kernel, &desired, &snapshot.ids);
        report.too_many = desired.too_many;
        report
    }

    /// Whether the maps held or hold anything: beside an empty store a reason to stop before a sync deletes it.
    #[must_use]
    pub fn is_kernel_populated(&self) -> bool {
        !self.held.is_empty()
    }

    /// What the maps hold.
    #[must_use]
    pub const fn held(&self) -> &Held {
        &self.held
    }

    fn sync_desired<K: Kernel>(&mut self, kernel: &K, desired: &Desired, ids: &Ids) -> SyncReport {
        let mut report = SyncReport::default();
        for _ in 0..PASSES {
            let writes = diff(&self.held, desired);
            report.failed = 0;
            report.held_back = 0;
            report.failures.clear();
            let written = report.written;
            self.pass(kernel, &writes, ids, &mut report);
            if report.is_complete() || report.written == written {
                break;
            }
        }
        report
    }

    fn pass<K: Kernel>(
        &mut self,
        kernel: &K,
        writes: &[Write],
        ids: &Ids,
        report: &mut SyncReport,
    ) {
        let mut broken = Broken::default();
        for write in writes {
            if broken.forbids(write, &self.held) {
                broken.note(write);
                report.held_back += 1;
                continue;
            }
            match kernel.write(write) {
                Ok(()) => {
                    self.held.follow(write);
                    report.written += usize::from(*write != Write::WaitForReaders);
                }
                Err(source) => {
                    broken.note(write);
                    self.metrics.count_write_error(write.map());
                    report.failed += 1;
                    if report.failures.len() < MAX_FAILURES {
                        report.failures.push(Failure {
                            map: write.map(),
                            subject: write.subject(ids),
                            source: Box::new(source),
                        });
                    }
                }
            }
        }
    }
}

/// What removals free, a second pass may use.
const PASSES: usize = 2;

/// What could not be written in this pass.
#[derive(Debug, Default)]
struct Broken {
    policies: BTreeSet<PolicyKey>,
    endpoints: BTreeSet<u32>,
    ports: BTreeSet<u32>,
}

impl Broken {
    /// Takes note of a write that was not done.
    fn note(&mut self, write: &Write) {
        match write {
            Write::PutPolicy(key, _) => drop(self.policies.insert(*key)),
            Write::PutEndpoint(id, _) | Write::PutOpen(id) => drop(self.endpoints.insert(*id)),
            Write::PutSlot(SlotKey { port_id, .. }, _) | Write::PutCursor(port_id) => {
                self.ports.insert(*port_id);
            }
            Write::PutService(_, service) => drop(self.ports.insert(service.port_id)),
            _ => {}
        }
    }

    /// Whether `write` depends on something that is not there.
    fn forbids(&self, write: &Write, held: &Held) -> bool {
        match write {
            Write::PutEndpoint(id, endpoint) => {
                self.forbids_endpoint(endpoint, held.endpoints.get(id))
            }
            Write::PutSlot(key, id) => {
                self.endpoints.contains(id) || self.ports.contains(&key.port_id)
            }
            Write::PutService(key, service) => {
                let address = SocketAddress::new(key.address, key.port);
                let is_new = !held.services.contains_key(key);
                self.ports.contains(&service.port_id) || is_new && self.is_unprotected(&address)
            }
            Write::RemoveSlot(key) => {
                !self.ports.is_empty()
                    && held.services.values().any(|service| {
                        (service.port_id, service.generation) == (key.port_id, key.generation)
                    })
            }
            // A service that was not switched may still read slots that name any of them.
            Write::RemoveEndpoint(_) | Write::RemoveOpen(_) | Write::RemoveCursor(_) => {
                !self.ports.is_empty()
            }
            _ => false,
        }
    }

    fn forbids_endpoint(&self, new: &Endpoint, old: Option<&Endpoint>) -> bool {
        let is_moved = old.is_none_or(|old| old.socket_address() != new.socket_address());
        // A change of family is finished only when all services have switched.
        let is_revived = old.is_some_and(|old| {
            old.state == State::Failed as u8 && new.state != State::Failed as u8
        });
        is_revived && !self.ports.is_empty()
            || is_moved && self.is_unprotected(&new.socket_address())
    }

    /// Whether an address would be open that policy protects.
    fn is_unprotected(&self, address: &SocketAddress) -> bool {
        let keys = [
            PolicyKey::port(address, TCP),
            PolicyKey::port(address, UDP),
            PolicyKey::workload(address.address),
        ];
        keys.iter().any(|key| self.policies.contains(key))
    }
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
            Self::WaitForReaders => "",
        }
    }

    /// Whose entry is written.
    fn subject(&self, ids: &Ids) -> Option<Subject> {
        let number = match self {
            Self::PutPolicy(_, policy) => policy.rules.first()?.policy,
            Self::PutEndpoint(id, _) | Self::PutOpen(id) | Self::PutCursor(id) => *id,
            Self::PutSlot(key, _) => key.port_id,
            Self::PutService(_, service) => service.id,
            Self::PutIdentity(_, workload)
            | Self::PutWorkload(_, workload)
            | Self::PutCgroup(_, workload) => workload.id,
            _ => return None,
        };
        ids.subject(number).cloned()
    }
}

impl Kernel for Tables {
    type Error = TableError;

    fn write(&self, write: &Write) -> Result<(), TableError> {
        match write {
            Write::PutPolicy(key, policy) => self.policy.insert(key, policy),
            Write::PutEndpoint(id, endpoint) => self.endpoints.insert(id, endpoint),
            Write::PutOpen(id) => match self.open.get(id)? {
                Some(_) => Ok(()),
                None => self.open.insert_new(id, &0),
            },
            Write::PutCursor(id) => match self.cursors.get(id)? {
                Some(_) => Ok(()),
                None => self.cursors.insert_new(id, &0),
            },
            Write::PutSlot(key, id) => self.slots.insert(key, id),
            Write::PutService(key, service) => self.services.insert(key, service),
            Write::PutIdentity(address, workload) => self.identities.insert(address, workload),
            Write::PutWorkload(cookie, workload) => self.workloads.insert(cookie, workload),
            Write::PutCgroup(id, workload) => self.cgroups.insert(id, workload),
            Write::RemovePolicy(key) => self.policy.remove(key).map(drop),
            Write::RemoveEndpoint(id) => self.endpoints.remove(id).map(drop),
            Write::RemoveOpen(id) => self.open.remove(id).map(drop),
            Write::RemoveCursor(id) => self.cursors.remove(id).map(drop),
            Write::RemoveSlot(key) => self.slots.remove(key).map(drop),
            Write::RemoveService(key) => self.services.remove(key).map(drop),
            Write::RemoveIdentity(address) => self.identities.remove(address).map(drop),
            Write::RemoveWorkload(cookie) => self.workloads.remove(cookie).map(drop),
            Write::RemoveCgroup(id) => self.cgroups.remove(id).map(drop),
            Write::WaitForReaders => {
                wait_for_readers();
                Ok(())
            }
        }
    }
}

fn read(tables: &Tables) -> Result<Held, TableError> {
    Ok(Held {
        policies: read_policies(tables)?,
        endpoints: tables.endpoints.entries()?.into_iter().collect(),
        open: tables
            .open
            .entries()?
            .into_iter()
            .map(|(id, _)| id)
            .collect(),
        cursors: tables
            .cursors
            .entries()?
            .into_iter()
            .map(|(id, _)| id)
            .collect(),
        slots: tables.slots.entries()?.into_iter().collect(),
        services: tables.services.entries()?.into_iter().collect(),
        identities: tables.identities.entries()?.into_iter().collect(),
        workloads: tables.workloads.entries()?.into_iter().collect(),
        cgroups: tables.cgroups.entries()?.into_iter().collect(),
    })
}

/// Reads one by one and shares at once: the whole map at full size would be a burden.
fn read_policies(tables: &Tables) -> Result<BTreeMap<PolicyKey, Arc<Policy>>, TableError> {
    let mut shared = Shared::default();
    let mut policies = BTreeMap::new();
    for key in tables.policy.keys()? {
        if let Some(policy) = tables.policy.get(&key)? {
            let used = policy.rules.get(..policy.count as usize);
            // An entry without rules, or with too many, is none that we write: whatever it is, it will be replaced.
            let policy = shared
                .policy(used.unwrap_or_default())
                .unwrap_or_else(|| Arc::new(policy));
            policies.insert(key, policy);
        }
    }
    Ok(policies)
}

/// Waits for one RCU grace period: kernel programs run inside RCU read sections, so one that began before is over after.
fn wait_for_readers() {
    // SAFETY: the call takes two numbers and touches no memory of ours.
    let result = unsafe { libc::syscall(libc::SYS_membarrier, MEMBARRIER_CMD_GLOBAL, 0_u32) };
    if result != 0 {
        // Refused where some CPUs run without ticks, or by a filter. A hook takes microseconds: a pause is as good.
        let error = io::Error::last_os_error();
        tracing::debug!(%error, "no membarrier, pausing instead");
        // SAFETY: with zero descriptors the pointer is not read.
        unsafe {
            libc::poll(std::ptr::null_mut(), 0, PAUSE_MILLIS);
        }
    }
}

/// `membarrier(2)`: returns after a grace period.
const MEMBARRIER_CMD_GLOBAL: libc::c_int = 1;

/// How long to pause where there is no `membarrier`.
const PAUSE_MILLIS: libc::c_int = 20;
