//! Retries, their budget and hedging: of each, the most specific level that speaks of it holds.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::proxy::view::ServicePort;
use crate::state::duration;
use crate::state::http_route::HttpRouteRetry;
use crate::state::traffic_policy::resilience;
use crate::traffic::hedge::{self, After};
use crate::traffic::retry::Plan;
use crate::traffic::retry::budget::Budget;

/// What is done beyond the first attempt.
#[derive(Clone, Debug, Default)]
pub(crate) struct Extra {
    /// Tries again; absent: only what no endpoint has seen.
    pub(crate) plan: Option<Arc<Plan>>,
    /// How many retries and hedges there may be; there whenever one of them is.
    pub(crate) budget: Option<Arc<Spending>>,
    /// Asks twice.
    pub(crate) hedging: Option<Arc<Hedging>>,
}

/// A budget, and what it was made of.
#[derive(Debug)]
pub(crate) struct Spending {
    spec: resilience::Budget,
    /// The budget.
    pub(crate) budget: Budget,
}

impl Extra {
    /// What holds one level further down, where an object says so. State of `old` is kept where the words are the same.
    pub(super) fn overridden(
        &self,
        retries: Option<&resilience::Retries>,
        hedging: Option<&resilience::Hedging>,
        old: Option<&Self>,
    ) -> Self {
        let mut next = self.clone();
        if let Some(spec) = retries {
            next.plan = Some(Arc::new(Plan::new(spec)));
            next.budget = Some(spending(spec.budget, old));
        }
        if let Some(spec) = hedging {
            let kept = old.and_then(|old| old.hedging.as_ref());
            next.hedging = Hedging::next(spec, kept);
            if next.budget.is_none() {
                next.budget = Some(spending(resilience::Budget::default(), old));
            }
        }
        next
    }

    /// What holds where a level says itself how long an attempt may take: what was said of that further up does no more.
    pub(super) fn timed(&self, attempt: Option<duration::Duration>) -> Self {
        let mut next = self.clone();
        if let (Some(_), Some(plan)) = (attempt, &self.plan)
            && plan.per_try.is_some()
        {
            let plan = Plan {
                per_try: None,
                ..Plan::clone(plan)
            };
            next.plan = Some(Arc::new(plan));
        }
        next
    }

    /// What holds for a rule of a route that speaks of retries itself. Its words go before all policies.
    pub(super) fn ruled(&self, retry: Option<&HttpRouteRetry>, old: Option<&Self>) -> Self {
        let mut next = self.clone();
        if let Some(retry) = retry {
            next.plan = Some(Arc::new(Plan::of_rule(self.plan.as_deref(), retry)));
            if next.budget.is_none() {
                next.budget = Some(spending(resilience::Budget::default(), old));
            }
        }
        next
    }
}

fn spending(spec: resilience::Budget, old: Option<&Extra>) -> Arc<Spending> {
    let kept = old
        .and_then(|old| old.budget.as_ref())
        .filter(|old| old.spec == spec);
    kept.map_or_else(
        || {
            let budget = Budget::new(spec);
            Arc::new(Spending { spec, budget })
        },
        Arc::clone,
    )
}

/// When a second endpoint is asked.
#[derive(Debug)]
pub(crate) struct Hedging {
    after: After,
    /// What is usual among the endpoints, and when that was found out.
    usual_ns: AtomicU64,
    looked_ns: AtomicU64,
}

/// How long a quantile that was found out is good for.
const LOOK_NS: u64 = 100_000_000;

impl Hedging {
    fn next(spec: &resilience::Hedging, old: Option<&Arc<Self>>) -> Option<Arc<Self>> {
        let after = After::parse(&spec.after)?;
        Some(old.filter(|old| old.after == after).map_or_else(
            || {
                Arc::new(Self {
                    after,
                    usual_ns: AtomicU64::new(0),
                    looked_ns: AtomicU64::new(0),
                })
            },
            Arc::clone,
        ))
    }

    /// Whether it must know how long answers take.
    pub(crate) const fn is_observing(&self) -> bool {
        matches!(self.after, After::Quantile(_))
    }

    /// How long to wait for the first endpoint; absent while nobody knows.
    pub(crate) fn delay(&self, port: &ServicePort, now_ns: u64) -> Option<Duration> {
        let permille = match self.after {
            After::Fixed(delay) => return Some(delay),
            After::Quantile(permille) => permille,
        };
        if now_ns.saturating_sub(self.looked_ns.load(Ordering::Relaxed)) > LOOK_NS {
            self.looked_ns.store(now_ns, Ordering::Relaxed);
            let of_each = port.endpoints.iter();
            let of_each = of_each.filter_map(|endpoint| endpoint.live.vitals.quantile(permille));
            let usual = hedge::usual(of_each.collect());
            let usual = usual.map_or(0, |usual| u64::try_from(usual.as_nanos()).unwrap_or(0));
            self.usual_ns.store(usual, Ordering::Relaxed);
        }
        let usual = self.usual_ns.load(Ordering::Relaxed);
        (usual > 0).then(|| Duration::from_nanos(usual))
    }
}
