//! How a store begins, and what it leaves for the next one.

use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use super::{Config, OpenError, Start, Store};
use crate::state::Refusal;
use crate::state::persist::{self, Disk, EXPORT_NAME, export};

impl Store {
    /// Opens or makes the store in `directory`.
    pub fn open(directory: &Path, config: Config) -> Result<Self, OpenError> {
        Self::start(directory, config, Start::Keep)
    }

    /// The same, or another way to start.
    pub fn start(directory: &Path, config: Config, start: Start) -> Result<Self, OpenError> {
        let loaded = persist::start(directory, start)?;
        // A deliberate end of all: an export from before it is not what a later start goes back to.
        if start == Start::Reset {
            export::set_aside(directory).map_err(|source| OpenError::Access {
                path: directory.join(EXPORT_NAME),
                source,
            })?;
        }
        let began_empty = loaded.snapshot.revision == 0;
        let store = Self::new(Some(loaded.disk), loaded.snapshot, config);
        Ok(Self {
            is_new: AtomicBool::new(loaded.is_new),
            began_empty,
            is_restored: loaded.is_restored,
            ..store
        })
    }

    /// Whether nothing was there when the store was opened, or at an earlier start, and nobody has settled that. Beside
    /// pinned maps that are not empty this means that the registry was lost.
    #[must_use]
    pub fn is_new(&self) -> bool {
        self.is_new.load(Ordering::Relaxed)
    }

    /// Whether nothing had ever been written to it when it was opened: an export beside it is of an earlier registry.
    #[must_use]
    pub const fn began_empty(&self) -> bool {
        self.began_empty
    }

    /// Says of a store that is new that no registry was lost. It is new for the next start until somebody does.
    pub fn settle(&self) -> Result<(), Refusal> {
        if !self.is_new() {
            return Ok(());
        }
        let writer = self.lock();
        let settled = writer.disk.as_ref().map_or(Ok(()), Disk::settle);
        settled.map_err(|error| persist::refusal(&error))?;
        self.is_new.store(false, Ordering::Relaxed);
        Ok(())
    }

    /// Whether it was made from the last export.
    #[must_use]
    pub const fn is_restored(&self) -> bool {
        self.is_restored
    }

    /// Writes the current view beside the registry in `directory`, for [`Start::Restore`].
    pub fn export(&self, directory: &Path) -> io::Result<u64> {
        let snapshot = self.snapshot();
        export::write(directory, &snapshot)?;
        Ok(snapshot.revision)
    }

    /// Keeps an export that was there before a new registry from being written over.
    pub fn set_export_aside(directory: &Path) -> io::Result<()> {
        export::set_aside(directory)
    }
}
