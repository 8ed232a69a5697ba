//! Tells etcd what the checks of this node's endpoints have shown, so that the other nodes need not ask themselves.
//!
//! What traffic shows (`mesh:observed`) stays on the node that has seen it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::{RecvError, TryRecvError};
use tokio::time::{self, Instant};

use super::error::Error;
use super::link::Link;
use super::wire::{Compare, Number, Operation, Text, Transaction};
use crate::state::check::{CheckStatus, OBSERVED};
use crate::state::endpoint::Endpoint;
use crate::state::object::ObjectKey;
use crate::state::{Manifest, Notice};

/// Endpoints told in one transaction; etcd takes 128 operations unless configured otherwise.
const BATCH: usize = 64;
/// Bytes of what is told of them, unless one alone has more; etcd takes 1.5 MiB unless configured otherwise.
const MAX_BYTES: usize = 512 << 10;
/// Time between two transactions: what changes more often is told once.
const PAUSE: Duration = Duration::from_millis(100);

/// What was told, and what may have changed since.
#[derive(Debug, Default)]
struct Ledger {
    told: BTreeMap<ObjectKey, Vec<CheckStatus>>,
    open: BTreeSet<ObjectKey>,
    /// Endpoints that etcd has refused together: each is told alone.
    alone: usize,
}

/// What the checks of one endpoint have shown.
struct News {
    key: ObjectKey,
    checks: Vec<CheckStatus>,
    /// The same, as etcd is told it.
    value: Vec<u8>,
}

/// Works for ever.
pub(super) async fn run(link: Arc<Link>) {
    let mut notices = link.store.subscribe();
    let mut leases = link.leases.subscribe();
    let mut ledger = Ledger::default();
    ledger.open.extend(link.own());
    // Outlives the turns: who waits anew after each notice never tells while there are many.
    let mut next = Instant::now();
    loop {
        let heard = tokio::select! {
            heard = notices.recv() => heard,
            // What was told is gone with the old lease.
            changed = leases.changed() => {
                if changed.is_err() {
                    return;
                }
                ledger.told.clear();
                ledger.open.extend(link.own());
                continue;
            }
            () = time::sleep_until(next), if !ledger.open.is_empty() => {
                if link.is_up() {
                    tell(&link, &mut ledger).await;
                }
                next = Instant::now() + PAUSE;
                continue;
            }
        };
        match heard {
            Ok(notice) => note(&mut ledger, &notice),
            Err(RecvError::Lagged(_)) => ledger.open.extend(link.own()),
            Err(RecvError::Closed) => return,
        }
        absorb(&link, &mut ledger, &mut notices);
    }
}

/// Takes the notices that are there.
fn absorb(link: &Link, ledger: &mut Ledger, notices: &mut Receiver<Notice>) {
    loop {
        match notices.try_recv() {
            Ok(notice) => note(ledger, &notice),
            Err(TryRecvError::Lagged(_)) => ledger.open.extend(link.own()),
            Err(TryRecvError::Empty | TryRecvError::Closed) => return,
        }
    }
}

fn note(ledger: &mut Ledger, notice: &Notice) {
    if let Manifest::Endpoint(endpoint) = &notice.object {
        ledger.open.insert(endpoint.key());
    }
}

async fn tell(link: &Link, ledger: &mut Ledger) {
    let batch = batch(link, ledger);
    if batch.is_empty() {
        return;
    }
    let count = batch.len();
    let told = write(link, &batch).await;
    if let Err(error) = &told {
        link.metrics.count(error.reason());
        tracing::debug!(error = %error.whole(), "what checks have shown cannot be told to the shared registry");
    }
    let is_refused = told.as_ref().is_err_and(Error::is_of_question);
    if told.is_err() && (!is_refused || count > 1) {
        ledger.alone = if is_refused { count } else { ledger.alone };
        ledger.open.extend(batch.into_iter().map(|it| it.key));
        return;
    }
    for News { key, checks, .. } in batch {
        if is_refused {
            tracing::warn!(endpoint = %key, "the shared registry refuses what checks have shown: the other nodes do not know it");
        }
        // What is refused is told again once it has changed.
        ledger.told.insert(key, checks);
    }
    ledger.alone = ledger.alone.saturating_sub(1);
}

/// What is news, at most one transaction of it.
fn batch(link: &Link, ledger: &mut Ledger) -> Vec<News> {
    let snapshot = link.store.snapshot();
    let limit = if ledger.alone > 0 { 1 } else { BATCH };
    let mut bytes = 0;
    let mut batch = Vec::new();
    let mut later = BTreeSet::new();
    while batch.len() < limit
        && let Some(key) = ledger.open.pop_first()
    {
        let endpoint = snapshot.endpoints.get(&key);
        let Some(endpoint) = endpoint.filter(|_| link.is_own(&snapshot, &key)) else {
            ledger.told.remove(&key);
            continue;
        };
        // Others hear of the endpoint first.
        if link.outbox().word(&key).is_some() {
            later.insert(key);
            continue;
        }
        let checks = shown(endpoint);
        let told = ledger.told.get(&key).map_or(&[][..], Vec::as_slice);
        if told == checks.as_slice() {
            continue;
        }
        // It came from JSON, too.
        let Ok(value) = serde_json::to_vec(&checks) else {
            continue;
        };
        bytes += value.len();
        if bytes > MAX_BYTES && !batch.is_empty() {
            later.insert(key);
            break;
        }
        batch.push(News { key, checks, value });
    }
    if batch.is_empty() {
        ledger.alone = 0;
    }
    ledger.open.extend(later);
    batch
}

/// What the checks of an endpoint's registration have shown.
fn shown(endpoint: &Endpoint) -> Vec<CheckStatus> {
    let checks = endpoint.status.checks.iter();
    checks.filter(|it| it.id != OBSERVED).cloned().collect()
}

async fn write(link: &Link, batch: &[News]) -> Result<(), Error> {
    let held = link.layout.node(&link.node);
    let puts = batch.iter().map(|it| Operation::Put {
        key: link.layout.health(&it.key).as_str().into(),
        value: Text(it.value.clone()),
        lease: Number(link.lease),
    });
    let transaction = Transaction {
        compare: vec![Compare::holds(&held, &link.lease.to_string())],
        success: puts.collect(),
        failure: Vec::new(),
    };
    if link.client.transact(&transaction).await?.succeeded {
        Ok(())
    } else {
        Err(Error::NameTaken(link.node.clone()))
    }
}
