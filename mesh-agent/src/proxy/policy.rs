//! What traffic policies say about one target, ready for use, with the state that goes with it.
//!
//! A policy is derived from the one a level up: a route's from its service's, a rule's from its route's. Of some parts
//! the most specific level holds, of others all levels do; each part says which. A service without a policy has the
//! empty one, which costs a request nothing.

pub(crate) mod balancing;
pub(crate) mod breaker;
pub(crate) mod concurrency;
pub(crate) mod faults;
pub(crate) mod limits;
pub(crate) mod retry;

use std::sync::Arc;
use std::time::Duration;

use crate::state::http_route::{HttpRouteRetry, HttpRouteTimeouts};
use crate::state::traffic_policy::shaping::Priority;
use crate::state::traffic_policy::{self, TrafficPolicy};
use crate::traffic::route::compiled::Rule;
use balancing::{Balancing, Subsets};
use concurrency::Adaptive;
use faults::Faults;
use limits::Limits;

use super::outliers::Outliers;
use breaker::{Guard, Room};
use retry::{Extra, Spending};

/// What holds for a target.
#[derive(Debug, Default)]
pub(crate) struct Policy {
    /// Deadlines; the most specific level that sets one holds.
    pub(crate) timeouts: Timeouts,
    /// How endpoints are balanced; only on the level of a service, whose endpoints they are.
    pub(crate) balancing: Option<Arc<Balancing>>,
    /// Which endpoints a route wants, of whatever service; the most specific level that wants any holds.
    pub(crate) subsets: Option<Subsets>,
    /// Who is shed last; the most specific level that says so holds.
    pub(crate) priority: Option<Priority>,
    /// How much is let through; all levels hold.
    pub(crate) limits: Limits,
    /// Injected for tests; all levels hold.
    pub(crate) faults: Faults,
    /// How many requests at once; that of the service whose endpoints are asked holds.
    pub(crate) concurrency: Option<Arc<Adaptive>>,
    /// Retries and hedges; the most specific level that speaks of them holds.
    pub(crate) extra: Extra,
    /// Circuit breakers; all levels hold.
    pub(crate) guards: Vec<Arc<Guard>>,
    /// Endpoints that answer badly; only that of the service whose endpoints are asked has a meaning.
    pub(crate) outliers: Option<Arc<Outliers>>,
    /// What the rule of a route says itself.
    rule: Option<Words>,
    /// The policy one level up.
    base: Option<Arc<Self>>,
    /// What this level was made of.
    object: Option<Arc<TrafficPolicy>>,
}

/// What the rule of a route says itself.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Words {
    /// `NAMESPACE/ROUTE/RULE`.
    label: Box<str>,
    timeouts: HttpRouteTimeouts,
    retry: Option<HttpRouteRetry>,
}

/// How long things may take.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Timeouts {
    /// From the request to the end of its response; absent: for ever.
    pub(crate) request: Option<Duration>,
    /// For one attempt, up to the head of its response; absent: as long as the proxy waits where nobody says anything,
    /// zero: for ever.
    pub(crate) attempt: Option<Duration>,
}

impl Policy {
    /// How long one attempt may take: what retries say of it, where they do.
    pub(crate) fn attempt_timeout(&self) -> Option<Duration> {
        let per_try = self.extra.plan.as_ref().and_then(|plan| plan.per_try);
        per_try.or(self.timeouts.attempt)
    }

    /// The policy of a target: that of the level above, with what `object` says. State of `old`, the target's policy in
    /// the last view (or what [`Policy::of_rule`] made of it), is kept where the words that made it are the same.
    pub(crate) fn derive(
        base: &Arc<Self>,
        object: Option<&Arc<TrafficPolicy>>,
        old: Option<&Arc<Self>>,
    ) -> Arc<Self> {
        let Some(object) = object else {
            return Arc::clone(base);
        };
        let old = old.and_then(|old| {
            let has_own_words = old.rule.is_some();
            if has_own_words {
                old.base.as_ref()
            } else {
                Some(old)
            }
        });
        if let Some(old) = old
            && old.is_made_of(base, object)
        {
            return Arc::clone(old);
        }
        let spec = &object.spec;
        let attempt = spec.timeouts.as_ref().and_then(|it| it.backend_request);
        let mut guards = base.guards.clone();
        guards.extend(Guard::next(object, old.map_or(&[], |old| &old.guards)));
        Arc::new(Self {
            timeouts: base.timeouts.overridden(spec.timeouts.as_ref()),
            extra: base.extra.timed(attempt).overridden(
                spec.retries.as_ref(),
                spec.hedging.as_ref(),
                old.map(|old| &old.extra),
            ),
            guards,
            outliers: spec
                .outlier_detection
                .as_ref()
                .map(|spec| Outliers::next(spec, old.and_then(|old| old.outliers.as_ref()))),
            balancing: Balancing::of_service(object),
            subsets: balancing::of_route(
                object,
                base.subsets.as_ref(),
                old.and_then(|old| old.subsets.as_ref()),
            ),
            priority: spec.priority.or(base.priority),
            limits: Limits::derive(&base.limits, object, old.map(|old| &old.limits)),
            faults: Faults::derive(
                &base.faults,
                object,
                old.and_then(|old| old.object.as_deref()),
            ),
            concurrency: Adaptive::derive(object, old.and_then(|old| old.concurrency.as_ref())),
            rule: None,
            base: Some(Arc::clone(base)),
            object: Some(Arc::clone(object)),
        })
    }

    /// The policy of a rule of a route that has deadlines or retries of its own, which go before those of all policies.
    /// `base` is what else holds for the rule; `old` is what this has given in the last view.
    pub(crate) fn of_rule(base: &Arc<Self>, rule: &Rule, old: Option<&Arc<Self>>) -> Arc<Self> {
        if rule.timeouts.is_none() && rule.retry.is_none() {
            return Arc::clone(base);
        }
        let timeouts = rule.timeouts.unwrap_or_default();
        let words = Some(Words {
            label: rule.label.clone(),
            timeouts,
            retry: rule.retry.clone(),
        });
        if let Some(old) = old
            && old.rule == words
            && old.base.as_ref().is_some_and(|it| Arc::ptr_eq(it, base))
        {
            return Arc::clone(old);
        }
        let own = traffic_policy::Timeouts {
            request: timeouts.request,
            backend_request: timeouts.backend_request,
        };
        Arc::new(Self {
            timeouts: base.timeouts.overridden(Some(&own)),
            balancing: None,
            subsets: base.subsets.as_ref().map(Arc::clone),
            extra: base
                .extra
                .timed(timeouts.backend_request)
                .ruled(rule.retry.as_ref(), old.map(|old| &old.extra)),
            guards: base.guards.clone(),
            outliers: None,
            priority: base.priority,
            limits: base.limits.passed_on(),
            faults: base.faults.clone(),
            concurrency: base.concurrency.clone(),
            rule: words,
            base: Some(Arc::clone(base)),
            object: None,
        })
    }

    /// The objects that hold, the most specific first.
    pub(crate) fn objects(&self) -> impl Iterator<Item = &Arc<TrafficPolicy>> {
        let levels = std::iter::successors(Some(self), |level| level.base.as_deref());
        levels.filter_map(|level| level.object.as_ref())
    }

    /// Room for connections to the service that this is the policy of.
    pub(crate) fn room(&self) -> Option<&Arc<Room>> {
        self.guards.iter().find_map(|guard| guard.room())
    }

    /// What the rule of a route says itself of retries.
    pub(crate) fn retry_of_rule(&self) -> Option<&HttpRouteRetry> {
        self.rule.as_ref()?.retry.as_ref()
    }

    /// The rule of a route that made this level, as `NAMESPACE/ROUTE/RULE`.
    pub(crate) fn rule_label(&self) -> Option<&str> {
        self.rule.as_ref().map(|it| &*it.label)
    }

    /// The budget for retries that begins at this level.
    pub(crate) fn own_budget(&self) -> Option<&Arc<Spending>> {
        let own = self.extra.budget.as_ref()?;
        let base = self
            .base
            .as_ref()
            .and_then(|base| base.extra.budget.as_ref());
        base.is_none_or(|base| !Arc::ptr_eq(base, own))
            .then_some(own)
    }

    /// The object that made this level.
    pub(crate) const fn object(&self) -> Option<&Arc<TrafficPolicy>> {
        self.object.as_ref()
    }

    fn is_made_of(&self, base: &Arc<Self>, object: &Arc<TrafficPolicy>) -> bool {
        self.object
            .as_ref()
            .is_some_and(|it| Arc::ptr_eq(it, object))
            && self.base.as_ref().is_some_and(|it| Arc::ptr_eq(it, base))
    }
}

impl Timeouts {
    fn overridden(self, spec: Option<&traffic_policy::Timeouts>) -> Self {
        let Some(spec) = spec else { return self };
        let pick = |own: Option<crate::state::duration::Duration>, base: Option<Duration>| {
            own.map_or(base, |own| Some(own.get()))
        };
        let request = pick(spec.request, self.request);
        Self {
            request: request.filter(|time| !time.is_zero()),
            attempt: pick(spec.backend_request, self.attempt),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn object(spec: Value) -> Arc<TrafficPolicy> {
        let object = json!({"apiVersion": "mesh.dev/v1alpha1", "kind": "TrafficPolicy",
            "metadata": {"name": "p", "namespace": "shop"}, "spec": spec});
        serde_json::from_value(object).unwrap()
    }

    #[test]
    fn the_most_specific_deadline_holds() {
        let target = json!({"kind": "Service", "name": "web"});
        let spec =
            json!({"target": target, "timeouts": {"request": "10s", "backendRequest": "2s"}});
        let service = Policy::derive(&Arc::default(), Some(&object(spec)), None);
        let spec = json!({"target": target, "timeouts": {"backendRequest": "0s"}});
        let rule = Policy::derive(&service, Some(&object(spec)), None);
        assert_eq!(rule.timeouts.request, Some(Duration::from_secs(10)));
        assert_eq!(rule.timeouts.attempt, Some(Duration::ZERO));
        let spec = json!({"target": target, "timeouts": {"request": "0s"}});
        let rule = Policy::derive(&service, Some(&object(spec)), None);
        assert_eq!(rule.timeouts.request, None);
        assert_eq!(rule.timeouts.attempt, Some(Duration::from_secs(2)));
    }

    #[test]
    fn what_a_level_says_of_attempts_goes_before_what_those_above_say() {
        let target = json!({"kind": "Service", "name": "web"});
        let derive = |base: &Arc<Policy>, mut spec: Value| {
            spec["target"] = target.clone();
            Policy::derive(base, Some(&object(spec)), None)
        };
        let per_try = |policy: &Policy| policy.extra.plan.as_ref()?.per_try;
        let retries = json!({"retries": {"attempts": 4, "perTryTimeout": "5s"}});
        let service = derive(&Arc::default(), retries);
        assert_eq!(per_try(&service), Some(Duration::from_secs(5)));
        let route = derive(&service, json!({"timeouts": {"request": "1s"}}));
        assert_eq!(per_try(&route), Some(Duration::from_secs(5)));
        let route = derive(&service, json!({"timeouts": {"backendRequest": "100ms"}}));
        assert_eq!(per_try(&route), None);
        assert_eq!(route.extra.plan.as_ref().unwrap().attempts, 4);
        let both =
            json!({"timeouts": {"backendRequest": "100ms"}, "retries": {"perTryTimeout": "50ms"}});
        let route = derive(&service, both);
        assert_eq!(per_try(&route), Some(Duration::from_millis(50)));
    }

    #[test]
    fn a_policy_made_of_the_same_is_the_same() {
        let base = Arc::default();
        assert!(Arc::ptr_eq(&Policy::derive(&base, None, None), &base));
        let spec = object(json!({"target": {"kind": "Service", "name": "web"}}));
        let first = Policy::derive(&base, Some(&spec), None);
        let again = Policy::derive(&base, Some(&spec), Some(&first));
        assert!(Arc::ptr_eq(&first, &again));
        let other = Arc::new(Policy::default());
        let moved = Policy::derive(&other, Some(&spec), Some(&first));
        assert!(!Arc::ptr_eq(&first, &moved));
    }
}
