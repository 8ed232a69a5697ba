//! Decides about a question: answered from the registry, from memory, or by the resolver that the workload meant.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use hickory_proto::op::ResponseCode;
use mesh_common::conn::{Conn, Direction};
use mesh_common::service::{TCP, UDP};
use mesh_common::verdict::{Reason, Verdict};
use rand::seq::SliceRandom as _;
use rand::{Rng, RngExt as _};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tracing::debug;

use super::Config;
use super::cache::{Cache, Key};
use super::external::lookup::Lookup;
use super::listener::MAX_MESSAGE;
use super::locked;
use super::message::{Question, encode, failure};
use super::metrics::{Metrics, Outcome, Transport};
use super::names::{Found, find};
use super::upstream::Upstream;
use crate::net::clock;
use crate::net::conn::{ConnTable, QueryTable};
use crate::net::netns::Netns;
use crate::state::endpoint::Endpoint;
use crate::state::id::Subject;
use crate::state::object::ObjectKey;
use crate::state::service::Port;
use crate::state::{Snapshot, Store};

/// Answers questions of every workload.
pub(super) struct Resolver {
    config: Config,
    store: Arc<Store>,
    pub(super) conns: Arc<dyn ConnTable>,
    pub(super) queries: Arc<dyn QueryTable>,
    pub(super) metrics: Metrics,
    cache: Mutex<Cache>,
    /// The agent's own resolvers.
    own: Lookup,
}

/// A network namespace in which the agent answers.
#[derive(Debug)]
pub(super) struct Realm {
    pub(super) netns: Arc<Netns>,
    /// Questions that may be under way at a resolver.
    pub(super) permits: Arc<Semaphore>,
    /// TCP connections that may be open.
    pub(super) streams: Arc<Semaphore>,
}

/// Who asks whom.
#[derive(Clone, Copy, Debug)]
pub(super) struct Asked {
    /// The resolver that the workload meant.
    pub(super) resolver: SocketAddr,
    /// Number of the workload.
    pub(super) workload: u32,
    /// What the kernel knows of the caller.
    pub(super) conn: Conn,
    pub(super) transport: Transport,
}

impl Asked {
    /// What an accepted connection is for; nothing, where the kernel has not sent it here.
    pub(super) fn over_tcp(conn: &Conn) -> Option<Self> {
        let is_for_us = conn.verdict == Verdict::Proxy as u8 && conn.reason == Reason::Dns as u8;
        is_for_us.then(|| Self {
            resolver: conn.original.into(),
            workload: conn.workload,
            conn: *conn,
            transport: Transport::Tcp,
        })
    }

    fn limit(&self, question: &Question) -> usize {
        match self.transport {
            Transport::Udp => question.max_payload(),
            Transport::Tcp => MAX_MESSAGE,
        }
    }
}

impl Resolver {
    pub(super) fn new(
        config: Config,
        store: Arc<Store>,
        conns: Arc<dyn ConnTable>,
        queries: Arc<dyn QueryTable>,
        host: Arc<Netns>,
        metrics: Metrics,
    ) -> Self {
        let own = Lookup {
            netns: host,
            conns: Arc::clone(&conns),
            file: config.resolv_conf.clone(),
        };
        let cache = Cache::new(config.cache_entries, config.cache_ttl);
        Self {
            store,
            cache: Mutex::new(cache),
            config,
            conns,
            queries,
            metrics,
            own,
        }
    }

    pub(super) fn realm(&self, netns: Arc<Netns>) -> Arc<Realm> {
        let permits = || Arc::new(Semaphore::new(self.config.max_queries));
        Arc::new(Realm {
            netns,
            permits: permits(),
            streams: permits(),
        })
    }

    /// Forgets what was asked in a network namespace.
    pub(super) fn forget(&self, netns_cookie: u64) {
        let mut cache = self.cache();
        cache.forget(netns_cookie);
        self.metrics.cached(cache.len());
    }

    /// The answer, if nobody else has to be asked.
    pub(super) fn answer_at_once(
        &self,
        realm: &Realm,
        asked: &Asked,
        bytes: &[u8],
    ) -> Option<Vec<u8>> {
        let question = Question::read(bytes)?;
        let snapshot = self.store.snapshot();
        let namespace = match snapshot.ids.subject(asked.workload) {
            Some(Subject::Workload(key)) => Some(key.namespace.as_str()),
            _ => None,
        };
        let found = find(&snapshot, namespace, &question.query.name);
        let (answer, outcome) = if matches!(found, Found::Elsewhere) {
            let key = Key::of(realm.netns.cookie(), asked.resolver, &question)?;
            let kept = self.cache().get(&key, clock::monotonic_ns())?;
            (question.adopt(kept), Outcome::Cached)
        } else {
            let serial = u32::try_from(snapshot.revision & u64::from(u32::MAX));
            let serial = serial.unwrap_or_default();
            let mut answer = question.answer(&found, self.config.ttl, serial);
            // Many programs take the first.
            answer.answers.shuffle(&mut rand::rng());
            (answer, Outcome::Mesh)
        };
        let bytes = encode(&answer, asked.limit(&question))?;
        self.metrics.count(asked.transport, outcome);
        Some(bytes)
    }

    /// The answer of the resolver that the workload meant, or that the server failed.
    pub(super) async fn forward(&self, realm: &Realm, asked: &Asked, bytes: &[u8]) -> Vec<u8> {
        let began = clock::monotonic_ns();
        let answer = match self.upstream(realm, asked, bytes).await {
            None => Err(nobody()),
            Some(upstream) => match asked.transport {
                Transport::Udp => upstream.datagram(bytes).await,
                Transport::Tcp => upstream.stream(bytes).await,
            },
        };
        let now = clock::monotonic_ns();
        self.metrics.took(now.saturating_sub(began));
        match answer {
            Ok(answer) => {
                let question = Question::read(bytes);
                let key = question
                    .and_then(|question| Key::of(realm.netns.cookie(), asked.resolver, &question));
                if let Some(key) = key {
                    let mut cache = self.cache();
                    cache.keep(key, &answer, now);
                    self.metrics.cached(cache.len());
                }
                self.metrics.count(asked.transport, Outcome::Forwarded);
                answer
            }
            Err(error) => {
                debug!(%error, resolver = %asked.resolver, "a resolver does not answer");
                self.refuse(asked, bytes, Outcome::Failed)
            }
        }
    }

    /// A connection to the resolver that the workload meant, on which its question was asked; or the answer that the server
    /// failed. What would go to another resolver is refused: nobody reads what is sent on such a connection, and a locked
    /// workload could send anything.
    pub(super) async fn transfer(
        &self,
        realm: &Realm,
        asked: &Asked,
        bytes: &[u8],
    ) -> Result<TcpStream, Vec<u8>> {
        let resolver = this_host(asked.resolver);
        if locked::is_beyond(&self.store.snapshot(), asked.workload, resolver) {
            self.metrics.count(asked.transport, Outcome::Failed);
            return Err(failure(bytes, ResponseCode::Refused).unwrap_or_default());
        }
        let stream = match self.upstream(realm, asked, bytes).await {
            None => Err(nobody()),
            Some(upstream) => upstream.transfer(bytes).await,
        };
        match stream {
            Ok(stream) => {
                self.metrics.count(asked.transport, Outcome::Forwarded);
                Ok(stream)
            }
            Err(error) => {
                debug!(%error, resolver = %asked.resolver, "a resolver does not transfer a zone");
                Err(self.refuse(asked, bytes, Outcome::Failed))
            }
        }
    }

    /// Tells the client that the server failed; nothing, where it sent no message at all.
    pub(super) fn refuse(&self, asked: &Asked, bytes: &[u8], outcome: Outcome) -> Vec<u8> {
        self.metrics.count(asked.transport, outcome);
        failure(bytes, ResponseCode::ServFail).unwrap_or_default()
    }

    /// Where to ask; nowhere, if that is a service without endpoints, or if what a locked workload sends is no question.
    async fn upstream<'a>(
        &'a self,
        realm: &'a Realm,
        asked: &Asked,
        bytes: &[u8],
    ) -> Option<Upstream<'a>> {
        let snapshot = self.store.snapshot();
        let resolver = this_host(asked.resolver);
        if locked::is_beyond(&snapshot, asked.workload, resolver) {
            Question::read(bytes)?;
            return self.own.any().await;
        }
        let addresses = match snapshot.service_at(resolver.ip()) {
            // The kernel does not balance what the agent sends.
            Some(service) => {
                let transport = asked.transport;
                endpoints(&snapshot, service, resolver, transport, &mut rand::rng())
            }
            None => vec![resolver],
        };
        let mut addresses = addresses.into_iter();
        Some(Upstream {
            netns: &realm.netns,
            conns: self.conns.as_ref(),
            address: addresses.next()?,
            spare: addresses.next(),
            conn: Conn {
                verdict: 0,
                reason: 0,
                direction: Direction::Dialled as u8,
                flags: Conn::OWN,
                ..asked.conn
            },
            limit: self.config.timeout,
        })
    }

    fn cache(&self) -> MutexGuard<'_, Cache> {
        self.cache.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a client means that asks 0.0.0.0 or `::`.
fn this_host(resolver: SocketAddr) -> SocketAddr {
    let ip = match resolver.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, resolver.port())
}

fn nobody() -> io::Error {
    io::Error::other("nobody may be asked, or no endpoint of the service that resolves")
}

/// The endpoints that serve the address `dialled` of a service, first those of its family: by chance and weight. Those
/// that have failed are left out, unless all have.
fn endpoints(
    snapshot: &Snapshot,
    service: &ObjectKey,
    dialled: SocketAddr,
    transport: Transport,
    rng: &mut impl Rng,
) -> Vec<SocketAddr> {
    let transport = match transport {
        Transport::Udp => UDP,
        Transport::Tcp => TCP,
    };
    let service_ports = snapshot.services.get(service).map(|it| &it.spec.ports);
    let mut ports = service_ports.into_iter().flatten();
    let is_it = |it: &&Port| it.port == dialled.port() && it.protocol.transport() == transport;
    let Some(port) = ports.find(is_it) else {
        return Vec::new();
    };
    let takes = |it: &&Arc<Endpoint>| it.is_offered() && it.weight() > 0;
    let all: Vec<_> = snapshot.endpoints_of(service).filter(takes).collect();
    let is_panic = all.iter().all(|it| it.has_failed());
    let well = all.iter().filter(|it| is_panic || !it.has_failed());
    let mut places: Vec<(bool, f64, SocketAddr)> = well
        .map(|it| {
            let address = it.spec.address.to_canonical();
            // The one with the greatest weight has the best chances of a short time (Efraimidis and Spirakis).
            let time = -rng.random::<f64>().ln() / f64::from(it.weight());
            let address = SocketAddr::new(address, it.spec.port_of(port));
            (address.is_ipv4() != dialled.is_ipv4(), time, address)
        })
        .collect();
    places.sort_by(|left, right| (left.0.cmp(&right.0)).then(left.1.total_cmp(&right.1)));
    places.into_iter().map(|(_, _, address)| address).collect()
}

#[cfg(test)]
mod tests;
