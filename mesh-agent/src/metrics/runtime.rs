//! What Tokio knows of its runtimes: the data plane's workers and the agent's own.

use std::fmt;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric as _};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use tokio::runtime::{Handle, RuntimeMetrics};

use super::Registry;

/// Adds the `tokio_*` metrics of these runtimes; each name is the value of the label `runtime`.
pub fn register(registry: &mut Registry, runtimes: impl IntoIterator<Item = (String, Handle)>) {
    let runtimes = runtimes.into_iter();
    registry.register_collector(Runtimes(
        runtimes
            .map(|(name, handle)| (name, handle.metrics()))
            .collect(),
    ));
}

struct Runtimes(Vec<(String, RuntimeMetrics)>);

impl fmt::Debug for Runtimes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = self.0.iter().map(|(name, _)| name);
        f.debug_list().entries(names).finish()
    }
}

impl Collector for Runtimes {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        for (name, help, read) in GAUGES {
            let mut family = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
            for (runtime, metrics) in &self.0 {
                let labels = [("runtime", runtime.as_str())];
                let metric = family.encode_family(&labels)?;
                ConstGauge::new(read(metrics) as u64).encode(metric)?;
            }
        }
        let name = "tokio_worker_busy_seconds";
        let help = "Time that the threads of the runtime were busy";
        let mut family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
        for (runtime, metrics) in &self.0 {
            let workers = 0..metrics.num_workers();
            let busy = workers.map(|worker| metrics.worker_total_busy_duration(worker));
            let busy: f64 = busy.map(|time| time.as_secs_f64()).sum();
            let labels = [("runtime", runtime.as_str())];
            ConstCounter::new(busy).encode(family.encode_family(&labels)?)?;
        }
        Ok(())
    }
}

type Gauge = (&'static str, &'static str, fn(&RuntimeMetrics) -> usize);

const GAUGES: [Gauge; 3] = [
    (
        "tokio_workers",
        "Threads of the runtime",
        RuntimeMetrics::num_workers,
    ),
    (
        "tokio_alive_tasks",
        "Tasks that have not finished",
        RuntimeMetrics::num_alive_tasks,
    ),
    (
        "tokio_global_queue_depth",
        "Tasks that wait for a thread",
        RuntimeMetrics::global_queue_depth,
    ),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn each_runtime_has_its_series() {
        let mut registry = Registry::new();
        register(&mut registry, [("main".to_owned(), Handle::current())]);
        let text = registry.encode().expect("it encodes");
        assert!(text.contains("tokio_workers{runtime=\"main\"} 1"), "{text}");
        assert!(
            text.contains("tokio_worker_busy_seconds_total{runtime=\"main\"} "),
            "{text}"
        );
    }
}
