//! The shared proxy: what must read bytes is done here, for every workload of the node.
//!
//! `outbound` is the table of contents of a connection's life. A worker is a thread with a runtime of its own;
//! nothing on the request path takes a lock that two workers share.

pub mod config;
pub mod direct;
pub mod error;
pub mod explain;

pub(crate) mod access_log;
pub(crate) mod breakers;
pub(crate) mod budget;
pub(crate) mod caller;
pub(crate) mod connect;
pub(crate) mod detect;
pub(crate) mod handles;
pub(crate) mod health;
pub(crate) mod http;
pub(crate) mod http2;
pub(crate) mod limits;
pub(crate) mod listener;
pub(crate) mod metrics;
pub(crate) mod outbound;
pub(crate) mod outliers;
pub(crate) mod overload;
pub(crate) mod passage;
pub(crate) mod policy;
pub(crate) mod pool;
pub(crate) mod select;
pub(crate) mod streams;
pub(crate) mod tcp;
pub(crate) mod view;
pub(crate) mod vitals;
pub(crate) mod worker;

#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::{broadcast, mpsc};
use tokio_util::sync::CancellationToken;

use crate::metrics::Registry;
use crate::net::conn::ConnTable;
use crate::net::netns::Netns;
use crate::net::socket;
use crate::state::Notice;
use crate::state::Store;
use crate::state::object::ObjectKey;
use crate::state::report::{RequestExplanation, RequestQuestion};

pub use config::Config;
pub use direct::Direct;
use limits::Usage;
use listener::{Listener, Peers};
use view::Workload;
use view::cell::Views;
use worker::{Job, Shared, Worker};

/// Connections and listeners that may be on their way to one worker.
const QUEUE: usize = 1024;
/// How often a drain looks whether connections are left.
const DRAIN_LOOK: Duration = Duration::from_millis(20);
/// How long connections that were told to end may take to do so.
const LAST_WORDS: Duration = Duration::from_millis(100);

/// Why the proxy cannot be started.
#[derive(Debug, thiserror::Error)]
#[error("cannot start a thread of the proxy")]
pub struct StartError(#[source] io::Error);

/// The running proxy.
pub struct Proxy {
    shared: Shared,
    workers: Vec<(Arc<Worker>, mpsc::Sender<Job>)>,
    threads: Vec<JoinHandle<()>>,
    runtimes: Vec<(String, Handle)>,
    stop: CancellationToken,
    /// Listeners by the cookie of their network namespace.
    listeners: Mutex<HashMap<u64, (CancellationToken, Arc<Netns>)>>,
    next: AtomicUsize,
}

impl std::fmt::Debug for Proxy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Proxy")
            .field("connections", &self.connections())
            .finish_non_exhaustive()
    }
}

/// The outbound listeners of one network namespace, for the kernel's map. The proxy holds them too.
#[derive(Debug)]
pub struct Listeners {
    /// On 127.0.0.1.
    pub v4: Option<OwnedFd>,
    /// On `::1`; absent where the namespace has no IPv6.
    pub v6: Option<OwnedFd>,
}

impl Proxy {
    /// Starts the workers. They serve nobody until [`Proxy::listen`] is called.
    pub fn start(
        config: Config,
        store: Arc<Store>,
        table: Arc<dyn ConnTable>,
        registry: &mut Registry,
    ) -> Result<Self, StartError> {
        let notices = store.subscribe();
        let views = Views::new(config.locality.clone(), move || store.snapshot());
        Self::start_with(config, views, Some(notices), table, registry)
    }

    fn start_with(
        config: Config,
        views: Views,
        notices: Option<broadcast::Receiver<Notice>>,
        table: Arc<dyn ConnTable>,
        registry: &mut Registry,
    ) -> Result<Self, StartError> {
        let shared = Shared {
            config: Arc::new(config),
            views: Arc::new(views),
            table,
            metrics: metrics::register(registry),
            usage: Arc::new(Usage::default()),
            draining: CancellationToken::new(),
            closing: CancellationToken::new(),
            stranger: Arc::new(Workload::stranger()),
        };
        metrics::register_usage(registry, Arc::clone(&shared.usage));
        metrics::guards::register(registry, Arc::clone(&shared.views));
        let mut workers = Vec::new();
        let mut queues = Vec::new();
        for number in 0..shared.config.workers.max(1) {
            let (sender, receiver) = mpsc::channel(QUEUE);
            workers.push((Arc::new(Worker::new(shared.clone(), number)), sender));
            queues.push(receiver);
        }
        let mut proxy = Self {
            shared,
            workers,
            threads: Vec::new(),
            runtimes: Vec::new(),
            stop: CancellationToken::new(),
            listeners: Mutex::default(),
            next: AtomicUsize::new(0),
        };
        // On failure the value is dropped, and with it the threads that run already.
        proxy.start_workers(queues).map_err(StartError)?;
        if let Some(notices) = notices {
            proxy.follow(notices).map_err(StartError)?;
        }
        Ok(proxy)
    }

    fn start_workers(&mut self, queues: Vec<mpsc::Receiver<Job>>) -> io::Result<()> {
        let peers = Arc::new(Peers::new(self.workers.clone()));
        for (number, (queue, (worker, _))) in queues.into_iter().zip(&self.workers).enumerate() {
            let (worker, peers) = (Arc::clone(worker), Arc::clone(&peers));
            let stop = self.stop.clone();
            let name = format!("proxy-{number}");
            let runtime = worker::runtime()?;
            self.runtimes.push((name.clone(), runtime.handle().clone()));
            self.threads.push(thread(&name, move || {
                worker.run(runtime, queue, &peers, &stop);
                Ok(())
            })?);
        }
        Ok(())
    }

    /// Keeps view and series up to date, on a thread of its own: compiling delays no traffic.
    fn follow(&mut self, notices: broadcast::Receiver<Notice>) -> io::Result<()> {
        let (views, stop) = (Arc::clone(&self.shared.views), self.stop.clone());
        let metrics = self.shared.metrics.clone();
        self.threads.push(thread("proxy-view", move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_time()
                .build()?;
            let work = async {
                tokio::join!(
                    views.run(notices),
                    metrics.keep_tidy(),
                    outliers::run(&views, &metrics)
                )
            };
            runtime.block_on(stop.run_until_cancelled(work));
            Ok(())
        })?);
        Ok(())
    }

    /// Listens on the outbound port of 127.0.0.1 and `::1` inside a network namespace. Idempotence is the caller's: a
    /// second call for the same namespace is refused.
    pub fn listen(&self, netns: Arc<Netns>) -> io::Result<Listeners> {
        let mut listeners = self
            .listeners
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if listeners.contains_key(&netns.cookie()) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let port = self.shared.config.port;
        let v4 = listen_if_possible(
            &netns,
            SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port),
        )?;
        let v6 = listen_if_possible(
            &netns,
            SocketAddr::new(IpAddr::V6(Ipv6Addr::LOCALHOST), port),
        )?;
        if v4.is_none() && v6.is_none() {
            return Err(io::ErrorKind::AddrNotAvailable.into());
        }
        let stop = self.shared.draining.child_token();
        let answer = Listeners {
            v4: duplicate(v4.as_ref())?,
            v6: duplicate(v6.as_ref())?,
        };
        for socket in [v4, v6].into_iter().flatten() {
            let listener = Listener {
                socket,
                netns: Arc::clone(&netns),
                stop: stop.clone(),
            };
            let turn = self.next.fetch_add(1, Ordering::Relaxed) % self.workers.len().max(1);
            let sent = self
                .workers
                .get(turn)
                .map(|(_, jobs)| jobs.try_send(Job::Listener(listener)));
            if !matches!(sent, Some(Ok(()))) {
                stop.cancel();
                return Err(io::ErrorKind::ResourceBusy.into());
            }
        }
        listeners.insert(netns.cookie(), (stop, netns));
        Ok(answer)
    }

    /// Stops listening in the namespace with this cookie. Connections that were accepted live on.
    pub fn unlisten(&self, netns_cookie: u64) {
        let mut listeners = self
            .listeners
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some((stop, _)) = listeners.remove(&netns_cookie) {
            stop.cancel();
        }
    }

    /// The runtimes of the workers, by name: for their metrics.
    pub fn runtimes(&self) -> Vec<(String, Handle)> {
        self.runtimes.clone()
    }

    /// When the slowest worker last showed that it is alive, on the monotonic clock.
    pub fn heartbeat(&self) -> u64 {
        let workers = self.workers.iter();
        workers
            .map(|(worker, _)| worker.heartbeat_ns())
            .min()
            .unwrap_or(0)
    }

    /// Explains where a request of the workload `source` to `destination` would go now; `None` where no service answers
    /// there. Without a question: where a connection would, if TCP or TLS routes decide.
    pub fn explain(
        &self,
        source: &ObjectKey,
        destination: SocketAddr,
        question: Option<&RequestQuestion>,
    ) -> Result<Option<RequestExplanation>, explain::Error> {
        let view = self.shared.views.load();
        explain::explain(&view, &self.shared.config, (source, destination), question)
    }

    /// Whether requests or connections are under way at the endpoint with this number.
    pub fn is_busy(&self, endpoint: u32) -> bool {
        self.shared.views.load().is_held(endpoint)
    }

    /// The revision of the registry that it follows.
    #[must_use]
    pub fn revision(&self) -> u64 {
        self.shared.views.load().revision()
    }

    /// Connections of clients that are open.
    pub fn connections(&self) -> u64 {
        u64::try_from(self.shared.usage.connections()).unwrap_or(u64::MAX)
    }

    /// Takes no more connections, lets those that are there finish, and ends them after `deadline`.
    pub async fn drain(&self, deadline: Duration) {
        self.shared.draining.cancel();
        let finished = async {
            while self.shared.usage.connections() > 0 {
                tokio::time::sleep(DRAIN_LOOK).await;
            }
        };
        if tokio::time::timeout(deadline, finished).await.is_err() {
            tracing::warn!(
                connections = self.connections(),
                "drain deadline has passed"
            );
            self.shared.closing.cancel();
            tokio::time::sleep(LAST_WORDS).await;
        }
    }

    /// Ends everything at once. Blocks until the threads have ended.
    pub fn stop(mut self) {
        self.end();
    }

    fn end(&mut self) {
        self.shared.draining.cancel();
        self.shared.closing.cancel();
        self.stop.cancel();
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                tracing::error!("a thread of the proxy has panicked");
            }
        }
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.end();
    }
}

fn thread(
    name: &str,
    run: impl FnOnce() -> io::Result<()> + Send + 'static,
) -> io::Result<JoinHandle<()>> {
    let label = name.to_owned();
    std::thread::Builder::new()
        .name(name.to_owned())
        .spawn(move || {
            if let Err(error) = run() {
                // The heartbeat stops with it, so that the kernel hears of it.
                tracing::error!(%error, thread = label, "a thread of the proxy has failed");
            }
        })
}

/// `None` where the namespace lacks the address family.
fn listen_if_possible(
    netns: &Netns,
    address: SocketAddr,
) -> io::Result<Option<std::net::TcpListener>> {
    match socket::listen(netns, address) {
        Ok(listener) => Ok(Some(listener)),
        Err(error)
            if matches!(
                error.raw_os_error(),
                Some(libc::EADDRNOTAVAIL | libc::EAFNOSUPPORT)
            ) =>
        {
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

fn duplicate(listener: Option<&std::net::TcpListener>) -> io::Result<Option<OwnedFd>> {
    listener
        .map(|listener| listener.as_fd().try_clone_to_owned())
        .transpose()
}
