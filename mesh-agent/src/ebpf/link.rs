//! Pinned links: attach, or take over without a gap.

use std::fs;
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::Path;

use super::sys::AttachType;
use super::{Error, sys};

/// What a link attaches its program to.
#[derive(Clone, Copy, Debug)]
pub(super) struct Target<'a> {
    /// The cgroup's directory, or the network namespace.
    pub(super) fd: BorrowedFd<'a>,
    /// Number of the cgroup, or inode of the namespace.
    pub(super) number: u64,
}

/// Attaches `program` and pins the link at `path`; if a link is there, replaces its program.
pub(super) fn attach(
    path: &Path,
    program: BorrowedFd<'_>,
    target: Target<'_>,
    attach_type: AttachType,
) -> Result<(), Error> {
    let failed = |source: io::Error| Error::Attach {
        path: path.to_owned(),
        source,
    };
    if path.exists() {
        let link = open(path)?;
        let info = sys::link_info(link.as_fd()).map_err(failed)?;
        // A namespace's inode has 32 bits; the other half of the word is the type of the attachment.
        let is_netns = attach_type == AttachType::BPF_SK_LOOKUP;
        let found = if is_netns {
            info.target & u64::from(u32::MAX)
        } else {
            info.target
        };
        if found == target.number {
            return sys::update_link(link.as_fd(), program).map_err(failed);
        }
        if found != 0 {
            return Err(Error::OtherTarget {
                path: path.to_owned(),
                found,
                wanted: target.number,
            });
        }
        // Its cgroup or namespace is gone, and with it what the link did.
        fs::remove_file(path).map_err(failed)?;
    }
    let link = sys::create_link(program, target.fd, attach_type).map_err(failed)?;
    sys::pin(link.as_fd(), path).map_err(failed)
}

/// Detaches the link pinned at `path` and removes the pin.
pub(super) fn detach(path: &Path) -> Result<(), Error> {
    let link = open(path)?;
    // Links of a namespace that is gone cannot be detached, nor need they be.
    let detached = match sys::detach_link(link.as_fd()) {
        Err(error) if error.raw_os_error() != Some(libc::ENOLINK) => Err(error),
        _ => Ok(()),
    };
    let removed = fs::remove_file(path);
    detached.and(removed).map_err(|source| Error::Attach {
        path: path.to_owned(),
        source,
    })
}

/// Opens a pinned link.
pub(super) fn open(path: &Path) -> Result<OwnedFd, Error> {
    sys::open_pin(path).map_err(|source| Error::Pin {
        path: path.to_owned(),
        source,
    })
}
