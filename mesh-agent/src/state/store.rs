//! The one writer: validates a change, persists it, publishes the next snapshot.

use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;

use arc_swap::ArcSwap;
use ipnet::IpNet;
use tokio::sync::broadcast;

use super::{Applied, Change, Notice, Refusal, Snapshot};

/// Settings of the store.
#[derive(Clone, Debug)]
pub struct Config {
    /// Ranges from which virtual addresses are allotted.
    pub virtual_ranges: Vec<IpNet>,
}

/// Holder of the current view.
pub struct Store {
    snapshot: ArcSwap<Snapshot>,
    notices: broadcast::Sender<Notice>,
}

/// Why the store cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Placeholder for the stub.
    #[error("cannot open the store")]
    Unreadable,
}

impl Store {
    /// Opens or makes the store in `directory`.
    pub fn open(_directory: &Path, _config: Config) -> Result<Self, OpenError> {
        Ok(Self::in_memory())
    }

    /// A store that forgets: for tests.
    #[must_use]
    pub fn in_memory() -> Self {
        Self {
            snapshot: ArcSwap::default(),
            notices: broadcast::channel(1024).0,
        }
    }

    /// The current view.
    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.snapshot.load_full()
    }

    /// Every later write, in order. A receiver that lags behind by more than 1,024 writes is told so, and lists again.
    pub fn subscribe(&self) -> broadcast::Receiver<Notice> {
        self.notices.subscribe()
    }

    /// Makes a change, or refuses it and touches nothing. Blocks while it writes to the disk.
    pub fn apply(&self, _change: Change) -> Result<Applied, Refusal> {
        let _unused: Option<IpAddr> = None;
        Ok(Applied::Unchanged)
    }
}
