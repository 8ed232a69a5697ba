//! Series of the proxy: those of Istio, with every label that Kiali asks for, and our own.
//!
//! Handles are found once per caller and endpoint, and once per outcome, and kept where the request path meets them
//! anyway: no request looks up a family.

mod choices;
mod edges;
pub(crate) mod guards;
mod labels;
mod leases;
mod scrape;
mod series;
mod shaping;

use std::fmt;
use std::sync::Arc;

use prometheus_client::encoding::{EncodeLabel as _, EncodeLabelSet, LabelSetEncoder};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::{Family, MetricConstructor};
pub(crate) use prometheus_client::metrics::gauge::Gauge;

use choices::Choices;
pub(crate) use choices::{ChoiceSeries, How};
use labels::UNKNOWN;
pub(crate) use labels::{End, Ends, Outcome, OutcomeKey, code};
use leases::Leases;
use scrape::Scraped;
pub(crate) use series::{Leased, Series, TcpSeries};
pub(crate) use shaping::{Shaping, WorkerGauges};

use super::limits::Usage;
use super::policy::breaker::Limit;
use crate::metrics::Registry;
use crate::metrics::histogram::{BYTES, Histogram, MILLISECONDS};
use crate::traffic::breaker;
use crate::traffic::outlier;

type Reason = [(&'static str, &'static str); 1];
type Worker = [(&'static str, String); 1];

/// Every family of the proxy.
#[derive(Clone, Debug)]
pub(crate) struct Metrics {
    requests: Family<Outcome, Counter>,
    durations: Family<Outcome, Histogram, Bounds>,
    request_bytes: Family<Outcome, Histogram, Bounds>,
    response_bytes: Family<Outcome, Histogram, Bounds>,
    tcp_sent: Family<Outcome, Counter>,
    tcp_received: Family<Outcome, Counter>,
    tcp_opened: Family<Outcome, Counter>,
    tcp_closed: Family<Outcome, Counter>,
    http_leases: Arc<Leases<Outcome>>,
    tcp_leases: Arc<Leases<Outcome>>,
    choices: Choices,
    dropped: Counter,
    refused: Family<Reason, Counter>,
    errors: Family<Reason, Counter>,
    retries: Family<Reason, Counter>,
    retries_refused: Family<Reason, Counter>,
    hedges: Family<Reason, Counter>,
    ejections: Family<Reason, Counter>,
    checks: Family<Reason, Counter>,
    breaker_changes: Family<Reason, Counter>,
    breaker_overflows: Family<Reason, Counter>,
    detected: Family<Reason, Counter>,
    mirrored: Family<Reason, Counter>,
    worker_connections: Family<Worker, Gauge>,
    /// What is limited, shed and injected.
    pub(crate) shaping: Shaping,
    /// Audited policies that would have refused.
    pub(crate) audited: Counter,
    /// Connections to endpoints, by use.
    pub(crate) pool_idle: Gauge,
    /// Connections to endpoints that were made.
    pub(crate) pool_dialled: Counter,
    /// Requests that found a connection ready.
    pub(crate) pool_reused: Counter,
}

#[derive(Clone, Copy, Debug)]
struct Bounds(&'static [f64]);

impl MetricConstructor<Histogram> for Bounds {
    fn new_metric(&self) -> Histogram {
        Histogram::new(self.0)
    }
}

/// Makes and registers the families.
pub(crate) fn register(registry: &mut Registry) -> Metrics {
    let dropped = Counter::default();
    let metrics = Metrics {
        requests: Family::default(),
        durations: Family::new_with_constructor(Bounds(MILLISECONDS)),
        request_bytes: Family::new_with_constructor(Bounds(BYTES)),
        response_bytes: Family::new_with_constructor(Bounds(BYTES)),
        tcp_sent: Family::default(),
        tcp_received: Family::default(),
        tcp_opened: Family::default(),
        tcp_closed: Family::default(),
        http_leases: Arc::new(Leases::among(|it: &Outcome| Some(it.caller()))),
        tcp_leases: Arc::new(Leases::among(|it: &Outcome| Some(it.caller()))),
        choices: Choices::default(),
        refused: Family::default(),
        errors: Family::default(),
        retries: Family::default(),
        retries_refused: Family::default(),
        hedges: Family::default(),
        ejections: Family::default(),
        checks: Family::default(),
        breaker_changes: Family::default(),
        breaker_overflows: Family::default(),
        detected: Family::default(),
        mirrored: Family::default(),
        worker_connections: Family::default(),
        shaping: Shaping::register(registry, &dropped),
        dropped,
        audited: Counter::default(),
        pool_idle: Gauge::default(),
        pool_dialled: Counter::default(),
        pool_reused: Counter::default(),
    };
    metrics.register_istio(registry);
    metrics.register_mesh(registry);
    metrics.choices.register(registry);
    metrics
}

/// Shows what all workloads hold together.
pub(crate) fn register_usage(registry: &mut Registry, usage: Arc<Usage>) {
    registry.register_gauge(
        "mesh_proxy_buffered_bytes",
        "Bytes set aside for the buffers of connections",
        move || u64::try_from(usage.buffered()).unwrap_or(u64::MAX),
    );
}

impl Metrics {
    fn register_istio(&self, registry: &mut Registry) {
        let http = &self.http_leases;
        registry.register(
            "istio_requests",
            "Requests",
            Scraped::new(&self.requests, http),
        );
        registry.register(
            "istio_request_duration_milliseconds",
            "Time from the head of a request to the end of its response",
            Scraped::new(&self.durations, http),
        );
        registry.register(
            "istio_request_bytes",
            "Bytes of request bodies",
            Scraped::new(&self.request_bytes, http),
        );
        registry.register(
            "istio_response_bytes",
            "Bytes of response bodies",
            Scraped::new(&self.response_bytes, http),
        );
        let tcp = &self.tcp_leases;
        registry.register(
            "istio_tcp_sent_bytes",
            "Bytes sent to callers",
            Scraped::new(&self.tcp_sent, tcp),
        );
        registry.register(
            "istio_tcp_received_bytes",
            "Bytes received from callers",
            Scraped::new(&self.tcp_received, tcp),
        );
        registry.register(
            "istio_tcp_connections_opened",
            "Opaque connections opened",
            Scraped::new(&self.tcp_opened, tcp),
        );
        registry.register(
            "istio_tcp_connections_closed",
            "Opaque connections closed",
            Scraped::new(&self.tcp_closed, tcp),
        );
    }

    fn register_mesh(&self, registry: &mut Registry) {
        registry.register(
            "mesh_metrics_series_dropped",
            "Series of Istio that were counted together because there are too many",
            self.dropped.clone(),
        );
        registry.register(
            "mesh_refused_connections",
            "Connections that the proxy refused before it read a request of them, by reason",
            self.refused.clone(),
        );
        registry.register(
            "mesh_proxy_errors",
            "Requests and connections that the proxy ended itself, by reason",
            self.errors.clone(),
        );
        registry.register(
            "mesh_proxy_retries",
            "Attempts after the first, by reason",
            self.retries.clone(),
        );
        self.register_resilience(registry);
        registry.register(
            "mesh_proxy_detected",
            "Connections by how their protocol was found",
            self.detected.clone(),
        );
        registry.register(
            "mesh_proxy_mirrored",
            "Copies of requests that routes asked for, by outcome: sent, failed, dropped for want of room or of a service",
            self.mirrored.clone(),
        );
        registry.register(
            "mesh_proxy_connections",
            "Client connections that are open, by worker",
            self.worker_connections.clone(),
        );
        registry.register(
            "mesh_proxy_audit_denied",
            "Connections and requests that an audited policy would have refused",
            self.audited.clone(),
        );
        registry.register(
            "mesh_proxy_pool_idle",
            "Connections to endpoints that wait for a request",
            self.pool_idle.clone(),
        );
        registry.register(
            "mesh_proxy_pool_dialled",
            "Connections to endpoints that were made",
            self.pool_dialled.clone(),
        );
        registry.register(
            "mesh_proxy_pool_reused",
            "Requests that found a connection ready",
            self.pool_reused.clone(),
        );
    }

    fn register_resilience(&self, registry: &mut Registry) {
        registry.register(
            "mesh_proxy_retries_refused",
            "Attempts after the first that were wanted and not made, by reason",
            self.retries_refused.clone(),
        );
        registry.register(
            "mesh_proxy_hedges",
            "Attempts beside one that was slow: sent, and of these won",
            self.hedges.clone(),
        );
        registry.register(
            "mesh_proxy_ejections",
            "Endpoints put aside, by reason",
            self.ejections.clone(),
        );
        registry.register(
            "mesh_proxy_health_checks",
            "Health checks of endpoints, by what they have shown",
            self.checks.clone(),
        );
        registry.register(
            "mesh_breaker_changes",
            "Circuit breakers that changed, by the state that they changed to",
            self.breaker_changes.clone(),
        );
        registry.register(
            "mesh_breaker_overflows",
            "Requests and connections that a limit of a circuit breaker refused, by limit",
            self.breaker_overflows.clone(),
        );
    }

    /// Counts a connection that was refused.
    pub(crate) fn refused(&self, reason: &'static str) {
        self.refused.get_or_create(&[("reason", reason)]).inc();
    }

    /// Counts a failure of the proxy's making.
    pub(crate) fn failed(&self, reason: &'static str) {
        self.errors.get_or_create(&[("reason", reason)]).inc();
    }

    /// Counts an attempt after the first.
    pub(crate) fn retried(&self, reason: &'static str) {
        self.retries.get_or_create(&[("reason", reason)]).inc();
    }

    /// Counts an attempt after the first that was not made.
    pub(crate) fn retry_refused(&self, reason: &'static str) {
        self.retries_refused
            .get_or_create(&[("reason", reason)])
            .inc();
    }

    /// Counts an attempt beside a slow one, `sent` or `won`.
    pub(crate) fn hedged(&self, outcome: &'static str) {
        self.hedges.get_or_create(&[("outcome", outcome)]).inc();
    }

    /// Counts an endpoint that was put aside.
    pub(crate) fn ejected(&self, reason: outlier::Reason) {
        self.ejections
            .get_or_create(&[("reason", reason.as_str())])
            .inc();
    }

    /// Counts a health check: `good`, `bad` or `unasked`.
    pub(crate) fn checked(&self, outcome: &'static str) {
        self.checks.get_or_create(&[("outcome", outcome)]).inc();
    }

    /// Counts a circuit breaker that has changed.
    pub(crate) fn breaker_changed(&self, state: breaker::State) {
        self.breaker_changes
            .get_or_create(&[("state", state.as_str())])
            .inc();
    }

    /// Counts what a limit of a circuit breaker refused.
    pub(crate) fn overflow(&self, what: Limit) {
        self.breaker_overflows
            .get_or_create(&[("limit", what.as_str())])
            .inc();
    }

    /// Counts how a protocol was found.
    pub(crate) fn detected(&self, how: &'static str) {
        self.detected.get_or_create(&[("outcome", how)]).inc();
    }

    /// Counts a copy of a request.
    pub(crate) fn mirrored(&self, outcome: &'static str) {
        self.mirrored.get_or_create(&[("outcome", outcome)]).inc();
    }

    /// The gauge of a worker's connections.
    pub(crate) fn worker(&self, number: usize) -> Gauge {
        self.worker_connections
            .get_or_create_owned(&[("worker", number.to_string())])
    }
}

impl EncodeLabelSet for Outcome {
    fn encode(&self, encoder: &mut LabelSetEncoder<'_>) -> fmt::Result {
        let Ends {
            source,
            destination,
            service,
            service_name,
            service_namespace,
        } = &*self.ends;
        let mut label = |name: &str, value: &str| (name, value).encode(encoder.encode_label());
        label("reporter", "source")?;
        label("source_workload", &source.workload)?;
        label("source_workload_namespace", &source.namespace)?;
        label("source_canonical_service", &source.canonical_service)?;
        label("source_canonical_revision", &source.revision)?;
        label("source_principal", &source.principal)?;
        label("source_app", &source.app)?;
        label("source_version", &source.version)?;
        label("source_cluster", UNKNOWN)?;
        label("destination_service", service)?;
        label("destination_service_name", service_name)?;
        label("destination_service_namespace", service_namespace)?;
        label("destination_workload", &destination.workload)?;
        label("destination_workload_namespace", &destination.namespace)?;
        label(
            "destination_canonical_service",
            &destination.canonical_service,
        )?;
        label("destination_canonical_revision", &destination.revision)?;
        label("destination_principal", &destination.principal)?;
        label("destination_app", &destination.app)?;
        label("destination_version", &destination.version)?;
        label("destination_cluster", UNKNOWN)?;
        label("request_protocol", self.key.protocol)?;
        if self.key.code != 0 {
            label("response_code", &self.key.code.to_string())?;
            let grpc = self.key.grpc.map(|status| status.to_string());
            label("grpc_response_status", grpc.as_deref().unwrap_or(""))?;
        }
        label("response_flags", self.key.flags)?;
        label("connection_security_policy", "none")
    }
}
