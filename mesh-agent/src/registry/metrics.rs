//! Metrics of the sources.

use std::fmt;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric as _};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;

use super::Board;
use crate::metrics::Registry;
use crate::state::graph::Undeclared;
use crate::state::report::SourceReport;

/// Registers them; they are read from the board when somebody asks.
pub fn register(registry: &mut Registry, board: Board) {
    registry.register_collector(Sources { board });
}

/// Registers what is told of calls that no service declares. They are found when somebody asks.
pub fn register_edges(
    registry: &mut Registry,
    find: impl Fn() -> Vec<Undeclared> + Send + Sync + 'static,
) {
    registry.register_collector(Calls(find));
}

/// Pairs of services that have series of their own.
const MAX_SERIES: usize = 1_000;

struct Calls<F>(F);

impl<F> fmt::Debug for Calls<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Calls").finish_non_exhaustive()
    }
}

impl<F: Fn() -> Vec<Undeclared> + Send + Sync + 'static> Collector for Calls<F> {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let found = (self.0)();
        let (name, help) = (
            "mesh_undeclared_edges",
            "Pairs of services of which one was seen to call the other without declaring it",
        );
        let metric = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
        ConstGauge::new(found.len() as u64).encode(metric)?;
        for (name, help, read) in COUNTS {
            let mut family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
            for it in found.iter().take(MAX_SERIES) {
                let labels = [
                    ("source_service_namespace", it.source.namespace.as_str()),
                    ("source_service", it.source.name.as_str()),
                    (
                        "destination_service_namespace",
                        it.destination.namespace.as_str(),
                    ),
                    ("destination_service", it.destination.name.as_str()),
                ];
                ConstCounter::new(read(it)).encode(family.encode_family(&labels)?)?;
            }
        }
        Ok(())
    }
}

/// Name, meaning, and how it is read.
type Count = (&'static str, &'static str, fn(&Undeclared) -> u64);

const COUNTS: [Count; 2] = [
    (
        "mesh_undeclared_edge_connections",
        "Connections of a service to one that it does not declare, once they have ended or were refused",
        |it| it.traffic.total(),
    ),
    (
        "mesh_undeclared_edge_requests",
        "Requests of a service to one that it does not declare, of the last ten minutes at least",
        |it| it.traffic.requests,
    ),
];

#[derive(Debug)]
struct Sources {
    board: Board,
}

impl Collector for Sources {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let reports = self.board.read();
        for (name, help, read) in GAUGES {
            let mut family = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
            for report in &reports {
                let labels = [("source", report.source.name())];
                let metric = family.encode_family(&labels)?;
                ConstGauge::new(read(report)).encode(metric)?;
            }
        }
        Ok(())
    }
}

/// Name, meaning, and how it is read.
type Gauge = (&'static str, &'static str, fn(&SourceReport) -> u64);

const GAUGES: [Gauge; 3] = [
    (
        "mesh_registry_rejected",
        "Objects and files of a source that are refused now",
        |it| it.rejected,
    ),
    (
        "mesh_registry_source_objects",
        "Objects of a source that are in force or that it holds on to",
        |it| it.objects,
    ),
    (
        "mesh_registry_source_up",
        "Whether a source can be read: 1 or 0",
        |it| u64::from(it.error.is_none()),
    ),
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::Source;

    #[test]
    fn every_source_has_its_series() {
        let board = Board::default();
        let mut registry = Registry::new();
        register(&mut registry, board.clone());
        let report = SourceReport {
            source: Source::Files,
            objects: 3,
            rejected: 2,
            ..SourceReport::default()
        };
        board.post(Source::Files, report);

        let text = registry.encode().expect("it encodes");

        for line in [
            "mesh_registry_rejected{source=\"files\"} 2",
            "mesh_registry_source_objects{source=\"files\"} 3",
            "mesh_registry_source_up{source=\"files\"} 1",
        ] {
            assert!(text.contains(line), "{text}");
        }
    }
}
