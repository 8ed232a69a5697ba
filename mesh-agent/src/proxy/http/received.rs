//! Bodies as they are received: from clients and from endpoints, of both versions.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use tokio::time::timeout;

use crate::proxy::error::Cause;
use crate::proxy::http2::{self, Tunnel};
use crate::proxy::pool::Lease;
use crate::proxy::worker::Worker;

/// Bodies of answers that nobody gets are read up to this size, so that their connection may serve again.
const MAX_DRAIN: u64 = 64 * 1024;
/// And for as long.
const DRAIN_TIME: Duration = Duration::from_secs(1);

/// A body that is received.
#[derive(Debug)]
pub(crate) enum Received {
    /// From whom speaks HTTP/1.1.
    Hyper(Incoming),
    /// From whom speaks HTTP/2.
    Stream(http2::Body),
    /// None, for a CONNECT was granted.
    Tunnel(Box<Tunnel>),
    /// None, for a CONNECT asks.
    Nothing,
}

impl Received {
    /// Nobody gets it, or what is left of it. If that is short it is read to its end on the side; more of it costs the
    /// connection, or the stream.
    pub(crate) fn discard(mut self, worker: &Arc<Worker>, lease: Lease) {
        if self.is_end_stream() {
            worker.pool.give_back(worker, lease);
            return;
        }
        if self.size_hint().upper().is_none_or(|size| size > MAX_DRAIN) {
            return;
        }
        let reader = Arc::clone(worker);
        worker.spawn(async move {
            let drained = timeout(DRAIN_TIME, async {
                while let Some(frame) = self.frame().await {
                    if frame.is_err() {
                        return false;
                    }
                }
                true
            });
            if drained.await == Ok(true) {
                reader.pool.give_back(&reader, lease);
            }
        });
    }
}

impl Body for Received {
    type Data = Bytes;
    type Error = Cause;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Cause>>> {
        match self.get_mut() {
            Self::Hyper(body) => Pin::new(body).poll_frame(cx).map_err(Cause::from),
            Self::Stream(body) => Pin::new(body).poll_frame(cx).map_err(Cause::from),
            Self::Tunnel(_) | Self::Nothing => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Hyper(body) => body.is_end_stream(),
            Self::Stream(body) => body.is_end_stream(),
            Self::Tunnel(_) | Self::Nothing => true,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Hyper(body) => body.size_hint(),
            Self::Stream(body) => body.size_hint(),
            Self::Tunnel(_) | Self::Nothing => SizeHint::with_exact(0),
        }
    }
}
