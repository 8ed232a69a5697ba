//! Series of circuit breakers and retry budgets, read when somebody asks.

use std::fmt;
use std::sync::Arc;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric as _};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::gauge::ConstGauge;

use crate::metrics::Registry;
use crate::net::clock;
use crate::proxy::view::View;
use crate::proxy::view::cell::Views;

/// Labels and value.
type Samples = Vec<(Vec<(&'static str, String)>, u64)>;

/// Shows the breakers and budgets of the current view.
pub(crate) fn register(registry: &mut Registry, views: Arc<Views>) {
    registry.register_collector(Guards(views));
}

struct Guards(Arc<Views>);

impl fmt::Debug for Guards {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Guards").finish_non_exhaustive()
    }
}

impl Collector for Guards {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let view = self.0.load();
        write(
            &mut encoder,
            "mesh_breaker_state",
            "Circuit breakers: 0 closed, 1 half-open, 2 open",
            &states(&view),
        )?;
        write(
            &mut encoder,
            "mesh_proxy_retries_budget",
            "Retries that the budget has room for at the moment",
            &budgets(&view),
        )
    }
}

fn write(
    encoder: &mut DescriptorEncoder<'_>,
    name: &'static str,
    help: &'static str,
    samples: &Samples,
) -> fmt::Result {
    let mut family = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
    for (labels, value) in samples {
        ConstGauge::new(*value).encode(family.encode_family(labels)?)?;
    }
    Ok(())
}

fn states(view: &View) -> Samples {
    let breakers = view.breakers();
    let labelled = breakers.iter().map(|seen| {
        let target = seen.guard.key();
        let scope = match seen.endpoint {
            Some(_) => "Endpoint".to_owned(),
            None => seen.guard.kind().to_string(),
        };
        let labels = vec![
            ("scope", scope),
            ("kind", seen.guard.kind().to_string()),
            ("namespace", target.namespace),
            ("service", target.name),
            ("rule", seen.guard.section().unwrap_or("").to_owned()),
            ("endpoint", seen.endpoint.clone().unwrap_or_default()),
        ];
        (labels, u64::from(seen.state.number()))
    });
    labelled.collect()
}

fn budgets(view: &View) -> Samples {
    let now_ns = clock::monotonic_ns();
    let policies = view.policies();
    let budgets = policies.iter().filter_map(|policy| {
        let spending = policy.own_budget()?;
        let object = policy.object()?;
        let target = &object.spec.target;
        let labels = vec![
            ("kind", target.kind.to_string()),
            ("namespace", object.metadata.namespace.clone()),
            ("service", target.name.clone()),
            ("rule", target.section_name.clone().unwrap_or_default()),
        ];
        Some((labels, spending.budget.left(now_ns)))
    });
    budgets.collect()
}
