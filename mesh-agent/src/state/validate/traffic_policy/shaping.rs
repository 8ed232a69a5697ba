//! Rules of `rateLimits`, `adaptiveConcurrency` and `faults`.

use super::{DAY, MILLISECOND, some_time};
use crate::state::Refusal;
use crate::state::duration::Duration;
use crate::state::object::Kind;
use crate::state::traffic_policy::TrafficTarget;
use crate::state::traffic_policy::resilience::{grpc_failure, grpc_failures};
use crate::state::traffic_policy::shaping::{
    AdaptiveConcurrency, DEFAULT_MIN_REQUESTS, Fault, FaultAbort, FaultSource, RateLimit,
};
use crate::state::validate::{bound, http, name};

/// Most limits, and faults, of a policy.
const MAX_ITEMS: usize = 16;
/// Most parts of the key of a bucket.
const MAX_KEYS: usize = 4;
/// Largest rate and burst.
const MAX_TOKENS: u64 = 1 << 40;
/// Longest wait that is made on purpose.
const MAX_DELAY: Duration = Duration::from_secs(60);
/// Most requests at a time.
const MAX_REQUESTS: u32 = 1_000_000;

/// Checks `rateLimits`.
pub(super) fn limits(limits: &[RateLimit], target: &TrafficTarget) -> Result<(), Refusal> {
    bound::at_most("spec.rateLimits", limits, MAX_ITEMS)?;
    for (index, limit) in limits.iter().enumerate() {
        check_limit(&format!("spec.rateLimits[{index}]"), limit, target)?;
    }
    Ok(())
}

fn check_limit(field: &str, limit: &RateLimit, target: &TrafficTarget) -> Result<(), Refusal> {
    let rates = [
        ("requests", limit.requests),
        ("connections", limit.connections),
        ("bytes", limit.bytes),
    ];
    bound::exactly_one(field, &rates.map(|(name, rate)| (name, rate.is_some())))?;
    for (name, rate) in rates.into_iter().chain([("burst", limit.burst)]) {
        bound::within_if(&format!("{field}.{name}"), rate, 1..=MAX_TOKENS)?;
    }
    let of_connections = [("connections", limit.connections), ("bytes", limit.bytes)];
    for (name, rate) in of_connections {
        if rate.is_some() && target.kind != Kind::Service {
            return Err(Refusal::invalid(
                format!("{field}.{name}"),
                "belongs to a Service: a route has requests only",
            ));
        }
    }
    bound::time(&format!("{field}.per"), limit.per, MILLISECOND..=DAY)?;
    let delay = format!("{field}.maxDelay");
    bound::time(
        &delay,
        limit.max_delay,
        Duration::from_millis(0)..=MAX_DELAY,
    )?;
    let by = format!("{field}.by");
    bound::at_most(&by, &limit.by, MAX_KEYS)?;
    for (index, word) in limit.by.iter().enumerate() {
        key(&format!("{by}[{index}]"), word, limit.requests.is_some())?;
    }
    if let Some(index) = bound::repeated(limit.by.iter().map(|it| it.to_ascii_lowercase())) {
        return Err(Refusal::invalid(
            format!("{by}[{index}]"),
            "each word only once",
        ));
    }
    Ok(())
}

/// A part of the key of a bucket.
fn key(field: &str, word: &str, has_headers: bool) -> Result<(), Refusal> {
    if matches!(word, "sourceWorkload" | "sourceIdentity") {
        return Ok(());
    }
    let Some(header) = word.strip_prefix("header:") else {
        return Err(Refusal::invalid(
            field,
            "sourceWorkload, sourceIdentity or header:NAME",
        ));
    };
    if !has_headers {
        return Err(Refusal::invalid(field, "only requests have headers"));
    }
    http::token(field, header)
}

/// Checks `adaptiveConcurrency`.
pub(super) fn concurrency(spec: &AdaptiveConcurrency) -> Result<(), Refusal> {
    let field = "spec.adaptiveConcurrency";
    bound::within(
        &format!("{field}.maxRequests"),
        spec.max_requests,
        1..=MAX_REQUESTS,
    )?;
    bound::within_or_default(
        &format!("{field}.minRequests"),
        spec.min_requests,
        1..=spec.max_requests,
        DEFAULT_MIN_REQUESTS,
    )?;
    some_time(&format!("{field}.interval"), spec.interval)?;
    let baseline = format!("{field}.baselineInterval");
    bound::time(&baseline, spec.baseline_interval, spec.interval..=DAY)
}

/// Checks `faults`.
pub(super) fn faults(faults: &[Fault]) -> Result<(), Refusal> {
    bound::at_most("spec.faults", faults, MAX_ITEMS)?;
    for (index, fault) in faults.iter().enumerate() {
        let field = format!("spec.faults[{index}]");
        http::name_matches(&format!("{field}.headers"), &fault.headers, true)?;
        bound::at_most(&format!("{field}.sources"), &fault.sources, MAX_ITEMS)?;
        for (index, it) in fault.sources.iter().enumerate() {
            source(&format!("{field}.sources[{index}]"), it)?;
        }
        if fault.delay.is_none() && fault.abort.is_none() {
            return Err(Refusal::invalid(field, "delay or abort is needed"));
        }
        if let Some(it) = &fault.delay {
            let fixed = format!("{field}.delay.fixed");
            bound::time(&fixed, it.fixed, MILLISECOND..=MAX_DELAY)?;
            bound::within(&format!("{field}.delay.percent"), it.percent, 0..=100)?;
        }
        if let Some(it) = &fault.abort {
            abort(&format!("{field}.abort"), it)?;
        }
    }
    Ok(())
}

fn source(field: &str, source: &FaultSource) -> Result<(), Refusal> {
    let parts = [
        ("namespace", &source.namespace),
        ("serviceAccount", &source.service_account),
        ("workload", &source.workload),
    ];
    if parts.iter().all(|(_, it)| it.is_none()) {
        return Err(Refusal::invalid(
            field,
            "namespace, serviceAccount or workload is needed",
        ));
    }
    for (part, value) in parts {
        if let Some(value) = value {
            name::subdomain(&format!("{field}.{part}"), value)?;
        }
    }
    Ok(())
}

fn abort(field: &str, abort: &FaultAbort) -> Result<(), Refusal> {
    let given = [
        ("status", abort.status.is_some()),
        ("grpc", abort.grpc.is_some()),
    ];
    bound::exactly_one(field, &given)?;
    bound::within_if(&format!("{field}.status"), abort.status, 200..=599)?;
    if let Some(code) = &abort.grpc
        && grpc_failure(code).is_none()
    {
        let failures: Vec<&str> = grpc_failures().collect();
        return Err(Refusal::invalid(
            format!("{field}.grpc"),
            format!("one of {}", failures.join(", ")),
        ));
    }
    bound::within(&format!("{field}.percent"), abort.percent, 0..=100)
}
