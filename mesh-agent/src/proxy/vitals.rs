//! How an endpoint is, as its answers and the checks show. Shared by all cores, and kept from view to view.

use std::borrow::Borrow;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};
use std::time::Duration;

use arc_swap::ArcSwap;

use super::policy::breaker::Guard;
use crate::net::clock;
use crate::state::traffic_policy::health::OutlierDetection;
use crate::traffic::breaker::{Breaker, Settings};
use crate::traffic::ejection::{Ejection, REFUSED, Terms};
use crate::traffic::hedge::Latencies;
use crate::traffic::outlier::{Counters, Reason, Window};
use crate::traffic::retry::Outcome;

/// How an endpoint is.
#[derive(Debug, Default)]
pub(crate) struct Vitals {
    ejected_until_ns: AtomicU64,
    ejections: Mutex<Ejections>,
    is_critical: AtomicBool,
    is_registered_critical: AtomicBool,
    /// Answers, where outliers are looked for.
    counters: Counters,
    /// One per policy that wants one; the usual endpoint has none.
    breakers: ArcSwap<Vec<(Weak<Guard>, Arc<Breaker>)>>,
    latencies: OnceLock<Box<Latencies>>,
}

#[derive(Debug, Default)]
struct Ejections {
    refused: Ejection,
    outlier: Ejection,
}

impl Ejections {
    fn until_ns(&self) -> u64 {
        self.refused.until_ns().max(self.outlier.until_ns())
    }
}

impl Vitals {
    /// Whether it is put aside: it has refused a connection a short while ago, or has answered badly.
    pub(crate) fn is_ejected(&self) -> bool {
        let until = self.ejected_until_ns.load(Ordering::Relaxed);
        until != 0 && clock::monotonic_ns() < until
    }

    /// Whether checks have found it unwell.
    pub(crate) fn is_critical(&self) -> bool {
        self.is_critical.load(Ordering::Relaxed)
            || self.is_registered_critical.load(Ordering::Relaxed)
    }

    /// Whether a breaker of its own would refuse a request now that passes these guards.
    pub(crate) fn is_broken(
        &self,
        mut guards: impl Iterator<Item = impl Borrow<Arc<Guard>>>,
    ) -> bool {
        let breakers = self.breakers.load();
        if breakers.is_empty() {
            return false;
        }
        let now = clock::monotonic_ns();
        guards.any(|guard| {
            find(&breakers, guard.borrow()).is_some_and(|breaker| breaker.refuses(now))
        })
    }

    /// Checks of the agent's own have found it well, or not; tells whether that is new.
    pub(crate) fn checked(&self, is_critical: bool) -> bool {
        self.is_critical.swap(is_critical, Ordering::Relaxed) != is_critical
    }

    /// The same for the checks of its registration.
    pub(crate) fn registered(&self, is_critical: bool) -> bool {
        let before = self
            .is_registered_critical
            .swap(is_critical, Ordering::Relaxed);
        before != is_critical
    }

    /// It has refused a connection; tells whether it is put aside by this.
    pub(crate) fn refused(&self) -> bool {
        self.eject(|ejections, now| ejections.refused = ejections.refused.ejected(&REFUSED, now))
    }

    /// An attempt at it has ended; tells whether a number in a row has been reached by it. What ends while it is out for
    /// its answers was under way when it was put aside, and must not count when it is back.
    pub(crate) fn ended(&self, spec: &OutlierDetection, outcome: Outcome) -> Option<Reason> {
        if self.is_ejected() && self.is_outlier() {
            return None;
        }
        self.counters.observe(spec, outcome)
    }

    fn is_outlier(&self) -> bool {
        clock::monotonic_ns() < self.ejections().outlier.until_ns()
    }

    /// Takes what it has answered since the last time.
    pub(crate) fn take_window(&self) -> Window {
        self.counters.take()
    }

    /// It has answered badly; tells until when it is put aside, if it is by this.
    pub(crate) fn eject_outlier(&self, terms: &Terms) -> Option<u64> {
        let is_new =
            self.eject(|ejections, now| ejections.outlier = ejections.outlier.ejected(terms, now));
        if is_new {
            self.counters.reset();
        }
        is_new.then(|| self.ejected_until_ns.load(Ordering::Relaxed))
    }

    fn eject(&self, change: impl FnOnce(&mut Ejections, u64)) -> bool {
        let mut ejections = self.ejections();
        let before = ejections.until_ns();
        change(&mut ejections, clock::monotonic_ns());
        let until = ejections.until_ns();
        self.ejected_until_ns.store(until, Ordering::Relaxed);
        until != before
    }

    /// It has accepted a connection; tells whether it is back by this after it had refused one.
    pub(crate) fn accepted(&self) -> bool {
        if self.ejected_until_ns.load(Ordering::Relaxed) == 0 {
            return false;
        }
        let mut ejections = self.ejections();
        let has_refused = ejections.refused.until_ns() > 0;
        ejections.refused = ejections.refused.forgotten();
        ejections.outlier = ejections.outlier.ended(clock::monotonic_ns());
        let until = ejections.until_ns();
        self.ejected_until_ns.store(until, Ordering::Relaxed);
        until == 0 && has_refused
    }

    /// An interval of outlier detection has passed.
    pub(crate) fn interval_passed(&self) {
        let mut ejections = self.ejections();
        ejections.outlier = ejections.outlier.looked_at(clock::monotonic_ns());
        let until = ejections.until_ns();
        self.ejected_until_ns.store(until, Ordering::Relaxed);
    }

    fn ejections(&self) -> std::sync::MutexGuard<'_, Ejections> {
        self.ejections
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Its breaker for a policy; the first who asks makes it.
    pub(crate) fn breaker(&self, guard: &Arc<Guard>, settings: Settings) -> Arc<Breaker> {
        if let Some(breaker) = find(&self.breakers.load(), guard) {
            return breaker;
        }
        let made = Arc::new(Breaker::new(settings, clock::monotonic_ns()));
        self.breakers.rcu(|list| {
            let alive = list.iter().filter(|(owner, _)| owner.strong_count() > 0);
            let mut list: Vec<_> = alive.cloned().collect();
            if find(&list, guard).is_none() {
                list.push((Arc::downgrade(guard), Arc::clone(&made)));
            }
            list
        });
        // Of two who make one, the first is kept.
        find(&self.breakers.load(), guard).unwrap_or(made)
    }

    /// Its breakers, with whom they are for.
    pub(crate) fn breakers(&self) -> Vec<(Arc<Guard>, Arc<Breaker>)> {
        let list = self.breakers.load();
        let alive = list
            .iter()
            .filter_map(|(owner, breaker)| Some((owner.upgrade()?, Arc::clone(breaker))));
        alive.collect()
    }

    /// An answer took so long.
    pub(crate) fn observe(&self, latency: Duration) {
        let latencies = self.latencies.get_or_init(Box::default);
        latencies.observe(latency, clock::monotonic_ns());
    }

    /// The time within which this many of a thousand answers came of late.
    pub(crate) fn quantile(&self, permille: u32) -> Option<Duration> {
        self.latencies.get()?.quantile(permille)
    }
}

fn find(list: &[(Weak<Guard>, Arc<Breaker>)], guard: &Arc<Guard>) -> Option<Arc<Breaker>> {
    list.iter()
        .find(|(owner, _)| std::ptr::eq(owner.as_ptr(), Arc::as_ptr(guard)))
        .map(|(_, breaker)| Arc::clone(breaker))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::traffic::ejection::Growth;

    #[test]
    fn what_accepts_again_is_taken_back_unless_it_answers_badly() {
        let vitals = Vitals::default();
        assert!(vitals.refused() && vitals.is_ejected());
        assert!(!vitals.refused(), "it is out already");
        vitals.accepted();
        assert!(!vitals.is_ejected());
        let terms = Terms {
            base: Duration::from_secs(30),
            longest: Duration::from_secs(30),
            growth: Growth::Linear,
        };
        assert!(vitals.eject_outlier(&terms).is_some());
        assert!(!vitals.accepted());
        vitals.interval_passed();
        assert!(vitals.is_ejected(), "a connection is no good answer");
    }

    #[tokio::test]
    async fn what_was_under_way_when_it_was_put_aside_does_not_count() {
        let vitals = Vitals::default();
        let spec = serde_json::json!({"consecutive5xx": 3, "failurePercentage": {}});
        let spec: OutlierDetection = serde_json::from_value(spec).unwrap();
        let bad = Outcome::Answered {
            status: 500,
            grpc: None,
        };
        let mut reached = (0..3).map(|_| vitals.ended(&spec, bad));
        assert!(reached.by_ref().take(2).all(|it| it.is_none()));
        assert_eq!(reached.next(), Some(Some(Reason::Consecutive5xx)));
        let length = Duration::from_secs(1);
        let terms = Terms {
            base: length,
            longest: length,
            growth: Growth::Linear,
        };
        assert!(vitals.eject_outlier(&terms).is_some());
        assert!((0..2).all(|_| vitals.ended(&spec, bad).is_none()));
        tokio::time::sleep(length).await;
        assert!(!vitals.is_ejected());
        assert_eq!(vitals.ended(&spec, bad), None, "the first since it is back");
        assert_eq!(vitals.take_window().requests, 1);
    }

    #[test]
    fn refused_connections_count_in_a_row() {
        let vitals = Vitals::default();
        let spec = serde_json::json!({"consecutiveLocalFailures": 2});
        let spec: OutlierDetection = serde_json::from_value(spec).unwrap();
        assert!(vitals.refused());
        assert_eq!(vitals.ended(&spec, Outcome::ConnectFailure), None);
        let reached = vitals.ended(&spec, Outcome::ConnectFailure);
        assert_eq!(reached, Some(Reason::ConsecutiveLocalFailures));
    }

    #[test]
    fn who_is_back_comes_back_once() {
        let vitals = Vitals::default();
        assert!(!vitals.accepted());
        vitals.refused();
        assert!(vitals.accepted() && !vitals.accepted());
        let terms = Terms {
            base: Duration::ZERO,
            longest: Duration::ZERO,
            growth: Growth::Linear,
        };
        assert!(vitals.eject_outlier(&terms).is_some());
        assert!(!vitals.accepted(), "its time was known before");
    }
}
