//! An endpoint that may have to leave: it has been critical for too long, or is draining.

use std::sync::Arc;
use std::time::Duration;

use tokio::task::spawn_blocking;

use super::metrics::Metrics;
use super::{AGAIN, Busy, LOOK, SLOW_LOOK, Write};
use crate::state::Change;
use crate::state::Refusal;
use crate::state::Store;
use crate::state::check::{Check, CheckStatus};
use crate::state::endpoint::{Endpoint, HealthStatus, Lifecycle};
use crate::state::object::{Kind, ObjectKey};
use crate::state::registration;

/// An endpoint that may have to leave.
pub(super) struct Leaver {
    pub(super) key: ObjectKey,
    pub(super) store: Arc<Store>,
    pub(super) write: Write,
    pub(super) busy: Busy,
    pub(super) metrics: Metrics,
}

impl Leaver {
    /// It has been critical for as long as it may. Returns when to look again.
    pub(super) async fn reap(&self, check: &str) -> Option<Duration> {
        let check = check.to_owned();
        let is_due = move |endpoint: &Endpoint| is_critical(endpoint, &check);
        let (gone, pause) = self.deregister(is_due).await;
        if gone {
            tracing::warn!(endpoint = %self.key, "deregistered: critical for too long");
            self.metrics.deregistered("critical");
        }
        pause
    }

    /// It is draining, and may be finished. Returns when to look again.
    pub(super) async fn leave(&self, is_late: bool) -> Option<Duration> {
        let (busy, key) = (Arc::clone(&self.busy), self.key.clone());
        if !is_late && spawn_blocking(move || busy(&key)).await.unwrap_or(true) {
            return Some(self.look());
        }
        let (gone, pause) = self.deregister(is_leaving).await;
        if gone {
            tracing::info!(endpoint = %self.key, is_late, "deregistered: drained");
            self.metrics.deregistered("drained");
        }
        pause
    }

    /// How long it has until the next look.
    fn look(&self) -> Duration {
        let snapshot = self.store.snapshot();
        let endpoint = snapshot.endpoints.get(&self.key);
        let has_time = endpoint.is_some_and(|it| it.spec.drain_for.is_none());
        if has_time { SLOW_LOOK } else { LOOK }
    }

    /// Deletes it, if it is as it should be for that. Tells whether it did, and when to try again.
    async fn deregister(
        &self,
        is_due: impl Fn(&Endpoint) -> bool + Send + 'static,
    ) -> (bool, Option<Duration>) {
        let (store, write, key) = (
            Arc::clone(&self.store),
            Arc::clone(&self.write),
            self.key.clone(),
        );
        let deregistered = spawn_blocking(move || deregister(&store, &write, &key, is_due)).await;
        deregistered.unwrap_or((false, Some(AGAIN)))
    }
}

/// Whether it is deleted once it has drained: its registration says so, or the agent has made it for a name that is
/// elsewhere now.
pub(super) fn is_leaving(endpoint: &Endpoint) -> bool {
    let goes = endpoint.spec.drain_for.is_some() || endpoint.has_left_name();
    endpoint.lifecycle() == Lifecycle::Draining && goes
}

fn is_critical(endpoint: &Endpoint, id: &str) -> bool {
    let mut checks = endpoint.status.checks.iter();
    let is_it = |it: &CheckStatus| it.id == id && it.status == HealthStatus::Critical;
    let wanted = |it: &Check| it.id == id && it.deregister_critical_after.is_some();
    checks.any(is_it) && endpoint.spec.checks.iter().any(wanted)
}

/// Deletes an endpoint, and what was made for it alone.
fn deregister(
    store: &Store,
    write: &Write,
    key: &ObjectKey,
    is_due: impl Fn(&Endpoint) -> bool,
) -> (bool, Option<Duration>) {
    let snapshot = store.snapshot();
    let Some(endpoint) = snapshot.endpoints.get(key).filter(|it| is_due(it)) else {
        return (false, None);
    };
    let change = Change::Delete {
        kind: Kind::Endpoint,
        key: key.clone(),
        // Who has registered anew meanwhile stays.
        resource_version: Some(endpoint.metadata.resource_version.clone()),
    };
    // What this node has found for a name is in no registry that others share.
    let deleted = match endpoint.resolved_for() {
        Some(_) => store.apply(change),
        None => write(change),
    };
    match deleted {
        Ok(_) => {}
        Err(Refusal::NotFound { .. }) => return (false, None),
        Err(Refusal::Conflict { .. }) => return (false, Some(LOOK)),
        Err(Refusal::Owned { owner, .. }) => {
            let place = &endpoint.metadata.origin;
            tracing::info!(endpoint = %key, source = %owner, %place, "it stays: a file says so");
            return (false, None);
        }
        Err(error) => {
            tracing::warn!(%error, endpoint = %key, "cannot deregister an endpoint");
            return (false, Some(AGAIN));
        }
    }
    let service = ObjectKey::new(&key.namespace, &endpoint.spec.service);
    // Twice: whoever has registered between the look and the write has the service again.
    for _ in 0..2 {
        if let Some(change) = registration::follow(&store.snapshot(), &service, &[])
            && let Err(error) = write(change)
        {
            tracing::debug!(%error, service = %service, "the service of an endpoint that left stays as it is");
        }
    }
    (true, None)
}
