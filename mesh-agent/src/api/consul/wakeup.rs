//! Wakes the queries that wait: those whose answer a write may have changed, and no others.
//!
//! One task hears every write of the registry. So a write costs as many wake-ups as there are queries about its subject,
//! however many wait.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;
use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::RecvError;

use crate::state::object::ObjectKey;
use crate::state::{Manifest, Notice, Snapshot, Store};

/// What a query may be about.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Subject {
    /// A service, and its endpoints.
    Service(ObjectKey),
    /// All services.
    Services,
    /// All services and endpoints.
    All,
}

/// The queries that wait, by what they are about. As many as may wait at a time.
#[derive(Default)]
pub(in crate::api) struct Wakeup {
    waiting: Mutex<Waiting>,
}

#[derive(Default)]
struct Waiting {
    /// The number of the next query.
    next: u64,
    queries: HashMap<Subject, HashMap<u64, Arc<Notify>>>,
}

impl Wakeup {
    /// From now on a query hears of writes to its subjects. To be called before it looks at a snapshot: what is written
    /// in between wakes it at once.
    pub(super) fn hear(&self, subjects: Vec<Subject>) -> Hearing<'_> {
        let bell = Arc::new(Notify::new());
        let mut waiting = self.lock();
        let number = waiting.next;
        waiting.next += 1;
        for subject in &subjects {
            let queries = waiting.queries.entry(subject.clone()).or_default();
            queries.insert(number, Arc::clone(&bell));
        }
        drop(waiting);
        Hearing {
            wakeup: self,
            number,
            subjects,
            bell,
        }
    }

    /// Wakes whom the writes of a store concern, until it is gone.
    pub(in crate::api) async fn run(&self, store: &Store) {
        let mut notices = store.subscribe();
        let mut before = store.snapshot();
        while let Ok(notice) = self.next(&mut notices).await {
            // A notice comes after its snapshot. What an endpoint was before it moved is looked up in the one before.
            let now = store.snapshot();
            let mut last = notice;
            while let Some(notice) = &last {
                self.ring(notice, &before);
                if notice.revision >= now.revision {
                    break;
                }
                last = match self.next(&mut notices).await {
                    Ok(notice) => notice,
                    Err(_closed) => return,
                };
            }
            before = now;
        }
    }

    /// The next write; `None` after all were woken because some writes were missed.
    async fn next(&self, notices: &mut Receiver<Notice>) -> Result<Option<Notice>, RecvError> {
        match notices.recv().await {
            Ok(notice) => Ok(Some(notice)),
            Err(RecvError::Lagged(_)) => {
                let waiting = self.lock();
                let queries = waiting.queries.values().flat_map(HashMap::values);
                queries.for_each(|bell| bell.notify_one());
                Ok(None)
            }
            Err(closed) => Err(closed),
        }
    }

    fn ring(&self, notice: &Notice, before: &Snapshot) {
        let waiting = self.lock();
        if waiting.queries.is_empty() {
            return;
        }
        let ring = |subject: &Subject| {
            let queries = waiting.queries.get(subject).into_iter();
            queries
                .flat_map(HashMap::values)
                .for_each(|it| it.notify_one());
        };
        match &notice.object {
            Manifest::Service(service) => {
                ring(&Subject::Service(service.key()));
                ring(&Subject::Services);
                ring(&Subject::All);
            }
            Manifest::Endpoint(endpoint) => {
                let key = endpoint.key();
                let of = |service: &str| Subject::Service(ObjectKey::new(&key.namespace, service));
                ring(&of(&endpoint.spec.service));
                let old = before.endpoints.get(&key).map(|it| &it.spec.service);
                if let Some(old) = old.filter(|old| **old != endpoint.spec.service) {
                    ring(&of(old));
                }
                ring(&Subject::All);
            }
            _ => {}
        }
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A query that waits.
pub(super) struct Hearing<'a> {
    wakeup: &'a Wakeup,
    number: u64,
    subjects: Vec<Subject>,
    bell: Arc<Notify>,
}

impl Hearing<'_> {
    /// Returns after a write to one of the subjects. Many writes may be one.
    pub(super) async fn woken(&self) {
        self.bell.notified().await;
    }
}

impl Drop for Hearing<'_> {
    fn drop(&mut self) {
        let mut waiting = self.wakeup.lock();
        for subject in &self.subjects {
            if let Some(queries) = waiting.queries.get_mut(subject) {
                queries.remove(&self.number);
                if queries.is_empty() {
                    waiting.queries.remove(subject);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use serde_json::json;
    use tokio::time::timeout;

    use super::*;
    use crate::state::object::Kind;
    use crate::state::{Change, decode};

    fn put(store: &Store, kind: Kind, name: &str, spec: &serde_json::Value) {
        let key = ObjectKey::new("shop", name);
        let manifest = decode::manifest(kind, &key, json!({ "spec": spec })).expect("it is right");
        store.apply(Change::Put(manifest)).expect("it is right");
    }

    fn service(name: &str) -> Subject {
        Subject::Service(ObjectKey::new("shop", name))
    }

    async fn is_woken(hearing: &Hearing<'_>) -> bool {
        timeout(Duration::from_secs(5), hearing.woken())
            .await
            .is_ok()
    }

    #[tokio::test(start_paused = true)]
    async fn a_write_wakes_those_who_ask_for_its_subject() {
        let store = Arc::new(Store::in_memory());
        let wakeup = Arc::new(Wakeup::default());
        let task = tokio::spawn({
            let (store, wakeup) = (Arc::clone(&store), Arc::clone(&wakeup));
            async move { wakeup.run(&store).await }
        });
        // The task has subscribed.
        tokio::task::yield_now().await;
        let [web, api, services, all] = [
            service("web"),
            service("api"),
            Subject::Services,
            Subject::All,
        ]
        .map(|it| wakeup.hear(vec![it]));

        let endpoint = |service: &str| json!({"service": service, "address": "10.0.0.1"});
        put(&store, Kind::Endpoint, "one", &endpoint("web"));
        assert!(is_woken(&web).await && is_woken(&all).await);
        assert!(!is_woken(&api).await && !is_woken(&services).await);

        put(&store, Kind::Endpoint, "one", &endpoint("api"));
        assert!(is_woken(&api).await, "it has come here");
        assert!(is_woken(&web).await, "it has gone from here");

        put(
            &store,
            Kind::Service,
            "api",
            &json!({"portless": true, "ports": []}),
        );
        assert!(is_woken(&api).await && is_woken(&services).await);
        assert!(!is_woken(&web).await);

        drop((web, api, services, all));
        assert!(wakeup.lock().queries.is_empty());
        task.abort();
    }
}
