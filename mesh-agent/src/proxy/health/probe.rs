//! One check of one endpoint: a connection, a GET, or a call of the gRPC health protocol.

use std::error::Error as _;
use std::net::SocketAddr;
use std::os::fd::AsFd as _;
use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, Request, header};
use http_body_util::{BodyExt as _, Empty, Full};
use hyper::body::{Body as _, Incoming};
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use mesh_common::conn::{Conn, Direction};
use tokio::net::{TcpSocket, TcpStream};
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::net::clock;
use crate::net::conn::ConnTable;
use crate::net::netns::Netns;
use crate::net::socket;
use crate::proxy::view::{Endpoint, ServicePort};
use crate::state::traffic_policy::health::{GrpcCheck, HealthCheck, HttpCheck};
use crate::traffic::health::{Statuses, grpc};

/// So much of a body is looked at.
const MAX_BODY: usize = 64 * 1024;

/// How one endpoint is asked.
pub(super) struct Probe {
    table: Arc<dyn ConnTable>,
    spec: HealthCheck,
    address: SocketAddr,
    host: String,
    service: u32,
    endpoint: u32,
    place: Option<Arc<Netns>>,
}

impl std::fmt::Debug for Probe {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Probe")
            .field("spec", &self.spec)
            .field("address", &self.address)
            .finish_non_exhaustive()
    }
}

impl Probe {
    pub(super) fn new(
        table: &Arc<dyn ConnTable>,
        spec: &HealthCheck,
        port: &ServicePort,
        endpoint: &Endpoint,
        place: Option<Arc<Netns>>,
    ) -> Self {
        Self {
            table: Arc::clone(table),
            spec: spec.clone(),
            address: endpoint.address,
            host: port.host.clone(),
            service: port.service_number,
            endpoint: endpoint.number,
            place,
        }
    }

    /// The words of the policy.
    pub(super) const fn spec(&self) -> &HealthCheck {
        &self.spec
    }

    /// Whether it asks the same in the same way.
    pub(super) fn is_like(&self, other: &Self) -> bool {
        let place = |probe: &Self| probe.place.as_ref().map(|netns| netns.cookie());
        self.spec == other.spec
            && self.address == other.address
            && self.host == other.host
            && self.endpoint == other.endpoint
            && place(self) == place(other)
    }

    /// Asks. What was seen, in a sentence, and whether it is good.
    pub(super) async fn run(&self) -> Result<String, String> {
        let limit = self.spec.timeout.get();
        match timeout(limit, self.ask()).await {
            Ok(shown) => shown,
            Err(_) => Err(format!("no answer within {}", self.spec.timeout)),
        }
    }

    async fn ask(&self) -> Result<String, String> {
        let stream = self.connect().await?;
        match &self.spec {
            HealthCheck {
                http: Some(check), ..
            } => self.get(stream, check).await,
            HealthCheck {
                grpc: Some(check), ..
            } => self.call(stream, check).await,
            _ => Ok("it accepts connections".to_owned()),
        }
    }

    /// A socket of the agent's own, in the namespace from which the endpoint is asked.
    async fn connect(&self) -> Result<TcpStream, String> {
        let failed = |error: std::io::Error| format!("no connection: {error}");
        let place = self
            .place
            .as_ref()
            .ok_or("no network namespace to ask from")?;
        let socket = socket::dial(place, self.address, None).map_err(failed)?;
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
        self.table.mark(socket.as_fd(), &conn).map_err(failed)?;
        let socket = TcpSocket::from_std_stream(socket.into());
        socket.connect(self.address).await.map_err(failed)
    }

    async fn get(&self, stream: TcpStream, check: &HttpCheck) -> Result<String, String> {
        let host = check.host.as_ref().unwrap_or(&self.host);
        let request = Request::get(&check.path)
            .header(header::HOST, host)
            .header(header::USER_AGENT, USER_AGENT)
            .header(header::CONNECTION, "close")
            .body(Empty::<Bytes>::new())
            .map_err(|error| format!("no request can be made: {error}"))?;
        let (mut sender, connection) =
            http1::handshake(TokioIo::new(stream)).await.map_err(said)?;
        let mut driving = JoinSet::new();
        driving.spawn(connection);
        let response = sender.send_request(request).await.map_err(said)?;
        let status = response.status();
        let seen = format!("GET {}: {status}", check.path);
        if !Statuses::parse(&check.statuses).contains(status.as_u16()) {
            return Err(seen);
        }
        let Some(wanted) = &check.body else {
            return Ok(seen);
        };
        let (body, _) = gather(response.into_body()).await?;
        if contains(&body, wanted.as_bytes()) {
            Ok(seen)
        } else {
            Err(format!("{seen}, without the text {wanted:?}"))
        }
    }

    async fn call(&self, stream: TcpStream, check: &GrpcCheck) -> Result<String, String> {
        let uri = format!("http://{}{}", self.host, grpc::PATH);
        let body = Full::new(Bytes::from(grpc::request(check.service.as_deref())));
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
        if status != http::StatusCode::OK {
            return Err(format!("Health/Check: {status}"));
        }
        let code = |fields: &HeaderMap| {
            let code = fields.get("grpc-status")?;
            Some(code.to_str().unwrap_or("?").to_owned())
        };
        let early = code(response.headers());
        let (body, trailers) = gather(response.into_body()).await?;
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
}

const USER_AGENT: &str = "mesh-agent health check";

/// What hyper says of a failure, with its cause.
fn said(error: hyper::Error) -> String {
    match error.source() {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    }
}

/// The beginning of a body, and its trailers if it is no longer than that.
async fn gather(mut body: Incoming) -> Result<(Vec<u8>, Option<HeaderMap>), String> {
    let mut gathered = Vec::new();
    while !body.is_end_stream()
        && let Some(frame) = body.frame().await
    {
        let frame = frame.map_err(said)?;
        match frame.into_data() {
            Ok(data) => gathered.extend_from_slice(&data),
            Err(frame) => return Ok((gathered, frame.into_trailers().ok())),
        }
        if gathered.len() >= MAX_BODY {
            gathered.truncate(MAX_BODY);
            break;
        }
    }
    Ok((gathered, None))
}

fn contains(text: &[u8], part: &[u8]) -> bool {
    part.is_empty() || text.windows(part.len()).any(|window| window == part)
}
