//! Latencies in steps of at most 6 %, counted by many threads.

use std::sync::atomic::{AtomicU32, Ordering};

/// Counts of latencies from 1 us to 137 s. What is shorter or longer counts as the shortest or longest.
#[derive(Debug)]
pub(super) struct Histogram {
    counts: Box<[AtomicU32]>,
}

impl Default for Histogram {
    fn default() -> Self {
        Self {
            counts: (0..STEPS * OCTAVES).map(|_| AtomicU32::new(0)).collect(),
        }
    }
}

impl Histogram {
    pub(super) fn record(&self, nanoseconds: u64) {
        if let Some(count) = self.counts.get(index(nanoseconds)) {
            count.fetch_add(1, Ordering::Relaxed);
        }
    }

    pub(super) fn count(&self) -> u64 {
        self.counts
            .iter()
            .map(|count| u64::from(count.load(Ordering::Relaxed)))
            .sum()
    }

    /// The middle of the step in which the latency lies that `quantile` of all do not exceed.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "counts are far below 2^53, and a share of them is no larger"
    )]
    pub(super) fn quantile(&self, quantile: f64) -> u64 {
        let rank = (self.count() as f64 * quantile) as u64;
        let mut seen = 0;
        for (index, count) in self.counts.iter().enumerate() {
            seen += u64::from(count.load(Ordering::Relaxed));
            if seen > rank {
                return middle(index);
            }
        }
        0
    }

    pub(super) fn clear(&self) {
        for count in &self.counts {
            count.store(0, Ordering::Relaxed);
        }
    }
}

/// Steps in which a latency doubles.
const STEPS: usize = 16;
const OCTAVES: usize = 27;
/// Logarithm of the shortest latency.
const SHORTEST: u32 = 10;

fn index(nanoseconds: u64) -> usize {
    let value = nanoseconds.clamp(1 << SHORTEST, (1 << 37) - 1);
    let octave = value.ilog2() - SHORTEST;
    // Below the leading bit stand four bits, which number the steps.
    let step = (value >> (octave + SHORTEST - 4)) & 15;
    usize::try_from(octave).unwrap_or(0) * STEPS + usize::try_from(step).unwrap_or(0)
}

fn middle(index: usize) -> u64 {
    let step = u64::try_from(index % STEPS).unwrap_or(0);
    let shift = u32::try_from(index / STEPS).unwrap_or(0) + SHORTEST - 5;
    (33 + 2 * step) << shift
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_is_at_most_six_percent_wide() {
        let values = std::iter::successors(Some(1024_u64), |it| Some(it + it / 11));
        for value in values.take_while(|it| *it < 1 << 37) {
            let middle = middle(index(value));
            assert!(
                middle.abs_diff(value) * 100 <= value * 4,
                "{value} {middle}"
            );
        }
        assert_eq!(index(0), 0);
        assert_eq!(index(u64::MAX), STEPS * OCTAVES - 1);
    }

    #[test]
    fn quantiles_are_of_what_was_counted() {
        let histogram = Histogram::default();
        for millis in 1..=100 {
            histogram.record(millis * 1_000_000);
        }
        let median = histogram.quantile(0.5);
        assert!(median.abs_diff(50_000_000) < 3_000_000, "{median}");
        assert!(histogram.quantile(0.0).abs_diff(1_000_000) < 60_000);
        histogram.clear();
        assert_eq!((histogram.count(), histogram.quantile(0.5)), (0, 0));
    }
}
