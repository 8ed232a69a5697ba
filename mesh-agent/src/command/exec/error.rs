//! Why a command cannot be run as a workload.

use std::ffi::OsString;
use std::io;
use std::path::PathBuf;

use super::super::error::{Problem, is_permission};
use super::super::exit::Exit;
use crate::state::object::{Kind, ObjectKey};

/// A command that could not be run.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The network namespace has no address to be known by.
    #[error(
        "this network namespace has no address but loopback: give the workload's with --address"
    )]
    NoAddress,
    /// The addresses cannot be listed.
    #[error("cannot list the addresses of this network namespace")]
    Addresses(#[source] io::Error),
    /// The address that was asked for is another workload's, or no address for a workload.
    #[error("{problem}; give another one with --address")]
    AddressTaken {
        /// What the agent says.
        problem: Problem,
    },
    /// The name is taken.
    #[error("{kind} {key} is in use: choose another --workload, or delete it first")]
    InUse {
        /// What has the name.
        kind: Kind,
        /// The name.
        key: ObjectKey,
    },
    /// The service has several ports, and none has this number.
    #[error(
        "service {service} has several ports and none of them is {port}: use one of its numbers as --port"
    )]
    Port {
        /// The service.
        service: ObjectKey,
        /// The port that was given.
        port: u16,
    },
    /// The agent is in another network namespace.
    #[error(
        "the agent is in another network namespace, where commands of this one are not in the mesh: run exec there (nsenter --net=FILE), or apply a Workload with spec.netns for this one"
    )]
    OtherNamespace,
    /// The agent does not answer at the end.
    #[error("the agent has not answered in time: {objects} may still be there, delete what is")]
    LeftBehind {
        /// The workload, and its endpoint if it has one.
        objects: String,
    },
    /// The agent will not enrol the workload.
    #[error("the agent does not accept the workload: {reason}")]
    Refused {
        /// What it says.
        reason: String,
    },
    /// The agent has not enrolled the workload in time.
    #[error(
        "the agent has not enrolled the workload within 10 s ({reason}); the command was not started"
    )]
    NotEnrolled {
        /// What it said last.
        reason: String,
    },
    /// The cgroup cannot be made, used or removed.
    #[error("cannot {what} cgroup {}", path.display())]
    Cgroup {
        /// What was tried.
        what: &'static str,
        /// Its path.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The command cannot be started.
    #[error("cannot run {}", command.display())]
    Start {
        /// The command.
        command: OsString,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The command cannot be waited for, or signals not be caught.
    #[error("cannot watch over the command")]
    Watch(#[source] io::Error),
}

impl Error {
    /// How the process ends.
    pub(in super::super) fn exit(&self) -> Exit {
        match self {
            Self::NoAddress | Self::Port { .. } => Exit::USAGE,
            Self::Addresses(_) | Self::Watch(_) | Self::OtherNamespace => Exit::OS,
            Self::Refused { .. } | Self::AddressTaken { .. } => Exit::DATA,
            Self::NotEnrolled { .. } | Self::LeftBehind { .. } => Exit::UNAVAILABLE,
            Self::Cgroup { source, .. } if is_permission(source) => Exit::PERMISSION,
            Self::InUse { .. } | Self::Cgroup { .. } => Exit::CANNOT_CREATE,
            Self::Start { source, .. } if source.kind() == io::ErrorKind::NotFound => {
                Exit::NOT_FOUND
            }
            Self::Start { .. } => Exit::NOT_EXECUTABLE,
        }
    }
}
