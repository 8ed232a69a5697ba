//! What is known of one endpoint that is watched.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::probe::{Probe, Seen};
use crate::proxy::view::Live;
use crate::state::endpoint::{Health, HealthStatus};
use crate::traffic::health::{Record, pause};

/// How often at most the registry is told of one endpoint, so that one that flaps does not make a write each time.
const QUIET: Duration = Duration::from_secs(1);

/// One endpoint.
#[derive(Debug)]
pub(super) struct Subject {
    /// What its ports remember.
    pub(super) lives: Vec<Arc<Live>>,
    probe: Option<Arc<Probe>>,
    /// What the newest view wants it asked by.
    wanted: Option<Probe>,
    record: Record,
    /// What the last check has shown.
    shown: String,
    next: Instant,
    is_running: bool,
    told: Option<HealthStatus>,
    told_at: Option<Instant>,
}

impl Subject {
    /// An endpoint of which nothing is known but what the registry says.
    pub(super) fn new(told: Option<HealthStatus>) -> Self {
        Self {
            lives: Vec::new(),
            probe: None,
            wanted: None,
            record: Record::default(),
            shown: String::new(),
            next: Instant::now(),
            is_running: false,
            told,
            told_at: None,
        }
    }

    /// The same endpoint in the next view.
    pub(super) fn renewed(self) -> Self {
        Self {
            lives: Vec::new(),
            wanted: None,
            ..self
        }
    }

    /// How it is asked in the next view.
    pub(super) fn asked(&mut self, probe: Probe) {
        self.wanted = Some(probe);
    }

    /// The next view is complete. What was found by other words is forgotten, but not what was seen from elsewhere.
    pub(super) fn settle(&mut self) {
        let (is_like, is_same) = match (&self.probe, &self.wanted) {
            (Some(old), Some(new)) => {
                let is_like = old.is_like(new);
                (is_like, is_like && old.is_from_same_places(new))
            }
            (None, None) => (true, true),
            _ => (false, false),
        };
        if is_same {
            self.wanted = None;
        } else {
            self.probe = self.wanted.take().map(Arc::new);
            self.is_running = false;
        }
        if !is_like {
            self.record = Record::default();
            self.next = Instant::now();
            if self.probe.is_none() {
                // Nobody asks any more: what the last check has shown is no reason to leave it alone.
                self.forgive();
            }
        }
        self.mark();
    }

    /// It is watched no more.
    pub(super) fn give_up(self) {
        self.forgive();
    }

    fn forgive(&self) {
        for live in &self.lives {
            live.checked(false);
        }
    }

    /// Since when a check is due, if one is.
    pub(super) fn due(&self, now: Instant) -> Option<Instant> {
        let is_due = self.probe.is_some() && !self.is_running && self.next <= now;
        is_due.then_some(self.next)
    }

    /// What is to be run now.
    pub(super) fn start(&mut self) -> Option<&Arc<Probe>> {
        let probe = self.probe.as_ref()?;
        self.is_running = true;
        Some(probe)
    }

    /// A check has ended; tells whether it is well, if that is news. Where nothing was seen all stays as it is.
    pub(super) fn ended(&mut self, probe: &Arc<Probe>, seen: Seen, random: u32) -> Option<bool> {
        if !self
            .probe
            .as_ref()
            .is_some_and(|own| Arc::ptr_eq(own, probe))
        {
            return None;
        }
        self.is_running = false;
        self.next = Instant::now() + pause(probe.spec(), random);
        let (is_good, text) = match seen {
            Seen::Good(text) => (true, text),
            Seen::Bad(text) => (false, text),
            Seen::Nothing(_) => return None,
        };
        let before = self.record.is_well();
        self.record = self.record.checked(is_good, probe.spec());
        self.shown = text;
        self.mark();
        self.record.is_well().filter(|now| before != Some(*now))
    }

    /// What the last check has shown.
    pub(super) fn output(&self) -> &str {
        &self.shown
    }

    /// Tells the data plane at once. Before the first check what the registry says holds.
    fn mark(&self) {
        if let Some(is_well) = self.record.is_well() {
            for live in &self.lives {
                live.checked(!is_well);
            }
        }
    }

    /// What the registry is to be told, if the word is another than it has.
    pub(super) fn news(&mut self, now: Instant) -> Option<Health> {
        let status = self.status()?;
        let is_quiet = self.told_at.is_some_and(|at| now < at + QUIET);
        if self.told == Some(status) || is_quiet {
            return None;
        }
        self.told = Some(status);
        self.told_at = Some(now);
        Some(Health {
            status,
            since: String::new(),
            output: self.sentence(status),
        })
    }

    /// What was news has not reached the registry: who knows what it has now.
    pub(super) fn untold(&mut self) {
        self.told = None;
    }

    /// The word for it; absent while the first check has not ended.
    fn status(&self) -> Option<HealthStatus> {
        let is_well = match &self.probe {
            Some(_) => self.record.is_well()?,
            None => true,
        };
        let is_ejected = self.lives.iter().any(|live| live.vitals.is_ejected());
        Some(match (is_well, is_ejected) {
            (false, _) => HealthStatus::Critical,
            (true, true) => HealthStatus::Warning,
            (true, false) => HealthStatus::Passing,
        })
    }

    fn sentence(&self, status: HealthStatus) -> String {
        match status {
            HealthStatus::Warning => "put aside for a while because of its answers".to_owned(),
            HealthStatus::Passing if self.shown.is_empty() => "its answers are good".to_owned(),
            HealthStatus::Passing | HealthStatus::Critical => self.shown.clone(),
        }
    }
}
