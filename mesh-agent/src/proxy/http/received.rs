//! Bodies as they are received: from clients and from endpoints, of both versions.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;

use crate::proxy::error::Cause;
use crate::proxy::http2::{self, Tunnel};

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
