//! Something that happens seldom, awaited beside something that happens all the time.
//!
//! A task that waits for several things is polled for all of them whenever one has happened. Where one of them happens with
//! every packet, and the others once in seconds or never, the others would cost more than it does.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};

use futures_util::task::AtomicWaker;

/// What has happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Either<O, S> {
    /// What happens often.
    Often(O),
    /// What happens seldom.
    Seldom(S),
}

/// Tells whether what happens seldom has asked to be polled.
#[derive(Debug)]
pub struct Bell {
    waker: Waker,
    ring: Arc<Ring>,
}

#[derive(Debug)]
struct Ring {
    has_rung: AtomicBool,
    task: AtomicWaker,
}

impl Wake for Ring {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.has_rung.store(true, Ordering::Release);
        self.task.wake();
    }
}

impl Default for Bell {
    fn default() -> Self {
        let ring = Arc::new(Ring {
            has_rung: AtomicBool::new(true),
            task: AtomicWaker::new(),
        });
        Self {
            waker: Waker::from(Arc::clone(&ring)),
            ring,
        }
    }
}

impl Bell {
    /// Waits for the first of both. `seldom` is polled at the beginning, and then only when it has woken the task.
    pub async fn first<O, S>(
        &self,
        mut often: Pin<&mut O>,
        mut seldom: Pin<&mut S>,
    ) -> Either<O::Output, S::Output>
    where
        O: Future,
        S: Future,
    {
        self.ring.has_rung.store(true, Ordering::Relaxed);
        poll_fn(|cx| {
            if let Poll::Ready(output) = often.as_mut().poll(cx) {
                return Poll::Ready(Either::Often(output));
            }
            self.poll(cx, seldom.as_mut()).map(Either::Seldom)
        })
        .await
    }

    fn poll<S: Future>(&self, cx: &Context<'_>, seldom: Pin<&mut S>) -> Poll<S::Output> {
        // Before the look, so that whoever rings after it wakes this task.
        self.ring.task.register(cx.waker());
        let has_rung = &self.ring.has_rung;
        if !has_rung.load(Ordering::Relaxed) || !has_rung.swap(false, Ordering::AcqRel) {
            return Poll::Pending;
        }
        seldom.poll(&mut Context::from_waker(&self.waker))
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::sync::atomic::AtomicUsize;
    use std::time::Duration;

    use tokio::sync::Notify;
    use tokio::task::yield_now;
    use tokio::time::sleep;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_happens_seldom_is_polled_when_it_happens() {
        let polls = AtomicUsize::new(0);
        let notify = Notify::new();
        let mut often = pin!(async {
            for _ in 0..100 {
                yield_now().await;
            }
            sleep(Duration::from_secs(1)).await;
            notify.notify_one();
            std::future::pending::<()>().await;
        });
        let mut seldom = pin!(async {
            let mut notified = pin!(notify.notified());
            poll_fn(|cx| {
                polls.fetch_add(1, Ordering::Relaxed);
                notified.as_mut().poll(cx)
            })
            .await;
        });
        let bell = Bell::default();
        let first = bell.first(often.as_mut(), seldom.as_mut()).await;
        assert_eq!(first, Either::Seldom(()));
        assert_eq!(polls.load(Ordering::Relaxed), 2);
        // And so it is when the bell is used again.
        let mut later = pin!(sleep(Duration::from_secs(1)));
        let first = bell.first(often.as_mut(), later.as_mut()).await;
        assert_eq!(first, Either::Seldom(()));
    }

    #[tokio::test]
    async fn what_happens_often_ends_it_too() {
        let bell = Bell::default();
        let mut often = pin!(yield_now());
        let mut seldom = pin!(std::future::pending::<()>());
        let first = bell.first(often.as_mut(), seldom.as_mut()).await;
        assert_eq!(first, Either::Often(()));
    }
}
