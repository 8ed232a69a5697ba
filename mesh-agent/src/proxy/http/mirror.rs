//! Copies of requests for other services. They never delay or fail the request that they are copies of: what a copy
//! cannot keep up with is cut off, and answers are thrown away.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::request::Parts;
use http::{HeaderMap, Request};
use http_body::{Body, Frame};
use http_body_util::BodyExt as _;
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::Connection;
use super::body::Outgoing;
use super::guarded::Broken;
use super::headers::{self, Wish};
use crate::proxy::error::Error;
use crate::proxy::pool::{self, Queued, Wanted};
use crate::proxy::select::Selection;
use crate::proxy::view::ServicePort;
use crate::traffic::route::filter::{Filters, Mirror};

/// Copies that one worker may have under way.
pub(crate) const MAX_COPIES: usize = 256;
/// Bytes of a body that may wait for a copy's reader.
const MAX_BEHIND: usize = 64 * 1024;
/// Parts of a body that may wait, whatever their size.
const MAX_PARTS: usize = 64;
/// How long a copy may take, with its answer.
const PATIENCE: Duration = Duration::from_secs(30);
/// Bytes of an answer that are read for the sake of the connection.
const MAX_ANSWER: usize = 256 * 1024;

/// A part of a body, for a copy.
#[derive(Debug)]
enum Part {
    Data(Bytes),
    Trailers(HeaderMap),
    End,
}

/// Passes a body on to a copy as long as that keeps up. One that does not is ended at once.
#[derive(Debug)]
pub(crate) struct Tee {
    parts: Option<mpsc::Sender<Part>>,
    behind: Arc<AtomicUsize>,
    cut: CancellationToken,
}

impl Tee {
    /// A part of the body has come.
    pub(crate) fn frame(&mut self, frame: &Frame<Bytes>) {
        if let Some(data) = frame.data_ref() {
            let waiting = self.behind.fetch_add(data.len(), Ordering::Relaxed);
            if waiting + data.len() > MAX_BEHIND {
                self.break_off();
            }
            self.pass(Part::Data(data.clone()));
        } else if let Some(trailers) = frame.trailers_ref() {
            self.pass(Part::Trailers(trailers.clone()));
        }
    }

    /// The body has ended as its sender meant it to.
    pub(crate) fn end(&mut self) {
        self.pass(Part::End);
        self.parts = None;
    }

    fn pass(&mut self, part: Part) {
        if let Some(parts) = &self.parts
            && parts.try_send(part).is_err()
        {
            self.break_off();
        }
    }

    /// Without its end the body counts as broken.
    fn break_off(&mut self) {
        self.parts = None;
        self.cut.cancel();
    }
}

impl Drop for Tee {
    fn drop(&mut self) {
        if self.parts.is_some() {
            self.break_off();
        }
    }
}

/// The body of a copy.
#[derive(Debug)]
pub(crate) struct Copied {
    parts: mpsc::Receiver<Part>,
    behind: Arc<AtomicUsize>,
    has_ended: bool,
}

impl Body for Copied {
    type Data = Bytes;
    type Error = Broken;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        let this = self.get_mut();
        if this.has_ended {
            return Poll::Ready(None);
        }
        Poll::Ready(match ready!(this.parts.poll_recv(cx)) {
            Some(Part::Data(data)) => {
                this.behind.fetch_sub(data.len(), Ordering::Relaxed);
                Some(Ok(Frame::data(data)))
            }
            Some(Part::Trailers(trailers)) => Some(Ok(Frame::trailers(trailers))),
            Some(Part::End) => {
                this.has_ended = true;
                None
            }
            None => Some(Err(Broken::Quietly)),
        })
    }
}

fn tee() -> (Tee, Copied) {
    let (sender, receiver) = mpsc::channel(MAX_PARTS);
    let behind = Arc::new(AtomicUsize::new(0));
    let copied = Copied {
        parts: receiver,
        behind: Arc::clone(&behind),
        has_ended: false,
    };
    let tee = Tee {
        parts: Some(sender),
        behind,
        cut: CancellationToken::new(),
    };
    (tee, copied)
}

/// Sends the copies that the filters of a rule or a backend ask for. What comes back wants the body, if there is one.
pub(crate) fn send(
    connection: &Arc<Connection>,
    filters: &Filters,
    parts: &Parts,
    wish: &Wish,
    has_body: bool,
) -> Vec<Tee> {
    let mut tees = Vec::new();
    if wish.may_tunnel() {
        return tees;
    }
    for mirror in &filters.mirrors {
        if !mirror.takes(rand::random()) {
            continue;
        }
        let tees = has_body.then_some(&mut tees);
        if copy(connection, mirror, parts, wish, tees).is_none() {
            connection.worker.metrics.mirrored("dropped");
        }
    }
    tees
}

/// Sends one copy; its body, if there is one, is added to `tees`. `None` where that cannot be.
fn copy(
    connection: &Arc<Connection>,
    mirror: &Mirror,
    parts: &Parts,
    wish: &Wish,
    tees: Option<&mut Vec<Tee>>,
) -> Option<()> {
    let worker = &connection.worker;
    let port = {
        let view = worker.views.load();
        Arc::clone(view.backend(mirror.target.as_ref()?)?)
    };
    let room = Arc::clone(&worker.mirrors).try_acquire_owned().ok()?;
    let is_http2 = super::forward::speaks_http2(&port, connection);
    let mut parts = parts.clone();
    headers::rewrite(&mut parts, wish, &port.host, is_http2, tees.is_some()).ok()?;
    let (cut, body) = match tees {
        Some(tees) => {
            let (tee, copied) = tee();
            let cut = tee.cut.clone();
            tees.push(tee);
            (Some(cut), Outgoing::Copied(copied))
        }
        None => (None, Outgoing::Empty),
    };
    let copy = Copy {
        connection: Arc::clone(connection),
        port,
        is_http2,
        cut,
        _room: room,
    };
    worker.spawn(copy.run(Request::from_parts(parts, body)));
    Some(())
}

/// A copy under way.
struct Copy {
    connection: Arc<Connection>,
    port: Arc<ServicePort>,
    is_http2: bool,
    /// Says that the copy has fallen behind.
    cut: Option<CancellationToken>,
    _room: OwnedSemaphorePermit,
}

impl Copy {
    async fn run(self, request: Request<Outgoing>) {
        let worker = &self.connection.worker;
        let service = &self.port.service;
        let cut = async {
            match &self.cut {
                Some(cut) => cut.cancelled().await,
                None => std::future::pending().await,
            }
        };
        let result = tokio::select! {
            () = cut => Err(Error::BrokenBody),
            // A client that is gone, or an agent that stops, is not kept waiting for copies.
            () = worker.draining.cancelled() => Err(Error::Draining),
            result = timeout(PATIENCE, self.exchange(request)) => {
                result.unwrap_or(Err(Error::Idle))
            }
        };
        match result {
            Ok(()) => worker.metrics.mirrored("sent"),
            Err(error) => {
                tracing::debug!(%service, reason = error.reason(), %error, "copy of a request failed");
                worker.metrics.mirrored("failed");
            }
        }
    }

    async fn exchange(&self, request: Request<Outgoing>) -> Result<(), Error> {
        let worker = &self.connection.worker;
        let caller = &self.connection.caller;
        let mut selection = Selection::of_connection(Arc::clone(&self.port), caller);
        let active = selection.next(worker, caller, &mut |_, _| Ok(()))?;
        selection.begin(&worker.metrics);
        let endpoint = active.endpoint();
        let queued = Queued::default();
        let wanted = Wanted {
            worker,
            caller,
            policy: None,
            port: selection.port(),
            endpoint,
            queued: &queued,
        };
        let mut lease = if self.is_http2 {
            pool::http2(wanted).await?
        } else {
            pool::http1(wanted).await?
        };
        let failed = |source| Error::Upstream {
            endpoint: endpoint.address,
            source,
        };
        let response = lease.send(worker, Box::new(request), None).await;
        let response = response.map_err(|error| failed(error.source))?;
        let mut body = response.into_body();
        let mut length = 0;
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(failed)?;
            length += frame.data_ref().map_or(0, Bytes::len);
            if length > MAX_ANSWER {
                return Ok(());
            }
        }
        worker.pool.give_back(worker, lease);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn data(length: usize) -> Frame<Bytes> {
        Frame::data(Bytes::from(vec![0; length]))
    }

    #[tokio::test]
    async fn a_body_is_passed_on_with_its_end() {
        let (mut tee, copied) = tee();
        tee.frame(&data(3));
        tee.frame(&Frame::trailers(HeaderMap::new()));
        tee.end();
        let collected = copied.collect().await.unwrap();
        assert!(collected.trailers().is_some());
        assert_eq!(collected.to_bytes().len(), 3);
    }

    #[tokio::test]
    async fn a_reader_that_keeps_up_gets_bodies_of_any_size() {
        let (mut tee, mut copied) = tee();
        for _ in 0..10 {
            tee.frame(&data(MAX_BEHIND));
            assert!(copied.frame().await.unwrap().is_ok());
        }
        tee.end();
        assert!(copied.frame().await.is_none());
    }

    #[tokio::test]
    async fn a_body_that_was_not_kept_up_with_breaks_off() {
        for (length, count) in [(MAX_BEHIND / 2 + 1, 2), (1, MAX_PARTS + 1)] {
            let (mut tee, copied) = tee();
            for _ in 0..count {
                tee.frame(&data(length));
            }
            tee.end();
            assert!(copied.collect().await.is_err(), "{length} {count}");
        }
    }

    #[tokio::test]
    async fn a_body_whose_sender_broke_off_breaks_off() {
        let (mut tee, copied) = tee();
        tee.frame(&data(3));
        drop(tee);
        assert!(copied.collect().await.is_err());
    }
}
