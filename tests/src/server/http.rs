//! The fake HTTP server: shows what it was asked, and answers as the request's headers tell it.

use std::convert::Infallible;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use http::{HeaderMap, HeaderValue, Request, Response};
use http_body_util::BodyExt as _;
use hyper::body::{Body, Bytes, Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use serde_json::json;
use tokio::net::TcpStream;

use crate::client::fields;

/// Bytes per frame of a long body.
const FRAME: usize = 65_536;
/// Where the health protocol of gRPC asks.
const HEALTH: &str = "/grpc.health.v1.Health/Check";

/// Serves one connection of HTTP/1.1 or HTTP/2.
pub(super) async fn serve(name: &str, stream: TcpStream) -> io::Result<()> {
    let name: Arc<str> = name.into();
    let peer: Arc<str> = stream.peer_addr()?.to_string().into();
    let service = service_fn(move |request| respond(Arc::clone(&name), Arc::clone(&peer), request));
    auto::Builder::new(TokioExecutor::new())
        .serve_connection_with_upgrades(TokioIo::new(stream), service)
        .await
        .map_err(io::Error::other)
}

/// The same; one request in `every` of this process waits first.
pub(super) async fn serve_slowly(
    name: &str,
    stream: TcpStream,
    every: u64,
    millis: u64,
) -> io::Result<()> {
    static REQUESTS: AtomicU64 = AtomicU64::new(0);
    let name: Arc<str> = name.into();
    let peer: Arc<str> = stream.peer_addr()?.to_string().into();
    let service = service_fn(move |request| {
        let (name, peer) = (Arc::clone(&name), Arc::clone(&peer));
        async move {
            let number = REQUESTS.fetch_add(1, Ordering::Relaxed);
            if number.is_multiple_of(every) {
                tokio::time::sleep(Duration::from_millis(millis)).await;
            }
            respond(name, peer, request).await
        }
    });
    auto::Builder::new(TokioExecutor::new())
        .serve_connection(TokioIo::new(stream), service)
        .await
        .map_err(io::Error::other)
}

async fn respond(
    name: Arc<str>,
    peer: Arc<str>,
    mut request: Request<Incoming>,
) -> Result<Response<Reply>, Infallible> {
    // Several servers get the same request; `x-only` says which of them is to behave as told.
    let only = request.headers().get("x-only");
    let is_meant = only.is_none_or(|only| only.as_bytes() == name.as_bytes());
    let number = |field: &str| {
        let value = request.headers().get(field).filter(|_| is_meant)?;
        value.to_str().ok()?.parse::<u64>().ok()
    };
    if let Some(millis) = number("x-delay-ms") {
        tokio::time::sleep(Duration::from_millis(millis)).await;
    }
    let status = number("x-status").and_then(|status| u16::try_from(status).ok());
    let status = status.or_else(|| sick(request.uri().path(), &name));
    let length = number("x-body-bytes");
    let mut response = Response::builder()
        .status(status.unwrap_or(200))
        .header("x-server", &*name);
    if let Some(protocol) = request.headers().get("upgrade").cloned() {
        response = response
            .status(101)
            .header("connection", "upgrade")
            .header("upgrade", protocol);
        let upgrade = hyper::upgrade::on(&mut request);
        drop(tokio::spawn(async move {
            let mut stream = TokioIo::new(upgrade.await.map_err(io::Error::other)?);
            super::echo(&mut stream).await
        }));
        return Ok(response.body(Reply::default()).unwrap());
    }
    let is_grpc = request
        .headers()
        .get("content-type")
        .is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc"));
    let time = request.headers().get("grpc-timeout").cloned();
    let reply = match length {
        Some(length) => Reply::long(length),
        None if request.uri().path() == HEALTH => Reply::health(request, &name).await,
        None if is_grpc => Reply::grpc(request).await,
        None => Reply::text(&describe(&name, &peer, request).await),
    };
    if is_grpc {
        response = response.header("content-type", "application/grpc");
        if let Some(time) = time {
            response = response.header("x-grpc-timeout", time);
        }
    }
    Ok(response.body(reply).unwrap())
}

/// The status of a check at `/sick/NAME/STATUS`, where the server of that name is sick.
fn sick(path: &str, name: &str) -> Option<u16> {
    let (sick, status) = path.strip_prefix("/sick/")?.split_once('/')?;
    status.parse().ok().filter(|_| sick == name)
}

async fn describe(name: &str, peer: &str, request: Request<Incoming>) -> String {
    let (head, body) = request.into_parts();
    let body = body
        .collect()
        .await
        .map(http_body_util::Collected::to_bytes);
    json!({
        "server": name,
        "peer": peer,
        "method": head.method.as_str(),
        "uri": head.uri.to_string(),
        "version": format!("{:?}", head.version),
        "headers": fields(&head.headers),
        "bodyBytes": body.map_or(-1, |body| i64::try_from(body.len()).unwrap_or(i64::MAX)),
    })
    .to_string()
}

/// A body: text, or a number of bytes, and trailers for gRPC.
#[derive(Default)]
struct Reply {
    text: Option<Bytes>,
    remaining: u64,
    trailers: Option<HeaderMap>,
}

impl Reply {
    fn text(text: &str) -> Self {
        Self {
            text: Some(Bytes::copy_from_slice(text.as_bytes())),
            ..Self::default()
        }
    }

    fn long(length: u64) -> Self {
        Self {
            remaining: length,
            ..Self::default()
        }
    }

    /// Says that it serves; a server that is asked after itself, that it does not.
    async fn health(request: Request<Incoming>, name: &str) -> Self {
        let reply = Self::grpc(request).await;
        let asked = reply.text.clone().unwrap_or_default();
        let is_self = asked.ends_with(name.as_bytes());
        let status = if is_self { 2 } else { 1 };
        Self {
            text: Some(Bytes::copy_from_slice(&[0, 0, 0, 0, 2, 8, status])),
            ..reply
        }
    }

    /// Sends the message back, and says in trailers that all went well.
    async fn grpc(request: Request<Incoming>) -> Self {
        let body = request.into_body().collect().await;
        let trailers = [
            ("grpc-status", HeaderValue::from_static("0")),
            ("grpc-message", HeaderValue::from_static("fine")),
        ];
        Self {
            text: body.ok().map(http_body_util::Collected::to_bytes),
            remaining: 0,
            trailers: Some(
                trailers
                    .into_iter()
                    .map(|(name, value)| (http::HeaderName::from_static(name), value))
                    .collect(),
            ),
        }
    }
}

impl Body for Reply {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        static ZEROS: [u8; FRAME] = [0; FRAME];
        if let Some(text) = self.text.take() {
            return Poll::Ready(Some(Ok(Frame::data(text))));
        }
        if self.remaining > 0 {
            let length = self.remaining.min(FRAME as u64);
            self.remaining -= length;
            let bytes = &ZEROS[..usize::try_from(length).unwrap()];
            return Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(bytes)))));
        }
        let trailers = self.trailers.take();
        Poll::Ready(trailers.map(|trailers| Ok(Frame::trailers(trailers))))
    }
}
