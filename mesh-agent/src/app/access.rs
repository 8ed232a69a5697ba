//! The registry inside workloads that have access to it: a listener on 127.0.0.1 in the network namespace of each.

use std::collections::BTreeMap;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
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
use crate::state::Change;
use crate::state::object::{Condition, ConditionStatus, Kind, ObjectKey};

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
        for key in listeners.end_unwanted(&wanted) {
            let is_granted = wanted.contains_key(&key);
            if !is_granted {
                tell(&parts, key, Outcome::NotGranted).await;
            }
        }
        for (key, (netns, scope)) in wanted {
            if !listeners.served.contains_key(&key) {
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

impl Listeners {
    /// Closes what is not wanted as it is, and says whose it was.
    fn end_unwanted(
        &mut self,
        wanted: &BTreeMap<ObjectKey, (Arc<Netns>, Scope)>,
    ) -> Vec<ObjectKey> {
        let is_wanted = |key: &ObjectKey, served: &Served| {
            wanted.get(key).is_some_and(|(netns, scope)| {
                netns.cookie() == served.cookie && *scope == served.scope
            })
        };
        let mut gone = Vec::new();
        self.served.retain(|key, served| {
            let is_wanted = is_wanted(key, served);
            if !is_wanted {
                served.stop.cancel();
                gone.push(key.clone());
            }
            is_wanted
        });
        gone
    }

    fn add(
        &mut self,
        key: &ObjectKey,
        netns: &Arc<Netns>,
        scope: Scope,
        (access, api): (&Access, &Handle),
    ) -> io::Result<()> {
        let listener = socket::listen(netns, ADDRESS)?;
        let stop = CancellationToken::new();
        let served = Served {
            cookie: netns.cookie(),
            scope: scope.clone(),
            stop: stop.clone(),
        };
        self.served.insert(key.clone(), served);
        let access = access.clone();
        let serving = async move { access.serve(listener, scope, stop).await };
        self.tasks.spawn_on(serving, api);
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
