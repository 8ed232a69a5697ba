//! What the proxy asks the kernel about sockets: a trait, so that the whole proxy runs in tests with fixed answers.

use std::io;
use std::os::fd::BorrowedFd;

use mesh_common::conn::Conn;

/// What the kernel remembers about connections. `ebpf` implements it; tests bring their own.
pub trait ConnTable: Send + Sync {
    /// What is known of a socket: the original destination, the verdict, the caller. `None` where no hook has seen it.
    fn conn(&self, socket: BorrowedFd<'_>) -> io::Result<Option<Conn>>;

    /// Writes what the hooks shall know of a socket of the agent, before it connects. `conn.flags` holds
    /// [`Conn::OWN`].
    fn mark(&self, socket: BorrowedFd<'_>, conn: &Conn) -> io::Result<()>;
}
