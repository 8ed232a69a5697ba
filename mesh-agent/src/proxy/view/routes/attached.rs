//! A route that is attached to a service, and the policies that hold for it and its rules.

use std::sync::Arc;

use super::super::policies::Policies;
use crate::proxy::policy::Policy;
use crate::traffic::route::compiled::{CompiledRoute, Rule};

/// A route that is attached to a service; one for all its ports, so that they share the state of its policies.
#[derive(Debug)]
pub(super) struct Attached {
    pub(super) route: Arc<CompiledRoute>,
    /// What holds for the whole route.
    pub(super) policy: Arc<Policy>,
    /// What holds for each rule.
    pub(super) rules: Vec<Levels>,
}

/// What holds for a rule.
#[derive(Debug)]
pub(super) struct Levels {
    /// By the policies.
    pub(super) policy: Arc<Policy>,
    /// By the policies and what the rule says itself.
    pub(super) whole: Arc<Policy>,
}

impl Attached {
    /// Attaches a route to a service whose policy is `service`.
    pub(super) fn new(
        route: &Arc<CompiledRoute>,
        service: &Arc<Policy>,
        policies: &Policies<'_>,
        old: Option<&Self>,
    ) -> Self {
        let object = policies.object(route.kind, &route.key, None);
        let policy = Policy::derive(service, object, old.map(|old| &old.policy));
        let rules = route.rules.iter().enumerate().map(|(index, rule)| {
            let old = old.and_then(|old| old.levels(index, rule));
            let object = rule
                .name
                .as_deref()
                .and_then(|name| policies.object(route.kind, &route.key, Some(name)));
            let policy = Policy::derive(&policy, object, old.map(|old| &old.policy));
            let whole = Policy::of_rule(&policy, rule, old.map(|old| &old.whole));
            Levels { policy, whole }
        });
        Self {
            rules: rules.collect(),
            route: Arc::clone(route),
            policy,
        }
    }

    /// What held here for a rule that is now at this place: for that of its name where it has one, wherever it was.
    fn levels(&self, index: usize, rule: &Rule) -> Option<&Levels> {
        let is_it = |old: &Arc<Rule>| old.name == rule.name;
        let rules = &self.route.rules;
        let at = if rules.get(index).is_some_and(is_it) {
            index
        } else {
            rule.name.as_ref()?;
            rules.iter().position(is_it)?
        };
        self.rules.get(at)
    }

    pub(super) fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.route, &other.route)
            && Arc::ptr_eq(&self.policy, &other.policy)
            && self.rules.len() == other.rules.len()
            && self
                .rules
                .iter()
                .zip(&other.rules)
                .all(|(a, b)| Arc::ptr_eq(&a.policy, &b.policy) && Arc::ptr_eq(&a.whole, &b.whole))
    }
}
