//! How much of its share a new endpoint gets.

use std::time::Duration;

/// The full share.
pub const FULL: u32 = 1 << 16;

/// The share of an endpoint grows linearly from a minimum to the full one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SlowStart {
    window_ns: u64,
    minimum: u32,
}

impl SlowStart {
    /// Grows over `window` from `min_percent` of the share on.
    #[must_use]
    pub fn new(window: Duration, min_percent: u32) -> Self {
        Self {
            window_ns: u64::try_from(window.as_nanos()).unwrap_or(u64::MAX),
            minimum: FULL / 100 * min_percent.clamp(1, 100),
        }
    }

    /// The share of an endpoint that came at `since_ns`, in parts of [`FULL`].
    #[must_use]
    pub fn share(self, since_ns: u64, now_ns: u64) -> u32 {
        let age = now_ns.saturating_sub(since_ns);
        if age >= self.window_ns {
            return FULL;
        }
        let grown = u128::from(FULL) * u128::from(age) / u128::from(self.window_ns.max(1));
        u32::try_from(grown).unwrap_or(FULL).max(self.minimum)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_grows_from_its_minimum_to_the_whole() {
        let slow = SlowStart::new(Duration::from_secs(10), 20);
        let at = |second: u64| slow.share(1_000, 1_000 + second * 1_000_000_000) * 100 / FULL;
        assert_eq!(
            [at(0), at(1), at(5), at(10), at(1_000)],
            [19, 19, 50, 100, 100]
        );
        assert_eq!(slow.share(5_000, 1_000) * 100 / FULL, 19);
    }
}
