//! The places of one worker: who is served, who waits, who is shed. `traffic::admission` decides.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use tokio::sync::{Notify, oneshot};
use tokio::task::yield_now;
use tokio::time::sleep;

use super::error::Error;
use super::metrics::WorkerGauges;
use crate::net::clock;
use crate::state::traffic_policy::shaping::Priority;
use crate::traffic::admission::level::{Level, Look};
use crate::traffic::admission::queue::Queue;
use crate::traffic::admission::{Bounds, Lane, Load};

/// How often a busy worker is looked at.
const LOOK: Duration = Duration::from_millis(5);
/// Requests at once from which on a worker is looked at. With fewer nobody waits for long.
const BUSY: usize = 8;
/// Looks after which a workload that sends nothing is no longer active, and a worker that has little to do is left
/// alone.
const LAPSE: u32 = 200;

/// The places of one worker. Only its own thread takes and gives them.
#[derive(Debug)]
pub(crate) struct Places {
    load: Load,
    queue: Mutex<Queue<oneshot::Sender<Turn>>>,
    /// By number of the workload; for connections that begin.
    lanes: Mutex<HashMap<u32, Weak<Lane>>>,
    is_watched: AtomicBool,
    busy: Notify,
}

/// What becomes of who waits.
#[derive(Debug)]
enum Turn {
    /// It is served.
    Place(Place),
    /// It has waited too long.
    Late,
    /// Somebody else waits in its stead.
    Displaced,
}

/// The right to be served, until it is dropped.
#[derive(Debug)]
pub(crate) struct Place {
    places: Arc<Places>,
    lane: Arc<Lane>,
    /// Whether it is offered to those who wait when it is given back.
    is_offered: bool,
}

/// How a request came to its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Entry {
    /// At once.
    Direct,
    /// It had to wait.
    Queued,
}

impl Places {
    pub(crate) fn new(bounds: Bounds) -> Self {
        Self {
            load: Load::new(bounds),
            queue: Mutex::default(),
            lanes: Mutex::default(),
            is_watched: AtomicBool::new(false),
            busy: Notify::new(),
        }
    }

    /// The lane of a workload, for a connection of it.
    pub(crate) fn lane(&self, workload: u32) -> Arc<Lane> {
        let mut lanes = self.lanes.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(lane) = lanes.get(&workload).and_then(Weak::upgrade) {
            return lane;
        }
        // Few workloads come and go, compared with connections.
        lanes.retain(|_, lane| lane.strong_count() > 0);
        let lane = Arc::default();
        lanes.insert(workload, Arc::downgrade(&lane));
        lane
    }

    /// Takes a place for a request, and waits for it if it must.
    pub(crate) async fn enter(
        self: &Arc<Self>,
        lane: &Arc<Lane>,
        priority: Priority,
    ) -> Result<(Place, Entry), Error> {
        let is_free = self.load.enter(lane);
        if self.load.active() >= BUSY || !is_free {
            self.watch_me();
        }
        if is_free {
            return Ok((self.place(lane), Entry::Direct));
        }
        let (sender, receiver) = oneshot::channel();
        let now_ns = clock::monotonic_ns();
        let victim = self.lock().push(&self.load, lane, priority, now_ns, sender);
        if let Some(victim) = victim {
            // It may have gone.
            drop(victim.send(Turn::Displaced));
        }
        self.dispatch();
        match receiver.await {
            Ok(Turn::Place(place)) => Ok((place, Entry::Queued)),
            Ok(Turn::Late) => Err(Error::Overload("timeout")),
            Ok(Turn::Displaced) | Err(_) => Err(Error::Overload("queue-full")),
        }
    }

    /// Looks after a worker as long as it runs. The lag is how long a task of it, put behind all others that are ready,
    /// waits for its turn.
    pub(crate) async fn watch(self: &Arc<Self>, gauges: &WorkerGauges) {
        let mut level = Level::new(self.load.bounds().requests);
        loop {
            self.busy.notified().await;
            let mut activity = Activity::default();
            let mut quiet = 0;
            while quiet < LAPSE {
                sleep(LOOK).await;
                let began = clock::monotonic_ns();
                yield_now().await;
                let now_ns = clock::monotonic_ns();
                let workloads = activity.workloads(&self.lanes());
                level.look(&Look {
                    now_ns,
                    lag_ns: now_ns.saturating_sub(began),
                    active: self.load.active(),
                    queued: self.load.queued(),
                    workloads,
                });
                self.load.set(level.places(), workloads);
                self.expire(now_ns);
                self.dispatch();
                gauges.show(&level);
                let is_quiet =
                    self.load.active() < BUSY && self.load.queued() == 0 && !level.is_limited();
                quiet = if is_quiet { quiet + 1 } else { 0 };
            }
            self.load.set(level.places(), 1);
            self.is_watched.store(false, Ordering::Relaxed);
        }
    }

    fn watch_me(&self) {
        if !self.is_watched.load(Ordering::Relaxed)
            && !self.is_watched.swap(true, Ordering::Relaxed)
        {
            self.busy.notify_one();
        }
    }

    /// Gives free places to those who wait.
    fn dispatch(self: &Arc<Self>) {
        while self.load.queued() > 0 {
            // Not under the lock: who is gone gives the place back at once.
            let next = self.lock().next(&self.load);
            let Some((lane, waiter)) = next else { return };
            if let Err(Turn::Place(mut place)) = waiter.send(Turn::Place(self.place(&lane))) {
                place.is_offered = false;
            }
        }
    }

    fn expire(&self, now_ns: u64) {
        if self.load.queued() == 0 {
            return;
        }
        let late = |waiter: oneshot::Sender<Turn>| drop(waiter.send(Turn::Late));
        self.lock()
            .expire(&self.load, now_ns, oneshot::Sender::is_closed, late);
    }

    fn lanes(&self) -> Vec<(u32, Arc<Lane>)> {
        let lanes = self.lanes.lock().unwrap_or_else(PoisonError::into_inner);
        let alive = lanes
            .iter()
            .filter_map(|(number, lane)| Some((*number, lane.upgrade()?)));
        alive.collect()
    }

    fn lock(&self) -> MutexGuard<'_, Queue<oneshot::Sender<Turn>>> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn place(self: &Arc<Self>, lane: &Arc<Lane>) -> Place {
        Place {
            places: Arc::clone(self),
            lane: Arc::clone(lane),
            is_offered: true,
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.places.load.leave(&self.lane);
        if self.is_offered {
            self.places.dispatch();
        }
    }
}

/// Which workloads have sent something lately.
#[derive(Debug, Default)]
struct Activity {
    looks: u32,
    lanes: HashMap<u32, Seen>,
}

#[derive(Debug)]
struct Seen {
    /// Requests that had come.
    came: u64,
    /// At which look there was something new.
    last: Option<u32>,
}

impl Activity {
    /// How many, after one more look.
    fn workloads(&mut self, lanes: &[(u32, Arc<Lane>)]) -> usize {
        self.looks = self.looks.wrapping_add(1);
        let looks = self.looks;
        for (number, lane) in lanes {
            let came = lane.came();
            let seen = self
                .lanes
                .entry(*number)
                .or_insert(Seen { came, last: None });
            if seen.came != came || lane.active() > 0 {
                *seen = Seen {
                    came,
                    last: Some(looks),
                };
            }
        }
        if self.lanes.len() > lanes.len() {
            self.lanes
                .retain(|number, _| lanes.iter().any(|(alive, _)| alive == number));
        }
        let is_recent = |seen: &&Seen| seen.last.is_some_and(|it| looks.wrapping_sub(it) < LAPSE);
        self.lanes.values().filter(is_recent).count()
    }
}
