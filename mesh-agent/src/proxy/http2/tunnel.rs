//! The bytes that follow a CONNECT.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use h2::{Reason, RecvStream, SendStream};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// A stream as a connection. Dropped before its end, it is reset.
#[derive(Debug)]
pub(crate) struct Tunnel {
    sender: SendStream<Bytes>,
    receiver: RecvStream,
    /// What has come and was not read yet.
    rest: Bytes,
    is_shut: bool,
}

impl Tunnel {
    pub(super) const fn new(sender: SendStream<Bytes>, receiver: RecvStream) -> Self {
        Self {
            sender,
            receiver,
            rest: Bytes::new(),
            is_shut: false,
        }
    }
}

impl AsyncRead for Tunnel {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        while this.rest.is_empty() {
            match ready!(this.receiver.poll_data(cx)) {
                Some(Ok(data)) => this.rest = data,
                Some(Err(error)) if error.reason() == Some(Reason::NO_ERROR) => {
                    return Poll::Ready(Ok(()));
                }
                Some(Err(error)) => return Poll::Ready(Err(into_io(error))),
                None => return Poll::Ready(Ok(())),
            }
        }
        let length = this.rest.len().min(buffer.remaining());
        buffer.put_slice(&this.rest.split_to(length));
        // Fails where the stream has ended meanwhile, and its window matters to nobody.
        drop(this.receiver.flow_control().release_capacity(length));
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Tunnel {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if data.is_empty() {
            return Poll::Ready(Ok(0));
        }
        this.sender.reserve_capacity(data.len());
        while this.sender.capacity() == 0 {
            match ready!(this.sender.poll_capacity(cx)) {
                Some(Ok(_)) => {}
                Some(Err(error)) => return Poll::Ready(Err(into_io(error))),
                None => return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
            }
        }
        let length = this.sender.capacity().min(data.len());
        let (part, _) = data.split_at_checked(length).unwrap_or_default();
        let part = Bytes::copy_from_slice(part);
        let sent = this.sender.send_data(part, false);
        Poll::Ready(sent.map(|()| length).map_err(into_io))
    }

    /// Nothing is kept here; the connection's own task writes.
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !std::mem::replace(&mut self.is_shut, true) {
            self.sender.send_data(Bytes::new(), true).map_err(into_io)?;
        }
        Poll::Ready(Ok(()))
    }
}

fn into_io(error: h2::Error) -> io::Error {
    if error.is_io() {
        return error
            .into_io()
            .unwrap_or_else(|| io::ErrorKind::BrokenPipe.into());
    }
    io::Error::new(io::ErrorKind::ConnectionReset, error)
}
