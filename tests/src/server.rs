//! The fake servers inside a pod: the only ones.

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::task::{JoinHandle, JoinSet};

use crate::datagram;
use crate::protocol::{Seen, ServerKind};
use crate::resolver;
use crate::resolver::Zone;
use crate::stream::{is_pattern, receive, redial};

mod http;

/// A server that runs.
pub(crate) struct Server {
    address: SocketAddr,
    seen: Arc<Mutex<Seen>>,
    task: JoinHandle<()>,
}

impl Server {
    pub(crate) fn start(kind: ServerKind, address: SocketAddr) -> io::Result<Self> {
        if let ServerKind::Datagrams { name } = kind {
            return Self::start_datagrams(name, address);
        }
        if let ServerKind::Resolver { name, hosts } = kind {
            return Self::start_resolver(Zone { name, hosts }, address);
        }
        let socket = if address.is_ipv4() {
            TcpSocket::new_v4()?
        } else {
            TcpSocket::new_v6()?
        };
        socket.set_reuseaddr(true)?;
        socket.bind(address)?;
        let listener = socket.listen(4_096)?;
        let address = listener.local_addr()?;
        let seen = Arc::default();
        let task = tokio::spawn(accept(listener, Arc::new(kind), Arc::clone(&seen)));
        Ok(Self {
            address,
            seen,
            task,
        })
    }

    fn start_datagrams(name: String, address: SocketAddr) -> io::Result<Self> {
        let socket = datagram::bind(address)?;
        let address = socket.local_addr()?;
        let seen = Arc::default();
        let task = tokio::spawn(datagram::answer(socket, name, Arc::clone(&seen)));
        Ok(Self {
            address,
            seen,
            task,
        })
    }

    fn start_resolver(zone: Zone, address: SocketAddr) -> io::Result<Self> {
        let seen = Arc::default();
        let serve = resolver::serve(zone, address, Arc::clone(&seen))?;
        Ok(Self {
            address,
            seen,
            task: tokio::spawn(serve),
        })
    }

    pub(crate) const fn address(&self) -> SocketAddr {
        self.address
    }

    pub(crate) fn seen(&self) -> Seen {
        self.seen.lock().unwrap().clone()
    }

    /// Closes the listener and every connection.
    pub(crate) async fn stop(self) {
        self.task.abort();
        drop(self.task.await);
    }
}

async fn accept(listener: TcpListener, kind: Arc<ServerKind>, seen: Arc<Mutex<Seen>>) {
    let mut connections = JoinSet::new();
    loop {
        let Ok((stream, peer)) = listener.accept().await else {
            // Out of descriptors, most likely: the next try may find one.
            tokio::time::sleep(Duration::from_millis(10)).await;
            continue;
        };
        {
            let mut seen = seen.lock().unwrap();
            seen.connections += 1;
            let source = peer.ip().to_canonical().to_string();
            *seen.sources.entry(source).or_default() += 1;
        }
        let (kind, seen) = (Arc::clone(&kind), Arc::clone(&seen));
        connections.spawn(async move {
            if let ServerKind::Redial { address } = *kind {
                let redialled = redial(stream, address).await;
                seen.lock().unwrap().redials.push(redialled);
                return;
            }
            // A peer that goes away is what many tests are about.
            drop(serve(&kind, stream).await);
        });
        while connections.try_join_next().is_some() {}
    }
}

async fn serve(kind: &ServerKind, mut stream: TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    match kind {
        ServerKind::Http { name } => http::serve(name, stream).await,
        ServerKind::Hiccup {
            name,
            every,
            millis,
        } => http::serve_slowly(name, stream, *every, *millis).await,
        ServerKind::Echo => echo(&mut stream).await,
        ServerKind::BlockingEcho => blocking_echo(stream),
        ServerKind::Greeting { line } => {
            stream.write_all(format!("{line}\n").as_bytes()).await?;
            echo(&mut stream).await
        }
        ServerKind::Sink => sink(&mut stream).await,
        ServerKind::Discard => discard(&mut stream).await,
        ServerKind::Deaf => {
            std::future::pending::<()>().await;
            Ok(())
        }
        ServerKind::Resetting
        | ServerKind::Redial { .. }
        | ServerKind::Datagrams { .. }
        | ServerKind::Resolver { .. } => stream.set_zero_linger(),
    }
}

async fn echo<S: AsyncRead + AsyncWrite + Unpin>(stream: &mut S) -> io::Result<()> {
    let mut buffer = vec![0; 65_536];
    loop {
        let length = stream.read(&mut buffer).await?;
        if length == 0 {
            return stream.shutdown().await;
        }
        stream.write_all(&buffer[..length]).await?;
    }
}

/// One thread per connection; it ends with the connection.
fn blocking_echo(stream: TcpStream) -> io::Result<()> {
    let mut stream = stream.into_std()?;
    stream.set_nonblocking(false)?;
    drop(std::thread::spawn(move || -> io::Result<()> {
        let mut buffer = vec![0; 131_072];
        loop {
            let length = receive(&mut stream, &mut buffer)?;
            if length == 0 {
                return Ok(());
            }
            io::Write::write_all(&mut stream, &buffer[..length])?;
        }
    }));
    Ok(())
}

async fn discard(stream: &mut TcpStream) -> io::Result<()> {
    let mut buffer = vec![0; 262_144];
    let mut count = 0;
    loop {
        let length = stream.read(&mut buffer).await?;
        if length == 0 {
            break;
        }
        count += length as u64;
    }
    stream
        .write_all(format!("{count} as sent\n").as_bytes())
        .await?;
    stream.shutdown().await
}

async fn sink(stream: &mut TcpStream) -> io::Result<()> {
    let mut buffer = vec![0; 262_144];
    let mut count = 0;
    let mut wrong = None;
    loop {
        let length = stream.read(&mut buffer).await?;
        if length == 0 {
            break;
        }
        if wrong.is_none() && !is_pattern(count, &buffer[..length]) {
            wrong = Some(count);
        }
        count += length as u64;
    }
    let verdict = wrong.map_or_else(
        || format!("{count} as sent\n"),
        |offset| format!("{count} wrong after {offset}\n"),
    );
    stream.write_all(verdict.as_bytes()).await?;
    stream.shutdown().await
}
