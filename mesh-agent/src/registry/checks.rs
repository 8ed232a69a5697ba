//! Runs the checks of registrations: waits for heartbeats, asks endpoints, follows others; and takes endpoints out that
//! have been critical for too long or have finished draining.
//!
//! One task keeps an agenda, and starts what is due. It reads of endpoints from the store's notices, so a write costs
//! what it changes and not what the registry holds.

mod agenda;
pub mod heartbeat;
mod job;
mod lane;
mod leaver;
mod metrics;
mod target;
mod trust;

use std::sync::Arc;
use std::time::Duration;

pub use self::trust::Trust;

use tokio::sync::broadcast::error::RecvError;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

use self::agenda::{Agenda, Task};
use self::heartbeat::Heartbeats;
use self::job::{Job, Told};
use self::lane::Slot;
use self::leaver::Leaver;
use self::metrics::Metrics;
use crate::metrics::Registry;
use crate::net::conn::ConnTable;
use crate::net::netns::Netns;
use crate::state::Change;
use crate::state::Store;
use crate::state::endpoint::{Endpoint, HealthStatus};
use crate::state::object::{Metadata, ObjectKey};
use crate::state::{Applied, Manifest, Notice, Refusal};
use crate::traffic::health::streak::Streak;

/// An endpoint, and the id of one of its checks.
pub type CheckId = (ObjectKey, String);
/// Where changes go.
pub type Write = Arc<dyn Fn(Change) -> Result<Applied, Refusal> + Send + Sync>;
/// Whether this node answers for the object with that metadata.
pub type Ours = Arc<dyn Fn(&Metadata) -> bool + Send + Sync>;
/// Whether connections or requests of this node are under way at an endpoint. May block for a short while.
pub type Busy = Arc<dyn Fn(&ObjectKey) -> bool + Send + Sync>;

/// How long a draining endpoint stays at least: kernel and proxy have taken it out by then, so nobody comes any more.
const SETTLING: Duration = Duration::from_secs(1);
/// How often it is looked whether a draining endpoint has finished.
const LOOK: Duration = Duration::from_millis(250);
/// The same of one that may take as long as it needs.
const SLOW_LOOK: Duration = Duration::from_secs(5);
/// Pause before a write that failed is tried again.
const AGAIN: Duration = Duration::from_secs(1);

/// What checks are run with.
pub struct Config {
    /// The registry.
    pub store: Arc<Store>,
    /// Where changes go.
    pub write: Write,
    /// Whether this node answers for an endpoint, where several share a registry.
    pub is_ours: Ours,
    /// Where sockets of the agent are marked.
    pub table: Arc<dyn ConnTable>,
    /// The agent's own network namespace.
    pub host: Arc<Netns>,
    /// Whom checks over TLS believe.
    pub trust: Arc<Trust>,
    /// Name of this node: endpoints that run on another are checked there.
    pub node: Option<String>,
    /// Who has something to do.
    pub busy: Busy,
}

/// The checks of all registrations.
pub struct Checks {
    config: Config,
    heartbeats: Arc<Heartbeats>,
    metrics: Metrics,
}

/// What came of a task.
enum Done {
    /// A check has been made: how many in a row, and what was told of it.
    Checked {
        id: CheckId,
        turn: u64,
        streak: Streak,
        told: Option<Told>,
        pause: Option<Duration>,
    },
    /// A look at an endpoint that may leave: when to look again.
    Looked { task: Task, pause: Option<Duration> },
}

impl Checks {
    /// Registers the metrics. Nothing runs yet.
    pub fn new(config: Config, registry: &mut Registry) -> Self {
        Self {
            heartbeats: Arc::new(Heartbeats::new(Arc::clone(&config.write))),
            metrics: Metrics::register(registry),
            config,
        }
    }

    /// Where endpoints say how they are.
    #[must_use]
    pub fn heartbeats(&self) -> Arc<Heartbeats> {
        Arc::clone(&self.heartbeats)
    }

    /// Runs until the store is gone.
    pub async fn run(&self) {
        let mut notices = self.config.store.subscribe();
        let mut agenda = Agenda::default();
        let mut running = JoinSet::new();
        self.load(&mut agenda);
        loop {
            while let Some((task, slot)) = agenda.take_due(Instant::now()) {
                self.start(&agenda, task, slot, &mut running);
            }
            let next = agenda.next().unwrap_or_else(|| Instant::now() + LOOK);
            tokio::select! {
                notice = notices.recv() => match notice {
                    Ok(notice) => self.hear(&mut agenda, &notice),
                    Err(RecvError::Lagged(_)) => self.load(&mut agenda),
                    Err(RecvError::Closed) => return,
                },
                Some(done) = running.join_next() => match done {
                    Ok(done) => end(&mut agenda, done),
                    Err(error) => tracing::error!(%error, "a check has failed inside the agent"),
                },
                () = sleep_until(next) => {}
            }
        }
    }

    /// Whether an endpoint is checked here.
    fn is_mine(&self, endpoint: &Endpoint) -> bool {
        let node = endpoint
            .spec
            .locality
            .as_ref()
            .and_then(|it| it.node.as_ref());
        // What this node has found for a name is its own.
        let is_found = endpoint.resolved_for().is_some();
        let is_here = node.is_none() || node == self.config.node.as_ref() || is_found;
        is_here && (self.config.is_ours)(&endpoint.metadata)
    }

    /// Takes up everything that is there.
    fn load(&self, agenda: &mut Agenda) {
        let snapshot = self.config.store.snapshot();
        for gone in agenda.endpoints_without(|key| snapshot.endpoints.contains_key(key)) {
            self.forget(agenda, &gone);
        }
        for endpoint in snapshot.endpoints.values() {
            self.follow(agenda, endpoint);
        }
    }

    fn hear(&self, agenda: &mut Agenda, notice: &Notice) {
        use crate::state::change::NoticeKind::Deleted;
        match &notice.object {
            Manifest::Endpoint(endpoint) => {
                if notice.event == Deleted {
                    self.forget(agenda, &endpoint.key());
                    // Also of one that is checked on another node: somebody may have spoken for it here.
                    for check in &endpoint.spec.checks {
                        self.heartbeats.forget(&(endpoint.key(), check.id.clone()));
                    }
                } else {
                    self.follow(agenda, endpoint);
                }
                agenda.hurry_aliases(&(true, endpoint.key()));
            }
            Manifest::Service(service) => agenda.hurry_aliases(&(false, service.key())),
            _ => {}
        }
    }

    fn follow(&self, agenda: &mut Agenda, endpoint: &Arc<Endpoint>) {
        if !self.is_mine(endpoint) {
            return self.forget(agenda, &endpoint.key());
        }
        let now = Instant::now();
        for gone in agenda.follow(endpoint, now) {
            self.heartbeats.forget(&gone);
        }
        for check in &endpoint.spec.checks {
            let id = (endpoint.key(), check.id.clone());
            let status = endpoint.status.checks.iter().find(|it| it.id == check.id);
            let is_critical = status.is_some_and(|it| it.status == HealthStatus::Critical);
            let after = check.deregister_critical_after.filter(|_| is_critical);
            agenda.set(Task::Reap(id), after.map(|it| now + it.get()));
        }
        if leaver::is_leaving(endpoint) {
            let deadline = endpoint.spec.drain_for.map(|it| now + it.get());
            agenda.leave(&endpoint.key(), deadline, now + SETTLING);
        } else {
            agenda.stay(&endpoint.key());
        }
    }

    fn forget(&self, agenda: &mut Agenda, key: &ObjectKey) {
        for gone in agenda.forget(key) {
            self.heartbeats.forget(&gone);
        }
    }

    /// Starts what is due.
    fn start(&self, agenda: &Agenda, task: Task, slot: Slot, running: &mut JoinSet<Done>) {
        match task {
            Task::Check(id) => {
                if let Some(job) = Job::new(self, agenda, id) {
                    running.spawn(holding(slot, job.run()));
                }
            }
            Task::Reap((key, id)) => {
                let leaver = self.leaver(key);
                let reaping = async move {
                    let pause = leaver.reap(&id).await;
                    let task = Task::Reap((leaver.key, id));
                    Done::Looked { task, pause }
                };
                running.spawn(holding(slot, reaping));
            }
            Task::Leave(key) => {
                let is_late = agenda.is_late(&key, Instant::now());
                let leaver = self.leaver(key);
                let leaving = async move {
                    let pause = leaver.leave(is_late).await;
                    let task = Task::Leave(leaver.key);
                    Done::Looked { task, pause }
                };
                running.spawn(holding(slot, leaving));
            }
        }
    }

    fn leaver(&self, key: ObjectKey) -> Leaver {
        Leaver {
            key,
            store: Arc::clone(&self.config.store),
            write: Arc::clone(&self.config.write),
            busy: Arc::clone(&self.config.busy),
            metrics: self.metrics.clone(),
        }
    }
}

/// Gives the slot back before anybody hears of the end.
async fn holding(slot: Slot, work: impl Future<Output = Done>) -> Done {
    let done = work.await;
    drop(slot);
    done
}

fn end(agenda: &mut Agenda, done: Done) {
    let now = Instant::now();
    match done {
        Done::Checked {
            id,
            turn,
            streak,
            told,
            pause,
        } => {
            agenda.checked(&id, turn, (streak, told), pause.map(|it| now + it));
        }
        Done::Looked { task, pause } => {
            if let Some(pause) = pause {
                agenda.set(task, Some(now + pause));
            }
        }
    }
}

#[cfg(test)]
mod tests;
