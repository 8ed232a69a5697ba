//! Which workload was seen to connect to which service, as the kernel tells of connections that end or are refused.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use mesh_common::verdict::Verdict;

use crate::state::Snapshot;
use crate::state::graph::{Observed, Traffic};
use crate::state::object::ObjectKey;

/// Pairs that are told apart. More are counted together, as a number without names.
const MAX_PAIRS: usize = 10_000;

/// What was seen. Cheap to clone; all clones are the same.
#[derive(Clone, Debug, Default)]
pub struct Edges(Arc<Mutex<Table>>);

#[derive(Debug, Default)]
struct Table {
    /// By workload, then by service. Nested, so that looking up needs no new key.
    seen: BTreeMap<ObjectKey, BTreeMap<ObjectKey, BTreeMap<&'static str, u64>>>,
    pairs: usize,
    uncounted: u64,
}

impl Edges {
    /// Counts a connection.
    pub fn count(&self, workload: &ObjectKey, service: &ObjectKey, verdict: Verdict) {
        let mut table = self.lock();
        let counts = table.seen.get_mut(workload);
        if let Some(counts) = counts.and_then(|services| services.get_mut(service)) {
            *counts.entry(verdict.as_str()).or_default() += 1;
            return;
        }
        if table.pairs >= MAX_PAIRS {
            table.uncounted += 1;
            return;
        }
        table.pairs += 1;
        let services = table.seen.entry(workload.clone()).or_default();
        let counts = BTreeMap::from([(verdict.as_str(), 1)]);
        services.insert(service.clone(), counts);
    }

    /// What was seen of workloads and services that exist, and how many connections were not told apart. What does not exist
    /// any more is forgotten.
    #[must_use]
    pub fn read(&self, snapshot: &Snapshot) -> (Observed, u64) {
        let mut table = self.lock();
        table.forget(snapshot);
        let pairs = table.seen.iter().flat_map(|(workload, services)| {
            let services = services.iter();
            services.map(move |(service, counts)| (workload, service, counts))
        });
        let observed = pairs.map(|(workload, service, counts)| {
            let connections = counts
                .iter()
                .map(|(verdict, count)| ((*verdict).to_owned(), *count));
            let traffic = Traffic {
                connections: connections.collect(),
                ..Traffic::default()
            };
            ((workload.clone(), service.clone()), traffic)
        });
        (observed.collect(), table.uncounted)
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Table {
    fn forget(&mut self, snapshot: &Snapshot) {
        for services in self.seen.values_mut() {
            services.retain(|service, _| snapshot.services.contains_key(service));
        }
        self.seen.retain(|workload, services| {
            !services.is_empty() && snapshot.workloads.contains_key(workload)
        });
        self.pairs = self.seen.values().map(BTreeMap::len).sum();
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::state::object::Kind;
    use crate::state::{Change, Store, decode};

    fn key(name: &str) -> ObjectKey {
        ObjectKey::new("shop", name)
    }

    fn store() -> Store {
        let store = Store::in_memory();
        for (kind, name, spec) in [
            (
                Kind::Service,
                "web",
                json!({"ports": [{"name": "http", "port": 80}]}),
            ),
            (Kind::Workload, "client", json!({"netns": "/run/netns/a"})),
        ] {
            let document = json!({ "spec": spec });
            let manifest = decode::manifest(kind, &key(name), document).expect("it is right");
            store.apply(Change::Put(manifest)).expect("it is right");
        }
        store
    }

    #[test]
    fn connections_are_counted_by_pair_and_verdict() {
        let edges = Edges::default();
        let (client, web) = (key("client"), key("web"));
        edges.count(&client, &web, Verdict::Proxy);
        edges.count(&client, &web, Verdict::Proxy);
        edges.count(&client, &web, Verdict::Deny);
        edges.count(&client, &key("gone"), Verdict::Direct);

        let (observed, uncounted) = edges.read(&store().snapshot());

        assert_eq!(
            (observed.len(), uncounted),
            (1, 0),
            "what is gone is forgotten"
        );
        let counts = &observed[&(client, web)].connections;
        assert_eq!((counts["proxy"], counts["deny"]), (2, 1));
    }

    #[test]
    fn pairs_beyond_the_limit_are_counted_together_until_there_is_room() {
        let edges = Edges::default();
        for number in 0..MAX_PAIRS + 3 {
            edges.count(&key("client"), &key(&number.to_string()), Verdict::Direct);
        }
        let snapshot = store().snapshot();
        assert_eq!(edges.read(&snapshot).1, 3);
        edges.count(&key("client"), &key("web"), Verdict::Direct);
        let (observed, uncounted) = edges.read(&snapshot);
        assert_eq!((observed.len(), uncounted), (1, 3));
    }
}
