//! Metrics of the API.

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;

use crate::metrics::Registry;

/// Every family.
#[derive(Clone, Debug, Default)]
pub struct Metrics {
    refused: Family<[(&'static str, &'static str); 1], Counter>,
}

/// Of what there was too much.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Excess {
    /// Answers that may be as large as the registry.
    LargeAnswers,
    /// Blocking queries of the Consul API.
    BlockingQueries,
    /// Watches of objects.
    Watches,
}

impl Metrics {
    /// Registers every family.
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        registry.register(
            "mesh_api_refused",
            "Requests to the API that were refused because there were too many, by what there was too much of",
            metrics.refused.clone(),
        );
        metrics
    }

    /// Counts a request that is refused.
    pub(super) fn refuse(&self, excess: Excess) {
        let excess = match excess {
            Excess::LargeAnswers => "large-answers",
            Excess::BlockingQueries => "blocking-queries",
            Excess::Watches => "watches",
        };
        self.refused.get_or_create(&[("excess", excess)]).inc();
        tracing::warn!(excess, "the API has refused a request");
    }

    /// How many were refused.
    #[cfg(test)]
    pub(super) fn refused(&self, excess: &'static str) -> u64 {
        self.refused.get_or_create(&[("excess", excess)]).get()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scrape_tells_what_was_refused() {
        let mut registry = Registry::new();
        Metrics::register(&mut registry).refuse(Excess::Watches);
        let text = registry.encode().expect("it encodes");
        assert!(
            text.contains("mesh_api_refused_total{excess=\"watches\"} 1"),
            "{text}"
        );
    }
}
