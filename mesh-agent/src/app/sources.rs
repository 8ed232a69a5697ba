//! Where objects come from beside the API: opened with the registry, followed while the agent runs.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context as _, Result};
use tokio::task::JoinSet;

use crate::config::Settings;
use crate::metrics::Registry;
use crate::registry::folder::Folder;
use crate::registry::{Board, export, metrics};
use crate::state::{Source, Store};

/// The sources that are configured.
pub(super) struct Sources {
    /// How they are.
    pub(super) board: Board,
    /// The folder of files, until it is followed.
    folder: Mutex<Option<Folder>>,
    store: Arc<Store>,
    state_dir: PathBuf,
}

impl Sources {
    /// Reads what is there. What came from a source that is not configured any more is the API's.
    pub(super) fn open(
        settings: &Settings,
        store: &Arc<Store>,
        registry: &mut Registry,
    ) -> Result<Self> {
        let board = Board::default();
        metrics::register(registry, board.clone());
        let folder = match &settings.sources.files {
            None => {
                release(store, Source::Files)?;
                None
            }
            Some(directory) => {
                let store = Arc::clone(store);
                let mut folder = Folder::new(directory.clone(), store, board.clone());
                folder.first_look();
                Some(folder)
            }
        };
        Ok(Self {
            board,
            folder: Mutex::new(folder),
            store: Arc::clone(store),
            state_dir: settings.state_dir.clone(),
        })
    }

    /// Follows them, and exports what comes of it.
    pub(super) fn spawn(&self, tasks: &mut JoinSet<Result<()>>) {
        let export = export::run(Arc::clone(&self.store), self.state_dir.clone());
        tasks.spawn(async move { export.await.context("the export has stopped") });
        let mut folder = self.folder.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(folder) = folder.take() {
            tasks.spawn(async move {
                let run = folder.run().await;
                run.context("the look at the folder of files has stopped")
            });
        }
    }
}

fn release(store: &Store, source: Source) -> Result<()> {
    let count = store
        .release(source)
        .context("cannot give the objects of a source to the API")?;
    if count > 0 {
        tracing::warn!(count, %source, "source is not configured any more: its objects are the API's now");
    }
    Ok(())
}
