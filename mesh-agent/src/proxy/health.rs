//! Asks endpoints whether they are well, where a policy wants it, and tells the registry how they are.
//!
//! One task on the control runtime, never on the threads of the data plane: it keeps what is known of each endpoint,
//! starts checks when they are due, and writes when the word for an endpoint changes.

mod probe;
mod subject;

use std::collections::HashMap;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use tokio::task::{JoinSet, spawn_blocking};
use tokio::time::{Instant, MissedTickBehavior, interval};

use self::probe::Probe;
use self::subject::Subject;
use super::Proxy;
use super::view::{Endpoint, ServicePort, View};
use crate::net::netns::Netns;
use crate::state::Change;
use crate::state::Snapshot;
use crate::state::Store;
use crate::state::check::OBSERVED;
use crate::state::endpoint;
use crate::state::endpoint::HealthStatus;
use crate::state::id::Subject as Numbered;
use crate::state::object::ObjectKey;
use crate::state::service::Protocol;
use crate::state::traffic_policy::health::HealthCheck;

/// How often it is looked which checks are due.
const TICK: Duration = Duration::from_millis(50);
/// Checks that may run at a time; others wait for their turn.
const MAX_RUNNING: usize = 64;

/// Whom a check was for, the words that it was made by, and what it has shown: good or bad, in a sentence.
type Done = (ObjectKey, Arc<Probe>, Result<String, String>);

/// All that is asked.
#[derive(Default)]
struct Checks {
    /// The view that the subjects are of.
    view: Option<Arc<View>>,
    subjects: HashMap<ObjectKey, Subject>,
    running: JoinSet<Done>,
    /// What the registry is to be told.
    news: Vec<Change>,
}

impl Proxy {
    /// Checks endpoints, and reports to `store`, for as long as it is polled.
    pub async fn check_health(&self, store: &Arc<Store>) {
        let mut ticks = interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut checks = Checks::default();
        loop {
            tokio::select! {
                _ = ticks.tick() => {
                    checks.follow(self, store);
                    checks.start();
                }
                Some(done) = checks.running.join_next() => {
                    if let Ok(done) = done {
                        checks.ended(self, done);
                    }
                }
            }
            checks.tell(store).await;
        }
    }

    /// The network namespace from which an endpoint is asked: that of its own workload, else that of a caller, else the
    /// agent's own.
    fn place_of(&self, snapshot: &Snapshot, endpoint: &Endpoint) -> Option<Arc<Netns>> {
        let own = endpoint.workload.as_ref().and_then(|workload| {
            let spec = &snapshot.workloads.get(&workload.key)?.spec;
            Netns::open(spec.netns.as_ref()?).ok().map(Arc::new)
        });
        let of_caller = || {
            let listeners = self
                .listeners
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            let places = listeners.values().map(|(_, netns)| netns);
            places.min_by_key(|netns| netns.cookie()).map(Arc::clone)
        };
        let is_here = endpoint.workload.is_some();
        own.or_else(|| if is_here { None } else { of_caller() })
            .or_else(|| Netns::current().ok().map(Arc::new))
    }
}

impl Checks {
    /// Takes over what the current view says of who is to be watched.
    fn follow(&mut self, proxy: &Proxy, store: &Store) {
        let view = Arc::clone(&proxy.shared.views.load());
        if self
            .view
            .as_ref()
            .is_some_and(|old| Arc::ptr_eq(old, &view))
        {
            return;
        }
        let snapshot = store.snapshot();
        let is_watched =
            |port: &ServicePort| port.policy.outliers.is_some() || check_of(port).is_some();
        let mut next: HashMap<ObjectKey, Subject> = HashMap::new();
        for port in view.governed_ports().filter(|port| is_watched(port)) {
            let check = check_of(port).filter(|check| is_asked(&snapshot, port, check));
            for endpoint in &port.endpoints {
                let subject = next.entry(endpoint.key.clone()).or_insert_with(|| {
                    self.subjects.remove(&endpoint.key).map_or_else(
                        || Subject::new(observed(&snapshot, &endpoint.key)),
                        Subject::renewed,
                    )
                });
                subject.lives.push(Arc::clone(&endpoint.live));
                if let Some(check) = check {
                    let place = proxy.place_of(&snapshot, endpoint);
                    let shared = &proxy.shared;
                    subject.asked(Probe::new(&shared.table, check, port, endpoint, place));
                }
            }
        }
        for (key, subject) in self.subjects.drain() {
            subject.give_up();
            self.news.push(Change::Health { key, health: None });
        }
        if self.view.is_none() {
            let left = abandoned(&snapshot, |key| next.contains_key(key));
            self.news.extend(left);
        }
        for subject in next.values_mut() {
            subject.settle();
        }
        self.subjects = next;
        self.view = Some(view);
    }

    /// Starts the checks that are due.
    fn start(&mut self) {
        let now = Instant::now();
        for (key, subject) in &mut self.subjects {
            if self.running.len() >= MAX_RUNNING {
                return;
            }
            if let Some(probe) = subject.start(now) {
                let (key, probe) = (key.clone(), Arc::clone(probe));
                self.running.spawn(async move {
                    let shown = probe.run().await;
                    (key, probe, shown)
                });
            }
        }
    }

    /// A check has ended.
    fn ended(&mut self, proxy: &Proxy, (key, probe, shown): Done) {
        proxy.shared.metrics.checked(shown.is_ok());
        // Who is watched no more, or by other words now, is not judged by the old ones.
        let Some(subject) = self.subjects.get_mut(&key) else {
            return;
        };
        if let Some(is_well) = subject.ended(&probe, shown, rand::random()) {
            let output = subject.output();
            if is_well {
                tracing::info!(endpoint = %key, output, "endpoint is well");
            } else {
                tracing::warn!(endpoint = %key, output, "endpoint is unwell");
            }
        }
    }

    /// Tells the registry of those whose word has changed.
    async fn tell(&mut self, store: &Arc<Store>) {
        let now = Instant::now();
        for (key, subject) in &mut self.subjects {
            let health = subject.news(now);
            self.news.extend(health.map(|health| Change::Health {
                key: key.clone(),
                health: Some(health),
            }));
        }
        if self.news.is_empty() {
            return;
        }
        let (store, news) = (Arc::clone(store), std::mem::take(&mut self.news));
        // A write may wait for the disk.
        let written = spawn_blocking(move || {
            for change in news {
                if let Err(error) = store.apply(change) {
                    tracing::warn!(%error, "cannot tell the registry how an endpoint is");
                }
            }
        });
        if let Err(error) = written.await {
            tracing::error!(%error, "the registry was not told how endpoints are");
        }
    }
}

/// How the policy of a port wants its endpoints checked.
fn check_of(port: &ServicePort) -> Option<&HealthCheck> {
    port.policy.object()?.spec.health_check.as_ref()
}

/// Whether this is the port of its service that is asked.
fn is_asked(snapshot: &Snapshot, port: &ServicePort, check: &HealthCheck) -> bool {
    let Some(service) = snapshot.services.get(&port.service) else {
        return false;
    };
    let mut ports = service.spec.ports.iter();
    let asked = ports.find(|it| match &check.port {
        Some(name) => it.name == *name,
        None => it.protocol != Protocol::Udp,
    });
    asked.is_some_and(|asked| {
        let subject = Numbered::Port(port.service.clone(), asked.name.clone());
        snapshot.ids.number(&subject) == port.number
    })
}

/// What an earlier agent has seen of endpoints that nobody watches any more.
fn abandoned(snapshot: &Snapshot, is_watched: impl Fn(&ObjectKey) -> bool) -> Vec<Change> {
    let endpoints = snapshot.endpoints.iter();
    let left = endpoints.filter(|(key, it)| !is_watched(key) && seen(it).is_some());
    left.map(|(key, _)| Change::Health {
        key: key.clone(),
        health: None,
    })
    .collect()
}

/// What the registry has of what was seen before.
fn observed(snapshot: &Snapshot, key: &ObjectKey) -> Option<HealthStatus> {
    seen(snapshot.endpoints.get(key)?)
}

fn seen(endpoint: &endpoint::Endpoint) -> Option<HealthStatus> {
    let mut checks = endpoint.status.checks.iter();
    let observed = checks.find(|it| it.id == OBSERVED)?;
    Some(observed.status)
}
