//! Open direct connections of each endpoint, as the kernel counts them to balance by.

use std::collections::BTreeMap;
use std::fmt;

use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric as _};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::gauge::ConstGauge;

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
    let mut counts: BTreeMap<&ObjectKey, u64> = BTreeMap::new();
    // Few are in use, however many there are.
    for (number, count) in open.iter().filter(|(_, count)| *count > 0) {
        if let Some(Subject::Endpoint(key, _)) = snapshot.ids.subject(*number) {
            *counts.entry(key).or_default() += count;
        }
    }
    // One sample per endpoint, over all of its ports; zero where the kernel has counted nothing yet.
    for (key, endpoint) in &snapshot.endpoints {
        let labels = [
            ("namespace", key.namespace.as_str()),
            ("service", endpoint.spec.service.as_str()),
            ("endpoint", key.name.as_str()),
        ];
        let count = counts.get(key).copied().unwrap_or(0);
        ConstGauge::new(count).encode(family.encode_family(&labels)?)?;
    }
    Ok(())
}
