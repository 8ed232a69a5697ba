//! What the agent holds of the kernel: programs, maps, links. The only module that uses aya.
//!
//! [`Datapath`] loads and attaches (`load`, `attach`, `link`), or takes over what an earlier agent has pinned (`pins`).
//! [`Tables`] are typed handles of the maps, [`mirror`] writes the snapshot into them. [`coverage`], [`connections`],
//! [`events`], [`explain`] and [`metrics`] tell what the kernel does.

pub mod connections;
pub mod coverage;
pub mod events;
pub mod explain;
pub mod inet_diag;
pub mod metrics;
pub mod mirror;
pub mod numbers;
pub mod stale;
pub mod stats;

pub mod check;
pub mod cleanup;

mod acceleration;
mod attach;
mod batch;
mod conn;
mod datapath;
mod link;
mod load;
mod offsets;
mod pins;
mod probe;
mod self_test;
mod sys;
mod table;
mod tables;

use std::io;
use std::path::PathBuf;

pub use datapath::Datapath;
pub use table::{PerCpuTable, Table, TableError};
pub use tables::Tables;

/// What the data path in the kernel needs to know.
#[derive(Clone, Debug)]
pub struct Config {
    /// The cgroup whose processes are seen.
    pub cgroup: PathBuf,
    /// Where maps and links are pinned; in a BPF file system.
    pub pin_dir: PathBuf,
    /// Whether sockets of workloads that ask for it may be paired.
    pub acceleration: bool,
}

/// Why the data path cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The build had no BPF toolchain.
    #[error(
        "this agent was built without its kernel programs; build it with `cargo xtask build`, which installs what is missing"
    )]
    NotBuilt,
    /// The object file cannot be parsed.
    #[error("the object file of the kernel programs cannot be read")]
    Object(#[source] Box<aya_obj::ParseError>),
    /// The maps cannot be made.
    #[error("cannot load the kernel programs")]
    Load(#[from] Box<aya::EbpfError>),
    /// The object file lacks a program.
    #[error("the object file has no program {name}")]
    NoProgram {
        /// Its name.
        name: &'static str,
    },
    /// The object file lacks a map.
    #[error("the object file has no map {name}")]
    NoMap {
        /// Its name.
        name: &'static str,
    },
    /// The kernel refuses a program.
    #[error("the kernel refuses program {name}")]
    Verifier {
        /// Its name.
        name: &'static str,
        /// Why.
        source: Box<aya::programs::ProgramError>,
    },
    /// A pin cannot be read or written.
    #[error("cannot use {}", path.display())]
    Pin {
        /// The pin, or its directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The pin directory is not in a BPF file system.
    #[error(
        "{} is in no BPF file system; choose a directory below /sys/fs/bpf, or mount one: mount -t bpf bpf DIR",
        path.display()
    )]
    NoBpffs {
        /// The directory.
        path: PathBuf,
    },
    /// Something else is pinned here.
    #[error(
        "{} was pinned by another version or program; remove it with `mesh-agent cleanup` of that version, or choose another pin directory",
        path.display()
    )]
    ForeignPin {
        /// The pin.
        path: PathBuf,
    },
    /// Another agent has the pin directory.
    #[error("{} is in use by another agent; stop it, or choose another pin directory", path.display())]
    InUse {
        /// The directory.
        path: PathBuf,
    },
    /// The cgroup cannot be opened.
    #[error("cannot open cgroup {}", path.display())]
    Cgroup {
        /// Its directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A hook cannot be attached.
    #[error("cannot attach {}", path.display())]
    Attach {
        /// Where it is pinned.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The pinned link belongs to another cgroup or namespace.
    #[error(
        "{} is attached to cgroup or namespace {found}, not to {wanted}; choose another pin directory, or remove it with `mesh-agent cleanup`",
        path.display()
    )]
    OtherTarget {
        /// Where the link is pinned.
        path: PathBuf,
        /// Number of what it is attached to.
        found: u64,
        /// Number of what it should be attached to.
        wanted: u64,
    },
    /// A map cannot be read or written.
    #[error(transparent)]
    Table(#[from] TableError),
    /// The agent's own network namespace cannot be told.
    #[error("cannot read the cookie of the network namespace")]
    Netns(#[source] io::Error),
}
