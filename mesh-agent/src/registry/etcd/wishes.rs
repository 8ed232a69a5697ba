//! Changes that somebody asks this node for: made in etcd first, and answered once the store has heard of them.
//!
//! Endpoints are another matter: the node that registers one is the one that knows, and its store takes it at once. etcd
//! is told; where it is away, it is told later.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::{JoinSet, spawn_blocking};
use tokio::time;

use super::error::Error;
use super::link::{Link, Name, origin, share};
use super::outbox::Word;
use super::transaction;
use crate::state::change::Applied;
use crate::state::object::{Kind, ObjectKey};
use crate::state::source::{Origin, Source};
use crate::state::writer::Wish;
use crate::state::{Change, Manifest, Refusal};

/// Changes under way at once; more wait.
const MAX_UNDER_WAY: usize = 64;
/// How long this node may take to hear of its own write.
const HEAR_TIMEOUT: Duration = Duration::from_secs(3);
/// How long an endpoint's registration waits for etcd before it is answered all the same.
const TELL_TIMEOUT: Duration = Duration::from_secs(2);
/// How often services without addresses are looked for when nothing happens.
const SETTLE_AGAIN: Duration = Duration::from_secs(5);
/// Times that a change is tried when others write the same.
const TRIES: u32 = 5;

/// Serves for ever.
pub(super) async fn serve(link: Arc<Link>, mut wishes: mpsc::Receiver<Wish>) {
    let mut under_way = JoinSet::new();
    loop {
        while under_way.len() >= MAX_UNDER_WAY {
            under_way.join_next().await;
        }
        let wish = tokio::select! {
            wish = wishes.recv() => wish,
            Some(_) = under_way.join_next(), if !under_way.is_empty() => continue,
        };
        let Some(Wish { change, answer }) = wish else {
            return;
        };
        let link = Arc::clone(&link);
        under_way.spawn(async move {
            // Who has stopped waiting does not want to know.
            drop(answer.send(make(&link, change).await));
        });
    }
}

/// Allots addresses for all nodes to services that were written without them, for ever.
pub(super) async fn settle(link: Arc<Link>) {
    let mut seen = link.seen.subscribe();
    loop {
        if link.is_up() {
            for key in link.take_unsettled() {
                if !is_settled(&link, &key).await {
                    link.unsettle(&key);
                }
            }
        }
        if let Ok(Err(_)) = time::timeout(SETTLE_AGAIN, seen.changed()).await {
            return;
        }
    }
}

/// Allots addresses to one service. False where that is to be tried again.
async fn is_settled(link: &Arc<Link>, key: &ObjectKey) -> bool {
    let name = (Kind::Service, key.clone());
    let known = link.known().values.get(&name).cloned();
    if known.is_none_or(|it| !it.addresses.is_empty()) {
        return true;
    }
    let service = link.store.snapshot().services.get(key).cloned();
    // What was heard of a moment ago is not in the store yet.
    let Some(service) = service.filter(|it| it.metadata.source == Source::Etcd) else {
        return false;
    };
    let change = Change::Put(Manifest::Service(service));
    match write(link, &change, true).await {
        Ok(_) => true,
        Err(refusal) => {
            tracing::debug!(service = %key, %refusal, "no address was allotted for all nodes");
            false
        }
    }
}

async fn make(link: &Arc<Link>, change: Change) -> Result<Applied, Refusal> {
    let change = own_words(link, change);
    let snapshot = link.store.snapshot();
    match &change {
        Change::Put(Manifest::Endpoint(_)) => register(link, change).await,
        Change::Delete {
            kind: Kind::Endpoint,
            key,
            ..
        } if link.is_own(&snapshot, key) => register(link, change).await,
        // What only this node has is nobody else's business.
        Change::Delete { kind, key, .. }
            if snapshot
                .object(*kind, key)
                .is_none_or(|it| it.metadata().source != Source::Etcd) =>
        {
            locally(link, vec![change], Source::Api).await
        }
        _ => write(link, &change, false).await,
    }
}

/// Without what another registry says about the object. Its version means nothing here.
fn own_words(link: &Link, change: Change) -> Change {
    let Change::Put(mut manifest) = change else {
        return change;
    };
    let current = link
        .store
        .snapshot()
        .object(manifest.kind(), &manifest.key());
    let is_ours = |uid: &str| current.as_ref().is_some_and(|it| it.metadata().uid == uid);
    let metadata = manifest.metadata_mut();
    if !metadata.uid.is_empty() && !is_ours(&metadata.uid) {
        metadata.resource_version.clear();
    }
    metadata.uid.clear();
    Change::Put(manifest)
}

/// Takes an endpoint of this node into the store or out of it, and tells etcd.
async fn register(link: &Arc<Link>, change: Change) -> Result<Applied, Refusal> {
    let (key, word) = match &change {
        Change::Delete { key, .. } => (key.clone(), Word::Delete),
        Change::Put(manifest) => (manifest.key(), Word::Put),
        Change::Condition { .. } | Change::Check { .. } | Change::Health { .. } => {
            return Ok(Applied::Unchanged);
        }
    };
    let before = link.store.snapshot().revision;
    let is_up = link.is_up();
    let mut changes = vec![change];
    if word == Word::Put && !is_up {
        changes.push(share(&key, false));
    }
    // First the word: what etcd says of the endpoint meanwhile is older.
    let reserved = link.reserve(&key, word)?;
    let number = reserved.number;
    let applied = locally(link, changes, Source::Etcd).await;
    let is_written = link.store.snapshot().revision != before;
    if applied.is_err() || !is_written {
        link.outbox().cancel(reserved);
        return applied;
    }
    link.outbox().release(&reserved);
    link.work.notify_one();
    if is_up && !is_told(link, &key, number).await && word == Word::Put {
        locally(link, vec![share(&key, false)], Source::Etcd).await?;
    }
    applied
}

/// Waits until etcd was told, for a while.
async fn is_told(link: &Link, key: &ObjectKey, number: u64) -> bool {
    let mut told = link.told.subscribe();
    let wait = async {
        while link.outbox().is_waiting(key, number) {
            if told.changed().await.is_err() {
                break;
            }
        }
    };
    time::timeout(TELL_TIMEOUT, wait).await.is_ok()
}

/// Makes changes in the store only; the first decides.
async fn locally(
    link: &Arc<Link>,
    changes: Vec<Change>,
    source: Source,
) -> Result<Applied, Refusal> {
    let link = Arc::clone(link);
    let made = spawn_blocking(move || {
        let origin = match source {
            Source::Etcd => origin(&link.node),
            Source::Api | Source::Files => Origin::from(source),
        };
        let results = link
            .store
            .apply_all(changes.into_iter().map(|it| (origin.clone(), it)));
        results.into_iter().next().unwrap_or(Ok(Applied::Unchanged))
    });
    let made = made.await;
    made.unwrap_or_else(|error| Err(Refusal::Storage(error.to_string())))
}

/// Writes an object that all nodes share. With `is_forced` also where the store of this node has it already.
async fn write(link: &Arc<Link>, change: &Change, is_forced: bool) -> Result<Applied, Refusal> {
    let mut change = change.clone();
    let mut taken = BTreeSet::new();
    let mut held = BTreeSet::new();
    for _ in 0..TRIES {
        // Before the store is asked, which hears of a write a little later: what is planned for this version of the
        // object must have been judged by this one.
        let known = link
            .known()
            .values
            .get(&name(&change))
            .cloned()
            .unwrap_or_default();
        caught_up(link, |seen| seen >= known.revision).await?;
        let previewed = link.store.preview(&origin(""), change.clone());
        if matches!(previewed, Err(Refusal::Invalid { .. }))
            && !taken.is_empty()
            && is_changed_again(link, &mut change, &mut taken)?
        {
            continue;
        }
        let (applied, is_new) = previewed?;
        if !is_new && !is_forced {
            return Ok(applied);
        }
        if !link.is_up() {
            return Err(link.away());
        }
        let plan = transaction::plan(&link.layout, &applied, &known, &held);
        let plan = plan.ok_or_else(|| link.away())?;
        let answer = link.client.transact(&plan.transaction).await;
        let answer = answer.map_err(|error| failed(link, &error))?;
        if answer.succeeded {
            heard(link, answer.header.revision.0).await?;
            return Ok(current(link, applied));
        }
        let found = transaction::found(&plan, &answer);
        taken.extend(found.taken.iter().copied());
        held.extend(found.held.iter().copied());
        match found.other_version {
            // Not the last write of all, which the answer tells too: it may be none of this fleet's.
            Some(revision) if revision > 0 => caught_up(link, |seen| seen >= revision).await?,
            Some(_) => caught_up(link, |_| !is_known(link, &change, plan.expected)).await?,
            None => {}
        }
        if !found.taken.is_empty() {
            avoid(link, &mut change, &plan.addresses, &found.taken, &taken)?;
        }
    }
    Err(Refusal::Unavailable(
        "others write the same object of the shared registry all the time; try again".to_owned(),
    ))
}

/// What a change is about.
fn name(change: &Change) -> Name {
    match change {
        Change::Put(manifest) => (manifest.kind(), manifest.key()),
        Change::Delete { kind, key, .. } | Change::Condition { kind, key, .. } => {
            (*kind, key.clone())
        }
        Change::Check { endpoint: key, .. } | Change::Health { key, .. } => {
            (Kind::Endpoint, key.clone())
        }
    }
}

/// Gives a service the `addresses`, and others for those that are `refused`.
fn avoid(
    link: &Link,
    change: &mut Change,
    addresses: &[IpAddr],
    refused: &BTreeSet<IpAddr>,
    taken: &BTreeSet<IpAddr>,
) -> Result<(), Refusal> {
    let Change::Put(Manifest::Service(service)) = change else {
        return Ok(());
    };
    let service = Arc::make_mut(service);
    let key = service.key();
    let choose = |address: &IpAddr| {
        if !refused.contains(address) {
            return Ok(*address);
        }
        link.store
            .allot_instead(&key, *address, taken)
            .ok_or_else(|| {
                Refusal::invalid("spec.addresses", "no virtual address is free; give one")
            })
    };
    service.status.addresses = addresses.iter().map(choose).collect::<Result<_, _>>()?;
    Ok(())
}

/// Chooses again where another service has got an address since it was chosen. False: none has.
fn is_changed_again(
    link: &Link,
    change: &mut Change,
    taken: &mut BTreeSet<IpAddr>,
) -> Result<bool, Refusal> {
    let Change::Put(Manifest::Service(service)) = &*change else {
        return Ok(false);
    };
    let (key, addresses) = (service.key(), service.status.addresses.clone());
    let snapshot = link.store.snapshot();
    let is_lost = |it: &&IpAddr| snapshot.service_at(**it).is_some_and(|other| *other != key);
    let lost: BTreeSet<IpAddr> = addresses.iter().filter(is_lost).copied().collect();
    taken.extend(&lost);
    avoid(link, change, &addresses, &lost, taken)?;
    Ok(!lost.is_empty())
}

/// Whether the object is known as the write `revision` has made it.
fn is_known(link: &Link, change: &Change, revision: i64) -> bool {
    let known = link.known();
    let value = known.values.get(&name(change));
    value.is_some_and(|it| it.revision == revision)
}

/// Waits until the store has the write that has made the change.
async fn heard(link: &Link, revision: i64) -> Result<(), Refusal> {
    if is_seen(link, |seen| seen >= revision).await {
        return Ok(());
    }
    Err(Refusal::Unavailable(
        "the shared registry has made the change, and this node has not heard of it yet".to_owned(),
    ))
}

/// Waits until the store has what others have made of the object.
async fn caught_up(
    link: &Link,
    is_there: impl Fn(i64) -> bool + Send + Sync,
) -> Result<(), Refusal> {
    if is_seen(link, is_there).await {
        return Ok(());
    }
    Err(Refusal::Unavailable(
        "others have changed the object in the shared registry, and this node has not heard of it \
         yet: nothing was changed; try again"
            .to_owned(),
    ))
}

/// Waits until the writes that the store has are enough; false: not in time.
async fn is_seen(link: &Link, is_enough: impl Fn(i64) -> bool + Send + Sync) -> bool {
    let mut seen = link.seen.subscribe();
    let wait = seen.wait_for(|seen| is_enough(*seen));
    matches!(time::timeout(HEAR_TIMEOUT, wait).await, Ok(Ok(_)))
}

/// What was applied, as the store has it now.
fn current(link: &Link, applied: Applied) -> Applied {
    let snapshot = link.store.snapshot();
    let now = |object: Manifest| {
        snapshot
            .object(object.kind(), &object.key())
            .unwrap_or(object)
    };
    match applied {
        Applied::Created(object) => Applied::Created(now(object)),
        Applied::Changed(object) => Applied::Changed(now(object)),
        other => other,
    }
}

fn failed(link: &Link, error: &Error) -> Refusal {
    link.metrics.count(error.reason());
    if error.is_unsent() || matches!(error, Error::Refused { .. }) {
        return Refusal::Unavailable(format!("the shared registry refuses: {}", error.whole()));
    }
    Refusal::Unavailable(format!(
        "the shared registry has not answered, and may still make the change: {}",
        error.whole()
    ))
}
