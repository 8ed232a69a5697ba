//! A simulated service: so many requests at once take their time, more take longer.

use std::collections::BinaryHeap;

use super::Concurrency;
use crate::state::traffic_policy::shaping::AdaptiveConcurrency;

const MILLISECOND: u64 = 1_000_000;

/// Clients that always have a request for a service that serves `parallel` at once.
struct Simulation {
    concurrency: Concurrency,
    now: u64,
    clients: usize,
    parallel: u64,
    service_ns: u64,
    /// End and begin of what is under way.
    active: BinaryHeap<std::cmp::Reverse<(u64, u64)>>,
    refused: u64,
}

impl Simulation {
    fn new(clients: usize, parallel: u64, baseline_interval: &str) -> Self {
        let config: AdaptiveConcurrency = serde_json::from_value(serde_json::json!({
            "baselineInterval": baseline_interval,
        }))
        .unwrap();
        Self {
            concurrency: Concurrency::new(&config, 0),
            now: 1_000 * MILLISECOND,
            clients,
            parallel,
            service_ns: 5 * MILLISECOND,
            active: BinaryHeap::new(),
            refused: 0,
        }
    }

    fn run(&mut self, millis: u64) {
        let end = self.now + millis * MILLISECOND;
        while self.now < end {
            while self.active.len() < self.clients {
                if !self.concurrency.enter(self.now) {
                    self.refused += 1;
                    break;
                }
                let load = u64::try_from(self.active.len()).unwrap() + 1;
                let latency = self.service_ns * load.max(self.parallel) / self.parallel;
                let done = self.now + latency;
                self.active.push(std::cmp::Reverse((done, self.now)));
            }
            let std::cmp::Reverse((done, began)) = self.active.pop().unwrap();
            self.now = done;
            self.concurrency.leave(began, done, Some(done - began));
        }
    }
}

#[test]
fn the_knee_is_found_and_followed() {
    let mut simulation = Simulation::new(600, 40, "1h");
    // The first samples come from a quiet time.
    simulation.clients = 4;
    simulation.run(500);
    simulation.clients = 600;
    simulation.run(5_000);
    let limit = simulation.concurrency.limit();
    assert!((40..=80).contains(&limit), "{limit}");
    simulation.parallel = 10;
    simulation.run(5_000);
    let limit = simulation.concurrency.limit();
    assert!((10..=25).contains(&limit), "{limit}");
    simulation.parallel = 100;
    simulation.run(5_000);
    let limit = simulation.concurrency.limit();
    assert!((100..=200).contains(&limit), "{limit}");
}

#[test]
fn a_baseline_that_is_too_high_is_corrected() {
    let mut simulation = Simulation::new(4, 40, "10s");
    simulation.service_ns *= 10;
    simulation.run(2_000);
    simulation.service_ns /= 10;
    simulation.clients = 600;
    simulation.run(5_000);
    assert!(simulation.concurrency.limit() > 300, "it knows no better");
    simulation.run(15_000);
    let limit = simulation.concurrency.limit();
    assert!((40..=80).contains(&limit), "{limit}");
}

#[test]
fn a_service_that_became_slower_for_good_gets_its_requests_back() {
    let mut simulation = Simulation::new(100, 50, "1h");
    simulation.clients = 4;
    simulation.run(500);
    simulation.clients = 100;
    simulation.service_ns *= 10;
    simulation.run(20_000);
    let limit = simulation.concurrency.limit();
    assert!((50..=100).contains(&limit), "{limit}");
}

#[test]
fn a_limit_that_nobody_reaches_does_not_grow() {
    let mut simulation = Simulation::new(600, 10, "1h");
    simulation.clients = 4;
    simulation.run(500);
    simulation.clients = 600;
    simulation.run(5_000);
    let limit = simulation.concurrency.limit();
    simulation.clients = 2;
    simulation.run(60_000);
    assert!(simulation.concurrency.limit() <= limit);
}

#[test]
fn nobody_is_refused_below_the_limit_and_counts_come_back_to_zero() {
    let mut simulation = Simulation::new(3, 10, "100ms");
    simulation.run(10_000);
    assert_eq!(simulation.refused, 0);
    while let Some(std::cmp::Reverse((done, began))) = simulation.active.pop() {
        simulation.concurrency.leave(began, done, None);
    }
    assert_eq!(simulation.concurrency.active(), 0);
}

#[test]
fn a_limit_that_nobody_can_pass_goes_by_itself() {
    let mut simulation = Simulation::new(4, 40, "10s");
    simulation.run(9_000);
    let Simulation { concurrency, .. } = &simulation;
    let mut now = simulation.now + 2_000 * MILLISECOND;
    for _ in 0..10 {
        assert!(concurrency.enter(now));
    }
    // The latency without load is to be measured, and none of the others is answered for long.
    concurrency.leave(now, now + MILLISECOND, Some(MILLISECOND));
    assert_eq!(concurrency.limit(), 3);
    let mut refused = 0;
    while !concurrency.enter(now) {
        now += 10 * MILLISECOND;
        refused += 1;
        assert!(refused < 1_000, "nobody is let in any more");
    }
    assert!(refused > 100, "{refused}");
}
