//! The services that are made for instances and keys: in line with them at once, or later where the shared registry is
//! away. What is registered on this node is registered all the same.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::task::spawn_blocking;

use super::failure::Failure;
use super::name;
use crate::api::Context;
use crate::state::object::ObjectKey;
use crate::state::{Refusal, registration};

/// How often a change is made anew when somebody else was faster.
const TRIES: usize = 5;
/// How often services that are late are tried again.
const AGAIN: Duration = Duration::from_secs(2);
/// Services that may be late; of more none is remembered.
const MAX_LATE: usize = 1 << 16;

/// The services that are to be brought in line once the shared registry is back, each by its name as it was given.
#[derive(Default)]
pub(in crate::api) struct Made {
    late: Mutex<BTreeMap<ObjectKey, String>>,
}

impl Made {
    /// Brings those that are late in line, for ever.
    pub(in crate::api) async fn run(context: Context) {
        loop {
            tokio::time::sleep(AGAIN).await;
            if context.consul.made.lock().is_empty() {
                continue;
            }
            let owned = context.clone();
            if let Err(error) = spawn_blocking(move || catch_up(&owned)).await {
                tracing::error!(%error, "bringing services in line has failed inside the agent");
            }
        }
    }

    fn remember(&self, key: &ObjectKey, given: &str) {
        let mut late = self.lock();
        if late.len() >= MAX_LATE && !late.contains_key(key) {
            return;
        }
        let known = late.entry(key.clone()).or_default();
        if !given.is_empty() {
            given.clone_into(known);
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<ObjectKey, String>> {
        self.late.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Tries each once.
fn catch_up(context: &Context) {
    let late = std::mem::take(&mut *context.consul.made.lock());
    for (key, given) in late {
        if context.stop.is_cancelled() {
            return;
        }
        if let Err(failure) = follow(context, &key, &given) {
            let error = &failure.text;
            tracing::warn!(service = %key, error, "the service of registered instances stays as it is");
        }
    }
}

/// Brings the service of endpoints or keys that came or went in line. `given` is its name as it was given; empty where
/// it is not known.
pub(super) fn follow(context: &Context, key: &ObjectKey, given: &str) -> Result<(), Failure> {
    let named = Some(given).filter(|it| !it.is_empty());
    let annotations: Vec<(&str, String)> = named.and_then(name::annotation).into_iter().collect();
    for _ in 0..TRIES {
        let change = registration::follow(&context.store.snapshot(), key, &annotations);
        let Some(change) = change else {
            return Ok(());
        };
        // Somebody else was faster: what has to be done may be something else now.
        match context.writer.apply_blocking(change) {
            Ok(_) | Err(Refusal::Conflict { .. }) => {}
            Err(Refusal::NotFound { .. }) => return Ok(()),
            Err(Refusal::Unavailable(why)) => {
                tracing::info!(service = %key, why, "the service of registered instances follows later");
                context.consul.made.remember(key, given);
                return Ok(());
            }
            Err(refusal) => return Err(refusal.into()),
        }
    }
    Ok(())
}
