//! What is counted of a registry that several nodes share.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;

use crate::metrics::Registry;

/// Counters of the shared registry.
#[derive(Clone, Debug, Default)]
pub(super) struct Metrics {
    resyncs: Counter,
    errors: Family<ErrorLabels, Counter>,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct ErrorLabels {
    /// One of the few words of [`Error::reason`](super::Error).
    reason: &'static str,
}

impl Metrics {
    /// Counts an error.
    pub(super) fn count(&self, reason: &'static str) {
        self.errors.get_or_create(&ErrorLabels { reason }).inc();
    }

    /// Counts that everything was read again.
    pub(super) fn resynced(&self) {
        self.resyncs.inc();
    }
}

/// What is read when somebody asks.
pub(super) struct Readings {
    /// Whether every change is heard now.
    pub(super) is_connected: Box<dyn Fn() -> bool + Send + Sync>,
    /// Seconds since it was.
    pub(super) staleness_seconds: Box<dyn Fn() -> u64 + Send + Sync>,
    /// Endpoints that the registry has yet to hear of.
    pub(super) queued: Box<dyn Fn() -> u64 + Send + Sync>,
}

/// Registers the families.
pub(super) fn register(registry: &mut Registry, metrics: &Metrics, readings: Readings) {
    registry.register(
        "mesh_registry_resyncs",
        "Times that the shared registry was read as a whole",
        metrics.resyncs.clone(),
    );
    registry.register(
        "mesh_registry_errors",
        "Failures of the link to the shared registry, by reason",
        metrics.errors.clone(),
    );
    registry.register_gauge(
        "mesh_registry_connected",
        "Whether every change of the shared registry is heard now",
        move || u64::from((readings.is_connected)()),
    );
    registry.register_gauge(
        "mesh_registry_staleness_seconds",
        "Seconds since the shared registry was heard; 0 while it is",
        readings.staleness_seconds,
    );
    registry.register_gauge(
        "mesh_registry_queued",
        "Endpoints of this node that the shared registry has yet to hear of",
        readings.queued,
    );
}
