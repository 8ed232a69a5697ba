//! Which hook runs where, and in which order they come to life.

use std::fs::File;
use std::io;
use std::os::fd::AsFd as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use mesh_common::names::{map, program};

use super::link::{self, Target};
use super::load::Programs;
use super::pins::Pins;
use super::sys::AttachType;
use super::{Error, sys};

/// Hooks of the cgroup, in the order in which they are attached: what hands over and counts stands before `connect`
/// sends the first connection anywhere.
pub(super) const CGROUP_HOOKS: [(&str, AttachType); 10] = [
    (program::SOCK_OPS, AttachType::BPF_CGROUP_SOCK_OPS),
    (
        program::GETPEERNAME4,
        AttachType::BPF_CGROUP_INET4_GETPEERNAME,
    ),
    (
        program::GETPEERNAME6,
        AttachType::BPF_CGROUP_INET6_GETPEERNAME,
    ),
    (program::EGRESS, AttachType::BPF_CGROUP_INET_EGRESS),
    (program::RECVMSG4, AttachType::BPF_CGROUP_UDP4_RECVMSG),
    (program::RECVMSG6, AttachType::BPF_CGROUP_UDP6_RECVMSG),
    (program::SENDMSG4, AttachType::BPF_CGROUP_UDP4_SENDMSG),
    (program::SENDMSG6, AttachType::BPF_CGROUP_UDP6_SENDMSG),
    (program::CONNECT4, AttachType::BPF_CGROUP_INET4_CONNECT),
    (program::CONNECT6, AttachType::BPF_CGROUP_INET6_CONNECT),
];

/// The hooked cgroup.
#[derive(Debug)]
pub(super) struct Cgroup {
    /// Its directory.
    pub(super) directory: File,
    /// Its number: the inode of the directory.
    pub(super) number: u64,
    /// Where it is.
    pub(super) path: PathBuf,
}

impl Cgroup {
    /// Opens the cgroup at `path`.
    pub(super) fn open(path: &Path) -> Result<Self, Error> {
        let open = || -> io::Result<Self> {
            let directory = File::open(path)?;
            let number = directory.metadata()?.ino();
            Ok(Self {
                directory,
                number,
                path: path.to_owned(),
            })
        };
        open().map_err(|source| Error::Cgroup {
            path: path.to_owned(),
            source,
        })
    }
}

/// Attaches every hook of the cgroup, or takes over what an earlier agent has attached.
pub(super) fn attach(pins: &Pins, programs: &Programs, cgroup: &Cgroup) -> Result<(), Error> {
    attach_sk_msg(pins, programs)?;
    let target = Target {
        fd: cgroup.directory.as_fd(),
        number: cgroup.number,
    };
    for (name, attach_type) in CGROUP_HOOKS {
        let program = programs.get(name).ok_or(Error::NoProgram { name })?;
        link::attach(&pins.links.join(name), program.as_fd(), target, attach_type)?;
    }
    Ok(())
}

/// The map keeps the program, and so does every socket that was in the map when it was attached.
fn attach_sk_msg(pins: &Pins, programs: &Programs) -> Result<(), Error> {
    let path = pins.maps.join(map::SOCKETS);
    let failed = |source: io::Error| Error::Attach {
        path: path.clone(),
        source,
    };
    let name = program::SK_MSG;
    let program = programs.get(name).ok_or(Error::NoProgram { name })?;
    let sockets = sys::open_pin(&path).map_err(failed)?;
    let attach_type = AttachType::BPF_SK_MSG_VERDICT;
    sys::attach(program.as_fd(), sockets.as_fd(), attach_type).map_err(failed)
}
