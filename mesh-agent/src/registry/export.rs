//! Writes the registry to a file beside it, so that there is something to go back to when it is damaged.

use std::future::pending;
use std::mem::take;
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
/// tried again after the next pause; the last good one stays. Where the registry may have been lost, the export is what is
/// left of it, and is not touched.
pub async fn run(store: Arc<Store>, directory: PathBuf) -> Result<(), JoinError> {
    let mut notices = store.subscribe();
    if store.is_new() {
        return pending().await;
    }
    // A registry without a write has nothing to export, and what is there is of an earlier one.
    let mut is_of_another = store.began_empty();
    let mut exported = is_of_another.then_some(0);
    loop {
        if exported == Some(store.snapshot().revision) {
            match notices.recv().await {
                Ok(_) | Err(RecvError::Lagged(_)) => {}
                Err(RecvError::Closed) => return Ok(()),
            }
            continue;
        }
        if take(&mut is_of_another)
            && let Err(error) = Store::set_export_aside(&directory)
        {
            warn!(%error, "cannot keep the export of an earlier registry");
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

#[cfg(test)]
mod tests {
    use std::path::Path;

    use serde_json::json;

    use super::*;
    use crate::state::object::{Kind, ObjectKey};
    use crate::state::persist::{EXPORT_NAME, FILE_NAME, OLD_EXPORT_NAME};
    use crate::state::store::Config;
    use crate::state::{Change, decode};

    fn put(store: &Store, name: &str) {
        let document = json!({"spec": {"ports": [{"name": "http", "port": 80}]}});
        let key = ObjectKey::new("shop", name);
        let manifest = decode::manifest(Kind::Service, &key, document).expect("it is right");
        store.apply(Change::Put(manifest)).expect("it is right");
    }

    fn holds(directory: &Path, name: &str) -> bool {
        let text = std::fs::read_to_string(directory.join(EXPORT_NAME));
        text.is_ok_and(|text| text.contains(&format!("\"name\":\"{name}\"")))
    }

    #[tokio::test(start_paused = true)]
    async fn changes_are_exported_at_once_and_then_once_a_minute() {
        let directory = tempfile::tempdir().expect("a folder");
        let place = directory.path();
        std::fs::write(place.join(EXPORT_NAME), "old").expect("it is written");
        let store = Arc::new(Store::open(place, Config::default()).expect("a store"));
        store.settle().expect("it is written");
        put(&store, "first");
        let export = tokio::spawn(run(Arc::clone(&store), place.to_owned()));
        let started = time::Instant::now();
        while !holds(place, "first") {
            time::sleep(Duration::from_millis(10)).await;
        }
        assert!(started.elapsed() < PAUSE);
        let old = std::fs::read_to_string(place.join(OLD_EXPORT_NAME));
        assert_eq!(old.expect("it is kept"), "old", "the registry is new");
        put(&store, "second");
        time::sleep(PAUSE / 2).await;
        assert!(!holds(place, "second"), "not yet");
        while !holds(place, "second") {
            time::sleep(Duration::from_secs(1)).await;
        }
        assert!(started.elapsed() < PAUSE * 2);
        export.abort();
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_left_of_another_registry_stays_until_there_is_something_to_export() {
        let directory = tempfile::tempdir().expect("a folder");
        let place = directory.path();
        let is_as_it_was = || {
            let text = std::fs::read_to_string(place.join(EXPORT_NAME));
            text.is_ok_and(|text| text == "old")
        };
        std::fs::write(place.join(EXPORT_NAME), "old").expect("it is written");
        let store = Arc::new(Store::open(place, Config::default()).expect("a store"));
        put(&store, "early");
        let export = tokio::spawn(run(Arc::clone(&store), place.to_owned()));
        time::sleep(PAUSE * 2).await;
        assert!(is_as_it_was(), "the registry may be lost");
        export.abort();
        drop((export.await, store));

        std::fs::remove_file(place.join(FILE_NAME)).expect("it is there");
        let store = Arc::new(Store::open(place, Config::default()).expect("a store"));
        store.settle().expect("it is written");
        let export = tokio::spawn(run(Arc::clone(&store), place.to_owned()));
        time::sleep(PAUSE * 2).await;
        assert!(is_as_it_was(), "there is nothing yet");
        put(&store, "first");
        while !holds(place, "first") {
            time::sleep(Duration::from_millis(10)).await;
        }
        export.abort();
    }
}
