//! The body of a request on its way to an endpoint, as fast as the endpoint takes it.

use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use h2::client::ResponseFuture;
use h2::{Reason, RecvStream, SendStream};
use http::Response;
use http_body::Body as _;

use crate::proxy::http::body::Outgoing;
use crate::proxy::worker::Worker;

/// A body and the stream on which it goes. Dropped before its end, it takes the stream with it.
pub(super) struct Sending {
    worker: Arc<Worker>,
    body: Outgoing,
    stream: SendStream<Bytes>,
}

/// Why a body is sent no further.
enum End {
    /// It has ended.
    Sent,
    /// The body broke off.
    Broken,
    /// The stream or the connection has ended; whoever awaits the answer hears why.
    Closed,
}

impl Sending {
    pub(super) const fn new(
        worker: Arc<Worker>,
        body: Outgoing,
        stream: SendStream<Bytes>,
    ) -> Self {
        Self {
            worker,
            body,
            stream,
        }
    }

    /// Awaits the answer and sends the body meanwhile. What is left of the body when the answer begins is sent on the side.
    pub(super) async fn beside(
        mut self,
        response: ResponseFuture,
    ) -> Result<Response<RecvStream>, h2::Error> {
        let mut response = pin!(response);
        let mut is_over = false;
        let response = poll_fn(|cx| {
            is_over = is_over || self.poll(cx).is_ready();
            response.as_mut().poll(cx)
        });
        let response = response.await?;
        if !is_over {
            let worker = Arc::clone(&self.worker);
            worker.spawn(async move { poll_fn(|cx| self.poll(cx)).await });
        }
        Ok(response)
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if let End::Broken = ready!(self.poll_end(cx)) {
            // The endpoint must not take for whole what is not.
            self.stream.send_reset(Reason::CANCEL);
        }
        Poll::Ready(())
    }

    fn poll_end(&mut self, cx: &mut Context<'_>) -> Poll<End> {
        loop {
            if ready!(self.poll_room(cx)).is_none() {
                return Poll::Ready(End::Closed);
            }
            let frame = match ready!(Pin::new(&mut self.body).poll_frame(cx)) {
                Some(Ok(frame)) => frame,
                Some(Err(_)) => return Poll::Ready(End::Broken),
                None => return Poll::Ready(self.finish(Bytes::new())),
            };
            let data = match frame.into_data() {
                Ok(data) => data,
                Err(frame) => {
                    let Ok(trailers) = frame.into_trailers() else {
                        continue;
                    };
                    let sent = self.stream.send_trailers(trailers);
                    return Poll::Ready(sent.map_or(End::Closed, |()| End::Sent));
                }
            };
            if self.body.is_end_stream() {
                return Poll::Ready(self.finish(data));
            }
            if self.stream.send_data(data, false).is_err() {
                return Poll::Ready(End::Closed);
            }
        }
    }

    fn finish(&mut self, data: Bytes) -> End {
        let sent = self.stream.send_data(data, true);
        sent.map_or(End::Closed, |()| End::Sent)
    }

    /// Waits until the endpoint takes at least a byte more, so that no more than a frame waits here. `None` where it takes
    /// nothing any more.
    fn poll_room(&mut self, cx: &mut Context<'_>) -> Poll<Option<()>> {
        self.stream.reserve_capacity(1);
        while self.stream.capacity() == 0 {
            match ready!(self.stream.poll_capacity(cx)) {
                Some(Ok(_)) => {}
                Some(Err(_)) | None => return Poll::Ready(None),
            }
        }
        let is_reset = self.stream.poll_reset(cx).is_ready();
        Poll::Ready((!is_reset).then_some(()))
    }
}
