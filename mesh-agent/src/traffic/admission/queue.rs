//! Those who wait for a place, and who of them gets the next one.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::{Lane, Load};
use crate::state::traffic_policy::shaping::Priority;

/// Requests that wait at one worker, by workload and priority. `T` wakes one of them.
#[derive(Debug)]
pub struct Queue<T> {
    lanes: Vec<Waiting<T>>,
    length: usize,
}

#[derive(Debug)]
struct Waiting<T> {
    lane: Arc<Lane>,
    /// By priority, lowest first; each in order of arrival.
    queues: [VecDeque<Entry<T>>; PRIORITIES],
}

#[derive(Debug)]
struct Entry<T> {
    since_ns: u64,
    waker: T,
}

const PRIORITIES: usize = 3;

impl<T> Default for Queue<T> {
    fn default() -> Self {
        Self {
            lanes: Vec::new(),
            length: 0,
        }
    }
}

impl<T> Queue<T> {
    /// Requests that wait.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.length
    }

    /// Whether nobody waits.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// Puts a request into the queue. Who has to go for it, if the queue is full, is given back: of the lowest priority
    /// among all, one of the workload that has the most of these, and of them the last; that may be the new one.
    pub fn push(
        &mut self,
        load: &Load,
        lane: &Arc<Lane>,
        priority: Priority,
        now_ns: u64,
        waker: T,
    ) -> Option<T> {
        let index = self.lane(lane);
        let entry = Entry {
            since_ns: now_ns,
            waker,
        };
        let queue = self
            .lanes
            .get_mut(index)
            .and_then(|it| it.queues.get_mut(priority as usize));
        let Some(queue) = queue else {
            return Some(entry.waker);
        };
        queue.push_back(entry);
        self.length += 1;
        let victim = (self.length > load.bounds().queued)
            .then(|| self.shed())
            .flatten();
        self.tell(load);
        victim
    }

    /// Takes a place for the next who gets one. Its waker is given back, and the lane in which the place is taken.
    pub fn next(&mut self, load: &Load) -> Option<(Arc<Lane>, T)> {
        let waiting = self
            .lanes
            .iter_mut()
            .filter(|it| load.has_room(&it.lane))
            .min_by_key(|it| (it.lane.active(), it.since()))?;
        let entry = waiting
            .queues
            .iter_mut()
            .rev()
            .find_map(VecDeque::pop_front)?;
        let lane = Arc::clone(&waiting.lane);
        self.length -= 1;
        self.tidy();
        lane.add();
        load.active.fetch_add(1, Ordering::Relaxed);
        self.tell(load);
        Some((lane, entry.waker))
    }

    /// Takes out who has waited too long, or is gone.
    pub fn expire(
        &mut self,
        load: &Load,
        now_ns: u64,
        is_gone: impl Fn(&T) -> bool,
        mut out: impl FnMut(T),
    ) {
        let patience = load.bounds().patience_ns;
        let is_over = |entry: &Entry<T>| {
            now_ns.saturating_sub(entry.since_ns) >= patience || is_gone(&entry.waker)
        };
        for queue in self.lanes.iter_mut().flat_map(|it| &mut it.queues) {
            while let Some(entry) = queue.pop_front_if(|entry| is_over(entry)) {
                self.length -= 1;
                out(entry.waker);
            }
        }
        self.tidy();
        self.tell(load);
    }

    fn lane(&mut self, lane: &Arc<Lane>) -> usize {
        let known = self.lanes.iter().position(|it| Arc::ptr_eq(&it.lane, lane));
        known.unwrap_or_else(|| {
            self.lanes.push(Waiting {
                lane: Arc::clone(lane),
                queues: Default::default(),
            });
            self.lanes.len() - 1
        })
    }

    fn shed(&mut self) -> Option<T> {
        let victim = (0..PRIORITIES).find_map(|priority| {
            self.lanes
                .iter_mut()
                .filter_map(|it| it.queues.get_mut(priority))
                .max_by_key(|queue| queue.len())?
                .pop_back()
        })?;
        self.length -= 1;
        self.tidy();
        Some(victim.waker)
    }

    /// Workloads of which nobody waits are not kept.
    fn tidy(&mut self) {
        self.lanes
            .retain(|it| it.queues.iter().any(|queue| !queue.is_empty()));
    }

    /// The number is read without the queue.
    fn tell(&self, load: &Load) {
        load.queued.store(self.length, Ordering::Relaxed);
    }
}

impl<T> Waiting<T> {
    /// Since when the first of the highest priority waits.
    fn since(&self) -> Option<u64> {
        let first = self.queues.iter().rev().find_map(VecDeque::front);
        first.map(|entry| entry.since_ns)
    }
}
