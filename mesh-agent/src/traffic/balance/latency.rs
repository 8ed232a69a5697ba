//! How slow an endpoint is: a moving average of latencies that rises at once and falls slowly.
//!
//! Peak EWMA as in Finagle (`com.twitter.finagle.loadbalancer.p2c`) and linkerd: a latency above the average takes its
//! place, one below moves it by its age; what is not asked decays towards zero, so that it is tried again. As there, what
//! was waited for in vain counts as a latency too: else one that never answers would look like the fastest.

use std::sync::atomic::{AtomicU64, Ordering};

/// Time in which an observation loses all but 1/e of its weight: that of Finagle and linkerd.
const TIME_CONSTANT_NS: f64 = 10e9;

/// What one costs that has never answered and is being asked: worse than all that have answered.
const UNKNOWN_NS: f64 = 1e15;

/// The average of one endpoint. Two updates at a time may lose one of them; nothing else can go wrong.
#[derive(Debug, Default)]
pub struct Latency {
    /// Bits of the average in nanoseconds.
    average: AtomicU64,
    /// When it was that.
    at_ns: AtomicU64,
}

impl Latency {
    /// An answer took `latency_ns`.
    pub fn observe(&self, latency_ns: u64, now_ns: u64) {
        let average = observed(self.average_ns(), self.age_ns(now_ns), float(latency_ns));
        self.average.store(average.to_bits(), Ordering::Relaxed);
        self.at_ns.store(now_ns, Ordering::Relaxed);
    }

    /// There was no answer within `latency_ns`: it would have taken longer. Says nothing where that is no news.
    pub fn observe_least(&self, latency_ns: u64, now_ns: u64) {
        if float(latency_ns) > decayed(self.average_ns(), self.age_ns(now_ns)) {
            self.observe(latency_ns, now_ns);
        }
    }

    /// What a request more would cost at an endpoint with `active` requests under way. `share` is its weight in relation
    /// to the mean weight.
    #[must_use]
    pub fn cost(&self, active: u32, share: f64, now_ns: u64) -> f64 {
        let average = self.average_ns();
        let queue = f64::from(active) / share.max(f64::MIN_POSITIVE) + 1.0;
        if average > 0.0 {
            return decayed(average, self.age_ns(now_ns)) * queue;
        }
        if active > 0 { UNKNOWN_NS * queue } else { 0.0 }
    }

    fn average_ns(&self) -> f64 {
        f64::from_bits(self.average.load(Ordering::Relaxed))
    }

    fn age_ns(&self, now_ns: u64) -> f64 {
        float(now_ns.saturating_sub(self.at_ns.load(Ordering::Relaxed)))
    }
}

/// The average after an observation, `age_ns` after the last one.
fn observed(average: f64, age_ns: f64, latency: f64) -> f64 {
    let latency = latency.max(1.0);
    if latency > average {
        return latency;
    }
    let keep = (-age_ns / TIME_CONSTANT_NS).exp();
    average.mul_add(keep, latency * (1.0 - keep))
}

/// The average when nothing has been observed for `age_ns`.
fn decayed(average: f64, age_ns: f64) -> f64 {
    average * (-age_ns / TIME_CONSTANT_NS).exp()
}

#[expect(
    clippy::cast_precision_loss,
    reason = "a latency is compared, not counted"
)]
const fn float(number: u64) -> f64 {
    number as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;
    const SECOND: u64 = 1_000 * MS;

    #[test]
    fn a_peak_counts_at_once_and_is_forgotten_slowly() {
        let latency = Latency::default();
        latency.observe(10 * MS, SECOND);
        latency.observe(100 * MS, SECOND + 1);
        assert!(latency.cost(0, 1.0, SECOND + 1) > 99e6);
        latency.observe(10 * MS, SECOND + 100 * MS);
        assert!(latency.cost(0, 1.0, SECOND + 100 * MS) > 98e6);
        latency.observe(10 * MS, 11 * SECOND);
        let cost = latency.cost(0, 1.0, 11 * SECOND);
        assert!((40e6..46e6).contains(&cost), "{cost}");
    }

    #[test]
    fn what_is_not_asked_becomes_worth_a_try() {
        let latency = Latency::default();
        latency.observe(100 * MS, 0);
        assert!(latency.cost(0, 1.0, 60 * SECOND) < 1e6);
    }

    #[test]
    fn what_was_waited_for_in_vain_counts_if_it_was_long() {
        let latency = Latency::default();
        latency.observe_least(50 * MS, 0);
        assert!((latency.cost(0, 1.0, 0) - 50e6).abs() < 1.0);
        latency.observe_least(MS, 0);
        assert!((latency.cost(0, 1.0, 0) - 50e6).abs() < 1.0);
        latency.observe_least(MS, 60 * SECOND);
        let cost = latency.cost(0, 1.0, 60 * SECOND);
        assert!((1e6..2e6).contains(&cost), "{cost}");
    }

    #[test]
    fn requests_under_way_count_by_weight() {
        let latency = Latency::default();
        latency.observe(10 * MS, 0);
        assert!((latency.cost(3, 1.0, 0) - 40e6).abs() < 1.0);
        assert!((latency.cost(3, 3.0, 0) - 20e6).abs() < 1.0);
    }

    #[test]
    fn one_that_never_answered_is_asked_once() {
        let (fresh, slow) = (Latency::default(), Latency::default());
        slow.observe(10 * SECOND, 0);
        assert!(fresh.cost(0, 1.0, 0) < slow.cost(0, 1.0, 0));
        assert!(fresh.cost(1, 1.0, 0) > slow.cost(100, 1.0, 0));
    }
}
