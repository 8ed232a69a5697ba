//! Who opened a connection, and where they wanted to go: told by the kernel, never guessed.

use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsFd as _;
use std::sync::Arc;

use mesh_common::address::Address;
use mesh_common::conn::{Conn, Direction};
use mesh_common::verdict::Verdict;
use tokio::net::TcpStream;

use super::error::Error;
use super::http::admit::Quota;
use super::limits::Permit;
use super::metrics::End;
use super::view::Workload;
use super::worker::Worker;
use crate::net::netns::Netns;
use crate::telemetry::access_log::Known;

/// The facts of one client connection.
#[derive(Debug)]
pub(crate) struct Caller {
    /// What the kernel remembers.
    pub(crate) conn: Conn,
    /// Where the caller lives, and where connections for it are made.
    pub(crate) netns: Arc<Netns>,
    /// Who it is.
    pub(crate) workload: Arc<Workload>,
    /// What was dialled.
    pub(crate) original: SocketAddr,
    /// The address that the client bound its socket to, if it did.
    pub(crate) bound: Option<IpAddr>,
    /// The port of the client's socket.
    pub(crate) source_port: u16,
    /// The right to this connection.
    pub(crate) permit: Permit,
    /// What is left of the rate limit of its service that refuses the connection, if one does. HTTP is told so.
    pub(crate) turned_away: Option<Box<Quota>>,
    /// How the access log has it.
    pub(crate) logged: Known,
}

impl Caller {
    /// Asks the kernel about an accepted connection, and admits it.
    pub(crate) async fn identify(
        worker: &Worker,
        stream: &TcpStream,
        netns: Arc<Netns>,
        peer: SocketAddr,
    ) -> Result<Self, Error> {
        let conn = worker
            .table
            .conn(stream.as_fd())
            .map_err(Error::ConnTable)?;
        let conn = conn.ok_or(Error::NoConnection)?;
        if conn.verdict != Verdict::Proxy as u8 || conn.direction != Direction::Accepted as u8 {
            return Err(Error::NotProxied);
        }
        if conn.netns != netns.cookie() {
            // A socket that was passed to a process of another namespace: its caller is not who lives here.
            return Err(Error::NotProxied);
        }
        let find = || worker.views.load().workload(conn.workload).map(Arc::clone);
        let mut workload = find();
        if workload.is_none() {
            worker.views.catch_up().await;
            workload = find();
        }
        let workload = workload.unwrap_or_else(|| Arc::clone(&worker.stranger));
        let permit = Permit::admit(&worker.config.limits, &worker.usage, &workload.usage)?;
        let bound = Some(peer.ip().to_canonical()).filter(|ip| !ip.is_loopback());
        Ok(Self {
            original: conn.original.into(),
            conn,
            netns,
            workload,
            bound,
            source_port: peer.port(),
            permit,
            turned_away: None,
            logged: Known::default(),
        })
    }

    /// The caller's address as policy sees it when it goes to `endpoint`.
    pub(crate) fn source_towards(&self, endpoint: SocketAddr) -> Address {
        match self.bound {
            Some(bound) if bound.is_ipv4() == endpoint.is_ipv4() => bound.into(),
            _ if endpoint.is_ipv4() => self.workload.ipv4,
            _ => self.workload.ipv6,
        }
    }

    /// The caller's address for people.
    pub(crate) fn address(&self) -> Option<IpAddr> {
        let source = self.source_towards(self.original);
        (!source.is_unspecified()).then(|| source.into())
    }
}

impl Workload {
    /// Labels of one end.
    pub(crate) fn labels(&self) -> End {
        if self.number == 0 {
            return End::default();
        }
        let unknown = End::default();
        End {
            canonical_service: self.app.clone().unwrap_or_else(|| self.key.name.clone()),
            revision: self.version.clone().unwrap_or(unknown.revision),
            app: self.app.clone().unwrap_or(unknown.app),
            version: self.version.clone().unwrap_or(unknown.version),
            principal: unknown.principal,
            workload: self.key.name.clone(),
            namespace: self.key.namespace.clone(),
        }
    }

    /// Stands for a caller that is not, or no longer, in the registry.
    pub(crate) fn stranger() -> Self {
        Self {
            number: 0,
            key: crate::state::object::ObjectKey::new("unknown", "unknown"),
            service_account: "unknown".to_owned(),
            app: None,
            version: None,
            ipv4: Address::UNSPECIFIED,
            ipv6: Address::UNSPECIFIED,
            is_accelerated: false,
            labels_id: 0,
            usage: Arc::default(),
            object: None,
        }
    }
}
