//! What the tasks of this source share: the client, the store, and how far they are.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{Notify, watch};

use super::absence::Absence;
use super::client::Client;
use super::document::Shared;
use super::error::Error;
use super::identity::Identity;
use super::layout::Layout;
use super::metrics::Metrics;
use super::outbox::{Outbox, Reserved, Word};
use crate::registry::Board;
use crate::state::object::{Condition, ConditionStatus, Kind, ObjectKey};
use crate::state::report::{RegistryReport, RejectionReport, SourceReport};
use crate::state::source::{Origin, Source};
use crate::state::{Change, Refusal, Snapshot, Store};

/// Names an object of any kind.
pub(super) type Name = (Kind, ObjectKey);

/// What the tasks share.
pub(super) struct Link {
    pub(super) client: Client,
    pub(super) layout: Layout,
    pub(super) store: Arc<Store>,
    /// Name of this node.
    pub(super) node: String,
    /// Number of the lease of this node.
    pub(super) lease: i64,
    /// How long endpoints of this node outlive its agent.
    pub(super) ttl: Duration,
    /// The last write that the store has.
    pub(super) seen: watch::Sender<i64>,
    /// Counts what was told of the outbox.
    pub(super) told: watch::Sender<u64>,
    /// Counts the leases of this node.
    pub(super) leases: watch::Sender<u64>,
    /// Whether the lease was gone since everything was read last: what went with it is not there because of that, and
    /// not because somebody has deleted it.
    pub(super) was_lease_lost: AtomicBool,
    /// Something is in the outbox, or the link is up again.
    pub(super) work: Notify,
    pub(super) metrics: Metrics,
    /// Which registry it is.
    pub(super) identity: Identity,
    contact: watch::Sender<Contact>,
    known: Mutex<Known>,
    outbox: Mutex<Outbox>,
    /// Services whose addresses no node has allotted for all yet.
    unsettled: Mutex<BTreeSet<ObjectKey>>,
    address: String,
    board: Board,
}

/// Whether etcd is heard.
#[derive(Clone, Debug)]
struct Contact {
    /// The last sign of life.
    last: Instant,
    is_up: bool,
    /// Whether everything was read at least once.
    was_up: bool,
    error: String,
}

impl Contact {
    /// Whether it was lost.
    const fn is_return(&self) -> bool {
        self.was_up && !self.is_up
    }
}

/// What is known of the values in etcd.
#[derive(Debug, Default)]
pub(super) struct Known {
    /// The values that were taken.
    pub(super) values: BTreeMap<Name, Value>,
    /// The writes by which this node has taken endpoints away, as long as the watch has not come to them.
    pub(super) gone: BTreeMap<Name, i64>,
    /// The values that were not, with what may be tried again.
    pub(super) refused: BTreeMap<Name, (String, Option<Shared>)>,
    /// Which endpoints may only seem to be gone.
    pub(super) absence: Absence,
}

/// A value in etcd.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Value {
    /// The write that made it.
    pub(super) revision: i64,
    /// The virtual addresses that were allotted to the service.
    pub(super) addresses: Vec<IpAddr>,
}

/// How a link is made.
pub(super) struct Place {
    pub(super) address: String,
    pub(super) node: String,
    pub(super) lease: i64,
    pub(super) ttl: Duration,
    pub(super) identity: Identity,
    pub(super) board: Board,
}

impl Link {
    pub(super) fn new(client: Client, store: Arc<Store>, metrics: Metrics, place: Place) -> Self {
        let contact = Contact {
            last: Instant::now(),
            is_up: false,
            was_up: false,
            error: "not connected yet".to_owned(),
        };
        Self {
            layout: Layout::new(client.prefix()),
            client,
            store,
            node: place.node,
            lease: place.lease,
            ttl: place.ttl,
            seen: watch::Sender::new(0),
            told: watch::Sender::new(0),
            leases: watch::Sender::new(0),
            was_lease_lost: AtomicBool::new(false),
            work: Notify::new(),
            metrics,
            identity: place.identity,
            contact: watch::Sender::new(contact),
            known: Mutex::default(),
            outbox: Mutex::default(),
            unsettled: Mutex::default(),
            address: place.address,
            board: place.board,
        }
    }

    /// Whether an object of the store is an endpoint that this node has registered.
    pub(super) fn is_own(&self, snapshot: &Snapshot, key: &ObjectKey) -> bool {
        let endpoint = snapshot.endpoints.get(key);
        endpoint
            .is_some_and(|it| it.metadata.source == Source::Etcd && it.metadata.origin == self.node)
    }

    /// The endpoints that this node has registered.
    pub(super) fn own(&self) -> Vec<ObjectKey> {
        let snapshot = self.store.snapshot();
        let keys = snapshot.endpoints.keys();
        keys.filter(|key| self.is_own(&snapshot, key))
            .cloned()
            .collect()
    }

    pub(super) fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn outbox(&self) -> MutexGuard<'_, Outbox> {
        self.outbox.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes that addresses are to be allotted for all nodes.
    pub(super) fn unsettle(&self, service: &ObjectKey) {
        let mut unsettled = self
            .unsettled
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if unsettled.len() < MAX_UNSETTLED {
            unsettled.insert(service.clone());
        }
    }

    /// The services whose addresses are to be allotted for all nodes; nobody remembers them afterwards.
    pub(super) fn take_unsettled(&self) -> BTreeSet<ObjectKey> {
        let mut unsettled = self
            .unsettled
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        std::mem::take(&mut unsettled)
    }

    /// Puts a word into the outbox.
    pub(super) fn post(&self, key: &ObjectKey, word: Word) -> Result<u64, Refusal> {
        let number = self.outbox().add(key, word);
        let number = number.ok_or_else(too_many)?;
        self.work.notify_one();
        Ok(number)
    }

    /// Puts a word into the outbox that is not told before it is released.
    pub(super) fn reserve(&self, key: &ObjectKey, word: Word) -> Result<Reserved, Refusal> {
        let reserved = self.outbox().reserve(key, word);
        reserved.ok_or_else(too_many)
    }

    /// Says that etcd is heard and everything it has said is in the store.
    pub(super) fn up(&self) {
        self.contact.send_if_modified(|contact| {
            let is_news = !contact.is_up;
            *contact = Contact {
                last: Instant::now(),
                is_up: true,
                was_up: true,
                error: String::new(),
            };
            is_news
        });
        self.post_report();
        self.work.notify_one();
    }

    /// Says that the store has all writes up to this one.
    pub(super) fn has_seen(&self, revision: i64) {
        self.known().gone.retain(|_, gone| *gone > revision);
        self.seen.send_replace(revision);
    }

    /// Says that etcd answers again, before what it says is taken.
    pub(super) fn answers(&self) {
        if self.contact.borrow().is_return() {
            self.known().absence.came_back(Instant::now(), self.ttl);
        }
    }

    /// Takes note of a sign of life.
    pub(super) fn alive(&self) {
        self.contact.send_if_modified(|contact| {
            contact.last = Instant::now();
            false
        });
    }

    /// Says that etcd is not heard any more, and why; says so in the log once.
    pub(super) fn down(&self, error: &Error) {
        self.metrics.count(error.reason());
        let text = error.whole();
        self.contact.send_modify(|contact| {
            if contact.is_up || contact.error != text {
                tracing::warn!(registry = %self.address, error = %text, "the shared registry is away: what is known goes on to hold");
            }
            contact.is_up = false;
            contact.error = text;
        });
        self.post_report();
    }

    /// Says on the board how this source is.
    pub(super) fn post_report(&self) {
        let error = Some(self.contact.borrow().error.clone()).filter(|it| !it.is_empty());
        let known = self.known();
        let refused = known.refused.iter().take(MAX_REPORTED);
        let report = SourceReport {
            source: Source::Etcd,
            place: self.address.clone(),
            error,
            objects: known.values.len() as u64,
            rejected: known.refused.len() as u64,
            rejections: refused
                .map(|((kind, key), (reason, _))| RejectionReport {
                    place: self.layout.object(*kind, key),
                    object: format!("{kind} {key}"),
                    message: reason.clone(),
                })
                .collect(),
        };
        drop(known);
        self.board.post(Source::Etcd, report);
    }

    pub(super) fn is_up(&self) -> bool {
        self.contact.borrow().is_up
    }

    /// What a change is told that cannot be made now.
    pub(super) fn away(&self) -> Refusal {
        let contact = self.contact.borrow().clone();
        Refusal::Unavailable(format!(
            "the shared registry {} is away since {} s ({}): nothing was changed; try again",
            self.address,
            contact.last.elapsed().as_secs(),
            contact.error
        ))
    }

    /// Why the agent has nothing to serve yet: nothing was ever read from etcd.
    pub(super) fn pending(&self) -> Option<String> {
        let contact = self.contact.borrow().clone();
        if contact.was_up || has_shared(&self.store.snapshot()) {
            return None;
        }
        let Contact { error, .. } = contact;
        Some(format!(
            "the shared registry {} was not read yet: {error}",
            self.address
        ))
    }

    /// How long etcd was not heard; zero while it is.
    pub(super) fn staleness(&self) -> Duration {
        let contact = self.contact.borrow().clone();
        if contact.is_up {
            Duration::ZERO
        } else {
            contact.last.elapsed()
        }
    }

    pub(super) fn report(&self) -> RegistryReport {
        let contact = self.contact.borrow().clone();
        RegistryReport {
            address: self.address.clone(),
            node: self.node.clone(),
            connected: contact.is_up,
            staleness_seconds: self.staleness().as_secs(),
            revision: *self.seen.borrow(),
            queued: self.outbox().len() as u64,
            error: contact.error,
        }
    }
}

fn too_many() -> Refusal {
    let message = "too many endpoints of this node wait for the shared registry";
    Refusal::Unavailable(message.to_owned())
}

/// Where an object comes from that a node has registered; empty: none in particular.
pub(super) fn origin(node: &str) -> Origin {
    Origin {
        source: Source::Etcd,
        place: node.to_owned(),
    }
}

/// What an endpoint says of itself that etcd has yet to hear of, or has heard of after all.
pub(super) fn shared_condition(is_shared: bool) -> Condition {
    let (status, reason, message) = if is_shared {
        (ConditionStatus::True, SHARED, "")
    } else {
        let message = "the shared registry is away; it is told as soon as it is back";
        (ConditionStatus::False, QUEUED, message)
    };
    Condition {
        kind: SHARED.to_owned(),
        status,
        reason: reason.to_owned(),
        message: message.to_owned(),
        observed_generation: 0,
    }
}

/// The change that says so.
pub(super) fn share(key: &ObjectKey, is_shared: bool) -> Change {
    Change::Condition {
        kind: Kind::Endpoint,
        key: key.clone(),
        condition: shared_condition(is_shared),
    }
}

/// Whether an endpoint says that etcd has yet to hear of it.
pub(super) fn is_queued(conditions: &[Condition]) -> bool {
    let mut conditions = conditions.iter();
    conditions.any(|it| it.kind == SHARED && it.status == ConditionStatus::False)
}

/// Whether a store has anything from etcd.
pub(super) fn has_shared(snapshot: &Snapshot) -> bool {
    snapshot
        .manifests()
        .any(|it| it.metadata().source == Source::Etcd)
}

const SHARED: &str = "Shared";
const QUEUED: &str = "Queued";
/// Services that may wait for their addresses; more wait until everything is read again.
const MAX_UNSETTLED: usize = 1 << 14;
/// Refused keys that the status shows.
const MAX_REPORTED: usize = 100;
