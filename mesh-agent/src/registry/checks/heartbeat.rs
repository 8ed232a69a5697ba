//! Endpoints that say themselves how they are: when each was heard last, and what follows from silence.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::{CheckId, Write};
use crate::state::Change;
use crate::state::Refusal;
use crate::state::endpoint::HealthStatus;

/// When each check with a TTL was heard last. A check that was never heard has its time from the moment at which it
/// was first looked at, so that a start of the agent costs nobody his health.
pub struct Heartbeats {
    write: Write,
    heard: Mutex<HashMap<CheckId, Instant>>,
}

impl Heartbeats {
    pub(super) fn new(write: Write) -> Self {
        Self {
            write,
            heard: Mutex::default(),
        }
    }

    /// A check says how it is. Blocks while that is written. The caller knows that there is such a check.
    pub fn beat(&self, id: &CheckId, status: HealthStatus, output: String) -> Result<(), Refusal> {
        // The lock is held until the word is written: silence that was noticed before must not be written after it.
        let mut heard = self.lock();
        heard.insert(id.clone(), Instant::now());
        (self.write)(change(id, status, output)).map(|_applied| ())
    }

    /// Looks whether a check has been silent for too long, and if so says that it is critical. Returns the time until
    /// the next look; `None`: when it is heard again. Blocks while that is written.
    pub(super) fn look(
        &self,
        id: &CheckId,
        ttl: Duration,
        last_output: &str,
    ) -> Result<Option<Duration>, Refusal> {
        let mut heard = self.lock();
        let last = *heard.entry(id.clone()).or_insert_with(Instant::now);
        let silent = last.elapsed();
        if silent < ttl {
            return Ok(Some(ttl.saturating_sub(silent)));
        }
        let output = match last_output {
            "" => SILENT.to_owned(),
            text if text.starts_with(SILENT) => text.to_owned(),
            text => format!("{SILENT} (last words: {text})"),
        };
        (self.write)(change(id, HealthStatus::Critical, output))?;
        Ok(None)
    }

    /// Forgets a check that is gone.
    pub(super) fn forget(&self, id: &CheckId) {
        self.lock().remove(id);
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<CheckId, Instant>> {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What is said of a check that was not heard in time.
const SILENT: &str = "TTL expired";

fn change(id: &CheckId, status: HealthStatus, output: String) -> Change {
    let (endpoint, id) = id.clone();
    Change::Check {
        endpoint,
        id,
        status,
        output,
    }
}
