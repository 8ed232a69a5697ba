//! Keeps a flood of the same event from becoming a flood of log lines.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Lets one line through per second, and counts the others.
#[derive(Debug, Default)]
pub struct Throttle {
    quiet_until_ns: AtomicU64,
    left_out: AtomicU64,
}

impl Throttle {
    /// Whether a line may be written at `now_ns` (monotonic): if so, how many were left out before it.
    pub fn admit(&self, now_ns: u64) -> Option<u64> {
        let quiet_until = self.quiet_until_ns.load(Ordering::Relaxed);
        let next = now_ns.saturating_add(PERIOD_NS);
        let is_mine = now_ns >= quiet_until
            && self
                .quiet_until_ns
                .compare_exchange(quiet_until, next, Ordering::Relaxed, Ordering::Relaxed)
                .is_ok();
        if is_mine {
            return Some(self.left_out.swap(0, Ordering::Relaxed));
        }
        self.left_out.fetch_add(1, Ordering::Relaxed);
        None
    }
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "a second in nanoseconds fits"
)]
const PERIOD_NS: u64 = Duration::from_secs(1).as_nanos() as u64;

#[cfg(test)]
mod tests {
    use super::{PERIOD_NS, Throttle};

    #[test]
    fn one_line_a_second_says_how_many_were_left_out() {
        let throttle = Throttle::default();
        assert_eq!(throttle.admit(5), Some(0));
        assert_eq!(throttle.admit(6), None);
        assert_eq!(throttle.admit(PERIOD_NS + 4), None);
        assert_eq!(throttle.admit(PERIOD_NS + 5), Some(2));
        assert_eq!(throttle.admit(PERIOD_NS + 6), None);
    }
}
