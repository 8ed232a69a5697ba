//! Writes the registry to a file beside it, so that there is something to go back to when it is damaged.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::broadcast::error::RecvError;
use tokio::task::{JoinError, spawn_blocking};
use tokio::time;
use tracing::{debug, warn};

use crate::state::Store;

/// Between two exports.
const PAUSE: Duration = Duration::from_mins(1);

/// Exports to `directory` soon after the first change, and then at most once a minute while there are more. One that fails is
/// tried again after the next pause; the last good one stays.
pub async fn run(store: Arc<Store>, directory: PathBuf) -> Result<(), JoinError> {
    let mut notices = store.subscribe();
    if store.is_new()
        && let Err(error) = Store::set_export_aside(&directory)
    {
        warn!(%error, "cannot keep the export of an earlier registry");
    }
    let mut exported = None;
    loop {
        if exported == Some(store.snapshot().revision) {
            match notices.recv().await {
                Ok(_) | Err(RecvError::Lagged(_)) => {}
                Err(RecvError::Closed) => return Ok(()),
            }
            continue;
        }
        exported = spawn_blocking({
            let (store, directory) = (Arc::clone(&store), directory.clone());
            move || match store.export(&directory) {
                Ok(revision) => {
                    debug!(revision, "registry is exported");
                    Some(revision)
                }
                Err(error) => {
                    warn!(%error, "cannot export the registry, the last export stays");
                    None
                }
            }
        })
        .await?;
        time::sleep(PAUSE).await;
    }
}
