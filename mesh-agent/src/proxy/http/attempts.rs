//! The tries of one request: another endpoint where one refuses, another connection where one has just closed.

use std::error::Error as _;
use std::sync::Arc;

use http::request::Parts;
use http::{Request, Response};
use hyper::body::Incoming;
use tokio::time::timeout;

use super::body::Outgoing;
use super::exchange::Exchange;
use super::headers::is_idempotent;
use crate::net::clock;
use crate::proxy::caller::Caller;
use crate::proxy::error::Error;
use crate::proxy::pool::{self, Lease};
use crate::proxy::select::Selection;
use crate::proxy::view::{Active, ServicePort};

/// Endpoints that are tried for one request.
pub(crate) const MAX_ATTEMPTS: u32 = 3;
/// Kept connections that may turn out to be closed before one is dialled afresh; they cost nothing, as nothing was sent.
const MAX_STALE: u32 = 3;

/// Sends a request to an endpoint of `port`. What has failed without a trace is tried elsewhere.
pub(crate) async fn send(
    exchange: &mut Exchange,
    port: Arc<ServicePort>,
    request: Request<Outgoing>,
    is_http2: bool,
) -> Result<Response<Incoming>, Error> {
    let connection = Arc::clone(&exchange.connection);
    let worker = &connection.worker;
    let (mut selection, mut request) = selection(port, &connection.caller, request);
    let spare = Spare::of(&request);
    let mut last = Error::NoEndpoint;
    let mut stale = 0;
    while exchange.attempts < MAX_ATTEMPTS {
        let active = match selection.next(worker, &connection.caller) {
            Ok(active) => active,
            // That nobody is left says less than why the last one failed.
            Err(Error::NoEndpoint) => return Err(last),
            Err(error) => return Err(error),
        };
        let endpoint = Arc::clone(active.endpoint());
        exchange.port = Some(Arc::clone(selection.port()));
        exchange.attempts += 1;
        if exchange.attempts > 1 {
            worker.metrics.retried(last.reason());
        }
        let lease = if is_http2 {
            pool::http2(worker, &connection.caller, selection.port(), &endpoint).await
        } else {
            pool::http1(worker, &connection.caller, selection.port(), &endpoint).await
        };
        let lease = match lease {
            Ok(lease) => lease,
            Err(error) if error.is_retryable() => {
                selection.avoid(&endpoint);
                exchange.active = Some(active);
                last = error;
                continue;
            }
            Err(error) => return Err(error),
        };
        match try_once(exchange, active, lease, request).await {
            Ok(response) => {
                exchange.session_field = selection.session_field(&endpoint);
                return Ok(response);
            }
            Err((error, Some(unsent))) => {
                // Closed in the moment it was taken out: the endpoint is not to blame.
                request = unsent;
                last = error;
                stale += 1;
                if stale <= MAX_STALE {
                    exchange.attempts -= 1;
                }
            }
            Err((error @ Error::Upstream { .. }, None)) => {
                let Some(again) = spare.copy(&error) else {
                    return Err(error);
                };
                selection.avoid(&endpoint);
                request = again;
                last = error;
            }
            Err((error, None)) => return Err(error),
        }
    }
    Err(last)
}

/// The choices for a request: they depend on its head.
fn selection(
    port: Arc<ServicePort>,
    caller: &Caller,
    request: Request<Outgoing>,
) -> (Selection, Request<Outgoing>) {
    let (head, body) = request.into_parts();
    let policy = Arc::clone(&port.policy);
    let selection = Selection::of_request(port, &policy, None, caller, &head);
    (selection, Request::from_parts(head, body))
}

type Failure = (Error, Option<Request<Outgoing>>);

async fn try_once(
    exchange: &mut Exchange,
    active: Active,
    mut lease: Lease,
    request: Request<Outgoing>,
) -> Result<Response<Incoming>, Failure> {
    let address = active.endpoint().address;
    exchange.active = Some(active);
    let patience = exchange.connection.worker.config.timeouts.response;
    let result = timeout(patience, lease.send(request)).await;
    exchange.lease = Some(lease);
    match result {
        Ok(Ok(response)) => {
            if let Some(active) = &mut exchange.active {
                active.answered(clock::monotonic_ns());
            }
            Ok(response)
        }
        Ok(Err(mut error)) => {
            exchange.lease = None;
            let unsent = error.take_message();
            Err((exchange.blame(address, error.into_error()), unsent))
        }
        Err(_) => {
            exchange.lease = None;
            Err((Error::ResponseTimeout(address), None))
        }
    }
}

/// A copy of a request that has no body, for a second time.
struct Spare(Option<Parts>);

impl Spare {
    fn of(request: &Request<Outgoing>) -> Self {
        let has_no_body = matches!(request.body(), Outgoing::Empty);
        Self(has_no_body.then(|| {
            let mut copy = Request::new(());
            *copy.method_mut() = request.method().clone();
            *copy.uri_mut() = request.uri().clone();
            *copy.version_mut() = request.version();
            copy.headers_mut().clone_from(request.headers());
            copy.into_parts().0
        }))
    }

    /// One more, if the request may be sent again after `error`: it was not processed, or its repetition makes no
    /// difference.
    fn copy(&self, error: &Error) -> Option<Request<Outgoing>> {
        let parts = self.0.as_ref()?;
        let may_repeat = is_idempotent(&parts.method) || is_refused(error);
        may_repeat.then(|| Request::from_parts(parts.clone(), Outgoing::Empty))
    }
}

/// Whether the endpoint says that it has not looked at the request: RFC 9113, 8.7.
fn is_refused(error: &Error) -> bool {
    let mut cause = error.source();
    while let Some(error) = cause {
        if let Some(error) = error.downcast_ref::<h2::Error>() {
            return error.reason() == Some(h2::Reason::REFUSED_STREAM);
        }
        cause = error.source();
    }
    false
}
