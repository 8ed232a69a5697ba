//! Workload to mesh: the life of an outbound connection.
//!
//! This file is the table of contents of the data path. Each step is one line here and one module below it: read on in
//! the module that the step names.

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;
use tokio::net::TcpStream;

use super::caller::Caller;
use super::detect::{self, Detected};
use super::error::Error;
use super::http;
use super::http::admit::Quota;
use super::streams::Way;
use super::tcp;
use super::view::ServicePort;
use super::worker::Worker;
use crate::net::clock;
use crate::net::netns::Netns;
use crate::net::peek::Prefixed;
use crate::net::socket;
use crate::net::stream::Stream;

/// What is left of the life of a connection once it is known what it is.
type Rest = Pin<Box<dyn Future<Output = Result<(), Error>> + Send>>;

/// What is known of a connection after its begin; nothing, if it has ended by then.
type Begun = Option<(SocketAddr, Result<Rest, Error>)>;

/// Serves one accepted connection to its end. A connection that cannot be served is reset, counted and logged.
pub(crate) fn serve(
    worker: Arc<Worker>,
    stream: TcpStream,
    netns: Arc<Netns>,
    peer: SocketAddr,
) -> impl Future<Output = ()> + Send {
    // In boxes of their own: an idle connection costs as much memory as the largest thing that it may do in place.
    go_on(Box::pin(begin(worker, stream, netns, peer)))
}

async fn go_on(begin: Pin<Box<impl Future<Output = Begun> + Send>>) {
    let ended = |original: SocketAddr, error: Error| {
        tracing::debug!(%original, reason = error.reason(), %error, "connection ended");
    };
    let (original, rest) = match begin.await {
        Some((original, Ok(rest))) => (original, rest),
        Some((original, Err(error))) => return ended(original, error),
        None => return,
    };
    if let Err(error) = rest.await {
        ended(original, error);
    }
}

async fn begin(
    worker: Arc<Worker>,
    stream: TcpStream,
    netns: Arc<Netns>,
    peer: SocketAddr,
) -> Begun {
    // 1. Who calls, and where did they want to go? The kernel remembers. And is there room for them?
    let caller = match Caller::identify(&worker, &stream, netns, peer).await {
        Ok(caller) => Box::new(caller),
        Err(error) => {
            refuse(&worker, &stream, &error, peer);
            return None;
        }
    };
    let stream = worker.table.stream(stream, &caller.conn);
    // 2. Which service is that?
    let port = service_port(&worker, &caller).await;
    // 3. What does it speak? 4. Forward: per request for HTTP, else once per connection.
    let original = caller.original;
    let rest = if let Some(port) = port {
        // And does it take new connections?
        match http::admit::connection(&worker, &caller, &port).await {
            Ok(()) => forward(&worker, caller, port, stream).await,
            Err(quota) => turn_away(&worker, caller, &port, stream, quota).await,
        }
    } else {
        let error = Error::NoService(original);
        explain(&worker, caller, None, stream, error).await
    };
    Some((original, rest))
}

async fn forward(
    worker: &Arc<Worker>,
    caller: Box<Caller>,
    port: Arc<ServicePort>,
    mut stream: Stream,
) -> Result<Rest, Error> {
    let way = Way::of(worker, &caller, &port);
    let detecting = detect::detect(worker, &caller, &port, way.ahead(), &mut stream);
    let detected = match detecting.await {
        Ok(detected) => detected,
        Err(error) => {
            let error = tcp::refuse(worker, &caller, Some(&port), error);
            return Err(reset(&stream, error));
        }
    };
    match detected {
        Detected::Http1(first) => serve_http(worker, caller, stream, first, false),
        Detected::Http2(first) => serve_http(worker, caller, stream, first, true),
        Detected::Opaque(first, dialled) => {
            let (first, routed) = way
                .follow(worker, (&caller, &port), &mut stream, first)
                .await;
            match routed {
                Ok(routed) => {
                    let stream = Prefixed::new(first, stream);
                    let dialled = tcp::open(worker, &caller, &routed, dialled).await;
                    let dialled = dialled.map_err(|error| reset(stream.get_ref(), error))?;
                    let worker = Arc::clone(worker);
                    Ok(Box::pin(tcp::serve(
                        worker, caller, routed, stream, dialled,
                    )))
                }
                Err(error) => {
                    let error = tcp::refuse(worker, &caller, Some(&port), error);
                    Err(reset(&stream, error))
                }
            }
        }
        Detected::Nothing => Ok(Box::pin(std::future::ready(Ok(())))),
    }
}

/// The client learns that this was no orderly end. The connection is closing either way.
fn reset(stream: &Stream, error: Error) -> Error {
    drop(socket::reset_on_close(stream));
    error
}

/// A connection that is one too many.
async fn turn_away(
    worker: &Arc<Worker>,
    mut caller: Box<Caller>,
    port: &ServicePort,
    stream: Stream,
    quota: Box<Quota>,
) -> Result<Rest, Error> {
    caller.turned_away = Some(quota);
    explain(worker, caller, Some(port), stream, Error::RateLimited).await
}

/// What stands against a connection is reported in the client's language, if that is HTTP.
async fn explain(
    worker: &Arc<Worker>,
    caller: Box<Caller>,
    port: Option<&ServicePort>,
    mut stream: Stream,
    error: Error,
) -> Result<Rest, Error> {
    match detect::detect_orphan(worker, &mut stream).await {
        Detected::Http1(first) => serve_http(worker, caller, stream, first, false),
        Detected::Http2(first) => serve_http(worker, caller, stream, first, true),
        Detected::Opaque(..) | Detected::Nothing => {
            Err(end((worker, &caller), port, &stream, error))
        }
    }
}

fn serve_http(
    worker: &Arc<Worker>,
    caller: Box<Caller>,
    stream: Stream,
    first: Bytes,
    is_http2: bool,
) -> Result<Rest, Error> {
    if let Err(error) = caller.permit.reserve(http::reserved(is_http2)) {
        if let Some(left_out) = worker.refusals.admit(clock::monotonic_ns()) {
            let (original, workload) = (caller.original, &caller.workload.key);
            tracing::warn!(%original, %workload, reason = error.reason(), %error, left_out, "connection refused");
        }
        return Err(end((worker, &caller), None, &stream, error));
    }
    let stream = Prefixed::new(first, stream);
    Ok(http::serve(Arc::clone(worker), caller, stream, is_http2))
}

async fn service_port(worker: &Worker, caller: &Caller) -> Option<Arc<ServicePort>> {
    let dialled = &caller.conn.original;
    if let Some(port) = worker.views.load().port(dialled) {
        return Some(Arc::clone(port));
    }
    worker.views.catch_up().await;
    worker.views.load().port(dialled).map(Arc::clone)
}

/// A connection whose caller is not known, or not admitted.
fn refuse(worker: &Worker, stream: &TcpStream, error: &Error, peer: SocketAddr) {
    worker.metrics.refused(error.reason());
    if let Some(left_out) = worker.refusals.admit(clock::monotonic_ns()) {
        tracing::warn!(%peer, reason = error.reason(), %error, left_out, "connection refused");
    }
    // It is closed either way.
    drop(socket::reset_on_close(stream));
}

/// A connection that ends before a request of it is read; `port` is what was dialled, where that is known.
fn end(
    (worker, caller): (&Worker, &Caller),
    port: Option<&ServicePort>,
    stream: &Stream,
    error: Error,
) -> Error {
    worker.metrics.refused(error.reason());
    reset(stream, tcp::refuse(worker, caller, port, error))
}
