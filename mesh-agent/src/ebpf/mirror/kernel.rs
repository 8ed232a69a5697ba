//! The maps of the kernel: where writes go, and what they hold when an agent starts.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use mesh_common::policy::{Policy, PolicyKey};

use super::apply::Kernel;
use super::{Held, Write};
use crate::ebpf::{TableError, Tables};
use crate::traffic::authz::Shared;

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
            Write::PutExit(key) => self.egress.insert(key, &1),
            Write::RemoveExit(key) => self.egress.remove(key).map(drop),
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

pub(super) fn read(tables: &Tables) -> Result<Held, TableError> {
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
        exits: tables.egress.keys()?.into_iter().collect(),
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
