//! One check, made once.

use std::sync::Arc;
use std::time::Duration;

use tokio::task::spawn_blocking;

use super::agenda::Agenda;
use super::heartbeat::Heartbeats;
use super::metrics::Metrics;
use super::target::{Asker, Target};
use super::{AGAIN, CheckId, Checks, Done, Write, target};
use crate::probe::Shown;
use crate::state::Change;
use crate::state::check::Check;
use crate::state::endpoint::{Endpoint, HealthStatus};
use crate::traffic::health::streak::Streak;

/// One check, and what is needed to make it.
pub(super) struct Job {
    id: CheckId,
    turn: u64,
    check: Check,
    endpoint: Arc<Endpoint>,
    streak: Streak,
    told: Option<HealthStatus>,
    alias: Option<Shown>,
    write: Write,
    heartbeats: Arc<Heartbeats>,
    metrics: Metrics,
    /// From where is asked, or why nobody can be asked.
    asker: Result<Asker, String>,
}

impl Job {
    /// `None` where the check or its endpoint is gone.
    pub(super) fn new(checks: &Checks, agenda: &Agenda, id: CheckId) -> Option<Self> {
        let watched = agenda.watched(&id)?;
        let config = &checks.config;
        let snapshot = config.store.snapshot();
        let endpoint = Arc::clone(snapshot.endpoints.get(&id.0)?);
        let alias = watched.check.alias.as_ref();
        let place = target::place(&snapshot, &endpoint, &config.host);
        Some(Self {
            turn: watched.turn,
            check: watched.check.clone(),
            streak: watched.streak,
            told: watched.told,
            alias: alias.map(|it| target::alias(&snapshot, &endpoint, it)),
            write: Arc::clone(&config.write),
            heartbeats: Arc::clone(&checks.heartbeats),
            metrics: checks.metrics.clone(),
            asker: place.map(|place| Asker {
                table: Arc::clone(&config.table),
                place,
                trust: Arc::clone(&config.trust),
            }),
            endpoint,
            id,
        })
    }

    /// Makes it, and writes what it has shown if that is new.
    pub(super) async fn run(mut self) -> Done {
        if let Some(ttl) = self.check.ttl {
            return self.listen(ttl.get()).await;
        }
        let (shown, pause) = match (self.alias.take(), Target::of(&self.check)) {
            (Some(shown), _) => (shown, None),
            (None, Some(target)) => {
                let limit = self.check.timeout.get();
                let shown = match &self.asker {
                    Ok(asker) => target.ask(asker, limit).await,
                    Err(why) => Shown {
                        status: HealthStatus::Critical,
                        output: why.clone(),
                    },
                };
                (shown, Some(self.check.interval.get()))
            }
            // The registry admits no such check.
            (None, None) => return self.done(None),
        };
        self.metrics.checked(self.check.kind(), shown.status);
        let (streak, word) = self.streak.after(shown.status, &self.check);
        self.streak = streak;
        let Some(status) = word.filter(|it| self.told != Some(*it)) else {
            return self.done(pause);
        };
        let change = Change::Check {
            endpoint: self.id.0.clone(),
            id: self.id.1.clone(),
            status,
            output: shown.output,
        };
        let write = Arc::clone(&self.write);
        match spawn_blocking(move || write(change)).await {
            Ok(Ok(_)) => {
                self.told = Some(status);
                self.done(pause)
            }
            failed => {
                tracing::warn!(?failed, endpoint = %self.id.0, check = self.id.1, "cannot record a check");
                self.done(Some(AGAIN))
            }
        }
    }

    /// Looks whether it was heard in time.
    async fn listen(self, ttl: Duration) -> Done {
        let heartbeats = Arc::clone(&self.heartbeats);
        let known = self.endpoint.status.checks.iter();
        let mut last = known.filter(|it| it.id == self.id.1).map(|it| &it.output);
        let last = last.next().cloned().unwrap_or_default();
        let id = self.id.clone();
        match spawn_blocking(move || heartbeats.look(&id, ttl, &last)).await {
            Ok(Ok(pause)) => self.done(pause),
            failed => {
                tracing::warn!(?failed, endpoint = %self.id.0, check = self.id.1, "cannot record silence");
                self.done(Some(AGAIN))
            }
        }
    }

    fn done(self, pause: Option<Duration>) -> Done {
        Done::Checked {
            id: self.id,
            turn: self.turn,
            streak: self.streak,
            told: self.told,
            pause,
        }
    }
}
