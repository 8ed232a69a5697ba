//! Asks the resolver that a workload meant, from the workload's network namespace: bytes out, bytes in.

use std::io;
use std::net::SocketAddr;
use std::os::fd::AsFd as _;
use std::time::Duration;

use futures_util::future::select_ok;
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
    /// Who is asked where that one does not answer.
    pub(super) spare: Option<SocketAddr>,
    /// What the hooks shall know of the socket, beside where it leads.
    pub(super) conn: Conn,
    /// For the whole exchange.
    pub(super) limit: Duration,
}

impl Upstream<'_> {
    /// Asks over UDP, twice: a datagram may be lost. The second one goes to the spare, if there is one.
    pub(super) async fn datagram(&self, question: &[u8]) -> io::Result<Vec<u8>> {
        let end = Instant::now() + self.limit;
        let first = match self.send(self.address, question).await {
            Ok(first) => match timeout(self.limit / 2, answer_to(&first, question)).await {
                Ok(Ok(answer)) => return Ok(answer),
                Ok(Err(error)) => Err(error),
                Err(_) => Ok(first),
            },
            Err(error) => Err(error),
        };
        match (first, self.spare) {
            (Ok(first), None) => {
                first.send(question).await?;
                timeout_at(end, answer_to(&first, question)).await?
            }
            (Ok(first), Some(spare)) => {
                let second = self.send(spare, question).await?;
                let both = [&first, &second].map(|it| Box::pin(answer_to(it, question)));
                let (answer, _) = timeout_at(end, select_ok(both)).await??;
                Ok(answer)
            }
            (Err(_), Some(spare)) => {
                let second = self.send(spare, question).await?;
                timeout_at(end, answer_to(&second, question)).await?
            }
            (Err(error), None) => Err(error),
        }
    }

    /// Sends a question from a socket of its own.
    async fn send(&self, to: SocketAddr, question: &[u8]) -> io::Result<UdpSocket> {
        let socket = socket::datagram(self.netns, to)?;
        self.conns.mark(socket.as_fd(), &self.conn_to(to))?;
        let socket = UdpSocket::from_std(socket.into())?;
        // Only what this address sends is received, and that it refuses is told.
        socket.connect(to).await?;
        socket.send(question).await?;
        Ok(socket)
    }

    /// Asks over TCP.
    pub(super) async fn stream(&self, question: &[u8]) -> io::Result<Vec<u8>> {
        let exchange = async {
            let mut stream = self.asked(question).await?;
            read_message(&mut stream).await
        };
        timeout(self.limit, exchange).await?
    }

    /// A connection on which a question was asked.
    pub(super) async fn transfer(&self, question: &[u8]) -> io::Result<TcpStream> {
        timeout(self.limit, self.asked(question)).await?
    }

    async fn asked(&self, question: &[u8]) -> io::Result<TcpStream> {
        let mut stream = match (self.dial(self.address).await, self.spare) {
            (Err(_), Some(spare)) => self.dial(spare).await?,
            (dialled, _) => dialled?,
        };
        write_message(&mut stream, question).await?;
        Ok(stream)
    }

    /// Connects; with a spare in half the time.
    async fn dial(&self, to: SocketAddr) -> io::Result<TcpStream> {
        let socket = socket::dial(self.netns, to, None)?;
        self.conns.mark(socket.as_fd(), &self.conn_to(to))?;
        if let Err(error) = socket.connect(&to.into())
            && error.raw_os_error() != Some(libc::EINPROGRESS)
        {
            return Err(error);
        }
        let stream = TcpStream::from_std(socket.into())?;
        let limit = self.limit / if self.spare.is_some() { 2 } else { 1 };
        timeout(limit, stream.writable()).await??;
        match stream.take_error()? {
            Some(error) => Err(error),
            None => Ok(stream),
        }
    }

    fn conn_to(&self, address: SocketAddr) -> Conn {
        Conn {
            original: address.into(),
            ..self.conn
        }
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

/// Passes on what both sides send, as it comes, until the server closes or nobody has sent anything for a while.
pub(super) async fn relay(client: &mut TcpStream, server: &mut TcpStream, idle: Duration) {
    let (mut asked, mut answered) = (vec![0; RELAY_BYTES], vec![0; RELAY_BYTES]);
    let mut asks = true;
    let mut pass = async || {
        tokio::select! {
            read = client.read(&mut asked), if asks => {
                let bytes = asked.get(..read?).unwrap_or_default();
                server.write_all(bytes).await?;
                if bytes.is_empty() {
                    // It may still want the answers.
                    asks = false;
                    server.shutdown().await?;
                }
                io::Result::Ok(true)
            }
            read = server.read(&mut answered) => {
                let bytes = answered.get(..read?).unwrap_or_default();
                client.write_all(bytes).await?;
                Ok(!bytes.is_empty())
            }
        }
    };
    while let Ok(Ok(true)) = timeout(idle, pass()).await {}
}

/// Read at a time while a zone is passed on.
const RELAY_BYTES: usize = 16 << 10;

#[cfg(test)]
mod tests;
