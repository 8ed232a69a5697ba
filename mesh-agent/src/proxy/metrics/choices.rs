//! Series about choices of endpoints that were not plain ones.

use std::fmt;

use prometheus_client::encoding::{EncodeLabel as _, EncodeLabelSet, LabelSetEncoder};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;

use super::Metrics;
use super::leases::{Lease, Leases};
use crate::metrics::Registry;
use crate::proxy::view::ServicePort;
use std::sync::Arc;

/// What was special about a choice.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum How {
    /// Health was ignored: too few endpoints are well, or none.
    Panic,
    /// By nearness, and taken from this place.
    Near(&'static str),
    /// This service took over: `NAME.NAMESPACE`.
    Failover(String),
}

/// Labels of a series: the service port that was asked.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Choice {
    service: String,
    namespace: String,
    port: u16,
    how: How,
}

/// The families, and which of their series are in use.
#[derive(Clone, Debug, Default)]
pub(super) struct Choices {
    panics: Family<Choice, Counter>,
    places: Family<Choice, Counter>,
    failovers: Family<Choice, Counter>,
    leases: Arc<Leases<Choice>>,
}

/// A counter of choices.
#[derive(Debug)]
pub(crate) struct ChoiceSeries {
    /// Choices that went so.
    pub(crate) count: Counter,
    _lease: Lease<Choice>,
}

impl Choices {
    pub(super) fn register(&self, registry: &mut Registry) {
        registry.register(
            "mesh_proxy_balancing_panic",
            "Attempts for which health was ignored, because too few endpoints are well or none is",
            self.panics.clone(),
        );
        registry.register(
            "mesh_proxy_locality_attempts",
            "Attempts of services that prefer what is near, by where they went",
            self.places.clone(),
        );
        registry.register(
            "mesh_proxy_failovers",
            "Attempts that another service took over",
            self.failovers.clone(),
        );
    }

    pub(super) fn sweep(&self, now_ns: u64) {
        self.leases.sweep(now_ns, |labels| {
            self.family(&labels.how).remove(labels);
        });
    }

    const fn family(&self, how: &How) -> &Family<Choice, Counter> {
        match how {
            How::Panic => &self.panics,
            How::Near(_) => &self.places,
            How::Failover(_) => &self.failovers,
        }
    }
}

impl Metrics {
    /// Counts a choice for a service port.
    pub(crate) fn chosen(&self, port: &ServicePort, how: How) {
        let make = || {
            let labels = Choice {
                service: port.service.name.clone(),
                namespace: port.service.namespace.clone(),
                port: port.port,
                how: how.clone(),
            };
            let choices = &self.choices;
            let find = |labels: &Choice| choices.family(&labels.how).get_or_create_owned(labels);
            let taken = choices.leases.take(&labels, find);
            taken.map(|(lease, count)| ChoiceSeries {
                count,
                _lease: lease,
            })
        };
        match &*port.memory.chosen(&how, make) {
            Some(series) => drop(series.count.inc()),
            None => drop(self.dropped.inc()),
        }
    }
}

impl EncodeLabelSet for Choice {
    fn encode(&self, encoder: &mut LabelSetEncoder<'_>) -> fmt::Result {
        ("service", self.service.as_str()).encode(encoder.encode_label())?;
        ("namespace", self.namespace.as_str()).encode(encoder.encode_label())?;
        ("port", u32::from(self.port)).encode(encoder.encode_label())?;
        match &self.how {
            How::Panic => Ok(()),
            How::Near(place) => ("locality", *place).encode(encoder.encode_label()),
            How::Failover(to) => ("to", to.as_str()).encode(encoder.encode_label()),
        }
    }
}
