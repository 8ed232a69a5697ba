//! Metrics of the sources.

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric as _};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::gauge::ConstGauge;

use super::Board;
use crate::metrics::Registry;
use crate::state::report::SourceReport;

/// Registers them; they are read from the board when somebody asks.
pub fn register(registry: &mut Registry, board: Board) {
    registry.register_collector(Sources { board });
}

#[derive(Debug)]
struct Sources {
    board: Board,
}

impl Collector for Sources {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> std::fmt::Result {
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
