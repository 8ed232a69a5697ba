//! Rules of `circuitBreaker`, `retries` and `hedging`.

use super::{DAY, MILLISECOND, some_time};
use crate::state::Refusal;
use crate::state::duration::Duration;
use crate::state::object::Kind;
use crate::state::traffic_policy::resilience::{
    Backoff, BreakerScope, CircuitBreaker, Hedging, Retries, grpc_failure,
};
use crate::state::validate::{bound, http_route};

/// Failures and requests that a breaker may count to.
const MAX_COUNT: u32 = 10_000;
/// Largest body that is kept for a retry.
const MAX_BODY: u32 = 1 << 20;
/// Most words of `on`.
const MAX_WORDS: usize = 64;
/// Words of `on` that stand for themselves.
const WORDS: [&str; 7] = [
    "5xx",
    "gateway-error",
    "retriable-4xx",
    "connect-failure",
    "reset",
    "refused-stream",
    "timeout",
];
/// Shares of answers that hedging waits for.
const PERCENTILES: [&str; 4] = ["p50", "p90", "p95", "p99"];

/// Checks `circuitBreaker`.
pub(super) fn breaker(spec: &CircuitBreaker, target: Kind) -> Result<(), Refusal> {
    // Without retries or a queue there is still service; without connections or requests there is none.
    for (name, limit) in [
        ("maxConnections", spec.max_connections),
        ("maxRequests", spec.max_requests),
    ] {
        bound::within_if(&format!("spec.circuitBreaker.{name}"), limit, 1..=u32::MAX)?;
    }
    let Some(failures) = &spec.failures else {
        return Ok(());
    };
    let field = "spec.circuitBreaker.failures";
    if failures.per == BreakerScope::Route && target == Kind::Service {
        return Err(Refusal::invalid(
            format!("{field}.per"),
            "belongs to a route: a Service has one breaker, or one for each endpoint",
        ));
    }
    bound::within(
        &format!("{field}.consecutive"),
        failures.consecutive,
        1..=MAX_COUNT,
    )?;
    some_time(&format!("{field}.openFor"), failures.open_for)?;
    let half_open = format!("{field}.halfOpenRequests");
    bound::within(&half_open, failures.half_open_requests, 1..=MAX_COUNT)
}

/// Checks `retries`.
pub(super) fn retries(spec: &Retries) -> Result<(), Refusal> {
    let field = "spec.retries";
    let attempts = format!("{field}.attempts");
    bound::within(&attempts, spec.attempts, 0..=http_route::MAX_RETRIES)?;
    let on = format!("{field}.on");
    if spec.on.is_empty() {
        return Err(Refusal::invalid(
            on,
            "at least one word; without the field, what is harmless",
        ));
    }
    bound::at_most(&on, &spec.on, MAX_WORDS)?;
    if let Some(index) = spec.on.iter().position(|it| !is_word(it)) {
        return Err(Refusal::invalid(
            format!("{on}[{index}]"),
            format!(
                "one of {}, a status such as 503, or grpc:CODE such as grpc:UNAVAILABLE",
                WORDS.join(", ")
            ),
        ));
    }
    if let Some(index) = bound::repeated(&spec.on) {
        return Err(Refusal::invalid(
            format!("{on}[{index}]"),
            "each word only once",
        ));
    }
    some_time(&format!("{field}.backoff.base"), spec.backoff.base)?;
    let most = format!("{field}.backoff.max");
    let range = spec.backoff.base..=DAY;
    bound::within_or_default(&most, spec.backoff.max, range, Backoff::default().max)?;
    if let Some(it) = spec.per_try_timeout {
        some_time(&format!("{field}.perTryTimeout"), it)?;
    }
    bound::within(
        &format!("{field}.budget.percent"),
        spec.budget.percent,
        0..=100,
    )?;
    let interval = format!("{field}.budget.interval");
    let range = Duration::from_secs(1)..=Duration::from_secs(60);
    bound::time(&interval, spec.budget.interval, range)?;
    let body = format!("{field}.maxBodyBytes");
    bound::within(&body, spec.max_body_bytes, 0..=MAX_BODY)
}

fn is_word(word: &str) -> bool {
    let is_status = word.len() == 3
        && word
            .parse::<u16>()
            .is_ok_and(|status| (400..=599).contains(&status));
    let code = word.strip_prefix("grpc:");
    WORDS.contains(&word) || is_status || code.is_some_and(|code| grpc_failure(code).is_some())
}

/// Checks `hedging`.
pub(super) fn hedging(spec: &Hedging) -> Result<(), Refusal> {
    if PERCENTILES.contains(&spec.after.as_str()) {
        return Ok(());
    }
    match spec.after.parse::<Duration>() {
        Ok(after) => bound::time("spec.hedging.after", after, MILLISECOND..=DAY),
        Err(_) => Err(Refusal::invalid(
            "spec.hedging.after",
            format!(
                "a duration such as 50ms, or one of {}",
                PERCENTILES.join(", ")
            ),
        )),
    }
}
