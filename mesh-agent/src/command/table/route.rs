//! Tables of routes and of policies of all kinds.

use comfy_table::Cell;

use super::object::{judged, names, policies};
use super::{join, number, render, text};
use crate::state::Manifest;
use crate::state::reference::{Backend, Route};
use crate::state::traffic_policy::{TrafficPolicy, TrafficPolicySpec};

/// Routes of all kinds.
pub(in crate::command) fn routes(routes: &[Manifest]) -> String {
    let header = [
        "NAMESPACE",
        "NAME",
        "KIND",
        "HOSTNAMES",
        "PARENTS",
        "RULES",
        "BACKENDS",
        "SOURCE",
        "STATUS",
    ];
    let none: &[String] = &[];
    let rows = routes.iter().filter_map(|route| match route {
        Manifest::HttpRoute(it) => Some(row(&**it, &it.spec.hostnames, it.spec.rules.len())),
        Manifest::GrpcRoute(it) => Some(row(&**it, &it.spec.hostnames, it.spec.rules.len())),
        Manifest::TcpRoute(it) => Some(row(&**it, none, it.spec.rules.len())),
        Manifest::TlsRoute(it) => Some(row(&**it, &it.spec.hostnames, it.spec.rules.len())),
        _ => None,
    });
    render(&header, rows)
}

fn row<R: Route>(route: &R, hostnames: &[String], rules: usize) -> Vec<Cell> {
    let parents = route.parent_refs().iter().map(|it| {
        let port = it.port.map(|port| format!(":{port}"));
        format!("{}/{}{}", it.kind, it.name, port.unwrap_or_default())
    });
    let shown = |it: Backend<'_>| {
        let port = it.port.map(|port| format!(":{port}"));
        format!("{}{}", it.name, port.unwrap_or_default())
    };
    let mut backends: Vec<String> = Vec::new();
    for (_, backend) in route.backends() {
        let backend = shown(backend);
        if !backends.contains(&backend) {
            backends.push(backend);
        }
    }
    let mut row = names(route.metadata());
    row.extend([
        text(R::KIND),
        text(join(hostnames)),
        text(join(parents)),
        number(rules),
        text(join(backends)),
        text(route.metadata().source),
        text(judged(route.conditions())),
    ]);
    row
}

/// Authorization policies, and below them traffic policies, where there are some.
pub(in crate::command) fn all_policies(all: &[Manifest]) -> String {
    let of_access: Vec<_> = all
        .iter()
        .filter_map(|it| match it {
            Manifest::AuthorizationPolicy(it) => Some(&**it),
            _ => None,
        })
        .collect();
    let of_traffic: Vec<_> = all
        .iter()
        .filter_map(|it| match it {
            Manifest::TrafficPolicy(it) => Some(&**it),
            _ => None,
        })
        .collect();
    match (of_access.as_slice(), of_traffic.as_slice()) {
        (access, []) => policies(access),
        ([], traffic) => traffic_policies(traffic),
        (access, traffic) => format!("{}\n\n{}", policies(access), traffic_policies(traffic)),
    }
}

fn traffic_policies(policies: &[&TrafficPolicy]) -> String {
    let header = ["NAMESPACE", "NAME", "TARGET", "SETS", "SOURCE", "STATUS"];
    render(
        &header,
        policies.iter().map(|policy| {
            let target = &policy.spec.target;
            let section = target.section_name.as_ref().map(|it| format!("/{it}"));
            let mut row = names(&policy.metadata);
            row.extend([
                text(format!(
                    "{}/{}{}",
                    target.kind,
                    target.name,
                    section.unwrap_or_default()
                )),
                text(join(fields(&policy.spec))),
                text(policy.metadata.source),
                text(judged(&policy.status.conditions)),
            ]);
            row
        }),
    )
}

/// The fields that a policy sets.
fn fields(spec: &TrafficPolicySpec) -> impl Iterator<Item = &'static str> {
    [
        ("loadBalancing", spec.load_balancing.is_some()),
        ("healthCheck", spec.health_check.is_some()),
        ("outlierDetection", spec.outlier_detection.is_some()),
        ("circuitBreaker", spec.circuit_breaker.is_some()),
        ("retries", spec.retries.is_some()),
        ("timeouts", spec.timeouts.is_some()),
        ("hedging", spec.hedging.is_some()),
        ("rateLimits", !spec.rate_limits.is_empty()),
        ("adaptiveConcurrency", spec.adaptive_concurrency.is_some()),
        ("priority", spec.priority.is_some()),
        ("faults", !spec.faults.is_empty()),
    ]
    .into_iter()
    .filter(|(_, is_set)| *is_set)
    .map(|(name, _)| name)
}
