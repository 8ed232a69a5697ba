//! Datagram sockets inside a pod.

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::UdpSocket;
use tokio::time::timeout;

use crate::protocol::{Answer, Connected, Failure, Seen};

/// A datagram socket at an address; IPv6 sockets take v4-mapped addresses too.
pub(crate) fn bind(address: SocketAddr) -> io::Result<UdpSocket> {
    let domain = Domain::for_address(address);
    let socket = Socket::new(domain, Type::DGRAM, Some(Protocol::UDP))?;
    if address.is_ipv6() {
        socket.set_only_v6(false)?;
    }
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    UdpSocket::from_std(socket.into())
}

/// Answers with a name and what came, until it is stopped.
pub(crate) async fn answer(socket: UdpSocket, name: String, seen: Arc<Mutex<Seen>>) {
    let mut buffer = vec![0; 65_536];
    loop {
        // Of an answer that could not be delivered the next call tells.
        let Ok((length, from)) = socket.recv_from(&mut buffer).await else {
            continue;
        };
        {
            let mut seen = seen.lock().unwrap();
            seen.connections += 1;
            let source = from.ip().to_canonical().to_string();
            *seen.sources.entry(source).or_default() += 1;
        }
        let text = String::from_utf8_lossy(&buffer[..length]).into_owned();
        drop(
            socket
                .send_to(format!("{name} {text}").as_bytes(), from)
                .await,
        );
    }
}

pub(crate) async fn open(
    number: u64,
    at: SocketAddr,
    connect: Option<SocketAddr>,
) -> Result<(UdpSocket, Connected), Failure> {
    let socket = bind(at)?;
    if let Some(to) = connect {
        socket.connect(to).await?;
    }
    let connected = Connected {
        conn: number,
        local: socket.local_addr()?,
        peer: if connect.is_some() {
            socket.peer_addr()?
        } else {
            at
        },
    };
    Ok((socket, connected))
}

pub(crate) async fn send(
    socket: &UdpSocket,
    to: Option<SocketAddr>,
    text: &str,
) -> Result<Answer, Failure> {
    match to {
        Some(to) => socket.send_to(text.as_bytes(), to).await?,
        None => socket.send(text.as_bytes()).await?,
    };
    Ok(Answer::Done)
}

pub(crate) async fn receive(socket: &UdpSocket, millis: u64) -> Result<Answer, Failure> {
    let mut buffer = vec![0; 65_536];
    let received = timeout(Duration::from_millis(millis), socket.recv_from(&mut buffer));
    let (length, from) = received
        .await
        .map_err(|_elapsed| io::Error::from(io::ErrorKind::TimedOut))??;
    Ok(Answer::Datagram {
        from,
        text: String::from_utf8_lossy(&buffer[..length]).into_owned(),
    })
}
