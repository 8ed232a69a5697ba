//! Open direct connections of each endpoint, as the kernel counts them to balance by.

use std::collections::BTreeMap;
use std::fmt;

use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric as _};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::gauge::ConstGauge;

use super::{Labels, Samples};
use crate::state::Snapshot;
use crate::state::id::Subject;
use crate::state::object::ObjectKey;

/// Writes the family. `open` is what the kernel holds, by the number of an endpoint's port.
pub(super) fn encode(
    encoder: &mut DescriptorEncoder<'_>,
    snapshot: &Snapshot,
    open: &[(u32, u64)],
) -> fmt::Result {
    let mut family = encoder.encode_descriptor(
        "mesh_endpoint_open_connections",
        "Direct connections to an endpoint that are open",
        None,
        MetricType::Gauge,
    )?;
    for (labels, count) in &samples(snapshot, open) {
        ConstGauge::new(*count).encode(family.encode_family(labels)?)?;
    }
    Ok(())
}

/// One sample per endpoint, over all of its ports; zero where the kernel has counted nothing yet.
fn samples(snapshot: &Snapshot, open: &[(u32, u64)]) -> Samples {
    let open: BTreeMap<u32, u64> = open.iter().copied().collect();
    let mut counts: BTreeMap<&ObjectKey, u64> =
        snapshot.endpoints.keys().map(|key| (key, 0)).collect();
    for (subject, number) in snapshot.ids.iter() {
        if let Subject::Endpoint(key, _) = subject
            && let Some(count) = counts.get_mut(key)
        {
            *count += open.get(&number).copied().unwrap_or(0);
        }
    }
    let labelled = counts.into_iter().filter_map(|(key, count)| {
        let service = &snapshot.endpoints.get(key)?.spec.service;
        Some((labels(key, service), count))
    });
    labelled.collect()
}

fn labels(key: &ObjectKey, service: &str) -> Labels {
    vec![
        ("namespace", key.namespace.clone()),
        ("service", service.to_owned()),
        ("endpoint", key.name.clone()),
    ]
}
