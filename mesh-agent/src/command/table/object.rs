//! Tables of objects.

use std::collections::BTreeMap;

use comfy_table::Cell;

use super::{NONE, join, lower, number, render, text, yes_no};
use crate::command::remark::partly;
use crate::state::endpoint::Endpoint;
use crate::state::life::Standing;
use crate::state::object::{Condition, ConditionStatus, Metadata};
use crate::state::policy::AuthorizationPolicy;
use crate::state::service::Service;
use crate::state::source::CONFLICTED;
use crate::state::workload::Workload;

pub(in crate::command) fn services(services: &[Service]) -> String {
    let header = [
        "NAMESPACE",
        "NAME",
        "ADDRESSES",
        "PORTS",
        "MODE",
        "BALANCING",
        "SOURCE",
        "STATUS",
    ];
    render(
        &header,
        services.iter().map(|service| {
            let spec = &service.spec;
            let ports = spec
                .ports
                .iter()
                .map(|port| format!("{}/{}", port.port, lower(port.protocol)));
            let mut row = names(&service.metadata);
            row.extend([
                text(join(&service.status.addresses)),
                text(join(ports)),
                text(lower(spec.mode)),
                text(format!("{:?}", spec.balancing)),
                text(service.metadata.source),
                text(judged(&service.status.conditions)),
            ]);
            row
        }),
    )
}

pub(in crate::command) fn endpoints(endpoints: &[Endpoint]) -> String {
    let header = [
        "NAMESPACE",
        "NAME",
        "SERVICE",
        "ADDRESS",
        "PORTS",
        "WEIGHT",
        "VERSION",
        "SOURCE",
        "STATUS",
    ];
    render(
        &header,
        endpoints.iter().map(|endpoint| {
            let spec = &endpoint.spec;
            let ports = spec
                .ports
                .iter()
                .map(|(name, port)| format!("{name}:{port}"));
            let judged = judged(&endpoint.status.conditions);
            let health = endpoint.status.health.as_ref();
            let status = match (endpoint.status.standing(), health) {
                _ if judged != "ok" => judged,
                (None | Some(Standing::Ready), None) => judged,
                (None | Some(Standing::Ready), Some(health)) => lower(health.status),
                (Some(standing), _) => lower(standing),
            };
            let mut row = names(&endpoint.metadata);
            row.extend([
                text(&spec.service),
                match &spec.hostname {
                    Some(hostname) => text(hostname),
                    None => text(spec.address),
                },
                text(join(ports)),
                number(endpoint.weight()),
                text(spec.version.as_deref().unwrap_or(NONE)),
                text(endpoint.metadata.source),
                text(status),
            ]);
            row
        }),
    )
}

pub(in crate::command) fn workloads(workloads: &[Workload]) -> String {
    let header = [
        "NAMESPACE",
        "NAME",
        "ACCOUNT",
        "ADDRESSES",
        "FAIL",
        "ACCELERATION",
        "FOUND BY",
        "SOURCE",
        "STATUS",
    ];
    render(
        &header,
        workloads.iter().map(|workload| {
            let spec = &workload.spec;
            let found_by = match (&spec.netns, &spec.cgroup) {
                (Some(path), _) => format!("netns {}", path.display()),
                (None, Some(path)) => format!("cgroup {}", path.display()),
                (None, None) => NONE.to_owned(),
            };
            let mut row = names(&workload.metadata);
            row.extend([
                text(&spec.service_account),
                text(join(&spec.addresses)),
                text(lower(spec.fail_mode)),
                text(yes_no(spec.acceleration)),
                text(found_by),
                text(workload.metadata.source),
                text(judged(&workload.status.conditions)),
            ]);
            row
        }),
    )
}

pub(super) fn policies(policies: &[&AuthorizationPolicy]) -> String {
    let header = [
        "NAMESPACE",
        "NAME",
        "TARGET",
        "ACTION",
        "MODE",
        "RULES",
        "SOURCE",
        "STATUS",
    ];
    render(
        &header,
        policies.iter().map(|policy| {
            let spec = &policy.spec;
            let mut row = names(&policy.metadata);
            row.extend([
                text(format!("{}/{}", spec.target.kind, spec.target.name)),
                text(format!("{:?}", spec.action)),
                text(format!("{:?}", spec.mode)),
                number(spec.rules.len()),
                text(policy.metadata.source),
                text(judged(&policy.status.conditions)),
            ]);
            row
        }),
    )
}

pub(super) fn names(metadata: &Metadata) -> Vec<Cell> {
    vec![text(&metadata.namespace), text(&metadata.name)]
}

/// What is not so, by type and reason; `ok` where everything is, with what is in force in part only.
pub(super) fn judged(conditions: &[Condition]) -> String {
    let by_status: BTreeMap<bool, Vec<String>> = conditions.iter().fold(
        BTreeMap::new(),
        |mut found: BTreeMap<bool, Vec<String>>, condition| {
            let holds = condition.status == ConditionStatus::True;
            let is_fine = holds != (condition.kind == CONFLICTED);
            let said = format!(
                "{}={:?}({})",
                condition.kind, condition.status, condition.reason
            );
            found.entry(is_fine).or_default().push(said);
            found
        },
    );
    match by_status.get(&false) {
        Some(wrong) => wrong.join(","),
        None if conditions.is_empty() => "pending".to_owned(),
        None => match conditions.iter().find_map(partly) {
            Some(problem) => format!("ok, but {problem}"),
            None => "ok".to_owned(),
        },
    }
}
