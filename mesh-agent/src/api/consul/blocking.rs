//! Blocking queries: an answer waits until it is another than the client has.
//!
//! The index of an answer is the write at which it became what it is. It is found by comparing answers, so it stays the
//! same while other things change, and never falls: an answer that is not remembered has the index of the newest write.
//! What was looked at before a newer answer came has the index of its own snapshot.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::http::StatusCode;
use serde_json::Value;
use tokio::sync::Semaphore;
use tokio::task::spawn_blocking;
use tokio::time::Instant;
use twox_hash::XxHash3_64;

use super::failure::Failure;
use super::filter::Filtered;
use super::instance::NODES;
use super::kv;
use super::name;
use super::question::Question;
use super::scope::Scope;
use super::views::{Look, View};
use super::wakeup::Subject;
use crate::api::Context;
use crate::api::metrics::Excess;
use crate::state::Snapshot;
use crate::state::object::ObjectKey;

/// Answers that are remembered; the oldest goes.
const MAX_SEEN: usize = 8192;
/// Queries that wait at a time: of operators, and of workloads. Half of the connections of the API, so that others find room
/// while all of these wait.
const MAX_BLOCKED: usize = 2048;
/// Shortest time between two looks of one query: many writes in a row are one change.
const PAUSE: Duration = Duration::from_millis(5);
/// How long an answer is kept for others who ask the same.
const RECENT: Duration = Duration::from_millis(100);
/// As many are kept ..
const MAX_RECENT: usize = 32;
/// .. each of so many bytes of JSON at most.
const MAX_RECENT_BYTES: usize = 64 << 10;

/// What may change an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Topic {
    /// It is not waited for.
    Nothing,
    /// The service in the path, and its endpoints.
    Service,
    /// The services that have the keys that begin as the path says.
    Keys,
    /// Services and endpoints.
    All,
}

/// What is read.
pub(super) struct Asked {
    /// The path, as the table of routes has it.
    pub(super) path: &'static str,
    pub(super) view: View,
    pub(super) filtered: Filtered,
    pub(super) topic: Topic,
    pub(super) argument: String,
    pub(super) scope: Option<Arc<Scope>>,
    pub(super) question: Question,
}

impl Asked {
    /// Whether it is a key.
    pub(super) fn is_key(&self) -> bool {
        self.path == kv::PATH
    }

    /// Whose writes may change the answer.
    fn subjects(&self) -> Vec<Subject> {
        let namespace = &self.question.namespace;
        let service = |name: &str| Subject::Service(ObjectKey::new(namespace, name));
        match self.topic {
            Topic::Nothing => Vec::new(),
            // The checks of nodes are part of what is said of every service.
            Topic::Service => vec![service(&name::of(&self.argument)), service(NODES)],
            Topic::Keys => kv::subjects(&self.question, &self.argument),
            Topic::All => vec![Subject::All],
        }
    }

    /// Whether it is about a service or two.
    fn is_small(&self) -> bool {
        match self.topic {
            Topic::Service => true,
            Topic::Keys => !self.subjects().contains(&Subject::Services),
            Topic::Nothing | Topic::All => false,
        }
    }
}

/// An answer, and the write at which it became that.
pub(super) struct Answer {
    pub(super) index: u64,
    pub(super) body: Value,
    /// The body as JSON.
    pub(super) text: String,
}

/// Answers of late.
pub(super) struct Seen {
    known: Mutex<Known>,
    blocked: Arc<Semaphore>,
    /// The same for workloads, which keep no operator out.
    blocked_workloads: Arc<Semaphore>,
}

#[derive(Default)]
struct Known {
    by_question: HashMap<u64, (u64, u64)>,
    order: VecDeque<u64>,
    /// Whole answers, the newest last.
    recent: VecDeque<Recent>,
}

/// An answer that somebody has just had.
struct Recent {
    question: u64,
    revision: u64,
    at: Instant,
    answer: Arc<Answer>,
}

impl Default for Seen {
    fn default() -> Self {
        Self {
            known: Mutex::default(),
            blocked: Arc::new(Semaphore::new(MAX_BLOCKED)),
            blocked_workloads: Arc::new(Semaphore::new(MAX_BLOCKED)),
        }
    }
}

impl Seen {
    /// The answer to a question, if somebody else has asked it of the same snapshot a moment ago.
    fn recent(&self, question: u64, revision: u64) -> Option<Arc<Answer>> {
        let known = self.lock();
        let is_it = |it: &&Recent| {
            (it.question, it.revision) == (question, revision) && it.at.elapsed() < RECENT
        };
        known
            .recent
            .iter()
            .find(is_it)
            .map(|it| Arc::clone(&it.answer))
    }

    /// Keeps an answer for those who ask next: a write wakes all who wait for the same thing at once.
    fn keep(&self, question: u64, revision: u64, answer: &Arc<Answer>) {
        if answer.text.len() > MAX_RECENT_BYTES {
            return;
        }
        let mut known = self.lock();
        if known.recent.len() == MAX_RECENT {
            known.recent.pop_front();
        }
        known.recent.push_back(Recent {
            question,
            revision,
            at: Instant::now(),
            answer: Arc::clone(answer),
        });
    }

    /// The index of an answer that was made of a snapshot of a revision.
    fn index(&self, question: u64, answer: u64, revision: u64) -> u64 {
        let mut known = self.lock();
        if let Some((old, index)) = known.by_question.get_mut(&question) {
            if *old == answer {
                return *index;
            }
            // Of two looks at the same time the one at the older snapshot may come last. Its client is to hear of the
            // newer answer still.
            if revision > *index {
                (*old, *index) = (answer, revision);
            }
            return revision;
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

    fn lock(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Answers, at once or when the answer is another than at the index that the client knows.
pub(super) async fn answer(context: &Context, asked: &Arc<Asked>) -> Result<Arc<Answer>, Failure> {
    let consul = &context.consul;
    let question = &asked.question;
    let Some(known) = question.index.filter(|_| asked.topic != Topic::Nothing) else {
        return look(context, asked).await;
    };
    let hearing = consul.wakeup.hear(asked.subjects());
    let first = look(context, asked).await?;
    if first.index > known {
        return Ok(first);
    }
    // Not held while it waits: thousands may.
    drop(first);
    let blocked = match asked.scope {
        Some(_) => &consul.seen.blocked_workloads,
        None => &consul.seen.blocked,
    };
    let Ok(_permit) = Arc::clone(blocked).try_acquire_owned() else {
        let text = "too many queries wait already: come back later";
        context.counts.refuse(Excess::BlockingQueries);
        return Err(Failure::new(StatusCode::TOO_MANY_REQUESTS, text));
    };
    // Spread by up to a sixteenth, as Consul does, so that clients do not come back all at once.
    let jitter = question.wait.mul_f64(rand::random::<f64>() / 16.0);
    let end = Instant::now() + question.wait + jitter;
    loop {
        tokio::select! {
            () = tokio::time::sleep_until(end) => return look(context, asked).await,
            () = context.stop.cancelled() => return look(context, asked).await,
            () = hearing.woken() => {}
        }
        let answer = look(context, asked).await?;
        if answer.index > known {
            return Ok(answer);
        }
        drop(answer);
        tokio::time::sleep(PAUSE).await;
    }
}

/// Does a part of the work at an answer where it is in nobody's way.
pub(super) async fn run<T: Send + 'static>(
    context: &Context,
    asked: &Arc<Asked>,
    work: impl FnOnce(&Context, &Asked) -> T + Send + 'static,
) -> Result<T, Failure> {
    // The many who wait for one service get their answers from where they are.
    if asked.is_small() {
        return Ok(work(context, asked));
    }
    let (owned, asked) = (context.clone(), Arc::clone(asked));
    let is_large = asked.topic == Topic::All;
    let work = move || work(&owned, &asked);
    if is_large {
        Ok(context.large.make(work).await?)
    } else {
        Ok(spawn_blocking(work).await?)
    }
}

async fn look(context: &Context, asked: &Arc<Asked>) -> Result<Arc<Answer>, Failure> {
    run(context, asked, make).await?
}

fn make(context: &Context, asked: &Asked) -> Result<Arc<Answer>, Failure> {
    let question = &asked.question;
    let snapshot: Arc<Snapshot> = context.store.snapshot();
    let seen = &context.consul.seen;
    let whose = asked.scope.as_ref().map(|it| &it.addresses);
    let (path, argument) = (asked.path, &asked.argument);
    let identity = format!("{path} {argument} {whose:?} {}", question.identity());
    let identity = XxHash3_64::oneshot(identity.as_bytes());
    if let Some(answer) = seen.recent(identity, snapshot.revision) {
        return Ok(answer);
    }
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
        body = asked.filtered.apply(filter, body);
    }
    // A value of texts and numbers can always be written.
    let text = serde_json::to_string(&body).unwrap_or_default();
    let answer = XxHash3_64::oneshot(text.as_bytes());
    let index = seen.index(identity, answer, snapshot.revision).max(1);
    let answer = Arc::new(Answer { index, body, text });
    seen.keep(identity, snapshot.revision, &answer);
    Ok(answer)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::consul::views;
    use crate::api::tests::{FixedNode, config};
    use crate::state::Store;

    #[tokio::test]
    async fn number_of_queries_that_wait_is_bounded() {
        let node = Arc::new(FixedNode::default());
        let context = Context::new(&config(), Arc::new(Store::in_memory()), node);
        let pairs = [("index", "1000"), ("wait", "1ms")];
        let pairs = pairs.map(|(name, value)| (name.to_owned(), value.to_owned()));
        let question = Question::read(pairs.into(), "shop").map_err(|it| it.text);
        let asked = Arc::new(Asked {
            path: "/v1/health/service/{argument}",
            view: views::services,
            filtered: Filtered::Inside,
            topic: Topic::Service,
            argument: "web".to_owned(),
            scope: None,
            question: question.unwrap(),
        });
        let all = u32::try_from(MAX_BLOCKED).unwrap();
        let seen = &context.consul.seen;
        let _of_workloads = seen.blocked_workloads.acquire_many(all).await.unwrap();
        assert!(answer(&context, &asked).await.is_ok());
        let _all = seen.blocked.acquire_many(all).await.unwrap();
        let refused = answer(&context, &asked).await;
        assert!(refused.is_err_and(|it| it.status == StatusCode::TOO_MANY_REQUESTS));
        assert_eq!(context.counts.refused("blocking-queries"), 1);
    }

    #[test]
    fn an_index_stays_with_its_answer() {
        let seen = Seen::default();
        assert_eq!(seen.index(1, 10, 5), 5);
        assert_eq!(seen.index(1, 10, 9), 5, "other things have changed");
        assert_eq!(seen.index(1, 11, 12), 12);
        assert_eq!(seen.index(1, 10, 11), 11, "that look was late");
        assert_eq!(seen.index(1, 11, 11), 12, "and has the newer answer next");
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
