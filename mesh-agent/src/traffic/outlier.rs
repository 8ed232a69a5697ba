//! Which endpoints answer so badly that they are left alone for a while.
//!
//! Semantics and defaults are those of Envoy's outlier detection
//! (<https://www.envoyproxy.io/docs/envoy/latest/intro/arch_overview/upstream/outlier>): failures in a row count at
//! once, shares are looked at every interval.

use std::sync::atomic::{AtomicU32, Ordering};

use super::ejection::{Growth, Terms};
use super::retry::Outcome;
use crate::state::traffic_policy::health::OutlierDetection;

/// Why an endpoint is put aside.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reason {
    /// It refused connections: always on.
    Refused,
    /// Server errors in a row.
    Consecutive5xx,
    /// Gateway errors in a row.
    ConsecutiveGatewayErrors,
    /// No answers in a row.
    ConsecutiveLocalFailures,
    /// Fewer good answers than the others.
    SuccessRate,
    /// Too many bad answers.
    FailurePercentage,
}

impl Reason {
    /// The word in metrics and logs.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Refused => "refused",
            Self::Consecutive5xx => "consecutive-5xx",
            Self::ConsecutiveGatewayErrors => "consecutive-gateway-errors",
            Self::ConsecutiveLocalFailures => "consecutive-local-failures",
            Self::SuccessRate => "success-rate",
            Self::FailurePercentage => "failure-percentage",
        }
    }
}

/// How long an outlier is out.
#[must_use]
pub fn terms(spec: &OutlierDetection) -> Terms {
    Terms {
        base: spec.base_ejection.get(),
        longest: spec.max_ejection.get().max(spec.base_ejection.get()),
        growth: Growth::Linear,
    }
}

/// Whether one more of `endpoints` may be put aside when `ejected` are out already: within `max_percent`, but one in any
/// case, if it is not the only one.
#[must_use]
pub fn has_room(endpoints: usize, ejected: usize, max_percent: u32) -> bool {
    let percent = usize::try_from(max_percent).unwrap_or(100);
    endpoints >= 2 && max_percent > 0 && ejected < (endpoints * percent / 100).max(1)
}

/// What an endpoint has answered, counted by all cores.
#[derive(Debug, Default)]
pub struct Counters {
    server_errors: AtomicU32,
    gateway_errors: AtomicU32,
    local_failures: AtomicU32,
    requests: AtomicU32,
    good: AtomicU32,
}

/// What an endpoint has answered in an interval.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Window {
    /// Attempts that ended.
    pub requests: u32,
    /// Those of them that were no failure.
    pub good: u32,
}

impl Counters {
    /// An attempt has ended; tells whether a number in a row has been reached by it. A refused stream is neither good
    /// nor bad: nobody has looked at the request.
    pub fn observe(&self, spec: &OutlierDetection, outcome: Outcome) -> Option<Reason> {
        if outcome == Outcome::RefusedStream {
            return None;
        }
        let is_counted = spec.success_rate.is_some() || spec.failure_percentage.is_some();
        let is_failure = outcome.is_failure();
        if is_counted {
            self.requests.fetch_add(1, Ordering::Relaxed);
            self.good
                .fetch_add(u32::from(!is_failure), Ordering::Relaxed);
        }
        let is_local = outcome.is_local();
        let rows = [
            (
                &self.local_failures,
                is_local,
                spec.consecutive_local_failures,
                Reason::ConsecutiveLocalFailures,
            ),
            (
                &self.gateway_errors,
                is_local || outcome.is_gateway_error(),
                spec.consecutive_gateway_errors,
                Reason::ConsecutiveGatewayErrors,
            ),
            (
                &self.server_errors,
                is_failure,
                spec.consecutive_5xx,
                Reason::Consecutive5xx,
            ),
        ];
        let mut reached = None;
        for (row, counts, threshold, reason) in rows {
            if in_a_row(row, counts, threshold) {
                reached = Some(reason);
            }
        }
        reached
    }

    /// Takes what was counted since the last time.
    #[must_use]
    pub fn take(&self) -> Window {
        let requests = self.requests.swap(0, Ordering::Relaxed);
        Window {
            requests,
            // An attempt that ended between the two counts here and there.
            good: self.good.swap(0, Ordering::Relaxed).min(requests),
        }
    }

    /// Begins anew, as after an ejection.
    pub fn reset(&self) {
        for counter in [
            &self.server_errors,
            &self.gateway_errors,
            &self.local_failures,
            &self.requests,
            &self.good,
        ] {
            counter.store(0, Ordering::Relaxed);
        }
    }
}

/// Counts in a row; whether the threshold is reached.
fn in_a_row(row: &AtomicU32, counts: bool, threshold: Option<u32>) -> bool {
    let Some(threshold) = threshold.filter(|threshold| *threshold > 0) else {
        return false;
    };
    if !counts {
        // The usual case costs no write.
        if row.load(Ordering::Relaxed) != 0 {
            row.store(0, Ordering::Relaxed);
        }
        return false;
    }
    row.fetch_add(1, Ordering::Relaxed) + 1 >= threshold
}

/// Looks at what endpoints have answered in an interval: which are to be put aside, by place, the worst first.
#[must_use]
pub fn judge(spec: &OutlierDetection, windows: &[Window]) -> Vec<(usize, Reason)> {
    let mut found: Vec<(usize, Reason)> = Vec::new();
    if let Some(rule) = &spec.success_rate {
        let rates = rates(windows, rule.minimum_requests);
        let least = usize::try_from(rule.minimum_endpoints.max(2)).unwrap_or(usize::MAX);
        if rates.len() >= least {
            let threshold = threshold(&rates, f64::from(rule.deviation_thousandths) / 1000.0);
            let bad = rates.iter().filter(|(_, rate)| *rate < threshold);
            found.extend(bad.map(|(place, _)| (*place, Reason::SuccessRate)));
        }
    }
    if let Some(rule) = &spec.failure_percentage {
        let rates = rates(windows, rule.minimum_requests);
        let least = usize::try_from(rule.minimum_endpoints).unwrap_or(usize::MAX);
        if rates.len() >= least {
            let most_good = 100.0 - f64::from(rule.threshold);
            let bad = rates.iter().filter(|(_, rate)| *rate <= most_good);
            for (place, _) in bad {
                if found.iter().all(|(other, _)| other != place) {
                    found.push((*place, Reason::FailurePercentage));
                }
            }
        }
    }
    let rate = |place: usize| windows.get(place).map_or(100.0, |window| window.rate());
    found.sort_by(|(a, _), (b, _)| rate(*a).total_cmp(&rate(*b)));
    found
}

impl Window {
    /// Good answers in percent.
    fn rate(self) -> f64 {
        if self.requests == 0 {
            return 100.0;
        }
        f64::from(self.good) * 100.0 / f64::from(self.requests)
    }
}

fn rates(windows: &[Window], minimum_requests: u32) -> Vec<(usize, f64)> {
    let judged = windows.iter().enumerate();
    judged
        .filter(|(_, window)| window.requests > 0 && window.requests >= minimum_requests)
        .map(|(place, window)| (place, window.rate()))
        .collect()
}

/// So many standard deviations below the mean.
fn threshold(rates: &[(usize, f64)], deviations: f64) -> f64 {
    let count = u32::try_from(rates.len()).map_or(f64::MAX, f64::from);
    let mean = rates.iter().map(|(_, rate)| rate).sum::<f64>() / count;
    let variance = rates
        .iter()
        .map(|(_, rate)| (rate - mean).powi(2))
        .sum::<f64>()
        / count;
    variance.sqrt().mul_add(-deviations, mean)
}

#[cfg(test)]
mod tests;
