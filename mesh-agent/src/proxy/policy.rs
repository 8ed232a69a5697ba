//! What traffic policies say about one target, ready for use, with the state that goes with it.
//!
//! A policy is derived from the one a level up: a route's from its service's, a rule's from its route's. Of some parts
//! the most specific level holds, of others all levels do; each part says which. A service without a policy has the
//! empty one, which costs a request nothing.

pub(crate) mod balancing;
pub(crate) mod concurrency;
pub(crate) mod faults;
pub(crate) mod limits;

use std::sync::Arc;
use std::time::Duration;

use crate::state::traffic_policy::shaping::Priority;
use crate::state::traffic_policy::{self, TrafficPolicy};
use balancing::{Balancing, Subsets};
use concurrency::Adaptive;
use faults::Faults;
use limits::Limits;

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
    /// The policy one level up.
    base: Option<Arc<Self>>,
    /// What this level was made of.
    object: Option<Arc<TrafficPolicy>>,
}

/// How long things may take; absent: for ever, as far as the policy is concerned.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Timeouts {
    /// From the request to the end of its response.
    pub(crate) request: Option<Duration>,
    /// For one attempt, up to the head of its response.
    pub(crate) attempt: Option<Duration>,
}

impl Policy {
    /// The policy of a target: that of the level above, with what `object` says. State of `old`, the target's policy in
    /// the last view, is kept where the words that made it are the same.
    pub(crate) fn derive(
        base: &Arc<Self>,
        object: Option<&Arc<TrafficPolicy>>,
        old: Option<&Arc<Self>>,
    ) -> Arc<Self> {
        let Some(object) = object else {
            return Arc::clone(base);
        };
        if let Some(old) = old
            && old.is_made_of(base, object)
        {
            return Arc::clone(old);
        }
        Arc::new(Self {
            timeouts: base.timeouts.overridden(object.spec.timeouts.as_ref()),
            balancing: Balancing::of_service(object),
            subsets: balancing::of_route(object, base.subsets.as_ref()),
            priority: object.spec.priority.or(base.priority),
            limits: Limits::derive(&base.limits, object, old.map(|old| &old.limits)),
            faults: Faults::derive(
                &base.faults,
                object,
                old.and_then(|old| old.object.as_deref()),
            ),
            concurrency: Adaptive::derive(object, old.and_then(|old| old.concurrency.as_ref())),
            base: Some(Arc::clone(base)),
            object: Some(Arc::clone(object)),
        })
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
            own.map_or(base, |own| (!own.is_zero()).then(|| own.get()))
        };
        Self {
            request: pick(spec.request, self.request),
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
        assert_eq!(rule.timeouts.attempt, None);
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
