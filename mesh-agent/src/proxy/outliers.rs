//! Puts endpoints aside that answer badly, as the service's policy says.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::{MissedTickBehavior, interval};

use super::metrics::Metrics;
use super::view::cell::Views;
use super::view::{Endpoint, ServicePort};
use super::worker::Worker;
use crate::net::clock;
use crate::state::traffic_policy::health::OutlierDetection;
use crate::traffic::ejection::Terms;
use crate::traffic::outlier::{self, Reason, Window};
use crate::traffic::retry::Outcome;

/// How often it is looked whether an interval has passed.
const TICK: Duration = Duration::from_millis(100);

/// How outliers of a service are found.
#[derive(Debug)]
pub(crate) struct Outliers {
    spec: OutlierDetection,
    terms: Terms,
    /// Held while one is put aside, so that two who do it at once see each other's.
    ejecting: Mutex<()>,
}

impl Outliers {
    /// What a policy says; `old` is kept where the words are the same.
    pub(super) fn next(spec: &OutlierDetection, old: Option<&Arc<Self>>) -> Arc<Self> {
        let kept = old.filter(|old| old.spec == *spec);
        kept.map_or_else(
            || {
                Arc::new(Self {
                    spec: spec.clone(),
                    terms: outlier::terms(spec),
                    ejecting: Mutex::default(),
                })
            },
            Arc::clone,
        )
    }

    /// Puts an endpoint aside, if it takes part and not too many are out already of those that do.
    fn eject(&self, metrics: &Metrics, port: &ServicePort, endpoint: &Endpoint, reason: Reason) {
        let guard = self.ejecting.lock().unwrap_or_else(PoisonError::into_inner);
        let (mut all, mut ejected, mut is_member) = (0, 0, false);
        for member in port.members() {
            all += 1;
            ejected += usize::from(member.live.vitals.is_ejected());
            is_member |= member.number == endpoint.number;
        }
        let has_room = outlier::has_room(all, ejected, self.spec.max_ejected_percent);
        let is_new = is_member
            && has_room
            && !endpoint.live.vitals.is_ejected()
            && endpoint.live.eject_outlier(&self.terms);
        drop(guard);
        if is_new {
            metrics.ejected(reason);
            let reason = reason.as_str();
            tracing::warn!(endpoint = %endpoint.key, address = %endpoint.address, reason, "endpoint put aside");
        }
    }
}

/// An attempt at an endpoint has ended.
pub(crate) fn observe(worker: &Worker, port: &ServicePort, endpoint: &Endpoint, outcome: Outcome) {
    let Some(outliers) = &port.policy.outliers else {
        return;
    };
    if let Some(reason) = endpoint.live.vitals.ended(&outliers.spec, outcome) {
        outliers.eject(&worker.metrics, port, endpoint, reason);
    }
}

/// Looks at the shares of good answers, interval by interval, for as long as it is polled.
pub(crate) async fn run(views: &Views, metrics: &Metrics) {
    let mut ticks = interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    // When each port was last looked at.
    let mut looked: HashMap<u32, u64> = HashMap::new();
    loop {
        ticks.tick().await;
        let now = clock::monotonic_ns();
        let view = views.load();
        let mut seen = HashMap::new();
        for port in view.governed_ports() {
            let Some(outliers) = &port.policy.outliers else {
                continue;
            };
            let last = *looked.get(&port.number).unwrap_or(&now);
            let is_due = now.saturating_sub(last) >= outliers.spec.interval.as_nanos();
            seen.insert(port.number, if is_due { now } else { last });
            if is_due {
                look(outliers, metrics, port);
            }
        }
        looked = seen;
    }
}

/// An interval has passed.
fn look(outliers: &Outliers, metrics: &Metrics, port: &ServicePort) {
    let windows: Vec<Window> = port
        .endpoints
        .iter()
        .map(|endpoint| endpoint.live.vitals.take_window())
        .collect();
    for (place, reason) in outlier::judge(&outliers.spec, &windows) {
        if let Some(endpoint) = port.endpoints.get(place) {
            outliers.eject(metrics, port, endpoint, reason);
        }
    }
    for endpoint in &port.endpoints {
        endpoint.live.vitals.interval_passed();
    }
}
