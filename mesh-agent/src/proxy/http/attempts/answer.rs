//! An endpoint's answer, until it is known whether it is the one that the client gets.

use std::sync::Arc;
use std::time::Duration;

use http::{HeaderMap, Response};
use http_body::Body as _;
use http_body_util::BodyExt as _;
use tokio::time::timeout;

use crate::proxy::http::exchange::Exchange;
use crate::proxy::http::received::Received;
use crate::proxy::pool::Lease;
use crate::proxy::worker::Worker;
use crate::traffic::retry::{Outcome, grpc_code_of};

/// Bodies of answers that nobody gets are read up to this size, so that their connection may serve again.
const MAX_DRAIN: u64 = 64 * 1024;
/// And for as long.
const DRAIN_TIME: Duration = Duration::from_secs(1);

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

    /// It is not. A short body is read to its end on the side; a long one costs the connection.
    pub(super) fn discard(self, worker: &Arc<Worker>) {
        let Self {
            response, lease, ..
        } = self;
        let mut body = response.into_body();
        if body.is_end_stream() {
            worker.pool.give_back(worker, lease);
            return;
        }
        if body.size_hint().upper().is_none_or(|size| size > MAX_DRAIN) {
            return;
        }
        let reader = Arc::clone(worker);
        worker.spawn(async move {
            let drained = timeout(DRAIN_TIME, async {
                while let Some(frame) = body.frame().await {
                    if frame.is_err() {
                        return false;
                    }
                }
                true
            });
            if drained.await == Ok(true) {
                reader.pool.give_back(&reader, lease);
            }
        });
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
