//! How many requests a service should have at once: found by the gradient of its latency.
//!
//! After the adaptive concurrency filter of Envoy (its documentation, "Gradient Controller"): every interval the median
//! latency is compared with that of a service without load, and the limit follows their ratio, with a square root as
//! headroom. From Netflix's concurrency-limits comes that a limit which nobody reaches does not grow. Unlike Envoy it
//! starts with the highest limit, and the lowest latency of its first samples: a policy that comes into force under load
//! refuses nobody before there is a reason.

mod histogram;

#[cfg(test)]
mod tests;

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use crate::state::traffic_policy::shaping::AdaptiveConcurrency;
use histogram::Histogram;

/// The requests of one service, shared by all threads.
#[derive(Debug)]
pub struct Concurrency {
    min: u32,
    max: u32,
    interval_ns: u64,
    baseline_interval_ns: u64,
    active: AtomicU32,
    /// The most that were active in this window.
    peak: AtomicU32,
    limit: AtomicU32,
    latencies: Histogram,
    /// When the window ends; [`CLAIMED`] while one thread closes it. Only that thread writes what stands below.
    window_end_ns: AtomicU64,
    /// Latency without load; zero: not known yet.
    baseline_ns: AtomicU64,
    next_baseline_ns: AtomicU64,
    /// Whether the limit is low to measure the latency without load; since when.
    is_measuring: AtomicBool,
    measuring_since_ns: AtomicU64,
    /// The limit before the measurement.
    limit_before: AtomicU32,
    /// Windows in a row that ended with the lowest limit.
    windows_at_min: AtomicU32,
}

impl Concurrency {
    /// Knows nothing yet. `jitter` is a random number: services do not measure all at once.
    #[must_use]
    pub fn new(config: &AdaptiveConcurrency, jitter: u32) -> Self {
        let max = config.max_requests.max(1);
        let interval = config.baseline_interval.as_nanos().max(1);
        let part = u64::try_from((u128::from(interval) * u128::from(jitter) * 15 / 100) >> 32);
        Self {
            min: config.min_requests.clamp(1, max),
            max,
            interval_ns: config.interval.as_nanos().max(1),
            baseline_interval_ns: interval.saturating_add(part.unwrap_or(0)),
            active: AtomicU32::new(0),
            peak: AtomicU32::new(0),
            limit: AtomicU32::new(max),
            latencies: Histogram::default(),
            window_end_ns: AtomicU64::new(0),
            baseline_ns: AtomicU64::new(0),
            next_baseline_ns: AtomicU64::new(0),
            is_measuring: AtomicBool::new(false),
            measuring_since_ns: AtomicU64::new(0),
            limit_before: AtomicU32::new(max),
            windows_at_min: AtomicU32::new(0),
        }
    }

    /// One more request, if there is room.
    pub fn enter(&self, now_ns: u64) -> bool {
        let active = self
            .active
            .fetch_add(1, Ordering::Relaxed)
            .saturating_add(1);
        if active > self.limit.load(Ordering::Relaxed) {
            self.active.fetch_sub(1, Ordering::Relaxed);
            // Perhaps nobody leaves for long: the limit must not stay for want of that.
            self.look(now_ns);
            return false;
        }
        if active > self.peak.load(Ordering::Relaxed) {
            self.peak.fetch_max(active, Ordering::Relaxed);
        }
        true
    }

    /// A request that began at `started_ns` is answered after `latency_ns`, or has ended without an answer.
    pub fn leave(&self, started_ns: u64, now_ns: u64, latency_ns: Option<u64>) {
        self.active.fetch_sub(1, Ordering::Relaxed);
        // Who began before the limit was low has seen the load.
        let is_valid = !self.is_measuring.load(Ordering::Relaxed)
            || started_ns >= self.measuring_since_ns.load(Ordering::Relaxed);
        if let Some(latency) = latency_ns.filter(|_| is_valid) {
            self.latencies.record(latency);
        }
        self.look(now_ns);
    }

    /// Closes the window if it is over.
    fn look(&self, now_ns: u64) {
        let end = self.window_end_ns.load(Ordering::Relaxed);
        if now_ns < end {
            return;
        }
        let claim =
            self.window_end_ns
                .compare_exchange(end, CLAIMED, Ordering::Acquire, Ordering::Relaxed);
        if claim.is_ok() {
            // The first request opens the first window.
            if end != 0 {
                self.close_window(now_ns);
            }
            self.peak
                .store(self.active.load(Ordering::Relaxed), Ordering::Relaxed);
            let next = now_ns.saturating_add(self.interval_ns);
            self.window_end_ns.store(next, Ordering::Release);
        }
    }

    /// The limit at the moment.
    pub fn limit(&self) -> u32 {
        self.limit.load(Ordering::Relaxed)
    }

    /// Requests that are not answered yet.
    pub fn active(&self) -> u32 {
        self.active.load(Ordering::Relaxed)
    }

    fn close_window(&self, now_ns: u64) {
        if self.is_measuring.load(Ordering::Relaxed) {
            return self.close_measurement(now_ns);
        }
        let baseline = self.baseline_ns.load(Ordering::Relaxed);
        if baseline == 0 {
            if self.latencies.count() >= SAMPLES {
                self.set_baseline(self.latencies.quantile(0.0), now_ns);
                self.latencies.clear();
            }
            return;
        }
        if self.latencies.count() > 0 {
            let sample = self.latencies.quantile(QUANTILE);
            self.latencies.clear();
            self.follow(baseline, sample);
        }
        let is_stuck = self.windows_at_min.load(Ordering::Relaxed) >= STUCK;
        if is_stuck || now_ns >= self.next_baseline_ns.load(Ordering::Relaxed) {
            self.start_measurement(now_ns);
        }
    }

    /// The limit follows the ratio of the latencies.
    fn follow(&self, baseline: u64, sample: u64) {
        let limit = self.limit();
        let gradient = (float(baseline) * TOLERANCE / float(sample.max(1))).clamp(0.5, 2.0);
        let wanted = f64::from(limit) * gradient;
        let next = self.clamp(wanted + wanted.sqrt());
        let is_reached = self.peak.load(Ordering::Relaxed) >= limit / 2;
        if next > limit && !is_reached {
            return;
        }
        self.limit.store(next, Ordering::Relaxed);
        if next == self.min {
            self.windows_at_min.fetch_add(1, Ordering::Relaxed);
        } else {
            self.windows_at_min.store(0, Ordering::Relaxed);
        }
    }

    fn start_measurement(&self, now_ns: u64) {
        self.latencies.clear();
        self.limit_before.store(self.limit(), Ordering::Relaxed);
        self.measuring_since_ns.store(now_ns, Ordering::Relaxed);
        self.is_measuring.store(true, Ordering::Relaxed);
        self.limit.store(self.min, Ordering::Relaxed);
    }

    fn close_measurement(&self, now_ns: u64) {
        let since = self.measuring_since_ns.load(Ordering::Relaxed);
        let lasted = now_ns.saturating_sub(since);
        let count = self.latencies.count();
        let is_long = lasted >= self.interval_ns.saturating_mul(LONGEST_MEASUREMENT);
        if count < SAMPLES && !is_long {
            return;
        }
        // Where few requests come one of them may stand for all, but not none.
        let baseline = if count > 0 {
            self.latencies.quantile(QUANTILE)
        } else {
            self.baseline_ns.load(Ordering::Relaxed)
        };
        self.latencies.clear();
        self.set_baseline(baseline, now_ns);
        self.windows_at_min.store(0, Ordering::Relaxed);
        let before = self.limit_before.load(Ordering::Relaxed);
        self.limit.store(before, Ordering::Relaxed);
        self.is_measuring.store(false, Ordering::Relaxed);
    }

    fn set_baseline(&self, baseline_ns: u64, now_ns: u64) {
        self.baseline_ns
            .store(baseline_ns.max(1), Ordering::Relaxed);
        let next = now_ns.saturating_add(self.baseline_interval_ns);
        self.next_baseline_ns.store(next, Ordering::Relaxed);
    }

    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "clamped to the range of u32 before the cast"
    )]
    fn clamp(&self, wanted: f64) -> u32 {
        wanted.clamp(f64::from(self.min), f64::from(self.max)) as u32
    }
}

#[expect(
    clippy::cast_precision_loss,
    reason = "latencies below 2^53 ns, which is a hundred days"
)]
const fn float(nanoseconds: u64) -> f64 {
    nanoseconds as f64
}

/// One thread closes the window: nobody reaches this end.
const CLAIMED: u64 = u64::MAX;
/// Which latency stands for a window: the median, as in Envoy.
const QUANTILE: f64 = 0.5;
/// Latency that is put up with, against that without load: Envoy's `buffer` of 25 %.
const TOLERANCE: f64 = 1.25;
/// Requests that a measurement takes: Envoy's `request_count`.
const SAMPLES: u64 = 50;
/// Windows with the lowest limit after which the latency without load is measured again, as in Envoy.
const STUCK: u32 = 5;
/// Windows that a measurement may take.
const LONGEST_MEASUREMENT: u64 = 20;
