//! Names: answers workloads' questions about services, and asks their own resolver about everything else.
//!
//! The kernel sends what a workload asks at port 53 to sockets of the agent in the workload's network namespace, and makes
//! the answers seem to come from the resolver that was asked. A question that is not about the mesh goes to that resolver
//! as it came, byte for byte, from the same namespace. Questions are few and small beside traffic: one thread serves them
//! all, apart from the data plane and from the API.
//!
//! Of a workload whose egress is locked only questions leave; where it may not dial the resolver that it means, the
//! agent's own are asked.

mod cache;
pub mod external;
mod listener;
mod locked;
mod message;
pub mod metrics;
mod names;
mod resolver;
mod upstream;

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use mesh_common::service::RESOLVER_PORT;
use tokio::runtime::{Builder, Handle, Runtime};
use tokio_util::sync::CancellationToken;

use crate::net::conn::{ConnTable, QueryTable};
use crate::net::netns::Netns;
use crate::state::Store;

use listener::Sockets;
use metrics::Metrics;
use resolver::Resolver;

/// What can be set.
#[derive(Clone, Debug)]
pub struct Config {
    /// How long a client may remember an answer about the mesh, and that there is none.
    pub ttl: Duration,
    /// How long a workload's resolver has to answer. Then the client is told that the server failed.
    pub timeout: Duration,
    /// Most answers of resolvers that are remembered; 0: none. When full, the oldest goes.
    pub cache_entries: usize,
    /// How long an answer of a resolver is remembered at most, if it may be as long.
    pub cache_ttl: Duration,
    /// Most questions of one network namespace under way at a resolver, and most of its TCP connections. Others are told
    /// that the server failed.
    pub max_queries: usize,
    /// The file that names the agent's own resolvers.
    pub resolv_conf: PathBuf,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            ttl: Duration::from_secs(5),
            timeout: Duration::from_secs(2),
            cache_entries: 4096,
            cache_ttl: Duration::from_secs(30),
            max_queries: 256,
            resolv_conf: PathBuf::from("/etc/resolv.conf"),
        }
    }
}

/// The thread that answers, and where it listens.
pub struct Dns {
    resolver: Arc<Resolver>,
    runtime: Option<Runtime>,
    listening: Mutex<BTreeMap<u64, CancellationToken>>,
}

impl std::fmt::Debug for Dns {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Dns").finish_non_exhaustive()
    }
}

/// Copies of the TCP listeners of one network namespace, for the kernel to see that they live.
#[derive(Debug)]
pub struct Listeners {
    /// At 127.0.0.1, if the namespace has that address.
    pub v4: Option<OwnedFd>,
    /// At `::1`, if the namespace has that address.
    pub v6: Option<OwnedFd>,
}

impl Dns {
    /// Starts the thread. Listens nowhere yet. The agent's own resolvers are asked from its network namespace, `host`.
    pub fn start(
        config: Config,
        store: Arc<Store>,
        conns: Arc<dyn ConnTable>,
        queries: Arc<dyn QueryTable>,
        host: Arc<Netns>,
        metrics: Metrics,
    ) -> io::Result<Self> {
        let runtime = Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("dns")
            .enable_all()
            .build()?;
        let resolver = Resolver::new(config, store, conns, queries, host, metrics);
        Ok(Self {
            resolver: Arc::new(resolver),
            runtime: Some(runtime),
            listening: Mutex::default(),
        })
    }

    /// The runtime that serves, for those who measure it.
    pub fn runtime(&self) -> Option<Handle> {
        self.runtime.as_ref().map(|it| it.handle().clone())
    }

    /// Listens on loopback inside a network namespace. Once per namespace: a second call is refused.
    pub fn listen(&self, netns: Arc<Netns>) -> io::Result<Listeners> {
        let mut listening = self.lock();
        let cookie = netns.cookie();
        let Some(runtime) = &self.runtime else {
            return Err(io::ErrorKind::NotConnected.into());
        };
        if listening.contains_key(&cookie) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let _entered = runtime.enter();
        let v4 = Sockets::bind(&netns, Ipv4Addr::LOCALHOST.into())?;
        let v6 = Sockets::bind(&netns, Ipv6Addr::LOCALHOST.into())?;
        if v4.is_none() && v6.is_none() {
            return Err(io::ErrorKind::AddrNotAvailable.into());
        }
        let copies = Listeners {
            v4: v4.as_ref().map(Sockets::copy).transpose()?,
            v6: v6.as_ref().map(Sockets::copy).transpose()?,
        };
        let stop = CancellationToken::new();
        let realm = self.resolver.realm(netns);
        for sockets in [v4, v6].into_iter().flatten() {
            let serve = sockets.serve(Arc::clone(&self.resolver), Arc::clone(&realm), stop.clone());
            // Ends by its token, or with the runtime.
            drop(runtime.spawn(serve));
        }
        listening.insert(cookie, stop);
        Ok(copies)
    }

    /// Stops listening in the namespace with this cookie. Questions under way are dropped: their client asks again.
    pub fn unlisten(&self, netns_cookie: u64) {
        let stop = self.lock().remove(&netns_cookie);
        if let Some(stop) = stop {
            stop.cancel();
        }
        self.resolver.forget(netns_cookie);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<u64, CancellationToken>> {
        self.listening
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Dns {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            // May be dropped on a thread of another runtime, which must not wait.
            runtime.shutdown_background();
        }
    }
}

/// Where the agent listens for TCP, and first for UDP.
const fn first_port(address: IpAddr) -> SocketAddr {
    SocketAddr::new(address, RESOLVER_PORT)
}
