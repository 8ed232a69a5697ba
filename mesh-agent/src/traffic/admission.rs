//! Who may be served at once when a worker has more to do than it can: by share, and by priority.
//!
//! A request that is served holds a place. While there are places, everybody gets one; that costs two additions. When
//! there are none left, a workload still gets one as long as it holds less than its share, which is all places divided
//! by the workloads that are active; who holds more waits. Places that become free go to the workload that holds the
//! fewest (max-min fairness). How many places there are is found by [`level`], from how long the worker takes to come
//! round. So one workload cannot delay another by more than the worker's own time to come round, and nobody waits while
//! there is nothing to wait for.

pub mod level;
pub mod queue;

#[cfg(test)]
mod tests;

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

/// What bounds the requests of one worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// Requests that are served at once; at least 1.
    pub requests: usize,
    /// The same, of one workload; at least 1.
    pub workload_requests: usize,
    /// Requests that wait.
    pub queued: usize,
    /// How long one waits, in nanoseconds.
    pub patience_ns: u64,
}

/// The requests of one workload at one worker.
#[derive(Debug, Default)]
pub struct Lane {
    /// In the low half those under way, in the high half those that ever came, modulo 2^32.
    counts: AtomicU64,
}

impl Lane {
    /// Requests under way.
    pub fn active(&self) -> usize {
        usize::try_from(self.counts.load(Ordering::Relaxed) & ACTIVE).unwrap_or(usize::MAX)
    }

    /// Requests that ever came, modulo 2^32.
    pub fn came(&self) -> u64 {
        self.counts.load(Ordering::Relaxed) >> 32
    }

    fn add(&self) -> usize {
        let before = self.counts.fetch_add(CAME | 1, Ordering::Relaxed);
        usize::try_from(before & ACTIVE).unwrap_or(usize::MAX) + 1
    }

    fn remove(&self) {
        self.counts.fetch_sub(1, Ordering::Relaxed);
    }
}

const ACTIVE: u64 = u32::MAX as u64;
const CAME: u64 = 1 << 32;

/// The requests of one worker.
#[derive(Debug)]
pub struct Load {
    bounds: Bounds,
    active: AtomicUsize,
    places: AtomicUsize,
    share: AtomicUsize,
    queued: AtomicUsize,
}

impl Load {
    /// Nothing to do.
    #[must_use]
    pub const fn new(bounds: Bounds) -> Self {
        Self {
            active: AtomicUsize::new(0),
            places: AtomicUsize::new(bounds.requests),
            share: AtomicUsize::new(bounds.workload_requests),
            queued: AtomicUsize::new(0),
            bounds,
        }
    }

    /// Takes a place for one more request, if there is one for this workload.
    pub fn enter(&self, lane: &Lane) -> bool {
        let mine = lane.add();
        let all = self.active.fetch_add(1, Ordering::Relaxed) + 1;
        // Who comes now does not go before those who wait.
        let is_free = all <= self.places() && self.queued() == 0;
        let is_shared = mine <= self.share.load(Ordering::Relaxed);
        if mine <= self.bounds.workload_requests && (is_free || is_shared) {
            return true;
        }
        lane.remove();
        self.active.fetch_sub(1, Ordering::Relaxed);
        false
    }

    /// Gives a place back. Whoever does so offers it to those who wait, if there are any.
    pub fn leave(&self, lane: &Lane) {
        lane.remove();
        self.active.fetch_sub(1, Ordering::Relaxed);
    }

    /// Sets how many places there are, and among how many workloads they are divided.
    pub fn set(&self, places: usize, workloads: usize) {
        let places = places.clamp(1, self.bounds.requests.max(1));
        self.places.store(places, Ordering::Relaxed);
        let share = (places / workloads.max(1)).max(1);
        self.share.store(share, Ordering::Relaxed);
    }

    /// What it was made with.
    #[must_use]
    pub const fn bounds(&self) -> &Bounds {
        &self.bounds
    }

    /// Requests under way.
    pub fn active(&self) -> usize {
        self.active.load(Ordering::Relaxed)
    }

    /// Requests that wait.
    pub fn queued(&self) -> usize {
        self.queued.load(Ordering::Relaxed)
    }

    /// Requests that may be under way.
    pub fn places(&self) -> usize {
        self.places.load(Ordering::Relaxed)
    }

    /// Whether one more of a workload could enter, those who wait aside.
    fn has_room(&self, lane: &Lane) -> bool {
        let mine = lane.active();
        let is_free = self.active() < self.places();
        let is_shared = mine < self.share.load(Ordering::Relaxed);
        mine < self.bounds.workload_requests && (is_free || is_shared)
    }
}
