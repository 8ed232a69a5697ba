//! Why a registry cannot be opened.

use std::io;
use std::path::PathBuf;

use super::SCHEMA;
use super::export::ExportError;

/// Why the registry cannot be opened. The file is as it was.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The directory or the file refuses.
    #[error("cannot open {}", path.display())]
    Access {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// Another agent has it.
    #[error("{} is in use by another agent; give each its own state directory", path.display())]
    InUse {
        /// The file.
        path: PathBuf,
    },
    /// The file is damaged.
    #[error("{} is damaged and was left as it is; start with --restore to go back to the last export, or with --reset to forget the registry", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What the database said.
        #[source]
        source: Box<redb::Error>,
    },
    /// A row is not what it should be.
    #[error("{} holds an unreadable row {row} and was left as it is; start with --restore to go back to the last export, or with --reset to forget the registry", path.display())]
    Row {
        /// The file.
        path: PathBuf,
        /// Table and key.
        row: String,
        /// What is wrong with it.
        #[source]
        source: serde_json::Error,
    },
    /// Another version of the agent wrote it.
    #[error("{} has schema {found}, and this version reads {SCHEMA}; run the version that wrote it, start with --restore to go back to the last export, or with --reset to forget the registry", path.display())]
    Schema {
        /// The file.
        path: PathBuf,
        /// What it has.
        found: u64,
    },
    /// It was to be restored, and the export cannot be used.
    #[error("the registry cannot be used ({refused}), and neither can the export of it")]
    Export {
        /// What is wrong with the registry.
        refused: String,
        /// What is wrong with the export.
        #[source]
        source: ExportError,
    },
    /// It was to be restored, and cannot be written.
    #[error("cannot write the restored registry to {}", path.display())]
    Restore {
        /// The file.
        path: PathBuf,
        /// What the database said.
        #[source]
        source: Box<redb::Error>,
    },
}

impl OpenError {
    /// Whether what is in the file is wrong, rather than the way to it.
    pub(super) const fn is_about_contents(&self) -> bool {
        match self {
            Self::Damaged { .. } | Self::Row { .. } | Self::Schema { .. } => true,
            Self::Access { .. }
            | Self::InUse { .. }
            | Self::Export { .. }
            | Self::Restore { .. } => false,
        }
    }
}
