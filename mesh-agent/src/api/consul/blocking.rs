//! Blocking queries: an answer waits until it is another than the client has.
//!
//! The index of an answer is the write at which it became what it is. It is found by comparing answers, so it stays the
//! same while other things change, and never falls: an answer that is not remembered has the index of the newest write.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::http::StatusCode;
use serde_json::Value;
use tokio::sync::Semaphore;
use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::RecvError;
use tokio::time::Instant;
use twox_hash::XxHash3_64;

use super::failure::Failure;
use super::kv;
use super::name;
use super::question::Question;
use super::scope::Scope;
use super::views::{Look, View};
use crate::api::Context;
use crate::state::object::ObjectKey;
use crate::state::{Manifest, Notice, Snapshot};

/// Answers that are remembered; the oldest goes.
const MAX_SEEN: usize = 8192;
/// Queries that wait at a time.
const MAX_BLOCKED: usize = 4096;
/// Shortest time between two looks of one query: many writes in a row are one change.
const PAUSE: Duration = Duration::from_millis(5);

/// What may change an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Topic {
    /// It is not waited for.
    Nothing,
    /// The service in the path, and its endpoints.
    Service,
    /// Services.
    Services,
    /// Services and endpoints.
    All,
}

/// What is read.
pub(super) struct Asked {
    /// The path, as the table of routes has it.
    pub(super) path: &'static str,
    pub(super) view: View,
    pub(super) topic: Topic,
    pub(super) argument: String,
    pub(super) scope: Option<Arc<Scope>>,
}

impl Asked {
    /// Whether it is a key.
    pub(super) fn is_key(&self) -> bool {
        self.path == kv::PATH
    }

    /// Whether a write may change the answer.
    fn is_met(&self, notice: &Notice, namespace: &str) -> bool {
        let wanted = || ObjectKey::new(namespace, name::of(&self.argument));
        match (&notice.object, self.topic) {
            (Manifest::Service(_), Topic::Services | Topic::All)
            | (Manifest::Endpoint(_), Topic::All) => true,
            (Manifest::Service(it), Topic::Service) => it.key() == wanted(),
            (Manifest::Endpoint(it), Topic::Service) => {
                let own = &it.metadata.namespace;
                let service = ObjectKey::new(own, &it.spec.service);
                // The checks of nodes are part of what is said of every service.
                service == wanted() || it.spec.service == super::instance::NODES
            }
            _ => false,
        }
    }
}

/// An answer, and the write at which it became that.
pub(super) struct Answer {
    pub(super) index: u64,
    pub(super) body: Value,
}

/// Answers of late.
pub(super) struct Seen {
    known: Mutex<Known>,
    blocked: Arc<Semaphore>,
}

#[derive(Default)]
struct Known {
    by_question: HashMap<u64, (u64, u64)>,
    order: VecDeque<u64>,
}

impl Default for Seen {
    fn default() -> Self {
        Self {
            known: Mutex::default(),
            blocked: Arc::new(Semaphore::new(MAX_BLOCKED)),
        }
    }
}

impl Seen {
    /// The index of an answer that was made of a snapshot of a revision.
    fn index(&self, question: u64, answer: u64, revision: u64) -> u64 {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((old, index)) = known.by_question.get_mut(&question) {
            // Of two looks at the same time the one at the older snapshot may come last.
            if *old != answer && revision > *index {
                (*old, *index) = (answer, revision);
            }
            return *index;
        }
        if known.order.len() >= MAX_SEEN
            && let Some(oldest) = known.order.pop_front()
        {
            known.by_question.remove(&oldest);
        }
        known.order.push_back(question);
        known.by_question.insert(question, (answer, revision));
        revision
    }
}

/// Answers, at once or when the answer is another than at the index that the client knows.
pub(super) async fn answer(
    context: &Context,
    question: &Question,
    asked: &Asked,
) -> Result<Answer, Failure> {
    let seen = &context.consul.seen;
    let mut notices = context.store.subscribe();
    let first = look(context, question, asked)?;
    let Some(known) = question.index else {
        return Ok(first);
    };
    if first.index > known || asked.topic == Topic::Nothing {
        return Ok(first);
    }
    let Ok(_permit) = Arc::clone(&seen.blocked).try_acquire_owned() else {
        let text = "too many queries wait already: come back later";
        tracing::warn!(path = asked.path, "too many queries of the API wait");
        return Err(Failure::new(StatusCode::TOO_MANY_REQUESTS, text));
    };
    // Spread by up to a sixteenth, as Consul does, so that clients do not come back all at once.
    let jitter = question.wait.mul_f64(rand::random::<f64>() / 16.0);
    let end = Instant::now() + question.wait + jitter;
    let mut last = first;
    loop {
        let is_met = |notice: &Notice| asked.is_met(notice, &question.namespace);
        tokio::select! {
            () = tokio::time::sleep_until(end) => return Ok(last),
            () = context.stop.cancelled() => return Ok(last),
            is_open = met(&mut notices, is_met) => if !is_open {
                return Ok(last);
            },
        }
        last = look(context, question, asked)?;
        if last.index > known {
            return Ok(last);
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// Waits for a write that matters; `false`: there will be none.
async fn met(notices: &mut Receiver<Notice>, is_met: impl Fn(&Notice) -> bool) -> bool {
    loop {
        match notices.recv().await {
            Ok(notice) if is_met(&notice) => return true,
            Ok(_) => {}
            Err(RecvError::Lagged(_)) => return true,
            Err(RecvError::Closed) => return false,
        }
    }
}

fn look(context: &Context, question: &Question, asked: &Asked) -> Result<Answer, Failure> {
    let snapshot: Arc<Snapshot> = context.store.snapshot();
    let facts = context.consul.facts();
    let looked = Look {
        snapshot: &snapshot,
        facts: &facts,
        question,
        argument: &asked.argument,
        scope: asked.scope.as_deref(),
    };
    let mut body = (asked.view)(&looked)?;
    if let Some(filter) = &question.filter {
        body = filter.apply(body);
    }
    let text = serde_json::to_vec(&body).unwrap_or_default();
    let whose = asked.scope.as_ref().map(|it| &it.addresses);
    let (path, argument) = (asked.path, &asked.argument);
    let identity = format!("{path} {argument} {whose:?} {}", question.identity());
    let identity = XxHash3_64::oneshot(identity.as_bytes());
    let answer = XxHash3_64::oneshot(&text);
    let index = context
        .consul
        .seen
        .index(identity, answer, snapshot.revision);
    Ok(Answer {
        index: index.max(1),
        body,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_index_stays_with_its_answer_and_never_falls() {
        let seen = Seen::default();
        assert_eq!(seen.index(1, 10, 5), 5);
        assert_eq!(seen.index(1, 10, 9), 5, "other things have changed");
        assert_eq!(seen.index(1, 11, 12), 12);
        assert_eq!(seen.index(1, 10, 11), 12, "that look was late");
        assert_eq!(seen.index(2, 10, 3), 3, "another question");
    }

    #[test]
    fn what_is_forgotten_comes_back_higher() {
        let seen = Seen::default();
        assert_eq!(seen.index(1, 10, 5), 5);
        for question in 2..=(MAX_SEEN as u64 + 1) {
            seen.index(question, 0, 6);
        }
        assert_eq!(seen.index(1, 10, 7), 7);
        let known = seen.known.lock().unwrap();
        assert_eq!(
            (known.order.len(), known.by_question.len()),
            (MAX_SEEN, MAX_SEEN)
        );
    }
}
