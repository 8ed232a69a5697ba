//! Makes requests wait or fail because a traffic policy says so, for tests.

use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;

use super::exchange::Exchange;
use crate::proxy::error::Error;
use crate::proxy::policy::Policy;
use crate::proxy::policy::faults::Level;
use crate::proxy::view::ServicePort;
use crate::traffic::fault::{Abort, Source};
use crate::traffic::fields::Fields;

/// Longest delay of all faults together; one is at most as long.
const LONGEST: Duration = Duration::from_mins(1);

/// Does to a request what the faults of `policy` draw for it, the policy of the rule that chose it, and those of `backend`,
/// whose endpoints it is for.
pub(crate) async fn inject(
    exchange: &Exchange,
    policy: &Policy,
    backend: &ServicePort,
    fields: &Fields<'_>,
) -> Result<(), Error> {
    let (levels, others) = (&policy.faults.0, &backend.policy.faults.0);
    if levels.is_empty() && others.is_empty() {
        return Ok(());
    }
    let connection = &exchange.connection;
    let metrics = &connection.worker.metrics.shaping;
    let workload = &connection.caller.workload;
    let source = Source {
        namespace: &workload.key.namespace,
        service_account: &workload.service_account,
        workload: &workload.key.name,
    };
    let (mut delay, mut abort) = (Duration::ZERO, None);
    let is_new = |other: &&Arc<Level>| !levels.iter().any(|it| Arc::ptr_eq(it, other));
    for level in levels.iter().chain(others.iter().filter(is_new)) {
        let drawn = level.faults.draw(fields, &source, rand::random);
        if !drawn.delay.is_zero() {
            metrics.fault(&level.policy, "delay");
            delay = delay.saturating_add(drawn.delay).min(LONGEST);
        }
        if abort.is_none() && drawn.abort.is_some() {
            metrics.fault(&level.policy, "abort");
            abort = drawn.abort;
        }
    }
    exchange.pause(delay).await?;
    abort.map_or(Ok(()), |abort| Err(failure(abort)))
}

fn failure(abort: Abort) -> Error {
    match abort {
        Abort::Status(status) => Error::Fault {
            status: StatusCode::from_u16(status).unwrap_or(StatusCode::SERVICE_UNAVAILABLE),
            grpc: None,
        },
        Abort::Grpc(code) => Error::Fault {
            status: status_of(code),
            grpc: Some(code),
        },
    }
}

/// What a client that does not speak gRPC is told instead of a code of it (google/rpc/code.proto, "HTTP Mapping").
const fn status_of(code: u8) -> StatusCode {
    match code {
        3 | 9 | 11 => StatusCode::BAD_REQUEST,
        4 => StatusCode::GATEWAY_TIMEOUT,
        5 => StatusCode::NOT_FOUND,
        6 | 10 => StatusCode::CONFLICT,
        7 => StatusCode::FORBIDDEN,
        8 => StatusCode::TOO_MANY_REQUESTS,
        12 => StatusCode::NOT_IMPLEMENTED,
        14 => StatusCode::SERVICE_UNAVAILABLE,
        16 => StatusCode::UNAUTHORIZED,
        _ => StatusCode::INTERNAL_SERVER_ERROR,
    }
}
