//! Asks an endpoint how it is: by a connection, a request, or a call of the gRPC health protocol.
//!
//! I/O only. Who is asked, when, and what follows from the answer is decided by [`proxy`](crate::proxy) for the checks
//! of policies and by [`registry`](crate::registry) for those of registrations.

use std::error::Error as _;
use std::io;
use std::net::SocketAddr;
use std::os::fd::AsFd as _;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::uri::PathAndQuery;
use http::{HeaderMap, Method, Request, StatusCode, header};
use http_body_util::{BodyExt as _, Full};
use hyper::body::{Body as _, Incoming};
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use mesh_common::conn::{Conn, Direction};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpSocket, TcpStream};
use tokio::task::JoinSet;

use crate::net::clock;
use crate::net::conn::ConnTable;
use crate::net::netns::Netns;
use crate::net::socket;
use crate::net::tls::Connector;
use crate::state::endpoint::HealthStatus;
use crate::traffic::health::{Statuses, grpc};

/// So much of a body is looked at.
const MAX_BODY: usize = 64 * 1024;
/// So much of a body is shown.
const MAX_SHOWN: usize = 1024;
const USER_AGENT: &str = "mesh-agent health check";

/// What was seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shown {
    /// In one word.
    pub status: HealthStatus,
    /// In a sentence.
    pub output: String,
}

/// Nothing was seen: the agent could not ask, and why.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Unasked(pub String);

/// How it is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Question {
    /// Does it accept connections?
    Connect,
    /// By a request over HTTP/1.1.
    Http(Box<Ask>),
    /// By `grpc.health.v1.Health/Check`.
    Grpc {
        /// The authority.
        host: String,
        /// Service that is asked after; `None`: the server as a whole.
        service: Option<String>,
    },
}

impl Question {
    async fn ask(&self, stream: impl Stream, scheme: &str) -> Result<Shown, String> {
        match self {
            Self::Connect => Ok(passing("it accepts connections".to_owned())),
            Self::Http(ask) => request(stream, ask).await,
            Self::Grpc { host, service } => {
                let uri = format!("{scheme}://{host}{}", grpc::PATH);
                let seen = call(stream, uri, service.as_deref()).await?;
                Ok(passing(seen))
            }
        }
    }
}

/// A connection, in the clear or not.
trait Stream: AsyncRead + AsyncWrite + Unpin + Send + 'static {}

impl<S: AsyncRead + AsyncWrite + Unpin + Send + 'static> Stream for S {}

/// A request, and what is thought of its answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ask {
    /// The method.
    pub method: Method,
    /// Path with query.
    pub path: PathAndQuery,
    /// Fields of the head; `host` is among them.
    pub headers: HeaderMap,
    /// The body.
    pub body: Bytes,
    /// Statuses that are good.
    pub good: Statuses,
    /// Statuses that are a warning; all others are critical.
    pub warning: Statuses,
    /// Text that the first 64 KiB of the body must hold.
    pub text: Option<String>,
    /// Whether the beginning of the body is part of what was seen.
    pub is_body_shown: bool,
}

/// TLS around a question.
#[derive(Clone, PartialEq)]
pub struct Tls {
    /// Makes the handshake.
    pub connector: Connector,
    /// What the server's certificate has to be for: a name of DNS or an address.
    pub name: String,
}

/// How one endpoint is asked, and from where.
#[derive(Clone)]
pub struct Probe {
    /// Where sockets of the agent are marked.
    pub table: Arc<dyn ConnTable>,
    /// The network namespaces from which it is asked, in this order: the next one where one does not lead there.
    pub places: Vec<Arc<Netns>>,
    /// Where it listens.
    pub address: SocketAddr,
    /// Number of its service, or 0.
    pub service: u32,
    /// Number of the endpoint, or 0.
    pub endpoint: u32,
    /// How it is asked.
    pub question: Question,
    /// By whose name and with what settings TLS comes first; `None`: in the clear.
    pub tls: Option<Tls>,
    /// How long that may take.
    pub limit: Duration,
}

impl std::fmt::Debug for Probe {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Probe")
            .field("question", &self.question)
            .field("address", &self.address)
            .finish_non_exhaustive()
    }
}

impl Probe {
    /// Whether it asks the same in the same way, from wherever.
    #[must_use]
    pub fn is_like(&self, other: &Self) -> bool {
        self.question == other.question
            && self.address == other.address
            && self.endpoint == other.endpoint
            && self.tls == other.tls
            && self.limit == other.limit
    }

    /// Whether it asks from the same places.
    #[must_use]
    pub fn is_from_same_places(&self, other: &Self) -> bool {
        let cookies = |it: &Self| -> Vec<u64> { it.places.iter().map(|it| it.cookie()).collect() };
        cookies(self) == cookies(other)
    }

    /// Asks.
    ///
    /// # Errors
    /// The agent has no socket to ask with: that says nothing about the endpoint.
    pub async fn run(&self) -> Result<Shown, Unasked> {
        let asked = tokio::time::timeout(self.limit, self.ask()).await;
        asked.unwrap_or_else(|_| Ok(critical(format!("no answer within {:?}", self.limit))))
    }

    async fn ask(&self) -> Result<Shown, Unasked> {
        Ok(match self.connect().await? {
            Ok(stream) => self.talk(stream).await.unwrap_or_else(critical),
            Err(error) => critical(format!("no connection: {error}")),
        })
    }

    async fn talk(&self, stream: TcpStream) -> Result<Shown, String> {
        let Some(tls) = &self.tls else {
            return self.question.ask(stream, "http").await;
        };
        let stream = tls.connector.connect(&tls.name, stream).await;
        let stream = stream.map_err(|error| format!("no TLS: {error}"))?;
        self.question.ask(stream, "https").await
    }

    /// Connects from the first place that leads to the endpoint. That none does speaks against the endpoint.
    async fn connect(&self) -> Result<io::Result<TcpStream>, Unasked> {
        let mut last = Err(Unasked("no network namespace to ask from".to_owned()));
        for place in &self.places {
            last = match self.socket(place) {
                Ok(socket) => Ok(socket.connect(self.address).await),
                Err(error) => Err(Unasked(format!("no socket to ask with: {error}"))),
            };
            match &last {
                Ok(Ok(_)) => break,
                Ok(Err(error)) if !is_of_place(error) => break,
                _ => {}
            }
        }
        last
    }

    /// A socket of the agent's own, in a namespace from which the endpoint is asked.
    fn socket(&self, place: &Netns) -> io::Result<TcpSocket> {
        let socket = socket::dial(place, self.address, None)?;
        let conn = Conn {
            original: self.address.into(),
            direction: Direction::Dialled as u8,
            flags: Conn::OWN | Conn::AUTHORIZED,
            netns: place.cookie(),
            service: self.service,
            endpoint: self.endpoint,
            started_ns: clock::monotonic_ns(),
            ..Conn::default()
        };
        self.table.mark(socket.as_fd(), &conn)?;
        Ok(TcpSocket::from_std_stream(socket.into()))
    }
}

/// Whether an error speaks of where it was dialled from, and not of the endpoint: there is no route or address there, or
/// a rule of the place forbids it.
fn is_of_place(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::NetworkUnreachable
            | io::ErrorKind::AddrNotAvailable
            | io::ErrorKind::PermissionDenied
    )
}

const fn critical(output: String) -> Shown {
    Shown {
        status: HealthStatus::Critical,
        output,
    }
}

const fn passing(output: String) -> Shown {
    Shown {
        status: HealthStatus::Passing,
        output,
    }
}

async fn request(stream: impl Stream, ask: &Ask) -> Result<Shown, String> {
    let mut request = Request::new(Full::new(ask.body.clone()));
    *request.method_mut() = ask.method.clone();
    *request.uri_mut() = ask.path.clone().into();
    let headers = request.headers_mut();
    headers.insert(
        header::USER_AGENT,
        header::HeaderValue::from_static(USER_AGENT),
    );
    headers.extend(ask.headers.clone());
    headers.insert(
        header::CONNECTION,
        header::HeaderValue::from_static("close"),
    );
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(said)?;
    let mut driving = JoinSet::new();
    driving.spawn(connection);
    let response = sender.send_request(request).await.map_err(said)?;
    let code = response.status();
    let mut output = format!("{} {}: {code}", ask.method, ask.path);
    let status = judged(ask, code);
    if ask.is_body_shown {
        // What has been seen stands, also where the rest of the body does not come.
        if let Ok((body, _)) = gather(response.into_body(), MAX_SHOWN).await
            && !body.is_empty()
        {
            output = format!("{output} {}", String::from_utf8_lossy(&body));
        }
    } else if let (Some(wanted), HealthStatus::Passing) = (&ask.text, status) {
        let (body, _) = gather(response.into_body(), MAX_BODY).await?;
        if !contains(&body, wanted.as_bytes()) {
            return Err(format!("{output}, without the text {wanted:?}"));
        }
    }
    Ok(Shown { status, output })
}

fn judged(ask: &Ask, code: StatusCode) -> HealthStatus {
    if ask.good.contains(code.as_u16()) {
        HealthStatus::Passing
    } else if ask.warning.contains(code.as_u16()) {
        HealthStatus::Warning
    } else {
        HealthStatus::Critical
    }
}

async fn call(stream: impl Stream, uri: String, service: Option<&str>) -> Result<String, String> {
    let body = Full::new(Bytes::from(grpc::request(service)));
    let request = Request::post(uri)
        .header(header::CONTENT_TYPE, "application/grpc")
        .header(header::TE, "trailers")
        .header(header::USER_AGENT, USER_AGENT)
        .body(body)
        .map_err(|error| format!("no request can be made: {error}"))?;
    let io = TokioIo::new(stream);
    let (mut sender, connection) = http2::handshake(TokioExecutor::new(), io)
        .await
        .map_err(said)?;
    let mut driving = JoinSet::new();
    driving.spawn(connection);
    let response = sender.send_request(request).await.map_err(said)?;
    let status = response.status();
    if status != StatusCode::OK {
        return Err(format!("Health/Check: {status}"));
    }
    let code = |fields: &HeaderMap| {
        let code = fields.get("grpc-status")?;
        Some(code.to_str().unwrap_or("?").to_owned())
    };
    let early = code(response.headers());
    let (body, trailers) = gather(response.into_body(), MAX_BODY).await?;
    let code = early.or_else(|| code(&trailers?));
    match (code.as_deref(), grpc::status(&body)) {
        (Some("0"), Some(1)) => Ok("Health/Check: serving".to_owned()),
        (Some("0"), Some(2)) => Err("Health/Check: not serving".to_owned()),
        (Some("0"), _) => Err("Health/Check: status unknown".to_owned()),
        (code, _) => Err(format!(
            "Health/Check: grpc-status {}",
            code.unwrap_or("missing")
        )),
    }
}

/// What hyper says of a failure, with its cause.
fn said(error: hyper::Error) -> String {
    match error.source() {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    }
}

/// The beginning of a body, and its trailers if it is no longer than that.
async fn gather(mut body: Incoming, most: usize) -> Result<(Vec<u8>, Option<HeaderMap>), String> {
    let mut gathered = Vec::new();
    while !body.is_end_stream()
        && let Some(frame) = body.frame().await
    {
        let frame = frame.map_err(said)?;
        match frame.into_data() {
            Ok(data) => gathered.extend_from_slice(&data),
            Err(frame) => return Ok((gathered, frame.into_trailers().ok())),
        }
        if gathered.len() >= most {
            gathered.truncate(most);
            break;
        }
    }
    Ok((gathered, None))
}

fn contains(text: &[u8], part: &[u8]) -> bool {
    part.is_empty() || text.windows(part.len()).any(|window| window == part)
}

#[cfg(test)]
mod tests;
