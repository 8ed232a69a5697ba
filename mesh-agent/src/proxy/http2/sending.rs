//! A body on its way to an endpoint or to a client, as fast as it is taken.

use std::error::Error;
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use h2::{Reason, RecvStream, SendStream};
use http::Response;
use tokio::sync::oneshot;

use super::link::Head;
use crate::proxy::http::body::{Limited, Outgoing};

/// A body and the stream on which it goes. Dropped before its end, it takes the stream with it.
pub(super) struct Sending<B> {
    body: B,
    stream: SendStream<Bytes>,
    /// What the peer has no room for yet.
    waiting: Option<Bytes>,
}

/// Why a body is sent no further.
enum End<E> {
    /// It has ended.
    Sent,
    /// The body broke off.
    Broken(E),
    /// The stream or the connection has ended; whoever uses it hears why.
    Closed,
}

impl<B: Limited<Data = Bytes, Error: Error + 'static> + Unpin> Sending<B> {
    pub(super) const fn new(body: B, stream: SendStream<Bytes>) -> Self {
        Self {
            body,
            stream,
            waiting: None,
        }
    }

    /// Sends on, to the end of the body or of the stream.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if let End::Broken(error) = ready!(self.poll_end(cx)) {
            // The peer must not take for whole what is not.
            self.stream.send_reset(reason(&error));
        }
        Poll::Ready(())
    }

    fn poll_end(&mut self, cx: &mut Context<'_>) -> Poll<End<B::Error>> {
        loop {
            if self.stream.poll_reset(cx).is_ready() {
                return Poll::Ready(End::Closed);
            }
            match self.poll_waiting(cx) {
                Poll::Ready(Some(())) => {}
                Poll::Ready(None) => return Poll::Ready(End::Closed),
                Poll::Pending => return self.body.poll_limit(cx).map(End::Broken),
            }
            // Nothing is reserved before there is something to send: what one stream holds for nothing others lack.
            let frame = match ready!(Pin::new(&mut self.body).poll_frame(cx)) {
                Some(Ok(frame)) => frame,
                Some(Err(error)) => return Poll::Ready(End::Broken(error)),
                None => return Poll::Ready(self.end_with(Bytes::new())),
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
                return Poll::Ready(self.end_with(data));
            }
            if !data.is_empty() {
                self.stream.reserve_capacity(1);
                self.waiting = Some(data);
            }
        }
    }

    fn end_with(&mut self, data: Bytes) -> End<B::Error> {
        let sent = self.stream.send_data(data, true);
        sent.map_or(End::Closed, |()| End::Sent)
    }

    /// Sends what waits once there is room for at least a byte: in the window of the peer, and among what h2 keeps. So no more
    /// than a frame waits here. `None` where nothing is taken any more.
    fn poll_waiting(&mut self, cx: &mut Context<'_>) -> Poll<Option<()>> {
        if self.waiting.is_none() {
            return Poll::Ready(Some(()));
        }
        while self.stream.capacity() == 0 {
            match ready!(self.stream.poll_capacity(cx)) {
                Some(Ok(_)) => {}
                Some(Err(_)) | None => return Poll::Ready(None),
            }
        }
        self.body.moved();
        let data = self.waiting.take().unwrap_or_default();
        Poll::Ready(self.stream.send_data(data, false).ok())
    }
}

impl Sending<Outgoing> {
    /// Awaits the answer and sends the body meanwhile. Gives back what is left to do when the answer begins.
    pub(super) async fn beside(
        mut self,
        response: Head,
    ) -> Result<(Response<RecvStream>, Option<Self>), h2::Error> {
        let mut response = pin!(response);
        let mut is_over = false;
        let response = poll_fn(|cx| {
            is_over = is_over || self.poll(cx).is_ready();
            response.as_mut().poll(cx)
        });
        let response = response.await?;
        Ok((response, (!is_over).then_some(self)))
    }

    /// Sends on beside the answer. An answer that nobody wants any more takes the body with it: h2 tells the endpoint when
    /// both ends of the stream are gone, and an endpoint that takes nothing would keep this one for ever.
    pub(super) async fn follow(mut self, answer: oneshot::Receiver<()>) -> Option<Self> {
        tokio::select! {
            biased;
            () = poll_fn(|cx| self.poll(cx)) => None,
            ended = answer => {
                if ended.is_ok() {
                    return Some(self);
                }
                self.stream.send_reset(Reason::CANCEL);
                None
            }
        }
    }

    /// Sends on to the end.
    pub(super) async fn finish(mut self) {
        poll_fn(|cx| self.poll(cx)).await;
    }
}

/// What the peer is told of a body that broke off: what its sender has told, unless that says that nothing is wrong, or that
/// nothing was done.
fn reason(error: &(dyn Error + 'static)) -> Reason {
    let mut causes = std::iter::successors(Some(error), |error| Error::source(*error));
    causes
        .find_map(|cause| cause.downcast_ref::<h2::Error>()?.reason())
        .filter(|reason| !matches!(*reason, Reason::NO_ERROR | Reason::REFUSED_STREAM))
        .unwrap_or(Reason::INTERNAL_ERROR)
}
