//! Series of circuit breakers, retry budgets and adaptive concurrency, read when somebody asks.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric as _};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::gauge::ConstGauge;

use crate::metrics::Registry;
use crate::net::clock;
use crate::proxy::policy::Policy;
use crate::proxy::view::View;
use crate::proxy::view::cell::Views;
use crate::state::object::Kind;

/// Values by their labels. A route at two services has two of each, under one name.
type Samples = BTreeMap<Vec<(&'static str, String)>, u64>;

/// Shows the breakers, budgets and limits of the current view.
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
        )?;
        write(
            &mut encoder,
            "mesh_proxy_concurrency_limit",
            "Requests that a service with adaptive concurrency may have at a time at the moment",
            &limits(&view),
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
    let mut samples = Samples::new();
    for seen in view.breakers() {
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
        let worst = samples.entry(labels).or_default();
        *worst = u64::from(seen.state.number()).max(*worst);
    }
    samples
}

fn budgets(view: &View) -> Samples {
    let now_ns = clock::monotonic_ns();
    let mut samples = Samples::new();
    for policy in view.policies() {
        let (Some(spending), Some(target)) = (policy.own_budget(), target(policy)) else {
            continue;
        };
        let labels = ["kind", "namespace", "service", "rule"];
        let labels = labels.into_iter().zip(target).collect();
        *samples.entry(labels).or_default() += spending.budget.left(now_ns);
    }
    samples
}

fn limits(view: &View) -> Samples {
    let mut samples = Samples::new();
    for (service, policy) in &view.policies {
        let Some(adaptive) = &policy.concurrency else {
            continue;
        };
        let labels = vec![
            ("service_namespace", service.namespace.clone()),
            ("service_name", service.name.clone()),
        ];
        samples.insert(labels, adaptive.limit().into());
    }
    samples
}

/// Kind, namespace and name of what a policy is for, and the rule if it is for one.
fn target(policy: &Policy) -> Option<[String; 4]> {
    if let Some(object) = policy.object() {
        let target = &object.spec.target;
        return Some([
            target.kind.to_string(),
            object.metadata.namespace.clone(),
            target.name.clone(),
            target.section_name.clone().unwrap_or_default(),
        ]);
    }
    // Only HTTP routes have rules that speak of retries themselves.
    let mut names = policy.rule_label()?.splitn(3, '/').map(str::to_owned);
    Some([
        Kind::HttpRoute.to_string(),
        names.next()?,
        names.next()?,
        names.next()?,
    ])
}
