//! From what etcd says to the store: each value is judged alone, and a bad one hurts nobody.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Instant;

use tokio::task::spawn_blocking;

use super::document::{self, Shared};
use super::error::Error;
use super::layout::Place;
use super::link::{Link, Name, Value, origin};
use super::outbox::Word;
use super::wire::{Event, EventKind, KeyValue};
use crate::state::check::CheckStatus;
use crate::state::object::{Kind, ObjectKey};
use crate::state::source::{Origin, Source};
use crate::state::{Applied, Change, Manifest, Refusal};

/// One thing that etcd says of an object.
#[derive(Debug)]
pub(super) enum Step {
    /// It is so.
    Put {
        name: Name,
        shared: Shared,
        revision: i64,
    },
    /// It is gone.
    Delete {
        name: Name,
        /// The write that took it away; zero: some write up to now.
        revision: i64,
    },
    /// It says nothing that can be understood.
    Bad {
        name: Name,
        reason: String,
        revision: i64,
    },
}

impl Step {
    pub(super) const fn name(&self) -> &Name {
        match self {
            Self::Put { name, .. } | Self::Delete { name, .. } | Self::Bad { name, .. } => name,
        }
    }
}

/// What the node of an endpoint says that its checks have shown.
pub(super) type Shown = (ObjectKey, Vec<CheckStatus>);

/// What a value says that checks have shown.
pub(super) fn shown(link: &Link, kv: &KeyValue) -> Option<Shown> {
    let Place::Health(key) = link.layout.place(&kv.key.0) else {
        return None;
    };
    match serde_json::from_slice(&kv.value.0) {
        Ok(checks) => Some((key, checks)),
        Err(error) => {
            tracing::debug!(endpoint = %key, %error, "what checks have shown cannot be read");
            None
        }
    }
}

/// What a change of a key says; `None` where it does not concern objects.
pub(super) fn step(link: &Link, event: &Event) -> Option<Step> {
    match (event.kind, link.layout.place(&event.kv.key.0)) {
        (EventKind::Put, Place::Object(kind, key)) => Some(put((kind, key), &event.kv)),
        (EventKind::Delete, Place::Object(kind, key)) => Some(Step::Delete {
            name: (kind, key),
            revision: event.kv.mod_revision.0,
        }),
        (_, Place::Unknown) => {
            let key = String::from_utf8_lossy(&event.kv.key.0);
            tracing::debug!(%key, "a key of the shared registry means nothing to this version");
            None
        }
        (_, Place::Health(_) | Place::Node(_) | Place::Other) => None,
    }
}

/// What a value says.
pub(super) fn put(name: Name, kv: &KeyValue) -> Step {
    let revision = kv.mod_revision.0;
    match document::read(name.0, &name.1, &kv.value.0) {
        Ok(shared) => Step::Put {
            name,
            shared,
            revision,
        },
        Err(refusal) => Step::Bad {
            name,
            reason: refusal.to_string(),
            revision,
        },
    }
}

/// Takes changes into the store, in one write to the disk.
pub(super) async fn take(
    link: &Arc<Link>,
    mut steps: Vec<Step>,
    shown: Vec<Shown>,
) -> Result<(), Error> {
    if steps.is_empty() && shown.is_empty() {
        return Ok(());
    }
    again(link, &mut steps);
    let link = Arc::clone(link);
    let taken = spawn_blocking(move || apply(&link, steps, shown)).await;
    taken.unwrap_or_else(|error| Err(Error::Store(Refusal::Storage(error.to_string()))))
}

/// Adds what was refused before: what stood in its way may be gone.
fn again(link: &Link, steps: &mut Vec<Step>) {
    let named: BTreeSet<Name> = steps.iter().map(|it| it.name().clone()).collect();
    let known = link.known();
    let refused = known
        .refused
        .iter()
        .filter(|(name, _)| !named.contains(*name));
    let again = refused.filter_map(|(name, (_, shared))| {
        Some(Step::Put {
            name: name.clone(),
            shared: shared.clone()?,
            revision: known.values.get(name)?.revision,
        })
    });
    steps.extend(again.take(MAX_AGAIN));
}

fn apply(link: &Link, steps: Vec<Step>, shown: Vec<Shown>) -> Result<(), Error> {
    let mut changes = Vec::with_capacity(steps.len());
    let mut steps_made = Vec::with_capacity(steps.len());
    for step in steps {
        if !note(link, &step) {
            continue;
        }
        if let Step::Bad { name, reason, .. } = step {
            refuse(link, name, reason, None);
        } else if let Some(change) = change(link, &step) {
            changes.push(change);
            steps_made.push(step);
        }
    }
    // Last: a check is one of an endpoint that is there.
    changes.extend(checks(link, shown));
    let results = link.store.apply_all(changes);
    for (step, result) in steps_made.into_iter().zip(results) {
        judge(link, step, result)?;
    }
    link.post_report();
    Ok(())
}

/// What checks have shown of endpoints of other nodes. Of its own each node knows best.
fn checks(link: &Link, shown: Vec<Shown>) -> Vec<(Origin, Change)> {
    let snapshot = link.store.snapshot();
    let others = shown
        .into_iter()
        .filter(|(key, _)| !link.is_own(&snapshot, key));
    let changes = others.flat_map(|(endpoint, checks)| {
        checks.into_iter().map(move |check| Change::Check {
            endpoint: endpoint.clone(),
            id: check.id,
            status: check.status,
            output: check.output,
        })
    });
    changes.map(|change| (origin(""), change)).collect()
}

/// Remembers which write made a value, and which addresses it holds. False where a later write is known already: one of
/// this node, which has not come round yet.
fn note(link: &Link, step: &Step) -> bool {
    let mut known = link.known();
    let latest = known.values.get(step.name()).map_or(0, |it| it.revision);
    let gone = known.gone.get(step.name()).copied().unwrap_or_default();
    let latest = latest.max(gone);
    match step {
        Step::Put { revision, .. } | Step::Bad { revision, .. } if *revision < latest => false,
        Step::Delete { revision, .. } if (1..latest).contains(revision) => false,
        Step::Delete { name, .. } => {
            known.values.remove(name);
            true
        }
        Step::Bad { name, revision, .. } => {
            known.values.entry(name.clone()).or_default().revision = *revision;
            true
        }
        Step::Put {
            name,
            shared,
            revision,
        } => {
            let addresses = allotted(&shared.object);
            if addresses.as_ref().is_some_and(Vec::is_empty) {
                link.unsettle(&name.1);
            }
            let value = Value {
                revision: *revision,
                addresses: addresses.unwrap_or_default(),
            };
            known.values.insert(name.clone(), value);
            known.absence.forget(&name.1);
            true
        }
    }
}

/// The virtual addresses of a service that brings none of its own.
pub(super) fn allotted(object: &Manifest) -> Option<Vec<std::net::IpAddr>> {
    match object {
        Manifest::Service(service)
            if service.spec.addresses.is_empty() && service.spec.is_virtual() =>
        {
            Some(service.status.addresses.clone())
        }
        _ => None,
    }
}

/// The change of the store; `None` where it is not touched.
fn change(link: &Link, step: &Step) -> Option<(Origin, Change)> {
    let (kind, key) = step.name();
    if *kind == Kind::Endpoint && is_outdated(link, key, step) {
        return None;
    }
    match step {
        Step::Put { shared, .. } => {
            let change = Change::Put(shared.object.clone());
            Some((origin(&shared.node), change))
        }
        Step::Delete { revision, .. } if *revision > 0 && is_missing(link, *kind, key) => None,
        Step::Delete { .. } => Some((origin(""), delete(*kind, key))),
        Step::Bad { .. } => None,
    }
}

/// Whether what this node has to say of its own endpoint is newer than what it hears. One that it has let go may be
/// another node's by now, which nobody would tell it again.
fn is_outdated(link: &Link, key: &ObjectKey, step: &Step) -> bool {
    let word = link.outbox().word(key);
    match word {
        Some(Word::Put) => true,
        Some(Word::Delete) => {
            matches!(step, Step::Put { shared, .. } if shared.node == link.node)
        }
        None => false,
    }
}

/// Whether an endpoint may have gone only because its node could not renew its lease.
fn is_missing(link: &Link, kind: Kind, key: &ObjectKey) -> bool {
    let snapshot = link.store.snapshot();
    let endpoint = snapshot
        .endpoints
        .get(key)
        .filter(|_| kind == Kind::Endpoint);
    let Some(endpoint) = endpoint.filter(|it| !it.metadata.origin.is_empty()) else {
        return false;
    };
    let absence = &mut link.known().absence;
    let has_lease = absence.nodes().contains_key(&endpoint.metadata.origin);
    absence.keeps(key, has_lease, Instant::now())
}

/// Takes endpoints away whose nodes have not come back.
pub(super) async fn drop_missing(link: &Arc<Link>) -> Result<(), Error> {
    let due = link.known().absence.due(Instant::now());
    let steps = due.into_iter().map(|key| Step::Delete {
        name: (Kind::Endpoint, key),
        revision: 0,
    });
    take(link, steps.collect(), Vec::new()).await
}

fn delete(kind: Kind, key: &ObjectKey) -> Change {
    Change::Delete {
        kind,
        key: key.clone(),
        resource_version: None,
    }
}

fn judge(link: &Link, step: Step, result: Result<Applied, Refusal>) -> Result<(), Error> {
    match (step, result) {
        (_, Err(refusal @ (Refusal::Storage(_) | Refusal::DiskFull))) => Err(Error::Store(refusal)),
        (Step::Put { name, shared, .. }, Err(refusal)) if !is_owned(&refusal) => {
            refuse(link, name, refusal.to_string(), Some(shared));
            Ok(())
        }
        (step, _) => {
            link.known().refused.remove(step.name());
            Ok(())
        }
    }
}

/// Whether another source comes before this one; the object says so itself.
const fn is_owned(refusal: &Refusal) -> bool {
    matches!(refusal, Refusal::Owned { .. })
}

/// Takes note of a value that is not taken, and says so once.
fn refuse(link: &Link, name: Name, reason: String, shared: Option<Shared>) {
    let mut known = link.known();
    let old = known.refused.get(&name).map(|(old, _)| old.clone());
    if old.as_ref() != Some(&reason) {
        link.metrics.count("bad-value");
        let (kind, key) = &name;
        tracing::warn!(%kind, %key, %reason, "a value of the shared registry is refused: what it said before goes on to hold");
    }
    if known.refused.len() < MAX_REFUSED || known.refused.contains_key(&name) {
        known.refused.insert(name, (reason, shared));
    }
}

/// The objects of the store that came from etcd.
pub(super) fn from_etcd(link: &Link) -> Vec<Manifest> {
    let snapshot = link.store.snapshot();
    let all = snapshot.manifests();
    all.filter(|it| it.metadata().source == Source::Etcd)
        .collect()
}

/// Refused values that are remembered; of more the log tells.
const MAX_REFUSED: usize = 1000;
/// Refused values that are tried again with each batch.
const MAX_AGAIN: usize = 256;
