//! Metrics of the kernel side: what the maps count and hold, read when somebody asks.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;

/// Counters that the agent itself advances.
#[derive(Clone, Debug, Default)]
pub struct Metrics {
    write_errors: Family<MapLabel, Counter>,
}

/// Which map.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct MapLabel {
    map: &'static str,
}

impl Metrics {
    /// Counts a write that the kernel refused.
    pub fn count_write_error(&self, map: &'static str) {
        self.write_errors.get_or_create(&MapLabel { map }).inc();
    }
}
