//! Tells etcd what the outbox holds: the endpoints of this node, with its lease.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::spawn_blocking;
use tokio::time;

use super::document;
use super::error::Error;
use super::link::{Link, is_queued, origin, share};
use super::outbox::{Entry, Word};
use super::wire::{Compare, Number, Operation, Text, Transaction};
use crate::state::object::{Kind, ObjectKey};
use crate::state::{Manifest, Snapshot};

/// Endpoints told in one transaction; etcd takes 128 operations unless configured otherwise.
const BATCH: usize = 64;
/// Bytes of their values, unless one alone has more; etcd takes 1.5 MiB unless configured otherwise.
const MAX_BYTES: usize = 512 << 10;
/// Pause after a failure that does not concern the link.
const PAUSE: Duration = Duration::from_millis(500);

/// What is told at once.
#[derive(Default)]
struct Batch {
    entries: Vec<(ObjectKey, Entry)>,
    /// Of the entries that are to be put.
    puts: Vec<Operation>,
}

/// The writes that were made.
#[derive(Default)]
struct Told {
    put: i64,
    /// Those that have taken an endpoint away.
    deleted: BTreeMap<ObjectKey, i64>,
}

/// Works for ever.
pub(super) async fn run(link: Arc<Link>) {
    // Entries that etcd has refused together: each is told alone.
    let mut alone = 0_usize;
    loop {
        let batch = if link.is_up() {
            Batch::next(&link, if alone > 0 { 1 } else { BATCH })
        } else {
            Batch::default()
        };
        if batch.entries.is_empty() {
            alone = 0;
            // Woken by the outbox, and when the link is up.
            drop(time::timeout(PAUSE * 10, link.work.notified()).await);
            continue;
        }
        match tell(&link, &batch).await {
            Ok(told) => {
                alone = alone.saturating_sub(1);
                done(&link, batch.entries, told).await;
            }
            Err(error) if error.is_of_question() && batch.entries.len() > 1 => {
                alone = batch.entries.len();
            }
            Err(error) if error.is_of_question() => {
                alone = alone.saturating_sub(1);
                set_aside(&link, &batch, &error);
            }
            Err(error) => {
                link.metrics.count(error.reason());
                tracing::debug!(error = %error.whole(), "endpoints of this node cannot be told to the shared registry");
                time::sleep(PAUSE).await;
            }
        }
    }
}

/// What an agent before this one has left to tell.
pub(super) fn post_queued(link: &Link) {
    let snapshot = link.store.snapshot();
    for key in link.own() {
        let endpoint = snapshot.endpoints.get(&key);
        if endpoint.is_some_and(|it| is_queued(&it.status.conditions)) {
            // There is room: nothing else was posted yet.
            drop(link.post(&key, Word::Put));
        }
    }
}

impl Batch {
    /// At most `limit` entries, and as many as fit.
    fn next(link: &Link, limit: usize) -> Self {
        let snapshot = link.store.snapshot();
        let mut batch = Self::default();
        let mut bytes = 0;
        let entries = link.outbox().next(limit);
        for (key, entry) in entries {
            if entry.word == Word::Put
                && let Some(value) = value(link, &snapshot, &key)
            {
                bytes += value.len();
                if bytes > MAX_BYTES && !batch.entries.is_empty() {
                    break;
                }
                batch.puts.push(Operation::Put {
                    key: link.layout.object(Kind::Endpoint, &key).as_str().into(),
                    value: Text(value),
                    lease: Number(link.lease),
                });
            }
            batch.entries.push((key, entry));
        }
        batch
    }
}

/// Nothing where the endpoint is not one of this node any more.
fn value(link: &Link, snapshot: &Snapshot, key: &ObjectKey) -> Option<Vec<u8>> {
    let endpoint = snapshot
        .endpoints
        .get(key)
        .filter(|_| link.is_own(snapshot, key))?;
    let object = Manifest::Endpoint(Arc::clone(endpoint));
    // An object of the store can be written: it came from JSON.
    document::write(&object, &link.node).ok()
}

/// Lets what etcd never takes wait for a later word, and says so.
fn set_aside(link: &Link, batch: &Batch, error: &Error) {
    link.metrics.count(error.reason());
    for (key, entry) in &batch.entries {
        tracing::warn!(endpoint = %key, error = %error.whole(), "the shared registry refuses an endpoint of this node: the other nodes do not know it as it is");
        link.outbox().set_aside(key, entry.number);
    }
}

/// Returns the writes that have done it.
async fn tell(link: &Link, batch: &Batch) -> Result<Told, Error> {
    let held = link.layout.node(&link.node);
    let transaction = Transaction {
        compare: vec![Compare::holds(&held, &link.lease.to_string())],
        success: batch.puts.clone(),
        failure: Vec::new(),
    };
    let mut told = Told::default();
    if !transaction.success.is_empty() {
        let answer = link.client.transact(&transaction).await?;
        if !answer.succeeded {
            return Err(Error::NameTaken(link.node.clone()));
        }
        told.put = answer.header.revision.0;
    }
    for (key, entry) in &batch.entries {
        if entry.word == Word::Delete {
            let answer = link.client.transact(&removal(link, key)).await?;
            if answer.succeeded {
                told.deleted.insert(key.clone(), answer.header.revision.0);
            }
        }
    }
    Ok(told)
}

/// Takes an endpoint away, unless another node has it by now.
fn removal(link: &Link, key: &ObjectKey) -> Transaction {
    let object = link.layout.object(Kind::Endpoint, key);
    Transaction {
        compare: vec![Compare::goes_with(&object, link.lease)],
        success: [object, link.layout.health(key)]
            .map(|key| Operation::Delete {
                key: key.as_str().into(),
            })
            .to_vec(),
        failure: Vec::new(),
    }
}

/// Takes the entries away, and says on endpoints that were queued that they are not any more.
async fn done(link: &Arc<Link>, entries: Vec<(ObjectKey, Entry)>, told: Told) {
    let link = Arc::clone(link);
    let noted = spawn_blocking(move || {
        let snapshot = link.store.snapshot();
        let queued = entries.iter().filter(|(key, _)| {
            let endpoint = snapshot.endpoints.get(key);
            endpoint.is_some_and(|it| is_queued(&it.status.conditions))
        });
        let notes = queued.map(|(key, _)| (origin(&link.node), share(key, true)));
        // What the disk refuses is told once more after the next start.
        drop(link.store.apply_all(notes));
        for (key, entry) in &entries {
            // What etcd says of it from before comes too late.
            let name = (Kind::Endpoint, key.clone());
            if entry.word == Word::Put {
                let mut known = link.known();
                let value = known.values.entry(name).or_default();
                value.revision = value.revision.max(told.put);
            } else if let Some(revision) = told.deleted.get(key) {
                link.known().gone.insert(name, *revision);
            }
            link.outbox().told(key, entry.number);
        }
        link.told.send_modify(|count| *count += 1);
    });
    if let Err(error) = noted.await {
        tracing::error!(%error, "what was told to the shared registry is not noted");
    }
}
