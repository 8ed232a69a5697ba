//! An endpoint's answer, until it is known whether it is the one that the client gets.

use std::sync::Arc;

use http::{HeaderMap, Response};

use crate::proxy::http::exchange::Exchange;
use crate::proxy::http::received::Received;
use crate::proxy::pool::Lease;
use crate::proxy::worker::Worker;
use crate::traffic::retry::{Outcome, grpc_code_of};

/// An answer and the connection on which it comes.
#[derive(Debug)]
pub(super) struct Answer {
    response: Response<Received>,
    lease: Lease,
    /// What it says about the attempt.
    pub(super) outcome: Outcome,
}

impl Answer {
    pub(super) fn new(response: Response<Received>, lease: Lease, is_grpc: bool) -> Self {
        Self {
            outcome: outcome(&response, is_grpc),
            response,
            lease,
        }
    }

    /// It is the one.
    pub(super) fn take(self, exchange: &mut Exchange) -> Response<Received> {
        exchange.lease = Some(self.lease);
        self.response
    }

    /// It is not.
    pub(super) fn discard(self, worker: &Arc<Worker>) {
        self.response.into_body().discard(worker, self.lease);
    }
}

/// What a response says about the attempt. The code of a gRPC call is known early only where its head is its end.
pub(super) fn outcome<B>(response: &Response<B>, is_grpc: bool) -> Outcome {
    let status = response.status().as_u16();
    let grpc = is_grpc.then(|| grpc_code(response.headers(), status));
    Outcome::Answered {
        status,
        grpc: grpc.flatten(),
    }
}

fn grpc_code(headers: &HeaderMap, status: u16) -> Option<u8> {
    match headers.get("grpc-status") {
        // 2 is "unknown".
        Some(code) => Some(
            code.to_str()
                .ok()
                .and_then(|code| code.parse().ok())
                .unwrap_or(2),
        ),
        None if status == 200 => None,
        None => Some(grpc_code_of(status)),
    }
}
