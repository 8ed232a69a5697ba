//! The places of one worker: who is served, who waits, who is shed. `traffic::admission` decides.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use tokio::sync::{Notify, oneshot};
use tokio::task::yield_now;
use tokio::time::{Instant, sleep, timeout_at};

use super::error::Error;
use super::metrics::WorkerGauges;
use crate::net::clock;
use crate::state::traffic_policy::shaping::Priority;
use crate::traffic::admission::level::{Level, Look};
use crate::traffic::admission::queue::Queue;
use crate::traffic::admission::{Bounds, Lane, Load};

/// How often a worker is looked at that is late, or where somebody waits.
const LOOK: Duration = Duration::from_millis(5);
/// How often one is looked at that is busy, but in time: it may have many streams that live long.
const CALM_LOOK: Duration = Duration::from_millis(50);
/// Requests at once from which on a worker is looked at. With fewer nobody waits for long.
const BUSY: usize = 8;
/// Time after which a workload that sends nothing is no longer active, and a worker that has little to do is left alone.
const LAPSE_NS: u64 = 1_000_000_000;

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

    /// Takes a place for a request, and waits for it if it must, until the deadline at most.
    pub(crate) async fn enter(
        self: &Arc<Self>,
        lane: &Arc<Lane>,
        priority: Priority,
        deadline: Option<Instant>,
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
        let turn = match deadline {
            None => receiver.await,
            Some(deadline) => match timeout_at(deadline, receiver).await {
                Ok(turn) => turn,
                Err(_) => return Err(Error::Deadline),
            },
        };
        match turn {
            Ok(Turn::Place(place)) => Ok((place, Entry::Queued)),
            Ok(Turn::Late) => Err(Error::Overload("timeout")),
            Ok(Turn::Displaced) | Err(_) => Err(Error::Overload("queue-full")),
        }
    }

    /// Looks after a worker as long as it runs. The lag is how long a task of it, put behind all others that are ready,
    /// waits for its turn.
    pub(crate) async fn watch(self: &Arc<Self>, gauges: &WorkerGauges) {
        let mut level = Level::new(self.load.bounds().requests);
        gauges.show(&level);
        loop {
            self.busy.notified().await;
            let mut activity = Activity::default();
            let mut busy_ns = clock::monotonic_ns();
            let mut now_ns = busy_ns;
            while now_ns.saturating_sub(busy_ns) < LAPSE_NS {
                sleep(self.pause(&level)).await;
                let began = clock::monotonic_ns();
                yield_now().await;
                now_ns = clock::monotonic_ns();
                let workloads = activity.workloads(&self.lanes(), now_ns);
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
                if self.load.active() >= BUSY || self.load.queued() > 0 || level.is_limited() {
                    busy_ns = now_ns;
                }
            }
            self.load.set(level.places(), 1);
            self.is_watched.store(false, Ordering::Relaxed);
        }
    }

    /// Requests that wait.
    #[cfg(test)]
    pub(crate) fn queued(&self) -> usize {
        self.load.queued()
    }

    fn pause(&self, level: &Level) -> Duration {
        if level.is_calm() && self.load.queued() == 0 {
            CALM_LOOK
        } else {
            LOOK
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
    lanes: HashMap<u32, Seen>,
}

#[derive(Debug)]
struct Seen {
    /// Requests that had come.
    came: u64,
    /// When there was something new.
    last_ns: Option<u64>,
}

impl Activity {
    /// How many, as of now.
    fn workloads(&mut self, lanes: &[(u32, Arc<Lane>)], now_ns: u64) -> usize {
        for (number, lane) in lanes {
            let came = lane.came();
            let seen = self.lanes.entry(*number).or_insert(Seen {
                came,
                last_ns: None,
            });
            if seen.came != came || lane.active() > 0 {
                *seen = Seen {
                    came,
                    last_ns: Some(now_ns),
                };
            }
        }
        if self.lanes.len() > lanes.len() {
            self.lanes
                .retain(|number, _| lanes.iter().any(|(alive, _)| alive == number));
        }
        let is_recent = |seen: &&Seen| {
            seen.last_ns
                .is_some_and(|it| now_ns.saturating_sub(it) < LAPSE_NS)
        };
        self.lanes.values().filter(is_recent).count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOUNDS: Bounds = Bounds {
        requests: 100,
        workload_requests: 100,
        queued: 10,
        patience_ns: 0,
    };

    #[test]
    fn workloads_are_active_while_they_send_or_wait_for_an_answer() {
        let load = Load::new(BOUNDS);
        let lanes: Vec<(u32, Arc<Lane>)> = (0..3).map(|it| (it, Arc::default())).collect();
        let mut activity = Activity::default();
        assert!(load.enter(&lanes[0].1) && load.enter(&lanes[1].1));
        load.leave(&lanes[1].1);
        // Who has sent before the first look is not known to be active.
        assert_eq!(activity.workloads(&lanes, 1), 1);
        assert!(load.enter(&lanes[1].1));
        load.leave(&lanes[1].1);
        assert_eq!(activity.workloads(&lanes, 2), 2);
        assert_eq!(activity.workloads(&lanes, 2 + LAPSE_NS), 1);
        load.leave(&lanes[0].1);
        assert_eq!(activity.workloads(&lanes[..0], 3 + LAPSE_NS), 0);
    }

    #[tokio::test]
    async fn a_place_goes_to_who_still_waits_for_it() {
        let places = Arc::new(Places::new(Bounds {
            requests: 1,
            ..BOUNDS
        }));
        places.load.set(1, 1);
        let lane = places.lane(1);
        let enter = |places: &Arc<Places>| {
            let (places, lane) = (Arc::clone(places), Arc::clone(&lane));
            async move { places.enter(&lane, Priority::Normal, None).await }
        };
        let (held, entry) = enter(&places).await.unwrap();
        assert_eq!(entry, Entry::Direct);
        let gone = tokio::spawn(enter(&places));
        while places.load.queued() < 1 {
            yield_now().await;
        }
        let waiting = tokio::spawn(enter(&places));
        while places.load.queued() < 2 {
            yield_now().await;
        }
        gone.abort();
        assert!(gone.await.is_err());
        drop(held);
        let (held, entry) = waiting.await.unwrap().unwrap();
        assert_eq!(entry, Entry::Queued);
        assert_eq!((places.load.active(), places.load.queued()), (1, 0));
        drop(held);
        assert_eq!((places.load.active(), lane.active()), (0, 0));
    }
}
