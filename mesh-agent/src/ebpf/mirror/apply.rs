//! Carries out the writes: one sync at a time, what fails is counted and reported, and the rest goes on.
//!
//! A write that depends on one that failed is held back, so that no service ever reads a slot that is not there.

use std::collections::BTreeSet;
use std::error::Error;
use std::fmt;
use std::mem;
use std::sync::Arc;

use mesh_common::address::SocketAddress;
use mesh_common::endpoint::{Endpoint, State};
use mesh_common::policy::PolicyKey;
use mesh_common::service::{SlotKey, TCP, UDP};

use super::basis::Basis;
use super::desired::Enrolled;
use super::diff::diff;
use super::{Held, Write, kernel};
use crate::ebpf::metrics::Metrics;
use crate::ebpf::{TableError, Tables};
use crate::state::Ids;
use crate::state::Snapshot;
use crate::state::id::Subject;
use crate::state::object::ObjectKey;

#[cfg(test)]
mod tests;

/// The one writer of the mirrored maps.
#[derive(Debug)]
pub struct Mirror {
    /// Without what is garbage.
    held: Held,
    /// Removals of what nobody finds any more, though a hook may still be reading it.
    garbage: Vec<Write>,
    /// What was written last; `None` where it was not written wholly.
    basis: Option<Basis>,
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
    /// Whose entries were refused or held back: all of them.
    pub unwritten: BTreeSet<Subject>,
    /// Policies that are not in force as written: too many rules.
    pub too_many: BTreeSet<ObjectKey>,
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
            held: kernel::read(tables)?,
            garbage: Vec::new(),
            basis: None,
            metrics,
        })
    }

    /// Makes the maps hold what `snapshot` says, in proportion to what has changed since the last time. Blocks: some 10 ms
    /// where something must go before something else, else less. What nobody finds any more is left to [`Self::sweep`].
    ///
    /// A report that [is not complete](SyncReport::is_complete) asks for another sync after a while.
    pub fn sync<K: Kernel>(
        &mut self,
        kernel: &K,
        snapshot: &Arc<Snapshot>,
        enrolled: &Enrolled,
    ) -> SyncReport {
        let ids = &snapshot.ids;
        let (basis, mut report) = if let Some(last) = self.basis.take() {
            let (basis, step) = last.next(Arc::clone(snapshot), enrolled);
            let report = self.write(kernel, ids, |held| diff(&held.part(&step), &step.after));
            (basis, report)
        } else {
            let basis = Basis::new(Arc::clone(snapshot), enrolled);
            let desired = basis.desired();
            let report = self.write(kernel, ids, |held| diff(held, &desired));
            (basis, report)
        };
        report.too_many = basis.policies.too_many();
        // After a failure everything is compared again.
        self.basis = Some(basis).filter(|_| report.is_complete());
        report
    }

    /// Takes out what nobody reads any more, and says how much that was. Blocks for some 10 ms, if there is anything.
    pub fn sweep<K: Kernel>(&mut self, kernel: &K) -> usize {
        let garbage = mem::take(&mut self.garbage);
        if garbage.is_empty() {
            return 0;
        }
        // Who cannot wait does not remove: what is left is found by the next start.
        if let Err(error) = kernel.write(&Write::WaitForReaders) {
            tracing::warn!(%error, "cannot wait for the readers of the maps");
            return 0;
        }
        for write in &garbage {
            match kernel.write(write) {
                Ok(()) => self.metrics.count_write(write.map()),
                Err(error) => {
                    self.metrics.count_write_error(write.map());
                    tracing::warn!(%error, map = write.map(), "cannot remove an entry that nobody reads");
                }
            }
        }
        garbage.len()
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

    /// Writes what `diff` asks for, given what is held.
    fn write<K: Kernel>(
        &mut self,
        kernel: &K,
        ids: &Ids,
        diff: impl Fn(&Held) -> Vec<Write>,
    ) -> SyncReport {
        let mut report = SyncReport::default();
        for _ in 0..PASSES {
            let writes = diff(&self.held);
            self.revive(&writes);
            report.failed = 0;
            report.held_back = 0;
            report.failures.clear();
            report.unwritten.clear();
            let written = report.written;
            self.pass(kernel, &writes, ids, &mut report);
            if report.is_complete() || report.written == written {
                break;
            }
            // What is not read any more may be what fills the maps.
            self.sweep(kernel);
        }
        if self.garbage.len() > MAX_GARBAGE {
            self.sweep(kernel);
        }
        report
    }

    /// Keeps what has come back before it was swept.
    fn revive(&mut self, writes: &[Write]) {
        if self.garbage.is_empty() {
            return;
        }
        let mut slots = BTreeSet::new();
        let mut numbers = BTreeSet::new();
        for write in writes {
            match write {
                Write::PutSlot(key, _) => drop(slots.insert(*key)),
                // A number belongs to one endpoint's or one service's port.
                Write::PutEndpoint(id, _) | Write::PutOpen(id) | Write::PutCursor(id) => {
                    numbers.insert(*id);
                }
                _ => {}
            }
        }
        self.garbage.retain(|write| match write {
            Write::RemoveSlot(key) => !slots.contains(key),
            Write::RemoveEndpoint(id) | Write::RemoveOpen(id) | Write::RemoveCursor(id) => {
                !numbers.contains(id)
            }
            _ => true,
        });
    }

    /// Leaves writes to [`Self::sweep`], if all of them may wait. Sockets that remember an endpoint learn at once that it is
    /// gone.
    fn discards<K: Kernel>(&mut self, kernel: &K, writes: &[Write]) -> bool {
        let fails = |write: &Write| match write {
            Write::RemoveEndpoint(id) => self.held.endpoints.get(id).is_none_or(|old| {
                let state = State::Failed as u8;
                let failed = Write::PutEndpoint(*id, Endpoint { state, ..*old });
                kernel.write(&failed).is_ok()
            }),
            _ => true,
        };
        if !writes.iter().all(Write::is_of_garbage) || !writes.iter().all(fails) {
            return false;
        }
        for write in writes {
            self.held.follow(write);
        }
        self.garbage.extend_from_slice(writes);
        true
    }

    fn pass<K: Kernel>(
        &mut self,
        kernel: &K,
        writes: &[Write],
        ids: &Ids,
        report: &mut SyncReport,
    ) {
        let mut broken = Broken::default();
        for (index, write) in writes.iter().enumerate() {
            let rest = writes.get(index + 1..).unwrap_or_default();
            if *write == Write::WaitForReaders && broken.is_empty() && self.discards(kernel, rest) {
                report.written += rest.len();
                break;
            }
            if broken.forbids(write, &self.held) {
                broken.note(write);
                report.held_back += 1;
                report.unwritten.extend(write.subjects(ids));
                continue;
            }
            match kernel.write(write) {
                Ok(()) => {
                    self.held.follow(write);
                    if *write != Write::WaitForReaders {
                        self.metrics.count_write(write.map());
                        report.written += 1;
                    }
                }
                Err(source) => {
                    broken.note(write);
                    self.metrics.count_write_error(write.map());
                    report.failed += 1;
                    report.unwritten.extend(write.subjects(ids));
                    if report.failures.len() < MAX_FAILURES {
                        report.failures.push(Failure {
                            map: write.map(),
                            subject: write.subjects(ids).next(),
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

/// Removals that may wait.
const MAX_GARBAGE: usize = 4096;

/// What could not be written in this pass.
#[derive(Debug, Default)]
struct Broken {
    policies: BTreeSet<PolicyKey>,
    endpoints: BTreeSet<u32>,
    ports: BTreeSet<u32>,
}

impl Broken {
    fn is_empty(&self) -> bool {
        self.policies.is_empty() && self.endpoints.is_empty() && self.ports.is_empty()
    }

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
