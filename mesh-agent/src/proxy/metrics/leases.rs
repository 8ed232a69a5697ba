//! Which label sets are in use. There is a most of them, and those that nobody uses any more go after a while.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;

/// Label sets that one family has at most, one beside that all share who find no room.
pub(super) const MAX_SERIES: usize = 10_000;

/// How long a series stays that nobody can count in any more: long enough to be scraped with its last value.
pub(super) const KEEP: Duration = Duration::from_mins(10);

/// The label sets of families that are always used together.
#[derive(Debug)]
pub(super) struct Leases<L> {
    table: Mutex<Table<L>>,
    /// Who has a label set, where one may not have them all.
    holder: fn(&L) -> Option<u64>,
    /// Times that there was more room than before.
    freed: AtomicU64,
}

#[derive(Debug)]
struct Table<L> {
    uses: HashMap<L, Use>,
    /// How many label sets each has who may not have them all.
    held: HashMap<u64, usize>,
}

/// Somebody for whose label set there was no room, until there is more of it.
#[derive(Debug)]
pub(super) struct Refused(AtomicU64);

impl<L> Default for Leases<L> {
    fn default() -> Self {
        Self::among(|_| None)
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

impl<L> Leases<L> {
    /// Each holder may have as many label sets as are still free: one alone gets half of them, and whoever comes later
    /// still gets some (dynamic thresholds, as switches share their buffers: Choudhury and Hahne, 1998).
    pub(super) fn among(holder: fn(&L) -> Option<u64>) -> Self {
        let table = Table {
            uses: HashMap::new(),
            held: HashMap::new(),
        };
        Self {
            table: Mutex::new(table),
            holder,
            freed: AtomicU64::new(0),
        }
    }

    /// Remembers a refusal; asked for before the try, so that no room that comes meanwhile is missed.
    pub(super) fn refused(&self) -> Refused {
        Refused(AtomicU64::new(self.freed.load(Ordering::Relaxed)))
    }

    /// Whether there is more room than at the refusal, or when this was last asked.
    pub(super) fn is_worth_another_try(&self, Refused(seen): &Refused) -> bool {
        let freed = self.freed.load(Ordering::Relaxed);
        seen.load(Ordering::Relaxed) != freed && seen.swap(freed, Ordering::Relaxed) != freed
    }

    fn lock(&self) -> MutexGuard<'_, Table<L>> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<L: Clone + Eq + Hash> Leases<L> {
    /// Takes a label set into use, unless there are too many. `make` gets its series: before the label set is known no
    /// series is made, and none is removed while it is in use.
    pub(super) fn take<T>(
        self: &Arc<Self>,
        labels: &L,
        make: impl FnOnce(&L) -> T,
    ) -> Option<(Lease<L>, T)> {
        if !self.lock().hold(labels, self.holder) {
            return None;
        }
        let lease = Lease {
            labels: labels.clone(),
            leases: Arc::clone(self),
        };
        // Not under the lock: the family may be busy.
        Some((lease, make(labels)))
    }

    /// Every label set that is known.
    pub(super) fn labels(&self) -> Vec<L> {
        self.lock().uses.keys().cloned().collect()
    }

    /// Removes what nobody has used for [`KEEP`].
    pub(super) fn sweep(&self, now_ns: u64, mut remove: impl FnMut(&L)) {
        let mut table = self.lock();
        let Table { uses, held } = &mut *table;
        let before = uses.len();
        uses.retain(|labels, state| match *state {
            Use::Held(_) => true,
            Use::Idle => {
                *state = Use::IdleSince(now_ns);
                true
            }
            Use::IdleSince(since) => {
                let stays = u128::from(now_ns.saturating_sub(since)) < KEEP.as_nanos();
                if !stays {
                    // Under the lock: who takes it into use again must not get what is about to go.
                    remove(labels);
                    release(held, (self.holder)(labels));
                }
                stays
            }
        });
        if uses.len() < before {
            self.freed.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl<L: Clone + Eq + Hash> Table<L> {
    /// One more who can count in a label set; tells whether there is room for it.
    fn hold(&mut self, labels: &L, holder: fn(&L) -> Option<u64>) -> bool {
        if let Some(state) = self.uses.get_mut(labels) {
            *state = match *state {
                Use::Held(count) => Use::Held(count + 1),
                Use::Idle | Use::IdleSince(_) => Use::Held(1),
            };
            return true;
        }
        let free = MAX_SERIES.saturating_sub(self.uses.len());
        let holder = holder(labels);
        let has = holder.map_or(0, |it| self.held.get(&it).copied().unwrap_or(0));
        if has >= free {
            return false;
        }
        if let Some(holder) = holder {
            self.held.insert(holder, has + 1);
        }
        self.uses.insert(labels.clone(), Use::Held(1));
        true
    }
}

fn release(held: &mut HashMap<u64, usize>, holder: Option<u64>) {
    let Some(holder) = holder else { return };
    match held.get_mut(&holder) {
        Some(count) if *count > 1 => *count -= 1,
        _ => drop(held.remove(&holder)),
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
        if let Some(state) = self.leases.lock().uses.get_mut(&self.labels) {
            *state = match *state {
                Use::Held(count) if count > 1 => Use::Held(count - 1),
                _ => Use::Idle,
            };
        }
    }
}
