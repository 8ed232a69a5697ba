//! The patience with a body: one timer at most, made when the body first keeps its reader waiting.

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::time::{Instant, Sleep, sleep};

/// Tells when a body has been silent for too long: after `patience` at the earliest, twice as much at the latest. Costs
/// nothing where the body is there when it is wanted.
#[derive(Debug)]
pub(crate) struct Silence {
    patience: Option<Duration>,
    timer: Option<Pin<Box<Sleep>>>,
    has_moved: bool,
}

impl Silence {
    /// Nothing has been awaited yet.
    pub(crate) const fn new(patience: Duration) -> Self {
        Self {
            patience: Some(patience),
            timer: None,
            has_moved: false,
        }
    }

    /// Others watch over this body.
    pub(crate) const fn allowed() -> Self {
        Self {
            patience: None,
            timer: None,
            has_moved: false,
        }
    }

    /// A part of the body has come.
    pub(crate) const fn broken(&mut self) {
        self.has_moved = true;
    }

    /// No part is there. Ready if that has lasted for too long.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(patience) = self.patience else {
            return Poll::Pending;
        };
        loop {
            let timer = self.timer.get_or_insert_with(|| Box::pin(sleep(patience)));
            ready!(timer.as_mut().poll(cx));
            if !std::mem::take(&mut self.has_moved) {
                return Poll::Ready(());
            }
            // A timer is not moved with each part: that would cost more than the part.
            timer.as_mut().reset(Instant::now() + patience);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::time::Duration;

    use tokio::time::{Instant, advance, timeout};

    use super::Silence;

    #[tokio::test(start_paused = true)]
    async fn silence_ends_what_nobody_breaks() {
        let begin = Instant::now();
        let mut silence = Silence::new(Duration::from_secs(10));
        poll_fn(|cx| silence.poll(cx)).await;
        assert_eq!(begin.elapsed().as_secs(), 10);
    }

    #[tokio::test(start_paused = true)]
    async fn each_part_buys_time() {
        let mut silence = Silence::new(Duration::from_secs(10));
        for _ in 0..30 {
            let wait = timeout(Duration::from_secs(1), poll_fn(|cx| silence.poll(cx)));
            assert!(wait.await.is_err());
            silence.broken();
        }
        advance(Duration::from_secs(1)).await;
        let begin = Instant::now();
        poll_fn(|cx| silence.poll(cx)).await;
        assert!(begin.elapsed() < Duration::from_secs(20));
    }
}
