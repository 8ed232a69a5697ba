//! The way of a change that somebody asks for: to the store, or first to the registry that several nodes share.

use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::{mpsc, oneshot};
use tokio::task::spawn_blocking;

use super::object::{Kind, Metadata};
use super::source::Source;
use super::{Applied, Change, Manifest, Refusal, Store};

/// Changes that may wait for the shared registry; more are refused.
pub const MAX_WISHES: usize = 1024;

/// How long a change may wait for the shared registry before it is refused: more than all its own deadlines together.
const DEADLINE: Duration = Duration::from_secs(15);

/// Makes changes that the API, or whoever acts for it, asks for.
#[derive(Clone)]
pub struct Writer {
    store: Arc<Store>,
    shared: Option<Shared>,
}

/// The way to the shared registry.
#[derive(Clone)]
struct Shared {
    wishes: mpsc::Sender<Wish>,
    /// The name of this node there.
    node: Arc<str>,
}

/// A change that is to be made in the shared registry.
pub struct Wish {
    /// What is wanted.
    pub change: Change,
    /// Where the answer goes.
    pub answer: oneshot::Sender<Result<Applied, Refusal>>,
}

impl Writer {
    /// Writes to the store of this node.
    #[must_use]
    pub const fn local(store: Arc<Store>) -> Self {
        Self {
            store,
            shared: None,
        }
    }

    /// Writes what all nodes share by way of `wishes`, and the rest to the store of this node, whose name is `node`.
    #[must_use]
    pub fn shared(store: Arc<Store>, wishes: mpsc::Sender<Wish>, node: &str) -> Self {
        let node = Arc::from(node);
        Self {
            store,
            shared: Some(Shared { wishes, node }),
        }
    }

    /// Whether this node answers for an object: runs its checks, and deletes it when its time has come. Where several
    /// nodes share a registry, an endpoint is the business of the one that has registered it.
    #[must_use]
    pub fn is_responsible(&self, metadata: &Metadata) -> bool {
        let node = self.shared.as_ref().map(|it| &*it.node);
        metadata.source != Source::Etcd
            || metadata.origin.is_empty()
            || node.is_none_or(|node| node == metadata.origin)
    }

    /// Makes a change, or refuses it and touches nothing. Returns once the store of this node has it.
    pub async fn apply(&self, change: Change) -> Result<Applied, Refusal> {
        match &self.shared {
            Some(shared) if is_shared(&change) => wish(&shared.wishes, change).await,
            _ => {
                let store = Arc::clone(&self.store);
                let applied = spawn_blocking(move || store.apply(change)).await;
                applied.unwrap_or_else(|error| Err(Refusal::Storage(error.to_string())))
            }
        }
    }

    /// What would come of a change. Nothing is written, and nobody else is asked.
    pub fn rehearse(&self, change: Change) -> Result<Applied, Refusal> {
        let source = if self.shared.is_some() && is_shared(&change) {
            Source::Etcd
        } else {
            Source::Api
        };
        let (applied, _) = self.store.preview(&source.into(), change)?;
        Ok(applied)
    }

    /// The same as `apply` for threads that may block (those of `spawn_blocking`), and for nothing else.
    pub fn apply_blocking(&self, change: Change) -> Result<Applied, Refusal> {
        if self.shared.is_none() || !is_shared(&change) {
            return self.store.apply(change);
        }
        Handle::current().block_on(self.apply(change))
    }
}

async fn wish(wishes: &mpsc::Sender<Wish>, change: Change) -> Result<Applied, Refusal> {
    let (answer, answered) = oneshot::channel();
    if wishes.try_send(Wish { change, answer }).is_err() {
        let message = format!("more than {MAX_WISHES} changes wait for the shared registry");
        return Err(Refusal::Unavailable(message));
    }
    match tokio::time::timeout(DEADLINE, answered).await {
        Ok(Ok(applied)) => applied,
        Ok(Err(_)) | Err(_) => Err(Refusal::Unavailable(
            "the shared registry has not answered in time; the change may still be made".to_owned(),
        )),
    }
}

/// Whether all nodes have the object. Workloads are those of one node, as are the addresses that it has found for a name,
/// and status is told by who finds it out.
fn is_shared(change: &Change) -> bool {
    match change {
        Change::Put(Manifest::Endpoint(endpoint)) if endpoint.resolved_for().is_some() => false,
        Change::Put(manifest) => is_shared_kind(manifest.kind()),
        Change::Delete { kind, .. } => is_shared_kind(*kind),
        Change::Condition { .. } | Change::Check { .. } | Change::Health { .. } => false,
    }
}

/// Whether objects of a kind are those of all nodes.
#[must_use]
pub const fn is_shared_kind(kind: Kind) -> bool {
    !matches!(kind, Kind::Workload)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::state::decode;
    use crate::state::object::ObjectKey;

    fn put(kind: Kind, spec: &serde_json::Value) -> Change {
        let key = ObjectKey::new("shop", "web");
        let document = json!({"metadata": {"name": "web", "namespace": "shop"}, "spec": spec});
        Change::Put(decode::manifest(kind, &key, document).unwrap())
    }

    #[tokio::test]
    async fn workloads_stay_on_the_node_and_services_go_to_the_shared_registry() {
        let store = Arc::new(Store::in_memory());
        let (sender, mut wishes) = mpsc::channel(1);
        let writer = Writer::shared(Arc::clone(&store), sender, "a");
        let workload = put(
            Kind::Workload,
            &json!({"netns": "/run/netns/a", "serviceAccount": "a"}),
        );
        writer.apply(workload).await.unwrap();
        assert_eq!(store.snapshot().workloads.len(), 1);

        let service = put(
            Kind::Service,
            &json!({"ports": [{"name": "http", "port": 80}]}),
        );
        let (applied, wish) = tokio::join!(writer.apply(service), async {
            let wish = wishes.recv().await.unwrap();
            drop(wish.answer.send(Ok(Applied::Unchanged)));
            wish.change
        });

        assert_eq!(applied, Ok(Applied::Unchanged));
        assert!(matches!(wish, Change::Put(it) if it.kind() == Kind::Service));
        assert_eq!(store.snapshot().services.len(), 0, "it comes from there");
    }

    #[test]
    fn node_answers_for_what_it_has_registered() {
        let (sender, _wishes) = mpsc::channel(1);
        let store = Arc::new(Store::in_memory());
        let writer = Writer::shared(Arc::clone(&store), sender, "a");
        let metadata = |source, origin: &str| Metadata {
            source,
            origin: origin.to_owned(),
            ..Metadata::default()
        };
        assert!(writer.is_responsible(&metadata(Source::Etcd, "a")));
        assert!(!writer.is_responsible(&metadata(Source::Etcd, "b")));
        assert!(writer.is_responsible(&metadata(Source::Files, "b.yaml")));
        let alone = Writer::local(store);
        assert!(alone.is_responsible(&metadata(Source::Etcd, "b")));
    }

    #[tokio::test(start_paused = true)]
    async fn shared_registry_that_does_not_answer_refuses_in_time() {
        let (sender, _wishes) = mpsc::channel(1);
        let writer = Writer::shared(Arc::new(Store::in_memory()), sender, "a");
        let service = || {
            put(
                Kind::Service,
                &json!({"ports": [{"name": "http", "port": 80}]}),
            )
        };
        let (first, second) = tokio::join!(writer.apply(service()), writer.apply(service()));
        for refused in [first, second] {
            assert!(
                matches!(refused, Err(Refusal::Unavailable(_))),
                "{refused:?}"
            );
        }
    }
}
