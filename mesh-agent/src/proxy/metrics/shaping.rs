//! Series of what is limited, shed and injected.

use std::sync::atomic::AtomicU64;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;

use super::Counter;
use super::leases::Counts;
use crate::metrics::Registry;
use crate::state::object::ObjectKey;
use crate::traffic::admission::level::Level;

/// Families of shaping. Those that name workloads, services and policies lose the series of what is gone.
#[derive(Clone, Debug)]
pub(crate) struct Shaping {
    limited: Counts<Limited>,
    shed: Counts<Shed>,
    queued: Counts<Of>,
    refused: Counts<Service>,
    faults: Counts<Injected>,
    lags: Family<Worker, Gauge<f64, AtomicU64>>,
    places: Family<Worker, Gauge>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Limited {
    policy_namespace: String,
    policy_name: String,
    limit: &'static str,
    outcome: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Shed {
    source_workload_namespace: String,
    source_workload: String,
    reason: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Of {
    source_workload_namespace: String,
    source_workload: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Service {
    service_namespace: String,
    service_name: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Injected {
    policy_namespace: String,
    policy_name: String,
    kind: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Worker {
    worker: String,
}

impl Shaping {
    /// Makes and registers the families.
    pub(super) fn register(registry: &mut Registry, dropped: &Counter) -> Self {
        let it = Self {
            limited: Counts::new(dropped),
            shed: Counts::new(dropped),
            queued: Counts::new(dropped),
            refused: Counts::new(dropped),
            faults: Counts::new(dropped),
            lags: Family::default(),
            places: Family::default(),
        };
        registry.register(
            "mesh_proxy_rate_limited",
            "Requests, connections and pieces of opaque streams that a rate limit refused or delayed, by policy",
            it.limited.family(),
        );
        registry.register(
            "mesh_proxy_shed",
            "Requests that were refused because the worker was overloaded, by caller and reason",
            it.shed.family(),
        );
        registry.register(
            "mesh_proxy_queued",
            "Requests that waited for a place because the worker was overloaded, by caller",
            it.queued.family(),
        );
        registry.register(
            "mesh_proxy_concurrency_refused",
            "Requests beyond the adaptive concurrency of a service",
            it.refused.family(),
        );
        registry.register(
            "mesh_proxy_faults",
            "Delays and failures that were injected, by policy",
            it.faults.family(),
        );
        registry.register(
            "mesh_proxy_lag_seconds",
            "How long a worker took to come round when it was last busy",
            it.lags.clone(),
        );
        registry.register(
            "mesh_proxy_places",
            "Requests that a worker serves at once",
            it.places.clone(),
        );
        it
    }

    /// Counts what a limit of `limit` (requests, connections, bytes) has refused or delayed.
    pub(crate) fn limited(&self, policy: &ObjectKey, limit: &'static str, outcome: &'static str) {
        let labels = Limited {
            policy_namespace: policy.namespace.clone(),
            policy_name: policy.name.clone(),
            limit,
            outcome,
        };
        self.limited.inc(&labels);
    }

    /// Counts a request that was shed.
    pub(crate) fn shed(&self, workload: &ObjectKey, reason: &'static str) {
        let labels = Shed {
            source_workload_namespace: workload.namespace.clone(),
            source_workload: workload.name.clone(),
            reason,
        };
        self.shed.inc(&labels);
    }

    /// Counts a request that waited.
    pub(crate) fn queued(&self, workload: &ObjectKey) {
        let labels = Of {
            source_workload_namespace: workload.namespace.clone(),
            source_workload: workload.name.clone(),
        };
        self.queued.inc(&labels);
    }

    /// Counts a request that its service could not take.
    pub(crate) fn saturated(&self, service: &ObjectKey) {
        let labels = Service {
            service_namespace: service.namespace.clone(),
            service_name: service.name.clone(),
        };
        self.refused.inc(&labels);
    }

    /// Counts a delay or an abort.
    pub(crate) fn fault(&self, policy: &ObjectKey, kind: &'static str) {
        let labels = Injected {
            policy_namespace: policy.namespace.clone(),
            policy_name: policy.name.clone(),
            kind,
        };
        self.faults.inc(&labels);
    }

    pub(super) fn sweep(&self, now_ns: u64) {
        self.limited.sweep(now_ns);
        self.shed.sweep(now_ns);
        self.queued.sweep(now_ns);
        self.refused.sweep(now_ns);
        self.faults.sweep(now_ns);
    }

    /// The gauges of a worker.
    pub(crate) fn worker(&self, number: usize) -> WorkerGauges {
        let labels = Worker {
            worker: number.to_string(),
        };
        WorkerGauges {
            lag: self.lags.get_or_create_owned(&labels),
            places: self.places.get_or_create_owned(&labels),
        }
    }
}

/// How busy a worker is.
#[derive(Clone, Debug)]
pub(crate) struct WorkerGauges {
    lag: Gauge<f64, AtomicU64>,
    places: Gauge,
}

impl WorkerGauges {
    /// Shows a look.
    pub(crate) fn show(&self, level: &Level) {
        let lag = std::time::Duration::from_nanos(level.lag_ns());
        self.lag.set(lag.as_secs_f64());
        self.places
            .set(i64::try_from(level.places()).unwrap_or(i64::MAX));
    }
}
