//! The registry inside workloads that have access to it: a listener on 127.0.0.1 in the network namespace of each.

use std::collections::BTreeMap;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use tokio::runtime::Handle;
use tokio::task::{JoinSet, spawn_blocking};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::api::{Access, Scope};
use crate::net::netns::Netns;
use crate::net::socket;
use crate::state::object::{Condition, ConditionStatus, Kind, ObjectKey};
use crate::state::workload::Workload;
use crate::state::{Change, Snapshot};

use super::enrolment::ENROLLED;
use super::parts::Parts;

/// Where a workload reaches the registry.
const ADDRESS: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 15_000);

/// Time between two looks at who is enrolled.
const LOOK: Duration = Duration::from_millis(100);

/// The condition that says whether a workload reaches the registry.
const CONDITION: &str = "RegistryAccess";

/// What one workload is served.
struct Served {
    cookie: u64,
    scope: Scope,
    stop: CancellationToken,
    /// The same socket once more, for whoever serves with another scope.
    listener: TcpListener,
}

/// Keeps the listeners of all workloads.
#[derive(Default)]
struct Listeners {
    served: BTreeMap<ObjectKey, Served>,
    tasks: JoinSet<io::Result<()>>,
}

/// Listens where the registry says so, for as long as it is polled.
pub(super) async fn run(parts: Arc<Parts>, access: Access, api: Handle) -> Result<()> {
    let mut listeners = Listeners::default();
    loop {
        let wanted = wanted(&parts);
        listeners.end_unwanted(&wanted);
        for key in told_wrongly(&parts.node.store.snapshot(), |key| wanted.contains_key(key)) {
            tell(&parts, key, Outcome::NotGranted).await;
        }
        for (key, (netns, scope)) in wanted {
            if !listeners.is_served(&key, &scope) {
                let outcome = match listeners.add(&key, &netns, scope, (&access, &api)) {
                    Ok(()) => Outcome::Listening,
                    Err(error) => Outcome::Failed(error),
                };
                tell(&parts, key, outcome).await;
            }
        }
        while let Some(Ok(ended)) = listeners.tasks.try_join_next() {
            if let Err(error) = ended {
                tracing::warn!(%error, "the registry cannot be served inside a workload");
            }
        }
        sleep(LOOK).await;
    }
}

/// The workloads that are enrolled and have access, each with its namespace and what is its own.
fn wanted(parts: &Parts) -> BTreeMap<ObjectKey, (Arc<Netns>, Scope)> {
    let snapshot = parts.node.store.snapshot();
    let standing = parts.node.standing.load();
    let wanted = snapshot.workloads.iter().filter_map(|(key, workload)| {
        let netns = standing.netns.get(key)?;
        let spec = &workload.spec;
        let has_own = spec.netns.is_some() && netns.cookie() != parts.node.host.cookie();
        (spec.registry_access && has_own).then(|| {
            let scope = Scope {
                namespace: key.namespace.clone(),
                addresses: spec.addresses.clone(),
            };
            (key.clone(), (Arc::clone(netns), scope))
        })
    });
    wanted.collect()
}

/// The workloads that say they have access and have none, maybe since an earlier agent ran: it is not wanted, or they
/// are not enrolled. Of one that the agent has yet to enrol nothing is known.
fn told_wrongly(snapshot: &Snapshot, is_wanted: impl Fn(&ObjectKey) -> bool) -> Vec<ObjectKey> {
    let has = |workload: &Workload, kind: &str| {
        let mut conditions = workload.status.conditions.iter();
        conditions.any(|it| it.kind == kind && it.status == ConditionStatus::True)
    };
    let is_wrong = |(key, workload): &(&ObjectKey, &Arc<Workload>)| {
        let spec = &workload.spec;
        let may_have = spec.registry_access && spec.netns.is_some() && has(workload, ENROLLED);
        has(workload, CONDITION) && !is_wanted(key) && !may_have
    };
    let wrong = snapshot.workloads.iter().filter(is_wrong);
    wrong.map(|(key, _)| key.clone()).collect()
}

impl Listeners {
    /// Closes what is not wanted any more, or is wanted elsewhere.
    fn end_unwanted(&mut self, wanted: &BTreeMap<ObjectKey, (Arc<Netns>, Scope)>) {
        self.served.retain(|key, served| {
            let netns = wanted.get(key).map(|(netns, _)| netns);
            let is_wanted = netns.is_some_and(|netns| netns.cookie() == served.cookie);
            if !is_wanted {
                served.stop.cancel();
            }
            is_wanted
        });
    }

    fn is_served(&self, key: &ObjectKey, scope: &Scope) -> bool {
        let served = self.served.get(key);
        served.is_some_and(|it| it.scope == *scope)
    }

    /// Listens, or serves with another scope from now on what comes in where it listens already.
    fn add(
        &mut self,
        key: &ObjectKey,
        netns: &Arc<Netns>,
        scope: Scope,
        (access, api): (&Access, &Handle),
    ) -> io::Result<()> {
        let listener = match self.served.get(key) {
            Some(served) => served.listener.try_clone()?,
            None => socket::listen(netns, ADDRESS)?,
        };
        let stop = CancellationToken::new();
        let served = Served {
            cookie: netns.cookie(),
            scope: scope.clone(),
            stop: stop.clone(),
            listener: listener.try_clone()?,
        };
        let access = access.clone();
        let serving = async move { access.serve(listener, scope, stop).await };
        self.tasks.spawn_on(serving, api);
        if let Some(old) = self.served.insert(key.clone(), served) {
            old.stop.cancel();
        }
        Ok(())
    }
}

/// What came of the access of a workload.
enum Outcome {
    Listening,
    /// It is not enrolled any more, or has no access.
    NotGranted,
    Failed(io::Error),
}

/// Says in the object what came of it.
async fn tell(parts: &Arc<Parts>, key: ObjectKey, outcome: Outcome) {
    let (status, reason, message) = match outcome {
        Outcome::Listening => (ConditionStatus::True, CONDITION, String::new()),
        Outcome::NotGranted => (ConditionStatus::False, "NotGranted", String::new()),
        Outcome::Failed(error) => {
            let message = format!("cannot listen on {ADDRESS}: {error}");
            (ConditionStatus::False, "ListenFailed", message)
        }
    };
    let parts = Arc::clone(parts);
    let told = spawn_blocking(move || {
        let store = &parts.node.store;
        let generation = store.snapshot().workloads.get(&key)?.metadata.generation;
        let condition = Condition {
            kind: CONDITION.to_owned(),
            status,
            reason: reason.to_owned(),
            message,
            observed_generation: generation,
        };
        let kind = Kind::Workload;
        store
            .apply(Change::Condition {
                kind,
                key,
                condition,
            })
            .err()
    });
    if let Ok(Some(refusal)) = told.await {
        tracing::warn!(%refusal, "cannot record the access of a workload");
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::state::{Store, decode};

    fn put(store: &Store, name: &str, spec: &Value, conditions: &[(&str, ConditionStatus)]) {
        let key = ObjectKey::new("shop", name);
        let document = json!({ "spec": spec });
        let manifest = decode::manifest(Kind::Workload, &key, document).unwrap();
        store.apply(Change::Put(manifest)).unwrap();
        for (kind, status) in conditions {
            let condition = Condition {
                kind: (*kind).to_owned(),
                status: *status,
                reason: (*kind).to_owned(),
                message: String::new(),
                observed_generation: 1,
            };
            let (kind, key) = (Kind::Workload, key.clone());
            let change = Change::Condition {
                kind,
                key,
                condition,
            };
            store.apply(change).unwrap();
        }
    }

    #[test]
    fn access_that_is_gone_since_an_earlier_agent_is_taken_back() {
        use ConditionStatus::{False, True};
        let store = Store::in_memory();
        let spec = |access: bool, name: &str| json!({"netns": format!("/run/netns/{name}"), "registryAccess": access, "serviceAccount": "a"});
        let (has, enrolled) = ((CONDITION, True), (ENROLLED, True));
        put(&store, "revoked", &spec(false, "a"), &[has, enrolled]);
        put(&store, "left", &spec(true, "b"), &[has, (ENROLLED, False)]);
        put(&store, "later", &spec(true, "c"), &[has, enrolled]);
        put(
            &store,
            "served",
            &spec(true, "d"),
            &[has, (ENROLLED, False)],
        );
        put(
            &store,
            "told",
            &spec(false, "e"),
            &[(CONDITION, False), enrolled],
        );

        let wrong = told_wrongly(&store.snapshot(), |key| *key.name == *"served");

        let expected = ["left", "revoked"].map(|name| ObjectKey::new("shop", name));
        assert_eq!(wrong, expected);
    }
}
