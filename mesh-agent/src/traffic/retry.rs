//! May an attempt be repeated, and after what wait?

pub mod budget;
pub mod conditions;

use std::time::Duration;

use crate::state::duration;
use crate::state::http_route::HttpRouteRetry;
use crate::state::traffic_policy::resilience::Retries;
use conditions::Conditions;

/// What became of an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// The endpoint has answered.
    Answered {
        /// Status of the answer.
        status: u16,
        /// Code of a gRPC call that ended with its head ("trailers only"), or that its status stands for.
        grpc: Option<u8>,
    },
    /// There was no connection: the endpoint has seen nothing.
    ConnectFailure,
    /// The connection or stream ended before an answer.
    Reset,
    /// The endpoint says that it has not looked at the request (RFC 9113, section 8.7).
    RefusedStream,
    /// No answer within the time of one attempt.
    Timeout,
}

impl Outcome {
    /// A connection of raw bytes stands: as good as an answer.
    pub const CONNECTED: Self = Self::Answered {
        status: 200,
        grpc: None,
    };

    /// Whether the endpoint cannot have acted on the request.
    #[must_use]
    pub const fn is_unseen(self) -> bool {
        matches!(self, Self::ConnectFailure | Self::RefusedStream)
    }

    /// Whether it speaks against the endpoint: a status of 500 to 599, the gRPC codes that say as much, or no answer.
    /// A refused stream does not: it is how an endpoint says that it is leaving.
    #[must_use]
    pub const fn is_failure(self) -> bool {
        match self {
            Self::Answered { status, grpc } => {
                status >= 500 || matches!(grpc, Some(2 | 4 | 13 | 14 | 15))
            }
            Self::ConnectFailure | Self::Reset | Self::Timeout => true,
            Self::RefusedStream => false,
        }
    }

    /// Whether nothing has answered, so that the answer, if there is one, is the proxy's own.
    #[must_use]
    pub const fn is_local(self) -> bool {
        matches!(self, Self::ConnectFailure | Self::Reset | Self::Timeout)
    }

    /// Whether it is what a gateway says of what stands behind it: 502, 503, 504, and UNAVAILABLE.
    #[must_use]
    pub const fn is_gateway_error(self) -> bool {
        matches!(
            self,
            Self::Answered {
                status: 502..=504,
                ..
            } | Self::Answered { grpc: Some(14), .. }
        )
    }

    /// The word in metrics.
    #[must_use]
    pub const fn reason(self) -> &'static str {
        match self {
            Self::Answered { grpc: Some(_), .. } => "grpc",
            Self::Answered { .. } => "status",
            Self::ConnectFailure => "connect",
            Self::Reset => "reset",
            Self::RefusedStream => "refused-stream",
            Self::Timeout => "timeout",
        }
    }
}

/// How requests are tried again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// Attempts after the first.
    pub attempts: u32,
    /// What is tried again.
    pub conditions: Conditions,
    /// Waits between attempts.
    pub backoff: Backoff,
    /// How long one attempt may take.
    pub per_try: Option<Duration>,
    /// Bytes of a body that are kept to be sent again.
    pub max_body_bytes: usize,
}

impl Plan {
    /// The plan that a policy describes.
    #[must_use]
    pub fn new(spec: &Retries) -> Self {
        Self {
            attempts: spec.attempts,
            conditions: Conditions::parse(&spec.on),
            backoff: Backoff {
                least: Duration::ZERO,
                base: spec.backoff.base.get(),
                max: spec.backoff.max.get(),
            },
            per_try: spec
                .per_try_timeout
                .filter(|time| !time.is_zero())
                .map(duration::Duration::get),
            max_body_bytes: usize::try_from(spec.max_body_bytes).unwrap_or(usize::MAX),
        }
    }

    /// The plan of a rule of a route (GEP-1731). What it says nothing of is as `base` has it, or usual.
    #[must_use]
    pub fn of_rule(base: Option<&Self>, retry: &HttpRouteRetry) -> Self {
        let usual = base.cloned().unwrap_or_else(|| Self {
            attempts: 1,
            conditions: Conditions::of_statuses(&[502, 503, 504]),
            backoff: Backoff {
                least: Duration::ZERO,
                base: Duration::from_millis(25),
                max: Duration::from_millis(250),
            },
            per_try: None,
            max_body_bytes: 64 * 1024,
        });
        Self {
            attempts: retry.attempts.unwrap_or(1),
            conditions: if retry.codes.is_empty() {
                usual.conditions
            } else {
                Conditions::of_statuses(&retry.codes)
            },
            backoff: retry.backoff.map_or(usual.backoff, |least| Backoff {
                least: least.get(),
                base: least.get(),
                max: least.get().saturating_mul(10),
            }),
            ..usual
        }
    }

    /// What is done without a policy: what no endpoint has seen goes to another at once, and what may be repeated does
    /// where a connection broke.
    #[must_use]
    pub const fn without_policy(attempts: u32) -> Self {
        Self {
            attempts,
            conditions: Conditions::unanswered(),
            backoff: Backoff {
                least: Duration::ZERO,
                base: Duration::ZERO,
                max: Duration::ZERO,
            },
            per_try: None,
            max_body_bytes: 0,
        }
    }

    /// Whether an attempt that ended so is repeated: it is wanted, and it is safe. Safe is what the endpoint has not
    /// seen, what may be repeated without difference (RFC 9110, section 9.2.2), and a gRPC code that was named: whoever
    /// names it knows what the methods do.
    #[must_use]
    pub fn wants(&self, outcome: Outcome, is_idempotent: bool) -> bool {
        if let Outcome::Answered {
            grpc: Some(code), ..
        } = outcome
            && self.conditions.has_grpc(code)
        {
            return true;
        }
        self.conditions.matches(outcome) && (is_idempotent || outcome.is_unseen())
    }
}

/// Exponential, with full jitter: "Exponential Backoff And Jitter", AWS Architecture Blog, 2015.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backoff {
    /// Shortest wait of all.
    pub least: Duration,
    /// Longest wait before the first repetition, beyond the shortest.
    pub base: Duration,
    /// Longest wait of all, beyond the shortest.
    pub max: Duration,
}

impl Backoff {
    /// How long to wait before repetition number `repetition`, counted from zero: the shortest wait, and evenly between
    /// nothing and `base * 2^repetition`, at most `max`, beyond it. `random` is any number.
    #[must_use]
    pub fn wait(&self, repetition: u32, random: u32) -> Duration {
        let factor = 1_u32.checked_shl(repetition).unwrap_or(u32::MAX);
        let longest = self.base.saturating_mul(factor).min(self.max);
        let part = f64::from(random) / f64::from(u32::MAX);
        self.least.saturating_add(longest.mul_f64(part))
    }
}

/// The code that a client of gRPC reads from an answer that is none of gRPC's
/// (<https://github.com/grpc/grpc/blob/master/doc/http-grpc-status-mapping.md>).
#[must_use]
pub const fn grpc_code_of(status: u16) -> u8 {
    match status {
        400 => 13,
        401 => 16,
        403 => 7,
        404 => 12,
        429 | 502 | 503 | 504 => 14,
        _ => 2,
    }
}

#[cfg(test)]
mod tests;
