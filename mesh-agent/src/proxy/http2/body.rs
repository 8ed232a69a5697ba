//! A body that is received.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use h2::{Reason, RecvStream};
use http::HeaderMap;
use http::header::CONTENT_LENGTH;
use http_body::{Body as HttpBody, Frame, SizeHint};
use tokio::sync::oneshot;

/// Gives the peer room for more as it is read.
#[derive(Debug)]
pub(crate) struct Body {
    stream: RecvStream,
    /// Bytes to come, where the peer has said so; h2 holds it to that.
    left: Option<u64>,
    has_data_ended: bool,
    has_ended: bool,
    /// Hears when it has ended; or that it never will, when this is dropped.
    told: Option<oneshot::Sender<()>>,
    /// Hears when it is first waited for; or that it has come before, when this is dropped.
    invited: Option<oneshot::Sender<()>>,
}

impl Body {
    pub(super) fn new(stream: RecvStream, headers: &HeaderMap) -> Self {
        let length = headers.get(CONTENT_LENGTH);
        let stated = length.and_then(|length| length.to_str().ok()?.parse().ok());
        Self {
            left: stated.or_else(|| stream.is_end_stream().then_some(0)),
            stream,
            has_data_ended: false,
            has_ended: false,
            told: None,
            invited: None,
        }
    }

    /// Hears whether it is waited for, of which its sender wants to be told first.
    pub(super) fn invitation(&mut self) -> oneshot::Receiver<()> {
        let (tell, told) = oneshot::channel();
        self.invited = Some(tell);
        told
    }

    /// Hears whether the body is read to its end, when it has been.
    pub(super) fn fate(&mut self) -> oneshot::Receiver<()> {
        let (tell, told) = oneshot::channel();
        self.told = Some(tell);
        told
    }

    fn poll_data(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, h2::Error>>> {
        let data = self.stream.poll_data(cx);
        if let Some(invited) = self.invited.take()
            && data.is_pending()
        {
            // Whoever sends it may have lost patience.
            let _gone = invited.send(());
        }
        let data = ready!(data);
        if let Some(Ok(data)) = &data {
            let length = data.len();
            // Fails where the stream has ended meanwhile, and its window matters to nobody.
            drop(self.stream.flow_control().release_capacity(length));
            let length = u64::try_from(length).unwrap_or(u64::MAX);
            self.left = self.left.map(|left| left.saturating_sub(length));
        }
        Poll::Ready(data)
    }
}

impl HttpBody for Body {
    type Data = Bytes;
    type Error = h2::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, h2::Error>>> {
        let this = self.get_mut();
        if this.has_ended {
            return Poll::Ready(None);
        }
        if !this.has_data_ended {
            match ready!(this.poll_data(cx)) {
                Some(Ok(data)) => return Poll::Ready(Some(Ok(Frame::data(data)))),
                // All has come, and the endpoint wants no more of the request: RFC 9113, 8.1.
                Some(Err(error))
                    if error.reason() == Some(Reason::NO_ERROR) && this.left == Some(0) => {}
                Some(Err(error)) => return Poll::Ready(Some(Err(error))),
                None => this.has_data_ended = true,
            }
        }
        let trailers = if this.has_data_ended {
            ready!(this.stream.poll_trailers(cx))
        } else {
            Ok(None)
        };
        this.has_ended = true;
        Poll::Ready(
            trailers
                .map(|trailers| trailers.map(Frame::trailers))
                .transpose(),
        )
    }

    fn is_end_stream(&self) -> bool {
        self.has_ended || self.stream.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.left
            .map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}

impl Drop for Body {
    fn drop(&mut self) {
        if let Some(told) = self.told.take()
            && (self.is_end_stream() || self.left == Some(0))
        {
            // Whoever sent the request may have finished.
            let _gone = told.send(());
        }
    }
}
