//! A histogram without a lock: each thread counts in a shard of its own, and a scrape adds the shards up.
//!
//! The one of the Prometheus crate takes a mutex for each observation, which the request path must not.

use std::cell::Cell;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use prometheus_client::encoding::{EncodeMetric, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::{MetricType, TypedMetric};

/// Buckets for times in seconds: half a millisecond to ten seconds.
pub const SECONDS: &[f64] = &[
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
];

/// Buckets for times in milliseconds, as Istio's dashboards expect them.
pub const MILLISECONDS: &[f64] = &[
    0.5, 1.0, 5.0, 10.0, 25.0, 50.0, 100.0, 250.0, 500.0, 1000.0, 2500.0, 5000.0, 10_000.0,
    30_000.0, 60_000.0,
];

/// Buckets for sizes in bytes: a hundred bytes to a gigabyte.
pub const BYTES: &[f64] = &[1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9];

/// Counts observations in buckets. Clones share the counts.
#[derive(Clone)]
pub struct Histogram(Arc<Inner>);

struct Inner {
    /// Upper bounds, inclusive, ascending.
    bounds: &'static [f64],
    shards: [Shard; SHARDS],
}

/// What one thread counts. A cache line (or two, as processors fetch them in pairs) of its own.
#[repr(align(128))]
struct Shard {
    /// One per bound, and one for what is above all of them.
    buckets: Box<[AtomicU64]>,
    /// Bits of an `f64`.
    sum: AtomicU64,
}

impl Histogram {
    /// An empty histogram with these upper bounds, which must ascend.
    #[must_use]
    pub fn new(bounds: &'static [f64]) -> Self {
        debug_assert!(bounds.is_sorted(), "bounds of a histogram ascend");
        Self(Arc::new(Inner {
            bounds,
            shards: std::array::from_fn(|_| Shard {
                buckets: (0..=bounds.len()).map(|_| AtomicU64::new(0)).collect(),
                sum: AtomicU64::new(0),
            }),
        }))
    }

    /// Counts one value.
    pub fn observe(&self, value: f64) {
        let inner = &*self.0;
        let bucket = inner.bounds.partition_point(|bound| *bound < value);
        let Some(shard) = inner.shards.get(shard_of_this_thread()) else {
            return;
        };
        if let Some(count) = shard.buckets.get(bucket) {
            count.fetch_add(1, Ordering::Relaxed);
        }
        // A loop, because more threads than shards may exist; hardly ever a second turn.
        shard
            .sum
            .update(Ordering::Relaxed, Ordering::Relaxed, |bits| {
                (f64::from_bits(bits) + value).to_bits()
            });
    }

    /// Number of values seen.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.totals().iter().map(|(_, count)| count).sum()
    }

    /// Sum of the values seen.
    #[must_use]
    pub fn sum(&self) -> f64 {
        let shards = self.0.shards.iter();
        shards
            .map(|shard| f64::from_bits(shard.sum.load(Ordering::Relaxed)))
            .sum()
    }

    /// Count per bucket, not cumulated; the last bound stands for infinity.
    fn totals(&self) -> Vec<(f64, u64)> {
        let bounds = self.0.bounds.iter().copied().chain([f64::INFINITY]);
        bounds
            .enumerate()
            .map(|(bucket, bound)| {
                let shards = self.0.shards.iter();
                let counts = shards.filter_map(|shard| shard.buckets.get(bucket));
                (
                    bound,
                    counts.map(|count| count.load(Ordering::Relaxed)).sum(),
                )
            })
            .collect()
    }
}

impl fmt::Debug for Histogram {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Histogram")
            .field("sum", &self.sum())
            .field("buckets", &self.totals())
            .finish()
    }
}

impl TypedMetric for Histogram {
    const TYPE: MetricType = MetricType::Histogram;
}

impl EncodeMetric for Histogram {
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> fmt::Result {
        let totals = self.totals();
        // From the same reading as the buckets, so that the last bucket and the count agree.
        let count = totals.iter().map(|(_, count)| count).sum();
        encoder.encode_histogram::<NoLabelSet>(self.sum(), count, &totals, None)
    }

    fn metric_type(&self) -> MetricType {
        Self::TYPE
    }
}

/// Threads are given shards in turn, when they first observe something.
fn shard_of_this_thread() -> usize {
    thread_local! {
        static SHARD: Cell<Option<usize>> = const { Cell::new(None) };
    }
    static NEXT: AtomicUsize = AtomicUsize::new(0);

    SHARD.with(|shard| {
        shard.get().unwrap_or_else(|| {
            let next = NEXT.fetch_add(1, Ordering::Relaxed) % SHARDS;
            shard.set(Some(next));
            next
        })
    })
}

/// Enough that the workers of most nodes do not share; each costs a few hundred bytes per series.
const SHARDS: usize = 8;

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    #[test]
    fn bounds_are_inclusive() {
        let histogram = Histogram::new(&[1.0, 2.0]);
        for value in [0.0, 1.0, 1.5, 2.0, 2.1] {
            histogram.observe(value);
        }
        assert_eq!(histogram.totals(), [(1.0, 2), (2.0, 2), (f64::INFINITY, 1)]);
    }

    #[test]
    fn nothing_is_lost_between_more_threads_than_shards() {
        let histogram = Histogram::new(SECONDS);
        thread::scope(|scope| {
            for _ in 0..2 * SHARDS {
                scope.spawn(|| (0..1000).for_each(|_| histogram.observe(0.25)));
            }
        });
        let wanted = 2 * SHARDS as u64 * 1000;
        assert_eq!(histogram.count(), wanted);
        let sum = f64::from(u32::try_from(wanted).expect("small")) * 0.25;
        assert!((histogram.sum() - sum).abs() < f64::EPSILON);
    }
}
