//! One HTTP/1.1 connection to a member of etcd. The gateway speaks nothing newer without TLS.

use std::io;
use std::time::Duration;

use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_TYPE, HOST};
use http::{HeaderValue, Request, Response};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_util::task::AbortOnDropHandle;

use super::address::Member;
use super::error::Error;
use crate::net::tls::Connector;

/// How long a member may take to accept a connection, handshake included.
pub(super) const DIAL_TIMEOUT: Duration = Duration::from_secs(2);
/// How long sent bytes may stay unacknowledged before the kernel gives the connection up.
const SEND_TIMEOUT: Duration = Duration::from_secs(10);
/// Silence after which the kernel asks whether the other side is still there.
const PROBE_AFTER: Duration = Duration::from_secs(5);
/// Largest head of an answer.
const MAX_HEAD: usize = 64 << 10;

/// An open connection.
#[derive(Debug)]
pub(super) struct Connection {
    sender: SendRequest<Full<Bytes>>,
    /// Moves the bytes; ends with this value.
    _driver: AbortOnDropHandle<()>,
}

impl Connection {
    /// Dials, within [`DIAL_TIMEOUT`].
    pub(super) async fn dial(
        member: &Member,
        connector: Option<&Connector>,
    ) -> Result<Self, Error> {
        let dialled = tokio::time::timeout(DIAL_TIMEOUT, dial(member, connector)).await;
        dialled
            .unwrap_or_else(|_elapsed| Err(io::ErrorKind::TimedOut.into()))
            .map_err(|source| Error::Connect {
                member: member.to_string(),
                source,
            })
    }

    /// Whether another request can be sent.
    pub(super) fn is_open(&self) -> bool {
        !self.sender.is_closed()
    }

    /// Sends a request, and returns with the head of the answer.
    pub(super) async fn send(
        &mut self,
        request: Request<Full<Bytes>>,
    ) -> hyper::Result<Response<Incoming>> {
        self.sender.ready().await?;
        self.sender.send_request(request).await
    }
}

async fn dial(member: &Member, connector: Option<&Connector>) -> io::Result<Connection> {
    let stream = TcpStream::connect((member.host.as_str(), member.port)).await?;
    stream.set_nodelay(true)?;
    let socket = SockRef::from(&stream);
    socket.set_tcp_user_timeout(Some(SEND_TIMEOUT))?;
    let probes = TcpKeepalive::new()
        .with_time(PROBE_AFTER)
        .with_interval(PROBE_AFTER)
        .with_retries(2);
    socket.set_tcp_keepalive(&probes)?;
    match connector {
        Some(connector) => {
            let stream = connector.connect(&member.host, stream).await?;
            handshake(stream).await
        }
        None => handshake(stream).await,
    }
}

async fn handshake<S>(stream: S) -> io::Result<Connection>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (sender, connection) = http1::Builder::new()
        .max_buf_size(MAX_HEAD)
        .handshake(TokioIo::new(stream))
        .await
        .map_err(io::Error::other)?;
    let driver = tokio::spawn(async move {
        if let Err(error) = connection.await {
            tracing::debug!(%error, "connection to etcd has failed");
        }
    });
    Ok(Connection {
        sender,
        _driver: AbortOnDropHandle::new(driver),
    })
}

/// A question to the gateway of `member`.
pub(super) fn request(
    member: &Member,
    path: &str,
    token: Option<&HeaderValue>,
    body: Bytes,
) -> Result<Request<Full<Bytes>>, http::Error> {
    let mut request = Request::post(format!("/v3/{path}"))
        .header(HOST, member.to_string())
        .header(CONTENT_TYPE, "application/json");
    if let Some(token) = token {
        request = request.header(AUTHORIZATION, token);
    }
    request.body(Full::new(body))
}
