//! Listens and serves: TCP, a unix socket, and the listener for scrapers and probes.

use std::fs::{self, DirBuilder};
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::{DirBuilderExt as _, FileTypeExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{Service as _, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use socket2::{Domain, SockAddr, SockRef, Socket, Type};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::guard::{self, Guard, Local, Token, TokenError};
use super::node::Node;
use super::{Config, Context, Scope};
use crate::state::{Store, Writer};

/// Connections of the API over TCP at a time; more wait in the backlog.
const MAX_CONNECTIONS: usize = 4096;
/// Connections over the unix socket at a time: those of its owner, whom no other client keeps out.
const MAX_OWN_CONNECTIONS: usize = 256;
/// Connections of one workload in its own network namespace at a time; more wait in the backlog.
const MAX_ACCESS: usize = 256;
/// Connections of scrapers and probes at a time.
const MAX_PROBES: usize = 64;
/// How long a client may take to send the head of a request, and may stay idle between two.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a client that takes no bytes is waited for.
const SEND_TIMEOUT: Duration = Duration::from_secs(30);
/// How long requests under way may go on once the server is stopped.
const STOP_TIMEOUT: Duration = Duration::from_secs(5);
/// Pause after an accept that failed for want of descriptors or memory.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Bytes of a request's head.
const MAX_HEAD: usize = 64 << 10;

/// Why the API cannot listen.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// The address refuses.
    #[error("cannot listen on {address}")]
    Tcp {
        /// The address.
        address: SocketAddr,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The path refuses.
    #[error("cannot listen on {}", path.display())]
    Unix {
        /// The path.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The address can be reached from elsewhere and nothing guards it.
    #[error(
        "{address} can be reached from other machines: configure a token file, or listen on 127.0.0.1"
    )]
    Unguarded {
        /// The address.
        address: SocketAddr,
    },
    /// The token cannot be used.
    #[error(transparent)]
    Token(#[from] TokenError),
}

/// The listeners of the API, bound and not served yet.
pub struct Server {
    api: TcpListener,
    unix: Option<(UnixListener, PathBuf)>,
    metrics: Option<TcpListener>,
    /// Connections over TCP at a time.
    places: usize,
    config: Config,
    guard: Guard,
    context: Context,
}

impl Server {
    /// Binds every listener.
    pub async fn bind(
        config: Config,
        store: Arc<Store>,
        node: Arc<dyn Node>,
    ) -> Result<Self, BindError> {
        let token = config.token_file.as_deref().map(Token::read).transpose()?;
        if token.is_none() && !config.listen.ip().to_canonical().is_loopback() {
            let address = config.listen;
            return Err(BindError::Unguarded { address });
        }
        let guard = Guard {
            hosts: Some(Arc::new(guard::hosts(config.listen, &config.allowed_hosts))),
            token: token.map(Arc::new),
        };
        let api = listen(config.listen).await?;
        let metrics = match config.metrics {
            Some(address) => Some(listen(address).await?),
            None => None,
        };
        let unix = match &config.unix {
            Some(path) => {
                let bound = listen_unix(path).map_err(|source| BindError::Unix {
                    path: path.clone(),
                    source,
                })?;
                Some((bound, path.clone()))
            }
            None => None,
        };
        let context = Context::new(&config, store, node);
        Ok(Self {
            api,
            unix,
            metrics,
            places: MAX_CONNECTIONS,
            config,
            guard,
            context,
        })
    }

    /// Makes changes by way of `writer`, and not in the store alone.
    #[must_use]
    pub fn with_writer(self, writer: Writer) -> Self {
        Self {
            context: self.context.with_writer(writer),
            ..self
        }
    }

    /// Where the API listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.api.local_addr().unwrap_or(self.config.listen)
    }

    /// Where scrapers and probes are served.
    #[must_use]
    pub fn metrics_address(&self) -> Option<SocketAddr> {
        let listener = self.metrics.as_ref()?;
        listener.local_addr().ok().or(self.config.metrics)
    }

    /// What serves workloads in their own network namespaces.
    #[must_use]
    pub fn access(&self) -> Access {
        Access {
            context: self.context.clone().for_workloads(),
        }
    }

    /// Serves until `stop`; requests under way may finish, watchers end.
    pub async fn run(self, stop: CancellationToken) {
        let context = self.context;
        let router = super::router(context.clone());
        let mut loops = JoinSet::new();
        let (asked, all) = (stop.clone(), context.stop.clone());
        loops.spawn(async move {
            asked.cancelled().await;
            all.cancel();
        });
        let (consul, store) = (Arc::clone(&context.consul), Arc::clone(&context.store));
        let all = context.stop.clone();
        loops.spawn(async move {
            let wake = consul.wakeup.run(&store);
            all.run_until_cancelled(wake).await;
        });
        let (late, all) = (super::consul::run(context.clone()), context.stop.clone());
        loops.spawn(async move {
            all.run_until_cancelled(late).await;
        });
        loops.spawn(serve(
            self.api,
            guard::around(router.clone(), self.guard),
            Arc::new(Semaphore::new(self.places)),
            stop.clone(),
        ));
        let mut socket = None;
        if let Some((listener, path)) = self.unix {
            let router = guard::around(router, Guard::default());
            let limit = Arc::new(Semaphore::new(MAX_OWN_CONNECTIONS));
            loops.spawn(serve(listener, router, limit, stop.clone()));
            socket = Some(path);
        }
        if let Some(listener) = self.metrics {
            let router = guard::around(super::probe_router(context), Guard::default());
            let limit = Arc::new(Semaphore::new(MAX_PROBES));
            loops.spawn(serve(listener, router, limit, stop));
        }
        while let Some(ended) = loops.join_next().await {
            if let Err(error) = ended {
                tracing::error!(%error, "listener of the API has failed");
            }
        }
        if let Some(path) = socket
            && let Err(error) = fs::remove_file(&path)
        {
            tracing::debug!(%error, path = %path.display(), "socket was gone already");
        }
    }
}

/// Serves workloads in their own network namespaces: the paths of Consul, for what is theirs.
#[derive(Clone)]
pub struct Access {
    context: Context,
}

impl Access {
    /// Serves what comes in on a listener until `stop` or the end of the API.
    pub async fn serve(
        &self,
        listener: std::net::TcpListener,
        scope: Scope,
        stop: CancellationToken,
    ) -> io::Result<()> {
        let listener = TcpListener::from_std(listener)?;
        let router = super::pod_router(self.context.clone(), scope);
        let router = guard::around(router, Guard::default());
        let all = &self.context.stop;
        let limit = Arc::new(Semaphore::new(MAX_ACCESS));
        let served = serve(listener, router, limit, stop);
        all.run_until_cancelled(served).await;
        Ok(())
    }
}

async fn listen(address: SocketAddr) -> Result<TcpListener, BindError> {
    let bound = TcpListener::bind(address).await;
    bound.map_err(|source| BindError::Tcp { address, source })
}

/// Binds a socket that only its owner may open, in place of one that nobody listens on any more. Its directory is made
/// where it is not there: `/run` is empty after each boot.
fn listen_unix(path: &Path) -> io::Result<UnixListener> {
    if let Some(directory) = path.parent() {
        let mut maker = DirBuilder::new();
        maker.recursive(true).mode(0o700).create(directory)?;
    }
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    let address = SockAddr::unix(path)?;
    if let Ok(metadata) = fs::symlink_metadata(path) {
        let probe = Socket::new(Domain::UNIX, Type::STREAM, None)?;
        if !metadata.file_type().is_socket() || probe.connect(&address).is_ok() {
            return Err(io::ErrorKind::AddrInUse.into());
        }
        fs::remove_file(path)?;
    }
    socket.bind(&address)?;
    // Nobody can connect before `listen`, so the mode is in force before it matters.
    fs::set_permissions(path, fs::Permissions::from_mode(0o600))?;
    socket.listen(128)?;
    UnixListener::from_std(socket.into())
}

/// A listener of either kind.
trait Accept: Send + Sync + 'static {
    type Stream: AsyncRead + AsyncWrite + Unpin + Send + 'static;

    /// The next connection, with the address that it came in on.
    fn accept(&self) -> impl Future<Output = io::Result<(Self::Stream, Option<Local>)>> + Send;
}

impl Accept for TcpListener {
    type Stream = tokio::net::TcpStream;

    async fn accept(&self) -> io::Result<(Self::Stream, Option<Local>)> {
        let (stream, _) = Self::accept(self).await?;
        let options = stream.set_nodelay(true);
        let options =
            options.and_then(|()| SockRef::from(&stream).set_tcp_user_timeout(Some(SEND_TIMEOUT)));
        if let Err(error) = options {
            tracing::debug!(%error, "connection of the API was gone at once");
        }
        let local = stream.local_addr().ok();
        let local = local.map(|it| Local(SocketAddr::new(it.ip().to_canonical(), it.port())));
        Ok((stream, local))
    }
}

impl Accept for UnixListener {
    type Stream = tokio::net::UnixStream;

    async fn accept(&self) -> io::Result<(Self::Stream, Option<Local>)> {
        let (stream, _) = Self::accept(self).await?;
        Ok((stream, None))
    }
}

async fn serve<L: Accept>(
    listener: L,
    router: Router,
    limit: Arc<Semaphore>,
    stop: CancellationToken,
) {
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => break,
            Some(_) = connections.join_next(), if !connections.is_empty() => continue,
            accepted = next(&listener, &limit) => accepted,
        };
        let Some((stream, local, permit)) = accepted else {
            break;
        };
        let connection = serve_connection(stream, local, router.clone(), stop.clone());
        connections.spawn(async move {
            connection.await;
            drop(permit);
        });
    }
    drop(listener);
    let finish = async { while connections.join_next().await.is_some() {} };
    if tokio::time::timeout(STOP_TIMEOUT, finish).await.is_err() {
        tracing::warn!("requests of the API were cut off");
    }
}

type Accepted<S> = (S, Option<Local>, tokio::sync::OwnedSemaphorePermit);

/// Waits for room and then for a connection. `None`: the limit is closed.
async fn next<L: Accept>(listener: &L, limit: &Arc<Semaphore>) -> Option<Accepted<L::Stream>> {
    let permit = Arc::clone(limit).acquire_owned().await.ok()?;
    loop {
        match listener.accept().await {
            Ok((stream, local)) => return Some((stream, local, permit)),
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection of the API");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn serve_connection<S>(
    stream: S,
    local: Option<Local>,
    router: Router,
    stop: CancellationToken,
) where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let inner = TowerToHyperService::new(router);
    let service = service_fn(move |request: hyper::Request<Incoming>| {
        let mut request: Request<Incoming> = request;
        if let Some(local) = local {
            request.extensions_mut().insert(local);
        }
        inner.call(request)
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(MAX_HEAD)
        .serve_connection(TokioIo::new(stream), service);
    tokio::pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = stop.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "connection of the API has failed");
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::{TcpStream, UnixStream};

    use super::*;
    use crate::api::tests::{FixedNode, config};

    async fn bind(config: Config) -> Server {
        let node = Arc::new(FixedNode::default());
        let bound = Server::bind(config, Arc::new(Store::in_memory()), node).await;
        bound.unwrap()
    }

    /// What `/healthz` answers.
    async fn ask(mut stream: impl AsyncRead + AsyncWrite + Unpin) -> String {
        let question = b"GET /healthz HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n";
        stream.write_all(question).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    #[tokio::test]
    async fn directory_of_the_socket_is_made_for_its_owner_alone() {
        let place = tempfile::tempdir().unwrap();
        let directory = place.path().join("run/mesh");
        let path = directory.join("agent.sock");
        let _server = bind(Config {
            unix: Some(path.clone()),
            ..config()
        })
        .await;
        assert!(fs::metadata(&path).unwrap().file_type().is_socket());
        let mode = fs::metadata(&directory).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o700);
    }

    #[tokio::test]
    async fn clients_over_tcp_keep_nobody_out_of_the_unix_socket() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("agent.sock");
        let mut server = bind(Config {
            unix: Some(path.clone()),
            ..config()
        })
        .await;
        server.places = 1;
        let address = server.address();
        let stop = CancellationToken::new();
        let task = tokio::spawn(server.run(stop.clone()));
        let mut held = TcpStream::connect(address).await.unwrap();
        let question = b"GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n";
        held.write_all(question).await.unwrap();
        held.read_u8().await.unwrap();
        let over_tcp = tokio::spawn(ask(TcpStream::connect(address).await.unwrap()));

        let answer = ask(UnixStream::connect(&path).await.unwrap()).await;

        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
        assert!(!over_tcp.is_finished(), "the only place is taken");
        drop(held);
        let answer = over_tcp.await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
        stop.cancel();
        task.await.unwrap();
    }
}
