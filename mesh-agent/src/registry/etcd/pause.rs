//! How long to wait before etcd is asked again: longer each time, and not the same for all nodes. Pure.

use std::time::Duration;

const FIRST: Duration = Duration::from_millis(200);
const LONGEST: Duration = Duration::from_secs(5);

/// The pause after `failures` failures in a row; `share`, 0 to 1, is picked at random: half of the pause is ("equal
/// jitter" of the AWS architecture blog, "Exponential Backoff And Jitter", 2015).
pub(super) fn pause(failures: u32, share: f64) -> Duration {
    let doubled = FIRST.saturating_mul(1_u32.checked_shl(failures.min(10)).unwrap_or(u32::MAX));
    let whole = doubled.min(LONGEST);
    whole / 2 + (whole / 2).mul_f64(share.clamp(0.0, 1.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_a_bound_and_differ() {
        assert_eq!(pause(0, 0.0), Duration::from_millis(100));
        assert_eq!(pause(0, 1.0), Duration::from_millis(200));
        assert_eq!(pause(3, 1.0), Duration::from_millis(1600));
        for failures in [5, 31, 32, u32::MAX] {
            assert_eq!(pause(failures, 1.0), LONGEST, "{failures}");
            assert_eq!(pause(failures, 0.0), LONGEST / 2);
        }
    }
}
