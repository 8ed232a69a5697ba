//! Watching objects of a kind: server-sent events, in the order of the writes.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::http::{HeaderMap, StatusCode};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse as _, Response};
use futures_util::Stream;
use futures_util::stream;
use serde::Serialize;
use tokio::sync::OwnedSemaphorePermit;
use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::RecvError;
use tokio_util::sync::CancellationToken;

use super::Context;
use super::metrics::Excess;
use super::problem::Problem;
use crate::state::change::NoticeKind;
use crate::state::object::Kind;
use crate::state::{Manifest, Notice};

/// How often an idle watcher hears that the connection lives.
const HEARTBEAT: Duration = Duration::from_secs(15);

/// What is watched.
pub(super) struct Filter {
    /// The kind.
    pub(super) kind: Kind,
    /// Only in this namespace.
    pub(super) namespace: Option<String>,
}

impl Filter {
    fn matches(&self, object: &Manifest) -> bool {
        let namespace = &object.metadata().namespace;
        object.kind() == self.kind && self.namespace.as_ref().is_none_or(|it| it == namespace)
    }
}

/// The write after which to go on: of the query, or of a browser that connects again.
pub(super) fn since(query: Option<&str>, headers: &HeaderMap) -> Result<Option<u64>, Problem> {
    let header = headers.get("last-event-id").map(|it| it.to_str());
    let (field, text) = match (query, header) {
        (Some(text), _) => ("resourceVersion", text),
        (None, Some(text)) => ("Last-Event-ID", text.unwrap_or_default()),
        (None, None) => return Ok(None),
    };
    match text.parse() {
        Ok(since) => Ok(Some(since)),
        Err(_) if text.is_empty() => Ok(None),
        Err(_) => Err(Problem::bad_request(field, "a resourceVersion is a number")),
    }
}

/// Answers with what is there (or what was missed) and then with every write.
pub(super) async fn start(
    context: Context,
    filter: Filter,
    since: Option<u64>,
) -> Result<Response, Problem> {
    let Ok(permit) = Arc::clone(&context.watchers).try_acquire_owned() else {
        context.counts.refuse(Excess::Watches);
        return Err(Problem::new(
            StatusCode::TOO_MANY_REQUESTS,
            "TooManyWatchers",
            "too many watchers; come back later",
        ));
    };
    let store = Arc::clone(&context.store);
    let followed = tokio::task::spawn_blocking(move || store.follow(since)).await?;
    let Some(followed) = followed else {
        return Err(expired().with_field("resourceVersion"));
    };
    let queue = if since.is_some() {
        let missed = followed.missed.into_iter();
        let missed = missed.filter(|it| filter.matches(&it.object));
        missed.map(Told::from).collect()
    } else {
        let mut queue: VecDeque<Told> = followed
            .snapshot
            .list(filter.kind, filter.namespace.as_deref())
            .into_iter()
            .map(Told::there)
            .collect();
        // Whoever has seen all of them can go on from here.
        if let Some(last) = queue.back_mut() {
            last.revision = Some(followed.snapshot.revision);
        }
        queue
    };
    let watcher = Watcher {
        queue,
        receiver: Some(followed.receiver),
        filter,
        stop: context.stop,
        _permit: permit,
    };
    let keep_alive = KeepAlive::new().interval(HEARTBEAT);
    Ok(Sse::new(watcher.into_events())
        .keep_alive(keep_alive)
        .into_response())
}

fn expired() -> Problem {
    Problem::new(
        StatusCode::GONE,
        "Expired",
        "the writes since then are not known any more; list again and watch from there",
    )
}

/// One thing that a watcher is told.
struct Told {
    /// The write, where a watcher can go on after it.
    revision: Option<u64>,
    event: NoticeKind,
    object: Manifest,
}

impl Told {
    fn there(object: Manifest) -> Self {
        Self {
            revision: None,
            event: NoticeKind::Added,
            object,
        }
    }
}

impl From<Notice> for Told {
    fn from(notice: Notice) -> Self {
        Self {
            revision: Some(notice.revision),
            event: notice.event,
            object: notice.object,
        }
    }
}

/// The data of an event.
#[derive(Serialize)]
struct Data<'a, T> {
    r#type: &'a str,
    object: &'a T,
}

struct Watcher {
    queue: VecDeque<Told>,
    /// `None` once the end was told.
    receiver: Option<Receiver<Notice>>,
    filter: Filter,
    stop: CancellationToken,
    _permit: OwnedSemaphorePermit,
}

impl Watcher {
    fn into_events(self) -> impl Stream<Item = Result<Event, Infallible>> {
        stream::unfold(self, |mut watcher| async move {
            let event = watcher.next().await?;
            Some((Ok(event), watcher))
        })
    }

    async fn next(&mut self) -> Option<Event> {
        loop {
            if let Some(told) = self.queue.pop_front() {
                return Some(event(&told));
            }
            let receiver = self.receiver.as_mut()?;
            let received = tokio::select! {
                () = self.stop.cancelled() => return None,
                received = receiver.recv() => received,
            };
            match received {
                Ok(notice) if self.filter.matches(&notice.object) => {
                    self.queue.push_back(Told::from(notice));
                }
                Ok(_) => {}
                Err(RecvError::Lagged(_)) => {
                    self.receiver = None;
                    return Some(data("ERROR", &expired()));
                }
                Err(RecvError::Closed) => return None,
            }
        }
    }
}

fn event(told: &Told) -> Event {
    let kind = match told.event {
        NoticeKind::Added => "ADDED",
        NoticeKind::Modified => "MODIFIED",
        NoticeKind::Deleted => "DELETED",
    };
    let event = data(kind, &told.object);
    match told.revision {
        Some(revision) => event.id(revision.to_string()),
        None => event,
    }
}

fn data<T: Serialize>(kind: &str, object: &T) -> Event {
    let data = Data {
        r#type: kind,
        object,
    };
    Event::default()
        .json_data(data)
        .unwrap_or_else(|error| Event::default().comment(error.to_string()))
}
