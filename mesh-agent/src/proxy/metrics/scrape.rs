//! Families as they are scraped: series by series. A family as a whole would be locked until the last of its series is
//! written, and with it every request that is the first of its kind.

use std::fmt;
use std::sync::Arc;

use prometheus_client::encoding::{EncodeMetric, MetricEncoder};
use prometheus_client::metrics::family::{Family, MetricConstructor};
use prometheus_client::metrics::{MetricType, TypedMetric};

use super::labels::Outcome;
use super::leases::Leases;

/// A family, for the registry.
#[derive(Debug)]
pub(super) struct Scraped<M, C> {
    family: Family<Outcome, M, C>,
    leases: Arc<Leases<Outcome>>,
}

impl<M, C: Clone> Scraped<M, C> {
    /// The family whose label sets `leases` knows.
    pub(super) fn new(family: &Family<Outcome, M, C>, leases: &Arc<Leases<Outcome>>) -> Self {
        Self {
            family: family.clone(),
            leases: Arc::clone(leases),
        }
    }
}

impl<M, C> EncodeMetric for Scraped<M, C>
where
    M: EncodeMetric + TypedMetric + Clone,
    C: MetricConstructor<M>,
{
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> fmt::Result {
        let shared = Outcome::overflow();
        for labels in self.leases.labels().iter().chain([&shared]) {
            // Gone, or not there yet.
            let Some(metric) = self.family.get(labels).map(|it| M::clone(&it)) else {
                continue;
            };
            metric.encode(encoder.encode_family(labels)?)?;
        }
        Ok(())
    }

    fn metric_type(&self) -> MetricType {
        M::TYPE
    }

    fn is_empty(&self) -> bool {
        self.family.is_empty()
    }
}
