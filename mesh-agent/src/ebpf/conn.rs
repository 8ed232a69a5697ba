//! What the kernel knows of a socket, by its file descriptor.

use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd};
use std::sync::atomic::AtomicU64;

use mesh_common::conn::Conn;
use mesh_common::flow::{Query, QueryKey};

use super::{Datapath, TableError};
use crate::net::conn::{ConnTable, QueryTable};

impl ConnTable for Datapath {
    fn conn(&self, socket: BorrowedFd<'_>) -> io::Result<Option<Conn>> {
        self.tables()
            .conn
            .get(&socket.as_raw_fd())
            .map_err(to_io_error)
    }

    fn mark(&self, socket: BorrowedFd<'_>, conn: &Conn) -> io::Result<()> {
        self.tables()
            .conn
            .insert(&socket.as_raw_fd(), conn)
            .map_err(to_io_error)
    }

    fn fallbacks(&self) -> &'static AtomicU64 {
        self.tables().fallbacks
    }
}

impl QueryTable for Datapath {
    fn query(&self, key: &QueryKey) -> io::Result<Option<Query>> {
        self.tables().queries.get(key).map_err(to_io_error)
    }
}

fn to_io_error(error: TableError) -> io::Error {
    io::Error::other(error)
}
