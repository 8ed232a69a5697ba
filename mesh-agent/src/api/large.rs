//! Answers that may be as large as the registry: made one at a time, on a thread that may block, so that they hold up no
//! small answer and take no second processor from the traffic.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::task::{JoinError, spawn_blocking};
use tokio::time::timeout;

/// Longest wait for the turn.
const PATIENCE: Duration = Duration::from_secs(30);

/// Whose turn it is.
#[derive(Clone)]
pub(super) struct Large(Arc<Semaphore>);

/// Why an answer was not made.
#[derive(Debug, thiserror::Error)]
pub(super) enum LargeError {
    /// There are too many before it.
    #[error("too many ask for large answers: come back later")]
    Busy,
    /// It has panicked.
    #[error(transparent)]
    Failed(#[from] JoinError),
}

impl Default for Large {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(1)))
    }
}

impl Large {
    /// Makes an answer when it is its turn, within [`PATIENCE`].
    pub(super) async fn make<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, LargeError> {
        let turn = timeout(PATIENCE, Arc::clone(&self.0).acquire_owned()).await;
        let Ok(Ok(turn)) = turn else {
            tracing::warn!("too many ask for large answers of the API");
            return Err(LargeError::Busy);
        };
        let made = spawn_blocking(move || {
            let made = work();
            // Also where nobody waits for it any more, the next one waits for its end.
            drop(turn);
            made
        });
        Ok(made.await?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn nobody_waits_for_ever() {
        let large = Large::default();
        let _turn = large.0.acquire().await;
        let refused = large.make(|| ()).await;
        assert!(matches!(refused, Err(LargeError::Busy)), "{refused:?}");
    }
}
