//! Keeps the view up to date with the store.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::{ArcSwap, Guard};
use tokio::sync::{broadcast, watch};

use super::View;
use crate::state::Notice;
use crate::state::Snapshot;
use crate::state::endpoint::Locality;

/// How long a connection waits for a view that knows its service. The kernel may hear of a service before the proxy.
const CATCH_UP: Duration = Duration::from_secs(1);

/// Where snapshots come from.
type Source = Box<dyn Fn() -> Arc<Snapshot> + Send + Sync>;

/// Holder of the current view.
pub(crate) struct Views {
    source: Source,
    view: ArcSwap<View>,
    revision: watch::Sender<u64>,
}

impl Views {
    /// Compiles the first view of what `source` gives, on a node that is `here`.
    pub(crate) fn new(
        here: Locality,
        source: impl Fn() -> Arc<Snapshot> + Send + Sync + 'static,
    ) -> Self {
        let nothing = View {
            here: Arc::new(here),
            ..View::default()
        };
        let view = nothing.next(&source());
        Self {
            revision: watch::channel(view.revision()).0,
            view: ArcSwap::from_pointee(view),
            source: Box::new(source),
        }
    }

    /// The current view, for one decision.
    pub(crate) fn load(&self) -> Guard<Arc<View>> {
        self.view.load()
    }

    /// Waits, if the store is ahead of the view, until the view has caught up.
    pub(crate) async fn catch_up(&self) {
        let wanted = (self.source)().revision;
        if self.view.load().revision() >= wanted {
            return;
        }
        let mut revision = self.revision.subscribe();
        let reached = revision.wait_for(|revision| *revision >= wanted);
        // Whoever waited in vain decides by the view that is there.
        drop(tokio::time::timeout(CATCH_UP, reached).await);
    }

    /// Compiles anew after each write, until the store is gone.
    pub(crate) async fn run(&self, mut notices: broadcast::Receiver<Notice>) {
        loop {
            self.refresh();
            match notices.recv().await {
                Ok(_) | Err(broadcast::error::RecvError::Lagged(_)) => {}
                Err(broadcast::error::RecvError::Closed) => return,
            }
            // Many writes in a row make one view.
            while let Ok(_) | Err(broadcast::error::TryRecvError::Lagged(_)) = notices.try_recv() {}
        }
    }

    /// Compiles the next view, if the store has moved on.
    pub(crate) fn refresh(&self) {
        let snapshot = (self.source)();
        let current = self.view.load();
        if snapshot.revision != current.revision() {
            let next = current.next(&snapshot);
            self.view.store(Arc::new(next));
            self.revision.send_replace(snapshot.revision);
        }
    }
}
