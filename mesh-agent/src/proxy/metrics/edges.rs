//! Who calls whom: read from the labels of the series that are kept anyway.

use super::Metrics;
use super::labels::UNKNOWN;
use crate::state::graph::Observed;
use crate::state::object::ObjectKey;

/// The first status that is a failure of the server.
const FIRST_FAILURE: u16 = 500;

impl Metrics {
    /// Requests by caller and service, as long as their series are kept.
    pub(crate) fn edges(&self) -> Observed {
        let mut observed = Observed::new();
        for labels in self.http_leases.labels() {
            let ends = &labels.ends;
            let (source, service) = (&ends.source, &ends.service_name);
            if source.workload == UNKNOWN || service == UNKNOWN {
                continue;
            }
            let Some(requests) = self.requests.get(&labels).map(|it| it.get()) else {
                continue;
            };
            let workload = ObjectKey::new(&source.namespace, &source.workload);
            let service = ObjectKey::new(&ends.service_namespace, service);
            let traffic = observed.entry((workload, service)).or_default();
            traffic.requests += requests;
            if labels.key.code == 0 || labels.key.code >= FIRST_FAILURE {
                traffic.failed += requests;
            }
        }
        observed
    }
}

#[cfg(test)]
mod tests {
    use super::super::{End, Ends, OutcomeKey, Series, register};
    use super::*;
    use crate::metrics::Registry;

    #[test]
    fn requests_are_summed_by_caller_and_service() {
        let metrics = register(&mut Registry::new());
        let series = |workload: &str| {
            let source = End {
                workload: workload.to_owned(),
                namespace: "shop".to_owned(),
                ..End::default()
            };
            let ends = Ends {
                source,
                service_name: "web".to_owned(),
                service_namespace: "shop".to_owned(),
                ..Ends::unknown()
            };
            Series::new(&metrics, ends)
        };
        let key = |code| OutcomeKey {
            protocol: "http",
            code,
            grpc: None,
            flags: "-",
        };
        let (client, stranger) = (series("client"), series(UNKNOWN));
        client.http(key(200)).requests.inc_by(3);
        client.http(key(503)).requests.inc();
        stranger.http(key(200)).requests.inc();

        let observed = metrics.edges();

        assert_eq!(observed.len(), 1);
        let ends = (
            ObjectKey::new("shop", "client"),
            ObjectKey::new("shop", "web"),
        );
        let traffic = &observed[&ends];
        assert_eq!((traffic.requests, traffic.failed), (4, 1));
    }
}
