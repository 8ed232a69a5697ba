//! How long the agent is waited for once the command has ended: not for ever, and less when somebody asks to end.

use std::time::Duration;

use tokio::time::{self, Instant};

use super::child::Signals;

/// One deadline for all that is left to be asked of the agent.
#[derive(Debug)]
pub(super) struct Patience<'a> {
    signals: &'a mut Signals,
    until: Instant,
}

impl<'a> Patience<'a> {
    pub(super) fn new(signals: &'a mut Signals) -> Self {
        let until = Instant::now() + DEADLINE;
        Self { signals, until }
    }

    /// Waits for `work`; none where it takes too long. Each signal that asks to end leaves it a moment more, since the one
    /// that has ended the command may have been meant for all.
    pub(super) async fn wait<T>(&mut self, work: impl Future<Output = T>) -> Option<T> {
        tokio::pin!(work);
        loop {
            tokio::select! {
                biased;
                done = &mut work => return Some(done),
                () = time::sleep_until(self.until) => return None,
                _ = self.signals.asked_to_end() => self.until = self.until.min(Instant::now() + MOMENT),
            }
        }
    }
}

/// Longer than what the command leaves behind is waited for, and then an agent that restarts.
const DEADLINE: Duration = Duration::from_secs(12);
/// Enough for an agent that answers.
const MOMENT: Duration = Duration::from_secs(2);
