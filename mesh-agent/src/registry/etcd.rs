//! etcd as the registry that many nodes share.
//!
//! What etcd says goes into the store of each node, which is also what a node lives on while etcd is away. What is asked
//! of a node goes to etcd first; the node's own endpoints excepted, which it knows best: they are in its store at once,
//! and carry its lease in etcd, so that they go when the node does.
//!
//! ```text
//! follow  --- listing, watch ---> intake ---> store          (what etcd says)
//! wishes  --- transaction  -----> etcd                       (services, routes, policies)
//! wishes  ---> store ---> outbox ---> courier ---> etcd      (endpoints of this node)
//! ```

mod absence;
mod address;
mod client;
mod courier;
mod document;
mod error;
mod follow;
mod herald;
mod identity;
mod intake;
mod layout;
mod lease;
mod lines;
mod link;
mod listing;
mod metrics;
mod outbox;
mod pause;
mod transaction;
mod transport;
mod watch;
mod wire;
mod wishes;

use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rand::RngExt as _;
use tokio::sync::mpsc;
use tokio::task::{JoinError, JoinSet};

pub use address::{Address, Member, ParseAddressError, User};
pub use error::Error;
pub use lines::TooLong;

use crate::metrics::Registry;
use crate::net::tls::{TlsError, TlsFiles};
use crate::registry::Board;
use crate::state::report::RegistryReport;
use crate::state::writer::{MAX_WISHES, Wish};
use crate::state::{Store, Writer};
use client::Client;
use identity::Identity;
use link::{Link, Place};
use metrics::{Metrics, Readings};

/// Settings of the shared registry.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where it is.
    pub address: Address,
    /// Files of TLS; needed where `address` asks for TLS.
    pub tls: Option<TlsFiles>,
    /// How long endpoints of this node outlive its agent, in whole seconds. etcd rounds less than two up to that.
    pub ttl: Duration,
    /// Name of this node, unique among those that share the registry.
    pub node: String,
    /// Where the number of the lease and the name of the registry are kept.
    pub state_dir: PathBuf,
}

/// Why the shared registry cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// TLS is not configured as it should be.
    #[error("cannot speak TLS with the shared registry")]
    Tls(#[from] TlsError),
    /// What this node remembers of the shared registry cannot be read or kept.
    #[error("cannot read or write {}/registry-*", directory.display())]
    Files {
        /// The state directory.
        directory: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
}

/// The registry that many nodes share.
pub struct Etcd {
    link: Arc<Link>,
    wishes: Mutex<Option<mpsc::Receiver<Wish>>>,
}

impl Etcd {
    /// Prepares everything, and connects to nobody yet. What is to be changed goes through the writer.
    pub fn open(
        config: Config,
        store: Arc<Store>,
        board: Board,
        registry: &mut Registry,
    ) -> Result<(Self, Writer), OpenError> {
        let address = config.address.to_string();
        let directory = &config.state_dir;
        let unreadable = |source| OpenError::Files {
            directory: directory.clone(),
            source,
        };
        let lease = lease::number(directory, rand::rng().random()).map_err(unreadable)?;
        let place = Place {
            identity: Identity::load(directory, &address).map_err(unreadable)?,
            address,
            node: config.node,
            lease,
            ttl: config.ttl,
            board,
        };
        let client = Client::new(config.address, config.tls.as_ref())?;
        let counters = Metrics::default();
        let link = Link::new(client, Arc::clone(&store), counters.clone(), place);
        let link = Arc::new(link);
        register(registry, &counters, &link);
        let (sender, wishes) = mpsc::channel(MAX_WISHES);
        let etcd = Self {
            link,
            wishes: Mutex::new(Some(wishes)),
        };
        let writer = Writer::shared(store, sender, &etcd.link.node);
        Ok((etcd, writer))
    }

    /// Keeps the store and etcd together until it is dropped. To be called once. Returns only if a part has panicked.
    pub async fn run(&self) -> Result<(), JoinError> {
        let wishes = self
            .wishes
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        // Before anything is read: what etcd lacks would seem to be deleted.
        courier::post_queued(&self.link);
        let mut tasks = JoinSet::new();
        tasks.spawn(follow::run(Arc::clone(&self.link)));
        tasks.spawn(courier::run(Arc::clone(&self.link)));
        tasks.spawn(herald::run(Arc::clone(&self.link)));
        tasks.spawn(wishes::settle(Arc::clone(&self.link)));
        if let Some(wishes) = wishes {
            tasks.spawn(wishes::serve(Arc::clone(&self.link), wishes));
        }
        tasks.join_next().await.unwrap_or(Ok(()))
    }

    /// What readiness waits for: everything has to be read once, now or by an agent before this one.
    pub fn pending(&self) -> Option<String> {
        self.link.pending()
    }

    /// How it is.
    pub fn report(&self) -> RegistryReport {
        self.link.report()
    }
}

fn register(registry: &mut Registry, counters: &Metrics, link: &Arc<Link>) {
    let [connected, stale, queued] = [(); 3].map(|()| Arc::clone(link));
    let readings = Readings {
        is_connected: Box::new(move || connected.is_up()),
        staleness_seconds: Box::new(move || stale.staleness().as_secs()),
        queued: Box::new(move || queued.outbox().len() as u64),
    };
    metrics::register(registry, counters, readings);
}

#[cfg(test)]
mod tests;
