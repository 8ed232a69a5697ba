//! Who was seen to call whom: what the kernel tells of connections, what is open now, and what the proxy counts of requests.

use std::sync::Arc;

use crate::metrics::Registry;
use crate::proxy::Proxy;
use crate::registry::edges::Edges;
use crate::registry::metrics;
use crate::state::Store;
use crate::state::graph::{self, Observed};
use crate::state::object::ObjectKey;
use crate::state::report::Connection;

/// Everything that was seen, but for what is open now; with the number of connections that were not told apart.
pub(super) fn observed(store: &Store, edges: &Edges, proxy: &Proxy) -> (Observed, u64) {
    let (mut observed, uncounted) = edges.read(&store.snapshot());
    for (pair, traffic) in proxy.edges() {
        observed.entry(pair).or_default().add(&traffic);
    }
    (observed, uncounted)
}

/// Adds connections that are open.
pub(super) fn add_open(observed: &mut Observed, connections: &[Connection]) {
    for it in connections.iter().filter(|it| !it.closed) {
        let service = it.service.as_deref().and_then(key_of);
        if let (Some(workload), Some(service)) = (key_of(&it.source.workload), service) {
            observed.entry((workload, service)).or_default().open += 1;
        }
    }
}

/// Begins to look, and registers what is seen and not declared.
pub(super) fn register(registry: &mut Registry, store: &Arc<Store>, proxy: &Arc<Proxy>) -> Edges {
    let edges = Edges::default();
    let (store, proxy, seen) = (Arc::clone(store), Arc::clone(proxy), edges.clone());
    metrics::register_edges(registry, move || {
        let (observed, _) = observed(&store, &seen, &proxy);
        graph::undeclared(&store.snapshot(), &observed)
    });
    edges
}

fn key_of(text: &str) -> Option<ObjectKey> {
    let (namespace, name) = text.split_once('/')?;
    Some(ObjectKey::new(namespace, name))
}
