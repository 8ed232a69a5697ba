//! Whose tasks wait for whose, and how many run at a time: a check that nobody answers holds up its like, and no heartbeat
//! and no check of somebody else. Pure: the time comes in.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

use super::agenda::Task;
use crate::state::check::Check;
use crate::state::endpoint::Endpoint;

/// Tasks of the agent, and checks of operators, that may run at a time; others wait for their turn.
const MAX_RUNNING: usize = 64;
/// Checks of one workload that may run at a time.
const MAX_OF_WORKLOAD: usize = 8;

/// On whose behalf something is done.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Owner {
    /// The agent itself, which asks nobody: heartbeats, followers, who has to leave.
    Agent,
    /// Operators, by whose word endpoints are asked.
    Operator,
    /// The workload at an address of a namespace, by whose word it is asked.
    Workload(String, IpAddr),
}

impl Owner {
    /// Whose a check is.
    pub(super) fn of(endpoint: &Endpoint, check: &Check) -> Self {
        if check.ttl.is_some() || check.alias.is_some() {
            Self::Agent
        } else if endpoint.is_of_workload() {
            Self::Workload(endpoint.metadata.namespace.clone(), endpoint.spec.address)
        } else {
            Self::Operator
        }
    }

    const fn max_running(&self) -> usize {
        match self {
            Self::Agent | Self::Operator => MAX_RUNNING,
            Self::Workload(..) => MAX_OF_WORKLOAD,
        }
    }
}

/// Held by a task for as long as it runs.
pub(super) type Slot = OwnedSemaphorePermit;

/// The tasks of one owner.
#[derive(Debug)]
pub(super) struct Lane {
    by_time: BTreeSet<(Instant, Task)>,
    slots: Arc<Semaphore>,
    max_running: usize,
}

impl Lane {
    pub(super) fn new(owner: &Owner) -> Self {
        Self {
            by_time: BTreeSet::new(),
            slots: Arc::new(Semaphore::new(owner.max_running())),
            max_running: owner.max_running(),
        }
    }

    pub(super) fn add(&mut self, at: Instant, task: Task) {
        self.by_time.insert((at, task));
    }

    pub(super) fn remove(&mut self, at: Instant, task: Task) {
        self.by_time.remove(&(at, task));
    }

    /// When something may begin; `None` too while as many run as may.
    pub(super) fn next(&self) -> Option<Instant> {
        let (at, _) = self.by_time.first()?;
        (self.slots.available_permits() > 0).then_some(*at)
    }

    /// Takes what is due first.
    pub(super) fn take(&mut self) -> Option<(Task, Slot)> {
        let slot = Arc::clone(&self.slots).try_acquire_owned().ok()?;
        let (_, task) = self.by_time.pop_first()?;
        Some((task, slot))
    }

    /// Whether nothing waits and nothing runs.
    pub(super) fn is_idle(&self) -> bool {
        self.by_time.is_empty() && self.slots.available_permits() == self.max_running
    }
}
