//! Asks endpoints whether they are well, where a policy wants it, and tells the registry how they are.
//!
//! One task on the control runtime, never on the threads of the data plane: it keeps what is known of each endpoint,
//! starts checks when they are due, and writes when the word for an endpoint changes.

mod places;
mod probe;
mod subject;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::{JoinSet, spawn_blocking};
use tokio::time::{Instant, MissedTickBehavior, interval};

use self::places::Places;
use self::probe::{Probe, Seen};
use self::subject::Subject;
use super::Proxy;
use super::view::{ServicePort, View};
use crate::state::Change;
use crate::state::Refusal;
use crate::state::Snapshot;
use crate::state::Store;
use crate::state::check::OBSERVED;
use crate::state::endpoint;
use crate::state::endpoint::{Health, HealthStatus};
use crate::state::id::Subject as Numbered;
use crate::state::object::ObjectKey;
use crate::state::service::Protocol;
use crate::state::source::{Origin, Source};
use crate::state::traffic_policy::health::HealthCheck;

/// How often it is looked which checks are due.
const TICK: Duration = Duration::from_millis(50);
/// Checks that may run at a time; others wait for their turn.
const MAX_RUNNING: usize = 64;
/// How long the registry is left alone that could not be written.
const PAUSE: Duration = Duration::from_secs(5);

/// Whom a check was for, the words that it was made by, and what it has shown.
type Done = (ObjectKey, Arc<Probe>, Seen);

/// All that is asked.
#[derive(Default)]
struct Checks {
    /// The view that the subjects are of.
    view: Option<Arc<View>>,
    subjects: HashMap<ObjectKey, Subject>,
    running: JoinSet<Done>,
    places: Places,
    /// Those who are watched no more, and of whom the registry still has a word.
    forgotten: Vec<ObjectKey>,
    /// The registry could not be written, and is told nothing before.
    paused_until: Option<Instant>,
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
            let store = Arc::clone(store);
            checks.tell(move |news| write(&store, news)).await;
        }
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
        self.places.renew(proxy);
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
                    let places = self.places.of(&snapshot, endpoint);
                    let table = &proxy.shared.table;
                    subject.asked(Probe::new(table, check, port, endpoint, places));
                }
            }
        }
        for (key, subject) in self.subjects.drain() {
            subject.give_up();
            self.forgotten.push(key);
        }
        if self.view.is_none() {
            let left = abandoned(&snapshot, |key| next.contains_key(key));
            self.forgotten.extend(left);
        }
        self.forgotten.retain(|key| !next.contains_key(key));
        for subject in next.values_mut() {
            subject.settle();
        }
        self.subjects = next;
        self.view = Some(view);
    }

    /// Starts the checks that are due: who has waited longest goes first, so that nobody is kept out by many who hang.
    fn start(&mut self) {
        let room = MAX_RUNNING.saturating_sub(self.running.len());
        if room == 0 {
            return;
        }
        let now = Instant::now();
        let subjects = self.subjects.iter_mut();
        let mut due: Vec<_> = subjects
            .filter_map(|(key, subject)| Some((subject.due(now)?, key, subject)))
            .collect();
        due.sort_unstable_by_key(|(since, ..)| *since);
        for (_, key, subject) in due.into_iter().take(room) {
            if let Some(probe) = subject.start() {
                let (key, probe) = (key.clone(), Arc::clone(probe));
                self.running.spawn(async move {
                    let seen = probe.run().await;
                    (key, probe, seen)
                });
            }
        }
    }

    /// A check has ended.
    fn ended(&mut self, proxy: &Proxy, (key, probe, seen): Done) {
        proxy.shared.metrics.checked(seen.outcome());
        if let Seen::Nothing(why) = &seen {
            tracing::warn!(endpoint = %key, why, "endpoint cannot be asked");
        }
        // Who is watched no more, or by other words now, is not judged by the old ones.
        let Some(subject) = self.subjects.get_mut(&key) else {
            return;
        };
        if let Some(is_well) = subject.ended(&probe, seen, rand::random()) {
            let output = subject.output();
            if is_well {
                tracing::info!(endpoint = %key, output, "endpoint is well");
            } else {
                tracing::warn!(endpoint = %key, output, "endpoint is unwell");
            }
        }
    }

    /// Tells the registry of those whose word has changed, by `write`. Where it fails, all is told again after a pause.
    async fn tell<W>(&mut self, write: W)
    where
        W: FnOnce(Vec<Change>) -> Result<(), Refusal> + Send + 'static,
    {
        let now = Instant::now();
        if self.paused_until.is_some_and(|until| now < until) {
            return;
        }
        let forgotten = self.forgotten.drain(..);
        let mut news: Vec<(ObjectKey, Option<Health>)> = forgotten.map(|key| (key, None)).collect();
        for (key, subject) in &mut self.subjects {
            let health = subject.news(now);
            news.extend(health.map(|health| (key.clone(), Some(health))));
        }
        if news.is_empty() {
            return;
        }
        let keys: Vec<ObjectKey> = news.iter().map(|(key, _)| key.clone()).collect();
        let changes = news.into_iter();
        let changes = changes.map(|(key, health)| Change::Health { key, health });
        let changes = changes.collect();
        // A write may wait for the disk.
        let error = match spawn_blocking(move || write(changes)).await {
            Ok(Ok(())) => return,
            Ok(Err(refusal)) => refusal.to_string(),
            Err(error) => error.to_string(),
        };
        tracing::warn!(error, "cannot tell the registry how endpoints are");
        self.paused_until = Some(Instant::now() + PAUSE);
        for key in keys {
            match self.subjects.get_mut(&key) {
                Some(subject) => subject.untold(),
                None => self.forgotten.push(key),
            }
        }
    }
}

/// Writes all of it, or nothing.
fn write(store: &Store, news: Vec<Change>) -> Result<(), Refusal> {
    let news = news.into_iter();
    let written = store.apply_all(news.map(|change| (Origin::from(Source::Api), change)));
    written.into_iter().try_for_each(|it| it.map(drop))
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
fn abandoned(snapshot: &Snapshot, is_watched: impl Fn(&ObjectKey) -> bool) -> Vec<ObjectKey> {
    let endpoints = snapshot.endpoints.iter();
    let left = endpoints.filter(|(key, it)| !is_watched(key) && seen(it).is_some());
    left.map(|(key, _)| key.clone()).collect()
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

#[cfg(test)]
mod tests;
