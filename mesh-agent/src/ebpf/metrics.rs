//! Metrics of the kernel side. What the kernel's programs count is added up when somebody asks, not on a timer.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use mesh_common::stats::{Counter as Stat, StatKey};
use mesh_common::verdict::{Reason, Verdict};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric as _};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::{ConstCounter, Counter};
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::ConstGauge;

use super::numbers::Numbers;
use crate::metrics::Registry;
use crate::state::Snapshot;
use crate::state::object::ObjectKey;
use crate::state::report::MapReport;

mod endpoints;
#[cfg(test)]
mod tests;

/// Counters that the agent itself advances.
#[derive(Clone, Debug, Default)]
pub struct Metrics {
    writes: Family<MapLabel, Counter>,
    write_errors: Family<MapLabel, Counter>,
}

/// Which map.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct MapLabel {
    map: &'static str,
}

impl Metrics {
    /// Counts a write that was done.
    pub fn count_write(&self, map: &'static str) {
        self.writes.get_or_create(&MapLabel { map }).inc();
    }

    /// Counts a write that the kernel refused.
    pub fn count_write_error(&self, map: &'static str) {
        self.write_errors.get_or_create(&MapLabel { map }).inc();
    }
}

/// Where a scrape reads. Each is called once per scrape and may take as long as reading a map does.
pub trait Source: Send + Sync + 'static {
    /// The objects, for names.
    fn snapshot(&self) -> Arc<Snapshot>;

    /// `STATS`, added up over the CPUs; empty if it cannot be read.
    fn stats(&self) -> Vec<(StatKey, u64)>;

    /// `OPEN`, by the number of an endpoint's port; empty if it cannot be read.
    fn open_connections(&self) -> Vec<(u32, u64)>;

    /// Entries and capacity of the maps.
    fn maps(&self) -> Vec<MapReport>;
}

/// Registers everything that this module exports.
pub fn register(registry: &mut Registry, source: impl Source) -> Metrics {
    let metrics = Metrics::default();
    registry.register(
        "mesh_map_writes",
        "Writes of the mirror of the registry to kernel maps: as many as a change touches entries",
        metrics.writes.clone(),
    );
    registry.register(
        "mesh_map_write_errors",
        "Writes to kernel maps that the kernel refused",
        metrics.write_errors.clone(),
    );
    registry.register_collector(Scrape(source));
    metrics
}

/// Reads the source at each scrape.
struct Scrape<S>(S);

impl<S> fmt::Debug for Scrape<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Scrape").finish_non_exhaustive()
    }
}

impl<S: Source> Collector for Scrape<S> {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let numbers = Numbers::of(self.0.snapshot());
        let sums = Sums::of(&self.0.stats(), &numbers);
        for (family, samples) in &sums.0 {
            family.encode(&mut encoder, samples)?;
        }
        endpoints::encode(&mut encoder, numbers.snapshot(), &self.0.open_connections())?;
        encode_maps(&mut encoder, &self.0.maps())
    }
}

/// What stands where nothing is known.
const UNKNOWN: &str = "unknown";

/// Labels of one sample.
type Labels = Vec<(&'static str, String)>;

/// Samples of one family.
type Samples = BTreeMap<Labels, u64>;

/// The counters of the kernel, by family. A family without samples is there too, so that its name is known.
struct Sums(BTreeMap<Exported, Samples>);

impl Sums {
    fn of(stats: &[(StatKey, u64)], numbers: &Numbers) -> Self {
        let mut sums: BTreeMap<Exported, Samples> = Exported::ALL
            .into_iter()
            .map(|family| (family, Samples::new()))
            .collect();
        for (stat, count) in stats {
            if let Some(family) = Exported::of(stat.counter)
                && let Some(labels) = family.labels(*stat, numbers)
            {
                *sums.entry(family).or_default().entry(labels).or_default() += count;
            }
        }
        Self(sums)
    }
}

/// What is exported of the kernel's counters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Exported {
    Connections,
    Bypassed,
    AuditDenied,
    InboundDenied,
    AcceleratedBytes,
    AcceleratedMessages,
    AccelerationFallback,
    EventsLost,
    MapFull,
    StatsLost,
}

impl Exported {
    const ALL: [Self; 10] = [
        Self::Connections,
        Self::Bypassed,
        Self::AuditDenied,
        Self::InboundDenied,
        Self::AcceleratedBytes,
        Self::AcceleratedMessages,
        Self::AccelerationFallback,
        Self::EventsLost,
        Self::MapFull,
        Self::StatsLost,
    ];

    /// The family of a counter.
    const fn of(counter: u16) -> Option<Self> {
        const BYPASS: u16 = Stat::Bypass as u16;
        const AUDIT_DENY: u16 = Stat::AuditDeny as u16;
        const INBOUND_DENY: u16 = Stat::InboundDeny as u16;
        const BYTES: u16 = Stat::AcceleratedBytes as u16;
        const MESSAGES: u16 = Stat::AcceleratedMessages as u16;
        const FALLBACK: u16 = Stat::AccelerationFallback as u16;
        const EVENT_LOST: u16 = Stat::EventLost as u16;
        const MAP_FULL: u16 = Stat::MapFull as u16;
        const STAT_LOST: u16 = Stat::StatLost as u16;
        Some(match counter {
            1..=4 => Self::Connections,
            BYPASS => Self::Bypassed,
            AUDIT_DENY => Self::AuditDenied,
            INBOUND_DENY => Self::InboundDenied,
            BYTES => Self::AcceleratedBytes,
            MESSAGES => Self::AcceleratedMessages,
            FALLBACK => Self::AccelerationFallback,
            EVENT_LOST => Self::EventsLost,
            MAP_FULL => Self::MapFull,
            STAT_LOST => Self::StatsLost,
            _ => return None,
        })
    }

    /// Name (the encoder adds `_total`) and help.
    const fn describe(self) -> (&'static str, &'static str) {
        match self {
            Self::Connections => (
                "mesh_connections",
                "Connections of workloads by verdict and reason",
            ),
            Self::Bypassed => ("mesh_bypassed", "Connections that left without a verdict"),
            Self::AuditDenied => (
                "mesh_audit_denied",
                "Connections that an audited policy would have refused",
            ),
            Self::InboundDenied => (
                "mesh_inbound_denied",
                "Connections to a workload that were refused at the destination",
            ),
            Self::AcceleratedBytes => (
                "mesh_accelerated_bytes",
                "Bytes that went from socket to socket",
            ),
            Self::AcceleratedMessages => (
                "mesh_accelerated_messages",
                "Messages that went from socket to socket",
            ),
            Self::AccelerationFallback => (
                "mesh_acceleration_fallback",
                "Directions of connections that fell back to TCP, by reason",
            ),
            Self::EventsLost => (
                "mesh_events_lost",
                "Records of the kernel that found no room in the ring buffer, half of which is for those of closed connections",
            ),
            Self::MapFull => (
                "mesh_map_full",
                "Writes of kernel programs that found a map full, by what was to be written",
            ),
            Self::StatsLost => (
                "mesh_stats_lost",
                "Counts of kernel programs that found no room for a new counter",
            ),
        }
    }

    /// The labels of one counter; `None` if it is of an object that is gone.
    fn labels(self, stat: StatKey, numbers: &Numbers) -> Option<Labels> {
        let reason = Reason::from_number(stat.reason).unwrap_or_default();
        let reason = ("reason", reason.as_str().to_owned());
        let workload = || numbers.workload(stat.subject).map(of_workload);
        let service = || of_service(numbers.service(stat.subject));
        Some(match self {
            Self::Connections => {
                let verdict = u8::try_from(stat.counter)
                    .ok()
                    .and_then(Verdict::from_number)?;
                let mut labels = workload()?;
                labels.push(("verdict", verdict.as_str().to_owned()));
                labels.push(reason);
                labels
            }
            // At the destination it may be that no workload has the address: an endpoint without one.
            Self::AuditDenied | Self::InboundDenied if stat.subject == 0 => {
                vec![
                    ("workload_namespace", UNKNOWN.to_owned()),
                    ("workload", UNKNOWN.to_owned()),
                    reason,
                ]
            }
            Self::Bypassed | Self::AuditDenied | Self::InboundDenied => {
                let mut labels = workload()?;
                labels.push(reason);
                labels
            }
            Self::AcceleratedBytes | Self::AcceleratedMessages => service(),
            Self::AccelerationFallback => {
                let mut labels = service();
                labels.push(reason);
                labels
            }
            Self::EventsLost | Self::StatsLost => Labels::new(),
            Self::MapFull => vec![reason],
        })
    }

    fn encode(self, encoder: &mut DescriptorEncoder<'_>, samples: &Samples) -> fmt::Result {
        let (name, help) = self.describe();
        let mut family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
        if matches!(self, Self::EventsLost | Self::StatsLost) {
            let lost: u64 = samples.values().sum();
            return ConstCounter::new(lost).encode(family);
        }
        for (labels, count) in samples {
            ConstCounter::new(*count).encode(family.encode_family(labels)?)?;
        }
        Ok(())
    }
}

fn of_workload(key: &ObjectKey) -> Labels {
    vec![
        ("workload_namespace", key.namespace.clone()),
        ("workload", key.name.clone()),
    ]
}

/// Bytes are moved, whether their service still exists or not: they must not be missing from the sum.
fn of_service(key: Option<&ObjectKey>) -> Labels {
    let unknown = || UNKNOWN.to_owned();
    vec![
        (
            "service_namespace",
            key.map_or_else(unknown, |key| key.namespace.clone()),
        ),
        ("service", key.map_or_else(unknown, |key| key.name.clone())),
    ]
}

fn encode_maps(encoder: &mut DescriptorEncoder<'_>, maps: &[MapReport]) -> fmt::Result {
    type Read = fn(&MapReport) -> u64;
    let families: [(&str, &str, Read); 2] = [
        (
            "mesh_map_entries",
            "Entries of a kernel map in use",
            |map| map.entries,
        ),
        (
            "mesh_map_capacity",
            "Most entries a kernel map can have",
            |map| map.capacity,
        ),
    ];
    for (name, help, read) in families {
        let mut family = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
        for map in maps {
            let labels = [("map", map.name.as_str())];
            ConstGauge::new(read(map)).encode(family.encode_family(&labels)?)?;
        }
    }
    Ok(())
}
