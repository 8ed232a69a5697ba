//! Dials an endpoint from the caller's network namespace, within a deadline.

use std::io;
use std::net::IpAddr;
use std::os::fd::AsFd as _;
use std::sync::Arc;

use mesh_common::conn::{Conn, Direction};
use tokio::net::TcpSocket;
use tokio::time::timeout;

use super::caller::Caller;
use super::error::Error;
use super::view::{Endpoint, ServicePort};
use super::worker::Worker;
use crate::net::clock;
use crate::net::netns::Netns;
use crate::net::socket;
use crate::net::stream::Stream;
use crate::traffic::outlier::Reason;

/// A connection that is to be made. Holds nothing of its caller, who may be gone before it stands.
#[derive(Debug)]
pub(crate) struct Dial {
    /// Where it leads.
    pub(crate) endpoint: Arc<Endpoint>,
    netns: Arc<Netns>,
    bound: Option<IpAddr>,
    own: Conn,
}

impl Dial {
    /// One to `endpoint` for `caller`.
    pub(crate) fn new(caller: &Caller, port: &ServicePort, endpoint: &Arc<Endpoint>) -> Self {
        Self {
            endpoint: Arc::clone(endpoint),
            netns: Arc::clone(&caller.netns),
            bound: caller.bound,
            own: own(caller, port, endpoint),
        }
    }
}

/// Connects to an endpoint. A refusal puts it aside for a while.
pub(crate) async fn dial(worker: &Worker, dial: &Dial) -> Result<Stream, Error> {
    let result = reach(worker, dial).await;
    judge(worker, &dial.endpoint, &result);
    result
}

/// What came of a connection says whether others should leave the endpoint alone for a while.
pub(crate) fn judge<T>(worker: &Worker, endpoint: &Endpoint, result: &Result<T, Error>) {
    match result {
        Ok(_) => endpoint.live.accepted(),
        Err(error) if error.blames_endpoint() => {
            if endpoint.live.vitals.refused() {
                worker.metrics.ejected(Reason::Refused);
                tracing::info!(endpoint = %endpoint.key, address = %endpoint.address, reason = error.reason(), "endpoint put aside");
            }
        }
        Err(_) => {}
    }
}

/// Connects to an endpoint; what comes of it is left to the caller to [`judge`], who has more to say to the endpoint.
pub(crate) async fn reach(worker: &Worker, dial: &Dial) -> Result<Stream, Error> {
    let endpoint = &dial.endpoint;
    let failed = |source: io::Error| Error::Connect {
        endpoint: endpoint.address,
        source,
    };
    let socket = socket::dial(&dial.netns, endpoint.address, dial.bound).map_err(Error::Socket)?;
    worker
        .table
        .mark(socket.as_fd(), &dial.own)
        .map_err(Error::ConnTable)?;
    let socket = TcpSocket::from_std_stream(socket.into());
    worker.metrics.pool_dialled.inc();
    match timeout(
        worker.config.timeouts.connect,
        socket.connect(endpoint.address),
    )
    .await
    {
        Ok(Ok(stream)) => Ok(worker.table.stream(stream, &dial.own)),
        Ok(Err(source)) => Err(failed(source)),
        Err(_) => Err(Error::ConnectTimeout(endpoint.address)),
    }
}

/// What the hooks shall know of the socket: the agent's own, and authorized already.
fn own(caller: &Caller, port: &ServicePort, endpoint: &Endpoint) -> Conn {
    let is_accelerated = endpoint
        .workload
        .as_ref()
        .is_some_and(|workload| workload.is_accelerated);
    let acceleration = if is_accelerated { Conn::ACCELERATED } else { 0 };
    Conn {
        original: endpoint.address.into(),
        verdict: 0,
        reason: 0,
        direction: Direction::Dialled as u8,
        flags: Conn::OWN | Conn::AUTHORIZED | acceleration,
        service: port.service_number,
        endpoint: endpoint.number,
        started_ns: clock::monotonic_ns(),
        cookie: 0,
        ..caller.conn
    }
}
