//! What is tried again, as words: `5xx`, `503`, `reset`, `grpc:UNAVAILABLE`.

use super::Outcome;
use crate::state::traffic_policy::resilience::grpc_failure;

/// A set of outcomes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Conditions {
    kinds: u8,
    /// One bit per code.
    grpc: u32,
    /// In order.
    statuses: Vec<u16>,
}

const SERVER_ERROR: u8 = 1;
const GATEWAY_ERROR: u8 = 2;
const CONNECT_FAILURE: u8 = 4;
const RESET: u8 = 8;
const REFUSED_STREAM: u8 = 16;
const TIMEOUT: u8 = 32;

impl Conditions {
    /// Reads the words of a policy. Words that mean nothing are refused before they get here, and are left out.
    #[must_use]
    pub fn parse(words: &[String]) -> Self {
        let mut conditions = Self::default();
        for word in words {
            conditions.add(word);
        }
        conditions.statuses.sort_unstable();
        conditions.statuses.dedup();
        conditions
    }

    /// The statuses of a rule of a route, and what the Gateway API wants repeated beside them: what no endpoint has seen,
    /// connections that broke, and attempts that took too long (GEP-1731).
    #[must_use]
    pub fn of_statuses(codes: &[u16]) -> Self {
        let mut statuses = codes.to_vec();
        statuses.sort_unstable();
        statuses.dedup();
        let unanswered = Self::unanswered();
        Self {
            kinds: unanswered.kinds | TIMEOUT,
            statuses,
            ..unanswered
        }
    }

    /// Where nothing has answered, timeouts apart.
    #[must_use]
    pub const fn unanswered() -> Self {
        Self {
            kinds: CONNECT_FAILURE | REFUSED_STREAM | RESET,
            grpc: 0,
            statuses: Vec::new(),
        }
    }

    /// Whether one of the words means this outcome.
    #[must_use]
    pub fn matches(&self, outcome: Outcome) -> bool {
        let has = |kind| self.kinds & kind != 0;
        match outcome {
            Outcome::Answered { status, grpc } => {
                (has(SERVER_ERROR) && (500..=599).contains(&status))
                    || (has(GATEWAY_ERROR) && (502..=504).contains(&status))
                    || self.statuses.binary_search(&status).is_ok()
                    || grpc.is_some_and(|code| self.has_grpc(code))
            }
            Outcome::ConnectFailure => has(CONNECT_FAILURE),
            Outcome::Reset => has(RESET),
            Outcome::RefusedStream => has(REFUSED_STREAM),
            Outcome::Timeout => has(TIMEOUT),
        }
    }

    /// Whether this code of gRPC was named.
    #[must_use]
    pub const fn has_grpc(&self, code: u8) -> bool {
        code < 32 && self.grpc & (1 << code) != 0
    }

    fn add(&mut self, word: &str) {
        match word {
            "5xx" => self.kinds |= SERVER_ERROR,
            "gateway-error" => self.kinds |= GATEWAY_ERROR,
            "retriable-4xx" => self.statuses.push(409),
            "connect-failure" => self.kinds |= CONNECT_FAILURE,
            "reset" => self.kinds |= RESET,
            "refused-stream" => self.kinds |= REFUSED_STREAM,
            "timeout" => self.kinds |= TIMEOUT,
            _ => {
                if let Some(code) = word.strip_prefix("grpc:").and_then(grpc_failure) {
                    self.grpc |= 1 << code;
                } else if let Ok(status) = word.parse() {
                    self.statuses.push(status);
                }
            }
        }
    }
}
