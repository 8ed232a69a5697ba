//! The one registry of metrics, and the few kinds that the Prometheus crate does not bring.
//!
//! Each engine registers its own families in its `metrics.rs`. Names are given in full: nothing is prefixed, because
//! the Istio series keep their own names beside `mesh_*`.

pub mod build;
pub mod histogram;
pub mod process;
pub mod runtime;

use std::fmt;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric as _, text};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry;

pub use histogram::Histogram;

/// `Content-Type` of [`Registry::encode`].
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Every metric of the agent.
#[derive(Debug, Default)]
pub struct Registry(registry::Registry);

impl Registry {
    /// An empty registry.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// A registry that already knows build and process.
    #[must_use]
    pub fn with_process() -> Self {
        let mut registry = Self::new();
        build::register(&mut registry);
        process::register(&mut registry);
        registry
    }

    /// Adds a metric or a family. A counter is named without `_total`, which the encoder adds.
    pub fn register(&mut self, name: &str, help: &str, metric: impl registry::Metric) {
        self.0.register(name, help, metric);
    }

    /// Adds something that is read when somebody asks.
    pub fn register_collector(&mut self, collector: impl Collector) {
        self.0.register_collector(Box::new(collector));
    }

    /// Adds a counter whose value somebody else keeps.
    pub fn register_counter(
        &mut self,
        name: &'static str,
        help: &'static str,
        read: impl Fn() -> u64 + Send + Sync + 'static,
    ) {
        let kind = MetricType::Counter;
        self.register_collector(Reading {
            name,
            help,
            kind,
            read,
        });
    }

    /// Adds a gauge whose value somebody else keeps.
    pub fn register_gauge(
        &mut self,
        name: &'static str,
        help: &'static str,
        read: impl Fn() -> u64 + Send + Sync + 'static,
    ) {
        let kind = MetricType::Gauge;
        self.register_collector(Reading {
            name,
            help,
            kind,
            read,
        });
    }

    /// Everything, in the text format of the `OpenMetrics` standard.
    pub fn encode(&self) -> Result<String, fmt::Error> {
        let mut out = String::with_capacity(EXPECTED_SIZE);
        text::encode(&mut out, &self.0)?;
        Ok(out)
    }
}

/// A value that is read when somebody asks.
struct Reading<F> {
    name: &'static str,
    help: &'static str,
    kind: MetricType,
    read: F,
}

impl<F> fmt::Debug for Reading<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reading")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

impl<F: Fn() -> u64 + Send + Sync + 'static> Collector for Reading<F> {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let metric = encoder.encode_descriptor(self.name, self.help, None, self.kind)?;
        match self.kind {
            MetricType::Counter => ConstCounter::new((self.read)()).encode(metric),
            _ => ConstGauge::new((self.read)()).encode(metric),
        }
    }
}

/// First size of the text, so that a scrape does not grow it many times.
const EXPECTED_SIZE: usize = 32 * 1024;

#[cfg(test)]
mod tests {
    use prometheus_client::metrics::counter::Counter;
    use prometheus_client::metrics::family::Family;
    use prometheus_client::metrics::gauge::Gauge;

    use super::*;

    #[test]
    fn text_is_open_metrics_with_full_names_and_an_end() {
        let mut registry = Registry::new();
        let verdicts = Family::<Vec<(&str, &str)>, Counter>::default();
        registry.register(
            "mesh_connections",
            "Connections by verdict",
            verdicts.clone(),
        );
        verdicts
            .get_or_create(&vec![("workload", "we\"b"), ("verdict", "direct")])
            .inc_by(3);
        let open = Gauge::<i64>::default();
        registry.register("mesh_open", "Open connections", open.clone());
        open.set(2);
        registry.register_counter("mesh_log_lines_dropped", "Lines lost", || 7);
        registry.register_gauge("mesh_workers", "Workers", || 4);
        let seconds = Histogram::new(&[0.5, 1.0]);
        registry.register("mesh_wait_seconds", "Waiting", seconds.clone());
        seconds.observe(0.5);
        seconds.observe(3.0);

        assert_eq!(registry.encode().expect("it encodes"), GOLDEN);
    }

    #[test]
    fn build_and_process_are_there_from_the_start() {
        let text = Registry::with_process().encode().expect("it encodes");
        assert!(text.contains("mesh_build_info{version=\""), "{text}");
        assert!(text.contains("process_open_fds "), "{text}");
    }

    const GOLDEN: &str = "\
# HELP mesh_connections Connections by verdict.
# TYPE mesh_connections counter
mesh_connections_total{workload=\"we\\\"b\",verdict=\"direct\"} 3
# HELP mesh_open Open connections.
# TYPE mesh_open gauge
mesh_open 2
# HELP mesh_wait_seconds Waiting.
# TYPE mesh_wait_seconds histogram
mesh_wait_seconds_sum 3.5
mesh_wait_seconds_count 2
mesh_wait_seconds_bucket{le=\"0.5\"} 1
mesh_wait_seconds_bucket{le=\"1.0\"} 1
mesh_wait_seconds_bucket{le=\"+Inf\"} 2
# HELP mesh_log_lines_dropped Lines lost
# TYPE mesh_log_lines_dropped counter
mesh_log_lines_dropped_total 7
# HELP mesh_workers Workers
# TYPE mesh_workers gauge
mesh_workers 4
# EOF
";
}
