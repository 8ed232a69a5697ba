//! Room in `STATS`: the map outlives agents and objects, and a counter that finds it full is not counted.

use std::collections::{BTreeMap, BTreeSet};

use mesh_common::stats::{Counter, StatKey};

use super::{TableError, Tables};
use crate::state::Snapshot;
use crate::state::id::Subject;

/// Makes the counter of lost counts, if it is not there: once the map is full it could not be made.
pub(super) fn reserve(tables: &Tables) -> Result<(), TableError> {
    match tables.stats.insert_new(&StatKey::LOST, 0) {
        Err(TableError::Exists { .. }) => Ok(()),
        result => result,
    }
}

/// Forgets the counters of objects that are gone, once the map is half full, so that those of new objects find room.
/// What is exported whether its object exists or not is kept under [`StatKey::GONE`]: a sum never falls. Returns how many
/// were forgotten.
pub fn prune(tables: &Tables, snapshot: &Snapshot) -> Result<usize, TableError> {
    let keys = tables.stats.keys()?;
    if keys.len() < tables.stats.capacity() as usize / 2 {
        return Ok(0);
    }
    let gone = gone(keys, snapshot);
    if gone.is_empty() {
        return Ok(0);
    }
    let mut sums: BTreeMap<StatKey, u64> = BTreeMap::new();
    for key in &gone {
        let count = tables.stats.get(key)?.unwrap_or_default();
        tables.stats.remove(key)?;
        if let Some(heir) = heir(*key) {
            *sums.entry(heir).or_default() += count;
        }
    }
    for (heir, count) in sums {
        let known = tables.stats.get(&heir)?.unwrap_or_default();
        tables.stats.insert(&heir, known + count)?;
    }
    // The map may have been full when the agent started.
    reserve(tables)?;
    Ok(gone.len())
}

/// The counters of what is neither a workload nor a service any more.
fn gone(keys: Vec<StatKey>, snapshot: &Snapshot) -> Vec<StatKey> {
    let workloads = snapshot.workloads.keys().cloned().map(Subject::Workload);
    let services = snapshot.services.keys().cloned().map(Subject::Service);
    let known: BTreeSet<u32> = workloads
        .chain(services)
        .map(|subject| snapshot.ids.number(&subject))
        .chain([0, StatKey::GONE])
        .collect();
    let mut keys = keys;
    keys.retain(|key| !known.contains(&key.subject));
    keys
}

/// Where a count goes on when its object is gone; `None` for what is told of workloads that exist only.
const fn heir(key: StatKey) -> Option<StatKey> {
    const FIRST: u16 = Counter::AcceleratedBytes as u16;
    const LAST: u16 = Counter::MapFull as u16;
    match key.counter {
        FIRST..=LAST => Some(StatKey {
            subject: StatKey::GONE,
            ..key
        }),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use mesh_common::verdict::Reason;
    use serde_json::json;

    use super::*;
    use crate::state::object::ObjectKey;
    use crate::traffic::fixture::Fixture;

    fn stat(subject: u32, counter: Counter) -> StatKey {
        StatKey {
            subject,
            counter: counter as u16,
            reason: Reason::None as u16,
        }
    }

    #[test]
    fn counters_of_objects_that_exist_stay() {
        let snapshot = Fixture::default()
            .workload("client", &json!({"netns": "/run/netns/client"}))
            .service("web", &json!({"ports": [{"name": "http", "port": 80}]}))
            .snapshot();
        let client = Subject::Workload(ObjectKey::new("shop", "client"));
        let web = Subject::Service(ObjectKey::new("shop", "web"));
        let [client, web] = [client, web].map(|subject| snapshot.ids.number(&subject));
        let kept = [
            StatKey::LOST,
            stat(0, Counter::MapFull),
            stat(client, Counter::Deny),
            stat(web, Counter::AcceleratedBytes),
            stat(StatKey::GONE, Counter::AcceleratedBytes),
        ];
        let old = [
            stat(9_998, Counter::Deny),
            stat(9_999, Counter::AcceleratedBytes),
        ];
        assert_eq!(gone([kept.as_slice(), &old].concat(), &snapshot), old);
    }

    #[test]
    fn what_is_told_without_its_object_is_kept() {
        for counter in [
            Counter::AcceleratedBytes,
            Counter::AccelerationFallback,
            Counter::EventLost,
            Counter::MapFull,
        ] {
            let heir = heir(stat(7, counter));
            assert_eq!(heir, Some(stat(StatKey::GONE, counter)));
        }
        for counter in [Counter::Pass, Counter::Bypass, Counter::InboundDeny] {
            assert_eq!(heir(stat(7, counter)), None, "{counter:?}");
        }
    }
}
