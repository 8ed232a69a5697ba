//! How a store begins, and what it leaves for the next one.

use std::io;
use std::path::Path;

use super::{Config, OpenError, Start, Store};
use crate::state::persist::{self, export};

impl Store {
    /// Opens or makes the store in `directory`.
    pub fn open(directory: &Path, config: Config) -> Result<Self, OpenError> {
        Self::start(directory, config, Start::Keep)
    }

    /// The same, or another way to start.
    pub fn start(directory: &Path, config: Config, start: Start) -> Result<Self, OpenError> {
        let loaded = persist::start(directory, start)?;
        let store = Self::new(Some(loaded.disk), loaded.snapshot, config);
        Ok(Self {
            is_new: loaded.is_new,
            is_restored: loaded.is_restored,
            ..store
        })
    }

    /// Whether nothing was there when the store was opened. Beside pinned maps that are not empty this means that
    /// the registry was lost.
    #[must_use]
    pub const fn is_new(&self) -> bool {
        self.is_new
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
