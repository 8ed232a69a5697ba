//! Which label sets are in use. There is a most of them, and those that nobody uses any more go after a while.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;

/// Label sets that one family has at most.
pub(super) const MAX_SERIES: usize = 10_000;

/// How long a series stays that nobody can count in any more: long enough to be scraped with its last value.
pub(super) const KEEP: Duration = Duration::from_mins(10);

/// The label sets of families that are always used together.
#[derive(Debug)]
pub(super) struct Leases<L>(Mutex<HashMap<L, Use>>);

impl<L> Default for Leases<L> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

#[derive(Clone, Copy, Debug)]
enum Use {
    /// So many can count in it.
    Held(usize),
    /// Nobody can.
    Idle,
    /// Nobody can, seen for the first time at this moment.
    IdleSince(u64),
}

/// The right to count in the series of a label set.
#[derive(Debug)]
pub(super) struct Lease<L: Eq + Hash> {
    labels: L,
    leases: Arc<Leases<L>>,
}

impl<L: Clone + Eq + Hash> Leases<L> {
    /// Takes a label set into use, unless there are too many. `make` gets its series: before the label set is known no
    /// sweep can take them away, and afterwards none will.
    pub(super) fn take<T>(
        self: &Arc<Self>,
        labels: &L,
        make: impl FnOnce(&L) -> T,
    ) -> Option<(Lease<L>, T)> {
        let mut uses = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let now = match uses.get(labels) {
            Some(Use::Held(count)) => *count,
            Some(Use::Idle | Use::IdleSince(_)) => 0,
            None if uses.len() < MAX_SERIES => 0,
            None => return None,
        };
        uses.insert(labels.clone(), Use::Held(now + 1));
        // Under the lock, as is the removal.
        let made = make(labels);
        drop(uses);
        let lease = Lease {
            labels: labels.clone(),
            leases: Arc::clone(self),
        };
        Some((lease, made))
    }

    /// Every label set that is known.
    pub(super) fn labels(&self) -> Vec<L> {
        let uses = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        uses.keys().cloned().collect()
    }

    /// Removes what nobody has used for [`KEEP`].
    pub(super) fn sweep(&self, now_ns: u64, mut remove: impl FnMut(&L)) {
        let mut uses = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        uses.retain(|labels, state| match *state {
            Use::Held(_) => true,
            Use::Idle => {
                *state = Use::IdleSince(now_ns);
                true
            }
            Use::IdleSince(since) => {
                let stays = u128::from(now_ns.saturating_sub(since)) < KEEP.as_nanos();
                if !stays {
                    remove(labels);
                }
                stays
            }
        });
    }
}

/// A family of counters in which nobody holds a series: one goes when it has not been counted in for a while.
#[derive(Clone, Debug)]
pub(super) struct Counts<L: Clone + Eq + Hash> {
    family: Family<L, Counter>,
    leases: Arc<Leases<L>>,
    /// What was not counted because there are too many label sets.
    dropped: Counter,
}

impl<L: Clone + Eq + Hash> Counts<L> {
    pub(super) fn new(dropped: &Counter) -> Self {
        Self {
            family: Family::default(),
            leases: Arc::default(),
            dropped: dropped.clone(),
        }
    }

    /// For the registry.
    pub(super) fn family(&self) -> Family<L, Counter> {
        self.family.clone()
    }

    /// One more, if there is room for the label set.
    pub(super) fn inc(&self, labels: &L) {
        let count = |labels: &L| self.family.get_or_create(labels).inc();
        if self.leases.take(labels, count).is_none() {
            self.dropped.inc();
        }
    }

    /// Removes what was not counted in for [`KEEP`].
    pub(super) fn sweep(&self, now_ns: u64) {
        self.leases.sweep(now_ns, |labels| {
            self.family.remove(labels);
        });
    }
}

impl<L: Eq + Hash> Drop for Lease<L> {
    fn drop(&mut self) {
        let mut uses = self.leases.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(state) = uses.get_mut(&self.labels) {
            *state = match *state {
                Use::Held(count) if count > 1 => Use::Held(count - 1),
                _ => Use::Idle,
            };
        }
    }
}
