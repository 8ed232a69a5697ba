//! Graceful stop: one signal, many tasks that finish what they do, one deadline.

use std::convert::Infallible;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::time;

/// Makes the two ends. The [`Watch`] is cloned into every task that is to be waited for.
#[must_use]
pub fn channel() -> (Signal, Watch) {
    let (draining, seen) = watch::channel(false);
    let (alive, gone) = mpsc::channel(1);
    (
        Signal { draining, gone },
        Watch {
            seen,
            _alive: alive,
        },
    )
}

/// Tells every [`Watch`] to finish, and knows when they have.
#[derive(Debug)]
pub struct Signal {
    draining: watch::Sender<bool>,
    gone: mpsc::Receiver<Infallible>,
}

impl Signal {
    /// Tells every watch to finish, and waits until all of them are dropped or `deadline` has passed. May be called
    /// again, for example with a shorter deadline.
    pub async fn drain(&mut self, deadline: Duration) -> Outcome {
        self.start();
        // Nothing is ever sent: the channel ends when the last watch is dropped.
        match time::timeout(deadline, self.gone.recv()).await {
            Ok(_) => Outcome::Finished,
            Err(_) => Outcome::DeadlinePassed,
        }
    }

    /// Tells every watch to finish, and does not wait.
    pub fn start(&self) {
        self.draining.send_replace(true);
    }
}

/// What came of a drain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Every task has finished.
    Finished,
    /// Some still ran when the deadline passed.
    DeadlinePassed,
}

/// Held by a task for as long as it has work to finish; dropping it says that the task is done.
#[derive(Clone, Debug)]
pub struct Watch {
    seen: watch::Receiver<bool>,
    _alive: mpsc::Sender<Infallible>,
}

impl Watch {
    /// Returns when the drain begins; at once when it has begun, or when the [`Signal`] is gone.
    pub async fn signaled(&self) {
        let mut seen = self.seen.clone();
        // An error means that nobody is left who could drain: the process stops, and so does the task.
        drop(seen.wait_for(|draining| *draining).await);
    }

    /// Whether the drain has begun.
    #[must_use]
    pub fn is_draining(&self) -> bool {
        *self.seen.borrow() || self.seen.has_changed().is_err()
    }
}

#[cfg(test)]
mod tests {
    use tokio::task::JoinSet;
    use tokio::time::Instant;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn drain_waits_for_the_slowest_task() {
        let (mut signal, watch) = channel();
        let mut tasks = JoinSet::new();
        for seconds in [1, 5, 3] {
            let watch = watch.clone();
            tasks.spawn(async move {
                watch.signaled().await;
                time::sleep(Duration::from_secs(seconds)).await;
                drop(watch);
            });
        }
        drop(watch);

        let start = Instant::now();
        assert_eq!(
            signal.drain(Duration::from_secs(30)).await,
            Outcome::Finished
        );
        assert_eq!(start.elapsed().as_secs(), 5);
        tasks.join_all().await;
    }

    #[tokio::test(start_paused = true)]
    async fn drain_gives_up_at_the_deadline() {
        let (mut signal, watch) = channel();
        let start = Instant::now();
        assert_eq!(
            signal.drain(Duration::from_secs(30)).await,
            Outcome::DeadlinePassed
        );
        assert_eq!(start.elapsed().as_secs(), 30);
        drop(watch);
        assert_eq!(signal.drain(Duration::ZERO).await, Outcome::Finished);
    }

    #[tokio::test(start_paused = true)]
    async fn a_watch_cloned_after_the_signal_sees_it() {
        let (signal, watch) = channel();
        assert!(!watch.is_draining());
        signal.start();
        let late = watch.clone();
        late.signaled().await;
        assert!(late.is_draining());
    }

    #[tokio::test(start_paused = true)]
    async fn a_lost_signal_counts_as_a_drain() {
        let (signal, watch) = channel();
        drop(signal);
        watch.signaled().await;
        assert!(watch.is_draining());
    }
}
