//! A simulated worker with a greedy workload and a modest one; and who goes first, one by one.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use super::level::{Level, Look};
use super::queue::Queue;
use super::{Bounds, Lane, Load};
use crate::state::traffic_policy::shaping::Priority;

const BOUNDS: Bounds = Bounds {
    requests: 10_000,
    workload_requests: 10_000,
    queued: 4096,
    patience_ns: 1_000_000_000,
};

const MICROSECOND: u64 = 1_000;
/// All come at once in the beginning; that is not what is measured.
const SECOND: u64 = 1_000_000_000;

/// What the worker has to do.
enum Step {
    /// A request of a workload has come, at this time.
    Arrival(usize, u64),
    /// It has been admitted.
    Forward(usize, u64),
    /// The endpoint has answered.
    Reply(usize, u64),
    /// A look at the lag, that began then.
    Look(u64),
}

/// One worker with a queue of ready tasks, as a runtime has it.
struct Worker {
    load: Load,
    level: Level,
    queue: Queue<(usize, u64)>,
    lanes: [Arc<Lane>; 2],
    ready: VecDeque<Step>,
    /// What becomes ready later.
    later: BTreeMap<u64, Vec<Step>>,
    now: u64,
    is_fair: bool,
    served: [u64; 2],
    latencies: Vec<u64>,
}

impl Worker {
    /// Runs for so long with so many requests of the first workload at all times, and one of the second every 10 ms.
    fn run(is_fair: bool, greedy: usize, answer_us: u64, millis: u64) -> Self {
        let mut worker = Self {
            load: Load::new(BOUNDS),
            level: Level::new(BOUNDS.requests),
            queue: Queue::default(),
            lanes: Default::default(),
            ready: (0..greedy).map(|_| Step::Arrival(0, 0)).collect(),
            later: BTreeMap::new(),
            now: 0,
            is_fair,
            served: [0; 2],
            latencies: Vec::new(),
        };
        for index in 0..millis / 10 {
            let at = index * 10_000 * MICROSECOND + 3;
            worker.at(at, Step::Arrival(1, at));
        }
        for index in 0..millis / 5 {
            let at = index * 5_000 * MICROSECOND + 1;
            worker.at(at, Step::Look(at));
        }
        while worker.now < millis * 1_000_000 {
            worker.turn(answer_us * MICROSECOND);
        }
        worker
    }

    fn at(&mut self, time: u64, step: Step) {
        self.later.entry(time).or_default().push(step);
    }

    fn turn(&mut self, answer_ns: u64) {
        let due = self.later.range(..=self.now).next().map(|(time, _)| *time);
        if let Some(time) = due {
            self.ready.extend(self.later.remove(&time).unwrap());
            return;
        }
        let Some(step) = self.ready.pop_front() else {
            self.now = *self.later.keys().next().unwrap();
            return;
        };
        match step {
            Step::Arrival(who, since) => {
                self.now += 5 * MICROSECOND;
                if !self.is_fair || self.load.enter(&self.lanes[who]) {
                    self.ready.push_back(Step::Forward(who, since));
                } else {
                    let lane = Arc::clone(&self.lanes[who]);
                    let entry = (who, since);
                    let shed =
                        self.queue
                            .push(&self.load, &lane, Priority::Normal, self.now, entry);
                    assert!(shed.is_none());
                    self.dispatch();
                }
            }
            Step::Forward(who, since) => {
                self.now += 10 * MICROSECOND;
                self.at(self.now + answer_ns, Step::Reply(who, since));
            }
            Step::Reply(who, since) => {
                self.now += 10 * MICROSECOND;
                self.served[who] += 1;
                if self.is_fair {
                    self.load.leave(&self.lanes[who]);
                    self.dispatch();
                }
                if who == 0 {
                    self.at(self.now + 20 * MICROSECOND, Step::Arrival(0, self.now));
                } else if since > SECOND {
                    self.latencies.push(self.now - since);
                }
            }
            Step::Look(began) => {
                self.level.look(&Look {
                    now_ns: self.now,
                    lag_ns: self.now - began,
                    active: self.load.active(),
                    queued: self.load.queued(),
                    workloads: 2,
                });
                self.load.set(self.level.places(), 2);
                self.dispatch();
            }
        }
    }

    fn dispatch(&mut self) {
        while let Some((_, (who, since))) = self.queue.next(&self.load) {
            self.ready.push_back(Step::Forward(who, since));
        }
    }

    fn p99_us(&mut self) -> u64 {
        self.latencies.sort_unstable();
        self.latencies[self.latencies.len() * 99 / 100] / MICROSECOND
    }
}

#[test]
fn a_greedy_workload_does_not_delay_a_modest_one_and_loses_little() {
    for (greedy, answer_us) in [(50, 100), (500, 100), (2_000, 300), (1_000, 20_000)] {
        let mut unfair = Worker::run(false, greedy, answer_us, 4_000);
        let mut fair = Worker::run(true, greedy, answer_us, 4_000);
        let (before, after) = (unfair.p99_us(), fair.p99_us());
        let alone = answer_us + 25;
        // It comes round four times; each may take twice what is aimed at.
        assert!(
            after <= alone + 4_000,
            "{greedy} {answer_us}: {before} {after}"
        );
        assert!(
            answer_us > 1_000 || greedy < 500 || before >= after + 4_000,
            "{greedy} {answer_us}: {before} {after}"
        );
        assert!(fair.served[1] >= 397, "{}", fair.served[1]);
        let (with, without) = (fair.served[0], unfair.served[0]);
        assert!(
            with * 10 >= without * 8,
            "{greedy} {answer_us}: {with} of {without}"
        );
    }
}

#[test]
fn one_workload_alone_is_not_limited() {
    let mut level = Level::new(100);
    for index in 0..1_000 {
        level.look(&Look {
            now_ns: index * 5_000_000,
            lag_ns: 50_000_000,
            active: 90,
            queued: 0,
            workloads: 1,
        });
        assert!(!level.is_limited());
    }
}

#[test]
fn a_limit_goes_when_there_is_no_need_any_more() {
    let mut level = Level::new(1_000);
    let look = Look {
        now_ns: 0,
        lag_ns: 10_000_000,
        active: 500,
        queued: 0,
        workloads: 2,
    };
    for _ in 0..100 {
        level.look(&look);
    }
    assert_eq!(level.places(), 4);
    for index in 0..400 {
        level.look(&Look {
            now_ns: index * 5_000_000,
            lag_ns: 100_000,
            active: 2,
            ..look
        });
    }
    assert!(!level.is_limited());
}

fn small(requests: usize, queued: usize) -> Load {
    Load::new(Bounds {
        requests,
        workload_requests: requests,
        queued,
        patience_ns: 1_000,
    })
}

#[test]
fn who_is_below_its_share_enters_even_if_all_places_are_taken() {
    let load = small(4, 10);
    let (greedy, modest) = (Lane::default(), Lane::default());
    load.set(4, 2);
    assert!((0..4).all(|_| load.enter(&greedy)));
    assert!(!load.enter(&greedy));
    assert!(load.enter(&modest) && load.enter(&modest));
    assert!(!load.enter(&modest));
    assert_eq!((load.active(), greedy.active(), modest.active()), (6, 4, 2));
    assert_eq!(greedy.came(), 5);
}

#[test]
fn a_place_goes_to_who_holds_fewest_then_by_priority_then_by_age() {
    let load = small(4, 10);
    let lanes: [Arc<Lane>; 2] = Default::default();
    let mut queue = Queue::default();
    for lane in [0, 0, 0, 1] {
        assert!(load.enter(&lanes[lane]));
    }
    load.set(4, 4);
    for (time, (lane, priority, name)) in [
        (0, Priority::Low, "low"),
        (0, Priority::Normal, "first"),
        (0, Priority::Normal, "second"),
        (0, Priority::High, "high"),
        (1, Priority::Low, "modest"),
    ]
    .into_iter()
    .enumerate()
    {
        let time = u64::try_from(time).unwrap();
        assert!(
            queue
                .push(&load, &lanes[lane], priority, time, name)
                .is_none()
        );
    }
    assert!(queue.next(&load).is_none(), "there is no place");
    let mut order = Vec::new();
    while !queue.is_empty() {
        load.leave(&lanes[0]);
        order.push(queue.next(&load).unwrap().1);
    }
    assert_eq!(order, ["modest", "high", "first", "second", "low"]);
    assert_eq!(load.queued(), 0);
}

#[test]
fn a_full_queue_sheds_the_lowest_priority_of_who_has_most() {
    let load = small(1, 4);
    let lanes: [Arc<Lane>; 2] = Default::default();
    let mut queue = Queue::default();
    let mut push = |lane: usize, priority, name| queue.push(&load, &lanes[lane], priority, 0, name);
    for name in ["a", "b", "c"] {
        assert_eq!(push(0, Priority::Normal, name), None);
    }
    assert_eq!(push(1, Priority::Low, "d"), None);
    assert_eq!(push(0, Priority::Normal, "e"), Some("d"), "lowest first");
    assert_eq!(
        push(1, Priority::Normal, "f"),
        Some("e"),
        "then who has most"
    );
    assert_eq!(push(1, Priority::Low, "g"), Some("g"), "or who comes");
    assert_eq!(push(1, Priority::High, "h"), Some("c"));
    assert_eq!(load.queued(), 4);
}

#[test]
fn nobody_waits_longer_than_told_and_who_is_gone_does_not_wait() {
    let load = small(1, 10);
    let lane: Arc<Lane> = Arc::default();
    let mut queue = Queue::default();
    for (time, name) in [(0, "old"), (500, "gone"), (600, "new")] {
        assert!(
            queue
                .push(&load, &lane, Priority::Normal, time, name)
                .is_none()
        );
    }
    let mut out = Vec::new();
    queue.expire(&load, 1_000, |name| *name == "gone", |name| out.push(name));
    assert_eq!(out, ["old", "gone"]);
    assert_eq!((queue.len(), load.queued()), (1, 1));
}
