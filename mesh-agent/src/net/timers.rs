//! Timers for limits that are seldom reached: kept and used again while they are armed.
//!
//! To arm a timer and to take it back costs a few hundred nanoseconds, for each of many requests that have a minute for
//! their answer and take a millisecond. A timer that was armed for an earlier request goes off early, once: it is then
//! armed anew, for the request that has it by then.

use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};

use tokio::time::{Instant, Sleep, sleep_until};

/// Timers that are kept; further ones are dropped. Each may hold on to the memory of the task that had it last.
const KEPT: usize = 128;

/// The timers of one thread: the lock, which makes them `Sync`, is never contended.
#[derive(Debug, Default)]
pub struct Timers {
    armed: Mutex<Vec<Pin<Box<Sleep>>>>,
}

/// Tells when a deadline has passed.
#[derive(Debug)]
pub struct Timer {
    timers: Arc<Timers>,
    deadline: Instant,
    /// From the first time that it was awaited.
    sleep: Option<Pin<Box<Sleep>>>,
}

impl Timers {
    /// A timer for `deadline`. Costs nothing until it is polled.
    pub fn at(self: &Arc<Self>, deadline: Instant) -> Timer {
        Timer {
            timers: Arc::clone(self),
            deadline,
            sleep: None,
        }
    }

    fn armed(&self) -> MutexGuard<'_, Vec<Pin<Box<Sleep>>>> {
        self.armed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Timer {
    /// Another deadline from now on.
    pub const fn set(&mut self, deadline: Instant) {
        self.deadline = deadline;
    }

    /// Ready once the deadline has passed; until then the task is woken when it does.
    pub fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let deadline = self.deadline;
        let sleep = self.sleep.get_or_insert_with(|| {
            let kept = self.timers.armed().pop();
            kept.unwrap_or_else(|| Box::pin(sleep_until(deadline)))
        });
        if sleep.deadline() > deadline {
            sleep.as_mut().reset(deadline);
        }
        loop {
            ready!(sleep.as_mut().poll(cx));
            if sleep.deadline() >= deadline {
                return Poll::Ready(());
            }
            sleep.as_mut().reset(deadline);
        }
    }
}

impl Drop for Timer {
    fn drop(&mut self) {
        if let Some(sleep) = self.sleep.take() {
            let mut armed = self.timers.armed();
            if armed.len() < KEPT {
                armed.push(sleep);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::time::Duration;

    use tokio::time::timeout;

    use super::*;

    async fn wait(timer: &mut Timer) -> Duration {
        let begin = Instant::now();
        poll_fn(|cx| timer.poll(cx)).await;
        begin.elapsed()
    }

    #[tokio::test(start_paused = true)]
    async fn a_timer_is_right_whoever_had_it_before() {
        let timers = Arc::new(Timers::default());
        for seconds in [5, 60, 2, 3, 3] {
            let seconds = Duration::from_secs(seconds);
            let mut timer = timers.at(Instant::now() + seconds);
            let early = timeout(seconds / 2, poll_fn(|cx| timer.poll(cx))).await;
            assert!(early.is_err());
            drop(timer);
            let mut timer = timers.at(Instant::now() + seconds);
            assert_eq!(wait(&mut timer).await.as_secs(), seconds.as_secs());
            assert_eq!(wait(&mut timer).await, Duration::ZERO, "it stays so");
            drop(timer);
            assert_eq!(timers.armed().len(), 1, "there is only one");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_deadline_can_be_moved() {
        let timers = Arc::new(Timers::default());
        let mut timer = timers.at(Instant::now() + Duration::from_secs(1));
        assert_eq!(wait(&mut timer).await.as_secs(), 1);
        timer.set(Instant::now() + Duration::from_secs(2));
        assert_eq!(wait(&mut timer).await.as_secs(), 2);
    }
}
