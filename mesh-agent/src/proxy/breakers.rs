//! Circuit breakers and retry budgets as operators see them.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use super::Proxy;
use super::policy::Policy;
use super::policy::breaker::Guard;
use super::view::View;
use crate::net::clock;
use crate::state::report::Breaker as Report;
use crate::traffic::breaker::Breaker;

/// One breaker: what it guards, the endpoint if it has one of its own, and how it is.
pub(super) struct Seen {
    pub(super) guard: Arc<Guard>,
    /// Namespace and name of the endpoint.
    pub(super) endpoint: Option<String>,
    pub(super) state: crate::traffic::breaker::State,
    since_ns: u64,
    openings: u64,
}

impl Seen {
    fn new(guard: &Arc<Guard>, endpoint: Option<String>, breaker: &Breaker) -> Self {
        Self {
            guard: Arc::clone(guard),
            endpoint,
            state: breaker.state(),
            since_ns: breaker.since_ns(),
            openings: breaker.openings(),
        }
    }

    fn report(&self, now_ns: u64) -> Report {
        let target = self.guard.key();
        let age = Duration::from_nanos(now_ns.saturating_sub(self.since_ns));
        Report {
            kind: self.guard.kind().to_string(),
            namespace: target.namespace,
            name: target.name,
            rule: self.guard.section().map(str::to_owned),
            endpoint: self.endpoint.clone(),
            state: self.state.as_str().to_owned(),
            since: clock::timestamp_before(age),
            openings: self.openings,
        }
    }
}

impl View {
    /// Every policy that is in force, of services, routes and rules, each once.
    pub(super) fn policies(&self) -> Vec<&Arc<Policy>> {
        let mut seen = HashSet::new();
        let policies = self.policies.values().chain(self.routes.policies());
        policies
            .filter(|policy| seen.insert(Arc::as_ptr(policy)))
            .collect()
    }

    /// Every breaker, each once.
    pub(super) fn breakers(&self) -> Vec<Seen> {
        let mut seen: Vec<Seen> = Vec::new();
        let mut known = HashSet::new();
        for policy in self.policies() {
            for guard in &policy.guards {
                if let (Some(breaker), true) = (guard.breaker(), known.insert(Arc::as_ptr(guard))) {
                    seen.push(Seen::new(guard, None, breaker));
                }
            }
        }
        for port in self.service_ports() {
            for endpoint in &port.endpoints {
                for (guard, breaker) in endpoint.live.vitals.breakers() {
                    let name = format!("{}:{}", endpoint.key, endpoint.address.port());
                    seen.push(Seen::new(&guard, Some(name), &breaker));
                }
            }
        }
        seen
    }
}

impl Proxy {
    /// Every circuit breaker, and how it is.
    pub fn breakers(&self) -> Vec<Report> {
        let now_ns = clock::monotonic_ns();
        let seen = self.shared.views.load().breakers();
        let mut reports: Vec<_> = seen.iter().map(|seen| seen.report(now_ns)).collect();
        reports.sort_by(|a, b| {
            let key = |it: &Report| {
                (
                    it.namespace.clone(),
                    it.kind.clone(),
                    it.name.clone(),
                    it.rule.clone(),
                    it.endpoint.clone(),
                )
            };
            key(a).cmp(&key(b))
        });
        reports
    }
}
