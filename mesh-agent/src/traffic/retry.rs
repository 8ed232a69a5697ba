//! May an attempt be repeated, and after what wait?

pub mod budget;
pub mod conditions;

use std::time::Duration;

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
                base: spec.backoff.base.get(),
                max: spec.backoff.max.get(),
            },
            per_try: spec
                .per_try_timeout
                .filter(|time| !time.is_zero())
                .map(|time| time.get()),
            max_body_bytes: usize::try_from(spec.max_body_bytes).unwrap_or(usize::MAX),
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
    /// Longest wait before the first repetition.
    pub base: Duration,
    /// Longest wait of all.
    pub max: Duration,
}

impl Backoff {
    /// How long to wait before repetition number `repetition`, counted from zero: evenly between nothing and
    /// `base * 2^repetition`, at most `max`. `random` is any number.
    #[must_use]
    pub fn wait(&self, repetition: u32, random: u32) -> Duration {
        let factor = 1_u32.checked_shl(repetition).unwrap_or(u32::MAX);
        let longest = self.base.saturating_mul(factor).min(self.max);
        longest.mul_f64(f64::from(random) / f64::from(u32::MAX))
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
