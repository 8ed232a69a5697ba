//! The answer that an HTTP/1 connection is at: there is one at a time, and hyper reads and polls nothing beside it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// How long a client that has closed its sending side is served on while no byte moves. One that is gone has closed it
/// too, and waits for nothing; one that only has said all gets what comes soon.
const GRACE: Duration = Duration::from_millis(if cfg!(test) { 1_500 } else { 10_000 });

/// What is known of the answer that is waited for, or under way.
#[derive(Debug, Default)]
pub(crate) struct Answer {
    /// Only the end of the connection is its end (HTTP/1.0), and it has not ended.
    is_open_ended: AtomicBool,
    times: Mutex<Times>,
}

#[derive(Debug, Default)]
struct Times {
    /// When it must have ended.
    due: Option<Instant>,
    /// Since when the client is known to have closed its sending side.
    finished: Option<Instant>,
}

impl Answer {
    /// Its end is told by nothing but that of the connection.
    pub(crate) fn ends_with_connection(&self) {
        self.is_open_ended.store(true, Ordering::Relaxed);
    }

    /// It has come whole.
    pub(crate) fn has_ended(&self) {
        self.is_open_ended.store(false, Ordering::Relaxed);
    }

    /// Whether the client would take a part for the whole if the connection ended in good order now.
    pub(crate) fn is_cut_short(&self) -> bool {
        self.is_open_ended.load(Ordering::Relaxed)
    }

    /// When the answer must have ended, or that there is no such time any more.
    pub(crate) fn set_due(&self, due: Option<Instant>) {
        self.times().due = due;
    }

    /// Whether it should have ended so long ago. Whoever makes it ends it at that time, but nobody asks for more of it
    /// while the client does not read.
    pub(super) fn is_late_by(&self, time: Duration) -> bool {
        self.times().due.is_some_and(|due| due.elapsed() > time)
    }

    /// Whether the client must be gone. `has_finished`: it has closed its sending side; `moved`: when it last took or
    /// gave a byte.
    pub(super) fn is_abandoned(&self, has_finished: bool, moved: Instant) -> bool {
        let mut times = self.times();
        if !has_finished {
            times.finished = None;
            return false;
        }
        let finished = *times.finished.get_or_insert_with(Instant::now);
        finished.max(moved).elapsed() > GRACE
    }

    fn times(&self) -> MutexGuard<'_, Times> {
        self.times.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn who_has_closed_its_side_is_served_on_for_a_while_and_as_long_as_bytes_move() {
        let answer = Answer::default();
        let begin = Instant::now();
        let step = GRACE * 2 / 3;
        tokio::time::advance(GRACE * 2).await;
        assert!(!answer.is_abandoned(false, begin));
        // It may have been silent for long before.
        assert!(!answer.is_abandoned(true, begin));
        tokio::time::advance(step).await;
        assert!(!answer.is_abandoned(true, begin));
        let moved = Instant::now();
        tokio::time::advance(step).await;
        assert!(!answer.is_abandoned(true, moved));
        assert!(answer.is_abandoned(true, begin));
        tokio::time::advance(step).await;
        assert!(answer.is_abandoned(true, moved));
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_is_late_if_it_has_a_time_and_that_is_over() {
        let answer = Answer::default();
        let second = Duration::from_secs(1);
        assert!(!answer.is_late_by(Duration::ZERO));
        answer.set_due(Some(Instant::now() + second));
        tokio::time::advance(second * 2).await;
        assert!(!answer.is_late_by(second));
        tokio::time::advance(second).await;
        assert!(answer.is_late_by(second));
        answer.set_due(None);
        assert!(!answer.is_late_by(second));
    }
}
