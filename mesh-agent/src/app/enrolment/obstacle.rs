//! What stands in the way of an enrolment.

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;

use mesh_common::workload::CGROUP_LEVELS;

use crate::ebpf::Error as DatapathError;
use crate::state::object::ObjectKey;

use super::place;

/// Why a workload cannot be enrolled now, or not wholly: what can be had of it is. It is tried again.
#[derive(Debug, thiserror::Error)]
pub(super) enum Obstacle {
    #[error("cannot open {}", path.display())]
    Open { path: PathBuf, source: io::Error },
    #[error("{} is the agent's own network namespace: enrol by cgroup there", path.display())]
    OwnNamespace { path: PathBuf },
    #[error("{} is not under the hooked cgroup {}", path.display(), root.display())]
    OutsideCgroup { path: PathBuf, root: PathBuf },
    #[error("{} is at level {levels} of the cgroup tree: the kernel looks at {CGROUP_LEVELS}", path.display())]
    TooDeep { path: PathBuf, levels: usize },
    #[error(
        "processes of {} are in another network namespace, where nothing of them is captured: enrol that by its path, as \
         /proc/PID/ns/net with one of them",
        path.display()
    )]
    Elsewhere { path: PathBuf },
    #[error("{} is Workload {owner} already, by another path", path.display())]
    Taken { path: PathBuf, owner: ObjectKey },
    #[error("cannot listen in {}, so that its fail mode holds", path.display())]
    Listen { path: PathBuf, source: io::Error },
    #[error("cannot answer questions for names in {}: they go where they are sent", path.display())]
    Answer { path: PathBuf, source: io::Error },
    #[error("questions for names are not answered: --dns, or dns of the workload, is off")]
    NamesOff,
    #[error("cannot hook {}", path.display())]
    Hook {
        path: PathBuf,
        source: DatapathError,
    },
}

impl Obstacle {
    /// Whether it says nothing about where the workload is.
    pub(super) fn is_shortage(&self) -> bool {
        matches!(self, Self::Open { source, .. } if place::is_shortage(source))
    }

    /// The `reason` of the condition.
    pub(super) const fn reason(&self) -> &'static str {
        match self {
            Self::Open { .. } => "NotFound",
            Self::OwnNamespace { .. } => "OwnNamespace",
            Self::OutsideCgroup { .. } => "OutsideCgroup",
            Self::TooDeep { .. } => "TooDeep",
            Self::Elsewhere { .. } => "OtherNamespace",
            Self::Taken { .. } => "Conflicted",
            Self::Listen { .. } | Self::Answer { .. } => "ListenFailed",
            Self::NamesOff => "Disabled",
            Self::Hook { .. } => "HookFailed",
        }
    }
}

/// What stood in the way of some workloads at one run.
#[derive(Debug, Default)]
pub(super) struct Obstacles {
    /// Of their enrolment.
    pub(super) enrolment: BTreeMap<ObjectKey, Obstacle>,
    /// Of answers to their questions for names.
    pub(super) names: BTreeMap<ObjectKey, Obstacle>,
}
