//! Two endpoints asked because the first is slow: the first good answer wins, the other attempt is cancelled.

use std::mem;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use http::Request;

use super::Attempts;
use super::answer::Answer;
use super::trial::{Failure, Trial};
use crate::net::clock;
use crate::proxy::http::body::Outgoing;
use crate::proxy::view::Active;
use crate::proxy::worker::Worker;
use crate::traffic::hedge::After;
use crate::traffic::retry::budget::Extra;

/// Whose answer it is.
pub(super) enum Side {
    /// That of the endpoint that was asked first.
    First,
    /// That of the other.
    Second(Active),
}

type Result = std::result::Result<Answer, Failure>;

/// How long to wait for the first endpoint before a second is asked; absent where only one is.
pub(super) fn delay(attempts: &Attempts<'_>, request: &Request<Outgoing>) -> Option<Duration> {
    let after = attempts.policy.extra.hedging?;
    let is_safe = attempts.is_idempotent
        && !attempts.exchange.is_last
        && matches!(request.body(), Outgoing::Empty);
    if !is_safe || attempts.retries > 0 {
        return None;
    }
    match after {
        After::Fixed(delay) => Some(delay),
        After::Quantile(permille) => {
            let port = attempts.selection.port();
            port.usual(permille, clock::monotonic_ns())
        }
    }
}

/// Waits for the first attempt, and after `delay` makes a second, if there is an endpoint for it and something left to
/// spend.
pub(super) async fn race<F>(
    attempts: &mut Attempts<'_>,
    mut first: Pin<Box<F>>,
    delay: Duration,
) -> (Result, Side)
where
    F: Future<Output = Result> + Send,
{
    if let Ok(result) = tokio::time::timeout(delay, first.as_mut()).await {
        return (result, Side::First);
    }
    let Some((active, trial)) = second(attempts) else {
        return (first.await, Side::First);
    };
    let worker = Arc::clone(&attempts.connection.worker);
    let Some(question) = attempts.question_again() else {
        return (first.await, Side::First);
    };
    worker.metrics.hedged("sent");
    attempts.selection.begin(&worker.metrics);
    attempts.exchange.attempts += 1;
    let mut second = Box::pin(trial.run(question));
    let (result, is_second) = tokio::select! {
        result = first.as_mut() => if is_good(&result) {
            (result, false)
        } else {
            better(&worker, result, false, second.await)
        },
        result = second.as_mut() => if is_good(&result) {
            (result, true)
        } else {
            better(&worker, result, true, first.await)
        },
    };
    if !is_second {
        return (result, Side::First);
    }
    if result.is_ok() {
        worker.metrics.hedged("won");
    }
    (result, Side::Second(active))
}

fn is_good(result: &Result) -> bool {
    result
        .as_ref()
        .is_ok_and(|answer| !answer.outcome.is_failure())
}

/// Of two results the good one; of two bad ones that which is an answer, else the earlier. With it whether it is the
/// second attempt's.
fn better(worker: &Arc<Worker>, early: Result, is_second: bool, late: Result) -> (Result, bool) {
    let is_late_better = is_good(&late) || (early.is_err() && late.is_ok());
    let (kept, other, is_second) = if is_late_better {
        (late, early, !is_second)
    } else {
        (early, late, is_second)
    };
    if let Ok(answer) = other {
        answer.discard(worker);
    }
    (kept, is_second)
}

/// The attempt beside the first.
fn second(attempts: &mut Attempts<'_>) -> Option<(Active, Trial)> {
    attempts.avoid_last();
    let active = attempts.pick().ok()?;
    if !mem::take(&mut attempts.passed.wait).is_zero() {
        // Nobody is asked sooner than its limits say, and the first may have answered by then.
        return None;
    }
    if !attempts.may_spend(Extra::Hedge, false) {
        return None;
    }
    let trial = Trial::new(
        &attempts.connection,
        &attempts.policy,
        attempts.selection.port(),
        active.endpoint(),
    );
    Some((active, trial))
}
