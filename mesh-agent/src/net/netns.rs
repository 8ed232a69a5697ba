//! Network namespaces: how the agent makes sockets inside a workload's.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use nix::sched::{CloneFlags, setns};

/// Where a thread finds its own network namespace.
const OWN: &str = "/proc/thread-self/ns/net";

/// How often the way back is tried before the agent gives up.
const RETURNS: usize = 3;

/// An open network namespace. It lives at least as long as this value.
#[derive(Debug)]
pub struct Netns {
    file: File,
    cookie: u64,
    inode: u64,
}

impl Netns {
    /// Opens the namespace at `path`, for example `/run/netns/pod-a` or `/proc/self/ns/net`.
    pub fn open(path: &Path) -> io::Result<Self> {
        let file = File::open(path)?;
        let inode = file.metadata()?.ino();
        let mut netns = Self {
            file,
            cookie: 0,
            inode,
        };
        netns.cookie = netns.run(cookie_here)??;
        Ok(netns)
    }

    /// The namespace of the calling thread.
    pub fn current() -> io::Result<Self> {
        Self::open(Path::new(OWN))
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
    ///
    /// `work` must not wait. If the way back is closed the process ends: a thread that stays behind would put
    /// the sockets of one workload into the namespace of another.
    pub fn run<T>(&self, work: impl FnOnce() -> T) -> io::Result<T> {
        if std::fs::metadata(OWN)?.ino() == self.inode {
            return Ok(work());
        }
        let home = File::open(OWN)?;
        setns(&self.file, CloneFlags::CLONE_NEWNET)?;
        let _return = Return { home };
        Ok(work())
    }
}

impl AsFd for Netns {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

/// Brings the thread back, also when the work panics.
struct Return {
    home: File,
}

impl Drop for Return {
    fn drop(&mut self) {
        for _ in 0..RETURNS {
            if setns(&self.home, CloneFlags::CLONE_NEWNET).is_ok() {
                return;
            }
        }
        tracing::error!("cannot return to the network namespace of the agent");
        std::process::abort();
    }
}

/// The cookie of the calling thread's namespace.
fn cookie_here() -> io::Result<u64> {
    let socket = socket2::Socket::new(socket2::Domain::UNIX, socket2::Type::DGRAM, None)?;
    let mut cookie = 0_u64;
    let mut size = libc::socklen_t::try_from(size_of_val(&cookie)).map_err(io::Error::other)?;
    // SAFETY: `cookie` and `size` are valid for the length that `size` says.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_NETNS_COOKIE,
            (&raw mut cookie).cast(),
            &raw mut size,
        )
    };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(cookie)
}

#[cfg(test)]
mod tests {
    use nix::errno::Errno;
    use nix::sched::{CloneFlags, unshare};

    use super::Netns;

    #[test]
    fn work_runs_inside_and_the_thread_comes_back() {
        // A thread of its own makes a namespace, and ends in it.
        let made = std::thread::spawn(|| match unshare(CloneFlags::CLONE_NEWNET) {
            Err(Errno::EPERM) => None,
            result => {
                result.expect("unshares");
                Some(Netns::current().expect("opens"))
            }
        });
        let Some(other) = made.join().expect("no panic") else {
            // Needs root; the tests of whole agents run as root.
            return;
        };
        let home = Netns::current().expect("opens");
        assert_ne!(
            (home.cookie(), home.inode()),
            (other.cookie(), other.inode())
        );
        let inside = other.run(|| Netns::current().expect("opens").cookie());
        assert_eq!(inside.expect("enters"), other.cookie());
        assert_eq!(Netns::current().expect("opens").cookie(), home.cookie());
    }

    #[test]
    fn the_current_namespace_has_a_cookie_and_needs_no_privilege() {
        let netns = Netns::current().expect("opens");
        assert_ne!(netns.cookie(), 0);
        assert_ne!(netns.inode(), 0);
        assert_eq!(netns.run(|| 7).expect("runs"), 7);
    }
}
