//! Everything that etcd has, as it was after one write, and what follows for what it does not have.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Instant;

use super::error::Error;
use super::intake::{self, Step};
use super::layout::Place;
use super::lease;
use super::link::{Link, Name, has_shared};
use super::outbox::Word;
use super::wire::{KeyValue, Ranged};
use crate::state::Manifest;
use crate::state::object::{Kind, ObjectKey};

/// Keys of one answer, and of one whose values are as large as they may be.
const PAGES: [i64; 2] = [512, 8];

/// Reads everything into the store; returns the write from which a watch goes on.
pub(super) async fn take(link: &Arc<Link>) -> Result<i64, Error> {
    let (mut steps, mut shown, mut nodes) = (Vec::new(), Vec::new(), BTreeMap::new());
    let mut first = link.layout.prefix().as_bytes().to_vec();
    let mut revision = 0;
    loop {
        let page = page(link, &first, revision).await?;
        revision = page.header.revision.0.max(revision);
        steps.extend(page.kvs.iter().filter_map(|kv| step(link, kv)));
        nodes.extend(page.kvs.iter().filter_map(|kv| node(link, kv)));
        shown.extend(page.kvs.iter().filter_map(|kv| intake::shown(link, kv)));
        match page.kvs.last() {
            Some(last) if page.more => {
                first.clone_from(&last.key.0);
                first.push(0);
            }
            _ => break,
        }
    }
    let listed = forget_others(link, &steps, revision);
    disown(link, &steps);
    let same = same_nodes(link, nodes);
    let mut all = missing(link, &listed, &same);
    lease::recovered(link);
    // In the order in which kinds are loaded; what is gone first, because it gives addresses back.
    steps.sort_by(|a, b| a.name().cmp(b.name()));
    all.extend(steps);
    intake::take(link, all, shown).await?;
    link.metrics.resynced();
    link.has_seen(revision);
    Ok(revision + 1)
}

/// Forgets what was known of keys that are not there as of `revision`. Returns those that are, and those that this node
/// has written since.
fn forget_others(link: &Link, steps: &[Step], revision: i64) -> BTreeSet<Name> {
    let mut listed: BTreeSet<Name> = steps.iter().map(|it| it.name().clone()).collect();
    let mut known = link.known();
    if revision < *link.seen.borrow() {
        tracing::warn!(
            revision,
            "the shared registry has gone back in time: it was restored or replaced"
        );
        known.values.clear();
        known.gone.clear();
    }
    let later = known.values.iter().filter(|(_, it)| it.revision > revision);
    listed.extend(later.map(|(name, _)| name.clone()));
    known.values.retain(|name, _| listed.contains(name));
    known.refused.retain(|name, _| listed.contains(name));
    listed
}

/// One page, all of the same write; `revision` is zero for the first.
async fn page(link: &Link, first: &[u8], revision: i64) -> Result<Ranged, Error> {
    let mut last = None;
    for limit in PAGES {
        let prefix = link.layout.prefix();
        match link
            .client
            .page(first.to_vec(), prefix, limit, revision)
            .await
        {
            Err(error @ Error::TooLarge { .. }) => last = Some(error),
            answer => {
                // The answer to an old write has a newer one in its head.
                return answer.map(|mut page| {
                    if revision != 0 {
                        page.header.revision.0 = revision;
                    }
                    page
                });
            }
        }
    }
    Err(last.unwrap_or(Error::Compacted))
}

fn step(link: &Link, kv: &KeyValue) -> Option<Step> {
    match link.layout.place(&kv.key.0) {
        Place::Object(kind, key) => Some(intake::put((kind, key), kv)),
        Place::Health(_) | Place::Node(_) | Place::Other | Place::Unknown => None,
    }
}

/// A node that holds its lease, and the write by which it got it.
fn node(link: &Link, kv: &KeyValue) -> Option<(String, i64)> {
    match link.layout.place(&kv.key.0) {
        Place::Node(node) => Some((node, kv.create_revision.0)),
        _ => None,
    }
}

/// Takes note of the nodes that are there. Returns those that have the lease that they had.
fn same_nodes(link: &Link, nodes: BTreeMap<String, i64>) -> BTreeSet<String> {
    let absence = &mut link.known().absence;
    let is_same =
        |(node, revision): &(&String, &i64)| absence.nodes().get(*node) == Some(*revision);
    let same = nodes
        .iter()
        .filter(is_same)
        .map(|(node, _)| node.clone())
        .collect();
    absence.nodes_are(nodes);
    same
}

/// Objects of the store that etcd does not have: they are gone, unless they are endpoints of this node that went with a
/// lease, or of which etcd has yet to hear. Those of other nodes than `same` may have gone with theirs.
fn missing(link: &Link, listed: &BTreeSet<Name>, same: &BTreeSet<String>) -> Vec<Step> {
    let snapshot = link.store.snapshot();
    let was_lease_lost = lease::was_lost(link);
    let now = Instant::now();
    let mut gone = Vec::new();
    for object in intake::from_etcd(link) {
        let name = (object.kind(), object.key());
        if listed.contains(&name) {
            continue;
        }
        let node = &object.metadata().origin;
        let is_kept = if !matches!(object, Manifest::Endpoint(_)) || node.is_empty() {
            false
        } else if link.is_own(&snapshot, &name.1) {
            is_told_again(link, &name.1, was_lease_lost)
        } else {
            let absence = &mut link.known().absence;
            absence.keeps(&name.1, same.contains(node), now)
        };
        if !is_kept {
            gone.push(Step::Delete { name, revision: 0 });
        }
    }
    gone
}

/// Whether an endpoint of this node that etcd does not have is told to it again.
fn is_told_again(link: &Link, key: &ObjectKey, was_lease_lost: bool) -> bool {
    let word = link.outbox().word(key);
    match word {
        Some(word) => return word == Word::Put,
        None if !was_lease_lost => return false,
        None => {}
    }
    // A full outbox drains while etcd is there.
    link.post(key, Word::Put).is_ok()
}

/// Endpoints that etcd has as those of this node and the node does not have: it has let them go while etcd was away.
fn disown(link: &Link, steps: &[Step]) {
    let snapshot = link.store.snapshot();
    // A store that was lost says nothing about what it has let go.
    if !has_shared(&snapshot) {
        return;
    }
    for step in steps {
        let Step::Put { name, shared, .. } = step else {
            continue;
        };
        let (kind, key) = name;
        let is_ours = *kind == Kind::Endpoint && shared.node == link.node;
        if is_ours && !snapshot.endpoints.contains_key(key) && link.outbox().word(key).is_none() {
            // Where there is no room it is found again with the next list.
            drop(link.post(key, Word::Delete));
        }
    }
}
