//! Series of checks and of endpoints that leave.

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;

use crate::metrics::Registry;
use crate::state::endpoint::HealthStatus;

/// What is counted here.
#[derive(Clone, Debug, Default)]
pub(super) struct Metrics {
    checks: Family<Vec<(&'static str, &'static str)>, Counter>,
    deregistered: Family<Vec<(&'static str, &'static str)>, Counter>,
}

impl Metrics {
    pub(super) fn register(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        registry.register(
            "mesh_registered_checks",
            "Checks of registrations that were made",
            metrics.checks.clone(),
        );
        registry.register(
            "mesh_endpoints_deregistered",
            "Endpoints that the agent has taken out of the registry",
            metrics.deregistered.clone(),
        );
        metrics
    }

    /// A check was made.
    pub(super) fn checked(&self, kind: &'static str, status: HealthStatus) {
        let status = match status {
            HealthStatus::Passing => "passing",
            HealthStatus::Warning => "warning",
            HealthStatus::Critical => "critical",
        };
        let labels = vec![("kind", kind), ("status", status)];
        self.checks.get_or_create(&labels).inc();
    }

    /// An endpoint was taken out.
    pub(super) fn deregistered(&self, reason: &'static str) {
        let labels = vec![("reason", reason)];
        self.deregistered.get_or_create(&labels).inc();
    }
}
