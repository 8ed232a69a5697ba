//! Rules of `healthCheck` and `outlierDetection`.

use super::{DAY, MILLISECOND, some_time};
use crate::state::Refusal;
use crate::state::duration::Duration;
use crate::state::traffic_policy::health::{
    DEFAULT_MAX_EJECTION, DEFAULT_TIMEOUT, HealthCheck, HttpCheck, OutlierDetection, statuses,
};
use crate::state::validate::{bound, http, name, not_zero};

/// Checks of an endpoint come at most so often.
const SHORTEST_INTERVAL: Duration = Duration::from_millis(100);
/// Checks or failures in a row that anybody would wait for.
const MAX_IN_A_ROW: u32 = 10_000;
/// Most ranges of statuses.
const MAX_STATUSES: usize = 16;
/// Longest text that is looked for in a body, and name of a gRPC service.
const MAX_TEXT: usize = 1024;

/// Checks `healthCheck`.
pub(super) fn check(spec: &HealthCheck) -> Result<(), Refusal> {
    let field = "spec.healthCheck";
    let given = [
        ("http", spec.http.is_some()),
        ("grpc", spec.grpc.is_some()),
        ("tcp", spec.tcp.is_some()),
    ];
    bound::exactly_one(field, &given)?;
    if let Some(it) = &spec.http {
        http_check(it)?;
    }
    if let Some(service) = spec.grpc.as_ref().and_then(|it| it.service.as_ref()) {
        bound::length(&format!("{field}.grpc.service"), service, 1..=MAX_TEXT)?;
    }
    if let Some(port) = &spec.port {
        name::label(&format!("{field}.port"), port)?;
    }
    let interval = format!("{field}.interval");
    bound::time(&interval, spec.interval, SHORTEST_INTERVAL..=DAY)?;
    bound::within(
        &format!("{field}.jitterPercent"),
        spec.jitter_percent,
        0..=100,
    )?;
    let timeout = format!("{field}.timeout");
    let range = MILLISECOND..=spec.interval;
    bound::within_or_default(&timeout, spec.timeout, range, DEFAULT_TIMEOUT)?;
    let in_a_row = 1..=MAX_IN_A_ROW;
    let healthy = format!("{field}.healthyThreshold");
    bound::within(&healthy, spec.healthy_threshold, in_a_row.clone())?;
    let unhealthy = format!("{field}.unhealthyThreshold");
    bound::within(&unhealthy, spec.unhealthy_threshold, in_a_row)
}

fn http_check(spec: &HttpCheck) -> Result<(), Refusal> {
    let field = "spec.healthCheck.http";
    let path = format!("{field}.path");
    bound::length(&path, &spec.path, 1..=http::MAX_PATH)?;
    let (plain, query) = spec.path.split_once('?').unwrap_or((&spec.path, ""));
    http::absolute_path(&path, plain)?;
    http::sendable_path(&path, &query.replace('?', ""))?;
    if let Some(host) = &spec.host {
        let field = format!("{field}.host");
        let (name, port) = match host.rsplit_once(':') {
            Some((name, port)) => (name, Some(port)),
            None => (host.as_str(), None),
        };
        name::subdomain(&field, name)?;
        let port = port.map(|it| it.parse::<u16>().unwrap_or(0));
        port.map_or(Ok(()), |port| not_zero(&field, port))?;
    }
    let field_of = |index: usize| format!("{field}.statuses[{index}]");
    if spec.statuses.is_empty() {
        return Err(Refusal::invalid(
            format!("{field}.statuses"),
            "at least one",
        ));
    }
    bound::at_most(&format!("{field}.statuses"), &spec.statuses, MAX_STATUSES)?;
    if let Some(index) = spec.statuses.iter().position(|it| statuses(it).is_none()) {
        return Err(Refusal::invalid(
            field_of(index),
            "a status such as 200, or a range such as 200-299",
        ));
    }
    let body = spec.body.as_ref();
    body.map_or(Ok(()), |it| {
        bound::length(&format!("{field}.body"), it, 1..=MAX_TEXT)
    })
}

/// Checks `outlierDetection`.
pub(super) fn outliers(spec: &OutlierDetection) -> Result<(), Refusal> {
    let field = "spec.outlierDetection";
    let in_a_row = [
        ("consecutive5xx", spec.consecutive_5xx),
        ("consecutiveGatewayErrors", spec.consecutive_gateway_errors),
        ("consecutiveLocalFailures", spec.consecutive_local_failures),
    ];
    for (name, value) in in_a_row {
        bound::within_if(&format!("{field}.{name}"), value, 1..=MAX_IN_A_ROW)?;
    }
    let counts = in_a_row.iter().any(|(_, value)| value.is_some());
    if !counts && spec.success_rate.is_none() && spec.failure_percentage.is_none() {
        return Err(Refusal::invalid(
            field,
            "a threshold is needed: consecutive5xx, consecutiveGatewayErrors, consecutiveLocalFailures, successRate or failurePercentage",
        ));
    }
    if let Some(it) = spec.success_rate {
        let field = format!("{field}.successRate");
        bound::within(
            &format!("{field}.minimumEndpoints"),
            it.minimum_endpoints,
            2..=u32::MAX,
        )?;
        bound::within(
            &format!("{field}.minimumRequests"),
            it.minimum_requests,
            1..=u32::MAX,
        )?;
        let field = format!("{field}.deviationThousandths");
        bound::within(&field, it.deviation_thousandths, 1..=100_000)?;
    }
    if let Some(it) = spec.failure_percentage {
        let field = format!("{field}.failurePercentage");
        bound::within(&format!("{field}.threshold"), it.threshold, 1..=100)?;
        bound::within(
            &format!("{field}.minimumEndpoints"),
            it.minimum_endpoints,
            1..=u32::MAX,
        )?;
        bound::within(
            &format!("{field}.minimumRequests"),
            it.minimum_requests,
            1..=u32::MAX,
        )?;
    }
    let interval = format!("{field}.interval");
    bound::time(&interval, spec.interval, SHORTEST_INTERVAL..=DAY)?;
    some_time(&format!("{field}.baseEjection"), spec.base_ejection)?;
    let most = format!("{field}.maxEjection");
    let range = spec.base_ejection..=DAY;
    bound::within_or_default(&most, spec.max_ejection, range, DEFAULT_MAX_EJECTION)?;
    let share = format!("{field}.maxEjectedPercent");
    bound::within(&share, spec.max_ejected_percent, 0..=100)
}
