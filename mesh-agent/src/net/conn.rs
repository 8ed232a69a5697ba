//! What the proxy and the resolver ask the kernel about sockets: traits, so that both run in tests with fixed answers.

use std::io;
use std::os::fd::BorrowedFd;
use std::sync::atomic::AtomicU64;

use mesh_common::conn::Conn;
use mesh_common::flow::{Query, QueryKey};
use tokio::net::TcpStream;

use super::stream::Stream;

/// What the kernel remembers about connections. `ebpf` implements it; tests bring their own.
pub trait ConnTable: Send + Sync {
    /// What is known of a socket: the original destination, the verdict, the caller. `None` where no hook has seen it.
    fn conn(&self, socket: BorrowedFd<'_>) -> io::Result<Option<Conn>>;

    /// Writes what the hooks shall know of a socket of the agent, before it connects. `conn.flags` holds
    /// [`Conn::OWN`].
    fn mark(&self, socket: BorrowedFd<'_>, conn: &Conn) -> io::Result<()>;

    /// How many directions of accelerated connections of this node have gone back to TCP; none, where nothing is accelerated.
    fn fallbacks(&self) -> &'static AtomicU64 {
        static NONE: AtomicU64 = AtomicU64::new(0);
        &NONE
    }

    /// A connection of which `conn` is known.
    fn stream(&self, tcp: TcpStream, conn: &Conn) -> Stream {
        if conn.has(Conn::ACCELERATED) {
            Stream::accelerated(tcp, self.fallbacks())
        } else {
            tcp.into()
        }
    }
}

/// What the kernel remembers about datagrams that ask for names. `ebpf` implements it; tests bring their own.
pub trait QueryTable: Send + Sync {
    /// Whom a datagram was for that came to the agent. `None` where no hook has sent it there.
    fn query(&self, key: &QueryKey) -> io::Result<Option<Query>>;
}

/// A kernel that knows nothing.
#[cfg(test)]
pub(crate) struct NoTable;

#[cfg(test)]
impl ConnTable for NoTable {
    fn conn(&self, _: BorrowedFd<'_>) -> io::Result<Option<Conn>> {
        Ok(None)
    }

    fn mark(&self, _: BorrowedFd<'_>, _: &Conn) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
impl QueryTable for NoTable {
    fn query(&self, _: &QueryKey) -> io::Result<Option<Query>> {
        Ok(None)
    }
}
