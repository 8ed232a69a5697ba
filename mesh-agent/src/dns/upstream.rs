//! Asks the resolver that a workload meant, from the workload's network namespace: bytes out, bytes in.

use std::io;
use std::net::SocketAddr;
use std::os::fd::AsFd as _;
use std::time::Duration;

use mesh_common::conn::Conn;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::{Instant, timeout, timeout_at};

use super::listener::{MAX_MESSAGE, receive};
use crate::net::conn::ConnTable;
use crate::net::netns::Netns;
use crate::net::socket;

/// Where to ask.
#[derive(Clone, Copy)]
pub(super) struct Upstream<'a> {
    pub(super) netns: &'a Netns,
    pub(super) conns: &'a dyn ConnTable,
    pub(super) address: SocketAddr,
    /// What the hooks shall know of the socket.
    pub(super) conn: Conn,
    /// For the whole exchange.
    pub(super) limit: Duration,
}

impl Upstream<'_> {
    /// Asks over UDP, twice: a datagram may be lost.
    pub(super) async fn datagram(&self, question: &[u8]) -> io::Result<Vec<u8>> {
        let socket = socket::datagram(self.netns, self.address)?;
        self.conns.mark(socket.as_fd(), &self.conn)?;
        let socket = UdpSocket::from_std(socket.into())?;
        // Only what this address sends is received, and that it refuses is told.
        socket.connect(self.address).await?;
        let end = Instant::now() + self.limit;
        socket.send(question).await?;
        let again = timeout(self.limit / 2, answer_to(&socket, question)).await;
        if let Ok(answer) = again {
            return answer;
        }
        socket.send(question).await?;
        timeout_at(end, answer_to(&socket, question)).await?
    }

    /// Asks over TCP.
    pub(super) async fn stream(&self, question: &[u8]) -> io::Result<Vec<u8>> {
        timeout(self.limit, self.exchange(question)).await?
    }

    async fn exchange(&self, question: &[u8]) -> io::Result<Vec<u8>> {
        let socket = socket::dial(self.netns, self.address, None)?;
        self.conns.mark(socket.as_fd(), &self.conn)?;
        if let Err(error) = socket.connect(&self.address.into())
            && error.raw_os_error() != Some(libc::EINPROGRESS)
        {
            return Err(error);
        }
        let mut stream = TcpStream::from_std(socket.into())?;
        stream.writable().await?;
        if let Some(error) = stream.take_error()? {
            return Err(error);
        }
        write_message(&mut stream, question).await?;
        read_message(&mut stream).await
    }
}

/// Waits for the answer to a question; others, late from an earlier one, are passed over.
async fn answer_to(socket: &UdpSocket, question: &[u8]) -> io::Result<Vec<u8>> {
    loop {
        socket.readable().await?;
        match receive(socket) {
            Ok((answer, _)) if answer.get(..2) == question.get(..2) => return Ok(answer),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
}

/// Reads a message with its length before it (RFC 1035, 4.2.2).
pub(super) async fn read_message(stream: &mut TcpStream) -> io::Result<Vec<u8>> {
    let length = stream.read_u16().await?;
    let mut message = vec![0; usize::from(length)];
    stream.read_exact(&mut message).await?;
    Ok(message)
}

/// Writes a message with its length before it, in one piece.
pub(super) async fn write_message(stream: &mut TcpStream, message: &[u8]) -> io::Result<()> {
    let length = u16::try_from(message.len()).unwrap_or(u16::MAX);
    let mut framed = Vec::with_capacity(MAX_MESSAGE.min(message.len()) + 2);
    framed.extend_from_slice(&length.to_be_bytes());
    framed.extend_from_slice(message.get(..usize::from(length)).unwrap_or_default());
    stream.write_all(&framed).await
}
