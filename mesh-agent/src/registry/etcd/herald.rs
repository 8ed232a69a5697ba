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
/// Time between two transactions: what changes more often is told once.
const PAUSE: Duration = Duration::from_millis(100);

/// What was told, and what may have changed since.
#[derive(Debug, Default)]
struct Ledger {
    told: BTreeMap<ObjectKey, Vec<CheckStatus>>,
    open: BTreeSet<ObjectKey>,
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
    match write(link, &batch).await {
        Ok(()) => ledger.told.extend(batch),
        Err(error) => {
            link.metrics.count(error.reason());
            tracing::debug!(error = %error.whole(), "what checks have shown cannot be told to the shared registry");
            ledger.open.extend(batch.into_iter().map(|(key, _)| key));
        }
    }
}

/// What is news, at most one transaction of it.
fn batch(link: &Link, ledger: &mut Ledger) -> Vec<(ObjectKey, Vec<CheckStatus>)> {
    let snapshot = link.store.snapshot();
    let mut batch = Vec::new();
    let mut later = BTreeSet::new();
    while batch.len() < BATCH
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
        let shown = shown(endpoint);
        let told = ledger.told.get(&key).map_or(&[][..], Vec::as_slice);
        if told != shown.as_slice() {
            batch.push((key, shown));
        }
    }
    ledger.open.extend(later);
    batch
}

/// What the checks of an endpoint's registration have shown.
fn shown(endpoint: &Endpoint) -> Vec<CheckStatus> {
    let checks = endpoint.status.checks.iter();
    checks.filter(|it| it.id != OBSERVED).cloned().collect()
}

async fn write(link: &Link, batch: &[(ObjectKey, Vec<CheckStatus>)]) -> Result<(), Error> {
    let held = link.layout.node(&link.node);
    let puts = batch.iter().filter_map(|(key, checks)| {
        Some(Operation::Put {
            key: link.layout.health(key).as_str().into(),
            value: Text(serde_json::to_vec(checks).ok()?),
            lease: Number(link.lease),
        })
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
