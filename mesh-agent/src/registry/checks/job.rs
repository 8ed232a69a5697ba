//! One check, made once.

use std::sync::Arc;
use std::time::Duration;

use tokio::task::spawn_blocking;
use tokio::time::Instant;

use super::agenda::Agenda;
use super::heartbeat::Heartbeats;
use super::metrics::Metrics;
use super::target::{Asker, Target};
use super::{AGAIN, CheckId, Checks, Done, Write, target};
use crate::probe::Shown;
use crate::state::Change;
use crate::state::check::{Check, shortened};
use crate::state::endpoint::{Endpoint, HealthStatus};
use crate::traffic::health::streak::Streak;

/// How long another output of the same status waits: each is a write of the registry.
const QUIET: Duration = Duration::from_mins(1);

/// What was told of a check last, and when.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Told {
    status: HealthStatus,
    at: Instant,
}

impl Told {
    /// Whether a look has shown something that is to be told.
    fn is_outdated(&self, status: HealthStatus, is_same_output: bool, now: Instant) -> bool {
        self.status != status || (!is_same_output && now.duration_since(self.at) >= QUIET)
    }
}

/// One check, and what is needed to make it.
pub(super) struct Job {
    id: CheckId,
    turn: u64,
    check: Check,
    endpoint: Arc<Endpoint>,
    streak: Streak,
    told: Option<Told>,
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
        let place = target::place(&snapshot, &endpoint, &watched.check, &config.host);
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
        let output = shortened(shown.output);
        let Some(status) = word.filter(|it| self.is_news(*it, &output)) else {
            return self.done(pause);
        };
        let change = Change::Check {
            endpoint: self.id.0.clone(),
            id: self.id.1.clone(),
            status,
            output,
        };
        let write = Arc::clone(&self.write);
        match spawn_blocking(move || write(change)).await {
            Ok(Ok(_)) => {
                let at = Instant::now();
                self.told = Some(Told { status, at });
                self.done(pause)
            }
            failed => {
                tracing::warn!(?failed, endpoint = %self.id.0, check = self.id.1, "cannot record a check");
                self.done(Some(AGAIN))
            }
        }
    }

    /// Whether that is to be told: another status at once, another output after a while.
    fn is_news(&self, status: HealthStatus, output: &str) -> bool {
        let mut known = self.endpoint.status.checks.iter();
        let is_same = known.any(|it| it.id == self.id.1 && it.output == output);
        let is_outdated = |told: Told| told.is_outdated(status, is_same, Instant::now());
        self.told.is_none_or(is_outdated)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_status_is_told_at_once_and_another_output_after_a_while() {
        let at = Instant::now();
        let told = Told {
            status: HealthStatus::Critical,
            at,
        };
        assert!(told.is_outdated(HealthStatus::Passing, true, at));
        assert!(!told.is_outdated(HealthStatus::Critical, false, at));
        assert!(told.is_outdated(HealthStatus::Critical, false, at + QUIET));
        assert!(!told.is_outdated(HealthStatus::Critical, true, at + QUIET));
    }
}
