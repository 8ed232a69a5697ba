//! The sockets of the agent in a workload's network namespace, and what comes in through them.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use mesh_common::flow::QueryKey;
use mesh_common::service::{RESOLVER_PORT, RESOLVER_PORTS};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use super::message::is_transfer;
use super::metrics::{Outcome, Transport};
use super::resolver::{Asked, Realm, Resolver};
use super::upstream::{read_message, relay, write_message};
use crate::net::netns::Netns;
use crate::net::socket;

/// Largest message of the protocol.
pub(super) const MAX_MESSAGE: usize = 65_535;

/// How long a TCP connection may be silent (RFC 7766, 6.2.3: "of the order of a few seconds").
const IDLE: Duration = Duration::from_secs(10);

/// After an error that is not of one connection.
const PAUSE: Duration = Duration::from_millis(100);

/// The sockets of one address family in one namespace.
#[derive(Debug)]
pub(super) struct Sockets {
    streams: TcpListener,
    datagrams: Vec<UdpSocket>,
}

impl Sockets {
    /// Binds to every port of the agent; `None` where the namespace lacks the address.
    pub(super) fn bind(netns: &Netns, address: IpAddr) -> io::Result<Option<Self>> {
        let listener = match socket::listen(netns, super::first_port(address)) {
            Ok(listener) => listener,
            Err(error)
                if matches!(
                    error.raw_os_error(),
                    Some(libc::EADDRNOTAVAIL | libc::EAFNOSUPPORT)
                ) =>
            {
                return Ok(None);
            }
            Err(error) => return Err(error),
        };
        let datagrams = (RESOLVER_PORT..RESOLVER_PORT + RESOLVER_PORTS).map(|port| {
            let socket = socket::bind_datagram(netns, SocketAddr::new(address, port))?;
            UdpSocket::from_std(socket.into())
        });
        Ok(Some(Self {
            datagrams: datagrams.collect::<io::Result<_>>()?,
            streams: TcpListener::from_std(listener)?,
        }))
    }

    /// Another descriptor of the TCP listener.
    pub(super) fn copy(&self) -> io::Result<OwnedFd> {
        self.streams.as_fd().try_clone_to_owned()
    }

    /// Serves until it is told to stop.
    pub(super) async fn serve(
        self,
        resolver: Arc<Resolver>,
        realm: Arc<Realm>,
        stop: CancellationToken,
    ) {
        let mut tasks = JoinSet::new();
        tasks.spawn(serve_streams(
            self.streams,
            Arc::clone(&resolver),
            Arc::clone(&realm),
        ));
        for socket in self.datagrams {
            let (resolver, realm) = (Arc::clone(&resolver), Arc::clone(&realm));
            tasks.spawn(serve_datagrams(socket, resolver, realm));
        }
        // Dropping the set ends its tasks, and closes their sockets.
        stop.cancelled().await;
    }
}

async fn serve_datagrams(socket: UdpSocket, resolver: Arc<Resolver>, realm: Arc<Realm>) {
    let port = socket.local_addr().map_or(0, |address| address.port());
    let socket = Arc::new(socket);
    let mut tasks = JoinSet::new();
    loop {
        let received = match socket.readable().await {
            Ok(()) => receive(&socket),
            Err(error) => Err(error),
        };
        match received {
            Ok((question, client)) => {
                let asked = asked(&resolver, &realm, client, port);
                let Some(asked) = asked else { continue };
                if let Some(answer) = resolver.answer_at_once(&realm, &asked, &question) {
                    reply(&socket, &answer, client);
                    continue;
                }
                let Ok(permit) = Arc::clone(&realm.permits).try_acquire_owned() else {
                    let failure = resolver.refuse(&asked, &question, Outcome::Overloaded);
                    reply(&socket, &failure, client);
                    continue;
                };
                let (resolver, realm) = (Arc::clone(&resolver), Arc::clone(&realm));
                let socket = Arc::clone(&socket);
                tasks.spawn(async move {
                    let answer = resolver.forward(&realm, &asked, &question).await;
                    reply(&socket, &answer, client);
                    drop(permit);
                });
            }
            // Also what a client refuses that has gone is told here.
            Err(error) if is_passing(&error) => {}
            Err(error) => {
                warn!(%error, netns = realm.netns.cookie(), "cannot receive questions for names");
                tokio::time::sleep(PAUSE).await;
            }
        }
        while tasks.try_join_next().is_some() {}
    }
}

/// Who asks whom; nobody, where the kernel has not sent the datagram here.
fn asked(resolver: &Resolver, realm: &Realm, client: SocketAddr, port: u16) -> Option<Asked> {
    let key = QueryKey {
        netns: realm.netns.cookie(),
        client: client.into(),
        port: u32::from(port),
    };
    let query = resolver.queries.query(&key).ok().flatten();
    if query.is_none() {
        resolver.metrics.refused.inc();
        debug!(%client, "a datagram came that was sent to nobody else");
    }
    let query = query?;
    Some(Asked {
        resolver: query.resolver.into(),
        workload: query.workload,
        conn: mesh_common::conn::Conn::default(),
        transport: Transport::Udp,
    })
}

fn reply(socket: &UdpSocket, answer: &[u8], client: SocketAddr) {
    // A full buffer loses the answer, as a network may; the client asks again.
    if !answer.is_empty()
        && let Err(error) = socket.try_send_to(answer, client)
    {
        debug!(%error, %client, "an answer is lost");
    }
}

async fn serve_streams(listener: TcpListener, resolver: Arc<Resolver>, realm: Arc<Realm>) {
    let mut tasks = JoinSet::new();
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                // One more than fits is closed at once.
                let Ok(permit) = Arc::clone(&realm.streams).try_acquire_owned() else {
                    resolver.metrics.count(Transport::Tcp, Outcome::Overloaded);
                    continue;
                };
                let (resolver, realm) = (Arc::clone(&resolver), Arc::clone(&realm));
                tasks.spawn(async move {
                    serve_stream(stream, &resolver, &realm).await;
                    drop(permit);
                });
            }
            Err(error) if is_passing(&error) => {}
            Err(error) => {
                warn!(%error, netns = realm.netns.cookie(), "cannot accept questions for names");
                tokio::time::sleep(PAUSE).await;
            }
        }
        while tasks.try_join_next().is_some() {}
    }
}

/// Answers one question after the other, until the client closes or is silent.
async fn serve_stream(mut stream: TcpStream, resolver: &Resolver, realm: &Realm) {
    let conn = resolver.conns.conn(stream.as_fd()).ok().flatten();
    let Some(asked) = conn.and_then(|conn| Asked::over_tcp(&conn)) else {
        resolver.metrics.refused.inc();
        drop(socket::reset_on_close(&stream));
        return;
    };
    while let Ok(Ok(question)) = timeout(IDLE, read_message(&mut stream)).await {
        let answer = match resolver.answer_at_once(realm, &asked, &question) {
            Some(answer) => answer,
            None if is_transfer(&question) => {
                match resolver.transfer(realm, &asked, &question).await {
                    Ok(mut server) => return relay(&mut stream, &mut server, IDLE).await,
                    Err(failure) => failure,
                }
            }
            None => resolver.forward(realm, &asked, &question).await,
        };
        let written = timeout(IDLE, write_message(&mut stream, &answer)).await;
        if answer.is_empty() || !matches!(written, Ok(Ok(()))) {
            return;
        }
    }
}

/// Receives one datagram without waiting.
pub(super) fn receive(socket: &UdpSocket) -> io::Result<(Vec<u8>, SocketAddr)> {
    let mut message = Vec::with_capacity(MAX_MESSAGE);
    let (_, from) = socket.try_recv_buf_from(&mut message)?;
    // Few are as large, and some wait for a while.
    message.shrink_to_fit();
    Ok((message, from))
}

/// Whether an error is of one client, which has gone, and not of the socket.
fn is_passing(error: &io::Error) -> bool {
    use io::ErrorKind::{
        ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted, WouldBlock,
    };
    matches!(
        error.kind(),
        WouldBlock | Interrupted | ConnectionAborted | ConnectionRefused | ConnectionReset
    )
}

#[cfg(test)]
mod tests;
