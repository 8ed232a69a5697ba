//! Answers that may be as large as the registry: made one at a time, on a thread that may block, so that they hold up no
//! small answer and take no second processor from the traffic; and of the one only a share, however many ask. What
//! workloads ask for has a turn and a share of its own.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Mutex;
use tokio::task::{JoinError, spawn_blocking};
use tokio::time::{Instant, sleep, timeout};

use super::metrics::{Excess, Metrics};

/// Longest wait for the turn.
const PATIENCE: Duration = Duration::from_secs(30);
/// In the long run large answers get one part in so many of a processor: clients that watch the whole catalog ask anew
/// at every change of it.
const SHARE: u32 = 4;
/// Work that is done without a pause.
const BURST: Duration = Duration::from_secs(2);
/// Longest pause.
const MOST: Duration = Duration::from_secs(15);

/// Whose turn it is.
#[derive(Clone)]
pub(super) struct Large {
    /// Held by the one that waits for the turn; all others wait for that.
    line: Arc<Mutex<()>>,
    spent: Arc<Mutex<Spent>>,
    counts: Metrics,
}

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

/// What the answers of late have taken of the processor, less what was theirs since.
#[derive(Debug)]
struct Spent {
    debt: Duration,
    at: Instant,
}

impl Spent {
    /// How long to wait before the next answer is begun: not so long that it alone would try the patience.
    fn pause(&mut self, now: Instant) -> Duration {
        let earned = now.saturating_duration_since(self.at) / SHARE;
        self.debt = self.debt.saturating_sub(earned).min(BURST + MOST / SHARE);
        self.at = now;
        self.debt.saturating_sub(BURST) * SHARE
    }
}

impl Large {
    pub(super) fn new(counts: Metrics) -> Self {
        let (debt, at) = (Duration::ZERO, Instant::now());
        Self {
            line: Arc::default(),
            spent: Arc::new(Mutex::new(Spent { debt, at })),
            counts,
        }
    }

    /// The same turns for one of those who share them: however much it asks for, the others wait for one answer of it.
    pub(super) fn in_own_line(&self) -> Self {
        Self {
            line: Arc::default(),
            ..self.clone()
        }
    }

    /// Makes an answer when it is its turn, within [`PATIENCE`].
    pub(super) async fn make<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, LargeError> {
        let turn = async {
            let _first = self.line.lock().await;
            let mut spent = Arc::clone(&self.spent).lock_owned().await;
            let pause = spent.pause(Instant::now());
            if !pause.is_zero() {
                sleep(pause).await;
            }
            spent
        };
        let Ok(mut spent) = timeout(PATIENCE, turn).await else {
            self.counts.refuse(Excess::LargeAnswers);
            return Err(LargeError::Busy);
        };
        let made = spawn_blocking(move || {
            let begun = Instant::now();
            let made = work();
            // Also where nobody waits for it any more, the next one waits for its end.
            spent.debt += begun.elapsed();
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
        let large = Large::new(Metrics::default());
        let _turn = large.spent.lock().await;
        let refused = large.make(|| ()).await;
        assert!(matches!(refused, Err(LargeError::Busy)), "{refused:?}");
        assert_eq!(large.counts.refused("large-answers"), 1);
    }

    #[tokio::test]
    async fn what_an_answer_takes_is_remembered() {
        let large = Large::new(Metrics::default());
        let cost = Duration::from_millis(5);
        let (_silent, wait) = std::sync::mpsc::channel::<()>();
        let work = move || wait.recv_timeout(cost).is_err();
        assert!(large.make(work).await.unwrap());
        assert!(large.spent.lock().await.debt >= cost);
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_waits_for_what_those_before_it_took() {
        let large = Large::new(Metrics::default());
        large.spent.lock().await.debt = BURST + Duration::from_secs(1);
        let begun = Instant::now();
        large.make(|| ()).await.unwrap();
        assert!(begun.elapsed() >= Duration::from_secs(4));
    }

    #[tokio::test(start_paused = true)]
    async fn many_in_a_row_get_their_share_of_the_processor_and_no_more() {
        let begun = Instant::now();
        let (debt, at) = (Duration::ZERO, begun);
        let mut spent = Spent { debt, at };
        let cost = Duration::from_millis(500);
        for made in 1..=100 {
            sleep(spent.pause(Instant::now())).await;
            sleep(cost).await;
            spent.debt += cost;
            let used = cost * made;
            let allowed = begun.elapsed() / SHARE + BURST + cost;
            assert!(used <= allowed, "{made}: {used:?} of {allowed:?}");
        }
        let took = begun.elapsed();
        assert!(
            took <= (cost * 100) * SHARE,
            "no longer than that: {took:?}"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn the_first_do_not_wait() {
        let (debt, at) = (BURST, Instant::now());
        let mut spent = Spent { debt, at };
        assert_eq!(spent.pause(Instant::now()), Duration::ZERO);
        spent.debt += Duration::from_secs(1);
        assert_eq!(spent.pause(Instant::now()), Duration::from_secs(4));
        sleep(Duration::from_secs(4)).await;
        assert_eq!(spent.pause(Instant::now()), Duration::ZERO);
        spent.debt += Duration::from_mins(1);
        assert_eq!(spent.pause(Instant::now()), MOST);
        sleep(MOST).await;
        assert_eq!(spent.pause(Instant::now()), Duration::ZERO);
    }
}
