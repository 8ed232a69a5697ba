//! Retries, their budget and hedging: of each, the most specific level that speaks of it holds.

use std::sync::Arc;

use crate::state::duration;
use crate::state::http_route::HttpRouteRetry;
use crate::state::traffic_policy::resilience;
use crate::traffic::hedge::After;
use crate::traffic::retry::Plan;
use crate::traffic::retry::budget::Budget;

/// What is done beyond the first attempt.
#[derive(Clone, Debug, Default)]
pub(crate) struct Extra {
    /// Tries again; absent: only what no endpoint has seen.
    pub(crate) plan: Option<Arc<Plan>>,
    /// How many retries and hedges there may be; there whenever one of them is.
    pub(crate) budget: Option<Arc<Spending>>,
    /// When a second endpoint is asked.
    pub(crate) hedging: Option<After>,
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
            next.hedging = After::parse(&spec.after);
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
